"""Vector mode: what a direction costs in a sweep of eight, against a sweep of its own."""

from __future__ import annotations

from time import perf_counter

import numpy as np
from workloads import LotkaVolterra, RosenbrockLoop

import tapejit as tj
from tapejit.interpreters.entry import BIND, OBJECT, RUN_FORWARD, RUN_REVERSE, RUN_TANGENT
from tapejit.interpreters.layout import LANES
from tapejit.program import Program, Workspace, program_for

TAPES = {
    "Lotka-Volterra, 56,000 rows": LotkaVolterra,
    "Rosenbrock loop, 8,000 rows": lambda: RosenbrockLoop(1000),
}
SWEEPS = 50


class Directions:
    """Seconds for one direction of one sweep, and the ratio of single sweeps to vector mode."""

    params = (tuple(TAPES), ("gradient", "tangent"))
    param_names = ("tape", "mode")

    def setup(self, tape: str, mode: str) -> None:
        workload = TAPES[tape]()
        self.point = np.asarray(workload.point, np.float64)
        self.tape = tj.trace(workload.function(np), self.point)
        self.what = RUN_REVERSE if mode == "gradient" else RUN_TANGENT
        self.single = self._ready(program_for(self.tape, (0,), mode))
        self.several = self._ready(program_for(self.tape, (0,), mode, several=True))

    def _ready(self, program: Program) -> Workspace:
        workspace = program.checkout()
        shape = self.point.shape + (LANES,) * program.several
        arguments = [self.point, np.ones(shape)][: len(workspace.parameters)]
        for record, argument in zip(workspace.parameters, arguments, strict=True):
            record[OBJECT] = id(argument)
        workspace.held = arguments
        workspace.run(BIND | RUN_FORWARD if self.what == RUN_REVERSE else BIND | RUN_TANGENT)
        return workspace

    def _seconds(self) -> tuple[float, float]:
        """Best times of single and vector sweeps, taken in turn, for one direction."""
        best = [np.inf, np.inf]
        for _ in range(SWEEPS):
            for i, workspace in enumerate((self.single, self.several)):
                began = perf_counter()
                workspace.run(self.what)
                best[i] = min(best[i], perf_counter() - began)
        return best[0], best[1] / LANES

    def track_seconds_in_vector_mode(self, tape: str, mode: str) -> float:
        return self._seconds()[1]

    track_seconds_in_vector_mode.unit = "s"

    def track_ratio(self, tape: str, mode: str) -> float:
        single, several = self._seconds()
        return single / several


class SecondOrder:
    """A Hessian of scalar code: the tangents of its gradient, eight in a sweep."""

    def setup(self) -> None:
        workload = RosenbrockLoop(1000)
        self.point = workload.point
        self.hessian = tj.hessian(workload.function(np))
        self.hessian(self.point)

    def time_hessian_rosenbrock_loop(self) -> None:
        self.hessian(self.point)
