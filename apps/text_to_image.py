"""Text to image: pictures from words, and how they come about. `python apps/text_to_image.py` shows the tab alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import functools
import json
import math
from collections.abc import Callable

import gradio as gr

from apps import text_change, text_compare, text_control, text_elsewhere, text_grid, text_inside, text_paths
from apps import text_pictures as compute
from apps.i18n import say, t, texts
from apps.links import Choice, Param, Tab, Text
from apps.links import Number as Range
from apps.sections import PRIVATE, Sections, loading_text
from apps.text_pictures import NUMBER
from apps.widgets import (
    MAX_SEED,
    Dropdown,
    Picker,
    Slider,
    about,
    endpoint,
    explained,
    figures,
    handler,
    live,
    model_choices,
    run_row,
    seed_row,
    stops,
)
from pipelines import gpu_mb, registry, wanted
from pipelines import status as availability
from pipelines.problems import choice
from pipelines.text_plan import ways
from pipelines.text_space import EVERY_SAMPLER, GUIDANCE, LONGEST_PROMPT, LONGEST_SIDE, LORA_WEIGHT, SAMPLERS, STEPS

STEM = "text_to_image"
SECTIONS = ["picture", "grid", "compare", "change", "control", "steps", "words", "noise", "paths", "how"]
FIRST, PROMPT, SEED = "emoji-flux", "frog with melon hat", 18
STEPS_FIRST, GUIDANCE_FIRST = compute.steps_and_guidance(FIRST)
ON_GPU = "flux2-klein-4b"  # begins instead of FIRST where a GPU has room for it
CHIPS = 5  # example prompts, text.chips.n


def build(load: Callable) -> Tab:
    """The tab. `load(model_id)` gives the pipeline; nothing is loaded until something is to be computed."""
    # ---- layout

    ids = [entry.id for entry in registry.models(STEM)]  # their names come with `welcome`; the API lists these

    with gr.Column():
        gr.Markdown(t("text.intro"), elem_classes="intro")
        with gr.Row(equal_height=True):
            prompt = gr.Textbox(
                PROMPT, label=t("text.prompt"), lines=1, max_lines=5, scale=6, min_width=280, elem_id="prompt"
            )
            with gr.Column(scale=2, min_width=260):
                run, stop = run_row(t("text.draw"))
        chips, note = gr.HTML(elem_id="chips"), gr.HTML(elem_id="prompt-note")
        with gr.Row():
            with gr.Column(scale=3, min_width=280, elem_classes="later"):
                model = Dropdown(label=t("text.model"), value=FIRST, choices=ids, filterable=False)
                seed, _ = seed_row(SEED)
                steps = Slider(*STEPS, STEPS_FIRST, step=1, label=t("text.steps_label"))
                guidance = Slider(*GUIDANCE, GUIDANCE_FIRST, step=0.5, label=t("text.guidance"))
                negative = gr.Textbox("", label=t("text.negative"), lines=1, max_lines=3, elem_classes="controls")
                sampler = Dropdown(
                    ["", *EVERY_SAMPLER],
                    value="",
                    label=t("text.sampler"),
                    filterable=False,
                    elem_classes="controls",
                )
                with gr.Row(visible=False, elem_classes="controls") as with_lora:
                    lora = Dropdown(
                        [(t("text.lora.none"), "")],
                        value="",
                        label=t("text.lora.label"),
                        filterable=False,
                        min_width=150,
                    )
                    lora_weight = Slider(*LORA_WEIGHT, 1, step=0.05, label=t("text.lora.weight"), min_width=150)
                number = Slider(*NUMBER, 1, step=1, label=t("text.number"), elem_classes="controls")
                with gr.Row(elem_classes="controls") as of_size:
                    own = {"value": 0, "choices": [("*", 0)], "filterable": False, "min_width": 110}
                    width, height = (Dropdown(label=t(f"text.{side}"), **own) for side in ("width", "height"))
                settings = [model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight]
                inputs = dict(zip(compute.Asked._fields, settings, strict=True))
                elsewhere = text_elsewhere.lay_out({**inputs, "width": width, "height": height})
                with gr.Accordion(t("text.words_known"), open=False):
                    vocabulary = gr.HTML(elem_id="vocabulary")
                with gr.Accordion(t("shell.about_model"), open=False):
                    card = gr.HTML()
                with gr.Accordion(t("text.plan.title"), open=False, visible=False) as of_plan:
                    gr.Markdown(t("text.plan.note"))
                    own_ways = {"value": "", "choices": [""], "filterable": False}
                    plan = {name: Dropdown(label=t(f"text.plan.choose.{name}"), **own_ways) for name in ways()}
            with gr.Column(scale=6, min_width=300):
                picker = Picker(visible="hidden")
                titles = {name: t(f"text.{name}.tab") for name in SECTIONS}
                sections = Sections(STEM, titles, load, asks=compute.asks)

                with sections["picture"]:
                    result = gr.HTML(min_height=320, elem_id="drawn")
                    line = gr.HTML(min_height=30)
                    gr.HTML('<div class="visit"></div>', js_on_load="trugbild.visit(element)", apply_default_css=False)

                crossed = text_grid.lay_out(load, sections, inputs, stop)
                begun = text_change.lay_out(load, sections, inputs)
                guided = text_control.lay_out(load, sections, inputs)
                compared = text_compare.lay_out(load, sections, inputs)
                inside = text_inside.lay_out(load, sections, inputs)
                beside = text_paths.lay_out(load, sections, inputs)

                with sections["how"]:
                    explained(t("text.how.text"), "text_to_image.svg", t("text.how.more"))

    # ---- what the page shows of a result

    def drawn(
        model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight, number, width, height, lang
    ):  # fmt: skip
        asked = model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight, number, width, height
        work = functools.partial(compute.draw, load, *asked, lang=lang)
        columns = math.ceil(math.sqrt(number)) if isinstance(number, int) and number > 1 else 0
        shown = functools.partial(figures, lang=lang, big=not columns, columns=columns)
        one = compute.Asked.of(*asked[: len(compute.Asked._fields)])
        more = {"lora": lora, "negative": one.negative_prompt, "guidance": one.guidance}
        said = noted(compute.notes(model, prompt, lang, load(model).unread(prompt), **more))
        for update in live(lambda on_step: work(on_step=on_step), lang, lambda made: shown(made.figures), shown):
            yield *update, said

    def at_first(values, lang):
        """What can be shown before the model is there."""
        first = compute.first(values, lang)
        return figures(first, lang, big=True) if first else loading_text(lang=lang)

    def before(values, lang):
        """The same before anybody asked for a large model: what the small one made of the words, if that is there."""
        if not (told := compute.asks(values["model"], lang)):
            return at_first(values, lang)
        small = {"model": FIRST, "steps": STEPS_FIRST, "guidance": GUIDANCE_FIRST}
        first = compute.first({**values, **small}, lang) or []
        by = texts(lang)[f"models.{FIRST}"]
        return told + figures([one._replace(caption=f"{by} · {one.caption}") for one in first], lang, big=True)

    def meanwhile(
        model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight, number, width, height, lang
    ):  # fmt: skip
        asked = model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight, number, width, height
        return at_first(dict(zip((*compute.Asked._fields, "number", "width", "height"), asked, strict=True)), lang)

    def samplers(model, sampler):
        choices = compute.sampler_choices(model)
        return Dropdown(choices=choices, value=sampler if sampler in dict(choices).values() else "")

    def card_of(model, lang):
        return about(model, lang) + compute.loaded_as(model, lang) + compute.safety(model, lang)

    def memory(model, lang):
        """How the model lies in memory, and what can be chosen of that."""
        offered, chosen = compute.plan_choices(model, lang), wanted(model)
        picked = [
            Dropdown(choices=offered.get(name, [""]), value=chosen.get(name, ""), visible=name in offered)
            for name in plan
        ]
        return card_of(model, lang), gr.Accordion(visible=bool(offered)), *picked

    def of_model(model, sampler, lora, width, height, lang):
        choices = compute.lora_choices(model, lang)
        picked = Dropdown(choices=choices, value=lora if lora in dict(choices).values() else "")
        shown = picked, gr.Row(visible=len(choices) > 1)
        sides = [Dropdown(choices=compute.side_choices(model, side), value=side) for side in (width, height)]
        sized = *sides, gr.Row(visible="size" in registry.get(model).defaults)
        return samplers(model, sampler), *shown, *sized, compute.word_list(model, lang), *memory(model, lang)

    def switch_model(model, sampler, lora, lang):
        return *compute.steps_and_guidance(model), *of_model(model, sampler, lora, 0, 0, lang)

    # ---- events

    sections.listen()
    quiet = {**PRIVATE, "show_progress": "hidden"}
    of, in_memory = [model, sampler, lora], [card, of_plan, *plan.values()]
    follows = [sampler, lora, with_lora, width, height, of_size, vocabulary, *in_memory]
    model.input(handler(switch_model), of, [steps, guidance, *follows], **quiet).then(**sections.redraw())
    follow = {"fn": handler(of_model), "inputs": [*of, width, height], "outputs": follows, **quiet}
    for filled in elsewhere:
        filled.success(**follow).then(**sections.redraw())
    sections.agrees([run.click, prompt.submit, negative.submit], model)
    gr.on(
        [
            seed.change,
            steps.release,
            guidance.release,
            sampler.input,
            lora.input,
            lora_weight.release,
            number.release,
            width.input,
            height.input,
        ],
        **sections.redraw(),
    )
    drawing = sections.draws(
        "picture", drawn, [], [*settings, number, width, height], [result, line, note], meanwhile=meanwhile
    )
    drawing.then(handler(memory), model, in_memory, **quiet)  # how the model was loaded
    gr.on([way.input for way in plan.values()], handler(compute.choose_plan), [model, *plan.values()], None, **quiet)
    stops(stop, [drawing], line)

    # A click on a picture, a chip or a word puts its values into the inputs.
    chosen = [*settings, width, height, *(param.component for param in inside if param.name == "photo")]
    names = json.dumps([*compute.Asked._fields, "width", "height", "photo"])
    js = f"(pick, ...old) => trugbild.asked(pick, {names}, old)"
    picked = picker.input(None, [picker, *chosen], chosen, js=js, api_visibility="private")
    picked = picked.then(**follow).then(
        lambda pick: gr.Tabs(selected=pick.split(":")[0]) if pick.split(":")[0] in SECTIONS else gr.skip(),
        picker,
        sections.tabs,
        **quiet,
    )
    picked.then(**sections.redraw())

    every = [*settings, number, width, height]
    endpoint(functools.partial(compute.draw, load), every, "text_to_image", compute.draw.__doc__)

    # ---- links

    def welcome(values, lang):
        """What the tab shows before anything is computed, in the person's language."""
        examples = [say(f"text.chips.n{i + 1}", lang) for i in range(CHIPS)]
        buttons = "".join(compute.button("set", {"prompt": text}, text) for text in examples)
        return [
            Dropdown(
                choices=[choice for kind in SAMPLERS for choice in model_choices(STEM, kind, lang)],
                value=values["model"],
            ),
            *of_model(*(values[name] for name in ("model", "sampler", "lora", "width", "height")), lang),
            before(values, lang),
            f'<div class="uses">{buttons}</div>',
            noted(
                compute.notes(
                    *(values["model"], values["prompt"], lang),
                    lora=values["lora"],
                    negative=values["negative_prompt"],
                    guidance=values["guidance"],
                )
            ),
        ]

    own = {m.id: compute.steps_and_guidance(m.id) for m in registry.models(STEM)}
    params = [
        Param("model", model, Choice(lambda: [m.id for m in registry.models(STEM)]), FIRST),
        Param("prompt", prompt, Text(lambda text: None, LONGEST_PROMPT), PROMPT),
        Param("negative_prompt", negative, Text(lambda text: None, LONGEST_PROMPT), ""),
        Param("seed", seed, Range(0, MAX_SEED, whole=True), SEED),
        Param("steps", steps, Range(*STEPS, whole=True), STEPS_FIRST, {id: n for id, (n, _) in own.items()}),
        Param("guidance", guidance, Range(*GUIDANCE), GUIDANCE_FIRST, {id: g for id, (_, g) in own.items()}),
        Param("sampler", sampler, Choice(lambda: ["", *EVERY_SAMPLER]), ""),
        Param("lora", lora, Choice(lambda: ["", *(m.id for m in registry.models(STEM, "lora"))]), ""),
        Param("lora_weight", lora_weight, Range(*LORA_WEIGHT), 1),
        Param("number", number, Range(*NUMBER, whole=True), 1),
        Param("width", width, Range(0, LONGEST_SIDE, whole=True), 0),
        Param("height", height, Range(0, LONGEST_SIDE, whole=True), 0),
        *crossed,
        *begun,
        *guided,
        *compared,
        *inside,
        *beside,
    ]

    def check(values):
        entry = registry.get(values["model"])
        compute.fitting(entry, values["lora"])
        choice("sampler", values["sampler"], ("", *compute.sampler_names(entry)))

    def here():
        large = registry.get(ON_GPU)
        if gpu_mb() < large.memory_mb or availability(large):
            return {}
        steps, guidance = own[ON_GPU]
        return {"model": ON_GPU, "steps": steps, "guidance": guidance}

    welcomed = [model, *follows, result, chips, note]
    return Tab(STEM, params, sections.tabs, sections.ticks, welcome, welcomed, check, here)


def noted(sentences: list[str]) -> str:
    return f'<div class="prompt-note">{" ".join(sentences)}</div>' if sentences else ""


if __name__ == "__main__":
    from apps.main import main

    sys.exit(main([*sys.argv[1:], "--tabs", STEM]))
