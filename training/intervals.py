"""How far a probability may be from the truth: how much the model changes with the leads it happens to learn from.

A model is fitted again on random halves of the leads. The spread of a half's log-odds about the whole's is that of the
whole's about what ever more leads would give (Shao and Wu, 1989, on the delete-d jackknife, here with d = n/2), by
level of the probability. What features and form of the model cannot express is no part of it, so the spread is
widened by half, which made 90 % intervals hold 89 to 96 % of the true probabilities of simulated leads
(docs/decisions/0008-intervals.md).
"""

from __future__ import annotations

import numpy as np

from features.history import Cohort, Dataset, Matrix
from models import Model, Recipe
from models.model import logit
from models.scorer import Spread
from training.backtest import learn
from training.labels import Listings

HALVES = 4
_LEVELS = 20
_WIDENED = 1.5


def find_spread(
    recipe: Recipe, model: Model, known: Dataset, rows: Listings, matrix: Matrix, asked: Cohort, seed: int
) -> Spread:
    """Returns the standard deviation of log-odds by level, for the leads asked about; empty where none can be told.

    `matrix` holds the features of the rows that the model was fitted on.
    """
    look = recipe.features.compute(known, asked)
    whole = logit(model.predict(look))
    rng = np.random.default_rng(seed)
    squares = []
    for _ in range(HALVES):
        # By place among the ids, so that the order of the leads table changes nothing.
        half, mine = rows.of(rng.permutation(len(known))[known.rank] < len(known) / 2)
        if 0 < half.bought.sum() < half.finished:
            squares.append((logit(learn(recipe, known, half, matrix[mine]).predict(look)) - whole) ** 2)
    if not squares or not len(asked):
        return ()
    mean = np.mean(squares, axis=0)
    order = np.argsort(whole, kind="stable")
    levels = [level for level in np.array_split(order, min(_LEVELS, len(order))) if len(level)]
    return tuple((float(np.median(whole[k])), _WIDENED * float(np.sqrt(mean[k].mean()))) for k in levels)
