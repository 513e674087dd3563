"""Structural operations: which operands carry derivatives, and their rules in other operations.

A rule is ordinary NumPy code over traced values, so that what it records is differentiated again
for higher orders.  It is recorded once for each combination of shapes, and then lowered
(:mod:`tapejit.lowering.rules`) or made part of a derivative tape (:mod:`tapejit.derive.rules`).

Operations "by rows" work along the last axis, those on matrices on stacks over the leading axes.
Linear algebra follows IEEE: a zero cotangent times an infinite partial is NaN.

References: Giles (2008), "Collected matrix derivative results for forward and reverse mode
algorithmic differentiation"; Murray (2016), "Differentiation of the Cholesky decomposition";
Blelloch (1990), "Prefix sums and their applications", section 1.4 (linear recurrences).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import UnsupportedError

__all__ = ["IN_PLACE", "STRUCTURAL", "Example", "Structural", "carry"]

#: Operations that overwrite their last operand, and whose result is what stood there.
IN_PLACE = ("write", "scatter_write")


class Example(NamedTuple):
    """A case to test an operation with: operands, parameters, and the operation in NumPy."""

    operands: tuple[np.ndarray, ...]
    params: tuple
    reference: Callable[..., Any]


@dataclass(frozen=True)
class Structural:
    """A structural operation.

    Attributes
    ----------
    name
        Its name on the tape.
    active
        Positions of the operands that carry derivatives; ``None`` for all.
    vjp
        ``vjp(g, f, operands, params)``: a cotangent for each operand, ``None`` where there is
        none, from the cotangent ``g`` of the result ``f``.
    jvp
        ``jvp(tangents, f, operands, params)``: the tangent of the result, ``None`` if it is zero;
        ``tangents`` has ``None`` for operands that don't move.  Both are ``None`` for operations
        whose derivative is zero, and for those that the lowering treats itself (in-place writes).
    both
        ``both(tangents, operands, params)``: the result and its tangent where one computation gives
        them together, ``None`` if no operand moves.
    linear
        Whether the result is linear in the active operands together.
    linear_in
        Positions of operands in each of which alone the result is linear.
    stacked
        ``stacked(f, operands, params, n)``: result, operands and parameters of the operation on
        ``n`` copies along a new first axis; ``None`` where it works along trailing axes and its
        rules broadcast.
    examples
        ``examples(rng)``: cases to test the operation with, away from kinks.
    lowering
        Whose forward lowering it shares; its own where ``None``.
    needed
        Positions of the operands that the value needs (the rules may read more); ``None`` for all.
    closed_over
        Positions of operands that a user's rule knows nothing of: to differentiate with respect
        to one is an error.
    selective
        Whether ``vjp`` also takes ``wanted``: for each operand whether its cotangent is asked for.
    """

    name: str
    active: tuple[int, ...] | None
    vjp: Callable[..., Sequence[Any]] | None = None
    jvp: Callable[..., Any] | None = None
    both: Callable[..., tuple[Any, Any] | None] | None = None
    linear: bool = False
    linear_in: tuple[int, ...] = ()
    stacked: Callable[[Any, Sequence[Any], tuple, int], tuple] | None = None
    examples: Callable[[np.random.Generator], list[Example]] | None = None
    lowering: str | None = None
    needed: tuple[int, ...] | None = None
    closed_over: tuple[int, ...] = ()
    selective: bool = False

    def refuse_closed_over(self, wanted: Sequence[bool]) -> None:
        """Raise where a derivative is wanted that a user's rule does not give."""
        if any(wanted[i] for i in self.closed_over):
            raise UnsupportedError(
                f"`{self.name.partition('#')[0]}` closes over a value that is differentiated, and "
                "its custom rule gives derivatives with respect to arguments only; pass the value "
                "as an argument"
            )

    def is_active(self, position: int) -> bool:
        """Whether an operand carries derivatives."""
        return self.active is None or position in self.active


class _Table(dict[str, Structural]):
    """Operations by name; those that a tape carries in its calls' parameters are found as well."""

    def __missing__(self, name: str) -> Structural:
        return _carried[name]


#: Every structural operation by name.
STRUCTURAL: dict[str, Structural] = _Table()
_carried: weakref.WeakValueDictionary[str, Structural] = weakref.WeakValueDictionary()


def carry(operation: Structural) -> Structural:
    """An operation that lives as long as the tapes that carry it (or the equal one known)."""
    return _carried.setdefault(operation.name, operation)


