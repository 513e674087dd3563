"""Rematerialisation: functions whose intermediates a reverse sweep computes again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from . import pytrees
from .checkpointing import Online, Schedule, TwoLevel
from .errors import ScheduleError
from .recording.recorder import active
from .recording.tracer import entrance, is_traced, lift, record, recorder_of, value_of
from .tape import Region

__all__ = ["checkpoint", "save_name"]


def checkpoint(
    f: Callable[..., Any],
    schedule: Schedule | None = None,
    save: str | Sequence[str] = (),
) -> Callable[..., Any]:
    """A function whose intermediates are not kept for the reverse sweep, but computed again.

    Called while a function is recorded, or on tensors, it marks what ``f`` does; gradients of the
    recorded function, or ``backward``, then need room for the intermediates of one marked call at a
    time, and run each of them (but the last) once more.  Values and gradients don't change, but for
    rounding where an elementwise chain is cut.  Called with plain values, it is ``f``.

    Parameters
    ----------
    f
        A function written in NumPy.  It may branch, loop, write in place and close over traced
        values as any other code.
    schedule
        Cuts the marked rows further: into (at most) 128 stretches, the steps of the schedule, as
        ``grad(f, checkpoint=schedule)`` cuts a whole function.
    save
        What is kept all the same: ``"matmuls"``, the results of matrix products, which cost most to
        compute again, and names given with :func:`save_name`; one or several.  Nothing by default.

    Returns
    -------
    callable
        With the arguments and results of ``f``.

    Raises
    ------
    ScheduleError
        For a schedule that is only for loops (``Online``, ``TwoLevel``).

    Notes
    -----
    Marked calls may contain marked calls: the inner ones are computed again once more for each
    call around them.  ``grad(f, checkpoint=...)`` cuts the whole tape by itself, whatever ``f``
    marks.  A derivative taken inside of a recording reads the intermediates as any later code
    does, so they are kept there.

    See Griewank and Walther, "Evaluating Derivatives", 2nd ed. (2008), section 12.2; Chen et al.
    2016, "Training deep nets with sublinear memory cost" (arXiv:1604.06174).

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> layer = tj.checkpoint(lambda x: np.tanh(np.sin(x) * np.cos(x)))
    >>> def f(x):
    ...     for _ in range(10):
    ...         x = layer(x)
    ...     return np.sum(x)
    >>> tj.grad(f)(np.ones(3)).shape
    (3,)
    """
    if not callable(f):
        raise TypeError(f"expected a function, got {type(f).__name__}")
    if schedule is not None and not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a schedule, as tapejit.Revolve(snapshots=10), not {schedule!r}"
        )
    if isinstance(schedule, (Online, TwoLevel)):
        raise ScheduleError(f"{schedule} is for loops (tapejit.scan, tapejit.while_loop)")
    if isinstance(save, str):
        save = (save,) if save else ()
    names = tuple(save) if isinstance(save, Iterable) else (save,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"save takes names, as 'matmuls' or those of save_name, not {save!r}")

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        rec = active()
        if rec is None:
            from .tensors.regions import marked

            leaves, _ = pytrees.flatten((args, kwargs))
            return marked(lambda: f(*args, **kwargs), leaves, names, schedule)
        first = rec.n_rows
        result = f(*args, **kwargs)
        if rec.n_rows > first:
            rec.regions.append(Region(first, rec.n_rows, names, schedule))
        return result

    return call


def save_name(x: Any, name: str) -> Any:
    """``x``, under a name by which ``checkpoint(f, save=name)`` keeps it.

    Parameters
    ----------
    x
        A number, an array, or a structure (pytree) of them.
    name
        Any name but ``"matmuls"``.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> def block(x):
    ...     return np.sin(tj.save_name(np.exp(x), "exp"))
    >>> tj.grad(lambda x: tj.checkpoint(block, save="exp")(x))(0.0) == np.cos(1.0)
    np.True_
    """
    if not isinstance(name, str) or name == "matmuls":
        raise ValueError(f"a name is a string other than 'matmuls', not {name!r}")
    leaves, structure = pytrees.flatten(x)
    return pytrees.unflatten(structure, [_named(leaf, name) for leaf in leaves])


def _named(leaf: Any, name: str) -> Any:
    if not is_traced(leaf):
        return leaf
    enter = entrance((leaf,))
    if enter is not None and active() is None:
        return enter(lambda x: _recorded(recorder_of(x), x, name), np.copy, (leaf,), {})
    return _recorded(active(), leaf, name)


def _recorded(rec: Any, leaf: Any, name: str) -> Any:
    leaf = lift(rec, leaf)
    return record(rec, "named", [leaf], np.copy(value_of(leaf)), (name,))
