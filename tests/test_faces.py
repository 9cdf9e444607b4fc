"""The wrapper of the faces with tiny nets, and published weights from a hub on this machine. Knows no face."""

import hashlib
import itertools
import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import models_apart
from PIL import Image

import pipelines
from pipelines import Problem, face_space, hub, recipe, registry
from pipelines.face_drawing import between
from pipelines.face_space import layer_group, pack, read_people, unpack, write_people
from pipelines.models.stylegan2 import Discriminator, Generator
from tests import hub as fake
from tests.test_stylegan2 import published

SIZES = {"channels": (8, 8, 8, 8), "classes": 2}
LATENT = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2}


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    assert str(caught.value).endswith(".") and not re.search(r"/(tmp|home|root|work)|Error", str(caught.value))
    return caught.value.code


def same(a: Image.Image, b: Image.Image, within: int = 0) -> bool:
    a, b = (np.asarray(picture, np.int16) for picture in (a, b))
    return a.shape == b.shape and np.abs(a - b).max() <= within


def save(folder, channels=SIZES["channels"]):
    net = Generator(channels, classes=2, **LATENT)
    for name, parameter in net.named_parameters():
        if "noise_strength" in name:
            torch.nn.init.constant_(parameter, 0.3)
        elif "to_rgb" in name:
            parameter.data *= 0.3  # within [-1, 1], where pictures are not clipped
    net.measure_mean(500)
    net.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What training writes, with stages beside it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-faces"
    torch.manual_seed(0)
    save(folder)
    Discriminator(**SIZES).save_pretrained(folder / "discriminator")
    save(folder / "stages" / "early", (8, 8, 8))
    stages = [{"name": "early", "pictures_seen": 100}, {"pictures_seen": 300}]
    (folder / "stages" / "stages.json").write_text(json.dumps(stages))
    facts = {"tab": "faces", "kind": "faces", "licence": "Apache-2.0", "year": 2026}
    (folder / "training.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def faces(folder):
    with models_apart():
        yield pipelines.load(folder)


# -------------------------------------------------------------------------------------------------------------- drawing


def test_what_it_is(faces):
    assert (faces.domains, faces.image_size, faces.layers, faces.w_dim) == (("colour", "historic"), 32, 8, 8)
    assert faces.has_discriminator and faces.model.id == "local/tiny-faces"


def test_same_seed_same_picture_whatever_the_count(faces):
    steps = []
    pictures, made = faces.generate(5, 3, on_step=lambda i, n, picture: steps.append((i, n, picture.size)))
    assert [(p.mode, p.size) for p in pictures] == [("RGB", (32, 32))] * 3
    assert steps == [(1, 3, (32, 32)), (2, 3, (32, 32)), (3, 3, (32, 32))]
    assert same(pictures[1], faces.generate(6)[0][0]) and not same(*pictures[:2])
    assert (made.task, made.seed, made.model) == ("generate", 5, "local/tiny-faces")
    assert made.settings == {"count": 3, "psi": 0.7, "cutoff": None, "noise": "on", "domain": "colour"}
    assert same(faces.generate(2**32 - 1, 2)[0][1], faces.generate(0)[0][0])
    assert not same(pictures[0], faces.generate(5, domain="historic")[0][0])


def test_psi(faces):
    means = [faces.generate(seed, psi=0, noise="fixed")[0][0] for seed in (1, 2)]
    assert same(*means)
    ws = faces.ws([1, 2], psi=0)
    np.testing.assert_allclose(ws, np.broadcast_to(faces.mean("colour"), ws.shape), atol=1e-6)
    cut = faces.ws([1], psi=0, cutoff=3)[0]
    np.testing.assert_allclose(cut[3:], faces.ws([1], psi=1)[0, 3:])
    np.testing.assert_allclose(cut[:3], ws[0, :3], atol=1e-6)


def test_noise(faces):
    on, off, fixed = (faces.generate(3, noise=noise)[0][0] for noise in ("on", "off", "fixed"))
    assert not same(on, off) and not same(on, fixed) and not same(off, fixed)
    ws = faces.ws([3])
    assert same(faces.draw(ws, "on", [3])[0], on) and same(faces.draw(ws, "on", [0])[0], fixed)
    assert same(faces.generate(0, noise="on")[0][0], faces.generate(0, noise="fixed")[0][0])


def test_a_recipe_makes_the_picture_again(faces):
    (picture,), made = faces.generate(11, psi=0.3, cutoff=4, domain="historic")
    again = recipe.read(recipe.save(picture, made))
    assert again == made
    assert same(faces.generate(again.seed, **again.settings)[0][0], picture)


def test_fast_mode_without_a_compiler(faces, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    assert code(faces.generate, 1, fast=True) == "no_compiler"


def test_groups_do_not_change_a_picture(faces, monkeypatch):
    """Fast mode without compiling: groups are filled up, and nobody's picture depends on the rest."""
    monkeypatch.setattr(faces, "_fast", lambda: faces.generator.synthesis)
    pictures, made = faces.generate(5, 6, fast=True)
    assert len(pictures) == 6 and made.settings["fast"] is True
    assert same(pictures[4], faces.generate(9, fast=True)[0][0])
    assert same(pictures[4], faces.generate(9)[0][0], within=2)


# ---------------------------------------------------------------------------------------------------------------- tasks


def test_walk(faces):
    people = [1, 2, faces.ws([9])[0]]
    for mode in face_space.MODES:
        pictures, made = faces.walk(people, 3, mode=mode)
        assert len(pictures) == 9
        ends = [faces.draw(faces.ws([person]))[0] for person in people]
        assert all(same(pictures[3 * i], end, 1) for i, end in enumerate(ends))
        assert read_people(made.settings["people"], 8, 8)[:2] == [1, 2]
    pictures, made = faces.walk([1, 2], 4, space="z", loop=False)
    assert len(pictures) == 5 and made.settings["loop"] is False
    for picture, seed in ((pictures[0], 1), (pictures[-1], 2)):
        assert same(picture, faces.draw(faces.ws([seed]))[0], 1)
    assert code(faces.walk, people, space="z") == "codes_walk_in_w"


def test_between():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 16)).astype(np.float32)
    way = between(a, 2 * b, 0.5, "slerp")
    expected = (np.linalg.norm(a, axis=1) + np.linalg.norm(2 * b, axis=1)) / 2
    np.testing.assert_allclose(np.linalg.norm(way, axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(between(a, 2 * a, 0.25, "slerp"), 1.25 * a, rtol=1e-5)
    for mode, (t, end) in itertools.product(face_space.MODES, ((0, a), (1, b), (0.5, None))):
        row = between(a, b, t, mode)
        assert row.dtype == np.float32
        if end is not None:
            np.testing.assert_allclose(row, end, atol=1e-5)
    assert not between(np.zeros_like(a), np.zeros_like(a), 0.5, "slerp").any()


def test_layer_groups_cover_every_layer_once():
    for layers in (6, 8, 10, 12, 18):
        groups = [layer_group(name, layers) for name in face_space.LAYER_GROUPS]
        assert all(groups) and [i for group in groups for i in group] == list(range(layers))
    assert layer_group("middle", 18) == layer_group("middle", 10) == range(4, 8)


def test_mix(faces):
    steps = []
    grid, made = faces.mix([1, 2], [3, 1], "middle", on_step=lambda i, n, _: steps.append((i, n)))
    assert (len(grid), len(grid[0])) == (2, 2) and steps == [(1, 2), (2, 2)]
    faces_of = faces.draw(faces.ws([1, 2, 3]))
    assert same(grid[0][1], faces_of[0])  # row 1 with its own styles
    assert not same(grid[0][0], faces_of[0]) and not same(grid[0][0], faces_of[2])
    ws = faces.ws([1, 3])
    for name in face_space.LAYER_GROUPS:
        ws[0, layer_group(name, 8)] = ws[1, layer_group(name, 8)]
        mixed = ws[0].copy()
    assert same(faces.draw(mixed[None])[0], faces_of[2])  # all groups of another are the other
    assert (made.settings["rows"], made.settings["columns"]) == ("1,2", "3,1")


def test_arithmetic(faces):
    means, total, pixels, made = faces.arithmetic([1], [2, 3], [2, 3])
    assert len(means) == 3 and same(means[1], means[2]) and same(total, means[0], 1)
    assert same(pixels, faces.draw(faces.ws([1]))[0], 1)
    means, total, _, _ = faces.arithmetic([1, 4], [2], [3])
    assert not same(total, means[0], 3)
    assert (made.task, made.settings["a"], made.settings["b"]) == ("arithmetic", "1", "2,3")


def test_directions(faces):
    vectors, values = faces.directions()
    assert vectors.shape == (8, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(8), atol=1e-5)
    assert (np.diff(values) <= 0).all() and (values >= -1e-9).all()
    assert (vectors[np.arange(8), np.abs(vectors).argmax(1)] > 0).all()
    some, eigenvalues = faces.directions(2, 4)
    assert not np.allclose(some, vectors)
    convs = (faces.generator.blocks[0].conv, faces.generator.blocks[1].up, faces.generator.blocks[1].conv)
    a = np.concatenate([layer.conv.affine.weight.numpy() for layer in convs])
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    np.testing.assert_allclose(a.T @ a @ some[0], eigenvalues[0] * some[0], atol=1e-5)


def test_edit(faces):
    plain = faces.generate(3)[0][0]
    picture, ws, made = faces.edit(3, {0: 0.0})
    assert same(picture, plain) and np.array_equal(ws, faces.ws([3])[0]) and made.settings["amounts"] == ""
    picture, ws, made = faces.edit(3, {1: 2, 0: -1.5}, 2, 4)
    assert not same(picture, plain) and made.settings["amounts"] == "0:-1.5,1:2"
    vectors, _ = faces.directions(2, 4)
    moved = ws - faces.ws([3])[0]
    np.testing.assert_allclose(moved[2:5], np.tile(2 * vectors[1] - 1.5 * vectors[0], (3, 1)), atol=1e-5)
    assert not moved[:2].any() and not moved[5:].any()
    own = unpack(pack(ws), 8, 8)
    assert same(faces.edit(own, {}, noise="on")[0], faces.draw(own[None], "fixed")[0])


def test_verdict(faces):
    pictures = [Image.new("RGB", (70, 50), "teal"), faces.generate(1)[0][0], Image.new("L", (32, 32), 200)]
    logits, seen = faces.verdict(pictures)
    assert len(logits) == 3 and all(isinstance(logit, float) for logit in logits)
    assert [p.size for p in seen] == [(32, 32)] * 3 and same(seen[1], pictures[1])
    assert faces.verdict(pictures[1:2])[0] == logits[1:2]  # whatever the company
    assert faces.verdict(pictures, domain="historic")[0] != logits  # its companions are others
    noised, seen = faces.verdict(pictures, 0.5, seed=4)
    assert noised != logits and 40 < np.std(np.asarray(seen[0], float)) < 80
    assert same(seen[1], faces.verdict(pictures[1:2], 0.5, seed=5)[1][0])


def test_stages(faces):
    stages = faces.stages()
    assert [(s.name, s.image_size, s.pictures_seen) for s in stages] == [
        ("early", 16, 100),
        ("local/tiny-faces", 32, 300),
    ]
    pictures, made = faces.learnt([1, 2], 0)
    assert [p.size for p in pictures] == [(16, 16)] * 2 and made.settings["stage"] == 0
    assert same(faces.learnt([1], 1)[0][0], faces.draw(faces.ws([1]))[0])
    assert code(faces.learnt, [1], 2) == "out_of_range"
    assert code(faces.learnt, [1, faces.ws([1])[0]], 0) == "seeds_only"


def test_without_discriminator_and_stages(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_own", {})
    plain = shutil.copytree(folder, tmp_path / "plain", ignore=shutil.ignore_patterns("stages", "discriminator"))
    faces = pipelines.load(plain)
    assert not faces.has_discriminator and faces.stages() == []
    assert code(faces.verdict, []) == "no_discriminator" and code(faces.learnt, [1], 0) == "no_stages"
    (plain / "stages").mkdir()
    for broken in ("[", '[{"name": "../plain", "pictures_seen": 1}]', '[{"name": "gone", "pictures_seen": 1}]', "[1]"):
        (plain / "stages" / "stages.json").write_text(broken)
        assert code(faces.stages) == "model_broken"


# ---------------------------------------------------------------------------------------------------- people and limits


def test_codes_as_text():
    rng = np.random.default_rng(0)
    for scale in (1e-20, 1, 1e4):
        person = (scale * rng.standard_normal((10, 128))).astype(np.float32)
        person[3] = 0
        text = pack(person)
        rounded = unpack(text, 10, 128)
        assert rounded.dtype == np.float32 and pack(rounded) == text and len(text) < 1800
        assert np.abs(rounded - person).max() <= np.abs(person).max() / 250
        assert text.removeprefix("w:").replace("-", "").replace("_", "").isalnum()
    people = read_people(write_people([7, rounded, 0]), 10, 128)
    assert people[0] == 7 and np.array_equal(people[1], rounded) and people[2] == 0
    big = rng.standard_normal((18, 512)).astype(np.float32)
    assert code(write_people, [big] * 5) == "too_many_codes" and code(write_people, [big] * 2, 3) == "too_many_codes"
    assert write_people([big] * 4)


@pytest.mark.parametrize("text", ["w:", "w:AAAA", "w:ä", "w:" + "!" * 96, "w:" + "A" * 97, "w:" + "AADAf" * 19])
def test_texts_that_are_no_codes(text):
    assert code(read_people, text, 8, 8) == "face_code"


@pytest.mark.parametrize(
    ("text", "expected"),
    {"abc": "not_a_number", "1,": "missing", "-1": "not_a_number", str(2**64): "out_of_range"}.items(),
)
def test_texts_that_are_no_people(text, expected):
    assert code(read_people, text, 8, 8) == expected


@pytest.mark.parametrize("psi", [float("nan"), 2, "0.7", None])
def test_psi_that_is_none(faces, psi):
    assert code(faces.generate, psi=psi) in ("out_of_range", "not_a_number", "missing")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64, "abc", 0.5, None, True])
def test_seeds_that_are_none(faces, seed):
    assert code(faces.generate, seed) in ("out_of_range", "not_a_number", "missing", "not_whole")
    assert code(faces.ws, [seed]) in ("out_of_range", "not_a_number", "missing", "not_whole")


def test_bad_input(faces):
    ws, nan = faces.ws([1]), np.full((8, 8), np.nan, np.float32)
    for expected, function, *arguments in (
        ("out_of_range", faces.walk, [1, 2], 500),
        ("out_of_range", faces.walk, [1]),
        ("out_of_range", faces.walk, [1] * 9),
        ("unknown_choice", faces.walk, [1, 2], 5, "y"),
        ("unknown_choice", faces.walk, [1, 2], 5, "w", "straight"),
        ("unknown_choice", faces.mix, [1], [2], "finest"),
        ("out_of_range", faces.mix, [], [2]),
        ("out_of_range", faces.arithmetic, [1], [], [2]),
        ("out_of_range", faces.generate, 0, 65),
        ("out_of_range", faces.generate, 0, 1, 0.7, 9),
        ("unknown_choice", faces.generate, 0, 1, 0.7, None, "loud"),
        ("unknown_choice", faces.generate, 0, 1, 0.7, None, "on", "green"),
        ("out_of_range", faces.edit, 1, {8: 1}),
        ("not_a_number", faces.edit, 1, {"smile": 1}),
        ("out_of_range", faces.edit, 1, {0: 99}),
        ("out_of_range", faces.edit, 1, {0: float("nan")}),
        ("out_of_range", faces.directions, 3, 2),
        ("out_of_range", faces.directions, 0, 8),
        ("out_of_range", faces.verdict, [], 2),
        ("code_size", faces.ws, [np.zeros((8, 9), np.float32)]),
        ("code_size", faces.ws, [nan]),
        ("code_size", faces.draw, ws[0]),
        ("missing", faces.draw, ws, "on"),
        ("missing", faces.ws, []),
    ):
        assert code(function, *arguments) == expected, (function.__name__, arguments)


def test_first_picture(faces, tmp_path):
    assert face_space.first(tmp_path) is None
    (picture,), made = faces.generate(4)
    (tmp_path / "first.png").write_bytes(recipe.save(picture, made))
    shown, found = face_space.first(tmp_path)
    assert same(shown, picture) and found == made


# ---------------------------------------------------------------------------------------------------- published weights


def layout(widths=(6, 6, 5, 4)) -> dict:
    return {"g_ema": published(widths), "latent_avg": torch.randn(6)}


def written(tensors, tmp_path) -> bytes:
    torch.save(tensors, tmp_path / "written.pt")
    return (tmp_path / "written.pt").read_bytes()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """content, sha256 -> the hub that has it as the only file of the model stylegan2-test; nothing is cached yet."""
    name, opened = "stylegan2-test-config-f.pt", []

    def start(content: bytes, sha256: str | None = None) -> fake.Hub:
        sha256 = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
        model = registry.Model(
            "stylegan2-test",
            "faces",
            "faces",
            "someone/nets",
            *registry.NVIDIA,
            2020,
            fake.COMMIT,
            files={name: sha256},
        )
        monkeypatch.setattr(registry, "MODELS", (model,))
        shutil.rmtree(hub.cache(), ignore_errors=True)
        context = fake.serve({"someone/nets": {name: content}})
        server = context.__enter__()
        opened.append(context)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return server

    fake.forget(monkeypatch, tmp_path / "hf")
    yield start
    for context in opened:
        context.__exit__(None, None, None)


def forget():
    pipelines._loaded.clear()
    pipelines._memory.clear()


def test_published_weights_are_read_once_then_kept(serve, tmp_path, monkeypatch):
    server = serve(written(layout(), tmp_path))
    before = {path for path in tmp_path.rglob("*") if tmp_path / "hf" not in (path, *path.parents)}
    faces = pipelines.load("stylegan2-test")
    assert (faces.domains, faces.image_size, faces.w_dim, faces.has_discriminator) == ((), 32, 6, False)
    picture, made = faces.generate(3)
    assert made.revision == fake.COMMIT and made.settings["domain"] == ""
    assert code(faces.generate, domain="colour") == "unknown_choice"
    (kept,) = hub.converted().iterdir()
    assert kept.suffix == ".safetensors" and hub.converted().parent == tmp_path / "hf"
    assert {path for path in tmp_path.rglob("*") if tmp_path / "hf" not in (path, *path.parents)} == before

    forget()
    asked = len(server.requests)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)  # the second time nothing is unpickled
        assert same(pipelines.load("stylegan2-test").generate(3)[0][0], picture[0])
    assert len(server.requests) == asked

    forget()
    damaged = bytearray(kept.read_bytes())
    damaged[-5] ^= 1
    kept.write_bytes(damaged)
    assert same(pipelines.load("stylegan2-test").generate(3)[0][0], picture[0])  # made again
    assert [file.name for file in hub.converted().iterdir()] == [kept.name] and kept.read_bytes() != damaged


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
def test_published_weights_of_every_size(serve, tmp_path, size):
    serve(written(layout((6, 5, 4, 4, 3, 3, 2, 2, 2)[: size.bit_length() - 2]), tmp_path))
    faces = pipelines.load("stylegan2-test")
    assert faces.image_size == size and faces.layers == 2 * size.bit_length() - 4
    assert faces.generate(1)[0][0].size == (size, size)


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


