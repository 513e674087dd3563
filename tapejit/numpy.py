"""NumPy's namespace for code that is recorded: ``import tapejit.numpy as np``.

NumPy's own functions work on traced values; this namespace is for what its protocols cannot reach.
Inside of a recording ``zeros``, ``ones``, ``full``, ``empty``, ``eye``, ``arange``, ``linspace``
and ``array`` make traced arrays, into which traced values can be written.  Outside, and for every
other name, it is NumPy; ``array``, ``full`` and ``linspace`` of tensors make tensors.
"""

from __future__ import annotations

import builtins as _builtins
import functools
from collections.abc import Callable
from typing import Any

import numpy as _np

from .recording import functions as _functions
from .recording import protocol as _protocol
from .recording.recorder import active as _active
from .recording.shapes import as_tracer as _as_tracer
from .recording.shapes import filled as _filled
from .recording.shapes import unsupported as _unsupported
from .recording.tracer import entrance as _entrance
from .recording.tracer import is_traced as _is_traced
from .recording.tracer import recorder_of as _recorder_of

newaxis = None


def _dispatched(ours: Callable, theirs: Callable) -> Callable:
    """Our function where an argument is or holds a traced value, else NumPy's."""

    @functools.wraps(theirs)
    def function(*args: Any, **kwargs: Any) -> Any:
        enter = _entrance(args)
        if enter is not None:
            return enter(ours, theirs, args, kwargs)
        if _is_traced(args) or _is_traced(list(kwargs.values())):
            return ours(*args, **kwargs)
        return theirs(*args, **kwargs)

    return function


def _on_tensors(ours: Callable) -> Callable:
    """``ours`` of traced values; of tensors, recorded where a gradient is wanted."""
    theirs = getattr(_np, ours.__name__)

    @functools.wraps(ours)
    def function(*args: Any, **kwargs: Any) -> Any:
        enter = None if _active() is not None else _entrance((*args, *kwargs.values()))
        return ours(*args, **kwargs) if enter is None else enter(ours, theirs, args, kwargs)

    return function


def _created(name: str) -> Callable:
    reference = getattr(_np, name)

    @functools.wraps(reference)
    def function(*args: Any, **kwargs: Any) -> Any:
        if _is_traced(args):
            args = tuple(_counted(arg) for arg in args)
        result = reference(*args, **kwargs)
        rec = _active()
        return result if rec is None or result.ndim == 0 else _as_tracer(rec, result)

    return function


def _counted(arg: Any) -> Any:
    """A traced shape or bound as an integer, with a guard."""
    if isinstance(arg, (tuple, list)):
        return type(arg)(_counted(part) for part in arg)
    return arg.__index__() if _is_traced(arg) else arg


eye = _created("eye")
identity = _created("identity")
tri = _created("tri")


def zeros(shape: Any, dtype: Any = float, *args: Any, **kwargs: Any) -> Any:
    """Zeros; inside of a recording a traced array, into which traced values can be written."""
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float, *args: Any, **kwargs: Any) -> Any:
    """Ones; inside of a recording a traced array, into which traced values can be written."""
    return full(shape, 1, dtype)


#: What was never written is zero.
empty = zeros


@_on_tensors
def full(shape: Any, fill_value: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """An array of one value, which may be traced; inside of a recording a traced array."""
    shape = _counted(shape)
    rec = _recorder_of(fill_value) if _is_traced(fill_value) else _active()
    if rec is None:
        return _np.full(shape, fill_value, dtype)
    template = _np.empty(
        shape, dtype or getattr(fill_value, "dtype", None) or _np.result_type(fill_value)
    )
    if _is_traced(fill_value):
        return _functions.full_like(template, fill_value)
    kind = template.dtype.kind
    dtype = {"f": _np.float64, "b": _np.bool_}.get(kind, _np.int64)
    if _np.ndim(fill_value):
        return _as_tracer(rec, _np.full(shape, fill_value, dtype))
    return _filled(rec, template.shape, _np.asarray(fill_value, dtype), dtype)


def arange(*args: Any, **kwargs: Any) -> Any:
    """Evenly spaced values; traced integers as bounds become guards."""
    if _is_traced(args):
        if _builtins.any(getattr(arg, "dtype", _np.dtype(int)).kind == "f" for arg in args):
            raise _unsupported(
                "np.arange with a traced float (its length would depend on it)",
                "use start + step * np.arange(n)",
            )
        args = tuple(_counted(arg) for arg in args)
    result = _np.arange(*args, **kwargs)
    rec = _active()
    return result if rec is None else _as_tracer(rec, result)


@_on_tensors
def linspace(
    start: Any, stop: Any, num: Any = 50, endpoint: bool = True, retstep: bool = False,
    dtype: Any = None, axis: int = 0,
) -> Any:  # fmt: skip
    """Evenly spaced values between ends, which may be traced."""
    num = _counted(num)
    if not _is_traced((start, stop)):
        return _np.linspace(start, stop, num, endpoint, retstep, dtype, axis)
    return _functions.linspace(start, stop, num, endpoint, retstep, dtype, axis)


@_on_tensors
def geomspace(start: Any, stop: Any, num: Any = 50, endpoint: bool = True, **kwargs: Any) -> Any:
    """Values of constant ratio between positive ends, which may be traced."""
    if not _is_traced((start, stop)):
        return _np.geomspace(start, stop, num, endpoint, **kwargs)
    return _np.exp(linspace(_np.log(start), _np.log(stop), num, endpoint))


@_on_tensors
def logspace(start: Any, stop: Any, num: Any = 50, endpoint: bool = True, base: Any = 10.0) -> Any:
    """Powers between ends, which may be traced."""
    if not _is_traced((start, stop, base)):
        return _np.logspace(start, stop, num, endpoint, base)
    return _np.power(base, linspace(start, stop, num, endpoint))


@_on_tensors
def array(object: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """An array from nested lists of traced values and numbers."""
    if _is_traced(object):
        return _functions.array(object, dtype, **kwargs)
    result = _np.array(object, dtype, **kwargs)
    rec = _active()
    numeric = result.dtype.kind in "fiub" and result.ndim
    return result if rec is None or not numeric else _as_tracer(rec, result)


@_on_tensors
def asarray(a: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
    """The array itself, or one from nested lists of traced values and numbers."""
    if _is_traced(a):
        return _functions.asarray(a, dtype)
    return _np.asarray(a, dtype, *args, **kwargs)


class _Linalg:
    """``numpy.linalg``, also for nested lists of traced values."""

    def __getattr__(self, name: str) -> Any:
        theirs = getattr(_np.linalg, name)
        ours = _protocol.FUNCTIONS.get(theirs)
        return theirs if ours is None else _dispatched(ours, theirs)


linalg = _Linalg()


def _install() -> None:
    """Every function that has a rule, under NumPy's name."""
    for theirs, ours in _protocol.FUNCTIONS.items():
        name = theirs.__name__
        if name not in globals() and getattr(_np, name, None) is not None:
            globals()[name] = _dispatched(ours, getattr(_np, name))
    for alias in ("amax", "amin", "around", "concat", "permute_dims"):
        if hasattr(_np, alias):
            globals()[alias] = _dispatched(getattr(_functions, alias), getattr(_np, alias))


_install()

__all__ = sorted(  # noqa: PLE0605
    name
    for name in globals()
    if not name.startswith("_") and name not in ("annotations", "functools", "Any", "Callable")
)


def __getattr__(name: str) -> Any:
    return getattr(_np, name)
