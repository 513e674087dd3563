"""The graphs behind tensors: random programs, memory, pruning, reuse of programs, forward mode."""

import gc
import resource
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapejit as tj
from tapejit.errors import TraceError
from tapejit.tensors import pieces, plans

# --- random programs ------------------------------------------------------------------------------

_ARRAY_STEPS = {
    "sin": lambda a, b: np.sin(a),
    "mul": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "sub number": lambda a, b: 1.5 - a,
    "div": lambda a, b: a / (2.0 + b * b),
    "tanh": lambda a, b: np.tanh(a) * b,
    "reverse": lambda a, b: a[::-1] + b,
    "matmul": lambda a, b: (a.reshape(2, 3) @ b.reshape(3, 2)).reshape(-1)[[0, 1, 2, 3, 0, 1]],
    "where": lambda a, b: np.where(a > 0, a, b * 0.5),
    "norm": lambda a, b: a * np.sqrt(1.0 + np.sum(b * b)),
    "item": lambda a, b: a * b[2] - a[0],
    "write": lambda a, b: _written(a, b),
    "loop": lambda a, b: _looped(a, b),
    "concatenate": lambda a, b: np.concatenate([a[:2], b[2:]]),
}


def _written(a, b):
    c = a * 1.0
    c[1:3] = b[3:5] * 2.0
    c[0] += c[2]
    return c


def _looped(a, b):
    total = a[0] * 0.1
    for i in range(5):
        total = total + a[i] * b[i + 1] - 0.5 * total
    return a + total


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(_ARRAY_STEPS)), st.integers(0, 5), st.integers(0, 5)),
        min_size=1, max_size=8,
    ),
    split=st.integers(0, 8),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_backward_is_grad(steps, split, seed):
    """Whatever pieces the program is spread over."""

    def f(x, y, cut=lambda: None):
        values = [x, y]
        for k, (name, i, j) in enumerate(steps):
            values.append(_ARRAY_STEPS[name](values[i % len(values)], values[j % len(values)]))
            if k == split:
                cut()
        return np.sum(values[-1] * values[len(values) // 2])

    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 6))
    expected = tj.grad(f, argnums=(0, 1))(x, y)
    a, b = tj.tensor(x, requires_grad=True), tj.tensor(y, requires_grad=True)

    def cut():  # a backward elsewhere closes the piece
        (a * b).sum().backward(retain_graph=True)
        a.zero_grad()
        b.zero_grad()

    f(a, b, cut).backward()
    for t, g in zip((a, b), expected, strict=True):
        got = np.zeros(6) if t.grad is None else t.grad.numpy()
        np.testing.assert_allclose(got, g, rtol=1e-11, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(_ARRAY_STEPS)), min_size=1, max_size=5),
    seed=st.integers(0, 3),
)
def test_jvp_of_tensors_is_jvp(names, seed):
    def f(x, y):
        for name in names:
            x, y = _ARRAY_STEPS[name](x, y), x
        return x * y

    rng = np.random.default_rng(seed)
    x, y, u, v = rng.standard_normal((4, 6))
    value, tangent = tj.jvp(f, (x, y), (u, v))
    primal, moved = tj.jvp(f, (tj.tensor(x), tj.tensor(y)), (u, v))
    np.testing.assert_allclose(primal.numpy(), value, rtol=1e-12)
    np.testing.assert_allclose(moved.numpy(), tangent, rtol=1e-11, atol=1e-12)


# --- forward accumulation -------------------------------------------------------------------------


def test_forward_ad():
    with tj.forward_ad():
        x = tj.make_dual([1.0, 2.0], [1.0, 0.0])
        w = tj.tensor([3.0, 4.0], requires_grad=True)
        d = tj.make_dual(w, [0.0, 1.0])
        y = (d * x * w).sum()
        assert tj.unpack_dual(y).tangent.item() == 9.0 + 8.0
        assert tj.unpack_dual(x * w).tangent.tolist() == [3.0, 0.0]
        assert tj.unpack_dual(w * 2.0).tangent is None
        y.backward()
    assert w.grad.tolist() == [6.0, 16.0]
    with pytest.raises(TraceError, match="forward_ad"):
        tj.unpack_dual(y)
    with pytest.raises(TraceError, match="forward_ad"):
        tj.make_dual(1.0, 1.0)
    with tj.forward_ad(), pytest.raises(ValueError, match="shape"):
        tj.make_dual([1.0, 2.0], [1.0])


# --- memory ---------------------------------------------------------------------------------------


def _train(n, x, body):
    for _ in range(n):
        body(x)


def _with_backward(x):
    loss = (np.sin(x) * x).sum() + x[0] * x[1]
    loss.backward()
    x.grad.zero_()


def _without_backward(x):
    global last
    last = (np.sin(x) * x).sum() + x[0] * x[1]


