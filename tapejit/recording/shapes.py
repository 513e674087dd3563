"""NumPy's functions that make, reshape, join and split arrays, on traced values.

Whatever NumPy answers with a view is a view here too and records nothing.  Functions take tracers,
nested lists and object arrays of tracers, and constants; constants alone go to NumPy.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import TracedShapeError, TraceError, UnsupportedError
from ..ops.table import OPS, Elementwise
from ..tape import ARRAY, View
from .recorder import Recorder, innermost, where_am_i
from .tracer import (
    ArrayTracer,
    Cell,
    ScalarTracer,
    Tracer,
    apply,
    as_view,
    broadcast,
    checked,
    current_element,
    from_objects,
    is_traced,
    lift,
    new_array,
    new_result,
    record,
    recorder_of,
    scalar_tracer,
    value_of,
    view_of,
)

__all__ = [
    "append", "array", "array_split", "asanyarray", "asarray", "ascontiguousarray", "astype",
    "atleast_1d", "atleast_2d", "atleast_3d", "block", "broadcast_arrays", "broadcast_to",
    "column_stack", "concat", "concatenate", "copy", "delete", "diag", "diagflat", "diagonal",
    "dsplit", "dstack", "empty_like", "expand_dims", "flatten", "flip", "fliplr", "flipud",
    "full_like", "hsplit", "hstack", "insert", "matrix_transpose", "meshgrid", "moveaxis", "ndim",
    "ones_like", "pad", "permute_dims", "ravel", "repeat", "reshape", "resize", "roll",
    "rollaxis", "rot90", "shape", "size", "split", "squeeze", "stack", "swapaxes", "tile",
    "transpose", "tril", "triu", "unstack", "vsplit", "vstack", "zeros_like",
]  # fmt: skip


# --- operands -------------------------------------------------------------------------------------


def operand(x: Any) -> Any:
    """A tracer, or a checked NumPy constant."""
    if isinstance(x, Tracer):
        return x
    if is_traced(x):
        return from_objects(recorder_of(x), x)
    return checked(np.asarray(x))


def operands(*values: Any) -> tuple[Recorder | None, list[Any]]:
    """The innermost recording among the values and the values as its operands."""
    if not is_traced(values):
        return None, [checked(np.asarray(value)) for value in values]
    rec = recorder_of(*values)
    return rec, [lift(rec, value) for value in values]


def viewed(array: ArrayTracer, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Like ``as_view``; a 0-d result is a scalar."""
    result = as_view(array, function)
    return element(result) if result.value.ndim == 0 else result


def element(array: ArrayTracer) -> ScalarTracer:
    """The scalar at the first element of a view, at its own address."""
    view = array.view
    value = array.value.reshape(-1)[0]
    base = array.rec.buffers[view.buffer].base
    if base < 0:
        return scalar_tracer(array.rec, value, array.rec.constant(value))
    return scalar_tracer(array.rec, value, ARRAY + base + view.offset)


def filled(rec: Recorder, shape: Sequence[int], scalar: Any, dtype: Any = None) -> Tracer:
    """A new traced array (or scalar) that holds one value, traced or constant, everywhere."""
    value = np.full(tuple(shape), value_of(scalar), dtype)
    result = new_result(rec, value)
    rec.call("copy", (broadcast(view_of(rec, scalar), value.shape),), result.view)
    return result


def traced_constant(rec: Recorder, array: Any) -> Tracer:
    """A constant as a tracer: read in place, copied when first written to."""
    array = checked(np.array(array, order="C"))
    if array.ndim == 0:
        return scalar_tracer(rec, array[()], rec.constant(array[()]))
    if array.size == 0:
        return new_array(rec, array)
    cell = Cell(rec.array_constant(array).buffer, array, True, rec)
    return rec.array_type(rec, array, cell)


def as_tracer(rec: Recorder, x: Any) -> Tracer:
    """Anything as a tracer of ``rec``."""
    x = lift(rec, x)
    return x if isinstance(x, Tracer) else traced_constant(rec, x)


def elementwise(rec: Recorder, op: Elementwise, args: Sequence[Any], value: Any) -> Tracer:
    """Record an elementwise operation whose value is known (and has a dtype of its own)."""
    result = new_result(rec, value)
    if isinstance(result, ScalarTracer):
        numbers = [
            current_element(x) if isinstance(x, ScalarTracer) else rec.constant(x) for x in args
        ]
        rec.emit(op.code, result.element, *numbers)
    else:
        views = [broadcast(view_of(rec, x), result.shape) for x in args]
        rec.call(op.name, tuple(views), result.view)
    return result


