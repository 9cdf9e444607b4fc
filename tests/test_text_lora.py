"""LoRAs in the text-to-image tab, through its API: each section draws with the changed nets."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import LANGUAGES, models_apart, repeat
from diffusers import DiffusionPipeline

import pipelines
from apps import i18n
from apps.text_elsewhere import take
from apps.text_pictures import lora_choices
from apps.text_to_image import STEM
from pipelines import parameters, recipe
from pipelines.problems import Problem
from tests import companions, tiny_text
from tests.test_text_change import pixels

SD, FLUX = "local/tiny-sd", "local/tiny-flux"
LORAS = {SD: "local/unet-lora", FLUX: "local/transformer-lora"}


@pytest.fixture(scope="module", autouse=True)
def loras(app, tmp_path_factory):
    with models_apart():
        where = tmp_path_factory.mktemp("text")
        folders = tiny_text.folders(where)
        for model, kind, net in ((SD, "diffusion", "unet"), (FLUX, "flow", "transformer")):
            assert pipelines.register_folder(folders[kind]).id == model
            plain = DiffusionPipeline.from_pretrained(folders[kind])
            assert companions.lora(where / f"{net}-lora", plain, net, model.removeprefix("local/")) == LORAS[model]
        yield


def asked(model=SD, lora="", lora_weight=1.0) -> tuple:
    return model, "frog", "", 3, 3, 3.0, "", lora, lora_weight


def drawn(clients, *values) -> np.ndarray:
    return pixels(clients["en"].predict(*asked(*values), 1, api_name="/text_to_image")[0][0])


@pytest.mark.parametrize("model", [SD, FLUX])
def test_it_changes_the_picture_and_its_weight_counts(app, clients, model):
    files, _ = clients["en"].predict(*asked(model, LORAS[model], 0.5), 1, api_name="/text_to_image")
    settings = recipe.read(files[0]).settings
    assert (settings["lora"], settings["lora_weight"], len(settings["lora_revision"])) == (LORAS[model], 0.5, 12)
    again = repeat(app, clients["de"], "text_to_image", files[0], STEM)
    assert Path(again[0]).read_bytes() == Path(files[0]).read_bytes()
    plain = drawn(clients, model)
    assert (plain != pixels(files[0])).any() and (drawn(clients, model, LORAS[model], 1.0) != pixels(files[0])).any()
    assert np.abs(drawn(clients, model, LORAS[model], 0) - plain).max() <= 1  # other memory, other rounding
    assert "lora" not in recipe.read(clients["en"].predict(*asked(model), 1, api_name="/text_to_image")[0][0]).settings


@pytest.mark.parametrize("model", [SD, FLUX])
def test_those_who_look_inside_see_the_changed_net(clients, model):
    expected = drawn(clients, model, LORAS[model])
    words, _ = clients["en"].predict(*asked(model, LORAS[model]), api_name="/attention")
    assert (pixels(words[0]) == expected).all()
    for more, api_name in (((2,), "/diffusion_steps"), ((None, "cat", 0.5), "/noise_picture")):
        with_it, without = (
            clients["en"].predict(*asked(model, lora), *more, api_name=api_name)[0] for lora in (LORAS[model], "")
        )
        assert (pixels(with_it[2]) != pixels(without[2])).any()  # what the net expects


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(
    "values",
    [
        (SD, LORAS[FLUX]), (FLUX, LORAS[SD]), (SD, "/etc/passwd"), (SD, None), (SD, 5), (SD, SD),
        (SD, LORAS[SD], math.nan), (SD, LORAS[SD], 100), (SD, "", "much"), (SD, LORAS[SD], None),
    ],
)  # fmt: skip
def test_nonsense_gets_a_sentence(ask, lang, values):
    event, said = ask("text_to_image", *asked(*values), 1, 0, 0, lang=lang)
    assert event == "error"
    assert said and said != i18n.say("shell.unexpected", lang)
    if values[1] == LORAS[FLUX]:
        assert "tiny-flux" in said and SD in said


def test_the_picker_has_those_that_fit(app):
    assert lora_choices(SD, "en") == [("none", ""), (LORAS[SD], LORAS[SD])]
    assert len(lora_choices("sd15", "de")) == 1
    tab = app.tabs[STEM]
    values, wrong = tab.read({"model": SD, "lora": LORAS[SD], "lora_weight": "0.5"})
    assert (values["lora"], values["lora_weight"], wrong) == (LORAS[SD], 0.5, [])
    values, wrong = tab.read({"model": FLUX, "lora": LORAS[SD]})
    assert values["lora"] == "" and [problem.code for problem in wrong] == ["wrong_base"]


def test_tags_of_other_programs_fill_it(clients):
    text = "a frog <lora:unet-lora:0.8> <lora:melons:1>\nSteps: 2, Seed: 3, CFG scale: 4"
    taken = take(text, SD, "en")
    assert taken.values.items() >= {"prompt": "a frog", "lora": LORAS[SD], "lora_weight": 0.8}.items()
    assert "LoRA, its weight" in taken.note and "melons" in taken.note and "unet-lora" not in taken.note
    assert "lora" not in take(text, FLUX, "en").values and "unet-lora" in take(text, FLUX, "en").note
    files, _ = clients["en"].predict(*asked(SD, LORAS[SD], 0.5), 1, api_name="/text_to_image")
    ours = take(parameters.text(Path(files[0])), FLUX, "en").values
    assert (ours["model"], ours["lora"], ours["lora_weight"]) == (SD, LORAS[SD], 0.5)
    with pytest.raises(Problem):
        take("frog\nSteps: 2, lora: a, lora_weight: much, Version: Trugbild 1", SD, "en")
