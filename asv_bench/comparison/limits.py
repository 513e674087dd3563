"""The bars that are not ratios between contenders: costs of tapejit by themselves."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from workloads import (
    Call,
    Irregular,
    Logistic,
    LotkaVolterra,
    Mixture,
    Mlp,
    RosenbrockVectors,
    ShortArrays,
    Small,
)

from tapejit.interpreters.entry import BIND, OBJECT, RUN_FORWARD, RUN_REVERSE
from tapejit.passes import DEFAULT
from tapejit.program import Program

from .peers import build, installed, temporary_bytes
from .rounds import Effort, check, interleave
from .units import seconds, three_digits

BENCH = Path(__file__).resolve().parent.parent
REPOSITORY = BENCH.parent


@dataclass(frozen=True)
class Limit:
    """One measured figure against its bar (``None``: for information)."""

    name: str
    measured: float
    bar: float | None
    unit: str = "s"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the figure is within its bar."""
        return None if self.bar is None else self.measured <= self.bar

    def _text(self, value: float) -> str:
        if self.unit == "s":
            return seconds(value)
        return f"{value:.0f} B" if self.unit == "B" else f"{three_digits(value)} {self.unit}"

    def cells(self) -> list[str]:
        """Name, figure, bar, verdict, note."""
        bar = "" if self.bar is None else f"<= {self._text(self.bar)}"
        verdict = {None: "", True: "met", False: "NOT MET"}[self.met]
        return [self.name, self._text(self.measured), bar, verdict, self.note]


def _tapejit() -> Any:
    return importlib.import_module("tapejit")


def call_cost(effort: Effort) -> list[Limit]:
    """sum(sin(x)*x) of four numbers, with a fresh gradient array and into a given one."""
    workload = Small()
    gradient = _tapejit().value_and_grad(workload.function(np))
    buffer = np.empty_like(workload.point)
    calls = {
        "fresh": build("tapejit", workload),
        "out": Call(lambda x: gradient(x, out=buffer), (workload.point,), lambda _: (0.0, None)),
        "empty": Call(lambda x: x, (workload.point,), lambda _: (0.0, None)),
    }
    for call in calls.values():  # record, and settle on the short way
        for _ in range(3):
            call.function(*call.arguments)
    times = {name: median(found) for name, found in interleave(calls, effort).items()}
    return [
        Limit("one call, n=4", times["fresh"], 1.5e-6),
        Limit("one call, n=4, out=", times["out"] - times["empty"], 0.8e-6),
    ]


def first_gradient(effort: Effort) -> list[Limit]:
    """From a Python function to its first gradient, kernels in memory.

    Each repetition takes another number of steps, so that no program is met again.
    """
    repetitions = 5 if effort.rounds > 5 else 3
    LotkaVolterra(10).hand()
    build("tapejit", LotkaVolterra(10)).function(LotkaVolterra(10).point)
    limits = []
    for name, bar in (("tapejit", 0.25), ("casadi", None)):
        if not installed(name):
            continue
        taken = []
        for repetition in range(repetitions):
            workload = LotkaVolterra(1000 + repetition)
            start = time.perf_counter()
            call = build(name, workload)
            call.function(*call.arguments)
            taken.append(time.perf_counter() - start)
        limits.append(Limit(f"Lotka–Volterra, first gradient: {name}", median(taken), bar))
    return limits


def recording(effort: Effort) -> list[Limit]:
    """Seconds to record one scalar node and one array operation."""
    tj = _tapejit()
    repetitions = 5 if effort.rounds > 5 else 3
    loop, arrays = LotkaVolterra(), ShortArrays(10_000)
    limits = []
    for name, workload, count, bar in (
        ("one scalar node", loop, loop.nodes, 2e-6),
        ("one array operation", arrays, arrays.size, 15e-6),
    ):
        function, taken = workload.function(np), []
        for _ in range(repetitions):
            start = time.perf_counter()
            tape = tj.trace(function, workload.point)
            taken.append((time.perf_counter() - start) / count)
        note = f"{len(tape)} instructions for {count} operations"
        limits.append(Limit(f"recording: {name}", median(taken), bar, note=note))
    return limits


def short_arrays(effort: Effort) -> list[Limit]:
    """Mean seconds of one instruction on vectors of 14, forward and reverse."""
    small = ShortArrays(2_000)
    check({name: build(name, small) for name in ("autograd", "tapejit") if installed(name)}, small)
    workload = ShortArrays()
    function = workload.function(np)
    forward = Call(_tapejit().jit(function), (workload.point,), lambda v: (float(v), None))
    both = build("tapejit", workload)
    times = interleave({"forward": forward, "both": both}, effort)
    reverse = median(b - f for b, f in zip(times["both"], times["forward"], strict=True))
    return [
        Limit("vectors of 14, forward, per op", median(times["forward"]) / workload.size, 40e-9),
        Limit(
            "vectors of 14, reverse, per op",
            reverse / workload.size,
            45e-9,
            note="value and gradient less value",
        ),
    ]