def into(out: Any, result: Any) -> Any:
    """Deliver a result to an ``out=`` argument."""
    if isinstance(out, tuple):
        (out,) = out
    if out is None:
        return result
    if not isinstance(out, ArrayTracer):
        raise TraceError(
            f"{where_am_i()}: a traced result cannot be written into a plain NumPy array "
            "(out= or an in-place operator); make the array with np.zeros_like(x) of a traced x "
            "or with tapejit.numpy.zeros"
        )
    if not np.can_cast(result.dtype, out.dtype, "same_kind"):
        raise TypeError(f"cannot cast the result from {result.dtype} to {out.dtype} of out=")
    out[...] = result
    return out


def unsupported(what: str, remedy: str) -> UnsupportedError:
    """The error for something that has no rule."""
    return UnsupportedError(f"{where_am_i()}: {what} is not supported on traced values; {remedy}")


def astype(x: Any, dtype: Any, *args: Any, copy: bool = True, **kwargs: Any) -> Any:
    """``x.astype(dtype)``: floats stay float64, integers int64."""
    x = operand(x)
    kind = np.dtype(dtype).kind
    if not isinstance(x, Tracer):
        return x.astype(dtype)
    if kind not in "fiub":
        raise TraceError(f"{where_am_i()}: traced values cannot become {np.dtype(dtype)}")
    have = x.dtype.kind
    if kind == "b":
        return x.copy() if have == "b" else apply(OPS["not_equal"], x, 0)
    target = np.float64 if kind == "f" else np.int64
    if kind in "iu" and have == "f":
        return elementwise(x.rec, OPS["trunc"], [x], np.asarray(x.value).astype(target)[()])
    if x.dtype == target and not copy:
        return x
    if isinstance(x, ScalarTracer):
        return scalar_tracer(x.rec, target(x.value), current_element(x))
    return record(x.rec, "copy", [x], x.value.astype(target))


