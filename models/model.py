"""What a model is: something that turns a feature matrix into probabilities and can be written as text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
from numba import njit

from features.errors import ModelError
from features.feature import FeatureSet
from features.history import Dataset, Floats, Matrix

if TYPE_CHECKING:
    from models.trees import Grow


class Model(Protocol):
    """A fitted model. A row gets the same probability, to the bit, whatever rows stand beside it.

    >>> from models.naive_bayes import NaiveBayes
    >>> rows = np.array([[1], [2], [3]], np.float32)
    >>> model: Model = NaiveBayes.fit(rows, np.array([False, True, True]))
    >>> again = NaiveBayes.from_files(model.to_files())
    >>> bool((again.predict(rows) == model.predict(rows)).all())
    True
    """

    name: ClassVar[str]

    def predict(self, matrix: Matrix) -> Floats:
        """Returns (n,) probabilities of (n, F) rows."""
        ...

    def to_files(self) -> dict[str, str]:
        """Returns the text files that hold the model."""
        ...

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Reads what `to_files` wrote; raises ModelError for anything else."""
        ...


class Evidence(NamedTuple):
    """What stands behind the rows of a fit, which are of fewer leads.

    >>> Evidence(rows_a_lead=5.7, buyers=181).buyers
    181
    """

    rows_a_lead: float
    """How many rows a lead has on average."""
    buyers: int
    """How many leads are known to have bought in time."""


Fit: TypeAlias = Callable[[Matrix, Floats, Evidence], Model]
"""From (n, F) rows, (n,) labels, 1 for those that bought and 0 for the others, and what stands behind them."""


def plainly(fit: Callable[[Matrix, Floats], Model]) -> Fit:
    """Takes a fit for which it is all one what stands behind its rows."""

    def fitted(matrix: Matrix, label: Floats, evidence: Evidence) -> Model:
        return fit(matrix, label)

    return fitted


@dataclass(frozen=True)
class Recipe:
    """What a candidate makes of what is known: the features it wants, and how it fits on their rows.

    >>> from features.example import example
    >>> from models import candidates
    >>> next(one for one in candidates() if one.name == "naive_bayes").prepare(example()).features.names[:2]
    ('age_days', 'call_talk_count')
    """

    features: FeatureSet
    fit: Fit
    completes: bool = False
    """Whether it learns from windows that are not over too: their labels are probabilities, between 0 and 1."""
    unlearned: Callable[[float], Model] | None = None
    """The model for a rate of purchases, where nothing but that can be learned; None: it needs more."""
    growing: Callable[[Grow], Fit] | None = None
    """The same fit with its trees grown in another way, on a cluster for instance; None: it has no trees."""

    def grown(self, grow: Grow) -> Recipe:
        """Returns the recipe with its trees, if it has any, grown in another way."""
        return self if self.growing is None else replace(self, fit=self.growing(grow))


@dataclass(frozen=True)
class Candidate:
    """A model that competes in the backtest.

    >>> from models import candidates
    >>> [candidate.name for candidate in candidates() if not candidate.peer]
    ['rules', 'logistic', 'lightgbm', 'blend']
    """

    name: str
    prepare: Callable[[Dataset], Recipe]
    """Declares its features on what is known, a `known_at`."""
    peer: bool = False
    """A peer to beat, never the model that is served."""


def to_json(**parts: Any) -> str:
    """Writes numbers and arrays as JSON, NaN as null."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    return json.dumps({name: plain(value) for name, value in parts.items()}, indent=1)


class Parts:
    """Reads what `to_json` wrote; whatever does not fit raises ModelError.

    >>> Parts({"model.json": '{"weight": [1, null]}'}).array("weight")
    array([ 1., nan])
    """

    def __init__(self, files: Mapping[str, str], name: str = "model.json") -> None:
        try:
            self._parts = json.loads(files[name])
            self._parts.keys()
        except KeyError:
            raise ModelError(f"{name} is missing.") from None
        except (ValueError, AttributeError, RecursionError) as problem:
            raise ModelError(f"{name} cannot be read: {problem!r}.") from None
        self._name = name

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def array(self, name: str) -> Floats:
        """A vector of numbers, null as NaN."""
        array = _vector(self._get(name))
        if array is None:
            raise ModelError(f"{self._name}: {name!r} is not a list of numbers.")
        return array

    def number(self, name: str) -> float:
        """A number."""
        entry = self._get(name)
        array = _vector([entry])
        if entry is None or array is None:
            raise ModelError(f"{self._name}: {name!r} is not a number but {entry!r:.80}.")
        return float(array[0])

    def arrays(self, name: str) -> tuple[Floats, ...]:
        """A list of vectors of different lengths."""
        entries = self._get(name)
        arrays = [_vector(entry) for entry in entries] if isinstance(entries, list) else [None]
        found = tuple(array for array in arrays if array is not None)
        if len(found) < len(arrays):
            raise ModelError(f"{self._name}: {name!r} is not a list of lists of numbers.")
        return found

    def _get(self, name: str) -> Any:
        if name not in self._parts:
            raise ModelError(f"{self._name}: {name!r} is missing.")
        return self._parts[name]


def check_width(matrix: Matrix, columns: int) -> None:
    """Raises ModelError unless a matrix has the columns a model was fitted on; compiled loops would read past it."""
    if matrix.shape[1:] != (columns,):
        raise ModelError(f"the model predicts rows of {columns} columns; got a matrix of shape {matrix.shape}.")


def _vector(entries: Any) -> Floats | None:
    """Finite numbers and null (NaN) as an array; None if they are anything else."""
    if not isinstance(entries, list) or any(type(x) not in (int, float, type(None)) for x in entries):
        return None
    try:
        array = np.array([np.nan if x is None else x for x in entries], np.float64)
    except OverflowError:
        return None
    return None if np.isinf(array).any() else array


@njit(cache=True, nogil=True)
def sigmoid(logit: Floats) -> Floats:
    """Returns (n,) 1 / (1 + exp(-logit)), without overflow."""
    out = np.empty(len(logit))
    for row in range(len(logit)):
        small = math.exp(-abs(logit[row]))
        out[row] = (1.0 if logit[row] >= 0 else small) / (1.0 + small)
    return out


@njit(cache=True, nogil=True)
def logit(probability: Floats) -> Floats:
    """Returns (n,) log-odds; probabilities of 0 and 1 count as a millionth of a millionth away from them."""
    out = np.empty(len(probability))
    for row in range(len(probability)):
        sure = min(max(probability[row], 1e-12), 1 - 1e-12)
        out[row] = math.log(sure) - math.log1p(-sure)
    return out
