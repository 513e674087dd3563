"""Derivatives as more tape: a stretch of a recording, pulled back or pushed forward by its rules.

Inside of a recording, ``grad(f)(x)`` runs ``f`` on fresh copies of its arguments and then walks
the rows that this appended: backwards (:func:`pull_back`) or forwards (:func:`push_forward`), with
every rule evaluated on tracers.  What comes out is more of the same tape, to be optimised, replayed
and differentiated again; copies of the arguments keep nested derivatives apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..interpreters.layout import CALL, GUARD_TRUE, WRITE
from ..lowering.scalars import tables
from ..ops.structural import STRUCTURAL
from ..ops.table import OPS
from ..recording.recorder import Recorder, where_am_i
from ..recording.splice import strided
from ..recording.tracer import (
    ArrayTracer,
    Cell,
    ScalarTracer,
    Tracer,
    apply,
    copied,
    new_array,
    scalar_tracer,
)
from ..tape import ARRAY, SCALAR, Call, View, row_major

__all__ = ["Stretch", "pull_back", "push_forward"]

_BY_CODE = {op.code: op for op in OPS.values()}


class Stretch:
    """Rows of a recording that one function appended, with its inputs and outputs."""

    def __init__(self, rec: Recorder, function: Callable, inputs: Sequence[Any]) -> None:
        self.rec = rec
        self.outer_values = rec.values
        rec.values = {} if rec.values is None else rec.values
        self.inputs = [_fresh(rec, value) for value in inputs]
        self.first = len(rec.code) // 5
        self.arrays: dict[int, Cell] = {}
        self.result = function(*self.inputs)
        self.last = len(rec.code) // 5

    def close(self) -> None:
        """Stop keeping values."""
        self.rec.values = self.outer_values

    def rows(self) -> list[tuple[int, int, int, int, int]]:
        """The stretch's rows."""
        flat = self.rec.code[5 * self.first : 5 * self.last]
        return [tuple(flat[i : i + 5]) for i in range(0, len(flat), 5)]


def _fresh(rec: Recorder, value: Any) -> Tracer:
    """A copy of an argument, distinct from whatever it was copied from."""
    if isinstance(value, ArrayTracer):
        return copied(value)
    if isinstance(value, ScalarTracer):
        return apply(OPS["positive"], value)
    array = np.asarray(value, np.float64)
    if array.ndim == 0:
        number = rec.constant(array[()])
        return apply(OPS["positive"], scalar_tracer(rec, array[()], number))
    view = rec.array_constant(array)
    result = new_array(rec, array.copy())
    rec.call("copy", (view,), result.view)
    return result


class _Walk:
    """Operands and results of rows, as tracers."""

    def __init__(self, stretch: Stretch) -> None:
        self.stretch = stretch
        self.rec = stretch.rec
        self._cells: dict[int, Cell] = {}

    def cell(self, buffer: int) -> Cell | None:
        """Where a buffer's values stand now: undoing a write may have moved them."""
        known = self._cells.get(buffer)
        if known is None:
            known = self.rec.cells.get(buffer)
            if known is not None:
                self._cells[buffer] = known
        return known

    def flat(self, buffer: int) -> ArrayTracer:
        """A buffer's values as a flat array that can be written."""
        cell = self.cell(buffer)
        return ArrayTracer(self.rec, cell.storage.reshape(-1), cell)

    def scalar(self, element: int) -> Any:
        """The value that stands at an element now."""
        rec = self.rec
        if element < ARRAY:
            value = self.constants.get(element)
            if value is not None:
                return value
            return scalar_tracer(rec, rec.values[element], element)
        view = self.view_of_element(element)
        if self.cell(view.buffer) is None:  # read from an array of the enclosing code
            return scalar_tracer(rec, rec.values[element], element)
        return self.array(view)

    @property
    def constants(self) -> dict[int, float]:
        """Constants by element."""
        rec = self.rec
        known = getattr(self, "_constants", None)
        if known is None or len(known) != len(rec.constant_values):
            ids = rec.constants.values()
            known = self._constants = dict(zip(ids, rec.constant_values, strict=True))
        return known

    def view_of_element(self, element: int) -> View:
        """The 0-d view of an array element."""
        return scalar_tracer(self.rec, None, element).view

    def array(self, view: View) -> Any:
        """A view as a tracer (or constant)."""
        rec = self.rec
        if view.buffer == SCALAR:
            value = self.scalar(view.offset)
            if view.shape == ():
                return value
            from ..recording.functions import broadcast_to

            return broadcast_to(value, view.shape)
        buffer = rec.buffers[view.buffer]
        if buffer.constant >= 0:
            flat = rec.array_constants[buffer.constant].reshape(-1)
            return strided(flat, view)
        cell = self.cell(view.buffer)
        value = strided(cell.storage.reshape(-1), view)
        if view.shape == ():
            base = rec.buffers[cell.buffer].base
            return scalar_tracer(rec, value[()], ARRAY + base + view.offset)
        return ArrayTracer(rec, value, cell)


