"""Style transfer: pictures of one domain as if they were of another (CycleGAN, Zhu et al. 2017), and back.

G: A -> B and F: B -> A are the generators of a pair, x a picture (1, 3, H, W) in [-1, 1]; see style_space.py for the
limits. Pictures are PIL of any size; one is worked on at a time. `on_step(i, n, None)` may raise to stop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch.nn import functional as F

from . import runtime
from .models.cyclegan import Discriminator, Generator
from .problems import Problem, choice, number
from .recipe import Recipe
from .registry import Model, revision
from .style_space import DIRECTIONS, HIDDEN, LEAST, OTHER, SIZES, STRENGTH, TONE, work_size
from .style_weights import from_hub
from .weights import from_folder

PLAIN = 2**19  # px; larger pictures are computed in bands
BAND = 2**17  # px of a band; at 64 channels in bf16 16 MB
TONE_SCALE = 1 / 32  # standard deviation of the blur that separates tone from detail, as a share of the shorter side
GAIN = 4  # how much clearer the difference picture is than the difference
LEAST_SEEN = 32  # px, the smallest picture that a discriminator sees
GENERATED, REAL = (0, 90, 181), (255, 140, 0)  # blue and orange: told apart with every kind of colour blindness
COVER = 0.75  # of the picture at a verdict of 0 or 1
Step = Callable[[int, int, None], None]


@dataclass(frozen=True)
class Cycle:
    before: Image.Image  # x
    there: Image.Image  # G(x), with noise on it if that was asked for
    back: Image.Image  # F(G(x))
    difference: Image.Image  # |F(G(x)) - x|, GAIN times as clear
    error: float  # its mean, the cycle consistency loss (eq. 2), x in [-1, 1]
    recipe: Recipe


@dataclass(frozen=True)
class Eye:
    before: Image.Image  # x
    after: Image.Image  # G(x)
    before_map: Image.Image  # the verdicts over x
    after_map: Image.Image
    before_scores: np.ndarray  # float32 (h, w), one each 8 px on 70 x 70 px: trained towards 1 real, 0 generated
    after_scores: np.ndarray
    recipe: Recipe


def from_model(model: Model, folder: Path) -> "StyleTransferPipeline":
    """What `pipelines.load` calls. Raises Problem."""
    if not model.path:
        return StyleTransferPipeline(from_hub(model, folder), {}, model)
    found = [direction for direction in DIRECTIONS if (folder / direction).is_dir()]
    judges = {direction: folder / direction / "discriminator" for direction in found}
    return StyleTransferPipeline(
        {direction: from_folder(Generator, folder / direction) for direction in found},
        {direction: from_folder(Discriminator, judge) for direction, judge in judges.items() if judge.is_dir()},
        model,
    )


class StyleTransferPipeline(DiffusionPipeline):
    """A pair of domains with one or both directions; the discriminator of a direction judges what that draws."""

    def __init__(self, generators: dict[str, Generator], discriminators: dict[str, Discriminator], model: Model):
        super().__init__()
        # channels_last: a third faster in bf16, a sixth in fp32
        nets = [
            {name: runtime.ready(net).to(memory_format=torch.channels_last) for name, net in kind.items()}
            for kind in (generators, discriminators)
        ]
        self._generators, self._discriminators = nets
        self.model, self.directions = model, tuple(name for name in DIRECTIONS if name in generators)

    def has_discriminator(self, direction: str) -> bool:
        return choice("direction", direction, DIRECTIONS) in self._discriminators

    def work(self, image: Image.Image, size: int) -> Image.Image:
        """What is worked on: RGB, scaled to that longer side, see style_space.work_size."""
        image, wanted = image.convert("RGB"), work_size(*image.size, int(choice("size", size, SIZES)))
        return image if image.size == wanted else image.resize(wanted, Image.Resampling.LANCZOS)

    def align(self, image: Image.Image) -> Image.Image:
        """The face in a photo as FFHQ shows faces, 256 px. Raises Problem, see face_alignment.py."""
        from .face_alignment import find_and_align  # brings OpenCV, which only those pay who need it

        return find_and_align(image, 256)

    @torch.inference_mode()
    def translate(
        self,
        image: Image.Image,
        direction: str = "AtoB",
        size: int = 256,
        strength: float = 1.0,
        tone: float = 1.0,
        on_step: Step | None = None,
    ) -> tuple[Image.Image, Image.Image, Recipe]:
        """-> what was worked on, its translation x + strength * (d - low + tone * low), recipe.

        d = G(x) - x, low is d blurred: how colour and light change, without brush strokes or outlines.
        """
        net, strength, tone = self._net(direction), number("strength", strength, *STRENGTH), number("tone", tone, *TONE)
        before = self.work(image, size)
        x = runtime.to_tensor(before)
        d = draw(net, x, on_step).sub_(x)
        if tone != 1:
            d += (tone - 1) * low_pass(d)
        (after,) = runtime.to_images(x.add_(d, alpha=strength))
        return before, after, self._recipe("translate", direction, size, strength=strength, tone=tone)

    @torch.inference_mode()
    def cycle(
        self,
        image: Image.Image,
        direction: str = "AtoB",
        size: int = 256,
        noise: float = 0.0,
        on_step: Step | None = None,
    ) -> Cycle:
        """There and back: A -> B -> A, or B -> A -> B. Raises Problem one_direction.

        Noise of that standard deviation is put on G(x), x in [-1, 1], before F reads it: weak noise drowns what G hides
        there of x (Chu et al. 2017, https://arxiv.org/abs/1712.02950).
        """
        noise = number("noise", noise, *HIDDEN)
        if len(self.directions) < 2:
            raise Problem("one_direction", model=self.model.id)
        there, back = self._net(direction), self._net(OTHER[direction])
        before = self.work(image, size)
        x = runtime.to_tensor(before)
        y = draw(there, x, part(on_step, 0, 2))
        if noise:
            y.add_(runtime.noise(0, 1, *y.shape[1:]).cpu(), alpha=noise).clamp_(-1, 1)
        z = draw(back, y, part(on_step, 1, 2))
        difference = (z - x).abs_()
        error = difference.mean(dtype=torch.float64).item()
        pictures = (runtime.to_images(picture)[0] for picture in (y, z, difference.mul_(GAIN).sub_(1)))
        return Cycle(before, *pictures, error, self._recipe("cycle", direction, size, noise=noise))

    @torch.inference_mode()
    def eye(self, image: Image.Image, direction: str = "AtoB", size: int = 256, on_step: Step | None = None) -> Eye:
        """A picture and its translation as the discriminator of the target sees them. Raises Problem no_discriminator.

        A side below LEAST_SEEN is stretched for it.
        """
        net = self._net(direction)
        if not self.has_discriminator(direction):
            raise Problem("no_discriminator", model=self.model.id)
        before = self.work(image, size)
        x = runtime.to_tensor(before)
        y = draw(net, x, on_step)
        (after,) = runtime.to_images(y)
        scores = [judge(self._discriminators[direction], picture) for picture in (x, y)]
        maps = (overlay(*pair) for pair in zip((before, after), scores, strict=True))
        return Eye(before, after, *maps, *scores, self._recipe("eye", direction, size))

    def _net(self, direction: str) -> Generator:
        if choice("direction", direction, DIRECTIONS) not in self.directions:
            raise Problem("no_direction", model=self.model.id)
        return self._generators[direction]

    def _recipe(self, task: str, direction: str, size: int, **more: float) -> Recipe:
        settings = {"direction": direction, "size": int(size), **more}
        return Recipe.make(self.model.tab, self.model.id, revision(self.model), task, settings)


def part(on_step: Step | None, i: int, n: int) -> Step | None:
    """The steps of part i of n that are equally long."""
    return on_step and (lambda step, steps, picture: on_step(i * steps + step, n * steps, picture))


def draw(net: Generator, x: torch.Tensor, on_step: Step | None = None) -> torch.Tensor:
    """x (1, 3, H, W) of any size -> what the net draws of it, fp32, on the CPU.

    The net takes multiples of 4: edges are continued to the right and below. Above PLAIN pixels in bands.
    """
    height, width = x.shape[2:]
    right, below = (max(-(-side // 4) * 4, LEAST) - side for side in (width, height))
    padded = F.pad(x, (0, right, 0, below), mode="replicate").to(runtime.device())
    pixels, shorter = padded[0, 0].numel(), min(padded.shape[2:])
    report = on_step or (lambda i, n, picture: None)
    with runtime.autocast():
        if pixels <= PLAIN:
            y = net(padded)
            report(1, 1, None)
        else:
            y = net.forward_in_bands(padded, max(4, BAND // shorter // 4 * 4), lambda i, n: report(i, n, None))
    return y[:, :, :height, :width].cpu()


def low_pass(d: torch.Tensor) -> torch.Tensor:
    """d (1, 3, H, W) blurred by a Gaussian of TONE_SCALE of the shorter side.

    A share of the picture, so that every size gives the same look; and of the shorter side, because a picture is built
    across it: in a panorama a share of the longer one would mix sky and ground. It is blurred small, at 64 px.
    """
    shorter = min(d.shape[2:])
    small = min(shorter, 64)
    low = F.interpolate(d, [max(1, side * small // shorter) for side in d.shape[2:]], mode="area")
    reach = torch.arange(-6.0, 7.0)  # 3 standard deviations at 64 px
    weights = torch.exp(-0.5 * (reach / (small * TONE_SCALE)) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    low = F.conv2d(F.pad(low, (6, 6, 0, 0), mode="replicate"), weights, groups=3)
    low = F.conv2d(F.pad(low, (0, 0, 6, 6), mode="replicate"), weights.transpose(2, 3), groups=3)
    return F.interpolate(low, d.shape[2:], mode="bicubic")


def judge(net: Discriminator, x: torch.Tensor) -> np.ndarray:
    """x (1, 3, H, W) of any size -> verdicts, float32 (h, w)"""
    sides = [max(side, LEAST_SEEN) for side in x.shape[2:]]
    if sides != list(x.shape[2:]):
        x = F.interpolate(x, sides, mode="bilinear")
    with runtime.autocast():
        return net(x.to(runtime.device()))[0, 0].cpu().numpy()


def overlay(image: Image.Image, scores: np.ndarray) -> Image.Image:
    """The picture in grey, blue where it looks generated (0), orange where it looks real (1), as it is at 0.5.

    A score stands 8 px from the next; the first is 12 px from the edge, so one more row all around fills the picture.
    """
    height, width = (max(side, LEAST_SEEN) for side in (image.height, image.width))
    sure = F.pad(torch.from_numpy(scores)[None, None].mul(2).sub(1).clamp(-1, 1), (1, 1, 1, 1), mode="replicate")
    sure = F.interpolate(sure, scale_factor=8, mode="bicubic").clamp_(-1, 1)
    sure = F.pad(sure, (0, width - sure.shape[3], 0, height - sure.shape[2]), mode="replicate")
    if (height, width) != (image.height, image.width):
        sure = F.interpolate(sure, (image.height, image.width), mode="bilinear")
    shown = image.convert("L").point(lambda value: 48 + value * 0.65).convert("RGB")  # neither black nor white
    for colour, cover in ((GENERATED, -sure), (REAL, sure)):
        mask = (cover[0, 0].clamp(min=0) * (255 * COVER)).byte().numpy()
        shown.paste(colour, (0, 0), Image.fromarray(mask))
    return shown
