"""Space that is shared by liveness: nothing is overwritten that is still read, little is wasted."""

import gc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_random_programs import everything, points, run

import tapejit as tj
from tapejit.interpreters.entry import OBJECT, RUN_FORWARD
from tapejit.interpreters.layout import DONE
from tapejit.lowering import liveness
from tapejit.lowering.frame import PROVISIONAL
from tapejit.program import Program, program_for


def program_of(f):
    (variant,) = f.__tapejit__.variants.values()
    return variant.program(variant.trie.last)


# --- the allocator -------------------------------------------------------------------------------

intervals = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(1, 9)), min_size=1, max_size=60
)


def placed(blocks, capacity=1 << 60):
    """(first, last, size, offset) of blocks, and the space they take."""
    first = np.array([f for f, _, _ in blocks], np.int64)
    last = first + np.array([n for _, n, _ in blocks], np.int64)
    sizes = np.array([8 * s for _, _, s in blocks], np.int64)
    offsets = np.full(len(blocks), -1, np.int64)
    top = liveness._place(np.arange(len(blocks)), first, last, sizes, capacity, offsets)
    return first, last, sizes, offsets, top


@settings(max_examples=300, deadline=None, derandomize=True)
@given(intervals)
def test_blocks_in_use_together_never_overlap(blocks):
    first, last, sizes, offsets, top = placed(blocks)
    assert (offsets >= 0).all() and (offsets + sizes).max() == top
    for i in range(len(blocks)):
        for j in range(i):
            together = first[i] <= last[j] and first[j] <= last[i]
            apart = offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]
            assert apart or not together
    alive = [sizes[(first <= t) & (t <= last)].sum() for t in range(60)]
    assert max(alive) <= top <= 3 * max(alive)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(intervals, st.integers(1, 30))
def test_a_bounded_space_is_not_exceeded(blocks, capacity):
    first, last, sizes, offsets, top = placed(blocks, 8 * capacity)
    assert top <= 8 * capacity
    inside = offsets >= 0
    assert ((offsets + sizes)[inside] <= 8 * capacity).all()
    for i in np.flatnonzero(inside):
        for j in np.flatnonzero(inside)[: np.searchsorted(np.flatnonzero(inside), i)]:
            if first[i] <= last[j] and first[j] <= last[i]:
                assert offsets[i] + sizes[i] <= offsets[j] or offsets[j] + sizes[j] <= offsets[i]


def test_equal_blocks_one_after_the_other_take_the_space_of_two():
    assert placed([(t, 1, 4) for t in range(100)])[-1] == 2 * 32


@pytest.mark.parametrize("plain", [False, True])
def test_compiled_and_plain_agree(plain):
    rng = np.random.default_rng(3)
    blocks = list(zip(*rng.integers((0, 0, 1), (200, 30, 20), (300, 3)).T.tolist(), strict=True))
    want = placed(blocks)[3]
    if plain:
        with tj.testing.plain_python():
            np.testing.assert_array_equal(placed(blocks)[3], want)


