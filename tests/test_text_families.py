"""pipelines/text_families.py: the pixels of plain diffusers with every architecture, in tiny pipelines."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image, ImageOps
from safetensors.torch import save_file
from skimage import data

from pipelines import registry, text_inside, text_loading
from pipelines.problems import Problem
from pipelines.registry import Model
from pipelines.text_given import Given, Guide, Start
from pipelines.text_levels import FLOW
from pipelines.text_to_image import TextToImagePipeline
from tests import tiny_families

PROMPT = "a frog with a melon hat"
SIZE = (48, 32)
PHOTO = Image.fromarray(data.astronaut()).resize((90, 80))
FITTED = ImageOps.fit(PHOTO, SIZE, Image.Resampling.LANCZOS)
EDGES = Image.fromarray(data.camera()).convert("RGB").resize(SIZE)
# What plain diffusers is called with for guidance 3.
SAID, TOLD = {"guidance_scale": 3.0, "negative_prompt": ""}, {"guidance_scale": 3.0}
PLAIN = {
    "sd": SAID,
    "lcm": TOLD,
    "sdxl": SAID,
    "sd3": SAID,
    "flux": TOLD | {"max_sequence_length": 16},
    "schnell": {"true_cfg_scale": 3.0, "negative_prompt": "", "max_sequence_length": 16},
    "kontext": TOLD | {"max_sequence_length": 16, "max_area": SIZE[0] * SIZE[1], "_auto_resize": False},
    "klein": TOLD,
    "flux2": TOLD,
    "zimage": SAID,
    "qwen": {"true_cfg_scale": 3.0, "negative_prompt": ""},
}
WITH_START = {
    "sd": "StableDiffusionImg2ImgPipeline",
    "lcm": "LatentConsistencyModelImg2ImgPipeline",
    "sdxl": "StableDiffusionXLImg2ImgPipeline",
    "sd3": "StableDiffusion3Img2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
    "schnell": "FluxImg2ImgPipeline",
    "zimage": "ZImageImg2ImgPipeline",
    "qwen": "QwenImageImg2ImgPipeline",
}
WITH_GUIDE = {
    "sd": "StableDiffusionControlNetPipeline",
    "sdxl": "StableDiffusionXLControlNetPipeline",
    "sdxl-union": "StableDiffusionXLControlNetUnionPipeline",
    "sd3": "StableDiffusion3ControlNetPipeline",
    "flux": "FluxControlNetPipeline",
    "flux-union": "FluxControlNetPipeline",
    "schnell": "FluxControlNetPipeline",
    "zimage": "ZImageControlNetPipeline",
    "qwen": "QwenImageControlNetPipeline",
}
WITH_BOTH = {
    "sd": "StableDiffusionControlNetImg2ImgPipeline",
    "sdxl": "StableDiffusionXLControlNetImg2ImgPipeline",
    "sdxl-union": "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "flux": "FluxControlNetImg2ImgPipeline",
}


@pytest.fixture(scope="module")
def plain():
    """name -> a pipeline of diffusers"""
    built = {}

    def get(name: str):
        if name not in built:
            pipe = tiny_families.build(*{"schnell": ("flux",)}.get(name, (name,)), **NOT_TOLD.get(name, {}))
            if name in ("sd", "sdxl"):
                pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
            built[name] = pipe
        return built[name]

    return get


NOT_TOLD = {"schnell": {"guidance_embeds": False}}


@pytest.fixture(scope="module")
def ours(plain):
    """name -> the same nets in our wrapper"""
    built = {}

    def get(name: str) -> TextToImagePipeline:
        if name not in built:
            model = Model(name, "text_to_image", "flow", "someone/tiny", "MIT", "", revision="0" * 40)
            pipe = type(plain(name))(**plain(name).components, **UNCHECKED.get(name, {}))
            built[name] = TextToImagePipeline(pipe, model)
            built[name].defaults["size"] = 32
        return built[name]

    return get


UNCHECKED = {"sd": {"requires_safety_checker": False}, "lcm": {"requires_safety_checker": False}}


def same(a: Image.Image, b: Image.Image, by: int = 0) -> bool:
    return a.size == b.size and np.abs(np.int16(a) - np.int16(b)).max() <= by


def called(pipe, name: str, **call) -> Image.Image:
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": PROMPT, "num_inference_steps": 4, **PLAIN[name]} | call
    torch.manual_seed(7)
    return pipe(**call, generator=torch.Generator().manual_seed(7)).images[0]


def kin(plain, name: str, kind: str, **parts):
    """Another pipeline of diffusers of the same nets."""
    components = {name: part for name, part in plain(name).components.items() if part is not None}
    more = UNCHECKED.get(name, {}) | ({"safety_checker": None, "feature_extractor": None} if name in UNCHECKED else {})
    return getattr(diffusers, kind)(**components, **more, **parts)


def drawn(pipe: TextToImagePipeline, **given) -> Image.Image:
    return pipe.draw(PROMPT, seed=7, steps=4, guidance=3, given=Given(size=SIZE, **given))[0]


# ---- words alone


@pytest.mark.parametrize("name", PLAIN)
def test_the_pixels_are_those_of_diffusers(plain, ours, name):
    expected = called(plain(name), name, width=SIZE[0], height=SIZE[1])
    assert same(drawn(ours(name)), expected)


@pytest.mark.parametrize("name", PLAIN)
def test_every_step_is_told(ours, name):
    pipe, seen = ours(name), []
    settings = {"prompt": PROMPT, "seed": 7, "steps": 4, "guidance": 3, "given": Given(size=SIZE)}
    made = pipe.trace(**settings, on_step=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[0][2].size == SIZE
    assert torch.allclose(made.latent, made.moments[-1].x0, atol=2e-3), "the last step goes all the way"
    noises = [moment.level.noise for moment in made.moments]
    assert noises == sorted(noises, reverse=True) and noises[0] > 0.9
    assert same(pipe.decode(made.latent), made.image, by=1)
    assert made.latent.shape[2] * SIZE[0] == made.latent.shape[3] * SIZE[1]
    x = made.moments[0].x
    assert torch.equal(pipe.family.spatial(pipe.family.packed(x), SIZE), x)


@pytest.mark.parametrize("name", PLAIN)
def test_stop_leaves_it_as_it_was(ours, name):
    class Stop(Exception):
        pass

    def on_step(i, n, preview):
        raise Stop

    pipe = ours(name)
    before = drawn(pipe)
    with pytest.raises(Stop):
        pipe.draw(PROMPT, steps=4, on_step=on_step)
    assert same(before, drawn(pipe))


@pytest.mark.parametrize("name", PLAIN)
@torch.inference_mode()
def test_pictures_go_into_latents_and_back(ours, name):
    pipe, vae = ours(name), ours(name).pipe.vae
    latent = pipe.encode(PHOTO, SIZE)
    x = torch.from_numpy(np.float32(FITTED) / 127.5 - 1).permute(2, 0, 1)[None]
    x = x[:, :, None] if name == "qwen" else x
    expected = vae.decode(vae.encode(x).latent_dist.mode()).sample.squeeze(2)[0]
    expected = Image.fromarray(np.uint8(((expected + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0)))
    assert same(pipe.decode(latent), expected, by=1)
    assert latent.shape == pipe.trace(PROMPT, steps=2, guidance=1, given=Given(size=SIZE)).latent.shape


@pytest.mark.parametrize("name", ["sd3", "flux", "klein", "zimage", "qwen"])
def test_the_other_solver_has_the_same_times(ours, name):
    """A model's shift of times holds whatever solves the equation."""
    pipe, noises = ours(name), []
    for sampler in FLOW:
        made = pipe.trace(PROMPT, steps=4, guidance=1, sampler=sampler, given=Given(size=SIZE))
        noises.append([moment.level.noise for moment in made.moments])
    if name in ("flux", "klein", "qwen", "zimage"):  # SD 3 leaves the times to the scheduler, and each has its own last
        assert np.allclose(*noises, atol=2e-3)
    else:
        assert noises[0][1] == pytest.approx(noises[1][1], abs=0.1) and noises[1][1] > 0.8


