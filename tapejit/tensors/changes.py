"""In-place changes of tensors: recorded, or plain and counted, or refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import TraceError
from ..recording.indexing import setitem
from ..recording.recorder import user_frame, where_am_i
from ..recording.tracer import ArrayTracer, ScalarTracer
from .enter import Tensor, enter, plain, requires_grad, tensors_in, unwrapped
from .grad_mode import local
from .memory import changed
from .pieces import NOWHERE, piece_for

__all__ = [
    "assigned",
    "check_in_place",
    "check_kind",
    "in_place",
    "in_place_function",
    "recorded_assignment",
    "replace_number",
    "tensors_among",
    "with_out",
]


def check_in_place(tensor: Any, operation: str) -> None:
    """Raise where a tensor may not be changed in place without recording it."""
    if isinstance(tensor, ScalarTracer):
        if tensor.rec.level == -1:
            raise TraceError(
                f"{where_am_i()}: {operation} on a 0-d result, which is immutable as NumPy's "
                "numbers are; assign it: x = x + 1"
            )
    elif tensor.rec.level == -1 and not local.state.enabled:
        raise TraceError(
            f"{where_am_i()}: {operation} inside of no_grad on a tensor with a graph: the graph "
            "would no longer describe its values; change x.detach().clone(), or record the change"
        )
    is_view = tensor.ndim > 0 and not tensor.value.flags.writeable
    if is_view and tensor.rec.level == -1 and not tensor.cell.is_argument:
        raise TraceError(
            f"{where_am_i()}: {operation} in place on a view whose gradient is looked at "
            "(register_hook, retain_grad), and which is a copy therefore; change what it is a view "
            "of before the hook is registered, or a copy: x.clone()"
        )
    if is_view or (local.state.enabled and tensor.is_root):
        what = "a (read-only) view of a leaf" if is_view else "a leaf"
        raise TraceError(
            f"{where_am_i()}: {operation} in place on {what} that requires a gradient; do it "
            "inside of `with tj.no_grad():` (a parameter's update), or on a copy: x.clone()"
        )


def tensors_among(values: Any) -> list:
    """The tensors in values."""
    return tensors_in(values, [])


def recorded_assignment(target: Any, index: Any, value: Any) -> None:
    """Record ``target[index] = value``."""

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
        piece = piece_for(local.state, tensors_among((*args, *kwargs.values())))
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


def assigned(target: Any, value: Any, operation: str) -> Any:
    """``target[...] = value``."""
    check_in_place(target, operation)
    if target.ndim:
        target[...] = value
        return target
    found = tensors_among((value,))
    if local.state.enabled and requires_grad(found):
        raise TraceError(
            f"{where_am_i()}: {operation} of a value with a graph on a 0-d tensor; assign it: "
            "x = value"
        )
    replace_number(target, unwrapped(value), operation)
    return target


def replace_number(target: Any, value: Any, operation: str) -> None:
    """Change a 0-d tensor in place; it keeps its dtype."""
    target.value = np.asarray(value).astype(target.value.dtype)[()]
    frame = user_frame()
    target.last_change = operation, f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_kind(target: Any, value: Any, operation: str) -> None:
    """Raise where a change in place would make integers of floats, and the like."""
    if not np.can_cast(np.asarray(value).dtype, target.value.dtype, "same_kind"):
        raise TypeError(
            f"{where_am_i()}: {operation} would store {np.asarray(value).dtype} in a tensor of "
            f"{target.value.dtype}; convert it first: x.astype(float)"
        )


def in_place(target: Any, other: Any, name: str, function: Callable, operation: str) -> Any:
    """``target = target op other`` in place; a 0-d result binds anew, as NumPy's numbers do."""
    if target.ndim == 0:
        if target.rec.level == -1:
            return function(target, other)
        if local.state.enabled and requires_grad(tensors_among((other,))) and not target.is_root:
            return function(target, other)
    check_in_place(target, operation)
    found = tensors_among((target, other))
    if target.ndim == 0:
        result = function(target.value, unwrapped(other))
        check_kind(target, result, operation)
        replace_number(target, result, operation)
        return target
    if local.state.enabled and requires_grad(found):
        ours = getattr(ArrayTracer, f"__i{name[2:]}")
        _record_change(target, ours, (target, other), {}, operation)
        return target
    ufunc = getattr(operator, f"i{name[2:-2]}")
    ufunc(target.value, unwrapped(other))
    changed(target.cell, operation, where_am_i())
    return target


def with_out(ours: Callable, theirs: Callable, args: tuple, kwargs: dict) -> Any:
    """A function that may have tensors as ``out``."""
    out = kwargs.get("out")
    if out is None:
        return enter(ours, theirs, args, kwargs)
    targets = tensors_among(out if type(out) is tuple else (out,))
    for target in targets:
        check_in_place(target, "out=")
    found = tensors_among((*args, *kwargs.values()))
    if not local.state.enabled or not requires_grad(found):
        plain(theirs, args, kwargs, found)
        for target in targets:
            changed(target.cell, "out=", where_am_i())
        return out if type(out) is not tuple or len(out) > 1 else out[0]
    if len(targets) != 1:
        raise TraceError(
            f"{where_am_i()}: out= (or an operation in place, as a += x) takes a tensor where "
            "tensors that require gradients come in, not a NumPy array; assign the result: "
            "a = a + x"
        )
    _record_change(targets[0], ours, args, kwargs, "out=")
    return out if type(out) is not tuple or len(out) > 1 else out[0]


def in_place_function(
    ours: Callable, theirs: Callable, args: tuple, kwargs: dict, name: str
) -> None:
    """A function that writes into its first argument."""
    target = args[0]
    if not isinstance(target, Tensor) or not isinstance(target, ArrayTracer):
        raise TraceError(
            f"{where_am_i()}: {name} of tensors into a plain NumPy array; make it a tensor"
        )
    check_in_place(target, name)
    found = tensors_among((*args, *kwargs.values()))
    if local.state.enabled and requires_grad(found):
        _record_change(target, ours, args, kwargs, name)
        return
    theirs(*[unwrapped(arg) for arg in args], **{k: unwrapped(v) for k, v in kwargs.items()})
    changed(target.cell, name, where_am_i())
