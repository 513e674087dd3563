"""NumPy's functions of numerical calculus, polynomials and statistics on traced values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .picking import take
from .products import matmul
from .reductions import mean, searchsorted, sum
from .shapes import (
    astype,
    broadcast_to,
    concatenate,
    expand_dims,
    moveaxis,
    operand,
    operands,
    reshape,
    stack,
    unsupported,
    viewed,
)
from .tracer import value_of

__all__ = [
    "apply_along_axis", "corrcoef", "cov", "gradient", "interp", "linspace", "polyval", "trace",
    "vander",
]  # fmt: skip


_UNSET: Any = np._NoValue


# --- calculus and polynomials ---------------------------------------------------------------------


def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Central differences, one-sided at the ends."""
    _, (f, *spacings) = operands(f, *varargs)
    axes = range(f.ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    axes = [a % f.ndim for a in axes]
    if not spacings:
        spacings = [np.float64(1.0)] * len(axes)
    elif len(spacings) == 1:
        spacings = spacings * len(axes)
    if len(spacings) != len(axes):
        raise TypeError("invalid number of arguments")
    results = tuple(_gradient(f, h, a, edge_order) for h, a in zip(spacings, axes, strict=True))
    return results[0] if len(axes) == 1 else results


def _gradient(f: Any, h: Any, axis: int, edge_order: int) -> Any:
    n = f.shape[axis]
    if n < edge_order + 1:
        raise ValueError("Shape of array too small to calculate a numerical gradient")
    lead = (slice(None),) * axis

    def at(start: int | None, stop: int | None = None) -> Any:
        return f[(*lead, slice(start, stop))]

    def one(i: int) -> Any:
        return at(i, i + 1 if i != -1 else None)

    if h.ndim == 0:
        middle = (at(2) - at(None, -2)) / (2.0 * h)
        if edge_order == 1:
            first, last = (one(1) - one(0)) / h, (one(-1) - one(-2)) / h
        else:
            first = (-1.5 * one(0) + 2.0 * one(1) - 0.5 * one(2)) / h
            last = (0.5 * one(-3) - 2.0 * one(-2) + 1.5 * one(-1)) / h
        return concatenate([first, middle, last], axis)
    steps = h[1:] - h[:-1]
    shape = (-1,) + (1,) * (f.ndim - axis - 1)
    a, b = reshape(steps[:-1], shape), reshape(steps[1:], shape)
    before, here = -b / (a * (a + b)), (b - a) / (a * b)
    middle = before * at(None, -2) + here * at(1, -1) + a / (b * (a + b)) * at(2)
    if edge_order == 1:
        first, last = (one(1) - one(0)) / steps[0], (one(-1) - one(-2)) / steps[-1]
        return concatenate([first, middle, last], axis)
    p, q = steps[0], steps[1]
    first = (
        -(2.0 * p + q) / (p * (p + q)) * one(0) + (p + q) / (p * q) * one(1)
        - p / (q * (p + q)) * one(2)
    )  # fmt: skip
    p, q = steps[-2], steps[-1]
    last = (
        q / (p * (p + q)) * one(-3) - (q + p) / (p * q) * one(-2)
        + (2.0 * q + p) / (q * (p + q)) * one(-1)
    )  # fmt: skip
    return concatenate([first, middle, last], axis)


def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Any:
    """Piecewise linear interpolation; points, knots and values may be traced."""
    _, (x, xp, fp) = operands(x, xp, fp)
    if xp.ndim != 1 or fp.shape != xp.shape or xp.shape[0] == 0:
        raise ValueError(
            f"np.interp: xp and fp must be 1-d, of one length, and not empty; their shapes are "
            f"{xp.shape} and {fp.shape}"
        )
    if period is not None:
        if period == 0:
            raise ValueError("np.interp: period must not be zero")
        period = abs(period)
        x, xp = x % period, xp % period
        order = np.argsort(xp)
        xp, fp = take(xp, order), take(fp, order)
        xp = concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = concatenate([fp[-1:], fp, fp[:1]])
    n = xp.shape[0]
    if n == 1:
        inside = fp[0] + x * 0.0
    else:
        cell = np.clip(searchsorted(xp, x, "right") - 1, 0, n - 2)
        x0, x1, y0, y1 = (take(v, cell + i) for v in (xp, fp) for i in (0, 1))
        inside = (y1 - y0) / (x1 - x0) * (x - x0) + y0
    if period is not None:
        return inside
    result = np.where(x < xp[0], fp[0] if left is None else left, inside)
    result = np.where(x == xp[-1], fp[-1], result)
    return np.where(x > xp[-1], fp[-1] if right is None else right, result)


def polyval(p: Any, x: Any) -> Any:
    """A polynomial by Horner's rule, highest power first."""
    _, (p, x) = operands(p, x)
    result = x * 0.0 if p.shape[0] == 0 else p[0] + x * 0.0
    for i in range(1, p.shape[0]):
        result = result * x + p[i]
    return result


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """Powers of a vector as columns."""
    x = operand(x)
    n = x.size if N is None else N
    columns: list[Any] = [np.ones(x.size, x.dtype)]
    while len(columns) < n:
        columns.append(columns[-1] * x if len(columns) > 1 else x)
    columns = columns[:n]
    return stack(columns if increasing else columns[::-1], 1)


def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None,
    **kw: Any,
) -> Any:  # fmt: skip
    """Covariance matrix."""
    if kw.get("fweights") is not None or kw.get("aweights") is not None:
        raise unsupported("np.cov with weights", "write it with np.average")
    x = _observations(m, rowvar)
    if y is not None:
        x = concatenate([x, _observations(y, rowvar)], 0)
    if ddof is None:
        ddof = 0 if bias else 1
    deviations = x - mean(x, 1, keepdims=True)
    return np.squeeze(matmul(deviations, deviations.T) * (1.0 / max(x.shape[1] - ddof, 0)))


