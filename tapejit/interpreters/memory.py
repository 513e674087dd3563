"""Raw memory as typed arrays, the same source compiled and as plain Python.

Kernels and interpreters receive addresses (plain integers), so that a Program is arrays and
integers only.  Every function here exists twice with one meaning: an ``@overload`` or
``@intrinsic`` that Numba compiles to a pointer cast, and a plain Python body (``ctypes``) with
which the tests run the very same kernels uncompiled.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, overload, register_jitable

#: Plain-Python twins of compiled kernels, by the address that stands for them in a kernel table.
python_kernels: dict[int, Callable[[int, int], int]] = {}


#: Views of "as long as it is" (UNTILED) are cut to this many items in plain Python.
_LONGEST = 1 << 40


def _view(address: int, n: int, ctype: type, dtype: type) -> np.ndarray:
    if n == 0:
        return np.empty(0, dtype)
    n = min(n, _LONGEST)
    return np.frombuffer((ctype * n).from_address(int(address)), dtype, n)


def f64(address: int, n: int) -> np.ndarray:
    """``n`` doubles at ``address``."""
    return _view(address, n, ctypes.c_double, np.float64)


def i32(address: int, n: int) -> np.ndarray:
    """``n`` 32-bit integers at ``address``."""
    return _view(address, n, ctypes.c_int32, np.int32)


def u32(address: int, n: int) -> np.ndarray:
    """``n`` unsigned 32-bit integers at ``address``: indices that need no wrap-around."""
    return _view(address, n, ctypes.c_uint32, np.uint32)


def i64(address: int, n: int) -> np.ndarray:
    """``n`` 64-bit integers at ``address``."""
    return _view(address, n, ctypes.c_int64, np.int64)


def _pointer_to(numba_type: types.Type) -> Callable:
    @intrinsic
    def pointer(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(numba_type)(types.int64), codegen

    return pointer


_f64_pointer = _pointer_to(types.float64)
_i32_pointer = _pointer_to(types.int32)
_i64_pointer = _pointer_to(types.int64)
_u32_pointer = _pointer_to(types.uint32)


@overload(f64, inline="never")
def _f64(address, n):
    return lambda address, n: carray(_f64_pointer(address), n)


@overload(i32, inline="never")
def _i32(address, n):
    return lambda address, n: carray(_i32_pointer(address), n)


@overload(u32, inline="never")
def _u32(address, n):
    return lambda address, n: carray(_u32_pointer(address), n)


@overload(i64, inline="never")
def _i64(address, n):
    return lambda address, n: carray(_i64_pointer(address), n)


@register_jitable
def operand(context: np.ndarray, words: np.ndarray, at: int) -> int:
    """Address of the operand (space, offset) that stands at word ``at`` of an instruction."""
    space = words[at]
    return context[space & 255] + 8 * (np.int64(words[at + 1]) + (space >> 8) * context[0])


@register_jitable
def tile(context: np.ndarray, count: int) -> int:
    """How many of ``count`` elements the current tile holds."""
    return min(count - context[0], context[1])


_KERNEL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


def call_now(function: int, context: int, instruction: int) -> int:
    """Call one kernel from Python, without the GIL."""
    if function in python_kernels:
        return python_kernels[function](context, instruction)
    return _KERNEL(function)(context, instruction)


def call_kernel(function: int, context: int, instruction: int) -> int:
    """Call the kernel at address ``function``; returns its status (0: done)."""
    return python_kernels[int(function)](context, instruction)


@intrinsic
def _call_address(typingctx, function, context, instruction):
    def codegen(cgctx, builder, signature, args):
        int64 = ir.IntType(64)
        callee = builder.inttoptr(args[0], ir.FunctionType(int64, [int64, int64]).as_pointer())
        return builder.call(callee, [args[1], args[2]])

    return types.int64(types.int64, types.int64, types.int64), codegen


@overload(call_kernel, inline="never")
def _call_kernel(function, context, instruction):
    return lambda function, context, instruction: _call_address(function, context, instruction)
