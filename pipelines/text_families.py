"""The architectures of text to image: how each is called, packs its latents, what it predicts. See text_family.py."""

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    LatentConsistencyModelImg2ImgPipeline,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    QwenImageControlNetPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
)

from . import registry, runtime
from .text_family import Conditions, Family
from .text_levels import FLOW

UNCLIPPED = {"clip_sample": False}  # latents know no bounds; schedulers whose files do not say so would clip at 1

# ---- diffusion


class StableDiffusion(Family):
    """A UNet that reads the text by cross-attention (Rombach et al. 2022)."""

    samplers = {
        "DDIM": (DDIMScheduler, UNCLIPPED),
        "DDPM": (DDPMScheduler, UNCLIPPED),
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
    inside = True
    tiny = "taesd"

    @property
    def net(self):
        return self.pipe.unet

    @property
    def side(self):
        return self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    @property
    def multiple(self):
        return self.pipe.vae_scale_factor * 2 ** (len(self.net.config.block_out_channels) - 1)

    def conditions(self, prompt):
        hidden, _ = self.pipe.encode_prompt(prompt, self.pipe._execution_device, 1, do_classifier_free_guidance=False)
        return Conditions(hidden)

    def predict(self, x, t, conditions, net=None, **kwargs):
        net = net or self.net
        return net(x, t, encoder_hidden_states=conditions.hidden, cross_attention_kwargs=kwargs or None).sample


class LatentConsistency(StableDiffusion):
    """Stable Diffusion distilled to a few steps; guidance is told to the net (Luo et al. 2023)."""

    samplers = {"LCM": (LCMScheduler, UNCLIPPED)}
    variants = {"start": LatentConsistencyModelImg2ImgPipeline}
    inside = negative = False

    def arguments(self, prompt, negative, steps, guidance):
        return {"prompt": prompt, "num_inference_steps": steps, "guidance_scale": guidance}


class StableDiffusionXL(StableDiffusion):
    """A larger UNet with two text encoders, told the picture's size (Podell et al. 2023)."""

    variants = {
        "start": StableDiffusionXLImg2ImgPipeline,
        "guide": StableDiffusionXLControlNetPipeline,
        "guide+start": StableDiffusionXLControlNetImg2ImgPipeline,
    }
    unions = {
        "guide": StableDiffusionXLControlNetUnionPipeline,
        "guide+start": StableDiffusionXLControlNetUnionImg2ImgPipeline,
    }
    inside = False
    tiny = "taesdxl"


# ---- flow


class Flow(Family):
    """A transformer that predicts the direction from picture to noise (Liu et al. 2023)."""

    samplers = FLOW


class StableDiffusion3(Flow):
    """Three text encoders, the third may be left out (Esser et al. 2024)."""

    variants = {"start": StableDiffusion3Img2ImgPipeline, "guide": StableDiffusion3ControlNetPipeline}
    tiny = "taesd3"

    @property
    def multiple(self):
        return self.pipe.vae_scale_factor * self.pipe.patch_size

    def _guided(self, pipe, guide, takes):
        call = super()._guided(pipe, guide, takes)
        if ("canny",) in [net.conditions for net in registry.models(None, "controlnet") if net.id == guide.net]:
            # the net for edges alone learnt from pixels that were scaled so; those for others from the usual [-1, 1]
            call["control_image"] = (runtime.to_tensor(guide.image) + 1) * 63.75 + 0.5
        return call

    @property
    def tokenizer(self):
        return self.pipe.tokenizer_3 or self.pipe.tokenizer

    @property
    def length(self):
        most = min(256, self.tokenizer.model_max_length)  # what the pipeline reads
        return most - self.tokenizer.num_special_tokens_to_add()


class Flux(Flow):
    """A transformer over text and 2 x 2 patches of the latent (Esser et al. 2024; Black Forest Labs 2024).

    Where guidance was distilled (dev) the net is told how much, else it is true classifier-free guidance.
    """

    tiny = "taef1"

    @property
    def variants(self):
        known = {"start": FluxImg2ImgPipeline, "guide": FluxControlNetPipeline}
        # diffusers' own for both at once knows no negative prompt
        return known | ({} if self.negative else {"guide+start": FluxControlNetImg2ImgPipeline})

    @property
    def negative(self):
        return not self.net.config.guidance_embeds

    @property
    def inside(self):
        return not self.net.config.guidance_embeds

    @property
    def tokenizer(self):
        return self.pipe.tokenizer_2

    @property
    def most(self) -> int:
        """Tokens with the mark at the end. schnell learnt from half as many as dev."""
        return min(512 if self.net.config.guidance_embeds else 256, self.tokenizer.model_max_length)

    @property
    def length(self):
        return self.most - self.tokenizer.num_special_tokens_to_add()

    def arguments(self, prompt, negative, steps, guidance):
        call = {"prompt": prompt, "num_inference_steps": steps, "max_sequence_length": self.most}
        if not self.negative:
            return call | {"guidance_scale": guidance}
        return call | {"negative_prompt": negative, "true_cfg_scale": guidance}

    def spatial(self, x, size):
        width, height = size
        return FluxPipeline._unpack_latents(x, height, width, self.pipe.vae_scale_factor)

    def packed(self, x):
        return FluxPipeline._pack_latents(x, *x.shape)

    def conditions(self, prompt):
        device = self.pipe._execution_device
        hidden, pooled, _ = self.pipe.encode_prompt(prompt, None, device, max_sequence_length=self.most)
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


class Kontext(Flux):
    """Flux that also attends to a picture, which the words are to change (Black Forest Labs 2025)."""

    variants = {"edit": FluxKontextPipeline, "start": FluxImg2ImgPipeline}


class Chat(Flow):
    """Reads the prompt with a language model, as what somebody says to it."""

    most = 512  # tokens, those of the template included

    @property
    def length(self):
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)  # or one that reads pictures, too
        empty = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
        return self.most - len(tokenizer(empty, add_special_tokens=False).input_ids)


