"""Trains the autoencoder of latent diffusion (Rombach et al. 2022, section 3.1) that both text-to-image models share.

    python -m training.autoencoder --data ../shared/data/emoji --out runs/emoji-vae
    ... --photos ../shared/data/style/flower-daisy.parquet,../shared/data/faces/faces-color-128.parquet
    ... --encoder runs/emoji-vae --out runs/emoji-vae-2   # only its decoder learns on: latents stay what they are

OUT is a folder of diffusers' AutoencoderKL from the first snapshot on; add --resume to go on after a stop. Scenes are
composed while it trains (training/scenes.py); photographs are a share of each batch, so that it can be honest about
pictures that are not emoji.

The loss compares pictures at several sizes, themselves and their differences between neighbours, so that an edge that
is soft or moved costs more than a shade that is off. A weak KL term keeps the latent near N(0, 1). A latent made half
as large must decode to the picture made half as large (Kouzelis et al. 2025, EQ-VAE): latents become smooth, and easier
to learn for what is trained on them. At the end the mean of the latent is folded into the 1 x 1 convolutions around it,
so its shift is 0, and scaling_factor makes its standard deviation 1.

With --encoder, a decoder goes on by itself, as Stable Diffusion's did (the weights "ft-mse"): what was trained on the
latents need not be trained again. --latent-noise and --guesses make it draw clean edges from latents that are off: by
noise, or as a small net guesses them (training/guesses.py). --adversarial lets it choose an edge where the mean of all
that is possible would be soft (Esser et al. 2021, VQGAN, section 3.1).
"""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from training import common, guesses
from training.common import option
from training.muon import MuonAndAdamW
from training.scenes import SIZE, Scenes
from training.style_transfer import gan_loss

TEST_SEED = 1_000_003  # of the scenes that are only looked at
PHOTO_CREDITS = (
    "; daisies and sunflowers of TensorFlow's flower_photos, CC BY 2.0, by the photographers in its LICENSE.txt; "
    "portraits of github.com/unitedstates/images and github.com/voteview/member_photos; paintings by Claude Monet"
)


@dataclass(kw_only=True)
class Config(common.Config):
    """One batch of crops: `photo_share` of them from photographs, the others from scenes."""

    steps: int = option(60_000, "updates in all")
    batch_size: int = option(8, "crops in an update, over all processes")
    lr: float = option(1e-3, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the forward pass; weights stay in fp32")
    channels: tuple[int, ...] = option(
        (32, 64, 96, 128), "widths at 1, 1/2, 1/4 ... of the size: the last is the latent's"
    )
    latent_channels: int = option(16, "numbers at each place of the latent")
    layers: int = option(1, "residual blocks at each size of the encoder; the decoder has one more")
    crop: int = option(64, "side of a crop in px; detailed places are preferred")
    encoder: str = option("", "folder of an AutoencoderKL to go on from; its encoder stays, its widths count")
    photos: str = option("", "files of pictures to train on beside the scenes, separated by commas")
    photo_share: float = option(0.2, "of a batch, if there are photos")
    gradient_weight: float = option(1.0, "of the loss of differences between neighbours")
    kl_weight: float = option(1e-3, "of the KL term, in nats a number of the latent")
    half_weight: float = option(0.25, "of the loss of latents made half as large; 0: none")
    latent_noise: float = option(0.0, "highest standard deviation of noise on half of the latents, whose own is 1")
    guesses: str = option("", "files of training.guesses for the decoder, separated by commas; with --encoder")
    guess_share: float = option(0.5, "of a batch, if there are guesses")
    adversarial: float = option(
        0.0, "pull of a discriminator of patches on a picture, that of the other losses being 1"
    )
    ema: float = option(0.999, "decay of the mean of the weights that is shipped")
    compile: bool = option(False, "compile the net first: minutes that pay in a long run")
    snapshot_every: int = option(2_000, "steps between models kept in OUT")

    @property
    def with_photos(self) -> bool:
        return bool(self.photos)

    @property
    def photos_in(self) -> int:
        """Photographs in a batch."""
        return round(self.batch_size * self.photo_share) if self.photos else 0

    @property
    def guesses_in(self) -> int:
        """Scenes in a batch whose latents are guesses."""
        return round(self.batch_size * self.guess_share) if self.guesses else 0


# ---------------------------------------------------------------------------------------------------------- losses


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor, gradient_weight: float, sizes: int = 3) -> torch.Tensor:
    """Mean |y - x| over sizes 1, 1/2, 1/4, and of the differences between neighbours there; y, x (N, 3, H, W)."""
    error, loss = y.float() - x, 0.0
    for size in range(sizes):
        if size:
            error = F.avg_pool2d(error, 2)
        across, down = error.diff(dim=3), error.diff(dim=2)
        loss = loss + error.abs().mean() + gradient_weight * (across.abs().mean() + down.abs().mean())
    return loss / sizes


