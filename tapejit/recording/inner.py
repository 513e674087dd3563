"""In-place writes by inner functions: bodies of staged loops, functions under a derivative.

What an inner function computes of the enclosing function's values alone is recorded there, once for
all steps.  An array made so is the inner function's own all the same: where it is about to be
written into, a copy of it becomes part of the inner recording.
"""

from __future__ import annotations

import sys

from .recorder import active, innermost
from .tracer import ArrayTracer, copied

__all__ = ["copied_here", "own"]


def copied_here(array: ArrayTracer) -> ArrayTracer:
    """A contiguous copy that belongs to the recording under way."""
    inner = innermost(array.rec)
    return copied(array if inner is array.rec else inner.capture(array))


def own(array: ArrayTracer) -> None:
    """Make an array of an enclosing recording part of the one under way, before it is written.

    An array that is older than the recording, or that has views, stays where it is; that is noted.
    """
    inner, outer = active(), array.rec
    if inner is None or inner.level <= outer.level:
        return
    cell = array.cell
    is_new = cell.buffer >= inner.known_buffers.get(outer, 0)
    is_new = is_new and not any(cell is other for other in inner.outer_cells)
    if not is_new:
        inner.outer_cells.append(cell)
        outer.writes += 1
        return
    del cell
    has_views = array.value is not array.cell.storage or sys.getrefcount(array.cell) > 2
    if not has_views:
        fresh = copied_here(array)
        array.rec, array.value, array.cell, array._place = inner, fresh.value, fresh.cell, None
