"""Staged control flow as operations: loops and branches whose bodies are tapes.

``loop`` runs a body again and again: each step takes the *carries* and a *slice* of each stacked
operand, and gives new carries and slices of the stacked results; other operands are invariant.  A
``while_loop`` is a loop whose first carry says whether another step is taken, a branch a loop of
one step whose body an index chooses.  The result is flat: the final carries, the stacked results,
and for a ``while_loop`` the number of steps.

``loop_vjp`` is the pullback of a loop: operands (cotangent of the result, operands of the loop),
result the cotangents of the active operands, packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .structural import STRUCTURAL, Structural

__all__ = ["Part", "Spec"]


class Part(NamedTuple):
    """One output of a loop: where it lies in the flat result."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return _size(self.shape)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


@dataclass(frozen=True, eq=False)
class Spec:
    """What a loop or branch does: the parameter of its operation.

    Attributes
    ----------
    kind
        ``"scan"``, ``"while_loop"`` or ``"switch"``.
    bodies
        Tapes: one, or one for each branch.
    operands
        For each body the operand behind each of its inputs.
    carries, slices
        How many of the inputs are carried, and how many are slices of stacked operands.
    steps
        Number of steps; of a ``while_loop`` the largest allowed.
    backward
        Whether step 0 takes the last slices.
    shapes, dtypes
        Of the operands.
    checkpoint
        The schedule of the reverse sweep; ``None`` for the default: everything is stored, of a
        ``while_loop`` as much as fits into a fixed room.
    """

    kind: str
    bodies: tuple[Any, ...]
    operands: tuple[tuple[int, ...], ...]
    carries: int
    slices: int
    steps: int
    backward: bool
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    checkpoint: Any = None

    @property
    def is_branch(self) -> bool:
        """Whether an index (the last operand) chooses the body."""
        return self.kind == "switch"

    @property
    def dynamic(self) -> bool:
        """Whether the first carry decides about each step."""
        return self.kind == "while_loop"

    @cached_property
    def key(self) -> tuple:
        """What makes two specs equal."""
        prints = tuple(body.fingerprint for body in self.bodies)
        return (
            self.kind, prints, self.operands, self.carries, self.slices, self.steps,
            self.backward, self.shapes, self.dtypes, self.checkpoint,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        bodies = ", ".join(f"{len(b)} instructions {b.fingerprint.hex()[:16]}" for b in self.bodies)
        steps = "" if self.is_branch else f" x {self.steps}"
        order = " backward" if self.backward else ""
        inputs = self.operands if self.is_branch else (self.carries, self.slices)
        checkpoint = "" if self.checkpoint is None else f" {self.checkpoint}"
        return f"{self.kind}[{bodies}]{steps}{order} {inputs}{checkpoint}"

    def operand_shape(self, i: int) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.shapes[i]

    def operand_size(self, i: int) -> int:
        """Number of elements of an operand."""
        return _size(self.shapes[i])

    def is_float(self, i: int) -> bool:
        """Whether an operand carries derivatives."""
        index = self.is_branch and i == len(self.shapes) - 1
        return self.dtypes[i][1] == "f" and not index

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The outputs in the flat result."""
        parts, at = [], 0
        for i, leaf in enumerate(self.bodies[0].outputs):
            shape = leaf.view.shape
            if i >= self.carries and not self.is_branch:
                shape = (self.steps, *shape)
            parts.append(Part(at, shape, leaf.dtype))
            at += parts[-1].size
        return tuple(parts)

    @cached_property
    def result_size(self) -> int:
        """Elements of the flat result."""
        return sum(part.size for part in self.parts) + self.dynamic

    def packed_size(self, active: Sequence[int]) -> int:
        """Elements of the packed cotangents of some operands."""
        return sum(self.operand_size(i) for i in active)


def _unsupported(*args: Any) -> Any:
    from ..errors import UnsupportedError
    from ..recording.recorder import where_am_i

    raise UnsupportedError(
        f"{where_am_i()}: forward mode, and derivatives inside of a recording, do not pass through "
        "staged loops and branches; use grad, value_and_grad or vjp, or a Python loop"
    )


STRUCTURAL["loop"] = Structural("loop", None, vjp=_unsupported, jvp=_unsupported)
STRUCTURAL["loop_vjp"] = Structural("loop_vjp", None, vjp=_unsupported, jvp=_unsupported)
