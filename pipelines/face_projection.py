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

STEPS, LEAST_STEPS, MAX_STEPS = 150, 10, 1000
IN_W = 0.3  # share of the steps in which all layers follow one w
RATE = 0.1  # of Adam at its highest, in standard deviations of w
FEATURES = 0.2  # weight of the discriminator's features beside the pixels
PULL, SPREAD = 0.001, 0.002  # weights of the distance from the mean face, and of the layers from each other
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

    domain "" tries all and goes on with the one that comes nearest. `on_step(i, n, picture)` gets what it looks like so
    far and may raise to stop. Same picture and settings, same code. Raises Problem.
    """
    steps = whole("steps", steps, LEAST_STEPS, MAX_STEPS)
    domains = [domain] if domain or not pipeline.domains else list(pipeline.domains)
    labels = [pipeline.label(name) for name in domains]
    net, judge = pipeline.generator, pipeline.discriminator
    size = (net.image_size, net.image_size)
    face = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    target = runtime.to_tensor(face).to(net.device)
    maps = [m.to(net.device) for m in maps_of(net, 0)]
    spaces = [spread_of_w(net, label) for label in labels]
    mean, basis = (torch.stack(parts) for parts in zip(*spaces, strict=True))  # (domains, D), (domains, D, D)

    def compare(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """v (N, 1 or layers, D) -> pictures, loss of each (N,)"""
        ws = mean[:, None] + v @ basis.mT
        with runtime.autocast():
            x = net.synthesis(ws.expand(-1, net.layers, -1), maps)
            loss = difference(x, target, judge)
        away, apart = v.square().mean((1, 2)), (v - v.mean(1, keepdim=True)).square().mean((1, 2))
        return x, loss + PULL * away + SPREAD * apart

    in_w = math.ceil(IN_W * steps)
    best, v = 0, torch.zeros(len(domains), 1, mean.shape[1], device=net.device)  # the mean faces
    with torch.enable_grad():
        for step in range(steps):
            if step in (0, in_w):
                if step:  # the domain that came nearest goes on alone, its w once for each layer
                    domain, mean, basis = domains[best], mean[[best]], basis[[best]]
                    v = v[[best]].detach().repeat(1, net.layers, 1)
                optimizer = torch.optim.Adam([v.requires_grad_()], betas=(0.9, 0.95))
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate(step / steps)
            x, losses = compare(v)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            best = int(losses.argmin())
            if on_step:
                on_step(step + 1, steps, runtime.to_images(x[[best]])[0])
    with torch.no_grad():
        code = (mean[:, None] + v @ basis.mT)[0].float().cpu().numpy()
    text = face_space.pack(code)
    code = face_space.unpack(text, *code.shape)
    (drawn,) = pipeline.draw(code[None])
    error = float(np.mean((np.asarray(drawn, float) - np.asarray(face, float)) ** 2)) / 255**2
    recipe = pipeline.recipe("project", people=text, domain=domain, noise="fixed")
    return Projection(code, drawn, recipe, error)


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
    """Pictures (N, 3, S, S) and one target (1, 3, S, S) -> (N,): squares of pixels at all scales, and of features."""
    loss, a, b = 0, x.float(), target
    while True:
        loss = loss + (a - b).square().mean((1, 2, 3))
        if a.shape[-1] <= 8:
            break
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    if judge is not None:
        both = features(judge, torch.cat([x.float(), target]))
        loss = loss + FEATURES * sum((f[:-1] - f[-1:]).square().sum(1).mean((1, 2)) for f in both)
    return loss


def features(judge: Discriminator, x: torch.Tensor) -> list[torch.Tensor]:
    """What the discriminator's blocks see in x, of unit length at each place."""
    found, x = [], judge.from_rgb(x)
    for block in reversed(judge.blocks):
        x = block(x)
        found.append(F.normalize(x.float(), dim=1))
    return found
