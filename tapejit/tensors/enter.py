"""The way from tensors into the recording, and back.

NumPy's functions on traced values (:mod:`tapejit.recording`) work on tensors as they are: a tensor
is a traced value of its piece.  What this module adds is the decision whether anything is recorded,
the piece that takes it, and the places of the operands in that piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import TraceError
from ..recording.recorder import where_am_i
from ..recording.tracer import ArrayTracer, Cell, Tracer
from .followers import Follower, first_piece, follower_among
from .grad_mode import local
from .notes import counted, take
from .pieces import NOWHERE, Piece, piece_for

__all__ = ["Tensor", "enter", "plain", "unwrapped", "wrap"]


class Tensor(Tracer):
    """Base class of tensors; see :func:`tapejit.tensor`.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> x = tj.tensor([1.0, 2.0], requires_grad=True)
    >>> isinstance(x, tj.Tensor), isinstance(np.sum(x), tj.Tensor)
    (True, True)
    """

    __slots__ = ()


class Meeting(TraceError):
    """A tensor meets a traced value: an error, but in the body of a staged loop on tensors."""

    def __init__(self, traced: Tracer) -> None:
        self.traced = traced
        super().__init__(
            f"{where_am_i()}: a traced value of `{traced.rec.name}` meets a tensor; inside of a "
            "recorded function use arrays: pass the tensor's values as an argument "
            "(x.detach().numpy())"
        )


def tensors_in(values: Iterable[Any], found: list) -> list:
    """The tensors among values, and in lists, tuples and object arrays among them.

    Raises :class:`Meeting` where there is a traced value.
    """
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Tracer):
            raise Meeting(value)
        elif type(value) in (list, tuple):
            tensors_in(value, found)
        elif type(value) is slice:
            tensors_in((value.start, value.stop, value.step), found)
        elif type(value) is np.ndarray and value.dtype == object:
            tensors_in(value.flat, found)
    return found


def _mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """``value`` with the tensors in it replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)([_mapped(part, function) for part in value])
    if type(value) is slice:
        return slice(*[_mapped(p, function) for p in (value.start, value.stop, value.step)])
    if type(value) is np.ndarray and value.dtype == object:
        result = np.empty(value.shape, object)
        for index in np.ndindex(value.shape):
            result[index] = _mapped(value[index], function)
        return result
    return value


def unwrapped(value: Any) -> Any:
    """Values instead of tensors; object arrays of tensors as arrays of numbers."""
    if isinstance(value, Tensor):
        return value.value
    result = _mapped(value, _value)
    if type(value) is np.ndarray and value.dtype == object:
        return np.array(result.tolist())
    return result


def _value(tensor: Tensor) -> Any:
    return tensor.value


