"""Random programs (scalars, arrays, branches, in-place writes), recorded here and replayed there.

A program is a list of small steps over a pool of values; the same code runs on NumPy and on
tracers.  Replay must equal NumPy to 1e-12 times a condition bound, and gradients must agree with
complex steps (smooth programs) or with the tangent sweep (all programs).
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapejit as tj

N = 4
UNARY = ["sin", "cos", "tanh", "exp", "arctan", "square", "negative"]
BINARY = ["add", "subtract", "multiply"]
STRUCTURE = ["reverse", "slice", "sum", "mean", "stack", "dot", "matvec", "transpose", "gather",
             "cumsum", "row", "broadcast"]  # fmt: skip
BRANCH = ["if", "while", "maximum", "where"]
WRITES = ["write", "write_slice", "accumulate", "overwrite", "fancy_write"]

index = st.integers(0, 10**6)
steps = st.tuples(st.sampled_from(UNARY + BINARY + STRUCTURE), index, index)
branching = st.tuples(st.sampled_from(UNARY + BINARY + STRUCTURE + BRANCH), index, index)
writing = st.tuples(st.sampled_from(UNARY + BINARY + STRUCTURE + WRITES), index, index)
everything = st.tuples(st.sampled_from(UNARY + BINARY + STRUCTURE + BRANCH + WRITES), index, index)
MATRIX = np.random.default_rng(5).uniform(-0.5, 0.5, (N, N))


def _vector(value):
    """Any value as a vector of length N."""
    shape = np.shape(value) if not hasattr(value, "shape") else value.shape
    if shape == (N,):
        return value
    if shape == ():
        return value * np.ones(N)
    return value.reshape(-1)[:N] if np.prod(shape) >= N else value.reshape(-1)[0] * np.ones(N)


def _scalar(value):
    shape = np.shape(value) if not hasattr(value, "shape") else value.shape
    return value if shape == () else value.reshape(-1)[0]


def _structure(name, a, b):
    v = _vector(a)
    if name == "reverse":
        return v[::-1]
    if name == "slice":
        return v[1:] * v[:-1]
    if name == "sum":
        return v.sum()
    if name == "mean":
        return v.mean()
    if name == "stack":
        return np.stack([v, _vector(b)])
    if name == "dot":
        return np.dot(v, _vector(b))
    if name == "matvec":
        return MATRIX @ v
    if name == "transpose":
        return (np.stack([v, _vector(b)]).T * 0.5).sum(axis=0)
    if name == "gather":
        return v[np.array([0, 2, 2, 1])]
    if name == "cumsum":
        return np.cumsum(v)
    if name == "row":
        return v[2]
    return (v.reshape(N, 1) + _vector(b)).mean(axis=1)


def _branch(name, a, b):
    x, y = _scalar(a), _scalar(b)
    if name == "if":
        return np.sin(a) if x > y else 0.5 * a
    if name == "while":
        count = 0
        while x < 1.0 and count < 4:
            x = x * x + 0.6
            count += 1
        return x
    if name == "maximum":
        return np.maximum(_vector(a), 0.1)
    return np.where(_vector(a) > 0.2, _vector(b), _vector(a) * 2.0)


def _write(name, a, b):
    out = np.zeros_like(_vector(a)) if name != "overwrite" else _vector(a).copy()
    v = _vector(b)
    if name == "write":
        for i in range(N):
            out[i] = v[i] * _scalar(a)
    elif name == "write_slice":
        out[1:3] = v[:2]
        out[2:] = out[1:3] * 2.0
    elif name == "accumulate":
        out += v
        out[0] += v[1]
        out *= 0.5
    elif name == "fancy_write":
        out[np.array([0, 2, 0])] = v[:3]
    else:
        first = out[0]
        out[0] = v[3]
        out[1] = first * out[0]
        out[:2] = out[2:]
    return out


def run(program, x):
    pool = [x, x[0], 0.5 * x]
    for name, i, j in program:
        a, b = pool[i % len(pool)], pool[j % len(pool)]
        if name in UNARY:
            a = np.tanh(a) if name == "exp" else a
            value = getattr(np, name)(a)
        elif name in BINARY:
            value = getattr(np, name)(_vector(a), _vector(b))
            value = np.tanh(value) if name == "multiply" else value
        elif name in STRUCTURE:
            value = _structure(name, a, b)
        elif name in BRANCH:
            value = _branch(name, a, b)
        else:
            value = _write(name, a, b)
        pool.append(value)
    total = 0.0
    for value in pool[-4:]:
        total = total + np.sum(np.sin(_vector(value)))
    return total


def points(seed, n=3):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1.0, 1.0, N) for _ in range(n)]


def bound(program, x):
    """Scale of the values involved: a loose condition bound."""
    return 1e-12 * (10.0 + 10.0 * len(program)) * (1.0 + abs(run(program, x)))


def check_replay(program, seed):
    compiled = tj.value_and_grad(lambda x: run(program, x))
    for x in points(seed):
        before = x.copy()
        value, gradient = compiled(x)
        np.testing.assert_array_equal(x, before)
        assert abs(value - run(program, x)) <= bound(program, x)
        v = np.linspace(-1.0, 1.0, N)
        _, tangent = tj.jvp(lambda x: run(program, x), (x,), (v,))
        scale = 1.0 + np.sum(np.abs(gradient))
        assert abs(tangent - gradient @ v) <= 1e-11 * scale * (1 + len(program))
    return compiled


SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@SETTINGS
@given(st.lists(steps, min_size=1, max_size=12), st.integers(0, 1000))
def test_smooth_programs(program, seed):
    compiled = check_replay(program, seed)
    x = points(seed)[0]
    _, gradient = compiled(x)
    h = 1e-30
    for k in range(N):
        moved = x.astype(complex)
        moved[k] += 1j * h
        want = run(program, moved).imag / h
        assert abs(want - gradient[k]) <= 1e-10 * (1.0 + abs(want)) * (1 + len(program))


@SETTINGS
@given(st.lists(branching, min_size=1, max_size=10), st.integers(0, 1000))
def test_branching_programs(program, seed):
    check_replay(program, seed)


@SETTINGS
@given(st.lists(writing, min_size=1, max_size=10), st.integers(0, 1000))
def test_writing_programs(program, seed):
    check_replay(program, seed)


@pytest.mark.deep
@settings(SETTINGS, max_examples=150)
@given(st.lists(everything, min_size=1, max_size=20), st.integers(0, 1000))
def test_all_together(program, seed):
    check_replay(program, seed)


@settings(SETTINGS, max_examples=15)
@given(st.lists(everything, min_size=1, max_size=8), st.integers(0, 1000))
def test_hessians_are_symmetric_and_agree_with_differences(program, seed):
    x = points(seed)[0]
    gradient = tj.grad(lambda x: run(program, x))
    hessian = tj.hessian(lambda x: run(program, x))(x)
    scale = 1.0 + np.abs(hessian).max()
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-9 * scale)
    h = 1e-6
    for k in range(N):
        step = h * np.eye(N)[k]
        want = (gradient(x + step) - gradient(x - step)) / (2 * h)
        assert np.abs(want - hessian[k]).max() <= 1e-4 * scale**2


@settings(SETTINGS, max_examples=10)
@given(st.lists(everything, min_size=1, max_size=6), st.integers(0, 1000))
def test_plain_python_interpreters_agree(program, seed):
    x = points(seed)[0]
    value, gradient = tj.value_and_grad(lambda x: run(program, x))(x)
    with tj.testing.plain_python():
        plain_value, plain = tj.value_and_grad(lambda x: run(program, x))(x)
    np.testing.assert_allclose(plain_value, value, 1e-12)
    np.testing.assert_allclose(plain, gradient, 1e-10, 1e-12)
