"""Runs the application in one process or in several, over one socket, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from functools import partial
from socket import socket
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from features.errors import TouchstoneError
from models import load_bundle
from models.scorer import Scorer
from serving.access import Open
from serving.app import create_app
from serving.metrics import FOLDER
from serving.security import Keys
from serving.settings import Settings
from serving.store import Store, open_store

_SLOWEST = 1_000
"""Bytes a second below which a body is taken to stand still."""
_LAST_MOMENT = 0.5
"""Seconds in which a request may still come over a connection that is about to be closed."""
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def run(settings: Settings, listener: socket, scorer: Scorer, store: Store, *, no_auth: bool) -> None:
    """Serves until a signal; several workers each load the model and open the store anew.

    Raises TouchstoneError if a worker could not start.
    """
    alone = settings.workers == 1
    config = uvicorn.Config(
        _app(settings, scorer, store, no_auth) if alone else partial(_worker_app, settings, no_auth),
        factory=not alone, workers=settings.workers,
        http=partial(Patient, header_seconds=settings.header_seconds, body_seconds=settings.body_seconds),  # type: ignore[arg-type]
        lifespan="on", access_log=False, log_config=None, server_header=False, proxy_headers=False, ws="none",
        timeout_graceful_shutdown=settings.stop_seconds, timeout_worker_healthcheck=30,
    )  # fmt: skip
    if alone:
        uvicorn.Server(config).run(sockets=[listener])
        return
    store.close()
    with TemporaryDirectory(prefix="touchstone-metrics-") as folder:
        # The workers inherit it.
        os.environ[FOLDER] = folder
        supervisor = _Workers(config, sockets=[listener])
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise TouchstoneError("a worker could not start; the lines above say why.")


def _app(settings: Settings, scorer: Scorer, store: Store, no_auth: bool) -> FastAPI:
    access = Open() if no_auth else Keys(store, settings.key_rate, settings.key_burst)
    app = create_app(scorer, store, settings, access)
    # What is there now stays. To look through it for garbage again and again would hold up requests.
    gc.collect()
    gc.freeze()
    return app


def _worker_app(settings: Settings, no_auth: bool) -> FastAPI:
    try:
        return _app(settings, load_bundle(settings.model), open_store(settings.database), no_auth)
    except TouchstoneError as problem:
        sys.stderr.write(f"error: {problem}\n")
        # Any other end would be taken for an accident, and the worker started again and again.
        sys.exit(STARTUP_FAILURE)


class _Workers(Multiprocess):
    def terminate_all(self) -> None:
        # While the socket is open here, the kernel takes connections that no worker will answer.
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


class Patient(HttpToolsProtocol):
    """uvicorn's protocol with deadlines: callers who send half a request and stop are let go.

    At a stop, a request that is on its way over an open connection is answered still.
    """

    def __init__(self, *arguments: Any, header_seconds: float, body_seconds: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._header_seconds = header_seconds
        self._body_seconds = body_seconds
        self._deadline: float | None = None
        self._begun = False
        self._leaving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.time() + self._header_seconds
        self._look_again()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        self._deadline = self.loop.time() + self._header_seconds

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._deadline = self.loop.time() + self._body_seconds
        if self._leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self._deadline is not None:
            # Each byte gives a millisecond, and no store of them is laid up.
            latest = self.loop.time() + self._body_seconds
            self._deadline = min(self._deadline + len(body) / _SLOWEST, latest)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._begun = False
        self._deadline = None

    def shutdown(self) -> None:
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_MOMENT, self._leave)
        else:
            super().shutdown()

    def _leave(self) -> None:
        if not self._begun:
            super().shutdown()

    def _look_again(self) -> None:
        self.loop.call_later(1.0, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self._deadline is not None and self.flow.read_paused:
            # It is we who do not read.
            self._deadline = max(self._deadline, now + self._body_seconds)
        if self._deadline is None or now < self._deadline:
            self._look_again()
            return
        if self._begun and (self.cycle is None or not self.cycle.response_started or self.cycle.response_complete):
            self.transport.write(_LATE)
        self.transport.close()
