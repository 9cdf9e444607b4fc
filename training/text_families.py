"""What differs between the architectures of text to image when they learn: one class each.

    family = of(DiffusionPipeline.from_pretrained(folder))
    told = family.told(["a frog", "a cat"])                  # what the net is told of each
    loss = family.loss(family.encode(x), noise, u, told)     # noise like the latents, u (N,) uniform in [0, 1)

Latents are spatial, (N, C, h, w), normalised as the net sees them. `told` has the names that the pipeline's own call
gives to its embeddings, so that the text encoders can be let go once every caption has been read.
"""

import torch
from diffusers import (
    DiffusionPipeline,
    Flux2KleinPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from training.data import TrainingError
from training.text_to_image import between, flow_loss, logit_normal, noised, shifted, snr_weight, velocity

READERS = ("text_encoder", "image_encoder", "safety_checker", "feature_extractor")  # so begin what drawing can lack


class Family:
    """A pipeline of diffusers, as training sees it."""

    net_name: str
    guidance_name = "guidance_scale"  # of the pipeline's call

    def __init__(self, pipe: DiffusionPipeline, min_snr: float = 5.0):
        self.pipe, self.min_snr = pipe, min_snr

    @property
    def net(self) -> torch.nn.Module:
        return getattr(self.pipe, self.net_name)

    @property
    def side(self) -> int:
        """Pixels of the pictures that the pipeline draws if nothing else is asked for."""
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    @property
    def multiple(self) -> int:
        """Of which both sides of a picture are multiples."""
        return 2 * self.pipe.vae_scale_factor

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 3, H, W) in [-1, 1] -> latents: the mean, nothing is drawn"""
        vae = self.pipe.vae
        mean = vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mean
        return ((mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor).float()

    def told(self, texts: list[str]) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def predict(self, x: torch.Tensor, t: torch.Tensor, told: dict[str, torch.Tensor], **more) -> torch.Tensor:
        """What the net says of x at times t (N,), those of `loss`; `more` reaches the net."""
        raise NotImplementedError

    def loss(self, x: torch.Tensor, noise: torch.Tensor, u: torch.Tensor, told: dict, predict=None) -> torch.Tensor:
        """Of noised latents; `predict` is this family's unless another stands in for it."""
        raise NotImplementedError

    def forget_reading(self) -> None:
        """Text encoders out of memory: from here on everything is drawn from what `told` returned."""
        for name in [name for name in self.pipe.components if name.startswith(READERS)]:
            setattr(self.pipe, name, None)

    @torch.no_grad()
    def draw(self, told: dict, nothing: dict, size: int, steps: int, guidance: float, seed: int) -> torch.Tensor:
        """told and nothing ("" as `told` has it), each of N -> pictures (N, 3, size, size) in [-1, 1]"""
        self.pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(told["prompt_embeds"]))]
        call = {"height": size, "width": size, "num_inference_steps": steps, self.guidance_name: guidance}
        call |= told | {f"negative_{name}": value for name, value in nothing.items()}
        return self.pipe(**call, generator=generators, output_type="pt").images.float() * 2 - 1


# ------------------------------------------------------------------------------------------------------- diffusion


class Diffusion(Family):
    """Predicts epsilon (Ho et al. 2020) or v (Salimans & Ho 2022), weighed by min-SNR (Hang et al. 2023)."""

    net_name = "unet"

    @property
    def multiple(self):
        return self.pipe.vae_scale_factor * 2 ** (len(self.net.config.block_out_channels) - 1)

    def loss(self, x, noise, u, told, predict=None):
        scheduler, predict = self.pipe.scheduler, predict or self.predict
        t = (u * len(scheduler.alphas_cumprod)).long()  # every time is as likely
        alpha_bar = scheduler.alphas_cumprod.to(x.device)[t].view(-1, 1, 1, 1)
        kind = scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise TrainingError(f"The model predicts {kind!r}; only epsilon and v_prediction can be trained.")
        target = noise if kind == "epsilon" else velocity(x, noise, alpha_bar)
        error = predict(noised(x, noise, alpha_bar), t, told).float() - target
        return (snr_weight(alpha_bar, self.min_snr, kind) * error.square()).mean()


class StableDiffusion(Diffusion):
    """Stable Diffusion 1 and 2 (Rombach et al. 2022)."""

    @property
    def side(self):
        return self.net.config.sample_size * self.pipe.vae_scale_factor

    def told(self, texts):
        return {"prompt_embeds": self.pipe.encode_prompt(texts, self.pipe.vae.device, 1, False)[0]}

    def predict(self, x, t, told, **more):
        return self.net(x.to(self.net.dtype), t, told["prompt_embeds"].to(self.net.dtype), **more).sample