def passes(effort: Effort) -> list[Limit]:
    """Seconds of all passes on a tape of 10^6 rows, and by row against a tape of 10^5."""
    tj = _tapejit()
    repetitions = 5 if effort.rounds > 5 else 3
    taken, rows = [], []
    for workload in (LotkaVolterra(1_800), LotkaVolterra(18_000), Irregular(10**6)):
        tape = tj.trace(workload.function(np), workload.point)
        found = []
        for _ in range(repetitions):
            start = time.perf_counter()
            optimized = tape.optimize()
            found.append(time.perf_counter() - start)
        taken.append(median(found))
        rows.append(f"{len(tape)} rows become {len(optimized)}")
    growth = taken[1] / taken[0] / 10.0
    return [
        Limit("all passes, loop of 10^6 nodes", taken[1], 2.0, note=rows[1]),
        Limit("all passes, 10^6 nodes in random order", taken[2], 2.0, note=rows[2]),
        Limit("all passes, per node, 10^6 to 10^5 nodes", growth, 2.5, "x", "caches"),
    ]


def derivative_tapes(effort: Effort) -> list[Limit]:
    """Seconds to record a function and to derive the tape of its gradient, and of the second."""
    tj = _tapejit()
    repetitions = 5 if effort.rounds > 5 else 3
    workload = LotkaVolterra()
    tj.gradient_tape(tj.trace(LotkaVolterra(10).function(np), workload.point))
    first, second = [], []
    for _ in range(repetitions):
        start = time.perf_counter()
        gradient = tj.gradient_tape(tj.trace(workload.function(np), workload.point))
        first.append(time.perf_counter() - start)
        start = time.perf_counter()
        jvp = tj.jvp_tape(gradient)
        second.append(time.perf_counter() - start)
    return [
        Limit("gradient tape of Lotka–Volterra, recorded and derived", median(first), 0.5,
              note=f"{len(gradient)} instructions"),
        Limit("its pushforward", median(second), None, note=f"{len(jvp)} instructions"),
    ]  # fmt: skip


def scheduling(effort: Effort) -> list[Limit]:
    """Value and gradient of 10^5 scalar nodes in random order, sorted against as recorded."""
    tj = _tapejit()
    workload = Irregular()
    tape = tj.trace(workload.function(np), workload.point)
    unsorted = [name for name in DEFAULT if name != "schedule"]
    programs = {
        "sorted": Program(tape, (0,), "gradient", True),
        "as recorded": Program(tape, (0,), "gradient", True, passes=unsorted),
    }
    times = interleave({name: _sweeps(p, workload) for name, p in programs.items()}, effort)
    ratio = median(a / b for a, b in zip(times["sorted"], times["as recorded"], strict=True))
    note = ", ".join(
        f"{name} {seconds(median(found) / len(programs[name].tape) / 2)}"
        for name, found in times.items()
    )
    return [
        Limit("random order, sorted to as recorded", ratio, 0.6, "x", f"{note} a row and sweep")
    ]


def _sweeps(program: Program, workload: Irregular) -> Call:
    """Bind, forward and reverse sweep of a program of one array."""
    workspace = program.checkout()
    workspace.parameters[0, OBJECT] = id(workload.point)
    return Call(workspace.run, (BIND | RUN_FORWARD | RUN_REVERSE,), lambda _: (0.0, None))


def workspaces(effort: Effort) -> list[Limit]:
    """Bytes of values and adjoints beyond arguments, results and constants, against JAX's."""
    limits = []
    for workload in (Mlp(), Mixture()):
        gradient = _tapejit().value_and_grad(workload.function(np))
        gradient(workload.point)
        (variant,) = gradient.__tapejit__.variants.values()
        figure = variant.program(variant.trie.last).work_bytes
        bar, note = None, ""
        if installed("jax"):
            theirs = temporary_bytes(workload)
            bar, note = 1.5 * theirs, f"JAX {theirs} B"
        limits.append(Limit(f"work space: {workload.name}", float(figure), bar, "B", note))
    return limits


def growth(effort: Effort) -> list[Limit]:
    """Time for a node on tapes of 10^4, 10^5 and 10^6 nodes: the largest by the smallest."""
    per_node = []
    for steps in (180, 1_800, 18_000):
        workload = LotkaVolterra(steps)
        times = interleave({"tapejit": build("tapejit", workload)}, effort)["tapejit"]
        per_node.append(median(times) / workload.nodes)
    note = ", ".join(seconds(value) for value in per_node) + " a node"
    return [
        Limit("growth per node, 10^4 to 10^6 nodes", per_node[-1] / per_node[0], 1.5, "x", note)
    ]


def allocation(effort: Effort) -> list[Limit]:
    """Bytes allocated by a replay with ``out=`` beyond what it returns."""
    limits = []
    for workload in (LotkaVolterra(), Logistic(), RosenbrockVectors(10**6)):
        gradient = _tapejit().value_and_grad(workload.function(np))
        buffer = np.empty_like(workload.point)
        python, arrays = allocated(lambda g=gradient, w=workload, b=buffer: g(w.point, out=b))
        note = f"{arrays} Numba allocations; Python objects while it runs: {python} B"
        # A call's own Python objects (argument tuple, boxed numbers) are not array memory.
        figure = 0.0 if python < 1024 and not arrays else max(python, float(arrays))
        limits.append(Limit(f"allocated by a replay: {workload.name}", figure, 0.0, "B", note))
    return limits


