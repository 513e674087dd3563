"""Splicing: the rows of a finished tape, appended to a recording under way.

What is renumbered is done on whole arrays; only array instructions are visited one by one.
"""

from __future__ import annotations

import dataclasses
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
    scalar_tracer,
    value_of,
    view_of,
)

__all__ = ["splice", "strided"]


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
    operands = [_operand(rec, operand) for operand in operands]
    spliced = _Splice(rec, tape, operands)
    spliced.append_rows()
    if values is None:
        values = _values(rec, tape, operands, tape.outputs)
    if rec.values is not None:
        spliced.keep_values(_values(rec, tape, operands, spliced.everything()))
    return spliced.outputs(values)


def _operand(rec: Recorder, operand: Any) -> Any:
    """An operand of this recording; arrays are contiguous."""
    operand = lift(rec, operand)
    if isinstance(operand, ArrayTracer) and not is_contiguous(operand.view):
        return copied(operand)
    if isinstance(operand, np.ndarray) and operand.ndim:
        return np.ascontiguousarray(operand)
    return operand


def _values(
    rec: Recorder, tape: Tape, operands: Sequence[Any], leaves: Sequence[Leaf]
) -> list[Any]:
    """Values of leaves of a tape."""
    if sampling():
        return [np.zeros(leaf.view.shape, leaf.dtype)[()] for leaf in leaves]
    from ..replay import evaluate

    asked = tape if leaves is tape.outputs else dataclasses.replace(tape, outputs=tuple(leaves))
    return evaluate(asked, [value_of(operand) for operand in operands])


class _Splice:
    """New numbers for one tape's scalars and buffers in a recording."""

    def __init__(self, rec: Recorder, tape: Tape, operands: Sequence[Any]) -> None:
        self.rec = rec
        self.tape = tape
        self.operands = operands
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
        for number, buffer in enumerate(tape.buffers):
            shift = 0
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
        code = tape.code.astype(np.int64)
        is_call = code[:, 0] == CALL
        used = _columns_used(code[:, 0])
        for column in range(1, 5):
            rows = np.flatnonzero(used[:, column - 1])
            code[rows, column] = self.elements(code[rows, column])
        code[is_call, 1] += len(rec.calls)
        rec.code.extend(code.reshape(-1).tolist())
        codes, offsets = tape.locations
        rec.codes.extend(codes)
        rec.offsets.extend(offsets)
        for call in tape.calls:
            views = tuple(self.view(view) for view in call.operands)
            rec.calls.append(Call(call.op, views, self.view(call.result), call.params))
        for _ in range(int(np.isin(code[:, 0], (GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL)).sum())):
            rec.count_guard()

    # --- values -----------------------------------------------------------------------------------

    def outputs(self, values: Sequence[Any]) -> list[Any]:
        """The outputs, with their values."""
        outputs = self.tape.outputs
        for leaf, value in zip(outputs, values, strict=True):
            self._store(leaf, value)
        return [self._output(leaf, v) for leaf, v in zip(outputs, values, strict=True)]

    def _output(self, leaf: Leaf, value: Any) -> Any:
        rec, view = self.rec, self.view(leaf.view)
        if view.buffer == SCALAR:
            if view.shape:
                return np.broadcast_to(value, view.shape)
            return scalar_tracer(rec, np.asarray(value, leaf.dtype)[()], view.offset)
        buffer = rec.buffers[view.buffer]
        if buffer.constant >= 0:
            return strided(rec.array_constants[buffer.constant].reshape(-1), view)
        if view.shape == ():
            value = np.asarray(value, leaf.dtype)[()]
            return scalar_tracer(rec, value, ARRAY + buffer.base + view.offset)
        cell = self._cell(view.buffer)
        return ArrayTracer(rec, strided(cell.storage.reshape(-1), view), cell)

    def _cell(self, buffer: int, dtype: Any = np.float64) -> Cell:
        """The storage of a buffer: an operand's own, or a new one."""
        cell = self.cells.get(buffer)
        if cell is None:
            for operand in self.operands:
                if isinstance(operand, ArrayTracer) and operand.view.buffer == buffer:
                    cell = operand.cell
            if cell is None:
                storage = np.zeros(self.rec.buffers[buffer].size, dtype)
                cell = Cell(buffer, storage)
            self.cells[buffer] = cell
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

    # While a derivative is being taken by walking the recording's rows, all their values are kept.

    def everything(self) -> list[Leaf]:
        """Every scalar and every buffer that the tape computes, as leaves."""
        tape = self.tape
        rows = tape.code[tape.code[:, 0] < GUARD_TRUE, 1]
        scalars = np.unique(rows[rows < ARRAY]).tolist()
        scalars += [c.result.offset for c in tape.calls if c.result.buffer == SCALAR]
        leaves = [Leaf(View(SCALAR, number, (), ()), "<f8") for number in scalars]
        for number, buffer in enumerate(tape.buffers):
            if buffer.constant < 0 and not self._is_input(number):
                leaves.append(Leaf(View(number, 0, (buffer.size,), (1,)), "<f8"))
        return leaves

    def keep_values(self, values: Sequence[Any]) -> None:
        """Enter the values of :meth:`everything` into the recording."""
        rec = self.rec
        for leaf, value in zip(self.everything(), values, strict=True):
            if leaf.view.buffer == SCALAR:
                rec.values[int(self.scalars[leaf.view.offset])] = np.float64(value)
            else:
                self._store(leaf, value)
                number = self.buffers[leaf.view.buffer]
                rec.cells[number] = self._cell(number)


_ARITY = {op.code: op.arity for op in OPS.values()}


def _columns_used(ops: np.ndarray) -> np.ndarray:
    """Which of the columns (result, three operands) hold elements."""
    arity = np.zeros(CALL + 1, np.int64)
    for code, n in _ARITY.items():
        arity[code] = n
    arity[[GUARD_TRUE, GUARD_FALSE]] = 1
    arity[[GUARD_EQUAL, WRITE]] = 2
    used = np.arange(4) <= arity[ops][:, None]
    used[ops == CALL] = False
    used[np.isin(ops, (GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL)), 0] = False
    return used