def _structural(name: str, active: tuple[int, ...] | None = None, **fields: Any) -> None:
    assert name not in STRUCTURAL, name
    STRUCTURAL[name] = Structural(name, active, **fields)


# --- what the rules are written in ----------------------------------------------------------------
# NumPy's functions, and operations that NumPy has no function for.  The recording stands above
# this module: it is imported when a rule runs.


def _record(op: str, operands: Sequence[Any], value: Any, params: tuple = ()) -> Any:
    """Record an operation whose value is known; of constants alone the value is the result."""
    from ..recording.tracer import Tracer, record

    for operand in operands:
        if isinstance(operand, Tracer):
            return record(operand.rec, op, list(operands), value, params)
    return value


def _value(x: Any) -> Any:
    from ..recording.tracer import value_of

    return value_of(x)


def _shape(x: Any) -> tuple[int, ...]:
    return np.shape(_value(x))


def _shaped(x: Any, shape: tuple[int, ...]) -> Any:
    """Broadcast: the cotangent of a stretched scalar may be a scalar."""
    return x if _shape(x) == tuple(shape) else np.broadcast_to(x, shape)


def _row(g: Any) -> Any:
    """A number for each row, ready to be combined with the rows."""
    return g[..., None] if _shape(g) else g


def _matrix(g: Any) -> Any:
    """A number for each matrix of a stack, ready to be combined with the matrices."""
    return g[..., None, None] if _shape(g) else g


def _t(x: Any) -> Any:
    """Matrix transpose."""
    return np.swapaxes(x, -1, -2)


def _copies(x: Any, n: int) -> Any:
    """``n`` times the same along a new first axis."""
    return np.broadcast_to(x, (n, *_shape(x)))


def _along_later_axes(f: Any, operands: Sequence[Any], params: tuple, n: int) -> tuple:
    """The operation on ``n`` copies, where its parameter is an axis or several."""
    (axes,) = params
    later = tuple(i + 1 for i in axes) if isinstance(axes, tuple) else axes + 1
    return _copies(f, n), [_copies(x, n) for x in operands], (later,)


