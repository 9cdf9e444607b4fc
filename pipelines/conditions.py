"""What a ControlNet is shown of a picture: CONDITIONS, a table of functions PIL -> PIL. Imports nothing heavy.

    CONDITIONS["canny"](photo, low=50, high=150)    -> RGB of the photo's size, 0..255

Those that compute with OpenCV alone always work. The others ask a net: controlnet-aux's, whose weights hub.fetch gets
and checks, and for segmentation transformers' UperNet in the colours of ADE20K, as the ControlNet learnt them (the
detector of controlnet-aux colours at random). One net is kept, the last one.
"""

import importlib
import importlib.util
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from . import _importing, _reason, hub, status
from .pictures import open_picture
from .problems import Problem, choice, number
from .registry import APACHE, MIT, Model, pinned

LARGEST = 2048  # px of the longer side that is looked at; the result has the picture's size all the same
SIDE = 512  # px of the shorter side that nets look at, and that blurs are meant for
ANNOTATORS = "lllyasviel/Annotators", "982e7edaec38759d914a963c48c4726685de7d96"
OPENPOSE = ("OpenPose (non-commercial)", "https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/LICENSE")
UPERNET = "pytorch_model.bin"

_lock = threading.Lock()  # also while a net works: MiDaS keeps numbers of a call in a table of the module
_kept: dict[tuple[str, str | None], object] = {}  # id and revision of a detector -> its net


@dataclass(frozen=True)
class Condition:
    name: str
    draw: Callable[..., np.ndarray]  # (x, **settings), or (net, x) with a detector; x is RGB (h, w, 3), 0..255
    settings: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)  # name -> lowest, highest, default
    detector: Model | None = None  # whose weights the hub has
    load: Callable[[Path], object] | None = None  # the detector from its folder
    packages: tuple[str, ...] = ()  # that it needs besides ours
    smooth: bool = True  # whether the result may be interpolated; not where a colour is a name

    def __call__(self, image: Image.Image | bytes | str | Path | None, **settings: float) -> Image.Image:
        """-> RGB of the picture's size. Raises Problem, also those of open_picture and hub.fetch."""
        image = open_picture(image)
        values = self._values(settings)
        x = np.asarray(image.resize(self._size(*image.size), Image.Resampling.BICUBIC))
        if self.detector:
            with _lock:
                drawn = self.draw(self._net(), x)
        else:
            drawn = self.draw(x, **values)
        result = Image.fromarray(np.ascontiguousarray(drawn)).convert("RGB")
        return result.resize(image.size, Image.Resampling.BILINEAR if self.smooth else Image.Resampling.NEAREST)

    @property
    def needs_hub(self) -> bool:
        return self.detector is not None

    def status(self) -> Problem | None:
        """Why it cannot be had now, or None. Cheap: no network, no torch."""
        if not self.detector:
            return None
        try:
            return status(pinned(self.detector)) or self._packages()
        except Problem as problem:  # without a revision nobody can ask; without a network it does not matter
            return hub.status(replace(self.detector, revision="0" * 40)) or problem

    def _values(self, settings: Mapping[str, float]) -> dict[str, float]:
        for name in settings:
            if name not in self.settings:
                raise Problem("unknown_setting", name=name)
        values = {}
        for name, (low, high, default) in self.settings.items():
            low = max(low, values.get("low", low)) if name == "high" else low
            values[name] = number(name, settings.get(name, max(low, default)), low, high)
        return values

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """What is looked at: the picture itself unless it is huge; for nets about SIDE, in steps of 64."""
        if not self.detector:
            scale = min(1.0, LARGEST / max(width, height))
            return max(1, round(width * scale)), max(1, round(height * scale))
        scale = min(SIDE / min(width, height), LARGEST / max(width, height))
        return max(64, round(width * scale / 64) * 64), max(64, round(height * scale / 64) * 64)

    def _packages(self) -> Problem | None:
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return Problem("no_detector", name=self.name) if missing else None

    def _net(self) -> object:
        """The detector, ready to be called; the caller holds the lock."""
        key = self.detector.id, self.detector.revision
        if key not in _kept:
            if not self._is_here():
                hub.probe()
            if problem := self.status():
                raise problem
            folder = hub.fetch(self.detector)
            _kept.clear()
            try:
                with _importing, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of packages about each other
                    _kept[key] = self.load(folder)
            except Unusable as error:
                raise Problem("no_detector", name=self.name) from error
            except Problem:
                raise
            except Exception as error:
                raise _reason(self.detector, error) from error
        return _kept[key]

    def _is_here(self) -> bool:
        return hub.folder(self.detector) is not None


class Unusable(Exception):
    """controlnet-aux is there and cannot be imported: torchvision does not fit torch."""


def get(name: object) -> Condition:
    """Raises Problem: missing, unknown_choice."""
    return CONDITIONS[choice("condition", name, tuple(CONDITIONS))]


# ---- OpenCV alone


def _canny(x: np.ndarray, low: float, high: float) -> np.ndarray:
    import cv2

    return cv2.Canny(np.ascontiguousarray(x), low, high)


def _scribble(x: np.ndarray, threshold: float) -> np.ndarray:
    """XDoG: where a small neighbourhood is darker than a large one, in black and white."""
    return np.where(_blurred(x, 5.0) - _blurred(x, 0.5) > threshold / 2, 255, 0).min(2).astype(np.uint8)


def _drawing(x: np.ndarray) -> np.ndarray:
    """Dark or coloured strokes on white -> bright strokes on black."""
    drawn = 255 - x.min(2)
    if not drawn.any():
        raise Problem("empty_drawing")
    return drawn


