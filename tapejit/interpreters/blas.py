"""Dense linear algebra on raw addresses: products, factorizations and solves.

Kernels pass addresses, sizes and strides (in elements, not bytes).  Small products run in loops
written here, because a BLAS call alone costs more than they do; the others reach BLAS and LAPACK
through a *table* of addresses that :func:`table_address` builds from SciPy's Cython exports.  The
table's address is an argument of every kernel, so that no compiled code holds an address of this
process and Numba's disk cache stays valid.

Every function exists twice with one meaning: compiled, and as plain Python for the tests.  The
small loops work on lanes: four doubles in one vector register when compiled, an array of four in
plain Python.  Fortran sees a row-major matrix as its transpose; that is used
throughout, nothing is copied.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import math
import sys
import threading
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import numpy as np
import scipy
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_jitable, register_model

from tapejit.interpreters.memory import f64, i32, i64

# --- the table of addresses -------------------------------------------------------------------

#: Name and argument kinds of the routines, in table order.  c: character, i: 32-bit integer,
#: d: double (these three are passed by reference), p: address, o: 32-bit status, returned.
_ROUTINES = {
    "dgemm": "cciiidpipidpi",
    "dtrsm": "cccciidpipi",
    "dtrsv": "cccipipi",
    "dgetrf": "iipipo",
    "dgetrs": "ciipippio",
    "dpotrf": "cipio",
    "dsyevd": "ccipippipio",
    "ddot": "ipipi",
}
_SLOTS = {name: slot for slot, name in enumerate(_ROUTINES)}

_lock = threading.Lock()
_table: list[np.ndarray] = []


def table_address() -> int:
    """Address of this process's table of BLAS and LAPACK routines, built at the first call.

    Returns
    -------
    int
        What the other functions of this module take as ``table``; valid until the process ends.

    Raises
    ------
    ImportError
        If SciPy's BLAS is not the expected one (32-bit integers, double precision).
    """
    with _lock:
        if not _table:
            exports = {**_exports("cython_blas"), **_exports("cython_lapack")}
            addresses = [_pointer(exports[name], name) for name in _ROUTINES]
            _require_32_bit_integers(addresses[_SLOTS["ddot"]])
            _table.append(np.array(addresses, np.int64))
        return _table[0].ctypes.data


def _exports(name: str) -> dict[str, object]:
    return _scipy_linalg_module(name).__pyx_capi__


def _scipy_linalg_module(name: str) -> ModuleType:
    """``scipy.linalg.<name>``, without running ``scipy.linalg`` (4 ms against 100 ms)."""
    full_name = f"scipy.linalg.{name}"
    if "scipy.linalg" not in sys.modules:
        folders = [str(Path(folder) / "linalg") for folder in scipy.__path__]
        spec = PathFinder.find_spec(full_name, folders)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            # The module enters itself; a later import must bind it to its package as usual.
            sys.modules.pop(full_name, None)
            return module
    return importlib.import_module(full_name)


def _pointer(capsule: object, name: str) -> int:
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    spelling = api.PyCapsule_GetName(capsule)
    if spelling.count(b",") + 1 != len(_ROUTINES[name]):
        raise ImportError(f"unexpected signature of SciPy's {name}: {spelling.decode()}")
    return api.PyCapsule_GetPointer(capsule, spelling)


def _require_32_bit_integers(ddot: int) -> None:
    """Ask for a dot product of a length that is 1 in 32 bits and negative in 64 (little endian).

    The exports spell their integer type in several ways, so that the spelling does not tell.
    """
    length = (ctypes.c_int32 * 2)(1, -1)
    value, step = ctypes.c_double(3.0), (ctypes.c_int32 * 2)(1, 0)
    call = ctypes.CFUNCTYPE(ctypes.c_double, *[ctypes.c_void_p] * 5)(ddot)
    reference = [ctypes.addressof(cell) for cell in (length, value, step, value, step)]
    if call(*reference) != 9.0:
        raise ImportError(
            "SciPy's BLAS takes 64-bit integers (an ILP64 build), or isn't double precision; "
            "tapejit needs a SciPy that is built with 32-bit BLAS integers, as its wheels are"
        )


# --- calling a routine of the table -----------------------------------------------------------

_CTYPES = {"c": ctypes.c_char, "i": ctypes.c_int32, "d": ctypes.c_double}
_LLVM_INTEGERS = {"c": ir.IntType(8), "i": ir.IntType(32)}
_BYTES = ir.IntType(8).as_pointer()
_DOUBLE = ir.DoubleType()


def _emitted(
    emit: Callable, result: types.Type, *parameters: types.Type
) -> Callable[[Callable], Callable]:
    """Give a plain Python function a compiled twin whose body ``emit`` writes as LLVM code.

    It goes straight into the caller: an ``@overload`` would compile a function of its own, about
    0.1 s for each of these in each kernel.
    """

    def register(function: Callable) -> Callable:
        class Typing(AbstractTemplate):
            key = function

            def generic(self, arguments, keywords):
                return signature(result, *parameters)

        infer_global(function, types.Function(Typing))

        @lower_builtin(function, *parameters)
        def lower(context, builder, _, arguments):
            return emit(builder, *arguments)

        return function

    return register


def _routine(name: str) -> Callable[..., int]:
    """A function ``(table, *arguments) -> status`` that calls a routine returning nothing."""
    slot, kinds = _SLOTS[name], _ROUTINES[name]

    def call(table: int, *arguments: float) -> int:
        status = ctypes.c_int32(0)
        cells: list[object] = []
        for kind, argument in zip(kinds, (*arguments, 0), strict=False):
            if kind == "p":
                cells.append(ctypes.c_void_p(int(argument)))
            elif kind == "o":
                cells.append(ctypes.byref(status))
            else:
                cast = float if kind == "d" else int
                cells.append(ctypes.byref(_CTYPES[kind](cast(argument))))
        address = int(i64(table, slot + 1)[slot])
        ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(cells))(address)(*cells)
        return status.value

    def emit(builder, table, *arguments):
        def cell(llvm_type, value):
            # The slot lies in the entry block: a call in a loop must not grow the stack.
            place = cgutils.alloca_once(builder, llvm_type)
            builder.store(value, place)
            return builder.bitcast(place, _BYTES)

        int32, int64 = ir.IntType(32), ir.IntType(64)
        status = cell(int32, ir.Constant(int32, 0))
        values = []
        for kind, argument in zip(kinds, (*arguments, None), strict=False):
            if kind == "o":
                values.append(status)
            elif kind == "p":
                values.append(builder.inttoptr(argument, _BYTES))
            elif kind == "d":
                values.append(cell(_DOUBLE, argument))
            else:
                narrow = _LLVM_INTEGERS[kind]
                values.append(cell(narrow, builder.trunc(argument, narrow)))
        function = ir.FunctionType(ir.VoidType(), [_BYTES] * len(values))
        place = builder.add(table, ir.Constant(int64, 8 * slot))
        address = builder.load(builder.inttoptr(place, int64.as_pointer()))
        builder.call(builder.inttoptr(address, function.as_pointer()), values)
        status = builder.load(builder.bitcast(status, int32.as_pointer()))
        return builder.sext(status, int64)

    wide = [types.float64 if kind == "d" else types.int64 for kind in kinds if kind != "o"]
    return _emitted(emit, types.int64, types.int64, *wide)(call)


_dgemm = _routine("dgemm")
_dtrsm = _routine("dtrsm")
_dtrsv = _routine("dtrsv")
_dgetrf = _routine("dgetrf")
_dgetrs = _routine("dgetrs")
_dpotrf = _routine("dpotrf")
_dsyevd = _routine("dsyevd")

_L, _N, _R, _T, _U, _V = (ord(letter) for letter in "LNRTUV")
_MAX_INT = 2**31 - 1

# --- lanes: four doubles at a time ------------------------------------------------------------

_LANES = 4
_VECTOR = ir.VectorType(_DOUBLE, _LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="FourDoubles")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _llvm_call(builder, name, result, args):
    function_type = ir.FunctionType(result, [value.type for value in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, name)
    return builder.call(function, args)


def _shuffle(builder, first, second, lanes):
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), list(lanes))
    return builder.shuffle_vector(first, second, chosen)


def _splat(builder, value, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return _shuffle(builder, first, undefined, [0] * _LANES)


def _pointer_to(builder, address, llvm_type):
    return builder.inttoptr(address, llvm_type.as_pointer())


def _first_lanes(builder, count):
    numbers = ir.VectorType(ir.IntType(64), _LANES)
    counts = _splat(builder, count, numbers)
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(_LANES))), counts)


def _emit_get(builder, address):
    return builder.load(_pointer_to(builder, address, _DOUBLE))


def _emit_put(builder, address, value):
    builder.store(value, _pointer_to(builder, address, _DOUBLE))
    return address


def _emit_write(builder, address, value, accumulate):
    place = _pointer_to(builder, address, _DOUBLE)
    adding = cgutils.is_not_null(builder, accumulate)
    with builder.if_else(adding) as (then, otherwise):
        with then:
            builder.store(builder.fadd(builder.load(place), value), place)
        with otherwise:
            builder.store(value, place)
    return address


def _emit_load(builder, address):
    return builder.load(_pointer_to(builder, address, _VECTOR), align=8)


def _emit_store(builder, address, value):
    builder.store(value, _pointer_to(builder, address, _VECTOR), align=8)
    return address


_ALIGNMENT = ir.Constant(ir.IntType(32), 8)


def _emit_load_first(builder, address, count):
    place, mask = _pointer_to(builder, address, _VECTOR), _first_lanes(builder, count)
    zero = ir.Constant(_VECTOR, [0.0] * _LANES)
    arguments = [place, _ALIGNMENT, mask, zero]
    return _llvm_call(builder, "llvm.masked.load.v4f64.p0", _VECTOR, arguments)


def _emit_store_first(builder, address, value, count):
    place, mask = _pointer_to(builder, address, _VECTOR), _first_lanes(builder, count)
    arguments = [value, place, _ALIGNMENT, mask]
    _llvm_call(builder, "llvm.masked.store.v4f64.p0", ir.VoidType(), arguments)
    return address


def _emit_spread(builder, value):
    return _splat(builder, value, _VECTOR)


def _emit_muladd(builder, x, y, z):
    return _llvm_call(builder, "llvm.fmuladd.v4f64", _VECTOR, [x, y, z])


def _emit_sums(builder, a, b, c, d):
    def add_pairs(x, y, even, odd):
        return builder.fadd(_shuffle(builder, x, y, even), _shuffle(builder, x, y, odd))

    low = add_pairs(a, b, (0, 4, 2, 6), (1, 5, 3, 7))
    high = add_pairs(c, d, (0, 4, 2, 6), (1, 5, 3, 7))
    return add_pairs(low, high, (0, 1, 4, 5), (2, 3, 6, 7))


def _emit_first(builder, x):
    return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))


def _emit_add(builder, x, y):
    return builder.fadd(x, y)


def _emit_as_written(builder):
    for attribute in ("noinline", "optsize"):
        builder.function.attributes.add(attribute)
    return ir.Constant(ir.IntType(64), 0)


@_emitted(_emit_as_written, types.int64)
def _as_written() -> int:
    """Keep LLVM from copying, unrolling and vectorising the calling function.

    Its loops are vectorised by hand; more would only cost compile time.
    """
    return 0


@_emitted(_emit_get, types.float64, types.int64)
def _get(address: int) -> float:
    return f64(address, 1)[0]


@_emitted(_emit_put, types.int64, types.int64, types.float64)
def _put(address: int, value: float) -> int:
    f64(address, 1)[0] = value
    return address


@_emitted(_emit_load, _lanes, types.int64)
def _load(address: int) -> np.ndarray:
    return f64(address, _LANES).copy()


@_emitted(_emit_store, types.int64, types.int64, _lanes)
def _store(address: int, value: np.ndarray) -> int:
    f64(address, _LANES)[:] = value
    return address


@_emitted(_emit_load_first, _lanes, types.int64, types.int64)
def _load_first(address: int, count: int) -> np.ndarray:
    """The first ``count`` lanes from memory, zero in the others, whose memory is not touched."""
    lanes = np.zeros(_LANES)
    lanes[:count] = f64(address, count)
    return lanes


@_emitted(_emit_store_first, types.int64, types.int64, _lanes, types.int64)
def _store_first(address: int, value: np.ndarray, count: int) -> int:
    f64(address, count)[:] = value[:count]
    return address


@_emitted(_emit_spread, _lanes, types.float64)
def _spread(value: float) -> np.ndarray:
    return np.full(_LANES, value)


@_emitted(_emit_muladd, _lanes, _lanes, _lanes, _lanes)
def _muladd(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """``x * y + z``, in one rounding where the processor has it."""
    return x * y + z


@_emitted(_emit_add, _lanes, _lanes, _lanes)
def _add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x + y


@_emitted(_emit_sums, _lanes, _lanes, _lanes, _lanes, _lanes)
def _sums(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The four horizontal sums."""
    return np.array([a.sum(), b.sum(), c.sum(), d.sum()])


