"""Closed forms of binomial checkpointing (Griewank and Walther 2000, ACM TOMS 26(1), 19-45)."""

from __future__ import annotations

import math


def beta(slots: int, repeats: int) -> int:
    """How many steps ``slots`` snapshots reverse, none of them advanced over more than so often."""
    return math.comb(slots + repeats, slots) if slots >= 0 and repeats >= 0 else 0


def repeats(steps: int, slots: int) -> int:
    """The least ``r`` with ``steps <= beta(slots, r)``: how often a step is advanced over at most.

    ``slots`` may be 0 for at most one step.
    """
    if slots == 1:
        return max(steps - 1, 0)
    r = 0
    reach = 1
    while reach < steps:
        r += 1
        reach = reach * (slots + r) // r
    return r


def least_advances(steps: int, slots: int) -> int:
    """Advances that the reversal of ``steps`` steps takes at least; each is stored once besides."""
    if steps <= 1:
        return 0
    r = repeats(steps, slots)
    return r * steps - beta(slots + 1, r - 1)
