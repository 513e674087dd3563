"""Compiled kernels, kept on disk.

Numba translates a kernel to LLVM; everything after that is done here.  A kernel's machine code is
one small object file in the cache folder, linked into the process by LLVM's ORC linker.  Against
Numba's own cache that means:

* a warm start never touches Numba's typing machinery (0.3 s) and links a kernel in under 1 ms;
* a missing symbol is an error that we catch, where Numba's loader aborts the process;
* loops are vectorised without interleaving, so that 8 elements already fill the vector loop.

A file holds a digest, the *stamp* (whatever makes the code stale: sources, versions) and the
machine code.  Its name holds a hash of the *target* (CPU, vector mathematics, signature), so that
machines which share a folder don't evict each other's kernels.  Files are replaced atomically.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import itertools
import os
import pickle
import re
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import _dynfunc, types
from numba.core import base, caching, compiler, config, registry, serialize, sigutils
from numba.core import codegen as numba_codegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime import _nrt_python
from numba.core.typing.templates import Signature

from . import vectormath

__all__ = [
    "KERNEL",
    "CacheStats",
    "CacheWarning",
    "cache_stats",
    "compile_entry",
    "compile_kernel",
    "on_compile",
]

#: Signature of a kernel: status from the addresses of a context and an instruction.
KERNEL = types.int64(types.int64, types.int64)


class CacheWarning(UserWarning):
    """The kernel cache can't be used as it should; results are not affected."""


class CacheStats(NamedTuple):
    """What this process compiled and loaded so far."""

    compiled: int
    """Kernels and entries compiled."""
    loaded: int
    """Kernels and entries taken from the disk cache."""
    seconds: float
    """Time spent compiling."""
    load_seconds: float
    """Time spent loading."""


class _Code(NamedTuple):
    """Machine code, and what is needed to link it."""

    object: bytes
    entry: str  # the function's symbol
    environment: str  # symbol of the pointer to Numba's environment; empty for kernels
    imports: tuple[str, ...]  # symbols that it takes from the process


_stats = CacheStats(0, 0, 0.0, 0.0)
_callbacks: list[Callable[[str], object]] = []
_kernels: dict[tuple[Callable, Signature], int] = {}
_entries: dict[tuple[Callable, Signature, bool], Callable] = {}


def cache_stats() -> CacheStats:
    """Counts and seconds of this process, for a progress line.

    Returns
    -------
    CacheStats
    """
    return _stats


def on_compile(callback: Callable[[str], object]) -> Callable[[], None]:
    """Have ``callback`` called with a function's name before each cold compilation.

    Parameters
    ----------
    callback
        Called as ``callback(name)``, in the thread that compiles.

    Returns
    -------
    callable
        Call it to remove the callback.
    """
    _callbacks.append(callback)
    return lambda: _callbacks.remove(callback) if callback in _callbacks else None


def compile_kernel(function: Callable, signature: Signature | str = KERNEL) -> int:
    """Address of compiled ``function``, a C function that needs no GIL.

    Parameters
    ----------
    function
        Undecorated Python function; compiled as by ``numba.njit(error_model="numpy")``.
    signature
        Its types; those of a kernel by default.

    Returns
    -------
    int
        The address.  The code stays loaded as long as the process lives.

    Notes
    -----
    Kernels don't raise: an exception inside of a compiled kernel becomes Numba's non-zero status
    code, and the result where the result is an integer.
    """
    signature = _signature(signature)
    address = _kernels.get((function, signature))
    if address is None:
        with global_compiler_lock:
            address = _kernels.get((function, signature))
            if address is None:
                address = _obtain(function, signature, None)
                _kernels[function, signature] = address
    return address


def compile_entry(
    signature: Signature | str, function: Callable, *, nogil: bool = True
) -> Callable[..., Any]:
    """Compiled ``function`` as a Python callable, for interpreters.

    Parameters
    ----------
    signature
        Types of the result and the arguments, as ``"int64(int64,int64)"``.
    function
        Undecorated Python function; compiled as by ``numba.njit(error_model="numpy")``.  One that
        takes arrays can't make any: it is compiled without Numba's allocator.
    nogil
        Whether a call releases the GIL.

    Returns
    -------
    callable
        A builtin function of positional arguments.  It converts them to the signature's types;
        there is no dispatch on types.
    """
    signature = _signature(signature)
    entry = _entries.get((function, signature, nogil))
    if entry is None:
        with global_compiler_lock:
            entry = _entries.get((function, signature, nogil))
            if entry is None:
                entry = _obtain(function, signature, nogil)
                _entries[function, signature, nogil] = entry
    return entry


