"""Graphs that repeat a known one follow its script, and nobody can tell."""

from __future__ import annotations

import gc
import threading
import weakref

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import tapejit as tj
from tapejit.config import settings as tapejit_settings
from tapejit.errors import TraceError
from tapejit.tensors.enter import enter
from tapejit.tensors.followers import Follower
from tapejit.tensors.grad_mode import local
from tapejit.tensors.pieces import Piece
from tapejit.tensors.scripts import MOST_CREDIT, PATIENCE


@pytest.fixture(autouse=True)
def no_scripts():
    """Places of the program in other tests are not these."""
    local.state.scripts.clear()
    yield
    local.state.scripts.clear()


def leaf(*numbers):
    return tj.tensor(np.array(numbers), requires_grad=True)


def small(x):
    return np.sum(np.sin(x) * x)


def derivative_of_small(x):
    return np.cos(x) * x + np.sin(x)


def learnt(f, *leaves):
    """Run ``f`` until its script is known; clear gradients."""
    for _ in range(2):
        f(*leaves).backward()
    for x in leaves:
        x.grad = None
    assert any(local.state.scripts.values())


# --- following ------------------------------------------------------------------------------------


def test_a_repeated_graph_is_followed_and_its_gradient_that_of_the_values_now():
    learnt(small, leaf(0.1, 0.2, 0.3))
    x = leaf(0.5, -2.0, 1.0)
    y = small(x)
    assert type(y.rec) is Follower
    assert y.item() == small(x.detach().numpy())
    y.backward()
    assert type(y.rec) is Follower  # no row was recorded
    np.testing.assert_allclose(x.grad.numpy(), derivative_of_small(np.array([0.5, -2.0, 1.0])))


def test_numbers_are_those_of_this_iteration():
    x = leaf(1.0, 2.0)
    for scale in (2.0, 3.0, 5.0, 7):
        x.grad = None
        y = np.sum(scale * x * x) / 4.0 - scale
        assert y.item() == scale * 5.0 / 4.0 - scale
        y.backward()
        np.testing.assert_allclose(x.grad.numpy(), scale * x.detach().numpy() / 2.0)
    assert type(y.rec) is Follower


def test_scalar_leaves_and_elements_of_leaves():
    a, x = tj.tensor(3.0, requires_grad=True), leaf(1.0, 2.0, 5.0)
    for k in range(5):
        a.grad = x.grad = None
        y = a * x[0] - x[-1] * 2.0 + a * a
        y.backward()
        assert a.grad.item() == 1.0 + 6.0
        assert x.grad.tolist() == [3.0, 0.0, -2.0]
        assert type(y.rec) is (Follower if k > 1 else Piece)


def test_data_takes_part():
    x, scale = leaf(1.0, 2.0), tj.tensor([3.0, 4.0])
    for k in range(5):
        x.grad = None
        scale[0] = float(k)
        y = np.sum(x * scale * x)
        y.backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 * x.detach().numpy() * [k, 4.0])
    assert type(y.rec) is Follower


def test_gradients_accumulate():
    x = leaf(1.0, 2.0)
    for k in range(1, 6):
        small(x).backward()
        expected = k * derivative_of_small(np.array([1.0, 2.0]))
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14)


# --- leaving --------------------------------------------------------------------------------------


def branches(x, way):
    y = np.sin(x)
    if way == 1:
        y = y * 2.0
    elif way == 2:
        y = np.exp(y)
    elif way == 3:
        y = y[1:]
    elif way == 4:
        y = y @ np.eye(3)
    z = y * y
    return np.sum(z) * 3.0


