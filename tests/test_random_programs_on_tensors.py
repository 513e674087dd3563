"""The random programs of the tests on traced functions, on tensors: all orders, all modes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_random_programs import SETTINGS, N, everything, points, run

import tapejit as tj


def check(program, seed):
    x = points(seed)[0]
    v = np.linspace(-1.0, 1.0, N)

    def f(x):
        return run(program, x)

    value, gradient = tj.value_and_grad(f)(x)
    product = tj.hvp(f)(x, v)
    scale = 1.0 + np.abs(gradient).max() + np.abs(product).max()
    for _ in range(2):
        tensor = tj.tensor(x, requires_grad=True)
        y = f(tensor)
        y.backward(retain_graph=True)
        assert abs(y.item() - value) <= 1e-11 * (1.0 + abs(value))
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=1e-11 * scale)
        (g,) = tj.autograd_grad(y, tensor, create_graph=True)
        np.testing.assert_allclose(g.detach().numpy(), gradient, atol=1e-11 * scale)
        if g.requires_grad:
            (found,) = tj.autograd_grad((g * v).sum(), tensor, allow_unused=True)
            found = np.zeros(N) if found is None else found.numpy()
            np.testing.assert_allclose(found, product, atol=1e-10 * scale)
        else:
            assert not product.any()
    _, tangent = tj.jvp(f, (tj.tensor(x),), (v,))
    assert abs(tangent.item() - gradient @ v) <= 1e-11 * scale * N
    assert tensor.tolist() == x.tolist()


@SETTINGS
@given(st.lists(everything, min_size=1, max_size=10), st.integers(0, 1000))
def test_random_programs(program, seed):
    check(program, seed)


@pytest.mark.deep
@settings(SETTINGS, max_examples=150)
@given(st.lists(everything, min_size=1, max_size=20), st.integers(0, 1000))
def test_longer_programs(program, seed):
    check(program, seed)
