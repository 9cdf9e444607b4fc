"""Trains the net that finds a face's square (pipelines/models/face_square.py), on aligned portraits alone.

    D=../shared/data; F=$D/faces; S=$D/style
    accelerate launch training/face_alignment.py --data $F/faces-color-128.parquet,$F/faces-gray-128.parquet \\
        --backgrounds $S/monet-paintings.parquet,$S/pomological-apple.parquet,$D/emoji/fluent-3d.parquet \\
        --out runs/face-alignment --precision bf16

A portrait is moved, turned and resized at random, what is missing around it is invented, and the net says where its
square went. The edges of the portrait must not give the square away: they are cut back at random, and blend into a
reflection, another picture, clouds or a flat colour. A third of the views show no face, or a part of one.
Minutes on one core. OUT goes to pipelines/checkpoints/face-alignment.
"""

import io
import math
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `accelerate launch` works from any folder

from pipelines import face_alignment
from pipelines.models.face_square import FaceSquare
from training import common
from training.common import option

PORTRAIT, SCENE = 128, 192  # sides in pixels of what is read
SEEN, VIEW = 96, 48  # of what views are cut from, and of views
LOOKS = ((1, (0,)), (1, (-30, 30)))  # when measuring: scenes are small
SCALES = (0.6, 1.7)  # side of the view in sides of the square
ANGLE, SHIFT = math.radians(35), 0.4  # largest turn; largest way of the square's centre in half views


@dataclass(kw_only=True)
class Config(common.Config):
    backgrounds: str = option("", "pictures without faces: folders or parquet files, with commas between")
    steps: int = option(4_000, "updates in all")
    batch_size: int = option(64, "views in an update")
    lr: float = option(2e-3, "learning rate at its highest")
    negatives: float = option(0.35, "share of views that show no whole face")
    held_out: int = option(4, "one portrait in so many is for measuring only, chosen by its key")
    save_every: int = option(500, "steps between checkpoints")


# ------------------------------------------------------------------------------------------------------------ data


def load_grey(sources: str, size: int, fit: str = "exact") -> common.Images:
    """Files with commas between -> grey pictures of all; of the other columns only the key."""
    parts = [common.load_images(source, size, 1, fit=fit) for source in sources.split(",")]
    keys = [str(part.table.get("key", range(len(part)))[i]) for part in parts for i in range(len(part))]
    return common.Images(torch.cat([part.pixels for part in parts]), {"key": keys})


def is_held_out(key: str, every: int) -> bool:
    """By the key, that is, by person: all pictures of one go the same way, whatever the file."""
    return zlib.crc32(key.encode()) % every == 0


def false_boxes(backgrounds: torch.Tensor, most: int = 4) -> torch.Tensor:
    """Pictures without faces (N, 1, S, S) bytes -> (M, 1, 96, 96): what the cascades take for faces in them."""
    views = []
    for grey in backgrounds[:, 0].numpy():
        squares = face_alignment.candidates(grey)[:most]
        views += [face_alignment.cut(grey, square * [1, 1, 1.5, 1.5], SEEN) for square in squares]
    return torch.from_numpy(np.stack(views))[:, None] if views else torch.zeros(0, 1, SEEN, SEEN)


def smaller(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 1, S, S) bytes -> (N, 1, 96, 96), from which views are cut without much aliasing."""
    parts = [F.interpolate(part.float(), SEEN, mode="bilinear", antialias=True) for part in pixels.split(100)]
    return torch.cat(parts).round().byte()


def draw(n: int, low: float, high: float, generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Uniform in [low, high): (n, *shape)"""
    return low + (high - low) * torch.rand(n, *shape, generator=generator)


