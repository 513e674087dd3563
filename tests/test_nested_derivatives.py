"""Derivatives inside of recordings: nested closures, branches, writes, closures applied later."""

import numpy as np
import pytest

import tapejit as tj
from tapejit.derive import inline

X = np.array([0.3, -0.7, 1.1, 0.5])


def check(f, x=X, order=1):
    """A function that takes derivatives inside, replayed at another point and differentiated."""
    tj.testing.check_grads(f, (x,), order=order, atol=1e-5, rtol=1e-5)


# --- perturbation confusion -----------------------------------------------------------------------


def test_perturbations_are_not_confused():
    """Siskind, Pearlmutter (2005): d/dx (x d/dy (x + y)) is 1, not 2."""
    f = lambda x: x * tj.grad(lambda y: x + y)(1.0)  # noqa: E731
    assert tj.grad(f)(1.0) == 1.0
    g = lambda x: x * tj.jvp(lambda y: x * y, (2.0,), (1.0,))[1]  # noqa: E731
    assert tj.grad(g)(3.0) == 6.0
    assert tj.jvp(g, (3.0,), (1.0,))[1] == 6.0
    h = lambda x: tj.vjp(lambda y: x * y * y, 2.0)[1](x)[0]  # noqa: E731
    assert tj.grad(h)(3.0) == 24.0


def test_three_levels_of_closures():
    def f(x):
        def g(y):
            def h(z):
                return x * y * z**2 + x**2 * z * y**3

            return tj.grad(h)(y) * x

        return tj.grad(g)(x)

    # dh/dz at z=y: 2xy^2 + x^2 y^3; times x; d/dy at y=x: 4x^2 y + 3 x^3 y^2 = 4x^3 + 3x^5
    for x in (0.7, -1.3):
        assert tj.jit(f)(x) == pytest.approx(4 * x**3 + 3 * x**5, rel=1e-13)
        assert tj.grad(f)(x) == pytest.approx(12 * x**2 + 15 * x**4, rel=1e-13)
        assert tj.grad(tj.grad(f))(x) == pytest.approx(24 * x + 60 * x**3, rel=1e-13)


def test_arrays_of_the_enclosing_function():
    def f(x):
        scale = np.sin(x)

        def inner(y):
            return np.sum((y * scale)[1:] * x[:-1]) + np.sum(scale[::2] ** 2) * y[0]

        return np.sum(tj.grad(inner)(x**2) * x)

    check(f, order=2)


def test_mixed_modes_of_any_order():
    f = lambda x: np.sum(np.sin(x) * x[::-1] ** 2)  # noqa: E731
    v = np.array([1.0, 0.5, -1.0, 2.0])
    forward_of_reverse = tj.jit(lambda x: tj.jvp(tj.grad(f), (x,), (v,))[1])
    reverse_of_forward = tj.grad(lambda x: tj.jvp(f, (x,), (v,))[1])
    reverse_of_reverse = tj.jit(lambda x: tj.vjp(tj.grad(f), x)[1](v)[0])
    product = tj.hvp(f)
    for x in (X, 2.0 * X):
        want = product(x, v)
        for g in (forward_of_reverse, reverse_of_forward, reverse_of_reverse):
            np.testing.assert_allclose(g(x), want, rtol=1e-12)


# --- whole derivatives inside ---------------------------------------------------------------------


def test_jacobians_and_hessians_inside():
    def newton_step(x):
        f = lambda y: np.sum(np.cosh(y - x[0])) + np.sum(y * y[::-1]) ** 2  # noqa: E731
        step = np.linalg.solve(tj.hessian(f)(x), tj.grad(f)(x))
        return np.sum(step * np.arange(4.0))

    check(newton_step)
    check(lambda x: np.sum(tj.jacobian(lambda y: np.outer(y, y * x))(x)[1] ** 2), order=2)
    check(lambda x: np.sum(tj.jacfwd(lambda y: y[:2] * y[2:])(x) @ x))
    check(lambda x: np.sum(tj.hvp(lambda y: np.sum(y**4))(x, np.sin(x)) * x))
    check(lambda x: np.sum(tj.hvp(lambda y, c: np.sum(c * y**3))(x, x, x[::-1])))


