"""How touches, attributes and probabilities are said in plain words, in every answer alike."""

from __future__ import annotations

from collections.abc import Sequence

from features.history import Attributes, Kind
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


def percents(*shares: float) -> Sequence[str]:
    """Shares in percent, with as many digits as it takes to tell those apart that differ.

    >>> percents(0.312, 0.13), percents(0.3121, 0.3119), percents(0.0042, 0.0011), percents(0.3, 0.3)
    (['31 %', '13 %'], ['31.21 %', '31.19 %'], ['0.4 %', '0.1 %'], ['30 %', '30 %'])
    """
    distinct = len(set(shares))
    for digits in range(6):
        told = [f"{100 * share:.{digits}f}" for share in shares]
        if len(set(told)) == distinct and all(
            [share <= 0 or float(text) > 0 for text, share in zip(told, shares, strict=True)]
        ):
            break
    return [f"{text} %" for text in told]
