"""A list made by the processes of a real Dask cluster is the one made here, byte by byte, whatever becomes of them."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
from clusters import ALONE, Processes, cluster
from distributed import Client
from trained import Trained, simulate_leads
from typer.testing import CliRunner

from features import ModelError, TableError, UsageError
from features.times import to_us
from models import load_bundle
from models.cluster import connected
from serving.batch import ListSummary, score_input
from serving.parts import Unfinished

AS_OF = to_us("2026-01-15")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A scheduler and two workers."""
    with cluster(tmp_path_factory.mktemp("cluster"), workers=2) as processes:
        yield processes


def score(trained: Trained, output: Path, leads: Path | None = None, **options: Any) -> ListSummary:
    """Makes a list of many partitions."""
    given = {"as_of": AS_OF, "reasons": 1, "rows": 2_000} | options
    return score_input(load_bundle(trained.bundle), str(leads or trained.leads), output, **given)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_cluster_makes_the_same_bytes(trained: Trained, two: Processes, tmp_path: Path, ending: str) -> None:
    here, there = tmp_path / f"here{ending}", tmp_path / f"there{ending}"
    expected = score(trained, here)
    found = score(trained, there, dask=two.address)
    assert found.scored == expected.scored > 500
    assert (found.tiers, found.closed, found.later, found.last) == (
        expected.tiers, expected.closed, expected.later, expected.last
    )  # fmt: skip
    assert found.report == expected.report
    assert there.read_bytes() == here.read_bytes()
    assert not there.with_name(f"{there.name}.parts").exists()