def test_what_cannot_be_said(ours):
    with pytest.raises(Problem) as caught:
        ours("qwen").draw(PROMPT, steps=1, given=Given(size=SIZE))
    assert caught.value.code == "out_of_range" and caught.value.values["low"] == 2
    for name in PLAIN:
        pipe = ours(name)
        call = {"steps": pipe.family.fewest, "guidance": 1, "given": Given(size=SIZE)}
        assert pipe.family.inside == (name in ("sd", "schnell"))
        if pipe.family.negative:
            pipe.draw(PROMPT, "owl", **call)
            continue
        with pytest.raises(Problem) as caught:
            pipe.draw(PROMPT, "owl", **call)
        assert caught.value.code == "no_negative_prompt"
        assert name in ("lcm", "flux", "kontext", "klein", "flux2")


@pytest.mark.parametrize("name", PLAIN)
def test_the_end_that_is_not_read(ours, name):
    pipe = ours(name)
    assert pipe.unread("a frog") == ""
    room = pipe.family.length
    text = "frog " * room
    if len(text) < 900:
        assert pipe.unread(text) == "" and pipe.unread(text + "owl").endswith("owl")


# ---- pictures in


@pytest.mark.parametrize("name", WITH_START)
def test_beginning_with_a_picture(plain, ours, name):
    size = {} if name in ("sd", "lcm", "sdxl") else {"width": SIZE[0], "height": SIZE[1]}
    expected = called(kin(plain, name, WITH_START[name]), name, image=FITTED, strength=0.6, **size)
    assert same(drawn(ours(name), start=Start(PHOTO, 0.6)), expected)
    assert not same(drawn(ours(name)), expected)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "zimage", "qwen"])
