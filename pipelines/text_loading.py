"""How a text-to-image model is put into memory: precision, what stays outside, what is squeezed.

    plan(model, machine())      -> Plan, from the size of the model and what the machine has
    pipeline(model, folder)     -> the pipeline of diffusers, loaded by that plan, and the plan

TRUGBILD_TEXT_PLAN changes it: "dtype=float32,offload=layers,quantisation=4bit,cache=first_block", any of them. What is
chosen in the page (text_plan.py) comes before that.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig, ModelMixin, PipelineQuantizationConfig
from diffusers.utils import logging

from . import budget_mb, hub, registry, runtime
from .problems import Problem
from .registry import Model
from .text_plan import CACHED, PIXELS, SMALL_MB, quantisers, ways
from .weights import from_folder, load_strictly, read_tensors

SHARES = {"none": 1.0, "8bit": 0.6, "4bit": 0.4}  # of the memory; autoencoder and working room stay as they are
THRESHOLD = 0.1  # of first-block caching: by how much the first block's answer may have moved for the rest to be reused
QUANTISED = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")
CONTROLNETS = (
    "ControlNetModel", "ControlNetUnionModel", "FluxControlNetModel", "QwenImageControlNetModel", "SD3ControlNetModel",
    "ZImageControlNetModel",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    device: str  # "cuda" or "cpu"
    free_mb: int  # on the device
    bf16: bool  # whether it computes in bfloat16 faster than in float32
    quantisers: tuple[str, ...] = ()  # of "8bit", "4bit"


@dataclass(frozen=True)
class Plan:
    """Names as the page shows them."""

    device: str
    dtype: str = "float32"  # or "bfloat16"
    offload: str = "none"  # or "layers": weights wait in main memory until their layer is computed
    quantisation: str = "none"  # or "8bit", "4bit": weights take a half, a quarter; pictures change a little
    cache: str = "none"  # or "first_block": steps that would change little are reused; pictures change a little

    @property
    def movable(self) -> bool:
        """Whether the nets can be copied and changed."""
        return self.offload == self.quantisation == "none"

    def pixels(self) -> dict[str, str]:
        """What a recipe has to know of it: all that changes pictures and is not as it is for the small models."""
        usual = Plan(self.device)
        return {name: value for name in PIXELS if (value := getattr(self, name)) != getattr(usual, name)}


def machine() -> Machine:
    """This one."""
    device = runtime.device().type
    free_mb = torch.cuda.mem_get_info()[0] // 2**20 if device == "cuda" else budget_mb()
    return Machine(device, free_mb, runtime.fast_bf16(), quantisers(device == "cuda"))


def plan(model: Model, machine: Machine, **wanted: str) -> Plan:
    """What fits, the least change to the pictures first: as it is, quantised, layer by layer; then what is wanted.

    A processor that is slow in bfloat16 uses it only where float32 would not fit. Raises Problem plan_setting.
    """
    wanted = _checked({**_environment(), **wanted}, machine)
    if model.memory_mb < SMALL_MB:
        return replace(Plan(machine.device), **wanted)
    if machine.device == "cpu":
        half = machine.bf16 or 2 * model.memory_mb > machine.free_mb
        return replace(Plan("cpu", "bfloat16" if half else "float32"), **wanted)
    chosen = Plan(machine.device, "bfloat16")
    fits = [way for way in ("none", *machine.quantisers) if model.memory_mb * SHARES[way] <= machine.free_mb]
    return replace(replace(chosen, quantisation=fits[0]) if fits else replace(chosen, offload="layers"), **wanted)


def _environment() -> dict[str, str]:
    pairs = [pair.strip() for pair in os.environ.get("TRUGBILD_TEXT_PLAN", "").split(",") if pair.strip()]
    return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in pairs)}


def _checked(wanted: dict[str, str], machine: Machine) -> dict[str, str]:
    choices = ways(machine.quantisers)
    for name, value in wanted.items():
        if value not in choices.get(name, ()):
            raise Problem("plan_setting", name=name, value=value, choices=", ".join(choices.get(name, choices)))
    return wanted


def pipeline(model: Model, folder: Path, **wanted: str) -> tuple[DiffusionPipeline, Plan]:
    """Raises Problem: plan_setting, package_missing, what hub.fetch raises."""
    chosen = plan(model, machine(), **wanted)
    dtype = getattr(torch, chosen.dtype)
    more = {name: _part(id, dtype) for name, id in model.parts.items()}
    if chosen.quantisation != "none":
        four = {"bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_type": "nf4"}
        more["quantization_config"] = PipelineQuantizationConfig(
            quant_backend=f"bitsandbytes_{chosen.quantisation}",
            quant_kwargs={f"load_in_{chosen.quantisation}": True} | (four if chosen.quantisation == "4bit" else {}),
            components_to_quantize=[name for name in QUANTISED if (folder / name).is_dir()],
        )
    quiet = logging.get_verbosity()
    logging.set_verbosity_error()  # that there is no safety checker is known
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            **({"variant": model.variant} if model.variant else {}),
            **more,
        )
    except ImportError as error:
        raise Problem("package_missing", model=model.id) from error
    finally:
        logging.set_verbosity(quiet)
    if chosen.cache != "none":
        cached(pipe)
    return placed(pipe, chosen), chosen


def placed(pipe: DiffusionPipeline, plan: Plan) -> DiffusionPipeline:
    """On the device, or layer by layer when it is needed there."""
    if plan.offload == "none":
        return pipe.to(plan.device)
    device = torch.device(plan.device)
    pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
    return pipe


def cached(pipe: DiffusionPipeline) -> None:
    """First-block caching. Raises Problem plan_setting where it is not possible."""
    if type(pipe).__name__ not in CACHED:
        raise Problem("plan_setting", name="cache", value="first_block", choices="none")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=THRESHOLD))


def forget(net: torch.nn.Module) -> None:
    """What a cache keeps of the picture before, which may have been stopped half way."""
    if getattr(net, "is_cache_enabled", False):
        net._reset_stateful_cache()


def _part(id: str, dtype: torch.dtype) -> ModelMixin:
    """A net instead of a repository's own."""
    folder = hub.fetch(registry.get(id))
    return from_folder(getattr(diffusers, registry.class_name(folder)), folder).to(dtype)


def controlnet(model: Model, folder: Path) -> ModelMixin:
    """A net that guides, of whichever class; in the precision that its size asks for."""
    config = dict(model.config)
    name = config.pop("_class_name", None) or registry.class_name(folder)
    if name not in CONTROLNETS:
        raise Problem("unknown_pipeline", model=model.id, value=name)
    if model.config:
        (file,) = model.files
        net = getattr(diffusers, name)(**config)
        load_strictly(net, read_tensors(folder / file), file)
    else:
        net = from_folder(getattr(diffusers, name), folder)
    return runtime.ready(net).to(getattr(torch, plan(model, machine()).dtype))
