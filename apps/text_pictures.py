"""What the text-to-image tab computes: pictures with their recipes. `load(model_id)` gives the pipeline."""

import html
import json
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from PIL import Image

from apps.i18n import say, sentence, texts
from apps.widgets import Figure, Result, decimal, facts, jpeg, status
from pipelines import hub, loaded, registry, text_plan, text_safety, text_words, want
from pipelines import recipe as recipes
from pipelines import status as availability
from pipelines.problems import Problem, choice, number, whole
from pipelines.problems import seed as checked_seed
from pipelines.recipe import Recipe, save
from pipelines.text_given import Given, Lora, usual_sides
from pipelines.text_space import GUIDANCE, LORA_WEIGHT, SAMPLERS, STEPS, prompt_text

STEM = "text_to_image"
NUMBER = (1, 8)  # of pictures at once
LARGE = 2000  # MB: a model that needs more is used when a person asks for it, not because a section was opened
SHOWN = 512  # px: larger pictures are shown smaller


def known(model: str) -> registry.Model:
    """A model of the tab by its id; a stranger may not name folders of this machine."""
    choice("model", model, [entry.id for entry in registry.models(STEM)])
    return registry.get(model)


def asks(model: str, lang: str) -> str:
    """What a person should know before a large model is fetched and used; HTML, "" for small ones."""
    entry = known(model)
    if entry.path or entry.memory_mb < LARGE:
        return ""
    name = texts(lang).get(f"models.{entry.id}", entry.id)
    if problem := availability(entry):
        told = sentence(problem, lang)
    else:
        size = decimal(entry.memory_mb / 1024, lang, 1)
        told = say("text.large_here" if hub.folder(entry) else "text.large_fetch", lang, model=name, gb=size)
    return status(lang, text=told)


def steps_and_guidance(model: str) -> tuple[int, float]:
    """A model's own, as its pipeline has them."""
    own = known(model).defaults
    return own.get("steps", 20), own.get("guidance", 4.0)


def sampler_names(model: registry.Model) -> tuple[str, ...]:
    return SAMPLERS[model.kind]


def sampler_choices(model: str) -> list[tuple[str, str]]:
    """As a picker has them: the model's own, with an asterisk, is ""."""
    first, *others = sampler_names(known(model))
    return [(f"{first} *", ""), *((name, name) for name in others)]


def fitting(model: registry.Model, lora: str) -> str:
    """The id of a LoRA that goes with the model, or "". Raises Problem: unknown_choice, wrong_base."""
    if lora == "":
        return lora
    choice("lora", lora, [one.id for one in registry.models(STEM, "lora")])
    if (found := registry.get(lora)) not in registry.companions(model, "lora"):
        raise Problem("wrong_base", name=lora, base=found.base, model=model.id)
    return lora


def lora_choices(model: str, lang: str) -> list[tuple[str, str]]:
    """As a picker has them: none, then those that go with the model."""
    names, fit = texts(lang), registry.companions(known(model), "lora")
    return [(say("text.lora.none", lang), ""), *((names.get(f"models.{one.id}", one.id), one.id) for one in fit)]


class Asked(NamedTuple):
    """What is to be drawn: the inputs of the tab as the link has them, checked as far as the model is not needed."""

    model: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    sampler: str
    lora: str = ""  # id of a LoRA
    lora_weight: float = 1.0

    @classmethod
    def of(cls, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora="", lora_weight=1.0) -> "Asked":
        """Raises Problem."""
        names = sampler_names(known(model))
        return cls(
            model,
            prompt_text("prompt", prompt),
            prompt_text("negative_prompt", negative_prompt),
            checked_seed(seed),
            whole("steps", steps, *STEPS),
            number("guidance", guidance, *GUIDANCE),
            choice("sampler", sampler or names[0], names),
            fitting(known(model), lora),
            number("lora_weight", lora_weight, *LORA_WEIGHT),
        )

    def settings(self) -> dict:
        """As a recipe and the link name them; model and seed have places of their own in a recipe."""
        apart = ("model", "seed") if self.lora else ("model", "seed", "lora", "lora_weight")
        return {name: value for name, value in self._asdict().items() if name not in apart}

    def inputs(self, width: int = 0, height: int = 0) -> dict:
        """Name -> value of the inputs of the tab that make such a picture, see `sized`."""
        return {**self._asdict(), "width": width, "height": height}

    def words(self) -> dict:
        """What a pipeline is told to draw."""
        return {name: getattr(self, name) for name in self._fields if name not in ("model", "lora", "lora_weight")}

    def pipeline(self, load: Callable):
        """The model, with the LoRA in its nets if there is one."""
        pipeline = load(self.model)
        return pipeline.changed((Lora(self.lora, self.lora_weight),)) if self.lora else pipeline

    def draw(self, load: Callable, on_step=None, **more) -> tuple[Image.Image, Recipe]:
        return self.pipeline(load).draw(**self.words(), on_step=on_step, **more)

    def made(self, picture: Image.Image, recipe: Recipe, caption: str, section: str, below: str = "", **inputs):
        """A picture that can be saved: with a recipe, which names the inputs as the link does."""
        changed_by = {"lora_revision": registry.revision(registry.get(self.lora))} if self.lora else {}
        changed_by |= {name: recipe.settings[name] for name in text_plan.PIXELS if name in recipe.settings}
        recipe = replace(recipe, settings={"section": section, **self.settings(), **changed_by, **inputs})
        return Figure(
            save(picture, recipe),
            caption,
            f"{self.model}_{self.seed}_{section}",
            preview=jpeg(small(picture)),
            below=below,
        )


