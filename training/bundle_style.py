"""A trained pair -> a folder that comes with the app.

    python -m training.bundle_style runs/historic --out pipelines/checkpoints/style-historic --photo astronaut.png

The photo is what the first screen shows translated (`first.png`); its name says which sample of the tab it is. The
card gets a contact sheet, of pictures that are free to be shown. --degrid is for pairs that were trained with --up 3.
Give the pair its line in MODELS of pipelines/registry.py first: the picture names the model that made it.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from skimage import data

import pipelines
from pipelines import runtime
from pipelines.pictures import open_picture
from pipelines.recipe import save
from pipelines.style_space import DIRECTIONS, SIZE
from training import common

PEOPLE = 92, 30  # seeds of the people on the sheet
NET = ("config.json", "diffusion_pytorch_model.safetensors")


def bundle(run: Path, out: Path, photo: Path, credits: Sequence[Path] = (), degrid: bool = False) -> None:
    """Copies what the app needs, and has the pair make its first translation."""
    shutil.rmtree(out, ignore_errors=True)
    nets = [f"{direction}{judge}" for direction in DIRECTIONS for judge in ("", "/discriminator")]
    copies = ["training.json", "README.md", *(f"{net}/{name}" for net in nets for name in NET)]
    for name in copies:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, out / name)
    if degrid:
        for config in (out / direction / NET[0] for direction in DIRECTIONS):
            config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"degrid": True}, indent=2), "utf-8")
    if credits:
        (out / "CREDITS.txt").write_text("\n".join(path.read_text("utf-8") for path in credits), "utf-8")
    _, picture, recipe = pipelines.load(out).translate(open_picture(photo), size=SIZE)
    recipe = replace(recipe, settings=recipe.settings | {"sample": photo.stem, "face": False})
    (out / "first.png").write_bytes(save(picture, recipe))
    add_sheet(out)


def add_sheet(out: Path) -> None:
    """sheet.webp of photographs and of people who do not exist, and the card with it."""
    pair, faces = pipelines.load(out), pipelines.load("faces-64")
    people = [faces.generate(seed)[0][0] for seed in PEOPLE]
    photos = [Image.fromarray(photo()) for photo in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
    cells = []
    for picture in [*photos, *people]:
        for i, direction in enumerate(pair.directions):
            trip = pair.cycle(picture.resize((256, 256), Image.Resampling.LANCZOS), direction, 256)
            cells += [trip.before, trip.there, trip.back][min(i, 1) :]
    small = [cell.resize((160, 160), Image.Resampling.LANCZOS) for cell in cells]
    rows = len(photos) + len(people)
    common.grid(torch.cat([runtime.to_tensor(cell) for cell in small]), len(cells) // rows).save(
        out / "sheet.webp", quality=85
    )
    told = "Row by row: the picture, translated A to B and back to A; then translated B to A and back to B. "
    told += "Photographs: scikit-image's, in the public domain; the people do not exist."
    training = json.loads((out / "training.json").read_text("utf-8"))
    common.write_card(out, training | {"sheet": told})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument(
        "--credits", type=Path, nargs="+", default=(), help="who made the pictures, where their licence asks for it"
    )
    parser.add_argument("--degrid", action="store_true", help="the generators take out the grid of dots they draw")
    args = parser.parse_args()
    bundle(args.run, args.out, args.photo, args.credits, args.degrid)
    return 0


if __name__ == "__main__":
    sys.exit(main())
