"""A backtest in words and tables: for the terminal, for Markdown and for machines."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from rich import box
from rich.table import Table

from features.times import isoformat
from features.words import so_many
from training.audit import Finding
from training.backtest import Backtest
from training.metrics import MEASURES, Estimate
from training.monitor import Monitoring
from training.outlook import Prospect, Replay

_SHOWN = tuple(measure.name for measure in MEASURES)
_SHOWN_NARROW = ("log_loss", "brier", "auc", "lift", "caught")
_WIDE = 100
_UNKNOWN = "-"
"""A figure that nothing tells, as the AUC where everybody bought."""


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


def html(result: Backtest) -> str:
    """The comparison and the gains over the rules for a notebook."""
    if not result.judged:
        return f"<p>{escape(heading(result))}.</p>"
    headings, rows = comparison(result)
    body = [_html_row("td", row) for row in rows]
    words = [f"<p>{escape(line)}</p>" for line in gains_in_words(result)]
    caption = f"<p>{escape(heading(result))}. In brackets 95 % intervals that resample whole leads.</p>"
    table = f"<table><thead>{_html_row('th', headings)}</thead><tbody>{''.join(body)}</tbody></table>"
    return "\n".join([caption, table, *words])


def markdown(result: Backtest, outlook: Prospect | None = None) -> str:
    """The comparison, the gains over the rules, and what is to be expected as Markdown."""
    headings, rows = comparison(result)
    lines = [f"{heading(result)}."]
    if result.judged:
        lines += ["", _row(headings), _row(["---"] + ["---:"] * (len(headings) - 1)), *map(_row, rows)]
        lines += ["", *gains_in_words(result)]
    if outlook is not None:
        lines += ["", *outlook_in_words(outlook)]
    if result.folds or not result.judged:
        return "\n".join(lines) + "\n"
    lines += ["", "By origin (log loss / AUC):", ""]
    names = [row[0] for row in rows]
    lines += [_row(["origin", "leads", "purchases", *names]), _row(["---"] + ["---:"] * (len(names) + 2))]
    for origin in result.origins:
        mine = result.origin == origin
        at = result.at(origin)
        cells = [f"{at[n]['log_loss']:.4f} / {_auc(at[n]['auc'])}" for n in names]
        lines.append(_row([isoformat(origin)[:10], f"{mine.sum():,}", f"{result.bought[mine].sum():,}", *cells]))
    return "\n".join(lines) + "\n"


def heading(result: Backtest) -> str:
    """What was tested, in one line."""
    if not result.judged:
        return "No origin can be judged yet, so nothing is proved"
    if result.folds:
        return (
            f"Cross-validation of a list without times in {result.folds} parts: {len(result.lead):,} leads, of which "
            f"{int(result.bought.sum()):,} ({result.bought.mean():.2%}) bought, each scored by what the others taught"
        )
    first, last = (isoformat(origin)[:10] for origin in (result.origins[0], result.origins[-1]))
    return (
        f"Backtest over {len(result.origins)} origins from {first} to {last}: open leads were scored "
        f"{len(result.lead):,} times, and {int(result.bought.sum()):,} times ({result.bought.mean():.2%}) "
        f"a purchase came within {so_many(result.experiment.horizon_days, 'day')}"
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


def outlook_in_words(outlook: Prospect) -> list[str]:
    """What the hot leads of the past brought, beside the rules, and what those of now will bring."""
    before, days = [] if outlook.past is None else [_past_in_words(outlook.past)], so_many(outlook.horizon_days, "day")
    if not outlook.open:
        return before
    room = "" if outlook.room is None else f"; there is room for {outlook.room:,.0f} in {days}, those to come included"
    told_now = f"Hot now: {outlook.hot:,} of {outlook.open:,} open leads{room}."
    low, high = outlook.buyers_interval
    backlog = [] if outlook.backlog_weeks is None else [
        f"They are all that the team can work for {outlook.backlog_weeks:,.1f} weeks; the cut-off is that of the leads "
        "that get hot from now on, as many in a week as can be worked in one."
    ]  # fmt: skip
    lines = [
        *before,
        told_now,
        *backlog,
        f"Of them {outlook.buyers:,.1f} are expected to buy within {days} (90 %: {low:,.1f} to {high:,.1f}).",
    ]
    if outlook.income is not None and outlook.income_interval is not None:
        low, high = outlook.income_interval
        quota = "" if outlook.reaches_quota is None else (
            f"; they alone reach the quota of {outlook.quota:,.0f} with a probability of {outlook.reaches_quota:.0%}"
        )  # fmt: skip
        lines.append(f"They bring {outlook.income:,.0f} (90 %: {low:,.0f} to {high:,.0f}){quota}.")
    return lines


def _past_in_words(past: Replay) -> str:
    told = f"Of {past.purchases:,} purchases in the backtest the {past.calls:,} hot leads made {past.reached:,}"
    if past.by_rules is None or past.gain is None:
        return f"{told}."
    gain = past.gain
    return (
        f"{told}; as many calls by the rules would have reached {past.by_rules:,.0f}: {gain.value:+,.0f} "
        f"({gain.low:+,.0f} to {gain.high:+,.0f})."
    )


def findings_in_words(findings: Sequence[Finding]) -> list[str]:
    """What the audit found, the worst first, each with what to do on a line below."""
    margin = max((len(finding.severity) for finding in findings), default=0) + 2
    return [f"{finding.severity + ':':{margin}}{finding.what}\n{'':{margin}}{finding.do}" for finding in findings]


def monitoring_in_words(found: Monitoring) -> list[str]:
    """The verdict on a model, what it rests on, and what limits it."""
    lines = [f"version {found.version}, {so_many(found.horizon_days, 'day')} ahead: {found.says}"]
    if (matured := found.matured) is not None:
        lines.append(
            f"{so_many(matured.all.rows, 'prediction')} of {so_many(matured.instants, 'weekly instant')} from "
            f"{matured.first[:10]} to {matured.last[:10]} have matured; in {matured.purchases:,} a purchase came, of "
            f"{so_many(matured.buyers, 'lead')}"
        )
    if (drift := found.drift) is not None:
        all_of = (drift.probability, *drift.inputs)
        drifted = [one for one in all_of if one.drifted]
        told = f"{len(drifted)} of {len(all_of)} columns, which chance alone does once in twenty looks"
        lines.append(
            f"{so_many(drift.now, 'lead')} open on {found.until[:10]} beside {drift.then:,} open on "
            f"{found.known_until[:10]}, all up to {drift.max_age_days:.0f} days old: "
            f"{told if drifted else 'no drift beyond chance'}"
        )
        lines += [f"  {one.says} ({_size(one.psi)}: PSI {one.psi:.2f})" for one in drifted]
    return [*lines, *found.notes]


def monitoring_tables(found: Monitoring) -> list[tuple[list[str], list[list[str]]]]:
    """Returns the headings and rows of the figures, the tiers, and the drift, of those that there are."""
    tables = []
    if (matured := found.matured) is not None:
        titles = {
            "ratio": "predicted / bought", "slope": "calibration slope", "log_loss": "log loss",
            "base_log_loss": "log loss of the base rate", "gain": "less than the base rate's", "auc": "AUC",
            "caught": f"caught at {matured.capacity:.0%}",
        }  # fmt: skip
        if figures := [[titles[name], _figure(name, figure)] for name, figure in matured.figures.items()]:
            tables.append((["measure", "figure"], figures))
        rates = {**matured.tiers, "all": matured.all}
        rows = [[n, f"{r.rows:,}", f"{r.predicted:.2%}", _percent(r.came)] for n, r in rates.items()]
        tables.append((["tier", "rows", "predicted", "bought"], rows))
    if (drift := found.drift) is not None:
        rows = [[d.says, f"{d.psi:.3f}", f"{d.limit:.3f}", "yes" if d.drifted else ""]
                for d in (drift.probability, *drift.inputs)]  # fmt: skip
        tables.append((["open leads, then and now", "PSI", "chance", "drifted"], rows))
    return tables


def plain_table(headings: list[str], rows: list[list[str]]) -> Table:
    """A table for the terminal; figures stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for k, text in enumerate(headings):
        table.add_column(text, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def monitoring_markdown(found: Monitoring) -> str:
    """All that was found of a model as Markdown."""
    parts = ["\n\n".join(monitoring_in_words(found))]
    for headings, rows in monitoring_tables(found):
        rule = _row(["---"] + ["---:"] * (len(headings) - 1))
        parts.append("\n".join([_row(headings), rule, *map(_row, rows)]))
    return "\n\n".join(parts) + "\n"


def to_dict(result: Backtest) -> dict[str, Any]:
    """The backtest for machines."""
    return {
        "horizon_days": result.experiment.horizon_days,
        "capacity": result.experiment.capacity,
        "folds": result.folds,
        "rows": len(result.lead),
        "purchases": int(result.bought.sum()),
        "origins": [
            {
                "origin": isoformat(origin),
                "learned_from": rows,
                "purchases_learned_from": bought,
                "rows": int((result.origin == origin).sum()),
                "purchases": int(result.bought[result.origin == origin].sum()),
                "models": result.at(origin),
            }
            for origin, (rows, bought) in sorted(result.learned_from.items())
        ],
        "models": result.evaluation.to_dict() if result.judged else {},
        "against_rules": {
            name: {m.name: result.evaluation.difference(name, "rules", m.name)._asdict() for m in MEASURES}
            for name in result.probability
            if name != "rules" and "rules" in result.probability
        },
    }


def _percent(share: Estimate) -> str:
    return f"{share.value:.2%} ({share.low:.2%}-{share.high:.2%})"


def _size(psi: float) -> str:
    """What is customary to call a PSI."""
    return "slight" if psi < 0.1 else "moderate" if psi < 0.25 else "large"


def _figure(measure: str, estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return _UNKNOWN
    if measure in ("caught",):
        return f"{estimate.value:.1%} ({estimate.low:.1%}-{estimate.high:.1%})"
    digits = {"log_loss": 4, "base_log_loss": 4, "gain": 4, "brier": 4, "lift": 1, "ratio": 2}.get(measure, 3)
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}-{estimate.high:.{digits}f})"


def _auc(figure: float) -> str:
    return _UNKNOWN if math.isnan(figure) else f"{figure:.3f}"


def _html_row(tag: str, cells: list[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
