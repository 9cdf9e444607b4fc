"""Autoencoders of small pictures: an encoder to a few numbers and a decoder back, both fully connected.

x is a float tensor in [-1, 1], -1 the background and 1 the ink; z the code. D is latent_dim.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes" (https://arxiv.org/abs/1312.6114), appendix C;
Higgins et al. 2017, "beta-VAE" (https://openreview.net/forum?id=Sy2fzU9gl).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


def dense(*sizes: int) -> list[nn.Module]:
    """Linear layers from sizes[0] to sizes[-1], SiLU between them."""
    layers = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return layers[:-1]


class Residual(nn.Module):
    """h (N, width) -> h + what a layer adds to it (He et al. 2016): what lets the net be deep."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.linear(F.silu(self.norm(h)))


class DenseVAE(ModelMixin, ConfigMixin):
    """A variational autoencoder with Bernoulli pixels; with variational=False a plain autoencoder."""

    @register_to_config
    def __init__(
        self,
        image_size: int = 28,  # side of the grey picture
        hidden: tuple[int, ...] = (512, 256),  # widths of the encoder; the decoder mirrors them
        blocks: int = 0,  # residual layers next to the code, as wide as the last of `hidden`
        latent_dim: int = 2,  # numbers in a code
        variational: bool = True,  # False: no variance, no KL term
        beta: float = 1.0,  # weight of the KL term in training (Higgins 2017, eq. 4); the net does not use it
    ):
        super().__init__()
        pixels, hidden, width = image_size * image_size, tuple(hidden), hidden[-1]
        inward = [Residual(width) for _ in range(blocks)]
        outward = [Residual(width) for _ in range(blocks)]
        code = nn.Linear(width, 2 * latent_dim if variational else latent_dim)
        self.encoder = nn.Sequential(*dense(pixels, *hidden), *inward, nn.SiLU(), code)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, width), *outward, nn.SiLU(), *dense(*reversed(hidden), pixels)
        )

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x (N, 1, H, W) in [-1, 1] -> mean, logvar of q(z|x), each (N, D); a plain autoencoder has logvar None."""
        code = self.encoder(x.flatten(1))
        return tuple(code.chunk(2, dim=1)) if self.config.variational else (code, None)

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """z (N, D) -> log-odds of ink (N, 1, H, W)."""
        return self.decoder(z).unflatten(1, (1, self.config.image_size, self.config.image_size))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """z (N, D) -> x (N, 1, H, W) in [-1, 1]: the probability p of ink as 2p - 1."""
        return 2 * self.logits(z).sigmoid() - 1

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """x (N, 1, H, W) in [-1, 1], noise (N, D) from N(0, 1) -> logits, mean, logvar.

        z = mean + sigma * noise (Kingma & Welling 2014, eq. 10).
        """
        mean, logvar = self.encode(x)
        z = mean if logvar is None else mean + (0.5 * logvar).exp() * noise
        return self.logits(z), mean, logvar
