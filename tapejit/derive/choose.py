"""Which way to a Jacobian is cheaper: predicted costs, modes, directions in one sweep.

The model is simple and meant for comparisons: a scalar row costs a nanosecond, an array instruction
a call and a little for each element; several directions share the calls and the values, not the
elements.  Griewank, Walther (2008), "Evaluating derivatives", section 3 and 4, bound both modes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..ops.table import OPS
from ..tape import Call, Leaf, Tape, View, size_of
from .rules import overwrites
from .tapes import pullback, pushforward

__all__ = ["MODES", "Choice", "Plan", "plan_jacobian"]

MODES = ("auto", "forward", "reverse")
#: Nanoseconds: an array instruction; an element of a cheap operation, of a transcendental one, of
#: any other; a multiplication in a matrix product.
CALL_COST, CHEAP, COSTLY, OTHER, PRODUCT = 15.0, 0.2, 1.0, 1.0, 0.06
#: Elements of a derivative that stay in the second-level cache along with its neighbours.
BLOCK = 1 << 17
#: More scalar rows than this go one direction a sweep: each would be a short array instruction.
MOST_SCALAR_ROWS = 2000
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
        one).
    """

    choice: Choice
    tape: Tape
    whole: bool
    outputs: tuple[tuple[int, ...], ...]  # shapes
    inputs: tuple[tuple[int, ...], ...]

    @property
    def seeded(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what is seeded."""
        return self.inputs if self.choice.mode == "forward" else self.outputs


def plan_jacobian(tape: Tape, wrt: Sequence[int], mode: str = "auto") -> Plan:
    """Choose how to compute the Jacobian of a tape's outputs with respect to ``wrt``."""
    outputs = tuple(leaf.view.shape for leaf in tape.outputs)
    inputs = tuple(tape.inputs[i].view.shape for i in wrt)
    counts = {
        "forward": sum(map(size_of, inputs)),
        "reverse": sum(map(size_of, outputs)),
    }
    derive = {"forward": pushforward, "reverse": pullback}
    singles, costs = {}, {}
    for name in ("forward", "reverse") if mode == "auto" else (mode,):
        singles[name] = derive[name](tape, wrt)
        n = directions_per_sweep(tape, singles[name], counts[name])
        costs[name] = predicted(tape, singles[name], counts[name], n)
    chosen = min(costs, key=lambda name: (costs[name], counts[name]))
    count = counts[chosen]
    n = directions_per_sweep(tape, singles[chosen], count)
    choice = Choice(chosen, count, n, costs)
    if count == 0 or n == 1:
        return Plan(choice, singles[chosen], False, outputs, inputs)
    shapes = inputs if chosen == "forward" else outputs
    whole = n == count and count * sum(map(size_of, shapes)) <= MOST_CONSTANTS
    if not whole:
        made = derive[chosen](tape, wrt, directions=n)
        return Plan(choice, made, False, outputs, inputs)
    made = derive[chosen](tape, wrt, seeds=identity(shapes, 0, count), directions=count)
    return Plan(choice, _with_blocks(made, chosen, outputs, inputs), True, outputs, inputs)


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


def directions_per_sweep(tape: Tape, derived: Tape, count: int) -> int:
    """How many directions share a sweep, so that what a few instructions need stays in cache."""
    scalar_rows = int((derived.code[:, 0] < WRITE).sum())
    if count <= 1 or overwrites(tape) or scalar_rows > MOST_SCALAR_ROWS:
        return 1
    largest = max([call.result.size for call in derived.calls[len(tape.calls) :]], default=1)
    n = max(BLOCK // max(largest, 1), 8)
    return count if count <= n else n - n % 8


def predicted(tape: Tape, derived: Tape, count: int, per_sweep: int) -> float:
    """Nanoseconds for all directions, by the model above."""
    values = _rows_cost(tape.code, tape.calls, 1)
    calls = derived.calls[len(tape.calls) :] if not overwrites(tape) else derived.calls
    rows = derived.code[len(tape.code) :] if not overwrites(tape) else derived.code
    sweeps = -(-count // max(per_sweep, 1))
    return sweeps * (values + _rows_cost(rows, calls, per_sweep))


def _rows_cost(rows: np.ndarray, calls: Sequence[Call], lanes: int) -> float:
    scalars = float((rows[:, 0] != CALL).sum())
    if lanes > 1:
        scalars *= CALL_COST + CHEAP * lanes
    return scalars + sum(CALL_COST + lanes * _elements_cost(call) for call in calls)


def _elements_cost(call: Call) -> float:
    n = call.result.size
    if call.op in OPS:
        return n * (COSTLY if OPS[call.op].costly else CHEAP)
    if call.op == "matmul":
        return PRODUCT * n * call.operands[0].shape[-1]
    return OTHER * max(n, *(view.size for view in call.operands), 1)


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
