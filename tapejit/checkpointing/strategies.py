"""The user's choice of a checkpointing schedule.

A schedule says how the reverse sweep of a loop gets its intermediates back.  The machine that
carries it out is :mod:`tapejit.interpreters.schedules`, the same for all: they differ in how many
snapshots it may hold, where, and how many steps it stores at once (a :class:`Layout`).
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ..errors import ScheduleError
from ..interpreters import schedules
from ..interpreters.schedules import UNKNOWN
from .limits import NO_COSTS, Costs, fastest, open_ended, parse_bytes

if TYPE_CHECKING:
    from .plan import Plan

__all__ = [
    "Action",
    "Layout",
    "Memory",
    "Online",
    "Revolve",
    "Schedule",
    "StoreAll",
    "TwoLevel",
    "Uniform",
]


class Action(NamedTuple):
    """One action of a schedule (see :mod:`tapejit.interpreters.schedules`)."""

    kind: str
    first: int
    last: int
    slot: int


class Layout(NamedTuple):
    """A schedule for a certain loop, in the numbers that its state machine takes."""

    steps: int
    """Number of steps, or UNKNOWN: then the loop says when it has arrived."""
    every: int
    """Steps of a block, stored and turned together; not more than there are steps."""
    memory: int
    """Snapshots held in memory at most."""
    disk: int = 0
    """Snapshots held in a file at most."""
    directory: str | None = None
    """Where that file is; None for the system's temporary directory."""

    @property
    def slots(self) -> int:
        """Snapshots held at most."""
        return self.memory + self.disk

    @property
    def state_words(self) -> int:
        """64-bit words of the state machine."""
        return schedules.state_words(self.slots)

    def begin(self) -> np.ndarray:
        """A new state, before the first action."""
        state = np.zeros(self.state_words, np.int64)
        schedules.begin(state, self.steps, self.every, self.memory, self.disk)
        return state


class Schedule:
    """Base of the checkpointing schedules.

    Attributes
    ----------
    open_ended
        Whether it serves loops whose number of steps nobody knows before they end.
    """

    open_ended: ClassVar[bool] = False

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        """The schedule for ``steps`` steps (None: unknown) that take so many bytes.

        Raises
        ------
        ScheduleError
            If the schedule can't be carried out.
        """
        raise NotImplementedError

    def actions(self, steps: int, costs: Costs = NO_COSTS) -> Iterator[Action]:
        """The actions for a loop of ``steps`` steps, one by one.

        Examples
        --------
        >>> import tapejit as tj
        >>> for action in tj.Revolve(snapshots=1).actions(2):
        ...     print(*action)
        snapshot 0 0 0
        advance 0 1 -1
        store 1 2 -1
        arrive 2 2 -1
        turn 1 2 -1
        restore 0 1 0
        store 0 1 -1
        turn 0 1 -1
        """
        state = self.layout(steps, costs).begin()
        is_open = state[schedules.STEPS] == UNKNOWN
        while True:
            if is_open and state[schedules.POSITION] * state[schedules.EVERY] >= steps:
                schedules.arrive(state, steps)
                is_open = False
            code = schedules.next_action(state)
            if code == schedules.END:
                return
            first, last, slot = state[:3].tolist()
            if code == schedules.ADVANCE:
                last = min(last, steps)
            yield Action(schedules.ACTIONS[code], first, last, slot)

    def plan(
        self, steps: int, snapshot_bytes: int = 0, step_bytes: int = 0, fixed_bytes: int = 0
    ) -> Plan:
        """Bytes and recomputation before running (see :class:`tapejit.checkpointing.Plan`)."""
        from .plan import plan

        return plan(self, steps, Costs(snapshot_bytes, step_bytes, fixed_bytes))

    def draw(self, steps: int, path: str | None = None, **options: Any) -> Any:
        """Draw steps against time, as in the papers (see :mod:`tapejit.checkpointing.draw`).

        What ``Memory`` chooses depends on bytes: draw the plan of a loop (``Plan.draw``).
        """
        from .draw import draw_schedule

        return draw_schedule(self, steps, path, **options)


@dataclass(frozen=True)
class StoreAll(Schedule):
    """Keep what the reverse sweep reads of every step: no recomputation, most memory.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.StoreAll().plan(10).evaluations
    10
    """

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        steps = _known(self, steps)
        return _binomial(steps, max(steps, 1), 0)


@dataclass(frozen=True)
class Uniform(Schedule):
    """A snapshot every ``every`` steps; from the last on, each stretch is run again and stored.

    Each step but the last stretch's runs twice.  With ``every`` near the square root of the number
    of steps this is what two nested checkpointed loops do.

    Parameters
    ----------
    every
        Steps between snapshots, and steps stored at a time.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.Uniform(every=3).plan(10).evaluations  # the last stretch is a single step
    19
    """

    every: int

    def __post_init__(self) -> None:
        _check(self, "every", 1)

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        steps = _known(self, steps)
        return _binomial(steps, self.every, steps)


@dataclass(frozen=True)
class Revolve(Schedule):
    """Binomial checkpointing: the least recomputation with so many snapshots.

    Griewank and Walther 2000, Algorithm 799: revolve (ACM TOMS 26(1), 19-45).

    Parameters
    ----------
    snapshots
        Snapshots held at most, the initial state's among them.
    every
        Steps stored and turned at a time; snapshots are taken at multiples of it.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.Revolve(snapshots=3).plan(10).evaluations  # 15 advances, 10 stored steps
    25
    """

    snapshots: int
    every: int = 1

    def __post_init__(self) -> None:
        _check(self, "snapshots", 1)
        _check(self, "every", 1)

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        steps = _known(self, steps)
        return _binomial(steps, self.every, self.snapshots)


