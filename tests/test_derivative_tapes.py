"""Derivative tapes: tape to tape, one direction and many, of any order."""

from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_derive import PROGRAMS, hessian_by_differences
from test_random_programs import SETTINGS, branching, everything, points, run, steps, writing

import tapejit as tj
from tapejit.builder import TapeBuilder
from tapejit.derive import choose, views
from tapejit.derive.rules import overwrites
from tapejit.derive.tapes import pullback, pushforward
from tapejit.lowering.scalars import tables
from tapejit.ops.structural import STRUCTURAL
from tapejit.ops.table import OPS
from tapejit.replay import evaluate
from tapejit.tape import SCALAR, Leaf, View, row_major
from tapejit.testing import plain_python

X = np.array([0.3, -0.7, 1.1, 0.5])
SMOOTH = [op for op in OPS.values() if op.pull is not None]


# --- every operation ------------------------------------------------------------------------------


def one_call(op, operands, params, shape):
    """The tape of a single array instruction on inputs."""
    builder = TapeBuilder(name=op)
    inputs = [builder.add_input(np.shape(x), f"x{i}") for i, x in enumerate(operands)]
    result = builder.call(op, inputs, builder.new_result(shape), params, (None, 0))
    return builder.finish([Leaf(result, "<f8")])


def directional(tape, values, directions, h=1e-6):
    """Derivative of a tape's first output by central differences."""

    def at(t):
        moved = [x + t * d for x, d in zip(values, directions, strict=True)]
        return np.asarray(evaluate(tape, moved)[0])

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("op", SMOOTH, ids=lambda op: op.name)
def test_elementwise_operations_at_first_and_second_order(op, shape):
    rng = np.random.default_rng(3)
    n = int(np.prod(shape, dtype=int))
    values = [interval.sample(rng, n).reshape(shape)[()] for interval in op.domain]
    if op.name == "where":
        values[0] = (np.asarray(values[0]) > 0) * 1.0
    if op.name == "hypot":
        values[1] = values[1] + 0.5
    moving = [i for i in range(op.arity) if not (op.name == "where" and i == 0)]
    function = {1: lambda x: apply(op, x), 2: lambda x, y: apply(op, x, y)}.get(
        op.arity, lambda x, y, z: apply(op, x, y, z)
    )
    tape = tj.trace(function, *values)
    weights = [rng.normal(size=shape)[()] for _ in moving]
    full = [np.zeros(shape)[()] for _ in values]
    for i, w in zip(moving, weights, strict=True):
        full[i] = w
    push = pushforward(tape, moving)
    (tangent,) = evaluate(push, [*values, *weights])
    np.testing.assert_allclose(tangent, directional(tape, values, full), rtol=1e-6, atol=1e-7)
    g = rng.normal(size=shape)[()]
    pulled = evaluate(pullback(tape, moving), [*values, g])
    inner = sum(np.vdot(a, b) for a, b in zip(pulled, weights, strict=True))
    np.testing.assert_allclose(inner, np.vdot(g, tangent), rtol=1e-10, atol=1e-12)
    # Second order: forward over forward and forward over reverse, against differences.
    (second,) = evaluate(pushforward(push, moving), [*values, *weights, *weights])
    expected = directional(push, [*values, *weights], [*full, *[0.0] * len(weights)])
    np.testing.assert_allclose(second, expected, rtol=1e-5, atol=1e-6)
    over = evaluate(pushforward(pullback(tape, moving), moving), [*values, g, *weights])
    inner = sum(np.vdot(a, b) for a, b in zip(over, weights, strict=True))
    np.testing.assert_allclose(inner, np.vdot(g, second), rtol=1e-9, atol=1e-10)


def apply(op, *args):
    from tapejit.recording.tracer import apply

    return apply(op, *args)


def examples():
    for name, rule in STRUCTURAL.items():
        for example in rule.examples(np.random.default_rng(7)) if rule.examples else ():
            if rule.vjp is not None:
                shapes = "-".join(str(np.shape(x)) for x in example.operands)
                yield pytest.param(name, example, id=f"{name}-{shapes}")


