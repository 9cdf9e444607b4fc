"""Text to image: one wrapper for Stable Diffusion and Flux of any size, our small ones and those of the hub.

The pipeline of diffusers does the work and its pixels are ours. Pictures are drawn one at a time, so that none depends
on how many were asked for. Limits: text_space.py; what the small models know: text_words.py.
"""

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from PIL import Image, ImageOps

from . import runtime
from .problems import Problem, choice, number, whole
from .recipe import Recipe
from .registry import Model, revision
from .text_families import FAMILIES, Level, level, predicted
from .text_space import GUIDANCE, STEPS, prompt_text

SHARE = 0.1  # of the time that previews may take; where a step takes ten times as long as one, each step has one
Step = Callable[[int, int, Image.Image | None], None]


@dataclass(frozen=True)
class Moment:
    """One step of a picture's making. Latents (1, C, h, w) float32 on the CPU, as the family's `spatial` has them."""

    t: float  # the scheduler's time
    level: Level
    x: torch.Tensor  # before the step, x = signal * x0 + noise * epsilon
    output: torch.Tensor  # what the net said, guided
    x0: torch.Tensor  # the picture that this amounts to


@dataclass(frozen=True)
class Made:
    """A picture and how it came about."""

    image: Image.Image
    recipe: Recipe
    moments: list[Moment]
    latent: torch.Tensor  # (1, C, h, w), what was decoded at the end


def from_model(model: Model, folder: Path) -> "TextToImagePipeline":
    """What `pipelines.load` calls."""
    quiet = logging.get_verbosity()
    logging.set_verbosity_error()  # that there is no safety checker is known: emoji are drawn
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    finally:
        logging.set_verbosity(quiet)
    return TextToImagePipeline(pipe, model)


class TextToImagePipeline(DiffusionPipeline):
    """A pipeline of diffusers, asked in plain values."""

    def __init__(self, pipe: DiffusionPipeline, model: Model):
        super().__init__()
        if type(pipe) not in FAMILIES:
            raise Problem("unknown_pipeline", model=model.id, value=type(pipe).__name__)
        pipe.to(runtime.device())
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.model, self.family = pipe, model, FAMILIES[type(pipe)](pipe)
        self.samplers = tuple(self.family.samplers)
        self.defaults = {"steps": 20, "guidance": 4.0, "size": self.family.side, **model.defaults}

    # ---- drawing

    def draw(
        self,
        prompt: str = "",
        negative_prompt: str = "",
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str = "",
        on_step: Step | None = None,
    ) -> tuple[Image.Image, Recipe]:
        """-> picture, recipe. None and "" mean the model's own defaults.

        `on_step(i, n, preview)` after each step; preview is the picture that the net expects by then, or None where
        decoding it would take more than SHARE of the time. Raises Problem.
        """
        made = self.trace(prompt, negative_prompt, seed, steps, guidance, sampler, on_step, keep=False)
        return made.image, made.recipe

    def trace(
        self, prompt="", negative_prompt="", seed=0, steps=None, guidance=None, sampler="", on_step=None, keep=True
    ) -> Made:
        """The same picture with every step of its making, if those are to be kept."""
        prompt, negative_prompt = prompt_text("prompt", prompt), prompt_text("negative_prompt", negative_prompt)
        (generator,) = runtime.generators(seed)
        steps = whole("steps", self.defaults["steps"] if steps is None else steps, *STEPS)
        guidance = number("guidance", self.defaults["guidance"] if guidance is None else guidance, *GUIDANCE)
        sampler = choice("sampler", sampler or self.samplers[0], self.samplers)
        settings = {"prompt": prompt, "negative_prompt": negative_prompt, "steps": steps, "guidance": guidance}
        recipe = self._recipe("draw", settings | {"sampler": sampler}, generator.initial_seed())

        watched = Watched(self, sampler, steps, on_step, keep)
        pipe = copy.copy(self.pipe)  # its own scheduler, which counts steps; the nets are shared
        pipe.scheduler = watched.scheduler
        arguments = self.family.arguments(prompt, negative_prompt, steps, guidance, self.defaults["size"])
        (image,) = pipe(**arguments, generator=generator, output_type="pil").images
        return Made(image, recipe, watched.moments, watched.latent)

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the net does not see, because its tokens are more than fit; "" if all fit."""
        tokenizer, prompt = self.family.tokenizer, prompt_text("prompt", prompt)
        last = tokenizer.model_max_length - 1  # the end mark takes a place
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        return tokenizer.decode(ids[last:-1], skip_special_tokens=True).strip() if len(ids) > last + 1 else ""

    @torch.inference_mode()
    def decode(self, x0: torch.Tensor) -> Image.Image:
        """A latent (1, C, h, w), normalised as the net sees it -> picture"""
        config = self.pipe.vae.config
        x0 = x0.to(self.pipe.vae.device, self.pipe.vae.dtype) / config.scaling_factor + (config.shift_factor or 0)
        return runtime.to_images(self.pipe.vae.decode(x0).sample)[0]

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> torch.Tensor:
        """A picture -> its latent (1, C, h, w), normalised as the net sees it: the mean, nothing is drawn."""
        vae, side = self.pipe.vae, self.defaults["size"]
        x = runtime.to_tensor(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS))
        mean = vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mean
        return ((mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor).float().cpu()

    def scheduler(self, sampler: str = ""):
        """A new one; its times are not set. Raises Problem."""
        kind, more = self.family.samplers[choice("sampler", sampler or self.samplers[0], self.samplers)]
        return kind.from_config(self.pipe.scheduler.config, **more)

    def _recipe(self, task: str, settings: dict, seed: int | None = None) -> Recipe:
        return Recipe.make(self.model.tab, self.model.id, revision(self.model), task, settings, seed)


class Watched:
    """A scheduler of one call, whose steps are reported and perhaps kept."""

    def __init__(self, pipeline: TextToImagePipeline, sampler: str, steps: int, on_step: Step | None, keep: bool):
        self.pipeline, self.steps, self.on_step, self.keep = pipeline, steps, on_step, keep
        self.scheduler = pipeline.scheduler(sampler)
        self.moments: list[Moment] = []
        self.latent = torch.empty(0)
        self.i, self.start, self.spent, self.cost = 0, time.monotonic(), 0.0, 0.0
        self.step, self.scheduler.step = self.scheduler.step, functools.wraps(self.scheduler.step)(self)

    def __call__(self, output, t, x, *args, **kwargs):
        after = self.step(output, t, x, *args, **kwargs)
        spatial = functools.partial(self.pipeline.family.spatial, size=self.pipeline.defaults["size"])
        if self.keep or self.on_step:
            at = level(self.scheduler, t, self.i)
            x, output = spatial(x).float() * at.scale, spatial(output).float()
            x0 = predicted(self.scheduler, output, x, at)
        if self.keep:
            self.moments.append(Moment(float(t), at, x.cpu(), output.cpu(), x0.cpu()))
            self.latent = spatial(after[0]).float().cpu()
        self.i += 1
        if self.on_step:
            self.on_step(self.i, self.steps, self._preview(x0))
        return after

    def _preview(self, x0: torch.Tensor) -> Image.Image | None:
        """Decoded, if the time for it is there; at the end the picture itself comes."""
        now = time.monotonic()
        if self.i >= self.steps or self.spent + self.cost > SHARE * (now - self.start):
            return None
        preview = self.pipeline.decode(x0)
        self.cost = time.monotonic() - now
        self.spent += self.cost
        return preview
