"""Liveness: blocks of the arena share space where no instruction needs both.

All memory that an array instruction touches is named by its words, so a block's live range is read
off the finished code: from the first to the last instruction that names its provisional address,
forward code first, reverse code after.  What the reverse sweep never reads is therefore free as
soon as the forward sweep has used it, and an adjoint takes the place of whatever is dead by then.
Offsets are found by a linear scan with best fit.  Blocks of the reverse sweep may also lie in a
result array of the caller's, as long as nothing has been put there yet.

References: Poletto and Sarkar (1999), "Linear scan register allocation"; Pisarchyk and Lee (2020),
"Efficient memory management for deep neural net inference".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..interpreters.layout import ADVANCE, CALL, VALUES
from .frame import PROVISIONAL, Arena
from .scalars import compiled
from .stream import Stream, kernel_table

__all__ = ["NEVER", "Blocks", "Room", "place_ranges", "settle"]

#: A time that never comes.
NEVER = np.iinfo(np.int64).max


class Room(NamedTuple):
    """Space besides the arena: free for the reverse instructions before ``until``."""

    space: int
    size: int
    until: int


def place_blocks(first, last, sizes, by_first, by_last, capacity, offsets, holes, lengths):
    """Offsets for blocks in live ranges [first, last]; returns how much space they take.

    ``by_first`` and ``by_last``: the blocks in order of their ranges' starts and ends; blocks that
    would go beyond ``capacity`` get offset -1.  ``holes`` and ``lengths`` are work space.
    """
    n_holes = 0
    top = 0
    ended = 0
    for block in by_first:
        while ended < by_last.shape[0] and last[by_last[ended]] < first[block]:
            old = by_last[ended]
            ended += 1
            start, length = offsets[old], sizes[old]
            if start < 0:
                continue
            # Insert among the holes, which are in order, and merge with its neighbours.
            low, high = 0, n_holes
            while low < high:
                middle = (low + high) // 2
                if holes[middle] < start:
                    low = middle + 1
                else:
                    high = middle
            joins_next = low < n_holes and start + length == holes[low]
            joins_previous = low > 0 and holes[low - 1] + lengths[low - 1] == start
            if joins_next and joins_previous:
                lengths[low - 1] += length + lengths[low]
                for k in range(low, n_holes - 1):
                    holes[k], lengths[k] = holes[k + 1], lengths[k + 1]
                n_holes -= 1
            elif joins_previous:
                lengths[low - 1] += length
            elif joins_next:
                holes[low] = start
                lengths[low] += length
            else:
                for k in range(n_holes, low, -1):
                    holes[k], lengths[k] = holes[k - 1], lengths[k - 1]
                holes[low], lengths[low] = start, length
                n_holes += 1
        best = -1
        for k in range(n_holes):
            if lengths[k] >= sizes[block] and (best < 0 or lengths[k] < lengths[best]):
                best = k
        if best < 0 and n_holes > 0 and holes[n_holes - 1] + lengths[n_holes - 1] == top:
            # The last hole ends where the space ends: it can grow.
            if holes[n_holes - 1] + sizes[block] <= capacity:
                offsets[block] = holes[n_holes - 1]
                top = holes[n_holes - 1] + sizes[block]
                n_holes -= 1
            else:
                offsets[block] = -1
        elif best < 0:
            if top + sizes[block] <= capacity:
                offsets[block] = top
                top += sizes[block]
            else:
                offsets[block] = -1
        else:
            offsets[block] = holes[best]
            holes[best] += sizes[block]
            lengths[best] -= sizes[block]
            if lengths[best] == 0:
                for k in range(best, n_holes - 1):
                    holes[k], lengths[k] = holes[k + 1], lengths[k + 1]
                n_holes -= 1
    return top


_I = "int64[::1]"
_PLACE_BLOCKS = f"int64({_I},{_I},{_I},{_I},{_I},int64,{_I},{_I},{_I})"


class Blocks:
    """The blocks that finished code names: their live ranges, then their places.

    Times count instructions: those of the forward code, then those of the reverse code.

    Attributes
    ----------
    first, last
        Live ranges; ``first`` is ``NEVER`` where nothing names a block.
    n_forward, end
        The first time of the reverse code, and the first one after it.
    sizes, spaces, offsets
        By block; an offset is -1 until the block has its place.
    """

    def __init__(self, arena: Arena, streams: list[Stream], words: list[np.ndarray]) -> None:
        self.streams, self.words = streams, words
        self.sizes = np.array(arena.block_sizes, np.int64)
        self.bases = PROVISIONAL + np.cumsum(self.sizes) - self.sizes
        self.mentions = [_mentions(w, s, self.bases) for w, s in zip(words, streams, strict=True)]
        self.n_forward = len(streams[0].marks)
        self.end = sum(len(stream.marks) for stream in streams)
        self.first, self.last = _ranges(self.mentions, self.n_forward, len(self.sizes))
        self.offsets = np.full(len(self.sizes), -1, np.int64)
        self.spaces = np.full(len(self.sizes), VALUES, np.int64)
        self.heirs: dict[int, int] = {}

    def numbers(self, addresses: Iterable[int]) -> np.ndarray:
        """The blocks of provisional addresses."""
        addresses = np.array(list(addresses), np.int64)
        return np.searchsorted(self.bases, addresses, side="right") - 1

    @property
    def crossing(self) -> np.ndarray:
        """Which blocks the forward code leaves to the reverse code."""
        return (self.first < self.n_forward) & (self.last >= self.n_forward)

    def inherit(self, floor: int) -> np.ndarray:
        """Let blocks of chains take over others' places; which blocks still wait for one."""
        self.heirs = _inherited(
            self.words, self.streams, self.mentions, self.bases, self.sizes, self.first, self.last,
            floor,
        )  # fmt: skip
        waiting = self.first < NEVER
        waiting[list(self.heirs)] = False
        return waiting

    def place(self, chosen: np.ndarray, capacity: int = NEVER) -> tuple[np.ndarray, int]:
        """Offsets, from zero, for the blocks that a mask chooses; the blocks, and their extent."""
        found = np.flatnonzero(chosen)
        return found, _place(found, self.first, self.last, self.sizes, capacity, self.offsets)

    def write(self) -> None:
        """Put the places into the code."""
        for block, root in self.heirs.items():
            self.offsets[block], self.spaces[block] = self.offsets[root], self.spaces[root]
        for w, (positions, blocks, _) in zip(self.words, self.mentions, strict=True):
            w[positions] += (self.offsets[blocks] - self.bases[blocks]).astype(np.int32)
            w[positions - 1] += (self.spaces[blocks] - VALUES).astype(np.int32)

    def find(self, address: int) -> tuple[int, int]:
        """(space, offset) of a provisional address."""
        (block,) = self.numbers([address])
        return int(self.spaces[block]), int(address + self.offsets[block] - self.bases[block])


