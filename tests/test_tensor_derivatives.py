"""Higher derivatives, hooks, several outputs; other parts of the package on tensors."""

import numpy as np
import pytest

import tapejit as tj
from tapejit.errors import TraceError, UnsupportedError
from tapejit.scipy import special

# --- create_graph ---------------------------------------------------------------------------------


def test_derivatives_of_any_order():
    x = tj.tensor(0.7, requires_grad=True)
    f = np.sin(x)
    for expected in (np.cos(0.7), -np.sin(0.7), -np.cos(0.7), np.sin(0.7)):
        (f,) = tj.autograd_grad(f, x, create_graph=True)
        np.testing.assert_allclose(f.item(), expected, rtol=1e-13)


FUNCTIONS = {
    "elementwise": lambda x: (np.sin(x) * x * x[0]).sum(),
    "products": lambda x: np.outer(x, x).dot(x).sum() * np.linalg.norm(x),
    "scalars": lambda x: _scalars(x),
    "writes": lambda x: _writes(x),
    "linear algebra": lambda x: np.linalg.solve(np.diag(x * x) + 1.0, x).sum(),
    "numbers": lambda x: 3.0 * x[1] ** 2 - x[0] / (1.0 + x[2] * x[2]),
}


def _scalars(x):
    u, v = x[0], x[1]
    for _ in range(30):
        u, v = u - 0.1 * v * u, v + 0.1 * u * x[2]
    return u * v


def _writes(x):
    y = x * 1.0
    y[1:] = y[:2] * x[1]
    y[0] *= y[2]
    return (y * y).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hessians(name):
    f = FUNCTIONS[name]
    point = np.array([1.1, 0.7, 1.9])
    x = tj.tensor(point, requires_grad=True)
    (g,) = tj.autograd_grad(f(x), x, create_graph=True)
    rows = [tj.autograd_grad(g[i], x, retain_graph=True)[0].numpy() for i in range(3)]
    np.testing.assert_allclose(g.detach().numpy(), tj.grad(f)(point), rtol=1e-11)
    np.testing.assert_allclose(np.stack(rows), tj.hessian(f)(point), rtol=1e-10, atol=1e-12)


def test_gradients_of_results_in_a_graph_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    values = np.array([1.0, 2.0, 3.0])

    def ours(x, grad):
        h = x * 2.0
        y = (h * h * x).sum()
        gh, gx = grad(y, [h, x], create_graph=True)
        return (gh * gx * h).sum()

    x, z = tj.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    ours(x, tj.autograd_grad).backward()
    ours(z, torch.autograd.grad).backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-13)


def test_cotangents_may_have_a_graph():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    v = tj.tensor([3.0, 4.0], requires_grad=True)
    (g,) = tj.autograd_grad(x * x, x, grad_outputs=v, create_graph=True)  # 2 x v
    (g * g).sum().backward()
    np.testing.assert_allclose(v.grad.numpy(), 8.0 * np.array([1.0, 4.0]) * np.array([3.0, 4.0]))
    np.testing.assert_allclose(x.grad.numpy(), 8.0 * np.array([1.0, 2.0]) * np.array([9.0, 16.0]))


def test_gradient_penalty_loop_lays_out_once():
    from tapejit.tensors import plans

    w = tj.tensor([0.5, -0.3], requires_grad=True)
    for k in range(4):
        x = tj.tensor(np.array([1.0, 2.0]) + k, requires_grad=True)
        (g,) = tj.autograd_grad(np.tanh(w * x).sum(), x, create_graph=True)
        ((g - 1.0) ** 2).sum().backward()
        w.zero_grad()
        if k == 0:
            before = plans.counts["laid out"]
    assert plans.counts["laid out"] == before


def test_several_outputs():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y, z = x * x, x.sum()
    (g,) = tj.autograd_grad([y, z], x, grad_outputs=[np.array([1.0, 10.0]), None])
    assert g.tolist() == [3.0, 41.0]
    with pytest.raises(ValueError, match="grad_outputs"):
        tj.autograd_grad([x * x, x.sum()], x, grad_outputs=[None])


def test_bad_inputs_of_autograd_grad():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TraceError, match="requires_grad=True"):
        tj.autograd_grad((x * x).sum(), tj.tensor(1.0))
    with pytest.raises(TraceError, match="takes tensors"):
        tj.autograd_grad((x * x).sum(), np.ones(2))
    with pytest.raises(TraceError, match="without a graph"):
        tj.autograd_grad(tj.tensor(1.0), x)
    with pytest.raises(TraceError, match="clone"):
        tj.autograd_grad(x.sum(), x[:1])


