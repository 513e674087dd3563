"""Wrong input: clear errors that name the user's line, and a function that stays usable."""

import inspect
import math
import threading
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tapejit as tj

X = np.array([0.5, -1.0, 2.0])
HERE = __file__


def here(offset=0):
    """``file:line`` of the caller, ``offset`` lines further on."""
    return f"{HERE}:{inspect.currentframe().f_back.f_lineno + offset}"


def fails(error, match, f, *args, **kwargs):
    with pytest.raises(error, match=match or None) as caught:
        f(*args, **kwargs)
    return str(caught.value)


def pooled(f):
    """Idle workspaces of a compiled function's programs."""
    for variant in f.__tapejit__.variants.values():
        for path in variant.trie.paths.values():
            for made in path.programs.values():
                if made is not None:
                    yield from getattr(made, "_pool", None) or getattr(made, "pool", [])


def assert_clean(f):
    """All adjoints of idle workspaces are zero (scalar programs)."""
    workspaces = list(pooled(f))
    assert workspaces
    for workspace in workspaces:
        assert not workspace.adjoints.any()


# --- arguments, buffers, directions ---------------------------------------------------------------


def square(x):
    return np.sum(x * x)


@pytest.mark.parametrize("n", [3, 5000])
@pytest.mark.parametrize("warm", [False, True])
def test_out_of_the_wrong_kind(n, warm):
    x = np.linspace(0.0, 1.0, n)
    g = tj.grad(square)
    if warm:
        g(x), g(x)
    read_only = np.zeros(n)
    read_only.flags.writeable = False
    wrong = [np.empty(n + 1), np.empty((n, 1)), np.empty(2 * n)[::2], np.empty(n, np.float32)]
    wrong += [np.empty(n, complex), np.empty(()), [0.0] * n, 3.0, read_only]
    wrong += [np.empty(8 * n + 1, np.uint8)[1:].view(np.float64)]
    for out in wrong:
        fails(ValueError, rf"`square`: out .*({n},|arrays)", g, x, out=out)
    assert not read_only.any()
    assert_array_equal(g(x, out=np.empty(n)), 2.0 * x)


def test_out_of_the_wrong_structure():
    g = tj.grad(lambda a, b: np.sum(a * b), argnums=(0, 1))
    for _ in range(2):
        g(X, X)
        fails(ValueError, "tuple of 2", g, X, X, out=np.empty(3))
        fails(ValueError, "tuple of 2", g, X, X, out=(np.empty(3),))
        fails(ValueError, "3 arrays", g, X, X, out=(np.empty(3), [np.empty(3), np.empty(3)]))
        same = np.empty(3)
        fails(ValueError, "share memory", g, X, X, out=(same, same))
    with pytest.raises(tj.TraceError, match="out= has no meaning"):
        tj.jit(lambda x: tj.grad(square)(x, out=np.empty(3)))(X)


def test_cotangents_of_the_wrong_kind():
    _, pullback = tj.vjp(lambda x: {"y": 2.0 * x}, X)
    fails(ValueError, r"shape \(2,\), the result has shape \(3,\)", pullback, {"y": X[:2]})
    fails(ValueError, "2 arrays, the result 1", pullback, (X, X))
    fails(tj.TraceError, "complex", pullback, {"y": X * 1j})
    fails(tj.TraceError, "not numeric", pullback, {"y": np.array(["1", "2", "3"])})
    assert_array_equal(pullback({"y": X})[0], 2.0 * X)


def test_tangents_of_the_wrong_kind():
    f = lambda x, y: x * y  # noqa: E731
    fails(ValueError, r"shape \(2,\), its primal \(3,\)", tj.jvp, f, (X, X), (X, X[:2]))
    fails(ValueError, "2 primal arrays, but 1", tj.jvp, f, (X, X), (X,))
    fails(tj.TraceError, "complex", tj.jvp, f, (X, X), (X, X * 1j))
    _, push = tj.linearize(f, X, X)
    fails(ValueError, "tangent has shape", push, X, 1.0)
    inner = tj.jit(lambda x: tj.jvp(np.sin, (x,), (X[:2],))[1])
    fails(ValueError, "shapes", inner, X)
    inner = tj.jit(lambda x: tj.vjp(np.sin, x)[1](X[:2])[0])
    fails(ValueError, "shapes", inner, X)


