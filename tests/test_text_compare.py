"""One prompt through several models: their order, who draws first, what stands where nothing is drawn, the sheet."""

import html
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import LANGUAGES, models_apart, opened, repeat
from PIL import Image

import pipelines
from apps import i18n
from apps.links import Several
from apps.text_compare import CLOSED, SIDE, compare, drawn, lined_up, page, sheet
from pipelines import hub, recipe, registry
from pipelines.problems import Problem
from pipelines.registry import Model
from tests import tiny_text

STEM = "text_to_image"
SD, FLUX, BROKEN = "local/tiny-sd", "local/tiny-flux", "local/broken"
ASK = ("frog with melon hat", "", 5)
HUB = {"files": {"config.json": None}, "revision": "0" * 40}
ELSEWHERE = {  # id -> why it cannot draw here
    "old": "not_downloaded", "behind-a-gate": "gated", "giant": "memory", "lost": "model_files_missing",
}  # fmt: skip
LARGE = "large"  # lies here


def elsewhere(folder: Path) -> tuple[Model, ...]:
    return (
        Model("old", STEM, "diffusion", "someone/old", "MIT", "", 2022, **HUB),
        Model("behind-a-gate", STEM, "flow", "someone/gated", "MIT", "", 2024, gate=True, **HUB),
        Model("giant", STEM, "flow", "someone/giant", "MIT", "", 2025, memory_mb=10**7, **HUB),
        Model("lost", STEM, "flow", "bundled", "MIT", "", 2021, path=folder / "lost"),
        Model(LARGE, STEM, "diffusion", "someone/large", "MIT", "", 2023, memory_mb=3000, **HUB),
    )


@pytest.fixture(scope="module")
def models(app, tmp_path_factory):
    """Two that draw, one whose weights were cut off, a large one, four that are not here: all that there are."""
    where = tmp_path_factory.mktemp("text")
    with models_apart(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", elsewhere(where))
        patch.setattr(hub, "_reachable", None)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("HF_HOME", str(where / "cache"))
        patch.delenv("HF_HUB_CACHE", raising=False)
        patch.setenv("TRUGBILD_MEMORY_MB", "8000")
        (here := hub._snapshot(registry.get(LARGE))).mkdir(parents=True)
        (here / "config.json").write_text("{}")
        folders = tiny_text.folders(where)
        shutil.copytree(folders["diffusion"], where / "broken")
        (weights,) = (where / "broken" / "unet").glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:1000])
        for folder in (folders["flow"], folders["diffusion"], where / "broken"):
            pipelines.register_folder(folder)
        yield


@pytest.fixture(scope="module")
def made(models):
    """What all of them amount to, and what was told meanwhile."""
    told = []
    return *drawn(pipelines.load, *ASK, [], "en", on_step=lambda *event: told.append(event)), told


# ---- who is there


@pytest.mark.parametrize("lang", LANGUAGES)
def test_all_stand_in_the_order_of_their_years_with_their_reasons(models, lang):
    tiles = lined_up([], lang)
    years = [tile.year for tile in tiles]
    assert years == sorted(years) and len(tiles) == len(ELSEWHERE) + 4 + len(CLOSED)
    for tile in tiles:
        if code := ELSEWHERE.get(tile.model):
            pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(i18n.texts(lang)[f"problems.{code}"]))
            assert re.fullmatch(pattern, tile.why), tile.why
        elif tile.model == LARGE:
            assert tile.why == i18n.say("text.compare.large", lang, gb="2,9" if lang == "de" else "2.9")
        else:
            assert bool(tile.why) != bool(tile.model), "closed ones say so, the others can draw"
        assert bool(tile.brief) == bool(tile.why) and len(tile.brief) < 40
    for name, owner, year in CLOSED:
        (tile,) = (tile for tile in tiles if tile.name == name)
        assert owner in tile.why and tile.year == year <= 2026


def test_a_choice_is_those_alone(models):
    assert [tile.model for tile in lined_up(["giant", "old", SD, "old"], "en")] == ["old", "giant", SD]
    assert lined_up([LARGE], "en")[0].why == "", "who is chosen draws"
    with pytest.raises(Problem, match="must be one of"):
        lined_up(["faces-64"], "en")


# ---- what they draw


def test_each_draws_what_it_usually_draws(made):
    tiles, result, _ = made
    done = [tile for tile in tiles if tile.figure]
    assert [tile.model for tile in done] == [FLUX, SD] and len(result.figures) == 3
    for tile, figure in zip(done, result.figures, strict=False):
        usual = registry.get(tile.model).defaults
        again, _ = pipelines.load(tile.model).draw(*ASK, steps=usual["steps"], guidance=usual["guidance"])
        assert again.tobytes() == Image.open(io.BytesIO(figure.data)).convert("RGB").tobytes()
        known = recipe.read(figure.data)
        assert (known.model, known.seed, known.settings["section"]) == (tile.model, 5, "picture")
        assert tile.steps == known.settings["steps"] == usual["steps"] and tile.seconds > 0
        assert f"steps: {tile.steps}" in figure.caption and "M parameters" in figure.caption
    assert result.numbers == {"steps": [tile.steps for tile in done], "seconds": [tile.seconds for tile in done]}


def test_a_model_that_turns_out_broken_stops_nobody(made):
    (tile,) = (tile for tile in made[0] if tile.model == BROKEN)
    assert tile.figure is None and re.fullmatch(r".*broken cannot be loaded.*|.*damaged.*", tile.why)


