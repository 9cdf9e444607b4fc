"""Pictures in public: who is looked at, what refuses them, and that nobody gets a black one."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import LANGUAGES, ROOT, models_apart
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import pipelines
from apps import i18n, text_pictures
from pipelines import Problem, registry, runtime, text_safety
from pipelines.registry import Model
from pipelines.text_safety import CHECKER, Guard, is_checked, is_public
from pipelines.text_to_image import TextToImagePipeline
from tests import tiny_families

SD15 = Model("sd15", "text_to_image", "diffusion", "someone/sd15", "MIT", "", 2022, "0" * 40)
RED, BLUE = (Image.new("RGB", (64, 48), colour) for colour in ("#c00000", "#0000c0"))
LISTED = {"objects": {}, "hats": {}, "backgrounds": {}, "styles": {}, "words": {"en": []}}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(text_safety, "_nets", {})
    for name in (text_safety.PUBLIC, "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def public(monkeypatch):
    monkeypatch.setenv(text_safety.PUBLIC, "1")


def write(folder, colour: int | None = None, bias: float = 0.0, labels=("normal", "nsfw")):
    """A classifier that says nsfw of what has much of a colour (0 red, 2 blue), or always or never, by its bias."""
    torch.manual_seed(0)
    config = ViTConfig(**SMALL, image_size=32, patch_size=16, id2label=dict(enumerate(labels)))
    config.label2id = {label: i for i, label in enumerate(labels)}
    net = ViTForImageClassification(config)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.vit.layernorm.weight.fill_(1)
        if colour is not None:  # its mean over a patch -> one feature of the first token, through one head
            net.vit.embeddings.patch_embeddings.projection.weight[0, colour] = 1 / 256
            layer = net.vit.layers[0] if hasattr(net.vit, "layers") else net.vit.encoder.layer[0]
            write_through(layer)
            net.classifier.weight[labels.index("nsfw"), 0] = 10
        net.classifier.bias[labels.index("nsfw")] = bias
    net.save_pretrained(folder)
    return folder


def write_through(layer) -> None:
    """Attention that hands on the mean of all tokens."""
    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.LayerNorm) and "after" not in name:
            module.weight.fill_(1)
        if isinstance(module, torch.nn.Linear) and name.endswith(
            ("value", "v_proj", "attention.output.dense", "o_proj")
        ):
            module.weight.copy_(torch.eye(len(module.weight)))


@pytest.fixture
def checker(tmp_path, monkeypatch):
    """checker(...) puts a classifier in the place of the hub's."""

    def put(**how):
        folder = write(tmp_path / f"checker{len(list(tmp_path.iterdir()))}", **how)
        entry = replace(CHECKER, path=folder, files=dict.fromkeys(CHECKER.files))
        monkeypatch.setattr(text_safety, "CHECKER", entry)
        return folder

    return put


def stable_diffusion(checker=None) -> StableDiffusionPipeline:
    pipe = tiny_families.build("sd")
    if checker:
        extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
        pipe.register_modules(safety_checker=checker, feature_extractor=extractor)
        pipe.register_to_config(requires_safety_checker=True)
    return pipe


def concepts(threshold: float) -> StableDiffusionSafetyChecker:
    """Stable Diffusion's checker; what lies nearer to one of its concepts than the threshold is refused."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**SMALL, image_size=32, patch_size=16).to_dict()
    text = CLIPTextConfig(**SMALL).to_dict()
    net = StableDiffusionSafetyChecker(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    net.concept_embeds_weights.data.fill_(threshold)
    net.special_care_embeds_weights.data.fill_(2)
    return net


# ---- where


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SPACE_ID": "someone/trugbild"}, True),
        ({"SPACE_ID": "someone/trugbild", "TRUGBILD_PUBLIC": "0"}, False),
        ({"TRUGBILD_PUBLIC": "1"}, True),
        ({"TRUGBILD_PUBLIC": "yes"}, True),
        ({"TRUGBILD_PUBLIC": ""}, False),
    ],
)
def test_what_is_public(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_public() is expected


def test_who_is_looked_at(monkeypatch, tmp_path):
    """Whoever knows a list only can draw nothing else; a folder of one's own may hold anything."""
    (tmp_path / "words.json").write_text(
        '{"objects": {}, "hats": {}, "backgrounds": {}, "styles": {}, "words": {"en": []}}'
    )
    listed = replace(SD15, id="local/emoji", path=tmp_path)
    assert not is_checked(SD15), "at home nobody looks"
    monkeypatch.setenv(text_safety.PUBLIC, "1")
    assert is_checked(SD15) and is_checked(replace(SD15, path=tmp_path / "own"))
    assert not is_checked(listed)


def test_at_home_nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(text_safety, "CHECKER", replace(CHECKER, path=ROOT / "nowhere"))
    assert Guard(SD15, stable_diffusion()).looks() == []


