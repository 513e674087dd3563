"""Slots for scalars: in a program without a reverse sweep, results take the places of dead ones."""

from __future__ import annotations

import numpy as np

from ..interpreters.layout import CALL, GUARD_TRUE, WRITE
from ..tape import ARRAY, SCALAR, Tape, with_numbers
from .scalars import compiled, runs, tables

__all__ = ["share_slots"]


def note_uses(code, arity, last_use):
    """The last row that reads each scalar."""
    for i in range(code.shape[0]):
        op = code[i, 0]
        if op != CALL:
            for j in range(arity[op]):
                if code[i, 2 + j] < ARRAY:
                    last_use[code[i, 2 + j]] = i


def assign_slots(code, arity, last_use, slots, free, n):
    """Rename the scalars of all rows to slots; those from ``n`` on are shared; how many there are.

    ``slots`` has the slots of scalars that keep theirs, -1 for the others; ``free`` is a stack.
    """
    n_free = 0
    fixed = n
    for i in range(code.shape[0]):
        op = code[i, 0]
        if op == CALL:
            continue
        source = code[i, 3]
        for j in range(arity[op]):
            element = code[i, 2 + j]
            if element >= ARRAY:
                continue
            slot = slots[element]
            code[i, 2 + j] = slot
            # A write saves its target before it reads its source.
            if slot >= fixed and last_use[element] == i and op != WRITE:
                last_use[element] = -1  # the row may name it twice
                free[n_free] = slot
                n_free += 1
        if op < GUARD_TRUE and code[i, 1] < ARRAY:
            result = code[i, 1]
            if slots[result] < 0:
                if n_free > 0:
                    n_free -= 1
                    slots[result] = free[n_free]
                else:
                    slots[result] = n
                    n += 1
                if last_use[result] <= i:  # nobody reads it
                    free[n_free] = slots[result]
                    n_free += 1
            code[i, 1] = slots[result]
        if op == WRITE and source < ARRAY and slots[source] >= fixed and last_use[source] == i:
            free[n_free] = slots[source]
            n_free += 1
    return n


_V = "int32[::1]"
_NOTE_USES = f"void(int32[:,::1],{_V},{_V})"
_ASSIGN_SLOTS = f"int64(int32[:,::1],{_V},{_V},{_V},{_V},int64)"


def share_slots(tape: Tape) -> Tape:
    """The tape with scalars whose live ranges don't meet under one number: no longer a tape in
    single-assignment form, but code to be laid out and run forward.

    Inputs, outputs, constants and what array instructions name keep a slot of their own.
    """
    arity, _, _ = tables()
    code = tape.code.copy()
    code.flags.writeable = True
    slots = np.full(max(tape.n_scalars, 1), -1, np.int32)
    named = [leaf.view for leaf in (*tape.inputs, *tape.outputs)]
    for _, _, call in runs(tape.code, tape.calls):
        if call is not None:
            named += (*call.operands, call.result)
    offsets = [view.offset for view in named if view.buffer == SCALAR]
    own = np.unique(np.concatenate([np.array(offsets, np.int64), tape.scalar_constants[0]]))
    slots[own] = np.arange(len(own))
    last_use = np.full(len(slots), -1, np.int32)
    compiled(note_uses, _NOTE_USES)(code, arity, last_use)
    free = np.empty(len(slots) + 1, np.int32)
    n = compiled(assign_slots, _ASSIGN_SLOTS)(code, arity, last_use, slots, free, len(own))
    return with_numbers(tape, code, slots, int(n))
