"""Whether models can be used here, as `touchstone doctor` tells it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from features.errors import ModelError
from features.health import Check, attempt
from models.bundle import load_bundle


def models(folder: Path) -> Iterator[Check]:
    """Checks that LightGBM loads, which training needs, and that the model in a folder scores as when it was saved."""
    yield attempt("lightgbm", _lightgbm)
    yield attempt("model", lambda: _model(folder))


def _lightgbm() -> Check:
    try:
        found = import_module("lightgbm")
    except ImportError:
        raise ModelError("LightGBM is not installed here. Install it with: pip install lightgbm") from None
    except OSError as problem:
        if "libgomp" in str(problem) or "libomp" in str(problem):
            raise ModelError(
                "LightGBM needs the OpenMP library, which this machine lacks. Install libgomp1 (Debian, Ubuntu), "
                f"libgomp (Fedora, Alpine) or libomp (Homebrew). The system says: {problem}"
            ) from None
        raise ModelError(f"LightGBM does not load. Install it again. Reason: {problem}") from None
    return Check("lightgbm", "ok", f"LightGBM {found.__version__} can train")


def _model(folder: Path) -> Check:
    card = load_bundle(folder).card
    says = f"{card.name} {card.version} ({card.model}) in {folder} is whole and scores its made-up leads as before"
    return Check("model", "ok", says)
