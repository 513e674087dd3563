"""Lowering of a whole tape: forward or tangent code, reverse code, constants, tables."""

from __future__ import annotations

import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..config import settings
from ..errors import UnsupportedError
from ..interpreters import layout
from ..interpreters.layout import CALL
from ..ops.structural import IN_PLACE, STRUCTURAL
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Region, Tape, View, size_of
from . import elementwise, lanes, reads, scalars, structural
from . import loop_calls as loop_calls  # registers its operations
from .elementwise import Group
from .frame import IN_PLACE_FROM, LINE, Arena, Frame, tangent, whole
from .liveness import Room, settle
from .regions import Tree, recompute
from .regions import settle as settle_regions
from .reverse import ReverseLowering, Targets
from .scalars import compiled, fixed_rows, runs, tables
from .slots import share_slots
from .stream import Place, Stream

__all__ = ["Code", "Slot", "build", "code_of", "inline", "varied_outputs"]


class Slot(NamedTuple):
    """Where an argument goes, or where a result is taken from.

    ``in_place``: the number of the space that points at the caller's own array, 0 for a copy.
    """

    in_place: int
    space: int
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Code:
    """What :class:`~tapejit.program.Program` needs of a lowered tape."""

    forward: np.ndarray
    reverse: np.ndarray
    tangent: np.ndarray
    arena_size: int
    scratch_size: int  # of its own, behind which lies that of the loop that runs
    register_size: int  # the part of it that is tile registers
    scalar_constants: tuple[np.ndarray, np.ndarray]
    constants: np.ndarray
    large_constants: list[np.ndarray]
    parameters: list[Slot]
    values: list[Slot]
    gradients: list[Slot]
    tangents_in: list[Slot]
    tangents_out: list[Slot]
    seeds: list[Slot]
    starts: np.ndarray  # first forward (or tangent) word of each tape row
    scalar_base: int
    array_base: int
    rewrites: bool  # the reverse sweep spoils values: run forward again before the next
    recomputed: int | None  # forward words that the reverse sweep runs again; None: no regions
    adjoint_size: int  # the part of the arena that has adjoints (and tangents)
    loops: list[Any]  # LoopCode: staged loops and branches, by number
    turns: list[tuple[int, int]]  # (reverse word, tape row) where each segment's code begins

    @property
    def stacked_scratch(self) -> int:
        """Doubles of scratch with that of loops, which lies behind: one of them runs at a time."""
        inner = (loop.child.stacked_scratch for loop in self.loops)
        return self.scratch_size + max(inner, default=0)

    @property
    def resumable(self) -> bool:
        """Whether a sweep of another path can go on from a guard with these values."""
        return self.recomputed is None


#: A longer chain would gain nothing, and could not be cut for a checkpointing schedule.
_LONGEST_CHAIN = 48


def _tile_from() -> int:
    """Elementwise operations on more elements than this run in tiles; a register holds one."""
    return min(settings.tile_from, layout.TILE)


class _Segment(NamedTuple):
    """Consecutive rows: scalar code (no calls), one structural call, or an elementwise group."""

    first: int
    last: int
    calls: list[Call]


