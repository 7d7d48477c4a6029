"""Reasons: what a score would be without one kind of touch or attribute, told in words."""

import math

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruned import pruned, touches_of
from test_parity import record
from trained import Trained
from weighted import weighted
from worlds import dataset_of as world_of
from worlds import instants, table, worlds

from features import Age, Attributes, Cohort, Count, Dataset, FeatureSet
from features.records import LeadRecord, dataset_of
from models import Scorer, load_bundle
from models.reasons import find_reasons

LEADS = 40


def logit(p):
    return math.log(p) - math.log1p(-p)


def scored(scorer: Scorer, document, as_of):
    import msgspec

    dataset = dataset_of([msgspec.convert(document, LeadRecord)])
    return float(scorer.score(dataset, Cohort.at([0], as_of)).probability[0])


def without_each(document):
    """The lead's document without each kind of touch, and without each attribute, in turn."""
    touches, facts = document["touchpoints"], document["attribute_facts"]
    for kind in {(touch["channel"], touch["action"]) for touch in touches}:
        yield {**document, "touchpoints": [t for t in touches if (t["channel"], t["action"]) != kind]}
    for name in {*document["attributes"], *(fact["name"] for fact in facts)}:
        left = {key: value for key, value in document["attributes"].items() if key != name}
        yield {**document, "attributes": left, "attribute_facts": [fact for fact in facts if fact["name"] != name]}


@pytest.mark.parametrize("model", ["lightgbm", "logistic", "rules"])
def test_a_reason_is_what_the_score_would_be_without(trained: Trained, model: str) -> None:
    """Each lead is written without each kind of touch or attribute and scored anew, from the start."""
    scorer, dataset = load_bundle(trained.bundles / model), Dataset.read(trained.leads)
    as_of = dataset.recorded_until
    cohort = dataset.open_at(as_of)
    cohort = cohort[np.linspace(0, len(cohort) - 1, LEADS).astype(np.int64)]
    scores = scorer.score(dataset, cohort, reasons=3)
    told = 0
    for row, lead in enumerate(cohort.lead.tolist()):
        document = record(dataset, lead)
        now = scores.probability[row]
        others = [scored(scorer, changed, as_of) for changed in without_each(document)]
        expected = sorted((p for p in others if p != now), key=lambda p: -abs(logit(p) - logit(now)))[:3]
        assert [reason.without for reason in scores.reasons[row]] == pytest.approx(expected, rel=1e-12)
        assert [reason.effect for reason in scores.reasons[row]] == [now - r.without for r in scores.reasons[row]]
        told += len(expected)
    assert told > LEADS


def left_out(dataset, lead):
    """The lead without each kind of touch that it has, and without each attribute, in turn."""
    history, attributes = dataset.history, dataset.attributes
    for kind in {int(history.kind[row]) for row in touches_of(dataset, lead)}:
        yield pruned(dataset, lead, touch=lambda row, kind=kind: history.kind[row] != kind)
    for column in range(len(attributes.names)):
        yield pruned(
            dataset, lead,
            fact=lambda row, column=column: attributes.column[row] != column,
            cell=lambda other, column=column: other != column,
        )  # fmt: skip


@given(worlds, instants, st.integers(0, 9))
def test_the_top_reason_taken_away_moves_the_score_by_what_was_said(world, as_of, seed):
    """Of any lead, at any time, to the bit; and nothing else that could be taken away moves it more."""
    dataset = world_of(world)
    scorer = weighted(dataset, seed)
    scores = scorer.score(dataset, Cohort.at(np.arange(len(dataset)), as_of), reasons=99)
    for lead, (now, told) in enumerate(zip(scores.probability.tolist(), scores.reasons, strict=True)):
        others = [float(scorer.predict(one, Cohort.at([0], as_of))[0]) for one in left_out(dataset, lead)]
        # A last bit may be lost on the way to the log-odds.
        moving, without = ([p for p in ps if abs(p - now) > 1e-14] for ps in (others, [one.without for one in told]))
        assert sorted(without) == sorted(moving)
        assert [reason.effect for reason in told] == [now - reason.without for reason in told]
        if moving:
            most = max(abs(logit(p) - logit(now)) for p in moving)
            assert abs(logit(told[0].without) - logit(now)) == pytest.approx(most, rel=1e-9, abs=1e-12)


def test_what_a_link_takes_away_is_no_reason_from_then_on():
    dataset = Dataset.from_frames(
        touchpoints=table("""
            lead_id  occurred_at           channel  action
            a        2026-01-05T00:00:08Z  email    click
            a        2026-01-06T00:00:08Z  email    click
            b        2026-01-05T00:00:07Z  email    sent
        """),
        aliases=table("lead_id same_as occurred_at\nb a 2026-01-07T00:00:00Z"),
    )
    scorer, lead = weighted(dataset), dataset.find(["a"])
    clicks = {
        as_of: [
            reason.text.partition(":")[0]
            for reason in scorer.score(dataset, Cohort.at(lead, as_of), reasons=9).reasons[0]
            if "click" in reason.text
        ]
        for as_of in ("2026-01-07T00:00:00Z", "2026-01-07T00:00:00.000001Z")
    }
    assert [*clicks.values()] == [["2 email clicks in the last 30 days"], ["1 email click in the last 30 days"]]