@_emitted(_emit_first, types.float64, _lanes)
def _first(x: np.ndarray) -> float:
    return x[0]


#: A kernel calls these from compiled code only: wrappers for Python would be compiled for nothing.
_loop = register_jitable(no_cpython_wrapper=True, no_cfunc_wrapper=True)


# --- products in loops: small sizes and odd strides ---------------------------------------------


@_emitted(_emit_write, types.int64, types.int64, types.float64, types.int64)
def _write(address: int, value: float, accumulate: int) -> int:
    if accumulate:
        value += f64(address, 1)[0]
    f64(address, 1)[0] = value
    return address


@_loop
def _any_product(
    m: int,
    k: int,
    n: int,
    a: int,
    a_row: int,
    a_col: int,
    b: int,
    b_row: int,
    b_col: int,
    c: int,
    c_row: int,
    c_col: int,
    accumulate: int,
) -> None:
    """Any strides, zero and negative ones too."""
    _as_written()
    for i in range(m):
        for j in range(n):
            total = 0.0
            for p in range(k):
                x = _get(a + 8 * (i * a_row + p * a_col))
                total += x * _get(b + 8 * (p * b_row + j * b_col))
            _write(c + 8 * (i * c_row + j * c_col), total, accumulate)


@_loop
def _dot(k: int, a: int, x: int) -> float:
    """Both with unit stride."""
    _as_written()
    s0 = s1 = s2 = s3 = _spread(0.0)
    p = 0
    while p + 16 <= k:
        s0 = _muladd(_load(a + 8 * p), _load(x + 8 * p), s0)
        s1 = _muladd(_load(a + 8 * p + 32), _load(x + 8 * p + 32), s1)
        s2 = _muladd(_load(a + 8 * p + 64), _load(x + 8 * p + 64), s2)
        s3 = _muladd(_load(a + 8 * p + 96), _load(x + 8 * p + 96), s3)
        p += 16
    while p + 4 <= k:
        s0 = _muladd(_load(a + 8 * p), _load(x + 8 * p), s0)
        p += 4
    if p < k:
        s1 = _muladd(_load_first(a + 8 * p, k - p), _load_first(x + 8 * p, k - p), s1)
    total = _add(_add(s0, s1), _add(s2, s3))
    return _first(_sums(total, total, total, total))


