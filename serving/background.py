"""Work beside the requests, again and again: by one worker of all, whoever holds the lease in the store, or by each."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeAlias

from anyio.to_thread import run_sync

from serving.log import Log, fault
from serving.store import Store

Work: TypeAlias = Callable[[], Awaitable[None]]
SYSTEM = "_touchstone"
"""The tenant whose leases and records are the service's own."""
_BEAT = 5.0
_TERM = 3 * _BEAT
"""Seconds after which another worker takes over from one that is no more."""


@dataclass(frozen=True)
class _Job:
    seconds: float
    name: str
    work: Work
    alone: bool
    """Whether one worker of all does it."""


def in_thread(work: Callable[[], Any]) -> Work:
    """Work that blocks, done in a thread."""

    async def done() -> None:
        thread = asyncio.ensure_future(run_sync(work))
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            # A thread cannot be stopped, and the store must not be closed beneath it.
            with suppress(Exception):
                await asyncio.wait_for(thread, _BEAT)
            raise

    return done


class Background:
    """Jobs that run every so often while the service does.

    >>> background = Background()
    >>> async def sweep(): ...
    >>> background.every(900, "sweep", sweep)
    >>> background.names
    ['sweep']
    """

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._last: list[tuple[str, Work]] = []
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        """The name of this worker: where it runs, and a word that no other has."""
        self.stopping = Event()
        """Set when work is to come to an end."""

    @property
    def names(self) -> list[str]:
        """The jobs there are."""
        return [job.name for job in self._jobs]

    def every(self, seconds: float, name: str, work: Work) -> None:
        """Runs work at the start and every `seconds` after, in one worker; to be said before `running`.

        Work that fails is tried again at its next time. It may be cancelled: when the service stops, or when its lease
        is lost.
        """
        self._jobs.append(_Job(seconds, name, work, alone=True))

    def each(self, seconds: float, name: str, work: Work) -> None:
        """Like `every`, but in every worker, and told of only where it fails."""
        self._jobs.append(_Job(seconds, name, work, alone=False))

    def at_end(self, name: str, work: Work) -> None:
        """Has work done once, when everything else has ended."""
        self._last.append((name, work))

    @asynccontextmanager
    async def running(self, store: Store, log: Log) -> AsyncIterator[None]:
        """Runs the jobs; at the end stops them and gives their leases back."""
        tasks = [
            asyncio.create_task(self._run(job, store, log) if job.alone else self._repeat(job, log), name=job.name)
            for job in self._jobs
        ]
        try:
            yield
        finally:
            self.stopping.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for name, work in self._last:
                await self._try(name, work, log)

    async def _repeat(self, job: _Job, log: Log) -> None:
        while True:
            done = await self._try(job.name, job.work, log)
            await asyncio.sleep(job.seconds if done else max(job.seconds, _BEAT))

    async def _run(self, job: _Job, store: Store, log: Log) -> None:
        """Holds the lease if nobody else does, and starts the work when it is due."""
        due, running = 0.0, None
        try:
            while True:
                held = await self._lease(job, store, log, _TERM)
                if running is not None and (running.done() or not held):
                    running.cancel()
                    running = None
                if held and running is None and time.monotonic() >= due:
                    due = time.monotonic() + job.seconds
                    running = asyncio.create_task(self._once(job, log))
                if running is None:
                    await asyncio.sleep(min(_BEAT, max(due - time.monotonic(), 0.05)))
                else:
                    await asyncio.wait({running}, timeout=_BEAT)
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            with suppress(asyncio.CancelledError):
                await self._lease(job, store, log, 0.0)

    async def _lease(self, job: _Job, store: Store, log: Log, seconds: float) -> bool:
        try:
            return await asyncio.wrap_future(store.lease(SYSTEM, job.name, self.worker, seconds))
        except Exception as problem:
            log.line("error", "lease", job=job.name, **fault(problem))
            return False

    async def _once(self, job: _Job, log: Log) -> None:
        began = time.perf_counter()
        if await self._try(job.name, job.work, log):
            log.line("info", "job", job=job.name, ms=round(1e3 * (time.perf_counter() - began), 1))

    async def _try(self, name: str, work: Work, log: Log) -> bool:
        """Whether the work was done; what could not be done now may be possible the next time."""
        try:
            await work()
        except Exception as problem:
            log.line("error", "job", job=name, **fault(problem))
            return False
        return True
