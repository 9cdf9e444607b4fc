"""The app as people start it, a process of its own on a free port; and the browser they look at it with."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*args: str | Path, cwd: str | Path = ROOT) -> subprocess.Popen:
    """python *args, its output as text in pipes."""
    command = [sys.executable, *map(str, args)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(url: str, process: subprocess.Popen, timeout: float = 120) -> None:
    """Until url answers; AssertionError when the process ended first or the time is over."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        try:
            urllib.request.urlopen(url, timeout=timeout).close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise AssertionError(f"{url} did not answer within {timeout} s")


@contextmanager
def served(
    *args: str | Path, script: str = "apps/main.py", cwd: str | Path = ROOT
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Yields the address and the process of a running app; ends it afterwards."""
    port = free_port()
    process = start(ROOT / script, "--no-browser", "--port", str(port), *args, cwd=cwd)
    try:
        wait_for(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or Playwright's own where that is installed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(page: Page, url: str) -> None:
    """Until the link has been read, and the fonts are there."""
    page.goto(url)
    page.locator("html[data-ready='1']").wait_for(timeout=60_000)
    page.evaluate("document.fonts.ready")
