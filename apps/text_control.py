"""The section of text to image in which a ControlNet draws: a picture of lines decides where, words decide what."""

import functools
import html
from collections.abc import Callable
from typing import NamedTuple

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageOps

from apps import drawing
from apps.i18n import say, sentence, t
from apps.links import Choice, Param, Text
from apps.links import Number as Range
from apps.photos import OWN, PHOTOS, chosen
from apps.sections import PRIVATE, Sections, loading_text
from apps.text_inside_pictures import DRAWN, drawn
from apps.text_pictures import STEM, Asked, button, known, small
from apps.widgets import (
    Dropdown,
    Figure,
    PictureInput,
    Radio,
    Result,
    Sketch,
    Slider,
    before_after,
    data_url,
    endpoint,
    jpeg,
    live,
    png,
    short,
    status,
    stops,
)
from pipelines import conditions, hub, registry
from pipelines import recipe as recipes
from pipelines.problems import Problem, choice, number
from pipelines.text_given import Given, Guide
from pipelines.text_space import GUIDE_STRENGTH, LONGEST_PROMPT, WHEN, prompt_text

HAND = "hand"  # black paper
SOURCES = (HAND, DRAWN, *PHOTOS, OWN)
CONDITIONS = tuple(conditions.CONDITIONS)
EDGES = "canny"
LINES = (EDGES, "scribble", "drawing", "line_art_plain", "soft_edge", "line_art")  # what a net for edges follows, too
PEN, RUBBER = 10, 60  # widths in canvas units; the pen's is one pixel of 128, as edges are that nets learn from
# What is there at first.
OUTLINED = "a cat with a top hat on a meadow"
OUTLINE = (
    "s:H7oK5gZENDY-LEQeSg5MAE4NTB1KK0Q3PEE2SypTHlcUWQZZBVcTUx1LKUE1NzsrQx1JDUsATQ5LHkksQzY9RDMDiQGMARfdAvQBzAED3AWSARjd"
    "AvMBzAEP-QLkAgUqEyIZEh8AGRETIQUpBikUIRoRIAAaEhQiBioP_AIABSoTIhkSHwAZERMhBSkGKRQhGhEgABoSFCIGKgTBAqABgAEAP0A_PwlAQA"
    "UeERoZEh0GHQUZEREZBR0JwAIABR4RGhkSHQYdBRkRERkFHQTRAZcFFPMD_AIAFPQDFaoBChEYNRRTEmkKdQR1A2kJUxE1ExEXEhc2E1QRagl2A3YE"
    "agpUEjYUEhg"
)


# ---- what is computed


def net_for(model: str, condition: str) -> registry.Model:
    """The ControlNet that goes with a model and follows a condition; where several do, one made for exactly that.

    Raises Problem: unknown_choice, no_controlnet, not_followed.
    """
    entry = known(model)
    choice("condition", condition, CONDITIONS)
    if not (nets := registry.companions(entry, "controlnet")):
        bases = {net.base for net in registry.models(STEM, "controlnet")}
        guided = [one.id for one in registry.models(STEM) if one.fits in bases]
        raise Problem("no_controlnet", model=model, models=", ".join(guided))
    exact = [net for net in nets if condition in net.conditions]
    loose = [net for net in nets if not net.conditions or (condition in LINES and EDGES in net.conditions)]
    if not (fitting := exact + loose):
        raise Problem("not_followed", model=model, name=condition)
    # one of which no version is known comes last: it stays closed until somebody names it
    return min(fitting, key=lambda net: (problem := hub.status(net)) is not None and problem.code == "revision_unknown")


def paper(load, asked: Asked, picture: Image.Image | None, source: str, condition: str, side: int) -> Image.Image:
    """What is to be followed, before anybody paints on it: RGB, side x side; black where all is drawn by hand.

    Pictures of another shape lose their edges. Raises Problem: unknown_choice, own_photo, those of conditions.
    """
    if source == HAND and not picture:
        return Image.new("RGB", (side, side))
    image = picture
    if not image and source == DRAWN:
        image = drawn(load, asked)
    image, one = image or chosen(picture, source), conditions.get(condition)
    looked = max(side, conditions.SIDE) if one.needs_hub else side  # nets see little in a small picture
    seen = one(ImageOps.fit(image.convert("RGB"), (looked, looked), Image.Resampling.LANCZOS))
    return seen.resize((side, side), Image.Resampling.LANCZOS if one.smooth else Image.Resampling.NEAREST)