# --- reverse --------------------------------------------------------------------------------------


class _Adjoints:
    """Cotangents by scalar element and by array buffer, as traced values."""

    def __init__(self, walk: _Walk) -> None:
        self.walk = walk
        self.scalars: dict[int, Any] = {}
        self.buffers: dict[int, tuple[ArrayTracer, bool]] = {}  # flat; whether ours to write into

    def add_scalar(self, element: int, g: Any) -> None:
        """Add to the cotangent of an element."""
        if element >= ARRAY:
            self.add(self.walk.view_of_element(element), g)
        elif element in self.scalars:
            self.scalars[element] = self.scalars[element] + g
        else:
            self.scalars[element] = g

    def add(self, view: View, g: Any) -> None:
        """Add a cotangent of the view's shape (or 0-d) to a view's adjoint."""
        if view.buffer == SCALAR:
            self.add_scalar(view.offset, _total(g, view.shape))
            return
        rec = self.walk.rec
        if rec.buffers[view.buffer].constant >= 0:
            return
        if any(s == 0 and n > 1 for n, s in zip(view.shape, view.strides, strict=True)):
            view, g = _without_repeats(view, g)
        size = rec.buffers[view.buffer].size
        known = self.buffers.get(view.buffer)
        if view.size == size and view.strides == row_major(view.shape):
            flat = _flat(rec, g, view.shape)
            self.buffers[view.buffer] = (flat if known is None else known[0] + flat, False)
            return
        target = self._owned(view.buffer, size)
        window = ArrayTracer(rec, strided(target.cell.storage.reshape(-1), view), target.cell)
        if view.shape == ():
            target[view.offset] = target[view.offset] + g
        else:
            window[...] = window + g

    def _owned(self, buffer: int, size: int) -> ArrayTracer:
        """A flat adjoint that may be written in place."""
        known = self.buffers.get(buffer)
        if known is None:
            target = _zeros(self.walk.rec, size)
        elif known[1]:
            return known[0]
        else:
            target = copied(known[0])
        self.buffers[buffer] = (target, True)
        return target

    def take(self, view: View) -> Any:
        """The cotangent of a result; None where none has arrived."""
        if view.buffer == SCALAR:
            return self.scalars.pop(view.offset, None)
        known = self.buffers.get(view.buffer)
        if known is None:
            return None
        return _window(known[0], view)

    def clear(self, view: View) -> None:
        """Set the cotangent of a region to zero."""
        if view.buffer in self.buffers:
            target = self._owned(view.buffer, self.walk.rec.buffers[view.buffer].size)
            if view.shape == ():
                target[view.offset] = 0.0
            else:
                _window(target, view)[...] = 0.0


def _window(flat: ArrayTracer, view: View) -> Any:
    """A view of a flat traced array."""
    if view.shape == ():
        return flat[view.offset]
    offset = flat.view.offset
    storage = flat.cell.storage.reshape(-1)
    value = strided(storage, view._replace(offset=view.offset + offset))
    return ArrayTracer(flat.rec, value, flat.cell)


def _zeros(rec: Recorder, size: int) -> ArrayTracer:
    result = new_array(rec, np.zeros(size))
    rec.call("copy", (View(SCALAR, rec.constant(0.0), (size,), (0,)),), result.view)
    return result


