"""StyleGAN2: a generator whose styles scale the inputs of its convolutions, and the discriminator it plays against.

z is the Gaussian latent, w the latent after the mapping network, ws the same with one row a layer (W+). x is a float
tensor (N, 3, H, W) in [-1, 1]. With classes, one net holds several domains: label (N,) int64 says which.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (https://arxiv.org/abs/1912.04958):
equations 1-3, figure 2 and appendix B. Mapping, noise and style mixing: Karras et al. 2019 (https://arxiv.org/abs/1812.04948).
Equalised learning rate, minibatch standard deviation and growing: Karras et al. 2018 (https://arxiv.org/abs/1710.10196).
Projection discriminator: Miyato & Koyama 2018 (https://arxiv.org/abs/1802.05637).

There is no compiled operator: the convolution is shared by the batch, and what the paper does to its weights is done
to its input and output instead (see `ModulatedConv`). Styles, demodulation and RGB stay in fp32 under autocast.
Features lie in memory channels last, which on a CPU makes bf16 a fifth faster.
"""

import math
import re

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

WIDTHS = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # of the paper's config F, at 4, 8, ... 1024 px


def fp32(x: torch.Tensor) -> torch.autocast:
    """The context in which autocast is off where x lives."""
    return torch.autocast(x.device.type, enabled=False)


def normalise(x: torch.Tensor) -> torch.Tensor:
    """x (N, C) -> the same directions, of mean square 1 (Karras 2018, eq. 2)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def activate(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU of x + bias (C,), times sqrt 2: the variance stays what it was (He 2015)."""
    bias = bias.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype)
    return F.leaky_relu(x + bias, 0.2) * math.sqrt(2)


class Dense(nn.Module):
    """Linear layer at equalised learning rate: weights are N(0, 1) and scaled in use, so Adam moves all layers alike.

    lr_mul < 1 slows the layer down (the mapping network).
    """

    def __init__(self, features_in: int, features_out: int, bias: float = 0, lr_mul: float = 1, act: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_out, features_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((features_out,), float(bias)))
        self.scale, self.lr_mul, self.act = lr_mul / math.sqrt(features_in), lr_mul, act

    def forward(self, x):
        y = F.linear(x, self.weight * self.scale)
        return activate(y, self.bias * self.lr_mul) if self.act else y + self.bias * self.lr_mul


class Filter(nn.Module):
    """The binomial low-pass filter [1, 3, 3, 1] in both directions, which all resampling goes through (section 4)."""

    def __init__(self):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", taps[:, None] * taps / 64, persistent=False)

    def weight(self, x):
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)

    def forward(self, x, padding: int, gain: float = 1):
        return F.conv2d(x, gain * self.weight(x), padding=padding, groups=x.shape[1])

    def down(self, x):
        """(N, C, H, W) -> (N, C, H/2, W/2). Drops every other pixel: backward through a stride is 8 times slower"""
        return self(x, padding=1)[:, :, ::2, ::2]

    def up(self, x):
        """(N, C, H, W) -> (N, C, 2H, 2W): zeros between the pixels, then the filter; 4 makes up for the zeros."""
        return F.conv_transpose2d(x, 4 * self.weight(x), stride=2, padding=1, groups=x.shape[1])


