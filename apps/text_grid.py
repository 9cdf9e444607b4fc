"""The section of text to image that draws a picture for every combination of two settings."""

import functools
import html
from collections.abc import Callable
from typing import NamedTuple

import gradio as gr
from gradio.components import Component
from PIL import Image, ImageDraw, ImageFont

from apps.drawing import ASSETS
from apps.i18n import say, t
from apps.links import Choice, Param, Text
from apps.sections import PRIVATE, Sections
from apps.text_pictures import STEM, Asked, button, known, sampler_names, small
from apps.widgets import Dropdown, Result, data_url, decimal, endpoint, figures, jpeg, live, stops
from pipelines import registry
from pipelines.problems import Problem, choice
from pipelines.recipe import Recipe

AXES = ("seed", "steps", "guidance", "sampler", "model", "prompt")
LONGEST_AXIS, CELLS = 8, 36
NOTHING = "-"  # instead of a second axis
VALUES = {  # see `usual`
    "seed": "1, 2, 3, 4",
    "steps": "1, 2, 4, 8, 20",
    "guidance": "1, 2, 4, 8",
    "model": "emoji-sd, emoji-flux",
    "prompt": "frog with melon hat | cat with top hat",
}


def usual(name: str, model: str) -> str:
    """What an axis holds until something else is written."""
    return ", ".join(sampler_names(known(model))) if name == "sampler" else VALUES.get(name, "")


# ---- what is computed


def axis(name: str, values: object) -> list:
    """Values of a setting as people list them: with commas between, prompts with |; with semicolons between, a comma is
    a decimal one. Raises Problem."""
    choice("axis", name, AXES)
    if not isinstance(values, str):
        raise Problem("not_text", name="values", value=values)
    between = "|" if name == "prompt" else ";" if ";" in values else ","
    parts = [part.strip() for part in values.split(between) if part.strip()]
    if not 0 < len(parts) <= LONGEST_AXIS:
        raise Problem("axis_length", name=name, value=len(parts), most=LONGEST_AXIS)
    return [_numeric(name, part) if name in ("seed", "steps", "guidance") else part for part in parts]


def _numeric(name: str, part: str) -> float:
    try:
        return float(part.replace(",", ".")) if name == "guidance" else int(part)
    except ValueError:
        raise Problem("not_a_number", name=name, value=part) from None


