"""What replaying costs: seconds for one node, forward, in reverse and with tangents."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from comparison.rounds import Effort, interleave
from workloads import Call, LotkaVolterra, ShortArrays

import tapejit as tj

EFFORT = Effort(rounds=7)
TAPES = {
    "scalar loop, 10^4 nodes": lambda: LotkaVolterra(180),
    "scalar loop, 10^5 nodes": lambda: LotkaVolterra(1_800),
    "scalar loop, 10^6 nodes": lambda: LotkaVolterra(18_000),
    "vectors of 14, 10^5 operations": ShortArrays,
}


class Replay:
    """Seconds for one operation of the recorded function."""

    params = tuple(TAPES)
    param_names = ("tape",)
    unit = "s"

    def setup(self, tape: str) -> None:
        self.workload = TAPES[tape]()
        self.function = self.workload.function(np)
        self.nodes = getattr(self.workload, "nodes", None) or self.workload.size

    def track_forward(self, tape: str) -> float:
        return self._per_node(forward=tj.jit(self.function))

    def track_reverse(self, tape: str) -> float:
        """The value and gradient, less the value."""
        return self._per_node(
            gradient=tj.value_and_grad(self.function), forward=tj.jit(self.function)
        )

    def track_tangent(self, tape: str) -> float:
        return self._per_node(tangent=tj.linearize(self.function, self.workload.point)[1])

    def _per_node(self, **functions: Callable[[np.ndarray], Any]) -> float:
        """Median seconds of the first function less those of the second, for each node."""
        point = self.workload.point
        calls = {name: Call(f, (point,), lambda _: (0.0, None)) for name, f in functions.items()}
        first, *others = interleave(calls, EFFORT).values()
        spent = [sum(times) for times in zip(*others, strict=True)] or [0.0] * len(first)
        return median(a - b for a, b in zip(first, spent, strict=False)) / self.nodes