@pytest.mark.parametrize(("name", "example"), list(examples()))
def test_structural_operations_in_many_directions(name, example):
    """Several directions through one sweep give what each gives alone; and at second order."""
    rng = np.random.default_rng(11)
    operands = [np.asarray(x, np.float64)[()] for x in example.operands]
    expected = np.asarray(example.reference(*example.operands))
    tape = one_call(name, operands, example.params, expected.shape)
    np.testing.assert_allclose(evaluate(tape, operands)[0], expected, rtol=1e-12)
    rule = STRUCTURAL[name]
    moving = [i for i in range(len(operands)) if rule.is_active(i)]
    n = 3
    tangents = [rng.normal(size=(n, *np.shape(operands[i]))) for i in moving]
    if name == "cholesky":
        tangents = [t + np.swapaxes(t, -1, -2) for t in tangents]
    single, many = pushforward(tape, moving), pushforward(tape, moving, directions=n)
    (got,) = evaluate(many, [*operands, *tangents])
    for k in range(n):
        (want,) = evaluate(single, [*operands, *(t[k][()] for t in tangents)])
        np.testing.assert_allclose(got[k], want, rtol=1e-10, atol=1e-12)
    seeds = rng.normal(size=(n, *expected.shape))
    single, many = pullback(tape, moving), pullback(tape, moving, directions=n)
    got = evaluate(many, [*operands, seeds])
    for k in range(n):
        want = evaluate(single, [*operands, seeds[k][()]])
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-10, atol=1e-12)
        for t, b in zip(tangents, want, strict=True):
            assert b.shape == t.shape[1:]
    # The pullback of the pullback, and the pushforward of many of the pullback, agree.
    index = [*moving, len(operands)]
    weights = [rng.normal(size=np.shape(operands[i]))[()] for i in moving]
    over = evaluate(pullback(single, index), [*operands, seeds[0][()], *weights])
    block = [np.stack([w, 2 * w]) for w in weights] + [np.zeros((2, *expected.shape))]
    forward = evaluate(pushforward(single, index, directions=2), [*operands, seeds[0][()], *block])
    left = sum(np.vdot(a, w) for a, w in zip(over[:-1], weights, strict=True))
    right = sum(np.vdot(a[0], w) for a, w in zip(forward, weights, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-9)
    for a in forward:
        np.testing.assert_allclose(a[1], 2 * a[0], rtol=1e-12, atol=1e-13)


# --- programs -------------------------------------------------------------------------------------


def check_tapes(f, x, atol=1e-11):
    """All ways to first and second derivatives of a scalar function agree."""
    tape = tj.trace(f, x)
    want = tj.grad(f)(x)
    scale = 1.0 + np.abs(want).max(initial=0.0)
    gradient = pullback(tape, (0,), seeds="one")
    np.testing.assert_allclose(evaluate(gradient, [x])[0], want, atol=atol * scale)
    v = np.linspace(-1.0, 1.0, x.size).reshape(x.shape)
    (slope,) = evaluate(pushforward(tape, (0,)), [x, v])
    np.testing.assert_allclose(slope, np.vdot(want, v), atol=10 * atol * scale)
    (forward,) = evaluate(pushforward(gradient, (0,)), [x, v])
    (reverse,) = evaluate(pullback(gradient, (0,)), [x, v])
    scale += np.abs(forward).max(initial=0.0)
    np.testing.assert_allclose(reverse, forward, atol=10 * atol * scale)
    return gradient, forward, v


@pytest.mark.parametrize("f", PROGRAMS)
def test_programs(f):
    gradient, product, v = check_tapes(f, X)
    np.testing.assert_allclose(product, hessian_by_differences(f, X) @ v, atol=5e-7)
    moved = X[::-1].copy()  # the same tape at another point
    np.testing.assert_allclose(evaluate(gradient, [moved])[0], tj.grad(f)(moved), atol=1e-11)


def rows_written(x):
    a = np.outer(x, x)
    for i in range(1, 4):
        a[i, 1:] = np.sin(a[i - 1, :-1]) * x[i]
    return np.sum(a[2] * a[3]) + a[1, 2] * a[3, 3]


def elements_and_windows(x):
    y = x * 1.5
    y[0] = np.sin(y[3])
    y[1:3] = y[:2] * x[2]
    y[3] = y[1] * y[2]
    total = np.sum(y**2)
    y[::2] = x[1] * y[1::2]
    return total + y[0] * y[2] + np.sum(y)


def read_before(x):
    y = np.exp(x)
    z = y * y  # its pullback needs y as it was
    y[1:] = x[0]
    y[0] = 2.0 * y[3]
    return np.sum(z * y)


def filled_in_a_loop(x):
    y = np.zeros_like(x)
    for i in range(4):
        y[i] = x[i] ** 2 * (y[i - 1] if i else 1.0)
    return np.sum(y[1:] * y[:-1]) + y[-1]


def transposed(x):
    a = np.outer(x, np.cos(x))
    return np.sum(a.T[1:] @ a[:, :2]) + np.sum(a[::-1].T * a) + np.trace(a) ** 2


def several_traced_positions(x):
    y = x * x
    y[np.argsort(x)] = x**3
    return np.sum(y * x) + y[1]


WRITERS = [rows_written, elements_and_windows, read_before, filled_in_a_loop, transposed,
           several_traced_positions]  # fmt: skip


@pytest.mark.parametrize("f", WRITERS)
def test_writes_and_views(f):
    gradient, product, v = check_tapes(f, X)
    np.testing.assert_allclose(product, hessian_by_differences(f, X) @ v, atol=1e-6)
    third = pushforward(pushforward(gradient, (0,)), (0,))
    h = 1e-5
    second = pushforward(gradient, (0,))
    want = (evaluate(second, [X + h * v, v])[0] - evaluate(second, [X - h * v, v])[0]) / (2 * h)
    np.testing.assert_allclose(evaluate(third, [X, v, v])[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("f", WRITERS)
def test_writes_and_views_in_plain_python(f):
    tape = tj.trace(f, X)
    derivatives = [lambda: pullback(tape, (0,)), lambda: pushforward(tape, (0,))]
    compiled = [derive() for derive in derivatives]
    with plain_python():
        for derive, want in zip(derivatives, compiled, strict=True):
            assert derive().fingerprint == want.fingerprint


def test_derivative_tapes_leave_values_alone():
    """Undoing writes happens in private copies: the value comes out as it was."""
    tape = tj.trace(lambda x: (read_before(x), x * 2.0), X)
    pulled = pullback(tape, (0,), values=True)
    value, doubled, _ = evaluate(pulled, [X, 1.0, np.zeros(4)])
    assert value == pytest.approx(read_before(X))
    np.testing.assert_array_equal(doubled, 2.0 * X)


def test_writing_costs_what_is_written():
    """The gradient of a loop that fills an array has rows in proportion to the loop."""

    def rows(n):
        def f(x):
            y = np.zeros(n)
            y = np.zeros_like(np.broadcast_to(x, (n,)) * 1.0)
            for i in range(1, n):
                y[i] = y[i - 1] * x + 1.0
            return np.sum(y)

        gradient = pullback(tj.trace(f, 0.5), (0,), seeds="one")
        return len(gradient), sum(call.result.size for call in gradient.calls)

    (few, small), (many, large) = rows(100), rows(1000)
    assert many <= 10.5 * few
    assert large <= 11 * small


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1,)])
def test_empty_arrays(shape):
    f = lambda x: np.sum(np.sin(x) * x) + np.sum(x**2) ** 2  # noqa: E731
    x = np.full(shape, 0.5)
    check_tapes(f, x)
    assert tj.hessian(f)(x).shape == shape + shape
    assert tj.jacobian(lambda x: x * 2.0)(x).shape == shape + shape


