"""Upscaling with nets that know nothing: tiles against the whole, the authors' layout, a hub on this machine.

With TRUGBILD_REFERENCE_WEIGHTS naming a folder with realesr-animevideov3.pth that is measured, too.
"""

import hashlib
import io
import itertools
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines import Problem, hub, recipe, registry, runtime, upscaling
from pipelines.models.compact_upscaler import CompactUpscaler, from_xinntao
from pipelines.photo_autoencoders import psnr
from pipelines.upscaling import TILE, draw, halve, upscale
from pipelines.upscaling_space import FACTORS, LANCZOS, LONGEST, METHODS, MOST, NET, OWN, entry, large, status
from tests import hub as fake

REFERENCE = os.environ.get("TRUGBILD_REFERENCE_WEIGHTS")
NAME = "weights/realesr-animevideov3.pth"
ROOT = Path(__file__).resolve().parents[1]


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    assert str(caught.value).endswith(".") and not re.search(r"/(tmp|home|root|work)|Error", str(caught.value))
    return caught.value.code


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def apart(a: Image.Image, b: Image.Image) -> int:
    assert (a.mode, a.size) == (b.mode, b.size)
    return np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()


def random(*sizes: int) -> CompactUpscaler:
    """A net whose layers neither swallow nor blow up what goes through: each pixel of what it sees counts."""
    generator = torch.Generator().manual_seed(0)
    net = CompactUpscaler(*sizes).eval().requires_grad_(False)
    for layer in (*net.convs, net.out):
        layer.weight.normal_(0, (1.6 / layer.weight[0].numel()) ** 0.5, generator=generator)
        layer.bias.normal_(0, 0.1, generator=generator)
    for slope in net.slopes:
        slope.uniform_(-0.2, 0.6, generator=generator)
    return net


@pytest.fixture
def net() -> CompactUpscaler:
    return random(12, 2)


@pytest.fixture
def exact(monkeypatch):
    """fp32, so that only tiles can make a difference."""
    plain = runtime.autocast
    monkeypatch.setattr(runtime, "autocast", lambda: plain(False))


class Published(nn.Module):
    """The authors' net as their files number it: convolutions and slopes in one row, [0, 1] in and out."""

    def __init__(self, width=12, depth=2, scale=4):
        super().__init__()
        layers = [nn.Conv2d(3, width, 3, 1, 1), nn.PReLU(width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * scale**2, 3, 1, 1))
        self.scale = scale
        for parameter in self.parameters():
            parameter.data = 1.5 * parameter.data + 0.02

    @torch.no_grad()
    def forward(self, x):
        base = x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return nn.PixelShuffle(self.scale)(self.body(x)) + base


# ----------------------------------------------------------------------------------------------------------------- net


def test_the_published_net_in_its_own_layout():
    torch.manual_seed(0)
    for sizes in ((12, 2, 4), (8, 0, 2), (64, 16, 4)):
        published = Published(*sizes)
        net = from_xinntao(published.state_dict())
        assert (net.config.width, net.config.depth, net.config.scale) == sizes
        x = torch.rand(2, 3, 9, 14)
        torch.testing.assert_close((net(2 * x - 1) + 1) / 2, published(x), atol=2e-5, rtol=1e-4)


def test_it_is_as_large_as_the_published_one():
    net = CompactUpscaler()
    assert sum(parameter.numel() for parameter in net.parameters()) == 621_424
    assert len(net.state_dict()) == 53 and net.reach == 18


def test_what_a_place_sees(net):
    x = torch.zeros(1, 3, 21, 21, requires_grad=True)
    net(x)[0, :, 40:44, 40:44].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert seen.amin(0).tolist() == [10 - net.reach] * 2 and seen.amax(0).tolist() == [10 + net.reach] * 2


def test_saved_and_loaded_it_draws_the_same(net, tmp_path):
    net.save_pretrained(tmp_path)
    x = torch.rand(1, 3, 6, 5)
    assert torch.equal(CompactUpscaler.from_pretrained(tmp_path)(x), net(x))


def test_bf16_is_close_to_fp32():
    net, x = random(64, 16), torch.rand(1, 3, 24, 24) * 2 - 1
    y = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        z = net(x)
    assert z.dtype == torch.float32
    detail = y - x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert detail.std() > 0.1 and (y - z).abs().mean() < 0.03 * detail.std()


