"""Reverse accumulation over a tensor's graph: ``backward`` and ``autograd_grad``."""

from __future__ import annotations

from collections.abc import Sequence
from threading import get_ident
from typing import Any

import numpy as np

from ..errors import TraceError
from ..recording.recorder import where_am_i
from ..recording.tracer import current_element
from ..tape import ARRAY, Tape
from .enter import Tensor, new_data
from .extract import extract
from .followers import Follower
from .grad_mode import set_grad_enabled
from .hooks import apply_hooks, is_retained, stages
from .pieces import Piece
from .plans import LONG, Plan, keep_quick, pieces_of, plan_for, quick_plan
from .scripts import write
from .sweeps import added, check_freed, finish, freed, fresh, located
from .values import check_sources

__all__ = ["autograd_grad", "backward"]


def backward(
    tensor: Any, gradient: Any = None, retain_graph: bool | None = None,
    create_graph: bool = False, inputs: Any = None,
) -> None:  # fmt: skip
    """Add the gradient with respect to each leaf that requires one to its ``grad``.

    Parameters
    ----------
    gradient
        The cotangent of this tensor, of its shape; of a 0-d (or one-element) tensor it is one.
    retain_graph
        Keep the graph for another ``backward``; by default the value of ``create_graph``.
    create_graph
        Record the gradients themselves: each ``grad`` is then part of a graph, and can be
        differentiated again.
    inputs
        A tensor or a sequence of tensors, leaves or results: only their gradients are computed
        and kept.

    Raises
    ------
    TraceError
        Without a graph; through a graph that was freed; for a tensor of several elements
        without ``gradient``; where a value that is needed was changed in place.
    ValueError
        Where ``gradient`` has another shape.

    Notes
    -----
    With ``create_graph`` a leaf holds a graph that holds the leaf: memory that Python's cyclic
    garbage collector frees, or ``leaf.zero_grad()``.  :func:`tapejit.autograd_grad` returns
    gradients instead.

    Examples
    --------
    >>> import tapejit as tj
    >>> x = tj.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.])
    >>> x.zero_grad()
    >>> (x**3).sum().backward(create_graph=True)
    >>> x.grad.sum().backward()  # adds the second derivative to the first
    >>> x.grad.detach()
    tensor([ 9., 24.])
    """
    if gradient is None and not create_graph and inputs is None:
        piece = tensor.rec
        if type(piece) is Follower:
            if not retain_graph and _followed(piece, tensor):
                return
        elif type(piece) is Piece and _quickly(tensor, bool(retain_graph)):
            return
    _check_graph(tensor)
    seed = _seed(tensor, gradient, "backward", create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        for leaf, g in _at_leaves([tensor], [seed], [], retain, create_graph)[0]:
            accumulate(leaf, g)
        return
    inputs = _inputs(inputs, "backward")
    for given, g in zip(
        inputs, _gradients([tensor], [seed], inputs, retain, create_graph), strict=True
    ):
        if g is not None and not is_retained(given):
            given._grad = added(given.grad, g)


def _quickly(tensor: Any, retain_graph: bool) -> bool:
    """The common case: a number, computed in one piece, a known plan.  False for all others."""
    piece = tensor.rec
    if (
        piece.reads or piece.hooks or piece.freed or piece.spent or piece.shared
        or tensor.ndim or piece.home.thread != get_ident()
    ):  # fmt: skip
        return False
    element = tensor.element
    if element >= ARRAY:
        element = current_element(tensor)
    short = len(piece.code) <= LONG
    plan = quick_plan(piece, element) if short else None
    if plan is not None and plan.covers_all and not retain_graph:
        write(piece, element, plan)
    if plan is None:
        plan = plan_for((piece,), ((0, tensor.view),), (), scalar_seed=True)
        if not plan.is_quick:
            return False
        if short:
            keep_quick(piece, element, plan)
    if any(source.is_stale for source in piece.sources):
        return False
    found = plan.quick([source.value for source in piece.sources], piece.constant_values)
    if found is None:
        return False
    targets = [piece.sources[number].leaf for number in plan.targets]
    if retain_graph:
        piece.limit = 0
    elif plan.covers_all:
        piece.release()
    else:
        piece.limit = 0
        piece.freed = (plan.rows[0],)
    _deliver(targets, found)
    return True


def _followed(piece: Follower, tensor: Any) -> bool:
    """The case of a graph that followed a script to its end.  False for all others."""
    script = piece.script
    if (
        tensor.ndim or piece.next is not script.last or tensor.element != script.element
        or piece.hooks or piece.shared or piece.home.thread != get_ident()
    ):  # fmt: skip
        return False
    plan = script.plan
    values = piece.values()
    found = None if values is None else plan.quick(values, piece.constant_values)
    if found is None:
        return False
    targets = [piece.entered[number][1] for number in plan.targets]
    piece.use_up()
    _deliver(targets, found)
    return True


def _deliver(leaves: Sequence[Any], found: Sequence[Any]) -> None:
    """Add fresh arrays and numbers to the gradients of leaves."""
    for leaf, g in zip(leaves, found):  # noqa: B905
        if leaf._grad is None and not leaf.hooks and leaf.ndim:
            leaf._grad = new_data(g)
        else:
            accumulate(leaf, g)


def _seed(tensor: Any, gradient: Any, name: str, create_graph: bool) -> Any:
    """The cotangent of an output, checked; None for one; a tensor where its graph counts."""
    if gradient is None:
        if tensor.size != 1:
            raise TraceError(
                f"{where_am_i()}: {name} of a tensor of shape {tensor.shape} needs its cotangent: "
                "pass gradient=, an array of this shape (np.ones_like(y) for the gradient of "
                "y.sum()), or reduce it to a number first"
            )
        return None
    value = np.asarray(gradient.value if isinstance(gradient, Tensor) else gradient)
    if value.shape != tensor.shape:
        raise ValueError(
            f"{where_am_i()}: {name}: the gradient has shape {value.shape}, the tensor has shape "
            f"{tensor.shape}"
        )
    if value.dtype.kind not in "fiub":
        raise TraceError(f"{where_am_i()}: {name}: the gradient has dtype {value.dtype}")
    if create_graph and isinstance(gradient, Tensor) and gradient.requires_grad:
        return gradient
    return value.astype(np.float64)[()] if value.ndim == 0 else value.astype(np.float64)


def _check_graph(tensor: Any) -> None:
    if not tensor.requires_grad:
        raise TraceError(
            f"{where_am_i()}: backward of a tensor without a graph: it was not computed of tensors "
            "with requires_grad=True, or inside of no_grad, or it was detached"
        )


def graph_tape(tensor: Any) -> Tape:
    """See :meth:`tapejit.Tensor.tape`."""
    _check_graph(tensor)
    if tensor.is_root:
        raise TraceError(f"{where_am_i()}: a leaf has no tape; call tape() on a result")
    piece, view = located(tensor)
    pieces = pieces_of([piece])
    return extract(pieces, [(pieces.index(piece), view)], ()).tape


def cotangents(
    outputs: Sequence[Any], seeds: Sequence[Any], taps: Sequence[Any], retain_graph: bool,
    to_leaves: bool,
) -> tuple[list[tuple[Any, Any]], list[Any]]:  # fmt: skip
    """Cotangents of the leaves, as (leaf, cotangent) pairs, and of the results ``taps``."""
    found = [located(tensor) for tensor in outputs]
    pieces = pieces_of([piece for piece, _ in found])
    index = {piece.number: i for i, piece in enumerate(pieces)}
    for piece in pieces:
        if piece.spent:
            raise TraceError(freed())
    if taps or any(piece.hooks for piece in pieces):
        return stages(outputs, seeds, taps, retain_graph, to_leaves)
    places = [(index[piece.number], view) for piece, view in found]
    single = len(outputs) == 1 and seeds[0] is None
    plan = plan_for(pieces, places, (), scalar_seed=single and found[0][1].shape == ())
    return sweep(plan, pieces, (), outputs, seeds, retain_graph)[0], []


def sweep(
    plan: Plan, pieces: Sequence[Piece], cuts: Sequence[Any], outputs: Sequence[Any],
    seeds: Sequence[Any], retain_graph: bool,
) -> tuple[list[tuple[Any, Any]], dict[int, Any]]:  # fmt: skip
    """One reverse sweep: cotangents of leaves, and of the cut values by number."""
    check_freed(plan, pieces)
    check_sources(plan, pieces)
    given = [
        np.ones(output.shape) if seed is None else seed
        for output, seed in zip(outputs, seeds, strict=True)
    ]
    found = plan.gradients(pieces, cuts, given)
    leaves: list[tuple[Any, Any]] = []
    at_cuts: dict[int, Any] = {}
    for position, g in zip(plan.wrt, found, strict=True):
        i, k = plan.extract.inputs[position]
        if i >= 0:
            leaves.append((pieces[i].sources[k].leaf, g))
        else:
            at_cuts[k] = g
    finish(plan, pieces, retain_graph)
    return leaves, at_cuts


def accumulate(leaf: Any, g: Any) -> None:
    """Add to a leaf's gradient, after its hooks."""
    if leaf.hooks:
        g = apply_hooks(leaf, g)
    leaf._grad = added(leaf._grad, g)


def autograd_grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, create_graph: bool = False,
    retain_graph: bool | None = None, allow_unused: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients of tensors with respect to tensors, returned instead of accumulated.

    Parameters
    ----------
    outputs
        A tensor, or a sequence of tensors whose gradients are added.
    inputs
        A tensor or a sequence of tensors that the outputs were computed of: leaves or results.
    grad_outputs
        The cotangent of each output; needed for those of several elements.
    create_graph
        Record the gradients themselves, so that they can be differentiated again.
    retain_graph
        Keep the graph; by default the value of ``create_graph``.  Else all that the outputs need
        is freed; where all inputs are results, down to these.
    allow_unused
        Return ``None`` for inputs that the outputs do not depend on, instead of an error.

    Returns
    -------
    tuple
        A tensor for each input.

    Raises
    ------
    TraceError
        As for ``backward``; where an input does not require a gradient, or is not used.

    Examples
    --------
    >>> import tapejit as tj
    >>> x = tj.tensor(3.0, requires_grad=True)
    >>> (g,) = tj.autograd_grad(x**3, x, create_graph=True)
    >>> tj.autograd_grad(g, x)
    (tensor(18.),)
    """
    outputs = _sequence(outputs)
    given = [None] * len(outputs) if grad_outputs is None else _sequence(grad_outputs)
    if len(given) != len(outputs):
        raise ValueError(
            f"{where_am_i()}: {len(given)} grad_outputs for {len(outputs)} outputs; give one each"
        )
    for tensor in outputs:
        if not isinstance(tensor, Tensor):
            raise TraceError(f"{where_am_i()}: autograd_grad takes tensors, got {type(tensor)}")
        _check_graph(tensor)
    inputs = _inputs(inputs, "autograd_grad")
    retain = create_graph if retain_graph is None else retain_graph
    seeds = [
        _seed(y, g, "autograd_grad", create_graph) for y, g in zip(outputs, given, strict=True)
    ]
    results = [
        g if g is None or isinstance(g, Tensor) else fresh(g)
        for g in _gradients(outputs, seeds, inputs, retain, create_graph)
    ]
    if not allow_unused and any(g is None for g in results):
        raise TraceError(
            f"{where_am_i()}: an input of autograd_grad was not used to compute the outputs (a "
            "copy or a view of it may have been); pass allow_unused=True for None instead"
        )
    return tuple(results)


def _sequence(value: Any) -> list:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _inputs(inputs: Any, name: str) -> list:
    """What gradients are asked for, checked."""
    inputs = _sequence(inputs)
    for tensor in inputs:
        if not isinstance(tensor, Tensor):
            raise TraceError(f"{where_am_i()}: {name} takes tensors, got {type(tensor)}")
        if not tensor.requires_grad:
            raise TraceError(
                f"{where_am_i()}: an input of {name} does not require a gradient; make it "
                "with requires_grad=True before the outputs are computed"
            )
    return inputs


def _gradients(
    outputs: Sequence[Any], seeds: Sequence[Any], inputs: Sequence[Any], retain: bool,
    create_graph: bool,
) -> list[Any]:  # fmt: skip
    """The cotangent of each input, after its hooks; None of those that were not used."""
    taps = [tensor for tensor in inputs if not tensor.is_root]
    to_leaves = len(taps) < len(inputs)
    leaves, at_taps = _at_leaves(outputs, seeds, taps, retain, create_graph, to_leaves)
    found = {id(tensor): g for tensor, g in zip(taps, at_taps, strict=False)}
    asked = set(map(id, inputs))
    for leaf, g in leaves:
        if id(leaf) in asked:
            found[id(leaf)] = apply_hooks(leaf, g) if leaf.hooks else g
    return [found.get(id(tensor)) for tensor in inputs]


def _at_leaves(
    outputs: Sequence[Any], seeds: Sequence[Any], taps: Sequence[Any], retain: bool,
    create_graph: bool, to_leaves: bool = True,
) -> tuple[list[tuple[Any, Any]], list[Any]]:  # fmt: skip
    """Cotangents of the leaves, each leaf once, and of the results ``taps``."""
    totals: dict[int, tuple[Any, Any]] = {}
    pairs: list[tuple[Any, Any]] = []
    rest: list[tuple[Any, Any]] = []
    for y, seed in zip(outputs, seeds, strict=True):
        if y.is_root:
            pairs.append((y, np.ones(y.shape)[()] if seed is None else seed))
        else:
            rest.append((y, seed))
    at_taps: list[Any] = []
    with set_grad_enabled(create_graph):
        if rest:
            ys, given = zip(*rest, strict=True)
            if create_graph:
                leaves, at_taps = stages(ys, given, taps, retain, to_leaves, create_graph=True)
            else:
                leaves, at_taps = cotangents(ys, given, taps, retain, to_leaves)
            pairs += leaves
        for leaf, g in pairs:
            known = totals.get(id(leaf))
            totals[id(leaf)] = (leaf, g if known is None else known[1] + g)
    return list(totals.values()), at_taps
