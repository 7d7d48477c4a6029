"""The one family of errors that Touchstone raises on purpose.

Each says what was wrong, what was received and how to mend it. Only the entry points turn them into exit codes
and HTTP statuses.
"""


class TouchstoneError(Exception):
    """Something Touchstone could not do; the message is meant for its user."""

    exit_code = 1


class UsageError(TouchstoneError):
    """Touchstone was asked wrongly: an option, argument or setting that cannot be."""

    exit_code = 2


class TableError(TouchstoneError):
    """A table that cannot be read or does not hold together."""


class ModelError(TouchstoneError):
    """A model that cannot be loaded, trained or applied."""
