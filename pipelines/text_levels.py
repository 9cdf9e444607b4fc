"""Schedulers of text to image: how much noise is in a latent at each step, and what the net's answer amounts to."""

from typing import NamedTuple

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler


class FlowUniPC(UniPCMultistepScheduler):
    """UniPC (Zhao et al. 2023) for flows, which can also begin with a picture."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        """As the scheduler of flows: sigmas may be a list."""
        super().set_timesteps(num_inference_steps, device, None if sigmas is None else np.array(sigmas), mu)

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The point of the straight path from sample to noise at that time, as the scheduler of flows has it."""
        index = int((self.timesteps.to(timestep.device) == timestep.flatten()[0]).nonzero()[0])
        sigma = float(self.sigmas[index])
        return sigma * noise + (1 - sigma) * sample


# Sampler -> class, what it needs beyond the config of the model's own scheduler.
FLOW = {
    "Euler": (FlowMatchEulerDiscreteScheduler, {}),
    "UniPC": (FlowUniPC, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2}),
}


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
