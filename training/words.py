"""What the small text-to-image models read: two tokenizers learnt from captions, and the list of words they know.

Whole words become one token each, whatever is left falls into pieces: a word that was never in a caption is read, but
means nothing. `known` goes into the model's folder (words.json), because the words belong to the model: the app
names those that this model lacks, and a model trained on another vocabulary brings its own.
"""

import json
import math
import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5TokenizerFast

from training import captions
from training.scenes import LANGUAGES, Scenes

SAMPLED = 30_000  # captions a language that the tokenizers and the list of words come from: every word is among them
WORD = re.compile(r"\w+(?:-\w+)*")


def sample(scenes: Scenes, language: str) -> list[str]:
    """Captions in a language, of the first SAMPLED scenes."""
    rng = np.random.default_rng([scenes.seed, LANGUAGES.index(language)])
    return [scenes.caption(replace(scenes.facts(i), language=language), rng) for i in range(SAMPLED)]


def known(scenes: Scenes, texts: dict[str, list[str]]) -> dict:
    """-> what the app lists: names of everything that can be drawn, and the lower-case words of all captions.

    texts: captions a language. -> {"objects": {id: {"en": "frog", "de": "Frosch"}}, "wearers": [ids of objects],
    "hats", "backgrounds", "styles": likewise, "words": {"en": ["a", "and", ...], "de": [...]}}
    """

    def nouns(entries: dict) -> dict:
        return {
            id: {"en": e["en"]["noun"], "de": captions.german(e["de"], "nominative", "")} for id, e in entries.items()
        }

    return {
        "objects": nouns(scenes.objects),
        "wearers": list(scenes.wearers),
        "hats": nouns(scenes.hats),
        "backgrounds": {id: {name: b[name] for name in LANGUAGES} for id, b in scenes.backgrounds.items()},
        "styles": {id: {name: captions.STYLES[id][name]["after"][0] for name in LANGUAGES} for id in scenes.styles},
        "words": {name: sorted({w.lower() for text in texts[name] for w in WORD.findall(text)}) for name in LANGUAGES},
    }


def clip_tokenizer(texts: Iterable[str], length: int, size: int = 2048) -> CLIPTokenizer:
    """CLIP's byte-level BPE (lower case) of at most `size` tokens, sentences of `length` tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(alphabet) - 2, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    # every byte also as the end of a word, as CLIP has it: what no caption held is then spelt, not unknown
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), *map("".join, merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def t5_tokenizer(texts: Iterable[str], length: int) -> T5TokenizerFast:
    """T5's Unigram model (Kudo 2018): a token's log-probability is that of the word in captions.

    Not by expectation maximisation: among so few words it prefers to cut the frequent ones up. The tokenizer tells
    capitals, and captions come in both; other letters spell what is unknown, less likely than the rarest word.
    """
    counts = Counter(piece for text in texts for piece in re.findall(rf"{WORD.pattern}|[^\w\s]", text))
    total, letters = counts.total(), sorted(set(string.printable.split()[0]) | set("".join(counts)) | {"▁"})
    words = [("▁" * piece[0].isalnum() + piece, math.log(n / total)) for piece, n in counts.items()]
    spelt = [(letter, math.log(1 / total) - 10) for letter in letters if letter not in counts or letter.isalnum()]
    special = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    return T5TokenizerFast(vocab=[*special, *sorted(words), *spelt], extra_ids=0, model_max_length=length)
