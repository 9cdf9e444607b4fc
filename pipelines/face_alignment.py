"""Finds the face in a picture and cuts it out as the training data was: FFHQ's square (Karras 2019, appendix A).

OpenCV's cascades (Viola & Jones 2001) propose boxes, a small net of ours (models/face_square.py, trained by
training/face_alignment.py) turns each into the square or says that it is no face. Needs no network.

A square is float64 (4,): its centre and the vector from there to the middle of its right edge, in pixels, origin at the
outer corner of the first pixel, y down. So its side is twice the vector's length, and it leans as the head does.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from pipelines.models.face_square import FaceSquare
from pipelines.problems import Problem
from pipelines.weights import from_folder

FOLDER = Path(__file__).parent / "checkpoints" / "face-alignment"
MIN_SIDE = 48  # of the square in pixels; below, enlarging shows only blur
LOOK = 960  # longest side in pixels of the picture that is searched
LEAST = 36  # side in pixels of the smallest box there, and in the half of it
# Where to look, until a face is found: size at which the cascades see the picture, as a share of LOOK, and degrees by
# which it is turned before, for they know upright faces only. Most faces are large, and half the side takes a quarter
# of the time.
LOOKS = ((1 / 2, (0,)), (1 / 2, (-30, 30)), (1, (0,)))
ROUNDS = 3  # views per candidate, each cut out by the answer before
SURE = 0.8  # least probability of a face
VOTES = 45  # least number of windows of the cascades that see it once it is upright; a cat's face gets 40, most get 190
CASCADES = (("frontalface_alt2", 1), ("frontalface_default", 3))  # and the overlapping windows that make a box
SIMILAR = 0.5  # a second face this large, as a share of the first, makes "the" face ambiguous
BOX = (0.0, -0.06, 1.48)  # of the square around a cascade's box: offset right and down, and side, in sides of the box


@functools.cache
def net() -> FaceSquare:
    return from_folder(FaceSquare, FOLDER).eval().float()


def cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{name}.xml")


def find_and_align(image: Image.Image, size: int = 256) -> Image.Image:
    """A picture, RGB and upright, of any size -> the face in it as the training data shows faces, `size` pixels a side.

    What lies outside the picture is its reflection, as in the data.
    Raises Problem: no_face, several_faces, face_profile, face_too_small.
    """
    square = find(image)
    if (side := 2 * np.hypot(*square[2:])) < MIN_SIDE:
        raise Problem("face_too_small", side=round(side), least=MIN_SIDE)
    shrink = max(1, int(side / (4 * size)))  # means of whole pixels: a few sampled points would flicker
    return Image.fromarray(cut(np.asarray(image.reduce(shrink)), square / shrink, size))


def find(image: Image.Image) -> np.ndarray:
    """The square of the only large face. Raises Problem: no_face, several_faces, face_profile."""
    scale = LOOK / max(image.size)
    size = [round(side * scale) for side in image.size]
    if min(size) < 2 * LEAST:
        raise Problem("no_face")
    grey = np.asarray(image.convert("L").resize(size, reducing_gap=3))
    if len(found := search(grey, net())):
        return pick(found) / scale
    if profile(cv2.resize(grey, None, fx=1 / 2, fy=1 / 2, interpolation=cv2.INTER_AREA)):
        raise Problem("face_profile")
    raise Problem("no_face")


def search(grey: np.ndarray, net: FaceSquare, looks: Sequence[tuple[float, Sequence[float]]] = LOOKS) -> np.ndarray:
    """Grey picture (H, W) uint8 -> squares of the faces in it (M, 4), largest first: of the first look that has any."""
    for look, tilts in looks:
        seen = cv2.resize(grey, None, fx=look, fy=look, interpolation=cv2.INTER_AREA)
        found = faces(grey, np.concatenate([candidates(seen, tilt) for tilt in tilts]) / look, net)
        if len(found):
            break
    return found


def candidates(grey: np.ndarray, tilt: float = 0) -> np.ndarray:
    """Grey picture (H, W) uint8 -> squares (N, 4) around what may be faces that lean by `tilt` degrees."""
    (height, width), turn = grey.shape, np.deg2rad(tilt)
    margin = max(grey.shape) // 8
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), tilt, 1)
    matrix[:, 2] += margin
    size = width + 2 * margin, height + 2 * margin
    turned = cv2.equalizeHist(cv2.warpAffine(grey, matrix, size, borderMode=cv2.BORDER_REFLECT_101))
    boxes = []
    for name, neighbours in CASCADES:
        boxes += list(cascade(name).detectMultiScale(turned, 1.15, neighbours, minSize=(LEAST, LEAST)))
    if not boxes:
        return np.zeros((0, 4))
    x, y, side, _ = np.array(boxes, float).T
    centres = np.stack([x + side * (0.5 + BOX[0]), y + side * (0.5 + BOX[1])], 1)
    centres = (centres - matrix[:, 2]) @ matrix[:, :2]  # the inverse of a rotation is its transpose
    half = side * BOX[2] / 2
    return np.column_stack([centres, half * np.cos(turn), half * np.sin(turn)])


@torch.inference_mode()
def refine(grey: np.ndarray, squares: np.ndarray, net: FaceSquare) -> tuple[np.ndarray, np.ndarray]:
    """Grey picture and squares (N, 4) -> better squares (N, 4), probability that each is a face (N,).

    Each is the mean of what the net says of a view and of its mirror image.
    """
    x = torch.from_numpy(np.stack([cut(grey, square, net.config.side) for square in squares]))[:, None].float()
    answers, logits = net(torch.cat([x, x.flip(3)]))
    ours, mirrored = answers.double().chunk(2)
    answers = ((ours + mirrored * torch.tensor([-1, 1, 1, -1])) / 2).numpy()
    return within(squares, answers), logits.view(2, -1).mean(0).sigmoid().numpy()


def within(views: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Squares (N, 4) given in units of views -> in the pixels in which the views (N, 4) are given."""
    ux, uy = views[:, 2:].T
    axes = np.stack([np.stack([ux, -uy], 1), np.stack([uy, ux], 1)], 1)  # (N, 2, 2): the view's right and down
    centre, right = (np.einsum("nij,nj->ni", axes, part) for part in (answers[:, :2], answers[:, 2:]))
    return np.concatenate([views[:, :2] + centre, right], 1)


