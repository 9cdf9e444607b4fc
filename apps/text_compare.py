"""The section "Compare": one prompt and one seed through several models, in the order of their years.

Each draws as it usually does. A model that cannot be used here, or by anybody but its owner, has a tile that says why.
"""

import functools
import html
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import gradio as gr
from PIL import Image, ImageDraw, ImageFont, ImageOps

import pipelines
from apps.drawing import ASSETS
from apps.i18n import say, sentence, t, texts
from apps.links import Param, Several
from apps.sections import Sections
from apps.text_grid import wrapped
from apps.text_paths import PAIR
from apps.text_pictures import STEM, Asked, asks, button, known, small
from apps.widgets import Dropdown, Figure, Result, decimal, endpoint, figures, jpeg, live, short, stops
from pipelines import hub, registry
from pipelines.problems import Problem
from pipelines.recipe import Recipe, save

CLOSED = (  # name, owner, year in which people first saw its pictures: nobody else has the weights
    ("DALL·E 2", "OpenAI", 2022),
    ("Imagen", "Google", 2022),
    ("Midjourney", "Midjourney", 2022),
    ("DALL·E 3", "OpenAI", 2023),
    ("GPT Image", "OpenAI", 2025),
)
SIDE = 384  # px of a picture on the sheet: three times that of the bundled models


class Tile(NamedTuple):
    """A model, and what it made or why it did not; neither while it is still to come."""

    name: str
    year: int | None
    model: str = ""  # id; a closed one has none
    why: str = ""
    brief: str = ""  # the same in a few words, where there are such
    picture: Image.Image | None = None
    figure: Figure | None = None
    steps: int = 0
    seconds: float = 0.0

    def shown(self, lang: str) -> Figure:
        if self.figure:
            return self.figure
        why = html.escape(self.why or say("text.compare.soon", lang), quote=True)
        brief = f'<span title="{why}">{html.escape(self.brief)}</span>' if self.brief else why
        return Figure(b"", title(self), instead=brief)


# ---- what is computed


def lined_up(models: list[str], lang: str) -> list[Tile]:
    """Those of these ids; without any, all that there are and the closed ones. Raises Problem.

    A large model draws when a person has chosen it.
    """
    every = list({model.id: model for model in map(known, models)}.values()) or registry.models(STEM)
    names = texts(lang)
    tiles = [
        Tile(names.get(f"models.{one.id}", one.id), one.year, one.id, *why_not(one, bool(models), lang))
        for one in every
    ]
    if not models:
        for name, owner, year in CLOSED:
            why, brief = (say(f"text.compare.{key}", lang, owner=owner) for key in ("closed", "closed_brief"))
            tiles.append(Tile(name, year, why=why, brief=brief))
    return sorted(tiles, key=lambda tile: tile.year or math.inf)


def why_not(model: registry.Model, chosen: bool, lang: str) -> tuple[str, str]:
    """Why it does not draw here and now, in a sentence and in a few words; "" if it does. Nothing is downloaded for a
    comparison."""
    problem = pipelines.status(model)
    if not problem and not hub.folder(model):
        problem = Problem("not_downloaded", model=model.id)
    gb = decimal(model.memory_mb / 1024, lang, 1)
    if problem:
        size = f" ({gb} GB)" if problem.code == "memory" else ""
        return sentence(problem, lang), say(short(problem), lang) + size
    if not chosen and asks(model.id, lang):
        return say("text.compare.large", lang, gb=gb), say("text.compare.large_brief", lang)
    return "", ""


def drawn(
    load: Callable, prompt, negative_prompt, seed, models, lang: str, on_step: Callable | None = None
) -> tuple[list[Tile], Result]:
    """The tiles, and their pictures with a sheet of all; `on_step(i, n, tiles so far)`, None where nothing is new.

    The smallest models draw first, so that something can soon be seen.
    """
    models = models if isinstance(models, list) else [models] if models else []
    tiles = lined_up(models, lang)
    asked = {}
    for i, tile in enumerate(tiles):
        if tile.model and not tile.why:
            own = known(tile.model).defaults
            how = own.get("steps", 20), own.get("guidance", 4.0), ""
            asked[i] = Asked.of(tile.model, prompt, negative_prompt, seed, *how)
    total, done = sum(one.steps for one in asked.values()), 0
    for i in sorted(asked, key=lambda i: known(tiles[i].model).memory_mb):
        one = asked[i]

        def report(step, *_, before=done):
            on_step(before + step, total, None)

        tiles = [*tiles]  # whoever shows the last ones may still be at it
        try:
            tiles[i] = _with_picture(load, one, tiles[i], on_step and report, lang)
        except Problem as problem:
            tiles[i] = tiles[i]._replace(why=sentence(problem, lang))
        done += one.steps
        if on_step:
            on_step(done, total, tiles)
    made = [tile for tile in tiles if tile.figure]
    numbers = {name: [getattr(tile, name) for tile in made] for name in ("steps", "seconds")}
    if not made:
        return tiles, Result([], numbers)
    first = known(made[0].model)
    settings = {"section": "compare", "prompt": prompt, "negative_prompt": negative_prompt, "models": models}
    recipe = Recipe.make(STEM, first.id, registry.revision(first), "compare", settings, one.seed)
    whole = sheet(tiles, prompt, lang)
    name = f"compare_{one.seed}"
    last = Figure(save(whole, recipe), say("text.compare.sheet", lang), name, preview=jpeg(small(whole, 1024)))
    return tiles, Result([*(tile.figure for tile in made), last], numbers)


