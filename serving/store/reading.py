"""A lead as it is read back: one query, and what its rows mean together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import msgspec

from features.records import AttributeFact, LeadRecord, Recorded, Touchpoint, Value
from features.times import NEVER, datetime_us
from serving.store.rows import ReadOutcome, StoredLead

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SQL = """
WITH RECURSIVE wanted(lead_id) AS (SELECT lead_id FROM leads WHERE tenant = :tenant AND {which}),
ids(root, id, since) AS (
    SELECT lead_id, lead_id, CAST(-9223372036854775807 AS BIGINT) FROM wanted
    UNION ALL
    SELECT i.root, a.lead_id, CASE WHEN a.occurred_at > i.since THEN a.occurred_at ELSE i.since END
    FROM ids i JOIN aliases a ON a.tenant = :tenant AND a.same_as = i.id
)
SELECT 0, i.root, i.id, i.since, l.created_at, l.seen_at, l.attributes, NULL, CAST(NULL AS DOUBLE PRECISION), NULL
FROM ids i JOIN leads l ON l.tenant = :tenant AND l.lead_id = i.id
UNION ALL
SELECT 1, i.root, i.id, i.since, t.occurred_at, t.recorded_at, t.channel, t.action, t.value, t.message_id
FROM ids i JOIN touchpoints t ON t.tenant = :tenant AND t.lead_id = i.id
UNION ALL
SELECT 2, i.root, i.id, i.since, f.occurred_at, f.recorded_at, f.name, f.value, NULL, NULL
FROM ids i JOIN facts f ON f.tenant = :tenant AND f.lead_id = i.id
UNION ALL
SELECT 3, i.root, i.id, i.since, o.occurred_at, o.recorded_at, CASE WHEN o.won THEN 'won' ELSE 'lost' END, NULL,
    o.amount, NULL
FROM ids i JOIN outcomes o ON o.tenant = :tenant AND o.lead_id = i.id
UNION ALL
SELECT 4, i.lead_id, NULL, NULL, a.occurred_at, NULL, a.same_as, NULL, NULL, NULL
FROM wanted i JOIN aliases a ON a.tenant = :tenant AND a.lead_id = i.lead_id
"""
ONE = _SQL.format(which="lead_id = :lead_id")
PAGE = _SQL.format(which="lead_id > :after ORDER BY lead_id LIMIT :size")
"""Leads in the order of their ids; the empty text comes before all of them."""
_LEAD, _TOUCH, _FACT, _OUTCOME, _LINK = range(5)
_VALUE = msgspec.json.Decoder(Value)
_VALUES = msgspec.json.Decoder(dict[str, Value])


def some(dialect: str) -> str:
    """The query of the leads among a list of ids."""
    listed = "IN (SELECT value FROM json_each(:ids))" if dialect == "sqlite" else "= ANY(:ids)"
    return _SQL.format(which=f"lead_id {listed}")


class _Gathered:
    """What the rows say of one lead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.created: dict[str, int] = {}
        """When each id was created, where somebody said so."""
        self.first: dict[str, int] = {}
        """The first touch of each id."""
        self.since: dict[str, int] = {}
        self.seen_at = NEVER
        self.attributes: dict[str, Value] = {}
        self.touches: list[Touchpoint] = []
        self.facts: list[AttributeFact] = []
        self.outcomes: list[tuple[int, int, bool, ReadOutcome]] = []
        """In the order in which they count: as they occurred, then as they were recorded under their own id."""
        self.touch_told: dict[int, int] = {}
        """When the touches that a link passed on were recorded, by their place."""
        self.fact_told: dict[int, int] = {}
        self.link: tuple[str | None, int] = None, NEVER

    def add(self, row: tuple[Any, ...]) -> None:
        part, _, name, since, at, recorded, word, detail, number, message = row
        if part == _TOUCH:
            if at < self.first.get(name, NEVER):
                self.first[name] = at
            known = recorded
            if since > recorded:
                known = since
                self.touch_told[len(self.touches)] = max(at, recorded)
            self.touches.append(
                Touchpoint(
                    _EPOCH + timedelta(microseconds=at), word, detail or None, number,
                    None if known <= at else _EPOCH + timedelta(microseconds=known), message,
                )
            )  # fmt: skip
        elif part == _LEAD:
            self.since[name] = since
            if at is not None:
                self.created[name] = at
            if name == self.name:
                self.seen_at, self.attributes = recorded, _VALUES.decode(word)
        elif part == _FACT:
            known = max(at, recorded)
            if since > known:
                self.fact_told[len(self.facts)] = known
                known = since
            self.facts.append(AttributeFact(_datetime(at), word, _VALUE.decode(detail), _datetime(known)))
        elif part == _OUTCOME:
            known, won = max(at, recorded), word == "won"
            self.outcomes.append((at, known, not won, ReadOutcome(at, max(since, known), won, number)))
        else:
            self.link = word, at

    def lead(self) -> StoredLead:
        """Puts it together as `features.tables` does: without a word on it, a lead begins with its first touch."""
        created = self.created.get(self.name)
        if created is None:
            begun = self.first | self.created
            created = min((max(self.since[name], at) for name, at in begun.items()), default=self.seen_at)
        self.outcomes.sort(key=itemgetter(0, 1, 2))
        record = LeadRecord(
            lead_id=self.name, created_at=_datetime(created), attributes=self.attributes,
            attribute_facts=tuple(self.facts), touchpoints=tuple(self.touches),
        )  # fmt: skip
        recorded = None
        if self.touch_told or self.fact_told:
            recorded = Recorded(_told(self.touches, self.touch_told), _told(self.facts, self.fact_told))
        return StoredLead(record, tuple(outcome for *_, outcome in self.outcomes), *self.link, recorded)


def gather(rows: Iterable[tuple[Any, ...]]) -> dict[str, StoredLead]:
    """Makes leads of the rows of the query, in the order of their ids."""
    found: dict[str, _Gathered] = {}
    for row in rows:
        name = row[1]
        if name not in found:
            found[name] = _Gathered(name)
        found[name].add(row)
    return {name: found[name].lead() for name in sorted(found)}


def _told(rows: Sequence[Touchpoint | AttributeFact], otherwise: Mapping[int, int]) -> tuple[int, ...]:
    """When each became known under its own id."""
    return tuple(
        otherwise[i] if i in otherwise else datetime_us(row.recorded_at or row.occurred_at)
        for i, row in enumerate(rows)
    )


def _datetime(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
