"""Derivatives of staged control flow: forward mode, second order, derivatives inside of bodies."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj
from tapejit.testing import check_grads

RNG = np.random.default_rng(8)
W = RNG.normal(size=(3, 3)) / 2.0
XS = RNG.normal(size=(4, 3))
H = RNG.normal(size=3)


def scalar_recurrence(a):
    c, ys = tj.scan(lambda s, x: (np.sin(s) * a + x * 0.1, s * s), 0.3 * a, np.arange(5.0))
    return c + np.sum(ys)


def python_recurrence(a):
    s, total = 0.3 * a, 0.0
    for x in np.arange(5.0):
        s, total = np.sin(s) * a + x * 0.1, total + s * s
    return s + total


def network(w, xs, h):
    def body(h, x):
        h = np.tanh(w @ h + x)
        return h, h * x

    h, ys = tj.scan(body, h, xs, reverse=True)
    return np.sum(h) + np.sum(ys**2)


def writing(x):
    def body(h, v):
        h = h.copy()
        h[1:] += v * h[:-1]
        h[0] = np.sin(h[1])
        return h, None

    return np.sum(tj.scan(body, x, np.array([0.5, -1.0, 2.0]))[0] ** 2)


def nested(a, w):
    def outer(s, x):
        z, zs = tj.scan(lambda z, v: (np.sin(z) * a + s * x, z * v), s, w)
        q = tj.while_loop(lambda q: q > 0.5, lambda q: q * 0.7 * np.cos(0.1 * a), z + 4.0)
        q = tj.cond(q > 0.43, lambda q: q * s, lambda q: np.exp(q) * x, q)
        return q, np.sum(zs) * z

    c, ys = tj.scan(outer, 0.3 * a, np.linspace(0.0, 1.0, 4))
    return c + np.sum(ys)


def counting(a):
    """Integers and bools among the carries and results."""

    def body(carry, x):
        i, _, s = carry
        return (i + 1, s > 1.0, s * a + x * i), (i, s)

    (i, _, s), (numbers, ys) = tj.scan(body, (0, False, a), np.arange(4.0))
    return s * i + np.sum(ys * numbers)


def switched(x):
    index = np.sum(x > 0.0)
    parts = tj.switch(index, [lambda: (x * 2.0, 1.0), lambda: (np.sin(x) * x, x[1]),
                              lambda: (x**3, np.prod(x))])  # fmt: skip
    return parts[0] * parts[1]


def root(a):
    return tj.while_loop(lambda x: abs(x * x - a) > 1e-13, lambda x: 0.5 * (x + a / x), 1.0 + 0 * a)


CASES = {
    "scalars": (scalar_recurrence, (1.1,)),
    "network": (network, (W, XS, H)),
    "writing": (writing, (H,)),
    "nested": (nested, (1.1, np.array([1.0, 0.5, -0.3]))),
    "counting": (counting, (0.8,)),
    "first branch": (switched, (np.array([-0.3, -0.7]),)),
    "second branch": (switched, (np.array([-0.3, 0.7]),)),
    "third branch": (switched, (np.array([0.3, 0.7]),)),
    "while": (root, (4.0,)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_modes_to_second_order(name):
    f, args = CASES[name]
    check_grads(f, args, order=2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["network", "nested", "while"])
def test_plain_python(name):
    f, args = CASES[name]
    directions = tuple(np.cos(np.asarray(arg)) for arg in args)
    expected = tj.jvp(tj.grad(f), args, directions)
    with tj.testing.plain_python():
        found = tj.jvp(tj.grad(f), args, directions)
    for got, want in zip(found, expected, strict=True):
        assert_allclose(got, want, rtol=1e-12, atol=1e-13)


def test_third_order():
    third = tj.grad(tj.grad(tj.grad(scalar_recurrence)))
    expected = tj.grad(tj.grad(tj.grad(python_recurrence)))
    assert_allclose(third(1.1), expected(1.1), rtol=1e-12)
    assert_allclose(tj.grad(tj.grad(tj.grad(root)))(4.0), 0.375 * 4.0**-2.5, rtol=1e-9)


def test_hessians_and_products():
    python = tj.hessian(python_recurrence)(1.1)
    assert_allclose(tj.hessian(scalar_recurrence)(1.1), python, rtol=1e-12)
    assert_allclose(tj.hvp(scalar_recurrence)(1.1, 2.0), 2.0 * python, rtol=1e-12)
    f = lambda w: network(w, XS, H)  # noqa: E731
    hessian = tj.hessian(f)(W).reshape(9, 9)
    assert_allclose(hessian, hessian.T, rtol=1e-9, atol=1e-12)
    v = RNG.normal(size=(3, 3))
    assert_allclose(tj.hvp(f)(W, v).ravel(), hessian @ v.ravel(), rtol=1e-10, atol=1e-12)
    columns = tj.jacfwd(lambda w: tj.scan(lambda h, x: (np.tanh(w @ h + x), h), H, XS)[1])(W)
    rows = tj.jacrev(lambda w: tj.scan(lambda h, x: (np.tanh(w @ h + x), h), H, XS)[1])(W)
    assert columns.shape == (4, 3, 3, 3)
    assert_allclose(columns, rows, rtol=1e-12, atol=1e-14)


def test_checkpointed_second_order():
    def f(a, schedule):
        body = lambda s, x: (np.sin(s) * a + x * 0.1, s * s)  # noqa: E731
        c, ys = tj.scan(body, 0.3 * a, np.arange(9.0), checkpoint=schedule)
        return c + np.sum(ys)

    expected = tj.grad(tj.grad(lambda a: f(a, None)))(1.1)
    for schedule in (tj.Revolve(2), tj.Uniform(4)):
        assert tj.grad(tj.grad(lambda a, s=schedule: f(a, s)))(1.1) == expected


def test_gradients_inside_of_a_body():
    """A body may take gradients, also of a function that closes over the loop's values."""

    def f(a, grad):
        def step(x, _):
            slope = grad(lambda x: 0.5 * a * x * x - np.sin(x))(x)
            return x - 0.1 * slope, slope

        return step

    def staged(a):
        x, slopes = tj.scan(f(a, tj.grad), 1.0, None, 10)
        return x + np.sum(slopes**2)

    def python(a):
        x, total = 1.0, 0.0
        for _ in range(10):
            slope = a * x - np.cos(x)
            x, total = x - 0.1 * slope, total + slope**2
        return x + total

    got, want = tj.value_and_grad(staged)(2.0), tj.value_and_grad(python)(2.0)
    assert_allclose(got, want, rtol=1e-12)
    assert_allclose(tj.grad(tj.grad(staged))(2.0), tj.grad(tj.grad(python))(2.0), rtol=1e-10)


