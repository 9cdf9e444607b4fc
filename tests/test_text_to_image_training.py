"""training/text_to_image.py: both objectives against their equations, from scenes to a pipeline of diffusers."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image, ImageColor
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, T5TokenizerFast

from tests import emoji
from training import autoencoder, common, latents, preview, quick, text_to_image, words
from training.prepare import text_to_image as prepare
from training.scenes import Scenes, held_out

ROOT = Path(__file__).resolve().parents[1]
CALLS = {
    "diffusion": {"num_inference_steps": 2, "guidance_scale": 4.0},
    "flow": {"num_inference_steps": 2, "true_cfg_scale": 3.0, "negative_prompt": "", "height": 128, "width": 128},
}
OBJECTIVES = {"diffusion": "StableDiffusionPipeline", "flow": "FluxPipeline"}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return emoji.write_pack(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def cache(pack, tmp_path_factory):
    """A folder of latents of an autoencoder that learnt nothing."""
    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    config = autoencoder.Config(data="", out="x", channels=(8, 8, 8, 16), latent_channels=4)
    autoencoder.build(config).half().save_pretrained(folder / "own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "PART", 16)
        patch.setattr(latents, "HELD_OUT", 4)
        latents.main(["--data", str(pack), "--vae", str(folder / "own"), "--out", str(folder / "it"), "--scenes", "24"])
    return folder / "it"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(latents, "PART", 16)
    monkeypatch.setattr(text_to_image, "HELD_OUT", 4)
    monkeypatch.setattr(words, "SAMPLED", 300)
    monkeypatch.setattr(text_to_image, "PROMPTS", text_to_image.PROMPTS[:2])


def train(pack, cache, out, objective, *flags):
    AcceleratorState._reset_state(True)
    tiny = "--steps 2 --batch-size 4 --scenes 24 --text-width 64 --text-layers 1 --channels 32 64 --width 32 --heads 2"
    tiny += " --double-blocks 1 --single-blocks 1 --cpu --precision fp32"
    argv = [*tiny.split(), "--data", pack, "--latents", cache, "--out", out, "--objective", objective, *flags]
    text_to_image.main(common.parse(text_to_image.Config, list(map(str, argv))))


# ---- from scenes to a folder


def test_an_autoencoder_for_previews(pack, cache, tmp_path):
    def train(steps, *flags):
        AcceleratorState._reset_state(True)
        tiny = (
            f"--steps {steps} --batch-size 4 --scenes 24 --width 8 --lr 0.01 --cpu --precision fp32 --sample-every 20"
        )
        argv = [*tiny.split(), "--data", str(pack), "--latents", str(cache), "--out", str(tmp_path / "it"), *flags]
        preview.main(common.parse(preview.Config, argv))
        log = (tmp_path / "it/state/log.jsonl").read_text().splitlines()
        return [entry["decoding"] for entry in map(json.loads, log) if "decoding" in entry]

    losses = train(60, "--log-every", "10")
    assert losses[-1] < 0.8 * losses[0]
    net = AutoencoderTiny.from_pretrained(tmp_path / "it")
    x = torch.zeros(1, 3, 128, 128)
    assert net.encode(x).latents.shape == (1, 4, 16, 16)
    assert net.decode(torch.zeros(1, 4, 16, 16)).sample.shape == x.shape
    facts = json.loads((tmp_path / "it/training.json").read_text())
    assert facts["figures"]["psnr_held_out_scenes"] > 5 and facts["kind"] == "photo"


def test_a_crop_is_the_same_place_of_both():
    z = torch.arange(16 * 16.0).view(1, 1, 16, 16).repeat(3, 1, 1, 1)
    run = SimpleNamespace(
        config=SimpleNamespace(crop=64), rank=0, generator=lambda name: torch.Generator().manual_seed(1)
    )
    x, part = preview.crops(run, z.repeat_interleave(8, 2).repeat_interleave(8, 3), z)
    assert part.shape == (3, 1, 8, 8) and torch.equal(x[:, :, ::8, ::8], part)
    assert len({float(one[0, 0, 0]) for one in part}) > 1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_train_save_load_run(pack, cache, tmp_path, objective):
    folder = tmp_path / "tiny"
    train(pack, cache, folder, objective)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline).__name__ == OBJECTIVES[objective]
    pipeline.set_progress_bar_config(disable=True)
    facts = json.loads((folder / "training.json").read_text())
    draw = lambda: pipeline(  # noqa: E731
        "frog with melon hat",
        generator=torch.Generator().manual_seed(0),
        **CALLS[objective],
    ).images[0]
    picture = draw()
    assert picture.size == (128, 128)
    assert (np.asarray(picture) == np.asarray(draw())).all()

    assert (facts["tab"], facts["kind"], facts["figures"]["scenes seen"]) == ("text_to_image", objective, 8)
    known = json.loads((folder / "words.json").read_text("utf-8"))
    assert known["hats"]["melon"] == {"en": "melon hat", "de": "Melonenhut"}
    assert {"frog", "melon", "wearing"} <= set(known["words"]["en"])
    assert {"melonenhut", "einem", "trägt"} <= set(known["words"]["de"])
    card = (folder / "README.md").read_text()
    assert all(name in card for name in ("Google", "CC BY 4.0", "Microsoft", "num_inference_steps"))
    assert str(cache) not in card
    assert [p.name[:7] for p in (folder / "state").glob("*.png")] == ["prompts"]
    for file in folder.glob("*/*.safetensors"):
        if file.parent.name != "state":
            assert {tensor.dtype for tensor in load_file(file).values()} <= {torch.float16, torch.int64}, file
    for name in latents.VAE_FILES:  # equal bytes are one blob in git
        assert (folder / "vae" / name).read_bytes() == (cache / "vae" / name).read_bytes()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_goes_on_bit_for_bit(pack, cache, tmp_path, objective):
    flags = "--steps", 4, "--save-every", 1, "--lr", 1  # the rate is still rising: 1/500 at step 1
    train(pack, cache, tmp_path / "whole", objective, *flags)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        update, calls = common.EMA.update, []

        def stop_at_the_third(self, *arguments):
            update(self, *arguments)
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        patch.setattr(common.EMA, "update", stop_at_the_third)
        train(pack, cache, tmp_path / "cut", objective, *flags)
    train(pack, cache, tmp_path / "cut", objective, *flags, "--resume")
    whole, cut = (common.read_state(tmp_path / name / "state" / "state.safetensors") for name in ("whole", "cut"))
    for part in ("model", "ema"):
        assert all(torch.equal(value, cut["tracked"][part][key]) for key, value in whole["tracked"][part].items())


def test_a_run_may_be_given_more_steps(pack, cache, tmp_path):
    for steps, more in ((1, ()), (2, ("--resume",))):
        train(pack, cache, tmp_path / "a", "diffusion", "--steps", steps, *more)
    assert common.read_state(tmp_path / "a" / "state" / "state.safetensors")["run"]["step"] == 2
    with pytest.raises(common.TrainingError, match="has lr"):
        train(pack, cache, tmp_path / "a", "diffusion", "--steps", 3, "--resume", "--lr", 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_goes_on_from_a_finished_model(pack, cache, tmp_path, monkeypatch, objective):
    train(pack, cache, tmp_path / "first", objective)
    monkeypatch.setattr(words, "SAMPLED", 8)  # other captions would give tokens other numbers
    train(pack, cache, tmp_path / "more", objective, "--from", tmp_path / "first", "--lr", 0)
    first, more = (tmp_path / name for name in ("first", "more"))
    for file in first.glob("*/*.safetensors"):
        if file.parent.name != "state":
            begun = load_file(more / file.relative_to(first))
            assert all(torch.equal(value, begun[key]) for key, value in load_file(file).items()), file
    assert json.loads((more / "training.json").read_text())["figures"]["scenes seen"] == 16
    for name in ("tokenizer", "tokenizer_2")[: 1 + (objective == "flow")]:
        assert (more / name / "tokenizer.json").read_bytes() == (first / name / "tokenizer.json").read_bytes()
    train(pack, cache, tmp_path / "anew", objective, "--from", first, "--anew", "text_encoder", "--lr", 0)
    for part in ("text_encoder", {"diffusion": "unet", "flow": "transformer"}[objective]):
        (file,) = (first / part).glob("*.safetensors")
        begun = load_file(tmp_path / "anew" / part / file.name)
        same = all(torch.equal(value, begun[key]) for key, value in load_file(file).items())
        assert same == (part != "text_encoder")
    with pytest.raises(common.TrainingError, match="no finished model"):
        train(pack, cache, tmp_path / "x", objective, "--from", tmp_path / "nothing")
    with pytest.raises(common.TrainingError, match="of these sizes"):
        train(pack, cache, tmp_path / "y", objective, "--from", first, "--text-width", 128)
    with pytest.raises(common.TrainingError, match="needs --from"):
        train(pack, cache, tmp_path / "z", objective, "--anew", "text_encoder")


def test_what_begins_anew_is_there(pack, cache, tmp_path):
    train(pack, cache, tmp_path / "first", "diffusion")
    with pytest.raises(common.TrainingError, match="objective flow"):
        train(pack, cache, tmp_path / "x", "diffusion", "--from", tmp_path / "first", "--anew", "text_encoder_2")


def test_tokens_keep_their_numbers():
    """In every process: what resumes must read as before. Pairs of letters are often equally frequent."""
    code = "from tests.test_text_to_image_training import numbers; print(numbers())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == numbers()


def numbers() -> str:
    texts = [f"{noun} {hat}" for noun in emoji.OBJECTS for hat in emoji.HATS]
    tokenizers = words.clip_tokenizer(texts, 32), words.t5_tokenizer(texts, 32)
    return str([sorted(tokenizer.get_vocab().items()) for tokenizer in tokenizers])


def test_byte_pairs():
    found = words.merges({"aab": 2, "ab": 1}, 10)  # Sennrich et al. 2016: "ab" 3 times, then "aab" twice
    assert found == [("a", "b</w>"), ("a", "ab</w>")]
    assert words.merges({"xy": 1, "ab": 1}, 1) == [("x", "y</w>")]  # equally frequent: by the alphabet


def test_moments_lie_in_memory_as_their_weights_do(tmp_path):
    """Fused AdamW walks through memory: in another order it would mix the moments up."""
    weights = []
    for stops in (False, True):
        AcceleratorState._reset_state(True)
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
        out = tmp_path / str(stops)
        for resume in (False, True)[: 1 + stops]:
            config = common.Config(data="", out=out, steps=4, batch_size=2, save_every=1, cpu=True, resume=resume)
            run = common.Run(config)
            optimizer = torch.optim.AdamW(layer.parameters(), 0.1, fused=True)
            run.track(layer=layer, optimizer=optimizer)
            for step in run.steps():
                if stops and not resume and step == 2:
                    break
                x = run.noise((3, 8, 8)).contiguous(memory_format=torch.channels_last)
                run.update((layer(x) - 1).square().mean(), optimizer)
        weights.append(layer.weight.detach().clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_pipelines_see_what_training_saw(pack, cache, objective):
    """One step of diffusers' own pipeline from pure noise is what the net's forward of training says."""
    config = text_to_image.Config(
        data="", out="x", objective=objective, text_width=64, text_layers=1, channels=(32, 64), width=32, heads=2,
        double_blocks=1, single_blocks=1,
    )  # fmt: skip
    known = latents.Latents(cache, 24)
    texts = words.sample(Scenes(pack), "en")
    torch.manual_seed(1)
    painter = text_to_image.PAINTERS[objective](config, known, texts, {}).eval()
    for p in painter.parameters():
        torch.nn.init.normal_(p, std=0.05)  # nothing is 0, so that everything counts
    noise = torch.randn(1, *known.shape, generator=torch.Generator().manual_seed(2))
    pipeline = painter.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        told = painter.read(painter.tokenize(["a frog"]))
        if objective == "diffusion":
            v = painter(noise, torch.tensor([999]), told)
            how, start = {"guidance_scale": 1.0}, noise
            x = -v  # alpha_bar is 0 there: x = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v
        else:
            v = painter(noise, torch.ones(1), told)
            how = {name: painter.call[name] for name in ("height", "width", "max_sequence_length")}
            start = pipeline._pack_latents(noise, 1, *known.shape)
            x = noise - v
        found = pipeline("a frog", latents=start, num_inference_steps=1, output_type="latent", **how).images
    if objective == "flow":
        x = pipeline._pack_latents(x, 1, *known.shape)
    assert torch.allclose(found, x, atol=1e-4)


def test_quick_flux_is_that_of_diffusers():
    torch.manual_seed(0)
    net = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ids = FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
    told = {
        "hidden_states": torch.randn(2, 16, 16), "encoder_hidden_states": torch.randn(2, 5, 8), "img_ids": ids,
        "pooled_projections": torch.randn(2, 8), "timestep": torch.rand(2), "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip
    found = []
    for way in (lambda net: None, quick.quick_flux):
        way(net)
        net.zero_grad()
        with quick.plain_attention(torch.device("cpu")):
            v = net(**told).sample
        v.square().mean().backward()
        found.append({"v": v.detach()} | {name: p.grad.clone() for name, p in net.named_parameters()})
    for name, value in found[0].items():
        off = (found[1][name] - value).abs().max()
        assert off <= 5e-3 * value.abs().max() + 1e-7, name  # erf is not tanh


# ---- data


def test_latents_are_those_of_the_scenes(pack, cache):
    known = latents.Latents(cache, 24)
    vae = AutoencoderKL.from_pretrained(cache / "vae", torch_dtype=torch.float32)
    expected = latents.encode(vae, Scenes(pack).pictures([3, 17])).float()
    assert torch.allclose(known[torch.tensor([3, 17])], expected, atol=2e-2)
    assert known.held_out.shape == (4, 4, 16, 16)
    _, covered = Scenes(pack).covered([3])
    shares = known.cover(torch.tensor([3]))
    assert shares.shape == (1, 2, 16, 16)
    assert shares.mean((2, 3)) == pytest.approx(covered.float().mean((2, 3)) / 255, abs=1e-2)


def test_latents_that_do_not_fit(pack, cache, tmp_path):
    with pytest.raises(common.TrainingError, match=r"training\.latents"):
        latents.Latents(cache, 500)
    with pytest.raises(common.TrainingError, match="is missing"):
        latents.Latents(tmp_path, 24)
    old = shutil.copytree(cache, tmp_path / "old")
    save_file({"latents": torch.zeros(16, 4, 16, 16)}, old / "00000.safetensors")  # of before covers were kept
    with pytest.raises(common.TrainingError, match=r"training\.latents"):
        latents.Latents(old, 8)
    with pytest.raises(common.TrainingError, match="another"):
        latents.prepare(str(pack), cache / "vae", cache, 24, seed=1)


def test_captions_in_both_languages_some_dropped_none_held_out(pack, tmp_path):
    AcceleratorState._reset_state(True)
    scenes = Scenes(pack)
    run = common.Run(text_to_image.Config(data=str(pack), out=tmp_path / "x", cpu=True))
    texts, facts = text_to_image.captions(run, scenes, torch.arange(2000), 0.25)
    assert (texts, facts) == text_to_image.captions(run, scenes, torch.arange(2000), 0.25)
    assert [replace(fact, language="") for fact in facts[:9]] == [
        replace(scenes.facts(i), language="") for i in range(9)
    ]
    assert texts.count("") / 2000 == pytest.approx(0.25, abs=0.04)
    assert sum(" with " in text for text in texts) > 200
    assert sum(" mit " in text for text in texts) > 200
    assert not any(
        re.search("frog (with|wearing) (a )?melon|frosch mit (einem )?melon", text.lower()) for text in texts
    )
    assert held_out("frog", "melon")


def test_times_of_a_batch_are_spread():
    u = text_to_image.spread(torch.rand(32))
    assert ((u * 32).long() == torch.arange(32)).all()


# ---- tokenizers


def test_known_words_are_one_token_and_others_are_spelt(pack, tmp_path):
    texts = [text for language in ("en", "de") for text in words.sample(Scenes(pack), language)]
    for tokenizer, cls, extra in (
        (words.clip_tokenizer(texts, 32), CLIPTokenizer, 2), (words.t5_tokenizer(texts, 32), T5TokenizerFast, 1),
    ):  # fmt: skip
        tokenizer.save_pretrained(tmp_path / cls.__name__)
        again = cls.from_pretrained(tmp_path / cls.__name__)
        for text in ("a frog with melon hat", "einem Frosch mit Melonenhut", "a giraffe \u200b \u202e🐸 ßÄ", ""):
            assert again(text).input_ids == tokenizer(text).input_ids
        assert len(again("frog with melon hat").input_ids) == 4 + extra
        assert len(again("Frosch mit Melonenhut").input_ids) == 3 + extra
        assert len(again("giraffe").input_ids) > 1 + extra
        assert again("").input_ids[-1] == again.eos_token_id
        assert again("frog 🐸 frog").input_ids.count(again.eos_token_id) == 1  # unknown is not the end


# ---- objectives


def test_diffusion_is_that_of_diffusers():
    scheduler = DDPMScheduler()
    x, noise = torch.randn(2, 5, 4, 8, 8)
    t = torch.tensor([0, 10, 300, 700, 999])
    alpha_bar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    x_t, v = text_to_image.noised(x, noise, alpha_bar), text_to_image.velocity(x, noise, alpha_bar)
    assert torch.allclose(x_t, scheduler.add_noise(x, noise, t), atol=1e-5)
    assert torch.allclose(v, scheduler.get_velocity(x, noise, t), atol=1e-5)
    # x = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans & Ho 2022, appendix D)
    assert torch.allclose(alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * v, x, atol=1e-5)
    assert not text_to_image.diffusion_loss(v, x, noise, alpha_bar, 5.0).any()


def test_min_snr_weight():
    snr = torch.tensor([0.0, 0.25, 5.0, 100.0])
    weight = text_to_image.snr_weight(snr / (1 + snr), 5.0)
    assert weight.tolist() == pytest.approx([0.0, 0.25 / 1.25, 5 / 6, 5 / 101], abs=1e-5)
    # an error e of v is an error sqrt(1 - alpha_bar) e of x, whose weight is min(SNR, gamma)
    x, noise, error = torch.randn(3, 1, 2, 4, 4)
    alpha_bar = torch.full((1, 1, 1, 1), 0.6)
    v = text_to_image.velocity(x, noise, alpha_bar) + error
    of_x = alpha_bar.sqrt() * text_to_image.noised(x, noise, alpha_bar) - (1 - alpha_bar).sqrt() * v
    expected = min(0.6 / 0.4, 5.0) * (of_x - x).square().mean()
    loss = text_to_image.diffusion_loss(v, x, noise, alpha_bar, 5.0).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_flow_is_that_of_diffusers():
    x, noise = torch.randn(2, 3, 4, 8, 8)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    for i, t in enumerate(scheduler.timesteps):
        ours = text_to_image.between(x, noise, torch.full((3, 1, 1, 1), t.item() / 1000))
        assert torch.allclose(ours, scheduler.scale_noise(x, t[None], noise), atol=1e-5), i
    assert not text_to_image.flow_loss(noise - x, x, noise).any()
    # one step of Euler along the target, from noise, is the picture
    one = FlowMatchEulerDiscreteScheduler()
    one.set_timesteps(sigmas=[1.0])
    assert torch.allclose(one.step(noise - x, one.timesteps[0], noise).prev_sample, x, atol=1e-5)


def test_errors_count_more_where_things_and_hats_are():
    cover = torch.zeros(1, 2, 2, 2)
    cover[0, 0, 1] = 1  # the lower half is a thing, its left half under a hat
    cover[0, 1, 1, 0] = 1

    def weight(y: int, x: int) -> float:
        losses = torch.zeros(1, 3, 2, 2)
        losses[0, 1, y, x] = 12
        return text_to_image.emphasised(losses, cover, 2.0).item()

    background, thing, hat = weight(0, 0), weight(1, 1), weight(1, 0)
    assert (thing / background, hat / background) == (pytest.approx(3), pytest.approx(7))
    assert 2 * background + thing + hat == pytest.approx(4)  # the mean weight is 1
    losses = torch.rand(1, 3, 2, 2)
    assert text_to_image.emphasised(losses, cover, 0.0) == losses.mean()


def test_times_are_logit_normal():
    u = (torch.arange(100_000) + 0.5) / 100_000
    t = text_to_image.logit_normal(u)
    logit = t.double().logit()
    assert logit.mean().item() == pytest.approx(0, abs=1e-3)
    assert logit.std().item() == pytest.approx(1, abs=1e-3)
    # Esser et al. 2024, eq. 19, at 1/2: 1 / sqrt(2 pi) / (1/2 * 1/2)
    density = ((t > 0.49) & (t < 0.51)).float().mean().item() / 0.02
    assert density == pytest.approx(4 / math.sqrt(2 * math.pi), rel=0.01)
    assert text_to_image.logit_normal(torch.zeros(1)).item() == 0


# ---- text encoders


def test_what_captions_name_is_learnt_and_what_they_leave_open_is_not(pack):
    scenes = Scenes(pack)
    reader = text_to_image.Reader(scenes, 8)
    facts = [scenes.facts(i) for i in range(200)]
    texts = [scenes.caption(fact, np.random.default_rng(i)) for i, fact in enumerate(facts)]
    labels = reader.labels([*texts, ""], [*facts, facts[0]])
    assert (labels[-1] == text_to_image.NOTHING).all()  # a dropped caption names nothing
    for row, text, fact in zip(labels.tolist(), texts, facts, strict=False):
        for number, (kind, names) in zip(row, reader.names.items(), strict=True):
            named = kind in scenes.named(text, fact)
            assert number == (names.index(getattr(fact, kind)) if named else text_to_image.NOTHING)
    assert (labels == text_to_image.NOTHING).any(0).tolist() == [True] * 5
    told = torch.randn(201, 3, 8, requires_grad=True), torch.randn(201, 8, requires_grad=True)
    for head in reader.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    guessed = reader(told, labels).item()
    assert guessed == pytest.approx(np.mean([math.log(size) for size in reader.sizes]), rel=1e-5)
    reader.heads[0].weight.data.normal_()
    reader(told, labels).backward()
    assert not told[0].grad[-1].any()
    assert told[0].grad[:-1].any()
    assert torch.isfinite(reader(tuple(part[-1:] for part in told), labels[-1:]))


# ---- from upstream


SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {0}">{1}</svg>'
DRAWN = {
    "1f438": "green",
    "1f349": "red",
    "26d1-fe0f": "blue",
    "1f43b-200d-2744-fe0f": "black",
}  # twice as wide as tall


@pytest.fixture
def upstream(tmp_path):
    """The four layouts, with pictures that are bars, and a vocabulary of their code points."""
    icons, names = {}, {}
    for code, colour in DRAWN.items():
        bar = '<rect x="{}" y="{}" width="{}" height="{}" fill="{}"/>'
        plain = code.replace("-fe0f", "")
        svg = tmp_path / "twemoji" / "dist" / "svg" / f"{code if '200d' in code else plain}.svg"
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(SVG.format(36, bar.format(4, 10, 24, 12, colour)))
        icons[f"icon-{plain}"] = {"body": bar.format(6, 3, 20, 10, colour)}
        names[plain] = f"icon-{plain}"
        for name, side in (
            (f"noto/png/512/emoji_u{plain.replace('-', '_')}.png", 512), (f"fluent-3d/assets/{code}_3d.png", 256),
        ):  # fmt: skip
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            picture = Image.new("RGBA", (side, side), (255, 0, 255, 0))
            picture.paste(colour, (side // 4, side // 2, side * 3 // 4, side * 3 // 4))
            picture.save(tmp_path / name)
    (tmp_path / "fluent-flat").mkdir()
    (tmp_path / "fluent-flat" / "icons.json").write_text(json.dumps({"icons": icons}))
    (tmp_path / "fluent-flat" / "chars.json").write_text(json.dumps(names))
    words = {"sets": list(prepare.SETS), "objects": [{"codepoints": code} for code in DRAWN], "hats": []}
    (tmp_path / "words.json").write_text(json.dumps(words))
    return tmp_path


def test_from_upstream_to_the_pack(upstream, monkeypatch):
    monkeypatch.setattr(prepare, "VOCABULARY", upstream / "words.json")
    sources = [f"--source={name}={upstream / name}" for name in prepare.SETS]
    prepare.main(["--out", str(upstream / "pack"), *sources])
    for name in prepare.SETS:
        rows = parquet.read_table(upstream / "pack" / f"{name}.parquet").to_pylist()
        assert [row["codepoints"] for row in rows] == sorted(DRAWN)
        for row in rows:
            picture = Image.open(io.BytesIO(row["image"]["bytes"]))
            assert (picture.mode, picture.size) == ("RGBA", (128, 128))
            assert picture.getchannel("A").getbbox() == (4, 34, 124, 94)
            assert picture.getpixel((64, 64)) == (*ImageColor.getrgb(DRAWN[row["codepoints"]]), 255)
    assert (upstream / "pack" / "vocab.json").read_bytes() == (upstream / "words.json").read_bytes()


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda folder: (folder / "noto/png/512/emoji_u1f438.png").unlink(), "1f438.*could not be read"),
        (lambda folder: (folder / "noto/png/512/emoji_u1f438.png").write_bytes(b"png"), "1f438.*not whole"),
        (lambda folder: (folder / "fluent-flat/chars.json").write_text("{}"), "fluent-flat has no picture"),
    ],
)
def test_upstream_that_is_broken(upstream, monkeypatch, break_it, sentence):
    break_it(upstream)
    sources = {name: str(upstream / name) for name in prepare.SETS}
    with pytest.raises(common.TrainingError, match=sentence):
        prepare.prepare(sources, upstream / "pack", upstream / "words.json")
    assert not (upstream / "pack" / "vocab.json").exists()


def test_the_vocabulary_names_every_set():
    words = json.loads(prepare.VOCABULARY.read_text("utf-8"))
    assert set(words["sets"]) == set(prepare.SETS) == set(prepare.SOURCES)
    assert (len(words["objects"]), len(words["wearers"]), len(words["hats"])) == (162, 67, 33)
