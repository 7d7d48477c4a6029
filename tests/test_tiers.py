"""Cold, warm and hot: cut-offs by share and by what a team can work, and what the hot leads will bring."""

import json

import numpy as np
import pytest

from features import ModelError
from models import Team, Tiers

# The policy.


def test_a_cut_off_belongs_to_the_tier_above():
    tiers = Tiers(version="1", warm=0.2, hot=0.5)
    below = np.nextafter([0.2, 0.5], 0)
    assert tiers.of(np.array([0, below[0], 0.2, below[1], 0.5, 1])).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("count", [10, 100, 1_000, 12_340])
def test_tiers_for_shares_give_a_tenth_hot_and_a_third_tenth_warm(count):
    probability = np.random.default_rng(0).permutation(count) / count
    tiers = Tiers.for_shares(probability, version="2026-03-01")
    assert np.bincount(tiers.of(probability)).tolist() == [count * 7 // 10, count // 5, count // 10]
    other = Tiers.for_shares(probability, version="2026-03-01", hot=0.2, warm=0.2)
    assert np.bincount(other.of(probability)).tolist() == [count * 4 // 5, 0, count // 5]


def test_tiers_for_nobody_make_nobody_hot():
    tiers = Tiers.for_shares(np.empty(0), version="1")
    assert tiers.of(np.array([0, 0.999])).tolist() == [0, 0]


def test_a_policy_is_read_as_it_was_written():
    tiers = Tiers(version="2026-03-01", warm=0.1, hot=1 / 3, exit=1.1, routes={"cold": "a", "warm": "b", "hot": "c"})
    assert Tiers.from_json(tiers.to_json()) == tiers


@pytest.mark.parametrize(
    "changed",
    [
        dict(warm=0.6), dict(warm=-0.1), dict(hot=1.1), dict(hot=None), dict(warm="a"), dict(version=None),
        dict(routes={"cold": "a", "hot": "b"}), dict(routes={"cold": "a", "warm": "b", "hot": "c", "boiling": "d"}),
        dict(exit=0.9), dict(exit=None), dict(leave=0.1),
    ],
)  # fmt: skip
def test_an_invalid_policy_is_refused(changed):
    valid = dict(version="1", warm=0.2, hot=0.5)
    Tiers.from_json(json.dumps(valid))
    with pytest.raises(
        ModelError, match=r"^tiers\.json is not a tier policy: .*(\$|unknown field `leave`|tiers need 0 <= warm <= hot)"
    ):
        Tiers.from_json(json.dumps({**valid, **changed}))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1", "warm": NaN, "hot": 1}'])
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(ModelError, match=r"^tiers\.json is not a tier policy"):
        Tiers.from_json(text)


def test_not_a_number_is_no_cut_off():
    with pytest.raises(ValueError, match=r"tiers need 0 <= warm <= hot <= 1, .* got warm nan"):
        Tiers(version="1", warm=float("nan"), hot=0.5)


@pytest.mark.parametrize(
    ("probability", "previous", "tier"),
    [
        (0.39, "hot", "warm"),
        (0.40, "hot", "hot"),
        (0.49, "hot", "hot"),
        (0.49, "warm", "warm"),
        (0.50, "cold", "hot"),
        (0.16, "hot", "warm"),
        (0.16, "warm", "warm"),
        (0.159, "warm", "cold"),
        (0.16, "cold", "cold"),
    ],
)
def test_a_tier_is_left_below_its_exit(probability, previous, tier):
    tiers, codes = Tiers(version="1", warm=0.2, hot=0.5), {"cold": 0, "warm": 1, "hot": 2}
    got = tiers.of(np.array([probability]), previous=np.array([codes[previous]]))
    assert got.tolist() == [codes[tier]]


def test_equal_probabilities_stay_together_and_the_cut_off_is_the_nearest():
    probability = np.repeat([0.4, 0.3, 0.2, 0.1], [2, 5, 3, 90])
    assert Tiers.for_shares(probability, version="1", hot=0.04, warm=0.1).hot == 0.4  # 2 are nearer to 4 than 7
    assert Tiers.for_shares(probability, version="1", hot=0.05, warm=0.1).hot == 0.3
    assert Tiers.for_shares(probability, version="1", hot=0.05, warm=0.1).warm == 0.2
    nobody = Tiers.for_shares(np.full(100, 0.1), version="1")
    assert nobody.of(np.full(100, 0.1)).tolist() == [0] * 100


# What a team can work.


def test_as_many_get_hot_as_can_be_worked():
    rng = np.random.default_rng(0)
    now, peaks = rng.random(1_000), rng.random(400) ** 2
    team = Team(reps=7, calls_a_week=40, calls_a_lead=4)
    tiers = Tiers.for_capacity(now, peaks, arrivals=800, weeks=4, team=team, version="1")
    hot = (now >= tiers.hot).sum() + 2 * (peaks >= tiers.hot).sum()
    warm = (now >= tiers.warm).sum() + 2 * (peaks >= tiers.warm).sum()
    assert hot == pytest.approx(7 * 40 * 4 / 4, abs=2)
    assert warm == pytest.approx(3 * hot, abs=4)
    twice = Tiers.for_capacity(now, peaks, arrivals=800, weeks=4, team=Team(reps=14, calls_a_week=40), version="1")
    assert twice.hot < tiers.hot


def test_a_lead_is_warm_from_where_a_call_pays():
    now = np.linspace(0, 0.5, 1_000)
    team = Team(reps=1, calls_a_week=10, call_cost=30, average_deal=2_000, margin=0.3)
    tiers = Tiers.for_capacity(now, now, arrivals=0, weeks=4, team=team, version="1")
    assert tiers.warm == team.break_even == pytest.approx(0.05)
    assert (now >= tiers.hot).sum() == 40


def test_nobody_is_hot_whose_call_does_not_pay():
    team = Team(reps=100, calls_a_week=100, call_cost=30, average_deal=200)
    now = np.linspace(0, 0.5, 1_000)
    tiers = Tiers.for_capacity(now, now, arrivals=0, weeks=4, team=team, version="1")
    assert tiers.warm == tiers.hot == pytest.approx(0.15)


def test_without_leads_nobody_is_hot():
    none = np.empty(0)
    tiers = Tiers.for_capacity(none, none, arrivals=10, weeks=4, team=Team(reps=1, calls_a_week=1), version="1")
    assert tiers.hot == 1.0


# What is to be expected.


def test_the_outlook_is_that_of_the_hot_ones():
    probability = np.array([0.9, 0.5, 0.5, 0.1, 0.1])
    tiers = Tiers(version="1", warm=0.2, hot=0.5)
    leads, buyers, (low, high), income, quota = tiers.outlook(probability)
    assert (leads, income, quota) == (3, None, None)
    assert buyers == pytest.approx(1.9)
    spread = (0.9 * 0.1 + 2 * 0.25) ** 0.5
    assert (low, high) == pytest.approx((1.9 - 1.645 * spread, 3.0), abs=1e-3)


def test_income_reaches_the_quota_as_often_as_said():
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.2, 0.6, 150)
    tiers = Tiers(version="1", warm=0.1, hot=0.2)
    draws = (rng.random((20_000, 150)) < probability).sum(axis=1)
    for quota in (50_000, 60_000, 66_500):
        team = Team(reps=1, calls_a_week=1, average_deal=1_000, quota=quota)
        found = tiers.outlook(probability, team)
        assert found.income == pytest.approx(1_000 * probability.sum())
        assert found.reaches_quota == pytest.approx((1_000 * draws >= quota).mean(), abs=0.015)
    low, high = tiers.outlook(probability).interval
    assert ((draws >= low) & (draws <= high)).mean() == pytest.approx(0.9, abs=0.03)


def test_of_nobody_nothing_is_expected():
    tiers, team = Tiers(version="1", warm=0.1, hot=0.2), Team(reps=1, calls_a_week=1, average_deal=1, quota=1)
    assert tiers.outlook(np.array([0.1]), team) == (0, 0.0, (0.0, 0.0), 0.0, 0.0)
