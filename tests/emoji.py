"""An emoji pack as training/scenes.py reads it, of discs and bars: two sets, six objects, three hats."""

import io
import json
from pathlib import Path

import pyarrow as pa
from PIL import Image, ImageDraw
from pyarrow import parquet

from training.prepare.new_thing import THING

SETS = ("noto", "fluent-3d")
GREEN, RED, BLUE = (0, 160, 0), (220, 0, 0), (0, 0, 220)
HEAD = [0.5, 0.2, 0.5]  # of every wearer: middle and lower edge of the hat, its width
FIT = {"base": 0.75, "cx": 0.5, "w": 0.9, "top": 0.25, "k": 1.0, "sink": 0.0, "rot": 0, "flip": "", "crop": 0}
OBJECTS = {  # English noun, German noun and dative, gender, place, whether it wears hats
    "frog": ("frog", "Frosch", "Frosch", "m", "ground", True),
    "bear": ("bear", "Bär", "Bären", "m", "ground", True),
    "owl": ("owl", "Eule", "Eule", "f", "ground", True),
    "gem": ("gem", "Edelstein", "Edelstein", "m", "ground", False),
    "car": ("car", "Auto", "Auto", "n", "ground", False),
    "sun": ("sun", "Sonne", "Sonne", "f", "air", False),
}
HATS = {"melon": "Melonenhut", "crown": "Kronenhut", "bell": "Glockenhut"}
BACKGROUNDS = {
    "plain_white": {
        "en": ["on a white background"], "de": ["vor weißem Hintergrund", "vor einem weißen Hintergrund"],
        "ground": None, "recipe": [{"op": "vgrad", "y0": 0, "y1": 1, "from": "#ffffff", "to": "#ffffff"}],
    },
    "park": {  # every operation there is
        "en": ["in a park"], "de": ["in einem Park", "im Park"], "ground": 0.9, "recipe": [
            {"op": "vgrad", "y0": 0, "y1": 0.6, "from": "#80c0ff", "to": "#ffffff"},
            {"op": "clouds", "n": [1, 2], "region": [0, 0, 1, 0.3], "r": [0.05, 0.09], "color": "#ffffff"},
            {"op": "ellipse", "cx": 0.8, "cy": 0.1, "rx": 0.07, "ry": 0.07, "color": "#ffee88"},
            {"op": "peaks", "n": 2, "y": 0.6, "h": [0.2, 0.3], "color": "#888888", "snow": "#ffffff"},
            {"op": "skyline", "n": 3, "y": 0.6, "h": [0.1, 0.3], "colors": ["#777788"], "window": "#ffeeaa"},
            {"op": "trees", "n": 2, "y": [0.6, 0.66], "h": [0.2, 0.3], "color": "#226622", "trunk": "#665544"},
            {"op": "wave", "y": 0.6, "amp": 0.02, "wavelength": 0.9, "color": "#66aa44", "to": "#447733"},
            {"op": "rect", "x0": 0, "y0": 0.8, "x1": 1, "y1": 0.82, "color": "#bbbbbb"},
            *({"op": "scatter", "shape": shape, "n": [2, 4], "region": [0, 0.7, 1, 1], "r": [0.01, 0.02],
               "colors": ["#ffffff", "#ff8888"]} for shape in ("dot", "ring", "crater", "flower")),
        ],
    },
}  # fmt: skip
ENDING = {"m": ("ein", "einen", "einem"), "f": ("eine", "eine", "einer"), "n": ("ein", "ein", "einem")}


def german(noun: str, other: str, gender: str) -> dict:
    cases = zip(("nominative", "accusative", "dative"), ENDING[gender], (noun, other, other), strict=True)
    return {"gender": gender} | {case: f"{article} {form}" for case, article, form in cases}


def picture(colour: tuple[int, int, int], box: tuple[int, int, int, int], shape: str) -> bytes:
    """128 px RGBA; the colour of what is transparent is a glaring pink that must never be seen."""
    image = Image.new("RGBA", (128, 128), (255, 0, 255, 0))
    getattr(ImageDraw.Draw(image), shape)(box, fill=(*colour, 255))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()


def write_pack(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    objects, wearers, hats, pictures = [], [], [], {}
    for id, (en, noun, other, gender, place, wears) in OBJECTS.items():
        article = "an" if en[0] in "aeiou" else "a"
        words = {"en": {"noun": en, "indefinite": f"{article} {en}"}, "de": german(noun, other, gender)}
        objects.append({"id": id, "codepoints": id, "place": place, "wearer": wears, **words})
        wearers += [{"id": id, "codepoints": id, "head": dict.fromkeys(SETS, HEAD)}] if wears else []
        pictures[id] = picture(GREEN, (16, 24, 111, 119), "ellipse")
    for id, noun in HATS.items():
        words = {"en": {"noun": f"{id} hat", "indefinite": f"a {id} hat"}, "de": german(noun, noun, "m")}
        words["de"] |= {"phrase": f"mit {noun}", "phrase_article": f"mit einem {noun}"}
        hats.append({"id": id, "codepoints": f"hat {id}", "fit": dict.fromkeys(SETS, FIT), **words})
        pictures[f"hat {id}"] = picture(RED, (6, 32, 121, 95), "rectangle")
    pictures[THING["codepoints"]] = picture(BLUE, (16, 24, 111, 119), "ellipse")
    backgrounds = [
        {"id": id, "en": b["en"][0], "de": b["de"][0], "en_alt": b["en"][1:], "de_alt": b["de"][1:],
         "ground": b["ground"], "recipe": b["recipe"]} for id, b in BACKGROUNDS.items()
    ]  # fmt: skip
    relations = [
        {"id": "left_of", "en": "{a} to the left of {b}", "de": "{a_nom} links neben {b_dat}", "a": "left"},
        {"id": "right_of", "en": "{a} to the right of {b}", "de": "{a_nom} rechts neben {b_dat}", "a": "right"},
        {"id": "and", "en": "{a} and {b}", "de": "{a_nom} und {b_nom}", "a": "any"},
    ]
    vocabulary = {
        "sets": SETS, "how": {"max_height": 1.15}, "objects": objects, "wearers": wearers, "hats": hats,
        "backgrounds": backgrounds, "relations": relations,
    }  # fmt: skip
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    rows = [{"image": {"bytes": data, "path": None}, "codepoints": code} for code, data in pictures.items()]
    for name in SETS:
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder
