"""Whether a picture from words may be shown in public: what a model of language is asked for is read, and what it has
drawn is looked at first.

Public is what `--share` or a Space of Hugging Face makes known; TRUGBILD_PUBLIC=1 and =0 say otherwise. Two nets look:
the checker that comes with Stable Diffusion, where it lies in the model's folder, and a classifier of any picture. They
know nudity and sex. They do not know violence, hatred or whose face it is. Of a prompt only some words are known, and
whoever wants to finds others. A model that knows the words of a list only, as ours do, needs none of this. Importing
this needs no torch.
"""

import os
import re
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from . import hub, text_words
from .problems import Problem
from .registry import APACHE, Model

PUBLIC = "TRUGBILD_PUBLIC"
UNSAFE = "nsfw"  # the classifier's name for it, the other is "normal"
THRESHOLD = 0.5  # of its probability: more likely than not
CHECKER = Model(
    "nsfw-image-detection",
    "text_to_image",
    "checker",
    "Falconsai/nsfw_image_detection",
    *APACHE,
    2023,
    "96cb0d0342c7afb80cab76ecc58b265fa44da256",
    memory_mb=500,
    files={
        "config.json": None,
        "model.safetensors": "97b2ce64ec146884b37f98ee7944ca4891aa72f6827dc0cb10684a1cbecd5830",
    },
)

REFUSED = re.compile(  # whole words of a prompt
    r"nud(e|es|ity)|naked|topless|nsfw|porn\w*|hentai|sex|sexual|erotica?|genitals|penis|vagina|gor[ey]|lolita?|"
    r"behead(ed|ing)|decapitated|nackt(e[mnrs]?|heit|bild(er)?|fotos?)?|sexuell(e[mnrs]?)?|erotik|erotisch(e[mnrs]?)?|"
    r"genitalien|geköpft(e[mnrs]?)?|enthaupt(et(e[mnrs]?)?|ung)",
    re.IGNORECASE,
)

Look = Callable[[Image.Image], bool]  # whether a picture is unsafe
_lock = threading.Lock()
_nets: dict[Path, Look] = {}  # folder -> the classifier in it


def is_public() -> bool:
    value = os.environ.get(PUBLIC, "1" if "SPACE_ID" in os.environ else "0")
    return value.upper() in ("1", "ON", "YES", "TRUE")


def is_checked(model: Model) -> bool:
    """Whether somebody looks at what the model draws here."""
    return is_public() and text_words.words(model) is None


def refused(prompt: str) -> str:
    """The first refused word of a prompt, "" if there is none; invisible characters do not hide it."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", prompt) if unicodedata.category(c) != "Cf")
    return next((word for word in re.findall(r"[^\W\d_]+", seen) if REFUSED.fullmatch(word)), "")


class Guard:
    """Reads the prompts and looks at the pictures of one model."""

    def __init__(self, model: Model, pipe: object):
        """pipe: a pipeline of diffusers. Its own checker is taken off, which would paint pictures black."""
        self.model, self.own = model, None
        if getattr(pipe, "safety_checker", None) is not None:
            self.own = _concepts(pipe.safety_checker, pipe.feature_extractor)
            pipe.register_modules(safety_checker=None)
            pipe.register_to_config(requires_safety_checker=False)

    def looks(self, prompt: str = "") -> list[Look]:
        """What looks at a picture, [] if nothing has to; asked for before one is drawn.

        Raises Problem no_checker, unsafe_prompt.
        """
        if not is_checked(self.model):
            return []
        if word := refused(prompt):
            raise Problem("unsafe_prompt", word=word)
        try:
            return [*([self.own] if self.own else []), classifier()]
        except Problem as problem:
            if self.own:
                return [self.own]
            raise Problem("no_checker", model=self.model.id) from problem

    def check(self, image: Image.Image, looks: list[Look]) -> None:
        """Raises Problem unsafe_picture."""
        if any(is_unsafe(image) for is_unsafe in looks):
            raise Problem("unsafe_picture", model=self.model.id)


def classifier() -> Look:
    """The net, loaded once. Raises Problem: what hub.fetch raises, weights_mismatch, model_broken."""
    with _lock:
        folder = hub.fetch(CHECKER)
        if folder not in _nets:
            _nets[folder] = _classifier(folder)
        return _nets[folder]


def _classifier(folder: Path) -> Look:
    """A vision transformer (Dosovitskiy et al. 2021) with two answers; it sees squares in [-1, 1]."""
    import torch
    from safetensors import SafetensorError
    from transformers import ViTForImageClassification

    from . import runtime

    try:
        net, report = ViTForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        unsafe = net.config.label2id[UNSAFE]
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Problem("model_broken", model=CHECKER.id) from error
    for key in (*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]):
        raise Problem("weights_mismatch", file="model.safetensors", key=key)
    net, side = runtime.ready(net), net.config.image_size

    @torch.inference_mode()
    def is_unsafe(image: Image.Image) -> bool:
        x = runtime.to_tensor(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
        return bool(net(x.to(net.device)).logits.softmax(1)[0, unsafe] > THRESHOLD)

    return is_unsafe


def _concepts(checker, extractor) -> Look:
    """Stable Diffusion's own: how near CLIP's view of a picture is to 17 concepts (Rombach et al. 2022)."""
    import torch

    @torch.inference_mode()
    def is_unsafe(image: Image.Image) -> bool:
        x = extractor([image.convert("RGB")], return_tensors="pt").pixel_values.to(checker.device, checker.dtype)
        _, unsafe = checker.forward_onnx(x, images=torch.zeros(1, device=checker.device))  # whose black goes nowhere
        return bool(unsafe[0])

    return is_unsafe