class Conv(nn.Module):
    """Convolution at equalised learning rate, bias, activation; down halves the side behind the low-pass filter.

    linear: neither bias nor activation, as the shortcut of a residual block.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, down: bool = False, linear: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(channels_out))
        self.scale, self.filter = 1 / math.sqrt(channels_in * kernel**2), Filter() if down else None

    def forward(self, x):
        weight, padding = self.weight * self.scale, self.weight.shape[-1] // 2
        if self.filter is None:
            x = F.conv2d(x, weight, padding=padding)
        elif padding:  # (N, C, H, W) -> (N, C, H + 1, W + 1) -> (N, C', H/2, W/2)
            x = F.conv2d(self.filter(x, padding=2), weight, stride=2)
        else:
            x = F.conv2d(self.filter.down(x), weight)
        return x if self.bias is None else activate(x, self.bias)


class ModulatedConv(nn.Module):
    """Convolution whose weights are scaled by a style and brought back to unit norm for every picture.

    The paper scales weights: w' = s_i w (eq. 1), w'' = w' / sqrt(sum w'^2 + eps) (eq. 3), another convolution for each
    picture. Convolution is linear, so scaling input i by s_i and output j by the root is the same, with shared weights.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, w_dim: int, up: bool = False, demodulate=True):
        super().__init__()
        self.affine = Dense(w_dim, channels_in, bias=1)  # A in figure 2
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in, kernel, kernel))
        self.scale, self.demodulate = 1 / math.sqrt(channels_in * kernel**2), demodulate
        self.filter = Filter() if up else None

    def forward(self, x, w):
        """x (N, C, H, W), w (N, w_dim) -> (N, C', H, W), or (N, C', 2H, 2W) with up"""
        weight = self.weight * self.scale
        with fp32(x):
            s = self.affine(w.float())  # (N, C)
            x = x * s[:, :, None, None].to(x.dtype)
            if self.demodulate:
                norm = (s.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()  # (N, C'), eq. 3
        if self.filter is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:  # (N, C, H, W) -> (N, C', 2H + 1, 2W + 1) -> (N, C', 2H, 2W)
            x = self.filter(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4)
        return x * norm[:, :, None, None].to(x.dtype) if self.demodulate else x


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation: a grey box of figure 2c."""

    def __init__(self, channels_in: int, channels_out: int, w_dim: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv(channels_in, channels_out, 3, w_dim, up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x, w, noise):
        x = self.conv(x, w)
        if noise is not None:
            x = x + (self.noise_strength * noise).to(x.dtype)
        return activate(x, self.bias)


class ToRGB(nn.Module):
    """Features -> this resolution's share of the picture."""

    def __init__(self, channels: int, w_dim: int):
        super().__init__()
        self.conv = ModulatedConv(channels, 3, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x, w):
        return self.conv(x, w).float() + self.bias.view(1, 3, 1, 1)


class SynthesisBlock(nn.Module):
    """One resolution above 4 px: twice the side, two convolutions, RGB added to the picture so far (figure 7b)."""

    def __init__(self, channels_in: int, channels_out: int, w_dim: int):
        super().__init__()
        self.up = StyledConv(channels_in, channels_out, w_dim, up=True)
        self.conv = StyledConv(channels_out, channels_out, w_dim)
        self.to_rgb = ToRGB(channels_out, w_dim)
        self.filter = Filter()

    def forward(self, x, rgb, ws, noise, fade=None):
        """ws (N, 3, w_dim); the last row, of RGB, is also the first of the next block"""
        x = self.up(x, ws[:, 0], noise[0])
        x = self.conv(x, ws[:, 1], noise[1])
        with fp32(rgb):
            rgb = self.filter.up(rgb)
        new = self.to_rgb(x, ws[:, 2])
        return x, rgb + (new if fade is None else fade * new)


class Mapping(nn.Module):
    """z (and a class) -> w, through slow fully connected layers."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, classes: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(classes, z_dim)) if classes else None
        first = 2 * z_dim if classes else z_dim
        sizes = [first] + [w_dim] * layers
        self.layers = nn.Sequential(
            *(Dense(a, b, lr_mul=0.01, act=True) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        )

    def forward(self, z, label=None):
        """z (N, z_dim), label (N,) or None -> w (N, w_dim)"""
        with fp32(z):
            x = normalise(z)
            if self.embedding is not None:
                x = torch.cat([x, normalise(self.embedding[label])], 1)
            return self.layers(x)


class Generator(ModelMixin, ConfigMixin):
    """z -> picture. Its side is 4 px doubled for every further entry of `channels`."""

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = WIDTHS,  # widths at 4, 8, 16 ... px; 3 entries (16 px) to 9 (1024 px)
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        classes: int = 0,  # domains that one net holds; 0: unconditional
    ):
        super().__init__()
        if not 3 <= len(channels) <= 9:
            raise ValueError(f"channels has {len(channels)} entries; 3 (16 px) to 9 (1024 px) are possible.")
        self.mapping = Mapping(z_dim, w_dim, mapping_layers, classes)
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.conv = StyledConv(channels[0], channels[0], w_dim)
        self.to_rgb = ToRGB(channels[0], w_dim)
        self.blocks = nn.ModuleList(
            SynthesisBlock(a, b, w_dim) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        # Where truncation pulls to: the mean of w, one a class. Measured by `measure_mean`.
        self.register_buffer("w_mean", torch.zeros(max(classes, 1), w_dim))

    @property
    def image_size(self) -> int:
        return 4 << len(self.blocks)

    @property
    def layers(self) -> int:
        """Rows of ws: the paper's two a resolution; the last is the style of the last RGB layer alone."""
        return 2 * len(self.blocks) + 2

    @property
    def noise_sizes(self) -> tuple[int, ...]:
        """Sides of the noise maps, one a convolution: 4, 8, 8, 16, 16 ..."""
        return (4, *(8 << i // 2 for i in range(2 * len(self.blocks))))

    def synthesis(self, ws: torch.Tensor, noise=None, fade: torch.Tensor | None = None) -> torch.Tensor:
        """ws (N, layers, w_dim), noise: maps (N or 1, 1, r, r) for r in noise_sizes, or None for no noise -> x.

        fade: a scalar that fades the highest resolution in while a net grows; None when it has grown.
        """
        noise = [None] * len(self.noise_sizes) if noise is None else noise
        x = self.constant.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.conv(x, ws[:, 0], noise[0])
        rgb = self.to_rgb(x, ws[:, 1])
        for i, block in enumerate(self.blocks):
            here, top = 2 * i + 1, i == len(self.blocks) - 1
            x, rgb = block(x, rgb, ws[:, here : here + 3], noise[here : here + 2], fade if top else None)
        return rgb

    def styles(self, w: torch.Tensor, label=None, psi: float = 1.0, cutoff: int | None = None) -> torch.Tensor:
        """w (N, w_dim) -> ws (N, layers, w_dim), the first `cutoff` layers (None: all) pulled to the mean by psi.

        psi 1 changes nothing, 0 gives the mean face of the class, below 0 the opposite face (Karras 2019, appendix B).
        """
        ws = w[:, None].expand(-1, self.layers, -1)
        mean = self.w_mean[:1] if label is None else self.w_mean[label]
        truncated = mean[:, None].lerp(ws, psi)
        cutoff = self.layers if cutoff is None else cutoff
        return torch.cat([truncated[:, :cutoff], ws[:, cutoff:]], 1)

    def forward(self, z, label=None, noise=None, psi: float = 1.0) -> torch.Tensor:
        """z (N, z_dim), label (N,) int64 where there are classes -> x (N, 3, H, W), about [-1, 1]"""
        return self.synthesis(self.styles(self.mapping(z, label), label, psi), noise)

    @torch.no_grad()
    def measure_mean(self, samples: int = 10_000) -> None:
        """Sets w_mean from that many z of a fixed seed."""
        z = torch.randn(samples, self.config.z_dim, generator=torch.Generator().manual_seed(0)).to(self.w_mean)
        for i in range(len(self.w_mean)):
            label = torch.full((samples,), i, device=z.device) if self.config.classes else None
            self.w_mean[i] = self.mapping(z, label).mean(0)


class ResidualBlock(nn.Module):
    """Two convolutions to half the side, and a shortcut; the sum of the two keeps its variance (figure 7c)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = Conv(channels_in, channels_in, 3)
        self.down = Conv(channels_in, channels_out, 3, down=True)
        self.shortcut = Conv(channels_in, channels_out, 1, down=True, linear=True)

    def forward(self, x):
        return (self.down(self.conv(x)) + self.shortcut(x)) / math.sqrt(2)


def minibatch_std(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """x (N, C, H, W) -> (N, C + 1, H, W): the mean deviation within groups of pictures, so that sameness is seen.

    Groups are of the largest size up to `group` that divides N; picture i belongs to group i mod (N / size).
    """
    size = math.gcd(len(x), group)
    deviation = x.unflatten(0, (size, -1)).var(0, correction=0).add(1e-8).sqrt().mean((1, 2, 3))  # (N / size,)
    return torch.cat([x, deviation.repeat(size).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)


class Discriminator(ModelMixin, ConfigMixin):
    """Picture -> logit; above 0 it looks real."""

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = WIDTHS,  # widths at 4, 8, 16 ... px, as the generator's
        classes: int = 0,  # domains; 0: unconditional
    ):
        super().__init__()
        if not 3 <= len(channels) <= 9:
            raise ValueError(f"channels has {len(channels)} entries; 3 (16 px) to 9 (1024 px) are possible.")
        self.from_rgb = Conv(3, channels[-1], 1)
        self.from_half = Conv(3, channels[-2], 1)  # what it had before it grew; in use while the new block fades in
        # blocks[0] takes 8 px to 4: the order is the generator's, and growing appends
        self.blocks = nn.ModuleList(ResidualBlock(b, a) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.conv = Conv(channels[0] + 1, channels[0], 3)
        self.dense = Dense(channels[0] * 16, channels[0], act=True)
        self.out = Dense(channels[0], 1)
        self.embedding = nn.Parameter(torch.zeros(classes, channels[0])) if classes else None

    @property
    def image_size(self) -> int:
        return 4 << len(self.blocks)

    def features(self, x: torch.Tensor, fade: torch.Tensor | None = None) -> list[torch.Tensor]:
        """x (N, 3, H, W) in [-1, 1] -> what the blocks make of it, from half its size to 4 px: (N, C, h, w) each"""
        half = None if fade is None else F.avg_pool2d(x, 2)
        x = self.blocks[-1](self.from_rgb(x.contiguous(memory_format=torch.channels_last)))
        if half is not None:
            x = torch.lerp(self.from_half(half).float(), x.float(), fade)
        found = [x]
        for block in reversed(self.blocks[:-1]):
            found.append(block(found[-1]))
        return found

    def forward(self, x: torch.Tensor, label=None, fade: torch.Tensor | None = None) -> torch.Tensor:
        """x (N, 3, H, W) in [-1, 1], label (N,) where there are classes, fade as in the generator -> logits (N,)"""
        x = self.features(x, fade)[-1]
        with fp32(x):
            x = self.conv(minibatch_std(x.float()))
            x = self.dense(x.flatten(1))  # (N, C)
            logit = self.out(x).squeeze(1)
            if self.embedding is not None:  # Miyato & Koyama 2018, eq. 3
                logit = logit + (x * self.embedding[label]).mean(1) * math.sqrt(x.shape[1])
            return logit


def grow(small: nn.Module, large: nn.Module) -> None:
    """Copies what a trained net shares with one of more `channels`; the new resolution stays as it was initialised.

    Raises ValueError where the nets differ in more than their highest resolution.
    """
    weights, ready = large.state_dict(), small.state_dict()
    if len(small.blocks) < len(large.blocks) and isinstance(small, Discriminator):
        ready = {
            re.sub("^from_rgb", "from_half", key): v for key, v in ready.items() if not key.startswith("from_half")
        }
    for key, value in ready.items():
        if key not in weights or weights[key].shape != value.shape:
            raise ValueError(f"The nets differ in {key}.")
    large.load_state_dict(weights | ready)


# Where the parts of the layout that public conversions of the official networks use (rosinality's) are found here.
ROSINALITY = (
    (r"style\.(\d+)\.", lambda m: f"mapping.layers.{int(m[1]) - 1}."),
    (r"input\.input", lambda m: "constant"),
    (r"conv1\.", lambda m: "conv."),
    (r"to_rgb1\.", lambda m: "to_rgb."),
    (r"convs\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // 2}.{'conv' if int(m[1]) % 2 else 'up'}."),
    (r"to_rgbs\.(\d+)\.", lambda m: f"blocks.{m[1]}.to_rgb."),
)
INNER = {".conv.modulation.": ".conv.affine.", ".activate.bias": ".bias", ".noise.weight": ".noise_strength"}


def from_rosinality(state: dict[str, torch.Tensor], w_mean: torch.Tensor) -> Generator:
    """A generator's state in rosinality's layout (`g_ema`) and the mean of w (w_dim,), its `latent_avg` -> Generator.

    Every key is accounted for: weights are taken over, low-pass filters compared with ours, maps of fixed noise
    left out, as noise is drawn here. Raises ValueError whose only argument is the key that is missing, superfluous or
    unfit.
    """
    ready = {"w_mean": w_mean.reshape(1, -1)}
    for key, value in state.items():
        if key.endswith(".kernel"):
            if not torch.allclose(value.float() / value.sum(), Filter().kernel):
                raise ValueError(key)
        elif not key.startswith("noises.noise_"):
            name = key
            for pattern, replacement in ROSINALITY:
                name = re.sub("^" + pattern, replacement, name)
            for theirs, ours in INNER.items():
                name = name.replace(theirs, ours)
            ready[name] = value.float()
    try:
        depth = sum(key.endswith(".up.conv.weight") for key in ready)
        widths = [ready["constant"].shape[1], *(ready[f"blocks.{i}.up.conv.weight"].shape[1] for i in range(depth))]
        layers = sum(key.startswith("mapping.") for key in ready) // 2
        net = Generator(tuple(widths), *reversed(ready["mapping.layers.0.weight"].shape), layers)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    expected = net.state_dict()
    for key in sorted(expected.keys() ^ ready.keys()):
        raise ValueError(key)
    for key, weight in expected.items():
        if ready[key].numel() != weight.numel():
            raise ValueError(key)
        weight.copy_(ready[key].view_as(weight))  # (1, C', C, 3, 3), (1, 3, 1, 1) and (1,) lose what is 1
    return net
