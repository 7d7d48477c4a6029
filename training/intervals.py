"""How far a probability may be from the truth: how much the model changes with the leads it happens to learn from.

A model is fitted again on random halves of the leads. The spread of a half's log-odds about the whole's is that of the
whole's about what ever more leads would give (Shao and Wu, 1989, on the delete-d jackknife, here with d = n/2), by
level of the probability. The part of it that moves all leads alike does not cancel out in the sum of their
probabilities; it is found apart. What features and form of a penalised model cannot follow is no part of it, so the
spread is widened, and an error is added that shrinks as buyers are known, but not to nothing. How much was chosen so
that 90 % intervals hold 87 to 95 % of the true probabilities of simulated leads, at 62 to 5,285 buyers
(docs/decisions/0008-intervals.md).
"""

from __future__ import annotations

import numpy as np
from joblib import Parallel, delayed

from features.history import Bools, Cohort, Dataset, Floats, Ints, Matrix
from models import Model, Recipe
from models.calibration import Curve, calibrated
from models.model import logit, sigmoid
from models.scorer import Spread
from training.backtest import learn
from training.labels import Listings

HALVES = 4
_LEVELS = 20
_WIDENED = 1.3
_LEAST = 0.13
"""Of the log-odds: what the features do not say, however many have bought."""
_PENALISED = 5.0
"""Over the buyers: the variance of what a model that is held back does not follow."""
_SHARED = 1.5
"""By what the part that all leads share is widened."""


def find_spread(
    recipe: Recipe,
    model: Model,
    curve: Curve | None,
    known: Dataset,
    rows: Listings,
    matrix: Matrix,
    asked: Cohort,
    seed: int,
) -> tuple[Spread, float]:
    """Returns the standard deviation of log-odds by level, for the leads asked about, and of the shift they share.

    Where none can be told there are no levels, and the shift is 0. `matrix` holds the features of the rows that the
    model was fitted on; `curve` is what stands over it, if any.
    """
    look = recipe.features.compute(known, asked)
    whole = logit(model.predict(look))
    rng = np.random.default_rng(seed)
    # By place among the ids, so that the order of the leads table changes nothing.
    halves = [rng.permutation(len(known))[known.rank] < len(known) / 2 for _ in range(HALVES)]

    def difference(leads: Bools) -> Floats | None:
        half, mine = rows.of(leads)
        if not 0 < half.bought.sum() < half.finished:
            return None
        other = calibrated(learn(recipe, known, half, matrix[mine]), curve)
        return np.asarray(logit(other.predict(look)) - whole)

    found = Parallel(n_jobs=-1, prefer="threads")(delayed(difference)(leads) for leads in halves)
    differences = np.array([one for one in found if one is not None])
    if not differences.size:
        return (), 0.0
    mean = (differences**2).mean(axis=0)
    # What the sum of the probabilities changes by if all log-odds do by a little.
    weight = sigmoid(whole) * sigmoid(-whole)
    shift = _SHARED * float(np.sqrt(np.mean((differences @ weight / weight.sum()) ** 2)))
    order = np.argsort(whole, kind="stable")
    levels = [level for level in np.array_split(order, min(_LEVELS, len(order))) if len(level)]
    untold = _LEAST**2 + _PENALISED / rows.buyers

    def spread(level: Ints) -> float:
        return float(np.sqrt(_WIDENED**2 * mean[level].mean() + untold))

    return tuple((float(np.median(whole[level])), spread(level)) for level in levels), shift
