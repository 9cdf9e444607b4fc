"""A small net that sees a face roughly cut out and says where the square of aligned training pictures lies around it.

It stands between a cascade's box, coarse and always upright, and the crop of FFHQ (Karras et al. 2019, appendix A).
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class FaceSquare(ModelMixin, ConfigMixin):
    """A grey view -> the square in it and whether there is a face at all."""

    @register_to_config
    def __init__(
        self,
        side: int = 48,  # of the view, in pixels; four halvings lead to the dense layers
        channels: tuple[int, ...] = (16, 32, 48, 64),  # after each halving
        hidden: int = 96,
    ):
        super().__init__()
        blocks = []
        for before, after in zip((1, *channels[:-1]), channels, strict=True):
            blocks += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [nn.Conv2d(after, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*blocks, nn.Flatten())
        places = channels[-1] * (side >> len(channels)) ** 2
        self.dense = nn.Sequential(nn.Linear(places, hidden), nn.ReLU(), nn.Linear(hidden, 5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N, 1, side, side), any range -> square (N, 4), logit of being a face (N,).

        The square is its centre (x right, y down) and the vector from there to the middle of its right edge, in units
        in which the view is [-1, 1] x [-1, 1]: (0, 0, 1, 0) is the view itself.
        """
        x = x - x.mean((1, 2, 3), keepdim=True)  # neither brightness nor contrast matters
        x = x / x.square().mean((1, 2, 3), keepdim=True).add(1e-6).sqrt()
        y = self.dense(self.features(x))
        return y[:, :4] + y.new_tensor([0, 0, 1, 0]), y[:, 4]
