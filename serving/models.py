"""Which model serves: loaded, swapped while requests run, and the same in every worker.

The watched folder, usually a link that `promote` and `rollback` move, says which model serves, until a reload names
another version: a marker in the store, which every worker follows for as long as the watched folder stays as it was.
A worker tells in a record of its own what it serves, and that it lives.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import msgspec

from features.errors import ModelError
from models.bundle import SUMS, load_bundle
from models.scorer import Scorer
from serving.background import SYSTEM
from serving.errors import Busy, Conflict, FieldError
from serving.schemas import ReloadResponse
from serving.service import Service
from serving.shadow import Comparison
from serving.store import Setting

_LIVES = 15.0
"""Seconds after which a worker that told nothing is taken for gone."""
_TELLS = 3.0
"""Seconds after which a worker tells again that it lives."""
_LOOKS = 0.02
"""Seconds between two looks at whether the other workers serve what they should."""
_MARKER, _WORKER = "model", "worker "
_LOG = logging.getLogger("touchstone")
_Signature: TypeAlias = tuple[tuple[str, int, int], ...]


class Marker(msgspec.Struct, frozen=True):
    """What a reload asks of all workers.

    >>> Marker(id="5c", watched="a1", version=None, digest="b2").version is None
    True
    """

    id: str
    watched: str
    """The digest of the watched folder when it was asked: another one there makes the marker void."""
    version: str | None
    """The folder beside the watched one that is to serve; None: the watched one."""
    digest: str
    """Of the folder that is to serve."""


class Worker(msgspec.Struct, frozen=True):
    """What a worker tells of itself.

    >>> Worker(seen=0, marker="5c", digest="b2", version="3").problem is None
    True
    """

    seen: int
    marker: str
    """The last marker it followed, or could not follow."""
    digest: str
    version: str
    problem: str | None = None
    comparison: Comparison | None = None


class Models:
    """The model that serves, the one before and the shadow of one worker; safe to use from many threads.

    >>> from serving.settings import Settings
    >>> Models(Service(scorer=..., store=..., access=..., settings=Settings()), worker="w1").previous is None
    True
    """

    def __init__(self, service: Service, worker: str) -> None:
        self._service = service
        self._worker = worker
        self._watched = service.settings.model
        self._serving = digest_of(self._watched) or ""
        self._before: tuple[str, Scorer] | None = None
        self._refused: dict[Path, tuple[_Signature, str]] = {}
        self._shadow = "none"
        self._marker = ""
        self._told: tuple[float, Worker | None] = 0.0, None
        self._working = Lock()
        self.problem: str | None = None
        """Why what is to serve does not, if it does not."""

    @property
    def previous(self) -> Scorer | None:
        """What served before."""
        return self._before[1] if self._before else None

    def follow(self) -> None:
        """Serves what is to be served, scores what the shadow is to score, and tells of it."""
        with self._working:
            marker = self._read_marker()
            version = marker.version if marker and marker.watched == digest_of(self._watched) else None
            try:
                self._take(self._folder(version))
                self.problem = None
            except ModelError as problem:
                self.problem = str(problem)
            self._marker = marker.id if marker else ""
            self._follow_shadow()
            self._tell()
        self._service.shadow.work()

    def reload(self, version: str | None) -> ReloadResponse:
        """Has all workers serve the watched folder, read anew, or a version beside it; returns once all do.

        Raises FieldError for a version that is not there, Conflict for a bad bundle, which no worker then serves, and
        Busy with the names of the workers that did not follow in time.
        """
        store, name = self._service.store, f"{self._worker} reload"
        seconds = self._service.settings.reload_seconds
        if not store.lease(SYSTEM, "reload", name, seconds + 5).result():
            raise Conflict("another reload is under way. Wait for it to end.")
        try:
            before = self._service.scorer.card.version
            marker = self._lead(version)
            now = self._service.scorer.card.version
            return ReloadResponse(now, before, self._wait(marker, seconds))
        finally:
            store.lease(SYSTEM, "reload", name, 0).result()

    def leave(self) -> None:
        """Tells the others not to wait for this worker."""
        self._service.store.remove(Setting, SYSTEM, {"name": _WORKER + self._worker}).result()

    def comparison(self) -> Comparison | None:
        """What the shadows of all workers found beside the version that serves; None without one."""
        mine = self._service.shadow.comparison(self._service.scorer.card.version)
        for name, worker in self._workers().items() if mine else ():
            if name != self._worker and worker.comparison and mine:
                mine = mine.plus(worker.comparison)
        return mine

    def _folder(self, version: str | None) -> Path:
        return self._watched if version is None else self._watched.parent / version

    def _lead(self, version: str | None) -> Marker:
        """Serves another model in this worker first, so that a bad one goes no further."""
        folder = self._folder(version)
        if version is not None and digest_of(folder) is None:
            raise FieldError("version", f"there is no model in {folder.name!r} beside {self._watched}. Name one.")
        with self._working:
            try:
                self._take(folder, anew=version is None)
            except ModelError as problem:
                raise Conflict(f"{problem} Version {self._service.scorer.card.version} serves on.") from None
            self.problem = None
            marker = Marker(uuid.uuid4().hex, digest_of(self._watched) or "", version, self._serving)
            self._service.store.put(SYSTEM, [Setting(name=_MARKER, body=msgspec.structs.asdict(marker))]).result()
            self._marker = marker.id
            self._tell()
        return marker

    def _wait(self, marker: Marker, seconds: float) -> int:
        """Waits until every worker that lives has followed; returns how many there are."""
        until = time.monotonic() + seconds
        while True:
            workers = self._workers()
            behind = {
                name: one for name, one in workers.items() if (one.marker, one.digest) != (marker.id, marker.digest)
            }
            if not behind:
                return len(workers)
            refused = [one.problem for one in behind.values() if one.marker == marker.id and one.problem]
            if time.monotonic() > until or refused:
                names = ", ".join(f"{name} ({one.problem or f'serves {one.version}'})" for name, one in behind.items())
                raise Busy(f"{len(behind)} of {len(workers)} workers do not serve it: {names}.", 5)
            time.sleep(_LOOKS)

    def _take(self, folder: Path, *, anew: bool = False) -> None:
        """Has a folder's model serve. Raises ModelError if it cannot; then the one before serves on."""
        digest = digest_of(folder) or ""
        if digest == self._serving and not anew:
            self._service.archive.keep(folder, self._service.scorer)
            return
        if self._before is not None and digest == self._before[0] and not anew:
            scorer = self._before[1]
        else:
            scorer = self._load(folder, digest, anew)
        # Before it answers, so that what it answers can be answered again.
        self._service.archive.keep(folder, scorer)
        if digest != self._serving:
            self._before = self._serving, self._service.scorer
        self._serving = digest
        # The one place where a model takes over: a request reads it once.
        self._service.scorer = scorer

    def _load(self, folder: Path, digest: str, anew: bool = False) -> Scorer:
        """Loads a bundle; what was refused is not tried again until a file in there changes, unless it is asked for."""
        signature = signature_of(folder)
        known, says = self._refused.get(folder, (None, ""))
        if known == signature and not anew:
            raise ModelError(says)
        try:
            scorer = load_bundle(folder)
        except ModelError as problem:
            self._refused[folder] = signature, str(problem)
            _LOG.warning("a model was refused: %s", problem)
            raise
        if digest_of(folder) != digest:
            raise ModelError(f"{folder} changed while it was read.")
        return scorer

    def _follow_shadow(self) -> None:
        shadow, folder = self._service.shadow, self._service.settings.shadow
        if folder is None:
            return
        digest = digest_of(folder) or ""
        if digest == self._shadow:
            return
        try:
            shadow.scorer, shadow.problem, self._shadow = self._load(folder, digest), None, digest
        except ModelError as problem:
            shadow.problem = str(problem)

    def _tell(self) -> None:
        """Tells what serves, when that changed or nothing was told for a while."""
        card = self._service.scorer.card
        comparison = self._service.shadow.comparison(card.version)
        now = Worker(time.time_ns() // 1_000, self._marker, self._serving, card.version, self.problem, comparison)
        at, told = self._told
        same = told is not None and msgspec.structs.replace(now, seen=told.seen, comparison=told.comparison) == told
        if same and time.monotonic() < at + _TELLS:
            return
        self._service.store.put(SYSTEM, [Setting(name=_WORKER + self._worker, body=msgspec.to_builtins(now))]).result()
        self._told = time.monotonic(), now

    def _read_marker(self) -> Marker | None:
        found = self._service.store.find(Setting, SYSTEM, {"name": _MARKER}, limit=1)
        return msgspec.convert(found[0].body, Marker) if found else None

    def _workers(self) -> dict[str, Worker]:
        """What the workers that live told, by name; those that are gone are forgotten."""
        store, now = self._service.store, time.time_ns() // 1_000
        found = {}
        for setting in store.find(Setting, SYSTEM, after=Setting(name=_WORKER, body={})):
            if setting.name.startswith(_WORKER):
                worker = msgspec.convert(setting.body, Worker)
                if now - worker.seen < _LIVES * 1e6:
                    found[setting.name.removeprefix(_WORKER)] = worker
                elif now - worker.seen > 20 * _LIVES * 1e6:
                    store.remove(Setting, SYSTEM, {"name": setting.name})
        return found


def digest_of(folder: Path) -> str | None:
    """The digest of a bundle and its tiers, as its list of checksums has it; None if there is no such list."""
    try:
        return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    except OSError:
        return None


def signature_of(folder: Path) -> _Signature:
    """What changes whenever a file in a folder does."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries))
    except OSError:
        return ()
