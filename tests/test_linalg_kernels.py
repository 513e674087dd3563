"""Kernels of linear algebra against NumPy, compiled and as plain Python."""

import ctypes

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tapejit.interpreters import blas, layout, linalg_kernels
from tapejit.interpreters.cache import compile_kernel

STACKS = [(1,), (3,), (2, 2)]
ORDERS = [1, 2, 5, 40]


@pytest.fixture(params=["compiled", "plain"])
def kernel(request):
    """A kernel by name, as a function of (context, instruction) addresses."""

    def get(name):
        function = getattr(linalg_kernels, name)
        if request.param == "plain":
            return function
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        return kind(compile_kernel(function))

    return get


def scratch_size(n):
    """What the lowering reserves."""
    return n * n + (n + 1) // 2 + 2


def run(kernel, shape, a, b=None):
    """Call a kernel on one arena; returns its status and the result, after checking its manners."""
    n = a.shape[-1]
    parts = [a, a if b is None else b, np.full(shape, 7.0), np.full(scratch_size(n), 7.0)]
    starts, arena, at = [], np.full(sum(p.size + 3 for p in parts), np.nan), 3
    for part in parts:
        starts.append(at)
        arena[at : at + part.size] = part.reshape(-1)
        at += part.size + 3  # a gap of NaNs, which no kernel may touch
    arena = arena[: at - 3].copy()
    before = arena.copy()
    context = np.zeros(layout.CONTEXT_WORDS, np.int64)
    context[layout.BLAS] = blas.table_address()
    context[layout.VALUES] = arena.ctypes.data
    matrix, right, out, scratch = starts
    places = [word for start in (out, matrix, right, scratch) for word in (layout.VALUES, start)]
    columns = 1 if b is None else b.shape[-1]
    words = np.array([a.size // n**2, n, columns, *places], np.int32)
    status = int(kernel(context.ctypes.data, words.ctypes.data))
    assert_array_equal(arena[:out], before[:out], "operands are as they were")
    size = int(np.prod(shape))
    assert_array_equal(arena[out + size : scratch], before[out + size : scratch])
    return status, arena[out : out + size].reshape(shape).copy()


def matrices(rng, stack, n):
    """Well-conditioned matrices whose elimination needs row exchanges."""
    a = rng.normal(size=(*stack, n, n)) + 2.0 * np.sqrt(n) * np.eye(n)
    return a[..., rng.permutation(n), :]


def close(actual, desired):
    assert_allclose(actual, desired, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("columns", [1, 3])
def test_solve(kernel, stack, n, columns):
    rng = np.random.default_rng(n)
    a, b = matrices(rng, stack, n), rng.normal(size=(*stack, n, columns))
    status, x = run(kernel("matrix_solve"), b.shape, a, b)
    assert status == layout.DONE
    close(x, np.linalg.solve(a, b))


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("stack", STACKS)
def test_inv(kernel, stack, n):
    a = matrices(np.random.default_rng(n), stack, n)
    status, inverse = run(kernel("matrix_inv"), a.shape, a)
    assert status == layout.DONE
    close(inverse, np.linalg.inv(a))


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("stack", STACKS)
def test_determinant(kernel, stack, n):
    a = matrices(np.random.default_rng(n), stack, n)
    a[(0,) * len(stack)] *= -1.0
    sign, logarithm = np.linalg.slogdet(a)
    for name, desired in (("matrix_detsign", sign), ("matrix_logabsdet", logarithm)):
        status, actual = run(kernel(name), stack, a)
        assert status == layout.DONE
        close(actual, desired)


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("stack", STACKS)
def test_cholesky(kernel, stack, n):
    a = matrices(np.random.default_rng(n), stack, n)
    a = a @ np.swapaxes(a, -1, -2)
    factor = np.linalg.cholesky(a)
    above = np.triu(np.ones((n, n)), 1) > 0.0
    status, actual = run(kernel("matrix_cholesky"), a.shape, np.where(above, np.nan, a))
    assert status == layout.DONE, "the upper triangle is not read"
    close(actual, factor)


def test_singular_matrix_is_an_error(kernel):
    a = np.stack([np.eye(3), np.zeros((3, 3)), np.eye(3)])
    status, x = run(kernel("matrix_solve"), a.shape, a, a + 1.0)
    assert status == layout.LINALG_ERROR
    assert_array_equal(x[0], a[0] + 1.0, "the results before the singular matrix are written")
    assert_array_equal(x[1:], 7.0)
    assert run(kernel("matrix_inv"), a.shape, a)[0] == layout.LINALG_ERROR


def test_determinant_of_a_singular_matrix(kernel):
    a = np.array([[[1.0, 2.0], [2.0, 4.0]], [[0.0, 1.0], [1.0, 0.0]]])
    status, sign = run(kernel("matrix_detsign"), (2,), a)
    assert status == layout.DONE
    assert_array_equal(sign, [0.0, -1.0])
    status, logarithm = run(kernel("matrix_logabsdet"), (2,), a)
    assert status == layout.DONE
    assert_array_equal(logarithm, [-np.inf, 0.0])


@pytest.mark.parametrize("a", [[[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]], [[-1.0]]])
def test_matrix_that_is_not_positive_definite(kernel, a):
    a = np.array(a)
    assert run(kernel("matrix_cholesky"), a.shape, a)[0] == layout.LINALG_ERROR


@pytest.mark.parametrize("name", ["matrix_solve", "matrix_inv", "matrix_logabsdet"])
def test_not_a_number_spreads(kernel, name):
    a = np.array([[np.nan, 1.0], [1.0, 2.0]])
    shape = () if name == "matrix_logabsdet" else (2, 2)
    status, actual = run(kernel(name), shape, a, np.eye(2) if name == "matrix_solve" else None)
    assert status == layout.DONE
    assert np.isnan(actual).all()