# ---- the classifier


def test_the_classifier_decides_by_what_it_sees(public, checker):
    checker(colour=0, bias=-5.0)
    guard = Guard(SD15, stable_diffusion())
    (look,) = looks = guard.looks()
    assert look(RED) and not look(BLUE)
    guard.check(BLUE, looks)
    with pytest.raises(Problem) as refused:
        guard.check(RED, looks)
    assert refused.value.code == "unsafe_picture"
    checker(colour=2, bias=-5.0)
    (look,) = guard.looks()
    assert look(BLUE) and not look(RED)


@pytest.mark.parametrize("labels", [("normal", "nsfw"), ("nsfw", "normal")])
def test_more_likely_than_not_is_refused(public, checker, labels):
    for bias, refused in ((-0.01, False), (0.01, True), (20.0, True), (-20.0, False)):
        checker(bias=bias, labels=labels)
        (look,) = Guard(SD15, stable_diffusion()).looks()
        assert [look(image) for image in (RED, BLUE, Image.new("L", (5, 300)))] == [refused] * 3


def test_it_sees_what_transformers_own_processor_makes():
    """The published one was trained on 224 px, mean and deviation 0.5, bilinear."""
    half = [0.5] * 3
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=half, image_std=half, resample=2)
    seen = processor(RED, return_tensors="pt").pixel_values
    assert torch.allclose(seen, runtime.to_tensor(RED.resize((32, 32), Image.Resampling.BILINEAR)), atol=1e-5)


def test_the_classifier_is_loaded_once(public, checker):
    checker()
    first, second = (Guard(SD15, stable_diffusion()).looks() for _ in range(2))
    assert first == second


# ---- Stable Diffusion's own


def test_stable_diffusions_checker_looks_and_paints_nothing(public, checker):
    checker(bias=-9.0)
    for threshold, refused in ((-2.0, True), (2.0, False)):
        pipe = stable_diffusion(concepts(threshold))
        guard = Guard(SD15, pipe)
        assert pipe.safety_checker is None and not pipe.config.requires_safety_checker
        assert [look(RED) for look in guard.looks()] == [refused, False]


def test_it_agrees_with_diffusers(public, checker):
    """Near a threshold in the middle of what the pictures score, both sides."""
    checker(bias=-9.0)
    net, extractor = concepts(0.0), CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    torch.manual_seed(1)
    net.concept_embeds.data.normal_()
    pictures = [Image.effect_noise((64, 64), spread).convert("RGB") for spread in (1, 20, 80, 200)] + [RED, BLUE]
    pixels = extractor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        view = torch.nn.functional.normalize(net.visual_projection(net.vision_model(pixels)[1]))
        nearest = (view @ torch.nn.functional.normalize(net.concept_embeds).T).max(1).values.sort().values
    net.concept_embeds_weights.data.fill_(float(nearest[2:4].mean()))
    black = torch.ones(len(pictures), 3, 2, 2)
    expected = net(pixels, black.numpy())[1]
    pipe = stable_diffusion(net)
    own, _ = Guard(SD15, pipe).looks()
    assert [own(picture) for picture in pictures] == [bool(unsafe) for unsafe in expected]
    assert set(expected) == {True, False}


def test_where_the_classifier_is_missing_its_own_is_enough(public, monkeypatch, tmp_path):
    monkeypatch.setattr(text_safety, "CHECKER", replace(CHECKER, path=tmp_path))
    (look,) = Guard(SD15, stable_diffusion(concepts(-2.0))).looks()
    assert look(BLUE)


# ---- what is asked for


@pytest.mark.parametrize(
    "prompt, word",
    [
        ("a naked frog", "naked"),
        ("Ein NACKTER Frosch", "NACKTER"),
        ("a n\u200bu\u200bde frog", "nude"),
        ("ｎｓｆｗ", "nsfw"),
        ("a frog, sex:1.2", "sex"),
        ("Nacktschnecke in Essex, a dude", ""),
        ("", ""),
    ],
)
def test_words_of_a_prompt(prompt, word):
    assert text_safety.refused(prompt) == word


def test_a_refused_word_is_a_sentence_before_any_work(public, checker, monkeypatch):
    checker(bias=-9.0)
    drawing, told = TextToImagePipeline(stable_diffusion(), SD15), []
    with pytest.raises(Problem) as refused:
        drawing.draw("a naked frog", steps=2, on_step=lambda *event: told.append(event))
    assert refused.value.code == "unsafe_prompt" and refused.value.values == {"word": "naked"} and not told
    drawing.draw("frog", negative_prompt="naked", steps=2)  # what is to be left out is no wish
    monkeypatch.setenv(text_safety.PUBLIC, "0")
    drawing.draw("a naked frog", steps=2)


# ---- as pictures leave the wrapper