def test_zero_dimensional():
    f = lambda x: np.sin(x) * x  # noqa: E731
    assert tj.hessian(f)(0.4) == pytest.approx(2 * np.cos(0.4) - 0.4 * np.sin(0.4))
    assert tj.hvp(f)(0.4, 2.0) == pytest.approx(2 * tj.hessian(f)(0.4))


def test_nan_and_infinity_stay_where_they_are():
    f = lambda x: np.sum(np.where(x > 0, np.sqrt(np.abs(x)) * x, 0.0))  # noqa: E731
    x = np.array([0.0, 4.0])
    np.testing.assert_allclose(tj.hessian(f)(x), [[0.0, 0.0], [0.0, 0.375]], atol=1e-15)
    np.testing.assert_allclose(tj.hvp(f)(x, np.ones(2)), [0.0, 0.375], atol=1e-15)


# --- random programs ------------------------------------------------------------------------------


def check_random(program, seed):
    f = lambda x: run(program, x)  # noqa: E731
    x = points(seed)[0]
    gradient, product, v = check_tapes(f, x, atol=1e-10)
    h = 1e-6
    want = (tj.grad(f)(x + h * v) - tj.grad(f)(x - h * v)) / (2 * h)
    scale = 1.0 + np.abs(want).max()
    assert np.abs(product - want).max() <= 1e-4 * scale**2
    if not overwrites(gradient):
        block = np.stack([v, -v, v * v])
        (many,) = evaluate(pushforward(gradient, (0,), directions=3), [x, block])
        np.testing.assert_allclose(many[0], product, atol=1e-9 * scale)
        np.testing.assert_allclose(many[1], -product, atol=1e-9 * scale)
        (back,) = evaluate(pullback(gradient, (0,), directions=3), [x, block])
        np.testing.assert_allclose(back, many, atol=1e-9 * (scale + np.abs(many).max()))


