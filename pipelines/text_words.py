"""What a small text-to-image model can read: words.json beside it, and how a prompt compares with that. Stdlib only."""

import difflib
import functools
import json
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from .problems import Problem
from .registry import Model

WORD = re.compile(r"\w+(?:-\w+)*")
ALIKE = 0.7  # of difflib's ratio: below it a word is no neighbour
# Letters that nobody sees: zero-width ones and those that turn the direction of writing.
UNSEEN = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]")


@dataclass(frozen=True)
class Words:
    """What a model was taught: id -> {"en": name, "de": name} a kind, and every word of its captions."""

    objects: dict
    hats: dict
    backgrounds: dict
    styles: dict
    words: frozenset  # lower case, of both languages


@dataclass(frozen=True)
class Reading:
    """A prompt as the model reads it."""

    unknown: tuple[tuple[str, str], ...]  # words that it was never taught, each with the most similar name or ""
    known: int  # how many it was taught
    unseen: int  # letters that nobody sees; the tokenizer reads them all the same


def words(model: Model, lora: Model | None = None) -> Words | None:
    """With those that a LoRA added; None: a model that was taught language, not a list."""
    file = model.path and model.path / "words.json"
    if not file or not file.is_file():
        return None
    known = _words(file, file.stat().st_mtime_ns)
    return replace(known, words=known.words | _added(lora)) if lora else known


def _added(lora: Model) -> frozenset[str]:
    """The words of the captions that a LoRA of training/lora.py learnt from; of another's nothing is known."""
    try:
        facts = json.loads((lora.path / "training.json").read_text("utf-8"))
        return frozenset(word for word in facts["words"] if isinstance(word, str))
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def learning(model: Model) -> tuple[int, int] | None:
    """Steps that a model of training/text_to_image.py has done, and those of its plan; None: finished, or another's."""
    try:
        facts = json.loads((model.path / "training.json").read_text("utf-8"))
        done = facts["figures"]["scenes seen"] // facts["config"]["batch_size"]
        return (done, facts["config"]["steps"]) if done < facts["config"]["steps"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@functools.lru_cache(maxsize=16)
def _words(file: Path, _stamp: int) -> Words:
    try:
        facts = json.loads(file.read_text("utf-8"))
        every = frozenset(word for words in facts["words"].values() for word in words)
        return Words(**{kind: facts[kind] for kind in ("objects", "hats", "backgrounds", "styles")}, words=every)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Problem("folder_broken", folder=file.parent.name, field=file.name) from None


def read(prompt: str, known: Words, lang: str) -> Reading:
    """Which words of a prompt a model knows; names of neighbours in that language."""
    plain = UNSEEN.sub("", prompt)
    things = [entry for kind in (known.objects, known.hats, known.backgrounds) for entry in kind.values()]
    names = {name.lower(): entry[lang] for entry in things for name in entry.values()}  # in whatever language
    unknown, taught = {}, 0
    for word in WORD.findall(plain):
        if word.lower() in known.words:
            taught += 1
        else:
            unknown.setdefault(word, _nearest(word.lower(), names))
    for letter in plain:
        if unicodedata.category(letter) == "So":  # an emoji: "FROG FACE" is a frog
            called = unicodedata.name(letter, "").lower().split()
            english = {name["en"].lower(): name[lang] for name in known.objects.values()}
            unknown.setdefault(letter, next((english[word] for word in called if word in english), ""))
    return Reading(tuple(unknown.items()), taught, len(prompt) - len(plain))


def _nearest(word: str, names: dict[str, str]) -> str:
    found = difflib.get_close_matches(word, names, n=1, cutoff=ALIKE)
    return names[found[0]] if found else ""
