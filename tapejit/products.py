"""Products with a Jacobian: pullbacks (``vjp``) and pushforwards (``jvp``, ``linearize``)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import pytrees
from .arguments import Function, collect, describe, is_static, moving_leaves, normalise, typed
from .compiled import Compiled
from .derive.inline import Inlined
from .interpreters import entry, layout
from .interpreters.entry import RUN_REVERSE
from .jitted import Jit, engine_of, jit
from .paths import Path
from .program import Workspace
from .recording.record import Constant, Recording
from .recording.recorder import in_recording, where_am_i
from .recording.tracer import value_of
from .results import allocate, bind_in_place, deliver, delivered, results_of, unflattened
from .stops import raise_stopped
from .tensors.enter import Tensor
from .tensors.forward import jvp as tensor_jvp

__all__ = ["Pullback", "cotangent_leaves", "jvp", "linearize", "tangent_leaves", "vjp"]


def _compiled(f: Callable[..., Any], kind: type) -> Any:
    """A compiled form of ``f``; kept with ``f`` where ``f`` is a compiled function itself."""
    engine = engine_of(f)
    if isinstance(engine, Jit):
        if kind not in engine.derived:
            engine.derived[kind] = kind(engine.function)
        return engine.derived[kind]
    return kind(Function(f))


# --- pullbacks ----------------------------------------------------------------------------------


class _Vjp(Compiled):
    """Forward now, reverse when asked, any number of times."""

    mode = "gradient"

    def wrt_leaves(self, args: tuple, kwargs: dict, leaves: list) -> list[int]:
        return moving_leaves(leaves)

    def pull(self, args: tuple, kwargs: dict) -> tuple[Any, Pullback]:
        """The value, and the closure that owns the residuals."""
        variant, values = self.find(args, kwargs)
        # The reverse sweep reads large arguments where they lie: own them.
        values = [np.array(v) if type(v) is np.ndarray else v for v in values]
        path, workspace = variant.execute(values)
        code = workspace.program.code
        found = results_of(workspace, code.values, "values")
        values = [typed(r, leaf.dtype) for r, leaf in zip(found, path.tape.outputs, strict=True)]
        return collect(path, values), Pullback(self, path, workspace, args)


class Pullback:
    """``cotangents = pullback(cotangent)``: the reverse sweep of one evaluation.

    Owns its workspace while it lives, so that later calls of the function don't disturb it.
    Static arguments have the cotangent ``None``.
    """

    def __init__(self, owner: _Vjp, path: Path, workspace: Workspace, args: tuple) -> None:
        self._name = owner.function.name
        self._path = path
        self._workspace = workspace
        _, self._structure, self._static = owner.function.split(args, {})
        self._used = False
        self._lock = threading.Lock()
        workspace.prepare(workspace.program.code.gradients, "pullback")

    def __call__(self, cotangent: Any) -> tuple:
        """Cotangents of the arguments, one for each."""
        seeds = cotangent_leaves(self._path.recording, self._name, cotangent)
        workspace, code = self._workspace, self._workspace.program.code
        arrays = allocate(code.gradients)
        with self._lock:
            if self._used and code.rewrites:
                # The last reverse sweep undid the in-place writes.
                self._done(workspace.run(entry.RUN_FORWARD))
            for slot, seed in zip(code.seeds, seeds, strict=True):
                n = math.prod(slot.shape)
                workspace.values[slot.offset : slot.offset + n] = np.ravel(seed)
            bind_in_place(workspace, code.gradients, arrays)
            self._used = True
            self._done(deliver(workspace, arrays, RUN_REVERSE))
            gradients = delivered(workspace, arrays)
        moving = iter(gradients)
        leaves = [None if still else next(moving) for still in self._static]
        return pytrees.unflatten(self._structure, leaves)[0]

    def _done(self, status: int) -> None:
        """Raise where a sweep stopped: a later call starts afresh."""
        if status != layout.DONE:
            raise_stopped(self._workspace, status, f"pullback of {self._name}")

    def __del__(self) -> None:
        workspace = getattr(self, "_workspace", None)
        if workspace is not None:
            workspace.program.give_back(workspace)


def cotangent_leaves(recording: Recording, name: str, cotangent: Any) -> list[np.ndarray]:
    """A cotangent's leaves as float64, one for each output of the tape, checked."""
    leaves, _ = pytrees.flatten(cotangent)
    numeric = [entry_ for entry_ in recording.leaves if not isinstance(entry_, Constant)]
    outputs = recording.tape.outputs
    if len(leaves) != len(numeric):
        raise ValueError(
            f"pullback of `{name}`: the cotangent has {len(leaves)} arrays, the result "
            f"{len(numeric)}; give it the result's structure"
        )
    for leaf, at in zip(leaves, numeric, strict=True):
        if np.shape(leaf) != outputs[at].view.shape:
            raise ValueError(
                f"pullback of `{name}`: a cotangent has shape {np.shape(leaf)}, the result "
                f"has shape {outputs[at].view.shape}"
            )
    return [normalise(leaf, f"pullback of {name}", True) for leaf in leaves]


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple:
    """Value and pullback: the product of a cotangent with the Jacobian, from the left.

    Parameters
    ----------
    f
        A function written in NumPy.
    primals
        Its arguments.
    has_aux
        Whether ``f`` returns (result, extra results).

    Returns
    -------
    tuple
        ``value, pullback`` (and the extra results); ``pullback(cotangent)`` gives a tuple of one
        cotangent for each argument.  The pullback can be called any number of times.

    Raises
    ------
    ValueError
        From ``pullback``, where the cotangent has another structure or other shapes than the
        result.
    TraceError
        Where ``f`` cannot be recorded.

    Notes
    -----
    ``f`` is recorded at each call of ``vjp``; give it ``tj.jit(f)`` to record it once.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> y, pullback = tj.vjp(lambda x: x**2, np.array([1.0, 2.0]))
    >>> pullback(np.ones(2))
    (array([2., 4.]),)
    """
    if in_recording():
        return _vjp_inline(f, primals, has_aux)
    compiled = _compiled(f, _Vjp)
    if not has_aux:
        return compiled.pull(primals, {})
    main = _compiled(lambda *args: f(*args)[0], _Vjp)
    value, pullback = main.pull(primals, {})
    return value, pullback, jit(f)(*primals)[1]


