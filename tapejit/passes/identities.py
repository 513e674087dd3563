"""Algebraic identities, among them none that changes a bit of an IEEE result.

Exact for every operand, infinite, NaN (but for its payload) and zeros of both signs; always done:

===================================  =====================================================
``x * 1``, ``x / 1``, ``x - 0``      ``x`` (``-0.0 - 0.0`` is ``-0.0``)
``x + -0.0``                         ``x``
``+x``, ``-(-x)``                    ``x``
``x * -1``, ``x / -1``               ``-x``
``-0.0 - x``                         ``-x``
``x + (-y)``, ``x - (-y)``           ``x - y``, ``x + y``
``(-x) + y``                         ``y - x``
``(-x) * (-y)``, ``(-x) / (-y)``     ``x * y``, ``x / y``
``x * x``                            ``square(x)``
``x / c``                            ``x * (1 / c)`` where ``c`` and ``1 / c`` are powers of two
``abs(-x)``, ``abs(abs(x))``         ``abs(x)``
``square(-x)``, ``square(abs(x))``   ``square(x)``
``where(c, x, x)``                   ``x``
``where(constant, x, y)``            ``x`` or ``y``
``maximum(x, x)``, ``minimum``       ``x``
===================================  =====================================================

Not exact, done only if asked for (``unsafe=True``):

===================================  =====================================================
``x + 0.0``                          ``x`` (``-0.0 + 0.0`` is ``0.0``)
``x - -0.0``                         ``x`` (``-0.0 - -0.0`` is ``0.0``)
``0.0 - x``                          ``-x`` (``0.0 - 0.0`` is ``0.0``, ``-0.0`` after)
``x * 0``                            ``0`` (infinite and NaN ``x``; the sign of the zero)
``x - x``                            ``0`` (infinite and NaN ``x``)
``x / x``                            ``1`` (zero, infinite and NaN ``x``)
``power(x, 2)``, ``power(x, 0.5)``   ``square(x)``, ``sqrt(x)`` (``pow`` rounds its own way;
                                     ``-inf`` and ``-0.0`` to the power 0.5)
===================================  =====================================================
"""

from __future__ import annotations

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD, compiled, tables
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Tape, View
from .draft import Draft

__all__ = ["simplify"]

_ADD, _SUB, _MUL, _DIV = (OPS[name].code for name in ("add", "sub", "mul", "div"))
_NEG, _POSITIVE, _SQUARE, _ABS = (OPS[name].code for name in ("neg", "positive", "square", "abs"))
_WHERE, _MAXIMUM, _MINIMUM = (OPS[name].code for name in ("where", "maximum", "minimum"))
_POWER, _SQRT = OPS["power"].code, OPS["sqrt"].code
#: Elements that stand for no operand.
_NONE = -1