def placed(n: int, negatives: int, g: torch.Generator) -> torch.Tensor:
    """Squares (n, 4) in units of views; the first `negatives` show a part of a face, a far one or one upside down."""
    size = torch.exp(draw(n, math.log(1 / SCALES[1]), math.log(1 / SCALES[0]), g))  # half side of the square
    angle, centre = draw(n, -ANGLE, ANGLE, g), draw(n, -SHIFT, SHIFT, g, 2)
    kind = torch.arange(n) % 4
    wrong = torch.arange(n) < negatives
    size = size.where(~(wrong & (kind == 0)), draw(n, 3, 6, g))  # a part: an eye, a cheek
    size = size.where(~(wrong & (kind == 1)), draw(n, 0.15, 0.3, g))  # far away
    away = torch.polar(draw(n, 1.1, 1.6, g), draw(n, 0, 2 * math.pi, g))
    centre = centre.where(~(wrong & (kind == 2))[:, None], torch.view_as_real(away))
    angle = angle.where(~(wrong & (kind == 3)), draw(n, math.radians(80), math.radians(280), g))
    return torch.stack([centre[:, 0], centre[:, 1], size * angle.cos(), size * angle.sin()], 1)


def look(portraits: torch.Tensor, others: torch.Tensor, squares: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Portraits and what may surround them (N, 1, S, S) in [-1, 1], squares (N, 4) -> views (N, 1, 48, 48)."""
    n, side = len(portraits), VIEW
    places = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, side, side], align_corners=False)  # (N, S, S, 2)
    away, (ux, uy) = places - squares[:, None, None, :2], squares[:, 2:, None, None].unbind(1)
    length = ux.square() + uy.square()
    inside = torch.stack([away[..., 0] * ux + away[..., 1] * uy, away[..., 1] * ux - away[..., 0] * uy], -1)
    inside = inside / length[..., None]  # places in the portrait, its edges at -1 and 1

    # how far the portrait is cut back at its left, top, right, bottom; half of them are whole
    cut = draw(n, 0, 0.3, g, 4) * (torch.rand(n, 1, generator=g) < 0.6)
    low, high = (cut[:, :2] - 1)[:, None, None], (1 - cut[:, 2:])[:, None, None]
    reflected = high - ((inside - low) % (2 * (high - low)) - (high - low)).abs()  # the same between low and high
    portrait = F.grid_sample(portraits, reflected, padding_mode="border", align_corners=False)
    # surroundings: a reflection, another picture, clouds or a flat tone
    zoom = draw(n, 0.3, 1, g)[:, None, None, None]
    other = F.grid_sample(others, places * zoom, padding_mode="reflection", align_corners=False)
    clouds = sum(
        F.interpolate(torch.randn(n, 1, r, r, generator=g), side, mode="bilinear") * 2 / math.sqrt(r)
        for r in (2, 8, 32)
    )
    tone = draw(n, -1, 1, g)[:, None, None, None]
    chosen = torch.randint(0, 5, (n, 1, 1, 1), generator=g)
    around = other.where(chosen > 1, (clouds / 3 + tone / 2).where(chosen == 1, tone.expand_as(other)))
    depth = torch.minimum(inside - low, high - inside).amin(-1)[:, None]
    soft = 10 ** draw(n, -2, -0.5, g)[:, None, None, None]
    seen = torch.lerp(around, portrait, (depth / soft + 0.5).clamp(0, 1))
    kept = torch.rand(n, 1, 1, 1, generator=g) < 0.35
    return torch.where(kept, portrait, seen)


def spoil(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Views (N, 1, 48, 48) -> in another light, blurred, noisy, some as JPEG."""
    n = len(x)
    slope = draw(n, -0.5, 0.5, g, 2) * (torch.rand(n, 1, generator=g) < 0.5)  # light from one side
    places = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), list(x.shape), align_corners=False)
    light = 1 + (places * slope[:, None, None]).sum(-1)[:, None]
    x = ((x + 1) / 2).clamp(0, 1) ** torch.exp(draw(n, -0.7, 0.7, g))[:, None, None, None]
    x = x * light * torch.exp(draw(n, -1, 0.2, g))[:, None, None, None]
    rough = int(draw(1, 12, VIEW, g))
    few = torch.rand(n, generator=g) < 0.3
    blurred = F.interpolate(F.interpolate(x, rough, mode="bilinear", antialias=True), VIEW, mode="bilinear")
    x = torch.where(few[:, None, None, None], blurred, x)
    strength = (10 ** draw(n, -3, -1.5, g))[:, None, None, None]
    x = (x + strength * torch.randn(x.shape, generator=g)).clamp(0, 1)
    for i in range(0, n, 5):
        stream = io.BytesIO()
        picture = Image.fromarray((x[i, 0] * 255).round().byte().numpy())
        picture.save(stream, "JPEG", quality=int(draw(1, 20, 90, g)))
        x[i, 0] = torch.from_numpy(np.array(Image.open(stream))) / 255
    return x


