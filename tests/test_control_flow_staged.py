"""Staged loops and branches: values and derivatives against plain Python loops."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj

RNG = np.random.default_rng(3)
W = RNG.normal(size=(3, 3)) / 2.0
XS = RNG.normal(size=(6, 3))


def python_scan(f, init, xs, length=None, reverse=False):
    """What ``scan`` means."""
    n = len(xs) if xs is not None else length
    carry, ys = init, [None] * n
    for i in reversed(range(n)) if reverse else range(n):
        carry, ys[i] = f(carry, None if xs is None else xs[i])
    return carry, np.stack(ys) if n and ys[0] is not None else None


def scalars(scan):
    def f(a, b):
        def body(carry, x):
            s, t = carry
            return (np.sin(s) * a + x * t, t * b + s), s * t

        (s, t), ys = scan(body, (0.3, a), np.arange(4.0))
        return s * t + np.sum(ys * np.arange(4.0))

    return f


def arrays(scan):
    def f(w, xs, h):
        def body(h, x):
            h = np.tanh(w @ h + x)
            return h, h * x

        h, ys = scan(body, h, xs)
        return np.sum(h) + np.sum(ys**2)

    return f


def both_ways(scan):
    def f(w, xs, h):
        h, ys = scan(lambda h, x: (np.sin(h + x), h[0] * x[1] + h[1]), h, xs, reverse=True)
        return np.sum(h * w[0]) + np.sum(ys**2)

    return f


def swapped(scan):
    def f(a, b):
        (x, y), ys = scan(lambda c, _: ((c[1], c[0] * 0.5), c[0]), (a, b), None, 5)
        return x * 2.0 + y + np.sum(ys * np.arange(5.0))

    return f


def passed_through(scan):
    """Carries and slices that the body returns as they are; a constant result."""

    def f(w, xs, h):
        (h, k), (a, b, c) = scan(lambda c, x: ((c[0], c[1] * x), (x, c[0], 2.0)), (h, h), xs)
        return np.sum(h * k) + np.sum(a * xs) + np.sum(b**2) + np.sum(c) + np.sum(w) * 0.0

    return f


def python_tree_scan(f, init, xs, length=None, reverse=False):
    carry, ys = init, []
    for x in xs:
        carry, y = f(carry, x)
        ys.append(y)
    return carry, tuple(np.stack(part) for part in zip(*ys, strict=True))


def elements(scan):
    """Scalar code that reads elements of carries, slices and captured arrays."""

    def f(w, xs, h):
        def body(h, x):
            first = h[0] * x[1] + w[1, 2]
            return np.stack([h[1], first, h[2] * x[0]]), first

        h, ys = scan(body, h, xs)
        return np.sum(h**2) + np.sum(ys)

    return f


def written(scan):
    """In-place writes inside of the body."""

    def f(w, xs, h):
        def body(h, x):
            h = h.copy()
            h[1:] += x[:2]
            h[0] = h[1] * h[2]
            y = np.zeros_like(x)
            y[::2] = h[::2] * w[0, ::2]
            return h, y

        h, ys = scan(body, h, xs)
        return np.sum(h**2) + np.sum(ys**3)

    return f


def indexed(scan):
    """An integer carry as an index."""

    def f(w, xs, h):
        def body(carry, x):
            i, h = carry
            return (i + 1, h * x + w[i % 3]), h[i % 3]

        (i, h), ys = scan(body, (1, h), xs)
        return np.sum(h) + np.sum(ys) + xs[i % 6, 0]

    return f


H = RNG.normal(size=3)
CASES = {
    "scalars": (scalars, (1.2, 0.7), python_scan),
    "arrays": (arrays, (W, XS, H), python_scan),
    "reverse": (both_ways, (W, XS, H), python_scan),
    "swapped": (swapped, (0.4, 1.3), python_scan),
    "passed through": (passed_through, (W, XS, H), python_tree_scan),
    "elements": (elements, (W, XS, H), python_scan),
    "written": (written, (W, XS, H), python_scan),
    "indexed": (indexed, (W, XS, H), python_scan),
}


@pytest.fixture(params=["compiled", "plain"])
def kernels(request):
    if request.param == "compiled":
        yield
    else:
        with tj.testing.plain_python():
            yield


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", CASES)
def test_scan(name):
    """Value and gradient equal those of the unrolled loop, also at another point."""
    program, args, reference = CASES[name]
    n = tuple(range(len(args)))
    staged = tj.value_and_grad(program(tj.scan), n)
    unrolled = tj.value_and_grad(program(reference), n)
    for scale in (1.0, 0.8):
        point = tuple(scale * arg for arg in args)
        value, gradient = staged(*point)
        expected, wanted = unrolled(*point)
        assert_allclose(value, expected, rtol=1e-13)
        for got, want in zip(gradient, wanted, strict=True):
            assert_allclose(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_pullback_twice(name):
    """A pullback can be called again: what is stored outlives its reverse sweep."""
    program, args, _ = CASES[name]
    _, pullback = tj.vjp(program(tj.scan), *args)
    first, second = pullback(1.0), pullback(2.0)
    for a, b in zip(first, second, strict=True):
        assert_array_equal(2.0 * np.asarray(a), b)


@pytest.mark.filterwarnings("ignore::tapejit.SideEffectWarning")
def test_eager():
    """On plain values the result is that of the Python loop, with NumPy's types."""
    calls = []

    def body(carry, x):
        calls.append(1)
        return carry + x, (carry > 1.0, carry * x)

    carry, (flags, ys) = tj.scan(body, 0.0, np.arange(4.0))
    assert len(calls) == 1
    assert carry == 6.0
    assert isinstance(carry, np.float64)
    assert_array_equal(flags, [False, False, False, True])
    assert flags.dtype == bool
    assert_array_equal(ys, [0.0, 0.0, 2.0, 9.0])
    ys[0] = 5.0  # ours


