"""The judge of text to image on scenes whose answer is known, and `evaluate.py text_to_image` on tiny models."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DiffusionPipeline
from PIL import Image

from pipelines import recipe
from pipelines.text_to_image import TextToImagePipeline
from tests import companions, emoji, tiny_text
from training import bundle_text, common, emoji_judge, evaluate, lora
from training import evaluate_text as text
from training.emoji_judge import HEADS, Judge, Shown
from training.prepare import new_thing
from training.prepare.new_thing import THING
from training.scenes import Facts, Scenes, held_out

FACTS = Facts("frog", "", "", "", "park", "noto", "en")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """By objective; the pack that they learnt from is their neighbour."""
    return tiny_text.folders(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def pack(folders):
    return folders["flow"].parent / "emoji"


@pytest.fixture(scope="module")
def scenes(pack):
    return Scenes(pack)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(emoji_judge, "TEST", 16)
    monkeypatch.setattr(text, "STEPS", (1, 2))
    monkeypatch.setattr(text, "CEILING", 4)


# ---- the judge


def test_pairs(scenes):
    assert sorted(emoji_judge.pairs(scenes)) == sorted((o, h) for o in ("frog", "bear", "owl") for h in emoji.HATS)
    hats = scenes.hats | {"bell": scenes.hats["bell"] | {"codepoints": scenes.objects["owl"]["codepoints"]}}
    scenes = Scenes.__new__(Scenes)
    scenes.wearers, scenes.hats, scenes.objects = {"owl": {}}, hats, {"owl": {"codepoints": "owl"}}
    assert emoji_judge.pairs(scenes) == [("owl", "melon"), ("owl", "crown")]


def test_scenes_of_the_judge(scenes):
    pixels, facts = Shown(scenes, 7)(range(200))
    assert (pixels.shape, pixels.dtype) == ((200, 3, 128, 128), torch.uint8)
    again, same = Shown(scenes, 7)([150, 20])
    assert torch.equal(again, pixels[[150, 20]]) and same == [facts[150], facts[20]]
    assert not torch.equal(Shown(scenes, 8)([20])[0], pixels[[20]])
    hats = Counter(fact.hat for fact in facts)
    assert set(hats) == {"", *emoji.HATS} and 70 < hats[""] < 130
    assert any(held_out(fact.object, fact.hat) for fact in facts if fact.hat)  # judged as fairly as the others
    assert {fact.object for fact in facts} == set(emoji.OBJECTS)
    assert not any(fact.second for fact in facts)


def test_worn_down():
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    worn = emoji_judge.worn_down(x, torch.Generator().manual_seed(1))
    assert worn.shape == x.shape and worn.min() >= -1 and worn.max() <= 1
    assert torch.equal(worn, emoji_judge.worn_down(x, torch.Generator().manual_seed(1)))
    kept = (worn.diff(dim=3).abs().mean((1, 2, 3)) / x.diff(dim=3).abs().mean((1, 2, 3))).sort().values
    assert kept[0] < 0.6 and kept[-12] > 0.9  # some soft, some as they were


def test_loss():
    names = {"object": ["frog", "owl"], "hat": ["", "melon"], "background": ["park", "sea"], "style": ["noto", "flat"]}
    sure = {head: torch.tensor([[20.0, 0.0]]) for head in HEADS}
    assert emoji_judge.judge_loss(sure, [FACTS], names) < 1e-6
    wrong = emoji_judge.judge_loss(sure, [replace(FACTS, hat="melon")], names)
    assert wrong.item() == pytest.approx(20 * emoji_judge.WEIGHTS["hat"])


def test_accuracy(scenes):
    """A stand-in that sees no hat anywhere and is right otherwise."""
    shown = Shown(scenes, 3)

    facts = iter(shown(range(70))[1])

    class Blind:
        def answers(self, pixels):
            assert pixels.min() == pixels.max() == 7
            its = [next(facts) for _ in pixels]
            return [{"object": f.object, "hat": "", "background": f.background, "style": "?"} for f in its]

    found = emoji_judge.accuracy(Blind(), shown, 70, lambda pixels: pixels * 0 + 7)
    assert found == {"object": 1, "hat": 0, "background": 1, "style": 0, "no_hat": 1}


def train(pack, out, *flags):
    AcceleratorState._reset_state(True)
    argv = ["--data", pack, "--out", out, "--cpu", "--precision", "fp32", *flags]
    emoji_judge.main(common.parse(emoji_judge.Config, list(map(str, argv))))


def test_it_learns_and_comes_back(pack, scenes, tmp_path):
    train(pack, tmp_path / "judge", "--steps", 30, "--batch-size", 16, "--lr", 0.004)
    judge = Judge.from_pretrained(tmp_path / "judge").eval()
    known = json.loads((tmp_path / "judge" / "accuracy.json").read_text())
    assert (known["scenes"], known["steps"]) == (16, 30) and known["parameters"] == judge.num_parameters()
    assert judge.names["hat"] == ["", *emoji.HATS]
    found = emoji_judge.accuracy(judge, Shown(scenes, 99), 64)
    assert found["background"] > 0.9  # all objects of the pack look alike, and all hats
    assert not (tmp_path / "judge" / "training.json").exists()  # no model of the app


# ---- what is asked


def test_questions(scenes):
    asked = text.questions(scenes, 50)
    assert list(asked) == ["en", "de"] and asked == text.questions(scenes, 50)
    assert asked["de"][:7] == text.questions(scenes, 7)["de"]
    for english, german in zip(asked["en"], asked["de"], strict=True):
        assert german.facts == replace(english.facts, language="de") and german.seed == english.seed
    assert Counter(q.kind for q in asked["en"]) == {"no_hat": 20, "trained": 15, "held_out": 15}
    assert Counter(q.kind for q in asked["en"][:10]) == {"no_hat": 4, "trained": 3, "held_out": 3}
    assert {q.facts.object for q in asked["en"] if q.kind == "no_hat"} == set(emoji.OBJECTS)
    assert all(q.prompt for its in asked.values() for q in its)


def test_what_a_caption_names(scenes):
    said = lambda caption, **facts: scenes.named(caption, replace(FACTS, **facts))[3:]  # noqa: E731
    assert said("noto emoji of frog with melon hat in a park") == ("background", "style")
    assert said("a picture of a frog in a park") == ("background",)
    assert said("A frog, in Noto style") == ("style",)
    assert said("frog") == ()
    assert said("Im Park: ein Frosch", language="de") == ("background",)
    assert said("ein 3D-Bild vom Frosch", language="de", style="fluent-3d") == ("style",)
    assert said("frog in a park", background="plain_white") == ()  # not its own
    for language in ("en", "de"):
        rng, facts = np.random.default_rng(0), replace(FACTS, language=language)
        names = Counter(n for _ in range(1000) for n in scenes.named(scenes.caption(facts, rng), facts))
        assert names["object"] == names["hat"] == 1000  # a hat that is not named must not be there
        assert 750 < names["background"] < 850 and 600 < names["style"] < 700


def seen(object="frog", hat="", sees=None, names=HEADS, language="en"):
    """A blue picture; the judge is right but for what it `sees`."""
    question = text.Question("ein Frosch, im Park", 0, replace(FACTS, object=object, hat=hat, language=language), names)
    right = {"object": object, "hat": hat, "background": "park", "style": "noto"}
    return text.Seen(question, Image.new("RGB", (64, 64), "blue"), right | (sees or {}))


def test_figures():
    every = [
        seen(),
        seen(sees={"hat": "bell"}, names=("object", "hat", "style")),
        seen("owl", "bell"),
        seen("bear", "melon", {"object": "frog"}),
        seen("bear", "bell", {"hat": ""}),
        seen("owl", "melon", {"style": "fluent-3d"}),
        seen("frog", "melon", {"background": "plain_white"}),
        seen("owl", "crown", {"hat": "melon"}, ("object", "hat")),
        seen("bear", "crown", {"background": "plain_white", "style": "fluent-3d"}, ("object", "hat")),
        seen("frog", "melon", names=("object", "hat")),
    ]
    assert text.figures(every, "_en") == {
        "all_right_en": 4 / 10,
        "object_right_en": 9 / 10,
        "hat_right_trained_en": 4 / 5,
        "hat_right_held_out_en": 2 / 3,
        "no_hat_right_en": 1 / 2,
        "background_right_en": 5 / 6,
        "style_right_en": 6 / 7,
    }
    assert text.curve(every, 4) == {
        "all_right_steps_4": 4 / 10,
        "object_right_steps_4": 9 / 10,
        "hat_right_steps_4": 6 / 8,
    }
    assert text.figures([seen(names=("object", "hat"))])["style_right"] is None


def test_frogs():
    asked = text.frogs()
    assert {(q.prompt, q.kind, q.names) for q in asked} == {("frog with melon hat", "held_out", ("object", "hat"))}
    assert [q.seed for q in asked] == list(range(10))


def test_sheet():
    page = np.asarray(text.sheet([seen()] * text.COLUMNS + [seen(sees={"object": "owl"})]))
    height = page.shape[0] // 2
    assert page.shape[1] == text.COLUMNS * text.WIDE
    assert (page[4:132, 4:132] == (0, 0, 255)).all()  # drawn at twice its size
    right, wrong = page[132:height, : text.WIDE], page[height + 132 :, : text.WIDE]
    assert (right == text.GREEN).all(2).any() and not (right == text.RED).all(2).any()
    assert (wrong == text.RED).all(2).any() and not (wrong == text.GREEN).all(2).any()
    assert (page[height + 132 :, text.WIDE :] == 255).all()  # no more pictures


# ------------------------------------------------------------------------------------------------------ subcommand


@pytest.fixture(scope="module")
def judge(pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "judge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji_judge, "TEST", 16)
        train(pack, folder, "--steps", 1, "--batch-size", 4)
    return folder


@pytest.mark.parametrize("objective", ["diffusion", "flow"])
def test_figures_are_written_into_both_files(folders, pack, judge, tmp_path, capsys, objective):
    folder = folders[objective]
    argv = ["text_to_image", str(folder), "--data", str(pack), "--judge", str(judge), "--prompts", "4", "--curve", "3"]
    evaluate.main([*argv, "--sheet", str(tmp_path / "drawn.png")])
    facts, card = json.loads((folder / "training.json").read_text()), (folder / "README.md").read_text()
    names = ["object_right", "background_right_de", "hat_right_held_out_en", "no_hat_right", "all_right_steps_2"]
    names += ["frog_with_melon_hat_right", "judge_object", "judge_no_hat_autoencoder", "object_right_steps_1"]
    for name in names:
        assert 0 <= facts["figures"][name] <= 1
        assert f"| {name} | {facts['figures'][name]} |" in card
    assert (facts["figures"]["prompts_de"], facts["figures"]["prompts_steps"]) == (4, 3)
    assert 0 < facts["figures"]["autoencoder_db"] < 60
    assert facts["figures"]["scenes seen"] == 8  # what others wrote stays
    assert all(isinstance(value, int | float) for value in facts["figures"].values())
    assert text.NOTE in card and facts["figures_hardware"] in card
    assert "frog_with_melon_hat_right " in capsys.readouterr().out
    rows = -(-(10 + 2 * 4) // text.COLUMNS)
    assert Image.open(tmp_path / "drawn.png").size == (text.COLUMNS * text.WIDE, rows * (128 + 13 * (text.LINES + 2)))


def test_a_picture_is_drawn_once(folders, pack, judge, monkeypatch):
    """Of the curve, those at the model's own steps are among the others already."""
    drawn = []

    class Pipeline:
        defaults = {"steps": 2}
        encode = decode = staticmethod(lambda picture: picture)

        def draw(self, prompt, seed, steps):
            drawn.append((prompt, seed, steps))
            return Image.new("RGB", (32, 32)), None

    monkeypatch.setattr(text.pipelines, "load", lambda folder: Pipeline())
    argv = ["text_to_image", str(folders["flow"]), "--data", str(pack), "--judge", str(judge)]
    evaluate.main([*argv, "--prompts", "6", "--curve", "4"])
    assert len(drawn) == len(set(drawn)) == 2 * 6 + 10 + 4
    assert Counter(steps for _, _, steps in drawn) == {2: 22, 1: 4}