class _Builder:
    """One tape being lowered."""

    def __init__(
        self, tape: Tape, wrt: tuple[int, ...], mode: str, planned: bool = False,
        in_place: Sequence[int] = (), regions: Sequence[Region] = (), lanes: bool = False,
        is_body: bool = False,
    ) -> None:  # fmt: skip
        self.tape = tape
        self.lanes = lanes
        self.wrt = wrt
        self.mode = mode
        self.code = tape.code
        #: Rows before this one leave all their values: another path may go on from a guard.
        self.keep = fixed_rows(tape.code)
        self.arena = Arena(planned, is_body)
        self.tree = Tree(regions, tape) if regions else None
        self.frame = Frame(
            self.arena, tape, in_place=in_place, permanent=self.keep > 0,
            is_virtual=self.tree is not None or is_body, by_home=self.tree is not None,
        )  # fmt: skip
        self.uses = self.buffer_uses()
        self.turns: list[tuple[int, int]] = []
        self.unrestored: set[int] = set()

    # --- preparation ----------------------------------------------------------------------------

    def buffer_uses(self) -> dict[int, int]:
        """How often each buffer is named by calls, scalar rows and outputs."""
        uses: dict[int, int] = {}
        for call in self.tape.calls:
            for view in call.operands:
                uses[view.buffer] = uses.get(view.buffer, 0) + 1
        for buffer in [*(leaf.view.buffer for leaf in self.tape.outputs), *self.tape.addressed]:
            uses[buffer] = uses.get(buffer, 0) + 10**6
        return uses

    # --- segments -------------------------------------------------------------------------------

    def segments(self) -> list[_Segment]:
        """The live rows, with long elementwise calls of one shape grouped into chains."""
        found: list[_Segment] = []
        apart = self.tree.boundaries if self.tree else []
        edges = set(apart)
        for first, last, call in runs(self.code, self.tape.calls):
            if call is None:
                ends = apart[bisect_right(apart, first) : bisect_left(apart, last)]
                found += [_Segment(a, b, []) for a, b in pairwise((first, *ends, last))]
            elif found and first not in edges and self._joins(found[-1], call):
                previous = found.pop()
                found.append(_Segment(previous.first, last, [*previous.calls, call]))
            else:
                found.append(_Segment(first, last, [call]))
        return found

    def _joins(self, segment: _Segment, call: Call) -> bool:
        """Whether a call extends the chain that ends with ``segment``."""
        calls = segment.calls
        if not calls or calls[0].op not in OPS or len(calls) >= _LONGEST_CHAIN:
            return False
        shape = calls[0].result.shape
        if calls[0].result.size <= _tile_from():
            return False
        if call.op == "sum":
            (operand,) = call.operands
            inside = any(operand == c.result for c in calls if c.op in OPS)
            return inside and len(call.params[0]) == len(shape)
        if call.op not in OPS or call.result.shape != shape:
            return False
        # What the chain makes is complete tile by tile only: no other view of it can be read yet.
        made = {c.result.buffer for c in calls if c.op in OPS}
        for view in call.operands:
            if view.buffer in made and view != self._whole(view.buffer, call, view):
                return False
        # A full sum's scalar is only complete when the chain has ended.
        sums = {c.result.offset for c in calls if c.op == "sum"}
        return not any(v.buffer == SCALAR and v.offset in sums for v in call.operands)

    def group(self, segment: _Segment) -> Group:
        """An elementwise segment, with its register-only intermediates chosen."""
        shape, n = segment.calls[0].result.shape, segment.calls[0].result.size
        tiled = n > _tile_from()
        group = Group(self.frame, segment.calls, shape, n, tiled)
        if tiled and segment.first >= self.keep:
            group.elided = self._elided(segment)
        return group

    def _elided(self, segment: _Segment) -> set[int]:
        chosen = set()
        inside: dict[int, int] = {}
        for call in segment.calls:
            for view in call.operands:
                if view.buffer != SCALAR:
                    whole_view = view == self._whole(view.buffer, call, view)
                    inside[view.buffer] = inside.get(view.buffer, 0) + (
                        1 if whole_view else -(10**6)
                    )
        for call in segment.calls:
            if call.op == "sum":
                continue
            buffer = call.result.buffer
            if self.mode == "gradient" and OPS[call.op].costly:
                continue
            if inside.get(buffer, 0) == self.uses.get(buffer, 0) > 0:
                chosen.add(buffer)
        return chosen

    def _whole(self, buffer: int, call: Call, view: View) -> View:
        shape = view.shape
        place = whole(shape, 0)
        same = place.size == self.tape.buffers[buffer].size
        return View(buffer, 0 if same else -1, shape, place.strides)

    # --- activity -------------------------------------------------------------------------------

    def find_varied(self, segments: list[_Segment]) -> Targets:
        """Forward activity: what depends on the differentiated arguments."""
        arity, active, _ = tables()
        marks = np.zeros(max(self.frame.n_addresses, 1), np.uint8)
        buffers: set[int] = set()
        targets = Targets(self.frame, marks, buffers)
        base, array_base = self.frame.scalar_base, self.frame.array_base

        def mark(view: View) -> None:
            if view.buffer == SCALAR:
                marks[base + view.offset] = 1
            elif view.buffer not in buffers:
                buffers.add(view.buffer)
                buffer = self.tape.buffers[view.buffer]
                if view.buffer in self.tape.addressed:
                    marks[array_base + buffer.base : array_base + buffer.base + buffer.size] = 1

        for index in self.wrt:
            mark(self.tape.inputs[index].view)
        for segment in segments:
            if not segment.calls:
                compiled(scalars.vary)(
                    self.code, marks, arity, active, segment.first, segment.last, base, array_base
                )
                self._mark_written_buffers(segment, marks, mark)
            for call in segment.calls:
                if any(targets.varies(v) for v in _differentiable_operands(call)):
                    mark(call.result)
                    if call.op in IN_PLACE:
                        mark(call.operands[-1])
        return targets

    def _mark_written_buffers(self, segment: _Segment, marks: np.ndarray, mark) -> None:
        rows = self.code[segment.first : segment.last]
        targets = np.unique(rows[rows[:, 0] == layout.WRITE, 2])
        targets = targets[targets >= ARRAY] - ARRAY
        targets = targets[marks[self.frame.array_base + targets] != 0]
        if len(targets):
            for buffer in np.unique(self.tape.buffer_of(targets)).tolist():
                mark(View(buffer, 0, (), ()))

    def lay_out(self, segments: list[_Segment]) -> None:
        """Give values their places where regions share them; before any code is written."""
        if self.tree is not None:
            varied = self.find_varied(segments).varied
            chains = [self.group(s) for s in segments if s.calls and s.calls[0].op in OPS]
            elided = {buffer for chain in chains for buffer in chain.elided}
            settle_regions(self.frame, self.tree, varied, self.scalar_elements(), elided)

    def scalar_elements(self) -> np.ndarray:
        """Array elements that scalar rows address."""
        elements = self.code[self.code[:, 0] < CALL, 1:]
        return np.unique(elements[elements >= ARRAY])

    # --- emission -------------------------------------------------------------------------------

    def emit_scalars(self, stream: Stream, first: int, last: int, starts: np.ndarray) -> None:
        """Forward words of scalar rows."""
        arity, _, _ = tables()
        words = np.empty(5 * (last - first), np.int32)
        local = np.empty(last - first, np.int32)
        n = compiled(scalars.emit_forward)(
            self.code[first:last], arity, 0, last - first, self.frame.scalar_base,
            self.frame.array_base, words, 0, local,
        )  # fmt: skip
        starts[first:last] = local + stream.length
        stream.scalars(self.frame.relocated(words[:n].copy()))

    def emit_forward(self, segments: list[_Segment]) -> tuple[Stream, np.ndarray]:
        """The forward code, and where each row's words start (at last: where they end)."""
        stream = Stream()
        starts = np.zeros(len(self.code) + 1, np.int32)
        self.find_unrestored(segments)
        for segment in segments:
            if not segment.calls:
                self.emit_scalars(stream, segment.first, segment.last, starts)
                continue
            starts[segment.first : segment.last] = stream.length
            if segment.calls[0].op in OPS:
                elementwise.lower_forward(self.group(segment), stream)
            elif segment.first >= self.keep and self._saves_nothing(segment.calls[0]):
                structural.overwrite(self.frame, stream, segment.calls[0])
            else:
                with self.located(segment):
                    emit_call(self.frame, stream, segment.calls[0])
        starts[-1] = stream.length
        return stream, starts

    def find_unrestored(self, segments: list[_Segment]) -> None:
        """Which in-place writes the reverse sweep need not undo."""
        if self.tree is None and any(call.op in IN_PLACE for call in self.tape.calls):
            self.unrestored = reads.unrestored(self.tape, segments, self.group)

    def _saves_nothing(self, call: Call) -> bool:
        """Whether what an in-place write overwrites is never read again."""
        if call.op not in IN_PLACE or self.uses.get(call.result.buffer, 0):
            return False
        return self.mode == "value" or id(call) in self.unrestored

    def emit_tangent(self, segments: list[_Segment], targets: Targets) -> tuple[Stream, np.ndarray]:
        """Values and tangents in one sweep; every intermediate is stored."""
        stream = Stream(self.lanes)
        starts = np.zeros(len(self.code), np.int32)
        moving = self._moving_calls(segments)
        for segment in segments:
            if not segment.calls:
                self.emit_scalars(stream, segment.first, segment.last, starts)
                continue
            starts[segment.first : segment.last] = stream.length
            with self.located(segment):
                for call in segment.calls:
                    if id(call) in moving:
                        self._tangent_call(stream, call, targets)
                    else:
                        self._value_call(stream, call)
        return stream, starts

    def _moving_calls(self, segments: list[_Segment]) -> set[int]:
        """Calls whose tangents the outputs' tangents may need.

        Others feed what has no derivative alone: the operands of a user's rule, say, which knows
        the derivative of a whole function.
        """
        wanted: set[tuple[int, int]] = set()

        def key(view: View) -> tuple[int, int]:
            return view.buffer, view.offset if view.buffer == SCALAR else 0

        rows = self.code[(self.code[:, 0] >= 0) & (self.code[:, 0] < CALL)]
        elements = np.unique(rows[:, 1:])
        wanted.update((SCALAR, e) for e in elements[elements < ARRAY].tolist())
        if (elements >= ARRAY).any():
            found = self.tape.buffer_of(elements[elements >= ARRAY] - ARRAY)
            wanted.update((buffer, 0) for buffer in np.unique(found).tolist())
        wanted.update(key(leaf.view) for leaf in self.tape.outputs)
        moving = set()
        for segment in reversed(segments):
            for call in reversed(segment.calls):
                in_place = call.op in IN_PLACE
                if in_place or key(call.result) in wanted:
                    moving.add(id(call))
                    wanted.update(key(view) for view in _differentiable_operands(call))
        return moving

    def _value_call(self, stream: Stream, call: Call) -> None:
        """The value of a call alone."""
        if call.op in OPS:
            n, shape = call.result.size, call.result.shape
            group = Group(self.frame, [call], shape, n, n > _tile_from())
            elementwise.lower_forward(group, stream)
        else:
            emit_call(self.frame, stream, call)

    def _tangent_call(self, stream: Stream, call: Call, targets: Targets) -> None:
        frame = self.frame
        varies = [targets.varies(view) for view in call.operands]
        if call.op in OPS:
            n, shape = call.result.size, call.result.shape
            tiled = n > _tile_from()
            elementwise.lower_forward(Group(frame, [call], shape, n, tiled), stream)
            elementwise.lower_tangent(call, frame, stream, varies, n, shape, tiled)
            return
        if self._value_and_tangent(stream, call, tuple(varies)):
            return
        if call.op not in IN_PLACE:
            emit_call(frame, stream, call)
        out = tangent(frame.place(call.result))
        if not any(varies):
            if call.op in IN_PLACE:
                emit_call(frame, stream, call)
            elif call.result.size:
                stream.copy(out, structural.zero(self.arena, out.shape))
        elif call.op in structural.LINEAR:
            operands = [
                self._tangent_or_zero(view, varied)
                if STRUCTURAL[call.op].is_active(i)
                else frame.place(view)
                for i, (view, varied) in enumerate(zip(call.operands, varies, strict=True))
            ]
            if call.op in IN_PLACE:
                operands[-1] = tangent(frame.place(call.operands[-1]))
            structural.FORWARD[call.op](self.arena, stream, operands, out, call.params)
            if call.op in IN_PLACE:
                emit_call(frame, stream, call)
        else:
            self._tangent_rule(stream, call, varies, out)

    def _value_and_tangent(self, stream: Stream, call: Call, varies: tuple[bool, ...]) -> bool:
        """Value and tangent of a call by one rule; whether there is one, and an operand moves."""
        from .rules import both_tape

        rule = both_tape(call, varies) if any(varies) else None
        if rule is None:
            return False
        moving = [view for view, varied in zip(call.operands, varies, strict=True) if varied]
        places = [self.frame.place(view) for view in call.operands]
        places += [tangent(self.frame.place(view)) for view in moving]
        value, moved = inline(self.arena, stream, rule, places)
        result = self.frame.place(call.result)
        stream.copy(result, value)
        stream.copy(tangent(result), moved)
        return True

    def _tangent_or_zero(self, view: View, varied: bool) -> Place:
        if varied:
            return tangent(self.frame.place(view))
        return structural.zero(self.arena, view.shape)

    def _tangent_rule(self, stream: Stream, call: Call, varies: list[bool], out: Place) -> None:
        from .rules import jvp_tape

        rule = jvp_tape(call, tuple(varies))
        if rule is None:
            stream.copy(out, structural.zero(self.arena, out.shape))
            return
        views = [call.result, *call.operands]
        places = [self.frame.place(view) for view in views]
        moving = [view for view, varied in zip(call.operands, varies, strict=True) if varied]
        places += [tangent(self.frame.place(view)) for view in moving]
        (result,) = inline(self.arena, stream, rule, places)
        stream.copy(out, result)

    def emit_reverse(
        self, segments: list[_Segment], targets: Targets, seeds: list[Slot | None],
        starts: np.ndarray,
    ) -> tuple[Stream, list[Slot]]:  # fmt: skip
        """The reverse code, and where the gradients are; ``starts`` as from the forward code."""
        stream = Stream(self.lanes)
        lowering = ReverseLowering(self.frame, stream, targets, self.unrestored)
        for leaf, seed in zip(self.tape.outputs, seeds, strict=True):
            if seed is not None and self.lanes:
                if not targets.varies(leaf.view):
                    continue
                lowering.targets.add_mode(leaf.view, stream)
                target = lanes.in_lanes(lowering.adjoint(leaf.view))
                source = lanes.laid_out(leaf.view.shape, seed.offset, layout.VALUES)
                stream.strided("accumulate", "nd_add", target, source)
            elif seed is not None:
                lowering.contribute(leaf.view, whole(leaf.view.shape, seed.offset))
        self.reverse_segments(segments, stream, lowering, starts)
        return stream, [self._gradient(stream, index, targets) for index in self.wrt]

    def reverse_segments(
        self, segments: list[_Segment], stream: Stream, lowering: ReverseLowering,
        starts: np.ndarray,
    ) -> None:  # fmt: skip
        """The reverse code of all segments, last one first; regions are computed again before."""
        for segment in reversed(segments):
            for node in self.tree.enter(segment.first) if self.tree else ():
                recompute(self.frame, self.tree, node, starts, stream)
            self.turns.append((stream.length, segment.first))
            if not segment.calls:
                self._reverse_scalars(stream, segment, lowering)
            elif segment.calls[0].op in OPS:
                elementwise.lower_reverse(self.group(segment), stream, lowering.targets)
            else:
                with self.located(segment):
                    lowering.call(segment.calls[0])

    @contextlib.contextmanager
    def located(self, segment: _Segment) -> Iterator[None]:
        """Errors of the segment's rules, and those of its loops later on, name the user's line."""
        known = len(self.arena.loops)
        try:
            yield
        except UnsupportedError as error:
            file, line = self.tape.line(segment.first)
            raise UnsupportedError(f"{file}:{line}: {error}") from error.__cause__
        for loop in self.arena.loops[known:]:
            file, line = self.tape.line(segment.first)
            loop.line = f"{file}:{line}"

    def _reverse_scalars(
        self, stream: Stream, segment: _Segment, lowering: ReverseLowering
    ) -> None:
        arity, active, reverse = tables()
        first, last = segment.first, segment.last
        targets = lowering.targets
        words = np.empty(5 * (last - first), np.int32)
        n = compiled(scalars.emit_reverse)(
            self.code, arity, active, reverse, first, last, self.frame.scalar_base,
            self.frame.array_base, targets.varied, targets.touched_scalars, words, 0,
        )  # fmt: skip
        lowering.prepare_scalars(self.code[first:last])
        stream.scalars(self.frame.relocated(words[:n].copy()))

    def _gradient(self, stream: Stream, index: int, targets: Targets) -> Slot:
        """Where an argument's gradient lies after the sweep."""
        view = self.tape.inputs[index].view
        shape = view.shape
        place = self.frame.adjoint(view)
        if view.buffer == SCALAR:
            slot = self._copied(stream, place) if self.lanes else None
            if slot is None:
                offset = self.arena.reserve(1)
                stream.copy(whole((), offset), place)
                slot = Slot(0, layout.VALUES, offset, shape)
            stream.raw((layout.ZERO, place.offset, 1))
            return slot
        if view.size and not targets.touched(view):
            targets.add_mode(view, stream)
        if self.lanes:
            return Slot(0, layout.ADJOINTS, layout.LANES * place.offset, (*shape, layout.LANES))
        in_place = place.space if place.space >= layout.ARGUMENTS else 0
        return Slot(in_place, place.space, place.offset, shape)

    def _copied(self, stream: Stream, place: Place) -> Slot:
        """A contiguous place of the adjoints or tangents of all lanes."""
        source = lanes.in_lanes(place)
        if place.space == layout.TANGENTS and place.shape and place.contiguous:
            return Slot(0, place.space, source.offset, source.shape)
        copy = whole(source.shape, self.arena.reserve(source.size))
        stream.strided("copy", "nd_copy", copy, source)
        return Slot(0, copy.space, copy.offset, copy.shape)

    def output(self, stream: Stream, place: Place) -> Slot:
        """A contiguous place of an output."""
        if place.space != layout.VALUES or not place.contiguous:
            if place.space == layout.TANGENTS and place.contiguous:
                return Slot(0, place.space, place.offset, place.shape)
            copy = whole(place.shape, self.arena.reserve(place.size))
            stream.copy(copy, place)
            place = copy
        return Slot(0, place.space, place.offset, place.shape)

    def share_space(
        self, streams: list[Stream], words: list[np.ndarray], values: list[Slot],
        gradients: list[Slot], repeatable: bool,
    ) -> tuple[list[Slot], list[Slot]]:  # fmt: skip
        """Settle where everything lies; the results' slots with their final offsets."""
        rooms = []
        for position, argument in enumerate(self.arena.in_place):
            space = layout.ARGUMENTS + 3 * position + 1
            if space in self.frame.untouched_before:
                size = self.tape.inputs[argument].view.size
                rooms.append(Room(space, size, self.frame.untouched_before[space]))
        slots = (*values, *gradients)
        found = settle(
            self.arena, streams, words[: len(streams)], [slot.offset for slot in slots], rooms,
            repeatable, again=self.tree is not None,
        )  # fmt: skip
        slots = [slot._replace(offset=found.get(slot.offset, slot.offset)) for slot in slots]
        return slots[: len(values)], slots[len(values) :]

    def parameters(self) -> list[Slot]:
        """Where the arguments go."""
        slots = []
        for leaf in self.tape.inputs:
            place = self.frame.place(leaf.view)
            in_place = place.space if place.space != layout.VALUES else 0
            slots.append(Slot(in_place, place.space, place.offset, place.shape))
        return slots


