"""Dense linear algebra on raw addresses, against NumPy, compiled and as plain Python."""

import ctypes
import itertools
import subprocess
import sys

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal

from tapejit.interpreters import blas

TABLE = blas.table_address()


def address(array):
    return array.__array_interface__["data"][0]


def _compiled(function):
    """Compiled the way kernels are: the function is reached from compiled code."""
    names = ", ".join(function.__code__.co_varnames[: function.__code__.co_argcount])
    namespace = {"function": function}
    exec(f"def call({names}):\n    return function({names})\n", namespace)
    return njit(nogil=True, error_model="numpy")(namespace["call"])


_NAMES = [
    "matmul",
    "lu_factor",
    "lu_solve",
    "lu_inverse",
    "lu_slogdet",
    "cholesky",
    "triangular_solve",
    "symmetric_eigen",
    "symmetric_eigen_scratch",
]
_COMPILED = {name: _compiled(getattr(blas, name)) for name in _NAMES}
_PLAIN = {name: getattr(blas, name) for name in _NAMES}


@pytest.fixture(params=["compiled", "plain"])
def run(request):
    return _COMPILED if request.param == "compiled" else _PLAIN


def steps(array):
    return tuple(stride // array.itemsize for stride in array.strides)


def product(run, a, b, c, accumulate):
    (m, k), n = a.shape, b.shape[1]
    arguments = (address(a), *steps(a), address(b), *steps(b), address(c), *steps(c))
    run["matmul"](TABLE, m, k, n, *arguments, accumulate)


LAYOUTS = {
    "row": lambda rng, m, n: rng.standard_normal((m, n)),
    "column": lambda rng, m, n: rng.standard_normal((n, m)).T,
    "wide row": lambda rng, m, n: rng.standard_normal((m + 1, n + 3))[1:, 2 : 2 + n],
    "wide column": lambda rng, m, n: rng.standard_normal((n, m + 2)).T[1 : 1 + m],
    "neither": lambda rng, m, n: rng.standard_normal((2 * m, 2 * n))[::2, ::2],
    "reversed": lambda rng, m, n: rng.standard_normal((m, n))[::-1, ::-1],
    "reversed rows": lambda rng, m, n: rng.standard_normal((m, n))[::-1],
}
BROADCAST = {
    "same row": lambda rng, m, n: np.broadcast_to(rng.standard_normal(n), (m, n)),
    "same column": lambda rng, m, n: np.broadcast_to(rng.standard_normal((m, 1)), (m, n)),
    "constant": lambda rng, m, n: np.broadcast_to(rng.standard_normal(), (m, n)),
}
INPUTS = {**LAYOUTS, **BROADCAST}
SHAPES = [
    *itertools.product((1, 2, 5), repeat=3),
    *[(4, 4, 4), (7, 9, 6), (9, 13, 11), (14, 14, 1), (1, 14, 14), (14, 1, 14), (1, 37, 1)],
    *[
        (41, 1, 3),
        (3, 1, 41),
        (16, 8, 1),
        (8, 16, 8),
        (6, 300, 1),
        (303, 7, 1),
        (1, 6, 300),
        (1, 300, 6),
    ],
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_of_all_layouts(run, shape):
    m, k, n = shape
    rng = np.random.default_rng(1)
    plain = run is _PLAIN
    combinations = list(itertools.product(INPUTS, INPUTS, LAYOUTS))
    if plain:
        # Slow: a sample, which the whole set of shapes makes up for.
        keep = 4 if m * k * n > 300 else 12
        combinations = [combinations[i] for i in rng.integers(len(combinations), size=keep)]
    for of_a, of_b, of_c in combinations:
        a, b, c = INPUTS[of_a](rng, m, k), INPUTS[of_b](rng, k, n), LAYOUTS[of_c](rng, m, n)
        for accumulate in (0, 1):
            if accumulate:
                expected = c + a @ b
            else:
                expected = a @ b
                c[...] = np.nan
            product(run, a, b, c, accumulate)
            assert_allclose(c, expected, rtol=1e-12, atol=1e-12, err_msg=f"{of_a} {of_b} {of_c}")


@pytest.mark.parametrize(
    "shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (3, 0, 1), (1, 0, 3), (0, 0, 0)]
)
def test_empty_product(run, shape):
    m, k, n = shape
    c = np.full((m, n), np.nan)
    product(run, np.ones((m, k)), np.ones((k, n)), c, 0)
    assert_array_equal(c, np.zeros((m, n)))
    c[...] = 2.0
    product(run, np.ones((m, k)), np.ones((k, n)), c, 1)
    assert_array_equal(c, np.full((m, n), 2.0))


@pytest.mark.parametrize("layout", ["row", "column", "wide row", "wide column"])
@pytest.mark.parametrize("shape", [(5, 6, 7), (9, 10, 11), (14, 14, 1), (1, 14, 14), (14, 1, 14)])
def test_product_writes_only_its_result(run, layout, shape):
    m, k, n = shape
    rng = np.random.default_rng(2)
    around = np.full((m + 4, n + 4) if "row" in layout else (n + 4, m + 4), 7.0)
    c = (around if "row" in layout else around.T)[2 : 2 + m, 2 : 2 + n]
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    product(run, a, b, c, 0)
    assert_allclose(c, a @ b, rtol=1e-12, atol=1e-13)
    c[...] = 7.0
    assert_array_equal(around, np.full(around.shape, 7.0))


@pytest.mark.parametrize("shape", [(3, 3, 3), (14, 14, 1), (1, 14, 14), (5, 1, 5), (12, 12, 12)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_product_is_ieee(run, shape, bad):
    m, k, n = shape
    a, b = np.ones((m, k)), np.full((k, n), 2.0)
    a[m // 2, k // 2] = bad
    c = np.empty((m, n))
    product(run, a, b, c, 0)
    assert_array_equal(c, a @ b)
    b[...] = 0.0
    product(run, a, b, c, 0)
    assert np.isnan(c[m // 2]).all()
    assert not np.isnan(np.delete(c, m // 2, axis=0)).any()


def test_large_products():
    rng = np.random.default_rng(3)
    for m, k, n in [(32, 64, 128), (1000, 20, 1), (1, 1000, 20), (3, 5000, 1), (300, 1, 200)]:
        a, b, c = rng.standard_normal((m, k)), rng.standard_normal((k, n)), np.empty((m, n))
        product(_COMPILED, a, b, c, 0)
        assert_allclose(c, a @ b, rtol=1e-11, atol=1e-11)


def factored(run, a):
    lu, pivots = a.copy(), np.zeros(len(a), np.int32)
    status = run["lu_factor"](TABLE, len(a), address(lu), address(pivots))
    return lu, pivots, status


@pytest.mark.parametrize("n", [0, 1, 2, 5, 14, 40])
@pytest.mark.parametrize("nrhs", [0, 1, 3])
@pytest.mark.parametrize("transposed", [0, 1])
def test_lu_solve(run, n, nrhs, transposed):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((n, n)), rng.standard_normal((n, nrhs))
    lu, pivots, status = factored(run, a)
    assert status == 0
    x = b.copy()
    run["lu_solve"](TABLE, n, nrhs, address(lu), address(pivots), address(x), transposed)
    assert_allclose((a.T if transposed else a) @ x, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 14])
def test_lu_inverse_and_determinant(run, n):
    a = np.random.default_rng(5).standard_normal((n, n))
    for matrix in (a, a[::-1].copy(), -a):
        lu, pivots, _ = factored(run, matrix)
        inverse, pair = np.empty((n, n)), np.empty(2)
        run["lu_inverse"](TABLE, n, address(lu), address(pivots), address(inverse))
        run["lu_slogdet"](n, address(lu), address(pivots), address(pair))
        assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-9, atol=1e-11)
        assert_allclose(pair, np.linalg.slogdet(matrix), rtol=1e-10, atol=1e-12)


def test_lu_of_singular_and_nan(run):
    a = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 0.0]])
    lu, pivots, status = factored(run, a)
    assert status > 0
    pair = np.empty(2)
    run["lu_slogdet"](3, address(lu), address(pivots), address(pair))
    assert_array_equal(pair, [0.0, -np.inf])
    lu, pivots, _ = factored(run, np.full((3, 3), np.nan))
    run["lu_slogdet"](3, address(lu), address(pivots), address(pair))
    assert np.isnan(pair[1])


def spd(n, rng):
    a = rng.standard_normal((n, n))
    return a @ a.T + n * np.eye(n)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 14, 40])
def test_cholesky(run, n):
    a = spd(n, np.random.default_rng(6))
    expected = np.linalg.cholesky(a)
    lower_only = np.tril(a) + np.triu(np.full((n, n), np.nan), 1)
    out = np.full((n, n), np.nan)
    assert run["cholesky"](TABLE, n, address(lower_only), address(out)) == 0
    assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert run["cholesky"](TABLE, n, address(lower_only), address(lower_only)) == 0
    assert_array_equal(lower_only, out)


def test_cholesky_of_indefinite(run):
    a, out = np.array([[1.0, 2.0], [2.0, 1.0]]), np.empty((2, 2))
    assert run["cholesky"](TABLE, 2, address(a), address(out)) == 2
    a[...] = np.nan
    status = run["cholesky"](TABLE, 2, address(a), address(out))
    assert status > 0 or np.isnan(out[np.tril_indices(2)]).all()


@pytest.mark.parametrize("n", [0, 1, 2, 5, 14])
@pytest.mark.parametrize("nrhs", [0, 1, 3])
@pytest.mark.parametrize("flags", list(itertools.product((0, 1), repeat=3)), ids=str)
def test_triangular_solve(run, n, nrhs, flags):
    lower, transposed, unit = flags
    rng = np.random.default_rng(7)
    stored = rng.standard_normal((n, n)) + 3 * np.eye(n)
    triangle = np.tril(stored) if lower else np.triu(stored)
    if unit:
        np.fill_diagonal(triangle, 1.0)
        np.fill_diagonal(stored, np.nan)
    b = rng.standard_normal((n, nrhs))
    x = b.copy()
    arguments = (address(stored), lower, transposed, unit, address(x))
    assert run["triangular_solve"](TABLE, n, nrhs, *arguments) == 0
    assert_allclose((triangle.T if transposed else triangle) @ x, b, rtol=1e-9, atol=1e-9)


def test_singular_triangular_solve(run):
    triangle, x = np.diag([1.0, 0.0, 2.0]), np.ones((3, 2))
    assert run["triangular_solve"](TABLE, 3, 2, address(triangle), 1, 0, 0, address(x)) == 2
    assert_array_equal(x, np.ones((3, 2)))


@pytest.mark.parametrize("n", [0, 1, 2, 5, 14, 40])
def test_symmetric_eigen(run, n):
    a = spd(n, np.random.default_rng(8))
    lower_only = np.tril(a) + np.triu(np.full((n, n), np.nan), 1)
    size = run["symmetric_eigen_scratch"](n)
    scratch = np.full(size + 1, 7.0)
    w, v = np.empty(n), np.empty((n, n))
    places = (address(lower_only), address(w), address(v), address(scratch))
    assert run["symmetric_eigen"](TABLE, n, *places) == 0
    assert scratch[size] == 7.0
    assert_allclose(w, np.linalg.eigvalsh(a), rtol=1e-11)
    assert_allclose(a @ v, v * w, rtol=1e-9, atol=1e-9 * n)
    assert_allclose(v.T @ v, np.eye(n), atol=1e-12)


def test_calls_in_a_loop_do_not_grow_the_stack():
    @njit
    def repeat(count, table, a, pivots, b):
        for _ in range(count):
            blas.lu_solve(table, 1, 1, a, pivots, b, 0)

    a, pivots, b = np.ones((1, 1)), np.ones(1, np.int32), np.array([3.0])
    # Growth by one argument list a call would need more than the usual stack of 8 MB.
    repeat(2_000_000, TABLE, address(a), address(pivots), address(b))
    assert b[0] == 3.0


def test_table_does_not_run_scipy_linalg_and_leaves_it_importable():
    code = (
        "import sys\n"
        "from tapejit.interpreters import blas\n"
        "assert blas.table_address() == blas.table_address() != 0\n"
        "assert 'scipy.linalg' not in sys.modules\n"
        "import scipy.linalg, scipy.linalg.cython_blas\n"
        "assert scipy.linalg.cython_blas.__pyx_capi__['dgemm']\n"
        "assert scipy.linalg.det([[2.0]]) == 2.0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_64_bit_integers_are_refused():
    @ctypes.CFUNCTYPE(ctypes.c_double, *[ctypes.c_void_p] * 5)
    def ddot_of_an_ilp64_build(n, x, x_step, y, y_step):
        length = ctypes.c_int64.from_address(n).value
        return 0.0 if length <= 0 else 9.0

    with pytest.raises(ImportError, match="ILP64"):
        blas._require_32_bit_integers(ctypes.cast(ddot_of_an_ilp64_build, ctypes.c_void_p).value)
