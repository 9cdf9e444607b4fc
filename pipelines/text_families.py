"""What differs between the architectures of text to image: how each is called, how it packs latents, what it predicts.

Latents are spatial here, x (N, C, h, w), and times t those of the scheduler. A size is (width, height) in pixels.
"""

import inspect
from typing import NamedTuple

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from .problems import Problem
from .text_given import Given


class Conditions(NamedTuple):
    """What the net is told of one prompt."""

    hidden: torch.Tensor  # (1, tokens, width), a vector for each token
    pooled: torch.Tensor | None = None  # (1, width), one for the sentence, where the architecture wants it


class Family:
    """A pipeline of diffusers, seen the same way whatever its architecture."""

    samplers: dict  # name as the picker has it -> class, what it needs beyond the config of the model's own scheduler
    variants: dict[str, type]  # Given.variant -> the pipeline for it, made of the same parts

    def __init__(self, pipe: DiffusionPipeline):
        self.pipe = pipe

    def variant(self, name: str, **more) -> DiffusionPipeline:
        """A new pipeline of the same nets for what is given; `more` are parts that it needs besides. Raises Problem."""
        if name not in self.variants:
            raise Problem("cannot_be_given", model=type(self.pipe).__name__, what=name)
        kind = self.variants[name]
        known = {**self.pipe.config, **self.pipe.components, **more}
        takes = [parameter for parameter in inspect.signature(kind.__init__).parameters if parameter in known]
        pipe = kind(**{parameter: known[parameter] for parameter in takes})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def called(self, pipe: DiffusionPipeline, given: Given) -> dict:
        """What a variant is called with, beside the words."""
        takes, call = inspect.signature(pipe.__call__).parameters, {}
        if given.start:
            call |= {"image": given.start.image, "strength": given.start.strength}
        if guide := given.guide:
            call["control_image" if "control_image" in takes else "image"] = guide.image
            call |= {"controlnet_conditioning_scale": guide.strength}
            call |= {"control_guidance_start": guide.begin, "control_guidance_end": guide.end}
        return call | {name: side for name, side in zip(("width", "height"), given.size, strict=True) if name in takes}

    @property
    def net(self) -> torch.nn.Module:
        """What predicts."""
        raise NotImplementedError

    @property
    def side(self) -> int:
        """Pixels of a picture, unless something else is asked for."""
        raise NotImplementedError

    @property
    def tokenizer(self):
        """The one whose tokens the net looks at."""
        return self.pipe.tokenizer

    @property
    def multiple(self) -> int:
        """Of which both sides of a picture are multiples."""
        raise NotImplementedError

    def arguments(self, prompt: str, negative: str, steps: int, guidance: float) -> dict:
        """What the pipeline is called with."""
        raise NotImplementedError

    def spatial(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Latents as the pipeline steps on them -> (N, C, h, w)"""
        return x

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `spatial`."""
        return x

    def conditions(self, prompt: str) -> Conditions:
        raise NotImplementedError

    def predict(self, x: torch.Tensor, t: torch.Tensor, conditions: Conditions, net=None, **kwargs) -> torch.Tensor:
        """What the net (or its stand-in) says of x (1, C, h, w) at time t (1,); kwargs go to its attention."""
        raise NotImplementedError


class StableDiffusion(Family):
    """A UNet that reads the text by cross-attention (Rombach et al. 2022)."""

    samplers = {
        "DDIM": (DDIMScheduler, {}),
        "DDPM": (DDPMScheduler, {}),
        "DPM++ 2M": (DPMSolverMultistepScheduler, {}),
        "Euler": (EulerDiscreteScheduler, {}),
        "Euler a": (EulerAncestralDiscreteScheduler, {}),
        "UniPC": (UniPCMultistepScheduler, {}),
    }

    variants = {
        "start": StableDiffusionImg2ImgPipeline,
        "guide": StableDiffusionControlNetPipeline,
        "guide+start": StableDiffusionControlNetImg2ImgPipeline,
    }

    @property
    def net(self):
        return self.pipe.unet

    @property
    def side(self):
        return self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    @property
    def multiple(self):
        return self.pipe.vae_scale_factor * 2 ** (len(self.net.config.block_out_channels) - 1)

    def arguments(self, prompt, negative, steps, guidance):
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }

    def conditions(self, prompt):
        hidden, _ = self.pipe.encode_prompt(prompt, self.pipe._execution_device, 1, do_classifier_free_guidance=False)
        return Conditions(hidden)

    def predict(self, x, t, conditions, net=None, **kwargs):
        net = net or self.net
        return net(x, t, encoder_hidden_states=conditions.hidden, cross_attention_kwargs=kwargs or None).sample


