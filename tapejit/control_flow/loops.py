"""Loops: scan, fori_loop, while_loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .. import pytrees
from ..checkpointing import Schedule
from ..errors import ScheduleError, TraceError
from ..ops.control import Spec
from ..recording.recorder import where_am_i
from ..recording.tracer import is_traced, value_of
from ..tape import Leaf
from .bodies import Body, call_loop, check_same, check_structure, leaves_of, record_body

__all__ = ["fori_loop", "scan", "while_loop"]

#: Steps after which a ``while_loop`` is taken to be endless.
MAX_STEPS = 1_000_000_000

Carry = TypeVar("Carry")


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Carry,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    checkpoint: Schedule | None = None,
) -> tuple[Carry, Any]:
    """Run a body over the leading axis of arrays, carrying a state: a loop of known length.

    Parameters
    ----------
    f
        ``carry, y = f(carry, x)``, written in NumPy; recorded once.
    init
        The first carry: numbers and arrays in any containers.  Its structure, shapes and dtypes
        stay the same from step to step.
    xs
        Arrays of equal first dimension in any containers (``None`` for none): step ``i`` gets
        their elements ``i``.
    length
        Number of steps, where there are no ``xs``.
    reverse
        Whether the steps run from the last element to the first.
    checkpoint
        How the reverse sweep gets at what the steps computed, one of
        :mod:`tapejit.checkpointing`'s schedules; by default everything is stored.  The gradients
        are the same to the last bit.

    Returns
    -------
    tuple
        ``(carry, ys)``: the last carry, and every step's ``y`` stacked along a new first axis.

    Raises
    ------
    TraceError
        Where the carry changes its structure, a shape or a dtype, or the body branches on a traced
        value; the message names the line.
    TracerLeakError
        Where the body keeps a traced value outside, or writes into an outer array.

    Warns
    -----
    SideEffectWarning
        Where the body changes Python's state, random generators included: it runs once.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> total, sums = tj.scan(lambda s, x: (s + x, s + x), 0.0, np.arange(4.0))
    >>> total, sums
    (np.float64(6.0), array([0., 1., 3., 6.]))
    """
    return _scan(f, init, xs, length, reverse, checkpoint)


def _scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    length: int | None,
    reverse: bool,
    checkpoint: Schedule | None,
    counting: Callable[..., Any] | None = None,
) -> tuple[Any, Any]:
    """``counting``: the body of the ``fori_loop`` that this is; the carry is (number, carry)."""
    name = "scan" if counting is None else "fori_loop"
    _check_schedule(checkpoint, name)
    carry, carry_structure = leaves_of(init, "init")
    stacked, xs_structure = leaves_of(xs, "xs")
    steps = _steps(stacked, xs_structure, length)
    what = f"the body of tapejit.{name}"

    def body(*leaves: Any) -> Any:
        n = len(carry)
        state = pytrees.unflatten(carry_structure, list(leaves[:n]))
        result = f(state, pytrees.unflatten(xs_structure, list(leaves[n:])))
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TraceError(f"{where_am_i()}: {what} must return a pair (carry, y)")
        return result

    samples = [_slice(x, -1 if reverse else 0) for x in stacked]
    recorded = record_body(body, [*carry, *samples], what, counting or f, steps > 0)
    new, ys_structure = recorded.structure.children()
    before = recorded.tape.inputs[: len(carry)]
    check_same(
        before, carry_structure, recorded._replace(structure=new), what, counting is not None
    )
    outputs = _run(recorded, "scan", [*carry, *stacked], len(carry), steps, reverse, checkpoint)
    last = pytrees.unflatten(carry_structure, outputs[: len(carry)])
    return last, pytrees.unflatten(ys_structure, outputs[len(carry) :])


def _steps(stacked: list, structure: Any, length: int | None) -> int:
    """The number of steps, which every array of ``xs`` must have as its first dimension."""
    steps = None if length is None else _whole(length, "scan: length")
    for x, path in zip(stacked, pytrees.paths(structure), strict=True):
        shape = np.shape(value_of(x))
        if not shape:
            raise ValueError(
                f"{where_am_i()}: scan: xs{path} is a scalar; scan runs over a first axis"
            )
        if steps is None:
            steps = shape[0]
        elif shape[0] != steps:
            raise ValueError(
                f"{where_am_i()}: scan: xs{path} has shape {shape}, but {steps} steps are asked for"
                " by the other arrays or by length"
            )
    if steps is None:
        raise ValueError(f"{where_am_i()}: scan needs xs or length")
    return steps


def _whole(number: Any, what: str) -> int:
    """A number of steps."""
    try:
        steps = int(number)
    except ValueError:
        steps = -1
    if steps < 0 or steps != value_of(number):
        raise ValueError(f"{where_am_i()}: {what} is {number!r}; it is an integer, at least 0")
    return steps


def _check_schedule(checkpoint: Schedule | None, name: str, unknown: str = "") -> None:
    """Raise unless a schedule serves; ``unknown``: why nobody knows the number of steps."""
    if checkpoint is None:
        return
    if not isinstance(checkpoint, Schedule):
        raise TypeError(
            f"{where_am_i()}: {name}: checkpoint is a schedule, as tapejit.Revolve(snapshots=10), "
            f"not {checkpoint!r}"
        )
    if unknown and not checkpoint.open_ended:
        raise ScheduleError(
            f"{where_am_i()}: {name}: {checkpoint} is for a known number of steps, which nobody "
            f"has before this loop ends: {unknown}. Take Online(snapshots=...) or "
            "Memory(...)"
        )


def _slice(x: Any, at: int) -> Any:
    """A sample slice; zeros where there is none."""
    value = value_of(x)
    return value[at] if len(value) else np.zeros(value.shape[1:], value.dtype)[()]


def _run(
    body: Body,
    kind: str,
    operands: list,
    carries: int,
    steps: int,
    backward: bool = False,
    checkpoint: Schedule | None = None,
) -> list:
    """Record the call of a body: its outputs."""
    operands = [*operands, *body.captured]
    values = [np.asarray(value_of(x)) for x in operands]
    spec = Spec(
        kind, (body.tape,), (tuple(range(len(operands))),), carries,
        len(operands) - carries - len(body.captured), steps, backward,
        tuple(v.shape for v in values), tuple(v.dtype.str for v in values), checkpoint,
    )  # fmt: skip
    return call_loop(spec, operands) if spec.parts else []


def while_loop(
    cond_fun: Callable[[Carry], Any],
    body_fun: Callable[[Carry], Carry],
    init_val: Carry,
    max_steps: int = MAX_STEPS,
    checkpoint: Schedule | None = None,
) -> Carry:
    """Run a body as long as a condition holds; differentiable in both modes.

    Parameters
    ----------
    cond_fun
        ``cond_fun(carry)`` is a boolean scalar: whether another step is taken.
    body_fun
        ``carry = body_fun(carry)``; recorded once.
    init_val
        The first carry: numbers and arrays in any containers.
    max_steps
        Steps after which the loop is given up with an error.
    checkpoint
        The schedule of the reverse sweep (see :func:`scan`), one for an unknown number of steps:
        ``Online(snapshots=...)`` or ``Memory(...)``.  By default up to 64 steps are stored at a
        time, and 32 snapshots held.

    Returns
    -------
    carry
        The first carry for which the condition does not hold.

    Raises
    ------
    TraceError
        As for :func:`scan`.
    LoopLimitError
        Where the loop has not ended after ``max_steps`` steps.
    ScheduleError
        For a schedule that needs the number of steps, as ``Revolve``.

    Examples
    --------
    >>> import tapejit as tj
    >>> root = lambda a: tj.while_loop(
    ...     lambda x: abs(x * x - a) > 1e-12, lambda x: 0.5 * (x + a / x), a)
    >>> round(tj.grad(root)(4.0), 9)
    np.float64(0.25)
    """
    unknown = "the condition says after each step whether another one is taken"
    _check_schedule(checkpoint, "while_loop", unknown)
    return _while(cond_fun, body_fun, init_val, _whole(max_steps, "max_steps"), checkpoint)


def _while(
    cond_fun: Callable[[Any], Any],
    body_fun: Callable[[Any], Any],
    init_val: Any,
    max_steps: int,
    checkpoint: Schedule | None,
    counting: Callable[..., Any] | None = None,
) -> Any:
    """``counting``: the body of the ``fori_loop`` that this is; the carry is (number, carry)."""
    carry, structure = leaves_of(init_val, "init_val")
    what = f"the body of tapejit.{'while_loop' if counting is None else 'fori_loop'}"

    def condition(state: Any) -> Any:
        holds = cond_fun(state)
        value = np.asarray(value_of(holds))
        if value.shape != () or value.dtype.kind != "b":
            raise TraceError(
                f"{where_am_i()}: the condition of tapejit.while_loop must be a boolean scalar; it "
                f"is of dtype {value.dtype} and shape {value.shape}"
            )
        return holds

    def body(_: Any, *leaves: Any) -> Any:
        state = body_fun(pytrees.unflatten(structure, list(leaves)))
        check_structure(structure, pytrees.flatten(state)[1], what, counting is not None)
        return condition(state), state

    first = condition(pytrees.unflatten(structure, list(carry)))
    if not is_traced(first):
        first = np.bool_(value_of(first))
    recorded = record_body(body, [first, *carry], what, counting or body_fun, bool(value_of(first)))
    _, new = recorded.structure.children()
    shifted = recorded._replace(structure=new, tape=_Outputs(recorded.tape.outputs[1:]))
    before = recorded.tape.inputs[1 : 1 + len(carry)]
    check_same(before, structure, shifted, what, counting is not None)
    outputs = _run(
        recorded, "while_loop", [first, *carry], len(carry) + 1, max_steps, False, checkpoint
    )
    return pytrees.unflatten(structure, outputs[1:])


class _Outputs:
    """Some outputs of a tape."""

    def __init__(self, outputs: tuple[Leaf, ...]) -> None:
        self.outputs = outputs


def fori_loop(
    lower: Any,
    upper: Any,
    body_fun: Callable[[Any, Carry], Carry],
    init_val: Carry,
    checkpoint: Schedule | None = None,
) -> Carry:
    """``for i in range(lower, upper): carry = body_fun(i, carry)``, recorded once.

    Parameters
    ----------
    lower, upper
        Integers; where one of them is traced the loop is a :func:`while_loop` to derivatives, of
        an unknown number of steps.
    body_fun
        ``carry = body_fun(i, carry)``.
    init_val
        The first carry: numbers and arrays in any containers.
    checkpoint
        The schedule of the reverse sweep: any (see :func:`scan`), but where a bound is traced one
        for an unknown number of steps (see :func:`while_loop`).

    Returns
    -------
    carry
        The last carry; ``init_val`` where ``upper <= lower``.

    Raises
    ------
    TraceError
        As for :func:`scan`.
    ScheduleError
        For a schedule that needs the number of steps, where a bound is traced.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.fori_loop(1, 6, lambda i, x: x * i, 1.0)
    np.float64(120.0)
    >>> power = lambda x: tj.fori_loop(0, 100, lambda i, y: y * x, 1.0, checkpoint=tj.Revolve(5))
    >>> float(tj.grad(power)(1.0))
    100.0
    """
    for bound in (lower, upper):
        if np.asarray(value_of(bound)).dtype.kind not in "iu" or np.ndim(value_of(bound)):
            raise TraceError(f"{where_am_i()}: the bounds of fori_loop must be integers")
    leaves_of(init_val, "init_val")  # raises

    def step(state: tuple) -> tuple:
        return state[0] + 1, body_fun(*state)

    if not is_traced((lower, upper)):
        steps, init = max(int(upper) - int(lower), 0), (int(lower), init_val)
        (_, carry), _ = _scan(
            lambda state, _: (step(state), None), init, None, steps, False, checkpoint, body_fun
        )
        return carry
    _check_schedule(checkpoint, "fori_loop", "a bound of this one is computed from traced values")
    more = lambda state: state[0] < upper  # noqa: E731
    return _while(more, step, (lower, init_val), MAX_STEPS, checkpoint, body_fun)[1]
