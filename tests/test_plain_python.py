"""The kernels as the plain Python they are written in: the same results as compiled."""

import numpy as np
import optree
import pytest
from numpy.testing import assert_allclose
from test_passes import sweep

import tapejit as tj
from tapejit.config import settings
from tapejit.interpreters.layout import DONE
from tapejit.listing import rows
from tapejit.ops.table import OPS
from tapejit.recording.tracer import apply

RNG = np.random.default_rng(7)
V, W = RNG.uniform(0.2, 1.5, 12), RNG.uniform(0.2, 1.5, 12)
A, B = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 2))
M = RNG.standard_normal((3, 3)) + 4.0 * np.eye(3)
S = M @ M.T
LONG = RNG.choice([0.15, 0.4, 0.75, 0.95], 700) + RNG.uniform(0.0, 0.02, 700)


def writes(x):
    out = np.zeros_like(x)
    out[1:5] = x[:4] * 2.0
    out[::3] += x[::3]
    out[np.array([2, 4, 2])] = x[:3]
    for i in range(3):
        out[i] = out[i + 1] * x[i]
    return out


def gather_dynamic(x):
    order = np.argsort(x)
    return x[order] * np.arange(1.0, 13.0) + x[np.argmax(x)]


def newton(x):
    y = x
    while abs(y * y - x) > 1e-10:
        y = 0.5 * (y + x / y)
    return y


def chain(x):
    y = np.sin(x) * np.exp(-x) + np.sqrt(x)
    z = np.where(x > 0.6, y * x, np.maximum(y, 0.8)) / (1.0 + x * x)
    return z * np.tanh(z) - y


PROGRAMS = {
    "scalars": (lambda a, b: np.sin(a) * b + a / b - a**b + np.arctan2(a, b), (0.7, 1.3)),
    "branches": (newton, (2.5,)),
    "chain": (chain, (V,)),
    "tiled chain": (chain, (LONG,)),
    "tiled sum": (lambda x: np.sum(chain(x) * 2.0) + np.dot(x, x), (LONG,)),
    "scalar and tile": (lambda x, s: np.sum(x * s + np.exp(s)) * x, (LONG, 0.5)),
    "broadcast": (lambda a, v: a * v[:4] + v[:3].reshape(3, 1), (A, V)),
    "matmul": (lambda a, b: np.tanh(a @ b), (A, B)),
    "matmul of views": (lambda a, b: (b.T[::-1] @ a.T[:, ::-1]).T, (A, B)),
    "matvec": (lambda a, v: a @ v[:4] + v[:3] @ a[:, :3], (A, V)),
    "batched matmul": (lambda a: np.stack([a, 2.0 * a]) @ np.stack([a.T, a.T + 1.0]), (A,)),
    "dot and outer": (lambda v, w: np.outer(v, w) * np.dot(v, w), (V, W)),
    "einsum": (lambda a, b: np.einsum("ij,jk->k", a, b), (A, B)),
    "gather": (lambda v: v[np.array([3, 1, 3, -1])] * 2.0, (V,)),
    "gather of rows": (lambda a: a[np.array([0, 2, 0])][:, 1:] * 3.0, (A,)),
    "traced gather": (gather_dynamic, (V,)),
    "writes": (writes, (V,)),
    "cumsum": (lambda a: np.cumsum(a, axis=1) * np.cumsum(a, axis=0), (A,)),
    "cumprod": (lambda v: np.cumprod(v), (V,)),
    "sums": (lambda a: np.sum(a, axis=0) * np.sum(a) + np.mean(a, axis=1, keepdims=True), (A,)),
    "products": (lambda a: np.prod(a, axis=1) + np.prod(a), (A,)),
    "extremes": (lambda a: np.max(a, axis=0) * np.min(a) + np.max(a), (A,)),
    "spread": (lambda a: np.var(a, axis=0) + np.std(a), (A,)),
    "norms": (lambda v: np.linalg.norm(v) + np.linalg.norm(v[:3], 1), (V,)),
    "concatenation": (lambda a, v: np.concatenate([a.ravel(), v, a[0] * 2.0]), (A, V)),
    "stack and split": (lambda v: np.stack(np.split(v * v, 3), axis=1), (V,)),
    "flips and rolls": (lambda a: np.flip(a, 0) + np.roll(a, 2, axis=1), (A,)),
    "pad and tile": (lambda v: np.tile(np.pad(v[:4], 2), 2) * np.repeat(v[:8], 2), (V,)),
    "transposes": (lambda a: (a.T.reshape(2, 6) * 2.0).ravel(), (A,)),
    "triangles": (lambda m: np.tril(m) @ np.triu(m) + np.diag(np.diag(m)) * np.trace(m), (M,)),
    "sort": (lambda v: np.sort(v) * np.arange(12.0), (V,)),
    "clip": (lambda v: np.clip(v, 0.5, 1.0) * np.abs(v - 1.0), (V,)),
    "solve": (
        lambda m, v: np.linalg.solve(m, v[:3]) + np.linalg.solve(m, m * 2.0 + 1.0)[0],
        (M, V),
    ),
    "inverse": (lambda m: np.linalg.inv(m), (M,)),
    "determinants": (lambda m: np.linalg.det(m) + np.linalg.slogdet(m)[1], (M,)),
    "cholesky": (lambda m: np.linalg.cholesky(m + m.T), (S,)),
}


