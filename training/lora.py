"""Teaches a text-to-image model something new from a few pictures, by LoRA (Hu et al. 2021): a low-rank change of it.

    python -m training.lora --model emoji-sd --data my-pictures --out runs/my-lora
    python -m training.lora --model black-forest-labs/FLUX.1-dev --data my-pictures --out runs/my-lora \
        --size 512 --batch-size 1 --precision bf16 --checkpointing --eight-bit
    accelerate launch --config_file training/configs/one_gpu.yaml -m training.lora ...      others: training/configs

DATA holds pictures and metadata.jsonl, a line each: {"file_name": "0001.png", "text": "a sks frog"}. MODEL is a folder
of diffusers, or an id that the app knows; training/text_families.py lists the architectures. Some twenty pictures will
do: say in each caption what is new by the same words, and what is not new by words that the model knows.

OUT gets pytorch_lora_weights.safetensors, which `pipe.load_lora_weights(OUT)` of diffusers reads; add --resume to go on
after a stop. W x becomes W x + B A x, A and B of rank r; alpha is r, so the change counts as it was learnt at weight 1.
B begins at 0, so the model begins as it was. Pictures of equal shape learn together, at about SIZE x SIZE
pixels; latents and captions are encoded once. Text encoders do not change.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate.utils import DistributedType
from diffusers import DiffusionPipeline
from peft import LoraConfig
from PIL import Image, ImageOps
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pipelines import Problem, hub, registry
from pipelines.runtime import to_tensor
from training import common, text_families
from training.common import TrainingError, option
from training.text_to_image import spread
from training.words import WORD

ATTENTION = re.compile(r".*\.(to_[qkv]|to_out(\.0)?|add_[qkv]_proj|to_add_out|to_qkv_mlp_proj)")
BLOCKS = re.compile(r"(?!.*\.norm).*block.*")  # what modulates the norms stays as it is


@dataclass(kw_only=True)
class Config(common.Config):
    """Defaults are for a large model and some twenty pictures."""

    model: str = option("emoji-sd", "folder of a pipeline of diffusers, or an id that the app knows")
    steps: int = option(1000, "updates in all")
    batch_size: int = option(4, "pictures in an update, over all processes")
    lr: float = option(1e-4, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("fp32", "of the model, which does not change; the LoRA stays in fp32")
    rank: int = option(16, "of the change")
    targets: Literal["attention", "all"] = option("attention", "layers that change; all: every one of the blocks")
    size: int = option(0, "pictures have about SIZE x SIZE pixels; 0: as many as the model draws")
    drop: float = option(0.1, "share of captions that are dropped, for guidance")
    min_snr: float = option(5.0, "diffusion: gamma of the loss's weight; 0: none")
    checkpointing: bool = option(False, "compute activations twice instead of keeping them: less memory, slower")
    eight_bit: bool = option(False, "moments of Adam in 8 bit; needs bitsandbytes")
    keep: str = option("", "file of prompts, a line each, of which the model must go on drawing what it drew before")
    keep_weight: float = option(2.0, "of how far it departs from that")
    prompts: tuple[str, ...] = option((), "of the sample pictures; the first captions if none")
    licence: str = option("other", "of the LoRA, as the card names it")
    source: str = option("https://huggingface.co/docs/hub/datasets-image", "where the pictures come from: an address")
    attribution: str = option("pictures of whoever trained it", "whose pictures they are")
    save_every: int = option(100, "steps between checkpoints")
    sample_every: int = option(250, "steps between sample pictures, and LoRAs kept in OUT")


# ------------------------------------------------------------------------------------------------------------ data


def bucket(width: int, height: int, size: int, multiple: int) -> tuple[int, int]:
    """-> width and height of about size x size pixels and that shape, at most 1 : 2, multiples of `multiple`."""
    shape = min(max(width / height, 0.5), 2.0) ** 0.5
    return tuple(max(1, round(size * side / multiple)) * multiple for side in (shape, 1 / shape))


def read(folder: Path) -> list[tuple[Image.Image, str]]:
    """DATA -> pictures and captions, in the order of metadata.jsonl. Raises TrainingError."""
    lines, found = folder / "metadata.jsonl", []
    if not lines.is_file():
        raise TrainingError(f'{folder.name} lacks metadata.jsonl, a line a picture: {{"file_name": ..., "text": ...}}.')
    for number, line in enumerate(lines.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
            if not (isinstance(name, str) and isinstance(text, str)):
                raise TypeError
        except (ValueError, TypeError, KeyError) as error:
            raise TrainingError(f"Line {number} of metadata.jsonl is no object with file_name and text.") from error
        try:
            image = ImageOps.exif_transpose(Image.open(folder / name))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            found.append((image.convert("RGB"), text.strip()))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise TrainingError(f"{name} (line {number} of metadata.jsonl) is not a whole picture.") from error
    if not found:
        raise TrainingError(f"{folder.name} holds no pictures: metadata.jsonl has no lines.")
    return found


def on(device: torch.device | str, told: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in told.items()}


class Pictures:
    """DATA as the net sees it: latents in buckets of equal shape, and what the net is told of each picture."""

    @torch.no_grad()
    def __init__(self, found: list[tuple[Image.Image, str]], family: text_families.Family, size: int):
        self.texts = [text for _, text in found]
        self.told = [on("cpu", family.told([text])) for text in (*self.texts, "")]  # the last is that of no caption
        self.latents, self.buckets, digest = [], {}, hashlib.sha256("\n".join(self.texts).encode())
        for index, (image, _) in enumerate(found):
            sides = bucket(*image.size, size, family.multiple)
            x = to_tensor(ImageOps.fit(image, sides, Image.Resampling.LANCZOS))
            digest.update(x.numpy().tobytes())
            self.latents.append(family.encode(x).cpu())
            self.buckets.setdefault(sides, []).append(index)
        self.digest = digest.hexdigest()[:12]

    def say(self, chosen: list[int]) -> dict[str, torch.Tensor]:
        """Indices of captions, -1 for none -> what the net is told"""
        return {name: torch.cat([self.told[i][name] for i in chosen]) for name in self.told[0]}

    def batch(self, run: common.Run, name: str = "batch") -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-> our part of latents of one bucket, and what is told of them; a function of (seed, step). In the long run
        every picture is drawn as often: a bucket by its share of all, then pictures from it, all before any twice."""
        generator, buckets = run.generator(name), list(self.buckets.values())
        sizes = torch.tensor([float(len(indices)) for indices in buckets])
        indices = torch.tensor(buckets[torch.multinomial(sizes, 1, generator=generator)])
        rounds = math.ceil(run.config.batch_size / len(indices))
        chosen = torch.cat([indices[torch.randperm(len(indices), generator=generator)] for _ in range(rounds)])
        chosen = chosen[: run.config.batch_size]
        dropped = torch.rand(len(chosen), generator=generator) < run.config.drop
        captions = run.share(torch.where(dropped, -1, chosen)).tolist()
        x = torch.cat([self.latents[i] for i in run.share(chosen).tolist()])
        return x.to(run.device), on(run.device, self.say(captions))


