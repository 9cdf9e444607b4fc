"""Strokes, their text, and pictures like the training data."""

import base64
import json
import random
import string
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from apps import drawing
from apps.drawing import decode, encode, fit, fit_plain, picture, render, simplify
from pipelines.problems import Problem

DIGITS = [e for e in drawing.examples() if not e["fashion"]]
GARMENTS = [e for e in drawing.examples() if e["fashion"]]
WAVE = [[(100 + 13 * i, 500 + round(300 * np.sin(i / 8))) for i in range(60)]]


def scribble(rng: random.Random, strokes: int, points: int) -> drawing.Strokes:
    return [[(rng.randint(0, 1000), rng.randint(0, 1000)) for _ in range(points)] for _ in range(strokes)]


def problem(code: str):
    return pytest.raises(Problem, check=lambda error: error.code == code)


def values(image: Image.Image) -> np.ndarray:
    assert image.size == (28, 28)
    assert image.mode == "L"
    return np.asarray(image).astype(float)


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference in grey levels, after the best shift by a pixel."""
    a, b = values(a), values(b)
    return min(np.abs(np.roll(a, (y, x), (0, 1)) - b).mean() for y in (-1, 0, 1) for x in (-1, 0, 1))


# --- text ---


@pytest.mark.parametrize("seed", range(50))
def test_text_and_back(seed):
    rng = random.Random(seed)
    strokes = scribble(rng, rng.randint(0, 6), rng.randint(1, 40))
    text = encode(strokes)
    assert decode(text) == strokes
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")


def test_json_lists_are_drawings():
    strokes = json.loads("[[[0, 1000], [1000, 0]], [[5, 5]]]")
    assert decode(encode(strokes)) == [[(0, 1000), (1000, 0)], [(5, 5)]]


@pytest.mark.parametrize("strokes, points", [(1, 600), (600, 1), (20, 30)])
def test_the_longest_drawing_fits_into_a_link(strokes, points):
    largest = [[((i + j) % 2 * 1000, (i + j) % 2 * 1000) for j in range(points)] for i in range(strokes)]
    text = encode(largest)
    assert len(text) <= drawing.MAX_TEXT
    assert decode(text) == largest


def test_a_digit_is_a_short_text():
    assert len(encode(WAVE)) <= 200
    assert len(encode(simplify(WAVE))) <= 80
    assert max(len(e["strokes"]) for e in DIGITS) <= 130


@pytest.mark.parametrize(
    "strokes",
    [
        None,
        7,
        "text",
        [[]],
        [[(1, 2)], []],
        [[(1, 2, 3)]],
        [[(1, 1001)]],
        [[(-1, 0)]],
        [[(0.5, 1)]],
        [[(True, 1)]],
        [[(float("nan"), 1)]],
        [[(10**9, 1)]],
        [[("1", "2")]],
        [[None]],
        [[(1, 2)] * 601],
        [[(1, 2)]] * 601,
    ],
)
def test_bad_strokes_are_one_sentence(strokes):
    for use in (encode, render):
        with problem("bad_drawing") as caught:
            use(strokes)
        assert caught.value.values == {"points": 600, "size": 1000}


def b64(*numbers: int) -> str:
    return base64.urlsafe_b64encode(bytes(numbers)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "ä",
        "A",
        "AA",
        "A" * 4001,
        "/" * 8,
        "++++",
        "====",
        "AQIC ",
        " AQIC",
        "AQIC\n",
        "AQIC=",
        "<script>",
        "%41",
        "\0",
        b64(1, 2),  # cut off within a point
        b64(2, 2, 2),  # fewer points than announced
        b64(1, 2, 2, 0),  # an empty stroke
        b64(0, 1, 2, 2),
        b64(1, 130, 0, 2),  # an overlong number
        b64(1, 1, 2),  # x = -1
        b64(1, 2, 255),  # cut off within a number
        b64(1, 128 + 82, 15, 2),  # x = 1001
        b64(*[255] * 2990),  # a number of 21,000 bits
        b64(1, 2, 2)[:-1] + chr(ord(b64(1, 2, 2)[-1]) + 1) + "x",
    ],
)
def test_hostile_text_is_one_sentence(text):
    with problem("bad_drawing"):
        decode(text)


def test_any_text_is_a_drawing_or_one_sentence():
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + "-_"
    for _ in range(2000):
        text = "".join(rng.choices(letters, k=rng.randint(0, 40)))
        try:
            assert encode(decode(text)) == text
        except Problem as error:
            assert error.code == "bad_drawing"


# --- simplify ---


def test_simplify_drops_what_nobody_sees():
    thin = simplify(WAVE)
    assert len(thin[0]) < 30
    assert thin[0][0] == WAVE[0][0]
    assert thin[0][-1] == WAVE[0][-1]
    assert difference(render(thin), render(WAVE)) < 2


def test_simplify_keeps_dots_corners_and_closed_strokes():
    assert simplify([[(5, 5)], [(7, 7)] * 9]) == [[(5, 5)], [(7, 7)]]
    square = [(0, 0), (0, 900), (900, 900), (900, 0), (0, 0)]
    assert simplify([square]) == [square]


def test_simplify_makes_a_wild_scribble_fit():
    thin = simplify(scribble(random.Random(1), 1, drawing.MAX_RAW))
    assert len(thin[0]) == drawing.MAX_POINTS
    assert decode(encode(thin)) == thin
    with problem("bad_drawing"):
        simplify(scribble(random.Random(1), 1, drawing.MAX_RAW + 1))


# --- digits ---


@pytest.mark.parametrize("strokes", [decode(e["strokes"]) for e in DIGITS], ids=[e["id"] for e in DIGITS])
def test_render_as_mnist_does(strokes):
    ink = values(render(strokes))
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
    assert ink.max() == 255
    for axis in (0, 1):
        assert abs(np.average(np.arange(28), weights=ink.sum(axis)) - 14) <= 1
    assert (ink == 0).mean() > 0.6
    assert set(ink[[0, 0, -1, -1], [0, -1, 0, -1]]) == {0}


def test_ink_statistics_are_those_of_mnist():
    """The 10,000 test pictures: ink 103, pixels inked 151, of these 38 % white; here each class counts alike."""
    pictures = [values(picture(e)) for e in DIGITS]
    inked = np.mean([(p > 0).sum() for p in pictures])
    assert np.mean([p.sum() / 255 for p in pictures]) == pytest.approx(103, rel=0.06)
    assert inked == pytest.approx(151, rel=0.06)
    assert np.mean([(p >= 250).sum() / (p > 0).sum() for p in pictures]) == pytest.approx(0.38, abs=0.04)


def test_a_wider_pen_leaves_more_ink():
    ink = [values(render(WAVE, width)).sum() for width in (1.5, 2.8, 5)]
    assert ink[0] < ink[1] < ink[2]


def test_render_does_not_depend_on_size_and_place():
    small = [[(300 + x // 4, 700 + y // 4) for x, y in stroke] for stroke in WAVE]
    assert difference(render(small), render(WAVE)) < 2


@pytest.mark.parametrize("strokes", [[[(0, 0)]], [[(500, 500)] * 3], [[(998, 1000), (1000, 1000)]]])
def test_a_dot_is_a_dot(strokes):
    ink = values(render(strokes))
    assert 2 < ink.sum() / 255 < 15
    assert ink[14, 14] == 255


def test_an_empty_drawing_is_one_sentence():
    assert decode(encode([])) == []
    with problem("empty_drawing"):
        render([])


def test_ink_stays_inside_however_lopsided():
    lopsided = [[(x, y) for x in range(0, 200, 20) for y in (0, 180)], [(0, 0), (1000, 1000)]]
    for turn in (lambda x, y: (x, y), lambda x, y: (1000 - x, y), lambda x, y: (y, 1000 - x)):
        ink = values(render([[turn(x, y) for x, y in stroke] for stroke in lopsided]))
        assert np.ptp(np.flatnonzero(ink.any(1))) == np.ptp(np.flatnonzero(ink.any(0))) == 19


# --- what we drew ---


def test_examples_are_complete():
    assert len({e["id"] for e in drawing.examples()}) == len(drawing.examples())
    counts = [[e["label"] for e in DIGITS].count(label) for label in range(10)]
    assert min(counts) >= 3
    assert [e["label"] for e in GARMENTS] == list(range(10))
    assert all(e["id"][0] == str(e["label"]) for e in DIGITS)


@pytest.mark.parametrize("example", GARMENTS, ids=[e["id"] for e in GARMENTS])
def test_garments_fill_the_picture(example):
    cloth = values(picture(example))
    rows, columns = np.flatnonzero(cloth.any(1)), np.flatnonzero(cloth.any(0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 28
    assert 100 < cloth[cloth > 0].mean() < 200
    assert np.median([cloth[0, 0], cloth[0, -1], cloth[-1, 0], cloth[-1, -1]]) == 0


# --- uploads ---


def enlarged(image: Image.Image, factor: int = 10) -> Image.Image:
    return image.resize((28 * factor, 28 * factor), Image.Resampling.BICUBIC)


def photo(image: Image.Image) -> Image.Image:
    """Dark ink off centre on grey paper under a lamp, with noise."""
    ink = np.zeros((480, 640))
    ink[150:402, 60:312] = np.asarray(enlarged(image, 9)) / 255
    y, x = np.mgrid[:1:480j, :1:640j]
    grey = (0.5 + 0.4 * x - 0.2 * y * y) * (1 - 0.7 * ink) + np.random.default_rng(0).normal(0, 0.015, ink.shape)
    return Image.fromarray((255 * np.clip(grey, 0, 1)).astype(np.uint8)).convert("RGB")


WAYS = {
    "inverted": ImageOps.invert,
    "scaled": enlarged,
    "scaled and inverted": lambda image: enlarged(ImageOps.invert(image), 7),
    "huge": lambda image: enlarged(image, 100),
    "off centre": lambda image: ImageOps.expand(enlarged(image, 4), (200, 30, 50, 120)),
    "cut to its ink": lambda image: ImageOps.invert(enlarged(image).crop(enlarged(image).getbbox())),
    "low contrast": lambda image: enlarged(image).point(lambda grey: 150 - grey // 4),
    "soft": lambda image: enlarged(ImageOps.invert(image)).filter(ImageFilter.GaussianBlur(3)),
    "photographed": photo,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("id_", ["0-a", "2-d", "4-b", "5-a", "7-c", "8-a"])
def test_fit_finds_the_digit(id_, way):
    original = picture(next(e for e in DIGITS if e["id"] == id_))
    assert difference(fit(way(original)), original) < 11  # another digit of its class: about 30


def test_fit_thickens_a_thin_pen():
    strokes = decode(DIGITS[9]["strokes"])
    page = Image.new("RGB", (900, 900), "white")
    for stroke in strokes:
        ImageDraw.Draw(page).line([(200 + x / 2, 150 + y / 2) for x, y in stroke], fill=(20, 30, 120), width=6)
    assert difference(fit(page), render(strokes)) < 20
    assert values(fit(page)).sum() == pytest.approx(values(render(strokes)).sum(), rel=0.25)


def test_fit_takes_training_pictures_as_they_are():
    for example in drawing.examples():
        image = picture(example)
        assert (fit_plain if example["fashion"] else fit)(image).tobytes() == image.tobytes()


@pytest.mark.parametrize("example", GARMENTS, ids=[e["id"] for e in GARMENTS])
def test_fit_plain_takes_the_middle_and_turns_dark_on_light(example):
    original = picture(example)
    wide = ImageOps.expand(ImageOps.invert(enlarged(original)), (90, 0), fill=255)
    assert difference(fit_plain(wide), original) < 12


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (28, 28), (300, 200), (3000, 1)])
@pytest.mark.parametrize("take", [fit, fit_plain])
def test_a_blank_picture_is_one_sentence(size, take):
    for colour in ("white", "black", "#808182"):
        with problem("blank_picture"):
            take(Image.new("RGB", size, colour))
    noise = np.random.default_rng(0).normal(200, 3, (size[1], size[0])).clip(0, 255).astype(np.uint8)
    with problem("blank_picture"):
        take(Image.fromarray(noise))


@pytest.mark.filterwarnings("error")
def test_fit_survives_any_pixels():
    rng = np.random.default_rng(0)
    for i in range(60):
        pixels = rng.integers(0, 256, rng.integers(1, 60, 2)).astype(np.uint8)
        if i % 2:
            pixels = 255 * (pixels > 250).astype(np.uint8)
        for take in (fit, fit_plain):
            try:
                values(take(Image.fromarray(pixels)))
            except Problem as error:
                assert error.code == "blank_picture"


def test_no_torch():
    code = "import sys; import apps.drawing; sys.exit(any(m in sys.modules for m in ('torch', 'gradio', 'diffusers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
