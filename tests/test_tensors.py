"""Tensors: values at once, gradients by ``backward``, with PyTorch's words and results."""

import gc
import threading
import weakref

import numpy as np
import pytest

import tapejit as tj
from tapejit.errors import TraceError
from tapejit.tensors import plans


def _rng():
    return np.random.default_rng(5)


# --- values ---------------------------------------------------------------------------------------


def test_prints_like_an_array():
    assert str(tj.tensor([0.0, 1.0, 2.0])) == "tensor([0., 1., 2.])"
    assert repr(tj.tensor([1, 2])) == "tensor([1, 2], dtype=int64)"
    x = tj.tensor([[1.0, 2.0], [3.0, 4.5]], requires_grad=True)
    assert repr(x) == "tensor([[1. , 2. ],\n        [3. , 4.5]], requires_grad=True)"
    assert f"{tj.tensor(0.123456):.2f}" == "0.12"


def test_data_is_copied():
    data = np.arange(3.0)
    x = tj.tensor(data)
    data[0] = 7.0
    assert x.tolist() == [0.0, 1.0, 2.0]


def test_attributes():
    x = tj.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert (x.shape, x.ndim, x.size, len(x), x.dtype) == ((2, 3), 2, 6, 2, np.float64)
    assert x.T.shape == (3, 2)
    assert x.is_leaf and x.requires_grad and x.grad is None
    assert (x * 2).requires_grad and not (x * 2).is_leaf
    assert [row.tolist() for row in x] == x.tolist()


def test_numbers_of_one_element():
    x = tj.tensor([2.5], requires_grad=True)
    assert (float(x.sum()), int(x.sum()), x.item(), bool(x.sum() > 2)) == (2.5, 2, 2.5, True)
    with pytest.raises(ValueError):
        bool(tj.tensor([1.0, 2.0]))


def test_comparisons_and_positions_have_no_graph():
    x = tj.tensor([3.0, 1.0, 2.0], requires_grad=True)
    for result in (x > 1.5, np.argsort(x), x.argmax(), np.isfinite(x), x == x):
        assert not result.requires_grad
    assert x[x > 1.5].tolist() == [3.0, 2.0]
    assert np.where(x > 1.5, x, 0.0).requires_grad


def test_tensors_as_indices_and_conditions():
    x = tj.tensor([3.0, 1.0, 2.0], requires_grad=True)
    order = np.argsort(x)
    y = (x[order] * np.array([1.0, 10.0, 100.0])).sum()
    y.backward()
    assert x.grad.tolist() == [100.0, 1.0, 10.0]


# --- gradients, side by side with PyTorch ---------------------------------------------------------


def _same(name, ours, theirs):
    np.testing.assert_allclose(
        getattr(ours, "value", ours), np.asarray(theirs), rtol=1e-12, atol=1e-12, err_msg=name
    )


#: Name, function of (library namespace of methods only, tensors), shapes.
PROGRAMS = {
    "dot": (lambda x: 2 * x.dot(x), [(4,)]),
    "sum": (lambda x: x.sum(), [(3, 4)]),
    "mean": (lambda x: (x * x).mean(), [(3, 4)]),
    "norm": (lambda x: x.norm(), [(4,)]),
    "matrix": (lambda X, w, y: ((X @ w - y) ** 2).sum(), [(5, 3), (3,), (5,)]),
    "functions": (lambda x: (x.sin() * x.exp() + x.tanh() / (1 + x * x)).sum(), [(6,)]),
    "reshape": (lambda x: (x.reshape(3, 4)[1] * x.reshape(4, 3)[:, 1].sum()).sum(), [(12,)]),
    "transpose": (lambda x: (x.T @ x).sum(), [(3, 4)]),
    "indexing": (lambda x: x[0] * x[1] + x[2:].sum() * x[-1], [(6,)]),
    "broadcasting": (lambda x, y: (x[:, None] * y[None, :] - y).sum(), [(3,), (4,)]),
    "powers": (lambda x: ((x * x + 1.0) ** 1.5 / 3.0 + x**3 - 2.0**x).sum(), [(4,)]),
    "scalar loop": (lambda x: _scalar_loop(x), [(5,)]),
    "division": (lambda x, y: (1.0 / (x * x + 1.0) - y / (2.0 + x * x)).sum(), [(4,), (4,)]),
    "means by axis": (lambda x: ((x - x.mean(0)) ** 2).sum(), [(4, 3)]),
}


def _scalar_loop(x):
    total = x[0] * 0.0
    for i in range(len(x) - 1):
        total = total + 100.0 * (x[i + 1] - x[i] * x[i]) ** 2 + (1.0 - x[i]) ** 2
    return total


