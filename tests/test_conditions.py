"""Conditions of ControlNet: what each shows of a picture, and what happens without a network or a package."""

import dataclasses
import hashlib
import importlib.util
import io
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines import Problem, conditions, hub
from pipelines.conditions import CONDITIONS
from tests import hub as fake
from tests.conftest import ROOT

ALONE = ("canny", "scribble", "drawing", "line_art_plain", "blur")
NETS = ("soft_edge", "line_art", "pose", "depth", "normal", "segmentation")


def scene(size: tuple[int, int] = (200, 150)) -> Image.Image:
    """A dark disc with a thick rim on a bright ground."""
    image = Image.new("RGB", size, (250, 240, 200))
    w, h = size
    ImageDraw.Draw(image).ellipse(
        (w * 0.25, h * 0.25, w * 0.75, h * 0.75), (90, 140, 60), (10, 10, 10), max(1, h // 40)
    )
    return image


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No net is loaded, no hub can be reached."""
    fake.forget(monkeypatch, tmp_path / "hf")
    monkeypatch.setattr(conditions, "_kept", {})
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("TRUGBILD_REVISION_DETECTOR_SEGMENTATION", raising=False)


def test_the_table():
    assert tuple(CONDITIONS) == ALONE + NETS
    assert [name for name, condition in CONDITIONS.items() if condition.needs_hub] == list(NETS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONDITIONS["canny"].name = "x"
    for condition in CONDITIONS.values():
        if model := condition.detector:
            assert model.revision or condition.name == "segmentation"
            assert all(len(sha256) == 64 for name, sha256 in model.files.items() if name != "config.json")
    assert conditions.get("depth").name == "depth"
    for name in ("Canny", "", 3, ["canny"]):
        assert code(conditions.get, name) == "unknown_choice"
    assert conditions.PALETTE.shape == (150, 3) and conditions.PALETTE[[0, 149]].tolist() == [[120] * 3, [92, 0, 255]]


def test_the_names_cost_nothing():
    check = (
        "import sys; from pipelines.conditions import CONDITIONS\n"
        "[condition.status() for condition in CONDITIONS.values()]\n"
        "print(sorted({'torch', 'cv2', 'transformers', 'controlnet_aux', 'gradio', 'timm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 7), (127, 65), (2600, 40)])
def test_size_and_range(name, size):
    image = scene(size)
    before = image.tobytes()
    result = CONDITIONS[name](image)
    assert (result.mode, result.size) == ("RGB", size)
    assert image.tobytes() == before and CONDITIONS[name].status() is None
    assert CONDITIONS[name](image).tobytes() == result.tobytes()


@pytest.mark.parametrize("name", ALONE)
def test_pictures_of_any_kind(name):
    condition, wanted = CONDITIONS[name], CONDITIONS[name](scene())
    file = io.BytesIO()
    scene().save(file, "PNG")
    assert condition(file.getvalue()).tobytes() == wanted.tobytes()
    for mode in ("L", "RGBA", "CMYK", "1"):
        assert condition(scene().convert(mode)).mode == "RGB"
    assert code(condition, None) == "no_picture" and code(condition, b"no picture") == "picture_unreadable"
    assert code(condition, scene(), strength=1) == "unknown_setting"


def test_canny_finds_edges():
    edges = np.asarray(CONDITIONS["canny"](scene()))
    assert set(np.unique(edges)) == {0, 255} and 0.005 < (edges > 0).mean() < 0.1
    assert not edges[:20].any() and edges[75, 40:60].any() and not edges[60:90, 80:120].any()
    import cv2

    assert np.array_equal(edges[..., 0], cv2.Canny(np.asarray(scene()), 100, 200))
    faint = scene().point(lambda value: 120 + value // 10)
    assert not np.asarray(CONDITIONS["canny"](faint)).any()
    assert np.asarray(CONDITIONS["canny"](faint, low=10, high=20)).any()


def test_limits():
    canny = CONDITIONS["canny"]
    for low, high, problem in (
        (-1, 100, "out_of_range"),
        (200, 100, "out_of_range"),
        (0, 501, "out_of_range"),
        (float("nan"), 100, "out_of_range"),
        ("9", 100, "not_a_number"),
        (None, 100, "missing"),
    ):
        assert code(canny, scene(), low=low, high=high) == problem
    assert canny(scene(), low=300).size == (200, 150)  # the higher one is at least that
    assert code(CONDITIONS["blur"], scene(), radius=0) == "out_of_range"


def test_a_drawing_is_inverted():
    drawing = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    ImageDraw.Draw(drawing).line((5, 15, 35, 15), (0, 0, 0, 255), 3)
    ImageDraw.Draw(drawing).point((2, 2), (255, 0, 0, 255))
    ImageDraw.Draw(drawing).point((3, 3), (0, 0, 0, 128))
    result = np.asarray(CONDITIONS["drawing"](drawing))
    assert (result[15, 10:30] == 255).all() and (result[2, 2] == 255).all() and (result[3, 3] == 128).all()
    assert not result[20:].any()
    assert code(CONDITIONS["drawing"], Image.new("RGB", (9, 9), "white")) == "empty_drawing"


@pytest.mark.parametrize("name", ["scribble", "line_art_plain"])
@pytest.mark.parametrize("size", [(200, 150), (800, 600)])
def test_lines_are_bright(name, size):
    w, h = size
    lines = np.asarray(CONDITIONS[name](scene(size)))[..., 0]
    rim = lines[h // 2, w // 4 - 2 : w // 4 + h // 40 + 2]
    assert rim.max() > 100 and lines[: h // 10].max() == 0 and lines[h // 2, w // 2] == 0
    assert not np.asarray(CONDITIONS[name](Image.new("RGB", size, "teal"))).any()


def test_scribbles_are_black_and_white():
    assert set(np.unique(CONDITIONS["scribble"](scene()))) == {0, 255}


def test_blur_keeps_what_is_even():
    assert CONDITIONS["blur"](Image.new("RGB", (90, 60), (7, 99, 255))).getcolors() == [(5400, (7, 99, 255))]
    few, many = (np.asarray(CONDITIONS["blur"](scene(), radius=radius)).std() for radius in (2, 60))
    assert many < few


# ---- nets


@pytest.mark.parametrize("name", NETS)
def test_offline(name, monkeypatch):
    assert code(CONDITIONS[name], scene()) == "offline"
    assert CONDITIONS[name].status().code == "offline"  # the hub has been asked by now
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code(CONDITIONS[name], scene()) == CONDITIONS[name].status().code == "offline_mode"
    assert code(CONDITIONS[name], None) == "no_picture"


def served(monkeypatch, name: str, files: dict[str, bytes]):
    """A hub with these files and the condition that takes them for its detector's."""
    condition = CONDITIONS[name]
    sums = {file: None if file.endswith(".json") else hashlib.sha256(data).hexdigest() for file, data in files.items()}
    model = dataclasses.replace(condition.detector, revision=fake.COMMIT, files=sums)
    return dataclasses.replace(condition, detector=model), fake.serve({model.source: dict(files)})


class StandIn:
    """What is asked of a detector of controlnet-aux."""

    made = []

    def __init__(self, folder):
        self.weights = [file.read_bytes() for file in sorted(folder.iterdir())]
        self.made.append(self)

    @classmethod
    def from_pretrained(cls, folder):
        from pathlib import Path

        if b"broken" in (found := cls(Path(folder))).weights:
            raise RuntimeError("size mismatch")
        return found

    def to(self, device):
        return self

    def __call__(self, image, detect_resolution, image_resolution, output_type):
        assert image.mode == "RGB" and all(side % 64 == 0 and 64 <= side <= conditions.LARGEST for side in image.size)
        assert detect_resolution == image_resolution == min(image.size) and output_type == "pil"
        return image.point(lambda value: 255 - value)


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("controlnet_aux")
    for kind in ("HEDdetector", "LineartDetector", "OpenposeDetector", "MidasDetector", "NormalBaeDetector"):
        setattr(module, kind, StandIn)
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setitem(sys.modules, "controlnet_aux", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: module)


@pytest.mark.parametrize("name", NETS[:-1])
def test_nets_of_controlnet_aux(name, monkeypatch, package):
    files = {file: file.encode() for file in CONDITIONS[name].detector.files}
    condition, serving = served(monkeypatch, name, files)
    with serving as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for size in ((200, 150), (128, 128), (7, 3000), (3000, 2)):
            result = condition(scene(size))
            assert (result.mode, result.size) == ("RGB", size)
        (net,) = StandIn.made  # once
        assert sorted(net.weights) == sorted(files.values())
        asked = len(server.requests)
    monkeypatch.setattr(conditions, "_kept", {})
    assert condition(scene()).size == (200, 150) and len(server.requests) == asked  # from the cache, offline
    assert condition.status() is None


def test_one_net_is_kept(monkeypatch, package):
    for name in ("soft_edge", "depth"):
        condition, serving = served(monkeypatch, name, {"weights.pth": b"x"})
        with serving as server:
            monkeypatch.setenv("HF_ENDPOINT", server.url)
            condition(scene())
        assert [key[0] for key in conditions._kept] == [f"detector-{name}"]


def test_damaged_weights(monkeypatch, package):
    condition, serving = served(monkeypatch, "depth", {"weights.pt": b"broken"})
    with serving as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.fault = "tampered"
        assert code(condition, scene()) == "hash_mismatch"
        server.fault = "cut off"
        assert code(condition, scene()) == "cut_off"
        server.fault = "gated"
        assert code(condition, scene()) == "gated"
        server.fault = ""
        assert code(condition, scene()) == "model_broken"
        monkeypatch.setenv("TRUGBILD_MEMORY_MB", "100")
        assert code(condition, scene()) == condition.status().code == "memory"


def test_nobody_in_the_picture(monkeypatch, package):
    condition, serving = served(monkeypatch, "pose", {"weights.pth": b"x"})
    with serving as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert code(condition, Image.new("RGB", (64, 64), "white")) == "no_pose"


def test_without_the_package(monkeypatch, package):
    """Nothing is downloaded for a package that is not here, or that cannot be imported."""
    condition, serving = served(monkeypatch, "soft_edge", {"weights.pth": b"x"})
    with serving as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with monkeypatch.context() as missing:
            missing.setattr(importlib.util, "find_spec", lambda name: None)
            assert code(condition, scene()) == condition.status().code == "no_detector"
            assert not any("resolve" in request for request in server.requests)
        monkeypatch.setitem(sys.modules, "controlnet_aux", None)
        assert code(condition, scene()) == "no_detector"


def tiny_upernet(without: str = "") -> dict[str, bytes]:
    import torch
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    torch.manual_seed(0)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=stages)
    net = UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone, hidden_size=8, auxiliary_channels=4, auxiliary_in_channels=8, num_labels=150
        )
    )
    file = io.BytesIO()
    torch.save({name: tensor for name, tensor in net.state_dict().items() if name != without}, file)
    return {"config.json": net.config.to_json_string().encode(), conditions.UPERNET: file.getvalue()}


