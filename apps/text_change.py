"""The section of text to image that begins with a picture: to vary, to paint over, to go on beyond its edge, to change
by instruction, to enlarge."""

import functools
from collections.abc import Callable

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageFilter, ImageOps

from apps import drawing
from apps.i18n import say, t
from apps.links import Choice, Param, Text
from apps.links import Number as Range
from apps.photos import OWN, PHOTOS, chosen
from apps.sections import PRIVATE, Sections
from apps.style_pictures import shown
from apps.text_pictures import STEM, Asked, known, small
from apps.widgets import (
    Figure,
    PictureInput,
    Radio,
    Result,
    Sketch,
    Slider,
    before_after,
    data_url,
    endpoint,
    figures,
    jpeg,
    live,
    stops,
)
from pipelines import registry, upscaling_space
from pipelines.problems import choice
from pipelines.recipe import ENLARGE, Recipe, save
from pipelines.text_given import Given, Start
from pipelines.text_space import LONGEST_PROMPT, STRENGTH, prompt_text

DRAWN = "drawn"  # the picture that the tab draws with its settings
SOURCES = (DRAWN, *PHOTOS, OWN)
WAYS = ("vary", "paint", "beyond", "instruct", "enlarge")
SIDES = ("right", "left", "up", "down", "around")
FACTORS = tuple(map(str, upscaling_space.FACTORS))
BECOMES = "bear with crown"
MASK = "s:ApQFmAKoBQAC4wWgAaAGAALHBqAB8AYA"  # over the head of what stands in the middle
PEN = 110  # width of the brush, in canvas units


# ---- what is computed


def change(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, picture, source, way,
    to, strength, mask, side, factor, upscaler, lang, on_step=None,
) -> Result:  # fmt: skip
    """A picture, and what becomes of it: varied, painted over, extended, changed by instruction or enlarged."""
    asked = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    choice("source", source, SOURCES), choice("way", way, WAYS)
    to = prompt_text("to", to)
    image = asked.draw(load)[0] if source == DRAWN and not picture else chosen(picture, source)
    revision = registry.revision(known(asked.model))
    if way == "enlarge":
        before, after = enlarged(image, factor, upscaler, on_step)
        recipe = Recipe.make(STEM, asked.model, revision, "change", {}, asked.seed)
    else:
        what = given(load(asked.model).defaults["size"], image, way, strength, mask, side)
        report = on_step and (lambda i, n, preview: on_step(i, n, preview and [Figure(jpeg(small(preview)), "")]))
        after, recipe = asked._replace(prompt=to).draw(load, report, given=what)
        before = image if way == "beyond" else ImageOps.fit(image.convert("RGB"), after.size, Image.Resampling.LANCZOS)
    inputs = {"source": OWN if picture else source, "way": way, "to": to, "strength": strength, "mask": mask}
    inputs |= {"side": side, "factor": factor, "upscaler": upscaler}
    caption = say(f"text.change.after.{way}", lang)
    made = asked.made(after, recipe, caption, "change", **inputs)
    if way == "enlarge" and inputs["source"] != DRAWN:  # no words and no seed have a part in it
        recipe = Recipe.make(STEM, asked.model, revision, ENLARGE, {"section": "change", **inputs})
        made = made._replace(data=save(after, recipe), name=f"{inputs['source']}_{factor}x")
    return Result([shown(before, say("text.change.before", lang)), made])


def given(size: int, image: Image.Image, way: str, strength: float, mask: str, side: str) -> Given:
    """What a model whose pictures have `size` px is given for a way. Raises Problem."""
    if way == "instruct":
        return Given(edit=image)
    if way == "beyond":
        paper, place = wider(image, size, side)
        return Given(Start(paper, 1.0, place), size=paper.size)
    return Given(Start(image, strength, drawing.lines(mask, size, PEN) if way == "paint" else None))


