"""Branches: cond and switch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import pytrees
from ..errors import TraceError
from ..ops.control import Spec
from ..recording.recorder import where_am_i
from ..recording.tracer import is_traced, value_of
from .bodies import Body, call_loop, leaves_of, record_body

__all__ = ["cond", "switch"]


def cond(
    pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any
) -> Any:
    """``true_fun(*operands)`` where ``pred`` holds, else ``false_fun(*operands)``.

    Both are recorded; one of them runs.

    Parameters
    ----------
    pred
        A scalar: a bool, or a number that counts as one.
    true_fun, false_fun
        Functions written in NumPy, whose results have the same structure and shapes.
    operands
        Their arguments.

    Returns
    -------
    Any
        The chosen function's result.

    Raises
    ------
    TraceError
        Where the results differ in structure or shape.

    Notes
    -----
    A ``pred`` that is not traced (a plain value, a tensor) chooses at once, and only that function
    is run.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> f = lambda x: tj.cond(x > 0.0, np.sqrt, np.negative, x)
    >>> float(tj.grad(f)(4.0)), float(tj.grad(f)(-4.0))
    (0.25, -1.0)
    """
    if np.ndim(value_of(pred)):
        raise TraceError(
            f"{where_am_i()}: the predicate of tapejit.cond must be a scalar; it has shape "
            f"{np.shape(value_of(pred))} (np.where chooses element by element)"
        )
    if is_traced(pred):
        pred = pred != 0  # of a tensor: a truth value that is known
    if not is_traced(pred):
        return true_fun(*operands) if pred else false_fun(*operands)
    return _branch(pred, (false_fun, true_fun), operands, "tapejit.cond")


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """``branches[index](*operands)``: all are recorded, one of them runs.

    Parameters
    ----------
    index
        An integer; values outside of ``range(len(branches))`` choose the nearest branch.
    branches
        Functions written in NumPy, whose results have the same structure and shapes.
    operands
        Their arguments.

    Returns
    -------
    Any
        The chosen function's result.

    Raises
    ------
    TraceError
        Where the results differ in structure or shape, or the index is not an integer.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> f = tj.jit(lambda i, x: tj.switch(i, [np.sin, np.cos, np.exp], x))
    >>> f(1, 0.0), f(7, 0.0)
    (np.float64(1.0), np.float64(1.0))
    """
    branches = tuple(branches)
    if not branches:
        raise ValueError(f"{where_am_i()}: tapejit.switch needs at least one branch")
    value = np.asarray(value_of(index))
    if value.shape != () or value.dtype.kind not in "iu":
        raise TraceError(
            f"{where_am_i()}: the index of tapejit.switch must be an integer; it is of dtype "
            f"{value.dtype} and shape {value.shape}"
        )
    if not is_traced(index):
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)
    if len(branches) == 1:
        return branches[0](*operands)
    return _branch(index, branches, operands, "tapejit.switch")


def _branch(index: Any, functions: tuple, operands: tuple, name: str) -> Any:
    leaves, structure = leaves_of(operands, "operands")

    taken = min(max(int(value_of(index)), 0), len(functions) - 1)

    def recorded(number: int, function: Callable[..., Any]) -> Body:
        def body(*values: Any) -> Any:
            return function(*pytrees.unflatten(structure, list(values)))

        return record_body(body, leaves, f"a branch of {name}", function, number == taken)

    bodies = [recorded(*each) for each in enumerate(functions)]
    _check_alike(bodies, name)
    captured: list[Any] = []
    inputs = []
    for body in bodies:
        places = list(range(len(leaves)))
        for tracer in body.captured:
            known = [i for i, other in enumerate(captured) if other is tracer]
            if not known:
                captured.append(tracer)
                known = [len(captured) - 1]
            places.append(len(leaves) + known[0])
        inputs.append(tuple(places))
    given = [*leaves, *captured, index]
    values = [np.asarray(value_of(x)) for x in given]
    spec = Spec(
        "switch", tuple(body.tape for body in bodies), tuple(inputs), 0, 0, 1, False,
        tuple(v.shape for v in values), tuple(v.dtype.str for v in values),
    )  # fmt: skip
    outputs = call_loop(spec, given) if spec.parts else []
    return pytrees.unflatten(bodies[0].structure, outputs)


def _check_alike(bodies: Sequence[Body], name: str) -> None:
    """Raise unless all branches return the same structure, shapes and kinds of dtype."""
    first = bodies[0]
    for number, other in enumerate(bodies[1:], 1):
        if other.structure != first.structure:
            raise TraceError(
                f"{where_am_i()}: the branches of {name} return different structures: branch 0 "
                f"{first.structure}, branch {number} {other.structure}"
            )
        paths = pytrees.paths(first.structure)
        for a, b, path in zip(first.tape.outputs, other.tape.outputs, paths, strict=True):
            dtypes = np.dtype(a.dtype), np.dtype(b.dtype)
            if a.view.shape != b.view.shape or dtypes[0].kind != dtypes[1].kind:
                raise TraceError(
                    f"{where_am_i()}: the branches of {name} return different values at "
                    f"result{path}: branch 0 {dtypes[0]} of shape {a.view.shape}, branch {number} "
                    f"{dtypes[1]} of shape {b.view.shape}"
                )
