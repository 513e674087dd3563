"""What the two sweeps that derive a tape share: segments, activity, and code on views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..builder import TapeBuilder
from ..errors import UnsupportedError
from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import tables
from ..ops.structural import STRUCTURAL
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Tape, View, size_of
from . import scalars
from .fold import evaluated
from .rules import WRITES, live_rows, overwrites
from .scalars import compiled
from .templates import CONSTANT, NAMES, Template, pack
from .views import compose, stretched, uniform

__all__ = ["Sweep", "addresses", "differentiable", "gathered", "positions"]

#: Operations of constants are evaluated while deriving up to this many elements.
FOLD_UP_TO = 1 << 20


def differentiable(call: Call) -> list[bool]:
    """Which operands of an array instruction carry derivatives by its rule."""
    if call.op in OPS:
        bits = int(tables()[1][OPS[call.op].code])
        return [bool(bits >> i & 1) for i in range(len(call.operands))]
    rule = STRUCTURAL[call.op]
    if rule.vjp is None and call.op not in WRITES:
        return [False] * len(call.operands)
    return [rule.is_active(i) for i in range(len(call.operands))]


class Sweep:
    """One pass over a tape that appends derivative code to a builder.

    Parameters
    ----------
    tape
        The tape to differentiate.
    builder
        Where the code goes; it has the tape's numbering.
    wrt
        The inputs that carry derivatives.
    lead
        ``(n,)`` for ``n`` directions at once: derivatives of arrays and scalars then have that
        axis in front.  Empty for one direction.
    """

    def __init__(
        self, tape: Tape, builder: TapeBuilder, wrt: Sequence[int], lead: tuple[int, ...] = ()
    ) -> None:
        self.tape = tape
        self.builder = builder
        self.wrt = tuple(wrt)
        self.lead = lead
        self.one = builder.constant(1.0)
        self.zero = builder.constant(0.0)
        self.segments = list(_segments(tape))
        self._number_elements()
        self._find_varied()

    # --- compact numbers --------------------------------------------------------------------------

    def _number_elements(self) -> None:
        """Compact numbers: scalars, then the elements of the buffers that scalar rows touch."""
        tape = self.tape
        self.code = tape.code.copy()
        # Columns beyond an operation's operands may hold anything; compiled loops read them all.
        unused = np.arange(3) >= tables()[0][self.code[:, 0]][:, None]
        self.code[:, 2:][unused] = 0
        self.start: dict[int, int] = {}  # buffer -> compact number of its first element
        self.written: set[int] = set()  # buffers that scalar rows write into
        rows = self.code[self.code[:, 0] != CALL, 1:]
        touched = rows >= ARRAY
        self.n_compact = tape.n_scalars
        if touched.any():
            numbers = tape.buffer_of(rows[touched].astype(np.int64) - ARRAY)
            shift = np.zeros(len(tape.buffers), np.int64)
            for number in np.unique(numbers).tolist():
                self.start[number] = self.n_compact
                shift[number] = self.n_compact - ARRAY - tape.buffers[number].base
                self.n_compact += tape.buffers[number].size
            rows[touched] += shift[numbers].astype(np.int32)
            self.code[self.code[:, 0] != CALL, 1:] = rows
            writes = tape.code[tape.code[:, 0] == WRITE, 2].astype(np.int64) - ARRAY
            if len(writes):
                self.written = set(np.unique(tape.buffer_of(writes)).tolist())
        self._numbered = np.array(list(self.start), np.int64)
        self._starts = np.array(list(self.start.values()), np.int64)
        #: Buffers whose derivatives are kept element by element: no window of them has its own.
        self.by_element = set(self.written)
        for call in tape.calls:
            if call.op in WRITES and call.operands[-1].buffer in self.start:
                self.by_element.add(call.operands[-1].buffer)

    def elements(self, buffer: int) -> np.ndarray:
        """Addresses of a buffer's elements."""
        entry = self.tape.buffers[buffer]
        first = ARRAY + entry.base
        return np.arange(first, first + entry.size, dtype=np.int32)

    def compact(self, view: View) -> np.ndarray:
        """Compact numbers of the elements of a view on a numbered buffer, in C order."""
        return (self.start[view.buffer] + positions(view)).reshape(-1)

    # --- activity ---------------------------------------------------------------------------------

    def _find_varied(self) -> None:
        """What depends on the differentiated inputs; the active operands of scalar rows."""
        arity, active, _ = tables()
        n = max(self.n_compact, 1)
        self.varied = np.zeros(n, np.uint8)
        self.varied_buffers: set[int] = set()
        self.bits = np.zeros(len(self.code), np.uint8)
        for index in self.wrt:
            self._mark(self.tape.inputs[index].view)
        run = compiled(scalars.activity)
        for first, last, call in self.segments:
            if call is None:
                run(self.code, self.bits, self.varied, arity, active, first, last)
                if self.written:
                    self._note_writes(first, last)
            elif any(
                self.varies(v) and on
                for v, on in zip(call.operands, differentiable(call), strict=True)
            ):
                self._mark(call.result)
                if call.op in WRITES:
                    self._mark(call.operands[-1])

    def _note_writes(self, first: int, last: int) -> None:
        """For scalar writes: whether the source varies, and then the target's buffer does."""
        rows = np.flatnonzero(self.code[first:last, 0] == WRITE) + first
        self.bits[rows] = self.varied[self.code[rows, 3]]
        targets = self.code[rows, 2]
        self.varied_buffers.update(self.buffers_of(targets[self.varied[targets] > 0]))

    def buffers_of(self, numbers: np.ndarray) -> list[int]:
        """The buffers of compact numbers of array elements."""
        if not len(numbers):
            return []
        at = np.unique(np.searchsorted(self._starts, numbers, side="right") - 1)
        return self._numbered[at].tolist()

    def _mark(self, view: View) -> None:
        if view.buffer == SCALAR:
            self.varied[view.offset] = 1
        elif view.buffer not in self.varied_buffers:
            self.varied_buffers.add(view.buffer)
            if view.buffer in self.start:
                at = self.start[view.buffer]
                self.varied[at : at + self.tape.buffers[view.buffer].size] = 1

    def varies(self, view: View) -> bool:
        """Whether a value depends on a differentiated input."""
        if view.buffer == SCALAR:
            return bool(self.varied[view.offset])
        return view.buffer in self.varied_buffers

    def pack_templates(self, kind: Callable[..., Template]) -> None:
        """Have the templates that the tape's scalar rows need, and their constants."""
        chosen = self.bits > 0
        chosen &= self.code[:, 0] < WRITE
        keys = np.unique(self.code[chosen, 0] * 8 + self.bits[chosen])
        found = pack(kind, [divmod(key, 8) for key in keys.tolist()])
        constants = [self.builder.constant(value) for value in found.constants]
        self.templates, self.constants = found, np.array(constants, np.int32)

    def append_derivatives(
        self, loop: Callable[..., None], state: tuple, first: int, last: int
    ) -> None:
        """Append what a loop of :mod:`.scalars` makes of the rows [first, last).

        ``state``: what it reads and updates besides the rows and their templates.
        """
        t, builder = self.templates, self.builder
        n = compiled(scalars.most_rows)(self.code, self.bits, t.index, t.starts, first, last)
        out, origin = np.zeros((n, 5), np.int32), np.zeros(n, np.int32)
        made = np.zeros(2, np.int64)
        slots = np.zeros(t.n_slots, np.int32)
        compiled(loop)(
            self.code, *state, t.index, t.starts, t.rows, t.outputs, self.constants, slots,
            self.one, builder.n_scalars, first, last, out, origin, made,
        )  # fmt: skip
        n_rows, n_scalars = made.tolist()
        builder.new_scalars(n_scalars)
        builder.append_rows(out[:n_rows], *self.places(origin[:n_rows]))

    def place(self, row: int) -> tuple[Any, int]:
        """The user's place behind a row."""
        codes, offsets = self.tape.locations
        return (codes[row], offsets[row]) if row < len(codes) else (None, 0)

    def places(self, rows: np.ndarray) -> tuple[list, list]:
        """The places behind many rows."""
        codes, offsets = self.tape.locations
        if len(codes) < len(self.code):
            return [None] * len(rows), [0] * len(rows)
        picked = rows.tolist()
        return list(map(codes.__getitem__, picked)), list(map(offsets.__getitem__, picked))

    # --- code on views ----------------------------------------------------------------------------
    # A value is a view; one that has a direction axis has ``lead`` in front of its shape.

    def apply(self, name: str, args: Sequence[View], shape: tuple, place: Any) -> View:
        """An elementwise operation on views that broadcast to ``shape``.

        Nothing is recorded for products with one, one row for what is the same everywhere, and
        nothing for operations of constants: they are evaluated.
        """
        builder = self.builder
        if name == "mul" or name == "strong_mul":
            a, b = args
            if self.is_one(a):
                return stretched(b, shape)
            if name == "mul" and self.is_one(b):
                return stretched(a, shape)
        if all(uniform(view) for view in args):
            return stretched(self._uniform(name, args, place), shape)
        values = [builder.value_of(view) for view in args]
        if all(value is not None for value in values) and size_of(shape) <= FOLD_UP_TO:
            with np.errstate(all="ignore"):
                value = OPS[name].reference(*values)
            return builder.array_constant(np.array(np.broadcast_to(value, shape), np.float64))
        views = [stretched(view, shape) for view in args]
        return builder.call(name, views, builder.new_buffer(shape), (), place)

    def is_one(self, view: View) -> bool:
        """Whether a view shows the constant one."""
        return view.buffer == SCALAR and view.offset == self.one

    def _uniform(self, name: str, args: Sequence[View], place: Any) -> View:
        """An operation on scalars, however stretched."""
        builder = self.builder
        elements = [builder.element(view) for view in args]
        values = [builder.scalar_constants.get(element) for element in elements]
        if all(value is not None for value in values):
            with np.errstate(all="ignore"):
                value = OPS[name].reference(*[np.float64(value) for value in values])
            return builder.constant_view(float(value))
        return View(SCALAR, builder.row(OPS[name].code, elements, place), (), ())

    def instantiate(
        self, template: Template, slots: dict[int, View], shape: tuple, place: Any
    ) -> list[View | None]:
        """A template on views of ``shape`` (derivatives: of lead + shape); returns its outputs.

        What depends on values alone is computed once for all directions.
        """
        values = dict(slots)

        def value(slot: int) -> View:
            if slot >= CONSTANT:
                return self.builder.constant_view(template.constants[slot - CONSTANT])
            return values[slot]

        for op, out, operands in template.rows:
            args = [value(slot) for slot in operands]
            full = shape
            if any(len(view.shape) > len(shape) for view in args):
                full = self.lead + shape
            values[out] = self.apply(NAMES[op], args, full, place)
        return [None if slot is None else value(slot) for slot in template.outputs]

    def copied(self, view: View, place: Any) -> View:
        """A contiguous copy."""
        value = self.builder.value_of(view)
        if value is not None:
            return self.builder.array_constant(np.array(value, np.float64, order="C"))
        result = self.builder.new_buffer(view.shape)
        return self.builder.call("copy", [view], result, (), place)

    def window(self, outer: View, inner: View, place: Any) -> View:
        """``inner`` on the elements of a derivative, copied where that is no strided view."""
        lead = len(self.lead)
        found = compose(outer, inner, lead)
        if found is None:
            found = compose(self.copied(outer, place), inner, lead)
        return found

    def total(self, g: View, axes: tuple[int, ...], place: Any) -> View:
        """The sum of a derivative over axes, counted behind the leading one."""
        ahead = len(self.lead)
        same = {ahead + i for i in axes if g.strides[ahead + i] == 0}
        count = size_of(tuple(g.shape[i] for i in same))
        kept = [i for i in range(len(g.shape)) if i not in same]
        rest = tuple(kept.index(ahead + i) for i in axes if ahead + i not in same)
        g = View(
            g.buffer, g.offset, tuple(g.shape[i] for i in kept), tuple(g.strides[i] for i in kept)
        )
        if rest:
            shape = tuple(n for i, n in enumerate(g.shape) if i not in rest)
            g = self.builder.call("sum", [g], self.builder.new_result(shape), (rest,), place)
        if count != 1:
            factor = self.builder.constant_view(float(count))
            g = self.apply("mul", [g, factor], g.shape, place)
        return g

    def with_lead(self, view: View, shape: tuple[int, ...]) -> View:
        """A derivative as a view of lead + shape."""
        return stretched(view, self.lead + shape)

    # --- rules of structural operations -----------------------------------------------------------

    def splice(self, tape: Tape, bound: Sequence[View | None], place: Any) -> list[View]:
        """Append a rule's tape with views for its inputs; returns its outputs."""
        return _Splice(self, tape, bound, place).run()


