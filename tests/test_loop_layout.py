"""Layout of staged loops: what steps keep, what they share, carries that are not copied."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj
from tapejit.interpreters import entry
from tapejit.interpreters import loop_tables as tables
from tapejit.lowering.bodies import POINTED_FROM
from tapejit.lowering.sizes import workspace_bytes
from tapejit.program import Workspace, program_for

N = POINTED_FROM + 7  # not whole cache lines
RNG = np.random.default_rng(5)
U, V, XS = RNG.uniform(-1, 1, N), RNG.uniform(-1, 1, N), RNG.uniform(-1, 1, (5, N))
SCHEDULES = [
    tj.StoreAll(), tj.Uniform(2), tj.Revolve(1), tj.Revolve(2), tj.Revolve(1, every=3),
    tj.TwoLevel(1, 1),
]  # fmt: skip


def program_of(function):
    """The program of a compiled gradient's last call."""
    (variant,) = function.__tapejit__.variants.values()
    return variant.trie.last.programs["program"]


def loop_of(function, *args):
    """The first loop of a gradient's program."""
    function(*args)
    return program_of(function).code.loops[0]


def python_scan(f, init, xs, length=None, checkpoint=None):
    """What ``scan`` means."""
    n = length if xs is None else len(xs)
    carry, ys = init, []
    for i in range(n):
        carry, y = f(carry, None if xs is None else xs[i])
        ys.append(y)
    return carry, None if ys[0] is None else np.stack(ys)


# --- random bodies -------------------------------------------------------------------------------

OPERATIONS = [
    "add", "mul", "tanh", "square", "reverse", "shift", "write", "element", "scalar", "outer",
    "scan", "while", "cond", "copy", "gather", "sum",
]  # fmt: skip
steps_of_a_body = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 99), st.integers(0, 99)),
    min_size=1, max_size=6,
)  # fmt: skip
choices = st.tuples(*[st.integers(0, 99)] * 4)


def body_of(program, chosen, outside, scan):
    """A body over two long carries, a short one and a number, that closes over ``outside``."""

    def step(carry, x):
        u, v, short, s = carry
        pool = [u, v, outside] if x is None else [u, v, outside, x]
        for name, i, j in program:
            a, b = pool[i % len(pool)], pool[j % len(pool)]
            if name == "element":
                short, s = short * b[3], 0.5 * s + a[1] * short[0]
            elif name == "scalar":
                s = np.tanh(s + np.sum(a) / N)
            else:
                pool.append(one(name, a, b, s, scan))
        new = [pool[k % len(pool)] for k in chosen]
        return (new[0], new[1], short, s), new[2] * 0.3 + new[3]

    return step


def one(name, a, b, s, scan):
    """One operation on long arrays."""
    if name == "add":
        return 0.5 * a - 0.3 * b
    if name == "mul":
        return a * b * s
    if name == "tanh":
        return np.tanh(a + s)
    if name == "square":
        return np.square(a) * 0.5
    if name == "reverse":
        return a[::-1]
    if name == "shift":
        return np.concatenate([b[1:], a[:1]])
    if name == "copy":
        return a.copy()
    if name == "gather":
        return a[np.arange(N) // 2] * 0.5
    if name == "sum":
        return b * (np.sum(a) / N)
    if name == "outer":
        return np.mean(a[:8, None] * b[None, :] * 0.5, axis=0)
    if name == "write":
        new = a * s  # of the body's own recording
        new[2:20] = np.sin(b[5:23])
        new[7] = new[8] * s
        return new
    if name == "scan":
        return scan(lambda c, _: (np.sin(c) * b + c * 0.1, None), a, None, 3)[0]
    if name == "while":
        if scan is python_scan:
            while np.sum(np.abs(a)) > 2.0:
                a = a * 0.6
            return a
        return tj.while_loop(lambda c: np.sum(np.abs(c)) > 2.0, lambda c: c * 0.6, a)
    if scan is python_scan:
        return np.sin(a) if s > 0.1 else b * 0.5
    return tj.cond(s > 0.1, lambda: np.sin(a), lambda: b * 0.5)


def random_loop(program, chosen, with_slices, scan, schedule=None):
    def f(u, v, outside, s):
        xs = XS if with_slices else None
        step = body_of(program, chosen, outside, scan)
        carry = (u, v, outside[:5] * 1.5, s)
        (a, b, short, t), ys = scan(step, carry, xs, 5, checkpoint=schedule)
        weights = np.cos(np.arange(5.0 * N)).reshape(5, N)
        return np.sum(a * 0.7) + np.sum(b * V) + np.sum(short) * t + np.sum(ys * weights)

    return f


ARGUMENTS = (U, V, U * V + 0.1, 0.4)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps_of_a_body, choices, st.booleans())
def test_random_bodies_under_all_schedules(program, chosen, with_slices):
    plain = random_loop(program, chosen, with_slices, python_scan)
    expected = plain(*ARGUMENTS)
    unrolled = tj.grad(plain, (0, 1, 2, 3))(*ARGUMENTS)
    stored = None
    for schedule in (None, *SCHEDULES):
        f = random_loop(program, chosen, with_slices, tj.scan, schedule)
        value, gradients = tj.value_and_grad(f, (0, 1, 2, 3))(*ARGUMENTS)
        assert_allclose(value, expected, 1e-11)
        for got, want in zip(gradients, unrolled, strict=True):
            assert_allclose(got, want, 1e-9, 1e-11)
        stored = stored or (value, gradients)
        assert value == stored[0]
        for got, want in zip(gradients, stored[1], strict=True):
            assert_array_equal(got, want)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps_of_a_body, choices, st.booleans())
