"""Code words under construction, places, and the process's table of kernels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..interpreters import array_kernels, kernels
from ..interpreters.array_kernels import REGISTER
from ..interpreters.layout import ADJOINTS, ADVANCE, CALL, SCRATCH, TANGENTS, TILE
from ..tape import row_major, size_of

__all__ = ["KernelTable", "Place", "Registers", "Stream", "kernel_table"]


class Place(NamedTuple):
    """A strided window in a space: where a view lies when the program runs."""

    space: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return size_of(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one after the other."""
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != step:
                return False
            step *= n
        return True

    @property
    def uniform(self) -> bool:
        """Whether all elements are one and the same."""
        return all(s == 0 or n == 1 for n, s in zip(self.shape, self.strides, strict=True))

    def reshaped(self, shape: tuple[int, ...]) -> Place:
        """A contiguous place with another shape of the same size."""
        return Place(self.space, self.offset, shape, row_major(shape))


class KernelTable:
    """Addresses of the kernels in use, by number; compiled when first asked for."""

    def __init__(self, plain: bool = False) -> None:
        self.plain = plain
        self.numbers: dict[str, int] = dict(_INTERPRETERS)
        self.addresses = np.zeros(_MOST_KERNELS, np.int64)
        self._lock = threading.Lock()

    def number(self, name: str) -> int:
        """The number of a kernel, which is compiled (or loaded) now if it is new."""
        number = self.numbers.get(name)
        if number is None:
            address = self._address(name)
            with self._lock:
                number = self.numbers.setdefault(name, len(self.numbers))
                self.addresses[number] = address
        return number

    def _address(self, name: str) -> int:
        from ..interpreters import (
            cache,
            lane_kernels,
            linalg_kernels,
            loop_kernels,
            memory,
            user,
        )

        if name == user.PYTHON_CALL and not self.plain:
            return user.python_call_address()
        function = user.python_call if name == user.PYTHON_CALL else user.functions.get(name)
        for module in (kernels, array_kernels, linalg_kernels, loop_kernels, lane_kernels):
            function = function or getattr(module, name, None)
        if function is None:
            raise KeyError(name)
        if self.plain:
            address = -1 - len(memory.python_kernels)
            memory.python_kernels[address] = function
            return address
        return cache.compile_kernel(function)

    def in_lanes(self, mode: str) -> np.ndarray:
        """The addresses, with the interpreter of vector mode in place of the usual one."""
        name = "tangent" if mode == "tangent" else "reverse"
        number = self.number(f"{name}_lanes")
        addresses = self.addresses[: len(self.numbers)].copy()
        addresses[_INTERPRETERS[name]] = self.addresses[number]
        return addresses

    def require(self, name: str) -> None:
        """Have an interpreter ready: these have fixed numbers."""
        number = _INTERPRETERS[name]
        if self.addresses[number] == 0:
            self.addresses[number] = self._address(name)

    @property
    def uses_blas(self) -> bool:
        """Whether any kernel in use needs the table of BLAS and LAPACK addresses."""
        return any(name.startswith(_BLAS_KERNELS) for name in self.numbers)


#: Compiled programs hold the address of this table: it does not grow.
_MOST_KERNELS = 1 << 16

_INTERPRETERS = {"forward": 0, "reverse": 1, "tangent": 2}
_BLAS_KERNELS = ("batched_matmul", "matrix_")


_compiled_table = KernelTable()
_plain_table = KernelTable(plain=True)


def kernel_table() -> KernelTable:
    """The table in use: compiled kernels, or plain Python inside of ``testing.plain_python``."""
    from ..config import settings

    return _plain_table if settings.plain_python else _compiled_table