class _Splice:
    """A small tape (of a rule) on views of the builder."""

    def __init__(self, sweep: Sweep, tape: Tape, bound: Sequence[View | None], place: Any) -> None:
        self.sweep = sweep
        self.builder = sweep.builder
        self.tape = tape
        self.place = place
        self.scalars: dict[int, View] = {}
        self.buffers: dict[int, View] = {}  # what stands for a buffer, its elements in C order
        #: Users' rules may write into what they made: then everything is made anew.
        self.writes = overwrites(tape)
        ids, values = tape.scalar_constants
        for number, value in zip(ids.tolist(), values.tolist(), strict=True):
            self.scalars[number] = self.builder.constant_view(value)
        for leaf, view in zip(tape.inputs, bound, strict=True):
            if view is not None:
                self._define(leaf.view, view)

    def _define(self, target: View, view: View) -> None:
        if target.buffer == SCALAR:
            self.scalars[target.offset] = View(view.buffer, view.offset, (), ())
        else:
            self.buffers[target.buffer] = view

    def view(self, view: View) -> View:
        """A view of the rule's tape as one of the builder."""
        if view.buffer == SCALAR:
            return stretched(self.scalars[view.offset], view.shape)
        outer = self.buffers.get(view.buffer)
        if outer is None:
            constant = self.tape.buffers[view.buffer].constant
            outer = self.builder.array_constant(self.tape.array_constants[constant])
            self.buffers[view.buffer] = outer
        found = compose(outer, view)
        if found is None:
            outer = self.buffers[view.buffer] = self.sweep.copied(outer, self.place)
            found = compose(outer, view)
        return found

    def run(self) -> list[View]:
        """Append the rows."""
        tape = self.tape
        code = tape.code.tolist()
        for row in live_rows(tape):
            op, out, *operands = code[row]
            if op == CALL:
                self._call(tape.calls[out])
                continue
            if op > WRITE:
                raise UnsupportedError(f"the {tape.name} branches on a traced value; use np.where")
            arity = 2 if op == WRITE else OPS[NAMES[op]].arity
            views = [self.view(tape.element(element)) for element in operands[:arity]]
            if op == WRITE:
                target, source = (self.builder.element(view) for view in views)
                save = self.builder.write(target, source, self.place)
                self.scalars[out] = View(SCALAR, save, (), ())
            else:
                self.scalars[out] = self.sweep.apply(NAMES[op], views, (), self.place)
        return [self.view(leaf.view) for leaf in tape.outputs]

    def _call(self, call: Call) -> None:
        views = [self.view(view) for view in call.operands]
        shape = call.result.shape
        if not self.writes:
            if call.op in OPS:
                self._define(call.result, self.sweep.apply(call.op, views, shape, self.place))
                return
            if call.op == "copy":  # nothing is written in place: the operand serves as well
                self._define(call.result, stretched(views[0], shape))
                return
            values = [self.builder.value_of(view) for view in views]
            if all(value is not None for value in values) and size_of(shape) <= FOLD_UP_TO:
                self._define(call.result, self._constant(evaluated(call, values), shape))
                return
        if call.result.buffer == SCALAR:
            fresh = View(SCALAR, self.builder.new_scalars(1), shape, (0,) * len(shape))
        else:
            fresh = self.builder.new_buffer(shape)
        self.builder.call(call.op, views, fresh, call.params, self.place)
        self._define(call.result, fresh)

    def _constant(self, value: np.ndarray, shape: tuple[int, ...]) -> View:
        if not shape:
            return self.builder.constant_view(float(value))
        return self.builder.array_constant(value)


