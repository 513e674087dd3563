"""Arguments and results of compiled functions: leaves, static and traced, in the types of replay.

The one place where a call's arguments are taken apart; every transformation goes through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optree import PyTreeAccessor

from . import pytrees
from .errors import TraceError
from .paths import Path
from .recording.record import Constant
from .recording.recorder import where_am_i
from .recording.tracer import Tracer, is_traced

__all__ = [
    "Function",
    "are_plain",
    "as_argument",
    "as_tuple",
    "collect",
    "describe",
    "hashable",
    "is_static",
    "leaves_of",
    "moving_leaves",
    "normalise",
    "typed",
]

_BY_BOTH = inspect.Parameter.POSITIONAL_OR_KEYWORD
_FLOAT64 = np.dtype(np.float64)
_STATIC = (str, bytes, bool, type(None))


# --- static leaves ------------------------------------------------------------------------------


class _Static:
    """A static argument in a signature: compared by value and type."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Static)
            and type(other.value) is type(self.value)
            and bool(other.value == self.value)
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


def is_static(leaf: Any) -> bool:
    """Whether a leaf of the arguments is compared by value instead of being traced."""
    return isinstance(leaf, (_Static, *_STATIC))


def moving_leaves(leaves: Sequence[Any]) -> list[int]:
    """Positions of the leaves that are traced."""
    return [i for i, leaf in enumerate(leaves) if not is_static(leaf)]


def leaves_of(leaves: list, static: list[bool]) -> list:
    """The static leaves; the others are not kept alive."""
    return [leaf if is_static else None for leaf, is_static in zip(leaves, static, strict=True)]


def hashable(leaf: Any, name: str) -> Any:
    """A static leaf as a part of a signature."""
    value = leaf if isinstance(leaf, _Static) else _Static(leaf)
    try:
        hash(value)
    except TypeError:
        raise TraceError(
            f"`{name}`: a static argument of type {type(value.value).__name__} is not hashable; "
            "pass a tuple instead of a list, or arrays as ordinary arguments"
        ) from None
    return value


# --- traced leaves ------------------------------------------------------------------------------


