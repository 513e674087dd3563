"""A file read and written from kernels: POSIX ``pread`` and ``pwrite``, compiled or in Python."""

from __future__ import annotations

import ctypes
import os

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

_SIGNATURE = types.int64(types.int32, types.int64, types.int64, types.int64)
_pwrite_symbol = types.ExternalFunction("pwrite", _SIGNATURE)
_pread_symbol = types.ExternalFunction("pread", _SIGNATURE)


def _bytes_at(address: int, n: int) -> memoryview:
    return memoryview((ctypes.c_char * n).from_address(int(address))).cast("B")


def _pwrite(file: int, address: int, n: int, offset: int) -> int:
    """Bytes written to ``file`` at ``offset``, -1 for an error."""
    try:
        return os.pwrite(file, _bytes_at(address, n), offset)
    except OSError:
        return -1


def _pread(file: int, address: int, n: int, offset: int) -> int:
    """Bytes read from ``file`` at ``offset``, -1 for an error."""
    try:
        return os.preadv(file, [_bytes_at(address, n)], offset)
    except OSError:
        return -1


@overload(_pwrite, inline="never")
def _compiled_pwrite(file, address, n, offset):
    return lambda file, address, n, offset: _pwrite_symbol(np.int32(file), address, n, offset)


@overload(_pread, inline="never")
def _compiled_pread(file, address, n, offset):
    return lambda file, address, n, offset: _pread_symbol(np.int32(file), address, n, offset)


@register_jitable
def write_at(file, address, n, offset):
    """Write ``n`` bytes of memory to a file descriptor at ``offset``; False if they won't go."""
    done = 0
    while done < n:
        written = _pwrite(file, address + done, n - done, offset + done)
        if written <= 0:
            return False
        done += written
    return True


@register_jitable
def read_at(file, address, n, offset):
    """Read ``n`` bytes of a file descriptor at ``offset`` into memory; False if they don't come."""
    done = 0
    while done < n:
        got = _pread(file, address + done, n - done, offset + done)
        if got <= 0:
            return False
        done += got
    return True
