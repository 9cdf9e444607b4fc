"""Texts of A1111 and Forge: what is understood, what is named, out of files, and what hostile ones do."""

import io
import struct
import subprocess
import sys
import time
import zlib

import pytest
from PIL import Image, PngImagePlugin

from pipelines import Problem, parameters, recipe
from pipelines.parameters import Lora, Parameters
from pipelines.recipe import Recipe
from tests.conftest import ROOT
from tests.test_recipe import png, webp

A1111 = """a frog, <lora:melons:0.8> (green:1.2)
BREAK by a lake
Negative prompt: blur, [text]
bad hands
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 4294967295, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned, Clip skip: 2, ENSD: 31337, Lora hashes: "melons: 0123, hats: 4567", Version: v1.9.4"""
FORGE = """a frog
Steps: 8, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 1, Size: 1024x1024, \
Model: flux1-dev-bnb-nf4, Module 1: ae, Diffusion in Low Bits: "bnb-nf4", Version: f2.0.1v1.10.1"""


def code(text) -> str:
    """The Problem that reading ends in; it has to be quick whatever the text says."""
    start = time.process_time()
    with pytest.raises(Problem) as caught:
        (parameters.parse if isinstance(text, str) else parameters.read)(text)
    assert time.process_time() - start < 1
    assert "\n" not in str(caught.value)
    return caught.value.code


def settings(line: str) -> Parameters:
    return parameters.parse(f"a frog\nSteps: 20, Seed: 1, Size: 64x64, {line}")


def test_a1111():
    found = parameters.parse(A1111)
    assert found == Parameters(
        prompt="a frog, (green:1.2)\nBREAK by a lake",
        negative_prompt="blur, [text]\nbad hands",
        steps=20,
        sampler="DPM++ 2M",
        schedule="Karras",
        guidance=7.5,
        seed=2**32 - 1,
        size=(512, 768),
        model="v1-5-pruned",
        loras=(Lora("melons", 0.8),),
        marks=("(green:1.2)", "BREAK", "[text]"),
        unknown=("Clip skip", "ENSD"),
    )
    assert parameters.parse(A1111.replace("\n", "\r\n")) == found
    assert (type(found.steps), type(found.seed), type(found.guidance)) == (int, int, float)


def test_forge():
    found = parameters.parse(FORGE)
    assert (found.sampler, found.schedule, found.guidance, found.distilled_guidance) == ("Euler", "Simple", 1.0, 3.5)
    assert found.unknown == ("Module 1", "Diffusion in Low Bits") and not found.marks


@pytest.mark.parametrize(
    ("name", "ours", "schedule"),
    [
        ("Euler a", "Euler a", ""),
        ("euler_ancestral", "Euler a", ""),
        ("DDIM", "DDIM", ""),
        ("UniPC", "UniPC", ""),
        ("uni_pc", "UniPC", ""),
        ("DDPM", "DDPM", ""),
        ("Euler SGM Uniform", "Euler", "SGM Uniform"),
        ("DPM++ 2M, Schedule type: Automatic", "DPM++ 2M", ""),
        ("DPM++ 2M, Schedule type: Align Your Steps", "DPM++ 2M", "Align Your Steps"),
    ],
)
def test_samplers(name, ours, schedule):
    found = settings(f"Sampler: {name}")
    assert (found.sampler, found.schedule, found.unknown) == (ours, schedule, ())


def test_samplers_that_are_not_here():
    found = settings("Sampler: DPM++ 2M SDE Exponential")
    assert (found.sampler, found.schedule, found.unknown) == ("", "Exponential", ("Sampler: DPM++ 2M SDE",))


def test_every_sampler_of_ours_comes_back():
    from pipelines.text_space import EVERY_SAMPLER

    assert [settings(f"Sampler: {name}").sampler for name in EVERY_SAMPLER] == list(EVERY_SAMPLER)


def test_our_own_pictures():
    """All that a recipe says comes back, and prompts are taken literally."""
    asked = {"prompt": "a frog (green),\n<lora:x:1> BREAK", "negative_prompt": "a [cat]", "steps": 8}
    made = Recipe.make(
        "text_to_image", "emoji-flux", "abc", "draw", asked | {"guidance": 3.0, "sampler": "Euler"}, seed=7
    )
    found = parameters.read(recipe.save(Image.new("RGB", (128, 96)), made))
    assert found == Parameters(
        asked["prompt"], asked["negative_prompt"], 8, "Euler", "", 3.0, None, 7, (128, 96), "emoji-flux"
    )


def test_loras():
    found = parameters.parse(
        "<lora:a:1>,<lora:sub/b c:-0.5:0.2>, a frog , <lyco:d>,<lora:e:te=0.5>\n<hypernet:f:1>, <3\n"
    )
    assert found.loras == (Lora("a"), Lora("sub/b c", -0.5), Lora("d"), Lora("e"))
    assert found.prompt == "a frog\n<hypernet:f:1>, <3"
    assert found.marks == ("<lora:sub/b c:-0.5:0.2>", "<lora:e:te=0.5>", "<hypernet:f:1>")
    assert parameters.parse("a ,  b").prompt == "a ,  b"  # nothing was taken, nothing is set anew