@_loop
def _dot_rows(
    m: int, k: int, a: int, a_row: int, x: int, y: int, y_step: int, accumulate: int
) -> None:
    """y (+)= A x, where the rows of A and x have unit stride: four dot products at a time."""
    _as_written()
    whole = k - k % 4
    i = 0
    while i + 4 <= m:
        r0 = a + 8 * i * a_row
        r1 = r0 + 8 * a_row
        r2 = r1 + 8 * a_row
        r3 = r2 + 8 * a_row
        s0 = s1 = s2 = s3 = _spread(0.0)
        p = 0
        while p < 8 * whole:
            v = _load(x + p)
            s0 = _muladd(_load(r0 + p), v, s0)
            s1 = _muladd(_load(r1 + p), v, s1)
            s2 = _muladd(_load(r2 + p), v, s2)
            s3 = _muladd(_load(r3 + p), v, s3)
            p += 32
        rest = k - whole
        if rest:
            v = _load_first(x + p, rest)
            s0 = _muladd(_load_first(r0 + p, rest), v, s0)
            s1 = _muladd(_load_first(r1 + p, rest), v, s1)
            s2 = _muladd(_load_first(r2 + p, rest), v, s2)
            s3 = _muladd(_load_first(r3 + p, rest), v, s3)
        total = _sums(s0, s1, s2, s3)
        to = y + 8 * i * y_step
        if y_step == 1:
            if accumulate:
                total = _add(_load(to), total)
            _store(to, total)
        else:
            _write(to, _first(total), accumulate)
            _write(to + 8 * y_step, _first(_sums(s1, s1, s1, s1)), accumulate)
            _write(to + 16 * y_step, _first(_sums(s2, s2, s2, s2)), accumulate)
            _write(to + 24 * y_step, _first(_sums(s3, s3, s3, s3)), accumulate)
        i += 4
    while i < m:
        _write(y + 8 * i * y_step, _dot(k, a + 8 * i * a_row, x), accumulate)
        i += 1


