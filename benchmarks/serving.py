"""What the service answers in a second beside FastAPI doing nothing, MLflow and BentoML with the same model.

Each server has one core to itself and wrk the other; in every round each takes its turn, and the median counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.measure import circumstances
from benchmarks.servers import ROOT, Load, Server, missing, running, touchstone

TOUCHES = 10
"""Of each body and each stored lead."""
BODIES = 64
"""Different leads that are asked about in turn."""
BULK, BATCH = 1_000, 100
"""Leads of a bulk request, and touches of one that tells of them."""
ROUNDS = 5
SECONDS = 3
"""Of one turn."""
_STARTS = 5
_SATURATED = 60
_WARM_UP = 10


@dataclass
class Bench:
    """A trained model, leads to ask about, and the servers that were started so far."""

    folder: Path
    model: Path
    seconds: int
    rounds: int
    stack: ExitStack

    @cached_property
    def leads(self) -> list[dict[str, Any]]:
        """Simulated leads as bodies of `POST /v1/score`, each as of a second after the last of its ten touches."""
        tables = self.folder / "leads"
        touches = defaultdict(list)
        for row in _rows(tables / "touchpoints.csv"):
            touch = {name: row[name] for name in ("occurred_at", "channel", "action")}
            touches[row["lead_id"]].append({**touch, "value": float(row["value"]) if row["value"] else None})
        found = []
        for row in _rows(tables / "leads.csv"):
            mine = [touch for touch in touches[row["lead_id"]] if touch["occurred_at"] > row["created_at"]][:TOUCHES]
            if len(mine) == TOUCHES:
                attributes = {"industry": row["industry"] or None, "size": float(row["size"]) if row["size"] else None}
                found.append({
                    "lead_id": row["lead_id"], "as_of": _second_after(mine[-1]["occurred_at"]),
                    "created_at": row["created_at"], "attributes": attributes, "touchpoints": mine,
                })  # fmt: skip
        return found

    @cached_property
    def ours(self) -> Server:
        """Our service, with what it is asked about stored."""
        return self._start("touchstone", touchstone(self.model, self.folder / "touchstone.db"), "/readyz")

    @cached_property
    def noop(self) -> Server:
        """FastAPI doing nothing."""
        command = [
            sys.executable, "-m", "uvicorn", "benchmarks.noop:app", "--port", "{port}", "--no-access-log",
            "--log-level", "warning",
        ]  # fmt: skip
        return self._start("noop", command, "/openapi.json")

    @cached_property
    def mlflow(self) -> Server:
        """`mlflow models serve` with the same model."""
        from mlflow.pyfunc import save_model

        save_model(
            self.folder / "pyfunc", python_model=str(ROOT / "models" / "pyfunc.py"),
            artifacts={"bundle": str(self.model)}, pip_requirements=[],
        )  # fmt: skip
        scripts = Path(sysconfig.get_path("scripts"))
        command = [
            str(scripts / "mlflow"), "models", "serve", "-m", "pyfunc", "--env-manager", "local", "--port", "{port}",
            "--workers", "1",
        ]  # fmt: skip
        path = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return self._start("mlflow", command, "/ping", path)

    @cached_property
    def bento(self) -> Server:
        """BentoML with the same model, from an environment that goes with the folder."""
        environment = self.folder / "bentoml"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True, capture_output=True)
        python = environment / "bin" / "python"
        purelib = subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        )
        # It sees our packages, and installs beside them what it wants otherwise.
        (Path(purelib.strip()) / "touchstone.pth").write_text(sysconfig.get_path("purelib"))
        subprocess.run([python, "-m", "pip", "install", "--quiet", "bentoml"], check=True, capture_output=True)
        command = [str(python), "-m", "bentoml", "serve", "benchmarks.bento:Touchstone", "--port", "{port}"]
        told = {
            "TOUCHSTONE_MODEL": str(self.model), "BENTOML_HOME": str(self.folder / "bentoml-home"),
            "BENTOML_DO_NOT_TRACK": "true",
        }  # fmt: skip
        return self._start("bentoml", command, "/readyz", told)

    def _start(self, name: str, command: Sequence[str], ready: str, env: Mapping[str, str] | None = None) -> Server:
        return self.stack.enter_context(running(command, ready, self.folder / f"{name}.log", env=env))

    def requests(self, name: str, path: str, bodies: Sequence[Any] | None = None) -> Path:
        """A file of requests for wrk: one path with many bodies, or as it is."""
        file = self.folder / f"{name}.requests"
        file.write_text("\n".join(f"{path} {json.dumps(body)}" for body in bodies) if bodies else path)
        return file

    def take_turns(self, sides: Mapping[str, tuple[Server, Path]], connections: int = 16) -> dict[str, Load]:
        """Loads the servers one after another, in every round each; after one round that does not count."""
        rounds: dict[str, list[Load]] = {name: [] for name in sides}
        for number in range(self.rounds + 1):
            for name, (server, requests) in sides.items():
                load = server.load(requests, self.seconds, connections)
                if number:
                    rounds[name].append(load)
        return {name: Load.middle(mine) for name, mine in rounds.items()}


def lines(bench: Bench, parts: Sequence[str] = ()) -> Iterator[str]:
    """Measures some parts, or all, and gives the lines of the table in Markdown as they come."""
    yield f"### Serving: one core, {TOUCHES} touches a lead, {bench.rounds} rounds of {bench.seconds} s"
    yield ""
    yield circumstances("fastapi", "uvicorn", "msgspec", "numba", "lightgbm", "sqlalchemy", "mlflow")
    yield ""
    yield "| what | answers/s | p50 / p99 ms | CPU us | reached |"
    yield "|---|---:|---:|---:|---:|"
    for name in parts or PARTS:
        yield from PARTS[name](bench)


def _score(bench: Bench) -> Iterator[str]:
    """A lead in a body, beside a route that does nothing with it, at 16 connections."""
    leads = bench.leads[:BODIES]
    plain, why = bench.requests("score", "/v1/score", leads), bench.requests("why", "/v1/score?reasons=3", leads)
    found = bench.take_turns({
        "ours": (bench.ours, plain), "reasons": (bench.ours, why), "noop": (bench.noop, plain),
    })  # fmt: skip
    ours, reasons, noop = found["ours"], found["reasons"], found["noop"]
    yield _row("FastAPI + pydantic doing nothing", noop)
    yield _row(
        "/v1/score", ours, _least("FastAPI doing nothing", ours.rate / noop.rate, 1.3),
        _most("p99", ours.p99 / ours.p50, 4, "p50"),
    )  # fmt: skip
    yield _row("/v1/score?reasons=3", reasons, _least("FastAPI doing nothing", reasons.rate / noop.rate, 0.7))


def _peers(bench: Bench) -> Iterator[str]:
    """The same model behind MLflow and BentoML, which must answer with the same probability."""
    leads = bench.leads[:BODIES]
    asked: dict[str, tuple[Callable[[], Server], str, list[Any], Callable[[Any], float], float]] = {
        "mlflow models serve": (
            lambda: bench.mlflow, "/invocations", [{"dataframe_records": [lead]} for lead in leads],
            lambda said: said["predictions"][0]["probability"], 25,
        ),
        "BentoML": (lambda: bench.bento, "/score", [{"lead": lead} for lead in leads],
                    lambda said: said["probability"], 8),
    }  # fmt: skip
    plain = bench.requests("score", "/v1/score", leads)
    sides, goals = {"ours": (bench.ours, plain)}, {}
    truth = httpx.post(f"{bench.ours.address}/v1/score", json=leads[0]).json()["probability"]
    for name, (start, path, bodies, read, goal) in asked.items():
        try:
            server = start()
        except (subprocess.CalledProcessError, RuntimeError, ImportError) as problem:
            said = getattr(problem, "stderr", b"") or str(problem).encode()
            yield f"| {name} | skipped: {said.decode().strip().splitlines()[-1]} | | | |"
            continue
        answered = httpx.post(server.address + path, json=bodies[0], timeout=60).json()
        if read(answered) != truth:
            raise AssertionError(f"{name} answers {answered}, and we {truth!r}.")
        sides[name], goals[name] = (server, bench.requests(name.split()[0], path, bodies)), goal
    found = bench.take_turns(sides)
    for name, goal in goals.items():
        yield _row(name, found[name])
        ratio = found["ours"].rate / found[name].rate
        yield _row(f"/v1/score beside {name}", found["ours"], _least(name, ratio, goal))


def _stored(bench: Bench) -> Iterator[str]:
    """A lead of which SQLite holds everything."""
    leads = bench.leads[:BULK]
    with httpx.Client(base_url=bench.ours.address, timeout=60) as client:
        for lead in leads:
            told = {"created_at": lead["created_at"], "attributes": lead["attributes"]}
            client.put(f"/v1/leads/{lead['lead_id']}", json=told).raise_for_status()
            touches = [{"lead_id": lead["lead_id"], **touch} for touch in lead["touchpoints"]]
            client.post("/v1/touchpoints", json={"touchpoints": touches}).raise_for_status()
    paths = [f"/v1/leads/{lead['lead_id']}/score" for lead in leads]
    plain = bench.requests("stored", "\n".join(paths))
    why = bench.requests("stored-why", "\n".join(f"{path}?reasons=3" for path in paths))
    found = bench.take_turns({
        "ours": (bench.ours, plain), "reasons": (bench.ours, why),
        "noop": (bench.noop, bench.requests("score", "/v1/score", leads[:BODIES])),
    })  # fmt: skip
    noop = found["noop"].rate
    yield _row("stored lead", found["ours"], _least("FastAPI doing nothing", found["ours"].rate / noop, 0.5))
    yield _row("stored lead, reasons=3", found["reasons"],
               _least("FastAPI doing nothing", found["reasons"].rate / noop))  # fmt: skip


def _bulk(bench: Bench) -> Iterator[str]:
    """A thousand leads in one body."""
    leads = (bench.leads * (BULK // len(bench.leads) + 1))[:BULK]
    requests = bench.requests("bulk", "/v1/score/bulk", [{"leads": leads}])
    found = bench.take_turns({"ours": (bench.ours, requests)}, connections=2)["ours"]
    yield _row(f"bulk of {BULK:,} leads, 2 connections", found, _rate("leads", BULK * found.rate, 15_000))


def _ingest(bench: Bench) -> Iterator[str]:
    """New touches of many leads, acknowledged when they are on disk."""
    leads = bench.leads
    now = datetime.now(UTC).isoformat()
    bodies = []
    for number in range(20):
        touches = []
        for k in range(BATCH):
            lead = leads[(number * BATCH + 7 * k) % len(leads)]
            touch = {**lead["touchpoints"][k % TOUCHES], "occurred_at": now}
            touches.append({"lead_id": lead["lead_id"], **touch, "message_id": f"{k}-@"})
        bodies.append({"touchpoints": touches})
    requests = bench.requests("ingest", "/v1/touchpoints", bodies)
    found = bench.take_turns({"ours": (bench.ours, requests)})["ours"]
    yield _row(f"ingest, batches of {BATCH}, on disk", found, _rate("touches", BATCH * found.rate, 5_000))


def _start(bench: Bench) -> Iterator[str]:
    """From the start of the process until /readyz answers, with all caches warm."""
    taken = []
    for number in range(_STARTS + 1):
        database = bench.folder / "start.db"
        with running(touchstone(bench.model, database), "/readyz", bench.folder / "start.log") as server:
            if number:
                taken.append(server.seconds)
    seconds = median(taken)
    yield f"| start until ready | | | | {seconds:.2f} s {_met('1.5 s', seconds <= 1.5)} |"


def _memory(bench: Bench) -> Iterator[str]:
    """Memory of the service after its core was busy for a while, and a minute later."""
    requests = bench.requests("score", "/v1/score", bench.leads[:BODIES])
    bench.ours.load(requests, _WARM_UP)
    before = bench.ours.resident()
    found = bench.ours.load(requests, _SATURATED)
    after = bench.ours.resident()
    grown = after / before - 1
    yield _row(
        f"{_SATURATED} s without a pause", found,
        f"{before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after {_met('+2 %', grown <= 0.02)}",
    )  # fmt: skip


PARTS: dict[str, Callable[[Bench], Iterator[str]]] = {
    "score": _score,
    "peers": _peers,
    "stored": _stored,
    "bulk": _bulk,
    "ingest": _ingest,
    "start": _start,
    "memory": _memory,
}


def _row(what: str, load: Load, *reached: str) -> str:
    return f"| {what} | {load.rate:,.0f} | {load.p50:.2f} / {load.p99:.2f} | {load.cpu:,.0f} | {', '.join(reached)} |"


def _least(name: str, ratio: float, goal: float | None = None) -> str:
    return f"{ratio:.2f}x {name}" + ("" if goal is None else f" {_met(f'{goal:g}x', ratio >= goal)}")


def _most(name: str, ratio: float, goal: float, of: str) -> str:
    return f"{name} {ratio:.1f}x {of} {_met(f'at most {goal:g}x', ratio <= goal)}"


def _rate(what: str, rate: float, goal: float) -> str:
    return f"{rate:,.0f} {what}/s {_met(f'{goal:,.0f}', rate >= goal)}"


def _met(goal: str, met: bool) -> str:
    return f"(goal {goal})" if met else f"(goal {goal}: missed)"


def _second_after(instant: str) -> str:
    return (datetime.fromisoformat(instant) + timedelta(seconds=1)).isoformat()


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle)


def _prepare(folder: Path, model: Path | None) -> Path:
    """Simulates leads and, unless there is a model to serve, trains one as `touchstone train` does."""

    def run(*arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
        command = [sys.executable, "-m", "touchstone", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

    run("simulate", "leads", "--leads", "3000", "--days", "400", "--seed", "3")
    if model is not None:
        return model.resolve()
    run("train", "leads", "--horizon", "60d")
    return folder / "models" / "trained" / "champion"


def main() -> None:
    """Runs the benchmark: `make bench-serving`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", default=[], help="a part to run; may be repeated")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of one turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each side (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="the folder of a model to serve; left out: one is trained")
    asked = parser.parse_args()
    if problem := missing():
        sys.exit(f"error: {problem}")
    with TemporaryDirectory(prefix="touchstone-bench-") as name, ExitStack() as stack:
        bench = Bench(Path(name), _prepare(Path(name), asked.model), asked.seconds, asked.rounds, stack)
        for line in lines(bench, asked.only):
            print(line, flush=True)


if __name__ == "__main__":
    main()