# --- programs ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(everything, min_size=1, max_size=12), st.integers(0, 1000))
def test_random_programs_with_and_without_sharing(program, seed):
    """Value program (shared most), gradient (once, and again and again), tangent (not at all)."""
    x = points(seed)[0]
    value = tj.jit(lambda x: run(program, x))(x)
    _, gradient = tj.value_and_grad(lambda x: run(program, x))(x)
    _, pullback = tj.vjp(lambda x: run(program, x), x)
    for factor in (1.0, -2.0, 0.5):
        (g,) = pullback(factor)
        np.testing.assert_allclose(g, factor * gradient, 1e-12, 1e-12 * (1 + abs(gradient).max()))
    for k in range(len(x)):
        v, t = tj.jvp(lambda x: run(program, x), (x,), (np.eye(len(x))[k],))
        assert v == pytest.approx(value, rel=1e-12)
        assert abs(t - gradient[k]) <= 1e-10 * (1.0 + np.abs(gradient).sum())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "mul", "tanh", "exp", "sum", "outer", "reverse", "matmul"]),
            st.integers(0, 10**6), st.integers(0, 10**6),
        ),
        min_size=1, max_size=14,
    ),
    st.integers(0, 100),
)  # fmt: skip
def test_chains_that_work_in_place(program, seed):
    """Long arrays, in tiles: against the same program on short ones, which nothing shares."""
    n = 1300
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, n)

    def f(x):
        pool = [x, 0.5 * x]
        for name, i, j in program:
            a, b = pool[i % len(pool)], pool[j % len(pool)]
            if name == "add":
                value = a + b
            elif name == "mul":
                value = a * b
            elif name == "sum":
                value = a * (np.sum(b) / n)
            elif name == "outer":
                value = np.mean(a.reshape(26, 50), axis=0)[None, :] + b.reshape(26, 50)
                value = value.reshape(-1)
            elif name == "reverse":
                value = a[::-1]
            elif name == "matmul":
                value = ((a.reshape(26, 50) @ b.reshape(50, 26)) @ a.reshape(26, 50)).reshape(-1)
                value = np.tanh(value)
            else:
                value = getattr(np, name)(a)
                value = np.tanh(value)
            pool.append(value)
        return sum(np.sum(np.sin(v)) for v in pool[-3:])

    value, gradient = tj.value_and_grad(f)(x)
    assert value == pytest.approx(f(x), rel=1e-11, abs=1e-11)
    assert tj.jit(f)(x) == pytest.approx(value, rel=1e-12, abs=1e-12)
    v = np.random.default_rng(seed + 1).standard_normal(n)
    _, tangent = tj.jvp(f, (x,), (v,))
    assert abs(tangent - gradient @ v) <= 1e-10 * (1.0 + np.abs(gradient * v).sum())


def deep(x, layers=12):
    for _ in range(layers):
        x = np.tanh(x @ np.full((60, 60), 0.01) + 0.1)
    return np.sum(x * x)


def test_a_value_program_does_not_grow_with_depth():
    x = np.linspace(-1.0, 1.0, 3600).reshape(60, 60)
    sizes = []
    for layers in (10, 20, 40):
        program = program_for(tj.trace(lambda x, n=layers: deep(x, n), x))
        sizes.append(program.code.arena_size)
    assert sizes[0] == sizes[1] == sizes[2] < 3.2 * 3600


def test_a_scalar_value_program_does_not_grow_with_length():
    def f(x, n):
        u, v = x[0], x[1]
        for _ in range(n):
            u, v = u + 0.01 * np.sin(v) * u, v - 0.01 * u / (1.0 + v * v)
        return u + v

    x = np.array([0.5, 1.5])
    tapes = [tj.trace(lambda x, n=n: f(x, n), x) for n in (50, 500)]
    one, other = (program_for(tape).code.arena_size for tape in tapes)
    assert one == other < 60
    assert tapes[1](x) == pytest.approx(f(x, 500), rel=1e-13)


def test_a_gradient_program_keeps_what_its_reverse_sweep_reads():
    """tanh is read again in reverse, what is put into it is not."""
    x = np.linspace(-1.0, 1.0, 3600).reshape(60, 60)
    sizes = []
    for layers in (10, 20):
        g = tj.grad(lambda x, n=layers: deep(x, n))
        g(x)
        sizes.append(program_of(g).nbytes["values"] / 8 / 3600)
    assert sizes[1] - sizes[0] == pytest.approx(10.0, abs=0.01)
    assert sizes[0] < 12.1


def test_adjoints_take_no_arena_of_their_own():
    x = np.linspace(-1.0, 1.0, 3600).reshape(60, 60)
    g = tj.grad(deep)
    g(x)
    assert program_of(g).nbytes["adjoints"] < 1000
    h = tj.grad(lambda x: np.sum(np.tanh(x[0]) * np.sin(x[1, 1])))  # an element by scalar code
    h(x)
    assert program_of(h).nbytes["adjoints"] >= x.nbytes


