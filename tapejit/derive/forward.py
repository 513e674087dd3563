"""Forward mode on a tape: tangents pushed through, instruction by instruction, as more tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..builder import TapeBuilder
from ..lowering.scalars import tables
from ..ops.table import OPS
from ..tape import SCALAR, Call, Tape, View, row_major, size_of
from . import scalars
from .rules import WRITES, jvp_rule, overwrites, read_inputs
from .scalars import compiled
from .sweep import Sweep, addresses, differentiable, gathered
from .templates import F, G, X, push_template
from .views import compose, stretched

__all__ = ["push_forward"]


def push_forward(
    tape: Tape,
    builder: TapeBuilder,
    tangents: Sequence[View],
    wrt: Sequence[int],
) -> list[View | None]:
    """Append the pushforward of a tape to a builder that has the tape's numbering.

    Parameters
    ----------
    builder
        With the tape's rows; without them where the tape writes in place: then they are repeated
        here, each before its tangent.
    tangents
        For each of ``wrt`` its tangent, of the input's shape.
    wrt
        The inputs that move.

    Returns
    -------
    list
        A view of each output's shape; None where it is zero.
    """
    return _Forward(tape, builder, wrt).run(tangents)


class ForwardSweep(Sweep):
    """A forward sweep: what the outputs need."""

    def __init__(
        self, tape: Tape, builder: TapeBuilder, wrt: Sequence[int], lead: tuple[int, ...] = ()
    ) -> None:
        super().__init__(tape, builder, wrt, lead)
        self._find_needed()

    def _find_needed(self) -> None:
        """What the outputs are computed from, where derivatives pass."""
        arity = tables()[0]
        self.needed = np.zeros(max(self.n_compact, 1), np.uint8)
        self.needed_buffers: set[int] = set()
        for leaf in self.tape.outputs:
            self._need(leaf.view)
        for first, last, call in reversed(self.segments):
            if call is None:
                rows = self.code[first:last, 1:]
                touched = rows[rows >= self.tape.n_scalars]
                for buffer in self.buffers_of(touched):
                    if buffer in self.needed_buffers:
                        at, size = self.start[buffer], self.tape.buffers[buffer].size
                        self.needed[touched[(touched >= at) & (touched < at + size)]] = 1
                compiled(scalars.useful)(self.code, self.needed, arity, first, last)
                self.needed_buffers.update(self.buffers_of(touched[self.needed[touched] > 0]))
            elif self.is_needed(call):
                for view, carries in zip(call.operands, differentiable(call), strict=True):
                    if carries:
                        self._need(view)

    def _need(self, view: View) -> None:
        if view.buffer == SCALAR:
            self.needed[view.offset] = 1
        else:
            self.needed_buffers.add(view.buffer)

    def is_needed(self, call: Call) -> bool:
        """Whether the outputs need what an array instruction makes."""
        views = [call.result, *(call.operands[-1:] if call.op in WRITES else ())]
        return any(
            bool(self.needed[v.offset]) if v.buffer == SCALAR else v.buffer in self.needed_buffers
            for v in views
        )


class _Forward(ForwardSweep):
    """One tangent pushed forward."""

    def __init__(self, tape: Tape, builder: TapeBuilder, wrt: Sequence[int]) -> None:
        super().__init__(tape, builder, wrt)
        self.repeat = overwrites(tape)
        self.original = tape.code.copy()
        self.held = np.full(max(self.n_compact, 1), -1, np.int32)
        #: Tangents of whole buffers: views of lead + some shape.
        self.arrays: dict[int, View] = {}
        self.owned: set[int] = set()  # buffers of the builder that are written into
        self.overwritten = {c.operands[-1].buffer for c in tape.calls if c.op in WRITES}
        self.pack_templates(push_template)

    def run(self, tangents: Sequence[View]) -> list[View | None]:
        """Walk the tape from its start."""
        start = self.place(0) if len(self.code) else (None, 0)
        for index, tangent in zip(self.wrt, tangents, strict=True):
            self._set(self.tape.inputs[index].view, tangent, start)
        for first, last, call in self.segments:
            if call is not None:
                place = self.place(first)
                if self.repeat and call.op not in WRITES:
                    self.builder.call(call.op, call.operands, call.result, call.params, place)
                if self.is_needed(call):
                    self._call(call, place)
                if self.repeat and call.op in WRITES:
                    self.builder.call(call.op, call.operands, call.result, call.params, place)
            else:
                self._rows(first, last)
        end = self.place(len(self.code) - 1) if len(self.code) else (None, 0)
        return [self._of(leaf.view, end) for leaf in self.tape.outputs]

    # --- tangents by place ------------------------------------------------------------------------

    def _of(self, view: View, place: Any) -> View | None:
        """The tangent of a view, of its shape; None where it is zero."""
        if view.buffer == SCALAR:
            element = int(self.held[view.offset])
            return None if element < 0 else stretched(self.builder.place_of(element), view.shape)
        if view.buffer in self.by_element:
            return self._of_elements(view, place)
        outer = self.arrays.get(view.buffer)
        if outer is None:
            return None
        found = compose(outer, view)
        if found is None:
            outer = self.arrays[view.buffer] = self.copied(outer, place)
            found = compose(outer, view)
        return found

    def _of_elements(self, view: View, place: Any) -> View | None:
        elements = self.held[self.compact(view)].astype(np.int64)
        if not len(elements) or not (elements >= 0).any():
            return None
        elements[elements < 0] = self.zero
        g = gathered(self.builder, elements, place)
        return self.window(g, View(SCALAR, 0, view.shape, row_major(view.shape)), place)

    def _set(self, view: View, tangent: View, place: Any) -> None:
        """Enter the tangent of what an instruction made (a whole buffer or a scalar)."""
        if view.buffer == SCALAR:
            self.held[view.offset] = self.builder.element(tangent._replace(shape=(), strides=()))
            return
        tangent = stretched(tangent, view.shape)
        if tangent.buffer in self.owned:  # it may be overwritten later
            tangent = self.copied(tangent, place)
        self.arrays[view.buffer] = tangent
        if view.buffer in self.start:
            self.held[self.compact(view)] = addresses(self.builder, tangent)

    # --- scalar rows ------------------------------------------------------------------------------

    def _rows(self, first: int, last: int) -> None:
        state = (self.original, self.bits, self.needed, self.held, self.zero, int(self.repeat))
        self.append_derivatives(scalars.push_rows, state, first, last)

    # --- array instructions -----------------------------------------------------------------------

    def _call(self, call: Call, place: Any) -> None:
        if call.op in WRITES:
            self._write(call, place)
            return
        if size_of(call.result.shape) == 0:
            return
        moving = [
            self._of(view, place) if on else None
            for on, view in zip(differentiable(call), call.operands, strict=True)
        ]
        active = tuple(tangent is not None for tangent in moving)
        if not any(active):
            return
        if call.op in OPS:
            template = push_template(call.op, active)
            slots = {G + i: t for i, t in enumerate(moving) if t is not None}
            slots[F] = call.result
            slots |= {X + i: view for i, view in enumerate(call.operands)}
            (tangent,) = self.instantiate(template, slots, call.result.shape, place)
        else:
            tangent = self._structural(call, moving, active, place)
        if tangent is not None:
            self._set(call.result, tangent, place)

    def _structural(self, call: Call, moving: list, active: tuple, place: Any) -> View | None:
        rule = jvp_rule(call, active, ())
        if rule is None:
            return None
        read = read_inputs(rule)
        views = [call.result, *call.operands, *(t for t in moving if t is not None)]
        bound = [view if i in read else None for i, view in enumerate(views)]
        (tangent,) = self.splice(rule, bound, place)
        return tangent

    # --- in-place writes --------------------------------------------------------------------------

    def _write(self, call: Call, place: Any) -> None:
        """The tangent of the target is overwritten in the same way."""
        source, target = call.operands[0], call.operands[-1]
        moving = self._of(source, place)
        if moving is None and self._of(target, place) is None:
            return
        zero = self.builder.constant_view(0.0)
        moving = stretched(zero if moving is None else moving, source.shape)
        buffer = target.buffer
        if buffer in self.by_element and call.op == "write":
            numbers = self.compact(target)
            saved = self.held[numbers].copy()
            saved[saved < 0] = self.zero
            self.held[numbers] = addresses(self.builder, moving)
            flat = gathered(self.builder, saved.astype(np.int64), place)
            shape = call.result.shape
            save = self.window(flat, View(SCALAR, 0, shape, row_major(shape)), place)
            self._set(call.result, save, place)
            return
        own = self._own(buffer, place)
        window = target._replace(buffer=own.buffer)
        save = self.builder.new_buffer(call.result.shape)
        self.builder.call(call.op, [moving, *call.operands[1:-1], window], save, (), place)
        self._set(call.result, save, place)
        if buffer in self.by_element:
            whole = View(buffer, 0, (own.size,), (1,))
            copy = self.copied(own, place)
            self.held[self.compact(whole)] = addresses(self.builder, copy)

    def _own(self, buffer: int, place: Any) -> View:
        """A buffer's tangent as a flat array that may be written into."""
        size = self.tape.buffers[buffer].size
        whole = View(buffer, 0, (size,), (1,))
        tangent = self._of(whole, place)
        if tangent is not None and tangent.buffer in self.owned:
            return tangent
        if tangent is None:
            tangent = self.builder.constant_view(0.0, (size,))
        own = self.builder.new_buffer((size,))
        self.builder.call("copy", [tangent], own, (), place)
        self.owned.add(own.buffer)
        self.arrays[buffer] = own
        return own
