"""training/evaluate_faces.py on sets whose distance is known, and the subcommand on tiny nets and noise."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Picture

from pipelines.models.stylegan2 import Generator
from training import common, evaluate
from training import evaluate_faces as faces
from training.faces import describe

CHANNELS = (4, 4, 4)  # 16 px


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(n, size=32, seed=0):
    """n pictures (N, 3, S, S) bytes, each another few blobs, as different as faces are."""
    coarse = torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    x = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return (128 + 50 * x).clamp(0, 255).byte()


# --------------------------------------------------------------------------------------------------- distributions


def test_frechet_of_gaussians():
    a, shift, stretch = normal(200, 3), torch.tensor([3.0, 0, -4]), torch.tensor([2.0, 1, 5])
    assert faces.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert faces.frechet(a, a + shift) == pytest.approx(25)
    a = a - a.mean(0)
    white = a @ torch.linalg.cholesky(torch.linalg.inv(a.T.cov()))
    assert faces.frechet(white, white * stretch) == pytest.approx((stretch - 1).square().sum().item())
    b = normal(300, 3, seed=1) @ normal(3, 3, seed=2)
    product = np.linalg.eigvals((a.T.cov() @ b.T.cov()).numpy())
    whole = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace()
    assert faces.frechet(a, b) == pytest.approx(whole.item() - 2 * np.sqrt(product.real).sum())
    assert faces.frechet(b, a) == pytest.approx(faces.frechet(a, b))


def test_precision_and_recall():
    a, b = normal(100, 4), normal(100, 4, seed=1)
    assert faces.covered(a, a) == 1
    assert faces.covered(a, a + 1000) == 0
    assert 0.6 < faces.covered(a, b) <= 1
    narrow = 0.01 * b  # all of it among the points, but next to nothing of them
    assert faces.covered(narrow, a) == 1
    assert faces.covered(a, narrow) < 0.1
    line = torch.tensor([[0.0], [1], [2], [3], [10]])
    radii = torch.tensor([3.0, 2, 2, 3, 9])  # to the third neighbour
    for query in (-3.1, -2.9, 1.5, 6.1, 18.9, 19.1):
        expected = ((line.squeeze() - query).abs() <= radii).any()
        assert faces.covered(torch.tensor([[query]]), line) == expected


def test_space_is_white_and_blind_to_nothing_that_matters():
    real = smooth(200)
    space = faces.Space(real)
    x = space(real)
    assert x.shape == (200, faces.AXES)
    assert torch.allclose(x.T.cov(), torch.eye(faces.AXES) / faces.AXES, atol=1e-4)
    assert torch.allclose(x.mean(0), torch.zeros(faces.AXES), atol=1e-3)

    def against(pixels):
        return faces.compare(space, pixels, real)

    same = against(real)
    assert (same["frechet"], same["precision"], same["recall"]) == (pytest.approx(0, abs=1e-6), 1, 1)
    others = smooth(200, seed=1)
    noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(0))
    worse = [
        others,
        faces.blurred(others.float().flatten(0, 1)[:, None], 2).view(others.shape).byte(),
        (others + 60 * noise).clamp(0, 255).byte(),
        others[:10].repeat(20, 1, 1, 1),  # collapsed
    ]
    assert against(others)["frechet"] == pytest.approx(same["frechet_real"], rel=0.2)
    found = [against(pixels) for pixels in worse]
    assert all(found[0]["frechet"] < other["frechet"] for other in found[1:])
    assert all(found[0]["recall"] > other["recall"] for other in found[1:])


# ---------------------------------------------------------------------------------------------------------- copies


def test_copies_are_found():
    real, others = smooth(60, size=64), smooth(60, size=64, seed=1)
    own, rows = torch.arange(60), torch.arange(5)
    between, _ = faces.nearest(real, real, own)
    assert between.min() > 0.3
    bound = between.quantile(0.01)
    copies = real[:5].float()
    noise = 8 * torch.randn(copies.shape, generator=torch.Generator().manual_seed(0))
    for changed in (copies, copies + noise, 0.7 * copies + 40, copies.mean(1, keepdim=True).expand(-1, 3, -1, -1)):
        for mirror in (False, True):
            pixels = changed.clamp(0, 255).byte()
            away, which = faces.nearest(pixels.flip(3) if mirror else pixels, real)
            assert (away < bound).all()
            assert torch.equal(which, rows + 60 * mirror)
    assert faces.nearest(real, real)[0].max() < 0.01
    assert (faces.nearest(others, real)[0] > bound).double().mean() > 0.9


def test_sheet_shows_the_nearest_pairs():
    pairs = [
        (float(i), torch.full((3, 8, 8), 10 * i).byte(), torch.full((3, 8, 8), 200).byte()) for i in range(20, 0, -1)
    ]
    shown = np.asarray(faces.sheet(pairs))
    assert shown.shape == (4 * 16, 4 * 32, 3)
    assert shown[8::16, 8::32, 0].ravel() == pytest.approx(range(10, 170, 10))
    assert (shown[8::16, 24::32] == 200).all()


# ----------------------------------------------------------------------------------------------------- face finder


def test_nothing_is_no_face():
    assert faces.one_face(torch.full((2, 3, 16, 16), 128).byte()) == 0


# --------------------------------------------------------------------------------------------------- subcommand


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of 24 pictures."""
    folder = tmp_path_factory.mktemp("faces")
    for i in range(2):
        pictures = [Picture.fromarray(x.permute(1, 2, 0).numpy()) for x in smooth(24, 16, seed=i)]
        rows = Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
        rows.to_parquet(folder / f"{i}.parquet")
    return folder


