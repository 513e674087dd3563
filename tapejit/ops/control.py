"""Staged control flow as operations: loops and branches whose bodies are tapes.

``loop`` runs a body again and again: each step takes the *carries* and a *slice* of each stacked
operand, and gives new carries and slices of the stacked results; other operands are invariant.  A
``while_loop`` is a loop whose first carry says whether another step is taken, a branch a loop of
one step whose body an index chooses.  The result is flat: the final carries, the stacked results,
and for a ``while_loop`` the number of steps.

``loop_vjp`` is the pullback of a loop: operands (cotangent of the result, operands of the loop),
result the cotangents of the active operands, packed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .structural import STRUCTURAL, Structural, _shaped

__all__ = ["Part", "Spec"]


class Part(NamedTuple):
    """One output of a loop: where it lies in the flat result."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return _size(self.shape)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


@dataclass(frozen=True, eq=False)
class Spec:
    """What a loop or branch does: the parameter of its operation.

    Attributes
    ----------
    kind
        ``"scan"``, ``"while_loop"`` or ``"switch"``.
    bodies
        Tapes: one, or one for each branch.
    operands
        For each body the operand behind each of its inputs.
    carries, slices
        How many of the inputs are carried, and how many are slices of stacked operands.
    steps
        Number of steps; of a ``while_loop`` the largest allowed.
    backward
        Whether step 0 takes the last slices.
    shapes, dtypes
        Of the operands.
    checkpoint
        The schedule of the reverse sweep; ``None`` for the default: everything is stored, of a
        ``while_loop`` as much as fits into a fixed room.
    """

    kind: str
    bodies: tuple[Any, ...]
    operands: tuple[tuple[int, ...], ...]
    carries: int
    slices: int
    steps: int
    backward: bool
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    checkpoint: Any = None

    @property
    def is_branch(self) -> bool:
        """Whether an index (the last operand) chooses the body."""
        return self.kind == "switch"

    @property
    def dynamic(self) -> bool:
        """Whether the first carry decides about each step."""
        return self.kind == "while_loop"

    @cached_property
    def key(self) -> tuple:
        """What makes two specs equal."""
        prints = tuple(body.fingerprint for body in self.bodies)
        return (
            self.kind, prints, self.operands, self.carries, self.slices, self.steps,
            self.backward, self.shapes, self.dtypes, self.checkpoint,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        bodies = ", ".join(f"{len(b)} instructions {b.fingerprint.hex()[:16]}" for b in self.bodies)
        steps = "" if self.is_branch else f" x {self.steps}"
        order = " backward" if self.backward else ""
        inputs = self.operands if self.is_branch else (self.carries, self.slices)
        checkpoint = "" if self.checkpoint is None else f" {self.checkpoint}"
        return f"{self.kind}[{bodies}]{steps}{order} {inputs}{checkpoint}"

    def operand_shape(self, i: int) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.shapes[i]

    def operand_size(self, i: int) -> int:
        """Number of elements of an operand."""
        return _size(self.shapes[i])

    def is_float(self, i: int) -> bool:
        """Whether an operand carries derivatives."""
        index = self.is_branch and i == len(self.shapes) - 1
        return self.dtypes[i][1] == "f" and not index

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The outputs in the flat result."""
        parts, at = [], 0
        for i, leaf in enumerate(self.bodies[0].outputs):
            shape = leaf.view.shape
            if i >= self.carries and not self.is_branch:
                shape = (self.steps, *shape)
            parts.append(Part(at, shape, leaf.dtype))
            at += parts[-1].size
        return tuple(parts)

    @cached_property
    def result_size(self) -> int:
        """Elements of the flat result."""
        return sum(part.size for part in self.parts) + self.dynamic

    def packed_size(self, active: Sequence[int]) -> int:
        """Elements of the packed cotangents of some operands."""
        return sum(self.operand_size(i) for i in active)


# --- derivatives ----------------------------------------------------------------------------------
# All come down to one construction: the *pushed* loop, which carries tangents along with values.
# With the loop F, and F^(x, x') = (F(x), F'(x) x'), the pullback p(x, g) = F'(x)^T g has
#
#   its derivative along (x', g'):    F'(x)^T g' + (F''(x) x')^T g = d/dx <(g', g), F^(x, x')>
#   for a cotangent h, wrt g:         F'(x) h
#   for a cotangent h, wrt x:         d/dx <g, F'(x) h> = d/dx <(0, g), F^(x, h)>
#
# so that loops, their pullbacks and pushed loops are closed under differentiation.


class _Pushed(NamedTuple):
    """A pushed loop, and how it is called."""

    spec: Spec
    operands: tuple[tuple[str, int], ...]  # ("value" or "tangent", operand of the loop)
    tangents: tuple[int | None, ...]  # for each output of the loop the one with its tangent

    @property
    def values(self) -> list[int]:
        """For each output of the loop the one with its value."""
        return [k for k in range(len(self.spec.parts)) if k not in self.tangents]


@functools.lru_cache(maxsize=1024)
def _pushed(spec: Spec, moving: tuple[int, ...]) -> _Pushed:
    """The loop that also carries the tangents which the operands ``moving`` cause."""
    return _pushed_branch(spec, moving) if spec.is_branch else _pushed_loop(spec, moving)


def _pushed_loop(spec: Spec, moving: tuple[int, ...]) -> _Pushed:
    from ..derive.tapes import pushforward
    from ..lowering.build import varied_outputs
    from ..lowering.loops import varying

    (body,) = spec.bodies
    n_in, n_out = len(body.inputs), len(body.outputs)
    varied = varying(body, spec.carries, set(moving))
    wrt = sorted(varied)
    moves = varied_outputs(body, varied)
    groups: list[list[tuple[str, int]]] = []
    ends = (0, spec.carries, spec.carries + spec.slices, n_in)
    for first, end in itertools.pairwise(ends):
        values = [("value", i) for i in range(first, end)]
        groups.append(values + [("tangent", i) for i in wrt if first <= i < end])
    operands = tuple(entry for group in groups for entry in group)
    number = {("value", i): i for i in range(n_in)}
    number.update({("tangent", i): n_in + k for k, i in enumerate(wrt)})
    carried = list(range(spec.carries)) + [n_out + i for i in wrt if i < spec.carries]
    stacked = list(range(spec.carries, n_out))
    stacked += [n_out + i for i in range(spec.carries, n_out) if moves[i]]
    outputs = [*carried, *stacked]
    tape = _reordered(
        pushforward(body, wrt, values=True), [number[entry] for entry in operands], outputs
    )
    tangents = tuple(
        outputs.index(n_out + i) if n_out + i in outputs else None for i in range(n_out)
    )
    pushed = Spec(
        spec.kind, (tape,), (tuple(range(len(operands))),), len(groups[0]), len(groups[1]),
        spec.steps, spec.backward, tuple(spec.shapes[i] for _, i in operands),
        tuple(spec.dtypes[i] if kind == "value" else "<f8" for kind, i in operands),
        spec.checkpoint,
    )  # fmt: skip
    return _Pushed(pushed, operands, tangents)


def _pushed_branch(spec: Spec, moving: tuple[int, ...]) -> _Pushed:
    from ..derive.tapes import pushforward
    from ..lowering.build import varied_outputs

    index = len(spec.shapes) - 1
    operands = [("value", i) for i in range(index)] + [("tangent", i) for i in moving]
    tangent_of = {i: index + k for k, i in enumerate(moving)}
    n_out = len(spec.bodies[0].outputs)
    moves = [False] * n_out
    active = []
    for body, places in zip(spec.bodies, spec.operands, strict=True):
        wrt = [k for k, operand in enumerate(places) if operand in tangent_of]
        active.append(wrt)
        here = varied_outputs(body, frozenset(wrt))
        moves = [a or b for a, b in zip(moves, here, strict=True)]
    outputs = list(range(n_out)) + [n_out + i for i in range(n_out) if moves[i]]
    tapes, inputs = [], []
    for body, places, wrt in zip(spec.bodies, spec.operands, active, strict=True):
        tape = pushforward(body, wrt, values=True)
        tapes.append(_reordered(tape, range(len(tape.inputs)), outputs))
        inputs.append((*places, *[tangent_of[places[k]] for k in wrt]))
    operands.append(("value", index))
    pushed = Spec(
        spec.kind, tuple(tapes), tuple(inputs), 0, 0, 1, False,
        tuple(spec.shapes[i] for _, i in operands),
        tuple(spec.dtypes[i] if kind == "value" else "<f8" for kind, i in operands),
    )  # fmt: skip
    tangents = tuple(outputs.index(n_out + i) if moves[i] else None for i in range(n_out))
    return _Pushed(pushed, tuple(operands), tangents)


def _reordered(tape: Any, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """A tape with its inputs and outputs in another order."""
    place = {old: new for new, old in enumerate(inputs)}
    return dataclasses.replace(
        tape,
        inputs=tuple(tape.inputs[i] for i in inputs),
        outputs=tuple(tape.outputs[i] for i in outputs),
        buffers=tuple(
            b._replace(argument=place[b.argument]) if b.argument >= 0 else b for b in tape.buffers
        ),
    )


def _call(op: str, params: tuple, operands: Sequence[Any], size: int) -> Any:
    """Record a loop or its pullback: the flat result."""
    from ..control_flow.evaluate import evaluate
    from ..recording.tracer import lift, record, recorder_of, value_of

    rec = recorder_of(*operands)
    lifted = [lift(rec, operand) for operand in operands]
    value = evaluate(op, [value_of(operand) for operand in lifted], params, size)
    return record(rec, op, lifted, value, params)


def _arguments(spec: Spec, pushed: _Pushed, operands: Sequence[Any], tangents: dict) -> list[Any]:
    """Operands of a pushed loop; a carry may move though its first value does not."""
    given = []
    for kind, i in pushed.operands:
        if kind == "value":
            given.append(operands[i])
        elif tangents.get(i) is None:
            given.append(np.zeros(spec.shapes[i])[()])
        else:
            given.append(_shaped(tangents[i], spec.shapes[i]))
    return given


def _piece(flat: Any, part: Part) -> Any:
    return flat[part.offset : part.offset + part.size]


def _joined(pieces: Sequence[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _value_and_tangent(
    spec: Spec, operands: Sequence[Any], tangents: dict
) -> tuple[Any, Any] | None:
    """A loop's flat result and its tangent, by one pushed loop; None where no operand moves."""
    moving = tuple(i for i in sorted(tangents) if spec.is_float(i))
    if not moving:
        return None
    pushed = _pushed(spec, moving)
    given = _arguments(spec, pushed, operands, tangents)
    flat = _call("loop", (pushed.spec,), given, pushed.spec.result_size)
    parts = pushed.spec.parts
    values = [_piece(flat, parts[k]) for k in pushed.values]
    moved = [
        np.zeros(part.size) if at is None else _piece(flat, parts[at])
        for part, at in zip(spec.parts, pushed.tangents, strict=True)
    ]
    if spec.dynamic:
        values.append(flat[-1:])  # the number of steps
        moved.append(np.zeros(1))
    return _joined(values), _joined(moved)


def _tangent(spec: Spec, operands: Sequence[Any], tangents: dict) -> Any:
    """The tangent of a loop's flat result."""
    found = _value_and_tangent(spec, operands, tangents)
    return None if found is None else found[1]


def _pulled(
    spec: Spec, operands: Sequence[Any], tangents: dict, primal: Any, g: Any, wanted: Sequence[int]
) -> Any:
    """Cotangents of the operands ``wanted``, packed, through a pushed loop.

    ``primal`` (None for zero) and ``g`` are cotangents of its values and of its tangents.
    """
    pushed = _pushed(spec, tuple(i for i in sorted(tangents) if spec.is_float(i)))
    pieces: list[Any] = [np.zeros(part.size) for part in pushed.spec.parts]
    for part, value, at in zip(spec.parts, pushed.values, pushed.tangents, strict=True):
        if primal is not None:
            pieces[value] = _piece(primal, part)
        if at is not None:
            pieces[at] = _piece(g, part)
    if spec.dynamic:
        pieces.append(np.zeros(1))
    active = tuple(pushed.operands.index(("value", i)) for i in wanted)
    given = [_joined(pieces), *_arguments(spec, pushed, operands, tangents)]
    return _call("loop_vjp", (pushed.spec, active), given, spec.packed_size(wanted))


def _unpacked(spec: Spec, packed: Any, active: Sequence[int]) -> dict[int, Any]:
    """Packed values by operand."""
    found, at = {}, 0
    for i in active:
        shape = spec.shapes[i]
        found[i] = packed[at : at + _size(shape)].reshape(shape) if shape else packed[at]
        at += _size(shape)
    return found


def _wanted(spec: Spec, operands: Sequence[Any], wanted: Sequence[bool] | None) -> tuple[int, ...]:
    """Operands whose cotangents are asked for."""
    from ..recording.tracer import Tracer

    return tuple(
        i
        for i, x in enumerate(operands)
        if isinstance(x, Tracer) and spec.is_float(i) and (wanted is None or wanted[i])
    )


def _loop_vjp(
    g: Any, f: Any, operands: Sequence[Any], params: tuple, wanted: Sequence[bool] | None = None
) -> list[Any]:
    (spec,) = params
    cotangents: list[Any] = [None] * len(operands)
    active = _wanted(spec, operands, wanted)
    if active:
        given = [_shaped(g, (spec.result_size,)), *operands]
        packed = _call("loop_vjp", (spec, active), given, spec.packed_size(active))
        for i, cotangent in _unpacked(spec, packed, active).items():
            cotangents[i] = cotangent
    return cotangents


def _loop_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    (spec,) = params
    return _tangent(spec, operands, {i: t for i, t in enumerate(tangents) if t is not None})


def _loop_both(
    tangents: Sequence[Any], operands: Sequence[Any], params: tuple
) -> tuple[Any, Any] | None:
    (spec,) = params
    moving = {i: t for i, t in enumerate(tangents) if t is not None}
    return _value_and_tangent(spec, operands, moving)


def _pullback_vjp(
    h: Any, f: Any, operands: Sequence[Any], params: tuple, wanted: Sequence[bool] | None = None
) -> list[Any]:
    (spec, active), (g, *inputs) = params, operands
    h = _shaped(h, (spec.packed_size(active),))
    tangents = _unpacked(spec, h, active)
    cotangents: list[Any] = [None] * len(operands)
    if wanted is None or wanted[0]:
        cotangents[0] = _tangent(spec, inputs, tangents)
    found = _wanted(spec, inputs, None if wanted is None else wanted[1:])
    if found:
        packed = _pulled(spec, inputs, tangents, None, g, found)
        for i, cotangent in _unpacked(spec, packed, found).items():
            cotangents[1 + i] = cotangent
    return cotangents


def _pullback_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    (spec, active), (g, *inputs) = params, operands
    dg, *moving = tangents
    along = {i: t for i, t in enumerate(moving) if t is not None and spec.is_float(i)}
    if dg is not None:
        dg = _shaped(dg, (spec.result_size,))
    if along:
        return _pulled(spec, inputs, along, dg, g, active)
    if dg is None:
        return None
    return _call("loop_vjp", params, [dg, *inputs], spec.packed_size(active))


STRUCTURAL["loop"] = Structural("loop", None, _loop_vjp, _loop_jvp, both=_loop_both, selective=True)
STRUCTURAL["loop_vjp"] = Structural("loop_vjp", None, _pullback_vjp, _pullback_jvp, selective=True)
