"""The nets that were kept while a model learnt: what lies in `stages/` beside it. Needs no torch.

`stages/stages.json` is a list, oldest first: {"name": a folder in stages/ with a generator, "pictures_seen": whole}; an
entry without a name, the last one, is the finished model itself.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .problems import Problem
from .registry import Model


@dataclass(frozen=True)
class Stage:
    name: str  # the model's id for the finished one
    image_size: int  # px
    pictures_seen: int
    folder: Path


def read_stages(model: Model, folder: Path) -> list[Stage]:
    """The stages beside a model, or none. Problem model_broken where the list and the folders disagree."""
    listed = folder / "stages" / "stages.json"
    if not listed.is_file():
        return []
    try:
        return [_stage(model, folder, **entry) for entry in json.loads(listed.read_text("utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Problem("model_broken", model=model.id) from error


def _stage(model: Model, folder: Path, pictures_seen: int, name: str = "") -> Stage:
    if not re.fullmatch(r"[\w-]*", name):
        raise ValueError(name)
    where = folder / "stages" / name if name else folder
    widths = json.loads((where / "config.json").read_text("utf-8"))["channels"]
    return Stage(name or model.id, 2 << len(widths), int(pictures_seen), where)
