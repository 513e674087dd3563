"""What recording costs: seconds for one scalar node, and for one array operation."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from workloads import LotkaVolterra, ShortArrays, Workload

import tapejit as tj


class Recording:
    """Seconds for one operation of the function that is recorded."""

    unit = "s"

    def setup(self) -> None:
        self.loop, self.arrays = LotkaVolterra(), ShortArrays(10_000)

    def track_scalar_node(self) -> float:
        return _seconds(self.loop) / self.loop.nodes

    def track_array_operation(self) -> float:
        return _seconds(self.arrays) / self.arrays.size


def _seconds(workload: Workload, repetitions: int = 5) -> float:
    function, taken = workload.function(np), []
    for _ in range(repetitions):
        start = time.perf_counter()
        tj.trace(function, workload.point)
        taken.append(time.perf_counter() - start)
    return median(taken)