def kl_loss(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), mean over the numbers of the latent (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def pull(loss: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How strongly a loss pulls at y: the norm of its gradient there."""
    return torch.autograd.grad(loss, y, retain_graph=True)[0].float().norm()


def psnr(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dB a picture (N,), of 8-bit pictures; y, x in [-1, 1]"""
    y, x = ((t.clamp(-1, 1) * 127.5 + 127.5).round() for t in (y, x))
    return 10 * torch.log10(255**2 / (y - x).square().mean((1, 2, 3)).clamp(min=1e-6))


# ------------------------------------------------------------------------------------------------------------ data


def crops(
    pictures: torch.Tensor, side: int, generator: torch.Generator, latents: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """uint8 (N, 3, H, W) -> x (N, 3, side, side) in [-1, 1]: of two random places the one with more in it; and what
    lies there of `latents` (N, C, H / 8, W / 8), if there are any."""
    chosen, below = [], []
    step = pictures.shape[2] // latents.shape[2] if latents is not None else 1  # px a place of the latent
    for i, picture in enumerate(pictures):
        places = [
            [step * int(torch.randint((n - side) // step + 1, (), generator=generator)) for n in picture.shape[1:]]
            for _ in "12"
        ]
        pair = [picture[:, top : top + side, left : left + side].float() for top, left in places]
        detail = [float(x.diff(dim=2).abs().mean() + x.diff(dim=1).abs().mean()) for x in pair]
        best = detail.index(max(detail))
        chosen.append(pair[best])
        if latents is not None:
            top, left = (n // step for n in places[best])
            below.append(latents[i, :, top : top + side // step, left : left + side // step].float())
    return torch.stack(chosen) / 127.5 - 1, torch.stack(below) if below else None


def batch(
    run: common.Run, scenes: Scenes, photos: torch.Tensor | None, guessed: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """This process's crops of the step, (N, 3, crop, crop): scenes, photographs, scenes with latents that are guesses;
    and those latents (M, C, h, w), normalised."""
    config = run.config
    n, from_photos, from_guesses = (
        many // run.world for many in (config.batch_size, config.photos_in, config.guesses_in)
    )
    drawn = n - from_photos - from_guesses
    first = (run.step * run.world + run.rank) * drawn
    pictures = scenes.pictures(range(first, first + drawn))
    generator = run.generator(f"crops {run.rank}")
    if from_photos:
        chosen = torch.randint(len(photos), (from_photos,), generator=generator)
        pictures = torch.cat([pictures, photos[chosen]])
    x, z = crops(pictures, config.crop, generator)[0], None
    if from_guesses:
        files = [guessed[i % len(guessed)] for i in range(from_guesses)]
        indices = [int(torch.randint(len(file), (), generator=generator)) for file in files]
        z = torch.stack([file[i] for file, i in zip(files, indices, strict=True)])
        of_guesses, z = crops(scenes.pictures(indices), config.crop, generator, z)
        x, z = torch.cat([x, of_guesses]), z.to(run.device)
    return x.to(run.device), z


# ----------------------------------------------------------------------------------------------------------- model


def build(config: Config) -> AutoencoderKL:
    depth = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
        force_upcast=False,
    )


def with_encoder(config: Config) -> tuple[Config, AutoencoderKL, int]:
    """What `config.encoder` names: config with its sizes, the model with all but the decoder fixed, crops it saw."""
    folder = Path(config.encoder)
    try:
        model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).train()
    except (OSError, ValueError) as error:
        raise common.TrainingError(f"{folder.name} is no folder of an AutoencoderKL.") from error
    model.register_to_config(_name_or_path=folder.name)  # config.json is shipped, this machine's paths are not
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    sizes = {"channels": tuple(model.config.block_out_channels), "latent_channels": model.config.latent_channels}
    card = folder / "training.json"
    seen = json.loads(card.read_text("utf-8"))["figures"]["crops_of_scenes_seen"] if card.exists() else 0
    return replace(config, encoder=folder.name, **sizes), model, seen


class Pass(torch.nn.Module):
    """One training pass as a module, so that it can be compiled.

    x (N, 3, H, W), noise (N - M, C, h, w), off (N - M, 1, 1, 1): how far latents are off, guessed (M, C, h, w):
    latents of the last M pictures, else None -> reconstruction, of half size, KL
    """

    def __init__(self, model: AutoencoderKL, halves: int):
        super().__init__()
        self.model, self.halves = model, halves

    def forward(self, x: torch.Tensor, noise: torch.Tensor, off: torch.Tensor, guessed: torch.Tensor | None = None):
        moments = self.model.quant_conv(self.model.encoder(x[: len(noise)])).float()
        mean, logvar = moments.chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        z = mean + (logvar.exp() + off.square()).sqrt() * noise
        if guessed is not None:
            z = torch.cat([z, guessed / self.model.config.scaling_factor])
        y = self.model.decoder(self.model.post_quant_conv(z))
        half = (
            self.model.decoder(self.model.post_quant_conv(F.avg_pool2d(z[: self.halves], 2))) if self.halves else None
        )
        return y, half, kl_loss(mean, logvar)


class Discriminator(torch.nn.Module):
    """A picture -> verdicts on its patches: 1 for composed, 0 for decoded.

    Beside the picture it sees, four times as strong, what differs from the neighbourhood: what is soft is faint beside
    colours and shapes, and without that it was hardly found.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        widths = (6, width, 2 * width, 4 * width, 4 * width, 4 * width)
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(a, b, 4 if stride == 2 else 3, stride, padding=1)
            for a, b, stride in zip(widths[:-1], widths[1:], (1, 2, 2, 2, 1), strict=True)
        )
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(8, n) for n in widths[1:])
        self.out = torch.nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, H, W) in [-1, 1] -> (N, 1, H / 8, W / 8), fp32"""
        around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        x = torch.cat([x, 4 * (x - around)], 1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return self.out(x).float()


@torch.no_grad()
def reconstruct(model: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """x (N, 3, H, W) in [-1, 1] -> the same through the latent's mean"""
    parts = x.split(8)
    return torch.cat([model.decode(model.encode(part).latent_dist.mean).sample.float().cpu() for part in parts])


@torch.no_grad()
def normalise(model: AutoencoderKL, x: torch.Tensor) -> None:
    """Gives the latent mean 0 a channel and says its standard deviation; reconstructions stay what they are.

    quant_conv and post_quant_conv are 1 x 1: a shift of the latent goes into their biases exactly.
    """
    latent = torch.cat([model.encode(part).latent_dist.mean.float() for part in x.split(8)])
    mean = latent.mean((0, 2, 3))
    model.quant_conv.bias[: len(mean)] -= mean
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ mean
    spread = (latent - mean[:, None, None]).square().mean().sqrt().item()
    model.register_to_config(scaling_factor=round(1 / spread, 5), shift_factor=0.0)


def sheet(x: torch.Tensor, y: torch.Tensor, columns: int = 8):
    """Originals, each above its reconstruction, twice as large -> PIL"""
    rows = [t for pair in zip(x.split(columns), y.split(columns), strict=True) for t in pair]
    return common.grid(torch.cat(rows).repeat_interleave(2, 2).repeat_interleave(2, 3), columns)


def describe(config: Config, figures: dict) -> dict:
    """What training.json and the card say; see `common.write_card`."""
    factor = 2 ** (len(config.channels) - 1)
    return {
        "id": Path(config.out).name,
        "tab": "vae_playground",
        "kind": "photo",
        "script": "autoencoder",
        "task": "image-to-image",
        "licence": "CC-BY-4.0",
        "year": 2026,
        "title": f"Autoencoder of small pictures, {factor} times smaller with {config.latent_channels} channels",
        "summary": f"An AutoencoderKL that squeezes a picture of {SIZE} px into {SIZE // factor} x {SIZE // factor} "
        f"places of {config.latent_channels} numbers: what the small text-to-image models of Trugbild draw in.",
        "use": f'AutoencoderKL.from_pretrained("{Path(config.out).name}")  # diffusers',
        "data": {
            "name": "scenes composed of emoji" + config.with_photos * ", and photographs",
            "url": "https://github.com/googlefonts/noto-emoji",
            "licence": "Apache-2.0 (Noto Emoji), CC BY 4.0 (Twemoji), MIT (Fluent Emoji)"
            + config.with_photos * "; CC BY 2.0 (flowers), public domain (portraits, Monet)",
            "attribution": "Noto Emoji, Copyright 2013 Google LLC; Twemoji graphics, Copyright 2014-2021 Twitter, "
            "2022-present Jason Sofonia & Justine De Caires, CC BY 4.0, rendered, scaled and composed; Fluent Emoji, "
            "Copyright (c) Microsoft Corporation" + config.with_photos * PHOTO_CREDITS,
        },
        "figures": figures,
        "figures_note": "PSNR in dB of 64 scenes whose pairs of wearer and hat were not trained on.",
        "limits": [
            f"Made for scenes of emoji at {SIZE} px. Photographs lose fine texture; text becomes unreadable.",
            "Sides must be multiples of 8.",
        ],
    }


def main(config: Config) -> None:
    model, seen, guessed = None, 0, []
    if config.guesses and not config.encoder:
        raise common.TrainingError("--guesses are for a decoder: name its --encoder.")
    if config.encoder:
        guessed = guesses.read(config.guesses, Path(config.encoder))
        config, model, seen = with_encoder(config)
    if config.crop % 2 ** len(config.channels) or config.crop > SIZE:
        raise common.TrainingError(
            f"--crop is a multiple of {2 ** len(config.channels)} up to {SIZE}, not {config.crop}."
        )
    run = common.Run(config)
    scenes = Scenes(config.data, config.seed)
    test = Scenes(config.data, TEST_SEED, held_out=True).pictures(range(64)).float() / 127.5 - 1
    sources = [source for source in config.photos.split(",") if source]
    photos = torch.cat([common.load_images(s, SIZE, fit="crop").pixels for s in sources]) if sources else None

    model = (model or build(config)).to(run.device, memory_format=torch.channels_last)
    ema = common.EMA(model)
    optimizer = MuonAndAdamW(model, lr=config.lr)
    run.track(model=model, ema=ema, optimizer=optimizer)
    if config.adversarial:
        judge = Discriminator().to(run.device)
        judge_optimizer = torch.optim.Adam(judge.parameters(), lr=config.lr, betas=(0.5, 0.99), fused=True)
        run.track(judge=judge, judge_optimizer=judge_optimizer)
    # a quarter is enough; it is for the encoder's sake
    halves = max(1, config.batch_size // run.world // 4) if config.half_weight and not config.encoder else 0
    both = torch.compile(Pass(model, halves), disable=not config.compile)
    latent = config.crop // 2 ** (len(config.channels) - 1)

    for step in run.steps():
        rate = config.lr * common.cosine(step, config.steps, warmup=200)
        common.set_lr(optimizer, rate)
        x, z = batch(run, scenes, photos, guessed)
        x = x.contiguous(memory_format=torch.channels_last)
        off = config.latent_noise * (2 * run.noise((1, 1, 1), "off", uniform=True) - 1).clamp(min=0)
        noise, encoded = run.noise((config.latent_channels, latent, latent)), len(x) - (0 if z is None else len(z))
        with run.autocast():
            y, half, kl = both(x, noise[:encoded], off[:encoded], z)
        reconstruction = reconstruction_loss(y, x, config.gradient_weight)
        loss = reconstruction + config.kl_weight * kl
        if halves:
            smaller = reconstruction_loss(half, F.avg_pool2d(x[:halves], 2), config.gradient_weight, sizes=2)
            loss = loss + config.half_weight * smaller
            run.log(half=smaller)
        if config.adversarial:
            judge.requires_grad_(False)
            with run.autocast():
                gan = gan_loss(judge(y), 1)
            share = pull(reconstruction, y) / pull(gan, y).clamp(min=1e-6)  # eq. 7, at the picture itself
            loss = loss + config.adversarial * share * gan
            run.log(gan=gan)
        norm = run.update(loss, optimizer, max_norm=1.0)
        ema.update(model, min(config.ema, (step + 1) / (step + 10)))
        run.log(loss=loss, reconstruction=reconstruction, kl=kl, norm=norm)
        if config.adversarial:
            common.set_lr(judge_optimizer, rate)
            judge.requires_grad_(True)
            with run.autocast():
                real, drawn = gan_loss(judge(x), 1), gan_loss(judge(y.detach()), 0)
            run.update((real + drawn) / 2, judge_optimizer)
            run.log(real=real, drawn=drawn)
        if run.due(config.sample_every):
            with run.autocast():
                y = reconstruct(ema.module, test.to(run.device))
            run.log(psnr=psnr(y, test).mean())
            run.picture("scenes", sheet(test[:32], y[:32]))
        if run.due(config.snapshot_every):
            finished = deepcopy(ema.module)
            if not config.encoder:
                normalise(finished, scenes.pictures(range(256)).to(run.device) / 127.5 - 1)
            finished = finished.half().float()  # figures are of the weights as they are shipped
            db = psnr(reconstruct(finished, test.to(run.device)), test)
            figures = {
                "psnr_held_out_scenes": round(db.mean().item(), 2),
                "psnr_worst_of_64": round(db.min().item(), 2),
                "crops_of_scenes_seen": seen + (step + 1) * (config.batch_size - config.photos_in),
                "numbers_in_latent": config.latent_channels * (SIZE * latent // config.crop) ** 2,
            }
            run.save(finished, describe(config, figures))


if __name__ == "__main__":
    common.launch(main, Config)