def _line_art_plain(x: np.ndarray) -> np.ndarray:
    """How much darker each pixel is than around it; the middle of what counts as a line becomes 127."""
    depth = (_blurred(x, 6.0) - x).min(2).clip(0, 255)
    lines = depth[depth > 8]
    return (depth * (127 / max(16.0, np.median(lines) if lines.size else 0.0))).clip(0, 255).astype(np.uint8)


def _blur(x: np.ndarray, radius: float) -> np.ndarray:
    return _blurred(x, radius).clip(0, 255).round().astype(np.uint8)


def _blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """sigma in px of a picture whose shorter side is SIDE."""
    import cv2

    sigma = max(0.1, sigma * min(x.shape[:2]) / SIDE)
    return cv2.GaussianBlur(x.astype(np.float32), (0, 0), sigma)


# ---- nets


def _annotator(kind: str) -> Callable[[Path], object]:
    """Loads a class of controlnet-aux. Its files are tensors: torch.load refuses anything else by default."""

    def load(folder: Path) -> object:
        from . import runtime

        try:
            module = importlib.import_module("controlnet_aux")
        except (ImportError, RuntimeError) as error:
            raise Unusable from error
        return getattr(module, kind).from_pretrained(str(folder)).to(runtime.device())

    return load


def _seen(net: Callable, x: np.ndarray) -> np.ndarray:
    side = min(x.shape[:2])  # so that the net takes the picture as it is
    return np.asarray(net(Image.fromarray(x), detect_resolution=side, image_resolution=side, output_type="pil"))


def _pose(net: Callable, x: np.ndarray) -> np.ndarray:
    skeletons = _seen(net, x)
    if not skeletons.any():
        raise Problem("no_pose")
    return skeletons


def _upernet(folder: Path) -> object:
    from transformers import UperNetForSemanticSegmentation

    from . import runtime

    net, report = UperNetForSemanticSegmentation.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=False, output_loading_info=True
    )
    for key in (*report["missing_keys"], *report["mismatched_keys"]):
        raise Problem("weights_mismatch", file=UPERNET, key=key)
    return runtime.ready(net)


def _segmentation(net: object, x: np.ndarray) -> np.ndarray:
    import torch

    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # of ImageNet
    pixels = torch.from_numpy((x / np.float32(255) - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        (names,) = net(pixels.to(net.device)).logits.argmax(1).cpu().numpy()  # (h, w), 0..149
    return PALETTE[names]


# ---- the table


def _asks(name: str, kind: str, licence: tuple[str, str], year: int, memory_mb: int, draw=_seen, **files: str):
    """A detector of controlnet-aux; files are given as name__pth=sha256."""
    files = {name.replace("__", "."): sha256 for name, sha256 in files.items()}
    source, revision = ANNOTATORS
    model = Model(
        f"detector-{name}",
        "text_to_image",
        "detector",
        source,
        *licence,
        year,
        revision,
        memory_mb=memory_mb,
        files=files,
    )
    return Condition(name, draw, {}, model, _annotator(kind), ("controlnet_aux", "torchvision", "einops", "timm"))


# The colours of ADE20K's 150 names.
PALETTE = np.frombuffer(
    bytes.fromhex(
        "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33ff06528fff8cccff04"
        "ff3307cc46030066c83de6faff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0ffb8060aff47ff290a07ffff"
        "e0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ffeb0cffa0961400a3ff8c8c8cfa0a0f14ff001fff00ff1f00ffe000"
        "99ff000000ffff470000ebff00adff1f00ff0bc8c8ff520000fff5003dff00ff7000ff85ff0000ffa300ff6600c2ff00008fff33ff00"
        "0052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014ffb8b8001fff00ff3d0047ffff00cc00ffc2"
        "00ff52000aff0070ff3300ff00c2ff007aff00ffa3ff990000ff0aff70008fff005200ffa3ff00ffeb0008b8aa8500ff00ff5cb800ff"
        "ff001f00b8ff00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00ff00a3ffcc00ff008f00ffeb85ff00ff00ebf500ff"
        "ff007afff5000abed4d6ff0000ccff1400ffffff000099ff0029ff00ffcc2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cff"
        "b8ff000085ffffd60019c2c266ff005c00ff"
    ),
    np.uint8,
).reshape(150, 3)

# fmt: off
CONDITIONS = {condition.name: condition for condition in (
    Condition("canny", _canny, {"low": (0, 500, 100), "high": (0, 500, 200)}),
    Condition("scribble", _scribble, {"threshold": (1, 100, 32)}),
    Condition("drawing", _drawing),  # made by hand
    Condition("line_art_plain", _line_art_plain),
    Condition("blur", _blur, {"radius": (0.5, 100, 10)}),
    _asks("soft_edge", "HEDdetector", APACHE, 2023, 500,
          ControlNetHED__pth="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa"),
    _asks("line_art", "LineartDetector", MIT, 2022, 700,
          sk_model__pth="c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
          sk_model2__pth="30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0"),
    _asks("pose", "OpenposeDetector", OPENPOSE, 2017, 1200, _pose,
          body_pose_model__pth="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
          hand_pose_model__pth="b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
          facenet__pth="8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43"),
    _asks("depth", "MidasDetector", MIT, 2021, 1200,
          **{"dpt_hybrid-midas-501f0c75__pt": "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853"}),
    _asks("normal", "NormalBaeDetector", MIT, 2021, 1000,
          scannet__pt="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209"),
    Condition("segmentation", _segmentation, {},
              Model("detector-segmentation", "text_to_image", "detector", "openmmlab/upernet-convnext-small", *MIT,
                    2022, memory_mb=900, files={"config.json": None, UPERNET:
                    "76c163aa531ab7edfb3a77bbcc039e340645aa0ffe2b0ffcfc68755f550c76ea"}),
              _upernet, smooth=False),
)}
# fmt: on
