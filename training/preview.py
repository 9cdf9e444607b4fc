"""Trains the small autoencoder that decodes previews of text to image, as TAESD does for Stable Diffusion (Ollin Boer
Bohan, https://github.com/madebyollin/taesd): about the same picture in a tenth of the time, so there is one at every
step.

    python -m training.latents --data ../shared/data/emoji --vae runs/emoji-vae --out runs/emoji-latents
    python -m training.preview --data ../shared/data/emoji --latents runs/emoji-latents --out runs/emoji-preview

OUT is a folder of diffusers' AutoencoderTiny from the first snapshot on; add --resume to go on after a stop. Its
latents are those that the nets see. The decoder learns scenes from their latents, the encoder the latents.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.nn import functional as F

from training import common
from training.autoencoder import psnr, reconstruction_loss, sheet
from training.common import option
from training.latents import HELD_OUT_SEED, Latents
from training.scenes import SIZE, Scenes

TESTED = 64  # held-out scenes


@dataclass(kw_only=True)
class Config(common.Config):
    steps: int = option(4_000, "updates in all")
    batch_size: int = option(16, "crops in an update, over all processes")
    lr: float = option(2e-3, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the forward pass; weights stay in fp32")
    latents: Path = option(Path("runs/emoji-latents"), "folder that training.latents wrote")
    scenes: int = option(2_048, "how many of its scenes")
    crop: int = option(64, "side of what is looked at of a scene, in px, a multiple of 8")
    width: int = option(24, "channels everywhere in between")
    ema: float = option(0.998, "decay of the mean of the weights that is shipped")
    snapshot_every: int = option(1_000, "steps between models kept in OUT")


def crops(run: common.Run, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes (N, 3, H, W) and their latents (N, C, H / 8, W / 8) -> the same place of both, another of each."""
    side, generator = run.config.crop // 8, run.generator(f"crops {run.rank}")
    places = torch.randint(z.shape[2] - side + 1, (len(z), 2), generator=generator).tolist()
    parts = [(slice(top, top + side), slice(left, left + side)) for top, left in places]
    wide = [tuple(slice(8 * part.start, 8 * part.stop) for part in both) for both in parts]
    cut = [picture[(..., *both)] for picture, both in zip(x, wide, strict=True)]
    return torch.stack(cut), torch.stack([latent[(..., *both)] for latent, both in zip(z, parts, strict=True)])


def build(config: Config, channels: int) -> AutoencoderTiny:
    """Most of its blocks are where the picture is small: the last size has none, which halves the time."""
    widths = (config.width,) * 4
    return AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        num_encoder_blocks=(0, 1, 2, 3), num_decoder_blocks=(3, 2, 1, 0),
    )  # fmt: skip


def describe(config: Config, figures: dict) -> dict:
    """What training.json says; see `common.write_card`."""
    return {
        "id": Path(config.out).name,
        "tab": "vae_playground",
        "kind": "photo",
        "script": "preview",
        "task": "image-to-image",
        "licence": "CC-BY-4.0",
        "year": 2026,
        "title": "Previews of the small text-to-image models",
        "summary": "An AutoencoderTiny in the latent space of emoji-sd and emoji-flux: decodes what they expect at "
        "each step.",
        "use": f'AutoencoderTiny.from_pretrained("{Path(config.out).name}")  # diffusers',
        "data": {
            "name": "scenes composed of emoji",
            "url": "https://github.com/googlefonts/noto-emoji",
            "licence": "Apache-2.0 (Noto Emoji), CC BY 4.0 (Twemoji), MIT (Fluent Emoji)",
            "attribution": "Noto Emoji, Copyright 2013 Google LLC; Twemoji graphics, Copyright 2014-2021 Twitter, "
            "2022-present Jason Sofonia & Justine De Caires, CC BY 4.0, rendered, scaled and composed; Fluent Emoji, "
            "Copyright (c) Microsoft Corporation",
        },
        "figures": figures,
        "figures_note": f"PSNR in dB of {TESTED} scenes whose pairs of wearer and hat were not trained on, decoded "
        "from the latents of the large autoencoder; beside it that of its own decoder.",
        "limits": [f"For looking on while pictures of {SIZE} px are drawn, not for the pictures themselves."],
    }


@torch.no_grad()
def decoded(decode, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat([decode(part).sample.float().cpu() for part in latents.split(16)])


def main(config: Config) -> None:
    run = common.Run(config)
    latents = Latents(config.latents, config.scenes)
    scenes, others = Scenes(config.data, latents.seed), Scenes(config.data, HELD_OUT_SEED, held_out=True)
    z = latents.held_out[:TESTED].to(run.device)
    test = others.pictures(range(len(z))).float() / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(latents.vae, torch_dtype=torch.float32).to(run.device)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0
    large = round(psnr(decoded(lambda part: vae.decode(part / scale + shift), z), test).mean().item(), 2)

    model = build(config, latents.shape[0]).to(run.device, memory_format=torch.channels_last)
    ema = common.EMA(model)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    run.track(model=model, ema=ema, optimizer=optimizer)
    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, warmup=100))
        chosen = run.indices(config.scenes)
        x, wanted = crops(run, scenes.pictures(chosen.tolist()).float() / 127.5 - 1, latents[chosen])
        x, wanted = (part.to(run.device, memory_format=torch.channels_last) for part in (x, wanted))
        with run.autocast():
            y, found = model.decode(wanted).sample, model.encode(x).latents
        decoding, encoding = reconstruction_loss(y, x, 1.0), F.l1_loss(found.float(), wanted)
        norm = run.update(decoding + encoding, optimizer, max_norm=1.0)
        ema.update(model, min(config.ema, (step + 1) / (step + 10)))
        run.log(decoding=decoding, encoding=encoding, norm=norm)
        if run.due(config.sample_every):
            y = decoded(ema.module.decode, z)
            run.log(psnr=psnr(y, test).mean())
            run.picture("scenes", sheet(test[:32], y[:32]))
        if run.due(config.snapshot_every):
            db = psnr(decoded(ema.module.decode, z), test).mean().item()
            figures = {"psnr_held_out_scenes": round(db, 2), "psnr_of_the_large_decoder": large}
            run.save(ema.module, describe(config, figures))


if __name__ == "__main__":
    common.launch(main, Config)
