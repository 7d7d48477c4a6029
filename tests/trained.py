"""A small simulated world, a bundle of every model trained on it, and a server: made once for all tests of a run."""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest

ROOT = Path(__file__).parents[1]
HORIZON_DAYS = 60


@dataclass(frozen=True)
class Trained:
    """Where the tables and the bundles are."""

    leads: Path
    bundles: Path

    @property
    def bundle(self) -> Path:
        return self.bundles / "lightgbm"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Tables of 3,000 leads with aliases, facts, late outcomes and late touches, and a bundle of each model."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # The workers' folders lie beside each other; who comes first trains for all.
        folder = folder.parent
    made = Trained(folder / "trained" / "leads", folder / "trained" / "bundles")
    with (folder / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.bundles.exists():
            simulate_leads(made.leads)
            _train(made.leads, made.bundles)
    return made


def simulate_leads(folder: Path, leads: int = 3_000, seed: int = 3) -> None:
    """Writes tables that have all that real ones have and simulated ones have not."""
    from training.simulate import simulate

    simulate(leads, 400, seed=seed).write(folder, horizon_days=HORIZON_DAYS)
    # The simulated logs are in order and in time, and no two touches are equal; real ones are otherwise.
    rng = np.random.default_rng(0)
    for name, share, days in (("touchpoints", 0.05, 3), ("attributes", 0.3, 20)):
        path = folder / f"{name}.csv"
        rows = pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types={"occurred_at": pa.string()}))
        if name == "touchpoints":
            again = rows.slice(0, len(rows) // 20)
            ids = pc.binary_join_element_wise(again["message_id"], "again", "-")
            rows = pa.concat_tables([rows, again.set_column(again.column_names.index("message_id"), "message_id", ids)])
        at = rows["occurred_at"].cast(pa.timestamp("us", "UTC"))
        late = pc.add(at, pa.scalar(days * 86_400_000_000, pa.duration("us")))
        recorded = pc.if_else(pa.array(rng.random(len(rows)) < share), late, at)
        text = pc.strftime(recorded, format="%Y-%m-%dT%H:%M:%SZ")
        rows = rows.set_column(rows.column_names.index("recorded_at"), "recorded_at", text)
        pa.csv.write_csv(rows.take(pa.array(rng.permutation(len(rows)))), path)


def _train(leads: Path, bundles: Path) -> None:
    from features import Dataset
    from models import candidates, save_bundle, trees
    from training import Experiment, backtest
    from training.train import fit

    dataset = Dataset.read(leads)
    until = dataset.last_known + 1
    experiment = Experiment(horizon_days=HORIZON_DAYS, origins=1, snapshot_every_days=HORIZON_DAYS, bootstrap=10)
    competing = candidates()
    scratch = bundles.with_name("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        # On a busy machine LightGBM's threads wait for each other far longer than these few rows take.
        patch.setitem(trees.PARAMETERS, "num_threads", 1)
        result = backtest(dataset, experiment, competing, until=until)
        for candidate in competing:
            make, _ = fit(dataset.known_at(until), candidate, experiment, until, result)
            save_bundle(make("3"), scratch / candidate.name)
    scratch.rename(bundles)


@contextmanager
def serving(
    bundle: Path,
    *options: str,
    python: Sequence[str] = (sys.executable,),
    root: Path = ROOT,
    env: Mapping[str, str] | None = None,
    no_auth: bool = True,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a real server on a port that is free; gives the process and its address once it is ready."""
    scratch = TemporaryDirectory()
    database = [] if "--database" in options else ["--database", f"sqlite:///{scratch.name}/touchstone.db"]
    auth = ["--no-auth"] if no_auth else []
    command = [*python, "-m", "touchstone", "serve", "--model", str(bundle), "--port", "0", *database, *auth, *options]
    process = subprocess.Popen(command, cwd=root, env=env, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stderr.readline()
        address = re.search(r"http://\S+", said)
        assert address, said + process.stderr.read()
        for _ in range(600):
            with suppress(httpx.TransportError):
                if httpx.get(f"{address[0]}/readyz", timeout=300).status_code == 200:
                    break
            time.sleep(0.1)
        else:
            pytest.fail("the server is not ready after a minute")
        yield process, address[0]
    finally:
        process.terminate()
        try:
            process.communicate(timeout=120)
        finally:
            process.kill()
            scratch.cleanup()


@pytest.fixture(scope="session")
def server(trained: Trained) -> Iterator[httpx.Client]:
    """A client of a server that serves the LightGBM bundle."""
    with serving(trained.bundle) as (_, address), httpx.Client(base_url=address, timeout=300) as client:
        yield client
