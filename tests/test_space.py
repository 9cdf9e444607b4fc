"""What a Hugging Face Space is told: space.yaml, and nowhere else."""

import re

import gradio
import pytest
import yaml

import readme
from pipelines import registry
from readme import ROOT

METADATA = yaml.safe_load((ROOT / "space.yaml").read_text("utf-8"))
# https://huggingface.co/docs/hub/spaces-config-reference
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def pins(name: str = "requirements.txt") -> dict[str, str]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith(("#", "-r ")))


def test_readme_says_the_same():
    assert (ROOT / "README.md").read_text("utf-8") == readme.readme(), "make readme"


def test_front_matter():
    front = (ROOT / "README.md").read_text("utf-8").split("---\n")[1]
    assert yaml.safe_load(front) == METADATA
    assert readme.readme().split("\n---\n", 1)[1].startswith("# ")


def test_fields():
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file"} < set(
        METADATA
    )
    assert METADATA["sdk"] == "gradio"
    assert {METADATA["colorFrom"], METADATA["colorTo"]} <= COLOURS
    assert len(METADATA["short_description"]) <= 60
    assert (ROOT / METADATA["app_file"]).is_file()
    assert METADATA["suggested_hardware"] == "cpu-basic"
    assert re.fullmatch(r"3\.1[1-9]", METADATA["python_version"])


def test_versions():
    assert METADATA["sdk_version"] == pins()["gradio"] == gradio.__version__


def test_licence():
    licence = (ROOT / "LICENSE").read_text("utf-8").split()
    assert METADATA["license"] == "apache-2.0"
    assert " ".join(licence[:4]) == "Apache License Version 2.0,"


def test_models():
    on_hub = list(
        dict.fromkeys(model.source for model in registry.MODELS if model.repo_type == "model" and not model.path)
    )
    assert METADATA["models"] == on_hub


@pytest.mark.parametrize("name", ["requirements.txt", "training/requirements.txt", "tests/requirements.txt"])
def test_everything_is_pinned(name):
    assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in pins(name).values())
