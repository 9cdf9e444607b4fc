"""What a text-to-image model reads of a prompt, and where the picture looks for each of its words.

Functions of a TextToImagePipeline `p`; they change nothing in it.
"""

import math
import re
import unicodedata
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from PIL import Image
from torch.nn import functional

from .text_inside import said, spread, told
from .text_to_image import Made, TextToImagePipeline

WATCHED = 5  # steps over which attention is averaged
WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]+")
COLOUR = (226, 34, 20)  # of heat maps

# ---- tokens


class Piece(NamedTuple):
    """A token of a prompt."""

    text: str
    id: int
    word: int  # which word of the prompt it belongs to; -1: none, as a comma
    kept: bool  # False: beyond what the text encoder reads


class Tokens(NamedTuple):
    """A prompt as a tokenizer cuts it up."""

    name: str
    words: list[str]
    pieces: list[Piece]
    before: list[tuple[str, int]]  # what it puts at the start, text and id
    after: list[tuple[str, int]]
    length: int  # of the sequence, what fills it up included

    @property
    def padding(self) -> int:
        return self.length - len(self.before) - len(self.after) - sum(piece.kept for piece in self.pieces)

    def places(self, word: int) -> list[int]:
        """Where in the sequence a word stands."""
        return [len(self.before) + i for i, piece in enumerate(self.pieces) if piece.word == word and piece.kept]


def tokens(p: TextToImagePipeline, prompt: str) -> list[Tokens]:
    """One for each tokenizer; what the net pays attention to comes from the last."""
    names = ("tokenizer", "tokenizer_2")
    return [_tokens(getattr(p.pipe, name), prompt) for name in names if getattr(p.pipe, name, None)]


def _tokens(tokenizer, prompt: str) -> Tokens:
    # Words and symbols; what consists of commas, blanks or letters that nobody sees is none.
    spans = [m.span() for m in WORD.finditer(prompt) if any(unicodedata.category(c)[0] in "LNS" for c in m[0])]
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [(tokenizer.convert_ids_to_tokens(id), id) for id in tokenizer("").input_ids]
    length = tokenizer.model_max_length
    pieces = []
    for i, (id, (start, stop)) in enumerate(zip(encoded.input_ids, encoded.offset_mapping, strict=True)):
        text = tokenizer.decode([id]).strip()
        if not text.isprintable() or "\ufffd" in text or not text:  # part of a letter, or one that nobody sees
            text = tokenizer.convert_ids_to_tokens(id)
        word = next((n for n, (first, last) in enumerate(spans) if start < last and stop > first), -1)
        pieces.append(Piece(text, id, word, i < length - len(ends)))
    # CLIP: start and end; T5: end.
    return Tokens(
        type(tokenizer).__name__.partition("Tokenizer")[0],
        [prompt[start:stop] for start, stop in spans],
        pieces,
        ends[:-1],
        ends[-1:],
        length,
    )


# ---- attention


class Sink:
    """Collects from attention layers how much of each place's attention goes to each of `n` tokens of the text."""

    def __init__(self, n: int):
        self.n, self.layers, self.sums = n, 0, {}

    def add(self, weights: torch.Tensor) -> None:
        """weights: (places, n), softmax over all that the layer attends to, averaged over its heads."""
        side = math.isqrt(len(weights))
        self.sums[side] = self.sums.get(side, 0) + weights.T.reshape(self.n, side, side).float().cpu()
        self.layers += 1

    def maps(self) -> np.ndarray:
        """-> (n, side, side), the mean over all layers, as fine as the finest"""
        size = (max(self.sums),) * 2
        fine = [functional.interpolate(s[None], size, mode="bicubic")[0] for s in self.sums.values()]
        return (sum(fine) / self.layers).clamp(min=0).numpy()

    def shares(self) -> np.ndarray:
        """-> (n,), the mean over all places, too"""
        return (sum(s.mean((1, 2)) for s in self.sums.values()) / self.layers).numpy()