def _flat(rec: Recorder, g: Any, shape: tuple[int, ...]) -> ArrayTracer:
    """A cotangent as a flat array that shares nothing."""
    from ..recording.functions import broadcast_to

    if np.shape(getattr(g, "value", g)) != shape:
        g = broadcast_to(_traced(rec, g), shape)
    g = _traced(rec, g)
    return copied(g).reshape(-1) if g.ndim else copied(broadcast_to(g, (1,)))


def _traced(rec: Recorder, g: Any) -> Any:
    return g if isinstance(g, Tracer) else _fresh(rec, g)


def _total(g: Any, shape: tuple[int, ...]) -> Any:
    """The sum of a cotangent over a stretched scalar's shape."""
    if shape == ():
        return g
    if np.ndim(getattr(g, "value", g)) == 0:
        size = 1
        for n in shape:
            size *= n
        return g * float(size)
    return g.sum() if isinstance(g, Tracer) else float(np.sum(g))


def _without_repeats(view: View, g: Any) -> tuple[View, Any]:
    """Sum a cotangent over the axes along which its view repeats elements."""
    axes = tuple(
        i for i, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)) if s == 0 and n > 1
    )
    kept = [i for i in range(len(view.shape)) if i not in axes]
    reduced = View(
        view.buffer, view.offset, tuple(view.shape[i] for i in kept),
        tuple(view.strides[i] for i in kept),
    )  # fmt: skip
    if np.ndim(getattr(g, "value", g)) == 0:
        count = 1
        for i in axes:
            count *= view.shape[i]
        return reduced, g * float(count)
    return reduced, g.sum(axis=axes)


def _varied(stretch: Stretch, rows: list, calls: list[Call]) -> tuple[set[int], set[int]]:
    """Scalars and buffers that depend on the stretch's inputs."""
    arity, active, _ = (table.tolist() for table in tables())
    scalars: set[int] = set()
    buffers: set[int] = set()

    def mark(view: View) -> None:
        if view.buffer == SCALAR:
            scalars.add(view.offset)
        else:
            buffers.add(view.buffer)

    def varies(view: View) -> bool:
        return view.offset in scalars if view.buffer == SCALAR else view.buffer in buffers

    rec = stretch.rec

    def element_varies(element: int) -> bool:
        if element < ARRAY:
            return element in scalars
        return scalar_tracer(rec, None, element).view.buffer in buffers

    for value in stretch.inputs:
        mark(value.view)
    for op, out, *operands in rows:
        if op == CALL:
            call = calls[out]
            if any(varies(v) for v in call.operands):
                mark(call.result)
                if call.op in ("write", "scatter_write"):
                    mark(call.operands[-1])
        elif op == WRITE:
            target = scalar_tracer(rec, None, operands[0]).view.buffer
            if element_varies(operands[1]):
                buffers.add(target)
            if target in buffers:
                scalars.add(out)
        elif op < GUARD_TRUE and any(
            active[op] >> j & 1 and element_varies(operands[j]) for j in range(arity[op])
        ):
            scalars.add(out)
    return scalars, buffers


