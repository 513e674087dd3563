"""Compiled functions in several threads: right results, whoever comes first."""

import sys
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(work, n=4):
    """Run ``work(k)`` in ``n`` threads that start at once; raise what any of them raised."""
    barrier, errors = threading.Barrier(n), []

    def run(k):
        barrier.wait()
        try:
            work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def wave(x):
    return np.sum(np.sin(x) * x)


def wave_slope(x):
    return np.cos(x) * x + np.sin(x)


@pytest.mark.parametrize("n", [4, 3000])
def test_one_gradient_in_four_threads(n):
    g, f = tj.value_and_grad(wave), tj.jit(wave)
    g(np.ones(n)), f(np.ones(n))

    def work(k):
        rng = np.random.default_rng(k)
        buffer = np.empty(n)
        for i in range(200):
            x = rng.standard_normal(n)
            value, gradient = g(x, out=buffer if i % 2 else None)
            assert_allclose(gradient, wave_slope(x), rtol=1e-12, atol=1e-13)
            assert_allclose(value, f(x), rtol=1e-12)

    together(work)
    (variant,) = g.__tapejit__.variants.values()
    assert len(variant.trie.paths) == 1


def test_first_calls_that_race():
    """Recording in four threads at once, of fresh functions, several times over."""
    for _ in range(20):
        g = tj.grad(lambda x: np.sum(np.tanh(x) * x))

        def work(k, g=g):
            x = np.full(3, float(k))
            assert_allclose(g(x), np.tanh(x) + x * (1.0 - np.tanh(x) ** 2), rtol=1e-13)

        together(work)


def test_branches_that_race(monkeypatch):
    """Paths are added, followed and dropped by all threads."""
    monkeypatch.setattr(tj.compiled, "MAX_PATHS", 3)
    monkeypatch.setattr(tj.compiled, "MAX_MISSES", 10**9)
    g = tj.grad(lambda x, n: sum(x**k for k in range(n)))

    def work(k):
        rng = np.random.default_rng(k)
        for n in rng.integers(1, 8, 60):
            assert g(1.0, int(n)) == n * (n - 1) / 2

    together(work)
    (variant,) = g.__tapejit__.variants.values()
    assert len(variant.trie.paths) <= 3


def test_recordings_of_several_threads_do_not_mix():
    """Each thread records its own functions, nested ones too, while others do."""

    def work(k):
        for i in range(10):
            c = float(k * 10 + i)
            f = tj.grad(lambda x, c=c: c * tj.grad(lambda y: y**3 * x)(x))
            assert f(2.0) == pytest.approx(c * 36.0)

    together(work)


def test_one_pullback_in_four_threads():
    x = np.linspace(-1.0, 1.0, 3000)
    _, pullback = tj.vjp(lambda x: np.sin(x) * x, x)

    def work(k):
        for i in range(50):
            (got,) = pullback(np.full(3000, float(k + i)))
            assert_allclose(got, (k + i) * wave_slope(x), rtol=1e-12, atol=1e-13)

    together(work)


def test_pullbacks_of_one_function_in_four_threads():
    f = tj.jit(lambda x: np.exp(x) * x)

    def work(k):
        points = [np.linspace(0.0, k + 1.0, 50) + i for i in range(20)]
        pullbacks = [tj.vjp(f, x)[1] for x in points]
        for x, pullback in zip(points, pullbacks, strict=True):
            assert_allclose(pullback(np.ones(50))[0], np.exp(x) * (x + 1.0), rtol=1e-13)

    together(work)


def test_one_thread_fails_while_others_work():
    g = tj.grad(lambda x, i: x[i] * x[i])
    x = np.arange(1.0, 5.0)
    g(x, 0)

    def work(k):
        for _ in range(100):
            if k == 0:
                with pytest.raises(IndexError, match="out of bounds"):
                    g(x, 4)
            else:
                assert_allclose(g(x, k), 2.0 * x * (np.arange(4) == k))

    together(work)


def test_dataclasses_met_first_in_several_threads():
    import dataclasses

    for _ in range(20):
        cls = dataclasses.make_dataclass("Point", ["x"])
        f = tj.grad(lambda p: p.x * p.x)
        together(lambda k, cls=cls, f=f: f(cls(float(k))))
        assert f(cls(3.0)).x == 6.0


def test_a_dictionary_of_settings_for_each_thread():
    """Plain Python in one thread leaves the others compiled."""
    from tapejit.config import settings

    seen = {}
    with tj.testing.plain_python():
        thread = threading.Thread(target=lambda: seen.update(plain=settings.plain_python))
        thread.start()
        thread.join()
        assert settings.plain_python
    assert seen == {"plain": False}
