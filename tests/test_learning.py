"""The benchmark of learning measures all that is promised, keeps what it has measured, and can miss a goal."""

import re

import numpy as np
import pytest

from benchmarks import learning, trials
from benchmarks.learning import Regime, Trial, lines, measure
from benchmarks.trials import PLANTS, Market, efficiency, slope
from training.audit import Finding
from training.labels import listings

GOALS = {
    "captured": ["at least 0.945", "at least 0.98", "0.97 to 1.03", "0.93 to 1.07", "0.87 to 0.95"],
    "few": ["at least 0", "at least 0"],
    "equals": ["at most 8%"],
    "shuffled": ["at most 5%", "at most 5%"],
    "leaks": [*["at least 100%"] * 6, "at most 1"],
    "weeks": ["at least 95%", "at least 0.85"],
}


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """One seed, one size, two numbers of buyers; results are kept in a folder of the test."""
    monkeypatch.setattr(learning, "KEPT", tmp_path / "measured")
    monkeypatch.setattr(learning, "SEEDS", (1,))
    monkeypatch.setattr(learning, "REGIMES", (Regime("650", 7_300, 540, 0.945, 0.98, bias=0.03),))
    monkeypatch.setattr(learning, "FEW", (0, 40))
    return tmp_path / "measured"


def test_the_whole_at_a_hundredth_of_its_size_and_again_from_what_was_kept(kept, monkeypatch):
    told = {part: [line for line in lines([part], share=0.01) if line.startswith("| ")][1:] for part in GOALS}
    assert told.keys() == learning.PARTS.keys()
    for part, rows in told.items():
        assert [row.count(" |") for row in rows] == [5] * len(rows)
        assert re.findall(r"\(goal ([^):]+)", "".join(rows)) == GOALS[part]
    assert "0 buyers to learn from: rules 1x | 0.000 (goal at least 0)" in told["few"][0]

    def fails(**settings: int) -> trials.Found:
        raise AssertionError(f"{settings} is measured again")

    for name in learning.TRIALS:
        monkeypatch.setitem(learning.TRIALS, name, fails)
    assert {part: [line for line in lines([part], share=0.01) if line.startswith("| ")][1:] for part in GOALS} == told


def test_a_result_is_kept_until_its_settings_or_what_is_measured_change(kept, monkeypatch):
    calls: list[int] = []

    def counted(seed: int) -> trials.Found:
        calls.append(seed)
        return {"value": len(calls)}

    monkeypatch.setitem(learning.TRIALS, "counted", counted)
    assert [measure(Trial("counted", {"seed": seed})) for seed in (1, 1, 2)] == [{"value": k} for k in (1, 1, 2)]
    monkeypatch.setattr(learning, "_source", lambda: "another method")
    assert measure(Trial("counted", {"seed": 1})) == {"value": 3}
    assert calls == [1, 2, 1]
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize("folder", ["features", "models", "training"])
def test_a_changed_method_is_another_source(folder, tmp_path, monkeypatch):
    for name in ("features", "models", "training", "benchmarks"):
        (tmp_path / name).mkdir()
    (tmp_path / "benchmarks" / "trials.py").write_text("")
    monkeypatch.setattr(learning, "ROOT", tmp_path)
    before = learning._source.__wrapped__()
    assert learning._source.__wrapped__() == before
    (tmp_path / folder / "new.py").write_text("")
    assert learning._source.__wrapped__() != before


def test_a_trial_that_was_stopped_leaves_nothing(kept, monkeypatch):
    def stopped(seed: int) -> trials.Found:
        raise KeyboardInterrupt

    monkeypatch.setitem(learning.TRIALS, "stopped", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure(Trial("stopped", {"seed": 1}))
    assert not kept.exists()


def test_a_goal_that_is_missed_is_called_so():
    assert learning._row("what", "where", [0.8, 1.0], 0.9).split(" | ")[2] == "0.900 (goal at least 0.9)"
    assert learning._row("what", "where", [0.8, 0.9], 0.9).split(" | ")[2] == "0.850 (goal at least 0.9: missed)"
    assert learning._row("what", "where", [0.8, 1.0], 0.9, every=True).split(" | ")[2].endswith(": missed)")
    assert learning._row("what", "where", [1.2], 0.9, 1.1).split(" | ")[2] == "1.200 (goal 0.9 to 1.1: missed)"
    assert learning._row("what", "where", [2.0]).split(" | ")[2:] == ["2.000", "2.000 to 2.000", " |"]
    assert (
        learning._share("what", "where", [True, False], most=0.5).split(" | ")[2] == "1 of 2, 50.0% (goal at most 50%)"
    )
    assert learning._share("what", "where", [True, False], least=0.6).split(" | ")[2].endswith(": missed)")


def test_efficiency_and_slope_of_what_is_known():
    truth = np.linspace(0.01, 0.5, 100)
    assert efficiency(truth, truth) == pytest.approx(1)
    assert efficiency(truth, -truth) == pytest.approx(truth[:10].sum() / truth[-10:].sum())
    assert efficiency(truth, np.full(100, 0.1)) == pytest.approx(truth.mean() / truth[-10:].mean())
    odds = np.log(truth / (1 - truth))
    assert slope(truth, truth) == pytest.approx(1, abs=1e-3)
    assert slope(truth, 1 / (1 + np.exp(-2 * odds - 1))) == pytest.approx(0.5, abs=1e-3)


def test_uncensored_rows_hold_what_came_after_the_end():
    market = Market.of(1_000, 300, seed=3)
    rows = listings(market.known, market.run.end, trials.EXPERIMENT)
    whole, mine = market.uncensored(rows)
    was, now = rows.within(rows.horizon)[mine], whole.within(whole.horizon)
    assert not np.isnan(now).any() and np.isnan(was).any()
    there = ~np.isnan(was)
    # What was not reported in time is known now, too.
    assert (now[there] >= was[there]).all() and now[~there].sum() > 0
    assert (was[there] == now[there]).mean() > 0.99


def test_the_audit_of_a_leak_that_it_does_not_name_has_not_found_it(monkeypatch):
    def audit(dataset: object) -> tuple[Finding, ...]:
        return (Finding("late_kind", "certain", "touchpoints", "another", "Bad.", "Drop it.", {}),)

    monkeypatch.setattr(trials, "audit", audit)
    found = trials.leaks(leads=300, days=200, columns=3, seed=1)
    assert found == {"found": dict.fromkeys(PLANTS, False), "false": 1}


def test_entries_are_counted_week_by_week(monkeypatch):
    """With a team without end every lead gets hot when it comes, and stays so."""
    monkeypatch.setattr(trials, "TEAM", trials.Team(reps=1_000, calls_a_week=1_000))
    found = trials.weeks(leads=600, days=200, weeks=3, seed=1)
    run = trials.simulate(600, 221, 1)
    begin = run.start + 200 * trials.US_PER_DAY
    week = (run.created_at - begin) // (7 * trials.US_PER_DAY)
    arrived = [
        int(((week == k) & (run.recorded_at >= begin + 7 * (k + 1) * trials.US_PER_DAY)).sum()) for k in range(3)
    ]
    assert found["entered"] == arrived
    assert found["room"] == 1_000_000
