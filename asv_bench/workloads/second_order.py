"""Second derivatives of other workloads: Hessian-vector products and dense Hessians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .logistic import PENALTY, Logistic
from .rosenbrock import RosenbrockVectors
from .workload import Bar, Call, Workload


@njit(error_model="numpy", cache=True)
def _rosenbrock_product(x, v, product):
    carried = 0.0
    for i in range(x.size - 1):
        diagonal = 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + 2.0
        product[i] = carried + diagonal * v[i] - 400.0 * x[i] * v[i + 1]
        carried = -400.0 * x[i] * v[i] + 200.0 * v[i + 1]
    product[x.size - 1] = carried


@njit(error_model="numpy", cache=True)
def _rosenbrock_hessian(x, hessian):
    hessian[:] = 0.0
    for i in range(x.size - 1):
        hessian[i, i] += 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + 2.0
        hessian[i, i + 1] = hessian[i + 1, i] = -400.0 * x[i]
        hessian[i + 1, i + 1] += 200.0


@njit(error_model="numpy", cache=True)
def _curvatures(w, x, y, curvatures):
    np.dot(x, w, curvatures)
    n = y.size
    for i in range(n):
        e = math.exp(-y[i] * curvatures[i])
        p = 1.0 / (1.0 + e)
        curvatures[i] = p * (e * p) / n


@njit(error_model="numpy", cache=True)
def _logistic_product(w, v, x, y, curvatures, along, product):
    _curvatures(w, x, y, curvatures)
    np.dot(x, v, along)
    for i in range(y.size):
        along[i] *= curvatures[i]
    np.dot(along, x, product)
    for j in range(w.size):
        product[j] += 2.0 * PENALTY * v[j]


@njit(error_model="numpy", cache=True)
def _logistic_hessian(w, x, y, curvatures, scaled, hessian):
    _curvatures(w, x, y, curvatures)
    for i in range(y.size):
        for j in range(w.size):
            scaled[i, j] = curvatures[i] * x[i, j]
    np.dot(x.T, scaled, hessian)
    for j in range(w.size):
        hessian[j, j] += 2.0 * PENALTY


class SecondOrder(Workload):
    """A second derivative of another workload, whose point is one array.

    ``vector`` is the direction of a Hessian-vector product, ``None`` for the whole Hessian.
    """

    slow = frozenset({"casadi-gcc", "torch", "autograd"})

    def __init__(self, base: Workload, product: bool, bars: tuple[Bar, ...]) -> None:
        self.base = base
        self.point = base.point
        what = "Hessian times vector" if product else "dense Hessian"
        self.name = f"{what}: {base.name}"
        self.bars = bars
        n = base.point.size
        self.vector = np.random.default_rng(6).standard_normal(n) if product else None
        self.result = np.empty(n) if product else np.empty((n, n))

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        return self.base.function(xp, constant)

    def casadi(self, ca: Any) -> Any:
        return self.base.casadi(ca)

    def hand(self) -> Call:
        x, result = self.point, self.result
        if isinstance(self.base, Logistic):
            data, labels = self.base.x, self.base.y
            work = (np.empty_like(labels), np.empty_like(data))
            if self.vector is None:
                function, arguments = _logistic_hessian, (x, data, labels, *work, result)
            else:
                along = np.empty_like(labels)
                function = _logistic_product
                arguments = (x, self.vector, data, labels, work[0], along, result)
        elif self.vector is None:
            function, arguments = _rosenbrock_hessian, (x, result)
        else:
            function, arguments = _rosenbrock_product, (x, self.vector, result)
        return Call(function, arguments, lambda _: (0.0, [result]))


def rosenbrock_product() -> SecondOrder:
    """Rosenbrock's Hessian times a vector, n = 100."""
    return SecondOrder(RosenbrockVectors(100), True, (Bar("casadi"),))


def rosenbrock_hessian() -> SecondOrder:
    """Rosenbrock's Hessian, n = 100."""
    return SecondOrder(RosenbrockVectors(100), False, (Bar("jax", 1.5),))


def logistic_product() -> SecondOrder:
    """The Hessian of logistic regression times a vector."""
    return SecondOrder(Logistic(), True, (Bar("hand", 1.3),))


def logistic_hessian() -> SecondOrder:
    """The Hessian of logistic regression."""
    return SecondOrder(Logistic(), False, (Bar("jax"),))
