"""Memory: replays allocate what they return, tapes grow with the work, programs are freed."""

import gc
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

import tapejit as tj
from tapejit import compiled

C = np.linspace(0.0, 1.0, 3000)


def dense(x):
    y = np.tanh(x * C[: len(x)])
    return np.dot(y, x) + np.sum(np.exp(-y * y))


def loop(x):
    total = 0.0
    for i in range(4):
        total = total + np.sin(x[i]) * x[i] if x[i] > -100.0 else total
    return total


@pytest.fixture
def numba_statistics():
    before = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    yield rtsys.get_allocation_stats
    if not before:
        _nrt_python.memsys_disable_stats()


CASES = [(dense, 8), (dense, 3000), (loop, 4)]


@pytest.mark.parametrize(("f", "n"), CASES)
def test_a_replay_allocates_nothing_in_numba(f, n, numba_statistics):
    x, buffer = np.linspace(0.1, 1.0, n), np.empty(n)
    g, h = tj.value_and_grad(f), tj.jit(f)
    _, pullback = tj.vjp(h, x)
    for _ in range(3):
        g(x, out=buffer), h(x), pullback(1.0)
    before = numba_statistics()
    for _ in range(100):
        g(x, out=buffer), h(x), pullback(1.0)
    assert numba_statistics() == before