@pytest.mark.parametrize("transform", [tj.jit, tj.grad], ids=["jit", "grad"])
def test_arguments_of_the_wrong_dtype(transform):
    f = transform(square)
    f(X)
    fails(tj.TraceError, r"`square`: an argument is complex \(shape \(3,\)\)", f, X + 0j)
    fails(tj.TraceError, "complex", f, 1j)
    fails(tj.TraceError, r"object array .*dtype=float", f, np.array([1.0, None, 2.0]))
    fails(tj.TraceError, "not numeric; declare it with static_argnums", f, np.array(["a"]))
    fails(tj.TraceError, "type object .*static_argnums", f, object())
    fails(tj.TraceError, "not numeric", f, np.array(["2020-01-01"], "datetime64[D]"))
    fails(tj.TraceError, "lose digits", f, X.astype(np.longdouble))
    fails(tj.TraceError, "masked array", f, np.ma.array(X, mask=[0, 1, 0]))
    assert f(X).tolist() == transform(square)(X).tolist()


def test_integers_beyond_float64():
    f = tj.jit(lambda n: n + 1)
    for n in (2**53 + 1, -(2**60), np.array([1, 2**63], np.uint64)):
        fails(tj.TraceError, r"2\*\*53", f, n)
    assert f(2**53 - 1) == 2**53


def test_functions_that_are_not_functions_or_not_scalar():
    fails(TypeError, "expected a function, got float", tj.jit, 3.0)
    for make in (tj.grad, tj.value_and_grad):
        fails(
            tj.TraceError,
            r"<lambda>`.* scalar result.* shape \(3,\).*jacobian",
            make(lambda x: x),
            X,
        )
        fails(tj.TraceError, "2 values .*has_aux", make(lambda x: (x[0], x[1])), X)
        fails(tj.TraceError, "0 values", make(lambda x: None), X)
        fails(tj.TraceError, "scalar result", make(lambda x: "text"), X)
        fails(tj.TraceError, "pair", make(np.sum, has_aux=True), X)
        fails(tj.TraceError, "static argument .*argnums", make(lambda x, s: x, argnums=1), 1.0, "s")
    outer = tj.jit(lambda x: tj.grad(lambda y: y * 2.0)(x))
    fails(tj.TraceError, "scalar result", outer, X)
    fails(tj.TraceError, "complex values", tj.jit(lambda x: np.array([1j])), X)
    fails(tj.TraceError, "not hashable", tj.jit(lambda x, n: x, static_argnums=1), X, [1])


# --- tracers where they don't belong --------------------------------------------------------------


def test_leaked_tracers():
    kept = []
    f = tj.jit(lambda x: kept.append((x, x[0])) or x * 2.0)
    f(X)
    array, scalar = kept[0]
    uses = [
        lambda: scalar + 1.0, lambda: 2.0 * scalar, lambda: np.sin(scalar), lambda: scalar**2,
        lambda: array * 2.0, lambda: np.sum(array), lambda: array[1] + 1.0, lambda: array @ X,
        lambda: bool(scalar > 0.0), lambda: array.reshape(3, 1) + 1.0, lambda: np.exp(array),
        lambda: tj.jit(lambda y: y * scalar)(1.0), lambda: tj.grad(lambda y: y * array[0])(1.0),
        lambda: int(scalar), lambda: array.T + 1.0, lambda: array[1:] + 1.0, lambda: -scalar,
    ]  # fmt: skip
    for number, use in enumerate(uses):
        message = fails(tj.TracerLeakError, "after its recording ended", use)
        assert HERE in message, number
    with pytest.raises(tj.TracerLeakError):
        array[0] = 1.0
    with pytest.raises(tj.TracerLeakError):
        array += 1.0
    assert_array_equal(f(X), 2.0 * X)


