"""What a figure was measured on, as one line."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processor, whether it computes in bfloat16 itself, cores, Python, and how busy the machine is: a figure of a
    busy machine says little."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
        name = (names[0] if names else name) + ("" if "avx512_bf16" in text else " without bfloat16")
    busy = f", {os.getloadavg()[0]:.1f} processes busy" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}{busy}"
