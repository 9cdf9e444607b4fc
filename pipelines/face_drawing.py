"""From people to pictures: what every task of the faces needs of a StyleGAN2.

w is (w_dim,), ws holds one row a layer: (layers, w_dim). z of seed s is the first draw of its generator, its maps of
noise are the next ones, from 4 px up, so that a smaller net sees the same. A product of another size rounds
differently, so groups are always full: then picture n is the same whatever else is drawn.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from . import runtime
from .face_space import DOMAINS, NOISE, PSI, Person, pack, unpack
from .models.stylegan2 import Discriminator, Generator
from .problems import Problem, choice, number, whole
from .problems import seed as checked_seed
from .recipe import Recipe
from .registry import Model, revision

GROUP = 4  # pictures drawn at once by a small net, or compiled: three times as fast as one by one
SMALL = 128  # px


class Drawer(DiffusionPipeline):
    """psi pulls the layers below `cutoff` (None: all) to the mean face of the domain; codes stay as they are.

    domain "" is the first of `domains`; a net without classes has none.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator | None, model: Model, folder: Path):
        super().__init__()
        nets = {"generator": generator, "discriminator": discriminator}
        self.register_modules(**{name: net and runtime.ready(net) for name, net in nets.items()})
        self.model, self.folder, self.has_discriminator = model, folder, discriminator is not None
        self.image_size, self.layers, self.w_dim = generator.image_size, generator.layers, generator.config.w_dim
        names = tuple(str(i + 1) for i in range(generator.config.classes))
        self.domains = DOMAINS if len(names) == len(DOMAINS) else names
        self.group = GROUP if self.image_size <= SMALL else 1
        self._compiled = None

    @torch.inference_mode()
    def ws(self, people: Sequence[Person], domain: str = "", psi: float = 0.7, cutoff: int | None = None) -> np.ndarray:
        """People -> (N, layers, w_dim) float32. A code is rounded to what its text holds (face_space.pack)."""
        psi, cutoff = self.truncation(psi, cutoff)
        if not len(people):
            raise Problem("missing", name="people")
        return np.stack([self.styles(self.generator, person, domain, psi, cutoff) for person in self.people(people)])

    def draw(
        self, ws: np.ndarray, noise: str = "fixed", seeds: Sequence[int] | None = None, fast: bool = False
    ) -> list[Image.Image]:
        """(N, layers, w_dim) -> N pictures. Noise: "on" is that of each seed, "fixed" that of seed 0, "off" none.

        fast: compiled, which takes up to minutes the first time, and rounds differently. Raises Problem no_compiler.
        """
        ws, noise = np.asarray(ws, np.float32), choice("noise", noise, NOISE)
        for row in ws:
            self._check(row)
        if noise == "on" and (seeds is None or len(seeds) != len(ws)):
            raise Problem("missing", name="seed")
        seeds = [checked_seed(seed) for seed in seeds] if noise == "on" else [0] * len(ws)
        size, synthesis = (GROUP, self._fast()) if fast else (self.group, self.generator.synthesis)
        pictures = []
        for i in range(0, len(ws), size):
            chosen = [min(i + k, len(ws) - 1) for k in range(size)]  # a group is always full
            drawn = self.pictures(self.generator, ws[chosen], noise, [seeds[k] for k in chosen], synthesis)
            pictures += drawn[: len(ws) - i]
        return pictures

    @torch.inference_mode()
    def pictures(
        self,
        net: Generator,
        ws: np.ndarray,
        noise: str = "fixed",
        seeds: Sequence[int] = (0,),
        synthesis: Callable | None = None,
    ) -> list[Image.Image]:
        """(N, layers, w_dim), N seeds -> what a net, this one's or an earlier stage's, draws of them in one batch."""
        maps = (
            None
            if noise == "off"
            else [torch.cat(m).to(net.device) for m in zip(*(maps_of(net, s) for s in seeds), strict=True)]
        )
        with runtime.autocast():
            return runtime.to_images((synthesis or net.synthesis)(torch.from_numpy(ws).to(net.device), maps))

    def _fast(self) -> Callable:
        """The synthesis, compiled with its weights as constants."""
        if self._compiled is None:
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch._inductor.exc import InvalidCxxCompiler

            try:
                get_cpp_compiler()
            except InvalidCxxCompiler:
                raise Problem("no_compiler") from None
            self._compiled = torch.compile(
                self.generator.synthesis, fullgraph=True, dynamic=False, options={"freezing": True}
            )
        return self._compiled

    def styles(self, net: Generator, person: Person | torch.Tensor, domain: str, psi: float, cutoff) -> np.ndarray:
        """A checked person, or z (1, z_dim), -> (layers, w_dim) of a net."""
        if isinstance(person, np.ndarray):
            return person
        z = z_of(net, person) if isinstance(person, int) else person
        label = self.label(domain)
        return net.styles(net.mapping(z.to(net.device), label), label, psi, cutoff)[0].cpu().numpy()

    def people(self, people: Sequence[Person]) -> list[Person]:
        """The same people, checked: seeds are whole, codes have the net's shape and are rounded. Raises Problem."""
        return [self._rounded(p) if isinstance(p, np.ndarray) else checked_seed(p) for p in people]

    def _rounded(self, code: np.ndarray) -> np.ndarray:
        return unpack(pack(self._check(code)), self.layers, self.w_dim)

    def _check(self, code: np.ndarray) -> np.ndarray:
        if code.shape != (self.layers, self.w_dim) or not np.isfinite(code).all():
            expected, value = f"{self.layers} x {self.w_dim}", " x ".join(map(str, code.shape))
            raise Problem("code_size", expected=expected, value=value)
        return code

    def truncation(self, psi: float, cutoff: int | None) -> tuple[float, int | None]:
        return number("psi", psi, *PSI), None if cutoff is None else whole("cutoff", cutoff, 0, self.layers)

    def domain(self, domain: str) -> str:
        names = self.domains or ("",)
        return choice("domain", domain or names[0], names)

    def label(self, domain: str) -> torch.Tensor | None:
        """(1,), or None where there are no classes"""
        domain = self.domain(domain)
        return torch.tensor([self.domains.index(domain)], device=self.device) if self.domains else None

    def mean(self, domain: str) -> np.ndarray:
        """(w_dim,), where psi pulls to"""
        label = self.label(domain)
        return self.generator.w_mean[0 if label is None else label.item()].cpu().numpy()

    def recipe(self, task: str, seed: int | None = None, **settings) -> Recipe:
        return Recipe.make(self.model.tab, self.model.id, revision(self.model), task, settings, seed)


