"""What a picture can be given beside words: a picture to begin with, one to change, edges to follow, LoRAs, a size.

Plain values and PIL pictures; nothing here imports torch.
"""

import hashlib
from dataclasses import dataclass, field, replace

from PIL import Image, ImageFilter, ImageOps

from .problems import Problem, number, whole
from .text_space import GUIDE_STRENGTH, LORA_WEIGHT, STRENGTH, WHEN


@dataclass(frozen=True)
class Lora:
    name: str  # id of a model of kind "lora", or what another program called it
    weight: float = 1.0


@dataclass(frozen=True)
class Start:
    """A picture that is noised and drawn on from there (Meng et al. 2022, SDEdit), all of it or where the mask is."""

    image: Image.Image
    strength: float = 0.6  # how much noise: share of the steps that are done
    mask: Image.Image | None = None  # white where it is drawn anew


@dataclass(frozen=True)
class Guide:
    """What a ControlNet is shown (Zhang et al. 2023)."""

    net: str  # id of a model of kind "controlnet"
    image: Image.Image  # a condition: edges, depth, a pose
    strength: float = 1.0
    begin: float = 0.0  # share of the steps after which it counts
    end: float = 1.0  # and no longer counts
    mode: str = ""  # which condition, for a net that knows several


@dataclass(frozen=True)
class Given:
    start: Start | None = None
    edit: Image.Image | None = None  # what the words are to change: models that follow instructions
    guide: Guide | None = None
    loras: tuple[Lora, ...] = ()
    size: tuple[int, int] | None = field(default=None)  # width, height; None is the model's own

    @property
    def variant(self) -> str:
        """Which pipeline of the family it takes: "guide+start"; "" where words are enough."""
        return "+".join(name for name in ("edit", "guide", "start") if getattr(self, name) is not None)

    def checked(self, side: int, multiple: int) -> "Given":
        """The same, in the size that is drawn: `side` is the model's own, `multiple` what sides are multiples of.

        Pictures are cut to the shape. Raises Problem: out_of_range, not_multiple, ...
        """
        size = width, height = tuple(
            _side(name, value, side, multiple)
            for name, value in zip(("width", "height"), self.size or (side, side), strict=True)
        )
        start, guide = self.start, self.guide
        if start:
            mask = start.mask and ImageOps.fit(start.mask.convert("L"), size, Image.Resampling.BILINEAR)
            if mask and not mask.getbbox():
                raise Problem("empty_mask")
            strength = number("strength", start.strength, *STRENGTH)
            start = Start(_fit(start.image, size), strength, mask)
        if guide:
            guide = replace(
                guide,
                image=_fit(guide.image, size),
                strength=number("guide_strength", guide.strength, *GUIDE_STRENGTH),
                begin=number("guide_begin", guide.begin, *WHEN),
                end=number("guide_end", guide.end, *WHEN),
            )
            if guide.begin >= guide.end:
                raise Problem("guide_never", begin=guide.begin, end=guide.end)
        edit = self.edit and _fit(self.edit, size)
        loras = tuple(Lora(lora.name, number("lora_weight", lora.weight, *LORA_WEIGHT)) for lora in self.loras)
        return Given(start, edit, guide, loras, (width, height))

    def settings(self, side: int) -> dict:
        """As a recipe has it; of a picture it knows the checksum of what was looked at."""
        settings = {}
        if self.size != (side, side):
            settings |= {"width": self.size[0], "height": self.size[1]}
        if self.start:
            settings |= {"image": digest(self.start.image), "strength": self.start.strength}
            settings |= {"mask": digest(self.start.mask)} if self.start.mask else {}
        if self.edit:
            settings["edit"] = digest(self.edit)
        if self.guide:
            settings |= {"guide": self.guide.net, "guide_image": digest(self.guide.image)}
            settings |= {f"guide_{name}": getattr(self.guide, name) for name in ("strength", "begin", "end")}
            settings |= {"guide_mode": self.guide.mode} if self.guide.mode else {}
        if self.loras:
            settings["loras"] = [f"{lora.name}:{lora.weight:g}" for lora in self.loras]
        return settings


def _side(name: str, value: object, side: int, multiple: int) -> int:
    value = whole(name, value, *sides(side, multiple))
    if value % multiple:
        raise Problem("not_multiple", name=name, value=value, multiple=multiple)
    return value


def sides(side: int, multiple: int) -> tuple[int, int]:
    """The shortest and the longest side that a model is asked for whose own is `side`."""
    return max(multiple, side // 2 // multiple * multiple), max(multiple, 2 * side // multiple * multiple)


def usual_sides(side: int) -> list[int]:
    """Those of them that a person may choose from: multiples of what any model of that size wants."""
    step = max(32, side // 8)
    low, high = sides(side, step)
    return list(range(low, high + 1, step))


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise Problem("no_picture")
    return ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:12]


def paste(drawn: Image.Image, start: Start) -> Image.Image:
    """The picture that was begun with, with `drawn` where the mask is; the seam is softened over a few pixels."""
    soft = max(1, min(drawn.size) // 128)
    mask = start.mask.filter(ImageFilter.MaxFilter(2 * soft + 1)).filter(ImageFilter.GaussianBlur(soft))
    return Image.composite(drawn, start.image, mask)
