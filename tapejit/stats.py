"""What a tape holds, counted: operations by kind, buffers, bytes of each arena."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .interpreters.layout import CALL, GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from .ops.table import OPS
from .tape import Tape

__all__ = ["TapeStats", "tape_stats"]

_ITEM = 8  # bytes of a double


@dataclass(frozen=True)
class TapeStats:
    """Counts of a tape, and the bytes of its programs.

    Attributes
    ----------
    instructions
        Rows of the tape.
    operations
        How many of each kind, the most frequent first: elementwise operations (on scalars and on
        arrays), structural operations, ``write``, ``guard``.
    array_operations
        How many of the instructions work on arrays.
    scalars, scalar_constants
        Numbers in the scalar region, and how many of them are constants.
    buffers
        (how many, bytes) of the array buffers: ``"arguments"``, ``"constants"``,
        ``"intermediates"``.
    value_program, gradient_program
        Bytes of the programs of the optimised tape: of one workspace (``"values"``, where arrays
        have their adjoints, too, ``"adjoints"`` of scalars, ``"scratch"``) and of what all share
        (``"code"``, ``"constants"``).  ``"work"``: values and adjoints beyond arguments, results
        and constants.
        ``gradient_program`` is empty where nothing can be differentiated.
    """

    instructions: int
    operations: dict[str, int]
    array_operations: int
    scalars: int
    scalar_constants: int
    buffers: dict[str, tuple[int, int]]
    value_program: dict[str, int]
    gradient_program: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.instructions} instructions, {self.array_operations} of them on arrays"]
        lines += [f"  {count:10d}  {name}" for name, count in self.operations.items()]
        lines.append(f"{self.scalars} scalars, {self.scalar_constants} of them constants")
        lines += [f"  {count:10d}  {kind}: {_size(n)}" for kind, (count, n) in self.buffers.items()]
        programs = {"value": self.value_program, "gradient": self.gradient_program}
        for name, parts in programs.items():
            if parts:
                sizes = ", ".join(f"{part} {_size(n)}" for part, n in parts.items() if n)
                lines.append(f"{name} program: {sizes}")
        return "\n".join(lines)


def _size(n: int) -> str:
    """Bytes in a readable unit."""
    size = float(n)
    for unit in ("B", "kB", "MB"):
        if size < 1000.0:
            return f"{size:.4g} {unit}"
        size /= 1000.0
    return f"{size:.4g} GB"


def tape_stats(tape: Tape, wrt: Sequence[int] | None = None) -> TapeStats:
    """See :meth:`tapejit.tape.Tape.stats`."""
    from .program import program_for

    if wrt is None:
        wrt = [i for i, leaf in enumerate(tape.inputs) if leaf.dtype[1] == "f"]
    floats = any(leaf.dtype[1] == "f" for leaf in tape.outputs)
    gradient = {}
    if len(wrt) and floats:
        gradient = program_for(tape, tuple(wrt), "gradient").nbytes
    return TapeStats(
        instructions=len(tape),
        operations=_operations(tape),
        array_operations=len(tape.calls),
        scalars=tape.n_scalars,
        scalar_constants=len(tape.scalar_constants[0]),
        buffers=_buffers(tape),
        value_program=program_for(tape).nbytes,
        gradient_program=gradient,
    )


def _operations(tape: Tape) -> dict[str, int]:
    names = {op.code: op.name for op in OPS.values()} | {WRITE: "write"}
    names |= dict.fromkeys((GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL), "guard")
    count = Counter(call.op for call in tape.calls)
    codes, numbers = np.unique(tape.code[:, 0], return_counts=True)
    for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
        if code != CALL:
            count[names[code]] += number
    return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))


def _buffers(tape: Tape) -> dict[str, tuple[int, int]]:
    found = {"arguments": (0, 0), "constants": (0, 0), "intermediates": (0, 0)}
    for buffer in tape.buffers:
        kind = "intermediates"
        if buffer.argument >= 0:
            kind = "arguments"
        elif buffer.constant >= 0:
            kind = "constants"
        count, size = found[kind]
        found[kind] = (count + 1, size + _ITEM * buffer.size)
    return found
