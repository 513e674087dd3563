"""Kernels of linear algebra on stacks of square matrices: solves, inverses, determinants, factors.

Same ABI as the other kernels (``kernel(context, instruction) -> status``), same rules: they run
compiled and as plain Python.  Words: matrices, order n, columns of the right-hand side, then
(space, offset) of the result, the matrices, the right-hand sides and the scratch (``n * n`` doubles
for a factor, behind it ``n`` 32-bit pivots in whole doubles, behind them two doubles).  Everything
is contiguous and row-major.  Operands stay as they are: the factor is computed in scratch.

A matrix that LAPACK finds exactly singular (or, for Cholesky, not positive definite) stops the
sweep with ``LINALG_ERROR``; the results of the stack's earlier matrices are then written.
"""

import numpy as np
from numba.extending import register_jitable

from .blas import cholesky, lu_factor, lu_inverse, lu_slogdet, lu_solve
from .layout import BLAS, CONTEXT_WORDS, DONE, LINALG_ERROR
from .memory import f64, i32, i64, operand

WORDS = 11


@register_jitable
def _words(ctx, ins):
    """Context, matrices, order, columns, addresses of result, matrix, right-hand side, scratch."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, WORDS)
    return (
        c, np.int64(p[0]), np.int64(p[1]), np.int64(p[2]),
        operand(c, p, 3), operand(c, p, 5), operand(c, p, 7), operand(c, p, 9),
    )  # fmt: skip


@register_jitable
def _copy(target, source, n):
    d, s = f64(target, n), f64(source, n)
    for k in range(n):
        d[k] = s[k]


@register_jitable
def _factor(blas, n, a, scratch):
    """LU of the matrix at ``a``, in scratch, the pivots behind it; LAPACK's status."""
    _copy(scratch, a, n * n)
    return lu_factor(blas, n, scratch, scratch + 8 * n * n)


@register_jitable
def _slogdet(blas, n, a, scratch):
    """Sign and logarithm of the determinant's absolute value; returns their address."""
    _factor(blas, n, a, scratch)
    result = scratch + 8 * (n * n + (n + 1) // 2)
    lu_slogdet(n, scratch, scratch + 8 * n * n, result)
    return result


def matrix_solve(ctx, ins):
    """``a @ result = right-hand side``, for each matrix of the stack."""
    c, count, n, columns, out, a, b, scratch = _words(ctx, ins)
    for _ in range(count):
        if _factor(c[BLAS], n, a, scratch) != 0:
            return LINALG_ERROR
        _copy(out, b, n * columns)
        lu_solve(c[BLAS], n, columns, scratch, scratch + 8 * n * n, out, 0)
        a += 8 * n * n
        b += 8 * n * columns
        out += 8 * n * columns
    return DONE


def matrix_inv(ctx, ins):
    """The inverse of each matrix."""
    c, count, n, _, out, a, _, scratch = _words(ctx, ins)
    for _ in range(count):
        if _factor(c[BLAS], n, a, scratch) != 0:
            return LINALG_ERROR
        lu_inverse(c[BLAS], n, scratch, scratch + 8 * n * n, out)
        a += 8 * n * n
        out += 8 * n * n
    return DONE


def matrix_logabsdet(ctx, ins):
    """Logarithm of the determinant's absolute value of each matrix: -inf if it is singular."""
    c, count, n, _, out, a, _, scratch = _words(ctx, ins)
    result = f64(out, count)
    for k in range(count):
        result[k] = f64(_slogdet(c[BLAS], n, a + 8 * k * n * n, scratch), 2)[1]
    return DONE


def matrix_detsign(ctx, ins):
    """Sign of the determinant of each matrix: 0 if it is singular."""
    c, count, n, _, out, a, _, scratch = _words(ctx, ins)
    result = f64(out, count)
    for k in range(count):
        result[k] = f64(_slogdet(c[BLAS], n, a + 8 * k * n * n, scratch), 2)[0]
    return DONE


def matrix_cholesky(ctx, ins):
    """Lower triangular factor of each matrix, of which the lower triangle alone is read."""
    c, count, n, _, out, a, _, _ = _words(ctx, ins)
    for k in range(count):
        if cholesky(c[BLAS], n, a + 8 * k * n * n, out + 8 * k * n * n) != 0:
            return LINALG_ERROR
    return DONE