@pytest.mark.parametrize("way", [1, 2, 3, 4])
def test_another_way_is_recorded(way):
    x = leaf(0.3, 0.4, 0.5)
    learnt(lambda x: branches(x, 0), x)
    expected = tj.grad(lambda x: branches(x, way))(x.detach().numpy())
    y = branches(x, way)
    assert type(y.rec) is Piece
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("known", range(7))
@pytest.mark.parametrize("k", range(7))
def test_operands_are_compared(known, k, swapped):
    x, y, z = leaf(0.3, 0.7), leaf(0.2, 0.5), leaf(1.5, 2.5)

    def f(x, y, z, pick):
        s, t = np.sin(x), np.cos(y)
        operands = (s, t, x, y, z, 2.0, x[0])
        p, q = np.sum(s), np.sum(t)
        scalars = (p, x[0], 3.0, x[1], 2, y[1], q)
        a, b = (operands[pick], s) if swapped else (s, operands[pick])
        u = np.sum(a * b)
        return u * scalars[pick] + (p + q)

    for turn, pick in enumerate((known, known, known, k, known, k, k)):
        x.grad = y.grad = z.grad = None
        result = f(x, y, z, pick)
        # An element that is stretched to an array takes the general way.
        assert turn != 2 or known == 6 or type(result.rec) is Follower
        result.backward()
        points = [v.detach().numpy() for v in (x, y, z)]
        expected = tj.grad(lambda a, pick=pick: f(*a, pick))(np.stack(points))
        got = [np.zeros(2) if v.grad is None else v.grad.numpy() for v in (x, y, z)]
        np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_the_piece_left_to_is_the_one_that_would_have_been_recorded():
    def f(x, c):
        return np.sum(np.sin(x) * x * c) - c * x[0]

    x = leaf(1.0, 2.0)
    plain = f(x, 3.0)
    plain.backward(retain_graph=True)
    rows = plain.rec
    wanted = {name: list(getattr(rows, name)) for name in STATE} | {
        name: getattr(rows, name) for name in COUNTS
    }
    learnt(lambda x: f(x, 2.0), x)
    again = f(x, 3.0)
    assert type(again.rec) is Follower
    again.rec.leave()
    for name in STATE:
        assert list(getattr(again.rec, name)) == wanted[name], name
    for name in COUNTS:
        assert getattr(again.rec, name) == wanted[name], name


STATE = ("code", "calls", "buffers", "kinds", "constant_ids", "constant_values")
COUNTS = ("n_scalars", "n_elements", "bytes_held")


def fork(x, k):
    y = np.sin(x)
    if k == 0:
        return np.sum(y * x)
    return np.sum(y + y) if k == 1 else np.sum(np.sqrt(y @ x))


@pytest.mark.parametrize("k", [1, 2])
def test_what_begins_alike_but_goes_on_otherwise_is_forgotten(k):
    x = leaf(1.0, 2.0)
    learnt(lambda x: fork(x, 0), x)
    (begun,) = local.state.scripts
    assert PATIENCE <= local.state.scripts[begun].credit <= PATIENCE + 1
    for _ in range(local.state.scripts[begun].credit + 1):
        assert local.state.scripts[begun] is not None
        fork(x, k).backward()
    assert local.state.scripts[begun] is None
    for way in (0, k, 0):
        x.grad = None
        fork(x, way).backward()
        expected = tj.grad(lambda x, way=way: fork(x, way))(x.detach().numpy())
        np.testing.assert_allclose(x.grad.numpy(), expected)


def test_what_was_followed_often_may_be_left_more_often():
    x = leaf(1.0, 2.0)
    learnt(lambda x: fork(x, 0), x)
    (begun,) = local.state.scripts
    for k in [0] * MOST_CREDIT + [1] * MOST_CREDIT:
        fork(x, k).backward()
    assert local.state.scripts[begun] is not None


@pytest.mark.parametrize(
    "use",
    [
        lambda x, y, s: s.backward(retain_graph=True),
        lambda x, y, s: y.backward(np.ones(3)),
        lambda x, y, s: tj.autograd_grad(s, x),
        lambda x, y, s: s.tape(),
        lambda x, y, s: y.register_hook(lambda g: g),
        lambda x, y, s: y.retain_grad(),
        lambda x, y, s: y[1],
        lambda x, y, s: y.reshape(3, 1),
        lambda x, y, s: np.sqrt(s) + 1.0,
        lambda x, y, s: np.linalg.norm(y),
    ],
)
def test_whatever_asks_for_rows_gets_them(use):
    def f(x):
        y = np.sin(x) * x
        return y, np.sum(y)

    x = leaf(0.5, 1.0, 1.5)
    learnt(lambda x: f(x)[1], x)
    y, s = f(x)
    assert type(s.rec) is Follower
    use(x, y, s)
    assert type(s.rec) is Piece
    x.grad = None
    _, s = f(x)
    s.backward()
    np.testing.assert_allclose(x.grad.numpy(), derivative_of_small(np.array([0.5, 1.0, 1.5])))


def test_detached_results_do_not_disturb():
    x = leaf(0.5, 1.0)
    for _ in range(4):
        x.grad = None
        y = np.sin(x)
        u = y.detach()
        np.sum(u * x).backward()
        np.testing.assert_allclose(x.grad.numpy(), np.sin([0.5, 1.0]))


def test_a_second_backward_is_refused_and_the_next_graph_is_sound():
    x = leaf(0.5, 1.0)
    learnt(small, x)
    y = small(x)
    y.backward()
    with pytest.raises(TraceError, match="retain_graph"):
        y.backward()
    with pytest.raises(TraceError, match="retain_graph"):
        (y * 2.0).backward()
    x.grad = None
    small(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), derivative_of_small(np.array([0.5, 1.0])))


