"""What the sections that look inside text to image compute: pictures with their recipes, tokens, curves.

Modules of pipelines that need torch are imported where something is computed: the page starts without.
"""

import functools
import html
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

import pipelines
from apps.i18n import say
from apps.photos import OWN, PHOTOS, chosen
from apps.text_pictures import Asked, small
from apps.widgets import Figure, Result, decimal, figures, jpeg, png
from pipelines import registry
from pipelines.problems import number, whole

MOST = 24  # steps that are shown; where there are more, at equal distances
ACROSS, CELL = 12, 128  # of the strip: steps in a row at most, px of a picture in it
DRAWN = "drawn"  # what the prompt draws, instead of a photograph
SOURCES = (*PHOTOS, DRAWN, OWN)
SHARES = ("words", "start", "end", "other", "picture")


# ---- steps


class Walk(NamedTuple):
    """A picture, and its steps as pictures."""

    pipeline: object
    asked: Asked
    made: object  # pipelines.text_to_image.Made
    frames: list  # of text_inside.Frame

    @classmethod
    def of(cls, load: Callable, asked: Asked, also: int = 0, on_step: Callable | None = None) -> "Walk":
        """Step `also` is among those that are shown."""
        pipeline = asked.pipeline(load)
        from pipelines import text_inside  # after `load`, which sees to it that one thread alone imports torch

        made = pipeline.trace(**asked.words())
        which = {*text_inside.spread(len(made.moments), MOST), *([also - 1] if also else [])}
        return cls(pipeline, asked, made, text_inside.frames(pipeline, made, sorted(which), on_step))

    def guidance(self, frames: list, on_step: Callable | None = None) -> list:
        """-> text_inside.Guidance of these steps"""
        from pipelines import text_inside

        return text_inside.guidance(self.pipeline, self.made, [frame.number - 1 for frame in frames], on_step)


def pair(frame, lang: str) -> list[tuple[Image.Image, str]]:
    """The pictures of a step with what stands below them."""
    parts = {"signal": decimal(frame.level.signal, lang), "noise": decimal(frame.level.noise, lang)}
    return [
        (frame.noised, say("text.inside.steps.noised", lang, **parts)),
        (frame.expected, say("text.inside.steps.expected", lang)),
    ]


def both_channels(frame, lang: str) -> list[tuple[Image.Image, str]]:
    texts = (say(f"text.inside.steps.{name}", lang) for name in ("channels", "channels_expected"))
    return list(zip(frame.channels, texts, strict=True))


def four(frame, guidance, asked: Asked, lang: str) -> list[tuple[Image.Image, str]]:
    """What guidance does at a step."""
    guided = "guided" if asked.guidance > 1 else "unguided"
    w = decimal(asked.guidance, lang, 0 if asked.guidance.is_integer() else 1)
    gap = decimal(guidance.gap, lang)
    return [
        (guidance.given, say("text.inside.steps.given", lang)),
        (guidance.free, say(f"text.inside.steps.{'negative' if asked.negative_prompt else 'free'}", lang)),
        (frame.expected, say(f"text.inside.steps.{guided}", lang, w=w)),
        (guidance.difference, say("text.inside.steps.difference", lang, gap=gap)),
    ]


def arranged(n: int) -> tuple[int, int]:
    """Columns and rows of the strip: rows of about the same length."""
    rows = math.ceil(n / ACROSS)
    return math.ceil(n / rows), rows


def strip(frames: list) -> Image.Image:
    """All steps as one picture: above the noised latent, below it the expected picture."""
    side, (columns, rows) = min(frames[0].noised.width, CELL), arranged(len(frames))
    page = Image.new("RGB", (columns * (side + 2), rows * (2 * side + 6)), "white")
    for i, frame in enumerate(frames):
        for k, picture in enumerate((frame.noised, frame.expected)):
            at = i % columns * (side + 2) + 1, i // columns * (2 * side + 6) + 2 + k * (side + 1)
            page.paste(picture.resize((side, side), Image.Resampling.LANCZOS), at)
    return page


def strip_figure(walk: Walk, lang: str, **inputs) -> Figure:
    page = strip(walk.frames)
    item = walk.asked.made(page, walk.made.recipe, say("text.inside.steps.strip", lang), "steps", **inputs)
    return item._replace(preview=jpeg(page))


