"""Published generators in the layout of rosinality's conversions, read once without running them, then kept.

A file is {"g_ema": {name: tensor}, "latent_avg": tensor}, written by torch.save. It is kept as safetensors in
`hub.converted()`, under a name of two checksums: that of the file it was made of, and its own.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import safetensors.torch
from safetensors import safe_open

from . import hub
from .models.stylegan2 import Generator, from_rosinality
from .problems import Problem
from .registry import Model, checksums
from .weights import load_strictly, read_tensors


def published(model: Model, folder: Path) -> Generator:
    """The generator in the one file of a hub model whose sha256 hub.fetch has checked. Raises Problem."""
    ((name, sha256),) = checksums(model).items()
    for file in hub.converted().glob(f"{sha256}-*.safetensors"):
        if net := _kept(file):
            return net
        file.unlink(missing_ok=True)  # damaged: it is made again
    net = convert(folder / name)
    try:
        _keep(net, hub.converted(), sha256)
    except OSError as error:
        raise Problem(hub.DISK.get(error.errno, "cache_locked"), model=model.id) from error
    return net


def convert(file: Path) -> Generator:
    """Raises Problem: weights_pickle, weights_broken, or weights_mismatch with the first key that is amiss."""
    tensors = read_tensors(file, nested=True)
    state = {key.removeprefix("g_ema."): value for key, value in tensors.items() if key.startswith("g_ema.")}
    for key in sorted({"latent_avg"} ^ {key for key in tensors if not key.startswith("g_ema.")}):
        raise Problem("weights_mismatch", file=file.name, key=key)
    try:
        net = from_rosinality(state, tensors["latent_avg"])
    except (ValueError, IndexError, RuntimeError) as error:  # the latter two from tensors of too few dimensions
        key = str(error.args[0])
        raise Problem("weights_mismatch", file=file.name, key="g_ema" if " " in key else key) from error
    if not all(tensor.isfinite().all() for tensor in net.state_dict().values()):
        raise Problem("weights_broken", file=file.name)
    return net


def _kept(file: Path) -> Generator | None:
    with file.open("rb") as stream:
        if not file.stem.endswith(hashlib.file_digest(stream, "sha256").hexdigest()):
            return None
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    net = Generator(**config)
    load_strictly(net, read_tensors(file), file.name)
    return net


def _keep(net: Generator, folder: Path, sha256: str) -> None:
    config = {name: value for name, value in net.config.items() if not name.startswith("_")}
    data = safetensors.torch.save(net.state_dict(), {"config": json.dumps(config)})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as stream:
        part = Path(stream.name)
        try:
            stream.write(data)
            stream.close()
            part.replace(folder / f"{sha256}-{hashlib.sha256(data).hexdigest()}.safetensors")
        finally:
            part.unlink(missing_ok=True)