def test_leaves_that_change_within_a_graph():
    x = leaf(0.5, 1.0)

    def f(x, change):
        y = np.sin(x)
        if change:
            with tj.no_grad():
                x += 1.0
        return np.sum(y * x)

    learnt(lambda x: f(x, False), x)
    with pytest.raises(TraceError, match="in place"):
        f(x, True).backward()
    x.grad = None
    f(x, False).backward()
    np.testing.assert_allclose(x.grad.numpy(), derivative_of_small(np.array([1.5, 2.0])))


def test_leaves_that_change_before_backward():
    x = leaf(0.5, 1.0)
    learnt(small, x)
    y = small(x)
    with tj.no_grad():
        x *= 2.0
    with pytest.raises(TraceError, match="in place"):
        y.backward()


def test_other_shapes_at_the_same_place():
    for shape in ((2,), (3,), (2, 2), (3,), (0,), (2,), ()):
        x = tj.tensor(np.full(shape, 0.5), requires_grad=True)
        for _ in range(3):
            x.grad = None
            small(x).backward()
            expected = derivative_of_small(np.full(shape, 0.5))
            np.testing.assert_allclose(x.grad.detach().numpy(), expected)


def test_an_operation_that_raises_leaves_the_graph_as_it_was():
    def f(x, y):
        z = np.log(x)
        return np.sum(z / y)

    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    learnt(f, x, y)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        f(leaf(1.0, 2.0), leaf(0.0, 1.0))
    f(x, y).backward()
    np.testing.assert_allclose(x.grad.numpy(), [1 / 3.0, 1 / 8.0])


def test_no_grad_in_the_midst():
    x = leaf(0.5, 1.0)

    def f(x, quiet):
        y = np.sin(x)
        with tj.set_grad_enabled(not quiet):
            z = y * x
        return np.sum(z)

    learnt(lambda x: f(x, False), x)
    assert not f(x, True).requires_grad
    f(x, False).backward()
    np.testing.assert_allclose(x.grad.numpy(), derivative_of_small(np.array([0.5, 1.0])))


def test_threads_have_scripts_of_their_own():
    x = leaf(0.5, 1.0)
    begun = lambda x: np.sin(x)  # noqa: E731
    learnt(lambda x: np.sum(begun(x) * x), x)
    y = begun(x)
    errors = []

    def work():
        try:
            np.sum(y * x).backward()
        except TraceError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "thread" in errors[0]
    assert type(y.rec) is Follower  # it did not notice
    assert np.sum(y * x).item() == small(x).item()
    x.grad = None
    small(x).backward()
    np.testing.assert_allclose(x.grad.numpy(), derivative_of_small(np.array([0.5, 1.0])))


def test_plans_of_other_settings_are_not_followed():
    x = leaf(0.5, 1.0)
    learnt(small, x)
    before = tapejit_settings.tile_from
    tapejit_settings.tile_from = before + 1
    try:
        assert type(small(x).rec) is Piece
    finally:
        tapejit_settings.tile_from = before


def test_a_follower_is_freed_with_its_last_tensor():
    x = leaf(0.5, 1.0)
    learnt(small, x)
    y = small(x)
    follower = weakref.ref(y.rec)
    gc.disable()
    try:
        del y
        assert follower() is None
        y = small(x)
        y.backward()
        values = weakref.ref(x)
        del x
        assert values() is None  # a graph that was freed holds no leaf
    finally:
        gc.enable()


# --- functions ------------------------------------------------------------------------------------


def regression(w, x, y, power=2):
    return np.mean((x @ w - y) ** power)


def test_functions_are_followed():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(7, 2)), rng.normal(size=7), rng.normal(size=2)
    tw = tj.tensor(w, requires_grad=True)
    expected = tj.grad(regression)(w, x, y)
    for data in ((tj.tensor(x), tj.tensor(y)), (x, y)):  # tensors, and NumPy's arrays
        for k in range(5):
            tw.grad = None
            loss = regression(tw, *data)
            assert loss.item() == regression(w, x, y)
            assert type(loss.rec) is (Follower if k > 1 else Piece)
            loss.backward()
            np.testing.assert_allclose(tw.grad.numpy(), expected, rtol=1e-13)
        local.state.scripts.clear()


