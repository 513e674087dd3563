"""Sizes in bytes, and the fastest schedule that fits into a given memory."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import ScheduleError
from ..interpreters import schedules
from .binomial import least_advances

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("kMGT", start=1):
    _UNITS[f"{_letter}B".upper()] = 1000**_power
    _UNITS[f"{_letter}iB".upper()] = 1024**_power

#: What a slot takes in the state of the schedule itself.
SLOT_BYTES = 8 * schedules.SLOT_WORDS


class Costs(NamedTuple):
    """What a loop needs, in bytes."""

    snapshot: int
    """One snapshot: the loop's carry."""
    step: int
    """What one stored step keeps for its reverse sweep."""
    fixed: int = 0
    """Everything else that stands against the limit."""


#: For what depends on numbers of steps and snapshots alone.
NO_COSTS = Costs(0, 0)


def parse_bytes(limit: int | str) -> int:
    """A number of bytes, also as ``"64 MB"`` (10^6) or ``"64 MiB"`` (2^20).

    Raises
    ------
    ValueError
        If it is not a size.
    """
    if isinstance(limit, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)\s*", limit)
        if match is None or match[2].upper() not in _UNITS:
            raise ValueError(f"not a size in bytes: {limit!r}; write 1000000, '64 MB' or '1.5 GiB'")
        return int(float(match[1]) * _UNITS[match[2].upper()])
    size = int(limit)
    if size < 0 or size != limit:
        raise ValueError(f"not a size in bytes: {limit!r}")
    return size


def format_bytes(size: int) -> str:
    """A size for people: three digits and a unit."""
    number, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"


def bytes_of(every: int, slots: int, costs: Costs) -> int:
    """What a schedule with ``slots`` snapshots and blocks of ``every`` steps takes."""
    header = 8 * schedules.HEADER
    return costs.fixed + header + slots * (costs.snapshot + SLOT_BYTES) + every * costs.step


def fastest(steps: int, limit: int, costs: Costs) -> tuple[int, int]:
    """(steps a block, slots) of the schedule with the fewest evaluations that fits.

    All block counts with the least block for each are tried: about ``2 sqrt(steps)`` of them.

    Raises
    ------
    ScheduleError
        If nothing fits; the message says what is needed at least.
    """
    best: tuple[int, int, int, int] | None = None
    slot = costs.snapshot + SLOT_BYTES
    for every in _block_sizes(steps):
        blocks = -(-steps // every)
        left = limit - bytes_of(every, 0, costs)
        if left < 0:
            continue
        slots = min(left // slot, max(blocks - 1, 0))
        if slots == 0 and blocks > 1:
            continue
        found = (every * least_advances(blocks, slots), blocks, every, slots)
        best = found if best is None else min(best, found)
    if best is None:
        least = min(bytes_of(1, 1, costs), bytes_of(steps, 0, costs))
        raise ScheduleError(
            f"{format_bytes(limit)} are too little for {steps} steps: at least {least} bytes "
            f"are needed (a snapshot takes {costs.snapshot}, a stored step {costs.step}, "
            f"everything else {costs.fixed})"
        )
    return best[2], best[3]


def _block_sizes(steps: int) -> list[int]:
    """For each number of blocks that ``steps`` steps can form the least block."""
    sizes = []
    every = 1
    while every < steps:
        sizes.append(every)
        blocks = -(-steps // every)
        every = max(every + 1, -(-steps // (blocks - 1)))
    sizes.append(max(steps, 1))
    return sizes


def open_ended(limit: int, costs: Costs) -> tuple[int, int]:
    """(steps a block, slots) for a number of steps that nobody knows.

    Blocks of ``b`` steps and ``c`` slots reverse ``b beta(c, 3)`` steps, about ``b c^3 / 6``, with
    three advances a step.  That is most with a quarter of the memory for the block.
    """
    slot = costs.snapshot + SLOT_BYTES
    free = limit - bytes_of(0, 0, costs)
    every = max(free // 4 // max(costs.step, 1), 1)
    slots = (free - every * costs.step) // slot
    if free < 0 or slots < 1:
        raise ScheduleError(
            f"{format_bytes(limit)} are too little: at least {bytes_of(1, 1, costs)} bytes are "
            f"needed (a snapshot takes {costs.snapshot}, a stored step {costs.step}, everything "
            f"else {costs.fixed})"
        )
    return every, slots
