"""The examples: each runs, quickly, and shows what it says it shows."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs an example and returns what it printed."""

    def run(name: str) -> str:
        began = time.perf_counter()
        load(name).main()
        assert time.perf_counter() - began < 60.0
        return capsys.readouterr().out

    return run


def test_every_example_is_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    here = {
        "custom_rules",
        "logistic_regression",
        "lotka_volterra",
        "neural_network",
        "neural_ode",
        "recurrent_network",
        "rosenbrock",
    } | {"burgers"}
    assert names == here | {"first_lecture"}  # which test_lecture.py runs


def test_lotka_volterra(example: Any) -> None:
    printed = example("lotka_volterra")
    estimates = dict(re.findall(r"^(\w+)\s+([\d.]+) ±", printed, re.MULTILINE))
    published = {"alpha": 0.55, "beta": 0.028, "gamma": 0.80, "delta": 0.024}
    for name, value in published.items():
        assert float(estimates[name]) == pytest.approx(value, rel=0.05)


def test_logistic_regression(example: Any) -> None:
    printed = example("logistic_regression")
    assert float(re.search(r"largest difference of a weight: (\S+)", printed)[1]) < 1e-6
    assert float(re.search(r"training data: ([\d.]+)%", printed)[1]) > 98.0


def test_neural_network(example: Any) -> None:
    printed = example("neural_network")
    assert float(re.search(r"unseen images: ([\d.]+)%", printed)[1]) > 96.0


def test_neural_ode(example: Any) -> None:
    printed = example("neural_ode")
    assert int(re.search(r"the training: (\d+) rows", printed)[1]) < 10
    assert float(re.search(r"unseen trajectories: ([\d.]+)", printed)[1]) < 0.05


def test_recurrent_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    load("recurrent_network").main(steps=2000, iterations=60)
    printed = capsys.readouterr()
    stored = float(re.search(r"everything stored: ([\d.]+) MB", printed.out)[1])
    assert float(re.search(r"with Memory.*: ([\d.]+) MB", printed.out)[1]) < 0.6 * stored
    error = float(re.search(r"error on unseen values.*: ([\d.]+)%", printed.out)[1])
    again = float(re.search(r"last value again: ([\d.]+)%", printed.out)[1])
    assert error < 0.2 * again
    assert "60/60" in printed.err


def test_rosenbrock(example: Any) -> None:
    rows = [line.split() for line in example("rosenbrock").splitlines()]
    errors = {row[0]: float(row[-1]) for row in rows if row[1:2] == ["tapejit"]}
    assert set(errors) == {"BFGS", "L-BFGS-B", "Newton-CG", "trust-ncg", "trust-krylov"}
    assert max(errors.values()) < 1e-4


def test_burgers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tqdm's watching thread would allocate while other tests count allocations.
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)
    load("burgers").main(tmp_path / "burgers.png", steps=3000, iterations=30, compared=400)
    printed = capsys.readouterr().out
    distances = dict(re.findall(r"^(\w+) field, .*: ([\d.]+)%", printed, re.MULTILINE))
    assert float(distances["recovered"]) < 6.0 < float(distances["observed"])
    rows = re.findall(r"^(\w+) +([\d.]+) MB +[\d.]+ s$", printed, re.MULTILINE)
    sizes = {kind: [float(size) for k, size in rows if k == kind] for kind, _ in rows}
    assert list(sizes) == ["StoreAll", "Uniform", "Revolve", "Online", "TwoLevel", "Memory"]
    assert max(max(sizes[kind]) for kind in sizes if kind != "StoreAll") <= sizes["StoreAll"][0]
    assert (tmp_path / "burgers.png").stat().st_size > 10_000


def test_custom_rules(example: Any) -> None:
    printed = example("custom_rules")
    slopes = [float(x) for x in re.search(r"e = 0.3: \[(.*)\]", printed)[1].split()]
    module = load("custom_rules")
    step = 1e-5
    for i, slope in enumerate(slopes):
        ends = [[1.0 + s * (i == 0), 0.3 + s * (i == 1)] for s in (step, -step)]
        above, below = (module.distance(*end) for end in ends)
        assert slope == pytest.approx((above - below) / (2.0 * step), abs=1e-6)
    assert 0.05 < float(re.search(r"best rate is (\S+)", printed)[1]) < 0.3
    assert float(re.search(r"slope at 3: (\S+)", printed)[1]) == pytest.approx(0.922784)
