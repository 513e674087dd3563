"""Lowering under a checkpointing schedule, and schedules that fit into a limit."""

from __future__ import annotations

import functools

from ..checkpointing.limits import format_bytes, parse_bytes
from ..checkpointing.strategies import Memory, Schedule, StoreAll
from ..errors import ScheduleError
from ..interpreters import layout, loop_kernels
from ..interpreters.entry import RECORD_WORDS
from ..tape import Tape
from .build import Code, build, rows_of_chains
from .cuts import Stretches, marked_regions

__all__ = ["lower", "workspace_bytes"]


def lower(
    tape: Tape, wrt: tuple[int, ...], mode: str, scalar_seed: bool, schedule: Schedule | None
) -> Code:
    """Lower a tape; a gradient's reverse sweep follows a schedule, or the tape's own regions.

    Raises
    ------
    ScheduleError
        If the schedule is not for straight tapes, or its limit can't be met.
    """
    if mode != "gradient" or (schedule is None and not tape.regions):
        return build(tape, wrt, mode, scalar_seed)
    whole = rows_of_chains(tape)
    if schedule is None:
        return build(tape, wrt, mode, scalar_seed, marked_regions(tape, whole))
    stretches = Stretches(tape, whole)

    @functools.cache
    def lowered(schedule: Schedule) -> Code:
        return build(tape, wrt, mode, scalar_seed, stretches.regions(schedule))

    if not isinstance(schedule, Memory):
        return lowered(schedule)
    limit = parse_bytes(schedule.limit)
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


def workspace_bytes(code: Code) -> int:
    """Bytes of the arrays of one workspace of a gradient program."""
    tables = 8 * RECORD_WORDS * len(code.parameters)
    return 8 * code.arena_size + tables + _inside(code)


def _inside(code: Code) -> int:
    """Bytes of what a program has besides its values, with the programs of its loops."""
    words = code.adjoint_size + code.scratch_size + layout.TILE + layout.CONTEXT_WORDS
    children = (8 * loop_kernels.RECORD + _inside(loop.child) for loop in code.loops)
    return 8 * words + sum(children)