class StableDiffusionXL(Diffusion):
    """Stable Diffusion XL (Podell et al. 2023): it is also told the size of the picture and where it was cut."""

    def told(self, texts):
        hidden, _, pooled, _ = self.pipe.encode_prompt(texts, None, self.pipe.vae.device, 1, False)
        if self.pipe.config.force_zeros_for_empty_prompt:  # as the pipeline has it for guidance
            said = torch.tensor([bool(text) for text in texts], device=hidden.device)
            hidden, pooled = hidden * said.view(-1, 1, 1), pooled * said.view(-1, 1)
        return {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}

    def predict(self, x, t, told, **more):
        height, width = (side * self.pipe.vae_scale_factor for side in x.shape[2:])
        ids = torch.tensor([[height, width, 0, 0, height, width]], device=x.device).expand(len(x), -1)
        added = {"text_embeds": told["pooled_prompt_embeds"].to(self.net.dtype), "time_ids": ids}
        hidden = told["prompt_embeds"].to(self.net.dtype)
        return self.net(x.to(self.net.dtype), t, hidden, added_cond_kwargs=added, **more).sample


# ------------------------------------------------------------------------------------------------------------ flow


class Flow(Family):
    """Rectified flow (Liu et al. 2023) at logit-normal times (Esser et al. 2024), moved as the scheduler's own are."""

    net_name = "transformer"

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """u (N,) uniform in [0, 1) -> t (N,) from 0 (picture) to 1 (noise)"""
        config = self.pipe.scheduler.config
        shift = 1.0 if config.use_dynamic_shifting else config.shift  # the dynamic one is a matter of drawing
        return shifted(logit_normal(u), shift)

    def loss(self, x, noise, u, told, predict=None):
        t = self.times(u)
        return flow_loss((predict or self.predict)(between(x, noise, t.view(-1, 1, 1, 1)), t, told), x, noise).mean()


class StableDiffusion3(Flow):
    """Stable Diffusion 3 and 3.5 (Esser et al. 2024)."""

    @property
    def multiple(self):
        return self.pipe.vae_scale_factor * self.pipe.patch_size

    def told(self, texts):
        hidden, _, pooled, _ = self.pipe.encode_prompt(
            texts, texts, texts, self.pipe.vae.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}

    def predict(self, x, t, told, **more):
        hidden, pooled = (told[name].to(self.net.dtype) for name in ("prompt_embeds", "pooled_prompt_embeds"))
        return self.net(x.to(self.net.dtype), hidden, pooled, t * 1000, **more).sample


class Flux(Flow):
    """Flux.1 (Black Forest Labs 2024). Where a guidance embedding was distilled (dev), it is told 1 while it learns."""

    @property
    def guidance_name(self):
        return "guidance_scale" if self.net.config.guidance_embeds else "true_cfg_scale"

    def told(self, texts):
        length = min(512, self.pipe.tokenizer_2.model_max_length)
        hidden, pooled, _ = self.pipe.encode_prompt(texts, None, self.pipe.vae.device, max_sequence_length=length)
        return {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}

    def predict(self, x, t, told, **more):
        n, c, h, w = x.shape
        dtype, hidden = self.net.dtype, told["prompt_embeds"]
        out = self.net(
            FluxPipeline._pack_latents(x, n, c, h, w).to(dtype),  # (N, h/2 w/2, 4 C)
            encoder_hidden_states=hidden.to(dtype),
            pooled_projections=told["pooled_prompt_embeds"].to(dtype),
            timestep=t,
            img_ids=FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, x.device, dtype),
            txt_ids=torch.zeros(hidden.shape[1], 3, device=x.device, dtype=dtype),
            guidance=torch.ones(n, device=x.device) if self.net.config.guidance_embeds else None,
            **more,
        ).sample
        factor = self.pipe.vae_scale_factor
        return FluxPipeline._unpack_latents(out, h * factor, w * factor, factor)


class Flux2Klein(Flow):
    """FLUX.2-klein (Black Forest Labs 2026): latents in patches of 2 x 2, normalised channel by channel."""

    def encode(self, x):
        vae = self.pipe.vae
        patches = self.pipe._patchify_latents(vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mode())
        mean, variance = (value.view(1, -1, 1, 1) for value in (vae.bn.running_mean, vae.bn.running_var))
        return ((patches - mean) / (variance + vae.config.batch_norm_eps).sqrt()).float()  # (N, 4 C, h/2, w/2)

    def told(self, texts):
        return {"prompt_embeds": self.pipe.encode_prompt(texts, self.pipe.vae.device)[0]}

    def predict(self, x, t, told, **more):
        dtype, hidden = self.net.dtype, told["prompt_embeds"]
        out = self.net(
            self.pipe._pack_latents(x).to(dtype),
            encoder_hidden_states=hidden.to(dtype),
            timestep=t,
            img_ids=self.pipe._prepare_latent_ids(x).to(x.device),
            txt_ids=self.pipe._prepare_text_ids(hidden).to(x.device),
            guidance=None,
            **more,
        ).sample
        return out.permute(0, 2, 1).unflatten(2, x.shape[2:])


FAMILIES = {
    StableDiffusionPipeline: StableDiffusion,
    StableDiffusionXLPipeline: StableDiffusionXL,
    StableDiffusion3Pipeline: StableDiffusion3,
    FluxPipeline: Flux,
    Flux2KleinPipeline: Flux2Klein,
}


def of(pipe: DiffusionPipeline, min_snr: float = 5.0) -> Family:
    if type(pipe) not in FAMILIES:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise TrainingError(f"A {type(pipe).__name__} cannot be trained here; these can: {known}.")
    return FAMILIES[type(pipe)](pipe, min_snr)
