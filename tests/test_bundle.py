"""A bundle comes back as it was saved, or not at all: no damage is overlooked and none ends the process."""

import hashlib
import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small

from features import Cohort, Dataset, FeatureSet, ModelError
from features.history import Attributes, History, Kind, Outcomes
from features.records import dataset_of
from features.times import NEVER
from models import MODELS, Scorer, Tiers, load_bundle, save_bundle
from models.booster import Booster
from models.bundle import bundle_digest, replace_tiers
from models.trees import LightGBM

FILES = ["SHA256SUMS", "card.json", "features.json", "golden.json", "model.json", "tiers.json"]
WITH_TREES = [name.replace("model.json", "model.txt") for name in FILES]
WITH_BOTH = sorted([*FILES, "model.txt"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A bundle of every kind of model, not to be changed."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: save_bundle(small.scorer(name), folder / name) for name in MODELS}


@pytest.fixture
def bundle(saved, tmp_path):
    """A copy of the logistic model's."""
    return Path(shutil.copytree(saved["logistic"], tmp_path / "bundle"))


@pytest.fixture
def trees(saved, tmp_path):
    """A copy of LightGBM's."""
    return Path(shutil.copytree(saved["lightgbm"], tmp_path / "trees"))


def refused(folder, says):
    """Loading fails, and says where and what."""
    with pytest.raises(ModelError, match=f"^{re.escape(str(folder))}: .*{says}"):
        load_bundle(folder)


def seal(folder):
    """Makes the checksums fit the files again."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))


def change(folder, name, **changed):
    """Changes parts of a JSON file and seals the bundle."""
    document = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**document, **changed}))
    seal(folder)


def test_sealing_writes_what_saving_does(bundle):
    before = (bundle / "SHA256SUMS").read_bytes()
    seal(bundle)
    assert (bundle / "SHA256SUMS").read_bytes() == before


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_scores_as_what_was_saved(saved, name):
    scorer, loaded = small.scorer(name), load_bundle(str(saved[name]))
    dataset = dataset_of(small.records())
    cohort = Cohort.at(np.arange(len(dataset)), small.AS_OF)
    assert loaded.predict(dataset, cohort).tobytes() == scorer.predict(dataset, cohort).tobytes()
    assert (loaded.card, loaded.tiers, loaded.features.names) == (scorer.card, scorer.tiers, scorer.features.names)


def test_a_bundle_is_never_overwritten(bundle):
    before = (bundle / "SHA256SUMS").read_bytes()
    with pytest.raises(ModelError, match="A bundle is never overwritten; choose another folder"):
        save_bundle(small.scorer("rules"), bundle)
    assert (bundle / "SHA256SUMS").read_bytes() == before


def test_what_cannot_be_saved_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("models.bundle._sums_text", lambda sums: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_bundle(small.scorer("rules"), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_is_text_without_real_leads(saved, name):
    paths = sorted(saved[name].iterdir())
    assert [path.name for path in paths] == {"lightgbm": WITH_TREES, "blend": WITH_BOTH}.get(name, FILES)
    for path in paths:
        text = path.read_bytes().decode()
        assert all(sign == "\n" or sign.isprintable() for sign in text)
        assert "real-lead" not in text
        if path.suffix == ".json":
            json.loads(text)
    leads = [row["lead"] for row in json.loads((saved[name] / "golden.json").read_text())]
    assert len(leads) == 12 and {lead["lead_id"] for lead in leads} == {f"golden-{i}" for i in range(12)}


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"base_rate"}))
def test_golden_leads_reach_every_column_they_can(saved, name):
    loaded = load_bundle(saved[name])
    golden = json.loads((saved[name] / "golden.json").read_text())
    assert len({row["probability"] for row in golden}) > 6
    kinds = {touch["channel"] for row in golden for touch in row["lead"]["touchpoints"]}
    assert kinds >= {kind for names in loaded.features.vocabulary.groups.values() for kind in names}


def test_sha256sum_can_check_a_bundle(bundle):
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=bundle, capture_output=True).returncode == 0
    (bundle / "card.json").write_text("{}")
    assert subprocess.run(check, cwd=bundle, capture_output=True).returncode == 1


# Damage.


def test_no_bundle_is_told_what_to_do(tmp_path):
    refused(tmp_path, r"no model is here \(SHA256SUMS is missing\)\. Train one with `touchstone train`")
    refused(tmp_path / "nowhere", "no model is here")


def test_a_challenger_that_was_not_promoted_is_named(bundle, tmp_path):
    folder = tmp_path / "trained"
    shutil.copytree(bundle, folder / "7")
    (folder / "challenger").symlink_to("7")
    refused(
        folder / "champion",
        r"no model is here .*Version 7 was trained, but not promoted: .*`touchstone promote --force`, .*--model "
        + re.escape(str(folder / "7")),
    )
    refused(folder / "6", "Train one with")
    (folder / "challenger").unlink()
    refused(folder / "champion", "Train one with")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    refused(bundle, f"{re.escape(name)} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(bundle, name):
    whole = (bundle / name).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (bundle / name).write_bytes(whole[:length])
        refused(bundle, re.escape(name))
    (bundle / name).write_bytes(whole + b"\n")
    refused(bundle, re.escape(name))
    (bundle / name).write_bytes(whole)
    load_bundle(bundle)


@pytest.mark.parametrize("kind", ["logistic", "lightgbm", "blend"])
def test_every_flipped_bit_is_refused(saved, tmp_path, kind):
    folder = Path(shutil.copytree(saved[kind], tmp_path / "bundle"))
    chosen, names = random.Random(7), sorted(path.name for path in folder.iterdir())
    named = "|".join(map(re.escape, names))
    for number in range(60):
        name = names[number % len(names)]
        whole = (folder / name).read_bytes()
        flipped = bytearray(whole)
        flipped[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        (folder / name).write_bytes(flipped)
        # A checksum that was flipped speaks of the file it is the checksum of.
        refused(folder, named if name == "SHA256SUMS" else re.escape(name))
        (folder / name).write_bytes(whole)
    load_bundle(folder)


def test_every_flipped_bit_of_the_checksums_is_refused(bundle):
    """All of them: what reads lines takes more than one sign for the end of a line, more than one for a digit."""
    whole = (bundle / "SHA256SUMS").read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            (bundle / "SHA256SUMS").write_bytes(flipped)
            refused(bundle, "")


@pytest.mark.parametrize(
    "lines",
    [
        lambda lines: [*lines, lines[0]],
        lambda lines: lines[::-1],
        lambda lines: [line for line in lines if "golden" not in line],
        lambda lines: [*lines, "0" * 64 + "  ../../etc/passwd\n"],
        lambda lines: [*lines, "0" * 64 + "  /etc/passwd\n"],
        lambda lines: [*lines, "0" * 64 + "  zero\0\n"],
        lambda lines: [*lines, "0" * 64 + "  ..\n"],
        lambda lines: [line.replace("\n", "\r\n") for line in lines],
    ],
)
def test_changed_checksums_are_refused(bundle, lines):
    path = bundle / "SHA256SUMS"
    path.write_bytes("".join(lines(path.read_text().splitlines(keepends=True))).encode())
    refused(bundle, "(SHA256SUMS is|SHA256SUMS does not name golden|zero.* is missing|.. is missing)")


# Damage, with checksums made to fit: nobody does this by accident, but nothing may end the process.


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("card.json", b"{", "not a bundle of this version"),
        ("card.json", b"\xff", "card.json is not text"),
        ("golden.json", b"{}", "not a bundle of this version"),
        ("golden.json", b"[" * 100_000, "not a bundle of this version"),
        ("features.json", b"[]", "not a feature set"),
        ("model.json", b"null", "model.json cannot be read"),
        ("tiers.json", b"{}", "tiers.json is not a tier policy: .*version"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(bundle, name, raw, says):
    (bundle / name).write_bytes(raw)
    seal(bundle)
    refused(bundle, says)


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        (
            "card.json",
            {"model": "oracle"},
            r"names the kind of model 'oracle'; .* knows base_rate, rules, recency, naive_bayes, logistic",
        ),
        ("card.json", {"model": "lightgbm"}, "model.txt is missing"),
        ("card.json", {"model": "rules"}, "model.json: .* is missing"),
        ("card.json", {"features": "sha256:0"}, "their fingerprints differ"),
        ("card.json", {"percentiles": [0.5]}, "needs 100 percentiles; this one has 1"),
        ("card.json", {"colour": "red"}, "not a bundle of this version of Touchstone: .*colour"),
        ("features.json", {"names": ["age_days"]}, "differ from those the model was trained on"),
        ("features.json", {"features": []}, "differ from those the model was trained on"),
        ("model.json", {"intercept": 1.0}, "the made-up lead golden-0 scores 0"),
        ("tiers.json", {"hot": 0.0}, "tiers.json is not a tier policy"),
    ],
)
def test_a_changed_part_is_refused(bundle, name, changed, says):
    change(bundle, name, **changed)
    refused(bundle, says)


def test_a_model_of_another_width_is_refused(bundle):
    """Compiled loops do not check where they read."""
    parts = json.loads((bundle / "model.json").read_text())
    wider = {name: [*part, *[-1] * 10_000] if isinstance(part, list) else part for name, part in parts.items()}
    (bundle / "model.json").write_text(json.dumps(wider))
    seal(bundle)
    refused(bundle, r"the model predicts rows of \d+ columns; got a matrix of shape")


@pytest.mark.parametrize("row", range(12))
def test_a_changed_golden_probability_is_refused(bundle, row):
    golden = json.loads((bundle / "golden.json").read_text())
    golden[row]["probability"] += 1e-6
    (bundle / "golden.json").write_text(json.dumps(golden))
    seal(bundle)
    refused(bundle, f"the made-up lead golden-{row} scores .* when the model was saved")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(as_of="yesterday"), "'yesterday' is not a time"),
        (dict(lead={"lead_id": "golden-0"}), "neither created_at nor touchpoints"),
        (dict(lead={"lead_id": 5}), "Expected `str`, got `int`"),
        (dict(probability=None), "Expected `float`, got `null`"),
    ],
)
def test_a_golden_lead_that_makes_no_sense_is_refused(bundle, changed, says):
    golden = json.loads((bundle / "golden.json").read_text())
    golden[0].update(changed)
    (bundle / "golden.json").write_text(json.dumps(golden))
    seal(bundle)
    refused(bundle, says)


def test_a_changed_tree_is_found_by_the_golden_leads(trees):
    """LightGBM reads it without complaint."""
    text = (trees / "model.txt").read_text()
    values = re.search(r"\nleaf_value=([^\n]+)", text).group(1)
    # Of the same length, for the text says where each tree ends.
    changed = re.sub(r"0\.(\d)", lambda found: f"0.{(int(found[1]) + 5) % 10}", values)
    (trees / "model.txt").write_text(text.replace(values, changed, 1))
    Booster.from_text((trees / "model.txt").read_text())
    seal(trees)
    refused(trees, "the made-up lead golden-\\d+ scores .* when the model was saved")


def test_a_flipped_tree_is_refused_or_scores_the_same(trees):
    text = (trees / "model.txt").read_bytes()
    end, chosen, outcomes = text.index(b"end of trees"), random.Random(3), []
    for _ in range(16):
        flipped = bytearray(text)
        flipped[chosen.randrange(end)] ^= 1 << chosen.randrange(8)
        (trees / "model.txt").write_bytes(flipped)
        seal(trees)
        try:
            loaded = load_bundle(trees)
        except ModelError as problem:
            outcomes.append("golden" if "made-up lead" in str(problem) else "damaged")
        else:
            outcomes.append("same")
            assert isinstance(loaded.model, LightGBM)
    assert outcomes.count("damaged") >= 3


# The tier policy.


def test_another_policy_leaves_the_model_as_it_is(bundle):
    before, digest = load_bundle(bundle), bundle_digest(bundle)
    tiers = Tiers(version="2027-01-01", warm=0.01, hot=0.02)
    replace_tiers(bundle, tiers)
    after = load_bundle(bundle)
    assert after.tiers == tiers != before.tiers
    assert bundle_digest(bundle) == digest
    assert sorted(path.name for path in bundle.iterdir()) == FILES
    assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle).returncode == 0
    change(bundle, "card.json", version="2")
    assert bundle_digest(bundle) != digest


def test_every_kind_of_model_has_a_digest_of_its_own(saved):
    assert len({bundle_digest(folder) for folder in saved.values()}) == len(MODELS)


# What tables may hold.


def test_a_name_too_long_for_a_record_does_not_spoil_the_bundle(tmp_path):
    """Tables take channels, actions and attributes of any length: an action may be the address of a page."""
    long = "a" * 300
    history = History.build(
        1, *(np.zeros(2, np.int64),) * 3, np.array([0, 1], np.int32), np.zeros(2), [Kind("web", long), Kind("web")],
        np.array([-1, -1]), np.zeros(2, bool),
    )  # fmt: skip
    attributes = Attributes.build(
        1, {long: [1.0], "size": [1.0]}, *(np.zeros(0, np.int64),) * 3, np.empty(0, object), np.empty(0, object)
    )
    ids, created = np.array(["a"], object), np.zeros(1, np.int64)
    dataset = Dataset(ids, created, np.full(1, NEVER), history, attributes, Outcomes.none())
    whole = small.scorer("logistic")
    features = FeatureSet.fit(whole.features.features, dataset)
    assert f"web_{long}_decayed_7d" in features.names and f"lead_{long}" in features.names
    size = len(features.names)
    zeros, ones = np.zeros(size), np.ones(size)
    model = type(whole.model)(zeros, ones, ones, zeros, 0.5, features.stand_in)
    card = type(whole.card)(**{**{n: getattr(whole.card, n) for n in whole.card.__struct_fields__},
                               "features": features.fingerprint})  # fmt: skip
    scorer = replace(whole, features=features, model=model, card=card)
    assert isinstance(load_bundle(save_bundle(scorer, tmp_path / "bundle")), Scorer)
