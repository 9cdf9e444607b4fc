"""Both languages say the same, nothing that people read is outside the two files, and the right one is chosen."""

import ast
import json
import re
from string import Formatter
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import LANGUAGES, ROOT
from starlette.requests import Request

from apps import i18n
from pipelines import registry
from pipelines.problems import SENTENCES, Problem
from pipelines.text_space import EVERY_SAMPLER

APPS = [*(ROOT / "apps").glob("*.py"), *(ROOT / "apps" / "assets").glob("*.js")]
APPS += (ROOT / "apps" / "assets").glob("*.html")
# Names of things, not words: models, axes, the app itself, languages.
NAMES = {"Trugbild", "DE", "EN", "×"}
DYNAMIC = ("names.", "problems.", "models.", "figures.", "tabs.")  # looked up by what something is called


def fields(text: str) -> set[str]:
    return {name for _, name, *_ in Formatter().parse(text) if name is not None}


def is_formula(key: str) -> bool:
    return "$" in i18n.texts("en")[key]  # LaTeX has braces of its own and is never filled in


def test_both_files_have_the_same_keys_and_no_empty_text():
    keys = {lang: set(i18n.texts(lang)) for lang in LANGUAGES}
    assert keys["de"] ^ keys["en"] == set()
    for lang in LANGUAGES:
        assert [key for key, text in i18n.texts(lang).items() if not text.strip()] == []


def test_both_languages_fill_in_the_same_values():
    for key in i18n.texts("en"):
        if not is_formula(key):
            assert fields(i18n.texts("de")[key]) == fields(i18n.texts("en")[key]), key


def test_every_problem_has_its_sentence_in_both_languages():
    ours = {f"problems.{code}": text for code, text in SENTENCES.items()}
    for lang in LANGUAGES:
        assert {key for key in i18n.texts(lang) if key.startswith("problems.")} == set(ours)
    assert {key: i18n.texts("en")[key] for key in ours} == ours


def test_german_is_german():
    same = {key for key, text in i18n.texts("de").items() if text == i18n.texts("en")[key] and len(text.split()) > 2}
    assert {key for key in same if not key.startswith("models.")} == set(), "not translated"
    for key, text in i18n.texts("de").items():
        own = re.sub(r"(?<!\*)\*[^*]+\*(?!\*)|“[^“”„]*”", "", text)  # titles of papers and quotations stay
        assert not re.search(r"\b(the|and|of|for|from|click|please|you|your)\b", own), key
        assert not re.search(r"\b([Dd]u|[Dd]ein\w*|[Dd]ir|[Dd]ich)\b", text), f"{key}: Sie, not du"


def test_numbers_and_names_are_spoken_in_the_persons_language():
    problem = Problem("out_of_range", name="temperature", value=3.5, low=0, high=3)
    german = i18n.sentence(problem, "de")
    assert german.startswith(i18n.texts("de")["names.temperature"]) and " 3,5" in german and "3.5" not in german
    assert i18n.sentence(problem, "en") == "The temperature is 3.5; it must lie between 0 and 3."


# ---- nothing outside the two files ----------------------------------------------------------------------------------


