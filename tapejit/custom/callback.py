"""``pure_callback``: a call of Python as an operation of the tape."""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import pytrees
from ..errors import RuleError, UnsupportedError
from ..interpreters import user
from ..ops.structural import Structural, carry
from ..recording.recorder import paused, sampling, where_am_i
from ..recording.tracer import entrance, is_traced, lift, record, recorder_of, value_of
from ..tape import size_of
from .rules import unpacked

__all__ = ["pure_callback"]

_numbers = itertools.count(1)
_lock = threading.Lock()
#: Calls by function and shapes: a function that is recorded again is found again.
_known: weakref.WeakValueDictionary[Any, _PythonOperation] = weakref.WeakValueDictionary()


class _Spec:
    """Shapes and dtypes of a result, from what the user gave."""

    def __init__(self, result_shape: Any) -> None:
        if _is_shape(result_shape):
            leaves, self.structure = [result_shape], pytrees.flatten(0.0)[1]
        else:
            leaves, self.structure = pytrees.flatten(result_shape, is_leaf=_is_shape)
        self.shapes, self.dtypes = [], []
        for leaf in leaves:
            shape = leaf if _is_shape(leaf) else getattr(leaf, "shape", None)
            if shape is None:
                shape = np.shape(leaf)
            dtype = np.dtype(np.float64) if _is_shape(leaf) else np.dtype(_dtype(leaf))
            if dtype.kind not in "fiub":
                raise RuleError(
                    f"{where_am_i()}: pure_callback: a result of dtype {dtype} is not supported; "
                    "results are real numbers, integers or bools"
                )
            self.shapes.append(tuple(int(n) for n in shape))
            self.dtypes.append(dtype)
        self.size = sum(map(size_of, self.shapes))

    def key(self) -> Any:
        """What tells specs apart."""
        return self.structure, tuple(self.shapes), tuple(d.str for d in self.dtypes)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(n, (int, np.integer)) for n in value)


def _dtype(leaf: Any) -> Any:
    return getattr(leaf, "dtype", None) or np.asarray(leaf).dtype


@dataclass(frozen=True, eq=False, repr=False)
class _PythonOperation(Structural):
    """A call of Python on the tape; ``number`` stands in its instructions."""

    call: Any = field(default=None)
    number: int = 0

    def __repr__(self) -> str:
        return self.name


class _Call:
    """The user's function at flat arrays, its result packed."""

    def __init__(
        self,
        function: Callable[..., Any],
        structure: Any,
        spec: _Spec,
        shapes: tuple,
        dtypes: tuple,
    ) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", repr(function))
        self.structure = structure
        self.spec = spec
        self.shapes = shapes
        self.dtypes = dtypes
        self.size = spec.size

    def run(self, arguments: Sequence[np.ndarray]) -> np.ndarray:
        """Call the function; its results, packed."""
        leaves = [
            array.astype(dtype)[()] for array, dtype in zip(arguments, self.dtypes, strict=True)
        ]
        args = pytrees.unflatten(self.structure, leaves)
        with paused():
            result = self.function(*args)
        return self._packed(result)

    def _packed(self, result: Any) -> np.ndarray:
        leaves, structure = pytrees.flatten(result)
        spec = self.spec
        if structure != spec.structure:
            raise RuleError(
                f"pure_callback: `{self.name}` returned the structure {str(structure)[:200]}, "
                f"result_shape has {str(spec.structure)[:200]}"
            )
        for leaf, shape in zip(leaves, spec.shapes, strict=True):
            if np.shape(leaf) != shape:
                raise RuleError(
                    f"pure_callback: `{self.name}` returned an array of shape {np.shape(leaf)}, "
                    f"result_shape says {shape}"
                )
        flat = [np.asarray(leaf, np.float64).ravel() for leaf in leaves]
        return np.concatenate([np.zeros(0), *flat])


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise UnsupportedError(
            f"pure_callback of `{name}` has no derivative: Python is not recorded there; wrap the "
            "call in a function with tj.custom_vjp (or custom_jvp) that says what it is"
        )

    return refuse


