"""Short ways for the most frequent operations: elementwise on whole arrays, sums, scalars.

Each records what the general way (:mod:`tapejit.tensors.enter`) would, with fewer steps, and
returns ``None`` where it does not apply: other dtypes, views, broadcasting, several pieces,
``no_grad``, the inside of a NumPy function.  What a script expects is not even recorded
(:mod:`tapejit.tensors.followers`).
"""

from __future__ import annotations

import sys
from threading import get_ident
from typing import Any

import numpy as np

from ..interpreters.layout import CALL
from ..ops.table import OPS, Elementwise
from ..recording.tracer import current_element
from ..tape import ARRAY, SCALAR, Buffer, Call, View, row_major
from .followers import Follower, begin
from .grad_mode import local
from .pieces import CALL_SIZE, LEAF, NOWHERE, Piece, _call_numbers, numbered
from .scripts import FUNCTION, NUMBER, SUM

__all__ = ["UFUNCS", "binary", "element", "install", "scalars", "total", "unary"]

_float64 = np.float64
_dtype = np.dtype(np.float64)
_getframe = sys._getframe
_tuple = tuple.__new__
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


def _root(depth: int) -> Any:
    """The piece that takes operations on leaves here and now."""
    here = local.state
    if not here.ident or here.inside is not None:
        return None
    piece = here.root()
    if (
        piece is None
        or piece.spent
        or (piece.n_scalars >= piece.limit and type(piece) is not Follower)
    ):
        return begin(here, _getframe(depth))
    return piece


def _follow(piece: Follower, op: Any, x: Any, y: Any, depth: int) -> Any:
    """The result of an operation, if it is the one that the script expects.

    None if it is not: the general way finds a piece, or a function that the script expects.
    """
    if piece.home.ident != get_ident():  # nothing is recorded, or another thread's
        return None
    step = piece.next
    if step.op is op:
        frame = _getframe(depth)
        if step.code is frame.f_code and step.lasti == frame.f_lasti:
            is_own = type(x) is _Array and x._piece is piece
            place = x._place if is_own else piece.place(x)
            if place is step.a or place == step.a:
                if y is None:
                    return piece.computed(step, op.reference(x.value))
                is_own = type(y) is _Array and y._piece is piece
                place = y._place if is_own else piece.place(y)
                if place is step.b or place == step.b:
                    return piece.computed(step, _value(piece, step, x, y))
    if step.op is not FUNCTION:
        piece.leave()
    return None


def _value(piece: Follower, step: Any, x: Any, y: Any) -> Any:
    """The value of an operation on two operands; numbers among them enter."""
    if step.b is NUMBER:
        value = step.op.reference(x.value, y)
        piece.constant_values.append(float(y))
    elif step.a is NUMBER:
        value = step.op.reference(x, y.value)
        piece.constant_values.append(float(x))
    else:
        value = step.op.reference(x.value, y.value)
    return value


def _where(x: Any) -> tuple[Any, int]:
    """Recording and buffer of an array; -1 unless it is all of a buffer, as the tape has it."""
    cell = x._cell
    if cell is None:
        place = x._place
        return x._piece, -1 if place is None else place[0]
    memory = cell.memory
    if x.value is not cell.storage or (memory is not None and memory.version != cell.synced):
        return cell.rec, -1
    return cell.rec, cell.buffer


def _array(piece: Piece, x: Any, rec: Any) -> int:
    """The buffer in ``piece`` of a whole leaf or whole data; -1 for others."""
    value = x.value
    if (rec is not LEAF and rec is not NOWHERE) or value.dtype is not _dtype:
        return -1
    cell = x.cell
    if value is not cell.storage:
        return -1
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
    result._piece = piece
    result._cell = None
    result._place = entry[1].result
    return result


def unary(op: Elementwise, x: Any, depth: int = 3) -> Any:
    """An elementwise operation on a whole array."""
    if type(x) is not _Array:
        return None
    if type(x._piece) is Follower:
        return _follow(x._piece, op, x, None, depth)
    piece, place = _where(x)
    if piece is LEAF:
        piece = _root(depth)
        if piece is None:
            return None
        if type(piece) is Follower:
            return _follow(piece, op, x, None, depth)
        place = _array(piece, x, LEAF)
    if place < 0 or not _takes(piece):
        return None
    return _result(piece, op.reference(x.value), (place,), op, depth)


