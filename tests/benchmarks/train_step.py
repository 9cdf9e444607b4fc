"""A training step of a convolutional net with --precision bf16 (or compiled as well) against the plain fp32 step.

    python tests/benchmarks/train_step.py [--times 15] [--compile]

The same net, optimizer and pictures; the ways take turns, so that a busy machine slows all of them; the figures
are ratios of medians.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tests.benchmarks.machine import machine


def stepper(net: AutoencoderKL, x: torch.Tensor, bf16: bool, compiled: bool) -> Callable[[], None]:
    """One update of a copy of net, to reproduce x."""
    net = deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), fused=bf16)
    autocast = torch.autocast(x.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    if compiled:
        net.compile()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            y = net(x, sample_posterior=False).sample
        F.mse_loss(y.float(), x).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well; takes a minute")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    net = AutoencoderKL(**kinds, block_out_channels=(32, 64, 64), norm_num_groups=16).to(device)
    x = torch.rand(8, 3, 64, 64, device=device) * 2 - 1
    ways = {"fp32": stepper(net, x, False, False), "bf16": stepper(net, x, True, False)}
    if args.compile:
        ways["bf16, compiled"] = stepper(net, x, True, True)
    for step in ways.values():  # once without a clock: compiles, warms up
        step()
    seconds = {name: [] for name in ways}
    for _ in range(args.times):
        for name, step in ways.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{machine()}; torch {torch.__version__}, {where}")
    print(f"AutoencoderKL, {sum(p.numel() for p in net.parameters()):,} parameters, {len(x)} pictures of 64 px")
    for name, median in medians.items():
        print(f"{name:16} {1000 * median:7.0f} ms a step  {medians['fp32'] / median:5.2f} times as fast")


if __name__ == "__main__":
    main()
