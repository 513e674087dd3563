"""Functions of functions: arguments, results, containers, buffers, nesting."""

import dataclasses
import functools
import gc
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj

X = np.array([0.5, -1.0, 2.0])
BIG = np.random.default_rng(0).standard_normal(5000)


def wave(x):
    return np.sum(np.sin(x) * x)


def wave_slope(x):
    return np.cos(x) * x + np.sin(x)


class Pair(NamedTuple):
    a: object
    b: object


@dataclasses.dataclass(frozen=True)
class Model:
    weight: object
    bias: object
    name: str = "linear"

    def __call__(self, x):
        return np.sum(self.weight * x) + self.bias


def counted(f):
    @functools.wraps(f)
    def call(*args, **kwargs):
        call.calls += 1
        return f(*args, **kwargs)

    call.calls = 0
    return call


def program_of(f):
    (variant,) = f.__tapejit__.variants.values()
    return variant.program(variant.trie.last)


# --- jit ------------------------------------------------------------------------------------------


def test_jit_records_once_and_replays():
    f = counted(wave)
    g = tj.jit(f)
    for scale in (1.0, 2.0, -3.0):
        assert_allclose(g(scale * X), wave(scale * X), rtol=1e-14)
    assert f.calls == 1
    assert g.__name__ == "wave"


@pytest.mark.parametrize("x", [X, BIG], ids=["small", "large"])
def test_arrays_of_any_layout(x):
    """Strided, reversed, Fortran-ordered, read-only, big-endian, unaligned, subclassed, float32."""
    f, g = tj.jit(lambda a: a * 2.0), tj.grad(lambda a: np.sum(a * a))
    square = np.outer(x[:50], x[:100])
    read_only = x.copy()
    read_only.flags.writeable = False
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float64)
    unaligned[:] = x
    like = [x, x[::-1], x[::2], np.asfortranarray(square), square.T, read_only, x.astype(">f8")]
    like += [unaligned, x.view(np.recarray), np.array(x, np.dtype("f8", copy=True))]
    like += [x.astype(np.float32), np.rint(x * 5.0).astype(np.int32), x > 0]
    for a in like * 2:
        want = np.asarray(a, np.float64) * 2.0
        assert_array_equal(f(a), want)
        assert_array_equal(g(a), want)


