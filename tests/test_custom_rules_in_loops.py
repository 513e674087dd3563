"""Users' rules in the bodies of staged loops: numbers of the rule's own, in every kind of loop."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj


@tj.custom_vjp
def doubled(v):
    return np.sin(v)


doubled.defvjp(lambda v: (np.sin(v), v), lambda v, g: (g * 2.0 * np.cos(v) + 0.25 * g,))


@tj.custom_jvp
def pushed(v):
    return np.sin(v)


@pushed.defjvp
def _(primals, tangents):
    (v,), (t,) = primals, tangents
    return pushed(v), (2.0 * np.cos(v) + 0.25) * t


def staged(step):
    """Every kind of loop around ``step``, and what it means."""

    def three(c, x):
        return step(step(step(c * x) * x) * x)

    def while_(c, x):
        return tj.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, step(s[1] * x)), (0, c))[1]

    def nested(c, x):
        inner = lambda c: tj.fori_loop(0, 1, lambda _, c: step(c * x), c)  # noqa: E731
        return tj.fori_loop(0, 3, lambda _, c: inner(c), c)

    def by(schedule):
        body = lambda c, _: (step(c * x_[0]), None)  # noqa: E731
        x_ = [None]

        def run(c, x):
            x_[0] = x
            return tj.scan(body, c, length=3, checkpoint=schedule)[0]

        return run

    def chosen(c, x):
        for _ in range(3):
            c = tj.cond(np.sum(c) > -100.0, lambda c: step(c * x), lambda c: c, c)
        return c

    return three, {
        "scan": by(None), "revolve": by(tj.Revolve(2)), "uniform": by(tj.Uniform(2)),
        "while": while_, "nested": nested, "cond": chosen,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["scan", "revolve", "uniform", "while", "nested", "cond"])
@pytest.mark.parametrize("rule", [doubled, pushed], ids=["custom_vjp", "custom_jvp"])
@pytest.mark.parametrize("point", [0.7, np.array([0.7]), np.array([0.7, 1.1, -0.4])], ids=np.size)
def test_gradients(kind, rule, point):
    plain, loops = staged(rule)
    start = 0.9 * np.ones_like(point)[()]
    expected = tj.grad(lambda x: np.sum(plain(start, x)))(point)
    f = lambda x: np.sum(loops[kind](start, x))  # noqa: E731
    assert_allclose(tj.grad(f)(point), expected, rtol=1e-12)
    with tj.testing.plain_python():
        assert_allclose(tj.grad(f)(point), expected, rtol=1e-12)
    tensor = tj.tensor(point, requires_grad=True)
    f(tensor).backward()
    assert_allclose(tensor.grad.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["scan", "while", "nested", "cond"])
@pytest.mark.parametrize("point", [0.7, np.array([0.7, 1.1, -0.4])], ids=np.size)
def test_second_order(kind, point):
    plain, loops = staged(doubled)
    start = 0.9 * np.ones_like(point)[()]
    found = tj.hessian(lambda x: np.sum(loops[kind](start, x)))(point)
    assert_allclose(found, tj.hessian(lambda x: np.sum(plain(start, x)))(point), rtol=1e-11)
