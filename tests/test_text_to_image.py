"""pipelines/text_to_image.py: the pixels of diffusers, every sampler and step; text_words.py: what a prompt means."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import pipelines
from pipelines import registry, text_words
from pipelines.problems import Problem
from pipelines.text_space import EVERY_SAMPLER, SAMPLERS
from tests import tiny_text
from tests.conftest import models_apart

KINDS = ("diffusion", "flow")
PROMPT = "frog with melon hat"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    with models_apart():
        yield tiny_text.folders(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def pipes(folders):
    return {kind: pipelines.load(folders[kind]) for kind in KINDS}


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and (np.asarray(a) == np.asarray(b)).all()


# ---- pixels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("negative", ["", "owl"])
def test_the_pixels_are_those_of_diffusers(pipes, folders, kind, negative):
    plain = DiffusionPipeline.from_pretrained(folders[kind])
    plain.set_progress_bar_config(disable=True)
    more = {"diffusion": {"guidance_scale": 3.0}, "flow": {"true_cfg_scale": 3.0, "max_sequence_length": 24}}[kind]
    generator = torch.Generator().manual_seed(7)
    size = {"height": 128, "width": 128, "num_inference_steps": 3}
    (expected,) = plain(PROMPT, negative_prompt=negative, generator=generator, **size, **more).images
    assert same(pipes[kind].draw(PROMPT, negative, seed=7, steps=3, guidance=3)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_watching_changes_nothing_and_every_setting_does(pipes, kind):
    settings = {"prompt": PROMPT, "negative_prompt": "", "seed": 1, "steps": 3, "guidance": 3.0}
    seen = []
    picture, recipe = pipes[kind].draw(**settings, on_step=lambda *step: seen.append(step))
    made = pipes[kind].trace(**settings)
    assert same(picture, pipes[kind].draw(**settings)[0]) and same(picture, made.image)
    assert [step[:2] for step in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0][2].size == (128, 128), "the first preview comes with the first step"
    assert recipe.seed == 1 and made.recipe == recipe
    assert recipe.settings == {"sampler": SAMPLERS[kind][0], **{k: v for k, v in settings.items() if k != "seed"}}
    for changed in ({"seed": 2}, {"steps": 4}, {"guidance": 8.0}, {"prompt": "owl"}, {"negative_prompt": "owl"}):
        assert not same(picture, pipes[kind].draw(**settings | changed)[0]), changed


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_the_models(pipes, kind):
    recipe = pipes[kind].draw(PROMPT)[1]
    assert (recipe.settings["steps"], recipe.settings["guidance"]) == {"diffusion": (20, 4.0), "flow": (8, 3.0)}[kind]
    assert recipe.seed == 0


def test_the_registry_says_what_the_training_wrote(folders):
    for model in registry.models("text_to_image"):
        if model.source == "bundled":
            defaults = json.loads((folders[model.kind] / "training.json").read_text())["defaults"]
            assert defaults == model.defaults, "one is what the card says, the other what the tab begins with"


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_of_samplers(pipes, kind):
    assert pipes[kind].samplers == SAMPLERS[kind]
    assert set(SAMPLERS[kind]) <= set(EVERY_SAMPLER)


# ---- every step


@pytest.mark.parametrize("kind, sampler", [(kind, name) for kind in KINDS for name in SAMPLERS[kind]])
def test_every_sampler_tells_its_steps(pipes, kind, sampler):
    """x is signal * x0 + noise * epsilon: the levels say it, whatever a scheduler keeps its latents in."""
    made = pipes[kind].trace(PROMPT, seed=3, steps=4, sampler=sampler)
    assert len(made.moments) == 4 and np.isfinite(np.asarray(made.image)).all()
    noises = [moment.level.noise for moment in made.moments]
    assert noises[0] == pytest.approx(1, abs=2e-3) and noises == sorted(noises, reverse=True)
    assert made.moments[0].x.std().item() == pytest.approx(1, abs=0.1), "it begins with noise of variance 1"
    for signal, noise, _ in (moment.level for moment in made.moments):
        total = signal**2 + noise**2 if kind == "diffusion" else signal + noise
        assert total == pytest.approx(1, abs=1e-3)
    usual = pipes[kind].trace(PROMPT, seed=3, steps=4)
    guesses = torch.stack([trace.moments[0].x0.flatten() for trace in (made, usual)])
    assert torch.corrcoef(guesses)[0, 1] > 0.98, "same noise, same net, same guess"
    if sampler == SAMPLERS[kind][0]:
        assert torch.allclose(made.latent, made.moments[-1].x0, atol=1e-4), "the last step goes all the way"


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_net_said_can_be_asked_again(pipes, kind):
    """Guided: without + guidance * (with - without), Ho & Salimans 2022, in the form that diffusers uses."""
    pipe = pipes[kind]
    made = pipe.trace(PROMPT, seed=3, steps=3, guidance=5)
    moment = made.moments[1]
    with torch.inference_mode():
        t = torch.tensor([moment.t])
        with_, without = (pipe.family.predict(moment.x, t, pipe.family.conditions(text)) for text in (PROMPT, ""))
    assert torch.allclose(moment.output, without + 5 * (with_ - without), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_go_into_latents_and_back(pipes, kind):
    latent = pipes[kind].encode(Image.new("RGB", (300, 200), "red"))
    assert latent.shape == pipes[kind].trace(PROMPT, steps=1).latent.shape and latent.dtype == torch.float32
    assert pipes[kind].decode(latent).size == (128, 128)


def test_previews_take_a_tenth_of_the_time_at_most(pipes, monkeypatch):
    """Steps that take no time: one preview, the first. Steps that take long: one each as soon as the first is paid."""
    pipe, clock = pipes["diffusion"], [0.0]
    monkeypatch.setattr("pipelines.text_to_image.time.monotonic", lambda: clock[0])
    decode = type(pipe).decode

    def slow(self, x0):
        clock[0] += 1
        return decode(self, x0)

    monkeypatch.setattr(type(pipe), "decode", slow)
    for length, expected in ((0, 1), (11, 4)):
        seen = []

        def on_step(i, n, preview, seen=seen, length=length):
            seen.append(preview)
            clock[0] += length

        pipe.draw(PROMPT, steps=6, on_step=on_step)
        assert sum(preview is not None for preview in seen) == expected and seen[0] and not seen[-1]


# ---- bad input


@pytest.mark.parametrize(
    "bad, code",
    [
        ({"steps": 0}, "out_of_range"), ({"steps": 10**6}, "out_of_range"), ({"steps": 2.5}, "not_whole"),
        ({"guidance": math.nan}, "out_of_range"), ({"guidance": -1}, "out_of_range"), ({"seed": -1}, "out_of_range"),
        ({"seed": 2**32}, "out_of_range"), ({"sampler": "Magic"}, "unknown_choice"), ({"prompt": None}, "not_text"),
        ({"prompt": "frog " * 2000}, "too_long"), ({"negative_prompt": "x" * 10_000}, "too_long"),
        ({"prompt": "fr\x00og"}, "no_letters"), ({"prompt": "\ud800"}, "no_letters"),
    ],
)  # fmt: skip
def test_bad_values_are_named(pipes, bad, code):
    with pytest.raises(Problem) as caught:
        pipes["diffusion"].draw(**{"prompt": PROMPT, "steps": 1} | bad)
    assert caught.value.code == code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", ["", "🐸", "\u200bfrog\u200b", "ضفدع", "frog " * 150, "<|endoftext|>", "frog\nowl"])
def test_strange_prompts_are_drawn(pipes, kind, prompt):
    assert pipes[kind].draw(prompt, steps=1)[0].size == (128, 128)


def test_a_step_may_stop_it(pipes):
    class Stop(Exception):
        pass

    def on_step(i, n, preview):
        raise Stop

    before = pipes["flow"].draw(PROMPT, steps=2)[0]
    with pytest.raises(Stop):
        pipes["flow"].draw(PROMPT, steps=2, on_step=on_step)
    assert same(before, pipes["flow"].draw(PROMPT, steps=2)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_that_is_not_read(pipes, kind):
    assert pipes[kind].unread(PROMPT) == "" == pipes[kind].unread("")
    long = "frog " * 30 + "owl and a crown"
    assert pipes[kind].unread(long).endswith("crown")
    assert same(*(pipes[kind].draw(text, steps=1)[0] for text in (long, long + " melon")))


# ---- words


@pytest.fixture(scope="module")
def words(folders):
    return text_words.words(registry.register_folder(folders["diffusion"]))


def test_known_words_are_not_worth_a_word(words):
    for prompt in (PROMPT, "Ein Frosch mit Melonenhut im Park!", "FROG, 3D style"):
        assert text_words.read(prompt, words, "de").unknown == (), prompt


@pytest.mark.parametrize(
    "prompt, lang, unknown",
    [
        ("frogg with melon hat", "en", (("frogg", "frog"),)),
        ("frogg mit Melonenhut", "de", (("frogg", "Frosch"),)),
        ("quantum frog", "en", (("quantum", ""),)),
        ("🐸 with melon hat", "en", (("🐸", "frog"),)),
        ("🐸🐸", "de", (("🐸", "Frosch"),)),
        ("ضفدع", "en", (("ضفدع", ""),)),
    ],
)
def test_unknown_words_are_named_with_their_neighbour(words, prompt, lang, unknown):
    assert text_words.read(prompt, words, lang).unknown == unknown


def test_unseen_letters_are_counted(words):
    reading = text_words.read("fr\u200bog\u202e", words, "en")
    assert (reading.unseen, reading.unknown, reading.known) == (2, (), 1)


def test_a_model_without_a_list(folders, tmp_path):
    assert text_words.words(registry.get("taesd")) is None


def test_a_broken_list_is_named(folders, tmp_path):
    import shutil

    shutil.copytree(folders["flow"], tmp_path / "broken")
    (tmp_path / "broken" / "words.json").write_text('{"objects": 1}')
    with models_apart(), pytest.raises(Problem) as caught:
        text_words.words(registry.register_folder(tmp_path / "broken"))
    assert caught.value.code == "folder_broken"


def test_folders_of_diffusers_itself_are_known(folders, tmp_path):
    """Without training.json: what diffusers wrote says by its class what it is."""
    import shutil

    for kind in KINDS:
        shutil.copytree(folders[kind], tmp_path / kind)
        (tmp_path / kind / "training.json").unlink()
        with models_apart():
            model = registry.register_folder(tmp_path / kind)
            assert (model.tab, model.kind) == ("text_to_image", kind)
            assert f"{'unet' if kind == 'diffusion' else 'transformer'}/{registry.WEIGHTS}" in model.files


def test_a_model_that_still_learns_says_how_far_it_is(folders, tmp_path):
    model = registry.register_folder(folders["diffusion"])
    assert text_words.learning(model) is None, "two steps of two"
    facts = json.loads((folders["diffusion"] / "training.json").read_text())
    for file in folders["diffusion"].glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    facts["config"]["steps"] = 5
    (tmp_path / "training.json").write_text(json.dumps(facts))
    assert text_words.learning(replace(model, path=tmp_path)) == (2, 5)
    assert text_words.learning(replace(model, path=None)) is None
