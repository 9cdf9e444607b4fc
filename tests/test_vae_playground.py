"""The VAE playground: what its wrapper promises, the tab through its API, recipes, and everything that people send."""

import base64
import dataclasses
import io
import json
import struct
import threading
import zlib

import conftest
import numpy as np
import pytest
from conftest import LANGUAGES, PHOTO, opened
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageOps
from starlette.datastructures import QueryParams

import pipelines
from apps import drawing, i18n, inputs
from pipelines import Problem, latents, recipe, registry

STEM = "vae_playground"
VAE, AE, MANY = "vae-digits-2d", "ae-digits-2d", "vae-digits-16d"
LATENT = [model.id for model in registry.MODELS if model.kind == "latent"]
STROKES = "s:" + drawing.encode([[(200, 200), (800, 200), (400, 900)]])
SCALE = 12  # screen pixels of a picture's pixel in what is saved


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    return caught.value.code


def grey(picture: Image.Image) -> np.ndarray:
    """(28, 28), 0 -> 1"""
    assert (picture.mode, picture.size) == ("L", (28, 28))
    return np.asarray(picture, np.float64) / 255


def pixels(file) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module", params=[VAE, AE, MANY])
def pipeline(request):
    return pipelines.load(request.param)


@pytest.fixture(scope="module")
def vae():
    return pipelines.load(VAE)


# ---- the wrapper: ranges and shapes ---------------------------------------------------------------------------------


def test_encode_and_decode(pipeline):
    pictures = [inputs.picture_of(name) for name in ("7-b", "1-d", "8-a")]
    mean, std = pipeline.encode(pictures)
    assert mean.shape == (3, pipeline.latents.dimensions) and np.isfinite(mean).all()
    if pipeline.model.id == AE:
        assert std is None
    else:
        assert std.shape == mean.shape and (std > 0).all() and (std < 3).all()
    decoded = pipeline.decode(mean)
    assert [(p.mode, p.size) for p in decoded] == [("L", (28, 28))] * 3
    for picture, again in zip(pictures, decoded, strict=True):  # it is an autoencoder
        assert np.mean((grey(picture) - grey(again)) ** 2) < np.mean(grey(picture) ** 2)


def test_pictures_of_other_modes_are_taken(vae):
    picture = inputs.picture_of("7-b")
    expected = vae.encode([picture])[0]
    np.testing.assert_array_equal(vae.encode([picture.convert("RGB")])[0], expected)
    np.testing.assert_array_equal(vae.encode([picture.convert("RGBA")])[0], expected)


def test_reconstruction(pipeline):
    picture = inputs.picture_of("8-a")
    r = pipeline.reconstruct(picture, noise=0.3, hole=0.5, seed=4)
    original, rebuilt = grey(picture), grey(r.picture)
    assert (grey(r.seen)[7:21, 7:21] == 0).all(), "a hole of half the side"
    assert np.abs(grey(r.seen) - original)[:7].std() > 0.02, "noise outside of it"
    np.testing.assert_allclose(grey(r.difference), np.abs(rebuilt - original), atol=1e-6)
    assert r.error == pytest.approx(np.mean((rebuilt - original) ** 2), abs=1e-6)
    mean, std = pipeline.encode([r.seen])
    np.testing.assert_array_equal(r.mean, mean[0])
    assert r.std is None if std is None else (r.std == std[0]).all()
    assert r.recipe.task == "reconstruct" and r.recipe.seed == 4
    assert r.recipe.settings == {"noise": 0.3, "hole": 0.5}


def test_without_damage_the_model_sees_the_picture_itself(vae):
    picture = inputs.picture_of("7-b")
    assert list(vae.reconstruct(picture).seen.get_flattened_data()) == list(picture.get_flattened_data())


@pytest.mark.parametrize("mode", latents.MODES)
def test_interpolation_begins_and_ends_where_it_should(pipeline, mode):
    start, end = pipeline.encode([inputs.picture_of("1-d"), inputs.picture_of("8-a")])[0]
    steps = []
    pictures, made = pipeline.interpolate(start, end, 5, mode, lambda i, n, preview: steps.append((i, n)))
    assert len(pictures) == 5 and steps == [(i, 5) for i in range(1, 6)]
    first, last = pipeline.decode(np.stack([start, end]))
    for picture, expected in ((pictures[0], first), (pictures[-1], last)):
        assert np.abs(grey(picture) - grey(expected)).max() <= 1 / 255 + 1e-9
    assert made.settings == {"frames": 5, "mode": mode}