def inlined_of(f: Callable[..., Any], primals: tuple, keep: bool) -> tuple[Inlined, Any, list[int]]:
    """``f(*primals)`` inside of the recording under way, its structure, what moves."""
    leaves, structure = pytrees.flatten(primals)
    moving = moving_leaves(leaves)

    def run(*inputs: Any) -> Any:
        full = list(leaves)
        for i, value in zip(moving, inputs, strict=True):
            full[i] = value
        return f(*pytrees.unflatten(structure, full))

    inlined = Inlined(run, [leaves[i] for i in moving], describe(f), keep)
    return inlined, structure, moving


def _check_shapes(given: Sequence[Any], wanted: Sequence[tuple[int, ...]]) -> None:
    shapes = [np.shape(value_of(leaf)) for leaf in given]
    if shapes != list(wanted):
        raise ValueError(
            f"{where_am_i()}: cotangents (tangents) have shapes {shapes}, but {list(wanted)} are "
            "needed"
        )


def _vjp_inline(f: Callable[..., Any], primals: tuple, has_aux: bool) -> tuple:
    inlined, structure, moving = inlined_of(f, primals, keep=True)
    recording = inlined.recording
    outputs = inlined.forward()
    result = unflattened(recording, outputs)
    value = result[0] if has_aux else result
    shapes = [leaf.view.shape for leaf in inlined.tape.outputs]
    # Extra results come last, and get no cotangent.
    n_leaves = len(pytrees.flatten(value)[0])
    n = sum(isinstance(leaf, int) for leaf in recording.leaves[:n_leaves])

    def pullback(cotangent: Any) -> tuple:
        seeds, _ = pytrees.flatten(cotangent)
        _check_shapes(seeds, shapes[:n])
        zeros = [np.zeros(shape)[()] for shape in shapes[n:]]
        leaves: list[Any] = [None] * structure.num_leaves
        for i, g in zip(moving, inlined.pull([*seeds, *zeros]), strict=True):
            leaves[i] = g
        return pytrees.unflatten(structure, leaves)

    return (value, pullback, result[1]) if has_aux else (value, pullback)


# --- pushforwards -------------------------------------------------------------------------------