def test_jacobian_by_blocks_inside(monkeypatch):
    from tapejit.derive import choose

    monkeypatch.setattr(choose, "BLOCK", 8)
    x = np.linspace(-1.0, 1.0, 19)
    for mode in ("forward", "reverse"):
        f = tj.jit(lambda x, mode=mode: tj.jacobian(lambda y: y * y[::-1], mode=mode)(x))
        np.testing.assert_allclose(f(x), np.diag(x[::-1]) + np.diag(x)[:, ::-1], atol=1e-15)


def test_extra_results_and_structures():
    def f(x):
        def loss(p):
            y = p["a"] * x
            return np.sum(y**2), {"y": y, "text": "kept"}

        gradient, extra = tj.grad(loss, has_aux=True)({"a": x * 2.0, "note": None})
        assert extra["text"] == "kept"
        (value, extra), both = tj.value_and_grad(loss, has_aux=True)({"a": x})
        value2, pull, more = tj.vjp(loss, {"a": x}, has_aux=True)
        return (
            np.sum(gradient["a"] * extra["y"])
            + value * value2
            + np.sum(pull(2.0)[0]["a"] * both["a"] * more["y"])
        )

    check(f)


def test_integer_and_constant_arguments():
    assert tj.jit(lambda x: tj.grad(lambda c: c**3 * x)(2))(0.5) == 6.0
    f = lambda x: np.sum(tj.grad(lambda c: np.sum(c**2 * x))(np.arange(4)))  # noqa: E731
    np.testing.assert_allclose(tj.grad(f)(X), 2.0 * np.arange(4))


def test_gradients_that_are_the_same_everywhere():
    """The cotangent of a sum is one scalar, stretched; it still follows its arguments."""
    f = tj.jit(lambda x: tj.grad(lambda y: np.sum(y) * x[0])(x))
    np.testing.assert_array_equal(f(X), np.full(4, X[0]))
    np.testing.assert_array_equal(f(2 * X), np.full(4, 2 * X[0]))


def test_gradients_do_not_share_memory():
    def f(x):
        a, b = tj.grad(lambda a, b: np.sum((a + b) ** 2), argnums=(0, 1))(x, x)
        a[0] = 7.0
        b += 1.0
        return np.sum(a * b) + np.sum(b)

    check(f)
    want = lambda x: np.sum(np.r_[7.0, 4 * x[1:]] * (4 * x + 1)) + np.sum(4 * x + 1)  # noqa: E731
    assert tj.jit(f)(X) == pytest.approx(want(X))


# --- applied later --------------------------------------------------------------------------------


def test_pullback_applied_many_times_while_recording():
    calls = []

    def f(x):
        def inner(y):
            calls.append(1)
            return np.sin(y) * y

        value, pull = tj.vjp(inner, x)
        total = np.sum(value)
        for k in range(3):
            total = total + np.sum(pull(value * k)[0] * x)
        return total

    compiled = tj.jit(f)
    compiled(X)
    assert len(calls) == 1
    check(f, order=2)


def test_pushforward_applied_many_times_while_recording():
    def f(x):
        value, push = tj.linearize(lambda y: np.tanh(y) * x, x)
        return np.sum(value * push(x)) + np.sum(push(value) ** 2)

    check(f, order=2)


def test_writes_between_forward_and_pullback():
    """Later writes reach neither what the pullback needs nor what it gave."""

    def f(x):
        a = x * 2.0
        value, pull = tj.vjp(lambda y: np.exp(y) * y, a)
        a[0] = 100.0
        value[1] = 50.0
        g = pull(x)[0]
        g[2] = 0.0
        return np.sum(pull(np.ones(4))[0] * x) + np.sum(g)

    def plain(x):
        d = np.exp(2 * x) * (1 + 2 * x)
        g = d * x
        return np.sum(d * x) + g[0] + g[1] + g[3]

    assert tj.jit(f)(X) == pytest.approx(plain(X), rel=1e-13)
    check(f)


def test_writes_inside_of_the_function():
    def f(x):
        def inner(y):
            z = y * 1.0
            z[1:3] = z[:2] * x[0]
            z[3] = z[1] * y[3]
            return np.sum(z**2)

        value, pull = tj.vjp(inner, x)
        _, push = tj.linearize(inner, x)
        return value + np.sum(pull(1.0)[0] * pull(value)[0]) + push(x) * push(x[::-1])

    check(f, order=2)


