"""The networks of CycleGAN against the paper written plainly, in bands against the whole, and the authors' layout."""

import itertools

import pytest
import torch
from torch import nn

from pipelines.models.cyclegan import Discriminator, Generator, from_junyanz, in_bands, measure, normalise, without_grid


def picture(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(params=[(3, False), (3, True), (4, False)])
def generator(request):
    torch.manual_seed(0)
    net = Generator(8, 2, *request.param).eval()
    for name, parameter in net.named_parameters():  # zeros and small numbers at the start would hide a mistake
        parameter.data = 0.3 * torch.randn_like(parameter) if name.endswith("bias") else 4 * parameter.data
    return net


class Block(nn.Module):
    """A residual block as the authors number its layers."""

    def __init__(self, c, dropout, statistics):
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c, track_running_stats=statistics)]
        other = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c, track_running_stats=statistics)]
        self.conv_block = nn.Sequential(*half, nn.ReLU(), *[nn.Dropout(0.5)] * dropout, *other)

    def forward(self, x):
        return x + self.conv_block(x)


class Published(nn.Module):
    """c7s1-W, d2W, d4W, R4W x blocks, u2W, uW, c7s1-3 (section 7.2), numbered as in latest_net_G.pth."""

    def __init__(self, w=6, blocks=3, dropout=False, statistics=False):
        super().__init__()

        def norm(c):
            return [nn.InstanceNorm2d(c, track_running_stats=statistics), nn.ReLU()]

        def up(c):
            return nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)

        self.model = nn.Sequential(
            *[nn.ReflectionPad2d(3), nn.Conv2d(3, w, 7), *norm(w)],
            *[nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), *norm(2 * w)],
            *[nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), *norm(4 * w)],
            *[Block(4 * w, dropout, statistics) for _ in range(blocks)],
            *[up(4 * w), *norm(2 * w), up(2 * w), *norm(w)],
            *[nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()],
        )

    @torch.no_grad()
    def forward(self, x):
        """As it was tested by its authors: with the statistics of the picture, without dropout."""
        for layer in self.modules():
            if isinstance(layer, nn.InstanceNorm2d):
                layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
        return self.eval().model(x)


# ------------------------------------------------------------------------------------------------------------ shapes


def test_generator_shapes_and_range(generator):
    x = picture(2, 3, 32, 44)
    y = generator(x)
    assert y.shape == x.shape and y.dtype == torch.float32
    assert y.abs().max() <= 1 and 0.05 < y.std() < 0.95
    assert generator(picture(1, 3, 8, 8)).shape == (1, 3, 8, 8)
    alone = generator(x[1:])
    torch.testing.assert_close(alone[0], y[1], atol=1e-5, rtol=1e-4)  # whatever the batch


def test_sizes_are_the_papers():
    sizes = {blocks: sum(p.numel() for p in Generator(64, blocks).parameters()) for blocks in (6, 9)}
    assert sizes == {6: 7_837_699, 9: 11_378_179}  # 9: the authors' file of 45,575,747 bytes is these in fp32
    assert sum(p.numel() for p in Discriminator().parameters()) == 2_764_737


def test_saved_and_loaded_it_draws_the_same(generator, tmp_path):
    generator.save_pretrained(tmp_path)
    x = picture(1, 3, 16, 16)
    assert torch.equal(Generator.from_pretrained(tmp_path)(x), generator(x))
    judge = Discriminator(8)
    judge.save_pretrained(tmp_path / "discriminator")
    x = picture(1, 3, 64, 64)
    assert torch.equal(Discriminator.from_pretrained(tmp_path / "discriminator")(x), judge(x))


def test_bf16_is_close_to_fp32(generator):
    x = picture(2, 3, 64, 64)
    y = generator(x)
    with torch.autocast("cpu", torch.bfloat16):
        z = generator(x)
    assert z.dtype == torch.float32
    assert (y - z).abs().mean() < 0.03 * y.std()


def test_patches_of_70_pixels():
    torch.manual_seed(0)
    judge = Discriminator(4)
    x = picture(1, 3, 256, 256).requires_grad_()
    assert judge(x).shape == (1, 1, 30, 30)
    y = x
    for conv in judge.convs:  # without the normalisation, which sees the whole picture
        y = nn.functional.leaky_relu(conv(y), 0.2)
    y[0, 0, 15, 15].backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


# ------------------------------------------------------------------------------------------------------------- bands


def test_normalisation_is_instance_norm():
    x = 3 * picture(2, 5, 9, 7) + 2
    torch.testing.assert_close(normalise(x), nn.InstanceNorm2d(5)(x))
    torch.testing.assert_close(normalise(x, measure([x])), nn.InstanceNorm2d(5)(x))


def test_moments_of_parts_are_those_of_the_whole():
    x = picture(2, 3, 12, 8) + torch.arange(12.0).view(1, 1, -1, 1) + 100  # parts whose means differ, far from zero
    for moment, whole in zip(measure(x.split([1, 7, 4], 2)), measure([x]), strict=True):
        torch.testing.assert_close(moment, whole)


