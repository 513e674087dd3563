"""Lowering of scalar instructions: compiled loops over the tape's code, no Python per node.

Each function here is plain Python over integer arrays; :func:`compiled` gives the compiled twin
(cached on disk).  ``code`` has a row (op, out, a, b, c) an instruction; ``DEAD`` marks rows that
are not emitted.  Elements at or above ``ARRAY`` belong to array buffers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from ..interpreters import layout
from ..interpreters.layout import CALL, GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from ..ops.table import OPS
from ..tape import ARRAY

DEAD = -1
_ADD, _SUB, _MUL, _SQUARE = (OPS[name].code for name in ("add", "sub", "mul", "square"))
_MULADD, _SUBMUL, _MULSUB = (OPS[name].code for name in ("muladd", "submul", "mulsub"))


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


def live(code, keep, needed, arity, first, last):
    """Mark as DEAD the rows in [first, last) whose result nobody needs, from the last to the first.

    ``keep`` rows and up (counted from the start) may be removed; guards and writes always stay.
    """
    for i in range(last - 1, first - 1, -1):
        op = code[i, 0]
        if op == DEAD or op == CALL:
            continue
        if op < WRITE and i >= keep and needed[code[i, 1]] == 0:
            code[i, 0] = DEAD
            continue
        for j in range(arity[op]):
            needed[code[i, 2 + j]] = 1


def count_uses(code, uses, arity):
    """How often each scalar is an operand."""
    for i in range(code.shape[0]):
        op = code[i, 0]
        if op != DEAD and op != CALL:
            for j in range(arity[op]):
                if code[i, 2 + j] < uses.shape[0]:
                    uses[code[i, 2 + j]] += 1


def fuse(code, uses, producer, first, last):
    """Merge a product that is used once with the sum or difference that uses it.

    Two roundings as before; never across a guard (a resumed sweep starts there) or a write (an
    operand may be overwritten).
    """
    barrier = first
    for i in range(first, last):
        op = code[i, 0]
        if op >= WRITE:
            barrier = i + 1
            continue
        if op == _MUL or op == _SQUARE:
            producer[code[i, 1]] = i
        if op != _ADD and op != _SUB:
            continue
        for side in range(1, -1, -1):
            operand = code[i, 2 + side]
            other = code[i, 3 - side]
            if operand >= uses.shape[0] or uses[operand] != 1:
                continue
            at = producer[operand]
            if at < barrier or code[at, 0] == DEAD or code[at, 1] != operand:
                continue
            x = code[at, 2]
            y = code[at, 3] if code[at, 0] == _MUL else x
            if op == _ADD:
                code[i, 0] = _MULADD
            elif side == 1:
                code[i, 0] = _SUBMUL
            else:
                code[i, 0] = _MULSUB
            code[at, 0] = DEAD
            code[i, 2] = x
            code[i, 3] = y
            code[i, 4] = other
            break


@register_jitable
def address(element, scalar_base, array_base):
    """Arena offset of an element."""
    return scalar_base + element if element < ARRAY else array_base + (element - ARRAY)


def vary(code, varied, arity, active, first, last, scalar_base, array_base):
    """Which elements depend on a differentiated argument (rows in [first, last))."""
    for i in range(first, last):
        op = code[i, 0]
        if op == DEAD or op == CALL:
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
        if op == DEAD or op == CALL:
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
        if op == DEAD or op > WRITE:
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


_I, _B = "int32[:,::1]", "uint8[::1]"
_V, _M, _N = "int32[::1]", "int32[:,::1]", "int64"
SIGNATURES = {
    "live": f"void({_I},{_N},{_B},{_V},{_N},{_N})",
    "count_uses": f"void({_I},{_V},{_V})",
    "fuse": f"void({_I},{_V},{_V},{_N},{_N})",
    "vary": f"void({_I},{_B},{_V},{_V},{_N},{_N},{_N},{_N})",
    "emit_forward": f"int64({_I},{_V},{_N},{_N},{_N},{_N},{_V},{_N},{_V})",
    "emit_reverse": f"int64({_I},{_V},{_V},{_M},{_N},{_N},{_N},{_N},{_B},{_B},{_V},{_N})",
}


def compiled(function: Callable) -> Callable:
    """The compiled twin of a function of this module (itself, where plain Python is asked for)."""
    from ..config import settings
    from ..interpreters.cache import compile_entry

    if settings.plain_python:
        return function
    return compile_entry(SIGNATURES[function.__name__], function)
