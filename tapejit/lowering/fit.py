"""Lowering under a checkpointing schedule, and schedules that fit into a limit."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

from ..checkpointing.limits import format_bytes, parse_bytes
from ..checkpointing.strategies import Memory, Online, Revolve, Schedule, StoreAll
from ..errors import ScheduleError
from ..tape import Call, Tape
from .build import Code, build, rows_of_chains
from .cuts import Stretches, marked_regions
from .sizes import workspace_bytes

__all__ = ["lower"]


def lower(
    tape: Tape,
    wrt: tuple[int, ...],
    mode: str,
    scalar_seed: bool,
    schedule: Schedule | None,
    several: bool = False,
) -> Code:
    """Lower a tape; a gradient's reverse sweep follows a schedule, or the tape's own regions.

    In vector mode (``several``) everything is stored.

    Raises
    ------
    ScheduleError
        If the schedule is not for straight tapes, or its limit can't be met.
    """
    if several:
        return build(tape, wrt, mode, scalar_seed, several=True)
    if mode != "gradient" or (schedule is None and not tape.regions):
        return build(tape, wrt, mode, scalar_seed)
    whole = rows_of_chains(tape)
    if schedule is None:
        return build(tape, wrt, mode, scalar_seed, marked_regions(tape, whole))
    stretches = Stretches(tape, whole)

    if not isinstance(schedule, Memory):
        return build(tape, wrt, mode, scalar_seed, stretches.regions(schedule))
    limit = parse_bytes(schedule.limit)
    if any(map(_is_free, tape.calls)):
        code = build(tape, wrt, mode, scalar_seed)
        if workspace_bytes(code) > limit:
            shared = _shares(tape, limit, code)
            tape = _with_loops(tape, shared if shared is not None else [Revolve(1)])

    @functools.cache
    def lowered(schedule: Schedule) -> Code:
        return build(tape, wrt, mode, scalar_seed, stretches.regions(schedule))

    candidates = stretches.candidates()
    smallest = sorted(candidates, key=lambda pair: pair[0])[:3]
    # What a schedule takes is known when its code is written: try what may fit, fastest first.
    tried = [schedule for estimate, schedule in candidates if estimate <= 1.1 * limit]
    for candidate in (StoreAll(), *tried, *(schedule for _, schedule in smallest)):
        if workspace_bytes(lowered(candidate)) <= limit:
            return lowered(candidate)
    least = min(workspace_bytes(lowered(schedule)) for _, schedule in smallest)
    raise ScheduleError(
        f"{format_bytes(limit)} are too little for the gradient of `{tape.name}`: at least {least} "
        "bytes are needed"
    )


def _is_free(call: Call) -> bool:
    """Whether a call is a loop without a schedule of its own."""
    return call.op == "loop" and call.params[0].checkpoint is None and not call.params[0].is_branch


def _shares(tape: Tape, limit: int, code: Code) -> list[Schedule] | None:
    """What a limit leaves for each loop, in proportion; None where that is too little."""
    numbers, at = [], 0
    for call in tape.calls:
        if _is_free(call):
            numbers.append(at)
        if call.op in ("loop", "loop_vjp"):  # loops are numbered in the order of the calls
            at += len(call.params[0].bodies)
    plans = [code.loops[number].plan for number in numbers]
    taken = [plan.memory_bytes if plan else 0 for plan in plans]
    left = limit - (workspace_bytes(code) - sum(taken))
    shares: list[Schedule] = [Memory(max(left * own // max(sum(taken), 1), 0)) for own in taken]
    try:
        for share, plan in zip(shares, plans, strict=True):
            if plan is not None:
                share.layout(plan.steps, plan.costs)
    except ScheduleError:
        return None
    return shares


def _for(call: Call, schedule: Schedule) -> Schedule:
    """A schedule for a loop of known or unknown length."""
    unknown = call.params[0].dynamic and isinstance(schedule, Revolve)
    return Online(schedule.snapshots) if unknown else schedule


def _with_loops(tape: Tape, schedules: list[Schedule]) -> Tape:
    """The tape whose loops have these schedules (or all the only one)."""
    calls, given = [], itertools.cycle(schedules)
    for call in tape.calls:
        if _is_free(call):
            call = call._replace(
                params=(replace(call.params[0], checkpoint=_for(call, next(given))),)
            )
        calls.append(call)
    return replace(tape, calls=tuple(calls))
