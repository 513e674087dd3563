"""Whether a tape is linear in some of its inputs, by the traits and rules of its operations."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from ..interpreters.generate import OPERANDS, pulls
from ..interpreters.layout import CALL, GUARD_TRUE, WRITE
from ..ops.structural import STRUCTURAL
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Tape, View

__all__ = ["nonlinear_row"]

_BY_CODE = {op.code: op.name for op in OPS.values()}


@functools.cache
def _elementwise_is_linear(name: str, moving: tuple[bool, ...]) -> bool:
    """Whether the partial derivatives along the moving operands depend on none of them."""
    names = {OPERANDS[i] for i, moves in enumerate(moving) if moves} | {"f"}
    parts = [pull for pull, moves in zip(pulls(OPS[name]), moving, strict=True) if moves]
    return all(part is not None and not part.uses & names for part in parts)


def _is_linear(op: str, moving: tuple[bool, ...]) -> bool:
    if op in OPS:
        return _elementwise_is_linear(op, moving)
    rule = STRUCTURAL[op]
    if rule.linear:
        return all(rule.is_active(i) for i, moves in enumerate(moving) if moves)
    return sum(moving) == 1 and moving.index(True) in rule.linear_in


def nonlinear_row(tape: Tape, inputs: Iterable[int]) -> int | None:
    """The first row whose result is not linear in the chosen inputs; None without one."""
    scalars: set[int] = set()
    buffers: set[int] = set()

    def moves(view: View) -> bool:
        return view.offset in scalars if view.buffer == SCALAR else view.buffer in buffers

    def mark(view: View) -> None:
        (scalars if view.buffer == SCALAR else buffers).add(
            view.offset if view.buffer == SCALAR else view.buffer
        )

    def place(element: int) -> View:
        return View(SCALAR, element, (), ()) if element < ARRAY else tape.element(element)

    for i in inputs:
        mark(tape.inputs[i].view)
    for row, (op, out, *elements) in enumerate(tape.code.tolist()):
        if op == CALL:
            call = tape.calls[out]
            operands, result, name = list(call.operands), call.result, call.op
        elif op == WRITE:
            operands, result, name = [place(elements[1]), place(elements[0])], place(out), "write"
        elif op < GUARD_TRUE:
            name = _BY_CODE[op]
            operands = [place(element) for element in elements[: OPS[name].arity]]
            result = place(out)
        else:
            continue
        moving = tuple(moves(view) for view in operands)
        if any(moving):
            if not _is_linear(name, moving):
                return row
            mark(result)
            if name in ("write", "scatter_write"):
                mark(operands[-1])
    return None
