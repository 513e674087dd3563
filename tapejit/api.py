"""Functions of functions: jit, grad, value_and_grad, vjp, jvp, linearize, Jacobians, Hessians.

Names and signatures are JAX's where JAX has one.  Called with plain values, each replays compiled
programs; called with traced values (inside of another function that is being recorded), each
becomes part of the outer tape.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import pytrees
from .checkpointing import Schedule
from .compiled import (
    Compiled,
    Function,
    Variant,
    collect,
    describe,
    is_static,
    leaves_of,
    moving_leaves,
    normalise,
    typed,
)
from .derive.inline import Inlined
from .errors import TraceError
from .interpreters import entry, layout
from .interpreters.entry import DELIVER, OBJECT, RUN_REVERSE
from .lowering.build import Slot
from .paths import Path
from .program import Workspace
from .recording.record import Constant, Recording, record_function
from .recording.recorder import in_recording
from .recording.tracer import is_traced, value_of
from .replay import Replay
from .shortcut import Shortcut, usable
from .stops import leave_short_way, raise_stopped
from .tape import Tape
from .tensors.enter import Tensor
from .tensors.forward import jvp as tensor_jvp

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

_new = np.empty
_float64 = np.float64


# --- results --------------------------------------------------------------------------------------


def _allocate(slots: Sequence[Slot], out: Sequence[Any] = ()) -> list[Any]:
    """Result arrays for slots (None for 0-d ones), the first of them given."""
    arrays = [None if slot.shape == () else _new(slot.shape) for slot in slots]
    for i, array in enumerate(out):
        arrays[i] = array
    return arrays


def _deliver(workspace: Workspace, arrays: list[Any], what: int) -> int:
    """Sweep (as ``what`` says) and copy the results out."""
    for record, array in zip(workspace.results, arrays, strict=True):
        if array is not None:
            record[OBJECT] = id(array)
    return workspace.run(what | DELIVER)


def _results(workspace: Workspace, arrays: list[Any]) -> list[Any]:
    """The delivered results, 0-d ones as ``np.float64``."""
    scalars = workspace.scalars
    return [scalars[k] if array is None else array for k, array in enumerate(arrays)]


def named(call: Callable[..., Any], engine: Compiled) -> Callable[..., Any]:
    """A public function with the name and documentation of what it was made from."""
    functools.update_wrapper(call, engine.function.function, updated=())
    call.__tapejit__ = engine
    return call


def engine_of(f: Any) -> Any:
    """The engine behind a public function, None for any other function."""
    return getattr(f, "__tapejit__", None)


# --- jit ------------------------------------------------------------------------------------------


class Jit(Compiled):
    """A compiled function; made by :func:`jit`."""

    mode = "value"
    _fast: Shortcut | None = None

    def __init__(self, function: Function, check: bool = False) -> None:
        super().__init__(function, check)
        self.derived: dict[type, Compiled] = {}

    def public(self) -> Callable[..., Any]:
        """The function that users call: plain functions are called faster than objects."""
        engine = self
        python = self.function.function

        def call(*args: Any, **kwargs: Any) -> Any:
            if in_recording():
                return python(*args, **kwargs)
            fast = engine._fast
            if fast is not None and not kwargs:
                results = fast.call(args, ())
                if results is not None:
                    return results[0]
            return engine.general(args, kwargs)

        return named(call, self)

    def general(self, args: tuple, kwargs: dict) -> Any:
        """Any call: flatten, find the variant, sweep, collect."""
        variant, values = self.find(args, kwargs)
        path, workspace = variant.execute(values)
        code = workspace.program.code
        workspace.prepare(code.values, "values")
        arrays = _allocate(code.values)
        _deliver(workspace, arrays, 0)
        results = _results(workspace, arrays)
        workspace.program.give_back(workspace)
        results = [typed(r, leaf.dtype) for r, leaf in zip(results, path.tape.outputs, strict=True)]
        if self.check:
            self.compare(variant, path, values, results)
        self._shorten(variant, path, args, kwargs)
        return collect(path, results)

    def _shorten(self, variant: Variant, path: Path, args: tuple, kwargs: dict) -> None:
        """Have the next call take the short way, where arguments and result are plain."""
        if "shortcut" not in path.programs:
            program = variant.program(path)
            simple = (
                not kwargs
                and all(type(arg) in (np.ndarray, float, _float64) for arg in args)
                and len(program.code.parameters) == len(args)
                and path.recording.leaves == [0]
                and not self.check
                and path.recording.structure.num_nodes == 1
                and path.tape.outputs[0].dtype[1] == "f"
                and usable(program)
            )
            path.programs["shortcut"] = (
                Shortcut(program, program.code.values, "values", reverse=False) if simple else None
            )
        self._fast = path.programs["shortcut"]


def jit(
    f: Callable[..., Any],
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    check: bool = False,
) -> Callable[..., Any]:
    """Compile a function: record it once, replay it from then on.

    Parameters
    ----------
    f
        A function written in NumPy.  Its result may depend only on its arguments; captured
        arrays are copied when it is recorded.
    static_argnums, static_argnames
        Arguments that are compared by value instead of being traced.  Strings, bools and ``None``
        are static by themselves.
    check
        Also run the Python function at each call, and raise
        :class:`~tapejit.errors.ReplayMismatchError` where the results differ.

    Returns
    -------
    callable
        With the arguments and results of ``f``.

    Raises
    ------
    TraceError
        Where ``f`` uses a traced value in a way that cannot be recorded; the message names the
        line and the remedy.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> f = tj.jit(lambda x: np.sum(np.sin(x) * x))
    >>> f(np.zeros(3))
    np.float64(0.0)
    """
    if isinstance(engine_of(f), Jit) and not static_argnums and not static_argnames and not check:
        return f
    return Jit(Function(f, static_argnums, static_argnames), check).public()


# --- grad -----------------------------------------------------------------------------------------


def _leaf_positions(args: tuple, argnums: tuple[int, ...], name: str) -> list[int]:
    """Positions, among the leaves of (args, kwargs), of the arguments ``argnums``.

    Without static leaves, unless an argument holds nothing else.
    """
    positions, at = [], 0
    chosen = set()
    for n in argnums:
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
            and all(type(arg) in (np.ndarray, float, _float64) for arg in args)
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
        arrays = _allocate([*code.gradients, *code.values], given)
        bind_in_place(workspace, code.gradients, arrays)
        status = _deliver(workspace, arrays, RUN_REVERSE)
        if status != layout.DONE:
            raise_stopped(workspace, status, f"gradient of {self.function.name}")
            raise TraceError(f"`{self.function.name}`: `out` does not fit the gradient")
        results = _results(workspace, arrays)
        program.give_back(workspace)
        for array, result in zip(asked, results, strict=False):
            if array is not result:
                array[...] = result
        n = len(code.gradients)
        outputs = [
            typed(r, leaf.dtype) for r, leaf in zip(results[n:], path.tape.outputs, strict=True)
        ]
        if self.check:
            self.compare(variant, path, values, outputs)
        self._shorten(variant, path, args, kwargs, out)
        value = collect(path, outputs)
        return self._answer(value, self._gradient_tree(args, results[:n], out))

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
        return _leaf_positions(self.function.marked(args), _tuple(self.argnums), self.function.name)

    def settings_key(self) -> Any:
        return (*super().settings_key(), self.has_aux)

    def check_path(self, path: Path) -> None:
        require_scalar(self.function.name, path.recording, self.has_aux)

    def _inline(self, args: tuple, kwargs: dict) -> Any:
        """Inside of a recording: the gradient becomes part of the outer tape."""
        leaves, structure, _ = self.function.split(args, kwargs)
        wrt = self.wrt_leaves(args, kwargs, leaves)

        def run(*inputs: Any) -> Any:
            full = list(leaves)
            for i, value in zip(wrt, inputs, strict=True):
                full[i] = value
            call_args, call_kwargs = self.function.rebuild(structure, full)
            return self.function.function(*call_args, **call_kwargs)

        inlined = Inlined(run, [leaves[i] for i in wrt], self.function.name)
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


def bind_in_place(workspace: Workspace, slots: Sequence[Slot], arrays: Sequence[Any]) -> None:
    """Point the spaces of results that sweeps write themselves at their arrays."""
    for slot, array in zip(slots, arrays, strict=False):
        if slot.in_place and array is not None:
            workspace.context[slot.in_place] = array.ctypes.data


def gradient_tree(args: tuple, argnums: int | Sequence[int], gradients: Sequence[Any]) -> Any:
    """Gradient leaves in the structure of the arguments ``argnums``; ``None`` for static leaves."""
    remaining = iter(gradients)
    by_argument = {}
    for n in sorted({n % len(args) for n in _tuple(argnums)}):
        leaves, structure = pytrees.flatten(args[n])
        parts = [None if is_static(leaf) else next(remaining) for leaf in leaves]
        by_argument[n] = pytrees.unflatten(structure, parts)
    if isinstance(argnums, int):
        return by_argument[argnums % len(args)]
    return tuple(by_argument[n % len(args)] for n in argnums)


def _summary(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    return type(value).__name__


def _tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _function(
    f: Callable[..., Any], static_argnums: Any = (), static_argnames: Any = ()
) -> Function:
    """A :class:`Function`, seen through ``jit``."""
    engine = engine_of(f)
    if isinstance(engine, Jit) and not static_argnums and not static_argnames:
        return engine.function
    return Function(f, static_argnums, static_argnames)


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
    function = _function(f, static_argnums, static_argnames)
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

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.grad(lambda x: np.sum(x**2))(np.array([1.0, 2.0]))
    array([2., 4.])
    >>> tj.grad(tj.grad(np.sin))(0.5) == -np.sin(0.5)
    np.True_
    """
    function = _function(f, static_argnums, static_argnames)
    return ValueAndGrad(function, argnums, has_aux, False, check, checkpoint).public()


