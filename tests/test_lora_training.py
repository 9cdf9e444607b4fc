"""training/lora.py: five architectures from pictures to what plain diffusers loads, and what is refused."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from diffusers import DiffusionPipeline
from diffusers.training_utils import compute_snr
from PIL import Image
from safetensors.torch import load_file

from tests import emoji, tiny_families
from training import common, lora, text_families
from training.prepare import new_thing

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = tuple(tiny_families.BUILD)
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> folder, built when it is asked for"""
    where, built = tmp_path_factory.mktemp("models"), {}

    def folder(name):
        if name not in built:
            built[name] = where / name
            tiny_families.build(name).save_pretrained(built[name])
            defaults = {"steps": 2, "guidance": 2.0, "size": 32}
            (built[name] / "training.json").write_text(json.dumps({"defaults": defaults}))
        return built[name]

    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three squares, two wide pictures, one of them transparent."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i, size in enumerate([(40, 40), (64, 64), (33, 32), (80, 40), (48, 25)]):
        pixels = rng.integers(0, 255, (*size[::-1], 4 if i == 4 else 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": f"a sks frog {i}"} for i in range(5)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def train(model, data, out, *flags):
    AcceleratorState._reset_state(True)
    tiny = {"--steps": 2, "--batch-size": 2, "--rank": 2, "--prompts": "frog"}
    argv = [
        *(word for pair in tiny.items() for word in pair),
        "--cpu",
        "--model",
        model,
        "--data",
        data,
        "--out",
        out,
        *flags,
    ]
    lora.main(common.parse(lora.Config, list(map(str, argv))))
    return out


def net(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


# ---- architectures


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pipelines_see_what_training_sees(name):
    """What goes into the net at the first step of diffusers' own pipeline goes into it in `predict`."""
    pipe = tiny_families.build(name, **({"guidance_embeds": False} if name == "flux" else {}))
    family = text_families.of(pipe)
    told, seen = family.told(["a frog"]), []
    x = family.encode(torch.rand(1, 3, 32, 48) * 2 - 1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    family.net.register_forward_hook(lambda net, given, made: seen.append(made[0]))
    call = {"latents": pipe._pack_latents(noise, *noise.shape) if name == "flux" else noise}
    call |= {"max_sequence_length": 16} if name == "flux" else {}
    pipe(prompt="a frog", height=32, width=48, num_inference_steps=1, guidance_scale=1.0, **call)
    t = pipe.scheduler.timesteps[:1] / (1000 if isinstance(family, text_families.Flow) else 1)
    with torch.no_grad():
        out = family.predict(noise, t, told)
    assert out.shape == noise.shape
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    packed = {"flux": lambda: pipe._pack_latents(out, *out.shape), "klein": lambda: pipe._pack_latents(out)}
    assert torch.equal(packed.get(name, lambda: out)(), seen[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_latents_are_those_that_the_pipeline_decodes(name):
    """A pipeline whose net says that everything is the given latent, or leaves it as it is, decodes that latent."""
    pipe = tiny_families.build(name)
    family = text_families.of(pipe)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latent = family.encode(picture)
        vae = pipe.vae
        expected = vae.decode(vae.encode(picture).latent_dist.mode()).sample
    if isinstance(family, text_families.Flow):  # from noise 1 to picture 0 along the straight line
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
        direction = noise - latent
    else:
        pipe.scheduler.register_to_config(prediction_type="sample")
        noise, direction = torch.randn(latent.shape), latent
    packed = lambda x: {  # noqa: E731
        "flux": lambda: pipe._pack_latents(x, *x.shape), "klein": lambda: pipe._pack_latents(x)
    }.get(name, lambda: x)()  # fmt: skip
    family.net.register_forward_hook(lambda net, given, made: (packed(direction),))
    told = family.told(["a frog"])
    start = packed(noise) if name == "flux" else noise
    (found,) = pipe(
        **told, height=32, width=32, num_inference_steps=1, guidance_scale=1.0, latents=start, output_type="pt"
    ).images
    assert torch.allclose(found * 2 - 1, expected[0].clamp(-1, 1), atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_from_pictures_to_plain_diffusers(models, data, tmp_path, name):
    out = train(models(name), data, tmp_path / "my-lora", "--lr", 0.1, "--targets", "attention")
    weights = load_file(out / WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert {key.split(".")[0] for key in weights} == {"unet" if name in ("sd", "sdxl") else "transformer"}
    assert {key.split(".")[-2] for key in weights} == {"lora_A", "lora_B"}
    assert any(".to_k." in key for key in weights) or any("to_qkv" in key for key in weights)

    pipe = DiffusionPipeline.from_pretrained(models(name))
    pipe.set_progress_bar_config(disable=True)

    def draw():
        how = {"num_inference_steps": 2, "height": 32, "width": 32, "generator": torch.Generator().manual_seed(0)}
        how |= {"max_sequence_length": 16} if name == "flux" else {}
        return np.asarray(pipe(prompt="a frog", **how).images[0], float)

    before = draw()
    pipe.load_lora_weights(out)
    after = draw()
    assert np.abs(before - after).mean() > 0.5
    pipe.unload_lora_weights()
    assert (draw() == before).all()

    facts = json.loads((out / "training.json").read_text())
    assert (facts["kind"], facts["base"], facts["family"]) == ("lora", name, type(pipe).__name__)
    assert facts["figures"]["pictures"] == 5
    assert set(facts["words"]) == {"a", "sks", "frog", *"01234"}
    assert facts["parameters"] == sum(value.numel() for value in weights.values())
    card = (out / "README.md").read_text()
    assert "load_lora_weights" in card
    assert str(data) not in card + json.dumps(facts)
    assert str(models(name).parent) not in card + json.dumps(facts)
    assert [file.name for file in (out / "state").glob("*.png")] == ["prompts-0000002.png"]
    assert not list(out.glob("new-*"))


def test_it_learns_and_what_it_says_is_what_diffusers_computes(models, data, tmp_path):
    flags = "--lr", 0.02, "--steps", 25, "--batch-size", 5, "--targets", "all", "--drop", 0
    out = train(models("sd"), data, tmp_path / "lora", *flags)
    figures = json.loads((out / "training.json").read_text())["figures"]
    assert figures["loss with it"] < 0.98 * figures["loss without"]
    assert any(".resnets.0.conv1.lora_A" in key for key in load_file(out / WEIGHTS))  # convolutions, too
    pipe = DiffusionPipeline.from_pretrained(models("sd"))
    pipe.load_lora_weights(out)
    family = text_families.of(pipe)
    pictures = lora.Pictures(lora.read(data), family, 32)
    assert lora.mean_loss(family, pictures, 0) == pytest.approx(figures["loss with it"], abs=2e-3)


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_what_is_to_be_kept_holds_it_back(models, data, tmp_path, name):
    """Of prompts to keep the model says what it said; without them a high rate changes that, too."""
    prompts = tmp_path / "keep.txt"
    prompts.write_text("an owl\n\nein Frosch im Park\n")
    apart = {}
    for weight in (0, 20):
        out = tmp_path / str(weight)
        flags = "--lr", 0.02, "--steps", 12, "--batch-size", 2, "--log-every", 1
        train(models(name), data, out, *flags, "--keep", prompts, "--keep-weight", weight)
        lines = [json.loads(line) for line in (out / "state" / "log.jsonl").read_text().splitlines()]
        assert lines[0]["drift"] == 0  # at first nothing has changed
        apart[weight] = np.mean([line["drift"] for line in lines[-4:]])
    assert apart[20] < apart[0] / 2
    prompts.write_text("another\n")
    with pytest.raises(common.TrainingError, match="began with kept that were others"):
        train(models(name), data, out, *flags, "--keep", prompts, "--keep-weight", 20, "--resume")


def test_prompts_to_keep_that_are_none(models, data, tmp_path):
    for content, sentence in (
        (None, "keep.txt is missing"),
        (b"\xff\xfe", "no file of text"),
        (b"\n \n", "no prompts"),
    ):
        if content:
            (tmp_path / "keep.txt").write_bytes(content)
        with pytest.raises(common.TrainingError, match=sentence):
            train(models("sd"), data, tmp_path / "x", "--keep", tmp_path / "keep.txt")


def test_a_new_thing_in_twenty_pictures(tmp_path):
    pack = emoji.write_pack(tmp_path / "emoji")
    new_thing.main(["--data", str(pack), "--out", str(tmp_path / "new"), "--keep", "6"])
    found = lora.read(tmp_path / "new")
    assert len(found) == 20
    assert all("pizza" in text.lower() for _, text in found)
    assert {image.size for image, _ in found} == {(128, 128)}
    kept = (tmp_path / "new" / "keep.txt").read_text().splitlines()
    assert len(kept) == 6
    assert not any("pizza" in text.lower() for text in kept)
    blue = [(np.abs(np.asarray(image).astype(int) - emoji.BLUE).sum(2) < 60).mean() for image, _ in found]
    assert min(blue) > 0.05  # the thing is in each of them


# ---- settings


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_goes_on_bit_for_bit(models, data, tmp_path, name):
    flags = "--steps", 4, "--save-every", 1, "--lr", 0.01
    train(models(name), data, tmp_path / "whole", *flags)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        update, calls = common.Run.update, []

        def stop_at_the_third(self, *arguments, **more):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return update(self, *arguments, **more)

        patch.setattr(common.Run, "update", stop_at_the_third)
        train(models(name), data, tmp_path / "cut", *flags)
    train(models(name), data, tmp_path / "cut", *flags, "--resume")
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "cut" / WEIGHTS).read_bytes()
    whole, cut = (
        common.read_state(tmp_path / it / "state" / "state.safetensors")["tracked"] for it in ("whole", "cut")
    )
    assert all(torch.equal(value, cut["lora"][key]) for key, value in whole["lora"].items())


def test_less_memory_is_the_same(models, data, tmp_path):
    kept, twice = (
        load_file(train(models("flux"), data, tmp_path / flag, flag) / WEIGHTS)
        for flag in ("--no-checkpointing", "--checkpointing")
    )
    assert all(torch.allclose(value, twice[key], atol=1e-4) for key, value in kept.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16(models, data, tmp_path, name):
    out = train(models(name), data, tmp_path / "lora", "--precision", "bf16", "--lr", 0.01)
    state = common.read_state(out / "state" / "state.safetensors")["tracked"]["lora"]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in state.values())


def test_eight_bit_without_its_library(models, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(common.TrainingError, match="pip install bitsandbytes"):
        train(models("sd"), data, tmp_path / "lora", "--eight-bit")


def test_min_snr_of_epsilon():
    """As diffusers' own scripts weigh it: min(SNR, gamma) / SNR."""
    scheduler = tiny_families.sd().scheduler
    t = torch.tensor([0, 10, 300, 999])
    snr = compute_snr(scheduler, t)
    weight = text_families.snr_weight(scheduler.alphas_cumprod[t], 5.0, "epsilon")
    assert torch.allclose(weight, snr.clamp(max=5) / snr, rtol=1e-3)
    assert (text_families.snr_weight(scheduler.alphas_cumprod[t], 0, "epsilon") == 1).all()


def test_times_move_as_the_scheduler_moves_them():
    for name, expected in (("sd3", 3 * 0.5 / (1 + 2 * 0.5)), ("klein", 0.5)):
        family = text_families.of(tiny_families.build(name))
        assert family.times(torch.tensor([0.5])).item() == pytest.approx(expected)


# ---- pictures


def test_buckets():
    assert lora.bucket(100, 100, 512, 64) == (512, 512)
    assert lora.bucket(1920, 1080, 512, 64) == (704, 384)
    assert lora.bucket(10, 1000, 512, 64) == (384, 704)  # no narrower than 1 : 2
    assert lora.bucket(3, 2, 16, 32) == (32, 32)


def test_every_picture_is_drawn_as_often_and_its_caption_with_it(models, data, tmp_path):
    AcceleratorState._reset_state(True)
    family = text_families.of(DiffusionPipeline.from_pretrained(models("sd")))
    pictures = lora.Pictures(lora.read(data), family, 32)
    assert {sides: len(indices) for sides, indices in pictures.buckets.items()} == {(32, 32): 3, (44, 24): 2}
    run = common.Run(lora.Config(data=str(data), out=tmp_path / "x", cpu=True, batch_size=2, drop=0.25))
    counts, dropped = torch.zeros(5), 0
    for run.step in range(2000):
        x, told = pictures.batch(run)
        for latent, said in zip(x, told["prompt_embeds"], strict=True):
            (i,) = [i for i, kept in enumerate(pictures.latents) if torch.equal(kept[0].float(), latent)]
            counts[i] += 1
            silent = torch.equal(said, pictures.told[-1]["prompt_embeds"][0])
            assert silent or torch.equal(said, pictures.told[i]["prompt_embeds"][0])
            dropped += silent
    assert dropped / counts.sum() == pytest.approx(0.25, abs=0.03)
    assert counts.min() / counts.max() > 0.85


def test_one_picture_and_a_hundred(models, data, tmp_path):
    row = json.dumps({"file_name": "0.png", "text": "a sks frog"})
    (tmp_path / "0.png").write_bytes((data / "0.png").read_bytes())
    for count in (1, 100):
        (tmp_path / "metadata.jsonl").write_text("\n".join([row] * count))
        out = train(models("sd"), tmp_path, tmp_path / f"lora-{count}")
        assert json.loads((out / "training.json").read_text())["figures"]["pictures"] == count


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (None, "lacks metadata.jsonl"),
        ("", "holds no pictures"),
        ("rubbish", "Line 1 of metadata.jsonl"),
        ('{"file_name": "0.png", "text": "x"}\n[]', "Line 2"),
        ('{"file_name": "0.png"}', "Line 1"),
        ('{"file_name": "gone.png", "text": "x"}', "gone.png .line 1 of metadata.jsonl. is not a whole picture"),
        ('{"file_name": "text.png", "text": "x"}', "text.png"),
    ],
)
def test_data_that_cannot_be_read(models, tmp_path, lines, sentence):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    if lines is not None:
        (tmp_path / "metadata.jsonl").write_text(lines)
    with pytest.raises(common.TrainingError, match=sentence):
        train(models("sd"), tmp_path, tmp_path / "lora")


def test_models_that_cannot_be_trained(models, data, tmp_path):
    with pytest.raises(common.TrainingError, match="no model called nowhere"):
        train("nowhere", data, tmp_path / "lora")
    with pytest.raises(common.TrainingError, match="no whole pipeline"):
        train(data, data, tmp_path / "lora")


def test_goes_on_with_what_it_began_with(models, data, tmp_path):
    train(models("sd"), data, tmp_path / "lora")
    other = shutil.copytree(models("sd"), tmp_path / "other")
    pipe = tiny_families.build("sd")
    torch.nn.init.ones_(pipe.unet.conv_in.weight)
    pipe.save_pretrained(other)
    with pytest.raises(common.TrainingError, match="with weights that were others"):
        train(other, data, tmp_path / "lora", "--steps", 2, "--resume")
    copy = shutil.copytree(data, tmp_path / "data")
    Image.new("RGB", (40, 40)).save(copy / "0.png")
    with pytest.raises(common.TrainingError, match="with pictures that were others"):
        train(models("sd"), copy, tmp_path / "lora", "--resume")


# ---- hardware


@pytest.mark.parametrize("file", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_configurations(file):
    config = load_config_from_file(str(file))
    assert isinstance(config, ClusterConfig)
    used = {"fsdp": DistributedType.FSDP, "deepspeed": DistributedType.DEEPSPEED}.get(file.stem, DistributedType.NO)
    assert config.distributed_type == used
    assert config.use_cpu == (file.stem == "cpu")
    assert bool(config.fsdp_config) == (file.stem == "fsdp")
    assert bool(config.deepspeed_config) == (file.stem == "deepspeed")


SHARDED = """
import sys
from types import SimpleNamespace
from accelerate.utils import DistributedType
from training import common, lora
if sys.argv.pop(1) == "sharded":  # accelerate itself says so of GPUs alone
    lora.DistributedType = SimpleNamespace(FSDP=DistributedType.MULTI_CPU, DEEPSPEED=None)
    shard, lora.shard = lora.shard, lambda net, kept, run: print("parts", shard(net, kept, run) or parts(net))
def parts(net):
    return {type(value).__name__ for value in net.parameters() if not value.requires_grad}
lora.main(common.parse(lora.Config))
"""


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_sharded_over_two_processes(models, data, tmp_path, name):
    """As fsdp.yaml has it, on two processes without a GPU: the same weights as on one that holds the whole model."""
    (tmp_path / "script.py").write_text(SHARDED)
    for world, how in ((1, "whole"), (2, "sharded")):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, tmp_path / "script.py", how, "--model", models(name), "--data", data, "--cpu"]
        command += ["--out", tmp_path / how, "--steps", 2, "--batch-size", 2, "--rank", 2, "--lr", 0.01]
        processes = []
        for rank in range(world):
            where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
            where |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": ROOT}
            environment = os.environ | {key: str(value) for key, value in where.items()}
            started = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True)
            processes.append(started)
        for process in processes:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0
            assert ("DTensor" in said) == (how == "sharded")
    whole, sharded = (load_file(tmp_path / how / WEIGHTS) for how in ("whole", "sharded"))
    assert all(torch.allclose(value, sharded[key], atol=2e-3) for key, value in whole.items())
