"""Lowering of staged control flow: a body becomes a child program, laid out inside its parent.

A loop's forward code names the loop by number; what its child looks like (whether it stores what
its reverse sweep reads, where cotangents go) is decided when all of the parent has been lowered.
The regions for the steps' values lie behind everything else in the parent's arena, so that a loop
in the body of a loop keeps its values in its step's region.  What a loop needs only while it runs
lies in the parent's scratch space, where all loops of a program share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checkpointing import Online, Plan, StoreAll
from ..checkpointing.limits import Costs
from ..checkpointing.plan import plan as make_plan
from ..errors import ScheduleError, TraceError
from ..interpreters import layout
from ..interpreters import loop_tables as words
from ..tape import Tape
from .bodies import BodyLowering
from .frame import LINE, PROVISIONAL, Arena, padded

__all__ = ["Loop", "LoopCode", "varying"]

# A ``while_loop`` does not know its number of steps.  By default it holds so many snapshots, and
# stores blocks of as many steps as fit into so many bytes.  A block of 64 steps and 32 snapshots
# reverse 2,000 steps with one repetition, 36,000 with two, 400,000 with three.
_SNAPSHOTS = 32
_BLOCK = 1 << 20
_LONGEST_BLOCK = 64


@dataclass(frozen=True)
class LoopCode:
    """A loop as a program's part: the child's code, and the table that kernels read."""

    body: Tape
    child: Any  # build.Code
    table: np.ndarray
    directory: str | None = None  # of the file with snapshots
    plan: Plan | None = None  # what its schedule costs; None without a reverse sweep

    @property
    def disk(self) -> int:
        """Snapshots in a file."""
        return int(self.table[words.DISK])

    @property
    def snapshot_bytes(self) -> int:
        """Bytes of a snapshot."""
        return 8 * int(self.table[words.CARRIED])

    @property
    def rewrites(self) -> bool:
        """Whether a reverse sweep uses up what the forward sweep left."""
        table = self.table
        is_whole = table[words.EVERY] >= table[words.LIMIT] and not table[words.DYNAMIC]
        return self.child.rewrites or not is_whole


@dataclass
class Loop:
    """A loop of a program that is being lowered.

    Attributes
    ----------
    body
        Its tape.
    carries, slices
        Numbers of inputs that are carried, and of those that are slices; the other inputs are
        invariant.  Outputs: the carries, then slices of the stacked results.
    operands
        The parent's operand behind each input of the body.
    checkpoint
        The schedule of the reverse sweep; ``None`` for the default.
    varied
        Inputs of the body that vary with the differentiated arguments; ``None`` without a reverse
        sweep.
    gradients
        For each input, where its gradient lies among the packed gradients.
    passes
        Whether nothing of it is read once its instruction has run, but for its result.
    """

    body: Tape
    carries: int
    slices: int
    steps: int
    dynamic: bool
    backward: bool
    operands: tuple[int, ...]
    checkpoint: Any = None
    varied: frozenset[int] | None = None
    gradients: tuple[int, ...] = ()
    gradient_size: int = 0
    passes: bool = True
    directory: str | None = None
    plan: Plan | None = None
    line: str = ""  # the user's, for messages

    # --- the child --------------------------------------------------------------------------------

    def finish(self, arena: Arena) -> LoopCode:
        """Lower the body, and take room for its steps behind the parent's arena."""
        body = BodyLowering(self)
        table = self._table(body, arena)
        return LoopCode(self.body, body.child, table, self.directory, self.plan)

    # --- the table --------------------------------------------------------------------------------

    def _table(self, body: BodyLowering, arena: Arena) -> np.ndarray:
        """The words that kernels read; takes the loop's room."""
        header = [0] * words.TABLE_HEADER
        self._rooms(header, body, arena)
        child = body.child
        header[words.STRIDE] = -body.region_size
        header[words.HELD_STRIDE] = body.held_size
        header[words.SWAPS] = int(bool(body.pointed))
        header[words.GRADIENTS_SWAP] = int(body.swaps_gradients)
        header[words.LIMIT] = self.steps
        header[words.DYNAMIC] = int(self.dynamic)
        header[words.BACKWARD] = int(self.backward)
        header[words.STORES] = int(self.varied is not None)
        header[words.COST] = len(child.forward) + child.arena_size + child.scratch_size
        header[words.COUNT_AT] = body.count_at
        header[words.CARRIED] = body.carried
        header[words.GRADIENT_SIZE] = self.gradient_size
        lists = _merged(body.lists)
        for number, entries in enumerate(lists):
            header[words.LISTS + 2 * number] = len(header)
            header[words.LISTS + 2 * number + 1] = len(entries) // words.WIDTHS[number]
            header += entries
        return np.array(header, np.int64)

    def _rooms(self, header: list[int], body: BodyLowering, arena: Arena) -> None:
        """Take the loop's room and scratch."""
        passing = _Packed()
        for word, is_used in (
            (words.WORK, self.varied is not None),
            (words.SPARE, bool(body.pointed)),
            (words.SPARE_GRADIENTS, body.swaps_gradients),
        ):
            passing.add(word, body.carried if is_used else 0)
        room = _Packed()
        every = 1
        if self.varied is not None:
            chosen = self._layout(body, passing.size, arena)
            every = chosen.every
            header[words.MEMORY], header[words.DISK] = chosen.memory, chosen.disk
            room.add(words.STATE, chosen.state_words)
            room.add(words.SNAPSHOTS, chosen.memory * body.carried)
        header[words.EVERY] = every
        room.add(words.HELD, (every + 1) * body.held_size)
        room.add(words.REGIONS, body.passing + every * body.region_size + LINE)
        self._check_room(room.size + passing.size, body)
        if self.passes:
            at = arena.scratch_for_loop(passing.size + room.size)
            header[words.ROOM_SPACE], header[words.ROOM] = layout.SCRATCH, at + passing.size
        else:
            at = arena.scratch_for_loop(passing.size)
            header[words.ROOM_SPACE], header[words.ROOM] = layout.VALUES, arena.fixed(room.size)
        for word, offset in room.offsets.items():
            header[word] = offset
        header[words.REGIONS] += (every - 1) * body.region_size  # the first one lies on top
        for word, offset in passing.offsets.items():
            header[word] = at + offset

    def _check_room(self, size: int, body: BodyLowering) -> None:
        if size >= PROVISIONAL:
            step = 8 * (body.region_size + body.held_size)
            raise TraceError(
                f"{self.line}: the gradient of a loop of {self.steps} steps would keep "
                f"{8 * size / 1e9:.0f} GB ({step} bytes a step); give the loop a schedule, as "
                "checkpoint=tapejit.Revolve(snapshots=50)"
            )

    def _layout(self, body: BodyLowering, passing: int, arena: Arena) -> Any:
        """The schedule's numbers for this loop."""
        from .sizes import ALIGNMENT, inner_bytes

        step = 8 * (body.region_size + body.held_size)
        # What the loop uses while it runs, its child, and what rounding up to cache lines takes.
        passing += body.passing + body.held_size + body.child.stacked_scratch + LINE
        rest = 8 * (passing + 3 * ALIGNMENT)
        costs = Costs(8 * body.carried, step, rest + inner_bytes(body.child))
        schedule = self.checkpoint
        if schedule is None and self.dynamic:
            schedule = Online(_SNAPSHOTS, min(max(_BLOCK // max(step, 1), 1), _LONGEST_BLOCK))
        elif schedule is None:
            schedule = StoreAll()
        try:
            self.plan = make_plan(schedule, None if self.dynamic else self.steps, costs)
        except ScheduleError as error:
            raise ScheduleError(f"{self.line}: {error}") from error
        chosen = self.plan.layout
        if chosen.disk and arena.is_body:
            raise ScheduleError(
                f"{self.line}: {self.checkpoint}: a loop in the body of another loop keeps no "
                "snapshots in a file, as they would have to outlive its run; give the outer loop "
                "that schedule"
            )
        self.directory = chosen.directory
        return chosen


class _Packed:
    """Parts of a room, one behind the other, by the word of the table that tells the offset."""

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}
        self.size = 0

    def add(self, word: int, size: int) -> None:
        """A part of so many doubles."""
        self.offsets[word] = self.size
        self.size += padded(size)


def _merged(lists: list[list[int]]) -> list[list[int]]:
    """Fewer, longer copies where neighbours lie side by side."""
    lists = list(lists)
    fixed = sorted(zip(lists[words.FIXED][1::2], lists[words.FIXED][::2], strict=True))
    runs: list[list[int]] = []
    for offset, n in fixed:
        if runs and runs[-1][0] + runs[-1][1] == offset:
            runs[-1][1] += n
        else:
            runs.append([offset, n])
    lists[words.FIXED] = [word for offset, n in runs for word in (n, offset)]
    # Of each entry: its length, then what grows along with it.
    for number, length, ends in (
        (words.CARRIES_IN, 1, (0, 3)), (words.CARRIES_OUT, 2, (1, 3)),
        (words.SEEDS, 2, (0, 1, 4)), (words.CARRY_GRADIENTS, 2, (1, 3, 4)),
        (words.FIRST_GRADIENTS, 0, (1, 2)),
    ):  # fmt: skip
        width, merged = words.WIDTHS[number], []
        for k in range(0, len(lists[number]), width):
            entry = lists[number][k : k + width]
            if merged and _follows(merged[-1], entry, length, ends):
                merged[-1][length] += entry[length]
            else:
                merged.append(entry)
        lists[number] = [word for entry in merged for word in entry]
    return lists


def _follows(last: list[int], entry: list[int], length: int, ends: tuple[int, ...]) -> bool:
    """Whether an entry goes on where the last one ends."""
    expected = [word + last[length] * (k in ends) for k, word in enumerate(last)]
    expected[length] = entry[length]
    return entry == expected


# --- activity -------------------------------------------------------------------------------------


def varying(body: Tape, carries: int, moving: set[int]) -> frozenset[int]:
    """The inputs of a loop's body that vary where those in ``moving`` do: with the carries'."""
    from .build import varied_outputs

    known = frozenset(moving)
    while True:
        outputs = varied_outputs(body, known)
        more = known | {i for i in range(carries) if outputs[i]}
        if more == known:
            return known
        known = more