def small(picture: Image.Image, side: int = SHOWN) -> Image.Image:
    """A picture as the page shows it."""
    if max(picture.size) <= side:
        return picture
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


# ---- pictures


def draw(
    load, model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight, number, width, height,
    lang, on_step=None,
) -> Result:  # fmt: skip
    """Pictures from words: as many as asked for, each with the seed after the one before. Width and height are in
    pixels, 0: the model's own."""
    asked = Asked.of(model, prompt, negative_prompt, seed, steps, guidance, sampler, lora, lora_weight)
    given, size = sized(load(asked.model), width, height), {"width": width, "height": height}
    chosen, items = {name: side for name, side in size.items() if side}, []
    for i in range(n := whole("number", number, *NUMBER)):
        one = asked._replace(seed=(asked.seed + i) % 2**32)

        def report(step, total, preview, i=i):
            shown = (*items, Figure(jpeg(small(preview)), "", below=actions(None, lang))) if preview else None
            on_step(i * total + step, n * total, shown and pad(shown, n, lang))

        picture, recipe = one.draw(load, on_step and report, given=given)
        caption = say("text.picture.seed", lang, seed=one.seed)
        items.append(one.made(picture, recipe, caption, "picture", actions(one, lang, **size), **chosen))
    return Result(items, {"seeds": [(asked.seed + i) % 2**32 for i in range(n)]})


def sized(pipeline, width: int, height: int) -> Given:
    """A size in pixels, where 0 is the model's own side; what is impossible is refused when it is drawn."""
    own = pipeline.defaults["size"]
    return Given(size=tuple(own if side == 0 else side for side in (width, height)))


def side_choices(model: str, value: int) -> list[tuple[str, int]]:
    """As a picker has them: the model's own side, with an asterisk, is 0. The one that is set is there in any case."""
    if not (own := known(model).defaults.get("size")):
        return [("*", 0)]
    sides = sorted({*usual_sides(own), *([value] if value else [])})
    return [(f"{own} *", 0) if side == own else (str(side), side) for side in sides]


def pad(items, n: int, lang: str) -> list[Figure]:
    """Places for those that are still to come, so that nothing moves."""
    blank = Figure(jpeg(Image.new("RGB", (8, 8), "#8884")), "&nbsp;", below=actions(None, lang))
    return [item._replace(caption=item.caption or "&nbsp;") for item in (*items, *[blank] * (n - len(items)))]


def button(use: str, values: dict, inner: str, title: str = "") -> str:
    """HTML around `inner`; `trugbild.asked` in shell.js puts the values into the tab's inputs and opens the section."""
    word = html.escape(json.dumps(values, ensure_ascii=False), quote=True)
    title = f' title="{html.escape(title, quote=True)}"' if title else ""
    return f'<button type="button" data-use="{use}" data-word="{word}"{title}>{inner}</button>'


def actions(asked: Asked | None, lang: str, **size: int) -> str:
    """What one can do with a picture; the same room where there is nothing to do yet."""
    if asked is None:
        return '<div class="uses" style="visibility:hidden"><button type="button">&nbsp;</button></div>'
    every = asked.inputs(**size)
    keep = html.escape(json.dumps(every, ensure_ascii=False), quote=True)
    buttons = (
        button(
            "set", {"seed": asked.seed}, say("text.picture.same_seed", lang), say("text.picture.same_seed_title", lang)
        ),
        button("steps", every, say("text.steps.tab", lang)),
        button("noise", {**every, "photo": "drawn"}, say("text.picture.use_noise", lang)),
    )
    return f'<div class="uses" data-keep="{keep}">{"".join(buttons)}</div>'


