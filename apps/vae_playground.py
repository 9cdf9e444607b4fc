"""The VAE playground: a latent space to walk through with a finger. `python apps/vae_playground.py` shows it alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import functools
import random
from collections.abc import Callable

import gradio as gr

from apps import drawing, inputs
from apps import vae_pictures as compute
from apps.i18n import say, t
from apps.inputs import REACH
from apps.links import Choice, Param, Switch, Tab, Text
from apps.links import Number as Range
from apps.photos import OWN, chosen
from apps.sections import PRIVATE, Sections, loading_text
from apps.vae_pictures import BITS, PHOTOS, nearest, plane_value, sheet, shown
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
    Slider,
    about,
    before_after,
    decimal,
    endpoint,
    explained,
    facts,
    figures,
    handler,
    live,
    model_choices,
    png,
    run_row,
    seed_row,
    stops,
)
from pipelines import latents, registry
from pipelines.latents import MAX_FRAMES, MAX_HOLE, MAX_SAMPLES, MAX_TEMPERATURE, MODES
from pipelines.problems import Problem, choice

STEM = "vae_playground"
SECTIONS = ["plane", "compare", "reconstruct", "interpolate", "sample", "arithmetic", "photo", "how"]
VAE, AE = "vae-digits-2d", "ae-digits-2d"
# fmt: off
DIGITS = {"input": "7-a", "a": "6-b", "b": "7-a", "plus": "1-b", "minus": "1-a", "add": "7-d"}
GARMENTS = {"input": "sneaker-a", "a": "trousers-a", "b": "dress-a", "plus": "coat-a", "minus": "pullover-a", "add": "tshirt-a"}  # noqa: E501
# fmt: on
HOME = (0.9, -0.6)  # the first picture: a node of the shipped grid, so that it needs no torch


def build(load: Callable) -> Tab:
    """The tab. `load(model_id)` gives the pipeline; nothing is loaded until something is to be computed."""
    # ---- layout

    names = {kind: [m.id for m in registry.models(STEM) if m.kind == kind] for kind in ("latent", "photo")}

    with gr.Column():
        gr.Markdown(t("vae.intro"), elem_classes="intro")
        with gr.Row(elem_classes="controls"):
            with gr.Column(scale=2, min_width=280):
                model = Dropdown(label=t("vae.model"), value=VAE, choices=names["latent"], filterable=False)
            with gr.Column(scale=3, min_width=280), gr.Accordion(t("shell.about_model"), open=False):
                card = gr.HTML()
        sections = Sections(STEM, {name: t(f"vae.{name}.tab") for name in SECTIONS}, load)

        with sections["plane"]:
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

        with sections["compare"]:
            gr.Markdown(t("vae.compare.text"), elem_classes="intro controls")
            with gr.Row():
                pairs = []
                for other in (VAE, AE):
                    with gr.Column(min_width=300):
                        gr.HTML(t(f"vae.compare.{'vae' if other == VAE else 'ae'}"), elem_classes="title")
                        pairs.append((other, Plane(), gr.HTML(min_height=120)))
            compare_seed, _ = seed_row()

        with sections["reconstruct"], gr.Row():
            with gr.Column(scale=3, min_width=280):
                gr.HTML(t("vae.reconstruct.input"), elem_classes="title")
                source = Examples(DIGITS["input"], elem_id="draw")
                at_hand = any(inputs.test_set(kind) is not None for kind in inputs.DATASETS)
                from_test = gr.Button(t("vae.reconstruct.test_picture"), visible=at_hand, elem_classes="controls")
                with gr.Accordion(t("vae.reconstruct.upload"), open=False, elem_classes="controls"):
                    upload = PictureInput(show_label=False, height=220)
            with gr.Column(scale=5, min_width=300):
                rebuilt = gr.HTML(min_height=200, elem_id="rebuilt")
                with gr.Row(elem_classes="controls"):
                    noise = Slider(0, 1, 0, step=0.05, label=t("vae.reconstruct.noise"), min_width=140)
                    hole = Slider(0, MAX_HOLE, 0, step=0.05, label=t("vae.reconstruct.hole"), min_width=140)
                code_plane = Plane(fixed=True)
                code_facts = gr.HTML()

        with sections["interpolate"], gr.Row():
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
                    frames = Slider(2, MAX_FRAMES, 24, step=1, label=t("vae.interpolate.frames"), min_width=240)
                walk, walk_stop = run_row(t("vae.interpolate.run"))
                walk_status = gr.HTML(min_height=30)
                way = gr.HTML(min_height=240)

        with sections["sample"], gr.Row():
            with gr.Column(scale=3, min_width=260, elem_classes="controls"):
                gr.Markdown(t("vae.sample.text"), elem_classes="intro")
                seed, _ = seed_row()
                temperature = Slider(0, MAX_TEMPERATURE, 1, step=0.05, label=t("vae.sample.temperature"))
                count = Slider(1, MAX_SAMPLES, 36, step=1, label=t("vae.sample.count"))
            with gr.Column(scale=5, min_width=300):
                samples = gr.HTML(min_height=420)

        with sections["arithmetic"]:
            gr.Markdown(t("vae.arithmetic.text"), elem_classes="intro controls")
            with gr.Row():
                terms = []
                for name in ("plus", "minus", "add"):
                    with gr.Column(min_width=220, elem_classes="controls"):
                        gr.HTML(t(f"vae.arithmetic.{name}"), elem_classes="title")
                        terms.append(Examples(DIGITS[name], pad=False, many=True))
            total = gr.HTML(min_height=180)

        with sections["photo"], gr.Row():
            with gr.Column(scale=3, min_width=280, elem_classes="controls"):
                photo_model = Dropdown(
                    label=t("vae.photo.model"), value="taesd", choices=names["photo"], filterable=False
                )
                photo_card = gr.HTML()
                own = PictureInput(label=t("vae.photo.own"), height=220)
                sample_photo = Radio(
                    [(t(f"vae.photo.{p}"), p) for p in (*PHOTOS, OWN)], value="astronaut", label=t("vae.photo.sample")
                )
                latent_noise = Slider(0, 2, 0, step=0.05, label=t("vae.photo.noise"))
                bits = Dropdown(
                    [(t("vae.photo.exact"), BITS[0]), *((str(n), n) for n in BITS[1:])],
                    value=32,
                    label=t("vae.photo.bits"),
                    filterable=False,
                )
                size = Slider(64, 1024, 512, step=64, label=t("vae.photo.size"))
            with gr.Column(scale=5, min_width=300):
                develop, develop_stop = run_row(t("vae.photo.run"))
                photo_status = gr.HTML(min_height=30)
                photo_out = gr.HTML(min_height=300)

        with sections["how"]:
            explained(t("vae.how.text"), "vae.svg", t("vae.how.more"))

    # ---- what the page shows of a result

    def drawn(task: Callable, *args, lang: str, **look) -> str:
        return figures(task(load, *args, lang=lang).figures, lang, **look)

    def drag(place, model, across, up, lang):
        """While the model is still being loaded, the nearest picture of the shipped grid will do."""
        x, y = (place.get("x"), place.get("y")) if isinstance(place, dict) else (None, None)
        near = [] if sections.is_loaded(model) else nearest(model, x, y, across, up, lang)
        html = (
            figures(near, lang, big=True)
            if near
            else drawn(compute.decode, model, x, y, across, up, lang=lang, big=True)
        )
        return html, x, y

    def release(place, model, across, up, lang):
        return drawn(compute.decode, model, place["x"], place["y"], across, up, lang=lang, big=True)

    def decoded(model, x, y, across, up, lang):
        return drawn(compute.decode, model, x, y, across, up, lang=lang, big=True)

    def compared(seed, lang):
        values = []
        for model, *_ in pairs:
            values.append(drawn(compute.sample, model, seed, 16, 1.0, lang=lang, big=True))
            values.append(plane_value(model, 0.0, 0.0, "z1", "z2", False, lang))
        return values

    def dragged_pair(model, place, lang):
        return drag(place, model, "z1", "z2", lang)[0]

    def rebuild(model, source, noise, hole, seed, across, up, lang):
        result = compute.reconstruct(load, model, source, noise, hole, seed, lang)
        told = [(say("vae.reconstruct.error", lang), decimal(result.numbers["error"], lang, 4))]
        for name in ("mean", "sigma"):
            if values := result.numbers[name]:
                few = "; ".join(decimal(v, lang) for v in values[:4]) + (" …" if len(values) > 4 else "")
                told.append((say(f"vae.reconstruct.{name}", lang), few))
        place = compute.code_place(model, result.numbers["mean"], result.numbers["sigma"], across, up, lang)
        return figures(result.figures, lang), place, facts(told)

    def whole_way(model, a, b, mode, frames, across, up, lang):
        return drawn(compute.interpolate, model, a, b, mode, frames, across, up, lang=lang, big=True)

    def walk_along(model, a, b, mode, frames, across, up, lang):
        settings = load, model, a, b, mode, frames, across, up, lang
        yield from live(
            lambda on_step: compute.interpolate(*settings, on_step),
            lang,
            lambda made: figures(made.figures, lang, big=True),
            lambda so_far: figures([shown(sheet(so_far, 12), "")], lang, big=True),
        )

    def grid_of(model, seed, count, temperature, lang):
        return drawn(compute.sample, model, seed, count, temperature, lang=lang, big=True)

    def sum_of(model, plus, minus, add, lang):
        return drawn(compute.arithmetic, model, plus, minus, add, lang=lang)

    def before(own, sample, lang):
        """The photo as it is, until the autoencoder has seen it."""
        if sample == OWN and own is None:
            return gr.skip()
        photo = chosen(own if sample == OWN else None, sample, PHOTOS)
        photo.thumbnail((512, 512))
        return figures([Figure(png(photo), say("vae.photo.original", lang))], lang, big=True)

    def first_look(tick, own, sample, lang):
        """Whoever comes back to this section finds what was there."""
        return before(own, sample, lang) if tick == 1 else gr.skip()

    def photo_facts(made, lang):
        digits = {"psnr": 1, "bytes": 0, "latent_bytes": 0}
        told = [(say(f"vae.photo.{key}", lang), decimal(made.numbers[key], lang, digits[key])) for key in digits]
        before, after, *channels = made.figures
        return before_after(before, after, lang) + facts(told) + figures(channels, lang, least=90)

    def develop_photo(model, own, sample, noise, bits, size, seed, lang):
        settings = load, model, own if sample == OWN else None, sample, noise, bits, size, seed, lang
        yield from live(
            lambda on_step: compute.photo(*settings, on_step), lang, functools.partial(photo_facts, lang=lang)
        )

    def test_code(model, lang):
        kind = "f" if latents.read(registry.get(model).path).garments else "t"
        pictures = inputs.test_set(kind)
        if pictures is None:
            raise Problem("no_test_set")
        return f"{kind}:{random.randrange(len(pictures))}"

    def upload_code(picture, model, lang):
        fit = drawing.fit_plain if latents.read(registry.get(model).path).garments else drawing.fit
        return gr.skip() if picture is None else "u:" + inputs.pack(fit(picture))

    def switch_model(model, source, x, y, grid, lang):
        """The axes of the new model, and its kind of examples if it knows another kind."""
        space = latents.read(registry.get(model).path)
        example = next((e for e in drawing.examples() if e["id"] == source), None)
        same = example is not None and example["fashion"] == space.garments
        standard = GARMENTS if space.garments else DIGITS
        sources = [gr.skip()] * len(standard) if same else standard.values()
        axes = (Dropdown(choices=space.axes, value=axis) for axis in space.axes[:2])
        place = plane_value(model, x, y, *space.axes[:2], grid, lang)
        return *axes, gr.Row(visible=space.dimensions > 2), about(model, lang), place, *sources

    # ---- events: a section draws itself when it is opened, when the model changes, and when its own inputs do

    model_changed = model.input(
        handler(switch_model),
        [model, source, x, y, grid],
        [across, up, axes, card, plane, source, a, b, *terms],
        **PRIVATE,
        **QUICK,
    )

    def near_picture(model, x, y, across, up, lang):
        near = nearest(model, x, y, across, up, lang)
        return figures(near, lang, big=True) if near else loading_text(lang=lang)

    sections.listen()
    model_changed.then(**sections.redraw())

    point = [model, x, y, across, up]
    typed = [x.input, y.input, across.input, up.input]
    sections.draws("plane", decoded, typed, point, [picture], meanwhile=near_picture)
    gr.on([*typed, grid.change], handler(plane_value), [*point, grid], plane, **PRIVATE, **QUICK)
    # Not in the lane of the others: a finger does not wait until a model is loaded.
    finger = {"trigger_mode": "always_last", "show_progress": "hidden"}
    plane.input(handler(drag), [plane, model, across, up], [picture, x, y], **PRIVATE, **finger)
    plane.release(handler(release), [plane, model, across, up], picture, **PRIVATE, **finger)
    for button, target in ((as_a, a), (as_b, b)):
        taken = button.click(None, [x, y], target, js="(x, y) => `p:${x}:${y}`")
        taken.then(lambda: gr.Tabs(selected="interpolate"), None, sections.tabs, show_progress="hidden", **PRIVATE)

    drawn_pairs = [c for pair in pairs for c in pair[:0:-1]]
    sections.draws("compare", compared, [compare_seed.change], [compare_seed], drawn_pairs, model=VAE)
    for other, pad, out in pairs:
        pad.input(handler(functools.partial(dragged_pair, other)), pad, out, **PRIVATE, **finger)

    from_test.click(handler(test_code), model, source, show_progress="hidden", **PRIVATE).then(**sections.redraw())
    upload.input(handler(upload_code), [upload, model], source, **PRIVATE, **COMPUTE).then(**sections.redraw())
    rebuild_inputs = [model, source, noise, hole, seed, across, up]
    sections.draws(
        "reconstruct",
        rebuild,
        [source.input, noise.change, hole.change],
        rebuild_inputs,
        [rebuilt, code_plane, code_facts],
    )

    way_inputs = [model, a, b, mode, frames, across, up]
    sections.draws("interpolate", whole_way, [a.input, b.input, mode.change], way_inputs, [way])
    walking = walk.click(
        handler(walk_along), way_inputs, [way, walk_status], show_progress="hidden", **PRIVATE, **COMPUTE
    )
    stops(walk_stop, [walking], walk_status)

    sample_inputs = [model, seed, count, temperature]
    sections.draws("sample", grid_of, [seed.change, count.change, temperature.change], sample_inputs, [samples])
    sections.draws("arithmetic", sum_of, [term.input for term in terms], [model, *terms], [total])

    photo_inputs = [photo_model, own, sample_photo, latent_noise, bits, size, seed]
    opened = [sections.ticks["photo"], own, sample_photo]
    sections.ticks["photo"].change(handler(first_look), opened, photo_out, **PRIVATE, **QUICK)
    sample_photo.change(handler(before), opened[1:], photo_out, **PRIVATE, **QUICK)
    own.input(lambda: OWN, None, sample_photo, show_progress="hidden", **PRIVATE)
    photo_model.input(handler(about), photo_model, photo_card, show_progress="hidden", **PRIVATE)
    developing = develop.click(
        handler(develop_photo), photo_inputs, [photo_out, photo_status], show_progress="hidden", **PRIVATE, **COMPUTE
    )
    stops(develop_stop, [developing], photo_status)

    for task, task_inputs, api_name in (
        (compute.decode, point, "decode"),
        (compute.reconstruct, rebuild_inputs[:5], "reconstruct"),
        (compute.interpolate, way_inputs, "interpolate"),
        (compute.sample, sample_inputs, "sample"),
        (compute.arithmetic, [model, *terms], "arithmetic"),
        (compute.photo, photo_inputs, "autoencode_photo"),
    ):
        endpoint(functools.partial(task, load), task_inputs, api_name, task.__doc__)

    # ---- links

    def check(values):
        """The axes must be the model's, and between 8 bits and not rounded there is nothing."""
        choice("bits", str(values["bits"]), [str(bits) for bits in BITS])
        latents.read(registry.get(values["model"]).path).point(0, 0, values["across"], values["up"])

    def welcome(values, lang):
        """What the tab shows before anything is computed, in the person's language."""
        space = latents.read(registry.get(values["model"]).path)
        place = [values[name] for name in ("x", "y", "across", "up")]
        return [
            Dropdown(choices=model_choices(STEM, "latent", lang), value=values["model"]),
            about(values["model"], lang),
            plane_value(values["model"], *place, values["grid"], lang),
            figures(nearest(values["model"], *place, lang), lang, big=True),
            *(Dropdown(choices=space.axes, value=values[name]) for name in ("across", "up")),
            gr.Row(visible=space.dimensions > 2),
            Dropdown(choices=model_choices(STEM, "photo", lang), value=values["photo_model"]),
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
        Param("hole", hole, Range(0, MAX_HOLE), 0),
        Param("a", a, picture_code, DIGITS["a"]),
        Param("b", b, picture_code, DIGITS["b"]),
        Param("mode", mode, Choice(lambda: MODES), "lerp"),
        Param("frames", frames, Range(2, MAX_FRAMES, whole=True), 24),
        Param("seed", seed, Range(0, MAX_SEED, whole=True), 0),
        Param("temperature", temperature, Range(0, MAX_TEMPERATURE), 1),
        Param("count", count, Range(1, MAX_SAMPLES, whole=True), 36),
        *(Param(name, term, codes, DIGITS[name]) for name, term in zip(("plus", "minus", "add"), terms, strict=True)),
        Param("compare_seed", compare_seed, Range(0, MAX_SEED, whole=True), 0),
        Param(
            "photo_model",
            photo_model,
            Choice(lambda: [m.id for m in registry.models(STEM) if m.kind == "photo"]),
            "taesd",
        ),
        Param("sample", sample_photo, Choice(lambda: [*PHOTOS, OWN]), "astronaut"),
        Param("latent_noise", latent_noise, Range(0, 2), 0),
        Param("bits", bits, Range(1, 32, whole=True), 32),
        Param("size", size, Range(64, 1024, whole=True), 512),
    ]
    welcomed = [model, card, plane, picture, across, up, axes, photo_model, photo_card]
    return Tab(STEM, params, sections.tabs, sections.ticks, welcome, welcomed, check)


if __name__ == "__main__":
    from apps.main import main

    sys.exit(main([*sys.argv[1:], "--tabs", STEM]))
