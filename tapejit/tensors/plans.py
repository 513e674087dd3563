"""Plans: what a sweep over a graph needs, found again by the structure of its pieces.

A loop that repeats the same operations makes pieces with equal rows.  Their rows, calls and inputs
are the key of a plan, which holds the program of the extracted tape and says where each of its
arguments comes from: a graph of a known structure is neither extracted nor laid out again.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compiled import as_argument, raise_status
from ..config import settings
from ..errors import TraceError
from ..interpreters import layout
from ..interpreters.entry import BIND, DELIVER, OBJECT, RUN_FORWARD, RUN_REVERSE, RUN_TANGENT
from ..program import Program, program_for
from ..recording.recorder import where_am_i
from ..tape import View
from .extract import Extract, extract
from .pieces import Piece

__all__ = ["Plan", "counts", "pieces_of", "plan_for"]

#: Plans that are kept, the least recently used goes.
MAX_PLANS = 256
#: Pieces with more words than this are known by a digest of their rows.
LONG = 1024

#: How often graphs were laid out and found again, for tests.
counts = {"laid out": 0, "found": 0}

_plans: OrderedDict[Any, Plan] = OrderedDict()
_lock = threading.Lock()


class Plan:
    """The program of some outputs of some pieces."""

    def __init__(self, found: Extract, wrt: tuple[int, ...], mode: str, scalar_seed: bool) -> None:
        self.extract = found
        self.wrt = wrt
        self.rows = found.rows
        self.covers = [bool(rows.all()) for rows in found.rows]
        self.has_constants = bool(found.inputs) and found.inputs[0] == (-1, -1)
        self.program: Program = program_for(found.tape, wrt, mode, scalar_seed)
        self.values_read: Any = None

    def arguments(self, pieces: Sequence[Piece], cuts: Sequence[Any]) -> list[Any]:
        """Values of the tape's inputs."""
        values: list[Any] = []
        for i, k in self.extract.inputs:
            if i >= 0:
                source = pieces[i].sources[k]
                values.append(source.value)
            elif k >= 0:
                values.append(as_argument(cuts[k]))
            else:
                values.append(self._constants(pieces))
        return values

    def _constants(self, pieces: Sequence[Piece]) -> np.ndarray:
        parts = []
        for piece, chosen in zip(pieces, self.extract.constants, strict=True):
            numbers = np.array(piece.constant_values, np.float64)
            parts.append(numbers if len(chosen) == len(numbers) else numbers[chosen])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def gradients(
        self, pieces: Sequence[Piece], cuts: Sequence[Any], seeds: Sequence[Any] | None
    ) -> list[Any]:
        """Cotangents of the inputs ``wrt``: fresh arrays and numbers."""
        values = self.arguments(pieces, cuts)
        workspace = self.program.checkout()
        code = self.program.code
        for record, value in zip(workspace.parameters, values, strict=True):
            record[OBJECT] = id(value)
        workspace.prepare(code.gradients, "gradients")
        arrays = [None if slot.shape == () else np.empty(slot.shape) for slot in code.gradients]
        for slot, record, array in zip(code.gradients, workspace.results, arrays, strict=True):
            if array is not None:
                record[OBJECT] = id(array)
                if slot.in_place:
                    workspace.context[slot.in_place] = array.ctypes.data
        status = workspace.run(BIND | RUN_FORWARD)
        if status == layout.DONE:
            for slot, seed in zip(code.seeds, seeds or (), strict=False):
                size = int(np.prod(slot.shape))
                workspace.values[slot.offset : slot.offset + size] = np.ravel(seed)
            status = workspace.run(RUN_REVERSE | DELIVER)
        if status != layout.DONE:
            self._raise(workspace, status)
        results = [
            workspace.scalars[k] if array is None else array for k, array in enumerate(arrays)
        ]
        self.program.give_back(workspace)
        return results

    def _raise(self, workspace: Any, status: int) -> None:
        row = self.program.row_at(int(workspace.context[layout.FAILED]))
        raise_status(status, self.extract.tape, row)
        raise TraceError(f"{where_am_i()}: a sweep over this graph stopped with status {status}")

    def tangents(
        self, pieces: Sequence[Piece], moving: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """(values, tangents) of the outputs, given tangents of the inputs ``wrt``."""
        values = [*self.arguments(pieces, ()), *map(as_argument, moving)]
        workspace = self.program.checkout()
        code = self.program.code
        for record, value in zip(workspace.parameters, values, strict=True):
            record[OBJECT] = id(value)
        slots = [*code.values, *code.tangents_out]
        workspace.prepare(slots, "tangents")
        arrays = [None if slot.shape == () else np.empty(slot.shape) for slot in slots]
        for record, array in zip(workspace.results, arrays, strict=True):
            if array is not None:
                record[OBJECT] = id(array)
        status = workspace.run(BIND | RUN_TANGENT | DELIVER)
        if status != layout.DONE:
            self._raise(workspace, status)
        results = [
            workspace.scalars[k] if array is None else array for k, array in enumerate(arrays)
        ]
        self.program.give_back(workspace)
        n = len(code.values)
        return results[:n], results[n:]


def pieces_of(pieces: Sequence[Piece]) -> list[Piece]:
    """These pieces and all that they read from, those that others read first."""
    found = set(pieces).union(*(piece.reads for piece in pieces))
    return sorted(found, key=lambda piece: piece.number)


def signature(piece: Piece) -> tuple:
    """What tells a piece's structure from others."""
    numbers = [other.number for other in sorted(piece.reads, key=lambda p: p.number)]
    sources = tuple(
        [
            (numbers.index(s.piece.number), s.place) if s.kind == "link" else s.kind
            for s in piece.sources
        ]
    )
    code: Any = piece.code
    if len(code) > LONG:
        code = hashlib.blake2b(np.array(code, np.int32).tobytes(), digest_size=16).digest()
    else:
        code = tuple(code)
    return (code, tuple(piece.calls), tuple(piece.inputs), sources, tuple(piece.constant_ids))


def plan_for(
    pieces: Sequence[Piece], outputs: Sequence[tuple[int, View]], cuts: Sequence[tuple[int, Any]],
    mode: str = "gradient", scalar_seed: bool = False, chosen: Any = None,
) -> Plan:  # fmt: skip
    """The plan of some outputs of ``pieces`` (as :func:`pieces_of` orders them).

    ``chosen``: the sources to differentiate with respect to, as a set of (piece, number); all
    leaves without it.
    """
    key = (
        tuple([signature(piece) for piece in pieces]), tuple(outputs), tuple(cuts), mode,
        scalar_seed, chosen, settings.plain_python, settings.tile_from,
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        plan = _laid_out(pieces, outputs, cuts, mode, scalar_seed, chosen)
        with _lock:
            _plans[key] = plan
            counts["laid out"] += 1
            while len(_plans) > MAX_PLANS:
                _plans.popitem(last=False)
    else:
        with _lock:
            counts["found"] += 1
            if key in _plans:
                _plans.move_to_end(key)
    return plan


def _laid_out(
    pieces: Sequence[Piece], outputs: Sequence[tuple[int, View]], cuts: Sequence[tuple[int, Any]],
    mode: str, scalar_seed: bool, chosen: Any,
) -> Plan:  # fmt: skip
    found = extract(pieces, outputs, cuts)
    wrt = []
    for position, (i, k) in enumerate(found.inputs):
        if i >= 0:
            is_leaf = pieces[i].sources[k].kind == "leaf"
            if is_leaf if chosen is None else (i, k) in chosen:
                wrt.append(position)
        elif k >= 0:
            wrt.append(position)
    return Plan(found, tuple(wrt), mode, scalar_seed)
