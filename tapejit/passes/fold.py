"""Constant folding: rows whose operands are all constants become constants."""

from __future__ import annotations

import numpy as np

from ..interpreters import entry, layout
from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD, compiled, emit_forward, tables
from ..lowering.stream import kernel_table
from ..tape import ARRAY, Tape
from .draft import Draft

__all__ = ["fold_constants"]


def constant_rows(code, keep, constant, arity, chosen):
    """Mark the rows from ``keep`` on whose operands are all constants, and their results."""
    for i in range(keep, code.shape[0]):
        op = code[i, 0]
        if op >= WRITE:
            continue
        known = 1
        for j in range(arity[op]):
            element = code[i, 2 + j]
            if element >= ARRAY or constant[element] == 0:
                known = 0
        if known and code[i, 1] < ARRAY:
            chosen[i] = 1
            constant[code[i, 1]] = 1


def resolve(code, keep, arity, leader):
    """Rename operands to their leaders, from row ``keep`` on."""
    for i in range(keep, code.shape[0]):
        op = code[i, 0]
        if op != DEAD and op != CALL:
            for j in range(arity[op]):
                if code[i, 2 + j] < ARRAY:
                    code[i, 2 + j] = leader[code[i, 2 + j]]


_CONSTANT_ROWS = "void(int32[:,::1],int64,uint8[::1],int32[::1],uint8[::1])"
_RESOLVE = "void(int32[:,::1],int64,int32[::1],int32[::1])"


def fold_constants(tape: Tape) -> Tape:
    """The tape with scalar rows of constants alone evaluated, by the interpreter that replays it.

    So values stay the same bit for bit.  Equal constants become one.  (NumPy evaluates array
    operations on constants before they reach a tape.)
    """
    draft = Draft(tape)
    arity, _, _ = tables()
    ids, _ = tape.scalar_constants
    constant = np.zeros(max(tape.n_scalars, 1), np.uint8)
    constant[ids] = 1
    chosen = np.zeros(len(draft.code), np.uint8)
    compiled(constant_rows, _CONSTANT_ROWS)(draft.code, draft.keep, constant, arity, chosen)
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return tape
    results = draft.code[rows, 1]
    draft.add_constants(results, _evaluated(draft.code[rows], tape)[results])
    draft.code[rows, 0] = DEAD
    _merge_equal(draft, len(ids))
    compiled(resolve, _RESOLVE)(draft.code, draft.keep, arity, draft.leader)
    for _ in draft.runs():  # resolves the operands of calls
        pass
    return draft.finish()


def _evaluated(rows: np.ndarray, tape: Tape) -> np.ndarray:
    """The scalars after a forward sweep over these rows."""
    arity, _, _ = tables()
    ids, values = tape.scalar_constants
    scalars = np.zeros(tape.n_scalars)
    scalars[ids] = values
    words = np.empty(5 * len(rows), np.int32)
    starts = np.empty(len(rows), np.int32)
    n = compiled(emit_forward)(
        np.ascontiguousarray(rows), arity, 0, len(rows), 0, tape.n_scalars, words, 0, starts
    )
    table = kernel_table()
    table.require("forward")
    types, budget = entry.header_words(), np.zeros(1, np.int64)
    context = np.zeros(layout.CONTEXT_WORDS, np.int64)
    context[layout.TILE_SIZE] = layout.UNTILED
    context[layout.KERNELS] = table.addresses.ctypes.data
    context[layout.FORWARD] = words.ctypes.data
    context[layout.FORWARD_STOP] = n
    context[layout.VALUES] = scalars.ctypes.data
    context[layout.TYPES] = types.ctypes.data
    context[layout.BUDGET] = budget.ctypes.data
    run = entry.run if table.plain else entry.entries()[0]
    with np.errstate(all="ignore"):
        status = run(context.ctypes.data, 0, entry.RUN_FORWARD)
    assert status == layout.DONE
    return scalars


def _merge_equal(draft: Draft, n_recorded: int) -> None:
    """Let one constant stand for all of the same bits; recorded ones come first."""
    ids, values = draft.constants()
    _, first, inverse = np.unique(values.view(np.int64), return_index=True, return_inverse=True)
    leaders = ids[first[inverse]]
    draft.leader[ids[n_recorded:]] = leaders[n_recorded:]