def _with_picture(load: Callable, one: Asked, tile: Tile, report: Callable | None, lang: str) -> Tile:
    load(one.model)  # is not counted
    start = time.monotonic()
    picture, recipe = one.draw(load, report)
    tile = tile._replace(picture=picture, steps=one.steps, seconds=time.monotonic() - start)
    facts = [say("text.compare.steps", lang, n=one.steps)]
    if count := parameters(known(one.model)):
        facts.append(say("text.compare.parameters", lang, n=decimal(count / 1e6, lang, 0 if count > 2e7 else 1)))
    facts.append(say("text.compare.seconds", lang, n=decimal(tile.seconds, lang, 0 if tile.seconds >= 10 else 1)))
    caption = f"{title(tile)}<br>{' · '.join(facts)}"
    values = {**one.inputs(), "sampler": ""}  # its own, as the picker has it
    below = f'<div class="uses">{button("picture", values, say("text.compare.take", lang))}</div>'
    return tile._replace(figure=one.made(picture, recipe, caption, "picture", below))


def parameters(model: registry.Model) -> int:
    """How many numbers it has learnt, if a file beside it says so."""
    try:
        count = json.loads((model.path / "training.json").read_text("utf-8"))["parameters"]
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return 0
    return count if isinstance(count, int) else 0


def compare(load, prompt, negative_prompt, seed, models, lang, on_step=None) -> Result:
    """The same prompt and seed through several models, each with its usual steps and guidance: their pictures in the
    order of the years, then a sheet of all, those that cannot be used here included. Without models: all small ones."""
    tiles, result = drawn(load, prompt, negative_prompt, seed, models, lang, on_step)
    if not result.figures:
        raise Problem("nothing_to_compare")
    return result


# ---- what is shown


def title(tile: Tile) -> str:
    year = f" · {tile.year}" if tile.year else ""
    return f"<b>{html.escape(tile.name)}</b>{year}"


def page(tiles: list[Tile], lang: str, result: Result | None = None) -> str:
    """HTML; with a result its sheet, too."""
    whole = figures(result.figures[-1:], lang, big=True) if result and result.figures else ""
    return figures([tile.shown(lang) for tile in tiles], lang, least=170) + whole


def sheet(tiles: list[Tile], prompt: str, lang: str) -> Image.Image:
    """One picture of all tiles, with labels and the prompt above them."""
    columns, gap = min(5, math.ceil(math.sqrt(len(tiles)))), SIDE // 16
    fonts = {size: ImageFont.truetype(ASSETS / "fonts" / "inter.woff2", size) for size in (34, 24, 20)}
    years = [tile.year for tile in tiles if tile.year]
    span = "–".join(map(str, sorted({min(years), max(years)}))) if years else ""
    width = columns * (SIDE + gap) + gap
    head = wrapped(", ".join(filter(None, (prompt.strip(), span))), fonts[34], width - 2 * gap)
    top, tall = gap + round(fonts[34].size * 1.3) * (1 + head.count("\n")), SIDE + 100
    result = Image.new("RGB", (width, top + math.ceil(len(tiles) / columns) * tall), "white")
    pen = ImageDraw.Draw(result)
    pen.multiline_text((gap, gap), head, "black", fonts[34])
    for i, tile in enumerate(tiles):
        x, y = gap + i % columns * (SIDE + gap), top + gap + i // columns * tall
        if tile.picture:
            picture = ImageOps.contain(tile.picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
            result.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
        else:
            pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), "#ececec")
            why = wrapped(tile.brief or tile.why, fonts[20], SIDE - 2 * gap, most=12)
            pen.multiline_text((x + SIDE / 2, y + SIDE / 2), why, "#555555", fonts[20], "mm", align="center")
        name = tile.name.partition(" · ")[0]  # without what is said about it
        pen.text((x, y + SIDE + 8), wrapped(name, fonts[24], SIDE, most=1), "black", fonts[24])
        below = [str(tile.year)] * bool(tile.year) + [say("text.compare.steps", lang, n=tile.steps)] * bool(tile.steps)
        pen.text((x, y + SIDE + 40), " · ".join(below), "#555555", fonts[20])
    return result


def lay_out(load: Callable, sections: Sections, inputs: dict) -> list[Param]:
    """Fills the section."""
    with sections["compare"]:
        gr.Markdown(t("text.compare.text"), elem_classes="intro controls")
        choices = [(_name(model.id), model.id) for model in registry.models(STEM)]
        models = Dropdown(
            choices,
            value=[],
            multiselect=True,
            allow_custom_value=True,  # those that are found later
            label=t("text.compare.models"),
            elem_classes="controls",
        )
        with gr.Row():
            line = gr.HTML(min_height=30)
            stop = gr.Button(t("shell.stop"), elem_classes="stop", scale=0, min_width=90, size="sm")
        tiles = gr.HTML(min_height=320, elem_id="compared")

    def one_after_the_other(prompt, negative_prompt, seed, models, lang) -> Iterator[tuple]:
        work = functools.partial(drawn, load, prompt, negative_prompt, seed, models, lang)
        show = functools.partial(page, lang=lang)
        yield from live(work, lang, lambda made: show(made[0], result=made[1]), show, every=True)

    def meanwhile(prompt, negative_prompt, seed, models, lang) -> str:
        return page(lined_up(models or [], lang), lang)

    asked = [*(inputs[field] for field in ("prompt", "negative_prompt", "seed")), models]
    shown = [tiles, line]
    event = sections.draws("compare", one_after_the_other, [models.input], asked, shown, PAIR["diffusion"], meanwhile)
    stops(stop, [event], line)
    endpoint(functools.partial(compare, load), asked, "compare", compare.__doc__)
    return [Param("models", models, Several(lambda: [model.id for model in registry.models(STEM)]), [])]


def _name(id: str):
    return t(f"models.{id}") if f"models.{id}" in texts("en") else id
