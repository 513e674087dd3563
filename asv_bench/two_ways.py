"""What an operation costs in the two ways of building the graph, value and gradient together.

    python asv_bench/two_ways.py [--quick]

Explicit construction records a function once and replays its tape; implicit construction (tensors)
records at every run.  Each round times every way once; the table has medians over rounds, divided
by the number of operations.  The gradients are compared first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np
from comparison.peers import installed
from comparison.rounds import QUICK, Effort, interleave
from comparison.units import seconds, table
from workloads import Call, LotkaVolterra, Small

import tapejit as tj


def tiny_in_torch(x: Any) -> Any:
    """``sum(sin(x) * x)`` with PyTorch's functions."""
    return (x.sin() * x).sum()


def short(x: Any) -> Any:
    """100 operations on an array: half of them cost something, half next to nothing."""
    for _ in range(50):
        x = np.sin(x) * x
    return x.sum()


def short_in_torch(x: Any) -> Any:
    """The same with PyTorch's functions."""
    for _ in range(50):
        x = x.sin() * x
    return x.sum()


def regression(rows: int = 50, columns: int = 5) -> tuple[np.ndarray, Callable, Callable]:
    """Mean squares of a linear model: a point, the function, and it in PyTorch."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(rows, columns)), rng.normal(size=rows)

    def squares(w: Any) -> Any:
        return np.mean((features @ w - targets) ** 2)

    def squares_in_torch(w: Any) -> Any:
        import torch

        x, y = torch.from_numpy(features), torch.from_numpy(targets)
        return ((x @ w - y) ** 2).mean()

    return rng.normal(size=columns), squares, squares_in_torch


class Ways:
    """One function, differentiated in each way; ``pytorch`` is its counterpart there."""

    def __init__(
        self, title: str, operations: int, point: np.ndarray, f: Callable, pytorch: Callable
    ) -> None:
        self.title = title
        self.operations = operations
        self.point = point
        self.f = f
        self.pytorch = pytorch
        self.replayed = tj.value_and_grad(f)

    def record(self) -> tuple[float, np.ndarray]:
        """Explicit, the first call: record, lay out, sweep."""
        return tj.value_and_grad(lambda x: self.f(x))(self.point)

    def replay(self) -> tuple[float, np.ndarray]:
        """Explicit, any later call."""
        return self.replayed(self.point)

    def run(self) -> tuple[float, np.ndarray]:
        """Implicit, whose structure was seen before."""
        x = tj.tensor(self.point, requires_grad=True)
        y = self.f(x)
        y.backward()
        return y.item(), x.grad.numpy()

    def run_pytorch(self) -> tuple[float, np.ndarray]:
        """Implicit, in PyTorch."""
        import torch

        x = torch.tensor(self.point, requires_grad=True)
        y = self.pytorch(x)
        y.backward()
        return y.item(), x.grad.numpy()

    def measure(self, effort: Effort) -> dict[str, float]:
        """Seconds for one value and gradient in each way."""
        ways = {"record": self.record, "replay": self.replay, "tensors": self.run}
        if installed("torch"):
            ways["PyTorch"] = self.run_pytorch
        results = [way() for way in ways.values()]
        for value, gradient in results[1:]:
            assert np.isclose(value, results[0][0], rtol=1e-9)
            assert np.allclose(gradient, results[0][1], rtol=1e-9)
        calls = {name: Call(way, (), lambda result: result) for name, way in ways.items()}
        return {name: median(times) for name, times in interleave(calls, effort).items()}


def workloads() -> list[Ways]:
    """Few and many operations, on scalars and on arrays."""
    small, loop = Small(), LotkaVolterra()
    final, array = loop.function(np), np.linspace(0.0, 1.0, 10**5)
    return [
        Ways("sum(sin(x) * x), n = 4", 3, small.point, small.function(np), tiny_in_torch),
        Ways("mean((X @ w - y) ** 2), X 50 x 5", 4, *regression()),
        Ways("100 operations on 100 numbers", 101, array[::1000].copy(), short, short_in_torch),
        Ways("100 operations on 10⁵ numbers", 101, array, short, short_in_torch),
        Ways(f"{loop.nodes:,} operations on scalars", loop.nodes, loop.point, final, final),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    effort = QUICK if parser.parse_args().quick else Effort()
    rows = []
    for ways in workloads():
        taken = ways.measure(effort)
        per_operation = {name: time / ways.operations for name, time in taken.items()}
        rows.append([ways.title, *(seconds(time) for time in per_operation.values())])
    print("value and gradient, time for one operation")
    print(table(["", *taken], rows))


if __name__ == "__main__":
    main()
