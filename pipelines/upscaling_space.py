"""What can be asked of upscaling. Stdlib only."""

import os
from dataclasses import replace
from pathlib import Path

from . import hub, registry
from .problems import Problem, choice, whole
from .registry import Model

NET, LANCZOS = "realesr-animevideov3", "lanczos"
METHODS = (NET, LANCZOS)  # a net, which draws what may have been there; interpolation, which adds nothing
FACTORS = (2, 4)
MOST = 2**24  # px of the result, 4096 x 4096
LONGEST = 2**14  # px, a side of the result
OWN = "TRUGBILD_UPSCALER"  # may name the net's file on this machine, or the folder with it


def entry() -> Model:
    """The net: from the hub, or from the file that TRUGBILD_UPSCALER names, which has to be the same byte for byte."""
    model = registry.get(NET)
    if not (value := os.environ.get(OWN)):
        return model
    ((name, sha256),) = model.files.items()
    file = Path(value).expanduser().resolve()
    file = file / Path(name).name if file.is_dir() else file
    if not file.is_file():
        raise Problem("upscaler_setting", variable=OWN, file=Path(name).name)
    return replace(model, path=file.parent, files={file.name: sha256})


def status(method: str) -> Problem | None:
    """Why a method cannot be used now, or None. Cheap: no network, no torch."""
    if choice("method", method, METHODS) == LANCZOS:
        return None
    try:
        return hub.status(entry())
    except Problem as problem:
        return problem


def large(width: int, height: int, factor: int) -> tuple[int, int]:
    """The size of a picture that is made `factor` times as large. Raises Problem."""
    if whole("factor", factor, FACTORS[0], FACTORS[-1]) not in FACTORS:
        raise Problem("unknown_choice", name="factor", value=factor, choices=", ".join(map(str, FACTORS)))
    size = int(factor) * width, int(factor) * height
    if size[0] * size[1] > MOST or max(size) > LONGEST:
        raise Problem("too_large_to_upscale", width=size[0], height=size[1], limit=MOST // 10**6, side=LONGEST)
    return size
