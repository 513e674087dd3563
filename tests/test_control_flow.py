"""Guards and paths: replay at any point equals the Python function at that point."""

import warnings

import numpy as np
import pytest

import tapejit as tj
from tapejit import compiled
from tapejit.interpreters.layout import CALL


class Counted:
    """A function that counts how often Python runs it."""

    def __init__(self, function):
        self.function = function
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def newton(a):
    x = a
    while abs(x * x - a) > 1e-12:
        x = 0.5 * (x + a / x)
    return x * 3.0 if x > 2.0 else x


def test_while_and_if_are_never_stale():
    f = Counted(newton)
    g = tj.value_and_grad(f)
    rng = np.random.default_rng(0)
    for a in rng.uniform(0.1, 50.0, 200):
        value, derivative = g(float(a))
        factor = 3.0 if newton(a) > 6.0 else 1.0
        assert abs(value - newton(a)) <= 1e-13 * value
        assert abs(derivative - factor * 0.5 / np.sqrt(a)) <= 1e-9
    assert f.calls < 15  # one for each path


def test_a_known_path_is_not_recorded_again():
    f = Counted(lambda x: np.sin(x) if x > 0 else x * x)
    g = tj.grad(f)
    for x in (1.0, -1.0, 2.0, -2.0, 3.0, -3.0):
        expected = np.cos(x) if x > 0 else 2 * x
        assert g(x) == pytest.approx(expected, rel=1e-15)
    assert f.calls == 2


def test_coming_back_costs_two_sweeps_at_most(monkeypatch):
    """Words swept after any failed guards: less than two forward sweeps of the path taken."""
    f = Counted(lambda a: newton(a))
    g = tj.jit(f)
    points = [0.5, 3.0, 40.0, 1.1, 900.0, 0.01]
    for a in points:
        g(a)
    recorded = f.calls
    runs = []
    original = tj.program.Workspace.run

    def counting(self, what, start=0):
        status = original(self, what, start)
        if what & 1:
            stop = int(self.context[10]) if status else len(self.program.code.forward)
            runs.append(stop - start)
        return status

    monkeypatch.setattr(tj.program.Workspace, "run", counting)
    monkeypatch.setattr(g.__tapejit__, "_fast", None)
    for a in points[::-1] + points:
        runs.clear()
        assert g(a) == pytest.approx(newton(a), rel=1e-14)
        (variant,) = g.__tapejit__.variants.values()
        length = len(variant.program(variant.trie.last).code.forward)
        assert sum(runs) <= 2 * length
    assert f.calls == recorded


def test_branches_inside_loops_over_arrays():
    def f(x):
        total = 0.0
        for i in range(len(x)):
            if x[i] > 0.0:
                total = total + x[i] ** 2
            else:
                total = total - np.exp(x[i])
        return total

    g = tj.value_and_grad(f)
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = rng.standard_normal(4)
        value, gradient = g(x)
        assert value == pytest.approx(f(x), rel=1e-14)
        np.testing.assert_allclose(gradient, np.where(x > 0, 2 * x, -np.exp(x)), rtol=1e-14)


def test_arrays_survive_a_change_of_path():
    """What the common prefix computed is carried over: vectors, constants, large arguments."""
    c = np.linspace(0.0, 1.0, 3000)

    def f(x, s):
        y = np.tanh(x) * c
        t = np.sum(y * y)
        if s > 0.5:
            t = t + np.sum(y) * s
        if t > 10.0 * s:
            return np.sum(np.sin(y)) + t
        return np.dot(y, y) * s

    g = tj.value_and_grad(f, argnums=(0, 1))
    rng = np.random.default_rng(2)
    for s in (0.1, 0.9, 30.0, 200.0, 0.2, 500.0, 0.8):
        x = rng.standard_normal(3000)
        value, (gx, gs) = g(x, s)
        assert value == pytest.approx(f(x, s), rel=1e-12)
        h = 1e-6
        v = rng.standard_normal(3000)
        want = (f(x + h * v, s) - f(x - h * v, s)) / (2 * h)
        assert gx @ v == pytest.approx(want, rel=1e-5)
        assert gs == pytest.approx((f(x, s + 1e-6) - f(x, s - 1e-6)) / 2e-6, rel=1e-5, abs=1e-6)


def test_integers_become_guards():
    f = Counted(lambda x, n: sum(x**k for k in range(n)))
    g = tj.grad(f)
    assert g(2.0, 3) == 5.0
    assert g(2.0, 4) == 17.0
    assert g(3.0, 3) == 7.0
    assert f.calls == 2


