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
    chosen = last >= -1
    chosen[n:] &= np.isin(np.arange(len(tape.buffers)), list(tape.addressed))
    kept = np.zeros(len(first), bool)
    kept[tape.scalar_constants[0]] = True
    kept[[unit(tape.inputs[i].view, tape) for i in lasting]] = True
    always = kept.copy()
    varied = np.zeros(n, bool)
    if is_reversed:
        marks = builder.find_varied(segments).varied
        varied = marks[:n] != 0
        kept[units_restored(tape, tape.calls)] = True
        for segment in segments:
            kept[units_read(tape, segment, builder.group, marks)] = True
    is_array = np.arange(len(first)) >= n
    offsets = np.zeros(len(first), np.int64)
    sizes = np.ones(len(first), np.int64)
    sizes[n:] = [padded(buffer.size) for buffer in tape.buffers]

    passing = chosen & ~kept
    # Array code may name its scalars, as the sum that a chain adds up, before their rows.
    alone = is_array.copy()
    alone[[unit(view, tape) for call in tape.calls for view in (*call.operands, call.result)]] = 1
    top = _in_a_row(passing & is_array, sizes, offsets, 0)
    top = _in_a_row(passing & alone & ~is_array, sizes, offsets, top)
    for is_active in (True, False):
        units = np.flatnonzero((passing & ~alone)[:n] & (varied == is_active))
        found, extent = place_ranges(first[units], last[units], sizes[units])
        offsets[units] = top + found
        top += extent
    top = frame.arena.fixed(top) + padded(top)
    size = 0
    for group in (is_array, always & ~is_array, ~always & ~is_array):
        size = _in_a_row(chosen & kept & group, sizes, offsets, size)
    offsets[chosen & kept] += frame.arena.fixed(size)
    offsets[~chosen] = -1
    frame.settle(offsets[:n], offsets[n:], builder.scalar_elements(), frame.arena.size)
    return int(top)


def _in_a_row(chosen: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, start: int) -> int:
    """Places one behind the other; where they end."""
    ends = start + np.cumsum(sizes[chosen])
    offsets[chosen] = ends - sizes[chosen]
    return int(ends[-1]) if len(ends) else start