def evaluate(f, args):
    """Value, tangent and pullback: all three sweeps."""
    value = tj.jit(f)(*args)
    _, tangent = tj.jvp(f, args, tuple(np.cos(np.asarray(a))[()] for a in args))
    second, pullback = tj.vjp(f, *args)
    cotangents = pullback(np.sin(1.0 + np.arange(np.size(value))).reshape(np.shape(value))[()])
    return [value, second, tangent, *cotangents]


def agree(got, want):
    for a, b in zip(got, want, strict=True):
        assert np.shape(a) == np.shape(b)
        assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.fixture(params=[None, 4], ids=["usual", "always tiled"])
def tile_from(request, monkeypatch):
    """Also with tiles from four elements on."""
    if request.param is not None:
        monkeypatch.setattr(settings, "tile_from", request.param)


@pytest.mark.parametrize("name", PROGRAMS)
def test_plain_python_agrees_with_compiled_code(name, tile_from):
    f, args = PROGRAMS[name]
    want = evaluate(f, args)
    with tj.testing.plain_python():
        got = evaluate(f, args)
    agree(got, want)
    assert_allclose(want[0], f(*args), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", PROGRAMS)
def test_derivatives_of_these_programs(name):
    """What both agree on is also right."""
    f, args = PROGRAMS[name]
    tj.testing.check_grads(f, args, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_tiled_and_untiled_agree(name, monkeypatch):
    f, args = PROGRAMS[name]
    want = evaluate(f, args)
    monkeypatch.setattr(settings, "tile_from", 2)
    agree(evaluate(f, args), want)


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1024, 1025])
def test_lengths_around_the_tile(n):
    """Whole tiles, a short last one, one element too many: equal to the pieces."""
    x = np.resize(LONG, n)
    w = np.cos(np.arange(float(n)))
    value, pullback = tj.vjp(lambda x: (chain(x), np.sum(chain(x) * w)), x)
    assert_allclose(value[0], chain(x), rtol=1e-13)
    assert_allclose(value[1], np.sum(chain(x) * w), rtol=1e-12)
    pieces = [tj.vjp(chain, part)[1](np.ones(len(part)))[0] for part in np.array_split(x, 5)]
    slope = np.concatenate(pieces)
    assert_allclose(pullback((w, 0.0))[0], w * slope, rtol=1e-11, atol=1e-13)
    assert_allclose(pullback((0.0 * w, 2.0))[0], 2.0 * w * slope, rtol=1e-11, atol=1e-13)


