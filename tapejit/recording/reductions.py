"""NumPy's reductions, scans and sorting on traced values, composed of few instructions."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ops.table import OPS
from ..tape import View, row_major
from .shapes import (
    as_tracer,
    astype,
    broadcast_to,
    concatenate,
    expand_dims,
    into,
    moveaxis,
    operand,
    operands,
    ravel,
    reshape,
    transpose,
    unsupported,
)
from .tracer import (
    ArrayTracer,
    ScalarTracer,
    Tracer,
    apply,
    is_traced,
    new_result,
    record,
    value_of,
)

__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "argpartition", "argsort", "average",
    "bincount", "count_nonzero", "cumprod", "cumsum", "cumulative_prod", "cumulative_sum", "diff",
    "digitize", "ediff1d", "logsumexp", "max", "mean", "median", "min", "nancumprod", "nancumsum",
    "nanmax", "nanmean", "nanmin", "nanprod", "nanstd", "nansum", "nanvar", "partition",
    "percentile", "prod", "ptp", "put_along_axis", "quantile", "searchsorted", "sort", "std",
    "sum", "take_along_axis", "trapezoid", "var",
]  # fmt: skip


_UNSET: Any = np._NoValue


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes as a sorted tuple of non-negative numbers, checked."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    normal = []
    for each in axes:
        number = each.__index__()
        if not -ndim <= number < ndim:
            raise np.exceptions.AxisError(number, ndim)
        normal.append(number % ndim)
    if len(set(normal)) != len(normal):
        raise ValueError("duplicate value in 'axis'")
    return tuple(sorted(normal))


def _masked(a: Any, where: Any, fill: Any) -> Any:
    return a if where is _UNSET or where is True else apply(OPS["where"], where, a, fill)


def _without(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([n for i, n in enumerate(shape) if i not in axes])


# --- sums -----------------------------------------------------------------------------------------


def sum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
    initial: Any = _UNSET, where: Any = _UNSET,
) -> Any:  # fmt: skip
    """Sum over axes, in one instruction."""
    if where is not _UNSET:
        a = _masked(operand(a), where, 0)
    a = operand(a)
    if not isinstance(a, Tracer):
        result = np.sum(a, axis, keepdims=keepdims is True)
    else:
        if dtype is not None:
            a = astype(a, dtype, copy=False)
        result = _sum(a, axis, keepdims is True)
    if initial is not _UNSET:
        result = result + initial
    return into(out, result)


def _sum(a: Tracer, axis: Any, keepdims: bool) -> Any:
    rec = a.rec
    rec.check_use()
    if isinstance(a, ScalarTracer):
        _axes(None if axis == -1 or axis == 0 else axis, 0)
        return astype(a, np.int64) if a.value.dtype.kind == "b" else a
    axes = _axes(axis, a.value.ndim)
    if not axes:
        return a.copy()
    value = np.add.reduce(a.value, axis=axes, keepdims=keepdims)
    result = new_result(rec, value)
    view = result.view
    if keepdims:
        shape = _without(value.shape, axes)
        view = View(view.buffer, view.offset, shape, row_major(shape))
    rec.call("sum", (a.view,), view, (axes,))
    return result


def mean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
    *, where: Any = _UNSET,
) -> Any:  # fmt: skip
    """Arithmetic mean over axes."""
    a = operand(a)
    if where is not _UNSET:
        count = sum(astype(broadcast_to(operand(where), a.shape), bool), axis, keepdims=keepdims)
        return into(out, sum(a, axis, dtype, keepdims=keepdims, where=where) / count)
    total = sum(a, axis, dtype, keepdims=keepdims)
    return into(out, apply(OPS["div"], total, _count(a, axis)) if is_traced(total) else total)


def _count(a: Any, axis: Any) -> int:
    return math.prod(a.shape[i] for i in _axes(axis, a.ndim))


def var(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0,
    keepdims: Any = False, *, where: Any = _UNSET, mean: Any = _UNSET, correction: Any = _UNSET,
) -> Any:  # fmt: skip
    """Variance, from squares of deviations."""
    a = operand(a)
    ddof = ddof if correction is _UNSET else correction
    centre = _mean(a, axis, keepdims=True, where=where) if mean is _UNSET else mean
    squares = apply(OPS["square"], apply(OPS["sub"], a, centre))
    if where is _UNSET:
        freedom: Any = builtins.max(_count(a, axis) - ddof, 0)
    else:
        count = sum(astype(broadcast_to(operand(where), a.shape), bool), axis, keepdims=keepdims)
        freedom = np.maximum(count - ddof, 0)
    total = sum(squares, axis, dtype, keepdims=keepdims, where=where)
    return into(out, apply(OPS["div"], total, freedom))


_mean = mean


def std(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0,
    keepdims: Any = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """Standard deviation."""
    return into(out, apply(OPS["sqrt"], var(a, axis, dtype, None, ddof, keepdims, **kwargs)))


def average(
    a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False
) -> Any:
    """Weighted average."""
    _, (a,) = operands(a)
    if weights is None:
        result = mean(a, axis, keepdims=keepdims)
        scale: Any = np.float64(_count(a, axis))
    else:
        weights = operand(weights)
        if weights.shape != a.shape:
            (along,) = _axes(axis, a.ndim)
            weights = reshape(weights, (-1,) + (1,) * (a.ndim - along - 1))
        wide = broadcast_to(weights, a.shape)
        scale = sum(wide, axis, keepdims=keepdims)
        result = sum(apply(OPS["mul"], a, weights), axis, keepdims=keepdims) / scale
    if not returned:
        return result
    return result, broadcast_to(scale, result.shape) if result.ndim else scale


# --- along rows -----------------------------------------------------------------------------------


def _rows(a: ArrayTracer, axes: tuple[int, ...]) -> Any:
    """The reduced axes merged into one at the end."""
    kept = [i for i in range(a.ndim) if i not in axes]
    if len(axes) == 1 and axes[0] == a.ndim - 1:
        return a
    moved = transpose(a, (*kept, *axes)) if kept else a
    if len(axes) == 1:
        return moved
    return reshape(moved, (*_without(a.shape, axes), _count(a, axes)))


def _reduce_rows(op: str, a: Any, axis: Any, keepdims: Any, reference: Callable) -> Any:
    """A row operation over any axes; ``reference(values, axis=, keepdims=)`` gives the value."""
    if not isinstance(a, Tracer):
        return reference(a, axis=axis, keepdims=keepdims is True)
    rec = a.rec
    rec.check_use()
    if isinstance(a, ScalarTracer):
        value = reference(a.value)
        return astype(a, value.dtype) if value.dtype != a.dtype else a
    axes = _axes(axis, a.ndim)
    if not axes:
        return a.copy()
    value = reference(a.value, axis=axes, keepdims=keepdims is True)
    rows = _rows(a, axes)
    result = new_result(rec, value)
    view = result.view
    if keepdims is True:
        shape = _without(value.shape, axes)
        view = View(view.buffer, view.offset, shape, row_major(shape))
    rec.call(op, (rows.view,), view)
    return result


def _extreme(name: str, pair: str) -> Callable:
    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = _UNSET, where: Any = _UNSET,
    ) -> Any:  # fmt: skip
        a = operand(a)
        if where is not _UNSET and where is not True:
            if initial is _UNSET:
                raise ValueError(
                    f"reduction operation '{pair}' does not have an identity, so to use a where "
                    "mask one has to specify 'initial'"
                )
            a = apply(OPS["where"], where, a, initial)
        if initial is not _UNSET and a.size == 0:
            shape = getattr(np, name)(np.zeros(a.shape), axis, None, keepdims is True, 0).shape
            return broadcast_to(operand(initial), shape)
        result = _reduce_rows(name, a, axis, keepdims, getattr(np, pair).reduce)
        if initial is not _UNSET:
            result = apply(OPS[pair], result, initial)
        return into(out, result)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"np.{name} over axes; ties share the cotangent equally."
    return function


max = amax = _extreme("max", "maximum")
min = amin = _extreme("min", "minimum")


def prod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
    initial: Any = _UNSET, where: Any = _UNSET,
) -> Any:  # fmt: skip
    """Product over axes."""
    a = operand(a)
    if where is not _UNSET:
        a = _masked(a, where, 1)
    if dtype is not None and isinstance(a, Tracer):
        a = astype(a, dtype, copy=False)
    result = _reduce_rows("prod", a, axis, keepdims, np.multiply.reduce)
    return into(out, result if initial is _UNSET else result * initial)


def _truth(name: str, op: str, mask: bool) -> Callable:
    reference = getattr(np, name)

    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = _UNSET
    ) -> Any:
        a = operand(a)
        if where is not _UNSET:
            a = apply(OPS["where"], where, astype(a, bool), mask)
        if not isinstance(a, Tracer) or a.size == 0:
            return into(out, reference(value_of(a), axis, keepdims=keepdims is True))
        a = a if a.dtype == np.bool_ else astype(a, bool)
        return into(out, _reduce_rows(op, a, axis, keepdims, reference))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"np.{name} over axes: traced, without a guard."
    return function


any = _truth("any", "max", False)
all = _truth("all", "min", True)


def _position(name: str) -> Callable:
    reference = getattr(np, name)

    def function(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
        a = operand(a)
        if not isinstance(a, Tracer):
            return reference(a, axis, out, keepdims=keepdims is True)
        if isinstance(a, ScalarTracer):
            return np.int64(0)
        value = reference(a.value, axis)  # NumPy's own errors
        if axis is None:
            result = record(a.rec, name, [ravel(a)], value)
            return into(out, reshape(result, (1,) * a.ndim) if keepdims is True else result)
        rows = moveaxis(a, axis, -1)
        result = record(a.rec, name, [rows], value)
        return into(out, expand_dims(result, axis) if keepdims is True else result)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"np.{name}: traced; the first on ties."
    return function


argmax, argmin = _position("argmax"), _position("argmin")


def ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    """Largest minus smallest."""
    a = operand(a)
    return into(out, max(a, axis, keepdims=keepdims) - min(a, axis, keepdims=keepdims))


def count_nonzero(a: Any, axis: Any = None, *, keepdims: Any = False) -> Any:
    """How many are not zero."""
    return sum(astype(operand(a), bool), axis, keepdims=keepdims)


def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: Any = False, return_sign: bool = False
) -> Any:
    """log(sum(b * exp(a))), without overflow; -inf where all are."""
    a = operand(a)
    if return_sign:
        raise unsupported("logsumexp with return_sign", "take the logarithm of the sum itself")
    top = max(a, axis, keepdims=True)
    # The shift cancels: no derivative passes through it, and infinities are not subtracted.
    finite = apply(OPS["isfinite"], top)
    shift = apply(OPS["stop_gradient"], apply(OPS["where"], finite, top, 0.0))
    powers = apply(OPS["exp"], apply(OPS["sub"], a, shift))
    if b is not None:
        powers = apply(OPS["mul"], b, powers)
    result = apply(OPS["log"], sum(powers, axis, keepdims=True)) + shift
    return result if keepdims else reshape(result, _without(a.shape, _axes(axis, a.ndim)))


# --- NaN aware ------------------------------------------------------------------------------------


def _filled(a: Any, fill: Any) -> Any:
    return apply(OPS["where"], apply(OPS["isnan"], a), fill, a)


def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
    initial: Any = _UNSET, where: Any = _UNSET,
) -> Any:  # fmt: skip
    """Sum, NaN as zero."""
    return sum(_filled(operand(a), 0), axis, dtype, out, keepdims, initial, where)


def nanprod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
    initial: Any = _UNSET, where: Any = _UNSET,
) -> Any:  # fmt: skip
    """Product, NaN as one."""
    return prod(_filled(operand(a), 1), axis, dtype, out, keepdims, initial, where)


def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
    *, where: Any = _UNSET,
) -> Any:  # fmt: skip
    """Mean of what is not NaN."""
    a = operand(a)
    present = apply(OPS["equal"], a, a)
    count = sum(present, axis, keepdims=keepdims, where=where)
    return into(out, nansum(a, axis, dtype, keepdims=keepdims, where=where) / count)


def nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0,
    keepdims: Any = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """Variance of what is not NaN."""
    a = operand(a)
    present = apply(OPS["equal"], a, a)
    deviations = apply(OPS["where"], present, a - nanmean(a, axis, keepdims=True), 0.0)
    freedom = sum(present, axis, keepdims=keepdims) - ddof
    freedom = apply(OPS["where"], freedom > 0, astype(freedom, float), np.nan)
    total = sum(apply(OPS["square"], deviations), axis, dtype, keepdims=keepdims)
    return into(out, total / freedom)


def nanstd(*args: Any, out: Any = None, **kwargs: Any) -> Any:
    """Standard deviation of what is not NaN."""
    return into(out, apply(OPS["sqrt"], nanvar(*args, **kwargs)))


def _nan_extreme(name: str, reduction: Callable, worst: float) -> Callable:
    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = False,
        initial: Any = _UNSET, where: Any = _UNSET,
    ) -> Any:  # fmt: skip
        a = operand(a)
        if a.dtype.kind != "f":
            return reduction(a, axis, out, keepdims, initial, where)
        result = reduction(_filled(a, worst), axis, None, keepdims, initial, where)
        missing = all(apply(OPS["isnan"], a), axis, keepdims=keepdims)
        return into(out, apply(OPS["where"], missing, np.nan, result))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"np.{name}: NaN only where all are."
    return function


nanmax = _nan_extreme("nanmax", max, -np.inf)
nanmin = _nan_extreme("nanmin", min, np.inf)


# --- scans ----------------------------------------------------------------------------------------


def _scan(name: str) -> Callable:
    reference = getattr(np, name)

    def function(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
        a = operand(a)
        if dtype is not None and isinstance(a, Tracer):
            a = astype(a, dtype, copy=False)
        if not isinstance(a, Tracer):
            return into(out, reference(a, axis, dtype))
        if axis is None:
            a, axis = ravel(a) if a.ndim else reshape(a, (1,)), -1
        _axes(axis, a.ndim)
        rows = moveaxis(a, axis, -1) if axis not in (-1, a.ndim - 1) else a
        result = record(a.rec, name, [rows], reference(rows.value, -1))
        return into(out, moveaxis(result, -1, axis) if rows is not a else result)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"np.{name} along an axis."
    return function


cumsum, cumprod = _scan("cumsum"), _scan("cumprod")


def _array_api_scan(function: Callable, name: str) -> Callable:
    def scan(
        x: Any, /, *, axis: int | None = None, dtype: Any = None, out: Any = None,
        include_initial: bool = False,
    ) -> Any:  # fmt: skip
        result = function(x, axis, dtype)
        if include_initial:
            along = 0 if axis is None else axis
            shape = [*result.shape]
            shape[along] = 1
            start = np.full(shape, int(function is cumprod), result.dtype)
            result = concatenate([start, result], along)
        return into(out, result)

    scan.__name__ = scan.__qualname__ = name
    scan.__doc__ = f"np.{name} along an axis."
    return scan


cumulative_sum = _array_api_scan(cumsum, "cumulative_sum")
cumulative_prod = _array_api_scan(cumprod, "cumulative_prod")


def nancumsum(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Running sum, NaN as zero."""
    return cumsum(_filled(operand(a), 0), axis, dtype, out)