def test_random_bodies_forward_again_and_in_plain_python(program, chosen, with_slices):
    f = random_loop(program, chosen, with_slices, tj.scan, tj.Revolve(2))
    stored = random_loop(program, chosen, with_slices, tj.scan)
    gradients = tj.grad(f, (0, 1, 2, 3))(*ARGUMENTS)
    directions = (V, U, np.ones(N), 0.3)
    along = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    value, tangent = tj.jvp(f, ARGUMENTS, directions)
    assert_allclose(tangent, along, 1e-9, 1e-10)
    assert_allclose(tj.jit(f)(*ARGUMENTS), value, 1e-12)
    for function in (stored, f):
        _, pull = tj.vjp(function, *ARGUMENTS)
        for factor in (1.0, 2.0, 1.0):
            for got, want in zip(pull(factor), gradients, strict=True):
                assert_array_equal(got, factor * want)
    with tj.testing.plain_python():
        again = tj.grad(f, (0, 1, 2, 3))(*ARGUMENTS)
    for got, want in zip(again, gradients, strict=True):
        assert_allclose(got, want, 1e-10, 1e-12)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps_of_a_body, choices, st.sampled_from(SCHEDULES))
def test_pauses_change_nothing(program, chosen, schedule):
    f = tj.grad(random_loop(program, chosen, True, tj.scan, schedule), (0, 1, 2, 3))
    whole = f(*ARGUMENTS)
    work = entry.WORK
    try:
        entry.WORK = 50  # with plain Python: the compiled entry has it as a constant
        with tj.testing.plain_python():
            paused = f(*ARGUMENTS)
            entry.WORK = work
            unpaused = f(*ARGUMENTS)
    finally:
        entry.WORK = work
    for got, want, about in zip(paused, unpaused, whole, strict=True):
        assert_array_equal(got, want)
        assert_allclose(got, about, 1e-10, 1e-12)


# --- bytes ---------------------------------------------------------------------------------------


def allocated(program):
    """Bytes of the NumPy arrays that a new workspace allocates."""
    tracemalloc.start()
    workspace = Workspace(program)
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    snapshot = tracemalloc.take_snapshot().filter_traces([arrays])
    tracemalloc.stop()
    del workspace
    return sum(trace.size for trace in snapshot.traces)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps_of_a_body, choices, st.booleans(), st.sampled_from([None, *SCHEDULES[:5]]))
def test_reported_bytes_are_those_allocated(program, chosen, with_slices, schedule):
    f = random_loop(program, chosen, with_slices, tj.scan, schedule)
    tape = tj.trace(f, *ARGUMENTS)
    for mode, wrt in (("value", ()), ("gradient", (0, 1)), ("tangent", (0,))):
        made = program_for(tape, wrt, mode)
        assert made.nbytes["workspace"] == workspace_bytes(made.code) == allocated(made)


def chain(step, schedule=None, length=50, n=1000):
    """The gradient of a loop over a long carry."""
    x = np.linspace(0.1, 1.0, n)

    def f(u):
        return np.sum(tj.scan(step, u, None, length, checkpoint=schedule)[0] * x)

    return tj.grad(f), x


