"""Messages become rows: what counts, what is there already, and what contradicts what is known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import Connection, Table, bindparam, select, text, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from features.errors import UsageError
from features.records import LONGEST, Value
from features.times import isoformat
from features.words import kind_word
from serving.store import tables
from serving.store.protocol import Written
from serving.store.records import Quarantined
from serving.store.rows import FIRST, LAST, Alias, Fact, Lead, Message, Outcome, Touch

Cells: TypeAlias = dict[str, Any]


def insert_new(connection: Connection, table: Table, rows: Sequence[Cells]) -> set[Any]:
    """Inserts the rows that are not there yet; returns their keys, without the tenant."""
    if not rows:
        return set()
    key = _key(table)
    # In one order, so that two writers who share rows wait for each other instead of locking each other out.
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in key))
    found = connection.execute(_insert(table, connection.dialect.name), ordered)
    return {tuple(row) for row in found}


@cache
def _key(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key.columns)[1:]


@cache
def _insert(table: Table, dialect: str) -> Any:
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    returned = [table.c[name] for name in _key(table)] or [table.c.tenant]
    return insert.on_conflict_do_nothing().returning(*returned)


def register(connection: Connection, tenant: str) -> None:
    """Remembers a tenant."""
    insert_new(connection, tables.tenants, [{"tenant": tenant}])


def linked(connection: Connection, tenant: str, name: str) -> set[str]:
    """Returns every id that a person goes by, in whatever direction they were linked."""
    aliases = tables.aliases.c
    found, new = {name}, {name}
    while new:
        pairs = select(aliases.lead_id, aliases.same_as).where(aliases.tenant == tenant)
        either = pairs.where(aliases.lead_id.in_(new)), pairs.where(aliases.same_as.in_(new))
        rows = connection.execute(union_all(*either))
        new = {one for row in rows for one in row} - found
        found |= new
    return found


def write(connection: Connection, tenant: str, messages: Sequence[Message], now: int) -> Written:
    """Writes messages in the transaction of a connection; `now` is when they came in."""
    register(connection, tenant)
    batch = _Batch(tenant, now)
    digests = [_message_digest(message) for message in messages]
    claimed = insert_new(
        connection, tables.messages, [{"tenant": tenant, "digest": digest} for digest in digests if digest]
    )
    taken: list[list[_Place] | None] = []
    for message, digest in zip(messages, digests, strict=True):
        if digest is not None and (digest,) not in claimed:
            taken.append(None)
            continue
        claimed.discard((digest,))
        taken.append(batch.add(message, digest))
    new = batch.store(connection)
    counts = {"new": 0, "duplicates": 0, "quarantined": 0}
    for places, digest in zip(taken, digests, strict=True):
        what = "duplicates"
        if places is not None:
            fresh = [place for place in places if place in new]
            # What two messages of the batch say alike is new once.
            new.difference_update(fresh)
            if any(place in batch.refused for place in places):
                what = "quarantined"
            elif fresh or digest is not None:
                what = "new"
        counts[what] += 1
    return Written(**counts)


_Place: TypeAlias = tuple[str, tuple[Any, ...]]
"""A row: its table and key."""


class _Batch:
    """The rows of the messages of one write that count."""

    def __init__(self, tenant: str, now: int) -> None:
        self.tenant = tenant
        self.now = now
        self.rows: defaultdict[Table, list[Cells]] = defaultdict(list)
        self.seen: dict[str, int] = {}
        """The leads that the rows are of, and when they were first heard of."""
        self.leads: list[tuple[Lead, int, _Place]] = []
        self.aliases: list[tuple[Alias, _Place]] = []
        self.refused: set[_Place] = set()

    def add(self, message: Message, digest: bytes | None) -> list[_Place]:
        """Takes the rows of a message; returns where each one goes."""
        known = self.now if message.recorded_at is None else min(_instant(message.recorded_at), self.now)
        if digest is not None and sum(isinstance(row, Touch) for row in message.rows) > 1:
            raise UsageError(
                f"message {message.message_id!r} holds several touches, which would count as one. "
                "Give each a message of its own."
            )
        return [self._add(row, message, digest, known) for row in message.rows]

    def _add(self, row: Any, message: Message, digest: bytes | None, known: int) -> _Place:
        match row:
            case Touch():
                return self._touch(row, message, digest, known)
            case Fact():
                name, value = kind_word(word(row.name, "name")), _json(row.value)
                said = {"occurred_at": _instant(row.occurred_at), "name": name, "value": value}
                return self._of_lead(tables.facts, row.lead_id, known, said)
            case Outcome():
                said = {"occurred_at": _instant(row.occurred_at), "won": row.won, "amount": _number(row.amount)}
                return self._of_lead(tables.outcomes, row.lead_id, known, said)
            case Lead():
                place = "lead", (len(self.leads),)
                self.leads.append((msgspec.structs.replace(row, lead_id=self._lead(row.lead_id, known)), known, place))
                return place
            case Alias():
                place = "alias", (len(self.aliases),)
                one, other = word(row.lead_id, "lead_id"), self._lead(row.same_as, known)
                self.aliases.append((Alias(one, other, _instant(row.occurred_at), row.firm), place))
                return place
            case Quarantined():
                place = self._quarantine(row)
                self.refused.add(place)
                return place
        raise UsageError(f"{type(row).__name__} is no row of a message.")

    def _touch(self, touch: Touch, message: Message, digest: bytes | None, known: int) -> _Place:
        action = kind_word(storable(touch.action)) if touch.action and not touch.action.isspace() else ""
        said = {
            "occurred_at": _instant(touch.occurred_at), "channel": kind_word(word(touch.channel, "channel")),
            "action": action, "value": _number(touch.value),
        }  # fmt: skip
        source_and_id = None if digest is None else f"{message.source.strip()}:{(message.message_id or '').strip()}"
        return self._of_lead(tables.touchpoints, touch.lead_id, known, said, digest, message_id=source_and_id)

    def _of_lead(
        self, table: Table, lead_id: str, known: int, said: Cells, digest: bytes | None = None, **more: Any
    ) -> _Place:
        """A row of a lead; where no message says what it is, what it says does."""
        name, digest = self._lead(lead_id, known), digest or _digest(*map(repr, said.values()))
        row = {"tenant": self.tenant, "lead_id": name, "digest": digest, "recorded_at": known, **said, **more}
        self.rows[table].append(row)
        return table.name, (name, digest)

    def _lead(self, lead_id: str, known: int) -> str:
        name = word(lead_id, "lead_id")
        self.seen[name] = min(known, self.seen.get(name, known))
        return name

    def _quarantine(self, row: Quarantined) -> _Place:
        texts = {"reason": storable(row.reason), "body": _clean(row.body), "source": storable(row.source)}
        name = _digest(*texts.values()).hex()
        lead = None if row.lead_id is None else storable(row.lead_id).strip()
        cells = {"tenant": self.tenant, "id": name, "lead_id": lead, "received_at": self.now}
        self.rows[tables.quarantine].append({**cells, **texts})
        return tables.quarantine.name, (name,)

    def store(self, connection: Connection) -> set[_Place]:
        """Stores the rows; returns those that were not there."""
        seen = [
            {"tenant": self.tenant, "lead_id": name, "created_at": None, "seen_at": at, "attributes": "{}"}
            for name, at in self.seen.items()
        ]
        unheard = {name for (name,) in insert_new(connection, tables.leads, seen)}
        new = self._describe(connection, unheard) | self._link(connection)
        for table in (tables.touchpoints, tables.facts, tables.outcomes, tables.quarantine):
            new |= {(table.name, key) for key in insert_new(connection, table, self.rows[table])}
        return new

    def _describe(self, connection: Connection, unheard: set[str]) -> set[_Place]:
        """Sets when leads were created and what was known of them then; what a later row says otherwise is a fact."""
        described = _described(connection, self.tenant, {lead.lead_id for lead, _, _ in self.leads})
        changed: dict[str, _Described] = {}
        new: set[_Place] = set()
        for lead, known, place in self.leads:
            name, one = lead.lead_id, described[lead.lead_id]
            said = {kind_word(word(label, "attributes")): _json(value) for label, value in lead.attributes.items()}
            differs = {label: value for label, value in said.items() if one.current.get(label) != value}
            first = one.created_at is None and lead.created_at is not None
            if name in unheard or differs or (one.created_at is None and lead.created_at is not None):
                unheard.discard(name)
                new.add(place)
            if one.created_at is None and lead.created_at is not None:
                one.created_at, changed[name] = _instant(lead.created_at), one
            if first and said:
                one.base, changed[name] = said, one
            elif not first:
                for label, value in differs.items():
                    self._of_lead(tables.facts, name, known, {"occurred_at": known, "name": label, "value": value})
            one.current |= said
        if changed:
            leads = tables.leads.c
            mine = (leads.tenant == self.tenant) & (leads.lead_id == bindparam("name"))
            values: Cells = {"created_at": bindparam("created"), "attributes": bindparam("base")}
            rows = [{"name": name, "created": one.created_at, "base": one.document()} for name, one in changed.items()]
            connection.execute(update(tables.leads).where(mine).values(values), rows)
        return new

    def _link(self, connection: Connection) -> set[_Place]:
        """Stores the links that hold together with those there are; others are set aside."""
        if self.aliases and connection.dialect.name == "postgresql":
            # Two links that are each right alone may make a ring.
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext('aliases'), hashtext(:t))"), {"t": self.tenant}
            )
        new: set[_Place] = set()
        links = _Links(
            connection, self.tenant, {n for alias, _ in self.aliases for n in (alias.lead_id, alias.same_as)}
        )
        fresh: list[Cells] = []
        for alias, place in self.aliases:
            one, other = alias.lead_id, alias.same_as
            there = links.target(one)
            if there == other or (there is not None and not alias.firm):
                continue
            if one == other or one in links.chain(other):
                if not alias.firm:
                    continue
                problem = f"{other!r} would make {one!r} the same as itself."
            elif there is not None:
                problem = f"{other!r} cannot be, for {one!r} is the same as {there!r} already."
            else:
                cells = {"lead_id": one, "same_as": other, "occurred_at": alias.occurred_at}
                fresh.append({"tenant": self.tenant, **cells})
                links.add(one, other)
                new.add(place)
                continue
            body = {"lead_id": one, "same_as": other, "occurred_at": isoformat(alias.occurred_at)}
            self._quarantine(
                Quarantined(reason=f"same_as: {problem}", body=msgspec.json.encode(body).decode(), lead_id=one)
            )
            self.refused.add(place)
        insert_new(connection, tables.aliases, fresh)
        return new


@dataclass
class _Described:
    """What is known of a lead besides what happened; values are JSON."""

    created_at: int | None
    base: dict[str, str]
    """The attributes at creation."""
    current: dict[str, str]
    """The attributes now."""

    def document(self) -> str:
        """The attributes at creation as they are stored."""
        return msgspec.json.encode({label: msgspec.Raw(value.encode()) for label, value in self.base.items()}).decode()


def _described(connection: Connection, tenant: str, names: set[str]) -> dict[str, _Described]:
    if not names:
        return {}
    leads, facts = tables.leads.c, tables.facts.c
    rows = connection.execute(
        select(leads.lead_id, leads.created_at, leads.attributes)
        .where(leads.tenant == tenant, leads.lead_id.in_(names))
        .order_by(leads.lead_id)
        # Not against those who only refer to the lead.
        .with_for_update(key_share=True)
    )
    found = {}
    for name, created_at, document in rows:
        raw = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        base = {label: bytes(value).decode() for label, value in raw.items()}
        found[name] = _Described(created_at, base, dict(base))
    changes = connection.execute(
        select(facts.lead_id, facts.name, facts.value)
        .where(facts.tenant == tenant, facts.lead_id.in_(names))
        .order_by(facts.occurred_at, facts.recorded_at)
    )
    for name, label, value in changes:
        found[name].current[label] = value
    return found


class _Links:
    """What ids were linked to; those of a batch are read at once."""

    def __init__(self, connection: Connection, tenant: str, names: set[str]) -> None:
        self._connection, self._tenant = connection, tenant
        self._targets: dict[str, str | None] = {}
        self._read(names)

    def _read(self, names: set[str]) -> None:
        aliases = tables.aliases.c
        mine = (aliases.tenant == self._tenant) & aliases.lead_id.in_(names)
        found = self._connection.execute(select(aliases.lead_id, aliases.same_as).where(mine)) if names else ()
        self._targets |= dict.fromkeys(names) | {one: other for one, other in found}

    def add(self, one: str, other: str) -> None:
        """Takes a new link."""
        self._targets[one] = other

    def target(self, name: str) -> str | None:
        """What an id was linked to, if it was."""
        if name not in self._targets:
            self._read({name})
        return self._targets[name]

    def chain(self, name: str) -> Iterable[str]:
        """The ids that one came to mean, one after another."""
        while (target := self.target(name)) is not None:
            name = target
            yield name


def _message_digest(message: Message) -> bytes | None:
    """What tells a message from all others of the tenant; None if nothing does, or if it was not taken."""
    if not message.message_id or message.message_id.isspace() or any(isinstance(r, Quarantined) for r in message.rows):
        return None
    source = word(message.source, "source")
    if ":" in source:
        raise UsageError(f"source {source!r} holds a colon. Name it without one.")
    return _digest(source, word(message.message_id, "message_id"))


def _digest(*texts: str) -> bytes:
    return blake2b("\0".join(texts).encode(), digest_size=16).digest()


def _instant(at: int) -> int:
    if not FIRST <= at <= LAST:
        raise UsageError(f"the time {at} is beyond the years 1 to 9999. Give microseconds since 1970.")
    return int(at)


def _number(value: float | None) -> float | None:
    """A number as it is stored: NaN is nothing, and there is one zero."""
    try:
        number = math.nan if value is None else float(value) + 0.0
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise UsageError(f"{value} is no number that can be stored. Leave it out.")
    return None if math.isnan(number) else number


def _json(value: Value) -> str:
    if isinstance(value, str):
        value = storable(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        value = _number(value)
    return msgspec.json.encode(value).decode()


def word(given: str, what: str) -> str:
    """A text that names something, without blanks around it. Raises UsageError if it cannot."""
    word = storable(given).strip()
    if not 0 < len(word) <= LONGEST:
        raise UsageError(f"{what} {given[:LONGEST]!r} has {len(word):,} characters. Give 1 to {LONGEST}.")
    return word


def storable(given: str) -> str:
    """The text itself. Raises UsageError if a database would refuse it."""
    if not given.isascii() or "\0" in given:
        clean = _clean(given)
        if clean != given:
            raise UsageError(f"{given[:LONGEST]!r} holds NUL or half a character, which not every database takes.")
    return given


def _clean(given: str) -> str:
    """A text that every database takes."""
    return given.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
