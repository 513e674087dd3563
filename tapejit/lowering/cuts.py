"""Cutting a straight tape: stretches that a schedule stores, turns, or runs again.

A cut is made where the fewest values are alive.  Cuts and a schedule make a tree of regions:
reversing ``l`` stretches with ``c`` snapshots means to run the first ``m`` of them without keeping
anything (a region, to be reversed later with ``c`` snapshots), then to reverse the other ``l - m``
with ``c - 1`` (Griewank and Walther 2000, section 2).  The snapshots are the values alive at cuts.
"""

from __future__ import annotations

import numpy as np

from ..checkpointing.binomial import least_advances
from ..checkpointing.limits import Costs
from ..checkpointing.strategies import Layout, Revolve, Schedule, StoreAll
from ..errors import ScheduleError
from ..interpreters.layout import CALL
from ..interpreters.schedules import UNKNOWN, split
from ..tape import SCALAR, Region, Tape
from .frame import padded
from .regions import mentions

__all__ = ["Stretches", "live_widths", "marked_regions"]

#: A tape is cut into so many stretches (if it has as many rows): the steps of its schedule.
STRETCHES = 128
#: A width that is never the least.
NEVER = np.iinfo(np.int64).max
#: Numbers of snapshots that are tried to meet a limit.
_SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


def live_widths(tape: Tape) -> np.ndarray:
    """How many elements that rows before each row made are named at it or later.

    Arguments and constants, which are there in any case, don't count.
    """
    first, last = mentions(tape)
    size = np.ones(len(first), np.int64)
    size[tape.n_scalars :] = [padded(b.size) if b.base >= 0 else 0 for b in tape.buffers]
    size[tape.scalar_constants[0]] = 0
    chosen = (first >= 0) & (last > first)
    change = np.zeros(len(tape.code) + 2, np.int64)
    np.add.at(change, first[chosen] + 1, size[chosen])
    np.add.at(change, np.minimum(last[chosen], len(tape.code)) + 1, -size[chosen])
    return np.cumsum(change)[: len(tape.code) + 1]


def _weights(tape: Tape) -> np.ndarray:
    """Elements that each row makes."""
    weights = np.ones(len(tape.code), np.int64)
    for row in np.flatnonzero(tape.code[:, 0] == CALL).tolist():
        result = tape.calls[tape.code[row, 1]].result
        weights[row] = 1 if result.buffer == SCALAR else max(result.size, 1)
    return weights