def test_whoever_raises_in_on_step_stops_the_work(vae):
    class Stop(Exception):
        pass

    seen = []

    def stop(i, n, preview):
        seen.append(i)
        if i == 2:
            raise Stop

    with pytest.raises(Stop):
        vae.interpolate(np.zeros(2), np.ones(2), 50, "lerp", stop)
    assert seen == [1, 2]


# ---- the wrapper: same seed, same picture ---------------------------------------------------------------------------


def test_same_seed_same_picture_whatever_the_batch(pipeline):
    many, made = pipeline.sample(5, 1.0, seed=11)
    again, _ = pipeline.sample(5, 1.0, seed=11)
    others, _ = pipeline.sample(5, 1.0, seed=12)
    for i, picture in enumerate(many):
        assert picture.tobytes() == again[i].tobytes()
        (single,), _ = pipeline.sample(1, 1.0, seed=11 + i)
        assert picture.tobytes() == single.tobytes(), "picture i of seed s is the picture of seed s + i"
    assert many[1].tobytes() == others[0].tobytes() != many[0].tobytes()
    assert (made.seed, made.settings) == (11, {"count": 5, "temperature": 1.0})


def test_decoding_does_not_depend_on_the_batch(pipeline):
    codes = np.random.default_rng(0).normal(size=(7, pipeline.latents.dimensions)).astype(np.float32)
    together = [picture.tobytes() for picture in pipeline.decode(codes)]
    assert together == [pipeline.decode(row[None])[0].tobytes() for row in codes]


def test_temperature_zero_is_the_middle(pipeline):
    pictures, _ = pipeline.sample(2, 0, seed=3)
    (middle,) = pipeline.decode(np.zeros((1, pipeline.latents.dimensions)))
    assert [picture.tobytes() for picture in pictures] == [middle.tobytes()] * 2


def test_the_last_seed_has_neighbours(vae):
    pictures, _ = vae.sample(2, 1.0, seed=2**32 - 1)
    assert pictures[1].tobytes() == vae.sample(1, 1.0, seed=0)[0][0].tobytes()


def test_noise_depends_on_the_seed(vae):
    picture = inputs.picture_of("7-b")
    first, again, other = (vae.reconstruct(picture, 0.5, 0, seed).seen.tobytes() for seed in (1, 1, 2))
    assert first == again != other


# ---- the wrapper: what it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e10, -0.1, "0.5", None, True, [0.5], 1j])
def test_bad_numbers_are_problems(vae, bad):
    picture = inputs.picture_of("7-b")
    for call in (
        lambda: vae.reconstruct(picture, noise=bad),
        lambda: vae.reconstruct(picture, hole=bad),
        lambda: vae.reconstruct(picture, seed=bad),
        lambda: vae.sample(count=bad),
        lambda: vae.sample(temperature=bad),
        lambda: vae.sample(seed=bad),
        lambda: vae.interpolate(np.zeros(2), np.ones(2), frames=bad),
    ):
        assert code(call) in ("missing", "not_a_number", "out_of_range", "not_whole")


@pytest.mark.parametrize("mode", ["cubic", "", None, 5, ["lerp"]])
def test_bad_ways_are_problems(vae, mode):
    assert code(vae.interpolate, np.zeros(2), np.ones(2), 4, mode) in ("unknown_choice", "missing")


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 1), (2, 2, 2)])
def test_codes_of_another_size_are_problems(vae, shape):
    assert code(vae.decode, np.zeros(shape)) == "code_size"


def test_axes(vae):
    many = pipelines.load(MANY).latents
    assert vae.latents.axes == ["z1", "z2"] and many.axes[:3] == ["pc1", "pc2", "z1"] and len(many.axes) == 18
    for axis in ("z3", "pc1", "", None, "z01", 1):
        assert code(vae.latents.direction, axis) in ("unknown_choice", "missing")
    assert code(vae.latents.point, 0.0, 0.0, "z1", "z1") == "same_axis"
    np.testing.assert_array_equal(vae.latents.point(0.5, -2, "z2", "z1"), [-2, 0.5])
    across, up = (many.direction(axis) for axis in ("pc1", "pc2"))
    assert across @ across == pytest.approx(1, abs=1e-5) and across @ up == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(many.place(many.point(1, 2, "pc1", "pc2")[None], "pc1", "pc2"), [[1, 2]], atol=1e-5)
    along = [(many.codes @ many.direction(axis)).var() for axis in many.axes]
    assert along[0] >= along[1] and along[0] >= max(along[2:]), "the principal components spread most"


