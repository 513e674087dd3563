"""Reverse mode on a tape: cotangents pulled back, instruction by instruction, as more tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..builder import TapeBuilder
from ..interpreters.layout import WRITE
from ..lowering.scalars import tables
from ..ops.table import OPS
from ..tape import SCALAR, Call, Tape, View, row_major
from . import scalars
from .adjoints import Adjoints
from .rules import read_inputs, vjp_rule
from .sweep import Sweep, differentiable, gathered
from .templates import NAMES, F, G, X, pull_template
from .values import Values

__all__ = ["pull_back"]


def pull_back(
    tape: Tape,
    builder: TapeBuilder,
    seeds: Sequence[tuple[View, View]],
    wrt: Sequence[int],
    lead: tuple[int, ...] = (),
) -> list[View | None]:
    """Append the pullback of a tape to a builder that has the tape's numbering.

    Parameters
    ----------
    seeds
        (output, its cotangent) pairs; cotangents have shape ``lead + output.shape``.
    wrt
        The inputs to differentiate with respect to.
    lead
        ``(n,)`` for ``n`` cotangents at once.

    Returns
    -------
    list
        A view of shape ``lead + input.shape`` for each of ``wrt``; None where it is zero.
    """
    return _Reverse(tape, builder, wrt, lead).run(seeds)


class _Reverse(Sweep):
    """One reverse sweep."""

    def __init__(
        self, tape: Tape, builder: TapeBuilder, wrt: Sequence[int], lead: tuple[int, ...]
    ) -> None:
        super().__init__(tape, builder, wrt, lead)
        self.adjoints = Adjoints(self)
        self.values = Values(self)
        self.pack_templates(pull_template)

    def run(self, seeds: Sequence[tuple[View, View]]) -> list[View | None]:
        """Walk the tape from its end."""
        last = self.place(len(self.code) - 1) if len(self.code) else (None, 0)
        for output, seed in seeds:
            self.adjoints.add(output, seed, last)
        for first, last_row, call in reversed(self.segments):
            if call is not None:
                self._call(call, self.place(first))
            elif self.lead:
                self._rows_of_lanes(first, last_row)
            else:
                self._rows(first, last_row)
        start = self.place(0) if len(self.code) else (None, 0)
        return [self.adjoints.take(self.tape.inputs[index].view, start) for index in self.wrt]

    # --- scalar rows ------------------------------------------------------------------------------

    def _rows(self, first: int, last: int) -> None:
        """A run of scalar rows, by compiled code."""
        state = (self.bits, self.values.where, self.adjoints.held)
        self.append_derivatives(scalars.pull_rows, state, first, last)
        if self.written:
            rows = self.tape.code[first:last]
            rows = rows[rows[:, 0] == WRITE]
            if len(rows):
                self.values.passed_elements(rows)

    def _rows_of_lanes(self, first: int, last: int) -> None:
        """Scalar rows for several directions: each cotangent is a vector."""
        arity = tables()[0]
        for row in range(last - 1, first - 1, -1):
            op, out, *operands = self.code[row].tolist()
            if op >= WRITE or not self.bits[row]:
                continue
            g = self.adjoints.views.pop(out, None)
            if g is None:
                continue
            place, n = self.place(row), int(arity[op])
            active = tuple(bool(self.bits[row] >> i & 1) for i in range(n))
            template = pull_template(NAMES[op], active)
            where = [int(self.values.where[k]) for k in (*operands[:n], out)]
            views = [self.builder.place_of(element) for element in where]
            slots = {G: g, F: views[-1], **{X + i: view for i, view in enumerate(views[:-1])}}
            for number, part in zip(
                operands, self.instantiate(template, slots, (), place), strict=False
            ):
                if part is not None:
                    part = self.with_lead(part, ())
                    self.adjoints.add_element(number, part, place)

    # --- array instructions -----------------------------------------------------------------------

    def _call(self, call: Call, place: Any) -> None:
        if call.op == "write":
            self._window_write(call, place)
            return
        if call.op == "scatter_write":
            self._scatter_write(call, place)
            return
        g = self.adjoints.take(call.result, place)
        if g is None:
            return
        wanted = tuple(
            on and self.varies(view)
            for on, view in zip(differentiable(call), call.operands, strict=True)
        )
        if not any(wanted):
            return
        if call.op in OPS:
            parts = self._elementwise(call, g, wanted, place)
        elif call.op == "assemble":
            windows = call.params[1]
            parts = [
                self.window(g, View(SCALAR, offset, view.shape, strides), place)
                for view, (offset, strides) in zip(call.operands, windows, strict=True)
            ]
        else:
            parts = self._structural(call, g, wanted, place)
        for view, part, is_wanted in zip(call.operands, parts, wanted, strict=True):
            if part is not None and is_wanted:
                self.adjoints.add(view, part, place)

    def _elementwise(self, call: Call, g: View, wanted: tuple, place: Any) -> list:
        template = pull_template(call.op, wanted)
        slots = {G: g}
        for slot, view in self._named(call):
            if slot in template.reads:
                slots[slot] = self.values.view(view, place)
        return self.instantiate(template, slots, call.result.shape, place)

    def _named(self, call: Call) -> list[tuple[int, View]]:
        return [(F, call.result), *((X + i, view) for i, view in enumerate(call.operands))]

    def _structural(self, call: Call, g: View, wanted: tuple, place: Any) -> list:
        rule = vjp_rule(call, wanted, self.lead)
        parts: list[View | None] = [None] * len(call.operands)
        if rule is None:
            return parts
        read = read_inputs(rule.tape)
        bound: list[View | None] = [g]
        for i, view in enumerate((call.result, *call.operands)):
            bound.append(self.values.view(view, place) if i + 1 in read else None)
        for index, part in zip(rule.operands, self.splice(rule.tape, bound, place), strict=True):
            parts[index] = part
        return parts

    # --- in-place writes --------------------------------------------------------------------------

    def _window_write(self, call: Call, place: Any) -> None:
        """The window's adjoint goes to the source; what was there before has the save slot's."""
        source, target = call.operands
        adjoints, buffer = self.adjoints, target.buffer
        saved = adjoints.take(call.result, place)
        g: View | None = None
        if buffer in self.start:
            g = self._elements_of(target, place)
        if adjoints.parts.get(buffer):
            own = adjoints.own(buffer, place)
            zero = self.builder.constant_view(0.0)
            window = target._replace(buffer=own.buffer)
            old = adjoints.overwrite(window, zero if saved is None else saved, place)
            g = old if g is None else self.apply("add", [old, g], target.shape, place)
        elif saved is not None:
            adjoints.add(target, saved, place)
        self.values.passed_window(target, call.result)
        if g is not None:
            adjoints.add(source, g, place)

    def _elements_of(self, window: View, place: Any) -> View | None:
        """Adjoints that single elements of a window have, which are forgotten."""
        numbers = self.compact(window)
        elements = self.adjoints.held[numbers].astype(np.int64)
        if not (elements >= 0).any():
            return None
        self.adjoints.held[numbers] = -1
        elements[elements < 0] = self.zero
        g = gathered(self.builder, elements, place)
        return self.window(g, View(SCALAR, 0, window.shape, row_major(window.shape)), place)

    def _scatter_write(self, call: Call, place: Any) -> None:
        """As for a window; of several writes to one element the last one counts."""
        source, index, target = call.operands
        adjoints, buffer = self.adjoints, target.buffer
        saved = adjoints.take(call.result, place)
        at = self.values.view(index, place)
        if buffer in self.start:
            adjoints.collect(buffer, place)
        if adjoints.parts.get(buffer) or saved is not None:
            if not adjoints.parts.get(buffer):
                adjoints.parts[buffer] = {}
            own = adjoints.own(buffer, place)
            fresh = self.builder.constant_view(0.0, index.shape)
            if saved is not None:
                fresh = self._summed_by_position(saved, at, own.size, place)
            old = self.builder.new_buffer(index.shape)
            self.builder.call("scatter_write", [fresh, at, own], old, (), place)
            if self.varies(source):
                adjoints.add(source, self._last_ones(old, at, own.size, place), place)
            if buffer in self.by_element:
                adjoints.spread(buffer, place)
        self.values.passed_scatter(target, at, call.result, place)

    def _summed_by_position(self, saved: View, at: View, size: int, place: Any) -> View:
        """What all save slots of one element received, at each of them."""
        total = self.builder.new_buffer((size,))
        self.builder.call("scatter_add", [saved, at], total, (), place)
        result = self.builder.new_buffer(at.shape)
        return self.builder.call("gather", [total, at], result, (), place)

    def _last_ones(self, g: View, at: View, size: int, place: Any) -> View:
        """A cotangent where its write was the last one to its element, zero elsewhere."""
        if at.size == 1:
            return g
        builder = self.builder
        numbers = builder.array_constant(np.arange(float(at.size)).reshape(at.shape))
        zeros = builder.constant_view(0.0, (size,))
        last = builder.call("copy", [zeros], builder.new_buffer((size,)), (), place)
        builder.call("scatter_write", [numbers, at, last], builder.new_buffer(at.shape), (), place)
        winner = builder.new_buffer(at.shape)
        builder.call("gather", [last, at], winner, (), place)
        is_last = self.apply("equal", [winner, numbers], at.shape, place)
        return self.apply("where", [is_last, g, builder.constant_view(0.0)], at.shape, place)