def _segments(tape: Tape) -> Iterator[tuple[int, int, Call | None]]:
    """(first row, last row, call): runs of scalar rows, and array instructions one by one."""
    at = 0
    for row in np.flatnonzero(tape.code[:, 0] == CALL).tolist():
        if row > at:
            yield at, row, None
        yield row, row + 1, tape.calls[tape.code[row, 1]]
        at = row + 1
    if at < len(tape.code):
        yield at, len(tape.code), None


def positions(view: View) -> np.ndarray:
    """Where in its buffer the elements of a view lie."""
    total = np.full(view.shape, view.offset, np.int64)
    for axis, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        steps = np.arange(n) * stride
        total += steps.reshape((-1,) + (1,) * (len(view.shape) - axis - 1))
    return total


def addresses(builder: TapeBuilder, view: View) -> np.ndarray:
    """Elements of a view, in C order; those of constant arrays become scalar constants."""
    if view.buffer == SCALAR:
        return np.full(view.size, view.offset)
    value = builder.value_of(view)
    if value is not None:
        return np.array([builder.constant(x) for x in value.ravel().tolist()], np.int64)
    return positions(view).reshape(-1) + (ARRAY + builder.buffers[view.buffer].base)


def gathered(builder: TapeBuilder, elements: np.ndarray, place: Any) -> View:
    """Elements as one array: a view where they lie in a row."""
    n = len(elements)
    if (elements[0] == elements).all():
        single = builder.place_of(int(elements[0]))
        return View(single.buffer, single.offset, (n,), (0,))
    if elements[0] >= ARRAY and (np.diff(elements) == 1).all():
        first, last = builder.place_of(int(elements[0])), builder.place_of(int(elements[-1]))
        if first.buffer == last.buffer:
            return first._replace(shape=(n,), strides=(1,))
    views = [builder.place_of(e)._replace(shape=(1,), strides=(1,)) for e in elements.tolist()]
    return builder.call("concatenate", views, builder.new_buffer((n,)), (0,), place)
