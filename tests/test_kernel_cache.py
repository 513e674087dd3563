"""The kernel cache: hits, staleness, damage, other machines, concurrency, no place to write."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest

from tapejit.interpreters import cache, vectormath

KERNELS = """
    from tapejit.interpreters.memory import f64
    from tapejit.interpreters.vectormath import exp, independent

    SCALE = 2.0

    def kernel(ctx, ins):
        x = f64(ctx, 16)
        for k in range(independent(16)):
            x[k] = SCALE * exp(x[k])
        return 0

    def entry(a, b):
        return 2 * a + b

    def total(x):
        s = 0.0
        for k in range(x.size):
            s += x[k]
        return s
"""

#: Runs in a process of its own: compiles the kernel and the entry, and says what happened.
CHILD = """
import ctypes, json, sys, warnings
import numpy as np
from tapejit.interpreters import cache, vectormath
exec(sys.argv[1])
import kernels
names = []
cache.on_compile(names.append)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    x = np.linspace(-1, 1, 16)
    expected = 2 * np.exp(x)
    status = call(cache.compile_kernel(kernels.kernel))(x.ctypes.data, 0)
    correct = bool(np.allclose(x, expected, rtol=1e-15) and status == 0)
    correct &= cache.compile_entry("int64(int64,int64)", kernels.entry)(20, 2) == 42
    correct &= cache.compile_entry("float64(float64[::1])", kernels.total)(np.ones(9)) == 9.0
stats = cache.cache_stats()
from numba.core import registry
print(json.dumps({
    "correct": correct,
    "compiled": stats.compiled,
    "loaded": stats.loaded,
    "names": names,
    "warnings": [str(w.message) for w in caught if w.category is cache.CacheWarning],
    "other": [str(w.message) for w in caught if w.category is not cache.CacheWarning],
    "typing": "_toplevel_target_context" in registry.cpu_target.__dict__,
}))
"""


class Sandbox:
    """A folder with a module of kernels, used by child processes that share a cache."""

    def __init__(self, folder):
        self.folder = folder
        self.cache = folder / "cache"
        self.write(KERNELS)

    def write(self, source):
        (self.folder / "kernels.py").write_text(textwrap.dedent(source))

    def files(self):
        return sorted(self.cache.rglob("*.tjk"))

    def start(self, before="pass", **environment):
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join([str(self.folder), root])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TAPEJIT_CACHE_DIR": str(self.cache),
            **environment,
        }
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, before],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def finish(process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        result = json.loads(out)
        assert result["correct"]
        assert result["other"] == []
        return result

    def run(self, before="pass", **environment):
        return self.finish(self.start(before, **environment))


@pytest.fixture(scope="module")
def warm_folder(tmp_path_factory):
    """A cache as a first run leaves it, to be copied."""
    sandbox = Sandbox(tmp_path_factory.mktemp("first"))
    result = sandbox.run()
    assert (result["compiled"], result["loaded"]) == (3, 0)
    assert result["names"] == ["kernel", "entry", "total"]
    assert result["warnings"] == []
    return sandbox


@pytest.fixture
def warm(warm_folder):
    """The warm cache; whatever a test does to it is undone."""
    before = {file: file.read_bytes() for file in warm_folder.files()}
    yield warm_folder
    warm_folder.write(KERNELS)
    for file in warm_folder.files():
        if file not in before:
            file.unlink()
    for file, content in before.items():
        file.write_bytes(content)


def is_cold(result):
    return (result["compiled"], result["loaded"]) == (3, 0)


def is_warm(result):
    return (result["compiled"], result["loaded"]) == (0, 3)


def test_a_second_process_loads_without_numba_s_typing(warm):
    result = warm.run()
    assert is_warm(result)
    assert result["names"] == []
    assert not result["typing"]


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\0" * 400, None], ids=["empty", "short", "zeros", "flipped"]
)
def test_damaged_files(warm, content):
    for file in warm.files():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data) if content is None else content)
    result = warm.run()
    assert is_cold(result)
    assert result["warnings"]
    assert "can't be used" in result["warnings"][0]
    again = warm.run()
    assert is_warm(again)
    assert again["warnings"] == []


def test_object_code_that_names_a_missing_symbol(warm):
    for file in warm.files():
        stamp, fields = pickle.loads(file.read_bytes()[32:])
        code = cache._Code(*fields)._replace(imports=("no_such_symbol",))
        payload = pickle.dumps((stamp, tuple(code)))
        file.write_bytes(cache.hashlib.sha256(payload).digest() + payload)
    result = warm.run()
    assert is_cold(result)
    assert "no_such_symbol" in result["warnings"][0]


def test_object_code_whose_symbols_are_not_listed(warm):
    """The linker's own check: an error, not an abort."""
    for file in warm.files():
        stamp, fields = pickle.loads(file.read_bytes()[32:])
        code = cache._Code(*fields)
        text = code.object.replace(b"tapejit_exp\0", b"tapejit_xxx\0")
        text = text.replace(b"_ZGVeN8v_exp\0", b"_ZGVeN8v_xxx\0")
        payload = pickle.dumps((stamp, tuple(code._replace(object=text, imports=()))))
        file.write_bytes(cache.hashlib.sha256(payload).digest() + payload)
    result = warm.run()
    assert result["compiled"] >= 1


