"""The sections of text to image that look inside: every step, every word, and a picture on its way to noise."""

import functools
from collections.abc import Callable

import gradio as gr
from gradio.components import Component

from apps import text_inside_pictures as compute
from apps.i18n import say, t
from apps.links import Choice, Param
from apps.links import Number as Range
from apps.photos import OWN
from apps.sections import PRIVATE, Sections
from apps.text_inside_pictures import DRAWN, SHARES, SOURCES
from apps.text_pictures import Asked
from apps.widgets import PictureInput, Radio, Slider, decimal, endpoint, facts, figures, live
from pipelines import registry
from pipelines.problems import number
from pipelines.text_space import STEPS


class Film(gr.HTML):
    """Steps to scrub through, all of them on the page (`trugbild.film` in shell.js). Value: the step that is shown.

    What there is to show comes from events that answer `gr.update(film=..., below=...)`, see text_inside_pictures.
    """

    def __init__(self, value: int = 1, film: dict | None = None, below: list | None = None, **kwargs):
        super().__init__(
            value,
            html_template='<div class="film"><label><output></output><input type="range" min="0"></label>'
            '<div class="shots"></div><div class="sheet"></div><div class="shots"></div></div>',
            js_on_load="trugbild.film(element, props, trigger, watch)",
            apply_default_css=False,
            film=film or {},
            below=below or [],
            **kwargs,
        )

    def api_info(self) -> dict:
        return {"type": "integer"}

    def example_payload(self) -> int:
        return 5

    example_value = example_payload


def lay_out(load: Callable, sections: Sections, inputs: dict[str, Component]) -> list[Param]:
    """Fills the sections steps, words and noise; the first Param is the picture that is noised."""
    latex = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]

    with sections["steps"]:
        gr.Markdown(t("text.inside.steps.text"), elem_classes="intro controls")
        line = gr.HTML(min_height=30)
        step = Film(5, elem_id="film")
        gr.Markdown(t("text.inside.steps.equation"), elem_classes="how", latex_delimiters=latex)

    with sections["words"]:
        gr.Markdown(t("text.inside.words.text"), elem_classes="intro controls")
        read = gr.HTML(min_height=320, elem_id="read")

    with sections["noise"]:
        gr.Markdown(t("text.inside.noise.text"), elem_classes="intro controls")
        time = Slider(0, 1, 0.5, step=0.01, label=t("text.inside.noise.t"))
        result = gr.HTML(min_height=320, elem_id="noised")
        gr.Markdown(t("text.inside.noise.equation"), elem_classes="how", latex_delimiters=latex)
        with gr.Row(elem_classes="controls"):
            names = [t(f"text.inside.noise.{name}" if name == DRAWN else f"style.sample.{name}") for name in SOURCES]
            photo = Radio(list(zip(names, SOURCES, strict=True)), value=SOURCES[0], label=t("style.sample.label"))
            own = PictureInput(label=t("style.own"), height=200)

    asked = list(inputs.values())

    def all_steps(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, lang):
        one = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
        walk = None

        def walked(found):
            nonlocal walk
            walk = found
            return gr.update(film=compute.film(walk, lang), below=[])

        def guided(found):
            return gr.update(below=compute.below(walk, found, lang))

        for shown, told in live(lambda on_step: compute.Walk.of(load, one, on_step=on_step), lang, walked):
            yield told, shown
        for shown, told in live(lambda on_step: walk.guidance(walk.frames, on_step), lang, guided, patience=0.1):
            yield told, shown

    def all_words(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, lang):
        one = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
        made, tokens, found = compute.looked(load, one)
        shares = [
            (say(f"text.inside.words.to_{name}", lang), f"{decimal(100 * found.shares[name], lang, 1)} %")
            for name in SHARES
            if found.shares[name] > 0.0005
        ]
        return (
            compute.pieces(tokens, lang)
            + facts(shares)
            + figures(compute.word_figures(made, found, one, lang), lang, least=130)
        )

    def at_time(
        model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, own, photo, time, lang
    ):
        one = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
        made, course = compute.noised(load, one, own if photo == OWN else None, photo, number("t", time, 0, 1), lang)
        flow = registry.get(model).kind == "flow"
        return figures(made.figures, lang, columns=3) + compute.curves(course, time, flow, lang)

    sections.draws("steps", all_steps, [], asked, [line, step])
    sections.draws("words", all_words, [], asked, [read])
    sections.draws("noise", at_time, [time.change], [*asked, own, photo, time], [result])
    photo.input(**sections.redraw())
    own.input(lambda: OWN, None, photo, show_progress="hidden", **PRIVATE).then(**sections.redraw())

    for task, more, api_name in (
        (compute.diffusion_steps, [step], "diffusion_steps"),
        (compute.attention, [], "attention"),
        (compute.noise_picture, [own, photo, time], "noise_picture"),
    ):
        endpoint(functools.partial(task, load), [*asked, *more], api_name, task.__doc__)

    return [
        Param("photo", photo, Choice(lambda: list(SOURCES)), SOURCES[0]),
        Param("t", time, Range(0, 1), 0.5),
        Param("step", step, Range(*STEPS, whole=True), 5),
    ]
