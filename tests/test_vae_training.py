"""training/vae_playground.py from upstream files to a card with figures, on forty pictures of noise."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from pipelines.models.vae import DenseVAE
from training import common, evaluate, vae_playground
from training.prepare import vae_playground as prepare

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (n, 28, 28), np.uint8) for name, n in {"train": 40, "t10k": 20}.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory, pixels):
    """A folder like MNIST's."""
    folder = tmp_path_factory.mktemp("digits")
    for split, array in pixels.items():
        labels = np.arange(len(array), dtype=np.uint8) % 10
        for kind, content in {"images-idx3": array, "labels-idx1": labels}.items():
            (folder / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(prepare.write_idx(content)))
    return folder


def train(data, out, *flags):
    AcceleratorState._reset_state(True)
    argv = ["--data", data, "--out", out, "--steps", "2", "--batch-size", "8", "--hidden", "16", "8", "--cpu", *flags]
    vae_playground.main(common.parse(vae_playground.Config, list(map(str, argv))))


@pytest.mark.parametrize(
    ("flags", "d", "variational"),
    [((), 2, True), (("--no-variational",), 2, False), (("--latent-dim", "5", "--precision", "bf16"), 5, True)],
    ids=["vae", "ae", "5d"],
)
def test_train_save_load_run(data, tmp_path, flags, d, variational):
    train(data, tmp_path / "tiny", *flags)
    facts = json.loads((tmp_path / "tiny" / "training.json").read_text())
    assert (facts["tab"], facts["kind"], facts["config"]["latent_dim"]) == ("vae_playground", "latent", d)
    assert ("test_negative_elbo_nats" in facts["figures"]) == variational
    assert (facts["data"]["train"], facts["data"]["test"]) == (40, 20)
    assert f"{facts['figures']['test_reconstruction_nats']}" in (tmp_path / "tiny" / "README.md").read_text()

    model = DenseVAE.from_pretrained(tmp_path / "tiny").float()
    x = common.load_images(data, size=28, channels=1, split="test").batch(torch.arange(20))
    mean, logvar = model.encode(x)
    assert mean.shape == (20, d)
    assert (logvar is not None) == variational
    back = model.decode(mean)
    assert back.shape == x.shape
    assert back.abs().max() <= 1
    codes = load_file(tmp_path / "tiny" / "codes.safetensors")
    assert codes["codes"].float() == pytest.approx(mean.detach(), abs=1e-2)
    assert codes["labels"].tolist() == [*range(10), *range(10)]
    assert (tmp_path / "tiny" / "plane.png").exists() == (d == 2)
    log = (tmp_path / "tiny" / "state" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1]).keys() == {"step", "loss", "reconstruction", "kl", "seconds"}


