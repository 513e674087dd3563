"""Running a function on tracers: arguments in, a Tape and a description of the result out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import pytrees
from ..errors import TraceError
from ..tape import Leaf, Tape
from .recorder import Recorder, activate, at_samples
from .tracer import ArrayTracer, Cell, Tracer, is_traced, lift, scalar_tracer, value_of, view_of

__all__ = ["Constant", "Recording", "make_input", "record_function", "record_shapes"]


class Constant(NamedTuple):
    """A leaf of the result that is not numeric: returned as it is."""

    value: Any


class Recording(NamedTuple):
    """A finished recording.

    ``leaves`` has an entry for each leaf of the result: the number of the tape's output, or a
    :class:`Constant`.  ``captured`` are the values of enclosing recordings that became inputs,
    after the arguments; ``versions``, how many in-place writes those recordings had seen.  ``plan``
    says how a derived tape's outputs are put together.
    """

    tape: Tape
    structure: Any
    leaves: list
    captured: list[Tracer]
    plan: Any = None
    versions: Sequence[int] = ()


def make_input(rec: Recorder, value: Any, argument: int) -> Tracer:
    """A tracer for an argument, entered among the tape's inputs."""
    if np.ndim(value) == 0:
        value = np.asarray(value)[()]
        tracer: Tracer = scalar_tracer(rec, value, rec.scalar())
    else:
        value = np.array(value, order="C")
        buffer = rec.buffer(value.size, argument)
        tracer = ArrayTracer(rec, value, Cell(buffer, value, is_argument=True))
    rec.inputs.append(Leaf(tracer.view, value.dtype.str))
    return tracer


def record_function(
    function: Callable[..., Any],
    values: Sequence[Any],
    name: str,
    limit: Callable[[], None] | None = None,
    body: str = "",
    results: list[Any] | None = None,
) -> Recording:
    """Record ``function(*tracers)``.

    Parameters
    ----------
    values
        Concrete values of the traced arguments: float64, int64 or bool arrays and numbers.
    limit
        Called at each guard, may raise to give up.
    body
        What this is the body of, for messages.
    results
        A list that takes the values of the tape's outputs.
    """
    rec = Recorder(name, body)
    tracers = [make_input(rec, value, i) for i, value in enumerate(values)]
    rec.on_guard = limit
    try:
        with activate(rec), np.errstate(all="ignore"):
            result = function(*tracers)
            leaves, structure = pytrees.flatten(result)
            outputs: list[Leaf] = []
            entries = [_output(rec, leaf, outputs, results) for leaf in leaves]
        return Recording(rec.tape(outputs), structure, entries, rec.captured, versions=rec.versions)
    finally:
        rec.close()


def _output(rec: Recorder, leaf: Any, outputs: list[Leaf], results: list | None) -> Any:
    """Enter a leaf of the result among the outputs; non-numeric ones stay as they are."""
    if isinstance(leaf, str) or leaf is None:
        return Constant(leaf)
    if not is_traced(leaf):
        array = np.asarray(leaf)
        if array.dtype.kind not in "fiub":
            if array.dtype.kind == "c":
                raise TraceError(
                    f"`{rec.name}` returns complex values (shape {array.shape}); complex numbers "
                    "are not supported: return real and imaginary parts"
                )
            return Constant(leaf)
    value = lift(rec, leaf)
    if isinstance(value, Tracer):
        dtype = value.dtype
        view = value.view
    else:
        dtype, view = value.dtype, view_of(rec, value)
    outputs.append(Leaf(view, np.dtype(dtype).str))
    if results is not None:
        results.append(value_of(value))
    return len(outputs) - 1


def record_shapes(function: Callable[..., Any], shapes: Sequence[tuple], name: str) -> Tape:
    """Record a rule at sample values of the given shapes."""
    rng = np.random.default_rng(0)
    with at_samples():
        return record_function(function, [_sample(rng, shape) for shape in shapes], name).tape


def _sample(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Positive values; square matrices are positive definite."""
    value = rng.uniform(0.5, 1.5, shape)
    if len(shape) >= 2 and shape[-1] == shape[-2]:
        value = value + 2.0 * shape[-1] * np.eye(shape[-1])
    return value