@torch.no_grad()
def drawn_before(file: Path, family: text_families.Family, size: int, how: dict) -> list[tuple[Image.Image, str]]:
    """What the model draws of each prompt in the file, as DreamBooth keeps what a class looks like (Ruiz et al. 2023,
    section 3.3). how: steps and guidance. Raises TrainingError."""
    try:
        texts = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file.name} is missing or no file of text.") from error
    if not texts:
        raise TrainingError(f"{file.name} holds no prompts.")
    device, nothing, found = family.net.device, on(family.net.device, family.told([""])), []
    for i, text in enumerate(texts):
        x = family.draw(on(device, family.told([text])), nothing, size, seed=i, **how)
        found.append((common.grid(x), text))
    return found


def drift(family: text_families.Family, x: torch.Tensor, noise: torch.Tensor, u: torch.Tensor, told: dict):
    """Mean squared difference of what the net says with the LoRA and without it. Unlike DreamBooth's, which learns
    from noise again, this is 0 where nothing changed (Li & Hoiem 2017, learning without forgetting)."""
    apart = []

    def predict(x_t, t, told):
        family.net.disable_adapters()
        with torch.no_grad():
            before = family.predict(x_t, t, told).float()
        family.net.enable_adapters()
        now = family.predict(x_t, t, told)
        apart.append((now.float() - before).square().mean())
        return now

    family.loss(x, noise, u, told, predict)
    return apart[0]


