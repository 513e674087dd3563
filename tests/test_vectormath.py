"""Elementary functions: accuracy, IEEE edges, vector calls in small loops, and the way without."""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from numba.core.compiler_lock import global_compiler_lock

from tapejit.interpreters import cache, vectormath
from tapejit.interpreters.memory import f64, i64
from tapejit.interpreters.vectormath import independent

INTRINSIC = ["sqrt", "floor", "ceil", "rint", "trunc", "fabs"]
UNARY = [name for name, arity in vectormath._LIBM.items() if arity == 1] + INTRINSIC
BINARY = ["pow", "atan2", "hypot", "copysign", "fmod"]
LIBM = [name for name in UNARY + BINARY if name in vectormath._LIBM]

#: Where values are compared; the rest of the line is in EDGES.
RANGES = {
    "exp": (-700, 700), "exp2": (-1000, 1000), "expm1": (-30, 700), "log": (1e-300, 1e300),
    "log2": (1e-300, 1e300), "log10": (1e-300, 1e300), "log1p": (-0.999, 1e6),
    "sinh": (-700, 700), "cosh": (-700, 700), "acosh": (1, 1e6), "asin": (-1, 1),
    "acos": (-1, 1), "atanh": (-0.999, 0.999), "sqrt": (0, 1e300), "erf": (-6, 6),
    "erfc": (-6, 26),
}  # fmt: skip
# fmt: off
EDGES = np.array([
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, 5e-324, -5e-324,
    2.2e-308, -2.2e-308, 1e308, -1e308, 710.0, -746.0, 1e-10, -1e-10, 2.0, -2.0, 1e22, 3e5,
])
# fmt: on
REFERENCE = {
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "pow": np.power,
    "atan2": np.arctan2,
}  # fmt: skip


def unary_kernel(function):
    def kernel(ctx, ins):
        p = i64(ctx, 4)
        n = p[0]
        out = f64(p[1], n)
        x = f64(p[2], n)
        for k in range(independent(n)):
            out[k] = function(x[k])
        return 0

    return kernel


def binary_kernel(function):
    def kernel(ctx, ins):
        p = i64(ctx, 4)
        n = p[0]
        out = f64(p[1], n)
        x = f64(p[2], n)
        y = f64(p[3], n)
        for k in range(independent(n)):
            out[k] = function(x[k], y[k])
        return 0

    return kernel


def shape_of(name):
    return binary_kernel if name in BINARY else unary_kernel


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAPEJIT_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


@pytest.fixture(scope="module")
def run():
    """Evaluate a function over arrays, compiled."""
    kernels = {name: shape_of(name)(getattr(vectormath, name)) for name in UNARY + BINARY}

    def evaluate(name, *arrays):
        out = np.empty_like(arrays[0])
        pointers = [a.ctypes.data for a in (out, *arrays)] + [0]
        context = np.array([out.size, *pointers][:4], np.int64)
        assert call(cache.compile_kernel(kernels[name]), context) == 0
        return out

    return evaluate


def call(address, context):
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)(
        context.ctypes.data, 0
    )


def reference(name):
    if name.startswith("erf"):
        from scipy import special

        return getattr(special, name)
    return REFERENCE.get(name) or getattr(np, name)


