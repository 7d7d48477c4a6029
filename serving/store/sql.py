"""The store in SQL: SQLite, whose one writer commits all that waits at once, and PostgreSQL."""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
from sqlalchemy import (
    URL,
    Column,
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Table,
    create_engine,
    delete,
    event,
    func,
    make_url,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from features.errors import UsageError
from serving.store import reading, tables, upgrade, writing
from serving.store.protocol import R, Store, StoreError, Written
from serving.store.records import Record
from serving.store.rows import Message, StoredLead

T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], T]
_OF_LEADS = (
    tables.deliveries, tables.receipts, tables.quarantine, tables.listed_scores, tables.aliases, tables.leads,
)  # fmt: skip
"""What goes with a lead; what it did goes with its row of leads, which is the last."""
_GROUP = 64
"""The most callers who share one transaction."""
_CONNECTIONS = 8
"""Of PostgreSQL, and as many threads that write to it."""


def open_store(database: str, *, create: bool = True) -> SqlStore:
    """Opens the store at a URL, e.g. sqlite:///touchstone.db or postgresql://user:password@host/touchstone.

    A file of SQLite is upgraded as needed, and made unless `create` is false; PostgreSQL has to be upgraded before.
    Raises StoreError if that was not done, or the database is of a newer revision or cannot be reached.
    """
    engine = engine_of(database)
    try:
        with problems(engine):
            path = Path(engine.url.database or "")
            if engine.dialect.name == "sqlite" and not create and not path.is_file():
                raise StoreError(f"{path}: there is no such database. Name the one that the service uses.")
            if engine.dialect.name == "sqlite":
                check_folder(path)
                with engine.connect() as connection:
                    current = upgrade.revision_of(connection) == tables.REVISION
                if not current:
                    upgrade.upgrade(engine)
            upgrade.check(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStore(engine)


def check_folder(path: Path) -> None:
    """Raises StoreError if SQLite cannot keep its files there: the database, and its log beside it."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"{path}: there is no folder {folder}. Make it, or name a database elsewhere.")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise StoreError(
            f"{path} cannot be written, for {folder.absolute()} is read-only. Name a database in a folder that can be "
            "written, e.g. --database sqlite:////data/touchstone.db on a mounted volume, or one of PostgreSQL."
        )


def upgrade_database(database: str) -> tuple[str | None, str]:
    """Brings the database at a URL to the revision that is needed; returns the one before and after."""
    engine = engine_of(database)
    try:
        with problems(engine):
            return upgrade.upgrade(engine)
    finally:
        engine.dispose()


def engine_of(database: str) -> Engine:
    """The engine of a URL. Raises UsageError if it is none of SQLite's or PostgreSQL's."""
    try:
        url = make_url(database)
    except ArgumentError:
        raise UsageError(f"{database!r} is no URL of a database. Give e.g. sqlite:///touchstone.db.") from None
    name = url.get_backend_name()
    if name == "sqlite":
        return _sqlite(url)
    if name not in ("postgresql", "postgres"):
        raise UsageError(f"a database of {name!r} is not supported. Give one of sqlite:// or postgresql://.")
    try:
        # All we ask is a few rows by their keys. The planner takes what is recursive for large: it would read whole
        # tables to join them, compile that, and think about it anew each time.
        options = "-c jit=off -c enable_hashjoin=off -c enable_mergejoin=off -c plan_cache_mode=force_generic_plan"
        url = url.set(drivername="postgresql+psycopg")
        return create_engine(url, pool_pre_ping=True, pool_size=_CONNECTIONS, connect_args={"options": options})
    except (ImportError, NoSuchModuleError):
        raise UsageError("PostgreSQL needs psycopg. Install it: pip install 'touchstone[postgres]'.") from None


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise UsageError(f"{url}: a store is a file. Give e.g. sqlite:///touchstone.db, without options.")
    engine = create_engine(url.set(drivername="sqlite+pysqlite"), connect_args={"timeout": 30.0})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        # Transactions begin where we say, not where the driver guesses.
        connection.isolation_level = None
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that turns to writing later fails at once if another one writes.
        reads = connection.get_execution_options().get("reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def problems(engine: Engine) -> Iterator[None]:
    """Turns what a database refuses into StoreError."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as problem:
        says = str(getattr(problem, "orig", None) or problem).strip().splitlines() or [type(problem).__name__]
        url = engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"the database {url} could not do it: {says[0]}. Check that it runs and has room."
        ) from problem


