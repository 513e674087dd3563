"""Derivative tapes for users: from a traced tape the tape of its gradient, jvp or vjp.

What comes out is an ordinary tape: it prints, is drawn, is called at new arguments, and is
differentiated again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import pytrees
from .arguments import Function, as_tuple
from .derive.tapes import floating, pullback, pushforward
from .errors import TraceError
from .gradients import require_scalar
from .passes.dead import remove_dead
from .recording.record import Constant, Recording
from .replay import Replay
from .results import gradient_tree
from .tape import Tape

__all__ = ["gradient_tape", "jvp_tape", "vjp_tape"]


def gradient_tape(tape: Tape, argnums: int | Sequence[int] = 0) -> Tape:
    """The tape of a scalar function's gradient.

    Parameters
    ----------
    tape
        From :func:`~tapejit.trace`, with one scalar result.
    argnums
        Which positional arguments to differentiate with respect to; a sequence gives a tuple.

    Returns
    -------
    Tape
        Called like ``tape``; it gives the gradient, in the structure of the arguments.

    Raises
    ------
    TraceError
        Where the result is not a scalar, or the tape was not made by :func:`~tapejit.trace`.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tape = tj.trace(lambda x: np.sum(x**3), np.array([1.0, 2.0]))
    >>> gradient = tj.gradient_tape(tape)
    >>> gradient(np.array([1.0, 2.0]))
    array([ 3., 12.])
    >>> second = tj.gradient_tape(tj.gradient_tape(tj.trace(np.sin, 0.5)))
    >>> second(0.5) == -np.sin(0.5)
    np.True_
    """
    replay = _replay(tape)
    require_scalar(tape.name, replay.path.recording)
    args, _ = _sample_arguments(replay)
    chosen = {n % len(args) for n in as_tuple(argnums) if -len(args) <= n < len(args)}
    if len(chosen) != len(as_tuple(argnums)):
        raise TypeError(f"tape of `{tape.name}` has {len(args)} arguments, not argnums {argnums}")
    wrt = [
        number
        for position in sorted(chosen)
        for number in pytrees.flatten(args[position])[0]
        if isinstance(number, _Input)
    ]
    derived = pullback(tape, wrt, seeds="one")
    kept = [_Input(k) for k in range(len(wrt))]
    result = gradient_tree(args, argnums, kept)
    return _callable(derived, f"gradient of {tape.name}", replay, replay.structure, result)


def jvp_tape(tape: Tape) -> Tape:
    """The tape of a function's value and its derivative along tangents of all arguments.

    Returns
    -------
    Tape
        ``value, tangent = jvp(*args, *tangents)``: each argument is followed, after the last one,
        by its tangent.

    Raises
    ------
    TraceError
        Where the tape was not made by :func:`~tapejit.trace`, or has keyword arguments.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.jvp_tape(tj.trace(lambda x, y: x * y, 2.0, 3.0))(2.0, 3.0, 1.0, 0.0)
    (np.float64(6.0), np.float64(3.0))
    """
    replay = _replay(tape)
    args = _positional(tape, replay)
    wrt = _moving(tape)
    derived = pushforward(tape, wrt, values=True)
    structure = pytrees.flatten(((*args, *args), {}))[1]
    n = len(tape.outputs)
    leaves = replay.path.recording.leaves
    value = [leaf if isinstance(leaf, Constant) else _Input(leaf) for leaf in leaves]
    tangent = [leaf if isinstance(leaf, Constant) else _Input(n + leaf) for leaf in leaves]
    recorded = replay.path.recording.structure
    result = tuple(pytrees.unflatten(recorded, part) for part in (value, tangent))
    return _callable(derived, f"jvp of {tape.name}", replay, structure, result, twice=True)


def vjp_tape(tape: Tape) -> Tape:
    """The tape of a function's value and the cotangents of all its arguments.

    Returns
    -------
    Tape
        ``value, cotangents = vjp(*args, cotangent)``: ``cotangent`` has the structure of the
        result, ``cotangents`` is a tuple with one for each argument.

    Raises
    ------
    TraceError
        Where the tape was not made by :func:`~tapejit.trace`, or has keyword arguments.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.vjp_tape(tj.trace(lambda x, y: x * y, 2.0, 3.0))(2.0, 3.0, 10.0)
    (np.float64(6.0), (np.float64(30.0), np.float64(20.0)))
    """
    replay = _replay(tape)
    args = _positional(tape, replay)
    wrt = _moving(tape)
    derived = pullback(tape, wrt, values=True)
    recording = replay.path.recording
    numeric = [leaf for leaf in recording.leaves if not isinstance(leaf, Constant)]
    if numeric != recording.leaves:
        raise TraceError(f"tape of `{tape.name}`: the result has leaves that are not numeric")
    seed = pytrees.unflatten(recording.structure, numeric)
    structure = pytrees.flatten(((*args, seed), {}))[1]
    n = len(tape.outputs)
    value = pytrees.unflatten(recording.structure, [_Input(leaf) for leaf in recording.leaves])
    cotangents = gradient_tree(args, range(len(args)), [_Input(n + k) for k in range(len(wrt))])
    return _callable(derived, f"vjp of {tape.name}", replay, structure, (value, cotangents))


class _Input(int):
    """The number of an input or output, as a leaf of a structure."""


def _replay(tape: Tape) -> Replay:
    if not isinstance(tape.call, Replay):
        raise TraceError(
            f"tape of `{tape.name}`: derivative tapes are made of those that tapejit.trace returns"
        )
    return tape.call


def _sample_arguments(replay: Replay) -> tuple[tuple, dict]:
    """The arguments, with the number of its input for each traced leaf."""
    numbers = iter(range(len(replay.kinds)))
    leaves = [_Input(next(numbers)) if leaf is None else leaf for leaf in replay.statics]
    return pytrees.unflatten(replay.structure, leaves)


def _positional(tape: Tape, replay: Replay) -> tuple:
    args, kwargs = _sample_arguments(replay)
    if kwargs:
        raise TraceError(
            f"tape of `{tape.name}`: trace it with positional arguments to differentiate it so"
        )
    return args


def _moving(tape: Tape) -> tuple[int, ...]:
    wrt = floating(tape)
    if len(wrt) != len(tape.inputs):
        raise TraceError(
            f"tape of `{tape.name}` has arguments that are not floats; trace it with floats"
        )
    return wrt


def _callable(
    tape: Tape, name: str, replay: Replay, structure: Any, result: Any, twice: bool = False
) -> Tape:
    """A derived tape that can be called."""
    leaves, result_structure = pytrees.flatten(result)
    tape = dataclasses.replace(remove_dead(tape), name=name)
    entries = [int(leaf) if isinstance(leaf, _Input) else leaf for leaf in leaves]
    recording = Recording(tape, result_structure, entries, [])
    function = Function(replay.function.function)
    function.name = name
    statics = [*replay.statics, *(replay.statics if twice else ())]
    statics += [None] * (structure.num_leaves - len(statics))
    values = [np.zeros(leaf.view.shape, leaf.dtype)[()] for leaf in tape.inputs]
    derived = Replay(recording, function, structure, statics, values)
    return dataclasses.replace(tape, call=derived)
