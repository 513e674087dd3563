"""Adjoints while a tape is pulled back: by element for scalars, by window for arrays.

Contributions to an array are kept as they arrive, each with the window that it belongs to; they are
added up when the adjoint as a whole is asked for.  Nothing is copied or cleared before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.table import OPS
from ..tape import SCALAR, View, row_major, size_of
from .sweep import Sweep, addresses, gathered
from .views import covering, repeated_axes, stretched, uniform

__all__ = ["Adjoints"]

_ADD = OPS["add"].code


class Adjoints:
    """The cotangents that have arrived so far.

    A cotangent is a view of the builder, of shape ``lead + window.shape``.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.builder = sweep.builder
        self.lead = sweep.lead
        #: By compact number: the element that holds the adjoint, -1 for none (one direction).
        self.held = np.full(max(sweep.n_compact, 1), -1, np.int32)
        #: The same where there are several directions.
        self.views: dict[int, View] = {}
        self.parts: dict[int, dict[View, View]] = {}
        self.owned: dict[int, View] = {}  # buffer -> the adjoint's own copy, to be written into

    # --- contributions ----------------------------------------------------------------------------

    def add(self, view: View, g: View, place: Any) -> None:
        """Add a cotangent to what stands at ``view``."""
        sweep = self.sweep
        if not sweep.varies(view) or size_of(view.shape) == 0:
            return
        g = sweep.with_lead(g, view.shape)
        if view.buffer == SCALAR:
            axes = tuple(i for i, n in enumerate(view.shape) if n > 1)
            self.add_element(view.offset, self._single(sweep.total(g, axes, place)), place)
            return
        axes = repeated_axes(view)
        if axes:
            g = sweep.total(g, axes, place)
            view = View(
                view.buffer, view.offset,
                tuple(n for i, n in enumerate(view.shape) if i not in axes),
                tuple(s for i, s in enumerate(view.strides) if i not in axes),
            )  # fmt: skip
        if view.buffer in sweep.by_element:
            self._add_elements(view, g, place)
        elif view.size == 1 and view.buffer in sweep.start:
            number = sweep.start[view.buffer] + view.offset
            self.add_element(number, self._single(g), place)
        else:
            self._add_part(view, g, place)

    def _single(self, g: View) -> View:
        """A cotangent of one element as one of a scalar."""
        n = len(self.lead)
        return View(g.buffer, g.offset, g.shape[:n], g.strides[:n])

    def add_element(self, number: int, g: View, place: Any) -> None:
        """Add a scalar cotangent to the element of a compact number."""
        if self.lead:
            known = self.views.get(number)
            if known is not None:
                g = self.sweep.apply("add", [known, g], self.lead, place)
            self.views[number] = g
            return
        element = self.builder.element(g)
        if self.held[number] >= 0:
            element = self.builder.row(_ADD, (int(self.held[number]), element), place)
        self.held[number] = element

    def _add_part(self, view: View, g: View, place: Any) -> None:
        parts = self.parts.setdefault(view.buffer, {})
        known = parts.get(view)
        if known is not None:
            g = self.sweep.apply("add", [known, g], self.lead + view.shape, place)
            self.owned.pop(view.buffer, None)
        parts[view] = g

    def _add_elements(self, view: View, g: View, place: Any) -> None:
        """Element by element: each adjoint is where its first contribution stands."""
        numbers, elements = self.sweep.compact(view), addresses(self.builder, g)
        for number, element in zip(numbers.tolist(), elements.tolist(), strict=True):
            if self.held[number] >= 0:
                element = self.builder.row(_ADD, (int(self.held[number]), element), place)
            self.held[number] = element

    # --- what has arrived -------------------------------------------------------------------------

    def take(self, view: View, place: Any) -> View | None:
        """The adjoint of a whole buffer or a scalar, which is forgotten; None where there is none.

        ``view`` is what an instruction made, or an input.
        """
        if view.buffer == SCALAR:
            found = self._take_element(view.offset)
            if found is None:
                return None
            strides = found.strides + (0,) * len(view.shape)
            return View(found.buffer, found.offset, self.lead + view.shape, strides)
        self.collect(view.buffer, place)
        parts = self.parts.pop(view.buffer, None)
        self.owned.pop(view.buffer, None)
        if not parts or size_of(view.shape) == 0:
            return None
        return self._joined(parts, view.shape, place)

    def _take_element(self, number: int) -> View | None:
        if self.lead:
            return self.views.pop(number, None)
        element = int(self.held[number])
        self.held[number] = -1
        return None if element < 0 else self.builder.place_of(element)

    def _joined(self, parts: dict[View, View], shape: tuple[int, ...], place: Any) -> View:
        """The sum of all windows' contributions, of lead + shape."""
        size, n = size_of(shape), len(self.lead)
        full = self.lead + shape
        total: View | None = None
        rest: list[tuple[View, View]] = []
        for window, g in parts.items():
            order = covering(window, size)
            if order is None:
                rest.append((window, g))
                continue
            axes = [*range(n), *(n + i for i in order)]
            g = View(g.buffer, g.offset, tuple(g.shape[i] for i in axes),
                     tuple(g.strides[i] for i in axes))  # fmt: skip
            g = self.sweep.window(g, View(SCALAR, 0, shape, row_major(shape)), place)
            total = g if total is None else self.sweep.apply("add", [total, g], full, place)
        if not rest:
            return total
        if total is not None:
            rest.insert(0, (View(SCALAR, 0, shape, row_major(shape)), total))
        return self.assembled(rest, shape, place)

    def assembled(self, parts: list[tuple[View, View]], shape: tuple, place: Any) -> View:
        """Zeros with contributions added at windows."""
        size = size_of(shape)
        steps = (size,) * len(self.lead)
        windows = tuple((window.offset, steps + window.strides) for window, _ in parts)
        full = self.lead + shape
        result = self.builder.new_buffer(full)
        operands = [g for _, g in parts]
        return self.builder.call("assemble", operands, result, (full, windows), place)

    def collect(self, buffer: int, place: Any) -> None:
        """Make the adjoints of single elements part of the buffer's."""
        at = self.sweep.start.get(buffer)
        if at is None:
            return
        size = self.sweep.tape.buffers[buffer].size
        if self.lead:
            for number in [k for k in self.views if at <= k < at + size]:
                window = View(buffer, number - at, (), ())
                self._add_part(window, self.views.pop(number), place)
            return
        found = np.flatnonzero(self.held[at : at + size] >= 0)
        if not len(found):
            return
        first, last = int(found[0]), int(found[-1]) + 1
        elements = self.held[at + first : at + last].astype(np.int64)
        self.held[at : at + size] = -1
        if 2 * len(found) >= last - first:
            elements[elements < 0] = self.sweep.zero
            window = View(buffer, first, (last - first,), (1,))
            self._add_part(window, gathered(self.builder, elements, place), place)
            return
        source = gathered(self.builder, elements[found - first], place)
        index = self.builder.array_constant(found.astype(np.float64))
        whole = self.builder.new_buffer((size,))
        self.builder.call("scatter_add", [source, index], whole, (), place)
        self._add_part(View(buffer, 0, (size,), (1,)), whole, place)

    # --- in-place writes --------------------------------------------------------------------------

    def own(self, buffer: int, place: Any) -> View:
        """A buffer's adjoint as a flat array that may be written into."""
        size = self.sweep.tape.buffers[buffer].size
        parts = self.parts.setdefault(buffer, {})
        whole = View(buffer, 0, (size,), (1,))
        known = self.owned.get(buffer)
        if known is not None and parts.get(whole) == known:
            others = {w: g for w, g in parts.items() if w != whole}
            if 2 * sum(w.size for w in others) < size:
                for window, g in others.items():
                    target = window._replace(buffer=known.buffer)
                    total = self.sweep.apply("add", [target, g], window.shape, place)
                    self.overwrite(target, total, place)
                self.parts[buffer] = {whole: known}
                return known
        if parts:
            joined = self._joined(parts, (size,), place)
        else:
            joined = self.builder.constant_view(0.0, (size,))
        if not self._is_new(joined, parts):
            result = self.builder.new_buffer((size,))
            joined = self.builder.call("copy", [joined], result, (), place)
        self.parts[buffer] = {whole: joined}
        self.owned[buffer] = joined
        return joined

    def _is_new(self, joined: View, parts: dict[View, View]) -> bool:
        """Whether a sum is an array of its own, not one of the contributions or a constant."""
        if self.builder.value_of(joined) is not None or uniform(joined):
            return False
        return all(joined.buffer != g.buffer for g in parts.values())

    def spread(self, buffer: int, place: Any) -> None:
        """Hand an owned adjoint over to the elements."""
        for window, g in self.parts.pop(buffer).items():
            self._add_elements(window, g, place)
        self.owned.pop(buffer, None)

    def overwrite(self, target: View, source: View, place: Any) -> View:
        """Write into an owned adjoint; returns what stood there."""
        save = self.builder.new_buffer(target.shape)
        source = stretched(source, target.shape)
        return self.builder.call("write", [source, target], save, (), place)
