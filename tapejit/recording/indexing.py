"""Indexing of traced arrays, reading and in-place writing, with NumPy's semantics.

Basic indices are views.  Integer arrays and constant masks gather; traced integers gather
dynamically (bounds-checked at replay), they are no guards.  Writes go in place on the tape; what
they overwrite is saved for the reverse sweep.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..errors import TracedShapeError
from ..ops.table import OPS
from ..tape import ARRAY, View, row_major
from .inner import own
from .recorder import Recorder, where_am_i
from .tracer import (
    ArrayTracer,
    Cell,
    ScalarTracer,
    Tracer,
    apply,
    broadcast,
    current_element,
    element_of,
    is_traced,
    lift,
    new_array,
    record,
    recorder_of,
    value_of,
    view_of,
    write_region,
    write_scalar,
)

__all__ = ["gather", "getitem", "replace", "scatter_add", "setitem"]

_BASIC = (int, slice, type(None), type(Ellipsis), np.integer)


# --- reading --------------------------------------------------------------------------------------


def getitem(array: ArrayTracer, index: Any) -> Any:
    """``array[index]``."""
    array.rec.check_use()
    index = _normalised(index)
    if _is_basic(index):
        return _basic(array, index)
    if _has_traced_mask(index):
        raise TracedShapeError(
            f"{where_am_i()}: indexing with a traced mask has a shape that depends on traced "
            "values; keep the shape with np.where(mask, x, other), or reduce with "
            "np.sum(np.where(mask, x, 0))"
        )
    rec = recorder_of(array, *index)
    array = lift(rec, array)
    value = array.value[tuple([value_of(part) for part in index])]  # and NumPy's own errors
    positions = _positions(rec, array, index)
    if np.ndim(value) == 0 and not isinstance(positions, Tracer):
        return element_of(_whole(array), np.asarray(value)[()], (int(positions),))
    return record(rec, "gather", [_whole(array), positions], np.array(value))


def _basic(array: ArrayTracer, index: tuple) -> Any:
    value = array.value[index]
    if type(value) is np.ndarray and value.ndim:
        return array.rec.array_type(array.rec, value, array.cell)
    if Ellipsis in index:
        index = _expanded(index, array.ndim)
    return element_of(array, np.asarray(value)[()], index)


def _normalised(index: Any) -> tuple:
    """The index as a tuple; lists and object arrays of tracers become traced arrays."""
    parts = index if type(index) is tuple else (index,)
    return tuple([p if isinstance(p, _BASIC) and not is_slice(p) else _part(p) for p in parts])


def is_slice(part: Any) -> bool:
    """Whether a part of an index is a slice."""
    return type(part) is slice


def _part(part: Any) -> Any:
    if type(part) is slice:
        bounds = (part.start, part.stop, part.step)
        if any(isinstance(bound, Tracer) for bound in bounds):
            return slice(*[b if b is None else operator.index(b) for b in bounds])
        return part
    if isinstance(part, Tracer):
        if part.dtype.kind == "f":
            raise IndexError(
                f"{where_am_i()}: a traced float is used as an index; x.astype(int) truncates it "
                "to an integer that still follows its arguments"
            )
        return part
    if is_traced(part):
        return lift(recorder_of(part), part)
    part = np.asarray(part)
    if part.ndim == 0 and part.dtype.kind in "iu":
        return int(part)
    if part.size == 0 and part.dtype.kind == "f" and part.ndim == 1:
        return part.astype(np.int64)  # x[[]]
    return part


def _is_basic(index: tuple) -> bool:
    for part in index:
        if not isinstance(part, _BASIC) or part is True or part is False:
            return False
    return True


def _has_traced_mask(index: tuple) -> bool:
    return any(isinstance(part, Tracer) and part.dtype.kind == "b" for part in index)


def _expanded(index: tuple, ndim: int) -> tuple:
    """The index with its ellipsis, or the missing end, written out as full slices."""
    used = 0
    for part in index:
        if part is None or part is Ellipsis:
            continue
        is_mask = getattr(part, "dtype", None) == np.bool_ or isinstance(part, bool)
        used += np.ndim(value_of(part)) if is_mask else 1
    missing = (slice(None),) * (ndim - used)
    for i, part in enumerate(index):
        if part is Ellipsis:
            return (*index[:i], *missing, *index[i + 1 :])
    return (*index, *missing)


def _whole(array: ArrayTracer) -> ArrayTracer:
    """The whole buffer behind an array, as one row."""
    cell = array.cell
    return array.rec.array_type(array.rec, cell.storage.reshape(-1), cell)


def _positions(rec: Recorder, array: ArrayTracer, index: tuple) -> Any:
    """Where in the buffer the elements of a valid index lie: constant or traced integers."""
    view = array.view
    if len(index) == 1 and type(index[0]) is np.ndarray and index[0].dtype != np.bool_:
        return _by_rows(view, index[0])
    axis = 0  # of the array
    total: Any = view.offset
    arrays: list[tuple[Any, int]] = []  # index arrays with their strides
    slices: list[tuple[int, np.ndarray]] = []  # place in the index, positions
    first, last, separated = -1, -1, False
    for place, part in enumerate(_expanded(index, array.ndim)):
        if part is None:
            slices.append((place, np.zeros(1, np.int64)))
            continue
        if type(part) is slice:
            n, stride = view.shape[axis], view.strides[axis]
            slices.append((place, np.arange(*part.indices(n)) * stride))
            axis += 1
            continue
        first, last, separated = _span(place, first, last, separated)
        if np.ndim(value_of(part)) == 0 and np.asarray(value_of(part)).dtype == np.bool_:
            arrays.append((np.zeros(int(part), np.int64), 0))  # x[True] has an axis of length one
            continue
        for each in _integers(part):
            n, stride = view.shape[axis], view.strides[axis]
            arrays.append((_bounded(rec, each, n), stride))
            axis += 1
    rank = len(np.broadcast_shapes(*[np.shape(value_of(a)) for a, _ in arrays]))
    before = 0 if separated else sum(place < first for place, _ in slices)
    after = len(slices) - before
    for number, (_, positions) in enumerate(slices):
        if number < before:
            shape = (-1,) + (1,) * (before - number - 1 + rank + after)
        else:
            shape = (-1,) + (1,) * (len(slices) - number - 1)
        total = total + positions.reshape(shape)
    tail = (1,) * after
    for each, stride in sorted(arrays, key=lambda pair: isinstance(pair[0], Tracer)):
        if isinstance(each, Tracer):
            each = each if stride == 1 else apply(OPS["mul"], each, stride)
            if tail and each.ndim:
                each = each.reshape(each.shape + tail)
            total = each if type(total) is int and total == 0 else apply(OPS["add"], each, total)
        else:
            total = total + (np.asarray(each) * stride).reshape(np.shape(each) + tail)
    return total


def _by_rows(view: View, rows: np.ndarray) -> np.ndarray:
    """Positions of whole rows, for an index of the first axis."""
    places = _from_start(rows, view.shape[0]) * view.strides[0] + view.offset
    for n, stride in zip(view.shape[1:], view.strides[1:], strict=True):
        places = places[..., None] + np.arange(n) * stride
    return places


def positions_of(array: ArrayTracer, index: Any) -> Any:
    """The elements that an index picks, by their number in C order."""
    numbers = np.arange(array.size).reshape(array.shape)
    index = _normalised(index)
    if not is_traced(index):
        return numbers[index]
    rec = recorder_of(array, *index)
    from .shapes import traced_constant

    return getitem(traced_constant(rec, numbers), index)


def _span(place: int, first: int, last: int, separated: bool) -> tuple[int, int, bool]:
    """Where the index arrays begin, where the last was, and whether something separates them."""
    if first < 0:
        return place, place, False
    return first, place, separated or place != last + 1


def _integers(part: Any) -> list:
    """A mask as the integer arrays it stands for; integer arrays as they are."""
    if isinstance(part, Tracer):
        return [part]
    part = np.asarray(part)
    if part.dtype == np.bool_:
        return list(part.nonzero())
    return [part]


def _bounded(rec: Recorder, index: Any, n: int) -> Any:
    """Valid indices counted from the start; traced ones are checked again at each replay."""
    if not isinstance(index, Tracer):
        return _from_start(index, n)
    values = np.asarray(value_of(index))
    normal = np.where(values < 0, values + n, values)
    return record(rec, "normalise_index", [lift(rec, index)], normal, (n,))


def _from_start(index: np.ndarray, n: int) -> np.ndarray:
    return np.where(index < 0, index + n, index) if index.size and index.min() < 0 else index


# --- gather and scatter ---------------------------------------------------------------------------


def gather(array: Any, index: Any) -> Any:
    """Elements of an array by their number in C order; the result has the index's shape."""
    if not is_traced((array, index)):
        return np.take(array, index)
    flat = array.reshape(-1)
    if isinstance(flat, np.ndarray):
        from .shapes import traced_constant

        flat = traced_constant(recorder_of(index), flat)
    return getitem(flat, index)