def test_arrays_that_scalars_address_come_first():
    def f(x):
        y = np.tanh(x) @ np.full((60, 60), 0.01)
        z = np.tanh(y) @ np.full((60, 60), 0.02)
        return np.sum(z * z) * z[0, 1]

    x = np.linspace(-1.0, 1.0, 3600).reshape(60, 60)
    g = tj.grad(f)
    g(x)
    assert program_of(g).code.adjoint_size < 3600 + 100
    step = 1e-6 * np.eye(3600)[7].reshape(60, 60)
    assert g(x).ravel()[7] == pytest.approx((f(x + step) - f(x - step)) / 2e-6, rel=1e-6)


def test_what_paths_share_is_kept_for_the_other_path():
    def f(x):
        a, b = np.tanh(x), np.cos(x)
        c = a * 2.0
        if np.sum(a) > 0:
            return np.sum(c * b)
        return np.sum(a * b * b)

    g = tj.value_and_grad(f)
    plus, minus = np.linspace(0.1, 1.0, 700), np.linspace(-1.0, -0.1, 700)
    for x in (plus, minus, plus, minus, 0.5 * plus, 0.5 * minus):
        value, gradient = g(x)
        assert value == pytest.approx(f(x), rel=1e-12)
        v = np.cos(np.arange(700.0))
        want = (f(x + 1e-6 * v) - f(x - 1e-6 * v)) / 2e-6
        assert gradient @ v == pytest.approx(want, rel=1e-6)


def test_a_result_array_holds_intermediates_before_it_is_written():
    """What the caller gives as ``out`` may hold anything while the sweep runs, not afterwards."""
    w = np.random.default_rng(1).uniform(-0.1, 0.1, (64, 64))

    def f(w):
        x = np.ones((64, 64))
        for _ in range(3):
            x = np.tanh(x @ w)
        return np.sum(x)

    g = tj.grad(f)
    want = g(w).copy()
    outs = [np.full((64, 64), np.nan) for _ in range(3)]
    for out in outs:
        g(w, out=out)
        np.testing.assert_array_equal(out, want)
    assert program_of(g).nbytes["values"] < 8 * 64 * 64 * 5.2
    gc.collect()


def test_no_provisional_address_remains():
    x = np.linspace(-1.0, 1.0, 3600).reshape(60, 60)
    for mode in ("value", "gradient"):
        code = Program(tj.trace(deep, x), (0,) if mode != "value" else (), mode, True).code
        assert (code.forward < PROVISIONAL).all() and (code.reverse < PROVISIONAL).all()
        assert code.arena_size < PROVISIONAL


def test_a_write_saves_before_its_source_goes():
    """The saved value and the source of a write must not share a slot."""

    def f(x):
        out = x * 1.5
        total = 0.0
        for i in range(len(x)):
            old = out[i]
            out[i] = np.sin(old)
            total = total + old * out[i]
        return total

    x = np.linspace(-1.0, 1.0, 6)
    tape = tj.trace(f, x)
    assert tape(x) == pytest.approx(f(x), rel=1e-14)
    program = program_for(tape)
    workspace = program.checkout()
    workspace.parameters[0, OBJECT] = id(x)
    assert workspace.run(RUN_FORWARD) == DONE


def test_work_bytes_leave_out_arguments_results_and_constants():
    x = np.linspace(-1.0, 1.0, 100)
    g = tj.grad(lambda x: np.sum(np.tanh(x) * np.arange(100.0)))
    g(x)
    program = program_of(g)
    parts = program.nbytes
    assert parts["work"] == program.work_bytes
    assert parts["values"] + parts["adjoints"] - 1600 - 100 <= parts["work"]
    assert 800 <= parts["work"] <= parts["values"] + parts["adjoints"] - 1600
