"""Short ways for the most frequent operations: elementwise on whole arrays, sums, scalars.

Each records what the general way (:mod:`tapejit.tensors.enter`) would, with fewer steps, and
returns ``None`` where it does not apply: other dtypes, views, broadcasting, several pieces,
``no_grad``, the inside of a NumPy function.
"""

from __future__ import annotations

import sys
from threading import get_ident
from typing import Any

import numpy as np

from ..interpreters.layout import CALL
from ..ops.table import OPS, Elementwise
from ..recording.tracer import Cell, current_element
from ..tape import ARRAY, SCALAR, Buffer, Call, View, row_major
from .grad_mode import local
from .pieces import CALL_SIZE, LEAF, NOWHERE, Piece, _call_numbers, numbered, root_piece

__all__ = ["UFUNCS", "binary", "element", "install", "scalars", "total", "unary"]

_float64 = np.float64
_dtype = np.dtype(np.float64)
_getframe = sys._getframe
_tuple = tuple.__new__
_add = np.add.reduce
_known_call = _call_numbers.get
#: Elements after which a piece takes no more arrays.
_MOST = ARRAY // 2

_Array: Any = None
_Scalar: Any = None
_new_array: Any = None
_new_scalar: Any = None


def install(scalar: type, array: type) -> None:
    """Learn the classes of tensors, which are built on this module."""
    global _Array, _Scalar, _new_array, _new_scalar
    _Array, _Scalar = array, scalar
    _new_array, _new_scalar = array.__new__, scalar.__new__


def _root() -> Piece | None:
    """The piece that takes operations on leaves here and now."""
    here = local.state
    return root_piece(here) if here.ident and here.inside is None else None


def _array(piece: Piece, x: Any, cell: Cell, rec: Any) -> int | None:
    """The buffer of a whole array that is not of the piece."""
    value = x.value
    if (rec is not LEAF and rec is not NOWHERE) or value.dtype is not _dtype:
        return None
    memory = cell.memory
    if memory is not None:
        at = piece._known.get(id(x) if rec is LEAF else id(value))
        if at is not None and piece.sources[at].version == memory.version:
            return piece.kinds[at][1]
    return piece._captured(x if rec is LEAF else None, cell)


def _number(piece: Piece, x: Any) -> int | None:
    """-1 minus the element of a number."""
    if type(x) is _Scalar:
        if x.rec is not piece or type(x.value) is not _float64:
            return None
        element = current_element(x)
        return -1 - element if element < ARRAY else None
    if type(x) is float or type(x) is int or type(x) is _float64:
        return -1 - piece.constant(x)
    return None


def _view(place: int, shape: tuple[int, ...]) -> View:
    if place >= 0:
        return View(place, 0, shape, row_major(shape))
    return View(SCALAR, -1 - place, shape, (0,) * len(shape))


def _result(piece: Piece, value: np.ndarray, places: tuple, op: Elementwise, depth: int) -> Any:
    """Enter an elementwise instruction; its result."""
    buffers = piece.buffers
    number = len(buffers)
    base = piece.n_elements
    size = value.size
    buffers.append(_tuple(Buffer, (base, size, -1, -1)))
    piece.n_elements = base + ((size + 7) & -8)
    piece.n_scalars += CALL_SIZE
    key = (op.code, value.shape, number, places)
    entry = _known_call(key)
    if entry is None:
        shape = value.shape
        views = tuple([_view(place, shape) for place in places])
        entry = numbered(key, Call(op.name, views, _view(number, shape)))
    calls = piece.calls
    piece.code.extend((CALL, len(calls), entry[0], 0, 0))
    calls.append(entry[1])
    frame = _getframe(depth)
    piece.codes.append(frame.f_code)
    piece.offsets.append(frame.f_lasti)
    result = _new_array(_Array)
    result.value = value
    result.cell = Cell(number, value, False, piece)
    result._place = entry[1].result
    return result


def unary(op: Elementwise, x: Any, depth: int = 3) -> Any:
    """An elementwise operation on a whole array."""
    if type(x) is not _Array:
        return None
    cell = x.cell
    value = x.value
    if value is not cell.storage:
        return None
    piece = rec = cell.rec
    if rec is LEAF:
        piece = _root()
        if piece is None:
            return None
        place = _array(piece, x, cell, rec)
    else:
        memory = cell.memory
        if (
            piece.n_scalars >= piece.limit
            or piece.home.ident != get_ident()
            or piece.n_elements > _MOST
            or (memory is not None and memory.version != cell.synced)
        ):
            return None
        place = cell.buffer
    if place is None:
        return None
    return _result(piece, op.reference(value), (place,), op, depth)


def binary(op: Elementwise, x: Any, y: Any, depth: int = 3) -> Any:
    """An elementwise operation on whole arrays of one shape, or on such an array and a number."""
    first, second = (x, y) if type(x) is _Array else (y, x)
    if type(first) is not _Array:
        return None
    cell = first.cell
    value = first.value
    if value is not cell.storage:
        return None
    rec = cell.rec
    both = type(second) is _Array
    if both:
        other = second.value
        own = second.cell
        if other is not own.storage or other.shape != value.shape:
            return None
        also = own.rec
    else:
        other, own, also = (second.value, None, second.rec) if type(second) is _Scalar else (
            second, None, NOWHERE
        )  # fmt: skip
    if rec.level == -1:
        piece = rec
    elif also.level == -1:
        piece = also
    elif rec is LEAF or (both and also is LEAF):
        piece = _root()
        if piece is None:
            return None
    else:
        return None
    if (
        piece.n_scalars >= piece.limit
        or piece.home.ident != get_ident()
        or piece.n_elements > _MOST
    ):
        return None
    if rec is piece:
        memory = cell.memory
        if memory is not None and memory.version != cell.synced:
            return None
        a = cell.buffer
    else:
        a = _array(piece, first, cell, rec)
        if a is None:
            return None
    if second is first:
        b = a
    elif not both:
        b = _number(piece, second)
    elif also is piece:
        memory = own.memory
        if memory is not None and memory.version != own.synced:
            return None
        b = own.buffer
    else:
        b = _array(piece, second, own, also)
    if b is None:
        return None
    if first is x:
        return _result(piece, op.reference(value, other), (a, b), op, depth)
    return _result(piece, op.reference(other, value), (b, a), op, depth)