@SETTINGS
@given(st.lists(steps, min_size=1, max_size=10), st.integers(0, 1000))
def test_random_smooth_programs(program, seed):
    check_random(program, seed)


@SETTINGS
@given(st.lists(writing, min_size=1, max_size=8), st.integers(0, 1000))
def test_random_writing_programs(program, seed):
    check_random(program, seed)


@SETTINGS
@given(st.lists(branching, min_size=1, max_size=8), st.integers(0, 1000))
def test_random_branching_programs(program, seed):
    check_random(program, seed)


@pytest.mark.deep
@SETTINGS
@given(st.lists(everything, min_size=1, max_size=20), st.integers(0, 1000))
def test_random_programs(program, seed):
    check_random(program, seed)


# --- orders and exactness -------------------------------------------------------------------------


def test_sixth_derivative():
    """Of exp(sin(x)), by tapes of tapes, to 1e-12 of mpmath."""
    tape = tj.trace(lambda x: np.exp(np.sin(x)), 0.7)
    for _ in range(6):
        tape = tj.gradient_tape(tape)
    with mpmath.workdps(50):
        for x in (0.7, -1.3, 2.2):
            want = mpmath.diff(lambda t: mpmath.exp(mpmath.sin(t)), mpmath.mpf(x), 6)
            assert abs(tape(x) / want - 1) < 1e-12


def test_mixed_partial_derivatives():
    """d^4/dx^2 dy dz of exp(x y) sin(z x), to 1e-12 of mpmath."""
    tape = tj.trace(lambda x, y, z: np.exp(x * y) * np.sin(z * x), 0.5, 1.1, 0.3)
    for argument in (0, 1, 2, 0):
        tape = tj.gradient_tape(tape, argument)
    with mpmath.workdps(50):
        point = tuple(mpmath.mpf(v) for v in (0.6, -0.4, 1.2))
        f = lambda x, y, z: mpmath.exp(x * y) * mpmath.sin(z * x)  # noqa: E731
        want = mpmath.diff(f, point, (2, 1, 1))
        assert abs(tape(0.6, -0.4, 1.2) / want - 1) < 1e-12


# --- tapes for users ------------------------------------------------------------------------------