@pytest.mark.filterwarnings("ignore")
def test_segmentation(monkeypatch):
    """The real class at tiny size, through a hub: colours are names, between which nothing lies."""
    condition, serving = served(monkeypatch, "segmentation", tiny_upernet())
    with serving as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for size in ((200, 150), (64, 100)):
            result = condition(scene(size))
            assert (result.mode, result.size) == ("RGB", size)
            assert {colour for _, colour in result.getcolors()} <= set(map(tuple, conditions.PALETTE.tolist()))
    condition, serving = served(monkeypatch, "segmentation", tiny_upernet(without="decode_head.classifier.bias"))
    with serving as server:
        monkeypatch.setattr(conditions, "_kept", {})
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(hub.cache() / "anew"))
        assert code(condition, scene()) == "weights_mismatch"  # instead of random numbers


def test_a_revision_that_nobody_knows_here(monkeypatch):
    files = tiny_upernet()
    condition, serving = served(monkeypatch, "segmentation", files)
    condition = dataclasses.replace(condition, detector=dataclasses.replace(condition.detector, revision=None))
    with serving as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for value in ("", "main", "../" * 13 + "x", "f" * 39):
            monkeypatch.setenv("TRUGBILD_REVISION_DETECTOR_SEGMENTATION", value)
            assert code(condition, scene()) == condition.status().code == "revision_unknown"
        monkeypatch.setenv("TRUGBILD_REVISION_DETECTOR_SEGMENTATION", fake.COMMIT.upper())
        assert condition(scene()).size == (200, 150)


