"""Which leads an id stands for: itself, and every lead it came to mean later.

A link says that from an instant on one id is the same lead as another. Nothing is rewritten: what happened under the
first id counts for the second too, but is not known to before the link is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.history import Codes, Ints
from features.parsing import TEXT, codes
from features.times import NEVER

Links = Mapping[str, tuple[str, int]]
"""For each id that came to mean another: which one, and from when on."""


def chain_of(name: str, links: Links) -> Iterator[tuple[str, int]]:
    """Yields each id that a linked id came to mean, with the instant from which on it does.

    >>> list(chain_of("a", {"a": ("b", 5), "b": ("c", 3)}))
    [('b', 5), ('c', 5)]
    """
    since = -NEVER
    while name in links:
        name, at = links[name]
        since = max(since, at)
        yield name, since


class LeadIndex:
    """Finds the leads that ids stand for."""

    def __init__(self, ids: pa.Array, links: Links) -> None:
        self.links = links
        self._ids = ids
        self._targets = pd.DataFrame(
            {"to": [to for to, _ in links.values()], "at": [at for _, at in links.values()]},
            index=pd.Index(list(links), dtype=object),
        )

    def find(self, names: pa.DictionaryArray) -> Codes:
        """The lead of exactly each id; -1 where there is none."""
        if not len(names) or (names.dictionary.equals(self._ids) and not names.indices.null_count):
            return codes(names)
        place = pc.index_in(names.dictionary, value_set=self._ids).fill_null(-1)
        return np.append(np.asarray(place, np.int32), np.int32(-1))[codes(names)]

    def __len__(self) -> int:
        return len(self._ids)

    def copies(self, names: pa.DictionaryArray) -> tuple[Codes, Ints, Ints]:
        """Returns (lead, row, since) of every lead that each row counts for, and from when on it is known to."""
        lead = self.find(names)
        found = [(lead, np.arange(len(names)), np.full(len(names), -NEVER))]
        if self.links:
            linked = np.asarray(pc.is_in(names.dictionary, value_set=pa.array(list(self.links), TEXT)))
            rows = np.flatnonzero(np.append(linked, False)[codes(names)])
            current = np.array(names.take(pa.array(rows)).to_pylist(), object)
            since = np.full(len(rows), -NEVER)
            while len(rows):
                target = self._targets.loc[current]
                since = np.maximum(since, target["at"].to_numpy(np.int64))
                current = target["to"].to_numpy(object)
                found.append((self.find(pa.array(current, TEXT).dictionary_encode()), rows, since))
                more = np.array([name in self.links for name in current], np.bool_)
                rows, current, since = rows[more], current[more], since[more]
        lead, rows, since = (np.concatenate(column) for column in zip(*found, strict=True))
        known = lead >= 0
        return lead[known], rows[known], since[known]

    def merged_at(self) -> Ints:
        """(leads,) from when on each lead's id means another; NEVER for most."""
        merged = np.full(len(self), NEVER, np.int64)
        own = self.find(pa.array(list(self.links), TEXT).dictionary_encode())
        merged[own[own >= 0]] = self._targets["at"].to_numpy(np.int64)[own >= 0]
        return merged
