"""Which way to a Jacobian is cheaper: predicted costs, modes, directions in one sweep.

The model is simple and meant for comparisons: a scalar row costs a nanosecond, an array instruction
a call and a little for each element.  Griewank, Walther (2008), "Evaluating Derivatives", sections
3.3 and 3.4, bound both modes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..interpreters.layout import CALL, LANES, WRITE
from ..lowering.lanes import supports_lanes
from ..ops.table import OPS
from ..tape import Call, Leaf, Tape, View, size_of
from .rules import one_by_one
from .tapes import pullback, pushforward

__all__ = ["MODES", "Choice", "Plan", "plan_jacobian"]

MODES = ("auto", "forward", "reverse")
#: Nanoseconds: an array instruction; an element of a cheap operation, of a transcendental one, of
#: any other; a multiplication in a matrix product.
CALL_COST, CHEAP, COSTLY, OTHER, PRODUCT = 15.0, 0.2, 1.0, 1.0, 0.06
#: Elements of a derivative that stay in the second-level cache along with its neighbours.
BLOCK = 1 << 17
#: More scalar rows than this are not derived for several directions: each would be a short array
#: instruction.  Vector mode serves them, or they go one direction a sweep.
MOST_SCALAR_ROWS = 2000
#: On tapes of more rows than this, modes are not compared by making both tapes.
MOST_COMPARED = 20_000
#: In vector mode: a row for all lanes of a sweep; and what Python does between two sweeps.
LANE_COST, SWEEP_COST = 3.0, 15000.0
#: Steps of a ``while_loop``, which nobody knows.
UNKNOWN_STEPS = 100
#: Constant seeds (the identity) of up to this many elements are part of the tape.
MOST_CONSTANTS = 1 << 18


@dataclasses.dataclass(frozen=True)
class Choice:
    """How a Jacobian or Hessian is computed, and why.

    Attributes
    ----------
    mode
        ``"forward"`` (tangents) or ``"reverse"`` (cotangents).
    directions
        How many tangents or cotangents there are in all.
    per_sweep
        How many go through one sweep.
    costs
        Predicted nanoseconds by mode (the mode asked for alone, unless it was ``"auto"``).
    """

    mode: str
    directions: int
    per_sweep: int
    costs: dict[str, float]

    def __str__(self) -> str:
        seeds = "tangents" if self.mode == "forward" else "cotangents"
        sweeps = -(-self.directions // max(self.per_sweep, 1))
        costs = ", ".join(f"{mode} {cost / 1000:.3g} µs" for mode, cost in self.costs.items())
        return (
            f"{self.mode}: {self.directions} {seeds}, {self.per_sweep} in a sweep "
            f"({sweeps} sweeps); predicted: {costs}"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A tape that computes a Jacobian, or a block of directions of it.

    Attributes
    ----------
    tape
        If ``whole``, of (inputs) -> all blocks, outputs by outputs times inputs by inputs.
        Otherwise of (inputs, seeds) -> results for ``per_sweep`` directions (without an axis for
        one); with ``several`` the differentiated tape itself, whose own sweeps carry the directions
        (vector mode).
    """

    choice: Choice
    tape: Tape
    whole: bool
    outputs: tuple[tuple[int, ...], ...]  # shapes
    inputs: tuple[tuple[int, ...], ...]
    several: bool = False

    @property
    def seeded(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is seeded."""
        return self.inputs if self.choice.mode == "forward" else self.outputs


def plan_jacobian(tape: Tape, wrt: Sequence[int], mode: str = "auto", lanes: bool = True) -> Plan:
    """Choose how to compute the Jacobian of a tape's outputs with respect to ``wrt``.

    Parameters
    ----------
    mode
        One of ``MODES``.  ``"auto"`` makes both tapes and compares what they cost; on a long tape
        it makes the one that takes fewer sweeps.
    lanes
        Whether vector mode may serve; its plan is for running a program only.
    """
    outputs = tuple(leaf.view.shape for leaf in tape.outputs)
    inputs = tuple(tape.inputs[i].view.shape for i in wrt)
    modes = [mode]
    if mode == "auto":
        fewer = "forward" if _count(inputs) <= _count(outputs) else "reverse"
        modes = ["forward", "reverse"] if len(tape) <= MOST_COMPARED else [fewer]
    plans = {name: _plan(tape, wrt, name, outputs, inputs, lanes) for name in modes}
    costs = {name: plan.choice.costs[name] for name, plan in plans.items()}
    chosen = plans[min(costs, key=lambda name: costs[name])]
    choice = dataclasses.replace(chosen.choice, costs=costs)
    return dataclasses.replace(chosen, choice=choice)


def _plan(
    tape: Tape,
    wrt: Sequence[int],
    mode: str,
    outputs: tuple[tuple[int, ...], ...],
    inputs: tuple[tuple[int, ...], ...],
    in_lanes: bool,
) -> Plan:
    """The plan in one mode."""
    derive = pushforward if mode == "forward" else pullback
    seeded = inputs if mode == "forward" else outputs
    count = _count(seeded)
    lanes = _plan_in_lanes(tape, mode, outputs, inputs) if in_lanes else None
    if lanes is not None and len(tape) > MOST_SCALAR_ROWS:
        return lanes
    n = directions_per_sweep(tape, count)
    whole = 1 < n == count and count * count <= MOST_CONSTANTS
    if whole:
        made = derive(tape, wrt, seeds=identity(seeded, 0, count), directions=count)
        made = _with_blocks(made, mode, outputs, inputs)
    else:
        made = derive(tape, wrt, directions=n if n > 1 else 0)
    sweeps = -(-count // n)
    cost = sweeps * _cost(made) + (0.0 if whole else (sweeps - 1) * SWEEP_COST)
    if lanes is not None and lanes.choice.costs[mode] < cost:
        return lanes
    choice = Choice(mode, count, n, {mode: cost})
    return Plan(choice, made, whole, outputs, inputs)


def _plan_in_lanes(
    tape: Tape,
    mode: str,
    outputs: tuple[tuple[int, ...], ...],
    inputs: tuple[tuple[int, ...], ...],
) -> Plan | None:
    """The plan in vector mode, where it serves; the values are computed in each sweep."""
    count = _count(inputs if mode == "forward" else outputs)
    if count < 2 or not supports_lanes(tape):
        return None
    cost = -(-count // LANES) * (SWEEP_COST + LANE_COST * len(tape.code))
    choice = Choice(mode, count, LANES, {mode: cost})
    return Plan(choice, tape, False, outputs, inputs, several=True)


def _count(shapes: Sequence[tuple[int, ...]]) -> int:
    return sum(map(size_of, shapes))


def identity(shapes: Sequence[tuple[int, ...]], first: int, n: int) -> list[np.ndarray]:
    """Rows ``first`` to ``first + n`` of the identity, cut into arrays of these shapes."""
    seeds, at = [], 0
    for shape in shapes:
        size = size_of(shape)
        seed = np.zeros((n, size))
        rows = np.arange(max(first, at), min(first + n, at + size))
        seed[rows - first, rows - at] = 1.0
        seeds.append(seed.reshape((n, *shape)))
        at += size
    return seeds


def directions_per_sweep(tape: Tape, count: int) -> int:
    """How many directions share a sweep, so that what a few instructions need stays in cache."""
    scalar_rows = int((tape.code[:, 0] < WRITE).sum())
    if count <= 1 or one_by_one(tape) or scalar_rows > MOST_SCALAR_ROWS:
        return 1
    largest = max([call.result.size for call in tape.calls], default=1)
    n = max(BLOCK // max(largest, 1), 8)
    return count if count <= n else n - n % 8


def _cost(tape: Tape) -> float:
    """Nanoseconds for one sweep, by the model above."""
    scalars = float((tape.code[:, 0] != CALL).sum())
    return scalars + sum(CALL_COST + _elements_cost(call) for call in tape.calls)


def _elements_cost(call: Call) -> float:
    n = call.result.size
    if call.op in OPS:
        return n * (COSTLY if OPS[call.op].costly else CHEAP)
    if call.op in ("loop", "loop_vjp"):
        return _loop_cost(call)
    if call.op == "matmul":
        return PRODUCT * n * call.operands[0].shape[-1]
    return OTHER * max(n, *(view.size for view in call.operands), 1)


def _loop_cost(call: Call) -> float:
    """A body (of branches the longest) as often as it runs; a pullback runs it both ways."""
    spec = call.params[0]
    steps = 1 if spec.is_branch else UNKNOWN_STEPS if spec.dynamic else spec.steps
    ways = 3.0 if call.op == "loop_vjp" else 1.0
    return ways * steps * max(_cost(body) for body in spec.bodies)


# --- blocks of outputs by inputs ------------------------------------------------------------------


def _with_blocks(
    tape: Tape, mode: str, outputs: Sequence[tuple[int, ...]], inputs: Sequence[tuple[int, ...]]
) -> Tape:
    """Results of all directions as blocks: for each output, each input, of both shapes."""
    leaves = []
    if mode == "reverse":
        at = 0
        for shape in outputs:
            n = size_of(shape)
            leaves += [Leaf(_split(_rows(leaf.view, at, n), shape), "<f8") for leaf in tape.outputs]
            at += n
    else:
        for leaf in tape.outputs:
            at = 0
            for shape in inputs:
                n = size_of(shape)
                view = _split(_rows(leaf.view, at, n), shape)
                axes = [*range(len(shape), len(view.shape)), *range(len(shape))]
                leaves.append(
                    Leaf(
                        View(view.buffer, view.offset, tuple(view.shape[i] for i in axes),
                             tuple(view.strides[i] for i in axes)),
                        "<f8",
                    )
                )  # fmt: skip
                at += n
    return dataclasses.replace(tape, outputs=tuple(leaves))


def _rows(view: View, first: int, n: int) -> View:
    """Rows of a view along its first axis."""
    offset = view.offset + first * view.strides[0]
    return View(view.buffer, offset, (n, *view.shape[1:]), view.strides)


def _split(view: View, shape: tuple[int, ...]) -> View:
    """The first axis of a view as several."""
    step, strides = view.strides[0], []
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return View(
        view.buffer, view.offset, shape + view.shape[1:], (*reversed(strides), *view.strides[1:])
    )
