"""Real servers on one core, and wrk on the other: what they answer in a second, how fast, and what it costs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from statistics import median

import httpx

ROOT = Path(__file__).parents[1]
SERVER_CORE, CLIENT_CORE = "0", "1"
_PATIENCE = 90.0
"""Seconds in which a server has to be ready."""
_TICKS = os.sysconf("SC_CLK_TCK")
_SCRIPT = """
-- Sends the bodies of a file in turn; @ in them becomes a number that no other request has.
local paths, bodies, number = {}, {}, 0
function init(args)
  prefix = args[2]
  for line in io.lines(args[1]) do
    local path, body = line:match("^(%S+)%s?(.*)$")
    paths[#paths + 1], bodies[#bodies + 1] = path, body
  end
end
function request()
  number = number + 1
  local i = (number - 1) % #paths + 1
  if bodies[i] == "" then return wrk.format("GET", paths[i]) end
  local body = bodies[i]:gsub("@", prefix .. number)
  return wrk.format("POST", paths[i], {["content-type"] = "application/json"}, body)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "us": %d, "p50": %f, "p99": %f, "errors": %d}', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def missing() -> str | None:
    """What has to be installed first, if anything."""
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is missing. Install it (Debian, Ubuntu: apt-get install {package}; Homebrew: {package})."
    if (os.cpu_count() or 1) < 2:
        return "two cores are needed: one for the server, one for wrk."
    return None


@dataclass(frozen=True)
class Load:
    """What one side did under load, or the medians of several rounds."""

    rate: float
    """Answers a second."""
    p50: float
    p99: float
    """Milliseconds."""
    cpu: float
    """Microseconds of processor time of the server for each answer."""

    @classmethod
    def middle(cls, rounds: Sequence[Load]) -> Load:
        """The median of each figure."""
        return cls(*(median(getattr(each, name) for each in rounds) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Server:
    """A server that runs, with all its processes."""

    process: subprocess.Popen[bytes]
    address: str
    seconds: float
    """From its start until it was ready."""

    def processes(self) -> list[int]:
        """The ids of its processes: the one that was started and all it started since."""
        found, new = [], [self.process.pid]
        while new:
            found += new
            tasks = [task for pid in new for task in Path(f"/proc/{pid}/task").glob("*/children")]
            new = [int(child) for task in tasks for child in task.read_text().split()]
        return found

    def cpu(self) -> float:
        """Seconds of processor time that it took so far."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.processes()]
        return sum(int(mine[11]) + int(mine[12]) for mine in fields) / _TICKS

    def resident(self) -> int:
        """The bytes of memory that it holds."""
        entries = [e for pid in self.processes() for e in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(1024 * int(entry.split()[1]) for entry in entries if entry.startswith("VmRSS:"))

    def load(self, requests: Path, seconds: int, connections: int = 16) -> Load:
        """Sends it the requests of a file, in turn: lines of a path and, where it is a POST, a body.

        Raises RuntimeError if an answer is an error.
        """
        script = requests.with_suffix(".lua")
        script.write_text(_SCRIPT)
        command = [
            "taskset", "-c", CLIENT_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s",
            "-s", str(script), self.address, "--", str(requests), f"{time.time_ns()}-",
        ]  # fmt: skip
        before = self.cpu()
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        taken = self.cpu() - before
        found = json.loads(told[told.index('{"requests"') :])
        if found["errors"] or not found["requests"]:
            raise RuntimeError(f"{self.address} failed {found['errors']} of {found['requests']} requests: {told}")
        return Load(
            1e6 * found["requests"] / found["us"], found["p50"] / 1e3, found["p99"] / 1e3,
            1e6 * taken / found["requests"],
        )  # fmt: skip


@contextmanager
def running(
    command: Sequence[str], ready: str, log: Path, *, env: Mapping[str, str] | None = None, core: str = SERVER_CORE
) -> Iterator[Server]:
    """Runs a command, in which {port} stands for one that is free, on one core until the end of the block.

    It is ready once the path `ready` answers 200; what it says goes to a file. Raises RuntimeError if it never is.
    """
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    pinned = ["taskset", "-c", core, *(word.format(port=port) for word in command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            pinned, cwd=log.parent, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            with httpx.Client() as client:
                while not _answers(client, address + ready):
                    if process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                        raise RuntimeError(f"{' '.join(pinned)} does not get ready:\n{log.read_text()[-2_000:]}")
                    time.sleep(0.01)
            yield Server(process, address, time.perf_counter() - begun)
        finally:
            _stop(process)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends it and all that it started."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def touchstone(model: Path, database: Path) -> list[str]:
    """The command of our service."""
    return [
        sys.executable, "-m", "touchstone", "serve", "--no-auth", "--port", "{port}", "--model", str(model),
        "--database", f"sqlite:///{database}",
    ]  # fmt: skip
