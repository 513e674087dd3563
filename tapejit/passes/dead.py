"""Dead code: rows that neither an output nor a guard needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD, compiled, runs, tables
from ..ops.structural import IN_PLACE, STRUCTURAL
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Tape, View
from .draft import Draft

__all__ = ["remove_dead"]


def live(code, keep, marks, arity, first, last):
    """Mark as DEAD the rows in [first, last) whose result nobody needs, from the last to the first.

    Rows before ``keep`` stay, and guards.  ``marks`` tells which scalars, and which buffers, are
    read later on.
    """
    for i in range(last - 1, first - 1, -1):
        op = code[i, 0]
        if op == DEAD or op == CALL:
            continue
        if i >= keep and (
            (op < WRITE and marks[code[i, 1]] == 0)
            or (op == WRITE and marks[code[i, 1]] == 0 and marks[code[i, 2]] == 0)
        ):
            code[i, 0] = DEAD
            continue
        for j in range(arity[op]):
            marks[code[i, 2 + j]] = 1


_LIVE = "void(int32[:,::1],int64,uint8[::1],int32[::1],int64,int64)"


def remove_dead(tape: Tape, values_only: bool = False) -> Tape:
    """The tape without rows whose result is never read.

    Operations that check their operands stay (``normalise_index``), and so do all rows before the
    last guard.

    Parameters
    ----------
    values_only
        Operands that only an operation's derivatives read do not count.

    References: Aho, Lam, Sethi, Ullman, "Compilers", 2nd ed., section 9.2.5 (live variables).
    """
    draft = Draft(tape)
    arity, _, _ = tables()
    marks = np.zeros(tape.n_scalars + len(tape.buffers) + 1, np.uint8)
    rows = _by_buffers(draft.code, tape)
    for leaf in tape.outputs:
        marks[_mark(leaf.view, tape)] = 1
    loop = compiled(live, _LIVE)
    for first, last, call in reversed(list(runs(tape.code, tape.calls))):
        if call is None:
            loop(rows, draft.keep, marks, arity, first, last)
            continue
        needed = marks[_mark(call.result, tape)]
        if call.op in IN_PLACE:
            needed |= marks[_mark(call.operands[-1], tape)]
        if first >= draft.keep and not needed and call.op != "normalise_index":
            rows[first, 0] = DEAD
            continue
        for view in _read(call, values_only):
            marks[_mark(view, tape)] = 1
    draft.code[:, 0] = rows[:, 0]
    return draft.finish()


def _read(call: Call, values_only: bool) -> Sequence[View]:
    """The operands that a call's value, or also its derivatives, are made of."""
    positions = STRUCTURAL[call.op].needed if values_only and call.op not in OPS else None
    return call.operands if positions is None else [call.operands[i] for i in positions]


def _mark(view: View, tape: Tape) -> int:
    """Where a value is marked: scalars one by one, buffers as a whole."""
    return view.offset if view.buffer == SCALAR else tape.n_scalars + view.buffer


def _by_buffers(code: np.ndarray, tape: Tape) -> np.ndarray:
    """The rows with each array element replaced by the mark of its buffer."""
    rows = code.copy()
    if tape.buffers:
        operands = rows[:, 1:]
        chosen = (operands >= ARRAY) & (rows[:, :1] < CALL)
        if chosen.any():
            elements = operands[chosen].astype(np.int64) - ARRAY
            operands[chosen] = tape.n_scalars + tape.buffer_of(elements)
    return rows
