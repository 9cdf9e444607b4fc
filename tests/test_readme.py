"""README.md: its examples run, its tree is the repository's, its links lead somewhere."""

import re
import subprocess

import pytest
from PIL import Image

from pipelines import registry
from tests.conftest import PHOTO, ROOT

README = (ROOT / "README.md").read_text("utf-8")
ENDPOINTS = (
    "person", "walk", "mix", "face_arithmetic", "edit", "verdict", "project", "learnt",
    "translate", "styles", "cycle", "discriminator_map",
    "text_to_image", "xy_grid", "compare", "change", "control", "diffusion_steps", "attention", "noise_picture",
    "paths",
    "decode", "reconstruct", "interpolate", "sample", "arithmetic", "autoencode_photo",
)  # fmt: skip


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def tree() -> list[str]:
    """The paths in the block below "## The tree"; two spaces of indentation are a folder."""
    paths, folders = [], {0: ""}
    for line in blocks("")[-1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        paths.append(folders[depth] + name)
        folders[depth + 1] = folders[depth] + name
    return paths


def test_tree():
    paths = tree()
    assert len(paths) == len(set(paths))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [name for name in files if (ROOT / name).exists()]
    code = {name for name in files if name.endswith(".py") and (ROOT / name).stat().st_size}
    at_the_top = {name for name in files if "/" not in name}
    assert (code | at_the_top) - set(paths) == set()


def test_links_and_pictures():
    names = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
    for picture in (ROOT / "docs" / "screenshots").iterdir():
        assert picture.relative_to(ROOT).as_posix() in names
        assert picture.stat().st_size < 150_000


def test_every_endpoint_is_shown(clients):
    named = clients["en"].view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(named) == sorted(f"/{name}" for name in ENDPOINTS)
    for name in ENDPOINTS:
        (row,) = re.findall(rf"^\| `/{name}` \| (.*?) \|", README, re.MULTILINE)
        parameters = [parameter["parameter_name"] for parameter in named[f"/{name}"]["parameters"]]
        assert re.findall(r"`(\w+)`", row) == parameters
        assert any(f'api_name="/{name}"' in block for block in blocks("python"))


def test_the_api_names_every_model(clients):
    named = clients["en"].view_api(return_format="dict", print_info=False)["named_endpoints"]
    for tab, name in {"faces": "person", "style_transfer": "translate", "text_to_image": "text_to_image"}.items():
        (model,) = (item for item in named[f"/{name}"]["parameters"] if item["parameter_name"] == "model")
        assert all(repr(entry.id) in model["python_type"]["type"] for entry in registry.models(tab))


@pytest.mark.filterwarnings("ignore")
def test_examples(app, tmp_path, monkeypatch, capsys):
    """All python blocks, one after the other. There is no hub here: a tiny model stands in for taesd."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200), "teal").save("photo.jpg")
    code = "\n".join(blocks("python")).replace("http://127.0.0.1:7860", app.url).replace('"taesd"', f'"{PHOTO}"')
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "dB" in capsys.readouterr().out
    for key in ("animation", "strip", "samples", "total", "photo", "rebuilt", "sheet", "nearest", "after"):
        value = names[key][0] if isinstance(names[key], list) else names[key]
        Image.open(value).verify()
    assert 0 < names["numbers"]["latent_bytes"] < names["numbers"]["bytes"]


def test_the_pins_are_those_of_the_text():
    pins = (ROOT / "requirements.txt").read_text("utf-8").split()
    assert set(re.findall(r"torch==[\d.]+", README)) <= set(pins)