def test_result_types_are_numpys():
    def f(x, n):
        flags = (x[0] > 0.0, x > 0.0)
        whole = (np.argmax(x), np.argsort(x), n * 2, n // 2)
        real = (x[0], np.sum(x), n / 2, x + n)
        return flags, whole, real

    got, want = tj.jit(f)(X, 3), f(X, np.int64(3))
    for _ in range(2):
        for a, b in zip(sum(got, ()), sum(want, ()), strict=True):
            assert type(a) is type(b)
            assert a.dtype == b.dtype
            assert_array_equal(a, b)


def test_results_that_are_hardly_computed():
    """Constants, strings, None, an input itself, the same value twice, nothing at all."""
    out = tj.jit(lambda x: (3, 2.5, True, None, "name", np.arange(2), {"x": x}, [x, x], ()))(X)
    assert out[:5] == (3, 2.5, True, None, "name")
    assert type(out[0]) is np.int64
    assert_array_equal(out[5], [0, 1])
    assert_array_equal(out[6]["x"], X)
    assert out[7][0] is not out[7][1]
    assert out[8] == ()


@pytest.mark.parametrize("x", [X, BIG], ids=["small", "large"])
def test_results_never_alias_arguments_or_workspaces(x):
    f = tj.jit(lambda a: (a, a[::-1], a * 2.0))
    first = f(x)
    kept = [r.copy() for r in first]
    second = f(x + 1.0)
    for a, b, k in zip(first, second, kept, strict=True):
        assert not np.shares_memory(a, x)
        assert not np.shares_memory(a, b)
        assert_array_equal(a, k)


def test_object_arrays_of_traced_values():
    f = lambda x: np.array([x[0] * x[1], x[1]])  # noqa: E731
    assert_array_equal(tj.jit(f)(X), [-0.5, -1.0])
    assert tj.jit(f)(X).dtype == np.float64
    assert_array_equal(tj.grad(lambda x: np.sum(f(x) * 2.0))(X), [-2.0, 3.0, 0.0])


def test_zero_dimensional_and_empty_arguments():
    assert tj.jit(lambda x: x * 2.0)(np.array(1.5)) == 3.0
    assert type(tj.grad(lambda x: x * x)(np.array(1.5))) is np.float64
    assert tj.jit(lambda x: x + 1.0)(np.zeros((0, 3))).shape == (0, 3)
    assert tj.value_and_grad(lambda x: np.sum(x) + 1.0)(np.zeros(0))[0] == 1.0
    assert tj.grad(np.sum)(np.zeros((2, 0))).shape == (2, 0)


def test_integers_and_bools():
    f = counted(lambda n, flag: n * 2 if flag else n)
    g = tj.jit(f)
    assert (g(3, True), g(4, True), g(3, False)) == (6, 8, 3)
    assert type(g(3, True)) is np.int64
    assert f.calls == 2  # ints are traced, bools are static
    assert g(3.0, True).dtype == np.float64
    assert tj.grad(lambda x: x**2)(3) == 6.0


def test_new_shapes_and_structures_are_recorded_and_kept():
    f = counted(lambda p: sum(np.sum(v * v) for v in p))
    g = tj.grad(f)
    for p in ([X], [X, X], (X,), [X[:2]]) * 2:
        gradient = g(p)
        assert type(gradient) is type(p)
        for a, b in zip(gradient, p, strict=True):
            assert_array_equal(a, 2.0 * b)
    assert f.calls == 4


def test_static_arguments():
    f = counted(lambda x, n, mode="sum": x**n if mode == "sum" else x * n)
    for g in (tj.grad(f, static_argnums=1), tj.grad(f, static_argnames="n")):
        assert (g(2.0, 3), g(3.0, 3), g(2.0, n=3), g(2.0, 3, mode="mul")) == (12.0, 27.0, 12.0, 3.0)
        assert g.__tapejit__.variants
    assert f.calls == 6  # each: by position, by name, with the other mode
    g = tj.jit(lambda x, shape: np.sum(x.reshape(shape), axis=1), static_argnums=-1)
    assert_array_equal(g(np.arange(4.0), (2, 2)), [1.0, 5.0])
    assert tj.jit(lambda x, s: s, static_argnums=1)(X, "text") == "text"
    h = tj.grad(lambda shape, x: np.sum(x.reshape(shape)[0]), argnums=1, static_argnums=0)
    assert_array_equal(h((2, 2), np.arange(4.0)), [1.0, 1.0, 0.0, 0.0])
    with pytest.raises(tj.TraceError, match="cannot be differentiated"):
        tj.grad(f, argnums=1, static_argnums=1)(2.0, 3)


def test_keyword_arguments_methods_partials_lambdas():
    assert tj.jit(lambda x, y: x - y)(y=1.0, x=3.0) == 2.0
    assert tj.grad(lambda x, *, y: x * y)(2.0, y=3.0) == 3.0
    assert tj.grad(functools.partial(lambda a, x: a * x * x, 3.0))(2.0) == 12.0
    assert tj.grad(Model(X, 1.0).__call__)(X).tolist() == X.tolist()

    class Owner:
        scale = 2.0

        @functools.partial(tj.jit, static_argnums=0)
        def scaled(self, x):
            return self.scale * x

    assert Owner().scaled(3.0) == 6.0


def test_jit_of_jit():
    f = tj.jit(wave)
    assert tj.jit(f) is f
    assert tj.jit(lambda x: f(x) + f(x))(X) == pytest.approx(2 * wave(X))
    assert tj.jit(tj.jit(lambda x, n: x * len(n)), static_argnums=1)(2.0, ("a", "b")) == 4.0
    assert_allclose(tj.jit(tj.grad(f))(X), wave_slope(X))


def test_captured_arrays_are_copied_at_recording():
    scale = X.copy()
    f = tj.jit(lambda x: x * scale)
    assert_array_equal(f(X), X * X)
    scale[:] = 0.0
    assert_array_equal(f(X), X * X)


def test_check_raises_where_the_function_has_changed():
    state = {"scale": 2.0}
    for make in (tj.jit, tj.grad):
        state["scale"] = 2.0
        f = make(lambda x: state["scale"] * x, check=True)
        f(1.0)
        state["scale"] = 3.0
        with pytest.raises(tj.ReplayMismatchError, match="captured"):
            f(1.0)
        state["scale"] = 2.0
        f(1.0)


def test_check_leaves_arguments_and_other_results_alone():
    def f(x):
        x[0] = 5.0
        return np.sum(x), "text", object

    x = X.copy()
    assert tj.jit(f, check=True)(x) == (6.0, "text", object)
    assert_array_equal(x, X)


def test_equal_tapes_share_one_program():
    f, g = (tj.grad(lambda x: x * np.sin(x)) for _ in range(2))
    f(1.0), g(2.0)
    assert program_of(f) is program_of(g)


# --- grad -----------------------------------------------------------------------------------------


def test_argnums():
    def f(a, b, c=1.0):
        return np.sum(a * a) * b * c

    for _ in range(2):
        assert_array_equal(tj.grad(f)(X, 3.0), 6.0 * X)
        assert tj.grad(f, argnums=1)(X, 3.0) == 5.25
        assert tj.grad(f, argnums=-1)(X, 3.0, 2.0) == 15.75
    g = tj.value_and_grad(f, argnums=(1, 0))
    for _ in range(3):
        value, (b, a) = g(X, 3.0)
        assert (value, b) == (15.75, 5.25)
        assert_array_equal(a, 6.0 * X)
    single = tj.grad(lambda x: np.sum(x * x), argnums=(0,))
    for _ in range(3):
        (only,) = single(X)
        assert_array_equal(only, 2.0 * X)
    first, second = tj.grad(f, argnums=(0, 0))(X, 3.0)
    assert_array_equal(first, second)
    with pytest.raises(TypeError, match="argnums 2"):
        tj.grad(f, argnums=2)(X, 3.0)


def test_has_aux():
    def f(x):
        return np.sum(x * x), {"twice": 2.0 * x, "text": "aux"}

    (value, aux), gradient = tj.value_and_grad(f, has_aux=True)(X)
    assert value == 5.25
    assert aux["text"] == "aux"
    assert_array_equal(aux["twice"], 2.0 * X)
    assert_array_equal(gradient, 2.0 * X)
    gradient, aux = tj.grad(f, has_aux=True)(X)
    assert_array_equal(gradient, aux["twice"])
    value, pullback, aux = tj.vjp(f, X, has_aux=True)
    assert_array_equal(pullback(2.0)[0], 4.0 * X)
    assert aux["text"] == "aux"


def test_one_engine_meets_arrays_and_numbers():
    """The short way of one signature is not taken with the other's buffers."""
    g = tj.value_and_grad(lambda x: np.sum(x * x))
    for _ in range(3):
        for x in (X, 2.0, 3.0, X[:2], 4.0):
            value, gradient = g(x)
            assert value == np.sum(np.square(x))
            assert_array_equal(gradient, 2.0 * np.asarray(x))


def test_results_of_one_element():
    g = tj.value_and_grad(lambda x: np.sum(x * x, keepdims=True))
    for scale in (1.0, 2.0, 3.0):
        value, gradient = g(scale * X)
        assert_allclose(value, [5.25 * scale**2])
        assert_array_equal(gradient, 2.0 * scale * X)


def test_constant_and_identity_functions():
    for _ in range(2):
        assert tj.value_and_grad(lambda x: 3.0)(2.0) == (3.0, 0.0)
        assert_array_equal(tj.grad(lambda x: 1.0)(X), np.zeros(3))
        assert tj.value_and_grad(lambda x: x)(2.0) == (2.0, 1.0)
        assert tj.grad(lambda x, y: y, argnums=(0, 1))(2.0, 3.0) == (0.0, 1.0)
        assert_array_equal(tj.grad(lambda x: x[1])(BIG)[:3], [0.0, 1.0, 0.0])


# --- out= -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [X, BIG], ids=["small", "large"])
def test_out_is_filled_and_returned(x):
    g, h = tj.grad(wave), tj.value_and_grad(wave)
    buffer = np.empty_like(x)
    for scale in (1.0, 2.0, 3.0):
        assert g(scale * x, out=buffer) is buffer
        assert_allclose(buffer, wave_slope(scale * x), rtol=1e-13, atol=1e-14)
        assert h(scale * x, out=buffer)[1] is buffer
        assert g(scale * x) is not buffer


def test_out_of_several_arguments_goes_by_argnums():
    g = tj.value_and_grad(lambda a, b: np.sum(a * b), argnums=(1, 0))
    out = (np.empty(3), np.empty(3))
    for scale in (1.0, 2.0):
        _, gradient = g(scale * X, X + 1.0, out=out)
        assert gradient is out
        assert_array_equal(out[0], scale * X)
        assert_array_equal(out[1], X + 1.0)


def test_out_with_containers_and_numbers():
    g = tj.grad(lambda p, s: np.sum(p["a"] * p["b"][0]) * s, argnums=(0, 1))
    out = ({"a": np.empty(3), "b": [np.empty(3)]}, np.empty(()))
    for s in (1.0, 2.0):
        assert g({"a": X, "b": [X]}, s, out=out) is out
        assert_array_equal(out[0]["b"][0], s * X)
        assert out[1] == 5.25
    single = np.empty(())
    h = tj.grad(lambda x: x * x)
    assert h(3.0, out=single) is single
    assert h(4.0, out=single) == 8.0


@pytest.mark.parametrize("x", [X, BIG], ids=["small", "large"])
def test_out_may_be_the_argument_itself(x):
    g = tj.grad(wave)
    for _ in range(3):
        a = x.copy()
        g(a, out=a)
        assert_allclose(a, wave_slope(x), rtol=1e-13, atol=1e-14)


# --- vjp, jvp, linearize --------------------------------------------------------------------------


@pytest.mark.parametrize("x", [X, BIG], ids=["small", "large"])
def test_pullbacks_own_their_residuals(x):
    """Called again and again, after later calls, after the argument was overwritten."""
    f = tj.jit(lambda a: np.sin(a) * a)
    mine = x.copy()
    value, pullback = tj.vjp(f, mine)
    assert_allclose(value, np.sin(x) * x, rtol=1e-14)
    mine[:] = 0.0
    _, other = tj.vjp(f, x + 1.0)
    f(x + 2.0)
    for scale in (1.0, -2.0):
        (got,) = pullback(scale * np.ones_like(x))
        assert_allclose(got, scale * wave_slope(x), rtol=1e-13, atol=1e-14)
        (got,) = other(scale * np.ones_like(x))
        assert_allclose(got, scale * wave_slope(x + 1.0), rtol=1e-13, atol=1e-14)


def test_pullbacks_of_functions_that_write():
    def f(x):
        y = x * x
        y[0] = y[1] * y[2]
        y[1:] = y[:-1] * x[0]
        return y

    _, pullback = tj.vjp(f, X)
    jacobian = tj.jacfwd(f)(X)
    for seed in np.eye(3):
        assert_allclose(pullback(seed)[0], seed @ jacobian)


def test_a_dropped_pullback_returns_its_workspace():
    f = tj.jit(lambda x: np.sin(x) * 3.25)
    _, pullback = tj.vjp(f, X)
    pool, workspace = pullback._workspace.program._pool, pullback._workspace
    assert workspace not in pool
    del pullback
    gc.collect()
    assert any(w is workspace for w in pool)


def test_cotangents_of_containers_and_of_equal_outputs():
    f = lambda p: {"y": [2.0 * p["x"], p["x"]], "z": p["x"]}  # noqa: E731
    _, pullback = tj.vjp(f, {"x": X})
    (got,) = pullback({"y": [X, np.ones(3)], "z": np.ones(3)})
    assert_array_equal(got["x"], 2.0 * X + 2.0)
    _, pullback = tj.vjp(lambda x: (x, x, x[0]), X)
    assert_array_equal(pullback((X, X, 1.0))[0], 2.0 * X + [1.0, 0.0, 0.0])


def test_static_arguments_have_no_cotangent():
    f = lambda x, mode: x * x if mode == "square" else x  # noqa: E731
    gradient, nothing = tj.vjp(f, X, "square")[1](np.ones(3))
    assert nothing is None
    assert_array_equal(gradient, 2.0 * X)
    assert_array_equal(tj.jacobian(f)(X, "square"), np.diag(2.0 * X))
    assert_array_equal(tj.jacfwd(f)(X, "square"), np.diag(2.0 * X))
    g = lambda x, mode: np.sum(x**3) if mode == "cube" else 0.0  # noqa: E731
    assert_allclose(tj.hvp(g)(X, np.ones(3), "cube"), 6.0 * X)
    assert_allclose(tj.hessian(g)(X, "cube"), np.diag(6.0 * X))
    assert_array_equal(tj.jit(lambda x: tj.vjp(f, x, "square")[1](x)[0])(X), 2.0 * X * X)


def test_jvp_and_linearize():
    f = lambda a, b: {"y": a * b, "n": "text", "s": np.sum(a)}  # noqa: E731
    value, tangent = tj.jvp(f, (X, 2.0), (np.ones(3), 1.0))
    assert_array_equal(value["y"], 2.0 * X)
    assert_array_equal(tangent["y"], 2.0 + X)
    assert tangent["s"] == 3.0
    x = X.copy()
    value, push = tj.linearize(lambda a: a * a, x)
    x[:] = 0.0
    for direction in np.eye(3):
        assert_array_equal(push(direction), 2.0 * X * direction)
    assert_array_equal(value, X * X)


# --- Jacobians and Hessians -----------------------------------------------------------------------

SHAPES = [(), (3,), (2, 3)]


@pytest.mark.parametrize("result", SHAPES, ids=str)
@pytest.mark.parametrize("argument", SHAPES, ids=str)
def test_jacobians_of_every_rank(argument, result):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(argument)[()]
    c = rng.standard_normal(result + argument)
    axes = tuple(range(len(result), c.ndim))

    def f(x):
        return np.sum(c * np.sin(x), axis=axes)

    want = c * np.cos(x)
    for transform in (tj.jacobian, tj.jacfwd, tj.jacrev):
        got = transform(f)(x)
        assert np.shape(got) == result + argument
        assert_allclose(got, want, rtol=1e-14)
        assert_allclose(tj.jit(transform(f))(x), want, rtol=1e-14)


def test_jacobians_of_containers_and_several_arguments():
    f = lambda p, s: (p["a"] * s, s)  # noqa: E731
    got = tj.jacobian(f, argnums=(0, 1))({"a": X}, 2.0)
    assert_array_equal(got[0][0]["a"], 2.0 * np.eye(3))
    assert_array_equal(got[0][1], X)
    assert_array_equal(got[1][0]["a"], np.zeros(3))
    assert got[1][1] == 1.0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hessians_of_every_rank(shape):
    x = np.random.default_rng(2).standard_normal(shape)[()]
    got = tj.hessian(lambda x: np.sum(x**3) + np.sum(x) ** 2)(x)
    n = np.size(x)
    want = np.diag(6.0 * np.ravel(x)) + 2.0
    assert np.shape(got) == shape + shape
    assert_allclose(np.reshape(got, (n, n)), want, rtol=1e-13, atol=1e-13)


def test_hessians_of_several_arguments():
    (aa, ab), (ba, bb) = tj.hessian(lambda a, b: np.sum(a * a) * b, argnums=(0, 1))(X, 2.0)
    assert_array_equal(aa, 4.0 * np.eye(3))
    assert_array_equal(ab, 2.0 * X)
    assert_array_equal(ba, 2.0 * X)
    assert bb == 0.0


def test_hvp():
    f = lambda x: np.sum(x**3)  # noqa: E731
    assert_allclose(tj.hvp(f)(X, np.array([1.0, 0.0, 2.0])), 6.0 * X * [1.0, 0.0, 2.0])
    with pytest.raises(ValueError, match="first argument"):
        tj.hvp(f, argnums=1)


def test_hvp_with_further_arguments():
    assert_allclose(tj.hvp(lambda x, c: c * np.sum(x**3))(X, np.ones(3), 2.0), 12.0 * X)
    assert_allclose(tj.hvp(lambda x, c: np.sum(c * x**3))(X, np.ones(3), X), 6.0 * X * X)


# --- nesting --------------------------------------------------------------------------------------


def test_derivatives_of_derivatives():
    f = np.sin
    for want in (np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin):
        f = tj.grad(f)
        assert f(0.7) == pytest.approx(want(0.7), rel=1e-14)
    assert_allclose(tj.grad(lambda x: np.sum(tj.grad(wave)(x)))(X), 2 * np.cos(X) - X * np.sin(X))


def test_forward_over_reverse_and_reverse_over_forward():
    f = lambda x: x**3  # noqa: E731
    assert tj.jvp(tj.grad(f), (2.0,), (1.0,))[1] == pytest.approx(12.0)
    assert tj.grad(lambda x: tj.jvp(f, (x,), (1.0,))[1])(2.0) == pytest.approx(12.0)
    assert tj.grad(lambda x: tj.vjp(f, x)[1](1.0)[0])(2.0) == pytest.approx(12.0)
    assert tj.grad(lambda x: tj.linearize(f, x)[1](1.0))(2.0) == pytest.approx(12.0)


def test_perturbations_are_not_confused():
    inner = lambda x: tj.grad(lambda y: x + y)(2.0)  # noqa: E731
    assert tj.grad(lambda x: x * inner(x))(3.0) == 1.0
    assert (
        tj.jvp(lambda x: x * tj.jvp(lambda y: x * y, (1.0,), (1.0,))[1], (3.0,), (1.0,))[1] == 6.0
    )
    assert tj.grad(lambda x: x * tj.grad(lambda y: x * y * y)(x))(2.0) == 24.0
    assert_array_equal(tj.grad(lambda x: np.sum(x * tj.grad(lambda y: np.sum(x * y))(x)))(X), 2 * X)


def test_grad_inside_of_a_recorded_update():
    """A gradient step, and a loop of them."""

    @tj.jit
    def descend(x):
        for _ in range(3):
            x = x - 0.25 * tj.grad(lambda x: np.sum(x * x))(x)
        return x

    assert_allclose(descend(X), X / 8.0)
    assert_allclose(tj.jacobian(descend)(X), np.eye(3) / 8.0)


def test_stop_gradient():
    assert tj.grad(lambda x: x * tj.stop_gradient(x))(3.0) == 3.0
    assert tj.jvp(lambda x: x * tj.stop_gradient(x), (3.0,), (1.0,))[1] == 3.0
    assert tj.grad(tj.grad(lambda x: x**2 * tj.stop_gradient(x)))(3.0) == 6.0
    g = tj.grad(lambda p: np.sum(p["x"] * tj.stop_gradient({"y": p["x"], "n": None})["y"]))
    assert_array_equal(g({"x": X})["x"], X)
    assert tj.stop_gradient(3.0) == 3.0


# --- containers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: {"a": a, "b": b},
        lambda a, b: [a, b],
        lambda a, b: (a, (b,)),
        Pair,
        lambda a, b: Model(a, b),
        lambda a, b: {"deep": [Pair(a, None), Model(b, 1.0)]},
    ],
)
def test_containers_in_and_out(make):
    def f(tree):
        leaves = tj.pytrees.flatten(tree)[0]
        return sum(np.sum(leaf * leaf) for leaf in leaves if not isinstance(leaf, str))

    tree = make(X, 2.0)
    for _ in range(2):
        gradient = tj.grad(f)(tree)
        assert type(gradient) is type(tree)
        leaves = tj.pytrees.flatten(tree)[0]
        want = [2.0 * leaf for leaf in leaves if not isinstance(leaf, str)]
        for a, b in zip(tj.pytrees.flatten(gradient)[0], want, strict=True):
            assert_array_equal(a, b)
    same = tj.jit(lambda tree: tree)(tree)
    assert tj.pytrees.flatten(same)[1] == tj.pytrees.flatten(tree)[1]


