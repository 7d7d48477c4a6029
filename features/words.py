"""The one form of the words that logs, lists and requests write in many ways."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache

from features.times import datetime_us


@lru_cache(maxsize=65_536)
def kind_word(text: str) -> str:
    """Brings a channel, an action or an attribute's name to the form that names features.

    >>> kind_word(" E-Mail Click ")
    'e_mail_click'
    """
    return re.sub(r"\W+", "_", text.strip().lower()).strip("_") or "unnamed"


def attribute_word(text: str) -> str:
    """Brings a category to one form: without surrounding blanks, and true and false in lower case.

    >>> attribute_word(" TRUE"), attribute_word(" Cleaning ")
    ('true', 'Cleaning')
    """
    text = text.strip()
    return text.lower() if text.lower() in ("true", "false") else text


def word_number(word: str) -> float:
    """Reads a word as a number; NaN if it is none or not finite.

    >>> word_number("40"), word_number("forty")
    (40.0, nan)
    """
    try:
        number = float(word)
    except ValueError:
        return math.nan
    # Python takes "1_000" for a number; a product code is none.
    return number if math.isfinite(number) and "_" not in word else math.nan


def word_date(word: str) -> float:
    """Reads a word as a date, or a time (in UTC where it carries no zone), in microseconds since 1970; NaN if none.

    >>> word_date("1970-01-02"), word_date("soon")
    (86400000000.0, nan)
    """
    if not re.match(r"\d{4}-\d{2}-\d{2}", word):
        return math.nan
    try:
        at = datetime.fromisoformat(word)
    except ValueError:
        return math.nan
    return float(datetime_us(at if at.tzinfo else at.replace(tzinfo=UTC)))


def so_many(count: float, noun: str) -> str:
    """Says a number of things, one of which is singular.

    >>> so_many(1, "lead"), so_many(1_200, "lead"), so_many(0.5, "day")
    ('1 lead', '1,200 leads', '0.5 days')
    """
    number = f"{int(count):,}" if count == int(count) else f"{count:g}"
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def number_word(number: float) -> str:
    """Writes a number as the word a CSV file would hold.

    >>> number_word(40.0), number_word(0.5)
    ('40', '0.5')
    """
    return str(int(number)) if float(number).is_integer() else repr(float(number))
