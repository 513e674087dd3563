"""Jacobians and Hessians of programs whose derivatives go one direction a sweep.

Staged loops and branches, and in-place writes: against differences and against the same program
written with Python's own loops.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj

X = np.array([0.7, 0.4, 0.3])
V = np.array([0.3, -0.2, 0.5])
WEIGHTS = np.linspace(0.5, 1.0, 6)


def scanned(x, staged):
    def step(c, w):
        return np.tanh(c * w + x[1]), c * x[2]

    if staged:
        c, ys = tj.scan(step, x[0], WEIGHTS)
        return np.stack([c, np.sum(ys), ys[3]])
    c, ys = x[0], []
    for w in WEIGHTS:
        c, y = step(c, w)
        ys.append(y)
    return np.stack([c, sum(ys), ys[3]])


def repeated(x, staged):
    def step(c):
        return c[0] * (1.2 + x[1] ** 2) + np.sin(x[2]), c[1] + np.cos(c[0])

    c = (x[0], 0.0 * x[0])
    if staged:
        c = tj.while_loop(lambda c: c[0] < 5.0, step, c)
    else:
        while c[0] < 5.0:
            c = step(c)
    return np.stack([c[0], c[1], c[0] * c[1]])


def chosen(x, staged):
    def positive():
        return np.sin(x) * x[1]

    if staged:
        return tj.cond(x[0] > 0.5, positive, lambda: x**2 * x[2])
    return positive() if x[0] > 0.5 else x**2 * x[2]


def counted(x, staged):
    body = lambda i, c: np.sin(c * x[0]) + 0.1 * i * c[::-1]  # noqa: E731
    if staged:
        return tj.fori_loop(0, 5, body, x, checkpoint=tj.Revolve(2))
    c = x
    for i in range(5):
        c = body(i, c)
    return c


def written(x, staged):
    def step(c, w):
        c = c * 1.0
        c[0] = np.sin(c[1]) * w
        c[1:] *= x[0]
        c[::2] += c[1]
        return c, c[2]

    if staged:
        c, ys = tj.scan(step, x, WEIGHTS)
        return c + ys[:3]
    c, ys = x, []
    for w in WEIGHTS:
        c, y = step(c, w)
        ys.append(y)
    return c + np.stack(ys[:3])


def nested(x, staged):
    if staged:

        def outer(c, w):
            d = tj.while_loop(lambda d: d[0] > 0.5, lambda d: d * (0.6 + 0.1 * x[1]), c + 1.0)
            return tj.cond(w > 0.7, lambda: d * x, lambda: np.cos(d)), np.sum(d)

        c, ys = tj.scan(outer, x, WEIGHTS, checkpoint=tj.Revolve(1))
        return c + np.sum(ys)
    c, total = x, 0.0
    for w in WEIGHTS:
        d = c + 1.0
        while d[0] > 0.5:
            d = d * (0.6 + 0.1 * x[1])
        c = d * x if w > 0.7 else np.cos(d)
        total = total + np.sum(d)
    return c + total


def overwritten(x, staged):
    """In-place writes alone, of single elements and of slices."""
    y = x * 1.0
    y[1] = y[0] * y[2]
    y[0] = np.exp(y[1]) * y[0]
    z = y[::-1] * y
    z[:2] *= x[1]
    if staged:
        z += y
        return z
    return z + y


def filled(x, staged):
    """A scalar tape with writes alone: vector mode serves it."""
    y = np.zeros_like(x)
    y[0] = x[0]
    for i in range(1, 3):
        y[i] = 0.5 * y[i - 1] * x[i] + x[0] ** 2
    return y


PROGRAMS = [scanned, repeated, chosen, counted, written, nested, overwritten, filled]
both = pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)


def differences(f, x, h=1e-5):
    return np.stack([(f(x + h * e) - f(x - h * e)) / (2.0 * h) for e in np.eye(len(x))], -1)


def ways(program):
    return lambda x: program(x, True), lambda x: program(x, False)


def squares(f):
    return lambda x: np.sum(f(x) ** 2)


@both
@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobians(program, mode):
    staged, plain = ways(program)
    jacobian = tj.jacobian(staged, mode=mode)
    for x in (X, X + 0.02):
        assert_allclose(jacobian(x), tj.jacobian(plain, mode=mode)(x), rtol=1e-12, atol=1e-13)
        assert_allclose(jacobian(x), differences(staged, x), rtol=1e-7, atol=1e-8)


@both
@pytest.mark.parametrize("mode", ["auto", "forward-over-reverse", "reverse-over-reverse"])
def test_hessians(program, mode):
    staged, plain = map(squares, ways(program))
    hessian = tj.hessian(staged, mode=mode)
    for x in (X, X + 0.02):
        expected = tj.hessian(plain, mode=mode)(x)
        assert_allclose(hessian(x), expected, rtol=1e-10, atol=1e-11)
        assert_allclose(hessian(x), differences(tj.grad(staged), x), rtol=1e-5, atol=1e-6)
        assert_allclose(tj.hvp(staged)(x, V), expected @ V, rtol=1e-10, atol=1e-11)


def test_the_cost_of_loops_counts_their_steps():
    """A loop that all directions run through counts for the choice of the mode."""

    def tall(x, steps):  # more results than arguments: forward
        step = lambda c, _: (np.stack([c[0] + 0.01 * c[1], c[1] - 0.01 * np.sin(c[0])]), None)  # noqa: E731
        c, _ = tj.scan(step, x, length=steps)
        return np.outer(np.arange(1.0, 9.0), c)

    for steps in (10, 1000):
        found, choice = tj.jacobian(lambda x, n=steps: tall(x, n), explain=True)(X[:2])
        assert choice.mode == "forward"
        assert choice.costs["forward"] > 2 * 10.0 * steps
        _, wide = tj.jacobian(lambda x, n=steps: np.sum(tall(x, n)), explain=True)(X[:2])
        assert wide.mode == "reverse"
        assert_allclose(found, tj.jacrev(lambda x, n=steps: tall(x, n))(X[:2]), rtol=1e-10)
    open_ended = lambda x: tj.while_loop(lambda c: np.sum(c) < 9.0, lambda c: c * 1.1, x)  # noqa: E731
    _, choice = tj.jacobian(open_ended, explain=True)(X)
    assert min(choice.costs.values()) > 3 * 100.0


@both
def test_a_direction_at_a_time(program):
    staged, plain = ways(program)
    jacobian = tj.jacobian(plain)(X)
    assert_allclose(tj.jvp(staged, (X,), (V,))[1], jacobian @ V, rtol=1e-12)
    _, push = tj.linearize(staged, X)
    assert_allclose(np.stack([push(e) for e in np.eye(3)], -1), jacobian, rtol=1e-12, atol=1e-14)
    _, pullback = tj.vjp(staged, X)
    assert_allclose(np.stack([pullback(e)[0] for e in np.eye(3)]), jacobian, rtol=1e-12, atol=1e-14)


@both
def test_inside_of_a_recording(program):
    """Jacobians and Hessians as parts of other tapes, also of those that vector mode serves."""
    staged, plain = ways(program)
    expected = tj.jacobian(plain)(X)
    for mode in ("auto", "forward", "reverse"):
        found = tj.jit(lambda x, m=mode: tj.jacobian(staged, mode=m)(x))(X)
        assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    found = tj.jit(lambda x: tj.hessian(squares(staged))(x))(X)
    assert_allclose(found, tj.hessian(squares(plain))(X), rtol=1e-10, atol=1e-11)
    norm = lambda x: np.sum(tj.jacobian(staged)(x) ** 2)  # noqa: E731
    slope = differences(lambda x: np.array([norm(x)]), X)[0]
    assert_allclose(tj.grad(norm)(X), slope, rtol=1e-5, atol=1e-7)
