"""Exceptions and warnings that users meet; every message names a line, shapes and a remedy."""

from __future__ import annotations

__all__ = [
    "GuardOverflowWarning",
    "LoopLimitError",
    "ReplayMismatchError",
    "RuleError",
    "ScheduleError",
    "SideEffectWarning",
    "TapejitError",
    "TraceError",
    "TracedShapeError",
    "TracerLeakError",
    "UnsupportedError",
]


class TapejitError(Exception):
    """Base class of the library's own exceptions."""


class TraceError(TapejitError, TypeError):
    """A traced value was used in a way that cannot be recorded."""


class LoopLimitError(TapejitError, RuntimeError):
    """A ``while_loop`` has not ended after ``max_steps`` steps."""


class TracerLeakError(TraceError):
    """A traced value was used after its recording ended, or in another thread."""


class UnsupportedError(TapejitError, NotImplementedError):
    """An operation without a rule."""


class RuleError(TapejitError, ValueError):
    """A user's rule or kernel: missing, of the wrong shape or number of results, or wrong."""


class TracedShapeError(TraceError, IndexError):
    """The shape of a result would depend on traced data."""


class ReplayMismatchError(TapejitError, RuntimeError):
    """``check=True``: a replay differs from the Python function."""


class ScheduleError(TapejitError, ValueError):
    """A checkpointing schedule that can't be carried out: too few snapshots, too little memory."""


class SideEffectWarning(UserWarning):
    """The body of a staged loop or branch changes Python's state, which happens only once."""


class GuardOverflowWarning(UserWarning):
    """A function keeps taking new branches and is recorded anew at each call."""
