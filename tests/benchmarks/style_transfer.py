"""Style transfer: a translation at 256 px against plain fp32; a photo of 24 megapixels; a training step.

    python tests/benchmarks/style_transfer.py [--model style-historic] [--times 10] [--ngf 24 --blocks 6 --up 4]

Without --model the nets have random weights, which take as long. The ways take turns, and of each the fastest round
counts. Plain: convolutions and instance normalisation in fp32, one picture whole.
"""

import argparse
import contextlib
import io
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import pipelines
from pipelines import runtime
from pipelines.models.cyclegan import Discriminator, Generator, without_grid
from pipelines.pictures import open_picture
from pipelines.registry import APACHE, Model
from pipelines.style_transfer import StyleTransferPipeline, draw
from tests.benchmarks.faces import fastest
from tests.benchmarks.machine import machine

PHOTO = (6000, 4000)  # 24 megapixels


def pair(args: argparse.Namespace) -> StyleTransferPipeline:
    if args.model:
        return pipelines.load(args.model)
    torch.manual_seed(0)
    model = Model("random", "style_transfer", "cyclegan", "bundled", *APACHE, 2026, "0" * 40)
    return StyleTransferPipeline({"AtoB": Generator(args.ngf, args.blocks, args.up)}, {}, model)


def plain(net: Generator, x: torch.Tensor) -> torch.Tensor:
    """What net(x) computes, in the authors' terms"""

    def conv(layer, x, pad=0):
        return nn.Conv2d.forward(layer, F.pad(x, (pad,) * 4, mode="reflect")) if pad else layer(x)

    def norm(x):
        return F.instance_norm(x)

    x = F.relu(norm(conv(net.encoder[0], x, 3)))
    for layer in net.encoder[1:]:
        x = F.relu(norm(conv(layer, x)))
    for block in net.trunk:
        x = x + norm(conv(block.conv2, F.relu(norm(conv(block.conv1, x, 1))), 1))
    for layer in net.decoder:
        x = F.relu(norm(conv(layer, x)))
    x = torch.tanh(conv(net.out, x, 3))
    return without_grid(x) if net.config.degrid else x


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture, different above and below, left and right, with a little grain."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((width, height), 12).convert("RGB")
    return Image.blend(image, grain, 0.1)


def large(args: argparse.Namespace) -> dict[str, float]:
    """A JPEG of 24 megapixels -> its translation at 4: seconds, GB above rest at most, and how bands show."""
    style = pair(args)
    file = io.BytesIO()
    scene(*PHOTO).save(file, "JPEG")
    with contextlib.suppress(OSError):  # Linux: the peak counts from here
        Path("/proc/self/clear_refs").write_text("5")
    rest, began = psutil.Process().memory_info().rss, time.perf_counter()
    ticks = []
    before, after, _ = style.translate(
        open_picture(file.getvalue()), size=0, on_step=lambda i, n, _: ticks.append(time.perf_counter())
    )
    seconds = time.perf_counter() - began
    if Path("/proc/self/status").exists():  # getrusage does not start anew
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1]) * 1024
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = {"seconds": seconds, "memory": (peak - rest) / 2**30, "longest": max(np.diff(ticks)), "bands": len(ticks)}
    return found | {"pixels": after.width * after.height}


def seam(args: argparse.Namespace) -> tuple[float, float]:
    """Largest change from line to line of (banded - plain) where bands meet, and anywhere else, of 255, in fp32.

    At a size that fits whole: whatever bands did would stand out of this difference.
    """
    net = next(iter(pair(args)._generators.values()))
    x = runtime.to_tensor(scene(768, 512)).to(runtime.device())
    rows = 64
    with torch.inference_mode():
        apart = (net.forward_in_bands(x, rows) - net(x)).mul(127.5)[0].cpu().numpy()
    steps = np.abs(np.diff(apart, axis=2)).max((0, 1))
    at = np.zeros(len(steps), bool)
    at[rows - 1 :: rows] = True
    return steps[at].max(), steps[~at].max()


