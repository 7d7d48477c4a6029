"""Predicts with LightGBM models through its C library alone.

Importing the lightgbm package takes 1.5 s and brings scikit-learn and pandas; its library takes milliseconds. The
library trusts what it is given, so a damaged model text kills the process or traps it in a tree that never ends:
texts are checked here first, and `check_in_child` lets a process of its own try one.

The library also keeps its number of threads in one variable for the whole process, and calls that disagree about it
crash. So it always works on one thread here; callers share rows out among Python's threads, which hold no GIL
meanwhile (`models.scorer` does). Do not predict while the lightgbm package trains in another thread of the process.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from signal import Signals
from typing import Final, NamedTuple, Self

import numpy as np

from features.errors import ModelError
from features.history import Floats, Matrix

__all__ = ["Booster", "check_in_child"]

_FLOAT32: Final = 0
_ROW_MAJOR: Final = 1
_PROBABILITY: Final = 0
_ALL_TREES: Final = (0, -1)
_PARAMETERS: Final = b"num_threads=1 verbosity=-1"
# Rows of one call: the library cannot be interrupted, and this many rows take it about half a second.
_BLOCK: Final = 65_536
_FLOAT32_DTYPE: Final = np.dtype(np.float32)


class Booster:
    """A LightGBM model that gives one number per row: a probability, if its objective is binary.

    Any number of threads may predict with it at once. Pickles and copies parse its text anew.

    >>> import lightgbm
    >>> rows = np.arange(100, dtype=np.float32).reshape(50, 2)
    >>> data = lightgbm.Dataset(rows, np.arange(50) > 30, feature_name=["visits", "clicks"])
    >>> trained = lightgbm.train({"objective": "binary", "verbosity": -1}, data, num_boost_round=5)
    >>> booster = Booster.from_text(trained.model_to_string())
    >>> booster.feature_names
    ('visits', 'clicks')
    >>> bool((booster.predict(rows) == trained.predict(rows)).all())
    True
    """

    __slots__ = ("__weakref__", "_fast", "_handle", "_predict_row", "feature_names", "text")

    feature_names: tuple[str, ...]
    """The columns of the matrix, in order."""
    text: str
    """What the model was parsed from."""

    def __init__(self, text: str, feature_names: tuple[str, ...], handle: ctypes.c_void_p) -> None:
        library = _library()
        self.feature_names = feature_names
        self.text = text
        self._handle = handle
        self._fast = ctypes.c_void_p()
        # At exit the system takes the memory back; freeing it then could pull it from under a thread that predicts.
        weakref.finalize(self, _free, library, self._handle, self._fast).atexit = False
        # One row takes microseconds. Giving up the GIL for it means waiting for it again, up to 5 ms, if another thread
        # computes; and as it is held, threads can share one predictor (which has a lock of its own as well).
        self._predict_row: Callable[..., int] = ctypes.PyDLL(library._name).LGBM_BoosterPredictForMatSingleRowFast
        _call(
            library.LGBM_BoosterPredictForMatSingleRowFastInit,
            *(handle, _PROBABILITY, *_ALL_TREES, _FLOAT32, len(feature_names), _PARAMETERS, ctypes.byref(self._fast)),
        )

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parses what LightGBM's `model_to_string` wrote; raises `ModelError` if it is damaged."""
        model = _checked(text)
        handle, iterations = ctypes.c_void_p(), ctypes.c_int()
        load = _library().LGBM_BoosterLoadModelFromString
        if load(model.loadable, ctypes.byref(iterations), ctypes.byref(handle)):
            raise _damaged(_last_error())
        booster = cls(text, model.feature_names, handle)
        if iterations.value != model.trees:
            raise _damaged(f"LightGBM reads {iterations.value} of its {model.trees} trees")
        return booster

    def predict(self, matrix: Matrix) -> Floats:
        """Predicts every row of a C-contiguous (n, features) matrix: (n,), to the bit as LightGBM does itself."""
        if (
            not isinstance(matrix, np.ndarray)
            or matrix.dtype != _FLOAT32_DTYPE
            or matrix.ndim != 2
            or matrix.shape[1] != len(self.feature_names)
            or not matrix.flags.c_contiguous
        ):
            raise ModelError(self._refusal(matrix))
        rows = matrix.shape[0]
        out = np.empty(rows)
        if rows == 1:
            # The bytes are a copy no other thread can change, and ctypes passes them on faster than an array.
            length, result = ctypes.c_int64(), ctypes.c_double()
            _call(self._predict_row, self._fast, matrix.tobytes(), ctypes.byref(length), ctypes.byref(result))
            out[0] = result.value
            return out
        for start in range(0, rows, _BLOCK):
            self._fill(matrix[start : start + _BLOCK], out[start : start + _BLOCK])
        return out

    def _fill(self, matrix: Matrix, out: Floats) -> None:
        _call(
            _library().LGBM_BoosterPredictForMat,
            *(self._handle, ctypes.c_void_p(matrix.ctypes.data), _FLOAT32, *matrix.shape, _ROW_MAJOR),
            *(_PROBABILITY, *_ALL_TREES, _PARAMETERS),
            *(ctypes.byref(ctypes.c_int64()), ctypes.c_void_p(out.ctypes.data)),
        )

    def _refusal(self, matrix: object) -> str:
        wanted = f"a C-contiguous float32 matrix of shape (n, {len(self.feature_names)})"
        if not isinstance(matrix, np.ndarray):
            return f"A booster predicts {wanted}; got {type(matrix).__name__}."
        order = "" if matrix.flags.c_contiguous else ", not C-contiguous"
        return f"A booster predicts {wanted}; got {matrix.dtype} of shape {matrix.shape}{order}."

    def __reduce__(self) -> tuple[Callable[[str], Booster], tuple[str]]:
        return type(self).from_text, (self.text,)


