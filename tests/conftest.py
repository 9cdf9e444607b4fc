"""What several test files share: the page, the app in this process and its clients, the app as people start it."""

import base64
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest
from served import free_port
from visiting import LANGUAGES, browser, en, shots, visit

ROOT = Path(__file__).resolve().parents[1]
# gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="trugbild-test-")
__all__ = ["LANGUAGES", "browser", "en", "shots", "visit"]  # fixtures are found by their name
PHOTO = "local/tiny-photo"  # an autoencoder that knows nothing, but has the right layers


def pytest_unconfigure():
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def forget_precision():
    """accelerate keeps the precision of the first training that a process starts."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """A folder as diffusers writes it: the layout of TAESD, a few thousand random numbers."""
    import torch
    from diffusers import AutoencoderTiny

    folder = tmp_path_factory.mktemp("models") / "tiny-photo"
    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    numbers = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    AutoencoderTiny(**blocks, **numbers).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def page():
    """The whole page, not launched. `page.load` is what its tabs compute with and may be replaced by a stand-in."""
    from apps import shell

    page = SimpleNamespace(load=None, tabs={})
    with pytest.MonkeyPatch.context() as patch:
        for name in shell.TABS:
            module = importlib.import_module(f"apps.{name}")

            def build(load, name=name, build=module.build):
                page.tabs[name] = build(load)
                return page.tabs[name]

            patch.setattr(module, "build", build)
        page.demo = shell.page(lambda *args: page.load(*args))
    page.header = next(block for block in page.demo.blocks.values() if isinstance(block, shell.Header))
    return page


@pytest.fixture(scope="session")
def app(page, photo_folder):
    """The page, launched in this process; models come from `pipelines.load` unless a test replaces `app.load`."""
    import pipelines
    from apps import shell

    page.load = pipelines.load
    # Whoever registers models of their own forgets them afterwards; this one stays as long as the app.
    assert pipelines.register_folder(photo_folder).id == PHOTO
    _, page.url, _ = shell.launch(
        page.demo, server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True
    )
    page.url = page.url.rstrip("/")
    yield page
    page.demo.close(verbose=False)


@pytest.fixture(scope="session")
def clients(app, tmp_path_factory):
    """{"de": a gradio client that reads German, "en": ...}."""
    from gradio_client import Client

    folder = tmp_path_factory.mktemp("downloads")
    clients = {
        lang: Client(app.url, headers={"Accept-Language": lang}, download_files=folder, verbose=False)
        for lang in LANGUAGES
    }
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="session")
def site(photo_folder, tmp_path_factory):
    """The app as people start it, in a process of its own: its `url` and what it has logged so far, `log()`."""
    port, file = free_port(), tmp_path_factory.mktemp("site") / "log"
    command = [ROOT / "apps" / "main.py", "--no-browser", "--port", str(port), "--model", photo_folder]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(file.parent)}
    with file.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True, cwd=file.parent, env=environment
        )
    line = process.stdout.readline()  # printed when the page can be opened; empty when the process has ended
    try:
        assert f"http://127.0.0.1:{port}" in line, file.read_text()
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", log=file.read_text)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@pytest.fixture
def ask(app):
    """Calls an endpoint without gradio's client, which refuses some of what anybody can send."""
    import httpx

    def ask(api_name: str, *values, lang: str = "en") -> tuple[str, object]:
        """-> ("complete", [pictures, numbers]) or ("error", the sentence)."""
        url, headers = f"{app.url}/gradio_api/call/{api_name}", {"Accept-Language": lang}
        body = json.dumps({"data": values})  # NaN and Infinity included
        with httpx.Client(timeout=120, headers={**headers, "Content-Type": "application/json"}) as http:
            answer = http.post(url, content=body)
            assert answer.status_code == 200, answer.text
            lines = http.get(f"{url}/{answer.json()['event_id']}").text.strip().splitlines()
        event, data = (lines[i].partition(": ")[2] for i in (-2, -1))
        data = json.loads(data)
        return event, data if event == "complete" else (data or {}).get("error")

    return ask


@contextmanager
def models_apart():
    """Models that are registered and loaded meanwhile are forgotten afterwards."""
    import pipelines
    from pipelines import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_own", {})
        patch.setattr(pipelines, "_loaded", {})
        patch.setattr(pipelines, "_memory", {})
        yield


def opened(app, file, stem: str) -> dict:
    """A saved picture put into the page's header -> values of all inputs of its tab."""
    data = "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()
    answer = app.header.open_picture({"data": data})
    assert "problem" not in answer, answer
    values, problems = app.tabs[stem].read(dict(parse_qsl(answer["query"].removeprefix("?"), keep_blank_values=True)))
    assert problems == []
    return values


def repeat(app, client, task: str, file, stem: str) -> list:
    """Runs a task again with what the recipe of a saved picture puts into the inputs -> its files."""
    values = opened(app, file, stem)
    named = {param.component._id: values[param.name] for param in app.tabs[stem].params}
    event = next(fn for fn in app.demo.fns.values() if fn.api_name == task)
    return client.predict(*(named.get(block._id) for block in event.inputs), api_name=f"/{task}")[0]
