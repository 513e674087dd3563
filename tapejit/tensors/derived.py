"""Gradients that are recorded themselves: ``create_graph=True``.

The extracted tape is differentiated into a tape of its cotangents (:mod:`tapejit.derive`).  That
runs once, compiled, for the values; its rows are appended, renumbered in bulk, to a new piece, on
whose leaves and data the results depend like on those of any other graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compiled import as_argument
from ..derive.tapes import pullback
from ..interpreters import layout
from ..interpreters.entry import BIND, OBJECT, RUN_FORWARD
from ..interpreters.layout import CALL
from ..program import program_for
from ..recording.tracer import Cell
from ..results import allocate, deliver, delivered
from ..stops import raise_stopped
from ..tape import ARRAY, SCALAR, Call, Tape, View, row_major, size_of
from .enter import Tensor
from .grad_mode import local
from .pieces import NOWHERE, Piece, Source, numbered
from .plans import GRAPH, Plan

__all__ = ["recorded_gradients"]


def recorded_gradients(
    plan: Plan, pieces: Sequence[Piece], cuts: Sequence[tuple[int, Any]],
    cut_values: Sequence[Any], seeds: Sequence[Any],
) -> list[Any]:  # fmt: skip
    """Cotangents of a plan's inputs ``wrt``, as tensors with a graph.

    Parameters
    ----------
    cuts, cut_values
        Piece and place of the values that are inputs however they were computed; the values.
    seeds
        The cotangent of each output: arrays, numbers, or tensors.
    """
    tape = _derivative(plan)
    found = _values(plan, tape, pieces, cut_values, seeds)
    linked = [pieces[i] for i, _ in cuts]
    linked += [seed.rec for seed in seeds if isinstance(seed, Tensor) and seed.rec.level == -1]
    reads = frozenset(linked).union(*(piece.reads for piece in linked))
    target = Piece(local.state, reads)
    paste = _Paste(target, tape)
    paste.bind(plan, pieces, cuts, seeds)
    paste.rows()
    return [paste.result(leaf.view, value) for leaf, value in zip(tape.outputs, found, strict=True)]


def _derivative(plan: Plan) -> Tape:
    """The tape of a plan's cotangents, made once."""
    if plan.derivative is None:
        plan.derivative = pullback(plan.extract.tape, plan.wrt)
    return plan.derivative


def _values(
    plan: Plan, tape: Tape, pieces: Sequence[Piece], cut_values: Sequence[Any],
    seeds: Sequence[Any],
) -> list[Any]:  # fmt: skip
    """The outputs of the derivative tape."""
    program = plan.derivative_program
    if program is None:
        program = plan.derivative_program = program_for(tape)
    given = [seed.value if isinstance(seed, Tensor) else seed for seed in seeds]
    values = [*plan.arguments(pieces, cut_values), *map(as_argument, given)]
    workspace = program.checkout()
    for record, value in zip(workspace.parameters, values, strict=True):
        record[OBJECT] = id(value)
    slots = program.code.values
    workspace.prepare(slots, "values")
    arrays = allocate(slots)
    status = deliver(workspace, arrays, BIND | RUN_FORWARD)
    if status != layout.DONE:
        raise_stopped(workspace, status, GRAPH)
    results = delivered(workspace, arrays)
    program.give_back(workspace)
    return results