class Grid(NamedTuple):
    """Pictures over one or two settings."""

    x: str
    y: str  # NOTHING where there is one axis only
    across: list
    down: list
    cells: dict  # (row, column) -> what was asked, its picture; those that are finished

    def html(self, lang: str) -> str:
        head = "".join(f"<th>{html.escape(label(self.x, value, lang))}</th>" for value in self.across)
        rows = []
        for i, value in enumerate(self.down):
            side = f"<th>{html.escape(label(self.y, value, lang))}</th>" if self.y != NOTHING else ""
            rows.append(f"<tr>{side}{''.join(self._cell(i, j) for j in range(len(self.across)))}</tr>")
        corner = "<td></td>" if self.y != NOTHING else ""
        columns = len(self.across) + (self.y != NOTHING)
        table = f'<table style="--columns:{columns}"><tr>{corner}{head}</tr>{"".join(rows)}</table>'
        return f'<div class="xy">{table}</div>'

    def _cell(self, i: int, j: int) -> str:
        if (i, j) not in self.cells:
            return '<td><div class="frame"></div></td>'
        asked, picture = self.cells[i, j]
        image = f'<img src="{data_url(jpeg(small(picture)))}" alt="">'
        return f"<td>{button('picture', asked.inputs(), image)}</td>"

    def sheet(self, lang: str) -> Image.Image:
        """One picture of all of them, with the labels."""
        side = max(picture.width for _, picture in self.cells.values())
        font = ImageFont.truetype(ASSETS / "fonts" / "inter.woff2", max(12, side // 9))
        heads = [wrapped(label(self.x, value, lang), font, side) for value in self.across]
        sides = [wrapped(label(self.y, value, lang), font, side) for value in self.down] if self.y != NOTHING else []
        gap, tall = side // 16, max(font.size * 1.3 * (1 + text.count("\n")) for text in [*heads, *sides])
        top, left = round(tall) + gap, (side + gap) if sides else 0
        size = left + len(self.across) * (side + gap), top + len(self.down) * (side + gap)
        page = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(page)
        for j, head in enumerate(heads):
            at = (left + j * (side + gap) + side / 2, top - gap / 2)
            pen.multiline_text(at, head, "black", font, "md", align="center")
        for i, text in enumerate(sides):
            pen.multiline_text(
                (left - gap, top + i * (side + gap) + side / 2), text, "black", font, "rm", align="right"
            )
        for (i, j), (_, picture) in self.cells.items():
            page.paste(picture.resize((side, side)), (left + j * (side + gap), top + i * (side + gap)))
        return page


def label(name: str, value: object, lang: str) -> str:
    """How a grid calls a value: "Steps 8"; names and prompts speak for themselves."""
    if name in ("model", "sampler", "prompt"):
        return str(value)
    return f"{say(f'text.axis.{name}', lang)} {decimal(value, lang, 0 if float(value).is_integer() else 1)}"


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 3) -> str:
    """A label in so many lines at most, none longer than that many pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width or not lines[-1] else [*lines, word]
    return "\n".join(lines[:most])


def grid(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, x, xs, y, ys, lang
) -> Result:
    """Pictures over one or two settings: every combination of their values, the other settings as they are."""
    return crossed(
        load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, x, xs, y, ys, lang
    )[1]


def crossed(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, x, xs, y, ys, lang,
    on_step=None,
) -> tuple[Grid, Result]:  # fmt: skip
    """The same, one by one: on_step(i, n, Grid so far)."""
    base = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    across, down = axis(x, xs), [None] if y == NOTHING else axis(y, ys)
    if x == y:
        raise Problem("same_axis", axis=x)
    if (n := len(across) * len(down)) > CELLS:
        raise Problem("too_many_cells", value=n, most=CELLS)
    made = Grid(x, y, across, down, {})
    places = [(i, j) for i in range(len(down)) for j in range(len(across))]
    asked = [
        _with(base, {x: across[j], **({y: down[i]} if y != NOTHING else {})}) for i, j in places
    ]  # before any work
    for k, (place, one) in enumerate(zip(places, asked, strict=True)):
        made.cells[place] = one, one.draw(load)[0]
        if on_step:
            on_step(k + 1, n, made)
    recipe = Recipe.make(STEM, model, registry.revision(known(model)), "grid", {}, base.seed)
    more = {"x": x, "xs": xs, "y": y, "ys": ys}
    sheet = base.made(made.sheet(lang), recipe, say("text.grid.sheet", lang), "grid", **more)
    return made, Result([sheet], {"pictures": n})


def _with(base: Asked, changes: dict) -> Asked:
    """The settings with others in place of some; a sampler that another model lacks gives way to that model's own."""
    if "model" in changes and "sampler" not in changes:
        entry = known(changes["model"])
        changes = {**changes, "sampler": base.sampler if base.sampler in sampler_names(entry) else ""}
    return Asked.of(**{**base._asdict(), **changes})


# ---- the section


def lay_out(load: Callable, sections: Sections, inputs: dict[str, Component], stop: gr.Button) -> list[Param]:
    """Fills the section grid; inputs and stop are those of the whole tab."""
    with sections["grid"]:
        gr.Markdown(t("text.grid.text"), elem_classes="intro controls")
        with gr.Row(elem_classes="controls"):
            axes = [(t(f"text.axis.{name}"), name) for name in AXES]
            x = Dropdown(axes, value="steps", label=t("text.grid.x"), filterable=False, min_width=150)
            xs = gr.Textbox(VALUES["steps"], label=t("text.grid.values"), scale=3, min_width=200)
            none = (t("text.grid.nothing"), NOTHING)
            y = Dropdown([none, *axes], value="guidance", label=t("text.grid.y"), filterable=False, min_width=150)
            ys = gr.Textbox(VALUES["guidance"], label=t("text.grid.values"), scale=3, min_width=200)
        table = gr.HTML(min_height=320, elem_id="xy")
        line = gr.HTML(min_height=30)

    def over_settings(model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight, x, xs, y, ys, lang):
        asked = model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight, x, xs, y, ys
        work = functools.partial(crossed, load, *asked, lang=lang)

        def finished(made):
            table, result = made
            return table.html(lang) + figures(result.figures, lang, big=True)

        yield from live(lambda on_step: work(on_step=on_step), lang, finished, lambda made: made.html(lang))

    crossing = sections.draws("grid", over_settings, [], [*inputs.values(), x, xs, y, ys], [table, line])
    stops(stop, crossing, line)
    for name, values in ((x, xs), (y, ys)):
        event = {"inputs": [name, inputs["model"]], "outputs": values, "show_progress": "hidden", **PRIVATE}
        filled = name.input(usual, **event)
        filled.then(**sections.redraw())
        values.submit(**sections.redraw())
    endpoint(functools.partial(grid, load), [*inputs.values(), x, xs, y, ys], "xy_grid", grid.__doc__)

    return [
        Param("x", x, Choice(lambda: list(AXES)), "steps"),
        Param("xs", xs, Text(lambda text: None), VALUES["steps"]),
        Param("y", y, Choice(lambda: [NOTHING, *AXES]), "guidance"),
        Param("ys", ys, Text(lambda text: None), VALUES["guidance"]),
    ]
