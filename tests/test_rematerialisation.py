"""Gradients that compute values again: the same bits, in less memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from test_random_programs import everything, points
from test_random_programs import run as run_program

import tapejit as tj
from tapejit.lowering.cuts import Stretches, live_widths
from tapejit.program import Workspace

RNG = np.random.default_rng(0)
SCHEDULES = [
    tj.StoreAll(), tj.Uniform(every=11), tj.Revolve(3), tj.Revolve(1, every=8), tj.Revolve(2),
    tj.Revolve(10),
]  # fmt: skip


def program_of(function):
    """The program of a compiled gradient's last call."""
    (variant,) = function.__tapejit__.variants.values()
    return variant.trie.last.programs["program"]


def arena(function):
    """Doubles of its values and adjoints."""
    code = program_of(function).code
    return code.arena_size + code.adjoint_size


# --- functions ------------------------------------------------------------------------------------


def scalars(p):
    x, y, a, b = p[0], p[1], p[2], p[3]
    for _ in range(300):
        x, y = x + 0.01 * (a * x - b * x * y) * np.cos(0.1 * x), y + 0.01 * (0.2 * x * y - 0.5 * y)
    return x * x + y


def network(w, x):
    for i in range(w.shape[0]):
        x = np.tanh(x @ w[i]) + 0.1 * x
    return np.sum(x * x)


def writes(x):
    a = np.zeros_like(x)
    for i in range(200):
        a[i % x.size] = np.sin(x[i % 7] + a[(i - 1) % x.size]) * 1.1
        if i % 10 == 0:
            a[1:4] *= 1.01
            a[np.array([2, 2, 5])] = x[:3] * a[5]
    return np.sum(a * a)


def branches(x):
    s = x[0]
    for i in range(200):
        s = s * 1.01 + np.sin(x[i % 4])
        if s > 3:
            s = s * 0.5
    return s * s


def vectors(x):
    y = x
    for _ in range(40):
        z = np.exp(-y * y)
        y = y + 0.1 * z * np.sum(z) / z.size
    return np.sum(y * x)


def layers_alone(x):
    """Elementwise operations on one shape, which would all be one chain."""
    for _ in range(200):
        x = np.tanh(x) * np.exp(-x * x) + 0.1 * x
    return np.sum(x)