def test_published_weights_that_are_amiss(serve, tmp_path, capsys):
    good = layout()
    for expected, content in {
        "weights_broken": written(good, tmp_path)[:3000],
        "weights_pickle": pickle.dumps({"g_ema": Code()}, protocol=2),
        "weights_mismatch": written({"g_ema": good["g_ema"]}, tmp_path),
    }.items():
        serve(content)
        forget()
        assert code(pipelines.load, "stylegan2-test") == expected
    for change in (
        {"g_ema": {name: value for name, value in good["g_ema"].items() if name != "convs.0.conv.weight"}},
        {"g_ema": good["g_ema"] | {"extra.weight": torch.zeros(1)}},
        {"g_ema": good["g_ema"] | {"convs.0.conv.blur.kernel": torch.ones(4, 4)}},
        {"g_ema": good["g_ema"] | {"input.input": torch.zeros(3)}},
        {"g_ema": {}},
        {"g_ema": published((6, 6))},
        {"d": good["g_ema"]},
        {"latent_avg": torch.zeros(7)},
    ):
        serve(written(good | change, tmp_path))
        assert code(pipelines.load, "stylegan2-test") == "weights_mismatch", list(change)
    serve(written(good | {"latent_avg": torch.full((6,), torch.nan)}, tmp_path))
    assert code(pipelines.load, "stylegan2-test") == "weights_broken"
    serve(written([good], tmp_path))
    assert code(pipelines.load, "stylegan2-test") == "weights_pickle"
    assert "never run" not in capsys.readouterr().out and not hub.converted().exists()


