"""Links: whatever the inputs show can be written into one and read back, and a bad one opens the page all the same."""

import json
import re
from collections import Counter
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from conftest import LANGUAGES, models_apart
from starlette.datastructures import QueryParams
from starlette.requests import Request

from apps import drawing, i18n, inputs, links, shell, text_pictures, text_to_image
from apps.links import Choice, Number, Several, Switch, Text
from apps.text_to_image import FIRST
from apps.vae_playground import HOME
from pipelines import face_space, hub, registry
from pipelines.problems import Problem

STROKES = "s:" + drawing.encode([[(100, 100), (500, 500), (900, 100)], [(0, 1000)]])
UPLOAD = "u:" + inputs.pack(inputs.picture_of("7-b"))
CODE = face_space.pack(np.linspace(-2, 2, 1280, dtype=np.float32).reshape(10, 128))
TEXTS = {
    "vae_playground": ["", "7-b", "1-a,1-b", STROKES, UPLOAD, "p:0.3:-1.2", f"{STROKES},9-a,p:-3:3"],
    "faces": ["", "7", "1,2", "0,4294967295,5", CODE, f"{CODE},3"],
    "text_to_image": ["", "Frösche & <b>Hüte</b>, 1 + 1 = 2", "a | b", STROKES],
}
HOSTILE = [
    "NaN", "nan", "1e9", "-1e9", "inf", "-inf", "1e999", "9" * 5000, "0x10", "--1", "", " ", "x" * 20_000, "ü☃𝔘",
    "\x00", "null", "[]", "{}", "1,5", "1;2", "<script>alert(1)</script>", "../../etc/passwd", "%s", "{0}", "{name}",
    "p:", "p:1", "p:nan:0", "s:", "s:%%%", "s:AAAA", "u:", "u:AAAA", "7-b," * 4000, ",", "‮",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def lora(tmp_path_factory):
    """One for the model that the tab begins with; nobody draws with it."""
    with models_apart():
        folder = tmp_path_factory.mktemp("melons")
        (folder / registry.LORA).write_bytes(b"")
        facts = {"tab": "text_to_image", "kind": "lora", "base": "emoji-sd"}
        (folder / "training.json").write_text(json.dumps(facts))
        yield registry.register_folder(folder).id


def samples(stem: str, kind) -> list:
    """Values of a kind: what it allows at its ends and between."""
    if isinstance(kind, Number):
        middle = (kind.low + kind.high) / 2
        if kind.whole:
            return [int(kind.low), int(kind.high), int(middle)]
        inside = [v for v in (0.1, -0.3, 1 / 3, 1e-6, 2.5e-5, 0.123456789) if kind.low <= v <= kind.high]
        return [float(kind.low), float(kind.high), middle, *inside]
    if isinstance(kind, Choice):
        return kind.options()
    if isinstance(kind, Several):
        return [[], kind.options()[:1], kind.options()]
    return [True, False] if isinstance(kind, Switch) else [text for text in TEXTS[stem] if not text or fits(kind, text)]


def fits(kind: Text, text: str) -> bool:
    """Whether so many may be named there, and whether it is a drawing where one is asked for."""
    try:
        kind.check(text)
        return True
    except Problem as problem:
        assert problem.code in ("people_count", "bad_drawing")
        return False


def every(page):
    """(tab, param) of the whole page."""
    return [(tab, param) for tab in page.tabs.values() for param in tab.params]


def beside(tab, name: str, value) -> dict | None:
    """Values with which this one goes together: an axis needs a model that has it. None if there are none."""
    models = next((p.kind.options() for p in tab.params if p.name == "model"), ())
    for others in ({}, *({"model": model} for model in models), *({"model": m, "up": "z1"} for m in models)):
        values = {**{p.name: p.default for p in tab.params}, **others, name: value}
        try:
            tab.check(values)
            return values
        except Problem:
            continue
    return None


def there_and_back(tab, values: dict) -> tuple[dict, list[Problem]]:
    return tab.read(QueryParams(tab.query(values)))


def test_every_value_of_every_input_survives_the_link(page):
    survived = Counter()
    for tab, param in every(page):
        for value in samples(tab.stem, param.kind):
            if state := beside(tab, param.name, value):
                values, problems = there_and_back(tab, state)
                assert problems == [], (param.name, value, problems)
                assert values == {"section": tab.first, **state}
                assert value == param.default or type(values[param.name]) is type(value), param.name
                survived[tab.stem, param.name] += 1
    for tab, param in every(page):
        assert survived[tab.stem, param.name] >= 2, param.name


def test_all_inputs_at_once_survive_and_the_link_is_short_enough(page):
    for tab in page.tabs.values():
        for at in range(7):
            state = {}
            for param in tab.params:
                found = samples(tab.stem, param.kind)
                state[param.name] = found[at % len(found)]
            if "across" in state:  # axes that every model has
                state |= {"across": "z2", "up": "z1", "bits": min(state["bits"], 8)}
            if "lora" in state:  # which goes with one model alone
                state |= {"model": "emoji-sd"}
            for section in tab.ticks:
                query = tab.query({**state, "section": section})
                assert len(query) < links.MAX_QUERY
                assert tab.read(QueryParams(query)) == ({**state, "section": section}, [])


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")  # choices are filled when the page is opened
def test_the_component_takes_what_the_link_says(page):
    for tab, param in every(page):
        for value in samples(tab.stem, param.kind):
            shown = param.component.postprocess(value)
            assert param.component.preprocess(shown) == value, param.name


def test_defaults_are_legal_and_left_out(page):
    for tab in page.tabs.values():
        defaults = {param.name: param.default for param in tab.params}
        assert tab.query(defaults) == f"tab={tab.stem}"
        assert tab.read({}) == ({"section": tab.first, **defaults}, [])
        for param in tab.params:
            text = param.kind.format(param.default)
            assert param.kind.parse(param.name, text) == param.default, param.name
            assert param.component.value == param.default, f"{param.name}: page and link begin differently"


def test_what_a_link_leaves_out_is_the_models_own(page):
    tab = page.tabs["text_to_image"]
    for model in (FIRST, "emoji-sd", "flux2-klein-4b"):
        own = registry.get(model).defaults
        values, problems = tab.read({"model": model})
        assert problems == [] and (values["steps"], values["guidance"]) == (own["steps"], own["guidance"])
        assert tab.query(values) == "tab=text_to_image" + (f"&model={model}" if model != FIRST else "")
    assert tab.read({"seed": "1"})[0]["steps"] == 8, "links from before mean what they meant"
    assert tab.query({"model": "emoji-sd", "steps": 8, "guidance": 4.0}) == "tab=text_to_image&model=emoji-sd&steps=8"
    assert tab.read({"model": "emoji-sd", "steps": "8"})[0]["steps"] == 8
    assert tab.query({"model": FIRST, "steps": 20, "guidance": 4.0}) == "tab=text_to_image&steps=20&guidance=4"
    assert tab.read({"model": "nobody's"})[0] == tab.read({})[0]


def test_sliders_end_where_the_link_ends(page):
    for _, param in every(page):
        if isinstance(param.component, gr.Slider):
            limits = (param.component.minimum, param.component.maximum)
            assert limits == (param.kind.low, param.kind.high), param.name


def test_names_are_unique_and_not_the_shells(page):
    for tab in page.tabs.values():
        names = [param.name for param in tab.params]
        assert len({*names, "section"}) == len(names) + 1
        assert not {*names, "section"} & links.SHELL_KEYS
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


# ---- bad links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_hostile_values_leave_the_default_and_say_so(page, text):
    for tab, param in every(page):
        values, problems = tab.read({param.name: text})
        if problems:
            assert values[param.name] == param.default
            assert [problem.code in i18n_codes() for problem in problems] == [True]
        else:  # then it is a legal value
            assert there_and_back(tab, values) == (values, [])
            assert not isinstance(values[param.name], float) or abs(values[param.name]) <= 1e6
        for lang in LANGUAGES:
            for problem in problems:
                told = i18n.sentence(problem, lang)
                assert len(told) < 400 and "\n" not in told and "\x00" not in told


def i18n_codes() -> set[str]:
    return {key.removeprefix("problems.") for key in i18n.texts("en") if key.startswith("problems.")}


def test_unknown_keys_and_sections_are_named(page):
    for tab in page.tabs.values():
        values, problems = tab.read({"colour": "red", "section": "cellar", "lang": "xx", "__theme": "dark", "run": "1"})
        assert values == tab.read({})[0]
        assert [problem.code for problem in problems] == ["unknown_setting", "unknown_choice"]


class Page:
    """What the browser is told when it opens a link."""

    def __init__(self, page, query: str, lang: str = "en"):
        self.page = page
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "query_string": query.encode("utf-8", "surrogatepass"),
            "headers": [(b"accept-language", lang.encode())],
        }
        restore = next(fn for fn in page.demo.fns.values() if getattr(fn.fn, "__name__", "") == "restore")
        answer = restore.fn(gr.Request(Request(scope)))
        assert len(answer) == len(restore.outputs)
        self.updates = dict(zip((block._id for block in restore.outputs), answer, strict=True))
        _, self.notice, self.address, *_ = answer

    def __getitem__(self, name: str):
        """What the VAE tab's input of this name will show."""
        return self.of("vae_playground", name)

    def of(self, stem: str, name: str):
        (param,) = (param for param in self.page.tabs[stem].params if param.name == name)
        return self.updates[param.component._id]


