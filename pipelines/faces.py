"""Faces of people who do not exist, and what the space they come from can do: walk, mix, add up, edit, judge.

A person is a seed or a code in W+, see face_space.py; how people become pictures: face_drawing.py.
Pictures are PIL RGB. `on_step(i, n, picture)` gets the newest one and may raise to stop.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import face_space, runtime
from .face_directions import factorise
from .face_drawing import GROUP, Drawer, between, z_of
from .face_space import MAX_PEOPLE, MODES, NOISE, SPACES, Person, layer_group, write_people
from .face_stages import Stage, read_stages
from .face_weights import from_hub
from .models.stylegan2 import Discriminator, Generator
from .problems import Problem, choice, number, whole
from .problems import seed as checked_seed
from .recipe import Recipe
from .registry import Model
from .weights import from_folder

COMPANIONS = 3  # beside a picture that is judged: a group of minibatch_std
Step = Callable[[int, int, Image.Image], None]


def from_model(model: Model, folder: Path) -> "FacesPipeline":
    """What `pipelines.load` calls. Raises Problem."""
    if not model.path:
        return FacesPipeline(from_hub(model, folder), None, model, folder)
    judge = folder / "discriminator"
    discriminator = from_folder(Discriminator, judge) if judge.is_dir() else None
    return FacesPipeline(from_folder(Generator, folder), discriminator, model, folder)


class FacesPipeline(Drawer):
    """See `Drawer` for what psi, cutoff and domain mean."""

    def __init__(self, generator: Generator, discriminator: Discriminator | None, model: Model, folder: Path):
        super().__init__(generator, discriminator, model, folder)
        self._directions = {}  # layers -> what factorising them gave
        self._stages = {}  # index -> generator

    def crowd(self, people: Sequence[Person], least: int = 1) -> list[Person]:
        """People, checked, as many as a task takes."""
        whole("people", len(people), least, MAX_PEOPLE)
        return self.people(people)

    def generate(
        self,
        seed: int = 0,
        count: int = 1,
        psi: float = 0.7,
        cutoff: int | None = None,
        noise: str = "on",
        domain: str = "",
        fast: bool = False,
        on_step: Step | None = None,
    ) -> tuple[list[Image.Image], Recipe]:
        """`count` pictures; picture i is that of seed + i (after 2**32 - 1 comes 0)."""
        seed, count = checked_seed(seed), whole("count", count, 1, face_space.MAX_COUNT)
        (psi, cutoff), domain = self.truncation(psi, cutoff), self.domain(domain)
        noise, step = choice("noise", noise, NOISE), GROUP if fast else self.group
        pictures = []
        for i in range(0, count, step):
            people = [(seed + k) % 2**32 for k in range(i, min(i + step, count))]
            for picture in self.draw(self.ws(people, domain, psi, cutoff), noise, people, fast):
                pictures.append(picture)
                _report(on_step, len(pictures), count, picture)
        settings = {"count": count, "psi": psi, "cutoff": cutoff, "noise": noise, "domain": domain}
        settings |= {"fast": True} if fast else {}
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
        (psi, cutoff), domain = self.truncation(psi, cutoff), self.domain(domain)
        people = self.crowd(people, 2)
        words = write_people(people)
        if space == "z" and any(isinstance(person, np.ndarray) for person in people):
            raise Problem("codes_walk_in_w")
        if space == "z":
            stops = [z_of(self.generator, person).numpy() for person in people]
            middle = np.zeros_like(stops[0])
        else:
            stops = list(self.ws(people, domain, psi, cutoff))
            middle = self.mean(domain)
        legs = list(zip(stops, [*stops[1:], stops[0]], strict=True))[: None if loop else -1]
        path = [(a, b, i / frames) for a, b in legs for i in range(frames)] + ([] if loop else [(*legs[-1], 1.0)])
        rows = [middle + between(a - middle, b - middle, t, mode) for a, b, t in path]
        if space == "z":
            with torch.inference_mode():
                rows = [self.styles(self.generator, torch.from_numpy(row), domain, psi, cutoff) for row in rows]
        pictures = []
        for i in range(0, len(rows), self.group):
            pictures += self.draw(np.stack(rows[i : i + self.group]))
            _report(on_step, len(pictures), len(rows), pictures[-1])
        settings = {"frames": frames, "space": space, "mode": mode, "loop": bool(loop), "psi": psi, "cutoff": cutoff}
        return pictures, self.recipe("walk", people=words, domain=domain, **settings)

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
        (psi, cutoff), domain = self.truncation(psi, cutoff), self.domain(domain)
        rows, columns = self.crowd(rows), self.crowd(columns)
        words = {"rows": write_people(rows, 2), "columns": write_people(columns, 2)}
        hosts, guests, grid = self.ws(rows, domain, psi, cutoff), self.ws(columns, domain, psi, cutoff), []
        for host in hosts:
            mixed = np.repeat(host[None], len(guests), 0)
            mixed[:, group.start : group.stop] = guests[:, group.start : group.stop]
            grid.append(self.draw(mixed))
            _report(on_step, len(grid), len(hosts), grid[-1][-1])
        return grid, self.recipe("mix", layers=layers, psi=psi, cutoff=cutoff, domain=domain, **words)

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
        (psi, cutoff), domain = self.truncation(psi, cutoff), self.domain(domain)
        groups = {name: self.crowd(people) for name, people in (("a", a), ("b", b), ("c", c))}
        words = {name: write_people(people, 3) for name, people in groups.items()}
        means, pixels = [], []
        for group in groups.values():
            ws = self.ws(group, domain, psi, cutoff)
            means.append(ws.mean(0))
            pixels.append(np.mean([np.asarray(picture, np.float32) for picture in self.draw(ws)], 0))
        *pictures, total = self.draw(np.stack([*means, means[0] - means[1] + means[2]]))
        plain = Image.fromarray((pixels[0] - pixels[1] + pixels[2]).round().clip(0, 255).astype(np.uint8))
        return pictures, total, plain, self.recipe("arithmetic", psi=psi, cutoff=cutoff, domain=domain, **words)

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
        (psi, cutoff), domain, (person,) = self.truncation(psi, cutoff), self.domain(domain), self.people([person])
        first, last = self._layers(first, last)
        directions, _ = self.directions(first, last)
        ws = self.ws([person], domain, psi, cutoff)
        for k, amount in amounts.items():
            k = whole("direction", k, 0, len(directions) - 1)
            ws[0, first : last + 1] += number("amount", amount, *face_space.AMOUNT) * directions[k]
        (picture,) = self.draw(ws, noise, [0 if isinstance(person, np.ndarray) else person])
        words = ",".join(f"{k}:{amount!r}" for k, amount in sorted(amounts.items()) if amount)
        settings = {"amounts": words, "first": first, "last": last, "noise": noise, "psi": psi, "cutoff": cutoff}
        return picture, ws[0], self.recipe("edit", people=write_people([person]), domain=domain, **settings)

    # --------------------------------------------------------------------------------------------------- one's own face

    def align(self, image: Image.Image, size: int = 256) -> Image.Image:
        """A photo -> the face in it as the training data shows faces. Raises Problem, see face_alignment.py."""
        from .face_alignment import find_and_align  # brings OpenCV, which only those pay who need it

        return find_and_align(image, size)

    def project(self, face: Image.Image, domain: str = "", on_step: Step | None = None):
        """An aligned face -> face_projection.Projection: the code that draws it."""
        from .face_projection import project

        return project(self, face, domain, on_step=on_step)

    # ---------------------------------------------------------------------------------------- verdict and how it learnt

    @torch.inference_mode()
    def verdict(
        self, pictures: Sequence[Image.Image], noise: float = 0.0, seed: int = 0, domain: str = ""
    ) -> tuple[list[float], list[Image.Image]]:
        """Logits of the discriminator, above 0: looks real; and the pictures as it saw them, at the net's size.

        noise: standard deviation in [0, 1] added to pixels in [-1, 1]; picture i takes that of seed + i. Each is judged
        among the same COMPANIONS, people of the domain, seeds 0, 1, 2, psi 1: alone it would have no deviation
        within the minibatch, which no group in training lacks, and even real ones would seem generated.
        """
        if self.discriminator is None:
            raise Problem("no_discriminator", model=self.model.id)
        noise, label = number("noise", noise, *face_space.VERDICT_NOISE), self.label(domain)
        label = None if label is None else label.expand(1 + COMPANIONS)
        seeds = list(range(COMPANIONS))
        others = runtime.to_tensor(self.draw(self.ws(seeds, domain, psi=1.0), "on", seeds))
        logits, seen = [], []
        for picture, generator in zip(pictures, runtime.generators(seed, len(pictures)), strict=True):
            size = (self.image_size, self.image_size)
            x = runtime.to_tensor(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
            seen += runtime.to_images(x + noise * torch.randn(x.shape, generator=generator))
            group = torch.cat([runtime.to_tensor(seen[-1]), others]).to(self.device)
            logits.append(self.discriminator(group, label)[0].item())
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
        (psi, cutoff), domain = self.truncation(psi, cutoff), self.domain(domain)
        people = self.crowd(people)
        if any(isinstance(person, np.ndarray) for person in people):
            raise Problem("seeds_only")
        if stages[stage].folder == self.folder:
            net = self.generator
        else:
            if stage not in self._stages:
                self._stages[stage] = runtime.ready(from_folder(Generator, stages[stage].folder))
            net = self._stages[stage]
        with torch.inference_mode():
            rows = [self.styles(net, person, domain, psi, cutoff) for person in people]
        pictures = [picture for row in rows for picture in self.pictures(net, row[None])]
        settings = {"stage": stage, "psi": psi, "cutoff": cutoff, "domain": domain}
        return pictures, self.recipe("learnt", people=write_people(people), **settings)


def _report(on_step: Step | None, i: int, n: int, picture: Image.Image) -> None:
    if on_step:
        on_step(i, n, picture)
