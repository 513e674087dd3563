"""Random elementwise chains over windows of one long array: in tiles, and as plain Python.

Where the adjoint of a window is assigned tile by tile and another window of the same array adds to
it, tiles have to run in the right order; registers that several cotangents share have to be copied
before they are added to.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import tapejit as tj
from tapejit.config import settings as tapejit_settings

UNARY = [np.sin, np.negative, np.abs, lambda a: a * 0.75, lambda a: 0.3 - a]
BINARY = [np.add, np.subtract, lambda a, b: a * np.tanh(b)]
MARGIN = 3
SETTINGS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

number = st.integers(0, 50)
steps = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) + 1), number, number), min_size=2, max_size=14
)


def chain(program, x, n):
    """A scalar from windows of ``x``, of length n, that start at 0 to MARGIN."""
    pool = [x[k : k + n] for k in range(MARGIN + 1)]
    total = 0.0
    for kind, i, j in program:
        a, b = pool[i % len(pool)], pool[j % len(pool)]
        if kind < len(UNARY):
            pool.append(UNARY[kind](a))
        elif kind < len(UNARY) + len(BINARY):
            pool.append(BINARY[kind - len(UNARY)](a, b))
        elif kind == len(UNARY) + len(BINARY):
            total = total + np.sum(a) * 0.1
        else:
            pool.append(a * np.tanh(total))
    return total + np.dot(pool[-1], pool[-2]) + np.sum(pool[-1])


def point(n):
    return np.sin(1.3 * np.arange(n + MARGIN)) * 0.8


@SETTINGS
@given(steps)
def test_tiles_change_nothing(program):
    n = 1100  # two whole tiles and a part
    x = point(n)
    want, slope = tj.value_and_grad(lambda x: chain(program, x, n))(x)
    assert want == pytest.approx(chain(program, x, n), rel=1e-10, abs=1e-10)
    before = tapejit_settings.tile_from
    tapejit_settings.tile_from = 10**9
    try:
        untiled, gradient = tj.value_and_grad(lambda x: chain(program, x, n))(x)
    finally:
        tapejit_settings.tile_from = before
    assert untiled == pytest.approx(want, rel=1e-10, abs=1e-10)
    assert_allclose(slope, gradient, rtol=1e-9, atol=1e-10 * (1.0 + np.abs(gradient).max()))
    v = np.cos(np.arange(len(x)))
    _, along = tj.jvp(lambda x: chain(program, x, n), (x,), (v,))
    assert along == pytest.approx(slope @ v, rel=1e-8, abs=1e-8 * (1.0 + np.abs(slope * v).sum()))


@SETTINGS
@given(steps)
def test_as_plain_python(program):
    n = 5
    x = point(n)
    before = tapejit_settings.tile_from
    tapejit_settings.tile_from = 2
    try:
        want = tj.grad(lambda x: chain(program, x, n))(x)
        with tj.testing.plain_python():
            got = tj.grad(lambda x: chain(program, x, n))(x)
    finally:
        tapejit_settings.tile_from = before
    assert_allclose(got, want, rtol=1e-10, atol=1e-12 * (1.0 + np.abs(want).max()))