def test_pytrees():
    xs = {"a": np.arange(3.0), "b": (np.ones((3, 2)),)}

    def body(carry, x):
        new = {"s": carry["s"] + x["a"], "v": [carry["v"][0] * 2.0 + x["b"][0]]}
        return new, {"y": new["s"]}

    carry, ys = tj.scan(body, {"s": 0.0, "v": [np.zeros(2)]}, xs)
    assert_array_equal(ys["y"], [0.0, 1.0, 3.0])
    assert_array_equal(carry["v"][0], [7.0, 7.0])


def test_one_instruction_a_loop():
    """A million-step loop has a tape of one step."""
    tape = tj.trace(lambda a: tj.fori_loop(0, 1_000_000, lambda i, x: x * a, 1.0), 1.0)
    assert len(tape) == 1
    assert len(tape.calls[0].params[0].bodies[0]) < 5
    assert tape(1.0) == 1.0
    assert tape(1.0 + 1e-6) == pytest.approx(np.e, rel=1e-5)
    assert "scan[" in str(tape)


@pytest.mark.parametrize("steps", [0, 1])
def test_few_steps(steps):
    def f(a, xs):
        c, ys = tj.scan(lambda c, x: (c * a + x, c), a * 2.0, xs)
        return c + np.sum(ys)

    value, (ga, gx) = tj.value_and_grad(f, (0, 1))(3.0, np.arange(1.0, 1.0 + steps))
    if steps:
        assert (value, ga) == (3.0 * 6.0 + 1.0 + 6.0, 4.0 * 3.0 + 2.0)
        assert_array_equal(gx, [1.0])
    else:
        assert (value, ga) == (6.0, 2.0)
        assert gx.shape == (0,)


def test_empty_carry_and_results():
    carry, ys = tj.scan(lambda c, x: (c, x * 2.0), (), np.arange(3.0))
    assert carry == ()
    assert_array_equal(ys, [0.0, 2.0, 4.0])
    assert tj.scan(lambda c, x: (c, None), (), np.arange(3.0)) == ((), None)
    f = lambda x: np.sum(tj.scan(lambda c, x: ((), np.sin(x)), (), x)[1])  # noqa: E731
    assert_allclose(tj.grad(f)(np.arange(3.0)), np.cos(np.arange(3.0)))
    empty = tj.scan(lambda c, x: (c, x * 2.0), np.zeros((0, 2)), np.zeros((3, 0)))
    assert empty[0].shape == (0, 2)
    assert empty[1].shape == (3, 0)


