"""What the VAE playground computes: pictures with their recipes, and numbers. `load(model_id)` gives the pipeline.

A code is the text of a small picture, see inputs.py; a place (x, y) lies on the plane of two latent axes.
"""

import base64
import dataclasses

import numpy as np
from PIL import Image

from apps.i18n import say
from apps.inputs import REACH, code_of, picture_of, split
from apps.photos import OWN, chosen
from apps.widgets import Figure, Result, data_url, decimal, png
from pipelines import latents, registry
from pipelines.problems import choice, number
from pipelines.recipe import Recipe, save

PHOTOS = ("astronaut", "cat", "coffee")
BITS = (32, *range(8, 0, -1))  # of a latent number; 32: not rounded
DOTS = 3000  # of the test set's 10,000: more hide each other
SCALE = 12  # a 28 px picture is saved with 336 px


def known(model: str, kind: str) -> registry.Model:
    """A model of the tab by its id; a stranger may not name folders of this machine."""
    choice("model", model, [entry.id for entry in registry.models("vae_playground") if entry.kind == kind])
    return registry.get(model)


def enlarged(picture: Image.Image, factor: int = SCALE) -> Image.Image:
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def sheet(pictures: list[Image.Image], columns: int, gap: int = 2) -> Image.Image:
    """Pictures of one size in rows, black between them."""
    side, rows = pictures[0].width + gap, -(-len(pictures) // columns)
    out = Image.new("L", (columns * side - gap, rows * side - gap))
    for i, picture in enumerate(pictures):
        out.paste(picture, (i % columns * side, i // columns * side))
    return out


def made(picture: Image.Image, caption: str, name: str, recipe: Recipe, **inputs) -> Figure:
    """A picture that can be saved: with a recipe, which names the inputs as the link does."""
    return Figure(save(enlarged(picture), named(recipe, **inputs)), caption, name, pixels=True)


def named(recipe: Recipe, **inputs) -> Recipe:
    """The recipe with the section and the inputs as the link has them."""
    return dataclasses.replace(recipe, settings={"section": recipe.task, **recipe.settings, **inputs})


def shown(picture: Image.Image, caption: str) -> Figure:
    """A picture that the model did not make."""
    return Figure(png(enlarged(picture)), caption, pixels=True)


# ---- what the tab computes ------------------------------------------------------------------------------------------


def plane_value(model: str, x: float, y: float, across: str, up: str, grid: bool, lang: str, sigma=None) -> dict:
    """What `widgets.Plane` shows for a model: needs no torch."""
    space = latents.read(known(model, "latent").path)
    radius = space.radius(across, up)
    chosen = np.random.default_rng(0).permutation(len(space.codes))[:DOTS]
    places = space.place(space.codes[chosen], across, up) / radius
    dots = np.zeros(len(places), [("xy", "<i2", 2), ("label", "u1")])
    dots["xy"], dots["label"] = np.clip(places, -1, 1) * 32767, space.labels[chosen]
    value = {"x": x, "y": y, "radius": radius, "label": say("vae.plane.label", lang), "sigma": sigma}
    value["dots"] = base64.b64encode(dots[np.abs(places).max(1) <= 1].tobytes()).decode()
    words = say("vae.garments", lang).split(", ") if space.garments else list("0123456789")
    value["classes"] = words
    if grid and space.grid:
        value |= {"grid": True, "tiles": space.grid}
        value["background"] = data_url(png(space.tiles))
    return value


def decoding(picture: Image.Image, recipe: Recipe, x: float, y: float, across: str, up: str, lang: str) -> Figure:
    caption = say("vae.plane.decoded", lang, x=decimal(x, lang), y=decimal(y, lang))
    return made(picture, caption, f"{recipe.model}_{x:.2f}_{y:.2f}", recipe, x=x, y=y, across=across, up=up)


def code_place(model: str, mean: list[float], sigma: list[float], across: str, up: str, lang: str) -> dict:
    """Where a code lies on the plane, with an ellipse of one standard deviation if there is one."""
    space = latents.read(known(model, "latent").path)
    directions = np.stack([space.direction(across), space.direction(up)])
    x, y = (directions @ np.array(mean, np.float32)).tolist()
    axes = np.sqrt(directions**2 @ np.array(sigma) ** 2).tolist() if sigma else None
    return plane_value(model, x, y, across, up, False, lang, axes)


def nearest(model: str, x: float, y: float, across: str, up: str, lang: str) -> list[Figure]:
    """The picture of the shipped grid that was decoded nearest to a place, if there is a grid: needs no torch."""
    entry = known(model, "latent")
    space = latents.read(entry.path)
    if not space.grid or (across, up) != ("z1", "z2"):
        return []
    tile, x, y = space.tile(number("x", x, -REACH, REACH), number("y", y, -REACH, REACH))
    recipe = Recipe.make(entry.tab, entry.id, registry.revision(entry), "plane", {})
    return [decoding(tile, recipe, round(x, 6), round(y, 6), across, up, lang)]


def decode(load, model, x, y, across, up, lang) -> Result:
    """The picture at place (x, y) of the plane spanned by two axes (z1 ... or pc1, pc2) of the latent space."""
    x, y = number("x", x, -REACH, REACH), number("y", y, -REACH, REACH)
    pipeline = load(known(model, "latent").id)
    picture = pipeline.decode(pipeline.latents.point(x, y, across, up)[None])[0]
    return Result([decoding(picture, pipeline.recipe("plane"), x, y, across, up, lang)])


def reconstruct(load, model, picture, noise, hole, seed, lang) -> Result:
    """A picture (7-b, s:strokes, u:pixels) spoilt by noise and a hole, encoded and decoded again."""
    pipeline, code = load(known(model, "latent").id), split(picture)[0]
    r = pipeline.reconstruct(picture_of(code), noise, hole, seed)
    spoilt = noise or hole
    items = [shown(r.seen, say("vae.reconstruct.spoilt" if spoilt else "vae.reconstruct.seen", lang))]
    items.append(made(r.picture, say("vae.reconstruct.rebuilt", lang), f"{model}_reconstruction", r.recipe, input=code))
    items.append(shown(r.difference, say("vae.reconstruct.difference", lang)))
    spread = [] if r.std is None else [float(v) for v in r.std]
    return Result(items, {"error": r.error, "mean": [float(v) for v in r.mean], "sigma": spread})


def interpolate(load, model, a, b, mode, frames, across, up, lang, on_step=None) -> Result:
    """The way from input a to input b in latent space: a strip and an animation."""
    pipeline = load(known(model, "latent").id)
    ends = [code_of(pipeline, split(code)[0], across, up) for code in (a, b)]
    pictures, recipe = pipeline.interpolate(*ends, frames, mode, on_step)
    inputs = {"a": split(a)[0], "b": split(b)[0], "across": across, "up": up}
    strip = made(sheet(pictures, min(len(pictures), 12)), say("vae.interpolate.strip", lang), "strip", recipe, **inputs)
    loop = [enlarged(picture, 8) for picture in pictures + pictures[-2:0:-1]]
    return Result(
        [Figure(save(loop, named(recipe, **inputs)), say("vae.interpolate.loop", lang), "interpolation", True), strip]
    )


def sample(load, model, seed, count, temperature, lang) -> Result:
    """A sheet of pictures from the prior; picture i is that of seed + i."""
    pictures, recipe = load(known(model, "latent").id).sample(count, temperature, seed)
    grid = sheet(pictures, max(1, round(len(pictures) ** 0.5)))
    return Result([made(grid, say("vae.sample.caption", lang, count=len(pictures)), f"{model}_samples_{seed}", recipe)])


def arithmetic(load, model, plus, minus, add, lang) -> Result:
    """Mean of codes A - mean of codes B + mean of codes C, decoded; beside it the same with pixels."""
    pipeline = load(known(model, "latent").id)
    groups = [[picture_of(code) for code in split(text)] for text in (plus, minus, add)]
    means = np.stack([pipeline.encode(group)[0].mean(0) for group in groups])
    sign = np.array([1, -1, 1], np.float32)
    codes = np.concatenate([means, (sign @ means)[None]])
    *parts, total = pipeline.decode(codes)
    pixels = [np.mean([np.asarray(picture, np.float32) for picture in group], axis=0) for group in groups]
    naive = Image.fromarray(np.clip(np.tensordot(sign, pixels, 1), 0, 255).round().astype(np.uint8))
    recipe = pipeline.recipe("arithmetic")
    items = [shown(part, say(f"vae.arithmetic.part_{i}", lang)) for i, part in enumerate(parts)]
    items.append(
        made(total, say("vae.arithmetic.total", lang), f"{model}_arithmetic", recipe, plus=plus, minus=minus, add=add)
    )
    return Result([*items, shown(naive, say("vae.arithmetic.pixels", lang))])


def photo(load, model, picture, sample, noise, bits, size, seed, lang, on_step=None) -> Result:
    """One's own photo (or astronaut, cat, coffee) through the autoencoder of a latent diffusion model."""
    image = chosen(picture, sample, PHOTOS)
    bits = int(bits) if bits in map(str, BITS) else bits  # gradio's API documents choices as text
    r = load(known(model, "photo").id)(image, noise=noise, bits=bits, seed=seed, size=size, on_step=on_step)
    inputs = {"section": "photo", "photo_model": model, "sample": OWN if picture else sample}
    recipe = dataclasses.replace(r.recipe, settings={**inputs, "latent_noise": noise, "bits": bits, "size": size})
    rebuilt = Figure(save(r.reconstruction, recipe), say("vae.photo.rebuilt", lang), f"{model}_photo")
    original = Figure(png(r.original), say("vae.photo.original", lang))
    channels = [
        Figure(png(c), f"{say('vae.photo.channel', lang)} {i + 1}", pixels=True)
        for i, c in enumerate(r.latent_channels)
    ]
    return Result(
        [original, rebuilt, *channels], {"psnr": r.psnr, "bytes": r.input_bytes, "latent_bytes": r.latent_bytes}
    )