def test_large_arguments_in_plain_python():
    x = np.linspace(0.1, 1.0, 3000)
    f = lambda x: np.sum(np.sin(x) * x)  # noqa: E731
    want = tj.value_and_grad(f)(x)
    buffer = np.empty(3000)
    with tj.testing.plain_python():
        g = tj.value_and_grad(f)
        for _ in range(2):
            value, gradient = g(x, out=buffer)
        assert gradient is buffer
        (variant,) = g.__tapejit__.variants.values()
        assert variant.program(variant.trie.last).table.plain
    assert_allclose(value, want[0], rtol=1e-12)
    assert_allclose(gradient, want[1], rtol=1e-12)


def test_errors_in_plain_python():
    with tj.testing.plain_python():
        f = tj.grad(lambda x, i: x[i] * 2.0)
        assert f(V, 1)[1] == 2.0
        with pytest.raises(IndexError, match="out of bounds"):
            f(V, 12)
        g = tj.grad(lambda m: np.sum(np.linalg.inv(m)))
        g(M)
        with pytest.raises(np.linalg.LinAlgError, match="singular"):
            g(np.zeros((3, 3)))


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_operation_on_arrays(op):
    """Cotangents assigned, added to what later uses gave, and left out of constants."""
    xs = [domain.sample(np.random.default_rng(5), 6) for domain in op.domain]

    def used_again(*xs):
        return apply(op, *xs) * 1.0, [x * 2.0 for x in xs]

    def everything():
        value, pullback = tj.vjp(used_again, *xs)
        seed = np.where(np.arange(6) % 2, 0.0, 1.5)
        results = [value, pullback((seed, [np.ones(6)] * op.arity))]
        for i in range(op.arity):  # the others constant
            alone = lambda x, i=i: apply(op, *xs[:i], x, *xs[i + 1 :])  # noqa: E731
            results += [tj.vjp(alone, xs[i])[1](seed), tj.jvp(alone, (xs[i],), (np.cos(xs[i]),))]
        results.append(tj.jvp(lambda *xs: apply(op, *xs), xs, [np.cos(x) for x in xs]))
        return [np.asarray(x) for x in optree.tree_leaves(results)]

    want = everything()
    with tj.testing.plain_python():
        agree(everything(), want)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_operation_as_it_was_recorded(op):
    """Without passes, which would take some operations for others."""
    points = [domain.sample(RNG, 3) for domain in op.domain]
    numbers = [float(x[0]) for x in points]
    for f, args in (
        (lambda *xs: apply(op, *xs), numbers),
        (lambda *xs: np.sum(apply(op, *xs)), points),
    ):
        tape = tj.trace(f, *args)
        assert op.name in [row.op for row in rows(tape)]
        want = sweep(tape, *args, wrt=range(op.arity))
        with tj.testing.plain_python():
            got = sweep(tape, *args, wrt=range(op.arity))
        assert got[0] == want[0] == DONE
        agree([got[1], *got[2]], [want[1], *want[2]])


def paths(x, n):
    y = x if x[0] > 0.0 else x * x
    if not x[1] > 0.0:
        y = np.sin(y)
    for _ in range(int(n)):
        y = y * x[2]
    return y


def test_guards_in_plain_python():
    """In each interpreter, each kind of guard holds, and fails."""
    points = [(s * V[:3] * t, n) for s in (1.0, -1.0) for t in ([1, 1, 1], [1, -1, 1])
              for n in (1, 2)]  # fmt: skip
    jacobian = tj.jacobian(paths)
    v, jitted = np.array([0.5, -0.25, 1.0]), tj.jit(paths)
    with tj.testing.plain_python():
        for x, n in points * 2:
            assert_allclose(jitted(x, n), paths(x, n), rtol=1e-14)
            _, tangent = tj.jvp(jitted, (x, n), (v, 0.0))
            slope = (paths(x + 1e-6 * v, n) - paths(x - 1e-6 * v, n)) / 2e-6
            assert_allclose(tangent, slope, rtol=1e-7, atol=1e-8)
            assert_allclose(jacobian(x, n) @ v, slope, rtol=1e-7, atol=1e-8)
            (pulled, _) = tj.vjp(jitted, x, n)[1](np.ones(3))
            assert_allclose(pulled @ v, np.sum(slope), rtol=1e-7, atol=1e-8)
