"""A tape as text, and as nodes to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from .draw import Node
from .interpreters.layout import CALL, GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from .ops.table import OPS
from .tape import ARRAY, SCALAR, Tape, View, is_contiguous, row_major, size_of

__all__ = ["Namer", "Row", "graph_nodes", "listing", "rows"]

_NAMES = {op.code: op.name for op in OPS.values()}
_GUARDS = {GUARD_TRUE: "guard true", GUARD_FALSE: "guard false", GUARD_EQUAL: "guard equal"}
#: Instructions that a listing shows at the most.
LONGEST = 200
#: Elements of a captured array that are shown in the place of its number.
SHORT = 4


class Row(NamedTuple):
    """One instruction, decoded."""

    index: int
    op: str
    operands: list[View]
    result: View | None
    params: tuple


def rows(tape: Tape) -> Iterator[Row]:
    """The tape's instructions, decoded."""
    for index, (op, out, *operands) in enumerate(tape.code.tolist()):
        if op == CALL:
            call = tape.calls[out]
            yield Row(index, call.op, list(call.operands), call.result, call.params)
        elif op == WRITE:
            views = [tape.element(element) for element in operands[:2]]
            yield Row(index, "write", views[::-1], tape.element(out), ())
        elif op in _GUARDS:
            n = 2 if op == GUARD_EQUAL else 1
            yield Row(index, _GUARDS[op], [tape.element(e) for e in operands[:n]], None, ())
        else:
            arity = OPS[_NAMES[op]].arity
            views = [tape.element(element) for element in operands[:arity]]
            yield Row(index, _NAMES[op], views, tape.element(out), ())