def test_arrays_are_those_of_this_iteration():
    rng = np.random.default_rng(0)
    w = tj.tensor(rng.normal(size=2), requires_grad=True)
    for _ in range(6):
        x, y = rng.normal(size=(7, 2)), rng.normal(size=7)
        w.grad = None
        loss = regression(w, x, y)
        kept = x.copy()
        x[:] = 0.0  # what entered is a copy
        loss.backward()
        expected = tj.grad(regression)(w.detach().numpy(), kept, y)
        np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-13)
    assert type(loss.rec) is Follower


@pytest.mark.parametrize(
    "other",
    [
        lambda w, x, y: regression(w, x, y, 3),
        lambda w, x, y: regression(w, x, y, 2.0),
        lambda w, x, y: regression(w, x[:5], y[:5]),
        lambda w, x, y: regression(w, x.astype(np.float32), y),
        lambda w, x, y: regression(w, x, tj.tensor(y)),
        lambda w, x, y: regression(w, x, y[0]),
        lambda w, x, y: regression(w, x, x[:, 0] * w[0]),
        lambda w, x, y: regression(w * 2.0, x, y),
    ],
)
def test_functions_of_other_operands_are_recorded(other):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=7)
    w = leaf(0.5, -1.5)
    learnt(lambda w: regression(w, x, y), w)
    for f in (lambda w: other(w, x, y), lambda w: regression(w, x, y)) * 3:
        w.grad = None
        f(w).backward()
        plain = np.array([0.5, -1.5])
        steps = 1e-6 * np.eye(2)
        differences = [(f(plain + h) - f(plain - h)) / 2e-6 for h in steps]
        got = [np.asarray(getattr(d, "value", d)) for d in differences]
        np.testing.assert_allclose(w.grad.numpy(), got, rtol=1e-5, atol=1e-8)


def test_keywords_are_compared():
    x = tj.tensor(np.arange(6.0).reshape(2, 3) ** 2, requires_grad=True)

    def f(x, **kwargs):
        return np.sum(np.var(x, **kwargs) * 2.0)

    learnt(lambda x: f(x, axis=0), x)
    for kwargs in ({"axis": 0}, {"axis": 1}, {"axis": 0, "ddof": 1}, {"axis": 0}, {}):
        x.grad = None
        f(x, **kwargs).backward()
        expected = tj.grad(lambda x, k=kwargs: f(x, **k))(x.detach().numpy())
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-13)


def test_views_and_writes_are_not_followed_but_right():
    x = leaf(1.0, 2.0, 3.0)

    def f(x, k):
        y = np.tanh(x) * 1.0
        y[k] = 2.0 * x[0]
        return np.sum(y.reshape(3, 1).T @ x)

    for k in (0, 0, 0, 1, 2, 0):
        x.grad = None
        f(x, k).backward()
        expected = tj.grad(lambda x, k=k: f(x, k))(x.detach().numpy())
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-13)
    assert not any(local.state.scripts.values())


def test_functions_whose_rows_depend_on_values_are_not_followed():
    source = """
def ours(x):
    s = np.mean(x)
    return s * 4.0 if s > 0.0 else s * -6.0

def branching(x):
    return enter(ours, numpys, (x,), {})

def numpys(x):
    return ours(x)
"""
    names = {"np": np, "enter": enter, "__name__": "numpy"}  # as if it were one of NumPy's
    exec(compile(source, tj.__file__, "exec"), names)
    for sign in (1.0, 1.0, 1.0, -1.0, 1.0, -1.0):
        x = leaf(sign, 2.0 * sign)
        names["branching"](np.exp(x) * 0.0 + x).backward()
        assert x.grad.tolist() == ([2.0] * 2 if sign > 0 else [-3.0] * 2)
    assert not any(local.state.scripts.values())


# --- what looks the same and is not ---------------------------------------------------------------


def test_a_leaf_that_requires_no_gradient_any_more_takes_part_as_data():
    def f(x, stops):
        y = np.sin(x)
        if stops:
            x.requires_grad_(False)
        return np.sum(y * x)

    learnt(lambda x: f(x, False), leaf(0.3, 0.7))
    x = leaf(0.3, 0.7)
    f(x, True).backward()
    values = np.array([0.3, 0.7])
    np.testing.assert_allclose(x.grad.numpy(), np.cos(values) * values, rtol=1e-14)


def test_a_number_that_requires_no_gradient_any_more_takes_part_as_data():
    for k in range(4):
        a = tj.tensor(1.5, requires_grad=True)
        b = a * 2.0
        if k in (0, 3):
            a.requires_grad_(False)
        (b * a).backward()
        assert a.grad.item() == (3.0 if k in (0, 3) else 6.0)


