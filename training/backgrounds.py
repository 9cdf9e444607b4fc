"""Draws the backgrounds of scenes from recipes: lists of operations in fractions of the picture, with random parts.

A recipe is data (`backgrounds[*].recipe` of the emoji pack's vocab.json), each operation a dict whose `op` names a
function here; lengths and places are fractions of the side, colours "#rrggbb", pairs [low, high] are drawn from.
"""

import numpy as np
from PIL import Image, ImageColor, ImageDraw

FINER = 2  # drawn so much larger, then averaged: smooth edges


def draw(recipe: list[dict], size: int, rng: np.random.Generator) -> Image.Image:
    """-> RGB picture, size x size"""
    canvas = Image.new("RGB", (size * FINER, size * FINER))
    for operation in recipe:
        arguments = {name: value for name, value in operation.items() if name != "op"}
        OPERATIONS[operation["op"]](canvas, rng, **arguments)
    return canvas.reduce(FINER)


def between(rng: np.random.Generator, value):
    """A number, or [low, high]: a whole number of whole ones (both included), else any."""
    if not isinstance(value, list):
        return value
    low, high = value
    return (
        int(rng.integers(low, high + 1)) if isinstance(low, int) and isinstance(high, int) else rng.uniform(low, high)
    )


def place(rng: np.random.Generator, region: list[float]) -> tuple[float, float]:
    x0, y0, x1, y1 = region
    return rng.uniform(x0, x1), rng.uniform(y0, y1)


def pick(rng: np.random.Generator, values: list):
    return values[rng.integers(len(values))]


def ellipse(canvas, rng, cx, cy, rx, ry, color, outline=False):
    side = canvas.width
    box = [(cx - rx) * side, (cy - ry) * side, (cx + rx) * side, (cy + ry) * side]
    how = {"outline": color, "width": round(0.008 * side)} if outline else {"fill": color}
    ImageDraw.Draw(canvas).ellipse(box, **how)


def rect(canvas, rng, x0, y0, x1, y1, color):
    side = canvas.width
    ImageDraw.Draw(canvas).rectangle([x0 * side, y0 * side, x1 * side - 1, y1 * side - 1], fill=color)


def polygon(canvas, points, color):
    side = canvas.width
    ImageDraw.Draw(canvas).polygon([(x * side, y * side) for x, y in points], fill=color)


def gradient(side: int, y0: float, y1: float, above: str, below: str) -> Image.Image:
    """RGB, side x side: `above` down to y0, `below` from y1 on, linear between."""
    part = np.clip(((np.arange(side) + 0.5) / side - y0) / max(y1 - y0, 1e-6), 0, 1)[:, None]
    colours = np.array(ImageColor.getrgb(above)) * (1 - part) + np.array(ImageColor.getrgb(below)) * part
    return Image.fromarray(np.repeat(colours.round().astype(np.uint8)[:, None], side, 1))


def vgrad(canvas, rng, y0, y1, **colours):
    """Goes on below y1 in its last colour, so that the wave drawn next leaves no gap."""
    side, top = canvas.width, round(y0 * canvas.width)
    canvas.paste(gradient(side, y0, y1, colours["from"], colours["to"]).crop((0, top, side, side)), (0, top))


def wave(canvas, rng, y, amp, wavelength, color, to):
    x = np.linspace(0, 1, 65)
    edge = y + amp * np.sin(2 * np.pi * (x / wavelength + rng.random()))
    mask = Image.new("L", canvas.size)
    polygon(mask, [(0, 1), *zip(x.tolist(), edge.tolist(), strict=True), (1, 1)], 255)
    canvas.paste(gradient(canvas.width, y, 1, color, to), (0, 0), mask)


def scatter(canvas, rng, shape, n, region, r, colors):
    for _ in range(between(rng, n)):
        (x, y), radius, color = place(rng, region), between(rng, r), pick(rng, colors)
        if shape == "flower":
            for angle in np.arange(5) * 2 * np.pi / 5:
                ellipse(canvas, rng, x + radius * np.cos(angle), y + radius * np.sin(angle), *[0.7 * radius] * 2, color)
        flat = 0.4 if shape == "crater" else 1
        centre = "#f5b800" if shape == "flower" else color
        radius *= 0.6 if shape == "flower" else 1
        ellipse(canvas, rng, x, y, radius, radius * flat, centre, outline=shape == "ring")


def clouds(canvas, rng, n, region, r, color):
    for _ in range(between(rng, n)):
        (x, y), radius = place(rng, region), between(rng, r)
        for dx, dy, part in ((-1.3, 0.25, 0.6), (-0.6, -0.1, 0.8), (0.1, -0.3, 1), (0.8, 0, 0.75), (1.4, 0.3, 0.5)):
            ellipse(canvas, rng, x + dx * radius, y + dy * radius, part * radius, 0.75 * part * radius, color)


def peaks(canvas, rng, n, y, h, color, snow):
    for i in rng.permutation(n):
        x, high = (i + rng.uniform(0.2, 0.8)) / n, between(rng, h)
        wide, top = high * rng.uniform(0.7, 0.9), y - high
        polygon(canvas, [(x - wide, y + 0.1), (x, top), (x + wide, y + 0.1)], color)
        cap = 0.25 * high * wide / (high + 0.1)  # half the width of the mountain a quarter of its height down
        zigzag = [(x + cap, top + 0.25 * high), (x + cap / 3, top + 0.19 * high), (x - cap / 4, top + 0.28 * high)]
        polygon(canvas, [(x, top), *zigzag, (x - cap, top + 0.25 * high)], snow)


def trees(canvas, rng, n, y, h, color, trunk):
    for i in rng.permutation(n):
        x, foot, high = (i + rng.uniform(0.1, 0.9)) / n, between(rng, y), between(rng, h)
        rect(canvas, rng, x - 0.012, foot - 0.2 * high, x + 0.012, foot + 0.15, trunk)
        for low, top, wide in ((0.12, 0.5, 0.2), (0.35, 0.75, 0.16), (0.6, 1, 0.11)):
            left, right = (x - wide * high, foot - low * high), (x + wide * high, foot - low * high)
            polygon(canvas, [left, (x, foot - top * high), right], color)


def skyline(canvas, rng, n, y, h, colors, window):
    for i in range(n):
        x0, x1, top = i / n, (i + 1) / n, y - between(rng, h)
        rect(canvas, rng, x0, top, x1, y, pick(rng, colors))
        rows = np.arange(top + 0.03, y - 0.05, 0.055)
        for wx, wy in ((wx, wy) for wx in (0.22, 0.6) for wy in rows if rng.random() < 0.55):
            rect(canvas, rng, x0 + wx / n, wy, x0 + (wx + 0.2) / n, wy + 0.026, window)


OPERATIONS = {
    "vgrad": vgrad, "rect": rect, "ellipse": ellipse, "wave": wave, "scatter": scatter, "clouds": clouds,
    "peaks": peaks, "trees": trees, "skyline": skyline,
}  # fmt: skip
