"""What the faces tab computes: pictures with their recipes, and numbers. `load(model_id)` gives the pipeline.

A person is a word: `42` the seed of somebody, `w:...` a code, such as that of one's own face. Several are joined by
commas.
"""

import contextlib
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from apps.i18n import say
from apps.links import Number as Range
from apps.photos import cached, chosen
from apps.widgets import MAX_SEED, Figure, Result, data_url, decimal, png
from pipelines import face_space, registry
from pipelines.face_space import AMOUNT, DOMAINS, MAX_COUNT, MAX_PEOPLE, NOISE, PSI
from pipelines.face_stages import read_stages
from pipelines.pictures import open_picture
from pipelines.problems import Problem, choice, number, switch, whole
from pipelines.problems import seed as checked_seed
from pipelines.recipe import Recipe, save

STEM = "faces"
FACES = "faces-64"  # whose people style transfer draws, too
WIDTHS = (512, 512, 512, 512, 512, 256, 128, 64, 32)  # of the published nets, at 4, 8, ... 1024 px
SHOWN = 256  # px: smaller faces are enlarged to it before they are saved
DIRECTIONS, MAX_LAYERS, MAX_STAGES = 8, 18, 12  # sliders; of a net of 1024 px; on the way of any net
PHOTOS = ("astronaut",)  # with a face in it
COUNTS = {"people": (2, MAX_PEOPLE), "rows": (1, 6), "columns": (1, 6), "who": (1, 1)}  # least, most; else 1 to 8
CELEBA = "nielsr/CelebA-faces"  # on the hub; a person may have it
QUIZ, TRIED = 8, 40  # pictures, half of them real; pictures of a folder that are looked at for it
USES = ("a", "b", "c", "people", "rows", "who", "jury")  # what a person can be taken for
FIRST_LOOK = {**face_space.FIRST, "cutoff": MAX_LAYERS, "fast": False}


# ---- people as words -------------------------------------------------------------------------------------------------


def split(text: str, name: str = "people") -> list[str]:
    """The words of a list; Problem where there are too few or too many for that input."""
    least, most = COUNTS.get(name, (1, MAX_PEOPLE))
    words = [word.strip() for word in text.split(",") if word.strip()] if isinstance(text, str) else []
    if not least <= len(words) <= most:
        raise Problem("people_count", name=name, value=len(words), low=least, high=most)
    return words


def check(text: str, name: str) -> None:
    """Whether a link's people can be understood by some model; raises Problem."""
    for word in split(text, name):
        if word.startswith("w:"):
            if not re.fullmatch(r"w:[A-Za-z0-9_-]{8,}", word):
                raise Problem("face_code")
        else:
            Range(0, MAX_SEED, whole=True).parse(name, word)


def _people(pipeline, text: str, name: str) -> list:
    """Words -> what the pipeline calls people: seeds and codes."""
    return face_space.read_people(",".join(split(text, name)), pipeline.layers, pipeline.w_dim)


# ---- models and pictures ---------------------------------------------------------------------------------------------


def known(model: str) -> registry.Model:
    """A model of the tab by its id; a stranger may not name folders of this machine."""
    choice("model", model, [entry.id for entry in registry.models(STEM)])
    return registry.get(model)


class Shape(NamedTuple):
    """What can be known of a net without loading it."""

    domains: tuple[str, ...]
    stages: int  # kept on the way, the finished net included
    layers: int  # that take a style
    products: float  # multiplications of its convolutions for one picture


def shape(model: registry.Model) -> Shape:
    if not model.path:
        widths = WIDTHS[: model.defaults["image_size"].bit_length() - 2]
        return Shape((), 0, 2 * len(widths), products(widths))
    config = json.loads((model.path / "config.json").read_text("utf-8"))
    classes = config.get("classes", 0)
    domains = DOMAINS if classes == len(DOMAINS) else tuple(str(i + 1) for i in range(classes))
    widths = config["channels"]
    return Shape(domains, len(read_stages(model, model.path)), 2 * len(widths), products(widths))


