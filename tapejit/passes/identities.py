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
``where(constant, x, y)``            ``x`` or ``y`` (where the constant is no NaN)
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

from ..lowering.scalars import compiled, tables
from ..tape import SCALAR, Call, Tape, View
from .draft import Draft
from .row_identities import DIV, NONE, SIMPLIFY_ROWS, simplify_rows

__all__ = ["simplify"]


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
    zero, one = draft.new_constants(np.array([0.0, 1.0])).tolist() if unsafe else (NONE, NONE)
    n = len(draft.leader)
    known, value = np.zeros(n, np.uint8), np.full(n, np.nan)
    ids, values = draft.constants()
    known[ids], value[ids] = 1, values
    inverse, made = np.full(n, NONE, np.int32), np.full(n, NONE, np.int32)
    for element, one_over in inverses:
        inverse[element] = one_over
    loop = compiled(simplify_rows, SIMPLIFY_ROWS)
    calls_of: dict[int, Call] = {}  # buffer -> the call that made it
    for first, last, call in draft.runs():
        if call is None:
            loop(
                draft.code, draft.keep, first, last, arity, known, value, inverse, zero, one,
                unsafe, made, draft.leader,
            )  # fmt: skip
            continue
        by = _same_array(call, value, unsafe, calls_of)
        if by is None or not draft.replace(first, by):
            calls_of[call.result.buffer] = call
    return draft.finish()


def _inverse_constants(draft: Draft) -> list[tuple[int, int]]:
    """(power of two, its inverse) among the constants; inverses are added where there are none."""
    ids, values = draft.constants()
    with np.errstate(all="ignore"):
        mantissa, exponent = np.frexp(np.abs(values))
        suits = (mantissa == 0.5) & (np.abs(exponent) < 1000) & (np.abs(values) != 1.0)
    divisors = np.unique(draft.code[draft.code[:, 0] == DIV, 3])
    suits &= np.isin(ids, divisors)
    if not suits.any():
        return []
    known = dict(zip(values.tolist(), ids.tolist(), strict=True))
    wanted = 1.0 / values[suits]
    missing = np.array([v for v in wanted.tolist() if v not in known])
    known.update(zip(missing.tolist(), draft.new_constants(missing).tolist(), strict=True))
    pairs = zip(ids[suits].tolist(), wanted.tolist(), strict=True)
    return [(element, known[v]) for element, v in pairs]


def _same_array(call: Call, value: np.ndarray, unsafe: bool, made: dict[int, Call]) -> View | None:
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
        if view.buffer == SCALAR and _neutral(call.op, side, value[view.offset], unsafe):
            return operands[1 - side]
    return None


def _neutral(op: str, side: int, v: float, unsafe: bool) -> bool:
    """Whether a value on this side (NaN if it is no constant) leaves the other operand as it is."""
    if op in ("mul", "div"):
        return bool(v == 1.0) and (op == "mul" or side == 1)
    if v != 0.0 or (op == "sub" and side == 0):
        return False
    return unsafe or bool(np.signbit(v)) == (op == "add")
