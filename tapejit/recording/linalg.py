"""``numpy.linalg`` on traced values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.table import OPS
from .reductions import _axes, _without, max, min, sum
from .shapes import (
    broadcast_to,
    diagonal,
    operand,
    operands,
    ravel,
    reshape,
    swapaxes,
    unsupported,
)
from .tracer import apply, is_traced, record, recorder_of, value_of

__all__ = [
    "cholesky", "det", "inv", "matrix_norm", "norm", "slogdet", "solve", "trace", "vector_norm",
]  # fmt: skip


SlogdetResult = type(np.linalg.slogdet(np.eye(1)))


def _square(a: Any) -> Any:
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise np.linalg.LinAlgError(f"matrices must be square, not of shape {a.shape}")
    return a


def solve(a: Any, b: Any) -> Any:
    """The solution of ``a x = b``, stacks of systems broadcast."""
    rec, (a, b) = operands(a, b)
    if rec is None:
        return np.linalg.solve(a, b)
    _square(a)
    vector = b.ndim == 1
    if vector:
        b = reshape(b, (-1, 1))
    value = np.linalg.solve(value_of(a), value_of(b))
    batch = value.shape[:-2]
    a, b = broadcast_to(a, batch + a.shape[-2:]), broadcast_to(b, batch + b.shape[-2:])
    result = record(rec, "solve", [a, b], value)
    return result[..., 0] if vector else result


def inv(a: Any) -> Any:
    """Inverse matrices."""
    a = _square(operand(a))
    return record(recorder_of(a), "inv", [a], np.linalg.inv(a.value))


def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """The triangular factor of positive definite matrices."""
    a = _square(operand(a))
    if upper:
        return swapaxes(cholesky(swapaxes(a, -1, -2)), -1, -2)
    return record(recorder_of(a), "cholesky", [a], np.linalg.cholesky(a.value))


def slogdet(a: Any) -> Any:
    """Sign and logarithm of the determinant."""
    a = _square(operand(a))
    sign, logarithm = np.linalg.slogdet(a.value)
    rec = recorder_of(a)
    return SlogdetResult(
        record(rec, "detsign", [a], sign), record(rec, "logabsdet", [a], logarithm)
    )


def det(a: Any) -> Any:
    """Determinant; for orders up to three from its definition, which also differentiates where the
    matrix is singular."""
    a = _square(operand(a))
    n = a.shape[-1]
    if n == 0:
        return np.linalg.det(a.value)
    if n <= 3:
        return _expanded(a, n)
    sign, logarithm = slogdet(a)
    return sign * apply(OPS["exp"], logarithm)


def _expanded(a: Any, n: int) -> Any:
    e = [[a[..., i, j] for j in range(n)] for i in range(n)]
    if n == 1:
        return e[0][0] * 1.0
    if n == 2:
        return e[0][0] * e[1][1] - e[0][1] * e[1][0]
    minors = [e[1][i] * e[2][j] - e[1][j] * e[2][i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return e[0][0] * minors[0] + e[0][1] * minors[1] + e[0][2] * minors[2]


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Norms of vectors (all orders) and of matrices (fro, 1, -1, inf, -inf)."""
    x = operand(x)
    if axis is None:
        if ord is None or (x.ndim == 1 and ord == 2) or (x.ndim == 2 and ord in ("f", "fro")):
            result = apply(OPS["sqrt"], sum(apply(OPS["square"], ravel(x))))
            return reshape(result, (1,) * x.ndim) if keepdims else result
        axis = tuple(range(x.ndim))
    axis = axis if isinstance(axis, tuple) else (axis.__index__(),)
    if len(axis) == 1:
        return vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if ord is None else ord)
    if len(axis) != 2:
        raise ValueError("Improper number of dimensions to norm.")
    return _matrix_norm(x, ord, axis, keepdims)


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """Norms of vectors, any order."""
    x = operand(x)
    if isinstance(ord, str):
        raise ValueError(f"Invalid norm order {ord!r} for vectors")
    if is_traced(ord):
        raise unsupported("a traced norm order", "pass ord as a constant or static argument")
    axes = _axes(axis, x.ndim)
    if ord == 2:
        return apply(OPS["sqrt"], sum(apply(OPS["square"], x), axes, keepdims=keepdims))
    if ord == 0:
        return sum(apply(OPS["not_equal"], x, 0), axes, float, keepdims=keepdims)
    size = apply(OPS["abs"], x)
    if ord == 1:
        return sum(size, axes, keepdims=keepdims)
    if ord in (np.inf, -np.inf):
        return (max if ord > 0 else min)(size, axes, keepdims=keepdims)
    return sum(size**ord, axes, keepdims=keepdims) ** (1 / ord)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """Norms of matrices: fro, 1, -1, inf, -inf."""
    return _matrix_norm(operand(x), ord, (-2, -1), keepdims)


def _matrix_norm(x: Any, ord: Any, axis: tuple[int, int], keepdims: bool) -> Any:
    rows, columns = (i % x.ndim for i in axis)
    if rows == columns:
        raise ValueError("Duplicate axes given.")
    if ord in (None, "fro", "f"):
        squares = apply(OPS["square"], x)
        return apply(OPS["sqrt"], sum(squares, (rows, columns), keepdims=keepdims))
    if ord not in (1, -1, np.inf, -np.inf):
        raise unsupported(
            f"np.linalg.norm of matrices with ord={ord!r} (singular values)",
            "use ord='fro', 1 or inf",
        )
    along, over = (rows, columns) if abs(ord) == 1 else (columns, rows)
    totals = sum(apply(OPS["abs"], x), along, keepdims=True)
    result = (max if ord > 0 else min)(totals, over, keepdims=True)
    if keepdims:
        return result
    return reshape(result, _without(x.shape, _axes((rows, columns), x.ndim)))


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """Sums of diagonals of the last two axes."""
    return sum(diagonal(x, offset, -2, -1), -1, dtype)


def linalg_diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """Diagonals of the last two axes."""
    return diagonal(x, offset, -2, -1)
