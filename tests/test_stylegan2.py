"""StyleGAN2 and its training: real classes at tiny size, against the paper's equations written plainly."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from pipelines.models import stylegan2
from pipelines.models.stylegan2 import (
    Discriminator,
    Filter,
    Generator,
    ModulatedConv,
    from_rosinality,
    grow,
    minibatch_std,
)
from training import common, faces

WIDTHS = (16, 12, 8)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    net = Generator(WIDTHS, z_dim=8, w_dim=8, mapping_layers=2, classes=2).eval()
    for name, parameter in net.named_parameters():  # zeros at the start, which would hide a mistake
        if name.endswith(("bias", "noise_strength")):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def draw(net, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, net.config.z_dim, generator=generator)
    noise = [torch.randn(n, 1, r, r, generator=generator) for r in net.noise_sizes]
    return z, torch.arange(n) % 2, noise


def upfirdn(x, up=1, down=1, before=0, after=0, gain=1.0):
    """The resampling of the paper in words: insert zeros, pad, filter with [1, 3, 3, 1], drop pixels."""
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up, w * up)
    y[:, :, ::up, ::up] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    y = F.pad(y, (before, after, before, after))
    y = F.conv2d(y.flatten(0, 1)[:, None], (gain * taps[:, None] * taps)[None, None])
    return y.unflatten(0, (n, c))[:, :, 0, ::down, ::down]


# ------------------------------------------------------------------------------------------------------------ model


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_the_papers(up, demodulate):
    torch.manual_seed(0)
    conv = ModulatedConv(5, 4, 3, 6, up, demodulate)
    x, w = torch.randn(3, 5, 8, 8), torch.randn(3, 6)
    expected = []
    for i in range(3):
        style = conv.affine.weight @ w[i] / math.sqrt(6) + conv.affine.bias
        weight = conv.weight / math.sqrt(5 * 9) * style[None, :, None, None]  # eq. 1
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        if up:
            y = F.conv_transpose2d(x[i : i + 1], weight.transpose(0, 1), stride=2)
            expected.append(upfirdn(y, before=1, after=1, gain=4))
        else:
            expected.append(F.conv2d(x[i : i + 1], weight, padding=1))
    torch.testing.assert_close(conv(x, w), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_filter_is_upfirdn():
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Filter().up(x), upfirdn(x, up=2, before=2, after=1, gain=4))
    torch.testing.assert_close(Filter().down(x), upfirdn(x, down=2, before=1, after=1))


def test_generator_shapes_and_range(generator):
    z, label, noise = draw(generator, 3)
    x = generator(z, label, noise)
    assert x.shape == (3, 3, 16, 16) and x.dtype == torch.float32
    assert generator.image_size == 16 and generator.layers == 6 and generator.noise_sizes == (4, 8, 8, 16, 16)
    assert 0.05 < x.std() < 5
    assert Generator(stylegan2.WIDTHS[:4], 8, 8, 1).image_size == 32
    assert Discriminator(WIDTHS, 2)(x, label).shape == (3,)
    with pytest.raises(ValueError, match="2 entries"):
        Generator((8, 8))


def test_same_seed_same_picture_whatever_the_batch(generator):
    z, label, noise = draw(generator, 4)
    x = generator(z, label, noise)
    assert torch.equal(x, generator(z, label, noise))
    alone = generator(z[2:3], label[2:3], [m[2:3] for m in noise])
    torch.testing.assert_close(alone[0], x[2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(x, generator(z, 1 - label, noise), atol=1e-2)
    assert not torch.allclose(x, generator(z, label), atol=1e-2)


def test_saved_and_loaded_it_draws_the_same(generator, tmp_path):
    generator.measure_mean(100)
    generator.save_pretrained(tmp_path)
    z, label, noise = draw(generator, 2)
    assert torch.equal(
        Generator.from_pretrained(tmp_path)(z, label, noise, psi=0.5), generator(z, label, noise, psi=0.5)
    )


def test_truncation(generator):
    generator.measure_mean(100)
    z, label, _ = draw(generator, 4)
    w = generator.mapping(z, label)
    assert torch.allclose(
        generator.styles(w, label, psi=0), generator.w_mean[label][:, None].expand(-1, 6, -1), atol=1e-6
    )
    ws = generator.styles(w, label, psi=-0.5, cutoff=2)
    assert torch.allclose(ws[:, 2:], w[:, None].expand(-1, 4, -1))
    assert torch.allclose(ws[:, 0], 1.5 * generator.w_mean[label] - 0.5 * w, atol=1e-5)


def test_bf16_is_close_to_fp32(generator):
    z, label, noise = draw(generator, 8)
    x = generator(z, label, noise)
    with torch.autocast("cpu", torch.bfloat16):
        y = generator(z, label, noise)
    assert y.dtype == torch.float32
    assert (x - y).abs().mean() < 0.01 * x.std() + 0.005


def test_no_graph_breaks(generator):
    """Traced as one graph, as fullgraph=True demands; the backend that runs it does not matter here."""
    z, label, noise = draw(generator, 4)
    compiled = torch.compile(generator, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z, label, noise), generator(z, label, noise))
    net = Discriminator(WIDTHS, 2)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x, label), net(x, label))


@pytest.mark.parametrize("n", [1, 4, 6, 8])
def test_minibatch_std_is_the_loop(n):
    x = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    size = max(k for k in (1, 2, 4) if n % k == 0)
    y = minibatch_std(x)
    assert torch.equal(y[:, :3], x)
    for i in range(n):
        group = x[i % (n // size) :: n // size].numpy()
        expected = np.sqrt(group.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(y[i, 3].numpy(), np.full((4, 4), expected), rtol=1e-5)


def test_growing_changes_nothing_before_the_fade(generator):
    z, label, noise = draw(generator, 4)
    large = Generator((*WIDTHS, 6), z_dim=8, w_dim=8, mapping_layers=2, classes=2)
    grow(generator, large)
    ws = generator.styles(generator.mapping(z, label), label)
    small = generator.synthesis(ws, noise)
    more = [*noise, torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32)]
    ws = large.styles(large.mapping(z, label), label)
    x = large.synthesis(ws, more, fade=torch.tensor(0.0))
    torch.testing.assert_close(x, upfirdn(small, up=2, before=2, after=1, gain=4), atol=1e-5, rtol=1e-4)

    judge, grown = Discriminator(WIDTHS, 2), Discriminator((*WIDTHS, 6), 2)
    grow(judge, grown)
    torch.testing.assert_close(
        grown(x, label, torch.tensor(0.0)), judge(F.avg_pool2d(x, 2), label), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(ValueError, match="differ"):
        grow(generator, Generator((8, 8, 8), 8, 8, 2, 2))


# ------------------------------------------------------------------------------------- the layout of published weights


def published(widths=(8, 7, 6, 5), w_dim=6, layers=3):
    """Random weights in rosinality's layout."""
    torch.manual_seed(0)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = taps[:, None] * taps / 16

    def part(name, before, after, side, up=False):
        state[f"{name}.conv.weight"] = torch.randn(1, after, before, side, side)
        state[f"{name}.conv.modulation.weight"] = torch.randn(before, w_dim)
        state[f"{name}.conv.modulation.bias"] = torch.randn(before)
        if up:
            state[f"{name}.conv.blur.kernel"] = kernel
        if side == 1:
            state[f"{name}.bias"] = torch.randn(1, 3, 1, 1)
        else:
            state[f"{name}.noise.weight"], state[f"{name}.activate.bias"] = torch.randn(1), torch.randn(after)

    state = {"input.input": torch.randn(1, widths[0], 4, 4)}
    for i in range(layers):
        state[f"style.{i + 1}.weight"] = torch.randn(w_dim, w_dim) / 0.01
        state[f"style.{i + 1}.bias"] = torch.randn(w_dim)
    part("conv1", widths[0], widths[0], 3)
    part("to_rgb1", widths[0], 3, 1)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        part(f"convs.{2 * i}", before, after, 3, up=True)
        part(f"convs.{2 * i + 1}", after, after, 3)
        part(f"to_rgbs.{i}", after, 3, 1)
        state[f"to_rgbs.{i}.upsample.kernel"] = kernel
    for i in range(2 * len(widths) - 1):
        state[f"noises.noise_{i}"] = torch.randn(1, 1, 4 << (i + 1) // 2, 4 << (i + 1) // 2)
    return state


def plain_generator(state, z, noise):
    """What that layout means, after the paper: one picture at a time, with weights of its own."""

    def styled(name, x, w, up=False, noise=None):
        weight = state[f"{name}.conv.weight"]
        fan = weight[0, 0].numel()
        style = state[f"{name}.conv.modulation.weight"] @ w / math.sqrt(len(w)) + state[f"{name}.conv.modulation.bias"]
        weight = weight[0] / math.sqrt(fan) * style[None, :, None, None]
        if noise is None:
            return F.conv2d(x, weight) + state[f"{name}.bias"]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            x = upfirdn(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), before=1, after=1, gain=4)
        else:
            x = F.conv2d(x, weight, padding=1)
        x = x + state[f"{name}.noise.weight"] * noise + state[f"{name}.activate.bias"][None, :, None, None]
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    w = z / (z.square().mean() + 1e-8).sqrt()
    for i in range(sum(key.startswith("style.") for key in state) // 2):
        w = state[f"style.{i + 1}.weight"] @ w * 0.01 / math.sqrt(len(w)) + state[f"style.{i + 1}.bias"] * 0.01
        w = F.leaky_relu(w, 0.2) * math.sqrt(2)
    x = styled("conv1", state["input.input"], w, noise=noise[0])
    rgb = styled("to_rgb1", x, w)
    for i in range(len(noise) // 2):
        x = styled(f"convs.{2 * i}", x, w, up=True, noise=noise[2 * i + 1])
        x = styled(f"convs.{2 * i + 1}", x, w, noise=noise[2 * i + 2])
        rgb = upfirdn(rgb, up=2, before=2, after=1, gain=4) + styled(f"to_rgbs.{i}", x, w)
    return rgb


def test_published_layout_gives_the_same_picture():
    state, mean = published(), torch.randn(6)
    net = from_rosinality(state, mean)
    z, _, noise = draw(net, 2)
    expected = [plain_generator(state, z[i], [m[i : i + 1] for m in noise]) for i in range(2)]
    torch.testing.assert_close(net(z, None, noise), torch.cat(expected), atol=1e-4, rtol=1e-4)
    assert torch.equal(net.w_mean[0], mean)


@pytest.mark.parametrize("key", ["style.2.bias", "convs.1.conv.weight", "convs.0.conv.weight", "input.input"])
def test_published_layout_with_a_key_missing(key):
    state = published()
    del state[key]
    with pytest.raises(ValueError, match=r"[\w.]+"):
        from_rosinality(state, torch.zeros(6))


def test_published_layout_with_what_does_not_belong():
    for key, value in {
        "extra.weight": torch.zeros(1),
        "convs.0.conv.blur.kernel": torch.ones(4, 4),
        "convs.3.conv.weight": torch.zeros(1, 5, 4, 3, 3),
    }.items():
        with pytest.raises(ValueError, match=r"extra|kernel|blocks.1"):
            from_rosinality(published() | {key: value}, torch.zeros(6))


# --------------------------------------------------------------------------------------------------------- training


def test_losses():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    p = torch.cat([real, -fake]).sigmoid()
    expected = -p[:2].log().mean() - p[2:].log().mean()  # of the original game
    assert faces.discriminator_loss("non-saturating", real, fake).item() == pytest.approx(expected.item(), rel=1e-5)
    assert faces.discriminator_loss("hinge", real, fake).item() == pytest.approx(1.0 + 0.75)
    assert faces.discriminator_loss("wgan-gp", real, fake).item() == pytest.approx(-1.25 - 0.5 + 0.0025)
    assert faces.generator_loss("hinge", fake).item() == pytest.approx(1.25)
    assert faces.generator_loss("non-saturating", fake).item() == pytest.approx(-fake.sigmoid().log().mean().item())


def test_penalties_against_the_derivative_by_hand():
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    a = torch.tensor(0.7, requires_grad=True)

    def judge(x):  # gradient a x
        return a * x.square().sum((1, 2, 3)) / 2

    norms = x.square().sum((1, 2, 3))
    r1 = faces.penalty_loss("hinge", judge, x, x, None)
    assert r1.item() == pytest.approx(0.49 * norms.mean().item() / 2, rel=1e-5)
    r1.backward()
    assert a.grad.item() == pytest.approx(0.7 * norms.mean().item(), rel=1e-5)
    gp = faces.penalty_loss("wgan-gp", judge, x, torch.zeros_like(x), torch.full((4,), 0.5))
    assert gp.item() == pytest.approx((0.35 * norms.sqrt() - 1).square().mean().item(), rel=1e-5)
    ws = torch.randn(2, 3, 4, requires_grad=True)
    y = torch.randn(2, 3, 5, 5)
    lengths = faces.path_lengths(ws.sum((1, 2)).view(2, 1, 1, 1).expand(2, 3, 5, 5) * 2, ws, y)
    assert torch.allclose(
        lengths, (2 * y.sum((1, 2, 3)) / 5).abs() * 2, rtol=1e-5
    )  # sqrt(4 equal squares) is 2 of them


def test_augmentation():
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    generator = torch.Generator().manual_seed(1)
    torch.testing.assert_close(faces.augment(x, 0.0, generator), x, atol=1e-5, rtol=0)
    half, full = (faces.augment(x, p, generator) for p in (0.1, 1.0))
    changed = [(y - x).abs().amax((1, 2, 3)) > 1e-4 for y in (half, full)]
    assert 0.2 < changed[0].float().mean() < 0.8 and changed[1].all() and full.isfinite().all()
    x.requires_grad_()
    faces.augment(x, 0.8, generator).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng, sources = np.random.default_rng(0), []
    for domain in ("colour", "grey"):
        folder = tmp_path_factory.mktemp(domain)
        sources.append(str(folder))
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return ",".join(sources)


def train(data, out, *more):
    options = "--cpu --batch-size 4 --channels 8 8 8 --z-dim 8 --mapping-layers 1 --grey 1 --precision fp32"
    options += " --save-every 1 --sample-every 2 --snapshot-every 2 --log-every 1"
    argv = ["--data", data, "--out", str(out), *options.split(), *more]
    faces.main(common.parse(faces.Config, argv))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(data, out, "--steps", "4", "--path-length", "2", "--cover", "1", "--cover-images", "8")
    return out


def test_train_save_load_run(trained):
    net = Generator.from_pretrained(trained)
    judge = Discriminator.from_pretrained(trained / "discriminator")
    x = net(torch.randn(2, 8), torch.tensor([0, 1]))
    assert x.shape == (2, 3, 16, 16) and judge(x, torch.tensor([0, 1])).isfinite().all() and net.w_mean.abs().sum() > 0
    facts = json.loads((trained / "training.json").read_text())
    assert (facts["tab"], facts["kind"], facts["figures"]["pictures seen"]) == ("faces", "faces", 16)
    assert "None of these people exists" in (trained / "README.md").read_text()
    assert load_file(trained / "diffusion_pytorch_model.safetensors")["constant"].dtype == torch.float16
    assert Image.open(trained / "state" / "faces-0000004.png").size == (16 * 16, 8 * 16)
    logged = [json.loads(line) for line in (trained / "state" / "log.jsonl").read_text().splitlines()]
    assert len(logged) == 4 and all(math.isfinite(v) for line in logged for v in line.values())


def test_each_picture_is_given_a_latent_of_its_own():
    """Of all ways to give three pictures three of six latents, the one with the least distances."""
    torch.manual_seed(0)
    net, judge = Generator((8, 8, 8), 8, 8, 1).eval(), Discriminator((8, 8, 8)).eval()
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    data = common.Images(pixels, {})
    codes, near = faces.cover(net, judge, data, [torch.arange(3)], torch.Generator().manual_seed(1))
    drawn = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = (faces.looks(judge, x) for x in (data.batch(torch.arange(3)), net(drawn)))
        pairs = [(w.flatten(1), f.flatten(1)) for w, f in zip(wanted, found, strict=True)]
        cost = sum(torch.cdist(w, f).square() / (w - w.mean(0)).square().sum(1).mean() for w, f in pairs) / len(pairs)
    best = min(itertools.permutations(range(6), 3), key=lambda way: sum(cost[i, k] for i, k in enumerate(way)))
    assert torch.equal(codes, drawn[list(best)])
    torch.testing.assert_close(near, cost[range(3), best].mean())


def test_deviation():
    wanted = [torch.randn(4, 2, 8, 8), torch.randn(4, 3, 4, 4)]
    assert faces.deviation(wanted, wanted) == 0
    alike = [x.mean(0, keepdim=True).expand_as(x) for x in wanted]
    torch.testing.assert_close(faces.deviation(alike, wanted), torch.tensor(1.0))


def test_resume_goes_on_bit_for_bit(data, trained, tmp_path, monkeypatch):
    update = common.Run.update

    def killed(run, *args, **kwargs):
        if run.step == 2:
            raise KeyboardInterrupt
        return update(run, *args, **kwargs)

    arguments = (data, tmp_path / "tiny", "--steps", "4", "--path-length", "2", "--cover", "1", "--cover-images", "8")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common.Run, "update", killed)
        train(*arguments)
    train(*arguments, "--resume")
    name = "diffusion_pytorch_model.safetensors"
    for folder in (".", "discriminator"):
        once, twice = load_file(trained / folder / name), load_file(tmp_path / "tiny" / folder / name)
        assert all(torch.equal(once[key], twice[key]) for key in once)


def test_from_grows_and_refuses_what_does_not_fit(data, trained, tmp_path):
    train(data, tmp_path / "grown", "--steps", "2", "--from", str(trained), "--channels", "8", "8", "8", "4")
    assert Generator.from_pretrained(tmp_path / "grown").image_size == 32
    with pytest.raises(common.TrainingError, match="tiny cannot be gone on from"):
        train(data, tmp_path / "other", "--from", str(trained), "--channels", "4", "4", "4")
    broken = shutil.copytree(trained, tmp_path / "broken")
    shutil.rmtree(broken / "discriminator")
    with pytest.raises(common.TrainingError, match="broken cannot be gone on from"):
        train(data, tmp_path / "other", "--from", str(broken))
