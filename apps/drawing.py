"""Strokes -> pictures like the training data: 28 x 28, "L", white ink on black (PIL and numpy, no torch).

A drawing is a list of strokes, a stroke a list of (x, y): integers 0 -> 1000 on a square canvas, y downwards.
MNIST's recipe (LeCun et al. 1998, section III.A): the ink is scaled into 20 x 20 keeping its aspect, grey levels come
from anti-aliasing, and the picture is moved by whole pixels until the centre of mass is in the middle of 28 x 28.
"""

import base64
import binascii
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from pipelines.problems import Problem

CANVAS = 1000  # largest coordinate
SIZE, BOX = 28, 20  # pixels: picture, ink
MIDDLE = 14  # pixel index of the centre of mass
MAX_POINTS = 600  # of an encoded drawing: 2 x 2 bytes a point and a byte a stroke stay within MAX_TEXT
MAX_RAW = 5000  # points that `simplify` takes
MAX_TEXT = 4000  # characters
WIDTH, EDGE = 2.8, 1.4  # pixels: stroke width at half height, width of its grey ramp (fitted to MNIST)
SMALLEST = 60  # canvas units: a smaller drawing is a dot and is not blown up to a full digit
FAINT = 0.08  # of the range from black to white: less is no ink
ASSETS = Path(__file__).parent / "assets"

Strokes = list[list[tuple[int, int]]]


@cache
def examples() -> tuple[dict, ...]:
    """What we drew: id, label, fashion, strokes (encoded), and the pen's width or, of a garment, its parts' shades."""
    return tuple(json.loads((ASSETS / "digits.json").read_text(encoding="utf-8")))


def picture(example: dict) -> Image.Image:
    """One of `examples()` as the model sees it."""
    strokes = decode(example["strokes"])
    return render_garment(strokes, example["shades"]) if example["fashion"] else render(strokes, example["width"])


# --- text ---


def _bad() -> Problem:
    return Problem("bad_drawing", points=MAX_POINTS, size=CANVAS)


def check(strokes: Strokes, most: int = MAX_POINTS) -> Strokes:
    """Strokes from outside (JSON, links) -> the same with tuples, or Problem("bad_drawing")."""
    try:
        clean = [[(x, y) for x, y in stroke] for stroke in strokes]
    except (TypeError, ValueError):
        raise _bad() from None
    values = [value for stroke in clean for point in stroke for value in point]
    if not all(clean) or len(values) > 2 * most or not all(type(v) is int and 0 <= v <= CANVAS for v in values):
        raise _bad()
    return clean


def encode(strokes: Strokes) -> str:
    """Strokes -> base64url without padding.

    Bytes: per stroke its number of points, then the step from the last point to each (the first from the corner 0, 0)
    as zigzag varints, so that most points of a curve take two bytes.
    """
    data, last = bytearray(), (0, 0)
    for stroke in check(strokes):
        _put(data, len(stroke))
        for point in stroke:
            for step in (point[0] - last[0], point[1] - last[1]):
                _put(data, 2 * step if step >= 0 else -2 * step - 1)
            last = point
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> Strokes:
    """The inverse of `encode`; any text that `encode` does not write is Problem("bad_drawing")."""
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise _bad()
    try:
        data = iter(base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True))
        strokes, x, y = [], 0, 0
        while (count := _take(data, end=0)) > 0:
            stroke = []
            for _ in range(count):
                x, y = x + _unzigzag(_take(data)), y + _unzigzag(_take(data))
                stroke.append((x, y))
            strokes.append(stroke)
    except (UnicodeEncodeError, binascii.Error, EOFError):
        raise _bad() from None
    if encode(strokes) != text:  # one drawing, one text: no overlong numbers, nothing after the end
        raise _bad()
    return strokes


def _put(data: bytearray, number: int) -> None:
    while number >= 128:
        data.append(number % 128 + 128)
        number //= 128
    data.append(number)


