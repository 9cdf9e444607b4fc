"""From upstream to the emoji pack that training/scenes.py reads: four sets of pictures, and the words.

    python training/prepare/text_to_image.py --out data/emoji
    python training/prepare/text_to_image.py --out data/emoji --source noto=noto-emoji --source twemoji=package ...

A SOURCE is an address or a folder here, laid out as upstream: of noto the repository, of twemoji and fluent-flat the
unpacked npm package, of fluent-3d the repository. By default each is what its commit or release holds. Only
the emoji that text_to_image.json names are fetched. That file, beside this one, is the vocabulary: what
each picture is called in English and German, where heads are and how hats sit, and recipes of backgrounds. It was
written for these sets and stands nowhere else, so it lives here; it becomes vocab.json.

Noto Emoji: Copyright 2013 Google LLC, Apache-2.0. Twemoji: Copyright 2014-2021 Twitter, 2022-present Jason Sofonia &
Justine De Caires, CC BY 4.0. Fluent Emoji: Copyright (c) Microsoft Corporation, MIT. All trimmed and scaled here.
"""

import argparse
import functools
import io
import json
import shutil
import sys
import urllib.request
from pathlib import Path

import pyarrow as pa
import resvg_py
from PIL import Image
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from any folder

from training.common import TrainingError, one_sentence

VOCABULARY = Path(__file__).with_suffix(".json")
GITHUB, NPM = "https://raw.githubusercontent.com", "https://cdn.jsdelivr.net/npm"
SOURCES = {
    "noto": f"{GITHUB}/googlefonts/noto-emoji/b3e3051a088047d19fd4d49b1c3ac42fb8c3aaf8",
    "twemoji": f"{NPM}/@discordapp/twemoji@16.0.1",
    "fluent-3d": f"{GITHUB}/shuding/fluentui-emoji-unicode/7a40f1a2d064d76e436813edc0f09b6c8cde5da8",
    "fluent-flat": f"{NPM}/@iconify-json/fluent-emoji-flat@1.2.6",
}
SIZE, LONGEST, RENDERED = 128, 120, 480  # px: a picture, the longer side of what is in it, an SVG before it is scaled


class Source:
    """An address or a folder; `source(name)` -> bytes of the file of that name."""

    def __init__(self, place: str):
        self.address = place.rstrip("/") if "://" in place else Path(place).resolve().as_uri()
        if "://" not in place and not Path(place).is_dir():
            raise TrainingError(f"{place} is neither a folder nor an address.")

    @functools.cache  # noqa: B019 - one source lives as long as the program
    def __call__(self, name: str) -> bytes:
        try:
            with urllib.request.urlopen(f"{self.address}/{name}", timeout=60) as response:  # noqa: S310
                return response.read()
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.address}/{name} could not be read: {error}.") from error


def render(svg: str) -> bytes:
    """SVG -> PNG"""
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, height=RENDERED, skip_system_fonts=True))


def noto(source: Source, code: str) -> bytes:
    parts = [part.zfill(4) for part in code.split("-") if part != "fe0f"]
    return source(f"png/512/emoji_u{'_'.join(parts)}.png")


def twemoji(source: Source, code: str) -> bytes:
    parts = [part.lstrip("0") for part in code.split("-")]
    if "200d" not in parts:  # only sequences keep the mark of colour
        parts = [part for part in parts if part != "fe0f"]
    return render(source(f"dist/svg/{'-'.join(parts)}.svg").decode())


def fluent_3d(source: Source, code: str) -> bytes:
    return source(f"assets/{code}_3d.png")


def fluent_flat(source: Source, code: str) -> bytes:
    names, icons = (json.loads(source(name)) for name in ("chars.json", "icons.json"))
    try:
        name = names.get(code) or names[code.replace("-fe0f", "")]
        body = icons["icons"][icons.get("aliases", {}).get(name, {}).get("parent", name)]["body"]
    except KeyError as error:
        raise TrainingError(f"fluent-flat has no picture of {code}.") from error
    return render(f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                  f'viewBox="0 0 32 32">{body}</svg>')  # fmt: skip


SETS = {"noto": noto, "twemoji": twemoji, "fluent-3d": fluent_3d, "fluent-flat": fluent_flat}


def fit(data: bytes) -> bytes:
    """A picture of any size -> lossless WebP, 128 px RGBA: what is not transparent, its longer side 120 px, centred."""
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
    except (OSError, SyntaxError) as error:
        raise TrainingError("A picture is not whole.") from error
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 12)).getbbox()
    if not box:
        raise TrainingError("A picture is empty.")
    picture = picture.crop(box)
    scale = LONGEST / max(picture.size)
    # Pillow premultiplies alpha for a resize and undoes it afterwards
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    canvas.putalpha(canvas.getchannel("A").point(lambda alpha: alpha if alpha > 2 else 0))
    file = io.BytesIO()
    canvas.save(file, "WEBP", lossless=True, method=6, quality=80)
    return file.getvalue()


def prepare(sources: dict[str, str], out: Path, vocabulary: Path) -> None:
    """Writes <set>.parquet (columns image, codepoints) for each set, and vocab.json last: a pack is whole or none."""
    words = json.loads(vocabulary.read_text("utf-8"))
    codes = sorted({entry["codepoints"] for kind in ("objects", "hats") for entry in words[kind]})
    out.mkdir(parents=True, exist_ok=True)
    for name in words["sets"]:
        source, rows = Source(sources[name]), []
        for code in codes:
            try:
                picture = fit(SETS[name](source, code))
            except TrainingError as error:
                raise TrainingError(f"{name}, {code}: {error}") from error
            rows.append({"image": {"bytes": picture, "path": None}, "codepoints": code})
        parquet.write_table(pa.Table.from_pylist(rows), out / f"{name}.tmp", compression="zstd")
        (out / f"{name}.tmp").replace(out / f"{name}.parquet")
        print(f"{name}: {len(rows)} pictures", flush=True)
    shutil.copyfile(vocabulary, out / "vocab.json")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", action="append", default=[], metavar="SET=PLACE", help="address or folder of a set")
    args = parser.parse_args(argv)
    with one_sentence():
        given = dict(pair.partition("=")[::2] for pair in args.source)
        if unknown := given.keys() - SOURCES.keys():
            raise TrainingError(f"There is no set {', '.join(sorted(unknown))}; there are {', '.join(SOURCES)}.")
        prepare(SOURCES | given, args.out, VOCABULARY)


if __name__ == "__main__":
    main()