def test_a_link_opens_its_state(page):
    opened = Page(page, "tab=vae_playground&x=0.5&y=-2&grid=1&section=sample&seed=7&lang=de")
    assert (opened["x"], opened["y"], opened["grid"], opened["seed"]) == (0.5, -2.0, True, 7)
    assert opened.notice == ""
    assert QueryParams(opened.address) == QueryParams("tab=vae_playground&section=sample&x=0.5&y=-2&grid=1&seed=7")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_bad_link_opens_the_page_and_says_one_sentence(page, lang):
    opened = Page(page, "tab=vae_playground&x=1e9&seed=5", lang)
    assert opened["x"] == HOME[0] and opened["seed"] == 5
    problem = Problem("out_of_range", name="x", value=1e9, low=-100.0, high=100.0)
    assert opened.notice == i18n.sentence(problem, lang)


@pytest.mark.parametrize(
    "query",
    [
        "tab=cellar", "tab=", "tab=vae_playground&tab=cellar", "x=1&x=nan", "x=" + "9" * 20_000, "&" * 500, "=&=&=",
        "%", "%ff%fe=%00", "x=%ud800", "a=1&b=2&c=3&d=4&e=5", "model=unknown", "model=taesd",
        "photo_model=vae-digits-2d", "input=s:" + "A" * 9000, "section=photo&sample=dog", "across=z3",
        "across=z200&up=z201", "up=z1",
        "model=vae-digits-16d&across=z17", "model=vae-digits-16d&across=pc1&up=z16", "across=pc1", "x=٣",
        "bits=9", "bits=0", "model=ae-digits-2d&across=z2&up=z2&grid=1",
    ],
    ids=lambda query: ascii(query)[:40],
)  # fmt: skip
def test_no_link_keeps_the_page_from_opening(page, query):
    for text in (query, f"tab=vae_playground&{query}"):
        opened = Page(page, text)
        assert opened.address.startswith("tab=")
        assert Page(page, opened.address).notice == "", "the address that the page shows is one that it can open"
        assert len(opened.notice) < 1500


