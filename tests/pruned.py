"""One lead written anew with some of what is known of it, row by row: what an answer says of it must come out so."""

from collections.abc import Callable

import numpy as np

from features import Dataset, History
from features.history import Attributes, Outcomes
from features.times import NEVER

Rows = Callable[[int], bool]


def touches_of(dataset: Dataset, lead: int) -> range:
    return range(dataset.history.offsets[lead], dataset.history.offsets[lead + 1])


def span_of(history: History, row: int) -> tuple[int, int]:
    """From when on a touch counts, and the last as_of at which it does."""
    return int(history.known[row]), int(history.hidden[row]) if len(history.hidden) else NEVER


def facts_of(dataset: Dataset, lead: int) -> range:
    return range(dataset.attributes.offsets[lead], dataset.attributes.offsets[lead + 1])


def pruned(
    dataset: Dataset,
    lead: int,
    touch: Rows = lambda row: True,
    fact: Rows = lambda row: True,
    cell: Rows = lambda column: True,
) -> Dataset:
    """The lead alone, with those rows of the history and of the attributes, and those cells, that are to be there."""
    history, attributes = dataset.history, dataset.attributes
    rows = [row for row in touches_of(dataset, lead) if touch(row)]
    facts = [row for row in facts_of(dataset, lead) if fact(row)]
    cells = [value if cell(column) else np.nan for column, value in enumerate(attributes.cells[lead].tolist())]

    def ends(count: int) -> np.ndarray:
        return np.array([0, count], np.int64)

    return Dataset(
        dataset.ids[[lead]],
        dataset.created_at[[lead]],
        np.array([NEVER]),
        History(
            ends(len(rows)),
            *(column[rows] for column in (history.at, history.known, history.kind, history.value)),
            history.kinds,
        ),
        Attributes(
            attributes.names,
            attributes.words,
            np.array([cells]).reshape(1, -1),
            ends(len(facts)),
            *(column[facts] for column in (attributes.at, attributes.known, attributes.column, attributes.value)),
        ),
        Outcomes.none(),
    )