def _with_a_result_kept(x):
    global kept
    if kept is None or kept.rec.spent:
        kept = np.exp(x)
    loss = (kept * x).sum()
    loss.backward(retain_graph=True)
    x.grad.zero_()


last = kept = None


@pytest.mark.parametrize("body", [_with_backward, _without_backward, _with_a_result_kept])
def test_memory_is_flat_over_ten_thousand_iterations(body):
    global last, kept
    x = tj.tensor(np.linspace(0.1, 1.0, 50), requires_grad=True)
    _train(1500, x, body)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        _train(300, x, body)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = tracemalloc.get_traced_memory()[0]
        _train(10_000, x, body)
        grown = tracemalloc.get_traced_memory()[0] - before
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        gc.enable()
        last = kept = None
    # A graph takes several kB.  Python's table of interned strings may be made anew meanwhile.
    assert grown < 5e6
    assert most < 10e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 20_000  # kilobytes


def test_a_leaf_holds_no_graph():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    piece = weakref.ref(y.rec)
    del y
    assert piece() is None
    z = np.exp(x)
    z.sum().backward()
    piece = weakref.ref(z.rec)
    assert piece().code == ()  # freed, though a result lives on
    del z
    assert piece() is None


def test_unrelated_graphs_do_not_hold_one_another():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    total = x[0] * 0.0
    refs = []
    for _ in range(20):
        loss = x[0] * 1.0
        for _ in range(pieces.SMALLEST // 4):
            loss = loss * x[1] - x[0]
        refs.append(weakref.ref(loss.rec))
        del loss
    total = total + 1.0
    assert sum(ref() is not None for ref in refs) <= 3


# --- what is swept --------------------------------------------------------------------------------


def test_branches_that_are_not_needed_are_not_swept():
    x = tj.tensor(np.linspace(0.1, 1.0, 5), requires_grad=True)
    y = np.sin(x)
    for _ in range(50):
        other = np.exp(y * 0.1) + x[0]
    assert len((y * 2.0).sum().tape()) == 3
    assert other.requires_grad


def test_equal_graphs_within_other_rows_share_a_program():
    x = tj.tensor(np.linspace(0.1, 1.0, 5), requires_grad=True)

    def loss(x):
        return (np.sin(x) * x * 3.0).sum()

    tapes = []
    for k in range(4):
        unused = [np.exp(x) for _ in range(k)]
        y = loss(x)
        tapes.append(y.tape().fingerprint)
        y.backward()
        del unused
    assert len(set(tapes)) == 1


def test_data_in_a_loop_is_no_part_of_the_structure():
    w = tj.tensor(np.zeros(3), requires_grad=True)
    rng = np.random.default_rng(0)
    before = plans.counts["laid out"]
    for k in range(20):
        data = rng.standard_normal((4, 3))
        label = float(k % 2)
        ((data @ w - label) ** 2).mean().backward()
    assert plans.counts["laid out"] - before == 1


def test_views_and_pieces_with_writes_between_backwards():
    x = tj.tensor(np.arange(6.0), requires_grad=True)
    h = x.reshape(2, 3) * 1.0
    first = h[0].sum()
    first.backward(retain_graph=True)
    row = h[1]
    row[:] = row * row
    h.T[0] += 1.0
    x.zero_grad()
    h.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 6.0, 8.0, 10.0]


def test_empty_and_one_element_arrays():
    x = tj.tensor(np.zeros((0, 3)), requires_grad=True)
    (x * 2.0).sum().backward()
    assert x.grad.shape == (0, 3)
    y = tj.tensor([[2.0]], requires_grad=True)
    (y * y).backward()
    assert y.grad.tolist() == [[4.0]]


# --- what is shared -------------------------------------------------------------------------------


def test_detached_tensors_share_memory():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    u = y.detach()
    u[0] = 9.0
    assert y.tolist() == [9.0, 4.0]
    with pytest.raises(TraceError, match=r"changed in place.*an assignment.*test_tensor_graphs"):
        (y * 3.0).sum()


def test_numpy_shares_memory():
    x = tj.tensor([1.0, 2.0])
    x.numpy()[0] = 5.0
    assert x.tolist() == [5.0, 2.0]
    with pytest.raises(TraceError, match="detach"):
        tj.tensor([1.0], requires_grad=True).numpy()


def test_scipy_drives_tensors():
    from scipy.optimize import minimize

    def rosenbrock(values):
        x = tj.tensor(values, requires_grad=True)
        loss = (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()
        loss.backward()
        return loss.item(), x.grad.numpy()

    found = minimize(rosenbrock, np.zeros(5), jac=True, method="BFGS")
    np.testing.assert_allclose(found.x, np.ones(5), atol=1e-5)
