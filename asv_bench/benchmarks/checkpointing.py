"""Gradients under checkpointing schedules: time, and bytes of a workspace."""

from __future__ import annotations

import numpy as np
from checkpointing import PROGRAMS, chain

import tapejit as tj

SCHEDULES = {
    "store all": tj.StoreAll(),
    "uniform": tj.Uniform(every=100),
    "revolve": tj.Revolve(snapshots=50),
    "online": tj.Online(snapshots=50),
    "1 MB": tj.Memory("1 MB"),
}


class Loop:
    """10,000 steps of eight coupled numbers."""

    params = tuple(SCHEDULES)
    param_names = ("schedule",)

    def setup(self, schedule: str) -> None:
        self.point = np.linspace(0.1, 0.8, 8)
        self.gradient = tj.grad(lambda x: chain(x, 10_000, SCHEDULES[schedule]))
        self.gradient(self.point)

    def time_gradient(self, schedule: str) -> None:
        self.gradient(self.point)

    def track_workspace(self, schedule: str) -> int:
        return tj.checkpoint_plan(self.gradient, self.point).workspace_bytes


class Straight:
    """Straight tapes within a part of what storing everything takes."""

    params = (("layers", "oscillator"), (1.0, 0.5, 0.25))
    param_names = ("program", "part")

    def setup(self, program: str, part: float) -> None:
        function, size, _ = PROGRAMS[program]
        self.point = np.linspace(0.1, 1.0, size)
        stored = tj.checkpoint_plan(function, self.point).workspace_bytes
        self.gradient = tj.grad(function, checkpoint=tj.Memory(int(part * stored)))
        self.gradient(self.point)

    def time_gradient(self, program: str, part: float) -> None:
        self.gradient(self.point)
