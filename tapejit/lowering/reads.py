"""What the reverse sweep of a tape reads: values that must still be there, and writes to undo.

*Units* are a tape's scalars by number, then its buffers (see :func:`.regions.units`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..interpreters import layout
from ..interpreters.layout import WRITE
from ..ops.structural import IN_PLACE
from ..ops.table import OPS
from ..tape import ARRAY, Call, Tape
from .elementwise import differentiable, reads
from .regions import unit, units
from .scalars import tables

__all__ = ["units_read", "units_restored", "unrestored"]

#: Operands whose values the reverse sweep of an operation reads; of others it may read all.
_READ: dict[str, tuple[int, ...]] = {
    "assemble": (), "concatenate": (), "copy": (), "gather": (1,), "named": (), "scatter_add": (1,),
    "scatter_write": (1,), "sum": (), "write": (),
}  # fmt: skip
#: Columns of a scalar row by the name of what a rule reads.
_COLUMNS = {"f": 1, "x": 2, "y": 3, "z": 4}


def units_read(
    tape: Tape, segment: Any, group: Any, varied: np.ndarray | None = None
) -> np.ndarray:
    """Units whose values the reverse code of a segment may read.

    ``group`` gives a segment's chain; ``varied`` marks, by virtual address (scalars, then array
    elements), what depends on differentiated arguments: all of it if there are no marks.
    """
    if not segment.calls:
        return _read_by_rows(tape, segment.first, segment.last, varied)
    views: list = []
    is_chain = segment.calls[0].op in OPS
    # What lies in registers only is computed again, from all that it was made of.
    again = is_chain and bool(group(segment).elided)
    for call in segment.calls:
        views += (*call.operands, call.result) if again else _read_by(call)
    return np.array([unit(view, tape) for view in views], np.int64)


def _read_by(call: Call) -> list:
    """The views whose values the reverse sweep of a call may read."""
    views = [*call.operands, call.result]
    if call.op in OPS:
        names = reads(call.op, differentiable(call.op))
        named = zip("xyz"[: len(call.operands)] + "f", views, strict=True)
        return [view for name, view in named if name in names]
    if call.op in _READ:
        return [call.operands[i] for i in _READ[call.op]]
    return views


def _read_by_rows(tape: Tape, first: int, last: int, varied: np.ndarray | None) -> np.ndarray:
    """Units that the reverse code of scalar rows reads; what writes saved is among them."""
    rows = tape.code[first:last]
    writes = rows[rows[:, 0] == WRITE]
    rows = rows[rows[:, 0] < len(OPS)]
    arity, active, _ = tables()
    bits = active[rows[:, 0]]
    if varied is not None:
        found = np.zeros(len(rows), np.int32)
        for i in range(3):
            used = arity[rows[:, 0]] > i
            operands = rows[used, 2 + i].astype(np.int64)
            operands[operands >= ARRAY] += tape.n_scalars - ARRAY
            found[used] |= varied[operands].astype(np.int32) << i
        bits = bits & found
    masks = _masks()[rows[:, 0], bits]
    named = [units(writes[:, 1], tape)]
    for column in _COLUMNS.values():
        named.append(units(rows[masks >> column & 1 == 1, column], tape))
    return np.unique(np.concatenate(named))


@functools.cache
def _masks() -> np.ndarray:
    """Columns that are read, as bits, by op code and active operands."""
    masks = np.zeros((layout.N_OPS, 8), np.int32)
    for op in OPS.values():
        if op.pull is None:
            continue
        for bits in range(1, 1 << op.arity):
            chosen = tuple(bool(bits >> i & 1) for i in range(op.arity))
            on = tuple(a and b for a, b in zip(chosen, differentiable(op.name), strict=True))
            for name in reads(op.name, on):
                masks[op.code, bits] |= 1 << _COLUMNS[name]
    return masks


def units_restored(tape: Tape, calls: Iterable[Call]) -> np.ndarray:
    """Units that in-place writes, by rows and by ``calls``, change."""
    rows = tape.code[tape.code[:, 0] == WRITE]
    targets = [unit(call.operands[-1], tape) for call in calls if call.op in IN_PLACE]
    return np.concatenate([units(rows[:, 2], tape), np.array(targets, np.int64)])


def unrestored(tape: Tape, segments: Iterable[Any], group: Any) -> set[int]:
    """Calls (by id) that write in place, and that the reverse sweep need not undo.

    A write saves what it overwrites, and the reverse sweep puts that back, so that what ran before
    the write finds the values that it read.  Where nothing before the write reads the target's
    values in reverse, as after ``new = u.copy()``, neither is needed.
    """
    read = np.zeros(tape.n_scalars + len(tape.buffers), bool)
    found = set()
    for segment in segments:
        for call in segment.calls:
            if call.op in IN_PLACE and not read[unit(call.operands[-1], tape)]:
                found.add(id(call))
        read[units_read(tape, segment, group)] = True
    return found
