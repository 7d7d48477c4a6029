"""Lets the kernels run where numba can keep nothing: where files are read-only and there is no home, as in containers.

numba refuses to define a function whose code it could write neither to NUMBA_CACHE_DIR, nor beside the module, nor
under HOME. With this module imported, such a function takes the code that set-up left beside the module, or else is
compiled for the process alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from numba.core import caching, dispatcher


class _BesideTheModule(caching.InTreeCacheLocator):
    """Where set-up left the code; whether anything can be written there is not asked."""

    def ensure_cache_path(self) -> None:
        pass


class _Files(caching.CompileResultCacheImpl):
    _locator_classes: Any = (*caching.CompileResultCacheImpl._locator_classes, _BesideTheModule)


class _Cache(caching.FunctionCache):
    """What cannot be read is compiled, and what cannot be written is not kept."""

    _impl_class = _Files

    @contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        with suppress(OSError):
            yield


dispatcher.FunctionCache = _Cache  # type: ignore[attr-defined]