def test_gradient_tapes_are_ordinary_tapes(tmp_path):
    tape = tj.trace(lambda x, y: np.sum(np.sin(x) * y), X, 2.0)
    gradient = tj.gradient_tape(tape)
    assert isinstance(gradient, tj.Tape)
    np.testing.assert_allclose(gradient(X[::-1].copy(), 3.0), 3.0 * np.cos(X[::-1]))
    assert "cos" in str(gradient)
    assert Path(tape.line(0)[0]).name == "test_derivative_tapes.py"
    assert gradient.line(len(gradient) - 1) == tape.line(0)
    gradient.draw(str(tmp_path / "gradient.svg"))
    both = tj.gradient_tape(tape, (1, 0))(X, 2.0)
    assert both[0] == pytest.approx(np.sum(np.sin(X)))
    np.testing.assert_allclose(both[1], 2.0 * np.cos(X))


def test_jvp_and_vjp_tapes():
    tape = tj.trace(lambda p, x: {"y": p["a"] * np.sin(x), "n": np.sum(x)}, {"a": 2.0}, X)
    value, tangent = tj.jvp_tape(tape)({"a": 3.0}, X, {"a": 1.0}, X)
    np.testing.assert_allclose(value["y"], 3.0 * np.sin(X))
    np.testing.assert_allclose(tangent["y"], np.sin(X) + 3.0 * np.cos(X) * X)
    assert tangent["n"] == pytest.approx(np.sum(X))
    seed = {"y": X**2, "n": 1.0}
    value, (p, x) = tj.vjp_tape(tape)({"a": 3.0}, X, seed)
    assert p["a"] == pytest.approx(np.sum(X**2 * np.sin(X)))
    np.testing.assert_allclose(x, 3.0 * np.cos(X) * X**2 + 1.0)
    np.testing.assert_allclose(value["y"], 3.0 * np.sin(X))


def test_refusals():
    with pytest.raises(tj.TraceError, match="scalar result"):
        tj.gradient_tape(tj.trace(lambda x: x * 2.0, X))
    with pytest.raises(TypeError, match="argnums"):
        tj.gradient_tape(tj.trace(np.sin, 0.5), 1)
    with pytest.raises(tj.TraceError, match="are made of those"):
        tj.gradient_tape(pullback(tj.trace(np.sin, 0.5), (0,)))
    with pytest.raises(tj.TraceError, match="writes in place"):
        pushforward(tj.trace(filled_in_a_loop, X), (0,), directions=2)
    with pytest.raises(ValueError, match="mode"):
        tj.jacobian(np.sin, mode="sideways")
    with pytest.raises(ValueError, match="mode"):
        tj.hessian(np.sin, mode="forward")
    with pytest.raises(ValueError, match="shapes"):
        tj.hvp(lambda x: np.sum(x**2))(X, np.ones(3))
    with pytest.raises(tj.TraceError, match="scalar result"):
        tj.hvp(lambda x: x**2)(X, X)
    with pytest.raises(tj.TraceError, match="scalar result"):
        tj.hessian(lambda x: x**2)(X)


# --- choosing -------------------------------------------------------------------------------------


def vector_function(x, p):
    y = np.tanh(np.outer(x, p)).sum(axis=1)
    return {"y": y * x, "s": np.sum(y) * p[0]}


@pytest.mark.parametrize("block", [1 << 17, 24])
@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobian_modes(mode, block, monkeypatch):
    """All modes, in one sweep or in blocks of eight directions, agree with differences."""
    monkeypatch.setattr(choose, "BLOCK", block)
    rng = np.random.default_rng(0)
    x, p = rng.normal(size=11), rng.normal(size=2)
    jacobian = tj.jacobian(vector_function, argnums=(0, 1), mode=mode, explain=True)
    for point in (x, 0.5 * x):
        found, choice = jacobian(point, p)
        assert choice.per_sweep == choice.directions or block == 24
        h = 1e-6
        for k in range(11):
            e = h * np.eye(11)[k]
            plus, minus = vector_function(point + e, p), vector_function(point - e, p)
            for name in ("y", "s"):
                want = (plus[name] - minus[name]) / (2 * h)
                np.testing.assert_allclose(found[name][0][..., k], want, atol=1e-8)
        assert found["y"][1].shape == (11, 2)
        assert found["s"][1].shape == (2,)


