"""Controls that several tabs use, and `handler`, through which everything a tab computes is called."""

import base64
import binascii
import functools
import html
import inspect
import io
import json
import logging
import math
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import gradio as gr
from gradio.events import Dependency
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from apps import drawing, server
from apps.i18n import language, say, sentence, t, texts
from pipelines import registry
from pipelines.hub import status as availability
from pipelines.pictures import open_picture
from pipelines.problems import Problem

_log = logging.getLogger(__name__)
COMPUTE = {
    "concurrency_id": "compute",
    "concurrency_limit": 1,
}  # one queue lane: two cores do not draw two things faster
QUICK = {**COMPUTE, "trigger_mode": "always_last", "show_progress": "hidden"}  # follows a finger: the newest input wins
MAX_SEED = 2**32 - 1
LARGE = 2**20  # bytes of a picture that the page does not carry with it


def handler(fn: Callable) -> Callable:
    """fn(..., lang) -> what gradio calls: `lang` comes from the request, a Problem becomes a sentence in that language.

    Anything else that goes wrong is our mistake: it goes to the log, and the person learns no more than that.
    """
    inner = inspect.signature(fn)
    has_lang = "lang" in inner.parameters
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    # What has a default is not asked of the page.
    names = [p for name, p in inner.parameters.items() if name != "lang" and p.default is inspect.Parameter.empty]

    def told(error: Exception, lang: str) -> dict:
        if isinstance(error, Problem):
            text = sentence(error, lang)
        else:
            _log.exception("%s failed", getattr(fn, "__qualname__", fn), exc_info=error)
            text = say("shell.unexpected", lang)
        return {"message": text, "duration": 12}

    def split(args):
        lang = language(args[-1])
        return args[:-1], {"lang": lang} if has_lang else {}, lang

    def refuse(values):
        for value in values:
            if isinstance(value, Problem):
                raise value

    if inspect.isgeneratorfunction(fn):

        def call(*args):
            values, keywords, lang = split(args)
            try:
                refuse(values)
                yield from fn(*values, **keywords)
            except Exception as error:  # raised here, gradio would put an English title over it
                gr.Warning(**told(error, lang))
    else:

        def call(*args):
            values, keywords, lang = split(args)
            try:
                refuse(values)
                return fn(*values, **keywords)
            except Exception as error:
                raise gr.Error(**told(error, lang), print_exception=False) from None

    functools.update_wrapper(call, fn, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del call.__wrapped__
    call.__signature__ = inspect.Signature([*names, request])
    call.__annotations__ = {"request": gr.Request}
    return call


# ---- pictures ------------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """One picture with what stands below it: `data` is a PNG or WebP as it is saved, recipe included."""

    data: bytes
    caption: str
    name: str = ""  # of the saved file; without it there is nothing to save
    pixels: bool = False  # show the pixels as squares
    below: str = ""  # HTML below the caption
    preview: bytes = b""  # what the page shows instead, smaller or in a lighter format
    instead: str = ""  # HTML in the place of a picture that is not there


def figures(items: Sequence[Figure], lang: str, big: bool = False, least: int = 150, columns: int = 0) -> str:
    """Pictures as HTML: in a row that wraps below `least` px a picture, or in so many columns."""

    def one(item: Figure) -> str:
        alt = html.escape(html.unescape(_plain(item.caption)) or item.name, quote=True)
        shown = f'<div class="instead">{item.instead}</div>'
        if not item.instead:
            pixels = " class=pixels" if item.pixels else ""
            shown = f'<img src="{data_url(item.preview or item.data)}" alt="{alt}"{pixels}>'
        caption = f"<figcaption>{item.caption}</figcaption>" if item.caption else ""
        return f'<figure><div class="frame">{shown}</div>{_save_link(item, lang)}{caption}{item.below}</figure>'

    kind = "square" if columns else "big" if big else ""
    style = f"--columns:{columns}" if columns else f"--least:{least}px"
    return f'<div class="figures {kind}" style="{style}">{"".join(map(one, items))}</div>'


def before_after(before: Figure, after: Figure, lang: str) -> str:
    """Two pictures of one size over each other, with a handle to draw one aside."""
    save = _save_link(after, lang)
    label = html.escape(say("shell.compare", lang), quote=True)
    images = (f'<img src="{data_url(item.preview or item.data)}" alt="">' for item in (before, after))
    return (
        f'<div class="figures big"><figure><div class="frame aside">{"".join(images)}'
        f'<input type="range" aria-label="{label}" '
        f"oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\"></div>{save}"
        f'<figcaption class="ends"><span>{before.caption}</span><span>{after.caption}</span></figcaption>'
        "</figure></div>"
    )


def _save_link(item: Figure, lang: str) -> str:
    if not item.name:
        return ""
    hint, name = say("shell.save", lang), f"{item.name.replace('/', '_')}.{_kind(item.data)}"
    link = data_url(item.data) if len(item.data) < LARGE else server.keep(item.data)
    hint, name = html.escape(hint, quote=True), html.escape(name, quote=True)
    return f'<a class="save" href="{link}" download="{name}" title="{hint}"></a>'


def _kind(data: bytes) -> str:
    return {b"RIFF": "webp", b"\xff\xd8\xff\xe0": "jpeg"}.get(data[:4], "png")


def _plain(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub("</?b>", "", markup)).split())


