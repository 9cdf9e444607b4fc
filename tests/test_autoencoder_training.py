"""training/autoencoder.py: two steps on scenes of discs and bars give a folder that diffusers and the app load."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

import pipelines
from pipelines import runtime
from tests import emoji, tiny_text
from training import autoencoder, common, guesses
from training.latents import digest
from training.scenes import Scenes


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return emoji.write_pack(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        Image.effect_noise((150, 140), 40 + i).convert("RGB").save(folder / f"{i}.png")
    return folder


def train(pack, out, *flags):
    AcceleratorState._reset_state(True)
    tiny = [
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--crop",
        "32",
        "--channels",
        "8",
        "8",
        "8",
        "16",
        "--latent-channels",
        "4",
        "--cpu",
    ]
    argv = [*tiny, "--data", pack, "--out", out, *flags]
    autoencoder.main(common.parse(autoencoder.Config, list(map(str, argv))))


def test_train_save_load_run(pack, photos, tmp_path):
    train(pack, tmp_path / "tiny", "--photos", photos, "--photo-share", "0.25")
    folder = tmp_path / "tiny"
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    assert vae.config.shift_factor == 0
    x = Scenes(pack).pictures(range(64)) / 127.5 - 1
    with torch.no_grad():
        latent = vae.encode(x).latent_dist.mean
        assert latent.shape == (64, 4, 16, 16)
        assert vae.decode(latent).sample.shape == x.shape
    assert (latent * vae.config.scaling_factor).std().item() == pytest.approx(1, rel=0.2)  # of other scenes, after fp16

    facts = json.loads((folder / "training.json").read_text())
    assert (facts["tab"], facts["kind"], facts["figures"]["crops_of_scenes_seen"]) == ("vae_playground", "photo", 6)
    card = (folder / "README.md").read_text()
    assert "training/autoencoder.py" in card
    assert all(name in card for name in ("Google", "CC BY 4.0", "Microsoft", "flower_photos"))
    assert [p.name[:6] for p in (folder / "state").glob("*.png")] == ["scenes"]

    pipeline = pipelines.load(folder)
    result = pipeline(Image.new("RGB", (60, 44), "teal"))
    assert (result.latent_shape, result.reconstruction.size) == ((4, 6, 8), (60, 44))


def test_same_seed_same_model(pack, tmp_path):
    train(pack, tmp_path / "a")
    train(pack, tmp_path / "b")
    train(pack, tmp_path / "c", "--seed", 1)
    a, b, c = (load_file(tmp_path / out / "diffusion_pytorch_model.safetensors") for out in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_a_decoder_goes_on_and_latents_stay(pack, tmp_path):
    train(pack, tmp_path / "a")
    train(
        pack,
        tmp_path / "b",
        "--encoder",
        tmp_path / "a",
        "--channels",
        "4",
        "--seed",
        1,
        "--latent-noise",
        0.5,
        "--lr",
        0.1,
    )
    a, b = (load_file(tmp_path / out / "diffusion_pytorch_model.safetensors") for out in "ab")
    learnt = {key.split(".")[0] for key in a if not torch.equal(a[key], b[key])}
    assert learnt == {"decoder", "post_quant_conv"}
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    scaling = [AutoencoderKL.load_config(tmp_path / out)["scaling_factor"] for out in "ab"]
    assert scaling[0] == scaling[1]
    assert str(tmp_path) not in (tmp_path / "b" / "config.json").read_text()
    facts = json.loads((tmp_path / "b" / "training.json").read_text())
    assert (facts["config"]["encoder"], facts["figures"]["crops_of_scenes_seen"]) == ("a", 16)
    with pytest.raises(common.TrainingError, match="nothing is no folder of an AutoencoderKL"):
        train(pack, tmp_path / "c", "--encoder", tmp_path / "nothing")


def test_an_adversary_changes_what_a_decoder_learns_and_no_latent(pack, tmp_path):
    train(pack, tmp_path / "a")
    outs = {"plain": 0, "judged": 0.5, "again": 0.5}
    for out, pull in outs.items():
        train(pack, tmp_path / out, "--encoder", tmp_path / "a", "--adversarial", pull)
    plain, judged, again = (load_file(tmp_path / out / "diffusion_pytorch_model.safetensors") for out in outs)
    assert all(torch.equal(judged[key], again[key]) for key in judged)
    learnt = {key.split(".")[0] for key in plain if not torch.equal(plain[key], judged[key])}
    assert "decoder" in learnt and "encoder" not in learnt
    log = [json.loads(line) for line in (tmp_path / "judged" / "state" / "log.jsonl").read_text().splitlines()]
    assert {"gan", "real", "drawn"} <= log[-1].keys()


def test_a_pull_is_the_length_of_the_gradient():
    y = torch.zeros(1, 3, 2, 2, requires_grad=True)
    assert autoencoder.pull((3 * y).sum(), y).item() == pytest.approx(3 * 12**0.5)


def test_the_discriminator_finds_what_is_soft():
    torch.manual_seed(0)

    def pictures(n):
        x = torch.randint(0, 2, (n, 3, 8, 8)).float().repeat_interleave(4, 2).repeat_interleave(4, 3) - 0.5
        return x, torch.nn.functional.avg_pool2d(x, 3, 1, 1)

    judge = autoencoder.Discriminator(width=8)
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    for _ in range(20):
        sharp, soft = pictures(8)
        loss = (judge(sharp) - 1).square().mean() + judge(soft).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sharp, soft = pictures(16)
    with torch.no_grad():
        assert judge(sharp).shape == (16, 1, 4, 4)
        assert judge(sharp).mean((1, 2, 3)).min() > judge(soft).mean((1, 2, 3)).max()


def test_latents_are_as_far_off_as_is_said():
    seen = []
    model = SimpleNamespace(
        encoder=lambda x: x, quant_conv=lambda x: x, post_quant_conv=lambda z: z, decoder=lambda z: seen.append(z) or z
    )
    moments = torch.cat([torch.zeros(2, 3, 64, 64), torch.full((2, 3, 64, 64), math.log(0.3**2))], 1)
    noise, off = torch.randn(2, 3, 64, 64), torch.tensor([0.0, 0.4]).view(2, 1, 1, 1)
    autoencoder.Pass(model, 0)(moments, noise, off)
    assert seen[0].std((1, 2, 3)).tolist() == pytest.approx([0.3, 0.5], rel=0.05), "variances add up"


def test_without_photographs_the_card_names_none(pack, tmp_path):
    train(pack, tmp_path / "tiny", "--half-weight", 0)
    assert "flower_photos" not in (tmp_path / "tiny" / "README.md").read_text()


def test_a_crop_that_does_not_fit(pack, tmp_path):
    with pytest.raises(common.TrainingError, match="crop"):
        train(pack, tmp_path / "tiny", "--crop", "36")


def test_the_loss_sees_edges_and_is_zero_for_equals():
    x = torch.zeros(1, 3, 16, 16)
    x[..., 8:] = 1
    assert autoencoder.reconstruction_loss(x, x, 1.0) == 0
    lighter, moved = x + 1 / 16, x.roll(1, 3)
    moved[..., 0] = 0  # the same mean error, all of it at the edge
    assert (lighter - x).abs().mean() == (moved - x).abs().mean()
    loss = {y: autoencoder.reconstruction_loss(y, x, 1.0) for y in (lighter, moved)}
    assert loss[moved] > 2 * loss[lighter]


def test_kl_is_that_of_torch():
    mean, logvar = torch.randn(2, 3, 4, 4, 4)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).mean()
    assert torch.allclose(autoencoder.kl_loss(mean, logvar), expected, atol=1e-5)


def test_psnr_is_that_of_bytes():
    x = torch.full((2, 3, 8, 8), -1.0)
    y = x + torch.tensor([2 / 255, 2.0]).view(2, 1, 1, 1)
    assert autoencoder.psnr(y, x).tolist() == pytest.approx([48.13, 0.0], abs=0.01)


def test_normalising_moves_the_latent_and_not_the_picture():
    torch.manual_seed(0)
    config = autoencoder.Config(data="", out="x", channels=(8, 8, 16), latent_channels=4)
    model = autoencoder.build(config).eval()
    x = runtime.to_tensor(Image.effect_noise((128, 128), 60).convert("RGB"))
    before = autoencoder.reconstruct(model, x)
    autoencoder.normalise(model, x)
    with torch.no_grad():
        latent = model.encode(x).latent_dist.mean * model.config.scaling_factor
    assert latent.mean((0, 2, 3)).tolist() == pytest.approx([0] * 4, abs=1e-3)
    assert latent.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
    assert torch.allclose(autoencoder.reconstruct(model, x), before, atol=1e-5)


def test_a_decoder_learns_from_latents_as_nets_guess_them(tmp_path):
    nets = tiny_text.folders(tmp_path)
    files = [str(tmp_path / f"{kind}.safetensors") for kind in nets]
    for file, folder in zip(files, nets.values(), strict=True):
        argv = [str(folder), "--data", str(tmp_path / "emoji"), "--out", file, "--scenes", "20"]
        guesses.main(argv)
    found = guesses.read(",".join(files), tmp_path / "vae")
    assert [latents.shape for latents in found] == [(20, 4, 16, 16)] * 2
    assert not torch.equal(*found) and all(latents.isfinite().all() for latents in found)
    guesses.main(argv)
    assert torch.equal(found[1], guesses.read(files[1], tmp_path / "vae")[0]), "the same again"

    train(tmp_path / "emoji", tmp_path / "a", "--encoder", tmp_path / "vae")
    told = ("--encoder", tmp_path / "vae", "--guesses", ",".join(files))
    train(tmp_path / "emoji", tmp_path / "b", *told)
    a, b = (load_file(tmp_path / out / "diffusion_pytorch_model.safetensors") for out in "ab")
    assert not torch.equal(a["decoder.conv_in.weight"], b["decoder.conv_in.weight"])
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == digest(tmp_path / "vae")

    train(tmp_path / "emoji", tmp_path / "other")
    for flags, match in {
        ("--guesses", files[0]): "--encoder",
        ("--guesses", tmp_path / "nothing.safetensors", "--encoder", tmp_path / "vae"): "nothing.safetensors holds no",
        ("--guesses", files[0], "--encoder", tmp_path / "other"): "another autoencoder than other",
    }.items():
        with pytest.raises(common.TrainingError, match=match):
            train(tmp_path / "emoji", tmp_path / "c", *flags)


def test_a_crop_and_its_latent_are_of_one_place():
    pictures = torch.arange(16 * 16).view(1, 1, 16, 16).repeat_interleave(8, 2).repeat_interleave(8, 3)
    pictures = pictures.expand(20, 3, -1, -1).byte()
    x, z = autoencoder.crops(pictures, 32, torch.Generator().manual_seed(0), pictures[:, :1, ::8, ::8].half())
    assert z.shape == (20, 1, 4, 4)
    assert len(z.flatten(1).unique(dim=0)) > 5
    assert torch.equal(((x[:, :1] + 1) * 127.5).round(), z.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_crops_prefer_what_has_detail():
    picture = torch.zeros(3, 128, 128, dtype=torch.uint8)
    picture[:, 40:80, 40:80] = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8)
    x, none = autoencoder.crops(picture.expand(200, -1, -1, -1), 32, torch.Generator().manual_seed(0))
    assert none is None
    assert x.shape == (200, 3, 32, 32)
    assert x.min() == -1
    full = (x.flatten(1).std(1) > 0).float().mean()
    alone = 72 / 97  # of the places along one side, those that touch the middle
    assert full == pytest.approx(1 - (1 - alone**2) ** 2, abs=0.08)