def bilevel(while_loop):
    """Ridge regression by gradient descent inside of gradient descent on its penalty."""
    rng = np.random.default_rng(0)
    x, held_out = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    truth = np.array([1.0, -2.0, 0.5])
    y, wanted = x @ truth + 0.1 * rng.normal(size=20), held_out @ truth

    def weights(penalty):
        loss = lambda w: np.mean((x @ w - y) ** 2) + np.exp(penalty) * np.sum(w**2)  # noqa: E731

        def step(state):
            slope = tj.grad(loss)(state[0])
            return state[0] - 0.1 * slope, np.sum(slope * slope)

        return while_loop(lambda state: state[1] > 1e-16, step, (np.zeros(3), 1.0))[0]

    def error(penalty):
        return np.mean((held_out @ weights(penalty) - wanted) ** 2) + 0.02 * (penalty + 1.0) ** 2

    def tuned(penalty):
        def step(state):
            slope = tj.grad(error)(state[0])
            return state[0] - 2.0 * slope, slope * slope

        return while_loop(lambda state: state[1] > 1e-10, step, (penalty, 1.0))[0]

    return weights, error, tuned


def python_while(condition, body, state):
    while condition(state):
        state = body(state)
    return state


def test_an_optimiser_inside_of_an_optimiser():
    _, error, tuned = bilevel(tj.while_loop)
    _, python_error, _ = bilevel(python_while)
    assert_allclose(tj.value_and_grad(error)(-2.0), tj.value_and_grad(python_error)(-2.0),
                    rtol=1e-7)  # fmt: skip
    best = tj.jit(tuned)(-2.0)
    assert abs(tj.grad(error)(best)) < 1e-4
    # Through the outer optimiser: second derivatives of the inner one.
    difference = (tj.jit(tuned)(-1.99) - tj.jit(tuned)(-2.01)) / 0.02
    assert_allclose(tj.grad(tuned)(-2.0), difference, rtol=1e-2)


def test_branches_after_a_loop():
    """What a loop keeps is not handed on to another path: its reverse sweep is right there too."""

    def f(a):
        s = tj.fori_loop(0, 6, lambda i, s: np.sin(s) * a, a)
        return s * a if s > 0.8 else np.exp(s)

    def python(a):
        s = a
        for _ in range(6):
            s = np.sin(s) * a
        return s * a if s > 0.8 else np.exp(s)

    g, h = tj.grad(f), tj.grad(python)
    for a in (0.7, 1.4, 0.6, 1.5, 0.9, 1.2):
        assert_allclose(g(a), h(a), rtol=1e-12)


def overflowing(x):
    """A matrix product that is infinite beyond 2: its pullback of zeros is not a number."""
    v = np.stack([x, 1.0 / np.where(x > 2.0, 0.0, 1.0)])
    return np.sum(np.array([[2.0, 1.0], [1.0, 3.0]]) @ v)


CONDITIONS = {
    "product": lambda s: overflowing(s) < 1e9,
    "loop": lambda s: tj.fori_loop(0, 2, lambda i, w: w + 1e-9 * overflowing(s), s) < 1e9,
    "gradient": lambda s: abs(tj.grad(lambda x: overflowing(x) ** 2)(s)) < 1e9,
    "gradient of a loop": lambda s: (
        abs(tj.grad(lambda x: tj.fori_loop(0, 2, lambda i, w: w * overflowing(x), x))(s)) < 1e9
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
def test_what_a_condition_alone_reads_is_not_reversed(condition):
    """No NaN of zero times infinity comes from code that the result does not depend on."""
    f = lambda x: tj.while_loop(condition, lambda s: s * s * 1.3, x)  # noqa: E731
    assert f(1.2) > 2.0
    slope = 4.0 * 1.3**3 * 1.2**3
    assert_allclose(tj.grad(f)(1.2), slope, rtol=1e-12)
    assert_allclose(tj.jvp(f, (1.2,), (1.0,))[1], slope, rtol=1e-12)
    assert_allclose(tj.hvp(f)(1.2, 1.0), 3.0 * slope / 1.2, rtol=1e-12)
    assert tj.grad(f)(3.0) == 1.0
    chosen = lambda x: np.where(condition(x), x * x, 3.0 * x)  # noqa: E731
    branched = lambda x: x * x if condition(x) else 3.0 * x  # noqa: E731
    for g in (chosen, branched):
        assert_allclose([tj.grad(g)(1.2), tj.grad(g)(3.0)], [2.4, 3.0], rtol=1e-12)
        assert_allclose([tj.hvp(g)(1.2, 1.0), tj.hvp(g)(3.0, 1.0)], [2.0, 0.0], rtol=1e-12)
