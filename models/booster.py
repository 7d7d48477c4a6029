"""Predicts with the trees that LightGBM has grown, to the bit as it does itself and without it.

A few rows walk down each tree. Many are taken 64 at a time past all nodes of a tree: each node strikes out the leaves
to its left for the rows that go right, and the first leaf that is left over is the one a row comes to (QuickScorer:
Lucchese et al., SIGIR 2015 and, many rows at once, 2016). So a processor compares many rows with one instruction, and
never guesses which way one goes.

A tree adds its value to a row's sum in the order of the trees, as in LightGBM, so that the sums are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from features.errors import ModelError
from features.history import Bools, Codes, Floats, Matrix

__all__ = ["Booster"]

# Up to so many rows are faster one by one.
_FEW: Final = 8
# Rows taken past a node at once: with fewer, what numba makes of the loop compares one at a time.
_LANES: Final = 64
_LEAVES: Final = 64
_OBJECTIVES: Final = ("cross_entropy", "binary sigmoid:1")
_FLOAT32: Final = np.dtype(np.float32)
_ZERO: Final = np.float32(1e-35)
"""LightGBM takes what is no farther from zero for zero."""
_LEAST: Final = np.float32(-np.inf)
_NONE, _NAN = 0, 2
"""How a node takes a missing value: as zero, or to the side that it says."""
# Multiplied by a power of two it has another number in its upper six bits for each.
_DE_BRUIJN: Final = 0x03F79D71B4CB0A89
_PLACE: Final = np.empty(64, np.int64)
_PLACE[[(_DE_BRUIJN << bit) % 2**64 >> 58 for bit in range(64)]] = np.arange(64)


class Booster:
    """A LightGBM model that gives one number per row: a probability.

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

    __slots__ = ("_masks", "_nodes", "feature_names", "text")

    feature_names: tuple[str, ...]
    """The columns of the matrix, in order."""
    text: str
    """What the model was parsed from."""

    def __init__(self, text: str, feature_names: tuple[str, ...], trees: list[_Tree]) -> None:
        self.feature_names = feature_names
        self.text = text
        self._nodes = _Nodes.of(trees)
        self._masks = _Masks.of(trees) if all(len(tree.value) <= _LEAVES for tree in trees) else None

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parses what LightGBM's `model_to_string` wrote; raises `ModelError` if it is damaged or not one of ours."""
        return cls(text, *_parsed(text))

    def predict(self, matrix: Matrix) -> Floats:
        """Predicts every row of a C-contiguous (n, features) matrix: (n,), to the bit as LightGBM does itself."""
        if (
            not isinstance(matrix, np.ndarray)
            or matrix.dtype != _FLOAT32
            or matrix.ndim != 2
            or matrix.shape[1] != len(self.feature_names)
            or not matrix.flags.c_contiguous
        ):
            raise ModelError(self._refusal(matrix))
        out = np.empty(len(matrix))
        if len(matrix) <= _FEW:
            _walk(matrix, *self._nodes, out)
        elif self._masks is None:
            _walk_on(matrix, *self._nodes, out)
        else:
            _strike_out(matrix, *self._masks, _PLACE, out)
        return out

    def _refusal(self, matrix: object) -> str:
        wanted = f"a C-contiguous float32 matrix of shape (n, {len(self.feature_names)})"
        if not isinstance(matrix, np.ndarray):
            return f"A booster predicts {wanted}; got {type(matrix).__name__}."
        order = "" if matrix.flags.c_contiguous else ", not C-contiguous"
        return f"A booster predicts {wanted}; got {matrix.dtype} of shape {matrix.shape}{order}."

    def __reduce__(self) -> tuple[Callable[[str], Booster], tuple[str]]:
        return type(self).from_text, (self.text,)


class _Node(NamedTuple):
    """A row goes left where its feature is at most the threshold, else right."""

    feature: int
    threshold: float
    missing_right: bool
    left: int
    """A node's place; -1 - k stands for leaf k."""
    right: int


class _Tree(NamedTuple):
    nodes: list[_Node]
    """Each stands before its children."""
    value: list[float]
    """What each leaf adds."""


class _Nodes(NamedTuple):
    """Trees to walk down: all nodes and leaves in one row, the right child behind the left one."""

    first: Codes
    """(trees,) their roots."""
    feature: Codes
    threshold: Matrix
    missing_right: Bools
    child: Codes
    """The left child; below 0 for a leaf, of which it is -1 - the place of its value."""
    value: Floats

    @classmethod
    def of(cls, trees: list[_Tree]) -> Self:
        """Lays trees out."""
        rows: list[tuple[int, float, bool, int]] = []
        roots, values = [], list[float]()
        for nodes, value in trees:
            roots.append(len(rows))
            # Where each node stands; a tree without nodes is its one leaf.
            waiting = [(len(rows), 0 if nodes else -1)]
            rows.append((0, 0.0, False, 0))
            for place, name in waiting:
                if name < 0:
                    rows[place] = 0, 0.0, False, name - len(values)
                    continue
                node = nodes[name]
                rows[place] = node.feature, node.threshold, node.missing_right, len(rows)
                waiting += (len(rows), node.left), (len(rows) + 1, node.right)
                rows += [(0, 0.0, False, 0)] * 2
            values += value
        feature, threshold, missing, child = zip(*rows, strict=True) if rows else ((),) * 4
        return cls(
            np.array(roots, np.int32), np.array(feature, np.int32), np.array(threshold, np.float32),
            np.array(missing, np.bool_), np.array(child, np.int32), np.array(values, np.float64),
        )  # fmt: skip


