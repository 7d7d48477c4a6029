"""The models that have served: each is kept in the store, so that what it answered can be answered again.

Every worker and host over one database shares it; none needs the folder that a model once came from.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import msgspec

from features.errors import ModelError
from models.bundle import load_bundle, pack_bundle, unpack_bundle
from models.scorer import Scorer
from models.tiers import Tiers
from serving.background import SYSTEM
from serving.store import Bundle, Receipt, Served, Store

_READY = 4
"""Restored models that stay in memory: restoring one takes about a second."""
_LOG = logging.getLogger("touchstone")


class Archive:
    """Keeps models and gives them back; safe to use from many threads.

    >>> from features.times import to_us
    >>> from serving.store import open_store
    >>> with TemporaryDirectory() as folder:
    ...     store = open_store(f"sqlite:///{folder}/touchstone.db")
    ...     print(Archive(store).scorer_at(to_us("2026-10-01")))
    ...     store.close()
    None
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted = "", ""
        self._ready: OrderedDict[str, Scorer] = OrderedDict()
        self._restoring = Lock()

    def keep(self, folder: Path, scorer: Scorer) -> None:
        """Keeps a model that serves from now on, and its tiers; what is kept already is not written again."""
        now = scorer.digest, tiers_json(scorer)
        if now == self._noted or not scorer.digest:
            return
        with self._restoring:
            self._ready[scorer.digest] = scorer
        try:
            packed = pack_bundle(folder)
        except ModelError as problem:
            _LOG.warning("the receipts of version %s cannot be replayed later: %s", scorer.card.version, problem)
            self._noted = now
            return
        at, version = time.time_ns() // 1_000, scorer.card.version
        self._store.claim(SYSTEM, Bundle(digest=scorer.digest, version=version, packed=packed, kept_at=at)).result()
        last = self._store.find(Served, SYSTEM, order="-at", limit=1)
        if not last or (last[0].bundle, last[0].tiers) != now:
            self._store.put(SYSTEM, [Served(at=at, bundle=now[0], version=version, tiers=now[1])]).result()
        self._noted = now

    def scorer(self, digest: str) -> Scorer | None:
        """The model of a bundle, with the tiers it had when it was kept; None if it is not kept.

        Raises ModelError if it cannot score here as it did.
        """
        with self._restoring:
            if digest not in self._ready:
                found = self._store.find(Bundle, SYSTEM, {"digest": digest}, limit=1)
                if not found:
                    return None
                self._ready[digest] = _restored(found[0])
            self._ready.move_to_end(digest)
            while len(self._ready) > _READY:
                self._ready.popitem(last=False)
            return self._ready[digest]

    def scorer_at(self, instant: int) -> Scorer | None:
        """The model that served at an instant in microseconds, with its tiers; None if none is known to have."""
        found = self._store.find(Served, SYSTEM, before={"at": instant + 1}, order="-at", limit=1)
        scorer = self.scorer(found[0].bundle) if found else None
        return with_tiers(scorer, found[0].tiers) if scorer else None

    def forget(self, before: int, serving: str) -> int:
        """Removes the models that served only before an instant and that no receipt names; returns how many.

        `serving` is the digest of the one that serves, whatever the records say.
        """
        store = self._store
        if last := store.find(Served, SYSTEM, before={"at": before}, order="-at", limit=1):
            # It served on until the next one did.
            store.remove(Served, SYSTEM, before={"at": last[0].at}).result()
        needed = {serving} | {one.bundle for one in store.find(Served, SYSTEM)}
        count, page = 0, store.find(Bundle, SYSTEM, limit=1)
        while page:
            if page[0].digest not in needed and not self._named(page[0].digest):
                store.remove(Bundle, SYSTEM, {"digest": page[0].digest}).result()
                count += 1
            page = store.find(Bundle, SYSTEM, after=page[0], limit=1)
        return count

    def _named(self, digest: str) -> bool:
        store = self._store
        return any(store.find(Receipt, tenant, {"bundle": digest}, limit=1) for tenant in store.tenants())


def tiers_json(scorer: Scorer) -> str:
    """The tiers of a scorer as they are kept."""
    return msgspec.json.encode(scorer.tiers).decode()


def with_tiers(scorer: Scorer, tiers: str) -> Scorer:
    """A scorer with the tiers that were kept."""
    return replace(scorer, tiers=Tiers.from_json(tiers))


def _restored(bundle: Bundle) -> Scorer:
    with TemporaryDirectory(prefix="touchstone-bundle-") as folder:
        unpack_bundle(bundle.packed, Path(folder))
        scorer = load_bundle(folder)
    if scorer.digest != bundle.digest:
        raise ModelError(f"the model kept as {bundle.digest[:12]}... (version {bundle.version}) is another one.")
    return scorer
