"""The text-to-image tab through its API: what it draws, what its pictures carry, what it says of nonsense."""

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from conftest import LANGUAGES, models_apart, opened, repeat
from PIL import Image

import pipelines
from apps import i18n, text_grid, text_pictures
from apps.sections import Sections
from apps.text_grid import NOTHING
from apps.text_to_image import STEM
from pipelines import parameters, recipe, registry, text_plan
from pipelines.text_loading import Plan
from tests import tiny_text

PROMPT = "frog with melon hat"
SD, FLUX = "local/tiny-sd", "local/tiny-flux"


@pytest.fixture(scope="module", autouse=True)
def tiny(app, tmp_path_factory):
    """Both architectures, registered as folders of one's own; forgotten afterwards."""
    with models_apart():
        folders = tiny_text.folders(tmp_path_factory.mktemp("text"))
        assert [pipelines.register_folder(folders[kind]).id for kind in ("diffusion", "flow")] == [SD, FLUX]
        yield


def asked(
    model=SD, prompt=PROMPT, negative="", seed=3, steps=2, guidance=3.0, sampler="", lora="", lora_weight=1.0
) -> tuple:
    return model, prompt, negative, seed, steps, guidance, sampler, lora, lora_weight


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_endpoints_are_named_and_their_inputs_too(clients):
    """README and other people's programs depend on these."""
    every = ["model", "prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "lora", "lora_weight"]
    named = clients["en"].view_api(return_format="dict")["named_endpoints"]
    named = {name: [item["parameter_name"] for item in of["parameters"]] for name, of in named.items()}
    assert named["/text_to_image"] == [*every, "number", "width", "height"]
    assert named["/xy_grid"] == [*every, "x", "xs", "y", "ys"]


@pytest.mark.parametrize("model", [SD, FLUX])
def test_a_saved_picture_is_made_again_pixel_for_pixel(app, clients, model):
    """And in the form that other tools read: prompts, steps, sampler, CFG scale, seed."""
    files, numbers = clients["en"].predict(*asked(model, negative="owl"), 1, api_name="/text_to_image")
    made = recipe.read(files[0])
    assert (made.tab, made.model, made.seed, numbers["seeds"]) == (STEM, model, 3, [3])
    text = Image.open(files[0]).text["parameters"]
    assert text.startswith(f"{PROMPT}\nNegative prompt: owl\nSteps: 2, Sampler: ") and "CFG scale: 3.0, Seed: 3" in text
    again = repeat(app, clients["de"], "text_to_image", files[0], STEM)
    assert Path(again[0]).read_bytes() == Path(files[0]).read_bytes()


def test_four_pictures_are_four_single_ones(clients):
    four, numbers = clients["en"].predict(*asked(seed=2**32 - 2), 4, api_name="/text_to_image")
    assert numbers["seeds"] == [2**32 - 2, 2**32 - 1, 0, 1]
    for file, seed in zip(four, numbers["seeds"], strict=True):
        single, _ = clients["en"].predict(*asked(seed=seed), 1, api_name="/text_to_image")
        assert Path(single[0]).read_bytes() == Path(file).read_bytes()
    assert len({pixels(file).tobytes() for file in four}) == 4


def test_an_empty_prompt_survives_its_file(app, clients):
    files, _ = clients["en"].predict(*asked(prompt=""), 1, api_name="/text_to_image")
    assert opened(app, files[0], STEM)["prompt"] == ""


def test_a_grid_is_one_picture_with_labels(app, clients):
    files, numbers = clients["en"].predict(*asked(), "steps", "1, 2, 3", "seed", "5, 6", api_name="/xy_grid")
    assert numbers["pictures"] == 6 and len(files) == 1
    sheet = pixels(files[0])
    single, _ = clients["en"].predict(*asked(seed=6, steps=3), 1, api_name="/text_to_image")
    step = 128 + 8
    at = (slice(-step, -8), slice(-step, -8))
    assert (sheet[at] == pixels(single[0])).all(), "the last cell is steps 3, seed 6"
    assert (sheet[:20, :128] == 255).all() and (sheet[: sheet.shape[0] - 2 * step, 136:] < 128).any(), "labels on top"
    values = opened(app, files[0], STEM)
    assert (values["section"], values["x"], values["xs"], values["y"]) == ("grid", "steps", "1, 2, 3", "seed")
    assert Path(repeat(app, clients["de"], "xy_grid", files[0], STEM)[0]).exists()


def test_values_with_decimal_commas_have_semicolons_between_them():
    assert text_grid.axis("guidance", "1,5; 3") == [1.5, 3.0] and text_grid.axis("guidance", "1.5, 3") == [1.5, 3.0]
    assert text_grid.axis("guidance", "1,5") == [1.0, 5.0] and text_grid.axis("seed", "1; 2") == [1, 2]
    assert text_grid.axis("prompt", "a; b, c | d") == ["a; b, c", "d"]


def test_a_grid_over_models_takes_each_ones_sampler(clients):
    call = (*asked(sampler="DPM++ 2M"), "model", f"{SD}, {FLUX}", NOTHING, "")
    assert clients["en"].predict(*call, api_name="/xy_grid")[1]["pictures"] == 2


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "change, code",
    [
        ({"steps": 0}, "out_of_range"), ({"steps": 10**6}, "out_of_range"), ({"guidance": math.nan}, "out_of_range"),
        ({"guidance": "much"}, "not_a_number"), ({"seed": -1}, "out_of_range"), ({"seed": None}, "missing"),
        ({"prompt": "frog " * 2000}, "too_long"), ({"prompt": None}, "not_text"), ({"prompt": "\x07"}, "no_letters"),
        ({"negative": "x" * 10_000}, "too_long"), ({"model": "faces-64"}, "unknown_choice"),
        ({"model": "/etc"}, "unknown_choice"), ({"sampler": "Magic"}, "unknown_choice"),
    ],
)  # fmt: skip
def test_nonsense_gets_a_sentence(ask, lang, change, code):
    event, said = ask("text_to_image", *asked(**change), 1, 0, 0, lang=lang)
    assert event == "error"
    pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(i18n.texts(lang)[f"problems.{code}"]))
    assert re.fullmatch(pattern, said), said


