"""Tracers: the values that a function is recorded with.

Each carries the concrete value and its place on the tape.  An :class:`ArrayTracer`'s value is a
NumPy view of its cell's storage, laid out as on the tape: NumPy itself computes every slice,
reshape and transpose, and decides where a copy is due.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import TraceError
from ..interpreters.layout import GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE, WRITE
from ..ops.rules import ALIASES
from ..ops.table import OPS, Elementwise
from ..tape import ARRAY, SCALAR, View, row_major
from .recorder import Recorder, where_am_i

__all__ = [
    "ArrayTracer", "Cell", "ScalarTracer", "Tracer", "apply", "entrance", "is_traced", "value_of",
]  # fmt: skip

#: Level of what stands for the recording of values that nothing is recorded of.
NO_LEVEL = -3

_float64 = np.float64
_get_ident = threading.get_ident
_getframe = sys._getframe


@functools.cache
def _protocol() -> Any:
    """The module of NumPy's protocols, which builds on this one."""
    from . import protocol

    return protocol


class Tracer:
    """A traced value.

    ``enter(ours, theirs, args, kwargs)``, of classes that have it, is how a function of such values
    is called from outside of a recording: ``ours`` records, ``theirs`` computes.
    """

    __slots__ = ("rec", "value")
    enter: Callable[..., Any] | None = None
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _protocol().array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _protocol().array_function(func, args, kwargs)

    def __rule__(self, name: str, args: tuple) -> Any:
        if name == "condition":  # a comparison is its own truth value
            return args[0]
        return apply(RULE_OPS[name], *args)

    # --- what would freeze the value --------------------------------------------------------

    def __float__(self) -> float:
        raise TraceError(
            f"{where_am_i()}: float() of a traced value would freeze it; use NumPy's functions "
            "(np.sin(x), not math.sin(x)), int(x) where a branch is meant; and where it is written "
            "into a plain NumPy array (`out[i] = traced`), make that array with np.zeros_like(x) "
            "or tapejit.numpy.zeros"
        )

    def __complex__(self) -> complex:
        raise TraceError(
            f"{where_am_i()}: complex() of a traced value would freeze it; complex numbers are "
            "not supported: keep real and imaginary parts as two real arrays"
        )

    def __str__(self) -> str:
        return f"Traced({self.value})"

    def __repr__(self) -> str:
        return f"Traced({self.value!r})"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __copy__(self) -> Tracer:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> Tracer:
        return self.copy()

    def item(self, *index: Any) -> Any:
        """The element itself, still traced."""
        return self.reshape(-1)[index[0] if index else 0] if self.ndim else self

    def tolist(self) -> Any:
        """Nested lists of traced scalars."""
        return [part.tolist() for part in self] if self.ndim else self

    # No __getattr__: a class that has one reads all its attributes the slow way.

    @property
    def dtype(self) -> np.dtype:
        """NumPy dtype of the value."""
        return self.value.dtype

    @property
    def real(self) -> Tracer:
        """The value: traced values are real."""
        return self

    @property
    def imag(self) -> Tracer:
        """Zero."""
        return self * 0.0

    def conj(self) -> Tracer:
        """The value: traced values are real."""
        return self

    conjugate = conj


class ScalarTracer(Tracer):
    """A traced 0-d value: immutable, as ``numpy.float64`` is.

    ``element`` is its address in the scalar region or in an array buffer; ``version`` counts the
    recording's in-place writes when it was read.
    """

    __slots__ = ("element", "version")

    shape = ()
    ndim = 0
    size = 1

    @property
    def T(self) -> ScalarTracer:
        """The value."""
        return self

    def copy(self) -> ScalarTracer:
        """The value: scalars are immutable."""
        return self

    @property
    def view(self) -> View:
        """Its place, as a 0-d view."""
        element = current_element(self)
        if element < ARRAY:
            return View(SCALAR, element, (), ())
        return self.rec.place_of(element)

    def __bool__(self) -> bool:
        outcome = bool(self.value)
        guard(self, outcome)
        return outcome

    def __index__(self) -> int:
        if self.value.dtype.kind not in "iub":
            raise TraceError(
                f"{where_am_i()}: a traced float is used as an integer; write int(x) to branch on "
                "its integer part"
            )
        return self.__int__()

    def __int__(self) -> int:
        whole = self if self.value.dtype.kind in "iu" else apply(OPS["trunc"], self)
        result = int(self.value)
        rec = self.rec
        rec.emit(GUARD_EQUAL, 0, current_element(whole), rec.constant(float(result)))
        rec.count_guard()
        return result

    def __trunc__(self) -> int:
        return self.__int__()

    def __floor__(self) -> int:
        return int(apply(OPS["floor"], self))

    def __ceil__(self) -> int:
        return int(apply(OPS["ceil"], self))

    def __round__(self, digits: int | None = None) -> Any:
        rounded = apply(OPS["rint"], self)
        if digits is None:
            return int(rounded)
        scale = 10.0**digits
        return apply(OPS["rint"], self * scale) / scale