def test_inner_tracers_do_not_leak_outwards():
    kept = []

    def inner(y):
        kept.append(y)
        return y * y

    outer = tj.jit(lambda x: tj.jit(inner)(x) + kept[0])  # inlined: the same recording
    assert outer(2.0) == 6.0


def test_tracers_in_another_thread():
    errors = []

    def f(x):
        def work():
            try:
                np.sum(x * 2.0)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return np.sum(x)

    assert tj.jit(f)(X) == np.sum(X)
    assert isinstance(errors[0], tj.TracerLeakError)
    assert "another thread" in str(errors[0])
    assert HERE in str(errors[0])


def test_frozen_values_are_refused():
    cases = [
        (lambda x: math.sin(x[0]), "np.sin"), (lambda x: float(x[0]), "float"),
        (lambda x: complex(x[0]), "complex"), (lambda x: np.asarray(x), "tapejit.numpy"),
        (lambda x: np.array(x, float), "tapejit.numpy"), (lambda x: [1, 2][x[0]], "int"),
        (lambda x: float(x), "float"), (lambda x: math.exp(x), "np"),
    ]  # fmt: skip
    for f, remedy in cases:
        message = fails(TypeError, "", tj.jit(f), X)
        assert remedy in message
        assert HERE in message


def test_traced_values_put_into_plain_arrays():
    def fill(x):
        out = np.zeros(3)
        for i in range(3):
            out[i] = x[i] * 2.0
        return out

    def fill_slices(x):
        out = np.zeros(3)
        out[:] = x * 2.0
        return out

    def fill_rows(x):
        out = np.zeros((2, 3))
        out[0] = x
        return out

    for f in (fill, fill_slices, fill_rows):
        message = fails(tj.TraceError, "zeros_like", tj.jit(f), X)
        assert "tapejit.numpy.zeros" in message
        assert HERE in message


def test_shapes_that_depend_on_data():
    for f in (lambda x: x[x > 0.0], lambda x: np.sum(x[np.abs(x) > 1.0])):
        message = fails(tj.TracedShapeError, "where", tj.jit(f), X)
        assert HERE in message
    assert_array_equal(tj.jit(lambda x: x[np.array([True, False, True])])(X), X[::2])


def test_operations_without_a_rule():
    for f in (np.fft.fft, lambda x: np.polyfit(x, x, 1), lambda x: np.add.reduceat(x, [0, 1])):
        message = fails(tj.UnsupportedError, "", tj.jit(lambda x, f=f: f(x)), X)
        assert HERE in message
    message = fails(AttributeError, "no_such_method", tj.jit(lambda x: x.no_such_method()), X)
    assert "ArrayTracer" in message  # Python's own words: a class with __getattr__ reads slowly


def test_constants_of_the_wrong_dtype():
    for other in (1j, np.array([1j, 2.0, 3.0]), np.array(["a", "b", "c"]), None, "text"):
        fails(TypeError, "", tj.jit(lambda x, other=other: x * other), X)


def test_wrong_shapes_fail_as_in_numpy():
    for f in (lambda x: x + np.ones(2), lambda x: x.reshape(2, 2), lambda x: x @ np.ones((2, 2))):
        fails(ValueError, "", tj.jit(f), X)
    fails(IndexError, "", tj.jit(lambda x: x[3]), X)
    fails(IndexError, "", tj.jit(lambda x: x[0, 0]), X)


# --- exceptions of the user's own -----------------------------------------------------------------


def test_exceptions_pass_through_and_leave_the_function_usable():
    def f(x):
        if x > 10.0:
            raise KeyError("too large")
        return x * x if x > 0.0 else -x

    g = tj.grad(f)
    for _ in range(3):
        assert g(3.0) == 6.0
        fails(KeyError, "too large", g, 11.0)
        assert g(-1.0) == -1.0
    assert_clean(g)
    h = tj.jit(lambda x: tj.grad(f)(x))
    fails(KeyError, "too large", h, 11.0)
    assert h(3.0) == 6.0


