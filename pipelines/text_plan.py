"""How a text-to-image model may be put into memory, as the page offers it; text_loading.py does it. Needs no torch."""

import importlib.util

from . import gpu_mb, hub, registry
from .registry import Model

SMALL_MB = 1000  # so small that it is computed in fp32 anywhere
PIXELS = ("dtype", "quantisation", "cache")  # what of it changes pictures
# Pipelines of diffusers 0.42 that tell the net which of its answers a cache may reuse, and whose nets can be cached.
CACHED = (
    "FluxPipeline", "QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageControlNetPipeline",
    "QwenImageEditPipeline", "QwenImageEditPlusPipeline",
)  # fmt: skip


def quantisers(cuda: bool) -> tuple[str, ...]:
    return ("8bit", "4bit") if cuda and importlib.util.find_spec("bitsandbytes") else ()


def ways(quantisers: tuple[str, ...] = ("8bit", "4bit")) -> dict[str, tuple[str, ...]]:
    """Name -> what a plan can say there, see text_loading.Plan."""
    return {
        "dtype": ("float32", "bfloat16"),
        "offload": ("none", "layers"),
        "quantisation": ("none", *quantisers),
        "cache": ("none", "first_block"),
    }


def choices(model: Model) -> dict[str, tuple[str, ...]]:
    """Name -> what can be chosen for a model on this machine, {} where there is nothing to choose.

    Which pipeline it is, and so whether it can be cached, is known when its files are here.
    """
    if model.memory_mb < SMALL_MB:
        return {}
    folder, cuda = hub.folder(model), gpu_mb() > 0
    cannot = set() if folder and registry.class_name(folder, registry.INDEX) in CACHED else {"cache"}
    cannot |= set() if cuda else {"offload"}  # which only frees a GPU
    every = ways(quantisers(cuda))
    return {name: values for name, values in every.items() if len(values) > 1 and name not in cannot}
