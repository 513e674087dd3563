"""Jacobians and Hessians: functions replayed from derivative tapes.

The function is recorded once for each path; its derivative is a tape (:mod:`tapejit.derive`), and a
call replays that tape alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import pytrees
from .arguments import Function, are_plain, as_argument
from .compiled import Compiled, Variant
from .derive.choose import MODES, Plan, identity, plan_jacobian
from .derive.inline import Inlined
from .derive.tapes import pullback
from .errors import TraceError
from .gradients import leaf_positions, require_scalar
from .interpreters import layout
from .interpreters.entry import BIND, OBJECT, RUN_FORWARD, RUN_REVERSE, RUN_TANGENT
from .jitted import function_of, named
from .paths import Path
from .program import Workspace
from .recording.record import Recording
from .recording.recorder import in_recording
from .results import gradient_tree, results_of
from .shortcut import Shortcut, usable
from .stops import raise_stopped
from .tape import size_of

__all__ = ["hessian", "jacfwd", "jacobian", "jacrev"]

_HESSIAN_MODES = {
    "auto": "auto",
    "forward-over-reverse": "forward",
    "reverse-over-reverse": "reverse",
}


class Derived(Compiled):
    """A compiled function whose programs run a tape derived from the recorded one."""

    mode = "value"

    def __init__(self, function: Function, argnums: int | Sequence[int]) -> None:
        super().__init__(function)
        self.argnums = argnums
        self._fast: Shortcut | None = None

    def wrt_leaves(self, args: tuple, kwargs: dict, leaves: list) -> list[int]:
        return leaf_positions(self.function.marked(args), self.argnums, self.function.name)


class Jacobian(Derived):
    """A compiled Jacobian or Hessian; made by :func:`jacobian`, :func:`hessian` and their like.

    Parameters
    ----------
    mode
        ``"auto"``, ``"forward"`` or ``"reverse"``.
    of_gradient
        Whether the function is differentiated twice.
    explain
        Whether a call also returns the :class:`~tapejit.derive.choose.Choice`.
    """

    def __init__(
        self,
        function: Function,
        argnums: int | Sequence[int],
        mode: str,
        of_gradient: bool,
        explain: bool,
    ) -> None:
        super().__init__(function, argnums)
        self.way = mode
        self.of_gradient = of_gradient
        self.explain = explain

    def transform(self, recording: Recording, wrt: tuple[int, ...]) -> Recording:
        """The tape of the whole Jacobian, or of some directions."""
        return self._planned(recording, wrt, lanes=True)

    def _planned(self, recording: Recording, wrt: tuple[int, ...], lanes: bool) -> Recording:
        """``lanes``: whether vector mode may serve."""
        tape = recording.tape
        if self.of_gradient:
            require_scalar(self.function.name, recording)
            tape = pullback(tape, wrt, seeds="one")
        numeric = [leaf for leaf in recording.leaves if isinstance(leaf, int)]
        if not self.of_gradient and len(numeric) != len(recording.leaves):
            raise TraceError(
                f"jacobian of `{self.function.name}`: the result has leaves that are not numeric; "
                "return arrays and numbers alone"
            )
        plan = plan_jacobian(tape, wrt, self.way, lanes)
        return recording._replace(tape=plan.tape, plan=plan)

    def public(self) -> Callable[..., Any]:
        """The function that users call."""
        engine = self

        def call(*args: Any) -> Any:
            fast = engine._fast
            if fast is not None:
                results = fast.call(args, ())
                if results is not None:
                    return results[0]
            return engine.general(args)

        kind = "hessian" if self.of_gradient else "jacobian"
        call = named(call, self)
        call.__name__ = f"{kind} of {self.function.name}"
        return call

    def general(self, args: tuple) -> Any:
        """Any call."""
        if in_recording():
            return self._inline(args)
        variant, values = self.find(args, {})
        path, workspace = variant.execute(values, self._first_seeds)
        plan: Plan = path.recording.plan
        slots = workspace.program.code.values
        if plan.several:
            flat = self._in_lanes(workspace, plan)
        elif plan.whole:
            flat = results_of(workspace, slots, "values")
        else:
            flat = self._by_blocks(workspace, plan)
        workspace.program.give_back(workspace)
        self._shorten(variant, path, args)
        result = self._tree(args, path.recording, plan, flat)
        return (result, plan.choice) if self.explain else result

    def _first_seeds(self, path: Path) -> list[Any]:
        plan: Plan = path.recording.plan
        if plan.several:
            return _lanes(plan, 0) if plan.choice.mode == "forward" else []
        return [] if plan.whole else _block(plan, 0)

    def _in_lanes(self, workspace: Workspace, plan: Plan) -> list[Any]:
        """Directions in vector mode, sweep by sweep; the first values have been computed."""
        code, count = workspace.program.code, plan.choice.directions
        forward = plan.choice.mode == "forward"
        received = plan.outputs if forward else plan.inputs
        slots = code.tangents_out if forward else code.gradients
        rows = [np.empty((count, *shape)) for shape in received]
        tangents = workspace.parameters[len(code.parameters) :]
        for first in range(0, count, layout.LANES):
            seeds = _lanes(plan, first)
            if not forward:
                for slot, seed in zip(code.seeds, seeds, strict=True):
                    workspace.values[slot.offset : slot.offset + seed.size] = seed.ravel()
                if first and code.rewrites:
                    self._sweep(workspace, RUN_FORWARD)
                self._sweep(workspace, RUN_REVERSE)
            elif first:
                for record, seed in zip(tangents, seeds, strict=True):
                    record[OBJECT] = id(seed)
                self._sweep(workspace, BIND | RUN_TANGENT)
            blocks = results_of(workspace, slots, "lanes")
            for row, block in zip(rows, blocks, strict=True):
                n = min(layout.LANES, count - first)
                row[first : first + n] = np.moveaxis(block, -1, 0)[:n]
        return _cut(rows, plan)

    def _sweep(self, workspace: Workspace, what: int) -> None:
        status = workspace.run(what)
        if status != layout.DONE:
            raise_stopped(workspace, status, f"derivative of {self.function.name}")

    def _by_blocks(self, workspace: Workspace, plan: Plan) -> list[Any]:
        """Blocks of directions, sweep by sweep; the first sweep has run already."""
        n, count = plan.choice.per_sweep, plan.choice.directions
        slots = workspace.program.code.values
        received = plan.outputs if plan.choice.mode == "forward" else plan.inputs
        rows = [np.empty((count, *shape)) for shape in received]
        n_seeds = len(plan.seeded)
        seeded = workspace.parameters[len(workspace.parameters) - n_seeds :]
        for first in range(0, count, n):
            at = min(first, count - n)
            if first:
                seeds = [as_argument(seed) for seed in _block(plan, at)]
                for record, seed in zip(seeded, seeds, strict=True):
                    record[OBJECT] = id(seed)
                self._sweep(workspace, BIND | RUN_FORWARD)
            blocks = results_of(workspace, slots, "values")
            for row, block in zip(rows, blocks, strict=True):
                row[at : at + n] = block
        return _cut(rows, plan)

    def _tree(self, args: tuple, recording: Recording, plan: Plan, flat: list[Any]) -> Any:
        """The blocks in the structures of result and arguments."""
        width = len(plan.inputs)
        trees = [
            gradient_tree(args, self.argnums, flat[i : i + width])
            for i in range(0, len(flat), width)
        ]
        if self.of_gradient:
            return gradient_tree(args, self.argnums, trees)
        return pytrees.unflatten(recording.structure, trees)

    def _shorten(self, variant: Variant, path: Path, args: tuple) -> None:
        """Have the next call take the short way, where it has one array as its result."""
        if "shortcut" not in path.programs:
            program, plan = variant.program(path), path.recording.plan
            simple = (
                plan.whole
                and not self.explain
                and isinstance(self.argnums, int)
                and are_plain(args)
                and len(program.code.parameters) == len(args)
                and len(plan.outputs) == len(plan.inputs) == 1
                and path.recording.structure.num_nodes == 1
                and usable(program)
            )
            path.programs["shortcut"] = (
                Shortcut(program, program.code.values, "values", reverse=False) if simple else None
            )
        self._fast = path.programs["shortcut"]

    # --- inside of a recording --------------------------------------------------------------------

    def _inline(self, args: tuple) -> Any:
        """The Jacobian becomes part of the outer tape."""
        inlined = self.inlined(args, {})
        # Vector mode is a way to run a program, not a tape that could become part of another.
        recording = self._planned(inlined.recording, inlined.wrt, lanes=False)
        plan: Plan = recording.plan
        flat = inlined.splice(plan.tape) if plan.whole else _one_by_one(inlined, plan)
        result = self._tree(args, recording, plan, flat)
        return (result, plan.choice) if self.explain else result


def _one_by_one(inlined: Inlined, plan: Plan) -> list[Any]:
    """Blocks of directions, each spliced in; then cut as :func:`_cut` does."""
    from .recording.functions import concatenate, stack

    n, count = plan.choice.per_sweep, plan.choice.directions
    received = plan.outputs if plan.choice.mode == "forward" else plan.inputs
    rows: list[list[Any]] = [[] for _ in received]
    for first in range(0, count, n):
        at = min(first, count - n)
        for row, block in zip(rows, inlined.splice(plan.tape, _block(plan, at)), strict=True):
            row.append(block if n == 1 else block[first - at :])
    if count == 0:
        joined = [np.zeros((0, *shape)) for shape in received]
    else:
        join = stack if n == 1 else concatenate
        joined = [join(row) for row in rows]
    return _cut(joined, plan)


def _block(plan: Plan, first: int) -> list[Any]:
    """Seeds of the directions from ``first`` on."""
    n, count = plan.choice.per_sweep, plan.choice.directions
    seeds = identity(plan.seeded, first, min(n, max(count, 1)))
    return [seed[0][()] if n == 1 or count == 0 else seed for seed in seeds]


def _lanes(plan: Plan, first: int) -> list[np.ndarray]:
    """Seeds of the directions from ``first`` on in vector mode: the lanes come last."""
    seeds = identity(plan.seeded, first, layout.LANES)
    return [np.ascontiguousarray(np.moveaxis(seed, 0, -1)) for seed in seeds]


def _cut(rows: list[np.ndarray], plan: Plan) -> list[np.ndarray]:
    """Rows of directions as blocks: for each output, each input, of both shapes."""
    blocks = []
    if plan.choice.mode == "reverse":
        at = 0
        for shape in plan.outputs:
            n = size_of(shape)
            blocks += [row[at : at + n].reshape(shape + row.shape[1:]) for row in rows]
            at += n
        return blocks
    for row in rows:
        columns = np.moveaxis(row, 0, -1)
        at = 0
        for shape in plan.inputs:
            n = size_of(shape)
            part = columns[..., at : at + n]
            if isinstance(part, np.ndarray):
                part = np.ascontiguousarray(part)
            blocks.append(part.reshape(row.shape[1:] + shape))
            at += n
    return blocks


def jacobian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    mode: str = "auto",
    explain: bool = False,
) -> Callable[..., Any]:
    """Jacobian of a function, by tangents or cotangents, many of them in one sweep.

    Parameters
    ----------
    f
        A function written in NumPy.
    argnums
        Which positional arguments to differentiate with respect to; a sequence gives a tuple.
    mode
        ``"forward"`` (a tangent for each element of the arguments), ``"reverse"`` (a cotangent for
        each element of the result), or ``"auto"``: what predicted costs say.
    explain
        Return ``jacobian, choice``: a :class:`~tapejit.derive.choose.Choice` that prints the mode,
        the directions in a sweep and the predicted costs.

    Returns
    -------
    callable
        ``J = jac(*args)``; for array in, array out, ``J.shape == result.shape + argument.shape``.

    Raises
    ------
    ValueError
        For a mode that is not known.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.jacobian(lambda x: x**2)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    >>> f = lambda x: np.stack([np.sum(np.sin(x)), np.prod(x)])
    >>> _, choice = tj.jacobian(f, explain=True)(np.ones(50))
    >>> choice.mode, choice.directions
    ('reverse', 2)
    """
    if mode not in MODES:
        raise ValueError(f"jacobian: mode must be one of {', '.join(MODES)}, got {mode!r}")
    return Jacobian(function_of(f), argnums, mode, False, explain).public()


def jacfwd(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Jacobian by tangents: one for each element of the arguments.

    Parameters and result are those of :func:`jacobian`.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.jacfwd(lambda x: np.stack([x, x**2, x**3]))(2.0)
    array([ 1.,  4., 12.])
    """
    return jacobian(f, argnums, "forward")


