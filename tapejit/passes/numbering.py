"""Numbers without gaps: scalars in the order in which they are made, arrays by who names them.

Scalars, and arrays whose elements scalar rows name, lie in the arena at the tape's own numbers:
they come first, and close together.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..interpreters.layout import CALL, GUARD_TRUE
from ..lowering.scalars import compiled, fixed_rows, runs, tables
from ..tape import ALIGNMENT, ARRAY, SCALAR, Tape, View, with_numbers

__all__ = ["renumber"]


def assign(code, first, last, arity, numbers, n):
    """Number the operands and results of rows [first, last) that have no number; the next one."""
    for i in range(first, last):
        op = code[i, 0]
        if op == CALL:
            continue
        for j in range(arity[op]):
            element = code[i, 2 + j]
            if element < ARRAY:
                if numbers[element] < 0:
                    numbers[element] = n
                    n += 1
                code[i, 2 + j] = numbers[element]
        if op < GUARD_TRUE:
            element = code[i, 1]
            if element < ARRAY:
                if numbers[element] < 0:
                    numbers[element] = n
                    n += 1
                code[i, 1] = numbers[element]
    return n


_ASSIGN = "int64(int32[:,::1],int64,int64,int32[::1],int32[::1],int64)"


def renumber(tape: Tape) -> Tape:
    """The tape with its scalars and array elements numbered anew.

    Scalars that nothing names are gone.  Numbers that rows up to the last guard may name stay.
    """
    tape = _renumber_scalars(tape)
    return tape if fixed_rows(tape.code) else _renumber_elements(tape)


def _renumber_elements(tape: Tape) -> Tape:
    """Buffers that scalar rows address first in the array region, the others behind them."""
    kept = [i for i, buffer in enumerate(tape.buffers) if buffer.base >= 0]
    order = sorted(kept, key=lambda i: (i not in tape.addressed, tape.buffers[i].base))
    if not tape.addressed or order == sorted(kept, key=lambda i: tape.buffers[i].base):
        return tape
    shifts, buffers, at = np.zeros(len(tape.buffers), np.int64), list(tape.buffers), 0
    for i in order:
        buffer = tape.buffers[i]
        shifts[i] = at - buffer.base
        buffers[i] = buffer._replace(base=at)
        at += -(-buffer.size // ALIGNMENT) * ALIGNMENT
    code = tape.code.copy()
    code.flags.writeable = True
    operands = code[:, 1:]
    chosen = (operands >= ARRAY) & (code[:, :1] != CALL)
    elements = operands[chosen].astype(np.int64)
    operands[chosen] = elements + shifts[tape.buffer_of(elements - ARRAY)]
    code.flags.writeable = False
    return dataclasses.replace(tape, code=code, buffers=tuple(buffers), n_array_elements=at)


def _renumber_scalars(tape: Tape) -> Tape:
    arity, _, _ = tables()
    keep = fixed_rows(tape.code)
    code = tape.code.copy()
    code.flags.writeable = True
    numbers = np.full(max(tape.n_scalars, 1), -1, np.int32)
    n = _fixed_scalars(tape, keep)
    numbers[:n] = np.arange(n)
    for leaf in tape.inputs:
        n = _number(leaf.view, numbers, n)
    loop = compiled(assign, _ASSIGN)
    for first, last, call in runs(tape.code, tape.calls):
        if call is None:
            n = loop(code, first, last, arity, numbers, n)
            continue
        for view in (*call.operands, call.result):
            n = _number(view, numbers, n)
    for leaf in tape.outputs:
        n = _number(leaf.view, numbers, n)
    return with_numbers(tape, code, numbers, int(n))


def _fixed_scalars(tape: Tape, keep: int) -> int:
    """How many scalars, from the first, keep their numbers: all that fixed rows may name."""
    if not keep:
        return 0
    rows = tape.code[:keep]
    elements = rows[rows[:, 0] != CALL, 1:]
    elements = elements[elements < ARRAY]
    most = int(elements.max()) + 1 if len(elements) else 0
    for number in rows[rows[:, 0] == CALL, 1].tolist():
        call = tape.calls[number]
        for view in (*call.operands, call.result):
            if view.buffer == SCALAR:
                most = max(most, view.offset + 1)
    return most


def _number(view: View, numbers: np.ndarray, n: int) -> int:
    if view.buffer == SCALAR and numbers[view.offset] < 0:
        numbers[view.offset] = n
        n += 1
    return n
