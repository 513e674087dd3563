"""Lowering of the body of a staged loop or branch: a child program, laid out for many steps.

What the forward code leaves to the reverse code is a stored step's *region*, in the child's arena;
everything else shares its scratch space by live ranges, the same for all steps.  Long carries that
no scalar code addresses are *pointed*: the loop moves spaces of the child from place to place, so
that a step reads a carry where the step before has written it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..interpreters import layout
from ..interpreters import loop_tables as words
from ..tape import SCALAR, Region, View, row_major, size_of
from .frame import PROVISIONAL, Arena, padded, whole
from .liveness import NEVER, Blocks
from .reverse import ReverseLowering, Targets
from .stream import Place, Stream
from .windows import settle_window

__all__ = ["BodyLowering", "Pointed"]

#: Carries of fewer elements are copied: that costs less than moving spaces.
POINTED_FROM = 64
#: So many carries at most are pointed, the longest ones.
_MOST_POINTED = 12
_BEFORE = -2  # before all that is loaded
_SPACES = 4  # of a pointed carry: what a step takes and gives, and the cotangents of both


@dataclass
class Pointed:
    """A carry with spaces of its own.

    ``gives``: whether steps write the next value to its place themselves; otherwise it is copied.
    ``held``: its offset among the held carries, -1 if the reverse sweep does not read it.
    """

    space: int
    gives: bool
    held: int = -1


@dataclass
class _Uses:
    """Provisional addresses that more than the child's code names, by when."""

    loaded: list[int] = field(default_factory=list)  # filled before each step
    given: list[int] = field(default_factory=list)  # read after each step
    seeded: list[int] = field(default_factory=list)  # filled before each step is reversed
    taken: list[int] = field(default_factory=list)  # read after each step was reversed
    lasting: list[int] = field(default_factory=list)  # in use from step to step
    pointed: dict[int, int] = field(default_factory=dict)  # space, by address


