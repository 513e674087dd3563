"""Functions of functions: jit, grad, value_and_grad, vjp, jvp, linearize; and ``trace``.

Names and signatures are JAX's where JAX has one.  Called with plain values, each replays compiled
programs; called with traced values (inside of another function that is being recorded), each
becomes part of the outer tape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from . import pytrees
from .arguments import leaves_of, normalise
from .gradients import grad, value_and_grad
from .jitted import function_of, jit
from .products import jvp, linearize, vjp
from .recording.record import record_function
from .recording.tracer import is_traced
from .replay import Replay
from .tape import Tape
from .tensors.enter import Tensor

__all__ = [
    "grad",
    "jit",
    "jvp",
    "linearize",
    "stop_gradient",
    "trace",
    "value_and_grad",
    "vjp",
]


def stop_gradient(x: Any) -> Any:
    """``x`` as a constant to derivatives: no cotangent or tangent passes.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.grad(lambda x: x * tj.stop_gradient(x))(3.0)
    np.float64(3.0)
    """
    leaves, structure = pytrees.flatten(x)
    return pytrees.unflatten(structure, [_stopped(leaf) for leaf in leaves])


def _stopped(leaf: Any) -> Any:
    from .ops.table import OPS
    from .recording.tracer import apply

    if isinstance(leaf, Tensor):
        return leaf.detach()
    return apply(OPS["stop_gradient"], leaf) if is_traced(leaf) else leaf


def trace(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Tape:
    """Record a function at sample arguments and return its tape: explicit construction.

    Parameters
    ----------
    f
        A function written in NumPy.
    args, kwargs
        Arguments at which it is recorded: their structure, shapes and branches are the tape's.

    Returns
    -------
    Tape
        Prints as a listing, has ``len`` (instructions), can be drawn (``tape.draw()``) and called
        at new arguments of the same structure.

    Raises
    ------
    TraceError
        Where ``f`` uses a traced value in a way that cannot be recorded; a call of the tape raises
        it where the arguments have other shapes or take another branch.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tape = tj.trace(lambda x, y: x * np.sin(y), 2.0, 0.5)
    >>> len(tape)
    2
    >>> tape(3.0, 0.0)
    np.float64(0.0)
    """
    function = function_of(f)
    leaves, structure, static = function.split(args, kwargs)
    values = [
        normalise(leaf, function.name, False)
        for leaf, still in zip(leaves, static, strict=True)
        if not still
    ]

    def run(*tracers: Any) -> Any:
        moving = iter(tracers)
        full = [leaf if still else next(moving) for leaf, still in zip(leaves, static, strict=True)]
        call_args, call_kwargs = function.rebuild(structure, full)
        return function.function(*call_args, **call_kwargs)

    recording = record_function(run, values, function.name)
    replay = Replay(recording, function, structure, leaves_of(leaves, static), values)
    names = function.leaf_names(structure)
    moving = tuple(name for name, still in zip(names, static, strict=True) if not still)
    return dataclasses.replace(recording.tape, call=replay, input_names=moving)