def test_workers_that_see_no_common_folder_are_sent_the_rows(
    trained: Trained, two: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    score(trained, Path("here.csv"))
    # To every process this is a folder of its own.
    score(trained, Path("/proc/self/cwd/there.csv"), dask=two.address)
    assert Path("there.csv").read_bytes() == Path("here.csv").read_bytes()


def test_workers_keep_nothing_of_a_list_that_is_made(trained: Trained, two: Processes, tmp_path: Path) -> None:
    score(trained, tmp_path / "a.csv", dask=two.address)
    with Client(two.address, set_as_default=False) as client:
        kept = client.run(lambda dask_worker: [name for name in dask_worker.plugins if "touchstone" in name])
    assert [*kept.values()] == [[], []]


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Tables of which some rows cannot be taken, one of them for what another line holds."""
    leads = tmp_path / "leads"
    simulate_leads(leads, leads=300)
    touches = (leads / "touchpoints.csv").read_text().splitlines(keepends=True)
    for line in (7, 1_234, 3_210):
        touches[line] = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+Z", "soon", touches[line], count=1)
    touches.insert(99, "too,few\n")
    (leads / "touchpoints.csv").write_text("".join(touches))
    with (leads / "leads.csv").open("r+") as handle:
        header, first, *_ = handle.read().splitlines()
        at = header.split(",").index("created_at")
        handle.write(",".join("2025-01-01" if k == at else cell for k, cell in enumerate(first.split(","))) + "\n")
    return leads


@pytest.mark.parametrize("folder", ["", "/proc/self/cwd/"])
def test_rows_set_aside_are_told_with_their_lines(
    trained: Trained, two: Processes, dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = score(trained, Path("here.csv"), dirty, on_error="quarantine")
    aside = {path.name: path.read_bytes() for path in dirty.glob("*.quarantine.csv")}
    assert len(aside) == 2 and b"is there already (leads.csv line " in aside["leads.csv.quarantine.csv"]
    for path in dirty.glob("*.quarantine.csv"):
        path.unlink()
    found = score(trained, Path(f"{folder}there.csv"), dirty, on_error="quarantine", dask=two.address)
    assert {path.name: path.read_bytes() for path in dirty.glob("*.quarantine.csv")} == aside
    assert found.report == expected.report
    assert Path("there.csv").read_bytes() == Path("here.csv").read_bytes()


def test_a_bad_row_stops_the_list_with_the_same_words(
    trained: Trained, two: Processes, dirty: Path, tmp_path: Path
) -> None:
    told = []
    for address in (None, two.address):
        with pytest.raises(TableError, match=r"touchpoints.csv line \d+: ") as problem:
            score(trained, tmp_path / "a.csv", dirty, rows=100_000, dask=address)
        told.append(str(problem.value))
    assert told[0] == told[1]
    assert not (tmp_path / "a.csv").exists() and not (tmp_path / "a.csv.parts").exists()


def test_a_worker_that_is_killed_is_survived(trained: Trained, tmp_path: Path) -> None:
    score(trained, tmp_path / "here.csv")
    with cluster(tmp_path / "cluster", workers=2) as processes:
        shares: list[float] = []

        def kill(what: str, share: float) -> None:
            if "leads/s" in what:
                if not shares:
                    processes.running[1].send_signal(signal.SIGKILL)
                shares.append(share)

        score(trained, tmp_path / "there.csv", dask=processes.address, progress=kill)
        assert processes.running[1].wait() == -signal.SIGKILL
        assert processes.running[2].poll() is None
    # Most of the list was not done when the worker was lost.
    assert shares[0] < 0.3 and shares[-1] > 0.99
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_what_is_done_is_kept_where_the_cluster_gives_up(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.cluster._PATIENCE", 2)
    # One at a time: nothing is on its way while what is done is told.
    monkeypatch.setattr("serving.cluster._AHEAD", 1)
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    score(trained, here)
    there.write_text("the old list")
    with cluster(tmp_path / "cluster", 1, {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}) as processes:
        done: list[float] = []

        def kill_at_work() -> None:
            with Client(processes.address, set_as_default=False) as client:
                while not any(client.processing().values()):
                    sleep(0.05)
            processes.running[1].kill()

        def halt(what: str, share: float) -> None:
            if "leads/s" in what:
                done.append(share)
                if len(done) == 3:
                    processes.running[1].send_signal(signal.SIGSTOP)
                    Thread(target=kill_at_work).start()

        with pytest.raises(Unfinished, match=r"1 workers? died over partition \d+\. Give them more memory") as problem:
            score(trained, there, dask=processes.address, progress=halt)
        assert str(there) in str(problem.value) and "--resume" in str(problem.value)
        assert there.read_text() == "the old list"
        kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "there.csv.parts").glob("part-*.arrow")}
        assert len(kept) >= 3
        with pytest.raises(Unfinished, match=r"has had no worker for 2 seconds. Start some, and go on with --resume"):
            score(trained, there, dask=processes.address, resume=True)
        processes.running[0].kill()
    again: list[float] = []
    score(trained, there, resume=True, progress=lambda what, share: again.append(share))
    assert len(again) < 40
    assert there.read_bytes() == here.read_bytes()


def test_what_is_done_is_kept_where_the_scheduler_is_killed(trained: Trained, tmp_path: Path) -> None:
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    score(trained, here)
    there.write_text("the old list")
    with cluster(tmp_path / "cluster", workers=2) as processes:
        done: list[float] = []

        def kill(what: str, share: float) -> None:
            if "leads/s" in what:
                done.append(share)
                if len(done) == 3:
                    processes.running[0].kill()
                    processes.running[0].wait()

        with pytest.raises(Unfinished, match=r"the cluster tcp://\S+ is lost \(.+\)\. Go on with --resume") as problem:
            score(trained, there, dask=processes.address, progress=kill)
    assert str(there) in str(problem.value)
    assert there.read_text() == "the old list"
    assert done[-1] < 0.5
    again: list[float] = []
    score(trained, there, resume=True, progress=lambda what, share: again.append(share))
    assert again[0] > 0
    assert there.read_bytes() == here.read_bytes()


def test_a_worker_of_another_version_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "site" / "numba-0.1.dist-info" / "METADATA"
    other.parent.mkdir(parents=True)
    other.write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    with cluster(tmp_path / "cluster", 0) as processes:
        processes.start_worker({"PYTHONPATH": f"{ALONE['PYTHONPATH']}:{other.parents[1]}"})
        processes.wait()
        with pytest.raises(ModelError, match=r"the worker tcp://127.0.0.1:\d+ has numba 0.1, and not \d"):
            score(trained, tmp_path / "a.csv", dask=processes.address)
    assert not (tmp_path / "a.csv").exists()


def test_the_command_starts_processes_of_its_own(trained: Trained, tmp_path: Path) -> None:
    from touchstone import app

    options = ["--model", str(trained.bundle), "--as-of", "2026-01-15", "--json"]
    for name, more in (("here.csv", []), ("there.csv", ["--dask", "local"])):
        done = CliRunner().invoke(app, ["score", str(trained.leads), "--output", str(tmp_path / name), *options, *more])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "tpc://127.0.0.1:8786"])
def test_an_address_without_a_scheduler_is_refused(
    trained: Trained, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.cluster._ANSWERS", "1s")
    with pytest.raises(UsageError, match=f"--dask {address}: no scheduler answers there .* e.g. tcp://10.0.0.5:8786"):
        score(trained, tmp_path / "a.csv", dask=address)
    assert not (tmp_path / "a.csv.parts").exists()


def test_what_is_no_address_is_refused_before_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.Client", None)
    with (
        pytest.raises(UsageError, match=r"--dask nowhere: no scheduler answers there \(missing port"),
        connected("nowhere"),
    ):
        pass


def test_where_dask_is_missing_the_extra_is_named(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "serving.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"--dask needs Dask. Install it: pip install 'touchstone\[dask\]'"):
        score(trained, tmp_path / "a.csv", dask="local")
