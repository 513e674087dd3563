"""Logistic regression: mean(log1p(exp(-y * (X @ w)))) and a small L2 penalty."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .workload import Bar, Call, Workload, into

PENALTY = 1e-3


@njit(error_model="numpy", cache=True)
def _value_and_gradient(w, x, y, margins, gradient):
    n = y.size
    np.dot(x, w, margins)
    total = 0.0
    for i in range(n):
        e = math.exp(-y[i] * margins[i])
        total += math.log1p(e)
        margins[i] = -y[i] * (e / (1.0 + e)) / n
    np.dot(margins, x, gradient)
    squares = 0.0
    for j in range(w.size):
        squares += w[j] * w[j]
        gradient[j] += 2.0 * PENALTY * w[j]
    return total / n + PENALTY * squares


class Logistic(Workload):
    """A matrix-vector product, exponentials and logarithms, and the product's transpose."""

    bars = (Bar("jax"), Bar("hand", 1.2))

    def __init__(self, rows: int = 1000, columns: int = 20) -> None:
        rng = np.random.default_rng(3)
        self.name = f"logistic {rows}x{columns}"
        self.x = rng.standard_normal((rows, columns))
        self.y = np.where(self.x @ rng.standard_normal(columns) > 0, 1.0, -1.0)
        self.point = rng.standard_normal(columns) / math.sqrt(columns)
        self.slow = frozenset({"casadi-gcc"})

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        x, y = constant(self.x), constant(self.y)

        def loss(w: Any) -> Any:
            return xp.mean(xp.log1p(xp.exp(-y * (x @ w)))) + PENALTY * xp.sum(w * w)

        return loss

    def hand(self) -> Call:
        margins, gradient = np.empty_like(self.y), np.empty_like(self.point)
        arguments = (self.point, self.x, self.y, margins, gradient)
        return into(_value_and_gradient, arguments, [gradient])

    def casadi(self, ca: Any) -> Any:
        w = ca.MX.sym("w", self.point.size)
        margins = ca.DM(self.y) * ca.mtimes(ca.DM(self.x), w)
        return [w], ca.sum1(ca.log1p(ca.exp(-margins))) / self.y.size + PENALTY * ca.sumsqr(w)
