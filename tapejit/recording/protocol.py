"""NumPy's protocols: ufuncs, functions and methods that meet a traced value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from ..ops.table import OPS
from . import functions, linalg, products, reductions, shapes
from .indexing import scatter_add
from .recorder import where_am_i
from .shapes import astype, broadcast_to, into, operand, operands, reshape, unsupported
from .tracer import ArrayTracer, ScalarTracer, Tracer, apply, is_traced, value_of

__all__ = ["FUNCTIONS", "array_function", "array_ufunc"]

# --- ufuncs ---------------------------------------------------------------------------------------


def _scaled(factor: float) -> Callable:
    return lambda x: apply(OPS["mul"], x, factor)


def _logical(name: str) -> Callable:
    def function(*args: Any) -> Any:
        _, args = operands(*args)
        if any(arg.dtype != np.bool_ for arg in args):
            raise unsupported(
                f"np.{name.replace('logical', 'bitwise')} of numbers",
                "it works on truth values: compare first, or use //, % and powers of two",
            )
        return apply(OPS[name], *args)

    return function


def _divmod(x: Any, y: Any) -> tuple:
    return apply(OPS["floor_divide"], x, y), apply(OPS["remainder"], x, y)


def _modf(x: Any) -> tuple:
    whole = apply(OPS["trunc"], x)
    return apply(OPS["sub"], x, whole), whole


def _ldexp(x: Any, i: Any) -> Any:
    return apply(OPS["mul"], x, apply(OPS["exp2"], i) if isinstance(i, Tracer) else np.exp2(i))


def _clip(x: Any, low: Any, high: Any) -> Any:
    return apply(OPS["minimum"], apply(OPS["maximum"], x, low), high)


def _copy(x: Any) -> Any:
    return operand(x).copy()


def _elementwise(name: str) -> Callable:
    op = OPS[name]
    return lambda *args: apply(op, *args)


_UFUNCS: dict[Any, Callable] = {
    op.reference: _elementwise(op.name)
    for op in OPS.values()
    if isinstance(op.reference, np.ufunc) and op.name != "stop_gradient"
}
_UFUNCS |= {
    np.power: functions.power,
    np.positive: _copy,
    np.conjugate: _copy,
    np.fabs: _elementwise("abs"),
    np.deg2rad: _scaled(math.pi / 180.0),
    np.radians: _scaled(math.pi / 180.0),
    np.rad2deg: _scaled(180.0 / math.pi),
    np.degrees: _scaled(180.0 / math.pi),
    np.bitwise_and: _logical("logical_and"),
    np.bitwise_or: _logical("logical_or"),
    np.bitwise_xor: _logical("logical_xor"),
    np.invert: _logical("logical_not"),
    np.divmod: _divmod,
    np.modf: _modf,
    np.ldexp: _ldexp,
    np.matmul: products.matmul,
    np._core.umath.clip: _clip,
}
for _name in ("vecdot", "matvec", "vecmat"):
    if hasattr(np, _name):
        _UFUNCS[getattr(np, _name)] = getattr(products, _name)


def array_ufunc(ufunc: Any, method: str, inputs: tuple, kwargs: dict) -> Any:
    """What NumPy calls for a ufunc with a traced operand."""
    if method == "__call__":
        function = _UFUNCS.get(ufunc) or _from_scipy(ufunc)
        if not kwargs:
            return function(*inputs)
        return _with_options(function, inputs, **kwargs)
    handler = _METHODS.get(method)
    if handler is None:
        remedy = "write it with slices and np.concatenate"
        raise unsupported(f"np.{ufunc.__name__}.{method}", remedy)
    return handler(ufunc, *inputs, **kwargs)


#: Where a function without a rule may be called.
_ON_VALUES = (
    "call it on plain values: outside of the recorded function, passing the result in; of a "
    "tensor, on x.detach()"
)


def _from_scipy(ufunc: Any) -> Callable:
    """SciPy's own ufuncs by name; an error for what has no rule."""
    from ..scipy import special

    function = special.UFUNCS.get(ufunc.__name__)
    if function is None or isinstance(getattr(np, ufunc.__name__, None), np.ufunc):
        raise UnsupportedError(
            f"{where_am_i()}: {ufunc.__name__} has no rule for traced values; write it with "
            "operations that have one (see tapejit.numpy.__all__, tapejit.scipy.special.__all__), "
            f"or {_ON_VALUES}"
        )
    return function


