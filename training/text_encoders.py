"""Teaches text encoders which caption belongs to which picture, before nets learn to draw from what they say.

    python -m training.text_encoders --data ../shared/data/emoji --latents runs/emoji-latents --out runs/emoji-words
    python -m training.text_to_image ... --encoders runs/emoji-words

CLIP's objective (Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3) on latents of composed scenes, with
captions drawn anew in English and German: in a batch each picture has to find its caption, and each caption its
picture. Both text encoders learn from the same small tower over the latents, which is thrown away. A net that draws
then begins with words that say how things look, alike in both languages, as Stable Diffusion and Flux began with CLIP
and T5. OUT holds text_encoder/ (CLIP), text_encoder_2/ (T5) and figures.json; add --resume to go on after a stop.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from training import common, words
from training.common import option
from training.latents import HELD_OUT, HELD_OUT_SEED, Latents
from training.quick import plain_attention
from training.scenes import LANGUAGES, Scenes
from training.text_to_image import captions, clip, t5


@dataclass(kw_only=True)
class Config(common.Config):
    latents: Path = option(Path("runs/emoji-latents"), "folder that training.latents wrote")
    scenes: int = option(65_536, "how many of its scenes")
    steps: int = option(2_000, "updates in all")
    batch_size: int = option(256, "pairs in an update: each has all others against it")
    lr: float = option(1e-3, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the forward pass; weights stay in fp32")
    length: int = option(24, "tokens of a prompt")
    text_width: int = option(256, "of the text encoders")
    text_layers: int = option(3, "of the text encoders")
    heads: int = option(4, "of attention")


class Sides(nn.Module):
    """Pictures and captions as unit vectors of the same space."""

    def __init__(self, config: Config, channels: int, tokenizer, tokenizer_2):
        super().__init__()
        width = config.text_width
        self.tokenizers = tokenizer, tokenizer_2
        self.text_encoder, self.text_encoder_2 = clip(config, tokenizer), t5(config, tokenizer_2)
        self.tower = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1), nn.GELU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(128, 256, 3, stride=2, padding=1), nn.GELU(),
        )  # fmt: skip
        self.seen = nn.Linear(2 * 256, width)  # mean and maximum over places
        self.read = nn.ModuleList([nn.Linear(2 * width, width), nn.Linear(width, width)])
        self.temperature = nn.Parameter(torch.tensor(0.07).log())  # section 2.3

    def pictures(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, h, w) -> (N, width)"""
        places = self.tower(x).flatten(2)
        return F.normalize(self.seen(torch.cat([places.mean(2), places.amax(2)], 1)).float(), dim=1)

    def texts(self, texts: list[str], length: int) -> list[torch.Tensor]:
        """-> (N, width) by each text encoder: all tokens count, so that each learns what it stands for."""
        how = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        ids = [tokenizer(texts, **how).input_ids.to(self.temperature.device) for tokenizer in self.tokenizers]
        first = self.text_encoder(ids[0])
        second = self.text_encoder_2(ids[1]).last_hidden_state.mean(1)
        both = torch.cat([first.last_hidden_state.mean(1), first.pooler_output], 1), second
        return [F.normalize(layer(x).float(), dim=1) for layer, x in zip(self.read, both, strict=True)]


def contrast(a: torch.Tensor, b: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Unit vectors (N, D) that belong together row by row -> scalar (Radford et al. 2021, figure 3)."""
    logits, own = a @ b.T / temperature, torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def found(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of rows of a whose nearest in b is their own."""
    return ((a @ b.T).argmax(1) == torch.arange(len(a), device=a.device)).float().mean().item()


@torch.no_grad()
def retrieval(sides: Sides, latents: Latents, data: str, length: int) -> dict[str, float]:
    """How often a held-out picture finds its caption among those of all, a figure for each language and encoder."""
    scenes = Scenes(data, HELD_OUT_SEED, held_out=True)
    seen, figures = sides.pictures(latents.held_out.to(sides.temperature.device)), {}
    for language in LANGUAGES:
        facts = [replace(scenes.facts(i), language=language) for i in range(HELD_OUT)]
        texts = [scenes.caption(fact, np.random.default_rng(i)) for i, fact in enumerate(facts)]
        for name, read in zip(("clip", "t5"), sides.texts(texts, length), strict=True):
            figures[f"found_{name}_{language}"] = round(found(seen, read), 3)
    return figures


def main(config: Config) -> None:
    run = common.Run(config)
    latents = Latents(config.latents, config.scenes)
    scenes = Scenes(config.data, latents.seed)
    every = [text for language in LANGUAGES for text in words.sample(scenes, language)]
    tokenizers = words.clip_tokenizer(every, config.length), words.t5_tokenizer(every, config.length)
    sides = Sides(config, latents.shape[0], *tokenizers).to(run.device)
    optimizer = torch.optim.AdamW(sides.parameters(), config.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    run.track(model=sides, optimizer=optimizer)

    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, min(200, config.steps // 10)))
        chosen = run.indices(config.scenes)
        x, texts = latents[chosen].to(run.device), captions(run, scenes, chosen, 0.0)
        with run.autocast(), plain_attention(run.device):
            seen, read = sides.pictures(x), sides.texts(texts, config.length)
        loss = sum(contrast(seen, side, sides.temperature.exp().clamp(min=0.01)) for side in read)
        norm = run.update(loss, optimizer, max_norm=1.0)
        run.log(loss=loss, norm=norm, temperature=sides.temperature.exp())
        if run.due(config.sample_every):
            with run.autocast():
                figures = retrieval(sides, latents, config.data, config.length)
            run.log(**figures)
            for name in ("text_encoder", "text_encoder_2"):
                getattr(sides, name).save_pretrained(config.out / name)
            figures |= {"pairs seen": (step + 1) * config.batch_size}
            (config.out / "figures.json").write_text(json.dumps(figures), "utf-8")


if __name__ == "__main__":
    common.launch(main, Config)
