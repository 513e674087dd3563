"""tapejit side by side with JAX, CasADi, PyTorch, HIPS autograd and hand-written Numba.

    python asv_bench/compare.py [--only NAME ...] [--peers jax,casadi] [--quick] [--slow]
                                [--json FILE]

Gradients are checked against each other first, at two points; then every round times each
contender once, so that noise hits all alike.  Times are medians over rounds of one value and
gradient, from NumPy arrays to NumPy arrays, on one thread; in brackets the ratio to tapejit
(median of the ratios within rounds).  The exit status is 1 if gradients disagree or if tapejit
raises, 0 otherwise, bars met or not.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from comparison.limits import LIMITS, Limit
from comparison.peers import CONTENDERS, installed
from comparison.rounds import QUICK, Effort
from comparison.rows import Row, measure
from comparison.units import table
from workloads import COMPARED


def main() -> int:
    """Measure, print, and say whether anything went wrong."""
    options = _options()
    effort = QUICK if options.quick else Effort()
    names = options.only or [*COMPARED, *LIMITS]
    rows = [
        _announced(name, lambda name=name: measure(name, options.peers, options.slow, effort))
        for name in names
        if name in COMPARED
    ]
    limits, failures = _limits([name for name in names if name in LIMITS], effort)
    print()
    if rows:
        print(_rows_table(rows), end="\n\n")
    if limits:
        header = ["tapejit alone", "measured", "bar", "", ""]
        print(table(header, [limit.cells() for limit in limits]), end="\n\n")
    _footer(rows, options.peers, failures)
    if options.json:
        options.json.write_text(json.dumps(_as_json(rows, limits, failures), indent=1))
    wrong = failures or any(row.disagreement or "tapejit" in row.errors for row in rows)
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    known = [*COMPARED, *LIMITS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", choices=known, metavar="NAME", help=f"one of {', '.join(known)}"
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=list(CONTENDERS),
        help=f"comma-separated, of {', '.join(CONTENDERS)}; tapejit always takes part",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--slow", action="store_true", help="also contenders that take minutes to build or run"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def _peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(CONTENDERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return [name for name in CONTENDERS if name == "tapejit" or name in names]


def _announced(name: str, job: Callable[[], Any]) -> Any:
    """Run ``job``, naming it on a terminal meanwhile."""
    if not sys.stderr.isatty():
        return job()
    print(f"\r\033[K{name} ...", end="", file=sys.stderr, flush=True)
    try:
        return job()
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _limits(names: list[str], effort: Effort) -> tuple[list[Limit], list[str]]:
    """The figures of each group; a group that raises is reported, and the others go on."""
    limits: list[Limit] = []
    failures = []
    if not installed("tapejit"):
        return limits, failures
    for name in names:
        try:
            limits += _announced(name, lambda name=name: LIMITS[name](effort))
        except Exception:
            failures.append(f"{name}:\n{traceback.format_exc(limit=-5)}")
    return limits, failures


def _rows_table(rows: list[Row]) -> str:
    shown = [name for name in CONTENDERS if any(name in row.times | row.errors for row in rows)]
    header = [
        "value and gradient, or second derivative",
        *(CONTENDERS[name][1] for name in shown),
        "bar",
    ]
    lines = [[row.title, *(row.cell(name) for name in shown), row.bar_cell()] for row in rows]
    return table(header, lines)


def _footer(rows: list[Row], peers: list[str], failures: list[str]) -> None:
    absent = [CONTENDERS[name][1] for name in peers if not installed(name)]
    if absent:
        print(f"Not installed, left out: {', '.join(absent)}.")
    if any(row.left_out for row in rows):
        print('"slow": takes long to build or to run, included with --slow.  "-": not practical.')
    if rows and not any("tapejit" in row.times for row in rows):
        print("tapejit gave no figures: ratios are to the hand-written versions.")
    for text in [error for row in rows for error in row.errors.values()] + failures:
        print(f"\nERROR in {text}")
    for row in rows:
        if row.disagreement:
            print(f"\nGRADIENTS DISAGREE: {row.disagreement}")


def _as_json(rows: list[Row], limits: list[Limit], failures: list[str]) -> dict:
    return {
        "machine": {"processor": platform.processor(), "python": platform.python_version()},
        "workloads": [row.as_json() for row in rows],
        "limits": [{**vars(limit), "met": limit.met} for limit in limits],
        "failures": failures,
    }


if __name__ == "__main__":
    raise SystemExit(main())