def test_cheaper_modes_are_chosen():
    _, wide = tj.jacobian(lambda x: np.stack([np.prod(x), np.sum(np.sin(x))]), explain=True)(
        np.ones(60)
    )
    assert wide.mode == "reverse"
    _, tall = tj.jacobian(lambda x: np.sin(np.outer(np.ones(50), x)), explain=True)(np.ones(2))
    assert tall.mode == "forward"
    assert wide.costs["reverse"] < wide.costs["forward"]
    assert "2 cotangents" in str(wide)


@pytest.mark.parametrize("mode", ["auto", "forward-over-reverse", "reverse-over-reverse"])
@pytest.mark.parametrize("f", [*PROGRAMS, *WRITERS])
def test_hessian_modes(f, mode):
    hessian = tj.hessian(f, mode=mode)
    for x in (X, X[::-1].copy()):
        np.testing.assert_allclose(hessian(x), hessian_by_differences(f, x), atol=1e-6)


def test_hessians_of_branches():
    """Each branch is recorded once and its Hessian replayed."""
    calls = []

    def f(x):
        calls.append(1)
        if np.sum(x) > 0:
            return np.sum(x**3)
        return np.prod(x)

    hessian, product = tj.hessian(f), tj.hvp(f)
    for x in (X, -X, X, -X, 2 * X):
        want = hessian_by_differences(lambda x: np.sum(x**3) if np.sum(x) > 0 else np.prod(x), x)
        np.testing.assert_allclose(hessian(x), want, atol=1e-6)
        np.testing.assert_allclose(product(x, X), want @ X, atol=1e-6)
    assert len(calls) <= 5


def test_long_scalar_code_goes_in_vector_mode():
    def f(x):
        total = 0.0
        for i in range(1500):
            total = total + np.sin(x[i % 4] * total + x[(i + 1) % 4])
        return total / 100.0

    hessian, choice = tj.hessian(f, explain=True)(X)
    assert choice.per_sweep == 8
    np.testing.assert_allclose(hessian, hessian_by_differences(f, X), rtol=1e-4, atol=1e-3)


# --- views ----------------------------------------------------------------------------------------


def memory(view, size=200):
    flat = np.arange(size)
    return np.lib.stride_tricks.as_strided(
        flat[view.offset :], view.shape, [8 * s for s in view.strides]
    )