class _Group:
    """One thread writes for all: what waits goes into one transaction, so that many callers share one sync to disk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="touchstone-store", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T], forget: bool = False) -> Future[T]:
        job = _Job(work, Future(), forget)
        self._waiting.put(job)
        return job.future

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        job = self._waiting.get()
        while job is not None:
            jobs = [job]
            while len(jobs) < _GROUP and not self._waiting.empty() and (job := self._waiting.get()) is not None:
                jobs.append(job)
            self._commit([each for each in jobs if each.future.set_running_or_notify_cancel()])
            job = job and self._waiting.get()

    def _commit(self, jobs: Sequence[_Job]) -> None:
        try:
            with problems(self._engine), self._engine.begin() as connection:
                answers = [job.attempt(connection) for job in jobs]
            if any(job.forget for job in jobs):
                self._empty_log()
        except BaseException as problem:
            # None of it is in the database.
            answers = [partial(job.future.set_exception, problem) for job in jobs]
        for answer in answers:
            answer()

    def _empty_log(self) -> None:
        """Takes what was deleted out of the write-ahead log too, unless someone reads for longer than a second."""
        connection = sqlite3.connect(str(self._engine.url.database), timeout=1.0)
        with suppress(sqlite3.Error), closing(connection):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@dataclass(frozen=True)
class _Job:
    work: Work[Any]
    future: Future[Any]
    forget: bool

    def attempt(self, connection: Connection) -> Callable[[], None]:
        """Works within a savepoint, so that what fails leaves no trace; returns what to tell after the commit."""
        try:
            with problems(connection.engine), connection.begin_nested():
                return partial(self.future.set_result, self.work(connection))
        except Exception as problem:
            return partial(self.future.set_exception, problem)


class _Pool:
    """Each caller's work in a transaction of its own, several at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(_CONNECTIONS, "touchstone-store")

    def submit(self, work: Work[T], forget: bool = False) -> Future[T]:
        return self._threads.submit(self._commit, work)

    def _commit(self, work: Work[T]) -> T:
        with problems(self._engine), self._engine.begin() as connection:
            return work(connection)

    def close(self) -> None:
        self._threads.shutdown()


