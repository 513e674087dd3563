"""Staged control flow: bad input, endless loops, interrupts."""

import functools
import resource
import signal
import threading
import warnings

import numpy as np
import pytest

import tapejit as tj

HERE = __file__


def line_of(error):
    """Whether the message names a line of this file."""
    return HERE in str(error.value)


def test_carry_of_another_shape():
    with pytest.raises(tj.TraceError, match=r"shape of carry\['v'\] from \(2,\) to \(3,\)") as e:
        tj.scan(lambda c, x: ({"v": np.zeros(3)}, None), {"v": np.zeros(2)}, np.zeros(4))
    assert line_of(e)


def test_carry_of_another_structure():
    with pytest.raises(tj.TraceError, match="structure of its carry") as e:
        tj.while_loop(lambda c: c[0] > 0.0, lambda c: [c[0]], (1.0, 2.0))
    assert line_of(e)


def test_carry_of_another_dtype():
    with pytest.raises(tj.TraceError, match=r"dtype of carry\[1\] from int64 to float64.*0\.0"):
        tj.scan(lambda c, x: ((c[0], c[1] + x), None), (1.0, 0), np.arange(3.0))
    # An integer is a float of that value.
    assert tj.scan(lambda c, x: (1, None), 0.5, np.arange(3.0))[0] == 1.0


def test_body_that_returns_no_pair():
    with pytest.raises(tj.TraceError, match="must return a pair") as e:
        tj.scan(lambda c, x: c + x, 0.0, np.arange(3.0))
    assert line_of(e)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((np.zeros(3), np.zeros(4)),), "xs.1. has shape"),
        ((np.zeros(3), 4), "has shape"),
        ((1.0,), "scalar"),
        ((), "needs xs or length"),
        ((None, -1), "length is -1"),
        ((None, 2.5), "length is 2.5; it is an integer"),
        ((None, "3"), "length is '3'"),
    ],
)
def test_lengths(arguments, message):
    with pytest.raises(ValueError, match=message) as e:
        tj.scan(lambda c, x: (c, None), 0.0, *arguments)
    assert line_of(e)


def test_strings_in_the_carry():
    with pytest.raises(tj.TraceError, match=r"init\['name'\] is 'a'"):
        tj.jit(lambda x: tj.scan(lambda c, _: (c, x), {"name": "a"}, None, 2))(1.0)


def test_branch_in_a_body():
    def body(c, x):
        if x > 0.0:
            return c + x, None
        return c, None

    with pytest.raises(tj.TraceError, match=r"tapejit.scan.*np.where, tapejit.cond") as e:
        tj.grad(lambda a: tj.scan(body, a, np.arange(3.0))[0])(1.0)
    assert line_of(e)
    with pytest.raises(tj.TraceError, match="which is recorded once for all"):
        tj.fori_loop(0, 3, lambda i, x: x + np.sum(np.ones(int(i))), 0.0)


def test_branch_on_an_outer_value_is_a_guard():
    """A branch that every step takes alike is the enclosing function's."""

    def f(a, xs):
        body = lambda c, x: ((c + x if a > 0.0 else c * x), None)  # noqa: E731
        return tj.scan(body, a, xs)[0]

    g = tj.grad(f)
    assert g(2.0, np.ones(3)) == 1.0
    assert g(-2.0, 2.0 * np.ones(3)) == 8.0


@pytest.mark.filterwarnings("ignore::tapejit.SideEffectWarning")
def test_side_effects():
    kept = []

    def appending(c, x):
        kept.append(c * x)
        return c + x, None

    def f(xs):
        carry, _ = tj.scan(appending, 0.0, xs)
        return carry + sum(kept)

    with pytest.raises(tj.TracerLeakError, match=r"tapejit.scan.*once for all steps") as e:
        tj.jit(f)(np.arange(3.0))
    assert line_of(e)

    def writing(xs):
        total = xs * 0.0

        def body(c, x):
            total[0] = 1.0
            return c, None

        return tj.scan(body, 0.0, xs)[0] + total[0]

    with pytest.raises(tj.TracerLeakError, match="writes into an array") as e:
        tj.jit(writing)(np.arange(3.0))
    assert line_of(e)


class Counter:
    def __init__(self):
        self.n = 0

    def body(self, c, x):
        self.n += 1
        return c + x, None


def _appends(log):
    return lambda c, x: (c + x, log.append(1))


def _assigns(seen, array):
    def body(c, x):
        seen["last"] = "a step"
        array[0] += 1.0
        return c + x, None

    return body


