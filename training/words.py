"""What the small text-to-image models read: two tokenizers learnt from captions, and the list of words they know.

Whole words become one token each, whatever is left falls into pieces: a word that was never in a caption is read, but
means nothing. `known` goes into the model's folder (words.json), because the words belong to the model: the app
names those that this model lacks, and a model trained on another vocabulary brings its own.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from tokenizers import pre_tokenizers
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


def merges(counts: dict[str, int], most: int) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1): at most `most` pairs, in the order they are merged.

    counts: words, in the letters of the byte level. Of equally frequent pairs the last in the alphabet comes first;
    the trainer of `tokenizers` takes any, another one each time, and a run that resumes must number tokens as before.
    """
    spelt = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merged = []
    while len(merged) < most:
        pairs = Counter()
        for word, pieces in spelt.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        merged.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        (first, second), whole = merged[-1], "".join(merged[-1])
        for pieces in spelt.values():
            i = 0
            while i + 1 < len(pieces):
                if pieces[i] == first and pieces[i + 1] == second:
                    pieces[i : i + 2] = [whole]
                i += 1
    return merged


def clip_tokenizer(texts: Iterable[str], length: int, size: int = 2048) -> CLIPTokenizer:
    """CLIP's byte-level BPE (lower case) of at most `size` tokens, sentences of `length` tokens."""
    backend, counts = CLIPTokenizer().backend_tokenizer, Counter()
    for text in texts:
        counts.update(w for w, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)))
    # every byte also as the end of a word, as CLIP has it: what no caption held is then spelt, not unknown
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = merges(counts, size - 2 * len(alphabet) - 2)
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), *dict.fromkeys(map("".join, pairs))]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=length)


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
