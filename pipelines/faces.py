"""Faces of people who do not exist, and what the space they come from can do: walk, mix, add up, edit, judge.

A StyleGAN2 (see models/stylegan2.py). A person is a seed or a code in W+, see face_space.py; w is (w_dim,), ws holds
one row a layer: (layers, w_dim). z of seed s is the first draw of its generator, its maps of noise are the next ones,
from 4 px up, so that a smaller net sees the same. Pictures are PIL RGB and are drawn one by one: picture n is the same
whatever else is drawn. `on_step(i, n, picture)` gets the newest one and may raise to stop.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from . import face_space, runtime
from .face_directions import factorise
from .face_space import MODES, NOISE, PSI, SPACES, Person, layer_group, write_people
from .face_stages import Stage, read_stages
from .models.stylegan2 import Discriminator, Generator
from .problems import Problem, choice, number, whole
from .problems import seed as checked_seed
from .recipe import Recipe
from .registry import Model, revision
from .weights import from_folder

Step = Callable[[int, int, Image.Image], None]


def from_model(model: Model, folder: Path) -> "FacesPipeline":
    """What `pipelines.load` calls. Raises Problem."""
    judge = folder / "discriminator"
    return FacesPipeline(
        from_folder(Generator, folder), from_folder(Discriminator, judge) if judge.is_dir() else None, model, folder
    )


class FacesPipeline(DiffusionPipeline):
    """psi pulls the layers below `cutoff` (None: all) to the mean face; codes stay as they are.

    domain "" is the first of `domains`; nets without classes have none.
    """

    def __init__(self, generator: Generator, discriminator: Discriminator | None, model: Model, folder: Path):
        super().__init__()
        nets = {"generator": generator, "discriminator": discriminator}
        self.register_modules(**{name: net and _ready(net) for name, net in nets.items()})
        self.model, self.folder = model, folder
        self.image_size, self.layers, self.w_dim = generator.image_size, generator.layers, generator.config.w_dim
        self.has_discriminator = discriminator is not None
        names = face_space.DOMAINS, tuple(str(i + 1) for i in range(generator.config.classes))
        self.domains = names[0] if len(names[0]) == len(names[1]) else names[1]
        self._directions = {}  # layers -> what factorising them gave
        self._stages = {}  # index -> generator

    # ------------------------------------------------------------------------------------------------- the latent space

    @torch.inference_mode()
    def ws(self, people: Sequence[Person], domain: str = "", psi: float = 0.7, cutoff: int | None = None) -> np.ndarray:
        """People -> (N, layers, w_dim) float32. A code is rounded to what its text holds (face_space.pack)."""
        psi, cutoff = self._truncation(psi, cutoff)
        return np.stack([self._styles(self.generator, person, domain, psi, cutoff) for person in self.people(people)])

    def people(self, people: Sequence[Person]) -> list[Person]:
        """The same people, checked: seeds are whole, codes have the net's shape and are rounded. Raises Problem."""
        checked = []
        for person in people:
            if isinstance(person, np.ndarray):
                if person.shape != (self.layers, self.w_dim) or not np.isfinite(person).all():
                    shape = f"{self.layers} x {self.w_dim}"
                    raise Problem("code_size", expected=shape, value=" x ".join(map(str, person.shape)))
                checked.append(face_space.unpack(face_space.pack(person), self.layers, self.w_dim))
            else:
                checked.append(checked_seed(person))
        return checked

    def _styles(self, net: Generator, person: Person | torch.Tensor, domain: str, psi: float, cutoff) -> np.ndarray:
        """A checked person, or z (1, z_dim), -> (layers, w_dim)."""
        if isinstance(person, np.ndarray):
            return person
        z = _z(net, person) if isinstance(person, int) else person
        label = self._label(domain)
        return net.styles(net.mapping(z.to(net.device), label), label, psi, cutoff)[0].cpu().numpy()

    def _truncation(self, psi: float, cutoff: int | None) -> tuple[float, int | None]:
        return number("psi", psi, *PSI), None if cutoff is None else whole("cutoff", cutoff, 0, self.layers)

    def _domain(self, domain: str) -> str:
        return (
            choice("domain", domain or self.domains[0], self.domains)
            if self.domains
            else choice("domain", domain, [""])
        )

    def _label(self, domain: str) -> torch.Tensor | None:
        domain = self._domain(domain)
        return torch.tensor([self.domains.index(domain)], device=self.device) if self.domains else None

    def recipe(self, task: str, seed: int | None = None, **settings) -> Recipe:
        return Recipe.make(self.model.tab, self.model.id, revision(self.model), task, settings, seed)

    # ---------------------------------------------------------------------------------------------------------- drawing

    def draw(self, ws: np.ndarray, noise: str = "fixed", seeds: Sequence[int] | None = None) -> list[Image.Image]:
        """(N, layers, w_dim) -> N pictures. Noise: "on" is that of each seed, "fixed" that of seed 0, "off" none."""
        ws = np.asarray(ws, np.float32)
        if ws.ndim != 3 or ws.shape[1:] != (self.layers, self.w_dim):
            shape = f"{self.layers} x {self.w_dim}"
            raise Problem("code_size", expected=shape, value=" x ".join(map(str, ws.shape[1:])))
        choice("noise", noise, NOISE)
        if noise == "on" and (seeds is None or len(seeds) != len(ws)):
            raise Problem("missing", name="seed")
        return [self._draw(self.generator, row, noise, seeds[i] if noise == "on" else 0) for i, row in enumerate(ws)]

    @torch.inference_mode()
    def _draw(self, net: Generator, row: np.ndarray, noise: str = "fixed", seed: int = 0) -> Image.Image:
        """(layers, w_dim) -> picture"""
        maps = None if noise == "off" else [m.to(net.device) for m in _maps(net, seed if noise == "on" else 0)]
        with runtime.autocast():
            return runtime.to_images(net.synthesis(torch.from_numpy(row)[None].to(net.device), maps))[0]

    def generate(
        self,
        seed: int = 0,
        count: int = 1,
        psi: float = 0.7,
        cutoff: int | None = None,
        noise: str = "on",
        domain: str = "",
        on_step: Step | None = None,
    ) -> tuple[list[Image.Image], Recipe]:
        """`count` pictures; picture i is that of seed + i (after 2**32 - 1 comes 0)."""
        seed, count = checked_seed(seed), whole("count", count, 1, face_space.MAX_COUNT)
        (psi, cutoff), noise, domain = (
            self._truncation(psi, cutoff),
            choice("noise", noise, NOISE),
            self._domain(domain),
        )
        pictures = []
        for i in range(count):
            person = (seed + i) % 2**32
            pictures += self.draw(self.ws([person], domain, psi, cutoff), noise, [person])
            _report(on_step, i + 1, count, pictures[-1])
        settings = {"count": count, "psi": psi, "cutoff": cutoff, "noise": noise, "domain": domain}
        return pictures, self.recipe("generate", seed, **settings)

    def walk(
        self,
        people: Sequence[Person],
        frames: int = 24,
        space: str = "w",
        mode: str = "slerp",
        loop: bool = True,
        psi: float = 0.7,
        cutoff: int | None = None,
        domain: str = "",
        on_step: Step | None = None,
    ) -> tuple[list[Image.Image], Recipe]:
        """From person to person, `frames` pictures a leg; a loop goes back to the first, else the last one ends it.

        slerp is the great circle (Shoemake 1985): in z about the origin, in w, row by row, about the mean face, so
        that people halfway are as far from it as those at the ends. Noise is fixed. Codes have no z.
        """
        frames = whole("frames", frames, 1, face_space.MAX_FRAMES)
        space, mode = choice("space", space, SPACES), choice("mode", mode, MODES)
        (psi, cutoff), domain, people = self._truncation(psi, cutoff), self._domain(domain), self._crowd(people, 2)
        if space == "z" and any(isinstance(person, np.ndarray) for person in people):
            raise Problem("codes_walk_in_w")
        if space == "z":
            stops = [_z(self.generator, person).numpy() for person in people]
            middle = np.zeros_like(stops[0])
        else:
            stops = list(self.ws(people, domain, psi, cutoff))
            middle = self._mean(domain)
        legs = list(zip(stops, [*stops[1:], stops[0]], strict=True))[: None if loop else -1]
        path = [(a, b, i / frames) for a, b in legs for i in range(frames)] + ([] if loop else [(*legs[-1], 1.0)])
        pictures = []
        for i, (a, b, t) in enumerate(path):
            row = middle + between(a - middle, b - middle, t, mode)
            if space == "z":
                with torch.inference_mode():
                    row = self._styles(self.generator, torch.from_numpy(row), domain, psi, cutoff)
            pictures += self.draw(row[None])
            _report(on_step, i + 1, len(path), pictures[-1])
        settings = {"frames": frames, "space": space, "mode": mode, "loop": bool(loop), "psi": psi, "cutoff": cutoff}
        return pictures, self.recipe("walk", people=write_people(people), domain=domain, **settings)

    def mix(
        self,
        rows: Sequence[Person],
        columns: Sequence[Person],
        layers: str = "coarse",
        psi: float = 0.7,
        cutoff: int | None = None,
        domain: str = "",
        on_step: Step | None = None,
    ) -> tuple[list[list[Image.Image]], Recipe]:
        """Cell (r, c) is person r with the styles of person c in a group of layers (Karras 2019, section 3.1)."""
        group = layer_group(layers, self.layers)
        (psi, cutoff), domain, rows, columns = (
            self._truncation(psi, cutoff),
            self._domain(domain),
            *map(self._crowd, (rows, columns)),
        )
        hosts, guests, grid = self.ws(rows, domain, psi, cutoff), self.ws(columns, domain, psi, cutoff), []
        for host in hosts:
            grid.append([])
            for guest in guests:
                mixed = host.copy()
                mixed[group.start : group.stop] = guest[group.start : group.stop]
                grid[-1] += self.draw(mixed[None])
                done = (len(grid) - 1) * len(guests) + len(grid[-1])
                _report(on_step, done, len(hosts) * len(guests), grid[-1][-1])
        people = {"rows": write_people(rows), "columns": write_people(columns)}
        return grid, self.recipe("mix", layers=layers, psi=psi, cutoff=cutoff, domain=domain, **people)

    def arithmetic(
        self,
        a: Sequence[Person],
        b: Sequence[Person],
        c: Sequence[Person],
        psi: float = 0.7,
        cutoff: int | None = None,
        domain: str = "",
    ) -> tuple[list[Image.Image], Image.Image, Image.Image, Recipe]:
        """A - B + C, each the mean of its people in W+ (Radford 2016, section 6.3.2).

        -> pictures of the three means, of the result, and the same sum of the pixels of the people's mean pictures.
        """
        (psi, cutoff), domain, groups = (
            self._truncation(psi, cutoff),
            self._domain(domain),
            [self._crowd(g) for g in (a, b, c)],
        )
        means, pixels = [], []
        for group in groups:
            ws = self.ws(group, domain, psi, cutoff)
            means.append(ws.mean(0))
            pixels.append(np.mean([np.asarray(picture, np.float32) for picture in self.draw(ws)], 0))
        *pictures, total = self.draw(np.stack([*means, means[0] - means[1] + means[2]]))
        plain = Image.fromarray((pixels[0] - pixels[1] + pixels[2]).round().clip(0, 255).astype(np.uint8))
        people = {name: write_people(group) for name, group in zip("abc", groups, strict=True)}
        return pictures, total, plain, self.recipe("arithmetic", psi=psi, cutoff=cutoff, domain=domain, **people)

    # ------------------------------------------------------------------------------------------------------- directions

    def directions(self, first: int = 0, last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Layers first..last -> unit vectors of w (K, w_dim) that change them most, and eigenvalues (K,), falling."""
        first, last = self._layers(first, last)
        if (first, last) not in self._directions:
            self._directions[first, last] = factorise(self.generator, first, last)
        return self._directions[first, last]

    def _layers(self, first: int, last: int | None) -> tuple[int, int]:
        first = whole("first", first, 0, self.layers - 1)
        return first, self.layers - 1 if last is None else whole("last", last, first, self.layers - 1)

    def edit(
        self,
        person: Person,
        amounts: dict[int, float],
        first: int = 0,
        last: int | None = None,
        psi: float = 0.7,
        cutoff: int | None = None,
        domain: str = "",
        noise: str = "on",
    ) -> tuple[Image.Image, np.ndarray, Recipe]:
        """The person with amounts[k] times direction k added to layers first..last -> picture, ws (layers, w_dim).

        A code brings no noise of its own: "on" is "fixed" for it.
        """
        (psi, cutoff), domain, (person,) = self._truncation(psi, cutoff), self._domain(domain), self.people([person])
        first, last = self._layers(first, last)
        directions, _ = self.directions(first, last)
        ws = self.ws([person], domain, psi, cutoff)
        for k, amount in amounts.items():
            k = whole("direction", k, 0, len(directions) - 1)
            ws[0, first : last + 1] += number("amount", amount, *face_space.AMOUNT) * directions[k]
        (picture,) = self.draw(ws, noise, [0 if isinstance(person, np.ndarray) else person])
        words = ",".join(f"{k}:{amount:g}" for k, amount in sorted(amounts.items()) if amount)
        settings = {
            "amounts": words,
            "first": first,
            "last": last,
            "psi": psi,
            "cutoff": cutoff,
            "domain": domain,
            "noise": noise,
        }
        return picture, ws[0], self.recipe("edit", people=write_people([person]), **settings)

    # ---------------------------------------------------------------------------------------- verdict and how it learnt

    @torch.inference_mode()
    def verdict(
        self, pictures: Sequence[Image.Image], noise: float = 0.0, seed: int = 0, domain: str = ""
    ) -> tuple[list[float], list[Image.Image]]:
        """Logits of the discriminator, above 0: looks real; and the pictures as it saw them, at the net's size.

        noise: standard deviation in [0, 1] added to pixels in [-1, 1]; picture i takes that of seed + i.
        """
        if self.discriminator is None:
            raise Problem("no_discriminator", model=self.model.id)
        noise, label = number("noise", noise, *face_space.VERDICT_NOISE), self._label(domain)
        logits, seen = [], []
        for picture, generator in zip(pictures, runtime.generators(seed, len(pictures)), strict=True):
            size = (self.image_size, self.image_size)
            x = runtime.to_tensor(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
            seen += runtime.to_images(x + noise * torch.randn(x.shape, generator=generator))
            logits.append(self.discriminator(runtime.to_tensor(seen[-1]).to(self.device), label).item())
        return logits, seen

    def stages(self) -> list[Stage]:
        """What was kept on the way, oldest first, the finished model last; empty where nothing was."""
        return read_stages(self.model, self.folder)

    def learnt(
        self, people: Sequence[int], stage: int, psi: float = 0.7, cutoff: int | None = None, domain: str = ""
    ) -> tuple[list[Image.Image], Recipe]:
        """The pictures that stage number `stage` drew of these seeds, at its size. Codes belong to the finished net."""
        stages = self.stages()
        if not stages:
            raise Problem("no_stages", model=self.model.id)
        stage = whole("stage", stage, 0, len(stages) - 1)
        (psi, cutoff), domain = self._truncation(psi, cutoff), self._domain(domain)
        people = self._crowd([checked_seed(person) for person in people], most=face_space.MAX_COUNT)
        if stages[stage].folder == self.folder:
            net = self.generator
        else:
            if stage not in self._stages:
                self._stages[stage] = _ready(from_folder(Generator, stages[stage].folder)).to(self.device)
            net = self._stages[stage]
        with torch.inference_mode():
            rows = [self._styles(net, person, domain, psi, cutoff) for person in people]
        pictures = [self._draw(net, row) for row in rows]
        return pictures, self.recipe(
            "learnt", people=write_people(people), stage=stage, psi=psi, cutoff=cutoff, domain=domain
        )

    def _crowd(self, people: Sequence[Person], least: int = 1, most: int = face_space.MAX_PEOPLE) -> list[Person]:
        whole("people", len(people), least, most)
        return self.people(people)

    def _mean(self, domain: str) -> np.ndarray:
        """(w_dim,), where psi pulls to"""
        label = self._label(domain)
        return self.generator.w_mean[0 if label is None else label.item()].cpu().numpy()


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


def _ready(net: torch.nn.Module) -> torch.nn.Module:
    return net.eval().float().requires_grad_(False).to(runtime.device())


def _z(net: Generator, seed: int) -> torch.Tensor:
    """(1, z_dim)"""
    return torch.randn(1, net.config.z_dim, generator=runtime.generators(seed)[0])


def _maps(net: Generator, seed: int) -> list[torch.Tensor]:
    """A seed's maps of noise: (1, 1, r, r) for r in net.noise_sizes."""
    generator = runtime.generators(seed)[0]
    torch.randn(1, net.config.z_dim, generator=generator)  # its z
    return [torch.randn(1, 1, r, r, generator=generator) for r in net.noise_sizes]


def _report(on_step: Step | None, i: int, n: int, picture: Image.Image) -> None:
    if on_step:
        on_step(i, n, picture)
