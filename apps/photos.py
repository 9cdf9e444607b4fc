"""Photographs to try things on: public-domain ones of scikit-image's package, and one's own."""

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
