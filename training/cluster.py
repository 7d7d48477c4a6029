"""Training on the processes of a Dask cluster: the features of the rows, and LightGBM's trees.

The rows are parted by the hash of their lead, and each share's features are computed where they stay. On these shares
`lightgbm.dask` grows the trees together. What a worker that is lost was at, Dask gives to another, but LightGBM cannot
go on without one that took part: the trees are grown anew on those that are left.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from asyncio import CancelledError as CancelledByLoop
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

import dask
import numpy as np
import pyarrow as pa
from distributed import Client, Future, KilledWorker, Worker, get_worker, wait

from features.errors import TouchstoneError
from features.feature import FeatureSet
from features.history import Bools, Cohort, Dataset, Floats, Ints, Matrix
from features.partitions import lead_hashes
from models.booster import Booster
from models.cluster import check_versions, connected, connection, patiently, versions
from models.model import Model, Recipe
from models.settings import ModelSettings
from models.trees import LightGBM, columns, parameters
from training.backtest import Progress, learn
from training.labels import Listings

_PATIENCE = 60
"""Seconds that a cluster may be without any worker."""
_TRIES = 3
"""How often trees are begun, for each time that a worker is lost."""
_LOOK = 0.5
"""Seconds between two looks at whether a worker is lost."""
_GRACE = 10
"""Seconds in which those that grew trees with one that is lost may find that out."""
_ROWS = 100_000
"""Touches and rows of a share, about."""
_LARGE = {"distributed.admin.large-graph-warning-threshold": "1GB"}
"""Shares go through the scheduler, which can then give them to another worker; they are as small as it likes them."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cluster:
    """A Dask cluster, and what is to be said of how it was."""

    client: Client
    address: str
    tell: Progress
    notes: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def connected(cls, address: str, tell: Progress | None = None) -> Iterator[Self]:
        """Finds a scheduler, or starts a process for each core if the address is `local`; `tell` hears of progress.

        Raises UsageError if no scheduler answers.
        """
        with connected(address) as client, dask.config.set(_LARGE):
            yield cls(client, address, tell or _silent)

    def compute(self, features: FeatureSet, known: Dataset, cohort: Cohort) -> Shares:
        """Computes the features of a cohort, to the bit as `features` does; they stay on the workers too.

        Raises ModelError if a worker has other versions, and TouchstoneError if the cluster is lost.
        """
        futures, program, wanted = [], features.to_json(), versions()
        with self._losses():
            begun = self._shares_of(known, cohort)
            for rows in begun:
                leads, lead = np.unique(cohort.lead[rows], return_inverse=True)
                share = known.take(leads), Cohort(lead, cohort.as_of[rows])
                futures.append(self.client.submit(compute_share, program, *share, wanted, pure=False))
            matrix = np.empty((len(cohort), len(features.names)), np.float32)
            waiting = dict(zip(futures, begun, strict=True))
            while waiting:
                self.tell(f"features on {self.address}", 1 - len(waiting) / len(futures))
                some = patiently(
                    self.client,
                    lambda: wait([*waiting], timeout=_PATIENCE, return_when="FIRST_COMPLETED"),
                    self._nobody,
                )
                for future in some.done:
                    # A worker that is lost after its work loses that too.
                    rows = waiting.pop(future)
                    matrix[rows] = patiently(self.client, partial(future.result, timeout=_PATIENCE), self._nobody)
        return Shares(self, matrix, begun, futures)

    def learn(self, recipe: Recipe, known: Dataset, rows: Listings) -> tuple[Matrix, Model]:
        """Fits a recipe on past listings as `backtest.learn` does; returns the features of all of them, and the model.

        The log-odds that are linear are fitted here: a few Newton steps over rows that are here anyway.
        """
        workers = len(self.workers())
        shares = self.compute(recipe.features, known, rows.cohort)
        model = learn(recipe.grown(shares.grow), known, rows, shares.matrix)
        what = "the features of the rows" if recipe.growing is None else "the features of the rows and the trees"
        self.notes.append(f"{what} come from a Dask cluster of {workers} workers")
        return shares.matrix, model

    def workers(self) -> set[str]:
        """The addresses of those that are there; waits for one if there is none."""
        until = time.monotonic() + _PATIENCE
        with self._losses():
            while not (found := {*self.client.nthreads()}):
                if time.monotonic() > until:
                    raise self._nobody()
                time.sleep(_LOOK)
        return found

    def _shares_of(self, known: Dataset, cohort: Cohort) -> list[Ints]:
        """The rows of each share, in order: all rows of a lead are in one."""
        threads = sum(self.client.nthreads().values())
        count = max(1, 2 * threads, math.ceil((len(known.history) + len(cohort)) / _ROWS))
        share = (lead_hashes(pa.array(known.ids, pa.large_string())) % np.uint64(count))[cohort.lead]
        parted = np.split(np.argsort(share, kind="stable"), np.cumsum(np.bincount(share.astype(int), minlength=count)))
        return [rows for rows in parted if len(rows)]

    def _nobody(self) -> TouchstoneError:
        return TouchstoneError(
            f"--dask {self.address}: the cluster has had no worker for {_PATIENCE} seconds. Start some, and train "
            "again."
        )

    @contextmanager
    def _losses(self) -> Iterator[None]:
        """Raises TouchstoneError for what the cluster loses for good."""
        try:
            with connection(self.client):
                yield
        except KilledWorker as problem:
            raise TouchstoneError(
                f"--dask {self.address}: {problem.allowed_failures + 1} workers died over the same share of the rows. "
                "Give them more memory, and train again."
            ) from None
        except ConnectionError as problem:
            raise TouchstoneError(
                f"--dask {self.address}: the cluster is lost ({problem}). Train again, with --dask or without."
            ) from None


