"""Staged loops and branches on tensors: one instruction of their graph."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj
from tapejit.tensors import plans

RNG = np.random.default_rng(4)
W, U, XS = RNG.normal(size=(3, 3)) / 2.0, RNG.normal(size=(3, 2)), RNG.normal(size=(6, 2))
H = np.array([0.1, -0.4, 0.7])


def recurrent(w, u, xs, h):
    """Closes over two of its arguments."""
    h, ys = tj.scan(lambda h, x: (np.tanh(w @ h + u @ x), h * w[0]), h, xs)
    return np.sum(h) + np.sum(ys**2)


def both_sides(w, u, xs, h):
    """Outer values left and right, in functions, comparisons, containers and as indices' base."""

    def body(i, c):
        s, v = c["s"], c["v"]
        v = np.where(u[0, 0] > v, w @ v, v @ w) + np.stack([s, w[0, 1], h[i % 3]])
        return {"s": s * w[i % 3, 0] + np.maximum(xs[0, 0], s), "v": v}

    end = tj.fori_loop(0, 4, body, {"s": h[0], "v": h})
    return end["s"] + np.sum(end["v"])


def newton(w, u, xs, h):
    a = 4.0 + h[0] * w[0, 0]
    return tj.while_loop(lambda x: abs(x * x - a) > 1e-12, lambda x: 0.5 * (x + a / x), 3.0)


def nested(w, u, xs, h):
    def inner(j, c):
        return tj.cond(c[0] < h[1], lambda c: w @ c, lambda c: c - h, c) * 0.9

    return np.sum(tj.fori_loop(0, 3, lambda i, c: tj.fori_loop(0, 2, inner, c + i * xs[0, 0]), h))


def switched(w, u, xs, h):
    branches = [lambda c: w @ c, np.sin, lambda c: c * h]
    return np.sum(tj.fori_loop(0, 6, lambda i, c: tj.switch(i % 3, branches, c), h))


def descent_inside(w, u, xs, h):
    """A gradient in the body, of a function that closes over arguments."""
    slope = tj.grad(lambda c: np.sum((w @ c - h) ** 2))
    return np.sum(tj.fori_loop(0, 3, lambda i, c: c - 0.1 * slope(c), h))


def checkpointed(w, u, xs, h):
    h, _ = tj.scan(lambda h, x: (np.tanh(w @ h + u @ x), None), h, xs, checkpoint=tj.Revolve(2))
    return np.sum(h)


PROGRAMS = [
    recurrent, both_sides, newton, nested, switched, descent_inside, checkpointed
]  # fmt: skip


@pytest.mark.parametrize("f", PROGRAMS)
def test_gradients_agree_with_those_of_functions(f):
    arrays = [W, U, XS, H]
    expected = tj.grad(f, (0, 1, 2, 3))(*arrays)
    before = None
    for _ in range(3):
        tensors = [tj.tensor(a, requires_grad=True) for a in arrays]
        y = f(*tensors)
        assert_allclose(y.item(), tj.jit(f)(*arrays), rtol=1e-13)
        y.backward()
        for tensor, g in zip(tensors, expected, strict=True):
            found = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
            assert_allclose(found, g, rtol=1e-11, atol=1e-13)
        laid_out, before = before, plans.counts["laid out"]
    assert laid_out == before  # the third found the program of the second


@pytest.mark.parametrize("f", [recurrent, newton])
def test_of_results_and_constants(f):
    """Operands that were computed, mixed with arrays and with tensors of data."""
    half = tj.tensor(W / 2.0, requires_grad=True)
    f(half * 2.0, U, tj.tensor(XS), H).backward()
    assert_allclose(half.grad.numpy(), 2.0 * tj.grad(f)(W, U, XS, H), rtol=1e-11)


@pytest.mark.parametrize("f", PROGRAMS)
def test_nothing_is_recorded_without_need(f):
    y = f(*map(tj.tensor, (W, U, XS, H)))
    assert not y.requires_grad
    with tj.no_grad():
        z = f(*[tj.tensor(a, requires_grad=True) for a in (W, U, XS, H)])
    assert not z.requires_grad
    assert_allclose([y.item(), z.item()], tj.jit(f)(W, U, XS, H), rtol=1e-13)