def png(picture: Image.Image) -> bytes:
    """A picture of which there is nothing to tell: thumbnails, differences."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def jpeg(picture: Image.Image) -> bytes:
    """A photograph as the page shows it: a tenth of a PNG."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/{_kind(data)};base64,{base64.b64encode(data).decode()}"


def status(lang: str, done: int = 0, total: int = 0, since: float = 0.0, text: str = "") -> str:
    """The line above a result: how far the work is and how long it still takes, or `text`."""
    if not total:
        return f'<div class="status" role="status">{html.escape(text)}</div>'
    left = (time.monotonic() - since) / max(done, 1) * (total - done)
    words = say("shell.progress", lang, done=done, total=total, left=max(1, round(left)))
    return f'<div class="status" role="status"><progress max="{total}" value="{done}"></progress>{words}</div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and numbers in a row."""
    return '<div class="facts">' + "".join(f"<span>{name} <b>{value}</b></span>" for name, value in pairs) + "</div>"


def decimal(value: float, lang: str, digits: int = 2) -> str:
    """1234.5 -> "1.234,50" in German; a minus is a minus."""
    if math.isinf(value):
        return "∞"
    text = f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")
    return text.translate(str.maketrans(",.", ".,")) if lang == "de" else text


class Result(NamedTuple):
    """What a tab computes: pictures as they are saved, and numbers about them."""

    figures: list[Figure]
    numbers: dict[str, float | list[float]] = {}


def endpoint(fn: Callable, inputs: list, api_name: str, description: str) -> None:
    """fn(*inputs, lang) -> Result as an API endpoint of its own: the files, and the numbers as JSON."""

    def call(*args, **lang):
        result, paths = fn(*args, **lang), []
        for i, item in enumerate(result.figures):
            name = f"{i}-{item.name or 'picture'}.{_kind(item.data)}"
            paths.append(save_bytes_to_cache(item.data, name, get_upload_folder()))  # gradio clears it: `delete_cache`
        return paths, result.numbers

    call.__signature__, call.__qualname__ = inspect.signature(fn), api_name
    files = gr.File(visible=False, file_count="multiple", label="pictures")
    numbers = gr.JSON(visible=False, label="numbers")
    gr.Button(visible=False).click(
        handler(call), inputs, [files, numbers], api_name=api_name, api_description=description, **COMPUTE
    )