def test_same_seed_same_model(data, tmp_path):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(data, tmp_path / out, "--seed", seed)
    a, b, c = (load_file(tmp_path / out / "diffusion_pytorch_model.safetensors") for out in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_finished_run_writes_its_folder_again(data, tmp_path):
    train(data, tmp_path / "a")
    before = (tmp_path / "a" / "diffusion_pytorch_model.safetensors").read_bytes()
    (tmp_path / "a" / "diffusion_pytorch_model.safetensors").unlink()
    train(data, tmp_path / "a", "--resume")
    assert (tmp_path / "a" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_accelerate_launch_from_another_folder(data, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    script = [ROOT / "training" / "vae_playground.py", "--data", data, "--out", "run", "--steps", "1", "--dry-run"]
    done = subprocess.run([*command, *script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "1,083,444 parameters" in done.stderr
    assert not list(tmp_path.iterdir())


# ---- losses


def test_kl_is_that_of_torch():
    mean, logvar = torch.randn(2, 7, 3)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).sum(1)
    assert torch.allclose(vae_playground.kl_loss(mean, logvar), expected, atol=1e-5)


def test_reconstruction_is_the_mean_over_binarisations():
    generator = torch.Generator().manual_seed(0)
    logits, x = torch.randn(1, 1, 2, 2, generator=generator), torch.rand(1, 1, 2, 2, generator=generator) * 2 - 1
    binary = torch.bernoulli(((x + 1) / 2).expand(200_000, 1, 2, 2), generator=generator)
    drawn = -torch.distributions.Bernoulli(logits=logits).log_prob(binary).flatten(1).sum(1)
    assert vae_playground.reconstruction_loss(logits, x).item() == pytest.approx(drawn.mean().item(), abs=0.01)


def test_beta_weighs_the_kl_term():
    x, logits, mean, logvar = torch.zeros(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.randn(4, 3), torch.randn(4, 3)
    loss, reconstruction, kl = vae_playground.vae_loss(logits, x, mean, logvar, beta=4.0)
    assert loss == reconstruction + 4 * kl
    assert kl > 0
    loss, reconstruction, kl = vae_playground.vae_loss(logits, x, mean, None, beta=4.0)
    assert (loss, kl) == (reconstruction, 0)


def test_plane_runs_from_top_left_to_bottom_right():
    class Where:
        device = "cpu"

        def decode(self, z):
            return (z[:, 0] + 10 * z[:, 1]).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28) / 33

    sheet = np.asarray(vae_playground.plane(Where(), radius=3.0, grid=3))[14::28, 14::28].astype(float)
    x, y = np.array([-3, 0, 3]), np.array([3, 0, -3])
    assert sheet == pytest.approx(((x + 10 * y[:, None]) / 33 + 1) * 127.5, abs=1)


# ---- figures


def test_evaluate_writes_figures_into_both_files(data, tmp_path, capsys):
    train(data, tmp_path / "tiny")
    argv = ["vae_playground", str(tmp_path / "tiny"), "--data", str(data), "--samples", "50", "--classifier-steps", "2"]
    evaluate.main(argv)
    facts = json.loads((tmp_path / "tiny" / "training.json").read_text())
    card, printed = (tmp_path / "tiny" / "README.md").read_text(), capsys.readouterr().out
    assert facts["figures"]["samples_drawn"] == 50
    assert facts["figures_hardware"] in printed
    for name, value in facts["figures"].items():
        assert f"| {name} | {value} |" in card
        assert str(value) in printed
    with pytest.raises(common.TrainingError, match="nothing holds no finished model."):
        evaluate.main(["vae_playground", str(tmp_path / "nothing"), "--data", str(data)])


def test_classifier_learns():
    labels = torch.arange(200) % 2
    pixels = torch.zeros(200, 1, 28, 28, dtype=torch.uint8)
    pixels[labels == 1, :, 5:20, 12:16] = 255
    data = common.Images(pixels, {"label": labels.tolist()})
    assert evaluate.accuracy(evaluate.train_classifier(data, steps=20), data.batch, labels) == 1


# ---- from upstream


@pytest.fixture
def sums(data):
    return {f.stem: hashlib.md5(gzip.decompress(f.read_bytes())).hexdigest() for f in data.iterdir()}


def unpacked(folder):
    return {file.name: gzip.decompress(file.read_bytes()) for file in folder.iterdir()}


def test_prepare_from_an_address_and_from_a_folder(data, sums, tmp_path):
    for source in (data.as_uri(), str(data)):
        prepare.prepare(source, tmp_path / "out", sums)
        assert unpacked(tmp_path / "out") == unpacked(data)


def test_prepare_from_pictures(data, pixels, sums, tmp_path):
    for split, array in pixels.items():
        for i, picture in enumerate(array):
            file = tmp_path / "png" / {"train": "train", "t10k": "test"}[split] / str(i % 10) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    prepare.prepare(str(tmp_path / "png"), tmp_path / "out", sums)
    assert unpacked(tmp_path / "out") == unpacked(data)
    file.write_bytes(b"nonsense")
    with pytest.raises(common.TrainingError, match="19.png is not a whole picture."):
        prepare.prepare(str(tmp_path / "png"), tmp_path / "again", sums)
    assert not (tmp_path / "again").exists()


def test_prepare_refuses_what_is_not_the_original(data, sums, tmp_path):
    with pytest.raises(common.TrainingError, match="it is not the original file"):
        prepare.prepare(str(data), tmp_path / "out", sums | {"t10k-labels-idx1-ubyte": "0" * 32})
    with pytest.raises(common.TrainingError, match="could not be read"):
        prepare.prepare(tmp_path.as_uri(), tmp_path / "out", sums)
    with pytest.raises(common.TrainingError, match="neither a folder nor an address"):
        prepare.prepare(str(tmp_path / "nothing"), tmp_path / "out", sums)
    assert not (tmp_path / "out").exists()
