"""sum(sin(x) * x) of four numbers: nothing but the cost of a call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .workload import Call, Workload, into


@njit(error_model="numpy", cache=True)
def _value_and_gradient(x, gradient):
    total = 0.0
    for i in range(x.size):
        sine = math.sin(x[i])
        total += sine * x[i]
        gradient[i] = sine + x[i] * math.cos(x[i])
    return total


class Small(Workload):
    """A function so small that only the way into it and out of it counts."""

    name = "sum(sin(x)*x), n=4"

    def __init__(self, n: int = 4) -> None:
        self.point = np.random.default_rng(1).uniform(-1, 1, n)

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        return lambda x: xp.sum(xp.sin(x) * x)

    def hand(self) -> Call:
        gradient = np.empty_like(self.point)
        return into(_value_and_gradient, (self.point, gradient), [gradient])

    def casadi(self, ca: Any) -> Any:
        x = ca.SX.sym("x", self.point.size)
        return [x], ca.sum1(ca.sin(x) * x)