def stepper(args: argparse.Namespace, ours: bool) -> Callable[[], None]:
    """A step of training/style_transfer.py at 128 px without the identity loss: two generators, two discriminators.
    `ours`: with bf16 where the hardware has it and channels last in memory, as the script does it; else plain."""
    torch.manual_seed(0)
    device = runtime.device()
    layout = {"memory_format": torch.channels_last if ours else torch.contiguous_format}
    g, f = (Generator(args.ngf, args.blocks, args.up).to(device, **layout) for _ in range(2))
    d_a, d_b = (Discriminator(32).to(device, **layout) for _ in range(2))
    first = torch.optim.Adam(chain(g.parameters(), f.parameters()), 2e-4, (0.5, 0.999), fused=ours)
    second = torch.optim.Adam(chain(d_a.parameters(), d_b.parameters()), 2e-4, (0.5, 0.999), fused=ours)
    a, b = (torch.rand(1, 3, 128, 128, device=device) * 2 - 1 for _ in range(2))

    def step() -> None:
        for judge in (d_a, d_b):
            judge.requires_grad_(False)
        with runtime.autocast(ours):
            fake_a, fake_b = f(b), g(a)
            back_a, back_b = f(fake_b), g(fake_a)
            gan = (d_a(fake_a) - 1).square().mean() + (d_b(fake_b) - 1).square().mean()
        (gan + 10 * (F.l1_loss(back_a, a) + F.l1_loss(back_b, b))).backward()
        first.step()
        for judge in (d_a, d_b):
            judge.requires_grad_(True)
        with runtime.autocast(ours):
            real = (d_a(a) - 1).square().mean() + (d_b(b) - 1).square().mean()
            fake = d_a(fake_a.detach()).square().mean() + d_b(fake_b.detach()).square().mean()
        ((real + fake) / 2).backward()
        second.step()
        for optimizer in (first, second):
            optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="id or folder; without it random weights")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--ngf", type=int, default=24, help="width of the random net; 64, 9, 3: the authors'")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--up", type=int, default=4, help="kernel of the layers that double the size")
    parser.add_argument("--no-photo", action="store_true", help="without the photo, which takes long in a wide net")
    args = parser.parse_args()
    threads = f"{torch.get_num_threads()} threads on {runtime.device()}"
    print(f"{machine()}; torch {torch.__version__}, {threads}", flush=True)
    style = pair(args)
    net = next(iter(style._generators.values()))
    eager = Generator(net.config.ngf, net.config.blocks, net.config.up, net.config.degrid).to(runtime.device()).eval()
    eager.load_state_dict(net.state_dict())
    image = scene(256, 256)
    x = runtime.to_tensor(image).to(runtime.device())

    @torch.inference_mode()
    def reference() -> torch.Tensor:
        return plain(eager, x)

    with torch.inference_mode():
        apart = (reference().cpu() - draw(net, x)).square().mean().item()
    name = args.model or "random weights"
    print(f"{name}, ngf {net.config.ngf}, {net.config.blocks} blocks, 256 px: ", end="")
    print(f"PSNR against plain fp32 {10 * np.log10(4 / apart):.1f} dB (at least 35)")
    with torch.inference_mode():
        ways = {
            "plain fp32": reference,
            "ours": lambda: draw(net, x),
            "to the picture": lambda: style.translate(image, style.directions[0]),
        }
        found = fastest(ways, args.times)
    goals = {"ours": "  (at least 1.9 times in bf16)", "to the picture": "  (under 150 ms)"}
    for way, seconds in found.items():
        ratio = found["plain fp32"] / seconds
        print(f"{way:16} {1000 * seconds:6.0f} ms  {ratio:5.2f} times as fast as plain{goals.get(way, '')}", flush=True)

    at, elsewhere = seam(args)
    print(
        f"bands, largest change of their error from line to line: {at:.4f} where they meet, {elsewhere:.4f} elsewhere,"
    )
    print("  of 255 (no larger where they meet than elsewhere, or far below 1)", flush=True)
    if not args.no_photo:  # in a process of its own: what this one has held by then would count
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            photo = process.submit(large, args).result()
        print(f"{PHOTO[0]} x {PHOTO[1]} px, worked on at {photo['pixels'] / 1e6:.2f} megapixels: ", end="")
        print(f"{photo['seconds']:.0f} s, ", end="")
        print(f"{photo['memory']:.2f} GB above rest (under 1.5), Stop within {photo['longest']:.1f} s", flush=True)

    found = fastest({"plain": stepper(args, False), "ours": stepper(args, True)}, args.times)
    ratio = found["plain"] / found["ours"]
    print(f"training step at 128 px: fp32 {1000 * found['plain']:.0f} ms, ours {1000 * found['ours']:.0f} ms, ", end="")
    print(f"{ratio:.2f} times as fast (at least 1.5 times)")


if __name__ == "__main__":
    main()
