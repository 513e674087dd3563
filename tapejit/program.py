"""Programs and workspaces: a tape laid out for execution, and the memory of one running copy."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .checkpointing import Schedule
from .config import settings
from .interpreters import entry, layout, loop_kernels
from .interpreters.entry import (
    ARRAY_IN,
    ARRAY_OUT,
    BIND,
    DIM_0,
    IN_PLACE,
    IN_PLACE_OUT,
    MAX_DIMS,
    MODE,
    NDIM,
    OBJECT,
    OFFSET,
    PREPARE,
    RECORD_WORDS,
    RUN_FORWARD,
    RUN_REVERSE,
    RUN_TANGENT,
    SCALAR_IN,
    SCALAR_OUT,
    SIZE,
    SPACE,
)
from .lowering.build import Code, Slot
from .lowering.fit import lower
from .lowering.sizes import (
    ALIGNMENT,
    adjoint_bytes,
    aligned_bytes,
    scratch_bytes,
    workspace_bytes,
)
from .lowering.stream import KernelTable, kernel_table
from .passes import DEFAULT, optimize
from .tape import Tape, size_of

__all__ = ["Program", "Workspace", "program_for"]


class Program:
    """A tape laid out for execution: code words and constants, shared by all workspaces.

    Immutable but for its pool of idle workspaces.  ``tape`` is the tape that was laid out, after
    ``passes``: equal to the recorded one up to the last guard.  With ``several``, its sweeps carry
    ``LANES`` directions (vector mode).
    """

    def __init__(
        self, tape: Tape, wrt: tuple[int, ...], mode: str, scalar_seed: bool,
        passes: Sequence[str] = DEFAULT, checkpoint: Schedule | None = None, several: bool = False,
    ) -> None:  # fmt: skip
        self.tape = optimize(tape, passes, values_only=mode == "value")
        self.wrt = wrt
        self.mode = mode
        self.several = several
        self.table = kernel_table()
        self.code: Code = lower(self.tape, wrt, mode, scalar_seed, checkpoint, several)
        names = {"value": ["forward"], "gradient": ["forward", "reverse"], "tangent": ["tangent"]}
        staged = ["forward", "reverse"] if self.code.loops else []
        for name in ("forward",) if several else (*names[mode], *staged):
            self.table.require(name)
        #: What code words that call a kernel, and the entry, find kernels by.
        self.addresses = self.table.in_lanes(mode) if several else self.table.addresses
        self._pool: list[Workspace] = []

    def checkout(self) -> Workspace:
        """A workspace that nobody else uses."""
        try:
            return self._pool.pop()
        except IndexError:
            return Workspace(self)

    def give_back(self, workspace: Workspace) -> None:
        """Return a workspace to the pool."""
        workspace.held = None
        self._pool.append(workspace)

    def continues(self, other: Program) -> bool:
        """Whether a sweep of another path's program can go on in this one."""
        return (self.mode, self.several) == (other.mode, other.several)

    def row_at(self, word: int) -> int:
        """The tape row whose forward (or tangent) code holds ``word``, for messages."""
        return int(np.searchsorted(self.code.starts, word, side="right")) - 1

    @property
    def work_bytes(self) -> int:
        """Bytes of values and adjoints (or tangents) beyond arguments, results and constants.

        Those of loops' bodies are among them, but not the tile registers of the program itself.
        """
        code = self.code
        slots = [*code.parameters, *code.tangents_in]
        slots += [*code.values, *code.gradients, *code.tangents_out]
        known = {(slot.space, slot.offset): slot for slot in slots if not slot.in_place}
        held = sum(size_of(slot.shape) for slot in known.values())
        beside = code.stacked_scratch - code.register_size
        values = code.arena_size + beside - held - len(code.scalar_constants[0])
        return 8 * values + adjoint_bytes(code)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of one workspace and of the shared parts, by name.

        ``"values"`` holds the adjoints of arrays, too, and what loops keep for their reverse
        sweeps; ``"adjoints"`` are those of scalars and of arrays that scalar code addresses;
        ``"scratch"`` is what chains of elementwise operations, and steps of loops, need only while
        they run.  ``"workspace"`` is everything that one running copy allocates, these and its
        tables; ``"work"`` is what values and adjoints take beyond arguments, results and constants.
        """
        code = self.code
        adjoints = adjoint_bytes(code)
        return {
            "workspace": workspace_bytes(code),
            "values": aligned_bytes(code.arena_size),
            "adjoints": adjoints if self.mode != "tangent" else 0,
            "tangents": adjoints if self.mode == "tangent" else 0,
            "work": self.work_bytes,
            "scratch": scratch_bytes(code),
            "code": 4 * (len(code.forward) + len(code.reverse) + len(code.tangent)),
            "constants": 8 * (len(code.constants) + sum(c.size for c in code.large_constants)),
        }


#: What is empty: not even a byte is allocated for it.
_NOTHING = np.zeros(0)


def _aligned(n: int) -> np.ndarray:
    """``n`` zeros that start at a cache line."""
    if not n:
        return _NOTHING
    raw = np.zeros(n + ALIGNMENT)
    shift = (-raw.ctypes.data // 8) % ALIGNMENT
    return raw[shift : shift + n]


class _Memory:
    """A context and the arrays that its code works on, but for the values.

    ``children``: those of staged loops and branches, whose values lie in their parent's arena, and
    whose scratch lies behind that of their parent.
    """

    def __init__(
        self, code: Code, table: KernelTable, addresses: np.ndarray, mode: str, budget: np.ndarray,
        scratch: np.ndarray,
    ) -> None:  # fmt: skip
        self.code = code
        self.addresses = addresses
        self.adjoints = _aligned(code.adjoint_size if mode == "gradient" else 0)
        self.tangents = _aligned(code.adjoint_size if mode == "tangent" else 0)
        self.scratch = scratch
        self.context = c = np.zeros(layout.CONTEXT_WORDS, np.int64)
        c[layout.TILE_SIZE] = layout.UNTILED
        c[layout.KERNELS] = addresses.ctypes.data
        c[layout.BUDGET] = budget.ctypes.data
        if table.uses_blas:
            from .interpreters.blas import table_address

            c[layout.BLAS] = table_address()
        for word, words in (
            (layout.FORWARD, code.forward),
            (layout.REVERSE, code.reverse),
            (layout.TANGENT, code.tangent),
        ):
            c[word] = words.ctypes.data
            c[word + 1] = len(words)
        c[layout.ADJOINTS] = self.adjoints.ctypes.data
        c[layout.TANGENTS] = self.tangents.ctypes.data
        c[layout.CONSTANTS] = code.constants.ctypes.data
        c[layout.SCRATCH] = self.scratch.ctypes.data
        for i, array in enumerate(code.large_constants):
            c[layout.CONTEXT_WORDS - 1 - i] = array.ctypes.data
        # A loop's reverse sweep may also be part of a program without one; and its body may have
        # adjoints though no reverse code, where cotangents just pass, or end.
        inside = scratch[code.scratch_size :]
        self.children = [
            _Memory(loop.child, table, addresses, "gradient", budget, inside) for loop in code.loops
        ]
        self.records = _table(len(self.children), loop_kernels.RECORD)
        for record, child, loop in zip(self.records, self.children, code.loops, strict=True):
            record[loop_kernels.CHILD] = child.context.ctypes.data
            record[loop_kernels.TABLE] = loop.table.ctypes.data
        self.files = [_snapshot_file(loop) for loop in code.loops]
        for record, file in zip(self.records, self.files, strict=True):
            record[loop_kernels.FILE] = -1 if file is None else file.descriptor
        c[layout.LOOPS] = self.records.ctypes.data

    def clear(self) -> None:
        """Make adjoints, tile state and loops as new, after a sweep that stopped half-way."""
        self.adjoints[:] = 0.0
        self.context[layout.TILE_BASE] = 0
        self.context[layout.TILE_SIZE] = layout.UNTILED
        self.context[layout.RECOMPUTING] = 0
        self.records[:, loop_kernels.RUNNING] = 0
        for child in self.children:
            child.clear()


def _table(rows: int, columns: int) -> np.ndarray:
    """Rows of zero words; there is room for one also where there are none."""
    return np.zeros((max(rows, 1), columns), np.int64)[:rows]


def _snapshot_file(loop: Any) -> Any:
    """The file of a loop whose schedule keeps snapshots on disk, its room claimed now."""
    if not loop.disk:
        return None
    from .checkpointing.files import SnapshotFile

    return SnapshotFile(loop.disk, loop.snapshot_bytes, loop.directory)


class Workspace:
    """The preallocated arrays of one running copy of a program."""

    def __init__(self, program: Program) -> None:
        code = program.code
        self.program = program
        self.values = _aligned(code.arena_size)
        offsets, constants = code.scalar_constants
        self.values[offsets] = constants
        self.budget = np.zeros(1, np.int64)
        scratch = _aligned(code.stacked_scratch + layout.TILE)
        self.memory = _Memory(
            code, program.table, program.addresses, program.mode, self.budget, scratch
        )
        self.adjoints, self.tangents = self.memory.adjoints, self.memory.tangents
        self.context = self.memory.context
        slots_in = [*code.parameters, *code.tangents_in]
        self.parameters = _table(len(slots_in), RECORD_WORDS)
        _fill_records(self.parameters, slots_in, is_input=True)
        slots_out = len(code.values) + len(code.gradients) + len(code.tangents_out)
        #: As many results as the program has: their records, and the 0-d ones.
        self.delivered = _table(slots_out, RECORD_WORDS), np.zeros(max(slots_out, 1))
        self.results, self.scalars = self.delivered
        self.types = entry.header_words()
        self.tag: str | None = None
        self.held: Any = None
        self.argument_words = self.parameters[:, OBJECT]
        self.address = self.context.ctypes.data
        self.context[layout.VALUES] = self.values.ctypes.data
        self.context[layout.PARAMETERS] = self.parameters.ctypes.data
        self.context[layout.N_PARAMETERS] = len(self.parameters)
        self.context[layout.TYPES] = self.types.ctypes.data

    def deliver_to(self, slots: list[Slot], scalars: np.ndarray) -> None:
        """Set up result records; 0-d results go to ``scalars``, in the order of the slots."""
        records, _ = self.delivered
        if len(slots) > len(records):
            records = _table(len(slots), RECORD_WORDS)
        self.results, self.scalars = records[: len(slots)], scalars
        _fill_records(self.results, slots, is_input=False)
        for k, slot in enumerate(slots):
            if slot.shape == ():
                self.results[k, OBJECT] = scalars[k:].ctypes.data
        self.context[layout.RESULTS] = self.results.ctypes.data
        self.context[layout.N_RESULTS] = len(self.results)
        self.result_words = self.results[:, OBJECT]

    def prepare(self, slots: list[Slot], tag: str) -> None:
        """Set up result records once for each choice of results."""
        if self.tag != tag:
            _, scalars = self.delivered
            self.deliver_to(slots, scalars)
            self.tag = tag

    def run(self, what: int, start: int = 0) -> int:
        """Bind, sweep, deliver; returns a status."""
        try:
            status = self._enter(what, start)
            return status if status != layout.PAUSED else self.resume(what)
        except BaseException:  # a signal's: the next sweep starts anew
            self.clear()
            raise

    def resume(self, what: int) -> int:
        """Go on after pauses: between them Python has looked for signals (Ctrl-C)."""
        status = layout.PAUSED
        while status == layout.PAUSED:
            rest = what & ~(BIND | PREPARE)
            if self.context[layout.PHASE] == RUN_REVERSE:
                rest &= ~(RUN_FORWARD | RUN_TANGENT)
            status = self._enter(rest, int(self.context[layout.FAILED]))
        return status

    def _enter(self, what: int, start: int) -> int:
        if self.program.table.plain:
            with np.errstate(all="ignore"):
                return int(entry.run(self.address, start, what))
        return entry.entries()[0](self.address, start, what)

    def clear(self) -> None:
        """Make adjoints, tile state and loops as new, after a sweep that stopped half-way."""
        self.memory.clear()


def _fill_records(records: np.ndarray, slots: list[Slot], is_input: bool) -> None:
    records[:] = 0
    for record, slot in zip(records, slots, strict=True):
        if slot.shape == ():
            record[MODE] = SCALAR_IN if is_input else SCALAR_OUT
        elif slot.in_place:
            record[MODE] = IN_PLACE if is_input else IN_PLACE_OUT
        else:
            record[MODE] = ARRAY_IN if is_input else ARRAY_OUT
        record[SPACE], record[OFFSET] = slot.space, slot.offset
        record[SIZE] = size_of(slot.shape)
        record[NDIM] = len(slot.shape)
        if len(slot.shape) > MAX_DIMS:
            raise ValueError(f"arrays of more than {MAX_DIMS} dimensions are not supported")
        record[DIM_0 : DIM_0 + len(slot.shape)] = slot.shape


_interned: weakref.WeakValueDictionary[tuple, Program] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def program_for(
    tape: Tape,
    wrt: tuple[int, ...] = (),
    mode: str = "value",
    scalar_seed: bool = False,
    checkpoint: Schedule | None = None,
    several: bool = False,
) -> Program:
    """The program of a tape: equal tapes share one."""
    variant = (mode, scalar_seed, checkpoint, several, settings.plain_python, settings.tile_from)
    key: Any = (tape.fingerprint, wrt, *variant)
    program = _interned.get(key)
    if program is None:
        made = Program(tape, wrt, mode, scalar_seed, checkpoint=checkpoint, several=several)
        with _lock:
            program = _interned.setdefault(key, made)
    return program