def products(widths: Sequence[int]) -> float:
    """Of the 3 x 3 convolutions: one at 4 px; above, one that works at half the side, and one at the whole."""
    total = 9 * widths[0] ** 2 * 4**2
    for i, (below, here) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        total += 9 * here * (below * (4 << i) ** 2 + here * (8 << i) ** 2)
    return total


def is_slow(model: str) -> bool:
    """Whether a picture takes more than a moment on a processor: from 256 px on."""
    return shape(known(model)).products > 3e9


def seconds(load: Callable, model: registry.Model, known: str) -> float:
    """What a picture of a model will take on this machine, going by a group that the model `known` draws now."""
    pipeline, here = load(known), registry.get(known)
    ws = pipeline.ws(range(pipeline.group))
    pipeline.draw(ws)
    start = time.perf_counter()
    pipeline.draw(ws)
    each = (time.perf_counter() - start) / pipeline.group
    return each * shape(model).products / shape(here).products


def enlarged(picture: Image.Image) -> Image.Image:
    factor = max(1, SHOWN // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)


def made(picture: Image.Image | list, caption: str, name: str, recipe: Recipe, section: str, **inputs) -> Figure:
    """A picture that can be saved: with a recipe, which names the inputs as the link does."""
    recipe = replace(recipe, settings={"section": section, **inputs})
    pictures = enlarged(picture) if isinstance(picture, Image.Image) else [enlarged(frame) for frame in picture]
    return Figure(save(pictures, recipe), caption, name)


def shown(picture: Image.Image, caption: str = "") -> Figure:
    """A picture that nobody needs to make again."""
    return Figure(png(enlarged(picture)), caption)


def sheet(rows: list[list[Image.Image | None]], gap: int = 4) -> Image.Image:
    """Pictures of one size in rows, white between them; None leaves a place empty."""
    side = next(picture.width for row in rows for picture in row if picture) + gap
    out = Image.new("RGB", (len(rows[0]) * side - gap, len(rows) * side - gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            if picture:
                out.paste(picture, (x * side, y * side))
    return out


@functools.lru_cache(maxsize=256)
def _thumb(pipeline, word: str, domain: str, psi: float, cutoff: int | None) -> str:
    picture = pipeline.draw(pipeline.ws(_people(pipeline, word, "who"), domain, psi, cutoff))[0]
    picture.thumbnail((128, 128), Image.Resampling.LANCZOS)
    return data_url(png(picture))


class Scene(NamedTuple):
    """What all sections go by: the net, and how far its people are from the mean."""

    pipeline: object
    model: str
    domain: str  # "" where the net has one only, whatever the link says
    psi: float
    cutoff: int | None  # layers that are truncated; None: all
    inputs: dict  # the same as the link has them

    @classmethod
    def of(cls, load: Callable, model: str, domain: str, psi: float, cutoff: float) -> "Scene":
        entry = known(model)
        inputs = {"domain": domain, "psi": number("psi", psi, *PSI), "cutoff": whole("cutoff", cutoff, 0, MAX_LAYERS)}
        pipeline = load(entry.id)
        domain = (
            choice("domain", domain, pipeline.domains) if pipeline.domains else ""
        )  # what a net has none of is ignored
        cutoff = None if inputs["cutoff"] >= pipeline.layers else inputs["cutoff"]
        return cls(pipeline, model, domain, inputs["psi"], cutoff, inputs)

    @property
    def look(self) -> dict:
        return {"domain": self.domain, "psi": self.psi, "cutoff": self.cutoff}

    def thumbs(self, *texts: str) -> dict[str, str]:
        """Word -> small picture, for everybody in these lists."""
        words = {word for text in texts for word in text.split(",")}
        return {word: _thumb(self.pipeline, word, *self.look.values()) for word in words}

    def made(self, picture, caption: str, name: str, recipe: Recipe, section: str, **inputs) -> Figure:
        return made(picture, caption, f"{self.model}_{name}", recipe, section, **self.inputs, **inputs)


def first(values: dict, lang: str) -> Figure | None:
    """The picture that lies beside the model, if that is what the link asks for: needs no torch."""
    kept = (entry := known(values["model"])).path and face_space.first(entry.path)
    asked = {name: values[name] for name in FIRST_LOOK}
    if not kept or asked != FIRST_LOOK or (values["seed"], values["count"]) != (kept[1].seed, 1):
        return None
    picture, recipe = kept
    caption = say("faces.person.caption", lang, seed=recipe.seed)
    item = made(picture, caption, f"{entry.id}_{recipe.seed}", recipe, "person", **asked)
    return item._replace(below=uses(recipe.seed, USES, lang, entry.id == FACES))


def uses(word: int | str, names: Sequence[str], lang: str, photographed: bool = False) -> str:
    """Buttons that put a person into other inputs of the tab; for those of FACES a link to their photograph of 1890."""
    buttons = (
        f'<button type="button" data-use="{name}" data-word="{word}" title="{say(f"faces.use.{name}_title", lang)}">'
        f"{say(f'faces.use.{name}', lang)}</button>"
        for name in names
    )
    link = ""
    if photographed:  # the other tab draws the same person from the number
        title = say("faces.use.historic_title", lang)
        link = (
            f'<a href="?tab=style_transfer&amp;sample=person&amp;person={word}&amp;size=128" title="{title}">1890</a>'
        )
    return f'<div class="uses">{"".join(buttons)}{link}</div>'


# ---- what the tab computes: each is an endpoint, too -----------------------------------------------------------------


def person(load, model, domain, psi, cutoff, seed, count, noise, fast, lang) -> Result:
    """People who do not exist: that of the seed and those of the seeds that follow."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    count, fast = whole("count", count, 1, MAX_COUNT), switch("fast", fast)
    how = {"noise": choice("noise", noise, NOISE), "fast": fast}
    pictures, recipe = scene.pipeline.generate(checked_seed(seed), count, **how, **scene.look)
    items, usual = [], (FACES, DOMAINS[0], FIRST_LOOK["psi"], None, FIRST_LOOK["noise"])
    there = (model, *scene.look.values(), noise) == usual  # whether style transfer has the same person
    for i, picture in enumerate(pictures):
        one = replace(recipe, seed=(recipe.seed + i) % 2**32)
        item = scene.made(
            picture, say("faces.person.caption", lang, seed=one.seed), str(one.seed), one, "person", **how
        )
        names = ("seed", *USES) if count > 1 else USES
        items.append(item._replace(below=uses(one.seed, names, lang, there)))
    return Result(items)


def walk(load, model, domain, psi, cutoff, people, frames, space, mode, loop, lang, on_step=None) -> Result:
    """The way from person to person: an animation and a strip."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    who, loop = _people(scene.pipeline, people, "people"), switch("loop", loop)
    way = {"space": space, "mode": mode, "loop": loop}
    pictures, recipe = scene.pipeline.walk(who, frames, on_step=on_step, **way, **scene.look)
    inputs = {"people": people, "frames": int(frames), **way}
    columns = int(frames) if len(pictures) > 12 else len(pictures)
    strip = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    strip[-1] = strip[-1] + [None] * (columns - len(strip[-1]))
    return Result(
        [
            scene.made(pictures, say("faces.walk.animation", lang), "walk", recipe, "walk", **inputs),
            scene.made(sheet(strip), say("faces.walk.strip", lang), "walk_strip", recipe, "walk", **inputs),
        ]
    )


def mix(load, model, domain, psi, cutoff, rows, columns, layers, lang, on_step=None) -> Result:
    """The people of the rows with the styles of the people of the columns in some layers: one sheet."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    who = [_people(scene.pipeline, text, name) for name, text in (("rows", rows), ("columns", columns))]
    grid, recipe = scene.pipeline.mix(*who, layers, on_step=on_step, **scene.look)
    heads = [scene.pipeline.draw(scene.pipeline.ws(group, **scene.look)) for group in who]
    table = sheet([[None, *heads[1]], *([head, *row] for head, row in zip(heads[0], grid, strict=True))])
    inputs = {"rows": rows, "columns": columns, "layers": layers}
    caption = say(f"faces.mix.caption_{layers}", lang)
    return Result([scene.made(table, caption, f"mixed_{layers}", recipe, "mix", **inputs)])


def arithmetic(load, model, domain, psi, cutoff, a, b, c, lang) -> Result:
    """Mean of people A - mean of people B + mean of people C in w; beside it the same with pixels."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    groups = [_people(scene.pipeline, text, name) for name, text in zip("abc", (a, b, c), strict=True)]
    means, total, pixels, recipe = scene.pipeline.arithmetic(*groups, **scene.look)
    items = [shown(mean, say(f"faces.arithmetic.mean_{i}", lang)) for i, mean in enumerate(means)]
    inputs, caption = {"a": a, "b": b, "c": c}, say("faces.arithmetic.total", lang)
    items.append(scene.made(total, caption, "arithmetic", recipe, "arithmetic", **inputs))
    return Result([*items, shown(pixels, say("faces.arithmetic.pixels", lang))])


def edit(
    load, model, domain, psi, cutoff, who, first, last, d1, d2, d3, d4, d5, d6, d7, d8, lang
) -> Result:  # fmt: skip
    """A person moved along the directions in which a net changes most: as they are, and as they become."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    pipeline, code = scene.pipeline, _people(scene.pipeline, who, "who")[0]
    sliders = (d1, d2, d3, d4, d5, d6, d7, d8)
    amounts = {i: number(f"d{i + 1}", amount, *AMOUNT) for i, amount in enumerate(sliders)}
    first, last = whole("first", first, 0, MAX_LAYERS), whole("last", last, 0, MAX_LAYERS)
    span = {"first": min(first, pipeline.layers - 1), "last": min(last, pipeline.layers - 1)}
    picture, _, recipe = pipeline.edit(code, amounts, **span, noise="fixed", **scene.look)
    inputs = {"who": who, "first": first, "last": last, **{f"d{i + 1}": amount for i, amount in amounts.items()}}
    before = shown(pipeline.draw(pipeline.ws([code], **scene.look))[0], say("faces.directions.before", lang))
    after = scene.made(picture, say("faces.directions.after", lang), "edited", recipe, "directions", **inputs)
    return Result([before, after])


def verdict(load, model, domain, psi, cutoff, jury, spoilt, seed, picture, lang) -> Result:
    """What the discriminator makes of generated people, and of a picture of one's own: its scores, above 0 for real."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    pipeline = scene.pipeline
    pictures = pipeline.draw(pipeline.ws(_people(pipeline, jury, "jury"), **scene.look))
    pictures += [pipeline.align(picture)] if picture else []
    scores, seen = pipeline.verdict(pictures, spoilt, checked_seed(seed), scene.domain)
    return Result(
        [shown(one, chance(score, lang)) for one, score in zip(seen, scores, strict=True)], {"scores": scores}
    )


def project(load, model, domain, picture, sample, lang, on_step=None) -> Result:
    """One's own photo (or that of an astronaut): the face in it aligned, and the person nearest to it."""
    scene = Scene.of(load, model, domain, 1.0, MAX_LAYERS)
    target = scene.pipeline.align(chosen(picture, sample, PHOTOS))
    found = scene.pipeline.project(target, domain=scene.domain, on_step=on_step)
    word = face_space.pack(found.code)
    who = {"who": word}
    nearest = scene.made(found.picture, say("faces.own.nearest", lang), "own_face", found.recipe, "directions", **who)
    return Result([shown(target, say("faces.own.target", lang)), nearest], {"error": found.error, "code": word})


def learnt(load, model, domain, psi, cutoff, cast, stage, lang) -> Result:
    """People as the net drew them at one stage of its training and growing; then the first of them at every stage."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    stages, stage = scene.pipeline.stages(), whole("stage", stage, 1, MAX_STAGES)
    who = _people(scene.pipeline, cast, "cast")

    def at(i: int, who: list) -> list[Figure]:
        pictures, recipe = scene.pipeline.learnt(who, i, **scene.look)
        seen = decimal(stages[i].pictures_seen, lang, 0)
        caption = say("faces.learnt.caption", lang, size=stages[i].image_size, seen=seen)
        inputs = {"cast": cast, "stage": i + 1}
        return [scene.made(picture, caption, f"stage_{i + 1}", recipe, "learnt", **inputs) for picture in pictures]

    now = at(min(stage, len(stages)) - 1, who)
    return Result(now + [figure for i in range(len(stages)) for figure in at(i, who[:1])])


def chance(score: float, lang: str) -> str:
    """A discriminator's logit as a caption: the probability it gives to "real", and a bar as long."""
    share = 1 / (1 + math.exp(-max(-30.0, min(score, 30.0))))
    text = say("faces.verdict.chance", lang, share=decimal(100 * share, lang, 0), score=decimal(score, lang, 1))
    return f'<div class="verdict"><i style="width:{100 * share:.0f}%"></i></div>{text}'


# ---- real or generated? ----------------------------------------------------------------------------------------------


@functools.cache
def real_files() -> dict[str, list]:
    """Real faces at hand: domain -> pictures as files or bytes; {} where none are.

    Pictures or parquet files in the folder of TRUGBILD_DATA (`--data`) or its folder `faces`, where what has grey in
    its name is historic; else the first of CELEBA, if the datasets package has it in its cache.
    """
    found: dict[str, list] = {}
    if root := os.environ.get("TRUGBILD_DATA"):
        folder = Path(root) / "faces" if (Path(root) / "faces").is_dir() else Path(root)
        for file in sorted(folder.glob("**/*")):
            domain = "historic" if re.search("gr[ae]y|historic", file.name.lower()) else "colour"
            if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
                found.setdefault(domain, []).append(file)
            elif file.suffix == ".parquet":
                found.setdefault(domain, []).extend(_from_parquet(file))
    if not found and (faces := cached(CELEBA, "train", _undecoded)):
        found["colour"] = faces
    return found


def _undecoded(rows) -> list[bytes | Path]:
    """The first pictures of a data set as they lie there; more than any round looks at."""
    import datasets

    some = rows.select(range(min(len(rows), 50 * TRIED))).cast_column("image", datasets.Image(decode=False))
    return [image["bytes"] or Path(image["path"]) for image in some["image"]]


def _from_parquet(file: Path) -> list[bytes]:
    try:
        from pyarrow import parquet
    except ImportError:  # comes with the packages for training
        return []
    rows = parquet.read_table(file, columns=["image"]).column("image").to_pylist()
    return [row["bytes"] for row in rows]


def portrait(pipeline, file: bytes | Path) -> Image.Image | None:
    """A square picture of somebody's folder as it is, from any other the face; None where there is none to be had."""
    with contextlib.suppress(Problem):
        picture = open_picture(io.BytesIO(file) if isinstance(file, bytes) else file)
        return picture if picture.width == picture.height else pipeline.align(picture)
    return None


def quiz(load, model, domain, psi, cutoff, seed, files: Sequence[str], lang) -> list[dict]:
    """Real and generated pictures in a random order: [{src, real, share}], share the discriminator's for "real"."""
    scene = Scene.of(load, model, domain, psi, cutoff)
    pipeline, order = scene.pipeline, random.Random(checked_seed(seed))
    if files:
        real = [pipeline.align(open_picture(file)) for file in files[: QUIZ // 2]]
    else:
        at_hand = real_files().get(scene.domain or "colour", [])
        chosen = order.sample(at_hand, min(TRIED, len(at_hand)))
        real = list(itertools.islice(filter(None, (portrait(pipeline, one) for one in chosen)), QUIZ // 2))
    if not real:
        raise Problem("no_real_faces" if importlib.util.find_spec("pyarrow") else "no_real_faces_pyarrow")
    real = [picture.resize((pipeline.image_size,) * 2, Image.Resampling.LANCZOS) for picture in real]
    seeds = [order.randrange(MAX_SEED) for _ in real]
    pictures = real + pipeline.draw(pipeline.ws(seeds, **scene.look), noise="on", seeds=seeds)
    scores, _ = pipeline.verdict(pictures, domain=scene.domain)
    items = [
        {"src": data_url(png(enlarged(picture))), "real": i < len(real), "score": score}
        for i, (picture, score) in enumerate(zip(pictures, scores, strict=True))
    ]
    order.shuffle(items)
    return items
