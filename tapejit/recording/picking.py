"""NumPy's functions that pick elements by position or condition, or write them in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import TracedShapeError
from ..ops.table import OPS
from .pointwise import where
from .recorder import where_am_i
from .reductions import any
from .shapes import (
    as_tracer,
    broadcast_to,
    expand_dims,
    into,
    operand,
    operands,
    ravel,
    reshape,
    resize,
)
from .tracer import ArrayTracer, Tracer, apply

__all__ = [
    "argwhere", "compress", "copyto", "extract", "fill_diagonal", "flatnonzero", "intersect1d",
    "isin", "nonzero", "place", "put", "putmask", "setdiff1d", "take", "trim_zeros", "union1d",
    "unique",
]  # fmt: skip


_UNSET: Any = np._NoValue


# --- picking and writing --------------------------------------------------------------------------


def take(
    a: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise"
) -> Any:
    """Elements along an axis, for constant or traced positions."""
    rec, (a, indices) = operands(a, indices)
    if rec is None:
        return np.take(a, indices, axis, out, mode)
    a = as_tracer(rec, a)
    if axis is None or a.ndim == 0:
        a, axis = reshape(a, (-1,)), 0
    axis %= a.ndim
    if mode == "clip":
        indices = np.clip(indices, 0, a.shape[axis] - 1)
    elif mode == "wrap":
        indices = indices % a.shape[axis]
    return into(out, a[(slice(None),) * axis + (indices,)])


def compress(condition: Any, a: Any, axis: int | None = None, out: Any = None) -> Any:
    """Elements where a constant condition holds."""
    condition = operand(condition)
    if isinstance(condition, Tracer):
        return where(condition)
    return take(a, np.flatnonzero(condition), axis, out)


def extract(condition: Any, arr: Any) -> Any:
    """Elements where a constant condition holds."""
    return compress(ravel(condition), arr)


def _data_dependent(name: str, remedy: str) -> Callable:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise TracedShapeError(
            f"{where_am_i()}: the shape of np.{name} would depend on traced values; {remedy}"
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"An error: the shape of np.{name} depends on the values."
    return function


_MASK = "keep the shape with np.where(condition, x, y) and count with np.sum(condition)"
nonzero = _data_dependent("nonzero", _MASK)
argwhere = _data_dependent("argwhere", _MASK)
flatnonzero = _data_dependent("flatnonzero", _MASK)
unique = _data_dependent("unique", "sort with np.sort, or pass the array as a static argument")
union1d = _data_dependent("union1d", "pass the arrays as static arguments")
intersect1d = _data_dependent("intersect1d", "pass the arrays as static arguments")
setdiff1d = _data_dependent("setdiff1d", "pass the arrays as static arguments")
trim_zeros = _data_dependent("trim_zeros", _MASK)


def isin(element: Any, test_elements: Any, **kwargs: Any) -> Any:
    """Whether elements are among others: traced truth values."""
    _, (element, test) = operands(element, ravel(test_elements))
    found = any(np.equal(expand_dims(element, -1) if element.ndim else element, test), -1)
    return ~found if kwargs.get("invert") else found


def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """Write in place."""
    target = _destination(dst)
    if where is not True:
        src = apply(OPS["where"], broadcast_to(operand(where), target.shape), src, target)
    target[...] = src


def _destination(array: Any) -> ArrayTracer:
    """A traced array to write into, or the error that says how to make one."""
    if not isinstance(array, ArrayTracer):
        into(array if array is not None else np.empty(0), None)
    return array


def putmask(a: Any, mask: Any, values: Any) -> None:
    """Write where a mask holds, in place; values are repeated."""
    a = _destination(a)
    values = operand(values)
    if values.shape != a.shape:
        values = resize(values, a.shape)
    a[...] = apply(OPS["where"], mask, values, a)


def place(arr: Any, mask: Any, vals: Any) -> None:
    """Write successive values where a constant mask holds, in place."""
    mask = operand(mask)
    if isinstance(mask, Tracer):
        raise TracedShapeError(
            f"{where_am_i()}: np.place takes as many values as a traced mask has true elements; "
            "use np.where or np.putmask"
        )
    target = _destination(arr)
    target[mask] = resize(operand(vals), (int(np.count_nonzero(mask)),))


def put(a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    """Write at C-order positions, in place."""
    a = _destination(a)
    ind, v = operand(ind), operand(v)
    if mode != "raise":
        ind = np.clip(ind, 0, a.size - 1) if mode == "clip" else ind % a.size
    places = np.unravel_index(ind, a.shape) if not isinstance(ind, Tracer) else _unravelled(ind, a)
    values = resize(v, ind.shape) if v.ndim and v.shape != ind.shape else v
    a[tuple(places)] = values


def _unravelled(ind: Any, a: ArrayTracer) -> list[Any]:
    places = []
    for n in reversed(a.shape):
        places.append(ind % n)
        ind = ind // n
    return places[::-1]


def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """Write the diagonal, in place."""
    a = _destination(a)
    n = min(a.shape)
    val = operand(val)
    if val.ndim:
        val = resize(val, (n,))
    a[(np.arange(n),) * a.ndim] = val
