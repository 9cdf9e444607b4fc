"""TAEF2: a tiny autoencoder in the latent space of FLUX.2 (Ollin Boer Bohan, MIT, github.com/madebyollin/taesd).

The layout of the released tensors, which AutoencoderTiny of diffusers does not cover: 32 latent channels and, in the
six blocks at the lowest resolution, a branch with group normalisation that lets statistics of the whole picture
through. Layers are numbered as in AutoencoderTiny, so the hub's safetensors file loads as it is.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class TinyAutoencoder(ModelMixin, ConfigMixin):
    """Eight times smaller in height and width; the latent has about unit variance."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        width: int = 64,  # channels everywhere in between
        depth: int = 3,  # blocks a resolution
        groups: int = 4,  # of the normalisation; its branch is `groups` times wider than the rest
    ):
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()  # names of the released tensors: encoder.layers.0 ...
        self.encoder.layers = nn.Sequential(
            _conv(3, width),
            Block(width),
            *_down(width, depth),
            *_down(width, depth),
            *_down(width, depth, groups),
            _conv(width, latent_channels),
        )
        self.decoder.layers = nn.Sequential(
            _conv(latent_channels, width),
            nn.ReLU(),
            *_up(width, depth, groups),
            *_up(width, depth),
            *_up(width, depth),
            Block(width),
            _conv(width, 3),
        )

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, 8h, 8w), [-1, 1] -> latent (N, C, h, w)"""
        return self.encoder.layers((x + 1) / 2)  # trained on [0, 1]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """latent (N, C, h, w), softly limited to [-3, 3] -> x (N, 3, 8h, 8w), about [-1, 1]"""
        return self.decoder.layers(3 * torch.tanh(latent / 3)) * 2 - 1


class Block(nn.Module):
    """Residual block; with `groups` a normalised branch is added first."""

    def __init__(self, width: int, groups: int = 0):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))
        if groups:
            wide = groups * width
            self.pool = nn.Sequential(
                nn.Conv2d(width, wide, 1, bias=False),
                nn.GroupNorm(groups, wide),
                nn.ReLU(),
                nn.Conv2d(wide, width, 1, bias=False),
            )
        self.groups = groups

    def forward(self, x):
        if self.groups:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def _conv(n_in: int, n_out: int, **more) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, **more)


def _down(width: int, depth: int, groups: int = 0) -> list[nn.Module]:
    return [_conv(width, width, stride=2, bias=False), *(Block(width, groups) for _ in range(depth))]


def _up(width: int, depth: int, groups: int = 0) -> list[nn.Module]:
    return [*(Block(width, groups) for _ in range(depth)), nn.Upsample(scale_factor=2), _conv(width, width, bias=False)]


def released_names(encoder: dict[str, torch.Tensor], decoder: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of taef2_encoder.pth and taef2_decoder.pth -> names as in TinyAutoencoder's state dict.

    Both files number the layers from 0; the decoder's layer 0 is the limiter, which has no place in ours.
    """
    state = {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
    for name, tensor in decoder.items():
        number, _, rest = name.partition(".")
        state[f"decoder.layers.{int(number) - 1 if number.isdigit() else number}.{rest}"] = tensor
    return state