def rows_of_chains(tape: Tape) -> np.ndarray:
    """Rows of long elementwise chains but for the first of each: a cut there changes rounding."""
    segments = _Builder(tape, (), "value").segments()
    rows = [np.arange(s.first + 1, s.last) for s in segments if len(s.calls) > 1]
    return np.concatenate([np.zeros(0, np.int64), *rows])


def _differentiable_operands(call: Call) -> list[View]:
    if call.op in OPS:
        flags = elementwise.differentiable(call.op)
        return [v for v, is_on in zip(call.operands, flags, strict=True) if is_on]
    active = STRUCTURAL[call.op].active
    return list(call.operands) if active is None else [call.operands[i] for i in active]


def emit_call(frame: Frame, stream: Stream, call: Call) -> None:
    """Forward code of one structural call."""
    operands = [frame.place(view) for view in call.operands]
    function = structural.FORWARD[call.op]
    function(frame.arena, stream, operands, frame.place(call.result), call.params)


def inline(
    arena: Arena, stream: Stream, tape: Tape, places: list[Place], in_reverse: bool = False
) -> list[Place]:
    """Forward code of a rule's tape with ``places`` for its inputs; returns its outputs' places.

    The reverse interpreter has no forward op codes: there (``in_reverse``) scalar code is called.
    """
    by_scalars = bool((tape.code[:, 1:] >= ARRAY).any()) and bool((tape.code[:, 0] < CALL).any())
    bound = {}
    for leaf, place in zip(tape.inputs, places, strict=True):
        if leaf.view.buffer != SCALAR and place.contiguous and not by_scalars:
            bound[leaf.view.buffer] = place
    frame = Frame(arena, tape, bound)
    for leaf, place in zip(tape.inputs, places, strict=True):
        if leaf.view.buffer not in bound and leaf.view.size:
            stream.copy(frame.place(leaf.view), place)
    builder = _Builder.__new__(_Builder)
    builder.tape, builder.code, builder.frame, builder.arena = tape, tape.code, frame, arena
    builder.keep, builder.mode, builder.uses = 0, "rule", {}
    for first, last, call in runs(tape.code, tape.calls):
        if call is None:
            scalar_stream = Stream() if in_reverse else stream
            starts = np.zeros(len(tape.code), np.int32)
            builder.emit_scalars(scalar_stream, first, last, starts)
            if in_reverse:
                words = scalar_stream.words().tolist()
                stream.call("scalar_code", (len(words), *words))
        elif call.op in OPS:
            n = call.result.size
            group = Group(frame, [call], call.result.shape, n, n > _tile_from())
            elementwise.lower_forward(group, stream)
        else:
            emit_call(frame, stream, call)
    return [frame.place(leaf.view) for leaf in tape.outputs]


