"""A Dask cluster that lists and training are given to: found or started here, and held to the same versions.

Dask is an extra, so it is imported only where it is asked for.
"""

from __future__ import annotations

import logging
import os
from asyncio import CancelledError as CancelledByLoop
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError as Cancelled
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

from features.errors import ModelError, UsageError

if TYPE_CHECKING:
    from distributed import Client

_ANSWERS = "10s"
"""How long a scheduler may take to answer."""
T = TypeVar("T")


@contextmanager
def needing_dask() -> Iterator[None]:
    """Names the extra where an import finds that Dask is missing."""
    try:
        yield
    except ModuleNotFoundError as problem:
        if problem.name not in ("dask", "distributed"):
            raise
        raise UsageError("--dask needs Dask. Install it: pip install 'touchstone[dask]'.") from None


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Finds a scheduler, or starts a process for each core if the address is `local`.

    Raises UsageError if no scheduler answers.
    """
    from distributed import Client, LocalCluster
    from distributed.comm.addressing import resolve_address

    with ExitStack() as stack:
        found = address
        if address == "local":
            found = stack.enter_context(
                LocalCluster(
                    n_workers=os.cpu_count() or 1, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            ).scheduler_address  # fmt: skip
        try:
            # A client that is given what is no address waits long for itself when it goes, and says so.
            resolve_address(found)
            client = Client(found, timeout=_ANSWERS, set_as_default=False)
        except (OSError, ValueError, TypeError) as problem:
            raise UsageError(
                f"--dask {address}: no scheduler answers there ({problem}). Start one with `dask scheduler`, and give "
                "its address, e.g. tcp://10.0.0.5:8786, or local."
            ) from None
        yield stack.enter_context(client)


@contextmanager
def connection(client: Client) -> Iterator[None]:
    """Raises ConnectionError, told in one line, for all that Dask raises where the scheduler is gone."""
    try:
        yield
    except OSError as problem:
        raise ConnectionError(str(problem) or type(problem).__name__) from None
    except (CancelledByLoop, Cancelled):
        raise ConnectionError("the connection to its scheduler broke") from None
    except (AttributeError, RuntimeError):
        # A client that gave up has no scheduler left to ask.
        if client.status == "running":
            raise
        raise ConnectionError("the connection to its scheduler is closed") from None


def patiently(client: Client, call: Callable[[], T], nobody: Callable[[], Exception]) -> T:
    """What a call gives that may time out; where no worker is there by then, raises what `nobody` makes."""
    while True:
        with suppress(TimeoutError), client.as_current():
            return call()
        if not client.nthreads():
            raise nobody()


def versions() -> dict[str, str]:
    """What the bits hang on."""
    return {name: version(name) for name in ("touchstone", "numpy", "numba", "lightgbm", "pyarrow")}


def check_versions(worker: str, wanted: Mapping[str, str]) -> None:
    """Raises ModelError where this process, the worker of that address, has other versions than are wanted."""
    for name, here in versions().items():
        if here != wanted[name]:
            raise ModelError(f"the worker {worker} has {name} {here}, and not {wanted[name]}. Install the same there.")