class SqlStore(Store):
    """A store in SQLite or PostgreSQL; `serving.store.protocol.Store` says what its methods do.

    >>> from tempfile import TemporaryDirectory
    >>> from serving.store import Message, Touch, open_store
    >>> with TemporaryDirectory() as folder:
    ...     store = open_store(f"sqlite:///{folder}/touchstone.db")
    ...     touch = Message(rows=(Touch("L-42", 0, "email", "click"),), message_id="7f3a")
    ...     print(store.write("acme", [touch, touch]).result())
    ...     print(len(store.read("acme", "L-42").record.touchpoints))
    ...     store.close()
    Written(new=1, duplicates=1, quarantined=0)
    1
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = _Group(engine) if self.embedded else _Pool(engine)
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._closed = False

    @property
    def embedded(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def write(self, tenant: str, messages: Sequence[Message]) -> Future[Written]:
        now = _now()
        return self._submit(tenant, lambda connection: writing.write(connection, tenant, messages, now))

    def read(self, tenant: str, lead_id: str) -> StoredLead | None:
        name = lead_id.strip()
        return self._leads(tenant, reading.ONE, lead_id=name).get(name)

    def read_many(self, tenant: str, lead_ids: Sequence[str]) -> dict[str, StoredLead]:
        ids = [name.strip() for name in lead_ids]
        query = reading.some(self._engine.dialect.name)
        return self._leads(tenant, query, ids=msgspec.json.encode(ids).decode() if self.embedded else ids)

    def stream(self, tenant: str, size: int = 1_000) -> Iterator[list[StoredLead]]:
        after = ""
        while found := self._leads(tenant, reading.PAGE, after=after, size=size):
            yield [*found.values()]
            after = max(found)

    def delete(self, tenant: str, lead_id: str) -> Future[int]:
        def work(connection: Connection) -> int:
            ids = writing.linked(connection, tenant, lead_id.strip())
            # What is being written of them is written, so that it goes too.
            _held(connection, tenant, ids)
            for table in _OF_LEADS:
                mine = delete(table).where(table.c.tenant == tenant, table.c.lead_id.in_(ids))
                gone = connection.execute(mine).rowcount
            return gone

        return self._submit(tenant, work, forget=True)

    def export(self, tenant: str, folder: Path) -> dict[str, int]:
        # It brings Arrow and pandas along, which a service that starts need not wait for.
        from serving.store.export import export

        with problems(self._engine), self._reads(tenant, isolation_level="REPEATABLE READ") as connection:
            return export(connection, tenant, folder)

    def put(self, tenant: str, records: Sequence[Record]) -> Future[None]:
        return self._submit(tenant, lambda connection: self._put(connection, tenant, records))

    def swap(self, tenant: str, kind: type[R], seen: Mapping[str, R | None], records: Sequence[Record]) -> Future[bool]:
        def work(connection: Connection) -> bool:
            table = kind.table
            if not self.embedded:
                # What is not there cannot be locked.
                one_at_a_time = func.pg_advisory_xact_lock(func.hashtext(table.name), func.hashtext(tenant))
                connection.execute(select(one_at_a_time))
            (name,) = [column.name for column in table.primary_key.columns][1:]
            if name == "lead_id" and len(_held(connection, tenant, seen, key_share=True)) < len(seen):
                return False
            query = select(table).where(*_matches(table, tenant, {name: [*seen]}, None)).with_for_update()
            there = {row[name]: _record(kind, row) for row in connection.execute(query).mappings()}
            if any(there.get(key) != record for key, record in seen.items()):
                return False
            self._put(connection, tenant, records)
            return True

        return self._submit(tenant, work)

    def _put(self, connection: Connection, tenant: str, records: Sequence[Record]) -> None:
        writing.register(connection, tenant)
        by_kind: dict[type[Record], list[Record]] = {}
        for record in records:
            by_kind.setdefault(type(record), []).append(record)
        for kind, mine in by_kind.items():
            insert = self._insert(kind.table)
            values = {column.name: insert.excluded[column.name] for column in kind.table.c}
            statement = insert.on_conflict_do_update(index_elements=kind.table.primary_key.columns, set_=values)
            connection.execute(statement, [_cells(tenant, record) for record in mine])

    def claim(self, tenant: str, record: R) -> Future[R | None]:
        def work(connection: Connection) -> R | None:
            table, cells = record.table, _cells(tenant, record)
            writing.register(connection, tenant)
            if writing.insert_new(connection, table, [cells]):
                return None
            mine = [column == cells[column.name] for column in table.primary_key.columns]
            found = connection.execute(select(table).where(*mine)).mappings().one()
            return _record(type(record), found)

        return self._submit(tenant, work)

    def find(
        self,
        kind: type[R],
        tenant: str,
        where: Mapping[str, Any] | None = None,
        *,
        before: Mapping[str, int] | None = None,
        order: str = "",
        after: R | None = None,
        limit: int = 1_000,
    ) -> list[R]:
        table = kind.table
        names = [column.name for column in table.primary_key.columns][1:]
        if order.removeprefix("-"):
            names = [order.removeprefix("-"), *(name for name in names if name != order.removeprefix("-"))]
        columns = [_column(table, name) for name in names]
        if columns[0].nullable:
            raise UsageError(f"{table.name} cannot be ordered by {names[0]!r}, which is not always there.")
        query = select(table).where(*_matches(table, tenant, where, before)).limit(limit)
        if after is not None:
            here, last = tuple_(*columns), tuple_(*(getattr(after, name) for name in names))
            query = query.where(here < last if order.startswith("-") else here > last)
        query = query.order_by(*(column.desc() if order.startswith("-") else column for column in columns))
        with problems(self._engine), self._reads(tenant) as connection:
            return [_record(kind, row) for row in connection.execute(query).mappings()]

    def remove(
        self,
        kind: type[Record],
        tenant: str,
        where: Mapping[str, Any] | None = None,
        *,
        before: Mapping[str, int] | None = None,
    ) -> Future[int]:
        statement = delete(kind.table).where(*_matches(kind.table, tenant, where, before))
        return self._submit(tenant, lambda connection: connection.execute(statement).rowcount)

    def lease(self, tenant: str, name: str, holder: str, seconds: float) -> Future[bool]:
        def work(connection: Connection) -> bool:
            now, leases = _now(), tables.leases
            insert = self._insert(leases).values(
                tenant=tenant, name=name, holder=holder, until=now + round(seconds * 1e6)
            )
            taken = insert.on_conflict_do_update(
                index_elements=leases.primary_key.columns,
                set_={"holder": insert.excluded.holder, "until": insert.excluded.until},
                where=(leases.c.holder == holder) | (leases.c.until <= now),
            ).returning(leases.c.holder)
            return connection.execute(taken).first() is not None and seconds > 0

        return self._submit(tenant, work)

    def tenants(self) -> list[str]:
        with problems(self._engine), self._engine.connect() as connection:
            return [*connection.scalars(select(tables.tenants.c.tenant).order_by(tables.tenants.c.tenant))]

    def close(self) -> None:
        self._closed = True
        self._writer.close()
        for reader in self._readers:
            reader.close()
        self._engine.dispose()

    def _submit(self, tenant: str, work: Work[T], forget: bool = False) -> Future[T]:
        if self._closed:
            raise StoreError("the store is closed. Open it again.")
        writing.word(tenant, "tenant")

        def for_tenant(connection: Connection) -> T:
            self._set_tenant(connection, tenant)
            return work(connection)

        return self._writer.submit(for_tenant, forget)

    def _leads(self, tenant: str, query: str, **asked: Any) -> dict[str, StoredLead]:
        named = {"tenant": tenant, **asked}
        with problems(self._engine):
            if self.embedded:
                # The driver's own statement: SQLAlchemy would take longer than the database.
                return reading.gather(self._reader().execute(query, named))
            with self._reads(tenant) as connection:
                return reading.gather(map(tuple, connection.execute(text(query), named)))

    def _reader(self) -> sqlite3.Connection:
        """This thread's connection; each of its statements is a transaction of its own."""
        found: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if found is None:
            path = str(self._engine.url.database)
            found = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            found.execute("PRAGMA query_only = ON")
            self._local.reader = found
            self._readers.append(found)
        return found

    @contextmanager
    def _reads(self, tenant: str, **options: Any) -> Iterator[Connection]:
        options = {"reads": True} if self.embedded else options
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            self._set_tenant(connection, tenant)
            yield connection

    def _set_tenant(self, connection: Connection, tenant: str) -> None:
        """Tells PostgreSQL whose rows this transaction may see."""
        if not self.embedded:
            connection.execute(select(func.set_config("touchstone.tenant", tenant, True)))

    def _insert(self, table: Table) -> Any:
        return sqlite.insert(table) if self.embedded else postgresql.insert(table)