def controlnet_aux():
    try:
        import controlnet_aux
    except (ImportError, RuntimeError):  # the latter: torchvision does not fit torch
        pytest.skip("needs controlnet-aux and a torchvision that fits torch")
    return controlnet_aux


@pytest.mark.filterwarnings("ignore")
def test_real_nets(monkeypatch, tmp_path):
    """The classes of controlnet-aux with weights that have learnt nothing."""
    aux = controlnet_aux()
    import torch
    from controlnet_aux import hed, lineart, util

    assert conditions.PALETTE.tolist() == util.ade_palette()
    torch.manual_seed(0)
    torch.save(hed.ControlNetHED_Apache2().state_dict(), tmp_path / "ControlNetHED.pth")
    for name in ("sk_model.pth", "sk_model2.pth"):
        torch.save(lineart.Generator(3, 1, 3).state_dict(), tmp_path / name)
    monkeypatch.setattr(hub, "folder", lambda model: tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda model: tmp_path)
    for name in ("soft_edge", "line_art"):
        result = CONDITIONS[name](scene((100, 70)))
        assert (result.mode, result.size) == ("RGB", (100, 70))
    edges = np.asarray(aux.CannyDetector()(scene((512, 512)), image_resolution=512))
    assert np.array_equal(edges, np.asarray(CONDITIONS["canny"](scene((512, 512)))))
