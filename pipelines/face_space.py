"""What can be asked of the faces and how people and codes are written down. Needs no torch.

A person is a seed (int) or a code in W+: float32 (layers, w_dim), for example of one's own face. As text a person is
the seed's digits or `w:` and the code; several are joined by commas.
"""

import base64
from collections.abc import Sequence

import numpy as np

from . import problems
from .problems import Problem
from .recipe import LIMIT_KB
from .recipe import first as first

Person = int | np.ndarray

PSI = (-1.0, 1.5)
AMOUNT = (-6.0, 6.0)  # times a direction of length 1; at psi 1 people are about 5 from the mean face
VERDICT_NOISE = (0.0, 1.0)  # standard deviation, pixels in [-1, 1]
MAX_COUNT, MAX_FRAMES, MAX_PEOPLE = 64, 60, 8
NOISE, SPACES, MODES = ("on", "off", "fixed"), ("w", "z"), ("slerp", "lerp")
LAYER_GROUPS = ("coarse", "middle", "fine")
DOMAINS = ("colour", "historic")  # of a net with two classes, in the order of its labels
CODES_KB = LIMIT_KB - 4  # of the people in one recipe


def layer_group(name: str, layers: int) -> range:
    """The rows of W+ that a name in LAYER_GROUPS stands for: up to 8 px, 16 and 32 px, above (Karras 2019, figure 3).

    Below 64 px that would leave groups empty: there coarse is 4 px and fine the last resolution.
    """
    problems.choice("layers", name, LAYER_GROUPS)
    first, second = (4, 8) if layers >= 10 else (2, layers - 2)
    return {"coarse": range(first), "middle": range(first, second), "fine": range(second, layers)}[name]


def _row(w_dim: int) -> np.dtype:
    return np.dtype([("scale", "<f4"), ("steps", "i1", w_dim)])


def pack(code: np.ndarray) -> str:
    """Code (layers, w_dim) -> text: a scale and w_dim steps of it for each row. `unpack` gives the code so rounded."""
    mantissa, exponent = np.frexp(np.abs(code).max(1) / 127)
    rows = np.zeros(len(code), _row(code.shape[1]))
    rows["scale"] = np.ldexp(np.round(mantissa * 2048), exponent - 11)  # 12 bits: 127 times it is exact, so that
    scale = np.where(rows["scale"] > 0, rows["scale"], 1)[:, None]  # a code that was rounded stays the same
    rows["steps"] = np.clip((code / scale).round(), -127, 127)
    return "w:" + base64.urlsafe_b64encode(rows.tobytes()).decode().rstrip("=")


def unpack(text: str, layers: int, w_dim: int) -> np.ndarray:
    """Text -> code (layers, w_dim), or Problem face_code: not such a text, or one of another net."""
    try:
        data = text.removeprefix("w:")
        data = base64.b64decode(data + "=" * (-len(data) % 4), altchars=b"-_", validate=True)
        rows = np.frombuffer(data, _row(w_dim))
    except ValueError:
        raise Problem("face_code") from None
    code = rows["scale"][:, None] * rows["steps"].astype(np.float32)
    if not text.startswith("w:") or len(rows) != layers or not np.isfinite(code).all():
        raise Problem("face_code")
    return code


def write_people(people: Sequence[Person], lists: int = 1) -> str:
    """People -> text, or Problem too_many_codes where as many lists of them would not fit into one recipe."""
    words = [pack(person) if isinstance(person, np.ndarray) else str(person) for person in people]
    room = CODES_KB * 1024 // lists
    if (length := sum(map(len, words))) > room:
        raise Problem("too_many_codes", most=room * len(words) // length)
    return ",".join(words)


def read_people(text: str, layers: int, w_dim: int) -> list[Person]:
    """Text -> people. Raises Problem for what is neither a seed nor a code of this net."""
    people = []
    for word in (word.strip() for word in text.split(",")):
        if word.startswith("w:"):
            people.append(unpack(word, layers, w_dim))
        elif word.isascii() and word.isdigit() and len(word) <= 20:
            people.append(problems.seed(int(word)))
        else:
            raise Problem("not_a_number", name="seed", value=word) if word else Problem("missing", name="people")
    return people


# How the picture on the first screen is made.
FIRST = {"psi": 0.7, "noise": "on", "domain": DOMAINS[0]}