def test_int_of_a_float_and_round():
    g = tj.grad(lambda x: x * int(x) + round(x))
    assert [g(v) for v in (0.4, 1.6, 2.2, 1.7)] == [0.0, 1.0, 2.0, 1.0]


def test_argmax_as_an_index_is_a_gather_not_a_guard():
    f = Counted(lambda x: x[np.argmax(x)] ** 2)
    g = tj.grad(f)
    np.testing.assert_array_equal(g(np.array([1.0, 3.0, 2.0])), [0.0, 6.0, 0.0])
    np.testing.assert_array_equal(g(np.array([5.0, 3.0, 2.0])), [10.0, 0.0, 0.0])
    assert f.calls == 1


def test_a_traced_index_is_checked():
    f = tj.jit(lambda x, i: x[i])
    x = np.arange(4.0)
    assert f(x, 2) == 2.0
    assert f(x, -1) == 3.0
    with pytest.raises(IndexError, match="out of bounds"):
        f(x, 4)
    assert f(x, 0) == 0.0  # still usable


def test_paths_are_bounded(monkeypatch):
    monkeypatch.setattr(compiled, "MAX_PATHS", 4)
    g = tj.grad(lambda x, n: sum(x**k for k in range(n)))
    for n in (2, 3, 4, 5, 6, 7, 2, 3, 4):
        assert g(1.0, n) == n * (n - 1) / 2
    (variant,) = g.__tapejit__.variants.values()
    assert len(variant.trie.paths) <= 4


def test_endless_new_branches_warn_once_and_stay_right(monkeypatch):
    monkeypatch.setattr(compiled, "MAX_MISSES", 8)
    g = tj.grad(lambda x, n: x * int(n))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(40):
            assert g(1.0, n) == n
    ours = [w for w in caught if issubclass(w.category, tj.GuardOverflowWarning)]
    assert len(ours) == 1
    assert "test_control_flow.py" in str(ours[0].message)


def test_a_guard_that_rounding_decides_is_forced():
    """Recording and replay may round differently: never an endless loop of recordings."""
    f = Counted(lambda x: np.sin(x) * 2.0 if np.exp(x) > 2.718281828459045 else np.cos(x))
    g = tj.value_and_grad(f)
    for x in np.nextafter(1.0, [0.0, 1.0, 2.0]):
        for _ in range(3):
            value, _ = g(float(x))
            assert min(abs(value - 2 * np.sin(x)), abs(value - np.cos(x))) < 1e-14
    assert f.calls <= 6


def test_logic_on_traced_conditions():
    def f(x, y):
        if (x > 0 and y > 0) or x * y > 4.0:
            return x * y
        return x + 2.0 * y if not x > y else 3.0 * x

    g = tj.grad(f, argnums=(0, 1))
    assert g(1.0, 2.0) == (2.0, 1.0)
    assert g(-1.0, 2.0) == (1.0, 2.0)
    assert g(-3.0, -2.0) == (-2.0, -3.0)
    assert g(0.5, -2.0) == (3.0, 0.0)


def test_sorting_by_comparisons():
    """A pure Python algorithm full of branches."""

    def f(x):
        values = [x[i] for i in range(len(x))]
        for i in range(len(values)):
            for j in range(i):
                if values[j] > values[i]:
                    values[i], values[j] = values[j], values[i]
        return sum((i + 1) * v for i, v in enumerate(values))

    g = tj.grad(f)
    rng = np.random.default_rng(3)
    for _ in range(20):
        x = rng.standard_normal(4)
        np.testing.assert_allclose(g(x), np.argsort(np.argsort(x)) + 1.0)


def test_tape_is_one_path():
    tape = tj.trace(lambda x: x if x > 0 else -x, 1.0)
    assert tape(2.0) == 2.0
    with pytest.raises(tj.TraceError, match="another branch"):
        tape(-2.0)
    assert CALL not in tape.code[:, 0]


def test_a_product_before_a_guard_is_there_for_the_other_path():
    """One path uses a product once, in a sum; the path that it turns into needs it again."""

    def f(x, y, z):
        product = x * y
        total = product + z
        return total if total > 0 else product * total

    jitted, gradient = tj.jit(f), tj.grad(f, argnums=(0, 1, 2))
    for arguments in [(1.0, 2.0, 3.0), (1.0, 2.0, -3.0), (1.0, 2.0, 3.0), (7.0, 2.0, -30.0)]:
        assert jitted(*arguments) == f(*arguments)
        x, y, z = arguments
        below = (y * (2 * x * y + z), x * (2 * x * y + z), x * y)
        assert gradient(*arguments) == ((y, x, 1.0) if x * y + z > 0 else below)
