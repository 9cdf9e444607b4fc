"""training/style_transfer.py: two steps on pictures of noise give a pair; a run that stops goes on bit for bit."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

import pipelines
from pipelines import style_space
from pipelines.models.cyclegan import Discriminator, Generator
from training import bundle_style, common, style_transfer
from training.style_transfer import TWICE, crops, even, exchange, load_domain, matching, rate, recolour, tone_loss


def write_parquet(path, count, seed, **columns):
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path.with_suffix(".png"))
        row = {"image": {"bytes": path.with_suffix(".png").read_bytes(), "path": None}}
        rows.append(row | {name: values[i] for name, values in columns.items()})
    path.with_suffix(".png").unlink()
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    write_parquet(folder / "a.parquet", 9, 0, year=[*range(1900, 1908), None], group=["x", "y", "z"] * 3, one=["x"] * 9)
    write_parquet(folder / "b.parquet", 6, 1)
    (folder / "more.txt").write_text("Zoë\n", "utf-8")
    (folder / "more").mkdir()
    for i in range(4):
        Image.new("RGB", (50, 60), (20 * i, 90, 0)).save(folder / "more" / f"{i}.png")
    return folder


def configure(data, out, *flags):
    tiny = "--a a.parquet --b b.parquet,more --size 32 --load-size 36 --ngf 4 --ndf 4 --blocks 1 --steps 2 --cpu"
    argv = ["--data", data, "--out", out, *tiny.split(), *flags]
    return common.parse(style_transfer.Config, list(map(str, argv)))


def train(data, out, *flags):
    AcceleratorState._reset_state(True)
    style_transfer.main(configure(data, out, *flags))


def weights(out):
    return {way: load_file(out / way / "diffusion_pytorch_model.safetensors") for way in ("AtoB", "BtoA")}


# ------------------------------------------------------------------------------------------------------------- runs


def test_train_save_load_run(data, tmp_path):
    out = tmp_path / "tiny"
    train(data, out, "--pair", "monet", "--colour-a", 0.2, "--zoom", 1.1, "--batch-size", 2, "--tones", 5)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    parameters = 0
    for way in ("AtoB", "BtoA"):
        generator = Generator.from_pretrained(out / way, torch_dtype=torch.float32)
        judge = Discriminator.from_pretrained(out / way / "discriminator", torch_dtype=torch.float32)
        y = generator(x)
        assert y.shape == x.shape and y.abs().max() <= 1
        assert judge(y).shape[1] == 1
        parameters += generator.num_parameters() + judge.num_parameters()
        assert {tensor.dtype for tensor in weights(out)[way].values()} == {torch.float16}
        assert not (out / way / "training.json").exists()
    facts, card = json.loads((out / "training.json").read_text()), (out / "README.md").read_text()
    assert (facts["id"], facts["tab"], facts["kind"]) == ("style-tiny", "style_transfer", "cyclegan")
    assert facts["title"] == "CycleGAN: photograph ↔ painting by Monet"
    assert (facts["figures"]["pictures seen"], facts["parameters"]) == (4, parameters)
    assert all(0 < facts["figures"][f"cycle_error_{way}"] < 2 for way in ("AtoB", "BtoA"))
    for words in ("great care and calibration", "pipeline_tag: image-to-image", "| steps | 2 |", 'load("style-tiny")'):
        assert words in card
    assert str(data) not in card + json.dumps(facts)
    sheet = Image.open(out / "state" / "cycles-0000002.png")
    assert sheet.size == (8 * 32, 6 * 32)


def test_what_comes_with_the_app(data, tmp_path):
    train(data, tmp_path / "run")
    photo, out = tmp_path / "stairs.png", tmp_path / "style-run"
    Image.fromarray(np.arange(0, 48 * 40 * 3, 1).reshape(40, 48, 3).astype(np.uint8)).save(photo)
    bundle_style.bundle(tmp_path / "run", out, photo, [data / "more.txt", data / "more.txt"], degrid=True)
    assert all(json.loads((out / way / "config.json").read_text())["degrid"] for way in ("AtoB", "BtoA"))
    assert (out / "CREDITS.txt").read_text("utf-8") == "Zoë\n\nZoë\n"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    weights = {f"{way}{judge}/config.json" for way in ("AtoB", "BtoA") for judge in ("", "/discriminator")}
    weights |= {name.replace("config.json", "diffusion_pytorch_model.safetensors") for name in weights}
    assert names == weights | {"training.json", "README.md", "CREDITS.txt", "first.png", "sheet.webp"}
    with Image.open(out / "sheet.webp") as sheet:
        assert sheet.size == (5 * 160, 6 * 160)
    assert "![](sheet.webp)" in (out / "README.md").read_text("utf-8")
    picture, recipe = style_space.first(out)
    assert recipe.settings.pop("sample") == "stairs" and not recipe.settings.pop("face")
    _, again, _ = pipelines.load(out).translate(Image.open(photo), **recipe.settings)
    assert again.tobytes() == picture.tobytes()


def test_a_stopped_run_goes_on_bit_for_bit(data, tmp_path, monkeypatch):
    """Also what is in the pools, which are full and exchange pictures by then."""
    flags = ("--steps", 6, "--pool", 2, "--colour-a", 0.2, "--identity-every", 2, "--save-every", 1)
    train(data, tmp_path / "whole", *flags)

    class Killed(Exception):
        pass

    def kill(run, every):
        if run.step == 4 and every == 1000:
            raise Killed
        return False

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(common.Run, "due", kill)
        train(data, tmp_path / "parts", *flags)
    train(data, tmp_path / "parts", *flags, "--resume")
    whole, parts = (common.read_state(tmp_path / out / "state" / "state.safetensors") for out in ("whole", "parts"))
    tensors = [{}, {}]
    for state, found in zip((whole, parts), tensors, strict=True):
        common.pack(state["tracked"], "", found)
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    assert whole["tracked"]["pool_a"]["filled"] == 2 and tensors[0]["/pool_a/pictures"].std() > 0.01
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[way][key], second[way][key]) for way in first for key in first[way])


def test_goes_on_from_a_finished_pair(data, tmp_path):
    """All four nets begin as those of the pair; at a rate of 0 they stay, but for what `even` finds in fp16."""
    first, more = tmp_path / "first", tmp_path / "more"
    train(data, first)
    train(data, more, "--from", first, "--lr", 0, "--seed", 1)
    files = list(first.glob("?to?/**/*.safetensors"))
    assert len(files) == 4
    for file in files:
        begun = load_file(more / file.relative_to(first))
        assert all(torch.allclose(value, begun[key], atol=1e-3) for key, value in load_file(file).items()), file
    facts = json.loads((more / "training.json").read_text())
    assert (facts["figures"]["pictures seen"], facts["config"]["from_"]) == (4, "first"), "and no path"
    with pytest.raises(common.TrainingError, match="of these sizes"):
        train(data, tmp_path / "x", "--from", first, "--ngf", 8)


def test_upsampling_leaves_no_grid():
    generator = Generator(8, 1, up=4)
    layer, plain = generator.decoder[0], torch.nn.Conv2d(32, 16, 3, padding=1, bias=False)
    layer.bias.data.zero_()
    x = torch.randn(1, 32, 8, 8)
    twice = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    before = layer.weight.clone()
    even(generator)
    # solved for the kernel of 3 x 3 that does the same behind a plain doubling: there is one
    with torch.no_grad():
        kernel = torch.einsum("yv,xu,abvu->bayx", *[torch.linalg.pinv(TWICE)] * 2, layer.weight)
        plain.weight.copy_(kernel.flip(2, 3))
        torch.testing.assert_close(layer(x), plain(twice), atol=1e-5, rtol=0)
    moved = (layer.weight - before).abs().mean()
    assert 0 < moved < before.abs().mean(), "no further than it has to"
    again = layer.weight.clone()
    even(generator)
    assert torch.allclose(layer.weight, again, atol=1e-6)
    papers = Generator(8, 1)
    before = papers.decoder[0].weight.clone()
    even(papers)
    assert torch.equal(papers.decoder[0].weight, before), "which has no such kernels"


def test_tones_may_not_move_but_strokes_may():
    x = torch.rand(1, 3, 64, 64) - 0.5
    strokes = 0.4 * (-1.0) ** torch.arange(64).view(1, 1, 1, 64)
    assert tone_loss(x + strokes, x) < 1e-6 < 0.39 < tone_loss(x + 0.4, x)


def test_seed_and_ema(data, tmp_path):
    train(data, tmp_path / "a", "--ema", 0)
    train(data, tmp_path / "b", "--ema", 0, "--seed", 1)
    a, b = weights(tmp_path / "a")["AtoB"], weights(tmp_path / "b")["AtoB"]
    assert not any(torch.equal(a[key], b[key]) for key in a)
    live = common.read_state(tmp_path / "a" / "state" / "state.safetensors")["tracked"]["g_ab"]
    assert all(torch.equal(a[key], live[key].half()) for key in a)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--size", 30), "size"),
        (("--size", 40), "load-size"),
        (("--zoom", 0.5), "zoom"),
        (("--held-out", 1), "held-out"),
        (("--where-a", "year~1900"), "condition"),
        (("--where-a", "colour=red"), "no column"),
        (("--where-a", "year<1900"), "cannot be divided"),
        (("--a", "nothing"), "does not exist"),
    ],
)
def test_one_sentence_for_what_a_person_can_mend(data, tmp_path, flags, word):
    with pytest.raises(common.TrainingError, match=word):
        train(data, tmp_path / "tiny", *flags)


# ------------------------------------------------------------------------------------------------------------ parts


def test_losses():
    assert style_transfer.gan_loss(torch.full((2, 1, 3, 3), 0.25), 1) == 0.75**2
    assert style_transfer.cycle_loss(torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)) == 2
    assert [rate(step, 10, 0.5) for step in (0, 5, 6, 9)] == pytest.approx([1, 1, 0.8, 0.2])
    assert rate(9, 10, 1.0) == 1


def test_pool_shows_half_old_pictures():
    pool = {"pictures": torch.zeros(50, 3, 2, 2), "filled": 0}
    generator = torch.Generator().manual_seed(0)
    shown = [exchange(pool, torch.full((1, 3, 2, 2), float(i)), generator)[0, 0, 0, 0].item() for i in range(1050)]
    assert shown[:50] == list(range(50)) and pool["filled"] == 50
    old = [i - value for i, value in enumerate(shown) if value < i]
    assert 430 < len(old) < 570
    assert len(set(shown[50:])) == 1000  # what has been shown again is gone from the pool
    assert 50 < np.mean(old) < 150
    empty = {"pictures": torch.zeros(0, 3, 2, 2), "filled": 0}
    assert torch.equal(exchange(empty, torch.ones(2, 3, 2, 2), generator), torch.ones(2, 3, 2, 2))


def test_rows_that_count(data):
    images = common.load_images(data / "a.parquet", 36, fit="crop")
    assert matching(images, "") == list(range(9))
    assert matching(images, "year<1903") == [0, 1, 2]
    assert matching(images, "year>=1903; group!=x") == [4, 5, 7]
    assert matching(images, "group = y") == [1, 4, 7]


def test_held_out_share(data, tmp_path):
    train_b, test_b = load_domain(configure(data, tmp_path, "--held-out", 0.3), "b")
    assert (len(train_b), len(test_b)) == (7, 3)
    again = load_domain(configure(data, tmp_path, "--held-out", 0.3, "--seed", 5), "b")[1]
    assert torch.equal(test_b, again)
    grouped = configure(data, tmp_path, "--held-out", 0.3, "--group-a", "group")
    with pytest.raises(common.TrainingError, match="a.parquet: one tells no two pictures apart"):
        load_domain(configure(data, tmp_path, "--group-a", "one"), "a")
    everything = load_domain(configure(data, tmp_path), "a")
    pictures = common.load_images(data / "a.parquet", 36, fit="crop").pixels
    test_a = load_domain(grouped, "a")[1]
    assert len(everything[0]) == 8 and len(test_a) == 3
    where = [i for i in range(9) if any(torch.equal(pictures[i], x) for x in test_a)]
    assert len({i % 3 for i in where}) == 1  # all of one group
    grey = load_domain(configure(data, tmp_path, "--grey-b"), "b")[0]
    assert torch.equal(grey[:, 0], grey[:, 2]) and grey.shape[1] == 3


def test_crops_and_colours(data, tmp_path):
    pixels = torch.arange(36, dtype=torch.uint8).expand(64, 3, 36, 36) * 7
    x = crops(pixels, configure(data, tmp_path), torch.Generator().manual_seed(0))
    assert x.shape == (64, 3, 32, 32) and x.abs().max() <= 1
    rising = (x[:, 0, 0].diff() > 0).all(1)
    assert 16 < rising.sum() < 48  # the others are mirrored
    steps = crops(pixels, configure(data, tmp_path, "--zoom", 2, "--no-mirror"), torch.Generator().manual_seed(0))
    slopes = steps[:, 0, 16, 8:24].diff().mean(1) * 127.5 / 7
    assert slopes.min() == pytest.approx(0.5, abs=0.06) and slopes.max() == pytest.approx(36 / 32, abs=0.03)
    assert recolour(x, 0.0, torch.Generator()) is x
    y = recolour(x, 0.3, torch.Generator().manual_seed(0))
    assert not torch.allclose(x, y, atol=0.05) and y.abs().max() <= 1
    assert (recolour(0 * x, 0.3, torch.Generator().manual_seed(0)).mean((1, 2, 3)).abs() <= 0.3).all()