def follow(work: Callable[[Callable], object]) -> Iterator[tuple]:
    """Runs work(on_step) beside; yields (i, n, preview) for each step, at the end (None, None, what it returned).

    Whoever closes this generator (Stop, a page that went away) makes the next `on_step` raise: work ends within a step.
    """
    events, stopped = queue.SimpleQueue(), threading.Event()

    class Stopped(BaseException):
        pass

    def on_step(i, n, preview):
        if stopped.is_set():
            raise Stopped
        events.put((i, n, preview))

    def run():
        try:
            events.put((None, None, work(on_step)))
        except Stopped:
            pass
        except BaseException as error:
            events.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event[0] is None:
                return
    finally:
        stopped.set()
        thread.join()


def live(
    work: Callable,
    lang: str,
    show: Callable,
    preview: Callable | None = None,
    patience: float = 0.0,
    every: bool = False,
) -> Iterator[tuple]:
    """work(on_step) as a page follows it: (pictures, status line) ten times a second at most, then show(result).

    Nothing is said of what is done within `patience` seconds. every: no preview is left out, however soon it comes.
    """
    start = time.monotonic()
    last = start + patience - 0.1
    if not patience:
        yield gr.skip(), status(lang, text=say("shell.loading", lang))
    try:
        for i, n, made in follow(work):
            if i is None:
                yield show(made), status(lang)
            elif (every and made) or time.monotonic() - last > 0.1:
                last = time.monotonic()
                yield preview(made) if preview and made else gr.skip(), status(lang, i, n, start)
    except Exception:
        yield gr.skip(), status(lang)
        raise


# ---- inputs --------------------------------------------------------------------------------------------------------


class _Unchecked:
    """gradio refuses values outside a control's range in English; the pipeline does in the person's language."""

    def preprocess(self, payload):
        return payload

    def get_block_name(self) -> str:
        return type(self).__name__.lower()


class Slider(_Unchecked, gr.Slider):
    pass


class Number(_Unchecked, gr.Number):
    pass


class Dropdown(_Unchecked, gr.Dropdown):
    pass


class Radio(_Unchecked, gr.Radio):
    pass


class Plane(gr.HTML):
    """A square of latent space: dots or decodings, one point to drag (`trugbild.plane` in shell.js)."""

    def __init__(self, value: dict | None = None, fixed: bool = False, **kwargs):
        super().__init__(
            value,
            html_template=f'<div class="pad" data-fixed="{int(fixed)}"><canvas tabindex="0" role="application">'
            '</canvas></div><div class="legend"></div>',
            js_on_load="trugbild.plane(element, props, trigger, watch)",
            apply_default_css=False,
            **kwargs,
        )

    def api_info(self) -> dict:
        return {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}}

    def example_payload(self) -> dict:
        return {"x": 0.3, "y": -1.2}

    example_value = example_payload


class Examples(gr.HTML):
    """A pad to draw on above small pictures to choose from. Value: codes joined by commas (`many`: several of them)."""

    def __init__(self, value: str = "", pad: bool = True, many: bool = False, **kwargs):
        canvas = (
            '<div class="pad"><canvas></canvas><div class="hint">${trugbild.words.draw_here}</div>'
            '<button type="button" class="clear" data-clear>${trugbild.words.clear}</button></div>'
        )
        super().__init__(
            value,
            html_template=f'<div class="examples" data-many="{int(many)}">{canvas if pad else ""}'
            f'<div class="thumbs">{_thumbs()}</div></div>',
            js_on_load="trugbild.examples(element, props, trigger, watch)",
            apply_default_css=False,
            **kwargs,
        )