def test_fori_loop():
    power = lambda x, n: tj.fori_loop(0, n, lambda i, y: y * x + i, 1.0)  # noqa: E731

    def python(x, n):
        y = 1.0
        for i in range(n):
            y = y * x + i
        return y

    assert tj.jit(power, static_argnums=1)(1.5, 4) == python(1.5, 4)
    traced = tj.value_and_grad(power)
    for n in (4, 0, 7):
        value, g = traced(1.5, n)
        assert value == python(1.5, n)
        assert g == pytest.approx((python(1.5 + 1e-6, n) - python(1.5 - 1e-6, n)) / 2e-6, abs=1e-5)
    assert tj.fori_loop(5, 2, lambda i, x: x + 1.0, 3.0) == 3.0


# --- while loops, branches, nesting ---------------------------------------------------------------


def descent(curvature, start):
    """Gradient descent to convergence on ``0.5 c x^2 + cos(x)``, derivative written out."""

    def python(c, x):
        g = c * x - np.sin(x)
        while abs(g) > 1e-9:
            x = x - 0.3 * g
            g = c * x - np.sin(x)
        return x

    def staged(c, x):
        slope = lambda x: c * x - np.sin(x)  # noqa: E731
        return tj.while_loop(lambda x: abs(slope(x)) > 1e-9, lambda x: x - 0.3 * slope(x), x)

    return python, staged


@pytest.mark.usefixtures("kernels")
def test_while_loop():
    python, staged = descent(2.0, 1.0)
    f, g = tj.value_and_grad(staged, (0, 1)), tj.value_and_grad(python, (0, 1))
    for c, x in ((2.0, 1.0), (0.7, 2.0), (3.0, 0.0)):
        (value, gradient), (expected, wanted) = f(c, x), g(c, x)
        assert_allclose(value, expected, rtol=1e-12, atol=1e-14)
        assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 63, 64, 65, 3000])
def test_while_loop_of_any_length(steps):
    """Blocks and snapshots of the default schedule, on both sides of their sizes."""

    def f(a, n):
        _, x = tj.while_loop(
            lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] + 1e-3 * np.sin(a * c[1])), (0, a)
        )
        return x

    def python(a, n):
        x = a
        for _ in range(n):
            x = x + 1e-3 * np.sin(a * x)
        return x

    assert_allclose(tj.value_and_grad(f)(0.9, steps), tj.value_and_grad(python)(0.9, steps),
                    rtol=1e-12)  # fmt: skip


@pytest.mark.usefixtures("kernels")
def test_nested():
    """Loops and branches in loops, with closures over values of every level."""

    def f(a, w):
        def outer(s, x):
            inner = lambda z, v: (np.sin(z) * a + s * x, z * v)  # noqa: E731
            z, zs = tj.scan(inner, s, w)
            q = tj.while_loop(lambda q: q > 0.5, lambda q: q * 0.7 * a, z + 4.0)
            q = tj.cond(q > 0.45, lambda q: q * s, lambda q: np.exp(q) * x, q)
            return q, np.sum(zs) * z

        c, ys = tj.scan(outer, 0.3, np.linspace(0.0, 1.0, 6))
        return c + np.sum(ys)

    def python(a, w):
        s, total = 0.3, 0.0
        for x in np.linspace(0.0, 1.0, 6):
            z, zs = s, 0.0
            for v in w:
                z, zs = np.sin(z) * a + s * x, zs + z * v
            q = z + 4.0
            while q > 0.5:
                q = q * 0.7 * a
            q = q * s if q > 0.45 else np.exp(q) * x
            s, total = q, total + zs * z
        return s + total

    w = np.array([1.0, 0.5, -0.3])
    for a in (1.1, 0.8):
        got = tj.value_and_grad(f, (0, 1))(a, w)
        want = tj.value_and_grad(python, (0, 1))(a, w)
        assert_allclose(got[0], want[0], rtol=1e-13)
        assert_allclose(got[1][0], want[1][0], rtol=1e-12)
        assert_allclose(got[1][1], want[1][1], rtol=1e-12)


