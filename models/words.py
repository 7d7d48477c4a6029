"""How touches, attributes and probabilities are said in plain words, in every answer alike."""

from __future__ import annotations

import numpy as np
from numba import njit

from features.history import Attributes, Floats, Ints, Kind
from features.words import number_word

_COUNTABLE = frozenset({
    "ad", "brochure", "call", "chat", "click", "coupon", "demo", "download", "email", "event", "fair", "form", "lesson",
    "letter", "mailing", "meeting", "offer", "open", "page", "proposal", "referral", "reply", "seminar", "training",
    "view", "visit", "webinar",
})  # fmt: skip
"""What can be counted by adding an s."""


def counted(count: int, kind: Kind) -> str:
    """So many touches of a kind; what has no plural that is known keeps its name.

    >>> counted(1, Kind("demo")), counted(2, Kind("email", "click")), counted(3, Kind("web"))
    ('1 demo', '2 email clicks', '3 x web')
    """
    what = plain(kind.name)
    last = what.rpartition(" ")[2]
    if count == 1:
        return f"1 {what}"
    if last in _COUNTABLE:
        return f"{count:,} {what.removesuffix('y')}ies" if last.endswith("y") else f"{count:,} {what}s"
    return f"{count:,} x {what}"


def plain(word: str) -> str:
    """The name of a kind or of an attribute as people write it.

    >>> plain("email_click")
    'email click'
    """
    return word.replace("_", " ")


def cell_word(attributes: Attributes, column: int, cell: float) -> str:
    """What an attribute's cell says; it is not missing."""
    words = attributes.words[column]
    return number_word(cell) if words is None else words[int(cell)]


def percents(one: Floats, other: Floats) -> list[tuple[str, str]]:
    """Pairs of shares in percent, with as many digits as it takes to tell those apart that differ.

    >>> percents(np.array([0.312, 0.3121, 0.0042, 0.3]), np.array([0.13, 0.3119, 0.0011, 0.3]))
    [('31 %', '13 %'), ('31.21 %', '31.19 %'), ('0.4 %', '0.1 %'), ('30 %', '30 %')]
    """
    written: dict[tuple[int, int], str] = {}

    def write(units: int, digits: int) -> str:
        if (told := written.get((units, digits))) is None:
            told = written[units, digits] = f"{units / 10**digits:.{digits}f} %"
        return told

    columns = (each.tolist() for each in _apart(one, other))
    return [(write(mine, digits), write(its, digits)) for digits, mine, its in zip(*columns, strict=True)]


@njit(cache=True, nogil=True)
def _apart(one: Floats, other: Floats) -> tuple[Ints, Ints, Ints]:
    """Returns the digits that tell pairs apart and show none as 0 that is not, and both sides in units of the last."""
    digits, ones = np.empty(len(one), np.int64), np.empty(len(one), np.int64)
    others = np.empty(len(one), np.int64)
    for k in range(len(one)):
        scale = 100.0
        for d in range(6):
            digits[k], ones[k], others[k] = d, round(one[k] * scale), round(other[k] * scale)
            shown = (ones[k] > 0 or one[k] <= 0) and (others[k] > 0 or other[k] <= 0)
            if shown and (ones[k] != others[k] or one[k] == other[k]):
                break
            scale *= 10
    return digits, ones, others