def first(values: dict, lang: str) -> list[Figure] | None:
    """The picture that lies beside the model, if that is what the link asks for: needs no torch."""
    entry = known(values["model"])
    kept = recipes.first(entry.path) if entry.path else None
    if not kept or (values["number"], values["width"], values["height"]) != (1, 0, 0):
        return None
    picture, recipe = kept
    try:
        asked = Asked.of(*(values[name] for name in Asked._fields))
    except Problem:
        return None
    if recipe.seed != asked.seed or any(recipe.settings.get(name) != value for name, value in asked.settings().items()):
        return None
    return [
        asked.made(picture, recipe, say("text.picture.seed", lang, seed=asked.seed), "picture", actions(asked, lang))
    ]


# ---- words


def notes(
    model: str, prompt: str, lang: str, unread: str = "", lora: str = "", negative: str = "", guidance: float = 4.0
) -> list[str]:
    """What a person should know about the model, and how it reads this prompt; HTML. unread: what it does not see."""
    entry, steps = known(model), text_words.learning(known(model))
    early = (
        [say("text.note.learning", lang, done=decimal(steps[0], lang, 0), n=decimal(steps[1], lang, 0))]
        if steps
        else []
    )
    words = text_words.words(entry, registry.get(lora) if lora else None)
    unheard = [say("text.note.negative", lang)] if negative.strip() and guidance <= 1 else []
    return early + _read(words, prompt, lang, unread) + unheard


def _read(words: text_words.Words | None, prompt: str, lang: str, unread: str) -> list[str]:
    if not prompt.strip():
        return [say("text.note.empty", lang)]
    cut = [say("text.note.cut", lang, cut=brief(unread))] if unread else []
    if not words:
        return cut
    reading, said = text_words.read(prompt, words, lang), []
    for word, nearest in reading.unknown[:4]:
        word = brief(word)
        key = "text.note.unknown_nearest" if nearest else "text.note.unknown"
        said.append(say(key, lang, word=word, nearest=html.escape(nearest)))
    if more := len(reading.unknown) - 4:
        said += [say("text.note.more", lang, n=more)] if more > 0 else []
    if not reading.known:
        said.append(say("text.note.nothing", lang))
    if reading.unseen:
        said.append(say("text.note.unseen", lang, n=reading.unseen))
    return said + cut


def brief(words: str) -> str:
    """Somebody's words, short, as HTML."""
    return html.escape(words if len(words) <= 40 else words[:39] + "…")


def safety(model: str, lang: str) -> str:
    """Whether anybody looks at what the model draws, and what nobody looks for; HTML."""
    entry = known(model)
    listed = text_words.words(entry) is not None
    key = "listed" if listed else "checked" if text_safety.is_checked(entry) else "unchecked"
    return f'<div class="card"><p>{say(f"text.safety.{key}", lang)} {say("text.safety.marked", lang)}</p></div>'


def loaded_as(model: str, lang: str) -> str:
    """How a model lies in memory, see pipelines/text_loading.py; HTML, "" before it does."""
    if not (pipeline := loaded(known(model).id)):
        return ""
    plan = {name: value for name, value in vars(pipeline.plan).items() if value != "none"}
    names = texts(lang)
    pairs = [(names[f"text.plan.{name}"], names.get(f"text.plan.{value}", value)) for name, value in plan.items()]
    return f'<div class="card">{facts(pairs)}</div>'


def plan_choices(model: str, lang: str) -> dict[str, list[tuple[str, str]]]:
    """As pickers have it: what can be chosen of how a model lies in memory. In public it is everybody's."""
    if text_safety.is_public():
        return {}
    names, automatic = texts(lang), (say("text.plan.automatic", lang), "")

    def told(name: str, value: str) -> str:
        return names[f"text.plan.no_{name}"] if value == "none" else names.get(f"text.plan.{value}", value)

    can = text_plan.choices(known(model))
    return {name: [automatic, *((told(name, value), value) for value in values)] for name, values in can.items()}


def choose_plan(model, dtype, offload, quantisation, cache) -> None:
    """From the next picture on the model lies in memory like this; "" is left to the machine."""
    if text_safety.is_public():
        raise Problem("plan_public")
    can = text_plan.choices(known(model))
    asked = {"dtype": dtype, "offload": offload, "quantisation": quantisation, "cache": cache}
    want(model, **{name: choice(name, value, can.get(name, ())) for name, value in asked.items() if value != ""})


def word_list(model: str, lang: str) -> str:
    """Everything that a small model was taught, to click on; HTML."""
    words = text_words.words(known(model))
    if not words:
        return f"<p>{say('text.words.language', lang)}</p>"
    parts = []
    for kind in ("objects", "hats", "backgrounds", "styles"):
        names = sorted((entry[lang] for entry in getattr(words, kind).values()), key=str.lower)
        chips = "".join(button("word", {"prompt": name}, name) for name in names)
        parts.append(
            f'<div class="title">{say(f"text.words.{kind}", lang)} ({len(names)})</div><div class="uses">{chips}</div>'
        )
    return "".join(parts)