class Flux2(Chat):
    """Latents in patches of 2 x 2, normalised channel by channel (Black Forest Labs 2025); changes pictures, too."""

    variants = {"edit": Flux2Pipeline}
    negative = False
    tiny = "taef2"

    def arguments(self, prompt, negative, steps, guidance):
        return {"prompt": prompt, "num_inference_steps": steps, "guidance_scale": guidance}

    def spatial(self, x, size):
        width, height = (side // self.multiple for side in size)
        return x.permute(0, 2, 1).unflatten(2, (height, width))

    def packed(self, x):
        return x.flatten(2).permute(0, 2, 1)

    def encode(self, image):
        mean, deviation = self._statistics()
        x = Flux2Pipeline._patchify_latents(self.pipe.vae.encode(self._fit(image)).latent_dist.mean)
        return (x - mean) / deviation

    def decode(self, x0):
        mean, deviation = self._statistics()
        x0 = self._fit(x0)
        return self.pipe.vae.decode(self.for_tiny(x0 * deviation.to(x0) + mean.to(x0))).sample

    def for_tiny(self, x0):
        return Flux2Pipeline._unpatchify_latents(x0)  # that decoder knows no statistics

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        norm, device = self.pipe.vae.bn, self.pipe._execution_device
        mean, variance = (value.view(1, -1, 1, 1).to(device) for value in (norm.running_mean, norm.running_var))
        return mean, (variance + self.pipe.vae.config.batch_norm_eps).sqrt()


class Flux2Klein(Flux2):
    """The small one, distilled to four steps (Black Forest Labs 2026)."""

    variants = {"edit": Flux2KleinPipeline}


class ZImage(Chat):
    """One stream of text and picture (Z-Image team 2025). Guidance 0 is none: g stands for 1 + g elsewhere."""

    variants = {"start": ZImageImg2ImgPipeline, "guide": ZImageControlNetPipeline}
    side = 1024
    tiny = "taef1"


class QwenImage(Chat):
    """A double stream beside a language model that sees (Qwen team 2025)."""

    variants = {"start": QwenImageImg2ImgPipeline, "guide": QwenImageControlNetPipeline}

    @property
    def length(self):
        return self.most  # the template is counted apart

    def arguments(self, prompt, negative, steps, guidance):
        call = {"prompt": prompt, "num_inference_steps": steps, "true_cfg_scale": guidance}
        return call | ({"negative_prompt": negative} if guidance > 1 else {})

    def spatial(self, x, size):
        width, height = size
        return QwenImagePipeline._unpack_latents(x, height, width, self.pipe.vae_scale_factor)[:, :, 0]

    def packed(self, x):
        return QwenImagePipeline._pack_latents(x, *x.shape)

    def encode(self, image):
        mean, deviation = self._statistics()
        return (self.pipe.vae.encode(self._fit(image)[:, :, None]).latent_dist.mean[:, :, 0] - mean) / deviation

    def decode(self, x0):
        mean, deviation = self._statistics()
        x0 = self._fit(x0)
        return self.pipe.vae.decode((x0 * deviation.to(x0) + mean.to(x0))[:, :, None]).sample[:, :, 0]

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        config, device = self.pipe.vae.config, self.pipe._execution_device
        return tuple(
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )


class QwenImageEdit(QwenImage):
    """Changes a picture that its language model sees, too."""

    edits_only = True

    @property
    def variants(self):
        return {"edit": type(self.pipe)}


FAMILIES = {
    StableDiffusionPipeline: StableDiffusion,
    LatentConsistencyModelPipeline: LatentConsistency,
    StableDiffusionXLPipeline: StableDiffusionXL,
    StableDiffusion3Pipeline: StableDiffusion3,
    FluxPipeline: Flux,
    FluxKontextPipeline: Kontext,
    Flux2Pipeline: Flux2,
    Flux2KleinPipeline: Flux2Klein,
    ZImagePipeline: ZImage,
    QwenImagePipeline: QwenImage,
    QwenImageEditPipeline: QwenImageEdit,
    QwenImageEditPlusPipeline: QwenImageEdit,
}
