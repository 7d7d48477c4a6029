"""Lets the kernels run where numba can keep nothing: where files are read-only and there is no home, as in containers.

numba takes compiled code only from where it could write some, and refuses to define a function if that is neither
NUMBA_CACHE_DIR, nor beside the module, nor under HOME. With this module imported, it takes the code that set-up left
beside the module also where it cannot write there, and compiles for the process alone where it can write nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
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


class _Cache(caching.FunctionCache):
    """What cannot be read is compiled, and what cannot be written is not kept."""

    _impl_class = _Files

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with suppress(OSError):
            yield


dispatcher.FunctionCache = _Cache  # type: ignore[attr-defined]