@dataclass(frozen=True, eq=False)
class Shares:
    """The features of a cohort, here and parted among the workers of a cluster."""

    cluster: Cluster
    matrix: Matrix
    """(n, F), in the order of the cohort."""
    rows: Sequence[Ints]
    """Which rows each share holds."""
    futures: Sequence[Future[Matrix]]

    def grow(self, matrix: Matrix, label: Floats, settings: ModelSettings) -> LightGBM:
        """Fits trees where the shares are; `matrix` holds the first rows of what was computed, and (n,) labels theirs.

        Raises TouchstoneError if workers were lost over each of several tries, or all were.
        """
        if not np.shares_memory(matrix, self.matrix) or matrix.ctypes.data != self.matrix.ctypes.data:
            raise ValueError("the rows are not the first of those that the cluster computed")
        cause: BaseException | None = None
        for _ in range(_TRIES):
            workers = self.cluster.workers()
            self.cluster.tell(f"trees on {len(workers)} workers", 1.0)
            try:
                return self._try(label, settings, workers)
            except TouchstoneError:
                raise
            except (Exception, CancelledByLoop) as problem:
                cause = problem
            self.cluster.notes.append(self._after(workers, cause))
        raise TouchstoneError(
            f"--dask {self.cluster.address}: {_TRIES} times trees could not be grown to their end ({cause}). Look "
            "after the workers, or train without --dask."
        ) from cause

    def _try(self, label: Floats, settings: ModelSettings, workers: set[str]) -> LightGBM:
        """Grows trees once. Raises whatever went wrong, _LostError if a worker that was there is gone."""
        client = self.cluster.client
        assert client.scheduler is not None
        # All that a try has begun ends with a client of its own.
        with ThreadPoolExecutor(1) as pool, Client(client.scheduler.address, set_as_default=False) as own:
            promise = pool.submit(self._grown, own, label, settings)
            while not promise.done():
                with suppress(TimeoutError):
                    return promise.result(timeout=_LOOK)
                if lost := workers - {*client.nthreads()}:
                    raise _LostError(f"lost: {', '.join(sorted(lost))}")
            return promise.result()

    def _grown(self, own: Client, label: Floats, settings: ModelSettings) -> LightGBM:
        import dask.array as da
        import lightgbm
        from dask.delayed import delayed

        lightgbm.register_logger(_quiet())
        count, width = len(label), self.matrix.shape[1]
        # That of all rows; LightGBM would take the mean of what the workers find, which is none where no lead bought.
        start = math.log(label.mean() / (1 - label.mean()))
        shares = [(rows, future, rows < count) for rows, future in zip(self.rows, self.futures, strict=True)]
        shares = [share for share in shares if share[2].any()]

        def parted(make: Callable[[Ints, Future[Matrix], Bools], Any], *shape: int) -> Any:
            parts = (da.from_delayed(make(*share), (int(share[2].sum()), *shape), np.float32) for share in shares)
            return da.concatenate([*parts])

        chosen = parameters(settings, count)
        # A worker that sees few of a column's values must not leave the column out.
        chosen |= {"n_estimators": chosen.pop("num_iterations"), "feature_pre_filter": False}
        del chosen["num_threads"]
        model = lightgbm.DaskLGBMRegressor(client=own, **chosen)
        with own.as_current():
            model.fit(
                parted(lambda rows, future, mine: delayed(_chosen)(Future(future.key, own), mine), width),
                parted(lambda rows, future, mine: delayed(label[rows[mine]].astype(np.float32))),
                init_score=parted(lambda rows, future, mine: delayed(np.full)(mine.sum(), start)),
                feature_name=columns(width),
            )
        return LightGBM(Booster.from_text(_text(model.booster_, start)))

    def _after(self, workers: set[str], cause: BaseException) -> str:
        """Makes the workers that are left ready for another try; says what happened to those that there were."""
        with self.cluster._losses():
            ended = self._let_go()
            lost = workers - ended - {*self.cluster.client.nthreads()}
        if not lost:
            return f"trees could not be grown on {self.cluster.address} ({cause}); they were grown anew"
        also = f", and {len(ended)} that waited for them ended" if ended else ""
        return (
            f"{len(lost)} of {len(workers)} workers of {self.cluster.address} were lost while trees grew{also}; they "
            "were grown anew"
        )

    def _let_go(self) -> set[str]:
        """Ends workers whom LightGBM does not let go, for it may wait for ever for one that is gone; says which.

        Their nanny starts them again, and Dask gives what else they were at to others.
        """
        client, until = self.cluster.client, time.monotonic() + _GRACE
        while held := {worker for worker, at in client.run(_is_growing, on_error="ignore").items() if at is True}:
            if time.monotonic() > until:
                client.run(_end, workers=[*held], on_error="ignore")
                while held & {*client.nthreads()}:
                    time.sleep(_LOOK)
                return held
            time.sleep(_LOOK)
        return set()