def _counts():
    n = 0

    def body(c, x):
        nonlocal n
        n += 1
        return c + x * n, None

    return body


def _draws(rng):
    return lambda c, x: (c + x * rng.normal(), None)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (_appends([]), "`log`"),
        (_assigns({}, np.zeros(3)), "`array`, `seen`"),
        (_counts(), "`n`"),
        (Counter().body, "`self`"),
        (_draws(np.random.default_rng(0)), "`rng`"),
        (lambda c, x: (c + x * np.random.normal(), None), r"`np\.random`"),  # noqa: NPY002
        (functools.partial(lambda log, c, x: (c + x, log.append(1)), []), None),
    ],
)
def test_changes_of_python_state_warn(body, names):
    """A body runs once, whatever it does to Python objects; the loop runs all the same."""
    call = tj.jit(lambda xs: tj.scan(body, 0.0, xs)[0])
    if names is None:  # an argument of the function: out of sight
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert call(np.ones(3)) == 3.0
        return
    with pytest.warns(tj.SideEffectWarning, match=f"tapejit.scan changes {names}. ") as caught:
        call(np.ones(3))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(np.zeros(3))  # a replay


def test_bodies_without_side_effects_do_not_warn():
    table, settings, rng = np.arange(5.0), {"rate": 0.5, "parts": [1, 2]}, np.random.default_rng(0)
    noise, counter = rng.normal(size=3), Counter()

    def body(c, x):
        return c * settings["rate"] + x * len(settings["parts"]) + counter.n + table[2], noise

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tj.scan(body, 0.0, np.ones(3))
        tj.cond(True, lambda: rng.normal(), lambda: 0.0)  # chosen at once, as Python does
        tj.jit(lambda x: tj.cond(x > 0.0, lambda: x * settings["rate"], lambda: x))(1.0)


def _add(y, x):
    y += x


@pytest.mark.parametrize(
    "write",
    [
        _add,
        lambda y, x: np.add(y, x, out=y),
        lambda y, x: y.__setitem__(..., 2.0 * x),
        lambda y, x: y.__setitem__(0, 1.0),
        lambda y, x: y[1:].__setitem__(0, x[0]),
        lambda y, x: (_add(y, x), _add(y, x)),
    ],
)
def test_outer_arrays_written_with_outer_values(write):
    """It would happen once, not in each step: an error, however the array is written."""

    def f(x):
        y = x * 1.0
        return tj.scan(lambda c, w: (c * w, write(y, x)), x[0], np.ones(3))[0] + np.sum(y)

    with pytest.raises(tj.TracerLeakError, match=r"writes into an array.*y = y.copy\(\)") as e:
        tj.jit(f)(np.array([0.5, 0.7]))
    assert line_of(e)


def test_a_view_of_an_array_made_in_the_body_names_the_remedy():
    def f(x, copies):
        def body(c, w):
            y = x.copy() if copies else x * 1.0
            v = y[1:]
            v += c
            return np.sum(y), None

        return tj.scan(body, x[0], np.ones(3))[0]

    x = np.array([0.5, 0.7])
    with pytest.raises(tj.TracerLeakError, match=r"y = y.copy\(\)"):
        tj.jit(lambda x: f(x, False))(x)
    assert tj.jit(lambda x: f(x, True))(x) == pytest.approx(1.2 + 1.2 + 1.2 + 0.5)


def test_inner_value_written_into_an_outer_array():
    def f(xs):
        total = xs * 0.0

        def body(c, x):
            total[0] = c
            return c + x, None

        return tj.scan(body, 0.0, xs)[0]

    with pytest.raises(tj.TracerLeakError):
        tj.jit(f)(np.arange(3.0))


def test_branches_of_different_results():
    f = tj.jit(lambda x: tj.cond(x[0] > 0.0, lambda: x, lambda: x[:1]))
    with pytest.raises(tj.TraceError, match=r"branch 0 float64 of shape \(1,\), branch 1") as e:
        f(np.ones(2))
    assert line_of(e)
    with pytest.raises(tj.TraceError, match="different structures"):
        tj.jit(lambda x: tj.cond(x > 0.0, lambda: (x,), lambda: [x]))(1.0)


