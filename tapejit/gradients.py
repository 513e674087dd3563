"""Values and gradients of scalar functions: ``value_and_grad``, ``grad``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import pytrees
from .arguments import Function, are_plain, as_tuple, collect, moving_leaves, typed
from .checkpointing import Schedule
from .compiled import Compiled, Variant
from .errors import TraceError
from .interpreters import layout
from .interpreters.entry import RUN_REVERSE
from .jitted import function_of, named
from .paths import Path
from .recording.record import Constant, Recording
from .recording.recorder import in_recording
from .results import allocate, bind_in_place, deliver, delivered, gradient_tree, unflattened
from .shortcut import Shortcut, usable
from .stops import leave_short_way, raise_stopped

__all__ = ["ValueAndGrad", "grad", "leaf_positions", "require_scalar", "value_and_grad"]

_new = np.empty


def leaf_positions(args: tuple, argnums: int | Sequence[int], name: str) -> list[int]:
    """Positions, among the leaves of (args, kwargs), of the arguments ``argnums``.

    Without static leaves, unless an argument holds nothing else.
    """
    positions, at = [], 0
    chosen = set()
    for n in as_tuple(argnums):
        if not -len(args) <= n < len(args):
            raise TypeError(
                f"`{name}`: argnums {n} asks for a positional argument, but the call has "
                f"{len(args)}; pass it by position"
            )
        chosen.add(n % len(args))
    for i, arg in enumerate(args):
        leaves, _ = pytrees.flatten(arg)
        if i in chosen:
            positions += [at + k for k in moving_leaves(leaves) or range(len(leaves))]
        at += len(leaves)
    return positions


class ValueAndGrad(Compiled):
    """A compiled value and gradient; made by :func:`value_and_grad` and :func:`grad`."""

    mode = "gradient"
    scalar_seed = True

    def __init__(
        self, function: Function, argnums: int | Sequence[int], has_aux: bool, with_value: bool,
        check: bool = False, checkpoint: Schedule | None = None,
    ) -> None:  # fmt: skip
        super().__init__(function, check)
        if checkpoint is not None and not isinstance(checkpoint, Schedule):
            raise TypeError(
                f"checkpoint is a schedule, as tapejit.Revolve(snapshots=10), not {checkpoint!r}"
            )
        self.checkpoint = checkpoint
        self.argnums = argnums
        self.has_aux = has_aux
        self.with_value = with_value
        self._fast: Shortcut | None = None

    # --- the short way ----------------------------------------------------------------------------

    def public(self) -> Callable[..., Any]:
        """The function that users call: plain functions are called faster than objects."""
        engine = self
        with_value = self.with_value

        def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
            # Traced arguments fail the entry's check of types, and take the general way.
            fast = engine._fast
            if fast is not None and not kwargs:
                if fast.single and len(args) == 1:
                    pool = fast.pool
                    try:
                        workspace = pool.pop()
                    except IndexError:
                        workspace = fast.make()
                    gradient = _new(fast.shape) if out is None else out
                    status = fast.run_one(workspace.address, id(args[0]), id(gradient))
                    if status == layout.PAUSED:
                        status = workspace.resume(fast.what)
                    if not status:
                        value = workspace.scalars[1]
                        pool.append(workspace)
                        return (value, gradient) if with_value else gradient
                    leave_short_way(workspace, status)
                    pool.append(workspace)
                else:
                    results = fast.call(args, () if out is None else engine._in_order(args, out))
                    if results is not None:
                        return engine._short_answer(args, results, out)
            return engine._general(args, kwargs, out)

        return named(call, self)

    def _short_answer(self, args: tuple, results: list, out: Any) -> Any:
        value = results.pop()
        if out is not None:
            gradient = out
        elif isinstance(self.argnums, int):
            gradient = results[0]
        else:
            gradient = gradient_tree(args, self.argnums, results)
        return (value, gradient) if self.with_value else gradient

    def _in_order(self, args: tuple, out: Any) -> Sequence[Any]:
        """The caller's gradient trees in the order of the arguments."""
        if isinstance(self.argnums, int):
            return (out,)
        if not isinstance(out, (tuple, list)) or len(out) != len(self.argnums):
            raise ValueError(
                f"`{self.function.name}`: out must be a tuple of {len(self.argnums)}, one for "
                f"each of argnums, got {_summary(out)}"
            )
        numbers = [n % len(args) for n in self.argnums]
        return [
            tree for _, tree in sorted(zip(numbers, out, strict=True), key=lambda pair: pair[0])
        ]

    def _shorten(self, variant: Variant, path: Path, args: tuple, kwargs: dict, out: Any) -> None:
        """Have the next call take the short way, where arguments and result are plain."""
        program = variant.program(path)
        self._fast = path.programs.get("shortcut")
        if self._fast is not None or "shortcut" in path.programs:
            return
        code = program.code
        simple = (
            not kwargs
            and are_plain(args)
            and len(code.parameters) == len(args)
            and path.recording.leaves == [0]
            and not self.has_aux
            and not self.check
            and path.recording.structure.num_nodes == 1
            and path.tape.outputs[0].dtype[1] == "f"
            and usable(program)
        )
        if simple:
            slots = [*code.gradients, *code.values]
            bare = isinstance(self.argnums, int)
            self._fast = Shortcut(program, slots, "gradient", reverse=True, bare=bare)
        path.programs["shortcut"] = self._fast

    # --- the general way --------------------------------------------------------------------------

    def _general(self, args: tuple, kwargs: dict, out: Any) -> Any:
        if in_recording():
            if out is not None:
                raise TraceError(
                    f"`{self.function.name}`: out= has no meaning while another function is "
                    "being recorded; use the returned gradient"
                )
            return self._inline(args, kwargs)
        variant, values = self.find(args, kwargs)
        asked = [] if out is None else self._given(self._in_order(args, out), variant, values)
        given = [_apart(array, values) for array in asked]
        path, workspace = variant.execute(values)
        program = workspace.program
        code = program.code
        workspace.prepare([*code.gradients, *code.values], "gradient")
        arrays = allocate([*code.gradients, *code.values], given)
        bind_in_place(workspace, code.gradients, arrays)
        status = deliver(workspace, arrays, RUN_REVERSE)
        if status != layout.DONE:
            raise_stopped(workspace, status, f"gradient of {self.function.name}")
            raise TraceError(f"`{self.function.name}`: `out` does not fit the gradient")
        found = delivered(workspace, arrays)
        program.give_back(workspace)
        for array, result in zip(asked, found, strict=False):
            if array is not result:
                array[...] = result
        n = len(code.gradients)
        outputs = [
            typed(r, leaf.dtype) for r, leaf in zip(found[n:], path.tape.outputs, strict=True)
        ]
        if self.check:
            self.compare(variant, path, values, outputs)
        self._shorten(variant, path, args, kwargs, out)
        value = collect(path, outputs)
        return self._answer(value, self._gradient_tree(args, found[:n], out))

    def _given(self, out: Sequence[Any], variant: Variant, values: list) -> list[Any]:
        """The caller's gradient arrays, checked."""
        leaves, _ = pytrees.flatten(tuple(out))
        shapes = [np.shape(values[i]) for i in variant.wrt]
        for leaf, shape in zip(leaves, shapes, strict=False):
            if not (
                isinstance(leaf, np.ndarray)
                and leaf.dtype == np.float64
                and leaf.flags.carray
                and leaf.shape == shape
            ):
                raise ValueError(
                    f"`{self.function.name}`: out must be a writeable C-contiguous float64 array "
                    f"of shape {shape} for each differentiated argument, got {_summary(leaf)}"
                )
        if len(leaves) != len(shapes):
            raise ValueError(
                f"`{self.function.name}`: out has {len(leaves)} arrays, the gradient {len(shapes)}"
            )
        if any(np.may_share_memory(a, b) for a, b in itertools.combinations(leaves, 2)):
            raise ValueError(f"`{self.function.name}`: the arrays of out share memory")
        return leaves

    def _answer(self, value: Any, gradient: Any) -> Any:
        if self.has_aux:
            value, aux = value
            return ((value, aux), gradient) if self.with_value else (gradient, aux)
        return (value, gradient) if self.with_value else gradient

    def _gradient_tree(self, args: tuple, gradients: list, out: Any = None) -> Any:
        """Gradients in the structure of the differentiated arguments."""
        if out is not None:
            return out
        return gradient_tree(args, self.argnums, gradients)

    def wrt_leaves(self, args: tuple, kwargs: dict, leaves: list) -> list[int]:
        return leaf_positions(self.function.marked(args), self.argnums, self.function.name)

    def settings_key(self) -> Any:
        return (*super().settings_key(), self.has_aux)

    def check_path(self, path: Path) -> None:
        require_scalar(self.function.name, path.recording, self.has_aux)

    def _inline(self, args: tuple, kwargs: dict) -> Any:
        """Inside of a recording: the gradient becomes part of the outer tape."""
        inlined = self.inlined(args, kwargs)
        require_scalar(self.function.name, inlined.recording, self.has_aux)
        values, gradients = inlined.gradient()
        result = unflattened(inlined.recording, values)
        return self._answer(result, self._gradient_tree(args, gradients))