def _now() -> int:
    return time.time_ns() // 1_000


def _cells(tenant: str, record: Record) -> dict[str, Any]:
    cells = msgspec.structs.asdict(record)
    for value in cells.values():
        if isinstance(value, str):
            writing.storable(value)
    return {"tenant": tenant, **cells}


def _record(kind: type[R], row: RowMapping) -> R:
    return msgspec.convert({name: row[name] for name in kind.__struct_fields__}, kind)


def _matches(
    table: Table, tenant: str, where: Mapping[str, Any] | None, before: Mapping[str, int] | None
) -> list[ColumnElement[bool]]:
    equal = [
        _column(table, name).in_(value) if isinstance(value, list) else _column(table, name) == value
        for name, value in (where or {}).items()
    ]
    return [table.c.tenant == tenant, *equal, *(_column(table, name) < at for name, at in (before or {}).items())]


def _column(table: Table, name: str) -> Column[Any]:
    if name not in table.c:
        names = ", ".join(column.name for column in table.c)
        raise UsageError(f"{table.name} has no {name!r}. It has {names}.")
    return table.c[name]


def _held(connection: Connection, tenant: str, lead_ids: Iterable[str], *, key_share: bool = False) -> list[str]:
    """Those of some leads that are there, which nobody else deletes until the transaction ends."""
    leads = tables.leads.c
    # In one order, or two who hold some of the same wait for each other.
    query = select(leads.lead_id).where(leads.tenant == tenant, leads.lead_id.in_([*lead_ids])).order_by(leads.lead_id)
    return [*connection.scalars(query.with_for_update(read=key_share, key_share=key_share))]
