"""Faces: how long one and sixteen take, against the same network written plainly in fp32; projection; 1024 px.

    python tests/benchmarks/faces.py [--model faces-64] [--times 15] [--no-fast]

The ways take turns, and of each the fastest round counts: what else the machine does can only add to it. Plain: every
picture has weights of its own, as in equations 1 to 3 of Karras et al. 2020, and a batch is computed at once.
"""

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.nn import functional as F

import pipelines
from pipelines import runtime
from pipelines.face_drawing import maps_of
from pipelines.models.stylegan2 import Generator, ModulatedConv
from tests.benchmarks.machine import machine

COUNT = 16


def plain_conv(conv: ModulatedConv, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """A modulated convolution as the paper writes it: one set of weights a picture, pictures as groups."""
    n, (out, channels, side, _) = len(x), conv.weight.shape
    style = F.linear(w, conv.affine.weight / math.sqrt(w.shape[1]), conv.affine.bias)
    weight = conv.weight / math.sqrt(channels * side**2) * style[:, None, :, None, None]  # eq. 1
    if conv.demodulate:
        weight = weight / (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()  # eq. 3
    x = x.reshape(1, n * channels, *x.shape[2:])
    if conv.filter is None:
        x = F.conv2d(x, weight.reshape(n * out, channels, side, side), padding=side // 2, groups=n)
    else:
        weight = weight.transpose(1, 2).reshape(n * channels, out, side, side)
        x = low_pass(F.pad(F.conv_transpose2d(x, weight, stride=2, groups=n), [1] * 4))
    return x.reshape(n, out, *x.shape[2:])


def low_pass(x: torch.Tensor) -> torch.Tensor:
    """x (N, C, H, W) behind [1, 3, 3, 1] in both directions, times 4"""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device) / 4
    return F.conv2d(x, (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def plain(net: Generator, ws: torch.Tensor, noise: list[torch.Tensor]) -> torch.Tensor:
    """What net.synthesis computes: ws (N, layers, w_dim), maps of noise -> x (N, 3, H, W)"""

    def layer(styled, x, w, noise):
        x = plain_conv(styled.conv, x, w) + styled.noise_strength * noise
        return F.leaky_relu(x + styled.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)

    def rgb_of(to_rgb, x, w):
        return plain_conv(to_rgb.conv, x, w) + to_rgb.bias.view(1, -1, 1, 1)

    n, noise, ws = len(ws), iter(noise), iter(ws.unbind(1))
    x = layer(net.conv, net.constant.repeat(n, 1, 1, 1), next(ws), next(noise))
    rgb = rgb_of(net.to_rgb, x, w := next(ws))
    for block in net.blocks:
        x = layer(block.up, x, w, next(noise))
        x = layer(block.conv, x, next(ws), next(noise))
        between = rgb.new_zeros(*rgb.shape[:2], 2 * rgb.shape[2], 2 * rgb.shape[3])
        between[:, :, ::2, ::2] = rgb
        rgb = low_pass(F.pad(between, (2, 1, 2, 1))) + rgb_of(block.to_rgb, x, w := next(ws))
    return rgb


def large() -> tuple[float, float, int]:
    """-> seconds of one picture of 1024 px by a net of the paper's widths, peak memory in GB, of the process; px"""
    torch.manual_seed(0)
    net = runtime.ready(Generator())
    times = []
    for seed in range(2):
        began = time.perf_counter()
        with torch.inference_mode(), runtime.autocast():
            z = torch.randn(1, 512).to(net.device)
            runtime.to_images(net(z, noise=[m.to(net.device) for m in maps_of(net, seed)], psi=0.7))
        times.append(time.perf_counter() - began)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated() / 2**30
    return min(times), memory, net.image_size


def fastest(ways: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """Seconds of the fastest round of each, after one without a clock."""
    seconds = {name: [] for name in ways}
    for i in range(times + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return {name: min(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="faces-64", help="id or folder")
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--no-fast", action="store_true", help="without the compiled mode, which takes minutes first")
    args = parser.parse_args()
    print(
        f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads on {runtime.device()}", flush=True
    )
    # first, in a process of its own: what this one has held by then would count
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        seconds, memory, side = process.submit(large).result()
    print(f"{side} px, random weights: {seconds:.1f} s a picture, {memory:.2f} GB at most (under 3)", flush=True)

    faces = pipelines.load(args.model)
    net, seeds = faces.generator, range(COUNT)
    ws = faces.ws(seeds)
    rows = torch.from_numpy(ws).to(net.device)
    maps = [torch.cat(m).to(net.device) for m in zip(*(maps_of(net, seed) for seed in seeds), strict=True)]

    @torch.inference_mode()
    def reference(n: int) -> torch.Tensor:
        return plain(net, rows[:n], [m[:n] for m in maps])

    @torch.inference_mode()
    def ours(n: int) -> torch.Tensor:
        with runtime.autocast():
            return net.synthesis(rows[:n], [m[:n] for m in maps])

    apart = (reference(COUNT) - ours(COUNT)).abs().mean().item()
    print(f"{args.model}, {faces.image_size} px; mean difference from plain fp32 {apart:.4f} in [-1, 1] (under 0.01)")
    ways = {
        "one face, plain": lambda: reference(1),
        "one face": lambda: ours(1),
        "one face, to the picture": lambda: faces.generate(0, 1),
        f"{COUNT} faces, plain": lambda: reference(COUNT),
        f"{COUNT} faces, to the pictures": lambda: faces.generate(0, COUNT),
    }
    if not args.no_fast:
        began = time.perf_counter()
        faces.generate(0, 1, fast=True)
        print(f"fast mode: compiled in {time.perf_counter() - began:.0f} s", flush=True)
        ways[f"{COUNT} faces, fast"] = lambda: faces.generate(0, COUNT, fast=True)
    found = fastest(ways, args.times)
    goals = {
        "one face": "at least 1.7 times",
        "one face, to the picture": "under 60 ms",
        f"{COUNT} faces, to the pictures": "under 600 ms",
        f"{COUNT} faces, fast": "at least 2.5 times",
    }
    for name, seconds in found.items():
        ratio = found[f"{name.split(',')[0]}, plain"] / seconds
        goal = f"  ({goals[name]})" if name in goals else ""
        print(f"{name:26} {1000 * seconds:7.0f} ms  {ratio:5.2f} times as fast as plain{goal}", flush=True)

    from pipelines.face_projection import STEPS, project

    domain = next(iter(faces.domains), "")
    face = faces.draw(faces.ws([1], psi=1.0, domain=domain))[0]
    began = time.perf_counter()
    error = project(faces, face, domain).error
    seconds = time.perf_counter() - began
    print(f"projection: {seconds:.1f} s (under 15) for {STEPS} steps, mean squared error {error:.4f} in [0, 1]")


if __name__ == "__main__":
    main()