def require_scalar(name: str, recording: Recording, has_aux: bool = False) -> None:
    """Raise unless a recorded function has one scalar result (and, with ``has_aux``, others)."""
    leaves, structure = recording.leaves, recording.structure
    first = leaves[0] if leaves else None
    if has_aux and not (structure.num_children == 2 and structure.child(0).is_leaf()):
        raise TraceError(
            f"grad of `{name}` with has_aux=True needs a pair (scalar result, extra results)"
        )
    if not has_aux and len(leaves) != 1:
        raise TraceError(
            f"grad of `{name}` needs one scalar result; it returns "
            f"{len(leaves)} values (use has_aux=True for extra results, or jacobian)"
        )
    if first is None or isinstance(first, Constant):
        raise TraceError(f"grad of `{name}` needs a scalar result, got {first!r}")
    shape = recording.tape.outputs[first].view.shape
    if shape != () and math.prod(shape) != 1:
        raise TraceError(
            f"grad of `{name}` needs a scalar result; it returns an array of "
            f"shape {shape} (use jacobian, or vjp with a cotangent of that shape)"
        )


def _apart(array: np.ndarray, values: Sequence[Any]) -> Any:
    """Where the sweep may write a gradient: ``array``, unless an argument lies there too."""
    if array.ndim == 0:
        return None
    shared = any(type(v) is np.ndarray and np.may_share_memory(array, v) for v in values)
    return _new(array.shape) if shared else array


