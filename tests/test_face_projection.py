"""From a picture to a code and back, with tiny nets that know nothing of faces."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import face_space, registry
from pipelines.face_projection import LEAST_STEPS, MAX_STEPS, project, rate
from pipelines.faces import from_model
from pipelines.models.stylegan2 import Discriminator, Generator
from pipelines.problems import Problem

CHANNELS = (16, 16, 16, 8)  # 32 px


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Two domains with a discriminator, and one net without either."""
    made = []
    for classes in (2, 0):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("models") / f"tiny-{classes}"
        generator = Generator(CHANNELS, z_dim=16, w_dim=16, mapping_layers=2, classes=classes)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.05)
        generator.measure_mean(1000)
        generator.half().save_pretrained(folder)
        if classes:
            Discriminator(CHANNELS, classes).half().save_pretrained(folder / "discriminator")
        model = registry.Model(f"tiny-{classes}", "faces", "stylegan2", "folder", "", "", path=folder)
        made.append(from_model(model, folder))
    return made


def error(a: Image.Image, b: Image.Image) -> float:
    return float(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)) / 255**2


@pytest.mark.parametrize("which", [0, 1], ids=["two domains", "no discriminator"])
def test_finds_what_the_net_drew(pipelines, which):
    pipeline = pipelines[which]
    target = pipeline.draw(pipeline.ws([5], *pipeline.domains[1:], psi=1))[0]
    seen = []
    found = project(pipeline, target, steps=120, on_step=lambda i, n, picture: seen.append((i, n, picture)))
    assert [(i, n) for i, n, _ in seen] == [(i, 120) for i in range(1, 121)]
    assert {(picture.mode, picture.size) for *_, picture in seen} == {("RGB", (32, 32))}
    assert found.error == pytest.approx(error(found.picture, target))
    assert found.error < error(seen[0][2], target) / 10
    assert found.recipe.settings["domain"] == ("historic" if pipeline.domains else "")


def test_recipe_and_code_draw_the_same_pixels(pipelines):
    pipeline = pipelines[0]
    found = project(pipeline, Image.new("RGB", (70, 50), "tan"), "colour", steps=LEAST_STEPS)
    settings = found.recipe.settings
    (code,) = face_space.read_people(settings["people"], pipeline.layers, pipeline.w_dim)
    assert np.array_equal(code, found.code)
    (picture,) = pipeline.draw(pipeline.ws([code], settings["domain"]), settings["noise"])
    assert picture.tobytes() == found.picture.tobytes()
    assert all(isinstance(value, str) for value in settings.values())  # words, no pixels
    assert len(found.recipe.to_json()) < 1500


def test_same_picture_same_code(pipelines):
    picture = Image.effect_noise((40, 40), 60).convert("RGB")
    codes = []
    for seed in (1, 2):  # of what no result may depend on
        torch.manual_seed(seed)
        codes.append(project(pipelines[0], picture, steps=LEAST_STEPS).code)
    assert np.array_equal(*codes)


def test_stops_when_told(pipelines):
    def stop(i, n, picture):
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project(pipelines[0], Image.new("RGB", (32, 32)), steps=50, on_step=stop)
    assert not any(p.requires_grad or p.grad is not None for p in pipelines[0].generator.parameters())


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"steps": LEAST_STEPS - 1}, "out_of_range"),
        ({"steps": MAX_STEPS + 1}, "out_of_range"),
        ({"steps": "many"}, "not_a_number"),
        ({"domain": "cats"}, "unknown_choice"),
    ],
)
def test_bad_settings(pipelines, settings, code):
    with pytest.raises(Problem) as problem:
        project(pipelines[0], Image.new("RGB", (32, 32)), **settings)
    assert problem.value.code == code


def test_rate_rises_and_falls():
    rates = [rate(i / 100) for i in range(100)]
    assert max(rates) == 1 == rates[20]
    assert rates[0] < 0.1
    assert 0 < rates[-1] < 0.01