def _take(data, end: int | None = None) -> int:
    """Next varint of the bytes; `end` is what the end of the bytes means, an error when not given."""
    number, shift = 0, 1
    while (byte := next(data, None)) is not None:
        number += byte % 128 * shift
        if byte < 128:
            return number
        shift *= 128
    if end is None or shift > 1:
        raise EOFError
    return end


def _unzigzag(number: int) -> int:
    return -(number + 1) // 2 if number % 2 else number // 2


def simplify(strokes: Strokes, tolerance: float = 4.0) -> Strokes:
    """Drop the points that lie within `tolerance` canvas units (4: a tenth of a pixel) of what remains: Ramer 1972,
    Douglas & Peucker 1973. Of a wild scribble only the MAX_POINTS that matter most are kept.
    """
    strokes = [np.array(stroke) for stroke in check(strokes, MAX_RAW)]
    weights = [_weights(stroke, tolerance) for stroke in strokes]
    ranked = np.sort(np.concatenate([np.zeros(MAX_POINTS + 1), *weights]))
    least = max(tolerance, ranked[-MAX_POINTS - 1])
    return [
        [(int(x), int(y)) for x, y in stroke[weight > least]] for stroke, weight in zip(strokes, weights, strict=True)
    ]


def _weights(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Per point the tolerance up to which it is needed; 0 for those not needed at `tolerance`."""
    weights = np.zeros(len(points))
    weights[0] = np.inf
    if np.ptp(points, axis=0).any():  # otherwise a dot
        weights[-1] = np.inf
    todo = [(0, len(points) - 1, np.inf)]
    while todo:
        first, last, limit = todo.pop()
        if last - first < 2:
            continue
        x, y = points[first + 1 : last].T
        distance = _distance(x, y, points[first], points[last])
        middle = first + 1 + int(distance.argmax())
        # A point is never needed longer than the one that split its stretch off.
        weights[middle] = limit = min(limit, distance[middle - first - 1])
        if limit > tolerance:
            todo += [(first, middle, limit), (middle, last, limit)]
    return weights


def _distance(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the places (x, y) to the segment a-b; a may equal b."""
    ab = b - a
    t = np.clip(((x - a[0]) * ab[0] + (y - a[1]) * ab[1]) / max(ab @ ab, 1e-9), 0, 1)
    return np.hypot(x - a[0] - t * ab[0], y - a[1] - t * ab[1])


# --- drawing ---


def render(strokes: Strokes, width: float = WIDTH) -> Image.Image:
    """Strokes -> a digit as in MNIST; `width` of the pen in pixels, 1.5 -> 5.

    Raises Problem: "empty_drawing", "bad_drawing".
    """
    strokes = [np.array(stroke, float) for stroke in check(strokes)]
    if not strokes:
        raise Problem("empty_drawing")
    corner, extent = _bounds(strokes)
    scale = (BOX - width - EDGE) / max(*extent, SMALLEST)
    y, x = np.mgrid[:BOX, :BOX]
    distance = np.full((BOX, BOX), np.inf)
    for stroke in strokes:
        stroke = (stroke - corner - extent / 2) * scale + (BOX - 1) / 2
        for a, b in zip(stroke, stroke[1:] if len(stroke) > 1 else stroke, strict=False):
            distance = np.minimum(distance, _distance(x, y, a, b))
    # The exact distance to the pen's path gives round caps and even edges without supersampling.
    ramp = np.clip(0.5 + (width / 2 - distance) / EDGE, 0, 1)
    return _centre(ramp * ramp * (3 - 2 * ramp))


def lines(text: str, side: int, width: float) -> Image.Image:
    """ "s:..." -> its lines as they stand on the square, white on black, "L", side x side; width in canvas units.

    Raises Problem: "empty_drawing", "bad_drawing".
    """
    if not text:
        raise Problem("empty_drawing")
    if not isinstance(text, str) or not text.startswith("s:"):
        raise _bad()
    fine = 4  # subpixels
    scale, pen = side * fine / CANVAS, width * side * fine / CANVAS
    image = Image.new("L", (side * fine, side * fine))
    _draw(image, decode(text[2:]), scale, pen, 255)
    if not image.getbbox():
        raise Problem("empty_drawing")
    return image.resize((side, side), Image.Resampling.BOX)


def painted(text: str, paper: Image.Image, pen: float, rubber: float) -> Image.Image:
    """White lines and black ones on a square picture in the order of the text: "s:..." and "e:..." (the rubber), joined
    by commas; "" is none. -> RGB, its size; widths in canvas units, edges hard. Raises Problem: "bad_drawing".
    """
    if not isinstance(text, str) or len(text) > 2 * MAX_TEXT:
        raise _bad()
    image, scale = paper.convert("RGB"), paper.width / CANVAS
    for part in filter(None, text.split(",")):
        if part[:2] not in ("s:", "e:"):
            raise _bad()
        width, fill = (pen, "white") if part.startswith("s") else (rubber, "black")
        _draw(image, decode(part[2:]), scale, max(1, round(width * scale)), fill)
    return image


def _draw(image: Image.Image, strokes: Strokes, scale: float, pen: float, fill: int | str) -> None:
    """Canvas units times `scale` are pixels; the pen's width is in pixels."""
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(x * scale, y * scale) for x, y in stroke]
        draw.line(points, fill=fill, width=round(pen), joint="curve")
        for x, y in points if pen > 1 or len(points) == 1 else ():  # round ends; a line of one pixel has none
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=fill)