class Control(NamedTuple):
    """What is to be followed and how, as the link and a recipe have it."""

    guide_source: str
    condition: str
    guide_lines: str  # what is painted over it, see drawing.painted
    guide_prompt: str  # "": the tab's prompt
    guide_strength: float
    guide_begin: float
    guide_end: float

    @classmethod
    def of(cls, source, condition, lines, to, strength, begin, end) -> "Control":
        """Checked, as far as no picture and no net is needed. Raises Problem."""
        strength, times = number("guide_strength", strength, *GUIDE_STRENGTH), {"guide_begin": begin, "guide_end": end}
        begin, end = (number(name, value, *WHEN) for name, value in times.items())
        choice("guide_source", source, SOURCES), choice("condition", condition, CONDITIONS)
        return cls(source, condition, lines, prompt_text("guide_prompt", to), strength, begin, end)

    def painted(self, on: Image.Image) -> Image.Image:
        """Raises Problem: empty_drawing, bad_drawing."""
        image = drawing.painted(self.guide_lines, on, PEN, RUBBER)
        if not image.getbbox():
            raise Problem("empty_drawing")
        return image

    def draw(self, load, asked: Asked, on: Image.Image, lang: str, on_step=None) -> Result:
        """-> what was followed, what was drawn; `on` is the paper."""
        net, image = net_for(asked.model, self.condition), self.painted(on)
        mode = self.condition if len(net.conditions) > 1 else ""
        guide = Guide(net.id, image, self.guide_strength, self.guide_begin, self.guide_end, mode)
        one = asked._replace(prompt=self.guide_prompt.strip() or asked.prompt)
        report = on_step and (lambda i, n, preview: on_step(i, n, preview and [Figure(jpeg(small(preview)), "")]))
        picture, recipe = one.draw(load, report, given=Given(guide=guide))
        return self.shown(asked, image, picture, recipe, net, lang)

    def shown(self, asked: Asked, image: Image.Image, picture: Image.Image, recipe, net, lang: str) -> Result:
        made_with = {"guide": net.id, "guide_revision": registry.revision(net)}
        after = say("text.control.after", lang, seed=asked.seed)
        return Result(
            [
                Figure(png(image), say("text.control.before", lang)),
                asked.made(picture, recipe, after, "control", **self._asdict(), **made_with),
            ]
        )


def control(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, picture, guide_source,
    condition, guide_lines, guide_prompt, guide_strength, guide_begin, guide_end, lang, on_step=None,
) -> Result:  # fmt: skip
    """What a ControlNet is shown (lines drawn by hand, or a condition of a picture with lines over it), and what the
    model draws along it."""
    asked = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    source = OWN if picture else guide_source
    wanted = Control.of(source, condition, guide_lines, guide_prompt, guide_strength, guide_begin, guide_end)
    net_for(asked.model, condition)
    on = paper(load, asked, picture, source, condition, load(asked.model).defaults["size"])
    return wanted.draw(load, asked, on, lang, on_step)


def first(asked: Asked, wanted: Control, lang: str) -> Result | None:
    """The picture that lies beside the ControlNet, if this is what was asked for: needs no torch."""
    net = net_for(asked.model, wanted.condition)
    kept = recipes.first(net.path) if net.path and wanted.guide_source == HAND else None
    if not kept:
        return None
    picture, recipe = kept
    weights = {"guide": net.id, "guide_revision": registry.revision(net)}
    settings = {**asked.settings(), **wanted._asdict(), **weights}
    same = all(recipe.settings.get(name) == value for name, value in settings.items())
    if not same or (recipe.seed, recipe.revision) != (asked.seed, registry.revision(known(asked.model))):
        return None
    image = wanted.painted(Image.new("RGB", picture.size))
    return wanted.shown(asked, image, picture, recipe, net, lang)


def instead(lang: str) -> str:
    """Where a model has no ControlNet: one that has, as a button, and what it draws along the outline. HTML"""
    for net in registry.models(STEM, "controlnet"):
        if net.path and (kept := recipes.first(net.path)):
            lines = png(drawing.painted(OUTLINE, Image.new("RGB", kept[0].size), PEN, RUBBER))
            figures = (
                Figure(lines, say("text.control.before", lang)),
                Figure(png(kept[0]), say(f"models.{net.base}", lang)),
            )
            pick = html.escape(say("text.control.instead", lang, model=say(f"models.{net.base}", lang)))
            settings = {"model": net.base} | {name: known(net.base).defaults[name] for name in ("steps", "guidance")}
            return f'<div class="uses">{button("set", settings, pick)}</div>{before_after(*figures, lang)}'
    return ""


def refused(problem: Problem, lang: str) -> str:
    """Nothing is broken, something is missing: to be read for longer than a moment. HTML"""
    shown = f'<div class="warning">{html.escape(sentence(problem, lang))}</div>'
    return shown + (instead(lang) if problem.code == "no_controlnet" else "")


def condition_choices(model: str, lang: str) -> list[tuple[str, str]]:
    """As a picker has them; what cannot be followed or had here stays in the list and says why."""
    choices = []
    for name in CONDITIONS:
        label, why = say(f"text.control.condition.{name}", lang), ""
        try:
            net_for(model, name)
        except Problem:
            why = say("text.control.no_net", lang)
        if not why and (problem := conditions.get(name).status()):
            why = say(short(problem), lang)
        choices.append((f"{label} — {why}" if why else label, name))
    return choices