@pytest.mark.parametrize("leave", ["draw", "trace"])
def test_a_refused_picture_is_a_sentence_and_nobody_sees_it_before(public, checker, leave):
    drawing = TextToImagePipeline(stable_diffusion(), SD15)
    told = []
    checker(bias=9.0)
    with pytest.raises(Problem) as refused:
        getattr(drawing, leave)("frog", steps=3, on_step=lambda *event: told.append(event))
    assert refused.value.code == "unsafe_picture" and refused.value.values == {"model": "sd15"}
    assert told == [(1, 3, None), (2, 3, None), (3, 3, None)]


def test_who_passes_is_drawn_as_at_home(public, checker, monkeypatch):
    checker(bias=-9.0)
    seen, _ = TextToImagePipeline(stable_diffusion(concepts(2.0)), SD15).draw("frog", steps=2, seed=3)
    monkeypatch.setenv(text_safety.PUBLIC, "0")
    at_home, _ = TextToImagePipeline(stable_diffusion(concepts(-2.0)), SD15).draw("frog", steps=2, seed=3)
    assert seen.tobytes() == at_home.tobytes() and max(high for _, high in seen.getextrema()) > 0, "not black"


def test_without_anybody_to_look_nothing_is_drawn(public, monkeypatch, tmp_path):
    monkeypatch.setattr(text_safety, "CHECKER", replace(CHECKER, path=tmp_path))
    told = []
    with pytest.raises(Problem) as refused:
        TextToImagePipeline(stable_diffusion(), SD15).draw("frog", on_step=lambda *event: told.append(event))
    assert refused.value.code == "no_checker" and told == []


@pytest.fixture(scope="module")
def models(app, tmp_path_factory):
    """A model of language, and the same with a list of words."""
    with models_apart():
        for name in ("language", "listed"):
            folder = tmp_path_factory.mktemp("models") / name
            stable_diffusion().save_pretrained(folder)
            if name == "listed":
                (folder / "words.json").write_text(json.dumps(LISTED))
            assert pipelines.register_folder(folder).id == f"local/{name}"
        yield


@pytest.mark.parametrize("lang", LANGUAGES)
def test_other_programs_get_the_same_sentence(public, checker, ask, models, lang):
    checker(bias=9.0)
    how = "frog", "", 1, 2, 3.0, "", "", 1.0
    for task, more in (("text_to_image", (1, 0, 0)), ("xy_grid", ("steps", "1,2", "-", "")), ("diffusion_steps", (1,))):
        said = ask(task, "local/language", *how, *more, lang=lang)
        assert said == ("error", i18n.say("problems.unsafe_picture", lang, model="local/language")), task
    assert ask("compare", *how[:3], ["local/language"], lang=lang)[0] == "error"
    assert ask("text_to_image", "local/listed", *how, 1, 0, 0, lang=lang)[0] == "complete"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_is_not_checked_is_said(monkeypatch, models, lang):
    texts = i18n.texts(lang)
    for value, model, key in (
        ("0", "local/language", "unchecked"),
        ("1", "local/language", "checked"),
        ("1", "local/listed", "listed"),
        ("0", "local/listed", "listed"),
    ):
        monkeypatch.setenv(text_safety.PUBLIC, value)
        said = text_pictures.safety(model, lang)
        assert texts[f"text.safety.{key}"] in said and texts["text.safety.marked"] in said


# ---- what is missing or broken


@pytest.mark.parametrize("lang", LANGUAGES)
def test_nothing_is_drawn_unseen(public, monkeypatch, tmp_path, lang):
    """Without anybody to look, a sentence comes before the work, not after it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(Problem) as refused:
        Guard(SD15, stable_diffusion()).looks()
    assert refused.value.code == "no_checker" and refused.value.__cause__.code == "offline_mode"
    said = i18n.sentence(refused.value, lang)
    assert "sd15" in said and said.endswith(".") and len(said) < 250


@pytest.mark.parametrize("damage", ["cut", "other labels", "other net", "no JSON"])
def test_a_broken_classifier_lets_nothing_pass(public, checker, damage):
    folder = checker(labels=("cat", "nsfw", "dog")) if damage == "other labels" else checker()
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif damage == "other labels":
        config.write_text(config.read_text().replace("nsfw", "bird"))
    elif damage == "other net":
        config.write_text(config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    else:
        config.write_text("{")
    with pytest.raises(Problem) as refused:
        Guard(SD15, stable_diffusion()).looks()
    assert refused.value.code == "no_checker"
    assert refused.value.__cause__.code in ("model_broken", "weights_mismatch", "weights_broken")


def test_the_published_one_is_pinned():
    assert CHECKER.revision and len(CHECKER.files["model.safetensors"]) == 64
    assert CHECKER.id not in [model.id for model in registry.models()], "nobody picks it"


def test_no_torch():
    check = "import sys, pipelines.text_safety; print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
