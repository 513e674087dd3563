"""From the start of a process, or from a Python function, to the first gradient."""

from __future__ import annotations

from statistics import median

import numpy as np
from comparison.limits import start_process
from workloads import LotkaVolterra

import tapejit as tj


class Starting:
    """Seconds to the first gradient of the model that the demo fits, in a new process."""

    unit = "s"
    timeout = 600

    def track_warm_start(self) -> float:
        start_process()
        return median(start_process() for _ in range(3))

    def track_cold_start(self) -> float:
        """With an empty kernel cache, as on a machine's first run."""
        return start_process(empty_cache=True)


class FirstGradient:
    """From the Python function to its first gradient, kernels in memory."""

    number = 1
    warmup_time = 0

    def setup(self) -> None:
        workload = LotkaVolterra(10)
        tj.value_and_grad(workload.function(np))(workload.point)
        # Another length for every sample: no program is met again.
        self.steps = 1000

    def time_lotka_volterra(self) -> None:
        self.steps += 1
        workload = LotkaVolterra(self.steps)
        tj.value_and_grad(workload.function(np))(workload.point)