class Stretches:
    """[first, last) of a tape, cut into (at most) ``STRETCHES`` stretches: a schedule's steps.

    Each cut is where the fewest values are alive, within a third of an equal part, and never
    before one of the rows ``whole``.

    Attributes
    ----------
    cuts
        The rows at which stretches start, and ``last``.
    costs
        About what a snapshot and a stored stretch take, in bytes, values and adjoints.
    """

    def __init__(
        self, tape: Tape, whole: np.ndarray, first: int = 0, last: int | None = None,
        most: int = STRETCHES,
    ) -> None:  # fmt: skip
        last = len(tape.code) if last is None else last
        width = live_widths(tape)
        width[whole] = NEVER
        weights = _weights(tape)[first:last]
        self.cuts = _cut(np.concatenate([[0], np.cumsum(weights)]), width, first, last, most)
        alive = width[self.cuts[1:-1]]
        self.costs = Costs(
            16 * int(alive.mean()) if len(alive) else 0,
            16 * int(weights.sum()) // max(len(self), 1),
        )

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def regions(self, schedule: Schedule) -> list[Region]:
        """The regions that let the reverse sweep follow a schedule.

        Raises
        ------
        ScheduleError
            If the schedule is not for straight tapes.
        """
        layout = schedule.layout(len(self), self.costs)
        if layout.steps == UNKNOWN:
            raise ScheduleError(
                f"{schedule} is for loops of unknown length; a straight tape has a known one: take "
                "Revolve(snapshots=...) or Memory(...)"
            )
        if layout.disk:
            raise ScheduleError(
                f"{schedule} puts snapshots in a file, which loops can (tapejit.scan); those of a "
                "straight tape lie in memory: take Revolve(snapshots=...) or Memory(...)"
            )
        return _forest([*self.cuts[: -1 : layout.every], self.cuts[-1]], layout)

    def candidates(self) -> list[tuple[int, Schedule]]:
        """(estimated bytes, schedule), those that run the fewest stretches first."""
        n = len(self)
        found: dict[tuple, Schedule] = {(0, 0, 0): StoreAll()}
        for every in (1 << k for k in range(n.bit_length()) if 1 << k < n):
            blocks = -(-n // every)
            for slots in (*(s for s in _SLOTS if s < blocks - 1), blocks - 1):
                runs = every * least_advances(blocks, slots)
                found[runs, blocks, slots] = Revolve(slots, every)
        return [
            (self._estimate(schedule.layout(n)), schedule) for _, schedule in sorted(found.items())
        ]

    def _estimate(self, layout: Layout) -> int:
        return layout.slots * self.costs.snapshot + layout.every * self.costs.step


def _cut(before: np.ndarray, width: np.ndarray, first: int, last: int, most: int) -> list[int]:
    """Rows to cut at: ``before`` counts what is made before each row of [first, last)."""
    stretches = max(min(most, last - first), 1)
    width = width[first : last + 1]
    free = 1 + np.flatnonzero(width[1:-1] < NEVER)
    if len(free) < stretches:
        return [first, *(first + free).tolist(), last]
    step = before[-1] / stretches
    cuts = [0]
    for k in range(1, stretches):
        low, high = np.searchsorted(before, [(k - 1 / 3) * step, (k + 1 / 3) * step])
        low, high = max(int(low), cuts[-1] + 1), min(int(high), last - first - 1)
        if low <= high:
            best = low + int(np.argmin(width[low : high + 1]))
            if width[best] < NEVER:
                cuts.append(best)
    return [first + row for row in (*cuts, last - first)]


def marked_regions(tape: Tape, whole: np.ndarray) -> list[Region]:
    """The regions that the user marked, in rows of a tape that may have been transformed.

    ``whole``: rows that schedules of regions must not separate from those before them.
    """
    origins = np.arange(len(tape.code)) if tape.origins is None else tape.origins

    def found(region: Region) -> Region | None:
        rows = np.flatnonzero((origins >= region.first) & (origins < region.last))
        if not len(rows):
            return None
        first, last = int(rows[0]), int(rows[-1]) + 1
        inner = [r for r in map(found, region.inner) if r is not None]
        if region.schedule is not None:
            inner = Stretches(tape, whole, first, last).regions(region.schedule)
        return region._replace(first=first, last=last, inner=tuple(inner))

    return [region for region in map(found, _nested(tape.regions)) if region is not None]


def _nested(regions: tuple[Region, ...]) -> list[Region]:
    """Regions as a forest; recorded, an inner one ends (and comes) before the one around it."""
    forest: list[Region] = []
    for region in regions:
        inner = [r for r in forest if r.first >= region.first]
        forest = [r for r in forest if r.first < region.first]
        forest.append(region._replace(inner=tuple(inner)))
    return forest


def _forest(rows: list[int], layout: Layout) -> list[Region]:
    """Nested regions by :func:`split`, whose rows are given for each block."""

    def regions(first: int, last: int, slots: int) -> list[Region]:
        found = []
        while last - first > 1:
            at = first + split(last - first, slots)
            inner = regions(first, at, slots)
            found.append(Region(rows[first], rows[at], inner=tuple(inner)))
            first, slots = at, slots - 1
        if found:  # the rest shares the room of these, and is still there when it is reversed
            found.append(Region(rows[first], rows[last]))
        return found

    return regions(0, len(rows) - 1, layout.slots)
