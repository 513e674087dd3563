"""Rules of structural operations as small tapes, recorded once for each combination of shapes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ops.structural import STRUCTURAL
from ..tape import Call, Tape

__all__ = ["Rule", "both_tape", "jvp_tape", "vjp_tape"]


class Rule(NamedTuple):
    """A rule's tape, and the operands that its outputs belong to."""

    tape: Tape
    operands: tuple[int, ...]


def vjp_tape(call: Call, wanted: tuple[bool, ...]) -> Rule | None:
    """Tape of (g, result, *operands) -> cotangents of the wanted operands."""
    return _vjp_tape(*_shapes(call), call.params, wanted)


@functools.lru_cache(maxsize=4096)
def _vjp_tape(
    op: str, result: tuple, shapes: tuple, params: tuple, wanted: tuple[bool, ...]
) -> Rule | None:
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
    return _jvp_tape(*_shapes(call), call.params, active)


def both_tape(call: Call, active: tuple[bool, ...]) -> Tape | None:
    """Tape of (*operands, *tangents) -> result and its tangent, where a rule gives both."""
    if STRUCTURAL[call.op].both is None:
        return None
    return _both_tape(*_shapes(call), call.params, active)


def _shapes(call: Call) -> tuple[str, tuple, tuple]:
    return call.op, call.result.shape, tuple(view.shape for view in call.operands)


def _moving(shapes: tuple, active: tuple[bool, ...]) -> tuple:
    """Shapes of the tangents."""
    return tuple(shape for shape, is_active in zip(shapes, active, strict=True) if is_active)


def _taken(given: Sequence[Any], active: tuple[bool, ...]) -> tuple[Sequence[Any], list[Any]]:
    """Operands, and a tangent (or None) for each."""
    operands, rest = given[: len(active)], iter(given[len(active) :])
    return operands, [next(rest) if is_active else None for is_active in active]


@functools.lru_cache(maxsize=4096)
def _jvp_tape(
    op: str, result: tuple, shapes: tuple, params: tuple, active: tuple[bool, ...]
) -> Tape | None:
    from ..recording.record import record_shapes

    rule = STRUCTURAL[op].jvp
    STRUCTURAL[op].refuse_closed_over(active)
    if rule is None:
        return None

    def run(f, *given):
        operands, tangents = _taken(given, active)
        out = rule(tangents, f, operands, params)
        return (np.zeros_like(f) if out is None else out,)

    return record_shapes(run, (result, *shapes, *_moving(shapes, active)), f"{op} rule")


@functools.lru_cache(maxsize=4096)
def _both_tape(
    op: str, result: tuple, shapes: tuple, params: tuple, active: tuple[bool, ...]
) -> Tape | None:
    from ..recording.record import record_shapes

    known = True

    def run(*given):
        nonlocal known
        operands, tangents = _taken(given, active)
        out = STRUCTURAL[op].both(tangents, operands, params)
        known = out is not None
        return out if known else ()

    tape = record_shapes(run, (*shapes, *_moving(shapes, active)), f"{op} rule")
    return tape if known else None