# ---- the section


def lay_out(load: Callable, sections: Sections, inputs: dict[str, Component]) -> list[Param]:
    """Fills the section control; inputs are those of the whole tab."""
    with sections["control"]:
        gr.Markdown(t("text.control.text"), elem_classes="intro controls")
        with gr.Row():
            with gr.Column(scale=2, min_width=240):
                lines = Sketch(OUTLINE, width=PEN, rubber=RUBBER, elem_id="outline")
            with gr.Column(scale=3, min_width=300):
                result = gr.HTML(min_height=320, elem_id="controlled")
                with gr.Row():
                    line = gr.HTML(min_height=30)
                    stop = gr.Button(t("shell.stop"), elem_classes="stop", scale=0, min_width=90, size="sm")
        to = gr.Textbox(
            OUTLINED, label=t("text.control.to"), placeholder=t("text.control.as_above"), lines=1, max_lines=3
        )
        with gr.Row():
            strength = Slider(*GUIDE_STRENGTH, 1, step=0.05, label=t("text.control.strength"))
            begin = Slider(*WHEN, 0, step=0.05, label=t("text.control.begin"))
            end = Slider(*WHEN, 1, step=0.05, label=t("text.control.end"))
        with gr.Column(elem_classes="controls"):
            names = [t(f"text.control.{name}" if name in (HAND, DRAWN) else f"style.sample.{name}") for name in SOURCES]
            source = Radio(list(zip(names, SOURCES, strict=True)), value=HAND, label=t("text.control.source"))
            with gr.Row():
                labels = [(t(f"text.control.condition.{name}"), name) for name in CONDITIONS]
                condition = Dropdown(labels, value=EDGES, label=t("text.control.shown"), filterable=False)
                own = PictureInput(label=t("style.own"), height=200)

    wanted = [source, condition, lines, to, strength, begin, end]
    asked = [*inputs.values(), own, *wanted]

    def controlled(
        model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, own, source, condition,
        lines, to, strength, begin, end, lang,
    ):  # fmt: skip
        one = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
        what = Control.of(source, condition, lines, to, strength, begin, end)
        yield gr.skip(), status(lang), gr.skip(), Dropdown(choices=condition_choices(model, lang))
        try:
            on = paper(load, one, own if source == OWN else None, source, condition, load(model).defaults["size"])
            yield gr.skip(), gr.skip(), gr.update(background="" if source == HAND else data_url(png(on))), gr.skip()
            known_already = first(one, what, lang)
            what.painted(on)
        except Problem as problem:
            yield refused(problem, lang), status(lang), *[gr.skip()] * 2
            return
        if known_already:
            yield before_after(*known_already.figures, lang), status(lang), gr.skip(), gr.skip()
            return
        work = functools.partial(what.draw, load, one, on, lang)
        show = lambda made: before_after(*made.figures, lang)  # noqa: E731
        for shown, told in live(lambda on_step: work(on_step=on_step), lang, show, patience=0.5):
            yield shown, told, gr.skip(), gr.skip()

    def meanwhile(*values, lang) -> str:
        """While the model is being loaded."""
        try:
            one, what = Asked.of(*values[: len(inputs)]), Control.of(*values[-len(wanted) :])
            known_already = first(one, what, lang)
        except Problem as problem:
            return refused(problem, lang)
        return before_after(*known_already.figures, lang) if known_already else loading_text(lang=lang)

    triggers = [strength.release, begin.release, end.release]
    drawing_ = sections.draws(
        "control", controlled, triggers, asked, [result, line, lines, condition], meanwhile=meanwhile
    )
    stops(stop, [drawing_], line)
    quiet = {**PRIVATE, "show_progress": "hidden"}
    for event in (condition.input, to.submit, lines.input):
        event(**sections.redraw())
    # What was painted belongs to the picture below it.
    source.input(lambda source: OUTLINE if source == HAND else "", source, lines, **quiet).then(**sections.redraw())
    own.input(lambda: (OWN, ""), None, [source, lines], **quiet).then(**sections.redraw())
    endpoint(functools.partial(control, load), asked, "control", control.__doc__)

    return [
        Param("guide_source", source, Choice(lambda: list(SOURCES)), HAND),
        Param("condition", condition, Choice(lambda: list(CONDITIONS)), EDGES),
        Param("guide_lines", lines, Text(checked), OUTLINE),
        Param("guide_prompt", to, Text(lambda text: None, LONGEST_PROMPT), OUTLINED),
        Param("guide_strength", strength, Range(*GUIDE_STRENGTH), 1),
        Param("guide_begin", begin, Range(*WHEN), 0),
        Param("guide_end", end, Range(*WHEN), 1),
    ]


def checked(text: str) -> None:
    """Whether a link's strokes can be read; raises Problem."""
    drawing.painted(text, Image.new("RGB", (8, 8)), PEN, RUBBER)
