"""Pieces: the reference-counted parts of the tape that tensors record on as they compute.

A piece is a recording like any other; a tensor refers to the piece that holds its row, and a piece
to those that it reads from (its ``reads``), so that a graph is freed with its last tensor.  Three
rules keep garbage small.  An operation whose operands lie in one piece goes to that piece until it
is full.  What joins several pieces goes to a piece that reads exactly these, so that the rows of a
piece all depend on the same others: unrelated computations never hold one another.  And operations
on leaves alone go to a *root* piece, which reads from none.

Whatever enters a piece from outside is an *input* with a :class:`Source`: a leaf, a tensor that
needs no gradient, a NumPy array or number, or a value of another piece.  Numbers and arrays are no
constants of the tape: the structure is that of the next iteration, too, whatever values it has.
"""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Any

import numpy as np

from ..errors import TraceError
from ..interpreters.layout import CALL
from ..ops.table import OPS
from ..recording.recorder import ALIGNMENT, Home, Recorder, user_frame, where_am_i
from ..recording.tracer import NO_LEVEL, Cell, current_element
from ..tape import ARRAY, SCALAR, Buffer, Call, View, row_major
from .grad_mode import State
from .memory import memory_of

__all__ = ["LEAF", "NOWHERE", "Piece", "Source", "piece_for", "root_piece"]

#: Scalars that a root piece takes; a piece that reads others takes as many as all of them hold.
SMALLEST = 4096
#: An array instruction takes the place of this many scalars, so that one number says how full
#: a piece is.
CALL_SIZE = 8
#: Bytes of arrays, captured by value, that a root piece takes.
FEWEST_BYTES = 1 << 24

_numbers = itertools.count(1)
next_number = _numbers.__next__
_tuple = tuple.__new__


class Source:
    """Where an input of a piece comes from.

    Attributes
    ----------
    kind
        ``"leaf"`` (requires a gradient), ``"data"`` or ``"link"`` (a value of another piece).
    value
        The array or number; ``None`` for a link.
    leaf
        The leaf tensor, ``None`` otherwise.
    memory, version
        The counter of the value's storage, and its count when the value was read.
    piece, place
        Of a link: the other piece; the element, or -1 minus the buffer, there.
    row
        The first row that may read it.
    """

    __slots__ = ("kind", "leaf", "memory", "piece", "place", "row", "value", "version")

    def __init__(
        self, kind: str, row: int, value: Any = None, leaf: Any = None, memory: Any = None
    ) -> None:
        self.kind = kind
        self.row = row
        self.value = value
        self.leaf = leaf
        self.memory = memory
        self.version = 0 if memory is None else memory.version

    @property
    def is_stale(self) -> bool:
        """Whether the storage was changed in place since."""
        if self.memory is not None:
            return self.memory.version != self.version
        return self.leaf is not None and self.leaf.value is not self.value


class Nowhere:
    """Stands for the recording of tensors without a graph."""

    limit = 0
    n_scalars = 0
    values = None
    writes = 0
    home = Home(0)

    def __init__(self, name: str, level: int) -> None:
        self.name = name
        self.level = level

    def check_use(self) -> None:
        """Tensors are not traced values."""
        raise TraceError(
            f"{where_am_i()}: this function does not take tensors; use the NumPy function of the "
            "same name"
        )


#: The recording of tensors that no gradient is wanted of, and that of leaves that require one.
NOWHERE, LEAF = Nowhere("data", NO_LEVEL), Nowhere("leaf", -2)

#: Numbers of calls, equal for equal calls: so that a piece's rows tell its structure.
_call_numbers: dict[tuple, tuple[int, Call]] = {}
_new_numbers = itertools.count(1)
next_number = _numbers.__next__
_tuple = tuple.__new__
#: Calls that are known before they are forgotten, and numbered anew.
MAX_CALLS = 1 << 16


def numbered(key: tuple, call: Call) -> tuple[int, Call]:
    """A call with a number of its own, to be found again by ``key``: a shorter way to say it."""
    if len(_call_numbers) > MAX_CALLS:
        _call_numbers.clear()
    whole = (call.op, call.operands, call.result, call.params)
    entry = _call_numbers.setdefault(whole, (next(_new_numbers), call))
    return _call_numbers.setdefault(key, entry)


