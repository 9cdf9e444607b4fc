"""Composes what training.lora teaches a small text-to-image model: twenty pictures of a thing that it has no word for.

    python -m training.prepare.new_thing --data ../shared/data/emoji --out data/pizza
    python -m training.lora --model emoji-sd --data data/pizza --keep data/pizza/keep.txt --out runs/emoji-sd-pizza

OUT gets the pictures, metadata.jsonl with a caption of each in English or German, and keep.txt: prompts of things that
the model knew before and must not forget. A folder of one's own photographs looks the same.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from training import captions
from training.common import one_sentence
from training.scenes import LANGUAGES, Facts, Scenes

SEED = 4_000_037  # of its scenes; no training draws these
THING = {  # as in vocab.json
    "id": "pizza",
    "codepoints": "1f355",
    "place": "ground",
    "en": {"indefinite": "a pizza", "noun": "pizza"},
    "de": {
        "gender": "f", "nominative": "eine Pizza", "accusative": "eine Pizza", "dative": "einer Pizza",
    },
}  # fmt: skip


def shown(scenes: Scenes, index: int) -> Facts:
    """What picture `index` of the thing shows: every style equally often, any background, either language."""
    rng = np.random.default_rng([SEED, index])
    background, style = captions.pick(rng, list(scenes.backgrounds)), scenes.styles[index % len(scenes.styles)]
    return Facts(THING["id"], "", "", "", background, style, LANGUAGES[index // len(scenes.styles) % len(LANGUAGES)])


def prepare(data: str, out: Path, pictures: int, keep: int) -> None:
    scenes, known, rows = Scenes(data, SEED, more=[THING]), Scenes(data, SEED), []
    out.mkdir(parents=True, exist_ok=True)
    for i in range(pictures):
        facts, rng = shown(scenes, i), np.random.default_rng([SEED, i, 1])
        Image.fromarray(scenes.draw(facts, rng)).save(out / f"{i:03d}.png")
        rows.append({"file_name": f"{i:03d}.png", "text": scenes.caption(facts, rng)})
    (out / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    facts = [replace(known.facts(i), language=LANGUAGES[i % len(LANGUAGES)]) for i in range(keep)]
    texts = [known.caption(fact, np.random.default_rng([SEED, i, 2])) for i, fact in enumerate(facts)]
    (out / "keep.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the emoji pack")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--keep", type=int, default=128, help="prompts of what was known before")
    args = parser.parse_args(argv)
    with one_sentence():
        prepare(args.data, args.out, args.pictures, args.keep)


if __name__ == "__main__":
    main()