def test_empty_drawings_are_problems():
    for text in ("", ",", ",,"):
        assert code(inputs.split, text) == "empty_drawing"
    for text in ("", "s:", "u:"):
        assert code(inputs.picture_of, text) in ("empty_drawing", "unknown_example")
    for text in ("s:%%%", "s:AAAA", "s:" + "A" * 9000, "u:AAAA", "u:!!", "u:" + "A" * 9000, "u:ü"):
        assert code(inputs.picture_of, text) == "bad_drawing"


# ---- maths ----------------------------------------------------------------------------------------------------------


def test_lerp_is_the_straight_line():
    from pipelines.vae_playground import lerp

    a, b = np.random.default_rng(1).normal(size=(2, 16))
    for t in (0, 0.25, 0.5, 1):
        np.testing.assert_allclose(lerp(a, b, t), a + t * (b - a))


def test_slerp_is_the_great_circle():
    from pipelines.vae_playground import slerp

    a, b = np.random.default_rng(2).normal(size=(2, 16))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    omega = np.arccos(a @ b)
    for t in (0, 0.2, 0.5, 0.9, 1):
        expected = np.sin((1 - t) * omega) / np.sin(omega) * a + np.sin(t * omega) / np.sin(omega) * b
        np.testing.assert_allclose(slerp(a, b, t), expected, atol=1e-9)
        assert np.linalg.norm(slerp(a, b, t)) == pytest.approx(1)
        assert np.arccos(np.clip(slerp(a, b, t) @ a, -1, 1)) == pytest.approx(t * omega, abs=1e-6)
    # Of two lengths, the length goes evenly.
    np.testing.assert_allclose(np.linalg.norm(slerp(2 * a, 4 * b, 0.25)), 2.5)
    np.testing.assert_allclose(slerp(2 * a, 4 * b, [0, 1][1]), 4 * b)


@pytest.mark.parametrize(
    ("a", "b"),
    [((1, 0), (1, 0)), ((1, 0), (3, 0)), ((1, 0), (-1, 0)), ((0, 0), (1, 1)), ((1, 1), (0, 0)), ((0, 0),) * 2],
)
def test_slerp_where_there_is_no_great_circle(a, b):
    from pipelines.vae_playground import slerp

    a, b = np.array(a, np.float32), np.array(b, np.float32)
    for t in (0, 0.5, 1):
        np.testing.assert_allclose(slerp(a, b, t), (1 - t) * a + t * b, atol=1e-6)


# ---- what is shipped beside the models ------------------------------------------------------------------------------


