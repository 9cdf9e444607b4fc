"""Tensors out of files, strictly, and without ever running what is in a file of others."""

import pickle
from pathlib import Path

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .problems import Problem


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
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
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