def _with_options(
    function: Callable, inputs: tuple, out: Any = None, where: Any = True, dtype: Any = None,
    casting: Any = None, order: Any = None, subok: Any = None, **others: Any,
) -> Any:  # fmt: skip
    """A ufunc with keyword arguments."""
    if is_traced(inputs):
        result = function(*inputs, **others)
    else:  # only out= is traced
        result = value_of(function(*_traced_inputs(out, inputs), **others))
    if dtype is not None:
        result = astype(result, dtype, copy=False)
    if isinstance(result, tuple):
        return tuple(into(o, r) for o, r in zip(out or (None,) * len(result), result, strict=True))
    if where is not True:
        target = out[0] if isinstance(out, tuple) else out
        if target is None:
            raise unsupported(
                "where= without out= (what is not computed would be undefined)",
                "use np.where(mask, f(x), other)",
            )
        result = apply(OPS["where"], where, result, target)
    return into(out, result)


def _traced_inputs(out: Any, inputs: tuple) -> list:
    target = out[0] if isinstance(out, tuple) else out
    if not isinstance(target, Tracer):
        into(np.empty(0), None)
    return [shapes.as_tracer(target.rec, x) for x in inputs]


def _reduce(
    ufunc: Any, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False,
    initial: Any = np._NoValue, where: Any = True,
) -> Any:  # fmt: skip
    function = _REDUCTIONS.get(ufunc)
    if function is None:
        raise unsupported(f"np.{ufunc.__name__}.reduce", "use np.sum, np.prod, np.max or np.min")
    options: dict[str, Any] = {"keepdims": keepdims}
    if where is not True:
        options["where"] = where
    if initial is not np._NoValue and initial is not None:
        options["initial"] = initial
    if dtype is not None:
        options["dtype"] = dtype
    return into(out, function(a, axis, **options))