def asarray(x: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The value as a traced array, without a copy where it already is one."""
    x = operand(x)
    if dtype is None or not isinstance(x, Tracer):
        return x if dtype is None else np.asarray(x, dtype)
    return astype(x, dtype, copy=False)


asanyarray = ascontiguousarray = asarray


def array(x: Any, dtype: Any = None, *, copy: Any = True, ndmin: int = 0, **kwargs: Any) -> Any:
    """A new traced array of a tracer, or of nested lists of tracers."""
    fresh = not isinstance(x, Tracer)
    x = operand(x)
    if not isinstance(x, Tracer):
        return np.array(x, dtype, copy=copy, ndmin=ndmin, **kwargs)
    if dtype is not None:
        x, fresh = astype(x, dtype), True
    if copy and not fresh:
        x = x.copy()
    return x if x.ndim >= ndmin else reshape(x, (1,) * (ndmin - x.ndim) + x.shape)


def copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    """A copy."""
    return operand(a).copy()


# --- creation like something ----------------------------------------------------------------------


def _like(
    x: Any, scalar: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None,
    **kwargs: Any,
) -> Any:  # fmt: skip
    rec, (x, scalar) = operands(x, scalar)
    if rec is None:
        return np.full_like(x, scalar, dtype, shape=shape)
    rec, scalar = innermost(rec), lift(innermost(rec), scalar)
    if shape is None:
        shape = x.shape
    elif not isinstance(shape, (tuple, list)):
        shape = (shape,)
    shape = tuple(operator.index(n) for n in shape)
    dtype = np.dtype(x.dtype if dtype is None else dtype)
    dtype = {"f": np.float64, "b": np.bool_}.get(dtype.kind, np.int64)
    if isinstance(scalar, Tracer) and scalar.dtype != dtype:
        scalar = astype(scalar, dtype)
    if scalar.ndim:
        return broadcast_to(scalar, shape).copy()
    return filled(rec, shape, np.asarray(scalar, dtype) if is_constant(scalar) else scalar, dtype)


def is_constant(x: Any) -> bool:
    """Whether an operand is a constant."""
    return not isinstance(x, Tracer)


def zeros_like(a: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Zeros: a traced array, into which tracers can be written."""
    return _like(a, 0, dtype, *args, **kwargs)


def ones_like(a: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Ones: a traced array."""
    return _like(a, 1, dtype, *args, **kwargs)


def full_like(a: Any, fill_value: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A traced array of one value, traced or constant."""
    return _like(a, fill_value, dtype, *args, **kwargs)


#: What was never written is zero.
empty_like = zeros_like


# --- shapes ---------------------------------------------------------------------------------------


def reshape(a: Any, /, shape: Any = None, order: str = "C", *, copy: bool | None = None) -> Any:
    """A view where NumPy makes one."""
    a = operand(a)
    if not isinstance(a, Tracer):
        return np.reshape(a, shape, order=order)
    if isinstance(shape, list):
        shape = tuple(shape)
    if isinstance(a, ScalarTracer):
        shape = np.reshape(a.value, shape).shape
        return a if shape == () else filled(a.rec, shape, a, a.dtype)
    if order == "F":
        shape = (shape,) if not isinstance(shape, tuple) else shape
        return transpose(reshape(transpose(a), shape[::-1]))
    result = viewed(a, lambda v: v.reshape(shape))
    return result.copy() if copy and result.cell is a.cell else result


def ravel(a: Any, order: str = "C") -> Any:
    """The elements in one row."""
    return reshape(a, -1, order=order)


def transpose(a: Any, axes: Any = None) -> Any:
    """Permuted axes: a view."""
    return _viewing(a, lambda v: np.transpose(v, axes))


def _viewing(a: Any, function: Callable) -> Any:
    a = operand(a)
    if isinstance(a, ArrayTracer):
        return viewed(a, function)
    if isinstance(a, ScalarTracer):
        shape = function(np.asarray(a.value)).shape
        return a if shape == () else filled(a.rec, shape, a, a.dtype)
    return function(a)


def _view_function(function: Callable) -> Callable:
    def wrapper(a: Any, *args: Any, **kwargs: Any) -> Any:
        return _viewing(a, lambda v: function(v, *args, **kwargs))

    wrapper.__name__ = wrapper.__qualname__ = function.__name__
    wrapper.__doc__ = f"``numpy.{function.__name__}``: a view."
    return wrapper


moveaxis = _view_function(np.moveaxis)
swapaxes = _view_function(np.swapaxes)
rollaxis = _view_function(np.rollaxis)
expand_dims = _view_function(np.expand_dims)
squeeze = _view_function(np.squeeze)
flip = _view_function(np.flip)
fliplr = _view_function(np.fliplr)
flipud = _view_function(np.flipud)
rot90 = _view_function(np.rot90)
diagonal = _view_function(np.diagonal)
matrix_transpose = _view_function(np.matrix_transpose)
permute_dims = transpose


def broadcast_to(array: Any, shape: Any, subok: bool = False) -> Any:
    """A read-only view; scalars are spread."""
    return _viewing(array, lambda v: np.broadcast_to(v, shape))


def broadcast_arrays(*args: Any, subok: bool = False) -> tuple:
    """Each broadcast to the common shape."""
    _, args = operands(*args)
    shape = np.broadcast_shapes(*[a.shape for a in args])
    return tuple(broadcast_to(a, shape) for a in args)


def _atleast(n: int) -> Callable:
    def function(*arys: Any) -> Any:
        reference = getattr(np, f"atleast_{n}d")
        results = tuple(_viewing(a, reference) for a in arys)
        return results[0] if len(results) == 1 else results

    function.__name__ = function.__qualname__ = f"atleast_{n}d"
    function.__doc__ = f"With {n} dimensions or more."
    return function


atleast_1d, atleast_2d, atleast_3d = _atleast(1), _atleast(2), _atleast(3)


def flatten(a: Any, order: str = "C") -> Any:
    """A copy in one row."""
    result = ravel(a, order)
    if isinstance(result, ArrayTracer) and result.cell is getattr(a, "cell", None):
        return result.copy()
    return result


# --- joining --------------------------------------------------------------------------------------


def concatenate(
    arrays: Any, axis: int | None = 0, out: Any = None, *, dtype: Any = None, **_: Any
) -> Any:
    """Joined along an axis, in one instruction."""
    if isinstance(arrays, ArrayTracer):
        arrays = list(arrays)
    rec, parts = operands(*arrays)
    if axis is None:
        parts, axis = [ravel(part) for part in parts], 0
    if rec is None:
        return np.concatenate(parts, axis, out, dtype=dtype)
    value = np.concatenate([value_of(part) for part in parts], axis)
    parts = [part for part in parts if part.size] or parts[:1]
    return _joined(rec, [view_of(rec, part) for part in parts], value, axis, dtype, out)


concat = concatenate


def _joined(
    rec: Recorder, views: list[View], value: np.ndarray, axis: int, dtype: Any, out: Any
) -> Any:
    result = new_array(rec, value)
    rec.call("concatenate", tuple(views), result.view, (axis % value.ndim,))
    return into(out, result if dtype is None else astype(result, dtype, copy=False))


def stack(arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, **_: Any) -> Any:
    """Joined along a new axis, in one instruction."""
    if isinstance(arrays, ArrayTracer):
        arrays = list(arrays)
    rec, parts = operands(*arrays)
    if rec is None:
        return np.stack(parts, axis, out, dtype=dtype)
    value = np.stack([value_of(part) for part in parts], axis)
    at = axis % value.ndim
    views = [_with_axis(view_of(rec, part), at) for part in parts]
    return _joined(rec, views, value, at, dtype, out)


def _with_axis(view: View, axis: int) -> View:
    shape, strides = view.shape, view.strides
    return View(
        view.buffer, view.offset, (*shape[:axis], 1, *shape[axis:]),
        (*strides[:axis], 1, *strides[axis:]),
    )  # fmt: skip


def vstack(tup: Any, *, dtype: Any = None, **_: Any) -> Any:
    """Stacked by rows."""
    return concatenate([atleast_2d(a) for a in tup], 0, dtype=dtype)


def hstack(tup: Any, *, dtype: Any = None, **_: Any) -> Any:
    """Stacked by columns; vectors end to end."""
    parts = [atleast_1d(a) for a in tup]
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1, dtype=dtype)


def dstack(tup: Any) -> Any:
    """Stacked along the third axis."""
    return concatenate([atleast_3d(a) for a in tup], 2)


def column_stack(tup: Any) -> Any:
    """Vectors as the columns of a matrix."""
    columns = [operand(a) for a in tup]
    return concatenate([a if a.ndim >= 2 else reshape(a, (-1, 1)) for a in columns], 1)


def _from_blocks(blocks: Any, depth: int) -> Any:
    if not isinstance(blocks, list):
        return atleast_1d(blocks) if depth < 2 else atleast_2d(blocks)
    return [_from_blocks(part, depth) for part in blocks]


def block(arrays: Any) -> Any:
    """Assembled from nested lists of blocks."""
    depth, level = 0, arrays
    while isinstance(level, list):
        depth, level = depth + 1, level[0]

    def join(blocks: Any, axis: int) -> Any:
        if not isinstance(blocks, list):
            return blocks
        return concatenate([join(part, axis + 1) for part in blocks], axis)

    return join(_from_blocks(arrays, depth), -depth)


def append(arr: Any, values: Any, axis: int | None = None) -> Any:
    """Joined at the end."""
    return concatenate([operand(arr), operand(values)], axis)


def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Any:
    """Values inserted before constant positions."""
    rec, (arr, values) = operands(arr, values)
    if rec is None:
        return np.insert(arr, obj, values, axis)
    if axis is None:
        arr, axis = ravel(arr), 0
    axis %= arr.ndim
    n = arr.shape[axis]
    # Which element of [arr, values] stands where: NumPy's own insert on row numbers.
    count = 1 if np.ndim(obj) == 0 and not isinstance(obj, slice) else len(np.arange(n)[obj])
    if np.ndim(obj) == 0 and not isinstance(obj, slice):
        if values.ndim == arr.ndim or (arr.ndim == 1 and values.ndim == 1):
            count = values.shape[axis] if values.ndim == arr.ndim else values.size
        order = np.insert(np.arange(n), [obj] * count, n + np.arange(count))
        if arr.ndim > 1 and values.ndim < arr.ndim and values.ndim:
            values = expand_dims(values, axis)
    else:
        order = np.insert(np.arange(n), obj, n + np.arange(count))
    values = broadcast_to(values, (*arr.shape[:axis], count, *arr.shape[axis + 1 :]))
    joined = concatenate([arr, values], axis)
    return joined[(slice(None),) * axis + (order,)]


def delete(arr: Any, obj: Any, axis: int | None = None) -> Any:
    """Without the elements at constant positions."""
    arr = operand(arr)
    if axis is None:
        arr, axis = ravel(arr), 0
    axis %= arr.ndim
    kept = np.delete(np.arange(arr.shape[axis]), obj)
    return arr[(slice(None),) * axis + (kept,)]


# --- splitting ------------------------------------------------------------------------------------


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list:
    """Views of parts, of about equal size."""
    ary = operand(ary)
    n = ary.shape[axis]
    if isinstance(indices_or_sections, Tracer):
        indices_or_sections = indices_or_sections.__index__()
    if np.ndim(indices_or_sections):
        bounds = [0, *indices_or_sections, n]
    else:
        lengths = [len(part) for part in np.array_split(np.arange(n), indices_or_sections)]
        bounds = [0, *np.cumsum(lengths).tolist()]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    lead = (slice(None),) * (axis % ary.ndim)
    return [ary[(*lead, part)] for part in slices]


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list:
    """Views of equal parts, or between positions."""
    ary = operand(ary)
    if not np.ndim(value_of(indices_or_sections)) and ary.shape[axis] % indices_or_sections:
        raise ValueError("array split does not result in an equal division")
    return array_split(ary, indices_or_sections, axis)


def hsplit(ary: Any, indices_or_sections: Any) -> list:
    """Parts by columns."""
    ary = operand(ary)
    return split(ary, indices_or_sections, 1 if ary.ndim > 1 else 0)


def vsplit(ary: Any, indices_or_sections: Any) -> list:
    """Parts by rows."""
    return split(ary, indices_or_sections, 0)


def dsplit(ary: Any, indices_or_sections: Any) -> list:
    """Parts along the third axis."""
    return split(ary, indices_or_sections, 2)


def unstack(x: Any, /, *, axis: int = 0) -> tuple:
    """Views along an axis."""
    return tuple(moveaxis(x, axis, 0))


# --- rearranging ----------------------------------------------------------------------------------


def roll(a: Any, shift: Any, axis: Any = None) -> Any:
    """Rolled along axes, by constant shifts."""
    a = operand(a)
    if axis is None:
        return reshape(roll(ravel(a), shift, 0), a.shape)
    shifts, axes = np.broadcast_arrays(shift, axis)
    for by, along in zip(shifts.ravel().tolist(), axes.ravel().tolist(), strict=True):
        if not -a.ndim <= along < a.ndim:
            raise np.exceptions.AxisError(along, a.ndim)
        n = a.shape[along]
        by = by % n if n else 0
        if by:
            lead = (slice(None),) * (along % a.ndim)
            a = concatenate([a[(*lead, slice(n - by, n))], a[(*lead, slice(0, n - by))]], along)
        else:
            a = a.copy()
    return a


def tile(A: Any, reps: Any) -> Any:
    """Repeated as a whole."""
    a = operand(A)
    reps = tuple(reps) if np.ndim(reps) else (int(reps),)
    rank = max(a.ndim, len(reps))
    shape = (1,) * (rank - a.ndim) + a.shape
    reps = (1,) * (rank - len(reps)) + reps
    if rank == 0:
        return a
    pairs = reshape(a, [n for m in shape for n in (1, m)])
    spread = broadcast_to(pairs, [n for pair in zip(reps, shape, strict=True) for n in pair])
    result = reshape(spread, [r * n for r, n in zip(reps, shape, strict=True)])
    return result.copy() if getattr(result, "cell", 0) is getattr(a, "cell", 1) else result


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element repeated."""
    a = operand(a)
    if axis is None:
        a, axis = ravel(a), 0
    if is_traced(repeats):
        raise TracedShapeError(
            f"{where_am_i()}: the shape of np.repeat would depend on traced counts; pass them as "
            "constants or static arguments"
        )
    axis %= a.ndim
    index = np.repeat(np.arange(a.shape[axis]), repeats)
    if np.ndim(repeats) == 0:
        before, after = a.shape[: axis + 1], a.shape[axis + 1 :]
        wide = broadcast_to(expand_dims(a, axis + 1), (*before, int(repeats), *after))
        result = reshape(wide, (*a.shape[:axis], len(index), *after))
        return result.copy() if getattr(result, "cell", 0) is getattr(a, "cell", 1) else result
    return a[(slice(None),) * axis + (index,)]


def resize(a: Any, new_shape: Any) -> Any:
    """Repeated or cut to a shape."""
    a = ravel(a)
    shape = (new_shape,) if np.ndim(new_shape) == 0 else tuple(new_shape)
    return a[np.arange(int(np.prod(shape))).reshape(shape) % a.size]


_COPYING_PADS = ("edge", "reflect", "symmetric", "wrap")


def pad(array: Any, pad_width: Any, mode: str = "constant", **kwargs: Any) -> Any:
    """Padded with constants or with the array's own elements."""
    a = operand(array)
    if mode == "constant":
        return _pad_constant(a, pad_width, kwargs.get("constant_values", 0))
    if mode not in _COPYING_PADS or kwargs.get("reflect_type", "even") != "even":
        raise unsupported(f"np.pad with mode={mode!r}", f"use one of constant, {_COPYING_PADS}")
    from .indexing import gather

    numbers = np.arange(a.size).reshape(a.shape)
    return gather(a, np.pad(numbers, pad_width, mode, **kwargs))


def _pad_constant(a: Any, pad_width: Any, constants: Any) -> Any:
    if isinstance(pad_width, dict):
        pad_width = [pad_width.get(i, pad_width.get(i - a.ndim, 0)) for i in range(a.ndim)]
        pad_width = [(w, w) if np.ndim(w) == 0 else w for w in pad_width]
    widths = np.broadcast_to(pad_width, (a.ndim, 2)).tolist()
    _, (a, constants) = operands(a, constants)
    fills = broadcast_to(constants, (a.ndim, 2))
    for axis, sides in enumerate(widths):
        if sides == [0, 0]:
            continue
        parts = []
        for side, width in enumerate(sides):
            shape = (*a.shape[:axis], width, *a.shape[axis + 1 :])
            fill = fills[axis, side]
            if not isinstance(fill, Tracer):
                fill = np.asarray(fill).astype(a.dtype)
            parts.append(broadcast_to(fill, shape))
        a = concatenate([parts[0], a, parts[1]], axis)
    return a if any(map(any, widths)) else a.copy()


def diag(v: Any, k: int = 0) -> Any:
    """The diagonal as a view, or a matrix with it."""
    v = operand(v)
    if v.ndim == 2:
        return diagonal(v, k)
    if v.ndim != 1:
        raise ValueError(f"np.diag: the input must be 1- or 2-d, it has shape {v.shape}")
    from .indexing import scatter_add

    n = v.size + abs(k)
    rows = np.arange(v.size) + max(0, -k)
    return scatter_add(v, rows * n + rows + k, (n, n))


def diagflat(v: Any, k: int = 0) -> Any:
    """A matrix with the elements on a diagonal."""
    return diag(ravel(v), k)


def tril(m: Any, k: int = 0) -> Any:
    """The lower triangle; zeros above."""
    m = operand(m)
    return apply(OPS["where"], np.tri(*m.shape[-2:], k=k, dtype=bool), m, np.zeros(1, m.dtype))


def triu(m: Any, k: int = 0) -> Any:
    """The upper triangle; zeros below."""
    m = operand(m)
    return apply(OPS["where"], np.tri(*m.shape[-2:], k=k - 1, dtype=bool), np.zeros(1, m.dtype), m)


def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple:
    """Coordinate grids."""
    xi = [ravel(x) for x in xi]
    n = len(xi)
    grids = [reshape(x, (1,) * i + (-1,) + (1,) * (n - i - 1)) for i, x in enumerate(xi)]
    if indexing == "xy" and n > 1:
        grids = [swapaxes(grid, 0, 1) for grid in grids]
    if not sparse:
        grids = list(broadcast_arrays(*grids))
    return tuple(grid.copy() for grid in grids) if copy else tuple(grids)


def shape(a: Any) -> tuple[int, ...]:
    """Its shape."""
    return operand(a).shape


def ndim(a: Any) -> int:
    """Its number of dimensions."""
    return operand(a).ndim


def size(a: Any, axis: int | None = None) -> int:
    """Its number of elements."""
    a = operand(a)
    return a.size if axis is None else a.shape[axis]