@pytest.mark.parametrize("name", PROGRAMS)
def test_agrees_with_pytorch(name):
    torch = pytest.importorskip("torch")
    function, shapes = PROGRAMS[name]
    for _ in range(2):  # laid out, then found again
        values = [_rng().standard_normal(shape) for shape in shapes]
        ours = [tj.tensor(value, requires_grad=True) for value in values]
        theirs = [torch.tensor(value, requires_grad=True) for value in values]
        y, z = function(*ours), function(*theirs)
        _same(name, y.detach(), z.detach())
        y.backward()
        z.backward()
        for a, b in zip(ours, theirs, strict=True):
            _same(name, a.grad, b.grad)


@pytest.mark.parametrize("name", PROGRAMS)
def test_agrees_with_grad(name):
    function, shapes = PROGRAMS[name]
    if name in ("norm", "functions"):
        pytest.skip("written with methods that arrays lack")
    values = [_rng().standard_normal(shape) for shape in shapes]
    tensors = [tj.tensor(value, requires_grad=True) for value in values]
    function(*tensors).backward()
    expected = tj.grad(function, argnums=tuple(range(len(values))))(*values)
    for a, b in zip(tensors, expected, strict=True):
        _same(name, a.grad, b)


# --- backward -------------------------------------------------------------------------------------


def test_gradients_accumulate():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    for times in (1, 2, 3):
        (x * x).sum().backward()
        assert x.grad.tolist() == [2.0 * times, 4.0 * times]
    x.grad.zero_()
    assert x.grad.tolist() == [0.0, 0.0]
    x.zero_grad()
    assert x.grad is None


def test_gradient_of_a_number_accumulates_and_is_zeroed():
    a = tj.tensor(3.0, requires_grad=True)
    (a * a).backward()
    (a * a).backward()
    assert a.grad.item() == 12.0
    a.grad.zero_()
    assert a.grad.item() == 0.0


def test_several_losses():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    first, second = (x * x).sum(), (3.0 * x).sum()
    first.backward()
    second.backward()
    assert x.grad.tolist() == [5.0, 7.0, 9.0]


def test_losses_with_a_common_part_need_retain_graph():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    common = x * x
    first, second = common.sum(), (common * 2.0).sum()
    first.backward(retain_graph=True)
    second.backward()
    assert x.grad.tolist() == [6.0, 12.0]
    with pytest.raises(TraceError, match="retain_graph"):
        first.backward()


def test_common_parts_count_for_each_use():
    x = tj.tensor(2.0, requires_grad=True)
    y = x * x
    (y + y * y).backward()
    assert x.grad.item() == 4.0 + 4.0 * 2.0**3


def test_non_scalar_needs_a_gradient():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    with pytest.raises(TraceError, match="gradient="):
        y.backward()
    y.backward(np.array([1.0, 10.0]))
    assert x.grad.tolist() == [2.0, 40.0]


def test_detach():
    x = tj.tensor([0.0, 1.0, 2.0, 3.0], requires_grad=True)
    y = x * x
    u = y.detach()
    (u * x).sum().backward()
    assert x.grad.tolist() == u.tolist()
    x.grad.zero_()
    y.sum().backward()
    assert x.grad.tolist() == (2 * x.detach()).tolist()


def test_detached_leaf_is_a_constant():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    (x * x.detach()).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0]


def test_control_flow():
    def f(a):
        b = a * 2
        while b.norm() < 1000:
            b = b * 2
        return b if b.sum() > 0 else 100 * b

    for value in (0.3, -1.7, 25.0):
        a = tj.tensor(value, requires_grad=True)
        d = f(a)
        d.backward()
        assert a.grad == d / a


def test_no_grad_and_enable_grad():
    x = tj.tensor([1.0], requires_grad=True)
    assert tj.is_grad_enabled()
    with tj.no_grad():
        assert not tj.is_grad_enabled()
        assert not (x * 2).requires_grad
        with tj.enable_grad():
            assert (x * 2).requires_grad
    assert tj.is_grad_enabled()

    @tj.no_grad()
    def value():
        return x * 2

    assert not value().requires_grad


def test_no_grad_as_a_decorator_nests():
    x = tj.tensor([1.0], requires_grad=True)

    @tj.no_grad()
    def f(n):
        return f(n - 1) if n else x * 2

    assert not f(3).requires_grad
    assert tj.is_grad_enabled()


def test_elements_of_leaves():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (x[0] * x[-1] * x[-3]).backward()
    assert x.grad.tolist() == [6.0, 0.0, 1.0]
    with pytest.raises(IndexError):
        x[3]
    with pytest.raises(IndexError):
        x[-4]


