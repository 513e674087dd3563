"""Tensors where they are seldom looked at: conversions, copies, errors, uncompiled sweeps."""

import copy
import gc
import math
import operator
import pickle
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj
from tapejit.errors import TraceError
from tapejit.tensors import plans
from tapejit.testing import plain_python


def leaf(*values):
    return tj.tensor(np.array(values), requires_grad=True)


# --- sweeps as plain Python -----------------------------------------------------------------------


def scalars(x):
    u, v = x[0], x[1]
    for _ in range(5):
        u, v = u - 0.1 * v * u, v + 0.1 * u * x[2]
    return u * v


def arrays(x):
    return (np.sin(x) @ np.outer(x, x) * np.linalg.norm(x)).sum() + 3.0 * x[1]


def writes(x):
    y = x * 1.0
    y[0] = y[1] * x[2]
    y[1:] *= y[0]
    y[2] += 1.0
    unused = np.exp(y)
    unused[0] = 2.0
    return (y * y).sum()


def loops(x):
    return np.sum(tj.fori_loop(0, 3, lambda i, c: np.sin(c) * x + i, x))


@pytest.mark.parametrize("f", [scalars, arrays, writes, loops])
@pytest.mark.parametrize("create_graph", [False, True])
def test_plain_python(f, create_graph):
    point = np.array([0.4, 1.1, 0.8])
    expected = tj.grad(f)(point)
    with plain_python():
        x = tj.tensor(point, requires_grad=True)
        y = f(x)
        y.backward(create_graph=create_graph)
    assert_allclose(x.grad.detach().numpy(), expected, rtol=1e-12)
    if create_graph:
        with plain_python():
            (rows,) = tj.autograd_grad((x.grad * point).sum(), x)
        assert_allclose(rows.numpy(), tj.hessian(f)(point) @ point, rtol=1e-10)


def test_plain_python_of_several_pieces():
    with plain_python():
        x, w = leaf(0.4, 1.1), leaf(2.0, 3.0)
        a, b = x * x, np.sin(w)
        y = (a[0] * b[1] + (a * b).sum()) * x[0]
        y.retain_grad()
        (y * y).backward()
    expected = tj.grad(
        lambda x, w: (((x * x)[0] * np.sin(w)[1] + np.sum(x * x * np.sin(w))) * x[0]) ** 2, (0, 1)
    )(x.detach().numpy(), w.detach().numpy())
    assert_allclose(x.grad.numpy(), expected[0], rtol=1e-12)
    assert_allclose(w.grad.numpy(), expected[1], rtol=1e-12)
    assert_allclose(y.grad.item(), 2.0 * y.item())


# --- numbers and conversions ----------------------------------------------------------------------


def test_as_python_numbers():
    x = tj.tensor(2.6, requires_grad=True)
    assert (int(x), math.trunc(x), math.floor(x), math.ceil(x), round(x)) == (2, 2, 2, 3, 3)
    assert complex(x) == 2.6 and float(x) == 2.6 and bool(x)
    assert round(tj.tensor(2.66), 1).item() == 2.7
    assert f"{x:.2f}" == "2.60" and f"{x}" == str(x) == repr(x)
    assert operator.index(tj.tensor(3)) == 3 and [10, 20, 30][tj.tensor(1)] == 20
    with pytest.raises(TypeError):
        operator.index(x)
    assert x.real is x and x.T is x and x[()] is x and x[...] is x
    assert x[None].shape == (1,) and x[None].requires_grad
    for wrong in (lambda: len(x), lambda: list(x), lambda: x[0]):
        with pytest.raises((TypeError, IndexError)):
            wrong()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        x.nonsense  # noqa: B018


def test_attributes_of_arrays():
    x = tj.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert x.itemsize == 8 and x.nbytes == 48 and x.strides == (24, 8)
    assert x.mT.shape == (3, 2) and x.flat.shape == (6,) and len(x) == 2
    assert [row.tolist() for row in x] == x.tolist()
    assert x.item(1, 2) == 5.0 and x.dim() == 2 and x.numel() == 6


def test_plain_arrays_of_tensors():
    x = leaf(1.0, 2.0)
    s = x.sum()
    with pytest.raises(TraceError, match=r"np\.stack"):
        np.asarray(x)
    with pytest.raises(TraceError, match=r"np\.stack"):
        np.asarray(s, dtype=float)
    assert np.array([s, s]).dtype == object  # taken by NumPy functions
    assert np.sum(np.array([s, s])).requires_grad
    assert np.asarray(x.detach()).tolist() == [1.0, 2.0]
    with tj.no_grad():
        assert np.asarray(x).tolist() == [1.0, 2.0] and float(np.asarray(s)) == 3.0