@functools.cache
def _signature(signature: Signature | str) -> Signature:
    args, result = sigutils.normalize_signature(signature)
    if result is None:
        raise TypeError(f"signature {signature} names no return type")
    return result(*args)


# --- load or compile ----------------------------------------------------------------------------


def _obtain(function: Callable, signature: Signature, nogil: bool | None) -> Any:
    """Load or compile ``function``: an address (``nogil`` None) or a Python callable."""
    path = _path(function, signature, nogil)
    started = time.perf_counter()
    linked = _load(path, function)
    if linked is not None:
        _count(loaded=1, load_seconds=time.perf_counter() - started)
        return linked
    for callback in tuple(_callbacks):
        callback(function.__qualname__)
    started = time.perf_counter()
    code, cachable = _compile(function, signature, nogil)
    linked = _link(code, function)
    _count(compiled=1, seconds=time.perf_counter() - started)
    if path is not None and cachable:
        _save(path, function, code)
    return linked


def _count(**more: float) -> None:
    global _stats
    _stats = _stats._replace(**{name: getattr(_stats, name) + n for name, n in more.items()})


@functools.cache
def _warn(text: str) -> None:
    """Warn once per process."""
    warnings.warn(text, CacheWarning, stacklevel=2)


# --- files --------------------------------------------------------------------------------------


def _load(path: Path | None, function: Callable) -> Any:
    """Link what ``path`` holds; None where it holds nothing that can be used here."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        digest, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError("damaged")
        stamp, fields = pickle.loads(payload)
        if stamp != _stamp(function):
            return None  # of other sources or another version: overwritten below
        return _link(_Code(*fields), function)
    except Exception as error:
        _warn(
            f"the kernel cache in {path.parent} holds a file that can't be used "
            f"({path.name}: {str(error).splitlines()[0]}); compiling anew"
        )
        return None


def _save(path: Path, function: Callable, code: _Code) -> None:
    payload = pickle.dumps((_stamp(function), tuple(code)), protocol=4)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(hashlib.sha256(payload).digest() + payload)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        _warn(
            f"compiled kernels can't be kept in {path.parent} ({error.strerror}); they are "
            "compiled again in each process. Set TAPEJIT_CACHE_DIR to a folder that is writable"
        )


def _path(function: Callable, signature: Signature, nogil: bool | None) -> Path | None:
    """The file of ``function``, compiled for this machine; None for one that is not kept."""
    if getattr(function, "transient", False):
        return None
    try:
        folder = _folder(inspect.getfile(function), function)
    except (RuntimeError, TypeError) as error:
        _warn(f"compiled kernels can't be kept on disk ({error})")
        return None
    target = (str(signature), nogil, _captured(function), *_target())
    name = re.sub(r"[^\w.]", "_", f"{function.__module__}.{function.__qualname__}")
    return folder / f"{name[-100:]}-{_hash(repr(target).encode())[:16]}.tjk"


_folders: dict[tuple[str, ...], Path] = {}


def _folder(source: str, function: Callable) -> Path:
    """The cache folder for functions of the file ``source``: ours if set, else Numba's choice."""
    chosen = os.environ.get("TAPEJIT_CACHE_DIR", "")
    key = (source, chosen, config.CACHE_DIR)
    if key not in _folders:
        if chosen:
            subfolder = caching._CacheLocator.get_suitable_cache_subpath(source)
            _folders[key] = Path(chosen, subfolder)
        else:
            _folders[key] = Path(caching.CompileResultCacheImpl(function).locator.get_cache_path())
    return _folders[key]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.cache
def _target() -> tuple[str, ...]:
    """The machine that code is compiled for."""
    cpu = llvm.get_host_cpu_name() if config.CPU_NAME is None else config.CPU_NAME
    features = config.CPU_FEATURES
    if features is None:
        features = numba_codegen.get_host_cpu_features()
    return (
        llvm.get_process_triple(),
        cpu,
        features,
        str(sys.implementation.cache_tag),
        vectormath.identity(),
    )


