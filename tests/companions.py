"""Nets that go with a text-to-image model: real classes, random weights, registered as folders of one's own."""

import json
from pathlib import Path

import torch
from diffusers import ControlNetModel, DiffusionPipeline
from peft import LoraConfig

import pipelines


def registered(folder: Path, kind: str, base: str, **facts: str) -> str:
    """-> its id"""
    facts |= {"tab": "text_to_image", "kind": kind, "licence": "MIT", "year": 2026, "base": base}
    (folder / "training.json").write_text(json.dumps(facts))
    return pipelines.register_folder(folder).id


def controlnet(folder: Path, plain: DiffusionPipeline, base: str, **facts: str) -> str:
    """One that changes what is drawn, without rhyme or reason. -> its id"""
    torch.manual_seed(1)
    net = ControlNetModel.from_unet(plain.unet)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.05 * torch.randn_like(weight)
    net.save_pretrained(folder)
    return registered(folder, "controlnet", base, **facts)


def lora(folder: Path, plain: DiffusionPipeline, net: str, base: str) -> str:
    """One of the part `net` of a pipeline. -> its id"""
    torch.manual_seed(2)
    getattr(plain, net).add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    weights = {
        name.replace(".default", ""): torch.randn_like(value)
        for name, value in getattr(plain, net).named_parameters()
        if "lora" in name
    }
    plain.save_lora_weights(folder, **{f"{net}_lora_layers": weights})
    return registered(folder, "lora", base)
