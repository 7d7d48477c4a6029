"""Leads as documents become the dataset that the same leads are as tables."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from worlds import tables_of, worlds

from features import (
    LEAD_FEATURES,
    Age,
    Attributes,
    Cohort,
    Count,
    Dataset,
    DaysSince,
    FeatureSet,
    Sum,
    TableError,
)
from features.records import AttributeFact, LeadRecord, Touchpoint, dataset_of
from features.times import to_datetime, to_us

EVERY = (Age(), Count(), Count(by=("channel", "action")), Sum(), DaysSince(), Attributes())


def lead(text):
    """Reads a lead as the endpoint does."""
    return msgspec.json.decode(text, type=LeadRecord)


def values(records, as_of="2026-03-01"):
    """The features of each record by name, without those that are 0 or missing."""
    dataset = dataset_of(records)
    features = FeatureSet.fit(EVERY, dataset)
    matrix = features.compute(dataset, Cohort.at(np.arange(len(dataset)), as_of))
    return [
        {name: value for name, value in zip(features.names, row, strict=True) if value and value == value}
        for row in matrix.tolist()
    ]


def record_of(name, world):
    """A generated lead as a document."""
    return LeadRecord(
        lead_id=name,
        created_at=to_datetime(world["created"]),
        attributes=world["attributes"],
        attribute_facts=tuple(
            AttributeFact(to_datetime(f["at"]), f["name"], f["value"], to_datetime(f["known"])) for f in world["facts"]
        ),
        touchpoints=tuple(
            Touchpoint(
                occurred_at=to_datetime(t["at"]),
                channel=t["channel"],
                action=t["action"] or None,
                value=t["value"],
                recorded_at=None if t["known"] == t["at"] else to_datetime(t["known"]),
                message_id=t["message"],
            )
            for t in world["touches"]
        ),
    )


@given(world=worlds)
def test_documents_give_the_features_that_tables_do(world):
    """To the bit, whether the vocabulary was learned from one or the other. A document has no bare dates."""
    world = [{**one, "touches": [{**t, "dated": False} for t in one["touches"]]} for one in world]
    names = [f"lead {i}" for i in range(len(world))]
    documents = dataset_of([record_of(name, one) for name, one in zip(names, world, strict=True)])
    tables = Dataset.from_frames(**tables_of(world, names))
    assert documents.ids.tolist() == tables.ids.tolist() == names
    assert documents.created_at.tolist() == tables.created_at.tolist()
    features = FeatureSet.fit(LEAD_FEATURES, tables)
    assert features.fingerprint == FeatureSet.fit(LEAD_FEATURES, documents).fingerprint
    as_ofs = {one["created"] for one in world} | {row["known"] + 1 for one in world for row in one["touches"]}
    for as_of in [*sorted(as_ofs)[:4], documents.last_known + 1]:
        cohort = Cohort.at(np.arange(len(world)), int(as_of))
        assert features.compute(documents, cohort).tobytes() == features.compute(tables, cohort).tobytes()


def test_documents_keep_their_order_and_their_touches_to_themselves():
    records = [
        LeadRecord(lead_id=name, created_at=to_datetime(0), touchpoints=touches)
        for name, touches in (
            ("b", (Touchpoint(to_datetime(5), "web"),)),
            ("a", ()),
            ("b", (Touchpoint(to_datetime(7), "web", "view"), Touchpoint(to_datetime(6), "email"))),
        )
    ]
    dataset = dataset_of(records)
    assert dataset.ids.tolist() == ["b", "a", "b"] and dataset.history.lead.tolist() == [0, 2, 2]
    assert dataset.history.at.tolist() == [5, 6, 7]
    assert [dataset.history.kinds[kind].name for kind in dataset.history.kind] == ["web", "email", "web_view"]


def test_the_same_message_counts_once_for_each_lead():
    touches = """[{"occurred_at": "2026-02-01T00:00:00Z", "channel": "web", "message_id": "m", "value": 1},
                  {"occurred_at": "2026-02-02T00:00:00Z", "channel": "web", "message_id": "m", "value": 2},
                  {"occurred_at": "2026-02-03T00:00:00Z", "channel": "web", "message_id": "n", "value": 4},
                  {"occurred_at": "2026-02-03T00:00:00Z", "channel": "web", "message_id": "", "value": 8},
                  {"occurred_at": "2026-02-03T00:00:00Z", "channel": "web", "value": 8},
                  {"occurred_at": "2026-02-03T00:00:01Z", "channel": "web", "value": 16}]"""
    one = lead(f'{{"lead_id": "a", "touchpoints": {touches}}}')
    # The message that was known first; of equal rows without a message the first.
    for got in values([one, one]):
        assert (got["touch_count"], got["touch_sum"]) == (4, 1 + 4 + 8 + 16)


def test_what_was_recorded_late_is_seen_late():
    late = lead("""{"lead_id": "a", "created_at": "2026-01-01T00:00:00Z",
        "touchpoints": [{"occurred_at": "2026-02-01T00:00:00Z", "channel": "web",
                         "recorded_at": "2026-02-10T01:00:00+01:00"},
                        {"occurred_at": "2026-02-05T00:00:00Z", "channel": "web",
                         "recorded_at": "2026-01-01T00:00:00Z"}],
        "attribute_facts": [{"occurred_at": "2026-02-01T00:00:00Z", "name": "size", "value": 5,
                             "recorded_at": "2026-02-10T00:00:00Z"}]}""")
    # Nothing is known before it occurs.
    history = dataset_of([late]).history
    assert history.known.tolist() == [to_us("2026-02-10"), to_us("2026-02-05")]
    seen = {day: values([late], f"2026-02-{day}T00:00:00Z")[0] for day in ("05", "06", "10")}
    assert [seen[day].get("touch_count") for day in seen] == [None, 1, 1]
    assert values([late], "2026-02-10T00:00:00.000001Z")[0]["touch_count"] == 2
    assert "lead_size" not in seen["10"]
    assert values([late], "2026-02-10T00:00:00.000001Z")[0]["lead_size"] == 5


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["true", "false"], {"lead_a_is_true": 1}),
        (['" TRUE "', '"x"'], {"lead_a_is_true": 1}),
        (["5", "6"], {"lead_a": 5}),
        (['" 5 "', "6"], {"lead_a": 5}),
        (["5", '"x"'], {"lead_a_is_5": 1}),
        (["5.0", '"x"'], {"lead_a_is_5": 1}),
        (["0.5", "null"], {"lead_a": 0.5}),
        (["null", '"x"'], {"lead_a_is_missing": 1}),
        (['"  "', '"x"'], {"lead_a_is_missing": 1}),
        (['" x"', '"x "'], {"lead_a_is_x": 1}),
        (['"X"', '"x"'], {"lead_a_is_X": 1}),
        (["null", "null"], {}),
    ],
)
def test_attributes_of_every_type(cells, expected):
    """The first lead's column, whatever the second says; the same from creation on and as a later fact."""
    begin = '"created_at": "2026-02-01T00:00:00Z"'
    base = [lead(f'{{"lead_id": "l", {begin}, "attributes": {{"A": {cell}}}}}') for cell in cells]
    later = [
        lead(
            f'{{"lead_id": "l", {begin}, "attribute_facts": [{{"occurred_at": "2026-02-02T00:00:00Z", "name": "A", '
            f'"value": {cell}}}]}}'
        )
        for cell in cells
    ]
    for records in (base, later):
        assert {name: value for name, value in values(records)[0].items() if name != "age_days"} == expected


