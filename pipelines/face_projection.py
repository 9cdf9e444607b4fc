"""From a face to the code that draws it: projection into W+, so that one's own face can be edited like any other.

Karras et al. 2020 (https://arxiv.org/abs/1912.04958), section 5 and appendix D: from the mean of w by gradient descent,
at a rate that rises and falls. Abdal et al. 2019 (https://arxiv.org/abs/1904.03189): a row for each layer (W+).
Tov et al. 2021 (https://arxiv.org/abs/2102.02766): only what stays near W can be edited.

Likeness is measured in pixels at several scales and in the features of the discriminator that comes with the model, as
LPIPS does with those of a classifier (Zhang et al. 2018, eq. 1), so nothing has to be fetched.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from . import face_space, runtime
from .face_drawing import maps_of
from .faces import FacesPipeline
from .models.stylegan2 import Discriminator, Generator
from .problems import whole
from .recipe import Recipe

STEPS, LEAST_STEPS, MAX_STEPS = 200, 10, 1000
IN_W = 0.3  # share of the steps in which all layers follow one w
BETAS = (0.9, 0.95)  # of Adam
RATE = 0.1  # of Adam at its highest, in standard deviations of w
FEATURES = 0.2  # weight of the discriminator's features beside the pixels
PULL, SPREAD = 0.01, 0.01  # weights of the distance from the mean face, and of the layers from each other
SAMPLES = 4096  # of w, to know its mean and how it varies


@dataclass(frozen=True)
class Projection:
    """What a face became. `code` is rounded as links hold it; `picture` is drawn from that, with noise "fixed"."""

    code: np.ndarray  # float32 (layers, w_dim)
    picture: Image.Image
    recipe: Recipe  # holds the code, not the photo
    error: float  # mean squared error against the face, pixels in [0, 1]


def project(
    pipeline: FacesPipeline,
    picture: Image.Image,
    domain: str = "",
    steps: int = STEPS,
    on_step: Callable[[int, int, Image.Image], None] | None = None,
) -> Projection:
    """An aligned face (see face_alignment.py) of any size -> its code.

    domain "" is the one as colourful as the face. `on_step(i, n, picture)` gets what it looks like so far and may raise
    to stop. The same picture and settings give the same code. Raises Problem.
    """
    steps = whole("steps", steps, LEAST_STEPS, MAX_STEPS)
    net, judge = pipeline.generator, pipeline.discriminator
    size = (net.image_size, net.image_size)
    face = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    domain = pipeline.domain(domain or as_colourful(pipeline, face))
    mean, basis = spread_of_w(net, pipeline.label(domain))
    target = runtime.to_tensor(face).to(net.device)
    maps = [m.to(net.device) for m in maps_of(net, 0)]
    with torch.enable_grad():
        for step in range(steps):
            if step == 0:
                v = torch.zeros(1, 1, len(mean), device=net.device)  # the mean face
                optimizer = torch.optim.Adam([v.requires_grad_()], betas=BETAS)
            elif step == math.ceil(IN_W * steps):  # from here on a row for each layer
                v = v.detach().repeat(1, net.layers, 1)
                optimizer = torch.optim.Adam([v.requires_grad_()], betas=BETAS)
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate(step / steps)
            with runtime.autocast():
                x = net.synthesis((mean + v @ basis.T).expand(-1, net.layers, -1), maps)
                loss = difference(x, target, judge)
            loss = loss + PULL * v.square().mean() + SPREAD * (v - v.mean(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if on_step:
                on_step(step + 1, steps, runtime.to_images(x)[0])
    text = face_space.pack((mean + v @ basis.T)[0].detach().cpu().numpy())
    code = face_space.unpack(text, net.layers, len(mean))
    (drawn,) = pipeline.draw(code[None])
    error = float(np.mean((np.asarray(drawn, float) - np.asarray(face, float)) ** 2)) / 255**2
    return Projection(code, drawn, pipeline.recipe("project", people=text, domain=domain, noise="fixed"), error)


def as_colourful(pipeline: FacesPipeline, face: Image.Image) -> str:
    """The domain whose mean face is as colourful as the face; "" where there are none.

    Projecting into each and comparing errors says less: hair and collar decide that, and a grey domain can be bent into
    colours.
    """

    def colours(image: Image.Image) -> float:
        pixels = np.asarray(image, float)
        return math.log(1 + np.abs(pixels - pixels.mean(2, keepdims=True)).mean())  # in grey levels

    def distance(domain: str) -> float:
        (mean,) = pipeline.draw(pipeline.ws([0], domain, psi=0))
        return abs(colours(mean) - colours(face))

    return min(pipeline.domains, key=distance, default="")


@torch.no_grad()
def spread_of_w(net: Generator, label: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """-> mean of w (D,), and (D, D): from the numbers that are optimised to what they add to the mean.

    Along each principal axis of w they count in the root of its deviation (times a mean): halfway between plain w,
    which finds a likeness soonest but far from where faces are, and w whitened, which keeps to them but is slow.
    """
    z = torch.randn(SAMPLES, net.config.z_dim, generator=torch.Generator().manual_seed(0)).to(net.device)
    w = net.mapping(z, label if label is None else label.expand(SAMPLES))
    values, vectors = torch.linalg.eigh(torch.cov(w.T))
    values = values.clamp(min=0)
    return w.mean(0), vectors * (values * values.mean()) ** 0.25


def rate(t: float) -> float:
    """Share of the highest rate at t in [0, 1): rises over 5 % of the way, falls as a cosine over the last 40 %."""
    return min(1, t / 0.05 + 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.4)))


def difference(x: torch.Tensor, target: torch.Tensor, judge: Discriminator | None) -> torch.Tensor:
    """Picture and target (1, 3, S, S) -> scalar: squares of pixels at all scales down to 8 px, and of features."""
    loss, a, b = F.mse_loss(x.float(), target), x.float(), target
    while a.shape[-1] > 8:
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        loss = loss + F.mse_loss(a, b)
    if judge is not None:
        seen = features(judge, torch.cat([x.float(), target]))
        loss = loss + FEATURES * sum((ours - theirs).square().sum(0).mean() for ours, theirs in seen)
    return loss


def features(judge: Discriminator, x: torch.Tensor) -> list[torch.Tensor]:
    """What the discriminator's blocks see in x, of unit length at each place."""
    found, x = [], judge.from_rgb(x)
    for block in reversed(judge.blocks):
        x = block(x)
        found.append(F.normalize(x.float(), dim=1))
    return found
