"""training/common.py: a run that is killed, stopped, starved or fed rubbish; always real processes, always tiny."""

import dataclasses
import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open

from training import common

ROOT = Path(__file__).resolve().parents[1]

# A GAN in miniature, so that two nets, two optimizers, an EMA and a plain number have to survive. AT and
# WHAT play accidents at a step: a signal to itself, a poisoned loss or gradient, a full disk.
SCRIPT = """
import json, os, resource, signal, sys, traceback
from dataclasses import dataclass
sys.path.insert(0, {root!r})
import torch, torch._dynamo  # the first optimizer would import the latter, in every fork
from torch import nn
from training import common

@dataclass(kw_only=True)
class Config(common.Config):
    steps: int = common.option(12, "updates")
    batch_size: int = common.option(4, "pictures")

def accident(what):
    if what == WHAT:
        os.kill(os.getpid(), signal.SIGTERM if "term" in what else signal.SIGKILL)

def main(config):
    run = common.Run(config)
    data = common.load_images(config.data, size=8, channels=1)
    g = nn.Linear(2, 64)
    # batch statistics and dropout are a process's own business, so the comparison of one and two goes without
    middle = [nn.SiLU()] if WHAT == "shared" else [nn.BatchNorm1d(8), nn.Dropout(0.5)]
    d = nn.Sequential(nn.Linear(64, 8), *middle, nn.Linear(8, 1))
    g_optimizer, d_optimizer = torch.optim.Adam(g.parameters(), lr=config.lr), torch.optim.AdamW(d.parameters())
    ema, scalars = common.EMA(g, 0.9), dict(p=0.0)
    run.track(g=g, d=d, g_optimizer=g_optimizer, d_optimizer=d_optimizer, ema=ema, scalars=scalars)
    for step in run.steps():
        if step == AT:
            accident("kill before"), accident("term")
            if WHAT == "kill saving":
                common.save_file = lambda tensors, path, header: (path.write_bytes(b"half"), accident("kill saving"))
            if WHAT == "kill renaming":
                os.fsync = lambda file: accident("kill renaming")
            if WHAT == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        x = data.batch(run.indices(len(data))).flatten(1)
        with run.autocast():
            fake = g(run.noise((2,)))
            d_loss = (d(fake.detach()) - d(x)).float().tanh().mean()
            d_norm = run.update(d_loss * (float("nan") if (step, WHAT) == (AT, "nan") else 1), d_optimizer)
            g_loss = -d(fake).float().tanh().mean()
        if (step, WHAT) == (AT, "inf"):
            g_loss.register_hook(lambda grad: grad * float("inf"))
        run.update(g_loss, g_optimizer, max_norm=1.0)
        ema.update(g)
        scalars["p"] += 0.1 * d_norm
        run.log(d_loss=d_loss, g_loss=g_loss, p=scalars["p"])
        if step == AT:
            accident("kill after")

# Importing torch takes seconds, so one process imports and each run is a fork of it with its own argv and environment.
for line in sys.stdin:
    job, children = json.loads(line), []
    for rank in range(job["world"]):
        if child := os.fork():
            children.append(child)
            continue
        os.environ |= job["environment"] | {{"RANK": str(rank), "LOCAL_RANK": str(rank)}}
        AT, WHAT = job["at"], job["what"]
        os.dup2(os.open(job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        status = 1
        try:
            status = common.launch(main, Config, job["argv"]) or 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


@pytest.fixture(scope="module")
def execute(tmp_path_factory):
    """execute(out, *flags, at, what, world) runs the script to its end -> the worst exit status and stderr."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "pictures").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (10, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    (folder / "script.py").write_text(SCRIPT.format(root=str(ROOT)))
    words, environment = [sys.executable, folder / "script.py"], os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def execute(out, *flags, at=-1, what="", world=1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        argv = ["--data", folder / "pictures", "--out", out, "--cpu", *flags]
        job = {
            "argv": list(map(str, argv)),
            "at": at,
            "what": what,
            "world": world,
            "environment": {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)},
            "stderr": str(folder / "stderr"),
        }
        (folder / "stderr").write_text("")
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        return SimpleNamespace(returncode=max(codes, key=abs), stderr=(folder / "stderr").read_text())

    yield execute
    server.stdin.close()
    assert server.wait() == 0


