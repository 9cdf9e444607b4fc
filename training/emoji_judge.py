"""Trains the judge of text to image: a small net that says which object, hat, background and style a picture shows.

    python -m training.emoji_judge --data ../shared/data/emoji --out runs/emoji-judge

It learns from real compositions alone (training/scenes.py), all pairs of wearer and hat among them and the new thing
of training/prepare/new_thing.py, so that what the generators never saw is judged as fairly as the rest; never from a
generated picture, and not from what an autoencoder made of one. Scenes of a single object only. Pictures are softened,
tinted and made noisy a little, so that it does not lean on an edge that no autoencoder keeps. Its accuracy on unseen
scenes is in OUT/accuracy.json.
`evaluate.py text_to_image` trains it if it is missing; add --resume to go on after a stop.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from training import common
from training.common import option
from training.prepare.new_thing import THING
from training.scenes import LANGUAGES, Facts, Scenes

SEED = 2_000_003  # of its scenes; no other script draws these
TEST_SEED = 2_000_029
TEST = 4096  # scenes that its accuracy is measured on
HEADS = ("object", "hat", "background", "style")  # fields of Facts
WEIGHTS = {"object": 1.0, "hat": 1.5, "background": 0.3, "style": 0.5}  # of the losses


@dataclass(kw_only=True)
class Config(common.Config):
    """Defaults take half an hour of one core."""

    out: Path = option(Path("runs/emoji-judge"), "folder of the judge; its state/ holds what resumes")
    steps: int = option(5000, "updates in all")
    batch_size: int = option(64, "scenes in an update, over all processes")
    lr: float = option(2e-3, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the forward pass; weights stay in fp32")
    save_every: int = option(200, "steps between checkpoints")
    ema: float = option(0.998, "decay of the mean of the weights that judges")


def layer(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class Judge(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(
        self,
        objects: Sequence[str],  # ids of the vocabulary, in the order of the logits
        hats: Sequence[str],  # "" first: no hat
        backgrounds: Sequence[str],
        styles: Sequence[str],
        width: int = 32,
    ):
        super().__init__()
        self.names = dict(zip(HEADS, map(list, (objects, hats, backgrounds, styles)), strict=True))
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=4, padding=3),  # 128 -> 32
            nn.ReLU(inplace=True),
            layer(width, 2 * width, 1),
            layer(2 * width, 3 * width, 2),  # 32 -> 16
            layer(3 * width, 3 * width, 1),
            layer(3 * width, 5 * width, 2),  # 16 -> 8
            layer(5 * width, 5 * width, 1),
        )
        self.heads = nn.ModuleDict({head: nn.Linear(10 * width, len(self.names[head])) for head in HEADS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """x (N, 3, 128, 128) in [-1, 1] -> head: logits (N, names)"""
        features = self.net(x)
        features = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)  # all there is, and the clearest
        return {head: linear(features) for head, linear in self.heads.items()}

    @torch.no_grad()
    def answers(self, pixels: torch.Tensor) -> list[dict[str, str]]:
        """uint8 (N, 3, 128, 128) -> a picture: head: id"""
        found = []
        for part in pixels.split(64):
            best = {head: logits.argmax(1).tolist() for head, logits in self(as_x(part).to(self.device)).items()}
            found += [{head: self.names[head][best[head][i]] for head in HEADS} for i in range(len(part))]
        return found


def as_x(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> x in [-1, 1]"""
    return pixels.float() / 127.5 - 1


def vocabulary(scenes: Scenes) -> dict[str, list[str]]:
    """What a judge of these scenes can say: arguments of Judge."""
    return {
        "objects": list(scenes.objects),
        "hats": ["", *scenes.hats],
        "backgrounds": list(scenes.backgrounds),
        "styles": list(scenes.styles),
    }


def pairs(scenes: Scenes) -> list[tuple[str, str]]:
    """(wearer, hat), all that can be drawn; none wears itself."""
    hats = [(id, hat["codepoints"]) for id, hat in scenes.hats.items()]
    return [
        (wearer, hat) for wearer in scenes.wearers for hat, code in hats if scenes.objects[wearer]["codepoints"] != code
    ]


