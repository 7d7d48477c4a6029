"""Finds leaks before they flatter a model, and what else spoils a dataset: each with its evidence and its mend.

A leak is knowledge that comes after the fact. It is certain only where it can be no honest signal: a kind of touch that
comes with or after the outcome, or a column that says how it ended. Shares are judged by the lower end of their 99 %
interval, all touches of a kind by one lead counting as one, and tests ask for far more than chance gives over hundreds
of columns: few rows raise no alarm, and neither does a strong predictor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import binom, chi2, rankdata

from features.history import Bools, Dataset, Floats, Ints
from features.tables import ReadReport
from features.times import NEVER, US_PER_DAY, isoformat
from features.words import word_date
from training.labels import reporting_delay

Severity = Literal["certain", "likely", "note"]
"""A leak or a wrong date beyond doubt; what looks like one, for the user to judge; what is worth knowing."""

_FEW = 20
"""Leads below which nothing is said of a share."""
_Z = 2.5758
"""Standard errors of a 99 % interval."""
_NEARLY_ALL = 0.90
"""What the lower end of a share has to reach."""
_CHANCE = 1e-6
"""Below this probability nothing is put down to chance, however many columns are looked at."""
_CHANCE_ALONE = 1e-4
"""The same for what is looked at once."""
_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_BOT_HOUR, _BOT_DAY, _BOT_REGULAR = 360, 1_000, 50
"""Touches in an hour, in a day, and in a row at equal gaps, that no person makes."""
_MANY = 1_000
"""Touches below which a silence at their end says nothing."""
_WEEK, _YEAR = 7 * US_PER_DAY, 365 * US_PER_DAY
_STATES = frozenset({
    "closed", "conversion", "converted", "disposition", "forecast", "grade", "index", "last", "latest", "lifecycle",
    "lost", "modified", "outcome", "priority", "probability", "profile", "quality", "rating", "recent", "score",
    "stage", "status", "tag", "tags", "updated", "won",
})  # fmt: skip
"""Words in the names of columns that change while a lead is worked on."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a dataset, with the evidence for it and what to do.

    >>> from features.example import example
    >>> [(finding.check, finding.severity) for finding in audit(example())]
    []
    """

    check: str
    severity: Severity
    table: str
    name: str
    """The column, the kind of touch or the fact; "" if it is the whole table."""
    what: str
    do: str
    evidence: Mapping[str, Any]
    leave_out: str = ""
    """What dataset.toml has to leave out of the table: the heading of a column, or the name of a kind."""

    def to_dict(self) -> dict[str, Any]:
        """The finding for machines."""
        return asdict(self)


def audit(dataset: Dataset, until: int | None = None) -> tuple[Finding, ...]:
    """Looks for leaks in what is known before `until` (microseconds; everything if left out), the worst first.

    Columns of leads carry no time, so what they say may be of later: they are held to all outcomes.
    """
    known = dataset if until is None else dataset.known_at(until)
    mine = dataset.created_at < (NEVER if until is None else until)
    case = _Case(known, dataset.report, dataset.closed[0][mine], dataset.closed[1][mine])
    found = [finding for check in CHECKS for finding in check(case)]
    return tuple(sorted(found, key=lambda finding: get_args(Severity).index(finding.severity)))


def mend(findings: Iterable[Finding]) -> str:
    """The lines of a dataset.toml that leave out what is certain or likely to leak; "" if nothing is.

    >>> print(mend([Finding("late_kind", "certain", "touchpoints", "invoice_viewed", "", "", {}, "invoice_viewed")]))
    [kinds]
    drop = ["invoice_viewed"]
    """
    leave_out: dict[str, list[str]] = {"leads": [], "touchpoints": []}
    for finding in findings:
        if finding.leave_out and finding.severity != "note":
            leave_out[finding.table].append(finding.leave_out)
    lines = [("[leads]", "exclude", leave_out["leads"]), ("[kinds]", "drop", leave_out["touchpoints"])]
    return "\n".join(f"{table}\n{key} = {_toml(names)}" for table, key, names in lines if names)


@dataclass(frozen=True, eq=False)
class _Events:
    """What happened to leads, alike for touches and for facts that changed an attribute."""

    lead: Ints
    at: Ints
    code: Ints
    names: tuple[tuple[str, str], ...]
    """For each code, the table it is of and what it is called there."""

    def leads(self, rows: Bools | slice = slice(None)) -> tuple[Ints, Ints]:
        """The distinct pairs of lead and code among some rows."""
        pairs = np.sort(self.lead[rows] * len(self.names) + self.code[rows])
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]]
        return pairs // max(1, len(self.names)), pairs % max(1, len(self.names))

    def count(self, rows: Bools | slice = slice(None)) -> Ints:
        """How many of some rows each code has."""
        return np.bincount(self.code[rows], minlength=len(self.names))


@dataclass(frozen=True, eq=False)
class _Case:
    """A dataset with what the checks ask of it again and again."""

    dataset: Dataset
    report: ReadReport | None
    closed_by_now: Ints
    """(leads,) as `closed`, and by what became known since."""
    won_by_now: Bools
    """(leads,) as `won`, and by what became known since."""

    @cached_property
    def own(self) -> Bools:
        """(leads,) whether it is a lead of its own still, not another name of one."""
        own: Bools = self.dataset.merged_at == NEVER
        return own

    @cached_property
    def closed(self) -> Ints:
        """(leads,) when it was won or lost; NEVER if open."""
        return self.dataset.closed[0]

    @cached_property
    def won(self) -> Bools:
        """(leads,) whether it was closed by a purchase."""
        return self.dataset.closed[1]

    @cached_property
    def ending(self) -> Ints:
        """(leads,) from when on what happens is the outcome itself: an hour before it, or the day it is dated."""
        span = np.where(_dated(self.closed), US_PER_DAY - 1, _HOUR)
        return np.where(self.closed == NEVER, NEVER, self.closed - span)

    @cached_property
    def impossible(self) -> int:
        """The instant beyond which the few creations and outcomes that there are must be misdated; NEVER if none is.

        It lies more than a year, and a quarter of the record's span, after all but one in a thousand of what happened.
        """
        dataset = self.dataset
        times = np.concatenate([dataset.created_at, dataset.outcomes.known])
        if len(times) < _FEW:
            return NEVER
        times = np.concatenate([times, dataset.history.known])
        few = max(1, len(times) // 1_000)
        times = np.partition(times, (few, len(times) - 1 - few))
        first, last = int(times[few]), int(times[-1 - few])
        limit = last + max(_YEAR, (last - first) // 4)
        return limit if dataset.recorded_until - 1 > limit else NEVER

    @cached_property
    def end(self) -> int:
        """The end of the record, as `recorded_until` but for what is misdated."""
        times = np.concatenate([self.dataset.created_at, self.dataset.outcomes.known])
        return int(times[times <= self.impossible].max(initial=-1)) + 1

    @cached_property
    def created_from(self) -> Ints:
        """(leads,) the earliest instant at which it may have been created: a bare date lasts its day."""
        created = self.dataset.created_at
        return np.where(_dated(created), created - US_PER_DAY + 1, created)

    @cached_property
    def lead(self) -> Ints:
        """(touches,) the lead of each touch."""
        return self.dataset.history.lead

    @cached_property
    def timed(self) -> Bools:
        """(touches,) whether it carries a time of day."""
        at = self.dataset.history.at
        return np.asarray(~_dated(at) & (at % US_PER_DAY != 0))

    @cached_property
    def events(self) -> _Events:
        """All touches and facts."""
        history, facts = self.dataset.history, self.dataset.attributes
        # Each word of a column is a code of its own; numbers, and what was emptied, have one a column.
        width = 1 + max((len(words) for words in facts.words if words is not None), default=0)
        is_word = np.array([words is not None for words in facts.words], np.bool_)[facts.column]
        word = np.where(is_word & ~np.isnan(facts.value), facts.value, width - 1).astype(np.int64)
        said, code = np.unique(facts.column * width + word, return_inverse=True)
        names = [("touchpoints", kind.name) for kind in history.kinds]
        for column, value in (divmod(pair, width) for pair in said.tolist()):
            words = facts.words[column]
            meant = "" if words is None or value == width - 1 else f"={words[value]}"
            names.append(("attributes", facts.names[column] + meant))
        lead = np.repeat(np.arange(len(self.dataset)), np.diff(facts.offsets))
        return _Events(
            np.concatenate([self.lead, lead]),
            np.concatenate([history.at, facts.at]),
            np.concatenate([history.kind.astype(np.int64), code.reshape(-1) + len(history.kinds)]),
            tuple(names),
        )

    @cached_property
    def settled(self) -> Bools:
        """(events,) which came so early that the outcome of their day would have been reported by now."""
        return np.asarray(self.events.at < self.end - reporting_delay(self.dataset))

    @cached_property
    def late(self) -> Bools:
        """(codes,) the events nearly all of which come with or after the outcome of their own lead."""
        events, settled = self.events, self.settled
        leads = np.bincount(events.leads(settled)[1], minlength=len(events.names))
        near = events.count(settled & (events.at >= self.ending[events.lead]))
        share = near / np.maximum(events.count(settled), 1)
        return _nearly_all(share * leads, leads)

    @cached_property
    def fold(self) -> Ints:
        """(own leads,) one of five folds, the same in whatever order the leads come."""
        drawn = np.random.default_rng(0).permutation(len(self.dataset)) % 5
        return drawn[self.dataset.rank][self.own]

    def heading(self, column: int) -> str:
        """What an attribute is called in its file."""
        name = self.dataset.attributes.names[column]
        return self.report.headings.get(name, name) if self.report is not None else name


# What names the outcome.


def _late_kinds(case: _Case) -> Iterator[Finding]:
    """Kinds that come with or after the outcome: they know it."""
    events, settled = case.events, case.settled
    total, leads = events.count(settled), np.bincount(events.leads(settled)[1], minlength=len(events.names))
    after = events.count(settled & (events.at >= case.closed[events.lead]))
    near = events.count(settled & (events.at >= case.ending[events.lead]))
    for code in np.flatnonzero(case.late).tolist():
        table, name = events.names[code]
        n, of = int(total[code]), int(leads[code])
        only_after = after[code] >= _NEARLY_ALL * n
        count, when = (after, "at or after the outcome of their own lead")
        if not only_after:
            count, when = near, "at most an hour before the outcome of their own lead (on its day, if it is only dated)"
        won = case.won[events.lead[events.code == code]].mean() >= 0.5
        also = f'; or, if it is the outcome, outcomes = {{ {json.dumps(name)} = "{"won" if won else "lost"}" }} there'
        yield Finding(
            "late_kind", "certain", table, name,
            f"{table}: {_share(int(count[code]), n)} of {name}, which {of:,} leads have, come {when}.",
            _drop(table, name, also="" if only_after else also),
            {"touches": n, "leads": of, "after": int(after[code]), "near_or_after": int(near[code])},
            name if table == "touchpoints" else "",
        )  # fmt: skip


def _naming_kinds(case: _Case) -> Iterator[Finding]:
    """Kinds that nearly only leads have that buy, long before they do."""
    events, rate = case.events, float(case.won[case.own].mean()) if case.own.any() else 0.0
    lead, code = events.leads(case.settled & (events.at < case.ending[events.lead]) & case.own[events.lead])
    total = np.bincount(code, minlength=len(events.names))
    count = np.bincount(code[case.won[lead]], minlength=len(events.names))
    low, _ = _interval(count, total)
    for k in np.flatnonzero(_names(count, total, rate) & ~case.late).tolist():
        table, name = events.names[k]
        yield Finding(
            "naming_kind", "likely", table, name,
            f"{table}: of {total[k]:,} leads that had {name} while they were open, {count[k]:,} "
            f"({count[k] / total[k]:.1%}) won; of all leads {rate:.1%} did.",
            _drop(table, name, unless=" unless it truly comes that early"),
            {"leads": int(total[k]), "won": int(count[k]), "at_least": float(low[k]), "of_all": rate},
            name if table == "touchpoints" else "",
        )  # fmt: skip


def _naming_columns(case: _Case) -> Iterator[Finding]:
    """Columns of leads that say how it ended; each is told of once, by the strongest evidence."""
    attributes = case.dataset.attributes
    won, closed = case.won_by_now[case.own], case.closed_by_now[case.own] < NEVER
    for column, words in enumerate(attributes.words):
        cells, heading = attributes.cells[case.own, column], case.heading(column)
        if np.isnan(cells).all():
            continue
        group, values = _groups(cells, words)
        found = _named("won", group, values, won) or _ranked(group, won, case.fold)
        found = found or _worded(heading, group, values, won)
        # That old leads are closed by now says nothing: a value has to tell lost leads from won ones too.
        if found is None and _named("lost", group[closed], values, ~won[closed]):
            found = _named("lost", group, values, closed & ~won)
        if found is not None:
            check, severity, says, evidence = found
            unless = "" if severity == "certain" else " unless it was known at creation"
            yield Finding(
                check, severity, "leads", heading,
                f"leads: column {heading!r} {says}", _exclude(heading, unless), evidence, heading,
            )  # fmt: skip


_Found: TypeAlias = tuple[str, Severity, str, dict[str, Any]]
"""A check, how grave it is, what a column does, and the evidence."""


def _named(outcome: str, group: Ints, values: Sequence[str], mine: Bools) -> _Found | None:
    """Values that nearly only leads of one outcome have, if they are many of these; being filled may be the value."""
    if mine.sum() < _FEW:
        return None
    total, count = np.bincount(group, minlength=len(values)), np.bincount(group[mine], minlength=len(values))
    filled, rate = np.arange(len(values)) < len(values) - 1, float(mine.mean())
    naming = (total >= _FEW) & (_interval(count, total)[0] >= max(0.75, (1 + rate) / 2))
    for check, chosen in (("filled_column", filled), ("naming_column", naming)):
        n, k = int(total[chosen].sum()), int(count[chosen].sum())
        low, recall = float(_interval(k, n)[0]), k / int(mine.sum())
        if not _names(k, n, rate) or recall < 0.25:
            continue
        # Losses may be named in honesty: by a bought list all of which was given up.
        is_certain = outcome == "won" and k / n >= 0.95 and recall >= 0.5
        words = [values[v] for v in np.flatnonzero(chosen)[np.argsort(-total[chosen], kind="stable")]]
        says = "is filled for" if check == "filled_column" else f"says {_listed(words)} of"
        return check, "certain" if is_certain else "likely", (
            f"{says} {n:,} leads: {k:,} ({k / n:.1%}) of them {outcome}, which are {recall:.1%} of all that did; "
            f"of all leads {rate:.1%} did."
        ), {"outcome": outcome, "leads": n, outcome: k, "at_least": low, "recall": recall,
            "of_all": rate, "values": words[:20]}  # fmt: skip
    return None


def _ranked(group: Ints, won: Bools, fold: Ints) -> _Found | None:
    """A column that alone ranks leads nearly as their outcomes do, tried on leads it was not learned from."""
    n, rest = int(won.sum()), int((~won).sum())
    if min(n, rest) < _FEW:
        return None
    rate, score = n / (n + rest), np.empty(len(group))
    for k in range(5):
        learn = fold != k
        total = np.bincount(group[learn], minlength=group.max() + 1)
        count = np.bincount(group[learn & won], minlength=group.max() + 1)
        score[~learn] = ((count + 5 * rate) / (total + 5))[group[~learn]]
    auc = float(rankdata(score)[won].sum() - n * (n + 1) / 2) / (n * rest)
    # The variance after Hanley and McNeil (1982).
    spread = (n - 1) * (auc / (2 - auc) - auc**2) + (rest - 1) * (2 * auc**2 / (1 + auc) - auc**2)
    low = auc - _Z * math.sqrt(max(0.0, auc * (1 - auc) + spread) / (n * rest))
    if low < 0.9:
        return None
    return "naming_column", "certain" if low >= 0.99 else "likely", (
        f"alone tells the leads that won from the others with an AUC of {auc:.3f} (at least {low:.3f}), on leads "
        "it was not learned from."
    ), {"outcome": "won", "auc": auc, "at_least": low}  # fmt: skip


def _worded(heading: str, group: Ints, values: Sequence[str], won: Bools) -> _Found | None:
    """A column whose name says that it changes while a lead is worked on, if it goes with the outcome."""
    words = [word.lower() for word in re.findall(r"[^\W\d_]?[a-z]+|[A-Z]+", heading)]
    said = [word for word in words if word in _STATES]
    if not said or words == ["last", "name"]:
        return None
    total, count = np.bincount(group, minlength=len(values)), np.bincount(group[won], minlength=len(values))
    p, _ = _differ(count, total)
    shown = np.flatnonzero(total >= _FEW)
    if p >= _CHANCE or len(shown) < 2:
        return None
    rate = count[shown] / total[shown]
    most, least = int(shown[rate.argmax()]), int(shown[rate.argmin()])
    told = " and ".join(f"{count[k] / total[k]:.1%} of {total[k]:,} with {values[k]!r}" for k in (most, least))
    ends = [{"value": values[k], "leads": int(total[k]), "won": int(count[k])} for k in (most, least)]
    return "named_like_a_state", "likely", (
        f"has a name of what changes after creation ({', '.join(said)}) and goes with the outcome: {told} won."
    ), {"outcome": "won", "words": said, "p": p, "values": ends}  # fmt: skip


def _later_dates(case: _Case) -> Iterator[Finding]:
    """Columns of dates that lie after creation: they were filled in later."""
    attributes, created = case.dataset.attributes, case.dataset.created_at
    for column, words in enumerate(attributes.words):
        date = _dates(words)
        filled = np.flatnonzero(~np.isnan(attributes.cells[:, column]) & case.own)
        if date is None or len(filled) < _FEW:
            continue
        later = date[attributes.cells[filled, column].astype(np.int64)] > created[filled] + US_PER_DAY
        count = int(later.sum())
        if _interval(count, len(later))[0] < 0.05:
            continue
        heading = case.heading(column)
        yield Finding(
            "later_dates", "likely", "leads", heading,
            f"leads: column {heading!r} is a date that lies more than a day after created_at for "
            f"{_share(count, len(later))} leads that have it.",
            _exclude(heading, " unless it was planned at creation, or give it with its times as rows of attributes"),
            {"leads": len(later), "later": count}, heading,
        )  # fmt: skip


# Times.


def _touches_after(case: _Case) -> Iterator[Finding]:
    """Touches after the outcome of kinds that come before it too: usual, and not seen by a feature."""
    at, lead, kind = case.dataset.history.at, case.lead, case.dataset.history.kind
    after = (at >= case.closed[lead]) & ~case.late[: len(case.dataset.history.kinds)][kind]
    count = int(after.sum())
    if count < _FEW or _interval(count, len(at))[0] < 0.01:
        return
    by_kind = np.bincount(kind[after])
    order = np.argsort(-by_kind, kind="stable")[:5].tolist()
    most = {case.dataset.history.kinds[k].name: int(by_kind[k]) for k in order if by_kind[k]}
    yield Finding(
        "touches_after_outcome", "note", "touchpoints", "",
        f"touchpoints: {_share(count, len(at))} touches come at or after the outcome of their own lead, most of kind "
        f"{_listed([*most][:3])}.",
        "Nothing: features see no touch after the instant asked about. Never count touches of a lead's whole life.",
        {"touches": len(at), "after": count, "kinds": most},
    )  # fmt: skip


def _touches_before_creation(case: _Case) -> Iterator[Finding]:
    lead = case.lead
    early = (case.dataset.history.at < case.created_from[lead]) & case.own[lead]
    count = int(early.sum())
    if not count or count < 0.001 * len(lead):
        return
    who = np.zeros(len(case.own), np.bool_)
    who[lead[early]] = True
    others = case.own & ~who
    won = float(case.won[who].mean())
    won_of_others = float(case.won[others].mean()) if others.any() else None
    rest = "" if won_of_others is None else f", of the others {won_of_others:.1%}"
    yield Finding(
        "touches_before_creation", _if_many(int(who.sum()), int(case.own.sum())), "touchpoints", "occurred_at",
        f"touchpoints: {_share(count, len(lead))} touches run ahead of created_at, of {int(who.sum()):,} leads; of "
        f"these {won:.1%} won{rest}.",
        "See that created_at is when the lead came, not when it was converted, merged or imported, and that both "
        "columns are of one zone.",
        {"touches": count, "leads": int(who.sum()), "won": won, "won_of_the_others": won_of_others},
    )  # fmt: skip


def _outcomes_before_creation(case: _Case) -> Iterator[Finding]:
    created, ended, won = case.dataset.created_at, (case.closed < NEVER) & case.own, case.won & case.own
    before = ended & (case.closed < case.created_from)
    count, of = int(before.sum()), int(ended.sum())
    if count and count >= 0.001 * of:
        yield Finding(
            "outcomes_before_creation", _if_many(count, of), "outcomes", "occurred_at",
            f"outcomes: {_share(count, of)} outcomes come before created_at of their lead.",
            "Mend created_at: such a lead is never open, so nothing is learned from it.",
            {"outcomes": of, "before": count},
        )  # fmt: skip
    same = won & ~before & (case.closed <= created)
    if same.sum() >= _FEW and _interval(same.sum(), won.sum())[0] >= 0.05:
        yield Finding(
            "won_at_creation", "note", "outcomes", "occurred_at",
            f"outcomes: {_share(int(same.sum()), int(won.sum()))} purchases come at created_at itself, or on its day.",
            "Nothing, if it is true: nobody is asked about a lead before it is there, so these purchases are neither "
            "learned nor judged. Give times instead of dates if you have them.",
            {"purchases": int(won.sum()), "at_creation": int(same.sum())},
        )  # fmt: skip


def _outcomes_after_the_first(case: _Case) -> Iterator[Finding]:
    """Outcomes of leads that were closed already: nothing is learned from them."""
    outcomes, dataset = case.dataset.outcomes, case.dataset
    later = outcomes.at > dataset.closed[0][outcomes.lead]
    count, of = int(later.sum()), len(later)
    if not count or count < 0.001 * of:
        return
    taken_up = int((np.bincount(outcomes.lead[later & outcomes.won], minlength=len(dataset)) > 0)[~case.won].sum())
    yield Finding(
        "outcomes_after_the_first", "note", "outcomes", "",
        f"outcomes: {_share(count, of)} outcomes come after the first of their lead, which closed it, and do not "
        f"count; {taken_up:,} leads among them count as lost and were won later.",
        "Give who buys again, or is taken up again, a new lead_id; or leave out the losses that were not the end.",
        {"outcomes": of, "after": count, "lost_then_won": taken_up},
    )  # fmt: skip


def _undated(case: _Case) -> Iterator[Finding]:
    """Kinds without a time of day, or without a time at all."""
    history = case.dataset.history
    if not len(history):
        return
    kinds, day = len(history.kinds), history.at // US_PER_DAY
    total = np.bincount(history.kind, minlength=kinds)
    first, last = np.full(kinds, NEVER), np.full(kinds, -NEVER)
    np.minimum.at(first, history.kind, day)
    np.maximum.at(last, history.kind, day)
    dated = np.bincount(history.kind, _dated(history.at), kinds) == total
    clock = history.at % US_PER_DAY
    clocks = np.array([clock.min(), clock.max()])
    midnight = np.bincount(history.kind, clock == 0, kinds) == total
    # Midnights of a zone that puts its clocks forward are two times of day in UTC.
    midnight |= bool(np.isin(clock, clocks).all()) and not (clocks % (_HOUR // 4)).any()
    enough, one_day = total >= 50, first == last
    for chosen, check, severity, says, do in (
        (enough & one_day & (dated | midnight), "undated", "likely", "all of one day, which says nothing",
         "Leave them out, or give their own times: features take them as known from that day on."),
        (enough & ~one_day & midnight, "undated", "likely", "all at midnight: dates written as times",
         "Write bare dates, e.g. 2026-02-28, known at the end of their day: a midnight is seen a day too early."),
        (enough & ~one_day & dated, "only_dates", "note", "bare dates, known at the end of their day",
         "Give times if you have them: what comes on the day of an outcome cannot be told to come before it."),
    ):  # fmt: skip
        names = [history.kinds[k].name for k in np.flatnonzero(chosen).tolist()]
        if names:
            count, from_day = int(total[chosen].sum()), isoformat(int(first[chosen].min()) * US_PER_DAY)[:10]
            yield Finding(
                check, cast(Severity, severity), "touchpoints", names[0] if len(names) == 1 else "occurred_at",
                f"touchpoints: the times of {_listed(names)} ({count:,} touches from {from_day} on) are {says}.", do,
                {"touches": count, "kinds": names, "from": from_day},
            )  # fmt: skip


def _no_creation(case: _Case) -> Iterator[Finding]:
    created, leads = case.dataset.created_at, int(case.own.sum())
    if case.report is not None and "leads" not in case.report.rows:
        yield Finding(
            "no_creation", "note", "leads", "created_at",
            f"leads: there is no such table, so each of the {leads:,} leads counts as created by its first touch.",
            "Give a leads table with lead_id and created_at: leads without a touch are missing, others look too young.",
            {"leads": leads},
        )  # fmt: skip
    elif leads >= _FEW and created.min() == created.max():
        yield Finding(
            "no_creation", "likely", "leads", "created_at",
            f"leads: all {leads:,} leads have one created_at, {isoformat(int(created[0]))}: nothing says what was "
            "known when.",
            "Give the times at which leads were created; without them no past can be replayed, and every column is to "
            "be looked at by hand.",
            {"leads": leads},
        )  # fmt: skip


def _recorded_early(case: _Case) -> Iterator[Finding]:
    if case.report is None:
        return
    for table, count in case.report.early.items():
        rows = case.report.rows[table]
        yield Finding(
            "recorded_early", "note", table, "recorded_at",
            f"{table}: recorded_at lies before occurred_at in {_share(count, rows)} rows.",
            "See that both are of one zone and not exchanged; such a row counts as known when it occurred, which is "
            "right for what was planned.",
            {"rows": rows, "early": count},
        )  # fmt: skip


def _beyond_the_end(case: _Case) -> Iterator[Finding]:
    """Touches later than anything else: planned, of a wrong year, or of a record whose outcomes stopped."""
    at, end = case.dataset.history.at, case.end
    told = np.concatenate([case.dataset.created_at, case.dataset.outcomes.known])
    if not len(at) or len(told) < _FEW:
        return
    # The usual quiet after the last one: at this rate a longer one has a chance of one in a million.
    quiet = max(US_PER_DAY, round(-math.log(_CHANCE) * (end - int(told.min())) / len(told)))
    beyond = at >= end + quiet
    if not beyond.any():
        return
    yield Finding(
        "beyond_the_end", "note", "touchpoints", "occurred_at",
        f"touchpoints: {_share(int(beyond.sum()), len(at))} touches, the last of {isoformat(int(at.max()))}, are later "
        f"than the last lead or outcome that is known ({isoformat(end - 1)}).",
        "See whether they are planned, of a wrong year, or whether leads and outcomes of that time are missing; the "
        "record counts as ended before them.",
        {"touches": len(at), "beyond": int(beyond.sum()), "last": isoformat(int(at.max())), "end": isoformat(end)},
    )  # fmt: skip


def _beyond_all(case: _Case) -> Iterator[Finding]:
    """Creations and outcomes of a wrong year: the record seems to go on until then."""
    dataset, outcomes, end = case.dataset, case.dataset.outcomes, isoformat(case.end)
    for table, lead, at, occurred in (
        ("leads", np.arange(len(dataset)), dataset.created_at, None),
        ("outcomes", outcomes.lead, outcomes.known, outcomes.at),
    ):
        wrong = np.flatnonzero(at > case.impossible)
        if not len(wrong):
            continue
        wrong = wrong[np.lexsort((dataset.rank[lead[wrong]], -at[wrong]))]
        late = occurred is None or bool((occurred[wrong] > case.impossible).any())
        column = "created_at" if occurred is None else "occurred_at" if late else "recorded_at"
        dates = {str(dataset.ids[lead[row]]): isoformat(int(at[row])) for row in wrong[:5]}
        told = [f"{name} of {date}" for name, date in dates.items()]
        more = f" and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        yield Finding(
            "beyond_all", "certain", table, column,
            f"{table}: {_share(len(wrong), len(at))} times in {column} lie more than a year after all else, which ends "
            f"at {end}: {', '.join(told)}{more}. The record seems to go on until then, and leads that may still buy "
            "count as if they had not.",
            f"Correct these rows; or, if such a date stands for none, name its word in missing = [...] under "
            f"[{table}] in dataset.toml (--on-error quarantine sets rows aside that have no other); or train with "
            f"--as-of {end}.",
            {"rows": len(at), "wrong": len(wrong), "dates": dates, "end": end},
        )  # fmt: skip


def _touches_end_early(case: _Case) -> Iterator[Finding]:
    """Touches that stop long before leads and outcomes do, as of an older export."""
    known, end = case.dataset.history.known, case.end
    # Sorted only where it matters: of ten million touches it takes a second.
    if len(known) < _MANY or np.ptp(known) < _WEEK or end - known.max() <= _WEEK:
        return
    known = np.sort(known)
    quiet, gap, last = end - int(known[-1]), int(np.diff(known).max()), isoformat(int(known[-1]))
    if quiet <= 3 * gap:
        return
    yield Finding(
        "touches_end_early", "note", "touchpoints", "",
        f"touchpoints: the last of {len(known):,} touches is of {last}, {quiet / US_PER_DAY:,.1f} days before the "
        f"last lead or outcome that is known ({isoformat(end - 1)}); before, {gap / US_PER_DAY:,.1f} days at most lay "
        "between two.",
        "Export the touches of that time too: leads look as if they had fallen silent. Or train with "
        f"--as-of {isoformat(int(known[-1]) + 1)}.",
        {"touches": len(known), "last": last, "end": isoformat(end), "quiet_days": quiet / US_PER_DAY,
         "longest_gap_days": gap / US_PER_DAY},
    )  # fmt: skip


# Hygiene.


def _duplicates(case: _Case) -> Iterator[Finding]:
    history, lead = case.dataset.history, case.lead
    rows = case.report.rows.get("touchpoints", 0) if case.report is not None else 0
    dropped = case.report.duplicates if case.report is not None else 0
    if dropped and dropped >= 0.001 * rows:
        yield Finding(
            "duplicates", "note", "touchpoints", "",
            f"touchpoints: {_share(dropped, rows)} rows are duplicates, which count once.",
            "Nothing, if a log is merely sent twice; else look for the export that repeats rows.",
            {"rows": rows, "duplicates": dropped},
        )  # fmt: skip
    same = (lead[1:] == lead[:-1]) & (history.at[1:] == history.at[:-1]) & (history.kind[1:] == history.kind[:-1])
    value = (history.value[1:] == history.value[:-1]) | (np.isnan(history.value[1:]) & np.isnan(history.value[:-1]))
    count = int((same & value & case.timed[1:]).sum())
    if count >= _FEW and count >= 0.001 * len(history):
        yield Finding(
            "duplicates", "note", "touchpoints", "message_id",
            f"touchpoints: {_share(count, len(history))} touches equal another one in lead, time, kind and value, but "
            "carry a message_id of their own, so they count.",
            "Leave message_id out if it is made anew with every export: equal rows count once then.",
            {"touches": len(history), "duplicates": count},
        )  # fmt: skip


def _twin_kinds(case: _Case) -> Iterator[Finding]:
    """Kinds that always come with another one: one thing that two files or systems log."""
    history, lead = case.dataset.history, case.lead
    if not len(history):
        return
    fresh = np.append(True, (lead[1:] != lead[:-1]) | (history.at[1:] != history.at[:-1]))
    once = fresh | np.append(True, history.kind[1:] != history.kind[:-1])
    moment, kind = (np.cumsum(fresh) - 1)[once], history.kind[once]
    table = csr_array((np.ones(len(kind), np.int64), (moment, kind)), (int(moment[-1]) + 1, len(history.kinds)))
    together = (table.T @ table).toarray()
    total = together.diagonal()
    told: set[int] = set()
    for k in np.argsort(total, kind="stable").tolist():
        others = np.where(np.arange(len(total)) == k, 0, together[k])
        other = int(others.argmax())
        if total[k] < 50 or other in told or _interval(others[other], total[k])[0] < 0.98:
            continue
        told.add(k)
        name, beside = history.kinds[k].name, history.kinds[other].name
        yield Finding(
            "twin_kinds", "note", "touchpoints", name,
            f"touchpoints: {_share(int(others[other]), int(total[k]))} times of {name} are times of {beside} too, "
            "of the same lead.",
            f"If both tell of one thing, count it once: drop = {_toml([name])} under [kinds] in dataset.toml, or "
            "unless_same_day for one of the files.",
            {"times": int(total[k]), "together": int(others[other]), "with": beside},
        )  # fmt: skip


def _bots(case: _Case) -> Iterator[Finding]:
    at, lead = case.dataset.history.at, case.lead
    bots = set(_crowded(lead, at, _BOT_DAY, US_PER_DAY).tolist())
    lead, at = lead[case.timed], at[case.timed]
    bots.update(_crowded(lead, at, _BOT_HOUR, _HOUR).tolist(), _regular(lead, at).tolist())
    if not bots:
        return
    touches = np.diff(case.dataset.history.offsets)
    found = np.array(sorted(bots, key=lambda k: (-touches[k], k)))
    ids, count = [str(name) for name in case.dataset.ids[found[:5]]], int(touches[found].sum())
    yield Finding(
        "bots", "note", "touchpoints", _listed(ids),
        f"touchpoints: {len(found):,} leads touch faster or more regularly than people do ({_BOT_HOUR} an hour, "
        f"{_BOT_DAY:,} a day, or {_BOT_REGULAR} at equal gaps): {_listed(ids)}; they have "
        f"{_share(count, int(touches.sum()))} touches.",
        "Leave their rows out of touchpoints, e.g. by where = { bot = \"0\" } if the log marks them.",
        {"leads": len(found), "ids": ids, "touches": count},
    )  # fmt: skip


def _constant(case: _Case) -> Iterator[Finding]:
    attributes = case.dataset.attributes
    for column in sorted(set(range(len(attributes.names))) - set(attributes.column.tolist())):
        cells = attributes.cells[case.own, column]
        filled = cells[~np.isnan(cells)]
        if len(cells) < _FEW or 0 < len(filled) < len(cells) or (filled != filled[:1]).any():
            continue
        heading, words = case.heading(column), attributes.words[column]
        value = "empty" if not len(filled) else repr(float(filled[0]) if words is None else words[int(filled[0])])
        yield Finding(
            "constant", "note", "leads", heading,
            f"leads: column {heading!r} is {value} for all {len(cells):,} leads.",
            _exclude(heading, ""), {"leads": len(cells), "value": value}, heading,
        )  # fmt: skip


def _id_like(case: _Case) -> Iterator[Finding]:
    """Columns that number leads or name them one by one."""
    attributes = case.dataset.attributes
    for column, words in enumerate(attributes.words):
        cells = attributes.cells[case.own, column]
        filled = cells[~np.isnan(cells)]
        if len(filled) < 50:
            continue
        distinct, n = len(np.unique(filled)), len(filled)
        if words is None:
            # Whole numbers drawn from this range would meet: not one did.
            span = float(filled.max() - filled.min()) + 1
            is_id = distinct == n and (filled % 1 == 0).all() and n * (n - 1) / (2 * span) > -math.log(_CHANCE)
        else:
            is_id = distinct >= 0.9 * n and _dates(words) is None
        if is_id:
            heading = case.heading(column)
            yield Finding(
                "id_like", "note", "leads", heading,
                f"leads: column {heading!r} has {distinct:,} values for {n:,} leads: it names them, and says nothing "
                "of the next one.",
                _exclude(heading, ""), {"leads": n, "values": distinct}, heading,
            )  # fmt: skip


def _drift(case: _Case) -> Iterator[Finding]:
    """Whether the share of leads that soon buy changes with the month of creation."""
    created = case.dataset.created_at
    spans = np.where(case.won, case.closed, 0) - created
    bought = case.won & case.own & (spans >= 0)
    if bought.sum() < 2 * _FEW:
        return
    # The sooner a purchase counts, the sharper it tells when things changed.
    span = max(US_PER_DAY, int(np.quantile(spans[bought], 0.25)))
    mature = np.flatnonzero(case.own & (created + span + reporting_delay(case.dataset) < case.end))
    soon = bought[mature] & (spans[mature] <= span)
    if not soon.any():
        return
    months = created[mature].astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    named, month = np.unique(months, return_inverse=True)
    total, count = np.bincount(month), np.bincount(month[soon], minlength=len(named))
    part = _together(total * soon.mean(), _FEW)
    total, count = np.bincount(part, total), np.bincount(part, count)
    p, statistic = _differ(count, total)
    rate = count / total
    if p >= _CHANCE_ALONE or rate.max() < 1.3 * rate.min():
        return
    first = [str(named[np.searchsorted(part, k)].astype("datetime64[M]")) for k in range(len(total))]
    table = [{"from": first[k], "leads": int(total[k]), "bought": int(count[k])} for k in range(len(total))]
    least, most, days = int(rate.argmin()), int(rate.argmax()), span / US_PER_DAY
    yield Finding(
        "drift", "note", "outcomes", "occurred_at",
        f"outcomes: the share of leads that buy within {days:.3g} days of creation drifts, from "
        f"{rate[least]:.1%} (created {first[least]} and on) to {rate[most]:.1%} ({first[most]} and on); chi-square "
        f"{statistic:.0f}, p = {p:.0e}.",
        "Look at the backtest by origin, and for what changed: a source of leads, how purchases are logged, an offer. "
        "Leave out the time before if it will not come back.",
        {"days": days, "p": p, "chi_square": statistic, "cohorts": table},
    )  # fmt: skip


CHECKS: tuple[Callable[[_Case], Iterable[Finding]], ...] = (
    _late_kinds,
    _naming_kinds,
    _naming_columns,
    _later_dates,
    _touches_after,
    _touches_before_creation,
    _outcomes_before_creation,
    _outcomes_after_the_first,
    _undated,
    _no_creation,
    _recorded_early,
    _beyond_the_end,
    _beyond_all,
    _touches_end_early,
    _duplicates,
    _twin_kinds,
    _bots,
    _constant,
    _id_like,
    _drift,
)
"""All that is looked for."""


def _if_many(count: int, total: int) -> Severity:
    return "likely" if _interval(count, total)[0] >= 0.01 else "note"


def _interval(count: npt.ArrayLike, total: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Wilson's 99 % interval of shares; nothing of nothing may be any share."""
    n = np.maximum(np.asarray(total, np.float64), 1e-9)
    share = np.asarray(count, np.float64) / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return middle - half, middle + half


