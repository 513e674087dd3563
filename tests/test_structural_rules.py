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
