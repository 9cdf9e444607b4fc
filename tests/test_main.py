"""Starting and ending the app: from any folder, with one sentence where that cannot be."""

import json
import signal
import socket
import tempfile
import urllib.request
import uuid
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from apps import main
from tests.served import ROOT, free_port, served, start

PLACES = [Path("/dev/shm"), Path(tempfile.gettempdir())]


def refused(*args: str, cwd: Path) -> str:
    """What main.py says when it refuses: one line on stderr, exit 2, nothing else."""
    process = start(ROOT / "apps" / "main.py", "--no-browser", *args, cwd=cwd)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert error.startswith("trugbild: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_port_taken(taken, tmp_path):
    assert str(taken) in refused("--port", str(taken), cwd=tmp_path)


@pytest.mark.parametrize(
    "args, said",
    [
        (["--port", "0"], "Port 0 does not exist"),
        (["--port", "70000"], "Port 70000 does not exist"),
        (["--host", "nowhere.invalid"], "nowhere.invalid"),
        (["--tabs", "vae_playground,cooking"], "no tab cooking"),
        (["--lang", "fr"], "no language fr"),
        (["--model", "nowhere"], "no readable folder called nowhere"),
        (["--model", str(ROOT / "tests")], "tests holds no model"),
    ],
)
def test_wrong_arguments(args, said, tmp_path):
    if args[0] not in ("--port", "--host"):
        args = [*args, "--port", str(free_port())]
    error = refused(*args, cwd=tmp_path)
    assert said in error
    assert str(ROOT) not in error


def test_pickles_are_no_model(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "mine" in refused("--port", str(free_port()), "--model", str(folder), cwd=tmp_path)


@pytest.mark.parametrize("script", ["main.py", "vae_playground.py"])
def test_serves_and_leaves_nothing(script, tmp_path):
    photo = tmp_path / f"{uuid.uuid4()}.png"
    Image.new("RGB", (64, 64), "green").save(photo)

    def kept() -> list[Path]:
        return [file for place in PLACES for file in place.glob(f"*/**/{photo.name}") if tmp_path not in file.parents]

    with served(script=f"apps/{script}", cwd=tmp_path) as (url, process):
        assert "trugbild/shell.js" in urllib.request.urlopen(url).read().decode()
        assert json.load(urllib.request.urlopen(f"{url}/health"))["status"] == "ok"
        client = Client(url, verbose=False)
        with pytest.raises(AppError, match="nowhere"):  # but the picture has been sent
            client.predict(picture=handle_file(photo), model="nowhere", api_name="/autoencode_photo")
        (folder,) = {file.relative_to(place).parts[0] for place in PLACES for file in kept() if place in file.parents}
        assert folder.startswith("trugbild-")
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith(f"Trugbild: {url}")
    assert "Traceback" not in error
    assert not kept()


def test_on_a_space(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert main.arguments([]).host == "127.0.0.1"
    assert not main.arguments([]).no_browser
    monkeypatch.setenv("SPACE_ID", "someone/trugbild")
    assert main.arguments([]).host == "0.0.0.0"
    assert main.arguments([]).no_browser