# --- vjp, jvp, linearize --------------------------------------------------------------------------


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
        workspace.prepare(code.values, "values")
        arrays = _allocate(code.values)
        _deliver(workspace, arrays, 0)
        results = [
            typed(r, leaf.dtype)
            for r, leaf in zip(_results(workspace, arrays), path.tape.outputs, strict=True)
        ]
        return collect(path, results), Pullback(self, path, workspace, args)


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
        arrays = _allocate(code.gradients)
        with self._lock:
            if self._used and code.rewrites:
                # The last reverse sweep undid the in-place writes.
                self._done(workspace.run(entry.RUN_FORWARD))
            for slot, seed in zip(code.seeds, seeds, strict=True):
                n = math.prod(slot.shape)
                workspace.values[slot.offset : slot.offset + n] = np.ravel(seed)
            bind_in_place(workspace, code.gradients, arrays)
            self._used = True
            self._done(_deliver(workspace, arrays, RUN_REVERSE))
            gradients = _results(workspace, arrays)
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


def _compiled(f: Callable[..., Any], kind: type) -> Any:
    """A compiled form of ``f``; kept with ``f`` where ``f`` is a compiled function itself."""
    engine = engine_of(f)
    if isinstance(engine, Jit):
        if kind not in engine.derived:
            engine.derived[kind] = kind(engine.function)
        return engine.derived[kind]
    return kind(Function(f))


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