def _together(amount: Floats, enough: float) -> Ints:
    """Numbers parts in order so that each has enough, and what is left over belongs to the last one."""
    part, number, held = np.zeros(len(amount), np.int64), 0, 0.0
    for k, more in enumerate(amount.tolist()):
        part[k], held = number, held + more
        if held >= enough:
            number, held = number + 1, 0.0
    return np.minimum(part, max(0, number - 1))


def _nearly_all(count: npt.ArrayLike, total: npt.ArrayLike) -> Bools:
    """Whether shares are certainly high, or without any exception among more than a few."""
    few = np.asarray(total) < _FEW
    return np.asarray(~few & ((_interval(count, total)[0] >= _NEARLY_ALL) | np.equal(count, total)))


def _names(count: npt.ArrayLike, total: npt.ArrayLike, rate: float) -> Bools:
    """Whether nearly all come to an outcome that leads come to at some rate: too many for chance, few excepted."""
    missed = 1 - np.asarray(count) / np.maximum(total, 1)
    by_chance = binom.sf(np.asarray(count) - 1, total, rate)
    return np.asarray(_nearly_all(count, total) & (missed <= (1 - rate) / 4) & (by_chance < _CHANCE))


def _differ(count: Ints | Floats, total: Ints | Floats) -> tuple[float, float]:
    """The chance that groups of one rate differ as much as these do, and chi-square; small groups count as one."""
    rate = count.sum() / total.sum()
    small = total * min(rate, 1 - rate) < 5
    count, total = (np.append(x[~small], x[small].sum() if small.any() else []) for x in (count, total))
    expected = total * rate
    given = expected > 0
    if given.sum() < 2 or not 0 < rate < 1:
        return 1.0, 0.0
    statistic = float(((count - expected)[given] ** 2 / (expected[given] * (1 - rate))).sum())
    return float(chi2.sf(statistic, given.sum() - 1)), statistic


