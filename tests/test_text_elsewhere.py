"""Text of A1111 and Forge in the tab: what fills the inputs, what is named, in both languages, and what files do."""

import io

import gradio as gr
import pytest
from conftest import LANGUAGES, models_apart
from PIL import Image, PngImagePlugin

from apps import i18n, text_elsewhere
from apps.text_elsewhere import INPUTS, take
from pipelines import recipe
from pipelines.problems import Problem
from pipelines.recipe import Recipe
from tests.test_parameters import A1111, FORGE

SD, FLUX = "emoji-sd", "emoji-flux"


def test_a1111_fills_the_inputs():
    taken = take(A1111, SD, "en")
    assert taken.values == {
        "prompt": "a frog, (green:1.2)\nBREAK by a lake",
        "negative_prompt": "blur, [text]\nbad hands",
        "seed": 2**32 - 1,
        "steps": 20,
        "guidance": 7.5,
        "sampler": "DPM++ 2M",
    }
    assert "Filled in: prompt, negative prompt, seed, steps, guidance, sampler." in taken.note
    for named in ("model v1-5-pruned", "noise schedule Karras", "size 512 × 768", "LoRA melons (0.80)", "Clip skip"):
        assert named in taken.note.partition("Not taken")[2]
    assert "plain text: (green:1.2), BREAK, [text]." in taken.note


def test_a_sampler_of_another_kind_of_model_is_named():
    """Which samplers there are depends on the model; the model's own is the empty choice of the picker."""
    assert "sampler" not in (taken := take(A1111, FLUX, "de")).values and "Löser DPM++ 2M (nicht" in taken.note
    assert take(FORGE, FLUX, "en").values["sampler"] == ""
    assert "distilled guidance 3.5" in take(FORGE, FLUX, "en").note
    assert take(FORGE, SD, "en").values["sampler"] == "Euler"


def test_our_own_pictures_bring_their_model():
    """The size is that of the model, so there is nothing to name."""
    settings = {"prompt": "frog", "negative_prompt": "", "steps": 8, "guidance": 3.0, "sampler": "Euler"}
    made = Recipe.make("text_to_image", FLUX, "abc", "draw", {"section": "picture", **settings}, seed=7)
    picture = Image.open(io.BytesIO(recipe.save(Image.new("RGB", (128, 128)), made)))
    taken = take(picture.text["parameters"], SD, "en")
    assert taken.values == {**settings, "sampler": "", "model": FLUX, "seed": 7, "width": 0, "height": 0}
    assert "Not taken" not in taken.note


def test_a_size_is_taken_where_the_model_draws_it():
    text = "a frog\nSteps: 7, Size: {}, Seed: 9"
    assert take(text.format("192x128"), SD, "en").values.items() >= {"width": 192, "height": 0}.items()
    assert "width, height" in take(text.format("192x128"), SD, "en").note
    for size in ("200x128", "512x512"):
        assert "width" not in (taken := take(text.format(size), SD, "de")).values
        assert "Größe {} × {}".format(*size.split("x")) in taken.note


def test_what_a_text_does_not_say_stays():
    assert take("Steps: 7, Seed: 9", SD, "en").values == {"steps": 7, "seed": 9}
    assert take("a frog", SD, "en").values == {"prompt": "a frog", "negative_prompt": ""}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_numbers_beyond_what_is_possible_are_left_out_and_said(lang):
    taken = take("a frog\nSteps: 1000, CFG scale: 5, Seed: -1", SD, lang)
    assert taken.values == {"prompt": "a frog", "negative_prompt": "", "guidance": 5.0}
    said = [i18n.sentence(Problem("out_of_range", name=name, value=value, low=low, high=high), lang)
            for name, value, low, high in (("steps", 1000.0, 1, 100), ("seed", -1.0, 0, 2**32 - 1))]  # fmt: skip
    assert all(sentence in taken.note for sentence in said), taken.note


def test_a_note_is_no_markup():
    taken = take("<img src=x onerror=alert(1)> <lora:<b>:1>\nSteps: 1, Seed: 2, Sampler: <i>, Model: <u>", SD, "en")
    assert "<img" not in taken.note and "<u>" not in taken.note and "<i>" not in taken.note and "<b>" not in taken.note


def test_nonsense_is_a_problem():
    for text, code in (("", "no_parameters"), ("x" * 10**6, "too_long"), ("\x07", "no_letters"), (None, "not_text")):
        with pytest.raises(Problem) as caught:
            take(text, SD, "en")
        assert caught.value.code == code
    with pytest.raises(Problem, match="must be one of"):
        take("a frog", "/etc", "en")


# ---- as the page calls it


@pytest.fixture(scope="module")
def events():
    """Name -> what the page calls: `filled` with the text and the model, `read` with a file's bytes."""
    with models_apart(), gr.Blocks() as demo:
        text_elsewhere.lay_out({name: gr.Textbox(label=name) for name in INPUTS})
    assert all(fn.api_visibility == "private" for fn in demo.fns.values())
    return {fn.fn.__name__: fn.fn for fn in demo.fns.values()}


def test_the_inputs_are_filled_in_their_order(events):
    *values, note = events["filled"](A1111, SD, gr.Request())
    filled = dict(zip(INPUTS, values, strict=True))
    assert filled["model"] == gr.skip() and filled["steps"] == 20 and filled["sampler"].value == "DPM++ 2M"
    assert [name for name, _ in filled["sampler"].choices][:2] == ["DDIM *", "DDPM"] and "Filled in" in note
    *values, _ = events["filled"]("a frog", SD, gr.Request())
    sampler = values[INPUTS.index("sampler")]
    assert "value" not in sampler._constructor_args[0], "which one was chosen stays chosen"


def test_a_picture_says_it_too(events):
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("parameters", A1111)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    assert events["read"](file.getvalue(), gr.Request()) == A1111


@pytest.mark.parametrize("lang", LANGUAGES)
def test_files_without_it_get_a_sentence(events, lang, monkeypatch):
    monkeypatch.setattr(i18n, "default", lang)
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    for data, code in ((plain.getvalue(), "no_parameters"), (b"GIF89a", "parameters_format"), (None, "no_picture"),
                       (b"", "no_picture"), (plain.getvalue()[:30], "picture_broken")):  # fmt: skip
        with pytest.raises(gr.Error) as caught:
            events["read"](data, gr.Request())
        assert caught.value.message == i18n.texts(lang)[f"problems.{code}"]
    with pytest.raises(gr.Error) as caught:
        events["filled"]("", SD, gr.Request())
    assert caught.value.message == i18n.texts(lang)["problems.no_parameters"]
