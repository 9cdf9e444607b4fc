"""Photographs to try things on: public-domain ones of scikit-image's package, one's own, and data sets at hand."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from skimage import data

from pipelines.problems import Problem, choice

PHOTOS = {
    "astronaut": data.astronaut,
    "cat": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
    "cameraman": data.camera,
}
OWN = "own"  # the photo is one's own; it is in no link and no recipe


def chosen(picture: Image.Image | None, sample: str, names=tuple(PHOTOS)) -> Image.Image:
    """One's own photo if there is one, else the sample of that name, RGB. Raises Problem own_photo, unknown_choice."""
    if not picture and choice("sample", sample, (*names, OWN)) == OWN:
        raise Problem("own_photo")
    return picture or Image.fromarray(PHOTOS[sample]()).convert("RGB")


def cached(repository: str, split: str, read: Callable):
    """read(rows) of a data set of the hub in the cache of the datasets package; None where it is missing or broken.

    Nothing is fetched.
    """
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", repository).lower().replace("/", "___")  # as the package names it
    cache = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")) / folder
    if not cache.is_dir():  # importing datasets takes a second, which only those pay who have the pictures
        return None
    with contextlib.suppress(Exception):  # not installed, or not whole
        import datasets

        datasets.config.HF_DATASETS_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        return read(datasets.load_dataset(repository, split=split))
    return None
