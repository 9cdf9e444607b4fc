"""This person does not exist: a face from every number. `python apps/faces.py` shows the tab alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import functools
import inspect
import math
from collections.abc import Callable

import gradio as gr
from gradio.utils import get_upload_folder

from apps import face_pictures as compute
from apps.face_pictures import DIRECTIONS, FIRST_LOOK, MAX_LAYERS, MAX_STAGES, PHOTOS, USES, Scene
from apps.i18n import say, t, texts
from apps.links import Choice, Param, Switch, Tab, Text
from apps.links import Number as Range
from apps.photos import OWN, chosen
from apps.sections import PRIVATE, Sections, loading_text
from apps.widgets import (
    COMPUTE,
    MAX_SEED,
    Dropdown,
    Number,
    People,
    Picker,
    PictureInput,
    Quiz,
    Radio,
    Slider,
    about,
    decimal,
    endpoint,
    explained,
    facts,
    figures,
    handler,
    live,
    model_choices,
    run_row,
    stops,
)
from pipelines import registry
from pipelines.face_space import (
    AMOUNT,
    DOMAINS,
    LAYER_GROUPS,
    MAX_COUNT,
    MAX_FRAMES,
    MAX_PEOPLE,
    MODES,
    NOISE,
    PSI,
    SPACES,
    VERDICT_NOISE,
)  # fmt: skip

STEM = "faces"
SECTIONS = ["person", "walk", "mix", "arithmetic", "directions", "verdict", "own", "learnt", "how"]
LAYERED = ("cutoff", "first", "last")  # inputs that count layers
FIRST = "faces-64"
# Found by looking at faces-64: women - men + tanned men, for example.
SEED = 4
# fmt: off
PEOPLE = {"people": "4,44,50,37", "rows": "4,92,30", "columns": "50,26,37,9", "a": "4,10,23", "b": "12,39,59",
          "c": "16,31,37", "who": "92", "jury": "13,4,30,50", "cast": "4,92,30,0"}
# fmt: on


def build(load: Callable) -> Tab:
    """The tab. `load(model_id)` gives the pipeline; nothing is loaded until something is to be computed."""
    # ---- layout

    ids = [entry.id for entry in registry.models(STEM)]  # their names come with `welcome`; the API lists these

    with gr.Column():
        gr.Markdown(t("faces.intro"), elem_classes="intro")
        with gr.Row(elem_classes="controls later"):
            with gr.Column(scale=3, min_width=280):
                model = Dropdown(label=t("faces.model"), value=FIRST, choices=ids, filterable=False)
                with gr.Accordion(t("shell.about_model"), open=False):
                    card = gr.HTML()
            with gr.Column(scale=4, min_width=280):
                domains = [(t(f"faces.domains.{name}"), name) for name in DOMAINS]
                domain = Radio(domains, value=DOMAINS[0], label=t("faces.domain"), show_label=False)
                psi = Slider(*PSI, FIRST_LOOK["psi"], step=0.05, label=t("faces.psi"), min_width=200)
        picker = Picker(visible="hidden")
        sections = Sections(STEM, {name: t(f"faces.{name}.tab") for name in SECTIONS}, load, compute.is_slow)

        with sections["person"], gr.Row():
            with gr.Column(scale=6, min_width=300):
                crowd = gr.HTML(min_height=320, elem_id="crowd")
            with gr.Column(scale=4, min_width=260):
                another = gr.Button(t("faces.person.another"), variant="primary", size="lg", elem_classes="another")
                gr.Markdown(t("faces.person.text"), elem_classes="intro controls")
                with gr.Column(elem_classes="controls"):
                    seed = Number(SEED, label=t("shell.seed"), precision=0)
                    count = Slider(1, MAX_COUNT, 1, step=1, label=t("faces.person.count"))
                    kinds = [(t(f"faces.noise.{kind}"), kind) for kind in NOISE]
                    noise = Radio(kinds, value="on", label=t("faces.person.noise"))
                    cutoff = Slider(0, MAX_LAYERS, MAX_LAYERS, step=1, label=t("faces.cutoff"))
                    fast = gr.Checkbox(False, label=t("faces.person.fast"))

        with sections["walk"], gr.Row():
            with gr.Column(scale=5, min_width=300):
                gr.Markdown(t("faces.walk.text"), elem_classes="intro controls")
                people = People(PEOPLE["people"], 2, MAX_PEOPLE)
                with gr.Row(elem_classes="controls"):
                    space = Radio([(t(f"faces.walk.{s}"), s) for s in SPACES], value="w", label=t("faces.walk.space"))
                    mode = Radio([(t(f"faces.walk.{m}"), m) for m in MODES], value="lerp", label=t("faces.walk.mode"))
                with gr.Row(elem_classes="controls"):
                    frames = Slider(1, MAX_FRAMES, 12, step=1, label=t("faces.walk.frames"), min_width=200)
                    loop = gr.Checkbox(True, label=t("faces.walk.loop"), min_width=120)
            with gr.Column(scale=5, min_width=300):
                walk, walk_stop = run_row(t("faces.walk.run"))
                walk_status = gr.HTML(min_height=30)
                way = gr.HTML(elem_id="way")
                stations = gr.HTML(min_height=300)

        with sections["mix"]:
            gr.Markdown(t("faces.mix.text"), elem_classes="intro controls")
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    gr.HTML(t("faces.mix.rows"), elem_classes="title")
                    rows = People(PEOPLE["rows"], 1, 6)
                    gr.HTML(t("faces.mix.columns"), elem_classes="title")
                    columns = People(PEOPLE["columns"], 1, 6)
                    layers = Radio(
                        [(t(f"faces.mix.{g}"), g) for g in LAYER_GROUPS], value="coarse", label=t("faces.mix.layers")
                    )
                with gr.Column(scale=6, min_width=300):
                    mixed = gr.HTML(min_height=320, elem_id="mixed")

        with sections["arithmetic"]:
            gr.Markdown(t("faces.arithmetic.text"), elem_classes="intro controls")
            with gr.Row(elem_classes="controls"):
                terms = []
                for name in "abc":
                    with gr.Column(min_width=240):
                        gr.HTML(t(f"faces.arithmetic.{name}"), elem_classes="title")
                        terms.append(People(PEOPLE[name], 1, MAX_PEOPLE))
            total = gr.HTML(min_height=180)

        with sections["directions"], gr.Row():
            with gr.Column(scale=5, min_width=300):
                gr.HTML(t("faces.directions.who"), elem_classes="title")
                who = People(PEOPLE["who"], 1, 1)
                edited = gr.HTML(min_height=260, elem_id="edited")
            with gr.Column(scale=5, min_width=280):
                gr.Markdown(t("faces.directions.text"), elem_classes="intro controls")
                amounts = [Slider(*AMOUNT, 0, step=0.25, label=f"{i + 1}") for i in range(DIRECTIONS)]
                with gr.Row(elem_classes="controls"):
                    reset = gr.Button(t("faces.directions.reset"), size="sm", min_width=120)
                    chance = gr.Button(t("faces.directions.random"), size="sm", min_width=120)
                with gr.Row(elem_classes="controls"):
                    first = Slider(0, MAX_LAYERS - 1, 0, step=1, label=t("faces.directions.first"), min_width=140)
                    last = Slider(0, MAX_LAYERS, MAX_LAYERS, step=1, label=t("faces.directions.last"), min_width=140)

        with sections["verdict"]:
            gr.Markdown(t("faces.verdict.text"), elem_classes="intro controls")
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    jury = People(PEOPLE["jury"], 1, MAX_PEOPLE)
                    spoilt = Slider(*VERDICT_NOISE, 0, step=0.05, label=t("faces.verdict.noise"))
                    judged = PictureInput(label=t("faces.verdict.own"), height=200)
                with gr.Column(scale=6, min_width=300):
                    scores = gr.HTML(min_height=200, elem_id="scores")
            gr.HTML(t("faces.quiz.title"), elem_classes="title")
            gr.Markdown(t("faces.quiz.text"), elem_classes="intro controls")
            quiz_files = gr.File(
                file_count="multiple", file_types=["image"], label=t("faces.quiz.files"), height=120,
                elem_classes="controls",
            )  # fmt: skip
            with gr.Row(elem_classes="controls"):
                quiz_seed = Number(0, label=t("shell.seed"), precision=0, min_width=120)
                quiz_another = gr.Button(t("faces.quiz.another"), min_width=120)
            quiz = Quiz(elem_id="quiz", min_height=200)

        with sections["own"], gr.Row():
            with gr.Column(scale=4, min_width=280):
                gr.Markdown(t("faces.own.text"), elem_classes="intro")
                in_memory = get_upload_folder().startswith("/dev/shm")  # see main.upload_folder
                gr.Markdown(t("faces.own.memory" if in_memory else "faces.own.disk"), elem_classes="intro")
                own = PictureInput(label=t("faces.own.photo"), height=260)
                sample = Radio(
                    [(t("faces.own.astronaut"), PHOTOS[0]), (t("faces.own.mine"), OWN)], value=PHOTOS[0],
                    label=t("faces.own.sample"),
                )  # fmt: skip
            with gr.Column(scale=5, min_width=300):
                project, project_stop = run_row(t("faces.own.run"))
                own_status = gr.HTML(min_height=30)
                own_out = gr.HTML(min_height=280, elem_id="own")

        with sections["learnt"]:
            gr.Markdown(t("faces.learnt.text"), elem_classes="intro controls")
            cast = People(PEOPLE["cast"], 1, MAX_PEOPLE, elem_classes="controls")
            stage = Slider(1, MAX_STAGES, 1, step=1, label=t("faces.learnt.stage"))
            grown = gr.HTML(min_height=240, elem_id="grown")

        with sections["how"]:
            explained(t("faces.how.text"), "gan.svg", t("faces.how.more"))

    # ---- what the page shows of a result

    look = [model, domain, psi, cutoff]  # what every section goes by

    def with_people(task: Callable, who: slice, show: Callable = figures) -> Callable:
        """What `task` gives as HTML, and small pictures of the people in its inputs `who`."""

        def call(*values, lang):
            made = task(load, *values, lang=lang)
            scene = Scene.of(load, *values[:4])
            return show(made.figures, lang), *(gr.update(thumbs=scene.thumbs(text)) for text in values[4:][who])

        call.__signature__ = inspect.signature(functools.partial(task, load))
        return call

    def persons(model, domain, psi, cutoff, seed, count, noise, fast, lang):
        made = compute.person(load, model, domain, psi, cutoff, seed, count, noise, fast, lang).figures
        return figures(made, lang, big=len(made) == 1, columns=0 if len(made) == 1 else math.ceil(len(made) ** 0.5))

    def waypoints(model, domain, psi, cutoff, people, space, mode, loop, lang):
        """A few pictures of the way, until the whole of it is asked for."""
        frames = 1 if compute.is_slow(model) else 4
        strip = compute.walk(load, model, domain, psi, cutoff, people, frames, space, mode, loop, lang).figures[1]
        thumbs = Scene.of(load, model, domain, psi, cutoff).thumbs(people)
        return figures([strip], lang, big=True), gr.update(thumbs=thumbs)

    def walk_along(model, domain, psi, cutoff, people, frames, space, mode, loop, lang):
        settings = load, model, domain, psi, cutoff, people, frames, space, mode, loop, lang
        yield from live(
            lambda on_step: compute.walk(*settings, on_step),
            lang,
            lambda made: figures(made.figures[:1], lang, big=True),
            lambda frame: figures([compute.shown(frame)], lang, big=True),
        )

    def questions(model, domain, psi, cutoff, seed, files, lang):
        return compute.quiz(load, model, domain, psi, cutoff, seed, files or [], lang)

    def found(made, lang):
        told = [(say("faces.own.error", lang), decimal(made.numbers["error"], lang, 4))]
        return figures(made.figures, lang) + compute.uses(made.numbers["code"], USES, lang) + facts(told)

    def project_face(model, domain, picture, sample, lang):
        picture = picture if sample == OWN else None
        yield from live(
            lambda on_step: compute.project(load, model, domain, picture, sample, lang, on_step),
            lang,
            functools.partial(found, lang=lang),
            lambda frame: figures([compute.shown(frame)], lang),
        )

    def photo_first(picture, sample, lang):
        """The photo as it is, until the person nearest to it has been found."""
        if sample == OWN and picture is None:
            return gr.skip()
        photo = chosen(picture if sample == OWN else None, sample, PHOTOS)
        photo.thumbnail((400, 400))
        return figures([compute.shown(photo)], lang)

    def switch_model(model, lang):
        """The controls that a net has: its domains, layers, stages; names of directions where we found some."""
        return *controls(model, lang), about(model, lang, compute.seconds(load, registry.get(model), FIRST))

    def controls(model, lang, domain_=DOMAINS[0], stage_=1):
        shape = compute.shape(registry.get(model))
        stages = max(1, shape.stages)
        return (
            Radio(visible=bool(shape.domains), value=domain_),
            Slider(maximum=stages, value=min(stage_, stages), visible=stages > 1),
            *layered(shape.layers, lang),
            *directions(model, domain_, 0, MAX_LAYERS, lang),
        )

    def layered(layers, lang):
        """Sliders reach as far as the largest net; their labels say what this one has."""
        names = {"cutoff": layers, "directions.first": layers - 1, "directions.last": layers - 1}
        return [gr.update(label=say(f"faces.{name}_of", lang, n=n)) for name, n in names.items()]

    def directions(model, domain_, first, last, lang):
        """What the sliders are called: names were found for all layers of the colour domain, elsewhere they number."""
        found = domain_ == DOMAINS[0] and (first, last) == (0, MAX_LAYERS)
        names = (texts(lang).get(f"faces.direction.{model}_{i + 1}") if found else "" for i in range(DIRECTIONS))
        return [gr.update(label=f"{i + 1} · {name}" if name else f"{i + 1}") for i, name in enumerate(names)]

    # ---- events

    sections.listen()
    controlled = [domain, stage, cutoff, first, last, *amounts]
    changed = model.input(handler(switch_model), model, [*controlled, card], **PRIVATE, show_progress="hidden")
    changed.then(**sections.redraw())
    for control in look[1:]:
        control.change(**sections.redraw())
    named = [model, domain, first, last]
    for control in named[1:]:
        control.change(handler(directions), named, amounts, **PRIVATE, show_progress="hidden")

    person_inputs = [*look, seed, count, noise, fast]
    sections.draws("person", persons, [c.change for c in person_inputs[4:]], person_inputs, [crowd])
    for button, number in ((another, seed), (quiz_another, quiz_seed)):
        button.click(None, None, number, js="() => Number(trugbild.anybody())", api_visibility="private")

    way_inputs = [*look, people, frames, space, mode, loop]
    few = [*look, people, space, mode, loop]
    sections.draws("walk", waypoints, [c.change for c in few[4:]], few, [stations, people])
    walking = walk.click(
        handler(walk_along), way_inputs, [way, walk_status], show_progress="hidden", **PRIVATE, **COMPUTE
    )
    stops(walk_stop, [walking], walk_status)

    mix_inputs = [*look, rows, columns, layers]
    big = functools.partial(figures, big=True)
    mixing = with_people(compute.mix, slice(0, 2), big)
    sections.draws("mix", mixing, [c.change for c in mix_inputs[4:]], mix_inputs, [mixed, rows, columns])

    summing = with_people(compute.arithmetic, slice(0, 3))
    sections.draws("arithmetic", summing, [term.change for term in terms], [*look, *terms], [total, *terms])

    edit_inputs = [*look, who, first, last, *amounts]
    moving = with_people(compute.edit, slice(0, 1))
    sections.draws("directions", moving, [c.change for c in edit_inputs[4:]], edit_inputs, [edited, who])
    reset.click(None, None, amounts, js=f"() => Array({DIRECTIONS}).fill(0)", api_visibility="private")
    js = f"() => Array.from({{length: {DIRECTIONS}}}, () => Math.round((Math.random() * 2 - 1) * {AMOUNT[1]} * 2) / 4)"
    chance.click(None, None, amounts, js=js, api_visibility="private")

    verdict_inputs = [*look, jury, spoilt, quiz_seed, judged]
    judging = with_people(compute.verdict, slice(0, 1), functools.partial(figures, least=110))
    sections.draws("verdict", judging, [c.change for c in (jury, spoilt, judged)], verdict_inputs, [scores, jury])
    quiz_inputs = [*look, quiz_seed, quiz_files]
    gr.on([quiz_seed.change, quiz_files.change], handler(questions), quiz_inputs, quiz, **PRIVATE, **COMPUTE)

    photo_inputs = [own, sample]
    sections.ticks["own"].change(handler(photo_first), photo_inputs, own_out, **PRIVATE, show_progress="hidden")
    sample.change(handler(photo_first), photo_inputs, own_out, **PRIVATE, show_progress="hidden")
    own.input(lambda: OWN, None, sample, show_progress="hidden", **PRIVATE)
    projecting = project.click(
        handler(project_face), [model, domain, *photo_inputs], [own_out, own_status], show_progress="hidden",
        **PRIVATE, **COMPUTE,
    )  # fmt: skip
    stops(project_stop, [projecting], own_status)

    def two_rows(items, lang):
        """The people of one stage, and below them the first of them at every stage."""
        every = compute.shape(registry.get(items[0].name.partition("_stage")[0])).stages
        row, way = items[:-every], items[-every:]
        title = f'<div class="title">{say("faces.learnt.every", lang)}</div>'
        return figures(row, lang) + title + figures(way, lang, least=100)

    learning = with_people(compute.learnt, slice(0, 1), two_rows)
    sections.draws("learnt", learning, [cast.change, stage.change], [*look, cast, stage], [grown, cast])

    # A button below a picture puts the person into another input.
    targets = {"seed": seed, "people": people, "rows": rows, "columns": columns,
               **dict(zip("abc", terms, strict=True)), "who": who, "jury": jury, "cast": cast}  # fmt: skip
    inputs = list(targets.values())
    js = f"(pick, ...values) => trugbild.picked(pick, {list(targets)}, values)"
    picker.input(None, [picker, *inputs], inputs, js=js, api_visibility="private")

    for task, task_inputs, api_name in (
        (compute.person, person_inputs, "person"),
        (compute.walk, way_inputs, "walk"),
        (compute.mix, mix_inputs, "mix"),
        (compute.arithmetic, [*look, *terms], "face_arithmetic"),
        (compute.edit, edit_inputs, "edit"),
        (compute.verdict, verdict_inputs, "verdict"),
        (compute.project, [model, domain, own, sample], "project"),
        (compute.learnt, [*look, cast, stage], "learnt"),
    ):
        endpoint(functools.partial(task, load), task_inputs, api_name, task.__doc__)

    # ---- links

    def welcome(values, lang):
        """What the tab shows before anything is computed, in the person's language."""
        first_person = compute.first(values, lang)
        own_controls = controls(values["model"], lang, values["domain"], values["stage"])
        sliders = directions(*(values[name] for name in ("model", "domain", "first", "last")), lang)
        return [
            Dropdown(choices=model_choices(STEM, "faces", lang), value=values["model"]),
            about(values["model"], lang),
            figures([first_person], lang, big=True) if first_person else loading_text(lang=lang),
            *own_controls[:2],
            *(update | {"value": values[name]} for update, name in zip(own_controls[2:5], LAYERED, strict=True)),
            *(gr.update(label=slider["label"], value=values[f"d{i + 1}"]) for i, slider in enumerate(sliders)),
        ]

    params = [
        Param("model", model, Choice(lambda: [m.id for m in registry.models(STEM)]), FIRST),
        Param("domain", domain, Choice(lambda: list(DOMAINS)), DOMAINS[0]),
        Param("psi", psi, Range(*PSI), 0.7),
        Param("cutoff", cutoff, Range(0, MAX_LAYERS, whole=True), MAX_LAYERS),
        Param("seed", seed, Range(0, MAX_SEED, whole=True), SEED),
        Param("count", count, Range(1, MAX_COUNT, whole=True), 1),
        Param("noise", noise, Choice(lambda: list(NOISE)), "on"),
        Param("fast", fast, Switch(), False),
        *(
            Param(name, targets[name], Text(functools.partial(compute.check, name=name)), default)
            for name, default in PEOPLE.items()
        ),
        Param("frames", frames, Range(1, MAX_FRAMES, whole=True), 12),
        Param("space", space, Choice(lambda: list(SPACES)), "w"),
        Param("mode", mode, Choice(lambda: list(MODES)), "lerp"),
        Param("loop", loop, Switch(), True),
        Param("layers", layers, Choice(lambda: list(LAYER_GROUPS)), "coarse"),
        Param("first", first, Range(0, MAX_LAYERS - 1, whole=True), 0),
        Param("last", last, Range(0, MAX_LAYERS, whole=True), MAX_LAYERS),
        *(Param(f"d{i + 1}", slider, Range(*AMOUNT), 0) for i, slider in enumerate(amounts)),
        Param("spoilt", spoilt, Range(*VERDICT_NOISE), 0),
        Param("quiz", quiz_seed, Range(0, MAX_SEED, whole=True), 0),
        Param("sample", sample, Choice(lambda: [*PHOTOS, OWN]), PHOTOS[0]),
        Param("stage", stage, Range(1, MAX_STAGES, whole=True), 1),
    ]
    welcomed = [model, card, crowd, *controlled]
    return Tab(STEM, params, sections.tabs, sections.ticks, welcome, welcomed, lambda values: None)


if __name__ == "__main__":
    from apps.main import main

    sys.exit(main([*sys.argv[1:], "--tabs", STEM]))
