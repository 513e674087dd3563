"""A tape with a disturbance added to each of its results: what :mod:`tapejit.explain` sweeps over.

The adjoint of a node is the derivative of the output with respect to a disturbance of that node.
So each result gets one, ``v' = v + d``, with the disturbances as further inputs; every later row
uses ``v'``.  The usual sweeps then deliver the adjoint of each node as a gradient, and its value
and tangent as an output: an array's ``v`` itself, which no later in-place write can reach, since
writes go to ``v'``.  What is written in place is disturbed before it is written.

The neutral disturbance is -0.0: unlike 0.0 it leaves a negative zero as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .interpreters.layout import CALL, GUARD_TRUE, WRITE
from .ops.table import OPS
from .tape import ALIGNMENT, ARRAY, SCALAR, Buffer, Call, Leaf, Tape, View, row_major

__all__ = ["NEUTRAL", "Disturbed", "Node", "disturb"]

NEUTRAL = -0.0
_ADD = OPS["add"].code
_FLOAT = np.dtype(np.float64).str


class Node(NamedTuple):
    """A result of the original tape.

    Attributes
    ----------
    row
        Its instruction in the original tape.
    view
        Where its value stands in the disturbed tape, never overwritten.
    argument, offset
        Its disturbance: an input of the disturbed tape, and for a scalar the element of it.
    """

    row: int
    view: View
    argument: int
    offset: int | None


class Disturbed(NamedTuple):
    """A tape whose inputs are those of the original, then the disturbances of its nodes.

    Attributes
    ----------
    tape
        The disturbed tape, with the original's outputs.
    nodes
        What is disturbed, in the order of the sweep.
    disturbances
        Neutral values of the additional inputs.
    rows
        For each instruction of the disturbed tape that of the original.
    """

    tape: Tape
    nodes: list[Node]
    disturbances: list[np.ndarray]
    rows: list[int]

    def with_nodes_as_outputs(self) -> Tape:
        """The disturbed tape, with the value of every node as its outputs."""
        leaves = tuple(Leaf(node.view, _FLOAT) for node in self.nodes)
        return dataclasses.replace(self.tape, outputs=leaves)


def disturb(tape: Tape) -> Disturbed:
    """Add a disturbance to each result of a tape, and to whatever it writes in place."""
    return _Builder(tape).build()


class _Builder:
    """The disturbed tape in the making.

    Results have twins: element for element the same, with the disturbance added.  Which element or
    buffer is whose twin is known before the first row is rewritten, since each is made only once.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.n_scalars = tape.n_scalars
        self.n_elements = tape.n_array_elements
        self.buffers = list(tape.buffers)
        self.inputs = list(tape.inputs)
        self.disturbances: list[np.ndarray] = []
        self.scalar_twins = np.arange(tape.n_scalars)
        self.buffer_twins = np.arange(len(tape.buffers))
        self.code: list[tuple[int, int, int, int, int]] = []
        self.calls: list[Call] = []
        self.rows: list[int] = []
        self.nodes: list[Node] = []
        self.n_disturbed_scalars = 0

    def build(self) -> Disturbed:
        """Go over the tape's rows once."""
        self._make_twins()
        n = sum(1 for _ in self._scalar_results())
        # The scalars' disturbances are one array: a long scalar tape gets one more input.
        self.scalar_disturbances = self._input((n,)) if n else None
        operands = self._moved_operands()
        for row, (op, out, *_) in enumerate(self.tape.code.tolist()):
            self.row = row
            if op == CALL:
                self._call(self.tape.calls[out])
            elif op == WRITE:
                a, b, c = operands[row]
                self._emit(WRITE, out, a, self._disturb_scalar(b), c)
            else:
                self._emit(op, out, *operands[row])
                if op < GUARD_TRUE:
                    self._disturb_scalar(out, int(self.scalar_twins[out]))
        return Disturbed(self._tape(), self.nodes, self.disturbances, self.rows)

    # --- twins ----------------------------------------------------------------------------------

    def _scalar_results(self) -> Iterator[int | None]:
        """The element of each disturbed scalar; ``None`` for one written in place."""
        for op, out, *_ in self.tape.code.tolist():
            if op == CALL:
                call = self.tape.calls[out]
                if call.op in ("write", "scatter_write"):
                    if call.operands[0].shape == ():
                        yield None
                elif call.result.buffer == SCALAR:
                    yield call.result.offset
            elif op == WRITE:
                yield None
            elif op < GUARD_TRUE:
                yield out

    def _make_twins(self) -> None:
        for element in self._scalar_results():
            if element is not None:
                self.scalar_twins[element] = self._scalar()
        for call in self.tape.calls:
            if call.op not in ("write", "scatter_write") and call.result.buffer != SCALAR:
                size = self.tape.buffers[call.result.buffer].size
                self.buffer_twins[call.result.buffer] = self._buffer(size)

    def _scalar(self) -> int:
        self.n_scalars += 1
        return self.n_scalars - 1

    def _buffer(self, size: int, argument: int = -1) -> int:
        self.buffers.append(Buffer(self.n_elements, size, argument))
        self.n_elements += -(-size // ALIGNMENT) * ALIGNMENT
        return len(self.buffers) - 1

    def _input(self, shape: tuple[int, ...]) -> View:
        """A new input, neutral by itself."""
        disturbance = np.full(shape, NEUTRAL)
        view = View(self._buffer(disturbance.size, len(self.inputs)), 0, shape, row_major(shape))
        self.inputs.append(Leaf(view, _FLOAT))
        self.disturbances.append(disturbance)
        return view

    def _moved_operands(self) -> list[list[int]]:
        """Operands of all rows, with twins in the place of what has one."""
        operands = self.tape.code[:, 2:].astype(np.int64)
        in_array = operands >= ARRAY
        if in_array.any():
            elements = operands[in_array] - ARRAY
            buffers = self.tape.buffer_of(elements)
            bases = np.array([buffer.base for buffer in self.buffers])
            moved = elements - bases[buffers] + bases[self.buffer_twins[buffers]]
            operands[in_array] = ARRAY + moved
        if len(self.scalar_twins):
            operands[~in_array] = self.scalar_twins[operands[~in_array]]
        return operands.tolist()

    def _moved(self, view: View) -> View:
        """A view of a result, moved to its twin."""
        if view.buffer == SCALAR:
            return view._replace(offset=int(self.scalar_twins[view.offset]))
        return view._replace(buffer=int(self.buffer_twins[view.buffer]))

    # --- rows -----------------------------------------------------------------------------------

    def _emit(self, op: int, out: int, a: int = 0, b: int = 0, c: int = 0) -> None:
        self.code.append((op, out, a, b, c))
        self.rows.append(self.row)

    def _emit_call(self, op: str, operands: tuple, result: View, params: tuple = ()) -> None:
        self._emit(CALL, len(self.calls))
        self.calls.append(Call(op, operands, result, params))

    def _element(self, view: View) -> int:
        """The address of a 0-d view."""
        if view.buffer == SCALAR:
            return view.offset
        return ARRAY + self.buffers[view.buffer].base + view.offset

    def _disturb_scalar(self, element: int, twin: int | None = None) -> int:
        """Add the next scalar disturbance to an element; returns where the sum stands."""
        twin = self._scalar() if twin is None else twin
        offset = self.n_disturbed_scalars
        self.n_disturbed_scalars += 1
        source = self.scalar_disturbances
        moves = source._replace(offset=offset, shape=(), strides=())
        self._emit(_ADD, twin, element, self._element(moves))
        argument = self.buffers[source.buffer].argument
        self.nodes.append(Node(self.row, View(SCALAR, twin, (), ()), argument, offset))
        return twin

    def _disturb_array(self, view: View, twin: int) -> View:
        """Add a disturbance to an array; returns where the sum stands."""
        source = self._input(view.shape)
        result = View(twin, 0, view.shape, row_major(view.shape))
        self._emit_call("add", (view, source), result)
        self.nodes.append(Node(self.row, view, self.buffers[source.buffer].argument, None))
        return result

    def _call(self, call: Call) -> None:
        operands = tuple(self._moved(view) for view in call.operands)
        if call.op in ("write", "scatter_write"):
            source = self._disturb_source(operands[0])
            self._emit_call(call.op, (source, *operands[1:]), call.result, call.params)
            return
        self._emit_call(call.op, operands, call.result, call.params)
        if call.result.buffer == SCALAR:
            twin = int(self.scalar_twins[call.result.offset])
            self._disturb_scalar(call.result.offset, twin)
        else:
            self._disturb_array(call.result, int(self.buffer_twins[call.result.buffer]))

    def _disturb_source(self, source: View) -> View:
        """What is about to be written in place, disturbed; its sum is read by nothing else."""
        if source.shape == ():
            return View(SCALAR, self._disturb_scalar(self._element(source)), (), ())
        result = self._disturb_array(source, self._buffer(source.size))
        self.nodes[-1] = self.nodes[-1]._replace(view=result)
        return result

    def _tape(self) -> Tape:
        tape = self.tape
        rows = np.array(self.rows, np.int64)
        return dataclasses.replace(
            tape,
            code=np.array(self.code, np.int32).reshape(-1, 5),
            calls=tuple(self.calls),
            buffers=tuple(self.buffers),
            n_scalars=self.n_scalars,
            n_array_elements=self.n_elements,
            inputs=tuple(self.inputs),
            outputs=tuple(leaf._replace(view=self._moved(leaf.view)) for leaf in tape.outputs),
            origins=rows if tape.origins is None else tape.origins[rows],
            call=None,
        )
