"""A tape as text, and as nodes to draw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .draw import Node
from .interpreters.layout import CALL, GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from .ops.table import OPS
from .tape import ARRAY, SCALAR, Tape, View

__all__ = ["graph_nodes", "listing"]

_NAMES = {op.code: op.name for op in OPS.values()}
_GUARDS = {GUARD_TRUE: "guard true", GUARD_FALSE: "guard false", GUARD_EQUAL: "guard ="}
LONGEST = 200


class _Row(NamedTuple):
    """One instruction, decoded."""

    index: int
    op: str
    operands: list[View]
    result: View | None
    params: tuple


def rows(tape: Tape) -> Iterator[_Row]:
    """The tape's instructions, decoded."""
    for index, (op, out, *operands) in enumerate(tape.code.tolist()):
        if op == CALL:
            call = tape.calls[out]
            yield _Row(index, call.op, list(call.operands), call.result, call.params)
        elif op == WRITE:
            views = [tape.element(element) for element in operands[:2]]
            yield _Row(index, "write", views[::-1], tape.element(out), ())
        elif op in _GUARDS:
            n = 2 if op == GUARD_EQUAL else 1
            yield _Row(index, _GUARDS[op], [tape.element(e) for e in operands[:n]], None, ())
        else:
            arity = OPS[_NAMES[op]].arity
            views = [tape.element(element) for element in operands[:arity]]
            yield _Row(index, _NAMES[op], views, tape.element(out), ())


class _Namer:
    """Names of values: x for inputs, v for results, constants by value."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.scalars = {}
        self.buffers = {}
        ids, values = tape.scalar_constants
        for number, value in zip(ids.tolist(), values.tolist(), strict=True):
            self.scalars[number] = f"{value:.6g}"
        for i, leaf in enumerate(tape.inputs):
            name = f"x{i}" if len(tape.inputs) > 1 else "x"
            if leaf.view.buffer == SCALAR:
                self.scalars[leaf.view.offset] = name
            else:
                self.buffers[leaf.view.buffer] = name
        for number, buffer in enumerate(tape.buffers):
            if buffer.constant >= 0:
                self.buffers[number] = f"c{buffer.constant}"

    def result(self, view: View, index: int) -> str:
        """Name a result after its instruction."""
        table = self.scalars if view.buffer == SCALAR else self.buffers
        key = view.offset if view.buffer == SCALAR else view.buffer
        return table.setdefault(key, f"v{index}")

    def name(self, view: View) -> str:
        """An operand: a value, or a part of one."""
        if view.buffer == SCALAR:
            return self.scalars.get(view.offset, f"s{view.offset}")
        base = self.buffers.get(view.buffer, f"b{view.buffer}")
        size = self.tape.buffers[view.buffer].size
        if view.size == size and view.offset == 0:
            return base
        if view.shape == ():
            return f"{base}[{view.offset}]"
        return f"{base}[{view.offset}:]"


def _shape(view: View) -> str:
    return "x".join(map(str, view.shape)) if view.shape else "scalar"


def listing(tape: Tape, longest: int = LONGEST) -> str:
    """The tape as a table of instructions; long tapes show their head and tail.

    Parameters
    ----------
    longest
        How many instructions are shown at the most.
    """
    namer = _Namer(tape)
    lines = [f"Tape of {tape.name}: {len(tape)} instructions"]
    for i, leaf in enumerate(tape.inputs):
        lines.append(f"  input  {namer.name(leaf.view):8s} {_shape(leaf.view)}")
        del i
    skipped_from = longest // 2 if len(tape) > longest else len(tape)
    skipped_to = len(tape) - longest // 2 if len(tape) > longest else len(tape)
    for row in rows(tape):
        name = namer.result(row.result, row.index) if row.result is not None else ""
        if skipped_from <= row.index < skipped_to:
            if row.index == skipped_from:
                lines.append(f"  ... {skipped_to - skipped_from} instructions ...")
            continue
        operands = ", ".join(namer.name(view) for view in row.operands)
        params = f" {row.params}" if row.params else ""
        file, line = tape.line(row.index)
        shape = _shape(row.result) if row.result is not None else ""
        text = f"{name} = {row.op}({operands}){params}" if name else f"{row.op}({operands})"
        lines.append(f"  {row.index:6d} {text:48s} {shape:12s} {Path(file).name}:{line}")
    outputs = ", ".join(namer.name(leaf.view) for leaf in tape.outputs)
    lines.append(f"  output {outputs}")
    return "\n".join(lines)


def graph_nodes(tape: Tape) -> list[Node]:
    """The tape's computational graph, for :mod:`tapejit.draw`."""
    nodes: list[Node] = []
    made: dict[tuple[int, int], int] = {}
    namer = _Namer(tape)
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
            label = namer.name(view._replace(offset=0) if view.buffer != SCALAR else view)
            size = 1 if view.buffer == SCALAR else tape.buffers[view.buffer].size
            shape = view.shape if view.size == size else (size,)
            made[key(view)] = known = len(nodes)
            nodes.append(Node(known, label.split("[")[0], kind, shape, [], None))
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
        nodes.append(Node(number, row.op, "op", row.result.shape, parents, place))
        made[key(row.result)] = number
        if row.op in ("write", "scatter_write"):
            made[key(row.operands[-1])] = number
    for i, leaf in enumerate(tape.outputs):
        name = "y" if len(tape.outputs) == 1 else f"y{i}"
        parents = [source(leaf.view)]
        nodes.append(Node(len(nodes), name, "output", leaf.view.shape, parents, None))
    return nodes
