"""Small pictures as text, so that a link can carry them.

`7-b` one of the digits or garments we drew, `s:...` strokes of one's own, `u:...` the pixels of an uploaded picture,
`p:0.3:-1.2` a place on the latent plane, `t:17` a test picture (`f:17` of clothes). Several are joined by commas.
"""

import base64
import functools
import gzip
import os
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from apps import drawing
from apps.links import Number
from apps.photos import cached
from pipelines.problems import Problem

REACH = 100.0  # no code of a trained model is farther out
MOST = 8  # inputs in a list
DATASETS = {"t": ("ylecun/mnist", "mnist"), "f": ("zalando-datasets/fashion_mnist", "fashion")}  # hub, folder


@functools.cache
def test_set(kind: str) -> np.ndarray | None:
    """Test pictures (N, 28, 28), uint8, of a key of DATASETS, or None where they are not at hand.

    From the folder in TRUGBILD_DATA (`--data`), else from the cache of the datasets package. Nothing is downloaded.
    """
    repository, name = DATASETS[kind]
    if root := os.environ.get("TRUGBILD_DATA"):
        for folder in (Path(root) / name, Path(root) / "digits" / name, Path(root)):
            file = folder / "t10k-images-idx3-ubyte.gz"
            if file.is_file() and (folder.name == name or kind == "t"):
                with gzip.open(file) as stream:  # the header of an idx file is 16 bytes (LeCun)
                    return np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    return cached(repository, "test", lambda rows: np.stack([np.asarray(row["image"]) for row in rows]))


def picture_of(code: str) -> Image.Image:
    """`7-b` one of ours, `s:...` strokes, `u:...` pixels -> "L", 28 x 28."""
    kind, _, rest = code.partition(":")
    if kind == "s" and rest:
        return drawing.render(drawing.decode(rest))
    if kind == "u" and rest:
        return unpack(rest)
    if kind in DATASETS:
        pictures = test_set(kind)
        if pictures is None:
            raise Problem("no_test_set")
        return Image.fromarray(pictures[Number(0, len(pictures) - 1, whole=True).parse("test_picture", rest)])
    for example in drawing.examples():
        if example["id"] == code:
            return drawing.picture(example)
    raise Problem("empty_drawing") if not code else Problem("unknown_example", value=code)


def code_of(pipeline, code: str, across: str, up: str) -> np.ndarray:
    """Any input -> latent code (D,): `p:x:y` a place on the plane, otherwise the encoder's mean for the picture."""
    kind, *numbers = code.split(":")
    if kind == "p":
        x, y = place(numbers)
        return pipeline.latents.point(x, y, across, up)
    return pipeline.encode([picture_of(code)])[0][0]


def place(numbers: list[str]) -> tuple[float, float]:
    if len(numbers) != 2:
        raise Problem("unknown_example", value=":".join(["p", *numbers]))
    return tuple(Number(-REACH, REACH).parse(name, text) for name, text in zip("xy", numbers, strict=True))


def pack(picture: Image.Image) -> str:
    """ "L" 28 x 28 -> text for a link; 16 levels of grey, so that what the link says is all that the model sees."""
    levels = (np.asarray(picture, np.uint16) + 8) // 17
    return base64.urlsafe_b64encode(zlib.compress(levels.astype(np.uint8).tobytes(), 9)).decode().rstrip("=")


def unpack(text: str) -> Image.Image:
    """The opposite of `pack`."""
    try:
        raw = zlib.decompressobj().decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), 785)
        return Image.fromarray((np.frombuffer(raw, np.uint8).reshape(28, 28) % 16) * 17)
    except (ValueError, zlib.error):
        raise Problem("bad_drawing", points=drawing.MAX_POINTS, size=drawing.CANVAS) from None


def split(text: str) -> list[str]:
    """The inputs of a list, at least one."""
    codes = [code for code in text.split(",") if code] if isinstance(text, str) else []
    if not codes:
        raise Problem("empty_drawing")
    return codes[:MOST]


def check(text: str) -> None:
    """Whether a link's input can be understood; raises Problem."""
    for code in split(text):
        if code.startswith("p:"):
            place(code.split(":")[1:])
        else:
            picture_of(code)
