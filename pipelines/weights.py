"""Tensors out of files, strictly, and without ever running what is in a file of others.

Published nets in another layout are read once, then kept as safetensors in `hub.converted()`, under a name of two
checksums: that of the file each was made of, and its own.
"""

import hashlib
import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from . import hub
from .problems import Problem
from .registry import Model


def read_tensors(file: Path, nested: bool = False) -> dict[str, torch.Tensor]:
    """name -> tensor, on the CPU, from safetensors or a file that torch.save wrote of plain tensors.

    nested: dicts of tensors may stand in it, too; theirs are named after both, "g_ema.input.input".

    Raises Problem: weights_pickle (more than tensors inside), weights_broken.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The same class stands for "refused" and for "damaged"; only the message tells them apart.
        refused = "Unsupported" in str(error) or "GLOBAL" in str(error) or "WeightsUnpickler" in str(error)
        raise Problem("weights_pickle" if refused else "weights_broken", file=file.name) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise Problem("weights_broken", file=file.name) from error
    if nested and isinstance(tensors, dict):
        parts = {name: part if isinstance(part, dict) else {"": part} for name, part in tensors.items()}
        tensors = {f"{name}.{key}".rstrip("."): tensor for name, part in parts.items() for key, tensor in part.items()}
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise Problem("weights_pickle", file=file.name)
    return tensors


def load_strictly(module: nn.Module, tensors: dict[str, torch.Tensor], file: str) -> None:
    """Fills a module with tensors of exactly its names and shapes, all finite, or raises Problem weights_mismatch."""
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape:
            raise Problem("weights_mismatch", file=file, key=name)
        if not tensors[name].isfinite().all():
            raise Problem("weights_broken", file=file)
    module.load_state_dict(tensors)


def from_folder(kind: type[ModelMixin], folder: Path) -> ModelMixin:
    """kind.from_pretrained(folder), offline, safetensors only; Problem weights_mismatch where a tensor is amiss.

    diffusers by itself fills gaps with random numbers and says so in its log.
    """
    model, report = kind.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    for key in (*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]):
        raise Problem("weights_mismatch", file="diffusion_pytorch_model.safetensors", key=key)
    return model


def published(
    kind: type[ModelMixin], model: Model, file: Path, sha256: str, convert: Callable[[Path], ModelMixin]
) -> ModelMixin:
    """The net in a file of a hub model whose sha256 hub.fetch has checked: convert(file), from the second time on what
    was kept of it. Raises Problem: what convert raises, weights_broken where numbers are not finite, disk_full,
    cache_locked.
    """
    for kept in hub.converted().glob(f"{sha256}-*.safetensors"):
        if net := _kept(kind, kept):
            return net
        kept.unlink(missing_ok=True)  # damaged: it is made again
    net = convert(file)
    if not all(tensor.isfinite().all() for tensor in net.state_dict().values()):
        raise Problem("weights_broken", file=file.name)
    try:
        _keep(net, hub.converted(), sha256)
    except OSError as error:
        raise Problem(hub.DISK.get(error.errno, "cache_locked"), model=model.id) from error
    return net


def _kept(kind: type[ModelMixin], file: Path) -> ModelMixin | None:
    with file.open("rb") as stream:
        if not file.stem.endswith(hashlib.file_digest(stream, "sha256").hexdigest()):
            return None
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    net = kind(**config)
    load_strictly(net, read_tensors(file), file.name)
    return net


def _keep(net: ModelMixin, folder: Path, sha256: str) -> None:
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
