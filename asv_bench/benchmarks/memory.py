"""Peak memory of recording and replaying, and what a replay allocates."""

from __future__ import annotations

import numpy as np
from comparison.limits import allocated
from workloads import LotkaVolterra, Mixture, RosenbrockVectors

import tapejit as tj

PROGRAMS = {
    "scalar loop, 10^5 nodes": lambda: LotkaVolterra(1_800),
    "scalar loop, 10^6 nodes": lambda: LotkaVolterra(18_000),
    "vectors, n=10^6": lambda: RosenbrockVectors(10**6),
    "Gaussian mixture": Mixture,
}


class Peak:
    """Peak memory of a process that records a function and takes gradients of it."""

    params = tuple(PROGRAMS)
    param_names = ("program",)

    def peakmem_value_and_gradient(self, program: str) -> None:
        workload = PROGRAMS[program]()
        gradient = tj.value_and_grad(workload.function(np))
        for _ in range(3):
            gradient(workload.point)


class Allocation:
    """Bytes that one replay into given arrays allocates beyond its result."""

    unit = "bytes"

    def setup(self) -> None:
        workload = LotkaVolterra()
        gradient = tj.value_and_grad(workload.function(np))
        buffer = np.empty_like(workload.point)
        self.call = lambda: gradient(workload.point, out=buffer)

    def track_python_bytes(self) -> int:
        return allocated(self.call)[0]

    def track_numba_allocations(self) -> int:
        return allocated(self.call)[1]
