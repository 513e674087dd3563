"""Users' functions as kernels: compiled ones, and calls back into Python.

A user's kernel is a plain function of NumPy arrays; what stands around it unpacks an instruction
into arrays and is written here, for each combination of dimensions.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numba.core import serialize
from numba.extending import register_jitable

from .layout import CONTEXT_WORDS, DONE, OPERATION_ERROR, PYTHON_ERROR
from .memory import f64, i32, i64, operand

__all__ = [
    "PYTHON_CALL",
    "digest",
    "functions",
    "kernel_for",
    "python_call",
    "python_call_address",
    "raise_python",
    "register_python",
]

#: Users' kernels by name, for the table of kernels.
functions: dict[str, Callable[[int, int], int]] = {}

# --- compiled kernels -----------------------------------------------------------------------------


def digest(*functions: Callable[..., Any] | None) -> str:
    """Hash of functions' code and of what they close over, the same in each process."""
    return _hash([_identity(function) for function in functions])[:12]


def _hash(parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _identity(function: Any) -> Any:
    python = getattr(function, "py_func", function)
    code = getattr(python, "__code__", None)
    if code is None:  # None, or another callable: told apart by what it is
        return None if function is None else (type(function).__name__, _pickled(function))
    cells = tuple(
        _identity(cell.cell_contents)
        if callable(cell.cell_contents)
        else _pickled(cell.cell_contents)
        for cell in python.__closure__ or ()
    )
    defaults = _pickled((python.__defaults__, python.__kwdefaults__))
    return _code_identity(code), cells, defaults


def _code_identity(code: Any) -> tuple:
    constants = [_code_identity(c) if inspect.iscode(c) else repr(c) for c in code.co_consts]
    return code.co_code.hex(), constants, code.co_names


def _pickled(value: Any) -> str:
    try:
        return hashlib.sha256(serialize.dumps(value)).hexdigest()
    except Exception:  # cannot be pickled: new in each process
        return f"object {id(value)}"


def kernel_for(
    name: str, function: Callable[..., Any], ndims: Sequence[int], cleared: Sequence[bool]
) -> str:
    """The name of the kernel that calls ``function`` on arrays of these dimensions.

    Parameters
    ----------
    cleared
        Which arrays are set to zero before the call.

    Notes
    -----
    Words, for each array: space, offset, shape.
    """
    full = f"{name}:{'-'.join(map(str, ndims))}"
    if full not in functions:
        functions[full] = _wrapped(full, function, ndims, cleared)
    return full


def _wrapped(
    name: str, function: Callable[..., Any], ndims: Sequence[int], cleared: Sequence[bool]
) -> Callable[[int, int], int]:
    n_words = sum(2 + n for n in ndims)
    lines = [
        "def kernel(ctx, ins):",
        "    c = i64(ctx, CONTEXT_WORDS)",
        f"    p = i32(ins, {n_words})",
    ]
    at = 0
    for i, (ndim, clear) in enumerate(zip(ndims, cleared, strict=True)):
        dims = [f"int64(p[{at + 2 + d}])" for d in range(ndim)]
        lines.append(f"    flat = f64(operand(c, p, {at}), {' * '.join(dims) or '1'})")
        if clear:
            lines += ["    for k in range(flat.size):", "        flat[k] = 0.0"]
        shape = f"({', '.join(dims)}{',' if dims else ''})"
        lines.append(f"    a{i} = flat.reshape({shape})")
        at += 2 + ndim
    call = ", ".join(f"a{i}" for i in range(len(ndims)))
    lines += [
        "    try:",
        f"        user({call})",
        "    except Exception:",
        "        return OPERATION_ERROR",
        "    return DONE",
    ]
    python = getattr(function, "py_func", function)
    names = {
        "CONTEXT_WORDS": CONTEXT_WORDS, "DONE": DONE, "OPERATION_ERROR": OPERATION_ERROR,
        "f64": f64, "i32": i32, "i64": i64, "int64": np.int64, "operand": operand,
        "user": register_jitable(python), "__name__": python.__module__,
    }  # fmt: skip
    # The code counts as the user's file: the cache compiles it anew when that changes.
    exec(compile("\n".join(lines), python.__code__.co_filename, "exec"), names)
    kernel = names["kernel"]
    kernel.__qualname__ = name
    # Typed into an interactive session: no file tells when it changes, so that it is not kept.
    kernel.transient = python.__code__.co_filename.startswith("<")
    return kernel


# --- calls of Python ------------------------------------------------------------------------------


class PythonCall(Protocol):
    """What a call of Python runs."""

    shapes: tuple[tuple[int, ...], ...]
    size: int

    def run(self, arguments: list[np.ndarray]) -> np.ndarray:
        """The results, packed into one flat array."""


PYTHON_CALL = "python_call"
_calls: weakref.WeakValueDictionary[int, PythonCall] = weakref.WeakValueDictionary()
_raised = threading.local()


def register_python(number: int, call: PythonCall) -> None:
    """Have the instructions of ``number`` run ``call`` as long as it lives."""
    _calls[number] = call


def python_call(ctx: int, ins: int) -> int:
    """Words: number, result, operands (contiguous).  Runs Python; the caller needs no GIL.

    An exception is kept for the thread that sweeps, and stops the sweep.
    """
    try:
        c = i64(ctx, CONTEXT_WORDS)
        call = _calls[int(i32(ins, 1)[0])]
        p = i32(ins, 3 + 2 * len(call.shapes))
        arguments = []
        for k, shape in enumerate(call.shapes):
            n = int(np.prod(shape, dtype=np.int64))
            source = f64(int(operand(c, p, 3 + 2 * k)), n)
            arguments.append(source.copy().reshape(shape))
        f64(int(operand(c, p, 1)), call.size)[:] = call.run(arguments)
    except BaseException as error:  # KeyboardInterrupt too belongs to the caller
        _raised.error = error
        return PYTHON_ERROR
    return DONE


_trampoline = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(python_call)


def python_call_address() -> int:
    """Address of :func:`python_call` as a C function, which takes the GIL itself."""
    return ctypes.cast(_trampoline, ctypes.c_void_p).value


def raise_python(status: int) -> None:
    """Raise the exception of a call of Python, if that is what stopped this thread's sweep."""
    if status == PYTHON_ERROR:
        raise _raised.__dict__.pop("error")
