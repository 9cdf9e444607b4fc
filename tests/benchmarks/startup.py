"""From starting the process to the first page, against a bare gradio app with five tabs; memory at rest.

    python tests/benchmarks/startup.py [--times 5]

Both are started in turn, so that a busy machine slows both; the figures are medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil

from tests.benchmarks.machine import machine
from tests.served import ROOT, free_port, start, wait_for

BARE = """
import sys
import gradio as gr

with gr.Blocks(analytics_enabled=False) as demo:
    with gr.Tabs():
        for i in range(5):
            with gr.Tab(f"Tab {i}"):
                name = gr.Textbox(label="Name")
                gr.Slider(0, 1, label="Amount")
                out = gr.Image()
                gr.Button("Run").click(lambda name: None, name, out)
demo.launch(server_port=int(sys.argv[-1]), ssr_mode=False, quiet=True)
"""


class Start(NamedTuple):
    seconds: float  # from the process to the first page
    cpu: float  # seconds of computing until then; hardly depends on what else the machine does
    memory: int  # bytes resident after a few pages
    torch: bool  # whether its libraries are mapped


def first_page(*args: str | Path) -> Start:
    """Measures `python *args --port PORT`."""
    port = free_port()
    began = time.perf_counter()
    process = start(*args, "--port", str(port))
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        seconds = time.perf_counter() - began
        running = psutil.Process(process.pid)
        cpu = sum(running.cpu_times()[:2])
        for _ in range(3):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
        torch = any("libtorch" in region.path for region in running.memory_maps())
        return Start(seconds, cpu, running.memory_info().rss, torch)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        programs = {"bare": [bare], "trugbild": [ROOT / "apps" / "main.py", "--no-browser"]}
        for program in programs.values():  # once without a clock: compiles modules, fills the disk's cache
            first_page(*program)
        runs = {name: [] for name in programs}
        for _ in range(times):
            for name, program in programs.items():
                runs[name].append(first_page(*program))
    ours, bare = (Start(*map(statistics.median, zip(*runs[name], strict=True))) for name in ("trugbild", "bare"))
    print(machine())
    print(f"first page: {ours.seconds:.2f} s, a bare app of five tabs {bare.seconds:.2f} s")
    print(f"ratio: {ours.seconds / bare.seconds:.2f} (at most 1.15); of processor time: {ours.cpu / bare.cpu:.2f}")
    print(f"memory at rest: {ours.memory / 1e6:.0f} MB (under 350), bare {bare.memory / 1e6:.0f} MB")
    print(f"torch at rest: {'loaded' if any(run.torch for run in runs['trugbild']) else 'not loaded'}")


if __name__ == "__main__":
    main()