@pytest.mark.parametrize(
    "grid, code",
    [
        (("steps", "1,2", "steps", "3"), "same_axis"), (("steps", "", NOTHING, ""), "axis_length"),
        (("steps", "1,2,3,4,5,6,7", "seed", "1,2,3,4,5,6,7"), "too_many_cells"),
        (("size", "1", NOTHING, ""), "unknown_choice"),
        (("steps", "one", NOTHING, ""), "not_a_number"), (("steps", "1, 999", NOTHING, ""), "out_of_range"),
        (("guidance", "nan", NOTHING, ""), "out_of_range"), (("model", "faces-64", NOTHING, ""), "unknown_choice"),
        (("seed", ",".join("1" * 99), NOTHING, ""), "axis_length"),
    ],
)  # fmt: skip
def test_a_grid_of_nonsense_gets_a_sentence(ask, grid, code):
    event, said = ask("xy_grid", *asked(), *grid)
    assert event == "error"
    pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(i18n.texts("en")[f"problems.{code}"]))
    assert re.fullmatch(pattern, said), said


@pytest.mark.parametrize("number", [0, 9, 1.5])
def test_so_many_pictures_are_not_drawn(ask, number):
    assert ask("text_to_image", *asked(), number, 0, 0)[0] == "error"


@pytest.mark.parametrize("prompt", ["", "🐸🐸", "\u200bfrog\u202e", "ضفدع يرتدي قبعة", "qwertz", "<b>frog</b>"])
def test_strange_prompts_are_drawn(ask, prompt):
    assert ask("text_to_image", *asked(prompt=prompt), 1, 0, 0)[0] == "complete"


# ---- what is said about a prompt


def test_a_lora_brings_words():
    assert "Pizza" in " ".join(text_pictures.notes("emoji-sd", "eine Pizza am Strand", "en"))
    assert text_pictures.notes("emoji-sd", "eine Pizza am Strand", "en", lora="emoji-sd-pizza") == []
    assert text_pictures.notes("emoji-sd", "a giraffe", "en", lora="emoji-sd-pizza") == []
    assert "quux" in " ".join(text_pictures.notes("emoji-sd", "a quux", "en", lora="emoji-sd-pizza"))


