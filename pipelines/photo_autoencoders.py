"""The autoencoders of latent diffusion on one's own photo: what they keep, what it costs, what damage does to it.

Rombach et al. 2022 (https://arxiv.org/abs/2112.10752), section 3.1: a picture is squeezed
eight times in height and width, and diffusion happens there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from PIL import Image
from torch import nn

from . import registry, runtime
from .models.tiny_autoencoder import TinyAutoencoder, released_names
from .problems import Problem, number, whole
from .problems import seed as check_seed
from .recipe import Recipe
from .weights import from_folder, load_strictly, read_tensors

SIZES = (64, 1024)  # longest side in px
NOISE = (0.0, 2.0)  # standard deviations of the latent
BITS = (1, 8)  # a number of the latent; EXACT is none rounded
EXACT = 32
SKETCH = 256  # px of the shorter side that a sketch of a larger picture keeps
_DIFFUSERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True)
class PhotoResult:
    original: Image.Image  # what was worked on: the photo, scaled down to `size`
    reconstruction: Image.Image  # of the same size
    latent_channels: list[Image.Image]  # grey, an eighth of the size; -3 standard deviations -> black, +3 -> white
    latent_shape: tuple[int, int, int]  # C, h, w
    psnr: float  # dB, between the two pictures; infinite if they are equal
    input_bytes: int  # one byte a colour value
    latent_bytes: int  # `bits` a number, and the range where it was rounded
    recipe: Recipe


class PhotoAutoencoderPipeline(DiffusionPipeline):
    def __init__(self, vae: nn.Module, model: registry.Model):
        super().__init__()
        # With channels last, bfloat16 convolutions take a third less time on the CPU.
        vae = vae.eval().requires_grad_(False).to(runtime.device(), memory_format=torch.channels_last)
        self.register_modules(vae=vae)
        self.model = model

    @classmethod
    def from_model(cls, model: registry.Model, folder: Path) -> "PhotoAutoencoderPipeline":
        """folder holds what model.files names. Raises Problem."""
        if "taef2_encoder.pth" in model.files:
            vae = TinyAutoencoder()
            parts = (read_tensors(folder / name) for name in ("taef2_encoder.pth", "taef2_decoder.pth"))
            load_strictly(vae, released_names(*parts), model.id)
        elif registry.TAEF2 in model.files:
            vae = TinyAutoencoder()
            load_strictly(vae, read_tensors(folder / registry.TAEF2), registry.TAEF2)
        else:
            name = registry.class_name(folder)
            if name not in _DIFFUSERS:
                raise Problem("model_broken", model=model.id)
            vae = from_folder(_DIFFUSERS[name], folder)
        return cls(vae, model)

    @torch.inference_mode()
    def __call__(
        self,
        image: Image.Image,  # RGB, see pictures.open_picture
        noise: float = 0.0,  # added to the latent, in its standard deviations
        bits: int = EXACT,  # of each number of the latent
        seed: int = 0,
        size: int = 512,  # longest side that is worked on, in px; smaller photos stay as they are
        on_step: Callable[[int, int, Image.Image | None], None] | None = None,
    ) -> PhotoResult:
        """Photo -> latent -> photo. on_step(i, n, preview) is called after each half and may raise to stop."""
        if not isinstance(image, Image.Image):
            raise Problem("no_picture")
        noise, seed, size = number("noise", noise, *NOISE), check_seed(seed), whole("size", size, *SIZES)
        bits = bits if bits == EXACT else whole("bits", bits, *BITS)
        image = image.convert("RGB")
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        x = _padded(runtime.to_tensor(image)).to(self.device)
        with runtime.autocast():
            latent = self.encode(x).float()
            _report(on_step, 1, None)
            spread = latent.std()
            damaged = latent + noise * spread * runtime.noise(seed, 1, *latent.shape[1:]) if noise else latent
            damaged = damaged if bits == EXACT else rounded(damaged, bits)
            x = self.decode(damaged).float()
        reconstruction = runtime.to_images(x[..., : image.height, : image.width])[0]
        _report(on_step, 2, reconstruction)
        settings = {"noise": noise, "bits": bits, "size": size}
        return PhotoResult(
            original=image,
            reconstruction=reconstruction,
            latent_channels=runtime.to_images((damaged / (3 * spread)).transpose(0, 1)),
            latent_shape=tuple(latent.shape[1:]),
            psnr=psnr(image, reconstruction),
            input_bytes=3 * image.width * image.height,
            latent_bytes=math.ceil(latent.numel() * bits / 8) + (0 if bits == EXACT else 8),
            recipe=Recipe.make(
                self.model.tab, self.model.id, registry.revision(self.model), "photo", settings, seed if noise else None
            ),
        )

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, 8h, 8w), [-1, 1] -> latent (N, C, h, w), the mean where the encoder gives a distribution"""
        code = self.vae.encode(x)
        if isinstance(self.vae, AutoencoderKL):
            return code.latent_dist.mean
        return code.latents if isinstance(self.vae, AutoencoderTiny) else code

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent (N, C, h, w) -> x (N, 3, 8h, 8w), about [-1, 1]"""
        x = self.vae.decode(latent)
        return x if isinstance(x, torch.Tensor) else x.sample

    def sketch(self, latent: torch.Tensor) -> torch.Tensor:
        """What `decode` of a tiny autoencoder gives, at 1/2 or 1/4 of the size where that leaves SKETCH pixels of the
        shorter side: latent (N, C, h, w) -> x (N, 3, 8h / k, 8w / k), about [-1, 1], k of 1, 2, 4.

        The last doublings are left out. The layers behind them draw nearly the same on fewer places (looked at with the
        published weights of taef2), in half of the time or in a sixth."""
        layers = self.vae.decoder.layers
        doublings = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Upsample)]
        spare = max(int(math.log2(8 * min(latent.shape[2:]) / SKETCH)), 0)
        x = 3 * torch.tanh(latent / 3)
        for i, layer in enumerate(layers):
            if i not in doublings[len(doublings) - min(spare, 2) :]:
                x = layer(x)
        return x * 2 - 1


def rounded(latent: torch.Tensor, bits: int) -> torch.Tensor:
    """Every number to the nearest of 2**bits levels, evenly from the smallest to the largest."""
    low, high = latent.min(), latent.max()
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    return low + ((latent - low) / step).round() * step


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures of one size, in dB."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _padded(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> sides rounded up to multiples of 8, the last row and column repeated"""
    height, width = x.shape[-2:]
    return nn.functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")


def _report(on_step: Callable | None, i: int, preview: Image.Image | None) -> None:
    if on_step:
        on_step(i, 2, preview)
