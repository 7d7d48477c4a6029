"""A backtest in words and tables: for the terminal, for Markdown and for machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from features.times import isoformat
from training.audit import Finding
from training.backtest import Backtest
from training.metrics import MEASURES, Estimate

_SHOWN = tuple(measure.name for measure in MEASURES)
_SHOWN_NARROW = ("log_loss", "brier", "auc", "lift", "caught")
_WIDE = 100


def comparison(result: Backtest, measures: Sequence[str] = _SHOWN) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and rows of the models side by side; best log loss last, intervals by lead behind."""
    capacity = f"{result.experiment.capacity:.0%}"
    title = {m.name: f"{m.title} at {capacity}" if m.name in ("lift", "caught") else m.title for m in MEASURES}
    names = sorted(result.probability, key=lambda name: -result.evaluation.estimate(name, "log_loss").value)
    rows = [[name, *(_figure(m, result.evaluation.estimate(name, m)) for m in measures)] for name in names]
    return ["model", *(title[measure] for measure in measures)], rows


def terminal_table(result: Backtest, width: int) -> Table:
    """The comparison for a terminal of some width in characters; a narrow one gets fewer measures, but whole."""
    headings, rows = comparison(result, _SHOWN if width >= _WIDE else _SHOWN_NARROW)
    table = Table(
        title=heading(result), title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        caption="95 % intervals resample whole leads", caption_justify="left",
    )  # fmt: skip
    for k, text in enumerate(headings):
        table.add_column(text, justify="left" if k == 0 else "right", no_wrap=k == 0)
    for row in rows:
        figures = (re.sub(r"\b0\.", ".", cell.replace(" (", "\n").rstrip(")")) for cell in row[1:])
        table.add_row(row[0], *figures, style="bold" if row is rows[-1] else "")
    return table


def markdown(result: Backtest) -> str:
    """The comparison and the gains over the rules as Markdown."""
    headings, rows = comparison(result)
    lines = [f"{heading(result)}.", "", _row(headings), _row(["---"] + ["---:"] * (len(headings) - 1))]
    lines += [_row(row) for row in rows]
    lines += ["", *gains_in_words(result), "", "By origin (log loss / AUC):", ""]
    names = [row[0] for row in rows]
    lines += [_row(["origin", "leads", "purchases", *names]), _row(["---"] + ["---:"] * (len(names) + 2))]
    for origin in result.origins:
        mine = result.origin == origin
        at = result.at(origin)
        cells = [f"{at.values[n][0]:.4f} / {at.values[n][2]:.3f}" for n in names]
        lines.append(_row([isoformat(origin)[:10], f"{mine.sum():,}", f"{result.bought[mine].sum():,}", *cells]))
    return "\n".join(lines) + "\n"


def heading(result: Backtest) -> str:
    """What was tested, in one line."""
    first, last = (isoformat(origin)[:10] for origin in (result.origins[0], result.origins[-1]))
    return (
        f"Backtest over {len(result.origins)} origins from {first} to {last}: open leads were scored "
        f"{len(result.lead):,} times, and {int(result.bought.sum()):,} times ({result.bought.mean():.2%}) "
        f"a purchase came within {result.experiment.horizon_days:g} days"
    )


def gains_in_words(result: Backtest) -> list[str]:
    """What the best model gains over the rules, paired lead by lead."""
    if "rules" not in result.probability:
        return []
    best = result.best(list(result.probability))
    if best == "rules":
        return ["No model beats the rules here."]
    loss = result.evaluation.difference(best, "rules", "log_loss")
    caught = result.evaluation.difference(best, "rules", "caught")
    sure = "" if loss.high < 0 else " That is not certain: the interval contains zero."
    return [
        f"{best} against the rules: log loss {loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f}); of all "
        f"purchases, "
        f"{caught.value:+.1%} more caught by the same calls ({caught.low:+.1%} to {caught.high:+.1%}).{sure}"
    ]


def findings_in_words(findings: Sequence[Finding]) -> list[str]:
    """What the audit found, the worst first, each with what to do on a line below."""
    margin = max((len(finding.severity) for finding in findings), default=0) + 2
    return [f"{finding.severity + ':':{margin}}{finding.what}\n{'':{margin}}{finding.do}" for finding in findings]


def to_dict(result: Backtest) -> dict[str, Any]:
    """The backtest for machines."""
    evaluation = result.evaluation
    return {
        "horizon_days": result.experiment.horizon_days,
        "capacity": result.experiment.capacity,
        "rows": len(result.lead),
        "purchases": int(result.bought.sum()),
        "origins": [
            {"origin": isoformat(origin), "learned_from": rows, "purchases_learned_from": bought}
            for origin, (rows, bought) in sorted(result.learned_from.items())
        ],
        "models": evaluation.to_dict(),
        "against_rules": {
            name: {m.name: evaluation.difference(name, "rules", m.name)._asdict() for m in MEASURES}
            for name in result.probability
            if name != "rules" and "rules" in result.probability
        },
    }


def _figure(measure: str, estimate: Estimate) -> str:
    if measure in ("caught",):
        return f"{estimate.value:.1%} ({estimate.low:.1%}-{estimate.high:.1%})"
    digits = {"log_loss": 4, "brier": 4, "lift": 1, "ratio": 2}.get(measure, 3)
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}-{estimate.high:.{digits}f})"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
