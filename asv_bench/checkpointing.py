"""Bars of checkpointing: memory and time of gradients of long loops.

    python asv_bench/checkpointing.py            all of them (JAX is compared where it is installed)
    python asv_bench/checkpointing.py steps      10^6 steps of 8 numbers with 50 snapshots
    python asv_bench/checkpointing.py heat       a heat equation against JAX's nested scans
    python asv_bench/checkpointing.py limits     workspace and process memory under limits

Times are the best of alternating calls in one run, on one thread.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tapejit as tj

MEGABYTE = 10**6


def best_of(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each call, the best of alternating rounds."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name] = min(found[name], time.perf_counter() - began)
    return found


def report(what: str, measured: float, bar: float, unit: str) -> None:
    """One line: a figure against its bar."""
    verdict = "ok" if measured <= bar else "MISSED"
    print(f"{what:<58}{measured:>12.4g}  <= {bar:<10.4g}{unit:<4}{verdict}")


# --- process memory -------------------------------------------------------------------------------


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def growth(prepare: Callable[[], Any], call: Callable[[], Any]) -> int:
    """How far the peak of resident memory rises above what ``prepare`` leaves."""
    prepare()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is the present size now
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def apart(*arguments: Any) -> list[str]:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


# --- a million steps ------------------------------------------------------------------------------


def chain(x: Any, steps: int, schedule: tj.checkpointing.Schedule | None) -> Any:
    """A ring of eight coupled oscillating numbers."""

    def step(x: Any, _: Any) -> tuple[Any, None]:
        new = [x[k] + 1e-3 * (np.sin(x[(k + 1) % 8]) - 0.1 * x[k]) for k in range(8)]
        return np.array(new), None

    return np.sum(tj.scan(step, x, None, length=steps, checkpoint=schedule)[0] ** 2)


def steps_bar() -> None:
    x, short, n = np.linspace(0.1, 0.8, 8), 10_000, 10**6
    long = tj.grad(lambda x: chain(x, n, tj.Revolve(50)))
    stored = tj.grad(lambda x: chain(x, short, None))
    _, pull = tj.vjp(lambda x: chain(x, short, None), x)
    plan = tj.checkpoint_plan(long, x).loops[0]
    calls = {"stored": lambda: stored(x), "reverse": lambda: pull(1.0), "long": lambda: long(x)}
    best_of(calls, 1)
    seconds = best_of(calls, 3)
    back = seconds["reverse"] / short
    forward = seconds["stored"] / short - back
    bar = 1.3 * n * (plan.recompute_factor * forward + back)
    report("10^6 steps, Revolve(50): seconds", seconds["long"], bar, "s")
    report("10^6 steps, Revolve(50): growth of memory", float(apart("grow-steps")[0]), 64e6, "B")


def grow_steps() -> None:
    x = np.linspace(0.1, 0.8, 8)
    long = tj.grad(lambda x: chain(x, 10**6, tj.Revolve(50)))
    print(growth(lambda: None, lambda: long(x)))


# --- the heat equation ----------------------------------------------------------------------------


def heat_step(u: Any, rate: Any) -> Any:
    """The change of the inner points of a plate."""
    inner = u[1:-1, 1:-1]
    around = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2]
    return inner + rate * (around - 4.0 * inner)


def heat_bar(points: int = 256, steps: int = 10_000, snapshots: int = 150) -> None:
    rng = np.random.default_rng(0)
    start, target = rng.normal(size=(points, points)), 0.1 * rng.normal(size=(points, points))

    def loss(u: Any, rate: Any) -> Any:
        def step(u: Any, _: Any) -> tuple[Any, None]:
            new = u.copy()
            new[1:-1, 1:-1] = heat_step(u, rate)
            return new, None

        last, _ = tj.scan(step, u, None, length=steps, checkpoint=tj.Revolve(snapshots))
        return np.mean((last - target) ** 2)

    ours = tj.value_and_grad(loss, (0, 1))
    taken = tj.checkpoint_plan(ours, start, 0.2).workspace_bytes
    value, gradients = ours(start, 0.2)
    name = f"heat {points}x{points}, {steps} steps"
    try:
        theirs, temporary = heat_in_jax(start, target, steps)
    except ImportError:
        print(f"{name}: {taken / MEGABYTE:.1f} MB; JAX is not installed")
        return
    other, others = theirs()
    np.testing.assert_allclose(other, value, rtol=1e-9)
    for mine, his in zip(gradients, others, strict=True):
        np.testing.assert_allclose(his, mine, rtol=1e-6, atol=1e-12)
    seconds = best_of({"tapejit": lambda: ours(start, 0.2), "jax": theirs}, 2)
    report(f"{name}: bytes", taken, temporary, "B")
    report(f"{name}: seconds", seconds["tapejit"], 1.5 * seconds["jax"], "s")


def heat_in_jax(start: Any, target: Any, steps: int) -> tuple[Callable[[], Any], int]:
    """JAX's gradient with two nested scans, both checkpointed, and its temporary bytes."""
    import jax

    jax.config.update("jax_enable_x64", True)
    root = round(steps**0.5)

    def loss(u: Any, rate: Any) -> Any:
        body = jax.checkpoint(lambda u, _: (u.at[1:-1, 1:-1].set(heat_step(u, rate)), None))
        outer = jax.checkpoint(lambda u, _: (jax.lax.scan(body, u, None, length=root)[0], None))
        last, _ = jax.lax.scan(outer, u, None, length=steps // root)
        return jax.numpy.mean((last - target) ** 2)

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(start, 0.2).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return lambda: jax.block_until_ready(compiled(start, 0.2)), temporary


# --- limits ---------------------------------------------------------------------------------------


def vectors(x: Any) -> Any:
    """A loop over long vectors."""
    step = lambda c, _: (np.sin(c) * np.cos(c) + 0.1 * c, None)  # noqa: E731
    return np.sum(tj.scan(step, x, None, length=1000)[0])


def layers(x: Any) -> Any:
    """Straight code: 200 elementwise layers."""
    for _ in range(200):
        x = np.tanh(x) * np.exp(-x * x) + 0.1 * x
    return np.sum(x)


def oscillator(x: Any) -> Any:
    """Straight scalar code."""
    a, b = x[0], x[1]
    for _ in range(20_000):
        a, b = a + 1e-3 * b, b - 1e-3 * np.sin(a)
    return a * b


PROGRAMS = {
    "vectors": (vectors, 20_000, (20, 50, 200)),
    "layers": (layers, 100_000, (50, 80, 200)),
    "oscillator": (oscillator, 2, (0.05, 0.2, 0.6)),
}


def limits_bar() -> None:
    for name, (_, _, limits) in PROGRAMS.items():
        for limit in limits:
            allowed = int(limit * MEGABYTE)
            workspace, grown = map(int, apart("grow-limit", name, allowed))
            report(f"{name} within {limit} MB: workspace", workspace, allowed, "B")
            report(f"{name} within {limit} MB: growth", grown, 1.1 * allowed + 8e6, "B")


def grow_limit(name: str, limit: str) -> None:
    function, size, _ = PROGRAMS[name]
    x = np.linspace(0.1, 1.0, size)
    gradient = tj.grad(function, checkpoint=tj.Memory(int(limit)))
    plan = tj.checkpoint_plan(gradient, x)
    tj.grad(lambda x: np.sum(np.tanh(x)))(x)  # kernels and NumPy's own memory are there already
    print(plan.workspace_bytes, growth(lambda: None, lambda: gradient(x)))


def main(which: str = "all", *arguments: str) -> None:
    if which == "grow-steps":
        grow_steps()
    elif which == "grow-limit":
        grow_limit(*arguments)
    else:
        for name, bar in (("steps", steps_bar), ("heat", heat_bar), ("limits", limits_bar)):
            if which in ("all", name):
                bar()


if __name__ == "__main__":
    main(*sys.argv[1:])
