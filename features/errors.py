"""The one family of errors that Touchstone raises on purpose.

Each says what was wrong, what was received and how to mend it. Only the entry points turn them into exit codes
and HTTP statuses.
"""


class TouchstoneError(Exception):
    """Something Touchstone could not do; the message is meant for its user.

    >>> from features import Count
    >>> try:
    ...     Count(days=(0,))
    ... except TouchstoneError as error:
    ...     print(f"{error.exit_code}: {error}")
    2: days=(0,): 0 is no span in days. Use a number above 0, at most 3,652,425.
    """

    exit_code = 1


class UsageError(TouchstoneError):
    """Touchstone was asked wrongly: an option, argument or setting that cannot be.

    >>> from features import Cohort
    >>> Cohort.at([0], "soon")
    Traceback (most recent call last):
    features.errors.UsageError: 'soon' is not a time. Use ISO 8601, e.g. 2026-11-01 or 2026-11-01T14:00:00Z.
    """

    exit_code = 2


class TableError(TouchstoneError):
    """A table that cannot be read or does not hold together.

    >>> from features.example import example
    >>> example().find(["L-42"])
    Traceback (most recent call last):
    features.errors.TableError: lead_id 'L-42' is not among the 1 leads.
    """


class ModelError(TouchstoneError):
    """A model that cannot be loaded, trained or applied.

    >>> from features import FeatureSet
    >>> FeatureSet.from_json("{}")
    Traceback (most recent call last):
    features.errors.ModelError: not a feature set: KeyError('features'). It was written by another version or changed.
    """