FUNCTIONS = {
    layers_alone: ((RNG.normal(size=700),), 1),
    scalars: ((np.array([1.0, 0.5, 0.9, 0.4]),), 8),
    network: ((RNG.normal(size=(30, 8, 8)) * 0.2, RNG.normal(size=(64, 8))), 1),
    writes: ((RNG.normal(size=9),), 2),
    branches: ((RNG.normal(size=4) + 1.0,), 6),
    vectors: ((RNG.normal(size=1500),), 2),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_gradient_is_that_of_storing_everything_bit_for_bit(f, schedule):
    args, shrinks = FUNCTIONS[f]
    argnums = tuple(range(len(args)))
    stored = tj.value_and_grad(f, argnums)
    again = tj.value_and_grad(f, argnums, checkpoint=schedule)
    other = tuple(1.1 * a + 0.1 for a in args)
    for at in (args, other, args):
        value, gradient = stored(*at)
        assert again(*at)[0] == value
        for got, want in zip(again(*at)[1], gradient, strict=True):
            assert_array_equal(got, want)
    if schedule == tj.StoreAll():
        assert arena(again) == arena(stored)
    elif schedule == tj.Revolve(3):
        assert shrinks * arena(again) < arena(stored)
    else:
        assert arena(again) < arena(stored)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(everything, min_size=2, max_size=25), st.integers(0, 10**6),
    st.sampled_from([tj.Uniform(2), tj.Revolve(1), tj.Revolve(2), tj.Revolve(4, every=3)]),
)  # fmt: skip
def test_random_programs(program, seed, schedule):
    def f(x):
        return run_program(program, x)

    stored, again = tj.grad(f), tj.grad(f, checkpoint=schedule)
    for x in points(seed):
        with np.errstate(all="ignore"):
            assert_array_equal(again(x), stored(x))


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(everything, min_size=2, max_size=12), st.integers(0, 10**6))
def test_as_plain_python(program, seed):
    def f(x):
        return run_program(program, x)

    x = points(seed)[0]
    expected = tj.grad(f)(x)
    with tj.testing.plain_python(), np.errstate(all="ignore"):
        np.testing.assert_allclose(tj.grad(f, checkpoint=tj.Revolve(2))(x), expected, rtol=1e-9)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(everything, min_size=6, max_size=25), st.integers(0, 10**6),
    st.sampled_from(["", "matmuls"]), st.integers(1, 5),
)  # fmt: skip
def test_random_programs_with_marked_calls(program, seed, save, size):
    """The steps of a program in marked calls of a few steps each, some in others."""
    from test_random_programs import BINARY, BRANCH, STRUCTURE, UNARY, _vector

    def f(x, mark):
        def steps(pool, some):
            for name, i, j in some:
                pool = [*pool, one(name, pool[i % len(pool)], pool[j % len(pool)])]
            return pool

        inner = mark(steps)

        def outer(pool, some):
            return steps(inner(pool, some[: len(some) // 2]), some[len(some) // 2 :])

        pool = [x, x[0], 0.5 * x]
        for k in range(0, len(program), size):
            pool = mark(outer)(pool, program[k : k + size])
        return sum(np.sum(np.sin(_vector(v))) for v in pool[-4:])

    def one(name, a, b):
        import test_random_programs as programs

        if name in UNARY:
            return getattr(np, name)(np.tanh(a) if name == "exp" else a)
        if name in BINARY:
            return np.tanh(getattr(np, name)(_vector(a), _vector(b)))
        if name in STRUCTURE:
            return programs._structure(name, a, b)
        if name in BRANCH:
            return programs._branch(name, a, b)
        return programs._write(name, a, b)

    plain = tj.grad(lambda x: f(x, lambda g: g))
    marked = tj.grad(lambda x: f(x, lambda g: tj.checkpoint(g, save=save)))
    for x in points(seed):
        with np.errstate(all="ignore"):
            assert_array_equal(marked(x), plain(x))


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_a_workspace_fits_into_the_limit_exactly(f):
    args, _ = FUNCTIONS[f]
    stored = tj.value_and_grad(f)
    expected = stored(*args)[1]
    most = workspace_bytes(stored)
    fitted = []
    for part in (1.0, 0.8, 0.6, 0.4):
        limit = int(part * most)
        again = tj.value_and_grad(f, checkpoint=tj.Memory(limit))
        try:
            assert_array_equal(again(*args)[1], expected)
        except tj.ScheduleError as error:
            least = int(str(error).split("at least ")[1].split()[0])
            assert limit < least <= most
            tj.value_and_grad(f, checkpoint=tj.Memory(least))(*args)
            break
        fitted.append(workspace_bytes(again))
        assert fitted[-1] <= limit
    assert fitted[0] == most


def workspace_bytes(function):
    """Bytes of all arrays that a new workspace of the program allocates."""
    program = program_of(function)
    tracemalloc.start()
    workspace = Workspace(program)
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    snapshot = tracemalloc.take_snapshot().filter_traces([arrays])
    tracemalloc.stop()
    del workspace
    return sum(trace.size for trace in snapshot.traces)


def test_a_limit_that_cannot_be_met_says_the_least():
    with pytest.raises(tj.ScheduleError, match=r"1 kB are too little .* at least \d+ bytes"):
        tj.grad(scalars, checkpoint=tj.Memory("1 kB"))(FUNCTIONS[scalars][0][0])


@pytest.mark.parametrize("schedule", [tj.Online(3), tj.TwoLevel(2, 3)], ids=str)
def test_schedules_for_loops_only(schedule):
    with pytest.raises(tj.ScheduleError, match="Revolve"):
        tj.grad(scalars, checkpoint=schedule)(FUNCTIONS[scalars][0][0])
    with pytest.raises(tj.ScheduleError, match="for loops"):
        tj.checkpoint(np.sin, schedule=schedule)


def test_what_is_no_schedule():
    with pytest.raises(TypeError, match="checkpoint is a schedule"):
        tj.grad(scalars, checkpoint=10)
    with pytest.raises(TypeError, match="schedule is a schedule"):
        tj.checkpoint(scalars, schedule="all")
    with pytest.raises(TypeError, match="save takes names"):
        tj.checkpoint(scalars, save=[3])
    with pytest.raises(TypeError, match="expected a function"):
        tj.checkpoint(3)
    with pytest.raises(ValueError, match="a name is a string"):
        tj.save_name(1.0, "matmuls")


def test_tapes_without_rows_and_constant_functions():
    for schedule in SCHEDULES:
        assert tj.grad(lambda x: x, checkpoint=schedule)(2.0) == 1.0
        assert tj.grad(lambda x: 3.0, checkpoint=schedule)(2.0) == 0.0


# --- cuts -----------------------------------------------------------------------------------------


def test_cuts_are_where_few_values_are_alive():
    """Ten stages, each of which gathers a number from twenty."""

    def f(x):
        for k in range(10):
            parts = [np.sin(x * (0.1 * j + k)) for j in range(20)]
            x = sum(parts[1:], parts[0])
        return x

    tape = tj.trace(f, 0.3)
    width = live_widths(tape)
    cuts = Stretches(tape, np.zeros(0, int), most=10).cuts
    assert len(cuts) == 11 and cuts[0] == 0 and cuts[-1] == len(tape)
    assert all(width[row] == 1 for row in cuts[1:-1]) and width.max() >= 20


def test_live_widths_by_hand():
    tape = tj.trace(lambda x: np.sin(x) * np.cos(x) + 2.0 * x, 0.5)
    assert live_widths(tape).tolist() == [0, 1, 2, 1, 2, 1]


def test_regions_follow_the_schedule():
    """Ten stretches with three snapshots, as in Griewank and Walther 2000, figure 2."""

    def f(x):
        for _ in range(10):
            x = np.sin(x)
        return x

    tape = tj.trace(f, 0.5)
    regions = Stretches(tape, np.zeros(0, int)).regions(tj.Revolve(3))
    assert [(r.first, r.last) for r in regions] == [(0, 4), (4, 7), (7, 9), (9, 10)]
    assert [(r.first, r.last) for r in regions[0].inner] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [(r.first, r.last) for r in regions[1].inner] == [(4, 5), (5, 6), (6, 7)]


# --- marked calls ---------------------------------------------------------------------------------


def layers(mark, **options):
    def layer(w, x):
        h = tj.save_name(x @ w, "hidden")
        return np.tanh(h * np.cos(h)) * np.exp(-0.1 * h * h) + 0.1 * np.sin(h)

    layer = tj.checkpoint(layer, **options) if mark else layer

    def f(w, x):
        for i in range(w.shape[0]):
            x = layer(w[i], x)
        return np.sum(x * x)

    return tj.grad(f)


def test_marked_calls_share_their_room():
    args = RNG.normal(size=(20, 8, 8)) * 0.3, RNG.normal(size=(4, 8))
    kept, again = layers(False), layers(True)
    assert_array_equal(again(*args), kept(*args))
    assert 3 * arena(again) < 2 * arena(kept)


def recomputed(function):
    """How many words of forward code the reverse sweep runs again."""
    return program_of(function).code.recomputed


@pytest.mark.parametrize("save", ["matmuls", "hidden", ("other", "matmuls")])
def test_policies_keep_what_they_name(save):
    args = RNG.normal(size=(20, 8, 8)) * 0.3, RNG.normal(size=(4, 8))
    kept, nothing, some = layers(False), layers(True), layers(True, save=save)
    assert_array_equal(some(*args), kept(*args))
    nothing(*args)
    assert arena(nothing) < arena(some) < arena(kept)
    assert 0 < recomputed(some) < recomputed(nothing)


def test_a_name_that_nothing_has_keeps_nothing():
    args = RNG.normal(size=(5, 8, 8)) * 0.3, RNG.normal(size=(4, 8))
    nothing, some = layers(True), layers(True, save="elsewhere")
    assert_array_equal(some(*args), nothing(*args))
    assert arena(some) == arena(nothing)


def test_a_marked_call_with_a_schedule():
    marked = tj.checkpoint(scalars, schedule=tj.Revolve(3))
    kept, again = tj.grad(lambda p: np.sin(scalars(p))), tj.grad(lambda p: np.sin(marked(p)))
    p = FUNCTIONS[scalars][0][0]
    assert_array_equal(again(p), kept(p))
    assert 4 * arena(again) < arena(kept)


def test_marked_calls_inside_of_marked_calls():
    inner = tj.checkpoint(lambda x: np.sin(x) * np.exp(-x * x))

    @tj.checkpoint
    def outer(x):
        for _ in range(8):
            x = inner(x)
        return x

    def f(x, outer=outer):
        for _ in range(8):
            x = outer(x)
        return x

    def plain(x):
        for _ in range(64):
            x = np.sin(x) * np.exp(-x * x)
        return x

    again, kept = tj.grad(f), tj.grad(plain)
    for x in (0.7, -1.3):
        assert again(x) == kept(x)
    assert 5 * arena(again) < arena(kept)


def test_marked_calls_branch_write_and_close_over_traced_values():
    def f(x, mark):
        total = np.zeros_like(x)

        def step(k):
            scale = np.sin(x[k % 3])
            if x[0] * k > 2.0:
                scale = scale * x[1]
            total[k % x.size] += scale * total[(k + 1) % x.size] + k
            return scale

        step = mark(step)
        product = 1.0
        for k in range(12):
            product = product * (1.0 + 0.1 * step(k))
        return product * np.sum(total)

    kept = tj.grad(lambda x: f(x, lambda g: g))
    again = tj.grad(lambda x: f(x, tj.checkpoint))
    for x in (np.array([0.4, 0.8, 1.2]), np.array([-0.4, 0.1, 2.0]), np.array([0.3, 0.8, 1.1])):
        assert_array_equal(again(x), kept(x))


def test_marked_calls_outside_of_recordings_and_in_other_modes():
    marked = tj.checkpoint(lambda x, y=1.0: np.sin(x) * y)
    assert marked(0.5, y=2.0) == 2.0 * np.sin(0.5)
    assert tj.jit(marked)(0.5) == np.sin(0.5)
    value, tangent = tj.jvp(marked, (0.5,), (1.0,))
    assert (value, tangent) == (np.sin(0.5), np.cos(0.5))
    assert tj.grad(tj.grad(marked))(0.5) == -np.sin(0.5)
    value, pull = tj.vjp(marked, 0.5)
    assert pull(1.0)[0] == np.cos(0.5) and pull(2.0)[0] == 2.0 * np.cos(0.5)


def test_marked_calls_in_the_body_of_a_loop_and_loops_in_marked_calls():
    def body(x, w, mark):
        step = mark(lambda x: np.tanh(np.sin(x @ w) * np.exp(-x * x)) + 0.1 * x)
        return step(step(x))

    def f(x, w, mark):
        y, _ = tj.scan(lambda c, _: (body(c, w, mark), None), x, None, length=6)

        def loop(y):
            return tj.fori_loop(0, 5, lambda i, c: np.cos(c * w[0]) + 0.01 * i, y)

        y = mark(loop)(y)
        y = mark(loop)(y)
        return np.sum(y * y)

    x, w = RNG.normal(size=4), RNG.normal(size=(4, 4))
    kept = tj.grad(lambda x, w: f(x, w, lambda g: g), (0, 1))
    again = tj.grad(lambda x, w: f(x, w, tj.checkpoint), (0, 1))
    for _ in range(2):
        for got, want in zip(again(x, w), kept(x, w), strict=True):
            assert_array_equal(got, want)


def test_a_long_loop_in_a_marked_call_pauses_and_goes_on(monkeypatch):
    """Each pause leaves the sweep, and enters it again."""
    from tapejit.interpreters import entry

    monkeypatch.setattr(entry, "WORK", 50)
    loop = tj.checkpoint(lambda x: tj.fori_loop(0, 7, lambda i, c: np.sin(c) * np.exp(-c), x))

    def f(x):
        return loop(x) * loop(0.5 * x)

    expected = tj.grad(f)(0.8)
    with tj.testing.plain_python():
        np.testing.assert_allclose(tj.grad(f)(0.8), expected, rtol=1e-12)


def test_a_marked_call_that_raises_leaves_nothing_marked():
    @tj.checkpoint
    def fails(x):
        np.sin(x)
        raise KeyError("no")

    def f(x):
        try:
            fails(x)
        except KeyError:
            return np.cos(x)

    assert tj.trace(f, 0.5).regions == ()
    assert tj.grad(f)(0.5) == -np.sin(0.5)


def test_names_are_copies():
    f = tj.grad(lambda x: np.sum(tj.save_name({"a": x, "b": 2.0}, "both")["a"] ** 2))
    assert_array_equal(f(np.array([1.0, 2.0])), [2.0, 4.0])
    assert tj.save_name(3.0, "free") == 3.0
