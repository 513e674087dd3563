"""Rosenbrock's function, as a scalar Python loop and with array operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .workload import Bar, Call, Workload, into


@njit(error_model="numpy", cache=True)
def _value_and_gradient(x, gradient):
    total = 0.0
    carried = 0.0
    for i in range(x.size - 1):
        a = x[i + 1] - x[i] * x[i]
        b = 1.0 - x[i]
        total += 100.0 * (a * a) + b * b
        gradient[i] = carried - 400.0 * a * x[i] - 2.0 * b
        carried = 200.0 * a
    gradient[x.size - 1] = carried
    return total


class _Rosenbrock(Workload):
    def __init__(self, n: int) -> None:
        self.n = n
        self.point = np.random.default_rng(2).uniform(-1.5, 1.5, n)

    def hand(self) -> Call:
        gradient = np.empty_like(self.point)
        return into(_value_and_gradient, (self.point, gradient), [gradient])


class RosenbrockLoop(_Rosenbrock):
    """One scalar at a time, as a textbook writes it."""

    name = "Rosenbrock loop, n=1000"
    bars = (Bar("casadi"),)
    slow = frozenset({"jax-unrolled", "casadi-gcc"})
    hopeless = frozenset({"jax"})

    def __init__(self, n: int = 1000) -> None:
        super().__init__(n)

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        n = self.n

        def rosenbrock(x: Any) -> Any:
            total = 0.0
            for i in range(n - 1):
                a = x[i + 1] - x[i] * x[i]
                b = 1.0 - x[i]
                total = total + (100.0 * (a * a) + b * b)
            return total

        return rosenbrock

    def casadi(self, ca: Any) -> Any:
        x = ca.SX.sym("x", self.n)
        return [x], self.function(ca)(x)


class RosenbrockVectors(_Rosenbrock):
    """The same function on slices."""

    def __init__(self, n: int = 1000) -> None:
        super().__init__(n)
        self.name = f"Rosenbrock vectors, n={n}" if n < 10**6 else "Rosenbrock vectors, n=10^6"
        self.bars = (Bar("jax", 0.5),) if n < 10**6 else (Bar("jax"),)
        self.slow = frozenset({"casadi-gcc"}) if n < 10**6 else frozenset({"casadi"})
        if n >= 10**6:
            self.hopeless = frozenset({"jax-unrolled", "casadi-gcc"})

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        def rosenbrock(x: Any) -> Any:
            return xp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)

        return rosenbrock

    def casadi(self, ca: Any) -> Any:
        x = ca.SX.sym("x", self.n)
        return [x], ca.sum1(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