def _stamp(function: Callable) -> tuple[str, ...]:
    """What code of ``function`` depends on apart from the machine."""
    code = function.__code__
    return (
        _package_version(),
        numba.__version__,
        llvmlite.__version__,
        str((config.LOOP_VECTORIZE, config.SLP_VECTORIZE)),
        _source_hash(inspect.getfile(function)),
        _hash(repr((code.co_code, _constants(code), code.co_names)).encode()),
    )


def _captured(function: Callable) -> str:
    """Hash of what a closure captures; compiled code holds it as constants."""
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    return _hash(serialize.dumps(cells)) if cells else ""


def _constants(code: Any) -> tuple:
    """Constants of ``code``; nested code, whose repr holds an address, as its own."""
    return tuple(
        (c.co_code, _constants(c), c.co_names) if inspect.iscode(c) else c for c in code.co_consts
    )


def _package_version() -> str:
    package = sys.modules.get(__name__.partition(".")[0])
    return getattr(package, "__version__", "0")


@functools.cache
def _source_hash(source: str) -> str:
    """Hash of the file of a function and of all that it may inline: this folder's modules."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(source)]
    return _hash(b"".join(_hash(f.read_bytes()).encode() for f in files if f.is_file()))


# --- link ---------------------------------------------------------------------------------------


@functools.cache
def _linker() -> llvm.orcjit.LLJIT:
    numba_codegen.initialize_llvm()
    return llvm.create_lljit_compiler(suppress_errors=True)


_linked: list[Any] = []  # keeps code loaded
_serial = itertools.count()  # a library's name is spent even if linking fails


@functools.cache
def _register_numba_helpers() -> None:
    """What setting up Numba's CPU target registers, without setting it up."""
    base._load_global_helpers()
    for name, address in _nrt_python.c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else "NRT_" + name, address)


def _address(name: str) -> int:
    """Address of a symbol of the process, or of Numba's helpers for compiled code."""
    address = llvm.address_of_symbol(name)
    if not address:
        _register_numba_helpers()
        address = llvm.address_of_symbol(name)
    if not address:
        # LLVM sees the C API only once something has loaded the process's own symbols into it.
        function = getattr(ctypes.pythonapi, name, None)
        if function is None:
            raise RuntimeError(f"this process has no symbol {name}")
        address = ctypes.cast(function, ctypes.c_void_p).value
    return address


def _link(code: _Code, function: Callable) -> Any:
    """Link ``code``: its address, or where it has an environment a Python callable."""
    library = llvm.JITLibraryBuilder().add_object_img(code.object).add_current_process()
    for name in code.imports:
        library.import_symbol(name, _address(name))
    library.export_symbol(code.entry)
    if code.environment:
        library.export_symbol(code.environment)
    tracker = library.link(_linker(), f"tapejit.{next(_serial)}")
    _linked.append(tracker)
    if not code.environment:
        return tracker[code.entry]
    environment = _dynfunc.Environment(function.__globals__)
    _linked.append(environment)
    ctypes.c_void_p.from_address(tracker[code.environment]).value = id(environment)
    return _dynfunc.make_function(
        sys.modules.get(function.__module__),
        function.__name__,
        function.__doc__ or "",
        tracker[code.entry],
        environment,
        (tracker,),
    )


# --- compile ------------------------------------------------------------------------------------


class _Library(numba_codegen.AOTCodeLibrary):
    """Code of one function with all that it calls, optimised as one and emitted as an object."""

    exports: tuple[str, ...] = ()

    def add_ir_module(self, ir_module: ir.Module) -> None:
        vectormath.annotate_loops(ir_module)
        super().add_ir_module(ir_module)

    def _optimize_final_module(self) -> None:
        # Nothing but the exports is visible from outside: the rest is inlined and dropped, and
        # the object needs none of the symbols of Numba's unused helpers.
        if not self.exports:
            return  # a part of another library: optimised there
        module = self._final_module
        for value in (*module.functions, *module.global_variables):
            visible = value.is_declaration or value.name in self.exports
            if not visible and not value.name.startswith("llvm."):
                value.linkage = "internal"
        builder = self._codegen.kernel_passes()
        manager = builder.getModulePassManager()
        manager.add_refprune_pass()
        if hasattr(manager, "add_global_dead_code_eliminate_pass"):  # absent from old llvmlite
            manager.add_global_dead_code_eliminate_pass()
        manager.run(module, builder)

    def imports(self, code: bytes) -> tuple[str, ...]:
        """Symbols that the object ``code`` of this library takes from the process."""
        module = self._final_module
        values = (*module.functions, *module.global_variables)
        names = (value.name for value in values if value.is_declaration)
        # Declarations that nothing refers to are not in the object's string table.
        return tuple(name for name in names if name.encode() + b"\0" in code)


