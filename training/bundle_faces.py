"""A trained face model and the stages it grew through -> a folder that comes with the app.

    python -m training.bundle_faces runs/faces-64 --out pipelines/checkpoints/faces-64 --seed 7 \
        --stages runs/faces-16/state/snapshot-0001500:48000 runs/faces-32/state/snapshot-0002000:160000

A stage is a folder with a generator and the number of pictures seen until then, all earlier runs included. The seed
is that of the picture on the first screen (`first.png`).
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import pipelines
from pipelines.face_space import FIRST
from pipelines.recipe import save

NET = ("config.json", "diffusion_pytorch_model.safetensors")


def bundle(run: Path, out: Path, stages: list[tuple[Path, int]], seed: int) -> None:
    """Copies what the app needs, and has the model draw its first picture."""
    shutil.rmtree(out, ignore_errors=True)
    copies = [(run, out, (*NET, "training.json", "README.md"))]
    copies += [(run / "discriminator", out / "discriminator", NET)]
    copies += [(folder, out / "stages" / f"{seen:08d}", NET) for folder, seen in stages]
    for source, target, names in copies:
        target.mkdir(parents=True)
        for name in names:
            shutil.copyfile(source / name, target / name)
    facts = json.loads((out / "training.json").read_text("utf-8"))
    listed = [{"name": f"{seen:08d}", "pictures_seen": seen} for _, seen in stages]
    listed += [{"pictures_seen": facts["figures"]["pictures seen"]}]
    (out / "stages" / "stages.json").write_text(json.dumps(listed, indent=1) + "\n", "utf-8")
    (picture,), recipe = pipelines.load(out).generate(seed, **FIRST)
    (out / "first.png").write_bytes(save(picture, recipe))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", nargs="*", default=[], metavar="FOLDER:PICTURES")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    stages = [(Path(folder), int(seen)) for folder, _, seen in (stage.rpartition(":") for stage in args.stages)]
    bundle(args.run, args.out, stages, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
