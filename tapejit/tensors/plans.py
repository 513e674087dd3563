"""Plans: what a sweep over a graph needs, found again by the structure of its pieces.

A loop that repeats the same operations makes pieces with equal rows.  Their rows, calls and inputs
are the key of a plan, which holds the program of the extracted tape and says where each of its
arguments comes from: a graph of a known structure is neither extracted nor laid out again.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compiled import as_argument
from ..config import settings
from ..interpreters import entry, layout
from ..interpreters.entry import (
    BIND,
    DELIVER,
    OBJECT,
    PREPARE,
    RUN_FORWARD,
    RUN_REVERSE,
    RUN_TANGENT,
)
from ..program import Program, Workspace, program_for
from ..results import allocate, bind_in_place, deliver, delivered
from ..shortcut import usable
from ..stops import leave_short_way, raise_stopped
from ..tape import Tape, View
from .extract import Extract, extract
from .pieces import Piece

__all__ = ["Plan", "counts", "pieces_of", "plan_for"]

#: Plans that are kept, the least recently used goes.
MAX_PLANS = 256
#: Pieces with more words than this are known by a digest of their rows.
LONG = 1024

#: What a sweep that stops at no known line is called.
GRAPH = "a graph of tensors"
#: How often graphs were laid out, for tests.
counts = {"laid out": 0}

_ALL = BIND | PREPARE | RUN_FORWARD | RUN_REVERSE | DELIVER
_new = np.empty


def _run(address: int, start: int, what: int) -> int:
    """The compiled entry, looked up when it is first used."""
    global _run
    _run = entry.entries()[0]
    return _run(address, start, what)


_plans: OrderedDict[Any, Plan] = OrderedDict()
_quick: dict[tuple, Plan] = {}
_lock = threading.Lock()


class Plan:
    """The program of some outputs of some pieces."""

    def __init__(self, found: Extract, wrt: tuple[int, ...], mode: str, scalar_seed: bool) -> None:
        self.used = False
        self.extract = found
        self.wrt = wrt
        self.derivative: Tape | None = None
        self.derivative_program: Program | None = None
        self.rows = found.rows
        self.covers = [bool(rows.all()) for rows in found.rows]
        self.covers_all = all(self.covers) and all(len(rows) for rows in found.rows)
        self.program: Program = program_for(found.tape, wrt, mode, scalar_seed)
        code = self.program.code
        shapes = [None if slot.shape == () else slot.shape for slot in code.gradients]
        #: Of a plan of one piece: the sources of the arguments, and those of the gradients.
        self.numbers = [k for _, k in found.inputs]
        self.targets = [found.inputs[position][1] for position in wrt]
        self.shapes = shapes
        self.at_scalars = [k for k, shape in enumerate(shapes) if shape is None]
        self.is_quick = len(found.rows) == 1 and scalar_seed and usable(self.program)
        self._pool: list[Workspace] = []

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
                values.append(self.constants(pieces))
        return values

    def constants(self, pieces: Sequence[Piece]) -> np.ndarray:
        """The numbers that entered the pieces, as the tape's first input has them."""
        parts = [
            self._chosen(piece.constant_values, chosen)
            for piece, chosen in zip(pieces, self.extract.constants, strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @staticmethod
    def _chosen(numbers: Sequence[float], chosen: Any) -> np.ndarray:
        array = np.array(numbers, np.float64)
        return array if len(chosen) == len(array) else array[chosen]

    def gradients(
        self, pieces: Sequence[Piece], cuts: Sequence[Any], seeds: Sequence[Any] | None
    ) -> list[Any]:
        """Cotangents of the inputs ``wrt``: fresh arrays and numbers."""
        return self.swept(self.arguments(pieces, cuts), seeds)

    def swept(self, values: Sequence[Any], seeds: Sequence[Any] | None) -> list[Any]:
        """Cotangents of the inputs ``wrt``, given the values of all inputs: both sweeps."""
        workspace = self.program.checkout()
        code = self.program.code
        for record, value in zip(workspace.parameters, values, strict=True):
            record[OBJECT] = id(value)
        workspace.prepare(code.gradients, "gradients")
        arrays = allocate(code.gradients)
        bind_in_place(workspace, code.gradients, arrays)
        status = workspace.run(BIND | RUN_FORWARD)
        if status == layout.DONE:
            for slot, seed in zip(code.seeds, seeds or (), strict=False):
                size = int(np.prod(slot.shape))
                workspace.values[slot.offset : slot.offset + size] = np.ravel(seed)
            status = deliver(workspace, arrays, RUN_REVERSE)
        if status != layout.DONE:
            raise_stopped(workspace, status, GRAPH)
        results = delivered(workspace, arrays)
        self.program.give_back(workspace)
        return results

    # --- the short way ----------------------------------------------------------------------------

    def _prepared(self) -> Workspace:
        workspace = self.program.checkout()
        workspace.prepare(self.program.code.gradients, "gradients")
        return workspace

    def quick(self, values: Sequence[Any], numbers: Sequence[float]) -> list[Any] | None:
        """Gradients of a number with respect to the leaves of one piece, in one compiled call.

        Parameters
        ----------
        values
            Of all the piece's inputs.
        numbers
            Those that entered it.

        Returns
        -------
        list or None
            A fresh array or number for each of ``targets``; ``None`` where the general way is
            needed: a value of another layout, a sweep that stopped.
        """
        try:
            workspace = self._pool.pop()
        except IndexError:
            workspace = self._prepared()
        words = workspace.argument_words
        for k, number in enumerate(self.numbers):
            if number < 0:
                constants = self._chosen(numbers, self.extract.constants[0])
                words[k] = id(constants)
            else:
                words[k] = id(values[number])
        results = [None if shape is None else _new(shape) for shape in self.shapes]
        words = workspace.result_words
        for k, array in enumerate(results):
            if array is not None:
                words[k] = id(array)
        status = _run(workspace.address, 0, _ALL)
        if status == layout.PAUSED:
            status = workspace.resume(_ALL)
        if status != layout.DONE:
            leave_short_way(workspace, status)
            self._pool.append(workspace)
            return None
        for k in self.at_scalars:
            results[k] = workspace.scalars[k]
        self._pool.append(workspace)
        return results

    def tangents(
        self, pieces: Sequence[Piece], cuts: Sequence[Any], moving: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """(values, tangents) of the outputs, given tangents of the inputs ``wrt``."""
        values = [*self.arguments(pieces, cuts), *map(as_argument, moving)]
        workspace = self.program.checkout()
        code = self.program.code
        for record, value in zip(workspace.parameters, values, strict=True):
            record[OBJECT] = id(value)
        slots = [*code.values, *code.tangents_out]
        workspace.prepare(slots, "tangents")
        arrays = allocate(slots)
        status = deliver(workspace, arrays, BIND | RUN_TANGENT)
        if status != layout.DONE:
            raise_stopped(workspace, status, GRAPH)
        results = delivered(workspace, arrays)
        self.program.give_back(workspace)
        n = len(code.values)
        return results[:n], results[n:]


def pieces_of(pieces: Sequence[Piece]) -> list[Piece]:
    """These pieces and all that they read from, those that others read first."""
    found = set(pieces).union(*(piece.reads for piece in pieces))
    return sorted(found, key=lambda piece: piece.number)


def _words(numbers: Sequence[int]) -> bytes:
    """Integers as bytes: faster so than by way of NumPy."""
    return struct.pack(f"{len(numbers)}i", *numbers)


def signature(piece: Piece) -> tuple:
    """What tells a piece's structure from others: its rows, inputs and numbers, not their values.

    Calls are in the rows by the numbers that equal calls share.
    """
    code: Any = piece.code
    ids: Any = piece.constant_ids
    if len(code) > LONG:
        digest = hashlib.blake2b(_words(code), digest_size=16)
        digest.update(_words(ids))
        code, ids = digest.digest(), len(ids)
    else:
        code, ids = tuple(code), tuple(ids)
    return (code, tuple(piece.kinds), ids)


def plan_for(
    pieces: Sequence[Piece], outputs: Sequence[tuple[int, View]], cuts: Sequence[tuple[int, Any]],
    mode: str = "gradient", scalar_seed: bool = False, chosen: Any = None,
) -> Plan:  # fmt: skip
    """The plan of some outputs of ``pieces`` (as :func:`pieces_of` orders them).

    ``chosen``: the sources to differentiate with respect to, as a set of (piece, number); all
    leaves without it.
    """
    signatures = signature(pieces[0]) if len(pieces) == 1 else tuple(map(signature, pieces))
    key = (
        signatures, tuple(outputs), tuple(cuts), mode, scalar_seed, chosen,
        settings.plain_python, settings.tile_from,
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is None:
        plan = _laid_out(pieces, outputs, cuts, mode, scalar_seed, chosen)
        with _lock:
            _plans[key] = plan
            counts["laid out"] += 1
            if len(_plans) > MAX_PLANS:
                _forget()
    else:
        plan.used = True
    return plan


def quick_plan(piece: Piece, element: int) -> Plan | None:
    """The plan of a scalar of one short piece, if it was seen; its key takes fewer steps."""
    return _quick.get(
        (
            tuple(piece.code), tuple(piece.kinds), element, tuple(piece.constant_ids),
            settings.plain_python, settings.tile_from,
        )
    )  # fmt: skip


def keep_quick(piece: Piece, element: int, plan: Plan) -> None:
    """Have :func:`quick_plan` find a plan from now on."""
    key = (
        tuple(piece.code), tuple(piece.kinds), element, tuple(piece.constant_ids),
        settings.plain_python, settings.tile_from,
    )  # fmt: skip
    with _lock:
        if len(_quick) >= MAX_PLANS:
            _quick.clear()
        _quick[key] = plan


def _forget() -> None:
    """Make room: of the older half, plans that were not used since the last time go."""
    for key in list(_plans)[: MAX_PLANS // 2]:
        if _plans[key].used:
            _plans[key].used = False
            _plans.move_to_end(key)
        else:
            del _plans[key]
    while len(_plans) > MAX_PLANS:
        _plans.popitem(last=False)


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