def nancumprod(a: Any, axis: int | None = None, dtype: Any = None, out: Any = None) -> Any:
    """Running product, NaN as one."""
    return cumprod(_filled(operand(a), 1), axis, dtype, out)


# --- sorting --------------------------------------------------------------------------------------


def argsort(a: Any, axis: int | None = -1, kind: Any = None, order: Any = None, **_: Any) -> Any:
    """The stable order along an axis: traced integers."""
    a = operand(a)
    if not isinstance(a, Tracer):
        return np.argsort(a, axis, kind="stable")
    if axis is None or a.ndim == 0:
        a, axis = ravel(a) if a.ndim else reshape(a, (1,)), -1
    _axes(axis, a.ndim)
    rows = moveaxis(a, axis, -1)
    result = record(a.rec, "argsort", [rows], np.argsort(rows.value, -1, kind="stable"))
    return moveaxis(result, -1, axis)


def sort(a: Any, axis: int | None = -1, kind: Any = None, order: Any = None, **_: Any) -> Any:
    """Sorted along an axis; the derivative follows the elements."""
    a = operand(a)
    if not isinstance(a, Tracer):
        return np.sort(a, axis)
    if axis is None:
        a, axis = ravel(a) if a.ndim else reshape(a, (1,)), -1
    _axes(axis, a.ndim)
    rows = moveaxis(a, axis, -1)
    n = rows.shape[-1]
    index = record(a.rec, "argsort", [rows], np.argsort(rows.value, -1, kind="stable"))
    if rows.ndim > 1:
        starts = np.arange(math.prod(rows.shape[:-1])).reshape(*rows.shape[:-1], 1) * n
        index = apply(OPS["add"], index, starts)
    value = np.sort(rows.value, -1, kind="stable")
    if rows.view.strides != row_major(rows.shape):
        rows = rows.copy()
    flat = ravel(rows)
    result = record(a.rec, "gather", [flat, index], value)
    return moveaxis(result, -1, axis)


