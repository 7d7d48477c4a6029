"""Whether the service could run here, as `touchstone doctor` tells it; nothing is changed."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server
from urllib.error import URLError
from urllib.request import urlopen

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from features.health import Check, attempt
from features.times import isoformat
from serving.keys import has_keys
from serving.settings import Settings
from serving.store import SqlStore, StoreError
from serving.store.sql import check_folder, engine_of, problems
from serving.store.tables import REVISION
from serving.store.upgrade import check, revision_of

_APART = 2.0
"""Seconds by which two clocks may differ: a key is revoked within five, and touches are known when they come in."""


def service(settings: Settings) -> Iterator[Check]:
    """Checks the database with its keys and its clock, and the port."""
    found = attempt("database", lambda: _database(settings.database))
    yield found
    if found.state == "ok":
        yield attempt("keys", lambda: _keys(settings.database))
        yield attempt("clock", lambda: _clock(settings.database))
    yield attempt("port", lambda: _port(settings.host, settings.port))


def file_of(database: str) -> Path | None:
    """The file of a database, if it is one of SQLite."""
    engine = engine_of(database)
    return Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None


def _database(database: str) -> Check:
    path, engine = file_of(database), engine_of(database)
    shown = engine.url.render_as_string(hide_password=True)
    if path is not None:
        check_folder(path)
        if not path.exists():
            return Check("database", "warn", f"there is no {path} yet. `touchstone serve` makes it.")
    try:
        with problems(engine):
            if path is not None:
                with engine.connect() as connection:
                    found = revision_of(connection)
                if found is None or found < REVISION:
                    return Check(
                        "database", "warn",
                        f"{path} is of revision {found or 'none'}, not {REVISION}. `touchstone serve` upgrades it, or "
                        "`touchstone db upgrade`.",
                    )  # fmt: skip
            check(engine)
    finally:
        engine.dispose()
    return Check("database", "ok", f"{shown} answers and is of revision {REVISION}")


def _keys(database: str) -> Check:
    with closing(SqlStore(engine_of(database))) as store:
        if has_keys(store):
            return Check("keys", "ok", "there are API keys")
    return Check("keys", "warn", "there is no API key yet. Make one: touchstone keys create NAME --scope score")


def _clock(database: str) -> Check:
    """Compares the clock with the database's; with SQLite's file, which cannot have been written later than now."""
    path, engine, now = file_of(database), engine_of(database), time.time()
    if path is not None:
        ahead, whose = max(0.0, path.stat().st_mtime - now), f"{path} was written"
    else:
        begun = time.time()
        theirs = _database_clock(engine)
        # What the question took is nobody's error.
        now = (begun + time.time()) / 2
        ahead, whose = theirs - now, "the clock of the database stands"
    says = isoformat(round(now * 1e6))
    if abs(ahead) <= _APART:
        return Check("clock", "ok", f"it says {says}, as the database does")
    apart = f"{abs(ahead):,.0f} s {'later' if ahead > 0 else 'earlier'}"
    return Check("clock", "fail", f"it says {says}, and {whose} {apart}. Set it by NTP, on both machines.")


def _database_clock(engine: Engine) -> float:
    try:
        with engine.connect() as connection:
            return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    except DBAPIError as problem:
        raise StoreError(f"the database does not tell the time: {problem.orig}. Check that it runs.") from None
    finally:
        engine.dispose()


def _port(host: str, port: int) -> Check:
    try:
        create_server((host, port), family=AF_INET6 if ":" in host else AF_INET).close()
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE and _is_ours(host, port):
            return Check("port", "ok", f"Touchstone answers at {host}, port {port}")
        why = problem.strerror or str(problem)
        return Check("port", "fail", f"{host}, port {port}: {why}. Stop what listens there, or choose another --port.")
    return Check("port", "ok", f"{port} is free at {host}")


def _is_ours(host: str, port: int) -> bool:
    """Whether what listens is a service of ours that is well."""
    named = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    try:
        with urlopen(f"http://{named}:{port}/healthz", timeout=2) as answer:
            return bool(answer.read(100) == b'{"status":"ok"}')
    except (URLError, OSError, ValueError):
        return False