def test_marks():
    text = r"((a)), [b:c:0.5] {d|e} f AND g, \(h\) __animal__ embedding:neg (i, ((j) k) ANDROID"
    found = parameters.parse(text)
    assert found.prompt == text
    assert found.marks == ("((a))", "[b:c:0.5]", "{d|e}", "((j) k)", "AND", r"\(", r"\)", "__animal__", "embedding:neg")


def test_prompts_alone():
    assert parameters.parse("a frog: red, a hat: green") == Parameters("a frog: red, a hat: green")
    assert parameters.parse("Negative prompt: blur") == Parameters("", "blur")
    assert parameters.parse("Steps: 20") == Parameters("", steps=20)
    assert parameters.parse("a frog\n\nSteps: 3, Seed: 9").prompt == "a frog"


def test_lines_below_the_settings():
    found = parameters.parse("a frog\nSteps: 20, Seed: 1\nTemplate: a {frog|cat}\n\nNegative Template: x")
    assert (found.prompt, found.steps, found.unknown) == ("a frog", 20, ("Template", "Negative Template"))


def test_values_in_quotes():
    found = settings(r'ControlNet 0: "Module: canny, Weight: 1, say \"Seed: 5\"", Model: "a, b: \"c\""')
    assert (found.seed, found.model, found.unknown) == (1, 'a, b: "c"', ("ControlNet 0",))
    found = settings('Hashes: {"model": "1, Seed: 7", "vae": [1, {"a": "b"}]}, Seed: 3, Hires upscale: 2')
    assert (found.seed, found.unknown) == (3, ("Hires upscale",))


def test_numbers_beyond_what_is_possible():
    found = parameters.parse("a frog\nSteps: 150, CFG scale: 30, Seed: 18446744073709551615, Size: 7x100000")
    assert (found.steps, found.guidance, found.seed, found.size) == (None,) * 4
    assert [problem.code for problem in found.left_out] == ["out_of_range"] * 4
    assert [problem.values["name"] for problem in found.left_out] == ["steps", "guidance", "seed", "height"]
    assert settings("Steps: 20.5").left_out[0].code == "not_whole"


@pytest.mark.parametrize(
    "number", ["NaN", "inf", "-Infinity", "1e999", "9" * 5000, "", "1_0", "٣", "twenty", '"\\u0000"']
)
def test_numbers_that_are_none(number):
    for key in ("CFG scale", "Seed"):
        assert code(f"a\nSteps: 20, Model: x, Version: y, {key}: {number}") in ("not_a_number", "missing")
    assert code(f"a\nSteps: 20, Seed: 1, Size: {number}") == "parameters_broken"
    if number:
        assert code(f"a <lora:x:{number[:99]}>") == "not_a_number"


def test_hostile_texts():
    for text in ("", "  \n\t", "\ufeff"):
        assert code(text) == "no_parameters"
    for text in ("a\0b", "a\x1b[31m", "\ud800", "a\x7f"):
        assert code(text) == "no_letters"
    assert code("a" * 2**20) == "too_long" and code("a" * 10_000) == "too_long"
    assert code("<lora:x:1e9>") == "out_of_range"
    assert code("".join(f"<lora:{i}>" for i in range(1000))) == "parameters_broken"
    with pytest.raises(Problem, match="not a text"):
        parameters.parse(7)


