"""Values of staged loops and branches while they are recorded: by their compiled programs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import as_argument
from ..interpreters import layout
from ..interpreters.entry import BIND, DELIVER, OBJECT, RUN_FORWARD
from ..program import Program, program_for
from ..recording.recorder import Recorder, sampling, where_am_i
from ..stops import raise_stopped
from ..tape import SCALAR, Leaf, Tape, View, row_major, size_of

__all__ = ["evaluate"]


def evaluate(op: str, operands: Sequence[Any], params: tuple, size: int) -> np.ndarray:
    """The flat result of ``loop`` or ``loop_vjp`` at concrete operands.

    A rule that is recorded at sample values gets ones: its loops need not end there.
    """
    if sampling():
        return np.ones(size)
    shapes = tuple(np.shape(operand) for operand in operands)
    program = _program(op, shapes, params, size, _settings())
    workspace = program.checkout()
    values = [as_argument(operand) for operand in operands]
    for record, value in zip(workspace.parameters, values, strict=True):
        record[OBJECT] = id(value)
    workspace.prepare(program.code.values, "values")
    result = np.empty(size)
    workspace.results[0, OBJECT] = id(result)
    status = workspace.run(BIND | RUN_FORWARD | DELIVER)
    if status != layout.DONE:
        raise_stopped(workspace, status, where=where_am_i())
    program.give_back(workspace)
    return result


def _settings() -> Any:
    from ..config import settings

    return settings.plain_python, settings.tile_from


@functools.lru_cache(maxsize=256)
def _program(op: str, shapes: tuple, params: tuple, size: int, settings: Any) -> Program:
    """The program of one operation; the last ones used are kept."""
    return program_for(_tape_of(op, shapes, params, size))


def _tape_of(op: str, shapes: tuple, params: tuple, size: int) -> Tape:
    rec = Recorder(op)
    views = []
    for i, shape in enumerate(shapes):
        if shape == ():
            view = View(SCALAR, rec.scalar(), (), ())
        else:
            view = View(rec.buffer(size_of(shape), i), 0, shape, row_major(shape))
        views.append(view)
        rec.inputs.append(Leaf(view, "<f8"))
    result = View(rec.buffer(size), 0, (size,), (1,))
    rec.call(op, tuple(views), result, params)
    return rec.tape([Leaf(result, "<f8")])