@_loop
def _combine_rows(
    k: int, n: int, x: int, x_step: int, b: int, b_row: int, y: int, accumulate: int
) -> None:
    """y (+)= x^T B, where the rows of B and y have unit stride; results stay in registers."""
    _as_written()
    j = 0
    while j + 8 <= n:
        s0 = s1 = t0 = t1 = _spread(0.0)
        if accumulate:
            s0 = _load(y + 8 * j)
            s1 = _load(y + 8 * j + 32)
        row = b + 8 * j
        at = x
        p = 0
        while p + 2 <= k:
            v = _spread(_get(at))
            s0 = _muladd(v, _load(row), s0)
            s1 = _muladd(v, _load(row + 32), s1)
            row += 8 * b_row
            at += 8 * x_step
            v = _spread(_get(at))
            t0 = _muladd(v, _load(row), t0)
            t1 = _muladd(v, _load(row + 32), t1)
            row += 8 * b_row
            at += 8 * x_step
            p += 2
        if p < k:
            v = _spread(_get(at))
            s0 = _muladd(v, _load(row), s0)
            s1 = _muladd(v, _load(row + 32), s1)
        _store(y + 8 * j, _add(s0, t0))
        _store(y + 8 * j + 32, _add(s1, t1))
        j += 8
    while j < n:
        rest = n - j if n - j < 4 else 4
        s0 = t0 = _spread(0.0)
        if accumulate:
            s0 = _load_first(y + 8 * j, rest)
        row = b + 8 * j
        at = x
        p = 0
        while p + 2 <= k:
            s0 = _muladd(_spread(_get(at)), _load_first(row, rest), s0)
            row += 8 * b_row
            at += 8 * x_step
            t0 = _muladd(_spread(_get(at)), _load_first(row, rest), t0)
            row += 8 * b_row
            at += 8 * x_step
            p += 2
        if p < k:
            s0 = _muladd(_spread(_get(at)), _load_first(row, rest), s0)
        _store_first(y + 8 * j, _add(s0, t0), rest)
        j += 4