@pytest.mark.parametrize(
    "unit",
    [
        'a b:"',
        'ab:"\\',
        'k:["',
        'k:{"a":[0,',
        "k:[",
        "{" * 9,
        "(",
        "[(",
        "<lora:",
        "<a:",
        "__",
        "a,",
        " ,",
        ": ",
        '"',
        "\\(",
    ]
    + ["a ", "Steps: 1\n", "Negative prompt:\n", "Steps: 1, " * 3 + "\n", '"\\"', "k:" + "9" * 4400 + ",", "a: b, "],
)
def test_texts_that_repeat_themselves(unit):
    """Every loop is linear: a text of the greatest length takes no longer than a moment."""
    for text in (unit * (65_000 // len(unit)), "Steps: 1, " + unit * (64_000 // len(unit))):
        start = time.process_time()
        try:
            found = parameters.parse(text)
            assert len(found.marks) <= parameters.MOST + 1 and len(found.unknown) <= parameters.MOST + 1
        except Problem:
            pass
        assert time.process_time() - start < 1


def test_names_are_short_and_can_be_written():
    found = settings(
        f'Model: "\\ud800\\u0007{"x" * 500}", {"Key" * 30}: 1, ' + ", ".join(f"Key {i}: 1" for i in range(99))
    )
    assert len(found.model) == 80 and found.model.encode() and found.model.isprintable()
    assert len(found.unknown) == parameters.MOST + 1 and found.unknown[-1] == "…"


# ---- files


def chunk(kind: bytes, text: bytes) -> bytes:
    return png((kind, b"parameters\0" + text))


def comment(value: bytes, order: str = ">") -> bytes:
    """An EXIF block with a UserComment."""

    def directory(tag: int, kind: int, length: int, at: int) -> bytes:
        return struct.pack(f"{order}HHHIII", 1, tag, kind, length, at, 0)

    head = struct.pack(f"{order}2sHI", b"MM" if order == ">" else b"II", 42, 8)
    return head + directory(0x8769, 4, 1, 26) + directory(0x9286, 7, len(value), 44) + value


def jpeg(exif: bytes) -> bytes:
    return b"\xff\xd8\xff\xe0\0\4JF\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + b"\xff\xda\0\2"


def test_png_text():
    wanted = parameters.parse("a frög 🐸\nSteps: 20, Seed: 1")
    text = "a frög 🐸\nSteps: 20, Seed: 1".encode()
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text.decode())
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    assert parameters.read(file.getvalue()) == wanted
    assert parameters.read(chunk(b"iTXt", b"\0\0de\0x\0" + text)) == wanted
    assert parameters.read(chunk(b"iTXt", b"\1\0\0\0" + zlib.compress(text))) == wanted
    assert parameters.read(chunk(b"tEXt", text)) == wanted  # against the rules of PNG, and common
    assert parameters.read(chunk(b"tEXt", "a frög".encode("latin-1"))).prompt == "a frög"
    assert parameters.read(chunk(b"zTXt", b"\0" + zlib.compress(b"a frog"))).prompt == "a frog"


def test_exif(tmp_path):
    for order in "<>":
        for value in (
            b"UNICODE\0" + A1111.encode("utf-16-be"),
            b"ASCII\0\0\0" + A1111.encode(),
            bytes(8) + A1111.encode(),
        ):
            exif = comment(value, order)
            for data in (png((b"eXIf", exif)), jpeg(exif), webp_exif(exif), webp_exif(b"Exif\0\0" + exif)):
                assert parameters.read(data) == parameters.parse(A1111)
    (tmp_path / "a.jpg").write_bytes(jpeg(comment(b"UNICODE\0" + "a frög".encode("utf-16-le"))))
    assert parameters.read(tmp_path / "a.jpg").prompt == parameters.read(str(tmp_path / "a.jpg")).prompt == "a frög"


def webp_exif(exif: bytes) -> bytes:
    body = b"WEBPEXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_exif_that_pillow_writes():
    exif = Image.Exif()
    exif[0x010E] = "a picture"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode("utf-16-be")
    for kind in ("JPEG", "WEBP", "PNG"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind, exif=exif)
        assert parameters.read(file.getvalue()) == parameters.parse(A1111)


def test_files_without_parameters():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    for data in (
        png(),
        file.getvalue(),
        webp(b"<x/>"),
        png((b"eXIf", b"nothing")),
        jpeg(b""),
        jpeg(b"MM\0*\0\0\0\x08\0\0"),
    ):
        assert code(data) == "no_parameters"
    for data in (b"", b"GIF89a", b"hello", b"RIFF\0\0\0\0AVI "):
        assert code(data) == "parameters_format"


def test_hostile_files():
    assert code(chunk(b"tEXt", b"x" * 2**20)) == "parameters_too_large"
    assert code(chunk(b"zTXt", b"\0" + zlib.compress(bytes(200 * 2**20), 9))) == "parameters_too_large"
    assert code(chunk(b"tEXt", b"x" * 66_000)) in ("parameters_too_large", "too_long")
    assert code(chunk(b"tEXt", b"a\1b")) == "no_letters"
    data = bytearray(chunk(b"tEXt", b"a frog"))
    data[data.index(b"frog")] ^= 1
    assert code(bytes(data)) == "picture_broken"
    assert code(bytes(data[:50])) == "picture_broken"
    assert code(webp_exif(bytes(2**20))) == "parameters_too_large"
    exif = comment(b"UNICODE\0" + "a frog".encode("utf-16-be"))
    for end in range(8, len(exif)):
        assert code(jpeg(exif[:end])) in ("parameters_broken", "no_parameters")
        assert code(jpeg(exif)[: end + 8]) == "picture_broken"
    assert (
        code(jpeg(exif.replace(b"\x87\x69\0\4\0\0\0\1\0\0\0\x1a", b"\x87\x69\0\4\0\0\0\1\xff\xff\xff\xff")))
        == "parameters_broken"
    )
    assert code(jpeg(comment(b"UNICODE\0\xd8"))) == "parameters_broken"
    assert code(b"\xff\xd8\xff\xe0\0\0") == "picture_broken"
    assert code(b"\xff\xd8" + b"\xff\xe0\0\2" * 70_000) == "picture_broken"


def test_no_torch():
    check = "import sys, pipelines.parameters; print(sorted({'torch', 'diffusers', 'gradio'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