def test_a_visit_without_a_link_begins_with_the_large_model_where_a_gpu_is(page, monkeypatch):
    """And a link means the same on every machine."""
    monkeypatch.setenv("TRUGBILD_MEMORY_MB", "64000")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "_reachable", True)
    monkeypatch.setattr(text_to_image, "gpu_mb", lambda: 24_000)
    tab = page.tabs["text_to_image"]

    def begins(query: str) -> tuple:
        """-> model, steps, guidance, HTML of the first picture"""
        opened = Page(page, query)
        shown = opened.updates[next(block for block in tab.welcomed if block.elem_id == "drawn")._id]
        return opened.of(tab.stem, "model").value, *(opened.of(tab.stem, name) for name in ("steps", "guidance")), shown

    model, steps, guidance, shown = begins("lang=de")
    assert (model, steps, guidance) == ("flux2-klein-4b", 4, 1.0) == begins("tab=faces&seed=3")[:3]
    assert "<img" in shown and i18n.say("models.emoji-flux", "de") in shown, "a picture is there, and whose it is"
    for lang in LANGUAGES:
        assert text_pictures.asks(model, lang) in begins(f"lang={lang}")[3], "and that the model has to be fetched"
    alone = shell.page(None, (tab.stem,))
    assert Page(SimpleNamespace(demo=alone), "").address == "tab=text_to_image&model=flux2-klein-4b"
    for link in ("tab=text_to_image", "tab=text_to_image&seed=3", "tab=text_to_image&model=emoji-flux"):
        assert begins(link)[0] == FIRST
        assert "model" not in Page(SimpleNamespace(demo=alone), link).address
    monkeypatch.setattr(hub, "_reachable", False)
    assert begins("")[0] == FIRST, "what cannot be fetched is not begun with"
    monkeypatch.setattr(hub, "_reachable", True)
    monkeypatch.setattr(text_to_image, "gpu_mb", lambda: 12_000)
    assert begins("")[0] == FIRST


@pytest.mark.parametrize("query", ["across=z3", "model=vae-digits-16d&across=z17", "bits=9", "up=z1"])
def test_what_the_model_cannot_show_is_said(page, query):
    assert Page(page, f"tab=vae_playground&{query}").notice


def test_try_this_links_are_legal(page):
    found = {lang: re.findall(r"\]\(\?([^)\s]+)\)", "\n".join(i18n.texts(lang).values())) for lang in LANGUAGES}
    plain = {lang: [re.sub("prompt=[^&]*", "", query) for query in found[lang]] for lang in LANGUAGES}
    assert plain["de"] == plain["en"], "the same but for the words of a prompt"
    assert len(found["en"]) >= 3
    for query in (query for lang in LANGUAGES for query in found[lang]):
        opened = Page(page, query)
        assert opened.notice == ""
        tab = page.tabs[QueryParams(query)["tab"]]
        assert tab.read(QueryParams(opened.address)) == tab.read(QueryParams(query)), "defaults may be left out"


def test_header_makes_a_code_to_scan_and_refuses_what_is_too_long(page):
    answer = page.header.qr({"link": "http://127.0.0.1:7860/?tab=vae_playground"})
    assert answer["svg"].startswith("<svg") and "<path" in answer["svg"]
    for lang in LANGUAGES:
        for link in ("x" * (shell.MAX_QR + 1), None, 5, {}, []):
            assert page.header.qr({"link": link, "lang": lang}) == {"problem": i18n.say("shell.link_too_long", lang)}
    for message in (None, 5, [], {}, {"lang": []}, {"lang": "xx"}):
        assert page.header.qr(message) == {"problem": i18n.say("shell.link_too_long", "en")}