@pytest.mark.usefixtures("kernels")
def test_branches():
    def f(i, x, y):
        a, b = tj.switch(
            i,
            [
                lambda u, v: (u * v, np.sum(v)),
                lambda u, v: (v, u * y[1]),
                lambda u, v: (np.exp(v) + u, u),
            ],
            x, y * 2.0,
        )  # fmt: skip
        return np.sum(a**2) * b

    def python(i, x, y):
        v = y * 2.0
        a, b = [(x * v, np.sum(v)), (v, x * y[1]), (np.exp(v) + x, x)][i]
        return np.sum(a**2) * b

    y = np.array([0.3, 0.8])
    staged = tj.value_and_grad(lambda i, x, y: np.sum(f(i, x, y)), (1, 2))
    for i, chosen in ((2, 2), (0, 0), (-5, 0), (9, 2)):
        value, (gx, gy) = staged(i, 0.7, y)
        expected, (wx, wy) = tj.value_and_grad(
            lambda x, y, i=chosen: np.sum(python(i, x, y)), (0, 1)
        )(0.7, y)
        assert_allclose(value, expected, rtol=1e-13)
        assert_allclose(gx, wx, rtol=1e-12)
        assert_allclose(gy, wy, rtol=1e-12)


def test_untraced_choices_are_made_at_once():
    assert tj.cond(True, lambda x: x, lambda x: 1 / 0, 3.0) == 3.0
    assert tj.switch(1, [lambda x: 1 / 0, lambda x: x], 3.0) == 3.0


def test_branch_that_ignores_its_operands():
    f = lambda x: tj.cond(x > 0.0, lambda: 2.0, lambda: -1.0) * x  # noqa: E731
    assert tj.grad(f)(3.0) == 2.0
    assert tj.grad(f)(-3.0) == -1.0


SCHEDULES = [
    tj.StoreAll(), tj.Uniform(5), tj.Uniform(1), tj.Revolve(1), tj.Revolve(3),
    tj.Revolve(2, every=4), tj.Memory("20 kB"), tj.TwoLevel(1, 2), tj.TwoLevel(0, 3),
]  # fmt: skip


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("name", ["scalars", "arrays", "written", "indexed"])
def test_schedules_give_the_same_bits(name, schedule):
    program, args, _ = CASES[name]
    n = tuple(range(len(args)))

    def scan(*rest, **options):
        return tj.scan(*rest, **options, checkpoint=schedule)

    value, gradient = tj.value_and_grad(program(scan), n)(*args)
    expected, wanted = tj.value_and_grad(program(tj.scan), n)(*args)
    assert value == expected
    for got, want in zip(gradient, wanted, strict=True):
        assert_array_equal(got, want)


def test_pullback_twice_with_snapshots():
    """Snapshots are used up: the loop runs forward again before the second reverse sweep."""

    def f(a):
        return tj.fori_loop(0, 20, lambda i, x: np.sin(x) * a, a)

    def g(a):
        body = lambda x, _: (np.sin(x) * a, None)  # noqa: E731
        return tj.scan(body, a, None, 20, checkpoint=tj.Revolve(3))[0]

    _, pullback = tj.vjp(g, 1.3)
    expected = tj.grad(f)(1.3)
    assert pullback(1.0)[0] == expected
    assert pullback(1.0)[0] == expected


