"""Splicing: the rows of a finished tape, appended to a recording under way.

What is renumbered is done on whole arrays; only array instructions are visited one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..interpreters.layout import CALL, GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Leaf, Tape, View, is_contiguous
from .recorder import Recorder, sampling
from .tracer import (
    ArrayTracer,
    Cell,
    Tracer,
    copied,
    current_element,
    lift,
    new_array,
    scalar_tracer,
    value_of,
    view_of,
)

__all__ = ["Splice", "splice", "strided"]


def strided(flat: np.ndarray, view: View) -> np.ndarray:
    """A NumPy view of flat storage."""
    size = flat.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[view.offset :] if view.size else flat, view.shape, [s * size for s in view.strides]
    )


def splice(
    rec: Recorder, tape: Tape, operands: Sequence[Any], values: Sequence[Any] | None = None
) -> list[Any]:
    """Append a tape to a recording.

    Parameters
    ----------
    operands
        What takes the part of the tape's inputs: tracers, or constants.  A tape never writes into
        its inputs, so that they are read where they lie.
    values
        The outputs' values where they are known; else the tape is run, or, in an abstract
        recording, zeros stand for them.

    Returns
    -------
    list
        The tape's outputs: tracers, or constants that pass through it.
    """
    rec.check_use()
    spliced = Splice(rec, tape, operands)
    spliced.append_rows()
    if values is None:
        values = Splice.values_of(rec, tape, spliced.operands)
    return spliced.outputs(values)


def _operand(rec: Recorder, operand: Any) -> Any:
    """An operand of this recording; arrays are contiguous."""
    operand = lift(rec, operand)
    if isinstance(operand, ArrayTracer) and not is_contiguous(operand.view):
        return copied(operand)
    if isinstance(operand, np.ndarray) and operand.ndim:
        return np.ascontiguousarray(operand)
    return operand


class Splice:
    """New numbers for one tape's scalars and buffers in a recording.

    Parameters
    ----------
    operands
        As :func:`splice` prepares them.
    base
        An earlier splice of a tape that this one continues: what is in it is not repeated.
    """

    def __init__(
        self, rec: Recorder, tape: Tape, operands: Sequence[Any], base: Splice | None = None
    ) -> None:
        self.rec = rec
        self.tape = tape
        self.operands = [_operand(rec, operand) for operand in operands]
        self.base = base
        self.scalars = self._number_scalars()
        self.buffers, self.shifts = self._number_buffers()
        self.cells: dict[int, Cell] = {}

    def _number_scalars(self) -> np.ndarray:
        """Elements of the recording, by scalar of the tape.

        New ones are numbered in the tape's order: recordings that agree up to a guard then agree
        word for word, as paths must.
        """
        tape, rec = self.tape, self.rec
        known: dict[int, Any] = {}
        for leaf, operand in zip(tape.inputs, self.operands, strict=True):
            if leaf.view.buffer == SCALAR:
                known[leaf.view.offset] = operand
        ids, constants = tape.scalar_constants
        known.update(zip(ids.tolist(), constants.tolist(), strict=True))
        numbers = np.empty(tape.n_scalars, np.int64)
        at = 0
        if self.base is not None:
            at = self.base.tape.n_scalars
            numbers[:at] = self.base.scalars
            known = {number: value for number, value in known.items() if number >= at}
        for number in [*sorted(known), tape.n_scalars]:
            first = rec.scalars(number - at)
            numbers[at:number] = np.arange(first, first + number - at)
            if number in known:
                value = known[number]
                traced = isinstance(value, Tracer)
                numbers[number] = current_element(value) if traced else rec.constant(value)
            at = number + 1
        return numbers

    def _number_buffers(self) -> tuple[list[int], list[int]]:
        """Buffers of the recording, and where in them, by buffer of the tape."""
        tape, rec = self.tape, self.rec
        given = {
            leaf.view.buffer: view_of(rec, operand)
            for leaf, operand in zip(tape.inputs, self.operands, strict=True)
            if leaf.view.buffer != SCALAR
        }
        numbers, shifts = [], []
        if self.base is not None:
            numbers, shifts = list(self.base.buffers), list(self.base.shifts)
        for number in range(len(numbers), len(tape.buffers)):
            buffer, shift = tape.buffers[number], 0
            if number in given:
                found, shift = given[number].buffer, given[number].offset
            elif buffer.constant >= 0:
                found = rec.array_constant(tape.array_constants[buffer.constant]).buffer
            else:
                found = rec.buffer(buffer.size)
            numbers.append(found)
            shifts.append(shift)
        return numbers, shifts

    # --- addresses --------------------------------------------------------------------------------

    def elements(self, column: np.ndarray) -> np.ndarray:
        """Elements of the recording for elements of the tape."""
        result = np.zeros(len(column), np.int64)
        below = column < ARRAY
        result[below] = self.scalars[column[below]]
        if not below.all():
            result[~below] = self._array_elements(column[~below] - ARRAY)
        return result

    def _array_elements(self, offsets: np.ndarray) -> np.ndarray:
        numbers = self.tape.buffer_of(offsets)
        found = np.empty(len(offsets), np.int64)
        for number in np.unique(numbers).tolist():
            here = numbers == number
            within = offsets[here] - self.tape.buffers[number].base + self.shifts[number]
            target = self.rec.buffers[self.buffers[number]]
            if target.base >= 0:
                found[here] = ARRAY + target.base + within
            else:  # an input that is a constant array: its elements become scalar constants
                flat = self.rec.array_constants[target.constant].reshape(-1)
                found[here] = [self.rec.constant(x) for x in flat[within].tolist()]
        return found

    def view(self, view: View) -> View:
        """A view of the recording for a view of the tape."""
        if view.buffer != SCALAR:
            number = view.buffer
            return view._replace(
                buffer=self.buffers[number], offset=view.offset + self.shifts[number]
            )
        element = int(self.scalars[view.offset])
        if element < ARRAY:
            return view._replace(offset=element)
        place = self.rec.place_of(element)
        return view._replace(buffer=place.buffer, offset=place.offset)

    # --- rows -------------------------------------------------------------------------------------

    def append_rows(self) -> None:
        """Append the rows, with the places at which they were recorded."""
        tape, rec = self.tape, self.rec
        first = len(self.base.tape) if self.base is not None else 0
        first_call = len(self.base.tape.calls) if self.base is not None else 0
        code = tape.code[first:].astype(np.int64)
        is_call = code[:, 0] == CALL
        used = _COLUMNS_USED[code[:, 0]]
        for column in range(1, 5):
            rows = np.flatnonzero(used[:, column - 1])
            code[rows, column] = self.elements(code[rows, column])
        code[is_call, 1] += len(rec.calls) - first_call
        calls = [
            Call(c.op, tuple(self.view(v) for v in c.operands), self.view(c.result), c.params)
            for c in tape.calls[first_call:]
        ]
        if type(rec) is Recorder:
            rec.code.extend(code.reshape(-1).tolist())
            codes, offsets = tape.locations
            rec.codes.extend(codes[first:])
            rec.offsets.extend(offsets[first:])
            rec.calls.extend(calls)
        else:  # tensors number their calls themselves
            remaining = iter(calls)
            for op, *elements in code.tolist():
                if op == CALL:
                    rec.call(*next(remaining))
                else:
                    rec.emit(op, *elements)
        guards = (code[:, 0] >= GUARD_TRUE) & (code[:, 0] < CALL)
        for _ in range(int(guards.sum())):
            rec.count_guard()

    # --- values -----------------------------------------------------------------------------------

    @staticmethod
    def values_of(rec: Recorder, tape: Tape, operands: Sequence[Any]) -> list[Any]:
        """Values of a tape's outputs at those of the operands; zeros while rules are sampled."""
        if sampling():
            return [np.zeros(leaf.view.shape, leaf.dtype)[()] for leaf in tape.outputs]
        from ..replay import evaluate

        return evaluate(tape, [value_of(operand) for operand in operands])

    def outputs(self, values: Sequence[Any]) -> list[Any]:
        """The outputs, with their values."""
        outputs = self.tape.outputs
        for leaf, value in zip(outputs, values, strict=True):
            self._store(leaf, value)
        return [self._output(leaf, v) for leaf, v in zip(outputs, values, strict=True)]

    def _output(self, leaf: Leaf, value: Any) -> Any:
        rec, view = self.rec, self.view(leaf.view)
        if view.buffer == SCALAR:
            if view.shape:  # one scalar, stretched
                if leaf.view.offset in self.tape.scalar_constants[0]:
                    return np.broadcast_to(value, view.shape)
                return self._copy(view, np.array(value, leaf.dtype))
            return scalar_tracer(rec, np.asarray(value, leaf.dtype)[()], view.offset)
        buffer = rec.buffers[view.buffer]
        if buffer.constant >= 0:
            return strided(rec.array_constants[buffer.constant].reshape(-1), view)
        if view.shape == ():
            value = np.asarray(value, leaf.dtype)[()]
            return scalar_tracer(rec, value, ARRAY + buffer.base + view.offset)
        if self._is_input(leaf.view.buffer):  # passed through
            return self._copy(view, np.array(value, leaf.dtype))
        cell = self._cell(view.buffer)
        if is_contiguous(view) and view.size == buffer.size:
            cell.storage = cell.storage.reshape(view.shape)
            return rec.array_type(rec, cell.storage, cell)
        return rec.array_type(rec, strided(cell.storage.reshape(-1), view), cell)

    def _copy(self, view: View, value: np.ndarray) -> ArrayTracer:
        result = new_array(self.rec, value)
        self.rec.call("copy", (view,), result.view)
        return result

    def _cell(self, buffer: int, dtype: Any = np.float64) -> Cell:
        """The storage of a buffer that the tape makes."""
        cell = self.cells.get(buffer)
        if cell is None:
            storage = np.zeros(self.rec.buffers[buffer].size, dtype)
            cell = self.cells[buffer] = Cell(buffer, storage, False, self.rec)
        return cell

    def _store(self, leaf: Leaf, value: Any) -> None:
        """Put an output's value where its buffer's values are kept."""
        if leaf.view.buffer == SCALAR or not leaf.view.shape:
            return
        if self.tape.buffers[leaf.view.buffer].constant >= 0 or self._is_input(leaf.view.buffer):
            return
        view = self.view(leaf.view)
        cell = self._cell(view.buffer, leaf.dtype)
        strided(cell.storage.reshape(-1), view)[...] = value

    def _is_input(self, buffer: int) -> bool:
        return any(leaf.view.buffer == buffer for leaf in self.tape.inputs)


def _columns() -> np.ndarray:
    """Which of the columns (result, three operands) hold elements, by op code."""
    arity = np.zeros(CALL + 1, np.int64)
    for op in OPS.values():
        arity[op.code] = op.arity
    arity[[GUARD_TRUE, GUARD_FALSE]] = 1
    arity[[GUARD_EQUAL, WRITE]] = 2
    used = np.arange(4) <= arity[:, None]
    used[CALL] = False
    used[[GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL], 0] = False
    return used


_COLUMNS_USED = _columns()