# ----------------------------------------------------------------------------------------------------------- model


def load(model: str, precision: str) -> tuple[DiffusionPipeline, dict, Path]:
    """Folder or id -> pipeline, what its training.json says if it has one, folder"""
    try:
        folder = Path(model) if Path(model).is_dir() else hub.fetch(registry.get(model))
    except Problem as problem:
        raise TrainingError(str(problem)) from problem
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise TrainingError(f"{folder.name} is no whole pipeline of diffusers.") from error
    pipe.vae.float()  # where small numbers are lost, colours are
    known = folder / "training.json"
    return pipe, json.loads(known.read_text("utf-8")) if known.exists() else {}, folder


def fingerprint(net: torch.nn.Module) -> str:
    """Which weights: a hash of a few numbers of each."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode() + value.flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


class Lora(torch.nn.Module):
    """The weights A and B of a net, which share their memory with it: what is learnt, kept and saved."""

    def __init__(self, family: text_families.Family, rank: int, targets: str):
        super().__init__()
        net, pattern = family.net.requires_grad_(False), {"attention": ATTENTION, "all": BLOCKS}[targets]
        layers = torch.nn.Linear | torch.nn.Conv2d
        chosen = [name for name, m in net.named_modules() if isinstance(m, layers) and pattern.fullmatch(name)]
        net.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=chosen, init_lora_weights="gaussian"))
        self.pipeline, self.net_name = type(family.pipe), family.net_name
        for name, weight in net.named_parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
                self.register_parameter(name.replace(".default", "").replace(".", "/"), weight)

    def save_pretrained(self, folder: Path) -> None:
        """In the format of diffusers; written beside and renamed, since the app may be reading it."""
        weights = {name.replace("/", "."): weight.contiguous() for name, weight in self.state_dict().items()}
        name = "pytorch_lora_weights.safetensors"
        self.pipeline.save_lora_weights(folder, **{f"{self.net_name}_lora_layers": weights}, weight_name=f"new-{name}")
        (folder / f"new-{name}").replace(folder / name)


def shard(net: torch.nn.Module, kept: set[torch.nn.Parameter], run: common.Run) -> None:
    """Weights spread over the processes, whole only while their block computes (FSDP2; Zhao et al. 2023), but for those
    in `kept`. `run.update` averages the gradients of these, as it does everywhere."""
    how = {"mesh": init_device_mesh(run.device.type, (run.world,)), "ignored_params": kept}
    for blocks in net.children():
        for block in blocks if isinstance(blocks, torch.nn.ModuleList) else ():
            fully_shard(block, **how)
    fully_shard(net, **how)


class Same(dict):
    """What must be as it was when a run goes on."""

    def update(self, before: dict) -> None:
        for name, value in before.items():
            if self[name] != value:
                raise TrainingError(f"This run began with {name} that were others: choose another --out.")


def adam(config: Config, weights: Iterator[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if not config.eight_bit:
        return torch.optim.AdamW(weights, config.lr, weight_decay=0.01, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise TrainingError("--eight-bit needs bitsandbytes: pip install bitsandbytes, or leave it away.") from error
    return AdamW8bit(weights, config.lr, weight_decay=0.01)


# ------------------------------------------------------------------------------------------------------------ main


@torch.no_grad()
def mean_loss(family: text_families.Family, pictures: Pictures, seed: int) -> float:
    """Mean loss of up to 32 pictures, always the same, of the same times and noise."""
    losses, chosen = [], range(min(32, len(pictures.latents)))
    for i in chosen:
        x, generator = pictures.latents[i], torch.Generator().manual_seed(common.seed_of(seed, "held", i))
        noise, u = torch.randn(x.shape, generator=generator), torch.tensor([(i + 0.5) / len(chosen)])
        device = family.net.device
        losses.append(family.loss(x.to(device), noise.to(device), u.to(device), on(device, pictures.say([i]))))
    return torch.stack(losses).mean().item()


def describe(
    config: Config, base: str, family: text_families.Family, defaults: dict, figures: dict, texts: list[str]
) -> dict:
    """What training.json and the card say; see `common.write_card`. texts: captions, whose words the app then knows."""
    id = Path(config.out).name
    return {
        "id": id,
        "tab": "text_to_image",
        "kind": "lora",
        "script": "lora",
        "task": "text-to-image",
        "tags": ["lora"],
        "licence": config.licence,
        "title": f"LoRA for {base}",
        "summary": f"A change of rank {config.rank} of {base}, learnt from {figures['pictures']} pictures.",
        "use": f'pipe = DiffusionPipeline.from_pretrained("{base}"); pipe.load_lora_weights("{id}")  # diffusers',
        "base": base,
        "family": type(family.pipe).__name__,
        "defaults": defaults,
        "words": sorted({word for text in texts for word in WORD.findall(text.lower())}),
        "data": {
            "name": "captioned pictures", "url": config.source, "licence": config.licence,
            "attribution": config.attribution,
        },
        "figures": figures,
        "figures_note": "The loss is that of the pictures it learnt from, at the same times and noise without the LoRA "
        "and with it; it says that something was learnt, not whether it is good.",
        "limits": [
            f"It fits {base} and models that were made from it, nothing else.",
            "It knows what its few pictures show, also what was not meant: backgrounds, light, flaws.",
        ],
    }  # fmt: skip


def main(config: Config) -> None:
    run = common.Run(config)
    pipe, known, _ = load(config.model, run.precision)
    family = text_families.of(pipe, config.min_snr)
    defaults = {"steps": 28, "guidance": 4.0, "size": family.side} | known.get("defaults", {})
    size, base = config.size or defaults["size"], Path(config.model).name
    for part in pipe.components.values():  # first what reads and what encodes, then the net: both need not fit at once
        if isinstance(part, torch.nn.Module) and part is not family.net:
            part.requires_grad_(False).to(run.device)
    pictures = Pictures(read(Path(config.data)), family, size)
    with torch.no_grad():
        prompts = [on("cpu", family.told([prompt])) for prompt in config.prompts or pictures.texts[:4]]
    nothing, kept = on(run.device, pictures.told[-1]), None
    if config.keep:
        family.net.to(run.device)
        with run.autocast():
            how = {name: defaults[name] for name in ("steps", "guidance")}
            kept = Pictures(drawn_before(Path(config.keep), family, size, how), family, size)
    family.forget_reading()
    family.net.to(run.device)

    same = Same(weights=fingerprint(family.net), pictures=pictures.digest, kept=kept.digest if kept else "")
    lora = Lora(family, config.rank, config.targets)
    if run.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        shard(family.net, set(lora.parameters()), run)
    if config.checkpointing:
        family.net.enable_gradient_checkpointing()
    family.net.train()
    optimizer = adam(config, lora.parameters())
    run.track(same=same, lora=lora, optimizer=optimizer)

    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, min(50, config.steps // 10)))
        x, told = pictures.batch(run)
        times = spread(torch.rand(config.batch_size, generator=run.generator("times")))
        noise, u = run.noise(x.shape[1:]), run.share(times).to(run.device)
        with run.autocast():
            loss = family.loss(x, noise, u, told)
            if kept:
                x, told = kept.batch(run, "kept")
                apart = drift(family, x, run.noise(x.shape[1:], "kept"), u, told)
                run.log(drift=apart)
                loss = loss + config.keep_weight * apart
        norm = run.update(loss, optimizer, max_norm=1.0)
        run.log(loss=loss, norm=norm)
        done = step + 1  # of sharded weights every process must compute, though one alone keeps the pictures
        if not config.dry_run and (done % config.sample_every == 0 or done == config.steps):
            family.net.eval()
            with run.autocast():
                how = nothing, size, defaults["steps"], defaults["guidance"], 0
                drawn = [family.draw(on(run.device, told), *how) for told in prompts]
                figures = {"pictures": len(pictures.texts), "pictures seen": done * config.batch_size}
                figures["loss with it"] = round(mean_loss(family, pictures, config.seed), 4)
                family.net.disable_adapters()
                figures["loss without"] = round(mean_loss(family, pictures, config.seed), 4)
                family.net.enable_adapters()
            if run.is_main:
                run.picture("prompts", common.grid(torch.cat(drawn)))
            run.save(lora, describe(config, base, family, defaults, figures, pictures.texts))
            family.net.train()


if __name__ == "__main__":
    common.launch(main, Config)