@pytest.mark.parametrize(
    "prompt, key",
    [
        (" ", "empty"), ("frogg", "unknown_nearest"), ("quantum frog", "unknown"), ("quantum", "nothing"),
        ("one two three four five six seven frog", "more"), ("frog\u200b", "unseen"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lang", LANGUAGES)
def test_notes(lang, prompt, key):
    said = " ".join(text_pictures.notes(SD, prompt, lang))
    pattern = re.sub(r"\\\{\w+\\\}", ".*", re.escape(i18n.texts(lang)[f"text.note.{key}"]))
    assert re.search(pattern, said), said


def test_a_negative_prompt_that_does_not_count_says_so():
    for guidance, n in ((1, 1), (1.5, 0)):
        assert len(text_pictures.notes(SD, PROMPT, "en", negative="owl", guidance=guidance)) == n


def test_a_link_with_another_models_sampler_is_refused(app):
    tab = app.tabs["text_to_image"]
    for sampler, codes in (("Euler", []), ("Euler a", ["unknown_choice"])):
        assert [problem.code for problem in tab.read({"model": "emoji-flux", "sampler": sampler})[1]] == codes


def test_a_picture_of_other_weights_says_so(app):
    kept = registry.get("emoji-flux").path / "first.png"
    picture, made = recipe.first(kept.parent)
    for revision, told in ((made.revision, False), ("0" * 12, True)):
        data = recipe.save(picture, replace(made, revision=revision))
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        assert bool(app.header.open_picture({"data": url})["told"]) == told


def test_a_known_prompt_needs_no_note():
    assert text_pictures.notes(SD, PROMPT, "en") == []


def test_notes_quote_nobodys_markup():
    said = " ".join(text_pictures.notes(SD, "<img src=x onerror=alert(1)>", "en", unread="<script>"))
    assert "<img" not in said and "<script" not in said


def test_the_list_of_words_is_that_of_the_model():
    page = text_pictures.word_list(SD, "de")
    assert "Frosch" in page and "Melonenhut" in page and "frog" not in re.sub(r"\"[^\"]*\"", "", page)


def test_previews_come_while_it_draws():
    seen = []
    made = text_pictures.draw(
        pipelines.load, *asked(steps=5), 2, 0, 0, "en", on_step=lambda i, n, figures: seen.append((i, n, figures))
    )
    assert [step[:2] for step in seen] == [(i + 1, 10) for i in range(10)]
    first = seen[0][2]
    assert len(first) == 2, "places for both"
    assert Image.open(io.BytesIO(first[0].data)).size == (128, 128) and len(made.figures) == 2


def test_the_card_says_how_a_model_lies_in_memory_once_it_does(monkeypatch):
    monkeypatch.setattr(pipelines, "_loaded", {})
    assert text_pictures.loaded_as(SD, "en") == ""
    pipelines.load(SD)
    shown = text_pictures.loaded_as(SD, "de")
    assert "float32" in shown and "gestaucht" not in shown
    plan = Plan("cuda", "bfloat16", "layers", "4bit", "first_block")
    monkeypatch.setitem(vars(pipelines.loaded(SD)), "plan", plan)
    for word in ("der GPU", "bfloat16", "Schicht für Schicht", "4 Bit", "wiederverwendet"):
        assert word in text_pictures.loaded_as(SD, "de")


def test_how_a_model_is_loaded_can_be_chosen(app, clients, monkeypatch):
    monkeypatch.setattr(text_plan, "SMALL_MB", 0)
    monkeypatch.setattr(pipelines, "_wanted", {})
    events = {getattr(fn.fn, "__name__", ""): fn.fn for fn in app.demo.fns.values()}

    def offered() -> tuple:
        """-> whether the accordion is there, what its pickers show, None for one that is not there"""
        _, accordion, *picked = events["memory"](SD, gr.Request())
        return accordion.visible, *(one.value if one.visible else None for one in picked)

    def chooses(*values: str):
        events["choose_plan"](SD, *values, gr.Request())

    assert offered() == (True, "", None, None, None), "on a processor precision is all there is to choose"
    chooses("bfloat16", "", "", "")
    assert offered() == (True, "bfloat16", None, None, None)
    files, _ = clients["en"].predict(*asked(), 1, 0, 0, api_name="/text_to_image")
    assert pipelines.loaded(SD).plan == Plan("cpu", "bfloat16")
    assert recipe.read(files[0]).settings["dtype"] == "bfloat16"
    assert "dtype" not in parameters.read(Path(files[0]).read_bytes()).unknown, "it is ours"
    assert "dtype" not in opened(app, files[0], STEM), "a matter of the machine, not of the link"
    for wrong in (("int7", "", "", ""), ("", "", "4bit", ""), (None, "", "", "")):
        with pytest.raises(gr.Error):
            chooses(*wrong)
    chooses("", "", "", "")
    clients["en"].predict(*asked(), 1, 0, 0, api_name="/text_to_image")
    assert pipelines.loaded(SD).plan == Plan("cpu")
    monkeypatch.setenv("TRUGBILD_PUBLIC", "1")
    assert offered()[0] is False
    with pytest.raises(gr.Error, match=re.escape(i18n.say("problems.plan_public", "en"))):
        chooses("bfloat16", "", "", "")
    assert pipelines.wanted(SD) == {}


# ---- large models


def test_a_large_model_is_used_when_a_person_asks_for_it(monkeypatch):
    """Nobody downloads gigabytes by opening a section."""
    monkeypatch.setattr(pipelines.hub, "_reachable", None)
    for lang in LANGUAGES:
        assert text_pictures.asks(SD, lang) == ""
        assert re.search(r"[3-9][.,]\d GB", text_pictures.asks("sd15", lang))
    loaded = []
    with gr.Blocks() as demo:
        model, shown = gr.Textbox("sd15"), gr.HTML()
        sections = Sections(STEM, {"a": "x"}, loaded.append, asks=text_pictures.asks)
        sections.draws("a", lambda model, lang: f"drawn by {model}", [], [model], [shown])
    draw = next(fn for fn in demo.fns.values() if fn.outputs == [shown])
    assert draw.inputs == [model, sections.agreed]
    request = gr.Request()
    (told,) = draw.fn("sd15", "", request)
    assert told == text_pictures.asks("sd15", "en") and not loaded
    assert list(draw.fn("sd15", "sd15", request))[-1] == "drawn by sd15" and loaded == ["sd15"]
    assert list(draw.fn(SD, "", request))[-1] == f"drawn by {SD}"


@pytest.mark.parametrize("model", [SD, FLUX])
def test_a_size_of_ones_own(app, clients, model):
    files, _ = clients["en"].predict(*asked(model), 1, 192, 0, api_name="/text_to_image")
    assert Image.open(files[0]).size == (192, 128)
    settings = recipe.read(files[0]).settings
    assert settings["width"] == 192 and "height" not in settings
    again = repeat(app, clients["de"], "text_to_image", files[0], STEM)
    assert Path(again[0]).read_bytes() == Path(files[0]).read_bytes()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "size", [(7, 100_000), (128, 100_000), (130, 128), (float("nan"), 0), (None, 0), ("wide", 0), (-64, 0), (96.5, 0)]
)
def test_sizes_that_cannot_be_drawn_get_a_sentence(ask, lang, size):
    event, said = ask("text_to_image", *asked(), 1, *size, lang=lang)
    assert event == "error" and said != i18n.say("shell.unexpected", lang)
    assert i18n.say("names.height" if size[0] == 128 else "names.width", lang) in said


def test_the_picker_has_sizes_that_the_model_can_draw():
    assert [side for _, side in text_pictures.side_choices("emoji-sd", 0)] == [64, 96, 0, 160, 192, 224, 256]
    assert dict(text_pictures.side_choices("sdxl", 1000)).items() >= {"1024 *": 0, "1000": 1000, "2048": 2048}.items()