def pull_back(stretch: Stretch, seeds: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Cotangents of a stretch's inputs.

    Parameters
    ----------
    seeds
        (output tracer, its cotangent) pairs.

    Returns
    -------
    list
        A traced value (or a constant zero) of each input's shape.
    """
    rec, rows = stretch.rec, stretch.rows()
    walk = _Walk(stretch)
    adjoints = _Adjoints(walk)
    scalars, buffers = _varied(stretch, rows, rec.calls)
    for output, seed in seeds:
        if isinstance(output, Tracer) and output.rec is rec:
            adjoints.add(output.view, seed)
    for op, out, *operands in reversed(rows):
        if op == CALL:
            _pull_call(walk, adjoints, rec.calls[out], scalars, buffers)
        elif op == WRITE:
            _pull_write(walk, adjoints, out, *operands[:2])
        elif op < GUARD_TRUE:
            _pull_scalar(walk, adjoints, op, out, operands, scalars, buffers)
    return [_gradient(rec, adjoints, value) for value in stretch.inputs]


def _gradient(rec: Recorder, adjoints: _Adjoints, value: Tracer) -> Any:
    g = adjoints.take(value.view)
    if g is None:
        return np.zeros(value.shape) if value.shape else 0.0
    return g


def _pull_scalar(
    walk: _Walk, adjoints: _Adjoints, op: int, out: int, operands: list, scalars: set, buffers: set
) -> None:
    g = adjoints.scalars.pop(out, None)
    if g is None:
        return
    rule = _BY_CODE[op]
    if rule.pull is None:
        return
    values = [walk.scalar(element) for element in operands[: rule.arity]]
    for element, part in zip(operands, rule.pull(g, *values, walk.scalar(out)), strict=False):
        if part is not None and _matters(walk, element, scalars, buffers):
            adjoints.add_scalar(element, part)


def _matters(walk: _Walk, element: int, scalars: set, buffers: set) -> bool:
    if element < ARRAY:
        return element in scalars
    return walk.view_of_element(element).buffer in buffers


def _pull_write(walk: _Walk, adjoints: _Adjoints, save: int, target: int, source: int) -> None:
    """Undo a scalar write: values and cotangents."""
    view = walk.view_of_element(target)
    g = adjoints.take(view)
    saved = adjoints.scalars.pop(save, None)
    if g is not None:
        adjoints.add_scalar(source, g)
        adjoints.clear(view)
    if saved is not None:
        adjoints.add(view, saved)
    flat = walk.flat(view.buffer)
    flat[view.offset] = walk.scalar(save)


def _pull_call(walk: _Walk, adjoints: _Adjoints, call: Call, scalars: set, buffers: set) -> None:
    if call.op in ("write", "scatter_write"):
        _pull_region(walk, adjoints, call)
        return
    g = adjoints.take(call.result)
    if g is None:
        return
    wanted = [
        v.offset in scalars if v.buffer == SCALAR else v.buffer in buffers for v in call.operands
    ]
    if not any(wanted):
        return
    values = [walk.array(view) for view in call.operands]
    result = walk.array(call.result)
    if call.op not in OPS:
        STRUCTURAL[call.op].refuse_closed_over(wanted)
    if call.op in OPS:
        pull = OPS[call.op].pull
        parts = pull(g, *values, result) if pull is not None else ()
    else:
        rule = STRUCTURAL[call.op].vjp
        parts = rule(g, result, values, call.params) if rule is not None else ()
    for view, part, is_wanted in zip(call.operands, parts, wanted, strict=False):
        if part is not None and is_wanted:
            adjoints.add(view, part)


def _pull_region(walk: _Walk, adjoints: _Adjoints, call: Call) -> None:
    """Undo an array write: values and cotangents."""
    source, target = call.operands[0], call.operands[-1]
    index = _written_positions(walk, call) if call.op == "scatter_write" else None
    g = adjoints.take(target)
    saved = adjoints.take(call.result)
    if g is not None:
        if index is None:
            adjoints.add(source, copied(g) if g.ndim else g)
            adjoints.clear(target)
        else:
            _pull_scattered(adjoints, source, target, g, index)
    if saved is not None:
        if index is None:
            adjoints.add(target, saved)
        else:
            flat = adjoints._owned(target.buffer, walk.rec.buffers[target.buffer].size)
            np.add.at(flat, np.reshape(index, -1), np.reshape(saved, -1))
    flat = walk.flat(target.buffer)
    old = walk.array(call.result)
    if index is None:
        _window(flat, target)[...] = old
    else:
        flat[index] = old


def _written_positions(walk: _Walk, call: Call) -> Any:
    """Flat positions of an indexed write: an integer array, or a traced single position."""
    index = walk.array(call.operands[1])
    if not isinstance(index, Tracer):
        return np.asarray(index).astype(np.int64)
    if index.size != 1:
        raise UnsupportedError(
            f"{where_am_i()}: derivatives inside of a recording (grad of grad, hessian, hvp) "
            f"through a write to {index.size} traced positions at once; write them one by one in "
            "a loop"
        )
    return index


def _pull_scattered(adjoints: _Adjoints, source: View, target: View, g: Any, index: Any) -> None:
    """Cotangents through ``target[index] = source``: the last write to an element counts."""
    if isinstance(index, Tracer):
        adjoints.add(source, copied(g[index]) if index.ndim else g[index])
    else:
        flat = index.reshape(-1)
        last = np.zeros(target.size, int)
        last[flat] = np.arange(flat.size)
        keep = (last[flat] == np.arange(flat.size)).reshape(index.shape)
        adjoints.add(source, np.where(keep, g[index], 0.0))
    owned = adjoints._owned(target.buffer, target.size)
    owned[index] = 0.0


# --- forward --------------------------------------------------------------------------------------


def push_forward(stretch: Stretch, tangents: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Tangents of outputs, from tangents of a stretch's inputs."""
    rec, rows = stretch.rec, stretch.rows()
    if any(op == WRITE or (op == CALL and "write" in rec.calls[out].op) for op, out, *_ in rows):
        return _push_by_pulling(stretch, tangents, outputs)
    walk = _Walk(stretch)
    moving = _Adjoints(walk)
    for value, tangent in zip(stretch.inputs, tangents, strict=True):
        moving.add(value.view, tangent)
    for op, out, *operands in rows:
        if op == CALL:
            _push_call(walk, moving, rec.calls[out])
        elif op < GUARD_TRUE:
            _push_scalar(walk, moving, op, out, operands)
    return [_tangent_of(moving, output) for output in outputs]


def _tangent_of(moving: _Adjoints, output: Any) -> Any:
    if isinstance(output, Tracer) and output.rec is moving.walk.rec:
        t = _peek(moving, output.view)
        if t is not None:
            return t
    return np.zeros(np.shape(getattr(output, "value", output)))[()]


def _peek(moving: _Adjoints, view: View) -> Any:
    if view.buffer == SCALAR:
        t = moving.scalars.get(view.offset)
        if t is not None and view.shape:
            from ..recording.functions import broadcast_to

            return broadcast_to(_traced(moving.walk.rec, t), view.shape)
        return t
    return moving.take(view)


def _push_scalar(walk: _Walk, moving: _Adjoints, op: int, out: int, operands: list) -> None:
    rule = _BY_CODE[op]
    if rule.pull is None:
        return
    arity = rule.arity
    tangents = [_peek(moving, _element_view(walk, element)) for element in operands[:arity]]
    if all(t is None for t in tangents):
        return
    values = [walk.scalar(element) for element in operands[:arity]]
    total = _pushed(rule, tangents, values, walk.scalar(out))
    if total is not None:
        moving.scalars[out] = total


def _element_view(walk: _Walk, element: int) -> View:
    return View(SCALAR, element, (), ()) if element < ARRAY else walk.view_of_element(element)


def _pushed(rule: Any, tangents: list, values: list, result: Any) -> Any:
    """Sum over operands of what each one's tangent contributes."""
    total = None
    for i, tangent in enumerate(tangents):
        if tangent is None:
            continue
        part = rule.pull(tangent, *values, result)[i]
        if part is not None:
            total = part if total is None else total + part
    return total


def _push_call(walk: _Walk, moving: _Adjoints, call: Call) -> None:
    tangents = [_peek(moving, view) for view in call.operands]
    if all(t is None for t in tangents):
        return
    values = [walk.array(view) for view in call.operands]
    result = walk.array(call.result)
    if call.op in OPS:
        rule = OPS[call.op]
        total = _pushed(rule, tangents, values, result) if rule.pull is not None else None
    else:
        STRUCTURAL[call.op].refuse_closed_over([t is not None for t in tangents])
        jvp = STRUCTURAL[call.op].jvp
        total = jvp(tangents, result, values, call.params) if jvp is not None else None
    if total is not None:
        moving.add(call.result, total)


def _push_by_pulling(stretch: Stretch, tangents: Sequence[Any], outputs: Sequence[Any]) -> list:
    """Forward through in-place writes: the transpose of the transpose.

    The pullback is linear in its seeds, so the pullback of the pullback, at any seeds, pushes
    forward; it needs no values from before a write was undone.
    """
    rec = stretch.rec
    probes = [_fresh(rec, np.zeros(np.shape(getattr(o, "value", o)))) for o in outputs]

    def pullback(*seeds: Any) -> list:
        return pull_back(stretch, list(zip(outputs, seeds, strict=True)))

    inner = Stretch(rec, pullback, probes)
    inner_outputs = [
        value if isinstance(value, Tracer) else _fresh(rec, value) for value in inner.result
    ]
    pairs = list(zip(inner_outputs, tangents, strict=True))
    return pull_back(inner, pairs)
