"""The partitions of a list scored by the processes of a Dask cluster, to the bit as on one machine.

Every worker is sent the model itself, as checked text, and not the name of a folder that it may not have; those that
come later are sent it too. Where workers see the folder of rows they read it, else each partition is sent to the one
that scores it. What a worker that is lost was at, Dask gives to another.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future as Promise
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker, wait

from features.errors import ModelError, TouchstoneError
from features.partitions import Partitions
from features.rejects import OnError
from models.bundle import GOLDEN, load_bundle, pack_bundle, save_bundle, unpack_bundle
from models.cluster import check_versions, connected, connection, patiently, versions
from models.scorer import Scorer
from serving.parts import Parts, Unfinished
from serving.scoring import Found, score_share

_PATIENCE = 60
"""Seconds that a cluster may be without any worker."""
_AHEAD = 2
"""Partitions that wait or are scored, for each thread of the cluster."""
T = TypeVar("T")
Answer = tuple[pa.Table, Found] | Literal["send", "home"]
"""What a worker says: the scores; or to send it the rows; or that the partition is for where the files are."""


@dataclass(frozen=True, eq=False)
class Cluster:
    """A Dask cluster whose workers have the model."""

    client: Client
    address: str
    model: str
    scorer: Scorer

    @classmethod
    @contextmanager
    def connected(cls, address: str, scorer: Scorer) -> Iterator[Self]:
        """Finds a scheduler, or starts a process for each core if the address is `local`, and hands out the model.

        Raises UsageError if no scheduler answers, and ModelError if a worker would not give the same bits.
        """
        with ExitStack() as stack:
            client = stack.enter_context(connected(address))
            model = _Model(_pack(scorer), versions())
            stack.callback(_forget, client, model.name)
            try:
                client.register_plugin(model)
            except OSError as problem:
                raise TouchstoneError(f"--dask {address}: {problem}. Look after that worker, and try again.") from None
            yield cls(client, address, model.name, scorer)

    def score(
        self,
        partitions: Partitions,
        todo: Sequence[int],
        parts: Parts,
        as_of: int,
        reasons: int,
        on_error: OnError,
    ) -> Generator[int, None, None]:
        """Scores and keeps partitions, in any order; gives the number of leads of each that is done."""
        rows, sent_too = _Rows(partitions), False
        remaining, waiting = deque(todo), dict[Future[Answer], tuple[int, bool]]()
        with self._losses(parts):
            self.client.register_plugin(rows)
        try:
            while remaining or waiting:
                with self._losses(parts):
                    while remaining and len(waiting) < self._room():
                        number = remaining.popleft()
                        tables = partitions.tables(number) if sent_too else None
                        future = self.client.submit(
                            score_partition, self.model, rows.name, number, tables, as_of, reasons, on_error, pure=False
                        )
                        waiting[future] = number, sent_too
                    some = self._patiently(
                        parts, lambda: wait([*waiting], timeout=_PATIENCE, return_when="FIRST_COMPLETED")
                    )
                for future in some.done:
                    number, sent = waiting.pop(future)
                    with self._losses(parts, number):
                        # A worker that is lost after its work loses that too.
                        answer = self._patiently(parts, partial(future.result, timeout=_PATIENCE))
                    if answer == "send" and not sent:
                        sent_too = True
                        remaining.appendleft(number)
                        continue
                    if isinstance(answer, str):
                        share, rejected = partitions.read(number, on_error)
                        answer = score_share(self.scorer, share, rejected, as_of, reasons)
                    part, found = answer
                    found = msgspec.structs.replace(found, rejected=tuple(partitions.placed(found.rejected)))
                    parts.put(number, part, found)
                    yield found.scored
        finally:
            with suppress(ConnectionError), connection(self.client):
                self.client.cancel([*waiting])
            _forget(self.client, rows.name)
            rows.close()

    def _room(self) -> int:
        """How many partitions may be on their way; workers come and go."""
        threads: Mapping[str, int] = self.client.nthreads()
        return _AHEAD * max(1, sum(threads.values()))

    def _patiently(self, parts: Parts, call: Callable[[], T]) -> T:
        """What a call gives that may time out. Raises Unfinished if no worker is there for too long."""
        return patiently(
            self.client,
            call,
            lambda: Unfinished(
                f"{parts.output}: the cluster {self.address} has had no worker for {_PATIENCE} seconds. Start "
                "some, and go on with --resume."
            ),
        )

    @contextmanager
    def _losses(self, parts: Parts, number: int | None = None) -> Iterator[None]:
        """Raises Unfinished for what the cluster loses for good."""
        try:
            with connection(self.client):
                yield
        except KilledWorker as problem:
            raise Unfinished(
                f"{parts.output}: {problem.allowed_failures + 1} workers died over partition {number}. Give them more "
                "memory, and go on with --resume."
            ) from None
        except ConnectionError as problem:
            raise Unfinished(
                f"{parts.output}: the cluster {self.address} is lost ({problem}). Go on with --resume, with --dask or "
                "without."
            ) from None


def score_partition(
    model: str, rows: str, number: int, tables: Sequence[pa.Table] | None, as_of: int, reasons: int, on_error: OnError
) -> Answer:
    """Scores a partition on a worker, which has the model and the rows' description under these names."""
    kept: Mapping[str, Any] = get_worker().plugins
    scorer: Scorer = kept[model].scorer.result()
    partitions: Partitions = kept[rows].partitions
    if tables is None:
        if not kept[rows].seen:
            return "send"
        try:
            tables = partitions.tables(number)
        except OSError:
            return "send"
    try:
        share, rejected = partitions.build(tables, number == 0, on_error)
    except TouchstoneError:
        # The message names the lines, which only those know who have the files.
        return "home"
    return score_share(scorer, share, rejected, as_of, reasons)


