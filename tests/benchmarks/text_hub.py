"""Stable Diffusion 1.5 at full size with random weights: a step in fp32 and bf16, previews, memory, the wrapper.

    python tests/benchmarks/text_hub.py [--times 3] [--steps 4] [--size 512]

The ways take turns, and of each the fastest round counts. Weights that were never trained cost as much as real ones.
Where a processor would emulate bf16, the app does not use it, and it is not measured.
"""

import argparse
import copy
import functools
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from pipelines import registry, runtime
from pipelines.photo_autoencoders import PhotoAutoencoderPipeline
from pipelines.text_given import Given
from pipelines.text_to_image import TextToImagePipeline
from tests import tiny_families
from tests.benchmarks.machine import machine
from training import words

PROMPT, SEED, GUIDANCE = "a frog with a melon hat", 1, 7.5


def full_size() -> StableDiffusionPipeline:
    """The nets of stable-diffusion-v1-5, 1.07 billion numbers; its tokenizer knows a few words only."""
    tokenizer = words.clip_tokenizer(tiny_families.TEXTS, 77)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    net = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer, net, scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    for part in (vae, text, net):
        part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(runtime.device())


def taken(way, times: int) -> float:
    """Seconds of the fastest of so many rounds."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def megabytes(pipe: StableDiffusionPipeline) -> float:
    parts = (part for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    return sum(weight.numel() * weight.element_size() for part in parts for weight in part.parameters()) / 1e6


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads on {runtime.device()}")
    torch.manual_seed(0)
    plain = full_size()
    half = copy.deepcopy(plain).to(torch.bfloat16) if runtime.fast_bf16(runtime.device()) else None
    side, device = args.size // 8, runtime.device()

    def step(pipe: StableDiffusionPipeline, layout=torch.contiguous_format) -> None:
        """With guidance: two pictures at once."""
        dtype = pipe.unet.dtype
        x = torch.randn(2, 4, side, side, device=device, dtype=dtype).contiguous(memory_format=layout)
        pipe.unet(x, 500, torch.randn(2, 77, 768, device=device, dtype=dtype))

    pipes = {"fp32": plain, "bf16": half} if half else {"fp32": plain}
    ways = {name: functools.partial(step, pipe) for name, pipe in pipes.items()}
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(args.times):
        for name, way in ways.items():
            seconds[name] = min(seconds[name], taken(way, 1))
    last = half or plain
    last.unet.to(memory_format=torch.channels_last)
    pipes[name := f"{'bf16' if half else 'fp32'}, channels last"] = last
    seconds[name] = taken(functools.partial(step, last, torch.channels_last), args.times)
    last.unet.to(memory_format=torch.contiguous_format)
    for name, pipe in pipes.items():
        ratio = seconds["fp32"] / seconds[name]
        print(
            f"step, {name:19} {seconds[name]:7.2f} s   {ratio:.2f} times as fast   {megabytes(pipe):.0f} MB of weights"
        )
    print("goal: bf16 at least 1.9 times as fast")

    model = registry.get("sd15")
    ours = TextToImagePipeline(plain, model)
    ours.defaults["size"] = args.size
    x0 = torch.randn(1, 4, side, side)
    vars(ours)["tiny"] = PhotoAutoencoderPipeline(AutoencoderTiny(), registry.get("taesd"))
    preview = taken(functools.partial(ours.preview, x0), args.times + 1)
    print(f"preview at {args.size} px by AutoencoderTiny: {preview:.2f} s (goal: under 0.3 s)")

    call = {"num_inference_steps": args.steps, "guidance_scale": GUIDANCE, "width": args.size, "height": args.size}
    settings = {"steps": args.steps, "guidance": GUIDANCE, "sampler": "DDIM", "given": Given(size=(args.size,) * 2)}
    ways = {
        "plain diffusers": lambda: plain(
            PROMPT, negative_prompt="", generator=torch.Generator().manual_seed(1), **call
        ),
        "ours": lambda: ours.draw(PROMPT, seed=SEED, **settings),
        "ours, watched": lambda: ours.draw(PROMPT, seed=SEED, **settings, on_step=lambda i, n, preview: None),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(args.times):
        for name, way in ways.items():
            seconds[name] = min(seconds[name], taken(way, 1))
    base = seconds["plain diffusers"]
    for name, value in seconds.items():
        print(f"{args.steps} steps, {name:16} {value:7.2f} s   {value / base:.3f} times as long as plain")
    print("goal: ours at most 1 % or 5 ms longer")
    print(f"memory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB, torch and all nets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