def test_gradient_descent_under_no_grad():
    rng = _rng()
    X, truth = rng.standard_normal((20, 2)), np.array([3.0, -2.0])
    y = X @ truth
    w = tj.tensor(np.zeros(2), requires_grad=True)
    for _ in range(200):
        loss = ((X @ w - y) ** 2).mean()
        loss.backward()
        with tj.no_grad():
            w -= 0.2 * w.grad
        w.grad.zero_()
    np.testing.assert_allclose(w.detach().numpy(), truth, atol=1e-8)
    assert w.is_leaf and w.requires_grad


def test_number_as_parameter():
    a = tj.tensor(5.0, requires_grad=True)
    same = a
    for _ in range(100):
        ((a - 2.0) ** 2).backward()
        with tj.no_grad():
            a -= 0.3 * a.grad
        a.grad.zero_()
    assert abs(a.item() - 2.0) < 1e-8 and same is a


# --- in place -------------------------------------------------------------------------------------


def test_writes_into_a_plain_tensor_are_recorded():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    out = tj.tensor(np.zeros(3))
    for i in range(3):
        out[i] = x[i] * x[2 - i]
    assert out.requires_grad
    (out * np.array([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [303.0, 40.0, 101.0]


def test_writes_and_views_share_memory():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 1.0
    row = y[1:]
    row *= 10.0
    y[0] = y[2] * y[0]
    assert y.tolist() == [30.0, 20.0, 30.0]
    y.sum().backward()
    assert x.grad.tolist() == [30.0, 10.0, 20.0]


# --- many pieces ----------------------------------------------------------------------------------


def test_graphs_longer_than_a_piece():
    x = tj.tensor([0.3, 0.9], requires_grad=True)

    def f(x):
        u, v = x[0], x[1]
        for _ in range(4000):
            u, v = u - 0.001 * v, v + 0.001 * u * x[0]
        return u * v

    f(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), tj.grad(f)(np.array([0.3, 0.9])), rtol=1e-12)


def test_arrays_across_pieces_and_writes_there():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    h = x * 2.0
    first = (h * h).sum()
    first.backward(retain_graph=True)  # closes the piece
    h[0] = h[1] * 3.0
    g = (h * h).sum() + first
    x.zero_grad()
    g.backward()
    # h = (3 * 2 x1, 2 x1, 2 x2), first = 4 x.x
    np.testing.assert_allclose(
        x.grad.numpy(), [8.0, 2 * 36 * 2.0 + 8 * 2.0 + 16.0, 24.0 + 24.0], rtol=1e-14
    )


# --- hooks, autograd_grad -------------------------------------------------------------------------


def test_hooks_see_and_replace_gradients():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    handle = y.register_hook(lambda g: 2 * g)
    (y * 3.0).sum().backward(retain_graph=True)
    assert seen == [[3.0, 3.0]] and x.grad.tolist() == [12.0, 24.0]
    handle.remove()
    x.zero_grad()
    x.register_hook(lambda g: -g)
    y.sum().backward()
    assert x.grad.tolist() == [-2.0, -4.0]


def test_retain_grad():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    z = y.sum()
    y.retain_grad()
    z.retain_grad()
    (z * z).backward()
    assert y.grad.tolist() == [10.0, 10.0] and z.grad.item() == 10.0
    assert x.grad.tolist() == [20.0, 40.0]


def test_autograd_grad():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    w = tj.tensor(3.0, requires_grad=True)
    h = x * w
    y = (h * h).sum()
    gx, gh, gw = tj.autograd_grad(y, [x, h, w])
    assert gx.tolist() == [18.0, 36.0] and gh.tolist() == [6.0, 12.0] and gw.item() == 30.0
    assert x.grad is None
    unused = tj.tensor(1.0, requires_grad=True)
    with pytest.raises(TraceError, match="allow_unused"):
        tj.autograd_grad((x * x).sum(), unused)
    assert tj.autograd_grad((x * x).sum(), unused, allow_unused=True) == (None,)


# --- memory ---------------------------------------------------------------------------------------


def test_graphs_are_freed_with_their_last_tensor():
    gc.disable()
    try:
        x = tj.tensor(np.ones(3), requires_grad=True)
        y = np.sin(x * x)
        piece = weakref.ref(y.rec)
        z = y.sum()
        del y
        assert piece() is not None
        del z
        assert piece() is None
    finally:
        gc.enable()


def test_a_loop_lays_out_once():
    x = tj.tensor(_rng().standard_normal(7), requires_grad=True)
    before = plans.counts["laid out"]
    for k in range(10):
        (np.cosh(x) * (0.1 * k)).sum().backward()
        x.zero_grad()
    assert plans.counts["laid out"] - before == 1


# --- bad input ------------------------------------------------------------------------------------


def test_integers_cannot_require_a_gradient():
    with pytest.raises(TraceError, match="float"):
        tj.tensor([1, 2], requires_grad=True)
    with pytest.raises(TraceError, match="float"):
        tj.tensor([1, 2]).requires_grad_()


def test_backward_without_a_graph():
    with pytest.raises(TraceError, match="without a graph"):
        tj.tensor(1.0).backward()
    x = tj.tensor([1.0], requires_grad=True)
    with tj.no_grad():
        y = (x * x).sum()
    with pytest.raises(TraceError, match="no_grad"):
        y.backward()


def test_gradient_of_the_wrong_shape():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        (x * x).backward(np.ones(3))


def test_tensor_in_a_traced_function():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TraceError, match="recorded function"):
        tj.grad(lambda v: np.sum(v * x))(np.ones(2))
    with pytest.raises(TraceError, match="recorded function"):
        tj.grad(lambda v: np.sum(x * v))(np.ones(2))


def test_other_threads():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    errors = []

    def work():
        try:
            (y * 2).sum().backward()
        except TraceError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "thread" in errors[0] and "detach" in errors[0]


def test_in_place_on_a_leaf():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    for change in (
        lambda: x.__iadd__(1.0), lambda: x.__setitem__(0, 3.0), lambda: x.zero_(),
        lambda: x[:1].__imul__(2.0), lambda: np.add(x, 1.0, out=x), lambda: x.sort(),
    ):  # fmt: skip
        with pytest.raises(TraceError, match="no_grad"):
            change()
    assert x.tolist() == [1.0, 2.0]


def test_changed_values_are_caught():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    with tj.no_grad():
        x += 1.0
    with pytest.raises(TraceError, match=r"changed in place by \+=.*test_tensors"):
        y.backward()


def test_errors_name_the_line_that_recorded():
    def line(tensor):
        return [tensor.rec.place(i) for i in range(len(tensor.rec.codes))][-1]

    x = tj.tensor([1.0, 2.0], requires_grad=True)
    a = tj.tensor(2.0, requires_grad=True)
    for make in (
        lambda: np.sin(x), lambda: x * 2.0, lambda: np.sum(x), lambda: x.sum(), lambda: a * a,
        lambda: x.T @ x, lambda: a * x, lambda: -x, lambda: x[0] * a,
    ):  # fmt: skip
        place = line(make())
        assert "test_tensors.py" in place, place


def _rows(r, x):
    for row in r:
        row += x


def _accumulated(r, x):
    for i in range(2):
        r[i : i + 1, 0] += x[i]


def _written_after_the_view(r, x):
    view = r[0]
    r[0] = x
    r[1] = view * 2.0


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (_rows, [2.0, 2.0]),
        (_accumulated, [1.0, 1.0]),
        (_written_after_the_view, [3.0, 3.0]),
        (lambda r, x: r.T.__setitem__(0, x), [1.0, 1.0]),
        (lambda r, x: r.reshape(4).__setitem__(slice(1, 3), x), [1.0, 1.0]),
        (lambda r, x: r[0].copy_(x), [1.0, 1.0]),
        (lambda r, x: r[0].add_(x), [1.0, 1.0]),
        (lambda r, x: r[0].__setitem__(1, x[0]), [1.0, 0.0]),
        (lambda r, x: np.add(r[0], x, out=r[0]), [1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("zeros", [lambda: tj.tensor(np.zeros((2, 2))), None])
def test_writes_through_views_of_data_reach_the_data(write, expected, zeros):
    x = tj.tensor([5.0, 6.0], requires_grad=True)
    r = zeros() if zeros else np.zeros_like(np.stack([x, x]))
    write(r, x)
    assert r.requires_grad
    np.sum(r).backward()
    assert x.grad.tolist() == expected


def test_views_of_data_and_the_data_require_gradients_apart():
    data = tj.tensor(np.arange(4.0))
    view = data[1:3]
    data.requires_grad_()
    assert not view.requires_grad
    (data * data).sum().backward()
    assert data.grad.tolist() == [0.0, 2.0, 4.0, 6.0]
    data.requires_grad_(False)
    view.requires_grad_()
    assert not data.requires_grad
    with tj.no_grad():
        view += 1.0
    assert data.tolist() == [0.0, 2.0, 3.0, 3.0]
    (view * view).sum().backward()
    assert view.grad.tolist() == [4.0, 6.0]
