"""A model on disk: a folder of text and JSON files with their checksums, never a pickle.

    SHA256SUMS      the checksum of every file, as `sha256sum --check` reads it
    card.json       what the model is and how it came to be
    features.json   the declared features with their vocabulary
    model.*         the model itself
    calibration.json  a curve over its probabilities, if the past proved one better
    golden.json     made-up leads and their probabilities, scored again at every load
    tiers.json      the tier policy: beside the model, may be replaced without changing its digest

Loading trusts nothing: every byte is checked, a tree has to hold together, and the golden leads must come out as they
did when the model was saved.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp

import msgspec
import numpy as np

from features.errors import ModelError, TouchstoneError
from features.feature import FeatureSet, Reading
from features.history import Cohort, Floats
from features.records import LONGEST, AttributeFact, LeadRecord, Touchpoint, Value, dataset_of
from features.times import to_datetime, to_us
from models.calibration import calibrated, curve_from_files
from models.candidates import MODELS
from models.scorer import Card, Scorer
from models.tiers import Tiers

SUMS, GOLDEN = "SHA256SUMS", "golden.json"
_CARD, _FEATURES, _TIERS = "card.json", "features.json", "tiers.json"
_TOLERANCE = 1e-9
"""How far a golden probability may be off: another machine's exp and log may differ in the last bit."""


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A made-up lead and the probability it had when the model was saved."""

    lead: LeadRecord
    as_of: str
    probability: float


def save_bundle(scorer: Scorer, folder: Path) -> Path:
    """Writes a model to a new folder, all of it or nothing."""
    if folder.exists():
        raise ModelError(f"{folder} is there already. A bundle is never overwritten; choose another folder.")
    files = {
        _CARD: _json(scorer.card),
        _FEATURES: scorer.features.to_json(),
        **scorer.model.to_files(),
        GOLDEN: _json(_golden(scorer)),
        _TIERS: scorer.tiers.to_json(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(dir=folder.parent, prefix=".bundle-"))
    try:
        for name, text in files.items():
            _write(scratch / name, text)
        _write(scratch / SUMS, _sums_text({name: _sum(text.encode()) for name, text in files.items()}))
        scratch.chmod(0o755)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder


def load_bundle(folder: str | os.PathLike[str]) -> Scorer:
    """Reads a model; raises ModelError with the reason if a byte of it is not as it was saved."""
    path = Path(folder)
    files = _checked_files(path)
    try:
        card = msgspec.json.decode(files[_CARD], type=Card)
        golden = msgspec.json.decode(files[GOLDEN], type=tuple[Golden, ...])
    except (msgspec.DecodeError, RecursionError) as problem:
        raise ModelError(f"{path}: not a bundle of this version of Touchstone: {problem}.") from None
    if card.model not in MODELS:
        raise ModelError(
            f"{path}: {_CARD} names the kind of model {card.model!r}; this version of Touchstone knows "
            f"{', '.join(MODELS)}. Use the version that wrote the model."
        )
    try:
        features = FeatureSet.from_json(files[_FEATURES])
        model = calibrated(MODELS[card.model].from_files(files), curve_from_files(files))
        digest = _digest({name: _sum(text.encode()) for name, text in files.items()})
        scorer = Scorer(features, model, card, Tiers.from_json(files[_TIERS]), digest)
        _replay(scorer, golden)
    except TouchstoneError as problem:
        raise ModelError(f"{path}: {problem}") from None
    return scorer


def bundle_digest(folder: Path) -> str:
    """The SHA-256 of everything in a bundle but its tier policy: what the model is, in one word."""
    return _digest(_read_sums(folder))


def pack_bundle(folder: Path) -> bytes:
    """Puts a whole bundle, every byte of which is checked, into one piece; raises ModelError if it is damaged."""
    return zlib.compress(msgspec.json.encode(_checked_files(folder)))


def unpack_bundle(packed: bytes, folder: Path) -> None:
    """Writes a bundle that was packed into a folder that is there and empty. Raises ModelError if it is none."""
    try:
        files = msgspec.json.decode(zlib.decompress(packed), type=dict[str, str])
    except (zlib.error, msgspec.DecodeError) as problem:
        raise ModelError(f"what was packed is no bundle: {problem}.") from None
    sums = {name: _sum(text.encode()) for name, text in files.items()}
    for name, text in {**files, SUMS: _sums_text(sums)}.items():
        if name != Path(name).name:
            raise ModelError(f"what was packed is no bundle: it holds {name[:80]!r}.")
        _write(folder / name, text)


def replace_tiers(folder: Path, tiers: Tiers) -> None:
    """Puts another tier policy beside a model."""
    sums = _read_sums(folder)
    sums[_TIERS] = _sum(tiers.to_json().encode())
    for name, text in (
        (_TIERS, tiers.to_json()),
        (SUMS, _sums_text(sums)),
    ):
        _write(folder / f".{name}", text)
        (folder / f".{name}").replace(folder / name)


def _checked_files(folder: Path) -> dict[str, str]:
    """The text of every file, after comparing its checksum."""
    files = {}
    for name, expected in _read_sums(folder).items():
        try:
            raw = (folder / name).read_bytes()
        except (OSError, ValueError):
            raise ModelError(f"{folder}: {name} is missing. Copy the whole folder again.") from None
        if _sum(raw) != expected:
            raise ModelError(
                f"{folder}: {name} is not as it was saved (SHA-256 {_sum(raw)[:12]}..., expected {expected[:12]}...). "
                "Copy the folder again, or train anew."
            )
        try:
            files[name] = raw.decode()
        except UnicodeDecodeError as problem:
            raise ModelError(f"{folder}: {name} is not text ({problem}). Copy the folder again.") from None
    return files


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        text = (folder / SUMS).read_bytes().decode("ascii")
    except FileNotFoundError:
        raise ModelError(f"{folder}: no model is here ({SUMS} is missing). {_how_to_get_one(folder)}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelError(f"{folder}: {SUMS} cannot be read ({problem}).") from None
    sums = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or name != Path(name).name:
            raise ModelError(f"{folder}: {SUMS} is damaged at {line[:80]!r}. Copy the folder again.")
        sums[name] = digest
    if text != _sums_text(sums):
        raise ModelError(f"{folder}: {SUMS} is not as it was saved. Copy the folder again.")
    missing = {_CARD, _FEATURES, GOLDEN, _TIERS} - set(sums)
    if missing:
        raise ModelError(f"{folder}: {SUMS} does not name {', '.join(sorted(missing))}. Copy the folder again.")
    return sums


def _how_to_get_one(folder: Path) -> str:
    """What to do where there is no model; a challenger may lie beside it that training did not find worthy."""
    challenger = folder.with_name("challenger")
    if folder.name != "champion" or not (challenger / SUMS).exists():
        return "Train one with `touchstone train`."
    version = challenger.resolve().name
    return (
        f"Version {version} was trained, but not promoted: make it the champion with `touchstone promote --force`, or "
        f"use it with --model {folder.with_name(version)}."
    )


def _digest(sums: Mapping[str, str]) -> str:
    return _sum("".join(f"{s} {n}\n" for n, s in sorted(sums.items()) if n != _TIERS).encode())


def _sums_text(sums: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def _golden(scorer: Scorer) -> tuple[Golden, ...]:
    """Scores leads made up of kinds and words the model knows, by a fixed lot; no real lead goes into a bundle.

    Names longer than a record may hold are left out: tables take them, and a bundle must load again.
    """
    as_of = to_datetime(to_us(scorer.card.known_until))
    rng = np.random.default_rng(0)
    vocabulary = scorer.features.vocabulary
    names = {name for names in vocabulary.groups.values() for name in names}
    channels = sorted(name for name in names if len(name) <= LONGEST) or ["none"]
    leads = []
    for i in range(12):
        created = as_of - timedelta(days=float(rng.integers(1, 400)), seconds=int(rng.integers(86_400)))
        touches = tuple(
            Touchpoint(
                occurred_at=as_of - timedelta(seconds=int(rng.integers(1, 200 * 86_400))),
                channel=channels[int(k)],
                value=float(rng.integers(100)) if rng.random() < 0.5 else None,
            )
            for k in rng.integers(len(channels), size=3 * i)
        )
        attributes = {
            name: _made_up(reading, rng) for name, reading in vocabulary.attributes.items() if len(name) <= LONGEST
        }
        facts = tuple(
            AttributeFact(as_of - timedelta(days=1), name, value) for name, value in list(attributes.items())[: i % 3]
        )
        leads.append(
            LeadRecord(
                lead_id=f"golden-{i}",
                created_at=created,
                attributes=attributes,
                attribute_facts=facts,
                touchpoints=touches,
            )
        )
    probability = _score_alone(scorer, leads, scorer.card.known_until)
    return tuple(Golden(lead, scorer.card.known_until, float(p)) for lead, p in zip(leads, probability, strict=True))


def _made_up(reading: Reading, rng: np.random.Generator) -> Value:
    """A value of an attribute that is read in some way; of words, now and then one never seen."""
    if reading == "number":
        return float(rng.normal())
    if reading == "flag":
        return bool(rng.random() < 0.5)
    if reading == "date":
        return f"{2000 + int(rng.integers(25))}-06-01"
    return (*reading, "never seen")[int(rng.integers(len(reading) + 1))]


def _score_alone(scorer: Scorer, leads: Sequence[LeadRecord], as_of: str) -> Floats:
    return scorer.predict(dataset_of(leads), Cohort.at(np.arange(len(leads)), as_of))


def _replay(scorer: Scorer, golden: Sequence[Golden]) -> None:
    for row in golden:
        got = float(_score_alone(scorer, [row.lead], row.as_of)[0])
        if not abs(got - row.probability) <= _TOLERANCE:
            raise ModelError(
                f"the made-up lead {row.lead.lead_id} scores {got!r} here, but {row.probability!r} when the model was "
                "saved. The features or libraries of this machine differ; train anew here."
            )


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _sum(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