def z_of(net: Generator, seed: int) -> torch.Tensor:
    """(1, z_dim)"""
    return torch.randn(1, net.config.z_dim, generator=runtime.generators(seed)[0])


def maps_of(net: Generator, seed: int) -> list[torch.Tensor]:
    """A seed's maps of noise: (1, 1, r, r) for r in net.noise_sizes."""
    generator = runtime.generators(seed)[0]
    torch.randn(1, net.config.z_dim, generator=generator)  # its z
    return [torch.randn(1, 1, r, r, generator=generator) for r in net.noise_sizes]


def between(a: np.ndarray, b: np.ndarray, t: float, mode: str) -> np.ndarray:
    """Rows (N, D), (N, D) -> the rows at t of the line or of the great circle, on which lengths change evenly, too."""
    line = (1 - t) * a + t * b
    if mode == "lerp":
        return line
    lengths = np.linalg.norm(a, axis=1, keepdims=True), np.linalg.norm(b, axis=1, keepdims=True)
    u, v = (x / np.maximum(length, 1e-12) for x, length in zip((a, b), lengths, strict=True))
    angle = np.arccos(np.clip((u * v).sum(1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    way = (np.sin((1 - t) * angle) * u + np.sin(t * angle) * v) / np.maximum(sine, 1e-12)
    straight = (sine < 1e-4) | (np.minimum(*lengths) < 1e-6)  # no circle through rows that point the same way
    return np.where(straight, line, ((1 - t) * lengths[0] + t * lengths[1]) * way).astype(a.dtype)
