"""What the benchmarks share: the machine in words, medians of seconds, peak memory, figures as JSON."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def machine() -> str:
    """Processor, device, threads and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, the work of a GPU included."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median after one warm-up."""
    function()
    return statistics.median(seconds(function) for _ in range(repeats))


def peak_megabytes() -> float:
    """Most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_subprocess(script: str, *arguments: str) -> dict[str, Any]:
    """Runs a benchmark script that prints one JSON line, so that its peak memory is its own."""
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def write_figures(path: str | None, figures: dict[str, Any]) -> None:
    """Writes the figures where `--json` says."""
    if path:
        Path(path).write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n", encoding="utf-8")
