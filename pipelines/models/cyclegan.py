"""CycleGAN: a generator that translates pictures, and the discriminator that judges patches of them.

x is a float tensor (N, 3, H, W) in [-1, 1]. Two generators, G: A -> B and F: B -> A, and two discriminators make a
CycleGAN; each is a model of its own here.

Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks"
(https://arxiv.org/abs/1703.10593), section 7.2 of the appendix: c7s1-64, d128, d256, R256 x 9, u128, u64, c7s1-3 and
C64-C128-C256-C512. The generator is that of Johnson et al. 2016 (https://arxiv.org/abs/1603.08155) with instance
normalisation (Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022). Below, W is the width `ngf`.

Everything but the normalisation sees a neighbourhood: what stands at a place depends on the pixels around it and, for
each normalised layer, on two numbers a channel, the moments of the whole picture. `Generator.forward_in_bands` measures
these layer by layer over bands of the picture and is exact: no seam, whatever the size.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

GRID, GRID_REACH = 0.12, 4  # strength of a grid of dots at most, in [-1, 1]; periods that it is measured over, each way
EPSILON = 1e-5  # under the root of the normalisation, as in the published nets
Moments = tuple[torch.Tensor, torch.Tensor]  # variance and mean, each (N, C, 1, 1) in fp32


def normalise(x: torch.Tensor, moments: Moments | None = None) -> torch.Tensor:
    """x (N, C, H, W) -> mean 0 and variance 1 for each channel of each picture (Ulyanov 2016, eq. 2).

    moments: those of the whole picture, where x is only a part of it.
    """
    channels = x.reshape(1, -1, *x.shape[2:])  # of all pictures, as if they were those of one
    variance, mean = (None, None) if moments is None else (moment.flatten() for moment in moments)
    # the quickest way on a CPU; group_norm's way back is slow where channels are last in memory
    return F.batch_norm(channels, mean, variance, training=moments is None, eps=EPSILON).view_as(x)


def measure(parts: Iterable[torch.Tensor]) -> Moments:
    """Moments of the picture that these parts (N, C, h, W) cover, each place once."""
    means, variances, places = [], [], []
    for part in parts:
        part = part.float()
        means.append(part.mean((2, 3), keepdim=True))
        variances.append((part - means[-1]).square_().mean((2, 3), keepdim=True))  # torch.var takes four times as long
        places.append(part[0, 0].numel())
    mean, variance = torch.stack(means), torch.stack(variances)
    share = torch.tensor(places, device=mean.device).view(-1, 1, 1, 1, 1) / sum(places)
    whole = (share * mean).sum(0)
    return (share * (variance + (mean - whole).square())).sum(0), whole  # within the parts, and between them


def in_bands(f: Callable, x: torch.Tensor, rows: int, halo: int, dim: int = 2) -> Iterator[torch.Tensor]:
    """f(x) for a convolutional f, band by band: rows of x at a time, each with `halo` rows above and below.

    Exact where halo is at least what f sees beyond a row; f may change the number of rows by a power of 2.
    dim: 2 for rows, 3 for columns in their place.
    """
    height = x.shape[dim]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        low, high = max(top - halo, 0), min(bottom + halo, height)
        y = f(x.narrow(dim, low, high - low))
        first, last = ((row - low) * y.shape[dim] // (high - low) for row in (top, bottom))
        yield y.narrow(dim, first, last - first)


def mean_over(x: torch.Tensor, weights: list[float], step: int = 1) -> torch.Tensor:
    """x (N, C, H, W) -> weighted mean of the places `step` apart around each, along both axes, inside the picture."""
    reach = len(weights) // 2 * step
    for dim in (2, 3):  # sums of shifted pictures: 20 times as fast as convolutions of so few channels
        n = x.shape[dim]
        total, weight = torch.zeros_like(x), x.new_zeros(n)
        for shift, w in zip(range(-reach, reach + 1, step), weights, strict=True):
            first, last = max(-shift, 0), min(n - shift, n)
            if first < last:
                total.narrow(dim, first, last - first).add_(x.narrow(dim, first + shift, last - first), alpha=w)
                weight[first:last] += w
        x = total.div_(weight.view(-1, *[1] * (3 - dim)))
    return x


def without_grid(x: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] -> the same without what repeats every four pixels.

    Two layers that double the size with kernels of 3 give each of 4 x 4 places a gain of its own (Odena et al. 2016,
    https://distill.pub/2016/deconv-checkerboard): a grid of dots, of the same strength wherever the picture is even.
    So what deviates from the mean over a period is averaged over places of the same phase and subtracted; it is clipped
    before, so that edges, which do not repeat, leave no ripples.
    """
    detail = (x - mean_over(x, [0.5, 1, 1, 1, 0.5])).clamp_(-GRID, GRID)
    phases = torch.hann_window(2 * GRID_REACH + 3, periodic=False)[1:-1].tolist()
    return (x - mean_over(detail, phases, step=4)).clamp_(-1, 1)


