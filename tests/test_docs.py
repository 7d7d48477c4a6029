"""The written pages say what the code says, and the examples of the code are true."""

import doctest
import inspect
import re
from dataclasses import fields
from importlib import import_module
from pkgutil import walk_packages

import pytest

import features
import models
import serving
import training
from features import FEATURES, docs

PACKAGES = (features, models, serving, training)
MODULES = [
    module.name
    for package in PACKAGES
    for module in walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
PUBLIC = [
    found
    for package in PACKAGES
    for found in (getattr(package, name) for name in package.__all__)
    if inspect.isclass(found)
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_are_true(module):
    assert doctest.testmod(import_module(module)).failed == 0


@pytest.mark.parametrize("found", PUBLIC, ids=lambda found: found.__name__)
def test_every_public_class_has_an_example(found):
    # Its own: a class without a docstring would show that of its parent.
    examples = doctest.DocTestParser().get_examples(vars(found).get("__doc__") or "")
    assert [example for example in examples if doctest.SKIP not in example.options]


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


@pytest.mark.parametrize("page", sorted(docs.FOLDER.rglob("*.md")), ids=lambda page: page.stem)
def test_what_the_examples_of_a_page_import_is_there(page):
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec("\n".join(re.findall(r"^(?:from|import) .*", example, re.MULTILINE)), {})


def test_what_the_page_on_scale_quotes_was_measured():
    measured = (docs.FOLDER.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")
    ((ratio,),) = [re.findall(r"\| ([\d.]+)x", row) for row in measured.splitlines() if "three reasons each" in row]
    page = (docs.FOLDER / "scale.md").read_text(encoding="utf-8")
    assert f"three reasons a lead cost {float(ratio):.1f} times the plain list" in page
