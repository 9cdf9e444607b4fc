"""The rooms of the house and what may stand in them (README, "The tree")."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines import registry

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "apps": {"torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "training", "tests"},
    "pipelines": {"gradio", "accelerate", "datasets", "peft", "apps", "training", "tests"},
    "training": {"gradio", "apps", "tests"},
}
PICKLES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".npy", ".npz", ".joblib"}
MB = 2**20


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if (ROOT / name).is_file()]


def imports(code: str) -> set[str]:
    """The packages that Python code imports, at any depth, `import_module` of a fixed name included."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, level=0):
                found.add(module)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
    return {name.split(".")[0] for name in found}


def test_imports_are_seen():
    code = (
        "def f():\n import torch.nn\n from gradio.themes import Base\n importlib.import_module('peft')\nfrom . import x"
    )
    assert imports(code) == {"torch", "gradio", "peft"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): imports(file.read_text("utf-8")) & FORBIDDEN[room] for file in files}
    assert not {name: names for name, names in wrong.items() if names}


def test_the_page_needs_no_torch():
    code = """
import sys
import pipelines
from apps import shell
shell.page(pipelines.load)
print(sorted({"torch", "diffusers", "transformers", "accelerate", "datasets"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_stem_is_the_same_in_every_room():
    from apps import shell

    tabs = {file.stem for file in (ROOT / "apps").glob("*.py") if "\ndef build(" in file.read_text("utf-8")}
    assert tabs == set(shell.TABS)
    assert [tab for tab in registry.TABS if tab in tabs] == list(shell.TABS)
    for tab in tabs:
        for name in (f"pipelines/{tab}.py", f"training/{tab}.py", f"tests/test_{tab}.py"):
            assert (ROOT / name).is_file(), name


def test_no_pickles():
    for file in tracked():
        assert file.suffix not in PICKLES, file
        with file.open("rb") as stream:
            start = stream.read(2)
        assert not (start[:1] == b"\x80" and start[1:] in (b"\2", b"\3", b"\4", b"\5")), file
        if zipfile.is_zipfile(file):
            assert not any(name.endswith(".pkl") for name in zipfile.ZipFile(file).namelist()), file


def test_the_repository_is_small():
    assert sum(file.stat().st_size for file in tracked()) < 200 * MB