def test_predicates():
    with pytest.raises(tj.TraceError, match=r"scalar.*\(2,\)"):
        tj.jit(lambda x: tj.cond(x > 0.0, lambda: x, lambda: x))(np.ones(2))
    with pytest.raises(tj.TraceError, match="integer"):
        tj.jit(lambda x: tj.switch(x, [np.sin, np.cos], x))(1.0)
    with pytest.raises(tj.TraceError, match="boolean scalar"):
        tj.while_loop(lambda x: x, lambda x: x - 1.0, 3.0)
    with pytest.raises(ValueError, match="at least one"):
        tj.switch(0, [], 1.0)
    with pytest.raises(tj.TraceError, match="bounds of fori_loop"):
        tj.fori_loop(0, 2.5, lambda i, x: x, 1.0)


CLOSED = [tj.StoreAll(), tj.Uniform(2), tj.Revolve(3), tj.TwoLevel(1, 2)]
OPEN = [tj.Online(3), tj.Memory("20 kB")]


@pytest.mark.parametrize("schedule", CLOSED, ids=str)
def test_schedule_that_needs_the_number_of_steps(schedule):
    f = lambda x: tj.while_loop(lambda x: x > 1.0, lambda x: x / 2.0, x, checkpoint=schedule)  # noqa: E731
    g = lambda x, n: tj.fori_loop(0, n, lambda i, y: y * x, 1.0, checkpoint=schedule)  # noqa: E731
    for call in (lambda: f(5.0), lambda: tj.jit(f)(5.0), lambda: tj.grad(f)(5.0)):
        with pytest.raises(tj.ScheduleError, match=r"condition says .* Online.*Memory") as e:
            call()
        assert line_of(e)
    with pytest.raises(tj.ScheduleError, match=r"fori_loop.*bound .* traced .* Online") as e:
        tj.grad(g)(1.5, 4)
    assert line_of(e)
    assert tj.grad(lambda x: g(x, 4))(1.5) == pytest.approx(4.0 * 1.5**3)  # a known number


@pytest.mark.parametrize("schedule", OPEN, ids=str)
def test_schedules_for_any_number_of_steps(schedule):
    f = lambda x: tj.while_loop(lambda x: x > 1.0, lambda x: x * x / 9.0, x, checkpoint=schedule)  # noqa: E731
    g = tj.grad(lambda x, n: tj.fori_loop(0, n, lambda i, y: np.sin(y) * x, x, checkpoint=schedule))
    stored = tj.grad(lambda x: tj.fori_loop(0, 9, lambda i, y: np.sin(y) * x, x))
    assert tj.grad(f)(8.0) == tj.grad(lambda x: tj.while_loop(
        lambda x: x > 1.0, lambda x: x * x / 9.0, x))(8.0)  # fmt: skip
    assert g(1.3, 9) == stored(1.3)
    assert [g(1.3, 0), g(1.3, -2)] == [1.0, 1.0]


@pytest.mark.parametrize("schedule", [5, "Revolve", True, tj.Revolve])
def test_what_is_no_schedule(schedule):
    step = lambda c, _: (c * 1.5, None)  # noqa: E731
    for call in (
        lambda: tj.scan(step, 1.0, length=3, checkpoint=schedule),
        lambda: tj.fori_loop(0, 3, lambda i, c: c * 1.5, 1.0, checkpoint=schedule),
        lambda: tj.while_loop(lambda c: c < 9.0, lambda c: c * 1.5, 1.0, checkpoint=schedule),
    ):
        with pytest.raises(TypeError, match="checkpoint is a schedule") as e:
            call()
        assert line_of(e)


def test_a_limit_that_a_loop_cannot_meet_names_its_line():
    f = lambda x, ck: tj.fori_loop(0, 50, lambda i, c: np.sin(c), x, checkpoint=ck)  # noqa: E731
    with pytest.raises(tj.ScheduleError, match=r"at least (\d+) bytes") as e:
        tj.grad(lambda x: f(x, tj.Memory("1 kB")))(1.0)
    assert line_of(e)
    least = int(str(e.value).partition("at least ")[2].split()[0])
    assert tj.grad(lambda x: f(x, tj.Memory(least)))(1.0) == tj.grad(lambda x: f(x, None))(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tj.fori_loop(0, 3, lambda i, c: (c, c), 1.0),
            r"fori_loop.*\(\*\).*\(\(\*, \*\)\)",
        ),
        (
            lambda: tj.fori_loop(0, 3, lambda i, c: c[:1], np.ones(2)),
            r"fori_loop.* shape of carry ",
        ),
        (lambda: tj.fori_loop(0, 3, lambda i, c: {"a": c["a"] / 2}, {"a": 1}), r"carry\['a'\]"),
        (lambda: tj.while_loop(lambda c: c < 3.0, lambda c: None, 1.0), "while_loop.*structure"),
        (lambda: tj.fori_loop(0, 3, lambda i, c: c, object()), "init_val is of type object"),
        (lambda: tj.scan(lambda c, x: (c, x), 1j, np.ones(2)), "init is complex"),
        (lambda: tj.scan(lambda c, x: (c, x), 0.0, [np.ones(2, complex)]), r"xs\[0\] is complex"),
    ],
)
def test_carries_are_named_as_the_user_knows_them(call, message):
    with pytest.raises(tj.TraceError, match=message) as e:
        call()
    assert line_of(e)


