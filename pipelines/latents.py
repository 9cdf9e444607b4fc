"""What lies beside a latent model and can be shown before torch is loaded: codes of the test set, a grid of decodings.

D is the model's latent dimension. A plane is spanned by two directions in latent space; a place on it is (x, y).
"""

import functools
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .problems import Problem, choice

SIDE = 28  # pixels of a picture
MAX_SAMPLES, MAX_FRAMES = 64, 96
MAX_TEMPERATURE, MAX_HOLE = 3.0, 0.8  # standard deviations; share of the side
MODES = ("lerp", "slerp")


class Latents:
    """The codes of one model's test set: means (N, D) of q(z|x), labels (N,), class_means (10, D)."""

    def __init__(self, folder: Path):
        tensors = load_file(folder / "codes.safetensors")
        facts = json.loads((folder / "training.json").read_text("utf-8"))
        self.codes = tensors["codes"].astype(np.float32)
        self.labels = tensors["labels"]
        self.class_means = tensors["class_means"].astype(np.float32)
        self.dimensions = self.codes.shape[1]
        self.garments = "fashion" in facts["data"]["name"].lower()
        self._plane = facts.get("plane")
        self._tiles = folder / "plane.png"

    @property
    def axes(self) -> list[str]:
        """Names of the directions: z1 .. zD; for more than two dimensions the two principal components come first."""
        principal = ["pc1", "pc2"] if self.dimensions > 2 else []
        return principal + [f"z{i + 1}" for i in range(self.dimensions)]

    @functools.cached_property
    def _principal(self) -> np.ndarray:
        """(2, D): the directions of largest variance of the codes, signs fixed so that they do not flip elsewhere."""
        _, _, directions = np.linalg.svd(self.codes - self.codes.mean(0), full_matrices=False)
        first = directions[:2]
        return first * np.sign(first[np.arange(2), np.abs(first).argmax(1)])[:, None]

    def direction(self, axis: str) -> np.ndarray:
        """Unit vector (D,) of a name in `axes`."""
        choice("axis", axis, self.axes)
        if axis.startswith("pc"):
            return self._principal[int(axis[2:]) - 1]
        return np.eye(self.dimensions, dtype=np.float32)[int(axis[1:]) - 1]

    def point(self, x: float, y: float, across: str, up: str) -> np.ndarray:
        """Place on the plane of two axes -> code (D,); the other dimensions are 0, the middle of the prior."""
        if across == up:
            raise Problem("same_axis", axis=across)
        return x * self.direction(across) + y * self.direction(up)

    def place(self, codes: np.ndarray, across: str, up: str) -> np.ndarray:
        """Codes (N, D) -> places (N, 2) on the plane."""
        return codes @ np.stack([self.direction(across), self.direction(up)], axis=1)

    def radius(self, across: str, up: str) -> float:
        """Half the plane's side: what training chose for two dimensions, else so that 99 % of the codes are on it."""
        if self.dimensions == 2 and self._plane:
            return float(self._plane["radius"])
        return max(3.0, math.ceil(np.quantile(np.abs(self.place(self.codes, across, up)), 0.99)))

    @property
    def grid(self) -> int:
        """Decodings per side of `tiles`, 0 where there are none."""
        return self._plane["grid"] if self.dimensions == 2 and self._plane else 0

    @functools.cached_property
    def tiles(self) -> Image.Image:
        """Decodings on a grid of the plane, "L", grid * 28 pixels square; the outermost lie on its edge, y goes up."""
        return Image.open(self._tiles).convert("L")

    def tile(self, x: float, y: float) -> tuple[Image.Image, float, float]:
        """The shipped decoding nearest to a place, and the place where it was made. Only where there is a grid."""
        radius, last = self._plane["radius"], self.grid - 1
        column, row = (min(max(round((v / radius + 1) / 2 * last), 0), last) for v in (x, -y))
        tile = self.tiles.crop((column * SIDE, row * SIDE, (column + 1) * SIDE, (row + 1) * SIDE))
        return tile, (2 * column / last - 1) * radius, (1 - 2 * row / last) * radius


@functools.lru_cache(maxsize=16)
def _read(folder: Path, stamp: int) -> Latents:
    return Latents(folder)


def read(folder: Path) -> Latents:
    """The latents of a model folder, kept; read again when training has written them anew. Raises Problem."""
    try:
        return _read(folder, (folder / "codes.safetensors").stat().st_mtime_ns)
    except FileNotFoundError:
        raise Problem("model_files_missing", model=folder.name) from None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise Problem("model_broken", model=folder.name) from error
