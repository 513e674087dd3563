"""Methods that PyTorch's users know: values and gradients against PyTorch, where it is installed.

Where it is not, gradients against differences of the method on tensors of data.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj

try:
    import torch
except ImportError:
    torch = None

RNG = np.random.default_rng(7)
X = RNG.uniform(0.2, 0.9, (3, 4))
Y = RNG.uniform(0.5, 1.5, (3, 4))
V = RNG.uniform(0.2, 0.9, 5)
S = np.array(0.6)
SQUARE = RNG.uniform(0.1, 0.5, (3, 3)) + np.eye(3)
BATCH = RNG.uniform(0.1, 0.5, (2, 3, 4))
INDEX = np.array([[0, 1, 1, 2], [2, 0, 0, 1]])

ELEMENTWISE = [
    "abs", "absolute", "acos", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "deg2rad",
    "erf", "erfc", "exp", "exp2", "expm1", "fix", "floor", "frac", "log", "log10", "log1p", "log2",
    "logit", "neg", "negative", "rad2deg", "reciprocal", "relu", "round", "rsqrt", "sigmoid",
    "sign", "sin", "sinc", "sinh", "sqrt", "square", "tan", "tanh", "trunc", "nan_to_num",
]  # fmt: skip
#: Programs of a tensor and of a function that makes tensors of data.
CASES = {
    **{name: (X, lambda x, t, name=name: getattr(x, name)()) for name in ELEMENTWISE},
    **{
        f"{name} 0-d": (S, lambda x, t, name=name: getattr(x, name)())
        for name in ("exp", "sigmoid", "relu", "rsqrt", "erf", "frac")
    },
    **{
        name: (X, lambda x, t, name=name: getattr(x, name)(t(Y)) + getattr(t(Y), name)(x))
        for name in (
            "add", "sub", "mul", "div", "pow", "atan2", "arctan2", "maximum", "minimum", "hypot",
            "logaddexp", "logaddexp2", "fmax", "fmin", "copysign", "fmod", "remainder", "subtract",
            "multiply", "divide", "true_divide", "xlogy",
        )
    },
    "acosh": (X + 1.0, lambda x, t: x.acosh()),
    "alpha": (X, lambda x, t: x.add(t(Y), alpha=2.0).sub(x * x, alpha=0.5)),
    "clamp": (X, lambda x, t: x.clamp(0.3, 0.6) + x.clamp(min=0.5) + x.clamp(max=0.4)),
    "clamp_min": (X, lambda x, t: x.clamp_min(0.4) * x.clamp_max(0.7)),
    "lerp": (X, lambda x, t: x.lerp(t(Y), 0.3)),
    "addcmul": (X, lambda x, t: x.addcmul(x, t(Y), value=0.5).addcdiv(x, t(Y), value=-2.0)),
    "masked_fill": (X, lambda x, t: x.masked_fill(x > 0.5, 2.0)),
    "where": (X, lambda x, t: x.where(x > 0.5, t(Y)) + x.where(t(Y) > 1.0, x * x)),
    "softmax": (X, lambda x, t: x.softmax(dim=1) * t(Y) + x.softmax(0)),
    "log_softmax": (X, lambda x, t: x.log_softmax(dim=-1) * t(Y)),
    "logsumexp": (X, lambda x, t: x.logsumexp(dim=1) * x.logsumexp(1, keepdim=True).sum()),
    "logcumsumexp": (X, lambda x, t: x.logcumsumexp(dim=1)),
    "sum": (X, lambda x, t: x.sum(dim=1) * x.mean(dim=1) + x.sum(dim=0, keepdim=True).sum()),
    "prod": (X, lambda x, t: x.prod(dim=1) + x.cumsum(dim=1)[:, 2] + x.cumprod(dim=1)[:, 1]),
    "amax": (X, lambda x, t: x.amax(dim=1) * x.amin(dim=1) + x.amax()),
    "max": (X, lambda x, t: x.max(dim=1)[0] * x.max(dim=0, keepdim=True).values[0, 0]),
    "min": (X, lambda x, t: x.min(dim=1).values * x.min() + x.max()),
    "max 0-d": (S, lambda x, t: x.max(dim=0).values * 2.0),
    "var": (X, lambda x, t: x.var(dim=1, correction=1) + x.std(dim=1, unbiased=False)),
    "norm": (X, lambda x, t: x.norm() + x.norm(p=1) + x.norm(dim=1)[0] + x.norm(p=3, dim=0).sum()),
    "norm over two": (BATCH, lambda x, t: x.norm(p=2, dim=(1, 2)) + x.norm(dim=1)[:, 0]),
    "dist": (X, lambda x, t: x.dist(t(Y)) + x.dist(t(Y), p=1)),
    "nansum": (X, lambda x, t: x.nansum() + x.nanmean(dim=1)),
    "quantile": (X, lambda x, t: x.quantile(0.3, dim=1)),
    "diff": (X, lambda x, t: x.diff() * x.diff(dim=1)),
    "topk": (X, lambda x, t: x.topk(2).values * x.topk(2, dim=1, largest=False)[0]),
    "gather": (X, lambda x, t: x.gather(1, t(INDEX)) * x.gather(0, t(INDEX))),
    "take_along_dim": (X, lambda x, t: x.take_along_dim(t(INDEX[:1]), 1)),
    "index_select": (X, lambda x, t: x.index_select(1, t(np.array([0, 0, 3])))),
    "select": (X, lambda x, t: x.select(1, 2) + x.narrow(1, 1, 2).sum(dim=1)),
    "masked_select": (X, lambda x, t: x.masked_select(t(Y) > 1.0)),
    "scatter": (X, lambda x, t: x.scatter(0, t(INDEX), 2.0 * x[:2])),
    "scatter a number": (X, lambda x, t: x.scatter(1, t(INDEX[:, :1]), 9) * x),
    "scatter_add": (X, lambda x, t: x.scatter_add(0, t(INDEX), x[1:] ** 2) * x),
    "index_add": (X, lambda x, t: x.index_add(1, t(np.array([1, 1])), x[:, :2] ** 2, alpha=3.0)),
    "expand": (X, lambda x, t: x[:, :1].expand(3, 4) * x[:1].expand(2, -1, -1)),
    "expand_as": (X, lambda x, t: x[:1].expand_as(t(Y)) + x[0].broadcast_to((3, 4))),
    "split": (V, lambda x, t: x.split(2)[1] * x.split([3, 2])[1] + x.chunk(2)[1]),
    "tensor_split": (X, lambda x, t: x.tensor_split(3, dim=1)[2] * x.chunk(3, dim=1)[0][:, :1]),
    "unbind": (X, lambda x, t: x.unbind(1)[2] * x.unbind()[1][0]),
    "flatten": (BATCH, lambda x, t: x.flatten()[:8] + x.flatten(1)[0, :8] + x.flatten(0, 1)[3, 2]),
    "flatten dims": (BATCH, lambda x, t: x.flatten(start_dim=1) ** 2),
    "unflatten": (X, lambda x, t: x.unflatten(1, (2, -1)) ** 2),
    "squeeze": (X, lambda x, t: x.unsqueeze(1).squeeze(dim=1) * x.unsqueeze(dim=-1).squeeze()),
    "permute": (BATCH, lambda x, t: x.permute(2, 0, 1).movedim(0, 1).swapdims(1, 2) ** 2),
    "reshape_as": (X, lambda x, t: x.reshape_as(t(Y.reshape(4, 3))) + x.view_as(t(Y.T))),
    "flip": (X, lambda x, t: x.flip(0) * x.flip(0, 1) + x.fliplr() * x.flipud()),
    "roll": (X, lambda x, t: x.roll(1) * x.roll(-1, 0) + x.rot90(2)),
    "tile": (X, lambda x, t: x.tile(2, 1) * x.repeat_interleave(2, dim=0)),
    "triangles": (SQUARE, lambda x, t: x.tril() @ x.triu() + x.diag() + x.adjoint() + x.t()),
    "matrices": (SQUARE, lambda x, t: x.mm(x) + x.matmul(x).mv(x[0]) + x.addmm(x, x, beta=2.0)),
    "vectors": (V, lambda x, t: x.inner(x) + x.vdot(x) * x.ger(x).kron(x.outer(x)).sum()),
    "addmv": (SQUARE, lambda x, t: x[0].addmv(x, x[1], alpha=3) + x.addr(x[0], x[1]).sum(dim=0)),
    "bmm": (BATCH, lambda x, t: x.bmm(x.mT).baddbmm(x, x.mT, beta=0.5, alpha=2.0)),
    "cross": (SQUARE, lambda x, t: x.cross(x.flip(0), dim=-1)),
    "determinants": (SQUARE, lambda x, t: x.det() + x.logdet() + x.slogdet()[1] + x.inverse()),
    "cholesky": (SQUARE @ SQUARE.T, lambda x, t: (x + x.mT).cholesky().tril()),
    "powers": (SQUARE, lambda x, t: x.matrix_power(3) + x.cov() * x.corrcoef()),
    "types": (X, lambda x, t: x.double().cpu().to(t(Y)).contiguous() * x.type_as(t(Y))),
}  # fmt: skip


def _t(value):
    return torch.tensor(value)


def _gradient(f, make, value, *args):
    x = make(value, requires_grad=True)
    y = f(x, *args)
    weights = np.cos(np.arange(y.numel())).reshape(tuple(y.shape))
    (y * args[0](weights)).sum().backward()
    return y.detach().numpy(), np.array(x.grad.tolist())


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    value, f = CASES[name]
    y, g = _gradient(f, tj.tensor, value, tj.tensor)
    weights = np.cos(np.arange(y.size)).reshape(y.shape)

    def loss(v):
        return float((f(tj.tensor(v), tj.tensor).numpy() * weights).sum())

    h = 1e-6
    for index in [*np.ndindex(value.shape)][:: 1 + value.size // 6]:
        step = np.zeros(value.shape)
        step[index] = h
        slope = (loss(value + step) - loss(value - step)) / (2.0 * h)
        assert_allclose(g[index], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:torch.cholesky")
@pytest.mark.parametrize("name", CASES)
def test_as_in_pytorch(name):
    if torch is None:
        pytest.skip("PyTorch is not installed")
    value, f = CASES[name]
    y, g = _gradient(f, tj.tensor, value, tj.tensor)
    wanted, slope = _gradient(f, torch.tensor, value, _t)
    assert_allclose(y, wanted, rtol=1e-12, atol=1e-14)
    assert_allclose(g, slope, rtol=1e-11, atol=1e-13)


IN_PLACE = {
    name: (lambda x, name=name: getattr(x, f"{name}_")())
    for name in (
        "abs", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "floor", "log", "log10",
        "log1p", "log2", "neg", "reciprocal", "relu", "round", "rsqrt", "sigmoid", "sign", "sin",
        "sinh", "sqrt", "square", "tan", "tanh", "trunc", "tril", "triu", "zero",
    )
} | {
    "add_": lambda x: x.add_(Y[0, 0], alpha=2.0).sub_(1.0, alpha=0.5).mul_(3.0).div_(2.0),
    "clamp_": lambda x: x.clamp_(0.3, 0.7),
    "pow_": lambda x: x.pow_(3).lerp_(x * 2.0, 0.5),
    "addcmul_": lambda x: x.addcmul_(x * 2.0, x * 3.0, value=0.5),
    "masked_fill_": lambda x: x.masked_fill_(x > 0.5, -1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name):
    change = IN_PLACE[name]
    x = tj.tensor(X, requires_grad=True)
    y = x * 1.0
    assert change(y) is y
    (y * y + 0.0 * x).sum().backward()
    parameter = tj.tensor(X, requires_grad=True)
    with pytest.raises(tj.TraceError, match="in place on a leaf"):
        change(parameter)
    with tj.no_grad():
        assert change(parameter) is parameter
    assert_allclose(parameter.detach().numpy(), y.detach().numpy(), rtol=1e-15)
    if torch is not None and name != "addcmul_":
        z = torch.tensor(X, requires_grad=True)
        (change(z * 1.0) ** 2 + 0.0 * z).sum().backward()
        assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_steps_of_adam_by_hand():
    x, y = (tj.tensor(X, requires_grad=True) for _ in range(2))
    first, second = tj.tensor(np.zeros((3, 4))), tj.tensor(np.zeros((3, 4)))
    m, v = np.zeros((3, 4)), np.zeros((3, 4))
    for step in range(1, 4):
        x.zero_grad()
        (x**4).sum().backward()
        with tj.no_grad():
            first.mul_(0.9).add_(x.grad, alpha=0.1)
            second.mul_(0.999).addcmul_(x.grad, x.grad, value=0.001)
            scale = (second / (1.0 - 0.999**step)).sqrt().add_(1e-8)
            x.addcdiv_(first, scale, value=-0.01 / (1.0 - 0.9**step))
            g = 4.0 * y.detach().numpy() ** 3
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            y -= 0.01 * (m / (1.0 - 0.9**step)) / (np.sqrt(v / (1.0 - 0.999**step)) + 1e-8)
    assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=1e-13)


# --- what has no gradient, other kinds ------------------------------------------------------------


def test_comparisons():
    x, y = tj.tensor(X, requires_grad=True), tj.tensor(Y)
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "greater", "less_equal", "not_equal"):
        full = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal",
                "gt": "greater", "ge": "greater_equal"}.get(name, name)  # fmt: skip
        found = getattr(x, name)(y)
        assert found.dtype == bool and not found.requires_grad
        assert_array_equal(found.numpy(), getattr(np, full)(X, Y))
    assert x.equal(X) and not x.equal(y) and x.allclose(X + 1e-12)
    assert x.isclose(X).all() and x.is_same_size(y) and x.is_floating_point()
    assert (x > 0.5).logical_and(y > 1.0).tolist() == ((X > 0.5) & (Y > 1.0)).tolist()


def test_indices():
    x = tj.tensor(X, requires_grad=True)
    values, indices = x.max(dim=1)
    assert indices.tolist() == X.argmax(1).tolist() and indices.dtype == np.int64
    assert not indices.requires_grad and values.requires_grad
    assert x.min(dim=0).indices.tolist() == X.argmin(0).tolist()
    assert x.argmax(dim=1).tolist() == X.argmax(1).tolist()
    assert x.argmin(dim=0, keepdim=True).shape == (1, 4)
    assert x.topk(2, dim=0).indices.tolist() == np.argsort(-X, 0)[:2].tolist()
    assert x.max(axis=1).tolist() == X.max(1).tolist() and x.max(1).shape == (3,)
    assert x.argwhere().shape == (12, 2) and x.count_nonzero() == 12
    assert x.unique().tolist() == np.unique(X).tolist()


def test_types():
    x = tj.tensor(X, requires_grad=True)
    assert x.to("cpu") is x and x.to(np.float64).requires_grad and x.float() is x
    assert x.to(device="cpu", dtype=np.int64).dtype == np.int64
    assert x.long().tolist() == X.astype(int).tolist() and x.bool().all()
    assert x.device == "cpu" and x.nelement() == 12 and x.ndimension() == 2
    with pytest.raises(tj.TraceError, match="not on 'cuda:0'"):
        x.to("cuda:0")
    zeros = x.new_zeros(2, 3, requires_grad=True)
    assert zeros.shape == (2, 3) and zeros.is_root
    assert x.new_ones((2,)).tolist() == [1.0, 1.0] and x.new_full((2,), 3.0).tolist() == [3.0, 3.0]
    assert x.new_tensor([1, 2]).dtype == np.int64


def test_dtypes():
    x = tj.tensor([1, 2], requires_grad=True, dtype=float)
    assert x.dtype == np.float64 and x.is_root
    assert tj.tensor([1.5, 2.5], dtype=np.float32).dtype == np.float64
    assert tj.tensor(1.5, dtype=int).item() == 1 and tj.tensor([0, 2], dtype=bool).tolist()[1]
    with pytest.raises(tj.TraceError, match="dtype=float"):
        tj.tensor([1, 2], requires_grad=True)
    with pytest.raises(tj.TraceError, match="complex"):
        tj.tensor([1.0], dtype=complex)


def test_detach_in_place():
    x = tj.tensor(X, requires_grad=True)
    for y in (x * 2.0, x.sum(), (x * 2.0)[1:], x[0, 0]):
        value = y.detach().numpy().copy()
        assert y.detach_() is y and y.is_leaf and not y.requires_grad
        assert_array_equal(y.numpy(), value)
        y.requires_grad_()
        (y * y).sum().backward()
        assert_array_equal(y.grad.numpy(), 2.0 * value)
    assert x.grad is None
    assert x.detach_() is x and not x.requires_grad


def test_origins():
    x = tj.tensor(X, requires_grad=True)
    y = np.sin(x)
    z = y[0, 0] * 2.0
    assert x.grad_fn is None and y.detach().grad_fn is None
    assert y.grad_fn.name == "sin" and "test_tensor_methods" in y.grad_fn.place
    assert z.grad_fn.name == "mul" and y[0].grad_fn.name == "sin" and x[0].grad_fn.name == "view"
    assert repr(y.sum().grad_fn).startswith("<sum, ")
    z.backward()
    assert repr(z.grad_fn) in ("<freed>", repr(z.grad_fn))
    assert not y.retains_grad
    w = x * 3.0
    w.retain_grad()
    assert w.retains_grad and not x.retains_grad


def test_names_that_both_have_mean_what_they_mean_in_numpy():
    x = tj.tensor(X, requires_grad=True)
    assert x.transpose(0, 1).shape == (3, 4) and x.repeat(2, 0).shape == (6, 4)
    assert_allclose(x.var(axis=0).tolist(), X.var(0))
    assert_array_equal(x.flatten("F").tolist(), X.flatten("F"))
    with pytest.raises(tj.UnsupportedError, match="singular values"):
        x.norm(2)  # of a matrix, that is
    with pytest.raises(TypeError, match=r"divides by n - 1 in PyTorch"):
        x.std(dim=0)


def test_bad_arguments():
    x = tj.tensor(X, requires_grad=True)
    with pytest.raises(TypeError, match="dim and axis"):
        x.sum(dim=0, axis=0)
    with pytest.raises(TypeError, match="keepdim besides"):
        x.max(0, dim=0)
    with pytest.raises(ValueError, match="which is new"):
        x.expand(-1, 3, 4)
    with pytest.raises(ValueError, match="parts of 0"):
        x.split(0)
    with pytest.raises(ValueError, match="sizes"):
        x.split([1, 1])
    with pytest.raises(IndexError, match="narrow"):
        x.narrow(1, 3, 2)
    with pytest.raises(ValueError, match="flatten from"):
        x.flatten(1, 0)