def _sum_of(parts: Sequence[Any]) -> Any:
    """The sum of those parts that are not None; None without any."""
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def _vjp(rule: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    """The vjp of an operation of one operand, from ``rule(g, f, x, *params)``."""

    def vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
        return (rule(g, f, operands[0], *params),)

    return vjp


def _jvp(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The jvp of an operation of one operand, from ``rule(t, f, x, *params)``."""

    def jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
        return None if tangents[0] is None else rule(tangents[0], f, operands[0], *params)

    return jvp


# --- examples to test with ------------------------------------------------------------------------

_ROWS = ((5,), (3, 4), (2, 3, 1), (2, 0, 3))
_WITH_ZEROS = (
    np.array([2.0, 0.0, 3.0, -1.5]),
    np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 0.0]]),
)


def _rows(reference: Callable[..., Any], *more: np.ndarray) -> Callable[..., list[Example]]:
    """Examples of an operation by rows: normally distributed rows, and ``more``."""

    def examples(rng: np.random.Generator) -> list[Example]:
        cases = [rng.normal(size=shape) for shape in _ROWS] + list(more)
        return [Example((x,), (), reference) for x in cases]

    return examples


def _square(rng: np.random.Generator) -> list[np.ndarray]:
    """Stacks of regular square matrices."""
    shapes = [(1, 1), (3, 3), (2, 4, 4)]
    return [rng.normal(size=shape) + 3.0 * np.eye(shape[-1]) for shape in shapes]


def _matrices(reference: Callable[..., Any]) -> Callable[..., list[Example]]:
    """Examples of an operation on square matrices."""
    return lambda rng: [Example((a,), (), reference) for a in _square(rng)]


# --- copies, sums, joins --------------------------------------------------------------------------

_structural(
    "copy",
    vjp=_vjp(lambda g, f, x: g),
    jvp=_jvp(lambda t, f, x: t),
    linear=True,
    examples=_rows(np.copy),
)


# A copy with a name (the parameter), for policies of what a reverse sweep keeps.
_structural(
    "named",
    vjp=_vjp(lambda g, f, x, name: g),
    jvp=_jvp(lambda t, f, x, name: t),
    linear=True,
    examples=lambda rng: [Example((rng.normal(size=(2, 3)),), ("name",), lambda x: np.copy(x))],
)


def _sum_vjp(g: Any, f: Any, x: Any, axes: tuple[int, ...]) -> Any:
    shape = _shape(x)
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return np.broadcast_to(np.reshape(g, kept) if _shape(g) else g, shape)


def _sum_examples(rng: np.random.Generator) -> list[Example]:
    x = rng.normal(size=(3, 4, 2))
    return [
        Example((x,), (axes,), lambda x, axes=axes: np.sum(x, axis=axes))
        for axes in ((0,), (1,), (2,), (0, 2), (0, 1, 2))
    ]


_structural(
    "sum",
    vjp=_vjp(_sum_vjp),
    jvp=_jvp(lambda t, f, x, axes: np.sum(t, axis=axes)),
    linear=True,
    stacked=_along_later_axes,
    examples=_sum_examples,
)


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
    if all(t is None for t in tangents):
        return None
    pairs = zip(tangents, operands, strict=True)
    return np.concatenate([np.zeros(x.shape) if t is None else t for t, x in pairs], axis=params[0])


def _concatenate_examples(rng: np.random.Generator) -> list[Example]:
    flat = tuple(rng.normal(size=n) for n in (2, 0, 3))
    square = tuple(rng.normal(size=(2, n)) for n in (1, 3))
    return [
        Example(flat, (0,), lambda *parts: np.concatenate(parts)),
        Example(square, (1,), lambda *parts: np.concatenate(parts, 1)),
    ]


_structural(
    "concatenate",
    vjp=_concatenate_vjp,
    jvp=_concatenate_jvp,
    linear=True,
    stacked=_along_later_axes,
    examples=_concatenate_examples,
)


def _window(x: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """A strided window on the elements of an array in C order (strides in elements)."""
    from ..recording.tracer import Tracer, as_view

    if shape == ():
        return np.reshape(x, -1)[offset]

    def view(array: np.ndarray) -> np.ndarray:
        flat = array.reshape(-1)[offset:] if 0 not in shape else array.reshape(-1)[:0]
        steps = [array.itemsize * s for s in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, steps)

    return as_view(x, view) if isinstance(x, Tracer) else view(np.ascontiguousarray(x))


def _assembled(parts: Sequence[Any], shape: tuple[int, ...], windows: tuple) -> Any:
    """Zeros of ``shape``, to which each part is added at its window (offset, strides)."""
    value = np.zeros(shape)
    for part, (offset, strides) in zip(parts, windows, strict=True):
        places = _window(np.arange(value.size), offset, _shape(part), strides)
        np.add.at(value.reshape(-1), places, _value(part))
    return _record("assemble", parts, value, (shape, windows))


def _assemble_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> list:
    g = np.copy(_shaped(g, _shape(f))) if _shape(g) != _shape(f) else g
    pairs = zip(operands, params[1], strict=True)
    return [_window(g, offset, _shape(x), strides) for x, (offset, strides) in pairs]


def _assemble_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    moving = [(t, w) for t, w in zip(tangents, params[1], strict=True) if t is not None]
    if not moving:
        return None
    parts, windows = zip(*moving, strict=True)
    return _assembled(parts, params[0], windows)


def _assemble_stacked(f: Any, operands: Sequence[Any], params: tuple, n: int) -> tuple:
    shape, windows = params
    size = int(np.prod(shape))
    windows = tuple((offset, (size, *strides)) for offset, strides in windows)
    return _copies(f, n), [_copies(x, n) for x in operands], ((n, *shape), windows)


def _assemble_examples(rng: np.random.Generator) -> list[Example]:
    x, y, z = rng.normal(size=5), rng.normal(size=(2, 3)), rng.normal(size=())
    cases = [
        ((x, x[1:]), ((6,), ((1, (1,)), (0, (1,))))),
        ((y, z), ((3, 3), ((8, (-3, -1)), (4, ())))),
    ]
    return [
        Example(parts, params, lambda *parts, params=params: _assembled(parts, *params))
        for parts, params in cases
    ]


# The transpose of reading windows of an array: what a reverse sweep receives for its parts.
_structural(
    "assemble",
    vjp=_assemble_vjp,
    jvp=_assemble_jvp,
    linear=True,
    stacked=_assemble_stacked,
    examples=_assemble_examples,
)
# In place: (source, target) and (source, index, target); the result keeps what is overwritten.
_structural("write", (0, 1), linear=True)
_structural("scatter_write", (0, 2), linear=True)


# --- gathers --------------------------------------------------------------------------------------


def _positions(index: Any, size: int) -> np.ndarray:
    """Flat positions.  A rule is recorded at sample values, which need not be good indices."""
    return np.clip(np.asarray(_value(index)), 0, max(size - 1, 0)).astype(np.int64)


def _gathered(base: Any, index: Any) -> Any:
    """Elements of ``base`` at flat positions ``index``."""
    flat = np.asarray(_value(base), np.float64).reshape(-1)
    return _record("gather", [base, index], flat[_positions(index, flat.size)])


def _scatter_added(source: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of ``shape`` with ``source`` added at flat positions ``index``."""
    source = _shaped(source, _shape(index))
    value = np.zeros(shape)
    np.add.at(value.reshape(-1), _positions(index, value.size), _value(source))
    return _record("scatter_add", [source, index], value)


def _gather_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    return None if tangents[0] is None else _gathered(tangents[0], operands[1])


def _scatter_add_jvp(
    tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple
) -> Any:
    return None if tangents[0] is None else _scatter_added(tangents[0], operands[1], _shape(f))


def _gather_stacked(f: Any, operands: Sequence[Any], params: tuple, n: int) -> tuple:
    base, index = operands
    index = _further_on(index, int(np.prod(_shape(base))), n)
    return _copies(f, n), [_copies(base, n), index], params


def _scatter_add_stacked(f: Any, operands: Sequence[Any], params: tuple, n: int) -> tuple:
    source, index = operands
    index = _further_on(index, int(np.prod(_shape(f))), n)
    return _copies(f, n), [_copies(source, n), index], params


def _further_on(index: Any, size: int, n: int) -> Any:
    """Flat positions in each of ``n`` arrays of ``size`` that lie one after the other."""
    first = np.arange(n) * float(size)
    return index + first.reshape((-1,) + (1,) * len(_shape(index)))


def _gather_examples(rng: np.random.Generator) -> list[Example]:
    def reference(base: np.ndarray, index: np.ndarray) -> np.ndarray:
        return base.reshape(-1)[index.astype(np.int64)]

    index = np.array([[11.0, 0.0], [3.0, 3.0]])
    return [Example((rng.normal(size=(3, 4)), index), (), reference)]


def _scatter_add_examples(rng: np.random.Generator) -> list[Example]:
    def reference(source: np.ndarray, index: np.ndarray) -> np.ndarray:
        total = np.zeros((2, 3))
        np.add.at(total.reshape(-1), index.astype(np.int64), source)
        return total

    index = np.array([[5.0, 0.0], [3.0, 3.0]])
    return [Example((rng.normal(size=(2, 2)), index), (), reference)]


_structural(
    "gather",
    (0,),
    vjp=lambda g, f, operands, params: (_scatter_added(g, operands[1], _shape(operands[0])), None),
    jvp=_gather_jvp,
    linear=True,
    stacked=_gather_stacked,
    examples=_gather_examples,
)
_structural(
    "scatter_add",
    (0,),
    vjp=lambda g, f, operands, params: (_gathered(g, operands[1]), None),
    jvp=_scatter_add_jvp,
    linear=True,
    stacked=_scatter_add_stacked,
    examples=_scatter_add_examples,
)
_structural("normalise_index", ())


# --- by rows: extremes and orders -----------------------------------------------------------------


def _winners(f: Any, x: Any) -> Any:
    """Where a row attains its extreme; in a row with NaN the NaNs count as such."""
    return np.where((x == _row(f)) | (x != x), 1.0, 0.0)


def _extreme_vjp(g: Any, f: Any, x: Any) -> Any:
    """Ties share the cotangent equally; the others receive none, even of an infinite one."""
    winners = _winners(f, x)
    return np.where(winners, _row(g / np.sum(winners, axis=-1)), 0.0)


def _extreme_jvp(t: Any, f: Any, x: Any) -> Any:
    winners = _winners(f, x)
    return np.sum(np.where(winners, t, 0.0), axis=-1) / np.sum(winners, axis=-1)


for _name, _function in (("max", np.max), ("min", np.min)):
    _structural(
        _name,
        vjp=_vjp(_extreme_vjp),
        jvp=_jvp(_extreme_jvp),
        examples=_rows(lambda x, function=_function: function(x, axis=-1)),
    )
for _name, _function in (("argmax", np.argmax), ("argmin", np.argmin)):
    _structural(_name, (), examples=_rows(lambda x, function=_function: function(x, axis=-1)))
_structural("argsort", (), examples=_rows(lambda x: np.argsort(x, axis=-1, kind="stable")))


# --- by rows: products and scans ------------------------------------------------------------------
# Nowhere is a product divided by an element: zeros are exact, in derivatives of every order.


def _shifted(x: Any, first: float) -> Any:
    """Each row moved on by one element, ``first`` in front."""
    shape = _shape(x)
    if shape[-1] < 2:
        return np.full(shape, first)
    return np.concatenate([np.full((*shape[:-1], 1), first), x[..., :-1]], axis=-1)


def _recurrence(a: Any, b: Any) -> Any:
    """Solve ``y[i] = a[i] y[i-1] + b[i]``, ``y[-1] = 0``, along rows; ``a[0]`` does not matter.

    Recursive doubling, O(n log n) products: in the loop ``y[i] = a[i] y[i-step] + b[i]`` for
    ``i >= step``, ``y[i] = b[i]`` before it (Blelloch 1990).
    """
    n, step = _shape(b)[-1], 1
    while step < n:
        later = a[..., step:]
        b = np.concatenate([b[..., :step], b[..., step:] + later * b[..., :-step]], axis=-1)
        if 2 * step < n:
            a = np.concatenate([a[..., :step], later * a[..., :-step]], axis=-1)
        step *= 2
    return b


def _cumprod_jvp(t: Any, f: Any, x: Any) -> Any:
    """``f[i] = x[i] f[i-1]``, differentiated."""
    return _recurrence(x, t * _shifted(f, 1.0))


def _cumprod_vjp(g: Any, f: Any, x: Any) -> Any:
    """The product of the elements before, times ``r[j] = g[j] + x[j+1] r[j+1]``."""
    received = _recurrence(_shifted(x[..., ::-1], 1.0), g[..., ::-1])
    return received[..., ::-1] * _shifted(f, 1.0)


def _products_before(x: Any, t: Any) -> tuple[Any, Any]:
    """The product of the elements before each one, and its tangent along ``t``."""
    through = np.cumprod(x, axis=-1)
    return _shifted(through, 1.0), _shifted(_cumprod_jvp(t, through, x), 0.0)


def _prod_others_derivative(t: Any, f: Any, x: Any) -> Any:
    """The derivative of (product of those before) * (product of those after) along ``t``.

    The Jacobian of a row, at (i, j) the product of all elements but i and j, is symmetric: this is
    the jvp and the vjp.
    """
    before, d_before = _products_before(x, t)
    after, d_after = _products_before(x[..., ::-1], t[..., ::-1])
    return d_before * after[..., ::-1] + before * d_after[..., ::-1]


def _products_of_others(x: np.ndarray) -> np.ndarray:
    """For each element the product of the others of its row, in NumPy."""
    x = np.asarray(x, np.float64)
    before = np.cumprod(_shifted(x, 1.0), axis=-1)
    after = np.cumprod(_shifted(x[..., ::-1], 1.0), axis=-1)
    return before * after[..., ::-1]


def _prod_others(x: Any) -> Any:
    return _record("prod_others", [x], _products_of_others(_value(x)))


_structural(
    "prod",
    vjp=_vjp(lambda g, f, x: _row(g) * _prod_others(x)),
    jvp=_jvp(lambda t, f, x: np.sum(t * _prod_others(x), axis=-1)),
    examples=_rows(lambda x: np.prod(x, axis=-1), *_WITH_ZEROS),
)
_structural(
    "prod_others",
    vjp=_vjp(_prod_others_derivative),
    jvp=_jvp(_prod_others_derivative),
    examples=_rows(_products_of_others, *_WITH_ZEROS),
)
_structural(
    "cumsum",
    vjp=_vjp(lambda g, f, x: np.cumsum(g[..., ::-1], axis=-1)[..., ::-1]),
    jvp=_jvp(lambda t, f, x: np.cumsum(t, axis=-1)),
    linear=True,
    examples=_rows(lambda x: np.cumsum(x, axis=-1)),
)
_structural(
    "cumprod",
    vjp=_vjp(_cumprod_vjp),
    jvp=_jvp(_cumprod_jvp),
    examples=_rows(lambda x: np.cumprod(x, axis=-1), *_WITH_ZEROS),
)


# --- matrices: products and solves ----------------------------------------------------------------


def _product(a: Any, b: Any) -> Any:
    """``a @ b``; a stack of matrices or columns times one matrix is a single product."""
    left, right = _shape(a), _shape(b)
    if len(left) == 3 and len(right) == 2:
        flat = np.matmul(np.reshape(a, (left[0] * left[1], left[2])), b)
        return np.reshape(flat, (*left[:2], right[1]))
    if len(left) == 2 and len(right) == 3 and right[2] == 1:
        return np.matmul(b[..., 0], _t(a))[..., None]
    return np.matmul(a, b)


def _matmul_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
    a, b = operands
    g = g if len(_shape(g)) > len(_shape(f)) else _shaped(g, _shape(f))
    return _product(g, _t(b)), _product(_t(a), g)


def _matmul_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    (a, b), (ta, tb) = operands, tangents
    left = None if ta is None else _product(ta, b)
    right = None if tb is None else _product(a, tb)
    return _sum_of((left, right))


def _matmul_examples(rng: np.random.Generator) -> list[Example]:
    shapes = [((2, 3), (3, 4)), ((5, 1, 3), (5, 3, 2)), ((1, 1), (1, 1))]
    pairs = [(rng.normal(size=left), rng.normal(size=right)) for left, right in shapes]
    return [Example(pair, (), np.matmul) for pair in pairs]


def _solve_vjp(g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
    """Giles 2008, section 2.2.2 and 2.2.3 (f = a^-1 b)."""
    gb = np.linalg.solve(_t(operands[0]), g)
    return -np.matmul(gb, _t(f)), gb


def _solve_jvp(tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
    ta, tb = tangents
    right = _sum_of((tb, None if ta is None else -np.matmul(ta, f)))
    return None if right is None else np.linalg.solve(operands[0], right)


def _solve_examples(rng: np.random.Generator) -> list[Example]:
    pairs = zip(_square(rng), (2, 1, 3), strict=True)
    return [
        Example((a, rng.normal(size=(*a.shape[:-1], columns))), (), np.linalg.solve)
        for a, columns in pairs
    ]


_structural("matmul", vjp=_matmul_vjp, jvp=_matmul_jvp, linear_in=(0, 1), examples=_matmul_examples)
_structural("solve", vjp=_solve_vjp, jvp=_solve_jvp, linear_in=(1,), examples=_solve_examples)
_structural(
    "inv",
    vjp=_vjp(lambda g, f, a: -np.matmul(np.matmul(_t(f), g), _t(f))),
    jvp=_jvp(lambda t, f, a: -np.matmul(np.matmul(f, t), f)),
    examples=_matrices(np.linalg.inv),
)
_structural(
    "logabsdet",
    vjp=_vjp(lambda g, f, a: _matrix(g) * _t(np.linalg.inv(a))),
    jvp=_jvp(lambda t, f, a: np.sum(_t(np.linalg.inv(a)) * t, axis=(-2, -1))),
    examples=_matrices(lambda a: np.linalg.slogdet(a)[1]),
)
_structural("detsign", (), examples=_matrices(lambda a: np.linalg.slogdet(a)[0]))


# --- matrices: Cholesky ---------------------------------------------------------------------------
# The operation reads the lower triangle only, but what it factors is a symmetric matrix.  The
# derivative is that with respect to symmetric perturbations (as JAX's): the cotangent is symmetric
# and its inner product with a symmetric perturbation is the change; of a tangent the symmetric part
# counts.


def _half_lower(x: Any) -> Any:
    """The lower triangle with half the diagonal: Murray's Phi."""
    n = _shape(x)[-1]
    return x * (np.tril(np.ones((n, n))) - 0.5 * np.eye(n))


def _cholesky_vjp(g: Any, f: Any, a: Any) -> Any:
    """Murray 2016, equation 10: the symmetric part of ``L^-T Phi(L^T g) L^-1``."""
    inner = _half_lower(np.matmul(_t(f), g))
    left = np.linalg.solve(_t(f), inner + _t(inner))
    return 0.5 * np.linalg.solve(_t(f), _t(left))


def _cholesky_jvp(t: Any, f: Any, a: Any) -> Any:
    """Murray 2016, equation 8: ``L Phi(L^-1 t L^-T)``."""
    inner = np.linalg.solve(f, _t(np.linalg.solve(f, 0.5 * (t + _t(t)))))
    return np.matmul(f, _half_lower(inner))


def _cholesky_examples(rng: np.random.Generator) -> list[Example]:
    """Symmetric matrices; to be perturbed symmetrically."""
    return [Example((a @ _t(a),), (), np.linalg.cholesky) for a in _square(rng)]


_structural(
    "cholesky",
    vjp=_vjp(_cholesky_vjp),
    jvp=_jvp(_cholesky_jvp),
    examples=_cholesky_examples,
)
