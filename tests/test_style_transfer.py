"""The wrapper of style transfer with tiny nets, and published weights from a Space on this machine. Knows no style."""

import hashlib
import io
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import models_apart
from PIL import Image

import pipelines
from pipelines import Problem, hub, recipe, registry, style_space, style_transfer
from pipelines.models.cyclegan import Discriminator, Generator
from pipelines.pictures import open_picture
from pipelines.style_space import DIRECTIONS, LEAST, MAX_WORK, work_size
from tests import hub as fake
from tests.test_cyclegan import Published


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    assert str(caught.value).endswith(".") and not re.search(r"/(tmp|home|root|work)|Error", str(caught.value))
    return caught.value.code


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int16)


def same(a: Image.Image, b: Image.Image, within: int = 0) -> bool:
    return a.size == b.size and np.abs(pixels(a) - pixels(b)).max() <= within


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Light and dark from above left to below right, with coarse and fine noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    coarse = Image.fromarray(rng.integers(0, 100, (5, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = rng.integers(0, 20, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + fine + 60 * (x + y)[..., None]).clip(0, 255).astype(np.uint8))


def save(folder, directions=DIRECTIONS, judges=True):
    for direction in directions:
        net = Generator(4, 2)
        for name, parameter in net.named_parameters():  # an untrained one draws hardly anything
            parameter.data = 0.2 * torch.randn_like(parameter) if name.endswith("bias") else 5 * parameter.data
        net.save_pretrained(folder / direction)
        if judges:
            Discriminator(4).save_pretrained(folder / direction / "discriminator")
    facts = {"tab": "style_transfer", "kind": "cyclegan", "licence": "Apache-2.0", "year": 2026}
    (folder / "training.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What training writes: a pair, each direction with the discriminator of its target."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-pair"
    torch.manual_seed(0)
    save(folder)
    return folder


@pytest.fixture(scope="module")
def pair(folder):
    with models_apart():
        yield pipelines.load(folder)


def network(pair, image, direction="AtoB") -> np.ndarray:
    """What the net itself makes of a picture of 4n x 4m px, in fp32: (H, W, 3) in [-1, 1]"""
    x = torch.from_numpy(np.asarray(image, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return pair._generators[direction](x)[0].permute(1, 2, 0).numpy()


# ------------------------------------------------------------------------------------------------------------- drawing


def test_what_it_is(pair):
    assert (pair.directions, pair.model.id) == (DIRECTIONS, "local/tiny-pair")
    assert pair.has_discriminator("AtoB") and pair.has_discriminator("BtoA")
    assert pair.model.memory_mb < 250


def test_it_draws_what_the_net_draws(pair):
    steps, image = [], photo(64, 48)
    before, after, made = pair.translate(image, size=0, on_step=lambda *step: steps.append(step))
    assert same(before, image) and (after.mode, after.size) == ("RGB", (64, 48)) and steps == [(1, 1, None)]
    assert np.abs(pixels(after) / 127.5 - 1 - network(pair, image)).mean() < 0.02  # bf16
    assert not same(after, pair.translate(image, "BtoA", 0)[1], 20)
    assert (made.tab, made.task, made.model, made.seed) == ("style_transfer", "translate", "local/tiny-pair", None)
    assert made.settings == {"direction": "AtoB", "size": 0, "strength": 1.0, "tone": 1.0}


@pytest.mark.parametrize("size", [128, 0])
def test_a_recipe_makes_the_picture_again(pair, size):
    image = photo(90, 61)
    _, after, made = pair.translate(image, "BtoA", size, 0.7, 0.4)
    again = recipe.read(recipe.save(after, made))
    assert again == made
    assert same(pair.translate(image, **again.settings)[1], after)


def test_the_working_size():
    assert work_size(6000, 4000, 256) == (256, 171) and work_size(4000, 6000, 1024) == (683, 1024)
    assert work_size(20, 10, 128) == (128, 64) and work_size(20, 10, 0) == (20, 10)
    assert work_size(1, 5000, 128) == (1, 128) and work_size(1, 1, 512) == (512, 512)
    for width, height in ((6000, 4000), (2000, 2000), (24_000_000, 1), (1, 24_000_000), (65500, 366), (2001, 2000)):
        w, h = work_size(width, height, 0)
        assert max(w, LEAST) * max(h, LEAST) <= MAX_WORK and min(w, h) >= 1
        if min(width, height) > 1000:
            assert w * h > 0.998 * MAX_WORK and w / h == pytest.approx(width / height, rel=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2), (17, 31), (63, 64), (66, 7)])
def test_every_shape(pair, shape):
    image = photo(*shape)
    for size in (0, 128):
        before, after, _ = pair.translate(image, size=size)
        assert before.size == after.size == work_size(*shape, size)
    cycle, eye = pair.cycle(image, size=0), pair.eye(image, size=0)
    for picture in (cycle.there, cycle.back, cycle.difference, eye.after, eye.before_map, eye.after_map):
        assert (picture.mode, picture.size) == ("RGB", shape)
    assert 0 <= cycle.error <= 2 and np.isfinite(eye.before_scores).all() and eye.after_scores.size


def test_edges_are_continued(pair):
    image = photo(61, 42)
    continued = Image.fromarray(np.pad(np.asarray(image), ((0, 2), (0, 3), (0, 0)), mode="edge"))
    assert same(pair.translate(image, size=0)[1], pair.translate(continued, size=0)[1].crop((0, 0, 61, 42)), 1)


def test_pictures_of_every_kind(pair):
    image = photo(40, 24)
    grey = image.convert("L")
    assert same(pair.translate(grey, size=0)[1], pair.translate(grey.convert("RGB"), size=0)[1])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    clear = Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 255)))
    turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for picture, plain, more in ((deep, grey, {}), (clear, image, {}), (turned, image, {"exif": exif})):
        file = io.BytesIO()
        picture.save(file, "PNG", **more)
        opened = open_picture(file.getvalue())
        assert same(pair.translate(opened, size=0)[1], pair.translate(plain, size=0)[1]), more


