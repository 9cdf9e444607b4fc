"""What `evaluate.py text_to_image` measures: whether a model draws what it is told, as an independent judge sees it.

A question is a prompt in English or German, drawn with the model's own settings through our wrapper; the judge
(training/emoji_judge.py) has learnt from real compositions alone. NOTE says how to read the figures.
"""

import argparse
import functools
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from PIL import Image, ImageDraw, ImageFont

import pipelines
from pipelines import runtime
from pipelines.text_given import Given, Lora
from training import autoencoder, captions, common, emoji_judge
from training.emoji_judge import HEADS, Judge, Shown
from training.prepare import new_thing
from training.prepare.new_thing import THING
from training.scenes import LANGUAGES, SIZE, Facts, Scenes, held_out

SEED = 3_000_017  # of the prompts; no training draws these
STEPS = (1, 2, 4, 8, 16, 20, 32)  # of the curve
KINDS = {"no_hat": 0.4, "trained": 0.3, "held_out": 0.3}  # of the prompts: no hat, a pair of the training, another one
FROG, FROG_SEEDS = "frog with melon hat", 10
CEILING = 256  # real scenes that go through the model's autoencoder
ON_SHEET, COLUMNS, WIDE, LINES = 110, 10, 160, 4
FONT = common.REPOSITORY / "apps/assets/fonts/inter.woff2"
GREEN, RED, BLACK = (0, 110, 40), (190, 0, 20), (20, 20, 20)

NOTE = """Of pictures of one object each, drawn with the model's own steps, guidance and sampler, a seed each, from \
prompts as in training: as many in English (`_en`) as in German (`_de`), of the same scenes with the same seeds. 40 % \
ask for no hat, 30 % for a wearer and hat of the training, 30 % for pairs that no training saw. Another net judges: \
it learnt from real compositions alone, all pairs among them, and its own accuracy on unseen ones is `judge_...`; \
`judge_..._autoencoder` is that on real compositions that the model's autoencoder took apart and put together again, \
which no net behind it can surpass by much; `autoencoder_db` is its mean PSNR of 64 scenes with pairs that were never \
trained on. `object_right` is of all prompts; `hat_right_trained` and `hat_right_held_out` of those with a hat; \
`no_hat_right` is how often none is seen where none was asked for, which noise passes, too; background and style are \
of prompts that name them; `all_right` means that nothing which a prompt names is wrong. The judge always answers \
something and cannot say "badly drawn": a smudge that it takes for a frog is a frog. `frog_with_melon_hat_right` is \
the share of ten seeds with both the frog and the melon, a pair never trained on. `..._steps_N` are of a part of the \
prompts, half in each language, hats of trained and other pairs together. `loss_held_out` is the training's own loss, \
on scenes of pairs never trained on; it cannot be compared between diffusion and flow. Of a LoRA `new_thing_right` is \
how often what it taught is seen where a prompt asks for it; the other figures are of prompts that do not, half in \
each language, and `_without` is the same with the LoRA left away."""


class Question(NamedTuple):
    prompt: str
    seed: int
    facts: Facts  # what a right picture shows
    names: tuple[str, ...]  # fields of facts that the prompt names; a hat that it does not name must not be there

    @property
    def kind(self) -> str:
        """One of KINDS."""
        if not self.facts.hat:
            return "no_hat"
        return "held_out" if held_out(self.facts.object, self.facts.hat) else "trained"


class Seen(NamedTuple):
    """A picture and what the judge sees in it."""

    question: Question
    picture: Image.Image
    answer: dict[str, str]  # a head: id

    def right(self, head: str) -> bool:
        return self.answer[head] == getattr(self.question.facts, head)


# ---------------------------------------------------------------------------------------------------------- prompts


def shuffled(rng: np.random.Generator, values: list) -> Iterable:
    """All values in a random order, again and again."""
    return itertools.cycle([values[i] for i in rng.permutation(len(values))])


def questions(scenes: Scenes, n: int) -> dict[str, list[Question]]:
    """language -> n questions; the same scenes and seeds in each. The first ones are mixed as all are."""
    rng = np.random.default_rng(SEED)
    pairs = emoji_judge.pairs(scenes)
    things = {
        "no_hat": shuffled(rng, [(object, "") for object in scenes.objects]),
        "trained": shuffled(rng, [pair for pair in pairs if not held_out(*pair)]),
        "held_out": shuffled(rng, [pair for pair in pairs if held_out(*pair)]),
    }
    backgrounds, styles = shuffled(rng, list(scenes.backgrounds)), scenes.styles
    asked, behind = {language: [] for language in LANGUAGES}, dict.fromkeys(KINDS, 0.0)
    for seed in range(n):
        behind = {kind: behind[kind] + share for kind, share in KINDS.items()}
        kind = max(behind, key=behind.get)
        behind[kind] -= 1
        facts = Facts(*next(things[kind]), "", "", next(backgrounds), captions.pick(rng, styles), "")
        for language in LANGUAGES:
            own = replace(facts, language=language)
            prompt = scenes.caption(own, rng)
            names = tuple(kind for kind in scenes.named(prompt, own) if kind in HEADS)
            asked[language].append(Question(prompt, seed, own, names))
    return asked