def test_storing_into_a_plain_array_is_no_silent_detaching():
    x = tj.tensor(2.0, requires_grad=True)
    out = np.zeros(3)
    out[0] = x.item()
    with pytest.raises(ValueError, match="sequence") as error:
        out[0] = x * x
    assert isinstance(error.value.__cause__, TraceError)
    assert "make the array a tensor" in str(error.value.__cause__)
    with pytest.raises(TraceError, match="would become a plain number"):
        out[:2] = x
    out[1] = float(x)
    with tj.no_grad():
        out[2] = x
    assert out.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(TraceError, match="assign the result"):
        out += x


def test_copies_and_pickles():
    x = leaf(1.0, 2.0)
    twin = copy.deepcopy(x)
    assert twin.is_root and twin is not x and twin.tolist() == [1.0, 2.0]
    assert copy.copy(x).requires_grad and not copy.copy(x).is_leaf
    again = pickle.loads(pickle.dumps(x))
    assert again.is_root and again.tolist() == [1.0, 2.0]
    assert not pickle.loads(pickle.dumps(tj.tensor(3))).requires_grad
    for refused in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TraceError, match="only leaves"):
            refused(x * 2.0)


def test_data_of_other_kinds():
    with pytest.raises(TraceError, match="tensors hold numbers"):
        tj.tensor("abc")
    with pytest.raises(TraceError, match="lose digits"):
        tj.tensor(np.ones(2, np.longdouble))
    assert tj.tensor(tj.tensor([1, 2])).dtype == np.int64
    assert tj.tensor([tj.tensor(1.0), 2.0]).tolist() == [1.0, 2.0]
    assert tj.tensor(np.array([True, False])).dtype == bool
    assert tj.tensor(np.ones(2, np.float32), requires_grad=True).dtype == np.float64


# --- in place -------------------------------------------------------------------------------------


def test_numbers_keep_their_dtype_in_place():
    count = tj.tensor(3)
    count += 1
    assert count.dtype == np.int64 and count.item() == 4
    assert count.fill_(7).item() == 7 and count.copy_(2.7).dtype == np.int64
    with pytest.raises(TypeError, match="would store float64 in a tensor of int64"):
        count += 0.5
    with pytest.raises(TypeError, match="would store float64"):
        tj.tensor([3]).data = [4.5]
    count.data = 9
    assert count.item() == 9


def test_changes_of_numbers_are_named():
    for change, name in (
        (lambda x: x.add_(1.0), r"add_"), (lambda x: operator.imul(x, 2.0), r"\*="),
        (lambda x: x.fill_(3.0), "fill_"), (lambda x: setattr(x, "data", 1.0), "to data"),
    ):  # fmt: skip
        x = tj.tensor(2.0, requires_grad=True)
        y = x * x
        with tj.no_grad():
            change(x)
        with pytest.raises(TraceError, match=rf"in place by .*{name} \(.*test_tensor_edges.py:\d+"):
            y.backward()


def test_refused_changes():
    x = leaf(1.0, 2.0)
    s = x.sum()
    with pytest.raises(TraceError, match="0-d result"):
        s.fill_(1.0)
    with pytest.raises(TraceError, match="assign it: x = value"):
        tj.tensor(1.0).fill_(s)
    with pytest.raises(IndexError, match="too many indices"):
        tj.tensor(1.0)[0] = 2.0
    with pytest.raises(TraceError, match="plain NumPy array; make it a tensor"):
        np.copyto(np.zeros(2), x)
    y = x * 2.0
    with pytest.raises(TraceError, match="inside of no_grad"), tj.no_grad():
        y += 1.0
    with pytest.raises(ValueError):
        y[:] = np.ones(3)  # wrong shape: nothing is changed
    with pytest.raises(ValueError, match="data of shape"):
        x.data = [1.0]
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0] and y.tolist() == [2.0, 4.0]