@pytest.mark.parametrize("id", LATENT)
def test_the_shipped_grid_is_what_the_model_decodes(id):
    model = pipelines.load(id)
    space = model.latents
    if not space.grid:
        assert space.dimensions > 2
        return
    radius, nodes = space.radius("z1", "z2"), np.linspace(-1, 1, space.grid)
    assert space.grid % 2 == 1 and space.tiles.size == (28 * space.grid,) * 2
    for column, row in [(0, 0), (space.grid - 1, 0), (space.grid // 2,) * 2, (3, 5), (12, 4), (6, space.grid - 1)]:
        place = float(nodes[column] * radius), float(nodes[row] * radius)
        tile, *where = space.tile(*place)
        assert where == pytest.approx(place, abs=1e-6)
        (decoded,) = model.decode(np.array([place]))
        assert np.abs(255 * (grey(tile) - grey(decoded))).max() <= 2


@pytest.mark.parametrize("id", LATENT)
def test_the_shipped_codes_fit_the_model(id):
    space = pipelines.load(id).latents
    assert space.codes.shape == (len(space.labels), space.dimensions) and np.isfinite(space.codes).all()
    assert sorted(set(space.labels.tolist())) == list(range(10))
    means = np.stack([space.codes[space.labels == label].mean(0) for label in range(10)])
    np.testing.assert_allclose(space.class_means, means, atol=0.02 * np.abs(space.codes).max())
    assert space.garments == ("fashion" in id)
    radius = space.radius(*space.axes[:2])
    assert (np.abs(space.place(space.codes, *space.axes[:2])).max(1) <= radius).mean() > 0.9


def test_the_nearest_tile_of_any_place(vae):
    space = vae.latents
    step = 2 * space.radius("z1", "z2") / (space.grid - 1)
    for x, y in ((0.31, -1.19), (100.0, -100.0), (-0.0, 0.0)):
        tile, u, v = space.tile(x, y)
        assert tile.size == (28, 28)
        inside = np.clip([x, y], -space.radius("z1", "z2"), space.radius("z1", "z2"))
        assert np.abs(inside - [u, v]).max() <= step / 2 + 1e-9


# ---- the tab through its API ----------------------------------------------------------------------------------------

CALLS = {
    "decode": (VAE, 0.5, -1.0, "z1", "z2"),
    "reconstruct": (VAE, "7-b", 0.2, 0.3, 5),
    "interpolate": (VAE, "1-d", "p:0.5:-1", "slerp", 6, "z1", "z2"),
    "sample": (VAE, 3, 9, 1.2),
    "arithmetic": (VAE, "7-b,7-c", "7-a", "1-a,1-b"),
    "autoencode_photo": (PHOTO, None, "cat", 0.0, 32, 64, 0),
}


def test_endpoints_are_named_and_their_inputs_too(clients):
    """README and other people's programs depend on these."""
    described = clients["en"].view_api(return_format="dict")
    assert described["unnamed_endpoints"] == {}
    named = {
        name: [item["parameter_name"] for item in of["parameters"]] for name, of in described["named_endpoints"].items()
    }
    ours = {
        "/decode": ["model", "x", "y", "across", "up"],
        "/reconstruct": ["model", "picture", "noise", "hole", "seed"],
        "/interpolate": ["model", "a", "b", "mode", "frames", "across", "up"],
        "/sample": ["model", "seed", "count", "temperature"],
        "/arithmetic": ["model", "plus", "minus", "add"],
        "/autoencode_photo": ["model", "picture", "sample", "noise", "bits", "size", "seed"],
    }
    assert {name: named.get(name) for name in ours} == ours
    for name, of in described["named_endpoints"].items():
        assert of["description"].strip(), f"{name} has no description"
        if name not in ours:
            continue
        models = of["parameters"][0]["type"]["enum"]
        assert (VAE in models) == (name != "/autoencode_photo"), f"{name} names {models}"


class Stand_in:
    """A pipeline that computes nothing: a picture of one grey for every code."""

    def __init__(self, model_id: str, calls: list):
        self.id, self.calls, self.latents = model_id, calls, latents.read(registry.get(model_id).path)

    def recipe(self, task, seed=None, **settings):
        return recipe.Recipe.make(STEM, self.id, "0", task, settings, seed)

    def decode(self, codes):
        self.calls.append(np.asarray(codes).tolist())
        return [Image.new("L", (28, 28), 77)] * len(codes)


def test_the_tab_shows_what_the_callable_gives(app, clients, monkeypatch):
    asked, calls = [], []

    def load(model_id):
        asked.append(model_id)
        return Stand_in(model_id, calls)

    monkeypatch.setattr(app, "load", load)
    (file,), numbers = clients["en"].predict(VAE, 0.5, -1.0, "z2", "z1", api_name="/decode")
    assert asked == [VAE] and calls == [[[-1.0, 0.5]]] and numbers == {}
    assert (pixels(file) == 77).all() and pixels(file).shape == (28 * SCALE, 28 * SCALE, 3)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_what_goes_wrong_is_one_sentence(app, clients, monkeypatch, lang):
    problem = Problem("offline", model="taesd")

    def fails(error):
        def load(_):
            raise error

        monkeypatch.setattr(app, "load", load)
        with pytest.raises(AppError) as caught:
            clients[lang].predict(VAE, 0.5, -1.0, "z1", "z2", api_name="/decode")
        return str(caught.value)

    assert fails(problem) == i18n.sentence(problem, lang)
    assert fails(RuntimeError("/home/someone/secret.py broke")) == i18n.say("shell.unexpected", lang)


def test_the_page_answers_while_something_is_computed(app, clients, monkeypatch):
    """One queue lane for what computes; what does not is not held up by it."""
    begun, go = threading.Event(), threading.Event()

    def load(model_id):
        begun.set()
        assert go.wait(60)
        return Stand_in(model_id, [])

    monkeypatch.setattr(app, "load", load)
    first = clients["en"].submit(VAE, 0.0, 0.0, "z1", "z2", api_name="/decode")
    try:
        assert begun.wait(60)
        second = clients["de"].submit(VAE, 0.3, 0.0, "z1", "z2", api_name="/decode")
        assert not first.done() and not second.done()
        assert app.header.qr({"link": "http://127.0.0.1/"})["svg"]
    finally:
        go.set()
    assert first.result(60) and second.result(60)


def test_the_real_model_through_the_api(clients, vae):
    client = clients["en"]
    (file,), _ = client.predict(*CALLS["decode"], api_name="/decode")
    (decoded,) = vae.decode(np.array([[0.5, -1.0]], np.float32))
    np.testing.assert_array_equal(pixels(file)[::SCALE, ::SCALE, 0], np.asarray(decoded))

    (seen, rebuilt, difference), numbers = client.predict(*CALLS["reconstruct"], api_name="/reconstruct")
    r = vae.reconstruct(inputs.picture_of("7-b"), 0.2, 0.3, 5)
    for file, expected in ((seen, r.seen), (rebuilt, r.picture), (difference, r.difference)):
        np.testing.assert_array_equal(pixels(file)[::SCALE, ::SCALE, 0], np.asarray(expected))
    assert numbers["error"] == pytest.approx(r.error)
    assert numbers["mean"] == pytest.approx(r.mean.tolist()) and numbers["sigma"] == pytest.approx(r.std.tolist())

    (loop, strip), _ = client.predict(*CALLS["interpolate"], api_name="/interpolate")
    with Image.open(loop) as animation:
        assert animation.n_frames == 2 * 6 - 2, "there and back"
    assert pixels(strip).shape[:2] == (28 * SCALE, (6 * 30 - 2) * SCALE)

    (grid,), _ = client.predict(*CALLS["sample"], api_name="/sample")
    pictures, _ = vae.sample(9, 1.2, 3)
    np.testing.assert_array_equal(pixels(grid)[::SCALE, ::SCALE, 0][30:58, 30:58], np.asarray(pictures[4]))

    files, _ = client.predict(*CALLS["arithmetic"], api_name="/arithmetic")
    groups = [
        vae.encode([inputs.picture_of(c) for c in text.split(",")])[0].mean(0) for text in CALLS["arithmetic"][1:]
    ]
    (total,) = vae.decode((groups[0] - groups[1] + groups[2])[None])
    assert len(files) == 5
    assert np.abs(pixels(files[3])[::SCALE, ::SCALE, 0].astype(int) - np.asarray(total)).max() <= 1

    files, numbers = client.predict(*CALLS["autoencode_photo"], api_name="/autoencode_photo")
    original, rebuilt, *channels = (pixels(file) for file in files)
    assert original.shape == rebuilt.shape and max(original.shape) == 64 and len(channels) == 4
    assert all(channel.shape[:2] == (6, 8) for channel in channels), "an eighth of 43 x 64, rounded up"
    assert numbers["bytes"] == original.size and numbers["latent_bytes"] == 4 * 6 * 8 * 4


@pytest.mark.parametrize("model", LATENT)
def test_every_bundled_model_does_every_task(clients, model):
    client = clients["en"]
    across, up = registry_axes = latents.read(registry.get(model).path).axes[:2]
    assert client.predict(model, 0.5, 0.5, *registry_axes, api_name="/decode")
    assert client.predict(model, "7-b", 0, 0, 0, api_name="/reconstruct")[1]["error"] < 0.2
    assert client.predict(model, STROKES, "p:1:-1", "lerp", 2, across, up, api_name="/interpolate")
    assert client.predict(model, 0, 1, 1, api_name="/sample")
    assert client.predict(model, "7-b", "7-a", "1-a", api_name="/arithmetic")


# ---- recipes --------------------------------------------------------------------------------------------------------


def data_url(data: bytes) -> dict:
    """What the page's header sends for a file that was put into it."""
    return {"data": "data:image/png;base64," + base64.b64encode(data).decode()}


def repeat(app, client, file):
    """Runs the task of a saved picture again, with what its recipe put into the inputs."""
    made = recipe.read(file)
    task = {"plane": "decode", "photo": "autoencode_photo"}.get(made.task, made.task)
    assert opened(app, file, STEM)["section"] == made.task
    return conftest.repeat(app, client, task, file, STEM)


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("decode", {}),
        ("decode", {1: 0.123456789, 2: -2.9999}),
        ("decode", {0: MANY, 1: 1.25, 3: "pc2", 4: "z7"}),
        ("decode", {0: AE, 1: -7.5}),
        ("reconstruct", {}),
        ("reconstruct", {0: MANY, 1: STROKES, 2: 0.35}),
        ("reconstruct", {0: "vae-fashion-2d", 1: "u:" + inputs.pack(inputs.picture_of("sneaker-a")), 2: 0, 3: 0}),
        ("interpolate", {}),
        ("interpolate", {0: MANY, 1: STROKES, 2: "p:1.5:0.123456789", 3: "lerp", 5: "z3", 6: "pc1"}),
        ("sample", {}),
        ("sample", {0: MANY, 1: 2**32 - 1, 2: 5, 3: 0.333333333}),
        ("arithmetic", {}),
        ("arithmetic", {0: MANY, 1: f"{STROKES},7-b", 3: "9-a"}),
        ("autoencode_photo", {}),
        ("autoencode_photo", {2: "coffee", 3: 0.7, 4: 3, 6: 12}),
    ],
    ids=str,
)
def test_a_saved_picture_is_made_again_pixel_for_pixel(app, clients, task, changes):
    arguments = list(CALLS[task])
    for at, value in changes.items():
        arguments[at] = value
    files, _ = clients["en"].predict(*arguments, api_name=f"/{task}")
    carry = []
    for i, file in enumerate(files):
        try:
            made = recipe.read(file)
        except Problem as problem:
            assert problem.code == "no_recipe"  # inputs, differences, channels
            continue
        carry.append(i)
        assert (made.tab, made.model) == (STEM, arguments[0])
        again = repeat(app, clients["de"], file)
        with Image.open(file) as first, Image.open(again[i]) as second:
            frames = getattr(first, "n_frames", 1)
            assert frames == getattr(second, "n_frames", 1)
            for frame in range(frames):
                first.seek(frame)
                second.seek(frame)
                assert first.convert("RGB").tobytes() == second.convert("RGB").tobytes()
    assert len(carry) == (2 if task == "interpolate" else 1)