def _summary(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    return type(value).__name__


def value_and_grad(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    check: bool = False,
    checkpoint: Schedule | None = None,
) -> Callable[..., Any]:
    """Value and gradient of a scalar function, compiled.

    Parameters
    ----------
    f
        A function written in NumPy that returns a scalar (with ``has_aux``: a pair of a scalar
        and anything else).
    argnums
        Which positional arguments to differentiate with respect to; a sequence gives a tuple.
    has_aux
        Whether ``f`` returns extra results.
    static_argnums, static_argnames, check
        As for :func:`jit`.
    checkpoint
        A schedule, as ``tapejit.Revolve(snapshots=10)`` or ``tapejit.Memory("64 MB")``: the tape is
        cut into (at most) 128 stretches where few values are alive, which are the schedule's
        steps, and the reverse sweep runs them again instead of keeping all their values.
        The gradient is the same bit for bit.  ``Memory`` bounds the bytes of a workspace.  While
        another function is being recorded, that function's own schedule holds instead.

    Returns
    -------
    callable
        ``value, gradient = g(*args)`` (``(value, aux), gradient`` with ``has_aux``); the gradient
        has the structure of the arguments.  ``g(*args, out=buffer)`` writes it into ``buffer``
        and allocates nothing.

    Raises
    ------
    TraceError
        Where ``f`` is not scalar, or cannot be recorded.
    ScheduleError
        Where the schedule can't be carried out, as a limit that is too small.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.value_and_grad(lambda x: np.sum(x**2))(np.array([1.0, 2.0]))
    (np.float64(5.0), array([2., 4.]))
    """
    function = function_of(f, static_argnums, static_argnames)
    return ValueAndGrad(function, argnums, has_aux, True, check, checkpoint).public()


def grad(
    f: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    check: bool = False,
    checkpoint: Schedule | None = None,
) -> Callable[..., Any]:
    """Gradient of a scalar function, compiled; parameters as for :func:`value_and_grad`.

    Returns
    -------
    callable
        ``gradient = g(*args)`` (``gradient, aux`` with ``has_aux``).

    Raises
    ------
    TraceError, ScheduleError
        As for :func:`value_and_grad`.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.grad(lambda x: np.sum(x**2))(np.array([1.0, 2.0]))
    array([2., 4.])
    >>> tj.grad(tj.grad(np.sin))(0.5) == -np.sin(0.5)
    np.True_
    """
    function = function_of(f, static_argnums, static_argnames)
    return ValueAndGrad(function, argnums, has_aux, False, check, checkpoint).public()
