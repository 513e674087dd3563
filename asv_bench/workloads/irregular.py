"""A generated scalar program without pattern: what an unpredictable sequence of op codes costs.

Operations of twenty kinds in random order; operands are uniform over the last ``REACH`` results.
Each result is kept within ``LOW`` to ``HIGH`` in magnitude, by drawing operands anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .workload import Workload

KINDS = (
    "add", "subtract", "multiply", "divide", "negative", "square", "reciprocal", "absolute",
    "maximum", "minimum", "fmax", "fmin", "copysign", "sqrt", "where", "arctan", "tanh", "sin",
    "cos", "expm1",
)  # fmt: skip
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "fmax", "fmin", "copysign",
)  # fmt: skip
OPERANDS = dict.fromkeys(KINDS, 1) | dict.fromkeys(BINARY, 2) | {"where": 3}
REACH = 10_000
LOW, HIGH = 0.05, 4.0
LAST = 1_000


class Irregular(Workload):
    """``size`` scalar operations of four numbers, summed over the last thousand."""

    def __init__(self, size: int = 100_000, seed: int = 9) -> None:
        self.name = f"{size} scalar operations in random order"
        self.size = self.nodes = size
        self.point = np.array([0.4, -1.3, 0.8, 2.1])
        self.program = _generated(size, np.random.default_rng(seed), self.point)

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        operations = [(getattr(xp, KINDS[kind]), *operands) for kind, *operands in self.program]

        def run(x: Any) -> Any:
            values = [x[0], x[1], x[2], x[3]]
            for operation, *operands in operations:
                values.append(operation(*[values[i] for i in operands]))
            total = 0.0
            for value in values[-LAST:]:
                total = total + value
            return total

        return run


def _generated(size: int, rng: np.random.Generator, point: np.ndarray) -> list[tuple]:
    values = list(point)
    program = []
    kinds = rng.integers(len(KINDS), size=size).tolist()
    with np.errstate(all="ignore"):
        for kind in kinds:
            name = KINDS[kind]
            function = getattr(np, name)
            for _ in range(1000):
                first = max(0, len(values) - REACH)
                operands = rng.integers(first, len(values), OPERANDS[name]).tolist()
                value = float(function(*[values[i] for i in operands]))
                if LOW <= abs(value) <= HIGH:
                    break
            values.append(value)
            program.append((kind, *operands))
    return program
