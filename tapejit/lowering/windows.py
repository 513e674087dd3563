"""Where the scalars of a body lie, and the arrays whose elements its scalar code names.

Scalar code names offsets in one space, which moves from step to step.  A step's *window* starts
with what its reverse sweep does not read; its *region*, the rest, is kept.  Regions lie one below
the other, the first step's on top::

    step 0                          | passing | region |
    step 1                 | passing | region |
    step 2        | passing | region |

so that what passes lies where later steps have their regions: these are written when it is no
longer read.  Scalars that pass share their places by live ranges.  They may because an adjoint is
zero from the start to the value's last reader, in reverse, and again from where it was made on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tape import Tape
from .frame import padded
from .liveness import place_ranges
from .reads import units_read, units_restored
from .regions import mentions, unit

__all__ = ["settle_window"]


def settle_window(
    builder: Any, segments: Sequence[Any], lasting: Sequence[int], is_reversed: bool
) -> int:
    """Place a body's scalars and addressed arrays; how many doubles of its window pass.

    Parameters
    ----------
    builder
        The body's builder, before any code is written; its frame's addresses are virtual.
    lasting
        Inputs that are the same for all steps.
    is_reversed
        Whether a reverse sweep is to come.
    """
    tape, frame = builder.tape, builder.frame
    n = tape.n_scalars
    first, last = mentions(tape)
    is_placed = last >= -1
    is_placed[n:] &= np.isin(np.arange(len(tape.buffers)), list(tape.addressed))
    always = np.zeros(len(first), bool)
    always[tape.scalar_constants[0]] = True
    always[[unit(tape.inputs[i].view, tape) for i in lasting]] = True
    kept, varied = always.copy(), np.zeros(n, bool)
    if is_reversed:
        marks = builder.find_varied(segments).varied
        varied = marks[:n] != 0
        kept[units_restored(tape, tape.calls)] = True
        for segment in segments:
            kept[units_read(tape, segment, builder.group, marks)] = True
    places = _Places(tape)
    passing = is_placed & ~kept
    top = places.array_units(passing)
    top = _alone(tape, places, passing, first, top)
    for is_active in (True, False):
        waiting = (passing & ~places.is_placed)[:n] & (varied == is_active)
        top = places.by_ranges(np.flatnonzero(waiting), first, last, top)
    frame.arena.fixed(top)
    start = places.array_units(is_placed & kept, padded(top))
    for group in (always, kept):
        start = places.in_a_row(np.flatnonzero(is_placed & group & ~places.is_placed), start)
    frame.arena.fixed(start - padded(top))
    offsets = np.where(is_placed, places.offsets, -1)
    frame.settle(offsets[:n], offsets[n:], builder.scalar_elements(), frame.arena.size)
    return int(padded(top))


class _Places:
    """Offsets of units, as they are given."""

    def __init__(self, tape: Tape) -> None:
        n = tape.n_scalars + len(tape.buffers)
        self.offsets = np.zeros(n, np.int64)
        self.is_placed = np.zeros(n, bool)
        self.sizes = np.ones(n, np.int64)
        self.sizes[tape.n_scalars :] = [padded(buffer.size) for buffer in tape.buffers]
        self.n_scalars = tape.n_scalars

    def array_units(self, chosen: np.ndarray, start: int = 0) -> int:
        """Places for the buffers among the units of a mask; where they end."""
        units = np.flatnonzero(chosen)
        return self.in_a_row(units[units >= self.n_scalars], start)

    def in_a_row(self, units: np.ndarray, start: int) -> int:
        """Places one behind the other; where they end."""
        ends = start + np.cumsum(self.sizes[units])
        self.offsets[units] = ends - self.sizes[units]
        self.is_placed[units] = True
        return int(ends[-1]) if len(ends) else start

    def by_ranges(self, units: np.ndarray, first: np.ndarray, last: np.ndarray, start: int) -> int:
        """Places shared by live ranges; where they end."""
        found, extent = place_ranges(first[units], last[units], self.sizes[units])
        self.offsets[units] = start + found
        self.is_placed[units] = True
        return start + extent


def _alone(tape: Tape, places: _Places, passing: np.ndarray, first: np.ndarray, start: int) -> int:
    """Places for scalars that share none; where they end.

    Results lie in their order, so that they are copied together.  Array code may name its scalars
    before their rows, as the sum that a chain adds up.
    """
    results = [u for u in _results(tape) if first[u] >= 0]
    named = [unit(view, tape) for call in tape.calls for view in (*call.operands, call.result)]
    units = np.array(list(dict.fromkeys([*results, *named])), np.int64)
    units = units[passing[units] & ~places.is_placed[units]]
    return places.in_a_row(units[units < tape.n_scalars], start)


def _results(tape: Tape) -> list[int]:
    """The units of a tape's outputs, each once."""
    return list(dict.fromkeys(unit(leaf.view, tape) for leaf in tape.outputs))