def test_it_is_told_how_far_they_are(made):
    tiles, _, told = made
    steps = [registry.get(tile.model).defaults["steps"] for tile in tiles if tile.model.startswith("local/")]
    numbers = [i for i, *_ in told]
    assert numbers == sorted(numbers) and numbers[-1] == sum(steps) and {n for _, n, _ in told} == {sum(steps)}
    grown = [sum(tile.figure is not None or bool(tile.why) for tile in so_far) for *_, so_far in told if so_far]
    assert grown == [len(tiles) - 2, len(tiles) - 1, len(tiles)], "what was shown stays as it was"


def test_the_smallest_draws_first(models, monkeypatch):
    monkeypatch.setitem(registry._own, FLUX, replace(registry._own[FLUX], memory_mb=4000))
    seen = []
    drawn(pipelines.load, *ASK, [FLUX, SD], "en", lambda i, n, tiles: seen.append(tiles))
    first = next(tiles for tiles in seen if tiles)
    assert [tile.model for tile in first if tile.figure] == [SD]


def test_stop_ends_it(models):
    def on_step(i, n, tiles):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(pipelines.load, *ASK, [SD], "en", on_step)


# ---- what is shown


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_tile_is_empty(models, made, lang):
    tiles, result, _ = made
    for shown in (page(lined_up([], lang), lang), page(tiles, lang), page(tiles, lang, result)):
        filled = re.findall(r'<div class="frame">(?:<img |<div class="instead">(?:<span title="[^"]+">)?\w)', shown)
        assert len(filled) == shown.count('class="frame"') == len(tiles) + shown.count('class="figures big"')
    assert page(tiles, lang, result).count('class="save"') == 3
    assert i18n.texts(lang)["text.compare.soon"] in page(lined_up([SD], lang), lang)


def test_nobodys_markup_is_shown(models, made):
    tile = made[0][0]._replace(name="<img src=x>", why="<script>", brief="")
    assert "<script" not in page([tile], "en") and "<img" not in page([tile], "en")
    assert html.escape("<script>") in page([tile], "en")


def test_the_sheet_has_a_place_for_everybody(made):
    tiles, result, _ = made
    image = sheet(tiles, ASK[0], "en")
    whole = np.asarray(image)
    assert image.width == 4 * (SIDE + SIDE // 16) + SIDE // 16, "thirteen tiles in four columns"
    assert whole.tobytes() == np.asarray(Image.open(io.BytesIO(result.figures[-1].data)).convert("RGB")).tobytes()
    tall, top = SIDE + 100, image.height - 4 * (SIDE + 100) + SIDE // 16
    for i, tile in enumerate(tiles):
        x, y = SIDE // 16 + i % 4 * (SIDE + SIDE // 16), top + i // 4 * tall
        place, label = whole[y : y + SIDE, x : x + SIDE], whole[y + SIDE + 4 : y + SIDE + 66, x : x + SIDE]
        assert label.min() < 128, f"{tile.name} has a label"
        if tile.picture:
            assert (place == np.asarray(tile.picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))).all()
        else:
            assert (place[0, 0] == 0xEC).all() and place.min() < 128, "a reason, in grey"


def test_a_long_prompt_and_an_odd_shape_fit(made):
    (tile, *_) = (tile for tile in made[0] if tile.picture)
    wide = tile._replace(picture=Image.new("RGB", (300, 100), "red"), name="x" * 200)
    image = sheet([wide], "frog " * 199, "en")
    assert image.width == SIDE + 2 * (SIDE // 16) and image.height < 1000
    assert image.getpixel((image.width // 2, image.height - 100 - SIDE // 2 + SIDE // 16)) == (255, 0, 0)


# ---- for other programs


def test_the_sheet_opens_the_comparison_again(app, clients, models):
    call = {"prompt": ASK[0], "negative_prompt": "", "seed": 5, "models": [SD, FLUX]}
    files, numbers = clients["en"].predict(**call, api_name="/compare")
    assert len(files) == 3 and len(numbers["seconds"]) == 2
    values = opened(app, files[-1], STEM)
    assert {name: values[name] for name in call} == call and values["section"] == "compare"
    again = repeat(app, clients["en"], "compare", files[-1], STEM)
    assert [Path(file).read_bytes() for file in again] == [Path(file).read_bytes() for file in files]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_wrong_is_said_in_one_sentence(ask, models, lang):
    for values, code in (
        ((*ASK, ["faces-64"]), "unknown_choice"), ((*ASK, [["x"]]), "unknown_choice"), ((*ASK, 7), "unknown_choice"),
        ((*ASK, {"a": 1}), "unknown_choice"), ((*ASK, [None]), "missing"), ((*ASK, ["giant"]), "nothing_to_compare"),
        (("x" * 10_000, "", 5, [SD]), "too_long"), ((ASK[0], None, 5, [SD]), "not_text"),
        ((*ASK[:2], -1, []), "out_of_range"), ((*ASK[:2], float("nan"), []), "out_of_range"),
    ):  # fmt: skip
        event, said = ask("compare", *values, lang=lang)
        pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(i18n.texts(lang)[f"problems.{code}"]))
        assert event == "error" and re.fullmatch(pattern, said), (values, said)


def test_one_model_may_stand_alone(models):
    one, none = (compare(pipelines.load, *ASK, models, "en") for models in (SD, [SD]))
    assert [figure.data for figure in one.figures[:1]] == [figure.data for figure in none.figures[:1]]


def test_the_link_holds_the_choice():
    kind = Several(lambda: ["a", "local/b", "c"])
    for value in ([], ["a"], ["c", "local/b"]):
        assert kind.parse("models", kind.format(value)) == value
    assert kind.parse("models", "a,,a,") == ["a"]
    with pytest.raises(Problem, match="must be one of"):
        kind.parse("models", "a,d")
