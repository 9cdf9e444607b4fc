"""Text of A1111 and Forge: what it says about a picture goes into the tab's inputs, and a note names the rest."""

import html
from dataclasses import replace
from typing import NamedTuple

import gradio as gr
from gradio.events import Dependency

from apps.i18n import say, sentence, t
from apps.sections import PRIVATE
from apps.text_pictures import STEM, Asked, brief, known, sampler_choices, sampler_names
from apps.widgets import Dropdown, decimal, handler
from pipelines import parameters, registry
from pipelines.parameters import Parameters
from pipelines.problems import Problem
from pipelines.text_given import usual_sides

INPUTS = (*Asked._fields, "width", "height")  # that such a text can fill


class Taken(NamedTuple):
    values: dict  # of the inputs that are filled: those of INPUTS that the text speaks of
    note: str  # HTML: what was taken, what was not


def take(text: str, model: str, lang: str) -> Taken:
    """What the text says for that model, or for its own where that is one of ours. Raises Problem."""
    found = parameters.parse(text)
    if found.model in [entry.id for entry in registry.models(STEM)]:
        model = found.model
    entry, values = known(model), {}
    if found.model == model:
        values["model"] = model
    if found.prompt or found.negative_prompt:
        values |= {"prompt": found.prompt, "negative_prompt": found.negative_prompt}
    values |= {name: getattr(found, name) for name in ("seed", "steps", "guidance") if getattr(found, name) is not None}
    if loras := [lora for lora in found.loras if lora.name in called_here(entry)]:
        values |= {"lora": called_here(entry)[loras[0].name], "lora_weight": loras[0].weight}
    own = entry.defaults.get("size")
    if own and found.size and set(found.size) <= set(usual_sides(own)):
        sides = (0 if side == own else side for side in found.size)
        values |= dict(zip(("width", "height"), sides, strict=True))
    names = sampler_names(entry)
    if found.sampler in names:
        values["sampler"] = "" if found.sampler == names[0] else found.sampler
    taken = replace(found, loras=tuple(lora for lora in found.loras if lora not in loras[:1]))
    return Taken(values, note(taken, values, entry, lang))


def called_here(model: registry.Model) -> dict[str, str]:
    """Name as other programs have it, without a folder -> id, of the LoRAs that go with a model."""
    return {lora.id.rpartition("/")[2]: lora.id for lora in registry.companions(model, "lora")}


def note(found: Parameters, values: dict, entry: registry.Model, lang: str) -> str:
    """In whole sentences, as HTML."""

    def called(name: str, value: object) -> str:
        return say(f"text.elsewhere.{name}", lang, value=brief(str(value)))

    rest = []
    if found.model and "model" not in values:
        rest.append(called("model", found.model))
    if found.sampler and "sampler" not in values:
        rest.append(called("sampler", found.sampler))
    if found.schedule:
        rest.append(called("schedule", found.schedule))
    if found.distilled_guidance is not None:
        rest.append(called("distilled", decimal(found.distilled_guidance, lang, 1)))
    if found.size and "width" not in values:
        rest.append(called("size", "{} × {}".format(*found.size)))
    rest += [called("lora", f"{lora.name} ({decimal(lora.weight, lang)})") for lora in found.loras]
    rest += [brief(name) for name in found.unknown]
    said = []
    if values:
        names = [say(f"text.elsewhere.taken_{name}", lang) for name in INPUTS if name in values]
        said.append(say("text.elsewhere.taken", lang, names=", ".join(names)))
    said += [html.escape(sentence(problem, lang)) for problem in found.left_out]
    if rest:
        said.append(say("text.elsewhere.rest", lang, names=", ".join(rest)))
    if found.marks:
        said.append(say("text.elsewhere.marks", lang, marks=", ".join(map(brief, found.marks))))
    return f'<div class="prompt-note">{" ".join(said)}</div>'


def lay_out(inputs: dict) -> list[Dependency]:
    """The controls. -> the events after which `inputs`, name -> component, are filled."""
    with gr.Accordion(t("text.elsewhere.title"), open=False):
        gr.Markdown(t("text.elsewhere.text"), elem_classes="intro")
        text = gr.Textbox(
            label=t("text.elsewhere.pasted"),
            placeholder=t("text.elsewhere.example"),
            lines=3,
            max_lines=8,
            elem_id="elsewhere",
        )
        with gr.Row():
            fill = gr.Button(t("text.elsewhere.take"), size="sm", min_width=120)
            file = gr.UploadButton(
                t("text.elsewhere.open"),
                type="binary",
                file_types=[".png", ".jpg", ".jpeg", ".webp"],
                size="sm",
                min_width=120,
            )
        told = gr.HTML(elem_id="elsewhere-note")

    def filled(text, model, lang):
        values, said = take(text, model, lang)
        choices = sampler_choices(values.get("model", model))
        updates = [values.get(name, gr.skip()) for name in INPUTS]
        updates[INPUTS.index("sampler")] = Dropdown(
            choices=choices, **({"value": values["sampler"]} if "sampler" in values else {})
        )
        return *updates, said

    def read(data):
        if not data:
            raise Problem("no_picture")
        return parameters.text(data)

    quiet = {**PRIVATE, "show_progress": "hidden"}
    outputs = [*(inputs[name] for name in INPUTS), told]
    filling = handler(filled), [text, inputs["model"]], outputs
    opened = file.upload(handler(read), file, text, **quiet)
    return [fill.click(*filling, **quiet), opened.success(*filling, **quiet)]
