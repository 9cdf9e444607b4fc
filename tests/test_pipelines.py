"""load(), the registry and the hub: real tiny models, a hub on this machine, no network."""

import ast
import dataclasses
import errno
import gc
import hashlib
import json
import pickle
import re
import string
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path

import pytest

import pipelines
from pipelines import Problem, problems, registry
from pipelines import hub as hub_files
from tests import hub as fake

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """name -> files of a tiny model with random weights, as diffusers writes them."""
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    torch.manual_seed(0)
    blocks = ["DownEncoderBlock2D"] * 2
    built = {
        "kl": AutoencoderKL(
            down_block_types=blocks,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
        ),
        "tiny": AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
    }
    files = {}
    for name, model in built.items():
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        files[name] = {file.name: file.read_bytes() for file in folder.iterdir()}
    return files


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A hub with the tiny models as Models test-kl and test-tiny of a tab of their own; caches are empty."""
    tab = types.ModuleType("pipelines.stand_in")

    def from_model(model, folder):
        from pipelines.photo_autoencoders import PhotoAutoencoderPipeline

        return PhotoAutoencoderPipeline.from_model(model, folder)

    tab.from_model = from_model
    monkeypatch.setitem(sys.modules, "pipelines.stand_in", tab)
    models = tuple(
        registry.Model(
            f"test-{name}",
            "stand_in",
            "photo",
            f"someone/{name}",
            *registry.MIT,
            revision=fake.COMMIT,
            files={"config.json": None, registry.WEIGHTS: hashlib.sha256(files[registry.WEIGHTS]).hexdigest()},
        )
        for name, files in tiny.items()
    )
    monkeypatch.setattr(registry, "MODELS", models)
    monkeypatch.setattr(registry, "TABS", (*registry.TABS, "stand_in"))
    with fake.serve({f"someone/{name}": dict(files) for name, files in tiny.items()}) as server:
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRUGBILD_MEMORY_MB", "http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield server


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    """Nothing loaded, nothing registered, nothing known of the network."""
    for table in (pipelines._loaded, pipelines._memory, registry._own):
        monkeypatch.setattr(pipelines if table is not registry._own else registry, _name(table), type(table)())
    monkeypatch.setattr(hub_files, "_reachable", None)
    # huggingface_hub pauses between its retries.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


def _name(table):
    return next(name for module in (pipelines, registry) for name, value in vars(module).items() if value is table)


def code(function, *arguments, **more) -> str:
    """The code of the Problem that a call raises; its sentence must be one that a person can read."""
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    sentence = str(caught.value)
    assert sentence.endswith(".") and not re.search(
        r"\n|\\\\|/(tmp|home|root|etc|work|usr)|Error|Traceback", sentence
    ), sentence
    return caught.value.code


def test_import_is_light():
    script = """
import sys, pipelines, pipelines.registry
for model in pipelines.registry.models():
    pipelines.status(model)
print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert "pipelines.hub" in loaded.split()
    script = "import sys, pipelines.recipe, pipelines.pictures; print(*sys.modules)"  # the app needs these, too
    light = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "diffusers", "numpy"} & set(light.split())
    assert not {"torch", "numpy", "diffusers", "huggingface_hub", "PIL", "safetensors"} & set(loaded.split())


def test_every_entry_is_whole():
    ids = [model.id for model in registry.MODELS]
    assert len(set(ids)) == len(ids)
    for model in registry.MODELS:
        assert model.tab in registry.TABS and model.licence and model.licence_url.startswith("https://")
        assert model.memory_mb > 0 and 2000 < model.year < 2100
        if model.source == "bundled":
            assert model.path.parent == registry.CHECKPOINTS
        else:
            assert re.fullmatch(r"[0-9a-f]{40}", model.revision or "0" * 40)
            for name, sha256 in model.files.items():
                assert name.endswith((".json", ".safetensors", ".pt", ".pth"))
                assert name.endswith(".json") or re.fullmatch(r"[0-9a-f]{64}", sha256) or sha256 == registry.ASK