def total(x: Any, depth: int = 2) -> Any:
    """The sum of a whole array."""
    if type(x) is not _Array:
        return None
    cell = x.cell
    value = x.value
    if value is not cell.storage:
        return None
    piece = rec = cell.rec
    if rec is LEAF:
        piece = _root()
        if piece is None:
            return None
        place = _array(piece, x, cell, rec)
    else:
        memory = cell.memory
        if (
            piece.n_scalars >= piece.limit
            or piece.home.ident != get_ident()
            or (memory is not None and memory.version != cell.synced)
        ):
            return None
        place = cell.buffer
    shape = value.shape
    number = piece.n_scalars
    piece.n_scalars = number + CALL_SIZE
    key = ("sum", shape, place, number)
    entry = _known_call(key)
    if entry is None:
        axes = (tuple(range(len(shape))),)
        entry = numbered(
            key, Call("sum", (_view(place, shape),), View(SCALAR, number, (), ()), axes)
        )
    calls = piece.calls
    piece.code.extend((CALL, len(calls), entry[0], 0, 0))
    calls.append(entry[1])
    frame = _getframe(depth)
    piece.codes.append(frame.f_code)
    piece.offsets.append(frame.f_lasti)
    return _scalar(piece, _add(value) if len(shape) == 1 else _add(value, None), number)


def element(x: Any, index: int) -> Any:
    """An element of a leaf with one axis: its own place, no instruction."""
    cell = x.cell
    value = x.value
    if value is not cell.storage or value.ndim != 1 or value.dtype is not _dtype:
        return None
    piece = _root()
    if piece is None:
        return None
    number = _array(piece, x, cell, LEAF)
    if index < 0:
        index += value.size
    return _scalar(piece, value[index], ARRAY + piece.buffers[number].base + index)


def _scalar(piece: Piece, value: Any, element: int) -> Any:
    tensor = _new_scalar(_Scalar)
    tensor.rec = piece
    tensor.value = value
    tensor.element = element
    tensor.version = piece.writes
    return tensor


def scalars(op: Elementwise, x: Any, y: Any, depth: int = 3) -> Any:
    """An elementwise operation on scalars of which one piece reads the other's, and on leaves."""
    if type(x) is not _Scalar or type(y) is not _Scalar:
        if type(y) is _Scalar and (type(x) is float or type(x) is int or type(x) is _float64):
            first, second = y, x
        elif type(x) is _Scalar and (type(y) is float or type(y) is int or type(y) is _float64):
            first, second = x, y
        else:
            return None
        piece = _number_piece(first)
        if piece is None:
            return None
        value = op.reference(x, y.value) if first is y else op.reference(x.value, y)
        a, b = _scalar_operand(piece, first), piece.constant(second)
        if first is y:
            a, b = b, a
    else:
        piece = _joint_piece(x, y)
        if piece is None:
            return None
        a, b = _scalar_operand(piece, x), _scalar_operand(piece, y)
        value = op.reference(x.value, y.value)
    if type(value) is not _float64:
        return None
    number = piece.n_scalars
    piece.n_scalars = number + 1
    piece.code.extend((op.code, number, a, b, 0))
    frame = _getframe(depth)
    piece.codes.append(frame.f_code)
    piece.offsets.append(frame.f_lasti)
    return _scalar(piece, value, number)


def _is_ready(piece: Piece) -> bool:
    return piece.n_scalars < piece.limit and piece.home.ident == get_ident()


def _number_piece(x: Any) -> Piece | None:
    """The piece that takes an operation on one scalar and a number."""
    p = x.rec
    if p is LEAF:
        return _root()
    return p if p is not NOWHERE and _is_ready(p) else None


def _joint_piece(x: Any, y: Any) -> Piece | None:
    """The piece that takes an operation on two scalars, if it exists."""
    p, q = x.rec, y.rec
    if p is NOWHERE or q is NOWHERE:
        return None
    if p is LEAF:
        if q is LEAF:
            return _root()
        piece = q
    elif q is LEAF or q is p or q in p.reads:
        piece = p
    elif p in q.reads:
        piece = q
    else:
        return None
    return piece if _is_ready(piece) else None


def _scalar_operand(piece: Piece, x: Any) -> int:
    rec = x.rec
    if rec is piece:
        return current_element(x)
    if rec is not LEAF:
        at = piece._known.get((rec.number, x.element))
        if at is not None:
            return at
    return piece.local(x).element


#: The elementwise operation behind each ufunc that has one, of floats.
UFUNCS: dict[Any, Elementwise] = {
    op.reference: op
    for op in OPS.values()
    if isinstance(op.reference, np.ufunc) and op.kind == "f" and op.arity <= 2
    and op.name not in ("stop_gradient", "positive")
}  # fmt: skip
UFUNCS.pop(np.power, None)
