"""tapejit.checkpoint on tensors: the same gradients, in less memory."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj
from tapejit.program import program_for
from tapejit.tensors import plans

X = np.linspace(0.1, 1.0, 2000)


def block(x):
    for _ in range(5):
        x = np.cumsum(np.sin(x) * 0.01)
    return x


def room(loss):
    """Bytes of the workspace that backward from ``loss`` takes."""
    tape = loss.tape()  # whose first input are the numbers
    program = program_for(tape, (1,), "gradient", True)
    workspace = program.checkout()

    def inside(memory):
        arrays = [memory.adjoints, memory.tangents, memory.scratch, memory.context, memory.records]
        return sum(a.nbytes for a in arrays) + sum(map(inside, memory.children))

    size = workspace.values.nbytes + workspace.parameters.nbytes + inside(workspace.memory)
    program.give_back(workspace)
    return size


def gradient(function):
    """The gradient of a function's sum, and the bytes that it takes."""
    x = tj.tensor(X, requires_grad=True)
    loss = function(x).sum()
    size = room(loss)
    loss.backward()
    return x.grad.numpy(), size


def six(step):
    def function(x):
        for _ in range(6):
            x = step(x)
        return x

    return function


def test_less_memory():
    plain, all_kept = gradient(six(block))
    again, fewer_kept = gradient(six(tj.checkpoint(block)))
    assert fewer_kept < 0.8 * all_kept
    assert_allclose(again, plain, rtol=1e-14)
    laid_out = plans.counts["laid out"]
    for step in (block, tj.checkpoint(block)):  # structures of their own, found again
        gradient(six(step))
    assert plans.counts["laid out"] == laid_out


def test_schedules_and_names():
    def saving(x):
        for _ in range(5):
            x = tj.save_name(np.cumsum(np.sin(x) * 0.01), "sum")
        return x

    plain, all_kept = gradient(six(block))
    for function in (
        tj.checkpoint(six(block), schedule=tj.Revolve(snapshots=3)),
        tj.checkpoint(six(tj.checkpoint(block))),
    ):
        found, kept = gradient(function)
        assert kept < all_kept
        assert_allclose(found, plain, rtol=1e-13)
    found, saved = gradient(six(tj.checkpoint(saving, save="sum")))
    _, kept = gradient(six(tj.checkpoint(saving)))
    assert kept < saved
    assert_allclose(found, plain, rtol=1e-13)


def test_names_of_all_kinds():
    x = tj.tensor(X, requires_grad=True)
    tree = tj.save_name({"x": x, "sum": x.sum(), "data": tj.tensor(X), "n": 2.0}, "name")
    (tree["x"].sum() * tree["sum"] * tree["n"]).backward()
    assert_allclose(x.grad.numpy(), 4.0 * X.sum())
    assert not tree["data"].requires_grad
    with tj.no_grad():
        assert_array_equal(tj.save_name(x, "name").numpy(), X)


def test_python_branches_and_closures():
    w = tj.tensor(0.7, requires_grad=True)

    @tj.checkpoint
    def step(x, n):
        if x[0] > 0.2:
            return np.tanh(w * x) * n
        while x[1] < 0.3:
            x = x * 1.5
        return x * w

    found = []
    for scale in (1.0, 5.0):
        w.zero_grad()
        x = tj.tensor(scale * X, requires_grad=True)
        (step(step(x, 2.0), n=3.0) ** 2).sum().backward()
        found.append((x.grad.numpy(), w.grad.item()))
        w.zero_grad()
        x.zero_grad()
        plain = step.__wrapped__
        (plain(plain(x, 2.0), n=3.0) ** 2).sum().backward()
        assert_allclose(found[-1][0], x.grad.numpy(), rtol=1e-13)
        assert_allclose(found[-1][1], w.grad.item(), rtol=1e-13)


def test_across_pieces_and_containers():
    @tj.checkpoint
    def f(tree):
        a, b = tree["a"] * 2.0, np.sin(tree["b"])
        return {"sum": a + b, "product": a * b}

    a, b = (tj.tensor(X * k, requires_grad=True) for k in (1.0, 2.0))
    first, second = np.exp(a), np.cos(b)
    result = f({"a": first, "b": second})
    (result["sum"].sum() + (result["product"] ** 2).sum()).backward()

    def plain(a, b):
        u, v = np.exp(a) * 2.0, np.sin(np.cos(b))
        return np.sum(u + v) + np.sum((u * v) ** 2)

    expected = tj.grad(plain, (0, 1))(X, 2.0 * X)
    assert_allclose(a.grad.numpy(), expected[0], rtol=1e-12)
    assert_allclose(b.grad.numpy(), expected[1], rtol=1e-12)


def test_several_backwards():
    x = tj.tensor(X, requires_grad=True)
    a = tj.checkpoint(block)(x)
    b = tj.checkpoint(block)(x * 2.0)
    a.sum().backward()
    b.sum().backward(retain_graph=True)  # another part of the same piece
    b.sum().backward()
    expected = tj.grad(lambda x: np.sum(block(x)) + 2.0 * np.sum(block(2.0 * x)))(X)
    assert_allclose(x.grad.numpy(), expected, rtol=1e-12)
    with pytest.raises(tj.TraceError, match="retain_graph"):
        a.sum().backward()


def test_hooks_inside_and_second_order():
    seen = []

    @tj.checkpoint
    def f(x):
        y = np.sin(x)
        y.register_hook(lambda g: seen.append(g.shape))
        return y * y

    x = tj.tensor(X, requires_grad=True)
    f(x).sum().backward(create_graph=True)
    assert seen == [X.shape]
    first, x.grad = x.grad, None
    first.sum().backward()
    assert_allclose(first.detach().numpy(), np.sin(2.0 * X), rtol=1e-12)
    assert_allclose(x.grad.numpy(), 2.0 * np.cos(2.0 * X), rtol=1e-12)


def test_what_records_nothing():
    f = tj.checkpoint(block)
    assert_array_equal(f(X), block(X))
    assert_array_equal(f(tj.tensor(X)).numpy(), block(X))
    x = tj.tensor(X, requires_grad=True)
    with tj.no_grad():
        assert not f(x).requires_grad

    @tj.checkpoint
    def fails(x):
        y = np.sin(x)
        raise RuntimeError(y.shape)

    with pytest.raises(RuntimeError, match="2000"):
        fails(x)
    f(x).sum().backward()
    assert_allclose(x.grad.numpy(), tj.grad(lambda x: np.sum(block(x)))(X), rtol=1e-13)


def test_backward_inside():
    @tj.checkpoint
    def f(x):
        y = tj.tensor(2.0, requires_grad=True)
        (y * y * x.sum().detach()).backward()
        return x * y.grad

    x = tj.tensor(X, requires_grad=True)
    f(x).sum().backward()
    assert_allclose(x.grad.numpy(), np.full(2000, 4.0 * X.sum()))