class _Codegen(numba_codegen.JITCPUCodegen):
    """Numba's code generation for this CPU, emitting objects and running nothing."""

    _library_class = _Library

    def _add_module(self, module: llvm.ModuleRef) -> None:
        pass

    def kernel_passes(self) -> llvm.PassBuilder:
        """LLVM's pipeline for kernels."""
        tuning = llvm.create_pipeline_tuning_options()
        tuning.speed_level = 3
        tuning.loop_vectorization = bool(config.LOOP_VECTORIZE)
        tuning.slp_vectorization = bool(config.SLP_VECTORIZE)
        # Interleaved, a loop of vector calls would only start at 16 or 32 elements; what it
        # gains on long additions is within the noise (the tiles are in L1).
        tuning.loop_interleaving = False
        return llvm.create_pass_builder(self._tm, tuning)


@functools.cache
def _context() -> Any:
    """Numba's CPU target, with our code generation and C wrapper."""
    target = registry.cpu_target
    target.typing_context.refresh()
    target.target_context.refresh()
    context = target.target_context.subtarget(_internal_codegen=_Codegen("tapejit"))
    context.create_cfunc_wrapper = functools.partial(_wrap, context)
    return context


def _wrap(context: Any, library: Any, fndesc: Any, env: Any, call_helper: Any) -> None:
    """The C function around a compiled one.

    Numba's own is not inlined, and calls into Python where the function raises.
    """
    module = context.create_module("kernel")
    inner_type = context.call_conv.get_function_type(fndesc.restype, fndesc.argtypes)
    inner = ir.Function(module, inner_type, fndesc.llvm_func_name)
    arguments = [context.get_value_type(kind) for kind in fndesc.argtypes]
    result_type = context.get_value_type(fndesc.restype)
    outer_type = ir.FunctionType(result_type, arguments)
    outer = ir.Function(module, outer_type, fndesc.llvm_cfunc_wrapper_name)
    builder = ir.IRBuilder(outer.append_basic_block("entry"))
    status, out = context.call_conv.call_function(
        builder, inner, fndesc.restype, fndesc.argtypes, outer.args
    )
    if isinstance(result_type, ir.IntType) and result_type.width >= 32:
        code = builder.zext(status.code, result_type) if result_type.width > 32 else status.code
        out = builder.select(status.is_error, code, out)
    builder.ret(out)
    library.add_ir_module(module)


def _flags(signature: Signature, nogil: bool | None) -> compiler.Flags:
    flags = compiler.Flags()
    options = {"nopython": True, "nogil": bool(nogil), "error_model": "numpy"}
    # Loops over arrays count no references to them: an atomic operation for each array that one
    # function hands to another costs more than most rows of a tape.  (Without the counts nothing
    # can be allocated; what is given addresses needs no arrays, and users' kernels may make some.)
    options["_nrt"] = not any(isinstance(kind, types.Array) for kind in signature.args)
    registry.cpu_target.options.parse_as_flags(flags, options)
    flags.enable_pyobject = False
    flags.no_cpython_wrapper = nogil is None
    flags.no_cfunc_wrapper = nogil is not None
    flags.no_compile = True  # finished below, when the exports are known
    return flags


def _compile(function: Callable, signature: Signature, nogil: bool | None) -> tuple[_Code, bool]:
    """Machine code of ``function``, and whether another process can use it."""
    context = _context()
    result = compiler.compile_extra(
        registry.cpu_target.typing_context,
        context,
        function,
        args=signature.args,
        return_type=signature.return_type,
        flags=_flags(signature, nogil),
        locals={},
    )
    described, library = result.fndesc, result.library
    if nogil is None:
        entry, environment = described.llvm_cfunc_wrapper_name, ""
    else:
        entry = described.llvm_cpython_wrapper_name
        environment = context.get_env_name(described)
    library.exports = (entry, environment)
    library.finalize()
    code = library.emit_native_object()
    linkable = _Code(code, entry, environment, library.imports(code))
    return linkable, not library.has_dynamic_globals
