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


STEPS = {
    "linear": lambda c, _: (0.999 * c + 0.001, None),
    "tanh": lambda c, _: (0.999 * np.tanh(c), None),
}


class LongCarry:
    """200 steps of a cheap body over a carry of 65,536 numbers."""

    params = (tuple(STEPS), ("store all", "revolve"))
    param_names = ("body", "schedule")

    def setup(self, body: str, schedule: str) -> None:
        self.point = np.linspace(0.1, 1.0, 65_536)
        chosen = SCHEDULES[schedule]

        def last(x: np.ndarray) -> np.ndarray:
            return tj.scan(STEPS[body], x, None, length=200, checkpoint=chosen)[0]

        self.value = tj.jit(last)
        self.gradient = tj.grad(lambda x: np.sum(last(x)))
        self.value(self.point)
        self.gradient(self.point)

    def time_value(self, body: str, schedule: str) -> None:
        self.value(self.point)

    def time_gradient(self, body: str, schedule: str) -> None:
        self.gradient(self.point)

    def track_workspace(self, body: str, schedule: str) -> int:
        return tj.checkpoint_plan(self.gradient, self.point).workspace_bytes
