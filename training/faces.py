"""Trains StyleGAN2 (Karras et al. 2020) on aligned faces, growing from small pictures to large ones (Karras 2018).

    F=../shared/data/faces; D=$F/faces-color-128.parquet,$F/faces-gray-128.parquet
    python -m training.faces --data $D --grey 1 --channels 160 160 128 --out runs/faces-16
    python -m training.faces --data $D --grey 1 --channels 160 160 128 64 --from runs/faces-16 --out runs/faces-32
    python -m training.faces --data $D --grey 1 --channels 160 160 128 64 --from runs/faces-32 --cover 8 --out runs/all
    accelerate launch -m training.faces --data hub:owner/name --channels 512 512 512 512 256 128 --out runs/big

One source is one domain; a net of several domains is conditional on them. `--from` goes on from a finished model:
with the same channels it fine-tunes, with one more it grows and fades the new resolution in. After 512,000 pictures
the bundled net drew one smile in colour; what it had forgotten came back with --cover. The folder given with --out is
a model that `pipelines.load` reads, from the first snapshot on; add --resume to go on after a stop.
"""

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from pipelines.models.stylegan2 import Discriminator, Generator, grow
from training import common
from training.common import TrainingError, option


@dataclass(kw_only=True)
class Config(common.Config):
    """Amounts of pictures count what the discriminator has seen of the data: steps times batch size."""

    steps: int = option(20_000, "updates of each net")
    batch_size: int = option(32, "pictures in an update, over all processes")
    lr: float = option(0.002, "of both nets")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the convolutions; weights stay in fp32")
    channels: tuple[int, ...] = option((160, 160, 128), "widths at 4, 8, 16 ... px of both nets: the last is the size")
    z_dim: int = option(128, "numbers in a latent, z and w")
    mapping_layers: int = option(4, "depth of the mapping network")
    from_: str = option("", "folder of a finished model to go on from")
    grey: tuple[int, ...] = option((), "domains, counted from 0, whose pictures lose their toning")
    loss: Literal["non-saturating", "hinge", "wgan-gp"] = option("non-saturating", "what the nets play for")
    penalty: float = option(0.1, "weight of R1 on real pictures (gamma), or of WGAN-GP's gradient penalty (lambda)")
    penalty_every: int = option(16, "steps between penalties, which count that much more")
    path_length: float = option(0.0, "weight of path length regularisation; 2 in the paper")
    path_every: int = option(4, "steps between path length penalties")
    mixing: float = option(0.9, "share of pictures made from two latents")
    mirror: bool = option(True, "mirror half of the pictures")
    cover: float = option(0.0, "weight of drawing each picture of the data from a latent of its own; 0: the game alone")
    cover_images: int = option(20_000, "pictures after which these latents are chosen anew")
    augment_target: float = option(0.6, "excess of real pictures judged real at which augmentation grows; 0: none")
    augment_images: int = option(100_000, "pictures in which its probability can go from 0 to 1")
    fade_images: int = option(30_000, "pictures over which a grown net fades its new resolution in")
    ema_images: int = option(10_000, "half-life of the mean of the generator's weights; shorter at the start")
    compile: bool = option(False, "compile both nets first: minutes that pay in a long run")
    snapshot_every: int = option(5_000, "steps between models kept on the way")


# ---------------------------------------------------------------------------------------------------------- losses


def generator_loss(kind: str, fake: torch.Tensor) -> torch.Tensor:
    """Logits of generated pictures (N,) -> scalar. Non-saturating: Goodfellow 2014, section 3."""
    return F.softplus(-fake).mean() if kind == "non-saturating" else -fake.mean()