def test_changes_without_a_graph():
    x = tj.tensor([3.0, 1.0, 2.0])
    x.sort()
    assert x.tolist() == [1.0, 2.0, 3.0]
    np.copyto(x, [5.0, 6.0, 7.0])
    x.put([0], 9.0)
    np.add(x, 1.0, out=x)
    np.add.at(x, [0, 0], 1.0)
    x @= np.eye(3)
    x -= 1.0
    x /= 1.0
    x.data = [1.0, 4.0, 9.0]
    x **= 0.5
    assert x.tolist() == [1.0, 2.0, 3.0]
    assert x.zero_() is x and x.tolist() == [0.0, 0.0, 0.0]


def test_recorded_changes():
    x = leaf(3.0, 1.0, 2.0)
    y = x * 1.0
    y.sort()
    y **= 2.0
    np.multiply(y, x, out=y)
    (result,) = (np.add(y, 1.0, out=(y,)),)
    assert result is y
    np.copyto(y, y * 2.0, where=np.array([True, False, True]))
    np.add.at(y, [0, 0, 1], x)
    y.sum().backward()

    def f(x):
        y = np.sort(x) ** 2.0 * x + 1.0
        y = y * np.array([2.0, 1.0, 2.0])
        return np.sum(y) + np.sum(x)

    assert_allclose(x.grad.numpy(), tj.grad(f)(np.array([3.0, 1.0, 2.0])), rtol=1e-13)


def test_a_number_joins_a_graph_in_place():
    x = leaf(1.0, 2.0)
    total = tj.tensor(0.0)
    total += x.sum()
    total *= total
    total.backward()
    assert x.grad.tolist() == [6.0, 6.0]


# --- requires_grad, grad --------------------------------------------------------------------------


def test_requires_grad_of_leaves():
    x = tj.tensor([1.0])
    x.requires_grad = True
    assert x.is_root
    x.requires_grad = False
    assert not x.requires_grad
    n = tj.tensor(1.0)
    assert n.requires_grad_().is_root and not n.requires_grad_(False).requires_grad
    with pytest.raises(TraceError, match="dtype int64"):
        tj.tensor(1).requires_grad_()
    y = leaf(1.0) * 2.0
    assert y.requires_grad_() is y
    with pytest.raises(TraceError, match="leaves only"):
        y.requires_grad_(False)


def test_grad_may_be_assigned():
    x = leaf(1.0, 2.0)
    x.grad = [1.0, 1.0]
    (x * x).sum().backward()
    assert x.grad.tolist() == [3.0, 5.0]
    x.grad = tj.tensor([1, 2])
    (x * x).sum().backward()
    assert x.grad.tolist() == [3.0, 6.0]
    x.grad = None
    assert x.grad is None
    with pytest.raises(ValueError, match=r"shape \(3,\) for a tensor of shape \(2,\)"):
        x.grad = np.ones(3)


def test_gradients_that_are_no_numbers():
    y = leaf(1.0, 2.0) * 2.0
    with pytest.raises(TraceError, match="dtype complex128"):
        y.backward(np.array([1j, 1.0]))
    with pytest.raises(ValueError, match="shape"):
        y.backward("ab")
    y.backward([1, 2], retain_graph=True)  # lists of integers will do


def test_hooks_that_fail_leave_the_leaves_alone():
    x = leaf(1.0, 2.0)

    def fails(g):
        raise RuntimeError("no")

    handle = x.register_hook(fails)
    with pytest.raises(RuntimeError, match="no"):
        (x * x).sum().backward()
    assert x.grad is None
    handle.remove()
    handle.remove()  # as often as one likes
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]
    with pytest.raises(TypeError, match="a hook is a function"):
        x.register_hook(3)
    with pytest.raises(TraceError, match="does not require"):
        tj.tensor(1.0).retain_grad()


def test_a_backward_within_a_hook():
    x, w = leaf(1.0, 2.0), leaf(3.0)

    @tj.enable_grad()
    def nested(g):
        (w * g.sum()).sum().backward()

    x.register_hook(nested)
    (x * x).sum().backward()
    assert w.grad.tolist() == [6.0] and x.grad.tolist() == [2.0, 4.0]


def test_outputs_that_are_looked_at_themselves():
    x = leaf(1.0, 2.0)
    y = x * x
    y.retain_grad()
    y.register_hook(lambda g: 2.0 * g)
    y.backward([1.0, 1.0])
    assert y.grad.tolist() == [2.0, 2.0] and x.grad.tolist() == [4.0, 8.0]


