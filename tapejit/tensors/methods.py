"""Operators and methods of tensors, as NumPy's arrays have them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ops.table import OPS
from ..recording import protocol
from ..recording.tracer import (
    ARITHMETIC,
    ArrayTracer,
    ScalarTracer,
    Tracer,
    apply,
    scalar_operator,
)
from . import pytorch, short
from .changes import in_place, in_place_function, with_out
from .enter import Tensor, enter, plain
from .grad_mode import local

__all__ = ["COPYING", "UNRECORDED", "install", "recorder_of"]

_short_binary, _short_scalars = short.binary, short.scalars


# --- functions ------------------------------------------------------------------------------------

#: Functions whose results are not differentiable.
UNRECORDED = {
    np.zeros_like, np.ones_like, np.empty_like, np.array_equal, np.array_equiv, np.allclose,
    np.isclose, np.shape, np.ndim, np.size, np.array_repr, np.array_str, np.array2string,
    np.argmax, np.argmin, np.argsort, np.argpartition, np.nonzero, np.flatnonzero, np.argwhere,
    np.searchsorted, np.digitize, np.count_nonzero, np.all, np.any, np.unique, np.result_type,
    np.can_cast, np.common_type, np.min_scalar_type, np.may_share_memory, np.shares_memory,
    np.iscomplexobj, np.isrealobj, np.save, np.savez, np.savetxt, np.isin,
    np.histogram, np.bincount, np.linalg.matrix_rank,
}  # fmt: skip
#: Functions that write into their first argument.
COPYING = {np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}


def recorder_of(func: Any) -> Callable:
    """What records a NumPy function."""

    def ours(*args: Any, **kwargs: Any) -> Any:
        return protocol.array_function(func, args, kwargs)

    return ours


# --- operators and methods ------------------------------------------------------------------------


def general(op: Any, *args: Any) -> Any:
    """An elementwise operation on tensors."""
    if len(args) == 2:
        result = _short_scalars(op, *args)
        if result is not None:
            return result
    if op.kind != "f" and op.kind != "=":
        return plain(op.reference, args, {}, [])
    return enter(lambda *args: apply(op, *args), op.reference, args, {})


def _operator(base: Callable, function: Callable) -> Callable:
    def method(self: Any, other: Any) -> Any:
        return enter(base, function, (self, other), {})

    return method


def _arithmetic(op: Any, swap: bool, base: Callable, function: Callable) -> Callable:
    """An operator of arrays with a short way."""

    if swap:

        def method(self: Any, other: Any) -> Any:
            result = _short_binary(op, other, self)
            return enter(base, function, (self, other), {}) if result is None else result

    else:

        def method(self: Any, other: Any) -> Any:
            result = _short_binary(op, self, other)
            return enter(base, function, (self, other), {}) if result is None else result

    return method


def _unary(base: Callable, function: Callable) -> Callable:
    def method(self: Any) -> Any:
        return enter(base, function, (self,), {})

    return method


def _comparison(base: Callable, function: Callable) -> Callable:
    """A truth value; recorded only as a step of a function that is."""

    def method(self: Any, other: Any) -> Any:
        if local.state.inside is not None:
            return base(self, other)
        if isinstance(other, Tracer) and not isinstance(other, Tensor):
            return NotImplemented  # the body of a staged loop compares its values with a tensor
        return plain(function, (self, other), {}, [])

    return method


def _in_place_operator(name: str, symbol: str) -> Callable:
    function = getattr(operator, {"and": "and_", "or": "or_"}.get(name, name))

    def method(self: Any, other: Any) -> Any:
        return in_place(self, other, f"__{name}__", function, symbol)

    return method


def _swapped(function: Callable) -> Callable:
    return lambda a, b: function(b, a)


#: How operators are written.
_SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "matmul": "@", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip


def _install_operators(shared: type, scalar: type, array: type) -> None:
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        base, function = getattr(Tracer, f"__{name}__"), getattr(operator, name)
        setattr(shared, f"__{name}__", _comparison(base, function))
    for name, op in ARITHMETIC.items():
        function = getattr(operator, name)
        for prefix, swap in (("", False), ("r", True)):
            short = scalar_operator(OPS[op], function, swap, scalar, general)
            setattr(scalar, f"__{prefix}{name}__", short)
            base = getattr(ArrayTracer, f"__{prefix}{name}__")
            theirs = _swapped(function) if swap else function
            setattr(array, f"__{prefix}{name}__", _arithmetic(OPS[op], swap, base, theirs))
    for name in ("floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
        function = getattr(operator, {"and": "and_", "or": "or_"}.get(name, name))
        for cls, tracer in ((scalar, ScalarTracer), (array, ArrayTracer)):
            for prefix, swap in (("", False), ("r", True)):
                base = getattr(tracer, f"__{prefix}{name}__")
                theirs = _swapped(function) if swap else function
                setattr(cls, f"__{prefix}{name}__", _operator(base, theirs))
    for name in ("neg", "abs", "invert", "pos"):
        base, function = getattr(Tracer, f"__{name}__"), getattr(operator, name)
        setattr(shared, f"__{name}__", _unary(base, function))
    shared.__divmod__ = lambda self, other: (self // other, self % other)  # type: ignore
    for name, symbol in _SYMBOLS.items():
        setattr(shared, f"__i{name}__", _in_place_operator(name, f"{symbol}="))


def _install_methods(shared: type, array: type) -> None:
    for name, ours in protocol._BOTH.items():
        if name in _VALUE_METHODS:
            continue
        setattr(shared, name, _bound(ours, operator.methodcaller, name))
    for name in _VALUE_METHODS:
        setattr(shared, name, _of_values(name))
    for name in _NUMPY_METHODS:
        setattr(shared, name, _numpy_method(getattr(np, name)))
    pytorch.install(shared)
    for name in ("fill", "sort", "partition", "put"):
        setattr(array, name, _writing(protocol._ARRAYS[name], name))


def _bound(ours: Callable, caller: Callable, name: str) -> Callable:
    def theirs(value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            kwargs = pytorch.renamed(kwargs)
        return with_out(ours, theirs, (self, *args), kwargs)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``numpy.ndarray.{name}``."
    return method


#: Methods whose results are not differentiable: computed, not recorded.
_VALUE_METHODS = ("any", "all", "argmax", "argmin", "argsort", "nonzero", "searchsorted",
                  "argpartition")  # fmt: skip
_NUMPY_METHODS = (
    "exp", "log", "log1p", "expm1", "log2", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh",
    "sqrt", "square", "abs", "sign", "floor", "ceil", "arctan", "arcsin", "arccos", "reciprocal",
    "maximum", "minimum", "hypot", "logaddexp", "outer", "rint", "trunc",
    "cbrt", "exp2", "arcsinh", "arccosh", "arctanh", "isnan", "isfinite", "isinf", "rad2deg",
    "deg2rad", "degrees", "radians", "fabs", "negative", "positive", "conjugate", "logical_not",
)  # fmt: skip


def _numpy_method(function: Callable) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__ = getattr(function, "__name__", "method")
    method.__doc__ = f"``numpy.{method.__name__}``."
    return method


def _of_values(name: str) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        def theirs(value: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(value, name)(*args, **kwargs)

        return plain(theirs, (self, *args), pytorch.renamed(kwargs), [])

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``numpy.ndarray.{name}``: not differentiable, and not recorded."
    return method


def _writing(ours: Callable, name: str) -> Callable:
    def theirs(value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        in_place_function(ours, theirs, (self, *args), kwargs, name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``numpy.ndarray.{name}``, in place."
    return method


def install(shared: type, scalar: type, array: type) -> None:
    """Give the classes of tensors their operators and methods."""
    _install_operators(shared, scalar, array)
    _install_methods(shared, array)
