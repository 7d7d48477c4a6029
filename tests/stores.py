"""The databases that the tests of the store run over: a file of SQLite, and a real PostgreSQL."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from serving.store import Row, SqlStore

POSTGRES = os.environ.get("TOUCHSTONE_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
"""A server and a database to begin from; each run makes one of its own there and drops it."""


@pytest.fixture(scope="session")
def postgres(missing: Callable[[str, str], None]) -> Iterator[str]:
    """The URL of an empty database of PostgreSQL, this worker's own."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError

    server = create_engine(POSTGRES, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5})
    name = f"touchstone_{uuid.uuid4().hex[:12]}"
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError as problem:
        missing("postgres", f"{POSTGRES} does not answer: {str(problem.orig).splitlines()[0]}")
    yield server.url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture(scope="session")
def postgres_ready(postgres: str) -> str:
    """The same, with the tables of the store."""
    from serving.store import upgrade_database

    upgrade_database(postgres)
    return postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is ready."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'touchstone.db'}"
    return str(request.getfixturevalue("postgres_ready"))


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test has, for databases are shared."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def lead_store(database: str) -> Iterator[SqlStore]:
    from serving.store import open_store

    opened = open_store(database)
    yield opened
    opened.close()


def fill(store: SqlStore, tenant: str, folder: Path, leads: Iterable[str] | None = None) -> None:
    """Writes tables, of all leads or of some, as the messages they once were, in the order in which they came in."""
    from features.times import to_us
    from serving.store import Message

    aliases = _cells(folder / "aliases.csv")
    wanted = None if leads is None else set(leads)
    if wanted is not None:
        wanted |= {cells["lead_id"] for cells in aliases if cells["same_as"] in wanted}
    messages = []
    for name in ("leads", "touchpoints", "attributes", "outcomes", "aliases"):
        for cells in _cells(folder / f"{name}.csv"):
            if wanted is None or cells["lead_id"] in wanted:
                at = to_us(cells["created_at" if name == "leads" else "occurred_at"])
                recorded = to_us(cells.get("recorded_at") or at)
                key = cells.get("message_id") or None
                messages.append(Message(rows=(_row(name, at, cells),), message_id=key, recorded_at=recorded))
    messages.sort(key=lambda message: message.recorded_at)
    for begin in range(0, len(messages), 5_000):
        store.write(tenant, messages[begin : begin + 5_000]).result()


def _cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _row(table: str, at: int, cells: dict[str, str]) -> Row:
    from serving.store import Alias, Fact, Lead, Outcome, Touch

    lead = cells["lead_id"]
    match table:
        case "leads":
            known = {name: cell for name, cell in cells.items() if cell and name not in ("lead_id", "created_at")}
            return Lead(lead, at, known)
        case "touchpoints":
            value = float(cells["value"]) if cells["value"] else None
            return Touch(lead, at, cells["channel"], cells["action"] or None, value)
        case "attributes":
            return Fact(lead, at, cells["name"], cells["value"])
        case "outcomes":
            amount = float(cells["amount"]) if cells["amount"] else None
            return Outcome(lead, at, cells["outcome"] == "won", amount)
    return Alias(lead, cells["same_as"], at)
