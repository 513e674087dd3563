"""Rules of structural operations, for one direction or several at once, as small tapes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..interpreters.layout import WRITE
from ..lowering.rules import Rule, jvp_tape, vjp_tape
from ..ops.structural import STRUCTURAL, Structural
from ..tape import SCALAR, Call, Tape, View

__all__ = ["WRITES", "jvp_rule", "live_rows", "one_by_one", "overwrites", "read_inputs", "vjp_rule"]

#: Array instructions that write in place.
WRITES = ("write", "scatter_write")


def vjp_rule(call: Call, wanted: tuple[bool, ...], lead: tuple[int, ...]) -> Rule | None:
    """Tape of (g, result, *operands) -> cotangents; ``g`` and these have ``lead`` in front."""
    if not lead:
        return vjp_tape(call, wanted)
    shapes = tuple(view.shape for view in call.operands)
    return _vjp_of_many(call.op, call.result.shape, shapes, call.params, wanted, lead[0])


def jvp_rule(call: Call, active: tuple[bool, ...], lead: tuple[int, ...]) -> Tape | None:
    """Tape of (result, *operands, *tangents) -> tangent; tangents have ``lead`` in front."""
    if not lead:
        return jvp_tape(call, active)
    shapes = tuple(view.shape for view in call.operands)
    return _jvp_of_many(call.op, call.result.shape, shapes, call.params, active, lead[0])


def _stacked(rule: Any, f: Any, operands: tuple, params: tuple, n: int) -> tuple:
    """Result, operands and parameters of the operation on ``n`` copies, along a new first axis."""
    if rule.stacked is None:
        return f, operands, params
    return rule.stacked(f, operands, params, n)


def _broadcasts(rule: Structural) -> bool:
    """Whether a rule takes many directions at once: as far as its examples have shown.

    Users' rules and those of staged loops take one at a time.
    """
    return rule.examples is not None


def _joined(parts: list[Sequence[Any]]) -> list[Any]:
    """Results for each direction along a new first axis."""
    return [None if part[0] is None else np.stack(part) for part in zip(*parts, strict=True)]


@functools.lru_cache(maxsize=1024)
def _vjp_of_many(
    op: str, result: tuple, shapes: tuple, params: tuple, wanted: tuple[bool, ...], n: int
) -> Rule | None:
    from ..recording.record import record_shapes

    rule = STRUCTURAL[op]
    rule.refuse_closed_over(wanted)
    if rule.vjp is None:
        return None
    kept: list[int] = []

    def run(g: Any, f: Any, *operands: Any) -> tuple:
        if _broadcasts(rule):
            parts = rule.vjp(g, *_stacked(rule, f, operands, params, n))
        else:
            parts = _joined([rule.vjp(g[k], f, operands, params) for k in range(n)])
        kept.clear()
        kept.extend(i for i, part in enumerate(parts) if part is not None and wanted[i])
        return tuple(np.broadcast_to(parts[i], (n, *shapes[i])) for i in kept)

    tape = record_shapes(run, ((n, *result), result, *shapes), f"{op} rule")
    return Rule(tape, tuple(kept)) if kept else None


@functools.lru_cache(maxsize=1024)
def _jvp_of_many(
    op: str, result: tuple, shapes: tuple, params: tuple, active: tuple[bool, ...], n: int
) -> Tape | None:
    from ..recording.record import record_shapes

    rule = STRUCTURAL[op]
    rule.refuse_closed_over(active)
    if rule.jvp is None:
        return None

    def run(f: Any, *rest: Any) -> tuple:
        operands, given = rest[: len(shapes)], iter(rest[len(shapes) :])
        tangents = [next(given) if is_active else None for is_active in active]
        if _broadcasts(rule):
            out = rule.jvp(tangents, *_stacked(rule, f, operands, params, n))
        else:
            each = [[None if t is None else t[k] for t in tangents] for k in range(n)]
            (out,) = _joined([(rule.jvp(ts, f, operands, params),) for ts in each])
        return (np.zeros((n, *result)) if out is None else np.broadcast_to(out, (n, *result)),)

    moving = tuple((n, *shape) for shape, on in zip(shapes, active, strict=True) if on)
    return record_shapes(run, (result, *shapes, *moving), f"{op} rule")


def one_by_one(tape: Tape) -> bool:
    """Whether derivatives go one direction a sweep: the tape writes in place, or has loops."""
    return overwrites(tape) or any(call.op in ("loop", "loop_vjp") for call in tape.calls)


def overwrites(tape: Tape) -> bool:
    """Whether a tape writes in place."""
    return bool((tape.code[:, 0] == WRITE).any()) or any(c.op in WRITES for c in tape.calls)


@functools.lru_cache(maxsize=4096)
def live_rows(tape: Tape) -> tuple[int, ...]:
    """The rows of a rule's tape that its outputs need; all where it writes in place."""
    from ..listing import rows

    if overwrites(tape):
        return tuple(range(len(tape)))
    needed = {_key(leaf.view) for leaf in tape.outputs}
    kept = []
    for row in reversed(list(rows(tape))):
        if row.result is None or _key(row.result) in needed:
            kept.append(row.index)
            needed.update(map(_key, row.operands))
    return tuple(reversed(kept))


@functools.lru_cache(maxsize=4096)
def read_inputs(tape: Tape) -> frozenset[int]:
    """Which inputs of a rule's tape its outputs need."""
    from ..listing import rows

    live = set(live_rows(tape))
    views = [view for row in rows(tape) if row.index in live for view in row.operands]
    views += [leaf.view for leaf in tape.outputs]
    named = {_key(view) for view in views}
    return frozenset(i for i, leaf in enumerate(tape.inputs) if _key(leaf.view) in named)


def _key(view: View) -> tuple[int, int]:
    return (SCALAR, view.offset) if view.buffer == SCALAR else (view.buffer, 0)