def test_negative_zero_is_another_number():
    def f(x, zero):
        return np.copysign(np.sum(x), zero) * 2.0

    learnt(lambda x: f(x, 0.0), leaf(1.0, 2.0))
    x = leaf(1.0, 2.0)
    f(x, -0.0).backward()
    assert x.grad.tolist() == [-2.0, -2.0]


@pytest.mark.parametrize("function", [np.take_along_axis, np.ldexp])
def test_what_is_computed_of_integers_is_not_taken_for_them(function):
    rest = (1,) if function is np.take_along_axis else ()
    for k in range(5):
        values = np.arange(6.0).reshape(2, 3) + k
        places = np.roll([[0, 1, 2], [2, 1, 0]], k, 1)

        def f(x, places=places):
            return np.sum(function(x, places, *rest) * np.array([1.0, 2.0, 4.0]))

        x = tj.tensor(values, requires_grad=True)
        f(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), tj.grad(f)(values))


def test_floats_of_less_digits_are_recorded_as_float64():
    for _ in range(5):
        x, scale = leaf(0.1, 0.7), tj.tensor([0.25, 3.0])
        y = x.astype(np.float32) * scale.astype(np.float32)
        np.sum(y).backward()
        assert y.dtype == np.float64
        assert y.tolist() == [0.1 * 0.25, 0.7 * 3.0]
        assert x.grad.tolist() == [0.25, 3.0]


# --- any program ----------------------------------------------------------------------------------

MATRIX = np.random.default_rng(0).normal(size=(3, 3))
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "sin",
                "mul",
                "add",
                "scale",
                "sum",
                "element",
                "scalars",
                "exp",
                "mean",
                "matmul",
                "square",
                "dot",
                "where",
                "stretch",
                "max",
                "reshape",
                "norm",
                "array",
                "var",
            ]
        ),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=10,
)


def run(program, x, y, numbers):
    """A program of operations on the values so far."""
    arrays, scalars = [x, y], [x[0] * 1.0]
    for (name, i, j), number in zip(program, numbers, strict=False):
        a, b = arrays[i % len(arrays)], arrays[j % len(arrays)]
        s, t = scalars[i % len(scalars)], scalars[j % len(scalars)]
        if name == "sin":
            arrays.append(np.sin(a))
        elif name == "exp":
            arrays.append(np.exp(-np.abs(a)))
        elif name == "mul":
            arrays.append(a * b)
        elif name == "add":
            arrays.append(a + s)
        elif name == "scale":
            arrays.append(number * a)
        elif name == "sum":
            scalars.append(np.sum(a))
        elif name == "mean":
            scalars.append(np.mean(a))
        elif name == "matmul":
            arrays.append(np.tanh(MATRIX @ a))
        elif name == "square":
            arrays.append(a**2)
        elif name == "dot":
            scalars.append(np.dot(a, b))
        elif name == "where":
            arrays.append(np.where(MATRIX[j % 3] > 0.0, a, b))
        elif name == "stretch":
            arrays.append(np.sum(np.multiply(a, np.reshape(b, (3, 1))), axis=j % 2))
        elif name == "max":
            scalars.append(np.max(np.maximum(a, b)))
        elif name == "reshape":
            arrays.append(a.reshape(3, 1)[:, 0] * 2.0)
        elif name == "norm":
            scalars.append(np.linalg.norm(a + 2.0))
        elif name == "array":
            arrays.append(np.add(MATRIX[i % 3], a))
        elif name == "var":
            scalars.append(b.var())
        elif name == "element":
            scalars.append(y[j % 3] * number)
        else:
            scalars.append(s - t * number)
    return np.sum(arrays[-1]) + scalars[-1]


@settings(max_examples=60, deadline=None)
@given(
    OPERATIONS, OPERATIONS, st.integers(0, 10),
    st.lists(st.sampled_from([0, 0, 0, 1]), min_size=4, max_size=7), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_random_programs_that_change_on_the_way(one, two, at, order, seed):
    local.state.scripts.clear()
    rng = np.random.default_rng(seed)
    programs = [one, one[:at] + two]
    for k in (0, 0, *order):
        program, numbers = programs[k], rng.normal(size=20)
        x, y = rng.normal(size=(2, 3)) / 2
        value, expected = tj.value_and_grad(
            lambda pair, p=program, n=numbers: run(p, pair[0], pair[1], n)
        )(np.stack([x, y]))
        tx, ty = leaf(*x), leaf(*y)
        result = run(program, tx, ty, numbers)
        result.backward()
        got = [np.zeros(3) if t.grad is None else t.grad.numpy() for t in (tx, ty)]
        if not np.isfinite(value):
            continue
        np.testing.assert_allclose(result.item(), value, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)