class Shown:
    """Scenes of a single object, each a function of (seed, index): half of any object, half of any pair."""

    def __init__(self, scenes: Scenes, seed: int):
        self.scenes, self.seed, self.pairs, self.objects = scenes, seed, pairs(scenes), list(scenes.objects)
        self.backgrounds, self.styles = list(scenes.backgrounds), list(scenes.styles)

    def __call__(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[Facts]]:
        """-> uint8 (N, 3, 128, 128), facts"""
        pictures, facts = [], []
        for index in indices:
            rng = np.random.default_rng([self.seed, index])
            pick = lambda values, rng=rng: values[rng.integers(len(values))]  # noqa: E731
            object, hat = pick(self.pairs) if rng.random() < 0.5 else (pick(self.objects), "")
            facts.append(Facts(object, hat, "", "", pick(self.backgrounds), pick(self.styles), LANGUAGES[0]))
            pictures.append(self.scenes.draw(facts[-1], rng))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), facts


def worn_down(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """x (N, 3, H, W), each softened, tinted and made noisy by an amount of its own; a third stays sharp."""
    soft, tint, light, noise = torch.rand(4, len(x), 1, 1, 1, generator=generator)
    blurred = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    x = x.lerp(blurred, (1.5 * soft - 0.5).clamp(min=0))
    colour = 2 * torch.rand(len(x), 3, 1, 1, generator=generator) - 1
    x = x * (1 + 0.2 * (light - 0.5)) + 0.1 * tint * colour
    return (x + 0.12 * noise.square() * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def judge_loss(logits: dict[str, torch.Tensor], facts: list[Facts], names: dict[str, list[str]]) -> torch.Tensor:
    """Cross entropies of all heads, weighed."""
    loss = 0.0
    for head, weight in WEIGHTS.items():
        numbers = {id: i for i, id in enumerate(names[head])}
        labels = torch.tensor([numbers[getattr(f, head)] for f in facts], device=logits[head].device)
        loss = loss + weight * F.cross_entropy(logits[head].float(), labels)
    return loss


def accuracy(judge: Judge, shown: Shown, n: int, see: Callable = lambda pixels: pixels) -> dict[str, float]:
    """Share of right answers to n scenes, a head; "hat" is of scenes with a hat, "no_hat" of those without one.

    see: uint8 (N, 3, 128, 128) -> what the judge is shown of these pictures.
    """
    right = {head: [] for head in (*HEADS, "no_hat")}
    for first in range(0, n, 64):
        pixels, facts = shown(range(first, min(first + 64, n)))
        for answer, fact in zip(judge.answers(see(pixels)), facts, strict=True):
            for head in HEADS:
                name = "no_hat" if head == "hat" and not fact.hat else head
                right[name].append(answer[head] == getattr(fact, head))
    return {name: round(sum(values) / max(1, len(values)), 4) for name, values in right.items()}


def main(config: Config) -> None:
    run = common.Run(config)
    scenes = Scenes(config.data, more=[THING])
    shown = Shown(scenes, SEED + config.seed)
    judge = Judge(**vocabulary(scenes)).to(run.device, memory_format=torch.channels_last)
    ema = common.EMA(judge)
    optimizer = torch.optim.AdamW(judge.parameters(), config.lr, weight_decay=0.02, fused=True)
    run.track(model=judge, ema=ema, optimizer=optimizer)

    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, warmup=100))
        own = config.batch_size // run.world
        first = (step * run.world + run.rank) * own
        pixels, facts = shown(range(first, first + own))
        x = worn_down(as_x(pixels), run.generator(f"worn down {run.rank}"))
        with run.autocast():
            logits = judge(x.to(run.device, memory_format=torch.channels_last))
        loss = judge_loss(logits, facts, judge.names)
        run.update(loss, optimizer, max_norm=5.0)
        ema.update(judge, min(config.ema, (step + 1) / (step + 10)))
        run.log(loss=loss)
        if run.due(config.sample_every):
            run.log(**accuracy(ema.module, Shown(scenes, TEST_SEED + 1), 512))
        if run.due(config.steps):
            found = accuracy(ema.module, Shown(scenes, TEST_SEED), TEST)
            facts = {"scenes": TEST, **found, "parameters": ema.module.num_parameters(), "steps": config.steps}
            Path(config.out, "accuracy.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
            ema.module.save_pretrained(config.out)  # last: who finds its weights finds all


if __name__ == "__main__":
    common.launch(main, Config)
