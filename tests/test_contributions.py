"""What log-odds are made up of adds up to them, and goes to what each column is declared to tell of."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from features import LEAD_FEATURES, Age, Attributes, Cohort, Count, Dataset, Decayed, Distinct, First, Gap, Sequence
from features.errors import ModelError
from features.example import example
from features.feature import About, FeatureSet
from models import load_bundle
from models.calibration import Calibrated, Curve
from models.linear import Logistic
from training.contributions import Contributions, contributions, has_contributions, in_words

TOUCHES, AGE = About("touches"), About("age")


@pytest.fixture(scope="module")
def dataset(trained):
    return Dataset.read(trained.leads)


@pytest.fixture(scope="module")
def cohort(dataset):
    return dataset.open_at(dataset.recorded_until)[:300]


# What a column tells of.


def test_each_column_tells_of_its_group():
    features = FeatureSet.fit(
        (
            Age(),
            Count(days=(7, 30)),
            Count(by="channel", days=(7, 30)),
            Distinct(by="channel", days=(7, 30)),
            Decayed(of="email"),
            Gap(by="side"),
            First(by="side"),
            Sequence(first="webinar", then="call"),
            Attributes(),
        ),
        example(),
    )
    about = dict(zip(features.names, features.about, strict=True))
    assert len(features.about) == len(features.names)
    assert about["age_days"] == AGE
    assert about["touch_count_7d"] == about["touch_count_30d"] == TOUCHES
    assert about["email_count_7d"] == about["email_count_30d"] == about["email_decayed_7d"] == About("touches", "email")
    assert about["other_count_30d"] == About("touches", "other")
    assert about["distinct_channel_7d"] == about["distinct_channel_30d"] == TOUCHES
    assert about["marketing_silence"] == about["first_side_is_marketing"] == About("touches", "marketing")
    assert about["webinar_before_call"] == About("touches", "webinar and call")
    assert about["lead_industry_is_retail"] == about["lead_industry_is_missing"] == About("attribute", "industry")
    assert about["lead_size"] == About("attribute", "size")


def test_columns_of_kinds_go_by_the_declaration_and_not_by_the_name():
    """An attribute called age and a channel called lead_size would mislead who reads names."""
    import pandas as pd

    touches = pd.DataFrame({"lead_id": ["a", "b"], "occurred_at": ["2026-01-01T00:00:00Z"] * 2, "channel": "lead_size"})
    leads = pd.DataFrame({"lead_id": ["a", "b"], "created_at": ["2026-01-01T00:00:00Z"] * 2, "age": [1, 2]})
    known = Dataset.from_frames(touchpoints=touches, leads=leads)
    features = FeatureSet.fit((Age(), Count(by="channel"), Attributes()), known)
    assert features.names == ("age_days", "lead_size_count", "other_count", "lead_age")
    assert features.about == (AGE, About("touches", "lead_size"), About("touches", "other"), About("attribute", "age"))


def test_the_fingerprint_is_of_what_is_computed_alone():
    features = FeatureSet.fit(LEAD_FEATURES, example())
    assert FeatureSet.from_json(features.to_json()).about == features.about


# They add up.


@pytest.mark.parametrize("name", ["logistic", "lightgbm", "blend"])
def test_the_parts_of_a_row_and_the_base_are_its_log_odds(name, trained, dataset, cohort):
    scorer = load_bundle(trained.bundles / name)
    found = contributions(scorer, dataset, cohort)
    p = scorer.predict(dataset, cohort)
    np.testing.assert_allclose(found.log_odds, np.log(p) - np.log1p(-p), rtol=0, atol=1e-9)
    assert len(set(found.groups)) == len(found.groups) == found.values.shape[1]
    assert (found.size > 0).sum() > 5 and not found.before_curve


def test_a_term_is_what_the_logistic_regression_adds_to_the_bit():
    """Also of what is missing, infinite or constant."""
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(500, 6)).astype(np.float32) * 1e3
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    matrix[:, 3] = 2.0
    model = Logistic.fit(matrix, (rng.random(500) < 0.3).astype(np.float64))
    matrix[:3, 0] = np.inf, -np.inf, 3e38
    terms = model.terms(matrix)
    assert terms.shape == matrix.shape and (terms[:, 3] == 0).all()
    total = np.full(len(matrix), model.intercept)
    for column in terms.T:
        total += column
    assert (total == model.logits(matrix)).all()


def test_contributions_of_the_logistic_half_count_from_the_mean_of_the_rows(trained, dataset, cohort):
    found = contributions(load_bundle(trained.bundles / "logistic"), dataset, cohort)
    np.testing.assert_allclose(found.values.mean(axis=0), 0, atol=1e-12)
    assert found.base == pytest.approx(found.log_odds.mean())


def test_the_blend_is_the_mean_of_its_halves(trained, dataset, cohort):
    scorer = load_bundle(trained.bundles / "blend")
    halves = [contributions(replace(scorer, model=half), dataset, cohort)
              for half in (scorer.model.logistic, scorer.model.trees)]  # fmt: skip
    found = contributions(scorer, dataset, cohort)
    np.testing.assert_allclose(found.values, (halves[0].values + halves[1].values) / 2, atol=1e-12)
    assert found.base == pytest.approx((halves[0].base + halves[1].base) / 2)


def test_what_an_attribute_adds_moves_with_it_alone(trained, dataset, cohort):
    """Leads that differ from what they are in their size alone differ in what their size adds to the logistic half."""
    scorer = load_bundle(trained.bundles / "logistic")
    cells = dataset.attributes.cells.copy()
    size = dataset.attributes.names.index("size")
    cells[:, size] += 1
    other = replace(dataset, attributes=replace(dataset.attributes, cells=cells))
    one, two = (contributions(scorer, which, cohort) for which in (dataset, other))
    moved = np.abs(two.values - one.values).max(axis=0) > 1e-12
    assert {group for group, changed in zip(one.groups, moved, strict=True) if changed} == {About("attribute", "size")}


def test_under_a_curve_they_are_of_the_log_odds_before_it(trained, dataset, cohort):
    scorer = load_bundle(trained.bundles / "blend")
    curved = replace(scorer, model=Calibrated(scorer.model, Curve(0.8, 0.9, 0.1)))
    found = contributions(curved, dataset, cohort)
    assert found.before_curve
    p = scorer.predict(dataset, cohort)
    np.testing.assert_allclose(found.log_odds, np.log(p) - np.log1p(-p), rtol=0, atol=1e-9)


def test_other_models_and_no_rows_are_refused(trained, dataset, cohort):
    rules = load_bundle(trained.bundles / "rules")
    assert not has_contributions(rules.model)
    with pytest.raises(ModelError, match=r"rules is no sum of its columns\. Contributions are of blend, lightgbm and"):
        contributions(rules, dataset, cohort)
    with pytest.raises(ModelError, match="there is no row to look at"):
        contributions(load_bundle(trained.bundles / "blend"), dataset, Cohort.concat([]))


# They are shown.


def test_the_table_goes_by_size_and_names_what_columns_tell_of():
    groups = AGE, TOUCHES, About("touches", "email_click"), About("touches", "other"), About("attribute", "size")
    found = Contributions(groups, np.array([[0.1, -3, 0.2, 0, 1], [-0.1, 1, 0.2, 0, 1]]), -2.0)
    table = found.table()
    assert table.index.tolist() == ["all touches", "size", "email click", "age", "other touches"]
    assert table.loc["all touches"].tolist() == ["touches", 2.0, -3.0, 1.0]
    assert "email click" in found._repr_html_()
    assert [in_words(group) for group in found.order] == table.index.tolist()


def test_many_groups_are_drawn_as_fifteen_bars():
    plots = import_module("training.plots")
    groups = (
        AGE,
        *(About("touches", f"kind_{k}") for k in range(14)),
        *(About("attribute", f"a{k}") for k in range(5)),
    )
    size = np.arange(20.0, 0, -1)
    figure = plots.contributions(Contributions(groups, np.stack([size, -size]), 0.0, before_curve=True))
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[::-1] == ["age", *(f"kind {k}" for k in range(14))]
    bars = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}
    assert [bars[place] for place in range(15)] == size[:15][::-1].tolist()
    assert "5 more make 15.00 together" in axes.get_xlabel()
    assert "before the calibration curve" in " ".join(text.get_text() for text in axes.texts)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["touches", "age"]
    assert figure._repr_png_().startswith(b"\x89PNG")
