"""Scenes: the same for ever, true captions in two languages, hats on heads, pairs that training never sees."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests import emoji
from training import captions
from training.data import TrainingError
from training.scenes import Facts, Scenes, held_out


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return emoji.write_pack(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def scenes(pack):
    return Scenes(pack, seed=3)


def test_a_scene_is_a_function_of_seed_and_index(pack, scenes):
    again, other = Scenes(pack, seed=3), Scenes(pack, seed=4)
    again[5]  # what was drawn before makes no difference
    for i in (0, 17, 2**40):
        assert (scenes[i].picture == again[i].picture).all()
        assert scenes[i][1:] == again[i][1:]
    assert sum((scenes[i].picture != other[i].picture).any() for i in range(5)) >= 4
    assert scenes[0].picture.shape == (128, 128, 3)
    assert scenes[0].picture.dtype == np.uint8
    pictures = scenes.pictures(range(3, 6))
    assert (pictures[1].permute(1, 2, 0).numpy() == scenes[4].picture).all()


def test_same_scenes_in_another_process(pack, scenes):
    code = f"from training.scenes import Scenes; s = Scenes({str(pack)!r}, 3)[9]; print(s.picture.sum(), s.caption)"
    done = subprocess.run([sys.executable, "-c", code], cwd=emoji.Path(__file__).parents[1], capture_output=True)
    assert done.stdout.decode().strip() == f"{scenes[9].picture.sum()} {scenes[9].caption}"


# ---- what is kept out of training


def test_held_out_is_a_tenth_and_frog_with_melon():
    assert held_out("frog", "melon")
    pairs = [(f"wearer {i}", f"hat {j}") for i in range(60) for j in range(30)]
    assert 0.08 < np.mean([held_out(*pair) for pair in pairs]) < 0.12


def test_held_out_pairs_are_never_drawn(pack, scenes):
    facts = [scenes.facts(i) for i in range(2000)]
    worn = {(f.object, f.hat) for f in facts if f.hat}
    every = {(object, hat) for object in scenes.wearers for hat in scenes.hats}
    assert worn == {pair for pair in every if not held_out(*pair)}
    kept = Scenes(pack, seed=3, held_out=True)
    assert {(f.object, f.hat) for f in map(kept.facts, range(300))} == every - worn


def test_only_wearers_wear_and_no_object_stands_beside_itself(scenes):
    for facts in map(scenes.facts, range(1000)):
        assert not facts.hat or facts.object in scenes.wearers
        assert facts.second != facts.object
        assert bool(facts.second) == bool(facts.relation)


# ---- captions


def words(entry: dict, language: str) -> list[str]:
    return [entry["en"]["noun"]] if language == "en" else [entry["de"][c].split(" ", 1)[1] for c in captions.CASES]


def names(caption: str, found: list[str]) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", caption, re.IGNORECASE) for word in found)


@pytest.mark.parametrize("language", ["en", "de"])
def test_captions_say_what_is_there_and_nothing_else(scenes, language):
    said = {"background": 0, "style": 0}
    for i in range(1500):
        facts = scenes.facts(i)
        if facts.language != language:
            continue
        caption = scenes.caption(facts, np.random.default_rng(i))
        for id, entry in scenes.objects.items():
            assert names(caption, words(entry, language)) == (id in (facts.object, facts.second)), caption
        for id, hat in scenes.hats.items():
            assert names(caption, words(hat, language)) == (id == facts.hat), caption
        for id, entry in scenes.backgrounds.items():
            if names(caption, [entry[language], *entry[f"{language}_alt"]]):
                assert id == facts.background, caption
                said["background"] += 1
        for style, word in (("noto", "noto"), ("fluent-3d", "3d")):
            if word in caption.lower():
                assert style == facts.style, caption
                said["style"] += 1
    assert said["background"] > 400
    assert said["style"] > 200


def test_german_cases(scenes):
    bear, owl, car = (scenes.objects[id]["de"] for id in ("bear", "owl", "car"))
    assert captions.german(bear, "dative", "definite") == "dem Bären"
    assert captions.german(bear, "accusative", "definite") == "den Bären"
    assert captions.german(bear, "nominative", "") == "Bär"
    assert captions.german(owl, "dative", "indefinite") == "einer Eule"
    assert captions.german(owl, "dative", "definite") == "der Eule"
    assert captions.german(car, "accusative", "definite") == "das Auto"
    facts = Facts("bear", "bell", "owl", "and", "park", "noto", "de")
    every = {
        scenes.caption(f, np.random.default_rng(i)) for i in range(600) for f in (facts, replace(facts, second=""))
    }
    text = "\n".join(every).lower()
    for right in ("vom bären", "von einem bären", "und einer eule", "und eine eule", "bär trägt einen glockenhut",
                  "ein bär, der einen glockenhut trägt", "mit glockenhut", "mit einem glockenhut"):  # fmt: skip
        assert right in text
    assert not re.search(r"\b(von|neben) (ein|eine|einen|die|das|den)\b|von dem|  |,,|,$", text, re.MULTILINE)


def test_letters_and_articles_vary(scenes):
    facts = Facts("frog", "bell", "", "", "park", "noto", "en")
    every = {scenes.caption(facts, np.random.default_rng(i)) for i in range(600)}
    starts = ("a frog", "frog with", "the frog", "Frog", "in a park: ", "A picture of a frog", "Noto emoji of frog")
    assert all(any(text.startswith(start) for text in every) for start in starts)
    assert len(every) > 60


# ---- pictures


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """left, top, right, bottom of what is true"""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def seen(picture: np.ndarray, colour) -> np.ndarray:
    return np.abs(picture.astype(int) - colour).sum(2) < 60


@pytest.mark.parametrize("second", ["", "car"])
def test_hat_sits_on_the_head(scenes, second):
    facts = Facts("frog", "melon", second, "left_of" if second else "", "plain_white", "noto", "en")
    for seed in range(20):
        picture = scenes.draw(facts, np.random.default_rng(seed))
        hat, wearer = extent(seen(picture, emoji.RED)), seen(picture, emoji.GREEN)
        wearer[:, 62 if second else 128 :] = False
        body = extent(wearer)
        side = (body[2] - body[0]) * 128 / 96  # of the wearer's picture, whose disc is 96 px wide
        left, top = body[0] - side * 16 / 128, body[3] - side * 120 / 128
        x, y, width = emoji.HEAD
        assert (hat[0] + hat[2]) / 2 == pytest.approx(left + x * side, abs=1.5)
        assert hat[3] == pytest.approx(top + y * side, abs=2)
        assert hat[2] - hat[0] == pytest.approx(width * side, abs=2.5)


def test_nothing_is_cut_and_nothing_shines_through(scenes):
    for i in range(60):
        facts = replace(scenes.facts(i), background="plain_white")
        picture = scenes.draw(facts, np.random.default_rng(i))
        assert (picture[[0, -1]] == 255).all()
        assert (picture[:, [0, -1]] == 255).all()
        pink = (picture[..., 0] > 200) & (picture[..., 2] > 200) & (picture[..., 1] < 120)
        assert not pink.any()  # the colour of what is transparent


def test_what_covers_what(scenes):
    facts = Facts("frog", "melon", "car", "left_of", "plain_white", "noto", "en")
    picture, (things, hat) = scenes.compose(facts, np.random.default_rng(0))
    assert hat.dtype == np.uint8
    assert (seen(picture, emoji.RED) == (hat > 200)).mean() > 0.98
    painted = (picture.astype(int) < 250).any(2)
    assert (painted == (np.maximum(things, hat) > 10)).mean() > 0.98
    bare, (_, none) = scenes.compose(replace(facts, hat=""), np.random.default_rng(0))
    assert not none.any()
    assert not seen(bare, emoji.RED).any()


def test_what_wears_no_hat_is_as_frequent_as_wearers(pack):
    facts = [Scenes(pack).facts(i) for i in range(3000)]
    wearers = np.mean([f.object in Scenes(pack).wearers for f in facts])
    assert 0.5 < wearers < 0.6
    assert 0.4 < np.mean([f.hat != "" for f in facts]) < 0.48


def test_three_in_four_stand_in_the_middle(scenes):
    facts = Facts("frog", "", "", "", "plain_white", "noto", "en")
    middles = []
    for seed in range(80):
        left, _, right, _ = extent(seen(scenes.draw(facts, np.random.default_rng(seed)), emoji.GREEN))
        middles.append(abs((left + right) / 2 - 64) < 1.5)
    assert 0.65 < np.mean(middles) < 0.95


def test_left_and_right(scenes):
    for relation, hat_is_left in (("left_of", True), ("right_of", False)):
        facts = Facts("frog", "bell", "car", relation, "plain_white", "noto", "en")
        for seed in range(5):
            left, _, right, _ = extent(seen(scenes.draw(facts, np.random.default_rng(seed)), emoji.RED))
            assert ((left + right) / 2 < 64) == hat_is_left


def test_things_stand_on_the_ground(scenes):
    facts = Facts("car", "", "", "", "park", "noto", "en")
    feet = [extent(seen(scenes.draw(facts, np.random.default_rng(s)), emoji.GREEN))[3] / 128 for s in range(10)]
    assert min(feet) > 0.85
    assert max(feet) < 0.97


# ---- bad data


def test_a_folder_that_is_no_pack(tmp_path):
    with pytest.raises(TrainingError, match="no emoji pack"):
        Scenes(tmp_path)


def test_a_set_that_is_missing(pack, tmp_path):
    (tmp_path / "vocab.json").write_bytes((pack / "vocab.json").read_bytes())
    with pytest.raises(TrainingError, match=r"noto\.parquet"):
        Scenes(tmp_path)
