"""Text to image: one wrapper for Stable Diffusion and Flux of any size, our small ones and those of the hub.

The pipeline of diffusers does the work and its pixels are ours. Pictures are drawn one at a time, so that none depends
on how many were asked for. Limits: text_space.py; what the small models know: text_words.py.
"""

import copy
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline, ModelMixin
from PIL import Image, ImageOps
from safetensors import SafetensorError

from . import hub, load, registry, runtime, text_loading, text_safety
from .photo_autoencoders import PhotoAutoencoderPipeline
from .problems import Problem, choice, number, whole
from .recipe import Recipe
from .registry import PREVIEW, Model, revision
from .text_families import FAMILIES
from .text_family import Family
from .text_given import Given, Guide, Lora, paste
from .text_levels import Level, level, level_after, predicted
from .text_loading import Plan
from .text_plan import CACHED
from .text_space import GUIDANCE, STEPS, prompt_text

NOTHING = Given()
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


def from_model(model: Model, folder: Path) -> "TextToImagePipeline | ModelMixin":
    """What `pipelines.load` calls."""
    if model.kind == "controlnet":
        return text_loading.controlnet(model, folder)
    pipe, plan = text_loading.pipeline(model, folder, **model.plan)
    return TextToImagePipeline(pipe, model, plan)


