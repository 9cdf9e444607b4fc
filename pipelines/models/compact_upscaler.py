"""Real-ESRGAN's compact net: a picture four times as large, by convolutions at the small size alone.

x is a float tensor (N, 3, H, W) in [-1, 1].

Wang et al. 2021, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data"
(https://arxiv.org/abs/2107.10833). The net of the paper is 27 times as large; this one, a plain row of convolutions in
the manner of VGG, its authors published later for video ("SRVGGNetCompact"). The last layer draws all pixels that
belong to one place as channels of that place (Shi et al. 2016, https://arxiv.org/abs/1609.05158), and what it draws
is added to the picture with its pixels repeated. The activation is PReLU (He et al. 2015,
https://arxiv.org/abs/1502.01852): below 0 each channel has a slope of its own.

Nothing is normalised, so a place depends on the pixels within `reach` of it and on nothing else.
"""

import math
import re

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F


class CompactUpscaler(ModelMixin, ConfigMixin):
    """A picture -> the same picture `scale` times as wide and high."""

    @register_to_config
    def __init__(
        self,
        width: int = 64,  # channels in between
        depth: int = 16,  # convolutions between the first and the last
        scale: int = 4,
    ):
        super().__init__()
        self.convs = nn.ModuleList(_conv(3 if i == 0 else width, width) for i in range(depth + 1))
        self.slopes = nn.ParameterList(torch.full((width,), 0.25) for _ in range(depth + 1))
        self.out = _conv(width, 3 * scale**2)

    @property
    def reach(self) -> int:
        """px of the small picture that are seen beyond a place: one for each convolution."""
        return len(self.convs) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, H, W) in [-1, 1] -> (N, 3, scale * H, scale * W), about [-1, 1], fp32"""
        scale = self.config.scale
        y = (x + 1) / 2  # trained on [0, 1], with black around the picture
        for conv, slope in zip(self.convs, self.slopes, strict=True):
            y = conv(y)  # (N, width, H, W)
            y = F.prelu(y, slope.to(y.dtype))
        detail = F.pixel_shuffle(self.out(y).float(), scale)  # (N, 3 * scale^2, H, W) -> (N, 3, scale * H, scale * W)
        return F.interpolate(x, scale_factor=scale, mode="nearest") + 2 * detail


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def from_xinntao(state: dict[str, torch.Tensor]) -> CompactUpscaler:
    """The tensors below "params" in the authors' files -> CompactUpscaler.

    Layers are numbered there with the activations: body.0 is a convolution, body.1 its slopes, and so on; the last is a
    convolution. Every key is accounted for: raises ValueError whose only argument is the key that is missing,
    superfluous or unfit.
    """
    numbers = {key: re.fullmatch(r"body\.(\d{1,4})\.(weight|bias)", key) for key in state}
    last = max((int(found[1]) for found in numbers.values() if found), default=0)
    layers = {f"body.{2 * i}": f"convs.{i}" for i in range(last // 2)} | {f"body.{last}": "out"}
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in ("weight", "bias")}
    names |= {f"body.{2 * i + 1}.weight": f"slopes.{i}" for i in range(last // 2)}
    for key in sorted(names.keys() ^ state.keys()):
        raise ValueError(key)
    width, scale = len(state["body.0.bias"]), math.isqrt(len(state[f"body.{last}.bias"]) // 3)
    net = CompactUpscaler(width, last // 2 - 1, scale)
    own = net.state_dict()
    for key, name in names.items():
        if name not in own or own[name].shape != state[key].shape:
            raise ValueError(key)
        own[name].copy_(state[key])
    return net