def partition(a: Any, kth: Any, axis: int | None = -1, kind: str = "introselect", **_: Any) -> Any:
    """Sorted: a sorted array is partitioned at every place."""
    return sort(a, axis)


def argpartition(a: Any, kth: Any, axis: int | None = -1, **_: Any) -> Any:
    """The stable order, which partitions at every place."""
    return argsort(a, axis)


def _merged(a: Any, axis: Any) -> tuple[Any, tuple[int, ...]]:
    axes = _axes(axis, a.ndim)
    if a.ndim == 0:
        return reshape(a, (1,)), ()
    return _rows(a, axes), axes


def _kept(result: Any, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> Any:
    if not keepdims:
        return result
    return reshape(result, [1 if i in axes else n for i, n in enumerate(shape)])


def median(
    a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False
) -> Any:
    """Median, by sorting; NaN if any is."""
    a = operand(a)
    if not isinstance(a, Tracer):
        return np.median(a, axis, keepdims=keepdims)
    rows, axes = _merged(a, axis)
    ordered = sort(rows, -1)
    n = rows.shape[-1]
    if n == 0:
        return np.median(a.value, axis, keepdims=keepdims)
    middle = ordered[..., n // 2] * 1.0
    if n % 2 == 0:
        middle = (ordered[..., n // 2 - 1] + ordered[..., n // 2]) / 2
    if a.dtype.kind == "f":
        last = ordered[..., -1]
        middle = apply(OPS["where"], apply(OPS["isnan"], last), last, middle)
    return into(out, _kept(middle, a.shape, axes, keepdims is True))


def quantile(
    a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False,
    method: str = "linear", keepdims: Any = False, *, weights: Any = None, **_: Any,
) -> Any:  # fmt: skip
    """Quantiles for constant ``q``, by sorting, interpolated linearly; NaN if any is."""
    if is_traced(q):
        raise unsupported("a traced quantile level", "pass q as a constant or static argument")
    if method not in ("linear", "lower", "higher", "nearest", "midpoint") or weights is not None:
        raise unsupported(f"np.quantile with {method=} or weights", "use method='linear'")
    a = operand(a)
    q = np.asarray(q, np.float64)
    if q.size and not (q.min() >= 0 and q.max() <= 1):
        raise ValueError("Quantiles must be in the range [0, 1]")
    rows, axes = _merged(a, axis)
    ordered = sort(rows, -1)
    results = [_level(ordered, float(level), method) for level in q.ravel()]
    if a.dtype.kind == "f":
        last = ordered[..., -1]
        missing = apply(OPS["isnan"], last)
        results = [apply(OPS["where"], missing, last, result) for result in results]
    results = [_kept(result, a.shape, axes, keepdims is True) for result in results]
    if q.ndim == 0:
        return into(out, results[0])
    from .shapes import stack

    joined = stack(results)
    return into(out, reshape(joined, (*q.shape, *joined.shape[1:])))


def _level(ordered: Any, q: float, method: str) -> Any:
    place = q * (ordered.shape[-1] - 1)
    low = int(np.floor(place))
    high = builtins.min(low + 1, ordered.shape[-1] - 1)
    t = place - low
    if method == "lower" or t == 0:
        return ordered[..., low] * 1.0
    if method == "higher":
        return ordered[..., high] * 1.0
    if method == "nearest":
        return ordered[..., int(np.rint(place))] * 1.0
    t = 0.5 if method == "midpoint" else t
    a, b = ordered[..., low], ordered[..., high]
    return b - (b - a) * (1 - t) if t >= 0.5 else a + (b - a) * t


def percentile(a: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
    """Percentiles for constant ``q``."""
    if is_traced(q):
        raise unsupported("a traced percentile", "pass q as a constant or static argument")
    return quantile(a, np.true_divide(q, 100), *args, **kwargs)


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    """Where elements would be inserted, by counting; traced integers."""
    rec, (a, v) = operands(a, v)
    if sorter is not None:
        a = a[sorter]
    if rec is None:
        return np.searchsorted(a, v, side)
    beyond = OPS["greater_equal" if side == "left" else "greater"]
    wide = expand_dims(v, -1) if v.ndim else v
    return sum(apply(OPS["logical_not"], apply(beyond, a, wide)), -1)


def digitize(x: Any, bins: Any, right: bool = False) -> Any:
    """The bin of each element; constant, increasing or decreasing edges."""
    edges = value_of(operand(bins))
    side = "left" if right else "right"
    if len(edges) > 1 and edges[0] > edges[-1]:
        return len(edges) - searchsorted(operand(bins)[::-1], x, side)
    return searchsorted(bins, x, side)


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    """Sums of weights by constant group numbers."""
    from .indexing import scatter_add

    if is_traced(x):
        from ..errors import TracedShapeError
        from .recorder import where_am_i

        raise TracedShapeError(
            f"{where_am_i()}: the length of np.bincount would depend on traced values; compare "
            "with the group numbers instead: np.sum(x[:, None] == np.arange(n), axis=0)"
        )
    x = np.asarray(x)
    n = builtins.max(minlength, int(x.max()) + 1 if x.size else 0)
    return scatter_add(astype(operand(weights), float, copy=False), x, (n,))


def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = _UNSET, append: Any = _UNSET) -> Any:
    """Differences of neighbours."""
    a = operand(a)
    ends = []
    for end in (prepend, append):
        if end is not _UNSET:
            end = operand(end)
            if end.ndim == 0:
                shape = list(a.shape)
                shape[axis] = 1
                end = broadcast_to(end, shape)
        ends.append(end)
    parts = [part for part in (ends[0], a, ends[1]) if part is not _UNSET]
    if len(parts) > 1:
        a = concatenate(parts, axis)
    lead = (slice(None),) * (axis % a.ndim)
    for _ in range(n):
        op = OPS["not_equal"] if a.dtype == np.bool_ else OPS["sub"]
        later, earlier = a[(*lead, slice(1, None))], a[(*lead, slice(None, -1))]
        a = apply(op, later, earlier) if is_traced((later, earlier)) else later - earlier
    return a


def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Any:
    """Differences of neighbours of the flattened array."""
    parts = [part for part in (to_begin, diff(ravel(ary)), to_end) if part is not None]
    return parts[0] if len(parts) == 1 else concatenate([ravel(part) for part in parts])


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """Integral by the trapezoidal rule."""
    y = operand(y)
    if x is not None:
        x = operand(x)
        dx = diff(x) if x.ndim == 1 else diff(x, axis=axis)
        if x.ndim == 1:
            dx = reshape(dx, (-1,) + (1,) * (y.ndim - axis % y.ndim - 1))
    lead = (slice(None),) * (axis % y.ndim)
    pairs = y[(*lead, slice(1, None))] + y[(*lead, slice(None, -1))]
    return sum(dx * pairs / 2.0, axis)


def take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    """Elements by position along an axis, for constant or traced positions."""
    rec, (arr, indices) = operands(arr, indices)
    if rec is None:
        return np.take_along_axis(arr, indices, axis)
    arr = as_tracer(rec, arr)
    return arr[_along(arr, indices, axis)] if axis is not None else ravel(arr)[indices]


def _along(arr: Any, indices: Any, axis: int) -> tuple:
    """The index tuple that picks along one axis."""
    axis %= arr.ndim
    index: list[Any] = []
    for i, n in enumerate(arr.shape):
        shape = [1] * arr.ndim
        shape[i] = -1
        index.append(indices if i == axis else np.arange(n).reshape(shape))
    return tuple(index)


def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None) -> None:
    """Write by position along an axis, in place."""
    if not isinstance(arr, Tracer):
        into(arr, None)
    if axis is None:
        ravel(arr)[indices] = values
    else:
        arr[_along(arr, operand(indices), axis)] = values
