"""Forward accumulation in define-by-run style: dual tensors, and the product with a Jacobian.

Operations on dual tensors are recorded as any others; asked for a tangent, one compiled tangent
sweep runs over the part of the graph between the duals and the result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import pytrees
from ..errors import TraceError
from ..recording.recorder import where_am_i
from .enter import Tensor
from .grad_mode import enable_grad
from .hooks import result_place
from .pieces import Piece
from .plans import pieces_of, plan_for
from .sweeps import check_freed, fresh, located
from .tensor import tensor
from .values import check_sources

__all__ = ["Dual", "forward_ad", "jvp", "make_dual", "unpack_dual"]


class Dual(NamedTuple):
    """A value and its tangent, ``None`` where it does not depend on a dual tensor."""

    primal: Any
    tangent: Any


class _Levels(threading.local):
    """The forward accumulations under way in a thread; nested ones end first."""

    def __init__(self) -> None:
        self.duals: list[list[tuple[Any, np.ndarray]]] = []


_levels = _Levels()


class forward_ad:
    """Context manager of a forward accumulation: inside of it, tensors can carry tangents.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> with tj.forward_ad():
    ...     x = tj.make_dual(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    ...     tj.unpack_dual((x * x).sum())
    Dual(primal=tensor(5., requires_grad=True), tangent=tensor(2.))
    """

    def __enter__(self) -> forward_ad:
        _levels.duals.append([])
        return self

    def __exit__(self, *error: object) -> None:
        _levels.duals.pop()


def _duals(name: str) -> list[tuple[Any, np.ndarray]]:
    if not _levels.duals:
        raise TraceError(f"{where_am_i()}: {name} outside of `with tj.forward_ad():`")
    return _levels.duals[-1]


def make_dual(primal: Any, tangent: Any) -> Any:
    """A tensor with a tangent, from which results get theirs.

    Parameters
    ----------
    primal
        A tensor, or what :func:`tapejit.tensor` takes.  One that requires a gradient stays part
        of its graph.
    tangent
        Of the same shape.

    Raises
    ------
    TraceError
        Outside of ``forward_ad``.
    ValueError
        Where the shapes differ.

    Examples
    --------
    >>> import tapejit as tj
    >>> with tj.forward_ad():
    ...     x = tj.make_dual(3.0, 1.0)
    ...     tj.unpack_dual(x * x).tangent
    tensor(6.)
    """
    duals = _duals("make_dual")
    given = np.array(tangent.value if isinstance(tangent, Tensor) else tangent, np.float64)
    if given.shape != np.shape(primal):
        raise ValueError(
            f"{where_am_i()}: a tangent of shape {given.shape} for a value of shape "
            f"{np.shape(primal)}"
        )
    with enable_grad():
        if isinstance(primal, Tensor) and primal.requires_grad:
            dual = primal.clone()
        else:
            value = primal.value if isinstance(primal, Tensor) else primal
            dual = tensor(np.asarray(value, np.float64), requires_grad=True)
    duals.append((dual, given[()] if given.ndim == 0 else given))
    return dual


def unpack_dual(result: Any) -> Dual:
    """A tensor and its tangent.

    Raises
    ------
    TraceError
        Outside of ``forward_ad``; where a part of the graph was freed by ``backward``, or a value
        that is needed was changed in place.

    Examples
    --------
    >>> import tapejit as tj
    >>> with tj.forward_ad():
    ...     x = tj.make_dual(3.0, 1.0)
    ...     tj.unpack_dual(x * x).tangent
    tensor(6.)
    """
    duals = _duals("unpack_dual")
    if not isinstance(result, Tensor) or not result.requires_grad:
        return Dual(result, None)
    for dual, tangent in duals:
        if dual is result:
            return Dual(result, fresh(np.array(tangent)))
    if result.is_root:
        return Dual(result, None)
    piece, view = located(result)
    pieces = pieces_of([piece])
    return Dual(result, _tangent(pieces, (pieces.index(piece), view), duals))


def _tangent(pieces: list[Piece], output: tuple, duals: list[tuple[Any, np.ndarray]]) -> Any:
    """The tangent of an output, by one sweep."""
    roots = {id(dual): tangent for dual, tangent in duals if dual.is_root}
    cuts, values, at_cuts = [], [], []
    for dual, tangent in duals:
        if not dual.is_root and dual.rec in pieces:
            place = result_place(dual, "make_dual")
            cuts.append((pieces.index(dual.rec), (place, dual.shape)))
            values.append(dual.value)
            at_cuts.append(tangent)
    chosen = frozenset(
        (i, k)
        for i, piece in enumerate(pieces)
        for k, source in enumerate(piece.sources)
        if id(source.leaf) in roots
    )
    plan = plan_for(pieces, [output], cuts, mode="tangent", chosen=chosen)
    check_freed(plan, pieces)
    check_sources(plan, pieces)
    if not plan.wrt:
        return None
    moving = []
    for position in plan.wrt:
        i, k = plan.extract.inputs[position]
        moving.append(roots[id(pieces[i].sources[k].leaf)] if i >= 0 else at_cuts[k])
    return fresh(plan.tangents(pieces, values, moving)[1][0])


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Value of a function of tensors, and its derivative along tangents.

    ``tapejit.jvp`` comes here when a primal is a tensor.  Arguments and result may be containers.

    Returns
    -------
    tuple
        ``value, tangent``, both in the structure of the result; zeros where it does not move.
    """
    leaves, structure = pytrees.flatten(tuple(primals))
    moving, other = pytrees.flatten(tuple(tangents))
    if structure != other:
        raise ValueError(
            f"{where_am_i()}: tangents have the structure {other}, primals {structure}"
        )
    with forward_ad(), enable_grad():
        duals = [make_dual(x, t) for x, t in zip(leaves, moving, strict=True)]
        value = f(*pytrees.unflatten(structure, duals))
        results, structure = pytrees.flatten(value)
        pairs = [unpack_dual(result) for result in results]
    primal = [p.primal.detach() if isinstance(p.primal, Tensor) else p.primal for p in pairs]
    moved = [fresh(np.zeros(np.shape(p.primal))) if p.tangent is None else p.tangent for p in pairs]
    return pytrees.unflatten(structure, primal), pytrees.unflatten(structure, moved)
