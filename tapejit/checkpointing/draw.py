"""Pictures of schedules: steps against time, as Griewank and Walther 2000 draw them.

Time runs downwards, one unit for each step that runs forward or is turned.  A forward sweep goes
right, a turn left; a snapshot is a vertical line for as long as its slot is taken.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .limits import NO_COSTS, Costs
from .plan import evaluations
from .strategies import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Stroke", "draw_schedule", "strokes"]

COLOURS = {
    "advance": "#2d5f8b", "store": "#d98c1f", "turn": "#b3312c", "snapshot": "#9a9a9a",
    "disk": "#6a4c93",
}  # fmt: skip
NAMES = {
    "advance": "advance", "store": "store", "turn": "turn", "snapshot": "snapshot in memory",
    "disk": "snapshot on disk",
}  # fmt: skip
#: More steps than this to draw are a black square.
MOST = 200_000


class Stroke(NamedTuple):
    """A straight line of the picture: what it shows, and two points (step, time)."""

    kind: str
    start: tuple[float, float]
    end: tuple[float, float]


def strokes(schedule: Schedule, steps: int, costs: Costs = NO_COSTS) -> list[Stroke]:
    """The lines of a schedule's picture."""
    memory = schedule.layout(steps, costs).memory
    found: list[Stroke] = []
    held: dict[int, tuple[int, int]] = {}  # slot -> step, since when
    time = 0

    def release(slot: int) -> None:
        step, since = held.pop(slot)
        kind = "snapshot" if slot < memory else "disk"
        found.append(Stroke(kind, (step, since), (step, time)))

    for action in schedule.actions(steps, costs):
        if action.kind == "snapshot":
            if action.slot in held:
                release(action.slot)
            held[action.slot] = (action.first, time)
        elif action.kind == "restore" and action.last:
            release(action.slot)
        elif action.kind in ("advance", "store", "turn"):
            ends = [action.first, action.last]
            if action.kind == "turn":
                ends.reverse()
            then = time + action.last - action.first
            found.append(Stroke(action.kind, (ends[0], time), (ends[1], then)))
            time = then
    return found


def draw_schedule(
    schedule: Schedule,
    steps: int,
    path: str | os.PathLike[str] | None = None,
    ax: Any = None,
    costs: Costs = NO_COSTS,
) -> Any:
    """Draw a schedule.

    Parameters
    ----------
    steps
        Steps of the loop.
    path
        File to write: ``.png``, ``.svg`` or ``.pdf``.
    ax
        Matplotlib axes to draw on instead.
    costs
        What a snapshot and a stored step take: ``Memory`` chooses by them (``Plan.draw`` knows).

    Returns
    -------
    str or None
        The SVG text where neither ``path`` nor ``ax`` is given.

    Raises
    ------
    ValueError
        If the picture would have more than 200,000 steps, or the file's type is unknown.
    """
    from ..draw import picture_suffix, save_figure

    suffix = picture_suffix(path)
    amount = evaluations(schedule.layout(steps, costs), steps)
    if amount > MOST:
        raise ValueError(
            f"{amount} steps to draw are too many; draw a shorter loop ({MOST} at most)"
        )
    if ax is not None:
        _paint(ax, schedule, steps, costs)
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    _paint(figure.add_subplot(), schedule, steps, costs)
    return save_figure(figure, path, suffix)


def _paint(ax: Axes, schedule: Schedule, steps: int, costs: Costs) -> None:
    from matplotlib.collections import LineCollection

    lines = strokes(schedule, steps, costs)
    plan = schedule.plan(steps, *costs)
    for kind, colour in COLOURS.items():
        chosen = [(line.start, line.end) for line in lines if line.kind == kind]
        if chosen:
            width = 1.0 if kind in ("snapshot", "disk") else 1.6
            order = 1 if kind in ("snapshot", "disk") else 2
            ax.add_collection(
                LineCollection(
                    chosen, colors=colour, linewidths=width, label=NAMES[kind], zorder=order,
                    capstyle="round",
                )
            )  # fmt: skip
    end = max((line.end[1] for line in lines), default=1)
    ax.set_xlim(-0.02 * max(steps, 1), 1.02 * max(steps, 1))
    ax.set_ylim(end * 1.02, -end * 0.02)
    ax.set_xlabel("step")
    ax.set_ylabel("time (steps run or turned)")
    held = plan.layout.memory + plan.layout.disk
    ax.set_title(
        f"{schedule}\n{steps} steps, {held} snapshot{'s' * (held != 1)}, "
        f"{plan.recompute_factor:.3g} x forward",
        fontsize=10, loc="left",
    )  # fmt: skip
    if lines:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
