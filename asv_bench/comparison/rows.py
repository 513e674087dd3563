"""One row of the comparison: a workload, its contenders, their times, the bars."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from workloads import COMPARED, Bar, Workload

from .peers import CONTENDERS, Unsupported, build, installed, left_out
from .rounds import Disagreement, Effort, check, interleave, ratio
from .units import seconds, three_digits


@dataclass
class Row:
    """What was measured for one workload."""

    key: str
    title: str
    bars: tuple[Bar, ...]
    times: dict[str, list[float]] = field(default_factory=dict)
    build_seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    disagreement: str | None = None

    @property
    def base(self) -> str | None:
        """The contender that ratios refer to: tapejit, or the hand-written one without it."""
        return next((name for name in ("tapejit", "hand") if name in self.times), None)

    def cell(self, name: str) -> str:
        """Time and ratio of one contender."""
        if name in self.errors:
            return "ERROR"
        if name not in self.times:
            return self.left_out.get(name, "")
        text = seconds(median(self.times[name]))
        if self.base in (None, name):
            return text
        return f"{text} ({three_digits(ratio(self.times, name, self.base))}x)"

    def verdicts(self) -> list[tuple[str, float | None, bool | None]]:
        """For each bar: its text, tapejit's ratio to the peer, and whether that meets it."""
        found = []
        for bar in self.bars:
            factor = "" if bar.factor == 1 else f"{bar.factor:g} x "
            text = f"<= {factor}{bar.peer}"
            if "tapejit" in self.times and bar.peer in self.times:
                measured = ratio(self.times, "tapejit", bar.peer)
                found.append((text, measured, measured <= bar.factor))
            else:
                found.append((text, None, None))
        return found

    def bar_cell(self) -> str:
        """The bars and their verdicts as text."""
        if self.disagreement:
            return "GRADIENTS DISAGREE"
        words = {True: "met", False: "NOT MET", None: "not measured"}
        parts = []
        for text, measured, met in self.verdicts():
            number = "" if measured is None else f" ({three_digits(measured)}x)"
            parts.append(f"{text}: {words[met]}{number}")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "workload": self.key,
            "title": self.title,
            "seconds": {name: median(times) for name, times in self.times.items()},
            "rounds": self.times,
            "build_seconds": self.build_seconds,
            "bars": [
                {"bar": text, "ratio": measured, "met": met}
                for text, measured, met in self.verdicts()
            ],
            "errors": self.errors,
            "disagreement": self.disagreement,
        }


def measure(key: str, contenders: list[str], slow: bool, effort: Effort) -> Row:
    """Build all contenders of the workload ``key``, check them against each other, time them."""
    workload = COMPARED[key]()
    row = Row(key, workload.name, workload.bars)
    calls = _build_all(row, workload, contenders, slow)
    # The hand-written version is the reference where there is one.
    ordered = {name: calls[name] for name in sorted(calls, key=lambda name: name != "hand")}
    try:
        check(ordered, workload)
    except Disagreement as error:
        row.disagreement = str(error)
        return row
    row.times = interleave(calls, effort)
    return row


def _build_all(row: Row, workload: Workload, contenders: list[str], slow: bool) -> dict:
    calls = {}
    for name in contenders:
        if not installed(name):
            continue
        reason = left_out(name, workload, slow)
        if reason:
            row.left_out[name] = reason
            continue
        start = time.perf_counter()
        try:
            call = build(name, workload)
            call.function(*call.arguments)
        except Unsupported:
            continue
        except Exception:
            row.errors[name] = (
                f"{CONTENDERS[name][1]} on {row.title}:\n{traceback.format_exc(limit=-5)}"
            )
            continue
        row.build_seconds[name] = time.perf_counter() - start
        calls[name] = call
    return calls