def binary(op: Elementwise, x: Any, y: Any, depth: int = 3) -> Any:
    """An elementwise operation on whole arrays of one shape, or on such an array and a number."""
    first, second = (x, y) if type(x) is _Array else (y, x)
    if type(first) is not _Array:
        return None
    if type(first._piece) is Follower:
        return _follow(first._piece, op, x, y, depth)
    rec, a = _where(first)
    value = first.value
    both = type(second) is _Array
    if both:
        other = second.value
        if other.shape != value.shape:
            return None
        also, b = _where(second)
    elif type(second) is _Scalar:
        other, also = second.value, second.rec
    else:
        other, also = second, NOWHERE
    if rec.level == -1:
        piece = rec
    elif also.level == -1:
        piece = also
    elif rec is LEAF or also is LEAF:
        piece = _root(depth)
        if piece is None:
            return None
    else:
        return None
    if type(piece) is Follower:
        return _follow(piece, op, x, y, depth)
    if not _takes(piece):
        return None
    if rec is not piece:
        a = _array(piece, first, rec)
    if a < 0:
        return None
    if second is first:
        b = a
    elif not both:
        b = _number(piece, second)
        if b is None:
            return None
    else:
        if also is not piece:
            b = _array(piece, second, also)
        if b < 0:
            return None
    if first is x:
        return _result(piece, op.reference(value, other), (a, b), op, depth)
    return _result(piece, op.reference(other, value), (b, a), op, depth)


def _takes(piece: Piece) -> bool:
    """Whether a piece takes an array instruction."""
    return (
        piece.n_scalars < piece.limit
        and piece.home.ident == get_ident()
        and piece.n_elements <= _MOST
    )


def total(x: Any, depth: int = 2) -> Any:
    """The sum of a whole array."""
    if type(x) is not _Array:
        return None
    if type(x._piece) is Follower:
        return _follow(x._piece, SUM, x, None, depth + 1)
    piece, place = _where(x)
    if piece is LEAF:
        piece = _root(depth)
        if piece is None:
            return None
        if type(piece) is Follower:
            return _follow(piece, SUM, x, None, depth + 1)
        place = _array(piece, x, LEAF)
    if place < 0 or not _takes(piece):
        return None
    value = x.value
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
    return _scalar(piece, SUM.reference(value), number)


def element(x: Any, index: int) -> Any:
    """An element of a leaf with one axis: its own place, no instruction."""
    value = x.value
    if value.ndim != 1:
        return None
    piece = _root(2)
    if piece is None:
        return None
    if index < 0:
        index += value.size
    if type(piece) is Follower:
        view = piece.place(x)
        if view is not None:
            base = piece.script.buffers[view[0]].base
            return _scalar(piece, value[index], ARRAY + base + index)
        piece.leave()
    number = _array(piece, x, LEAF)
    if number < 0:
        return None
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
    follower = _follower(x, y, depth)
    if follower is not None:
        return _follow(follower, op, x, y, depth + 1)
    if type(x) is not _Scalar or type(y) is not _Scalar:
        if type(y) is _Scalar and (type(x) is float or type(x) is int or type(x) is _float64):
            first, second = y, x
        elif type(x) is _Scalar and (type(y) is float or type(y) is int or type(y) is _float64):
            first, second = x, y
        else:
            return None
        piece = _number_piece(first, depth)
        if piece is None:
            return None
        value = op.reference(x, y.value) if first is y else op.reference(x.value, y)
        a, b = _scalar_operand(piece, first), piece.constant(second)
        if first is y:
            a, b = b, a
    else:
        piece = _joint_piece(x, y, depth)
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


def _follower(x: Any, y: Any, depth: int) -> Any:
    """The piece of two operands, at least one of them a scalar, if it follows a script."""
    p = x.rec if type(x) is _Scalar else None
    q = y.rec if type(y) is _Scalar else None
    if type(p) is Follower or type(q) is Follower:
        return p if type(p) is Follower else q
    if (p is LEAF or p is None) and (q is LEAF or q is None):
        root = _root(depth + 1)
        return root if type(root) is Follower else None
    return None


def _is_ready(piece: Piece) -> bool:
    return piece.n_scalars < piece.limit and piece.home.ident == get_ident()


def _number_piece(x: Any, depth: int) -> Piece | None:
    """The piece that takes an operation on one scalar and a number."""
    p = x.rec
    if p is LEAF:
        return _root(depth + 1)
    return p if p is not NOWHERE and _is_ready(p) else None


def _joint_piece(x: Any, y: Any, depth: int) -> Piece | None:
    """The piece that takes an operation on two scalars, if it exists."""
    p, q = x.rec, y.rec
    if p is NOWHERE or q is NOWHERE:
        return None
    if p is LEAF:
        if q is LEAF:
            return _root(depth + 1)
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
