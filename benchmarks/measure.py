"""Timing that survives a noisy machine: sides take turns, and the median counts."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any


def take_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int = 5, check: Callable[[str, Any], None] | None = None
) -> dict[str, float]:
    """Returns the median seconds of each side; every round runs each side once, after one round that does not count.

    In that first round `check` is told what each side returned.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            begun = time.perf_counter()
            found = run()
            taken = time.perf_counter() - begun
            if number:
                seconds[name].append(taken)
            elif check is not None:
                check(name, found)
            # Freed here, what one side made is no burden to the next.
            del found
    return {name: median(taken) for name, taken in seconds.items()}


def resident(line: str = "VmRSS") -> int:
    """The bytes of memory this process holds; `VmHWM` is the most it ever held."""
    # Not getrusage, whose peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(entry.split()[1]) for entry in status if entry.startswith(f"{line}:"))


def circumstances(*packages: str) -> str:
    """The machine, versions and date of a run, in one line."""
    with open("/proc/cpuinfo") as handle:
        model = next((line.split(":")[1].strip() for line in handle if line.startswith("model name")), "unknown")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    today = datetime.now(UTC).date().isoformat()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}, {today}"


def command(
    name: str,
    about: str | None,
    parts: Collection[str],
    leads: int,
    lines: Callable[[int, list[str]], Iterable[str]],
    peak: Callable[[str, str], int],
) -> None:
    """Runs a benchmark of so many leads from the command line; `peak` is what it runs in a process of its own."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--leads", type=int, default=leads, help="how many leads (default: %(default)s)")
    parser.add_argument("--only", choices=parts, action="append", default=[], help="a part to run; may be repeated")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        print(peak(*asked.peak))
        return
    for line in lines(asked.leads, asked.only):
        print(line, flush=True)
