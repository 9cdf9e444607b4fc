"""Small autoencoders one can look inside: encode, decode, walk between and add up codes.

Kingma & Welling 2014 (https://arxiv.org/abs/1312.6114) is the paper behind all of it. Pictures are PIL "L", 28 x 28,
white on black; codes are numpy arrays (N, D). The photo autoencoders of latent diffusion: photo_autoencoders.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from pipelines.latents import MAX_FRAMES, MAX_HOLE, MAX_SAMPLES, MAX_TEMPERATURE, MODES, SIDE, read
from pipelines.models.vae import DenseVAE
from pipelines.photo_autoencoders import PhotoAutoencoderPipeline
from pipelines.problems import Problem, choice, number, whole
from pipelines.problems import seed as checked_seed
from pipelines.recipe import Recipe
from pipelines.registry import Model, revision
from pipelines.runtime import generators, to_images, to_tensor
from pipelines.weights import from_folder


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder makes of a picture. `std` is None for a plain autoencoder."""

    seen: Image.Image  # after noise and hole
    picture: Image.Image
    difference: Image.Image  # |picture - original|, black where they agree
    mean: np.ndarray  # (D,)
    std: np.ndarray | None  # (D,)
    error: float  # mean squared error against the original, pixels in [0, 1]
    recipe: Recipe


def from_model(model: Model, folder: Path) -> DiffusionPipeline:
    """What `pipelines.load` calls: the wrapper of a latent or a photo autoencoder."""
    if model.kind == "photo":
        return PhotoAutoencoderPipeline.from_model(model, folder)
    return LatentPipeline(from_folder(DenseVAE, folder), model, folder)


class LatentPipeline(DiffusionPipeline):
    """A DenseVAE and the codes of its test set; fast enough for a finger."""

    def __init__(self, vae: DenseVAE, model: Model, folder: Path):
        super().__init__()
        self.register_modules(vae=vae.eval().float())
        self.model, self.latents = model, read(folder)

    def recipe(self, task: str, seed: int | None = None, **settings) -> Recipe:
        """The recipe of a picture made by `task`; a tab adds settings of its own."""
        return Recipe.make("vae_playground", self.model.id, revision(self.model), task, settings, seed)

    @torch.inference_mode()
    def encode(self, pictures: list[Image.Image]) -> tuple[np.ndarray, np.ndarray | None]:
        """Pictures -> mean and standard deviation of q(z|x), each (N, D); a plain autoencoder has no deviation."""
        mean, logvar = self.vae.encode(to_tensor([picture.convert("L") for picture in pictures]))
        return mean.numpy(), None if logvar is None else (0.5 * logvar).exp().numpy()

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> list[Image.Image]:
        """Codes (N, D) -> pictures, one by one: a product of another size rounds differently."""
        codes = torch.as_tensor(np.asarray(codes, np.float32))
        if codes.ndim != 2 or codes.shape[1] != self.latents.dimensions:
            raise Problem("code_size", expected=self.latents.dimensions, value=tuple(codes.shape))
        return [to_images(self.vae.decode(code[None]))[0] for code in codes]

    def reconstruct(self, picture: Image.Image, noise: float = 0.0, hole: float = 0.0, seed: int = 0) -> Reconstruction:
        """Picture -> code -> picture, with the input spoilt first.

        `noise` is the standard deviation added to pixels in [0, 1]; `hole` the side of a black square in the middle, a
        share of the picture's (0 -> 0.8).
        """
        noise, hole = number("noise", noise, 0, 1), number("hole", hole, 0, MAX_HOLE)
        original = _grey(picture)
        seen = original.clone()
        if noise:
            seen += noise * torch.randn(original.shape, generator=generators(seed)[0])
        cut = round(hole * SIDE / 2)
        seen[SIDE // 2 - cut : SIDE // 2 + cut, SIDE // 2 - cut : SIDE // 2 + cut] = 0
        spoilt = _image(seen)
        mean, std = self.encode([spoilt])
        rebuilt = self.decode(mean)[0]
        difference = (_grey(rebuilt) - original).abs()
        return Reconstruction(
            seen=spoilt,
            picture=rebuilt,
            difference=_image(difference),
            mean=mean[0],
            std=None if std is None else std[0],
            error=float((difference**2).mean()),
            recipe=self.recipe("reconstruct", checked_seed(seed), noise=noise, hole=hole),
        )

    def interpolate(
        self, start: np.ndarray, end: np.ndarray, frames: int = 12, mode: str = "lerp", on_step: Callable | None = None
    ) -> tuple[list[Image.Image], Recipe]:
        """Codes (D,), (D,) -> `frames` pictures on the way, both ends included.

        `on_step(i, n, pictures)` gets what there is so far and may raise to stop.
        """
        frames, mode = whole("frames", frames, 2, MAX_FRAMES), choice("mode", mode, MODES)
        path = {"lerp": lerp, "slerp": slerp}[mode]
        pictures = []
        for i, t in enumerate(np.linspace(0, 1, frames)):
            pictures += self.decode(path(start, end, t)[None])
            if on_step:
                on_step(i + 1, frames, pictures)
        return pictures, self.recipe("interpolate", frames=frames, mode=mode)

    def sample(self, count: int = 36, temperature: float = 1.0, seed: int = 0) -> tuple[list[Image.Image], Recipe]:
        """`count` pictures from the prior, z ~ N(0, temperature^2 I); picture i depends on seed + i alone."""
        count = whole("count", count, 1, MAX_SAMPLES)
        temperature = number("temperature", temperature, 0, MAX_TEMPERATURE)
        codes = [torch.randn(self.latents.dimensions, generator=g).numpy() for g in generators(seed, count)]
        recipe = self.recipe("sample", checked_seed(seed), count=count, temperature=temperature)
        return self.decode(temperature * np.stack(codes)), recipe


def lerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The straight line: (1 - t) a + t b."""
    return (1 - t) * a + t * b


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The great circle (Shoemake 1985), lengths interpolated too; the line where a and b are parallel."""
    norms = np.linalg.norm(a), np.linalg.norm(b)
    if min(norms) < 1e-6:
        return lerp(a, b, t)
    unit = a / norms[0], b / norms[1]
    angle = np.arccos(np.clip(unit[0] @ unit[1], -1, 1))
    if np.sin(angle) < 1e-4:
        return lerp(a, b, t)
    way = (np.sin((1 - t) * angle) * unit[0] + np.sin(t * angle) * unit[1]) / np.sin(angle)
    return lerp(*norms, t) * way


def _grey(picture: Image.Image) -> torch.Tensor:
    """Picture -> (28, 28) in [0, 1]."""
    return (to_tensor(picture.convert("L"))[0, 0] + 1) / 2


def _image(pixels: torch.Tensor) -> Image.Image:
    """(28, 28) in [0, 1] -> picture."""
    return to_images(2 * pixels[None, None] - 1)[0]