@_loop
def _combine_long_rows(
    k: int, n: int, x: int, x_step: int, b: int, b_row: int, y: int, accumulate: int
) -> None:
    """As :func:`_combine_rows`, reading B once, from back to front, for B larger than a cache.

    A reverse sweep multiplies by the transpose of the matrix that the forward sweep has just read
    from front to back: what a cache still holds of it is the end.
    """
    _as_written()
    whole = k - k % 4
    started = accumulate
    i = k - 1
    while i >= whole:
        _outer(1, n, x + 8 * i * x_step, 1, b + 8 * i * b_row, y, 0, started)
        started = 1
        i -= 1
    i = whole - 4
    while i >= 0:
        at = x + 8 * i * x_step
        v0 = _spread(_get(at))
        v1 = _spread(_get(at + 8 * x_step))
        v2 = _spread(_get(at + 16 * x_step))
        v3 = _spread(_get(at + 24 * x_step))
        row = b + 8 * i * b_row
        nothing = _spread(0.0)
        j = 0
        while j + 4 <= n:
            s = _muladd(v0, _load(row), _load(y + 8 * j) if started else nothing)
            s = _muladd(v1, _load(row + 8 * b_row), s)
            s = _muladd(v2, _load(row + 16 * b_row), s)
            s = _muladd(v3, _load(row + 24 * b_row), s)
            _store(y + 8 * j, s)
            row += 32
            j += 4
        while j < n:
            s = _first(v0) * _get(row) + (_get(y + 8 * j) if started else 0.0)
            s += _first(v1) * _get(row + 8 * b_row)
            s += _first(v2) * _get(row + 16 * b_row)
            s += _first(v3) * _get(row + 24 * b_row)
            _put(y + 8 * j, s)
            row += 8
            j += 1
        started = 1
        i -= 4


@_loop
def _outer(
    m: int, n: int, x: int, x_step: int, y: int, c: int, c_row: int, accumulate: int
) -> None:
    """C (+)= x y^T, where the rows of C and y have unit stride."""
    _as_written()
    for i in range(m):
        v = _spread(_get(x + 8 * i * x_step))
        row = c + 8 * i * c_row
        nothing = _spread(0.0)
        j = 0
        while j + 4 <= n:
            old = _load(row + 8 * j) if accumulate else nothing
            _store(row + 8 * j, _muladd(v, _load(y + 8 * j), old))
            j += 4
        while j < n:
            _write(row + 8 * j, _get(x + 8 * i * x_step) * _get(y + 8 * j), accumulate)
            j += 1