class _Paste:
    """A tape appended to a piece."""

    def __init__(self, piece: Piece, tape: Tape) -> None:
        self.piece = piece
        self.tape = tape
        #: New element of each scalar; new buffer, and shift of its elements, of each buffer.
        self.places = np.arange(tape.n_scalars, dtype=np.int64)
        self.numbers = np.full(len(tape.buffers), -1, np.int64)

    # --- inputs -----------------------------------------------------------------------------------

    def bind(
        self, plan: Plan, pieces: Sequence[Piece], cuts: Sequence[tuple[int, Any]],
        seeds: Sequence[Any],
    ) -> None:  # fmt: skip
        """Enter what the tape's inputs stand for: first those of the plan, then the seeds."""
        inputs = iter(self.tape.inputs)
        for (i, k), leaf in zip(plan.extract.inputs, inputs, strict=False):
            if i >= 0:
                self._define(leaf.view, self._entered(pieces[i].sources[k]))
            elif k >= 0:
                number, (place, _) = cuts[k]
                self._define(leaf.view, self._linked(pieces[number], place, leaf.view))
            else:
                self._define(leaf.view, self._data(plan.constants(pieces)))
        rest = self.tape.inputs[len(plan.extract.inputs) :]
        for leaf, seed in zip(rest, seeds, strict=True):
            self._define(leaf.view, self._seed(seed))

    def _define(self, view: View, place: int) -> None:
        """``place``: an element, or -1 minus a buffer."""
        if view.buffer == SCALAR:
            self.places[view.offset] = place
        else:
            self.numbers[view.buffer] = -1 - place

    def _entered(self, source: Source) -> int:
        """A leaf or data of another piece, in this one."""
        piece = self.piece
        key = id(source.leaf) if source.leaf is not None else id(source.value)
        at = piece._known.get(key)
        if at is None:
            at = piece._known[key] = len(piece.sources)
            copy = Source(source.kind, 0, source.value, source.leaf, source.memory)
            copy.version = source.version
            self._add(copy, source.value)
        _, number, shape = piece.kinds[at]
        return number if shape is None else -1 - number

    def _data(self, value: Any) -> int:
        return self._add(Source("data", 0, value), value)

    def _add(self, source: Source, value: Any) -> int:
        """A new input that holds ``value``."""
        shape = np.shape(value)
        if shape == ():
            return self.piece._input_scalar(source)
        return -1 - self.piece._input_array(source, shape, size_of(shape))

    def _linked(self, other: Piece, place: int, view: View) -> int:
        """A value of another piece, as an input of this one."""
        piece = self.piece
        key = (other.number, place)
        known = piece._known.get(key)
        if known is None:
            source = piece._link(other, place)
            if place >= 0:
                known = piece._input_scalar(source)
            else:
                known = piece._input_array(source, view.shape, view.size)
            piece._known[key] = known
        return known if place >= 0 else -1 - known

    def _seed(self, seed: Any) -> int:
        if not isinstance(seed, Tensor):
            return self._data(as_argument(seed))
        if seed.rec is NOWHERE:
            return self._data(np.array(seed.value) if seed.ndim else seed.value)
        if seed.ndim and seed.value is not seed.cell.storage:
            seed = seed.copy()
        local = self.piece.local(seed)
        return -1 - local.cell.buffer if seed.ndim else local.element

    # --- rows -------------------------------------------------------------------------------------

    def rows(self) -> None:
        """Append the rows, renumbered."""
        piece, tape = self.piece, self.tape
        self._number()
        code = tape.code.astype(np.int64)
        is_call = code[:, 0] == CALL
        elements = code[~is_call, 1:]
        code[~is_call, 1:] = self._moved_elements(elements)
        entries = [self._call(call) for call in tape.calls]
        at = len(piece.calls)
        indices = code[is_call, 1]
        code[is_call, 1] = indices + at
        code[is_call, 2] = np.array([number for number, _ in entries], np.int64)[indices]
        piece.calls.extend([call for _, call in entries])
        piece.code.extend(code.reshape(-1).tolist())
        codes, offsets = tape.locations
        piece.codes.extend(codes)
        piece.offsets.extend(offsets)

    def _number(self) -> None:
        """Numbers for what the tape defines itself: scalars, constants, buffers."""
        piece, tape = self.piece, self.tape
        defined = np.ones(tape.n_scalars, bool)
        for leaf in tape.inputs:
            if leaf.view.buffer == SCALAR:
                defined[leaf.view.offset] = False
        ids, values = tape.scalar_constants
        for number, value in zip(ids.tolist(), values.tolist(), strict=True):
            self.places[number] = piece.constant(value)
            defined[number] = False
        n = int(defined.sum())
        self.places[defined] = np.arange(piece.n_scalars, piece.n_scalars + n)
        piece.n_scalars += n
        for number, buffer in enumerate(tape.buffers):
            if self.numbers[number] >= 0:
                continue
            if buffer.constant >= 0:
                constant = np.array(tape.array_constants[buffer.constant])
                self.numbers[number] = -1 - self._data(constant.reshape(-1))
            else:
                self.numbers[number] = piece.buffer(buffer.size)

    def _moved_elements(self, elements: np.ndarray) -> np.ndarray:
        """Elements of scalar rows, in the piece."""
        moved = elements.copy()
        below = elements < ARRAY
        moved[below] = self.places[elements[below]] if len(self.places) else 0
        above = elements[~below] - ARRAY
        if len(above):
            old = self.tape.buffer_of(above)
            bases = np.array([buffer.base for buffer in self.tape.buffers], np.int64)
            new = np.array([self.piece.buffers[n].base for n in self.numbers.tolist()], np.int64)
            moved[~below] = above - bases[old] + new[old] + ARRAY
        return moved

    def _moved(self, view: View) -> View:
        if view.buffer != SCALAR:
            return view._replace(buffer=int(self.numbers[view.buffer]))
        element = int(self.places[view.offset])
        if element < ARRAY:
            return view._replace(offset=element)
        place = self.piece.place_of(element)
        return View(place.buffer, place.offset, view.shape, (0,) * len(view.shape))

    def _call(self, call: Call) -> tuple[int, Call]:
        operands = tuple([self._moved(view) for view in call.operands])
        moved = Call(call.op, operands, self._moved(call.result), call.params)
        return numbered(tuple(moved), moved)

    # --- results ----------------------------------------------------------------------------------

    def result(self, view: View, value: Any) -> Any:
        """The tensor of an output."""
        piece = self.piece
        moved = self._moved(view)
        if view.shape == ():
            tensor = piece.scalar_type()
            tensor.rec, tensor.value, tensor.version = piece, np.float64(value), piece.writes
            tensor.element = piece.element(moved)
            return tensor
        value = np.ascontiguousarray(value)
        if view.buffer == SCALAR or not self._is_own(view):
            number = piece.buffer(value.size)
            fresh = View(number, 0, value.shape, row_major(value.shape))
            piece.call("copy", (moved,), fresh)
            moved = fresh
        return piece.array_type(piece, value, Cell(moved.buffer, value, False, piece))

    def _is_own(self, view: View) -> bool:
        """Whether an output has a buffer for itself."""
        buffer = self.tape.buffers[view.buffer]
        whole = View(view.buffer, 0, view.shape, row_major(view.shape))
        alone = sum(leaf.view.buffer == view.buffer for leaf in self.tape.outputs) == 1
        own = buffer.argument < 0 and buffer.constant < 0
        return own and alone and view == whole and view.size == buffer.size