def test_a_version_that_is_not_known_is_asked_for(monkeypatch):
    model = registry.get("sd35-large-depth")
    assert model.revision is None and pipelines.hub.folder(model) is None
    with pytest.raises(Problem, match="TRUGBILD_REVISION_SD35_LARGE_DEPTH.*controlnet-depth shows"):
        pipelines.hub.fetch(model)
    assert pipelines.hub.status(model).code == "revision_unknown"
    monkeypatch.setenv("TRUGBILD_REVISION_SD35_LARGE_DEPTH", " " + "A" * 40)
    assert registry.pinned(model).revision == registry.revision(model) == "a" * 40
    assert pipelines.hub.status(model).code in ("gated", "offline", "offline_mode")
    monkeypatch.setenv("TRUGBILD_REVISION_SD35_LARGE_DEPTH", "main")
    with pytest.raises(Problem, match="No version"):
        registry.pinned(model)


def test_problems_travel_between_processes():
    problem = pickle.loads(pickle.dumps(Problem("out_of_range", name="psi", value=float("nan"), low=0, high=1)))
    assert (problem.code, str(problem)) == ("out_of_range", "psi is nan; it must lie between 0 and 1.")


def test_every_problem_is_raised_with_the_fields_of_its_sentence():
    fields = {
        code: {name for _, name, _, _ in string.Formatter().parse(sentence) if name}
        for code, sentence in problems.SENTENCES.items()
    }
    sources = [file.read_text("utf-8") for room in ("pipelines", "apps") for file in (REPO / room).rglob("*.py")]
    for source in sources:
        for call in ast.walk(ast.parse(source)):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Problem" and call.args:
                codes = {
                    node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)
                } & fields.keys()
                for code in codes:
                    assert {keyword.arg for keyword in call.keywords} == fields[code], ast.unparse(call)
    every = "".join(sources)
    assert [code for code in fields if every.count(f'"{code}"') < 2] == []  # one is the sentence itself


def test_what_people_type_is_shortened_in_sentences():
    sentence = str(Problem("unknown_model", model="x\n\x00<b>" * 10000))
    assert len(sentence) < 150 and "\n" not in sentence
    assert "10^" in str(Problem("not_a_number", name="seed", value=10**10000))
    names = [f"model-of-the-hub-{i}" for i in range(9)]
    assert f"{names[0]}, {names[1]}, {names[2]}, …" in str(
        Problem("unknown_choice", name="model", value=1, choices=", ".join(names))
    ), "a list ends with a whole name"


def test_downloads_once_then_works_offline(hub, monkeypatch):
    model = pipelines.get("test-kl")
    assert pipelines.status(model) is None
    pipeline = pipelines.load("test-kl")
    assert pipelines.load("test-kl") is pipeline
    asked = len(hub.requests)
    pipelines._loaded.clear()
    pipelines._memory.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = pipelines.load("test-kl")
    assert again is not pipeline and len(hub.requests) == asked
    assert pipelines.status(model) is None


def test_both_classes_of_diffusers_rebuild_a_photo(hub):
    from PIL import Image

    for id in ("test-kl", "test-tiny"):
        result = pipelines.load(id)(Image.new("RGB", (70, 50), "red"))
        assert result.reconstruction.size == (70, 50) and result.recipe.model == id


@pytest.mark.parametrize(
    ("fault", "expected"),
    {
        "gated": "gated",
        "forbidden": "gated",
        "unauthorised": "unauthorised",
        "not found": "gone",
        "vanished": "gone",
        "failing": "hub_failed",
        "cut off": "cut_off",
        "tampered": "hash_mismatch",
    }.items(),
)
def test_what_the_hub_can_do_wrong(hub, fault, expected, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.fault = fault
    assert code(pipelines.load, "test-tiny") == expected
    hub.fault = ""
    assert pipelines.load("test-tiny")  # and the app goes on


def test_a_file_that_is_gone(hub):
    del hub.repos["someone/tiny"][registry.WEIGHTS]
    assert code(pipelines.load, "test-tiny") == "gone"


def test_no_network(hub, monkeypatch):
    model = pipelines.get("test-tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    assert code(pipelines.load, "test-tiny") == "offline"
    assert pipelines.status(model).code == "offline"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code(pipelines.load, "test-tiny") == pipelines.status(model).code == "offline_mode"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert pipelines.load("test-tiny") and pipelines.status(model) is None


def test_gated_models_show_it_before_anyone_tries(hub, monkeypatch):
    model = dataclasses.replace(pipelines.get("test-tiny"), gate=True)
    problem = pipelines.status(model)
    assert problem.code == "gated" and problem.values["url"] == "https://huggingface.co/someone/tiny"
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert pipelines.status(model) is None


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "cache_locked"), (errno.EIO, "cut_off")]
)
def test_disks_that_fail(hub, monkeypatch, number, expected):
    def fail(*_, **__):
        raise OSError(number, "a message with /a/path")

    monkeypatch.setattr("huggingface_hub.file_download._download_to_tmp_and_move", fail)
    assert code(pipelines.load, "test-tiny") == expected


