"""Derivatives of scalar rows: compiled loops that instantiate templates, no Python per node.

Elements are numbered compactly here: the tape's scalars first, then all elements of those array
buffers that scalar rows touch.  Arrays by compact number: ``where`` says at which element the value
stands that a row saw (a later write moves it to its save slot), ``held`` which element holds the
adjoint (reverse) or the tangent (forward) so far, -1 for none.

As in :mod:`tapejit.lowering.scalars`, each function is plain Python over integer arrays, and
:func:`compiled` gives the compiled twin.
"""

from __future__ import annotations

from collections.abc import Callable

from numba.extending import register_jitable

from ..interpreters.layout import CALL, GUARD_TRUE, WRITE
from ..lowering import scalars as lowering
from ..ops.table import OPS
from .templates import CONSTANT, F, G, X

_ADD, _MUL, _STRONG = (OPS[name].code for name in ("add", "mul", "strong_mul"))


def activity(code, bits, varied, arity, active, first, last):
    """Which operands of each row carry derivatives, as bits, and what they make vary."""
    for i in range(first, last):
        op = code[i, 0]
        bits[i] = 0
        if op == WRITE:
            varied[code[i, 1]] = varied[code[i, 2]]
            varied[code[i, 2]] |= varied[code[i, 3]]
        elif op < WRITE:
            mark = 0
            for j in range(arity[op]):
                if active[op] >> j & 1 and varied[code[i, 2 + j]]:
                    mark |= 1 << j
            bits[i] = mark
            varied[code[i, 1]] = 1 if mark else 0


def useful(code, needed, arity, first, last):
    """Mark what the needed elements are computed from, last row first."""
    for i in range(last - 1, first - 1, -1):
        op = code[i, 0]
        if op == CALL or op >= GUARD_TRUE:
            continue
        if op == WRITE:
            if needed[code[i, 2]] or needed[code[i, 1]]:
                needed[code[i, 2]] = needed[code[i, 3]] = 1
        elif needed[code[i, 1]]:
            for j in range(arity[op]):
                needed[code[i, 2 + j]] = 1


def most_rows(code, bits, index, starts, first, last):
    """How many rows the templates of [first, last) have at the most, additions included."""
    n = 0
    for i in range(first, last):
        n += 2  # the row itself, where it is repeated; an addition
        if bits[i] and code[i, 0] < WRITE:
            t = index[code[i, 0], bits[i]]
            n += starts[t + 1] - starts[t] + 2
    return n


@register_jitable
def instantiate(t, starts, templates, constants, slots, one, number, out, origin, at, i):
    """Emit the rows of template ``t`` on ``slots``; returns (rows so far, next scalar)."""
    for r in range(starts[t], starts[t + 1]):
        op = templates[r, 0]
        for k in range(3):
            s = templates[r, 2 + k]
            out[at, 2 + k] = slots[s] if s < CONSTANT else constants[s - CONSTANT]
        a, b = out[at, 2], out[at, 3]
        if (op == _MUL or op == _STRONG) and a == one:
            slots[templates[r, 1]] = b
        elif op == _MUL and b == one:
            slots[templates[r, 1]] = a
        else:
            slots[templates[r, 1]] = number
            out[at, 0] = op
            out[at, 1] = number
            origin[at] = i
            number += 1
            at += 1
    return at, number


@register_jitable
def accumulate(held, target, part, number, out, origin, at, i):
    """Let ``part`` be added to an element's adjoint; returns (rows so far, next scalar)."""
    if held[target] < 0:
        held[target] = part
        return at, number
    out[at, 0], out[at, 1] = _ADD, number
    out[at, 2], out[at, 3], out[at, 4] = held[target], part, 0
    origin[at] = i
    held[target] = number
    return at + 1, number + 1


