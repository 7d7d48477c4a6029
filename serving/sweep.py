"""The listed ranking: all open leads are scored in the background, so that the best can be asked for in order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from threading import Event

import msgspec
import numpy as np

from features.history import Attributes, Cohort, Floats
from features.times import datetime_us
from features.words import kind_word, word_number
from models.scorer import Scorer
from models.tiers import TIERS
from serving.background import SYSTEM
from serving.policy import InForce, Worth, policy_of
from serving.service import Service
from serving.store import ListedScore, Setting, Store, StoredLead, dataset_of_stored
from serving.webhooks import COLD, told_of

_CHUNK = 250
"""Leads at a time: few, so that requests get their turn in between."""
_AT_ONCE = 100
"""Leads that are ranked at once because something came in of them."""
_TRIES = 3
"""Each beginning from what others ranked meanwhile; then theirs stays."""
_SWEPT = "swept"


class Swept(msgspec.Struct, frozen=True):
    """What a sweep did for one tenant.

    >>> Swept(as_of=0, leads=3, seconds=0.2).leads
    3
    """

    as_of: int
    leads: int
    """Open ones, which are listed now."""
    seconds: float


def sweep(service: Service, stopping: Event) -> list[Swept]:
    """Makes the ranking of every tenant anew; ends early, and leaves what was, where it is to stop."""
    found = []
    for tenant in service.store.tenants():
        if tenant != SYSTEM and not stopping.is_set():
            found += sweep_tenant(service, tenant, stopping)
    return found


def sweep_tenant(service: Service, tenant: str, stopping: Event) -> list[Swept]:
    """Makes the ranking of one tenant anew: every open lead is listed, and those that closed go."""
    store, begun, as_of = service.store, time.monotonic(), time.time_ns() // 1_000
    policy = policy_of(store, tenant)
    count = 0
    for leads in store.stream(tenant, _CHUNK):
        if stopping.is_set():
            return []
        count += rank(service, tenant, policy, leads, as_of)
        # A thread that computes would otherwise hold the interpreter whenever a request wants it.
        time.sleep(0.001)
    store.remove(ListedScore, tenant, before={"as_of": as_of}).result()
    done = Swept(as_of, count, time.monotonic() - begun)
    store.put(tenant, [Setting(name=_SWEPT, body=msgspec.structs.asdict(done))]).result()
    return [done]


def rank_touched(service: Service) -> None:
    """Ranks some of the leads of which something came in to this worker."""
    store = service.store
    for tenant, lead_ids in service.touched.take(_AT_ONCE).items():
        found = store.read_many(tenant, lead_ids)
        service.touched.add(tenant, [lead.same_as for lead in found.values() if lead.same_as is not None])
        rank(service, tenant, policy_of(store, tenant), [*found.values()], time.time_ns() // 1_000)


def last_sweep(store: Store, tenant: str) -> Swept | None:
    """The last whole sweep of a tenant's leads; None before the first."""
    found = store.find(Setting, tenant, {"name": _SWEPT}, limit=1)
    return msgspec.convert(found[0].body, Swept) if found else None


def rank(service: Service, tenant: str, policy: InForce, leads: Sequence[StoredLead], as_of: int) -> int:
    """Ranks the leads that are open, and tells of those whose tier changes; returns how many are.

    A lead that is ranked as of a later time already stays so: its ranking, the log of its tiers and what is sent of it
    are written together, and only where nobody else ranked it meanwhile and it was not deleted.
    """
    store, scorer = service.store, policy.scorer(service.scorer)
    opened = [lead for lead in leads if lead.open_at(as_of) and _created(lead) < as_of]
    for _ in range(_TRIES):
        found = store.find(ListedScore, tenant, {"lead_id": [lead.record.lead_id for lead in opened]})
        listed = {row.lead_id: row for row in found if row.as_of < as_of}
        later = {row.lead_id for row in found} - set(listed)
        asked = [lead for lead in opened if lead.record.lead_id not in later]
        if not asked:
            break
        ranked = _scored(scorer, asked, as_of, _worth(service, policy), listed)
        told = told_of(store, tenant, scorer, asked, ranked, listed)
        seen = {row.lead_id: listed.get(row.lead_id) for row in ranked}
        if store.swap(tenant, ListedScore, seen, [*ranked, *told]).result():
            break
        there = store.read_many(tenant, [lead.record.lead_id for lead in opened])
        opened = [lead for lead in opened if lead.record.lead_id in there]
    return len(opened)


def _worth(service: Service, policy: InForce) -> tuple[str, float]:
    """The attribute that holds what a lead would bring, and what one without it brings."""
    own, settings = policy.policy.worth or Worth(), service.settings
    return own.amount or settings.amount, own.average_deal or settings.average_deal


def _scored(
    scorer: Scorer, leads: Sequence[StoredLead], as_of: int, worth: tuple[str, float], before: Mapping[str, ListedScore]
) -> list[ListedScore]:
    """Scores leads for the ranking; `before` is how some of them were ranked."""
    dataset = dataset_of_stored(leads)
    scores = scorer.score(dataset, Cohort.at(np.arange(len(leads)), as_of))
    tiers = [before[name].tier if name in before else COLD for name in (lead.record.lead_id for lead in leads)]
    tier = scorer.tiers.of(scores.probability, np.array([TIERS.index(each) for each in tiers], np.int64))
    attribute, average = worth
    own = amounts(dataset.attributes, kind_word(attribute), as_of)
    value = scores.probability * np.where(np.isnan(own), average, own)
    columns = (scores.probability, scores.score, tier, own, value)
    rows = zip(leads, *(column.tolist() for column in columns), strict=True)
    return [
        ListedScore(
            lead_id=lead.record.lead_id, probability=p, score=s, tier=TIERS[t], amount=None if a != a else a,
            expected_value=v, as_of=as_of, model_version=scorer.card.version,
        )
        for lead, p, s, t, a, v in rows
    ]  # fmt: skip


def amounts(attributes: Attributes, name: str, as_of: int) -> Floats:
    """Returns the (leads,) amounts that were known at an instant; NaN where there is none above 0."""
    leads = len(attributes.offsets) - 1
    if name not in attributes.names:
        return np.full(leads, np.nan)
    column = attributes.names.index(name)
    cells = attributes.cells[:, column].copy()
    seen = (attributes.column == column) & (attributes.at < as_of) & (attributes.known < as_of)
    # Facts stand in order of time, so the last one stays.
    cells[np.repeat(np.arange(leads), np.diff(attributes.offsets))[seen]] = attributes.value[seen]
    words = attributes.words[column]
    if words is not None:
        numbers = np.array([*map(word_number, words), np.nan])
        cells = numbers[np.where(np.isnan(cells), len(words), cells).astype(np.int64)]
    return np.where((cells > 0) & np.isfinite(cells), cells, np.nan)


def _created(lead: StoredLead) -> int:
    assert lead.record.created_at is not None
    return datetime_us(lead.record.created_at)