def normalise(value: Any, name: str, differentiated: bool) -> Any:
    """A leaf of the arguments as float64, int64 or bool; a clear error for anything else."""
    if type(value) is float or type(value) is np.float64:
        return value
    if isinstance(value, Tracer) and value.rec.level < 0 and is_traced(value):
        raise TraceError(
            f"{where_am_i()}: `{name}`: an argument is a tensor that requires a gradient, and what "
            "a traced function computes is not part of its graph; pass x.detach() for the values "
            "alone, or call the Python function itself on the tensor, and backward"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TraceError(
            f"`{name}`: an argument is a masked array (shape {value.shape}); pass its data and its "
            "mask as two arrays"
        )
    array = np.asarray(value)
    kind = array.dtype.kind
    if kind == "f" or (differentiated and kind in "iub"):
        if array.dtype.itemsize > 8:
            raise TraceError(f"`{name}`: {array.dtype} arguments would lose digits; pass float64")
        array = np.ascontiguousarray(array, np.float64) if array.ndim else np.float64(array)
    elif kind in "iu":
        _check_size(array, name)
        array = np.ascontiguousarray(array, np.int64) if array.ndim else np.int64(array)
    elif kind == "b":
        array = np.ascontiguousarray(array) if array.ndim else np.bool_(array)
    elif kind == "c":
        raise TraceError(
            f"`{name}`: an argument is complex (shape {array.shape}); complex numbers are not "
            "supported: pass real and imaginary parts as two real arrays"
        )
    elif kind == "O" and array.ndim and not is_traced(value):
        raise TraceError(
            f"`{name}`: an argument is an object array (shape {array.shape}); "
            "convert it with np.asarray(x, dtype=float)"
        )
    else:
        raise TraceError(
            f"`{name}`: an argument of type {type(value).__name__} (dtype {array.dtype}) is not "
            "numeric; declare it with static_argnums or static_argnames"
        )
    return array


def _check_size(array: np.ndarray, name: str) -> None:
    """Raise where integers are too large for the float64 that replay keeps them in."""
    if array.dtype.itemsize == 8 and array.size:
        largest = max(int(array.max()), -int(array.min()))
        if largest > 2**53:
            raise TraceError(
                f"`{name}`: an integer argument is as large as {largest}; integers beyond 2**53 "
                "would lose digits: declare it with static_argnums or static_argnames"
            )


def as_argument(value: Any) -> Any:
    """A float or an aligned float64 array (of the usual dtype object), for the entry to read."""
    if type(value) is float or type(value) is np.float64:
        return value
    if np.ndim(value) == 0:
        return float(value)
    if (
        type(value) is np.ndarray
        and value.dtype is _FLOAT64
        and value.flags.c_contiguous
        and value.flags.aligned
    ):
        return value
    return np.array(value, _FLOAT64, order="C")


def are_plain(args: Sequence[Any]) -> bool:
    """Whether arguments are arrays and floats, as the short way of a call takes them."""
    return all(type(arg) in (np.ndarray, float, np.float64) for arg in args)


# --- functions ----------------------------------------------------------------------------------


def describe(function: Callable) -> str:
    """A name for messages."""
    return getattr(function, "__qualname__", None) or repr(function)


class Function:
    """A Python function seen at flat leaves: which are traced, which are static.

    The one place where arguments are taken apart; every transformation goes through it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnums: int | Sequence[int] = (),
        static_argnames: str | Sequence[str] = (),
    ) -> None:
        if not callable(function):
            raise TypeError(f"expected a function, got {type(function).__name__}")
        self.function = function
        self.name = describe(function)
        self.static_argnums = as_tuple(static_argnums)
        self.static_argnames = as_tuple(static_argnames)
        if self.static_argnums or self.static_argnames:
            self._complete()

    def _complete(self) -> None:
        """Static parameters are static by position and by name."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):
            return
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, _BY_BOTH)]
        named = tuple(
            positional[n] for n in self.static_argnums if -len(positional) <= n < len(positional)
        )
        self.static_argnums += tuple(
            positional.index(n) for n in self.static_argnames if n in positional
        )
        self.static_argnames += named

    def marked(self, args: tuple) -> tuple:
        """Positional arguments, the static ones wrapped."""
        chosen = self.static_argnums
        if not chosen:
            return args
        n = len(args)
        return tuple(
            _Static(arg) if i in chosen or i - n in chosen else arg for i, arg in enumerate(args)
        )

    def split(self, args: tuple, kwargs: dict) -> tuple[list, Any, list]:
        """(leaves, structure, which leaves are static)."""
        named = {
            key: _Static(value) if key in self.static_argnames else value
            for key, value in kwargs.items()
        }
        leaves, structure = pytrees.flatten((self.marked(args), named))
        return leaves, structure, [is_static(leaf) for leaf in leaves]

    def leaf_names(self, structure: Any) -> list[str]:
        """How the function's own code would write each leaf of (args, kwargs): ``w["bias"]``."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):  # a builtin
            parameters = []
        names = []
        for path in structure.accessors():
            place, argument, *inner = path
            name = str(argument.entry)
            if place.entry == 0:  # positional
                name = _positional_name(parameters, argument.entry)
            names.append(PyTreeAccessor(inner).codify(name))
        return names

    def rebuild(self, structure: Any, leaves: list) -> tuple[tuple, dict]:
        """Arguments from leaves."""
        leaves = [leaf.value if isinstance(leaf, _Static) else leaf for leaf in leaves]
        return pytrees.unflatten(structure, leaves)


def _positional_name(parameters: list[inspect.Parameter], position: int) -> str:
    """The name of a positional argument; x0, x1 ... where the signature is not known."""
    for i, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return f"{parameter.name}[{position - i}]"
        if i == position:
            return parameter.name
    return f"x{position}"


def as_tuple(value: Any) -> tuple:
    """Positions or names: one, or a sequence of them."""
    if isinstance(value, (int, str)):
        return (value,)
    return tuple(value)


# --- results ------------------------------------------------------------------------------------


def collect(path: Path, results: Sequence[Any]) -> Any:
    """The function's result from the tape's outputs."""
    leaves = [
        leaf.value if isinstance(leaf, Constant) else results[leaf]
        for leaf in path.recording.leaves
    ]
    return pytrees.unflatten(path.recording.structure, leaves)


def typed(value: Any, dtype: str) -> Any:
    """A delivered float64 result with the dtype that NumPy would give it."""
    kind = dtype[1]
    if kind == "f":
        return value
    if kind == "b":
        return value != 0.0
    return np.int64(value) if np.ndim(value) == 0 else value.astype(np.int64)
