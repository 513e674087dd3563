"""Values as a row of the tape saw them, found again at the tape's end.

In-place writes keep what they overwrite in save slots.  A reverse sweep notes the writes it passes;
what stood in an element or window before them is then in its own place, in a save slot, or, where
no single place has it, in a private copy of the buffer in which the writes are undone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..tape import ARRAY, SCALAR, View
from .sweep import Sweep, positions
from .views import overlap, span

__all__ = ["Values"]


class _Write(NamedTuple):
    """A write that the sweep has passed: of elements, of a window, or at traced positions."""

    window: View | None
    index: View | None
    saved: Any  # a view, or arrays (elements, save slots) for scalar writes


_EVERYWHERE = (-(1 << 62), 1 << 62)


class _Passed:
    """The writes into one buffer that the sweep has passed, found again by where they reach."""

    def __init__(self) -> None:
        self.writes: list[_Write] = []
        self._low = np.zeros(8, np.int64)
        self._high = np.zeros(8, np.int64)

    def append(self, write: _Write, reach: tuple[int, int]) -> None:
        """Note a write between two elements."""
        n = len(self.writes)
        if n == len(self._low):
            self._low, self._high = np.resize(self._low, 2 * n), np.resize(self._high, 2 * n)
        self._low[n], self._high[n] = reach
        self.writes.append(write)

    def meeting(self, reach: tuple[int, int]) -> list[_Write]:
        """The writes that may meet a stretch of elements, the one passed last first."""
        n = len(self.writes)
        found = np.flatnonzero((self._low[:n] <= reach[1]) & (self._high[:n] >= reach[0]))
        return [self.writes[i] for i in found[::-1].tolist()]


class Values:
    """Where values stand, as of the row at which a reverse sweep is."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.builder = sweep.builder
        #: By compact number: the element with the value.
        self.where = np.arange(max(sweep.n_compact, 1), dtype=np.int32)
        for buffer, at in sweep.start.items():
            elements = sweep.elements(buffer)
            self.where[at : at + len(elements)] = elements
        self._passed: dict[int, _Passed] = {}
        self._copies: dict[int, tuple[View, int]] = {}  # private copy, writes undone in it

    # --- writes -----------------------------------------------------------------------------------

    def _pass(self, buffer: int, write: _Write, reach: tuple[int, int]) -> None:
        self._passed.setdefault(buffer, _Passed()).append(write, reach)

    def passed_elements(self, rows: np.ndarray) -> None:
        """Note scalar writes (rows of the tape, in tape order)."""
        numbers = self.sweep.tape.buffer_of(rows[:, 2].astype(np.int64) - ARRAY)
        for buffer in np.unique(numbers).tolist():
            own = rows[numbers == buffer][::-1]
            self._pass(buffer, _Write(None, None, (own[:, 2], own[:, 1])), _EVERYWHERE)

    def passed_window(self, window: View, save: View) -> None:
        """Note a write of a window."""
        self._pass(window.buffer, _Write(window, None, save), span(window))
        if window.buffer in self.sweep.start:
            base = ARRAY + self.builder.buffers[save.buffer].base
            self.where[self.sweep.compact(window)] = base + positions(save).reshape(-1)

    def passed_scatter(self, target: View, index: View, save: View, place: Any) -> None:
        """Note a write at positions of a buffer that an index gives."""
        buffer = target.buffer
        self._pass(buffer, _Write(target, index, save), _EVERYWHERE)
        if buffer in self.sweep.start:
            copy = self._undone(buffer, place)
            at, size = self.sweep.start[buffer], self.sweep.tape.buffers[buffer].size
            first = ARRAY + self.builder.buffers[copy.buffer].base
            self.where[at : at + size] = np.arange(first, first + size)

    # --- reads ------------------------------------------------------------------------------------

    def view(self, view: View, place: Any) -> View:
        """Where the value of a view that a row read (or made) stands now."""
        if view.buffer == SCALAR or 0 in view.shape:
            return view
        passed = self._passed.get(view.buffer)
        for write in passed.meeting(span(view)) if passed is not None else ():
            if write.window is None or write.index is not None:
                break
            if write.window == view:
                return write.saved
            if overlap(write.window, view):
                break
        else:
            return view
        copy = self._undone(view.buffer, place)
        return view._replace(buffer=copy.buffer)

    def _undone(self, buffer: int, place: Any) -> View:
        """A private copy of a buffer, all passed writes undone."""
        builder = self.builder
        known = self._copies.get(buffer)
        if known is None:
            size = self.sweep.tape.buffers[buffer].size
            copy, done = builder.new_buffer((size,)), 0
            builder.call("copy", [View(buffer, 0, (size,), (1,))], copy, (), place)
        else:
            copy, done = known
        passed = self._passed[buffer].writes
        for write in passed[done:]:
            self._undo(write, copy, buffer, place)
        self._copies[buffer] = copy, len(passed)
        return copy

    def _undo(self, write: _Write, copy: View, buffer: int, place: Any) -> None:
        builder = self.builder
        if write.index is not None:
            save = builder.new_buffer(write.index.shape)
            builder.call("scatter_write", [write.saved, write.index, copy], save, (), place)
        elif write.window is not None:
            save = builder.new_buffer(write.window.shape)
            target = write.window._replace(buffer=copy.buffer)
            builder.call("write", [write.saved, target], save, (), place)
        else:
            base = ARRAY + self.sweep.tape.buffers[buffer].base
            first = ARRAY + builder.buffers[copy.buffer].base
            for element, saved in zip(*write.saved, strict=True):
                builder.write(int(element) - base + first, int(saved), place)
