"""Upscaling: a picture twice or four times as wide and high, drawn by a small net (models/compact_upscaler.py).

The net was trained on drawn films: it makes outlines sharp and areas calm, photographs look painted, and areas become
a little lighter, some greens by 8 of 255. The other method is interpolation, which invents nothing. Limits:
upscaling_space.py. `on_step(i, n, None)` may raise to stop.

The picture is worked on in tiles, each with as much around it as the net sees: exact, no seam, in bounded memory.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from . import hub, runtime
from .models.compact_upscaler import CompactUpscaler, from_xinntao
from .problems import Problem, choice
from .recipe import Recipe
from .registry import Model, checksums
from .upscaling_space import LANCZOS, METHODS, NET, entry, large
from .weights import published, read_tensors

TILE = 256  # px of the small picture; larger ones are slower, their features leave the processor's cache
TAPS = 6  # px of the large picture that halving sees on each side
Step = Callable[[int, int, None], None]

_lock = threading.Lock()
_nets: dict[Path | None, CompactUpscaler] = {}  # by where the file came from


def upscale(
    image: Image.Image,
    factor: int = 4,
    method: str = NET,
    recipe: Recipe | None = None,  # of the picture
    on_step: Step | None = None,
) -> tuple[Image.Image, Recipe | None]:
    """-> the picture, RGB, `factor` times as wide and high, and its recipe.

    That is the picture's own, with `upscale` and `upscaler` among its settings; where it has none, one of what the net
    did, and None where no net did anything. Raises Problem, also those of hub.fetch.
    """
    if not isinstance(image, Image.Image):
        raise Problem("no_picture")
    size, method = large(*image.size, factor), choice("method", method, METHODS)
    factor, image = int(factor), image.convert("RGB")
    if method == NET:
        after = draw(net(), image, factor, on_step)
    else:
        after = image.resize(size, Image.Resampling.LANCZOS)
        if on_step:
            on_step(1, 1, None)
    if recipe:
        return after, replace(recipe, settings={**recipe.settings, "upscale": factor, "upscaler": method})
    if method == LANCZOS:
        return after, None
    model = entry()
    return after, Recipe.make(model.tab, model.id, model.revision, "upscale", {"factor": factor})


@torch.inference_mode()
def draw(net: CompactUpscaler, image: Image.Image, factor: int, on_step: Step | None = None) -> Image.Image:
    """What the net makes of an RGB picture; 2 is 4, halved."""
    scale, halo = net.config.scale, net.reach + -(-TAPS // net.config.scale)
    after = np.empty((factor * image.height, factor * image.width, 3), np.uint8)
    parts = list(itertools.product(tiles(image.height, halo), tiles(image.width, halo)))
    for i, ((rows, seen_rows), (columns, seen_columns)) in enumerate(parts):
        x = runtime.to_tensor(image.crop((seen_columns.start, seen_rows.start, seen_columns.stop, seen_rows.stop)))
        with runtime.autocast():
            y = net(x.to(runtime.device(), memory_format=torch.channels_last))
        y = y if factor == scale else halve(y)
        inside = (within(part, seen, factor) for part, seen in ((rows, seen_rows), (columns, seen_columns)))
        (tile,) = runtime.to_images(y[:, :, *inside])
        after[times(rows, factor), times(columns, factor)] = tile
        if on_step:
            on_step(i + 1, len(parts), None)
    return Image.fromarray(after)


def tiles(side: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """What each tile covers of a side, about equally much, and the same with the halo, as far as the picture goes."""
    n = -(-side // TILE)
    for i in range(n):
        start, stop = side * i // n, side * (i + 1) // n
        yield slice(start, stop), slice(max(start - halo, 0), min(stop + halo, side))


def times(part: slice, factor: int) -> slice:
    return slice(factor * part.start, factor * part.stop)


def within(part: slice, seen: slice, factor: int) -> slice:
    """Where a part lies in what was made of `seen`."""
    return times(slice(part.start - seen.start, part.stop - seen.start), factor)


def halve(y: torch.Tensor) -> torch.Tensor:
    """y (N, 3, 2H, 2W) -> (N, 3, H, W) by Lanczos' window of three lobes; edges are continued."""
    reach = (torch.arange(2.0 * TAPS, device=y.device) - TAPS + 0.5) / 2
    taps = torch.sinc(reach) * torch.sinc(reach / 3)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    edge = TAPS - 1  # the first of the two pixels that become one has five to its left in the window
    y = F.conv2d(F.pad(y, (edge, edge, 0, 0), mode="replicate"), taps, stride=(1, 2), groups=3)
    return F.conv2d(F.pad(y, (0, 0, edge, edge), mode="replicate"), taps.transpose(2, 3), stride=(2, 1), groups=3)


def net() -> CompactUpscaler:
    """The net, loaded once, ready for use. Raises Problem."""
    model = entry()
    with _lock:
        if model.path not in _nets:
            _nets[model.path] = runtime.ready(from_hub(model, hub.fetch(model))).to(memory_format=torch.channels_last)
        return _nets[model.path]


def from_hub(model: Model, folder: Path) -> CompactUpscaler:
    """The net in the one file of a model, in the layout of its authors. Raises Problem."""
    ((name, sha256),) = checksums(model).items()
    return published(CompactUpscaler, model, folder / name, sha256, convert)


def convert(file: Path) -> CompactUpscaler:
    """Raises Problem: weights_pickle, weights_broken, or weights_mismatch with the first key that is amiss."""
    tensors = read_tensors(file, nested=True)
    for key in sorted(tensors):
        if not key.startswith("params."):
            raise Problem("weights_mismatch", file=file.name, key=key)
    try:
        return from_xinntao({key.removeprefix("params."): tensor for key, tensor in tensors.items()})
    except (ValueError, TypeError) as error:  # the latter from tensors without dimensions
        key = str(error.args[0])
        raise Problem("weights_mismatch", file=file.name, key="params" if " " in key else key) from error