def settle(
    arena: Arena, streams: list[Stream], words: list[np.ndarray], kept: Iterable[int],
    rooms: Iterable[Room], repeatable: bool, again: bool = False,
) -> dict[int, int]:  # fmt: skip
    """Choose the offsets of all blocks, and put them into the code in place of provisional ones.

    Parameters
    ----------
    streams, words
        Forward and (perhaps) reverse code; the words are changed in place.
    kept
        Provisional addresses of what is read after the last sweep.
    rooms
        Space besides the arena.
    repeatable
        Whether the reverse sweep may run several times after one forward sweep.
    again
        Whether the reverse sweep runs parts of the forward code again: then blocks of the forward
        sweep share no space with others, nor does what is kept.

    Returns
    -------
    dict
        Offset of each address in ``kept``.
    """
    kept = [address for address in kept if address >= PROVISIONAL]
    if not arena.block_sizes:
        return {}
    blocks = Blocks(arena, streams, words)
    first, last, n_forward = blocks.first, blocks.last, blocks.n_forward
    if repeatable:
        last[blocks.crossing] = NEVER
    held = blocks.numbers(kept)
    last[held] = NEVER
    first[held] = np.minimum(first[held], blocks.end)
    if again:
        first[held] = 0
    floor = n_forward if again else 0
    waiting = blocks.inherit(floor)
    for room in rooms:
        in_time = (first >= n_forward) & (last < n_forward + room.until)
        chosen, _ = blocks.place(waiting & in_time, room.size)
        placed = chosen[blocks.offsets[chosen] >= 0]
        blocks.spaces[placed] = room.space
        waiting[placed] = False
    for group in (waiting & (first < floor), waiting & (first >= floor)):
        chosen, top = blocks.place(group)
        blocks.offsets[chosen] += arena.fixed(top)
    blocks.write()
    return {address: blocks.find(address)[1] for address in kept}


