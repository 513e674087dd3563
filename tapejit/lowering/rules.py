"""Rules of structural operations as small tapes, recorded once for each combination of shapes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from ..tape import Call, Tape

__all__ = ["Rule", "jvp_tape", "vjp_tape"]


class Rule(NamedTuple):
    """A rule's tape, and the operands that its outputs belong to."""

    tape: Tape
    operands: tuple[int, ...]


def vjp_tape(call: Call, wanted: tuple[bool, ...]) -> Rule | None:
    """Tape of (g, result, *operands) -> cotangents of the wanted operands."""
    shapes = tuple(view.shape for view in call.operands)
    return _vjp_tape(call.op, call.result.shape, shapes, call.params, wanted)


@functools.lru_cache(maxsize=4096)
def _vjp_tape(
    op: str, result: tuple, shapes: tuple, params: tuple, wanted: tuple[bool, ...]
) -> Rule | None:
    from ..ops.structural import STRUCTURAL
    from ..recording.record import record_shapes

    rule = STRUCTURAL[op].vjp
    STRUCTURAL[op].refuse_closed_over(wanted)
    if rule is None:
        return None
    kept: list[int] = []

    def run(g, f, *operands):
        more = {"wanted": wanted} if STRUCTURAL[op].selective else {}
        cotangents = rule(g, f, operands, params, **more)
        kept.clear()
        kept.extend(i for i, c in enumerate(cotangents) if c is not None and wanted[i])
        return tuple(cotangents[i] for i in kept)

    tape = record_shapes(run, (result, result, *shapes), f"{op} rule")
    return Rule(tape, tuple(kept)) if kept else None


def jvp_tape(call: Call, active: tuple[bool, ...]) -> Tape | None:
    """Tape of (result, *operands, *tangents) -> tangent of the result."""
    shapes = tuple(view.shape for view in call.operands)
    return _jvp_tape(call.op, call.result.shape, shapes, call.params, active)


@functools.lru_cache(maxsize=4096)
def _jvp_tape(
    op: str, result: tuple, shapes: tuple, params: tuple, active: tuple[bool, ...]
) -> Tape | None:
    from ..ops.structural import STRUCTURAL
    from ..recording.record import record_shapes

    rule = STRUCTURAL[op].jvp
    STRUCTURAL[op].refuse_closed_over(active)
    if rule is None:
        return None

    def run(f, *rest):
        operands, given = rest[: len(shapes)], iter(rest[len(shapes) :])
        tangents = [next(given) if is_active else None for is_active in active]
        out = rule(tangents, f, operands, params)
        return (np.zeros_like(f) if out is None else out,)

    moving = tuple(shape for shape, is_active in zip(shapes, active, strict=True) if is_active)
    return record_shapes(run, (result, *shapes, *moving), f"{op} rule")