def _groups(cells: Floats, words: tuple[str, ...] | None) -> tuple[Ints, list[str]]:
    """The values of a column as groups, the last one of which is missing; numbers in ranges of about a twentieth."""
    missing = np.isnan(cells)
    if words is not None:
        return np.where(missing, len(words), cells).astype(np.int64), [*words, "missing"]
    values, counts = np.unique(cells[~missing], return_counts=True)
    # A number that many leads share is a group of its own.
    often = values if len(values) <= 20 else values[counts >= 0.02 * len(cells)]
    group = np.full(len(cells), -1)
    alone = np.isin(cells, often)
    group[alone] = np.searchsorted(often, cells[alone])
    names = [f"{value:g}" for value in often]
    rest = ~missing & ~alone
    if rest.any():
        edges = np.unique(np.quantile(cells[rest], np.linspace(0, 1, 21)))
        group[rest] = len(names) + np.searchsorted(edges[1:-1], cells[rest], side="right")
        names += [f"{low:g} to {high:g}" for low, high in pairwise(edges)] or [f"{edges[0]:g}"]
    group[missing] = len(names)
    return group, [*names, "missing"]


def _dates(words: tuple[str, ...] | None) -> Floats | None:
    """A column's words as instants, NaN where one is no date; None if they are no dates."""
    if not words or np.mean([math.isnan(word_date(word)) for word in words[:: max(1, len(words) // 100)]]) > 0.1:
        return None
    return np.array([word_date(word) for word in words])


def _dated(at: Ints) -> Bools:
    """Which instants are bare dates: the last microsecond of a day."""
    dated: Bools = at % _SECOND == _SECOND - 1
    return dated


def _crowded(lead: Ints, at: Ints, touches: int, span: int) -> Ints:
    """The leads that have so many touches within a span."""
    ahead = touches - 1
    crowded = (lead[ahead:] == lead[:-ahead]) & (at[ahead:] - at[:-ahead] < span)
    return np.asarray(lead[ahead:][crowded])


def _regular(lead: Ints, at: Ints) -> Ints:
    """The leads that have many touches in a row, minutes apart at most, as far from each other as the ones before."""
    gap = np.where(lead[1:] == lead[:-1], np.diff(at), -1)
    short = (gap > 0) & (gap < _HOUR // 6)
    slack = np.maximum(gap[:-1] // 100, np.where(gap[:-1] >= 30 * _SECOND, _SECOND, 0))
    equal = short[1:] & short[:-1] & (np.abs(np.diff(gap)) <= slack)
    run = np.cumsum(np.append(0, equal))
    ahead = _BOT_REGULAR - 2
    return np.asarray(lead[_BOT_REGULAR - 1 :][run[ahead:] - run[:-ahead] == ahead])


def _exclude(heading: str, unless: str) -> str:
    return f"Leave it out{unless}: exclude = {_toml([heading])} under [leads] in dataset.toml."


def _drop(table: str, name: str, *, unless: str = "", also: str = "") -> str:
    if table == "attributes":
        return f"Leave its rows out of attributes{unless}."
    return f"Leave it out{unless}: drop = {_toml([name])} under [kinds] in dataset.toml{also}."


def _toml(names: Sequence[str]) -> str:
    return json.dumps(list(dict.fromkeys(names)), ensure_ascii=False)


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})" if total else f"{count:,}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
