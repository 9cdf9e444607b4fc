"""A trained text-to-image model -> a folder that comes with the app.

    python -m training.bundle_text runs/emoji-sd --out pipelines/checkpoints/emoji-sd

The prompt and the seed are those of the picture that the first screen shows (`first.png`). Give the model its line in
MODELS of pipelines/registry.py first: the picture names the model that made it. A ControlNet or a LoRA is copied; the
first picture of the ControlNet's section is drawn by `make screenshots`. What decodes previews is --preview's
(training.preview), else the one that OUT had.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import pipelines
from pipelines.recipe import save
from pipelines.registry import INDEX, LORA, PREVIEW, WEIGHTS

KEPT = ("words.json", "training.json", "README.md", "config.json", INDEX, WEIGHTS, LORA)


def bundle(run: Path, out: Path, prompt: str, seed: int, preview: Path | None = None) -> None:
    """Copies what the app needs, and has a model draw its first picture."""
    preview = preview or out / PREVIEW
    small = {file.name: file.read_bytes() for file in sorted(preview.glob("*")) if file.name in KEPT}
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in KEPT:
        if (run / name).is_file():
            shutil.copyfile(run / name, out / name)
    if not (run / INDEX).is_file():
        return
    for part in json.loads((run / INDEX).read_text("utf-8")):
        if (run / part).is_dir():
            shutil.copytree(run / part, out / part)
    if small:
        (out / PREVIEW).mkdir()
    for name, data in small.items():
        (out / PREVIEW / name).write_bytes(data)
    picture, recipe = pipelines.load(out).draw(prompt, seed=seed)
    (out / "first.png").write_bytes(save(picture, recipe))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", default="frog with melon hat")
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--preview", type=Path, help="folder of the autoencoder for previews")
    args = parser.parse_args()
    bundle(args.run, args.out, args.prompt, args.seed, args.preview)
    return 0


if __name__ == "__main__":
    sys.exit(main())
