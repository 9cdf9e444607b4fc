"""Every bundled checkpoint: what must be in its folder, and that its card says what training.json says."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import pipelines.models.vae
from pipelines import recipe, registry

CHECKPOINTS = Path(__file__).resolve().parents[1] / "pipelines" / "checkpoints"
FOLDERS = sorted(path for path in CHECKPOINTS.iterdir() if path.is_dir())
LATENT = [path for path in FOLDERS if json.loads((path / "training.json").read_text())["kind"] == "latent"]
SAFE = {".json", ".safetensors", ".md", ".png", ".txt"}


def training(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def name(folder):
    return folder.name


def test_registry_and_folders_are_the_same():
    to_pick = {folder.name for folder in FOLDERS if training(folder)["kind"] not in registry.HELPERS}
    assert {model.id for model in registry.MODELS if model.source == "bundled"} == to_pick


def test_all_together_are_small():
    assert sum(file.stat().st_size for file in CHECKPOINTS.rglob("*") if file.is_file()) < 190e6


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_files(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"README.md", "training.json"} <= {file.name for file in files}
    assert any(file.suffix == ".safetensors" for file in files)
    assert {file.suffix for file in files} <= SAFE  # no pickle, no state for resuming
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                types = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
            assert types <= {"F16", "U8", "I64"}, file.name


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_training_json(folder):
    facts = training(folder)
    assert facts["id"] == folder.name
    assert facts["tab"] in registry.TABS
    assert facts["figures"]
    assert all(isinstance(value, int | float) for value in facts["figures"].values())
    assert re.fullmatch("[0-9a-f]{40}", facts["git_commit"])
    assert facts["hardware"]
    assert {"python", "torch", "accelerate"} <= facts["versions"].keys()
    assert {"name", "url", "licence", "attribution"} <= facts["data"].keys()
    if facts["kind"] not in registry.HELPERS:
        model = registry.get(folder.name)
        assert (model.tab, model.kind) == (facts["tab"], facts["kind"])


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_card_says_what_training_json_says(folder):
    facts, card = training(folder), (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == facts["licence"].lower().replace(" ", "-")
    if facts["kind"] not in registry.HELPERS:
        assert facts["licence"] == registry.get(folder.name).licence
    assert {"library_name", "pipeline_tag", "tags"} <= front.keys()
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", body, re.MULTILINE))
    assert {key: rows[key] for key in facts["figures"]} == {key: str(value) for key, value in facts["figures"].items()}
    assert {key: rows[key] for key in facts["config"]} == {key: str(value) for key, value in facts["config"].items()}
    for words in ("name", "url", "licence", "attribution"):
        assert facts["data"][words] in body
    assert facts["hardware"] in body
    assert facts.get("figures_note", "") in body
    assert f"{facts['parameters']:,} parameters" in body
    assert str(CHECKPOINTS) not in card


@pytest.mark.parametrize("folder", LATENT, ids=name)
def test_latent_model(folder):
    facts = training(folder)
    cls = getattr(pipelines.models.vae, json.loads((folder / "config.json").read_text())["_class_name"])
    model, report = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())  # strict: nothing missing, nothing left over
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    model = model.float().eval()

    latents = load_file(folder / "codes.safetensors")
    codes, labels, means = (latents[key] for key in ("codes", "labels", "class_means"))
    d = model.config.latent_dim
    assert (codes.dtype, labels.dtype) == (torch.float16, torch.uint8)
    assert codes.shape == (len(labels), d)
    assert means.shape == (10, d)
    assert means[3].float() == pytest.approx(codes[labels == 3].float().mean(0), abs=0.02)
    assert ((codes > latents["lower"]) & (codes < latents["upper"])).float().mean() > 0.97

    with torch.no_grad():
        pictures = model.decode(means.float())
    assert pictures.shape == (10, 1, 28, 28)
    assert -1 <= pictures.min() < -0.9
    assert 0 < pictures.max() <= 1
    assert (folder / "plane.png").exists() == (d == 2)
    if d == 2:
        radius, side = facts["plane"]["radius"], facts["plane"]["grid"]
        assert side % 2 == 1
        with Image.open(folder / "plane.png") as plane:
            assert (plane.mode, plane.size) == ("L", (28 * side, 28 * side))
            tiles = {"left": (0, side // 2), "top": (side // 2, 0), "middle": (side // 2, side // 2)}
            for where, z in {"left": (-radius, 0), "top": (0, radius), "middle": (0, 0)}.items():
                column, row = tiles[where]
                tile = plane.crop((28 * column, 28 * row, 28 * column + 28, 28 * row + 28))
                with torch.no_grad():
                    x = model.decode(torch.tensor([z], dtype=torch.float32))
                expected = ((x + 1) * 127.5).flatten().tolist()
                assert list(tile.get_flattened_data()) == pytest.approx(expected, abs=1.5), where


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if (folder / "first.png").is_file()], ids=name)
def test_the_first_picture_names_its_model(folder):
    assert recipe.read(folder / "first.png").model == training(folder).get("base", folder.name)