def test_bands_of_a_convolution_are_its_rows():
    x, conv = picture(1, 3, 22, 5), nn.Conv2d(3, 2, 3, padding=1)
    for rows, dim in itertools.product((1, 4, 22, 100), (2, 3)):
        torch.testing.assert_close(torch.cat(list(in_bands(conv, x, rows, 1, dim)), dim), conv(x))


@pytest.mark.parametrize(("h", "w"), [(96, 40), (132, 24), (24, 132), (8, 300), (12, 8)])
@torch.no_grad()
def test_in_bands_it_draws_the_same(generator, h, w):
    x, calls = picture(2, 3, h, w), []
    # as different above and below, left and right as can be, so that moments of a band would be wrong
    x[:, :, h // 2 :] = x[:, :, h // 2 :] / 20 + 0.9
    x[..., w // 2 :] = x[..., w // 2 :] / 4 - 0.5
    banded = generator.forward_in_bands(x, rows=16, on_band=lambda i, n: calls.append((i, n)))
    torch.testing.assert_close(banded, generator(x), atol=1e-5, rtol=0)
    n = (6 + 2 * 2) * -(-max(h, w) // 16)
    assert calls == [(i, n) for i in range(1, n + 1)]


def test_a_grid_goes_and_edges_stay():
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(64.0), indexing="ij")
    ramp = (x / 64 - 0.5 + y / 300).expand(1, 3, -1, -1).contiguous()
    grid = 0.1 * torch.tensor([1.0, -0.3, 0.2, -0.9])[(x % 4).long()] * torch.tensor([1, -1, 0.5, -0.5])[(y % 4).long()]
    changed = (without_grid(ramp) - ramp).abs()
    assert changed[..., 18:-18, 18:-18].max() < 1e-6 and changed.max() < 0.01, "a slope is no grid"
    even = without_grid(ramp + grid)
    assert (even - ramp).abs()[..., 8:-8, 8:-8].max() < 0.003 < 0.08 < grid.abs().max()
    edge = torch.where(x > 30, 0.5, -0.5).expand(1, 3, -1, -1)
    assert (without_grid(edge) - edge).abs().max() < 0.03 and without_grid(edge + 0.6).max() <= 1
    one = picture(1, 3, 8, 8)
    assert without_grid(one).shape == one.shape and without_grid(one).isfinite().all()


def test_bands_can_be_stopped(generator):
    def stop(i, n):
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.forward_in_bands(picture(1, 3, 64, 16), rows=16, on_band=stop)


# ---------------------------------------------------------------------------------------------------- authors' layout


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("blocks", [3, 9])
def test_published_layout(blocks, dropout, statistics, tmp_path):
    torch.manual_seed(0)
    published = Published(6, blocks, dropout, statistics)
    torch.save(published.state_dict(), tmp_path / "latest_net_G.pth")
    state = torch.load(tmp_path / "latest_net_G.pth", weights_only=True)
    assert f"model.10.conv_block.{6 if dropout else 5}.weight" in state
    assert ("model.2.running_mean" in state) == statistics
    net = from_junyanz(state)
    assert (net.config.ngf, net.config.blocks) == (6, blocks)
    x = picture(1, 3, 32, 40)
    torch.testing.assert_close(net(x), published(x), atol=1e-5, rtol=1e-4)


SPOILT = {
    "missing": ("model.4.bias", lambda state, key: state.pop(key)),
    "missing in a block": ("model.11.conv_block.5.bias", lambda state, key: state.pop(key)),
    "no first layer": ("model.1.weight", lambda state, key: state.pop(key)),
    "extra layer": ("model.30.weight", lambda state, key: state.update({key: torch.zeros(1)})),
    "extra parameter": ("model.2.weight", lambda state, key: state.update({key: torch.zeros(6)})),
    "extra kind": ("model.1.scale", lambda state, key: state.update({key: torch.zeros(6)})),
    "other prefix": ("module.model.1.weight", lambda state, key: state.update({key: torch.zeros(1)})),
    "grey input": ("model.1.weight", lambda state, key: state.update({key: torch.zeros(6, 1, 7, 7)})),
    "wrong rank": ("model.1.weight", lambda state, key: state.update({key: torch.zeros(6)})),
    "wrong shape": ("model.20.weight", lambda state, key: state.update({key: torch.zeros(3, 6, 5, 5)})),
}


@pytest.mark.parametrize(("key", "spoil"), SPOILT.values(), ids=SPOILT)
def test_every_key_is_accounted_for(key, spoil):
    state = Published().state_dict()
    spoil(state, key)
    with pytest.raises(ValueError) as error:
        from_junyanz(state)
    assert error.value.args == (key,)


@pytest.mark.parametrize("state", [{}, {"g_ema": torch.zeros(1)}, {"conv1.weight": torch.zeros(2, 2)}])
def test_another_net_is_refused(state):
    with pytest.raises(ValueError):
        from_junyanz(state)