class _Model(WorkerPlugin):
    """A model that a worker makes ready while it does something else."""

    scorer: Promise[Scorer]
    """On a worker alone."""

    def __init__(self, packed: bytes, versions: Mapping[str, str]) -> None:
        self.packed = packed
        self.versions = versions
        # Another list with the same model may be in the making, and end earlier.
        self.name = f"touchstone-model-{hashlib.sha256(packed).hexdigest()[:12]}-{uuid.uuid4().hex}"

    def setup(self, worker: Worker) -> None:
        pool = ThreadPoolExecutor(1)
        self.scorer = pool.submit(self._load, worker.address)
        pool.shutdown(wait=False)

    def _load(self, address: str) -> Scorer:
        """Raises ModelError if what this worker computes would not be the same to the bit."""
        check_versions(address, self.versions)
        with TemporaryDirectory() as scratch:
            given = Path(scratch) / "given"
            given.mkdir()
            unpack_bundle(self.packed, given)
            scorer = load_bundle(given)
            again = save_bundle(scorer, Path(scratch) / "again")
            if (again / GOLDEN).read_bytes() != (given / GOLDEN).read_bytes():
                raise ModelError(
                    f"the worker {address} gives made-up leads other probabilities, by a bit at least: its processor "
                    "is of another kind. Leave it out."
                )
        return scorer


class _Rows(WorkerPlugin):
    """Where the rows of a list lie, and how they are read; a word there shows who sees the same folder."""

    partitions: Partitions
    seen: bool
    """Whether a worker sees the folder."""

    def __init__(self, partitions: Partitions) -> None:
        self.word = uuid.uuid4().hex
        self.name = f"touchstone-rows-{self.word}"
        folder = partitions.folder.absolute()
        self.partitions = replace(partitions, folder=folder, pieces=np.empty((0, 5), np.int64), apart=True)
        self._sign.write_text(self.word)

    @property
    def _sign(self) -> Path:
        return self.partitions.folder / f"seen-{self.word}"

    def setup(self, worker: Worker) -> None:
        self.seen = False
        with suppress(OSError):
            if self._sign.read_text() == self.word:
                self.partitions = replace(self.partitions, pieces=np.load(self.partitions.folder / "pieces.npy"))
                self.seen = True

    def close(self) -> None:
        """Takes the word away."""
        with suppress(OSError):
            self._sign.unlink()


def _forget(client: Client, name: str) -> None:
    with suppress(ConnectionError, ValueError), connection(client):
        client.unregister_worker_plugin(name)


def _pack(scorer: Scorer) -> bytes:
    with TemporaryDirectory() as scratch:
        return pack_bundle(save_bundle(scorer, Path(scratch) / "bundle"))
