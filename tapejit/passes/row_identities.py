"""The identities of :mod:`.identities` on scalar rows: a rule for each operation, compiled.

A rule is given an operation's operands ``a`` and ``b``: elements.  ``p`` and ``q`` are their values
where they are constants, else NaN, which equals nothing; ``minus_a`` and ``minus_b`` are the
scalars that they are the negations of, else -1.  It returns what the row may be instead, as
(op, first operand, second operand or -1): ``positive(a)`` where it merely repeats ``a``.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD
from ..ops.table import OPS
from ..tape import ARRAY

__all__ = ["DIV", "NONE", "SIMPLIFY_ROWS", "simplify_rows"]

_ADD, _SUB, _MUL, DIV = (OPS[name].code for name in ("add", "sub", "mul", "div"))
_NEG, _POSITIVE, _SQUARE, _ABS = (OPS[name].code for name in ("neg", "positive", "square", "abs"))
_WHERE, _MAXIMUM, _MINIMUM = (OPS[name].code for name in ("where", "maximum", "minimum"))
_POWER, _SQRT = OPS["power"].code, OPS["sqrt"].code
#: Stands for no element.
NONE = -1
#: A row that has become another one may match again, this often; after that it stays as it is.
_REPEATS = 8


@register_jitable
def of_sum(a, b, p, q, minus_a, minus_b, unsafe):
    """``a + b``."""
    if q == 0.0 and (unsafe or np.signbit(q)):
        return _POSITIVE, a, NONE
    if p == 0.0 and (unsafe or np.signbit(p)):
        return _POSITIVE, b, NONE
    if minus_b >= 0:
        return _SUB, a, minus_b
    if minus_a >= 0:
        return _SUB, b, minus_a
    return _ADD, a, b


@register_jitable
def of_difference(a, b, p, q, minus_b, zero, unsafe):
    """``a - b``; ``zero`` is the element that holds 0."""
    if q == 0.0 and (unsafe or not np.signbit(q)):
        return _POSITIVE, a, NONE
    if p == 0.0 and (unsafe or np.signbit(p)):
        return _NEG, b, NONE
    if minus_b >= 0:
        return _ADD, a, minus_b
    if unsafe and a == b:
        return _POSITIVE, zero, NONE
    return _SUB, a, b


@register_jitable
def of_product(a, b, p, q, minus_a, minus_b, zero, unsafe):
    """``a * b``."""
    if q == 1.0:
        return _POSITIVE, a, NONE
    if p == 1.0:
        return _POSITIVE, b, NONE
    if q == -1.0:
        return _NEG, a, NONE
    if p == -1.0:
        return _NEG, b, NONE
    if minus_a >= 0 and minus_b >= 0:
        return _MUL, minus_a, minus_b
    if a == b:
        return _SQUARE, a, NONE
    if unsafe and (p == 0.0 or q == 0.0):
        return _POSITIVE, zero, NONE
    return _MUL, a, b


@register_jitable
def of_quotient(a, b, q, one_over_b, minus_a, minus_b, one, unsafe):
    """``a / b``; ``one_over_b`` is the constant that does the same to a product, else -1."""
    if q == 1.0:
        return _POSITIVE, a, NONE
    if q == -1.0:
        return _NEG, a, NONE
    if minus_a >= 0 and minus_b >= 0:
        return DIV, minus_a, minus_b
    if one_over_b >= 0:
        return _MUL, a, one_over_b
    if unsafe and a == b:
        return _POSITIVE, one, NONE
    return DIV, a, b


@register_jitable
def of_even(op, a, minus_a, inside_abs):
    """``abs(a)`` or ``square(a)``, where ``a`` is ``abs(inside_abs)`` if that is not -1."""
    if minus_a >= 0:
        return op, minus_a, NONE
    if inside_abs >= 0:
        return (_POSITIVE, a, NONE) if op == _ABS else (op, inside_abs, NONE)
    return op, a, NONE


@register_jitable
def of_choice(a, b, c, p):
    """``where(a, b, c)``."""
    if b == c or (p == p and p != 0.0):  # p == p: the condition is known
        return _POSITIVE, b, NONE
    if p == 0.0:
        return _POSITIVE, c, NONE
    return _WHERE, a, b


@register_jitable
def of_power(a, b, q):
    """``power(a, b)``, which rounds otherwise than a product or a root."""
    if q == 2.0:
        return _SQUARE, a, NONE
    if q == 0.5:
        return _SQRT, a, NONE
    return _POWER, a, b


@register_jitable
def of_any(op, a, b, c, p, q, minus_a, minus_b, inside_abs, one_over_b, zero, one, unsafe):
    """The rule of an operation."""
    if op == _ADD:
        return of_sum(a, b, p, q, minus_a, minus_b, unsafe)
    if op == _SUB:
        return of_difference(a, b, p, q, minus_b, zero, unsafe)
    if op == _MUL:
        return of_product(a, b, p, q, minus_a, minus_b, zero, unsafe)
    if op == DIV:
        return of_quotient(a, b, q, one_over_b, minus_a, minus_b, one, unsafe)
    if op == _NEG and minus_a >= 0:
        return _POSITIVE, minus_a, NONE
    if op == _ABS or op == _SQUARE:
        return of_even(op, a, minus_a, inside_abs)
    if op == _WHERE:
        return of_choice(a, b, c, p)
    if (op == _MAXIMUM or op == _MINIMUM) and a == b:
        return _POSITIVE, a, NONE
    if op == _POWER and unsafe:
        return of_power(a, b, q)
    return op, a, b


@register_jitable
def constant(known, value, element):
    """What an element holds if it is a constant, else NaN."""
    return value[element] if 0 <= element < ARRAY and known[element] else np.nan


@register_jitable
def inside(code, made, element, op):
    """The scalar that ``element`` is ``op`` of, else -1."""
    if element < 0 or element >= ARRAY:
        return NONE
    row = made[element]
    if row < 0 or code[row, 0] != op or code[row, 2] >= ARRAY:
        return NONE
    return code[row, 2]


def simplify_rows(
    code, keep, first, last, arity, known, value, inverse, zero, one, unsafe, made, leader
):
    """Apply identities to rows [first, last); a row that is one of its operands becomes DEAD.

    ``known`` and ``value``: the constants.  ``inverse``: of a power of two, the constant that is
    one over it, else -1.  ``zero`` and ``one``: constants.  ``made``: the row of each scalar, so
    far.
    """
    for i in range(first, last):
        op = code[i, 0]
        if op == DEAD or op == CALL:
            continue
        if i >= keep:
            for j in range(arity[op]):
                if code[i, 2 + j] < ARRAY:
                    code[i, 2 + j] = leader[code[i, 2 + j]]
        if op >= WRITE or code[i, 1] >= ARRAY:
            continue
        made[code[i, 1]] = i
        if i < keep:
            continue
        for _ in range(_REPEATS):
            op, a, b, c = code[i, 0], code[i, 2], code[i, 3], code[i, 4]
            if arity[op] == 1:
                b = NONE
            p, q = constant(known, value, a), constant(known, value, b)
            minus_a, minus_b = inside(code, made, a, _NEG), inside(code, made, b, _NEG)
            one_over_b = inverse[b] if 0 <= b < ARRAY else NONE
            new, x, y = of_any(
                op, a, b, c, p, q, minus_a, minus_b, inside(code, made, a, _ABS), one_over_b,
                zero, one, unsafe,
            )  # fmt: skip
            if new == op and x == a and y == b:
                break
            code[i, 0], code[i, 2], code[i, 3], code[i, 4] = new, x, max(y, 0), 0
        # Elements of arrays may be overwritten later on, and calls name scalars only.
        if code[i, 0] == _POSITIVE and code[i, 2] < ARRAY:
            leader[code[i, 1]] = code[i, 2]
            code[i, 0] = DEAD


SIMPLIFY_ROWS = (
    "void(int32[:,::1],int64,int64,int64,int32[::1],uint8[::1],float64[::1],int32[::1],int64,int64,"
    "boolean,int32[::1],int32[::1])"
)
