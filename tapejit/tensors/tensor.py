"""Tensors: values that are computed at once and record what computed them."""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import TraceError
from ..ops.table import OPS
from ..recording import protocol, shapes
from ..recording.indexing import getitem
from ..recording.recorder import where_am_i
from ..recording.tracer import (
    ArrayTracer,
    Cell,
    ScalarTracer,
    Tracer,
    apply,
    element_of,
    is_traced,
)
from ..tape import Tape, View
from . import pytorch, short
from .backward import backward, graph_tape
from .changes import (
    assigned,
    check_in_place,
    check_kind,
    in_place,
    in_place_function,
    recorded_assignment,
    replace_number,
    tensors_among,
    with_out,
)
from .enter import (
    Tensor,
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
from .methods import COPYING, UNRECORDED, install, recorder_of
from .pieces import LEAF, NOWHERE, Piece

__all__ = ["ArrayTensor", "ScalarTensor", "Tensor", "tensor"]

_float64 = np.dtype(np.float64)
_sum = np.sum
_short_ufunc = short.UFUNCS.get
_short_unary, _short_binary, _short_element = short.unary, short.binary, short.element
_short_scalars, _short_total = short.scalars, short.total


def tensor(data: Any, requires_grad: bool = False, dtype: Any = None) -> Any:
    """A tensor: an array that records what is computed of it.

    Parameters
    ----------
    data
        A number, an array or nested lists, copied.  Floats become float64; integers and truth
        values stay what they are, and cannot require a gradient.
    requires_grad
        Whether ``backward`` is to compute a gradient with respect to it.
    dtype
        What to convert the data to first: ``float``, ``int``, ``bool``; floats become float64.

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
    if dtype is not None:
        value = _data(value.astype(dtype))
    if requires_grad and value.dtype.kind != "f":
        raise TraceError(
            f"{where_am_i()}: only tensors of floats can require a gradient, this one has dtype "
            f"{value.dtype}; write its elements as floats (3.0), or convert it: dtype=float"
        )
    rec = LEAF if requires_grad else NOWHERE
    if value.ndim:
        result = ArrayTensor(rec, value)
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
            return in_place_function(ours, getattr(ufunc, method), inputs, kwargs, "ufunc.at")
        theirs = ufunc if method == "__call__" else getattr(ufunc, method)
        return with_out(ours, theirs, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is _sum and not kwargs and len(args) == 1:
            result = _short_total(args[0])
            if result is not None:
                return result
        if func in COPYING:
            return in_place_function(recorder_of(func), func, args, kwargs, f"np.{func.__name__}")
        if func in UNRECORDED:
            return plain(func, args, kwargs, [])
        return with_out(recorder_of(func), func, args, kwargs)

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
        self._grad, self.hooks = self.grad, getattr(self, "hooks", None)
        if self.ndim:
            if rec is not self.rec:  # other views of the same data stay what they are
                self.cell = detached_cell(self)
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
        try:
            return self._grad
        except AttributeError:  # of most results: it is not set before it is needed
            return None

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            is_given = isinstance(value, Tensor) and value.dtype.kind == "f"
            value = value if is_given else tensor(value, dtype=float)
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
        check_kind(self, value, "an assignment to data")
        if self.ndim == 0:
            replace_number(self, value[()], "an assignment to data")
        else:
            self.value[...] = value
            changed(self.cell, "an assignment to data", where_am_i())

    def register_hook(self, hook: Callable[[Any], Any]) -> Any:
        """Call ``hook(gradient)`` when this tensor's gradient is known; a result replaces it.

        On a view of another tensor (an element, a part, a transpose) call it where the view is
        made, before anything is computed of it: the view becomes a copy, with a gradient of its
        own.

        Returns
        -------
        Handle
            ``handle.remove()`` takes the hook away.
        """
        from .hooks import register

        return register(self, hook)

    def retain_grad(self) -> None:
        """Have ``backward`` keep the gradient of this result in ``grad``, as it does for leaves.

        On a view: as for :meth:`register_hook`.
        """
        from .hooks import retain

        retain(self)

    @property
    def retains_grad(self) -> bool:
        """Whether it is a result whose gradient ``backward`` keeps."""
        from .hooks import is_retained

        return is_retained(self)

    @property
    def grad_fn(self) -> Any:
        """The operation that computed it and its place in the code; ``None`` of leaves."""
        from .hooks import origin

        return origin(self)

    @property
    def device(self) -> str:
        """Tensors live in memory, as NumPy's arrays do."""
        return "cpu"

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

    def numel(self) -> int:
        """Number of elements."""
        return self.size

    def dim(self) -> int:
        """Number of dimensions."""
        return self.ndim

    def __float__(self) -> float:
        if self.rec is not NOWHERE and local.state.enabled and _is_stored(sys._getframe(1)):
            raise TraceError(
                f"{where_am_i()}: a plain NumPy array would take the number of a tensor that "
                "requires a gradient, without its graph; make the array a tensor "
                "(out = tj.tensor(np.zeros(n))), or store x.item()"
            )
        return float(self.value)

    def __complex__(self) -> complex:
        return complex(self.value)

    def __bool__(self) -> bool:
        _look()
        return bool(self.value)

    def __int__(self) -> int:
        _look()
        return int(self.value)

    __trunc__ = __int__

    def __index__(self) -> int:
        _look()
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
        return assigned(self, value, "fill_")

    def copy_(self, source: Any) -> Any:
        """Take over another's elements, in place."""
        return assigned(self, source, "copy_")

    def add_(self, other: Any, *, alpha: Any = 1) -> Any:
        """``self += alpha * other``."""
        return in_place(self, pytorch.times(alpha, other), "__add__", operator.add, "add_")

    def sub_(self, other: Any, *, alpha: Any = 1) -> Any:
        """``self -= alpha * other``."""
        return in_place(self, pytorch.times(alpha, other), "__sub__", operator.sub, "sub_")

    def mul_(self, other: Any) -> Any:
        """``self *= other``."""
        return in_place(self, other, "__mul__", operator.mul, "mul_")

    def div_(self, other: Any) -> Any:
        """``self /= other``."""
        return in_place(self, other, "__truediv__", operator.truediv, "div_")


def _is_stored(frame: Any) -> bool:
    """Whether a frame is at ``array[index] = value``, where NumPy asks for a number."""
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["STORE_SUBSCR"]


class ScalarTensor(_Shared, ScalarTracer):
    """A 0-d tensor; results are immutable, leaves change in place under ``no_grad``.

    ``last_change``: what changed it in place, and where.
    """

    __slots__ = ("__weakref__", "_grad", "hooks", "last_change")

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
        assigned(self, value, "an assignment")

    def __len__(self) -> int:
        raise TypeError("len() of a 0-d tensor")

    def __iter__(self) -> Iterator:
        raise TypeError("iteration over a 0-d tensor")


def _tuple(index: Any) -> tuple:
    return index if type(index) is tuple else (index,)


class ArrayTensor(_Shared, ArrayTracer):
    """A tensor of one or more dimensions.

    Most results are never viewed, written or captured: their cell is made when it is first asked
    for.  Until then the tensor is all of its storage, in the buffer ``_place`` of ``_piece``.
    """

    __slots__ = ("__weakref__", "_cell", "_grad", "_piece", "hooks")

    def __init__(self, rec: Any, value: np.ndarray, cell: Cell | None = None) -> None:
        self.value = value
        self._piece = rec if cell is None else None
        self._cell = cell
        self._place = None

    @property
    def cell(self) -> Cell:  # type: ignore[override]
        """Its storage."""
        cell = self._cell
        if cell is None:
            place = self._place
            buffer = -1 if place is None else place.buffer
            cell = self._cell = Cell(buffer, self.value, False, self._piece)
            self._piece = None
        return cell

    @cell.setter
    def cell(self, cell: Cell) -> None:
        self._cell, self._piece = cell, None

    @property
    def rec(self) -> Any:
        """The piece that its storage stands in; ``NOWHERE`` without a graph."""
        cell = self._cell
        return self._piece if cell is None else cell.rec

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
            if is_traced(index):  # in the body of a staged loop
                return _method(self, getitem, operator.getitem, index)
            return wrap_item(self, self.value[unwrapped(index)])
        if type(index) is int:
            value = self.value[index]  # and NumPy's own errors
            if self.rec is LEAF:
                result = _short_element(self, index)
                if result is not None:
                    return result
            elif type(value) is not np.ndarray and self.cell.memory is None:
                return element_of(self, value, (index,))
        return _method(self, getitem, operator.getitem, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        check_in_place(self, "an assignment")
        index = unwrapped(index)
        if local.state.enabled and requires_grad([self, *tensors_among((value,))]):
            recorded_assignment(self, index, value)
        else:
            self.value[index] = unwrapped(value)
            changed(self.cell, "an assignment", where_am_i())


def wrap_item(array: Any, item: Any) -> Any:
    """An element or part of a tensor's values, without a graph."""
    if type(item) is np.ndarray:
        return wrap(item, (array,))
    return new_scalar(item)


def _look() -> None:
    """A value decides something: what a function records, if one is being recorded."""
    piece = local.state.inside
    if piece is not None:
        piece.looked = True


def _method(self: Any, ours: Callable, theirs: Callable, *args: Any) -> Any:
    return enter(ours, theirs, (self, *args), {})


install(_Shared, ScalarTensor, ArrayTensor)
Piece.scalar_type, Piece.array_type = ScalarTensor, ArrayTensor
short.install(ScalarTensor, ArrayTensor)