def test_a_lora_is_measured_beside_its_model(folders, pack, judge, tmp_path, monkeypatch):
    new_thing.main(["--data", str(pack), "--out", str(tmp_path / "new"), "--pictures", "2", "--keep", "2"])
    AcceleratorState._reset_state(True)
    base, out = folders["diffusion"], folders["diffusion"].parent / "tiny-pizza"
    argv = ["--model", base, "--data", tmp_path / "new", "--out", out, "--steps", 1, "--batch-size", 2, "--cpu"]
    lora.main(common.parse(lora.Config, list(map(str, argv))))
    asked = []
    draw = TextToImagePipeline.draw

    def watched(self, prompt, given, **more):
        asked.append((prompt, bool(given.loras)))
        return draw(self, prompt, given=given, steps=1, **more)

    monkeypatch.setattr(TextToImagePipeline, "draw", watched)
    argv = ["text_to_image", str(out), "--data", str(pack), "--judge", str(judge), "--prompts", "4", "--curve", "3"]
    evaluate.main([*argv, "--sheet", str(tmp_path / "drawn.png")])
    figures = json.loads((out / "training.json").read_text())["figures"]
    assert (figures["prompts_new"], figures["prompts_old"], figures["pictures"]) == (3, 3, 2)
    for name in ("new_thing_right", "object_right", "all_right"):
        assert {0 <= figures[f"{name}{ending}"] <= 1 for ending in ("", "_without")} == {True}
    assert [prompt for prompt, with_it in asked if with_it] == [prompt for prompt, with_it in asked if not with_it]
    assert all("pizza" in prompt.lower() for prompt, _ in asked[:3])
    assert not any("pizza" in prompt.lower() for prompt, _ in asked[3:6])


