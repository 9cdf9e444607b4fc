"""Trains a ControlNet (Zhang et al. 2023, https://arxiv.org/abs/2302.05543): edges decide where, words decide what.

    python -m training.controlnet --model emoji-sd --data ../shared/data/emoji --latents runs/emoji-latents \
        --out runs/emoji-sd-canny

OUT is a ControlNetModel of diffusers from the first snapshot on; add --resume to go on after a stop. It is a copy of
the first half of MODEL's UNet, whose outputs are added to the inputs of the second half through convolutions that begin
at 0 (section 3.1): at first nothing changes. MODEL itself does not learn. Half of the captions are dropped, so that
edges are read for what they show and not for what was said anyway (section 3.4).

Pictures are composed scenes, x their latents, from --latents or else encoded each time; edges are those of
cv2.Canny, 1 or 0, (N, 3, H, W), at thresholds that differ from scene to scene, so that finer and coarser drawings do.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline

from training import common, text_families
from training.common import TrainingError, option
from training.latents import HELD_OUT_SEED, Latents
from training.latents import digest as digest_of
from training.lora import Same, fingerprint, load
from training.scenes import SIZE, Scenes
from training.text_to_image import captions, spread

THRESHOLDS = 100, 200  # of cv2.Canny; those that pipelines/conditions.py draws with
SHOWN = 16  # held-out scenes that are drawn for the sheet and the figures
NEAR = 1  # pixels that an edge may be off and still be where it was asked for


@dataclass(kw_only=True)
class Config(common.Config):
    """Defaults are those of the bundled model."""

    model: str = option("emoji-sd", "folder of a StableDiffusionPipeline, or an id that the app knows")
    from_: str = option("", "folder of a ControlNet of this script that it begins as, learnt for an earlier MODEL")
    latents: Path = option(Path(), "folder that training.latents wrote; without it scenes are encoded each time")
    scenes: int = option(20_000, "how many scenes; their edges are kept in memory, 2 kB each")
    steps: int = option(8_000, "updates in all")
    batch_size: int = option(16, "scenes in an update, over all processes")
    lr: float = option(2e-4, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the forward pass; what learns stays in fp32")
    drop: float = option(0.5, "share of captions that are dropped")
    vary: float = option(0.5, "thresholds are up to e to this many times higher or lower")
    min_snr: float = option(0.0, "gamma of the loss's weight; 0: none")
    ema: float = option(0.999, "decay of the mean of the weights that is shipped")
    snapshot_every: int = option(1_000, "steps between models kept in OUT")


def edges(picture: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """uint8 (H, W, 3) -> where edges are, bool (H, W); thresholds times `factor`"""
    low, high = (threshold * factor for threshold in THRESHOLDS)
    return cv2.Canny(np.ascontiguousarray(picture), low, high) > 0


def edge_f(found: np.ndarray, given: np.ndarray, near: int = NEAR) -> float:
    """F1 of edges (H, W): those found that were given, those given that were found, within `near` pixels; 1: all."""
    square = np.ones((2 * near + 1,) * 2, np.uint8)
    around = lambda it: cv2.dilate(it.astype(np.uint8), square) > 0  # noqa: E731
    precision = (found & around(given)).sum() / max(1, found.sum())
    recall = (given & around(found)).sum() / max(1, given.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


class Drawn:
    """Scenes with their edges, as functions of the index: `drawn.edges(indices)`, `drawn.latents(indices)`."""

    def __init__(self, config: Config, family: text_families.Family, model: Path):
        self.family, self.vary = family, config.vary
        self.cached = Latents(config.latents, config.scenes) if config.latents != Path() else None
        if self.cached and self.cached.digest != digest_of(model / "vae"):
            raise TrainingError(f"{config.latents.name} holds latents of another autoencoder than {model.name}'s.")
        self.scenes = Scenes(config.data, self.cached.seed if self.cached else config.seed)
        self._bits = functools.cache(self._draw)  # a scene is drawn in the first epoch alone

    def _draw(self, index: int) -> bytes:
        picture = self.scenes.pictures([index])[0].permute(1, 2, 0).numpy()
        factor = np.random.default_rng([self.scenes.seed, index, 3]).uniform(-self.vary, self.vary)
        return np.packbits(edges(picture, np.exp(factor))).tobytes()

    def edges(self, indices: torch.Tensor) -> torch.Tensor:
        """-> (N, 3, SIZE, SIZE), 0 or 1"""
        bits = np.stack([np.frombuffer(self._bits(i), np.uint8) for i in indices.tolist()])
        lines = torch.from_numpy(np.unpackbits(bits, axis=1)).view(-1, 1, SIZE, SIZE)
        return lines.float().expand(-1, 3, -1, -1)

    @torch.no_grad()
    def latents(self, indices: torch.Tensor) -> torch.Tensor:
        if self.cached:
            return self.cached[indices]
        pictures = self.scenes.pictures(indices.tolist())
        return torch.cat([self.family.encode(x[None].float() / 127.5 - 1) for x in pictures])


def controlled(family: text_families.Family, net: ControlNetModel, lines: torch.Tensor):
    """-> `predict` of the family, with lines (N, 3, H, W)"""

    def predict(x, t, told):
        down, middle = net(x, t, told["prompt_embeds"], lines, return_dict=False)
        return family.predict(x, t, told, down_block_additional_residuals=down, mid_block_additional_residual=middle)

    return predict


class Shown:
    """Scenes whose pairs were never trained on: always the same edges, captions and noise."""

    def __init__(self, config: Config, pipe: StableDiffusionPipeline, defaults: dict):
        scenes = Scenes(config.data, HELD_OUT_SEED, held_out=True)
        self.pipe, self.defaults = pipe, defaults
        self.texts = [scenes.caption(scenes.facts(i), np.random.default_rng(i)) for i in range(SHOWN)]
        self.lines = [edges(picture.permute(1, 2, 0).numpy()) for picture in scenes.pictures(range(SHOWN))]

    @torch.no_grad()
    def draw(self, net: ControlNetModel, strength: float) -> torch.Tensor:
        """-> (SHOWN, 3, SIZE, SIZE) in [-1, 1], by diffusers' own pipeline"""
        parts = {name: part for name, part in self.pipe.components.items() if name != "image_encoder"}
        pipe = StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        pictures = []
        for i, (text, lines) in enumerate(zip(self.texts, self.lines, strict=True)):
            lines = torch.from_numpy(lines).float().expand(1, 3, -1, -1)
            pictures += pipe(
                text, lines, num_inference_steps=self.defaults["steps"], guidance_scale=self.defaults["guidance"],
                controlnet_conditioning_scale=strength, generator=torch.Generator().manual_seed(i), output_type="pt",
            ).images.float()  # fmt: skip
        return torch.stack(pictures).cpu() * 2 - 1

    def __call__(self, net: ControlNetModel) -> tuple[torch.Tensor, dict[str, float]]:
        """-> sheet: edges, drawn without them, drawn with them, a row each; figures"""
        rows = [torch.stack([torch.from_numpy(lines).float().expand(3, -1, -1) * 2 - 1 for lines in self.lines])]
        figures = {}
        for name, strength in (("without control", 0.0), ("with control", 1.0)):
            rows.append(self.draw(net, strength))
            found = [edges(((x + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()) for x in rows[-1]]
            scores = [edge_f(*pair) for pair in zip(found, self.lines, strict=True)]
            figures[f"F of edges, {name}"] = round(float(np.mean(scores)), 3)
        return torch.cat(rows), figures


def describe(config: Config, base: str, figures: dict, licence: str, data: dict) -> dict:
    """What training.json and the card say; see `common.write_card`."""
    id = Path(config.out).name
    return {
        "id": id,
        "tab": "text_to_image",
        "kind": "controlnet",
        "script": "controlnet",
        "task": "text-to-image",
        "tags": ["controlnet", "canny"],
        "licence": licence,
        "year": 2026,
        "title": f"ControlNet for {base}: Canny edges",
        "summary": f"Edges of {SIZE} px, white on black, decide where {base} draws what it is asked for.",
        "use": f'StableDiffusionControlNetPipeline.from_pretrained("{base}", '
        f'controlnet=ControlNetModel.from_pretrained("{id}"))  # diffusers',
        "base": base,
        "condition": "canny",
        "data": data,
        "figures": figures,
        "figures_note": f"Edges of {SHOWN} drawn pictures against those that were given, within {NEAR} px; scenes "
        "whose pairs of wearer and hat were not trained on, the same noise with control and without it.",
        "limits": [
            f"It fits {base} alone.",
            "It learnt from the exact edges of pictures; of a loose outline it also follows what was not meant.",
        ],
    }


def main(config: Config) -> None:
    run = common.Run(config)
    pipe, known, folder = load(config.model, "fp32")
    family = text_families.of(pipe, config.min_snr)
    if type(pipe) is not StableDiffusionPipeline:
        raise TrainingError(f"{folder.name} is a {type(pipe).__name__}; a ControlNet needs a StableDiffusionPipeline.")
    defaults = {"steps": 20, "guidance": 4.0} | known.get("defaults", {})
    if "data" not in known:
        raise TrainingError(f"{folder.name} lacks training.json, from which the card takes licence and data.")
    drawn, shown = Drawn(config, family, folder), Shown(config, pipe, defaults)
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False).to(run.device)

    net = ControlNetModel.from_unet(pipe.unet).requires_grad_(True).to(run.device)
    common.begin(net, config.from_)
    before = common.seen_before(config.from_, "scenes seen")
    ema = common.EMA(net)
    optimizer = torch.optim.AdamW(net.parameters(), config.lr, weight_decay=0.01, fused=True)
    run.track(same=Same(weights=fingerprint(pipe.unet)), net=net, ema=ema, optimizer=optimizer)

    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, min(200, config.steps // 10)))
        chosen = run.indices(config.scenes)
        x, lines = drawn.latents(chosen).to(run.device), drawn.edges(chosen).to(run.device)
        times = spread(torch.rand(config.batch_size, generator=run.generator("times")))
        noise, u = run.noise(x.shape[1:]), run.share(times).to(run.device)
        with run.autocast():
            with torch.no_grad():
                told = family.told(captions(run, drawn.scenes, chosen, config.drop)[0])
            loss = family.loss(x, noise, u, told, controlled(family, net, lines))
        norm = run.update(loss, optimizer, max_norm=1.0)
        ema.update(net, min(config.ema, (step + 1) / (step + 10)))
        run.log(loss=loss, norm=norm)
        if run.due(config.snapshot_every):
            with run.autocast():
                sheet, figures = shown(ema.module)
            run.picture("edges", common.grid(sheet, SHOWN))
            figures["scenes seen"] = before + (step + 1) * config.batch_size
            run.save(ema.module, describe(config, folder.name, figures, known["licence"], known["data"]))


if __name__ == "__main__":
    common.launch(main, Config)
