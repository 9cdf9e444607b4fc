"""What `evaluate.py faces` measures: faces that a finder finds, how far two sets of pictures lie apart, copies.

Pictures are bytes (N, 3, S, S). No trained net judges them, so nothing has to be fetched; NOTE says how to read it.
"""

import argparse
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import torch
from PIL import Image
from torch.nn import functional as F

from pipelines import runtime
from pipelines.face_space import DOMAINS
from pipelines.models.stylegan2 import Generator
from training import common, faces
from training.common import TrainingError

LOOK = 256  # px to which pictures are enlarged for the finder
DIRECTIONS, CELLS, AXES = 8, 8, 32  # of edges; a side of the grid; kept of the features
NEIGHBOURS = 3
LEAST = 2 * (NEIGHBOURS + 1)  # pictures: a half must have as many neighbours; hundreds make sense
PAIRS = 16  # on the sheet

NOTE = f"""Faces found: share of pictures, enlarged to {LOOK} px, in which OpenCV's frontal cascade (alt2) finds \
exactly one, of samples and of real pictures; `faces_found_of_real` is their ratio at psi 0.7. It is a low bar: \
smudged faces are found, too. Fréchet distance (Heusel 2017), precision and recall (Kynkäänniemi 2019, {NEIGHBOURS} \
neighbours) are those at psi 1 and cannot be compared with papers: no trained net judges, but mean colours in \
{CELLS} x {CELLS} cells and how strong edges are there in {DIRECTIONS} directions, scale by scale, along {AXES} \
principal axes of the real pictures, each of the same weight; the unit of the distance is the variance of the real \
pictures. Half of the samples are compared with half of the real pictures, and the other halves; half of the real \
pictures are mirrored, as in training. `_real` is one half of the real pictures against the other: as good as it can \
get. Distance and recall tell good nets from bad ones; precision hardly does, because a net of little variety stays \
where real pictures are dense. Nearest: how far a sample (psi 1) is from the likest training picture or its mirror \
image, as grey faces of 32 px between two blurs: 0 is a copy, 1.4 no likeness. `_real` is the same for a training \
picture and the likest other one; `nearer_than_real` is the share of samples below the 1st percentile of that, 0.01 \
where nets copy no more than photographs happen to resemble each other. Figures without a domain are those of the \
worse one."""


# --------------------------------------------------------------------------------------------------------- pictures


