"""Every bundled checkpoint: what must be in its folder, and that its card says what training.json says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import pipelines.models.vae
from apps.i18n import LANGUAGES, texts
from pipelines import recipe, registry

CHECKPOINTS = Path(__file__).resolve().parents[1] / "pipelines" / "checkpoints"
FOLDERS = sorted(path for path in CHECKPOINTS.iterdir() if path.is_dir())
LATENT = [path for path in FOLDERS if json.loads((path / "training.json").read_text())["kind"] == "latent"]
SAFE = {".json", ".safetensors", ".md", ".png", ".txt", ".webp"}


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


@pytest.mark.parametrize("id", ["emoji-sd", "emoji-flux"])
def test_the_texts_say_how_times_are_drawn(id):
    shift = int(training(CHECKPOINTS / id)["config"]["shift"])
    for lang in LANGUAGES:
        assert rf"$t \mapsto {shift}t / (1 + {shift - 1}t)$" in texts(lang)["text.how.more"]


@pytest.mark.parametrize("id", ["emoji-sd", "emoji-flux"])
def test_previews_look_like_the_pictures(id):
    pipeline = pipelines.load(id)
    made = pipeline.trace("frog with melon hat", seed=8, steps=4)
    small, large = (np.asarray(draw(made.latent), np.float32) for draw in (pipeline.preview, pipeline.decode))
    assert pipeline.tiny and 0 < np.abs(small - large).mean() < 16, "of 255"
    assert registry.revision(registry.get(id)) == recipe.read(CHECKPOINTS / id / "first.png").revision


NO_MORE = """
import importlib.metadata as m, re, sys
from packaging.requirements import Requirement

names, found = [re.split("==", line)[0] for line in open("requirements.txt") if line[:1].isalpha()], set()
while names:
    name = re.sub("[-_.]+", "-", names.pop()).lower()
    if name not in found:
        found.add(name)
        try:
            needs = [Requirement(need) for need in m.requires(name) or []]
        except m.PackageNotFoundError:
            continue
        names += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
kept = lambda of: any(re.sub("[-_.]+", "-", name).lower() in found for name in of)
strangers = {module for module, of in m.packages_distributions().items() if not kept(of)}
assert {"pytest", "datasets"} <= strangers and "peft" not in strangers

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in strangers:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import pipelines
from pipelines.text_given import Given, Lora
pipelines.load("emoji-sd").draw("a pizza", steps=1, given=Given(loras=(Lora("emoji-sd-pizza"),)))
print("drawn")
"""


def test_a_lora_needs_no_more_than_the_app():
    done = subprocess.run([sys.executable, "-c", NO_MORE], cwd=CHECKPOINTS.parents[1], capture_output=True, text=True)
    assert done.stdout == "drawn\n", done.stderr[-2000:]