def allocated(run, times):
    """(bytes kept, most bytes at a time) that ``times`` calls of ``run`` take from Python.

    The least of three measurements: what ``run`` allocates is in each of them; what other threads,
    or finalisers of garbage that earlier tests left, allocate meanwhile is not.
    """
    kept, most = [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            tracemalloc.start()
            run()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            for _ in range(times):
                run()
            after, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            kept.append(after - before)
            most.append(peak - before)
    finally:
        tracemalloc.stop()
        gc.enable()
    return min(kept), min(most)


@pytest.mark.parametrize(("f", "n"), CASES)
def test_a_replay_into_a_buffer_allocates_nothing_in_python(f, n):
    x, buffer = np.linspace(0.1, 1.0, n), np.empty(n)
    g = tj.value_and_grad(f)
    for _ in range(10):
        g(x, out=buffer)
    kept, most = allocated(lambda: g(x, out=buffer), 1000)
    assert kept < 200
    # Under a tracer (of coverage) each call of a Python function makes a frame object.
    assert most < (500 if sys.gettrace() is None else 1000)


def test_a_replay_without_a_buffer_allocates_the_gradient_alone():
    x = np.linspace(0.1, 1.0, 3000)
    g = tj.grad(dense)
    g(x), g(x)
    _, most = allocated(lambda: g(x), 100)
    assert x.nbytes <= most < x.nbytes + 1000


def test_several_buffers_allocate_nothing_either():
    x = np.linspace(0.1, 1.0, 3000)
    g = tj.grad(lambda a, b: np.sum(a * b * b), argnums=(0, 1))
    out = (np.empty(3000), np.empty(3000))
    for _ in range(10):
        g(x, x, out=out)
    kept, most = allocated(lambda: g(x, x, out=out), 100)
    assert kept < 500
    assert most < 2000


def program_of(f):
    (variant,) = f.__tapejit__.variants.values()
    return variant.program(variant.trie.last)


def test_one_workspace_serves_repeated_calls():
    g = tj.grad(lambda x: x * np.sin(x) if x > 0 else x)
    for x in (1.0, -1.0, 2.0) * 5:
        g(x)
    (variant,) = g.__tapejit__.variants.values()
    for path in variant.trie.paths.values():
        shortcut = path.programs["shortcut"]
        assert len(shortcut.pool) <= 1
        assert len(path.programs["program"]._pool) <= 2


def test_memory_of_endless_paths_is_bounded(monkeypatch):
    """Paths beyond the limit go, then none are kept: memory stops growing."""
    monkeypatch.setattr(compiled, "MAX_PATHS", 8)
    monkeypatch.setattr(compiled, "MAX_MISSES", 16)
    g = tj.grad(lambda x, n: x * int(n))
    tracemalloc.start()
    with pytest.warns(tj.GuardOverflowWarning):
        for n in range(20):
            g(1.0, n)
    sizes = []
    for part in range(4):
        for n in range(50):
            assert g(1.0, 1000 * part + 100 + n) == 1000 * part + 100 + n
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    # Fifty paths that are kept take hundreds of kilobytes, in each part alike; NumPy's and Python's
    # pools of small blocks fill up slowly, and what else the process does is not in each part.
    assert min(np.diff(sizes)) < 20_000
    (variant,) = g.__tapejit__.variants.values()
    assert len(variant.trie.paths) <= 8
    assert len(variant.trie.by_fingerprint) <= 8


def fill(x):
    out = np.zeros_like(x)
    for i in range(len(x)):
        out[i] = x[i] * x[i]
    return np.sum(out)


def overwrite(x):
    """Every element is read before it is overwritten."""
    out = x * 1.0
    for i in range(len(x)):
        out[i] = out[i] * out[i]
    return np.sum(out)


def accumulate(x):
    out = x * 1.0
    out += x
    for i in range(1, len(x)):
        out[i] += out[i - 1]
    return out[-1]


@pytest.mark.parametrize("f", [fill, overwrite, accumulate])
def test_filling_an_array_in_a_loop_is_linear(f):
    """Code words and arena at n and 2n: twice as much, and a fixed part."""

    def cost(n):
        g = tj.grad(f)
        x = np.linspace(0.5, 1.5, n)
        gradient = g(x)
        program = program_of(g)
        code = program.code
        return gradient, np.array(
            [len(code.forward), len(code.reverse), code.arena_size, len(program.tape.code)]
        )

    _, one = cost(2500)
    gradient, two = cost(5000)
    _, four = cost(10000)
    assert np.all(np.abs((four - two) - 2 * (two - one)) <= 64)
    assert np.all(two <= 60 * 5000)
    x = np.linspace(0.5, 1.5, 5000)
    want = 2.0 * x if f is not accumulate else np.full(5000, 2.0)
    np.testing.assert_allclose(gradient, want)


def test_filling_a_hundred_thousand_elements():
    x = np.linspace(0.5, 1.5, 100_000)
    value, gradient = tj.value_and_grad(fill)(x)
    assert value == pytest.approx(np.sum(x * x))
    np.testing.assert_array_equal(gradient, 2.0 * x)


def test_recording_writes_takes_memory_by_the_element():
    def peak(n):
        x = np.linspace(0.5, 1.5, n)
        tracemalloc.start()
        tj.grad(fill)(x)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(100)
    few = peak(4000)
    assert few < 4000 * 3000
    assert peak(8000) < 2.5 * few


def test_programs_go_with_their_function():
    g = tj.grad(lambda x: np.sum(np.cos(x) * 1.2345))
    h = tj.grad(lambda x: np.sum(np.cos(x) * 1.2345))
    g(np.ones(3)), h(np.ones(3))
    gone = weakref.ref(program_of(g))
    del g
    gc.collect()
    assert gone() is not None  # the other function's
    del h
    gc.collect()
    assert gone() is None


def test_a_function_in_a_loop_leaves_nothing_behind():
    def once(k):
        assert tj.grad(lambda x: np.sum(x * float(k)))(np.ones(2))[0] == k

    for k in range(10):
        once(k)
    gc.collect()
    before = len(tj.program._interned)
    for k in range(100, 150):
        once(k)
    gc.collect()
    assert len(tj.program._interned) <= before + 1


def test_arguments_are_not_kept_alive():
    g, f = tj.grad(dense), tj.jit(dense)
    for _ in range(3):
        x = np.ones(3000)
        gone = weakref.ref(x)
        g(x), f(x)
        del x
        gc.collect()
        assert gone() is None


def test_constants_are_shared_between_workspaces_and_programs():
    table = np.linspace(0.0, 1.0, 100_000)
    g = tj.grad(lambda x: np.sum(table * x[0]) if x[1] > 0 else np.sum(table * x[1]))
    g(np.array([1.0, 1.0])), g(np.array([1.0, -1.0]))
    (variant,) = g.__tapejit__.variants.values()
    for path in variant.trie.paths.values():
        program = variant.program(path)
        assert program.nbytes["constants"] >= table.nbytes
        assert program.nbytes["values"] < table.nbytes * 3
