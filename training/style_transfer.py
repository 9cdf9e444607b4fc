"""Trains CycleGAN (Zhu et al. 2017, https://arxiv.org/abs/1703.10593): two domains, unpaired, both directions at once.

    python -m training.style_transfer --data ../shared/data --pair historic --out runs/historic \\
        --a faces/faces-color-128.parquet --b faces/faces-gray-128.parquet --grey-b --where-b "year<1935"
    python -m training.style_transfer --a hub:owner/horses --b hub:owner/zebras --out runs/zebra \\
        --ngf 64 --blocks 9 --ndf 64 --size 256 --load-size 286 --batch-size 1 --steps 200000

OUT is a pair that `pipelines.load` reads, from the first snapshot on: generators in AtoB and BtoA, each with the
discriminator of its target, one card for both. Add --resume to go on after a stop. Samples show A -> B -> A above
B -> A -> B, of pictures held out.
G: A -> B and F: B -> A are the generators, x a picture of either domain, (N, 3, size, size) in [-1, 1].
"""

import math
import operator
import re
import zlib
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F

from pipelines.models.cyclegan import Discriminator, Generator
from training import common
from training.common import TrainingError, option
from training.style_pairs import AUTHORS_WARNING, PAIRS


@dataclass(kw_only=True)
class Config(common.Config):
    """Sizes are for a CPU; the paper's are ngf 64, ndf 64, 9 blocks at 256 px, load size 286."""

    data: str = option(".", "folder that A and B are looked for in")
    a: str = field(metadata={"help": "pictures of domain A: files, folders, hub:owner/name; several joined by commas"})
    b: str = field(metadata={"help": "pictures of domain B, likewise"})
    where_a: str = option("", "rows of A that count, as 'year<1935; group!=Symbols'; all if empty")
    where_b: str = option("", "rows of B that count")
    grey_a: bool = option(False, "pictures of A lose their colour")
    grey_b: bool = option(False, "pictures of B lose their colour")
    pair: Literal[tuple(PAIRS)] = option("own", "what the cards say: a line of training/style_pairs.py")
    held_out: float = option(0.05, "share of the pictures that is only looked at")
    group_a: str = option("", "column of A whose equal values are held out together, as crops of one photograph")
    group_b: str = option("", "the same of B")
    from_: str = option("", "folder of a pair of this script that all four nets begin as")
    steps: int = option(30_000, "updates in all: may be changed")
    batch_size: int = option(1, "pictures of each domain in an update, over all processes")
    lr: float = option(2e-4, "of all nets, until it decays")
    decay_from: float = option(0.5, "share of the steps after which the rate falls linearly to 0")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the convolutions; weights stay in fp32")
    size: int = option(128, "side of what the nets see, in px, a multiple of 4")
    load_size: int = option(143, "side that pictures are scaled to, and crops taken from")
    zoom: float = option(1.0, "crops are up to this many times larger or smaller, then scaled to the size")
    colour_a: float = option(0.0, "strength of random changes of brightness, contrast and saturation in A")
    colour_b: float = option(0.0, "the same in B")
    mirror: bool = option(True, "mirror half of the pictures")
    ngf: int = option(32, "width of the generators")
    blocks: int = option(6, "residual blocks of the generators")
    up: int = option(4, "kernel of the layers that double the size: 4, or 3 as in the paper, which may leave dots")
    ndf: int = option(32, "width of the discriminators")
    cycle: float = option(10.0, "weight of cycle consistency (lambda)")
    identity: float = option(0.5, "weight of the identity loss, as a share of that; 0: none")
    identity_every: int = option(1, "steps between identity losses, which count that much more")
    tones: float = option(0.0, "weight of keeping tones: what is red stays red, strokes are free; 0: none")
    pool: int = option(50, "generated pictures that the discriminators are also shown later")
    ema: float = option(
        0.999, "decay of the mean of the generators' weights that is shipped; 0: the weights themselves"
    )
    snapshot_every: int = option(2_000, "steps between models kept in OUT")
    may_change = frozenset({"steps"})  # what came before the rate falls does not depend on it


# ---------------------------------------------------------------------------------------------------------- losses


def gan_loss(verdicts: torch.Tensor, target: float) -> torch.Tensor:
    """Least squares (Mao et al. 2017; section 4 of the paper): verdicts of any shape, target 1 real, 0 generated."""
    return (verdicts - target).square().mean()