def diffusion_steps(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, step, lang, on_step=None
) -> Result:
    """One step of a picture's making, and all steps as a strip: the latent that goes in, the picture that the net
    expects, the channels of both, the same with the prompt, without it, guided, and the difference."""
    asked = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    step = whole("step", step, 1, asked.steps)
    walk = Walk.of(load, asked, step, on_step)
    frame = next(frame for frame in walk.frames if frame.number == step)
    (without,) = walk.guidance([frame])
    pictures = pair(frame, lang) + both_channels(frame, lang) + four(frame, without, asked, lang)
    items = [asked.made(picture, walk.made.recipe, text, "steps", step=step) for picture, text in pictures]
    numbers = {"signal": frame.level.signal, "noise": frame.level.noise, "difference": without.gap}
    return Result([strip_figure(walk, lang, step=step), *items], numbers)


def film(walk: Walk, lang: str) -> dict:
    """What `text_inside.Film` shows: all that one can scrub to."""
    columns, rows = arranged(len(walk.frames))
    n = len(walk.made.moments)
    return {
        "steps": [frame.number for frame in walk.frames],
        "labels": [say("text.inside.steps.step", lang, step=frame.number, n=n) for frame in walk.frames],
        "columns": columns,
        "rows": rows,
        "pairs": [figures(looks(pair(frame, lang)), lang, columns=2) for frame in walk.frames],
        "sheet": figures([strip_figure(walk, lang)], lang, columns=1),
    }


def below(walk: Walk, guidance: list, lang: str) -> list[str]:
    """What stands below each step."""
    title = f'<div class="title">{say("text.inside.steps.guidance", lang)}</div>'
    shown = []
    for frame, without in zip(walk.frames, guidance, strict=True):
        channels = [Figure(png(picture), text, pixels=True) for picture, text in both_channels(frame, lang)]
        items = looks(four(frame, without, walk.asked, lang))
        shown.append(title + figures(items, lang, least=130) + figures(channels, lang, columns=2))
    return shown


def looks(pictures: list[tuple[Image.Image, str]]) -> list[Figure]:
    return [Figure(jpeg(small(picture)), text) for picture, text in pictures]


# ---- words


def looked(load, asked: Asked) -> tuple:
    """-> what was made, the prompt's tokens, its attention: see text_attention."""
    pipeline = asked.pipeline(load)
    from pipelines import text_attention  # after `load`, see Walk.of

    made = pipeline.trace(**asked.words())
    return made, text_attention.tokens(pipeline, asked.prompt), text_attention.attention(pipeline, made)


def word_figures(made, found, asked: Asked, lang: str) -> list[Figure]:
    items = [asked.made(made.image, made.recipe, say("text.inside.words.picture", lang), "words")]
    for word in found.words:
        facts_ = {"share": decimal(100 * word.share, lang, 1), "peak": decimal(word.peak, lang, 1)}
        text = say("text.inside.words.caption", lang, word=html.escape(short(word.text)), **facts_)
        item = asked.made(word.picture, made.recipe, text, "words")
        called = re.sub(r"[^\w-]", "", word.text)[:30]
        items.append(item._replace(name=f"{item.name}_{called}"))
    return items


def short(text: str) -> str:
    return text if len(text) <= 30 else text[:29] + "…"


def attention(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, lang, on_step=None
) -> Result:
    """The picture, and for every word of the prompt where the picture attends to it; the shares of all attention, and
    the numbers of the tokens."""
    asked = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    made, tokens, found = looked(load, asked)
    numbers = {f"tokens_{i + 1}": [piece.id for piece in read.pieces] for i, read in enumerate(tokens)}
    numbers |= {f"share_{name}": share for name, share in found.shares.items()}
    return Result(word_figures(made, found, asked, lang), {"shares": [word.share for word in found.words], **numbers})


def pieces(tokens: list, lang: str) -> str:
    """What the tokenizers make of the prompt, as HTML: pieces of a word stick together."""

    def chip(text: str, id: int, kind: str) -> str:
        return f'<span class="piece {kind}"><bdi>{html.escape(short(text))}</bdi><small>{id}</small></span>'

    rows = []
    for i, read in enumerate(tokens):
        row = [chip(text, id, "special") for text, id in read.before]
        last, kept = -1, [piece for piece in read.pieces if piece.kept]
        for piece in kept:
            row.append(chip(piece.text, piece.id, "same" if piece.word == last >= 0 else ""))
            last = piece.word
        row += [chip(text, id, "special") for text, id in read.after]
        row += [chip(piece.text, piece.id, "cut") for piece in read.pieces[len(kept) :]]
        told = {"kept": len(kept), "length": read.length, "padding": read.padding}
        use = "attended" if i == len(tokens) - 1 else "pooled"  # Flux: CLIP's tokens become one vector
        title = f"<b>{html.escape(read.name)}</b> {say(f'text.inside.words.{use}', lang, **told)}"
        if cut := len(read.pieces) - len(kept):
            title += f" <b>{say('text.inside.words.cut', lang, n=cut)}</b>"
        rows.append(f'<div class="facts"><span>{title}</span></div><div class="pieces">{"".join(row)}</div>')
    return "".join(rows)


