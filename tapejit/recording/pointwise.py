"""NumPy's functions that act element by element, beyond its ufuncs, on traced values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import TracedShapeError
from ..ops.table import OPS
from .recorder import where_am_i
from .reductions import all, cumsum, diff
from .shapes import (
    astype,
    broadcast_to,
    concatenate,
    elementwise,
    into,
    operand,
    operands,
    zeros_like,
)
from .tracer import _POWERS, ArrayTracer, Tracer, apply, is_traced, value_of

__all__ = [
    "allclose", "angle", "around", "array2string", "array_equal", "array_equiv", "array_repr",
    "array_str", "can_cast", "choose", "clip", "common_type", "fix", "imag", "isclose",
    "iscomplex", "iscomplexobj", "isneginf", "isposinf", "isreal", "isrealobj",
    "may_share_memory", "min_scalar_type", "nan_to_num", "piecewise", "power", "real",
    "real_if_close", "result_type", "round", "select", "shares_memory", "sinc", "unwrap", "where",
]  # fmt: skip


_UNSET: Any = np._NoValue


# --- selection ------------------------------------------------------------------------------------


def where(condition: Any, *choices: Any) -> Any:
    """A choice by element; the cotangent goes to the chosen one."""
    if len(choices) != 2:
        raise TracedShapeError(
            f"{where_am_i()}: np.where(condition) of traced values has a shape that depends on "
            "them; use np.where(condition, x, y), or reduce with np.sum(np.where(condition, x, 0))"
        )
    return apply(OPS["where"], condition, *choices)


def clip(
    a: Any, a_min: Any = _UNSET, a_max: Any = _UNSET, out: Any = None, *, min: Any = _UNSET,
    max: Any = _UNSET, **_: Any,
) -> Any:  # fmt: skip
    """Limited to an interval."""
    low = a_min if min is _UNSET else min
    high = a_max if max is _UNSET else max
    result = a = operand(a)
    if low is not _UNSET and low is not None:
        result = np.maximum(result, operand(low))
    if high is not _UNSET and high is not None:
        result = np.minimum(result, operand(high))
    return into(out, result.copy() if result is a else result)


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    """The first choice whose condition holds."""
    if len(condlist) != len(choicelist):
        raise ValueError("list of cases must be same length as list of conditions")
    result = operand(default)
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        condition, choice = operand(condition), operand(choice)
        if is_traced((condition, choice, result)):
            result = apply(OPS["where"], condition, choice, result)
        else:
            result = np.where(condition, choice, result)
    return result


def piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kwargs: Any) -> Any:
    """Functions by condition; each is evaluated everywhere and the values are selected."""
    x = operand(x)
    if not isinstance(condlist, (list, tuple)):
        condlist = [condlist]
    funclist = list(funclist)
    default: Any = 0
    if len(funclist) == len(condlist) + 1:
        default = funclist.pop()
    values = [f(x, *args, **kwargs) if callable(f) else f for f in [*funclist, default]]
    result = broadcast_to(operand(values[-1]), x.shape)
    for condition, value in zip(condlist, values[:-1], strict=True):  # the last that holds wins
        result = apply(OPS["where"], condition, value, result)
    return result


def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    """A choice by traced number."""
    a = operand(a)
    n = len(choices)
    if mode == "clip":
        a = clip(a, 0, n - 1)
    elif mode == "wrap":
        a = a % n
    elif np.any((value_of(a) < 0) | (value_of(a) >= n)):
        raise ValueError("invalid entry in choice array")
    result = operand(choices[-1])
    for number in range(n - 2, -1, -1):
        result = np.where(a == number, choices[number], result)
    return into(out, result)


def nan_to_num(
    x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None
) -> Any:
    """NaN and infinities replaced."""
    x = operand(x)
    if x.dtype.kind != "f":
        return x.copy()
    limit = np.finfo(np.float64).max
    result = apply(OPS["where"], apply(OPS["isnan"], x), nan, x)
    result = apply(OPS["where"], x == np.inf, limit if posinf is None else posinf, result)
    result = apply(OPS["where"], x == -np.inf, -limit if neginf is None else neginf, result)
    if not copy and isinstance(x, ArrayTracer):
        x[...] = result
        return x
    return result


# --- rounding, powers, parts ----------------------------------------------------------------------


def round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """Rounded to decimals, ties to even."""
    a = operand(a)
    if a.dtype.kind in "iub":
        if decimals < 0:
            scale = 10**-decimals
            return into(out, astype(apply(OPS["rint"], a / scale) * scale, int))
        return into(out, a.copy() if a.dtype.kind != "b" else astype(a, float))
    if decimals == 0:
        return into(out, apply(OPS["rint"], a))
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return into(out, apply(OPS["rint"], a * scale) / scale)
    return into(out, apply(OPS["rint"], a / scale) * scale)


around = round


def fix(x: Any, out: Any = None) -> Any:
    """Rounded towards zero."""
    return into(out, apply(OPS["trunc"], x))


def real(val: Any) -> Any:
    """The value: traced values are real."""
    return operand(val)


def imag(val: Any) -> Any:
    """Zeros."""
    return zeros_like(operand(val))


real_if_close = real


def angle(z: Any, deg: bool = False) -> Any:
    """Zero, or a half turn for negative values."""
    return apply(OPS["where"], operand(z) < 0, 180.0 if deg else math.pi, 0.0)


def sinc(x: Any) -> Any:
    """sin(pi x) / (pi x)."""
    x = operand(x)
    y = math.pi * x
    near = apply(OPS["abs"], y) < 1e-4
    safe = apply(OPS["where"], near, 1.0, y)
    square = y * y
    # The series is exact to rounding there, and so are its first derivatives.
    series = 1.0 - square / 6.0 + square * square / 120.0
    return apply(OPS["where"], near, series, np.sin(safe) / safe)


def power(x1: Any, x2: Any, out: Any = None, **_: Any) -> Any:
    """``x1 ** x2``."""
    rec, (x, y) = operands(x1, x2)
    if np.result_type(x.dtype, y.dtype).kind == "f":
        if isinstance(x, Tracer) and not isinstance(y, Tracer) and y.ndim == 0:
            simple = _POWERS.get(float(y)) if x.dtype.kind == "f" else None
            if simple is not None:
                return into(out, simple(x))
        return into(out, apply(OPS["power"], x, y))
    value = np.power(value_of(x), value_of(y))  # integers: also NumPy's own errors
    return into(out, elementwise(rec, OPS["power"], [x, y], value))


def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: float = 2 * math.pi) -> Any:
    """Jumps of more than half a period taken out."""
    p = operand(p)
    step = diff(p, axis=axis)
    half = period / 2
    wrapped = (step + half) % period - half
    wrapped = np.where((wrapped == -half) & (step > 0), half, wrapped)
    limit = half if discont is None else max(discont, half)
    turns = np.where(np.abs(step) < limit, 0.0, wrapped - step)
    lead = (slice(None),) * (axis % p.ndim)
    start = p[(*lead, slice(0, 1))]
    return concatenate([start, p[(*lead, slice(1, None))] + cumsum(turns, axis)], axis)


def isposinf(x: Any, out: Any = None) -> Any:
    """Whether it is +inf."""
    return into(out, operand(x) == np.inf)


def isneginf(x: Any, out: Any = None) -> Any:
    """Whether it is -inf."""
    return into(out, operand(x) == -np.inf)


# --- comparisons ----------------------------------------------------------------------------------


def isclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """Whether elements are equal within tolerances: traced truth values."""
    _, (a, b) = operands(a, b)
    near = np.less_equal(np.abs(a - b), atol + rtol * np.abs(b)) & np.isfinite(b)
    result = near | np.equal(a, b)
    return result | (np.isnan(a) & np.isnan(b)) if equal_nan else result


def allclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Any:
    """Whether all elements are equal within tolerances: a traced truth value."""
    return all(isclose(a, b, rtol, atol, equal_nan))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> Any:
    """Whether shapes and all elements are equal: a traced truth value."""
    _, (a, b) = operands(a1, a2)
    if a.shape != b.shape:
        return False
    same = np.equal(a, b)
    return all(same | (np.isnan(a) & np.isnan(b)) if equal_nan else same)


def array_equiv(a1: Any, a2: Any) -> Any:
    """Whether all elements are equal after broadcasting."""
    _, (a, b) = operands(a1, a2)
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return all(np.equal(a, b))


def _of_dtype(function: Callable) -> Callable:
    def wrapper(x: Any) -> Any:
        return function(value_of(operand(x)))

    wrapper.__name__ = wrapper.__qualname__ = function.__name__
    wrapper.__doc__ = f"``numpy.{function.__name__}``, from the dtype."
    return wrapper


iscomplexobj = _of_dtype(np.iscomplexobj)
isrealobj = _of_dtype(np.isrealobj)
iscomplex = _of_dtype(np.iscomplex)
isreal = _of_dtype(np.isreal)


def _of_values(function: Callable) -> Callable:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*[value_of(a) for a in args], **kwargs)

    wrapper.__name__ = wrapper.__qualname__ = function.__name__
    wrapper.__doc__ = f"``numpy.{function.__name__}``, of the recorded values."
    return wrapper


result_type = _of_values(np.result_type)
can_cast = _of_values(np.can_cast)
common_type = _of_values(np.common_type)
min_scalar_type = _of_values(np.min_scalar_type)
may_share_memory = _of_values(np.may_share_memory)
shares_memory = _of_values(np.shares_memory)
array_repr = _of_values(np.array_repr)
array_str = _of_values(np.array_str)
array2string = _of_values(np.array2string)
