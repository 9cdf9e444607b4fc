"""Style transfer: any photo in another domain and back. `python apps/style_transfer.py` shows the tab alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import functools
from collections.abc import Callable, Iterator

import gradio as gr
from gradio.utils import get_upload_folder

from apps import style_pictures as compute
from apps.i18n import t
from apps.links import Choice, Param, Switch, Tab
from apps.links import Number as Range
from apps.photos import OWN
from apps.sections import PRIVATE, Sections, loading_text
from apps.style_pictures import DRAWN, SAMPLES
from apps.widgets import (
    MAX_SEED,
    Dropdown,
    Picker,
    PictureInput,
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
    say,
    seed_row,
    stops,
)
from pipelines import registry
from pipelines.style_space import DIRECTIONS, HIDDEN, SIZE, SIZES, STRENGTH, TONE

STEM = "style_transfer"
SECTIONS = ["picture", "styles", "cycle", "eye", "fails", "how"]
FIRST = "style-historic"


def build(load: Callable) -> Tab:
    """The tab. `load(model_id)` gives the pipeline; nothing is loaded until something is to be computed."""
    # ---- layout

    ids = [entry.id for entry in registry.models(STEM)]  # their names come with `welcome`; the API lists these

    with gr.Column():
        gr.Markdown(t("style.intro"), elem_classes="intro")
        with gr.Row():
            with gr.Column(scale=3, min_width=280, elem_classes="later"):
                model = Dropdown(label=t("style.model"), value=FIRST, choices=ids, filterable=False)
                ways_ = [(t(f"style.direction.{name}"), name) for name in DIRECTIONS]
                direction = Radio(ways_, value=DIRECTIONS[0], label=t("style.direction.label"))
                samples = [(t(f"style.sample.{name}"), name) for name in SAMPLES]
                sample = Radio(samples, value=SAMPLES[0], label=t("style.sample.label"))
                with gr.Column(visible=False) as someone:
                    person, _ = seed_row(13)
                own = PictureInput(label=t("style.own"), height=200)
                in_memory = get_upload_folder().startswith("/dev/shm")  # see main.upload_folder
                gr.Markdown(t("style.memory" if in_memory else "style.disk"), elem_classes="intro controls")
                face = gr.Checkbox(False, label=t("style.face"), elem_classes="controls")
                sizes = [(t(f"style.sizes.s{size}"), size) for size in SIZES]
                size = Radio(sizes, value=SIZE, label=t("style.size"), elem_classes="controls")
                with gr.Accordion(t("shell.about_model"), open=False):
                    card = gr.HTML()
            with gr.Column(scale=6, min_width=300):
                picker = Picker(visible="hidden")
                sections = Sections(STEM, {name: t(f"style.{name}.tab") for name in SECTIONS}, load)

                with sections["picture"]:
                    result = gr.HTML(min_height=320, elem_id="translated")
                    with gr.Row(elem_classes="controls"):
                        strength = Slider(*STRENGTH, 1, step=0.05, label=t("style.strength"), min_width=200)
                        tone = Slider(*TONE, 1, step=0.05, label=t("style.tone"), min_width=200)

                with sections["styles"]:
                    gr.Markdown(t("style.styles.text"), elem_classes="intro controls")
                    row = gr.HTML(min_height=320, elem_id="styles")

                with sections["cycle"]:
                    gr.Markdown(t("style.cycle.text"), elem_classes="intro controls")
                    hidden = Slider(*HIDDEN, 0, step=0.01, label=t("style.cycle.noise"))
                    around = gr.HTML(min_height=320, elem_id="around")

                with sections["eye"]:
                    gr.Markdown(t("style.eye.text"), elem_classes="intro controls")
                    gr.HTML(t("style.eye.legend"))
                    eyes = gr.HTML(min_height=320, elem_id="eyes")

                with sections["fails"]:
                    gr.Markdown(t("style.fails.text"), elem_classes="intro controls")
                    failed = gr.HTML(min_height=320, elem_id="failed")

                with sections["how"]:
                    explained(t("style.how.text"), "cyclegan.svg", t("style.how.more"))

                with gr.Row():
                    line = gr.HTML(min_height=30)
                    stop = gr.Button(t("shell.stop"), elem_classes="stop", scale=0, min_width=90, size="sm")
                gr.HTML(t("style.warning"))

    # ---- what the page shows of a result

    photo = [own, sample, person, face]  # what is translated
    look = [model, direction, *photo, size]  # what every section goes by

    def followed(task: Callable, settings: tuple, show: Callable, lang: str) -> Iterator[tuple]:
        """A task as the page follows it, with the status line."""
        work = functools.partial(task, load, *settings, lang)
        yield from live(lambda on_step: work(on_step=on_step), lang, show, patience=0.5)

    def chosen(own, sample: str):
        """One's own picture only where that was chosen."""
        return own if sample == OWN else None

    def developed(model, direction, own, sample, person, face, size, strength, tone, lang):
        settings = model, direction, chosen(own, sample), sample, person, face, size, strength, tone
        yield from followed(compute.translate, settings, lambda made: before_after(*made.figures, lang), lang)

    def at_first(values, lang):
        """What can be shown before the model is there."""
        first = compute.first(values, lang)
        return before_after(*first, lang) if first else loading_text(lang=lang)

    def meanwhile(model, direction, own, sample, person, face, size, strength, tone, lang):
        asked = {"direction": direction, "sample": sample, "face": face, "size": size}
        return at_first({"model": model, **asked, "strength": strength, "tone": tone}, lang)

    def in_a_row(model, own, sample, person, face, lang):
        settings = chosen(own, sample), sample, person, face
        yield from followed(compute.styles, settings, lambda made: figures(made.figures, lang, least=170), lang)

    def there_and_back(model, direction, own, sample, person, face, size, hidden, lang):
        def show(made):
            loss = say("style.cycle.loss", lang), decimal(made.numbers["cycle_loss"], lang, 3)
            return figures(made.figures, lang, columns=4) + facts([loss])

        settings = model, direction, chosen(own, sample), sample, person, face, size, hidden
        yield from followed(compute.cycle, settings, show, lang)

    def seen(model, direction, own, sample, person, face, size, lang):
        settings = model, direction, chosen(own, sample), sample, person, face, size
        yield from followed(compute.eye, settings, lambda made: figures(made.figures, lang, least=240), lang)

    def where_it_fails(model, lang):
        yield from followed(compute.failures, (), lambda made: figures(made.figures, lang, least=260), lang)

    def ways(model, direction, lang):
        """The directions that a pair has, the chosen one if it is among them."""
        names = compute.directions(registry.get(model))
        chosen = direction if direction in names else names[0]
        return Radio(choices=[(compute.way(model, name, lang), name) for name in names], value=chosen)

    def switch_model(model, direction, lang):
        return ways(model, direction, lang), about(model, lang)

    # ---- events

    sections.listen()
    quiet = {**PRIVATE, "show_progress": "hidden"}
    switched = [direction, card]
    model.input(handler(switch_model), [model, direction], switched, **quiet).then(**sections.redraw())
    for event in (direction.input, sample.input, person.change, face.input, size.input):
        event(**sections.redraw())
    own.input(lambda picture: OWN if picture else SAMPLES[0], own, sample, **quiet).then(**sections.redraw())
    sample.change(lambda name: gr.update(visible=name in DRAWN), sample, someone, **quiet)

    adjusted, inputs = [strength.change, tone.change], [*look, strength, tone]
    drawn = [
        sections.draws("picture", developed, adjusted, inputs, [result, line], meanwhile=meanwhile),
        sections.draws("styles", in_a_row, [], [model, *photo], [row, line]),
        sections.draws("cycle", there_and_back, [hidden.change], [*look, hidden], [around, line]),
        sections.draws("eye", seen, [], look, [eyes, line]),
        sections.draws("fails", where_it_fails, [], [model], [failed, line]),
    ]
    stops(stop, drawn, line)

    # A button below a style goes on with it.
    js = "(pick, ...old) => { const [, , to, ...id] = pick.split(':'); return id.length ? [id.join(':'), to] : old; }"
    picked = picker.input(None, [picker, model, direction], [model, direction], js=js, api_visibility="private")
    picked.then(handler(switch_model), [model, direction], switched, **quiet).then(**sections.redraw())

    for task, task_inputs, api_name in (
        (compute.translate, [*look, strength, tone], "translate"),
        (compute.styles, photo, "styles"),
        (compute.cycle, [*look, hidden], "cycle"),
        (compute.eye, look, "discriminator_map"),
    ):
        endpoint(functools.partial(task, load), task_inputs, api_name, task.__doc__)

    # ---- links

    def welcome(values, lang):
        """What the tab shows before anything is computed, in the person's language."""
        return [
            Dropdown(choices=model_choices(STEM, "cyclegan", lang), value=values["model"]),
            ways(values["model"], values["direction"], lang),
            about(values["model"], lang),
            at_first(values, lang),
            gr.update(visible=values["sample"] in DRAWN),
        ]

    params = [
        Param("model", model, Choice(lambda: [m.id for m in registry.models(STEM)]), FIRST),
        Param("direction", direction, Choice(lambda: list(DIRECTIONS)), DIRECTIONS[0]),
        Param("sample", sample, Choice(lambda: list(SAMPLES)), SAMPLES[0]),
        Param("person", person, Range(0, MAX_SEED, whole=True), 13),
        Param("face", face, Switch(), False),
        Param("size", size, Choice(lambda: list(SIZES)), SIZE),
        Param("strength", strength, Range(*STRENGTH), 1),
        Param("tone", tone, Range(*TONE), 1),
        Param("noise", hidden, Range(*HIDDEN), 0),
    ]
    welcomed = [model, direction, card, result, someone]
    return Tab(STEM, params, sections.tabs, sections.ticks, welcome, welcomed, lambda values: None)


if __name__ == "__main__":
    from apps.main import main

    sys.exit(main([*sys.argv[1:], "--tabs", STEM]))