# ---- the forward process


@functools.lru_cache(maxsize=4)  # while a slider is dragged
def _drawn(load: Callable, asked: Asked, *_of) -> Image.Image:
    return asked.draw(load)[0]


def drawn(load: Callable, asked: Asked) -> Image.Image:
    """Drawn once, until the model is trained anew or is to be loaded otherwise."""
    model = registry.get(asked.model)
    return _drawn(load, asked, registry.revision(model), *sorted(pipelines.wanted(model.id).items()))


def noise_picture(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, picture, photo, t, lang,
    on_step=None,
) -> Result:  # fmt: skip
    """A picture at time t of its way to noise (0 picture, 1 noise), and what the net expects it to have been."""
    asked = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    return noised(load, asked, picture, photo, number("t", t, 0, 1), lang)[0]


def noised(load, asked: Asked, picture, photo: str, time: float, lang: str) -> tuple[Result, list]:
    """-> result, and (t, level) along the whole way."""
    pipeline = asked.pipeline(load)
    from pipelines import text_inside  # after `load`, see Walk.of

    image = drawn(load, asked) if photo == DRAWN and not picture else chosen(picture, photo, (*PHOTOS, DRAWN))
    found = text_inside.noise(pipeline, image, asked.prompt, asked.seed, time)
    inputs = {"photo": OWN if picture else photo, "t": time}
    parts = {"signal": decimal(found.level.signal, lang), "noise": decimal(found.level.noise, lang)}
    texts = {
        "noised": say("text.inside.noise.noised", lang, **parts),
        "expected": say("text.inside.noise.expected", lang),
    }
    items = [asked.made(getattr(found, name), found.recipe, text, "noise", **inputs) for name, text in texts.items()]
    original = Figure(png(found.original), say("text.inside.noise.original", lang), preview=jpeg(small(found.original)))
    numbers = {"signal": found.level.signal, "noise": found.level.noise}
    if math.isfinite(snr := text_inside.log_snr(found.level)):
        numbers["log_snr"] = snr
    return Result([original, *items], numbers), text_inside.course(pipeline)


def chart(points: list[tuple[float, float]], mark: float, low: float, high: float, name: str, lang: str) -> str:
    """A curve over t from 0 to 1, with a line and a dot at `mark`, as HTML."""
    left, top, wide, tall = 44, 12, 300, 150

    def place(x: float, y: float) -> tuple[float, float]:
        return round(left + wide * x, 1), round(top + tall * (high - y) / (high - low), 1)

    line = " ".join("{},{}".format(*place(x, y)) for x, y in points if low <= y <= high)
    across = round(left + wide * mark, 1)
    _, here = min(points, key=lambda point: abs(point[0] - mark))
    dot = '<circle cx="{}" cy="{}" r="6" class="dot"/>'.format(*place(mark, here)) if low <= here <= high else ""
    levels = [low, (low + high) / 2, high]
    rows = "".join(f'<path d="M{left} {place(0, y)[1]}h{wide}" class="rule"/>' for y in levels)
    rows += "".join(
        f'<text x="{left - 8}" y="{place(0, y)[1] + 5}" text-anchor="end">{decimal(y, lang, 1 if y % 1 else 0)}</text>'
        for y in levels
    )
    foot = "".join(
        f'<text x="{place(x, 0)[0]}" y="{top + tall + 20}" text-anchor="middle">{text}</text>'
        for x, text in ((0, "0"), (0.5, "t"), (1, "1"))
    )
    return (
        f'<figure><svg viewBox="0 0 {left + wide + 14} {top + tall + 28}" class="chart" role="img">{rows}{foot}'
        f'<path d="M{across} {top}v{tall}" class="mark"/><polyline points="{line}" class="curve"/>{dot}</svg>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def curves(course: list, time: float, flow: bool, lang: str) -> str:
    """How much of the picture is left over t, and the ratio of signal to noise."""
    from pipelines.text_inside import log_snr

    left = [(x, level.signal if flow else level.signal**2) for x, level in course]
    ratio = [(x, log_snr(level)) for x, level in course]
    names = [say(f"text.inside.noise.{name}", lang) for name in ("straight" if flow else "alpha_bar", "log_snr")]
    both = chart(left, time, 0, 1, names[0], lang), chart(ratio, time, -10, 10, names[1], lang)
    return f'<div class="figures" style="--least:240px">{"".join(both)}</div>'
