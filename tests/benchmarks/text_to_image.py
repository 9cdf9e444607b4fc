"""Text to image: our wrapper beside plain diffusers, the first preview, what previews cost.

    python tests/benchmarks/text_to_image.py [--times 5] [--models emoji-sd emoji-flux]

The ways take turns, and of each the fastest round counts.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusers import DiffusionPipeline

import pipelines
from pipelines import runtime
from tests.benchmarks.faces import fastest
from tests.benchmarks.machine import machine

PROMPT, SEED = "frog with melon hat", 1


def plain(pipe: DiffusionPipeline, arguments: dict) -> None:
    pipe(**arguments, generator=torch.Generator().manual_seed(SEED))


def until_preview(pipeline, steps: int) -> float:
    """Seconds from the call to the first preview."""

    class Seen(Exception):
        pass

    def on_step(i, n, preview):
        if preview:
            raise Seen

    start = time.perf_counter()
    try:
        pipeline.draw(PROMPT, seed=SEED, steps=steps, on_step=on_step)
    except Seen:
        return time.perf_counter() - start
    raise AssertionError("no preview came")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["emoji-sd", "emoji-flux"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads on {runtime.device()}")
    for name in args.models:
        pipeline = pipelines.load(name)
        own = DiffusionPipeline.from_pretrained(pipelines.get(name).path, dtype=torch.float32)
        own.set_progress_bar_config(disable=True)
        guidance = pipeline.defaults["guidance"]
        side = pipeline.defaults["size"]
        arguments = pipeline.family.arguments(PROMPT, "", args.steps, guidance) | {"height": side, "width": side}
        draw = functools.partial(pipeline.draw, PROMPT, seed=SEED, steps=args.steps)
        latent = pipeline.encode(draw()[0])
        ways = {
            "plain diffusers": functools.partial(plain, own, arguments),
            "ours": draw,
            "ours with previews": functools.partial(draw, on_step=lambda i, n, preview: None),
            "one preview": functools.partial(pipeline.decode, latent),
        }
        seconds = fastest(ways, args.times)
        first = min(until_preview(pipeline, args.steps) for _ in range(args.times))
        base, ours, watched = (seconds[way] for way in list(ways)[:3])
        print(f"{name}: {args.steps} steps with guidance {guidance:g}")
        for way, taken in seconds.items():
            print(f"{way:20} {1000 * taken:7.0f} ms   {taken / base:.3f} times as long as plain")
        print(f"the wrapper adds {1000 * (ours - base):.1f} ms (at most 1 % or 5 ms)")
        print(
            f"first preview after {1000 * first:.0f} ms (under 300), all previews {watched / ours - 1:.1%} (under 10 %)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