def test_the_first_picture_on_the_page_has_a_recipe_too(app, clients, tmp_path):
    from apps.vae_pictures import nearest

    (figure,) = nearest(VAE, 0.3, -1.2, "z1", "z2", "en")
    file = tmp_path / "first.png"
    file.write_bytes(figure.data)
    (again,) = repeat(app, clients["en"], file)
    assert np.abs(pixels(file).astype(int) - pixels(again)).max() <= 2


def test_a_picture_of_ones_own_photo_says_that_the_photo_is_needed(app, clients, tmp_path):
    photo = tmp_path / "own.png"
    Image.linear_gradient("L").convert("RGB").save(photo)
    files, _ = clients["en"].predict(PHOTO, handle_file(photo), "cat", 0.0, 32, 64, 0, api_name="/autoencode_photo")
    values = opened(app, files[1], STEM)
    assert values["sample"] == "own", "not one of ours instead"
    with pytest.raises(AppError) as caught:
        clients["en"].predict(PHOTO, None, "own", 0.0, 32, 64, 0, api_name="/autoencode_photo")
    assert str(caught.value) == i18n.sentence(Problem("own_photo"), "en")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("settings", {"x": "abc", "section": "plane"}),
        ("settings", {"x": [1], "section": "plane"}),
        ("settings", {"x": 1e12}),
        ("settings", {"section": "cellar"}),
        ("settings", {"section": 5}),
        ("settings", {"input": 7}),
        ("settings", {"a": False}),
        ("settings", {"across": "z9"}),
        ("settings", {"input": "s:" + "A" * 30_000}),
        ("settings", {"photo_model": VAE}),
        ("settings", {"grid": "yes"}),
        ("settings", {"mode": True}),
        ("model", PHOTO),
    ],
    ids=str,
)
def test_a_hostile_recipe_is_one_sentence(app, change, value):
    made = recipe.Recipe(STEM, VAE, "0", "plane", {"x": 0.5})
    data = recipe.save(Image.new("L", (8, 8)), dataclasses.replace(made, **{change: value}))
    answer = app.header.open_picture(data_url(data))
    if "query" in answer:  # what is wrong was left out, and the page opens
        assert app.tabs[STEM].read(QueryParams(answer["query"].removeprefix("?")))[1] == []
    else:
        assert is_sentence(answer["problem"])