def test_changed_kernel_source(warm):
    warm.write(KERNELS.replace("SCALE = 2.0", "SCALE = 2.0  # as before"))
    assert is_cold(warm.run())
    assert len(warm.files()) == 3  # overwritten
    assert is_warm(warm.run())


def test_changed_helper_source(warm):
    hidden = """
import pathlib
real = pathlib.Path.read_bytes
pathlib.Path.read_bytes = lambda path: real(path) + b"#" * (path.name == "memory.py")
"""
    assert is_cold(warm.run(hidden))


@pytest.mark.parametrize(
    "change",
    [
        "import numba; numba.__version__ = '99.0'",
        "import llvmlite; llvmlite.__version__ = '99.0'",
        "cache._package_version = lambda: '99.0'",
    ],
)
def test_another_version(warm, change):
    result = warm.run(change)
    assert is_cold(result)
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("before", "environment"),
    [
        ("pass", {"TAPEJIT_VECTOR_MATH": "0"}),
        ("vectormath._LIBRARY = 'libmvec-missing.so.1'", {}),
    ],
)
def test_without_libmvec(warm, before, environment):
    result = warm.run(before, **environment)
    assert result["warnings"] == []
    if vectormath.identity() != "scalar":
        assert is_cold(result)
        assert is_warm(warm.run(before, **environment))
    assert is_warm(warm.run())  # the other kernels are still there


def test_another_cpu(warm):
    other = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("names an x86 CPU")
    assert is_cold(warm.run(**other))
    assert is_warm(warm.run(**other))
    assert is_warm(warm.run())


@pytest.mark.parametrize("processes", [4])
def test_concurrent_processes(tmp_path, processes):
    sandbox = Sandbox(tmp_path)
    for result in [sandbox.finish(p) for p in [sandbox.start() for _ in range(processes)]]:
        assert result["warnings"] == []
    assert len(sandbox.files()) == 3
    assert [file for file in sandbox.cache.rglob("*") if file.suffix == ".tmp"] == []
    assert is_warm(sandbox.run())


def test_no_place_to_write(tmp_path):
    sandbox = Sandbox(tmp_path)
    sandbox.cache.write_text("a file stands where the folder should be")
    result = sandbox.run()
    assert is_cold(result)
    assert len(result["warnings"]) == 1
    assert "TAPEJIT_CACHE_DIR" in result["warnings"][0]


