"""Measuring what an evaluation costs."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def median_seconds(function: Callable[..., Any], *args: Any, budget: float = 0.3) -> float:
    """Return the median duration of ``function(*args)`` in seconds.

    Parameters
    ----------
    budget : float
        Seconds to spend; at least three calls are made whatever they take.
    """
    durations: list[float] = []
    end = time.perf_counter() + budget
    while len(durations) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        function(*args)
        durations.append(time.perf_counter() - began)
    return statistics.median(durations)


def seconds_since_process_start() -> float | None:
    """Return the age of this process in seconds, or None where the system does not tell.

    Read from Linux's ``/proc`` (field 22 of ``stat``, to a hundredth of a second): unlike a clock
    read at the top of a program, it counts the start of Python and all imports.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def readable(seconds: float) -> str:
    """Return a duration with three significant digits and a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
