"""Writes scores in the shape that a CRM takes, from a scored list or from the ranking of the service."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from features.errors import TableError, TouchstoneError, UsageError
from features.times import to_datetime, to_us
from models.tiers import ROUTES
from serving.crms import CRMS, FIELDS, FORMULA, Crm, Scored
from serving.policy import policy_of
from serving.scoring import REASONS, SCHEMA
from serving.store import ListedScore, SqlStore, open_store

_PAGE = 1_000
_NAMED = 5
"""Of the leads that are left out, how many are named."""
_NAME = re.compile(r"\w[\w .-]*")
_NEEDED = ("lead_id", "as_of", "probability", "score", "tier", "route", "model_version")


@dataclass(frozen=True)
class Pushed:
    """What was written.

    >>> Pushed(leads=2, files=("scores-00001.csv",), left_out=1, named=("+1",)).leads
    2
    """

    leads: int
    files: tuple[str, ...]
    left_out: int
    """Leads whose id is none of the CRM's."""
    named: tuple[str, ...]
    """Some of those."""


def push(
    source: str,
    to: str,
    output: Path,
    *,
    id_field: str | None = None,
    fields: Mapping[str, str] | None = None,
    tenant: str = "default",
) -> Pushed:
    """Writes the scores of a list (.csv or .parquet), or of the service's database, as files that a CRM loads.

    `id_field` is the field of the CRM that holds our ids, `fields` what to write and what the CRM calls it; left out,
    all is written that the CRM has a place for. `output` is a new or empty folder; it appears whole or not at all.
    Raises UsageError if no lead can be found by its id there.
    """
    crm = CRMS[to]
    id_field = _id_field(crm, id_field)
    fields = _fields(crm, fields, id_field)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} holds something already. Name another folder.")
    scratch = output.absolute().with_name(f".{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        done = _write(
            crm, id_field, fields, _listed(source, tenant) if "://" in source else _read(Path(source)), scratch
        )
        scratch.replace(output)
    except OSError as problem:
        raise TouchstoneError(
            f"{output} cannot be written: {problem.strerror or problem}. Choose another place for it."
        ) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return done


def _write(crm: Crm, id_field: str, fields: Mapping[str, str], leads: Iterable[Scored], folder: Path) -> Pushed:
    count, left_out, named, files = 0, 0, list[str](), list[str]()

    def found() -> Iterator[Scored]:
        nonlocal left_out
        for lead in leads:
            if crm.accepts(lead.lead_id, id_field):
                yield lead
                continue
            left_out += 1
            if len(named) < _NAMED:
                named.append(lead.lead_id)

    mine = found()
    while some := [*islice(mine, crm.rows)]:
        count += len(some)
        files.append(f"scores-{len(files) + 1:05}{crm.ending}")
        (folder / files[-1]).write_text(crm.write(some, id_field, fields), encoding="utf-8", newline="")
    if left_out and not count:
        others = [name for name in crm.ids if name != id_field]
        mend = "Name the field that holds our ids with --id-field" if crm.own else "Score leads under the CRM's own ids"
        also = f" ({', '.join(others)}, or one of your own)" if others else ""
        raise UsageError(
            f"none of {left_out:,} leads has an id that {crm.name} knows as {id_field}: {', '.join(map(repr, named))}. "
            f"{mend}{also}."
        )
    return Pushed(count, tuple(files), left_out, tuple(named))


def _id_field(crm: Crm, asked: str | None) -> str:
    if asked is None:
        return next(iter(crm.ids))
    if not crm.own and asked not in crm.ids:
        raise UsageError(
            f"--id-field {asked}: {crm.name} finds a lead by its {', '.join(crm.ids)} alone. Leave it out."
        )
    return _name("--id-field", asked)


def _fields(crm: Crm, asked: Mapping[str, str] | None, id_field: str) -> Mapping[str, str]:
    """What to write. Raises UsageError for what cannot be."""
    fields = {name: _name(f"--field {name}", theirs) for name, theirs in (asked or crm.fields).items()}
    for name in fields:
        if name not in FIELDS:
            raise UsageError(f"--field {name}=...: a score has no {name!r}. Use one of {', '.join(FIELDS)}.")
    taken = [id_field, *fields.values()]
    if twice := next((name for name in taken if taken.count(name) > 1), None):
        raise UsageError(f"--field ...={twice}: two values would go there. Give each a field of its own.")
    return fields


