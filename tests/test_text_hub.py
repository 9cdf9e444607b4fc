"""Hub pipelines through our wrapper: tiny ones of every class from a hub on this machine, which may fail in many ways.

Also how they are put into memory (text_loading.py) and the comparison of the registry with the hub (registry_check.py).
"""

import dataclasses
import hashlib
import types
import weakref

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline
from PIL import Image

import pipelines
from pipelines import Problem, conditions, registry, registry_check, text_loading, text_plan
from pipelines import hub as hub_files
from pipelines.registry import Model
from pipelines.text_given import Given, Start
from pipelines.text_loading import Machine, Plan, plan
from tests import hub as fake
from tests import tiny_families

KINDS = {
    "sd": "diffusion", "lcm": "consistency", "sdxl": "diffusion", "sd3": "flow", "flux": "flow", "kontext": "flow",
    "klein": "flow", "flux2": "flow", "zimage": "flow", "qwen": "flow",
}  # fmt: skip
MORE = {"sd": {"variant": "fp16"}, "sdxl": {"parts": {"vae": "another-vae"}}}
# What lies in real repositories and is not wanted.
DECOYS = (
    "v1-5-pruned.ckpt", "flux1-dev.safetensors", "unet/diffusion_pytorch_model.bin", "unet/model.onnx",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "transformer/flux.safetensors", "vae_1_0/config.json",
    "text_encoder/flax_model.msgpack", "text_encoder/consolidated.safetensors", "safety_checker/model.safetensors",
    "README.md", "text_encoders/t5xxl_fp16.safetensors",
)  # fmt: skip
CALL = {"steps": 3, "guidance": 2.0, "seed": 5}
PREVIEWS = tuple(registry.get(id) for id in ("taesdxl", "taesd3", "taef1", "taef2"))  # none of which is here
PROMPT = "a frog with a melon hat"


def files(folder) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def tiny_autoencoder() -> AutoencoderTiny:
    """Of the latents of Stable Diffusion, twice as large as they, as the tiny pipelines have it."""
    torch.manual_seed(3)
    few = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    return AutoencoderTiny(encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), **few)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    where = tmp_path_factory.mktemp("served")
    for name in KINDS:
        tiny_families.build(name).save_pretrained(where / name)
    tiny_families.build("sd").to(torch.float16).save_pretrained(where / "sd", variant="fp16")
    torch.manual_seed(9)
    tiny_families.vae().save_pretrained(where / "another-vae")
    tiny_autoencoder().save_pretrained(where / "taesd")
    return where


@pytest.fixture(scope="module")
def contents(folders):
    repos = {f"someone/{folder.name}": files(folder) for folder in folders.iterdir()}
    for name in KINDS:
        repos[f"someone/{name}"] |= dict.fromkeys(DECOYS, b"not this")
    return repos


def entry(name: str, tab: str = "text_to_image", kind: str = "", **more) -> Model:
    more = {"revision": fake.COMMIT, "defaults": {"size": 32}, **MORE.get(name, {}), **more}
    return Model(name, tab, kind or KINDS[name], f"someone/{name}", *registry.MIT, 2026, **more)


