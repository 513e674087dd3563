"""Sweeps that stop: errors name the user's line, and the steps of staged loops around it."""

import re
import traceback
from pathlib import Path

import numpy as np
import pytest

import tapejit as tj
import tapejit.numpy


def here(text):
    """``file:line`` of the line of this file with a certain comment."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return f"{__file__}:{number}"


def message(call, kind):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def lookups(table, x, places):
    def body(c, i):
        return c * table[i], None  # lookup

    return tj.scan(body, x, places)[0]  # lookups


TABLE, GOOD, BAD = np.arange(1.0, 5.0), np.array([0, 1, 2]), np.array([0, 1, 9])
WAYS = {
    "value": lambda f: tj.jit(f),
    "gradient": lambda f: tj.grad(f, 1),
    "jacobian": lambda f: tj.jacobian(f, 0),
    "backwards jacobian": lambda f: tj.jacobian(f, 0, mode="reverse"),
    "hessian": lambda f: tj.hessian(f, 1),
    "product": lambda f: lambda t, x, p: tj.hvp(lambda x, t, p: f(t, x, p))(x, 1.0, t, p),
    "tangent": lambda f: tj.jit(lambda t, x, p: tj.jvp(lambda x: f(t, x, p), (x,), (1.0,))),
    "pullback": lambda f: tj.jit(lambda t, x, p: tj.vjp(lambda x: f(t, x, p), x)[1](1.0)),
    "tape": lambda f: tj.trace(f, TABLE, 1.5, GOOD),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_names_the_line_in_the_body_and_the_step(way):
    f = WAYS[way](lookups)
    f(TABLE, 1.5, GOOD)
    text = message(lambda: f(TABLE, 1.5, BAD), IndexError)
    assert text.startswith(f"{here('lookup')} (step 2 of the loop at {here('lookups')}):")
    f(TABLE, 1.5, GOOD)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("make", [tj.jit, tj.grad], ids=["value", "gradient"])
def test_a_singular_matrix_in_nested_loops(make, plain):
    def inner(c, k):
        m = np.stack([np.stack([c, c]), np.stack([c, 1.0 * (k != 1) + c])])
        return c + 0.0 * np.sum(np.linalg.inv(m)), None  # inverse

    def f(x):
        ks = np.array([0.0, 5.0, 1.0, 2.0])

        def outer(c, _):
            return tj.scan(inner, c, ks)[0], None  # inner loop

        def chosen():
            return tj.scan(outer, x, length=3)[0]  # outer loop

        return tj.cond(x > 2.0, lambda: x, chosen)  # branch

    f = make(f)
    with tj.testing.plain_python() if plain else np.errstate():
        assert np.isfinite(f(3.0))
        text = message(lambda: f(1.5), np.linalg.LinAlgError)
        assert np.isfinite(f(3.0))
    around = f"step 2 of the loop at {here('inner loop')}, in step 0 of the loop at "
    around += f"{here('outer loop')}, in the branch at {here('branch')}"
    assert text.startswith(f"{here('inverse')} ({around}): ")


@pytest.mark.parametrize("schedule", [None, tj.Revolve(2), tj.Uniform(3), tj.TwoLevel(1, 1)])
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_are_counted_as_they_run(schedule, reverse):
    def body(c, x):
        return c + np.linalg.solve(np.stack([np.stack([x])]), np.stack([c]))[0], None  # solve

    f = tj.grad(lambda c, xs: tj.scan(body, c, xs, reverse=reverse, checkpoint=schedule)[0])
    xs = np.arange(1.0, 12.0)
    f(1.0, xs)
    xs[4] = 0.0
    text = message(lambda: f(1.0, xs), np.linalg.LinAlgError)
    assert text.startswith(f"{here('solve')} (step {6 if reverse else 4} of the loop at ")


def lower(x, out):
    if x[0] < 0.0:
        raise ValueError
    out[0] = x[0] - 1.0


def lower_reverse(g, x, out, dx):
    if x[0] == 4.0:
        raise ValueError
    dx[0] += g[0]


lowers = tj.register_op("lowers", lower, reverse=lower_reverse)


@pytest.mark.parametrize("schedule", [None, tj.Revolve(1)])
def test_a_kernel_that_raises_in_either_sweep(schedule):
    def f(x):
        def body(c, _):
            y = np.where(np.sin(c) > 2.0, np.exp(c), c)
            return lowers(y) * 1.0, None  # kernel

        return np.sum(tj.scan(body, x, length=4, checkpoint=schedule)[0])  # kernel loop

    g = tj.grad(f)
    expected = g(np.array([9.5]))
    text = message(lambda: g(np.array([0.5])), RuntimeError)
    loop = f"of the loop at {here('kernel loop')}"
    assert text == f"{here('kernel')} (step 1 {loop}): a kernel of `lowers` raised an exception"
    _, pullback = tj.vjp(f, np.array([6.0]))
    for turn in (lambda: g(np.array([6.0])), lambda: pullback(1.0)):
        text = message(turn, RuntimeError)
        assert text.startswith(f"{here('kernel')} (step 2 {loop}): a reverse kernel of `lowers`")
    assert g(np.array([9.5])) == expected


def test_a_reverse_kernel_outside_of_loops():
    def f(x):
        y = np.sin(x) * 2.0 + x
        y = np.stack([np.sum(y * y)]) * 0.0 + x
        return np.sum(np.exp(lowers(y)))  # outside

    g = tj.grad(f)
    g(np.array([3.0]))
    text = message(lambda: g(np.array([4.0])), RuntimeError)
    assert text == f"{here('outside')}: a reverse kernel of `lowers` raised an exception"
    marked = tj.grad(lambda x: np.sum(tj.checkpoint(f)(x) ** 2))
    text = message(lambda: marked(np.array([4.0])), RuntimeError)
    assert text.startswith(f"{here('outside')}: a reverse kernel")


def test_a_second_run_of_a_marked_call_that_raises():
    """What a region runs again names its line, too."""
    calls = []

    def fails_later(x):
        calls.append(x)
        if len(calls) == fails_at:
            raise KeyError("later")
        return x * 2.0

    def marked(x):
        still = lambda c: tj.stop_gradient(tj.pure_callback(fails_later, (), c))  # noqa: E731
        return tj.fori_loop(0, 3, lambda i, c: np.sin(c) + still(c), x)

    fails_at = -1
    g = tj.grad(lambda x: np.sin(tj.checkpoint(marked)(x)))
    g(0.5)
    calls.clear()
    g(0.5)
    fails_at, n = len(calls), len(calls)
    calls.clear()
    with pytest.raises(KeyError, match="later") as error:
        g(0.5)
    assert len(calls) == n
    assert any("of the loop at" in note for note in error.value.__notes__)


def test_an_exception_of_python_arrives_as_it_is_with_a_note():
    def raises(x):
        if x > 3.0:
            raise KeyError("too large")
        return x * 2.0

    f = tj.jit(lambda x: tj.fori_loop(0, 3, lambda i, c: tj.pure_callback(raises, (), c), x))  # py
    assert f(0.125) == 1.0
    for _ in range(2):
        with pytest.raises(KeyError, match="too large") as error:
            f(1.0)
        (note,) = error.value.__notes__
        assert note == f"raised in a replay of {here('py')} (step 2 of the loop at {here('py')})"
        assert any(
            frame.name == "raises" for frame in traceback.extract_tb(error.value.__traceback__)
        )
    assert f(0.125) == 1.0


def test_an_endless_loop_in_a_loop():
    def inner(c):
        return tj.while_loop(lambda d: d > 0.0, lambda d: d * 1.0, c, max_steps=7)  # endless

    f = tj.grad(lambda x: tj.scan(lambda c, w: (inner(c - w), None), x, np.ones(3))[0])  # around
    assert f(-1.0) == 1.0
    text = message(lambda: f(2.0), tj.LoopLimitError)
    assert text.startswith(f"{here('endless')} (step 0 of the loop at {here('around')}): ")
    assert "max_steps = 7" in text


def test_an_index_into_a_plain_array():
    """NumPy swallows what __index__ raises; the user hears the reason all the same."""
    table = np.arange(4.0)
    f = tj.grad(lambda x: tj.fori_loop(0, 4, lambda i, c: c + table[i] * x, x))  # plain
    text = message(lambda: f(1.0), tj.TraceError)
    assert text.startswith(here("plain"))
    assert "tapejit.numpy.take(table, i)" in text
    take = tapejit.numpy.take
    assert tj.grad(lambda x: tj.fori_loop(0, 4, lambda i, c: c + take(table, i) * x, x))(1.0) == 7.0
    # An index of another kind is NumPy's own error.
    with pytest.raises(IndexError, match="only integers"):
        tj.jit(lambda x: tj.fori_loop(0, 4, lambda i, c: c + table[c], x))(1.0)


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (lambda c: c + np.ones(3), ValueError, "broadcast"),
        (lambda c: c @ np.ones((3, 3)), ValueError, "mismatch"),
        (lambda c: c[5], IndexError, "out of bounds"),
        (lambda c: np.linalg.solve(c, c), np.linalg.LinAlgError, "must be square"),
    ],
)
def test_shapes_that_do_not_fit_are_numpys_errors_at_the_users_line(body, kind, text):
    with pytest.raises(kind, match=text) as error:
        tj.grad(lambda x: np.sum(tj.scan(lambda c, _: (body(c), None), x, length=3)[0]))(np.ones(2))
    frames = traceback.extract_tb(error.value.__traceback__)
    assert any(re.search(r"c \+ np|c @ np|c\[5\]|solve", frame.line or "") for frame in frames)