def test_static_fields_have_no_gradient():
    gradient = tj.grad(lambda m: m(X))(Model(X, 1.0))
    assert gradient.name is None
    assert_array_equal(gradient.weight, X)


def test_dataclasses_are_called_while_recording():
    model = Model(X, 1.0)
    value = tj.jit(lambda m, x: m(x))(model, X)
    assert value == model(X)


# --- tapes ----------------------------------------------------------------------------------------


def test_traced_tape(tmp_path):
    tape = tj.trace(lambda x, y: {"z": np.sum(np.sin(x)) * y}, X, y=2.0)
    assert len(tape) == 3
    assert "sin" in str(tape)
    assert "test_api.py" in str(tape)
    assert tape(2.0 * X, y=3.0)["z"] == pytest.approx(np.sum(np.sin(2.0 * X)) * 3.0)
    assert tape.draw().lstrip().startswith(("<?xml", "<svg"))
    tape.draw(tmp_path / "tape.svg")
    assert (tmp_path / "tape.svg").read_text().count("sin") >= 1
    with pytest.raises(AttributeError):
        tape.code = None
    with pytest.raises(ValueError, match="read-only"):
        tape.code[0, 0] = 1


def test_a_tape_refuses_other_arguments():
    tape = tj.trace(lambda x, n, mode: x * n if mode == "mul" else x, X, 2, "mul")
    assert_array_equal(tape(X, 3, "mul"), 3.0 * X)
    for args, message in (
        ((X[:2], 2, "mul"), r"shape \(2,\)"),
        ((X, 2.5, "mul"), "recorded as an integer"),
        ((X, 2, "add"), "static argument is 'add'"),
        ((X, 2), "structure"),
        (([X], 2, "mul"), "structure"),
    ):
        with pytest.raises(tj.TraceError, match=message):
            tape(*args)
    assert_array_equal(tape(X, 3, "mul"), 3.0 * X)


# --- check_grads ----------------------------------------------------------------------------------


def test_check_grads_accepts_right_and_refuses_wrong_derivatives():
    tj.testing.check_grads(lambda p: {"y": np.tanh(p["x"]) * p["x"]}, ({"x": X},), order=2)
    for mode in ("fwd", "rev"):
        with pytest.raises(AssertionError):
            tj.testing.check_grads(lambda x: np.sin(tj.stop_gradient(x)) + x, (X,), modes=(mode,))
