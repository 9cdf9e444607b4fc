"""The section of text to image in which a ControlNet draws, through its API."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import LANGUAGES, models_apart, repeat
from diffusers import DiffusionPipeline
from gradio_client import handle_file
from PIL import Image

import pipelines
from apps import drawing, i18n, text_control
from apps.text_control import CONDITIONS, OUTLINE, PEN, RUBBER, Control, condition_choices, first, net_for
from apps.text_pictures import Asked
from apps.text_to_image import STEM
from pipelines import recipe, registry
from pipelines.problems import Problem
from tests import companions, tiny_text
from tests.test_text_change import pixels

SD, FLUX = "local/tiny-sd", "local/tiny-flux"
CORNER = "s:" + drawing.encode([[(100, 100), (900, 100), (900, 900)]])


@pytest.fixture(scope="module", autouse=True)
def net(app, tmp_path_factory):
    """The folder of a ControlNet for tiny-sd."""
    with models_apart():
        where = tmp_path_factory.mktemp("text")
        folders = tiny_text.folders(where)
        assert [pipelines.register_folder(folders[kind]).id for kind in ("diffusion", "flow")] == [SD, FLUX]
        plain = DiffusionPipeline.from_pretrained(folders["diffusion"])
        companions.controlnet(where / "edges", plain, "tiny-sd", condition="canny")
        yield where / "edges"


def asked(model=SD, own=None, guide_source="hand", condition="canny", guide_lines=OUTLINE, guide_prompt="",
          guide_strength=1.0, guide_begin=0.0, guide_end=1.0) -> tuple:  # fmt: skip
    more = guide_source, condition, guide_lines, guide_prompt, guide_strength, guide_begin, guide_end
    return model, "frog", "", 3, 3, 3.0, "", "", 1, own, *more


def test_an_outline_is_followed_and_the_picture_is_made_again_pixel_for_pixel(app, clients):
    files, _ = clients["en"].predict(*asked(), api_name="/control")
    assert (pixels(files[0]) == np.asarray(drawing.painted(OUTLINE, Image.new("RGB", (128, 128)), PEN, RUBBER))).all()
    made = recipe.read(files[1])
    assert (made.tab, made.model, made.seed, made.settings["section"]) == (STEM, SD, 3, "control")
    assert made.settings["guide"] == "local/edges"
    again = repeat(app, clients["de"], "control", files[1], STEM)
    assert Path(again[1]).read_bytes() == Path(files[1]).read_bytes()
    other, _ = clients["en"].predict(*asked(guide_lines=CORNER), api_name="/control")
    assert np.abs(pixels(other[1]) - pixels(files[1])).mean() > 0.1, "a net of random numbers, but one that sees"


def test_without_strength_the_lines_do_not_count_and_words_of_its_own_do(clients):
    free, _ = clients["en"].predict(*asked(guide_strength=0), api_name="/control")
    plain, _ = clients["en"].predict(SD, "frog", "", 3, 3, 3.0, "", "", 1, 1, api_name="/text_to_image")
    assert (pixels(free[1]) == pixels(plain[0])).all()
    other, _ = clients["en"].predict(*asked(guide_strength=0, guide_prompt="owl"), api_name="/control")
    assert (pixels(other[1]) != pixels(free[1])).any()


def test_edges_of_photos_of_any_shape_and_what_is_painted_over_them(clients, tmp_path):
    Image.effect_noise((300, 120), 90).convert("RGB").save(tmp_path / "own.png")
    own = handle_file(str(tmp_path / "own.png"))
    files, _ = clients["en"].predict(*asked(own=own, guide_source="own", guide_lines=""), api_name="/control")
    assert pixels(files[0]).shape == pixels(files[1]).shape == (128, 128, 3)
    assert recipe.read(files[1]).settings["guide_source"] == "own"
    rubbed = "e:" + drawing.encode([[(0, 500), (1000, 500)]])
    (edges, _), _ = clients["en"].predict(*asked(guide_source="cat", guide_lines=rubbed), api_name="/control")
    (whole, _), _ = clients["en"].predict(*asked(guide_source="cat", guide_lines=""), api_name="/control")
    assert pixels(edges)[62:66].max() == 0 < pixels(whole)[62:66].max()
    assert (pixels(edges)[80:] == pixels(whole)[80:]).all()


@pytest.mark.parametrize("condition", ["scribble", "line_art_plain"])
def test_the_tabs_own_picture_in_other_conditions(clients, condition):
    asking = asked(guide_source="drawn", condition=condition, guide_lines="", guide_prompt="owl")
    (shown, _), _ = clients["en"].predict(*asking, api_name="/control")
    assert pixels(shown).max() > 100


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "changes",
    [
        {"guide_lines": ""}, {"guide_lines": "s:!!"}, {"guide_lines": "scribble"}, {"guide_lines": None},
        {"guide_lines": "e:" + drawing.encode([[(1, 1), (9, 9)]])}, {"guide_lines": "s:AAAA," * 4000},
        {"guide_strength": math.nan}, {"guide_strength": 3}, {"guide_strength": None}, {"guide_begin": 1},
        {"guide_begin": 0.5, "guide_end": 0.5}, {"guide_begin": 0.9, "guide_end": 0.1}, {"guide_end": "late"},
        {"condition": "blur"}, {"condition": "/etc"}, {"condition": "depth"}, {"guide_source": "own"},
        {"guide_source": "/etc/passwd"}, {"own": {"path": "/etc/passwd"}}, {"model": FLUX}, {"model": "local/edges"},
        {"guide_prompt": "x" * 10_000},
    ],
)  # fmt: skip
def test_nonsense_gets_a_sentence(ask, lang, changes):
    event, said = ask("control", *asked(**changes), lang=lang)
    assert event == "error"
    assert said and said != i18n.say("shell.unexpected", lang)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_detector_that_must_be_downloaded_says_so(ask, lang, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    event, said = ask("control", *asked(guide_source="cat", condition="soft_edge", guide_lines=""), lang=lang)
    assert event == "error" and "detector-soft_edge" in said
    labels = {name: label for label, name in condition_choices(SD, lang)}
    assert i18n.say("shell.needs_download", lang) in labels["soft_edge"]
    assert i18n.say("text.control.no_net", lang) in labels["depth"]
    assert labels["canny"] == i18n.say("text.control.condition.canny", lang)


def test_which_net_follows_what(monkeypatch):
    assert net_for(SD, "canny").id == net_for(SD, "scribble").id == "local/edges"
    assert net_for("sd15", "depth").id == "sd15-depth" and net_for("sd15", "soft_edge").id == "sd15-soft-edge"
    assert net_for("lcm-dreamshaper-7", "line_art").id == "sd15-canny", "an outline of another kind is followed, too"
    assert {net_for("sdxl", name).id for name in CONDITIONS if name != "blur"} == {"sdxl-union"}
    assert net_for("z-image-turbo", "depth").id == "z-image-union"
    assert net_for("flux1-dev", "pose").id == "flux1-union" and net_for("sd35-large", "blur").id == "sd35-large-blur"
    assert net_for("sd15", "normal").id == "sd15-normal", "though no version of it is known"
    monkeypatch.setenv("TRUGBILD_REVISION_SD15_LINE_ART", "0" * 40)
    assert net_for("sd15", "line_art").id == "sd15-line-art"
    with pytest.raises(Problem, match="sd15"):
        net_for(FLUX, "canny")
    with pytest.raises(Problem, match="depth"):
        net_for(SD, "depth")


def test_the_picture_beside_the_net_is_shown_without_drawing(clients, net):
    (_, made), _ = clients["en"].predict(*asked(), api_name="/control")
    (net / "first.png").write_bytes(Path(made).read_bytes())
    values = dict(zip(Control._fields, asked()[10:], strict=True))
    one = Asked.of(*asked()[:9])
    before, after = first(one, Control(**values), "en").figures
    assert (np.asarray(Image.open(made)) == pixels_of(after.data)).all() and pixels_of(before.data).any()
    assert first(one, Control(**{**values, "guide_lines": CORNER}), "en") is None
    assert first(one._replace(seed=4), Control(**values), "en") is None
    (net / "first.png").unlink()
    assert first(one, Control(**values), "en") is None


def pixels_of(data: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_bundled_net_needs_no_more_than_its_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "CHECKPOINTS", tmp_path)
    assert registry._companion("edges", "controlnet", "emoji-sd", "canny") == ()
    (tmp_path / "edges").mkdir()
    (model,) = registry._companion("edges", "controlnet", "emoji-sd", "canny")
    assert (model.base, model.conditions, model.path) == ("emoji-sd", ("canny",), tmp_path / "edges")


def test_a_link_with_nonsense_is_refused():
    with pytest.raises(Problem):
        text_control.checked("s:AA,x:AA")
