"""Where a tape's scalars and buffers lie: frames, and the arena they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import TraceError
from ..interpreters.layout import (
    ADJOINTS,
    ARGUMENTS,
    CONSTANTS,
    CONTEXT_WORDS,
    TANGENTS,
    TILE,
    VALUES,
)
from ..tape import ARRAY, SCALAR, Tape, View, row_major
from .scalars import compiled, operand_words, relocate
from .stream import Place, Registers, Stream

#: Arguments and constants of more elements than this are used where they lie.
IN_PLACE_FROM = 2048
LINE = 8  # doubles in a cache line; buffers start at multiples of it


def padded(n: int) -> int:
    """``n`` rounded up to whole cache lines."""
    return -(-n // LINE) * LINE


#: Addresses from here on are provisional: blocks whose place is chosen when all code is written.
PROVISIONAL = 1 << 30


class Arena:
    """Sizes and constants of a program under construction.

    ``planned``: blocks share space by liveness (see :mod:`.liveness`); until that is settled, each
    has a provisional address of its own.  ``is_body``: of a staged loop or branch.

    Attributes
    ----------
    exact
        Addresses of blocks that will lie side by side with other values: from, to.  Nothing is
        written beyond their end.
    pointed
        How many spaces of the context point at carries.
    beside
        Doubles of the scratch space, behind the tile registers, that stay in use.
    passing
        Doubles of the scratch space behind these that each loop uses while it runs.
    """

    def __init__(self, planned: bool = False, is_body: bool = False) -> None:
        self.planned = planned
        self.is_body = is_body
        self.exact: list[tuple[int, int]] = []
        self.pointed = 0
        self.beside = 0
        self.passing = 0
        self.size = 0
        self.block_sizes: list[int] = []
        self._next_block = PROVISIONAL
        self.scalar_constants: dict[int, float] = {}  # arena offset -> value
        self.constant_block: list[np.ndarray] = []
        self.block_size = 0
        self.large_constants: list[np.ndarray] = []  # a space each, after the arguments'
        self.in_place: list[int] = []  # arguments used where they lie
        self.registers = Registers()
        self.loops: list[Any] = []  # lowering.loops.Loop: staged loops and branches, by number
        self.entered: dict[tuple[int, int], Any] = {}  # by result: loop number, operands' places
        self._tiles: dict[bytes, int] = {}

    def fixed(self, n: int) -> int:
        """Offset of ``n`` doubles that nothing else ever uses."""
        offset = self.size
        self.size += padded(n)
        if self.size >= PROVISIONAL:
            raise TraceError("the program needs more than 2**30 doubles of work space")
        return offset

    def reserve(self, n: int) -> int:
        """Offset of ``n`` new doubles, in use from the first to the last instruction naming it."""
        if not self.planned:
            return self.fixed(n)
        address = self._next_block
        self.block_sizes.append(max(padded(n), LINE))
        self._next_block += self.block_sizes[-1]
        if self._next_block >= 2 * PROVISIONAL:
            raise TraceError("the program's intermediates hold more than 2**30 doubles together")
        return address

    def keep_exact(self, address: int) -> None:
        """Have nothing written beyond the end of the block at a provisional address."""
        block = int(np.searchsorted(np.cumsum(self.block_sizes), address - PROVISIONAL, "right"))
        self.exact.append((address, address + self.block_sizes[block]))

    def is_exact(self, offset: int) -> bool:
        """Whether nothing may be written beyond the end of the block at an offset."""
        return any(start <= offset < end for start, end in self.exact)

    @property
    def scratch_size(self) -> int:
        """Doubles of the scratch space: tile registers, blocks, what loops use while they run."""
        return TILE * self.registers.most + self.beside + self.passing

    def scratch(self, n: int) -> int:
        """Offset of ``n`` doubles of the scratch space, when all code is written."""
        offset = TILE * self.registers.most + self.beside
        self.beside += padded(n)
        return offset

    def scratch_for_loop(self, n: int) -> int:
        """Offset of ``n`` doubles of the scratch space that one loop uses while it runs."""
        self.passing = max(self.passing, padded(n))
        return TILE * self.registers.most + self.beside

    def spaces_left(self) -> int:
        """How many more spaces the context can name."""
        used = 3 * len(self.in_place) + self.pointed + len(self.large_constants)
        return CONTEXT_WORDS - ARGUMENTS - used

    def constant(self, array: np.ndarray) -> tuple[int, int]:
        """(space, offset) of a constant array, shared by all workspaces."""
        if array.size > IN_PLACE_FROM and self.spaces_left() > 64:
            self.large_constants.append(np.ascontiguousarray(array, np.float64).reshape(-1))
            return CONTEXT_WORDS - len(self.large_constants), 0
        return CONSTANTS, self._append(array)

    def _append(self, array: np.ndarray) -> int:
        block = np.zeros(padded(array.size))
        block[: array.size] = np.asarray(array, np.float64).reshape(-1)
        offset = self.block_size
        self.constant_block.append(block)
        self.block_size += block.size
        return offset

    def constant_tile(self, value: float, n: int) -> int:
        """Offset, among the constants, of a run of ``n`` times the same value."""
        key = np.float64(value).tobytes()
        known = self._tiles.get(key)
        if known is not None and known[1] >= n:
            return known[0]
        offset = self._append(np.full(min(padded(n), TILE), value))
        self._tiles[key] = (offset, n)
        return offset


class Frame:
    """Places of one tape's values, adjoints and tangents in an arena.

    Scalars, and arrays whose elements scalar code names, lie at fixed offsets with their adjoints
    at the same offsets of the adjoints' space.  Other arrays' values and adjoints are blocks of
    the arena.

    Parameters
    ----------
    bound
        Contiguous places that take the part of input buffers (of a rule's tape).
    in_place
        Arguments whose buffers stand for the callers' own arrays.
    permanent
        Whether all arrays keep their values, at the tape's own offsets: another path may go on
        with them.
    is_virtual
        Addresses number the tape's scalars, then its array elements, until :meth:`settle` gives
        scalars and addressed arrays fixed places.  Marks and scalar code go by address; scalar code
        is relocated when it is written.
    by_home
        Whether :meth:`settle` gives all other arrays their places, too.
    """

    def __init__(
        self,
        arena: Arena,
        tape: Tape,
        bound: dict[int, Place] | None = None,
        in_place: Sequence[int] = (),
        permanent: bool = False,
        is_virtual: bool = False,
        by_home: bool = False,
    ) -> None:
        self.arena = arena
        self.tape = tape
        self.is_virtual = is_virtual
        self.table: np.ndarray | None = None  # places by virtual address
        permanent = permanent or not arena.planned
        extent = tape.n_array_elements
        if is_virtual or not permanent:
            ends = [tape.buffers[i].base + tape.buffers[i].size for i in tape.addressed]
            extent = max(ends, default=0)
        self.scalar_base = 0 if is_virtual else arena.fixed(tape.n_scalars)
        self.array_base = tape.n_scalars if is_virtual else arena.fixed(extent)
        #: How much of the arena, from its start, has adjoints at the same offsets.
        self._extent = extent
        self.mirrored = self.array_base + (extent if tape.addressed else 0)
        self.home = [
            self._home(number, bound or {}, in_place, permanent or by_home)
            for number in range(len(tape.buffers))
        ]
        self._adjoint_homes: dict[int, tuple[int, int]] = {}
        #: Of arguments used in place: before which reverse instruction nothing touched the adjoint.
        self.untouched_before: dict[int, int] = {}
        self.reverse_stream: Stream | None = None
        if not is_virtual:
            self._place_constants(self.scalar_base + tape.scalar_constants[0])

    def _place_constants(self, offsets: np.ndarray) -> None:
        values = self.tape.scalar_constants[1]
        pairs = zip(offsets.tolist(), values.tolist(), strict=True)
        self.arena.scalar_constants.update((at, value) for at, value in pairs if at >= 0)

    @property
    def n_addresses(self) -> int:
        """One more than the highest address that scalar code names."""
        return max(self.scalar_base + self.tape.n_scalars, self.array_base + self._extent)

    def settle(
        self, scalars: np.ndarray, buffers: np.ndarray, elements: np.ndarray, mirrored: int
    ) -> None:
        """Give places to virtual addresses.

        Parameters
        ----------
        scalars, buffers
            Offsets in the arena; -1 for scalars that nothing names, and for buffers that have
            their places already.
        elements
            The array elements that scalar code addresses.
        mirrored
            How much of the arena has adjoints at the same offsets.
        """
        tape = self.tape
        most = int(elements.max()) - ARRAY + 1 if len(elements) else 0
        self.table = np.zeros(tape.n_scalars + most, np.int32)
        self.table[: tape.n_scalars] = scalars
        if most:
            inside = elements - ARRAY
            numbers = tape.buffer_of(inside)
            bases = np.array([buffer.base for buffer in tape.buffers], np.int64)
            self.table[tape.n_scalars + inside] = buffers[numbers] + inside - bases[numbers]
        self._place_constants(scalars[tape.scalar_constants[0]])
        for number, buffer in enumerate(tape.buffers):
            if buffer.base >= 0 and buffers[number] >= 0 and self.home[number][0] == VALUES:
                self.home[number] = (VALUES, int(buffers[number]))
        self.mirrored = mirrored

    def virtual(self, *elements: int) -> list[int]:
        """Virtual addresses of elements."""
        return [e if e < ARRAY else self.array_base + e - ARRAY for e in elements]

    def relocated(self, words: np.ndarray) -> np.ndarray:
        """Scalar code with the places of its addresses."""
        if self.table is not None:
            compiled(relocate)(words, operand_words(), self.table)
        return words

    def _home(
        self, number: int, bound: dict[int, Place], in_place: Sequence[int], permanent: bool
    ) -> tuple[int, int]:
        """(space, offset) of a buffer's values."""
        arena, buffer = self.arena, self.tape.buffers[number]
        if number in bound:
            return bound[number].space, bound[number].offset
        if buffer.constant >= 0:
            return arena.constant(self.tape.array_constants[buffer.constant])
        if buffer.argument >= 0 and buffer.argument in in_place:
            arena.in_place.append(buffer.argument)
            return ARGUMENTS + 3 * (len(arena.in_place) - 1), 0
        if permanent or number in self.tape.addressed:
            return VALUES, self.array_base + buffer.base
        if buffer.argument >= 0 and not arena.is_body:
            return VALUES, arena.fixed(buffer.size)
        return VALUES, arena.reserve(buffer.size)

    def place(self, view: View) -> Place:
        """Where a view's values lie."""
        if view.buffer == SCALAR:
            return Place(VALUES, self._scalar(view.offset), view.shape, view.strides)
        space, offset = self.home[view.buffer]
        return Place(space, offset + view.offset, view.shape, view.strides)

    def _scalar(self, number: int) -> int:
        """Offset of a scalar."""
        offset = self.scalar_base + number
        return offset if self.table is None else int(self.table[offset])

    def adjoint(self, view: View) -> Place:
        """Where the adjoint of a (non-constant) view lies."""
        if view.buffer == SCALAR:
            return Place(ADJOINTS, self._scalar(view.offset), view.shape, view.strides)
        space, offset = self.adjoint_home(view.buffer)
        return Place(space, offset + view.offset, view.shape, view.strides)

    def adjoint_home(self, buffer: int) -> tuple[int, int]:
        """(space, offset) of a buffer's adjoint; asked for when code is about to name it."""
        known = self._adjoint_homes.get(buffer)
        if known is None:
            space, offset = self.home[buffer]
            if space != VALUES:
                known = (space + 1, offset)
                assert self.reverse_stream is not None
                self.untouched_before[space + 1] = len(self.reverse_stream.marks)
            elif buffer in self.tape.addressed or not self.arena.planned:
                known = (ADJOINTS, offset)
            else:
                known = (VALUES, self.arena.reserve(self.tape.buffers[buffer].size))
            self._adjoint_homes[buffer] = known
        return known

    def constant_value(self, place: Place) -> float | None:
        """The value of a scalar constant, None for anything else."""
        if place.space != VALUES:
            return None
        return self.arena.scalar_constants.get(place.offset)


def tangent(place: Place) -> Place:
    """Where the tangent of a (non-constant) place lies."""
    return place._replace(space=TANGENTS if place.space == VALUES else place.space + 2)


def whole(shape: tuple[int, ...], offset: int, space: int = VALUES) -> Place:
    """A contiguous place."""
    return Place(space, offset, shape, row_major(shape))