@dataclass(frozen=True)
class Online(Schedule):
    """Checkpointing of an unknown number of steps, for ``while_loop``.

    The forward sweep places snapshots as Wang, Moin and Iaccarino 2009 (Minimal repetition dynamic
    checkpointing algorithm for unsteady adjoint calculation, SIAM J. Sci. Comput. 31(4)) do; the
    reverse sweep is binomial in each gap.  With ``c`` snapshots, ``n`` steps take at most ``r n``
    advances where ``n <= (c - 1 + r)! / ((c - 1)! r!)``.

    Parameters
    ----------
    snapshots
        Snapshots held at most, the initial state's among them.
    every
        Steps between places for snapshots, and steps stored and turned at a time.  A snapshot is
        copied each so many steps in the forward sweep.

    Examples
    --------
    >>> import tapejit as tj
    >>> grow = lambda x: tj.while_loop(
    ...     lambda x: x < 100.0, lambda x: 1.5 * x, x, checkpoint=tj.Online(snapshots=4))
    >>> tj.grad(grow)(2.0) == 1.5**10
    np.True_
    """

    open_ended: ClassVar[bool] = True
    snapshots: int
    every: int = 1

    def __post_init__(self) -> None:
        _check(self, "snapshots", 1)
        _check(self, "every", 1)

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        if steps is not None:
            _known(self, steps)
        return Layout(UNKNOWN, self.every, self.snapshots)


@dataclass(frozen=True)
class TwoLevel(Schedule):
    """Binomial checkpointing with snapshots in memory and in a file.

    As few steps run again as with ``memory + disk`` snapshots in memory.  The snapshots that are
    copied most often are in memory (Stumm and Walther 2009, MultiStage approaches for optimal
    offline checkpointing, SIAM J. Sci. Comput. 31(3)); the file's room is claimed before the loop
    starts, so that a full disk is an error with nothing lost.

    Parameters
    ----------
    memory
        Snapshots held in memory at most.
    disk
        Snapshots held in the file at most.
    every
        Steps stored and turned at a time; snapshots are taken at multiples of it.
    directory
        Where the file is made, without a name; the system's temporary directory by default.

    Examples
    --------
    >>> import tapejit as tj
    >>> tj.TwoLevel(memory=1, disk=2).plan(10).evaluations  # as Revolve(snapshots=3)
    25
    """

    memory: int
    disk: int
    every: int = 1
    directory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        _check(self, "memory", 0)
        _check(self, "disk", 0 if self.memory else 1)
        _check(self, "every", 1)
        if self.directory is not None:
            if not isinstance(self.directory, (str, os.PathLike)):
                raise ScheduleError(f"TwoLevel: directory is a path, not {self.directory!r}")
            object.__setattr__(self, "directory", os.fspath(self.directory))

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        steps = _known(self, steps)
        return _binomial(steps, self.every, self.memory, self.disk, self.directory)


@dataclass(frozen=True)
class Memory(Schedule):
    """The fastest schedule that fits into a limit.

    Among all binomial schedules, over how many snapshots are held and how many steps are stored
    at a time, the one that runs the fewest steps; :class:`StoreAll` and :class:`Uniform` are among
    them.

    Parameters
    ----------
    limit
        Bytes, or text as ``"64 MB"`` (10^6 bytes) or ``"1.5 GiB"``, for everything that the loop's
        derivative keeps.

    Examples
    --------
    >>> import tapejit as tj
    >>> halve = lambda x, _: (0.5 * x, None)
    >>> f = lambda x: tj.scan(halve, x, length=1000, checkpoint=tj.Memory("10 kB"))[0]
    >>> round(tj.checkpoint_plan(f, 1.0).loops[0].recompute_factor, 1)  # steps, by the forward's
    1.9
    """

    open_ended: ClassVar[bool] = True
    limit: int | str

    def __post_init__(self) -> None:
        parse_bytes(self.limit)

    def layout(self, steps: int | None, costs: Costs = NO_COSTS) -> Layout:
        limit = parse_bytes(self.limit)
        if steps is None:
            every, slots = open_ended(limit, costs)
            return Layout(UNKNOWN, every, slots)
        steps = _known(self, steps)
        return _binomial(steps, *fastest(steps, limit, costs))


def _known(schedule: Schedule, steps: int | None) -> int:
    if steps is None:
        raise ScheduleError(
            f"{schedule} needs to know the number of steps; for a while_loop take "
            "Online(snapshots=...) or Memory(...)"
        )
    steps = operator.index(steps)
    if steps < 0:
        raise ScheduleError(f"the number of steps is negative: {steps}")
    return steps


def _binomial(
    steps: int, every: int, memory: int, disk: int = 0, directory: str | None = None
) -> Layout:
    """The layout for a known number of steps, with no more slots than are of use."""
    useful = max(-(-steps // every) - 1, 0)  # the last block is stored at once
    memory = min(memory, useful)
    disk = min(disk, useful - memory)
    return Layout(steps, min(every, max(steps, 1)), memory, disk, directory)


def _check(schedule: Schedule, name: str, least: int) -> None:
    """An integer parameter of at least ``least``."""
    value = getattr(schedule, name)
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ScheduleError(
            f"{type(schedule).__name__}({name}={value!r}): {name} is an integer, at least {least}"
        )
    object.__setattr__(schedule, name, number)
