"""Lowering of scalar instructions: compiled loops over the tape's code, no Python per node.

Each function here is plain Python over integer arrays; :func:`compiled` gives the compiled twin
(cached on disk).  ``code`` has a row (op, out, a, b, c) an instruction; ``DEAD`` marks rows that a
pass removes.  Elements at or above ``ARRAY`` belong to array buffers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numba.extending import register_jitable

from ..interpreters import layout
from ..interpreters.layout import CALL, GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from ..ops.table import OPS
from ..tape import ARRAY, Call

DEAD = -1


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(operands of each op code, its differentiable operands as bits, reverse code by bits)."""
    arity = np.zeros(layout.N_OPS, np.int32)
    active = np.zeros(layout.N_OPS, np.int32)
    reverse = np.zeros((layout.N_OPS, 8), np.int32)
    for op in OPS.values():
        arity[op.code] = op.arity
        if op.pull is not None:
            active[op.code] = _differentiable(op)
            for bits in range(1, 1 << op.arity):
                reverse[op.code, bits] = layout.reverse_code(op.code, bits)
    arity[GUARD_TRUE] = arity[GUARD_FALSE] = 1
    arity[GUARD_EQUAL] = arity[WRITE] = 2
    active[WRITE] = 3
    return arity, active, reverse


def _differentiable(op) -> int:
    from ..interpreters.generate import pulls

    return sum(1 << i for i, pull in enumerate(pulls(op)) if pull is not None)


def runs(code: np.ndarray, calls: Sequence[Call]) -> Iterator[tuple[int, int, Call | None]]:
    """(first row, last row, call): runs of scalar rows, and calls one by one."""
    at = 0
    for row in np.flatnonzero(code[:, 0] == CALL).tolist():
        if row > at:
            yield at, row, None
        yield row, row + 1, calls[code[row, 1]]
        at = row + 1
    if at < len(code):
        yield at, len(code), None


def fixed_rows(code: np.ndarray) -> int:
    """How many rows, from the first, stay as they are: those up to the last guard."""
    guards = np.flatnonzero(np.isin(code[:, 0], (GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL)))
    return int(guards[-1]) + 1 if len(guards) else 0


@register_jitable
def address(element, scalar_base, array_base):
    """Arena offset of an element."""
    return scalar_base + element if element < ARRAY else array_base + (element - ARRAY)


def vary(code, varied, arity, active, first, last, scalar_base, array_base):
    """Which elements depend on a differentiated argument (rows in [first, last))."""
    for i in range(first, last):
        op = code[i, 0]
        if op == CALL:
            continue
        out = address(code[i, 1], scalar_base, array_base)
        if op == WRITE:
            target = address(code[i, 2], scalar_base, array_base)
            varied[out] = varied[target]
            varied[target] |= varied[address(code[i, 3], scalar_base, array_base)]
        elif op < WRITE:
            mark = 0
            for j in range(arity[op]):
                if active[op] >> j & 1:
                    mark |= varied[address(code[i, 2 + j], scalar_base, array_base)]
            varied[out] = mark


def emit_forward(code, arity, first, last, scalar_base, array_base, words, at, starts):
    """Forward (equally tangent) words of rows [first, last); returns the next free word."""
    for i in range(first, last):
        op = code[i, 0]
        starts[i] = at
        if op == CALL:
            continue
        words[at] = op
        at += 1
        if op < GUARD_TRUE:
            words[at] = address(code[i, 1], scalar_base, array_base)
            at += 1
        for j in range(arity[op]):
            words[at] = address(code[i, 2 + j], scalar_base, array_base)
            at += 1
    return at


def emit_reverse(
    code, arity, active, reverse, first, last, scalar_base, array_base, varied, touched, words, at
):
    """Reverse words of rows [first, last), last row first; returns the next free word.

    Rows whose result no cotangent reaches are left out, and so are operands that do not vary.
    """
    for i in range(last - 1, first - 1, -1):
        op = code[i, 0]
        if op > WRITE:
            continue
        out = address(code[i, 1], scalar_base, array_base)
        if op == WRITE:
            target = address(code[i, 2], scalar_base, array_base)
            source = address(code[i, 3], scalar_base, array_base)
            words[at] = WRITE
            words[at + 1] = out
            words[at + 2] = target
            words[at + 3] = source
            at += 4
            touched[target] = 1
            touched[source] = 1
            continue
        if touched[out] == 0:
            continue
        bits = 0
        for j in range(arity[op]):
            if active[op] >> j & 1 and varied[address(code[i, 2 + j], scalar_base, array_base)]:
                bits |= 1 << j
        if bits == 0:
            continue
        words[at] = reverse[op, bits]
        words[at + 1] = out
        at += 2
        for j in range(arity[op]):
            operand = address(code[i, 2 + j], scalar_base, array_base)
            words[at] = operand
            at += 1
            if bits >> j & 1:
                touched[operand] = 1
    return at


def relocate(words, counts, table):
    """Put the places of a table for the virtual addresses in scalar code."""
    at = 0
    while at < len(words):
        n = counts[words[at]]
        for j in range(at + 1, at + 1 + n):
            words[j] = table[words[j]]
        at += 1 + n


@functools.cache
def operand_words() -> np.ndarray:
    """How many addresses follow each op code, forward and reverse, in scalar code."""
    arity, _, _ = tables()
    counts = np.zeros(layout.N_OPS + len(layout.REVERSE_CODES), np.int32)
    for op in range(layout.CALL):
        counts[op] = arity[op] + (op < GUARD_TRUE)
    for (op, _), code in layout.REVERSE_CODES.items():
        counts[code] = 1 + arity[op]
    return counts


_I, _B = "int32[:,::1]", "uint8[::1]"
_V, _M, _N = "int32[::1]", "int32[:,::1]", "int64"
SIGNATURES = {
    "vary": f"void({_I},{_B},{_V},{_V},{_N},{_N},{_N},{_N})",
    "relocate": f"void({_V},{_V},{_V})",
    "emit_forward": f"int64({_I},{_V},{_N},{_N},{_N},{_N},{_V},{_N},{_V})",
    "emit_reverse": f"int64({_I},{_V},{_V},{_M},{_N},{_N},{_N},{_N},{_B},{_B},{_V},{_N})",
}


def compiled(function: Callable, signature: str | None = None) -> Callable:
    """The compiled twin of a loop over rows (itself, where plain Python is asked for)."""
    from ..config import settings
    from ..interpreters.cache import compile_entry

    if settings.plain_python:
        return function
    return compile_entry(signature or SIGNATURES[function.__name__], function)
