"""Rematerialisation in graphs of tensors: :func:`tapejit.checkpoint` marks rows of their pieces.

A mark is a row that nothing needs, after the marked ones: it is part of a piece's structure, but of
no tape.  Extraction makes the marks :class:`~tapejit.tape.Region` s of the tape, whose reverse
sweep computes their rows again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..interpreters.layout import CALL
from ..tape import SCALAR, Region, View
from .enter import Tensor
from .grad_mode import local
from .pieces import Piece

__all__ = ["MARK", "marked", "regions_of"]

#: The name of the operation that marks rows; params (first row, names, schedule).
MARK = "region"


def marked(function: Callable[[], Any], args: Iterable[Any], names: tuple, schedule: Any) -> Any:
    """``function()``; what it records is marked to be computed again.

    ``args``: the function's arguments, whose pieces may take more rows.
    """
    before = {piece: piece.n_rows for piece in _open_pieces(args)}
    result = function()
    for piece in {*before, *_open_pieces(())}:
        first = before.get(piece, 0)
        if not piece.spent and piece.n_rows > first:
            nothing = View(SCALAR, piece.scalar(), (), ())
            piece.call(MARK, (), nothing, (first, names, schedule))
    return result


def _open_pieces(args: Iterable[Any]) -> Iterator[Piece]:
    """Pieces of this thread that operations may go to."""
    state = local.state
    root = state.root()
    if root is not None:
        yield root
    yield from list(state.continuing.values())
    for tensor in args:
        if isinstance(tensor, Tensor) and tensor.rec.level == -1:
            yield tensor.rec


def regions_of(piece: Piece, rows: np.ndarray, base: int) -> list[Region]:
    """The regions of a tape that holds some rows of a piece from row ``base`` on.

    A tape that holds all rows but the marks counts as one that holds the marks, too.
    """
    if all(call.op != MARK for call in piece.calls):
        return []
    code = np.array(piece.code, np.int32).reshape(-1, 5)
    calls = np.flatnonzero(code[:, 0] == CALL).tolist()
    marks = [row for row in calls if piece.calls[code[row, 1]].op == MARK]
    place = base + np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
    found = []
    for row in marks:
        first, names, schedule = piece.calls[code[row, 1]].params
        if place[first] < place[row]:
            found.append(Region(int(place[first]), int(place[row]), names, schedule))
    if rows.sum() == len(rows) - len(marks):
        rows[marks] = 1
    return found