def test_only_what_is_marked_is_drawn_anew(ours, name):
    mask = Image.new("L", PHOTO.size)
    mask.paste(255, (0, 0, 45, 80))
    given = Given(Start(PHOTO, 0.8, mask), size=SIZE)
    made = ours(name).trace(PROMPT, seed=7, steps=4, guidance=3, given=given)
    kept, half = ours(name).encode(PHOTO, SIZE), made.latent.shape[3] // 2 + 1
    assert torch.allclose(made.latent[..., half:], kept[..., half:], atol=1e-4)
    assert not torch.allclose(made.latent[..., : half - 2], kept[..., : half - 2], atol=1e-2)


@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_the_other_solver_begins_with_a_picture_too(ours, name):
    given = Given(Start(PHOTO, 0.6), size=SIZE)
    made = ours(name).trace(PROMPT, seed=7, steps=5, guidance=1, sampler="UniPC", given=given)
    first = made.moments[0]
    assert first.level.noise < 0.95
    noise = (first.x - first.level.signal * ours(name).encode(PHOTO, SIZE)) / first.level.noise
    assert noise.std().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["kontext", "klein", "flux2"])
def test_a_picture_is_changed(plain, ours, name):
    size, photo = (64, 64), PHOTO.resize((64, 64))  # the least that FLUX.2 looks at
    more = {"max_area": 64 * 64} if name == "kontext" else {}
    expected = called(plain(name), name, image=photo, width=size[0], height=size[1], **more)
    call = {"seed": 7, "steps": 4, "guidance": 3}
    assert same(ours(name).draw(PROMPT, **call, given=Given(edit=photo, size=size))[0], expected)
    assert not same(ours(name).draw(PROMPT, **call, given=Given(size=size))[0], expected)


def test_a_model_that_only_changes_pictures(plain, ours, monkeypatch):
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus."
    monkeypatch.setattr(module + "VAE_IMAGE_SIZE", 32 * 32)
    monkeypatch.setattr(module + "CONDITION_IMAGE_SIZE", 56 * 56)
    pytest.importorskip("torchvision")  # its processor of pictures needs that
    monkeypatch.setitem(PLAIN, "qwen_edit", PLAIN["qwen"])
    expected = called(plain("qwen_edit"), "qwen_edit", image=FITTED, width=SIZE[0], height=SIZE[1])
    assert same(drawn(ours("qwen_edit"), edit=PHOTO), expected)
    with pytest.raises(Problem) as caught:
        drawn(ours("qwen_edit"))
    assert caught.value.code == "nothing_to_change"


# ---- ControlNet


def control(pipe, name: str):
    """A net that counts, of the class that goes with the pipeline."""
    torch.manual_seed(1)
    net = getattr(pipe, "unet", None) or pipe.transformer
    edges = {"conditioning_embedding_out_channels": (8, 16)}
    if name in ("sd", "sdxl"):
        made = diffusers.ControlNetModel.from_unet(net, **edges)
    elif name == "sdxl-union":
        made = diffusers.ControlNetUnionModel(
            **{key: net.config[key] for key in UNET if key in net.config}, **edges, num_trans_channel=16,
            num_trans_head=2, num_proj_channel=16,
        )  # fmt: skip
    elif name == "sd3":
        made = diffusers.SD3ControlNetModel.from_config(net.config, num_layers=1, extra_conditioning_channels=0)
    elif name == "zimage":
        made = diffusers.ZImageControlNetModel(
            control_layers_places=[0], control_refiner_layers_places=[0], control_in_dim=4, dim=32, n_refiner_layers=1,
            n_heads=2, n_kv_heads=2, add_control_noise_refiner="control_noise_refiner",
        )  # fmt: skip
    elif name == "qwen":
        made = diffusers.QwenImageControlNetModel.from_config(net.config)
    else:
        modes = {"num_mode": 7} if name == "flux-union" else {}
        made = diffusers.FluxControlNetModel.from_config(net.config, **modes)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return made.eval()


