"""Scenes composed from emoji: an object, perhaps with a hat, perhaps a second object, on a background, with a caption.

    scenes = Scenes("data/emoji", seed=0)
    picture, caption, facts = scenes[123]        # uint8 (128, 128, 3); the same for ever

The folder holds one parquet file a set (columns `image`, `codepoints`; 128 px, transparent) and vocab.json: words in
both languages, where each head is and how each hat sits. A set is a style. No scene of training shows a pair of wearer
and hat for which `held_out` is true; `Scenes(..., held_out=True)` draws nothing else.
"""

import functools
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image

from training import backgrounds, captions
from training.data import TrainingError

SIZE = 128
MARGIN = 0.03  # of the picture, kept free around what stands in it
VARIANTS = 64  # drawings kept of each background
LANGUAGES = ("en", "de")


@dataclass(frozen=True)
class Facts:
    """What a scene shows, as ids of the vocabulary; "" is none."""

    object: str
    hat: str
    second: str
    relation: str  # of the object to the second
    background: str
    style: str  # the set
    language: str  # of the caption


class Scene(NamedTuple):
    picture: np.ndarray  # uint8 (128, 128, 3)
    caption: str
    facts: Facts


def held_out(object: str, hat: str) -> bool:
    """Whether a wearer with this hat is kept out of training: about 10 % of all pairs, and frog with melon hat."""
    return (object, hat) == ("frog", "melon") or zlib.crc32(f"{object} {hat}".encode()) % 10 == 0


class Sprite(NamedTuple):
    picture: Image.Image  # RGBA
    box: tuple[float, float, float, float]  # of what is not transparent, fractions of the picture


def sprite(picture: Image.Image) -> Sprite:
    left, top, right, bottom = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 12)).getbbox()
    return Sprite(picture, (left / SIZE, top / SIZE, right / SIZE, bottom / SIZE))