TOUCHES = table("""
    lead_id  occurred_at           channel  action
    a        2026-01-05T00:00:00Z  demo     -
    a        2026-01-20T00:00:00Z  demo     -
    a        2026-01-25T00:00:00Z  email    click
    a        2025-11-01T00:00:00Z  email    click
    a        2025-12-01T00:00:00Z  fair     -
    a        2025-11-01T00:00:00Z  web      -
    a        2025-11-01T01:00:00Z  web      -
    a        2026-01-31T00:00:00Z  call     talk
    a        2026-02-01T00:00:00Z  call     talk
    b        2026-01-31T00:00:00Z  reply    -
    b        2026-01-30T00:00:00Z  reply    -
""")
WORLD = Dataset.from_frames(
    touchpoints=TOUCHES,
    leads=table("""
        lead_id  created_at            industry  employees
        a        2025-10-01T00:00:00Z  cleaning  40
        b        2025-10-01T00:00:00Z  -         -
    """),
)
WEIGHTS = {
    "demo_count": 1.0, "email_click_count": 0.5, "fair_count": -0.4, "web_count": 0.1, "call_talk_count": 0.01,
    "reply_count": 2.0, "lead_employees": 0.001, "lead_industry_is_cleaning": 0.2,
}  # fmt: skip


def explained(lead: int, count: int = 9):
    features = FeatureSet.fit((Age(), Count(by=("channel", "action")), Attributes()), WORLD)
    weights = np.array([WEIGHTS.get(name, 0.0) for name in features.names])

    def predict(matrix):
        return 1 / (1 + np.exp(3 - np.nan_to_num(matrix.astype(float)) @ weights))

    def less(rows, without):
        return predict(features.compute(WORLD, rows, without=without))

    cohort = Cohort.at([lead], "2026-02-01")
    now = predict(features.compute(WORLD, cohort))
    return find_reasons(features, less, WORLD, cohort, now, count)[0]


def test_reasons_are_told_in_words_the_strongest_first() -> None:
    assert [reason.text for reason in explained(0)] == [
        "2 demos in the last 30 days: 51 % with, 12 % without",
        "2 email clicks, 1 of them in the last 30 days: 51 % with, 28 % without",
        "1 fair, 62 days ago: 51 % with, 61 % without",
        "2 x web, the last 91 days ago: 51 % with, 46 % without",
        "industry cleaning: 51 % with, 46 % without",
        "employees 40: 51 % with, 50 % without",
        "1 call talk in the last 30 days: 51.2 % with, 51.0 % without",
    ]
    assert [reason.text for reason in explained(1)] == ["2 replies in the last 30 days: 73 % with, 5 % without"]


def test_no_more_than_asked_for() -> None:
    assert explained(0, 2) == explained(0)[:2]


def test_a_lead_of_which_nothing_is_known_has_no_reasons(trained: Trained) -> None:
    scorer = load_bundle(trained.bundle)
    nothing = dataset_of([LeadRecord(lead_id="x", created_at=scorer_time())])
    assert scorer.score(nothing, Cohort.at([0], "2026-02-01"), reasons=3).reasons == [()]


def scorer_time():
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)


def test_the_endpoint_gives_as_many_as_asked_for(server: httpx.Client) -> None:
    body = {
        "lead_id": "L", "as_of": "2026-02-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z",
        "touchpoints": [
            {"occurred_at": f"2026-01-{day:02}T00:00:00Z", "channel": channel}
            for day, channel in enumerate(("web", "content", "webinar", "call", "pricing"), 10)
        ],
    }  # fmt: skip
    for count in range(6):
        got = server.post(f"/v1/score?reasons={count}", json=body)
        assert got.status_code == 200, got.text
        reasons = got.json()["reasons"]
        assert reasons is None if count == 0 else 0 < len(reasons) <= count
        many = server.post(f"/v1/score/bulk?reasons={count}", json={"leads": [body]}).json()
        assert many["scores"][0]["reasons"] == reasons
    strongest = reasons[0]
    assert strongest["without"] == pytest.approx(got.json()["probability"] - strongest["effect"])


@pytest.mark.parametrize("asked", ["6", "-1", "many", "1.5", ""])
def test_other_numbers_are_refused(server: httpx.Client, asked: str) -> None:
    got = server.post(f"/v1/score?reasons={asked}", json={"lead_id": "L", "created_at": "2026-01-01T00:00:00Z"})
    assert got.status_code == 422
    assert got.json()["field"] == "reasons"
    assert got.json()["detail"].startswith(f"reasons: got {asked!r}. Ask for 0 to 5 reasons.")