class _Masks(NamedTuple):
    """Trees to strike leaves out of: first the nodes of a tree that send a missing value left, then the others."""

    first: Codes
    """(trees + 1,) where the nodes of each tree begin."""
    turn: Codes
    """(trees,) where those begin that send a missing value right."""
    feature: Codes
    threshold: Matrix
    kept: npt.NDArray[np.uint64]
    """The leaves that are left over for a row that goes right, one bit each, the leftmost the lowest."""
    leaf: Codes
    """(trees,) where the values of a tree's leaves begin."""
    value: Floats
    """By leaf, from left to right."""

    @classmethod
    def of(cls, trees: list[_Tree]) -> Self:
        """Lays trees of up to 64 leaves out."""
        first, turn, leaf = [0], list[int](), list[int]()
        rows: list[tuple[bool, int, float, int]] = []
        values: list[float] = []
        for nodes, value in trees:
            begin, span = len(values), _spans(nodes)
            leaf.append(begin)
            values += [0.0] * len(value)
            for name, (low, _) in span.items():
                if name < 0:
                    values[begin + low] = value[-1 - name]
            mine = []
            for node in nodes:
                low, high = span[node.left]
                struck = (1 << high) - (1 << low)
                mine.append((node.missing_right, node.feature, node.threshold, 2**64 - 1 - struck))
            mine.sort(key=lambda row: row[0])
            turn.append(first[-1] + sum(not row[0] for row in mine))
            rows += mine
            first.append(len(rows))
        _, feature, threshold, kept = zip(*rows, strict=True) if rows else ((),) * 4
        return cls(
            np.array(first, np.int32), np.array(turn, np.int32), np.array(feature, np.int32),
            np.array(threshold, np.float32), np.array(kept, np.uint64), np.array(leaf, np.int32),
            np.array(values, np.float64),
        )  # fmt: skip


def _spans(nodes: list[_Node]) -> dict[int, tuple[int, int]]:
    """Of each node and leaf the first and the last but one of the leaves below it, from left to right."""
    if not nodes:
        return {-1: (0, 1)}
    size: dict[int, int] = {}
    for name in range(len(nodes) - 1, -1, -1):
        size[name] = sum(size[child] if child >= 0 else 1 for child in nodes[name][-2:])
    span = {0: (0, size[0])}
    for name, node in enumerate(nodes):
        low, high = span[name]
        middle = low + (size[node.left] if node.left >= 0 else 1)
        span[node.left], span[node.right] = (low, middle), (middle, high)
    return span


def _down(
    matrix: Matrix, first: Codes, feature: Codes, threshold: Matrix, missing_right: Bools, child: Codes, value: Floats,
    out: Floats,
) -> None:  # fmt: skip
    """Walks each row down every tree."""
    for row in range(len(matrix)):
        total = 0.0
        for node in first:
            left = child[node]
            while left >= 0:
                x = matrix[row, feature[node]]
                node = left + (x > threshold[node] or (x != x and missing_right[node]))
                left = child[node]
            total += value[-1 - left]
        out[row] = 1 / (1 + math.exp(-total))


# A few rows take microseconds. Giving up the GIL for them means waiting for it again, up to 5 ms, if another thread
# computes.
_walk = njit(cache=True)(_down)
_walk_on = njit(cache=True, nogil=True)(_down)


@njit(cache=True, nogil=True)
def _strike_out(
    matrix: Matrix, first: Codes, turn: Codes, feature: Codes, threshold: Matrix, kept: npt.NDArray[np.uint64],
    leaf: Codes, value: Floats, place: npt.NDArray[np.int64], out: Floats,
) -> None:  # fmt: skip
    """Strikes out, 64 rows at a time, the leaves that a row does not come to."""
    all_leaves, one, shift = np.uint64(2**64 - 1), np.uint64(1), np.uint64(58)
    lane = np.zeros((matrix.shape[1], _LANES), np.float32)
    left_over = np.empty(_LANES, np.uint64)
    total = np.empty(_LANES)
    for begin in range(0, len(matrix), _LANES):
        rows = min(_LANES, len(matrix) - begin)
        for i in range(rows):
            for column in range(matrix.shape[1]):
                lane[column, i] = matrix[begin + i, column]
        total[:] = 0.0
        for tree in range(len(turn)):
            left_over[:] = all_leaves
            for node in range(first[tree], turn[tree]):
                x, most, keeps = lane[feature[node]], threshold[node], kept[node]
                for i in range(_LANES):
                    left_over[i] &= keeps if x[i] > most else all_leaves
            for node in range(turn[tree], first[tree + 1]):
                x, most, keeps = lane[feature[node]], threshold[node], kept[node]
                for i in range(_LANES):
                    left_over[i] &= all_leaves if x[i] <= most else keeps
            for i in range(rows):
                lowest = left_over[i] & (~left_over[i] + one)
                total[i] += value[leaf[tree] + place[(lowest * np.uint64(_DE_BRUIJN)) >> shift]]
        for i in range(rows):
            out[begin + i] = 1 / (1 + math.exp(-total[i]))


