"""The same 100 columns by polars, duckdb and pandas, each in the fastest way that was found.

All three go one way: sort by lead, mark each day's last touch, so that days with a touch can be counted like touches,
group once by lead and channel, and lay out the groups' figures as columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa

from features.history import Ints
from features.times import US_PER_DAY

# What lost, in CPU seconds on 1e6 leads; what stayed takes about 7 (polars), 10 (duckdb) and 13 (pandas).
# polars: one group_by of the leads with 100 filtered expressions 23; figures into columns by a second group_by or by
#   pivot +8 or more, by nine left joins +2; two keys instead of one number +1; days by n_unique or by a group_by of
#   their own +2 to +5; the in-memory engine +7. Text ids by a sort +14, by Categorical or a join about the same.
# duckdb: one GROUP BY of the leads with filters 35; figures into columns by a second GROUP BY +25; leads numbered by a
#   join +4; days by count(DISTINCT) +12, by a GROUP BY of their own +2; the Arrow table instead of one of its own +1.
# pandas: unstack +2; touches not sorted +5; np.bincount and np.minimum.at are no faster than groupby.

CHANNELS = ("call", "chat", "content", "demo", "email", "fair", "visit", "webinar", "mail", "website")
OWN = CHANNELS[:8]
"""The channels that have columns of their own; the two behind them are "other"."""
DAYS = (7, 30, 90, None)
HALF_LIVES = (7, 30)
SUM_DAYS = (30, None)

_GROUPS = len(OWN) + 1
_COUNT, _DECAYED, _SINCE, _FIRST, _SUM, _ACTIVE = range(0, 4), range(4, 6), 6, 7, range(8, 10), range(10, 14)
_FIGURES = tuple(f"figure_{k}" for k in range(14))
"""What is computed of each group, by place: the order of columns without the groups."""
_RATES = [math.log(2) / (days * US_PER_DAY) for days in HALF_LIVES]

Columns: TypeAlias = list[npt.NDArray[np.float32]]
"""(100,) of (leads,): as a data frame holds them."""
_AT = pl.col("occurred_at").to_physical()
_GROUP = pl.col("channel").to_physical().clip(upper_bound=_GROUPS - 1)
_DAY_ENDS = (_AT // US_PER_DAY).shift(-1) != _AT // US_PER_DAY
_Frame = TypeVar("_Frame", pl.DataFrame, pl.LazyFrame)


def _wide(leads: int) -> npt.NDArray[np.float32]:
    """Room for (figure, group, lead), as it is where a group has no touch."""
    wide = np.zeros((len(_FIGURES), _GROUPS, leads), np.float32)
    wide[[_SINCE, _FIRST]] = np.nan
    return wide


def _spread(lead: Ints, group: Ints, figures: Sequence[npt.NDArray[np.float32]]) -> Columns:
    """The columns, from the figures of each (lead, group) that has a touch."""
    wide = _wide(int(lead.max()) + 1)
    # Group by group: 2 times faster than all at once.
    for g in range(_GROUPS):
        mine = np.flatnonzero(group == g)
        place = lead[mine]
        for f, figure in enumerate(figures):
            wide[f, g, place] = figure[mine]
    return _columns(wide)


def _columns(wide: npt.NDArray[np.float32]) -> Columns:
    """Puts the figures of groups in the order of columns, and those of all groups together behind them."""
    apart = (_COUNT, _DECAYED, (_SINCE,), (_FIRST,), _SUM)
    return [
        *(wide[f, g] for together in apart for g in range(_GROUPS) for f in together),
        *(wide[f].sum(axis=0) for f in _COUNT),
        np.fmin.reduce(wide[_SINCE]),
        np.fmax.reduce(wide[_FIRST]),
        *(wide[f].sum(axis=0) for f in _ACTIVE),
    ]


def polars_frame(table: pa.Table) -> pl.DataFrame:
    """The table as polars likes it."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.with_columns(pl.col("channel").cast(pl.Enum(CHANNELS)))