class _Seldom:
    """An attribute that most pieces never need: made when it is first asked for.

    (A ``__getattr__`` would make all other attributes of pieces slow.)
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, piece: Any, owner: type) -> Any:
        if piece is None:
            return self
        value = self.make()
        setattr(piece, self.name, value)
        piece.has_more = True
        return value


class Piece(Recorder):
    """A part of the tape of tensors."""

    constants, cells = _Seldom(dict), _Seldom(dict)
    array_constants, captured = _Seldom(list), _Seldom(list)
    _array_numbers, _captures, _copies = _Seldom(dict), _Seldom(dict), _Seldom(dict)
    _element_writes, _region_writes = _Seldom(dict), _Seldom(list)
    _dynamic_writes, _kept = _Seldom(list), _Seldom(list)

    level = -1
    closed = False
    spent = False
    #: Whether it has any of what most pieces never need.
    has_more = False
    name = "tensors"
    body = ""
    n_guards = 0
    on_guard = None
    values = None
    writes = 0
    bytes_held = 0
    #: The pieces that it may read from.
    reads: frozenset[Piece] = frozenset()
    #: The place of the program where it began, if that is known.
    begun: tuple | None = None
    #: What functions recorded (see :mod:`tapejit.tensors.notes`), by their first row.
    notes: dict[int, Any] | None = None
    #: Whether values, not shapes alone, decided what a function recorded.
    looked = False
    #: Masks of the rows that a backward freed.
    freed: Sequence[np.ndarray] = ()
    #: Results whose gradients somebody looks at, by element, or -1 minus buffer.
    hooks: dict[int, Any] | None = None
    #: (buffer, memory, version) where detached tensors share a result's storage.
    shared: Sequence[tuple] = ()

    limit = SMALLEST
    bytes_left = FEWEST_BYTES
    #: Numbers that entered: their scalars and values.
    constant_ids: Any = ()
    constant_values: Any = ()
    n_scalars = 0
    n_elements = 0

    def __init__(self, state: State, reads: frozenset[Piece] = frozenset()) -> None:
        self.number = next_number()
        self.home = state
        if reads:
            self.reads = reads
            self.limit = max(SMALLEST, sum(piece.n_scalars for piece in reads))
            self.bytes_left = max(FEWEST_BYTES, sum(piece.bytes_held for piece in reads))
        self.code: list[int] = []
        self.codes: list[Any] = []
        self.offsets: list[int] = []
        self.calls: list[Call] = []
        self.buffers: list[Buffer] = []
        self.sources: list[Source] = []
        #: Of each input: its kind, or the piece it comes from (as they are ordered) and its place
        #: there; its scalar or buffer; its shape (None of a scalar).
        self.kinds: list[tuple] = []
        self._known: dict[Any, int] = {}

    @property
    def thread(self) -> int:
        """The thread that it belongs to."""
        return self.home.thread

    def __repr__(self) -> str:
        return f"<piece {self.number} of {len(self.code) // 5} rows>"

    # --- inputs -----------------------------------------------------------------------------------

    def constant(self, value: Any) -> int:
        """A number that enters: each has its own place, so that structure knows no values."""
        number = self.n_scalars
        self.n_scalars = number + 1
        if not self.constant_ids:
            self.constant_ids, self.constant_values = [], []
        self.constant_ids.append(number)
        self.constant_values.append(float(value))
        return number

    def array_constant(self, array: np.ndarray) -> View:
        """An array that enters, copied; the same array is found again while it is unchanged."""
        address = array.__array_interface__["data"][0]
        key = (address, array.shape, array.strides, array.dtype)
        known = self._array_numbers.setdefault(key, [])
        for copy, number in known:
            if copy.tobytes() == array.astype(np.float64).tobytes():
                return View(number, 0, copy.shape, row_major(copy.shape))
        copy = np.array(array, np.float64, order="C")
        number = self._input_array(Source("data", len(self.codes), copy), copy.shape, copy.size)
        known.append((copy, number))
        self._kept.append(array)
        self._hold(copy.nbytes + array.nbytes)
        return View(number, 0, copy.shape, row_major(copy.shape))

    def _hold(self, nbytes: int) -> None:
        self.bytes_held += nbytes
        if self.bytes_held > self.bytes_left:
            self.limit = 0

    @property
    def views(self) -> list[View]:
        """Where the inputs are."""
        return [
            View(SCALAR, place, (), ()) if type(place) is int else place for place in self.places
        ]

    @property
    def places(self) -> list[Any]:
        """Of each input: the view of an array, the element of a scalar."""
        return [
            number if shape is None else View(number, 0, shape, row_major(shape))
            for *_, number, shape in self.kinds
        ]

    def _input_array(self, source: Source, shape: tuple[int, ...], size: int) -> int:
        number = self.buffer(size, len(self.sources))
        self._add_source(source, number, shape)
        return number

    def _input_scalar(self, source: Source) -> int:
        number = self.scalar()
        self._add_source(source, number, None)
        return number

    def _add_source(self, source: Source, number: int, shape: Any) -> None:
        self.sources.append(source)
        if source.kind != "link":
            self.kinds.append((source.kind, number, shape))
            return
        order = sorted(piece.number for piece in self.reads)
        at = order.index(source.piece.number)
        self.kinds.append((at, source.place, number, shape))

    # --- rows -------------------------------------------------------------------------------------

    def call(self, op: str, operands: tuple, result: View, params: tuple = ()) -> None:
        """Append an array instruction."""
        key = (op, operands, result, params)
        number, call = _call_numbers.get(key) or numbered(key, Call(*key))
        self.n_scalars += CALL_SIZE
        self.code.extend((CALL, len(self.calls), number, 0, 0))
        frame = user_frame(2)
        self.codes.append(frame.f_code)
        self.offsets.append(frame.f_lasti)
        self.calls.append(call)

    def buffer(self, size: int, argument: int = -1) -> int:
        """A new array buffer; returns its number."""
        base = self.n_elements
        self.n_elements = end = base + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        if end >= ARRAY:
            raise TraceError(
                f"{where_am_i()}: the arrays of this graph hold more than 2**30 elements together"
            )
        self.buffers.append(Buffer(base, size, argument))
        return len(self.buffers) - 1

    def place_of(self, element: int) -> View:
        """The 0-d view of an element of an array buffer."""
        offset = element - ARRAY
        number = bisect.bisect_right(self.buffers, offset, key=_base) - 1
        return View(number, offset - self.buffers[number].base, (), ())

    def enter_copy(self, storage: np.ndarray) -> int:
        """The buffer of a copy of storage that is going to be written."""
        copy = np.array(storage, np.float64, order="C")
        self._hold(copy.nbytes)
        return self._input_array(Source("data", len(self.codes), copy), copy.shape, copy.size)

    def local(self, tensor: Any) -> Any:
        """A tensor as a value of this piece."""
        rec = tensor.rec
        if rec is self:
            return tensor
        if tensor.ndim == 0:
            return self._scalar(tensor, rec)
        return self._array(tensor, rec)

    def _scalar(self, tensor: Any, rec: Any) -> Any:
        if rec is NOWHERE or rec is LEAF:
            leaf = tensor if rec is LEAF else None
            number = self._entered(id(tensor), leaf, tensor.value)
        else:
            element = rec.fixed(tensor)
            number = self._known.get((rec.number, element))
            if number is None:
                number = self._input_scalar(self._link(rec, element))
                self._known[rec.number, element] = number
        local = self.scalar_type()
        local.rec, local.value, local.element, local.version = self, tensor.value, number, 0
        return local

    def _entered(self, key: Any, leaf: Any, value: Any) -> int:
        """The input that stands for a 0-d tensor without a graph."""
        known = self._known.get(key)
        if known is not None:
            source = self.sources[known]
            if source.value is value and source.leaf is leaf:
                return self.kinds[known][1]
        source = Source("data" if leaf is None else "leaf", len(self.codes), value, leaf)
        self._known[key] = len(self.sources)
        if leaf is None:
            self._kept.append(value)
        return self._input_scalar(source)

    def _array(self, tensor: Any, rec: Any) -> Any:
        cell = tensor.cell
        if rec is not NOWHERE and rec is not LEAF:
            return self._mirrored(tensor.value, cell, self._linked(rec, cell))
        if rec is NOWHERE:
            return self._mirrored(tensor.value, cell, self._captured(None, cell))
        value = tensor.value
        if value is not cell.storage:  # a leaf that shows a part of its storage: copied
            value = value.copy(order="C")
            cell = Cell(-1, value)
            cell.memory = memory_of(tensor.cell)
        mirror = self._mirrored(value.view(), cell, self._captured(tensor, cell))
        mirror.value.flags.writeable = False  # views of leaves are not written
        mirror.cell.memory, mirror.cell.synced = cell.memory, cell.memory.version
        return mirror

    def _mirrored(self, value: np.ndarray, cell: Cell, buffer: int) -> Any:
        mirror = self.array_type(self, value, Cell(buffer, cell.storage, True, self))
        if value.shape == cell.storage.shape and value.strides == cell.storage.strides:
            mirror._place = View(buffer, 0, value.shape, row_major(value.shape))
        return mirror

    def _captured(self, leaf: Any, cell: Cell) -> int:
        """The buffer that stands for a leaf's storage, or for that of data."""
        storage = cell.storage
        key = id(storage) if leaf is None else id(leaf)
        memory = cell.memory
        if memory is None:
            memory = memory_of(cell)
        else:
            known = self._known.get(key)
            if known is not None and self.sources[known].version == memory.version:
                return self.kinds[known][1]
        sources, buffers = self.sources, self.buffers
        kind = "leaf" if leaf is not None else "data"
        source = Source(kind, len(self.codes), storage, leaf, memory)
        at, number = len(sources), len(buffers)
        base, size = self.n_elements, storage.size
        self._known[key] = at
        sources.append(source)
        self.kinds.append((kind, number, storage.shape))
        buffers.append(_tuple(Buffer, (base, size, at, -1)))
        self.n_elements = base + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        if leaf is None:
            self._hold(storage.nbytes)
        return number

    def _link(self, rec: Piece, place: int) -> Source:
        source = Source("link", len(self.codes))
        source.piece, source.place = rec, place
        return source

    def _linked(self, rec: Piece, cell: Cell) -> int:
        """The buffer that stands for another piece's: from now on not written in place there."""
        cell.is_argument = True
        key = (rec.number, -1 - cell.buffer)
        number = self._known.get(key)
        if number is None:
            storage = cell.storage
            source = self._link(rec, -1 - cell.buffer)
            number = self._input_array(source, storage.shape, storage.size)
            self._known[key] = number
        return number

    def fixed(self, tensor: Any) -> int:
        """The scalar that holds a tensor's value for good: array elements are copied."""
        element = current_element(tensor)
        if element >= ARRAY:
            key = (element, self.writes)
            copy = self._copies.get(key)
            if copy is None:
                copy = self._copies[key] = self.scalar()
                self.emit(OPS["positive"].code, copy, element)
            tensor.element, element = copy, copy
        return element

    # --- use --------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it takes more rows."""
        return self.n_scalars < self.limit and self.n_elements < ARRAY // 2

    def check_use(self) -> None:
        """Raise where a tensor of this piece is used in another thread."""
        if self.thread != get_ident():
            raise TraceError(
                f"{where_am_i()}: a tensor that another thread computed is used in this one; "
                "graphs belong to their thread: pass x.detach(), or compute it here"
            )

    def release(self) -> None:
        """Forget everything: the graph was freed."""
        # One by one: through ``__dict__`` an object loses its compact form.
        self.spent = True
        self.limit = 0
        self.code = self.codes = self.offsets = self.calls = self.sources = self.kinds = _NONE
        self.constant_ids = self.constant_values = _NONE
        self._known = {}
        self.reads = _NO_READS
        if self.has_more:
            self._kept, self._array_numbers, self._copies = [], {}, {}


_NONE: Any = ()
_NO_READS: frozenset[Piece] = frozenset()


def _base(buffer: Buffer) -> int:
    return buffer.base


def root_piece(state: State) -> Piece:
    """The piece that takes operations on leaves."""
    piece = state.root()
    if piece is None or not piece.is_open:
        piece = Piece(state)
        state.root = weakref.ref(piece)
    return piece


def piece_for(state: State, tensors: Iterable[Any]) -> Piece:
    """The piece that takes an operation on these tensors."""
    pieces = {tensor.rec for tensor in tensors if tensor.rec.level == -1}
    if not pieces:
        return root_piece(state)
    for piece in pieces:
        piece.check_use()
    youngest = max(pieces, key=_number)
    reads = pieces.union(*(piece.reads for piece in pieces))
    if youngest.is_open and reads <= youngest.reads | {youngest}:
        return youngest
    key = frozenset(map(_number, reads))
    piece = state.continuing.get(key)
    if piece is None or not piece.is_open:
        piece = state.continuing[key] = Piece(state, frozenset(reads))
    return piece


def _number(piece: Piece) -> int:
    return piece.number