def frogs() -> list[Question]:
    """The prompt by which text-to-image models are compared over the years."""
    facts = Facts("frog", "melon", "", "", "", "", "en")
    return [Question(FROG, seed, facts, ("object", "hat")) for seed in range(FROG_SEEDS)]


# ---------------------------------------------------------------------------------------------------------- figures


def share(values: Iterable[bool]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def all_right(seen: Seen) -> bool:
    return all(seen.right(head) for head in seen.question.names)


def figures(seen: list[Seen], ending: str = "") -> dict[str, float | None]:
    """What was right; `ending` ends the names. None: nothing of the kind was asked."""
    found = {"all_right": share(map(all_right, seen)), "object_right": share(s.right("object") for s in seen)}
    for kind, name in {
        "trained": "hat_right_trained",
        "held_out": "hat_right_held_out",
        "no_hat": "no_hat_right",
    }.items():
        found[name] = share(s.right("hat") for s in seen if s.question.kind == kind)
    for head in ("background", "style"):
        found[f"{head}_right"] = share(s.right(head) for s in seen if head in s.question.names)
    return {f"{name}{ending}": value for name, value in found.items()}


def curve(seen: list[Seen], steps: int) -> dict[str, float | None]:
    """The same, less of it, at a number of steps."""
    return {
        f"all_right_steps_{steps}": share(map(all_right, seen)),
        f"object_right_steps_{steps}": share(s.right("object") for s in seen),
        f"hat_right_steps_{steps}": share(s.right("hat") for s in seen if s.question.facts.hat),
    }


def pixels(images: list[Image.Image]) -> torch.Tensor:
    """-> uint8 (N, 3, 128, 128)"""
    arrays = [np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def seen_by(judge: Judge, question: Question, picture: Image.Image) -> Seen:
    return Seen(question, picture, judge.answers(pixels([picture]))[0])


def sheet(seen: list[Seen]) -> Image.Image:
    """Pictures with prompt and verdict: green, or in red what the judge sees instead."""
    font, line = ImageFont.truetype(FONT, 11), 13  # Pillow's own has no umlauts
    high = SIZE + (LINES + 2) * line
    rows = -(-len(seen) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * WIDE, rows * high), "white")
    draw = ImageDraw.Draw(page)
    for i, one in enumerate(seen):
        x, y = i % COLUMNS * WIDE + 4, i // COLUMNS * high + 4
        page.paste(one.picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS), (x, y))
        wrong = [one.answer[head] or "no hat" for head in one.question.names if not one.right(head)]
        lines = [(text, BLACK) for text in textwrap.wrap(one.question.prompt, 26)[:LINES]]
        lines += [(", ".join(wrong), RED) if wrong else ("right", GREEN)]
        for number, (text, colour) in enumerate(lines):
            draw.text((x, y + SIZE + number * line), text, colour, font)
    return page


# ---------------------------------------------------------------------------------------------------------- command


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--judge", type=Path, default=Path("runs/emoji-judge"), help="its folder; trained if missing")
    parser.add_argument("--judge-steps", type=int, default=emoji_judge.Config.steps, help="of its training")
    parser.add_argument("--prompts", type=int, default=400, help="in each language")
    parser.add_argument("--curve", type=int, default=120, help="prompts at each number of steps, of both languages")
    parser.add_argument("--sheet", type=Path, help="PNG of drawn pictures with prompts and verdicts, to look at")


def load_judge(args: argparse.Namespace, scenes: Scenes) -> tuple[Judge, dict]:
    """-> the judge and its accuracy; where there is none, it is trained first. Raises TrainingError."""
    if not (args.judge / SAFETENSORS_WEIGHTS_NAME).is_file():
        argv = ["--data", args.data, "--out", str(args.judge), "--steps", str(args.judge_steps), "--resume"]
        emoji_judge.main(common.parse(emoji_judge.Config, argv))
    judge = Judge.from_pretrained(args.judge).eval().to(runtime.device())
    if any(judge.config[name] != values for name, values in emoji_judge.vocabulary(scenes).items()):
        raise common.TrainingError(f"{args.judge.name} has learnt other words than those of {Path(args.data).name}.")
    return judge, json.loads((args.judge / "accuracy.json").read_text("utf-8"))


