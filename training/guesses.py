"""Latents as a small net guesses them, for a decoder that shall draw clean pictures from such (training.autoencoder
--guesses).

    python -m training.guesses runs/emoji-flux --data ../shared/data/emoji --out runs/guesses-flux.safetensors

Scenes are noised a part of the way and drawn again by the net from there, with their own captions (SDEdit, Meng et al.
2022, section 3): what comes out shows the same things in the same places, as soft and as crooked as what the net draws
from nothing. A decoder that was shown latents of the encoder alone takes that for smears, and draws them.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from pipelines import runtime
from training.common import TrainingError, one_sentence
from training.latents import digest, keep
from training.scenes import Scenes

STRENGTHS = {"diffusion": (0.3, 0.45, 0.6), "flow": (0.25, 0.375, 0.5)}  # share of the steps that are drawn again
BATCH = 16


def guess(folder: Path, scenes: Scenes, n: int) -> torch.Tensor:
    """Latents of scenes 0 to n - 1 as the text-to-image model guesses them: float16 (N, C, h, w), near N(0, 1)."""
    facts = json.loads((folder / "training.json").read_text("utf-8"))
    kind, defaults = facts["kind"], facts["defaults"]
    pipeline = AutoPipelineForImage2Image.from_pretrained(folder, torch_dtype=torch.float32).to(runtime.device())
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": defaults["size"], "width": defaults["size"]}
    guided = "true_cfg_scale" if kind == "flow" else "guidance_scale"
    settings = {"num_inference_steps": defaults["steps"], guided: defaults["guidance"], "output_type": "latent"}
    if kind == "flow":
        settings |= {**size, "max_sequence_length": pipeline.tokenizer_2.model_max_length}
    latents = []
    for first in range(0, n, BATCH):
        batch = [scenes[i] for i in range(first, min(first + BATCH, n))]
        with runtime.autocast():
            drawn = pipeline(
                [scene.caption for scene in batch],
                image=[Image.fromarray(scene.picture) for scene in batch],
                negative_prompt=[""] * len(batch),
                strength=STRENGTHS[kind][first // BATCH % len(STRENGTHS[kind])],
                generator=torch.Generator().manual_seed(first),
                **settings,
            ).images
        if kind == "flow":  # in patches of 2 x 2
            drawn = pipeline._unpack_latents(drawn, **size, vae_scale_factor=pipeline.vae_scale_factor)
        latents.append(drawn.half().cpu().contiguous())
        print(f"{first + len(batch)} of {n} scenes", flush=True)
    return torch.cat(latents)


def read(files: str, encoder: Path) -> list[torch.Tensor]:
    """Of each of the files, separated by commas, the latents of scenes 0 to n - 1; `encoder`: whose latents they are.

    Raises TrainingError for files that are none or of another autoencoder.
    """
    found = []
    for file in (Path(name) for name in files.split(",") if name):
        try:
            with safe_open(file, "pt") as part:
                of = part.metadata() or {}
            found.append(load_file(file)["latents"])
        except (OSError, SafetensorError, KeyError) as error:
            raise TrainingError(f"{file.name} holds no guesses of a net: run training.guesses first.") from error
        if of.get("vae") != digest(encoder):
            raise TrainingError(f"{file.name} holds latents of another autoencoder than {encoder.name}.")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a text-to-image model")
    parser.add_argument("--data", required=True, help="folder of the emoji pack")
    parser.add_argument("--out", type=Path, required=True, help="file of the latents")
    parser.add_argument("--scenes", type=int, default=4096)
    args = parser.parse_args(argv)
    with one_sentence():
        latents = guess(args.model, Scenes(args.data), args.scenes)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        keep(args.out, {"latents": latents}, {"vae": digest(args.model / "vae")})


if __name__ == "__main__":
    main()