def allocated(call: Callable[[], Any]) -> tuple[int, int]:
    """Peak bytes of one call beyond its result (tracemalloc), and Numba's allocations."""
    from numba.core.runtime import _nrt_python, rtsys

    for _ in range(5):
        call()
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats().alloc
        call()
        numba_allocations = rtsys.get_allocation_stats().alloc - before
    finally:
        _nrt_python.memsys_disable_stats()
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        result = call()
        returned, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return max(0, peak - max(start, returned)), numba_allocations


def process_start(effort: Effort) -> list[Limit]:
    """From the start of a process to the first gradient, caches warm and empty."""
    repetitions = 5 if effort.rounds > 5 else 3
    start_process()
    warm = median(start_process() for _ in range(repetitions))
    empty = start_process(empty_cache=True)
    return [
        Limit("process start to first gradient, warm", warm, 1.0),
        Limit("process start to first gradient, empty cache", empty, 15.0),
    ]


def start_process(empty_cache: bool = False) -> float:
    """Seconds from starting ``first_gradient.py`` to its first gradient."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if empty_cache:
            environment |= {"TAPEJIT_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, str(BENCH / "first_gradient.py"), str(time.time())]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=REPOSITORY
        )
    if done.returncode:
        raise RuntimeError(f"first_gradient.py failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def _timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _tensor_call(function: Callable[[Any], Any], point: np.ndarray) -> Callable[[], Any]:
    """Forward and backward with tensors, from and to NumPy arrays."""
    tj = _tapejit()

    def call() -> tuple[float, np.ndarray]:
        x = tj.tensor(point, requires_grad=True)
        y = function(x)
        y.backward()
        return y.item(), x.grad.numpy()

    return call


def tensors(effort: Effort) -> list[Limit]:
    """Define-by-run: small arrays against PyTorch, a scalar loop, its sweeps against the replay."""
    return [*_small_tensors(effort), *_long_tensors(effort)]


def _small_tensors(effort: Effort) -> list[Limit]:
    small = Small()
    ours = _tensor_call(small.function(np), small.point)
    calls = {"tensors": Call(ours, (), lambda pair: (pair[0], [pair[1]]))}
    if installed("torch"):
        calls["torch"] = build("torch", small)
    check(calls, small)
    times = interleave(calls, effort)
    limits = [Limit("tensors: sum(sin(x)*x), n=4", median(times["tensors"]), None)]
    if "torch" in times:
        pairs = zip(times["tensors"], times["torch"], strict=True)
        ratio = median(a / b for a, b in pairs)
        limits.append(Limit("tensors: the same, ratio to PyTorch", ratio, 1 / 3, unit=""))
    return limits


def _long_tensors(effort: Effort) -> list[Limit]:
    repetitions = 5 if effort.rounds > 5 else 3
    tj = _tapejit()
    plans = importlib.import_module("tapejit.tensors.plans")
    _tensor_call(LotkaVolterra(10).function(np), LotkaVolterra(10).point)()
    first = [  # each with another number of steps: no structure is met again
        _timed(_tensor_call(LotkaVolterra(1000 + k).function(np), LotkaVolterra().point))
        for k in range(repetitions)
    ]
    loop = LotkaVolterra()
    function = loop.function(np)
    call = _tensor_call(function, loop.point)
    call()
    again = [_timed(call) for _ in range(repetitions)]
    y = function(tj.tensor(loop.point, requires_grad=True))
    pieces = plans.pieces_of([y.rec])
    plan = plans.plan_for(pieces, [(pieces.index(y.rec), y.view)], (), scalar_seed=True)
    arguments = plan.arguments(pieces, ())
    replay = tj.value_and_grad(function)
    replay(loop.point)
    ratios = []
    for _ in range(10 * repetitions):
        sweeps = _timed(lambda: plan.swept(arguments, None))
        ratios.append(sweeps / _timed(lambda: replay(loop.point)))
    return [
        Limit("tensors: Lotka–Volterra, the first time", median(first), 0.3),
        Limit("tensors: Lotka–Volterra, structure known", median(again), 0.15),
        Limit("tensors: its sweeps, ratio to the replay", median(ratios), 1.5, unit=""),
    ]


#: The groups of figures, by the name that selects them.
LIMITS: dict[str, Callable[[Effort], list[Limit]]] = {
    "call-cost": call_cost,
    "first-gradient": first_gradient,
    "recording": recording,
    "short-arrays": short_arrays,
    "passes": passes,
    "derivative-tapes": derivative_tapes,
    "scheduling": scheduling,
    "workspaces": workspaces,
    "growth": growth,
    "allocation": allocation,
    "process-start": process_start,
    "tensors": tensors,
}
