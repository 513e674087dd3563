"""Users' rules, kernels and Python calls on tensors."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj

X = np.array([0.3, 0.7, 1.1])


def cube(x, out):
    out[:] = x**3


def cube_reverse(g, x, out, dx):
    dx[:] = 3.0 * x * x * g


cubed = tj.register_op("cubed", cube, reverse=cube_reverse)


@tj.custom_vjp
def doubled_slope(x):
    return np.sin(x)


doubled_slope.defvjp(lambda x: (doubled_slope(x), x), lambda x, g: (2.0 * g * np.cos(x),))


@tj.custom_jvp
def tripled_slope(x):
    return np.sin(x)


@tripled_slope.defjvp
def _(primals, tangents):
    return tripled_slope(*primals), 3.0 * np.cos(primals[0]) * tangents[0]


@tj.custom_vjp
def by_python(x):
    return tj.pure_callback(np.sin, (3,), x)


by_python.defvjp(lambda x: (by_python(x), x), lambda x, g: (g * tj.pure_callback(np.cos, (3,), x),))

CASES = {
    "kernel": (cubed, lambda x: x**3, lambda x: 3.0 * x * x),
    "custom_vjp": (doubled_slope, np.sin, lambda x: 2.0 * np.cos(x)),
    "custom_jvp": (tripled_slope, np.sin, lambda x: 3.0 * np.cos(x)),
    "pure_callback": (by_python, np.sin, np.cos),
}


@pytest.mark.parametrize("f, plain, slope", CASES.values(), ids=CASES)
def test_backward(f, plain, slope):
    for scale in (1.0, 2.0, 1.0):
        x = tj.tensor(scale * X, requires_grad=True)
        y = f(2.0 * x)
        assert_allclose(y.detach().numpy(), plain(2.0 * scale * X))
        np.sum(y * y).backward()
        inner = 2.0 * scale * X
        assert_allclose(x.grad.numpy(), 2.0 * plain(inner) * slope(inner) * 2.0)


@pytest.mark.parametrize("f, plain, slope", CASES.values(), ids=CASES)
def test_without_a_gradient(f, plain, slope):
    y = f(tj.tensor(X))
    assert not y.requires_grad
    assert_allclose(y.numpy(), plain(X))


def test_containers():
    @tj.custom_vjp
    def f(tree):
        return {"sum": np.sum(tree["a"] * tree["b"]), "a": 2.0 * tree["a"]}

    def bwd(tree, g):
        first = g["sum"] * tree["b"] + 2.0 * g["a"]
        return ({"a": first, "b": 10.0 * g["sum"] * tree["a"]},)

    f.defvjp(lambda tree: (f(tree), tree), bwd)
    a, b = tj.tensor(X, requires_grad=True), tj.tensor(2.0 * X, requires_grad=True)
    result = f({"a": a, "b": b})
    (result["sum"] + np.sum(result["a"])).backward()
    assert_allclose(a.grad.numpy(), 2.0 * X + 2.0)
    assert_allclose(b.grad.numpy(), 10.0 * X)


@pytest.mark.parametrize("f, plain, slope", CASES.values(), ids=CASES)
def test_results_as_inputs(f, plain, slope):
    """Gradients with respect to what a rule computed, and hooks there."""
    x = tj.tensor(X, requires_grad=True)
    y = f(x)
    (g,) = tj.autograd_grad(np.sum(y * y), y, retain_graph=True)
    assert_allclose(g.numpy(), 2.0 * plain(X))
    y.retain_grad()
    np.sum(y * y).backward()
    assert_allclose(y.grad.numpy(), 2.0 * plain(X))
    assert_allclose(x.grad.numpy(), 2.0 * plain(X) * slope(X))


def test_matrices_as_inputs():
    x = tj.tensor(np.outer(X, X), requires_grad=True)
    y = doubled_slope(x)
    (g,) = tj.autograd_grad(np.sum(y**3), y)
    assert_allclose(g.numpy(), 3.0 * np.sin(np.outer(X, X)) ** 2)


def test_without_a_rule():
    x = tj.tensor(X, requires_grad=True)
    y = np.sum(tj.pure_callback(np.sort, (3,), x))
    assert_allclose(y.item(), X.sum())
    with pytest.raises(tj.UnsupportedError, match="`sort` has no derivative"):
        y.backward()
