"""Runs the application in one process or in several, over one socket, until it is told to stop."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from socket import socket
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from features.errors import TouchstoneError
from models import load_bundle
from models.scorer import Scorer
from serving.access import Open
from serving.app import create_app
from serving.connection import Patient
from serving.metrics import FOLDER
from serving.security import Keys
from serving.settings import Settings
from serving.store import Store, open_store


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