def test_a_fact_takes_the_place_of_what_was_known_at_creation():
    one = LeadRecord(
        lead_id="a",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        attributes={"Size": 5.0, "kept": 1.0},
        attribute_facts=(
            AttributeFact(datetime(2026, 2, 2, tzinfo=UTC), "size", 7.0),
            AttributeFact(datetime(2026, 2, 1, tzinfo=UTC), "SIZE", 6.0),
        ),
    )
    sizes = [values([one], f"2026-02-0{day}T00:00:01Z")[0] for day in (1, 2)]
    assert [(row["lead_size"], row["lead_kept"]) for row in sizes] == [(6, 1), (7, 1)]
    assert values([one], "2026-02-01")[0]["lead_size"] == 5


def test_without_created_at_the_first_touch_counts():
    one = lead("""{"lead_id": "a", "touchpoints": [
        {"occurred_at": "2026-02-20T00:00:00Z", "channel": "web"},
        {"occurred_at": "2026-02-19T01:00:00+01:00", "channel": "web", "recorded_at": "2026-02-25T00:00:00Z"}]}""")
    assert values([one])[0]["age_days"] == 10


def test_a_lead_with_neither_created_at_nor_touches_is_refused():
    other = LeadRecord(lead_id="fine", created_at=to_datetime(0))
    with pytest.raises(TableError, match=r"lead 'L-7' has neither created_at nor touchpoints\. Give when"):
        dataset_of([other, LeadRecord(lead_id="L-7")])


@pytest.mark.parametrize("action", [None, "", "  "])
def test_a_blank_action_is_none(action):
    touch = Touchpoint(datetime(2026, 2, 1, tzinfo=UTC), " E-Mail ", action)
    assert dataset_of([LeadRecord(lead_id="a", touchpoints=(touch,))]).history.kinds == (("e_mail", ""),)


def test_no_leads_are_an_empty_dataset():
    dataset = dataset_of([])
    assert len(dataset) == 0 and len(dataset.history) == 0
    assert FeatureSet.fit(EVERY, dataset).compute(dataset, Cohort.concat([])).shape[0] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "missing required field `lead_id`"),
        ('{"lead_id": ""}', "length >= 1 - at `$.lead_id`"),
        ('{"lead_id": "a", "color": 1}', "unknown field `color`"),
        ('{"lead_id": "a", "created_at": "2026-01-01T00:00:00"}', "timezone component - at `$.created_at`"),
        ('{"lead_id": "a", "attributes": {"x": [1]}}', "at `$.attributes[...]`"),
        ('{"lead_id": "a", "touchpoints": [{"channel": "web"}]}', "missing required field `occurred_at`"),
        (
            '{"lead_id": "a", "touchpoints": [{"occurred_at": "2026-01-01T00:00:00Z", "channel": "", "value": 1}]}',
            "length >= 1 - at `$.touchpoints[0].channel`",
        ),
    ],
)
def test_a_bad_document_says_where(text, says):
    with pytest.raises(msgspec.ValidationError) as problem:
        lead(text)
    assert says in str(problem.value)
