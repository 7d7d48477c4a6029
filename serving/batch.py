"""Lists of every open lead of a dataset, with their scores or their features, written as CSV or Parquet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from features.definitions import LEAD_FEATURES
from features.errors import TouchstoneError, UsageError
from features.feature import FeatureSet
from features.history import Cohort, Dataset
from features.times import isoformat
from models.scorer import Scorer, scored_list

SCHEMA = pa.schema([
    ("lead_id", pa.string()),
    ("as_of", pa.timestamp("us", "UTC")),
    ("horizon_days", pa.float64()),
    ("probability", pa.float64()),
    ("lower", pa.float64()),
    ("upper", pa.float64()),
    ("score", pa.int64()),
    ("tier", pa.string()),
    ("route", pa.string()),
    ("reason_1", pa.string()),
    ("reason_2", pa.string()),
    ("reason_3", pa.string()),
    ("model_version", pa.string()),
])  # fmt: skip
"""The scored list."""


@dataclass(frozen=True)
class ListSummary:
    """What was scored.

    >>> ListSummary(scored=3, tiers={"hot": 1, "warm": 0, "cold": 2}, closed=1, later=0, as_of="2026-02-01T00:00:00Z",
    ...             output="scored.csv").tiers["hot"]
    1
    """

    scored: int
    tiers: Mapping[str, int]
    closed: int
    """Leads that had an outcome, or were merged into another, before as_of; they are not scored."""
    later: int
    """Leads created at as_of or later; they are not scored."""
    as_of: str
    output: str


def score_list(scorer: Scorer, dataset: Dataset, as_of: int, output: Path, reasons: int = 0) -> ListSummary:
    """Scores the leads that are open at `as_of` (microseconds) and writes them in the order of the leads table.

    Up to 3 reasons are given for each score. The file appears whole or not at all.
    """
    check_ending(output)
    cohort = dataset.open_at(as_of)
    scores = scorer.score(dataset, cohort, reasons, threads=os.cpu_count() or 1)
    table = pa.table(scored_list(scorer, dataset, cohort, scores), schema=SCHEMA)
    _write(table, output)
    later = int((dataset.created_at >= as_of).sum())
    counts = Counter(scores.tiers)
    return ListSummary(
        scored=len(cohort),
        tiers={tier: counts[tier] for tier in ("hot", "warm", "cold")},
        closed=len(dataset) - later - len(cohort),
        later=later,
        as_of=isoformat(as_of),
        output=str(output),
    )


def write_features(dataset: Dataset, until: int, every: float | None, output: Path) -> tuple[int, int]:
    """Writes lead_id, as_of and the features of every lead open at `until`, and each `every` days before it.

    The vocabulary is learned from what was known at `until` (microseconds). Returns how many rows and features.
    """
    known = dataset.known_at(until)
    start = until if every is None else int(known.created_at.min(initial=until)) + 1
    cohort = Cohort.grid(known, every=every or 1, start=start, stop=until)
    feature_set = FeatureSet.fit(LEAD_FEATURES, known)
    matrix = feature_set.compute(known, cohort)
    columns = {
        "lead_id": pa.array(known.ids, pa.string()).take(pa.array(cohort.lead)),
        "as_of": pa.array(cohort.as_of, pa.timestamp("us", "UTC")),
        **{name: matrix[:, k] for k, name in enumerate(feature_set.names)},
    }
    _write(pa.table(columns), output)
    return len(cohort), len(feature_set.names)


def check_ending(output: Path) -> None:
    """Raises UsageError if a list cannot be written under such a name."""
    if output.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{output}: a list is written as .csv or .parquet; got {output.suffix or 'no ending'!r}.")


def _write(table: pa.Table, output: Path) -> None:
    scratch = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.suffix == ".parquet":
            pa.parquet.write_table(table, scratch)
        else:
            pa.csv.write_csv(_for_csv(table), scratch)
        scratch.replace(output)
    except OSError as problem:
        raise TouchstoneError(
            f"{output} cannot be written: {problem.strerror or problem}. Choose another place for it."
        ) from None
    finally:
        with suppress(OSError):
            scratch.unlink()


def _for_csv(table: pa.Table) -> pa.Table:
    """Times in ISO 8601, and no cell that a spreadsheet would run as a formula: a quote goes before it."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            distinct = pc.unique(column)
            texts = pa.array([isoformat(us) for us in distinct.cast(pa.int64()).to_pylist()], pa.string())
            column = texts.take(pc.index_in(column, value_set=distinct))
        elif pa.types.is_string(column.type):
            column = pc.replace_substring_regex(column, r"^([=+\-@\t\r\n])", r"'\1")
        columns[name] = column
    return pa.table(columns)