SPOILT = {
    "missing": ("body.2.bias", lambda state, key: state.pop(key)),
    "no slopes": ("body.3.weight", lambda state, key: state.pop(key)),
    "no first layer": ("body.0.weight", lambda state, key: state.pop(key)),
    "extra layer": ("body.6.bias", lambda state, key: state.update({"body.7.weight": torch.zeros(12)})),
    "layer far away": ("body.10.bias", lambda state, key: state.update({"body.9999.weight": torch.zeros(12)})),
    "extra parameter": ("body.1.bias", lambda state, key: state.update({key: torch.zeros(12)})),
    "other name": ("head.weight", lambda state, key: state.update({key: torch.zeros(12)})),
    "one slope": ("body.1.weight", lambda state, key: state.update({key: torch.zeros(1)})),
    "grey": ("body.0.weight", lambda state, key: state.update({key: torch.zeros(12, 1, 3, 3)})),
    "not a square": ("body.6.weight", lambda state, key: state.update({"body.6.bias": torch.zeros(30)})),
}


@pytest.mark.parametrize(("key", "spoil"), SPOILT.values(), ids=SPOILT)
def test_every_key_is_accounted_for(key, spoil):
    state = Published().state_dict()
    spoil(state, key)
    with pytest.raises(ValueError) as error:
        from_xinntao(state)
    assert error.value.args == (key,)


@pytest.mark.parametrize("state", [{}, {"body.0.bias": torch.zeros(3)}, {"conv1.weight": torch.zeros(2, 2)}])
def test_another_net_is_refused(state):
    with pytest.raises(ValueError):
        from_xinntao(state)


