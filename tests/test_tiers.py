"""Cold, warm and hot: cut-offs by share and by what a team can work, and what the hot leads will bring."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features import ModelError
from models import Team, Tiers
from models.tiers import _in_a_week, entries

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

NAN = np.nan
LOOKS = np.array([
    # hot from the start; comes hot; heats up, stays above its exit, cools and heats up again; sold while hot
    [0.60, NAN, 0.10, 0.30],
    [0.60, 0.55, 0.50, 0.55],
    [0.30, 0.60, 0.41, NAN],
    [0.30, 0.60, 0.50, NAN],
    [0.55, 0.60, 0.20, NAN],
    [0.30, 0.60, 0.50, NAN],
])  # fmt: skip


def test_leads_that_get_hot_are_counted_each_time_they_do():
    """By .5 three at the second look, nobody while the third stays above .4, one that comes back, and so on."""
    assert entries(LOOKS, np.array([0.5]))[:, 0].tolist() == [3, 0, 0, 1, 1]
    # Left at .5 exactly, one that is at .41 and then at .5 gets hot again.
    assert entries(LOOKS, np.array([0.5]), exit=1.0)[:, 0].tolist() == [3, 0, 1, 1, 1]
    assert entries(LOOKS, np.array([0.0, 0.61])).tolist() == [[1, 0], [0, 0], [0, 0], [0, 0], [0, 0]]


@given(
    arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.integers(-1, 16)),
    st.sampled_from([1.0, 1.25, 2.0]),
)
def test_all_cut_offs_at_once_are_counted_as_tiers_with_each_of_them_would(sixteenths, exit):
    looks = np.where(sixteenths < 0, np.nan, sixteenths / 16)
    cuts = np.arange(17) / 16
    counted = []
    for cut in cuts:
        tiers, tier = Tiers(version="1", warm=cut, hot=cut, exit=exit), np.zeros(looks.shape[1], np.int64)
        counted.append([])
        for look in looks:
            mine = ~np.isnan(look)
            before = tier.copy()
            tier[mine] = tiers.of(look[mine], before[mine])
            counted[-1].append(int(((tier == 2) & (before != 2)).sum()))
    assert entries(looks, cuts, exit).T.tolist() == [weeks[1:] for weeks in counted]


def weekly(count, weeks=12, peak=0.5):
    """So many leads get hot every week, each at a peak of its own, beside 100 that always are at .01."""
    looks = np.full((weeks + 1, 100 + weeks * count), np.nan)
    looks[:, :100] = 0.01
    for week in range(weeks):
        looks[week + 1, 100 + week * count :][:count] = peak - np.arange(count) / 1_000
    return looks


def test_no_more_get_hot_than_can_be_worked_in_a_week_where_they_come_by_chance():
    """As many of the 60 a week as leave room for 1.645 standard deviations of what chance does, and not one more."""
    looks = weekly(60)
    is_open = np.count_nonzero(~np.isnan(looks), axis=1)
    assert is_open.tolist() == [100] + [160] * 12
    tiers = Tiers.for_capacity(looks, team=Team(reps=3, calls_a_week=20, calls_a_lead=2), version="1")
    by_week = entries(looks, np.array([tiers.hot]))[:, 0]
    (k,) = set(by_week.tolist())
    # As many more as leads are open now than at the starts of those weeks, 155 on average.
    least, one_more = (n + 1.645 * (n * (1 + 160 / (12 * 155))) ** 0.5 for n in (k * 160 / 155, (k + 1) * 160 / 155))
    assert least <= 30.5 < one_more
    more = Tiers.for_capacity(looks, team=Team(reps=6, calls_a_week=20, calls_a_lead=2), version="1")
    assert more.hot < tiers.hot


def test_weeks_that_differ_by_more_than_chance_leave_more_room():
    """Twelve weeks of 0 or 40 by turns, 20 on average as in weeks of 20, spread far more."""
    steady, bursts = weekly(20), weekly(40)
    for week in range(1, 12, 2):
        bursts[week + 1, 100 + week * 40 :][:40] = np.nan
    team = Team(reps=1, calls_a_week=30)
    hot = {name: Tiers.for_capacity(looks, team=team, version="1").hot for name, looks in
           (("steady", steady), ("bursts", bursts))}  # fmt: skip
    assert hot["bursts"] > hot["steady"]
    counted = entries(bursts, np.array([hot["bursts"]]))[:, 0]
    share = counted.sum() / 1_440
    halfway = (counted.var(ddof=1) / counted.mean() + 1) / 2
    assert halfway > 2
    assert share * 100 + 1.645 * np.sqrt(halfway * share * 100) < 30.5


def test_a_week_to_come_is_like_those_seen_for_as_many_open_leads_and_as_uncertain():
    """10 and 30 of 100 each: a fifth, of 150 now. Their spread is 10 times that of chance, or 22 / 13 with twelve weeks
    of chance beside it; and the fifth is known from 200 leads."""
    expected, spread = _in_a_week(np.array([[10], [30]]), np.array([100, 100, 150]))
    assert expected.tolist() == pytest.approx([30])
    assert spread.tolist() == pytest.approx([(22 / 13 * 30 * (1 + 150 / 200)) ** 0.5])
    _, least = _in_a_week(np.array([[20], [20]]), np.array([100, 100, 150]))
    assert least.tolist() == pytest.approx([(30 * (1 + 150 / 200)) ** 0.5])


def test_the_leads_that_are_hot_at_first_are_a_stock():
    looks = weekly(10)
    team = Team(reps=1, calls_a_week=30)
    with_stock = np.hstack([looks, np.full((13, 200), 0.9)])
    hot = Tiers.for_capacity(with_stock, team=team, version="1").hot
    assert hot <= looks[~np.isnan(looks) & (looks > 0.01)].min()


def test_where_all_can_be_worked_all_are_hot_and_where_none_can_nobody_is():
    looks = weekly(10)
    everybody = Tiers.for_capacity(looks, team=Team(reps=1, calls_a_week=100), version="1")
    assert everybody.hot == 0.01
    nobody = Tiers.for_capacity(looks, team=Team(reps=1, calls_a_week=0.1), version="1")
    assert 0.5 < nobody.hot < 0.5001
    alike = Tiers.for_capacity(np.where(np.isnan(looks), np.nan, 0.2), team=Team(reps=1, calls_a_week=5), version="1")
    assert not (np.array([0.2]) >= alike.hot).any()


def test_warm_are_three_times_as_many_as_can_be_worked():
    looks, team = weekly(60), Team(reps=1, calls_a_week=20)
    tiers = Tiers.for_capacity(looks, team=team, version="1")
    assert tiers.warm < tiers.hot
    assert tiers.warm == Tiers.for_capacity(looks, team=Team(reps=3, calls_a_week=20), version="1").hot


PAYING = Team(reps=1, calls_a_week=10, call_cost=30, average_deal=2_000, margin=0.3)


def test_a_lead_is_warm_from_where_a_call_pays():
    tiers = Tiers.for_capacity(weekly(60), team=PAYING, version="1")
    assert tiers.warm == PAYING.break_even == pytest.approx(0.05)
    assert tiers.hot > 0.4
    now = np.linspace(0, 0.5, 1_000)
    stock = Tiers.for_stock(now, room=40, team=PAYING, version="1")
    assert stock.warm == PAYING.break_even
    assert (now >= stock.hot).sum() == 40


def test_nobody_is_hot_whose_call_does_not_pay():
    team = Team(reps=100, calls_a_week=100, call_cost=30, average_deal=200)
    for tiers in (
        Tiers.for_capacity(weekly(10), team=team, version="1"),
        Tiers.for_stock(np.linspace(0, 0.5, 1_000), room=40_000, team=team, version="1"),
    ):
        assert tiers.warm == tiers.hot == pytest.approx(0.15)


def test_of_a_stock_as_many_are_hot_as_there_is_room_for():
    now, team = np.random.default_rng(0).random(1_000), Team(reps=1, calls_a_week=1)
    tiers = Tiers.for_stock(now, room=70, team=team, version="1")
    assert ((now >= tiers.hot).sum(), (now >= tiers.warm).sum()) == (70, 210)


def test_without_leads_nobody_is_hot():
    team = Team(reps=1, calls_a_week=1)
    assert Tiers.for_capacity(np.empty((3, 0)), team=team, version="1").hot == 1.0
    assert Tiers.for_stock(np.empty(0), room=4, team=team, version="1").hot == 1.0


def test_thirty_thousand_leads_take_less_than_a_second():
    rng = np.random.default_rng(0)
    looks = rng.beta(0.5, 10, (13, 30_000))
    begun = time.process_time()
    Tiers.for_capacity(looks, team=Team(reps=7, calls_a_week=40), version="1")
    assert time.process_time() - begun < 1


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


def test_an_error_that_all_leads_share_widens_what_is_expected():
    """Purchases drawn with log-odds that are off alike: only an interval that knows of it holds nine in ten."""
    rng = np.random.default_rng(2)
    probability, shift = rng.uniform(0.2, 0.6, 300), 0.3
    tiers = Tiers(version="1", warm=0.1, hot=0.2)
    odds = probability / (1 - probability) * np.exp(rng.normal(0, shift, (4_000, 1)))
    draws = (rng.random((4_000, 300)) < odds / (1 + odds)).sum(axis=1)
    held = {}
    for known in (0.0, shift):
        low, high = tiers.outlook(probability, shift=known).interval
        held[known] = ((draws >= low) & (draws <= high)).mean()
    assert held[0.0] < 0.7
    assert held[shift] == pytest.approx(0.9, abs=0.02)
    team = Team(reps=1, calls_a_week=1, average_deal=1_000, quota=1_000 * (probability.sum() + 20))
    reached = tiers.outlook(probability, team, shift).reaches_quota
    assert reached == pytest.approx((draws >= probability.sum() + 20).mean(), abs=0.03)


def test_of_nobody_nothing_is_expected():
    tiers, team = Tiers(version="1", warm=0.1, hot=0.2), Team(reps=1, calls_a_week=1, average_deal=1, quota=1)
    assert tiers.outlook(np.array([0.1]), team) == (0, 0.0, (0.0, 0.0), 0.0, 0.0)
