"""The sections that look inside text to image, through the API."""

from pathlib import Path

import pytest
from conftest import LANGUAGES, models_apart, repeat
from gradio_client import handle_file
from PIL import Image

import pipelines
from apps import i18n
from apps.text_pictures import Asked
from pipelines import recipe
from tests import tiny_text

STEM = "text_to_image"
HOW = ("frog with melon hat", "", 5, 3, 4, "", "", 1.0)
CALLS = {"diffusion_steps": (2,), "attention": (), "noise_picture": (None, "coffee", 0.4)}


@pytest.fixture(scope="module")
def models(app, tmp_path_factory):
    """Kind -> id; not before `app`, whose own model outlives these."""
    with models_apart():
        folders = tiny_text.folders(tmp_path_factory.mktemp("text"))
        yield {kind: pipelines.register_folder(folder).id for kind, folder in folders.items()}


@pytest.fixture(params=tiny_text.KINDS.values())
def model(models, request):
    return models[request.param]


def test_endpoints_are_named_and_their_inputs_too(clients):
    """README and other people's programs depend on these."""
    named = clients["en"].view_api(return_format="dict")["named_endpoints"]
    for name, more in {
        "diffusion_steps": ["step"],
        "attention": [],
        "noise_picture": ["picture", "photo", "t"],
    }.items():
        assert [item["parameter_name"] for item in named[f"/{name}"]["parameters"]] == [*Asked._fields, *more]


@pytest.mark.parametrize("task", CALLS)
def test_a_saved_picture_is_made_again_pixel_for_pixel(app, clients, model, task):
    files, _ = clients["en"].predict(model, *HOW, *CALLS[task], api_name=f"/{task}")
    carry = [i for i, file in enumerate(files) if b"trugbild" in Path(file).read_bytes()]
    assert len(carry) == {"diffusion_steps": 9, "attention": 5, "noise_picture": 2}[task]
    again = repeat(app, clients["de"], task, files[carry[-1]], STEM)
    assert [Path(again[i]).read_bytes() for i in carry] == [Path(files[i]).read_bytes() for i in carry]


def test_ones_own_picture_stays_ones_own(clients, model, tmp_path):
    Image.new("RGB", (90, 60), "olive").save(file := tmp_path / "me.png")
    files, _ = clients["en"].predict(model, *HOW, handle_file(file), "cat", 0.4, api_name="/noise_picture")
    assert Image.open(files[0]).convert("RGB").getcolors() == [(128 * 128, (128, 128, 0))]
    assert recipe.read(files[1]).settings["photo"] == "own"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_wrong_is_said_in_one_sentence(ask, model, lang):
    nan = float("nan")
    for task, values in (
        ("attention", ("nothing", *HOW)),
        ("attention", (model, "x" * 10_000, *HOW[1:])),
        ("diffusion_steps", (model, *HOW, 4)),
        ("diffusion_steps", (model, *HOW, nan)),
        ("diffusion_steps", (model, *HOW, None)),
        ("diffusion_steps", (model, *HOW[:3], 10**6, *HOW[4:], 1)),
        ("noise_picture", (model, *HOW, None, "own", 0.5)),
        ("noise_picture", (model, *HOW, None, "nobody", 0.5)),
        ("noise_picture", (model, *HOW, None, "cat", 1.5)),
        ("noise_picture", (model, *HOW, None, "cat", nan)),
        ("noise_picture", (model, *HOW[:4], nan, *HOW[5:], None, "drawn", 0.5)),
    ):
        kind, sentence = ask(task, *values, lang=lang)
        assert kind == "error" and sentence.count(".") >= 1 and len(sentence) < 300, (task, sentence)
        assert "Traceback" not in sentence and sentence != i18n.say("shell.unexpected", lang), (task, values)
