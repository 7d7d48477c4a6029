"""What the processes of a real Dask cluster train is as good as what is trained here, whatever becomes of them."""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from time import sleep

import mlflow
import numpy as np
import pytest
from clusters import ALONE, Processes, cluster
from distributed import Client
from tracked import empty_store, store
from typer.testing import CliRunner

from features import Cohort, Dataset, ModelError, TouchstoneError, UsageError
from features.feature import FeatureSet
from features.times import US_PER_DAY
from models import ModelSettings, candidates, load_bundle, save_bundle
from training import Experiment, train
from training.backtest import Backtest
from training.cluster import Cluster
from training.labels import Listings, bought_within, listings, still_open
from training.metrics import evaluate
from training.simulate import simulate
from training.train import fit

__all__ = ["empty_store", "store"]
pytestmark = pytest.mark.filterwarnings("ignore:.*noload:sqlalchemy.exc.SADeprecationWarning")

MONTHS = Experiment(horizon_days=60, origins=1, bootstrap=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leads")
    simulate(4_000, 400, seed=3).write(folder, horizon_days=60)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return Dataset.read(folder)


@pytest.fixture(scope="module")
def origin(dataset: Dataset) -> int:
    """An instant after which the whole horizon is known."""
    return dataset.recorded_until - MONTHS.horizon - 7 * US_PER_DAY


@pytest.fixture(scope="module")
def known(dataset: Dataset, origin: int) -> Dataset:
    return dataset.known_at(origin)


@pytest.fixture(scope="module")
def rows(known: Dataset, origin: int) -> Listings:
    return listings(known, origin, MONTHS)


@pytest.fixture(scope="module")
def features(known: Dataset) -> FeatureSet:
    return candidates()[-1].prepare(known).features


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A scheduler and two workers."""
    with cluster(tmp_path_factory.mktemp("cluster"), workers=2) as processes:
        yield processes


def when(processes: Processes, holds: Callable[[Client], bool], then: Callable[[], None]) -> Thread:
    """Does something as soon as the scheduler says that something holds."""

    def watch() -> None:
        with Client(processes.address, set_as_default=False) as client:
            while not holds(client):
                sleep(0.05)
        # Not before: it may be the scheduler that ends.
        then()

    thread = Thread(target=watch)
    thread.start()
    return thread


def growing(client: Client) -> bool:
    """Whether LightGBM is at work on two workers."""
    return sum(any("_train_part" in str(key) for key in keys) for keys in client.processing().values()) == 2


def test_the_features_are_those_of_one_machine_to_the_bit(
    known: Dataset, rows: Listings, features: FeatureSet, two: Processes
) -> None:
    here = features.compute(known, rows.cohort)
    with Cluster.connected(two.address) as there:
        shares = there.compute(features, known, rows.cohort)
        held = [share.result() for share in shares.futures]
    assert shares.matrix.tobytes() == here.tobytes()
    assert len(held) >= 4 and sorted(np.concatenate(shares.rows).tolist()) == list(range(len(rows.cohort)))
    for mine, matrix in zip(shares.rows, held, strict=True):
        assert matrix.tobytes() == here[mine].tobytes()
    leads = [set(rows.cohort.lead[mine].tolist()) for mine in shares.rows]
    assert sum(map(len, leads)) == len(set.union(*leads))


@pytest.mark.parametrize("name", ["lightgbm", "blend"])
def test_a_model_of_a_cluster_is_as_good_as_one_of_a_single_machine(
    dataset: Dataset, known: Dataset, origin: int, two: Processes, tmp_path: Path, name: str
) -> None:
    candidate = next(one for one in candidates() if one.name == name)
    untried = Backtest.nothing(MONTHS)
    here = fit(known, candidate, MONTHS, origin, untried)[0]("1")
    with Cluster.connected(two.address) as cluster:
        there = fit(known, candidate, MONTHS, origin, untried, cluster=cluster)[0]("1")
    assert cluster.notes == ["the features of the rows and the trees come from a Dask cluster of 2 workers"]
    asked = known.open_at(origin)
    full = Cohort(np.flatnonzero(dataset.created_at < origin)[asked.lead], asked.as_of)
    judged = still_open(dataset, full)
    said = {name: scorer.score(known, asked).probability[judged] for name, scorer in (("here", here), ("there", there))}
    assert not np.array_equal(said["here"], said["there"])
    bought = bought_within(dataset, full, MONTHS.horizon)[judged]
    said["base"] = np.full(len(bought), bought.mean())
    found = evaluate(bought, said, full.lead[judged], full.as_of[judged], capacity=0.1, bootstrap=300, seed=7)
    worse, gain = found.difference("there", "here", "log_loss"), found.difference("base", "here", "log_loss")
    assert gain.low > 0 and len(np.unique(full.lead[judged])) > 1_000
    assert worse.low <= 0 and abs(worse.value) < 0.1 * gain.value
    # The bundle is one like any other, and says nothing of where the workers are.
    again = load_bundle(save_bundle(there, tmp_path / "bundle"))
    assert (again.score(known, asked).probability[judged] == said["there"]).all()
    assert "127.0.0.1" not in "".join(there.model.to_files().values())


def test_workers_of_whom_one_saw_no_purchase_find_the_same_level(
    known: Dataset, rows: Listings, features: FeatureSet, two: Processes
) -> None:
    with Cluster.connected(two.address) as there:
        shares = there.compute(features, known, rows.cohort)
        label = np.zeros(len(rows.cohort))
        label[shares.rows[0]] = np.arange(len(shares.rows[0])) % 3 == 0
        trees = shares.grow(shares.matrix, label, ModelSettings(num_iterations=1, learning_rate=1e-6))
    assert trees.predict(shares.matrix) == pytest.approx(label.mean(), rel=1e-3)


def test_a_worker_killed_over_features_is_survived(
    known: Dataset, rows: Listings, features: FeatureSet, tmp_path: Path
) -> None:
    with cluster(tmp_path, workers=2) as processes, Cluster.connected(processes.address) as there:
        victim = processes.running[1]
        address = next(at for at, pid in there.client.run(os.getpid).items() if pid == victim.pid)
        victim.send_signal(signal.SIGSTOP)
        killed = when(processes, lambda client: bool(client.processing()[address]), victim.kill)
        shares = there.compute(features, known, rows.cohort)
        killed.join()
        assert victim.wait() == -signal.SIGKILL
    assert shares.matrix.tobytes() == features.compute(known, rows.cohort).tobytes()


def test_a_worker_killed_over_trees_is_survived(
    known: Dataset, rows: Listings, features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.cluster._GRACE", 2)
    label = (rows.ended < rows.followed) & rows.won
    settings = ModelSettings(num_iterations=1_000)
    with cluster(tmp_path, workers=2, nanny=True) as processes, Cluster.connected(processes.address) as there:
        shares = there.compute(features, known, rows.cohort)
        killed = when(processes, growing, processes.running[1].kill)
        trees = shares.grow(shares.matrix, label.astype(float), settings)
        killed.join()
        assert processes.running[2].poll() is None
    # On a busy machine the new worker can be late, so that it takes a third try.
    assert there.notes
    for note in there.notes:
        assert re.fullmatch(
            r"\d of \d workers of tcp://\S+ were lost while trees grew(, and 1 that waited for them ended)?; they were "
            "grown anew",
            note,
        )
    assert trees.booster.text.count("\nTree=") == 1_000
    assert trees.predict(shares.matrix)[label].mean() > 2 * trees.predict(shares.matrix)[~label].mean()


def test_where_workers_are_lost_again_and_again_it_is_said(
    known: Dataset, rows: Listings, features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.cluster._GRACE", 2)
    monkeypatch.setattr("training.cluster._TRIES", 1)
    with cluster(tmp_path, workers=2, nanny=True) as processes, Cluster.connected(processes.address) as there:
        shares = there.compute(features, known, rows.cohort)
        killed = when(processes, growing, processes.running[1].kill)
        with pytest.raises(TouchstoneError, match=r"1 times trees could not be grown to their end .*without --dask"):
            shares.grow(shares.matrix, rows.won.astype(float), ModelSettings(num_iterations=1_000))
        killed.join()


def test_where_all_workers_are_lost_it_is_said(
    known: Dataset, rows: Listings, features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.cluster._PATIENCE", 2)
    with cluster(tmp_path, workers=1) as processes, Cluster.connected(processes.address) as there:
        victim = processes.running[1]
        victim.send_signal(signal.SIGSTOP)
        killed = when(processes, lambda client: any(client.processing().values()), victim.kill)
        with pytest.raises(TouchstoneError, match=r"has had no worker for 2 seconds. Start some, and train again"):
            there.compute(features, known, rows.cohort)
        killed.join()
        with pytest.raises(TouchstoneError, match=r"has had no worker for 2 seconds"):
            there.workers()


@pytest.mark.parametrize("at", ["features", "trees"])
def test_where_the_scheduler_is_killed_it_is_said(
    known: Dataset, rows: Listings, features: FeatureSet, tmp_path: Path, at: str
) -> None:
    label = ((rows.ended < rows.followed) & rows.won).astype(float)
    with cluster(tmp_path, workers=2) as processes, Cluster.connected(processes.address) as there:
        scheduler = processes.running[0]
        if at == "features":
            processes.running[1].send_signal(signal.SIGSTOP)
            killed = when(processes, lambda client: any(client.processing().values()), scheduler.kill)
        with pytest.raises(TouchstoneError, match=r"the cluster is lost \(.+\)\. Train again, with --dask or without"):
            shares = there.compute(features, known, rows.cohort)
            killed = when(processes, growing, scheduler.kill)
            shares.grow(shares.matrix, label, ModelSettings(num_iterations=1_000))
        killed.join()


def test_where_dask_has_given_the_scheduler_up_it_is_said(
    known: Dataset, rows: Listings, features: FeatureSet, two: Processes
) -> None:
    with Cluster.connected(two.address) as there:
        shares = there.compute(features, known, rows.cohort)
        there.client.close()
        for ask in (
            lambda: there.compute(features, known, rows.cohort),
            lambda: shares.grow(shares.matrix, rows.won.astype(float), ModelSettings()),
            lambda: shares._after({"tcp://127.0.0.1:9"}, TimeoutError()),
        ):
            with pytest.raises(
                TouchstoneError, match=r"the cluster is lost \(the connection to its scheduler is closed"
            ):
                ask()


def test_a_worker_of_another_version_is_refused(
    known: Dataset, rows: Listings, features: FeatureSet, tmp_path: Path
) -> None:
    other = tmp_path / "site" / "numba-0.1.dist-info" / "METADATA"
    other.parent.mkdir(parents=True)
    other.write_text("Metadata-Version: 2.1\nName: numba\nVersion: 0.1\n")
    with cluster(tmp_path / "cluster", 0) as processes:
        processes.start_worker({"PYTHONPATH": f"{ALONE['PYTHONPATH']}:{other.parents[1]}"})
        processes.wait()
        with (
            Cluster.connected(processes.address) as there,
            pytest.raises(ModelError, match=r"the worker tcp://127.0.0.1:\d+ has numba 0.1, and not \d"),
        ):
            there.compute(features, known, rows.cohort)


def test_the_command_registers_what_a_cluster_made(folder: Path, two: Processes, store: Path, tmp_path: Path) -> None:
    from touchstone import app

    (tmp_path / "quick.toml").write_text("horizon_days = 60\norigins = 1\nbootstrap = 20\n")
    options = ["--experiment", str(tmp_path / "quick.toml"), "--dask", two.address, "--json"]
    done = CliRunner().invoke(app, ["train", str(folder), *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    made = "the features of the rows and the trees come from a Dask cluster of 2 workers"
    assert told["model"] == "blend" and made in told["notes"]
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.data.tags["cluster"] == made
    assert load_bundle(Path(told["folder"])).card.model == "blend"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere"])
def test_an_address_without_a_scheduler_is_refused(
    dataset: Dataset, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.cluster._ANSWERS", "1s")
    with pytest.raises(UsageError, match=f"--dask {address}: no scheduler answers there .* e.g. tcp://10.0.0.5:8786"):
        train(dataset, MONTHS, dask=address)


def test_where_dask_is_missing_the_extra_is_named(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "training.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"--dask needs Dask. Install it: pip install 'touchstone\[dask\]'"):
        train(dataset, MONTHS, dask="local")