# --- backward(create_graph=True) ------------------------------------------------------------------


def test_backward_with_a_graph():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    y = (x**3).sum()
    y.backward(create_graph=True)
    first = x.grad
    assert first.requires_grad and first.tolist() == [3.0, 12.0]
    first.sum().backward()  # adds, to a new tensor
    assert x.grad.tolist() == [9.0, 24.0] and first.tolist() == [3.0, 12.0]
    x.zero_grad()
    y.backward()  # the graph was kept
    assert x.grad.tolist() == [3.0, 12.0] and not x.grad.requires_grad
    with pytest.raises(TraceError, match="retain_graph"):
        y.backward()


def test_backward_with_a_graph_works_under_no_grad():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    v = tj.tensor([1.0, 0.0, 5.0], requires_grad=True)
    y = x**3
    with tj.no_grad():
        y.backward(v[:2], create_graph=True)  # a view is no graph's under no_grad
        assert not tj.is_grad_enabled()
    assert v.grad is None and x.grad.requires_grad
    x.zero_grad()
    y.backward(v[:2], create_graph=True)
    x.grad.sum().backward(inputs=v)
    assert v.grad.tolist() == [3.0, 12.0, 0.0]


def test_backward_of_leaves():
    x = tj.tensor(3.0, requires_grad=True)
    x.backward()
    x.backward(tj.tensor(2.0, requires_grad=True), create_graph=True)
    assert x.grad.item() == 3.0 and x.grad.requires_grad


def test_backward_to_chosen_tensors():
    x, w = tj.tensor(3.0, requires_grad=True), tj.tensor(2.0, requires_grad=True)
    y = x * w
    (y * y).backward(inputs=[y, w])
    assert y.grad.item() == 12.0 and w.grad.item() == 36.0 and x.grad is None
    (x * w).backward(inputs=x)
    assert x.grad.item() == 2.0 and w.grad.item() == 36.0
    with pytest.raises(TraceError, match="takes tensors"):
        (x * w).backward(inputs=[1.0])
    with pytest.raises(TraceError, match="does not require"):
        (x * w).backward(inputs=[tj.tensor(1.0)])


def test_accumulation_is_a_change_in_place():
    x, w = tj.tensor([3.0], requires_grad=True), tj.tensor([2.0], requires_grad=True)
    (x * x).sum().backward()
    y = (w * x.grad).sum()
    (x * x).sum().backward()
    with pytest.raises(TraceError, match="by the accumulation of a gradient"):
        y.backward()


def test_graphs_of_gradients_are_freed():
    import gc
    import weakref

    x = tj.tensor([1.0, 2.0], requires_grad=True)
    (x**3).sum().backward(create_graph=True)
    piece = weakref.ref(x.grad.rec)
    x.zero_grad()
    gc.collect()
    assert piece() is None


# --- hooks ----------------------------------------------------------------------------------------


def test_hooks_of_views_want_to_be_first():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2.0
    for view, use in (
        (y[1], lambda v: v * 2.0), (y[1:], lambda v: v.sum()), (y[:2], lambda v: v[0] * 2.0),
        (y.reshape(3, 1), lambda v: v * v), (x[1], lambda v: np.sin(v)),
        (y[2], lambda v: np.stack([v, v])),
    ):  # fmt: skip
        use(view)
        with pytest.raises(TraceError, match="before its first use"):
            view.register_hook(print)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_hooks_of_views_and_changes_in_place():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2.0
    view = y[1:]
    view.retain_grad()
    with pytest.raises(TraceError, match="in place on a view whose gradient"):
        view.mul_(2.0)
    y[0] = 1.0
    with pytest.raises(TraceError, match="changed in place by an assignment"):
        view * 2.0
    with pytest.raises(TraceError, match="clone"):
        y[1:].retain_grad()  # of what was written
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 2.0, 2.0] and view.grad is None


def test_elements_of_several_views():
    """As in a loop over a result's elements, each with its hook."""
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y, seen = x * 2.0, {}
    total = 0.0
    for i, element in enumerate(y):
        element.register_hook(lambda g, i=i: seen.update({i: g.item()}))
        total = total + element**2
    (total + y[:2].sum()).backward()
    assert seen == {0: 4.0, 1: 8.0, 2: 12.0}
    assert x.grad.tolist() == [10.0, 18.0, 24.0]