def pull_rows(
    code, bits, where, held, index, starts, templates, outputs, constants, slots, one, number,
    first, last, out, origin, made,
):  # fmt: skip
    """Reverse rows for [first, last), last row first.

    ``made`` receives the numbers of new rows and of new scalars.
    """
    at = 0
    start = number
    for i in range(last - 1, first - 1, -1):
        op = code[i, 0]
        if op == WRITE:
            # What the element held before is found in the save slot, and so is its adjoint.
            save, target, source = code[i, 1], code[i, 2], code[i, 3]
            g = held[target]
            held[target] = held[save]
            held[save] = -1
            where[target] = where[save]
            if g >= 0 and bits[i]:
                at, number = accumulate(held, source, g, number, out, origin, at, i)
            continue
        if op > WRITE:
            continue
        g = held[code[i, 1]]
        held[code[i, 1]] = -1
        if g < 0 or bits[i] == 0:
            continue
        t = index[op, bits[i]]
        slots[G] = g
        for j in range(3):
            slots[X + j] = where[code[i, 2 + j]]
        slots[F] = where[code[i, 1]]
        at, number = instantiate(
            t, starts, templates, constants, slots, one, number, out, origin, at, i
        )
        for j in range(3):
            s = outputs[t, j]
            if s < 0:
                continue
            part = slots[s] if s < CONSTANT else constants[s - CONSTANT]
            target = code[i, 2 + j]
            at, number = accumulate(held, target, part, number, out, origin, at, i)
    made[0], made[1] = at, number - start


def push_rows(
    code, original, bits, needed, held, zero, repeat, index, starts, templates, outputs, constants,
    slots, one, number, first, last, out, origin, made,
):  # fmt: skip
    """Tangent rows for [first, last), the rows themselves before them where ``repeat`` is set.

    ``made`` receives the numbers of new rows and of new scalars.
    """
    at = 0
    start = number
    for i in range(first, last):
        op = code[i, 0]
        if repeat:
            for k in range(5):
                out[at, k] = original[i, k]
            origin[at] = i
            at += 1
        if op == WRITE:
            save, target, source = code[i, 1], code[i, 2], code[i, 3]
            held[save] = held[target]
            held[target] = held[source]
            continue
        if op > WRITE:
            continue
        held[code[i, 1]] = -1
        if bits[i] == 0 or needed[code[i, 1]] == 0:
            continue
        t = index[op, bits[i]]
        for j in range(3):
            operand = code[i, 2 + j]
            slots[G + j] = held[operand] if held[operand] >= 0 else zero
            slots[X + j] = original[i, 2 + j]
        slots[F] = original[i, 1]
        at, number = instantiate(
            t, starts, templates, constants, slots, one, number, out, origin, at, i
        )
        s = outputs[t, 0]
        if s >= 0:
            held[code[i, 1]] = slots[s] if s < CONSTANT else constants[s - CONSTANT]
    made[0], made[1] = at, number - start


_I, _B, _V, _N, _M = "int32[:,::1]", "uint8[::1]", "int32[::1]", "int64", "int64[::1]"
SIGNATURES = {
    "activity": f"void({_I},{_B},{_B},{_V},{_V},{_N},{_N})",
    "useful": f"void({_I},{_B},{_V},{_N},{_N})",
    "most_rows": f"int64({_I},{_B},{_I},{_V},{_N},{_N})",
    "pull_rows": (
        f"void({_I},{_B},{_V},{_V},{_I},{_V},{_I},{_I},{_V},{_V},{_N},{_N},"
        f"{_N},{_N},{_I},{_V},{_M})"
    ),
    "push_rows": (
        f"void({_I},{_I},{_B},{_B},{_V},{_N},{_N},{_I},{_V},{_I},{_I},{_V},{_V},{_N},"
        f"{_N},{_N},{_N},{_I},{_V},{_M})"
    ),
}


def compiled(function: Callable) -> Callable:
    """The compiled twin of a function of this module (itself, where plain Python is asked for)."""
    return lowering.compiled(function, SIGNATURES[function.__name__])
