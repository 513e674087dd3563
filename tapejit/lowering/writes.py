"""In-place writes whose target the reverse sweep need not restore.

A write saves what it overwrites, and the reverse sweep puts that back, so that what ran before the
write finds the values that it read.  Where nothing before the write reads the target's values in
reverse, as after ``new = u.copy()``, neither is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..interpreters.layout import CALL
from ..ops.structural import IN_PLACE
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Tape
from .elementwise import differentiable, reads

__all__ = ["unrestored"]

#: Operands whose values the reverse sweep of an operation reads; of others it may read all.
_READ: dict[str, tuple[int, ...]] = {
    "assemble": (), "concatenate": (), "copy": (), "gather": (1,), "named": (), "scatter_add": (1,),
    "scatter_write": (1,), "sum": (), "write": (),
}  # fmt: skip


def unrestored(tape: Tape, segments: Iterable[Any], group: Any) -> set[int]:
    """Calls (by id) that write in place, and that the reverse sweep need not undo.

    ``segments``: rows in the order in which they run; ``group`` gives a segment's chain.
    """
    read: set[int] = set()
    found = set()
    for segment in segments:
        if not segment.calls:
            read |= _elements_named(tape, segment.first, segment.last)
            continue
        if segment.calls[0].op in OPS and group(segment).elided:
            # What lies in registers only is computed again, from all that it was made of.
            for call in segment.calls:
                read.update(view.buffer for view in (*call.operands, call.result))
            continue
        for call in segment.calls:
            if call.op in IN_PLACE and call.operands[-1].buffer not in read:
                found.add(id(call))
            read |= _read_by(call)
    return found


def _elements_named(tape: Tape, first: int, last: int) -> set[int]:
    """The buffers that scalar rows name."""
    rows = tape.code[first:last]
    elements = rows[rows[:, 0] < CALL, 1:]
    elements = np.unique(elements[elements >= ARRAY])
    return set(np.unique(tape.buffer_of(elements - ARRAY)).tolist()) if len(elements) else set()


def _read_by(call: Call) -> set[int]:
    """The buffers whose values the reverse sweep of a call may read."""
    views = [*call.operands, call.result]
    if call.op in OPS:
        names = reads(call.op, differentiable(call.op))
        named = zip("xyz"[: len(call.operands)] + "f", views, strict=True)
        views = [view for name, view in named if name in names]
    elif call.op in _READ:
        views = [call.operands[i] for i in _READ[call.op]]
    return {view.buffer for view in views if view.buffer != SCALAR}
