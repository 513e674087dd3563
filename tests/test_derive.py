"""Derivatives as more tape: second order through writes, indices, broadcasts, nested closures."""

import numpy as np
import pytest

import tapejit as tj

X = np.array([0.3, -0.7, 1.1, 0.5])
INDEX = np.array([2, 0, 2])


def scattered(x):
    y = np.sin(x)
    y[INDEX] = x[:3] ** 2  # position 2 twice: the last write counts
    return np.sum(y * y[::-1])


def overwritten(x):
    y = x * x
    first = y[0]  # read before it is overwritten
    y[0] = np.exp(x[1])
    y[1:3] = y[0:2] * first
    y += x
    return np.sum(y**2)


def dynamic(x):
    y = x * x
    i = np.argmax(x)
    y[i] = x[0] * x[1]
    return np.sum(y * x) + x[i] ** 3


def stretched(x):
    outer = x[:, None] * np.ones((1, 3)) * x[:3]
    return np.sum(np.tanh(outer)) + np.sum(np.broadcast_to(x[1], (2, 2)) ** 2)


def constants_inside(x):
    return np.sum(np.stack([x, np.zeros(4), x * 2.0]) ** 3) + tj.grad(lambda c: c**2 * x[0])(2.0)


def arrays_of_scalars(x):
    y = np.zeros_like(x)
    for i in range(4):
        y[i] = x[i] ** 3
        y[i] = y[i] * x[(i + 1) % 4]
    return np.sum(y)


PROGRAMS = [scattered, overwritten, dynamic, stretched, constants_inside, arrays_of_scalars]


def hessian_by_differences(f, x, h=1e-5):
    g = tj.grad(f)
    rows = [(g(x + h * e) - g(x - h * e)) / (2 * h) for e in np.eye(len(x))]
    return np.array(rows)


@pytest.mark.parametrize("f", PROGRAMS)
def test_first_and_second_derivatives(f):
    tj.testing.check_grads(f, (X,), order=1)
    hessian = tj.hessian(f)(X)
    np.testing.assert_allclose(hessian, hessian_by_differences(f, X), atol=2e-7)
    reverse_over_reverse = tj.jacrev(tj.grad(f))(X)
    np.testing.assert_allclose(reverse_over_reverse, hessian, atol=1e-11)
    v = np.array([1.0, -2.0, 0.5, 0.1])
    np.testing.assert_allclose(tj.hvp(f)(X, v), hessian @ v, atol=1e-11)
    other = X[::-1].copy()  # replayed elsewhere
    np.testing.assert_allclose(tj.hessian(f)(other), hessian_by_differences(f, other), atol=2e-7)


@pytest.mark.parametrize("f", PROGRAMS)
def test_forward_over_forward(f):
    """jvp of jvp, through in-place writes too, equals v.H.v."""
    v = np.array([1.0, -2.0, 0.5, 0.1])
    first = tj.jit(lambda x: tj.jvp(f, (x,), (v,))[1])
    _, second = tj.jvp(first, (X,), (v,))
    np.testing.assert_allclose(second, v @ tj.hessian(f)(X) @ v, rtol=1e-9)


def test_third_order():
    f = lambda x: np.sum(np.sin(x) * x[::-1] ** 2)  # noqa: E731
    tj.testing.check_grads(f, (X,), order=3, atol=1e-4, rtol=1e-4)


def test_writes_at_several_traced_positions():
    """Positions that depend on data, one of them twice: the last write counts."""

    def sorted_in(x):
        y = x * x
        y[np.argsort(x)] = x**3
        return np.sum(y * x)

    def twice(x):
        y = np.sin(x)
        index = np.argsort(x)[np.array([0, 1, 0])]
        first = y[0] * y[2]
        y[index] = x[:3] ** 2
        return np.sum(y * y[::-1]) * first

    for f in (sorted_in, twice):
        for x in (X, X[::-1].copy()):
            hessian = tj.hessian(f)(x)
            np.testing.assert_allclose(hessian, hessian_by_differences(f, x), atol=2e-7)
            other = tj.hessian(f, mode="reverse-over-reverse")(x)
            np.testing.assert_allclose(other, hessian, atol=1e-12)


def test_jacobian_and_linearize_inside_a_recording():
    def f(x):
        jacobian = tj.jacobian(lambda y: np.stack([y[0] * y[1], y[1] ** 2]))(x[:2])
        value, push = tj.linearize(lambda y: y**2, x)
        return np.sum(jacobian**2) + np.sum(value * push(x))

    expected = lambda x: x[0] ** 2 + x[1] ** 2 + 4 * x[1] ** 2 + 2 * np.sum(x**4)  # noqa: E731
    assert tj.jit(f)(X) == pytest.approx(expected(X))
    np.testing.assert_allclose(tj.grad(f)(X), [2 * X[0], 10 * X[1], 0, 0] + 8 * X**3, rtol=1e-12)


def test_gradient_inside_a_simulation():
    """The gradient of a potential becomes part of the outer tape: no Python at replay."""
    calls = []

    def potential(q):
        calls.append(1)
        return np.sum(q**4) / 4 + np.prod(q)

    def simulate(q):
        p = np.zeros_like(q)
        for _ in range(5):
            p = p - 0.1 * tj.grad(potential)(q)
            q = q + 0.1 * p
        return np.sum(q * p)

    compiled = tj.value_and_grad(simulate)
    compiled(X)
    seen = len(calls)
    value, gradient = compiled(0.9 * X)
    assert len(calls) == seen
    h = 1e-6
    for k, e in enumerate(np.eye(4)):
        want = (compiled(0.9 * X + h * e)[0] - compiled(0.9 * X - h * e)[0]) / (2 * h)
        assert gradient[k] == pytest.approx(want, abs=1e-8)
    assert value == pytest.approx(tj.jit(simulate)(0.9 * X), rel=1e-14)


def test_rules_of_constants():
    """A rule evaluates functions of constants: the second derivative of 2**x."""
    f = lambda x: np.sum(2.0**x) + np.sum(np.arctan2(1.5, x))  # noqa: E731
    tj.testing.check_grads(f, (X,), order=2, atol=1e-5, rtol=1e-5)
    tj.testing.check_grads(lambda x: 2.0**x, (0.3,), order=3, atol=1e-4, rtol=1e-4)