def polars_by_lead(frame: pl.DataFrame) -> pl.DataFrame:
    """Sorts touches that are in order of time by `lead`: its id, or the place of its id where that is text."""
    lead = frame["lead_id"]
    if lead.dtype == pl.String:
        # Sorting by text would cost twice as much as all the rest.
        ids = frame.lazy().select(pl.col("lead_id").unique()).collect(engine="streaming").to_series().sort()
        lead = lead.cast(pl.Enum(ids)).to_physical()
    return frame.with_columns(lead.alias("lead")).drop("lead_id").sort("lead", maintain_order=True)


def polars_columns(frame: pl.DataFrame, as_of: int) -> Columns:
    """The columns of all leads as of one instant."""
    return polars_sorted(polars_by_lead(frame), as_of)


def polars_sorted(rows: pl.DataFrame, as_of: int) -> Columns:
    """The columns of all leads, from touches that `polars_by_lead` sorted."""
    lead = pl.col("lead")
    key, last = lead.rle_id().cast(pl.Int64) * _GROUPS + _GROUP, _DAY_ENDS | (lead != lead.shift(-1))
    found = _polars_figures(rows.lazy(), as_of, key, last).collect(engine="streaming")
    place = found["key"].to_numpy()
    return _spread(place // _GROUPS, place % _GROUPS, [found[name].to_numpy() for name in _FIGURES])


def polars_plain(frame: pl.DataFrame, as_of: int) -> Columns:
    """The columns of all leads as of one instant as one would write them down: one group_by, an expression a column."""
    age, value, day = as_of - _AT, pl.col("value"), _AT // US_PER_DAY
    recent = {days: pl.lit(True) if days is None else age <= days * US_PER_DAY for days in DAYS}
    mine = [g == _GROUP for g in range(_GROUPS)]
    columns = [
        *((own & recent[days]).sum() for own in mine for days in DAYS),
        *((age * -rate).exp().filter(own).sum() for own in mine for rate in _RATES),
        *(age.filter(own).min() / US_PER_DAY for own in mine),
        *(age.filter(own).max() / US_PER_DAY for own in mine),
        *(value.filter(own & recent[days]).sum() for own in mine for days in SUM_DAYS),
        *(recent[days].sum() if days else pl.len() for days in DAYS),
        age.min() / US_PER_DAY,
        age.max() / US_PER_DAY,
        *(day.filter(recent[days]).n_unique() for days in DAYS),
    ]
    named = [column.cast(pl.Float32).alias(str(k)) for k, column in enumerate(columns)]
    found = frame.lazy().group_by("lead_id").agg(named).sort("lead_id").collect(engine="streaming")
    return [found[str(k)].to_numpy() for k in range(len(columns))]


def polars_alone(frame: pl.DataFrame, as_of: int) -> Columns:
    """The columns of one lead, from its touches in order of time."""
    # On a few rows an optimizer or an engine costs more than it saves; 100 filtered expressions cost 5 times as much.
    found = _polars_figures(frame, as_of, _GROUP, _DAY_ENDS).to_numpy()
    wide = _wide(1)
    wide[:, found[:, 0].astype(np.int64), 0] = found[:, 1:].T
    return _columns(wide)


def _polars_figures(rows: _Frame, as_of: int, key: pl.Expr, last: pl.Expr) -> _Frame:
    aged = rows.with_columns(age=as_of - _AT, key=key, last=last.fill_null(True))
    return aged.group_by("key").agg(_polars_aggregates())


@cache
def _polars_aggregates() -> list[pl.Expr]:
    """The figures of a group, from `age`, `value` and `last`."""
    age, value, last = pl.col("age"), pl.col("value"), pl.col("last")
    recent = {days: age <= days * US_PER_DAY for days in DAYS if days is not None}
    figures: list[pl.Expr] = [
        *(pl.len() if days is None else recent[days].sum() for days in DAYS),
        *((age * -rate).exp().sum() for rate in _RATES),
        age.min() / US_PER_DAY,
        age.max() / US_PER_DAY,
        *((value if days is None else value.filter(recent[days])).sum() for days in SUM_DAYS),
        *((last if days is None else last & recent[days]).sum() for days in DAYS),
    ]
    return [figure.cast(pl.Float32).alias(name) for name, figure in zip(_FIGURES, figures, strict=True)]


def duckdb_table(table: pa.Table) -> duckdb.DuckDBPyConnection:
    """The table as duckdb likes it: its own, with the channel as an enum."""
    connection = duckdb.connect(config={"threads": pl.thread_pool_size()})
    connection.execute(f"CREATE TYPE channels AS ENUM {CHANNELS}")
    connection.register("given", table)
    connection.execute(
        "CREATE TABLE touches AS SELECT lead_id, occurred_at, channel::VARCHAR::channels AS channel, value FROM given"
    )
    return connection


def duckdb_columns(connection: duckdb.DuckDBPyConnection, as_of: int) -> Columns:
    """The columns of all leads as of one instant."""

    def within(days: int | None, also: str = "TRUE") -> str:
        return f"FILTER ({also})" if days is None else f"FILTER ({also} AND age <= {days * US_PER_DAY})"

    figures = [
        *(f"count(*) {within(days)}" for days in DAYS),
        *(f"sum(exp(age * {-rate!r}))" for rate in _RATES),
        f"min(age) / {US_PER_DAY}",
        f"max(age) / {US_PER_DAY}",
        *(f"coalesce(sum(value) {within(days)}, 0)" for days in SUM_DAYS),
        *(f"count(*) {within(days, 'last')}" for days in DAYS),
    ]
    named = ", ".join(f"({figure})::FLOAT AS {name}" for name, figure in zip(_FIGURES, figures, strict=True))
    found = connection.execute(f"""
        WITH aged AS (
            SELECT lead_id, value, least(enum_code(channel), {_GROUPS - 1}) AS place,
                {as_of} - epoch_us(occurred_at) AS age, epoch_us(occurred_at) // {US_PER_DAY} AS day
            FROM touches
        ), marked AS (
            SELECT *, lead(day) OVER (PARTITION BY lead_id ORDER BY age DESC) IS DISTINCT FROM day AS last FROM aged
        )
        SELECT lead_id, place, {named} FROM marked GROUP BY lead_id, place
    """).fetchnumpy()
    lead, _ = pd.factorize(found["lead_id"], sort=True)
    return _spread(lead, found["place"], [found[name] for name in _FIGURES])


def pandas_columns(frame: pd.DataFrame, as_of: int) -> Columns:
    """The columns of all leads as of one instant."""
    rows = frame.sort_values("lead_id", kind="stable", ignore_index=True)
    lead, at = pd.factorize(rows["lead_id"])[0], rows["occurred_at"].to_numpy("int64")
    age, day, value = as_of - at, at // US_PER_DAY, rows["value"].to_numpy()
    last = np.append((day[1:] != day[:-1]) | (lead[1:] != lead[:-1]), True)
    recent = {days: last | True if days is None else age <= days * US_PER_DAY for days in DAYS}
    summed = [
        *(recent[days] for days in DAYS),
        *(np.exp(-rate * age) for rate in _RATES),
        *(value if days is None else np.where(recent[days], value, 0) for days in SUM_DAYS),
        *(last & recent[days] for days in DAYS),
    ]
    names = [name for f, name in enumerate(_FIGURES) if f not in (_SINCE, _FIRST)]
    key = lead * _GROUPS + np.minimum(rows["channel"].cat.codes, _GROUPS - 1)
    groups = pd.DataFrame({"age": age, **dict(zip(names, summed, strict=True))}, copy=False).groupby(key, sort=False)
    found = groups[names].sum()
    found[_FIGURES[_SINCE]] = groups["age"].min() / US_PER_DAY
    found[_FIGURES[_FIRST]] = groups["age"].max() / US_PER_DAY
    place = np.array(found.index, np.int64)
    return _spread(place // _GROUPS, place % _GROUPS, [np.array(found[name], np.float32) for name in _FIGURES])


class Peer(NamedTuple):
    """A library: the form in which it wants the table, and its way from there to the columns."""

    form: Callable[[pa.Table], Any]
    columns: Callable[[Any, int], Columns]


PEERS = {
    "polars, one group_by": Peer(polars_frame, polars_plain),
    "polars": Peer(polars_frame, polars_columns),
    "duckdb": Peer(duckdb_table, duckdb_columns),
    "pandas": Peer(pa.Table.to_pandas, pandas_columns),
}