def _bounds(strokes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Upper left corner and extent of all points."""
    points = np.concatenate(strokes)
    return points.min(0), np.ptp(points, axis=0)


def _centre(ink: np.ndarray) -> Image.Image:
    """Ink 0 -> 1 (at most BOX x BOX) -> "L" 28 x 28, centre of mass in the middle, all ink inside."""
    height, width = ink.shape
    across = np.average(np.arange(width), weights=ink.sum(0))
    down = np.average(np.arange(height), weights=ink.sum(1))
    left = int(np.clip(round(MIDDLE - across), 0, SIZE - width))
    top = int(np.clip(round(MIDDLE - down), 0, SIZE - height))
    out = np.zeros((SIZE, SIZE), np.uint8)
    out[top : top + height, left : left + width] = np.round(255 * ink)
    return Image.fromarray(out)


def render_garment(outlines: Strokes, shades: list[int]) -> Image.Image:
    """Closed outlines, each filled with its shade (0 -> 255, later ones on top) -> a garment as in Fashion-MNIST."""
    outlines = [np.array(outline, float) for outline in check(outlines)]
    fine = 16  # subpixels
    corner, extent = _bounds(outlines)
    scale = (SIZE * fine - 1) / max(extent)
    image = Image.new("L", (SIZE * fine, SIZE * fine))
    draw = ImageDraw.Draw(image)
    for outline, shade in zip(outlines, shades, strict=True):
        points = (outline - corner - extent / 2) * scale + (SIZE * fine - 1) / 2
        draw.polygon([tuple(point) for point in points], fill=shade)
    # Cloth is rounded: darker towards its edges, which the sharpening of Zalando's thumbnails then lights up again.
    body = image.point(lambda grey: 255 * (grey > 0)).filter(ImageFilter.GaussianBlur(2.5 * fine))
    shaded = np.asarray(image) * (0.7 + 0.3 * np.asarray(body) / 255)
    small = Image.fromarray(shaded.round().astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BOX)
    return small.filter(ImageFilter.UnsharpMask(1, 80, 0))


# --- uploads ---


def fit(image: Image.Image) -> Image.Image:
    """A photo or scan of one digit (RGB or "L") -> a picture as in MNIST; 28 x 28 white on black is taken as it is.

    Ink may be dark or light, paper unevenly lit; a thin pen is thickened. Raises Problem("blank_picture").
    """
    grey = image.convert("L")
    if _is_ready(grey):
        return grey
    grey.thumbnail((280, 280))
    ink = _crop(_ink(np.asarray(grey) / 255))
    mask = np.asarray(ink) > 127
    outline = sum(np.count_nonzero(np.diff(np.pad(mask, 1), axis=axis)) for axis in (0, 1))
    pen = 2 * mask.sum() / (np.pi / 4 * outline)  # a raster's outline is 4 / pi too long on average
    wanted = WIDTH / (BOX - WIDTH) * (max(ink.size) - pen)
    if pen < wanted / 2:  # thinner than nearly all of MNIST
        # A square grows slanted strokes 4 / pi times as much on average; a filter of one pixel crashes Pillow 12.
        grow = max(1, round(np.pi / 8 * (wanted - pen)))
        ink = ImageOps.expand(ink, grow).filter(ImageFilter.MaxFilter(2 * grow + 1))
    scale = BOX / max(ink.size)
    small = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.HAMMING)
    return _centre(np.asarray(small) / 255)


def fit_plain(image: Image.Image) -> Image.Image:
    """The middle square of a photo -> a picture as in Fashion-MNIST; 28 x 28 light on black is taken as it is.

    Raises Problem("blank_picture").
    """
    grey = image.convert("L")
    if _is_ready(grey):
        return grey
    grey = np.asarray(ImageOps.fit(grey, (SIZE, SIZE))) / 255
    ground = float(np.median(_frame(grey)))
    light = (grey - ground) / (1 - ground) if _light_on_dark(grey) else (ground - grey) / max(ground, FAINT)
    if light.max() < FAINT:
        raise Problem("blank_picture")
    return Image.fromarray((255 * np.clip(light, 0, 1)).round().astype(np.uint8))


def _is_ready(grey: Image.Image) -> bool:
    """Whether a picture could be one of the training data: its size, and something light on black."""
    pixels = np.asarray(grey) / 255
    return grey.size == (SIZE, SIZE) and np.median(_frame(pixels)) < FAINT and _light_on_dark(pixels)


def _frame(grey: np.ndarray) -> np.ndarray:
    """The outermost pixels."""
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _light_on_dark(grey: np.ndarray) -> bool:
    height, width = grey.shape
    centre = grey[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return float(centre.mean()) > float(np.median(_frame(grey)))


def _ink(grey: np.ndarray) -> np.ndarray:
    """Grey 0 -> 1 in any light and polarity -> ink 0 -> 1."""
    height, width = grey.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    curves = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    # A plane through the border by least absolute deviations does not mind a stroke that reaches it ...
    border = np.maximum(abs(x), abs(y)) > 0.95
    plane, values, weight = curves[border][:, :3], grey[border], np.ones(border.sum())
    for _ in range(12):
        tilt = np.linalg.lstsq(plane * weight[:, None], values * weight, rcond=None)[0]
        weight = np.maximum(abs(values - plane @ tilt), 0.01) ** -0.5
    rest, seen = grey - curves[..., :3] @ tilt, border
    # ... then a quadratic surface through all that is near it follows lamp and shadow, but no stroke.
    for _ in range(3):
        noise = 1.5 * float(np.median(abs(rest[seen])))
        seen = abs(rest) <= max(3 * noise, 0.02)
        rest = grey - curves @ np.linalg.lstsq(curves[seen], grey[seen], rcond=None)[0]
    rest *= np.sign((rest**3).sum())  # ink is what lies far off on one side
    if rest.max() < max(FAINT, 6 * noise):
        raise Problem("blank_picture")
    full = np.median(rest[rest > rest.max() / 2])
    return np.clip((rest - 3 * noise) / (full - 3 * noise), 0, 1)


def _crop(ink: np.ndarray) -> Image.Image:
    """Ink 0 -> 1 -> "L", cut to what is larger than a speck."""
    image = Image.fromarray((255 * ink).round().astype(np.uint8))
    near = image.filter(ImageFilter.BoxBlur(max(1, max(image.size) // 150)))
    image.paste(0, mask=near.point(lambda grey: 255 * (grey < 30)))
    if image.getextrema()[1] < 128:
        raise Problem("blank_picture")
    return image.crop(image.getbbox())