@pytest.mark.parametrize(
    "message", [None, {}, [], "x", {"data": None}, {"data": ""}, {"data": "data:,%%%"}, {"data": 5}]
)
def test_what_is_no_picture_at_all_is_one_sentence(app, message):
    assert is_sentence(app.header.open_picture(message)["problem"])


# ---- bad input through the API --------------------------------------------------------------------------------------


def is_sentence(text: str) -> bool:
    """One sentence for people: no path, no trace, no class name."""
    bad = ("Traceback", "Error", "site-packages", ".py", "/work", "/tmp", "/home", "/dev", "None", "<", "\n")
    return isinstance(text, str) and 10 < len(text) < 400 and text[-1] in ".!" and not any(word in text for word in bad)


BAD_CALLS = {
    "decode": [
        (1, [float("nan"), float("inf"), -float("inf"), 1e9, "0.5", None, [], {}, True, "x" * 10_000, 10**400]),
        (3, ["z3", "", None, 5, [], "z2", "z1\x00", "../..", "x" * 10_000]),
        (0, ["unknown", "", None, 5, [VAE], "../../etc/passwd", PHOTO, "x" * 10_000]),
    ],
    "reconstruct": [
        (1, ["", ",", None, 5, [], {}, "x", "s:", "s:%%%", "s:AAAA", "u:", "u:AAAA", "p:0:0", "s:" + "A" * 20_000]),
        (2, [float("nan"), 1e9, -1, "1", None]),
        (3, [0.81, float("nan"), None]),
        (4, [-1, 2**32, 0.5, float("nan"), "1", None, 10**30]),
    ],
    "interpolate": [
        (1, ["", "p:", "p:1", "p:nan:0", "p:1e9:0", "p:1:2:3", "p:a:b", None]),
        (3, ["cubic", None, 5, []]),
        (4, [0, 1, 97, 1e9, float("nan"), 2.5, None]),
        (5, ["z9", None]),
    ],
    "sample": [(1, [-1, 2**32, None]), (2, [0, 65, 1e9, float("nan"), None]), (3, [-0.1, 3.1, float("nan"), None])],
    "arithmetic": [(1, ["", ",", None, "7-b,nothing"]), (2, [""]), (3, ["", 7])],
    "autoencode_photo": [
        (0, ["unknown", None, VAE]),
        (2, ["dog", "", None, 5]),
        (3, [-1, 2.1, float("nan"), None]),
        (4, [0, 9, 33, "eight", None, float("nan"), 2.5]),
        (5, [0, 63, 1025, 1e9, float("nan"), None]),
        (6, [-1, 2**32, None]),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "at", "values"), [(task, *case) for task, cases in BAD_CALLS.items() for case in cases]
)
def test_bad_values_are_one_sentence_each(ask, task, at, values):
    unexpected = {i18n.say("shell.unexpected", lang) for lang in LANGUAGES}
    told = {}
    for i, value in enumerate(values):
        arguments = list(CALLS[task])
        arguments[at] = value
        event, answer = ask(task, *arguments, lang=LANGUAGES[i % 2])
        if event != "error" or not is_sentence(answer) or answer in unexpected:
            told[repr(value)[:40]] = answer
    assert told == {}


