"""Every visible string, in German and English.

`locales/<lang>.yaml` hold the same nested keys. `t(key)` marks a string that the browser translates (labels, texts,
choices); `say(key, lang, ...)` translates in Python (toasts, status lines, captions); `language(request)` says what a
person reads.
"""

from functools import cache
from pathlib import Path

import gradio as gr
import yaml
from gradio import component_meta

from pipelines.problems import Problem, brief

# Before our first component: gradio writes a .pyi file beside each module that defines one, which costs start-up
# time and litters the tree.
component_meta.create_or_modify_pyi = lambda *_: None

LANGUAGES = ("de", "en")
COOKIE = "trugbild_lang"
NAMING = {"name", "axis", "field", "what"}  # fields of problems' sentences that name a setting; others were typed in
default = None  # `--lang`: for people whose link and switch say nothing; else their browser decides


@cache
def texts(lang: str) -> dict[str, str]:
    """`lang` in LANGUAGES -> {"shell.share": "Teilen", ...}: the file's tree as flat keys."""

    def flatten(tree: dict, prefix: str = ""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value.rstrip("\n")

    file = Path(__file__).parent / "locales" / f"{lang}.yaml"
    return dict(flatten(yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)))


@cache
def browser_texts() -> gr.I18n:
    """All texts for the browser: goes to `launch(i18n=...)`."""
    return gr.I18n(**{lang: texts(lang) for lang in LANGUAGES})


def t(key: str):
    """A string the browser shows in its language. A key without text is a KeyError at start, not a hole in the page."""
    texts("en")[key]
    return browser_texts()(key)


def say(key: str, lang: str, **values) -> str:
    """The text of `key` in `lang`, filled with `values`."""
    return texts(lang)[key].format(**values)


def sentence(problem: Problem, lang: str) -> str:
    """What went wrong, for the person: names of settings in their language, numbers as they would write them."""
    return say(f"problems.{problem.code}", lang, **{k: _spoken(k, v, lang) for k, v in problem.values.items()})


def _spoken(field: str, value, lang: str) -> str:
    if isinstance(value, float):
        value = f"{value:.10g}".replace(".", "," if lang == "de" else ".")
    text = str(value)
    if field in NAMING:
        text = texts(lang).get(f"names.{text}", text)
    return brief(text)


def choose(query: str | None, cookie: str | None, accept: str | None) -> str:
    """The order of precedence: the link, the switch (a cookie), `--lang`, the browser's list, English."""
    for wish in (query, cookie, default):
        if wish in LANGUAGES:
            return wish
    for part in (accept or "").lower().split(","):
        if (tag := part.split(";")[0].strip()[:2]) in LANGUAGES:
            return tag
    return "en"


def language(request: gr.Request | None) -> str:
    """The language of the page (or API client) that sent this event; the page sends its query with every event."""
    if getattr(request, "request", request) is None:  # gradio's own wrapper, or starlette's request itself
        return default or "en"
    return choose(request.query_params.get("lang"), request.cookies.get(COOKIE), request.headers.get("accept-language"))
