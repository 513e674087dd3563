"""The part of the pieces that an output needs, as a tape of its own.

Rows are marked from the outputs backwards, piece by piece, and renumbered in order: whatever else
the pieces hold, equal graphs become equal tapes and share one program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import tables
from ..tape import ARRAY, SCALAR, Buffer, Call, Leaf, Region, Tape, View, row_major
from .pieces import Piece
from .regions import regions_of

__all__ = ["Extract", "extract"]

#: Marks of scalars and buffers.
NEEDED, CUT, CUT_NEEDED = 1, 2, 3
_ALIGNMENT = 8


def mark(code, first, last, scalars, buffers, blocks, arity, rows):
    """Mark the scalar rows of [first, last) that marked values depend on, last row first."""
    for i in range(last - 1, first - 1, -1):
        op = code[i, 0]
        out = code[i, 1]
        if op == CALL:
            continue
        if op == WRITE:
            target = blocks[(code[i, 2] - ARRAY) // 8]
            if buffers[target] & 1 == 0 and scalars[out] == 0:
                continue
            buffers[target] |= 1
            first_operand = 1
        else:
            if scalars[out] != NEEDED:
                continue
            first_operand = 0
        rows[i] = 1
        for j in range(first_operand, arity[op]):
            element = code[i, 2 + j]
            if element < ARRAY:
                scalars[element] |= 1
            else:
                buffers[blocks[(element - ARRAY) // 8]] |= 1


def renumber(code, rows, places, shifts, blocks, arity, results, at, out):
    """Write the marked rows with new numbers; returns the next free scalar.

    ``places``: new element of each scalar, filled in as rows define them.  ``shifts``: what is
    added to the elements of each buffer.  ``results``: the scalar each call defines, or -1.
    """
    n = 0
    call = 0
    for i in range(code.shape[0]):
        if rows[i] == 0:
            continue
        op = code[i, 0]
        out[n, 0] = op
        if op == CALL:
            result = results[code[i, 1]]
            out[n, 1] = call
            call += 1
            if result >= 0:
                places[result] = at
                at += 1
            n += 1
            continue
        for j in range(arity[op]):
            element = code[i, 2 + j]
            if element < ARRAY:
                out[n, 2 + j] = places[element]
            else:
                out[n, 2 + j] = element + shifts[blocks[(element - ARRAY) // 8]]
        places[code[i, 1]] = at
        out[n, 1] = at
        at += 1
        n += 1
    return at


_I, _B, _V, _N = "int32[:,::1]", "uint8[::1]", "int32[::1]", "int64"
SIGNATURES = {
    "mark": f"void({_I},{_N},{_N},{_B},{_B},{_V},{_V},{_B})",
    "renumber": f"int64({_I},{_B},{_V},int64[::1],{_V},{_V},{_V},{_N},{_I})",
}


def _compiled(function: Callable) -> Callable:
    from ..config import settings
    from ..interpreters.cache import compile_entry

    if settings.plain_python:
        return function
    return compile_entry(SIGNATURES[function.__name__], function)


class Extract(NamedTuple):
    """A tape, and where its inputs come from.

    Attributes
    ----------
    inputs
        By tape input: (piece, number of its source), or (-1, number of the cut).
    constants
        By piece: which of its numbers are needed, in the order of the tape's first input.
    rows
        By piece: mask of the rows that the tape holds.
    values
        By piece: the sources and shared buffers whose values are needed.
    """

    tape: Tape
    inputs: list[tuple[int, int]]
    constants: list[np.ndarray]
    rows: list[np.ndarray]


class _Part:
    """One piece's marks and maps."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.views = piece.views
        self.code = np.array(piece.code, np.int32).reshape(-1, 5)
        self.rows = np.zeros(len(self.code), np.uint8)
        self.scalars = np.zeros(max(piece.n_scalars, 1), np.uint8)
        self.buffers = np.zeros(max(len(piece.buffers), 1), np.uint8)
        sizes = [-(-buffer.size // _ALIGNMENT) for buffer in piece.buffers]
        self.blocks = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        if not len(self.blocks):
            self.blocks = np.zeros(1, np.int32)
        self.calls: list[Call] = []
        self.results = np.full(max(len(piece.calls), 1), -1, np.int32)
        self.places = np.full(max(piece.n_scalars, 1), -1, np.int32)
        self.shifts = np.zeros(max(len(piece.buffers), 1), np.int64)
        self.numbers = [-1] * len(piece.buffers)

    def need(self, place: int) -> None:
        """Mark an element, or (below zero) -1 minus a buffer."""
        if place < 0:
            self.buffers[-1 - place] |= 1
        elif place < ARRAY:
            self.scalars[place] |= 1
        else:
            self.buffers[self.blocks[(place - ARRAY) // _ALIGNMENT]] |= 1

    def _need_view(self, view: View) -> None:
        if view.buffer == SCALAR:
            self.scalars[view.offset] |= 1
        else:
            self.buffers[view.buffer] |= 1

    def _is_needed(self, view: View) -> bool:
        marks = self.scalars if view.buffer == SCALAR else self.buffers
        at = view.offset if view.buffer == SCALAR else view.buffer
        return bool(marks[at] == NEEDED)

    def mark(self) -> None:
        """Mark the rows that marked values depend on."""
        arity = tables()[0]
        call_rows = np.flatnonzero(self.code[:, 0] == CALL).tolist()
        last = len(self.code)
        for row in [*reversed(call_rows), -1]:
            if row + 1 < last:
                _compiled(mark)(
                    self.code, row + 1, last, self.scalars, self.buffers, self.blocks, arity,
                    self.rows,
                )  # fmt: skip
            if row >= 0:
                self._mark_call(row)
            last = row
        self.calls = [self.piece.calls[self.code[row, 1]] for row in call_rows if self.rows[row]]

    def _mark_call(self, row: int) -> None:
        call = self.piece.calls[self.code[row, 1]]
        needed = self._is_needed(call.result)
        if call.op in ("write", "scatter_write"):
            needed = needed or self._is_needed(call.operands[-1])
        if not needed:
            return
        self.rows[row] = 1
        for view in call.operands:
            self._need_view(view)

    def place(self, place: int) -> int:
        """The new element (or -1 minus the new buffer) of a place."""
        if place < 0:
            return -1 - self.numbers[-1 - place]
        if place < ARRAY:
            return int(self.places[place])
        return place + int(self.shifts[self.blocks[(place - ARRAY) // _ALIGNMENT]])


class _Builder:
    """Collects the tape of several parts."""

    def __init__(self) -> None:
        self.n_scalars = 0
        self.n_elements = 0
        self.buffers: list[Buffer] = []
        self.inputs: list[tuple[int, int]] = []
        self.leaves: list[Leaf] = []
        self.calls: list[Call] = []

    def buffer(self, size: int, argument: int = -1) -> int:
        """A new buffer's number."""
        self.buffers.append(Buffer(self.n_elements, size, argument))
        self.n_elements += -(-size // _ALIGNMENT) * _ALIGNMENT
        return len(self.buffers) - 1

    def input_scalar(self, origin: tuple[int, int]) -> int:
        """A new 0-d input."""
        self.leaves.append(Leaf(View(SCALAR, self.n_scalars, (), ()), "<f8"))
        self.inputs.append(origin)
        self.n_scalars += 1
        return self.n_scalars - 1

    def input_array(self, origin: tuple[int, int], shape: tuple[int, ...], size: int) -> int:
        """A new array input's buffer."""
        number = self.buffer(size, len(self.inputs))
        self.leaves.append(Leaf(View(number, 0, shape, row_major(shape)), "<f8"))
        self.inputs.append(origin)
        return number

    def enter(self, part: _Part, old: int, new: int) -> None:
        """A buffer of a part stands in a buffer of the tape."""
        part.numbers[old] = new
        part.shifts[old] = self.buffers[new].base - part.piece.buffers[old].base

    def element_view(self, element: int, view: View) -> View:
        """A view of one element, stretched as ``view`` is."""
        if element < ARRAY:
            return view._replace(offset=element)
        offset = element - ARRAY
        bases = [buffer.base for buffer in self.buffers]
        number = int(np.searchsorted(bases, offset, side="right")) - 1
        return View(number, offset - bases[number], view.shape, (0,) * len(view.shape))

    def moved(self, part: _Part, view: View) -> View:
        """A view of a part, on the tape."""
        if view.buffer == SCALAR:
            return self.element_view(int(part.places[view.offset]), view)
        return view._replace(buffer=part.numbers[view.buffer])


def extract(
    pieces: Sequence[Piece], outputs: Sequence[tuple[int, View]], cuts: Sequence[tuple[int, Any]]
) -> Extract:
    """The tape of some outputs.

    Parameters
    ----------
    pieces
        In order: those that others read from come first.
    outputs
        Piece and view of each output.
    cuts
        Piece and place (with its shape) of values that are to be inputs, however computed.
    """
    parts = [_Part(piece) for piece in pieces]
    index = {piece.number: i for i, piece in enumerate(pieces)}
    for i, (place, _) in cuts:
        if place < 0:
            parts[i].buffers[-1 - place] = CUT
        else:
            parts[i].scalars[place] = CUT
    for i, view in outputs:
        parts[i]._need_view(view)
    for part in reversed(parts):
        part.mark()
        for view, source in zip(part.views, part.piece.sources, strict=True):
            if source.kind == "link" and part._is_needed(view):
                parts[index[source.piece.number]].need(source.place)
    builder = _Builder()
    constants = [_needed_constants(part) for part in parts]
    _enter_constants(builder, parts, constants)
    codes = [_enter_part(builder, parts, part, i, index, cuts) for i, part in enumerate(parts)]
    leaves = [Leaf(builder.moved(parts[i], view), "<f8") for i, view in outputs]
    return Extract(
        _tape(builder, parts, codes, leaves), builder.inputs, constants,
        [part.rows for part in parts],
    )  # fmt: skip


def _needed_constants(part: _Part) -> np.ndarray:
    ids = np.array(part.piece.constant_ids, np.int64)
    return np.flatnonzero(part.scalars[ids])


def _enter_constants(
    builder: _Builder, parts: Sequence[_Part], constants: Sequence[np.ndarray]
) -> None:
    """All numbers are elements of the first input."""
    total = sum(len(each) for each in constants)
    if not total:
        return
    number = builder.input_array((-1, -1), (total,), total)
    at = ARRAY + builder.buffers[number].base
    for part, chosen in zip(parts, constants, strict=True):
        ids = np.array(part.piece.constant_ids, np.int64)[chosen]
        part.places[ids] = np.arange(at, at + len(ids))
        at += len(ids)


def _enter_part(
    builder: _Builder, parts: Sequence[_Part], part: _Part, number: int, index: dict[int, int],
    cuts: Sequence[tuple[int, Any]],
) -> np.ndarray:  # fmt: skip
    """Enter a part's inputs, buffers and rows; returns its code."""
    piece = part.piece
    for k, (view, source) in enumerate(zip(part.views, piece.sources, strict=True)):
        if not part._is_needed(view):
            continue
        if source.kind == "link":
            _enter_link(builder, part, view, parts[index[source.piece.number]], source.place)
        elif view.buffer == SCALAR:
            part.places[view.offset] = builder.input_scalar((number, k))
        else:
            new = builder.input_array((number, k), view.shape, view.size)
            builder.enter(part, view.buffer, new)
    for k, (i, (place, shape)) in enumerate(cuts):
        if i != number:
            continue
        if place >= 0 and part.scalars[place] == CUT_NEEDED:
            part.places[place] = builder.input_scalar((-1, k))
        elif place < 0 and part.buffers[-1 - place] == CUT_NEEDED:
            size = piece.buffers[-1 - place].size
            builder.enter(part, -1 - place, builder.input_array((-1, k), shape, size))
    for old in np.flatnonzero(part.buffers & 1).tolist():
        if part.numbers[old] < 0:
            builder.enter(part, old, builder.buffer(piece.buffers[old].size))
    _enter_saves(builder, part)
    for k, call in enumerate(piece.calls):
        part.results[k] = call.result.offset if call.result.buffer == SCALAR else -1
    code = np.zeros((int(part.rows.sum()), 5), np.int32)
    builder.n_scalars = int(
        _compiled(renumber)(
            part.code, part.rows, part.places, part.shifts, part.blocks, tables()[0], part.results,
            builder.n_scalars, code,
        )
    )  # fmt: skip
    code[code[:, 0] == CALL, 1] += len(builder.calls)
    for call in part.calls:
        operands = tuple([builder.moved(part, view) for view in call.operands])
        builder.calls.append(Call(call.op, operands, builder.moved(part, call.result), call.params))
    return code


def _enter_saves(builder: _Builder, part: _Part) -> None:
    """Buffers that calls write to although nobody reads them: those that in-place writes save."""
    for call in part.calls:
        buffer = call.result.buffer
        if buffer != SCALAR and part.numbers[buffer] < 0:
            builder.enter(part, buffer, builder.buffer(part.piece.buffers[buffer].size))


def _enter_link(builder: _Builder, part: _Part, view: View, other: _Part, place: int) -> None:
    """A value of another piece stands where it stands there."""
    new = other.place(place)
    if view.buffer == SCALAR:
        part.places[view.offset] = new
    else:
        builder.enter(part, view.buffer, -1 - new)


def _tape(
    builder: _Builder, parts: Sequence[_Part], codes: Sequence[np.ndarray], outputs: list[Leaf]
) -> Tape:
    code = np.concatenate([np.zeros((0, 5), np.int32), *codes])
    places: tuple[list, list] = ([], [])
    regions: list[Region] = []
    for part in parts:
        kept = np.flatnonzero(part.rows).tolist()
        regions += regions_of(part.piece, part.rows, len(places[0]))
        places[0].extend([part.piece.codes[i] for i in kept])
        places[1].extend([part.piece.offsets[i] for i in kept])
    return Tape(
        code=code,
        calls=tuple(builder.calls),
        buffers=tuple(builder.buffers),
        n_scalars=builder.n_scalars,
        n_array_elements=builder.n_elements,
        scalar_constants=(np.zeros(0, np.int64), np.zeros(0)),
        array_constants=(),
        inputs=tuple(builder.leaves),
        outputs=tuple(outputs),
        locations=places,
        regions=tuple(regions),
        name="tensors",
    )
