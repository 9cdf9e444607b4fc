"""Published generators in the layout of CycleGAN's authors: the bare state dict, `latest_net_G.pth`."""

from pathlib import Path

from .models.cyclegan import Generator, from_junyanz
from .problems import Problem
from .registry import DIRECTIONS, Model, checksums
from .weights import published, read_tensors


def from_hub(model: Model, folder: Path) -> dict[str, Generator]:
    """The generators of a hub model, whose files are one a direction: A to B, then B to A. Raises Problem."""
    files = checksums(model).items()
    return {
        direction: published(Generator, model, folder / name, sha256, convert)
        for direction, (name, sha256) in zip(DIRECTIONS, files, strict=False)
    }


def convert(file: Path) -> Generator:
    """Raises Problem: weights_pickle, weights_broken, or weights_mismatch with the first key that is amiss."""
    tensors = read_tensors(file)
    try:
        return from_junyanz(tensors)
    except ValueError as error:
        raise Problem("weights_mismatch", file=file.name, key=error.args[0]) from error
