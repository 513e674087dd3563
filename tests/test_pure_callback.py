"""pure_callback: Python called from compiled programs, with and without rules; exceptions."""

import math
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj

X = np.array([0.3, 0.7, 1.1])


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function = function
        self.__qualname__ = getattr(function, "__qualname__", "counted")
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_called_at_each_replay_with_numpy_arrays():
    seen = []

    def python(x, n):
        seen.append((type(x), x.dtype, type(n)))
        assert not isinstance(x, tj.recording.tracer.Tracer)
        return np.sort(x) * n

    f = tj.jit(lambda x: 2.0 * tj.pure_callback(python, (3,), x[::-1], np.sum(x)))
    for scale in (1.0, 2.0, 3.0):
        assert_allclose(f(scale * X), 2.0 * np.sort(scale * X) * np.sum(scale * X))
    assert len(seen) == 4  # once while recording
    assert {kind[0] for kind in seen} == {np.ndarray}
    assert {kind[2] for kind in seen} == {np.float64}


def test_eager_and_constant_arguments():
    assert tj.pure_callback(math.lgamma, (), 3.0) == math.lgamma(3.0)
    assert_allclose(tj.pure_callback(np.sort, (3,), X[::-1]), X)
    f = tj.jit(lambda x: x * tj.pure_callback(math.lgamma, (), 3.0))
    assert_allclose(f(X), X * math.lgamma(3.0))


def test_containers_and_dtypes():
    def python(tree):
        values = tree["values"]
        return {"order": np.argsort(values), "total": values.sum() + tree["shift"]}

    shapes = {"order": np.empty(3, np.int64), "total": ()}

    def f(x):
        result = tj.pure_callback(python, shapes, {"values": x, "shift": 1})
        assert result["order"].dtype == np.int64
        return x[result["order"]] * result["total"]

    compiled = tj.jit(f)
    for x in (X[::-1].copy(), X):
        assert_allclose(compiled(x), np.sort(x) * (x.sum() + 1.0))
    assert tj.jit(lambda x: tj.pure_callback(np.argmax, np.int64(0), x))(X).dtype == np.int64


def lgamma_of(digamma, trigamma=None):
    @tj.custom_vjp
    def slope(x):
        return tj.pure_callback(digamma, (), x)

    slope.defvjp(
        lambda x: (tj.pure_callback(digamma, (), x), x),
        lambda x, g: (g * tj.pure_callback(trigamma, (), x),),
    )

    @tj.custom_vjp
    def lgamma(x):
        return tj.pure_callback(math.lgamma, (), x)

    lgamma.defvjp(lambda x: (lgamma(x), x), lambda x, g: (g * slope(x),))
    return lgamma


def test_with_a_rule():
    special = pytest.importorskip("scipy.special")
    f = lgamma_of(special.digamma, lambda x: special.polygamma(1, x))
    for x in (1.5, 3.0):
        assert_allclose(tj.grad(f)(x), special.digamma(x))
        assert_allclose(tj.jvp(f, (x,), (2.0,))[1], 2.0 * special.digamma(x))
        assert_allclose(tj.grad(tj.grad(f))(x), special.polygamma(1, x))
        assert_allclose(tj.hvp(f)(x, 1.0), special.polygamma(1, x))


def test_without_a_rule():
    f = lambda x: np.sum(tj.pure_callback(np.sort, (3,), x))  # noqa: E731
    with pytest.raises(tj.UnsupportedError, match=r"test_pure_callback.*`sort` has no derivative"):
        tj.grad(f)(X)
    with pytest.raises(tj.UnsupportedError, match="custom_vjp"):
        tj.jvp(f, (X,), (X,))
    with pytest.raises(tj.UnsupportedError, match="no derivative"):
        tj.jit(tj.grad(f))(X)
    assert_allclose(tj.jit(f)(X), X.sum())
    # Not differentiated: no rule is needed.
    order = lambda x: np.sum(x * tj.pure_callback(np.sort, (3,), tj.stop_gradient(x)))  # noqa: E731
    assert_allclose(tj.grad(order)(X[::-1].copy()), X)
    index = lambda x: x[tj.pure_callback(np.argmax, np.int64(0), x)]  # noqa: E731
    assert_allclose(tj.grad(index)(X), [0.0, 0.0, 1.0])


