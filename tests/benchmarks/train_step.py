"""Training steps as the scripts do them (bf16 where the hardware has it) against plain fp32 steps of the same nets.

    python tests/benchmarks/train_step.py [--net flow] [--times 15] [--compile]

The same net, optimizer and data; the ways take turns, so that a busy machine slows all of them; the figures are ratios
of medians. A single core is measured, in its own seconds: the trainings run on one each.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from pipelines import runtime
from tests.benchmarks.machine import machine
from training import text_to_image
from training.quick import plain_attention, quick_flux

Loss = Callable[[torch.nn.Module], torch.Tensor]


def autoencoder() -> tuple[torch.nn.Module, Loss, str]:
    """-> net, what it learns, in words"""
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    net = AutoencoderKL(**kinds, block_out_channels=(32, 64, 64), norm_num_groups=16)
    x = torch.rand(8, 3, 64, 64) * 2 - 1
    return net, lambda net: F.mse_loss(net(x, sample_posterior=False).sample.float(), x), "8 pictures of 64 px"


def painter(objective: str) -> tuple[torch.nn.Module, Loss, str]:
    config = text_to_image.Config(data="", out=Path("x"), objective=objective)
    latents = SimpleNamespace(vae=None, shape=(16, 16, 16))
    net = text_to_image.PAINTERS[objective](config, latents, list(text_to_image.PROMPTS), {})
    n = config.batch_size
    x, noise, u = torch.randn(n, *latents.shape), torch.randn(n, *latents.shape), torch.rand(n)
    tokens = net.tokenize(list(text_to_image.PROMPTS) * n)
    tokens = [ids[:n] for ids in tokens]
    return (
        net,
        lambda net: net.losses(x, noise, u, net.read(tokens)).mean(),
        f"{n} latents of 16 x 16 x 16, text encoders included",
    )


NETS = {
    "autoencoder": autoencoder,
    "diffusion": lambda: painter("diffusion"),
    "flow": lambda: painter("flow"),
}


def stepper(net: torch.nn.Module, loss: Loss, ours: bool, compiled: bool) -> Callable[[], None]:
    """One update of a copy of net."""
    net = deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=ours)
    if ours and hasattr(net, "transformer"):
        quick_flux(net.transformer)
    if compiled:
        net.compile()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with contextlib.ExitStack() as stack:
            if ours:
                stack.enter_context(runtime.autocast())
                stack.enter_context(plain_attention(torch.device("cpu")))
            value = loss(net)
        value.backward()
        optimizer.step()

    return step


def measure(name: str, times: int, compiled: bool) -> None:
    torch.manual_seed(0)
    net, loss, what = NETS[name]()
    ways = {"fp32": stepper(net, loss, False, False), "ours": stepper(net, loss, True, False)}
    if compiled:
        ways["ours, compiled"] = stepper(net, loss, True, True)
    for step in ways.values():  # once without a clock: compiles, warms up
        step()
    seconds = {way: [] for way in ways}
    for _ in range(times):
        for way, step in ways.items():
            began = time.process_time()
            step()
            seconds[way].append(time.process_time() - began)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{name}: {sum(p.numel() for p in net.parameters()):,} parameters, {what}")
    for way, median in medians.items():
        print(f"  {way:14} {1000 * median:7.0f} ms a step  {medians['fp32'] / median:5.2f} times as fast", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, help="this one alone")
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; takes minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; torch {torch.__version__}, one thread")
    for name in [args.net] if args.net else NETS:
        measure(name, args.times, args.compile)


if __name__ == "__main__":
    main()