def sample(name, n=400):
    rng = np.random.default_rng(0)
    low, high = RANGES.get(name, (-50, 50))
    if low > 0:
        return np.exp(rng.uniform(math.log(low), math.log(high), n))
    return np.concatenate([rng.uniform(low, high, n // 2), rng.uniform(max(low, -1), 1, n // 2)])


def exact(name, *values):
    functions = {
        "exp2": lambda x: mpmath.power(2, x),
        "log2": lambda x: mpmath.log(x, 2),
        "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
        "pow": mpmath.power,
    }
    with mpmath.workprec(160):
        return (functions.get(name) or getattr(mpmath, name))(*map(mpmath.mpf, values))


def ulps(name, got, *arrays):
    worst = 0.0
    for value, *args in zip(got, *arrays, strict=True):
        true = exact(name, *map(float, args))
        if abs(true) >= 2.3e-308:
            error = abs(mpmath.mpf(float(value)) - true)
            worst = max(worst, float(error / np.spacing(abs(float(true)))))
    return worst


@pytest.mark.parametrize("name", [n for n in LIBM if n != "fmod"] + ["sqrt"])
def test_accuracy(name, run):
    if name in BINARY:
        rng = np.random.default_rng(1)
        x, y = rng.uniform(1e-3, 30, 300), rng.uniform(-30, 30, 300)
        arrays = (x, y)
    else:
        arrays = (sample(name),)
    assert ulps(name, run(name, *arrays), *arrays) <= 4.0


@pytest.mark.parametrize("name", UNARY)
def test_edges_unary(name, run):
    x = np.resize(EDGES, 32)
    with np.errstate(all="ignore"):
        expected = reference(name)(x)
    got = run(name, x)
    np.testing.assert_allclose(got, expected, rtol=2e-15, atol=1e-323)
    settled = (expected == 0) | np.isinf(expected)
    assert (np.signbit(got) == np.signbit(expected))[settled].all()


@pytest.mark.parametrize("name", BINARY)
def test_edges_binary(name, run):
    x, y = (a.ravel() for a in np.meshgrid(EDGES, EDGES))
    with np.errstate(all="ignore"):
        expected = reference(name)(x, y)
    np.testing.assert_allclose(run(name, x, y), expected, rtol=1e-14, atol=1e-323)


@pytest.mark.parametrize("name", UNARY + BINARY)
def test_plain_python(name):
    function = getattr(vectormath, name)
    arity = 2 if name in BINARY else 1
    for args in zip(*(np.roll(EDGES, i) for i in range(arity)), strict=True):
        got = function(*map(float, args))
        with np.errstate(all="ignore"):
            expected = float(reference(name)(*args))
        assert type(got) is float
        assert got == expected or (math.isnan(got) and math.isnan(expected))


def test_plain_and_compiled_take_integers():
    def kernel(ctx, ins):
        return int(vectormath.sqrt(ins) + vectormath.pow(2, 3))

    assert kernel(0, 16) == 12
    assert call(cache.compile_kernel(kernel), np.zeros(0)) == 8


@pytest.mark.skipif(vectormath.identity() == "scalar", reason="no libmvec")
@pytest.mark.parametrize("name", [n for n in LIBM if n != "fmod"])
def test_loops_call_the_vector_function(name):
    if f" -{name}" in vectormath.identity():
        pytest.skip("not in this libmvec")
    kernel = shape_of(name)(getattr(vectormath, name))
    with global_compiler_lock:
        code, _ = cache._compile(kernel, cache.KERNEL, None)
    assert any(symbol.startswith("_ZGV") for symbol in code.imports)


def conditional(ctx, ins):
    p = i64(ctx, 4)
    n = p[0]
    g = f64(p[1], n)
    x = f64(p[2], n)
    for k in range(independent(n)):
        g[k] = g[k] * vectormath.exp(x[k]) if g[k] != 0.0 else 0.0
    return 0


@pytest.mark.skipif(vectormath.identity() == "scalar", reason="no libmvec")
def test_a_condition_does_not_prevent_vector_calls():
    with global_compiler_lock:
        code, _ = cache._compile(conditional, cache.KERNEL, None)
    assert any(symbol.startswith("_ZGV") for symbol in code.imports)
    g, x = np.array([0.0, 1.0, 2.0, 0.0] * 4), np.array([np.inf, 0.0, 1.0, np.nan] * 4)
    expected = np.array([0.0, 1.0, 2.0 * math.e, 0.0] * 4)
    call(cache.compile_kernel(conditional), np.array([16, g.ctypes.data, x.ctypes.data, 0]))
    np.testing.assert_allclose(g, expected, rtol=1e-15)


def in_place(ctx, ins):
    p = i64(ctx, 4)
    n = p[0]
    out = f64(p[1], n)
    x = f64(p[2], n)
    for k in range(independent(n)):
        out[k] = x[k] * x[k] + 1.0
    return 0


def test_independent_loops_in_place_and_side_by_side():
    assert independent(3) == 3
    address = cache.compile_kernel(in_place)
    memory = np.arange(48.0)
    a, b = memory[:16], memory[16:32]  # neighbours in memory
    call(address, np.array([16, b.ctypes.data, a.ctypes.data, 0]))
    np.testing.assert_array_equal(b, np.arange(16.0) ** 2 + 1)
    call(address, np.array([16, a.ctypes.data, a.ctypes.data, 0]))
    np.testing.assert_array_equal(a, np.arange(16.0) ** 2 + 1)
    np.testing.assert_array_equal(memory[32:], np.arange(32.0, 48.0))


def prefix_sum(ctx, ins):
    p = i64(ctx, 4)
    n = p[0]
    x = f64(p[1], n)
    y = f64(p[2], n)
    for k in range(n - 1):
        y[k + 1] = y[k + 1] + x[k]
    return 0


def test_other_loops_keep_their_order():
    x = np.ones(40)  # the same array twice: each iteration reads what the last one wrote
    call(cache.compile_kernel(prefix_sum), np.array([40, x.ctypes.data, x.ctypes.data, 0]))
    np.testing.assert_array_equal(x, np.arange(1.0, 41.0))


CHILD = """
import json, sys
import tapejit.interpreters.vectormath as v
if "hide" in sys.argv: v._LIBRARY = "libmvec-that-is-not-there.so.1"
print(json.dumps(v.identity()))
"""


def identity_in_child(*args, **environment):
    result = subprocess.run(
        [sys.executable, "-c", CHILD, *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


def test_identity():
    assert identity_in_child() == vectormath.identity()
    assert identity_in_child(TAPEJIT_VECTOR_MATH="0") == "scalar"
    assert identity_in_child("hide") == "scalar"


@pytest.mark.skipif(vectormath.identity() == "scalar", reason="no libmvec")
def test_identity_follows_the_cpu():
    narrow = identity_in_child(NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="+sse2")
    assert narrow.startswith("libmvec:b") and "e" not in narrow.split()[0].partition(":")[2]


def test_a_libmvec_without_some_functions(monkeypatch):
    full = vectormath.llvm.address_of_symbol
    old = {"exp", "log", "pow", "sin", "cos"}
    monkeypatch.setattr(
        vectormath.llvm,
        "address_of_symbol",
        lambda s: full(s) if not s.startswith("_ZGV") or s.split("_")[-1] in old else None,
    )
    library = vectormath._open_libmvec()
    assert library.functions <= old
    assert library.variants("tanh") == []
