"""Methods of tensors that PyTorch's users reach for, written with NumPy's functions on tensors.

Where NumPy has a method of the same name, that one is meant (``x.repeat``, ``x.var``); PyTorch's
argument names ``dim`` and ``keepdim`` are understood by all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import TraceError
from ..recording.recorder import where_am_i
from ..scipy import special
from .changes import assigned, check_in_place
from .enter import Tensor, rebind, unwrapped, wrap
from .pieces import NOWHERE

__all__ = ["Picked", "install", "renamed", "times"]


class Picked(NamedTuple):
    """Chosen elements and where they stood."""

    values: Any
    indices: Any


def renamed(kwargs: dict[str, Any]) -> dict[str, Any]:
    """NumPy's names of arguments for PyTorch's."""
    for theirs, ours in (("dim", "axis"), ("keepdim", "keepdims")):
        if theirs in kwargs:
            if ours in kwargs:
                raise TypeError(f"{where_am_i()}: {theirs} and {ours} are given: they are the same")
            kwargs[ours] = kwargs.pop(theirs)
    return kwargs


# --- shapes ---------------------------------------------------------------------------------------


def _sizes(sizes: tuple) -> tuple:
    """``(2, 3)`` and ``((2, 3),)`` alike."""
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], (int, Tensor)) else sizes


def expand(x: Any, *sizes: Any) -> Any:
    """Axes of length one stretched to ``sizes``, of which -1 keeps a length: a view."""
    wanted = list(_sizes(sizes))
    lead = len(wanted) - x.ndim
    for i, n in enumerate(wanted):
        if n == -1 and i < lead:
            raise ValueError(f"{where_am_i()}: expand: -1 for axis {i}, which is new")
        wanted[i] = x.shape[i - lead] if n == -1 else n
    return np.broadcast_to(x, tuple(wanted))


def split(x: Any, split_size: int | Sequence[int], dim: int = 0) -> tuple:
    """Parts of ``split_size`` elements (the last may be shorter), or of the sizes given: views."""
    n = x.shape[dim]
    if isinstance(split_size, (int, np.integer)):
        if split_size <= 0:
            raise ValueError(f"{where_am_i()}: split: parts of {split_size} elements")
        places = list(range(split_size, n, split_size))
    else:
        if sum(split_size) != n:
            raise ValueError(f"{where_am_i()}: split: sizes {split_size} for an axis of {n}")
        places = np.cumsum(split_size)[:-1].tolist()
    return tuple(np.split(x, places, dim))


def chunk(x: Any, chunks: int, dim: int = 0) -> tuple:
    """At most ``chunks`` parts of equal size, but for the last: views."""
    return split(x, max(-(-x.shape[dim] // chunks), 1), dim)


def unbind(x: Any, dim: int = 0) -> tuple:
    """The parts along an axis, without it."""
    return tuple(np.moveaxis(x, dim, 0))


def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """``length`` elements of an axis from ``start`` on: a view."""
    if not 0 <= start <= start + length <= x.shape[dim]:
        raise IndexError(
            f"{where_am_i()}: narrow: {length} elements from {start} on, of {x.shape[dim]}"
        )
    return np.moveaxis(np.moveaxis(x, dim, 0)[start : start + length], 0, dim)


def _flatten(numpys: Callable) -> Callable:
    def flatten(x: Any, *args: Any, **kwargs: Any) -> Any:
        """``numpy.ndarray.flatten``; given axes (``flatten(1)``), those made one, as in PyTorch."""
        named = {"start_dim", "end_dim"} & set(kwargs)
        if not named and not any(isinstance(arg, (int, np.integer)) for arg in args):
            return numpys(x, *args, **kwargs)
        start, end = _axes_of_flatten(*args, **kwargs)
        if x.ndim == 0:
            return np.reshape(x, (1,))
        start, end = start % x.ndim, end % x.ndim
        if start > end:
            raise ValueError(f"{where_am_i()}: flatten from axis {start} to axis {end}")
        return np.reshape(x, (*x.shape[:start], -1, *x.shape[end + 1 :]))

    return flatten


def _axes_of_flatten(start_dim: int = 0, end_dim: int = -1) -> tuple[int, int]:
    return start_dim, end_dim


def contiguous(x: Any) -> Any:
    """The tensor itself where its elements lie in C order, else a copy."""
    return x if x.ndim == 0 or x.value.flags.c_contiguous else x.copy()


def unflatten(x: Any, dim: int, sizes: Sequence[int]) -> Any:
    """An axis made several."""
    dim %= x.ndim
    known = int(np.prod([n for n in sizes if n != -1]))
    inner = [x.shape[dim] // known if n == -1 else n for n in sizes]
    return np.reshape(x, (*x.shape[:dim], *inner, *x.shape[dim + 1 :]))


# --- choosing -------------------------------------------------------------------------------------


def gather(x: Any, dim: int, index: Any) -> Any:
    """``np.take_along_axis``; of the other axes the first elements where ``index`` is shorter."""
    dim %= x.ndim
    cut = [slice(None if i == dim else n) for i, n in enumerate(np.shape(index))]
    return np.take_along_axis(x[tuple(cut)], unwrapped(index), dim)


def scatter(x: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy with the elements at ``index`` along an axis replaced by those of ``src``."""
    result, places = x.clone(), _places(x, dim, index)
    result[places] = _corner(src, index)
    return result


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy with ``src`` added at ``index`` along an axis; equal indices count each time."""
    result = x.clone()
    np.add.at(result, _places(x, dim, index), _corner(src, index))
    return result


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    """A copy with parts of ``source`` added to those at ``index`` of an axis."""
    result = x.clone()
    places = (*[slice(None)] * (dim % x.ndim), unwrapped(index))
    np.add.at(result, places, times(alpha, source))
    return result


def _places(x: Any, dim: int, index: Any) -> tuple:
    """What indexes the elements that ``index`` chooses along an axis."""
    index = np.asarray(unwrapped(index))
    places = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    places[dim % x.ndim] = index
    return tuple(places)


def _corner(src: Any, index: Any) -> Any:
    """The part of ``src`` that ``index`` has elements for."""
    return src[tuple(slice(n) for n in np.shape(unwrapped(index)))] if np.ndim(src) else src


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """``value`` where the mask holds."""
    return np.where(mask, value, x)


def _extreme(numpys: Callable) -> Callable:
    """``max`` and ``min``: NumPy's; PyTorch's, with indices, if ``dim`` is named."""
    name = numpys.__name__
    best: Callable = getattr(np, f"arg{name}")

    def method(x: Any, *args: Any, **kwargs: Any) -> Any:
        if "dim" not in kwargs:
            return numpys(x, *args, **kwargs)
        dim, keepdim = kwargs.pop("dim"), kwargs.pop("keepdim", False)
        if args or kwargs:
            raise TypeError(f"{where_am_i()}: {name}(dim=...) takes keepdim besides")
        if x.ndim == 0:
            return Picked(x, best(x))
        indices = np.expand_dims(best(x, axis=dim), dim)
        values = np.take_along_axis(x, unwrapped(indices), dim)
        if keepdim:
            return Picked(values, indices)
        return Picked(np.squeeze(values, dim), np.squeeze(indices, dim))

    method.__doc__ = (
        f"``numpy.ndarray.{name}``; with ``dim=``, as in PyTorch, the pair (values, indices): the "
        "values' gradient goes to the elements at the indices."
    )
    return method


def topk(x: Any, k: int, dim: int = -1, largest: bool = True) -> Picked:
    """The ``k`` largest (or smallest) elements along an axis, in order, and their indices."""
    order = np.argsort(-x.value if largest else x.value, axis=dim, kind="stable")
    indices = np.take(order, np.arange(k), axis=dim)
    return Picked(np.take_along_axis(x, indices, dim), wrap(indices, ()))


def where(x: Any, condition: Any, other: Any) -> Any:
    """``x`` where the condition holds, ``other`` elsewhere."""
    return np.where(condition, x, other)


# --- reductions -----------------------------------------------------------------------------------


def _spread(numpys: Callable) -> Callable:
    """``var`` and ``std``: NumPy's, by n; by n - 1 (PyTorch's default) only where it is said."""
    name = numpys.__name__

    def method(x: Any, *args: Any, **kwargs: Any) -> Any:
        corrected = "unbiased" in kwargs or "correction" in kwargs
        if "unbiased" in kwargs:
            kwargs["ddof"] = int(kwargs.pop("unbiased"))
        if "correction" in kwargs:
            kwargs["ddof"] = kwargs.pop("correction")
        if "dim" in kwargs and not corrected:
            raise TypeError(
                f"{where_am_i()}: {name}(dim=...) divides by n - 1 in PyTorch, NumPy's {name} by "
                "n: say correction=1 or correction=0, or axis= for NumPy's"
            )
        return numpys(x, *args, **kwargs)

    method.__doc__ = f"``numpy.ndarray.{name}``; with PyTorch's ``dim`` say ``correction``, 0 or 1."
    return method


def norm(
    x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False, *,
    p: Any = None, dim: Any = None, keepdim: bool = False,
) -> Any:  # fmt: skip
    """``np.linalg.norm``; with ``p=`` the p-norm of the elements along ``dim``, as in PyTorch."""
    axis, keepdims = dim if axis is None else axis, keepdims or keepdim
    if p is None or p == "fro":
        return np.linalg.norm(x, ord, axis, keepdims)
    if axis is None and not keepdims:
        return np.linalg.norm(np.ravel(x), p)
    if isinstance(axis, int):
        return np.linalg.norm(x, p, axis, keepdims)
    return np.sum(np.abs(x) ** p, axis, keepdims=keepdims) ** (1.0 / p)


def _logsumexp(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return special.logsumexp(x, axis=dim, keepdims=keepdim)


def logdet(x: Any) -> Any:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, logarithm = np.linalg.slogdet(x)
    return logarithm + np.log(sign)


def _equal(x: Any, other: Any) -> bool:
    return bool(np.array_equal(unwrapped(x), unwrapped(other)))


# --- types and devices ----------------------------------------------------------------------------


def to(x: Any, *args: Any, **kwargs: Any) -> Any:
    """The tensor itself, or converted: tensors live in memory, in float64, int64 and bool."""
    for wanted in (*args, *kwargs.values()):
        if isinstance(wanted, Tensor):
            x = x.astype(wanted.dtype)
        elif isinstance(wanted, str) and wanted.split(":")[0] in ("cpu", "cuda", "mps"):
            if wanted != "cpu":
                raise TraceError(f"{where_am_i()}: tensors live in memory only, not on {wanted!r}")
        elif not isinstance(wanted, bool):  # non_blocking, copy
            x = x.astype(np.dtype(wanted))
    return x


def _astype(dtype: Any) -> Callable:
    return lambda x: x if x.dtype == dtype else x.astype(dtype)


def _new(make: Callable) -> Callable:
    def method(x: Any, *args: Any, requires_grad: bool = False) -> Any:
        from .tensor import tensor

        return tensor(make(*args), requires_grad)

    return method


def _detach_in_place(x: Any) -> Any:
    other = x.detach()
    if x.ndim:
        rebind(x, other.cell)
    else:
        x.rec, x.element, x.version = NOWHERE, 0, 0
    x.hooks = None
    return x


# --- the tables -----------------------------------------------------------------------------------


#: PyTorch's names of elementwise functions.
_ELEMENTWISE: dict[str, Callable] = {
    "absolute": np.abs, "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin,
    "asinh": np.arcsinh, "atan": np.arctan, "atanh": np.arctanh, "atan2": np.arctan2,
    "arctan2": np.arctan2, "sgn": np.sign, "rsqrt": lambda x: 1.0 / np.sqrt(x), "sinc": np.sinc,
    "frac": lambda x: x - np.trunc(x), "fix": np.trunc,
    "erf": special.erf, "erfc": special.erfc, "expit": special.expit, "logit": special.logit,
    "sigmoid": special.expit, "relu": lambda x: np.maximum(x, 0.0), "xlogy": special.xlogy,
    "logaddexp2": np.logaddexp2, "add": lambda x, y, *, alpha=1: x + times(alpha, y),
    "sub": lambda x, y, *, alpha=1: x - times(alpha, y), "mul": np.multiply, "div": np.divide,
    "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "true_divide": np.divide, "neg": np.negative, "pow": np.power, "fmod": np.fmod,
    "floor_divide": np.floor_divide, "remainder": np.remainder, "fmax": np.fmax, "fmin": np.fmin,
    "copysign": np.copysign, "nan_to_num": np.nan_to_num,
    "clamp": lambda x, min=None, max=None: np.clip(x, min, max),
    "clamp_min": np.maximum, "clamp_max": np.minimum,
    "lerp": lambda x, end, weight: x + weight * (end - x),
    "addcmul": lambda x, a, b, *, value=1: x + times(value, a * b),
    "addcdiv": lambda x, a, b, *, value=1: x + times(value, a / b),
    "masked_fill": masked_fill,
}  # fmt: skip
_COMPARISONS: dict[str, Callable] = {
    "greater": operator.gt, "greater_equal": operator.ge, "less": operator.lt,
    "less_equal": operator.le, "not_equal": operator.ne, "heaviside": np.heaviside,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "equal": _equal, "isclose": np.isclose, "allclose": np.allclose,
    "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor,
    "is_floating_point": lambda x: x.dtype.kind == "f",
    "is_same_size": lambda x, other: x.shape == other.shape,
}  # fmt: skip
_PRODUCTS: dict[str, Callable] = {
    "mm": np.matmul, "mv": np.matmul, "bmm": np.matmul, "matmul": np.matmul, "inner": np.inner,
    "ger": np.outer, "vdot": np.vdot, "kron": np.kron,
    "cross": lambda x, other, dim=-1: np.cross(x, other, axis=dim), "det": np.linalg.det,
    "slogdet": np.linalg.slogdet, "logdet": logdet,
    "inverse": np.linalg.inv, "cholesky": np.linalg.cholesky, "cov": np.cov,
    "corrcoef": np.corrcoef, "matrix_power": np.linalg.matrix_power,
    "addmm": lambda x, a, b, *, beta=1, alpha=1: times(beta, x) + times(alpha, a @ b),
    "addmv": lambda x, a, b, *, beta=1, alpha=1: times(beta, x) + times(alpha, a @ b),
    "baddbmm": lambda x, a, b, *, beta=1, alpha=1: times(beta, x) + times(alpha, a @ b),
    "addr": lambda x, a, b, *, beta=1, alpha=1: times(beta, x) + times(alpha, np.outer(a, b)),
    "dist": lambda x, other, p=2: norm(x - other, p=p), "norm": norm,
}  # fmt: skip
_SHAPES: dict[str, Callable] = {
    "expand": expand, "expand_as": lambda x, other: np.broadcast_to(x, other.shape),
    "broadcast_to": np.broadcast_to, "split": split, "chunk": chunk, "unbind": unbind,
    "tensor_split": lambda x, sections, dim=0: tuple(np.array_split(x, sections, dim)),
    "narrow": narrow, "unflatten": unflatten,
    "permute": lambda x, *dims: np.transpose(x, _sizes(dims)),
    "view_as": lambda x, other: np.reshape(x, other.shape),
    "reshape_as": lambda x, other: np.reshape(x, other.shape),
    "unsqueeze": lambda x, dim: np.expand_dims(x, dim), "contiguous": contiguous,
    "flip": lambda x, *dims: np.flip(x, _sizes(dims)), "fliplr": np.fliplr, "flipud": np.flipud,
    "roll": lambda x, shifts, dims=None: np.roll(x, shifts, dims), "rot90": np.rot90,
    "movedim": np.moveaxis, "moveaxis": np.moveaxis, "swapdims": np.swapaxes,
    "tile": lambda x, *reps: np.tile(x, _sizes(reps)),
    "repeat_interleave": lambda x, repeats, dim=None: np.repeat(x, repeats, dim),
    "t": np.transpose, "adjoint": lambda x: x.mT, "tril": np.tril, "triu": np.triu,
    "diag": np.diag, "diagflat": np.diagflat,
}  # fmt: skip
_CHOICES: dict[str, Callable] = {
    "gather": gather, "scatter": scatter, "scatter_add": scatter_add, "index_add": index_add,
    "take_along_dim": lambda x, i, dim: np.take_along_axis(x, unwrapped(i), dim),
    "index_select": lambda x, dim, index: np.take(x, unwrapped(index), axis=dim),
    "select": lambda x, dim, index: np.moveaxis(x, dim, 0)[index],
    "masked_select": lambda x, mask: x[mask], "where": where, "topk": topk,
    "argwhere": np.argwhere, "unique": lambda x: np.unique(x),
}  # fmt: skip
_REDUCTIONS: dict[str, Callable] = {
    "amax": lambda x, dim=None, keepdim=False: np.max(x, dim, keepdims=keepdim),
    "amin": lambda x, dim=None, keepdim=False: np.min(x, dim, keepdims=keepdim),
    "softmax": lambda x, dim: special.softmax(x, axis=dim),
    "log_softmax": lambda x, dim: special.log_softmax(x, axis=dim), "logsumexp": _logsumexp,
    "nansum": lambda x, dim=None, keepdim=False: np.nansum(x, dim, keepdims=keepdim),
    "nanmean": lambda x, dim=None, keepdim=False: np.nanmean(x, dim, keepdims=keepdim),
    "quantile": lambda x, q, dim=None, keepdim=False: np.quantile(
        x, unwrapped(q), dim, keepdims=keepdim
    ),
    "count_nonzero": lambda x, dim=None: np.count_nonzero(x, dim),
    "diff": lambda x, n=1, dim=-1: np.diff(x, n, dim),
    "logcumsumexp": lambda x, dim: np.logaddexp.accumulate(x, dim),
}  # fmt: skip
_KINDS: dict[str, Callable] = {
    "to": to, "cpu": lambda x: x, "double": _astype(np.float64), "float": _astype(np.float64),
    "long": _astype(np.int64), "int": _astype(np.int64), "bool": _astype(np.bool_),
    "type_as": to, "nelement": lambda x: x.size, "ndimension": lambda x: x.ndim,
    "detach_": _detach_in_place, "new_tensor": _new(lambda data: data),
    "new_zeros": _new(lambda *sizes: np.zeros(_sizes(sizes))),
    "new_ones": _new(lambda *sizes: np.ones(_sizes(sizes))), "new_full": _new(np.full),
}  # fmt: skip
#: NumPy's methods that also understand PyTorch's arguments: what makes them of NumPy's.
_EXTENDED: dict[str, Callable] = {
    "flatten": _flatten, "max": _extreme, "min": _extreme, "var": _spread, "std": _spread,
}  # fmt: skip
#: Functions whose names with an underscore change the tensor in place.
_IN_PLACE = (
    "abs", "acos", "add", "addcdiv", "addcmul", "addmm", "asin", "atan", "ceil", "clamp",
    "clamp_max", "clamp_min", "clip", "cos", "cosh", "div", "erf", "exp", "exp2", "expm1", "floor",
    "index_add", "lerp", "log", "log10", "log1p", "log2", "masked_fill", "mul", "neg", "negative",
    "pow", "reciprocal", "relu", "remainder", "round", "rsqrt", "scatter", "scatter_add", "sigmoid",
    "sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "tril", "triu", "trunc",
)  # fmt: skip


def times(factor: Any, x: Any) -> Any:
    """``factor * x``, and ``x`` itself for one."""
    return x if isinstance(factor, (int, float)) and factor == 1 else factor * x


def _method(name: str, function: Callable) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = function.__doc__ or f"PyTorch's ``{name}``."
    return method


def _in_place(name: str, function: Callable) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        check_in_place(self, name)
        return assigned(self, function(self, *args, **kwargs), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``{name[:-1]}``, in place."
    return method


def install(shared: type) -> None:
    """Give the base class of tensors these methods."""
    for table in (
        _ELEMENTWISE, _COMPARISONS, _PRODUCTS, _SHAPES, _CHOICES, _REDUCTIONS, _KINDS
    ):  # fmt: skip
        for name, function in table.items():
            setattr(shared, name, _method(name, function))
    for name, extended in _EXTENDED.items():
        setattr(shared, name, _method(name, extended(getattr(shared, name))))
    for name in _IN_PLACE:
        if not hasattr(shared, f"{name}_"):
            setattr(shared, f"{name}_", _in_place(f"{name}_", getattr(shared, name)))
