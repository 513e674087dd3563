"""Calls of staged loops and branches: which instructions run them, forward and reverse.

An operation's parameters are (spec,) with a spec of ``ops.control``; ``loop_vjp`` has the active
operands besides.
"""

from __future__ import annotations

from typing import Any

from ..interpreters import layout
from .frame import Arena, whole
from .loops import Loop, varying
from .stream import Place, Stream
from .structural import contiguous, forward, reverse


def _loops(spec: Any) -> list[Loop]:
    """The loops of a spec: one, or one for each branch."""
    return [
        Loop(
            body, spec.carries, spec.slices, spec.steps, spec.dynamic, spec.backward, operands,
            spec.checkpoint,
        )
        for body, operands in zip(spec.bodies, spec.operands, strict=True)
    ]  # fmt: skip


def _enter(arena: Arena, spec: Any) -> int:
    """Add a spec's loops to the program; the number of the first."""
    first = len(arena.loops)
    arena.loops += _loops(spec)
    return first


def _head(first: int, spec: Any, operands: list[Place]) -> tuple[int, ...]:
    """Words that name the loop, or the branches and their index (the last operand)."""
    if not spec.is_branch:
        return (first,)
    index = operands[-1]
    return (first, len(spec.bodies), index.space, index.offset)


def _pairs(places: list[Place]) -> list[int]:
    return [word for place in places for word in (place.space, place.offset)]


def _kernel(spec: Any, sweep: str) -> str:
    return f"branch_{sweep}" if spec.is_branch else f"loop_{sweep}"


@forward("loop")
def _loop(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    (spec,) = params
    places = [contiguous(place, arena, stream) for place in operands]
    first = _enter(arena, spec)
    arena.entered[out.space, out.offset] = (first, places)
    head = _head(first, spec, places)
    stream.call(_kernel(spec, "forward"), (*head, out.space, out.offset, *_pairs(places)))


def _prepare_gradients(
    arena: Arena, spec: Any, first: int, wanted: set[int], passes: bool
) -> tuple[list[int], int]:
    """Have loops store what their reverse sweeps read; where each operand's gradient lies.

    ``wanted``: operands that vary; ``passes``: whether the reverse sweep follows at once.
    """
    loops = arena.loops[first : first + len(spec.bodies)]
    active: set[int] = set(wanted)
    for loop in loops:
        inputs = {i for i, operand in enumerate(loop.operands) if operand in wanted}
        loop.varied, loop.passes = varying(loop.body, loop.carries, inputs), passes
        active |= {loop.operands[i] for i in loop.varied}
    offsets, size = {}, 0
    for operand in sorted(active):
        offsets[operand] = size
        size += spec.operand_size(operand)
    for loop in loops:
        loop.gradients = tuple(offsets.get(operand, 0) for operand in loop.operands)
        loop.gradient_size = size
    return offsets, size


def _emit_reverse(
    arena: Arena, stream: Stream, spec: Any, first: int, g: Place, result: Place,
    places: list[Place], wanted: set[int], passes: bool,
) -> dict[int, Place]:  # fmt: skip
    """The reverse sweep of a loop; places of the wanted operands' gradients."""
    offsets, size = _prepare_gradients(arena, spec, first, wanted, passes)
    gradients = arena.reserve(size)
    head = _head(first, spec, places)
    stream.call(
        _kernel(spec, "reverse"),
        (*head, g.space, g.offset, layout.VALUES, gradients, result.space, result.offset,
         *_pairs(places)),
    )  # fmt: skip
    return {
        i: whole(spec.operand_shape(i), gradients + offsets[i]) for i in sorted(wanted)
    }  # fmt: skip


@reverse("loop")
def _loop_reverse(rev: Any, call: Any) -> None:
    (spec,) = call.params
    result = rev.place(call.result)
    first, places = rev.arena.entered[result.space, result.offset]
    wanted = {
        i for i, view in enumerate(call.operands) if rev.targets.varies(view) and spec.is_float(i)
    }
    if not wanted:
        return
    found = _emit_reverse(
        rev.arena, rev.stream, spec, first, rev.adjoint(call.result), result, places, wanted, False
    )
    for i, place in found.items():
        rev.contribute(call.operands[i], place)


@forward("loop_vjp")
def _loop_vjp(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    """Forward and reverse of a loop: gradients of the active operands, packed, in ``out``."""
    spec, active = params
    g, *places = [contiguous(place, arena, stream) for place in operands]
    result = whole((spec.result_size,), arena.reserve(spec.result_size))
    first = _enter(arena, spec)
    head = _head(first, spec, places)
    stream.call(_kernel(spec, "forward"), (*head, result.space, result.offset, *_pairs(places)))
    found = _emit_reverse(arena, stream, spec, first, g, result, places, set(active), True)
    at = out.offset
    for i in active:
        stream.copy(whole(found[i].shape, at, out.space), found[i])
        at += found[i].size