@_loop
def _four_rows(
    k: int,
    n: int,
    a: int,
    a_row: int,
    a_col: int,
    b: int,
    b_row: int,
    c: int,
    c_row: int,
    accumulate: int,
) -> None:
    """Four rows of C (+)= A B, where the rows of B and C have unit stride."""
    _as_written()
    j = 0
    while j < n:
        rest = n - j if n - j < 4 else 4
        to = c + 8 * j
        s0 = s1 = s2 = s3 = _spread(0.0)
        if accumulate:
            s0 = _load_first(to, rest)
            s1 = _load_first(to + 8 * c_row, rest)
            s2 = _load_first(to + 16 * c_row, rest)
            s3 = _load_first(to + 24 * c_row, rest)
        row = b + 8 * j
        at = a
        for _ in range(k):
            v = _load_first(row, rest)
            s0 = _muladd(_spread(_get(at)), v, s0)
            s1 = _muladd(_spread(_get(at + 8 * a_row)), v, s1)
            s2 = _muladd(_spread(_get(at + 16 * a_row)), v, s2)
            s3 = _muladd(_spread(_get(at + 24 * a_row)), v, s3)
            row += 8 * b_row
            at += 8 * a_col
        _store_first(to, s0, rest)
        _store_first(to + 8 * c_row, s1, rest)
        _store_first(to + 16 * c_row, s2, rest)
        _store_first(to + 24 * c_row, s3, rest)
        j += 4


# --- the product --------------------------------------------------------------------------------

#: Up to this many multiplications a loop here is faster than a call of dgemm (measured).
_SMALL_PRODUCT = 512
#: Up to this many elements a vector-matrix product keeps its results in registers (measured).
_SMALL_MATRIX = 1024


@_loop
def matmul(
    table: int,
    m: int,
    k: int,
    n: int,
    a: int,
    a_row: int,
    a_col: int,
    b: int,
    b_row: int,
    b_col: int,
    c: int,
    c_row: int,
    c_col: int,
    accumulate: int,
) -> None:
    """Matrix product ``C = A B``, or ``C += A B`` where ``accumulate`` is 1.

    Parameters
    ----------
    table : int
        From :func:`table_address`.
    m, k, n : int
        A is (m, k), B is (k, n), C is (m, n); any may be zero.
    a, b, c : int
        Addresses of the first elements (index 0, 0).  C must not overlap A or B.
    a_row, a_col, b_row, b_col, c_row, c_col : int
        Strides in elements between neighbouring rows and columns.  Any value is right for A and
        B, zero and negative ones too; fast where each matrix has one unit stride.
    accumulate : int
        0: C is written and never read; 1: the product is added to C.

    Notes
    -----
    IEEE throughout, except that BLAS is free to skip products with an exact zero.
    """
    if m == 0 or n == 0:
        return
    if n == 1:
        _matvec(table, m, k, a, a_row, a_col, b, b_row, c, c_row, accumulate)
    elif m == 1:
        _matvec(table, n, k, b, b_col, b_row, a, a_col, c, c_col, accumulate)
    elif c_col != 1 and c_row == 1:
        # C^T = B^T A^T has unit column stride.
        _product(table, n, k, m, b, b_col, b_row, a, a_col, a_row, c, c_col, 1, accumulate)
    else:
        _product(table, m, k, n, a, a_row, a_col, b, b_row, b_col, c, c_row, c_col, accumulate)


@_loop
def _matvec(
    table: int,
    m: int,
    k: int,
    a: int,
    a_row: int,
    a_col: int,
    x: int,
    x_step: int,
    y: int,
    y_step: int,
    accumulate: int,
) -> None:
    """Loops at all sizes: they beat dgemv in cache and come within 20 % beyond (measured).

    Nor do they start BLAS threads, which on busy processors cost milliseconds.
    """
    _as_written()
    if a_row == 1 and y_step == 1 and m > 1:
        if k * m <= _SMALL_MATRIX:
            _combine_rows(k, m, x, x_step, a, a_col, y, accumulate)
        else:
            _combine_long_rows(k, m, x, x_step, a, a_col, y, accumulate)
    elif a_col == 1 and x_step == 1:
        _dot_rows(m, k, a, a_row, x, y, y_step, accumulate)
    else:
        # As matrices of one column, strided vectors are legal operands of the general product.
        _product(table, m, k, 1, a, a_row, a_col, x, x_step, 1, y, y_step, 1, accumulate)


@_loop
def _leading_dimension(rows: int, columns: int, row: int, col: int) -> int:
    """Of a matrix that BLAS takes: positive if row-major, negative if column-major; else 0."""
    if rows > _MAX_INT or columns > _MAX_INT or row > _MAX_INT or col > _MAX_INT:
        return 0
    if col == 1 and row >= columns:
        return row
    if row == 1 and col >= rows:
        return -col
    return 0