def _parsed(text: str) -> tuple[tuple[str, ...], list[_Tree]]:
    """The names of the features, and the trees."""
    header, _, body = text.partition("\n\n")
    fields = _fields(header)
    if fields.get("num_class") != "1" or fields.get("num_tree_per_iteration") != "1":
        raise _damaged("its header does not say num_class=1 and num_tree_per_iteration=1")
    if fields.get("objective") not in _OBJECTIVES or "average_output" in fields:
        raise _damaged(f"its objective is {fields.get('objective')!r}, and not one of {', '.join(_OBJECTIVES)}")
    try:
        names = tuple(fields["feature_names"].split(" "))
        sizes = [int(size) for size in fields["tree_sizes"].split(" ")]
        if len(fields["feature_infos"].split(" ")) != len(names):
            raise ValueError(f"{len(names)} feature_names, but not as many feature_infos")
    except (KeyError, ValueError) as error:
        raise _damaged(f"its header is not LightGBM's ({error})") from None
    trees, start = [], 0
    for number, size in enumerate(sizes):
        try:
            trees.append(_tree(number, body[start : start + size], len(names)))
        except (KeyError, ValueError, OverflowError) as error:
            raise _damaged(f"tree {number} of {len(sizes)} does not hold together ({error})") from None
        start += size
    if not body.startswith("end of trees", start):
        raise _damaged(f"its {len(sizes)} trees are not followed by 'end of trees'")
    return names, trees


def _tree(number: int, text: str, features: int) -> _Tree:
    """Reads a tree; raises ValueError unless every path from its root ends in a leaf it has."""
    if not text.startswith(f"Tree={number}\n"):
        raise ValueError(f"it does not begin with Tree={number}")
    fields = _fields(text)
    if fields["num_cat"] != "0" or fields.get("is_linear", "0") != "0":
        raise ValueError("it tells categories apart, or its leaves hold linear models")
    value = [float(word) for word in fields["leaf_value"].split()]
    leaves = int(fields["num_leaves"])
    if len(value) != leaves or not all(map(math.isfinite, value)):
        raise ValueError(f"it has not {leaves} values that are numbers")
    if leaves == 1:
        return _Tree([], value)
    columns = [fields[name].split() for name in _COLUMNS]
    if {len(column) for column in columns} != {leaves - 1}:
        raise ValueError(f"it has not {leaves - 1} nodes")
    nodes = [_node(*row) for row in zip(*columns, strict=True)]
    # A node is always younger than its parent, so no walk can come back to where it was.
    children = sorted(child for node in nodes for child in (node.left, node.right))
    if children != [*range(-leaves, 0), *range(1, leaves - 1)] or not all(
        child < 0 or child > name for name, node in enumerate(nodes) for child in (node.left, node.right)
    ):
        raise ValueError("a node leads where there is none")
    if not all(0 <= node.feature < features for node in nodes):
        raise ValueError(f"a node looks at a feature beyond the {features} there are")
    return _Tree(nodes, value)


_COLUMNS: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")


def _node(feature: str, threshold: str, decision: str, left: str, right: str) -> _Node:
    most, kind = float(threshold), int(decision)
    if math.isnan(most):
        raise ValueError("a threshold is no number")
    if kind & 1 or kind >> 2 not in (_NONE, _NAN):
        raise ValueError(f"it decides by {kind}")
    right_if_missing = not kind & 2 if kind >> 2 == _NAN else most < 0
    return _Node(int(feature), _in_32_bits(most), right_if_missing, int(left), int(right))


def _in_32_bits(threshold: float) -> float:
    """The number of 32 bits that the same of them are at most, if those that LightGBM takes for zero go with zero."""
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
    if float(near) > threshold:
        near = np.nextafter(near, _LEAST)
    return float(max(near, _ZERO) if threshold >= 0 else min(near, np.nextafter(-_ZERO, _LEAST)))


def _fields(lines: str) -> Mapping[str, str]:
    return {key: value for key, _, value in (line.partition("=") for line in lines.split("\n"))}


def _damaged(what: str) -> ModelError:
    return ModelError(f"This model text is damaged or not one of ours: {what}. Restore it, or train a new model.")