def _name(option: str, given: str) -> str:
    if _NAME.fullmatch(given) is None:
        raise UsageError(f"{option} {given!r} is no name of a field. Use letters, digits and underscores.")
    return given


def _listed(url: str, tenant: str) -> Iterator[Scored]:
    """The ranking of the service, as the last sweep wrote it."""
    with closing(open_store(url, create=False)) as store:
        if tenant not in (known := store.tenants()):
            names = ", ".join(known[:10]) or "nobody"
            raise UsageError(f"--tenant {tenant}: nothing is stored for it, but for {names}.")
        routes = policy_of(store, tenant).policy.routes
        by_tier = ROUTES if routes is None else msgspec.to_builtins(routes)
        for row in _rows(store, tenant):
            yield Scored(
                lead_id=row.lead_id, probability=row.probability, score=row.score, tier=row.tier,
                route=by_tier[row.tier], reasons=(), as_of=to_datetime(row.as_of), model_version=row.model_version,
            )  # fmt: skip


def _rows(store: SqlStore, tenant: str) -> Iterator[ListedScore]:
    last = None
    while page := store.find(ListedScore, tenant, after=last, limit=_PAGE):
        yield from page
        last = page[-1]


def _read(path: Path) -> Iterator[Scored]:
    """The rows of a scored list. Raises TableError for what is none."""
    number = 1
    for batch in _batches(path):
        if missing := [name for name in _NEEDED if name not in batch.schema.names]:
            raise TableError(
                f"{path}: no column {', '.join(missing)}. Give a list that `touchstone score` wrote, as it wrote it."
            )
        for row in batch.to_pylist():
            number += 1
            yield _scored(row, f"{path} {'line' if path.suffix == '.csv' else 'row'} {number}", path.suffix == ".csv")


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix not in (".csv", ".parquet"):
        raise UsageError(
            f"{path}: scores come from a list, .csv or .parquet, or from a database, e.g. sqlite:///touchstone.db."
        )
    texts = {field.name: pa.string() for field in SCHEMA}
    numbers = {"probability": pa.float64(), "score": pa.int64()}
    convert = pyarrow.csv.ConvertOptions(column_types={**texts, **numbers}, strings_can_be_null=True, null_values=[""])
    try:
        if path.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(16_384)
        else:
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            with pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
                yield from reader
    except FileNotFoundError:
        raise TableError(f"{path}: no such list. Make one: touchstone score INPUT --output {path}.") from None
    except OSError as problem:
        raise TableError(f"{path} cannot be read: {problem.strerror or problem}.") from None
    except pa.ArrowInvalid as problem:
        raise TableError(f"{path} is no scored list: {str(problem).splitlines()[0]}.") from None


def _scored(row: Mapping[str, Any], where: str, text: bool) -> Scored:
    """One lead of a list; in a CSV (`text`) a quote may stand before what a spreadsheet would run."""
    cells: dict[str, Any] = {
        name: _unquoted(value) if text and isinstance(value, str) else value for name, value in row.items()
    }
    for name in _NEEDED:
        if cells[name] is None:
            raise TableError(f"{where}: {name} is empty. Give a list as `touchstone score` wrote it.")
    if cells["tier"] not in ROUTES:
        raise TableError(f"{where}: tier {cells['tier']!r} is not one of {', '.join(ROUTES)}.")
    if not 0 <= cells["probability"] <= 1:
        raise TableError(f"{where}: probability {cells['probability']} is not one of 0 to 1.")
    at = cells["as_of"]
    return Scored(
        lead_id=cells["lead_id"], probability=cells["probability"], score=cells["score"], tier=cells["tier"],
        route=cells["route"], reasons=tuple(cells[name] for name in REASONS if cells.get(name)),
        as_of=_instant(at) if isinstance(at, str) else at.astimezone(UTC), model_version=str(cells["model_version"]),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _instant(text: str) -> datetime:
    return to_datetime(to_us(text))


def _unquoted(text: str) -> str:
    return text[1:] if text.startswith(tuple(f"'{first}" for first in FORMULA)) else text
