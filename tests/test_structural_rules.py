"""Rules of structural operations: compiled, as derivative tapes, to second order, at the edges."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj
from tapejit.ops.structural import STRUCTURAL
from tapejit.recording.tracer import Tracer, record, value_of

CASES = [
    pytest.param(op, example, id=f"{op.name}-{'-'.join(str(x.shape) for x in example.operands)}")
    for op in STRUCTURAL.values()
    if op.examples is not None
    for example in op.examples(np.random.default_rng(0))
]
DIFFERENTIABLE = [case for case in CASES if case.values[0].vjp is not None]


def operation(name, example):
    """The operation as a function that runs on arrays and on traced values."""

    def call(*operands):
        value = example.reference(*[value_of(x) for x in operands])
        for operand in operands:
            if isinstance(operand, Tracer):
                value = np.asarray(value, np.float64)
                return record(operand.rec, name, list(operands), value, example.params)
        return np.asarray(value, np.float64)[()]

    return call


def in_active(op, example):
    """A smooth function of the active operands alone, and where to take it."""
    call = operation(op.name, example)
    if op.name == "cholesky":  # the operation is about symmetric matrices
        return lambda a: call(0.5 * (a + a.mT)), example.operands
    if op.active is None:
        return call, example.operands
    (position,) = op.active
    fixed = list(example.operands)

    def restricted(x):
        return call(*fixed[:position], x, *fixed[position + 1 :])

    return restricted, (fixed[position],)


@pytest.mark.parametrize(("op", "example"), CASES)
def test_value(op, example):
    call = operation(op.name, example)
    expected = call(*example.operands)
    assert_allclose(tj.jit(call)(*example.operands), expected, rtol=1e-12, atol=1e-14)
    with tj.testing.plain_python():
        assert_allclose(tj.jit(call)(*example.operands), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("op", "example"), DIFFERENTIABLE)
def test_compiled_rules(op, example):
    f, args = in_active(op, example)
    tj.testing.check_grads(f, args, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("op", "example"), DIFFERENTIABLE)
def test_second_order(op, example):
    """The square makes second derivatives of linear operations show."""
    f, args = in_active(op, example)

    def curved(*operands):
        return f(*[x + 0.5 * x * x for x in operands])

    if op.name == "cholesky":
        curved = f
    tj.testing.check_grads(curved, args, order=2, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("op", "example"), DIFFERENTIABLE)
def test_derivative_tapes(op, example):
    """Rules run while recording agree with compiled ones, and with transposes in the lowering."""
    f, args = in_active(op, example)
    rng = np.random.default_rng(2)
    direction = tuple(rng.normal(size=x.shape) for x in args)
    value, tangent = tj.jvp(f, args, direction)
    w = rng.normal(size=np.shape(value))[()]
    inline = tj.jit(lambda *a: tj.jvp(f, a, direction)[1])(*args)
    assert_allclose(inline, tangent, rtol=1e-12, atol=1e-13)
    inline = tj.jit(lambda *a: tj.vjp(f, *a)[1](w))(*args)
    for one, other in zip(inline, tj.vjp(f, *args)[1](w), strict=True):
        assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["prod", "prod_others", "cumprod", "solve", "inv", "cholesky"])
def test_third_order(name):
    op = STRUCTURAL[name]
    example = op.examples(np.random.default_rng(1))[-1]
    f, args = in_active(op, example)
    tj.testing.check_grads(f, args, order=3, modes=("rev",), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "example"), [case for case in DIFFERENTIABLE if case.values[1].operands[0].ndim == 2]
)
def test_rules_in_plain_python(op, example):
    """The kernels that rules bring into a sweep, uncompiled, give the same."""
    f, args = in_active(op, example)
    value, pullback = tj.vjp(f, *args)
    compiled = pullback(np.ones_like(value))
    with tj.testing.plain_python():
        _, pullback = tj.vjp(f, *args)
        plain = pullback(np.ones_like(value))
    for one, other in zip(compiled, plain, strict=True):
        assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def test_inactive_operations_pass_nothing_on():
    for name in ("argmax", "argsort", "detsign"):
        op = STRUCTURAL[name]
        example = op.examples(np.random.default_rng(0))[1]
        call = operation(name, example)
        (x,) = example.operands
        _, pullback = tj.vjp(call, x)
        assert_array_equal(pullback(np.ones_like(call(x)))[0], np.zeros_like(x))
        _, tangent = tj.jvp(call, (x,), (np.ones_like(x),))
        assert_array_equal(tangent, np.zeros_like(call(x)))


def traced(name, reference, *params):
    """An operation of one operand, by its NumPy function."""

    def call(x):
        return record(x.rec, name, [x], reference(x.value), params)

    return call


def last(function):
    return lambda x: function(x, axis=-1)


@pytest.mark.parametrize(
    ("x", "shares"),
    [
        ([1.0, 3.0, 3.0, 2.0], [0.0, 0.5, 0.5, 0.0]),
        ([2.0, 2.0, 2.0, 2.0], [0.25, 0.25, 0.25, 0.25]),
        ([1.0, np.inf, 0.0, np.inf], [0.0, 0.5, 0.0, 0.5]),
        ([1.0, np.nan, 3.0, np.nan], [0.0, 0.5, 0.0, 0.5]),
    ],
)
def test_ties_share_equally(x, shares):
    f = traced("max", last(np.max))
    assert_array_equal(tj.grad(f)(np.array(x)), shares)
    mirrored = traced("min", last(np.min))
    assert_array_equal(tj.grad(mirrored)(-np.array(x)), shares)


def test_infinite_cotangent_reaches_the_extreme_alone():
    f = traced("max", last(np.max))
    _, pullback = tj.vjp(f, np.array([1.0, 3.0]))
    assert_array_equal(pullback(np.inf)[0], [0.0, np.inf])


@pytest.mark.parametrize("zeros", [(), (1,), (0, 3), (0, 1, 2)])
def test_products_are_exact_at_zeros(zeros):
    """Gradient and Hessian of a product, against products of what is left."""
    x = np.array([2.0, 3.0, -5.0, 7.0])
    x[list(zeros)] = 0.0
    f = traced("prod", last(np.prod))
    left = [[np.prod(np.delete(x, [i, j])) * (i != j) for j in range(4)] for i in range(4)]
    assert_array_equal(tj.grad(f)(x), [np.prod(np.delete(x, i)) for i in range(4)])
    assert_allclose(tj.hessian(f)(x), left, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 257])
def test_cumprod_of_long_rows(n):
    """The recurrence by doubling, at lengths around powers of two, with zeros on the way."""
    rng = np.random.default_rng(n)
    x = rng.uniform(0.8, 1.25, n)
    x[n // 2] = 0.0
    direction, w = rng.normal(size=(2, n))
    step = 1e-30
    expected = np.cumprod(x + 1j * step * direction).imag / step
    f = traced("cumprod", np.cumprod)
    _, tangent = tj.jvp(f, (x,), (direction,))
    assert_allclose(tangent, expected, rtol=1e-12, atol=1e-14)
    _, pullback = tj.vjp(f, x)
    assert_allclose(pullback(w)[0] @ direction, w @ expected, rtol=1e-11)


def test_cholesky_cotangent_is_symmetric():
    """Whatever cotangent comes in, and though the lower triangle alone is read."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=(4, 4))
    a = a @ a.T + np.eye(4)
    _, pullback = tj.vjp(traced("cholesky", np.linalg.cholesky), a)
    g = rng.normal(size=(4, 4))
    gradient = pullback(g)[0]
    assert_allclose(gradient, gradient.T, rtol=1e-12)
    assert_allclose(gradient, pullback(np.tril(g))[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["solve", "inv", "cholesky"])
def test_singular_matrix_raises_when_replayed(name):
    example = STRUCTURAL[name].examples(np.random.default_rng(0))[1]
    f = tj.jit(operation(name, example))
    f(*example.operands)
    singular = [np.zeros_like(example.operands[0]), *example.operands[1:]]
    with pytest.raises(np.linalg.LinAlgError):
        f(*singular)
    good = f(*example.operands)
    assert_allclose(good, example.reference(*example.operands), rtol=1e-12, atol=1e-14)


def test_constants_among_the_operands():
    """Second derivatives with captured matrices: the rules meet NumPy arrays."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(3, 3)) + 3.0 * np.eye(3), rng.normal(size=(3, 2))

    def left(x):
        solved = record(x.rec, "solve", [a, x], np.linalg.solve(a, x.value))
        return record(x.rec, "matmul", [b.T, solved * solved], b.T @ solved.value**2)

    def right(x):
        solved = record(x.rec, "solve", [x, b], np.linalg.solve(x.value, b))
        return record(x.rec, "matmul", [solved * solved, b.T], solved.value**2 @ b.T)

    for f, x in ((left, b + 1.0), (right, a + 0.1)):
        tj.testing.check_grads(tj.jit(f), (x,), order=2, rtol=1e-6, atol=1e-7)
