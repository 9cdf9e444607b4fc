"""The VAE playground: a latent space one can walk through with a finger. `python apps/vae_playground.py` shows it alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import base64
import dataclasses
import functools
import inspect
import time
from collections.abc import Callable

import gradio as gr
import numpy as np
from PIL import Image
from skimage import data as photographs

from apps import drawing, inputs
from apps.i18n import say, t
from apps.inputs import REACH, code_of, picture_of, split
from apps.links import Choice, Param, Switch, Tab, Text
from apps.links import Number as Range
from apps.widgets import (
    COMPUTE,
    MAX_SEED,
    QUICK,
    Dropdown,
    Examples,
    Figure,
    Number,
    PictureInput,
    Plane,
    Radio,
    Result,
    Slider,
    about,
    decimal,
    endpoint,
    facts,
    figures,
    follow,
    handler,
    model_choices,
    png,
    run_row,
    seed_row,
    status,
)
from pipelines import latents, registry
from pipelines.problems import choice, number
from pipelines.recipe import Recipe, save

STEM = "vae_playground"
SECTIONS = ["plane", "compare", "reconstruct", "interpolate", "sample", "arithmetic", "photo", "how"]
VAE, AE = "vae-digits-2d", "ae-digits-2d"
PHOTOS = {"astronaut": photographs.astronaut, "cat": photographs.chelsea, "coffee": photographs.coffee}
DOTS = 3000  # of the test set's 10,000: more hide each other
# What the inputs show first: source, a, b, plus, minus, add.
DIGITS = {"input": "7-b", "a": "1-d", "b": "8-a", "plus": "7-b,7-c", "minus": "7-a,7-d", "add": "1-a,1-b"}
GARMENTS = {
    "input": "sneaker-a",
    "a": "trousers-a",
    "b": "dress-a",
    "plus": "coat-a",
    "minus": "pullover-a",
    "add": "tshirt-a",
}
HOME = (0.3, -1.2)  # the first picture: a node of the shipped grid, so that it needs no torch
SCALE = 12  # a 28 px picture is saved with 336 px


# ---- pictures -------------------------------------------------------------------------------------------------------


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
    recipe = dataclasses.replace(recipe, settings={"section": recipe.task, **recipe.settings, **inputs})
    return Figure(save(enlarged(picture), recipe), caption, name, pixels=True)


def shown(picture: Image.Image, caption: str) -> Figure:
    """A picture that the model did not make."""
    return Figure(png(enlarged(picture)), caption, pixels=True)


# ---- what the tab computes ------------------------------------------------------------------------------------------


def plane_value(model: str, x: float, y: float, across: str, up: str, grid: bool, lang: str, sigma=None) -> dict:
    """What `widgets.Plane` shows for a model: needs no torch."""
    space = latents.read(registry.get(model).path)
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
        value["background"] = "data:image/png;base64," + base64.b64encode(png(space.tiles)).decode()
    return value


def decoding(picture: Image.Image, recipe: Recipe, x: float, y: float, across: str, up: str, lang: str) -> Figure:
    caption = say("vae.plane.decoded", lang, x=decimal(x, lang), y=decimal(y, lang))
    return made(picture, caption, f"{recipe.model}_{x:.2f}_{y:.2f}", recipe, x=x, y=y, across=across, up=up)


def build(load: Callable) -> Tab:
    """The tab. `load(model_id)` gives the pipeline; nothing is loaded until something is to be computed."""

    def decode(model, x, y, across, up, lang) -> Result:
        """The picture at place (x, y) of the plane spanned by two axes (z1 ... or pc1, pc2) of the latent space."""
        x, y = number("x", x, -REACH, REACH), number("y", y, -REACH, REACH)
        pipeline = load(model)
        picture = pipeline.decode(pipeline.latents.point(x, y, across, up)[None])[0]
        return Result([decoding(picture, pipeline.recipe("plane"), x, y, across, up, lang)])

    def reconstruct(model, picture, noise, hole, seed, lang) -> Result:
        """A picture (7-b, s:strokes, u:pixels) spoilt by noise and a hole, encoded and decoded again."""
        pipeline, code = load(model), split(picture)[0]
        r = pipeline.reconstruct(picture_of(code), noise, hole, seed)
        spoilt = noise or hole
        items = [shown(r.seen, say("vae.reconstruct.spoilt" if spoilt else "vae.reconstruct.seen", lang))]
        items.append(
            made(r.picture, say("vae.reconstruct.rebuilt", lang), f"{model}_reconstruction", r.recipe, input=code)
        )
        items.append(shown(r.difference, say("vae.reconstruct.difference", lang)))
        spread = [] if r.std is None else [float(v) for v in r.std]
        return Result(items, {"error": r.error, "mean": [float(v) for v in r.mean], "sigma": spread})

    def interpolate(model, a, b, mode, frames, across, up, lang, on_step=None) -> Result:
        """The way from input a to input b in latent space: a strip and an animation."""
        pipeline = load(model)
        ends = [code_of(pipeline, split(code)[0], across, up) for code in (a, b)]
        pictures, recipe = pipeline.interpolate(*ends, frames, mode, on_step)
        inputs = {"a": split(a)[0], "b": split(b)[0], "across": across, "up": up}
        strip = made(
            sheet(pictures, min(len(pictures), 12)), say("vae.interpolate.strip", lang), "strip", recipe, **inputs
        )
        recipe = dataclasses.replace(recipe, settings={"section": recipe.task, **recipe.settings, **inputs})
        loop = [enlarged(picture, 8) for picture in pictures + pictures[-2:0:-1]]
        return Result([Figure(save(loop, recipe), say("vae.interpolate.loop", lang), "interpolation", True), strip])

    def sample(model, seed, count, temperature, lang) -> Result:
        """A sheet of pictures from the prior; picture i is that of seed + i."""
        pictures, recipe = load(model).sample(count, temperature, seed)
        grid = sheet(pictures, max(1, round(len(pictures) ** 0.5)))
        return Result(
            [made(grid, say("vae.sample.caption", lang, count=len(pictures)), f"{model}_samples_{seed}", recipe)]
        )

    def arithmetic(model, plus, minus, add, lang) -> Result:
        """Mean of codes A - mean of codes B + mean of codes C, decoded; beside it the same with pixels."""
        pipeline = load(model)
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
            made(
                total, say("vae.arithmetic.total", lang), f"{model}_arithmetic", recipe, plus=plus, minus=minus, add=add
            )
        )
        return Result([*items, shown(naive, say("vae.arithmetic.pixels", lang))])

    def photo(model, picture, sample, noise, bits, size, seed, lang, on_step=None) -> Result:
        """One's own photo (or astronaut, cat, coffee) through the autoencoder of a latent diffusion model."""
        image = picture or Image.fromarray(PHOTOS[choice("sample", sample, PHOTOS)]())
        r = load(model)(image, noise=noise, bits=bits, seed=seed, size=size, on_step=on_step)
        inputs = {"section": "photo", "photo_model": model, "sample": "" if picture else sample}
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

    # ---- layout

    with gr.Column():
        gr.Markdown(t("vae.intro"), elem_classes="intro")
        with gr.Row(elem_classes="controls"):
            with gr.Column(scale=2, min_width=280):
                model = Dropdown(label=t("vae.model"), value=VAE, choices=[VAE], filterable=False)
            with gr.Column(scale=3, min_width=280), gr.Accordion(t("shell.about_model"), open=False):
                card = gr.HTML()
        current = gr.Textbox("", visible=False, label="section")
        ids = {}
        with gr.Tabs(elem_classes="sections", selected="plane") as sections:
            for name in SECTIONS:
                with gr.Tab(t(f"vae.{name}.tab"), id=name) as ids[name]:
                    pass

        with ids["plane"]:
            with gr.Row():
                with gr.Column(scale=6, min_width=300):
                    plane = Plane(elem_id="plane")
                with gr.Column(scale=5, min_width=280):
                    picture = gr.HTML(min_height=300, elem_id="decoded")
                    with gr.Row(elem_classes="controls"):
                        x = Number(HOME[0], label=t("vae.plane.x"), min_width=90, step=0.1)
                        y = Number(HOME[1], label=t("vae.plane.y"), min_width=90, step=0.1)
                    grid = gr.Checkbox(False, label=t("vae.plane.grid"), elem_classes="controls")
                    with gr.Row(visible=False, elem_classes="controls") as axes:
                        across = Dropdown(label=t("vae.plane.across"), value="z1", choices=["z1", "z2"], min_width=100)
                        up = Dropdown(label=t("vae.plane.up"), value="z2", choices=["z1", "z2"], min_width=100)
                    with gr.Row(elem_classes="controls"):
                        as_a = gr.Button(t("vae.plane.as_a"), size="sm", min_width=120)
                        as_b = gr.Button(t("vae.plane.as_b"), size="sm", min_width=120)
            gr.Markdown(t("vae.plane.text"), elem_classes="intro controls")

        with ids["compare"]:
            gr.Markdown(t("vae.compare.text"), elem_classes="intro controls")
            with gr.Row():
                pairs = []
                for other in (VAE, AE):
                    with gr.Column(min_width=300):
                        gr.HTML(t(f"vae.compare.{'vae' if other == VAE else 'ae'}"), elem_classes="title")
                        pairs.append((other, Plane(), gr.HTML(min_height=120)))
            compare_seed, _ = seed_row()

        with ids["reconstruct"], gr.Row():
            with gr.Column(scale=3, min_width=280):
                gr.HTML(t("vae.reconstruct.input"), elem_classes="title")
                source = Examples(DIGITS["input"], elem_id="draw")
                with gr.Accordion(t("vae.reconstruct.upload"), open=False, elem_classes="controls"):
                    upload = PictureInput(show_label=False, height=220)
            with gr.Column(scale=5, min_width=300):
                rebuilt = gr.HTML(min_height=200, elem_id="rebuilt")
                with gr.Row(elem_classes="controls"):
                    noise = Slider(0, 1, 0, step=0.05, label=t("vae.reconstruct.noise"), min_width=140)
                    hole = Slider(0, 0.8, 0, step=0.05, label=t("vae.reconstruct.hole"), min_width=140)
                code_plane = Plane(fixed=True)
                code_facts = gr.HTML()

        with ids["interpolate"], gr.Row():
            with gr.Column(scale=3, min_width=280):
                gr.HTML(t("vae.interpolate.a"), elem_classes="title")
                a = Examples(DIGITS["a"])
                gr.HTML(t("vae.interpolate.b"), elem_classes="title")
                b = Examples(DIGITS["b"])
            with gr.Column(scale=5, min_width=300):
                with gr.Row(elem_classes="controls"):
                    mode = Radio(
                        [(t("vae.interpolate.lerp"), "lerp"), (t("vae.interpolate.slerp"), "slerp")], value="lerp",
                        label=t("vae.interpolate.mode"),
                    )  # fmt: skip
                    frames = Slider(4, 96, 24, step=1, label=t("vae.interpolate.frames"))
                walk, walk_stop = run_row(t("vae.interpolate.run"))
                walk_status = gr.HTML(min_height=30)
                way = gr.HTML(min_height=240)

        with ids["sample"], gr.Row():
            with gr.Column(scale=3, min_width=260, elem_classes="controls"):
                gr.Markdown(t("vae.sample.text"), elem_classes="intro")
                seed, _ = seed_row()
                temperature = Slider(0, 3, 1, step=0.05, label=t("vae.sample.temperature"))
                count = Slider(1, 64, 36, step=1, label=t("vae.sample.count"))
            with gr.Column(scale=5, min_width=300):
                samples = gr.HTML(min_height=420)

        with ids["arithmetic"]:
            gr.Markdown(t("vae.arithmetic.text"), elem_classes="intro controls")
            with gr.Row():
                terms = []
                for name in ("plus", "minus", "add"):
                    with gr.Column(min_width=220, elem_classes="controls"):
                        gr.HTML(t(f"vae.arithmetic.{name}"), elem_classes="title")
                        terms.append(Examples(DIGITS[name], pad=False, many=True))
            sum_ = gr.HTML(min_height=180)

        with ids["photo"], gr.Row():
            with gr.Column(scale=3, min_width=280, elem_classes="controls"):
                photo_model = Dropdown(label=t("vae.photo.model"), value="taesd", choices=["taesd"], filterable=False)
                photo_card = gr.HTML()
                own = PictureInput(label=t("vae.photo.own"), height=220)
                sample_photo = Radio(
                    [(t(f"vae.photo.{p}"), p) for p in PHOTOS], value="astronaut", label=t("vae.photo.sample")
                )
                latent_noise = Slider(0, 2, 0, step=0.05, label=t("vae.photo.noise"))
                bits = Dropdown(
                    [(t("vae.photo.exact"), "32"), *((str(n), str(n)) for n in range(8, 0, -1))], value="32", label=t("vae.photo.bits"),
                    filterable=False,
                )  # fmt: skip
                size = Slider(64, 1024, 512, step=64, label=t("vae.photo.size"))
            with gr.Column(scale=5, min_width=300):
                develop, develop_stop = run_row(t("vae.photo.run"))
                photo_status = gr.HTML(min_height=30)
                photo_out = gr.HTML(min_height=300)

        with ids["how"]:
            gr.Markdown(t("vae.how.text"), elem_classes="how", latex_delimiters=_LATEX)
            gr.HTML((Path(__file__).parent / "assets" / "vae.svg").read_text("utf-8"), elem_classes="how")
            gr.Markdown(t("vae.how.more"), elem_classes="how", latex_delimiters=_LATEX)

    # ---- events: a section draws itself when it is opened, when the model changes, and when its own inputs do

    def as_html(compute: Callable, **look) -> Callable:
        """A computation as the page shows it."""

        def draw(*args, lang):
            return figures(compute(*args, lang=lang).figures, lang, **look)

        parameters = [p for p in inspect.signature(compute).parameters.values() if p.name not in ("lang", "on_step")]
        lang = inspect.Parameter("lang", inspect.Parameter.KEYWORD_ONLY)
        draw.__signature__ = inspect.Signature([*parameters, lang])
        return draw

    def drag(place, model, across, up, lang):
        x, y = (place.get("x"), place.get("y")) if isinstance(place, dict) else (None, None)
        return as_html(decode, big=True)(model, x, y, across, up, lang=lang), x, y

    def whole_plane(model, x, y, across, up, grid, lang):
        shown = as_html(decode, big=True)(model, x, y, across, up, lang=lang)
        return plane_value(model, x, y, across, up, grid, lang), shown

    def compared(seed, lang):
        values = []
        for other, *_ in pairs:
            values += [plane_value(other, 0.0, 0.0, "z1", "z2", False, lang)]
            values += [as_html(sample, big=True)(other, seed, 16, 1.0, lang=lang)]
        return values

    def dragged_pair(other, place, lang):
        return drag(place, other, "z1", "z2", lang)[0]

    def rebuild(model, source, noise, hole, seed, across, up, lang):
        result = reconstruct(model, source, noise, hole, seed, lang)
        space, numbers = load(model).latents, result.numbers
        directions = np.stack([space.direction(across), space.direction(up)])
        x, y = (directions @ np.array(numbers["mean"], np.float32)).tolist()
        sigma = np.sqrt(directions**2 @ np.array(numbers["sigma"]) ** 2).tolist() if numbers["sigma"] else None
        told = [(say("vae.reconstruct.error", lang), decimal(numbers["error"], lang, 4))]
        for name in ("mean", "sigma"):
            few = ", ".join(decimal(v, lang) for v in numbers[name][:4])
            told.append((say(f"vae.reconstruct.{name}", lang), few + (" …" if len(numbers[name]) > 4 else "")))
        place = plane_value(model, x, y, across, up, False, lang, sigma)
        return figures(result.figures, lang), place, facts([pair for pair in told if pair[1]])

    def walked(model, a, b, mode, frames, across, up, lang):
        start, shown = time.monotonic(), 0.0
        for i, n, result in follow(lambda on_step: interpolate(model, a, b, mode, frames, across, up, lang, on_step)):
            if i is None:
                yield figures(result.figures, lang, big=True), status(lang)
            elif time.monotonic() - shown > 0.1:
                shown = time.monotonic()
                yield figures([shown(result, "")], lang, big=True), status(lang, i, n, start)

    def developed(photo_model, own, sample_photo, latent_noise, bits, size, seed, lang):
        start = time.monotonic()
        yield gr.skip(), status(lang, text=say("shell.loading", lang))
        settings = photo_model, own, sample_photo, latent_noise, bits, size, seed, lang
        for i, n, result in follow(lambda on_step: photo(*settings, on_step)):
            if i is None:
                names = {key: say(f"vae.photo.{key}", lang) for key in result.numbers}
                told = [
                    (names[key], decimal(value, lang, 1 if key == "psnr" else 0))
                    for key, value in result.numbers.items()
                ]
                first, channels = result.figures[:2], result.figures[2:]
                yield figures(first, lang, least=220) + facts(told) + figures(channels, lang, least=90), status(lang)
            else:
                yield gr.skip(), status(lang, i, n, start)

    def uploaded(picture, model, lang):
        fit = drawing.fit_plain if latents.read(registry.get(model).path).garments else drawing.fit
        return gr.skip() if picture is None else "u:" + inputs.pack(fit(picture))

    def switched(model, source, lang):
        space = latents.read(registry.get(model).path)
        across_up = space.axes[:2]
        axes_ = [Dropdown(choices=space.axes, value=axis) for axis in across_up]
        now = GARMENTS if space.garments else DIGITS
        shown = next((e for e in drawing.examples() if e["id"] == source), None)
        same = shown is not None and shown["fashion"] == space.garments
        values = [gr.skip()] * len(now) if same else list(now.values())
        return *axes_, gr.Row(visible=space.dimensions > 2), about(model, lang), *values

    def section(name, fn, triggers, inputs_, outputs):
        draw = handler(fn, name), [current, *inputs_], outputs
        gr.on(triggers, *draw, api_visibility="private", **QUICK)
        # What may have to load a model first says so where the picture will be.
        for event in (current.change, model_changed.then):
            event(*draw, api_visibility="private", **{**QUICK, "show_progress": "minimal"})

    model_changed = model.input(
        handler(switched),
        [model, source],
        [across, up, axes, card, source, a, b, *terms],
        api_visibility="private",
        **QUICK,
    )
    for name, tab in ids.items():
        tab.select(None, None, current, js=f"() => trugbild.section('{STEM}', '{name}', '{SECTIONS[0]}')")

    point = [model, x, y, across, up]
    plane.input(handler(drag), [plane, model, across, up], [picture, x, y], api_visibility="private", **QUICK)
    section(
        "plane", whole_plane, [x.input, y.input, grid.change, across.input, up.input], [*point, grid], [plane, picture]
    )
    for button, target in ((as_a, a), (as_b, b)):
        chosen = button.click(None, [x, y], target, js="(x, y) => `p:${x}:${y}`")
        chosen.then(
            lambda: gr.Tabs(selected="interpolate"), None, sections, api_visibility="private", show_progress="hidden"
        )
    section("compare", compared, [compare_seed.change], [compare_seed], [c for pair in pairs for c in pair[1:]])
    for other, pad, out in pairs:
        pad.input(handler(functools.partial(dragged_pair, other)), pad, out, api_visibility="private", **QUICK)
    upload.input(handler(uploaded), [upload, model], source, api_visibility="private", **COMPUTE)
    section(
        "reconstruct", rebuild, [source.change, noise.change, hole.change],
        [model, source, noise, hole, seed, across, up], [rebuilt, code_plane, code_facts],
    )  # fmt: skip
    way_inputs = [model, a, b, mode, frames, across, up]
    section("interpolate", as_html(interpolate, big=True), [a.change, b.change, mode.change], way_inputs, way)
    walking = walk.click(
        handler(walked), way_inputs, [way, walk_status], api_visibility="private", show_progress="hidden", **COMPUTE
    )
    walk_stop.click(None, cancels=[walking])
    section(
        "sample",
        as_html(sample, big=True),
        [seed.change, count.change, temperature.change],
        [model, seed, count, temperature],
        samples,
    )
    section("arithmetic", as_html(arithmetic), [term.change for term in terms], [model, *terms], sum_)
    photo_inputs = [photo_model, own, sample_photo, latent_noise, bits, size, seed]
    photo_model.input(handler(about), photo_model, photo_card, api_visibility="private", show_progress="hidden")
    developing = develop.click(
        handler(developed),
        photo_inputs,
        [photo_out, photo_status],
        api_visibility="private",
        show_progress="hidden",
        **COMPUTE,
    )
    develop_stop.click(None, cancels=[developing])

    endpoint(decode, point, "decode")
    endpoint(reconstruct, [model, source, noise, hole, seed], "reconstruct")
    endpoint(interpolate, way_inputs, "interpolate")
    endpoint(sample, [model, seed, count, temperature], "sample")
    endpoint(arithmetic, [model, *terms], "arithmetic")
    endpoint(photo, photo_inputs, "autoencode_photo")

    def welcome(values, lang):
        """What the tab shows before anything is computed, in the person's language."""
        space = latents.read(registry.get(values["model"]).path)
        place = [values[name] for name in ("x", "y", "across", "up")]
        tile = space.tile(*place[:2]) if place[2:] == ["z1", "z2"] else None
        chosen = registry.get(values["model"])
        recipe = Recipe.make(STEM, chosen.id, registry.revision(chosen), "plane", {})
        figure = [] if tile is None else [decoding(tile, recipe, *place, lang)]
        return [
            Dropdown(choices=model_choices(STEM, "latent", lang)),
            about(values["model"], lang),
            plane_value(values["model"], *place, values["grid"], lang),
            figures(figure, lang, big=True),
            gr.Dropdown(choices=space.axes),
            gr.Dropdown(choices=space.axes),
            gr.Row(visible=space.dimensions > 2),
            Dropdown(choices=model_choices(STEM, "photo", lang)),
            about(values["photo_model"], lang),
        ]

    axis = Choice(lambda: ["pc1", "pc2", *(f"z{i + 1}" for i in range(256))])
    picture_code, codes = Text(inputs.check), Text(inputs.check)
    params = [
        Param("model", model, Choice(lambda: [m.id for m in registry.models(STEM) if m.kind == "latent"]), VAE),
        Param("x", x, Range(-REACH, REACH), HOME[0]),
        Param("y", y, Range(-REACH, REACH), HOME[1]),
        Param("across", across, axis, "z1"),
        Param("up", up, axis, "z2"),
        Param("grid", grid, Switch(), False),
        Param("input", source, picture_code, DIGITS["input"]),
        Param("noise", noise, Range(0, 1), 0),
        Param("hole", hole, Range(0, 0.8), 0),
        Param("a", a, picture_code, DIGITS["a"]),
        Param("b", b, picture_code, DIGITS["b"]),
        Param("mode", mode, Choice(lambda: ["lerp", "slerp"]), "lerp"),
        Param("frames", frames, Range(2, 96, whole=True), 24),
        Param("seed", seed, Range(0, MAX_SEED, whole=True), 0),
        Param("temperature", temperature, Range(0, 3), 1),
        Param("count", count, Range(1, 64, whole=True), 36),
        *(Param(name, term, codes, DIGITS[name]) for name, term in zip(("plus", "minus", "add"), terms, strict=True)),
        Param("compare_seed", compare_seed, Range(0, MAX_SEED, whole=True), 0),
        Param(
            "photo_model",
            photo_model,
            Choice(lambda: [m.id for m in registry.models(STEM) if m.kind == "photo"]),
            "taesd",
        ),
        Param("sample", sample_photo, Choice(lambda: list(PHOTOS)), "astronaut"),
        Param("latent_noise", latent_noise, Range(0, 2), 0),
        Param("bits", bits, Choice(lambda: ["32", *map(str, range(8, 0, -1))]), "32"),
        Param("size", size, Range(64, 1024, whole=True), 512),
    ]
    welcomed = [model, card, plane, picture, across, up, axes, photo_model, photo_card]
    return Tab(STEM, params, sections, SECTIONS, current, welcome, welcomed)


_LATEX = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]


if __name__ == "__main__":
    from apps.main import main

    sys.exit(main([*sys.argv[1:], "--tabs", STEM]))
