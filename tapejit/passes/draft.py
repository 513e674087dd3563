"""The working copy of a tape that a pass edits, and the way back to a tape.

Scalars are in single-assignment form: a pass that finds a value a second time makes the first one
its *leader*, and whatever is read later is read there.  Array buffers have leaders likewise, but
for those that in-place writes change (*written* buffers).  Rows before the last guard are never
changed: another path may go on from there with what they computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD, fixed_rows, runs
from ..ops.structural import IN_PLACE
from ..tape import ARRAY, SCALAR, Call, Leaf, Tape, View, is_contiguous

__all__ = ["Draft"]


class Draft:
    """A tape under change.

    Attributes
    ----------
    code
        The rows, to be written to; those with op code ``DEAD`` are left out in the end.
    calls
        The array instructions.
    keep
        Rows before this one stay as they are.
    leader
        For each scalar the one that stands for it (by default itself).
    written
        Buffers that in-place writes change.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.code = tape.code.copy()
        self.code.flags.writeable = True
        self.calls = list(tape.calls)
        self.keep = fixed_rows(self.code)
        self.leader = np.arange(tape.n_scalars, dtype=np.int32)
        self.written = self._written_buffers()
        self._buffer_leader: dict[int, int] = {}
        self._shift: np.ndarray | None = None
        self._more_constants: list[tuple[np.ndarray, np.ndarray]] = []

    # --- what there is --------------------------------------------------------------------------

    def _written_buffers(self) -> set[int]:
        written = {call.operands[-1].buffer for call in self.calls if call.op in IN_PLACE}
        targets = self.code[self.code[:, 0] == WRITE, 2]
        targets = targets[targets >= ARRAY]
        if len(targets):
            written.update(np.unique(self.tape.buffer_of(targets - ARRAY)).tolist())
        return written

    @functools.cached_property
    def volatile(self) -> np.ndarray:
        """Rows that read elements of written buffers: what they find depends on when."""
        marks = np.zeros(len(self.code), np.uint8)
        if self.written:
            rows = np.flatnonzero((self.code[:, 0] < CALL) & (self.code[:, 2:] >= ARRAY).any(1))
            operands = self.code[rows, 2:].astype(np.int64)
            buffers = self.tape.buffer_of(np.maximum(operands - ARRAY, 0))
            inside = np.isin(buffers, list(self.written)) & (operands >= ARRAY)
            marks[rows[inside.any(1)]] = 1
        return marks

    @functools.cached_property
    def producers(self) -> dict[int, int]:
        """How many calls make (a part of) each buffer."""
        count: dict[int, int] = {}
        for call in self.calls:
            count[call.result.buffer] = count.get(call.result.buffer, 0) + 1
        return count

    def runs(self) -> Iterator[tuple[int, int, Call | None]]:
        """(first row, last row, call) in order: runs of scalar rows, and calls one by one.

        What a caller has changed before is taken into account: elements of buffers that have
        leaders are renamed, the operands of calls resolved.
        """
        for first, last, call in runs(self.tape.code, self.tape.calls):
            if call is None:
                if self._shift is not None and last > self.keep:
                    self._rename_elements(self.code[max(first, self.keep) : last])
                yield first, last, None
            else:
                yield first, last, self._resolve_call(first)

    def _resolve_call(self, row: int) -> Call:
        number = self.code[row, 1]
        call = self.calls[number]
        if row >= self.keep:
            operands = tuple([self.resolved(view) for view in call.operands])
            if operands != call.operands:
                call = self.calls[number] = call._replace(operands=operands)
        return call

    def _rename_elements(self, rows: np.ndarray) -> None:
        operands = rows[:, 2:]
        chosen = (operands >= ARRAY) & (rows[:, :1] < CALL)
        if chosen.any():
            assert self._shift is not None
            elements = operands[chosen]
            shifts = self._shift[self.tape.buffer_of(elements.astype(np.int64) - ARRAY)]
            operands[chosen] = elements + shifts

    def resolved(self, view: View) -> View:
        """Where a view's values are to be read."""
        if view.buffer == SCALAR:
            offset = int(self.leader[view.offset])
            return view if offset == view.offset else view._replace(offset=offset)
        leader = self._buffer_leader.get(view.buffer)
        return view if leader is None else view._replace(buffer=leader)

    # --- changes --------------------------------------------------------------------------------

    def replace(self, row: int, by: View) -> bool:
        """Let ``by`` stand for the result of the call at ``row`` where that can be said.

        Both must be scalars, or whole arrays in C order that no write ever changes.
        """
        result = self.calls[self.code[row, 1]].result
        if row < self.keep or result.shape != by.shape:
            return False
        if result.buffer == SCALAR:
            if by.buffer != SCALAR or result.strides != by.strides:
                return False
            self.leader[result.offset] = by.offset
        elif not self._can_replace(result, by):
            return False
        else:
            self._move(result.buffer, by.buffer)
        self.code[row, 0] = DEAD
        return True

    def _can_replace(self, result: View, by: View) -> bool:
        buffers = self.tape.buffers
        if by.buffer == SCALAR or buffers[by.buffer].base < 0:
            return False
        return (
            result.strides == by.strides
            and result.offset == by.offset
            and buffers[result.buffer].size == buffers[by.buffer].size
            and self.producers[result.buffer] == 1
            and (is_contiguous(result) and result.size == buffers[result.buffer].size)
            and result.buffer not in self.written
            and by.buffer not in self.written
        )

    def _move(self, buffer: int, leader: int) -> None:
        self._buffer_leader[buffer] = leader
        if self._shift is None:
            self._shift = np.zeros(len(self.tape.buffers), np.int64)
        buffers = self.tape.buffers
        self._shift[buffer] = buffers[leader].base - buffers[buffer].base

    def add_constants(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Scalars that are constants from now on."""
        self._more_constants.append((ids, values))

    def new_constants(self, values: np.ndarray) -> np.ndarray:
        """New scalars that hold constants."""
        ids = np.arange(len(self.leader), len(self.leader) + len(values))
        self.leader = np.concatenate([self.leader, ids.astype(np.int32)])
        self.add_constants(ids, values)
        return ids

    def constants(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, values) of all constants."""
        pairs = [self.tape.scalar_constants, *self._more_constants]
        ids = np.concatenate([np.asarray(ids, np.int64) for ids, _ in pairs])
        return ids, np.concatenate([values for _, values in pairs])

    # --- the end --------------------------------------------------------------------------------

    def finish(self, order: np.ndarray | None = None) -> Tape:
        """The changed tape; ``order``: its rows, by number (default: those that are not dead)."""
        tape = self.tape
        rows = np.flatnonzero(self.code[:, 0] != DEAD) if order is None else order
        code = self.code[rows]
        calls = tape.calls
        chosen = code[:, 0] == CALL
        if chosen.any() or calls:
            calls = tuple([self.calls[number] for number in code[chosen, 1].tolist()])
            code[chosen, 1] = np.arange(len(calls))
        constants = self.constants() if self._more_constants else tape.scalar_constants
        for array in (code, *constants):
            array.flags.writeable = False
        return dataclasses.replace(
            tape,
            code=code,
            calls=calls,
            n_scalars=len(self.leader),
            scalar_constants=constants,
            outputs=tuple([Leaf(self.resolved(view), dtype) for view, dtype in tape.outputs]),
            origins=rows if tape.origins is None else tape.origins[rows],
        )