@torch.inference_mode()
def draw(net: Generator, label: int | None, n: int, psi: float, batch: int = 32) -> torch.Tensor:
    """n pictures of people that are the same at every psi, as people see them."""
    draws, pictures = torch.Generator().manual_seed(0), []
    for size in [batch] * (n // batch) + [n % batch] * (n % batch > 0):
        z = torch.randn(size, net.config.z_dim, generator=draws).to(net.device)
        noise = [torch.randn(size, 1, r, r, generator=draws).to(net.device) for r in net.noise_sizes]
        labels = None if label is None else torch.full((size,), label, device=net.device)
        with runtime.autocast():
            x = net(z, labels, noise, psi).float()
        pictures.append(((x + 1) * 127.5).round().clamp(0, 255).byte().cpu())
    return torch.cat(pictures)


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """-> (N, 1, S, S), float, [0, 1]"""
    return (pixels.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True) / 255


def one_face(pixels: torch.Tensor) -> float:
    """Share of pictures in which OpenCV's frontal cascade (Viola & Jones 2001) finds exactly one face."""
    cascade, found = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_alt2.xml"), 0
    for picture in pixels.permute(0, 2, 3, 1).numpy():
        grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (LOOK, LOOK), interpolation=cv2.INTER_CUBIC)
        found += len(cascade.detectMultiScale(grey, 1.1, 12, minSize=(3 * LOOK // 8,) * 2)) == 1
    return found / len(pixels)


# ---------------------------------------------------------------------------------------------------- distributions


def describe(pixels: torch.Tensor) -> list[torch.Tensor]:
    """-> groups of features (N, D), in a grid of cells: mean colours, and edges at each scale from S down to 16 px.

    Edges: root of the mean magnitude of the derivative in each direction (one layer of a scattering transform, Bruna &
    Mallat 2013, close to HOG, Dalal & Triggs 2005).
    """
    angles = torch.arange(DIRECTIONS) * math.pi / DIRECTIONS
    dx = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = angles.cos()[:, None, None] * dx + angles.sin()[:, None, None] * dx.T
    grey, groups = luma(pixels), [F.adaptive_avg_pool2d(pixels.float() / 255, CELLS).flatten(1)]
    while grey.shape[-1] >= 16:
        edges = F.conv2d(F.pad(grey, [1] * 4, mode="replicate"), kernels[:, None]).abs()
        groups.append(F.adaptive_avg_pool2d(edges, CELLS).sqrt().flatten(1))
        grey = F.avg_pool2d(grey, 2)
    return groups


class Space:
    """Features along the principal axes of real pictures, of which each has the same variance and all together 1."""

    def __init__(self, real: torch.Tensor):
        groups = describe(real)
        self.means = [group.mean(0) for group in groups]
        self.scales = [group.var(0).sum().clamp(min=1e-12).rsqrt() for group in groups]  # all groups count alike
        self.axes = torch.eye(sum(group.shape[1] for group in groups))
        values, vectors = torch.linalg.eigh(self(real).T.cov())
        kept = min(AXES, max(1, len(real) // 4))
        self.axes = vectors[:, -kept:] * (values[-kept:] * kept).clamp(min=1e-12).rsqrt()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """-> (N, AXES)"""
        groups = zip(describe(pixels), self.means, self.scales, strict=True)
        return torch.cat([(group - mean) * scale for group, mean, scale in groups], 1) @ self.axes


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Features (N, D), (M, D) -> squared distance of the Gaussians about them (Heusel 2017, eq. 6)"""
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()  # trace of the root of their product
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def covered(queries: torch.Tensor, points: torch.Tensor) -> float:
    """Share of queries (N, D) no further from some point (M, D) than that point's third neighbour is.

    Precision: generated pictures by real ones; recall: the other way round (Kynkäänniemi 2019, eq. 1 and 2).
    """
    queries, points = queries.double(), points.double()
    near = functools.partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")  # exact where it is 0
    radii = near(points, points).kthvalue(NEIGHBOURS + 1).values  # the first is the point itself
    return (near(queries, points) <= radii).any(1).double().mean().item()


def compare(space: Space, samples: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    """Distance, precision and recall, each of both halves of the samples against another half of the real pictures."""
    half = min(len(samples), len(real)) // 2
    (a, b), (r, s) = (space(pixels[: 2 * half]).split(half) for pixels in (samples, real))
    return {
        "frechet": (frechet(a, r) + frechet(b, s)) / 2,
        "frechet_real": frechet(r, s),
        "precision": (covered(a, r) + covered(b, s)) / 2,
        "precision_real": (covered(r, s) + covered(s, r)) / 2,  # which is its recall, too
        "recall": (covered(r, a) + covered(s, b)) / 2,
    }


# ----------------------------------------------------------------------------------------------------------- copies


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """x (N, 1, H, W) behind a Gaussian of that many pixels"""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2)).view(1, 1, 1, -1)
    kernel = kernel / kernel.sum()
    return F.conv2d(F.conv2d(F.pad(x, [reach] * 4, mode="reflect"), kernel), kernel.mT)


def likeness(pixels: torch.Tensor) -> torch.Tensor:
    """-> (N, 1024) unit vectors that are near for like faces, whatever the backdrop, light and sharpness.

    Grey at 32 px, between two blurs, weighted towards the middle.
    """
    x = F.adaptive_avg_pool2d(luma(pixels), 32)
    x = blurred(x, 0.8) - blurred(x, 4.0)
    place = torch.linspace(-1, 1, 32)
    x = x * torch.exp(-2 * (place.square() + place[:, None].square()))
    x = x.flatten(1)
    return F.normalize(x - x.mean(1, keepdim=True))


def nearest(queries: torch.Tensor, real: torch.Tensor, own: torch.Tensor | None = None):
    """Pictures, training pictures -> distance to the likest (N,), its number (N,); from M on, mirror images.

    own (N,): the number of each among the training pictures, which is left out together with its mirror image.
    """
    alike = likeness(queries) @ likeness(torch.cat([real, real.flip(3)])).T
    apart = (2 - 2 * alike).clamp(min=0).sqrt()
    if own is not None:
        row = torch.arange(len(queries))
        apart[row, own] = apart[row, own + len(real)] = math.inf
    return apart.min(1)


def sheet(pairs: list[tuple[float, torch.Tensor, torch.Tensor]]) -> Image.Image:
    """(distance, sample, training picture) -> the nearest pairs, row by row, nearest first, the sample on the left."""
    pairs = sorted(pairs, key=lambda pair: pair[0])[:PAIRS]
    rows = torch.stack([torch.cat(pair[1:], 2) for pair in pairs])
    return common.grid(F.interpolate(rows.float() / 127.5 - 1, scale_factor=2), 4)


# ---------------------------------------------------------------------------------------------------------- command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=0, help="of each domain; 0: as many as there are real pictures")
    parser.add_argument(
        "--sheet", type=Path, help="PNG of the nearest pairs; it shows training data: not for publishing"
    )


def prepare(args: argparse.Namespace) -> Callable[[Path], dict[str, float]]:
    """-> what measures a folder. Raises TrainingError."""

    @functools.cache
    def load(size: int, grey: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        images, places = faces.load_domains(SimpleNamespace(data=args.data, grey=grey), size)
        draws = torch.Generator().manual_seed(0)
        return images.pixels, [place[torch.randperm(len(place), generator=draws)] for place in places]  # may be sorted

    def measure(folder: Path) -> dict[str, float]:
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        net = Generator.from_pretrained(folder, torch_dtype=torch.float32).eval().to(runtime.device())
        pixels, places = load(net.image_size, tuple(facts["config"]["grey"]))
        classes, sources = max(net.config.classes, 1), len(places)
        if classes != sources:
            raise TrainingError(f"{folder.name} has {classes} domains, --data {sources}.")
        names = DOMAINS if classes == len(DOMAINS) else [f"domain_{i + 1}" for i in range(classes)]
        found, pairs = {}, []
        for label, (name, own) in enumerate(zip(names, places, strict=True)):
            if min(args.samples or len(own), len(own)) < LEAST:
                raise TrainingError(f"Distances need at least {LEAST} samples and real pictures of each domain.")
            result, near = measure_domain(net, label if net.config.classes else None, pixels, own, args.samples)
            found |= {f"{name}_{key}": round(value, 4) for key, value in result.items()}
            pairs += near
        if args.sheet:
            sheet(pairs).save(args.sheet)

        def worst(key: str, choose: Callable) -> float:
            return choose(found[f"{name}_{key}"] for name in names)

        summary = {"faces_found_of_real": worst("faces_found_ratio_psi_0.7", min), "recall": worst("recall", min)}
        return summary | {"nearer_than_real": worst("nearer_than_real", max)} | found

    return measure


def measure_domain(net: Generator, label: int | None, pixels: torch.Tensor, own: torch.Tensor, samples: int):
    """pixels: of all domains; own (M,): numbers of this one's -> figures, nearest pairs (see `sheet`)"""
    real, n = pixels[own], samples or len(own)
    some = real[:n]
    result = {"real_pictures": len(real), "samples": n, "faces_found_real": one_face(some)}
    for psi in (0.7, 1.0):
        drawn = draw(net, label, n, psi)
        result[f"faces_found_psi_{psi}"] = share = one_face(drawn)
        result[f"faces_found_ratio_psi_{psi}"] = share / max(result["faces_found_real"], 1 / len(some))
    mirrored = torch.rand(len(real), 1, 1, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    real = torch.where(mirrored, real.flip(3), real)  # half of them, as in training
    result |= compare(Space(real), drawn, real)

    between, _ = nearest(pixels[own], pixels, own)
    away, which = nearest(drawn, pixels)
    for percent in (1, 5, 50):
        result[f"nearest_p{percent}"] = away.quantile(percent / 100).item()
        result[f"nearest_p{percent}_real"] = between.quantile(percent / 100).item()
    result["nearer_than_real"] = (away < between.quantile(0.01)).double().mean().item()
    both = torch.cat([pixels, pixels.flip(3)])
    closest = away.argsort()[:PAIRS].tolist()
    return result, [(away[i].item(), drawn[i], both[which[i]]) for i in closest]
