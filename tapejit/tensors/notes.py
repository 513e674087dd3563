"""Notes: what a function recorded, so that a script can expect it.

Elementwise operations and sums of whole arrays say themselves, in their one row, what they were
(:mod:`tapejit.tensors.short`).  Of all other functions of NumPy a note is taken when they are
recorded for the first time: the function, its operands, the rows that it appended, its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..interpreters.layout import GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE
from ..recording.tracer import ArrayTracer, ScalarTracer, Tracer
from ..tape import ARRAY, View, row_major
from .pieces import LEAF, NOWHERE, Piece

__all__ = ["Count", "Note", "counted", "keywords", "static", "take"]

#: Where functions come from that are the same at each call, and record what shapes alone decide.
_MODULES = frozenset(
    ("numpy", "numpy.linalg", "_operator", "tapejit.tensors.methods", "tapejit.ops.elementwise")
)
_STATIC = frozenset((int, float, bool, str, type(None), np.float64, np.int64, type))
_GUARDS = frozenset((GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL))
_float64 = np.dtype(np.float64)


class Unknown(Exception):
    """Scripts cannot expect this."""


class Count(NamedTuple):
    """What a piece has of everything."""

    rows: int
    scalars: int
    buffers: int
    numbers: int
    inputs: int


class Note(NamedTuple):
    """What a function recorded.

    Attributes
    ----------
    theirs
        The function of plain values.
    operands
        Of each: ``(Tensor, place)`` of a tensor (see ``Step.a``), ``(np.ndarray, shape)`` of an
        array, ``(None, key)`` of what has to be equal.
    kwargs
        The key of the keyword arguments.
    result
        The view, or the element, of the result.
    before, after
        What the piece had before and afterwards.
    numbers
        The numbers that entered.
    """

    theirs: Callable[..., Any]
    operands: tuple[tuple[Any, Any], ...]
    kwargs: Any
    result: Any
    before: Count
    after: Count
    numbers: tuple[float, ...]


def counted(piece: Piece) -> Count:
    """What a piece has now."""
    return Count(
        len(piece.codes), piece.n_scalars, len(piece.buffers), len(piece.constant_values),
        len(piece.sources),
    )  # fmt: skip


def static(value: Any) -> Any:
    """A key that is equal for the same values of equal types; raises :class:`Unknown`."""
    kind = type(value)
    if kind is tuple:
        return tuple([static(part) for part in value])
    if kind in _STATIC:
        return kind, value or repr(value)  # -0.0 equals 0.0, but is another number
    raise Unknown


def keywords(kwargs: dict[str, Any]) -> tuple:
    """A key of keyword arguments."""
    return tuple([(name, static(value)) for name, value in kwargs.items()])


def take(
    piece: Piece, before: Count, theirs: Callable[..., Any], args: tuple, kwargs: dict[str, Any],
    result: Any,
) -> None:  # fmt: skip
    """Note what a function recorded; have no script written where that cannot be said."""
    try:
        piece.notes = piece.notes or {}
        piece.notes[before.rows] = _noted(piece, before, theirs, args, kwargs, result)
    except Unknown:
        piece.home.scripts[piece.begun] = None


def _noted(
    piece: Piece, before: Count, theirs: Callable[..., Any], args: tuple, kwargs: dict[str, Any],
    result: Any,
) -> Note:  # fmt: skip
    after = counted(piece)
    known = isinstance(theirs, np.ufunc) or getattr(theirs, "__module__", "") in _MODULES
    words = piece.code[5 * before.rows :: 5]
    entered = [source.row for source in piece.sources[before.inputs :]]
    if not known or not words or not _GUARDS.isdisjoint(words):
        raise Unknown
    if piece.looked or any(row != before.rows for row in entered):
        raise Unknown
    copies = sum(s.kind == "data" and s.memory is None for s in piece.sources[before.inputs :])
    arrays = iter(piece._kept[-copies:] if copies else ())
    operands = tuple([_operand(piece, arg, arrays) for arg in args])
    if next(arrays, None) is not None:
        raise Unknown
    numbers = tuple(piece.constant_values[before.numbers :])
    return Note(theirs, operands, keywords(kwargs), _result(result, before), before, after, numbers)


def _operand(piece: Piece, arg: Any, arrays: Any) -> tuple[Any, Any]:
    if isinstance(arg, Tracer):
        return Tracer, _place(piece, arg)
    if type(arg) is np.ndarray and arg.dtype.kind in "fiu" and arg.ndim:
        if next(arrays, None) is not arg:  # what entered was computed of it, as indices may be
            raise Unknown
        return np.ndarray, arg.shape
    return None, static(arg)


def _place(piece: Piece, tensor: Any) -> Any:
    """Where a tensor stands in the piece: all of a buffer, or a scalar."""
    if tensor.value.dtype is not _float64 and tensor.value.dtype != _float64:
        raise Unknown
    if tensor.rec is LEAF or tensor.rec is NOWHERE:
        key = id(tensor) if tensor.rec is LEAF else id(tensor.value)
        at = piece._known.get(key)
        if at is None or (tensor.ndim and tensor.value is not tensor.cell.storage):
            raise Unknown
        return piece.places[at]
    if tensor.rec is not piece:
        raise Unknown
    if isinstance(tensor, ScalarTracer):
        return tensor.element
    view = tensor.view
    if view.offset or view.strides != row_major(view.shape):
        raise Unknown
    if piece.buffers[view.buffer].size != view.size:
        raise Unknown
    return view


def _result(result: Any, before: Count) -> Any:
    """The place of a result that the function computed: a new buffer, or a new scalar."""
    if not isinstance(result, Tracer) or result.value.dtype != _float64:
        raise Unknown
    if isinstance(result, ScalarTracer):
        if before.scalars <= result.element < ARRAY:
            return result.element
    elif isinstance(result, ArrayTracer):
        cell = result.cell
        if result.value is cell.storage and cell.buffer >= before.buffers and not cell.is_argument:
            return View(cell.buffer, 0, result.value.shape, row_major(result.value.shape))
    raise Unknown