@_loop
def _product(
    table: int,
    m: int,
    k: int,
    n: int,
    a: int,
    a_row: int,
    a_col: int,
    b: int,
    b_row: int,
    b_col: int,
    c: int,
    c_row: int,
    c_col: int,
    accumulate: int,
) -> None:
    _as_written()
    if c_col == 1 and b_col == 1 and k == 1:
        _outer(m, n, a, a_row, b, c, c_row, accumulate)
        return
    lda = _leading_dimension(m, k, a_row, a_col)
    ldb = _leading_dimension(k, n, b_row, b_col)
    ldc = _leading_dimension(m, n, c_row, c_col)
    if m * k * n > _SMALL_PRODUCT and k > 1 and lda != 0 and ldb != 0 and ldc > 0:
        # Row-major matrices are Fortran's transposes: C^T = B^T A^T.
        b_flag = _N if ldb > 0 else _T
        a_flag = _N if lda > 0 else _T
        old = 1.0 if accumulate else 0.0
        _dgemm(table, b_flag, a_flag, n, m, k, 1.0, b, abs(ldb), a, abs(lda), old, c, ldc)
    elif c_col == 1 and b_col == 1:
        i = 0
        while i + 4 <= m:
            from_ = a + 8 * i * a_row
            to = c + 8 * i * c_row
            _four_rows(k, n, from_, a_row, a_col, b, b_row, to, c_row, accumulate)
            i += 4
        while i < m:
            to = c + 8 * i * c_row
            _combine_rows(k, n, a + 8 * i * a_row, a_col, b, b_row, to, accumulate)
            i += 1
    elif b_row == 1 and a_col == 1:
        for i in range(m):
            to = c + 8 * i * c_row
            _dot_rows(n, k, b, b_col, a + 8 * i * a_row, to, c_col, accumulate)
    else:
        _any_product(m, k, n, a, a_row, a_col, b, b_row, b_col, c, c_row, c_col, accumulate)


# --- factorizations and solves ------------------------------------------------------------------


@_loop
def lu_factor(table: int, n: int, a: int, pivots: int) -> int:
    """Factor the contiguous row-major (n, n) matrix at ``a`` in place: LU with row exchanges.

    LAPACK sees the row-major matrix as its transpose, and it is A^T = P L U that the factors
    (column-major) and pivots (n 32-bit integers, from 1) describe.  :func:`lu_solve` and the
    others take that into account.

    Returns
    -------
    int
        0, or i > 0 if the i-th pivot is exactly zero: A is singular, and must not be solved with.
    """
    if n == 0:
        return 0
    return _dgetrf(table, n, n, a, n, pivots)


@_loop
def lu_solve(table: int, n: int, nrhs: int, lu: int, pivots: int, b: int, transposed: int) -> None:
    """Solve ``A X = B``, or ``A^T X = B`` where ``transposed``, in place at ``b``.

    ``b`` is contiguous row-major (n, nrhs); ``lu`` and ``pivots`` come from :func:`lu_factor`
    with status 0.  Needs no scratch: with several right-hand sides B^T, as which Fortran sees B,
    is multiplied from the right by the inverse factors.
    """
    if n == 0 or nrhs == 0:
        return
    if nrhs == 1:
        _dgetrs(table, _N if transposed else _T, n, 1, lu, n, pivots, b, n)
    elif transposed:
        for i in range(n):
            _exchange_rows(nrhs, b, i, np.int64(i32(pivots, n)[i]) - 1)
        _dtrsm(table, _R, _L, _T, _U, nrhs, n, 1.0, lu, n, b, nrhs)
        _dtrsm(table, _R, _U, _T, _N, nrhs, n, 1.0, lu, n, b, nrhs)
    else:
        _dtrsm(table, _R, _U, _N, _N, nrhs, n, 1.0, lu, n, b, nrhs)
        _dtrsm(table, _R, _L, _N, _U, nrhs, n, 1.0, lu, n, b, nrhs)
        for i in range(n - 1, -1, -1):
            _exchange_rows(nrhs, b, i, np.int64(i32(pivots, n)[i]) - 1)


@_loop
def _exchange_rows(width: int, b: int, i: int, j: int) -> None:
    if i == j:
        return
    for p in range(width):
        first = b + 8 * (i * width + p)
        second = b + 8 * (j * width + p)
        kept = _get(first)
        _put(first, _get(second))
        _put(second, kept)


@_loop
def lu_inverse(table: int, n: int, lu: int, pivots: int, out: int) -> None:
    """The inverse of A, contiguous row-major (n, n) at ``out``, which must not be ``lu``."""
    _set_zero(n * n, out)
    for i in range(n):
        _put(out + 8 * i * (n + 1), 1.0)
    lu_solve(table, n, n, lu, pivots, out, 0)


