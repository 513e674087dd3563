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
from .stream import Place, Registers

#: Arguments and constants of more elements than this are used where they lie.
IN_PLACE_FROM = 2048
_LINE = 8  # doubles in a cache line; buffers start at multiples of it


def padded(n: int) -> int:
    """``n`` rounded up to whole cache lines."""
    return -(-n // _LINE) * _LINE


class Arena:
    """Sizes and constants of a program under construction."""

    def __init__(self) -> None:
        self.size = 0
        self.scalar_constants: dict[int, float] = {}  # arena offset -> value
        self.constant_block: list[np.ndarray] = []
        self.block_size = 0
        self.large_constants: list[np.ndarray] = []  # a space each, after the arguments'
        self.in_place: list[int] = []  # arguments used where they lie
        self.registers = Registers()
        self.loops: list[Any] = []  # lowering.loops.Loop: staged loops and branches, by number
        self.entered: dict[tuple[int, int], Any] = {}  # by result: loop number, operands' places
        self._tiles: dict[bytes, int] = {}

    def reserve(self, n: int) -> int:
        """Offset of ``n`` new doubles."""
        offset = self.size
        self.size += padded(n)
        if self.size >= ARRAY:
            raise TraceError("the program needs more than 2**30 doubles of work space")
        return offset

    def spaces_left(self) -> int:
        """How many more spaces the context can name."""
        used = 3 * len(self.in_place) + len(self.large_constants)
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

    Parameters
    ----------
    bound
        Contiguous places that take the part of input buffers (of a rule's tape).
    """

    def __init__(self, arena: Arena, tape: Tape, bound: dict[int, Place] | None = None) -> None:
        self.arena = arena
        self.tape = tape
        self.scalar_base = arena.reserve(tape.n_scalars)
        self.array_base = arena.reserve(tape.n_array_elements)
        self.home: list[tuple[int, int]] = []
        bound = bound or {}
        for number, buffer in enumerate(tape.buffers):
            if number in bound:
                self.home.append((bound[number].space, bound[number].offset))
            elif buffer.constant >= 0:
                self.home.append(arena.constant(tape.array_constants[buffer.constant]))
            else:
                self.home.append((VALUES, self.array_base + buffer.base))
        ids, values = tape.scalar_constants
        offsets = (ids + self.scalar_base).tolist()
        arena.scalar_constants.update(zip(offsets, values.tolist(), strict=True))

    def use_in_place(self, arguments: Sequence[int]) -> None:
        """Let these arguments' buffers stand for the callers' own arrays."""
        for number, buffer in enumerate(self.tape.buffers):
            if buffer.argument in arguments:
                position = len(self.arena.in_place)
                self.arena.in_place.append(buffer.argument)
                self.home[number] = (ARGUMENTS + 3 * position, 0)

    def place(self, view: View) -> Place:
        """Where a view's values lie."""
        if view.buffer == SCALAR:
            return Place(VALUES, self.scalar_base + view.offset, view.shape, view.strides)
        space, offset = self.home[view.buffer]
        return Place(space, offset + view.offset, view.shape, view.strides)

    def constant_value(self, place: Place) -> float | None:
        """The value of a scalar constant, None for anything else."""
        if place.space != VALUES:
            return None
        return self.arena.scalar_constants.get(place.offset)


def adjoint(place: Place) -> Place:
    """Where the adjoint of a (non-constant) place lies."""
    return place._replace(space=ADJOINTS if place.space == VALUES else place.space + 1)


def tangent(place: Place) -> Place:
    """Where the tangent of a (non-constant) place lies."""
    return place._replace(space=TANGENTS if place.space == VALUES else place.space + 2)


def whole(shape: tuple[int, ...], offset: int, space: int = VALUES) -> Place:
    """A contiguous place."""
    return Place(space, offset, shape, row_major(shape))
