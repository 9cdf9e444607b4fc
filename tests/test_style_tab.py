"""The style transfer tab through its API: what it computes, what its pictures carry, what it says of nonsense."""

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import LANGUAGES, opened, repeat
from gradio_client import handle_file
from PIL import Image

from apps import i18n, style_pictures
from apps.style_transfer import FIRST, STEM
from pipelines import recipe, registry, style_space

LOOK = (FIRST, "AtoB", None, "astronaut", 13, False, 128)
CALLS = {
    "translate": (*LOOK, 0.8, 0.5),
    "cycle": (*LOOK, 0.1),
    "discriminator_map": LOOK,
}


def pictures(files) -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in files]


def test_endpoints_are_named_and_their_inputs_too(clients):
    """README and other people's programs depend on these."""
    photo = ["picture", "sample", "person", "face"]
    look = ["model", "direction", *photo, "size"]
    named = clients["en"].view_api(return_format="dict")["named_endpoints"]
    named = {name: [item["parameter_name"] for item in of["parameters"]] for name, of in named.items()}
    for name, inputs in {
        "/translate": [*look, "strength", "tone"],
        "/styles": photo,
        "/cycle": [*look, "hidden"],
        "/discriminator_map": look,
    }.items():
        assert named[name] == inputs


@pytest.mark.parametrize("task", CALLS)
@pytest.mark.parametrize("sample", ["astronaut", "person", "scene"])
def test_a_saved_picture_is_made_again_pixel_for_pixel(app, clients, task, sample):
    values = list(CALLS[task])
    values[3] = sample
    files, _ = clients["en"].predict(*values, api_name=f"/{task}")
    carry = [i for i, file in enumerate(files) if b"trugbild" in Path(file).read_bytes()]
    for i in carry:
        made = recipe.read(files[i])
        assert (made.tab, made.model) == (STEM, FIRST)
        again = repeat(app, clients["de"], task, files[i], STEM)
        if i == carry[0] or task != "cycle":  # the second recipe of a cycle is that of the other way
            assert Path(again[i]).read_bytes() == Path(files[i]).read_bytes()
    assert len(carry) == {"translate": 1, "cycle": 2, "discriminator_map": 2}[task]


def test_the_direction_decides(clients):
    there, _ = clients["en"].predict(*LOOK, 1, 1, api_name="/translate")
    back, _ = clients["en"].predict(FIRST, "BtoA", *LOOK[2:], 1, 1, api_name="/translate")
    (before, grey), (_, colour) = pictures(there), pictures(back)
    assert before.size == grey.size == colour.size == (128, 128)
    spread = [np.ptp(np.asarray(picture, int), axis=2).mean() for picture in (before, grey, colour)]
    assert spread[1] < 0.2 * min(spread[0], spread[2]), "historic photographs are grey"


def test_strength_and_tone(clients):
    def change(strength, tone):
        before, after = pictures(clients["en"].predict(*LOOK, strength, tone, api_name="/translate")[0])
        return np.abs(np.asarray(after, int) - np.asarray(before, int)).mean()

    assert change(0, 1) == 0
    assert 0 < change(1, 0) < change(1, 1)
    assert change(0.5, 1) == pytest.approx(change(1, 1) / 2, rel=0.1)


def test_every_style_in_a_row(clients):
    files, _ = clients["en"].predict(None, "cat", 0, False, api_name="/styles")
    made = [recipe.read(file) for file in files[1:]]
    bundled = [model.id for model in registry.models(STEM) if model.source == "bundled"]
    found = [(one.model, one.settings["direction"]) for one in made]
    assert [pair for pair in found if pair[0] in bundled] == [
        (model, way) for model in bundled for way in style_space.DIRECTIONS
    ]


def test_there_and_back_and_what_noise_destroys(clients):
    files, clear = clients["en"].predict(*LOOK, 0, api_name="/cycle")
    assert len(files) == 8 and 0 < clear["cycle_loss"] < 0.3
    assert pictures(files)[1].tobytes() == pictures(files)[4].tobytes(), "the second row starts with G(x)"
    _, noisy = clients["en"].predict(*LOOK, 0.3, api_name="/cycle")
    assert noisy["cycle_loss"] > clear["cycle_loss"]


def test_the_discriminator_sees_what_is_not_of_its_domain(clients):
    _, scores = clients["en"].predict(*LOOK, api_name="/discriminator_map")
    assert scores["before"] < scores["after"]


def test_ones_own_picture_stays_ones_own(app, clients, tmp_path):
    file = tmp_path / "me.png"
    Image.new("RGB", (90, 60), "olive").save(file)
    files, _ = clients["en"].predict(FIRST, "AtoB", handle_file(file), *LOOK[3:], 1, 1, api_name="/translate")
    assert pictures(files)[1].size == (128, 85)
    assert recipe.read(files[1]).settings["sample"] == "own"
    assert opened(app, files[1], STEM)["sample"] == "own"


ODD = {
    "a pixel": lambda: Image.new("RGB", (1, 1), "red"),
    "a line": lambda: Image.new("RGB", (1, 5000), "red"),
    "grey": lambda: Image.new("L", (40, 30), 99),
    "alpha": lambda: Image.new("RGBA", (40, 30), (255, 0, 0, 80)),
    "16 bits": lambda: Image.fromarray(np.full((30, 40), 30000, np.uint16)),
}


@pytest.mark.parametrize("name", ODD)
def test_any_picture_goes(clients, tmp_path, name):
    file = tmp_path / "odd.png"
    ODD[name]().save(file)
    files, _ = clients["en"].predict(FIRST, "AtoB", handle_file(file), *LOOK[3:], 1, 1, api_name="/translate")
    before, after = pictures(files)
    assert before.size == after.size and max(after.size) == 128


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_wrong_is_said_in_one_sentence(ask, lang):
    for values in (
        ("nothing", *LOOK[1:], 1, 1),
        (FIRST, "CtoD", *LOOK[2:], 1, 1),
        (*LOOK[:3], "own", *LOOK[4:], 1, 1),
        (*LOOK[:3], "person", -1, *LOOK[5:], 1, 1),
        (*LOOK[:6], 300, 1, 1),
        (*LOOK, float("nan"), 1),
        (*LOOK, 1, 9),
        (*LOOK[:3], "coffee", 13, True, 128, 1, 1),
    ):
        kind, sentence = ask("translate", *values, lang=lang)
        assert kind == "error" and sentence.count(".") >= 1 and len(sentence) < 300, sentence
        assert "Traceback" not in sentence and "/" not in sentence.replace("w/o", ""), sentence
        assert sentence != i18n.say("shell.unexpected", lang), values


def test_the_first_picture_is_there_without_a_model(app):
    values = {param.name: param.default for param in app.tabs[STEM].params}
    before, after = style_pictures.first(values, "en")
    kept = recipe.read(after.data)
    assert kept.model == FIRST and Image.open(io.BytesIO(before.data)).size == Image.open(io.BytesIO(after.data)).size
    assert style_pictures.first({**values, "strength": 0.5}, "en") is None, "a link that asks for another picture"
    assert style_pictures.first({**values, "sample": "cat"}, "en") is None


def test_failures_are_of_bundled_models(app):
    bundled = [model.id for model in registry.models(STEM) if model.source == "bundled"]
    assert {model for model, *_ in style_pictures.FAILURES} <= set(bundled)
    assert len(style_pictures.failures(app.load, "de").figures) == len(style_pictures.FAILURES) >= 4
