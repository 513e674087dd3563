"""The way from Python into the interpreters: one compiled call that binds, sweeps and delivers.

Arguments and results are read straight from their CPython objects (``id`` is the address): the
type, dtype, shape and contiguity of each array are compared with what the program expects, and
anything else makes the call return ``ARGUMENT_CHANGED`` with nothing done, for Python to sort out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba.extending import register_jitable

from .layout import (
    ARGUMENT_CHANGED,
    BUDGET,
    CONTEXT_WORDS,
    DONE,
    KERNELS,
    N_PARAMETERS,
    N_RESULTS,
    PARAMETERS,
    PHASE,
    RESULTS,
    TYPES,
    UNTILED,
)
from .memory import call_kernel, f64, i32, i64

# A record: one argument or result.
RECORD_WORDS = 16
OBJECT, MODE, SPACE, OFFSET, SIZE, NDIM, DIM_0 = range(7)
MAX_DIMS = RECORD_WORDS - DIM_0
# Modes of a record.
SCALAR_IN, ARRAY_IN, IN_PLACE = 0, 1, 2
SCALAR_OUT, ARRAY_OUT, IN_PLACE_OUT = 3, 4, 5

# What a call does, as bits.
RUN_FORWARD, RUN_REVERSE, RUN_TANGENT, BIND, DELIVER, PREPARE = 1, 2, 4, 8, 16, 32

# Work (code words and values) that staged loops do between pauses: a millisecond for scalar code,
# well below a second for bodies of large matrix products.
WORK = 1 << 22

# Kernel numbers of the interpreters.
FORWARD_KERNEL, REVERSE_KERNEL, TANGENT_KERNEL = 0, 1, 2

# CPython and NumPy object headers, in bytes (checked by `headers_are_known`).
TYPE, DATA, ND, DIMENSIONS, STRIDES, DESCR, FLAGS = 8, 16, 24, 32, 40, 56, 64
WRITEABLE = 0x400
FLOAT_VALUE = 16


#: How many types :func:`run` accepts without asking Python.
HEADER_TYPES = 4


def header_words() -> np.ndarray:
    """Addresses of the types that :func:`run` accepts without asking Python."""
    return np.array([id(np.ndarray), id(np.dtype(np.float64)), id(float), id(np.float64)], np.int64)


@functools.cache
def headers_are_known() -> bool:
    """Whether objects are laid out as this module believes, tried on samples."""
    try:
        sample = np.arange(6.0).reshape(2, 3)
        at = id(sample)
        dimensions = int(i64(at + DIMENSIONS, 1)[0])
        number, scalar = 1.5, np.float64(2.5)
        return bool(
            i64(at + TYPE, 1)[0] == id(np.ndarray)
            and i64(at + DATA, 1)[0] == sample.ctypes.data
            and i32(at + ND, 1)[0] == 2
            and i64(dimensions, 2).tolist() == [2, 3]
            and i64(int(i64(at + STRIDES, 1)[0]), 2).tolist() == [24, 8]
            and i64(at + DESCR, 1)[0] == id(np.dtype(np.float64))
            and i32(at + FLAGS, 1)[0] == sample.flags.num
            and sample.flags.num & WRITEABLE
            and f64(id(number) + FLOAT_VALUE, 1)[0] == number
            and f64(id(scalar) + FLOAT_VALUE, 1)[0] == scalar
        )
    except Exception:  # an unknown interpreter: every call takes the general way
        return False


@register_jitable
def array_data(record, types, address):
    """Address of the data of a float64 C-contiguous array of the record's shape, or 0."""
    if i64(address + TYPE, 1)[0] != types[0] or i64(address + DESCR, 1)[0] != types[1]:
        return 0
    nd = record[NDIM]
    if i32(address + ND, 1)[0] != nd:
        return 0
    empty = record[SIZE] == 0  # has any strides
    dims = i64(i64(address + DIMENSIONS, 1)[0], nd)
    strides = i64(i64(address + STRIDES, 1)[0], nd)
    step = np.int64(8)
    for k in range(nd - 1, -1, -1):
        n = record[DIM_0 + k]
        if dims[k] != n or (n != 1 and strides[k] != step and not empty):
            return 0
        step *= n
    data = i64(address + DATA, 1)[0]
    return 0 if data & 7 else data


@register_jitable
def bind(c, types):
    """Copy small arguments into the arena; point spaces at large ones."""
    records = c[PARAMETERS]
    for k in range(c[N_PARAMETERS]):
        record = i64(records + 8 * RECORD_WORDS * k, RECORD_WORDS)
        address = record[OBJECT]
        if record[MODE] == SCALAR_IN:
            kind = i64(address + TYPE, 1)[0]
            if kind != types[2] and kind != types[3]:
                return ARGUMENT_CHANGED
            f64(c[record[SPACE]] + 8 * record[OFFSET], 1)[0] = f64(address + FLOAT_VALUE, 1)[0]
            continue
        data = array_data(record, types, address)
        if data == 0:
            return ARGUMENT_CHANGED
        if record[MODE] == IN_PLACE:
            c[record[SPACE]] = data
        else:
            n = record[SIZE]
            source = f64(data, n)
            target = f64(c[record[SPACE]] + 8 * record[OFFSET], n)
            for j in range(n):
                target[j] = source[j]
    return DONE


