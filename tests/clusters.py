"""A Dask cluster on this machine: a scheduler and workers, each a process of its own, as its commands start them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trained import ROOT

ALONE = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@dataclass
class Processes:
    """A scheduler and its workers; what they say is kept in a file each."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    nanny: bool = False
    """Whether each worker has one, which starts it again where it ends; both end where the nanny is killed."""
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self._wait_for(0, "Scheduler at:").split()[-1]

    def start(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts one in an empty folder of its own."""
        own = self.folder / str(len(self.running))
        own.mkdir(parents=True)
        with (own / "said").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command], cwd=own, stdout=said, stderr=said,
                env=os.environ | ALONE | self.env | (env or {}),
            )  # fmt: skip
        self.running.append(process)
        return process

    def start_worker(self, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a worker."""
        return self.start(
            "worker", self.address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1",
            "--nanny" if self.nanny else "--no-nanny", "--local-directory", str(self.folder), env=env,
        )  # fmt: skip

    def wait(self) -> None:
        """Waits until all workers have found the scheduler."""
        for number in range(1, len(self.running)):
            self._wait_for(number, "Registered to:")

    def _wait_for(self, number: int, words: str) -> str:
        said = self.folder / str(number) / "said"
        for _ in range(2400):
            text = said.read_text()
            if words in text:
                return next(line for line in text.splitlines() if words in line)
            assert self.running[number].poll() is None, text
            time.sleep(0.05)
        raise AssertionError(f"{words!r} was not said within two minutes, but:\n{text}")


@contextmanager
def cluster(
    folder: Path, workers: int, env: Mapping[str, str] | None = None, nanny: bool = False
) -> Iterator[Processes]:
    """Starts a scheduler on a port that is free, and workers; kills what is left of them at the end."""
    processes = Processes(folder, env or {}, nanny)
    try:
        processes.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        for _ in range(workers):
            processes.start_worker()
        processes.wait()
        yield processes
    finally:
        for process in processes.running:
            process.kill()
        for process in processes.running:
            process.wait()