def test_whole_views_are_tensors_of_their_own():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2.0
    alias, flat = y[:], y.reshape(-1)
    y.retain_grad()
    alias.retain_grad()
    flat.register_hook(lambda g: 10.0 * g)
    (y.sum() + 2.0 * alias.sum() + flat.sum()).backward()
    assert alias.grad.tolist() == [2.0] * 3 and y.grad.tolist() == [13.0] * 3
    assert x.grad.tolist() == [26.0] * 3


def test_views_with_hooks_as_inputs():
    x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
    part = (x * 2.0)[1:]
    part.retain_grad()
    (g,) = tj.autograd_grad((part * part).sum(), part)
    assert g.tolist() == [8.0, 12.0]


def test_hooks_record_only_what_has_a_graph():
    x, w = tj.tensor([1.0], requires_grad=True), tj.tensor([2.0], requires_grad=True)
    kinds = []
    x.register_hook(lambda g: kinds.append(tj.is_grad_enabled()) or g * w)
    (x * x).sum().backward()
    assert x.grad.tolist() == [4.0] and not x.grad.requires_grad
    x.zero_grad()
    (x * x).sum().backward(create_graph=True)
    assert x.grad.requires_grad and kinds == [False, True]
    x.register_hook(lambda g: np.array([7.0]))
    x.zero_grad()
    (x * x).sum().backward(create_graph=True)
    assert x.grad.tolist() == [7.0] and not x.grad.requires_grad


def test_hooks_in_order_last_computed_first():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    order = []
    a = x * 2.0
    b = a * a
    c = b.sum()
    for name, t in (("a", a), ("c", c), ("b", b)):
        t.register_hook(lambda g, name=name: order.append(name))
    (c * 3.0 + a.sum()).backward()
    assert order == ["c", "b", "a"]
    assert x.grad.tolist() == [2.0 * (12.0 + 1.0), 2.0 * (24.0 + 1.0)]


def test_hooks_with_bad_results():
    x = tj.tensor([1.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: np.ones(3))
    with pytest.raises(ValueError, match="hook"):
        (x * x).sum().backward()
    with pytest.raises(TraceError, match="require"):
        tj.tensor(1.0).register_hook(lambda g: None)


# --- other parts of the package -------------------------------------------------------------------


def test_special_functions():
    x = tj.tensor([0.3, 1.2], requires_grad=True)
    (special.erf(x) + special.softmax(x) * special.softplus(x)).sum().backward()

    def f(v):
        return np.sum(special.erf(v) + special.softmax(v) * special.softplus(v))

    np.testing.assert_allclose(x.grad.numpy(), tj.grad(f)(np.array([0.3, 1.2])), rtol=1e-12)


def test_custom_rules():
    @tj.custom_vjp
    def clipped(x):
        return np.sin(x)

    clipped.defvjp(lambda x: (np.sin(x), x), lambda x, g: (10.0 * g,))
    x = tj.tensor([0.3, 1.2], requires_grad=True)
    clipped(x).sum().backward()
    assert x.grad.tolist() == [10.0, 10.0]


def test_conditions_are_plain_values():
    x = tj.tensor([0.3, 1.2], requires_grad=True)
    y = tj.cond(x[0] > 0.0, np.sin, np.cos, x)
    np.testing.assert_allclose(y.detach().numpy(), np.sin([0.3, 1.2]))


def test_stop_gradient():
    x = tj.tensor([0.3, 1.2], requires_grad=True)
    (x * tj.stop_gradient(x)).sum().backward()
    assert x.grad.tolist() == [0.3, 1.2]


def test_compiled_functions_take_plain_tensors_only():
    x = tj.tensor([0.3, 1.2], requires_grad=True)

    def f(v):
        return np.sum(v * v)

    assert tj.grad(f)(x.detach()).tolist() == [0.6, 2.4]
    with pytest.raises(TraceError, match="detach"):
        tj.jit(f)(x)


def test_functions_without_a_rule():
    x = tj.tensor(np.eye(2), requires_grad=True)
    with pytest.raises(UnsupportedError, match=r"svd .* on x\.detach\(\)"):
        np.linalg.svd(x)
    with pytest.raises(UnsupportedError, match=r"frexp .* on x\.detach\(\)"):
        np.frexp(x)
    assert np.linalg.matrix_rank(x) == 2
    assert np.linalg.svd(x.detach())[1].tolist() == [1.0, 1.0]
