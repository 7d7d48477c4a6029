"""Lets the kernels run where numba can keep nothing: where files are read-only and there is no home, as in containers.

numba takes compiled code only from where it could write some, and refuses to define a function if that is neither
NUMBA_CACHE_DIR, nor beside the module, nor under HOME. With this module imported, it takes the code that set-up left
beside the module also where it cannot write there, and compiles for the process alone where it can write nowhere.

numba also takes compiled code as long as the function's own file is as it was. With this module imported, what the
function has from other files has to be as it was, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FunctionType
from typing import Any

from numba.core import caching, dispatcher


class _ReadOnly(caching.InTreeCacheLocator):
    """Beside the module, whether anything can be written there or not."""

    def ensure_cache_path(self) -> None:
        pass


class _SetUp(_ReadOnly):
    """Beside the module, if set-up left code there."""

    def ensure_cache_path(self) -> None:
        if not any(Path(self._cache_path).glob("*.nbi")):
            raise FileNotFoundError


class _Files(caching.CompileResultCacheImpl):
    _locator_classes: Any = (
        caching.UserProvidedCacheLocator,
        caching.InTreeCacheLocator,
        _SetUp,
        caching.UserWideCacheLocator,
        caching.IPythonCacheLocator,
        caching.ZipCacheLocator,
        _ReadOnly,
    )

    def __init__(self, function: FunctionType) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        stamp = (self._locator.get_source_stamp(), *_taken_in(function))
        self._locator.get_source_stamp = lambda: stamp


def _taken_in(function: FunctionType) -> Iterator[Any]:
    """What tells whether all that is compiled into a function is as it was: other functions' stamps, and constants."""
    for name in function.__code__.co_names:
        found = function.__globals__.get(name)
        cache = getattr(found, "_cache", None)
        if isinstance(cache, _Cache):
            yield cache.stamp
        elif isinstance(found, (int, float, str, tuple)):
            yield found


class _Cache(caching.FunctionCache):
    """What cannot be read is compiled, and what cannot be written is not kept."""

    _impl_class = _Files

    @property
    def stamp(self) -> Any:
        """What tells whether the source is as it was when it was compiled."""
        return self._impl.locator.get_source_stamp()

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with suppress(OSError):
            yield


dispatcher.FunctionCache = _Cache  # type: ignore[attr-defined]
