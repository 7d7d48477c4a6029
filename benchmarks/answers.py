"""What an answer about a lead costs beside one plain score of it; each begins with the lead's record."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.measure import circumstances, take_turns
from benchmarks.scoring import LEADS, NOW, fitted_on, many_leads, one_lead
from features import Cohort
from features.records import dataset_of
from features.times import US_PER_DAY
from models import changes, forecast, timeline

TOUCHES, CALLS = 200, 100
GOAL = 10
ROUNDS = 15


def table() -> str:
    """Measures and returns the table as Markdown."""
    many = many_leads()
    scorer = fitted_on(many, Cohort.at(np.arange(LEADS), NOW))
    record, one = one_lead(TOUCHES), Cohort.at([0], NOW)
    answers: dict[str, tuple[int | None, Callable[[], object]]] = {
        "one plain score": (None, lambda: scorer.score(dataset_of([record]), one)),
        "with fit and engagement": (None, lambda: scorer.score(dataset_of([record]), one, sides=True)),
        "with 3 reasons": (None, lambda: scorer.score(dataset_of([record]), one, reasons=3)),
        "changes since 30 days ago": (
            GOAL, lambda: changes(scorer, dataset_of([record]), 0, NOW - 30 * US_PER_DAY, NOW)
        ),
        "changes since the day it was created": (
            GOAL, lambda: changes(scorer, dataset_of([record]), 0, NOW - 299 * US_PER_DAY, NOW)
        ),
        "forecast of 30 days": (GOAL, lambda: forecast(scorer, dataset_of([record]), 0, NOW)),
        "timeline of 100 touches": (None, lambda: timeline(scorer, dataset_of([record]), 0, NOW)),
    }  # fmt: skip
    seconds = take_turns({name: _often(answer) for name, (_, answer) in answers.items()}, ROUNDS)
    plain = seconds["one plain score"]
    rows = [
        f"| {name} | {1e6 * taken / CALLS:.0f} us | {taken / plain:.1f}x{_met(answers[name][0], taken / plain)} |"
        for name, taken in seconds.items()
    ]
    lines = [
        f"### Answers: one lead of {TOUCHES} touches from its record, LightGBM of 200 trees x 7 leaves",
        "",
        circumstances("numpy", "numba", "lightgbm"),
        "",
        "| what | time | beside one plain score |",
        "|---|---:|---:|",
        *rows,
    ]
    return "\n".join(lines)


def _often(answer: Callable[[], object]) -> Callable[[], object]:
    return lambda: [answer() for _ in range(CALLS)]


def _met(goal: int | None, ratio: float) -> str:
    return "" if goal is None else f" (goal {goal}x)" if ratio <= goal else f" (goal {goal}x: missed)"