def test_a_wrong_checksum(serve, tmp_path):
    content = written(layout(), tmp_path)
    serve(content, "0" * 64)
    assert code(pipelines.load, "stylegan2-test") == "hash_mismatch"
    assert not any(tmp_path.glob("hf/hub/*/snapshots/*/*")) and not hub.converted().exists()
    serve(content)
    assert pipelines.load("stylegan2-test")


def test_a_checksum_that_nobody_knows(serve, tmp_path, monkeypatch):
    content = written(layout(), tmp_path)
    server = serve(content, registry.ASK)
    variable = "TRUGBILD_SHA256_STYLEGAN2_TEST"
    for value in ("", "abc", "0" * 63):
        monkeypatch.setenv(variable, value)
        assert code(pipelines.load, "stylegan2-test") == "checksum_unknown"
        problem = pipelines.status(registry.get("stylegan2-test"))
        assert problem.code == "checksum_unknown" and variable in str(problem)
    assert server.requests == []
    monkeypatch.setenv(variable, "0" * 64)
    assert code(pipelines.load, "stylegan2-test") == "hash_mismatch"
    monkeypatch.setenv(variable, hashlib.sha256(content).hexdigest().upper())
    assert pipelines.load("stylegan2-test")


def test_no_room_for_what_is_kept(serve, tmp_path, monkeypatch):
    serve(written(layout(), tmp_path))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "trugbild").write_text("a file where the folder should be")
    assert code(pipelines.load, "stylegan2-test") == "cache_locked"


def test_the_registry_asks_for_every_published_net():
    nets = [model for model in registry.MODELS if model.source == "ZeqiangLai/StyleGAN2"]
    assert len(nets) == 8 and {model.licence for model in nets} == {registry.NVIDIA[0]}
    assert [model.id for model in nets if registry.ASK in model.files.values()] == [
        "stylegan2-metfaces",
        "stylegan2-afhqdog",
        "stylegan2-afhqcat",
    ]
