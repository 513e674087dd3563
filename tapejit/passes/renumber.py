"""Numbers of scalars without gaps, in the order in which they are made: a small, dense arena."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..interpreters.layout import CALL, GUARD_TRUE
from ..lowering.scalars import compiled, runs, tables
from ..tape import ARRAY, SCALAR, Call, Leaf, Tape, View
from .draft import fixed_rows

__all__ = ["renumber_scalars"]


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


def renumber_scalars(tape: Tape) -> Tape:
    """The tape with its scalars numbered anew; those that nothing names are gone.

    Scalars that rows up to the last guard may name keep their numbers.
    """
    arity, _, _ = tables()
    keep = fixed_rows(tape.code)
    code = tape.code.copy()
    code.flags.writeable = True
    numbers = np.full(max(tape.n_scalars, 1), -1, np.int32)
    n = _fixed_scalars(tape, keep)
    numbers[:n] = np.arange(n)
    for leaf in tape.inputs:
        n = _number(leaf.view, numbers, n)
    calls: list[Call] = []
    loop = compiled(assign, _ASSIGN)
    for first, last, call in runs(tape.code, tape.calls):
        if call is None:
            n = loop(code, first, last, arity, numbers, n)
            continue
        for view in (*call.operands, call.result):
            n = _number(view, numbers, n)
        operands = tuple([_renamed(view, numbers) for view in call.operands])
        calls.append(call._replace(operands=operands, result=_renamed(call.result, numbers)))
    for leaf in tape.outputs:
        n = _number(leaf.view, numbers, n)
    ids, values = tape.scalar_constants
    used = numbers[ids] >= 0
    ids, values = numbers[ids[used]].astype(np.int64), values[used]
    for array in (code, ids, values):
        array.flags.writeable = False
    return dataclasses.replace(
        tape,
        code=code,
        calls=tuple(calls),
        n_scalars=int(n),
        scalar_constants=(ids, values),
        inputs=_leaves(tape.inputs, numbers),
        outputs=_leaves(tape.outputs, numbers),
    )


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


def _renamed(view: View, numbers: np.ndarray) -> View:
    if view.buffer != SCALAR:
        return view
    return view._replace(offset=int(numbers[view.offset]))


def _leaves(leaves: tuple[Leaf, ...], numbers: np.ndarray) -> tuple[Leaf, ...]:
    return tuple([Leaf(_renamed(view, numbers), dtype) for view, dtype in leaves])