def build(
    tape: Tape, wrt: tuple[int, ...] = (), mode: str = "value", scalar_seed: bool = False,
    regions: Sequence[Region] = (), several: bool = False,
) -> Code:  # fmt: skip
    """Lower a tape.

    Parameters
    ----------
    wrt
        The inputs to differentiate with respect to.
    mode
        ``"value"``, ``"gradient"`` (forward and reverse code) or ``"tangent"``.
    scalar_seed
        The first output is 0-d, its seed is one, and there are no other cotangents.
    regions
        Rows whose values a gradient's reverse sweep computes again.
    several
        Vector mode: ``LANES`` directions in one sweep.  Seeds, gradients and tangents then have the
        lanes as their last dimension.
    """
    if mode == "value" and not fixed_rows(tape.code):
        tape = share_slots(tape)
    # Tangents lie where the values do, at other addresses: there nothing is shared.
    planned = mode != "tangent" and not several
    in_place = () if several else used_in_place(tape)
    again = regions if mode == "gradient" else ()
    builder = _Builder(tape, wrt, mode, planned, in_place, again, several)
    segments = builder.segments()
    empty = np.zeros(0, np.int32)
    reverse = tangent_words = forward = empty
    gradients: list[Slot] = []
    tangents_in: list[Slot] = []
    tangents_out: list[Slot] = []
    seeds: list[Slot | None] = []
    frame, arena = builder.frame, builder.arena
    if mode == "tangent":
        targets = builder.find_varied(segments)
        stream, starts = builder.emit_tangent(segments, targets)
        values = [builder.output(stream, frame.place(leaf.view)) for leaf in tape.outputs]
        for leaf in tape.outputs:
            if targets.varies(leaf.view):
                place = tangent(frame.place(leaf.view))
            else:
                place = structural.zero(arena, leaf.view.shape)
            copied = builder._copied if several else builder.output
            tangents_out.append(copied(stream, place))
        for index in wrt:
            place = tangent(frame.place(tape.inputs[index].view))
            if several:
                place = lanes.in_lanes(place)
            in_place = place.space if place.space != layout.TANGENTS else 0
            tangents_in.append(Slot(in_place, place.space, place.offset, place.shape))
        tangent_words = stream.words()
    else:
        builder.lay_out(segments)
        stream, starts = builder.emit_forward(segments)
        values = [builder.output(stream, frame.place(leaf.view)) for leaf in tape.outputs]
        forward = stream.words()
        streams = [stream]
        if mode == "gradient":
            targets = builder.find_varied(segments)
            # With a scalar seed, further outputs are extra results: no cotangents.
            seeded = tape.outputs[:1] if scalar_seed else tape.outputs
            shapes = [leaf.view.shape + (layout.LANES,) * several for leaf in seeded]
            seeds = [_seed(arena, shape, scalar_seed) for shape in shapes]
            seeds += [None] * (len(tape.outputs) - len(seeded))
            reverse_stream, gradients = builder.emit_reverse(segments, targets, seeds, starts)
            reverse = reverse_stream.words()
            streams.append(reverse_stream)
        values, gradients = builder.share_space(
            streams, [forward, reverse], values, gradients, repeatable=not scalar_seed
        )
    return code_of(
        builder, forward, starts, reverse, tangent_words, values, gradients, tangents_in,
        tangents_out, [s for s in seeds if s is not None],
    )  # fmt: skip


