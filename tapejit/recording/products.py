"""NumPy's products on traced values: matrix products, contractions, convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ops.table import OPS
from ..tape import View
from .indexing import gather
from .reductions import sum
from .shapes import (
    astype,
    concatenate,
    expand_dims,
    into,
    moveaxis,
    operand,
    operands,
    ravel,
    reshape,
    stack,
    transpose,
    viewed,
)
from .tracer import ArrayTracer, apply, broadcast, new_result, value_of, view_of

__all__ = [
    "convolve", "correlate", "cross", "dot", "einsum", "inner", "kron", "matmul", "matrix_power",
    "matvec", "multi_dot", "outer", "sliding_window_view", "tensordot", "vdot", "vecdot",
    "vecmat",
]  # fmt: skip


def _rows_view(view: View) -> View:
    return View(view.buffer, view.offset, (1, *view.shape), (0, *view.strides))


def _column_view(view: View) -> View:
    return View(view.buffer, view.offset, (*view.shape, 1), (*view.strides, 0))


def matmul(a: Any, b: Any, out: Any = None, **kwargs: Any) -> Any:
    """Matrix product, stacks of matrices broadcast, in one instruction."""
    rec, (a, b) = operands(a, b)
    if rec is None:
        return np.matmul(a, b)
    left, right = value_of(a), value_of(b)
    value = np.matmul(left, right)
    if value.dtype == np.bool_:
        return into(out, astype(matmul(astype(a, int), astype(b, int)), bool))
    x, y = view_of(rec, a), view_of(rec, b)
    if left.ndim == 1:
        x = _rows_view(x)
    if right.ndim == 1:
        y = _column_view(y)
    result = new_result(rec, value)
    z = result.view
    if right.ndim == 1:
        z = _column_view(z)
    if left.ndim == 1:
        z = View(
            z.buffer, z.offset, (*z.shape[:-1], 1, z.shape[-1]), (*z.strides[:-1], 0, z.strides[-1])
        )
    if len(z.shape) > 2:
        batch = z.shape[:-2]
        x = broadcast(x, batch + x.shape[-2:])
        y = broadcast(y, batch + y.shape[-2:])
    rec.call("matmul", (x, y), z)
    return into(out, result)


def dot(a: Any, b: Any, out: Any = None) -> Any:
    """Dot product, as ``numpy.dot``."""
    rec, (a, b) = operands(a, b)
    if rec is None:
        return np.dot(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return into(out, apply(OPS["mul"], a, b))
    if b.ndim <= 2:
        if a.ndim <= 2:
            return matmul(a, b, out)
        result = matmul(reshape(a, (-1, a.shape[-1])), b)
        return into(out, reshape(result, a.shape[:-1] + b.shape[1:]))
    return into(out, tensordot(a, b, ((a.ndim - 1,), (b.ndim - 2,))))


def vdot(a: Any, b: Any, /) -> Any:
    """Dot product of the flattened arrays."""
    return dot(ravel(a), ravel(b))


def vecdot(x1: Any, x2: Any, /, out: Any = None, *, axis: int = -1, **_: Any) -> Any:
    """Dot products along an axis."""
    _, (a, b) = operands(x1, x2)
    a, b = moveaxis(a, axis, -1), moveaxis(b, axis, -1)
    if a.ndim == b.ndim == 1:
        return into(out, matmul(a, b))
    return into(out, sum(apply(OPS["mul"], a, b), -1))


def matvec(x1: Any, x2: Any, /, out: Any = None, **_: Any) -> Any:
    """Matrices times vectors."""
    return into(out, matmul(x1, expand_dims(x2, -1))[..., 0])


def vecmat(x1: Any, x2: Any, /, out: Any = None, **_: Any) -> Any:
    """Vectors times matrices."""
    return into(out, matmul(expand_dims(x1, -2), x2)[..., 0, :])


def inner(a: Any, b: Any, /) -> Any:
    """Sum over the last axes."""
    _, (a, b) = operands(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return apply(OPS["mul"], a, b)
    return tensordot(a, b, ((a.ndim - 1,), (b.ndim - 1,)))


def outer(a: Any, b: Any, out: Any = None) -> Any:
    """All products."""
    _, (a, b) = operands(a, b)
    return into(out, apply(OPS["mul"], reshape(a, (-1, 1)), reshape(b, (1, -1))))


def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """Sum of products over pairs of axes."""
    rec, (a, b) = operands(a, b)
    if rec is None:
        return np.tensordot(a, b, axes)
    if np.ndim(axes) == 0 and not isinstance(axes, (tuple, list)):
        pairs = (range(a.ndim - axes, a.ndim), range(axes))
    else:
        pairs = tuple([p] if np.ndim(p) == 0 else p for p in axes)
    over_a, over_b = ([p % x.ndim for p in ps] for ps, x in zip(pairs, (a, b), strict=True))
    if [a.shape[i] for i in over_a] != [b.shape[i] for i in over_b]:
        raise ValueError(f"shape-mismatch for sum: {a.shape} and {b.shape} over {axes}")
    free_a = [i for i in range(a.ndim) if i not in over_a]
    free_b = [i for i in range(b.ndim) if i not in over_b]
    shape = [a.shape[i] for i in free_a] + [b.shape[i] for i in free_b]
    if not over_a:
        return reshape(outer(a, b), shape)
    left, right = _matrix(a, free_a, over_a), _matrix(b, over_b, free_b)
    return reshape(matmul(left, right), shape)


def _matrix(x: Any, *groups: Sequence[int]) -> Any:
    """Axes gathered into groups, one axis each; none for an empty group."""
    axes = [axis for group in groups for axis in group]
    if axes != list(range(x.ndim)):
        x = transpose(x, axes)
    source = iter(x.shape)
    shape = tuple([math.prod([next(source) for _ in group]) for group in groups if group])
    return x if x.shape == shape else reshape(x, shape)


def kron(a: Any, b: Any) -> Any:
    """Kronecker product."""
    _, (a, b) = operands(a, b)
    rank = max(a.ndim, b.ndim)
    if rank == 0:
        return apply(OPS["mul"], a, b)
    m = (1,) * (rank - a.ndim) + a.shape
    n = (1,) * (rank - b.ndim) + b.shape
    left = reshape(a, [k for size in m for k in (size, 1)])
    right = reshape(b, [k for size in n for k in (1, size)])
    product = apply(OPS["mul"], left, right)
    return reshape(product, [i * j for i, j in zip(m, n, strict=True)])


def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Any:
    """Cross product of vectors of three components."""
    if axis is not None:
        axisa = axisb = axisc = axis
    _, (a, b) = operands(a, b)
    a, b = moveaxis(a, axisa, -1), moveaxis(b, axisb, -1)
    if a.shape[-1] != 3 or b.shape[-1] != 3:
        raise ValueError("np.cross on traced values takes vectors of 3 components")
    x, y = [a[..., i] for i in range(3)], [b[..., i] for i in range(3)]
    parts = [x[i] * y[j] - x[j] * y[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return stack(parts, axisc)


def multi_dot(arrays: Any, *, out: Any = None) -> Any:
    """Product of several matrices, in the cheapest order."""
    _, arrays = operands(*arrays)
    letters = [chr(ord("a") + i) for i in range(len(arrays) + 1)]
    terms = [letters[i] + letters[i + 1] for i in range(len(arrays))]
    result = letters[0] + letters[-1]
    if arrays[0].ndim == 1:
        terms[0], result = terms[0][1:], result[1:]
    if arrays[-1].ndim == 1:
        terms[-1], result = terms[-1][:1], result[:-1]
    return into(out, einsum(",".join(terms) + "->" + result, *arrays))


def matrix_power(a: Any, n: int) -> Any:
    """A constant integer power of a matrix, by squaring."""
    from .linalg import inv

    a = operand(a)
    if n < 0:
        a, n = inv(a), -n
    if n == 0:
        return np.broadcast_to(np.eye(a.shape[-1]), a.shape).copy()
    result = None
    while n:
        if n & 1:
            result = a if result is None else matmul(result, a)
        n >>= 1
        if n:
            a = matmul(a, a)
    return result


# --- einsum ---------------------------------------------------------------------------------------


def einsum(*args: Any, out: Any = None, optimize: Any = True, dtype: Any = None, **_: Any) -> Any:
    """Einstein summation of any number of operands, as a sequence of matrix products."""
    terms, result, arrays = _parse_einsum(args)
    work = [_Term(*_without_repeats(labels, x)) for labels, x in zip(terms, arrays, strict=True)]
    for step in _path(work, result):
        term, *others = [work.pop(i) for i in sorted(step, reverse=True)][::-1]
        while others:
            other = others.pop(0)
            kept = set(result).union(*[t.labels for t in work + others])
            term = _product(term, other, kept)
        work.append(term)
    (last,) = work
    labels, x = _summed(last.labels, last.x, set(result))
    order = [labels.index(label) for label in result]
    if order != list(range(len(labels))):
        x = transpose(x, order)
    return into(out, x if dtype is None else astype(x, dtype))


class _Term:
    """An operand of a contraction, without repeated labels."""

    def __init__(self, labels: list[str], x: Any) -> None:
        self.labels = labels
        self.x = x


def _parse_einsum(args: tuple) -> tuple[list[list[str]], list[str], list[Any]]:
    if not isinstance(args[0], str):
        args = _from_lists(args)
    subscripts = args[0].replace(" ", "")
    _, arrays = operands(*args[1:])
    inputs, arrow, output = subscripts.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(arrays):
        raise ValueError(f"einsum: {len(terms)} terms in {subscripts!r}, {len(arrays)} operands")
    extra = [x.ndim - len(t.replace("...", "")) for t, x in zip(terms, arrays, strict=True)]
    if any(n < 0 or (n > 0 and "..." not in t) for n, t in zip(extra, terms, strict=True)):
        shapes = ", ".join(str(x.shape) for x in arrays)
        raise ValueError(f"einsum: {subscripts!r} does not match operands of shapes {shapes}")
    widest = max((n for n, t in zip(extra, terms, strict=True) if "..." in t), default=0)
    dots = [f"_{i}" for i in range(widest)]
    labels = [_labels(t, dots[widest - n :]) for t, n in zip(terms, extra, strict=True)]
    if arrow:
        return labels, _labels(output, dots), arrays
    letters = inputs.replace(",", "").replace(".", "")
    return labels, dots + sorted(c for c in set(letters) if letters.count(c) == 1), arrays


def _from_lists(args: tuple) -> tuple:
    """The form ``einsum(a, [0, 1], b, [1, 2], [0, 2])`` as subscripts."""

    def word(numbers: Any) -> str:
        return "".join("..." if n is Ellipsis else chr(ord("a") + n) for n in numbers)

    pairs = len(args) // 2
    text = ",".join(word(args[2 * i + 1]) for i in range(pairs))
    if len(args) % 2:
        text += "->" + word(args[-1])
    return (text, *args[: 2 * pairs : 2])


def _labels(term: str, dots: list[str]) -> list[str]:
    before, ellipsis, after = term.partition("...")
    return [*before, *(dots if ellipsis else ()), *after]


def _without_repeats(labels: list[str], x: Any) -> tuple[list[str], Any]:
    """A repeated label takes the diagonal, a view."""
    unique = list(dict.fromkeys(labels))
    if len(unique) == len(labels):
        return labels, x
    numbers = [unique.index(label) for label in labels]

    def diagonal(v: np.ndarray) -> np.ndarray:
        return np.einsum(v, numbers, list(range(len(unique))))

    return unique, viewed(x, diagonal) if isinstance(x, ArrayTracer) else diagonal(x)


def _path(work: list[_Term], result: list[str]) -> list[tuple[int, ...]]:
    if len(work) <= 2:
        return [tuple(range(len(work)))]
    known: dict[str, int] = {}
    for label in [label for term in work for label in term.labels]:
        known.setdefault(label, len(known))
    args: list[Any] = []
    for term in work:
        args += [np.broadcast_to(0.0, term.x.shape), [known[label] for label in term.labels]]
    return np.einsum_path(*args, [known[label] for label in result], optimize="greedy")[0][1:]


def _summed(labels: list[str], x: Any, kept: set[str]) -> tuple[list[str], Any]:
    axes = tuple(i for i, label in enumerate(labels) if label not in kept)
    if not axes:
        return labels, x
    return [label for label in labels if label in kept], sum(x, axes)


def _product(first: _Term, second: _Term, kept: set[str]) -> _Term:
    """The product of two terms, summed over labels that are no longer needed."""
    a, x = _squeezed(first, second)
    b, y = _squeezed(second, first)
    a, x = _summed(a, x, kept | set(b))
    b, y = _summed(b, y, kept | set(a))
    batch = [label for label in a if label in b and label in kept]
    over = [label for label in a if label in b and label not in kept]
    free_a = [label for label in a if label not in b]
    free_b = [label for label in b if label not in a]
    labels = batch + free_a + free_b
    sizes = dict(zip(a, x.shape, strict=True)) | dict(zip(b, y.shape, strict=True))
    if not over:
        shape = [sizes[c] for c in batch + free_a] + [1] * len(free_b)
        left = _grouped(a, x, batch + free_a, shape)
        shape = [sizes[c] for c in batch] + [1] * len(free_a) + [sizes[c] for c in free_b]
        return _Term(labels, left * _grouped(b, y, batch + free_b, shape))
    m, k, n = (math.prod(sizes[c] for c in group) for group in (free_a, over, free_b))
    lead = [sizes[c] for c in batch]
    left = _grouped(a, x, batch + free_a + over, [*lead, m, k] if free_a or batch else [k])
    right = _grouped(b, y, batch + over + free_b, [*lead, k, n] if free_b or batch else [k])
    return _Term(labels, reshape(matmul(left, right), [sizes[c] for c in labels]))


def _squeezed(term: _Term, other: _Term) -> tuple[list[str], Any]:
    """Without axes of length one that the other term stretches."""
    sizes = dict(zip(other.labels, other.x.shape, strict=True))
    axes = [
        i for i, (label, n) in enumerate(zip(term.labels, term.x.shape, strict=True))
        if n == 1 and sizes.get(label, 1) != 1
    ]  # fmt: skip
    if not axes:
        return term.labels, term.x
    shape = [n for i, n in enumerate(term.x.shape) if i not in axes]
    return [c for i, c in enumerate(term.labels) if i not in axes], reshape(term.x, shape)


def _grouped(labels: list[str], x: Any, order: list[str], shape: list[int]) -> Any:
    axes = [labels.index(label) for label in order]
    x = x if axes == list(range(len(labels))) else transpose(x, axes)
    return x if list(x.shape) == shape else reshape(x, shape)


# --- convolution ----------------------------------------------------------------------------------


def convolve(a: Any, v: Any, mode: str = "full") -> Any:
    """Discrete convolution of two rows."""
    _, (a, v) = operands(a, v)
    a, v = ravel(a), ravel(v)
    if a.size == 0 or v.size == 0:
        raise ValueError("a and v cannot be empty")
    if v.size > a.size:
        a, v = v, a
    n, m = a.size, v.size
    if mode in ("full", "f", 2):
        before, count = m - 1, n + m - 1
    elif mode in ("same", "s", 1):
        before, count = (m - 1) - (m - 1) // 2, n
    elif mode in ("valid", "v", 0):
        before, count = 0, n - m + 1
    else:
        raise ValueError(f"mode must be one of 'valid', 'same', or 'full' (got {mode!r})")
    after = count + m - 1 - n - before
    if before or after:
        a = concatenate([np.zeros(before, a.dtype), a, np.zeros(after, a.dtype)])
    if m == 1:
        return apply(OPS["mul"], a, v)
    windows = gather(a, np.arange(count)[:, None] + np.arange(m))
    return matmul(windows, v[::-1])


def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    """Cross-correlation of two rows."""
    _, (a, v) = operands(a, v)
    if v.size > a.size:
        return convolve(v, a[::-1], mode)[::-1]
    return convolve(a, v[::-1], mode)


def sliding_window_view(
    x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> Any:
    """Windows of an array, gathered."""
    x = operand(x)
    numbers = np.arange(x.size).reshape(x.shape)
    return gather(x, np.lib.stride_tricks.sliding_window_view(numbers, window_shape, axis).copy())
