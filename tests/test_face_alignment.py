"""Faces found and cut out as the training data was, and what is refused; with the net that is bundled."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from skimage import data

from pipelines import registry
from pipelines.face_alignment import FOLDER, MIN_SIDE, cut, find, find_and_align
from pipelines.problems import Problem

ASTRONAUT = Image.fromarray(data.astronaut())  # 512 x 512
EYES = np.array([[203.1, 100.6], [246.3, 103.1]])  # of her, in pixels, the one on the left first


def eyes_in(square: np.ndarray, eyes: np.ndarray) -> np.ndarray:
    """Places in the picture -> places in the aligned crop, (0, 0) its top left and (1, 1) its bottom right corner."""
    right, down = square[2:], np.array([-square[3], square[2]])
    away = (eyes - square[:2]) / (right @ right)
    return np.stack([away @ right, away @ down], 1) / 2 + 0.5


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Where Image.rotate puts places of the astronaut."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return (points - 256) @ np.array([[cos, -sin], [sin, cos]]) + 256


SEEN = {
    "as she is": (ASTRONAUT, EYES),
    "mirrored": (ImageOps.mirror(ASTRONAUT), ([512, 0] + EYES * [-1, 1])[::-1]),
    "grey": (ImageOps.grayscale(ASTRONAUT).convert("RGB"), EYES),
    "dark": (ImageEnhance.Brightness(ASTRONAUT).enhance(0.25), EYES),
    "leaning left": (ASTRONAUT.rotate(25), turned(EYES, 25)),
    "leaning right": (ASTRONAUT.rotate(-25), turned(EYES, -25)),
    "large": (ASTRONAUT.resize((2500, 2500)), EYES * 2500 / 512),
    "cut off": (ASTRONAUT.crop((160, 40, 512, 512)), EYES - [160, 40]),
    "wide": (ImageOps.expand(ASTRONAUT, (600, 0, 0, 200), "teal"), EYES + [600, 0]),
}


@pytest.mark.parametrize("how", SEEN)
def test_eyes_are_where_the_training_data_has_them(how):
    picture, eyes = SEEN[how]
    left, right = eyes_in(find(picture), eyes)
    assert left == pytest.approx((0.375, 0.475), abs=0.03)
    assert right == pytest.approx((0.625, 0.475), abs=0.03)
    assert abs(left[1] - right[1]) < 0.02  # level


@pytest.mark.parametrize("size", [32, 256, 1024])
def test_aligned_is_that_part_of_the_picture(size):
    aligned = find_and_align(ASTRONAUT, size)
    assert (aligned.mode, aligned.size) == ("RGB", (size, size))
    square = find(ASTRONAUT)
    middle = ASTRONAUT.crop(tuple(int(v) for v in (*(square[:2] - 20), *(square[:2] + 20))))
    part = 20 / np.hypot(*square[2:]) * size / 2
    same = aligned.crop(tuple(int(size / 2 + v) for v in (-part, -part, part, part)))
    assert np.asarray(same).mean((0, 1)) == pytest.approx(np.asarray(middle).mean((0, 1)), abs=8)


def test_a_square_is_cut_exactly():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(cut(pixels, np.array([4.0, 4, 4, 0]), 8), pixels)
    assert np.array_equal(cut(pixels, np.array([4.0, 4, 0, 4]), 8), np.rot90(pixels))  # its right is our down
    assert np.array_equal(cut(pixels, np.array([6.0, 3, 1, 0]), 2), pixels[2:4, 5:7])
    beyond = cut(pixels, np.array([0.0, 4, 4, 0]), 8)
    assert np.array_equal(beyond[:, 4:], pixels[:, :4])
    assert np.array_equal(beyond[:, 1:4], pixels[:, 3:0:-1])  # a reflection


def beside(*pictures: Image.Image) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures], 1))


REFUSED = {
    "cat": (Image.fromarray(data.chelsea()), "no_face"),
    "coffee": (Image.fromarray(data.coffee()), "no_face"),
    "flat": (Image.new("RGB", (300, 200), "teal"), "no_face"),
    "noise": (Image.effect_noise((400, 400), 80).convert("RGB"), "no_face"),
    "one pixel": (Image.new("RGB", (1, 1)), "no_face"),
    "a line": (Image.new("RGB", (3000, 2)), "no_face"),
    "two": (beside(ASTRONAUT, ImageOps.mirror(ASTRONAUT)), "several_faces"),
    "small": (ASTRONAUT.resize((128, 128)), "face_too_small"),
    "25 pixels": (Image.fromarray((data.lfw_subset()[0] * 255).astype(np.uint8)).convert("RGB"), "face_too_small"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    picture, code = REFUSED[what]
    with pytest.raises(Problem) as problem:
        find_and_align(picture)
    assert problem.value.code == code


def test_a_small_face_in_the_background_does_not_matter():
    picture = ASTRONAUT.copy()
    picture.paste(ASTRONAUT.crop((140, 20, 310, 190)).resize((64, 64)), (440, 10))
    assert find(picture) == pytest.approx(find(ASTRONAUT), abs=6)


def test_least_side():
    square = find(ASTRONAUT)
    size = round(512 * (MIN_SIDE + 4) / (2 * np.hypot(*square[2:])))
    assert find_and_align(ASTRONAUT.resize((size, size), Image.Resampling.LANCZOS), 64).size == (64, 64)


def test_nobody_can_pick_the_net():
    assert FOLDER.name not in [model.id for model in registry.models()]
    with pytest.raises(Problem) as problem:
        registry.register_folder(FOLDER)
    assert problem.value.code == "folder_helper"
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 500_000