@pytest.mark.parametrize(
    "outer",
    [
        View(0, 3, (4, 6), (6, 1)), View(0, 40, (4, 6), (-7, 1)), View(0, 3, (4, 6), (1, 4)),
        View(0, 5, (4, 6), (0, 2)), View(0, 9, (4, 6), (0, 0)), View(0, 0, (4, 1, 6), (12, 5, 2)),
    ],
)  # fmt: skip
def test_compose(outer):
    """A view of a view shows what NumPy shows, or there is none."""
    index = np.arange(outer.size).reshape(outer.shape)
    for pick in (
        np.s_[...], np.s_[1], np.s_[:, :1], np.s_[::-1], np.s_[1:3, ..., ::2], np.s_[0, ..., 1:2],
        np.s_[2, ..., 3],
    ):  # fmt: skip
        chosen = index[pick]
        strides = tuple(s // 8 for s in chosen.strides)
        inner = View(SCALAR, int(np.ravel(chosen)[0]), chosen.shape, strides)
        found = views.compose(outer, inner)
        assert found is not None
        np.testing.assert_array_equal(memory(found), memory(outer)[pick])
    flat = views.compose(outer, View(SCALAR, 0, (24,), (1,)))
    if flat is not None:
        np.testing.assert_array_equal(memory(flat), memory(outer).ravel())
    else:
        assert outer.strides != row_major(outer.shape)


def test_constants_are_folded_while_deriving():
    """Identity seeds through a constant matrix cost nothing at replay; sums of constants too."""
    matrix = np.arange(12.0).reshape(4, 3)
    f = lambda x: np.sin(matrix @ x) * np.sum(x)  # noqa: E731
    jacobian, choice = tj.jacobian(f, mode="forward", explain=True)(X[:3])
    z = matrix @ X[:3]
    want = np.cos(z)[:, None] * matrix * np.sum(X[:3]) + np.sin(z)[:, None]
    np.testing.assert_allclose(jacobian, want, rtol=1e-13)
    assert choice.per_sweep == 3
    tape = pushforward(tj.trace(f, X[:3]), (0,), seeds=choose.identity([(3,)], 0, 3), directions=3)
    products = [call for call in tape.calls if call.op == "matmul"]
    assert len(products) == 1  # the value's own


def test_short_way_of_products_takes_any_argument():
    """After the first calls flat arrays take a short way; all others still work."""
    product = tj.hvp(lambda x: np.sum(x**3))
    v = np.array([1.0, -2.0, 0.5, 3.0])
    for _ in range(3):
        np.testing.assert_allclose(product(X, v), 6 * X * v, rtol=1e-15)
    assert product.__tapejit__._pair is not None
    first = product(X, v)
    product(2 * X, v)
    np.testing.assert_allclose(first, 6 * X * v, rtol=1e-15)  # results are their own
    wide = np.arange(8.0)
    for x, u in (
        (X.tolist(), v), (wide[::2], wide[1::2]), (X.astype(np.float32), v), (np.arange(4), v),
        (wide, wide[::-1]), (X[:1], v[:1]),
    ):  # fmt: skip
        x64 = np.asarray(x, np.float64)
        np.testing.assert_allclose(product(np.asarray(x), u), 6 * x64 * u, rtol=1e-6)
    with pytest.raises(ValueError, match="shapes"):
        product(X, wide)
    np.testing.assert_allclose(product(X, v), 6 * X * v, rtol=1e-15)
    scalar = tj.hvp(lambda x: x**4)
    for _ in range(3):
        assert scalar(0.5, 2.0) == pytest.approx(6.0)


def test_results_of_every_kind():
    """Arguments, repeated results, constants, integers and truth values as results."""
    x = np.array([1.0, 2.0, 3.0])
    same, again, constant, whole, truth, total = tj.jacobian(
        lambda x: (x, x, np.ones(2), x.astype(int), x > 1.5, np.sum(x))
    )(x)
    for found in (same, again):
        np.testing.assert_array_equal(found, np.eye(3))
    for found, n in ((constant, 2), (whole, 3), (truth, 3)):
        np.testing.assert_array_equal(found, np.zeros((n, 3)))
    np.testing.assert_array_equal(total, np.ones(3))
    assert tj.jacobian(lambda x: 3.0)(x).tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(tj.hessian(lambda x: 3.0 * np.sum(x))(x), np.zeros((3, 3)))
    np.testing.assert_array_equal(tj.hvp(lambda x: 2.0)(x, x), np.zeros(3))
    np.testing.assert_array_equal(tj.jacobian(lambda x: x * 2)(np.arange(3)), 2.0 * np.eye(3))
    with pytest.raises(tj.TraceError, match="not numeric"):
        tj.jacobian(lambda x: {"name": "text", "x": x})(x)


def test_windows_that_meet_themselves():
    """Contributions to overlapping windows of one array add up."""

    def f(x):
        windows = np.lib.stride_tricks.sliding_window_view(x, 2)
        return np.sum(windows.prod(axis=1) ** 2) + np.sum(np.convolve(x, x) ** 2)

    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        found = tj.hessian(f, mode=mode)(X)
        np.testing.assert_allclose(found, hessian_by_differences(f, X), atol=1e-6)


def test_columns_that_no_operation_reads_do_not_count():
    """Passes may leave anything there; compiled loops must not follow it."""
    import dataclasses

    tape = tj.trace(lambda x: np.sin(x[0]) * x[1] + np.exp(x[2]) * x[3], X)
    code = tape.code.copy()
    for row in code:
        row[2 + tables()[0][row[0]] :] = 2**31 - 1
    strange = dataclasses.replace(tape, code=code)
    gradient = pullback(strange, (0,), seeds="one")
    want = [np.cos(X[0]) * X[1], np.sin(X[0]), np.exp(X[2]) * X[3], np.exp(X[2])]
    np.testing.assert_allclose(evaluate(gradient, [X])[0], want, rtol=1e-14)
    (slope,) = evaluate(pushforward(strange, (0,)), [X, X])
    assert slope == pytest.approx(np.dot(want, X))
