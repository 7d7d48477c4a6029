"""The written pages say what the code says."""

from dataclasses import fields

import pytest

from features import FEATURES, docs


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_page_is_current(name):
    """After a change of a declaration: python -m features.docs."""
    assert (docs.FOLDER / name).read_text(encoding="utf-8") == docs.PAGES[name]()


def test_every_parameter_is_explained():
    assert set(docs.PARAMETERS) == {field.name for kind in FEATURES.values() for field in fields(kind)}


@pytest.mark.parametrize("kind", FEATURES.values(), ids=FEATURES.keys())
def test_every_kind_of_feature_is_explained(kind):
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")


def test_the_pages_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "FOLDER", tmp_path)
    docs.main()
    assert {path.name for path in tmp_path.iterdir()} == set(docs.PAGES)
