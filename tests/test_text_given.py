"""pipelines/text_given.py: pictures to begin with, places to draw anew, ControlNets, LoRAs, sizes."""

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    FluxImg2ImgPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
)
from PIL import Image, ImageChops, ImageOps
from skimage import data

import pipelines
from pipelines.problems import Problem
from pipelines.text_given import Given, Guide, Lora, Start
from tests import tiny_text
from tests.companions import controlnet, lora, registered
from tests.conftest import models_apart

KINDS = ("diffusion", "flow")
PROMPT = "frog with melon hat"
PHOTO = Image.fromarray(data.astronaut()).resize((160, 140))
FITTED = ImageOps.fit(PHOTO, (128, 128), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    with models_apart():
        where = tmp_path_factory.mktemp("given")
        found = tiny_text.folders(where)
        for folder in found.values():
            pipelines.register_folder(folder)
        found["guide"] = controlnet(where / "edges", DiffusionPipeline.from_pretrained(found["diffusion"]), "tiny-sd")
        for kind, net in zip(KINDS, ("unet", "transformer"), strict=True):
            base = {"unet": "tiny-sd", "transformer": "tiny-flux"}[net]
            found[net] = lora(where / f"{net}-lora", DiffusionPipeline.from_pretrained(found[kind]), net, base)
        yield found


@pytest.fixture(scope="module")
def pipes(folders):
    return {kind: pipelines.load(folders[kind]) for kind in KINDS}


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and (np.asarray(a) == np.asarray(b)).all()


def plainly(folders, kind: str, cls=None, lora=None, **call) -> Image.Image:
    plain = DiffusionPipeline.from_pretrained(folders[kind])
    plain = cls(**{**plain.components, **call.pop("parts", {})}, **call.pop("config", {})) if cls else plain
    plain.set_progress_bar_config(disable=True)
    if lora:
        folder, weight = lora
        plain.load_lora_weights(folder, adapter_name="a")
        plain.set_adapters(["a"], [weight])
        plain.fuse_lora()
    guidance = {"diffusion": {"guidance_scale": 3.0}, "flow": {"true_cfg_scale": 3.0, "max_sequence_length": 24}}[kind]
    call = {"prompt": PROMPT, "negative_prompt": "", "num_inference_steps": 5} | guidance | call
    return plain(**call, generator=torch.Generator().manual_seed(7)).images[0]


def drawn(pipe, given: Given, **more) -> Image.Image:
    return pipe.draw(PROMPT, seed=7, steps=5, guidance=3, given=given, **more)[0]


UNCHECKED = {"config": {"requires_safety_checker": False}}


# ---- a picture to begin with


@pytest.mark.parametrize("kind", KINDS)
def test_beginning_with_a_picture_is_that_of_diffusers(pipes, folders, kind):
    cls, more = {
        "diffusion": (StableDiffusionImg2ImgPipeline, UNCHECKED),
        "flow": (FluxImg2ImgPipeline, {"height": 128, "width": 128}),
    }[kind]
    expected = plainly(folders, kind, cls, image=FITTED, strength=0.6, **more)
    assert same(drawn(pipes[kind], Given(Start(PHOTO, 0.6))), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_counted_from_where_it_begins(pipes, kind):
    steps, given = [], Given(Start(PHOTO, 0.6))
    picture = drawn(pipes[kind], given, on_step=lambda *step: steps.append(step[:2]))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    made = pipes[kind].trace(PROMPT, seed=7, steps=5, guidance=3, given=given)
    assert same(made.image, picture)
    noises = [moment.level.noise for moment in made.moments]
    assert noises == sorted(noises, reverse=True) and noises[0] < 0.999, "it does not begin with noise alone"
    settings = made.recipe.settings
    assert settings["strength"] == 0.6 and len(settings["image"]) == 12 and "mask" not in settings


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_marked_is_drawn_anew(pipes, kind):
    mask = Image.new("L", PHOTO.size)
    mask.paste(255, (0, 0, 80, 140))
    picture = drawn(pipes[kind], Given(Start(PHOTO, 1.0, mask)))
    difference = np.asarray(ImageChops.difference(picture, FITTED)).max(2)
    assert difference[:, 70:].max() == 0, "right of the seam nothing changes"
    assert np.median(difference[:, :60]) > 5
    free = drawn(pipes[kind], Given(Start(PHOTO, 1.0)))
    assert not same(picture.crop((0, 0, 60, 128)), free.crop((0, 0, 60, 128))), "what is kept is seen while drawing"


@pytest.mark.parametrize("sampler", ["DDIM", "DDPM", "DPM++ 2M", "Euler", "Euler a", "UniPC"])
def test_what_is_kept_ends_as_itself_with_every_sampler(pipes, sampler):
    pipe, mask = pipes["diffusion"], Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    made = pipe.trace(PROMPT, seed=7, steps=5, sampler=sampler, given=Given(Start(FITTED, 0.8, mask)))
    kept = pipe.encode(FITTED)
    assert torch.allclose(made.latent[..., 8:], kept[..., 8:], atol=1e-5)
    assert not torch.allclose(made.latent[..., :8], kept[..., :8], atol=1e-1)


# ---- ControlNet


@pytest.mark.parametrize("start", [None, Start(PHOTO, 0.6)])
def test_a_guide_is_that_of_diffusers(pipes, folders, start):
    condition = Image.fromarray(data.camera()).convert("RGB").resize((128, 128))
    net = ControlNetModel.from_pretrained(pipelines.get(folders["guide"]).path)
    more = {"parts": {"controlnet": net}, **UNCHECKED, "controlnet_conditioning_scale": 0.8}
    more |= {"control_guidance_start": 0.0, "control_guidance_end": 0.6}
    if start:
        more |= {"image": FITTED, "control_image": condition, "strength": 0.6}
        expected = plainly(folders, "diffusion", StableDiffusionControlNetImg2ImgPipeline, **more)
    else:
        expected = plainly(folders, "diffusion", StableDiffusionControlNetPipeline, image=condition, **more)
    given = Given(start, guide=Guide(folders["guide"], condition, 0.8, 0.0, 0.6))
    assert same(drawn(pipes["diffusion"], given), expected)
    assert not same(drawn(pipes["diffusion"], Given(start)), expected)


def test_a_guide_fits_its_model_alone(pipes, folders):
    condition = Image.new("RGB", (128, 128))
    with pytest.raises(Problem) as caught:
        drawn(pipes["flow"], Given(guide=Guide(folders["guide"], condition)))
    assert caught.value.code == "wrong_base"
    with pytest.raises(Problem) as caught:
        drawn(pipes["diffusion"], Given(guide=Guide(folders["unet"], condition)))
    assert caught.value.code == "unknown_choice"


# ---- LoRA


@pytest.mark.parametrize(("kind", "net"), zip(KINDS, ("unet", "transformer"), strict=True))
def test_a_lora_is_that_of_diffusers_and_the_model_stays(pipes, folders, kind, net):
    before = drawn(pipes[kind], Given())
    given = Given(loras=(Lora(folders[net], 0.7),))
    folder = pipelines.get(folders[net]).path
    expected = plainly(folders, kind, lora=(folder, 0.7), height=128, width=128)
    picture, recipe = pipes[kind].draw(PROMPT, seed=7, steps=5, guidance=3, given=given)
    difference = np.asarray(ImageChops.difference(picture, expected))
    assert difference.max() <= 1 and difference.mean() < 0.01  # weights are the same; sums may be rounded otherwise
    assert not same(picture, before)
    assert recipe.settings["loras"] == [f"{folders[net]}:0.7"]
    assert same(drawn(pipes[kind], Given()), before)


def test_a_lora_of_another_family(pipes, folders, tmp_path):
    with pytest.raises(Problem) as caught:
        drawn(pipes["flow"], Given(loras=(Lora(folders["unet"]),)))
    assert caught.value.code == "wrong_base"
    folder = tmp_path / "liar"  # says that it fits
    folder.mkdir()
    name = "pytorch_lora_weights.safetensors"
    (folder / name).write_bytes((pipelines.get(folders["unet"]).path / name).read_bytes())
    id = registered(folder, "lora", "tiny-flux")
    before = drawn(pipes["flow"], Given())
    with pytest.raises(Problem) as caught:
        drawn(pipes["flow"], Given(loras=(Lora(id),)))
    assert caught.value.code == "lora_misfit"
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(Problem) as caught:
        drawn(pipes["flow"], Given(loras=(Lora(id),)))
    assert caught.value.code == "lora_misfit"
    assert same(drawn(pipes["flow"], Given()), before)


# ---- sizes, and what cannot be


@pytest.mark.parametrize("kind", KINDS)
def test_sizes(pipes, kind):
    made = pipes[kind].trace(PROMPT, steps=2, given=Given(size=(160, 96)))
    assert made.image.size == (160, 96) and made.latent.shape[2:] == (12, 20)
    assert (made.recipe.settings["width"], made.recipe.settings["height"]) == (160, 96)
    assert drawn(pipes[kind], Given(Start(PHOTO), size=(96, 160))).size == (96, 160)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (Given(size=(7, 100_000)), "out_of_range"),
        (Given(size=(128, 130)), "not_multiple"),
        (Given(size=("128", 128)), "not_a_number"),
        (Given(Start(None)), "no_picture"),
        (Given(Start(PHOTO, 0.0)), "out_of_range"),
        (Given(Start(PHOTO, float("nan"))), "out_of_range"),
        (Given(Start(PHOTO, 0.1)), "no_step_left"),
        (Given(Start(PHOTO, 0.5, Image.new("L", (9, 9)))), "empty_mask"),
        (Given(guide=Guide("nothing", PHOTO)), "unknown_choice"),
        (Given(guide=Guide("nothing", PHOTO, 3.0)), "out_of_range"),
        (Given(guide=Guide("nothing", PHOTO, 1.0, 0.5, 0.5)), "guide_never"),
        (Given(guide=Guide("nothing", None)), "no_picture"),
        (Given(edit=PHOTO), "no_instructions"),
        (Given(loras=(Lora("nothing"),)), "unknown_choice"),
        (Given(loras=(Lora("nothing", 9.0),)), "out_of_range"),
    ],
)
def test_what_cannot_be_is_said(pipes, given, code):
    with pytest.raises(Problem) as caught:
        drawn(pipes["diffusion"], given)
    assert caught.value.code == code
