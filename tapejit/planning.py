"""What a gradient will take, before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import Function
from .checkpointing import Plan, Schedule
from .checkpointing.limits import format_bytes
from .gradients import ValueAndGrad
from .jitted import engine_of
from .lowering.build import Code
from .lowering.sizes import workspace_bytes

__all__ = ["GradientPlan", "checkpoint_plan"]


@dataclass(frozen=True)
class GradientPlan:
    """Bytes and recomputation of a gradient.

    Attributes
    ----------
    workspace_bytes
        All arrays that one running copy of the gradient allocates, with the snapshots and stored
        steps of its loops; arguments, results and large constants are not among them.
    recompute_factor
        How often forward code runs, on average, outside of loops: 1 if everything is stored.
    loops
        A plan for each loop and branch, those inside of others after them.
    """

    workspace_bytes: int
    recompute_factor: float
    loops: tuple[Plan, ...]

    def __str__(self) -> str:
        head = (
            f"workspace  {format_bytes(self.workspace_bytes)}\n"
            f"evaluated  {self.recompute_factor:.4g} x forward outside of loops"
        )
        parts = [f"loop {k}\n{plan}" for k, plan in enumerate(self.loops)]
        return "\n\n".join([head, *parts])


def checkpoint_plan(
    what: Schedule | Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    checkpoint: Schedule | None = None,
    **kwargs: Any,
) -> Plan | GradientPlan:
    """Bytes and recompute factor before running, of a schedule or of a function's gradient.

    Parameters
    ----------
    what
        A schedule; or a function, perhaps made by ``grad`` or ``value_and_grad``, whose ``argnums``
        and ``checkpoint`` then hold.
    args, kwargs
        For a schedule: the number of steps, and the bytes of a snapshot, of a stored step, and of
        everything else (``steps``, ``snapshot_bytes``, ``step_bytes``, ``fixed_bytes``).  For a
        function: its arguments.  It is recorded and its gradient is laid out; no staged loop runs,
        unless the function branches on traced values.
    argnums, checkpoint
        As for :func:`tapejit.grad`.

    Returns
    -------
    Plan or GradientPlan
        Print it, or take its numbers.

    Raises
    ------
    ScheduleError
        Where a schedule can't be carried out, as a limit that is too small.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.checkpoint_plan(tj.Revolve(50), 10**6, snapshot_bytes=64).recompute_factor
    5.658945
    >>> def last(x):
    ...     step = lambda x, _: (np.sin(x), None)
    ...     return tj.scan(step, x, None, length=1000, checkpoint=tj.Revolve(10))[0]
    >>> tj.checkpoint_plan(last, 0.5).loops[0].layout.memory
    10
    """
    if isinstance(what, Schedule):
        return what.plan(*args, **kwargs)
    engine = engine_of(what)
    if not isinstance(engine, ValueAndGrad):
        function = what if engine is None else engine.function.function
        engine = ValueAndGrad(Function(function), argnums, False, True, False, checkpoint)
    variant, values = engine.find(args, kwargs)
    path = variant.trie.last
    if path is None:
        path = variant.record(values, runs=False)
        variant.trie.use(path)
    code = variant.program(path).code
    factor = 1.0 + (code.recomputed or 0) / max(len(code.forward), 1)
    return GradientPlan(workspace_bytes(code), factor, tuple(_plans(code)))


def _plans(code: Code) -> Iterator[Plan]:
    for loop in code.loops:
        if loop.plan is not None:
            yield loop.plan
        yield from _plans(loop.child)
