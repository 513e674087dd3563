"""The cost of a call: a function so small that nothing else counts."""

from __future__ import annotations

import numpy as np
from workloads import Small

import tapejit as tj


class Calls:
    """sum(sin(x) * x) of four numbers."""

    def setup(self) -> None:
        workload = Small()
        self.point, function = workload.point, workload.function(np)
        self.value = tj.jit(function)
        self.gradient = tj.value_and_grad(function)
        self.buffer = np.empty_like(self.point)
        self.value(self.point)
        self.gradient(self.point, out=self.buffer)

    def time_value(self) -> None:
        self.value(self.point)

    def time_value_and_gradient(self) -> None:
        self.gradient(self.point)

    def time_value_and_gradient_out(self) -> None:
        self.gradient(self.point, out=self.buffer)
