"""Staged loops: against the same loop unrolled, against JAX's scan, and with few snapshots."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from comparison.rounds import Effort, interleave
from workloads import Call, LotkaVolterra
from workloads.lotka_volterra import START, STEP, step

import tapejit as tj

EFFORT = Effort(rounds=15)
STEPS = 1000


def staged(rates: Any) -> Any:
    """Lotka–Volterra as a scan."""
    parts = rates[0], rates[1], rates[2], rates[3]
    (u, v), _ = tj.scan(lambda s, _: (step(*s, parts, STEP), None), START, length=STEPS)
    return u + v


def lorenz_96(start: Any, force: float, steps: int, schedule: Any = None) -> Any:
    """Classical Runge–Kutta steps of a chaotic system of eight states, written in scalars."""
    h = 0.01

    def slope(x: list) -> list:
        return [(x[(i + 1) % 8] - x[i - 2]) * x[i - 1] - x[i] + force for i in range(8)]

    def along(x: list, k: list, h: float) -> list:
        return [a + h * b for a, b in zip(x, k, strict=True)]

    def rk4(x: list, _: None) -> tuple[list, None]:
        k1 = slope(x)
        k2 = slope(along(x, k1, 0.5 * h))
        k3 = slope(along(x, k2, 0.5 * h))
        k4 = slope(along(x, k3, h))
        parts = zip(x, k1, k2, k3, k4, strict=True)
        return [a + h / 6.0 * (p + 2.0 * (q + r) + s) for a, p, q, r, s in parts], None

    x, _ = tj.scan(rk4, [start[i] for i in range(8)], length=steps, checkpoint=schedule)
    return sum(v * v for v in x)


def seconds(arguments: tuple, **functions: Callable[..., Any]) -> dict[str, float]:
    """Median seconds of a call, taken in turn."""
    calls = {name: Call(f, arguments, lambda _: (0.0, None)) for name, f in functions.items()}
    return {name: median(times) for name, times in interleave(calls, EFFORT).items()}


class LotkaVolterraScan:
    """Value and gradient of 1000 steps: the scan's time over that of ..."""

    unit = "ratio"

    def track_scan_over_unrolled(self) -> float:
        workload = LotkaVolterra(STEPS)
        unrolled = tj.value_and_grad(workload.function(np))
        times = seconds((workload.point,), scan=tj.value_and_grad(staged), unrolled=unrolled)
        return times["scan"] / times["unrolled"]

    def track_scan_over_jax(self) -> float:
        import jax

        jax.config.update("jax_enable_x64", True)
        workload = LotkaVolterra(STEPS)
        theirs = jax.jit(jax.value_and_grad(workload.jax_function(jax)))
        point = workload.point

        def run(x: Any) -> Any:
            return jax.block_until_ready(theirs(x))

        times = seconds((point,), scan=tj.value_and_grad(staged), jax=run)
        return times["scan"] / times["jax"]


class MillionSteps:
    """A gradient of 10^6 steps with 50 snapshots."""

    point = np.linspace(7.0, 9.0, 8)
    steps = 1_000_000

    def track_over_prediction(self) -> float:
        """Seconds over ``r forward + reverse``, both measured on the loop that stores all."""
        schedule, n = tj.Revolve(50), 1000
        forward = tj.jit(lambda x: lorenz_96(x, 8.0, n))
        both = tj.value_and_grad(lambda x: lorenz_96(x, 8.0, n))
        times = seconds((self.point,), forward=forward, both=both)
        reverse = times["both"] - times["forward"]
        factor = schedule.plan(self.steps).recompute_factor
        predicted = (factor * times["forward"] + reverse) * self.steps / n
        long = tj.value_and_grad(lambda x: lorenz_96(x, 8.0, self.steps, schedule))
        long(self.point)
        call = Call(long, (self.point,), lambda _: (0.0, None))
        (taken,) = interleave({"long": call}, Effort(rounds=1)).values()
        return median(taken) / predicted

    track_over_prediction.unit = "ratio"
    track_over_prediction.timeout = 120

    def peakmem_revolve(self) -> None:
        schedule = tj.Revolve(50)
        tj.value_and_grad(lambda x: lorenz_96(x, 8.0, self.steps, schedule))(self.point)

    def peakmem_import(self) -> None:
        """To be taken off."""
        tj.value_and_grad(lambda x: lorenz_96(x, 8.0, 1))(self.point)
