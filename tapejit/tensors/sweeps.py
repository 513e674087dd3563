"""What all sweeps over graphs share: where outputs stand, what was freed, new tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import TraceError
from ..recording.recorder import where_am_i
from ..tape import View
from .enter import Tensor, check_synced, new_data, new_scalar
from .grad_mode import enable_grad
from .memory import changed
from .pieces import Piece
from .plans import Plan

__all__ = ["added", "check_freed", "finish", "freed", "fresh", "located"]


def located(tensor: Any) -> tuple[Piece, View]:
    """Piece and place of an output, whose graph was not freed."""
    if tensor.ndim:
        check_synced(tensor)
    tensor.rec.check_use()
    if tensor.rec.spent:
        raise TraceError(freed())
    return tensor.rec, tensor.view


def freed() -> str:
    """The message for a graph that was freed."""
    return (
        f"{where_am_i()}: this graph was freed by an earlier backward; pass retain_graph=True to "
        "that one, or compute the tensor again"
    )


def check_freed(plan: Plan, pieces: Sequence[Piece]) -> None:
    """Raise where a part of the graph was freed before."""
    for piece, rows in zip(pieces, plan.rows, strict=True):
        for gone in piece.freed:
            n = min(len(gone), len(rows))
            if (gone[:n] & rows[:n]).any():
                raise TraceError(freed())


def finish(plan: Plan, pieces: Sequence[Piece], retain_graph: bool) -> None:
    """After a sweep: later operations go to new pieces; free the graph."""
    for piece in pieces:
        piece.limit = 0
    if retain_graph:
        return
    for piece, rows, all_of_it in zip(pieces, plan.rows, plan.covers, strict=True):
        if all_of_it and len(rows):
            piece.release()
        else:
            piece.freed = [*piece.freed, rows]


def fresh(g: Any) -> Any:
    """A gradient as a tensor without a graph."""
    if isinstance(g, np.ndarray) and g.ndim:
        return new_data(g)
    return new_scalar(np.float64(g))


def added(known: Any, g: Any) -> Any:
    """What a ``grad`` is after ``g`` was added: in place, but where graphs are involved."""
    if known is None:
        return g if isinstance(g, Tensor) else fresh(g)
    if isinstance(g, Tensor) or known.requires_grad:
        with enable_grad():
            return known + g
    if known.ndim:
        known.value += g
        if known.cell.memory is not None:
            changed(known.cell, "the accumulation of a gradient", where_am_i())
    else:
        known.value = known.value + g
    return known