class CrossAttention(AttnProcessor2_0):
    """Stable Diffusion's, which tells `sink` its weights."""

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, sink: Sink | None = None
    ):
        if encoder_hidden_states is not None and sink:  # else: attention of the picture to itself
            query, key = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)
            heads = attn.get_attention_scores(attn.head_to_batch_dim(query), attn.head_to_batch_dim(key))
            sink.add(heads.mean(0))
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class JointAttention(FluxAttnProcessor):
    """Flux's, where text and picture attend to both; tells `sink` the weights from the picture to the text."""

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None, sink=None
    ):
        if sink:
            query = attn.norm_q(attn.to_q(hidden_states).unflatten(-1, (-1, attn.head_dim)))
            key = attn.norm_k(attn.to_k(hidden_states).unflatten(-1, (-1, attn.head_dim)))
            if encoder_hidden_states is not None:  # text comes first; in single blocks it is joined already
                text_query = attn.add_q_proj(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim))
                text_key = attn.add_k_proj(encoder_hidden_states).unflatten(-1, (-1, attn.head_dim))
                query = torch.cat([attn.norm_added_q(text_query), query], 1)
                key = torch.cat([attn.norm_added_k(text_key), key], 1)
            query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1)[0].float() for x in (query, key))
            weights = 0
            for head in range(query.shape[1]):  # one by one: at 1024 px all of them together take gigabytes
                score = query[sink.n :, head] @ key[:, head].T / attn.head_dim**0.5
                weights = weights + score.softmax(-1)[:, : sink.n]
            sink.add(weights / query.shape[1])
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)


def twin(net: torch.nn.Module) -> torch.nn.Module:
    """A net with the same parameters, in the same memory, whose attention tells what it looks at when given a sink."""
    with torch.device("meta"):
        other = type(net).from_config(net.config)
    other.load_state_dict(net.state_dict(), assign=True)
    other.set_attn_processor(CrossAttention() if isinstance(net, UNet2DConditionModel) else JointAttention())
    return other.eval().requires_grad_(False)


class Word(NamedTuple):
    """A word of the prompt and where the picture attends to it."""

    text: str
    share: float  # of all attention
    peak: float  # how many times the mean the most attentive place has
    picture: Image.Image  # where, over the picture


class Attention(NamedTuple):
    """Where the net looks while it draws: Hertz et al. 2022; averaged as DAAM does it, Tang et al. 2022."""

    words: list[Word]
    shares: dict[str, float]  # of all attention: "words", "start", "end" (padding included), "other", "picture"


def attention(p: TextToImagePipeline, made: Made) -> Attention:
    """Over WATCHED steps, all layers and heads, told the prompt."""
    prompt = made.recipe.settings["prompt"]
    read, conditions, net = tokens(p, prompt)[-1], told(p, prompt), twin(p.family.net)
    sink = Sink(read.length)
    for i in spread(len(made.moments), WATCHED):
        said(p, made.moments[i].x, made.moments[i].t, conditions, net, sink=sink)
    maps, each, words = sink.maps(), sink.shares(), []
    for n, text in enumerate(read.words):
        if places := read.places(n):
            heat = maps[places].sum(0)
            peak = float(heat.max() / max(heat.mean(), 1e-12))
            words.append(Word(text, float(each[places].sum()), peak, overlay(made.image, heat)))
    start, end = len(read.before), read.length - read.padding - len(read.after)
    shares = {"words": sum(word.share for word in words), "start": each[:start].sum(), "end": each[end:].sum()}
    shares["other"] = each.sum() - sum(shares.values())
    shares["picture"] = 1 - each.sum()
    return Attention(words, {name: max(0.0, float(share)) for name, share in shares.items()})


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Coloured where a word gets more than its mean, fully at its maximum; at least at twice the mean, so that
    hardly any difference shows as hardly any colour."""
    mean = float(heat.mean())
    above = np.clip((heat - mean) / max(float(heat.max()) - mean, mean, 1e-12), 0, 1)
    mask = Image.fromarray(np.float32(above)).resize(image.size, Image.Resampling.BICUBIC)
    mask = Image.fromarray(np.uint8(np.clip(np.asarray(mask), 0, 1) * 215))
    grey = Image.blend(image, image.convert("L").convert("RGB"), 0.75)
    return Image.composite(Image.new("RGB", image.size, COLOUR), grey, mask)