class Flux(Family):
    """A transformer over text and 2 x 2 patches of the latent (Esser et al. 2024; Black Forest Labs 2024).

    Guided by true classifier-free guidance; the guidance embedding of FLUX.1-dev is another thing.
    """

    samplers = {
        "Euler": (FlowMatchEulerDiscreteScheduler, {}),
        "UniPC": (
            UniPCMultistepScheduler,
            {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2},
        ),
    }

    variants = {
        "start": FluxImg2ImgPipeline,
        "guide": FluxControlNetPipeline,  # diffusers' own for both at once knows no negative prompt
    }

    @property
    def net(self):
        return self.pipe.transformer

    @property
    def side(self):
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    @property
    def tokenizer(self):
        return self.pipe.tokenizer_2

    @property
    def multiple(self):
        return 2 * self.pipe.vae_scale_factor

    @property
    def length(self) -> int:
        return self.tokenizer.model_max_length

    def arguments(self, prompt, negative, steps, guidance):
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "num_inference_steps": steps,
            "true_cfg_scale": guidance,
            "max_sequence_length": self.length,
        }

    def spatial(self, x, size):
        width, height = size
        return FluxPipeline._unpack_latents(x, height, width, self.pipe.vae_scale_factor)

    def packed(self, x):
        return FluxPipeline._pack_latents(x, *x.shape)

    def conditions(self, prompt):
        device = self.pipe._execution_device
        hidden, pooled, _ = self.pipe.encode_prompt(prompt, None, device, max_sequence_length=self.length)
        return Conditions(hidden, pooled)

    def predict(self, x, t, conditions, net=None, **kwargs):
        n, c, h, w = x.shape
        out = (net or self.net)(
            FluxPipeline._pack_latents(x, n, c, h, w),
            encoder_hidden_states=conditions.hidden,
            pooled_projections=conditions.pooled,
            timestep=t / 1000,
            img_ids=FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, x.device, x.dtype),
            txt_ids=torch.zeros(conditions.hidden.shape[1], 3, device=x.device, dtype=x.dtype),
            joint_attention_kwargs=kwargs or None,
        ).sample
        side = h * self.pipe.vae_scale_factor
        return FluxPipeline._unpack_latents(out, side, w * self.pipe.vae_scale_factor, self.pipe.vae_scale_factor)


FAMILIES = {StableDiffusionPipeline: StableDiffusion, FluxPipeline: Flux}


class Level(NamedTuple):
    """x = signal * x0 + noise * epsilon: how much of either is in a noised latent (Ho et al. 2020, eq. 4)."""

    signal: float
    noise: float
    scale: float = 1.0  # the scheduler keeps x divided by this; others hold x itself


def level(scheduler, t: torch.Tensor, index: int) -> Level:
    """Of the latent before step `index`, at time t. Raises IndexError beyond the last step."""
    if is_flow(scheduler):
        sigma = float(scheduler.sigmas[index])
        return Level(1 - sigma, sigma)
    if scheduler.init_noise_sigma == 1:  # keeps x at the variance of x0 throughout
        alpha_bar = float(scheduler.alphas_cumprod[int(t)])
        return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
    sigma = float(scheduler.sigmas[index])  # Karras et al. 2022: x = x0 + sigma * epsilon
    signal = (sigma**2 + 1) ** -0.5
    return Level(signal, sigma * signal, signal)


def level_after(scheduler, index: int) -> Level:
    """Of the latent after step `index`; the picture itself after the last."""
    if index + 1 >= len(scheduler.timesteps):
        return Level(1.0, 0.0)
    return level(scheduler, scheduler.timesteps[index + 1], index + 1)


def is_flow(scheduler) -> bool:
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or getattr(scheduler.config, "use_flow_sigmas", False)


def predicted(scheduler, output: torch.Tensor, x: torch.Tensor, at: Level) -> torch.Tensor:
    """The picture that the net expects: x0 from its output at x (scaled by at.scale, see Level).

    flow: v = epsilon - x0; v-prediction: v = signal * epsilon - noise * x0 (Salimans & Ho 2022, appendix D).
    """
    if is_flow(scheduler):
        return x - at.noise * output
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return at.signal * x - at.noise * output
    if kind == "sample":
        return output
    return (x - at.noise * output) / max(at.signal, 1e-3)