def test_a_guide_may_be_a_file_of_tensors(tmp_path):
    """As that of Z-Image is published: what its config would say stands in the registry."""
    entry = registry.get("z-image-union")
    config = {name: value for name, value in entry.config.items() if name != "_class_name"}
    with torch.device("meta"):
        assert len(diffusers.ZImageControlNetModel(**config).state_dict()) == 136  # tensors in the published file
    small = {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "control_in_dim": 4}
    net = diffusers.ZImageControlNetModel(**config | small)
    (file,) = entry.files
    tiny = replace(entry, config={**entry.config, **small})
    save_file(net.state_dict(), tmp_path / file)
    loaded = text_loading.controlnet(tiny, tmp_path)
    dtype = loaded.dtype  # bf16 where that is faster
    assert all(torch.equal(value.to(dtype), loaded.state_dict()[name]) for name, value in net.state_dict().items())
    save_file({name: value for name, value in net.state_dict().items() if "to_q" not in name}, tmp_path / file)
    with pytest.raises(Problem) as caught:
        text_loading.controlnet(tiny, tmp_path)
    assert caught.value.code == "weights_mismatch"


UNET = (
    "block_out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim", "down_block_types",
    "cross_attention_dim", "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
)  # fmt: skip


@pytest.mark.parametrize("name", [*WITH_GUIDE, *(f"{name}+start" for name in WITH_BOTH)])
def test_a_guide_is_that_of_diffusers(plain, ours, monkeypatch, name):
    name, _, both = name.partition("+")
    base = name.partition("-")[0]
    net, pipe = control(plain(base), name), ours(base)
    monkeypatch.setattr(pipe, "_guide", lambda guide: net)
    call = {"width": SIZE[0], "height": SIZE[1], "controlnet_conditioning_scale": 0.8}
    when = {} if name == "zimage" else {"control_guidance_end": 0.6}
    call |= when | ({"control_mode": {"sdxl-union": 3, "flux-union": 0}[name]} if "union" in name else {})
    if both:
        call |= {"image": FITTED, "control_image": EDGES, "strength": 0.6}
    else:
        call |= {"image" if name in ("sd", "sdxl") else "control_image": EDGES}
    kind = (WITH_BOTH if both else WITH_GUIDE)[name]
    expected = called(kin(plain, base, kind, controlnet=net), base, **call)
    guide = Guide("net", EDGES, 0.8, 0.0, 0.6 if when else 1.0, mode="canny")
    start = Start(PHOTO, 0.6) if both else None
    assert same(drawn(pipe, guide=guide, start=start), expected)
    assert not same(drawn(pipe, start=start), expected)


def test_edges_for_sd35_are_scaled_as_its_net_learnt_them(plain, ours, monkeypatch):
    """Stability AI's own example: pixels of 0 and 255 become 0.5 and 128, not -1 and 1; only of the net for edges."""
    net, pipe, seen = control(plain("sd3"), "sd3"), ours("sd3"), []
    monkeypatch.setattr(pipe, "_guide", lambda guide: net)
    encode = pipe.pipe.vae.encode
    monkeypatch.setattr(pipe.pipe.vae, "encode", lambda x: seen.append(x) or encode(x))
    for name in ("sd35-large-canny", "sd35-large-depth"):
        drawn(pipe, guide=Guide(name, EDGES))
    low, high = np.asarray(EDGES).min(), np.asarray(EDGES).max()
    assert (seen[0].min(), seen[0].max()) == (
        pytest.approx(low / 2 + 0.5, abs=0.1),
        pytest.approx(high / 2 + 0.5, abs=0.1),
    )
    assert seen[1].abs().max() <= 1


def test_a_guide_that_cannot_be(plain, ours, monkeypatch):
    for name, guide in (
        ("sdxl-union", Guide("net", EDGES, mode="blur")),
        ("zimage", Guide("net", EDGES, end=0.5)),
        ("klein", Guide("net", EDGES)),
    ):
        pipe = ours(name.partition("-")[0])
        net = control(plain("sdxl" if name == "klein" else name.partition("-")[0]), "sdxl" if name == "klein" else name)
        monkeypatch.setattr(pipe, "_guide", lambda guide, net=net: net)
        with pytest.raises(Problem) as caught:
            drawn(pipe, guide=guide)
        assert caught.value.code == ("unknown_choice" if name == "sdxl-union" else "cannot_be_given")


# ---- looking inside


@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "sd3", "klein"])
def test_what_cannot_be_looked_into_says_so(ours, name):
    pipe = ours(name)
    if pipe.family.inside:
        assert text_inside.told(pipe, PROMPT).hidden.shape[0] == 1
    else:
        with pytest.raises(Problem) as caught:
            text_inside.told(pipe, PROMPT)
        assert caught.value.code == "no_look_inside"
    assert pipe.family.inside == (name == "sd"), "the tiny FLUX.1 is told its guidance"
