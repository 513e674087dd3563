"""Tensors: values that are computed at once and record what computed them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import TraceError
from ..ops.table import OPS
from ..recording import protocol, shapes
from ..recording.indexing import getitem, setitem
from ..recording.recorder import where_am_i
from ..recording.tracer import (
    ARITHMETIC,
    ArrayTracer,
    Cell,
    ScalarTracer,
    Tracer,
    apply,
    element_of,
    scalar_operator,
)
from ..tape import Tape, View
from . import short
from .backward import backward, graph_tape
from .enter import (
    Tensor,
    check_in_place,
    detached_cell,
    enter,
    new_scalar,
    new_view,
    plain,
    requires_grad,
    unwrapped,
    wrap,
)
from .grad_mode import local
from .memory import changed
from .pieces import LEAF, NOWHERE, Piece, piece_for

__all__ = ["ArrayTensor", "ScalarTensor", "Tensor", "tensor"]

_float64 = np.dtype(np.float64)
_sum = np.sum
_short_ufunc = short.UFUNCS.get
_short_unary, _short_binary = short.unary, short.binary
_short_scalars, _short_total = short.scalars, short.total

#: Attributes of tensors that are not set before they are needed.
_DEFAULTS: dict[str, Any] = {"_grad": None, "hooks": None}


def tensor(data: Any, requires_grad: bool = False) -> Any:
    """A tensor: an array that records what is computed of it.

    Parameters
    ----------
    data
        A number, an array or nested lists, copied.  Floats become float64; integers and truth
        values stay what they are, and cannot require a gradient.
    requires_grad
        Whether ``backward`` is to compute a gradient with respect to it.

    Returns
    -------
    Tensor
        NumPy functions, operators, methods, indexing and in-place writes work on it as on arrays;
        what is computed of a tensor that requires a gradient requires one, too.

    Raises
    ------
    TraceError
        For data that is not real numbers, and integers with ``requires_grad``.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> x = tj.tensor([0.0, 1.0, 2.0, 3.0], requires_grad=True)
    >>> y = 2 * np.dot(x, x)
    >>> y
    tensor(28., requires_grad=True)
    >>> y.backward()
    >>> x.grad
    tensor([ 0.,  4.,  8., 12.])
    """
    if type(data) is np.ndarray and data.dtype is _float64 and data.ndim:
        value = data.copy()
    else:
        value = _data(data)
    if requires_grad and value.dtype.kind != "f":
        raise TraceError(
            f"{where_am_i()}: only tensors of floats can require a gradient, this one has dtype "
            f"{value.dtype}; write its elements as floats (3.0), or convert it: x.astype(float)"
        )
    rec = LEAF if requires_grad else NOWHERE
    if value.ndim:
        result = ArrayTensor.__new__(ArrayTensor)
        result.value, result.cell, result._place = value, Cell(-1, value, False, rec), None
    else:
        result = new_scalar(value[()])
        result.rec = rec
    result._grad = result.hooks = None
    return result


def _data(data: Any) -> np.ndarray:
    if isinstance(data, Tensor):
        data = data.value
    elif isinstance(data, Tracer):
        raise TraceError(
            f"{where_am_i()}: tj.tensor of a traced value of `{data.rec.name}`; inside of a "
            "recorded function use arrays"
        )
    elif type(data) in (list, tuple) or (type(data) is np.ndarray and data.dtype == object):
        data = unwrapped(data)
    array = np.asarray(data)
    kind = array.dtype.kind
    if kind == "f":
        if array.dtype.itemsize > 8:
            raise TraceError(f"{where_am_i()}: {array.dtype} would lose digits; pass float64")
        return np.array(array, np.float64, order="C")
    if kind in "iu":
        return np.array(array, np.int64, order="C")
    if kind == "b":
        return np.array(array, order="C")
    if kind == "c":
        raise TraceError(
            f"{where_am_i()}: a complex tensor (shape {array.shape}); complex numbers are not "
            "supported: keep real and imaginary parts as two tensors"
        )
    raise TraceError(
        f"{where_am_i()}: tensors hold numbers, got {type(data).__name__} of dtype {array.dtype}"
    )


class _Shared(Tensor):
    """What 0-d tensors and arrays have in common."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        if name in protocol._VALUES:
            return getattr(self.value, name)
        raise AttributeError(f"a tensor has no attribute {name!r}")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not kwargs and method == "__call__":
            op = _short_ufunc(ufunc)
            if op is not None:
                if len(inputs) == 1:
                    result = _short_unary(op, inputs[0])
                else:
                    result = _short_binary(op, *inputs)
                if result is not None:
                    return result

        def ours(*inputs: Any, **kwargs: Any) -> Any:
            return protocol.array_ufunc(ufunc, method, inputs, kwargs)

        if method == "at":
            return _in_place_function(ours, getattr(ufunc, method), inputs, kwargs, "ufunc.at")
        return _with_out(ours, getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is _sum and not kwargs and len(args) == 1:
            result = _short_total(args[0])
            if result is not None:
                return result
        if func in _COPYING:
            return _in_place_function(_recorder_of(func), func, args, kwargs, f"np.{func.__name__}")
        if func in _UNRECORDED:
            return plain(func, args, kwargs, [])
        return _with_out(_recorder_of(func), func, args, kwargs)

    # --- graph ------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether ``backward`` computes a gradient with respect to it, or through it."""
        return self.rec is not NOWHERE

    @property
    def is_root(self) -> bool:
        """Whether it is a leaf that requires a gradient."""
        return self.rec is LEAF

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Have ``backward`` compute a gradient with respect to this leaf, or not.

        Raises
        ------
        TraceError
            For integers, and for results that have a graph.
        """
        if not self.is_leaf:
            if requires_grad:
                return self  # it does
            raise TraceError(
                f"{where_am_i()}: requires_grad can be set on leaves only; x.detach() is one"
            )
        if requires_grad and self.value.dtype.kind != "f":
            raise TraceError(
                f"{where_am_i()}: only tensors of floats can require a gradient, this one has "
                f"dtype {self.value.dtype}; convert it: x.astype(float)"
            )
        rec = LEAF if requires_grad else NOWHERE
        if self.ndim:
            self.cell.rec = rec
        else:
            self.rec = rec
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user, not by an operation that is recorded."""
        return self.rec is NOWHERE or self.rec is LEAF

    @property
    def grad(self) -> Any:
        """The gradient that ``backward`` accumulated: a tensor, ``None`` before."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            value = value if isinstance(value, Tensor) else tensor(value)
            if value.shape != self.shape:
                raise ValueError(
                    f"{where_am_i()}: a gradient of shape {value.shape} for a tensor of shape "
                    f"{self.shape}"
                )
        self._grad = value

    def zero_grad(self) -> None:
        """Forget the gradient: the next ``backward`` starts anew."""
        self._grad = None

    backward = backward

    def tape(self) -> Tape:
        """The part of the tape that this tensor needs, to be printed or drawn.

        Its inputs are the leaves and the data that took part; numbers are together in one.

        Examples
        --------
        >>> import tapejit as tj
        >>> x = tj.tensor([1.0, 2.0], requires_grad=True)
        >>> len((x * x).sum().tape())
        2
        """
        return graph_tape(self)

    def detach(self) -> Any:
        """The same values, in the same memory, without a graph."""
        if self.ndim == 0:
            return new_scalar(self.value)
        return new_view(self.value, detached_cell(self))

    @property
    def data(self) -> Any:
        """The values without a graph; may be assigned."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        value = _data(value)
        if value.shape != self.shape:
            raise ValueError(f"{where_am_i()}: data of shape {value.shape} for shape {self.shape}")
        if self.ndim == 0:
            self.value = value[()]
        else:
            self.value[...] = value
            changed(self.cell, "an assignment to data", where_am_i())

    def register_hook(self, hook: Callable[[Any], Any]) -> Any:
        """Call ``hook(gradient)`` when this tensor's gradient is known; a result replaces it.

        Returns
        -------
        Handle
            ``handle.remove()`` takes the hook away.
        """
        from .hooks import register

        return register(self, hook)

    def retain_grad(self) -> None:
        """Have ``backward`` keep the gradient of this result in ``grad``, as it does for leaves."""
        from .hooks import retain

        retain(self)

    # --- values -----------------------------------------------------------------------------------

    def item(self, *index: Any) -> Any:
        """The number of a tensor of one element, or at an index."""
        return self.value.item(*index) if index else self.value.item()

    def tolist(self) -> Any:
        """Nested lists of numbers."""
        return self.value.tolist()

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array, in the same memory.

        Raises
        ------
        TraceError
            If it requires a gradient: what is computed of the array is not recorded.
        """
        if self.rec is not NOWHERE:
            raise TraceError(
                f"{where_am_i()}: numpy() of a tensor that requires a gradient; NumPy functions "
                "work on the tensor itself, x.detach().numpy() is its values alone"
            )
        return np.asarray(self.value)

    def clone(self) -> Any:
        """A copy that is part of the graph."""
        return self.copy()

    def norm(self, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
        """``np.linalg.norm``."""
        return np.linalg.norm(self, ord, axis, keepdims)

    def numel(self) -> int:
        """Number of elements."""
        return self.size

    def dim(self) -> int:
        """Number of dimensions."""
        return self.ndim

    def view_as(self, other: Any) -> Any:
        """Reshaped like another."""
        return self.reshape(other.shape)

    def permute(self, *axes: int) -> Any:
        """The axes in another order: a view."""
        return np.transpose(self, axes)

    def unsqueeze(self, axis: int) -> Any:
        """With an axis of length one."""
        return np.expand_dims(self, axis)

    def __float__(self) -> float:
        return float(self.value)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    __trunc__ = __int__

    def __index__(self) -> int:
        return operator.index(self.value)

    def __round__(self, digits: int | None = None) -> Any:
        return round(float(self.value)) if digits is None else np.round(self, digits)

    def __floor__(self) -> int:
        return int(np.floor(self.value))

    def __ceil__(self) -> int:
        return int(np.ceil(self.value))

    def __repr__(self) -> str:
        text = np.array2string(np.asarray(self.value), separator=", ", prefix="tensor(")
        dtype = "" if self.value.dtype.kind in "fb" else f", dtype={self.value.dtype}"
        return f"tensor({text}{dtype}{', requires_grad=True' if self.requires_grad else ''})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> Any:
        if not self.is_leaf:
            raise TraceError(
                f"{where_am_i()}: only leaves can be deep-copied; use x.clone() or x.detach()"
            )
        return tensor(self.value, requires_grad=self.is_root)

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise TraceError("only leaves can be pickled; use x.detach()")
        return tensor, (np.asarray(self.value), self.is_root)

    @property
    def real(self) -> Any:
        """The tensor itself: tensors are real."""
        return self

    # --- in place ---------------------------------------------------------------------------------

    def zero_(self) -> Any:
        """Set all elements to zero, in place."""
        return self.fill_(0.0)

    def fill_(self, value: Any) -> Any:
        """Set all elements to one value, in place."""
        return _assigned(self, value, "fill_")

    def copy_(self, source: Any) -> Any:
        """Take over another's elements, in place."""
        return _assigned(self, source, "copy_")

    def add_(self, other: Any) -> Any:
        """``self += other``."""
        return _in_place(self, other, "__add__", operator.add, "add_")

    def sub_(self, other: Any) -> Any:
        """``self -= other``."""
        return _in_place(self, other, "__sub__", operator.sub, "sub_")

    def mul_(self, other: Any) -> Any:
        """``self *= other``."""
        return _in_place(self, other, "__mul__", operator.mul, "mul_")

    def div_(self, other: Any) -> Any:
        """``self /= other``."""
        return _in_place(self, other, "__truediv__", operator.truediv, "div_")


class ScalarTensor(_Shared, ScalarTracer):
    """A 0-d tensor; results are immutable, leaves change in place under ``no_grad``."""

    __slots__ = ("__weakref__", "_grad", "hooks")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Its number; an object array of the tensor itself where a gradient is at stake."""
        if not self.requires_grad or not local.state.enabled:
            return np.array(self.value, dtype, copy=copy)
        if dtype is not None and np.dtype(dtype) != object:
            raise TraceError(
                f"{where_am_i()}: a 0-d tensor that requires a gradient would become a plain "
                "number here; x.item() is its value alone, np.stack makes arrays of tensors"
            )
        result = np.empty((), object)
        result[()] = self
        return result

    def copy(self) -> Any:
        """The same value, as a tensor of its own."""
        return _method(self, lambda x: apply(OPS["positive"], x), lambda x: x)

    @property
    def view(self) -> View:
        """Its place on its piece."""
        return ScalarTracer.view.fget(self)  # type: ignore[attr-defined]

    @property
    def T(self) -> Any:
        """The value."""
        return self

    def __getitem__(self, index: Any) -> Any:
        if index == () or index is Ellipsis:
            return self
        return _method(self, lambda x: shapes.reshape(x, 1)[0:1][(0, *_tuple(index))],
                       lambda x: np.asarray(x)[index])  # fmt: skip

    def __setitem__(self, index: Any, value: Any) -> None:
        if index != () and index is not Ellipsis:
            raise IndexError("too many indices for a 0-d tensor")
        _assigned(self, value, "an assignment")

    def __len__(self) -> int:
        raise TypeError("len() of a 0-d tensor")

    def __iter__(self) -> Iterator:
        raise TypeError("iteration over a 0-d tensor")


def _tuple(index: Any) -> tuple:
    return index if type(index) is tuple else (index,)


class ArrayTensor(_Shared, ArrayTracer):
    """A tensor of one or more dimensions."""

    __slots__ = ("__weakref__", "_grad", "hooks")

    def __init__(self, rec: Any, value: np.ndarray, cell: Cell) -> None:
        self.value = value
        self.cell = cell
        self._place = None

    @property
    def rec(self) -> Any:
        """The piece that its storage stands in; ``NOWHERE`` without a graph."""
        return self.cell.rec

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad and local.state.enabled:
            raise TraceError(
                f"{where_am_i()}: a tensor of shape {self.shape} that requires a gradient would "
                "become a plain NumPy array here (np.asarray, or a function that does not know "
                "tensors); NumPy functions work on the tensor itself, x.detach() is its values "
                "alone; build arrays of tensors with np.stack or np.concatenate"
            )
        return np.array(self.value, dtype, copy=copy)

    def copy(self, order: str = "C") -> Any:
        """A copy that is part of the graph."""
        return _method(self, lambda x: ArrayTracer.copy(x), lambda x: x.copy())

    @property
    def T(self) -> Any:
        """The transpose, a view."""
        return _method(self, lambda x: shapes.transpose(x), lambda x: x.T)

    @property
    def mT(self) -> Any:
        """The matrix transpose of the last two axes, a view."""
        return _method(self, lambda x: shapes.matrix_transpose(x), lambda x: x.mT)

    @property
    def flat(self) -> Any:
        """The elements in C order."""
        return self.reshape(-1)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self.value)))

    def __getitem__(self, index: Any) -> Any:
        if not local.state.enabled or not self.requires_grad:
            return wrap_item(self, self.value[unwrapped(index)])
        if type(index) is int and self.rec is not LEAF:
            value = self.value[index]
            if type(value) is not np.ndarray and self.cell.memory is None:
                return element_of(self, value, (index,))
        return _method(self, getitem, operator.getitem, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        check_in_place(self, "an assignment")
        index = unwrapped(index)
        if local.state.enabled and requires_grad([self, *_tensors((value,))]):
            _recorded_assignment(self, index, value)
        else:
            self.value[index] = unwrapped(value)
            changed(self.cell, "an assignment", where_am_i())


def _tensors(values: Any) -> list:
    from .enter import tensors_in

    return tensors_in(values, [])


def wrap_item(array: Any, item: Any) -> Any:
    """An element or part of a tensor's values, without a graph."""
    if type(item) is np.ndarray:
        return wrap(item, (array,))
    return new_scalar(item)


def _recorded_assignment(target: Any, index: Any, value: Any) -> None:
    def ours(target: Any, value: Any) -> None:
        setitem(target, index, value)

    _record_change(target, ours, (target, value), {}, "an assignment")


def _record_change(
    target: Any, ours: Callable, args: tuple, kwargs: dict[str, Any], operation: str
) -> None:
    """Record a function that writes into ``target``."""
    cell = target.cell
    before = cell.rec, cell.buffer, cell.is_argument
    if cell.rec is NOWHERE:
        piece = piece_for(local.state, _tensors((*args, *kwargs.values())))
        cell.rec, cell.buffer, cell.is_argument = piece, piece.enter_copy(cell.storage), True

    def record(*args: Any, **kwargs: Any) -> None:
        ours(*args, **kwargs)

    try:
        enter(record, record, args, kwargs)
    except BaseException:
        cell.rec, cell.buffer, cell.is_argument = before
        raise
    changed(cell, operation, where_am_i())
    if cell.memory is not None:
        cell.synced = cell.memory.version


def _assigned(target: Any, value: Any, operation: str) -> Any:
    """``target[...] = value``."""
    check_in_place(target, operation)
    if target.ndim:
        target[...] = value
        return target
    found = _tensors((value,))
    if local.state.enabled and requires_grad(found):
        raise TraceError(
            f"{where_am_i()}: {operation} of a value with a graph on a 0-d tensor; assign it: "
            "x = value"
        )
    target.value = np.float64(unwrapped(value))
    return target


def _in_place(target: Any, other: Any, name: str, function: Callable, operation: str) -> Any:
    """``target = target op other`` in place; a 0-d result binds anew, as NumPy's numbers do."""
    if target.ndim == 0:
        if target.rec.level == -1:
            return function(target, other)
        if local.state.enabled and requires_grad(_tensors((other,))) and not target.is_root:
            return function(target, other)
    check_in_place(target, operation)
    found = _tensors((target, other))
    if target.ndim == 0:
        target.value = np.float64(function(target.value, unwrapped(other)))
        return target
    if local.state.enabled and requires_grad(found):
        ours = getattr(ArrayTracer, f"__i{name[2:]}")
        _record_change(target, ours, (target, other), {}, operation)
        return target
    ufunc = getattr(operator, f"i{name[2:-2]}")
    ufunc(target.value, unwrapped(other))
    changed(target.cell, operation, where_am_i())
    return target


def _method(self: Any, ours: Callable, theirs: Callable, *args: Any) -> Any:
    return enter(ours, theirs, (self, *args), {})


# --- functions ------------------------------------------------------------------------------------

_UNRECORDED = {
    np.zeros_like, np.ones_like, np.empty_like, np.array_equal, np.array_equiv, np.allclose,
    np.isclose, np.shape, np.ndim, np.size, np.array_repr, np.array_str, np.array2string,
    np.argmax, np.argmin, np.argsort, np.argpartition, np.nonzero, np.flatnonzero, np.argwhere,
    np.searchsorted, np.digitize, np.count_nonzero, np.all, np.any, np.unique, np.result_type,
    np.can_cast, np.common_type, np.min_scalar_type, np.may_share_memory, np.shares_memory,
    np.iscomplexobj, np.isrealobj, np.save, np.savez, np.savetxt, np.isin,
    np.histogram, np.bincount,
}  # fmt: skip
_COPYING = {np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}


def _recorder_of(func: Any) -> Callable:
    def ours(*args: Any, **kwargs: Any) -> Any:
        return protocol.array_function(func, args, kwargs)

    return ours


def _with_out(ours: Callable, theirs: Callable, args: tuple, kwargs: dict) -> Any:
    """A function that may have tensors as ``out``."""
    out = kwargs.get("out")
    if out is None:
        return enter(ours, theirs, args, kwargs)
    targets = _tensors(out if type(out) is tuple else (out,))
    for target in targets:
        check_in_place(target, "out=")
    found = _tensors((*args, *kwargs.values()))
    if not local.state.enabled or not requires_grad(found):
        return plain(theirs, args, kwargs, found)
    if len(targets) != 1:
        raise TraceError(
            f"{where_am_i()}: out= (or an operation in place, as a += x) takes a tensor where "
            "tensors that require gradients come in, not a NumPy array; assign the result: "
            "a = a + x"
        )
    _record_change(targets[0], ours, args, kwargs, "out=")
    return out if type(out) is not tuple or len(out) > 1 else out[0]


def _in_place_function(
    ours: Callable, theirs: Callable, args: tuple, kwargs: dict, name: str
) -> None:
    """A function that writes into its first argument."""
    target = args[0]
    if not isinstance(target, ArrayTensor):
        raise TraceError(
            f"{where_am_i()}: {name} of tensors into a plain NumPy array; make it a tensor"
        )
    check_in_place(target, name)
    found = _tensors((*args, *kwargs.values()))
    if local.state.enabled and requires_grad(found):
        _record_change(target, ours, args, kwargs, name)
        return
    theirs(*[unwrapped(arg) for arg in args], **{k: unwrapped(v) for k, v in kwargs.items()})
    changed(target.cell, name, where_am_i())


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


def _comparison(function: Callable) -> Callable:
    def method(self: Any, other: Any) -> Any:
        return plain(function, (self, other), {}, [])

    return method


def _in_place_operator(name: str) -> Callable:
    function = getattr(operator, {"and": "and_", "or": "or_"}.get(name, name))

    def method(self: Any, other: Any) -> Any:
        return _in_place(self, other, f"__{name}__", function, f"{name}=")

    return method


def _swapped(function: Callable) -> Callable:
    return lambda a, b: function(b, a)


def _install_operators() -> None:
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(_Shared, f"__{name}__", _comparison(getattr(operator, name)))
    for name, op in ARITHMETIC.items():
        function = getattr(operator, name)
        for prefix, swap in (("", False), ("r", True)):
            short = scalar_operator(OPS[op], function, swap, ScalarTensor, general)
            setattr(ScalarTensor, f"__{prefix}{name}__", short)
            base = getattr(ArrayTracer, f"__{prefix}{name}__")
            theirs = _swapped(function) if swap else function
            setattr(ArrayTensor, f"__{prefix}{name}__", _arithmetic(OPS[op], swap, base, theirs))
    for name in ("floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
        function = getattr(operator, {"and": "and_", "or": "or_"}.get(name, name))
        for cls, tracer in ((ScalarTensor, ScalarTracer), (ArrayTensor, ArrayTracer)):
            for prefix, swap in (("", False), ("r", True)):
                base = getattr(tracer, f"__{prefix}{name}__")
                theirs = _swapped(function) if swap else function
                setattr(cls, f"__{prefix}{name}__", _operator(base, theirs))
    for name in ("neg", "abs", "invert", "pos"):
        base, function = getattr(Tracer, f"__{name}__"), getattr(operator, name)
        setattr(_Shared, f"__{name}__", _unary(base, function))
    _Shared.__divmod__ = lambda self, other: (self // other, self % other)  # type: ignore
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
    ):  # fmt: skip
        setattr(_Shared, f"__i{name}__", _in_place_operator(name))


def _install_methods() -> None:
    for name, ours in protocol._BOTH.items():
        if name in _VALUE_METHODS:
            continue
        setattr(_Shared, name, _bound(ours, operator.methodcaller, name))
    for name in _VALUE_METHODS:
        setattr(_Shared, name, _of_values(name))
    for name in _NUMPY_METHODS:
        setattr(_Shared, name, _numpy_method(getattr(np, name)))
    for name, function in _TORCH_METHODS.items():
        setattr(_Shared, name, _numpy_method(function))
    for name in ("fill", "sort", "partition", "put"):
        setattr(ArrayTensor, name, _writing(protocol._ARRAYS[name], name))


def _bound(ours: Callable, caller: Callable, name: str) -> Callable:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        def theirs(value: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(value, name)(*args, **kwargs)

        return _with_out(ours, theirs, (self, *args), kwargs)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``numpy.ndarray.{name}``."
    return method


#: Methods whose results are not differentiable: computed, not recorded.
_VALUE_METHODS = ("any", "all", "argmax", "argmin", "argsort", "nonzero", "searchsorted",
                  "argpartition")  # fmt: skip
_NUMPY_METHODS = (
    "exp", "log", "log1p", "expm1", "log2", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh",
    "sqrt", "square", "abs", "sign", "floor", "ceil", "arctan", "arcsin", "arccos", "reciprocal",
    "maximum", "minimum", "arctan2", "hypot", "logaddexp", "outer", "where", "rint", "trunc",
    "cbrt", "exp2", "arcsinh", "arccosh", "arctanh", "isnan", "isfinite", "isinf", "rad2deg",
    "deg2rad", "degrees", "radians", "fabs", "negative", "positive", "conjugate", "logical_not",
)  # fmt: skip


def _sigmoid(x: Any) -> Any:
    from ..scipy.special import expit

    return enter(expit, _scipy_expit, (x,), {})


def _scipy_expit(x: Any) -> Any:
    from scipy.special import expit

    return expit(x)


_TORCH_METHODS: dict[str, Callable] = {
    "mm": np.matmul, "matmul": np.matmul, "mv": np.matmul, "pow": np.power, "clamp": np.clip,
    "relu": lambda x: np.maximum(x, 0.0), "sigmoid": _sigmoid,
    "inner": np.inner, "eq": np.equal, "t": np.transpose, "det": np.linalg.det,
    "inverse": np.linalg.inv, "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "div": np.divide, "neg": np.negative,
}  # fmt: skip


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

        return plain(theirs, (self, *args), kwargs, [])

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``numpy.ndarray.{name}``: not differentiable, and not recorded."
    return method


def _writing(ours: Callable, name: str) -> Callable:
    def theirs(value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, name)(*args, **kwargs)

    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        _in_place_function(ours, theirs, (self, *args), kwargs, name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"``numpy.ndarray.{name}``, in place."
    return method


_install_operators()
_install_methods()
Piece.scalar_type, Piece.array_type = ScalarTensor, ArrayTensor
short.install(ScalarTensor, ArrayTensor)