@pytest.fixture
def hub(contents, tmp_path, monkeypatch):
    weights = hashlib.sha256(contents["someone/taesd"][registry.WEIGHTS]).hexdigest()
    taesd = entry("taesd", "vae_playground", "photo", files={"config.json": None, registry.WEIGHTS: weights})
    monkeypatch.setattr(registry, "MODELS", (*map(entry, KINDS), taesd, *PREVIEWS))
    monkeypatch.setattr(registry, "TOOLS", (entry("another-vae", kind="vae"),))
    monkeypatch.setattr(registry, "_own", {})
    monkeypatch.setattr(pipelines, "_wanted", {})
    monkeypatch.setattr(conditions, "CONDITIONS", {})
    monkeypatch.delenv("TRUGBILD_TEXT_PLAN", raising=False)
    fake.forget(monkeypatch, tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with fake.serve({repo: dict(content) for repo, content in contents.items()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    return caught.value.code


def fetched(hub) -> set[str]:
    """Names of the files that were asked for."""
    asked = [request.partition("?")[0] for request in hub.requests if request.startswith("GET /someone")]
    return {request.split(f"/resolve/{fake.COMMIT}/")[1] for request in asked if "/resolve/" in request}


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and (np.asarray(a) == np.asarray(b)).all()


# ---- every class


@pytest.mark.parametrize("name", KINDS)
def test_every_class_comes_from_the_hub(hub, folders, name):
    pipe, seen = pipelines.load(name), []
    assert not fetched(hub) & set(DECOYS), "only what it takes"
    picture, recipe = pipe.draw(PROMPT, **CALL, on_step=lambda *step: seen.append(step))
    more = {"dtype": torch.float32}
    if name == "sd":
        more["variant"] = "fp16"
    if name == "sdxl":
        more["vae"] = diffusers.AutoencoderKL.from_pretrained(folders / "another-vae")
    plain = DiffusionPipeline.from_pretrained(folders / name, **more)
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = pipe.scheduler()
    arguments = pipe.family.arguments(PROMPT, "", CALL["steps"], CALL["guidance"])
    arguments |= pipe.family.called(plain, Given(size=(32, 32)))
    assert same(picture, plain(**arguments, generator=torch.Generator().manual_seed(CALL["seed"])).images[0])
    assert [step[:2] for step in seen] == [(1, 3), (2, 3), (3, 3)] and seen[0][2].size == (32, 32)
    assert (recipe.model, recipe.revision, recipe.seed) == (name, fake.COMMIT, CALL["seed"])

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        pipe.draw(PROMPT, **CALL, on_step=stop)
    assert same(picture, pipe.draw(PROMPT, **CALL)[0])
    if "start" in pipe.family.variants:
        begun = pipe.draw(PROMPT, **CALL, given=Given(Start(picture, 0.7)))[0]
        assert begun.size == (32, 32) and not same(begun, picture)


def test_once_fetched_it_needs_no_hub(hub, monkeypatch):
    first = pipelines.load("sdxl").draw(PROMPT, **CALL)[0]
    asked = len(hub.requests)
    pipelines._loaded.clear()
    pipelines._memory.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pipelines.status(registry.get("sdxl")) is None
    assert same(first, pipelines.load("sdxl").draw(PROMPT, **CALL)[0])
    assert len(hub.requests) == asked
    folder = hub_files.folder(registry.get("sdxl"))
    (folder / "tokenizer_2/tokenizer.json").unlink()
    assert pipelines.status(registry.get("sdxl")).code == "offline_mode", "half a model is none"


def test_the_smaller_variant_alone(hub):
    pipelines.load("sd")
    nets = {name for name in fetched(hub) if name.endswith(".safetensors")}
    assert nets == {f"{part}.fp16.safetensors" for part in (
        "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model",
    )}  # fmt: skip


def test_weights_in_several_files():
    names = [
        "model_index.json",
        "transformer/config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
    ]
    shards = [f"transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shards += ["transformer/diffusion_pytorch_model.safetensors.index.json"]
    twice = ["transformer/diffusion_pytorch_model.safetensors"]
    index = {"transformer": ["diffusers", "X"], "text_encoder": ["transformers", "Y"], "image_encoder": [None, None]}
    index |= {"_class_name": "Z", "is_distilled": True}
    found = hub_files.needed([*names, *shards, *twice, "image_encoder/model.safetensors"], index, entry("flux"))
    assert sorted(found) == sorted([*names, *shards])


# ---- what can go wrong


@pytest.mark.parametrize(
    ("fault", "expected"),
    {
        "gated": "gated",
        "unauthorised": "unauthorised",
        "not found": "gone",
        "vanished": "gone",
        "failing": "hub_failed",
        "cut off": "cut_off",
        "tampered": "hash_mismatch",
    }.items(),
)
def test_one_sentence_each(hub, fault, expected):
    hub.fault = fault
    assert code(pipelines.load, "zimage") == expected
    hub.fault = ""
    assert pipelines.load("zimage")  # and the app goes on


@pytest.mark.parametrize("only", ["vae/diffusion_pytorch_model.safetensors", "scheduler_config.json"])
def test_one_file_is_tampered_with(hub, only):
    hub.fault, hub.only = "tampered", only
    with pytest.raises(Problem) as caught:
        pipelines.load("zimage")
    assert caught.value.code == "hash_mismatch" and caught.value.values["file"].endswith(only)
    assert hub_files.folder(registry.get("zimage")) is None
    hub.fault = ""
    assert pipelines.load("zimage")


def test_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    assert code(pipelines.load, "klein") == pipelines.status(registry.get("klein")).code == "offline"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code(pipelines.load, "klein") == pipelines.status(registry.get("klein")).code == "offline_mode"


def test_no_room_on_the_disk(hub, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
    assert code(pipelines.load, "klein") == "disk_full"
    assert fetched(hub) == {"model_index.json"}, "nobody waits for a download that cannot end"


def test_no_room_in_memory_and_a_gate(hub, monkeypatch):
    large = entry("flux", memory_mb=10**6)
    monkeypatch.setattr(registry, "MODELS", (large, entry("klein", gate=True), *PREVIEWS))
    assert code(pipelines.load, "flux") == pipelines.status(large).code == "memory"
    assert code(pipelines.load, "klein") == "gated" and not hub.requests
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert pipelines.load("klein")


# ---- into memory


def test_the_plan_follows_from_the_machine(monkeypatch):
    monkeypatch.delenv("TRUGBILD_TEXT_PLAN", raising=False)
    small, large = entry("sd", memory_mb=500), entry("flux", memory_mb=36_500)
    desk, laptop = Machine("cpu", 100_000, bf16=True), Machine("cpu", 40_000, bf16=False)
    card = Machine("cuda", 24_000, bf16=True, quantisers=("8bit", "4bit"))
    plain_card, big = dataclasses.replace(card, quantisers=()), dataclasses.replace(card, free_mb=80_000)
    for one in (desk, laptop, card):
        assert plan(small, one) == Plan(one.device), "ours are drawn in fp32 anywhere"
    assert plan(large, desk) == Plan("cpu", "bfloat16")
    assert plan(large, laptop) == Plan("cpu", "bfloat16"), "slow, but it fits"
    assert plan(large, dataclasses.replace(laptop, free_mb=80_000)) == Plan("cpu", "float32")
    assert plan(large, big) == Plan("cuda", "bfloat16")
    assert plan(large, card) == Plan("cuda", "bfloat16", quantisation="8bit")
    assert plan(large, dataclasses.replace(card, free_mb=16_000)).quantisation == "4bit"
    assert plan(large, plain_card) == Plan("cuda", "bfloat16", offload="layers")
    assert plan(large, card, quantisation="none", offload="layers") == plan(large, plain_card)
    monkeypatch.setenv("TRUGBILD_TEXT_PLAN", "dtype=float32, cache = first_block")
    assert plan(large, big) == Plan("cuda", "float32", cache="first_block")
    for wrong in ("dtype=int7", "speed=high", "nonsense", "offload="):
        monkeypatch.setenv("TRUGBILD_TEXT_PLAN", wrong)
        assert code(plan, large, big) == "plan_setting"
    monkeypatch.delenv("TRUGBILD_TEXT_PLAN")
    assert code(plan, large, plain_card, quantisation="4bit") == "plan_setting", "not offered where it is not installed"


def planned(monkeypatch, name: str, setting: str):
    """The model, loaded anew by another plan."""
    monkeypatch.setenv("TRUGBILD_TEXT_PLAN", setting)
    pipelines._loaded.clear()
    return pipelines.load(name)


def test_the_plan_can_be_changed(hub, monkeypatch):
    before = pipelines.load("zimage")
    assert before.plan == Plan("cpu")
    picture = before.draw(PROMPT, **CALL)[0]
    layers = planned(monkeypatch, "zimage", "offload=layers")
    assert layers.plan == Plan("cpu", offload="layers") and same(layers.draw(PROMPT, **CALL)[0], picture)
    assert code(layers._changed_by, ()) == "cannot_be_given", "nets of which not all is there cannot be copied"
    half = planned(monkeypatch, "zimage", "dtype=bfloat16")
    assert {half.pipe.vae.dtype, half.pipe.transformer.dtype, half.pipe.text_encoder.dtype} == {torch.bfloat16}
    assert np.abs(np.int16(half.draw(PROMPT, **CALL)[0]) - np.int16(picture)).mean() < 8
    assert code(planned, monkeypatch, "zimage", "cache=first_block") == "plan_setting"


def test_a_model_is_loaded_anew_as_a_person_wants_it(hub, monkeypatch):
    before = pipelines.load("flux")
    assert not set(text_plan.PIXELS) & before.draw(PROMPT, **CALL)[1].settings.keys()
    old, left, load = weakref.ref(before), [], text_loading.pipeline
    monkeypatch.setattr(text_loading, "pipeline", lambda *args, **more: left.append(old()) or load(*args, **more))
    pipelines.want("flux", cache="first_block")
    assert pipelines.loaded("flux") is before, "whoever draws meanwhile draws as before"
    del before
    after = pipelines.load("flux")
    assert left == [None], "the old copy is gone before the new one comes"
    assert after.plan == Plan("cpu", cache="first_block") and pipelines.load("flux") is after
    assert after.draw(PROMPT, **CALL)[1].settings["cache"] == "first_block"
    pipelines.want("flux", dtype="int7")
    assert code(pipelines.load, "flux") == "plan_setting"
    monkeypatch.setenv("TRUGBILD_TEXT_PLAN", "dtype=bfloat16")
    pipelines.want("flux", dtype="float32")
    assert pipelines.load("flux").plan == Plan("cpu")


def test_what_can_be_chosen_is_what_works_here(hub, monkeypatch):
    flux, zimage = (entry(name, memory_mb=36_500) for name in ("flux", "zimage"))
    assert text_plan.choices(entry("flux", memory_mb=500)) == {}, "ours are drawn in fp32 anywhere"
    assert text_plan.choices(flux).keys() == {"dtype"}
    monkeypatch.setattr(text_plan, "gpu_mb", lambda: 24_000)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert text_plan.choices(flux).keys() == {"dtype", "offload"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert text_plan.choices(flux)["quantisation"] == ("none", "8bit", "4bit")
    for model in (flux, zimage):
        hub_files.fetch(model)
    assert "cache" not in text_plan.choices(zimage)
    card = Machine("cuda", 24_000, bf16=True, quantisers=("8bit", "4bit"))
    for name, values in text_plan.choices(flux).items():
        for value in values:
            assert getattr(plan(flux, card, **{name: value}), name) == value
    assert text_plan.choices(flux).keys() == text_plan.ways().keys()


def test_a_cache_forgets_what_was_stopped(hub, monkeypatch):
    pipe = planned(monkeypatch, "flux", "cache=first_block")
    assert pipe.plan.cache == "first_block" and pipe.pipe.transformer.is_cache_enabled
    picture = pipe.draw(PROMPT, **CALL)[0]

    def stop(*_):
        raise KeyError

    with pytest.raises(KeyError):
        pipe.draw("an owl", **CALL | {"seed": 6}, on_step=stop)
    assert same(pipe.draw(PROMPT, **CALL)[0], picture)
    assert code(pipe.draw, PROMPT, **CALL, given=Given(Start(picture, 0.7))) == "cannot_be_given"


def test_previews_by_the_small_autoencoder(hub, folders, monkeypatch):
    own = pipelines.load("sd")
    assert own.tiny is None
    pipelines.load("taesd")  # now it is on this machine
    pipelines._loaded.clear()
    pipe, seen = pipelines.load("sd"), []
    made = pipe.trace(PROMPT, **CALL, on_step=lambda *step: seen.append(step[2]))
    assert same(made.image, own.draw(PROMPT, **CALL)[0]), "the picture itself is decoded as ever"
    decoder = AutoencoderTiny.from_pretrained(folders / "taesd").eval()
    with torch.inference_mode():
        expected = decoder.decode(made.moments[0].x0).sample[0]
    expected = ((expected + 1) * 127.5).clamp(0, 255).permute(1, 2, 0).numpy()
    assert np.abs(np.float32(seen[0]) - expected).mean() < 2  # in bf16 where that is faster
    assert not same(seen[0], own.decode(made.moments[0].x0))


# ---- the registry and the hub


def test_what_is_written_down_is_compared_with_the_hub(hub, contents, capsys, monkeypatch):
    monkeypatch.setattr(registry, "MODELS", registry.MODELS[: -len(PREVIEWS)])
    assert registry_check.main(["--check"]) == 0
    assert capsys.readouterr().out.count("ok  ") == len(registry.MODELS) + len(registry.TOOLS)
    hub.gated = True
    assert registry_check.main(["--check"]) == 1 and "gate is True" in capsys.readouterr().out
    hub.gated = False
    del hub.repos["someone/klein"]
    assert registry_check.main(["--check"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("differs")]
    assert "klein" in line and "no longer has" in line
    other = {"config.json": None, registry.WEIGHTS: "0" * 64, "more.safetensors": registry.ASK}
    moved = entry("taesd", "vae_playground", "photo", files=other, revision="1" * 40)
    unpinned = entry("flux", revision=None)
    monkeypatch.setattr(registry, "MODELS", (moved, unpinned))
    assert registry_check.main(["--check"]) == 1
    out = capsys.readouterr().out
    real = hashlib.sha256(contents["someone/taesd"][registry.WEIGHTS]).hexdigest()
    assert f"revision is {fake.COMMIT}" in out and f"sha256 of {registry.WEIGHTS} is {real}" in out
    assert "more.safetensors is gone" in out and f"main is {fake.COMMIT}" in out


def test_every_hub_pipeline_can_be_driven():
    from pipelines.text_families import FAMILIES
    from pipelines.text_space import SAMPLERS

    for model in registry.models("text_to_image"):
        if model.path:
            continue
        assert model.kind in SAMPLERS and model.memory_mb > 3000 and not model.files
        assert model.defaults.keys() >= {"steps", "guidance", "size"}
        assert model.defaults.get("sampler", "") in ("", *SAMPLERS[model.kind])
        for id in model.parts.values():
            assert registry.get(id) in registry.TOOLS
    for net in registry.models("text_to_image", "controlnet"):
        assert registry.get(net.base).kind in SAMPLERS
    assert {kind.__name__ for kind in FAMILIES} == set(registry.PIPELINES)
    for name, kind in registry.PIPELINES.items():
        family = FAMILIES[getattr(diffusers, name)]
        assert set(family.samplers) >= set(SAMPLERS[kind])
