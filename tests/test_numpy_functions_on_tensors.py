"""NumPy's and SciPy's functions on tensors: NumPy's values, types and views; gradients as of grad.

The functions are those of the tests on traced values.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_numpy_functions import CASES, CREATION, SPECIAL, M, V, flatten

import tapejit as tj
import tapejit.numpy as tnp

ALL = {
    **CASES,
    **{f"special_{name}": (function, M) for name, function in SPECIAL.items()},
    **{
        f"namespace_{name}": (lambda x, f=function: f(tnp, x), V)
        for name, function in CREATION.items()
    },
}


def value(leaf):
    """The numbers of a tensor or of a traced value."""
    return getattr(leaf, "value", leaf)


def weighted(leaves):
    """A number of all floats in a result, with a weight of its own for each element."""
    total = 0.0
    for k, leaf in enumerate(leaves):
        if np.asarray(value(leaf)).dtype.kind == "f":
            weights = np.cos(k + np.arange(float(np.size(value(leaf))))).reshape(
                np.shape(value(leaf))
            )
            total = total + np.sum(leaf * weights)
    return total


def same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a = value(a)
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ALL)
def test_with_a_gradient(name):
    function, *args = ALL[name]
    tensors = [tj.tensor(a, requires_grad=True) for a in args]
    results = flatten(function(*tensors))
    same(results, flatten(function(*args)))
    loss = weighted(results)
    if not (isinstance(loss, tj.Tensor) and loss.requires_grad):
        return
    loss.backward()

    def plain(*args):
        return weighted(flatten(function(*args)))

    for tensor, g in zip(tensors, tj.grad(plain, tuple(range(len(args))))(*args), strict=True):
        found = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        assert_allclose(found, g, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_without_a_gradient(name):
    function, *args = ALL[name]
    results = flatten(function(*map(tj.tensor, args)))
    assert not any(isinstance(leaf, tj.Tensor) and leaf.requires_grad for leaf in results)
    same(results, flatten(function(*args)))
    with tj.no_grad():
        again = flatten(function(*[tj.tensor(a, requires_grad=True) for a in args]))
    assert not any(isinstance(leaf, tj.Tensor) and leaf.requires_grad for leaf in again)
    same(again, flatten(function(*args)))
