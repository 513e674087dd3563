"""Recording the bodies of staged loops and branches, and the calls that run them."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import pytrees
from ..arguments import describe, normalise
from ..errors import SideEffectWarning, TraceError, TracerLeakError
from ..ops.control import Part, Spec
from ..recording.record import Constant, record_function
from ..recording.recorder import (
    Recorder,
    active,
    at_samples,
    enclosing,
    user_frame,
    where_am_i,
)
from ..recording.tracer import (
    ArrayTracer,
    Tracer,
    entrance,
    is_traced,
    lift,
    record,
    recorder_of,
    scalar_tracer,
    value_of,
)
from ..tape import Leaf, Tape
from .effects import Watch
from .evaluate import evaluate

__all__ = ["Body", "call_loop", "leaves_of", "record_body"]


class Body(NamedTuple):
    """A recorded body: its tape, the structure of its result, the outer values that it uses."""

    tape: Tape
    structure: Any
    captured: list[Tracer]


def leaves_of(tree: Any, what: str) -> tuple[list, Any]:
    """Numeric leaves of an argument, as tracers or normalised values, and its structure."""
    leaves, structure = pytrees.flatten(tree)
    found = []
    for leaf, path in zip(leaves, pytrees.paths(structure), strict=True):
        if isinstance(leaf, Tracer):
            found.append(leaf)
        elif is_traced(leaf):
            found.append(_array_of(leaf))
        elif isinstance(leaf, (str, bytes)):
            raise TraceError(
                f"{where_am_i()}: {what}{path} is {leaf!r}; loops and branches take numbers and "
                "arrays (close over anything else)"
            )
        else:
            kind = np.asarray(leaf).dtype.kind
            if kind not in "fiub":
                is_a = "complex" if kind == "c" else f"of type {type(leaf).__name__}"
                raise TraceError(
                    f"{where_am_i()}: {what}{path} is {is_a}; loops and branches take real numbers "
                    "and arrays (close over anything else)"
                )
            found.append(normalise(leaf, f"{what}{path}", False))
    return found, structure


def _array_of(objects: Any) -> Any:
    """An object array of traced values (or tensors) as one of them."""
    rec = active()
    if rec is not None:
        return lift(rec, objects)
    return np.stack(list(objects))


def record_body(
    function: Callable[..., Any],
    values: Sequence[Any],
    what: str,
    user: Callable[..., Any],
    runs: bool = True,
) -> Body:
    """Record ``function(*leaves)`` once, at sample values.

    Parameters
    ----------
    what
        For messages: ``"the body of tapejit.scan"``.
    user
        The user's function that it calls.
    runs
        Whether it will run at these values; if not, loops inside of it need not end.
    """
    outer = enclosing()
    writes = [rec.writes for rec in outer]
    watch = Watch(user)
    refused: list[TraceError] = []
    limit = _refuse_branches(what, refused)
    try:
        with contextlib.nullcontext() if runs else at_samples():
            recording = record_function(
                function, [_input(v) for v in values], describe(user), limit, body=what
            )
    except IndexError as error:
        # NumPy drops what __index__ raises, and says that a plain array takes no such index.
        if refused and not isinstance(error, TraceError):
            raise refused[-1] from error
        raise
    if [rec.writes for rec in outer] != writes:
        raise TracerLeakError(
            f"{where_am_i()}: {what} writes into an array of the enclosing function. It is "
            "recorded once for all steps, so that the write would happen once: carry the array "
            "from step to step instead, return what is written, or write into a copy that is made "
            "in the body (y = y.copy())"
        )
    _warn_of_effects(watch.changed(), what)
    for entry in recording.leaves:
        if isinstance(entry, Constant):
            raise TraceError(
                f"{where_am_i()}: {what} returns {entry.value!r}; it may return numbers and arrays"
            )
    outputs = tuple(recording.tape.outputs[i] for i in recording.leaves)
    assert outputs == recording.tape.outputs
    return Body(recording.tape, recording.structure, recording.captured)


def _warn_of_effects(changed: Sequence[str], what: str) -> None:
    if changed:
        frame = user_frame()
        names = ", ".join(f"`{name}`" for name in changed)
        warnings.warn_explicit(
            f"{what} changes {names}. That happens once, when it is recorded: replays run no "
            "Python. Carry what changes from step to step, or return it; draw random numbers "
            "before a loop, and pass them as xs",
            SideEffectWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
        )


def _input(value: Any) -> Any:
    value = value_of(value)
    return np.array(value) if isinstance(value, np.ndarray) else value


def _refuse_branches(what: str, refused: list[TraceError]) -> Callable[[], None]:
    """What each guard of a body calls; ``refused`` takes the exceptions that it raised."""

    def refuse() -> None:
        error = TraceError(
            f"{where_am_i()}: a Python branch (if, while, int(), range(), an index into a plain "
            f"array) on a traced value in {what}, which is recorded once for all steps; use "
            "np.where, tapejit.cond or tapejit.switch, tapejit.numpy.take(table, i) for an element "
            "of a plain array, and tapejit.while_loop or fori_loop for a loop whose length depends "
            "on data"
        )
        refused.append(error)
        raise error

    return refuse


# --- the call -------------------------------------------------------------------------------------


def call_loop(spec: Spec, operands: Sequence[Any]) -> list[Any]:
    """A loop (or branch): recorded in the recording under way, else run; its outputs.

    Tensors among the operands, those that the bodies close over too, make it one instruction of
    their graph.
    """
    rec = active()
    if rec is not None:
        return _recorded(spec, rec, operands)
    enter = entrance(operands)
    if enter is None:
        return _run(spec, *operands)

    def ours(*operands: Any) -> list[Any]:
        return _recorded(spec, recorder_of(*operands), operands)

    return enter(ours, functools.partial(_run, spec), tuple(operands), {})


def _recorded(spec: Spec, rec: Recorder, operands: Sequence[Any]) -> list[Any]:
    operands = [lift(rec, operand) for operand in operands]
    values = [value_of(operand) for operand in operands]
    flat = evaluate("loop", values, (spec,), spec.result_size)
    result = record(rec, "loop", operands, flat, (spec,))
    return [_part(result, part) for part in spec.parts]


def _part(flat: ArrayTracer, part: Part) -> Any:
    """One output of a loop: a view of its flat result, integers and bools with their dtype."""
    kind = np.dtype(part.dtype)
    if part.shape == ():
        element = flat[part.offset]
        if kind.kind == "f":
            return element
        return scalar_tracer(flat.rec, kind.type(element.value), element.element)
    view = flat[part.offset : part.offset + part.size].reshape(part.shape)
    if kind.kind == "f":
        return view
    return record(flat.rec, "copy", [view], np.array(view.value).astype(kind))


def _run(spec: Spec, *operands: Any) -> list[Any]:
    """The outputs at plain operands, by the compiled program; that of an equal loop is kept."""
    flat = evaluate("loop", operands, (spec,), spec.result_size)
    parts = [flat[part.offset : part.offset + part.size] for part in spec.parts]
    return [
        values.reshape(part.shape).astype(part.dtype)[()]
        for values, part in zip(parts, spec.parts, strict=True)
    ]


def check_structure(before: Any, after: Any, what: str, counted: bool = False) -> None:
    """Raise unless a body's new carry has the structure of the carry that it took.

    ``counted``: the carry is the second part of the structures, the first a count of steps.
    """
    if before != after:
        if counted:
            before, after = before.children()[1], after.children()[1]
        raise TraceError(
            f"{where_am_i()}: {what} changes the structure of its carry: it takes {before} and "
            f"returns {after}"
        )


def check_same(
    before: Sequence[Leaf], structure: Any, body: Body, what: str, counted: bool = False
) -> None:
    """Raise unless a body's new carry is like the carry that it took (see check_structure)."""
    check_structure(structure, body.structure, what, counted)
    order, after = "bif", body.tape.outputs
    if counted:
        before, after, structure = before[1:], after[1:], structure.children()[1]
    for old, new, path in zip(before, after, pytrees.paths(structure), strict=False):
        name = f"carry{path}"
        if old.view.shape != new.view.shape:
            raise TraceError(
                f"{where_am_i()}: {what} changes the shape of {name} from {old.view.shape} to "
                f"{new.view.shape}; a carry keeps its shape from step to step"
            )
        kinds = np.dtype(old.dtype), np.dtype(new.dtype)
        if order.index(_kind(kinds[0])) < order.index(_kind(kinds[1])):
            raise TraceError(
                f"{where_am_i()}: {what} changes the dtype of {name} from {kinds[0]} to "
                f"{kinds[1]}; start from a value of that dtype (0.0 instead of 0)"
            )


def _kind(dtype: np.dtype) -> str:
    return "i" if dtype.kind in "iu" else dtype.kind
