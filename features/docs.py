"""Writes the pages of the documentation that follow from declarations: `python -m features.docs`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path

from features.aggregates import FEATURES
from features.definitions import LEAD_FEATURES
from features.feature import Feature, Vocabulary
from features.touchpoints import TOUCHPOINTS

FOLDER = Path(__file__).parents[1] / "docs"

PARAMETERS = {
    "by": "What touches are told apart by, one group each: `channel`, `action`, `('channel', 'action')`, `side` "
    "(marketing or sales) or `direction` (inbound or outbound). Left out: all touches together.",
    "of": "The one kind of touch to look at, by its channel, its action or both: `email`, `click`, `email_click`. "
    "Not together with `by`.",
    "where": "A condition on the value of a touch: `('>', 10)`, or with `>=`, `<`, `<=`. A touch without a value "
    "never meets it.",
    "days": "Trailing windows in days, each [as_of - days, as_of); `None` is all time.",
    "half_life_days": "Days after which a touch is worth half as much.",
    "period_days": "The length of a period in days, counted back from as_of.",
    "place": "Which touch, counted back: 1 is the last, 2 the one before it.",
    "recent_days": "The recent window in days.",
    "past_days": "The longer window in days, which holds the recent one.",
    "first": "The kind that comes first, by its channel, its action or both.",
    "then": "The kind that comes after it.",
    "zone": "The time zone of the clock, by its IANA name; names of columns tell it unless it is UTC.",
}
"""What each parameter of a feature means."""

_EXAMPLE = Vocabulary(
    {
        ("channel",): ("<channel>",),
        ("action",): ("<action>",),
        ("channel", "action"): ("<channel>_<action>",),
        ("side",): ("marketing", "sales"),
        ("direction",): ("inbound", "outbound"),
    },
    {"<number>": "number", "<flag>": "flag", "<date>": "date", "<category>": ("<word>",)},
)


def touchpoints() -> str:
    """The page of touchpoints."""
    rows = ((t.name, t.side, t.direction, ", ".join(t.aliases)) for t in TOUCHPOINTS)
    return _page(
        "Touchpoints",
        "The kinds of contact that features tell apart with `by='side'` and `by='direction'`, and the other names "
        "that logs give them. A touch is looked up by its channel and action together (`email`, `click`: "
        "`email_click`), else by its action, else by its channel; a click on an ad is none in a mail. What is not "
        "listed works too, under its own name; it is of no side and no direction and counts as `other` there.",
        _table(("touchpoint", "side", "direction", "also called"), rows),
    )


def features() -> str:
    """The page of features."""
    kinds = (text for kind in FEATURES.values() for text in (f"### {kind.__name__}", *_kind(kind)))
    parameters = _table(("parameter", "meaning"), ((f"`{name}`", text) for name, text in PARAMETERS.items()))
    columns = _table(
        ("declaration", "columns"),
        ((f"`{_declared(feature)}`", ", ".join(f"`{name}`" for name in _names(feature))) for feature in LEAD_FEATURES),
    )
    return _page(
        "Features",
        "A feature is declared once and computed alike in training, for lists and by the endpoint. Nothing at or "
        "after the instant asked about (as_of) is seen. Names of columns follow from parameters. `said`, of "
        "`features.example`, tells what a declaration says as of 1 February 2026 of a lead that clicked in e-mails on "
        "5 and 12 January, visited the website on the 12th, attended a webinar for 45 minutes on the 28th, and was "
        "called for 30 on the 30th.",
        "## Kinds of features",
        *kinds,
        "## Parameters",
        parameters,
        "## What is computed of a lead",
        "`features/definitions.py` declares these columns. Here `<channel>` and `<action>` stand for each of the most "
        "frequent ones in training (a touch without an action goes by its channel alone), `other` for all the rest, "
        "and `<number>`, `<flag>`, `<date>` and `<category>` for attributes of leads.",
        columns,
    )


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", "This page is written by `python -m features.docs`.", *parts)) + "\n"


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [tuple(heading)]
    cells += [("---",) * len(cells[0]), *(tuple(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _kind(kind: type[Feature]) -> Iterable[str]:
    text, _, example = (inspect.getdoc(kind) or "").partition("\n\n>>> from features.example import said\n")
    yield text
    yield f"```pycon\n{example}\n```"
    apart = bool(getattr(kind, "by", ()))
    taken = [field for field in fields(kind) if not (apart and field.name == "of")]  # type: ignore[arg-type]
    if taken:
        yield "Parameters: " + ", ".join(f"`{_parameter(field)}`" for field in taken) + "."


def _parameter(field: Field[object]) -> str:
    return field.name if field.default is MISSING else f"{field.name}={field.default!r}"


def _declared(feature: Feature) -> str:
    """The declaration as it is written, without what is left out."""
    given = ((field, getattr(feature, field.name)) for field in fields(feature))  # type: ignore[arg-type]
    said = ", ".join(f"{field.name}={value!r}" for field, value in given if value != field.default)
    return f"{type(feature).__name__}({said})"


def _names(feature: Feature) -> Iterable[str]:
    return (name for op in feature.ops(_EXAMPLE) for name in op.names)


PAGES = {"touchpoints.md": touchpoints, "features.md": features}
"""The pages by file name, and what writes each."""


def main() -> None:
    """Writes the pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