def code_of(
    builder: _Builder, forward: np.ndarray, starts: np.ndarray, reverse: np.ndarray,
    tangent: np.ndarray | None = None, values: Sequence[Slot] = (),
    gradients: Sequence[Slot] = (), tangents_in: Sequence[Slot] = (),
    tangents_out: Sequence[Slot] = (), seeds: Sequence[Slot] = (),
) -> Code:  # fmt: skip
    """What was lowered, put together; staged loops take their room behind all else."""
    arena, frame, tape = builder.arena, builder.frame, builder.tape
    adjoint_size = 0
    if builder.mode != "value":
        adjoint_size = (frame.mirrored if arena.planned else arena.size) + LINE
        adjoint_size *= layout.LANES if builder.lanes else 1
    if not arena.is_body:  # regions of bodies lie one behind the other
        arena.fixed(LINE)
    loops = [loop.finish(arena) for loop in arena.loops]
    rewrites = bool(
        builder.tree is not None
        or (builder.code[:, 0] == layout.WRITE).any()
        or any(call.op in IN_PLACE and id(call) not in builder.unrestored for call in tape.calls)
        or any(loop.rewrites for loop in loops)
    )
    offsets = np.array(list(arena.scalar_constants), np.int64)
    constants = [np.zeros(0), *arena.constant_block, np.zeros(8)]
    if tangent is None:
        tangent = np.zeros(0, np.int32)
    return Code(
        forward, reverse, tangent, arena.size, arena.scratch_size,
        layout.TILE * arena.registers.most,
        (offsets, np.array(list(arena.scalar_constants.values()))), np.concatenate(constants),
        arena.large_constants, builder.parameters(), list(values), list(gradients),
        list(tangents_in), list(tangents_out), list(seeds), starts[: len(tape)],
        frame.scalar_base, frame.array_base, rewrites,
        builder.tree.recomputed if builder.tree else None, adjoint_size, loops, builder.turns,
    )  # fmt: skip


def used_in_place(tape: Tape) -> list[int]:
    """Large arguments that only array instructions read: they are used where they lie."""
    large = [
        b.argument
        for i, b in enumerate(tape.buffers)
        if b.argument >= 0 and b.size > IN_PLACE_FROM and i not in tape.addressed
    ]
    return large[: layout.MAX_IN_PLACE // 2]


def varied_outputs(tape: Tape, moving: frozenset[int]) -> list[bool]:
    """Which outputs of a tape vary where the inputs ``moving`` do."""
    builder = _Builder(tape, tuple(sorted(moving)), "value")
    targets = builder.find_varied(builder.segments())
    return [targets.varies(leaf.view) for leaf in tape.outputs]


def _seed(arena: Arena, shape: tuple[int, ...], scalar_seed: bool) -> Slot:
    """Where an output's cotangent is put before the reverse sweep."""
    offset = arena.fixed(size_of(shape))
    if scalar_seed:
        arena.scalar_constants[offset] = 1.0
    return Slot(0, layout.VALUES, offset, shape)