def _operation(call: _Call, key: Any) -> _PythonOperation:
    with _lock:
        operation = _known.get(key)
        if operation is None:
            number = next(_numbers)
            refuse = _refused(call.name)
            floats = any(dtype.kind == "f" for dtype in call.spec.dtypes)
            operation = carry(
                _PythonOperation(
                    f"{call.name}#python{number}", None if floats else (), vjp=refuse, jvp=refuse,
                    lowering="python_call", call=call, number=number,
                )
            )  # fmt: skip
            user.register_python(number, call)
            _known[key] = operation
    return operation


def pure_callback(f: Callable[..., Any], result_shape: Any, *args: Any) -> Any:
    """Call a Python function from a tape.

    Parameters
    ----------
    f
        Any function of arrays: its result may depend on its arguments only.  It is called with
        NumPy arrays at each replay, in the thread that replays, holding the global lock.
    result_shape
        The shape of its result, a tuple (of float64), or an array or anything else with ``shape``
        and ``dtype`` to tell shape and dtype by; or a pytree of those.
    args
        Its arguments: pytrees of arrays and numbers, traced or not.

    Returns
    -------
    The result of ``f``, traced where an argument is.

    Raises
    ------
    UnsupportedError
        Where it is differentiated: a derivative rule comes from :func:`custom_vjp` or
        :func:`custom_jvp` around it.
    RuleError
        Where ``f`` returns another structure or shape than ``result_shape`` says.

    Notes
    -----
    An exception in ``f`` reaches the caller of the compiled function as it is, and the compiled
    function stays usable.

    Examples
    --------
    >>> import math, numpy as np, tapejit as tj
    >>> @tj.custom_vjp
    ... def gamma(x):
    ...     return tj.pure_callback(math.lgamma, (), x)
    >>> from scipy.special import digamma
    >>> gamma.defvjp(
    ...     lambda x: (gamma(x), x),
    ...     lambda x, g: (g * tj.pure_callback(digamma, (), x),),
    ... )
    >>> bool(abs(tj.grad(gamma)(3.0) - 0.92278434) < 1e-8)
    True
    """
    if not callable(f):
        raise TypeError(f"pure_callback expects a function, got {type(f).__name__}")
    spec = _Spec(result_shape)
    leaves, structure = pytrees.flatten(args)
    enter = entrance(tuple(leaves))
    if enter is not None:
        run = functools.partial(_called, f, spec, structure)
        return pytrees.unflatten(spec.structure, enter(run, run, tuple(leaves), {}))
    return pytrees.unflatten(spec.structure, _called(f, spec, structure, *leaves))


def _called(f: Callable[..., Any], spec: _Spec, structure: Any, *leaves: Any) -> list[Any]:
    """Leaves of the result at leaves of the arguments."""
    if not any(is_traced(leaf) for leaf in leaves):
        arrays = [np.asarray(leaf) for leaf in leaves]
        call = _Call(f, structure, spec, (), tuple(array.dtype for array in arrays))
        return _result(spec, call.run(arrays))
    rec = recorder_of(*[leaf for leaf in leaves if is_traced(leaf)])
    operands = [lift(rec, leaf) for leaf in leaves]
    values = [np.asarray(value_of(operand)) for operand in operands]
    shapes = tuple(value.shape for value in values)
    dtypes = tuple(value.dtype for value in values)
    call = _Call(f, structure, spec, shapes, dtypes)
    key = (id(f), structure, shapes, tuple(d.str for d in dtypes), spec.key())
    operation = _operation(call, key)
    flat = np.zeros(spec.size) if sampling() else operation.call.run(values)
    value = flat if len(spec.shapes) != 1 else flat.reshape(spec.shapes[0])
    packed = record(rec, operation.name, operands, value[()], (operation,))
    return _result(spec, packed)


def _result(spec: _Spec, packed: Any) -> list[Any]:
    """The result's leaves from its packed parts, in the dtypes that the user gave."""
    if len(spec.shapes) == 1:
        parts = [packed.reshape(spec.shapes[0])] if isinstance(packed, np.ndarray) else [packed]
    else:
        parts = unpacked(packed, spec.shapes)
    typed = [
        part if dtype.kind == "f" else part.astype(dtype)
        for part, dtype in zip(parts, spec.dtypes, strict=True)
    ]
    return [part[()] if isinstance(part, np.ndarray) else part for part in typed]