def test_numba_s_folders(tmp_path):
    sandbox = Sandbox(tmp_path)
    chosen = tmp_path / "numba"
    assert is_cold(sandbox.run(TAPEJIT_CACHE_DIR="", NUMBA_CACHE_DIR=str(chosen)))
    assert len(list(chosen.rglob("*.tjk"))) == 3
    assert is_cold(sandbox.run(TAPEJIT_CACHE_DIR="", NUMBA_CACHE_DIR=""))
    assert len(list((tmp_path / "__pycache__").glob("*.tjk"))) == 3


def test_a_function_without_a_file(monkeypatch):
    monkeypatch.delenv("TAPEJIT_CACHE_DIR", raising=False)
    scope = {}
    exec("def nowhere(ctx, ins):\n    return ctx + ins", scope)
    cache._warn.cache_clear()
    with pytest.warns(cache.CacheWarning, match="can't be kept on disk"):
        address = cache.compile_kernel(scope["nowhere"])
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)
    assert call(40, 2) == 42


# --- in this process ----------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPEJIT_CACHE_DIR", str(tmp_path))
    return tmp_path


def add(ctx, ins):
    return ctx + ins


def adder(amount):
    def add_amount(ctx, ins):
        return ctx + amount

    return add_amount


def fails(ctx, ins):
    if ins > 1:
        raise ValueError("unlucky")
    return 0


def total(x, factor):
    s = 0.0
    for k in range(x.size):
        s += factor * x[k]
    return s


def as_c(address):
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)


def test_memoised_and_thread_safe(own_cache):
    before = cache.cache_stats()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.compile_kernel(add))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    after = cache.cache_stats()
    assert after.compiled - before.compiled == 1
    assert after.seconds > before.seconds
    assert as_c(found[0])(40, 2) == 42


def test_closures_are_told_apart(own_cache):
    assert as_c(cache.compile_kernel(adder(1)))(40, 0) == 41
    assert as_c(cache.compile_kernel(adder(2)))(40, 0) == 42
    assert len(list(own_cache.rglob("*.tjk"))) == 2
    loaded = cache.cache_stats().loaded
    assert as_c(cache.compile_kernel(adder(2)))(40, 0) == 42
    assert cache.cache_stats().loaded == loaded + 1


def test_a_kernel_that_raises_returns_a_status(own_cache):
    address = cache.compile_kernel(fails)
    assert as_c(address)(0, 0) == 0
    assert as_c(address)(0, 2) != 0


def test_other_signatures(own_cache):
    address = cache.compile_kernel(add, "float64(float64, float64)")
    assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_double)(address)(1, 2) == 3
    with pytest.raises(TypeError, match="return type"):
        cache.compile_kernel(add, "(float64, float64)")


def test_entries(own_cache):
    entry = cache.compile_entry("int64(int64,int64)", add)
    assert entry is cache.compile_entry("int64(int64,int64)", add)
    assert entry(40, 2) == 42
    with pytest.raises(TypeError):
        entry(1)
    with pytest.raises(TypeError):
        entry(None, 2)
    failing = cache.compile_entry("int64(int64,int64)", fails)
    with pytest.raises(ValueError, match="unlucky"):
        failing(0, 2)


@pytest.mark.parametrize("nogil", [True, False])
def test_entries_with_arrays(own_cache, nogil):
    x = np.arange(10.0)
    references = sys.getrefcount(x)
    for _ in range(2):  # compiled, then loaded
        entry = cache.compile_entry("float64(float64[::1],float64)", total, nogil=nogil)
        for _ in range(5):
            assert entry(x, 2.0) == 90.0
        cache._entries.clear()
    assert sys.getrefcount(x) == references


def test_callbacks(own_cache):
    names = []
    remove = cache.on_compile(names.append)
    cache.compile_kernel(adder(3))
    remove()
    remove()
    cache.compile_kernel(adder(4))
    assert names == ["adder.<locals>.add_amount"]


def test_warnings_are_given_once():
    cache._warn.cache_clear()
    with pytest.warns(cache.CacheWarning):
        cache._warn("only once")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache._warn("only once")
