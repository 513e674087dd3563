"""Structural operations: which operands carry derivatives, and their rules in other operations.

``vjp(g, f, operands, params)`` gives a cotangent for each operand (``None`` where there is none),
``jvp(tangents, f, operands, params)`` the result's tangent (``tangents`` holds ``None`` for operands
that don't move).  Both are ordinary NumPy code over traced values, so that they are differentiated
again for higher orders.  Linear algebra follows Giles, *Collected matrix derivative results for
forward and reverse mode algorithmic differentiation* (2008), and Murray, *Differentiation of the
Cholesky decomposition* (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["STRUCTURAL", "Structural"]


@dataclass(frozen=True)
class Structural:
    """A structural operation.

    Attributes
    ----------
    name
        Its name on the tape.
    active
        Positions of the operands that carry derivatives; ``None`` for all.
    vjp, jvp
        Its rules; ``None`` for operations whose derivative is zero, or that the lowering treats
        itself (in-place writes).
    linear
        Whether the result is linear in the active operands.
    """

    name: str
    active: tuple[int, ...] | None
    vjp: Callable[..., Sequence[Any]] | None = None
    jvp: Callable[..., Any] | None = None
    linear: bool = False

    def is_active(self, position: int) -> bool:
        """Whether an operand carries derivatives."""
        return self.active is None or position in self.active


STRUCTURAL: dict[str, Structural] = {}


def _structural(name: str, active: tuple[int, ...] | None = None, **rules: Any) -> None:
    STRUCTURAL[name] = Structural(name, active, **rules)


def _apply(op: str, operands: Sequence[Any], value: Any, params: tuple = ()) -> Any:
    """Record a structural operation on traced operands."""
    from ..recording.tracer import record, recorder_of

    return record(recorder_of(*operands), op, list(operands), value, params)


def _value(x: Any) -> Any:
    from ..recording.tracer import value_of

    return value_of(x)


def _sum_of(parts: Sequence[Any]) -> Any:
    """The sum of those parts that are not None."""
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def _t(x: Any) -> Any:
    """Matrix transpose."""
    return np.swapaxes(x, -1, -2)


# --- copies, sums, joins: linear ------------------------------------------------------------------


def _copy_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    return tangents[0]


_structural("copy", vjp=lambda g, f, operands, params: (g,), jvp=_copy_jvp, linear=True)


def _sum_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> tuple:
    (axes,) = params
    shape = operands[0].shape
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return (np.broadcast_to(np.reshape(g, kept), shape),)


def _sum_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    return np.sum(tangents[0], axis=params[0])


_structural("sum", vjp=_sum_vjp, jvp=_sum_jvp, linear=True)


def _concatenate_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> list:
    (axis,) = params
    parts, at = [], 0
    for operand in operands:
        n = operand.shape[axis]
        index = (slice(None),) * axis + (slice(at, at + n),)
        parts.append(g[index])
        at += n
    return parts


def _concatenate_jvp(
    tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple
) -> Any:
    parts = [
        np.zeros(x.shape) if t is None else t for t, x in zip(tangents, operands, strict=True)
    ]
    return np.concatenate(parts, axis=params[0])


_structural("concatenate", vjp=_concatenate_vjp, jvp=_concatenate_jvp, linear=True)
_structural("write", (0, 1), linear=True)
_structural("scatter_write", (0, 2), linear=True)


# --- gathers --------------------------------------------------------------------------------------


def _flat_index(index: Any) -> np.ndarray:
    return np.asarray(_value(index)).astype(np.int64)


def _scatter_added(source: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of ``shape`` with ``source`` added at flat positions ``index``."""
    value = np.zeros(shape)
    np.add.at(value.reshape(-1), _flat_index(index), np.broadcast_to(_value(source), index.shape))
    return _apply("scatter_add", [_shaped(source, index.shape), index], value)


def _shaped(x: Any, shape: tuple[int, ...]) -> Any:
    return x if np.shape(_value(x)) == tuple(shape) else np.broadcast_to(x, shape)


def _gathered(base: Any, index: Any) -> Any:
    """Elements of ``base`` at flat positions ``index``."""
    value = np.ascontiguousarray(_value(base)).reshape(-1)[_flat_index(index)]
    return _apply("gather", [base, index], value)


_structural(
    "gather", (0,),
    vjp=lambda g, f, operands, params: (_scatter_added(g, operands[1], operands[0].shape), None),
    jvp=lambda tangents, f, operands, params: _gathered(tangents[0], operands[1]),
    linear=True,
)  # fmt: skip
_structural(
    "scatter_add", (0,),
    vjp=lambda g, f, operands, params: (_gathered(g, operands[1]), None),
    jvp=lambda tangents, f, operands, params: _scatter_added(tangents[0], operands[1], f.shape),
    linear=True,
)  # fmt: skip
for _name in ("normalise_index", "argmax", "argmin", "argsort", "detsign"):
    _structural(_name, ())


# --- reductions and scans along the last axis -----------------------------------------------------


def _winners(f: Any, x: Any) -> Any:
    """For each element its share of its row's extreme: ties share equally."""
    mask = np.where(x == f[..., None] if f.ndim else x == f, 1.0, 0.0)
    return mask / np.sum(mask, axis=-1, keepdims=True)


def _row(g: Any) -> Any:
    """A row's result, ready to be combined with the row."""
    return g[..., None] if np.ndim(_value(g)) else g


def _extreme_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> tuple:
    return (_row(g) * _winners(f, operands[0]),)