class Stream:
    """A list of code words, in pieces: NumPy arrays of scalar code, lists of array calls.

    ``lanes``: whether adjoints and tangents are those of several directions (vector mode).
    """

    def __init__(self, lanes: bool = False) -> None:
        self.lanes = lanes
        self.pieces: list[np.ndarray] = []
        self.tail: list[int] = []
        self.length = 0
        self.marks: list[int] = []  # where each call (or run of scalar code) starts

    def call(self, kernel: str, words: Sequence[int]) -> None:
        """Append a kernel call."""
        self.marks.append(self.length)
        self.tail += (CALL, 3 + len(words), kernel_table().number(kernel))
        self.tail += words
        self.length += 3 + len(words)

    def raw(self, words: Sequence[int]) -> None:
        """Append words as they are."""
        self.marks.append(self.length)
        self.tail += words
        self.length += len(words)

    def scalars(self, words: np.ndarray) -> None:
        """Append lowered scalar code."""
        if len(words):
            self.marks.append(self.length)
        self.flush()
        self.pieces.append(words)
        self.length += len(words)

    def flush(self) -> None:
        """Close the current list."""
        if self.tail:
            self.pieces.append(np.array(self.tail, np.int32))
            self.tail = []

    def words(self) -> np.ndarray:
        """All words."""
        self.flush()
        return np.concatenate([np.zeros(0, np.int32), *self.pieces])

    # --- strided copies and sums --------------------------------------------------------------

    def copy(self, target: Place, source: Place) -> None:
        """``target[...] = source``."""
        self.strided("copy", "nd_copy", *self._in_lanes(target, source))

    def add(self, target: Place, source: Place) -> None:
        """``target[...] += source``."""
        self.strided("accumulate", "nd_add", *self._in_lanes(target, source))

    def _in_lanes(self, target: Place, source: Place) -> tuple[Place, Place]:
        if not self.lanes or not {target.space, source.space} & {ADJOINTS, TANGENTS}:
            return target, source
        from .lanes import in_lanes

        return in_lanes(target), in_lanes(source)

    def strided(self, contiguous: str, general: str, target: Place, source: Place) -> None:
        """A copy or a sum of places as they are."""
        n = source.size
        if n == 0:
            return
        shape, to, of = _merged(source.shape, target.strides, source.strides)
        if shape == (n,) and to == of == (1,):
            self.call(contiguous, (n, target.space, target.offset, source.space, source.offset))
        elif general == "nd_copy" and shape == (n,) and to == (1,) and of == (0,):
            self.call("fill", (n, target.space, target.offset, source.space, source.offset))
        elif general == "nd_add" and shape == (n,) and to == (0,) and of == (1,):
            self.call("total", (n, target.space, target.offset, source.space, source.offset))
        else:
            words = (n, len(shape), target.space, target.offset, source.space, source.offset)
            self.call(general, (*words, *shape, *to, *of))

    def tiled(self, kernel: str, target: Place | int, source: Place | int, shape: tuple) -> None:
        """A strided copy or sum inside of a chain; a register stands for its own side."""
        n = size_of(shape)
        linear = row_major(shape)
        to = linear if isinstance(target, int) else target.strides
        of = linear if isinstance(source, int) else source.strides
        sides = []
        for side in (target, source):
            if isinstance(side, int):
                sides += (SCRATCH | REGISTER, side * TILE)
            else:
                sides += (side.space, side.offset)
        shape, to, of = _merged(shape, to, of, ordered=True)
        self.call(kernel, (n, len(shape), *sides, *shape, *to, *of))


def _merged(
    shape: tuple[int, ...], to: tuple[int, ...], of: tuple[int, ...], ordered: bool = False
) -> tuple[tuple, tuple, tuple]:
    """Fewer, longer dimensions: drop those of length 1, merge neighbours, largest stride first."""
    dims = [(n, t, s) for n, t, s in zip(shape, to, of, strict=True) if n != 1]
    if not dims:
        return (1,), (1,), (1,)
    if not ordered:
        dims.sort(key=lambda d: (-abs(d[2]), -abs(d[1])) if d[2] else (-abs(d[1]), 0))
    merged = [dims[0]]
    for n, t, s in dims[1:]:
        m, u, r = merged[-1]
        if u == n * t and r == n * s:
            merged[-1] = (m * n, t, s)
        else:
            merged.append((n, t, s))
    return tuple(zip(*merged, strict=True))  # type: ignore[return-value]


class Registers:
    """Tile registers in the scratch space: taken and given back, last in first out."""

    def __init__(self) -> None:
        self.free: list[int] = []
        self.used = 0
        self.most = 0

    def take(self) -> int:
        """A free register."""
        if self.free:
            return self.free.pop()
        self.used += 1
        self.most = max(self.most, self.used)
        return self.used - 1

    def take_fixed(self) -> int:
        """A register that no instruction of the chain has used before."""
        self.used += 1
        self.most = max(self.most, self.used)
        return self.used - 1

    def give(self, register: int) -> None:
        """Give a register back."""
        self.free.append(register)

    def reset(self) -> None:
        """All registers are free."""
        self.free = []
        self.used = 0


def moving(space: int) -> int:
    """The space word of an operand that advances with the tile."""
    return space | ADVANCE