def _mentions(
    words: np.ndarray, stream: Stream, bases: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of provisional addresses, their blocks, and the numbers of their instructions."""
    positions = np.flatnonzero(words >= PROVISIONAL)
    blocks = np.searchsorted(bases, words[positions], side="right") - 1
    marks = np.array(stream.marks, np.int64)
    return positions, blocks, np.searchsorted(marks, positions, side="right") - 1


def _ranges(mentions: list, n_forward: int, n_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last instruction that names each block; reverse code counts on from forward."""
    first = np.full(n_blocks, NEVER)
    last = np.full(n_blocks, -1, np.int64)
    for start, (_, blocks, times) in zip((0, n_forward), mentions, strict=False):
        np.minimum.at(first, blocks, start + times)
        np.maximum.at(last, blocks, start + times)
    return first, last


def _inherited(
    words: list[np.ndarray], streams: list[Stream], mentions: list, bases: np.ndarray,
    sizes: np.ndarray, first: np.ndarray, last: np.ndarray, floor: int,
) -> dict[int, int]:  # fmt: skip
    """Blocks that take over the place of another within a chain: by block, the one taken over.

    A chain works tile by tile: where an instruction of it is the last to read a block, and a later
    one the first to write another of the same size, at the same elements, both can be one.  The
    range ``last`` of the block taken over becomes that of its heir.  Blocks that are live before
    ``floor`` have no heirs.
    """
    heirs: dict[int, int] = {}
    number = kernel_table().numbers.get("chain")
    start = 0
    for w, stream, (positions, blocks, times) in zip(words, streams, mentions, strict=True):
        marks = np.array(stream.marks, np.int64)
        if number is not None and len(marks):
            is_call = (w[marks] == CALL) & (marks + 2 < len(w))
            chains = is_call.copy()
            chains[is_call] = w[marks[is_call] + 2] == number
            for time in np.flatnonzero(chains).tolist():
                low, high = np.searchsorted(times, (time, time + 1)).tolist()
                found = positions[low:high], blocks[low:high]
                _inherit(
                    w,
                    int(marks[time]),
                    start + time,
                    *found,
                    bases,
                    sizes,
                    first,
                    last,
                    floor,
                    heirs,
                )
        start += len(marks)
    return heirs


def _inherit(
    words: np.ndarray, at: int, time: int, positions: np.ndarray, blocks: np.ndarray,
    bases: np.ndarray, sizes: np.ndarray, first: np.ndarray, last: np.ndarray, floor: int,
    heirs: dict[int, int],
) -> None:  # fmt: skip
    """Heirs within the chain that starts at word ``at``."""
    starts = []
    inner, stop = at + 6, at + int(words[at + 1])
    while inner < stop:
        starts.append(inner)
        inner += int(words[inner + 1])
    steps = np.searchsorted(starts, positions, side="right").tolist()
    moves = (words[positions - 1] & ADVANCE != 0) & (words[positions] == bases[blocks])
    ends: dict[int, int] = {}  # blocks that end here: their last step
    begins: dict[int, int] = {}  # blocks that begin here: their first step
    still = set()
    for block, step, moving in zip(blocks.tolist(), steps, moves.tolist(), strict=True):
        if not moving:
            still.add(block)
        root = heirs.get(block, block)
        if last[root] == time and floor <= first[root] < time:
            ends[block] = step
        elif first[block] == time:
            begins.setdefault(block, step)
    free = {block: step for block, step in ends.items() if block not in still}
    for block, step in begins.items():
        if block in still:
            continue
        for old, ended in free.items():
            if ended < step and sizes[old] == sizes[block]:
                root = heirs.get(old, old)
                heirs[block] = root
                last[root] = last[block]
                del free[old]
                break


def _place(
    chosen: np.ndarray, first: np.ndarray, last: np.ndarray, sizes: np.ndarray, capacity: int,
    offsets: np.ndarray,
) -> int:  # fmt: skip
    """Offsets for the chosen blocks, from zero; returns how much space they take."""
    if not len(chosen):
        return 0
    offsets[chosen], top = place_ranges(first[chosen], last[chosen], sizes[chosen], capacity)
    return top


def place_ranges(
    first: np.ndarray, last: np.ndarray, sizes: np.ndarray, capacity: int = NEVER
) -> tuple[np.ndarray, int]:
    """Offsets for live ranges of some size, -1 beyond ``capacity``; and what they take."""
    found = np.full(len(first), -1, np.int64)
    work = np.empty((2, len(first) + 1), np.int64)
    by_first, by_last = np.argsort(first, kind="stable"), np.argsort(last, kind="stable")
    top = compiled(place_blocks, _PLACE_BLOCKS)(
        first, last, sizes, by_first, by_last, capacity, found, work[0], work[1]
    )
    return found, int(top)
