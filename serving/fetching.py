"""Inputs that are elsewhere: object stores, databases and the service's own store, brought here as files first.

A list is thereby made of one state of them, is read by the code that reads files, and can be gone on with.
"""

from __future__ import annotations

import glob
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from features.config import TABLES
from features.errors import TableError, UsageError
from features.inputs import ENDINGS
from models.scorer import Scorer

_DATABASES = (
    "sqlite",
    "postgresql",
    "postgres",
    "mysql",
    "mariadb",
    "oracle",
    "mssql",
    "snowflake",
    "redshift",
    "duckdb",
)
_ROWS = 50_000


@dataclass(frozen=True)
class Fetched:
    """An input elsewhere.

    >>> Fetched.of("leads/", {}, None) is None, Fetched.of("s3://crm/leads", {}, None).url
    (True, 's3://crm/leads')
    """

    url: str
    queries: Mapping[str, str]
    tenant: str | None

    @classmethod
    def of(cls, path: str, queries: Mapping[str, str], tenant: str | None) -> Fetched | None:
        """The input that an address names; None for files here. Raises UsageError for what does not fit together."""
        scheme = re.match(r"([A-Za-z][\w.+-]*)://", path)
        database = scheme is not None and scheme[1].lower().partition("+")[0] in _DATABASES
        if (queries or tenant) and not database:
            raise UsageError(
                f"{_shown(path)}: --query and --tenant go with the URL of a database, e.g. sqlite:///touchstone.db."
            )
        if database and bool(queries) == bool(tenant):
            raise UsageError(
                f"{_shown(path)}: a database needs either --tenant (the service's own) or --query 'TABLE=SELECT ...'."
            )
        for table in queries:
            if table not in TABLES:
                raise UsageError(f"--query {table}=...: no such table. Use one of {', '.join(TABLES)}.")
        return None if scheme is None else cls(path, queries, tenant)

    def digest(self) -> str:
        """Of what is asked for; and of files, of their sizes and versions."""
        seen: object = (self.url, sorted(self.queries.items()), self.tenant)
        if not self.queries and self.tenant is None:
            fs, names = self._files()
            keys = ("size", "ETag", "etag", "mtime", "LastModified", "updated")
            seen = (seen, [(name, [str(fs.info(name).get(key)) for key in keys]) for name in names])
        return hashlib.sha256(repr(seen).encode()).hexdigest()

    def scorer(self, own: Scorer) -> Scorer:
        """The scorer for these leads: by the policy of the tenant whose they are, as the service scores them."""
        if self.tenant is None:
            return own
        from serving.policy import policy_of
        from serving.store import open_store

        with closing(open_store(self.url, create=False)) as store:
            return policy_of(store, self.tenant).scorer(own)

    def here(self) -> list[Path]:
        """The files that are on this machine after all, as those of file:// are."""
        if not re.match("(?:file|local)://", self.url):
            return []
        return [Path(name) for name in self._files()[1]]

    def into(self, folder: Path) -> str:
        """Brings it into a folder, unless that was done; returns what there is to read there."""
        if not folder.exists():
            scratch = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(scratch, ignore_errors=True)
            if self.tenant is not None:
                self._export(scratch)
            else:
                scratch.mkdir()
                if self.queries:
                    self._ask(scratch)
                else:
                    self._copy(scratch)
            scratch.replace(folder)
        names = {entry.name.lower().partition(".")[0] for entry in folder.iterdir()}
        return str(folder) if names & {*TABLES, "dataset"} else f"{glob.escape(str(folder))}/**/*"

    def _export(self, folder: Path) -> None:
        from serving.store import open_store

        with closing(open_store(self.url, create=False)) as store:
            tenants = store.tenants()
            if self.tenant not in tenants:
                raise UsageError(
                    f"--tenant {self.tenant}: nothing is stored for it, but for {', '.join(tenants) or 'nobody'}."
                )
            store.export(self.tenant, folder)

    def _ask(self, folder: Path) -> None:
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = create_engine(self.url)
            file = engine.url.database if engine.dialect.name == "sqlite" else None
            if file and not file.startswith((":memory:", "file:")) and not Path(file).exists():
                # SQLite would make an empty one.
                raise TableError(f"{_shown(self.url)}: there is no such database. Name another.")
            options: dict[str, Any] = {"stream_results": True, "yield_per": _ROWS}
            if engine.dialect.name == "postgresql":
                options["postgresql_readonly"] = True
            try:
                for table, query in self.queries.items():
                    with engine.connect().execution_options(**options) as connection:
                        if engine.dialect.name == "sqlite":
                            connection.exec_driver_sql("PRAGMA query_only = ON")
                        found = connection.execute(text(query))
                        names = [*found.keys()]
                        if twice := next((name for name in names if names.count(name) > 1), None):
                            raise TableError(
                                f"--query {table}=...: the column {twice!r} is there twice. Name one with AS."
                            )
                        _save(table, names, found.partitions(_ROWS), folder / f"{table}.parquet")
            finally:
                engine.dispose()
        except (SQLAlchemyError, ModuleNotFoundError) as problem:
            reason = str(getattr(problem, "orig", None) or problem).splitlines()[0]
            mend = " A query may only read." if re.search("read-?only", reason) else ""
            raise TableError(f"{_shown(self.url)}: {reason}.{mend}") from None

    def _files(self) -> tuple[Any, list[str]]:
        try:
            import fsspec

            fs, path = fsspec.core.url_to_fs(self.url)
            if re.search(r"[*?\[]", path):
                names = sorted(fs.glob(path))
            else:
                names = [path] if fs.isfile(path) else sorted(fs.find(path))
        except ImportError as problem:
            raise UsageError(
                f"{_shown(self.url)}: {problem}. Install what reads it, e.g. pip install 'touchstone[s3]'."
            ) from None
        except Exception as problem:
            # Each store has errors of its own, for credentials that are missing for instance.
            raise TableError(f"{_shown(self.url)}: {problem}.") from None
        mine = [name for name in names if name.lower().endswith(ENDINGS) or name.endswith("/dataset.toml")]
        if not mine:
            raise TableError(f"{_shown(self.url)}: no CSV or Parquet file is there.")
        return fs, mine

    def _copy(self, folder: Path) -> None:
        fs, names = self._files()
        root = names[0].rpartition("/")[0]
        while any(not name.startswith(f"{root}/") for name in names):
            root = root.rpartition("/")[0]
        for name in names:
            target = folder / name.removeprefix(f"{root}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                fs.get_file(name, str(target))
            except Exception as problem:
                raise TableError(f"{_shown(self.url)}: {name} cannot be read ({problem}).") from None


def _save(table: str, names: list[str], batches: Iterator[Any], path: Path) -> None:
    """Writes rows as they come; the first ones that hold anything settle what type each column has."""
    schema: pa.Schema | None = None
    writer: pa.parquet.ParquetWriter | None = None
    try:
        for batch in batches:
            cells = [[_cell(value) for value in column] for column in zip(*batch, strict=True)]
            try:
                found = pa.table({name: pa.array(column) for name, column in zip(names, cells, strict=True)})
                if writer is None:
                    schema = pa.schema([
                        pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in found.schema
                    ])  # fmt: skip
                    writer = pa.parquet.ParquetWriter(path, schema)
                writer.write_table(found.cast(schema))
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as problem:
                raise TableError(
                    f"--query {table}=...: a column holds values of several types ({str(problem).splitlines()[0]}). "
                    "Cast it in the query."
                ) from None
        if writer is None:
            pa.parquet.write_table(pa.table({name: pa.array([], pa.string()) for name in names}), path)
    finally:
        if writer is not None:
            writer.close()


def _cell(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    return value


def _shown(url: str) -> str:
    """An address without its password."""
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", url)
