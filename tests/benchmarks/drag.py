"""Dragging the point on the latent plane: from the pointer's movement to the new picture, in Chromium.

    python tests/benchmarks/drag.py [--moves 40]

The page itself takes the times: from a `pointermove` to the `load` of the next picture in #decoded. Each
movement waits for the picture of the one before, as a slow finger does.
"""

import argparse
import statistics
import sys
from math import cos, pi, sin
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.machine import machine
from tests.served import chromium, opened, served

WATCH = """() => {
  const shown = () => document.querySelector("#decoded img");
  let moved = 0, last = shown().src;
  document.querySelector("#plane canvas").addEventListener("pointermove", () => { moved = performance.now(); }, true);
  new MutationObserver(async () => {
    const picture = shown(), began = moved;
    if (!began || !picture || picture.src === last) return;
    [moved, last] = [0, picture.src];
    await picture.decode();  // from now on it can be painted
    window.latencies.push(performance.now() - began);
  }).observe(document.querySelector("#decoded"), {subtree: true, childList: true, attributeFilter: ["src"]});
}"""


def drag(page, moves: int) -> list[float]:
    """Milliseconds of each movement along a circle on the plane."""
    box = page.locator("#plane canvas").bounding_box()
    for i in range(moves + 1):
        angle = 2 * pi * i / moves
        x, y = box["x"] + box["width"] * (0.5 + 0.3 * cos(angle)), box["y"] + box["height"] * (0.5 + 0.3 * sin(angle))
        page.mouse.move(x, y)
        if i == 0:
            page.mouse.down()
            page.wait_for_timeout(1000)  # the first point is new, too, but nothing has moved
            page.evaluate("window.latencies = []")
        else:
            page.wait_for_function(f"window.latencies.length >= {i}", timeout=60_000)
    page.mouse.up()
    return page.evaluate("window.latencies")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=40)
    moves = parser.parse_args().moves
    with served() as (url, _), chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        opened(page, f"{url}/?tab=vae_playground&lang=en")
        page.locator("#decoded img").wait_for()
        page.evaluate(WATCH)
        drag(page, 8)  # the first one loads torch and the model
        times = drag(page, moves)
    print(machine())
    print(f"drag to new picture: median {statistics.median(times):.0f} ms (under 100), "
          f"90 % within {statistics.quantiles(times, n=10)[-1]:.0f} ms, {len(times)} movements")  # fmt: skip


if __name__ == "__main__":
    main()