def _accumulate(ufunc: Any, a: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
    function = {np.add: reductions.cumsum, np.multiply: reductions.cumprod}.get(ufunc)
    if function is not None:
        return function(a, axis, dtype, out)
    rows = list(shapes.moveaxis(a, axis, 0))
    for i in range(1, len(rows)):
        rows[i] = ufunc(rows[i - 1], rows[i])
    return into(out, shapes.stack(rows, axis))


def _outer(ufunc: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    _, (a, b) = operands(a, b)
    return ufunc(reshape(a, a.shape + (1,) * b.ndim), b, **kwargs)


def _at(ufunc: Any, a: Any, indices: Any, b: Any = None) -> None:
    """``ufunc.at``: in place, repeated indices count each time for sums."""
    if not isinstance(a, ArrayTracer):
        into(np.asarray(a), None)
    if ufunc not in (np.add, np.subtract):
        a[indices] = ufunc(a[indices]) if b is None else ufunc(a[indices], b)
        return
    from .indexing import positions_of

    places = positions_of(a, indices)
    b = broadcast_to(operand(b), np.shape(value_of(places)))
    b = apply(OPS["neg"], b) if ufunc is np.subtract and is_traced(b) else b
    if ufunc is np.subtract and not is_traced(b):
        b = -b
    if isinstance(places, Tracer):
        a[...] = a + scatter_add(b, places, a.shape) if is_traced((b, places)) else a
        return
    unique, inverse = np.unique(places, return_inverse=True)
    if unique.size == places.size:
        a[indices] = a[indices] + b
        return
    inverse = inverse.reshape(places.shape)
    if is_traced(b):
        total = scatter_add(b, inverse, unique.shape)
    else:
        total = np.bincount(inverse.ravel(), np.ravel(b), len(unique))
    target = np.unravel_index(unique, a.shape)
    a[target] = a[target] + total


_METHODS: dict[str, Callable] = {
    "reduce": _reduce, "accumulate": _accumulate, "outer": _outer, "at": _at,
}  # fmt: skip
_REDUCTIONS: dict[Any, Callable] = {
    np.add: reductions.sum,
    np.multiply: reductions.prod,
    np.maximum: reductions.max,
    np.minimum: reductions.min,
    np.logical_and: reductions.all,
    np.logical_or: reductions.any,
    np.bitwise_and: reductions.all,
    np.bitwise_or: reductions.any,
    np.fmax: reductions.nanmax,
    np.fmin: reductions.nanmin,
    np.logaddexp: lambda a, axis, keepdims=False: reductions.logsumexp(a, axis, keepdims=keepdims),
}


# --- functions ------------------------------------------------------------------------------------


def _table() -> dict[Any, Callable]:
    """Our functions by NumPy's, matched by name."""
    table: dict[Any, Callable] = {}
    for name in dir(functions):
        ours, theirs = getattr(functions, name), getattr(np, name, None)
        if callable(ours) and callable(theirs) and not isinstance(theirs, (type, np.ufunc)):
            table[theirs] = ours
    for name in dir(np.linalg):
        ours = getattr(linalg, name, None) or getattr(products, name, None)
        theirs = getattr(np.linalg, name)
        if callable(ours) and callable(theirs) and not isinstance(theirs, type):
            table[theirs] = ours
    table[np.linalg.diagonal] = linalg.linalg_diagonal
    table[np.linalg.outer] = products.outer
    table[np.linalg.matrix_transpose] = shapes.matrix_transpose
    table[np.lib.stride_tricks.sliding_window_view] = products.sliding_window_view
    return table


#: Our functions by NumPy's.
FUNCTIONS = _table()


def array_function(func: Any, args: tuple, kwargs: dict) -> Any:
    """What NumPy calls for a function with a traced argument."""
    function = FUNCTIONS.get(func)
    if function is None:
        module = getattr(func, "__module__", "numpy") or "numpy"
        raise UnsupportedError(
            f"{where_am_i()}: {module}.{func.__name__} has no rule for traced values; write it "
            f"with functions that have one (see tapejit.numpy.__all__), or {_ON_VALUES}"
        )
    return function(*args, **kwargs)


# --- methods --------------------------------------------------------------------------------------


def _shape_arguments(function: Callable) -> Callable:
    """``x.reshape(2, 3)`` as well as ``x.reshape((2, 3))``."""

    def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1:
            return function(self, args[0], **kwargs)
        return function(self, args or kwargs.pop("shape", None), **kwargs)

    return method


def _sort(self: ArrayTracer, axis: int = -1, kind: Any = None, order: Any = None, **_: Any) -> None:
    """Sort in place."""
    self[...] = reductions.sort(self, axis)


def _fill(self: ArrayTracer, value: Any) -> None:
    """Write one value everywhere."""
    self[...] = value


def _put(self: ArrayTracer, *args: Any, **kwargs: Any) -> None:
    functions.put(self, *args, **kwargs)


def _choose(self: Tracer, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    return functions.choose(self, choices, out, mode)


def _compress(self: Tracer, condition: Any, axis: int | None = None, out: Any = None) -> Any:
    return functions.compress(condition, self, axis, out)


def _clip_method(self: Tracer, min: Any = None, max: Any = None, out: Any = None, **_: Any) -> Any:
    return functions.clip(self, min, max, out)


_BOTH = {
    name: getattr(functions, name)
    for name in (
        "sum", "mean", "prod", "max", "min", "var", "std", "any", "all", "argmax", "argmin", "dot",
        "ravel", "flatten", "swapaxes", "squeeze", "round", "cumsum", "cumprod", "argsort", "take",
        "repeat", "diagonal", "trace", "astype", "ptp", "nonzero", "searchsorted", "argpartition",
    )
} | {
    "reshape": _shape_arguments(shapes.reshape),
    "transpose": _shape_arguments(lambda a, axes=None: shapes.transpose(a, axes or None)),
    "clip": _clip_method, "choose": _choose, "compress": _compress,
}  # fmt: skip
_ARRAYS = {"sort": _sort, "partition": lambda self, kth, axis=-1, **_: _sort(self, axis),
           "fill": _fill, "put": _put}  # fmt: skip
#: When NumPy runs a ufunc over an object array it calls the method of that name of each element.
_SCALARS = {ufunc.__name__: function for ufunc, function in _UFUNCS.items() if ufunc.nin == 1} | {
    "arctan2": _UFUNCS[np.arctan2],
    "hypot": _UFUNCS[np.hypot],
    "logaddexp": _UFUNCS[np.logaddexp],
}
#: Attributes that the values have.
_VALUES = ("itemsize", "nbytes", "strides", "flags")


def _install() -> None:
    for cls, methods in ((Tracer, _BOTH), (ArrayTracer, _ARRAYS), (ScalarTracer, _SCALARS)):
        for name, function in methods.items():
            if name not in cls.__dict__ and name not in Tracer.__dict__:
                setattr(cls, name, _bound(function))
    for name in _VALUES:
        setattr(Tracer, name, property(_of_value(name)))


def _of_value(name: str) -> Callable:
    def get(self: Tracer) -> Any:
        return getattr(self.value, name)

    get.__doc__ = f"NumPy's ``{name}``."
    return get


def _bound(function: Callable) -> Callable:
    def method(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__doc__ = function.__doc__
    return method


_install()