def check_in_child(text: str, timeout: float = 60) -> None:
    """Loads a model text and predicts a few rows with it in a process of its own; raises `ModelError` if it cannot.

    Finds what would kill or stop this process. It cannot find a changed number: compare checksums for that.
    """
    model = _checked(text)
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    command += [_library()._name, str(model.trees), str(len(model.feature_names))]
    try:
        child = subprocess.run(command, input=model.loadable, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise _damaged(f"a process that tried it had not finished after {timeout:g} s") from None
    if child.returncode < 0:
        raise _damaged(f"a process that tried it died of {Signals(-child.returncode).name}")
    if child.returncode > 0:
        said = child.stderr.decode(errors="replace").strip().splitlines()
        raise _damaged(said[-1] if said else f"a process that tried it ended with {child.returncode:#x}")


# Neither site-packages nor numpy: it is done within a tenth of a second.
_CHILD: Final = f"""\
import ctypes, sys
library, trees, features = ctypes.CDLL(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
library.LGBM_GetLastError.restype = ctypes.c_char_p
def call(function, *arguments):
    if function(*arguments):
        sys.exit(library.LGBM_GetLastError().decode(errors="replace"))
handle, iterations, length = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int64()
load = library.LGBM_BoosterLoadModelFromString
call(load, sys.stdin.buffer.read(), ctypes.byref(iterations), ctypes.byref(handle))
if iterations.value != trees:
    sys.exit(f"LightGBM reads {{iterations.value}} of its {{trees}} trees")
values = [float("nan"), 0.0, 3e38, -3e38]
rows = (ctypes.c_float * (features * len(values)))(*(value for value in values for _ in range(features)))
out = (ctypes.c_double * len(values))()
call(library.LGBM_BoosterPredictForMat, handle, rows, {_FLOAT32}, len(values), features, {_ROW_MAJOR},
     {_PROBABILITY}, *{_ALL_TREES}, {_PARAMETERS!r}, ctypes.byref(length), out)
if any(value - value for value in out):
    sys.exit(f"it predicts {{list(out)}}")
"""


@cache
def _library() -> ctypes.CDLL:
    """LightGBM's C library, found without importing the package around it."""
    package = find_spec("lightgbm")
    if package is None or package.origin is None:
        raise ModelError("LightGBM is not installed here. Install it with: pip install lightgbm")
    name = {"win32": "lib_lightgbm.dll", "darwin": "lib_lightgbm.dylib"}.get(sys.platform, "lib_lightgbm.so")
    folder = Path(package.origin).parent
    path = next((found for part in ("lib", "bin") if (found := folder / part / name).is_file()), None)
    if path is None:
        raise ModelError(f"LightGBM's library {name} is not in {folder / 'lib'}. Install lightgbm again.")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        if "libgomp" in str(error) or "libomp" in str(error):
            raise ModelError(
                "LightGBM needs the OpenMP library, which this machine lacks. Install libgomp1 (Debian, Ubuntu), "
                f"libgomp (Fedora, Alpine) or libomp (Homebrew). The system says: {error}"
            ) from error
        raise ModelError(f"LightGBM's library does not load. Install lightgbm again. Reason: {error}") from error
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments):
        raise ModelError(f"LightGBM: {_last_error()}")