def wider(image: Image.Image, size: int, side: str) -> tuple[Image.Image, Image.Image]:
    """-> the picture on paper that is half as large again towards `side`, and a mask, white where there was none.

    The paper has the picture's colours, blurred: what is drawn on it begins from there.
    """
    choice("side", side, SIDES)
    image, more = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS), size // 2
    left = {"left": more, "around": more // 2}.get(side, 0)
    top = {"up": more, "around": more // 2}.get(side, 0)
    width, height = size + more * (side not in ("up", "down")), size + more * (side not in ("left", "right"))
    paper = image.resize((width, height)).filter(ImageFilter.GaussianBlur(size // 8))
    mask = Image.new("L", (width, height), 255)
    paper.paste(image, (left, top))
    mask.paste(0, (left, top, left + size, top + size))
    return paper, mask


def enlarged(image: Image.Image, factor: str, upscaler: str, on_step=None) -> tuple[Image.Image, Image.Image]:
    """-> the picture with its pixels as squares, and enlarged."""
    from pipelines import upscaling  # torch

    after, _ = upscaling.upscale(image, int(choice("factor", factor, FACTORS)), upscaler, on_step=on_step)
    return image.resize(after.size, Image.Resampling.NEAREST), after


# ---- the section


def lay_out(load: Callable, sections: Sections, inputs: dict[str, Component]) -> list[Param]:
    """Fills the section change; inputs are those of the whole tab."""
    with sections["change"]:
        gr.Markdown(t("text.change.text"), elem_classes="intro controls")
        ways = [(t(f"text.change.way.{name}"), name) for name in WAYS]
        way = Radio(ways, value=WAYS[0], label=t("text.change.what"))
        to = gr.Textbox(BECOMES, label=t("text.change.to"), lines=1, max_lines=3)
        strength = Slider(*STRENGTH, 0.75, step=0.05, label=t("text.change.strength"))
        sides = [(t(f"text.change.side.{name}"), name) for name in SIDES]
        side = Radio(sides, value=SIDES[0], label=t("text.change.towards"), visible=False)
        with gr.Row(visible=False) as large:
            factors = [(f"{factor} x", factor) for factor in FACTORS]
            factor = Radio(factors, value=FACTORS[0], label=t("text.change.factor"))
            names = [(t(f"text.change.upscaler.{name}"), name) for name in upscaling_space.METHODS]
            upscaler = Radio(names, value=upscaling_space.LANCZOS, label=t("text.change.by"))
        with gr.Row():
            with gr.Column(visible=False, scale=2, min_width=240) as place:
                gr.HTML(t("text.change.mark"))
                mask = Sketch(MASK, veil=True, width=PEN, elem_id="mask")
            with gr.Column(scale=3, min_width=300):
                result = gr.HTML(min_height=320, elem_id="changed")
                with gr.Row():
                    line = gr.HTML(min_height=30)
                    stop = gr.Button(t("shell.stop"), elem_classes="stop", scale=0, min_width=90, size="sm")
        with gr.Row(elem_classes="controls"):
            names = [t(f"text.change.{name}" if name == DRAWN else f"style.sample.{name}") for name in SOURCES]
            source = Radio(list(zip(names, SOURCES, strict=True)), value=DRAWN, label=t("style.sample.label"))
            own = PictureInput(label=t("style.own"), height=200)

    asked = [*inputs.values(), own, source, way, to, strength, mask, side, factor, upscaler]

    def changed(
        model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, own, source, way, to,
        strength, mask, side, factor, upscaler, lang,
    ):  # fmt: skip
        own = own if source == OWN else None
        settings = model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, own
        work = functools.partial(
            change, load, *settings, source, way, to, strength, mask, side, factor, upscaler, lang=lang
        )
        before = None

        def finished(made):
            nonlocal before
            before = made.figures[0]
            if way == "beyond":
                return figures(made.figures, lang, columns=2)
            return before_after(*made.figures, lang)

        for result, told in live(lambda on_step: work(on_step=on_step), lang, finished, patience=0.5):
            yield result, told, gr.skip()
        if way == "paint":
            yield gr.skip(), gr.skip(), gr.update(background=data_url(before.preview))

    def fitting(way):
        """Only the controls of this way."""
        seen = way != "enlarge", way in ("vary", "paint"), way == "beyond", way == "enlarge", way == "paint"
        return [gr.update(visible=value) for value in seen]

    drawing_ = sections.draws("change", changed, [strength.release], asked, [result, line, mask])
    stops(stop, [drawing_], line)
    quiet = {**PRIVATE, "show_progress": "hidden"}
    way.change(fitting, way, [to, strength, side, large, place], **quiet)
    for event in (way.input, to.submit, side.input, factor.input, upscaler.input, mask.input, source.input):
        event(**sections.redraw())
    own.input(lambda: OWN, None, source, **quiet).then(**sections.redraw())
    endpoint(functools.partial(change, load), asked, "change", change.__doc__)

    return [
        Param("source", source, Choice(lambda: list(SOURCES)), DRAWN),
        Param("way", way, Choice(lambda: list(WAYS)), WAYS[0]),
        Param("to", to, Text(lambda text: None, LONGEST_PROMPT), BECOMES),
        Param("strength", strength, Range(*STRENGTH), 0.75),
        Param("mask", mask, Text(checked), MASK),
        Param("side", side, Choice(lambda: list(SIDES)), SIDES[0]),
        Param("factor", factor, Choice(lambda: list(FACTORS)), FACTORS[0]),
        Param("upscaler", upscaler, Choice(lambda: list(upscaling_space.METHODS)), upscaling_space.LANCZOS),
    ]


def checked(text: str) -> None:
    """Whether a link's strokes can be read; raises Problem."""
    drawing.lines(text, 8, PEN)
