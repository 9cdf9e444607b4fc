"""Diffusion beside flow matching: the geometry of paths, what is computed from tiny models, what the page shows."""

import io
import json
import math
import re
from types import SimpleNamespace
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import LANGUAGES, ROOT, models_apart
from PIL import Image

import pipelines
from apps import i18n, text_paths
from apps.sections import Sections
from apps.text_paths import FEW, PATHS, compare, page, paths, quality
from pipelines import recipe
from pipelines.problems import Problem
from pipelines.text_paths import detour, path, plane
from tests import tiny_text

DIAGRAM = ROOT / "apps" / "assets" / "text_to_image.svg"
ASK = ("frog with melon hat", "", 5, 3, 4.0)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`pipelines.load`, with tiny models for the two that are compared."""
    with models_apart(), pytest.MonkeyPatch.context() as patch:
        folders = tiny_text.folders(tmp_path_factory.mktemp("text"))
        patch.setattr(text_paths, "PAIR", {kind: pipelines.register_folder(at).id for kind, at in folders.items()})
        yield pipelines.load


@pytest.fixture(scope="module")
def made(load):
    return compare(load, *ASK, lang="en")


# ---- geometry


def line(*points) -> np.ndarray:
    return np.array(points, float)


def test_a_straight_path_makes_no_detour():
    start, end = np.random.default_rng(0).standard_normal((2, 4096))
    straight = np.stack([start + t * (end - start) for t in (0, 0.1, 0.7, 1)])
    assert detour(straight) == pytest.approx(1)
    seen = plane(straight)
    assert seen.points == pytest.approx(line((0, 0), (0.1, 0), (0.7, 0), (1, 0)), abs=1e-6)
    assert (seen.shown, seen.dimensions) == (1, 4096)


def test_the_ideal_path_of_diffusion_is_a_quarter_circle():
    noise, picture = np.eye(4096)[:2] * 64
    turns = np.linspace(0, math.pi / 2, 400)
    seen = plane(np.stack([math.cos(a) * noise + math.sin(a) * picture for a in turns]))
    assert seen.detour == pytest.approx(math.pi / 2 / math.sqrt(2), rel=1e-4)  # the 1.11 of the texts
    assert seen.points[:, 1].max() == pytest.approx((math.sqrt(2) - 1) / 2, rel=1e-4)
    assert seen.shown == pytest.approx(1)


def test_a_plane_keeps_both_ends_and_bends_upwards():
    points = np.random.default_rng(1).standard_normal((9, 50)).cumsum(0)
    seen = plane(points)
    assert seen.points[[0, -1]] == pytest.approx(line((0, 0), (1, 0)), abs=1e-12)
    assert seen.points[:, 1].sum() >= 0
    assert 0 < seen.shown < 1
    assert plane(points[:, :2]).shown == pytest.approx(1), "nothing of a plane path is lost"
    assert plane(10 * points).points == pytest.approx(seen.points), "whatever its size"


def test_no_plane_path_is_longer_than_the_path():
    points = np.random.default_rng(2).standard_normal((30, 16))
    assert 1 < detour(plane(points).points) < detour(points) == plane(points).detour


def test_one_step_is_straight():
    seen = plane(line((0, 1, 2), (4, 1, 0)))
    assert (seen.detour, seen.shown) == (pytest.approx(1), 1)


def test_a_path_is_what_was_traced():
    moments = [SimpleNamespace(x=torch.full((1, 2, 2, 2), float(i))) for i in range(3)]
    points = path(SimpleNamespace(moments=moments, latent=torch.full((1, 2, 2, 2), 9.0)))
    assert points.tolist() == [[i] * 8 for i in (0, 1, 2, 9)]


# ---- what is computed


def test_both_begin_with_the_same_noise(load):
    prompt, negative, seed, steps, guidance = ASK
    first, second = (
        path(load(model).trace(prompt, negative, seed, steps, guidance)) for model in text_paths.PAIR.values()
    )
    assert first.shape == second.shape == (steps + 1, 4 * 16 * 16)
    assert first[0] == pytest.approx(second[0], abs=1e-5)
    assert not np.allclose(first[-1], second[-1])


def test_everything_is_there(made):
    for course in made.values():
        assert [len(part) for part in course] == [1, PATHS, len(FEW)]
        assert all(seen.points.shape == (4, 2) and seen.detour >= 1 for seen in course.paths)
        assert len({seen.detour for seen in course.paths}) == PATHS, "each seed has its path"


def test_progress_is_told_to_the_end(load, made):
    told = []
    compare(load, *ASK, lang="en", on_step=lambda *event: told.append(event))
    total = 2 * (PATHS * 3 + sum(FEW))
    assert {n for _, n, _ in told} == {total}
    assert [i for i, _, so_far in told if so_far is None] == list(range(1, total + 1))
    grown = [so_far for *_, so_far in told if so_far]
    assert len(grown) == 2 * (PATHS + len(FEW))
    assert [len(of["diffusion"].paths) for of in grown[:3]] == [1, 1, 2], "what was shown stays as it was"
    for kind, course in grown[-1].items():
        assert [one.data for one in course.few] == [one.data for one in made[kind].few], "the same, watched or not"


def test_stop_ends_it(load):
    def on_step(i, n, so_far):
        if i == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(load, *ASK, lang="en", on_step=on_step)


def test_saved_pictures_are_made_again_pixel_for_pixel(load, made):
    for kind, model in text_paths.PAIR.items():
        few = [("picture", n, figure) for n, figure in zip(FEW, made[kind].few, strict=True)]
        for section, steps, figure in [("paths", 3, made[kind].pictures[0]), *few]:
            known = recipe.read(figure.data)
            settings = known.settings
            assert (known.model, known.seed, settings["section"], settings["steps"]) == (model, 5, section, steps)
            names = ("prompt", "negative_prompt", "steps", "guidance", "sampler")
            again, _ = load(model).draw(seed=known.seed, **{name: settings[name] for name in names})
            assert again.tobytes() == Image.open(io.BytesIO(figure.data)).convert("RGB").tobytes()


def test_numbers_of_the_endpoint(load, made):
    result = paths(load, *ASK, lang="de")
    assert len(result.figures) == 2 * (1 + len(FEW))
    for kind in text_paths.PAIR:
        assert result.numbers[f"detour_{kind}"] == [seen.detour for seen in made[kind].paths]
        assert len(result.numbers[f"along_{kind}"]) == len(result.numbers[f"up_{kind}"]) == 4
    json.dumps(result.numbers, allow_nan=False)


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (0, None, "not_text"),
        (0, "x" * 1001, "too_long"),
        (1, 7, "not_text"),
        (2, -1, "out_of_range"),
        (2, 0.5, "not_whole"),
        (3, 0, "out_of_range"),
        (3, 10**6, "out_of_range"),
        (4, math.nan, "out_of_range"),
        (4, "much", "not_a_number"),
    ],
)
def test_bad_input_is_a_sentence(load, at, value, code):
    values = list(ASK)
    values[at] = value
    with pytest.raises(Problem) as problem:
        paths(load, *values, lang="en")
    assert problem.value.code == code


def test_the_last_seed_is_followed_by_the_first(load):
    result = paths(load, "", "", 2**32 - 1, 1, 0.0, lang="en")
    assert all(value == pytest.approx(1) for kind in text_paths.PAIR for value in result.numbers[f"detour_{kind}"])


# ---- what the page shows


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_shows_what_is_there(made, lang):
    whole = page(made, lang)
    assert whole.count("<polyline") == 2 * PATHS
    assert whole.count("<img") == 2 * (1 + len(FEW)) == whole.count('class="save"')
    assert all("nan" not in drawing for drawing in re.findall("<svg.*?</svg>", whole))
    only = {kind: course._replace(few=(), paths=course.paths[:1]) for kind, course in made.items()}
    assert page(only, lang).count("<polyline") == 2 and page(only, lang).count("<img") == 2
    first = {"diffusion": only["diffusion"], "flow": text_paths.Course()}  # before the second one is there
    assert page(first, lang).count("<polyline") == 1


def write(folder, facts):
    (folder / "training.json").write_text(facts if isinstance(facts, str) else json.dumps(facts))


@pytest.mark.parametrize(
    "facts",
    [
        "no JSON",
        [],
        {"figures": {}},
        {"figures": []},
        {"figures": {"object_right": 0.9, "object_right_steps_": 0.9, "hat_right_steps_4": 1, "hat_right_steps_8": 1}},
        {"figures": {"object_right_steps_1": "half", "object_right_steps_2": 1}},
        {"figures": {"object_right_steps_1": None, "object_right_steps_2": 1}},
        {"figures": {"object_right_steps_1": 7, "object_right_steps_2": 1}},
        {"figures": {"object_right_steps_1": 0.5}},
    ],
)
def test_without_figures_nothing_is_said(made, monkeypatch, tmp_path, facts):
    write(tmp_path, facts)
    monkeypatch.setattr(text_paths.registry, "get", lambda model: SimpleNamespace(path=tmp_path))
    assert quality() == {} and text_paths.against_steps(quality(), "en") == ""
    assert page(made, "en").count("<polyline") == 2 * PATHS


def test_figures_are_drawn(made, monkeypatch, tmp_path):
    write(tmp_path, {"figures": {f"object_right_steps_{n}": share for n, share in ((16, 0.9), (1, 0.1), (4, 0.5))}})
    monkeypatch.setattr(text_paths.registry, "get", lambda model: SimpleNamespace(path=tmp_path))
    assert quality() == dict.fromkeys(text_paths.PAIR, {1: 0.1, 4: 0.5, 16: 0.9})
    assert page(made, "de").count("<polyline") == 2 * PATHS + 2
    monkeypatch.setattr(text_paths.registry, "get", lambda model: SimpleNamespace(path=None))  # from the hub
    assert quality() == {}


def test_it_is_laid_out(load):
    with gr.Blocks() as demo:
        names = ("model", "prompt", "negative_prompt", "seed", "steps", "guidance", "sampler")
        inputs = {name: gr.Textbox(label=name) for name in names}
        sections = Sections("text_to_image", {"paths": "x"}, load)
        assert text_paths.lay_out(load, sections, inputs) == []
    endpoint = next(fn for fn in demo.fns.values() if fn.api_name == "paths")
    assert endpoint.inputs == [inputs[name] for name in names[1:-1]], "whatever model is picked"
    files, numbers = endpoint.fn(*ASK, gr.Request())
    assert len(files) == 2 * (1 + len(FEW)) and set(numbers) >= {"detour_diffusion", "detour_flow"}


# ---- how it works


@pytest.fixture
def tab(page):
    return page.tabs["text_to_image"]


def how(lang: str) -> str:
    return i18n.texts(lang)["text.how.text"] + i18n.texts(lang)["text.how.more"]


def test_both_languages_explain_the_same():
    for found in (r"\$\$.+?\$\$|\$[^$]+\$", r"arXiv:\S+", r"^### ", r"section=\w+|[?&](?!prompt)\w+=[\w.+-]+"):
        german, english = (re.findall(found, how(lang), re.M) for lang in LANGUAGES)
        assert sorted(german) == sorted(english) and german, found


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_link_opens_what_it_says(tab, lang):
    links = re.findall(r"\]\(\?(tab=[^)]+)\)", how(lang))
    assert len(links) >= 10
    for link in links:
        values, problems = tab.read(dict(parse_qsl(link)))
        assert problems == [] and tab.query(values).startswith("tab=text_to_image"), link


def test_words_of_the_diagram_keep_to_their_language():
    words = {lang: re.findall(rf'<text lang="{lang}"[^>]*>([^<]+)', DIAGRAM.read_text("utf-8")) for lang in LANGUAGES}
    assert len(words["de"]) == len(words["en"]) > 10
    ET.parse(DIAGRAM)