class Namer:
    """Names of values: arguments by their names, v for results, constants by value."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.scalars = {}
        self.buffers = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        ids, values = tape.scalar_constants
        for number, value in zip(ids.tolist(), values.tolist(), strict=True):
            self.scalars[number] = f"{value:.6g}"
        for i, leaf in enumerate(tape.inputs):
            name = tape.input_names[i] if tape.input_names else f"x{i}"
            self._name(leaf.view, name)
        self.shapes.update(_squeezed(tape))
        for number, buffer in enumerate(tape.buffers):
            if buffer.constant >= 0:
                array = tape.array_constants[buffer.constant]
                self.buffers[number] = _constant(array, buffer.constant)
                self.shapes[number] = array.shape

    def _name(self, view: View, name: str) -> str:
        if view.buffer == SCALAR:
            return self.scalars.setdefault(view.offset, name)
        self.shapes.setdefault(view.buffer, view.shape)
        return self.buffers.setdefault(view.buffer, name)

    def shape(self, view: View) -> tuple[int, ...]:
        """The shape of a result as the user knows it."""
        return () if view.buffer == SCALAR else self.shapes.get(view.buffer, view.shape)

    def result(self, view: View, index: int) -> str:
        """Name a result after its instruction."""
        return self._name(view, f"v{index}")

    def name(self, view: View) -> str:
        """An operand: a value, or a part of one as NumPy would write it."""
        base = self.base(view)
        if view.buffer == SCALAR:
            return base
        shape = self.shapes.get(view.buffer, (self.tape.buffers[view.buffer].size,))
        return base + _subscript(view, shape)

    def base(self, view: View) -> str:
        """The value that a view is a part of."""
        if view.buffer == SCALAR:
            return self.scalars.get(view.offset, f"s{view.offset}")
        return self.buffers.get(view.buffer, f"b{view.buffer}")

    def operation(self, row: Row) -> str:
        """What an instruction computes from what."""
        operands = ", ".join(self.name(view) for view in row.operands)
        return f"{_plain(row.op)}({operands})"


def _plain(op: str) -> str:
    """An operation's name; without the hash that tells users' rules of one name apart."""
    return op.partition("#")[0]


def _squeezed(tape: Tape) -> dict[int, tuple[int, ...]]:
    """Shapes of results without axes of length one that the user does not know of.

    Products of vectors are recorded as products of matrices.  How their results are used shows
    what they are: without such an axis, or with it in another place.
    """
    results = {call.result.buffer: call.result.shape for call in tape.calls}
    results = {buffer: shape for buffer, shape in results.items() if 1 in shape}
    if not results:
        return {}
    found: dict[int, tuple[int, ...]] = {}
    views = [view for call in tape.calls for view in call.operands]
    for view in [*views, *(leaf.view for leaf in tape.outputs)]:
        whole = results.get(view.buffer, view.shape)
        kept = tuple(n for n in whole if n != 1)
        if view.shape != whole and kept == tuple(n for n in view.shape if n != 1):
            if len(view.shape) < len(whole):
                found[view.buffer] = view.shape
            else:
                found.setdefault(view.buffer, kept)
    elements = tape.code[tape.code[:, 0] < CALL, 2:]
    for buffer in tape.buffer_of(elements[elements >= ARRAY] - ARRAY).tolist():
        if size_of(results.get(buffer, (2,))) == 1:
            found.setdefault(buffer, ())
    return found


def _constant(array: np.ndarray, number: int) -> str:
    """A captured array: a very short one by its elements, others by number."""
    if array.ndim == 1 and 0 < array.size <= SHORT:
        return f"[{', '.join(f'{x:.6g}' for x in array.tolist())}]"
    return f"c{number}"


def _subscript(view: View, shape: tuple[int, ...]) -> str:
    """How NumPy would write a view of an array of this shape."""
    strides = row_major(shape)
    if view.size == size_of(shape) and view.offset == 0:
        if is_contiguous(view):  # the whole of it, perhaps in another shape
            return ""
        if view.shape == shape[::-1] and view.strides == strides[::-1]:
            return ".T"
    # Axes along which elements repeat (broadcasting) say nothing about which ones they are.
    left = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if s or n == 1]
    parts, rest = [], view.offset
    for n, stride in zip(shape, strides, strict=True):
        start, rest = divmod(rest, stride)
        if left and left[0][1] % stride == 0 and abs(left[0][1] // stride) * left[0][0] < 2 * n:
            parts.append(_slice(start, *left.pop(0), stride, n))
        else:
            parts.append(str(start))
    if left:
        return f"[{view.offset}...]"
    return f"[{', '.join(parts)}]"


def _slice(start: int, length: int, step: int, stride: int, n: int) -> str:
    """One axis of length ``n`` in a subscript."""
    step //= stride
    stop = start + step * length
    first = "" if start == (0 if step > 0 else n - 1) else str(start)
    last = "" if stop >= n or stop < 0 else str(stop)
    return f"{first}:{last}" + (f":{step}" if step != 1 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def listing(tape: Tape, longest: int = LONGEST) -> str:
    """The tape as a table of instructions; long tapes show their head and tail.

    Parameters
    ----------
    longest
        How many instructions are shown at the most.
    """
    namer = Namer(tape)
    lines = [f"Tape of {tape.name}: {len(tape)} instructions"]
    for i, leaf in enumerate(tape.inputs):
        lines.append(f"  input  {namer.name(leaf.view):8s} {_shape(leaf.view.shape)}")
        del i
    skipped_from = longest // 2 if len(tape) > longest else len(tape)
    skipped_to = len(tape) - longest // 2 if len(tape) > longest else len(tape)
    for row in rows(tape):
        name = namer.result(row.result, row.index) if row.result is not None else ""
        if skipped_from <= row.index < skipped_to:
            if row.index == skipped_from:
                lines.append(f"  ... {skipped_to - skipped_from} instructions ...")
            continue
        operation = namer.operation(row)
        params = f" {row.params}" if row.params else ""
        file, line = tape.line(row.index)
        shape = _shape(namer.shape(row.result)) if row.result is not None else ""
        text = f"{name} = {operation}{params}" if name else operation
        lines.append(f"  {row.index:6d} {text:48s} {shape:12s} {Path(file).name}:{line}")
    outputs = ", ".join(namer.name(leaf.view) for leaf in tape.outputs)
    lines.append(f"  output {outputs}")
    return "\n".join(lines)


def graph_nodes(tape: Tape, shown: Mapping[int | str, str] = MappingProxyType({})) -> list[Node]:
    """The tape's computational graph, for :mod:`tapejit.draw`.

    Parameters
    ----------
    shown
        What to write beside nodes: by instruction, and for an argument by its name.
    """
    nodes: list[Node] = []
    made: dict[tuple[int, int], int] = {}
    namer = Namer(tape)
    inputs = {leaf.view.offset if leaf.view.buffer == SCALAR else ARRAY + leaf.view.buffer
              for leaf in tape.inputs}  # fmt: skip

    def key(view: View) -> tuple[int, int]:
        return (view.buffer, view.offset if view.buffer == SCALAR else 0)

    def source(view: View) -> int:
        """The node of an operand; inputs, constants and elements of arrays appear when used."""
        known = made.get(key(view))
        if known is None:
            number = view.offset if view.buffer == SCALAR else ARRAY + view.buffer
            kind = "input" if number in inputs else "constant"
            label = namer.base(view)
            shape = () if view.buffer == SCALAR else namer.shapes[view.buffer]
            made[key(view)] = known = len(nodes)
            value = shown.get(label) if kind == "input" else None
            nodes.append(Node(known, label, kind, shape, [], None, value))
        return known

    for leaf in tape.inputs:
        source(leaf.view)
    for row in rows(tape):
        parents = [source(view) for view in row.operands]
        file, line = tape.line(row.index)
        if row.result is None:
            continue
        number = len(nodes)
        place = f"{Path(file).name}:{line}"
        shape = namer.shape(row.result)
        nodes.append(
            Node(number, _plain(row.op), "op", shape, parents, place, shown.get(row.index))
        )
        made[key(row.result)] = number
        if row.op in ("write", "scatter_write"):
            made[key(row.operands[-1])] = number
    for i, leaf in enumerate(tape.outputs):
        name = "result" if len(tape.outputs) == 1 else f"result {i}"
        parents = [source(leaf.view)]
        nodes.append(Node(len(nodes), name, "output", leaf.view.shape, parents, None))
    return nodes