def scatter_add(source: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of ``shape``, the source's elements added at constant or traced C-order positions."""
    rec = recorder_of(source, index)
    source, index = lift(rec, source), lift(rec, index)
    where, values = value_of(index), np.asarray(value_of(source))
    total = np.zeros(int(np.prod(shape)), values.dtype if values.dtype != bool else np.int64)
    np.add.at(total, np.reshape(where, -1), np.broadcast_to(values, np.shape(where)).reshape(-1))
    result = new_array(rec, total.reshape(shape))
    places = (broadcast(view_of(rec, source), np.shape(where)), view_of(rec, index))
    rec.call("scatter_add", places, result.view)
    return result


# --- writing --------------------------------------------------------------------------------------


def setitem(array: ArrayTracer, index: Any, value: Any) -> None:
    """``array[index] = value``, in place."""
    if array.rec.inside:
        own(array)
    rec = array.rec
    rec.check_use()
    if type(value) is rec.scalar_type and value.rec is rec:
        places = index if type(index) is tuple else (index,)
        if len(places) == array.value.ndim and all(type(place) is int for place in places):
            _set_element(array, places, value)
            return
    index = _normalised(index)
    if is_traced((index, value)):
        rec = recorder_of(array, *index, value)
        if rec is not array.rec:
            _refuse_inner(array, rec)
    value = lift(array.rec, value)
    if not _is_basic(index):
        _set_advanced(array, index, value)
        return
    target = array.value[index]
    if type(target) is np.ndarray and target.ndim:
        _set_region(rec.array_type(rec, target, array.cell), value)
        return
    if np.ndim(value_of(value)):
        if np.size(value_of(value)) != 1:
            raise ValueError("setting an array element with a sequence.")
        value = value.reshape(-1)[0]
    _set_element(array, index, value)


def _refuse_inner(array: ArrayTracer, rec: Recorder) -> None:
    from ..errors import TracerLeakError

    raise TracerLeakError(
        f"{where_am_i()}: a traced value of the inner function `{rec.name}` is written into an "
        f"array of the enclosing `{array.rec.name}`; return it from the inner function instead, or "
        "write into a copy that is made there (y = y.copy())"
    )


def _set_element(array: ArrayTracer, index: tuple, value: Any) -> None:
    rec = array.rec
    if value.dtype != array.value.dtype:
        value = _cast(array, value)
    if array.cell.is_argument:
        _own(array.cell, rec)
    if any(part is Ellipsis or part is None for part in index):
        index = tuple(part for part in _expanded(index, array.ndim) if part is not None)
    view = array.view
    offset = view.offset
    for i, n, stride in zip(index, view.shape, view.strides, strict=True):
        if not -n <= i < n:
            raise IndexError(f"index {i} is out of bounds for an axis with size {n}")
        offset += (int(i) + n if i < 0 else int(i)) * stride
    _check_writable(array.value)
    target = ARRAY + rec.buffers[view.buffer].base + offset
    if isinstance(value, ScalarTracer):
        source = current_element(value)
        if source == target:
            return
    else:
        source = rec.constant(value)
    write_scalar(rec, target, source)
    array.value[index] = value_of(value)


def _set_region(target: ArrayTracer, value: Any) -> None:
    rec, cell = target.rec, target.cell
    _check_writable(target.value)
    source = _fitted(value, target.shape)
    if isinstance(source, ArrayTracer) and source.cell is cell:
        if source.value.shape == target.shape and source.view == target.view:
            return
        if np.may_share_memory(source.value, target.value):
            source = source.copy()
    source = _apart(_cast(target, source), cell)
    if target.size == 0:
        return
    if _is_whole(target):
        fresh = View(rec.buffer(target.size), 0, target.shape, row_major(target.shape))
        rec.call("copy", (broadcast(view_of(rec, source), target.shape),), fresh)
        _move(cell, rec, fresh.buffer)
        target.value[...] = value_of(source)
        return
    _own(cell, rec)
    write_region(rec, target.view, broadcast(view_of(rec, source), target.shape))
    target.value[...] = value_of(source)


def _apart(source: Any, cell: Cell) -> Any:
    """A scalar that stands in the array that is written: copied, as the write clears cotangents."""
    if isinstance(source, ScalarTracer):
        element = current_element(source)
        if element >= ARRAY and source.rec.place_of(element).buffer == cell.buffer:
            return apply(OPS["positive"], source)
    return source


def _check_writable(value: np.ndarray) -> None:
    if not value.flags.writeable:
        raise ValueError("assignment destination is read-only")


def _fitted(value: Any, shape: tuple[int, ...]) -> Any:
    """The value without leading axes of length one that the target lacks, checked to broadcast."""
    have = np.shape(value_of(value))
    extra = len(have) - len(shape)
    if extra > 0 and all(n == 1 for n in have[:extra]):
        value = value.reshape(have[extra:])
        have = have[extra:]
    try:
        fits = np.broadcast_shapes(have, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{where_am_i()}: could not broadcast input array from shape {have} into shape {shape}"
        )
    return value


def _cast(array: ArrayTracer, value: Any) -> Any:
    """The value in the array's dtype, as NumPy casts on assignment."""
    kind = array.dtype.kind
    have = value.dtype.kind
    if kind == "f" or have == kind or (kind in "iu" and have in "iub"):
        return value
    if isinstance(value, Tracer):
        from .shapes import astype

        return astype(value, array.dtype)
    return np.asarray(value).astype(array.dtype)


def _own(cell: Cell, rec: Recorder) -> None:
    """Move an argument or constant to a private buffer before its first write."""
    if not cell.is_argument:
        return
    shape = cell.storage.shape
    old = View(cell.buffer, 0, shape, row_major(shape))
    new = View(rec.buffer(cell.storage.size), 0, shape, row_major(shape))
    rec.call("copy", (old,), new)
    _move(cell, rec, new.buffer)


def _is_whole(array: ArrayTracer) -> bool:
    """Whether an array covers its cell, element for element."""
    storage = array.cell.storage
    return array.value.shape == storage.shape and array.value.strides == storage.strides


def _move(cell: Cell, rec: Recorder, buffer: int) -> None:
    """From now on the cell stands in another buffer; what was read before stays where it was."""
    cell.buffer = buffer
    cell.is_argument = False


def replace(array: ArrayTracer, fresh: Any) -> None:
    """``array[...] = fresh`` for a result that nothing else refers to: its buffer is taken over."""
    if array.rec.inside:
        own(array)
    if (
        type(fresh) is not type(array)
        or fresh.rec is not array.rec
        or fresh.dtype != array.dtype
        or fresh.shape != array.shape
        or not (_is_whole(array) and _is_whole(fresh))
        or not array.value.flags.writeable
    ):
        array[...] = fresh
        return
    _move(array.cell, array.rec, fresh.cell.buffer)
    np.copyto(array.value, fresh.value)


def _set_advanced(array: ArrayTracer, index: tuple, value: Any) -> None:
    rec = array.rec
    _check_writable(array.value)
    if _has_traced_mask(index):
        _set_masked(array, index, value)
        return
    value_index = tuple([value_of(part) for part in index])
    array.value[value_index]  # NumPy's own errors
    _own(array.cell, rec)
    positions = _positions(rec, array, index)
    shape = np.shape(value_of(positions))
    if shape == () and not isinstance(positions, Tracer):
        flat = _whole(array)
        _set_element(flat, (int(positions),), value.reshape(-1)[0] if value.ndim else value)
        return
    source = _apart(_cast(array, _fitted(value, shape)), array.cell)
    if isinstance(source, ArrayTracer) and source.cell is array.cell:
        source = source.copy()
    if int(np.prod(shape)) == 0:
        return
    save = View(rec.buffer(max(1, int(np.prod(shape)))), 0, shape, row_major(shape))
    places = (broadcast(view_of(rec, source), shape), view_of(rec, positions), _whole(array).view)
    rec.call("scatter_write", places, save)
    if isinstance(positions, Tracer):
        rec.note_dynamic_write(places[2], places[1], save)
    else:
        rec.note_indexed_write(places[2], positions, save)
    array.value[value_index] = value_of(source)


def _set_masked(array: ArrayTracer, index: tuple, value: Any) -> None:
    """``array[mask] = value`` with a traced mask: a selection over the whole array."""
    mask = index[0]
    if len(index) != 1 or np.shape(value_of(mask)) != array.shape[: mask.ndim]:
        raise TracedShapeError(
            f"{where_am_i()}: a traced mask must be the only index and cover the array's leading "
            f"axes (mask {np.shape(value_of(mask))}, array {array.shape}); use np.where"
        )
    rest = array.shape[mask.ndim :]
    have = np.shape(value_of(value))
    if len(have) > len(rest) and not (len(have) == len(rest) + 1 and have[0] == 1):
        raise TracedShapeError(
            f"{where_am_i()}: values of shape {have} written through a traced mask would have to "
            "match the number of true elements; write a scalar, or use "
            "x[...] = np.where(mask, values_of_full_shape, x)"
        )
    if len(have) > len(rest):
        value = value.reshape(have[1:])
    if rest and mask.ndim:
        mask = mask.reshape(mask.shape + (1,) * len(rest))
    value = _cast(array, value)
    array[...] = apply(OPS["where"], mask, value, array)
