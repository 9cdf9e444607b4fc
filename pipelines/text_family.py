"""How every architecture of text to image is seen: the parts of a pipeline of diffusers that differ, under one name.

Latents are spatial here, x (N, C, h, w), and times t those of the scheduler. A size is (width, height) in pixels.
"""

import inspect
from typing import NamedTuple

import torch
from diffusers import ControlNetUnionModel, DiffusionPipeline

from .problems import Problem, choice
from .text_given import Given, Guide
from .text_levels import FlowUniPC


class Conditions(NamedTuple):
    """What the net is told of one prompt."""

    hidden: torch.Tensor  # (1, tokens, width), a vector for each token
    pooled: torch.Tensor | None = None  # (1, width), one for the sentence, where the architecture wants it


# Of the nets that know several conditions: what each (see conditions.py) is called there. SDXL's by xinsir, Flux's by
# InstantX.
MODES = {
    "ControlNetUnionModel": {
        "pose": 0, "depth": 1, "soft_edge": 2, "scribble": 2, "drawing": 2, "canny": 3, "line_art": 3,
        "line_art_plain": 3, "normal": 4, "segmentation": 5,
    },
    "FluxControlNetModel": {"canny": 0, "depth": 2, "blur": 3, "pose": 4},
}  # fmt: skip


class Family:
    """A pipeline of diffusers, seen the same way whatever its architecture."""

    samplers: dict  # name as the picker has it -> class, what it needs beyond the config of the model's own scheduler
    variants: dict[str, type]  # Given.variant -> the pipeline for it, made of the same parts
    unions: dict[str, type] = {}  # the same with a ControlNet that knows several conditions, where it needs another
    inside = False  # whether `conditions` and `predict` are there, for those who look into the net
    negative = True  # whether a negative prompt can be said
    edits_only = False  # whether there must be a picture to change
    tiny = ""  # id of the model that decodes previews of it, if that is on this machine

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe = pipe

    def scheduler(self, sampler: str):
        """A new one; its times are not set."""
        kind, more = self.samplers[sampler]
        config = self.pipe.scheduler.config
        if kind is FlowUniPC:
            more = {**more, "flow_shift": config.get("shift", 1.0)}  # its own name for it
        return kind.from_config(config, **more)

    def variant(self, name: str, **more) -> DiffusionPipeline:
        """A new pipeline of the same nets for what is given; `more` are parts that it needs besides. Raises Problem."""
        kinds = self.unions if isinstance(more.get("controlnet"), ControlNetUnionModel) else self.variants
        if name not in kinds:
            raise Problem("cannot_be_given", model=type(self.pipe).__name__, what=name)
        kind = kinds[name]
        known = {**self.pipe.config, **self.pipe.components, **more}
        takes = [parameter for parameter in inspect.signature(kind.__init__).parameters if parameter in known]
        pipe = kind(**{parameter: known[parameter] for parameter in takes})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def called(self, pipe: DiffusionPipeline, given: Given) -> dict:
        """What a pipeline is called with, beside the words. Raises Problem."""
        takes, call = inspect.signature(pipe.__call__).parameters, {}
        if given.start:
            call |= {"image": given.start.image, "strength": given.start.strength}
        if given.edit:
            call["image"] = given.edit
        if given.guide:
            call |= self._guided(pipe, given.guide, takes)
        if "max_area" in takes:  # Kontext would otherwise choose a size by itself
            call |= {"max_area": given.size[0] * given.size[1], "_auto_resize": False}
        return call | {name: side for name, side in zip(("width", "height"), given.size, strict=True) if name in takes}

    def _guided(self, pipe: DiffusionPipeline, guide: Guide, takes) -> dict:
        call = {"controlnet_conditioning_scale": guide.strength}
        call["control_image" if "control_image" in takes else "image"] = guide.image
        if "control_guidance_start" in takes:
            call |= {"control_guidance_start": guide.begin, "control_guidance_end": guide.end}
        elif (guide.begin, guide.end) != (0.0, 1.0):
            raise Problem("cannot_be_given", model=type(self.pipe).__name__, what="guide_begin, guide_end")
        if isinstance(pipe.controlnet, ControlNetUnionModel) or getattr(pipe.controlnet, "union", False):
            modes = MODES[type(pipe.controlnet).__name__]
            call["control_mode"] = modes[choice("guide_mode", guide.mode, modes)]
        return call

    @property
    def net(self) -> torch.nn.Module:
        """What predicts."""
        return self.pipe.transformer

    @property
    def side(self) -> int:
        """Pixels of a picture, unless something else is asked for."""
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    @property
    def multiple(self) -> int:
        """Of which both sides of a picture are multiples."""
        return 2 * self.pipe.vae_scale_factor

    @property
    def tokenizer(self):
        """The one whose tokens the net looks at."""
        return self.pipe.tokenizer

    @property
    def length(self) -> int:
        """Tokens of a prompt that are read, marks of beginning and end not counted."""
        return self.tokenizer.model_max_length - self.tokenizer.num_special_tokens_to_add()

    @property
    def fewest(self) -> int:
        """Steps that it takes at least: times that are stretched to a given last one need two."""
        return 2 if self.pipe.scheduler.config.get("shift_terminal") else 1

    def arguments(self, prompt: str, negative: str, steps: int, guidance: float) -> dict:
        """What the pipeline is called with."""
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }

    def spatial(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents as the pipeline steps on them -> (N, C, h, w)"""
        return x

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `spatial`."""
        return x

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """image (1, 3, H, W) in [-1, 1] -> its latent (1, C, h, w), normalised as the net sees it: the mean"""
        config = self.pipe.vae.config
        mean = self.pipe.vae.encode(self._fit(image)).latent_dist.mean
        return (mean - (config.shift_factor or 0)) * config.scaling_factor

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode`."""
        config = self.pipe.vae.config
        return self.pipe.vae.decode(self._fit(x0) / config.scaling_factor + (config.shift_factor or 0)).sample

    def for_tiny(self, x0: torch.Tensor) -> torch.Tensor:
        """A latent as `tiny` takes it."""
        return x0

    def _fit(self, x: torch.Tensor) -> torch.Tensor:
        """Where and as the autoencoder takes it."""
        return x.to(self.pipe._execution_device, self.pipe.vae.dtype)

    def conditions(self, prompt: str) -> Conditions:
        raise NotImplementedError

    def predict(self, x: torch.Tensor, t: torch.Tensor, conditions: Conditions, net=None, **kwargs) -> torch.Tensor:
        """What the net (or its stand-in) says of x (1, C, h, w) at time t (1,); kwargs go to its attention."""
        raise NotImplementedError