@pytest.mark.parametrize("snapshots", [1, 2, 5])
def test_while_loop_online(snapshots):
    python, _ = descent(2.0, 1.0)

    def staged(c, x):
        slope = lambda x: c * x - np.sin(x)  # noqa: E731
        return tj.while_loop(
            lambda x: abs(slope(x)) > 1e-9, lambda x: x - 0.3 * slope(x), x,
            checkpoint=tj.Online(snapshots, every=3),
        )  # fmt: skip

    got, want = tj.value_and_grad(staged)(0.7, 2.0), tj.value_and_grad(python)(0.7, 2.0)
    assert_allclose(got, want, rtol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    coefficients=st.lists(st.floats(-1.0, 1.0), min_size=4, max_size=4),
    steps=st.integers(0, 7),
    reverse=st.booleans(),
    depth=st.integers(0, 2),
)
def test_random_recurrences(coefficients, steps, reverse, depth):
    """Random scalar recurrences, nested to a random depth."""
    xs = np.linspace(-1.0, 1.0, steps)

    def program(scan, a, level=0):
        def body(carry, x):
            u, v = carry
            if level < depth:
                inner = program(scan, np.array([u, v, a[2], a[3]]), level + 1)
                v = v + 0.1 * inner
            return (np.tanh(a[0] * u + a[1] * v), a[2] * u * x + a[3]), u * v

        (u, v), ys = scan(body, (a[0], a[1]), xs, None, reverse)
        return u + v if ys is None else u + v + np.sum(ys)

    a = np.array(coefficients)
    got = tj.value_and_grad(lambda a: program(tj.scan, a))(a)
    want = tj.value_and_grad(lambda a: program(python_scan, a))(a)
    assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-13)
    assert_allclose(got[1], want[1], rtol=1e-10, atol=1e-12)


def test_threads():
    """Two threads run one program at the same time, each in a workspace of its own."""

    def f(a, n):
        c = tj.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, np.sin(c[1]) * a), (0, a))
        return c[1]

    g = tj.value_and_grad(f)
    expected = {a: g(a, 2000) for a in (0.9, 1.1, 1.4, 1.9)}
    wrong = []

    def work(a):
        for _ in range(20):
            if g(a, 2000) != expected[a]:
                wrong.append(a)

    threads = [threading.Thread(target=work, args=(a,)) for a in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- arrays that a body makes of outer values -----------------------------------------------------


def _like(x, c):
    y = np.zeros_like(x)
    y[0] = x[1] * c
    y[1:] = 2.0
    return y


def _copied(x, c):
    y = x.copy()
    y[1:] += c
    v = y[:2]
    v *= x[1]
    return y


def _computed(x, c):
    y = np.sin(x)
    y[0] = c
    y[1] = x[0]
    return y


def _untouched(x, c):
    y = x * 2.0
    y[0] = x[1]  # of outer values alone
    y[1] *= 3.0
    return y * c


def _added(x, c):
    y = x * 1.0
    y += x
    y += c
    y[2] = y[0] * c
    return y


def _filled(x, c):
    y = np.full_like(x, x[2])
    y[0] = c
    return np.copy(y)


MAKERS = [_like, _copied, _computed, _untouched, _added, _filled]


@pytest.mark.parametrize("make", MAKERS)
def test_arrays_made_in_a_body_can_be_written(make):
    """... also where they are computed of what the body closes over."""
    x = np.array([0.7, -0.4, 0.3])

    def staged(x):
        body = lambda c, w: (np.tanh(np.sum(make(x, c)) * w), np.max(make(x, c)))  # noqa: E731
        c, ys = tj.scan(body, x[0], np.array([0.5, -1.0, 0.8]))
        return c + np.sum(ys)

    def plain(x):
        c, total = x[0], 0.0
        for w in (0.5, -1.0, 0.8):
            y = make(x, c)
            c, total = np.tanh(np.sum(y) * w), total + np.max(y)
        return c + total

    for point in (x, x + 0.1):
        assert_allclose(tj.jit(staged)(point), plain(point), rtol=1e-13)
        assert_allclose(tj.grad(staged)(point), tj.grad(plain)(point), rtol=1e-12)
        assert_allclose(tj.hvp(staged)(point, x), tj.hvp(plain)(point, x), rtol=1e-11)
    branch = lambda x: np.sum(tj.cond(x[0] > 0.0, lambda: make(x, x[1]), lambda: x))  # noqa: E731
    assert_allclose(tj.grad(branch)(x), tj.grad(lambda x: np.sum(make(x, x[1])))(x), rtol=1e-12)
    inner = tj.jit(lambda x: tj.grad(lambda c: np.sum(make(x, c) ** 2))(x[1]))
    h = 1e-6
    slopes = [(inner(x + h * e) - inner(x - h * e)) / (2.0 * h) for e in np.eye(3)]
    assert_allclose(tj.grad(inner)(x), slopes, rtol=1e-7, atol=1e-8)