class Cell:
    """Mutable storage shared by an array and its views.

    ``buffer`` is its place on the tape of ``rec``; an argument's cell moves to a private buffer at
    the first write.  ``storage`` is a C-contiguous array with the current values; ``memory`` counts
    the changes of storage that several tensors share, ``synced`` is its count when the tape's
    values were last those of the storage (see :mod:`tapejit.tensors.memory`).
    """

    __slots__ = ("buffer", "is_argument", "memory", "rec", "storage", "synced")

    def __init__(
        self, buffer: int, storage: np.ndarray, is_argument: bool = False,
        rec: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.buffer = buffer
        self.storage = storage
        self.is_argument = is_argument
        self.rec = rec
        self.memory: Any = None

    @property
    def address(self) -> int:
        """Where the storage lies in memory."""
        return self.storage.__array_interface__["data"][0]

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return self.storage.nbytes


class ArrayTracer(Tracer):
    """A traced array of one or more dimensions."""

    __slots__ = ("_place", "cell")

    def __init__(self, rec: Recorder, value: np.ndarray, cell: Cell) -> None:
        self.rec = rec
        self.value = value
        self.cell = cell
        self._place: View | None = None

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TraceError(
            f"{where_am_i()}: a traced array of shape {self.shape} would be frozen into a plain "
            "NumPy array here (np.asarray, np.array, a NumPy function that tapejit cannot "
            "intercept, or `out[i] = traced` where out is a plain array); build arrays with "
            "np.stack, np.concatenate, np.zeros_like(x) or tapejit.numpy.zeros / .array instead"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """NumPy shape."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.value.size

    @property
    def T(self) -> ArrayTracer:
        """The transpose, a view."""
        return as_view(self, lambda a: a.T)

    @property
    def mT(self) -> ArrayTracer:
        """The matrix transpose of the last two axes, a view."""
        return as_view(self, lambda a: a.mT)

    @property
    def flat(self) -> ArrayTracer:
        """The elements in C order."""
        return self.reshape(-1)

    @property
    def view(self) -> View:
        """Its place on the tape."""
        cell, place = self.cell, self._place
        if place is not None and place.buffer == cell.buffer:
            return place
        value = self.value
        if value is cell.storage:
            place = View(cell.buffer, 0, value.shape, row_major(value.shape))
        else:
            size = value.itemsize
            address = value.__array_interface__["data"][0]
            offset = (address - cell.address) // size if value.size else 0
            strides = tuple([s // size for s in value.strides])
            place = View(cell.buffer, offset, value.shape, strides)
        self._place = place
        return place

    def copy(self, order: str = "C") -> ArrayTracer:
        """A new array with the same values."""
        from .inner import copied_here

        return copied_here(self)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self.value)))

    def __bool__(self) -> bool:
        if self.size != 1:
            bool(self.value)  # NumPy's own error
        return bool(self.reshape(-1)[0])

    def __int__(self) -> int:
        if self.size != 1:
            int(self.value)
        return int(self.reshape(-1)[0])

    def __index__(self) -> int:
        return operator.index(self.value)  # NumPy's own error

    def __getitem__(self, index: Any) -> Any:
        if type(index) is int:
            value = self.value[index]
            if type(value) is not np.ndarray:
                return element_of(self, value, (index,))
            return self.rec.array_type(self.rec, value, self.cell)
        from .indexing import getitem

        return getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        from .indexing import setitem

        setitem(self, index, value)


# --- making tracers -------------------------------------------------------------------------------


def scalar_tracer(rec: Recorder, value: Any, element: int) -> ScalarTracer:
    """A scalar at ``element``."""
    tracer = rec.scalar_type()
    tracer.rec = rec
    tracer.value = value
    tracer.element = element
    tracer.version = rec.writes
    return tracer


def element_of(array: ArrayTracer, value: Any, index: tuple[int, ...]) -> ScalarTracer:
    """The scalar that stands at ``index``: its own address, no instruction."""
    view = array.view
    offset = view.offset
    for i, n, stride in zip(index, view.shape, view.strides, strict=True):
        offset += (i + n if i < 0 else i) * stride
    rec = array.rec
    base = rec.buffers[view.buffer].base
    if base < 0:
        return scalar_tracer(rec, value, rec.constant(value))
    return scalar_tracer(rec, value, ARRAY + base + offset)


def new_array(rec: Recorder, value: np.ndarray) -> ArrayTracer:
    """A tracer for a new buffer that holds ``value``."""
    value = np.ascontiguousarray(value)
    cell = Cell(rec.buffer(value.size), value, False, rec)
    return rec.array_type(rec, value, cell)


def new_result(rec: Recorder, value: Any) -> Tracer:
    """A tracer for the result of an array instruction, 0-d results in the scalar region."""
    if getattr(value, "ndim", 0) == 0:
        if type(value) is np.ndarray:
            value = value[()]
        return scalar_tracer(rec, value, rec.scalar())
    return new_array(rec, value)


def record(rec: Recorder, op: str, operands: list, value: Any, params: tuple = ()) -> Tracer:
    """Append an array instruction; ``operands`` are tracers or constants."""
    rec.check_use()
    views = [view_of(rec, operand) for operand in operands]
    result = new_result(rec, value)
    rec.call(op, tuple(views), result.view, params)
    return result


def view_of(rec: Recorder, operand: Any) -> View:
    """The place of a tracer or constant of this recording."""
    if isinstance(operand, Tracer):
        return operand.view
    array = np.asarray(operand)
    if array.ndim == 0:
        return View(SCALAR, rec.constant(array[()]), (), ())
    if array.size and not any(array.strides):  # a broadcast constant
        number = rec.constant(array.flat[0])
        return View(SCALAR, number, array.shape, (0,) * array.ndim)
    return rec.array_constant(operand if isinstance(operand, np.ndarray) else array)


def current_element(tracer: ScalarTracer) -> int:
    """Where the scalar's value stands now, after in-place writes to what it was read from."""
    rec = tracer.rec
    element = tracer.element
    if element >= ARRAY and tracer.version != rec.writes:
        element = rec.resolve(element, tracer.version)
        tracer.element = element
        tracer.version = rec.writes
    return element


def copied(array: ArrayTracer) -> ArrayTracer:
    """A contiguous copy in a new buffer."""
    return record(array.rec, "copy", [array], array.value.copy(order="C"))


def pinned(tracer: Tracer) -> Tracer:
    """The traced value as it is now: at its place on the tape, its value out of reach of writes."""
    if not isinstance(tracer, ArrayTracer):
        return tracer
    view, value = tracer.view, np.array(tracer.value, order="C")
    copy = tracer.rec.array_type(tracer.rec, value, Cell(view.buffer, value))
    copy._place = view
    return copy


def as_view(array: ArrayTracer, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """``function(array)`` without an instruction where NumPy makes a view, else with a copy."""
    array.rec.check_use()
    result = function(array.value)
    if type(result) is not np.ndarray:
        return function(array.value)
    if result.size == 0 or _within(result, array.cell):
        return array.rec.array_type(array.rec, result, array.cell)
    duplicate = copied(array)
    return array.rec.array_type(array.rec, function(duplicate.value), duplicate.cell)


def _within(value: np.ndarray, cell: Cell) -> bool:
    address = value.__array_interface__["data"][0]
    return cell.address <= address < cell.address + cell.nbytes


# --- classification -------------------------------------------------------------------------------


def entrance(values: Any) -> Callable[..., Any] | None:
    """The ``enter`` of the first of these values that has one (see :class:`Tracer`)."""
    for value in values:
        if isinstance(value, Tracer):
            if value.enter is not None:
                return value.enter
        elif type(value) in (list, tuple):
            found = entrance(value)
            if found is not None:
                return found
    return None


def is_traced(value: Any) -> bool:
    """Whether a value is, or holds (object arrays, lists, tuples), a tracer."""
    return _recorder_of(value) is not None


def _recorder_of(value: Any) -> Recorder | None:
    if isinstance(value, Tracer):
        rec = value.rec
        return rec if rec.level != NO_LEVEL else None
    parts: Any = ()
    if type(value) in (list, tuple):
        parts = value
    elif isinstance(value, np.ndarray) and value.dtype == object:
        parts = value.flat
    found = None
    for part in parts:
        rec = _recorder_of(part)
        if rec is not None and (found is None or rec.level > found.level):
            found = rec
    return found


def recorder_of(*values: Any) -> Recorder:
    """The innermost recording among the tracers in ``values``, checked to be usable here."""
    rec = None
    for value in values:
        found = value.rec if isinstance(value, Tracer) else _recorder_of(value)
        if found is not None and (rec is None or found.level > rec.level):
            rec = found
    assert rec is not None, "no traced value"
    rec.check_use()
    return rec


def value_of(value: Any) -> Any:
    """The concrete value of a tracer, anything else as it is."""
    return value.value if isinstance(value, Tracer) else value


def lift(rec: Recorder, value: Any) -> Any:
    """``value`` as an operand of ``rec``: a tracer of it, or a NumPy constant."""
    if isinstance(value, Tracer):
        return value if value.rec is rec else rec.capture(value)
    nested = type(value) in (list, tuple) or (
        isinstance(value, np.ndarray) and value.dtype == object
    )
    if nested and _recorder_of(value) is not None:
        return from_objects(rec, value)
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    return checked(array)


def checked(array: np.ndarray) -> np.ndarray:
    """A constant array of real numbers, or a clear error."""
    kind = array.dtype.kind
    if kind in "fiub":
        return array
    if kind == "c":
        raise TraceError(
            f"{where_am_i()}: complex values (shape {array.shape}) are not supported; keep real "
            "and imaginary parts as two real arrays"
        )
    raise TraceError(
        f"{where_am_i()}: an array of dtype {array.dtype} (shape {array.shape}) cannot take part "
        "in a traced computation; convert it to float64 first"
    )


def from_objects(rec: Recorder, value: Any) -> Tracer:
    """A traced array from nested lists or an object array of tracers and numbers."""
    if isinstance(value, Tracer):
        return lift(rec, value)
    if isinstance(value, np.ndarray):
        parts = list(value) if value.ndim else [value[()]]
        if value.ndim == 0:
            return lift(rec, parts[0])
    else:
        parts = list(value)
    from .functions import stack

    return stack([lift(rec, part) for part in parts])


# --- guards ---------------------------------------------------------------------------------------


def guard(tracer: ScalarTracer, outcome: bool) -> None:
    """Record that a condition held."""
    rec = tracer.rec
    rec.check_use()
    rec.emit(GUARD_TRUE if outcome else GUARD_FALSE, 0, current_element(tracer))
    rec.count_guard()


# --- elementwise operations -----------------------------------------------------------------------


def apply(op: Elementwise, *args: Any) -> Any:
    """Record an elementwise operation on tracers and constants, with NumPy's broadcasting."""
    rec = recorder_of(*args)
    operands = [
        arg if isinstance(arg, Tracer) and arg.rec is rec else lift(rec, arg) for arg in args
    ]
    value = op.reference(*[x.value if isinstance(x, Tracer) else x for x in operands])
    if type(value) is not np.ndarray or value.ndim == 0:
        return _apply_scalar(rec, op, operands, value)
    shape = value.shape
    views = []
    for operand in operands:
        view = operand.view if isinstance(operand, Tracer) else view_of(rec, operand)
        views.append(view if view.shape == shape else broadcast(view, shape))
    result = new_array(rec, value)
    rec.call(op.name, tuple(views), result.view)
    return result


def _apply_scalar(rec: Recorder, op: Elementwise, operands: list, value: Any) -> ScalarTracer:
    if type(value) is np.ndarray:
        value = value[()]
    elements = [
        current_element(operand)
        if isinstance(operand, ScalarTracer)
        else rec.constant(float(operand))
        for operand in operands
    ]
    out = rec.scalar()
    rec.emit(op.code, out, *elements)
    return scalar_tracer(rec, value, out)


def broadcast(view: View, shape: tuple[int, ...]) -> View:
    """The view stretched to ``shape`` by strides of zero."""
    lead = len(shape) - len(view.shape)
    strides = [0] * lead
    for n, m, stride in zip(view.shape, shape[lead:], view.strides, strict=True):
        strides.append(0 if n == 1 and m != 1 else stride)
    return View(view.buffer, view.offset, shape, tuple(strides))


def write_scalar(rec: Recorder, target: int, source: int) -> None:
    """Overwrite an element in place; its former value goes to a save slot."""
    save = rec.scalar()
    rec.emit(WRITE, save, target, source)
    rec.note_element_write(target, save)


def write_region(rec: Recorder, target: View, source: View) -> None:
    """Overwrite a region in place; its former values go to a save buffer."""
    save = View(rec.buffer(target.size), 0, target.shape, row_major(target.shape))
    rec.call("write", (source, target), save)
    rec.note_region_write(target, save)


# --- operators ------------------------------------------------------------------------------------


def scalar_operator(
    op: Elementwise, function: Callable, swap: bool, cls: type, general: Callable
) -> Callable:
    """An operator method of ``cls``: a short path for scalars, ``general`` for everything else.

    The short path is for two values of one recording that goes on here and now: its ``home`` is
    this thread, and its ``limit`` is not reached.
    """
    code = op.code
    new = cls.__new__

    def method(self: ScalarTracer, other: Any) -> Any:
        if type(other) is cls:
            rec = self.rec
            if other.rec is rec:
                y = other.value
                b = other.element
                if b >= ARRAY:
                    b = current_element(other)
            else:
                return general(op, other, self) if swap else general(op, self, other)
        elif type(other) is float or type(other) is int or type(other) is _float64:
            rec = self.rec
            y = other
            b = -1
        elif isinstance(other, (Tracer, np.ndarray, np.generic, int, float)):
            return general(op, other, self) if swap else general(op, self, other)
        else:
            return NotImplemented
        value = function(y, self.value) if swap else function(self.value, y)
        if (
            type(value) is not _float64
            or rec.n_scalars >= rec.limit
            or rec.home.ident != _get_ident()
        ):
            return general(op, other, self) if swap else general(op, self, other)
        a = self.element
        if a >= ARRAY:
            a = current_element(self)
        if b < 0:
            b = rec.constant(y)
        out = rec.n_scalars
        rec.n_scalars = out + 1
        rec.code.extend((code, out, b, a, 0) if swap else (code, out, a, b, 0))
        frame = _getframe(1)
        rec.codes.append(frame.f_code)
        rec.offsets.append(frame.f_lasti)
        result = new(cls)
        result.rec = rec
        result.value = value
        result.element = out
        result.version = 0
        return result

    return method


def _general(op: Elementwise, swap: bool = False) -> Callable:
    """An operator method that always takes :func:`apply`."""

    def method(self: Tracer, other: Any) -> Any:
        if not _is_operand(other):
            return NotImplemented
        return apply(op, other, self) if swap else apply(op, self, other)

    return method


def _bitwise(op: str, swap: bool = False) -> Callable:
    """``&``, ``|``, ``^``: of truth values; NumPy's bitwise operations of integers have no rule."""
    ufunc = getattr(np, op.replace("logical", "bitwise"))

    def method(self: Tracer, other: Any) -> Any:
        if not _is_operand(other):
            return NotImplemented
        return ufunc(other, self) if swap else ufunc(self, other)

    return method


def _is_operand(other: Any) -> bool:
    return isinstance(other, (Tracer, np.ndarray, np.generic, int, float, complex, list, tuple))


def _power(self: Tracer, other: Any) -> Any:
    """``self ** other``; small constant exponents as NumPy does them, without ``pow``."""
    if isinstance(other, (int, float, np.integer, np.floating)) and self.dtype.kind == "f":
        simple = _POWERS.get(float(other))
        if simple is not None:
            return simple(self)
    elif not _is_operand(other):
        return NotImplemented
    from .functions import power

    return power(self, other)


def _reflected_power(self: Tracer, other: Any) -> Any:
    from .functions import power

    return power(other, self) if _is_operand(other) else NotImplemented


def _fourth(x: Tracer) -> Tracer:
    squared = apply(OPS["square"], x)
    return apply(OPS["square"], squared)


_POWERS: dict[float, Callable[[Tracer], Any]] = {
    2.0: lambda x: apply(OPS["square"], x),
    1.0: lambda x: x.copy(),
    0.5: lambda x: apply(OPS["sqrt"], x),
    -1.0: lambda x: apply(OPS["reciprocal"], x),
    3.0: lambda x: apply(OPS["mul"], apply(OPS["square"], x), x),
    4.0: _fourth,
    -2.0: lambda x: apply(OPS["reciprocal"], apply(OPS["square"], x)),
}


def _inplace(name: str) -> Callable:
    def method(self: ArrayTracer, other: Any) -> Any:
        result = getattr(self, name)(other)
        if result is NotImplemented:
            return result
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
            raise TraceError(
                f"{where_am_i()}: in-place operation would cast {result.dtype} to {self.dtype}"
            )
        from .indexing import replace

        replace(self, result)
        return self

    return method


def _divmod(self: Tracer, other: Any) -> Any:
    return self // other, self % other


def _matmul(self: Tracer, other: Any) -> Any:
    from .functions import matmul

    return matmul(self, other) if _is_operand(other) else NotImplemented


def _rmatmul(self: Tracer, other: Any) -> Any:
    from .functions import matmul

    return matmul(other, self) if _is_operand(other) else NotImplemented


#: Operators with a short path for scalars, and their operations.
ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div"}


def _install_operators() -> None:
    for name, op in ARITHMETIC.items():
        function = getattr(operator, name)
        for prefix, swap in (("", False), ("r", True)):
            method = scalar_operator(OPS[op], function, swap, ScalarTracer, apply)
            setattr(ScalarTracer, f"__{prefix}{name}__", method)
    others = {"floordiv": "floor_divide", "mod": "remainder"}
    for name, op in {"and": "logical_and", "or": "logical_or", "xor": "logical_xor"}.items():
        setattr(Tracer, f"__{name}__", _bitwise(op))
        setattr(Tracer, f"__r{name}__", _bitwise(op, swap=True))
    for cls, names in ((ArrayTracer, {**ARITHMETIC, **others}), (ScalarTracer, others)):
        for name, op in names.items():
            setattr(cls, f"__{name}__", _general(OPS[op]))
            setattr(cls, f"__r{name}__", _general(OPS[op], swap=True))
    comparisons = {
        "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
        "eq": "equal", "ne": "not_equal",
    }  # fmt: skip
    for name, op in comparisons.items():
        setattr(Tracer, f"__{name}__", _general(OPS[op]))
    Tracer.__pow__ = _power
    Tracer.__rpow__ = _reflected_power
    Tracer.__neg__ = lambda self: apply(OPS["neg"], self)
    Tracer.__pos__ = lambda self: self.copy()
    Tracer.__abs__ = lambda self: apply(OPS["abs"], self)
    Tracer.__invert__ = lambda self: np.invert(self)
    Tracer.__divmod__ = _divmod
    Tracer.__matmul__ = _matmul
    Tracer.__rmatmul__ = _rmatmul
    for name in (
        "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
    ):  # fmt: skip
        setattr(ArrayTracer, f"__i{name}__", _inplace(f"__{name}__"))


_install_operators()
Recorder.scalar_type, Recorder.array_type = ScalarTracer, ArrayTracer

#: The operation behind each name of the rule vocabulary.
RULE_OPS: dict[str, Elementwise] = {
    **OPS,
    **{alias: OPS[name] for alias, name in ALIASES.items()},
}