def jacrev(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Jacobian by cotangents: one for each element of the result.

    Parameters and result are those of :func:`jacobian`.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.jacrev(lambda x: np.stack([np.sum(x), np.prod(x)]))(np.array([2.0, 3.0]))
    array([[1., 1.],
           [3., 2.]])
    """
    return jacobian(f, argnums, "reverse")


def hessian(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    mode: str = "auto",
    explain: bool = False,
) -> Callable[..., Any]:
    """Hessian of a scalar function: the Jacobian of its gradient.

    Parameters
    ----------
    f, argnums, explain
        As for :func:`jacobian`.
    mode
        ``"forward-over-reverse"``, ``"reverse-over-reverse"`` or ``"auto"``.

    Returns
    -------
    callable
        ``H = hess(*args)``; for a 1-d argument of length n an (n, n) array.

    Raises
    ------
    ValueError
        For a mode that is not known.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.hessian(lambda x: x[0] * x[1] ** 2)(np.array([1.0, 2.0]))
    array([[0., 4.],
           [4., 2.]])
    """
    if mode not in _HESSIAN_MODES:
        raise ValueError(f"hessian: mode must be one of {', '.join(_HESSIAN_MODES)}, got {mode!r}")
    return Jacobian(function_of(f), argnums, _HESSIAN_MODES[mode], True, explain).public()
