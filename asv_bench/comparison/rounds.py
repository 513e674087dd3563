"""Agreement first, then interleaved timing: each round times every contender once."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from itertools import repeat
from statistics import median

import numpy as np
from workloads import Call, Workload

#: Largest difference between two gradients, relative to the largest entry of the array.
TOLERANCE = 1e-9


class Disagreement(Exception):
    """Two contenders gave different values or gradients."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, and seconds for each contender in each round."""

    rounds: int = 15
    seconds: float = 0.03
    #: A contender whose single call takes longer than this gets ``few_rounds`` only.
    slow_call: float = 0.1
    few_rounds: int = 2


QUICK = Effort(rounds=5, seconds=0.01, few_rounds=1)


def check(calls: dict[str, Call], workload: Workload) -> None:
    """Raise :class:`Disagreement` unless all give one value and gradient, at two points.

    The first contender with a gradient is the reference.
    """
    for seed in (None, 11):
        if seed is not None:
            workload.move(seed)
        results = {}
        for name, call in calls.items():
            value, gradient = call.read(call.function(*call.arguments))
            results[name] = value, gradient and [np.array(array) for array in gradient]
        _compare(results, workload.name)


def _compare(results: dict, title: str) -> None:
    reference = next((name for name, (_, gradient) in results.items() if gradient), None)
    if reference is None:
        return
    value, gradient = results[reference]
    for name, (other, other_gradient) in results.items():
        pairs = [(np.array([value]), np.array([other]))]
        if other_gradient is not None:
            pairs += zip(gradient, other_gradient, strict=True)
        for expected, found in pairs:
            error = _difference(expected, found)
            if not error <= TOLERANCE:
                raise Disagreement(
                    f"{title}: {name} and {reference} disagree by {error:.1e} (relative): "
                    f"{found.ravel()[:4]} against {expected.ravel()[:4]}"
                )


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.size != found.size:
        return np.inf
    scale = np.max(np.abs(expected), initial=np.finfo(float).tiny)
    return float(np.max(np.abs(found.ravel() - expected.ravel()), initial=0.0) / scale)


def seconds_of(call: Call, repetitions: int) -> float:
    """Seconds for one call, over a tight loop of ``repetitions``."""
    function, arguments = call.function, call.arguments
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in repeat(None, repetitions):
            function(*arguments)
        return (time.perf_counter() - start) / repetitions
    finally:
        if collecting:
            gc.enable()


def repetitions_for(call: Call, seconds: float) -> int:
    """How many calls fill ``seconds``; also warms the call up."""
    repetitions = 1
    while True:
        taken = seconds_of(call, repetitions) * repetitions
        if taken >= 0.2 * seconds:
            return max(1, round(repetitions * seconds / taken))
        repetitions *= 4


def interleave(calls: dict[str, Call], effort: Effort) -> dict[str, list[float]]:
    """Seconds for one call of each contender, round by round.

    The order rotates from round to round, so that no contender always follows the same one.
    """
    repetitions = {name: repetitions_for(call, effort.seconds) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(effort.rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            taken = times[name]
            if len(taken) >= effort.few_rounds and taken[-1] > effort.slow_call:
                continue
            taken.append(seconds_of(calls[name], repetitions[name]))
    return times


def ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of the contender's time by that of ``base`` in the same round."""
    return median(a / b for a, b in zip(times[name], times[base], strict=False))
