"""Encodes scenes once, so that training of text to image reads latents: composing and encoding 32 scenes would cost
about as much as the step that learns from them, again in every epoch and for every model.

    python -m training.latents --data ../shared/data/emoji --vae runs/emoji-vae --out runs/emoji-latents --scenes 100000

OUT gets vae/ (a copy of the autoencoder's two files: the latents belong to it), parts of 2,048 scenes in order of their
index, and held-out.safetensors, of pairs that no training sees. What is there already is kept: run it again after a
stop, with more scenes, or with a decoder that learnt on (training.autoencoder --encoder), which vae/ then holds. Only
pictures are cached: facts are functions of (seed, index), captions are drawn anew.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pipelines import runtime
from training.common import TrainingError, one_sentence
from training.scenes import Scenes

PART = 2048  # scenes in a file
HELD_OUT = 256
HELD_OUT_SEED = 1_000_003
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def digest(vae: Path) -> str:
    """Which encoder: the start of the sha256 of its weights. The decoder has no say in what latents are."""
    sha = hashlib.sha256()
    try:
        with safe_open(vae / VAE_FILES[1], "pt") as file:
            for name in sorted(file.keys()):
                if name.startswith(("encoder.", "quant_conv.")):
                    sha.update(name.encode() + file.get_tensor(name).numpy().tobytes())
        return sha.hexdigest()[:12]
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{vae.name} is no autoencoder: {VAE_FILES[1]} is missing.") from error


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) -> float16 (N, C, h, w): the mean of each latent, normalised to N(0, 1).

    Not a draw: the autoencoder's own noise is some hundredths, and the nets see more than that at almost all times.
    In bf16 where that is twice as fast; it is off by less than half a hundredth.
    """
    config, x = vae.config, pictures.to(vae.device).float() / 127.5 - 1
    with runtime.autocast():
        mean = torch.cat([vae.encode(part).latent_dist.mean.float() for part in x.split(16)])
    return ((mean - (config.shift_factor or 0)) * config.scaling_factor).half().cpu().contiguous()


def keep(file: Path, tensors: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    """Writes a file of tensors, whole or not at all."""
    save_file(tensors, file.with_suffix(".tmp"), facts)
    file.with_suffix(".tmp").replace(file)


def write(file: Path, vae: AutoencoderKL, scenes: Scenes, indices: range, facts: dict[str, str]) -> None:
    """One file of latents; a good one of the same facts stays as it is."""
    if file.exists():
        with safe_open(file, "pt") as part:
            if part.metadata() == facts:
                return
            raise TrainingError(f"{file.name} holds latents of another autoencoder or seed; choose another --out.")
    latents, cover = [], []
    for i in range(0, len(indices), 64):
        pictures, covered = scenes.covered(indices[i : i + 64])
        latents.append(encode(vae, pictures))
        cover.append(F.adaptive_avg_pool2d(covered.float(), latents[-1].shape[2:]).round().byte())
    keep(file, {"latents": torch.cat(latents), "cover": torch.cat(cover)}, facts)


class Latents:
    """The latents of scenes 0 to n - 1, mapped into memory.

    `latents[indices]` -> float32 (N, C, h, w); `latents.cover(indices)` -> how much of each place things and hats
    cover, float32 (N, 2, h, w) in [0, 1].
    """

    def __init__(self, folder: str | Path, n: int):
        folder = Path(folder)
        self.vae, self.digest = folder / "vae", digest(folder / "vae")
        try:
            with safe_open(folder / "held-out.safetensors", "pt") as file:
                self.seed = int(file.metadata()["seed"])
            self.held_out = load_file(folder / "held-out.safetensors")["latents"].float()
            files = [folder / f"{i:05d}.safetensors" for i in range(-(-n // PART))]
            self.parts = [load_file(file) for file in files]
            held = sum(len(part["cover"]) for part in self.parts)
        except (OSError, SafetensorError, KeyError) as error:
            raise TrainingError(f"{folder.name} lacks latents of {n} scenes: run training.latents first.") from error
        if held < n:
            raise TrainingError(f"{folder.name} holds latents of {held} scenes, not {n}.")
        self.shape = tuple(self.held_out.shape[1:])

    def _of(self, what: str, indices: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.parts[i // PART][what][i % PART] for i in indices.tolist()]).float()

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        return self._of("latents", indices)

    def cover(self, indices: torch.Tensor) -> torch.Tensor:
        return self._of("cover", indices) / 255


def prepare(data: str, vae: Path, out: Path, n: int, seed: int) -> None:
    facts = {"vae": digest(vae), "seed": str(seed)}
    scenes, others = Scenes(data, seed), Scenes(data, HELD_OUT_SEED, held_out=True)
    model = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32)
    model.to(runtime.device(), memory_format=torch.channels_last)  # a quarter faster on a CPU
    out.mkdir(parents=True, exist_ok=True)
    write(out / "held-out.safetensors", model, others, range(HELD_OUT), facts)
    (out / "vae").mkdir(exist_ok=True)
    for name in VAE_FILES:
        shutil.copyfile(vae / name, out / "vae" / name)
    for first in range(0, n, PART):
        write(out / f"{first // PART:05d}.safetensors", model, scenes, range(first, first + PART), facts)
        print(f"{min(first + PART, n)} of {n} scenes", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the emoji pack")
    parser.add_argument("--vae", type=Path, required=True, help="folder of the trained AutoencoderKL")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    args = parser.parse_args(argv)
    with one_sentence():
        prepare(args.data, args.vae, args.out, args.scenes, args.seed)


if __name__ == "__main__":
    main()
