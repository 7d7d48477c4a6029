"""What the service asks of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from features.errors import TouchstoneError
from serving.store.records import Record
from serving.store.rows import Message, StoredLead

R = TypeVar("R", bound=Record)


class StoreError(TouchstoneError):
    """The store could not do it now: it cannot be reached, is full, or is of another revision."""


class Written(msgspec.Struct, frozen=True):
    """What became of the messages of one write."""

    new: int
    duplicates: int
    quarantined: int = 0
    """Messages that came as quarantined, or whose alias contradicts what is known."""


class Store(Protocol):
    """Keeps what is known, tenant by tenant; safe to use from many threads.

    What changes something returns at once with a future, answered when the change is durable: a caller waits with
    `.result()`, or `await asyncio.wrap_future(...)`. Futures and readers raise StoreError where the store fails, and
    UsageError where a value can be in no store. What was written is seen by every read that begins after the answer.
    """

    @property
    def embedded(self) -> bool:
        """Whether a read of one lead takes so little that it needs no thread of its own."""
        ...

    def write(self, tenant: str, messages: Sequence[Message]) -> Future[Written]:
        """Writes all of the messages or, if one cannot be stored, none."""
        ...

    def read(self, tenant: str, lead_id: str) -> StoredLead | None:
        """Returns everything known of a lead; None if it was never heard of."""
        ...

    def read_many(self, tenant: str, lead_ids: Sequence[str]) -> dict[str, StoredLead]:
        """Returns the leads that are known among some, by id."""
        ...

    def stream(self, tenant: str, size: int = 1_000) -> Iterator[list[StoredLead]]:
        """Yields all leads in the order of their ids, `size` at a time."""
        ...

    def delete(self, tenant: str, lead_id: str) -> Future[int]:
        """Deletes a person: the lead, every id linked with it, and the records of it; returns how many ids went.

        Of its messages only hashes of their ids stay, so that none can count again.
        """
        ...

    def export(self, tenant: str, folder: Path) -> dict[str, int]:
        """Writes the tables that `Dataset.read` reads into a new folder, all or nothing; returns the rows of each."""
        ...

    def put(self, tenant: str, records: Sequence[Record]) -> Future[None]:
        """Stores records, in the place of those with the same key."""
        ...

    def swap(self, tenant: str, kind: type[R], seen: Mapping[str, R | None], records: Sequence[Record]) -> Future[bool]:
        """Stores records like `put` if those of a kind are there as they were seen, else nothing; returns whether.

        `seen` are records by their key, None for those that were not there. Where that is a lead's id, the
        lead has to be there.
        """
        ...

    def claim(self, tenant: str, record: R) -> Future[R | None]:
        """Stores a record unless one with its key is there; returns the one that is."""
        ...

    def find(
        self,
        kind: type[R],
        tenant: str,
        where: Mapping[str, Any] | None = None,
        *,
        before: Mapping[str, int] | None = None,
        order: str = "",
        after: R | None = None,
        limit: int = 1_000,
    ) -> list[R]:
        """Returns the records of a kind whose fields equal `where` (one of it, where that is a list) and are less than
        `before`.

        They come in the order of their key, or of the field `order` (with a minus: largest first) and then the key;
        `after` is the last record of the page before.
        """
        ...

    def remove(
        self,
        kind: type[Record],
        tenant: str,
        where: Mapping[str, Any] | None = None,
        *,
        before: Mapping[str, int] | None = None,
    ) -> Future[int]:
        """Removes the records that `find` would return without a limit; returns how many."""
        ...

    def lease(self, tenant: str, name: str, holder: str, seconds: float) -> Future[bool]:
        """Takes or renews a lease unless another holder's runs; 0 seconds give it back. Returns whether it is held."""
        ...

    def tenants(self) -> list[str]:
        """Returns everyone who ever stored something."""
        ...

    def close(self) -> None:
        """Finishes what was begun and lets go of the database."""
        ...
