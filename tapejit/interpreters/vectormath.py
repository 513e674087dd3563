"""Elementary functions for kernels, which LLVM vectorises through glibc's libmvec.

A compiled call refers to a scalar symbol of our own (``tapejit_exp``: libm's ``exp``, but a name
that neither Numba nor LLVM knows, so that no other declaration of it can win at link time).  Its
declaration names libmvec's vector variants; the loop vectoriser then calls ``_ZGVeN8v_exp`` for
eight elements at once.  Where libmvec or one of its functions is absent, or
``TAPEJIT_VECTOR_MATH=0``, the same loops call libm for each element.

The plain Python bodies follow NumPy, with IEEE results and no warnings.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable
from typing import NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from llvmlite.ir.instructions import Branch, ConditionalBranch, LoadInstr, StoreInstr
from llvmlite.ir.values import FunctionAttributes, MDValue
from numba import types
from numba.core import codegen as numba_codegen
from numba.core import config
from numba.core.typing import signature
from numba.extending import lower_builtin, type_callable

#: Number of arguments of the functions that come from libm, vectorised where libmvec has them.
#: The others (sqrt, floor ...) are LLVM intrinsics: one instruction, scalar or vector.
# fmt: off
_LIBM = {
    "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log2": 1, "log10": 1, "log1p": 1,
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1,
    "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1,
    "cbrt": 1, "erf": 1, "erfc": 1, "pow": 2, "atan2": 2, "hypot": 2, "fmod": 2,
}
# fmt: on

_LIBRARY = "libmvec.so.1"
#: The x86 vector ABI's letter, doubles per register, and the CPU feature that it needs.
_WIDTHS = (("b", 2, "sse2"), ("d", 4, "avx2"), ("e", 8, "avx512f"))


def symbol(name: str) -> str:
    """The scalar symbol that compiled code calls for function ``name``."""
    return "tapejit_" + name


def _vector_symbol(letter: str, width: int, name: str) -> str:
    return f"_ZGV{letter}N{width}{'v' * _LIBM[name]}_{name}"


# --- what this process has ----------------------------------------------------------------------


class _Library(NamedTuple):
    widths: tuple[tuple[str, int], ...]  # usable (letter, doubles per register)
    functions: frozenset[str]  # functions that have a variant in every usable width

    def variants(self, name: str) -> list[tuple[int, str]]:
        """Widths and symbols of the vector variants of ``name``."""
        if name not in self.functions:
            return []
        return [(width, _vector_symbol(letter, width, name)) for letter, width in self.widths]


_SCALAR = _Library((), frozenset())


def _cpu_features() -> frozenset[str]:
    """Features of the CPU that Numba compiles for."""
    text = config.CPU_FEATURES
    if text is None:
        text = numba_codegen.get_host_cpu_features()
    return frozenset(part[1:] for part in text.split(",") if part.startswith("+"))


def _open_libmvec() -> _Library:
    wanted = os.environ.get("TAPEJIT_VECTOR_MATH", "1").strip().lower()
    if wanted in ("0", "false", "off", "no"):
        return _SCALAR
    # Elsewhere the vector ABI has other names, or there is no libmvec.
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return _SCALAR
    try:
        llvm.load_library_permanently(_LIBRARY)
    except RuntimeError:
        return _SCALAR
    features = _cpu_features()
    widths = tuple((letter, width) for letter, width, needs in _WIDTHS if needs in features)
    functions = frozenset(
        name
        for name in _LIBM
        if widths and all(llvm.address_of_symbol(_vector_symbol(*width, name)) for width in widths)
    )
    return _Library(widths, functions) if functions else _SCALAR


def _libm_address(name: str) -> int:
    """Address of a libm function of this process."""
    address = llvm.address_of_symbol(name)
    if not address:
        # Windows exports them from the C runtime only.
        runtime = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
        address = ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value
    return address


@functools.cache
def _library() -> _Library:
    """Register the scalar symbols and open libmvec, once per process, at first use."""
    for name in _LIBM:
        llvm.add_symbol(symbol(name), _libm_address(name))
    return _open_libmvec()


def identity() -> str:
    """What compiled calls of this module refer to in this process.

    Returns
    -------
    str
        ``"scalar"``, or ``"libmvec:"`` with the letters of the vector ABI in use and the names
        of functions that this libmvec lacks.  Belongs into the key of every cached kernel: code
        that calls libmvec is useless in a process without it.

    Notes
    -----
    Also loads the library, so that a kernel may be loaded afterwards.
    """
    library = _library()
    if not library.functions:
        return "scalar"
    letters = "".join(letter for letter, _ in library.widths)
    missing = sorted(_LIBM.keys() - library.functions - {"fmod"})
    return f"libmvec:{letters}" + "".join(f" -{name}" for name in missing)


# --- compiled -----------------------------------------------------------------------------------


class _PureFunction(FunctionAttributes):
    """Attributes of a function of its arguments alone, with its vector variants.

    Without ``speculatable`` a call under a condition would keep its loop from being vectorised.
    """

    def __init__(self, mappings: str = "") -> None:
        super().__init__(("nounwind", "readnone"))
        self.mappings = mappings

    def _to_list(self, ret_type: ir.Type) -> list[str]:
        attributes = [*super()._to_list(ret_type), "willreturn", "speculatable"]
        if self.mappings:
            attributes.append(f'"vector-function-abi-variant"="{self.mappings}"')
        return attributes


_DOUBLE = ir.DoubleType()


def _declare_pure(module: ir.Module, name: str, kind: ir.Type, arity: int) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(kind, [kind] * arity), name)
    function.attributes = _PureFunction()
    return function


def _keep(module: ir.Module, functions: list[ir.Function]) -> None:
    """Protect declarations that nothing calls yet from being dropped before vectorisation."""
    byte_pointer = ir.IntType(8).as_pointer()
    kept = module.globals.get("llvm.compiler.used")
    if kept is None:
        kept = ir.GlobalVariable(module, ir.ArrayType(byte_pointer, 0), "llvm.compiler.used")
        kept.linkage = "appending"
        kept.section = "llvm.metadata"
        kept.initializer = ir.Constant(kept.value_type, [])
    members = [*kept.initializer.constant, *(f.bitcast(byte_pointer) for f in functions)]
    # The type carries the length, and a global can't be declared a second time.
    kept.value_type = ir.ArrayType(byte_pointer, len(members))
    kept.initializer = ir.Constant(kept.value_type, members)


def _declare(module: ir.Module, name: str) -> ir.Function:
    """The scalar function ``name`` in ``module``, with its vector variants."""
    known = module.globals.get(symbol(name))
    if known is not None:
        return known
    arity = _LIBM[name]
    scalar = _declare_pure(module, symbol(name), _DOUBLE, arity)
    variants = _library().variants(name)
    if variants:
        scalar.attributes = _PureFunction(
            ",".join(
                f"_ZGV_LLVM_N{width}{'v' * arity}_{scalar.name}({vector})"
                for width, vector in variants
            )
        )
        _keep(
            module,
            [
                _declare_pure(module, vector, ir.VectorType(_DOUBLE, width), arity)
                for width, vector in variants
            ],
        )
    return scalar


def _compiled(function: Callable, name: str, arity: int) -> None:
    """Teach Numba the call ``function(x)`` or ``function(x, y)``."""
    shape = signature(types.float64, *[types.float64] * arity)

    @type_callable(function)
    def typing(context):
        if arity == 1:
            return lambda x: shape if isinstance(x, types.Number) else None
        return lambda x, y: shape if isinstance(x, types.Number) else None

    @lower_builtin(function, *shape.args)
    def lowering(context, builder, sig, args):
        if name in _LIBM:
            callee = _declare(builder.module, name)
        else:
            kind = ir.FunctionType(_DOUBLE, [_DOUBLE] * arity)
            callee = builder.module.declare_intrinsic(f"llvm.{name}", [_DOUBLE], kind)
        return builder.call(callee, args)


# --- loops --------------------------------------------------------------------------------------


def independent(n: int) -> int:
    """``n``, with a promise: no iteration of any loop of the caller writes what another one reads.

    A kernel that says ``for k in range(independent(n))`` needs no test for overlapping operands
    before its vector loop.  LLVM's test sends operands that lie less than 256 bytes apart to the
    scalar loop, so it fails for neighbours of up to 32 elements.  An operand may be written in
    place: each iteration reads and writes its own element.
    """
    return n


def lanes(n: int) -> int:
    """As :func:`independent`, for loops of a few iterations that shall be one vector operation."""
    return n


def _promises(function: Callable[[int], int], promise: str) -> None:
    @type_callable(function)
    def typed(context):
        def signature_for(n):
            if isinstance(n, types.Integer):
                return signature(*(types.int64 if n.signed else types.uint64,) * 2)
            return None

        return signature_for

    @lower_builtin(function, types.int64)
    @lower_builtin(function, types.uint64)
    def lowered(context, builder, sig, args):
        builder.function.independent_loops = promise
        return args[0]


_promises(independent, "loops")
_promises(lanes, "lanes")


class _Distinct(MDValue):
    """A metadata node with an identity of its own, which may refer to itself."""

    def __init__(self, module: ir.Module, operands: tuple = ()) -> None:
        super().__init__(module, operands, str(len(module.metadata)))

    def descr(self, buf: list[str]) -> None:
        buf.append("distinct ")
        super().descr(buf)


def annotate_loops(module: ir.Module) -> None:
    """Pass the promises of loops without dependences on to LLVM, before ``module`` is text."""
    for function in module.functions:
        promise = getattr(function, "independent_loops", "")
        if promise:
            _annotate(module, function, promise)


def _annotate(module: ir.Module, function: ir.Function, promise: str) -> None:
    """The promise holds for innermost loops."""
    group = _Distinct(module)
    properties = [module.add_metadata(["llvm.loop.parallel_accesses", group])]
    if promise == "lanes":  # unrolled first, a short loop would not be found again
        properties.append(module.add_metadata(["llvm.loop.unroll.disable"]))
    for blocks, branch in _innermost_loops(function):
        for block in blocks:
            for instruction in block.instructions:
                if isinstance(instruction, LoadInstr | StoreInstr):
                    instruction.set_metadata("llvm.access.group", group)
        loop = _Distinct(module)
        loop.operands = (loop, *properties)
        branch.set_metadata("llvm.loop", loop)


def _innermost_loops(function: ir.Function) -> list[tuple[list[ir.Block], ir.Instruction]]:
    """(blocks, branch back) of each loop that holds no other one."""
    # Numba's blocks stand in source order: a branch backwards closes a loop.
    blocks = list(function.blocks)
    position = {block: i for i, block in enumerate(blocks)}
    found = []
    for last, block in enumerate(blocks):
        branch = block.terminator
        if isinstance(branch, Branch | ConditionalBranch):
            starts = [position[target] for target in branch.operands if target in position]
            starts = [start for start in starts if start <= last]
            if starts:
                found.append((min(starts), last, branch))
    return [
        (blocks[first : last + 1], branch)
        for first, last, branch in found
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b, _ in found)
    ]


# --- plain Python -------------------------------------------------------------------------------


def _scipy(name: str) -> Callable:
    """A function of ``scipy.special``, imported when first called."""

    def call(x: float) -> float:
        from scipy import special

        return getattr(special, name)(x)

    return call


#: NumPy's names where they differ.
# fmt: off
_NUMPY_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "atan2": "arctan2", "pow": "power",
}
# fmt: on


def _define(name: str, arity: int) -> Callable[..., float]:
    """The function ``name``: its plain Python body, known to Numba too."""
    numpy_name = _NUMPY_NAMES.get(name, name)
    body = _scipy(name) if name.startswith("erf") else getattr(np, numpy_name)

    def function(*args: float) -> float:
        with np.errstate(all="ignore"):
            return float(body(*map(float, args)))

    function.__name__ = function.__qualname__ = name
    arguments = "x" if arity == 1 else "x, y"
    function.__doc__ = f"``{name}({arguments})`` of real arguments, with IEEE results."
    _compiled(function, name, arity)
    return function


exp = _define("exp", 1)
exp2 = _define("exp2", 1)
expm1 = _define("expm1", 1)
log = _define("log", 1)
log2 = _define("log2", 1)
log10 = _define("log10", 1)
log1p = _define("log1p", 1)
sin = _define("sin", 1)
cos = _define("cos", 1)
tan = _define("tan", 1)
asin = _define("asin", 1)
acos = _define("acos", 1)
atan = _define("atan", 1)
sinh = _define("sinh", 1)
cosh = _define("cosh", 1)
tanh = _define("tanh", 1)
asinh = _define("asinh", 1)
acosh = _define("acosh", 1)
atanh = _define("atanh", 1)
cbrt = _define("cbrt", 1)
sqrt = _define("sqrt", 1)
pow = _define("pow", 2)
atan2 = _define("atan2", 2)
hypot = _define("hypot", 2)
fmod = _define("fmod", 2)
erf = _define("erf", 1)
erfc = _define("erfc", 1)
floor = _define("floor", 1)
ceil = _define("ceil", 1)
rint = _define("rint", 1)
trunc = _define("trunc", 1)
fabs = _define("fabs", 1)
copysign = _define("copysign", 2)
