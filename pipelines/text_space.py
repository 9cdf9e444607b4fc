"""What a picture from words may be asked for: limits and names of text_to_image.py. Stdlib only."""

import re

from .problems import Problem

STEPS = (1, 100)
GUIDANCE = (0.0, 20.0)
LONGEST_PROMPT = 1000  # characters
LONGEST_SIDE = 4096  # px of a picture; most models end before
STRENGTH = (0.05, 1.0)  # of the noise on a picture that is begun with
GUIDE_STRENGTH = (0.0, 2.0)  # of a ControlNet
WHEN = (0.0, 1.0)  # share of the steps
LORA_WEIGHT = (-2.0, 2.0)
# What solves the differential equation, in the order of the picker, for nets that predict noise (or v) and for nets
# that predict the flow's direction; "" is the model's own.
SAMPLERS = {
    "diffusion": ("DDIM", "DDPM", "DPM++ 2M", "Euler", "Euler a", "UniPC"),
    "flow": ("Euler", "UniPC"),
    "consistency": ("LCM",),  # nets that were distilled to a few steps
}
EVERY_SAMPLER = tuple(dict.fromkeys(name for names in SAMPLERS.values() for name in names))


def prompt_text(name: str, text: object) -> str:
    """`text` if it is one that can be read and kept. Raises Problem: not_text, too_long, no_letters."""
    if not isinstance(text, str):
        raise Problem("not_text", name=name, value=text)
    if len(text) > LONGEST_PROMPT:
        raise Problem("too_long", name=name, length=len(text), most=LONGEST_PROMPT)
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text):
        raise Problem("no_letters", name=name)
    return text
