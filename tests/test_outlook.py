"""What the hot leads will bring, and what as many calls by the rules would have reached before."""

import json

import msgspec
import numpy as np
import pytest
from small import AS_OF, records
from small import scorer as small_scorer
from worlds import table

from benchmarks.outlook import world
from features import Dataset
from features.records import dataset_of
from features.times import to_us
from models import Card, Team, Tiers
from models.calibration import Curve
from models.scorer import Scorer
from training import Backtest, Experiment
from training.outlook import Prospect, _among_best, foresee
from training.report import outlook_in_words

TEAM = Team(reps=2, calls_a_week=10, calls_a_lead=2, average_deal=1_000, quota=2_000)


def replayed(team=None, **probability):
    """Two origins of four leads; leads 0 and 4 bought after the first, 5 and 0 after the second."""
    return Backtest(
        Experiment(horizon_days=28, team=team), np.array([0, 1, 2, 4, 0, 5, 6, 7]), np.repeat([10, 20], 4),
        np.array([1, 0, 0, 1, 1, 1, 0, 0], np.bool_), {name: np.array(p) for name, p in probability.items()},
        {10: (9, 3), 20: (9, 4)},
    )  # fmt: skip


def scorer_of(name="logistic", shift=0.0, hot=0.5):
    made = small_scorer(name)
    card = Card(**{field: getattr(made.card, field) for field in Card.__struct_fields__} | {"shift": shift})
    return Scorer(made.features, made.model, card, Tiers(version="1", warm=0.1, hot=hot))


def look(scorer, result, curve=None):
    return foresee(scorer, result, dataset_of(records()), to_us(AS_OF), curve)


@pytest.mark.parametrize(
    ("room", "chances"),
    [(0, [0, 0, 0, 0]), (1, [0, 1 / 2, 1 / 2, 0]), (2, [0, 1, 1, 0]), (2.5, [0.5, 1, 1, 0]), (9, [1, 1, 1, 1])],
)
def test_equals_draw_lots(room, chances):
    assert _among_best(np.array([0.2, 0.7, 0.7, 0.1]), room).tolist() == chances


def test_the_rules_get_as_many_calls_at_each_origin():
    """The model calls 0, 4 and then 5; by the rules two of 1, 2, 4 alike are called first, and then 0."""
    result = replayed(logistic=[0.5, 0.2, 0.1, 0.9, 0.4, 0.8, 0.1, 0.1], rules=[0.1, 0.6, 0.6, 0.6, 0.9, 0.3, 0.2, 0.1])
    past = look(scorer_of(), result).past
    assert (past.calls, past.purchases, past.reached) == (3, 4, 3)
    assert past.by_rules == pytest.approx(2 / 3 + 1)
    # By lead: 0 one more and one less, 4 a third more, 5 one more.
    reach = 1.96 * np.sqrt(0 + (1 / 3) ** 2 + 1)
    assert past.gain == pytest.approx((4 / 3, 4 / 3 - reach, 4 / 3 + reach), abs=1e-3)


def test_a_curve_over_the_model_stands_over_its_past_too():
    result = replayed(logistic=[0.5, 0.2, 0.1, 0.9, 0.4, 0.8, 0.1, 0.1], rules=[0.1] * 8)
    assert look(scorer_of(), result, Curve(1.0, 1.0, -1.0)).past.calls == 2
    assert look(scorer_of(), result, Curve(1.0, 1.0, 1.0)).past.calls == 4


def test_where_the_rules_serve_nothing_is_compared():
    past = look(scorer_of("rules"), replayed(rules=[0.1, 0.6, 0.6, 0.6, 0.9, 0.3, 0.2, 0.1])).past
    assert (past.calls, past.by_rules, past.gain) == (4, None, None)


def test_what_the_hot_leads_will_bring_a_team():
    result = replayed(TEAM, logistic=[0.1] * 8, rules=[0.1] * 8)
    found, wide = look(scorer_of(), result), look(scorer_of(shift=0.5), result)
    assert found.open == 300 and 0 < found.hot < 150
    assert found.room == 2 * 10 / 2 * 4
    assert found.backlog_weeks == found.hot / 10
    assert found.income == pytest.approx(1_000 * found.buyers)
    assert found.income_interval == pytest.approx([1_000 * end for end in found.buyers_interval])
    assert found.quota == 2_000 and found.reaches_quota > 0.99
    assert wide.buyers == found.buyers
    assert wide.buyers_interval[0] < found.buyers_interval[0] < found.buyers < found.buyers_interval[1]
    told = "\n".join(outlook_in_words(found))
    assert f"Hot now: {found.hot} of 300 open leads; there is room for 40 in 28 days, those to come included." in told
    assert f"They are all that the team can work for {found.hot / 10:.1f} weeks; the cut-off is that of" in told
    assert (
        f"Of them {found.buyers:.1f} are expected to buy within 28 days (90 %: {found.buyers_interval[0]:.1f} to"
        in told
    )
    assert f"They bring {found.income:,.0f} (90 %: " in told
    assert "; they alone reach the quota of 2,000 with a probability of 100%." in told
    assert "as many calls by the rules would have reached" in told
    document = json.loads(msgspec.json.encode(found))
    assert document["past"]["purchases"] == 4 and document["hot"] == found.hot


def test_without_a_team_nothing_is_said_of_income():
    found = look(scorer_of(), replayed(logistic=[0.1] * 8, rules=[0.1] * 8))
    assert (found.room, found.backlog_weeks) == (None, None)
    assert (found.income, found.income_interval, found.quota, found.reaches_quota) == (None,) * 4
    assert len(outlook_in_words(found)) == 3


def test_where_nobody_is_open_only_the_past_is_told():
    none = Dataset.from_frames(leads=table("lead_id created_at\na 2026-04-01T00:00:00Z"))
    found = foresee(scorer_of(), replayed(logistic=[0.1] * 8, rules=[0.1] * 8), none, 0)
    assert isinstance(found, Prospect) and found.open == 0
    assert len(outlook_in_words(found)) == 1


def test_the_buyers_that_come_lie_in_the_interval():
    """In 12 small worlds; docs/decisions/0010-monitor.md has the figures of many more."""
    found = [world(1_000, 300, seed) for seed in range(12)]
    inside = [low <= one.came <= high for one in found for low, high in [one.interval]]
    assert np.mean(inside) >= 0.75
    assert all(one.interval[0] <= one.alone[0] and one.alone[1] <= one.interval[1] for one in found)
    widths = np.array([np.diff(one.interval) / np.diff(one.alone) for one in found])
    assert 1.02 < widths.mean() < 1.5
    expected, truth = (sum(getattr(one, name) for one in found) for name in ("expected", "truth"))
    assert 0.85 < expected / truth < 1.15
