"""The leads of which something came in, so that they are ranked within seconds and not at the next sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock

from serving.store import Alias, Message, Quarantined

_MOST = 1_000
"""Leads that may wait; those beyond wait for the sweep, so that a flood of messages takes no more memory or time."""


class Touched:
    """Leads that wait to be ranked, by tenant; safe to use from many threads.

    >>> touched = Touched()
    >>> touched.add("acme", ["L-1", "L-2", "L-1"])
    >>> touched.take(most=10), touched.take(most=10)
    ({'acme': ['L-1', 'L-2']}, {})
    """

    def __init__(self) -> None:
        self._leads: dict[tuple[str, str], None] = {}
        self._lock = Lock()

    def add(self, tenant: str, lead_ids: Iterable[str]) -> None:
        """Adds leads, as far as there is room."""
        with self._lock:
            for name in lead_ids:
                if len(self._leads) >= _MOST:
                    return
                self._leads[tenant, name] = None

    def take(self, most: int) -> dict[str, list[str]]:
        """Takes out those that have waited longest, by tenant."""
        found: dict[str, list[str]] = {}
        with self._lock:
            for key in [*self._leads][:most]:
                del self._leads[key]
                found.setdefault(key[0], []).append(key[1])
        return found


def leads_of(messages: Sequence[Message]) -> Iterable[str]:
    """The leads that messages are about."""
    for message in messages:
        for row in message.rows:
            if isinstance(row, Alias):
                yield row.same_as.strip()
            elif not isinstance(row, Quarantined):
                yield row.lead_id.strip()