def unflattened(recording: Recording, values: Sequence[Any]) -> Any:
    """A recorded function's result from values of the tape's outputs."""
    leaves = [leaf.value if isinstance(leaf, Constant) else values[leaf]
              for leaf in recording.leaves]  # fmt: skip
    return pytrees.unflatten(recording.structure, leaves)


def _check_shapes(given: Sequence[Any], wanted: Sequence[tuple[int, ...]]) -> None:
    shapes = [np.shape(value_of(leaf)) for leaf in given]
    if shapes != list(wanted):
        raise ValueError(
            f"cotangents (tangents) have shapes {shapes}, but {list(wanted)} are needed"
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
        slots = [*code.values, *code.tangents_out]
        workspace.prepare(slots, "tangent")
        arrays = _allocate(slots)
        _deliver(workspace, arrays, 0)
        results = _results(workspace, arrays)
        workspace.program.give_back(workspace)
        n = len(code.values)
        outputs = [
            typed(r, leaf.dtype) for r, leaf in zip(results[:n], path.tape.outputs, strict=True)
        ]
        return collect(path, outputs), collect(path, results[n:])


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


# --- tapes ----------------------------------------------------------------------------------------


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

    Returns
    -------
    Tape
        Prints as a listing, has ``len`` (instructions), can be drawn (``tape.draw()``) and called
        at new arguments of the same structure.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tape = tj.trace(lambda x, y: x * np.sin(y), 2.0, 0.5)
    >>> len(tape)
    2
    >>> tape(3.0, 0.0)
    np.float64(0.0)
    """
    function = _function(f)
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
