"""Lotka–Volterra: classical Runge–Kutta steps in a scalar Python loop, four rates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .workload import Bar, Call, Workload, into

START = (1.0, 0.7)
STEP = 0.01
#: Scalar operations of one step, as written in :meth:`LotkaVolterra.function`.
NODES_PER_STEP = 56


@njit(error_model="numpy", cache=True, inline="always")
def _rates(u, v, a, b, c, d):
    return a * u - b * u * v, d * u * v - c * v


@njit(error_model="numpy", cache=True)
def _value_and_gradient(rates, h, us, vs, gradient):
    a, b, c, d = rates[0], rates[1], rates[2], rates[3]
    half, sixth = 0.5 * h, h / 6.0
    u, v = START
    steps = us.size
    for s in range(steps):
        us[s], vs[s] = u, v
        p1, q1 = _rates(u, v, a, b, c, d)
        p2, q2 = _rates(u + half * p1, v + half * q1, a, b, c, d)
        p3, q3 = _rates(u + half * p2, v + half * q2, a, b, c, d)
        p4, q4 = _rates(u + h * p3, v + h * q3, a, b, c, d)
        u = u + sixth * (p1 + 2.0 * (p2 + p3) + p4)
        v = v + sixth * (q1 + 2.0 * (q2 + q3) + q4)
    ub = vb = 1.0
    ga = gb = gc = gd = 0.0
    for s in range(steps - 1, -1, -1):
        u1, v1 = us[s], vs[s]
        p, q = _rates(u1, v1, a, b, c, d)
        u2, v2 = u1 + half * p, v1 + half * q
        p, q = _rates(u2, v2, a, b, c, d)
        u3, v3 = u1 + half * p, v1 + half * q
        p, q = _rates(u3, v3, a, b, c, d)
        u4, v4 = u1 + h * p, v1 + h * q
        pb4, qb4 = sixth * ub, sixth * vb
        ub4 = (a - b * v4) * pb4 + d * v4 * qb4
        vb4 = (d * u4 - c) * qb4 - b * u4 * pb4
        pb3, qb3 = 2.0 * sixth * ub + h * ub4, 2.0 * sixth * vb + h * vb4
        ub3 = (a - b * v3) * pb3 + d * v3 * qb3
        vb3 = (d * u3 - c) * qb3 - b * u3 * pb3
        pb2, qb2 = 2.0 * sixth * ub + half * ub3, 2.0 * sixth * vb + half * vb3
        ub2 = (a - b * v2) * pb2 + d * v2 * qb2
        vb2 = (d * u2 - c) * qb2 - b * u2 * pb2
        pb1, qb1 = sixth * ub + half * ub2, sixth * vb + half * vb2
        ub1 = (a - b * v1) * pb1 + d * v1 * qb1
        vb1 = (d * u1 - c) * qb1 - b * u1 * pb1
        ub += ub1 + ub2 + ub3 + ub4
        vb += vb1 + vb2 + vb3 + vb4
        ga += u1 * pb1 + u2 * pb2 + u3 * pb3 + u4 * pb4
        gb -= u1 * v1 * pb1 + u2 * v2 * pb2 + u3 * v3 * pb3 + u4 * v4 * pb4
        gc -= v1 * qb1 + v2 * qb2 + v3 * qb3 + v4 * qb4
        gd += u1 * v1 * qb1 + u2 * v2 * qb2 + u3 * v3 * qb3 + u4 * v4 * qb4
    gradient[0], gradient[1], gradient[2], gradient[3] = ga, gb, gc, gd
    return u + v


def step(u: Any, v: Any, rates: Any, h: float) -> tuple[Any, Any]:
    """One classical Runge–Kutta step of prey ``u`` and predators ``v``: 56 scalar operations."""
    a, b, c, d = rates
    half, sixth = 0.5 * h, h / 6.0

    def slopes(u: Any, v: Any) -> tuple[Any, Any]:
        return a * u - b * u * v, d * u * v - c * v

    p1, q1 = slopes(u, v)
    p2, q2 = slopes(u + half * p1, v + half * q1)
    p3, q3 = slopes(u + half * p2, v + half * q2)
    p4, q4 = slopes(u + h * p3, v + h * q3)
    u = u + sixth * (p1 + 2.0 * (p2 + p3) + p4)
    v = v + sixth * (q1 + 2.0 * (q2 + q3) + q4)
    return u, v


class LotkaVolterra(Workload):
    """Long, narrow and scalar: where array libraries pay most."""

    bars = (Bar("casadi"),)
    slow = frozenset({"autograd"})
    hopeless = frozenset({"jax-unrolled", "casadi-gcc"})

    def __init__(self, steps: int = 1000) -> None:
        self.name = f"Lotka–Volterra RK4, {steps} steps"
        self.steps = steps
        self.nodes = NODES_PER_STEP * steps + 1
        self.point = np.array([1.1, 0.8, 0.9, 0.7])

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        steps = self.steps

        def final(x: Any) -> Any:
            rates = x[0], x[1], x[2], x[3]
            u, v = START
            for _ in range(steps):
                u, v = step(u, v, rates, STEP)
            return u + v

        return final

    def jax_function(self, jax: Any) -> Any:
        """With ``lax.scan``: unrolled, the loop compiles for minutes."""

        def final(x: Any) -> Any:
            def body(state: Any, _: None) -> Any:
                return step(*state, (x[0], x[1], x[2], x[3]), STEP), None

            (u, v), _ = jax.lax.scan(body, START, length=self.steps)
            return u + v

        return final

    def hand(self) -> Call:
        us, vs = np.empty(self.steps), np.empty(self.steps)
        gradient = np.empty_like(self.point)
        return into(_value_and_gradient, (self.point, STEP, us, vs, gradient), [gradient])

    def casadi(self, ca: Any) -> Any:
        x = ca.SX.sym("x", 4)
        return [x], self.function(ca)(x)