def test_what_comes_with_the_app(folders, tmp_path):
    run = shutil.copytree(folders["diffusion"], tmp_path / "run")
    (run / "state").mkdir(exist_ok=True)
    bundle_text.bundle(run, tmp_path / "out", "owl", 3)
    made = recipe.read(tmp_path / "out" / "first.png")
    assert (made.seed, made.settings["prompt"]) == (3, "owl")
    names = {file.relative_to(run) for file in run.rglob("*") if file.is_file() and "state" not in file.parts}
    kept = {file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert kept - names == {Path("first.png")} and names - kept == set()
    companions.lora(tmp_path / "lora", DiffusionPipeline.from_pretrained(run), "unet", "tiny-sd")
    bundle_text.bundle(tmp_path / "lora", tmp_path / "new", "owl", 3)
    kept, made = (sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("new", "lora"))
    assert kept == made


def test_a_missing_judge_is_trained(scenes, pack, tmp_path):
    args = evaluate.argparse.Namespace(data=str(pack), judge=tmp_path / "judge", judge_steps=1)
    AcceleratorState._reset_state(True)
    net, known = text.load_judge(args, Scenes(pack, more=[THING]))
    assert not net.training and known["steps"] == 1
    made = (tmp_path / "judge" / "config.json").stat().st_mtime_ns
    text.load_judge(args, Scenes(pack, more=[THING]))
    assert (tmp_path / "judge" / "config.json").stat().st_mtime_ns == made


def test_refused(folders, pack, judge, tmp_path):
    argv = ["text_to_image", str(folders["flow"]), "--data", str(pack), "--judge", str(judge)]
    with pytest.raises(common.TrainingError, match="outside the repository"):
        evaluate.main([*argv, "--sheet", "drawn.png"])
    with pytest.raises(common.TrainingError, match="tiny-flux is a model of text_to_image, not of faces"):
        evaluate.main(["faces", *argv[1:4]])
    with pytest.raises(common.TrainingError, match="no emoji pack"):
        evaluate.main([*argv[:3], str(tmp_path), *argv[4:]])
    vocabulary = json.loads((pack / "vocab.json").read_text("utf-8"))
    other = emoji.write_pack(tmp_path / "other")
    vocabulary["backgrounds"] = vocabulary["backgrounds"][:1]
    (other / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    with pytest.raises(common.TrainingError, match="judge has learnt other words than those of other"):
        evaluate.main([*argv[:3], str(other), *argv[4:]])