def _extreme_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    return np.sum(_winners(f, operands[0]) * tangents[0], axis=-1)


for _name in ("max", "min"):
    _structural(_name, vjp=_extreme_vjp, jvp=_extreme_jvp)


def _prod_others(x: Any) -> Any:
    """For each element the product of the others of its row."""
    value = np.asarray(_value(x))
    before = np.cumprod(np.concatenate([np.ones((*value.shape[:-1], 1)), value[..., :-1]], -1), -1)
    after = np.concatenate([value[..., 1:], np.ones((*value.shape[:-1], 1))], -1)
    after = np.cumprod(after[..., ::-1], -1)[..., ::-1]
    return _apply("prod_others", [x], before * after)


def _prod_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> tuple:
    return (_row(g) * _prod_others(operands[0]),)


def _prod_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    return np.sum(_prod_others(operands[0]) * tangents[0], axis=-1)


_structural("prod", vjp=_prod_vjp, jvp=_prod_jvp)


def _prod_of_pairs(x: Any) -> Any:
    """Matrix of the products of all elements but i and j (zero on the diagonal); exact at zeros.

    Row i is "the product of the others" of the row x with element i set to one.
    """
    n = x.shape[-1]
    eye = np.eye(n)
    masked = np.where(eye != 0, 1.0, x[..., None, :])
    return _prod_others(masked) * (1.0 - eye)


def _prod_others_jvp(
    tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple
) -> Any:
    return np.sum(_prod_of_pairs(operands[0]) * tangents[0][..., None, :], axis=-1)


_structural(
    "prod_others",
    vjp=lambda g, f, operands, params: (
        np.sum(_prod_of_pairs(operands[0]) * g[..., None, :], axis=-1),
    ),
    jvp=_prod_others_jvp,
)
_structural(
    "cumsum",
    vjp=lambda g, f, operands, params: (np.cumsum(g[..., ::-1], axis=-1)[..., ::-1],),
    jvp=lambda tangents, f, operands, params: np.cumsum(tangents[0], axis=-1),
    linear=True,
)


def _cumprod_jacobian(x: Any) -> Any:
    """d f_k / d x_j: the product of x_0 … x_k without x_j, for j <= k; exact at zeros."""
    n = x.shape[-1]
    eye, lower = np.eye(n), np.tril(np.ones((n, n)))
    masked = np.where(eye != 0, 1.0, x[..., None, :])  # row j: x without element j
    return np.swapaxes(np.cumprod(masked, axis=-1), -1, -2) * lower


def _cumprod_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> tuple:
    return (np.sum(_cumprod_jacobian(operands[0]) * g[..., :, None], axis=-2),)


def _cumprod_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    return np.sum(_cumprod_jacobian(operands[0]) * tangents[0][..., None, :], axis=-1)


_structural("cumprod", vjp=_cumprod_vjp, jvp=_cumprod_jvp)


# --- linear algebra -------------------------------------------------------------------------------

_structural(
    "matmul",
    vjp=lambda g, f, operands, params: (
        np.matmul(g, _t(operands[1])), np.matmul(_t(operands[0]), g),
    ),
    jvp=lambda tangents, f, operands, params: _sum_of([
        None if tangents[0] is None else np.matmul(tangents[0], operands[1]),
        None if tangents[1] is None else np.matmul(operands[0], tangents[1]),
    ]),
)  # fmt: skip


def _solve_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> tuple:
    moved = np.linalg.solve(_t(operands[0]), g)
    return -np.matmul(moved, _t(f)), moved


def _solve_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    moved_a = None if tangents[0] is None else -np.matmul(tangents[0], f)
    return np.linalg.solve(operands[0], _sum_of([moved_a, tangents[1]]))


_structural("solve", vjp=_solve_vjp, jvp=_solve_jvp)
_structural(
    "inv",
    vjp=lambda g, f, operands, params: (-np.matmul(np.matmul(_t(f), g), _t(f)),),
    jvp=lambda tangents, f, operands, params: -np.matmul(np.matmul(f, tangents[0]), f),
)


def _matrix(g: Any) -> Any:
    """A number for each matrix of a stack, ready to multiply the matrices."""
    return g[..., None, None] if np.ndim(_value(g)) else g


_structural(
    "logabsdet",
    vjp=lambda g, f, operands, params: (_matrix(g) * _t(np.linalg.inv(operands[0])),),
    jvp=lambda tangents, f, operands, params: np.sum(
        _t(np.linalg.inv(operands[0])) * tangents[0], axis=(-2, -1)
    ),
)


def _half_lower(x: Any) -> Any:
    """The lower triangle with half the diagonal: Murray's Phi."""
    n = x.shape[-1]
    return x * (np.tril(np.ones((n, n))) - 0.5 * np.eye(n))


def _cholesky_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> tuple:
    """Symmetric cotangent: agrees with differences where the matrix is moved symmetrically."""
    inner = _half_lower(np.matmul(_t(f), g))
    left = np.linalg.solve(_t(f), inner + _t(inner))
    return (0.5 * _t(np.linalg.solve(_t(f), _t(left))),)


def _cholesky_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    moved = 0.5 * (tangents[0] + _t(tangents[0]))
    inner = np.linalg.solve(f, _t(np.linalg.solve(f, moved)))
    return np.matmul(f, _half_lower(inner))


_structural("cholesky", vjp=_cholesky_vjp, jvp=_cholesky_jvp)