def test_wrong_results():
    with pytest.raises(tj.RuleError, match=r"`sort` returned .*shape \(3,\).*says \(2,\)"):
        tj.jit(lambda x: tj.pure_callback(np.sort, (2,), x))(X)
    with pytest.raises(tj.RuleError, match="returned the structure"):
        tj.pure_callback(lambda x: [x, x], (3,), X)
    with pytest.raises(TypeError, match="expects a function"):
        tj.pure_callback(3, (), X)
    with pytest.raises(tj.RuleError, match="dtype"):
        tj.pure_callback(np.sort, np.empty(3, complex), X)


class Trouble(Exception):
    pass


def fails_on_large(x):
    if x[0] > 10.0:
        raise Trouble("too large")
    return 2.0 * x


def test_an_exception_reaches_the_caller_as_it_is():
    python = Counted(fails_on_large)
    f = tj.jit(lambda x: tj.pure_callback(python, (3,), x) + 1.0)
    for _ in range(3):
        assert_allclose(f(X), 2.0 * X + 1.0)
        with pytest.raises(Trouble, match="too large") as caught:
            f(100.0 * X)
        assert any("fails_on_large" in str(entry) for entry in caught.traceback)
    python.calls = 0
    assert_allclose(f(X), 2.0 * X + 1.0)
    with pytest.raises(Trouble):
        f(100.0 * X)
    assert python.calls == 2


def test_an_exception_in_a_reverse_sweep():
    large = 1000.0

    def bwd_python(x, g):
        if abs(g[0]) > large:
            raise Trouble("in reverse")
        return 2.0 * g

    @tj.custom_vjp
    def f(x):
        return 2.0 * x

    f.defvjp(lambda x: (2.0 * x, x), lambda x, g: (tj.pure_callback(bwd_python, (3,), x, g),))
    gradient = tj.grad(lambda x, s: np.sum(s * f(x)))
    for _ in range(3):
        assert_allclose(gradient(X, 1.0), 2.0)
        with pytest.raises(Trouble, match="in reverse"):
            gradient(X, 5000.0)
    assert_allclose(gradient(X, 1.0), 2.0)
    _, pullback = tj.vjp(f, X)
    assert_allclose(pullback(np.ones(3))[0], 2.0)
    with pytest.raises(Trouble):
        pullback(5000.0 * np.ones(3))
    assert_allclose(pullback(np.ones(3))[0], 2.0)


def test_an_interrupt_is_not_swallowed():
    def interrupt(x):
        if x > 1.0:
            raise KeyboardInterrupt
        return x

    f = tj.jit(lambda x: tj.pure_callback(interrupt, (), x))
    assert f(0.5) == 0.5
    with pytest.raises(KeyboardInterrupt):
        f(2.0)
    assert f(0.25) == 0.25


def test_a_callback_may_call_compiled_functions():
    inner = tj.grad(lambda x: np.sum(x**3))

    def python(x):
        return inner(x)

    f = tj.jit(lambda x: tj.pure_callback(python, (3,), x) * 1.0)
    for x in (X, 2.0 * X):
        assert_allclose(f(x), 3.0 * x**2)


def test_exceptions_belong_to_the_thread_that_sweeps():
    f = tj.jit(lambda x: tj.pure_callback(fails_on_large, (3,), x))
    f(X)
    found = {True: 0, False: 0, "wrong": 0}

    def work(fails):
        for _ in range(100):
            try:
                result = f(100.0 * X if fails else X)
                found["wrong"] += fails or not np.allclose(result, 2.0 * X)
            except Trouble:
                found["wrong"] += not fails
            found[fails] += 1

    threads = [threading.Thread(target=work, args=(k % 2 == 0,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {True: 200, False: 200, "wrong": 0}


def test_plain_python():
    f = tj.jit(lambda x: tj.pure_callback(fails_on_large, (3,), x))
    with tj.testing.plain_python():
        assert_allclose(f(X), 2.0 * X)
        assert_allclose(f(2.0 * X), 4.0 * X)
        with pytest.raises(Trouble):
            f(100.0 * X)


def test_the_same_function_recorded_again_is_the_same_operation():
    trace = lambda: tj.trace(lambda x: tj.pure_callback(fails_on_large, (3,), x), X)  # noqa: E731
    first, second = trace(), trace()
    assert first.fingerprint == second.fingerprint