def save(folder, sources, classes, size=CHANNELS):
    torch.manual_seed(0)
    net = Generator(size, z_dim=4, w_dim=4, mapping_layers=1, classes=classes)
    net.measure_mean(100)
    net.save_pretrained(folder)
    config = type("Config", (), {"out": str(folder)})
    facts = describe(config, net, {"pictures seen": 7})
    known = {"config": {"grey": [1] if classes else []}, "parameters": 1, "training_seconds": 1, "hardware": "none"}
    common.write_card(folder, facts | known | {"git_commit": "none"})
    return ["faces", str(folder), "--data", ",".join(str(source) for source in sources)]


def test_figures_are_written_into_both_files(data, tmp_path, capsys):
    argv = save(tmp_path / "tiny", [data / "0.parquet", data / "1.parquet"], 2)
    evaluate.main([*argv, "--samples", "8", "--sheet", str(tmp_path / "pairs.png")])
    facts = json.loads((tmp_path / "tiny" / "training.json").read_text())
    figures, card = facts["figures"], (tmp_path / "tiny" / "README.md").read_text()
    assert (figures["pictures seen"], figures["colour_samples"], figures["historic_real_pictures"]) == (7, 8, 24)
    for name in ("recall", "historic_recall", "colour_frechet_real", "historic_nearest_p1_real"):
        assert 0 <= figures[name] < 2
        assert f"| {name} | {figures[name]} |" in card
    assert figures["recall"] == min(figures["colour_recall"], figures["historic_recall"])
    assert facts["figures_hardware"] in card
    assert faces.NOTE in card
    assert "historic_nearest_p50 " in capsys.readouterr().out
    assert Picture.open(tmp_path / "pairs.png").size == (4 * 64, 4 * 32)


def test_net_without_classes(data, tmp_path):
    argv = save(tmp_path / "plain", [data / "0.parquet"], 0)
    evaluate.main([*argv, "--samples", "8"])
    assert "domain_1_recall" in json.loads((tmp_path / "plain" / "training.json").read_text())["figures"]


def test_refused(data, tmp_path):
    argv = save(tmp_path / "tiny", [data / "0.parquet"], 2)
    with pytest.raises(common.TrainingError, match="tiny has 2 domains, --data 1."):
        evaluate.main(argv)
    with pytest.raises(common.TrainingError, match="at least 8"):
        evaluate.main([*argv[:-1], f"{data / '0.parquet'},{data / '1.parquet'}", "--samples", "7"])
    with pytest.raises(common.TrainingError, match="outside the repository"):
        evaluate.main([*argv, "--sheet", "pairs.png"])
    with pytest.raises(common.TrainingError, match="give one folder"):
        evaluate.main([*argv[:2], *argv[1:], "--sheet", str(tmp_path / "pairs.png")])


def test_same_people_at_every_psi_and_in_every_batch(tmp_path):
    save(tmp_path / "tiny", [], 2)
    net = Generator.from_pretrained(tmp_path / "tiny")
    assert torch.equal(faces.draw(net, 1, 9, 0.7), faces.draw(net, 1, 9, 0.7))
    assert faces.draw(net, 1, 9, 0.7).shape == (9, 3, 16, 16)
    assert not torch.equal(faces.draw(net, 1, 9, 0.7), faces.draw(net, 0, 9, 0.7))
