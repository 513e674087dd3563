"""Rules of elementwise operations as templates: a few rows over symbolic slots.

Each rule is traced once for each set of active operands; what comes out is instantiated over all
rows of a tape by compiled code (:mod:`tapejit.derive.scalars`), and over array instructions.

Slots ``G``, ``G + 1``, ``G + 2`` hold the cotangent (``G`` alone) or the operands' tangents; ``X``,
``X + 1``, ``X + 2`` the operands; ``F`` the result; from ``TEMPORARY`` on come the template's own
values, from ``CONSTANT`` on its constants.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..interpreters import layout
from ..ops.table import OPS, Elementwise
from ..tape import Tape

__all__ = ["CONSTANT", "F", "G", "Packed", "Template", "X", "pack", "pull_template",
           "push_template"]  # fmt: skip

G, X, F, TEMPORARY, CONSTANT = 0, 3, 6, 7, 1 << 12
NAMES = {op.code: op.name for op in OPS.values()}


class Template(NamedTuple):
    """Rows (op code, result slot, operand slots) and the slots of the outputs.

    ``outputs`` has an entry for each operand (a pull: ``None`` where none receives any) or a
    single one (a push).
    """

    rows: tuple[tuple[int, int, tuple[int, ...]], ...]
    outputs: tuple[int | None, ...]
    constants: tuple[float, ...]
    n_slots: int

    @property
    def reads(self) -> frozenset[int]:
        """The slots that are read."""
        used = {slot for _, _, operands in self.rows for slot in operands}
        return frozenset(used | {slot for slot in self.outputs if slot is not None})


@functools.cache
def pull_template(name: str, active: tuple[bool, ...]) -> Template:
    """What a cotangent of the result contributes to the active operands."""
    op = OPS[name]

    def run(*slots: Any) -> tuple:
        parts = _pulled(op, slots[G], slots)
        return tuple(part if on else None for part, on in zip(parts, active, strict=True))

    return _traced(run, name)


@functools.cache
def push_template(name: str, active: tuple[bool, ...]) -> Template:
    """The tangent of the result from the tangents of the active operands."""
    op = OPS[name]

    def run(*slots: Any) -> tuple:
        total = None
        for i, on in enumerate(active):
            part = _pulled(op, slots[G + i], slots)[i] if on else None
            if part is not None:
                total = part if total is None else total + part
        return (total,)

    return _traced(run, name)


def _pulled(op: Elementwise, g: Any, slots: Sequence[Any]) -> tuple:
    if op.pull is None:
        return (None,) * op.arity
    return op.pull(g, *slots[X : X + op.arity], slots[F])


def _traced(run: Callable[..., tuple], name: str) -> Template:
    """Record a rule at sample values and number what it computes."""
    from ..recording.record import record_function

    samples = [np.float64(value) for value in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)]
    given: list[bool] = []

    def parts(*slots: Any) -> tuple:
        found = run(*slots)
        given[:] = [part is not None for part in found]
        return tuple(part for part in found if part is not None)

    tape = record_function(parts, samples, f"{name} rule").tape
    elements = iter(tape.outputs)
    return _numbered(tape, [next(elements).view.offset if on else None for on in given])


def _numbered(tape: Tape, outputs: list[int | None]) -> Template:
    """Slots for elements; equal rows once, unused ones not at all."""
    ids, values = tape.scalar_constants
    slots = {leaf.view.offset: slot for slot, leaf in enumerate(tape.inputs)}
    constants: list[float] = []
    for number, value in zip(ids.tolist(), values.tolist(), strict=True):
        slots[number] = CONSTANT + len(constants)
        constants.append(value)
    rows: list[tuple[int, int, tuple[int, ...]]] = []
    known: dict[tuple, int] = {}
    for op, out, *operands in tape.code.tolist():
        key = (op, tuple(slots[element] for element in operands[: OPS[NAMES[op]].arity]))
        if key not in known:
            known[key] = TEMPORARY + len(rows)
            rows.append((op, known[key], key[1]))
        slots[out] = known[key]
    results = tuple(None if element is None else slots[element] for element in outputs)
    needed = {slot for slot in results if slot is not None}
    kept = []
    for row in reversed(rows):
        if row[1] in needed:
            kept.append(row)
            needed.update(row[2])
    return Template(tuple(kept[::-1]), results, tuple(constants), TEMPORARY + len(rows))


class Packed(NamedTuple):
    """Templates as arrays, for compiled code."""

    index: np.ndarray  # (op codes, 8): number of the template by op code and active bits, or -1
    starts: np.ndarray  # first row of each template, and the end
    rows: np.ndarray  # (n, 5): op code, result slot, operand slots
    outputs: np.ndarray  # (templates, 3): slots, -1 for none
    constants: tuple[float, ...]  # by slot - CONSTANT
    n_slots: int


def pack(kind: Any, pairs: Iterable[tuple[int, int]]) -> Packed:
    """Templates of these (op code, active bits), by :func:`pull_template` or its twin."""
    index = np.full((layout.N_OPS, 8), -1, np.int32)
    starts, rows, outputs = [0], [], []
    constants: dict[float, int] = {}
    n_slots = TEMPORARY
    for number, (code, bits) in enumerate(pairs):
        op = OPS[NAMES[code]]
        template = kind(op.name, tuple(bool(bits >> i & 1) for i in range(op.arity)))
        shift = [constants.setdefault(value, len(constants)) for value in template.constants]

        def slot(s: int, shift: list[int] = shift) -> int:
            return s if s < CONSTANT else CONSTANT + shift[s - CONSTANT]

        for row_op, out, operands in template.rows:
            row = [slot(s) for s in operands]
            rows.append([row_op, out, *row, *[G] * (3 - len(row))])
        outs = [-1 if s is None else slot(s) for s in template.outputs]
        outputs.append(outs + [-1] * (3 - len(outs)))
        starts.append(len(rows))
        index[code, bits] = number
        n_slots = max(n_slots, template.n_slots)
    return Packed(
        index, np.array(starts, np.int32), np.array(rows, np.int32).reshape(-1, 5),
        np.array(outputs, np.int32).reshape(-1, 3), tuple(constants), n_slots,
    )  # fmt: skip
