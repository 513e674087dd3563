"""Scheduling: equal op codes next to each other, so that the interpreters' branches are predicted.

An interpreter jumps by op code.  A processor predicts these jumps from those before: perfectly
where the code repeats itself (an unrolled loop), hardly at all in long irregular code, where each
miss costs as much as several operations.  Within a window, rows are sorted by their level in the
dependence graph and, level by level, by op code; windows where that saves too few misses stay as
they are.

References: Ertl and Gregg (2003), "The structure and performance of efficient interpreters";
Coffman and Graham (1972) for levels.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from ..interpreters import layout
from ..interpreters.layout import WRITE
from ..lowering.scalars import compiled, runs, tables
from ..tape import ARRAY, Tape
from .draft import Draft

__all__ = ["schedule_rows"]

#: Rows that are sorted together: many enough for long runs, few enough that operands stay near.
WINDOW = 4096
#: Fewer rows than this are learned by the processor as they are.
SHORTEST = 2048
#: Predicted misses a row from which on sorting is tried, and how far it must lower them.
RATE, GAIN = 0.25, 0.6
_HISTORY_BITS = 14


@register_jitable
def missed(ops, table):
    """How many op codes a predictor gets wrong that knows what followed the last four."""
    table[:] = -1
    mask = table.shape[0] - 1
    history = 0
    count = 0
    for i in range(ops.shape[0]):
        slot = (history * 0x9E3779B1 >> 7) & mask
        if table[slot] != ops[i]:
            count += 1
        table[slot] = ops[i]
        history = ((history << 7) | int(ops[i])) & 0xFFFFFFF
    return count


@register_jitable
def sort_window(code, first, last, arity, row_of, level, by_op, counts, order):
    """Rows of [first, last) by level, then op code, then place, into ``order``; True if they move.

    ``row_of`` names the row of each scalar, ``level``, ``by_op`` and ``counts`` are work space.
    """
    n = last - first
    deepest = 0
    counts[: layout.N_OPS + 1] = 0
    for k in range(n):
        i = first + k
        op = code[i, 0]
        depth = 0
        for j in range(arity[op]):
            element = code[i, 2 + j]
            if element < ARRAY and row_of[element] >= first:
                depth = max(depth, level[row_of[element] - first] + 1)
        level[k] = depth
        deepest = max(deepest, depth)
        if code[i, 1] < ARRAY:
            row_of[code[i, 1]] = i
        counts[op + 1] += 1
    # Two stable counting sorts: by op code, then by level.
    for op in range(layout.N_OPS):
        counts[op + 1] += counts[op]
    for k in range(n):
        op = code[first + k, 0]
        by_op[counts[op]] = k
        counts[op] += 1
    counts[: deepest + 2] = 0
    for k in range(n):
        counts[level[k] + 1] += 1
    for depth in range(deepest + 1):
        counts[depth + 1] += counts[depth]
    moved = False
    for k in range(n):
        row = by_op[k]
        at = counts[level[row]]
        counts[level[row]] += 1
        order[first + at] = first + row
        moved = moved or at != row
    return moved


def sort_windows(
    code, first, last, window, arity, row_of, level, by_op, counts, table, before, after, order,
    rate, gain,
):  # fmt: skip
    """Sort windows of [first, last), no window across a write or a guard; how many were sorted."""
    changed = 0
    start = first
    while start < last:
        stop = start
        while stop < last and stop - start < window and code[stop, 0] < WRITE:
            stop += 1
        n = stop - start
        if n > 16:
            for k in range(n):
                before[k] = code[start + k, 0]
            misses = missed(before[:n], table)
            if misses > rate * n and sort_window(
                code, start, stop, arity, row_of, level, by_op, counts, order
            ):
                for k in range(n):
                    after[k] = code[order[start + k], 0]
                if missed(after[:n], table) < gain * misses:
                    changed += 1
                else:
                    for k in range(n):
                        order[start + k] = start + k
        start = max(stop, start + 1)
    return changed


_V, _N = "int32[::1]", "int64"
_ROWS = "int32[:,::1]"
_SORT_WINDOWS = (
    f"int64({_ROWS},{_N},{_N},{_N},{_V},{_V},{_V},{_V},{_V},{_V},{_V},{_V},int64[::1],"
    "float64,float64)"
)


def schedule_rows(
    tape: Tape, window: int = WINDOW, rate: float = RATE, gain: float = GAIN,
    shortest: int = SHORTEST,
) -> Tape:  # fmt: skip
    """The tape with its scalar rows sorted so that equal op codes follow each other.

    Rows move within a window between writes, guards and calls only; values stay the same bit for
    bit, derivatives up to the order in which cotangents are added.

    Parameters
    ----------
    window
        Rows that are sorted together.
    rate, gain
        A window is sorted where more than ``rate`` of its op codes are predicted wrong, and where
        sorting lowers that number below ``gain`` times what it was.
    shortest
        Tapes of fewer rows stay as they are: a processor learns them by heart.
    """
    if len(tape.code) < shortest:
        return tape
    draft = Draft(tape)
    arity, _, _ = tables()
    n = max(window, layout.N_OPS) + 2
    row_of = np.full(max(tape.n_scalars, 1), -1, np.int32)
    level, by_op, before, after = (np.empty(n, np.int32) for _ in range(4))
    counts = np.empty(n, np.int32)
    table = np.empty(1 << _HISTORY_BITS, np.int32)
    order = np.arange(len(draft.code))
    loop = compiled(sort_windows, _SORT_WINDOWS)
    changed = 0
    for first, last, call in runs(tape.code, tape.calls):
        first = max(first, draft.keep)
        if call is None and last - first > 16:
            changed += loop(
                draft.code, first, last, window, arity, row_of, level, by_op, counts, table,
                before, after, order, rate, gain,
            )  # fmt: skip
    return draft.finish(order) if changed else tape
