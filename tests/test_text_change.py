"""The section of text to image that begins with a picture, through its API."""

from pathlib import Path

import numpy as np
import pytest
from conftest import LANGUAGES, models_apart, repeat
from PIL import Image

import pipelines
from apps import drawing, i18n, text_change
from apps.text_change import BECOMES, MASK, PEN, SIDES, WAYS
from apps.text_to_image import STEM
from pipelines import recipe
from pipelines.problems import Problem
from tests import tiny_text

SD, FLUX = "local/tiny-sd", "local/tiny-flux"


@pytest.fixture(scope="module", autouse=True)
def tiny(app, tmp_path_factory):
    with models_apart():
        folders = tiny_text.folders(tmp_path_factory.mktemp("text"))
        assert [pipelines.register_folder(folders[kind]).id for kind in ("diffusion", "flow")] == [SD, FLUX]
        yield


def asked(model=SD, own=None, source="drawn", way="vary", to=BECOMES, strength=0.7, mask=MASK, side="right", factor="2",
          upscaler="lanczos") -> tuple:  # fmt: skip
    return model, "frog", "", 3, 3, 3.0, "", "", 1, own, source, way, to, strength, mask, side, factor, upscaler


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


@pytest.mark.parametrize("model", [SD, FLUX])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "instruct"])
def test_a_changed_picture_is_made_again_pixel_for_pixel(app, clients, model, way):
    files, _ = clients["en"].predict(*asked(model, way=way), api_name="/change")
    made = recipe.read(files[1])
    assert (made.tab, made.model, made.seed, made.settings["section"]) == (STEM, model, 3, "change")
    again = repeat(app, clients["de"], "change", files[1], STEM)
    assert Path(again[1]).read_bytes() == Path(files[1]).read_bytes()


def test_what_is_marked_changes_and_the_rest_stays(clients):
    (before, after), _ = clients["en"].predict(*asked(way="paint", strength=1.0), api_name="/change")
    difference = np.abs(pixels(before) - pixels(after)).max(2)
    mask = np.asarray(drawing.lines(MASK, 128, PEN)) > 0
    assert np.median(difference[mask]) > 3
    assert difference[:6].max() == difference[64:].max() == 0


@pytest.mark.parametrize("side", SIDES)
def test_beyond_the_edge_the_picture_itself_stays(clients, side):
    (before, after), _ = clients["en"].predict(*asked(way="beyond", side=side), api_name="/change")
    before, after = pixels(before), pixels(after)
    wide, high = side not in ("up", "down"), side not in ("left", "right")
    assert after.shape == (192 if high else 128, 192 if wide else 128, 3)
    left, top = {"left": 64, "around": 32}.get(side, 0), {"up": 64, "around": 32}.get(side, 0)
    inside = slice(8, 120)
    assert (after[top : top + 128, left : left + 128][inside, inside] == before[inside, inside]).all()


def test_enlarged_by_interpolation(clients):
    (before, after), _ = clients["en"].predict(*asked(way="enlarge", factor="4"), api_name="/change")
    assert pixels(after).shape == pixels(before).shape == (512, 512, 3)
    assert np.abs(pixels(after)[2::4, 2::4] - pixels(before)[2::4, 2::4]).mean() < 30


def test_ones_own_photo_and_the_samples(app, clients, tmp_path):
    Image.effect_noise((200, 150), 60).convert("RGB").save(tmp_path / "own.png")
    from gradio_client import handle_file

    files, _ = clients["en"].predict(*asked(own=handle_file(str(tmp_path / "own.png"))), api_name="/change")
    assert recipe.read(files[1]).settings["source"] == "own"
    cat, _ = clients["en"].predict(*asked(source="cat"), api_name="/change")
    assert np.abs(pixels(cat[0]) - pixels(files[0])).mean() > 5


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "changes",
    [
        {"way": "paint", "mask": ""}, {"way": "paint", "mask": "s:!!"}, {"way": "paint", "mask": "scribble"},
        {"strength": 0.0}, {"strength": 0.1}, {"strength": None}, {"to": "x" * 10_000}, {"source": "own"},
        {"source": "/etc/passwd"}, {"way": "magic"}, {"way": "beyond", "side": "back"}, {"way": "instruct"},
        {"way": "enlarge", "factor": "3"}, {"way": "enlarge", "upscaler": "hope"}, {"own": {"path": "/etc/passwd"}},
    ],
)  # fmt: skip
def test_nonsense_gets_a_sentence(ask, lang, changes):
    event, said = ask("change", *asked(**changes), lang=lang)
    assert event == "error"
    assert said and said != i18n.say("shell.unexpected", lang)


def test_paper_is_white_where_it_goes_on():
    for side in SIDES:
        paper, mask = text_change.wider(Image.new("RGB", (90, 60), "teal"), 64, side)
        assert paper.size == mask.size and set(mask.getdata()) == {0, 255}
        assert sum(value == 0 for value in mask.getdata()) == 64 * 64
    with pytest.raises(Problem):
        text_change.wider(Image.new("RGB", (9, 9)), 64, "inwards")