def discriminator_loss(kind: str, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Logits (N,) of both -> scalar. Hinge: Lim & Ye 2017; wgan-gp: Arjovsky 2017, drift of Karras 2018."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "wgan-gp":
        return fake.mean() - real.mean() + 0.001 * real.square().mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def squared_gradient(judge, x: torch.Tensor) -> torch.Tensor:
    """Squared norm of the gradient of judge(x) by each picture (N,), differentiable once more."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(x).sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3))


def penalty_loss(kind: str, judge, real: torch.Tensor, fake: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """R1 (Mescheder 2018, eq. 9), half the squared gradient at real pictures; or WGAN-GP (Gulrajani 2017, eq. 3),
    the deviation of its norm from 1 between real and generated ones, at mix (N,) in [0, 1)."""
    if kind != "wgan-gp":
        return squared_gradient(judge, real).mean() / 2
    between = torch.lerp(real, fake.detach(), mix.view(-1, 1, 1, 1))
    return (squared_gradient(judge, between).add(1e-8).sqrt() - 1).square().mean()


def path_lengths(x: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """|J^T y| a picture (N,), J the Jacobian of x (N, 3, H, W) by ws, y the noise (Karras 2020, eq. 4)."""
    y = noise / math.sqrt(x.shape[2] * x.shape[3])
    (gradient,) = torch.autograd.grad((x * y).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


# -------------------------------------------------------------------------------------------------------- coverage


def looks(judge: Discriminator, x: torch.Tensor, fade: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Pictures (N, 3, H, W) -> in what two of them may differ: tones at 16 px, and what the discriminator sees from a
    quarter of the size down to 4 px. (N, C, h, w) each"""
    return [F.adaptive_avg_pool2d(x, 16), *judge.features(x, fade)[1:]]


def spread(y: torch.Tensor) -> torch.Tensor:
    """(N, ...) -> mean squared distance from the mean"""
    return (y - y.mean(0)).square().flatten(1).sum(1).mean().clamp(min=1e-8)


def deviation(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> torch.Tensor:
    """`looks` of pictures and of those that they should be -> scalar, the mean of all: their squared distance, where
    that of what is wanted from its mean is 1."""
    pairs = [(x.float(), y.float()) for x, y in zip(found, wanted, strict=True)]
    return torch.stack([(x - y).square().flatten(1).sum(1).mean() / spread(y) for x, y in pairs]).mean()


@torch.no_grad()
def cover(generator: Generator, judge: Discriminator, data: common.Images, places: list[torch.Tensor], draws) -> tuple:
    """-> z (N, z_dim), one for each picture of the data; how near their pictures are, as `deviation` says it.

    A game without a rule that every picture must be drawn forgets some (mode collapse). Implicit maximum likelihood
    (Li & Malik 2018, https://arxiv.org/abs/1809.09087, algorithm 1) draws the nearest sample towards each picture; with
    a GAN: Yu et al. 2020, https://arxiv.org/abs/2004.03355. Here no sample serves two pictures: of twice as many as
    there are pictures those are chosen whose distances are least in all.
    """
    device, z_dim = generator.w_mean.device, generator.config.z_dim
    chosen, near = torch.zeros(len(data), z_dim), []

    def seen(batches: Iterator[torch.Tensor]) -> list[torch.Tensor]:
        found = zip(*(looks(judge, x.to(device)) for x in batches), strict=True)
        return [torch.cat([part.float().flatten(1).cpu() for part in parts]) for parts in found]

    def draw(z: torch.Tensor, domain: int) -> torch.Tensor:
        label = torch.full((len(z),), domain, device=device) if len(places) > 1 else None
        noise = [torch.randn(len(z), 1, r, r, generator=draws).to(device) for r in generator.noise_sizes]
        return generator(z.to(device), label, noise)

    for domain, place in enumerate(places):
        z = torch.randn(2 * len(place), z_dim, generator=draws)
        wanted = seen(data.batch(part) for part in place.split(64))
        found = seen(draw(part, domain) for part in z.split(64))
        distances = torch.stack([torch.cdist(x, y).square() / spread(y) for x, y in zip(found, wanted, strict=True)])
        columns, rows = linear_sum_assignment(distances.mean(0).numpy())
        chosen[place[rows]] = z[columns]
        near.append(distances.mean(0)[columns, rows].mean())
    return chosen, torch.stack(near).mean()


# ---------------------------------------------------------------------------------------------------- augmentation


def augment(x: torch.Tensor, p: float, generator: torch.Generator) -> torch.Tensor:
    """x (N, 3, H, W) -> each picture moved, turned, resized, recoloured or partly covered, each with probability p.

    Differentiable, and the same for real and generated pictures: the generator does not learn it while p stays clearly
    below 1 (Karras et al. 2020, "Training GANs with Limited Data", section 2; strengths as there and in Zhao 2020).
    """
    n, _, h, w = x.shape

    def draw(strength: float, *shape: int, uniform: bool = False) -> torch.Tensor:
        """N(0, strength) or U(-strength, strength), and 0 where the picture is spared: (N, *shape)"""
        spared = torch.rand(n, *[1] * len(shape), generator=generator) >= p
        values = (
            torch.rand(n, *shape, generator=generator) * 2 - 1
            if uniform
            else torch.randn(n, *shape, generator=generator)
        )
        return (strength * values).masked_fill(spared, 0).to(x.device)

    # geometry: whole pixels, so that a picture that only moves stays sharp
    shift = (draw(1 / 8, 2, uniform=True) * h).round() * 2 / h
    size, angle = 2 ** draw(0.2), draw(math.pi / 18, uniform=True)
    cos, sin = angle.cos() / size, angle.sin() / size
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    places = F.affine_grid(matrix, list(x.shape), align_corners=False)
    x = F.grid_sample(x, places, padding_mode="reflection", align_corners=False)
    # colour: brightness, contrast about the picture's mean, saturation about its luma
    x = x + draw(0.2, 1, 1, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * 2 ** draw(0.3, 1, 1, 1)
    luma = x.mean(1, keepdim=True)
    x = luma + (x - luma) * 2 ** draw(0.5, 1, 1, 1)
    # cutout: a box of half the side anywhere
    centre = draw(1, 2, uniform=True)
    covered = (centre != 0).all(1)[:, None, None, None]
    column = (torch.linspace(-1, 1, w, device=x.device) - centre[:, :1]).abs()[:, None, None, :] < 0.5
    row = (torch.linspace(-1, 1, h, device=x.device) - centre[:, 1:]).abs()[:, None, :, None] < 0.5
    return x.masked_fill(covered & column & row, 0)


# ------------------------------------------------------------------------------------------------------------ main


def load_domains(config: Config, size: int) -> tuple[common.Images, list[torch.Tensor]]:
    """-> pictures of all domains; for each domain the indices of its pictures"""
    sources = config.data.split(",")
    domains = [common.load_images(s, size, 1 if i in config.grey else 3, fit="crop") for i, s in enumerate(sources)]
    pixels = torch.cat([domain.pixels.expand(-1, 3, -1, -1) for domain in domains])
    places = torch.arange(len(pixels)).split([len(domain) for domain in domains])
    return common.Images(pixels, {}), list(places)


def load_start(config: Config, generator: Generator, discriminator: Discriminator) -> tuple[bool, int]:
    """Fills both nets from --from; -> whether they grew by doing so, and the pictures that it had seen."""
    try:
        small = Generator.from_pretrained(config.from_)
        grow(small, generator)
        grow(Discriminator.from_pretrained(Path(config.from_) / "discriminator"), discriminator)
        facts = json.loads((Path(config.from_) / "training.json").read_text("utf-8"))
        return small.image_size < generator.image_size, facts["figures"]["pictures seen"]
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"{Path(config.from_).name} cannot be gone on from: {error}") from error


def choose(run: common.Run, places: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """places: the indices of each domain's pictures -> those of this step (N,), their domains (N,), in turn.

    So the groups of `minibatch_std` hold one domain each, and sameness within a domain is seen; in mixed groups the
    distance of the domains hides it.
    """
    each = torch.stack([place[run.indices(len(place))] for place in places])  # (domains, N)
    domain = torch.arange(each.shape[1]) % len(places)
    return each.gather(0, domain[None])[0], domain


@torch.no_grad()
def sheet(generator: Generator, columns: int = 8, rows: int = 4) -> torch.Tensor:
    """The same people at every step and size: rows of each domain, psi 1 on the left, the same at 0.7 on the right."""
    draws, x = torch.Generator().manual_seed(0), []
    device, classes = generator.w_mean.device, generator.config.classes
    generator.measure_mean()
    people = torch.randn(rows * max(classes, 1), columns, generator.config.z_dim, generator=draws).to(device)
    for row, z in enumerate(people):
        noise = [torch.randn(columns, 1, r, r, generator=draws).to(device) for r in generator.noise_sizes]
        label = torch.full((columns,), row // rows, device=device) if classes else None
        x += [generator(z, label, noise), generator(z, label, noise, psi=0.7)]
    return torch.cat(x)


def describe(config: Config, generator: Generator, figures: dict) -> dict:
    """What training.json and the card say; see `common.write_card`."""
    size = generator.image_size
    return {
        "id": Path(config.out).name,
        "tab": "faces",
        "kind": "faces",
        "licence": "Apache-2.0",
        "year": 2026,
        "title": f"Faces of {size} px",
        "summary": f"A StyleGAN2 that draws portraits of {size} px. None of the people it shows exists.",
        "use": f'pipelines.load("{Path(config.out).name}")',
        "data": {
            "name": "portraits of members of the US Congress",
            "url": "https://github.com/unitedstates/images",
            "licence": "public domain in the United States: works of its government, photographs published before 1931",
            "attribution": "1,268 modern colour portraits and 1,309 historic ones, from github.com/unitedstates/images "
            "and github.com/voteview/member_photos, aligned as FFHQ is",
        },
        "figures": figures,
        "limits": [
            "None of these people exists. A picture may still resemble someone who sat for the data; do not present it "
            "as a picture of any real person.",
            "One profession in one country: suits, ties, studio light, a blue-grey backdrop or a flag.",
            "About 17 % of the colour portraits and 1 % of the historic ones show women; the median age is 60 in "
            "colour and 50 in grey; there are no children. The net draws few women, few young people, and no child.",
            "The historic portraits show almost only white men, most with beards; of the colour ones perhaps one in "
            "six or seven is not white. Other people come out rarely, and less well.",
            "What separates the two domains is not colour alone but also beard, smile, age, pose and sex.",
        ],
    }


def main(config: Config) -> None:
    run = common.Run(config)
    data, places = load_domains(config, 4 << len(config.channels) - 1)
    classes = len(places) if len(places) > 1 else 0

    generator = Generator(config.channels, config.z_dim, config.z_dim, config.mapping_layers, classes).to(run.device)
    discriminator = Discriminator(config.channels, classes).to(run.device)
    grown, before = load_start(config, generator, discriminator) if config.from_ else (False, 0)
    ema = common.EMA(generator)
    adam = {"lr": config.lr, "betas": (0.0, 0.99), "eps": 1e-8}
    g_optimizer = torch.optim.Adam(generator.parameters(), **adam)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), **adam)
    # probability of augmentation; running means of the sign of D(real) and of path lengths
    numbers = {"augment": 0.0, "realness": 0.0, "path": 0.0}
    codes = {"z": torch.zeros(len(data), config.z_dim)} if config.cover else {}  # see `cover`
    run.track(
        generator=generator, discriminator=discriminator, ema=ema, g_optimizer=g_optimizer, d_optimizer=d_optimizer,
        numbers=numbers, codes=codes,
    )  # fmt: skip
    # penalties differentiate twice, which compiled code cannot: they call the nets as they are
    options = {"fullgraph": True, "disable": not config.compile}
    synthesis, judge = torch.compile(generator.synthesis, **options), torch.compile(discriminator.forward, **options)

    def spoil(x: torch.Tensor, name: str) -> torch.Tensor:
        return augment(x, numbers["augment"], run.generator(f"{name} {run.rank}"))

    for step in run.steps():
        images = (step + 1) * config.batch_size
        fading = grown and images < config.fade_images
        fade = torch.tensor(images / config.fade_images, device=run.device) if fading else None

        if config.cover and step % max(config.cover_images // config.batch_size, 1) == 0:
            with run.autocast():
                codes["z"], near = cover(generator, discriminator, data, places, run.generator("codes"))
            run.log(near=near)

        # what this step sees
        chosen, label = choose(run, places)
        real, label = data.batch(chosen).to(run.device), label.to(run.device) if classes else None
        straight = real
        if config.mirror:
            real = torch.where(run.noise((1, 1, 1), "mirror", uniform=True) < 0.5, real, real.flip(3))
        noise = [run.noise((1, r, r), f"map {i}") for i, r in enumerate(generator.noise_sizes)]

        # generator
        discriminator.requires_grad_(False)
        with run.autocast():
            w, other = (generator.mapping(run.noise((config.z_dim,), name), label) for name in ("z", "other z"))
            # layers from a random one on follow the other latent (Karras 2019, section 3.1)
            layers = torch.arange(generator.layers, device=run.device)
            cut = 1 + run.noise((), "cut", uniform=True) * (generator.layers - 1)
            cut = cut.where(run.noise((), "mixing", uniform=True) < config.mixing, torch.tensor(torch.inf))
            ws = torch.where((layers < cut[:, None])[..., None], w[:, None], other[:, None])
            fake = synthesis(ws, noise, fade)
        spoilt = spoil(fake, "fake for G")
        with run.autocast():
            g_loss = generator_loss(config.loss, judge(spoilt, label, fade))
            if config.cover:
                x = generator.synthesis(
                    generator.styles(generator.mapping(codes["z"][chosen].to(run.device), label), label), noise, fade
                )
                missed = deviation(looks(discriminator, x, fade), looks(discriminator, straight, fade))
                run.log(missed=missed)
                g_loss = g_loss + config.cover * missed
        g_norm = run.update(g_loss, g_optimizer)
        if config.path_length and step % config.path_every == 0:
            with run.autocast():
                ws = generator.styles(generator.mapping(run.noise((config.z_dim,), "path z"), label), label)
                x = generator.synthesis(ws, noise, fade)
            lengths = path_lengths(x, ws, torch.randn_like(x))
            numbers["path"] += 0.01 * (run.mean(lengths.mean()) - numbers["path"])
            path_loss = (lengths - numbers["path"]).square().mean()  # eq. 4
            run.update(config.path_length * config.path_every * path_loss, g_optimizer)
        half_life = min(config.ema_images, 0.05 * images)
        ema.update(generator, 0.5 ** (config.batch_size / half_life))

        # discriminator, on the pictures that the generator has just been judged by
        discriminator.requires_grad_(True)
        real, fake = spoil(real, "real"), spoil(fake.detach(), "fake for D")
        with run.autocast():
            on_real, on_fake = judge(real, label, fade), judge(fake, label, fade)
            d_loss = discriminator_loss(config.loss, on_real, on_fake)
        d_norm = run.update(d_loss, d_optimizer)
        if config.penalty and step % config.penalty_every == 0:
            with run.autocast():
                mix = run.noise((), "between", uniform=True)
                penalty = penalty_loss(config.loss, lambda x: discriminator(x, label, fade), real, fake, mix)  # noqa: B023
            run.update(config.penalty * config.penalty_every * penalty, d_optimizer)
            run.log(penalty=penalty)
        if config.augment_target:  # Karras et al. 2020, "Limited Data", section 3.1: r_t
            numbers["realness"] += 0.05 * (run.mean(on_real.sign().mean()) - numbers["realness"])
            excess = numbers["realness"] - config.augment_target
            towards = math.copysign(config.batch_size / config.augment_images, excess)
            numbers["augment"] = min(max(numbers["augment"] + towards, 0), 0.8)

        run.log(g_loss=g_loss, d_loss=d_loss, g_norm=g_norm, d_norm=d_norm, real=on_real.mean(), fake=on_fake.mean())
        run.log(augment=numbers["augment"], realness=numbers["realness"])
        if run.due(config.sample_every):
            run.picture("faces", common.grid(sheet(ema.module), 16))
        if run.due(config.snapshot_every):
            ema.module.measure_mean()
            figures = {"pictures seen": before + images, "augmentation probability": round(numbers["augment"], 3)}
            run.save(ema.module, describe(config, generator, figures))
            deepcopy(discriminator).half().save_pretrained(run.folder / "discriminator")
            deepcopy(ema.module).half().save_pretrained(run.folder / "state" / f"snapshot-{step + 1:07d}")


if __name__ == "__main__":
    common.launch(main, Config)
