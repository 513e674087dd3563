"""Docstrings: every public name has one, and their examples print what they say."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import tapejit as tj

MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(tj.__path__, "tapejit.")
    if not found.name.endswith("__main__")
)
PUBLIC = sorted(
    name for name, value in vars(tj).items() if not name.startswith("_") and callable(value)
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder(exclude_empty=True).find(module)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "\n".join(report)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    value = getattr(tj, name)
    text = inspect.getdoc(value)
    assert text and text.splitlines()[0].strip()
    if inspect.isclass(value) and issubclass(value, Exception):
        return
    assert ">>> " in text, "an example"
    if inspect.isfunction(value):
        for parameter in inspect.signature(value).parameters.values():
            assert parameter.annotation is not parameter.empty, parameter.name
        assert inspect.signature(value).return_annotation is not inspect.Signature.empty