def requires_grad(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them requires a gradient."""
    return any(tensor.requires_grad for tensor in tensors)


def enter(
    ours: Callable[..., Any], theirs: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> Any:
    """A function of tensors.

    Parameters
    ----------
    ours
        What records it, given values of one piece.
    theirs
        What computes it of plain values, where nothing is recorded.
    """
    here = local.state
    follower = follower_among(args)
    if follower is not None and here.inside is None and here.ident:
        result = follower.called(theirs, args, kwargs)
        if result is not None:
            return result
    try:
        found = tensors_in(args, [])
        if kwargs:
            tensors_in(kwargs.values(), found)
    except Meeting as meeting:
        return _in_recording(meeting.traced.rec, ours, args, kwargs)
    if here.inside is not None:
        return _inside(here.inside, ours, args, kwargs)
    if not here.enabled or not requires_grad(found):
        return plain(theirs, args, kwargs, found)
    begun = first_piece(here, found)
    if type(begun) is Follower:
        result = begun.called(theirs, args, kwargs)
        if result is not None:
            return result
    piece = piece_for(here, found)
    begun = piece.begun
    before = None if begun is None or begun in here.scripts else counted(piece)
    given = args, kwargs
    mirrors: list[tuple[Tensor, Tensor, int]] = []

    def localised(tensor: Tensor) -> Any:
        return _local(piece, tensor, mirrors)

    args = tuple([_mapped(arg, localised) for arg in args])
    kwargs = {name: _mapped(value, localised) for name, value in kwargs.items()}
    here.inside = piece
    try:
        result = ours(*args, **kwargs)
    finally:
        here.inside = None
    for tensor, mirror, buffer in mirrors:
        if mirror.cell.buffer != buffer:
            adopt(tensor, mirror.cell, piece)
    result = finished(result, mirrors)
    if before is not None:
        take(piece, before, theirs, *given, result)
    return result


Tensor.enter = staticmethod(enter)


def _in_recording(rec: Any, ours: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function of traced values and tensors: what the body of a staged loop closes over."""
    rec.check_use()
    args = tuple([_mapped(arg, rec.capture) for arg in args])
    return ours(*args, **{name: _mapped(value, rec.capture) for name, value in kwargs.items()})


def _inside(piece: Piece, ours: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """A step of a function that is being recorded: it stays in its piece."""

    def localised(tensor: Tensor) -> Any:
        return tensor if tensor.rec is piece else _entered(piece, tensor)

    args = tuple([_mapped(arg, localised) for arg in args])
    return ours(*args, **{name: _mapped(value, localised) for name, value in kwargs.items()})


def _entered(piece: Piece, tensor: Tensor) -> Any:
    """A tensor as a value of a piece; integers and truth values enter as NumPy's."""
    return piece.local(tensor) if tensor.value.dtype.kind == "f" else tensor.value


#: What a comparison gives inside of a recorded function, for one.
Piece.capture = _entered  # type: ignore[method-assign]


def _local(piece: Piece, tensor: Tensor, mirrors: list) -> Any:
    """A tensor in the piece that a function goes to; arrays of others are noted in ``mirrors``."""
    if isinstance(tensor, ArrayTracer) and tensor.value.dtype.kind == "f":
        check_synced(tensor)
        if tensor.rec is not piece:
            mirror = piece.local(tensor)
            mirrors.append((tensor, mirror, mirror.cell.buffer))
            return mirror
    return tensor if tensor.rec is piece else _entered(piece, tensor)


def check_synced(tensor: Any) -> None:
    """Raise where a graph's value was changed behind its back."""
    cell = tensor.cell
    memory = cell.memory
    if memory is not None and cell.rec.level == -1 and memory.version != cell.synced:
        raise TraceError(
            f"{where_am_i()}: this tensor's values were changed in place by {memory.operation} "
            f"({memory.place}) through a tensor that shares its memory but not its graph; write "
            "into x.detach().clone(), or into x itself"
        )


def adopt(tensor: Tensor, cell: Cell, piece: Piece) -> None:
    """A tensor was written in place: it, and the views of it, now stand in ``piece``."""
    own = tensor.cell
    own.rec, own.buffer, own.is_argument = piece, cell.buffer, cell.is_argument


def rebind(tensor: Any, cell: Cell) -> None:
    """Have an array show the storage of another cell from now on."""
    tensor.cell, tensor._place = cell, None


def finished(result: Any, mirrors: list) -> Any:
    """What a recorded function returns to the user: views of an operand share its cell."""
    if isinstance(result, Tensor):
        if result.value.dtype.kind != "f":
            return wrap(result.value, ())
        if mirrors and isinstance(result, ArrayTracer):
            for tensor, mirror, _ in mirrors:
                if mirror.cell is result.cell and not tensor.is_root:
                    return new_view(result.value, tensor.cell)
        return result
    if type(result) in (tuple, list):
        return type(result)([finished(part, mirrors) for part in result])
    if isinstance(result, (np.ndarray, np.generic)):
        return wrap(result, ())
    return result


def plain(
    theirs: Callable[..., Any], args: tuple, kwargs: dict[str, Any], found: list[Tensor]
) -> Any:
    """A function of plain values: nothing is recorded."""
    args = tuple([unwrapped(arg) for arg in args])
    kwargs = {name: unwrapped(value) for name, value in kwargs.items()}
    return _wrapped(theirs(*args, **kwargs), found)


def _wrapped(result: Any, found: list[Tensor]) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        return wrap(result, found)
    if isinstance(result, tuple) and type(result) is not tuple:  # namedtuples of np.linalg
        return type(result)(*[_wrapped(part, found) for part in result])
    if type(result) in (tuple, list):
        return type(result)([_wrapped(part, found) for part in result])
    return result


def wrap(value: Any, sharing: Iterable[Tensor]) -> Any:
    """A tensor without a graph; a view of one of the tensors ``sharing`` stays a view.

    Floats become float64.
    """
    if value.dtype.kind == "f" and value.dtype != np.float64:
        value = value.astype(np.float64)  # what sweeps read
    if value.ndim == 0:
        return new_scalar(value[()] if type(value) is np.ndarray else value)
    base = value.base
    if base is not None:
        for tensor in sharing:
            if isinstance(tensor, ArrayTracer) and base is tensor.cell.storage:
                # Of data, the same cell: a write through either that is recorded moves both.
                is_data = tensor.rec is NOWHERE
                return new_view(value, tensor.cell if is_data else detached_cell(tensor))
        value = np.array(value, order="C")
    elif not value.flags.c_contiguous:
        value = np.ascontiguousarray(value)
    return new_data(value)


def detached_cell(tensor: Any) -> Cell:
    """A cell without a graph that shares a tensor's storage, and its counter."""
    from .memory import memory_of

    own = tensor.cell
    cell = Cell(-1, own.storage, False, NOWHERE)
    fresh = own.memory is None
    cell.memory = memory_of(own)
    cell.synced = cell.memory.version
    if fresh and own.rec.level == -1:
        if not own.rec.shared:
            own.rec.shared = []
        own.rec.shared.append((own.buffer, own.memory, own.memory.version))
    return cell


def new_scalar(value: Any) -> Any:
    """A 0-d tensor without a graph."""
    tensor = Piece.scalar_type()
    tensor.rec = NOWHERE
    tensor.value = value
    tensor.element = tensor.version = 0
    return tensor


def new_data(value: np.ndarray) -> Any:
    """A tensor without a graph that holds ``value``."""
    cls = Piece.array_type
    tensor = cls.__new__(cls)
    tensor.value = value
    tensor._piece = NOWHERE
    tensor._cell = tensor._place = None
    return tensor


def new_view(value: np.ndarray, cell: Cell) -> Any:
    """A tensor that shows ``value``, in the storage of ``cell``."""
    return Piece.array_type(cell.rec, value, cell)