@_loop
def lu_slogdet(n: int, lu: int, pivots: int, out: int) -> None:
    """Write the sign of det A and log |det A| to the two doubles at ``out``.

    A singular matrix (a zero pivot) gives 0 and -inf, as in NumPy.
    """
    sign = 1.0
    total = 0.0
    for i in range(n):
        pivot = _get(lu + 8 * i * (n + 1))
        if pivot == 0.0:
            sign = 0.0
            total = -math.inf
            break
        if (i32(pivots, n)[i] != i + 1) != (pivot < 0.0):
            sign = -sign
        total += math.log(abs(pivot))
    _put(out, sign)
    _put(out + 8, total)


@_loop
def _set_zero(n: int, out: int) -> None:
    for i in range(n):
        _put(out + 8 * i, 0.0)


@_loop
def _copy_lower(n: int, a: int, out: int) -> None:
    """The lower triangle of a row-major matrix, zeros above it."""
    for i in range(n):
        row = 8 * i * n
        for j in range(n):
            _put(out + row + 8 * j, _get(a + row + 8 * j) if j <= i else 0.0)


@_loop
def cholesky(table: int, n: int, a: int, out: int) -> int:
    """Lower triangular L with ``A = L L^T``, row-major (n, n) at ``out``, zero above the diagonal.

    Only the lower triangle of the contiguous row-major ``a`` is read; ``out`` may be ``a``.

    Returns
    -------
    int
        0, or i > 0 if the i-th leading minor isn't positive: ``out`` is then unspecified.  A NaN
        may give either, with NaN in ``out``.
    """
    _copy_lower(n, a, out)
    if n == 0:
        return 0
    return _dpotrf(table, _U, n, out, n)


@_loop
def triangular_solve(
    table: int, n: int, nrhs: int, triangle: int, lower: int, transposed: int, unit: int, b: int
) -> int:
    """Solve ``T X = B``, or ``T^T X = B`` where ``transposed``, in place at ``b``.

    Parameters
    ----------
    table : int
        From :func:`table_address`.
    n, nrhs : int
        T is (n, n), B is (n, nrhs); both contiguous row-major.
    triangle, b : int
        Addresses of T and B.
    lower : int
        1: T is the lower triangle of the matrix; 0: the upper.  The rest is not read.
    transposed : int
        1: solve with the transpose of T.
    unit : int
        1: the diagonal is taken as ones and isn't read.

    Returns
    -------
    int
        0, or i > 0 if the i-th diagonal element is zero: ``b`` is then left as it was.
    """
    if n == 0 or nrhs == 0:
        return 0
    if not unit:
        for i in range(n):
            if _get(triangle + 8 * i * (n + 1)) == 0.0:
                return i + 1
    # Fortran sees T^T, whose triangle is the other one.
    side = _U if lower else _L
    diagonal = _U if unit else _N
    if nrhs == 1:
        _dtrsv(table, side, _N if transposed else _T, diagonal, n, triangle, n, b, 1)
    else:
        flag = _T if transposed else _N
        _dtrsm(table, _R, side, flag, diagonal, nrhs, n, 1.0, triangle, n, b, nrhs)
    return 0


@_loop
def symmetric_eigen_scratch(n: int) -> int:
    """How many doubles of scratch :func:`symmetric_eigen` needs."""
    return _syevd_doubles(n) + (3 + 5 * n + 1) // 2


@_loop
def _syevd_doubles(n: int) -> int:
    return 1 + 6 * n + 2 * n * n


@_loop
def symmetric_eigen(table: int, n: int, a: int, w: int, v: int, scratch: int) -> int:
    """Eigenvalues (ascending, n at ``w``) and eigenvectors (columns of the (n, n) at ``v``).

    Only the lower triangle of the contiguous row-major ``a`` is read; ``v`` is contiguous
    row-major and may be ``a``.  ``scratch`` has :func:`symmetric_eigen_scratch` doubles.

    Returns
    -------
    int
        0, or a positive number if LAPACK's dsyevd did not converge.
    """
    if n == 0:
        return 0
    _copy_lower(n, a, v)
    doubles = _syevd_doubles(n)
    integers = scratch + 8 * doubles
    status = _dsyevd(table, _V, _U, n, v, n, w, scratch, doubles, integers, 3 + 5 * n)
    for i in range(n):
        for j in range(i):
            first = v + 8 * (i * n + j)
            second = v + 8 * (j * n + i)
            kept = _get(first)
            _put(first, _get(second))
            _put(second, kept)
    return status
