"""Timing that survives a noisy machine: sides take turns, and the median counts."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Returns the median seconds of each side; every round runs each side once, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return {name: median(taken) for name, taken in seconds.items()}


def circumstances(*packages: str) -> str:
    """The machine, versions and date of a run, in one line."""
    with open("/proc/cpuinfo") as handle:
        model = next((line.split(":")[1].strip() for line in handle if line.startswith("model name")), "unknown")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    today = datetime.now(UTC).date().isoformat()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}, {today}"
