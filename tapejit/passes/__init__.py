"""Passes: functions from tape to tape that leave values and derivatives unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..tape import Tape
from .bodies import optimize_bodies
from .common import share_common
from .dead import remove_dead
from .fold import fold_constants
from .fuse import fuse_products
from .identities import simplify
from .numbering import renumber
from .schedule import WINDOW, schedule_rows

__all__ = ["DEFAULT", "PASSES", "optimize"]

#: Every pass by name.
PASSES: dict[str, Callable[..., Tape]] = {
    "fold": fold_constants,
    "simplify": simplify,
    "common": share_common,
    "dead": remove_dead,
    "fuse": fuse_products,
    "schedule": schedule_rows,
    "renumber": renumber,
}
#: Those that run on every tape before it is laid out, in this order: constants first, which make
#: identities apply, which make expressions equal; what nobody needs then goes; products are fused
#: once it is known who uses them, and rows are sorted and numbered as they will run.
DEFAULT = ("fold", "simplify", "common", "dead", "fuse", "schedule", "renumber")


def optimize(
    tape: Tape, passes: Sequence[str] = DEFAULT, *, unsafe: bool = False, window: int = WINDOW,
    values_only: bool = False,
) -> Tape:  # fmt: skip
    """A tape after the passes named, in this order; bodies of its loops after the same.

    Parameters
    ----------
    passes
        Names among :data:`PASSES`.
    unsafe
        Also algebraic identities that change some IEEE results (see :mod:`.identities`).
    window
        How many rows are sorted together (see :mod:`.schedule`).
    values_only
        Whether the tape is only to be evaluated: what just its derivatives need is dead.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    unknown = [name for name in passes if name not in PASSES]
    if unknown:
        raise ValueError(f"unknown passes {unknown}; there are {', '.join(PASSES)}")
    options: dict[str, dict[str, Any]] = {
        "simplify": {"unsafe": unsafe},
        "schedule": {"window": window},
        "dead": {"values_only": values_only},
    }
    if tape.calls:
        # Whether a loop's body is differentiated is not known here.
        tape = optimize_bodies(
            tape, lambda body: optimize(body, passes, unsafe=unsafe, window=window)
        )
    for name in passes:
        tape = PASSES[name](tape, **options.get(name, {}))
    return tape
