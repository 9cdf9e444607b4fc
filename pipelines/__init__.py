"""Models behind one door: load(id) gives a pipeline. Importing this loads neither torch nor anything else heavy."""

import functools
import gc
import importlib.metadata
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from . import hub, registry
from .hub import probe
from .problems import Problem
from .registry import Model, discover, get, register_folder

__version__ = "0.1.0"
__all__ = [
    "Model", "Problem", "budget_mb", "discover", "get", "gpu_mb", "load", "loaded", "probe", "register_folder",
    "status", "want", "wanted",
]  # fmt: skip

_log = logging.getLogger(__name__)
_guard = threading.Lock()  # for the three tables
_importing = threading.Lock()  # diffusers comes half imported to a second thread that imports it meanwhile
_locks: dict[str, threading.Lock] = {}  # one an id: two threads load once
_loaded: dict[str, tuple[Model, str, object]] = {}  # id -> model, revision, pipeline; least recently used first
_memory: dict[str, int] = {}  # id -> MB, of what is loaded or being loaded
_wanted: dict[str, dict[str, str]] = {}  # id -> Model.plan


def load(id_or_folder: str | Path):
    """The pipeline of a model id or of a folder: loaded once, kept while memory lasts.

    What was used longest ago is dropped first; whoever still holds a dropped pipeline can go on using it.
    Raises Problem for everything that a person can mend.
    """
    model = _find(id_or_folder)
    with _guard:
        lock = _locks.setdefault(model.id, threading.Lock())
    with lock:
        model = replace(model, plan=wanted(model.id))
        if problem := _too_large(model):
            raise problem
        if model.path and not hub.folder(model):
            raise Problem("model_files_missing", model=model.id)
        revision = registry.revision(model)
        with _guard:
            if model.id in _loaded:
                entry = _loaded.pop(model.id)
                if entry[:2] == (model, revision):
                    _loaded[model.id] = entry  # now the most recently used
                    return entry[2]
                del entry, _memory[model.id]  # trained anew or wanted otherwise: it goes before the new one comes
                _collect()
        folder = hub.fetch(model)
        with _importing:
            tab = importlib.import_module(f"pipelines.{model.tab}")
        with _guard:
            _make_room(model)
            _memory[model.id] = model.memory_mb
        try:
            pipeline = tab.from_model(model, folder)
            with _guard:
                _loaded[model.id] = model, revision, pipeline
        except Problem:
            raise
        except Exception as error:
            raise _reason(model, error) from error
        finally:
            with _guard:
                if model.id not in _loaded:
                    _memory.pop(model.id, None)
        return pipeline


def loaded(id: str):
    """The pipeline of a model id if it is in memory, else None: nothing is loaded."""
    with _guard:
        entry = _loaded.get(id)
    return entry and entry[2]


def want(id: str, **plan: str) -> None:
    """How a model is to be put into memory from the next load on; what is not named is left to its wrapper."""
    _wanted[id] = plan


def wanted(id: str) -> dict[str, str]:
    return _wanted.get(id, {})


def status(model: Model) -> Problem | None:
    """Why the model cannot be used now, or None: for the picker. Cheap: no network, no torch."""
    return _too_large(model) or hub.status(model)


def budget_mb() -> int:
    """What all pipelines together may take: TRUGBILD_MEMORY_MB, else 60 % of this machine's or container's memory."""
    if value := os.environ.get("TRUGBILD_MEMORY_MB"):
        if not (value.isascii() and value.isdigit() and 0 < len(value) < 10 and int(value)):
            raise Problem("memory_setting", value=value)
        return int(value)
    return int(0.6 * _machine_mb())


@functools.cache
def gpu_mb() -> int:
    """Memory of the CUDA GPU that torch would take, 0 where there is none: its driver is asked, without torch."""
    if importlib.metadata.version("torch").endswith("+cpu"):
        return 0
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] or "-1"
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # no driver, no such GPU, or one that does not say
        return 0


def _machine_mb() -> int:
    sizes = []
    if hasattr(os, "sysconf"):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(file).read_text()))
        except (OSError, ValueError):  # not Linux, not this version of cgroups, or "max"
            continue
    return min(sizes, default=8 * 2**30) // 2**20  # Windows has no sysconf: 8 GB is the usual laptop


def _find(id_or_folder: str | Path) -> Model:
    try:
        return get(str(id_or_folder))
    except Problem:
        if Path(id_or_folder).is_dir():
            return register_folder(id_or_folder)
        raise


def _too_large(model: Model) -> Problem | None:
    budget = budget_mb()
    return (
        Problem("memory", model=model.id, needed=model.memory_mb, budget=budget) if model.memory_mb > budget else None
    )


def _make_room(model: Model) -> None:
    dropped = False
    while _loaded and sum(_memory.values()) + model.memory_mb > budget_mb():
        id = next(iter(_loaded))
        del _loaded[id], _memory[id]
        dropped = True
    if dropped:
        _collect()


def _collect() -> None:
    gc.collect()  # modules refer to each other in circles
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(model: Model, error: Exception) -> Problem:
    """What a wrapper's error while loading means to a person."""
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error):
        return Problem("memory", model=model.id, needed=model.memory_mb, budget=budget_mb())
    _log.error("%s could not be loaded", model.id, exc_info=error)
    return Problem("model_broken", model=model.id)