def test_cotangents_that_are_parts_of_other_graphs():
    x, v = leaf(1.0, 2.0), leaf(3.0, 4.0, 5.0)
    y, u = np.sin(x), v * v
    for seed, expected in ((u[1:], lambda v: (v * v)[1:]), (u[:2] * 1.0, lambda v: (v * v)[:2])):
        (g,) = tj.autograd_grad(y, x, seed, create_graph=True)
        (found,) = tj.autograd_grad((g * g).sum(), v, retain_graph=True)
        wanted = tj.grad(
            lambda v, e=expected: np.sum((e(v) * np.cos(np.array([1.0, 2.0]))) ** 2)
        )(np.array([3.0, 4.0, 5.0]))  # fmt: skip
        assert_allclose(found.numpy(), wanted, rtol=1e-12)
    (g,) = tj.autograd_grad(x.sum() * 2.0, x, v[0] * 1.0, create_graph=True)
    (found,) = tj.autograd_grad(g.sum(), v)
    assert found.tolist() == [4.0, 0.0, 0.0]


def test_gradients_of_gradients_of_results():
    x = leaf(1.0, 2.0)
    s, y = x.sum(), x * x
    (gs, gy) = tj.autograd_grad((s * y).sum() * s, [s, y], create_graph=True)
    (found,) = tj.autograd_grad(gs * gy.sum(), x)
    # s = x0 + x1; gs = 2 s (x0² + x1²), each gy = s²
    wanted = tj.grad(lambda x: 4.0 * np.sum(x) ** 3 * np.sum(x * x))(np.array([1.0, 2.0]))
    assert_allclose(found.numpy(), wanted, rtol=1e-12)


# --- forward, threads, no_grad --------------------------------------------------------------------


def test_duals_that_are_results_of_leaves():
    with tj.forward_ad():
        x = tj.make_dual([1.0, 2.0], [1.0, 0.0])
        assert tj.unpack_dual(x).tangent.tolist() == [1.0, 0.0]
        assert tj.unpack_dual(leaf(1.0)).tangent is None
        assert tj.unpack_dual(leaf(1.0) * 2.0).tangent is None
        assert tj.unpack_dual(3.0) == (3.0, None)
        with pytest.raises(ValueError, match="tangent of shape"):
            tj.make_dual([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="tangents have the structure"):
        tj.jvp(lambda x: x, (tj.tensor(1.0),), ((1.0, 2.0),))
    with pytest.raises(TraceError, match="outside of"):
        tj.make_dual(1.0, 1.0)


def test_threads_accumulate_into_one_leaf():
    w = tj.tensor(np.zeros(3), requires_grad=True)

    def work():
        for _ in range(50):
            (w * np.ones(3)).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert w.grad.tolist() == [150.0] * 3


def test_tensors_of_no_grad_are_constants():
    x = leaf(1.0, 2.0)
    with tj.no_grad():
        frozen = x * x
    assert frozen.is_leaf and not frozen.requires_grad
    (frozen * x).sum().backward()
    assert x.grad.tolist() == [1.0, 4.0]
    with pytest.raises(TraceError, match="inside of no_grad"):
        frozen.sum().backward()


@pytest.mark.parametrize("transform", [tj.jit, tj.grad, tj.hessian, tj.jacobian, tj.value_and_grad])
def test_traced_functions_refuse_tensors_with_a_graph(transform):
    x = leaf(1.0, 2.0)
    with pytest.raises(TraceError, match=r"test_tensor_edges.py:\d+: .*call the Python function"):
        transform(lambda v: np.sum(v * v))(x)


# --- memory ---------------------------------------------------------------------------------------


def test_plans_are_forgotten_the_unused_first():
    before = plans.MAX_PLANS
    x = leaf(1.0, 2.0)

    def step(n):
        y = x
        for _ in range(n):
            y = y + 1.0
        (y * y).sum().backward(np.float64(1.0))

    try:
        plans.MAX_PLANS = 4
        for n in range(8):
            step(1)
            step(n)
        laid_out = plans.counts["laid out"]
        step(1)
        assert plans.counts["laid out"] == laid_out
        assert len(plans._plans) <= 4
    finally:
        plans.MAX_PLANS = before


def test_long_graphs_are_freed_without_recursion():
    x = tj.tensor(0.5, requires_grad=True)
    y = x
    for _ in range(60_000):
        y = y * 1.0000001
    y.backward()
    del y
    gc.collect()
    assert_allclose(x.grad.item(), 1.0000001**60_000)