def strings(value):
    """All text in a component's property."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def plain(markup: str) -> str:
    """What a template shows by itself: texts, titles, labels and placeholders, less what a variable fills in."""
    markup = re.sub(r"\$\{[^}]*\}|<(script|style|svg)\b.*?</\1>", "", markup, flags=re.S)
    told = re.findall(r'(?:title|aria-label|placeholder|alt)="([^"]*)"', markup)
    return " ".join([re.sub(r"<[^>]*>", " ", markup), *told])


def is_literal(text: str) -> bool:
    """Whether people would read words that are in no locale file."""
    if '"__type__": "translation_metadata"' in text or text in NAMES:
        return False
    known = {*EVERY_SAMPLER, *(model.id for model in registry.models())}
    codes = r"(pc|z)\d+|[\w.:,-]*\d[\w.:,-]*|lerp|slerp"
    return text not in known and not re.fullmatch(codes, text) and bool(re.search(r"[^\W\d_]{2}", text))


def test_every_visible_string_of_the_page_is_in_the_files(page):
    literal = []
    for component in page.demo.get_config_file()["components"]:
        props, kind = component["props"], component["type"]
        if props.get("visible") in (False, "hidden"):
            continue
        read = [props.get(name) for name in ("label", "info", "placeholder", "title", "submit_btn", "stop_btn")]
        read += [choice[0] for choice in props.get("choices") or []]
        if kind in ("button", "markdown", "html"):
            value = props.get("value")
            shown = plain(value) if isinstance(value, str) and value.startswith("<") else value
            # An example's code is its value, not a text.
            read += [] if "data-many" in (props.get("html_template") or "") else [shown]
            read += [word for word in re.split(r"\s{2,}|\n", plain(props.get("html_template") or "")) if word]
        literal += [(kind, text) for text in strings(read) if is_literal(text)]
    thumbs = {example["id"] for example in json.loads((ROOT / "apps" / "assets" / "digits.json").read_text("utf-8"))}
    assert [(kind, text) for kind, text in literal if not set(text.split()) <= thumbs] == []


def test_markers_on_the_page_have_a_text(page):
    found = set(re.findall(r'"key": "([^"]+)"', str(page.demo.get_config_file()["components"])))
    assert found, "no marker found: the test looks in the wrong place"
    assert found - set(i18n.texts("en")) == set()


def used() -> tuple[set[str], set[str]]:
    """Keys that the sources name, and patterns of those that they put together."""
    keys, patterns = set(), set()
    for file in APPS:
        source = file.read_text("utf-8")
        keys |= {f"shell.{word}" for word in re.findall(r"\bwords\.(\w+)", source)}
        if file.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                keys.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in node.values)
                patterns.add("".join(parts))
    return keys, patterns


def test_no_text_is_left_over():
    keys, patterns = used()
    patterns = [p for p in patterns if p.startswith(("vae", "shell", "about", "faces", "style", "text"))]
    icons = {"shell.dark", "shell.lecture"}
    left = [
        key
        for key in i18n.texts("en")
        if key not in keys | icons
        and not key.startswith(DYNAMIC)
        and not any(re.fullmatch(pattern, key) for pattern in patterns)
        and key.removeprefix("shell.") not in keys
    ]
    assert left == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_key_without_text_is_an_error_at_start(lang):
    with pytest.raises(KeyError):
        i18n.t("shell.no_such_text")
    with pytest.raises(KeyError):
        i18n.say("shell.no_such_text", lang)


# ---- which language -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "cookie", "default", "accept", "expected"),
    [
        ("de", "en", "en", "en", "de"),  # the link comes first
        (None, "de", "en", "en", "de"),  # then the switch
        (None, None, "de", "en-GB,en;q=0.9", "de"),  # then --lang
        (None, None, None, "de-AT,de;q=0.9,en;q=0.8", "de"),  # then the browser
        (None, None, None, "fr-FR, fr;q=0.9, de;q=0.7, en;q=0.3", "de"),  # its first that there is
        (None, None, None, "EN-us", "en"),
        (None, None, None, "fr,it", "en"),
        (None, None, None, None, "en"),
        (None, None, None, ",;;q=,\x00", "en"),
        ("fr", None, None, "de", "de"),  # what there is not counts for nothing
        ("", "xx", None, "de", "de"),
        ("DE", None, None, "en", "en"),
    ],
)
def test_precedence(monkeypatch, query, cookie, default, accept, expected):
    monkeypatch.setattr(i18n, "default", default)
    assert i18n.choose(query, cookie, accept) == expected


def request(query: str = "", **headers: str) -> gr.Request:
    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": encoded}
    return gr.Request(Request(scope))


def test_the_language_of_a_request():
    assert i18n.language(request("lang=de", cookie="trugbild_lang=en", accept_language="en")) == "de"
    assert i18n.language(request(cookie="other=1; trugbild_lang=de", accept_language="en")) == "de"
    assert i18n.language(request(accept_language="de-CH")) == "de"
    assert i18n.language(request()) == "en"
    assert i18n.language(None) == "en"
    assert i18n.language(SimpleNamespace(request=None)) == "en"