def test_tensors_in_loops_of_recorded_functions():
    x = tj.tensor(1.5, requires_grad=True)
    for body in (lambda i, c: c * x, lambda i, c: x * c, lambda i, c: np.where(c > x, c, x)):
        with pytest.raises(tj.TraceError, match="without jit or grad") as e:
            tj.grad(lambda v, body=body: tj.fori_loop(0, 3, body, v))(2.0)
        assert line_of(e)


def test_too_many_steps_to_store():
    f = lambda x: tj.scan(lambda c, _: (np.sin(c) * x, None), x, length=10**9)[0]  # noqa: E731
    tape = tj.trace(lambda x: tj.cond(x > 0.0, lambda: f(x), lambda: x), -1.0)  # does not run it
    with pytest.raises(tj.TraceError, match=r"steps would keep \d+ GB.*Revolve"):
        tj.program.Program(tape, (0,), "gradient", True)


def powers(schedule):
    body = lambda c, _: (np.sin(c) * c, None)  # noqa: E731
    return lambda x: tj.scan(body, x, length=20, checkpoint=schedule)[0]


def test_snapshots_in_a_file(tmp_path):
    for directory in (tmp_path, str(tmp_path)):
        f = tj.grad(powers(tj.TwoLevel(1, 3, directory=directory)))
        assert f(1.5) == tj.grad(powers(None))(1.5)
    with pytest.raises(tj.ScheduleError, match="No such file"):
        tj.grad(powers(tj.TwoLevel(1, 3, directory=str(tmp_path / "nowhere"))))(1.5)
    nested = lambda x: tj.fori_loop(0, 3, lambda i, y: powers(tj.TwoLevel(1, 3))(y), x)  # noqa: E731
    with pytest.raises(tj.ScheduleError, match="body of another loop"):
        tj.grad(nested)(1.5)
    assert tj.jit(nested)(1.5) == pytest.approx(nested(1.5))  # values keep nothing