def simplify_rows(
    code, keep, first, last, arity, known, value, inverse, special, unsafe, volatile, made, leader
):
    """Apply identities to rows [first, last); a row that is one of its operands becomes DEAD.

    ``known`` and ``value``: the constants.  ``inverse``: of a power of two, the constant that is
    one over it, else -1.  ``special``: the constants 0 and 1.  ``made``: the row of each scalar.
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
        result = _NONE
        for _ in range(8):  # what a row has become may match again
            op = code[i, 0]
            a = code[i, 2]
            b = code[i, 3] if arity[op] > 1 else _NONE
            # Constant operands, and operands that are themselves negated: x is -(negated x).
            a_known = a < ARRAY and known[a] == 1
            b_known = 0 <= b < ARRAY and known[b] == 1
            p = value[a] if a_known else 0.5
            q = value[b] if b_known else 0.5
            a_row = made[a] if a < ARRAY else _NONE
            b_row = made[b] if 0 <= b < ARRAY else _NONE
            minus_a = _NONE
            if a_row >= 0 and code[a_row, 0] == _NEG and code[a_row, 2] < ARRAY:
                minus_a = code[a_row, 2]
            minus_b = _NONE
            if b_row >= 0 and code[b_row, 0] == _NEG and code[b_row, 2] < ARRAY:
                minus_b = code[b_row, 2]
            if op == _ADD:
                if b_known and q == 0.0 and (unsafe or np.signbit(q)):
                    result = a
                elif a_known and p == 0.0 and (unsafe or np.signbit(p)):
                    result = b
                elif minus_b >= 0:
                    code[i, 0] = _SUB
                    code[i, 3] = minus_b
                    continue
                elif minus_a >= 0:
                    code[i, 0] = _SUB
                    code[i, 2] = b
                    code[i, 3] = minus_a
                    continue
            elif op == _SUB:
                if b_known and q == 0.0 and (unsafe or not np.signbit(q)):
                    result = a
                elif a_known and p == 0.0 and (unsafe or np.signbit(p)):
                    code[i, 0] = _NEG
                    code[i, 2] = b
                    code[i, 3] = 0
                    continue
                elif minus_b >= 0:
                    code[i, 0] = _ADD
                    code[i, 3] = minus_b
                    continue
                elif unsafe and a == b:
                    result = special[0]
            elif op == _MUL:
                if b_known and q == 1.0:
                    result = a
                elif a_known and p == 1.0:
                    result = b
                elif (b_known and q == -1.0) or (a_known and p == -1.0):
                    code[i, 0] = _NEG
                    code[i, 2] = a if b_known and q == -1.0 else b
                    code[i, 3] = 0
                    continue
                elif minus_a >= 0 and minus_b >= 0:
                    code[i, 2] = minus_a
                    code[i, 3] = minus_b
                    continue
                elif a == b:
                    code[i, 0] = _SQUARE
                    code[i, 3] = 0
                    continue
                elif unsafe and ((b_known and q == 0.0) or (a_known and p == 0.0)):
                    result = special[0]
            elif op == _DIV:
                if b_known and q == 1.0:
                    result = a
                elif b_known and q == -1.0:
                    code[i, 0] = _NEG
                    code[i, 3] = 0
                    continue
                elif minus_a >= 0 and minus_b >= 0:
                    code[i, 2] = minus_a
                    code[i, 3] = minus_b
                    continue
                elif b_known and inverse[b] >= 0:
                    code[i, 0] = _MUL
                    code[i, 3] = inverse[b]
                    continue
                elif unsafe and a == b:
                    result = special[1]
            elif op == _NEG:
                if minus_a >= 0:
                    result = minus_a
            elif op == _POSITIVE:
                result = a if a < ARRAY else _NONE
            elif op == _ABS or op == _SQUARE:
                if minus_a >= 0:
                    code[i, 2] = minus_a
                    continue
                if a_row >= 0 and code[a_row, 0] == _ABS:
                    if op == _ABS:
                        result = a
                    elif code[a_row, 2] < ARRAY:
                        code[i, 2] = code[a_row, 2]
                        continue
            elif op == _WHERE:
                if b == code[i, 4]:
                    result = b
                elif a_known:
                    result = b if p != 0.0 else code[i, 4]
            elif op == _MAXIMUM or op == _MINIMUM:
                if a == b:
                    result = a
            elif op == _POWER:
                if unsafe and b_known and q == 2.0:
                    code[i, 0] = _SQUARE
                    code[i, 3] = 0
                    continue
                if unsafe and b_known and q == 0.5:
                    code[i, 0] = _SQRT
                    code[i, 3] = 0
                    continue
            break
        if result >= ARRAY:  # may be overwritten later on, and calls name scalars only
            code[i, 0] = _POSITIVE
            code[i, 2] = result
            code[i, 3] = 0
            code[i, 4] = 0
        elif result >= 0:
            leader[code[i, 1]] = result
            code[i, 0] = DEAD


_SIMPLIFY_ROWS = (
    "void(int32[:,::1],int64,int64,int64,int32[::1],uint8[::1],float64[::1],int32[::1],int32[::1],"
    "boolean,uint8[::1],int32[::1],int32[::1])"
)


def simplify(tape: Tape, unsafe: bool = False) -> Tape:
    """The tape with algebraic identities applied, to scalar rows and to whole arrays.

    Parameters
    ----------
    unsafe
        Also those that change some IEEE results: signs of zeros, infinities and NaN.
    """
    draft = Draft(tape)
    arity, _, _ = tables()
    inverses = _inverse_constants(draft)
    special = np.full(2, _NONE, np.int32)
    if unsafe:
        special[:] = draft.new_constants(np.array([0.0, 1.0]))
    n = len(draft.leader)
    ids, values = draft.constants()
    known, value = np.zeros(n, np.uint8), np.zeros(n)
    known[ids], value[ids] = 1, values
    inverse, made = np.full(n, _NONE, np.int32), np.full(n, _NONE, np.int32)
    for element, one_over in inverses:
        inverse[element] = one_over
    loop = compiled(simplify_rows, _SIMPLIFY_ROWS)
    calls_of: dict[int, Call] = {}  # buffer -> the negation that made it
    for first, last, call in draft.runs():
        if call is None:
            loop(
                draft.code, draft.keep, first, last, arity, known, value, inverse, special, unsafe,
                draft.volatile, made, draft.leader,
            )  # fmt: skip
            continue
        by = _same_array(call, known, value, unsafe, calls_of, draft)
        if by is None or not draft.replace(first, by):
            calls_of[call.result.buffer] = call
    return draft.finish()


def _inverse_constants(draft: Draft) -> list[tuple[int, int]]:
    """(power of two, its inverse) among the constants; inverses are added where there are none."""
    ids, values = draft.constants()
    with np.errstate(all="ignore"):
        mantissa, exponent = np.frexp(np.abs(values))
        suits = (mantissa == 0.5) & (np.abs(exponent) < 1000) & (np.abs(values) != 1.0)
    divisors = np.unique(draft.code[draft.code[:, 0] == _DIV, 3])
    suits &= np.isin(ids, divisors)
    if not suits.any():
        return []
    known = dict(zip(values.tolist(), ids.tolist(), strict=True))
    wanted = 1.0 / values[suits]
    missing = np.array([v for v in wanted.tolist() if v not in known])
    known.update(zip(missing.tolist(), draft.new_constants(missing).tolist(), strict=True))
    pairs = zip(ids[suits].tolist(), wanted.tolist(), strict=True)
    return [(element, known[v]) for element, v in pairs]


def _same_array(
    call: Call, known: np.ndarray, value: np.ndarray, unsafe: bool, made: dict[int, Call],
    draft: Draft,
) -> View | None:  # fmt: skip
    """The operand that an array instruction merely repeats."""
    operands = call.operands
    if call.op in ("copy", "positive"):
        return operands[0]
    if call.op == "neg":
        inner = made.get(operands[0].buffer)
        if inner is not None and inner.op == "neg" and inner.result == operands[0]:
            return inner.operands[0]
        return None
    if call.op not in ("mul", "div", "add", "sub"):
        return None
    for side in (1, 0):
        view = operands[side]
        if view.buffer == SCALAR and known[view.offset]:
            v = value[view.offset]
            if _neutral(call.op, side, v, unsafe):
                return operands[1 - side]
    return None


def _neutral(op: str, side: int, v: float, unsafe: bool) -> bool:
    """Whether a constant on this side leaves the other operand as it is."""
    if op in ("mul", "div"):
        return bool(v == 1.0) and (op == "mul" or side == 1)
    if v != 0.0 or (op == "sub" and side == 0):
        return False
    return unsafe or bool(np.signbit(v)) == (op == "add")