def test_reading_and_then_writing_an_enclosing_array_is_an_error():
    def f(x):
        buffer = x * 1.0

        def inner(y):
            first = np.sum(buffer * y)
            buffer[0] = 3.0
            return first

        return np.sum(tj.grad(inner)(x))

    with pytest.raises(tj.TraceError, match=r"test_nested_derivatives.*copy it first"):
        tj.jit(f)(X)


def test_whole_arrays_of_the_enclosing_function_may_be_replaced():
    def f(x):
        buffer = x * 1.0
        gradient = tj.grad(lambda y: np.sum(buffer * y))(x)
        buffer[...] = 5.0
        return np.sum(gradient * x) + np.sum(tj.grad(lambda y: np.sum(buffer * y))(x))

    assert tj.jit(f)(X) == pytest.approx(np.sum(X * X) + 20.0)
    np.testing.assert_allclose(tj.grad(f)(X), 2 * X)


# --- branches -------------------------------------------------------------------------------------


def test_branches_inside_are_guarded():
    calls = []

    def f(x):
        def inner(y):
            calls.append(1)
            return y**3 if y > 0 else -(y**2)

        return tj.grad(inner)(x) * 2.0

    compiled, gradient = tj.jit(f), tj.grad(f)
    for x in (0.5, -0.5, 1.5, -2.5, 0.5):
        assert compiled(x) == (6 * x**2 if x > 0 else -4 * x)
        assert gradient(x) == (12 * x if x > 0 else -4)
    assert len(calls) == 4


def test_branches_on_derivatives():
    def f(x):
        slope = tj.grad(lambda y: np.sin(y) * y)(x)
        return slope * x if slope > 0.5 else x**2

    compiled = tj.value_and_grad(f)
    for x in (0.1, 0.8, 0.2, 1.1):
        slope = np.sin(x) + x * np.cos(x)
        value, gradient = compiled(x)
        if slope > 0.5:
            want = slope + x * (2 * np.cos(x) - x * np.sin(x))
            assert (value, gradient) == pytest.approx((slope * x, want))
        else:
            assert (value, gradient) == pytest.approx((x**2, 2 * x))


# --- cost -----------------------------------------------------------------------------------------


def test_equal_functions_share_one_derivative(monkeypatch):
    """The gradient of a potential in a loop is derived once, and replayed without Python."""
    made, calls = [], []
    original = inline.pullback
    monkeypatch.setattr(inline, "pullback", lambda *a, **k: made.append(1) or original(*a, **k))

    def potential(q):
        calls.append(1)
        return np.sum(q**4) / 4.125 + q[0] * q[1]

    def simulate(q):
        p = np.zeros_like(q)
        for _ in range(20):
            p = p - 0.01 * tj.grad(potential)(q)
            q = q + 0.01 * p
        return q

    compiled = tj.jit(simulate)
    compiled(X)
    assert len(made) == 1
    assert len(calls) == 20
    compiled(2 * X)
    assert len(calls) == 20


def test_pullback_of_another_recording_is_an_error():
    kept = []

    def f(x):
        kept.append(tj.vjp(np.sin, x)[1])
        return np.sum(x)

    tj.jit(f)(X)
    with pytest.raises(tj.TracerLeakError):
        kept[0](np.ones(4))


def test_wrong_cotangents_and_tangents():
    def wrong(x):
        return tj.vjp(np.sin, x)[1](np.ones(3))[0]

    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\)"):
        tj.jit(wrong)(X)
    with pytest.raises(ValueError, match="needed"):
        tj.jit(lambda x: tj.jvp(np.sin, (x,), (1.0,))[1])(X)
    with pytest.raises(tj.TraceError, match="scalar result"):
        tj.jit(lambda x: tj.grad(np.sin)(x))(X)


def test_plain_python():
    f = lambda x: np.sum(tj.grad(lambda y: np.sum(np.sin(y) * x[0] + y**3 * x))(x) ** 2)  # noqa: E731
    want = tj.grad(f)(X)
    with tj.testing.plain_python():
        np.testing.assert_allclose(tj.grad(f)(X), want, rtol=1e-13)
        np.testing.assert_allclose(tj.hessian(f)(X) @ X, tj.hvp(f)(X, X), rtol=1e-12)
