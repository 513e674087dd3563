"""What each pass costs: seconds for a row, on tapes of three lengths."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from workloads import Irregular, LotkaVolterra

import tapejit as tj
from tapejit.passes import PASSES

TAPES = {
    "scalar loop, 10^4 nodes": lambda: LotkaVolterra(180),
    "scalar loop, 10^5 nodes": lambda: LotkaVolterra(1_800),
    "scalar loop, 10^6 nodes": lambda: LotkaVolterra(18_000),
    "random order, 10^5 nodes": Irregular,
}


class Passes:
    """Seconds for one row of the recorded tape."""

    params = (tuple(TAPES), tuple(PASSES))
    param_names = ("tape", "name")
    unit = "s"

    def setup(self, tape: str, name: str) -> None:
        workload = TAPES[tape]()
        self.tape = tj.trace(workload.function(np), workload.point)

    def track_seconds_by_row(self, tape: str, name: str) -> float:
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            PASSES[name](self.tape)
            taken.append(time.perf_counter() - start)
        return median(taken) / len(self.tape)
