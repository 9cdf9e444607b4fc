"""training/controlnet.py: from scenes to a ControlNet that plain diffusers loads; what its edges and figures are."""

import json

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

from tests import tiny_families, tiny_text
from training import common, controlnet, latents, lora, text_families
from training.scenes import Scenes


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """Folder with emoji/, latents/ (24 scenes), tiny-sd/ and tiny-flux/."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_text.folders(folder)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(latents, "PART", 16)
    monkeypatch.setattr(controlnet, "SHOWN", 2)


def train(where, out, *flags, model="tiny-sd", cached=True):
    AcceleratorState._reset_state(True)
    tiny = {"--steps": 2, "--batch-size": 2, "--scenes": 24, "--precision": "fp32", "--lr": 0.01}
    argv = [*(word for pair in tiny.items() for word in pair), "--cpu", "--model", where / model]
    argv += ["--data", where / "emoji", "--out", out, *(["--latents", where / "latents"] if cached else []), *flags]
    controlnet.main(common.parse(controlnet.Config, list(map(str, argv))))
    return out


def test_from_scenes_to_plain_diffusers(where, tmp_path):
    out = train(where, tmp_path / "tiny-canny", "--steps", 6)
    net = ControlNetModel.from_pretrained(out)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(where / "tiny-sd", controlnet=net, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    lines = Image.fromarray(controlnet.edges(Scenes(where / "emoji")[0].picture)).convert("RGB")

    def draw(**how):
        generator = torch.Generator().manual_seed(0)
        return np.asarray(pipe("a frog", num_inference_steps=2, generator=generator, **how).images[0], float)

    with_them, without = draw(image=lines), draw(image=lines, controlnet_conditioning_scale=0.0)
    assert with_them.shape == (128, 128, 3)
    assert np.abs(with_them - without).mean() > 0.5
    assert np.abs(with_them - draw(image=Image.new("RGB", (128, 128)))).max() > 0

    facts = json.loads((out / "training.json").read_text())
    assert (facts["kind"], facts["base"], facts["condition"]) == ("controlnet", "tiny-sd", "canny")
    assert facts["data"] == json.loads((where / "tiny-sd" / "training.json").read_text())["data"]
    assert {"F of edges, with control", "F of edges, without control", "scenes seen"} == set(facts["figures"])
    assert str(where) not in (out / "README.md").read_text() + json.dumps(facts)
    (sheet,) = (out / "state").glob("edges-*.png")
    assert Image.open(sheet).size == (2 * 128, 3 * 128)


def test_at_first_nothing_changes(where):
    pipe, *_ = lora.load(str(where / "tiny-sd"), "fp32")
    family, net = text_families.of(pipe), ControlNetModel.from_unet(pipe.unet)
    x, lines, told = torch.randn(2, 4, 16, 16), (torch.rand(2, 3, 128, 128) > 0.5).float(), family.told(["a frog", ""])
    t = torch.tensor([999, 10])
    with torch.no_grad():
        assert torch.equal(controlnet.controlled(family, net, lines)(x, t, told), family.predict(x, t, told))


def test_goes_on_bit_for_bit(where, tmp_path):
    flags = "--steps", 4, "--save-every", 1
    train(where, tmp_path / "whole", *flags)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        update, calls = common.EMA.update, []

        def stop_at_the_third(self, *arguments):
            update(self, *arguments)
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        patch.setattr(common.EMA, "update", stop_at_the_third)
        train(where, tmp_path / "cut", *flags)
    train(where, tmp_path / "cut", *flags, "--resume")
    whole, cut = (
        common.read_state(tmp_path / it / "state" / "state.safetensors")["tracked"] for it in ("whole", "cut")
    )
    for part in ("net", "ema"):
        assert all(torch.equal(value, cut[part][key]) for key, value in whole[part].items())


def test_goes_on_from_one_for_an_earlier_model(where, tmp_path):
    train(where, tmp_path / "first")
    train(where, tmp_path / "more", "--from", tmp_path / "first", "--lr", 0)
    first, more = (tmp_path / name for name in ("first", "more"))
    name = "diffusion_pytorch_model.safetensors"
    assert (first / name).read_bytes() == (more / name).read_bytes()
    seen = [json.loads((it / "training.json").read_text())["figures"]["scenes seen"] for it in (first, more)]
    assert seen[1] == 2 * seen[0]
    with pytest.raises(common.TrainingError, match="holds no ControlNetModel"):
        train(where, tmp_path / "x", "--from", where / "tiny-flux")


def test_edges_are_those_of_the_scene(where):
    config = controlnet.Config(data=str(where / "emoji"), out="x", latents=where / "latents", scenes=24)
    pipe, *_ = lora.load(str(where / "tiny-sd"), "fp32")
    family = text_families.of(pipe)
    drawn = controlnet.Drawn(config, family, where / "tiny-sd")
    chosen = torch.tensor([3, 17])
    lines = drawn.edges(chosen)
    assert lines.shape == (2, 3, 128, 128)
    assert set(lines.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(lines, drawn.edges(chosen))
    picture = Scenes(where / "emoji")[17].picture
    assert (controlnet.edges(picture) == (cv2.Canny(picture, 100, 200) == 255)).all()
    common_part = (controlnet.edges(picture) & (lines[1, 0].numpy() > 0)).sum()
    assert common_part > 0.5 * controlnet.edges(picture).sum()
    config.latents = type(config.latents)()
    encoded = controlnet.Drawn(config, family, where / "tiny-sd").latents(chosen)
    assert (encoded - drawn.latents(chosen)).abs().mean() < 0.01  # one of them in bf16


def test_latents_are_not_needed(where, tmp_path):
    train(where, tmp_path / "out", cached=False)


def test_figure_of_edges():
    one, beside, far = np.zeros((3, 16, 16), bool)
    one[:, 5], beside[:, 6], far[:, 12] = True, True, True
    assert controlnet.edge_f(one, one) == pytest.approx(1)
    assert controlnet.edge_f(one, beside) == pytest.approx(1)
    assert controlnet.edge_f(one, beside, near=0) == 0
    assert controlnet.edge_f(one, far) == 0
    assert controlnet.edge_f(one | far, one) == pytest.approx(2 * 0.5 / 1.5)
    assert controlnet.edge_f(np.zeros_like(one), one) == 0


def test_what_does_not_fit(where, tmp_path):
    with pytest.raises(common.TrainingError, match="needs a StableDiffusionPipeline"):
        train(where, tmp_path / "out", model="tiny-flux")
    pipe = tiny_families.build("sd")
    pipe.save_pretrained(tmp_path / "other")
    with pytest.raises(common.TrainingError, match=r"lacks training\.json"):
        train(where, tmp_path / "out", model=tmp_path / "other")
    (tmp_path / "other" / "training.json").write_text('{"licence": "x", "data": {}}')
    with pytest.raises(common.TrainingError, match="another autoencoder"):
        train(where, tmp_path / "out", model=tmp_path / "other")
