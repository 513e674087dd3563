"""A user's derivative rule on the tape.

The rows of the user's function stand on the tape as any others, so that its branches are guards
and its loops are unrolled.  After them comes one call, the *identity with a rule*: it copies the
function's result, and derivatives pass from its result to the function's arguments by the user's
rule; to the rows of the function itself they do not pass.  Its operands are

    result, arguments, values closed over, residuals and what the rule closes over.

The rule is a tape of its own, recorded when the function is: it has no branches, and is inlined
where the program, or another tape, needs the derivative.  Where only the transpose of what is
asked for is known (forward mode through ``custom_vjp``, reverse mode through ``custom_jvp``) the
rule, a linear map, is transposed by differentiating its tape with respect to what it is linear in.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import RuleError, UnsupportedError
from ..interpreters.layout import GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE
from ..ops.structural import Structural, carry
from ..recording.functions import concatenate, ravel
from ..recording.record import record_function
from ..recording.recorder import Recorder
from ..recording.splice import splice
from ..recording.tracer import Tracer, lift, record, recorder_of, value_of
from ..tape import Tape, size_of
from .linear import nonlinear_row

__all__ = [
    "Backward", "Forward", "Given", "Rules", "apply_rule", "each_jvp", "each_vjp", "packed",
    "unpacked",
]  # fmt: skip


def packed(values: Sequence[Any]) -> Any:
    """One value as it is; several as one flat array."""
    if len(values) == 1:
        return values[0]
    return concatenate([ravel(value) if value.ndim else value.reshape(1) for value in values])


def unpacked(flat: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """The parts of what :func:`packed` made, as views."""
    if len(shapes) == 1:
        return [flat]
    parts, at = [], 0
    for shape in shapes:
        n = size_of(shape)
        parts.append(flat[at : at + n].reshape(shape) if shape else flat[at])
        at += n
    return parts


def apply_rule(
    rec: Recorder,
    result: Any,
    arguments: Sequence[Tracer],
    closed_over: Sequence[Tracer],
    residuals: Sequence[Any],
    owner: Rules,
    key: Any,
    make: Callable[[list[Any]], _Rule],
) -> Tracer:
    """Append the identity with a rule.

    Parameters
    ----------
    owner, key
        Whose rule it is, and what else than its operands' values it depends on.
    make
        Records the rule, from the values of the operands.
    """
    operands = [result, *arguments, *closed_over, *residuals]
    values = [value_of(operand) for operand in operands]
    moving = [1 + i for i, argument in enumerate(arguments) if value_of(argument).dtype.kind == "f"]
    first = 1 + len(arguments)
    closed = tuple(range(first, first + len(closed_over)))
    if owner.under_way:
        key = (key, len(closed), tuple((np.shape(v), v.dtype.str) for v in values))
        operation = owner.deferred(key, lambda: make(values), (*moving, *closed), closed)
    else:
        with owner.recording():
            rule = make(values)
        operands += [lift(rec, tracer) for tracer in rule.captured]
        name = f"{rule.name}#{rule.tape.fingerprint.hex()[:12]}"
        operation = _operation(name, rule, (*moving, *closed), closed)
    return record(rec, operation.name, operands, np.array(value_of(result))[()], (operation,))


@dataclass(frozen=True, eq=False, repr=False)
class _Operation(Structural):
    """An identity with a rule; its name says all about it."""

    def __repr__(self) -> str:
        return self.name


def _operation(
    name: str, rule: _Rule | _Deferred, active: tuple[int, ...], closed_over: tuple[int, ...]
) -> Structural:
    return carry(
        _Operation(
            name, active, vjp=rule.vjp, jvp=rule.jvp, lowering="copy", needed=(0,),
            closed_over=closed_over,
        )
    )  # fmt: skip


class Given(NamedTuple):
    """A call whose result a rule has among its operands."""

    arguments: Sequence[Any]
    packed: Any
    result: Any

    @classmethod
    def of(cls, arguments: Sequence[Any], packed: Any, result: Any) -> Given | None:
        """The call, unless some of its result stands elsewhere."""
        return cls(arguments, packed, result) if result.moving == result.traced else None

    def answers(self, traced: Sequence[Any]) -> bool:
        """Whether a call with these traced leaves is that call."""
        return len(traced) == len(self.arguments) and all(
            a is b for a, b in zip(traced, self.arguments, strict=True)
        )


class Rules(threading.local):
    """The rules of one user's function: which are being recorded in this thread.

    A rule may call its own function (``y = f(x)`` in a ``custom_jvp``).  The rule of such a call is
    recorded when a derivative of higher order asks for it.
    """

    def __init__(self, name: str, known: dict[Any, Structural]) -> None:
        self.name = name
        self.known = known
        self.under_way = False
        self.given: Given | None = None

    @contextlib.contextmanager
    def recording(self, given: Given | None = None) -> Iterator[None]:
        """A rule of the function is being recorded, of a call whose result is known."""
        before = self.under_way, self.given
        self.under_way, self.given = True, given
        try:
            yield
        finally:
            self.under_way, self.given = before

    def deferred(
        self,
        key: Any,
        make: Callable[[], _Rule],
        active: tuple[int, ...],
        closed_over: tuple[int, ...],
    ) -> Structural:
        """The operation of a rule that is recorded later."""
        operation = self.known.get(key)
        if operation is None:
            name = f"{self.name}#later{next(_serial)}"
            operation = _operation(name, _Deferred(self, make), active, closed_over)
            self.known[key] = operation
        return operation


_serial = itertools.count()


class _Deferred:
    """A rule that is recorded when it is first asked for."""

    def __init__(self, owner: Rules, make: Callable[[], _Rule]) -> None:
        self.owner = owner
        self.make = make

    @functools.cached_property
    def rule(self) -> _Rule:
        """The rule, recorded."""
        with self.owner.recording():
            rule = self.make()
        if rule.captured:
            raise RuleError(
                f"{rule.part} of `{rule.name}`, called by itself, closes over a traced value; pass "
                "the value as an argument"
            )
        return rule

    def vjp(self, *args: Any) -> Sequence[Any]:
        """A cotangent for each operand."""
        return self.rule.vjp(*args)

    def jvp(self, *args: Any) -> Any:
        """The tangent of the result."""
        return self.rule.jvp(*args)


def each_vjp(rule: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
    """A vjp for cotangents of the result's shape, for one 0-d one, or for several along axis 0."""

    @functools.wraps(rule)
    def vjp(self: Any, g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
        given, shape = np.shape(value_of(g)), np.shape(value_of(f))
        if len(given) <= len(shape):
            g = g if given == shape else np.broadcast_to(g, shape)
            return rule(self, g, f, operands, params)
        several = [rule(self, g[k], f, operands, params) for k in range(given[0])]
        return [
            None if parts[0] is None else np.stack(parts) for parts in zip(*several, strict=True)
        ]

    return vjp


def each_jvp(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A jvp for tangents of the operands' shapes, or for several of each along axis 0."""

    @functools.wraps(rule)
    def jvp(
        self: Any, tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple
    ) -> Any:
        counts = {
            np.shape(value_of(t))[0]
            for t, x in zip(tangents, operands, strict=True)
            if t is not None and np.ndim(value_of(t)) > np.ndim(value_of(x))
        }
        if not counts:
            return rule(self, tangents, f, operands, params)
        (n,) = counts
        return np.stack(
            [
                rule(self, [t if t is None else t[k] for t in tangents], f, operands, params)
                for k in range(n)
            ]
        )

    return jvp


class _Rule:
    """A recorded rule.

    Parameters
    ----------
    function
        ``function(*inputs)``: what the user's rule returns for the arguments that move.
    inputs
        Values at which it is recorded: first ``leading`` (cotangents or tangents), then the
        operands of the call that carries it.
    positions
        The operands that it gives derivatives for (``custom_vjp``) or takes tangents of.
    """

    def __init__(
        self,
        name: str,
        part: str,
        function: Callable[..., Any],
        leading: Sequence[Any],
        operands: Sequence[Any],
        positions: Sequence[int],
    ) -> None:
        self.name = name
        self.part = part
        self.n_leading = len(leading)
        self.positions = tuple(positions)
        recording = record_function(function, [*leading, *operands], f"{part} of {name}")
        self.tape: Tape = recording.tape
        self.captured = recording.captured
        self._refuse_guards()

    def _refuse_guards(self) -> None:
        ops = self.tape.code[:, 0]
        guards = np.flatnonzero(np.isin(ops, (GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL)))
        if len(guards):
            file, line = self.tape.line(int(guards[0]))
            raise RuleError(
                f"{file}:{line}: {self.part} of `{self.name}` branches on a traced value (if, "
                "while, int(x), range(n)); use np.where there, or branch in the function itself "
                "and return the outcome, bool(...) or int(...), as a residual"
            )

    def run(self, leading: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        """The rule's outputs, on the recording that its inputs belong to."""
        inputs = [*leading, *operands]
        return splice(recorder_of(*inputs), self.tape, inputs)

    def transposed(
        self, zeros: Sequence[Any], operands: Sequence[Any], seeds: Sequence[Any]
    ) -> Any:
        """The transpose of the rule, a linear map of its leading inputs, applied to ``seeds``."""
        from ..api import vjp

        row = nonlinear_row(self.tape, range(self.n_leading))
        if row is not None:
            file, line = self.tape.line(row)
            raise UnsupportedError(
                f"{file}:{line}: {self.part} of `{self.name}` is not linear in its "
                f"{self.linear_in}, so that it cannot be transposed; {self.remedy}"
            )
        _, pullback = vjp(lambda *leading: tuple(self.run(leading, operands)), *zeros)
        return pullback(tuple(seeds))

    linear_in = remedy = ""

    def vjp(self, g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
        """A cotangent for each operand."""
        raise NotImplementedError

    def jvp(self, tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
        """The tangent of the result."""
        raise NotImplementedError


class Backward(_Rule):
    """The ``bwd`` of a ``custom_vjp``: from the result's cotangent to those of the arguments."""

    linear_in = "cotangent"
    remedy = "for forward mode give the function a custom_jvp instead"

    @each_vjp
    def vjp(self, g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
        parts: list[Any] = [None] * len(operands)
        for position, part in zip(self.positions, self.run([g], operands), strict=True):
            parts[position] = part
        return parts

    @each_jvp
    def jvp(self, tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
        seeds = [_tangent(tangents[i], operands[i]) for i in self.positions]
        zero = np.zeros(np.shape(value_of(f)))[()]
        return self.transposed([zero], operands, seeds)[0]


class Forward(_Rule):
    """The rule of a ``custom_jvp``: from the tangents of the arguments to that of the result."""

    linear_in = "tangents"
    remedy = "for reverse mode give the function a custom_vjp instead"

    @each_vjp
    def vjp(self, g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
        parts: list[Any] = [None] * len(operands)
        zeros = [np.zeros(np.shape(value_of(operands[i])))[()] for i in self.positions]
        for position, part in zip(
            self.positions, self.transposed(zeros, operands, [g]), strict=True
        ):
            parts[position] = part
        return parts

    @each_jvp
    def jvp(self, tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
        leading = [_tangent(tangents[i], operands[i]) for i in self.positions]
        return self.run(leading, operands)[0]


def _tangent(tangent: Any, operand: Any) -> Any:
    """A tangent of the operand's shape; zeros for one that does not move."""
    shape = np.shape(value_of(operand))
    if tangent is None:
        return np.zeros(shape)[()]
    return tangent if np.shape(value_of(tangent)) == shape else np.broadcast_to(tangent, shape)