# --------------------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("shape", [(70, 41), (33, 64), (32, 32), (1, 100), (97, 1), (1, 1), (5, 3)])
def test_tiles_are_the_whole(net, exact, monkeypatch, shape, factor):
    image, steps = photo(*shape), []
    with torch.inference_mode():
        whole = net(runtime.to_tensor(image))
    (whole,) = runtime.to_images(whole if factor == 4 else halve(whole))
    monkeypatch.setattr(upscaling, "TILE", 32)
    after = draw(net, image, factor, lambda *step: steps.append(step))
    assert after.size == (factor * shape[0], factor * shape[1]) and after.mode == "RGB"
    assert apart(after, whole) <= 1 and (np.asarray(after) != np.asarray(whole)).mean() < 1e-3
    n = math.prod(-(-side // 32) for side in shape)
    assert steps == [(i, n, None) for i in range(1, n + 1)]


def test_tiles_of_the_real_size(exact, monkeypatch):
    """The real architecture with random weights, whose every layer lets everything through."""
    net, image = random(64, 16), photo(60, 44)
    monkeypatch.setattr(upscaling, "TILE", 1000)
    whole = draw(net, image, 4)
    monkeypatch.setattr(upscaling, "TILE", 24)
    assert apart(draw(net, image, 4), whole) <= 1
    monkeypatch.setattr(CompactUpscaler, "reach", 4)  # had a tile less around it than the net sees, it would show
    assert apart(draw(net, image, 4), whole) > 5


def test_tiles_cover_a_side_once():
    for side, halo in itertools.product((1, 2, TILE - 1, TILE, TILE + 1, 3 * TILE + 5), (0, 7)):
        parts = list(upscaling.tiles(side, halo))
        assert [i for part, _ in parts for i in range(part.start, part.stop)] == list(range(side))
        for part, seen in parts:
            assert part.stop - part.start <= TILE
            assert (seen.start, seen.stop) == (max(part.start - halo, 0), min(part.stop + halo, side))


def test_halving_is_pillows_lanczos():
    # in middle greys: between rows and columns Pillow cuts off what overshoots black and white
    image = photo(40, 32).point(lambda value: 96 + value // 4).resize((80, 64), Image.Resampling.BICUBIC)
    (half,) = runtime.to_images(halve(runtime.to_tensor(image)))
    expected = image.resize((40, 32), Image.Resampling.LANCZOS)
    inside = (4, 4, 36, 28)  # at the edges Pillow leaves pixels out where we continue them
    assert apart(half.crop(inside), expected.crop(inside)) <= 1 and apart(half, expected) < 12
    torch.testing.assert_close(halve(torch.full((1, 3, 8, 4), 0.3)), torch.full((1, 3, 4, 2), 0.3))


def test_stop(net, monkeypatch):
    class Stop(Exception):
        pass

    def stop(i, n, picture):
        seen.append(i)
        if i == 2:
            raise Stop

    seen = []
    monkeypatch.setattr(upscaling, "TILE", 16)
    with pytest.raises(Stop):
        draw(net, photo(40, 40), 4, stop)
    assert seen == [1, 2] and draw(net, photo(20, 20), 2).size == (40, 40)


# ------------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def loaded(net, monkeypatch):
    monkeypatch.setattr(upscaling, "net", lambda: net)
    return net


def test_both_methods(loaded):
    image, steps = photo(20, 12), []
    for factor, method in itertools.product(FACTORS, METHODS):
        after, _ = upscale(image, factor, method, on_step=lambda *step: steps.append(step))
        assert (after.mode, after.size) == ("RGB", (factor * 20, factor * 12))
    assert steps == [(1, 1, None)] * 4
    assert apart(upscale(image, 4, LANCZOS)[0], image.resize((80, 48), Image.Resampling.LANCZOS)) == 0
    assert apart(upscale(image, 4)[0], draw(loaded, image, 4)) == 0
    grey = image.convert("L")
    assert apart(upscale(grey)[0], upscale(grey.convert("RGB"))[0]) == 0


def test_recipes(loaded):
    image = photo(6, 5)
    after, made = upscale(image, 2)
    assert (made.tab, made.model, made.task, made.settings) == ("text_to_image", NET, "upscale", {"factor": 2})
    assert made.revision == registry.get(NET).revision
    assert recipe.read(recipe.save(after, made)) == made
    assert upscale(image, 2, LANCZOS)[1] is None  # no model made anything
    drawn = replace(made, task="picture", settings={"prompt": "a frog"}, seed=3)
    for method in METHODS:
        after, made = upscale(image, 4.0, method, drawn)
        assert made == replace(drawn, settings={"prompt": "a frog", "upscale": 4, "upscaler": method})
        assert recipe.read(recipe.save(after, made)) == made
    assert drawn.settings == {"prompt": "a frog"}


def test_limits():
    assert large(1024, 1024, 4) == (4096, 4096) and large(2048, 2048, 2) == (4096, 4096)
    assert large(1, 4096, 4) == (4, LONGEST) and MOST == 4096**2
    for width, height, factor in ((1025, 1024, 4), (2049, 2048, 2), (1, 4097, 4), (8193, 1, 2), (24_000_000, 1, 2)):
        assert code(large, width, height, factor) == "too_large_to_upscale"
    with pytest.raises(Problem) as caught:
        large(2000, 1000, 4)
    assert "8000 x 4000" in str(caught.value) and "16 megapixels" in str(caught.value)


def test_bad_input(loaded):
    image = photo(4, 4)
    for expected, more in (
        ("unknown_choice", {"factor": 3}),
        ("out_of_range", {"factor": 8}),
        ("out_of_range", {"factor": float("nan")}),
        ("not_a_number", {"factor": "4"}),
        ("missing", {"factor": None}),
        ("not_whole", {"factor": 2.5}),
        ("unknown_choice", {"method": "bicubic"}),
        ("missing", {"method": None}),
    ):
        assert code(upscale, image, **more) == expected, more
    assert code(upscale, None) == "no_picture" and code(upscale, "photo.png") == "no_picture"
    for method in METHODS:  # said before anything is loaded or allocated
        assert code(upscale, Image.new("L", (5000, 5000)), 4, method) == "too_large_to_upscale"
    assert code(status, "bicubic") == "unknown_choice"


# ------------------------------------------------------------------------------------------------------------- weights


def written(state: object, **more) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **more)
    return file.getvalue()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """content, sha256 -> the hub that has it as the net's file; nothing is cached yet."""
    opened, published = [], registry.get(NET)
    fake.forget(monkeypatch, tmp_path / "hf")
    monkeypatch.delenv(OWN, raising=False)

    def start(content: bytes, sha256: str | None = None) -> fake.Hub:
        files = {NAME: sha256 or hashlib.sha256(content).hexdigest()}
        monkeypatch.setattr(registry, "TOOLS", (replace(published, files=files, revision=fake.COMMIT),))
        monkeypatch.setattr(upscaling, "_nets", {})
        shutil.rmtree(hub.cache(), ignore_errors=True)
        context = fake.serve({f"spaces/{published.source}": {NAME: content}})
        opened.append(context)
        server = context.__enter__()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    yield start
    for context in opened:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("old", [False, True])
def test_published_weights_are_read_once_then_kept(serve, monkeypatch, old):
    torch.manual_seed(0)
    published, image = Published(), photo(20, 14)
    server = serve(written({"params": published.state_dict()}, _use_new_zipfile_serialization=not old))
    assert status(NET) is None
    after, made = upscale(image)
    assert made.revision == fake.COMMIT
    expected = published(runtime.to_tensor(image) / 2 + 0.5)[0].permute(1, 2, 0).numpy().clip(0, 1) * 255
    assert np.abs(np.asarray(after) - expected).mean() < 1  # bf16
    (kept,) = hub.converted().iterdir()
    assert kept.suffix == ".safetensors"
    asked = len(server.requests)
    assert upscaling.net() is upscaling.net()
    monkeypatch.setattr(upscaling, "_nets", {})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)  # the second time nothing is unpickled
        assert apart(upscale(image)[0], after) == 0
    assert len(server.requests) == asked and status(NET) is None


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


def test_published_weights_that_are_amiss(serve, capsys):
    good = Published().state_dict()
    for expected, content in {
        "weights_broken": written({"params": good})[:3000],
        "weights_pickle": pickle.dumps({"params": Code()}, protocol=2),
        "weights_mismatch": written({"params": {k: v for k, v in good.items() if k != "body.2.bias"}}),
    }.items():
        serve(content)
        assert code(upscale, photo(4, 4)) == expected
    broken = {"params": good | {"body.0.bias": torch.full((12,), torch.nan)}}
    nothing = {"params": {key: torch.tensor(0.0) for key in good}}
    for state in (good, {}, {"params_ema": good}, {"params": good, "step": torch.zeros(1)}, broken, nothing, [good]):
        serve(written(state))
        assert code(upscale, photo(4, 4)) in ("weights_mismatch", "weights_pickle", "weights_broken"), state
    assert "never run" not in capsys.readouterr().out and not hub.converted().exists()


def test_a_hub_that_fails(serve, monkeypatch):
    content = written({"params": Published().state_dict()})
    serve(pickle.dumps(Code(), protocol=2), sha256="0" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)  # what is not the published file is never opened
        assert code(upscale, photo(4, 4)) == "hash_mismatch"
    server = serve(content)
    for fault, expected in {"cut off": "cut_off", "gated": "gated", "vanished": "gone", "tampered": ""}.items():
        server.fault = fault
        assert code(upscale, photo(4, 4)) in (expected, "hash_mismatch")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.rmtree(hub.cache())
    assert code(upscale, photo(4, 4)) == status(NET).code == "offline_mode"
    assert status(LANCZOS) is None and upscale(photo(4, 4), 2, LANCZOS)[0].size == (8, 8)


def test_a_file_of_ones_own(serve, tmp_path, monkeypatch):
    content = written({"params": Published().state_dict()})
    server = serve(content)
    file = tmp_path / "mine" / "realesr-animevideov3.pth"
    file.parent.mkdir()
    file.write_bytes(content)
    for value in (file, file.parent):
        monkeypatch.setenv(OWN, str(value))
        monkeypatch.setattr(upscaling, "_nets", {})
        assert status(NET) is None and entry().path == file.parent
        assert upscale(photo(4, 4))[1].revision == fake.COMMIT  # the same bytes
    monkeypatch.setattr(upscaling, "_nets", {})
    file.write_bytes(content[:-1] + b"x")
    assert code(upscale, photo(4, 4)) == "weights_broken"
    file.unlink()
    assert code(upscale, photo(4, 4)) == status(NET).code == "upscaler_setting"
    assert server.requests == []


def test_the_registry():
    model = registry.get(NET)
    assert model in registry.TOOLS and model not in registry.models()  # no picker shows it
    assert re.fullmatch("[0-9a-f]{40}", model.revision) and model.tab in registry.TABS
    assert model.files == {NAME: "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d"}
    assert model.card_url == "https://huggingface.co/spaces/guetLzy/Real-ESRGAN-Demo"
    script = "import sys, pipelines.upscaling_space; print(*sys.modules)"  # the page needs it
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "diffusers", "PIL"} & set(loaded.split())


@pytest.mark.skipif(not REFERENCE, reason="TRUGBILD_REFERENCE_WEIGHTS names no folder")
def test_the_real_net(monkeypatch, tmp_path):
    """A drawing made small and large again comes closer to what it was than by interpolation."""
    from PIL import ImageDraw

    fake.forget(monkeypatch, tmp_path)
    monkeypatch.setenv(OWN, REFERENCE)
    monkeypatch.setattr(upscaling, "_nets", {})
    drawing = Image.new("RGB", (1024, 1024), "white")
    pen = ImageDraw.Draw(drawing)
    pen.ellipse((120, 120, 900, 900), "#f5c542", "#403020", 24)
    pen.ellipse((330, 340, 430, 480), "#403020")
    pen.ellipse((590, 340, 690, 480), "#403020")
    pen.arc((310, 400, 710, 740), 20, 160, "#403020", 28)
    drawing = drawing.resize((512, 512), Image.Resampling.LANCZOS)
    small = drawing.resize((128, 128), Image.Resampling.LANCZOS)
    figures = {method: psnr(upscale(small, 4, method)[0], drawing) for method in METHODS}
    print(figures)
    assert figures[NET] > figures[LANCZOS] + 1
