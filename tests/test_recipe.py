"""Recipes: into a picture and out again, read by others' tools, and what hostile files do."""

import io
import json
import re
import struct
import time
import tracemalloc
import zlib
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from pipelines import Problem, recipe, registry
from pipelines.recipe import Recipe

SETTINGS = {
    "temperature": 0.7,
    "count": 16,
    "tiled": True,
    "axes": [0, 1],
    "note": 'Grüße, "Wüste": 1 & <2>\n🙂',
    "empty": None,
}


@pytest.fixture
def made():
    return Recipe.make("vae_playground", "vae-digits-2d", "abc123", "sample", dict(SETTINGS), seed=42)


def chunks(png: bytes):
    """(kind, data) of each chunk."""
    at = 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        yield kind, png[at + 8 : at + 8 + length]
        at += length + 12


def png(*more: tuple[bytes, bytes]) -> bytes:
    """A PNG of one pixel with more chunks before the pixel."""
    header = b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = [header, *more, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def webp(xmp: bytes) -> bytes:
    body = b"WEBPXMP " + struct.pack("<I", len(xmp)) + xmp + b"\0" * (len(xmp) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def code(source) -> str:
    """The Problem that reading a hostile file ends in; it has to be quick and small whatever the file says."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(Problem) as caught:
        recipe.read(source)
    assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_png_round_trip(made, tmp_path):
    image = Image.radial_gradient("L").convert("RGB")
    data = recipe.save(image, made)
    assert recipe.read(data) == made
    (tmp_path / "a.png").write_bytes(data)
    assert recipe.read(tmp_path / "a.png") == recipe.read(str(tmp_path / "a.png")) == made
    assert Image.open(tmp_path / "a.png").tobytes() == image.tobytes()


def test_webp_round_trip(made):
    frames = [Image.new("RGB", (32, 32), (i * 20, 0, 0)) for i in range(5)]
    data = recipe.save(frames, made, duration_ms=50)
    assert recipe.read(data) == made
    animation = Image.open(io.BytesIO(data))
    assert animation.n_frames == 5
    for i, frame in enumerate(frames):
        animation.seek(i)
        assert animation.convert("RGB").tobytes() == frame.tobytes()


def test_pictures_say_that_a_model_made_them(made):
    uri = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    image = Image.new("RGB", (8, 8))
    for data in (recipe.save(image, made), recipe.save([image, image], made)):
        packet = re.search(rb"<x:xmpmeta.*</x:xmpmeta>", data, re.S)[0]
        description = ET.fromstring(packet)[0][0]
        assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == uri


def test_parameters_in_the_form_of_the_ecosystem(made):
    """The web UIs take the last line apart with this expression; without three finds it counts as prompt."""
    flux = Recipe.make(
        "text_to_image",
        "some/model",
        "abc",
        "text",
        {
            "prompt": "a cat,\nin the rain",
            "negative_prompt": "blur",
            "steps": 20,
            "sampler": "Euler a",
            "guidance": 7.5,
            "lora": "a: b",
        },
        seed=2**32 - 1,
    )
    *prompt, last = recipe.parameters(flux, (768, 512)).split("\n")
    assert prompt == ["a cat,", "in the rain", "Negative prompt: blur"]
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last))
    assert list(found)[:6] == ["Steps", "Sampler", "CFG scale", "Seed", "Size", "Model"]
    assert found["Steps"] == "20" and found["CFG scale"] == "7.5" and found["Seed"] == "4294967295"
    assert found["Size"] == "768x512" and found["Model"] == "some/model" and found["lora"] == '"a: b"'
    assert found["Version"].startswith("Trugbild ")
    assert last.startswith("Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: ")
    assert "Steps" not in recipe.parameters(made, (28, 28)) and "\n" not in recipe.parameters(made, (28, 28))


def test_text_chunks(made):
    kinds = {data.partition(b"\0")[0]: kind for kind, data in chunks(recipe.save(Image.new("L", (8, 8)), made))}
    assert kinds[b"trugbild"] == b"tEXt" and kinds[b"XML:com.adobe.xmp"] == b"iTXt" and b"parameters" in kinds
    assert Image.open(io.BytesIO(recipe.save(Image.new("L", (8, 8)), made))).text["parameters"]


def test_recipes_that_other_programs_compressed(made):
    text = made.to_json().encode()
    assert recipe.read(png((b"zTXt", b"trugbild\0\0" + zlib.compress(text)))) == made
    assert recipe.read(png((b"iTXt", b"trugbild\0\1\0\0\0" + zlib.compress(text)))) == made
    assert recipe.read(png((b"iTXt", b"trugbild\0\0\0de\0Rezept\0" + text))) == made


def test_pictures_without_a_recipe():
    assert code(png()) == "no_recipe"
    assert code(png((b"tEXt", b"parameters\0Steps: 20, Seed: 1, Size: 512x512"))) == "no_recipe"
    assert code(png((b"tEXt", b"parameters\0" + b"x" * 2**20))) == "no_recipe"
    assert code(webp(b"<x:xmpmeta/>")) == "no_recipe"
    assert code(b"RIFF\x04\0\0\0WEBP") == "no_recipe"


def test_other_files(tmp_path):
    for data in (b"", b"\xff\xd8\xff\xe0JFIF", b"GIF89a", b"hello", b"RIFF\0\0\0\0AVI "):
        assert code(data) == "recipe_format"
    (tmp_path / "text.png").write_text("not a picture")
    assert code(tmp_path / "text.png") == "recipe_format"


def test_cut_off_files(made):
    data = recipe.save(Image.new("RGB", (64, 64)), made)
    start = data.index(b"trugbild\0")
    for end in (8, 9, 20, 33, start - 2, start + 5, start + 100):
        assert code(data[:end]) == "picture_broken"
    animation = recipe.save([Image.new("RGB", (64, 64))] * 2, made)
    assert code(animation[: animation.index(b"XMP ") + 50]) == "picture_broken"
    assert code(animation[: animation.index(b"XMP ") + 6]) == "picture_broken"


def test_damaged_files(made):
    data = bytearray(recipe.save(Image.new("RGB", (64, 64)), made))
    data[data.index(b"trugbild\0") + 30] ^= 1
    assert code(bytes(data)) == "picture_broken"  # the checksum says so
    assert code(png((b"zTXt", b"trugbild\0\0not deflate"))) == "picture_broken"
    assert code(png((b"iTXt", b"trugbild\0\0\0\0\0\xff\xfe"))) == "recipe_broken"
    assert code(png((b"iTXt", b"trugbild\0"))) == "recipe_broken"
    assert code(png((b"zTXt", b"trugbild"))) in ("recipe_broken", "picture_broken")


def test_huge_recipes():
    for text in (b"x" * 2**20, b" " * 2**17, b'{"a":"' + b"x" * 10**6 + b'"}'):
        assert code(png((b"tEXt", b"trugbild\0" + text))) == "recipe_too_large"
        assert code(png((b"zTXt", b"trugbild\0\0" + zlib.compress(text)))) == "recipe_too_large"
        assert code(png((b"iTXt", b"trugbild\0\1\0\0\0" + zlib.compress(text)))) == "recipe_too_large"
    assert code(webp(b"x" * 2**20)) == "recipe_too_large"
    assert code(webp(b' trugbild:recipe="' + b"x" * 2**18 + b'"')) == "recipe_too_large"


def test_bombs():
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    assert code(png((b"iTXt", b"trugbild\0\1\0\0\0" + bomb))) == "recipe_too_large"
    assert code(png((b"zTXt", b"other\0\0" + bomb))) == "no_recipe"
    assert code(png((b"tEXt", b"trugbild\0" + b"[" * 60_000))) == "recipe_broken"
    assert code(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IDAT") == "picture_broken"
    assert code(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"tEXt" + b"trugbild\0") == "picture_broken"
    entities = b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 1000 + b'">]> trugbild:recipe="&a;&a;&a;"'
    assert code(webp(entities)) == "recipe_broken"


def test_empty_chunks_without_end():
    assert code(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0aaaa\0\0\0\0" * (recipe.MAX_CHUNKS + 1)) == "picture_broken"


WRONG = {
    "tab": [None, 3, "", "x" * 201, "faces", ["vae_playground"]],
    "model": [None, 1.5, {}, "\0"],
    "revision": [None, 7],
    "task": [None, True, "\ud800"],
    "settings": [None, [], "x", {"A": 1}, {"": 1}, {"a b": 1}, {"__class__": 1}, {f"a{i}": 1 for i in range(101)}],
    "noise": [{"noise": {}}, {"noise": [[1]]}, {"noise": [{}]}, {"noise": 10**400}, {"noise": "\0"}],
    "seed": [-1, 2**32, 2**64, 1.0, "1", True, [1]],
    "versions": [None, [], {"torch": 1}, {"x": "y" * 101}],
    "trugbild": [None, 0, 2, "1", 10**30],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_wrong_values(made, field, value):
    facts = json.loads(made.to_json())
    facts["settings" if field == "noise" else field] = value
    with pytest.raises(Problem) as caught:
        Recipe.from_json(json.dumps(facts))
    assert caught.value.code == "recipe_broken", caught.value


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_none(made, number):
    text = made.to_json().replace("0.7", number)
    with pytest.raises(Problem, match="recipe"):
        Recipe.from_json(text)


def test_wrong_keys(made):
    facts = json.loads(made.to_json())
    for text in (
        json.dumps(facts | {"more": 1}),
        json.dumps({key: value for key, value in facts.items() if key != "seed"}),
        made.to_json().replace('"task"', '"tab"'),  # twice
        "null",
        "[]",
        "",
        "{",
    ):
        with pytest.raises(Problem) as caught:
            Recipe.from_json(text)
        assert caught.value.code == "recipe_broken"


def test_recipes_of_elsewhere(made):
    def change(**more):
        with pytest.raises(Problem) as caught:
            Recipe.from_json(json.dumps(json.loads(made.to_json()) | more))
        return caught.value.code

    assert change(tab="video") == "unknown_tab"
    assert change(model="model-of-theirs") == "unknown_model"
    assert change(tab="os", model="../../etc/passwd") == "unknown_tab"


def test_a_recipe_that_is_too_long_is_not_written(made):
    long = Recipe.make("vae_playground", "vae-digits-2d", "abc", "sample", {"prompt": "x" * 65_000, "more": "y" * 1000})
    with pytest.raises(Problem, match="64 kB"):
        recipe.save(Image.new("L", (8, 8)), long)


def test_a_recipe_keeps_its_types(made):
    again = recipe.read(recipe.save(Image.new("L", (8, 8)), made))
    assert again.settings == SETTINGS and type(again.settings["tiled"]) is bool and type(again.settings["count"]) is int
    assert made.versions.keys() == {"trugbild", "torch", "diffusers"}
    assert registry.get(again.model).tab == again.tab
