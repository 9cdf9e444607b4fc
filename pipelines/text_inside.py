"""What goes on inside a text-to-image model: its steps, guidance, and how a picture is noised. See text_attention.py.

Functions of a TextToImagePipeline `p`; they change nothing in it. Latents x (1, C, h, w) as the net sees them.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageOps

from . import runtime
from .problems import Problem, number
from .recipe import Recipe
from .text_family import Conditions
from .text_levels import Level, is_flow, predicted
from .text_to_image import Made, TextToImagePipeline

CHANNELS = 16  # of a latent that are shown
SPREAD = 3.0  # standard deviations from black to grey and from grey to white in pictures of channels


@torch.inference_mode()
def told(p: TextToImagePipeline, prompt: str) -> Conditions:
    """Raises Problem no_look_inside."""
    if not p.family.inside:
        raise Problem("no_look_inside", model=p.model.id)
    return p.family.conditions(prompt)


@torch.inference_mode()
def said(p: TextToImagePipeline, x: torch.Tensor, t: float, conditions: Conditions, net=None, **kwargs) -> torch.Tensor:
    """What the net (or its twin) answers; on the CPU."""
    device, dtype = p.family.net.device, p.family.net.dtype
    answer = p.family.predict(x.to(device, dtype), torch.tensor([t], device=device), conditions, net, **kwargs)
    return answer.float().cpu()


def look(p: TextToImagePipeline, x: torch.Tensor) -> Image.Image:
    """A latent as a picture. In bf16 where that takes half the time: it is for looking at, not the result."""
    with runtime.autocast():
        return p.decode(x)


# ---- steps and guidance


class Frame(NamedTuple):
    """One step as pictures."""

    number: int  # 1 -> steps
    level: Level
    noised: Image.Image  # the latent before the step
    expected: Image.Image  # the picture that the step works towards: guided
    channels: tuple[Image.Image, Image.Image]  # of the noised latent, of the expected one


class Guidance(NamedTuple):
    """What the net expects at a step without guidance, as pictures."""

    given: Image.Image  # told the prompt
    free: Image.Image  # told the negative prompt, or nothing
    difference: Image.Image  # given - free, grey where they agree
    gap: float  # the same between the latents: root of the mean square


Step = Callable[[int, int, None], None]


def spread(n: int, most: int) -> list[int]:
    """`most` numbers of 0 -> n - 1 at equal distances, both ends among them; all if there are no more."""
    return sorted({round(i * (n - 1) / max(1, most - 1)) for i in range(most)}) if n > most else list(range(n))


def frames(p: TextToImagePipeline, made: Made, which: Sequence[int], on_step: Step | None = None) -> list[Frame]:
    """Steps of a picture that `p.trace` made; which: their indices."""
    shown = []
    for i in which:
        moment = made.moments[i]
        both = channels(moment.x), channels(moment.x0)
        shown.append(Frame(i + 1, moment.level, look(p, moment.x), look(p, moment.x0), both))
        if on_step:
            on_step(len(shown), len(which), None)
    return shown


def guidance(p: TextToImagePipeline, made: Made, which: Sequence[int], on_step: Step | None = None) -> list[Guidance]:
    """Of the same steps (Ho & Salimans 2022)."""
    scheduler, shown = p.scheduler(made.recipe.settings["sampler"]), []
    prompts = [told(p, made.recipe.settings[name]) for name in ("prompt", "negative_prompt")]
    for i in which:
        x, t, level = made.moments[i].x, made.moments[i].t, made.moments[i].level
        given, free = (predicted(scheduler, said(p, x, t, one), x, level) for one in prompts)
        pictures = look(p, given), look(p, free)
        gap = (given - free).square().mean().sqrt().item()
        shown.append(Guidance(*pictures, ImageChops.subtract(*pictures, 1, 128), gap))
        if on_step:
            on_step(len(shown), len(which), None)
    return shown


def channels(x: torch.Tensor) -> Image.Image:
    """The first CHANNELS channels of a latent side by side: grey is 0, white SPREAD standard deviations above."""
    x = x[0, :CHANNELS]
    n, h, w = x.shape
    columns = math.ceil(n**0.5)
    grey = ((x / SPREAD + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    sheet = Image.new("L", (columns * (w + 1) - 1, math.ceil(n / columns) * (h + 1) - 1), 255)
    for i, channel in enumerate(grey):
        sheet.paste(Image.fromarray(channel), (i % columns * (w + 1), i // columns * (h + 1)))
    return sheet


# ---- the forward process


class Noised(NamedTuple):
    """A picture on its way to noise, and what the net makes of it."""

    level: Level
    original: Image.Image
    noised: Image.Image
    expected: Image.Image  # told the prompt, without guidance
    recipe: Recipe


def at(p: TextToImagePipeline, t: float) -> tuple[float, Level]:
    """t, 0 picture -> 1 noise: the scheduler's time, and how much of either is in the latent then.

    Diffusion: Ho et al. 2020, eq. 4. Flow: the straight path of Liu et al. 2023, eq. 1.
    """
    scheduler = p.pipe.scheduler
    if is_flow(scheduler):
        return t * scheduler.config.num_train_timesteps, Level(1 - t, t)
    index = round(t * (len(scheduler.alphas_cumprod) - 1))
    alpha_bar = float(scheduler.alphas_cumprod[index])
    return index, Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)


def course(p: TextToImagePipeline, n: int = 101) -> list[tuple[float, Level]]:
    """(t, level) along the whole way."""
    return [(i / (n - 1), at(p, i / (n - 1))[1]) for i in range(n)]


def log_snr(level: Level) -> float:
    """log(signal^2 / noise^2), natural; infinite where there is one of them only."""
    if not level.noise or not level.signal:
        return math.inf if level.signal else -math.inf
    return 2 * math.log(level.signal / level.noise)


def noise(p: TextToImagePipeline, image: Image.Image, prompt: str, seed: int, t: float) -> Noised:
    """Any picture at time t, with the noise from which that seed draws."""
    time, level = at(p, number("t", t, 0, 1))
    (generator,) = runtime.generators(seed)
    image = ImageOps.fit(image.convert("RGB"), (p.defaults["size"],) * 2, Image.Resampling.LANCZOS)
    with runtime.autocast():
        x0 = p.encode(image)
    x = level.signal * x0 + level.noise * torch.randn(x0.shape, generator=generator)
    expected = predicted(p.pipe.scheduler, said(p, x, time, told(p, prompt)), x, level)
    recipe = p.recipe("noise", {"prompt": prompt, "t": t}, seed)
    return Noised(level, image, look(p, x), look(p, expected), recipe)