def cycle_loss(back: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean |F(G(x)) - x| (eq. 2); the identity loss, |G(y) - y| for y of G's target (section 5.2), is the same."""
    return (back - x).abs().mean()


def tone_loss(fake: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean |blur(G(x)) - blur(x)|, as the colour loss of Ignatov et al. 2017 (section 3.1.1); the blur is a mean of
    16 x 16 px. Cycle consistency alone may swap colours: F swaps them back."""
    return (F.avg_pool2d(fake.float(), 16, 8) - F.avg_pool2d(x, 16, 8)).abs().mean()


def rate(step: int, steps: int, decay_from: float) -> float:
    """1 up to decay_from * steps, then linearly down to 0 at `steps`."""
    return min(1.0, (steps - step) / max(1.0, steps * (1 - decay_from)))


# ------------------------------------------------------------------------------------------------------------ data

OPERATORS = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


def matching(images: common.Images, where: str) -> list[int]:
    """Rows of which all conditions of `where` hold; compared as numbers where both sides are."""
    rows = range(len(images))
    for condition in filter(None, map(str.strip, where.split(";"))):
        parts = re.fullmatch(r"(\w+)\s*(<=|>=|!=|=|<|>)\s*(.*)", condition)
        if not parts:
            raise TrainingError(f"{condition!r} is no condition; write one as year<1935 or group!=Symbols.")
        column, compare = images.column(parts[1]), OPERATORS[parts[2]]
        try:
            value = float(parts[3])
            rows = [i for i in rows if column[i] is not None and compare(float(column[i]), value)]
        except ValueError:
            rows = [i for i in rows if compare(str(column[i]), parts[3])]
    return list(rows)


def load_domain(config: Config, name: Literal["a", "b"]) -> tuple[torch.Tensor, torch.Tensor]:
    """-> pictures to train on and pictures held out, uint8 (N, 3, load_size, load_size).

    Which are held out is a function of index and source, or of the value in the column that groups them.
    """
    pixels, keys = [], []
    sources, where, grey, group = (getattr(config, kind + name) for kind in ("", "where_", "grey_", "group_"))
    for source in sources.split(","):
        path = source if source.startswith("hub:") else Path(config.data) / source
        images = common.load_images(path, config.load_size, 1 if grey else 3, fit="crop")
        rows = matching(images, where)
        pixels.append(images.pixels[rows].expand(-1, 3, -1, -1))
        named = [images.column(group)[i] if group else i for i in rows]
        if group and len(set(named)) < 2:
            raise TrainingError(f"{Path(source).name}: {group} tells no two pictures apart to hold one out.")
        keys += [f"{source} {value}" for value in named]
    order = sorted(set(keys), key=lambda key: zlib.crc32(key.encode()))
    held_out = set(order[: math.ceil(config.held_out * len(order))])
    chosen = torch.tensor([key in held_out for key in keys], dtype=torch.bool)
    pixels = torch.cat(pixels)
    if chosen.all() or not chosen.any():
        raise TrainingError(f"{sources}: {len(order)} pictures or groups cannot be divided by --held-out.")
    return pixels[~chosen], pixels[chosen]


def crops(pixels: torch.Tensor, config: Config, generator: torch.Generator) -> torch.Tensor:
    """uint8 (N, 3, L, L) -> x (N, 3, size, size): a random square of each, half of them mirrored."""
    chosen = []
    for picture in pixels:
        zoom = config.zoom ** float(torch.rand((), generator=generator) * 2 - 1)
        side = min(round(config.size * zoom), config.load_size)
        top, left = torch.randint(config.load_size - side + 1, (2,), generator=generator).tolist()
        x = picture[None, :, top : top + side, left : left + side].float() / 127.5 - 1
        if side != config.size:
            x = F.interpolate(x, (config.size, config.size), mode="bilinear", antialias=True)
        if config.mirror and torch.rand((), generator=generator) < 0.5:
            x = x.flip(3)
        chosen.append(x)
    return torch.cat(chosen)


def recolour(x: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """x (N, 3, H, W) -> brightness, contrast and saturation of each changed at random by up to `strength` (0 to 1)."""
    if not strength:
        return x
    light, contrast, colour = strength * (torch.rand(3, len(x), 1, 1, 1, generator=generator) * 2 - 1)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + colour)
    mean = x.mean((1, 2, 3), keepdim=True)
    return (mean + (x - mean) * (1 + contrast) + light).clamp(-1, 1)


def middle(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 (N, 3, L, L) -> x (N, 3, size, size), the middle of each"""
    edge = (pixels.shape[2] - size) // 2
    return pixels[:, :, edge : edge + size, edge : edge + size].float() / 127.5 - 1


def exchange(pool: dict, fresh: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """fresh (N, 3, H, W) -> what the discriminator sees (N, 3, H, W): fresh ones and, every other time once `pool` is
    full, an older one, which the fresh one replaces there (Shrivastava et al. 2017, section 2.3).

    pool: {"pictures": (capacity, 3, H, W), "filled": how many are in it}, part of what resumes.
    """
    shown = []
    for x in fresh:
        if pool["filled"] < len(pool["pictures"]):
            pool["pictures"][pool["filled"]] = x
            pool["filled"] += 1
        elif len(pool["pictures"]) and torch.rand((), generator=generator) < 0.5:
            place = int(torch.randint(len(pool["pictures"]), (), generator=generator))
            older = pool["pictures"][place].to(x.device, copy=True)
            pool["pictures"][place] = x
            x = older
        shown.append(x)
    return torch.stack(shown)


# ------------------------------------------------------------------------------------------------------------ main


TWICE = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])  # each pixel twice, then a kernel of three places
NEAREST = TWICE @ torch.linalg.pinv(TWICE)


@torch.no_grad()
def even(generator: Generator) -> None:
    """Kernels of 4 x 4 that double the size -> the nearest that are those of 3 x 3 behind a plain doubling: else what
    comes out is a grid of dots (Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard), which patches of a
    discriminator hardly see."""
    for layer in generator.decoder:
        if layer.weight.shape[-1] == len(TWICE):
            nearest = NEAREST.to(layer.weight.device)
            layer.weight.copy_(torch.einsum("yv,xu,abvu->abyx", nearest, nearest, layer.weight))


LOOKED_AT = 32  # held-out pictures of a domain, for the error at a snapshot


@torch.no_grad()
def there_and_back(there: Generator, back: Generator, x: torch.Tensor) -> list[torch.Tensor]:
    """-> [x, there(x), back(there(x))], one picture after the other"""
    away = torch.cat([there(picture) for picture in x.split(1)])
    return [x, away, torch.cat([back(picture) for picture in away.split(1)])]


def describe(config: Config, figures: dict) -> dict:
    """What training.json and the card say; see `common.write_card`."""
    pair, id = PAIRS[config.pair], f"style-{Path(config.out).name.removeprefix('style-')}"
    return {
        "id": id,
        "tab": "style_transfer",
        "kind": "cyclegan",
        "task": "image-to-image",
        "licence": pair.licence,
        "year": 2026,
        "title": f"CycleGAN: {pair.a} ↔ {pair.b}",
        "summary": f"Turns a {pair.a} (A) into a {pair.b} (B), and B into A, learnt without pairs: two generators, and "
        "for each the discriminator of its target, which are counted below, too.",
        "use": f'before, after, recipe = pipelines.load("{id}").translate(image, direction="AtoB")',
        "data": {
            "name": pair.name,
            "url": pair.url,
            "licence": pair.data_licence,
            "attribution": pair.attribution,
        },
        "figures": figures,
        "figures_note": "Cycle error: mean absolute error of there and back, pixels in [-1, 1], of up to "
        f"{LOOKED_AT} pictures that were not trained on; AtoB begins with pictures of A.",
        "limits": [*pair.limits, AUTHORS_WARNING],
    }


def main(config: Config) -> None:
    if config.size % 4 or not 32 <= config.size <= config.load_size:
        raise TrainingError(f"--size is a multiple of 4 from 32 to --load-size {config.load_size}, not {config.size}.")
    if config.zoom < 1 or not 0 < config.held_out < 1:
        raise TrainingError("--zoom is at least 1, and --held-out between 0 and 1.")
    run = common.Run(config)
    (train_a, test_a), (train_b, test_b) = load_domain(config, "a"), load_domain(config, "b")

    g_ab, g_ba = (Generator(config.ngf, config.blocks, config.up) for _ in range(2))
    d_a, d_b = (Discriminator(config.ndf) for _ in range(2))
    nets = {"AtoB": g_ab, "AtoB/discriminator": d_b, "BtoA": g_ba, "BtoA/discriminator": d_a}
    for name, net in nets.items():
        common.begin(net, config.from_, name)
        net.to(run.device, memory_format=torch.channels_last)  # a fifth less of a step on a CPU
    before = common.seen_before(config.from_, "pictures seen")
    ema_ab, ema_ba = common.EMA(g_ab), common.EMA(g_ba)
    adam = {"lr": config.lr, "betas": (0.5, 0.999), "fused": True}
    g_optimizer = torch.optim.Adam(chain(g_ab.parameters(), g_ba.parameters()), **adam)
    d_optimizer = torch.optim.Adam(chain(d_a.parameters(), d_b.parameters()), **adam)
    pool_a, pool_b = (
        {"pictures": torch.zeros(config.pool, 3, config.size, config.size), "filled": 0} for _ in range(2)
    )
    run.track(
        g_ab=g_ab, g_ba=g_ba, d_a=d_a, d_b=d_b, ema_ab=ema_ab, ema_ba=ema_ba, g_optimizer=g_optimizer,
        d_optimizer=d_optimizer, pool_a=pool_a, pool_b=pool_b,
    )  # fmt: skip

    def batch(name: str, pixels: torch.Tensor, colour: float) -> torch.Tensor:
        generator = run.generator(f"{name} {run.rank}")
        return recolour(crops(pixels[run.indices(len(pixels))], config, generator), colour, generator).to(run.device)

    def older(name: str, pool: dict, fake: torch.Tensor) -> torch.Tensor:
        """What of all processes' pictures goes to this one's discriminator: pools are the same everywhere."""
        return run.share(exchange(pool, run.accelerator.gather(fake.detach()), run.generator(name)))

    for step in run.steps():
        for optimizer in (g_optimizer, d_optimizer):
            common.set_lr(optimizer, config.lr * rate(step, config.steps, config.decay_from))
        a, b = batch("a", train_a, config.colour_a), batch("b", train_b, config.colour_b)
        identity = config.identity and step % config.identity_every == 0

        # generators
        for judge in (d_a, d_b):
            judge.requires_grad_(False)
        with run.autocast():
            fake_a, fake_b = g_ba(b), g_ab(a)
            back_a, back_b = g_ba(fake_b), g_ab(fake_a)
            gan = gan_loss(d_a(fake_a), 1) + gan_loss(d_b(fake_b), 1)  # eq. 1, by G and F
        cycle = cycle_loss(back_a, a) + cycle_loss(back_b, b)
        g_loss = gan + config.cycle * cycle  # eq. 3
        if config.tones:
            tones = tone_loss(fake_a, b) + tone_loss(fake_b, a)
            g_loss = g_loss + config.tones * tones
            run.log(tones=tones / 2)
        if identity:
            with run.autocast():
                same = cycle_loss(g_ba(a), a) + cycle_loss(g_ab(b), b)
            g_loss = g_loss + config.cycle * config.identity * config.identity_every * same
            run.log(identity=same / 2)
        g_norm = run.update(g_loss, g_optimizer)
        even(g_ab)
        even(g_ba)
        decay = min(config.ema, (step + 1) / (step + 10))
        ema_ab.update(g_ab, decay)
        ema_ba.update(g_ba, decay)

        # discriminators, half as fast (section 4)
        for judge in (d_a, d_b):
            judge.requires_grad_(True)
        shown_a, shown_b = older("pool a", pool_a, fake_a), older("pool b", pool_b, fake_b)
        with run.autocast():
            on_a, on_b, on_fake_a, on_fake_b = d_a(a), d_b(b), d_a(shown_a), d_b(shown_b)
        d_loss = (gan_loss(on_a, 1) + gan_loss(on_fake_a, 0) + gan_loss(on_b, 1) + gan_loss(on_fake_b, 0)) / 2
        d_norm = run.update(d_loss, d_optimizer)

        run.log(gan=gan / 2, cycle=cycle / 2, d_loss=d_loss / 2, g_norm=g_norm, d_norm=d_norm)
        run.log(real=(on_a.mean() + on_b.mean()) / 2, fake=(on_fake_a.mean() + on_fake_b.mean()) / 2)
        if run.due(config.sample_every):
            sheets = []
            for there, back, pixels in ((ema_ab, ema_ba, test_a), (ema_ba, ema_ab, test_b)):
                x = middle(pixels[:8], config.size).to(run.device)
                x = torch.cat(
                    [x, -torch.ones_like(x[:1]).expand(8 - len(x), -1, -1, -1)]
                )  # black where there are fewer
                with run.autocast():
                    sheets += there_and_back(there.module, back.module, x)
            run.picture("cycles", common.grid(torch.cat(sheets), 8))
        if run.due(config.snapshot_every):
            figures = {"pictures seen": before + (step + 1) * config.batch_size}
            for way, there, back, pixels in (("AtoB", ema_ab, ema_ba, test_a), ("BtoA", ema_ba, ema_ab, test_b)):
                x = middle(pixels[:LOOKED_AT], config.size).to(run.device)
                with run.autocast():
                    _, _, again = there_and_back(there.module, back.module, x)
                figures[f"cycle_error_{way}"] = round(cycle_loss(again, x).item(), 4)
            run.save(nets | {"AtoB": ema_ab.module, "BtoA": ema_ba.module}, describe(config, figures))


if __name__ == "__main__":
    common.launch(main, Config)
