"""What a machine may lack, as `touchstone doctor` tells it: how each thing is and, where it is not well, the mend."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from features.errors import TouchstoneError

OLDEST = (3, 11)
LEAST_DISK, LITTLE_DISK = 100_000_000, 1_000_000_000
LEAST_MEMORY, LITTLE_MEMORY = 200_000_000, 500_000_000
"""Bytes that are free: with less nothing can be done, or not for long."""
_CGROUP = Path("/sys/fs/cgroup")


class Check(msgspec.Struct, frozen=True):
    """What one check found.

    >>> Check("port", "ok", "8000 is free").line
    'ok    port: 8000 is free'
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    says: str
    """How it is; where it is not well, with the mend."""

    @property
    def line(self) -> str:
        """The check in one line."""
        return f"{self.state:<5} {self.name}: {self.says}"


def attempt(name: str, check: Callable[[], Check]) -> Check:
    """Does a check; one that cannot be done has failed.

    >>> def nobody_there() -> Check:
    ...     raise TouchstoneError("the database cannot be reached. Start it.")
    >>> attempt("database", nobody_there).state
    'fail'
    """
    try:
        return check()
    except TouchstoneError as problem:
        return Check(name, "fail", str(problem))
    except Exception as problem:
        return Check(name, "fail", f"{type(problem).__name__}: {problem}. Install Touchstone anew.")


def machine(folder: Path) -> Iterator[Check]:
    """Checks Python, the compiled features, and the room on disk (of a folder) and in memory."""
    yield attempt("python", _python)
    yield attempt("features", _features)
    yield attempt("disk", lambda: _disk(folder))
    yield attempt("memory", _memory)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        return Check("python", "fail", f"{version} is too old. Install Python {needed} or newer, and Touchstone there.")
    return Check("python", "ok", f"{version} at {sys.executable}")


def _features() -> Check:
    """Computes the features of a lead, and looks where their compiled code came from."""
    from features.__main__ import main
    from features.aggregates import run

    begun = time.perf_counter()
    main()
    seconds, folder = time.perf_counter() - begun, str(run.stats.cache_path)
    if not run.stats.cache_misses:
        return Check("features", "ok", f"compiled code comes from {folder}, in {seconds:.1f} s")
    if os.access(folder, os.W_OK):
        return Check("features", "ok", f"they were compiled just now, in {seconds:.0f} s, and are kept in {folder}")
    return Check(
        "features", "warn",
        f"they are compiled anew at each start, which took {seconds:.0f} s: {folder} cannot be written. Set "
        "NUMBA_CACHE_DIR to a folder that can, or run `python -m features` once where it can.",
    )  # fmt: skip


def _disk(folder: Path) -> Check:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return _room("disk", shutil.disk_usage(there).free, LEAST_DISK, LITTLE_DISK, f"in {there}", "Make room there.")


def _memory() -> Check:
    free = _available()
    if free is None:
        return Check("memory", "ok", "this system does not tell how much is free")
    mend = "End other programs, or allow this one more."
    return _room("memory", free, LEAST_MEMORY, LITTLE_MEMORY, "for this process", mend)


def _room(name: str, free: int, least: int, little: int, where: str, mend: str) -> Check:
    says = f"{free / 1e9:.1f} GB are free {where}"
    if free >= little:
        return Check(name, "ok", says)
    return Check(name, "warn" if free >= least else "fail", f"{says}; {little / 1e9:g} GB should be. {mend}")


def _available() -> int | None:
    """The bytes of memory that are to be had: of the machine, or what a container is allowed and does not use."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        entries = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(1024 * int(entries["MemAvailable"].split()[0]))
    allowed, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if allowed.exists() and (limit := allowed.read_text().strip()).isdecimal():
        found.append(int(limit) - int(used.read_text()))
    return min(found, default=None)
