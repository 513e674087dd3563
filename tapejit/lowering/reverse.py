"""Lowering of the reverse sweep: who receives which cotangent, assigned first, added later."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from ..interpreters import layout
from ..interpreters.layout import ASSIGN, ZERO
from ..ops.structural import IN_PLACE
from ..tape import ARRAY, SCALAR, Call, View
from . import rules, structural
from .frame import Arena, Frame, whole
from .scalars import tables
from .stream import Place, Stream

__all__ = ["ReverseLowering", "Targets"]


class Targets:
    """State of the adjoints while the reverse code is written, in the order in which it runs.

    ``varied`` and ``touched`` are marks over the arena (scalars); array buffers have sets.  An
    array's adjoint is undefined until the first contribution, which assigns (or clears first where
    it does not cover the buffer); a scalar's adjoint is zero before and after a sweep.
    """

    def __init__(self, frame: Frame, varied: np.ndarray, varied_buffers: set[int]) -> None:
        self.frame = frame
        self.varied = varied
        self.varied_buffers = varied_buffers
        self.touched_scalars = np.zeros(max(frame.n_addresses, 1), np.uint8)
        self.touched_buffers: set[int] = set()
        self.stream: Stream | None = None

    def varies(self, view: View) -> bool:
        """Whether a value depends on a differentiated argument."""
        if view.buffer == SCALAR:
            return bool(self.varied[self.frame.scalar_base + view.offset])
        return view.buffer in self.varied_buffers

    def touched(self, view: View) -> bool:
        """Whether a cotangent has reached a value."""
        if view.buffer == SCALAR:
            return bool(self.touched_scalars[self.frame.scalar_base + view.offset])
        return view.buffer in self.touched_buffers

    def mode(self, view: View, stream: Stream, exclusive: bool = True) -> int:
        """How the next contribution to ``view`` is to be written: ASSIGN or ADD.

        ``exclusive``: the contribution writes each element of the view once.
        """
        if view.buffer == SCALAR:
            self.touched_scalars[self.frame.scalar_base + view.offset] = 1
            return layout.ADD
        if view.buffer in self.touched_buffers:
            return layout.ADD
        self.touched_buffers.add(view.buffer)
        if exclusive and covers(view, self.frame.tape.buffers[view.buffer].size):
            return ASSIGN
        self._clear(view.buffer, stream)
        return layout.ADD

    def add_mode(self, view: View, stream: Stream) -> None:
        """Prepare ``view`` for a contribution that is added."""
        if view.buffer == SCALAR:
            self.touched_scalars[self.frame.scalar_base + view.offset] = 1
        elif view.buffer not in self.touched_buffers:
            self.touched_buffers.add(view.buffer)
            self._clear(view.buffer, stream)

    def clear(self, buffer: int, stream: Stream, start: int, count: int) -> None:
        """Set a stretch of a buffer's adjoint to zero."""
        if count <= 0:
            return
        space, offset = self.frame.adjoint_home(buffer)
        place = whole((count,), offset + start, space)
        if place.space == layout.ADJOINTS:
            stream.raw((ZERO, place.offset, count))
        else:
            stream.copy(place, structural.zero(self.frame.arena, (count,)))

    def _clear(self, buffer: int, stream: Stream) -> None:
        self.clear(buffer, stream, 0, self.frame.tape.buffers[buffer].size)

    def consumed(self, view: View) -> None:
        """The cotangent of a scalar result was passed on: clear it."""
        if view.buffer == SCALAR:
            assert self.stream is not None
            self.stream.raw((ZERO, self.frame.place(view).offset, 1))


def covers(view: View, size: int) -> bool:
    """Whether a view holds each element of a buffer of ``size`` exactly once."""
    if view.size != size:
        return False
    dims = sorted((abs(s), n) for n, s in zip(view.shape, view.strides, strict=True) if n != 1)
    step = 1
    for stride, n in dims:
        if stride != step:
            return False
        step *= n
    return True


class ReverseLowering:
    """Writes the reverse code of a frame's tape.

    ``unrestored``: in-place writes (calls, by id) that need not be undone.
    """

    ADD = layout.ADD

    def __init__(
        self, frame: Frame, stream: Stream, targets: Targets, unrestored: Set[int] = frozenset()
    ) -> None:
        self.unrestored = unrestored
        self.frame = frame
        self.arena: Arena = frame.arena
        self.stream = frame.reverse_stream = stream
        self.targets = targets
        targets.stream = stream

    def place(self, view: View) -> Place:
        """Where a view's values lie."""
        return self.frame.place(view)

    def restores(self, call: Call) -> bool:
        """Whether an in-place write is to be undone."""
        return id(call) not in self.unrestored

    def adjoint(self, view: View) -> Place:
        """Where a view's adjoint lies."""
        return self.frame.adjoint(view)

    def contribute(self, view: View, g: Place) -> None:
        """Add a cotangent (of the view's shape) to a view's adjoint."""
        if not self.targets.varies(view) or view.size == 0:
            return
        repeated = any(s == 0 and n > 1 for n, s in zip(view.shape, view.strides, strict=True))
        if self.targets.mode(view, self.stream, exclusive=not repeated) == ASSIGN:
            self.stream.copy(self.adjoint(view), g)
        else:
            self.stream.add(self.adjoint(view), g)

    def call(self, call: Call) -> None:
        """The reverse step of one structural operation."""
        in_place = call.op in IN_PLACE
        if not in_place:
            if not self.targets.touched(call.result):
                return
            if not any(self.targets.varies(view) for view in call.operands):
                return
        special = structural.REVERSE.get(call.op)
        if special is not None:
            special(self, call)
        else:
            self._rule(call)
        if not in_place:
            self.targets.consumed(call.result)

    def _rule(self, call: Call) -> None:
        """Run the operation's vjp rule, recorded once for these shapes, as forward code."""
        wanted = tuple(self.targets.varies(view) for view in call.operands)
        rule = rules.vjp_tape(call, wanted)
        if rule is None:
            return
        from .build import inline

        places = [self.adjoint(call.result), self.place(call.result)]
        places += [self.place(view) for view in call.operands]
        outputs = inline(self.arena, self.stream, rule.tape, places, in_reverse=True)
        for index, place in zip(rule.operands, outputs, strict=True):
            self.contribute(call.operands[index], place)

    def prepare_scalars(self, rows: np.ndarray) -> None:
        """Make the adjoints of array buffers ready that scalar rows contribute to or write into.

        What a comparison alone reads gets none: then its instructions are not reversed at all.
        """
        rows = rows[rows[:, 0] < layout.CALL]
        elements = rows[:, 1:]
        # Columns beyond an operation's operands may hold anything.
        is_used = np.arange(elements.shape[1]) <= tables()[0][rows[:, :1]]
        places = np.unique(elements[is_used & (elements >= ARRAY)]) - ARRAY
        places = places[self.targets.touched_scalars[self.frame.array_base + places] != 0]
        if not len(places):
            return
        for buffer in np.unique(self.frame.tape.buffer_of(places)).tolist():
            if buffer in self.targets.varied_buffers:
                size = self.frame.tape.buffers[buffer].size
                self.targets.add_mode(View(buffer, 0, (size,), (1,)), self.stream)