def faces(grey: np.ndarray, squares: np.ndarray, net: FaceSquare) -> np.ndarray:
    """Squares around candidates (N, 4) -> of the faces among them (M, 4), each once, largest first."""
    sure = np.ones(len(squares))
    for _ in range(ROUNDS):
        lost = (sure < 0.05) | (np.hypot(*squares[:, 2:].T) < 4)  # what is lost early need not be followed
        squares, sure = squares[~lost], sure[~lost]
        if len(squares):
            squares, sure = refine(grey, squares, net)
    kept = []
    for square in sorted(squares[sure > SURE], key=lambda square: -np.hypot(*square[2:])):
        new = all(np.hypot(*(square - other)[:2]) > 0.5 * np.hypot(*other[2:]) for other in kept)
        if new and votes(grey, square) >= VOTES:
            kept.append(square)
    return np.array(kept).reshape(-1, 4)


def votes(grey: np.ndarray, square: np.ndarray) -> int:
    """How many windows of the cascades, ungrouped, fit the square when they see it upright."""
    side, around = 120, 1.25
    view = cv2.equalizeHist(cut(grey, square * [1, 1, around, around], side))
    box = side / around / BOX[2]
    count = 0
    for name, _ in CASCADES:
        for x, y, size, _ in cascade(name).detectMultiScale(view, 1.05, 0, minSize=(40, 40), maxSize=(100, 100)):
            away = np.abs([x + size * (0.5 + BOX[0]) - side / 2, y + size * (0.5 + BOX[1]) - side / 2])
            count += away.max() < side / 10 and 0.75 < size / box < 1.3
    return count


def pick(found: np.ndarray) -> np.ndarray:
    """The largest of the squares; Problem several_faces where the next is nearly as large."""
    sides = np.hypot(*found[:, 2:].T)
    if (similar := int((sides > SIMILAR * sides[0]).sum())) > 1:
        raise Problem("several_faces", count=similar)
    return found[0]


def profile(grey: np.ndarray) -> bool:
    """Whether a face is seen from the side, looking left or right."""
    least = max(grey.shape) // 8
    looks = (cv2.equalizeHist(view) for view in (grey, grey[:, ::-1].copy()))
    return any(len(cascade("profileface").detectMultiScale(look, 1.1, 6, minSize=(least, least))) for look in looks)


def cut(pixels: np.ndarray, square: np.ndarray, size: int) -> np.ndarray:
    """pixels (H, W) or (H, W, 3) uint8 -> the square of them as (size, size[, 3]), reflected beyond the edges."""
    finer = int(np.clip(np.ceil(2 * np.hypot(*square[2:]) / size), 1, 6))  # several samples a pixel when shrinking
    n, right, down = size * finer, square[2:], np.array([-square[3], square[2]])
    corners = [square[:2] - right - down, square[:2] + right - down, square[:2] - right + down]
    matrix = cv2.getAffineTransform(np.float32(corners) - 0.5, np.float32([[0, 0], [n, 0], [0, n]]) - 0.5)
    how = cv2.INTER_CUBIC if finer == 1 else cv2.INTER_LINEAR
    out = cv2.warpAffine(pixels, matrix, (n, n), flags=how, borderMode=cv2.BORDER_REFLECT_101)
    return out if finer == 1 else cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA)