class _Tangent(Compiled):
    """Values and tangents in one sweep."""

    mode = "tangent"

    def wrt_leaves(self, args: tuple, kwargs: dict, leaves: list) -> list[int]:
        return moving_leaves(leaves)

    def push(self, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        """(value, tangent)."""
        variant, values = self.find(primals, {})
        moving = tangent_leaves(self.function, primals, values, tangents)
        path, workspace = variant.execute(values, moving)
        code = workspace.program.code
        found = results_of(workspace, [*code.values, *code.tangents_out], "tangent")
        workspace.program.give_back(workspace)
        n = len(code.values)
        outputs = [
            typed(r, leaf.dtype) for r, leaf in zip(found[:n], path.tape.outputs, strict=True)
        ]
        return collect(path, outputs), collect(path, found[n:])


def tangent_leaves(function: Function, primals: tuple, values: list, tangents: tuple) -> list[Any]:
    """Tangent leaves as float64, of the primals' shapes; those of static arguments are left out."""
    name = function.name
    leaves = function.split(tangents, {})[0]
    _, _, static = function.split(primals, {})
    if len(leaves) == len(static):
        leaves = [leaf for leaf, still in zip(leaves, static, strict=True) if not still]
    if len(leaves) != len(values):
        raise ValueError(f"`{name}`: {len(values)} primal arrays, but {len(leaves)} tangents")
    moving = []
    for value, leaf in zip(values, leaves, strict=True):
        if np.shape(leaf) != np.shape(value):
            raise ValueError(
                f"`{name}`: a tangent has shape {np.shape(leaf)}, its primal {np.shape(value)}"
            )
        moving.append(normalise(leaf, name, True))
    return moving


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """Value and directional derivative, by one forward (tangent) sweep.

    Parameters
    ----------
    f
        A function written in NumPy.
    primals, tangents
        Its arguments, and a direction of the same structure.  Where a primal is a tensor, ``f`` is
        called with dual tensors (see :class:`~tapejit.forward_ad`) and the results are tensors.

    Returns
    -------
    tuple
        ``value, tangent``.

    Raises
    ------
    ValueError
        Where the tangents have other shapes than the primals.
    TraceError
        Where ``f`` cannot be recorded.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.jvp(np.sin, (0.0,), (2.0,))
    (np.float64(0.0), np.float64(2.0))
    """
    primals, tangents = tuple(primals), tuple(tangents)
    if any(isinstance(primal, Tensor) for primal in primals):
        return tensor_jvp(f, primals, tangents)
    if in_recording():
        return _jvp_inline(f, primals, tangents)
    return _compiled(f, _Tangent).push(primals, tangents)


def _jvp_inline(f: Callable[..., Any], primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    inlined, structure, moving = inlined_of(f, primals, keep=False)
    directions = _directions(inlined, structure, moving, tangents)
    values, pushed = inlined.tangents(directions)
    return unflattened(inlined.recording, values), unflattened(inlined.recording, pushed)


def _directions(inlined: Inlined, structure: Any, moving: list[int], tangents: tuple) -> list[Any]:
    directions, _ = pytrees.flatten(tangents)
    if len(directions) == structure.num_leaves:
        directions = [directions[i] for i in moving]
    _check_shapes(directions, [inlined.tape.inputs[i].view.shape for i in inlined.wrt])
    return directions


def _linearize_inline(f: Callable[..., Any], primals: tuple) -> tuple[Any, Callable[..., Any]]:
    inlined, structure, moving = inlined_of(f, primals, keep=True)
    value = unflattened(inlined.recording, inlined.forward())

    def push(*tangents: Any) -> Any:
        pushed = inlined.push(_directions(inlined, structure, moving, tangents))
        return unflattened(inlined.recording, pushed)

    return value, push


def linearize(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """Value and pushforward: record once, apply to many tangents.

    Parameters
    ----------
    f
        A function written in NumPy.
    primals
        Its arguments.

    Returns
    -------
    tuple
        ``value, pushforward``; ``pushforward(*tangents)`` is the derivative at ``primals`` in
        that direction.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> y, push = tj.linearize(lambda x: x**2, np.array([1.0, 2.0]))
    >>> push(np.array([1.0, 0.0]))
    array([2., 0.])
    """
    if in_recording():
        return _linearize_inline(f, primals)
    compiled = _compiled(f, _Tangent)
    leaves, structure = pytrees.flatten(primals)
    kept = pytrees.unflatten(
        structure, [np.array(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
    )
    value, _ = compiled.push(kept, _zeros_like(kept))
    return value, lambda *tangents: compiled.push(kept, tangents)[1]


def _zeros_like(tree: Any) -> Any:
    leaves, structure = pytrees.flatten(tree)
    zeros = [leaf if is_static(leaf) else np.zeros(np.shape(leaf))[()] for leaf in leaves]
    return pytrees.unflatten(structure, zeros)
