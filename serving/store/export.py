"""The tables of a tenant as the files that `Dataset.read` reads, to equal scores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet
from sqlalchemy import Connection, Select, case, func, select

from features.aliases import chain_of
from features.errors import TouchstoneError, UsageError
from features.records import Value
from features.times import NEVER
from features.words import attribute_word, number_word
from serving.store import tables

_ROWS = 50_000
"""Rows that are in memory at once; leads all are."""
_TEXT, _NUMBER, _AT = pa.string(), pa.float64(), pa.timestamp("us", "UTC")
_OWN = ("lead_id", "created_at")
"""Columns of leads that no attribute can be there; attributes of these names are written as facts."""
_VALUE = msgspec.json.Decoder(Value)
_VALUES = msgspec.json.Decoder(dict[str, Value])
_FACTS = pa.schema([
    ("lead_id", _TEXT), ("occurred_at", _AT), ("recorded_at", _AT), ("name", _TEXT), ("value", _TEXT),
])  # fmt: skip


def export(connection: Connection, tenant: str, folder: Path) -> dict[str, int]:
    """Writes the tables as Parquet into a folder that is not there yet or empty; returns the rows of each.

    It appears whole or not at all. Raises UsageError if something is in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something already. Name another folder.")
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        scratch.mkdir(parents=True)
        counts = _write(connection, tenant, scratch)
        os.replace(scratch, folder)
    except OSError as problem:
        raise TouchstoneError(
            f"{folder} cannot be written: {problem.strerror or problem}. Choose another place for it."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


def _write(connection: Connection, tenant: str, folder: Path) -> dict[str, int]:
    touches, facts, outcomes, aliases = (
        table.c for table in (tables.touchpoints, tables.facts, tables.outcomes, tables.aliases)
    )
    links = {
        one: (other, at)
        for one, other, at in connection.execute(
            select(aliases.lead_id, aliases.same_as, aliases.occurred_at).where(aliases.tenant == tenant)
        )
    }
    leads, named = _leads(connection, tenant, links)
    changes = (
        (lead, at, recorded, name, _text(_VALUE.decode(value)))
        for lead, at, recorded, name, value in _rows(
            connection,
            select(facts.lead_id, facts.occurred_at, facts.recorded_at, facts.name, facts.value)
            .where(facts.tenant == tenant),
        )
    )  # fmt: skip
    happened = select(
        touches.lead_id, touches.occurred_at, touches.channel, touches.action, touches.value, touches.recorded_at,
        touches.message_id,
    ).where(touches.tenant == tenant)  # fmt: skip
    ended = select(
        outcomes.lead_id, outcomes.occurred_at, case((outcomes.won, "won"), else_="lost"), outcomes.amount,
        outcomes.recorded_at,
    ).where(outcomes.tenant == tenant)  # fmt: skip
    pa.parquet.write_table(leads, folder / "leads.parquet")
    return {
        "leads": len(leads),
        "touchpoints": _save(
            folder / "touchpoints.parquet",
            pa.schema([
                ("lead_id", _TEXT), ("occurred_at", _AT), ("channel", _TEXT), ("action", _TEXT), ("value", _NUMBER),
                ("recorded_at", _AT), ("message_id", _TEXT),
            ]),
            _rows(connection, happened),
        ),
        "outcomes": _save(
            folder / "outcomes.parquet",
            pa.schema([
                ("lead_id", _TEXT), ("occurred_at", _AT), ("outcome", _TEXT), ("amount", _NUMBER), ("recorded_at", _AT),
            ]),
            _rows(connection, ended),
        ),
        "attributes": _save(folder / "attributes.parquet", _FACTS, (*named, *changes)),
        "aliases": _save(
            folder / "aliases.parquet",
            pa.schema([("lead_id", _TEXT), ("same_as", _TEXT), ("occurred_at", _AT)]),
            ((one, other, at) for one, (other, at) in links.items()),
        ),
    }  # fmt: skip


def _leads(
    connection: Connection, tenant: str, links: dict[str, tuple[str, int]]
) -> tuple[pa.Table, list[tuple[Any, ...]]]:
    """Returns the leads table, and as facts the attributes that can be no column of it."""
    leads, touches = tables.leads.c, tables.touchpoints.c
    first = (
        select(func.min(touches.occurred_at))
        .where(touches.tenant == leads.tenant, touches.lead_id == leads.lead_id)
        .scalar_subquery()
    )
    query = select(leads.lead_id, leads.created_at, leads.seen_at, leads.attributes, first).where(
        leads.tenant == tenant
    )
    rows = [*_rows(connection, query)]
    said = {name: at for name, at, *_ in rows if at is not None}
    begun = {name: touched for name, *_, touched in rows if touched is not None} | said
    created = dict(begun)
    for name, at in begun.items():
        for other, since in chain_of(name, links):
            if other not in said:
                created[other] = min(created.get(other, NEVER), max(since, at))
    columns: dict[str, list[Value]] = {}
    for row, (_, _, _, document, _) in enumerate(rows):
        for name, value in _VALUES.decode(document).items():
            columns.setdefault(name, [None] * len(rows))[row] = value
    ids = [name for name, *_ in rows]
    born = [created.get(name, seen_at) for name, _, seen_at, *_ in rows]
    named = [
        (lead, at, at, name, _text(value))
        for name in _OWN
        for lead, at, value in zip(ids, born, columns.pop(name, []), strict=False)
        if value is not None
    ]
    table = {"lead_id": pa.array(ids, _TEXT), "created_at": pa.array(born, pa.int64()).cast(_AT)}
    return pa.table(table | {name: _column(values) for name, values in columns.items()}), named


def _column(values: Sequence[Value]) -> pa.Array:
    if all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values):
        return pa.array(values, _NUMBER)
    return pa.array([_text(value) for value in values], _TEXT)


def _text(value: Value) -> str | None:
    """A value as a cell holds it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number_word(value)
    return None if value is None else attribute_word(value) or None


def _rows(connection: Connection, query: Select[Any]) -> Iterable[Any]:
    return connection.execution_options(yield_per=_ROWS).execute(query)


def _save(path: Path, schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> int:
    """Writes rows as they come; returns how many."""
    count, waiting = 0, []
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for row in rows:
            waiting.append(row)
            count += 1
            if len(waiting) == _ROWS:
                writer.write_batch(_batch(schema, waiting))
                waiting = []
        writer.write_batch(_batch(schema, waiting))
    return count


def _batch(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [
        pa.array(column, pa.int64()).cast(_AT) if field.type == _AT else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)