def test_strength(pair):
    image = photo(60, 44)
    before, full, _ = pair.translate(image, size=0)
    assert same(pair.translate(image, size=0, strength=0)[1], before) and same(before, image)
    assert same(pair.translate(image, size=0, strength=0, tone=0)[1], before)
    half = pair.translate(image, size=0, strength=0.5)[1]
    assert np.abs(pixels(half) - (pixels(before) + pixels(full)) / 2).max() <= 1
    more = pixels(pair.translate(image, size=0, strength=1.5)[1])
    assert np.abs(more - (1.5 * pixels(full) - 0.5 * pixels(before)).clip(0, 255)).max() <= 2


def test_tone_is_light_and_colour_without_detail(pair):
    image = photo(128, 96)
    before, full, _ = pair.translate(image, size=0)
    plain = pair.translate(image, size=0, tone=0)[1]

    def apart(a, b, blurred):
        difference = (pixels(a) - pixels(b)).astype(np.float32)[24:-24, 24:-24]
        if blurred:
            return np.abs(difference.mean((0, 1))).max()
        return np.abs(np.diff(difference, axis=1)).mean()

    assert apart(full, before, blurred=True) > 5 * apart(plain, before, blurred=True)  # colour stays that of the photo
    assert apart(full, plain, blurred=False) < 0.1 * apart(full, before, blurred=False)  # what is left is smooth


@pytest.mark.parametrize("shape", [(96, 64), (40, 200), (7, 90), (1, 1), (3000, 2)])
def test_low_frequencies(shape):
    constant = torch.full((1, 3, *shape), 0.3)
    torch.testing.assert_close(style_transfer.low_pass(constant), constant)
    d = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    low = style_transfer.low_pass(d)
    assert low.shape == d.shape
    if min(shape) >= 40:
        assert low.std() < 0.35 * d.std()
        wide = torch.cos(torch.linspace(0, 2 * torch.pi, shape[1])).expand(1, 3, *shape)
        assert (style_transfer.low_pass(wide) - wide).abs().max() < 0.1  # what is as wide as the picture stays


# --------------------------------------------------------------------------------------------------------------- bands


@pytest.fixture
def banded(monkeypatch):
    """Bands of 32 rows or columns in place of one plain forward; fp32, so that only bands can make a difference."""
    plain = style_transfer.runtime.autocast

    def start(shorter: int):
        monkeypatch.setattr(style_transfer, "PLAIN", 0)
        monkeypatch.setattr(style_transfer, "BAND", 32 * shorter)

    monkeypatch.setattr(style_transfer.runtime, "autocast", lambda: plain(False))
    return start


