"""Text-to-image folders of the real classes, trained for two steps on tests/emoji.py's pack: they draw noise, fast."""

from pathlib import Path
from unittest import mock

import torch
from accelerate.state import AcceleratorState
from diffusers import FluxTransformer2DModel, UNet2DConditionModel

from tests import emoji
from training import autoencoder, common, latents, text_to_image, words

KINDS = {"tiny-sd": "diffusion", "tiny-flux": "flow"}
NARROW = (
    "--steps 2 --batch-size 4 --scenes 24 --text-width 64 --text-layers 1 --channels 32 64 --width 32 --heads 2 "
    "--double-blocks 1 --single-blocks 1 --cpu --precision fp32"
)


def folders(where: Path) -> dict[str, Path]:
    """{"diffusion": folder, "flow": folder}"""
    pack = emoji.write_pack(where / "emoji")
    torch.manual_seed(0)
    config = autoencoder.Config(data="", out="x", channels=(8, 8, 8, 16), latent_channels=4)
    autoencoder.build(config).half().save_pretrained(where / "vae")
    with (
        mock.patch.multiple(latents, PART=16, HELD_OUT=4),
        mock.patch.multiple(text_to_image, HELD_OUT=4, PROMPTS=text_to_image.PROMPTS[:2]),
        mock.patch.object(words, "SAMPLED", 300),
    ):
        argv = ["--data", pack, "--vae", where / "vae", "--out", where / "latents", "--scenes", "24"]
        latents.main(list(map(str, argv)))
        for name, objective in KINDS.items():
            AcceleratorState._reset_state(True)
            argv = [*NARROW.split(), "--data", pack, "--latents", where / "latents", "--out", where / name]
            argv += ["--objective", objective]
            text_to_image.main(common.parse(text_to_image.Config, list(map(str, argv))))
        AcceleratorState._reset_state(True)
    for name, kind, part in (
        ("tiny-sd", UNet2DConditionModel, "unet"),
        ("tiny-flux", FluxTransformer2DModel, "transformer"),
    ):
        net = kind.from_pretrained(where / name / part)  # which begins as a constant: now words, times and places count
        with torch.no_grad():
            for weight in net.parameters():
                weight += 0.1 * torch.randn_like(weight)
        net.save_pretrained(where / name / part)
    return {objective: where / name for name, objective in KINDS.items()}
