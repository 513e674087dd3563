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

import itertools
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import TraceError
from ..ops.table import OPS
from ..recording.recorder import Home, Recorder, user_frame, where_am_i
from ..recording.tracer import Cell, current_element
from ..tape import ARRAY, SCALAR, Leaf, View, line_of, row_major
from .grad_mode import State
from .memory import memory_of

__all__ = ["NOWHERE", "Piece", "Source", "piece_for"]

#: Scalars that a root piece takes; a piece that reads others takes as many as all of them hold.
SMALLEST = 4096
#: Bytes of arrays, captured by value, that a root piece takes.
FEWEST_BYTES = 1 << 20

_numbers = itertools.count(1)


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
    at
        Code object and byte-code offset of the user's line that read it first.
    """

    __slots__ = ("at", "kind", "leaf", "memory", "piece", "place", "value", "version")

    def __init__(self, kind: str, value: Any = None, leaf: Any = None) -> None:
        self.kind = kind
        self.value = value
        self.leaf = leaf
        self.memory: Any = None
        self.version = 0
        self.piece: Any = None
        self.place = 0
        frame = user_frame(2)
        self.at = (frame.f_code, frame.f_lasti)

    @property
    def line(self) -> str:
        """``file:line`` of the user's line that read it first."""
        code, offset = self.at
        return f"{code.co_filename}:{line_of(code, offset)}"

    @property
    def is_stale(self) -> bool:
        """Whether the storage was changed in place since."""
        if self.memory is not None:
            return self.memory.version != self.version
        return self.leaf is not None and self.leaf.value is not self.value


class Nowhere:
    """Stands for the recording of tensors that have no graph."""

    level = -2
    limit = 0
    n_scalars = 0
    values = None
    writes = 0
    home = Home(0)

    def check_use(self) -> None:
        """Tensors are not traced values."""
        raise TraceError(
            f"{where_am_i()}: this function does not take tensors; use the NumPy function of the "
            "same name"
        )


NOWHERE = Nowhere()


class Piece(Recorder):
    """A part of the tape of tensors."""

    level = -1

    def __init__(self, state: State, reads: frozenset[Piece] = frozenset()) -> None:
        super().__init__("tensors")
        self.level = -1
        self.number = next(_numbers)
        self.home = state.home
        self.reads = reads
        below = sum(piece.n_scalars + piece.n_elements for piece in reads)
        self.limit = max(SMALLEST, below)
        self.bytes_left = max(FEWEST_BYTES, sum(piece.bytes_held for piece in reads))
        self.bytes_held = 0
        self.constant_ids: list[int] = []
        self.sources: list[Source] = []
        self._known: dict[Any, int] = {}
        self._copies: dict[tuple[int, int], int] = {}
        #: Row masks that backward freed.
        self.freed: list[np.ndarray] = []
        self.spent = False
        self.shared: list[tuple] = []  # buffers whose storage detached tensors share
        self.hooks: dict[int, Any] = {}  # by element, or -1 minus buffer

    def __repr__(self) -> str:
        return f"<piece {self.number} of {len(self.code) // 5} rows>"

    # --- inputs -----------------------------------------------------------------------------------

    def constant(self, value: Any) -> int:
        """A number that enters: each has its own place, so that structure knows no values."""
        number = self.scalar()
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
        number = self._input_array(Source("data", copy), copy.shape, copy.size)
        known.append((copy, number))
        self._kept.append(array)
        self._hold(copy.nbytes + array.nbytes)
        return View(number, 0, copy.shape, row_major(copy.shape))

    def _hold(self, nbytes: int) -> None:
        self.bytes_held += nbytes
        if self.bytes_held > self.bytes_left:
            self.limit = 0

    def _input_array(self, source: Source, shape: tuple[int, ...], size: int) -> int:
        number = self.buffer(size, len(self.inputs))
        self.inputs.append(Leaf(View(number, 0, shape, row_major(shape)), "<f8"))
        self.sources.append(source)
        return number

    def _input_scalar(self, source: Source) -> int:
        number = self.scalar()
        self.inputs.append(Leaf(View(SCALAR, number, (), ()), "<f8"))
        self.sources.append(source)
        return number

    def enter_copy(self, storage: np.ndarray) -> int:
        """The buffer of a copy of storage that is going to be written."""
        copy = np.array(storage, np.float64, order="C")
        self._hold(copy.nbytes)
        return self._input_array(Source("data", copy), copy.shape, copy.size)

    def local(self, tensor: Any) -> Any:
        """A tensor as a value of this piece."""
        rec = tensor.rec
        if rec is self:
            return tensor
        if tensor.ndim == 0:
            return self._scalar(tensor, rec)
        return self._array(tensor, rec)

    def _scalar(self, tensor: Any, rec: Any) -> Any:
        if rec is NOWHERE:
            number = self._entered(id(tensor), tensor if tensor.is_root else None, tensor.value)
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
        if known is not None and self.sources[known].value is value:
            return self.inputs[known].view.offset
        source = Source("data" if leaf is None else "leaf", value, leaf)
        self._known[key] = len(self.inputs)
        if leaf is None:
            self._kept.append(value)
        return self._input_scalar(source)

    def _array(self, tensor: Any, rec: Any) -> Any:
        cell = tensor.cell
        if rec is not NOWHERE:
            return self._mirrored(tensor.value, cell, self._linked(rec, cell))
        if not tensor.is_root:
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
        mirror = Cell(buffer, cell.storage, True, self)
        return self.array_type(self, value, mirror)

    def _captured(self, leaf: Any, cell: Cell) -> int:
        """The buffer that stands for a leaf's storage, or for that of data."""
        key = id(cell.storage) if leaf is None else id(leaf)
        known = self._known.get(key)
        memory = memory_of(cell)
        if known is not None and self.sources[known].version == memory.version:
            return self.inputs[known].view.buffer
        storage = cell.storage
        source = Source("data" if leaf is None else "leaf", storage, leaf)
        source.memory, source.version = memory, memory.version
        self._known[key] = len(self.inputs)
        if leaf is None:
            self._hold(storage.nbytes)
        return self._input_array(source, storage.shape, storage.size)

    def _link(self, rec: Piece, place: int) -> Source:
        source = Source("link")
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
        return self.n_scalars + self.n_elements < self.limit

    def check_use(self) -> None:
        """Raise where a tensor of this piece is used in another thread."""
        if self.thread != threading.get_ident():
            raise TraceError(
                f"{where_am_i()}: a tensor that another thread computed is used in this one; "
                "graphs belong to their thread: pass x.detach(), or compute it here"
            )

    def release(self) -> None:
        """Forget everything: the graph was freed."""
        self.spent = True
        self.close()
        self.code, self.codes, self.offsets, self.calls = [], [], [], []
        self.constant_values, self.constant_ids = [], []
        self.sources, self._kept = [], []
        self._array_numbers, self._known, self._copies = {}, {}, {}
        self.reads = frozenset()


#: References to a piece that nobody uses: the local variable, and the argument of getrefcount.
_IDLE = 2


def root_piece(state: State) -> Piece:
    """The piece that takes operations on leaves."""
    piece = state.root()
    if piece is None or not piece.is_open or sys.getrefcount(piece) == _IDLE:
        piece = Piece(state)
        state.root = weakref.ref(piece)
    return piece


def piece_for(state: State, tensors: Iterable[Any]) -> Piece:
    """The piece that takes an operation on these tensors."""
    pieces = {tensor.rec for tensor in tensors if tensor.rec is not NOWHERE}
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