@pytest.mark.parametrize("shape", [(100, 200), (230, 90), (16, 400)])
def test_bands_are_the_plain_forward(pair, banded, shape):
    image, steps = photo(*shape), []
    plain = pair.translate(image, size=0)[1]
    banded(min(-(-side // 4) * 4 for side in shape))
    after = pair.translate(image, size=0, on_step=lambda i, n, _: steps.append((i, n)))[1]
    assert same(after, plain, 1) and (after != plain) <= 1
    n = (6 + 2 * 2) * -(-max(shape) // 32)
    assert steps == [(i, n) for i in range(1, n + 1)]


def test_there_is_no_seam(pair, banded):
    """Steps from row to row are no larger where bands meet than elsewhere."""
    smooth = photo(60, 200).resize((3, 3), Image.Resampling.BOX).resize((60, 256), Image.Resampling.BICUBIC)
    banded(60)
    after = pixels(pair.translate(smooth, size=0)[1])
    steps = np.abs(np.diff(after, axis=0)).max((1, 2))[8:-8]
    rows = np.arange(8, 8 + len(steps))
    borders = np.isin((rows + 1) % 32, (0, 1, 31))
    assert steps[borders].max() <= steps[~borders].max()


def test_stop(pair, banded):
    class Stop(Exception):
        pass

    def stop(i, n, picture):
        seen.append(i)
        if i == 3:
            raise Stop

    banded(64)
    for task in (pair.translate, pair.cycle, pair.eye):
        seen = []
        with pytest.raises(Stop):
            task(photo(64, 160), size=0, on_step=stop)
        assert seen == [1, 2, 3]
    assert pair.translate(photo(64, 160), size=0)  # nothing is left behind


# ---------------------------------------------------------------------------------------------- there and back, the eye


def test_there_and_back(pair):
    image, steps = photo(64, 48), []
    cycle = pair.cycle(image, "BtoA", 0, on_step=lambda *step: steps.append(step))
    assert steps == [(1, 2, None), (2, 2, None)]
    assert same(cycle.before, image) and same(cycle.there, pair.translate(image, "BtoA", 0)[1])
    again = pair.translate(cycle.there, "AtoB", 0)[1]  # of rounded pixels, and these nets exaggerate
    assert np.abs(pixels(cycle.back) - pixels(again)).mean() < 0.3 * np.abs(pixels(again) - pixels(image)).mean()
    difference = np.abs(pixels(cycle.back) - pixels(image))
    assert cycle.error == pytest.approx(difference.mean() / 127.5, abs=0.003)
    shown = (difference * style_transfer.GAIN).clip(0, 255)
    assert np.abs(pixels(cycle.difference) - shown).max() <= style_transfer.GAIN
    assert (cycle.recipe.task, cycle.recipe.settings) == ("cycle", {"direction": "BtoA", "size": 0, "noise": 0.0})


def test_noise_on_the_way_back(pair):
    image = photo(64, 48)
    plain, noisy = pair.cycle(image, size=0), pair.cycle(image, size=0, noise=0.1)
    spread = (pixels(noisy.there) - pixels(plain.there)) / 127.5
    assert 0.07 < spread.std() < 0.12 and abs(spread.mean()) < 0.02
    assert not same(noisy.back, plain.back, 5)
    again = pair.cycle(image, **noisy.recipe.settings)
    assert same(again.back, noisy.back) and again.error == noisy.error
    assert code(pair.cycle, image, noise=0.6) == "out_of_range"


def test_the_eye(pair):
    image = photo(96, 70)
    eye = pair.eye(image, "BtoA", 0)
    assert same(eye.before, image) and same(eye.after, pair.translate(image, "BtoA", 0)[1])
    assert eye.before_scores.shape == (6, 10) and eye.before_scores.dtype == np.float32
    assert not np.allclose(eye.before_scores, eye.after_scores)
    assert not np.allclose(eye.before_scores, pair.eye(image, "AtoB", 0).before_scores)  # another judge
    assert eye.before_map.size == eye.after_map.size == image.size
    assert (eye.recipe.task, eye.recipe.settings) == ("eye", {"direction": "BtoA", "size": 0})
    assert same(pair.eye(image, **eye.recipe.settings).after_map, eye.after_map)


def test_the_map_says_where(monkeypatch):
    image = photo(100, 84)
    grey = style_transfer.overlay(image, np.full((8, 10), 0.5, np.float32))
    assert (pixels(grey).max(2) == pixels(grey).min(2)).all()
    scores = np.full((8, 10), 0.5, np.float32)
    scores[:, 0], scores[:, -1] = 0.0, 1.2
    red, _, blue = pixels(style_transfer.overlay(image, scores)).transpose(2, 0, 1)
    assert (blue - red)[:, :12].min() > 60 and (red - blue)[:, -12:].min() > 60
    assert np.abs(red - blue)[:, 40:56].max() < 6
    # where a verdict stands: 12 px from the edge, and 8 px a step
    scores = np.full((8, 10), 0.5, np.float32)
    scores[2, 6] = 1.0
    red, _, blue = pixels(style_transfer.overlay(image, scores)).transpose(2, 0, 1)
    y, x = np.unravel_index((red - blue).argmax(), red.shape)
    assert abs(y - (8 * 2 + 11.5)) <= 2 and abs(x - (8 * 6 + 11.5)) <= 2


def test_a_verdict_belongs_to_its_place(pair):
    """Without the normalisation, which sees the whole picture, a change shows up only where it is."""
    image, spoilt = photo(256, 128), photo(256, 128)
    spoilt.paste((255, 0, 0), (200, 40, 240, 80))
    a, b = (pair.eye(picture, size=0).before_scores for picture in (image, spoilt))
    changed = np.abs(a - b)
    assert changed[:, 20:].mean() > 3 * changed[:, :12].mean()


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("size", [64, 100, 2048, -1, True, float("nan"), [256]])
def test_sizes_that_are_none(pair, size):
    for task in (pair.translate, pair.cycle, pair.eye):
        assert code(task, photo(8, 8), "AtoB", size) == "unknown_choice"


def test_bad_input(pair):
    image = photo(8, 8)
    for expected, more in (
        ("unknown_choice", {"direction": "B to A"}),
        ("missing", {"direction": None}),
        ("unknown_choice", {"size": "256"}),
        ("missing", {"size": None}),
        ("unknown_choice", {"size": 0.5}),
        ("out_of_range", {"strength": 1.6}),
        ("out_of_range", {"strength": float("nan")}),
        ("out_of_range", {"tone": -0.1}),
        ("not_a_number", {"tone": "1"}),
    ):
        assert code(pair.translate, image, **more) == expected, more
    assert pair.translate(image, size=128.0)[2].settings["size"] == 128
    assert code(pair.align, photo(200, 200)) == "no_face"
    assert code(pair.has_discriminator, "A") == "unknown_choice"


# ------------------------------------------------------------------------------------------------ folders of one's own


def test_one_direction(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_own", {})
    save(tmp_path / "one", ("BtoA",), judges=False)
    one = pipelines.load(tmp_path / "one")
    assert one.directions == ("BtoA",) and not one.has_discriminator("AtoB") and not one.has_discriminator("BtoA")
    image = photo(20, 20)
    assert one.translate(image, "BtoA", 0)[1].size == (20, 20)
    assert code(one.translate, image) == "no_direction" and code(one.eye, image) == "no_direction"
    assert code(one.cycle, image, "BtoA") == "one_direction"
    assert code(one.eye, image, "BtoA") == "no_discriminator"


def test_a_folder_of_ones_own(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_own", {})
    own = shutil.copytree(folder, tmp_path / "runs" / "own")
    (model,) = registry.discover(tmp_path / "runs")
    assert (model.id, model.tab, model.kind) == ("local/own", "style_transfer", "cyclegan")
    assert len(model.files) == 4 and hub.folder(model) == own and hub.status(model) is None
    first = registry.revision(model)
    assert re.fullmatch("[0-9a-f]{12}", first)
    for part in ("AtoB", "BtoA/discriminator"):  # whatever is trained anew is another revision
        file = own / part / "diffusion_pytorch_model.safetensors"
        before = file.read_bytes()
        file.write_bytes(bytes([*before[:-1], before[-1] ^ 1]))
        assert registry.revision(model) != first
        file.write_bytes(before)
        assert registry.revision(model) == first
    (own / "AtoB" / "diffusion_pytorch_model.safetensors").unlink()
    assert hub.folder(model) is None and code(pipelines.load, model.id) == "model_files_missing"


def test_folders_that_are_amiss(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_own", {})
    empty = shutil.copytree(folder, tmp_path / "empty", ignore=lambda *_: DIRECTIONS)
    assert code(pipelines.load, empty) == "folder_pickle"
    broken = shutil.copytree(folder, tmp_path / "broken")
    net = Generator(4, 3)
    weights = "AtoB/diffusion_pytorch_model.safetensors"
    net.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "diffusion_pytorch_model.safetensors", broken / weights)
    assert code(pipelines.load, broken) == "weights_mismatch"
    (broken / weights).write_bytes(b"\0" * 100)
    assert code(pipelines.load, broken) == "model_broken"
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    (wrong / "BtoA" / "config.json").write_text("{}")
    assert code(pipelines.load, wrong) in ("model_broken", "weights_mismatch")


def test_a_bundled_pair(folder, tmp_path, monkeypatch):
    """A line of MODELS is all that a bundled pair needs."""
    shutil.copytree(folder, tmp_path / "style-tiny")
    monkeypatch.setattr(registry, "CHECKPOINTS", tmp_path)
    monkeypatch.setattr(registry, "_own", {})
    model = registry._pair("style-tiny", registry.APACHE)
    monkeypatch.setattr(registry, "MODELS", (model,))
    assert registry.register_folder(tmp_path / "style-tiny") is model
    pair = pipelines.load("style-tiny")
    assert pair.directions == DIRECTIONS and pair.has_discriminator("BtoA")
    _, after, made = pair.translate(photo(30, 20), size=0)
    assert made.model == "style-tiny" and made.revision == registry.revision(model)
    assert style_space.first(model.path) is None
    (model.path / "first.png").write_bytes(recipe.save(after, made))
    shown, found = style_space.first(model.path)
    assert same(shown, after) and found == made


# ---------------------------------------------------------------------------------------------------- published weights

NAMES = ("checkpoints/there_pretrained/latest_net_G.pth", "checkpoints/back_pretrained/latest_net_G.pth")
SPACE = "someone/nets"


def written(state: object, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """contents, sha256s -> the hub that has them as the files of the model test; nothing is cached yet."""
    opened = []

    def start(*contents: bytes, sha256: dict[int, str] | None = None) -> fake.Hub:
        sums = {i: hashlib.sha256(content).hexdigest() for i, content in enumerate(contents)} | (sha256 or {})
        files = {NAMES[i]: sums[i] for i in range(len(contents))}
        kind = ("test", "style_transfer", "cyclegan", SPACE, *registry.BSD_2, 2017, fake.COMMIT)
        monkeypatch.setattr(registry, "MODELS", (registry.Model(*kind, files=files, repo_type="space"),))
        shutil.rmtree(hub.cache(), ignore_errors=True)
        context = fake.serve({f"spaces/{SPACE}": dict(zip(NAMES, contents, strict=False))})
        opened.append(context)
        server = context.__enter__()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    fake.forget(monkeypatch, tmp_path / "hf")
    yield start
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture
def nets():
    torch.manual_seed(0)
    return Published(4, 2, dropout=True, statistics=True), Published(4, 2)


@pytest.mark.parametrize("old", [False, True])
def test_published_weights_are_read_once_then_kept(serve, nets, monkeypatch, old):
    server = serve(*(written(net.state_dict(), old) for net in nets))
    pair = pipelines.load("test")
    assert pair.directions == DIRECTIONS and not pair.has_discriminator("AtoB")
    assert (hub.cache() / "spaces--someone--nets" / "snapshots" / fake.COMMIT / NAMES[0]).is_file()
    image = photo(64, 48)
    pictures = [pair.translate(image, direction, 0)[1] for direction in DIRECTIONS]
    x = style_transfer.runtime.to_tensor(image)
    for net, picture in zip(nets, pictures, strict=True):
        expected = net(x)[0].permute(1, 2, 0).numpy()
        assert np.abs(pixels(picture) / 127.5 - 1 - expected).mean() < 0.02
    assert pair.cycle(image, size=0).recipe.revision == fake.COMMIT
    assert code(pair.eye, image) == "no_discriminator"
    kept = sorted(hub.converted().iterdir())
    assert [file.suffix for file in kept] == [".safetensors"] * 2

    asked = len(server.requests)
    fake.forget(monkeypatch, hub.converted().parent)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)  # the second time nothing is unpickled
        assert same(pipelines.load("test").translate(image, size=0)[1], pictures[0])
    assert len(server.requests) == asked


def test_one_published_direction(serve, nets):
    serve(written(nets[0].state_dict()))
    assert pipelines.load("test").directions == ("AtoB",)


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("old", [False, True])
def test_published_weights_that_are_amiss(serve, nets, capsys, old):
    good = nets[0].state_dict()
    for expected, content in {
        "weights_broken": written(good, old)[:3000],
        "weights_pickle": pickle.dumps({"model.1.weight": Code()}, protocol=2),
        "weights_mismatch": written({k: v for k, v in good.items() if k != "model.4.bias"}, old),
    }.items():
        serve(content)
        assert code(pipelines.load, "test") == expected
    for state in ({}, {0: torch.zeros(1)}, {"model.1.weight": 3}, [good], torch.zeros(3)):
        serve(written(state, old))
        assert code(pipelines.load, "test") in ("weights_mismatch", "weights_pickle"), state
    serve(written(good | {"model.1.bias": torch.full((4,), torch.nan)}, old))
    assert code(pipelines.load, "test") == "weights_broken"
    assert "never run" not in capsys.readouterr().out and not hub.converted().exists()


def test_a_wrong_checksum_and_a_cut_download(serve, nets, tmp_path):
    contents = [written(net.state_dict()) for net in nets]
    serve(*contents, sha256={1: "0" * 64})
    assert code(pipelines.load, "test") == "hash_mismatch"
    assert not hub.converted().exists()
    server = serve(*contents)
    server.fault = "cut off"
    assert code(pipelines.load, "test") == "cut_off"
    server.fault = "not found"
    assert code(pipelines.load, "test") in ("gone", "unauthorised", "hub_failed")
    server.fault = ""
    assert pipelines.load("test")


def test_checksums_that_nobody_knows(serve, nets, monkeypatch):
    contents = [written(net.state_dict()) for net in nets]
    a, b = (hashlib.sha256(content).hexdigest() for content in contents)
    server = serve(*contents, sha256={0: registry.ASK, 1: registry.ASK})
    for value in ("", a, "0" * 63 + "," + b, f"{a},{b},{b}"):
        monkeypatch.setenv("TRUGBILD_SHA256_TEST", value)
        assert code(pipelines.load, "test") == "checksums_unknown"
    problem = pipelines.status(registry.get("test"))
    assert "TRUGBILD_SHA256_TEST" in str(problem) and "there_pretrained, back_pretrained" in str(problem)
    assert server.requests == []
    monkeypatch.setenv("TRUGBILD_SHA256_TEST", f"{b},{a}")
    assert code(pipelines.load, "test") == "hash_mismatch"
    monkeypatch.setenv("TRUGBILD_SHA256_TEST", f" {a.upper()}, {b} ")
    assert pipelines.load("test")

    serve(*contents, sha256={1: registry.ASK})
    monkeypatch.setattr(pipelines, "_loaded", {})
    assert code(pipelines.load, "test") == "checksum_unknown"
    monkeypatch.setenv("TRUGBILD_SHA256_TEST", b)
    assert pipelines.load("test")


def test_the_registry_knows_the_published_nets():
    models = {model.id: model for model in registry.MODELS if model.source == "davidpiscasio/unpaired-img2img"}
    assert list(models) == ["horse2zebra", "apple2orange", "monet", "vangogh"]
    assert {len(model.files) for model in models.values()} == {1, 2}
    assert list(models["apple2orange"].files.values())[1] == registry.ASK
    assert "checkpoints/style_monet_pretrained/latest_net_G.pth" in models["monet"].files
    for model in models.values():
        assert model.card_url == "https://huggingface.co/spaces/davidpiscasio/unpaired-img2img"