def state(out):
    """Checkpoint -> its tensors, everything else in it but the clock."""
    with safe_open(out / "state" / "state.safetensors", "pt") as file:
        header = json.loads(file.metadata()["state"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content = common.unpack(header, tensors)
    for free in ("seconds", "config"):
        del content["run"][free]
    return content


def log(out):
    lines = [json.loads(line) for line in (out / "state" / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


OFTEN = ("--save-every", "3", "--log-every", "2")


@pytest.fixture(scope="module")
def whole(execute, tmp_path_factory):
    """A run without accident."""
    out = tmp_path_factory.mktemp("whole")
    done = execute(out, *OFTEN)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in log(out)] == [2, 4, 6, 8, 10, 12]
    assert "left" in done.stderr
    return out


@pytest.mark.parametrize(
    ("at", "what"), [(1, "kill before"), (4, "kill after"), (5, "kill saving"), (7, "kill renaming")]
)
def test_resume_after_kill_is_bit_for_bit(execute, whole, tmp_path, at, what):
    assert execute(tmp_path, *OFTEN, "--resume", at=at, what=what).returncode == -signal.SIGKILL
    assert execute(tmp_path, *OFTEN, "--resume").returncode == 0
    assert equal(state(tmp_path), state(whole))
    assert log(tmp_path) == log(whole)


def test_half_a_line_in_the_log(execute, whole, tmp_path):
    execute(tmp_path, *OFTEN, at=7, what="kill before")
    with (tmp_path / "state" / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "d_lo')
    assert execute(tmp_path, *OFTEN, "--resume").returncode == 0
    assert log(tmp_path) == log(whole)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["log.jsonl", "state.safetensors"]


def test_sigterm_saves_within_the_step(execute, whole, tmp_path):
    done = execute(tmp_path, *OFTEN, at=4, what="term")
    assert done.returncode == 0, done.stderr
    assert state(tmp_path)["run"]["step"] == 5
    assert execute(tmp_path, *OFTEN, "--resume").returncode == 0
    assert equal(state(tmp_path), state(whole))
    assert log(tmp_path) == log(whole)


@pytest.mark.parametrize(("what", "word"), [("nan", "loss"), ("inf", "gradient")])
def test_not_finite_stops_before_the_update(execute, tmp_path, what, word):
    done = execute(tmp_path, *OFTEN, at=5, what=what)
    assert done.returncode == 2
    assert f"Step 6: the {word} is" in done.stderr
    assert "Traceback" not in done.stderr
    saved = state(tmp_path)
    assert saved["run"]["step"] == 3
    assert all(value.isfinite().all() for value in saved["tracked"]["g"].values())


def test_full_disk_leaves_the_last_checkpoint(execute, whole, tmp_path):
    done = execute(tmp_path, *OFTEN, at=7, what="full")
    assert done.returncode == 2
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert state(tmp_path)["run"]["step"] == 6
    assert not (tmp_path / "state" / "state.tmp").exists()
    assert execute(tmp_path, *OFTEN, "--resume").returncode == 0
    assert equal(state(tmp_path), state(whole))


def test_full_disk_elsewhere(capsys):
    with pytest.raises(SystemExit) as caught, common.one_sentence():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.code == 2
    assert "the last checkpoint is whole" in capsys.readouterr().err
    with pytest.raises(OSError, match="unrelated"), common.one_sentence():
        raise OSError("unrelated")


def test_out_that_cannot_be_made(execute, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = execute(tmp_path / "file" / "out")
    assert done.returncode == 2
    assert "The folder out cannot be made" in done.stderr


def test_bf16_resumes_too(execute, tmp_path):
    flags = (*OFTEN, "--precision", "bf16", "--resume")
    execute(tmp_path / "a", *flags)
    execute(tmp_path / "b", *flags, at=8, what="kill after")
    execute(tmp_path / "b", *flags)
    assert equal(state(tmp_path / "a"), state(tmp_path / "b"))


def test_two_processes_have_the_losses_of_one(execute, tmp_path):
    for processes in (1, 2):
        done = execute(tmp_path / str(processes), *OFTEN, what="shared", world=processes)
        assert done.returncode == 0, done.stderr
    one, two = log(tmp_path / "1"), log(tmp_path / "2")
    assert [line["step"] for line in two] == [2, 4, 6, 8, 10, 12]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_batch_that_cannot_be_shared(execute, tmp_path):
    done = execute(tmp_path, "--batch-size", "3", world=2)
    assert "A batch of 3 cannot be shared by 2 processes." in done.stderr


def test_dry_run_writes_nothing(execute, tmp_path):
    done = execute(tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "steps would take" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_second_run_in_the_same_folder(execute, whole):
    done = execute(whole)
    assert done.returncode == 2
    assert "--resume" in done.stderr
    done = execute(whole, "--resume", "--lr", "0.5")
    assert done.returncode == 2
    assert "has lr 0.001, not 0.5" in done.stderr


# ------------------------------------------------------------------------------------------------------------ data


def picture(path, size=(8, 8), mode="L"):
    Image.new(mode, size).save(path)
    return path


def idx(path, array):
    array = np.asarray(array, np.uint8)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def parquet(path, images, **columns):
    table = {"image": [{"bytes": data, "path": None} for data in images]} | columns
    pyarrow.parquet.write_table(pa.table(table), path)


def empty(folder):
    pass


def no_folder(folder):
    folder.rmdir()


def corrupt(folder):
    picture(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])


def wrong_size(folder):
    picture(folder / "a.png")
    picture(folder / "b.png", (9, 8))


def idx_cut_off(folder):
    idx(folder / "train-images-idx3-ubyte", np.zeros((4, 8, 8)))
    whole = (folder / "train-images-idx3-ubyte").read_bytes()
    (folder / "train-images-idx3-ubyte").write_bytes(whole[:-5])


def idx_gzip_cut_off(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08half")


def idx_wrong_size(folder):
    idx(folder / "train-images-idx3-ubyte", np.zeros((4, 9, 8)))


def idx_labels_missing_some(folder):
    idx(folder / "train-images-idx3-ubyte", np.zeros((4, 8, 8)))
    idx(folder / "train-labels-idx1-ubyte", np.zeros(3))


def parquet_corrupt(folder):
    (folder / "train.parquet").write_bytes(b"PAR1 and nothing more")


def parquet_without_images(folder):
    pyarrow.parquet.write_table(pa.table({"text": ["a"]}), folder / "train.parquet")


def parquet_row_corrupt(folder):
    parquet(folder / "train.parquet", [picture(folder / "a.png").read_bytes(), b"nonsense"])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (empty, "data holds no pictures."),
        (no_folder, "'data' does not exist; a data set of the hub is written hub:owner/name."),
        (corrupt, "b.png is not a whole picture."),
        (wrong_size, "b.png has 9x8 pixels, not 8x8."),
        (idx_cut_off, "train-images-idx3-ubyte is not a whole idx file."),
        (idx_gzip_cut_off, "train-images-idx3-ubyte.gz is not a whole idx file."),
        (idx_wrong_size, "train-images-idx3-ubyte holds pictures of 9x8 pixels, not 8x8."),
        (idx_labels_missing_some, "train-labels-idx1-ubyte has 3 labels for 4 pictures."),
        (parquet_corrupt, "train.parquet is not a whole parquet file."),
        (parquet_without_images, "train.parquet has no column 'image'; it has text."),
        (parquet_row_corrupt, "train.parquet, row 1 is not a whole picture."),
    ],
)
def test_bad_data_is_one_sentence(tmp_path, make, sentence):
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(common.TrainingError) as caught:
        common.load_images(folder, size=8, channels=1)
    assert str(caught.value) == sentence


def test_bad_data_ends_with_status_2(execute, tmp_path):
    done = execute(tmp_path / "out", "--data", tmp_path / "nothing")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("'nothing' does not exist")
    assert not (tmp_path / "out").exists()


def test_hub_that_does_not_answer(monkeypatch):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(common.TrainingError, match="'a/b' of the hub could not be loaded: no network"):
        common.load_images("hub:a/b", size=8)


def test_the_same_pictures_from_every_source(tmp_path, monkeypatch):
    import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    for folder in ("idx", "parquet", "folder/train/7"):
        (tmp_path / folder).mkdir(parents=True)
    idx(tmp_path / "idx" / "train-images-idx3-ubyte", pixels)
    idx(tmp_path / "idx" / "train-labels-idx1-ubyte", [7, 7, 7])
    for i in range(3):
        Image.fromarray(pixels[i]).save(tmp_path / "folder" / "train" / "7" / f"{i}.png")
    files = [(tmp_path / "folder" / "train" / "7" / f"{i}.png").read_bytes() for i in range(3)]
    parquet(tmp_path / "parquet" / "train-0.parquet", files, label=[7, 7, 7])
    parquet(tmp_path / "parquet" / "test-0.parquet", files[:1], label=[7])
    hub = datasets.Dataset.from_dict({"image": [{"bytes": f, "path": None} for f in files], "label": [7, 7, 7]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub.cast_column("image", datasets.Image()))
    for source in (tmp_path / "idx", tmp_path / "parquet", tmp_path / "folder", "hub:a/b"):
        data = common.load_images(source, size=8, channels=1)
        assert data.pixels.dtype == torch.uint8
        assert torch.equal(data.pixels[:, 0], torch.from_numpy(pixels)), source
        assert [str(label) for label in data.column("label")] == ["7"] * 3
    assert len(common.load_images(tmp_path / "parquet", size=8, split="test")) == 1
    with pytest.raises(common.TrainingError, match="folder has no part for test"):
        common.load_images(tmp_path / "folder", size=8, split="test")
    with pytest.raises(common.TrainingError, match="no column 'caption'; it has label"):
        common.load_images(tmp_path / "idx", size=8, channels=1).column("caption")


def test_crop_and_transparency(tmp_path):
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 10, 20))  # red left of the centre square, which stays transparent
    image.save(tmp_path / "a.png")
    data = common.load_images(tmp_path, size=8, fit="crop")
    assert data.pixels.shape == (1, 3, 8, 8)
    assert (data.pixels > 250).all()
    assert torch.equal(data.batch(torch.tensor([0])), torch.ones(1, 3, 8, 8))


# ---------------------------------------------------------------------------------------------------- small parts


@dataclasses.dataclass(kw_only=True)
class TinyConfig(common.Config):
    names: tuple[int, ...] = common.option((1, 2), "100 % of them")


@pytest.fixture
def run(tmp_path):
    AcceleratorState._reset_state(True)
    return common.Run(TinyConfig(data="x", out=tmp_path / "run", batch_size=4, steps=5, cpu=True))


def test_parse(capsys):
    config = common.parse(TinyConfig, ["--data", "d", "--out", "o", "--names", "3", "--no-resume", "--lr", "1e-2"])
    assert (config.names, config.resume, config.lr, config.out) == ((3,), False, 0.01, Path("o"))
    assert common.parse(TinyConfig, ["--data", "d", "--out", "o"]).names == (1, 2)
    with pytest.raises(SystemExit) as caught:
        common.parse(TinyConfig, ["--data", "d"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        common.parse(TinyConfig, ["--help"])
    out = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')}" in out for field in dataclasses.fields(TinyConfig))


def test_every_epoch_has_every_picture_once(run):
    seen = []
    for run.step in range(10):  # 40 places: four epochs of 10, and no batch ends with one
        seen += run.indices(10).tolist()
    epochs = [seen[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    run.step = 3
    assert run.indices(10).tolist() == seen[12:16]
    assert run.indices(3).shape == (4,)  # fewer pictures than a batch


def test_noise_is_a_function_of_seed_and_step(run):
    first, other = run.noise((2, 3)), run.noise((2, 3), "other")
    assert first.shape == (4, 2, 3)
    assert torch.equal(first, run.noise((2, 3)))
    assert not torch.equal(first, other)
    run.step = 1
    assert not torch.equal(first, run.noise((2, 3)))
    uniform = run.noise((99,), uniform=True)
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_processes_share_batch_and_noise(run):
    whole, indices = run.noise((2,)), run.indices(10)
    run.world = 2
    for run.rank in (0, 1):
        part = slice(2 * run.rank, 2 * run.rank + 2)
        assert torch.equal(run.noise((2,)), whole[part])
        assert torch.equal(run.indices(10), indices[part])


def test_state_round_trip(tmp_path):
    state = {
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"betas": (0.9, 0.99), "lr": 0.1}]},
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "tied": torch.arange(3).expand(2, 3),
        "none": None,
        "text": "a/b",
    }
    common.write_state(tmp_path / "state.safetensors", state)
    back = common.read_state(tmp_path / "state.safetensors")
    assert equal(back, state | {"optimizer": state["optimizer"] | {"groups": [{"betas": [0.9, 0.99], "lr": 0.1}]}})
    with pytest.raises(TypeError, match="a: a set cannot be saved"):
        common.write_state(tmp_path / "state.safetensors", {"a": {1}})
    assert equal(common.read_state(tmp_path / "state.safetensors"), back)


def test_foreign_checkpoint(run):
    run.state_path.parent.mkdir(parents=True)
    run.state_path.write_bytes(b"something else")
    run.config.resume = True
    with pytest.raises(common.TrainingError, match="state.safetensors is not a checkpoint of a run."):
        next(run.steps())
    common.write_state(run.state_path, {"run": {"config": run._config()}, "tracked": {"net": {}}})
    run.track(model=torch.nn.Linear(1, 1))
    with pytest.raises(common.TrainingError, match="holds net, not model"):
        next(run.steps())


def test_ema_and_rates():
    model = torch.nn.BatchNorm1d(1)
    ema = common.EMA(model, 0.9)
    model.weight.data += 1
    model.running_mean += 5
    ema.update(model)
    assert ema.module.weight.item() == pytest.approx(1.1)
    assert ema.module.running_mean.item() == 5
    ema.update(model, decay=0.0)
    assert ema.module.weight.item() == 2
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert [common.cosine(s, 10, 2) for s in (0, 1, 2, 10)] == pytest.approx([0.5, 1, 1, 0])
    assert math.isclose(common.cosine(6, 10, 2), 0.5)


def test_grid():
    x = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    sheet = np.asarray(common.grid(x, columns=2))
    assert sheet.shape == (4, 4)
    assert (sheet[0, 0], sheet[0, 2], sheet[2, 0], sheet[2, 2]) == (0, 128, 255, 0)
    assert common.grid(torch.zeros(5, 3, 4, 4)).size == (12, 8)
    assert common.grid(torch.zeros(5, 3, 4, 4)).mode == "RGB"


def test_duration():
    assert [common.duration(s) for s in (3725, 59.6)] == ["1 h 02 min", "1 min 00 s"]
