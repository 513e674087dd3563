"""The operation table: what an operation is, and the one list that holds them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["OPS", "Elementwise", "Interval", "elementwise"]


@dataclass(frozen=True)
class Interval:
    """An open or closed stretch of the real line on which an operation is tested."""

    low: float
    high: float

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """``n`` points, away from the ends."""
        return self.low + (self.high - self.low) * rng.uniform(0.02, 0.98, n)


REALS = Interval(-3.0, 3.0)
POSITIVE = Interval(0.1, 4.0)
UNIT = Interval(-0.95, 0.95)


@dataclass(frozen=True)
class Elementwise:
    """An elementwise operation: its mathematics, once.

    Attributes
    ----------
    name
        The operation's name on the tape.
    value
        ``value(*operands)``, over the overloaded values of :mod:`tapejit.ops.rules`.
    pull
        ``pull(g, *operands, f)``: what each operand receives of a cotangent ``g`` (equally: what a
        tangent ``g`` of that operand contributes), ``None`` where it never receives any; ``f`` is
        the result.  ``None`` for operations whose derivative is zero everywhere.
    reference
        The NumPy function that evaluates it while recording.
    domain
        Where it is tested, an interval for each operand.
    kind
        NumPy kind of the result: ``"f"`` float, ``"b"`` bool, ``"="`` that of the operands.
    linear, zero_preserving, smooth
        Traits, for sparsity and higher order.
    costly
        A transcendental: its result is kept for the reverse sweep, not computed again.
    code
        Its op code in the scalar interpreters.
    """

    name: str
    value: Callable[..., Any]
    pull: Callable[..., tuple] | None
    reference: Callable[..., Any]
    domain: tuple[Interval, ...]
    kind: str = "f"
    linear: bool = False
    zero_preserving: bool = False
    smooth: bool = True
    costly: bool = False
    code: int = field(default=-1)

    @property
    def arity(self) -> int:
        """Number of operands."""
        return len(self.domain)


#: Every elementwise operation by name, in op-code order.
OPS: dict[str, Elementwise] = {}


def elementwise(
    name: str,
    value: Callable[..., Any],
    *,
    reference: Callable[..., Any],
    domain: tuple[Interval, ...] = (REALS,),
    partials: Callable[..., tuple] | None = None,
    pull: Callable[..., tuple] | None = None,
    guarded: bool = False,
    **traits: Any,
) -> Elementwise:
    """Add an elementwise operation to the table.

    Parameters
    ----------
    partials
        ``partials(*operands, f)``: one partial derivative for each operand (``None``: zero).
    pull
        Instead of ``partials``: ``pull(g, *operands, f)``, for operations that *route* their
        cotangent (``where``, ``maximum``) instead of multiplying it.
    guarded
        A partial may be infinite or NaN: the product with a zero cotangent is zero all the same.
    """
    if partials is not None:
        pull = _pull_from(partials, guarded)
    op = Elementwise(name, value, pull, reference, domain, code=len(OPS), **traits)
    assert name not in OPS, name
    OPS[name] = op
    return op


def _pull_from(partials: Callable[..., tuple], guarded: bool) -> Callable[..., tuple]:
    from . import rules

    def times(g: Any, partial: Any) -> Any:
        if partial is None:
            return None
        if isinstance(partial, (int, float)):
            return g if partial == 1 else (-g if partial == -1 else g * partial)
        if guarded:
            return rules.strong_mul(g, partial)
        return g * partial

    def pull(g: Any, *args: Any) -> tuple:
        return tuple(times(g, partial) for partial in partials(*args))

    return pull