def test_an_endpoint_that_is_none(hub, monkeypatch):
    for url in ("nonsense", "http://", "http://[", "http://127.0.0.1:99999"):
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert code(pipelines.load, "test-tiny") == "offline"


def test_two_threads_load_once(hub):
    hub.go.clear()
    results = []
    threads = [threading.Thread(target=lambda: results.append(pipelines.load("test-kl"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    hub.go.set()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len(set(map(id, results))) == 1
    assert sum(request.startswith("GET /someone/kl/resolve") for request in hub.requests) == 2  # two files


def test_loading_one_does_not_block_another(hub):
    """While a slow download is held up, a model that is here can be loaded."""
    pipelines.load("test-tiny")
    hub.go.clear()
    thread = threading.Thread(target=pipelines.load, args=("test-kl",))
    thread.start()
    assert pipelines.load("test-tiny")
    assert thread.is_alive()
    hub.go.set()
    thread.join()


def test_least_recently_used_goes_first(hub, monkeypatch):
    monkeypatch.setenv("TRUGBILD_MEMORY_MB", "250")  # two models of 100
    third = dataclasses.replace(registry.MODELS[0], id="test-third")
    monkeypatch.setattr(registry, "MODELS", (*registry.MODELS, third))
    kl, tiny = pipelines.load("test-kl"), pipelines.load("test-tiny")
    gone = weakref.ref(tiny)
    del tiny
    assert pipelines.load("test-kl") is kl  # so that test-tiny is the older one
    pipelines.load("test-third")
    gc.collect()
    assert list(pipelines._loaded) == ["test-kl", "test-third"] and gone() is None
    pipelines.load("test-tiny")
    assert "test-kl" not in pipelines._loaded and kl.vae is not None  # who still uses it can go on
    assert sum(pipelines._memory.values()) == 200


def test_too_little_memory(hub, monkeypatch):
    monkeypatch.setenv("TRUGBILD_MEMORY_MB", "50")
    assert code(pipelines.load, "test-kl") == pipelines.status(pipelines.get("test-kl")).code == "memory"
    for value in ("many", "-1", "0", "1e99", "9" * 5000):
        monkeypatch.setenv("TRUGBILD_MEMORY_MB", value)
        assert code(pipelines.budget_mb) == "memory_setting"
    monkeypatch.delenv("TRUGBILD_MEMORY_MB")
    assert pipelines.budget_mb() > 500


def test_memory_that_runs_out_while_loading(hub, monkeypatch):
    def fails(model, folder):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(sys.modules["pipelines.stand_in"], "from_model", fails)
    assert code(pipelines.load, "test-kl") == "memory"
    assert not pipelines._memory


def test_unknown_models():
    assert code(pipelines.load, "no-such-model") == "unknown_model"
    assert code(pipelines.load, "no/such/folder") == "unknown_model"
    assert code(pipelines.get, "") == "unknown_model"


@pytest.fixture
def run(tiny, tmp_path):
    """A folder as training leaves it."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    for name, content in tiny["tiny"].items():
        (folder / name).write_bytes(content)
    (folder / "training.json").write_text(json.dumps({"tab": "stand_in", "kind": "photo", "defaults": {"size": 64}}))
    return folder


def test_folders_of_ones_own(hub, run):
    model = pipelines.register_folder(run)
    assert (model.id, model.tab, model.kind, model.defaults) == ("local/mine", "stand_in", "photo", {"size": 64})
    assert pipelines.register_folder(run) == model == pipelines.get("local/mine") and model in registry.models(
        "stand_in"
    )
    pipeline = pipelines.load(run)
    assert pipelines.load("local/mine") is pipeline
    weights = run / registry.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))  # trained on
    assert pipelines.load("local/mine") is not pipeline


def test_two_folders_of_one_name(hub, run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = run.rename(tmp_path / "elsewhere" / "mine")
    pipelines.register_folder(other)
    run.mkdir()
    for file in other.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    assert [pipelines.register_folder(run).id, pipelines.register_folder(other).id] == ["local/mine-2", "local/mine"]


def test_a_folder_of_diffusers(hub, run):
    (run / "training.json").unlink()
    model = pipelines.register_folder(run)
    assert (model.tab, model.kind) == ("vae_playground", "photo")


def test_finished_runs_appear(hub, run, caplog):
    (run.parent / "still-training").mkdir()
    broken = run.parent / "broken"
    broken.mkdir()
    (broken / "training.json").write_text("{")
    assert [model.id for model in pipelines.discover(run.parent)] == ["local/mine"]
    assert "broken is left out" in caplog.text
    assert pipelines.discover(run.parent / "nowhere") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{" * 100_000,
        json.dumps({"tab": "../../etc", "kind": "photo"}),
        json.dumps({"tab": ["stand_in"], "kind": "photo"}),
        json.dumps({"tab": "os", "kind": "photo"}),
        json.dumps({"tab": "stand_in", "kind": 3}),
        json.dumps({"tab": "stand_in", "kind": "photo", "defaults": "x"}),
        json.dumps({"tab": "stand_in", "kind": "photo", "x": "y" * 2**20}),
    ],
)
def test_broken_training_json(hub, run, text):
    (run / "training.json").write_text(text)
    assert code(pipelines.register_folder, run) == "folder_broken"


def test_folders_that_hold_no_model(hub, run, tmp_path):
    assert code(pipelines.register_folder, tmp_path / "nowhere") == "folder_missing"
    assert code(pipelines.register_folder, run / "training.json") == "folder_missing"
    assert code(pipelines.register_folder, tmp_path) == "folder_unknown"
    (run / registry.WEIGHTS).rename(run / "diffusion_pytorch_model.bin")
    assert code(pipelines.register_folder, run) == "folder_pickle"


def test_damaged_weights(hub, run):
    pipelines.register_folder(run)
    weights = run / registry.WEIGHTS
    whole = weights.read_bytes()
    for content in (b"", b"\xff" * 100, whole[:-100], whole[:100]):
        weights.write_bytes(content)
        assert code(pipelines.load, "local/mine") == "model_broken"
    weights.unlink()
    assert code(pipelines.load, "local/mine") == "model_files_missing"
    assert pipelines.status(pipelines.get("local/mine")).code == "model_files_missing"


def test_weights_of_another_model(hub, run):
    from safetensors.torch import load_file, save_file

    pipelines.register_folder(run)
    tensors = load_file(run / registry.WEIGHTS)
    first = next(iter(tensors))
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, run / registry.WEIGHTS)
    assert code(pipelines.load, "local/mine") == "weights_mismatch"
    save_file(tensors | {"surplus": tensors[first].clone()}, run / registry.WEIGHTS)
    assert code(pipelines.load, "local/mine") == "weights_mismatch"


# ---- the machine


def test_a_gpu_is_found_without_torch(tmp_path, monkeypatch):
    """A driver's own program says so; here one that knows a card with the number 1."""
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = --id=1 ] && echo 24564\n')
    program.chmod(0o755)

    def found(version: str = "2.13.0", **environment: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr("importlib.metadata.version", lambda _: version)
            for name, value in environment.items():
                patch.setenv(name, value)
            pipelines.gpu_mb.cache_clear()
            return pipelines.gpu_mb()

    monkeypatch.setenv("PATH", str(tmp_path))
    assert found(CUDA_VISIBLE_DEVICES="1,0") == 24564
    assert found(CUDA_VISIBLE_DEVICES="") == found(CUDA_VISIBLE_DEVICES="7") == 0
    assert found("2.13.0+cpu", CUDA_VISIBLE_DEVICES="1") == 0, "which a torch without CUDA cannot use"
    assert found(PATH="/nowhere", CUDA_VISIBLE_DEVICES="1") == 0
    pipelines.gpu_mb.cache_clear()