class Conv(nn.Conv2d):
    """Convolution behind reflection padding, so that borders look like the rest."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__(channels_in, channels_out, kernel)

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):  # it would pad in fp32
            x = F.pad(x, (self.kernel_size[0] // 2,) * 4, mode="reflect")
        return super().forward(x)


class Down(nn.Conv2d):
    """(N, C, H, W) -> (N, C', H/2, W/2)"""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, stride=2, padding=1)


class Up(nn.ConvTranspose2d):
    """(N, C, H, W) -> (N, C', 2H, 2W)"""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__(channels_in, channels_out, kernel, stride=2, padding=1, output_padding=kernel % 2)


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 and a way around them (He et al. 2016); nothing is rectified behind the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv(channels, channels, 3)
        self.conv2 = Conv(channels, channels, 3)

    def forward(self, x):
        return x + normalise(self.conv2(F.relu(normalise(self.conv1(x)))))


def initialise(net: nn.Module) -> None:
    """Weights from N(0, 0.02), biases 0 (section 7.1)."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0, 0.02)
            nn.init.zeros_(layer.bias)


class Generator(ModelMixin, ConfigMixin):
    """A picture -> the same picture in the other domain."""

    @register_to_config
    def __init__(
        self,
        ngf: int = 64,  # width at full size; twice and four times as much at 1/2 and 1/4
        blocks: int = 9,  # residual blocks at 1/4 of the size; 6 in the paper for pictures of 128 px
        up: int = 3,  # kernel of the layers that double the size; of 4 as many places meet in every pixel (Odena 2016)
        degrid: bool = False,  # takes out the grid of dots that kernels of 3 leave
    ):
        super().__init__()
        self.encoder = nn.ModuleList([Conv(3, ngf, 7), Down(ngf, 2 * ngf), Down(2 * ngf, 4 * ngf)])
        self.trunk = nn.ModuleList(ResidualBlock(4 * ngf) for _ in range(blocks))
        self.decoder = nn.ModuleList([Up(4 * ngf, 2 * ngf, up), Up(2 * ngf, ngf, up)])
        self.out = Conv(ngf, 3, 7)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, H, W) in [-1, 1] -> likewise, fp32. H and W are multiples of 4, at least 8."""
        for conv in self.encoder:
            x = F.relu(normalise(conv(x)))  # (N, W, H, W) -> (N, 2W, H/2, W/2) -> (N, 4W, H/4, W/4)
        for block in self.trunk:
            x = block(x)
        for conv in self.decoder:
            x = F.relu(normalise(conv(x)))  # (N, 2W, H/2, W/2) -> (N, W, H, W)
        x = torch.tanh(self.out(x).float())
        return without_grid(x) if self.config.degrid else x

    @torch.no_grad()
    def forward_in_bands(
        self,
        x: torch.Tensor,
        rows: int = 64,  # of a band, or columns, a multiple of 4
        on_band: Callable[[int, int], None] = lambda i, n: None,  # called after band i of n; may raise to stop
    ) -> torch.Tensor:
        """What `forward` gives, to rounding errors, in bounded memory.

        Full and half size exist in bands alone: for the moments of each layer there, the layers before it are computed
        anew, a fifth more work in all with 6 blocks. At 1/4 of the size the picture is held whole, three times at most.
        Bands lie across the longer side, so that they are short.
        """
        dim = 2 if x.shape[2] >= x.shape[3] else 3
        passes, bands, done = 6 + 2 * len(self.trunk), -(-x.shape[dim] // rows), 0

        def watched(f: Callable, x: torch.Tensor, rows: int, halo: int) -> Iterator[torch.Tensor]:
            nonlocal done
            for band in in_bands(f, x, rows, halo, dim):
                yield band
                done += 1
                on_band(done, passes * bands)

        def chain(convs: list[nn.Module], moments: list[Moments]) -> Callable:
            """convs in a row, each but the first behind the normalisation of its predecessor"""

            def f(band: torch.Tensor) -> torch.Tensor:
                for i, conv in enumerate(convs):
                    band = conv(F.relu(normalise(band, moments[i - 1])) if i else band)
                return band

            return f

        def whole(convs: list[nn.Module], x: torch.Tensor, rows: int, halo: int) -> torch.Tensor:
            """The last conv of a chain over all of x; the moments before it are measured first."""
            moments, y, here = [], None, 0
            for depth in range(1, len(convs)):
                moments.append(measure(watched(chain(convs[:depth], moments), x, rows, halo)))
            for band in watched(chain(convs, moments), x, rows, halo):
                n = band.shape[dim]
                if y is None:  # the first band is as high as any
                    shape = list(band.shape)
                    shape[dim] = x.shape[dim] * n // min(rows, x.shape[dim])
                    y = band.new_empty(shape)
                y.narrow(dim, here, n).copy_(band)
                here += n
            return y

        x = F.relu_(normalise(whole([*self.encoder], x, rows, halo=8)))  # 6 rows are seen beyond one
        for block in self.trunk:
            y = F.relu_(normalise(whole([block.conv1], x, rows // 4, halo=1)))
            y = whole([block.conv2], y, rows // 4, halo=1)
            x += normalise(y)
        x = torch.tanh(whole([*self.decoder, self.out], x, rows // 4, halo=2).float())
        if not self.config.degrid:
            return x
        return torch.cat(list(in_bands(without_grid, x, rows, halo=2 + 4 * GRID_REACH, dim=dim)), dim)


class Discriminator(ModelMixin, ConfigMixin):
    """A picture -> a map of verdicts, each on a patch of 70 x 70 pixels; trained towards 1 for real and 0 for fake."""

    @register_to_config
    def __init__(self, ndf: int = 64):  # width of the first layer
        super().__init__()
        widths = (3, ndf, 2 * ndf, 4 * ndf, 8 * ndf, 1)
        strides = (2, 2, 2, 1, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride, padding=1) for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, H, W), at least 32 px -> (N, 1, H/8 - 2, W/8 - 2), fp32; a step in the map is 8 px."""
        for i, conv in enumerate(self.convs):
            if i:  # the first layer is not normalised
                x = F.leaky_relu(normalise(x) if i > 1 else x, 0.2)
            x = conv(x)
        return x.float()


def from_junyanz(state: dict[str, torch.Tensor]) -> Generator:
    """The bare state dict in `latest_net_G.pth` of the authors' implementation -> Generator.

    Layers are numbered there with padding, normalisation and activations: 1, 4, 7 the encoder, from 10 on the residual
    blocks, then two transposed convolutions and the last layer. In a block the second convolution is number 5, or 6
    where training used dropout, which is not part of the finished net. Running statistics of the normalisation, which
    old versions kept without use, are left out. Every other key is accounted for: raises ValueError whose only
    argument is the key that is missing, superfluous or unfit.
    """
    blocks = len({key.split(".")[1] for key in state if ".conv_block." in key})
    convs = {1: "encoder.0", 4: "encoder.1", 7: "encoder.2", 10 + blocks: "decoder.0", 13 + blocks: "decoder.1"}
    names = {f"model.{i}": name for i, name in convs.items()} | {f"model.{17 + blocks}": "out"}
    normalised = {f"model.{i + 1}" for i in convs}
    for i in range(blocks):
        inner = f"model.{10 + i}.conv_block"
        second = 6 if f"{inner}.6.weight" in state else 5
        names |= {f"{inner}.1": f"trunk.{i}.conv1", f"{inner}.{second}": f"trunk.{i}.conv2"}
        normalised |= {f"{inner}.2", f"{inner}.{second + 1}"}

    ready = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer in normalised and kind in ("running_mean", "running_var", "num_batches_tracked"):
            continue
        if layer not in names:
            raise ValueError(key)
        ready[f"{names[layer]}.{kind}"] = key, value
    first = ready.get("encoder.0.weight", ("model.1.weight", torch.empty(0)))[1]
    if first.ndim != 4:
        raise ValueError("model.1.weight")
    net = Generator(len(first), blocks)
    theirs = {name: layer for layer, name in names.items()}
    for name, weight in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        key, value = ready.pop(name, (f"{theirs[layer]}.{kind}", torch.empty(0)))
        if value.shape != weight.shape:
            raise ValueError(key)
        weight.copy_(value)
    for key, _ in ready.values():
        raise ValueError(key)
    return net
