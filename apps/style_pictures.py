"""What the style transfer tab computes: pictures with their recipes, and numbers. `load(model_id)` gives the pipeline.

The picture that is translated is one's own, a photograph of scikit-image's, or one that another model of the app drew:
a person, or a scene.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from PIL import Image

from apps.face_pictures import FACES
from apps.i18n import say, texts
from apps.photos import OWN, PHOTOS, chosen
from apps.widgets import Figure, Result, decimal, jpeg, png
from pipelines import registry, style_space
from pipelines.hub import status as availability
from pipelines.problems import choice, number, switch
from pipelines.problems import seed as checked_seed
from pipelines.recipe import Recipe, save
from pipelines.style_space import DIRECTIONS, HIDDEN, OTHER, SIZES, STRENGTH, TONE

STEM = "style_transfer"
DRAWN = {"person": FACES, "scene": "emoji-flux"}  # samples that a model draws, from the seed `person`
SCENE = "a lion in the mountains"
SAMPLES = (*PHOTOS, *DRAWN, OWN)
PREVIEW = 1024  # px: larger ones are shown smaller, and results saved whole
IN_A_ROW = 256  # px, where all styles stand side by side
# What the bundled models get wrong, found by looking: model, direction, sample; why stands in the locales.
FAILURES = (
    ("style-historic", "AtoB", "astronaut"),
    ("style-historic", "AtoB", "cameraman"),
    ("style-historic", "BtoA", "cameraman"),
    ("style-historic", "BtoA", "coffee"),
    ("style-monet", "AtoB", "coffee"),
    ("style-monet", "AtoB", "rocket"),
)


def known(model: str) -> registry.Model:
    """A model of the tab by its id; a stranger may not name folders of this machine."""
    choice("model", model, [entry.id for entry in registry.models(STEM)])
    return registry.get(model)


def way(model: str, direction: str, lang: str) -> str:
    """What a direction is called, as "photograph → Monet"."""
    return (
        texts(lang).get(f"style.direction.{model}_{direction}")
        or f"{model}: {say(f'style.direction.{direction}', lang)}"
    )


def directions(model: registry.Model) -> tuple[str, ...]:
    """Those that a pair has, without loading it."""
    if model.path:
        return tuple(name for name in DIRECTIONS if (model.path / name).is_dir())
    return DIRECTIONS[: len(model.files)]


class Scene(NamedTuple):
    """What all sections go by: the pair and its direction, and the picture that is translated."""

    pipeline: object
    model: str
    direction: str
    size: int
    image: Image.Image
    inputs: dict  # the same as the link has them

    @classmethod
    def of(
        cls, load: Callable, model: str, direction: str, picture, sample: str, person: int, face: bool, size: int
    ) -> "Scene":
        entry = known(model)
        size = int(size) if size in map(str, SIZES) else size  # the API's choices are text
        pipeline = load(entry.id)
        face, photo = switch("face", face), OWN if picture else choice("sample", sample, SAMPLES)
        inputs = {"direction": direction, "sample": photo, "face": face, "size": size}
        if photo in DRAWN:
            by = DRAWN[photo]
            inputs |= {"person": checked_seed(person), "by": by, "by_revision": registry.revision(registry.get(by))}
            if photo == "scene":
                image = load(by).draw(SCENE, seed=person)[0]
            else:  # whoever goes the way from historic photographs starts with one
                domain = "historic" if (model, direction) == ("style-historic", "BtoA") else "colour"
                image = load(by).generate(person, domain=domain)[0][0]
            image = image.resize((256, 256), Image.Resampling.LANCZOS)
        else:
            image = chosen(picture, photo)
        return cls(pipeline, model, direction, size, pipeline.align(image) if face else image, inputs)

    def way(self, lang: str) -> str:
        return way(self.model, self.direction, lang)

    def made(self, picture: Image.Image, caption: str, name: str, recipe: Recipe, section: str, **inputs) -> Figure:
        """A picture that can be saved: with a recipe, which names the inputs as the link does."""
        recipe = replace(recipe, settings={"section": section, **self.inputs, **inputs})
        name = f"{self.model}_{self.direction}_{name}"
        return Figure(save(picture, recipe), caption, name, preview=jpeg(small(picture)))


def small(picture: Image.Image) -> Image.Image:
    """A picture as the page shows it."""
    if max(picture.size) <= PREVIEW:
        return picture
    picture = picture.copy()
    picture.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    return picture


def first(values: dict, lang: str) -> tuple[Figure, Figure] | None:
    """The translation that lies beside the model, if that is what the link asks for: needs no torch."""
    entry = known(values["model"])
    kept = entry.path and style_space.first(entry.path)
    if not kept or values["sample"] not in PHOTOS:
        return None
    picture, recipe = kept
    if any(values[name] != value for name, value in recipe.settings.items()):
        return None
    photo = chosen(None, values["sample"]).resize(picture.size, Image.Resampling.LANCZOS)
    after = Figure(
        save(picture, replace(recipe, settings={"section": "picture", **recipe.settings})),
        way(entry.id, values["direction"], lang),
        f"{entry.id}_{values['direction']}_{values['sample']}",
        preview=jpeg(picture),
    )
    return shown(photo, say("style.picture.before", lang)), after


def shown(picture: Image.Image, caption: str = "") -> Figure:
    """A picture that nobody needs to make again."""
    picture = small(picture)
    return Figure(png(picture), caption, preview=jpeg(picture))


# ---- what the tab computes: each is an endpoint, too -----------------------------------------------------------------


def translate(
    load, model, direction, picture, sample, person, face, size, strength, tone, lang, on_step=None
) -> Result:  # fmt: skip
    """A picture, and what it looks like in the other domain. `size` is its longer side in px; 0: as it is, to 4 MP."""
    scene = Scene.of(load, model, direction, picture, sample, person, face, size)
    how = {"strength": number("strength", strength, *STRENGTH), "tone": number("tone", tone, *TONE)}
    before, after, recipe = scene.pipeline.translate(scene.image, direction, scene.size, on_step=on_step, **how)
    name = scene.inputs["sample"]
    return Result(
        [
            shown(before, say("style.picture.before", lang)),
            scene.made(after, scene.way(lang), name, recipe, "picture", **how),
        ]
    )


def styles(load, picture, sample, person, face, lang, on_step=None) -> Result:
    """One picture in every style that is at hand, both ways."""
    ways = [(model.id, way) for model in registry.models(STEM) if not availability(model) for way in directions(model)]
    items = []
    for i, (model, direction) in enumerate(ways):
        scene = Scene.of(load, model, direction, picture, sample, person, face, IN_A_ROW)
        before, after, recipe = scene.pipeline.translate(scene.image, direction, scene.size)
        if not items:
            items.append(shown(before, say("style.picture.before", lang)))
        item = scene.made(after, scene.way(lang), scene.inputs["sample"], recipe, "picture", strength=1.0, tone=1.0)
        items.append(item._replace(below=take(model, direction, lang)))
        if on_step:
            on_step(i + 1, len(ways), None)
    return Result(items)


def take(model: str, direction: str, lang: str) -> str:
    """A button that goes on with this style."""
    word, title = f"{direction}:{model}", say("style.styles.take_title", lang)
    button = f'<button type="button" data-use="style" data-word="{word}" title="{title}">'
    return f'<div class="uses">{button}{say("style.styles.take", lang)}</button></div>'


def cycle(load, model, direction, picture, sample, person, face, size, hidden, lang, on_step=None) -> Result:
    """There and back: x, G(x), F(G(x)) and what differs; then from the other side, starting with G(x)."""
    scene = Scene.of(load, model, direction, picture, sample, person, face, size)
    from pipelines.style_transfer import part  # needs torch, which loading has brought

    hidden = number("noise", hidden, *HIDDEN)
    out = scene.pipeline.cycle(scene.image, direction, scene.size, noise=hidden, on_step=part(on_step, 0, 2))
    other = OTHER[direction]
    home = scene.pipeline.cycle(out.there, other, scene.size, noise=hidden, on_step=part(on_step, 1, 2))
    items = []
    for at, trip in ((direction, out), (other, home)):
        side = at[0].lower()
        items += [
            shown(trip.before, say(f"style.cycle.{side}_start", lang)),
            shown(trip.there, say(f"style.cycle.{side}_there", lang)),
            scene.made(
                trip.back, say(f"style.cycle.{side}_back", lang), "there_and_back", trip.recipe, "cycle", noise=hidden
            ),
            shown(trip.difference, say("style.cycle.difference", lang, error=decimal(trip.error, lang, 3))),
        ]
    return Result(items, {"cycle_loss": out.error, "cycle_loss_back": home.error})


def eye(load, model, direction, picture, sample, person, face, size, lang, on_step=None) -> Result:
    """What the discriminator of the target makes of every place, before and after: 1 real, 0 generated."""
    scene = Scene.of(load, model, direction, picture, sample, person, face, size)
    seen = scene.pipeline.eye(scene.image, direction, scene.size, on_step=on_step)
    items, numbers = [], {}
    for name in ("before", "after"):
        score = float(getattr(seen, f"{name}_scores").mean())
        caption = say(f"style.eye.{name}", lang, score=decimal(score, lang, 2))
        numbers[name] = score
        items.append(scene.made(getattr(seen, f"{name}_map"), caption, f"eye_{name}", seen.recipe, "eye"))
    return Result(items, numbers)


def failures(load, lang, on_step=None) -> Result:
    """What the bundled models get wrong: each picture beside its translation."""
    items = []
    for i, (model, direction, sample) in enumerate(FAILURES):
        scene = Scene.of(load, model, direction, None, sample, 13, False, IN_A_ROW)
        before, after, _ = scene.pipeline.translate(scene.image, direction, scene.size)
        both = Image.new("RGB", (2 * before.width + 4, before.height), "white")
        both.paste(before, (0, 0))
        both.paste(after, (before.width + 4, 0))
        items.append(shown(both, f"<b>{scene.way(lang)}</b> {say(f'style.fails.case_{i + 1}', lang)}"))
        if on_step:
            on_step(i + 1, len(FAILURES), None)
    return Result(items)