class BodyLowering:
    """A loop's child program, and the lists of the loop's table.

    Attributes
    ----------
    child
        The child's code.
    lists
        Entries of each list, one after the other.
    carried
        Doubles of all carries.
    count_at
        Where the result has the number of steps.
    pointed
        The carries that are not copied, by number.
    held_size
        Doubles of the held carries.
    passing
        How many doubles of a step's window pass (see :mod:`.windows`).
    """

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.body = loop.body
        self.varied: frozenset[int] = loop.varied or frozenset()
        self.lists: list[list[int]] = [[] for _ in range(words.N_LISTS)]
        self.uses = _Uses()
        self.pointed: dict[int, Pointed] = {}
        self.held_size = 0
        self.passing = 0
        self.carried = self.count_at = 0
        self.child = self._lower()

    @property
    def region_size(self) -> int:
        """Doubles of what each stored step keeps, besides held carries."""
        return self.child.arena_size - self.passing

    def _lower(self) -> Any:
        from .build import _Builder, code_of

        loop = self.loop
        mode = "value" if loop.varied is None else "gradient"
        builder = _Builder(
            self.body, tuple(sorted(self.varied)), mode, planned=True, in_place=self._in_place(),
            regions=self._regions(), is_body=True,
        )  # fmt: skip
        self._fix_invariants(builder)
        self._point(builder)
        segments = builder.segments()
        builder.lay_out(segments)
        if builder.tree is None:
            first = loop.carries + loop.slices
            lasting = range(first, len(self.body.inputs))
            self.passing = settle_window(builder, segments, lasting, loop.varied is not None)
        stream, starts = builder.emit_forward(segments)
        self.outputs = [
            builder.output(stream, builder.frame.place(leaf.view)) for leaf in self.body.outputs
        ]
        self._values(builder)
        streams = [stream]
        if loop.varied is not None:
            streams.append(self._reverse(builder, segments, starts))
        self._constants(builder)  # after all code was written
        code = [s.words() for s in streams]
        self._settle(builder, streams, code)
        reversed_words = code[1] if len(code) > 1 else np.zeros(0, np.int32)
        return code_of(builder, code[0], starts, reverse=reversed_words)

    def _regions(self) -> list[Region]:
        """The regions that functions in the body marked."""
        from .build import rows_of_chains
        from .cuts import marked_regions

        if self.loop.varied is None or not self.body.regions:
            return []
        return marked_regions(self.body, rows_of_chains(self.body))

    def _in_place(self) -> list[int]:
        """Arrays that only array instructions read are used where they lie, but for carries."""
        chosen = [
            buffer.argument
            for number, buffer in enumerate(self.body.buffers)
            if buffer.argument >= self.loop.carries and number not in self.body.addressed
        ]
        return chosen[: layout.MAX_IN_PLACE // 2]

    def _kind(self, i: int) -> str:
        if i < self.loop.carries:
            return "carry"
        return "slice" if i < self.loop.carries + self.loop.slices else "invariant"

    def _fix_invariants(self, builder: Any) -> None:
        """Invariants that are copied have their place in every region."""
        for i in range(self.loop.carries + self.loop.slices, len(self.body.inputs)):
            view = self.body.inputs[i].view
            if view.buffer != SCALAR and builder.frame.home[view.buffer][1] >= PROVISIONAL:
                offset = builder.arena.fixed(view.size)
                builder.frame.home[view.buffer] = (layout.VALUES, offset)

    # --- carries that are not copied --------------------------------------------------------------

    def _point(self, builder: Any) -> None:
        """Choose the pointed carries; before any code is written."""
        if builder.tree is not None:
            return
        body, carries, arena = self.body, self.loop.carries, builder.arena
        long = [i for i in range(carries) if self._can_be_pointed(body.inputs[i].view)]
        long = sorted(long, key=lambda i: -body.inputs[i].view.size)[:_MOST_POINTED]
        base = layout.ARGUMENTS + 3 * len(arena.in_place)
        given = [leaf.view.buffer for leaf in body.outputs[:carries]]
        for k, i in enumerate(sorted(long)):
            taken, out = body.inputs[i].view, body.outputs[i].view
            gives = given.count(out.buffer) == 1 and self._is_made_whole(out)
            self.pointed[i] = Pointed(base + _SPACES * k, gives)
            for view in (taken, out)[: 1 + gives]:
                arena.keep_exact(builder.frame.place(view).offset)
        arena.pointed = _SPACES * len(long)

    def _can_be_pointed(self, view: View) -> bool:
        return view.size >= POINTED_FROM and view.buffer not in self.body.addressed

    def _is_made_whole(self, view: View) -> bool:
        """Whether an output is all of a buffer that array instructions of the body fill."""
        if view.buffer == SCALAR or view.buffer in self.body.addressed:
            return False
        buffer = self.body.buffers[view.buffer]
        in_order = view.strides == row_major(view.shape) and view.offset == 0
        return buffer.argument < 0 and buffer.constant < 0 and in_order and view.size == buffer.size

    # --- forward ----------------------------------------------------------------------------------

    def _values(self, builder: Any) -> None:
        """The lists for the forward sweep."""
        lists = self.lists
        for i, leaf in enumerate(self.body.inputs):
            place, n = builder.frame.place(leaf.view), leaf.view.size
            if self._kind(i) == "carry":
                lists[words.INITIAL] += (self.loop.operands[i], n, self.carried)
                self._carry(i, place, self.outputs[i])
                self.carried += n
            else:
                self._other_input(i, place)
        packed = self.carried
        for slot in self.outputs[self.loop.carries :]:
            n = size_of(slot.shape)
            lists[words.SLICES_OUT] += (slot.space, slot.offset, n, packed)
            self.uses.given.append(slot.offset)
            packed += n * self.loop.steps
        self.count_at = packed

    def _constants(self, builder: Any) -> None:
        """The numbers of the body, and of the rules that its reverse code runs."""
        for offset, value in builder.arena.scalar_constants.items():
            bits = int(np.float64(value).view(np.int64))
            self.lists[words.CONSTANTS] += (offset, bits)
            self.lists[words.FIXED] += (1, offset)

    def _carry(self, i: int, place: Place, output: Any) -> None:
        """A carry's way into a step and out of it; who is held is known when all is written."""
        pointed = self.pointed.get(i)
        if pointed is None:
            self.lists[words.CARRIES_IN] += (self.carried, place.size, place.space, place.offset)
            self.uses.loaded.append(place.offset)
        else:
            self.uses.pointed[place.offset] = pointed.space
        if pointed is not None and pointed.gives:
            self.uses.pointed[output.offset] = pointed.space + 1
        else:
            self.uses.given.append(output.offset)

    def _other_input(self, i: int, place: Place) -> None:
        """A slice or an invariant: read in place, or copied."""
        operand, n, kind = self.loop.operands[i], place.size, self._kind(i)
        if place.space != layout.VALUES:
            self.lists[words.POINTED] += (operand, place.space, n if kind == "slice" else 0)
        elif kind == "slice":
            self.lists[words.SLICES_IN] += (operand, n, place.space, place.offset)
            self.uses.loaded.append(place.offset)
        else:
            self.lists[words.COPIED] += (operand, n, place.offset)
            self.lists[words.FIXED] += (n, place.offset)

    # --- reverse ----------------------------------------------------------------------------------

    def _reverse(self, builder: Any, segments: list, starts: np.ndarray) -> Stream:
        """Reverse code, and the lists of where cotangents come from and go."""
        targets = builder.find_varied(segments)
        stream = Stream()
        lowering = ReverseLowering(builder.frame, stream, targets, builder.unrestored)
        self._adding(builder, targets)
        self._seeds(builder, targets, lowering)
        builder.reverse_segments(segments, stream, lowering, starts)
        self._gradients(builder, targets, stream)
        return stream

    def _adding(self, builder: Any, targets: Targets) -> None:
        """Gradients of invariants, and of what is read in place, are added to by every step."""
        for i in self.varied:
            view = self.body.inputs[i].view
            if view.buffer != SCALAR:
                in_place = builder.frame.place(view).space != layout.VALUES
                if in_place or self._kind(i) == "invariant":
                    targets.touched_buffers.add(view.buffer)

    def _seeds(self, builder: Any, targets: Targets, lowering: ReverseLowering) -> None:
        carried, stacked = 0, self.carried
        for i, leaf in enumerate(self.body.outputs):
            n = leaf.view.size
            is_carry = i < self.loop.carries
            if targets.varies(leaf.view) and n:
                place, is_added = self._seed(builder, targets, lowering, leaf.view)
                to = self.loop.gradients[i] if is_carry else 0
                if not is_carry:
                    entry = (stacked, n, place.space, place.offset, is_added)
                    self.lists[words.SLICE_SEEDS] += entry
                elif i in self.pointed and self.pointed[i].gives:
                    space = self.pointed[i].space + 3
                    self.uses.pointed[place.offset] = space
                    self.lists[words.POINTED_SEEDS] += (space, to, carried)
                else:
                    entry = (to, carried, n, place.space, place.offset, is_added)
                    self.lists[words.SEEDS] += entry
            if is_carry:
                carried += n
            else:
                stacked += n * self.loop.steps

    def _seed(
        self, builder: Any, targets: Targets, lowering: ReverseLowering, view: View
    ) -> tuple[Place, int]:
        """Where an output's cotangent is put, and whether it is added to what is there."""
        place = builder.frame.place(view)
        if view.buffer == SCALAR:
            targets.add_mode(view, lowering.stream)
            return builder.frame.adjoint(view), 1
        untouched = view.buffer not in targets.touched_buffers
        size = self.body.buffers[view.buffer].size
        if untouched and place.contiguous and place.space == layout.VALUES and view.size == size:
            targets.touched_buffers.add(view.buffer)
            target = builder.frame.adjoint(view)
        else:
            target = whole(view.shape, builder.arena.reserve(view.size))
            lowering.contribute(view, target)
        self.uses.seeded.append(target.offset)
        return target, 0

    def _gradients(self, builder: Any, targets: Targets, stream: Stream) -> None:
        """Where the cotangents of the inputs are when the reverse code has run."""
        lists, at = self.lists, 0
        for i, leaf in enumerate(self.body.inputs):
            view, n, kind = leaf.view, leaf.view.size, self._kind(i)
            first, at = at, at + (n if kind == "carry" else 0)
            if i not in self.varied or not n:
                continue
            space, to = builder.frame.place(view).space, self.loop.gradients[i]
            if space != layout.VALUES:
                entry = (space + 1, to, n if kind == "slice" else 0)
                lists[words.POINTED_GRADIENTS] += entry
                continue
            is_scalar = view.buffer == SCALAR
            if not is_scalar and not targets.touched(view):
                targets.add_mode(view, stream)
            place = builder.frame.adjoint(view)
            if kind == "carry":
                lists[words.FIRST_GRADIENTS] += (n, to, first)
                self._carry_gradient(i, place, to, first, int(is_scalar))
            elif kind == "slice":
                self.uses.taken.append(place.offset)
                entry = (place.space, place.offset, n, to, int(is_scalar))
                lists[words.SLICE_GRADIENTS] += entry
            else:
                self.uses.lasting.append(place.offset)
                lists[words.KEPT_GRADIENTS] += (place.space, place.offset, n, to)

    def _carry_gradient(self, i: int, place: Place, to: int, at: int, clears: int) -> None:
        if i in self.pointed:
            space = self.pointed[i].space + 2
            self.uses.pointed[place.offset] = space
            self.lists[words.POINTED_CARRY_GRADIENTS] += (space, to, at)
        else:
            self.uses.taken.append(place.offset)
            entry = (place.space, place.offset, place.size, to, at, clears)
            self.lists[words.CARRY_GRADIENTS] += entry

    @property
    def swaps_gradients(self) -> bool:
        """Whether the cotangents of pointed carries change places."""
        return bool(self.lists[words.POINTED_CARRY_GRADIENTS] or self.lists[words.POINTED_SEEDS])

    # --- places -----------------------------------------------------------------------------------

    def _settle(self, builder: Any, streams: list[Stream], code: list[np.ndarray]) -> None:
        """Choose the places of all blocks; complete the lists."""
        arena = builder.arena
        find = _no_block
        if arena.block_sizes:
            blocks = Blocks(arena, streams, code)
            self._hold(blocks)
            _place(blocks, arena, self.uses, again=builder.tree is not None)
            find = blocks.find
        at = 0
        for i, leaf in enumerate(self.body.inputs[: self.loop.carries]):
            self._finish_carry(i, leaf.view.size, at)
            at += leaf.view.size
        for entries, width, where in zip(self.lists, words.WIDTHS, words.PLACES, strict=True):
            for k in range(where, len(entries), width) if where >= 0 else ():
                if entries[k + 1] >= PROVISIONAL:
                    entries[k : k + 2] = find(entries[k + 1])

    def _hold(self, blocks: Blocks) -> None:
        """Hold the pointed carries that the reverse code reads."""
        if len(blocks.mentions) == 1:
            return
        read = set(blocks.mentions[1][1].tolist())
        spaces = {
            space
            for block, space in zip(
                blocks.numbers(self.uses.pointed).tolist(), self.uses.pointed.values(), strict=True
            )
            if block in read
        }
        for i, pointed in self.pointed.items():
            if spaces & {pointed.space, pointed.space + 1}:
                pointed.held = self.held_size
                self.held_size += padded(self.body.inputs[i].view.size)

    def _finish_carry(self, i: int, n: int, at: int) -> None:
        lists, pointed, output = self.lists, self.pointed.get(i), self.outputs[i]
        held = -1 if pointed is None else pointed.held
        if pointed is not None:
            lists[words.POINTED_IN] += (pointed.space, at, held)
        if held >= 0:
            lists[words.HELD_CARRIES] += (at, n, held)
        if pointed is not None and pointed.gives:
            lists[words.POINTED_OUT] += (pointed.space + 1, at, held)
        else:
            lists[words.CARRIES_OUT] += (output.space, output.offset, n, at, held)


def _no_block(address: int) -> tuple[int, int]:
    raise AssertionError(f"no block at {address}")


def _place(blocks: Blocks, arena: Arena, uses: _Uses, again: bool) -> None:
    """Give a body's blocks their places: in each step's region, or in scratch.

    ``again``: the reverse code runs parts of the forward code again, so that forward blocks share
    no space with reverse ones.
    """
    first, last, now = blocks.first, blocks.last, blocks.n_forward

    def numbers(addresses: Any) -> np.ndarray:
        return blocks.numbers([address for address in addresses if address >= PROVISIONAL])

    loaded, given = numbers(uses.loaded), numbers(uses.given)
    first[loaded] = -1
    last[loaded] = np.maximum(last[loaded], -1)
    first[given] = np.minimum(first[given], max(now - 1, 0))
    last[given] = np.maximum(last[given], now - 1)
    seeded, taken = numbers(uses.seeded), numbers(uses.taken)
    first[seeded] = np.minimum(first[seeded], now)
    last[seeded] = np.maximum(last[seeded], now)
    first[taken] = np.minimum(first[taken], blocks.end)
    last[taken] = blocks.end
    apart = numbers([*uses.pointed, *uses.lasting])
    first[apart], last[apart] = _BEFORE, NEVER
    last[blocks.crossing] = NEVER
    waiting = blocks.inherit(now if again else -1)
    waiting[apart] = False
    kept = waiting & blocks.crossing
    chosen, top = blocks.place(kept)
    blocks.offsets[chosen] += arena.fixed(top)
    waiting &= ~kept
    groups = (waiting & (first < now), waiting & (first >= now)) if again else (waiting,)
    for group in groups:
        chosen, top = blocks.place(group)
        blocks.offsets[chosen] += arena.scratch(top)
        blocks.spaces[chosen] = layout.SCRATCH
    for block in numbers(uses.lasting).tolist():
        blocks.offsets[block] = arena.scratch(int(blocks.sizes[block]))
        blocks.spaces[block] = layout.SCRATCH
    for block, space in zip(numbers(uses.pointed).tolist(), uses.pointed.values(), strict=True):
        blocks.offsets[block], blocks.spaces[block] = 0, space
    blocks.write()