@register_jitable
def overlaps_argument(c, data, size):
    """Whether ``size`` doubles at ``data`` share memory with an argument read in place."""
    records = c[PARAMETERS]
    for k in range(c[N_PARAMETERS]):
        record = i64(records + 8 * RECORD_WORDS * k, RECORD_WORDS)
        if record[MODE] == IN_PLACE:
            start = c[record[SPACE]]
            if start < data + 8 * size and data < start + 8 * record[SIZE]:
                return True
    return False


@register_jitable
def prepare_results(c, types):
    """Check the result arrays; point spaces at those that sweeps write themselves."""
    records = c[RESULTS]
    for k in range(c[N_RESULTS]):
        record = i64(records + 8 * RECORD_WORDS * k, RECORD_WORDS)
        if record[MODE] == SCALAR_OUT:
            continue
        data = array_data(record, types, record[OBJECT])
        if data == 0 or not i32(record[OBJECT] + FLAGS, 1)[0] & WRITEABLE:
            return ARGUMENT_CHANGED
        if record[MODE] == IN_PLACE_OUT:
            if overlaps_argument(c, data, record[SIZE]):
                return ARGUMENT_CHANGED
            c[record[SPACE]] = data
    return DONE


@register_jitable
def deliver(c):
    """Copy results out of the arena."""
    records = c[RESULTS]
    for k in range(c[N_RESULTS]):
        record = i64(records + 8 * RECORD_WORDS * k, RECORD_WORDS)
        source = c[record[SPACE]] + 8 * record[OFFSET]
        if record[MODE] == SCALAR_OUT:
            f64(record[OBJECT], 1)[0] = f64(source, 1)[0]
        elif record[MODE] == ARRAY_OUT:
            n = record[SIZE]
            s = f64(source, n)
            t = f64(i64(record[OBJECT] + DATA, 1)[0], n)
            for j in range(n):
                t[j] = s[j]


def run(ctx, start, what):
    """Bind arguments, sweep, deliver results, as the bits of ``what`` say; returns a status.

    The first sweep starts at word ``start`` of its code.
    """
    c = i64(ctx, CONTEXT_WORDS)
    types = i64(c[TYPES], 4)
    if what & BIND:
        status = bind(c, types)
        if status != DONE:
            return status
    if what & PREPARE:
        status = prepare_results(c, types)
        if status != DONE:
            return status
    kernels = i64(c[KERNELS], UNTILED)
    i64(c[BUDGET], 1)[0] = WORK
    if what & RUN_FORWARD:
        c[PHASE] = RUN_FORWARD
        status = call_kernel(kernels[FORWARD_KERNEL], ctx, start)
        if status != DONE:
            return status
        start = 0
    if what & RUN_TANGENT:
        c[PHASE] = RUN_TANGENT
        status = call_kernel(kernels[TANGENT_KERNEL], ctx, start)
        if status != DONE:
            return status
        start = 0
    if what & RUN_REVERSE:
        c[PHASE] = RUN_REVERSE
        status = call_kernel(kernels[REVERSE_KERNEL], ctx, start)
        if status != DONE:
            return status
    if what & DELIVER:
        deliver(c)
    return DONE


def run_one(ctx, argument, result):
    """Value and gradient for one argument and one array, given by their addresses."""
    c = i64(ctx, CONTEXT_WORDS)
    i64(c[PARAMETERS], 1)[0] = argument
    i64(c[RESULTS], 1)[0] = result
    types = i64(c[TYPES], 4)
    status = bind(c, types)
    if status == DONE:
        status = prepare_results(c, types)
    if status != DONE:
        return status
    kernels = i64(c[KERNELS], UNTILED)
    i64(c[BUDGET], 1)[0] = WORK
    c[PHASE] = RUN_FORWARD
    status = call_kernel(kernels[FORWARD_KERNEL], ctx, 0)
    if status == DONE:
        c[PHASE] = RUN_REVERSE
        status = call_kernel(kernels[REVERSE_KERNEL], ctx, 0)
    if status == DONE:
        deliver(c)
    return status


@functools.cache
def entries() -> tuple[Callable, Callable]:
    """Compiled (run, run_one)."""
    from .cache import compile_entry

    general = compile_entry("int64(int64,int64,int64)", run)
    return general, compile_entry("int64(int64,int64,int64)", run_one)