def test_errors_while_replaying_leave_adjoints_zero():
    g = tj.value_and_grad(lambda x, i: x[i] * x[0] + np.sum(x))
    for _ in range(2):
        assert g(X, 1)[0] == 1.0
        message = fails(IndexError, "out of bounds", g, X, 3)
        assert HERE in message
        np.testing.assert_array_equal(g(X, 2)[1], [3.0, 1.0, 1.5])
    h = tj.value_and_grad(lambda x: x * x if x > 0 else x)
    for x in (1.0, -1.0, 2.0, np.nan, 3.0, np.inf):
        h(x)
        assert_clean(h)


def test_singular_matrices_name_the_line():
    f = tj.grad(lambda a: np.sum(np.linalg.inv(a)))
    f(np.eye(2))
    message = fails(np.linalg.LinAlgError, "singular", f, np.zeros((2, 2)))
    assert HERE in message
    assert_array_equal(f(np.eye(2)), -np.ones((2, 2)))


def test_failures_inside_of_nested_transformations():
    def inner(y):
        raise RuntimeError("inner")

    f = tj.jit(lambda x: tj.grad(inner)(x))
    fails(RuntimeError, "inner", f, 1.0)
    assert tj.jit(lambda x: tj.grad(np.sin)(x))(0.0) == 1.0  # no recording is left open
    assert type(np.sin(1.0)) is np.float64


# --- re-entry -------------------------------------------------------------------------------------


def test_recursion():
    @tj.jit
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    assert power(2.0, 5) == 32.0
    assert power(2.0, 3) == 8.0
    assert tj.grad(power)(2.0, 3) == 12.0


def test_re_entry_while_recording():
    """A compiled function called, on other data, while it is itself being recorded."""
    seen = []

    @tj.value_and_grad
    def g(x):
        if len(seen) < 3:
            seen.append(None)
            seen[-1] = g(X + 1.0)
        return np.sum(np.sin(x) * x)

    value, gradient = g(X)
    assert value == pytest.approx(np.sum(np.sin(X) * X))
    np.testing.assert_allclose(gradient, np.cos(X) * X + np.sin(X))
    np.testing.assert_allclose(g(X)[1], gradient)


def test_re_entry_from_a_callback():
    """The optimiser's callback calls the very function that is being minimised."""
    from scipy.optimize import minimize

    g = tj.value_and_grad(lambda x: np.sum((x - 1.0) ** 4 + (x - 1.0) ** 2))
    seen = []
    found = minimize(g, X, jac=True, callback=lambda x: seen.append(g(x)[0]), method="BFGS")
    assert found.success
    assert seen[-1] == pytest.approx(0.0, abs=1e-8)


# --- special values -------------------------------------------------------------------------------


def test_nan_and_inf_pass_through():
    g = tj.value_and_grad(lambda x: np.sum(np.exp(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for special in (np.nan, np.inf, -np.inf):
            value, gradient = g(np.array([0.0, special]))
            np.testing.assert_array_equal(value, 1.0 + np.exp(special))
            np.testing.assert_array_equal(gradient, np.exp([0.0, special]))
        assert tj.grad(lambda x: 1.0 / x)(0.0) == -np.inf
        assert np.isnan(tj.grad(np.log)(np.nan))
        assert tj.jit(lambda x: x > 1.0)(np.nan) == False  # noqa: E712
    fails(ValueError, "NaN", tj.jit(lambda x: x * int(x)), np.nan)
    fails(OverflowError, "infinity", tj.jit(lambda x: x * int(x)), np.inf)


def test_branches_on_nan():
    f = lambda x: 1.0 if x > 0.0 else (2.0 if x <= 0.0 else 3.0)  # noqa: E731
    g = tj.jit(f)
    for x in (1.0, np.nan, -1.0, np.nan, np.inf, 0.0):
        assert g(x) == f(x)