def kept(step, n=1000):
    """Elements that a stored step keeps, in long arrays."""
    gradient, x = chain(step, n=n)
    code = loop_of(gradient, x)
    return (code.plan.costs.step // 8) // n


def test_steps_keep_what_their_reverse_sweep_reads():
    assert kept(lambda c, _: (0.9 * c + 0.1, None)) == 0  # linear
    assert kept(lambda c, _: (np.tanh(c), None)) == 1  # the carry itself: a result of tanh
    assert kept(lambda c, _: (c * np.sin(c), None)) == 2
    assert kept(lambda c, _: (np.cumsum(c)[::-1] * 0.01 + 1.0, None)) == 0
    assert kept(lambda c, _: (np.cumsum(np.exp(c * 0.01)) * 1e-3, None)) <= 2


def test_a_step_in_place_keeps_nothing_more():
    def step(u, _):
        new = u.copy()
        new[1:-1] = 0.25 * u[:-2] + 0.5 * u[1:-1] + 0.25 * u[2:]
        return new, None

    assert kept(step) == 0


def test_scratch_does_not_grow_with_the_number_of_steps():
    sizes = []
    for length in (10, 20, 40):
        gradient, x = chain(lambda c, _: (np.tanh(c), None), length=length)
        sizes.append(loop_of(gradient, x).child.stacked_scratch)
    assert sizes[0] == sizes[1] == sizes[2]


def test_loops_of_a_program_share_their_scratch():
    def several(count):
        def f(u):
            for _ in range(count):
                u, _ = tj.scan(lambda c, _: (np.cumsum(c) * 0.1 - 0.1 * c, None), u, None, 3)
            return np.sum(u * u)

        gradient = tj.grad(f)
        gradient(np.linspace(0.1, 1.0, 1000))
        return program_of(gradient).code.stacked_scratch

    assert several(1) == several(3)


def test_long_carries_are_not_copied():
    gradient, x = chain(lambda c, _: (np.tanh(c), None))
    table = loop_of(gradient, x).table

    def length(number):
        return table[tables.LISTS + 2 * number + 1]

    copying = (tables.CARRIES_IN, tables.CARRIES_OUT, tables.SEEDS, tables.CARRY_GRADIENTS)
    assert [length(number) for number in copying] == [0, 0, 0, 0]
    pointing = (tables.POINTED_IN, tables.POINTED_OUT, tables.HELD_CARRIES, tables.POINTED_SEEDS)
    assert [length(number) for number in pointing] == [1, 1, 1, 1]


def test_limits_choose_better_plans_where_steps_keep_less():
    gradient, x = chain(lambda c, _: (0.9 * c + 0.1, None), tj.Memory("100 kB"), length=10_000)
    assert tj.checkpoint_plan(gradient, x).loops[0].recompute_factor > 1.0
    gradient, x = chain(lambda c, _: (0.9 * c + 0.1, None), tj.Memory("2 MB"), length=10_000)
    plan = tj.checkpoint_plan(gradient, x).loops[0]
    assert plan.recompute_factor == 1.0 and plan.costs.step < 8 * 100


@pytest.mark.parametrize("limit", ["120 kB", "300 kB", "1 MB", "10 MB"])
def test_limits_hold_exactly(limit):
    gradient, x = chain(lambda c, _: (c * np.sin(c), None), length=200)
    expected = gradient(x)
    fitted = tj.grad(gradient.__tapejit__.function.function, checkpoint=tj.Memory(limit))
    assert_array_equal(fitted(x), expected)
    assert allocated(program_of(fitted)) <= tj.checkpointing.limits.parse_bytes(limit)


# --- what must stay apart ------------------------------------------------------------------------


def test_copies_at_once_in_threads():
    gradient, x = chain(lambda c, _: (np.tanh(c) * 1.1, None), tj.Revolve(3))
    expected = gradient(x)
    failures = []

    def run():
        for _ in range(20):
            if not np.array_equal(gradient(x), expected):
                failures.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_second_derivatives_of_long_carries():
    def f(u, schedule=None):
        step = lambda c, _: (np.sin(c) + 0.1 * c[::-1], None)  # noqa: E731
        return np.sum(tj.scan(step, u, None, 6, checkpoint=schedule)[0] ** 2)

    def unrolled(u):
        for _ in range(6):
            u = np.sin(u) + 0.1 * u[::-1]
        return np.sum(u**2)

    want = tj.hvp(unrolled)(U, V)
    for schedule in (None, tj.Revolve(2)):
        assert_allclose(tj.hvp(lambda u, s=schedule: f(u, s))(U, V), want, 1e-9, 1e-11)


def test_a_long_carry_of_unknown_length():
    def f(u, schedule=None):
        grown = tj.while_loop(
            lambda c: np.sum(c * c) < 500.0, lambda c: c * 1.05 + 0.01 * np.sin(c), u,
            checkpoint=schedule,
        )  # fmt: skip
        return np.sum(grown * V)

    def unrolled(u):
        while np.sum(u * u) < 500.0:
            u = u * 1.05 + 0.01 * np.sin(u)
        return np.sum(u * V)

    expected = tj.grad(f)(U)
    assert_allclose(expected, tj.grad(unrolled)(U), 1e-10, 1e-12)
    for schedule in (tj.Online(2), tj.Online(3, every=4), tj.Memory("40 kB")):
        assert_array_equal(tj.grad(lambda u, s=schedule: f(u, s))(U), expected)
    for start in (U, 100.0 + U):  # 100 + U: no step at all
        assert_allclose(tj.jit(f)(start), unrolled(start), 1e-12)


# --- scalars -------------------------------------------------------------------------------------

SCALAR_OPERATIONS = ["sin", "mul", "add", "sub", "div", "square", "element", "write", "sum", "loop"]
scalar_steps = st.lists(
    st.tuples(st.sampled_from(SCALAR_OPERATIONS), st.integers(0, 99), st.integers(0, 99)),
    min_size=1, max_size=12,
)  # fmt: skip


def scalar_loop(program, chosen, schedule=None, scan=tj.scan):
    """A loop over two numbers and a short array, that closes over a number."""

    def f(a, b, short, rate):
        def step(carry, x):
            a, b, short = carry
            pool = [a, b, rate, x]
            short = short * 1.0
            for name, i, j in program:
                u, v = pool[i % len(pool)], pool[j % len(pool)]
                if name == "element":
                    u = short[j % 5]
                elif name == "write":
                    short[j % 5] = np.tanh(u) * short[i % 5]
                    continue
                elif name == "sum":
                    u = np.tanh(np.sum(short * u))
                elif name == "loop":
                    u, _ = scan(lambda c, _, v=v: (np.sin(c) * v, None), u, None, 2)
                elif name == "div":
                    u = u / (1.5 + v * v)
                elif name in ("sin", "square"):
                    u = np.tanh(getattr(np, name)(u))
                else:
                    u = {"mul": u * v, "add": u + 0.5 * v, "sub": u - 0.5 * v}[name]
                pool.append(0.9 * u)
            new = [np.tanh(pool[k % len(pool)]) for k in chosen]
            return (new[0], new[1], short), new[2]

        xs = np.linspace(0.1, 0.9, 6)
        (a, b, short), ys = scan(step, (a, b, short), xs, checkpoint=schedule)
        return a * 2.0 + b + np.sum(short * ys[:5]) + np.sum(ys)

    return f


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(scalar_steps, st.tuples(*[st.integers(0, 99)] * 3))
def test_random_scalar_bodies(program, chosen):
    arguments = (0.3, 0.7, np.linspace(-0.5, 0.8, 5), 1.2)
    plain = scalar_loop(program, chosen, scan=python_scan)
    expected, unrolled = plain(*arguments), tj.grad(plain, (0, 1, 2, 3))(*arguments)
    stored = None
    for schedule in (None, *SCHEDULES):
        f = scalar_loop(program, chosen, schedule)
        value, pull = tj.vjp(f, *arguments)
        assert_allclose(value, expected, 1e-12)
        for _ in range(2):
            gradients = pull(1.0)
            stored = stored or gradients
            for got, first, want in zip(gradients, stored, unrolled, strict=True):
                assert_array_equal(got, first)
                assert_allclose(got, want, 1e-9, 1e-11)
    _, tangent = tj.jvp(f, arguments, (0.5, -1.0, np.arange(5.0), 0.25))
    parts = zip(stored, (0.5, -1.0, np.arange(5.0), 0.25), strict=True)
    assert_allclose(tangent, sum(np.sum(g * d) for g, d in parts), 1e-9, 1e-11)


def test_scalars_that_only_the_forward_sweep_reads_are_not_kept():
    def loop(n):
        def step(c, _):
            for _ in range(n):  # linear: nothing of it is read again
                c = 0.5 * c + 0.1
            return np.sin(c), None

        gradient = tj.grad(lambda x: tj.scan(step, x, None, 10)[0])
        return loop_of(gradient, 0.3)

    few, many = loop(2), loop(40)
    assert few.plan.costs.step == many.plan.costs.step == 64
    assert few.child.adjoint_size == many.child.adjoint_size


def test_a_step_of_many_scalars_keeps_what_products_read():
    def step(c, _):
        x, y = c
        p = x * y
        return (x + 0.1 * p, y - 0.2 * p), None

    gradient = tj.grad(lambda x: tj.scan(step, (x, 0.5), None, 10)[0][0])
    # x and y; the two constants stand in each region as well.
    assert loop_of(gradient, 0.3).plan.costs.step == 64


def test_constants_that_no_row_names_take_no_places():
    """1 - v * v becomes one operation, which leaves a constant to nobody."""

    def f(x, y):
        for _ in range(30):
            v = np.tanh(x * y)
            x, y = x * (1.0 - v * v), y + (1.0 - x * x) * 0.1
        return x * y

    expected = tj.grad(f, (0, 1))(0.4, 0.9)
    again = tj.grad(f, (0, 1), checkpoint=tj.Revolve(2))(0.4, 0.9)
    assert expected == again


# --- edges ---------------------------------------------------------------------------------------


def both(f, *args, argnums=(0,)):
    """A function of ``scan``: stored, with one snapshot, and unrolled."""

    def run(scan, schedule):
        value, gradients = tj.value_and_grad(lambda *a: f(scan, schedule, *a), argnums)(*args)
        return value, *gradients

    unrolled = run(python_scan, None)
    for got, bits, want in zip(
        run(tj.scan, None), run(tj.scan, tj.Revolve(1)), unrolled, strict=True
    ):
        assert_array_equal(got, bits)
        assert_allclose(got, want, 1e-10, 1e-12)


def test_more_long_carries_than_spaces():
    count = 20

    def f(scan, schedule, u):
        def step(c, _):
            turned = (*c[1:], c[0])
            return tuple(np.sin(a) * 0.9 + 0.1 * b for a, b in zip(c, turned, strict=True)), None

        start = tuple(u * (0.1 * k + 0.5) for k in range(count))
        last, _ = scan(step, start, None, 4, checkpoint=schedule)
        return sum(np.sum(a * (k + 1.0)) for k, a in enumerate(last))

    both(f, U)
    loop = loop_of(tj.grad(lambda u: f(tj.scan, None, u)), U)
    starts = loop.table[tables.LISTS + 2 * tables.POINTED_IN + 1]
    assert 1 <= starts < count


def test_more_invariants_than_spaces():
    outside = [np.linspace(0.1 * k, 1.0, N) for k in range(50)]

    def f(scan, schedule, u):
        arrays = [u * a for a in outside]

        def step(c, _):
            for a in arrays:
                c = np.tanh(c * 0.5 + a)
            return c, None

        return np.sum(scan(step, u, None, 3, checkpoint=schedule)[0])

    both(f, U)


def test_no_steps_and_one_step():
    def f(scan, schedule, u, length):
        step = lambda c, _: (np.sin(c) * c, None)  # noqa: E731
        return np.sum(scan(step, u, None, length, checkpoint=schedule)[0] ** 2)

    for length in (1, 2):
        both(lambda scan, schedule, u, n=length: f(scan, schedule, u, n), U)
    value, gradient = tj.value_and_grad(
        lambda u: np.sum(tj.scan(lambda c, _: (np.sin(c) * c, c[0]), u, None, 0)[0] ** 2)
    )(U)
    assert_allclose(value, np.sum(U**2), 1e-14)
    assert_array_equal(gradient, 2.0 * U)


def test_empty_carries():
    empty = np.zeros((0, 5))

    def f(u, e):
        (u, e), ys = tj.scan(lambda c, _: ((np.sin(c[0]), c[1] * 2.0), c[1]), (u, e), None, 3)
        return np.sum(u) + np.sum(e) + np.sum(ys)

    gradients = tj.grad(f, (0, 1))(U, empty)
    assert gradients[1].shape == (0, 5)
    assert_allclose(gradients[0], tj.grad(lambda u: np.sum(np.sin(np.sin(np.sin(u)))))(U), 1e-12)


@pytest.mark.parametrize("long", [True, False])
def test_marked_functions_in_bodies(long):
    """A body whose regions are computed again keeps its values by home."""
    marked = tj.checkpoint(lambda u, v: np.tanh(np.sin(u) * v) * np.cos(u + v))

    def f(scan, schedule, u, v):
        step = lambda c, _: ((marked(c[0], c[1]), marked(c[1], c[0] * 0.5)), c[0])  # noqa: E731
        (a, b), ys = scan(step, (u, v), None, 4, checkpoint=schedule)
        return np.sum(a * b) + np.sum(ys * ys)

    both(f, *((U, V) if long else (0.3, 0.8)), argnums=(0, 1))


def test_matrices_and_solves_in_bodies():
    a = RNG.normal(size=(9, 9)) / 9.0 + 3.0 * np.eye(9)

    def f(scan, schedule, x, a):
        def step(c, _):
            c = np.linalg.solve(a, c) @ np.cos(c.T) * 0.5
            return c, np.max(c, axis=0)

        last, ys = scan(step, x, None, 4, checkpoint=schedule)
        return np.sum(last**2) + np.sum(ys)

    both(f, RNG.normal(size=(9, 9)), a, argnums=(0, 1))


def test_loops_three_deep_of_long_carries():
    def f(scan, schedule, u, v):
        def inner(c, _):
            return np.sin(c) + 0.1 * v, None

        def middle(c, x):
            c, _ = scan(inner, c * x, None, 2)
            return c, c[::-1]

        def outer(c, _):
            c, ys = scan(middle, c, np.array([0.5, 0.7, 0.9]), checkpoint=schedule)
            return np.mean(ys, axis=0) * 0.5 + c * 0.4, np.sum(c)

        last, ys = scan(outer, u, None, 3, checkpoint=schedule)
        return np.sum(last * v) + np.sum(ys**2)

    both(f, U, V, argnums=(0, 1))


# --- forward mode --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scan", "while", "cond"])
def test_forward_mode_runs_a_loop_once(kind):
    """The pushed loop has the values; the loop itself is not part of the program."""

    def f(u, s):
        if kind == "scan":
            return np.sum(tj.scan(lambda c, _: (np.sin(c) * s, c[0]), u, None, 5)[0])
        if kind == "while":
            return np.sum(tj.while_loop(lambda c: np.sum(c) < 90.0, lambda c: c * 1.2 + s, u))
        return np.sum(tj.cond(s > 0.1, lambda: np.sin(u) * s, lambda: u))

    tape = tj.trace(f, U, 0.4)
    code = program_for(tape, (0, 1), "tangent").code
    bodies = 2 if kind == "cond" else 1
    assert len(code.loops) == bodies
    gradients = tj.grad(f, (0, 1))(U, 0.4)
    value, tangent = tj.jvp(f, (U, 0.4), (V, 0.5))
    assert_allclose(value, tj.jit(f)(U, 0.4), 1e-13)
    assert_allclose(tangent, gradients[0] @ V + 0.5 * gradients[1], 1e-10)
    # Where nothing moves the loop runs alone.
    g = lambda u, s, x: x * f(u, s)  # noqa: E731
    assert len(program_for(tj.trace(g, U, 0.4, 2.0), (2,), "tangent").code.loops) == bodies
    assert tj.jvp(lambda x: g(U, 0.4, x), (2.0,), (1.0,))[1] == pytest.approx(f(U, 0.4))


def test_a_body_without_reverse_code_has_its_adjoints():
    """Cotangents of carries that go nowhere are cleared all the same."""

    def f(a):
        (a, _), _ = tj.scan(lambda c, x: ((0.5 * x, c[0] > 2.0), None), (a, True), np.arange(3.0))
        return a

    gradient = tj.grad(f)
    assert gradient(0.3) == 0.0
    program = program_of(gradient)
    (child,) = Workspace(program).memory.children
    assert len(child.code.reverse) == 0
    assert len(child.adjoints) == child.code.adjoint_size > 0