def prepare(args: argparse.Namespace) -> Callable[[Path], dict[str, float]]:
    """-> what measures a folder. Raises TrainingError."""
    scenes = Scenes(args.data)
    judge, known = load_judge(args, Scenes(args.data, more=[THING]))
    asked = questions(scenes, args.prompts)
    mixed = [asked[LANGUAGES[i % len(LANGUAGES)]][i] for i in range(min(args.curve, args.prompts))]

    def measure(folder: Path) -> dict[str, float]:
        facts = json.loads((folder / "training.json").read_text("utf-8"))
        if facts["kind"] == "lora":
            return measure_lora(folder, facts["base"], mixed, judge, args)
        pipeline = pipelines.load(folder)
        usual = pipeline.defaults["steps"]

        @functools.cache
        def look(question: Question, steps: int) -> Seen:
            return seen_by(judge, question, pipeline.draw(question.prompt, seed=question.seed, steps=steps)[0])

        def through(x: torch.Tensor) -> torch.Tensor:
            pictures = [Image.fromarray(picture) for picture in x.permute(0, 2, 3, 1).numpy()]
            return pixels([pipeline.decode(pipeline.encode(picture)) for picture in pictures])

        seen = {
            language: [look(question, usual) for question in told(its, f"pictures, {language}")]
            for language, its in asked.items()
        }
        every = [one for both in zip(*seen.values(), strict=True) for one in both]
        frog = [look(question, usual) for question in frogs()]
        if args.sheet:
            sheet([*frog, *every][:ON_SHEET]).save(args.sheet)

        found = {"frog_with_melon_hat_right": share(map(all_right, frog)), **figures(every)}
        for language, its in seen.items():
            found |= {f"prompts_{language}": len(its), **figures(its, f"_{language}")}
        found["prompts_steps"] = len(mixed)
        for steps in STEPS:
            found |= curve([look(question, steps) for question in told(mixed, f"pictures of {steps} steps")], steps)
        found |= {f"judge_{head}": known[head] for head in (*HEADS, "no_hat")}
        behind = emoji_judge.accuracy(judge, Shown(scenes, emoji_judge.TEST_SEED), CEILING, through)
        found |= {f"judge_{head}_autoencoder": value for head, value in behind.items()}
        x = Scenes(args.data, autoencoder.TEST_SEED, held_out=True).pictures(range(64))
        found["autoencoder_db"] = autoencoder.psnr(through(x) / 127.5 - 1, x / 127.5 - 1).mean().item()
        return {name: round(value, 4) for name, value in found.items() if value is not None}

    return measure


def measure_lora(
    folder: Path, base: str, old: list[Question], judge: Judge, args: argparse.Namespace
) -> dict[str, float]:
    """How often the thing of training/prepare/new_thing.py is seen where it was asked for, and what was known before,
    each with the LoRA and, with the same seeds, without it."""
    beside = folder.resolve().parent / base
    pipeline = pipelines.load(beside if beside.is_dir() else base)
    lora = Lora(pipelines.register_folder(folder).id)
    scenes, new = Scenes(args.data, new_thing.SEED, more=[THING]), []
    for i in range(len(old)):
        facts = new_thing.shown(scenes, 1000 + i)  # none of those that it learnt from
        new.append(Question(scenes.caption(facts, np.random.default_rng([SEED, i])), i, facts, ("object",)))
    found, on_sheet = {"prompts_new": len(new), "prompts_old": len(old)}, []
    for ending, given in (("", Given(loras=(lora,))), ("_without", Given())):
        seen = []
        for question in told([*new, *old], f"pictures{ending}"):
            seen.append(seen_by(judge, question, pipeline.draw(question.prompt, seed=question.seed, given=given)[0]))
        found[f"new_thing_right{ending}"] = share(one.right("object") for one in seen[: len(new)])
        found |= {name: value for name, value in figures(seen[len(new) :], ending).items() if "style" not in name}
        on_sheet += seen[:30] + seen[len(new) : len(new) + 20]
    if args.sheet:
        sheet(on_sheet).save(args.sheet)
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def told(values: list, what: str) -> Iterable:
    """The same values; every hundredth is reported on stderr, because a picture takes its time."""
    for i, value in enumerate(values):
        if i % 100 == 0:
            print(f"{i} of {len(values)} {what}", file=sys.stderr, flush=True)
        yield value
