"""What a schedule will cost, before it runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..interpreters import schedules
from .binomial import least_advances
from .limits import Costs, bytes_of, format_bytes
from .strategies import Layout, Schedule

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """Bytes and recomputation of a schedule.

    Attributes
    ----------
    schedule
        The schedule.
    layout
        Its numbers for this loop: steps, steps a block, snapshots in memory and on disk.
    steps
        Number of steps of the loop; ``None`` if it is known only when the loop has ended.
    evaluations
        How many steps the forward and reverse sweeps run forward together, ``steps`` of them
        to store; ``None`` if the number of steps is not known.
    snapshot_bytes
        All snapshots in memory.
    stored_bytes
        The steps stored at a time.
    fixed_bytes
        Everything else: the schedule's own state, and what was given as fixed.
    disk_bytes
        All snapshots in the file.
    costs
        What a snapshot, a stored step, and everything else take.
    """

    schedule: Schedule
    layout: Layout
    steps: int | None
    evaluations: int | None
    snapshot_bytes: int
    stored_bytes: int
    fixed_bytes: int
    disk_bytes: int
    costs: Costs

    @property
    def recompute_factor(self) -> float:
        """Forward evaluations a step: 1 if everything is stored; NaN if they are not known."""
        if self.evaluations is None:
            return float("nan")
        return self.evaluations / self.steps if self.steps else 1.0

    @property
    def memory_bytes(self) -> int:
        """All bytes in memory."""
        return self.snapshot_bytes + self.stored_bytes + self.fixed_bytes

    def draw(
        self, path: str | os.PathLike[str] | None = None, steps: int | None = None, ax: Any = None
    ) -> Any:
        """Draw steps against time (see :func:`tapejit.checkpointing.draw.draw_schedule`).

        Parameters
        ----------
        path
            File to write: ``.png``, ``.svg`` or ``.pdf``.
        steps
            Steps to draw, where the loop's own number is not known, or too large.
        ax
            Matplotlib axes to draw on instead.

        Returns
        -------
        str or None
            The SVG text where neither ``path`` nor ``ax`` is given.

        Raises
        ------
        ValueError
            Where the number of steps is not known, or the picture would have too many.
        """
        from .draw import draw_schedule

        steps = self.steps if steps is None else steps
        if steps is None:
            raise ValueError("nobody knows the number of steps: say how many to draw (steps=)")
        return draw_schedule(self.schedule, steps, path, ax, self.costs)

    def __str__(self) -> str:
        layout = self.layout
        steps, evaluated = "known when the loop has ended", "depends on the number of steps"
        if self.evaluations is not None:
            steps = f"{self.steps}"
            evaluated = f"{self.evaluations} steps, {self.recompute_factor:.4g} x forward"
        rows = [
            ("schedule", f"{self.schedule}"),
            ("steps", steps),
            ("evaluated", evaluated),
            ("snapshots", f"{layout.memory}, {format_bytes(self.snapshot_bytes)}"),
            ("stored", f"{layout.every} steps at a time, {format_bytes(self.stored_bytes)}"),
            ("other", format_bytes(self.fixed_bytes)),
            ("memory", f"{format_bytes(self.memory_bytes)} together"),
        ]
        if layout.disk:
            rows.append(("disk", f"{layout.disk} snapshots, {format_bytes(self.disk_bytes)}"))
        return "\n".join(f"{name:<10} {text}" for name, text in rows)


def plan(schedule: Schedule, steps: int | None, costs: Costs) -> Plan:
    """The plan of a schedule for a loop (``steps`` None: of unknown length).

    Raises
    ------
    ScheduleError
        If the schedule can't be carried out.
    """
    layout = schedule.layout(steps, costs)
    return Plan(
        schedule,
        layout,
        steps,
        None if steps is None else evaluations(layout, steps),
        layout.memory * costs.snapshot,
        layout.every * costs.step,
        bytes_of(0, layout.slots, costs._replace(snapshot=0)),
        layout.disk * costs.snapshot,
        costs,
    )


def evaluations(layout: Layout, steps: int) -> int:
    """Steps that a schedule runs forward, also when it runs them again.

    The last block is stored at once and never advanced over, so all blocks that count are full.
    """
    if layout.steps == schedules.UNKNOWN:
        counts = count(layout, steps)
        return int(counts[schedules.ADVANCE] + counts[schedules.STORE])
    blocks = -(-steps // layout.every)
    return steps + layout.every * least_advances(blocks, layout.slots)


def count(layout: Layout, steps: int) -> np.ndarray:
    """How often each action comes, by running the state machine alone."""
    counts = np.zeros(len(schedules.ACTIONS) + 1, np.int64)
    _counter()(layout.begin(), steps, counts)
    return counts


@functools.cache
def _counter() -> Callable:
    from ..interpreters.cache import compile_entry

    return compile_entry("void(int64[::1],int64,int64[::1])", schedules.count)
