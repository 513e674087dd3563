"""Bytes of what a running copy of a program allocates, known before it is made."""

from __future__ import annotations

from collections.abc import Iterator

from ..interpreters import layout, loop_kernels
from ..interpreters.entry import HEADER_TYPES, RECORD_WORDS
from .build import Code

__all__ = ["adjoint_bytes", "aligned_bytes", "inner_bytes", "scratch_bytes", "workspace_bytes"]

#: Doubles that each array has in excess, so that it can start at a cache line.
ALIGNMENT = 8


def aligned_bytes(n: int) -> int:
    """Bytes of ``n`` doubles that start at a cache line."""
    return 8 * (n + ALIGNMENT) if n else 0


def scratch_bytes(code: Code) -> int:
    """Bytes of the scratch space: tile registers, and what steps of loops do not keep."""
    return aligned_bytes(code.stacked_scratch + layout.TILE)


def adjoint_bytes(code: Code) -> int:
    """Bytes of the adjoints (or tangents) of a program, and of the programs of its loops."""
    return sum(aligned_bytes(part.adjoint_size) for part in _programs(code))


def inner_bytes(code: Code) -> int:
    """Bytes of what a program has besides values and scratch, with the programs of its loops."""
    records = sum(max(len(part.loops), 1) for part in _programs(code))
    contexts = sum(1 for _ in _programs(code))
    words = layout.CONTEXT_WORDS * contexts + loop_kernels.RECORD * records
    return adjoint_bytes(code) + 8 * words


def workspace_bytes(code: Code) -> int:
    """Bytes of all arrays that one workspace of a program allocates."""
    slots_in = len(code.parameters) + len(code.tangents_in)
    slots_out = len(code.values) + len(code.gradients) + len(code.tangents_out)
    words = RECORD_WORDS * (max(slots_in, 1) + max(slots_out, 1)) + max(slots_out, 1)
    words += HEADER_TYPES + 1  # accepted types, and the work left until the next pause
    return 8 * words + aligned_bytes(code.arena_size) + scratch_bytes(code) + inner_bytes(code)


def _programs(code: Code) -> Iterator[Code]:
    """A program, and those of its loops."""
    yield code
    for loop in code.loops:
        yield from _programs(loop.child)
