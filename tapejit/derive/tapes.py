"""Derivative tapes: from a tape, the tape of its derivative."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..builder import TapeBuilder
from ..errors import TraceError
from ..tape import Leaf, Tape, View
from .forward import push_forward
from .forward_many import push_forward_many
from .reverse import pull_back
from .rules import one_by_one, overwrites

__all__ = ["floating", "overwrites", "pullback", "pushforward"]

#: What seeds may be: ``"inputs"``, ``"one"``, or constants.
Seeds = str | Sequence[np.ndarray]


def floating(tape: Tape) -> tuple[int, ...]:
    """The inputs that can carry derivatives: those of floats."""
    return tuple(i for i, leaf in enumerate(tape.inputs) if leaf.dtype[1] == "f")


def pullback(
    tape: Tape,
    wrt: Sequence[int],
    *,
    values: bool = False,
    seeds: Seeds = "inputs",
    directions: int = 0,
) -> Tape:
    """The tape of (inputs, cotangents) -> (values, cotangents of the inputs ``wrt``).

    Parameters
    ----------
    values
        Whether the tape's own outputs come first among the outputs.
    seeds
        ``"inputs"``: the outputs' cotangents follow the inputs.  ``"one"``: the first output is a
        scalar, its cotangent one, and there are no others.  Arrays: constant cotangents, one for
        each output.
    directions
        So many cotangents at once: they, and the results, have that axis in front.  0: a single
        one, without an axis.

    Raises
    ------
    TraceError
        Where several directions are asked for and the tape writes in place.
    """
    lead = _lead(tape, directions)
    builder = TapeBuilder(tape, name=f"pullback of {tape.name}")
    outputs = [leaf.view for leaf in tape.outputs]
    if seeds == "one":
        outputs = outputs[:1]
        given = [builder.constant_view(1.0, lead + outputs[0].shape)]
    else:
        names = ["g"] if len(outputs) == 1 else [f"g{i}" for i in range(len(outputs))]
        given = _seeds(builder, seeds, outputs, lead, names)
    found = pull_back(tape, builder, list(zip(outputs, given, strict=True)), wrt, lead)
    shapes = [lead + tape.inputs[i].view.shape for i in wrt]
    return _finished(builder, tape, values, found, shapes)


def pushforward(
    tape: Tape,
    wrt: Sequence[int],
    *,
    values: bool = False,
    seeds: Seeds = "inputs",
    directions: int = 0,
) -> Tape:
    """The tape of (inputs, tangents of ``wrt``) -> (values, tangents of the outputs).

    Parameters
    ----------
    values, directions
        As for :func:`pullback`.
    seeds
        ``"inputs"``: the tangents follow the inputs.  Arrays: constant tangents, one for each of
        ``wrt``.

    Raises
    ------
    TraceError
        Where several directions are asked for and the tape writes in place.
    """
    lead = _lead(tape, directions)
    name = f"pushforward of {tape.name}"
    builder = TapeBuilder(tape, name=name, with_rows=not overwrites(tape))
    names = [f"d{builder.input_names[i]}" for i in wrt]
    given = _seeds(builder, seeds, [tape.inputs[i].view for i in wrt], lead, names)
    if directions:
        found = push_forward_many(tape, builder, given, wrt, directions)
    else:
        found = push_forward(tape, builder, given, wrt)
    shapes = [lead + leaf.view.shape for leaf in tape.outputs]
    return _finished(builder, tape, values, found, shapes)


def _lead(tape: Tape, directions: int) -> tuple[int, ...]:
    if directions and one_by_one(tape):
        raise TraceError(
            f"`{tape.name}` writes in place or has staged loops: its derivatives go one direction "
            "a sweep"
        )
    return (directions,) if directions else ()


def _seeds(
    builder: TapeBuilder, seeds: Seeds, views: Sequence[View], lead: tuple[int, ...],
    names: Sequence[str],
) -> list[View]:  # fmt: skip
    shapes = [lead + view.shape for view in views]
    if isinstance(seeds, str):
        return [builder.add_input(shape, name) for shape, name in zip(shapes, names, strict=True)]
    return [
        builder.array_constant(np.ascontiguousarray(seed, np.float64).reshape(shape))
        if shape
        else builder.constant_view(float(seed))
        for seed, shape in zip(seeds, shapes, strict=True)
    ]


def _finished(
    builder: TapeBuilder,
    tape: Tape,
    values: bool,
    found: Sequence[View | None],
    shapes: Sequence[tuple[int, ...]],
) -> Tape:
    outputs = list(tape.outputs) if values else []
    for view, shape in zip(found, shapes, strict=True):
        outputs.append(Leaf(builder.constant_view(0.0, shape) if view is None else view, "<f8"))
    return builder.finish(outputs)
