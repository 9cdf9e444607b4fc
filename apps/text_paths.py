"""The section "Diffusion beside flow matching": one prompt and seed through both small models, and their paths."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import gradio as gr

from apps.i18n import say, t
from apps.links import Param
from apps.sections import Sections
from apps.text_pictures import Asked
from apps.widgets import Figure, Result, decimal, endpoint, figures, live, stops
from pipelines import registry
from pipelines.text_paths import Plane, path, plane

PAIR = {"diffusion": "emoji-sd", "flow": "emoji-flux"}  # kind -> model: both begin with the same noise
PATHS = 4  # whose seeds follow one another
FEW = (1, 2, 4, 8, 16)  # steps
WIDTH, LEFT, SPAN = 640, 60, 520  # of a drawing; where noise lies in it, and how far off the picture
COLOURS = (
    ".paths{--diffusion:#c2410c;--flow:#1d6fb8}body.dark .paths{--diffusion:#ff9d5c;--flow:#6ab7ff}"
    ".paths text{fill:var(--ink);font:17px Inter,sans-serif}"
)


class Course(NamedTuple):
    """What one of the two made, as far as it got."""

    pictures: tuple[Figure, ...] = ()
    paths: tuple[Plane, ...] = ()
    few: tuple[Figure, ...] = ()


# ---- what is computed


def compare(
    load: Callable, prompt, negative_prompt, seed, steps, guidance, lang: str, on_step: Callable | None = None
) -> dict[str, Course]:
    """kind -> what it made; `on_step(i, n, so far)` tells what is new, None where nothing is."""
    asked = {kind: Asked.of(model, prompt, negative_prompt, seed, steps, guidance, "") for kind, model in PAIR.items()}
    made = {kind: Course() for kind in PAIR}
    total = sum(PATHS * one.steps + sum(FEW) for one in asked.values())
    done = 0

    def count(*_):
        nonlocal done
        done += 1
        on_step(done, total, None)

    def add(kind: str, **more) -> None:
        """A new dict each time: whoever shows the last one may still be at it."""
        nonlocal made
        course = made[kind]
        grown = {name: (*getattr(course, name), value) for name, value in more.items()}
        made = {**made, kind: course._replace(**grown)}
        if on_step:
            on_step(done, total, made)

    for i in range(PATHS):
        for kind, first in asked.items():
            one = first._replace(seed=(first.seed + i) % 2**32)
            traced = one.pipeline(load).trace(**one.words(), on_step=on_step and count)
            line = plane(path(traced))
            if i:
                add(kind, paths=line)
                continue
            caption = say("text.paths.picture", lang, name=name(kind, lang), n=first.steps)
            add(kind, paths=line, pictures=first.made(traced.image, traced.recipe, caption, "paths"))
    for n in FEW:
        for kind, first in asked.items():
            one = first._replace(steps=n)
            picture, recipe = one.draw(load, on_step and count)
            add(kind, few=one.made(picture, recipe, f"<b>{n}</b> · {name(kind, lang)}", "picture"))
    return made


def name(kind: str, lang: str) -> str:
    return say(f"text.paths.{kind}", lang)


def paths(load, prompt, negative_prompt, seed, steps, guidance, lang, on_step=None) -> Result:
    """Both small models on the same noise: their pictures, then those of 1, 2, 4, 8 and 16 steps of each. Numbers:
    `detour` of the paths of four seeds (length over straight distance), and where the first one runs in its plane."""
    made = compare(load, prompt, negative_prompt, seed, steps, guidance, lang, on_step)
    pictures = [figure for course in made.values() for figure in course.pictures]
    few = [figure for course in made.values() for figure in course.few]
    numbers = {}
    for kind, course in made.items():
        along, up = course.paths[0].points.T
        numbers[f"detour_{kind}"] = [line.detour for line in course.paths]
        numbers[f"along_{kind}"], numbers[f"up_{kind}"] = along.tolist(), up.tolist()
    return Result([*pictures, *few], numbers)


def quality() -> dict[str, dict[int, float]]:
    """kind -> steps -> share of pictures with the right object, as training/evaluate.py found; {} without figures."""
    found = {}
    for kind, model in PAIR.items():
        try:
            known = json.loads((registry.get(model).path / "training.json").read_text("utf-8"))["figures"]
            at = ((re.fullmatch(r"object_right_steps_([1-9]\d{0,3})", name), share) for name, share in known.items())
            shares = {int(match[1]): float(share) for match, share in at if match}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # not evaluated yet
        if len(shares) > 1 and all(0 <= share <= 1 for share in shares.values()):
            found[kind] = dict(sorted(shares.items()))
    return found


# ---- what the page shows


def page(made: dict[str, Course], lang: str) -> str:
    """Everything that is there, as HTML."""
    pictures = [figure for course in made.values() for figure in course.pictures]
    parts = [f'<div style="max-width:560px;margin:0 auto">{figures(pictures, lang)}</div>', in_a_plane(made, lang)]
    if few := [figure for course in made.values() for figure in course.few]:
        rows = (figures(course.few, lang, columns=len(FEW)) for course in made.values() if course.few)
        parts += [f'<div class="title">{say("text.paths.few", lang)}</div>', *rows]
        parts += [against_steps(quality(), lang)] if len(few) == len(FEW) * len(made) else []
    return "".join(f'<div style="margin-bottom:22px">{part}</div>' for part in parts if part)


def in_a_plane(made: dict[str, Course], lang: str) -> str:
    """All paths over each other, noise left and picture right; both axes have the same scale."""
    seen = {kind: course for kind, course in made.items() if course.paths}
    heights = [y for course in seen.values() for line in course.paths for y in line.points[:, 1]]
    top, bottom = 34 + max(0.05, *heights) * SPAN, 44 - min(0, *heights) * SPAN

    def at(points) -> list[tuple[float, float]]:
        return [(LEFT + x * SPAN, top - y * SPAN) for x, y in points]

    lines = [f'<path d="M{LEFT} {top:.1f}h{SPAN}" stroke="var(--faint)" stroke-dasharray="5 6" stroke-width="1.5"/>']
    for kind, course in seen.items():
        for i, line in reversed(list(enumerate(course.paths))):  # the first lies on top
            lines.append(curve(at(line.points), kind, *((1.6, 0.5, 0) if i else (3.5, 1, 4.2))))
    for x, end in ((LEFT, "noise"), (LEFT + SPAN, "end")):
        lines.append(f'<circle cx="{x}" cy="{top:.1f}" r="6" fill="var(--ink)"/>')
        lines.append(f'<text x="{x}" y="{top + 30:.1f}" text-anchor="middle">{say(f"text.paths.{end}", lang)}</text>')
    legend = {}
    for kind, course in seen.items():
        detour = sum(line.detour for line in course.paths) / len(course.paths)
        legend[kind] = say("text.paths.detour", lang, name=name(kind, lang), detour=decimal(detour, lang))
    first = [course.paths[0] for course in seen.values()]
    shown, dimensions = min(line.shown for line in first), max(line.dimensions for line in first)
    numbers = {"shown": math.floor(100 * shown), "dimensions": decimal(dimensions, lang, 0)}
    caption = say("text.paths.caption", lang, n=max(len(course.paths) for course in seen.values()), **numbers)
    return chart(lines, top + bottom, legend, caption)


def against_steps(shares: dict[str, dict[int, float]], lang: str) -> str:
    """What the judge says of pictures with so many steps; "" if it has not been asked."""
    if not shares:
        return ""
    every = sorted({n for of in shares.values() for n in of})
    low, high, top, height = math.log2(every[0]), math.log2(every[-1]), 26, 200

    def at(n: int, share: float) -> tuple[float, float]:
        return LEFT + (math.log2(n) - low) / (high - low) * SPAN, top + (1 - share) * height

    lines = []
    for share in (0, 0.5, 1):
        y = at(every[0], share)[1]
        lines.append(f'<path d="M{LEFT} {y}h{SPAN}" stroke="var(--line)" stroke-width="1.5"/>')
        lines.append(f'<text x="{LEFT - 12}" y="{y + 6}" text-anchor="end">{100 * share:.0f}</text>')
    for n in every:
        lines.append(f'<text x="{at(n, 0)[0]:.1f}" y="{top + height + 28}" text-anchor="middle">{n}</text>')
    lines += [curve([at(n, share) for n, share in of.items()], kind, 3.5, 1, 5) for kind, of in shares.items()]
    legend = {kind: name(kind, lang) for kind in shares}
    title = f'<div class="title">{say("text.paths.quality", lang)}</div>'
    return title + chart(lines, top + height + 40, legend, say("text.paths.judged", lang))


def curve(points: list[tuple[float, float]], kind: str, width: float, opacity: float, dot: float) -> str:
    """A line through points of a drawing, with dots of that radius on them."""
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = f'<polyline points="{where}" stroke="var(--{kind})" stroke-width="{width}" opacity="{opacity}"/>'
    dots = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot}" fill="var(--{kind})"/>' for x, y in points if dot)
    return line + "".join(dots)


def chart(lines: list[str], height: float, legend: dict[str, str], caption: str) -> str:
    look = f'class="paths" viewBox="0 0 {WIDTH} {height:.0f}" fill="none" stroke-linejoin="round" role="img"'
    look += ' style="display:block;width:100%;max-height:60vh"'
    drawing = f"<svg {look}><style>{COLOURS}</style>{''.join(lines)}</svg>"
    names = "".join(f'<span style="--dot:var(--{kind})">{text}</span>' for kind, text in legend.items())
    caption = f'<div class="legend paths">{names}</div><figcaption>{caption}</figcaption>'
    return f'<div class="figures"><figure><div class="frame">{drawing}</div>{caption}</figure></div>'


def lay_out(load: Callable, sections: Sections, inputs: dict) -> list[Param]:
    """Fills the section; it has no controls of its own."""
    with sections["paths"]:
        gr.Markdown(t("text.paths.text"), elem_classes="intro controls")
        with gr.Row():
            line = gr.HTML(min_height=30)
            stop = gr.Button(t("shell.stop"), elem_classes="stop", scale=0, min_width=90, size="sm")
        both = gr.HTML(min_height=320, elem_id="paths")
        gr.Markdown(t("text.paths.more"), elem_classes="intro controls")

    def drawn(prompt, negative_prompt, seed, steps, guidance, lang) -> Iterator[tuple]:
        """All that is new is shown, the status line ten times a second."""
        work = functools.partial(compare, load, prompt, negative_prompt, seed, steps, guidance, lang)
        show = functools.partial(page, lang=lang)
        yield from live(work, lang, show, show, every=True)

    asked = [inputs[field] for field in ("prompt", "negative_prompt", "seed", "steps", "guidance")]
    event = sections.draws("paths", drawn, [], asked, [both, line], model=PAIR["diffusion"])
    stops(stop, [event], line)
    endpoint(functools.partial(paths, load), asked, "paths", paths.__doc__)
    return []