def test_one_instruction():
    x = tj.tensor(0.3, requires_grad=True)
    y = tj.fori_loop(0, 1000, lambda i, c: np.sin(c) + x, x)
    assert len(y.tape()) <= 2


def test_types_of_results():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    i, c = tj.fori_loop(0, 3, lambda i, c: (c[0] + 1, c[1] * x), (0, x))
    assert i.dtype == np.int64 and i.item() == 3 and not i.requires_grad
    assert c.tolist() == [1.0, 16.0] and c.requires_grad
    _, ys = tj.scan(lambda c, _: (c + 1, c > 1), 0, length=3)
    assert ys.dtype == bool and ys.tolist() == [False, False, True]
    _, ys = tj.scan(lambda c, _: (c + x[0], c > x), x, length=3)
    assert ys.dtype == bool and ys.tolist() == [[False, False], [True, True], [True, True]]
    assert not ys.requires_grad


def test_arrays_of_tensors_as_carries():
    x = tj.tensor(2.0, requires_grad=True)
    carry = np.array([x, x * x], object)
    y = tj.fori_loop(0, 2, lambda i, c: c * c, carry)
    np.sum(y).backward()
    assert x.grad.item() == 4 * 2.0**3 + 8 * 2.0**7


def test_branches_choose_at_once():
    x = tj.tensor(0.7, requires_grad=True)
    ran = []
    y = tj.cond(x, lambda v: ran.append("true") or np.sin(v), lambda v: ran.append("false"), x)
    z = tj.switch(tj.tensor(1), [np.exp, np.cos], x)
    (y + z).backward()
    assert ran == ["true"]
    assert_allclose(x.grad.item(), np.cos(0.7) - np.sin(0.7))
    assert tj.cond(x > 0.0, lambda: x, lambda: -x) is x


def test_bounds_of_loops():
    x = tj.tensor(2.0, requires_grad=True)
    assert tj.fori_loop(0, tj.tensor(3), lambda i, c: c * x, 1.0).item() == 8.0


@pytest.mark.parametrize("f", [recurrent, newton, nested])
def test_second_order(f):
    w = tj.tensor(W, requires_grad=True)
    (g,) = tj.autograd_grad(f(w, U, XS, H), w, create_graph=True)
    (gg,) = tj.autograd_grad((g * U[:, :1]).sum(), w)
    _, expected = tj.jvp(
        tj.grad(lambda w: f(w, U, XS, H)), (W,), (np.broadcast_to(U[:, :1], W.shape),)
    )
    assert_allclose(gg.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_forward_mode():
    value, tangent = tj.jvp(lambda h: recurrent(W, U, XS, h), (tj.tensor(H),), (np.ones(3),))
    _, expected = tj.jvp(lambda h: recurrent(W, U, XS, h), (H,), (np.ones(3),))
    assert_allclose(value.item(), tj.jit(recurrent)(W, U, XS, H), rtol=1e-13)
    assert_allclose(tangent.item(), expected, rtol=1e-12)


def test_values_changed_in_place_are_noticed():
    w = tj.tensor(W, requires_grad=True)
    y = recurrent(w, U, XS, H)
    with tj.no_grad():
        w *= 2.0
    with pytest.raises(tj.TraceError, match=r"changed in place by \*="):
        y.backward()


def test_tensors_of_other_threads():
    w = tj.tensor(W, requires_grad=True)
    v = w * 2.0
    found = []

    def work():
        try:
            recurrent(v, U, XS, H)
        except tj.TraceError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "another thread" in found[0]


def test_errors_in_bodies():
    x = tj.tensor([1.0, 2.0], requires_grad=True)

    def writes(i, c):
        x[0] = c
        return c

    with pytest.raises(tj.TraceError, match="in place on a leaf"):
        tj.fori_loop(0, 2, writes, 1.0)
    with pytest.raises(tj.TraceError, match="Python branch"):
        tj.fori_loop(0, 2, lambda i, c: c if c > x[0] else 2.0 * c, 1.0)
    leaked = []
    with pytest.warns(tj.SideEffectWarning):
        tj.fori_loop(0, 2, lambda i, c: leaked.append(c) or c, 1.0)
    with pytest.raises(tj.TracerLeakError):
        x * leaked[0]
    x.sum().backward()  # nothing was spoilt
    assert x.grad.tolist() == [1.0, 1.0]