class _LostError(Exception):
    """A worker that may have taken part is gone."""


def compute_share(program: str, share: Dataset, cohort: Cohort, wanted: Mapping[str, str]) -> Matrix:
    """Computes the features of a share of the leads on a worker, which has to have the versions that are wanted."""
    check_versions(get_worker().address, wanted)
    # Fresh arrays: for those that came over the network, which cannot be written, the kernel would be compiled anew.
    return FeatureSet.from_json(program).compute(share.take(np.arange(len(share))), cohort)


def _chosen(matrix: Matrix, mine: Bools) -> Matrix:
    return matrix if mine.all() else matrix[mine]


def _is_growing(dask_worker: Worker) -> bool:
    return any("_train_part" in str(key) for key in [*dask_worker.active_threads.values()])


def _end(dask_worker: Worker) -> None:
    dask_worker.loop.call_later(_LOOK, os._exit, 1)


def _text(booster: Any, start: float) -> str:
    """The text of trees that began at some log-odds, with these in the first tree and no workers' addresses."""
    for leaf in range(booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]):
        booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) + start)
    text: str = booster.model_to_string()
    return re.sub(r"^\[(machines: |local_listen_port: |num_machines: |time_out: ).*\]\n", "", text, flags=re.MULTILINE)


def _quiet() -> logging.Logger:
    """What LightGBM tells of ports and of the number of threads is of no use to anybody."""
    logger = logging.getLogger("touchstone.lightgbm")
    logger.setLevel(logging.ERROR)
    return logger


def _silent(what: str, share: float) -> None:
    pass