def test_problems_are_told_in_german(ask):
    problem = Problem("out_of_range", name="noise", value=7, low=0, high=1)
    assert ask("reconstruct", VAE, "7-b", 7, 0, 0, lang="de") == ("error", i18n.sentence(problem, "de"))
    assert ask("reconstruct", VAE, "7-b", 7, 0, 0, lang="fr,en;q=0.5") == ("error", i18n.sentence(problem, "en"))
    problem = Problem("not_whole", name="seed", value=0.5, low=0, high=2**32 - 1)
    assert ask("sample", VAE, 0.5, 4, 1, lang="de-AT") == ("error", i18n.sentence(problem, "de"))


def test_nobody_opens_a_folder_of_the_server(ask):
    """Folders become models on the command line alone."""
    before = registry.models()
    for model in (str(registry.CHECKPOINTS / VAE), "/", "..", "local/", f"{PHOTO}/.."):
        event, told = ask("decode", model, 0.0, 0.0, "z1", "z2")
        assert event == "error" and told != i18n.say("shell.unexpected", "en")
    assert registry.models() == before


# ---- pictures of all kinds ------------------------------------------------------------------------------------------

GRADIENT = Image.merge("RGB", [Image.linear_gradient("L").rotate(angle) for angle in (0, 90, 180)]).resize((48, 32))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 12000 x 12000 black pixels in about 20 kB."""
    header = struct.pack(">IIBBBBB", 12_000, 12_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1501 * 12_000), 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return saved(GRADIENT, "JPEG", quality=95, exif=exif)


def transparent() -> bytes:
    image = GRADIENT.convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    return saved(image, "PNG")


def deep() -> bytes:
    return saved(Image.fromarray(np.arange(48 * 32, dtype=np.uint16).reshape(32, 48) * 42), "PNG")


def animated() -> bytes:
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "lime", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


GOOD = {  # name -> the file, what the model must get to see, by how many grey levels that may be off
    "single.png": (saved(Image.new("RGB", (1, 1), "red"), "PNG"), Image.new("RGB", (1, 1), "red"), 0),
    "animated.gif": (animated(), Image.new("RGB", (48, 32), "red"), 0),
    "cmyk.jpg": (saved(GRADIENT.convert("CMYK"), "JPEG", quality=95), GRADIENT, 12),
    "deep.png": (deep(), Image.fromarray((np.arange(48 * 32).reshape(32, 48) * 42 / 257).round().astype(np.uint8)), 1),
    "palette.png": (saved(GRADIENT.quantize(256), "PNG"), GRADIENT.quantize(256), 0),
    "rotated.jpg": (rotated(), GRADIENT.transpose(Image.Transpose.ROTATE_270), 12),
    "transparent.png": (transparent(), Image.new("RGB", (48, 32), "white"), 0),
    "grey.webp": (saved(GRADIENT.convert("L"), "WEBP", lossless=True), GRADIENT.convert("L"), 0),
    "bits.png": (saved(GRADIENT.convert("1"), "PNG"), GRADIENT.convert("1"), 0),
    "renamed.jpg": (saved(GRADIENT, "PNG"), GRADIENT, 0),
}
BAD = {  # name -> the file, what is said
    "bomb.png": (bomb(), Problem("picture_too_large", limit=24)),
    "truncated.jpg": (saved(GRADIENT.resize((480, 320)), "JPEG")[:2000], Problem("picture_broken")),
    "truncated.png": (saved(Image.effect_noise((64, 64), 50), "PNG")[:2000], Problem("picture_broken")),
    "text.png": (b"This is no picture.\n" * 20, Problem("picture_unreadable")),
    "empty.png": (b"", Problem("picture_unreadable")),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), Problem("picture_heic")),
    "renamed.jpg": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200), Problem("picture_heic")),
    "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', Problem("picture_unreadable")),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_pictures_of_all_kinds_come_out_right(clients, tmp_path, name):
    data, expected, tolerance = GOOD[name]
    (tmp_path / name).write_bytes(data)
    files, numbers = clients["en"].predict(
        PHOTO, handle_file(tmp_path / name), "cat", 0.0, 32, 64, 0, api_name="/autoencode_photo"
    )
    seen = pixels(files[0]).astype(int)
    expected = np.asarray(expected.convert("RGB"))
    assert seen.shape == expected.shape == pixels(files[1]).shape
    assert np.abs(seen - expected).max() <= tolerance
    assert numbers["bytes"] == expected.size


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_one_sentence(clients, tmp_path, name, lang):
    data, problem = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AppError) as caught:
        clients[lang].predict(PHOTO, handle_file(tmp_path / name), "cat", 0.0, 32, 64, 0, api_name="/autoencode_photo")
    assert str(caught.value) == i18n.sentence(problem, lang)


@pytest.mark.parametrize(
    "picture",
    [
        {"url": "data:image/png;base64,!!!!"}, {"url": "data:image/png;base64,AAA"}, {"url": "data:,"},
        {"url": "data:"}, {"path": "/etc/passwd"}, {"path": "../../etc/passwd"}, {"path": "/no/such/file.png"},
        {"path": ""}, {"path": None, "url": None}, "x", 5, [], {}, {"path": {}}, {"path": "http://127.0.0.1:1/x.png"},
        {"url": "http://127.0.0.1:1/x.png"}, {"path": "x", "url": "file:///etc/passwd"},
    ],
    ids=str,
)  # fmt: skip
def test_pictures_that_are_none_of_the_kind_lead_nowhere(ask, picture):
    if isinstance(picture, dict):
        picture = {**picture, "meta": {"_type": "gradio.FileData"}}
    event, answer = ask("autoencode_photo", PHOTO, picture, "cat", 0.0, 32, 64, 0)
    assert event == "error"
    told = json.dumps(answer)
    assert not any(word in told for word in ("Traceback", "site-packages", "root:", "binascii", "passwd", "/work"))


def test_a_drawing_is_seen_as_it_was_drawn(clients):
    for text, expected in (
        (STROKES, drawing.render(drawing.decode(STROKES[2:]))),
        ("u:" + inputs.pack(ImageOps.invert(inputs.picture_of("3-a"))), None),
        ("7-b", inputs.picture_of("7-b")),
    ):
        (seen, *_), _ = clients["de"].predict(VAE, text, 0, 0, 0, api_name="/reconstruct")
        expected = expected or inputs.picture_of(text)
        np.testing.assert_array_equal(pixels(seen)[::SCALE, ::SCALE, 0], np.asarray(expected))