class Sketch(gr.HTML):
    """A square for strokes: white on black or, with `veil`, over the picture that an event puts there with
    `gr.update(background=data URL)`. `width` of the pen and of the `rubber`, 0 if there is none: thousandths of the
    square. Value: "" or "s:" and strokes, with a rubber what drawing.painted reads."""

    def __init__(
        self, value: str = "", veil: bool = False, width: int = 16, rubber: int = 0, background: str = "", **kwargs
    ):
        rub = '<button type="button" data-rub aria-pressed="false">${trugbild.words.rub}</button>' if rubber else ""
        super().__init__(
            value,
            html_template=f'<div class="sketch" data-veil="{int(veil)}" data-width="{width}" data-rubber="{rubber}">'
            '<div class="pad"><canvas></canvas><div class="hint">${trugbild.words.draw_here}</div></div>'
            f'<div class="uses">{rub}'
            '<button type="button" data-undo>${trugbild.words.undo}</button>'
            '<button type="button" data-clear>${trugbild.words.clear}</button></div></div>',
            js_on_load="trugbild.sketch(element, props, trigger, watch)",
            apply_default_css=False,
            background=background,
            **kwargs,
        )

    def api_info(self) -> dict:
        return {"type": "string"}

    def example_payload(self) -> str:
        return ""

    example_value = example_payload


class People(gr.HTML):
    """People of a face model in a row, to exchange, add and take away. Value: words joined by commas, see people.py.

    Their pictures come from an event that answers `gr.update(thumbs={word: data URL})`.
    """

    def __init__(self, value: str = "", least: int = 1, most: int = 8, thumbs: dict | None = None, **kwargs):
        super().__init__(
            value,
            html_template=f'<div class="people" data-least="{least}" data-most="{most}"></div>',
            js_on_load="trugbild.people(element, props, trigger, watch)",
            apply_default_css=False,
            thumbs=thumbs or {},
            **kwargs,
        )


class Quiz(gr.HTML):
    """Real or generated? Value: [{src, real, score}], score the discriminator's logit."""

    def __init__(self, value: list | None = None, **kwargs):
        super().__init__(
            value or [], html_template='<div class="quiz"></div>', js_on_load="trugbild.quiz(element, props, watch)",
            apply_default_css=False, **kwargs,
        )  # fmt: skip

    def api_info(self) -> dict:
        return {"type": "array", "items": {"type": "object"}}


class Picker(gr.HTML):
    """Invisible: its value becomes "use:word:n" when a button `data-use` with `data-word` is clicked on the page."""

    def __init__(self, value: str = "", **kwargs):
        js = "trugbild.picker(element, props, trigger)"
        super().__init__(value, html_template="", js_on_load=js, apply_default_css=False, **kwargs)


@functools.cache  # gradio builds a component anew whenever one of its properties changes
def _thumbs() -> str:
    def thumb(example: dict) -> str:
        kind, source = "garment" if example["fashion"] else "digit", data_url(png(drawing.picture(example)))
        attributes = f'data-code="{example["id"]}" data-kind="{kind}" aria-label="{example["id"]}" aria-pressed="false"'
        return f'<button type="button" {attributes}><img src="{source}" alt=""></button>'

    return "".join(map(thumb, drawing.examples()))