def _observations(m: Any, rowvar: bool) -> Any:
    m = operand(m)
    x = m if m.ndim == 2 else reshape(m, (1, -1))
    return x if rowvar or m.ndim == 1 else x.T


def corrcoef(x: Any, y: Any = None, rowvar: bool = True, **kw: Any) -> Any:
    """Correlation coefficients."""
    c = cov(x, y, rowvar)
    if c.ndim == 0:
        return c / c
    deviation = np.sqrt(np.diagonal(c))
    return np.clip(c / deviation[:, None] / deviation, -1, 1)


def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False,
    dtype: Any = None, axis: int = 0, **_: Any,
) -> Any:  # fmt: skip
    """Evenly spaced values between traced ends."""
    _, (start, stop) = operands(start, stop)
    steps = num - 1 if endpoint else num
    width = stop - start
    places = np.arange(num).reshape((-1,) + (1,) * np.ndim(value_of(width)))
    step = width / steps if steps > 0 else np.nan
    result = places * step + start if steps > 0 else places * width + start
    if endpoint and num > 1:
        ends = broadcast_to(stop, result.shape[1:])
        result = concatenate([result[:-1], expand_dims(ends, 0)], 0)
    result = moveaxis(result, 0, axis)
    result = result if dtype is None else astype(result, dtype)
    return (result, step) if retstep else result


def trace(
    a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None
) -> Any:
    """Sum of the diagonal."""
    return sum(viewed(operand(a), lambda v: np.diagonal(v, offset, axis1, axis2)), -1, dtype, out)


def apply_along_axis(func1d: Callable, axis: int, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of rows, called in a Python loop."""
    rows = moveaxis(operand(arr), axis, -1)
    lead = rows.shape[:-1]
    results = [func1d(rows[index], *args, **kwargs) for index in np.ndindex(lead)]
    joined = stack(results)
    joined = reshape(joined, lead + joined.shape[1:])
    rank = joined.ndim - len(lead)
    for i in range(rank):
        joined = moveaxis(joined, len(lead) + i, axis % (len(lead) + 1) + i)
    return joined
