"""Lowering of staged control flow: a body becomes a child program, laid out inside its parent.

A loop's forward code names the loop by number; what its child looks like (whether it stores what
its reverse sweep reads, where cotangents go) is decided when all of the parent has been lowered.
The regions for the steps' values lie behind everything else in the parent's arena, so that a loop
in the body of a loop keeps its values in its step's region.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checkpointing import Online, Plan, StoreAll
from ..checkpointing.limits import Costs
from ..checkpointing.plan import plan as make_plan
from ..errors import ScheduleError, TraceError
from ..interpreters import layout
from ..interpreters import loop_kernels as words
from ..tape import SCALAR, Region, Tape, View, size_of
from .frame import PROVISIONAL, Arena, padded, whole
from .reverse import ReverseLowering, Targets
from .stream import Place, Stream
from .structural import contiguous, forward, reverse

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
    lists: list[list[int]] = field(default_factory=list)
    directory: str | None = None
    plan: Plan | None = None

    # --- the child --------------------------------------------------------------------------------

    def finish(self, arena: Arena) -> LoopCode:
        """Lower the body, and take room for its steps behind the parent's arena."""
        self.lists = [[] for _ in range(words.N_LISTS)]
        child = self._lower()
        table = self._table(child, arena)
        return LoopCode(self.body, child, table, self.directory, self.plan)

    def _lower(self) -> Any:
        from .build import _Builder, code_of

        wrt = tuple(sorted(self.varied or ()))
        mode = "value" if self.varied is None else "gradient"
        builder = _Builder(self.body, wrt, mode, in_place=self._in_place(), regions=self._regions())
        builder.arena.is_body = True
        segments = builder.segments()
        builder.lay_out(segments)
        stream, starts = builder.emit_forward(segments)
        values = [
            builder.output(stream, builder.frame.place(leaf.view)) for leaf in self.body.outputs
        ]
        self._values(builder, values)
        reversed_words = np.zeros(0, np.int32)
        if self.varied is not None:
            reversed_words = self._reverse(builder, segments, starts)
        return code_of(builder, stream.words(), starts, reverse=reversed_words)

    def _regions(self) -> list[Region]:
        """The regions that functions in the body marked."""
        from .build import rows_of_chains
        from .cuts import marked_regions

        if self.varied is None or not self.body.regions:
            return []
        return marked_regions(self.body, rows_of_chains(self.body))

    def _in_place(self) -> list[int]:
        """Arrays that only array instructions read are used where they lie, but for carries."""
        chosen = [
            buffer.argument
            for number, buffer in enumerate(self.body.buffers)
            if buffer.argument >= self.carries and number not in self.body.addressed
        ]
        return chosen[: layout.MAX_IN_PLACE // 2]

    def _kind(self, i: int) -> str:
        if i < self.carries:
            return "carry"
        return "slice" if i < self.carries + self.slices else "invariant"

    def _values(self, builder: Any, outputs: list) -> None:
        """The lists for the forward sweep."""
        lists = self.lists
        for offset, value in builder.arena.scalar_constants.items():
            bits = int(np.float64(value).view(np.int64))
            lists[words.CONSTANTS] += (offset, bits)
            lists[words.FIXED] += (1, offset)
        packed = 0
        for i, leaf in enumerate(self.body.inputs):
            place, operand = builder.frame.place(leaf.view), self.operands[i]
            n, kind = place.size, self._kind(i)
            if kind == "carry":
                lists[words.INITIAL] += (operand, n, packed)
                lists[words.CARRIES_IN] += (packed, n, place.offset)
                lists[words.CARRIES_OUT] += (outputs[i].offset, n, packed)
                packed += n
            elif place.space != layout.VALUES:
                lists[words.POINTED] += (operand, place.space, n if kind == "slice" else 0)
            elif kind == "slice":
                lists[words.SLICES_IN] += (operand, n, place.offset)
            else:
                lists[words.COPIED] += (operand, n, place.offset)
                lists[words.FIXED] += (n, place.offset)
        self.carried = packed
        for slot in outputs[self.carries :]:
            n = size_of(slot.shape)
            lists[words.SLICES_OUT] += (slot.offset, n, packed)
            packed += n * self.steps
        self.count_at = packed

    # --- its reverse sweep ------------------------------------------------------------------------

    def _reverse(self, builder: Any, segments: list, starts: np.ndarray) -> np.ndarray:
        """Reverse code, and the lists of where cotangents come from and go."""
        targets = builder.find_varied(segments)
        stream = Stream()
        lowering = ReverseLowering(builder.frame, stream, targets)
        self._adding(builder, targets)
        self._seeds(builder, targets, lowering)
        builder.reverse_segments(segments, stream, lowering, starts)
        self._gradients(builder, targets, stream)
        return stream.words()

    def _adding(self, builder: Any, targets: Targets) -> None:
        """Gradients of invariants, and of what is read in place, are added to by every step."""
        for i in self.varied or ():
            view = self.body.inputs[i].view
            if view.buffer != SCALAR:
                in_place = builder.frame.place(view).space != layout.VALUES
                if in_place or self._kind(i) == "invariant":
                    targets.touched_buffers.add(view.buffer)

    def _seeds(self, builder: Any, targets: Targets, lowering: ReverseLowering) -> None:
        carried, stacked = 0, self.carried
        for i, leaf in enumerate(self.body.outputs):
            n = leaf.view.size
            if i < self.carries:
                if targets.varies(leaf.view) and n:
                    entry = self._seed(builder, targets, lowering, leaf.view)
                    self.lists[words.SEEDS] += (self.gradients[i], n, *entry)
                carried += n
            else:
                if targets.varies(leaf.view) and n:
                    entry = self._seed(builder, targets, lowering, leaf.view)
                    self.lists[words.SLICE_SEEDS] += (stacked, n, *entry)
                stacked += n * self.steps

    def _seed(
        self, builder: Any, targets: Targets, lowering: ReverseLowering, view: View
    ) -> tuple[int, int]:
        """Where an output's cotangent is put, and whether it is added to what is there."""
        place = builder.frame.place(view)
        if view.buffer == SCALAR:
            targets.add_mode(view, lowering.stream)
            return place.offset, 1
        untouched = view.buffer not in targets.touched_buffers
        size = self.body.buffers[view.buffer].size
        if untouched and place.contiguous and place.space == layout.VALUES and view.size == size:
            targets.touched_buffers.add(view.buffer)
            return place.offset, 0
        offset = builder.arena.reserve(view.size)
        lowering.contribute(view, whole(view.shape, offset, layout.ADJOINTS))
        return offset, 0

    def _gradients(self, builder: Any, targets: Targets, stream: Stream) -> None:
        lists = self.lists
        carried = 0
        for i, leaf in enumerate(self.body.inputs):
            view, n = leaf.view, leaf.view.size
            at, kind = carried, self._kind(i)
            carried += n if kind == "carry" else 0
            if i not in (self.varied or ()) or not n:
                continue
            place, to = builder.frame.place(view), self.gradients[i]
            is_scalar = view.buffer == SCALAR
            if place.space != layout.VALUES:
                lists[words.POINTED_GRADIENTS] += (
                    place.space + 1, to, n if kind == "slice" else 0
                )  # fmt: skip
                continue
            if not is_scalar and not targets.touched(view):
                targets.add_mode(view, stream)
            if kind == "carry":
                lists[words.CARRY_GRADIENTS] += (place.offset, n, to, int(is_scalar), at)
            elif kind == "slice":
                lists[words.SLICE_GRADIENTS] += (place.offset, n, to, int(is_scalar))
            else:
                lists[words.KEPT_GRADIENTS] += (place.offset, n, to)

    # --- the table --------------------------------------------------------------------------------

    def _table(self, child: Any, arena: Arena) -> np.ndarray:
        """The words that kernels read; takes the loop's room."""
        header = [0] * words.TABLE_HEADER
        every, memory, disk = 1, 0, 0
        at = 0
        if self.varied is not None:
            chosen = self._layout(child)
            every, memory, disk = chosen.every, chosen.memory, chosen.disk
            self.directory = chosen.directory
            if disk and arena.is_body:
                raise ScheduleError(
                    f"{self.checkpoint}: a loop in the body of another loop keeps no snapshots in "
                    "a file, as they would have to outlive its run; give the outer loop that "
                    "schedule"
                )
            for word, size in (
                (words.STATE, chosen.state_words),
                (words.WORK, self.carried),
                (words.SNAPSHOTS, memory * self.carried),
            ):
                header[word] = at
                at += padded(size)
        header[words.REGIONS] = at
        self._check_room(at + every * child.arena_size, child)
        header[words.ROOM] = arena.fixed(at + every * child.arena_size)
        header[words.STRIDE] = child.arena_size
        header[words.LIMIT] = self.steps
        header[words.DYNAMIC] = int(self.dynamic)
        header[words.BACKWARD] = int(self.backward)
        header[words.STORES] = int(self.varied is not None)
        header[words.EVERY], header[words.MEMORY], header[words.DISK] = every, memory, disk
        header[words.COST] = len(child.forward) + child.arena_size
        header[words.COUNT_AT] = self.count_at
        header[words.CARRIED] = self.carried
        header[words.GRADIENT_SIZE] = self.gradient_size
        self._merge()
        for number, entries in enumerate(self.lists):
            header[words.LISTS + 2 * number] = len(header)
            header[words.LISTS + 2 * number + 1] = len(entries) // words.WIDTHS[number]
            header += entries
        return np.array(header, np.int64)

    def _check_room(self, size: int, child: Any) -> None:
        if size >= PROVISIONAL:
            raise TraceError(
                f"the gradient of a loop of {self.steps} steps would keep {8 * size / 1e9:.0f} GB "
                f"({8 * child.arena_size} bytes a step); give the loop a schedule, as "
                "checkpoint=tapejit.Revolve(snapshots=50)"
            )

    def _layout(self, child: Any) -> Any:
        """The schedule's numbers for this loop."""
        from .fit import inner_bytes

        step = 8 * child.arena_size
        # The working carry, and what rounding up to cache lines takes.
        rest = 8 * padded(self.carried) + 3 * 64
        costs = Costs(8 * self.carried, step, rest + inner_bytes(child))
        schedule = self.checkpoint
        if schedule is None and self.dynamic:
            schedule = Online(_SNAPSHOTS, min(max(_BLOCK // step, 1), _LONGEST_BLOCK))
        elif schedule is None:
            schedule = StoreAll()
        self.plan = make_plan(schedule, None if self.dynamic else self.steps, costs)
        return self.plan.layout

    def _merge(self) -> None:
        """Fewer, longer copies where neighbours lie side by side."""
        lists = self.lists
        fixed = sorted(zip(lists[words.FIXED][1::2], lists[words.FIXED][::2], strict=True))
        runs: list[list[int]] = []
        for offset, n in fixed:
            if runs and runs[-1][0] + runs[-1][1] == offset:
                runs[-1][1] += n
            else:
                runs.append([offset, n])
        lists[words.FIXED] = [word for offset, n in runs for word in (n, offset)]
        for number in (words.CARRIES_IN, words.CARRIES_OUT):
            merged: list[list[int]] = []
            entries = lists[number]
            for a, n, b in zip(entries[::3], entries[1::3], entries[2::3], strict=True):
                last = merged[-1] if merged else None
                if last and last[0] + last[1] == a and last[2] + last[1] == b:
                    last[1] += n
                else:
                    merged.append([a, n, b])
            lists[number] = [word for entry in merged for word in entry]


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


# --- calls ----------------------------------------------------------------------------------------
# An operation's parameters are (spec,) with a spec of ``ops.control``; ``loop_vjp`` has the active
# operands besides.


def _loops(spec: Any) -> list[Loop]:
    """The loops of a spec: one, or one for each branch."""
    return [
        Loop(
            body, spec.carries, spec.slices, spec.steps, spec.dynamic, spec.backward, operands,
            spec.checkpoint,
        )
        for body, operands in zip(spec.bodies, spec.operands, strict=True)
    ]  # fmt: skip


def _enter(arena: Arena, spec: Any) -> int:
    """Add a spec's loops to the program; the number of the first."""
    first = len(arena.loops)
    arena.loops += _loops(spec)
    return first


def _head(first: int, spec: Any, operands: list[Place]) -> tuple[int, ...]:
    """Words that name the loop, or the branches and their index (the last operand)."""
    if not spec.is_branch:
        return (first,)
    index = operands[-1]
    return (first, len(spec.bodies), index.space, index.offset)


def _pairs(places: list[Place]) -> list[int]:
    return [word for place in places for word in (place.space, place.offset)]


def _kernel(spec: Any, sweep: str) -> str:
    return f"branch_{sweep}" if spec.is_branch else f"loop_{sweep}"


@forward("loop")
def _loop(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    (spec,) = params
    places = [contiguous(place, arena, stream) for place in operands]
    first = _enter(arena, spec)
    arena.entered[out.space, out.offset] = (first, places)
    head = _head(first, spec, places)
    stream.call(_kernel(spec, "forward"), (*head, out.space, out.offset, *_pairs(places)))


def _prepare_gradients(
    arena: Arena, spec: Any, first: int, wanted: set[int]
) -> tuple[list[int], int]:
    """Have loops store what their reverse sweeps read; where each operand's gradient lies.

    ``wanted``: operands that vary.
    """
    loops = arena.loops[first : first + len(spec.bodies)]
    active: set[int] = set(wanted)
    for loop in loops:
        inputs = {i for i, operand in enumerate(loop.operands) if operand in wanted}
        loop.varied = varying(loop.body, loop.carries, inputs)
        active |= {loop.operands[i] for i in loop.varied}
    offsets, size = {}, 0
    for operand in sorted(active):
        offsets[operand] = size
        size += spec.operand_size(operand)
    for loop in loops:
        loop.gradients = tuple(offsets.get(operand, 0) for operand in loop.operands)
        loop.gradient_size = size
    return offsets, size


def _emit_reverse(
    arena: Arena, stream: Stream, spec: Any, first: int, g: Place, result: Place,
    places: list[Place], wanted: set[int], to: int | None = None,
) -> dict[int, Place]:  # fmt: skip
    """The reverse sweep of a loop; places of the wanted operands' gradients."""
    offsets, size = _prepare_gradients(arena, spec, first, wanted)
    gradients = arena.reserve(size) if to is None else to
    head = _head(first, spec, places)
    stream.call(
        _kernel(spec, "reverse"),
        (*head, g.space, g.offset, layout.VALUES, gradients, result.space, result.offset,
         *_pairs(places)),
    )  # fmt: skip
    return {
        i: whole(spec.operand_shape(i), gradients + offsets[i]) for i in sorted(wanted)
    }  # fmt: skip


@reverse("loop")
def _loop_reverse(rev: Any, call: Any) -> None:
    (spec,) = call.params
    result = rev.place(call.result)
    first, places = rev.arena.entered[result.space, result.offset]
    wanted = {
        i for i, view in enumerate(call.operands) if rev.targets.varies(view) and spec.is_float(i)
    }
    if not wanted:
        return
    found = _emit_reverse(
        rev.arena, rev.stream, spec, first, rev.adjoint(call.result), result, places, wanted
    )
    for i, place in found.items():
        rev.contribute(call.operands[i], place)


@forward("loop_vjp")
def _loop_vjp(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    """Forward and reverse of a loop: gradients of the active operands, packed, in ``out``."""
    spec, active = params
    g, *places = [contiguous(place, arena, stream) for place in operands]
    result = whole((spec.result_size,), arena.reserve(spec.result_size))
    first = _enter(arena, spec)
    head = _head(first, spec, places)
    stream.call(_kernel(spec, "forward"), (*head, result.space, result.offset, *_pairs(places)))
    found = _emit_reverse(arena, stream, spec, first, g, result, places, set(active))
    at = out.offset
    for i in active:
        stream.copy(whole(found[i].shape, at, out.space), found[i])
        at += found[i].size