class PictureInput(gr.Image):
    """Upload, camera or clipboard -> PIL RGB as `pipelines.pictures.open_picture` reads it, or its sentence."""

    def __init__(self, **kwargs):
        super().__init__(type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"], **kwargs)

    def get_block_name(self) -> str:
        return "image"

    def get_config(self) -> dict:  # gradio reads the names of properties from __init__
        return {**super().get_config(), **super().get_config(gr.Image)}

    def preprocess(self, payload) -> Image.Image | Problem | None:
        if payload is None:
            return None
        try:
            if payload.url and payload.url.startswith("data:"):
                return open_picture(base64.b64decode(payload.url.partition(",")[2], validate=True))
            return open_picture(payload.path)
        except binascii.Error:
            return Problem("picture_unreadable")
        except Problem as problem:  # who is asking, and in which language, is not known here: `handler` raises it
            return problem


def model_choices(tab: str, kind: str, lang: str) -> list[tuple[str, str]]:
    """(name, id) of the models of a kind; what cannot be used here stays in the list and says why."""
    choices = []
    for model in registry.models(tab):
        if model.kind == kind:
            name = texts(lang).get(f"models.{model.id}", model.id)
            problem = availability(model)
            choices.append((f"{name} — {say(short(problem), lang)}" if problem else name, model.id))
    return choices


def short(problem: Problem) -> str:
    """Why something cannot be used, in two words: the key of a text."""
    keys = {"gated": "needs_licence", "unauthorised": "needs_licence", "memory": "too_big"}
    keys |= {"no_detector": "needs_package", "package_missing": "needs_package"}
    return f"shell.{keys.get(problem.code, 'needs_download')}"


def about(model_id: str, lang: str, seconds: float | None = None) -> str:
    """What is known of a model, as HTML: licence, size, year, why it cannot be used here, the figures of its card.

    seconds: what a picture will take on this machine, where that was estimated.
    """
    model = registry.get(model_id)
    name = texts(lang).get(f"models.{model.id}", model.id)
    licence = html.escape(model.licence)
    if model.licence_url:
        licence = f'<a href="{html.escape(model.licence_url, quote=True)}" target="_blank" rel="noopener">{licence}</a>'
    pairs = [(say("about.id", lang), html.escape(model.id))]
    if licence:
        pairs.append((say("about.licence", lang), licence))
    if model.year:
        pairs.append((say("about.year", lang), str(model.year)))
    pairs.append((say("about.memory", lang), f"{model.memory_mb} MB"))
    if seconds:
        pairs.append((say("about.seconds", lang), f"≈ {decimal(seconds, lang, 2 if seconds < 1 else 0)} s"))
    training = model.path / "training.json" if model.path else None
    if training and training.is_file():
        figures_ = json.loads(training.read_text("utf-8")).get("figures", {})
        pairs += [
            (texts(lang)[f"figures.{key}"], decimal(value, lang, 1 if abs(value) >= 10 else 3))
            for key, value in figures_.items()
            if f"figures.{key}" in texts(lang) and isinstance(value, int | float)
        ]
    problem = availability(model)
    why = f"<p>{html.escape(sentence(problem, lang))}</p>" if problem else ""
    return f'<div class="card"><div class="title">{html.escape(name)}</div>{facts(pairs)}{why}</div>'


def explained(text: str, diagram: str, more: str) -> None:
    """The section "How it works": text, diagram, more text; formulas between $ and $$."""
    latex = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]
    gr.Markdown(text, elem_classes="how", latex_delimiters=latex)
    gr.HTML((drawing.ASSETS / diagram).read_text("utf-8"), elem_classes="how")
    gr.Markdown(more, elem_classes="how", latex_delimiters=latex)


def seed_row(value: int = 0) -> tuple[gr.Number, gr.Button]:
    """A seed and a die."""
    with gr.Row(equal_height=True):
        seed = Number(value, label=t("shell.seed"), precision=0, min_width=120, scale=3)
        dice = gr.Button(t("shell.another_seed"), min_width=120, scale=2)
    dice.click(None, None, seed, js="() => Math.floor(Math.random() * 4294967296)", api_visibility="private")
    return seed, dice


def run_row(label: str) -> tuple[gr.Button, gr.Button]:
    """Start (Ctrl+Enter) and Stop (Esc)."""
    with gr.Row():
        run = gr.Button(label, variant="primary", elem_classes="run", scale=3)
        stop = gr.Button(t("shell.stop"), variant="secondary", elem_classes="stop", scale=1, min_width=80)
    return run, stop


def stops(button: gr.Button, events: list[Dependency], line: gr.HTML) -> None:
    """The button ends the events; what is finished stays, and the status line says so."""

    def stopped(lang):
        return status(lang, text=say("shell.stopped", lang))

    # Afterwards: what an event still says while it is being cancelled would stand there for good.
    quiet = {"queue": False, "api_visibility": "private"}
    button.click(None, cancels=events, **quiet).then(handler(stopped), None, line, **quiet).then(
        None, js="() => trugbild.settled()", **quiet
    )