class Scenes:
    """An endless sequence of scenes, each a function of (seed, index)."""

    def __init__(self, folder: str | Path, seed: int = 0, held_out: bool = False, more: Sequence[dict] = ()):
        """more: entries like those of vocab.json's objects, whose pictures the pack holds, too."""
        folder = Path(folder)
        try:
            self.vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder.name} is no emoji pack: vocab.json is missing or damaged.") from error
        self.seed, self.only_held_out = seed, held_out
        self.styles = [name for name in captions.STYLES if name in self.vocabulary["sets"]]
        for kind in ("objects", "wearers", "hats", "backgrounds", "relations"):
            entries = [*self.vocabulary[kind], *(more if kind == "objects" else ())]
            setattr(self, kind, {entry["id"]: entry for entry in entries})
        self.sprites = {style: self._read(folder / f"{style}.parquet") for style in self.styles}
        self.worn = {(style, id): self._fit(style, hat) for style in self.styles for id, hat in self.hats.items()}
        self._background = functools.cache(self._draw_background)

    def _read(self, file: Path) -> dict[str, Sprite]:
        """id of object or hat -> its picture in a set"""
        try:
            rows = pyarrow.parquet.read_table(file, columns=["image", "codepoints"]).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise TrainingError(f"{file.name} is missing or not a whole parquet file.") from error
        pictures = {row["codepoints"]: row["image"]["bytes"] for row in rows}
        decode = functools.cache(lambda code: sprite(Image.open(io.BytesIO(pictures[code])).convert("RGBA")))
        named = [("object", self.objects), ("hat", self.hats)]
        return {f"{kind} {id}": decode(entry["codepoints"]) for kind, entries in named for id, entry in entries.items()}

    def _fit(self, style: str, hat: dict) -> Sprite:
        """A hat as it is worn: turned over, turned, its chin strap cut (vocab.json, how.fit)."""
        picture, fit = self.sprites[style][f"hat {hat['id']}"].picture, hat["fit"][style]
        if fit["flip"] == "v":
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if fit["rot"]:
            picture = picture.rotate(fit["rot"], Image.Resampling.BICUBIC)
        if fit["crop"]:
            below = round(fit["base"] * SIZE)
            picture = picture.copy()
            picture.paste((0, 0, 0, 0), (0, below, SIZE, SIZE))
        return sprite(picture)

    # ---- facts

    def _rng(self, index: int, what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index, what])

    def facts(self, index: int) -> Facts:
        """What scene `index` shows, without drawing it."""
        rng = self._rng(index, 0)
        hat = ""
        if self.only_held_out or rng.random() < 0.55:
            object = captions.pick(rng, list(self.wearers))
            hats = [id for id in self.hats if held_out(object, id) == self.only_held_out and self._differ(object, id)]
            while not hats:  # a wearer none of whose pairs is held out
                object = captions.pick(rng, list(self.wearers))
                hats = [id for id in self.hats if held_out(object, id) and self._differ(object, id)]
            hat = captions.pick(rng, hats) if self.only_held_out or rng.random() < 0.8 else ""
        else:  # things that wear no hat are as many as wearers, and learnt from nothing else
            object = captions.pick(rng, [id for id in self.objects if id not in self.wearers] or list(self.objects))
        second = relation = ""
        if rng.random() < 0.2:
            second = captions.pick(rng, [id for id in self.objects if id != object])
            relation = captions.pick(rng, list(self.relations))
        background, style = captions.pick(rng, list(self.backgrounds)), captions.pick(rng, self.styles)
        return Facts(object, hat, second, relation, background, style, captions.pick(rng, list(LANGUAGES)))

    def _differ(self, object: str, hat: str) -> bool:
        return self.objects[object]["codepoints"] != self.hats[hat]["codepoints"]

    def caption(self, facts: Facts, rng: np.random.Generator) -> str:
        """One of the captions that are true of these facts."""
        hat, second = self.hats.get(facts.hat), self.objects.get(facts.second)
        thing, background = self.objects[facts.object], self.backgrounds[facts.background]
        relation = self.relations.get(facts.relation)
        return captions.caption(rng, facts.language, thing, background, facts.style, hat, second, relation)

    def named(self, caption: str, facts: Facts) -> tuple[str, ...]:
        """Which fields of the facts one of their captions says something of: it may leave out background and style."""
        background, styles = self.backgrounds[facts.background], captions.STYLES[facts.style][facts.language]
        places = [background[facts.language], *background[f"{facts.language}_alt"]]
        # "a Noto emoji of" may have lost its article, and "von dem" is "vom"
        words = [phrase.split(" ", 1)[1].rsplit(" ", 1)[0] for phrase in styles["before"]] + styles["after"]
        said, text = {"background": places, "style": words}, caption.lower()
        some = [kind for kind in said if any(phrase.lower() in text for phrase in said[kind])]
        return ("object", "hat", "second", *some)

    # ---- pictures

    def _draw_background(self, id: str, variant: int) -> Image.Image:
        rng = np.random.default_rng([zlib.crc32(id.encode()), variant])
        return backgrounds.draw(self.backgrounds[id]["recipe"], SIZE, rng)

    def parts(self, object: str, hat: str, style: str) -> list[tuple[Sprite, float, float, float]]:
        """-> (sprite, x, y, size) of object and hat, in sides of the object's picture, upper left corner at (x, y)."""
        parts = [(self.sprites[style][f"object {object}"], 0.0, 0.0, 1.0)]
        if hat:
            x, y, width = self.wearers[object]["head"][style]
            fit = self.hats[hat]["fit"][style]
            size = width * fit["k"] / fit["w"]
            tall = fit["base"] - fit["top"]
            size = min(size, self.vocabulary["how"]["max_height"] * width / tall)
            sinks = fit["sink"] * tall * size
            parts.append((self.worn[style, hat], x - fit["cx"] * size, y + sinks - fit["base"] * size, size))
        return parts

    def compose(self, facts: Facts, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A picture of these facts, uint8 (128, 128, 3); places, sizes and the background's details are drawn.

        With it what is covered by things and what by the hat, uint8 (2, 128, 128) from 0 to 255.
        """
        canvas = self._background(facts.background, int(rng.integers(VARIANTS))).copy()
        covered = [Image.new("L", canvas.size) for _ in ("things", "hat")]
        ground = self.backgrounds[facts.background]["ground"]
        groups = [(facts.object, facts.hat)] + ([(facts.second, "")] if facts.second else [])
        if len(groups) == 1:
            centres, room = [0.5], 1 - 2 * MARGIN
        else:
            sides = {"left": [0.26, 0.74], "right": [0.74, 0.26]}
            side = self.relations[facts.relation]["a"]
            centres, room = sides[side if side in sides else captions.pick(rng, list(sides))], 0.46
        for (object, hat), centre in zip(groups, centres, strict=True):
            parts = self.parts(object, hat, facts.style)
            boxes = np.array([np.array(s.box) * size + [x, y, x, y] for s, x, y, size in parts])
            (left, top), (right, bottom) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
            floats = self.objects[object]["place"] == "air"
            tall = (1 - MARGIN if ground is None else ground + 0.06) - MARGIN  # room above the feet
            scale = min(room / (right - left), tall / (bottom - top), 0.8) * rng.uniform(0.86, 1)
            wide, high = (right - left) * scale, (bottom - top) * scale
            # three in four stand in the middle of where they may: what looks alike is learnt sooner
            across, down = (0.5, 0.5) if rng.random() < 0.75 else rng.random(2)
            x = centre + (across - 0.5) * (room - wide) * 0.7 - wide / 2
            low, lowest = (
                (MARGIN, 1 - MARGIN - high) if ground is None else (ground - 0.04 - high, ground + 0.06 - high)
            )
            if floats and ground is not None:
                low, lowest = MARGIN, max(MARGIN, ground - 0.12 - high)
            low, lowest = max(low, MARGIN), max(lowest, MARGIN)
            y = low + down * (lowest - low)
            for layer, (part, dx, dy, size) in zip(covered, parts, strict=False):
                px = round(size * scale * SIZE)
                # Pillow premultiplies alpha for a resize and undoes it afterwards
                small = part.picture.resize((px, px), Image.Resampling.LANCZOS, reducing_gap=None)
                at = round((x + (dx - left) * scale) * SIZE), round((y + (dy - top) * scale) * SIZE)
                canvas.paste(small, at, small)
                layer.paste(255, (*at, at[0] + px, at[1] + px), small.getchannel("A"))
        return np.asarray(canvas), np.stack([np.asarray(layer) for layer in covered])

    def draw(self, facts: Facts, rng: np.random.Generator) -> np.ndarray:
        """The picture of `compose` alone."""
        return self.compose(facts, rng)[0]

    def __getitem__(self, index: int) -> Scene:
        facts = self.facts(index)
        return Scene(self.draw(facts, self._rng(index, 1)), self.caption(facts, self._rng(index, 2)), facts)

    def pictures(self, indices: range | list[int]) -> torch.Tensor:
        """uint8 (N, 3, 128, 128)"""
        return self.covered(indices)[0]

    def covered(self, indices: range | list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """-> pictures, uint8 (N, 3, 128, 128); what things and hats cover in them, uint8 (N, 2, 128, 128)"""
        both = [self.compose(self.facts(i), self._rng(i, 1)) for i in indices]
        drawn, covered = (torch.from_numpy(np.stack(part)) for part in zip(*both, strict=True))
        return drawn.permute(0, 3, 1, 2).contiguous(), covered