def test_a_disk_without_room_loses_nothing():
    """... and names what is needed; the function works once there is room again."""
    step = lambda c, _: (np.sin(c) * c, None)  # noqa: E731
    f = lambda x, ck: np.sum(tj.scan(step, x, length=200, checkpoint=ck)[0])  # noqa: E731
    x = np.linspace(0.5, 1.5, 100)
    gradient = tj.grad(lambda x: f(x, tj.TwoLevel(2, 30)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        for _ in range(2):
            with pytest.raises(tj.ScheduleError, match="30 snapshots of 800 B on disk need 24 kB"):
                gradient(x)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (gradient(x) == tj.grad(lambda x: f(x, None))(x)).all()


def test_a_file_that_fails(monkeypatch):
    """A write that does not go through is an error; the function works when it does again."""
    from tapejit.interpreters import files

    f = powers(tj.TwoLevel(1, 3))
    with tj.testing.plain_python():
        _, pullback = tj.vjp(f, 1.5)
        g = tj.grad(f)
        expected = g(1.5)
        monkeypatch.setattr(files, "_pread", lambda *args: -1)
        with pytest.raises(tj.ScheduleError, match="read back"):
            pullback(1.0)
        with pytest.raises(tj.ScheduleError, match="read back"):
            g(1.5)
        monkeypatch.undo()
        assert g(1.5) == expected
        monkeypatch.setattr(files, "_pwrite", lambda *args: -1)
        with pytest.raises(tj.ScheduleError, match=r"bad_input\.py.*written"):
            g(1.5)
        monkeypatch.undo()
        assert g(1.5) == expected


def endless(x):
    return tj.while_loop(lambda x: x > 0.0, lambda x: x * 1.0, x)


def test_a_loop_that_would_not_end_where_it_does_not_run():
    """Recording does not run what the branch not taken, or the step not made, contains."""
    f = lambda x: tj.cond(x > 0.0, lambda: x * 2.0, lambda: endless(-x))  # noqa: E731
    assert tj.grad(f)(3.0) == 2.0
    g = lambda x: tj.while_loop(lambda c: c < 0.0, endless, x)  # noqa: E731
    assert tj.grad(g)(3.0) == 1.0
    h = lambda x: tj.scan(lambda c, _: (endless(c), None), x, length=0)[0]  # noqa: E731
    assert tj.grad(h)(3.0) == 1.0


def test_endless_loop():
    f = lambda x: tj.while_loop(lambda x: x > 0.0, lambda x: x * 1.0, x, max_steps=1000)  # noqa: E731
    with pytest.raises(tj.LoopLimitError, match="max_steps = 1000") as e:
        f(1.0)
    assert line_of(e)
    for bad in (-1, 2.5, "many"):
        with pytest.raises(ValueError, match=r"max_steps is .* at least 0") as e:
            tj.while_loop(lambda x: x > 0.0, lambda x: x, 1.0, max_steps=bad)
        assert line_of(e)
    for g in (tj.jit(f), tj.grad(f), tj.grad(lambda x: tj.fori_loop(0, 3, lambda i, y: f(y), x))):
        expected = g(-1.0)
        with pytest.raises(tj.LoopLimitError, match="max_steps"):
            g(1.0)
        assert g(-1.0) == expected


@pytest.mark.parametrize(
    "make",
    [
        tj.jit,
        tj.grad,
        lambda f: tj.grad(lambda x: tj.fori_loop(0, 3, lambda i, y: f(y), x)),
    ],
    ids=["value", "gradient", "nested"],
)
def test_interrupt(make):
    """Ctrl-C ends a loop that would not end; the function is as before."""
    assert threading.current_thread() is threading.main_thread()
    f = make(endless)
    expected = f(-2.0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            f(2.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert f(-2.0) == expected


def test_interrupted_pullback():
    """A pullback that was interrupted can be called again."""
    body = lambda c, _: (c - 1e-6 * np.sin(c), None)  # noqa: E731
    f = lambda x: tj.scan(body, x, length=600_000, checkpoint=tj.Revolve(20))[0]  # noqa: E731
    _, pullback = tj.vjp(f, 1.5)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            pullback(1.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert pullback(1.0)[0] == tj.grad(f)(1.5)


def test_pauses_change_nothing(monkeypatch):
    """A loop that pauses again and again, at every level, gives the same bits."""
    from tapejit.interpreters import entry

    def f(a, w):
        def outer(s, x):
            z, zs = tj.scan(lambda z, v: (np.sin(z) * a + s * x, z * v), s, w)
            q = tj.while_loop(lambda q: q > 0.5, lambda q: q * 0.7 * a, z + 4.0)
            return q, np.sum(zs) * z

        xs = np.linspace(0.0, 1.0, 6)
        c, ys = tj.scan(outer, 0.3, xs, checkpoint=tj.Revolve(2))
        return c + np.sum(ys)

    w = np.array([1.0, 0.5, -0.3])
    expected = tj.value_and_grad(f, (0, 1))(1.1, w)
    with tj.testing.plain_python():
        for work in (0, 200, 1000):
            monkeypatch.setattr(entry, "WORK", work)
            value, (ga, gw) = tj.value_and_grad(f, (0, 1))(1.1, w)
            assert value == expected[0]
            assert ga == expected[1][0]
            assert (gw == expected[1][1]).all()


def test_a_long_loop_goes_on_where_it_paused(monkeypatch):
    """A pause in the short way of a repeated call does not start the call anew."""
    f = tj.jit(lambda x: tj.fori_loop(0, 400_000, lambda i, y: np.sin(y) + x, x))
    g = tj.value_and_grad(lambda x: np.sum(f(x)))
    x = np.array([0.5])
    expected, (value, gradient) = f(0.5), g(x)
    assert value == expected
    pauses = []
    resume = tj.program.Workspace.resume

    def counted(workspace, what):
        pauses.append(what)
        return resume(workspace, what)

    monkeypatch.setattr(tj.program.Workspace, "resume", counted)
    for compiled in (f, g):
        engine = type(compiled.__tapejit__)
        monkeypatch.setattr(engine, "general", None, raising=False)
        monkeypatch.setattr(engine, "_general", None, raising=False)
    assert f(0.5) == expected
    assert len(pauses) == 1
    again = g(x)
    assert (again[0], again[1][0]) == (value, gradient[0])
    assert len(pauses) == 2