# --------------------------------------------------------------------------------------------------------- measuring


def square_loss(squares: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squares (N, 4) -> (N,): a smooth L1 distance, in half sides of the target, that small errors count in, too."""
    size = target[:, 2:].norm(dim=1, keepdim=True)
    return F.smooth_l1_loss(squares / size, target / size, beta=0.05, reduction="none").mean(1)


def corner_error(squares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squares (N, 4), targets (N, 4) or (4,) -> mean distance of their corners (N,), in sides of the target."""
    centre, right = (squares - target)[:, :2], (squares - target)[:, 2:]
    down = np.stack([-right[:, 1], right[:, 0]], 1)
    corners = [centre + a * right + b * down for a in (-1, 1) for b in (-1, 1)]
    return np.mean([np.hypot(*corner.T) for corner in corners], 0) / (2 * np.hypot(*target[..., 2:].T))


def scene(portrait: np.ndarray, background: np.ndarray, g: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A portrait (128, 128), turned and resized, on a background (H, W) -> picture (H, W), the square in it (4,).

    The portrait's edge fades over an eighth of its side, so its corners are not to be seen.
    """
    height, width = background.shape
    half = float(draw(1, 0.18, 0.35, g)) * min(height, width)
    angle = float(draw(1, -ANGLE, ANGLE, g)) * 0.6
    x, y = (float(draw(1, 1.2 * half, side - 1.2 * half, g)) for side in (width, height))
    square = np.array([x, y, half * math.cos(angle), half * math.sin(angle)])
    right, down = square[2:], np.array([-square[3], square[2]])
    corners = np.float32([square[:2] - right - down, square[:2] + right - down, square[:2] - right + down]) - 0.5
    source = np.float32([[0, 0], [PORTRAIT, 0], [0, PORTRAIT]]) - 0.5
    matrix = cv2.getAffineTransform(source, corners)
    ramp = np.minimum(np.arange(PORTRAIT), np.arange(PORTRAIT)[::-1]) / (PORTRAIT / 8)
    alpha = cv2.warpAffine(np.clip(np.minimum.outer(ramp, ramp), 0, 1), matrix, (width, height))
    face = cv2.warpAffine(portrait, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return (background + alpha * (face.astype(float) - background)).round().astype(np.uint8), square


def measure(
    net: FaceSquare, portraits: torch.Tensor, backgrounds: torch.Tensor, most: int = 200, seed: int = 0
) -> dict[str, float]:
    """Portraits (N, 1, 128, 128) bytes, at most so many, in scenes -> share found, errors, false alarms."""
    g, ours, alone, wrong = torch.Generator().manual_seed(seed), [], [], 0
    portraits = portraits[torch.randperm(len(portraits), generator=g)[:most], 0].numpy()
    scenes = backgrounds[torch.randint(0, len(backgrounds), (len(portraits),), generator=g), 0].numpy()
    for portrait, background in zip(portraits, scenes, strict=True):
        grey, target = scene(portrait, background, g)
        errors = corner_error(face_alignment.search(grey, net, LOOKS), target)
        boxes = corner_error(face_alignment.candidates(grey), target)
        if len(errors) and errors.min() < 0.25:
            ours.append(errors.min())
            alone.append(min(0.25, *boxes, 0.25))
        wrong += len(face_alignment.search(background, net, LOOKS)) > 0
    return {
        "held_out_portraits": len(portraits),
        "found": round(len(ours) / len(portraits), 3),
        "error_px_of_128": round(128 * float(np.mean(ours)), 2),
        "error_px_of_128_median": round(128 * float(np.median(ours)), 2),
        "error_px_of_128_of_the_cascade_alone": round(128 * float(np.mean(alone)), 2),
        "found_where_no_face_is": round(wrong / len(portraits), 3),
    }


# -------------------------------------------------------------------------------------------------------------- main


def main(config: Config) -> None:
    run = common.Run(config)
    data = load_grey(config.data, PORTRAIT)
    held = torch.tensor([is_held_out(key, config.held_out) for key in data.column("key")])
    train, test = smaller(data.pixels[~held]), data.pixels[held]
    scenes = load_grey(config.backgrounds, SCENE, fit="crop").pixels
    apart = torch.arange(len(scenes)) % config.held_out == 0
    wild = false_boxes(scenes[~apart])
    others = torch.cat([smaller(scenes[~apart]), smaller(scenes[~apart][:, :, 48:144, 48:144])])
    nothing = torch.cat([others, wild, wild, wild])

    model = FaceSquare(side=VIEW).to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.01)
    ema = common.EMA(model, 0.998)
    run.track(model=model, optimizer=optimizer, ema=ema)
    n = config.batch_size
    faceless, parts = round(n * config.negatives * 0.6), round(n * config.negatives * 0.4)  # the first rows of a batch
    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, warmup=200))
        g = run.generator("views")
        x = train[run.indices(len(train))].float() / 127.5 - 1
        x = torch.where(torch.rand(len(x), 1, 1, 1, generator=g) < 0.5, x, x.flip(3))
        rest = others[torch.randint(0, len(others), (len(x),), generator=g)].float() / 127.5 - 1
        squares = placed(len(x), faceless + parts, g)
        x[:faceless] = nothing[torch.randint(0, len(nothing), (faceless,), generator=g)].float() / 127.5 - 1
        squares[:faceless, 2:] *= draw(faceless, 1.2, 2, g)[:, None] / squares[:faceless, 2:].norm(dim=1, keepdim=True)
        x = spoil(look(x, rest, squares, g), g)
        with run.autocast():
            answers, logits = (y.float() for y in model(x.to(run.device)))
        face = (torch.arange(len(x)) >= faceless + parts).to(run.device)
        where = square_loss(answers[face], squares.to(run.device)[face]).mean()
        whether = F.binary_cross_entropy_with_logits(logits, face.float())
        run.update(where + 0.2 * whether, optimizer, max_norm=5)
        ema.update(model)
        run.log(where=where, whether=whether)
        if run.due(config.sample_every):
            run.picture("views", common.grid(x * 2 - 1, 8))

    if run.is_main:
        model = ema.module.half().float()  # figures are of the weights as they are shipped
        run.save(model, describe(run.folder.name, measure(model, test, scenes[apart])))


def describe(id: str, figures: dict) -> dict:
    return {
        "id": id,
        "tab": "faces",
        "kind": "alignment",
        "script": "face_alignment",
        "task": "image-feature-extraction",
        "licence": "Apache-2.0",
        "year": 2026,
        "title": "Where a face lies",
        "summary": "Not a model to draw with: it turns the box that a cascade found around a face into the square in "
        "which the faces tab aligns its pictures, and says whether there is a face at all.",
        "use": "aligned = find_and_align(picture, 256)  # from pipelines.face_alignment",
        "data": {
            "name": "portraits of members of the US Congress",
            "url": "https://github.com/unitedstates/images",
            "licence": "public domain in the United States: works of its government, photographs published before 1931",
            "attribution": "1,268 modern colour portraits and 1,309 historic ones, from github.com/unitedstates/images "
            "and github.com/voteview/member_photos, aligned as FFHQ is. Without faces, around and between them: "
            "landscapes by Claude Monet, fruit from the U.S. Department of Agriculture Pomological Watercolor "
            "Collection (both public domain), Fluent Emoji (Copyright Microsoft Corporation, MIT)",
        },
        "figures": figures,
        "figures_note": "Of portraits that the training did not see (a quarter, by person: the key in the file; who is "
        "in both sources may be on both sides), turned by up to 21 degrees, in pictures of 192 px that it did not "
        "see either. The error is the mean distance of the square's corners, in pixels of a crop of 128 px; a face "
        "counts as found below 32 px. Of the cascade it is that of its best box around the same faces, at most 32 px.",
        "limits": [
            "It saw one profession in one country: of the colour portraits 17 % show women, of the historic ones 1 %; "
            "the median age is 60 and 50; there are no children; most faces are white. How well it finds other "
            "people's faces was not measured, and is likely worse; the cascades before it have biases of their own.",
            "Faces from the front to three quarters, at most about 35 degrees tilted. No profiles.",
            "It tells faces from what is none, not people from each other: it does not recognise anybody.",
        ],
    }


if __name__ == "__main__":
    common.launch(main, Config)
