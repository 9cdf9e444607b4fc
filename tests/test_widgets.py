"""The layer between a tab and gradio: languages, errors, progress, Stop, and what goes into HTML."""

import logging
import threading
import time

import gradio as gr
import pytest
from conftest import LANGUAGES
from PIL import Image
from starlette.requests import Request

from apps import i18n, widgets
from apps.widgets import Figure, about, decimal, facts, figures, follow, handler, model_choices, png, status
from pipelines import Problem, registry


def request(lang: str) -> gr.Request:
    headers = [(b"accept-language", lang.encode())]
    return gr.Request(Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}))


# ---- handler --------------------------------------------------------------------------------------------------------


def test_the_language_comes_from_the_request():
    def greet(name, lang):
        return f"{lang} {name}"

    for lang in LANGUAGES:
        assert handler(greet)("Ada", request(lang)) == f"{lang} Ada"
    assert handler(lambda name: name)("Ada", request("de")) == "Ada", "whoever needs no language gets none"


def fails(error: Exception):
    def compute(x, lang):
        raise error

    return compute


def fails_late(error: Exception):
    def compute(x, lang):
        yield x
        raise error

    return compute


@pytest.fixture
def toasts(monkeypatch) -> list[str]:
    """What a stream of pictures says when it fails: raised, gradio would put an English title over it."""
    toasts = []
    monkeypatch.setattr(widgets.gr, "Warning", lambda message, **_: toasts.append(message))
    return toasts


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_problem_becomes_a_sentence(lang, toasts):
    problem = Problem("out_of_range", name="noise", value=2.5, low=0, high=1)
    with pytest.raises(gr.Error) as caught:
        handler(fails(problem))(1, request(lang))
    assert caught.value.message == i18n.sentence(problem, lang)
    assert list(handler(fails_late(problem))(1, request(lang))) == [1], "what is finished stays"
    assert toasts == [i18n.sentence(problem, lang)]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_upload_that_could_not_be_read_is_said_before_anything_is_computed(lang, toasts):
    problem = Problem("picture_heic")
    with pytest.raises(gr.Error) as caught:
        handler(fails(AssertionError("computed")))(problem, request(lang))
    assert caught.value.message == i18n.sentence(problem, lang)
    assert list(handler(fails_late(AssertionError("computed")))(problem, request(lang))) == []
    assert toasts == [i18n.sentence(problem, lang)]


def test_our_mistakes_go_to_the_log_and_not_to_the_person(caplog, toasts):
    mistake = RuntimeError("/secret/path")
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as caught:
        handler(fails(mistake))(1, request("de"))
    list(handler(fails_late(mistake))(1, request("de")))
    assert [caught.value.message, *toasts] == [i18n.say("shell.unexpected", "de")] * 2
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert caplog.text.count("RuntimeError: /secret/path") == 2, "we want to know"


def test_gradio_passes_every_value():
    """A default or an annotation in a computation must not change what gradio passes."""
    import inspect

    def compute(a, b, lang, on_step=None):
        """Says what it does."""

    signature = inspect.signature(handler(compute))
    assert list(signature.parameters) == ["a", "b", "request"], "what has a default is not asked of the page"
    assert all(p.default is p.empty for p in signature.parameters.values())
    assert handler(compute).__doc__ == compute.__doc__


# ---- follow ---------------------------------------------------------------------------------------------------------


def test_steps_and_then_the_result():
    def work(on_step):
        for i in range(3):
            on_step(i + 1, 3, f"picture {i}")
        return "done"

    assert list(follow(work)) == [(1, 3, "picture 0"), (2, 3, "picture 1"), (3, 3, "picture 2"), (None, None, "done")]


def test_closing_stops_the_work_within_a_step():
    done, go = [], threading.Semaphore(0)

    def work(on_step):
        for i in range(1000):
            go.acquire()
            done.append(i)
            on_step(i, 1000, None)

    before = threading.active_count()
    steps = follow(work)
    go.release()
    assert next(steps) == (0, 1000, None)
    go.release(2)  # one more step may be under way
    steps.close()
    assert len(done) <= 3
    assert threading.active_count() == before, "the thread has ended"


def test_an_error_in_the_work_reaches_the_page():
    problem = Problem("no_picture")

    def work(on_step):
        on_step(1, 2, None)
        raise problem

    steps = follow(work)
    assert next(steps) == (1, 2, None)
    with pytest.raises(Problem) as caught:
        next(steps)
    assert caught.value is problem


# ---- HTML -----------------------------------------------------------------------------------------------------------


def test_figures_can_be_saved_and_read_aloud():
    picture = png(Image.new("L", (2, 2)))
    page = figures([Figure(picture, "<b>Input</b>, damaged", 'a"><script>', True), Figure(picture, "")], "de")
    assert page.count("<img") == 2 and page.count("download=") == 1
    assert 'alt="Input, damaged"' in page
    assert i18n.say("shell.save", "de") in page
    assert "<script>" not in page


@pytest.mark.parametrize(
    ("lang", "value", "digits", "expected"),
    [
        ("de", 1234567.5, 2, "1.234.567,50"),
        ("en", 1234567.5, 2, "1,234,567.50"),
        ("de", -0.126, 2, "−0,13"),
        ("en", -0.001, 2, "0.00"),
        ("de", float("inf"), 1, "∞"),
        ("en", 3.0, 0, "3"),
    ],
)
def test_decimals(lang, value, digits, expected):
    assert decimal(value, lang, digits) == expected


@pytest.mark.parametrize("lang", LANGUAGES)
def test_progress_says_how_long_it_still_takes(lang):
    told = status(lang, 5, 20, time.monotonic() - 10)
    assert i18n.say("shell.progress", lang, done=5, total=20, left=30) in told
    assert 'max="20"' in told and 'value="5"' in told and 'role="status"' in told
    assert "<script>" not in status(lang, text="<script>")
    assert status(lang, 0, 20, time.monotonic())  # nothing done yet: no division by zero


def test_facts():
    assert facts([("PSNR", "31.2")]).count("<b>31.2</b>") == 1


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_model_that_is_not_here_stays_in_the_picker_and_says_why(lang, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    choices = {id: name for name, id in model_choices("vae_playground", "photo", lang)}
    assert {"sd-vae-ft-mse", "taesd", "taef2"} <= set(choices)
    assert i18n.say("shell.needs_download", lang) in choices["taesd"]
    latent = {id: name for name, id in model_choices("vae_playground", "latent", lang)}
    assert latent["vae-digits-2d"] == i18n.say("models.vae-digits-2d", lang)
    assert set(latent) & set(choices) == set()
    told = about("taesd", lang)
    assert i18n.sentence(Problem("offline_mode", model="taesd"), lang) in told


@pytest.mark.parametrize("lang", LANGUAGES)
def test_about_a_model(lang):
    for model in registry.MODELS:
        told = about(model.id, lang)
        assert model.licence in told and model.id in told
        assert "None" not in told
    shown = about("vae-digits-2d", lang)
    assert i18n.say("figures.test_negative_elbo_nats", lang) in shown


def test_every_bundled_and_hub_model_has_a_name():
    for lang in LANGUAGES:
        assert {f"models.{model.id}" for model in registry.MODELS} <= set(i18n.texts(lang))


def test_controls_do_not_refuse_in_english():
    """gradio refuses values outside of a control's range by itself, in English; the pipeline says it better."""
    for control in (widgets.Slider(0, 1, 0), widgets.Number(0, minimum=0, maximum=1), widgets.Dropdown(["a"])):
        assert control.preprocess(99) == 99
