"""Which values a sweep reads, and whether they are still those that were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import TraceError
from ..recording.recorder import where_am_i
from .pieces import Piece

__all__ = ["check_sources"]


def check_sources(plan: Any, pieces: Sequence[Piece]) -> None:
    """Raise where a value that the sweeps read was changed in place since it was recorded."""
    for i, k in plan.extract.inputs:
        if i >= 0 and pieces[i].sources[k].is_stale:
            _stale(pieces[i], pieces[i].sources[k])


def _stale(piece: Piece, source: Any) -> None:
    memory = source.memory
    if memory is not None:
        operation, place = memory.operation, memory.place
    else:
        operation, place = source.leaf.last_change
    raise TraceError(
        f"{where_am_i()}: a value that backward needs was changed in place by {operation} "
        f"({place}), after "
        f"{piece.place(source.row)} had read it; change a copy (x.clone()), or call backward first"
    )
