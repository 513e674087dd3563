"""A tape under construction: rows appended in bulk, other tapes spliced in.

:class:`TapeBuilder` starts empty or from a finished tape, whose numbering it keeps.  Scalar rows
are appended as whole arrays, array instructions one by one; the finished tape is immutable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .array_region import ArrayRegion
from .errors import TraceError
from .interpreters.layout import CALL, WRITE
from .tape import ARRAY, SCALAR, Buffer, Call, Leaf, Tape, View, row_major, size_of

__all__ = ["TapeBuilder"]


class TapeBuilder(ArrayRegion):
    """Collects the rows, calls, buffers and constants of a tape.

    Parameters
    ----------
    tape
        Where to start from: everything of it is kept, under the same numbers.
    with_rows
        Whether its instructions are kept too (else its inputs, constants and numbers only).
    """

    def __init__(self, tape: Tape | None = None, name: str = "<tape>", with_rows: bool = True):
        if tape is None:
            super().__init__()
        else:
            super().__init__(tape.buffers, tape.n_array_elements)
        self.name = name
        self._pieces: list[np.ndarray] = []
        self._tail: list[int] = []
        self.n_rows = 0
        self.codes: list[Any] = []
        self.offsets: list[int] = []
        self.calls: list[Call] = []
        self.n_scalars = 0
        self.scalar_constants: dict[int, float] = {}
        self._numbers: dict[bytes, int] = {}
        self.array_constants: list[np.ndarray] = []
        self._array_numbers: dict[int, int] = {}
        self.inputs: list[Leaf] = []
        self.input_names: list[str] = []
        if tape is not None:
            self._start(tape, with_rows)

    def _start(self, tape: Tape, with_rows: bool) -> None:
        self.n_scalars = tape.n_scalars
        ids, values = tape.scalar_constants
        for number, value in zip(ids.tolist(), values.tolist(), strict=True):
            self.scalar_constants[number] = value
            self._numbers[_bits(value)] = number
        self.array_constants = list(tape.array_constants)
        for number, buffer in enumerate(tape.buffers):
            if buffer.constant >= 0:
                self._array_numbers[id(tape.array_constants[buffer.constant])] = number
        self.inputs = list(tape.inputs)
        self.input_names = list(tape.input_names) or [f"x{i}" for i in range(len(tape.inputs))]
        if with_rows:
            codes, offsets = tape.locations
            self.calls = list(tape.calls)
            self._pieces.append(tape.code)
            self.n_rows = len(tape.code)
            self.codes, self.offsets = list(codes), list(offsets)

    def whereabouts(self) -> str:
        """What messages name."""
        return f"the tape `{self.name}`"

    # --- entries ----------------------------------------------------------------------------------

    def append_rows(self, rows: np.ndarray, codes: Iterable[Any], offsets: Iterable[int]) -> None:
        """Append scalar rows (n, 5), with the places that they come from."""
        if len(rows):
            self._flush()
            self._pieces.append(np.ascontiguousarray(rows, np.int32))
            self.n_rows += len(rows)
            self.codes.extend(codes)
            self.offsets.extend(offsets)

    def row(self, op: int, operands: Sequence[int], place: tuple[Any, int]) -> int:
        """Append one elementwise scalar row; returns the new scalar."""
        out = self.new_scalars(1)
        self._append((op, out, *operands, *(0,) * (3 - len(operands))), place)
        return out

    def call(
        self, op: str, operands: Sequence[View], result: View, params: tuple, place: tuple[Any, int]
    ) -> View:
        """Append an array instruction; returns its result."""
        self._append((CALL, len(self.calls), 0, 0, 0), place)
        self.calls.append(Call(op, tuple(operands), result, params))
        return result

    def write(self, target: int, source: int, place: tuple[Any, int]) -> int:
        """Append a scalar write in place; returns the save slot."""
        save = self.new_scalars(1)
        self._append((WRITE, save, target, source, 0), place)
        return save

    def raw(self, row: Sequence[int], place: tuple[Any, int]) -> None:
        """Append a row as it is (guards)."""
        self._append(row, place)

    def _append(self, row: Sequence[int], place: tuple[Any, int]) -> None:
        self._tail += row
        self.n_rows += 1
        self.codes.append(place[0])
        self.offsets.append(place[1])

    def _flush(self) -> None:
        if self._tail:
            self._pieces.append(np.array(self._tail, np.int32).reshape(-1, 5))
            self._tail = []

    # --- numbers ----------------------------------------------------------------------------------

    def new_scalars(self, n: int) -> int:
        """The first of ``n`` new scalars."""
        first = self.n_scalars
        if first + n > ARRAY:
            raise TraceError(f"`{self.name}`: the tape has more than 2**30 scalars")
        self.n_scalars = first + n
        return first

    def constant(self, value: float) -> int:
        """The scalar that holds a constant."""
        key = _bits(value)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self.new_scalars(1)
            self.scalar_constants[number] = float(value)
        return number

    def constant_view(self, value: float, shape: tuple[int, ...] = ()) -> View:
        """A constant, stretched."""
        return View(SCALAR, self.constant(value), shape, (0,) * len(shape))

    def new_buffer(self, shape: tuple[int, ...]) -> View:
        """A new array buffer, seen as a whole."""
        return View(self.buffer(size_of(shape)), 0, shape, row_major(shape))

    def new_result(self, shape: tuple[int, ...]) -> View:
        """Where a result goes: 0-d ones into the scalar region."""
        return self.new_buffer(shape) if shape else View(SCALAR, self.new_scalars(1), (), ())

    def array_constant(self, array: np.ndarray) -> View:
        """A constant array (not copied: it must not change); the same one is found again."""
        number = self._array_numbers.get(id(array))
        if number is None:
            number = len(self.buffers)
            array = np.ascontiguousarray(array, np.float64)
            self.buffers.append(Buffer(-1, array.size, constant=len(self.array_constants)))
            self.array_constants.append(array)
            self._array_numbers[id(array)] = number
        return View(number, 0, array.shape, row_major(array.shape))

    def value_of(self, view: View) -> np.ndarray | None:
        """The value of a constant view, None for anything that is computed."""
        if view.buffer == SCALAR:
            value = self.scalar_constants.get(view.offset)
            return None if value is None else np.broadcast_to(np.float64(value), view.shape)
        constant = self.buffers[view.buffer].constant
        if constant < 0:
            return None
        flat = self.array_constants[constant].reshape(-1)[view.offset :]
        strides = [8 * s for s in view.strides]
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)

    def add_input(self, shape: tuple[int, ...], name: str, dtype: str = "<f8") -> View:
        """A new input."""
        self.input_names.append(name)
        if shape:
            view = self.new_buffer(shape)
            number = view.buffer
            self.buffers[number] = self.buffers[number]._replace(argument=len(self.inputs))
        else:
            view = View(SCALAR, self.new_scalars(1), (), ())
        self.inputs.append(Leaf(view, dtype))
        return view

    def element(self, view: View) -> int:
        """The element address of a 0-d view; an element of a constant array becomes a scalar."""
        if view.buffer != SCALAR and self.buffers[view.buffer].base < 0:
            return self.constant(float(self.value_of(view._replace(shape=(), strides=()))))
        return super().element(view)

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, outputs: Sequence[Leaf]) -> Tape:
        """The finished tape."""
        self._flush()
        code = np.concatenate([np.zeros((0, 5), np.int32), *self._pieces])
        ids = np.array(list(self.scalar_constants), np.int64)
        values = np.array(list(self.scalar_constants.values()), np.float64)
        for array in (code, ids):
            array.flags.writeable = False
        return Tape(
            code=code,
            calls=tuple(self.calls),
            buffers=tuple(self.buffers),
            n_scalars=self.n_scalars,
            n_array_elements=self.n_elements,
            scalar_constants=(ids, values),
            array_constants=tuple(self.array_constants),
            inputs=tuple(self.inputs),
            outputs=tuple(outputs),
            locations=(self.codes, self.offsets),
            name=self.name,
            input_names=tuple(self.input_names),
        )


def _bits(value: float) -> bytes:
    """Constants are told apart by their bits: zero from minus zero."""
    return np.float64(value).tobytes()