class TextToImagePipeline(DiffusionPipeline):
    """A pipeline of diffusers, asked in plain values."""

    def __init__(self, pipe: DiffusionPipeline, model: Model, plan: Plan | None = None):
        super().__init__()
        if type(pipe) not in FAMILIES:
            raise Problem("unknown_pipeline", model=model.id, value=type(pipe).__name__)
        pipe.set_progress_bar_config(disable=True)
        self.guard = text_safety.Guard(model, pipe)
        self.pipe, self.model, self.family = pipe, model, FAMILIES[type(pipe)](pipe)
        self.plan = plan or Plan(pipe.device.type)  # how it was loaded
        self.tiny = self._tiny()
        self.samplers = tuple(self.family.samplers)
        self.base = model.fits
        self._lock, self._changed = threading.Lock(), {}  # the last LoRAs: the family with them
        usual = {"steps": 20, "guidance": 4.0, "size": self.family.side, "sampler": self.samplers[0]}
        self.defaults = {**usual, **model.defaults}

    def _tiny(self) -> DiffusionPipeline | None:
        """A small autoencoder of the same latents, for previews: one that lies beside a model of this machine, or the
        family's for one of the hub, if that is here, too."""
        if self.model.path:
            beside = self.model.path / PREVIEW
            return PhotoAutoencoderPipeline.from_model(self.model, beside) if beside.is_dir() else None
        small = registry.get(self.family.tiny) if self.family.tiny else None
        return load(small.id) if small and hub.folder(small) else None

    # ---- drawing

    def draw(
        self,
        prompt: str = "",
        negative_prompt: str = "",
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: str = "",
        given: Given = NOTHING,
        on_step: Step | None = None,
    ) -> tuple[Image.Image, Recipe]:
        """-> picture, recipe. None and "" mean the model's own defaults. given: see text_given.py.

        `on_step(i, n, preview)` after each step; preview is the picture that the net expects by then, or None where
        decoding it would take more than SHARE of the time. Raises Problem.
        """
        made = self.trace(prompt, negative_prompt, seed, steps, guidance, sampler, given, on_step, keep=False)
        return made.image, made.recipe

    def trace(
        self,
        prompt="",
        negative_prompt="",
        seed=0,
        steps=None,
        guidance=None,
        sampler="",
        given=NOTHING,
        on_step=None,
        keep=True,
    ) -> Made:
        """The same picture with every step of its making, if those are to be kept."""
        prompt, negative_prompt = prompt_text("prompt", prompt), prompt_text("negative_prompt", negative_prompt)
        (generator,) = runtime.generators(seed)
        steps = whole("steps", self.defaults["steps"] if steps is None else steps, self.family.fewest, STEPS[1])
        guidance = number("guidance", self.defaults["guidance"] if guidance is None else guidance, *GUIDANCE)
        sampler = choice("sampler", sampler or self.defaults["sampler"], self.samplers)
        given = given.checked(self.defaults["size"], self.family.multiple)
        if negative_prompt.strip() and not self.family.negative:
            raise Problem("no_negative_prompt", model=self.model.id)
        if self.family.edits_only and not given.edit:
            raise Problem("nothing_to_change", model=self.model.id)
        if given.edit and "edit" not in self.family.variants:
            raise Problem("no_instructions", model=self.model.id)
        settings = {"prompt": prompt, "negative_prompt": negative_prompt, "steps": steps, "guidance": guidance}
        settings |= {"sampler": sampler, **given.settings(self.defaults["size"])}
        recipe = self.recipe("draw", settings, generator.initial_seed())
        if given.start and int(steps * given.start.strength) < 1:
            raise Problem("no_step_left", steps=steps, strength=given.start.strength)

        looks = self.guard.looks(prompt)
        family = self._with(given.loras)
        parts = {"controlnet": self._guide(given.guide)} if given.guide else {}
        # its own scheduler, which counts steps; the nets are shared
        pipe = family.variant(given.variant, **parts) if given.variant else copy.copy(family.pipe)
        if self.plan.cache != "none" and type(pipe).__name__ not in CACHED:
            raise Problem("cannot_be_given", model=self.model.id, what=f"cache, {given.variant}")
        kept = self._kept(given, generator.initial_seed()) if given.start and given.start.mask else None
        watched = Watched(self, sampler, steps, given.size, on_step, keep, kept, hidden=bool(looks))
        pipe.scheduler = watched.scheduler
        arguments = family.arguments(prompt, negative_prompt, steps, guidance) | family.called(pipe, given)
        text_loading.forget(family.net)
        with torch.random.fork_rng():
            torch.manual_seed(generator.initial_seed())  # SD 3 encodes what guides it with noise from nowhere else
            (image,) = pipe(**arguments, generator=generator, output_type="pil").images
        image = paste(image, given.start) if kept else image
        self.guard.check(image, looks)
        return Made(image, recipe, watched.moments, watched.latent)

    def _guide(self, guide: Guide) -> ModelMixin:
        net = load(self._fitting("guide", guide.net, "controlnet").id)
        dtype = self.family.net.dtype
        return net if net.dtype == dtype else copy.deepcopy(net).to(dtype)

    def _fitting(self, name: str, id: str, kind: str) -> Model:
        """A net that goes with this model. Raises Problem: unknown_choice, wrong_base."""
        choice(name, id, [model.id for model in registry.models(self.model.tab, kind)])
        if (model := registry.get(id)).base != self.base:
            raise Problem("wrong_base", name=id, base=model.base, model=self.model.id)
        return model

    def changed(self, loras: tuple[Lora, ...]) -> "TextToImagePipeline":
        """The same with LoRAs in its nets, also for those who look inside; `given` then names no others.

        Raises Problem: unknown_choice, wrong_base, lora_misfit, cannot_be_given, what hub.fetch raises.
        """
        other, family = copy.copy(self), self._with(loras)
        vars(other).update(family=family, pipe=family.pipe)  # diffusers' __setattr__ wants a config
        return other

    def _with(self, loras: tuple[Lora, ...]) -> Family:
        """The family, its nets changed by LoRAs: copies, since others may be drawing with the nets as they are."""
        if not loras:
            return self.family
        with self._lock:
            if loras not in self._changed:
                self._changed.clear()  # room for the next copy
                self._changed[loras] = type(self.family)(self._changed_by(loras))
            return self._changed[loras]

    def _changed_by(self, loras: tuple[Lora, ...]) -> DiffusionPipeline:
        """Raises Problem: unknown_choice, wrong_base, lora_misfit, what hub.fetch raises."""
        if not self.plan.movable:
            raise Problem("cannot_be_given", model=self.model.id, what="loras")
        folders = [hub.fetch(self._fitting("lora", lora.name, "lora")) for lora in loras]
        pipe = copy.copy(self.pipe)
        for name in pipe._lora_loadable_modules:
            setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
        names = [f"lora{i}" for i in range(len(loras))]
        for name, lora, folder in zip(names, loras, folders, strict=True):
            try:
                pipe.load_lora_weights(folder, adapter_name=name, local_files_only=True, use_safetensors=True)
                pipe.set_adapters(name)  # diffusers says nothing if not one weight was for this model
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                raise Problem("lora_misfit", name=lora.name, model=self.model.id) from error
        pipe.set_adapters(names, [lora.weight for lora in loras])
        pipe.fuse_lora(adapter_names=names)
        pipe.unload_lora_weights()
        return pipe

    @torch.inference_mode()
    def _kept(self, given: Given, seed: int) -> "Kept":
        x0 = self.encode(given.start.image, given.size)
        mask = given.start.mask.resize((x0.shape[3], x0.shape[2]), Image.Resampling.BOX)
        drawn = runtime.to_tensor(mask) > -1  # wherever a pixel of it is
        return Kept(x0, runtime.noise(seed, 1, *x0.shape[1:]).cpu(), drawn)

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the net does not see, because its tokens are more than fit; "" if all fit."""
        family, prompt = self.family, prompt_text("prompt", prompt)
        tokenizer = getattr(family.tokenizer, "tokenizer", family.tokenizer)  # or one that reads pictures, too
        ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return tokenizer.decode(ids[family.length :], skip_special_tokens=True).strip()

    @torch.inference_mode()
    def decode(self, x0: torch.Tensor) -> Image.Image:
        """A latent (1, C, h, w), normalised as the net sees it -> picture"""
        return runtime.to_images(self.family.decode(x0))[0]

    def preview(self, x0: torch.Tensor) -> Image.Image:
        """The same, by the small autoencoder if there is one: about how it will look, a large one in a smaller size."""
        if not self.tiny:
            return self.decode(x0)
        with torch.inference_mode(), runtime.autocast():
            return runtime.to_images(self.tiny.sketch(self.family.for_tiny(x0).to(self.tiny.device)))[0]

    @torch.inference_mode()
    def encode(self, image: Image.Image, size: tuple[int, int] | None = None) -> torch.Tensor:
        """A picture -> its latent (1, C, h, w), normalised as the net sees it: the mean, nothing is drawn."""
        size = size or (self.defaults["size"],) * 2
        x = runtime.to_tensor(ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS))
        return self.family.encode(x).float().cpu()

    def scheduler(self, sampler: str = ""):
        """A new one; its times are not set. Raises Problem."""
        return self.family.scheduler(choice("sampler", sampler or self.defaults["sampler"], self.samplers))

    def recipe(self, task: str, settings: dict, seed: int | None = None) -> Recipe:
        settings = {**settings, **self.plan.pixels()}
        return Recipe.make(self.model.tab, self.model.id, revision(self.model), task, settings, seed)


class Kept(NamedTuple):
    """What an inpainted picture keeps: latents (1, C, h, w) on the CPU."""

    x0: torch.Tensor
    noise: torch.Tensor
    drawn: torch.Tensor  # bool (1, 1, h, w): where it is drawn anew

    def blend(self, x: torch.Tensor, at: Level) -> torch.Tensor:
        """x as the scheduler keeps it, with what is kept noised to its level (Avrahami et al. 2023, section 4.1)."""
        known = (at.signal * self.x0 + at.noise * self.noise) / at.scale
        return torch.where(self.drawn.to(x.device), x, known.to(x.device, x.dtype))


class Watched:
    """A scheduler of one call, whose steps are reported and perhaps kept."""

    def __init__(
        self,
        pipeline: TextToImagePipeline,
        sampler: str,
        steps: int,
        size: tuple[int, int],
        on_step: Step | None,
        keep: bool,
        kept: Kept | None = None,
        hidden: bool = False,
    ):
        self.pipeline, self.steps, self.on_step, self.keep, self.kept = pipeline, steps, on_step, keep, kept
        self.hidden = hidden  # nobody has looked at a preview
        self.spatial = functools.partial(pipeline.family.spatial, size=size)
        self.scheduler = pipeline.scheduler(sampler)
        self.moments: list[Moment] = []
        self.latent = torch.empty(0)
        self.i, self.start, self.spent, self.cost = 0, time.monotonic(), 0.0, 0.0
        self.step, self.scheduler.step = self.scheduler.step, functools.wraps(self.scheduler.step)(self)

    def __call__(self, output, t, x, *args, **kwargs):
        after = self.step(output, t, x, *args, **kwargs)
        times = self.scheduler.timesteps
        index = int((times == t.to(times)).nonzero()[0])  # a picture that is begun with skips the first ones
        if self.i == 0:
            self.steps = len(times) - index
        if self.kept:
            x_next = self.kept.blend(self.spatial(after[0]), level_after(self.scheduler, index))
            after = (self.pipeline.family.packed(x_next), *after[1:])
        if self.keep or self.on_step:
            at = level(self.scheduler, t, index)
            x, output = self.spatial(x).float() * at.scale, self.spatial(output).float()
            x0 = predicted(self.scheduler, output, x, at)
        if self.keep:
            self.moments.append(Moment(float(t), at, x.cpu(), output.cpu(), x0.cpu()))
            self.latent = self.spatial(after[0]).float().cpu()
        self.i += 1
        if self.on_step:
            self.on_step(self.i, self.steps, self._preview(x0))
        return after

    def _preview(self, x0: torch.Tensor) -> Image.Image | None:
        """Decoded, if the time for it is there; at the end the picture itself comes."""
        now = time.monotonic()
        if self.hidden or self.i >= self.steps or self.spent + self.cost > SHARE * (now - self.start):
            return None
        preview = self.pipeline.preview(x0)
        self.cost = time.monotonic() - now
        self.spent += self.cost
        return preview