def _last_error() -> str:
    message: bytes = _library().LGBM_GetLastError()
    return message.decode(errors="replace")


def _free(library: ctypes.CDLL, handle: ctypes.c_void_p, fast: ctypes.c_void_p) -> None:
    library.LGBM_FastConfigFree(fast)
    library.LGBM_BoosterFree(handle)


class _Model(NamedTuple):
    """A model text found sound: what to expect of it and the bytes to load."""

    feature_names: tuple[str, ...]
    trees: int
    loadable: bytes


def _checked(text: str) -> _Model:
    """Refuses what LightGBM would read past the end of, or walk in a circle in."""
    header, _, body = text.partition("\n\n")
    fields = _fields(header)
    if fields.get("num_class") != "1" or fields.get("num_tree_per_iteration") != "1":
        raise _damaged("its header does not say num_class=1 and num_tree_per_iteration=1")
    if not body.isascii() or "\0" in text:
        raise _damaged("it holds characters that LightGBM does not write")
    try:
        names = tuple(fields["feature_names"].split(" "))
        sizes = [int(size) for size in fields["tree_sizes"].split(" ")]
    except (KeyError, ValueError) as error:
        raise _damaged(f"its header is not LightGBM's ({error})") from None
    start = 0
    for number, size in enumerate(sizes):
        tree = body[start : start + size]
        start += size
        if not _is_sound(tree, len(names)):
            raise _damaged(f"tree {number} of {len(sizes)} does not hold together")
    if not body.startswith("end of trees", start):
        raise _damaged(f"its {len(sizes)} trees are not followed by 'end of trees'")
    # Without their sizes LightGBM reads tree after tree on this thread, and reports what it cannot read. With them it
    # starts threads that do not survive a fork, and what these cannot read aborts the process.
    loadable = text.replace(f"\ntree_sizes={fields['tree_sizes']}", "", 1).encode()
    return _Model(names, len(sizes), loadable)


def _is_sound(tree: str, features: int) -> bool:
    """Says whether every path from the root of a tree ends in a leaf it has."""
    fields = _fields(tree)
    try:
        leaves = int(fields["num_leaves"])
        left, right, split, kind = (
            [int(number) for number in fields[name].split()]
            for name in ("left_child", "right_child", "split_feature", "decision_type")
        )
        lengths = {len(left), len(right), len(split), len(kind), len(fields["threshold"].split())}
        values = len(fields["leaf_value"].split())
        categorical = fields["num_cat"] != "0"
    except (KeyError, ValueError):
        return False
    if not tree.startswith("Tree=") or lengths != {leaves - 1} or values != leaves:
        return False
    # Leaf k stands as -1 - k. A node is always younger than its parent, so no walk can come back to where it was.
    children = sorted(left + right)
    return (
        (leaves == 1 or children == [*range(-leaves, 0), *range(1, leaves - 1)])
        and all(node < child or child < 0 for side in (left, right) for node, child in enumerate(side))
        and all(0 <= feature < features for feature in split)
        and (categorical or not any(flags & 1 for flags in kind))
    )


def _fields(lines: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in lines.split("\n"))}


def _damaged(what: str) -> ModelError:
    return ModelError(f"This model text is damaged or not one of ours: {what}. Restore it, or train a new model.")
