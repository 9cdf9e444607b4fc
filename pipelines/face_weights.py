"""Published generators in the layout of rosinality's conversions: {"g_ema": {name: tensor}, "latent_avg": tensor},
written by torch.save. See weights.published.
"""

from pathlib import Path

from .models.stylegan2 import Generator, from_rosinality
from .problems import Problem
from .registry import Model, checksums
from .weights import published, read_tensors


def from_hub(model: Model, folder: Path) -> Generator:
    """The generator in the one file of a hub model. Raises Problem."""
    ((name, sha256),) = checksums(model).items()
    return published(Generator, model, folder / name, sha256, convert)


def convert(file: Path) -> Generator:
    """Raises Problem: weights_pickle, weights_broken, or weights_mismatch with the first key that is amiss."""
    tensors = read_tensors(file, nested=True)
    state = {key.removeprefix("g_ema."): value for key, value in tensors.items() if key.startswith("g_ema.")}
    for key in sorted({"latent_avg"} ^ {key for key in tensors if not key.startswith("g_ema.")}):
        raise Problem("weights_mismatch", file=file.name, key=key)
    try:
        return from_rosinality(state, tensors["latent_avg"])
    except (ValueError, IndexError, RuntimeError) as error:  # the latter two from tensors of too few dimensions
        key = str(error.args[0])
        raise Problem("weights_mismatch", file=file.name, key="g_ema" if " " in key else key) from error
