"""Explain: each row's value, tangent and adjoint, against NumPy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_random_programs import everything, points, run

import tapejit as tj
from tapejit.disturbed import disturb
from tapejit.explain import RUN_FORWARD, _Sweep
from tapejit.ops.structural import STRUCTURAL
from tapejit.ops.table import OPS

RNG = np.random.default_rng(0)
X = np.array([1.2, 0.4, -0.7, 2.1])
MATRIX = RNG.normal(size=(3, 4))


def scalars(x, y):
    a = x * y
    b = np.sin(a) / y
    return b * b + np.exp(-a) * x


def elementwise(x):
    return np.sum(np.tanh(x * x[::-1]) - x / (1.0 + x**2))


def views(x):
    m = x.reshape(2, 2)
    return np.sum(m.T * m[0]) + m[1, 0] * np.sum(m[:, 1]) + np.sum(x[1:3] * x[::-2])


def products(x):
    y = MATRIX @ x
    return np.dot(y, y) + np.linalg.norm(x) + np.sum(np.linalg.inv(np.outer(x, x) + 3 * np.eye(4)))


def several_results(x):
    return {"twice": 2.0 * x, "sum": np.sum(x * x), "sorted": np.sort(x)}


def recurrence(x):
    y = np.zeros_like(x)
    y[0] = x[0]
    for i in range(1, len(x)):
        y[i] = 0.5 * y[i - 1] + x[i] ** 2
    return y[-1]


def overwriting(x):
    y = x * x
    first = y[0]  # read before it is overwritten
    y[0] = np.exp(x[1])
    y[1:3] = y[0:2] * first
    y[np.array([3, 0])] *= x[1]
    y += x
    x[2] = y[0] * x[2]  # a private copy of the argument
    return np.sum(y**2) + x[2]


def branching(x):
    while np.sum(x * x) < 20.0:
        x = 1.5 * x
    if x[0] > x[1] and int(x[3]) > 0:
        return np.where(x > 0.0, x, 0.5 * x).sum() * int(x[3])
    return x[0]


def empty(x):
    nothing = x[4:]
    return np.sum(nothing * 2.0) + np.sum(x) + np.sum(np.broadcast_to(x[1], (2, 3)) ** 2)


def constant(x):
    return 3.0


def unused(x):
    np.log(x - 10.0)  # NaN, in a branch that the result does not need
    return np.sum(x * x)


PROGRAMS = [
    (scalars, (0.7, 1.9)),
    (elementwise, (X,)),
    (views, (X,)),
    (products, (X,)),
    (several_results, (X,)),
    (recurrence, (X,)),
    (overwriting, (X,)),
    (branching, (X,)),
    (empty, (X,)),
    (constant, (X,)),
    (unused, (X,)),
]
parametrize = pytest.mark.parametrize(("f", "args"), PROGRAMS)


def like(tree):
    """Random seeds of a tree's structure."""
    leaves, structure = tj.pytrees.flatten(tree)
    drawn = [RNG.normal(size=np.shape(leaf))[()] for leaf in leaves]
    return tj.pytrees.unflatten(structure, drawn)


def evaluated(f, args):
    """The plain function's result; it may write into its arguments."""
    with np.errstate(all="ignore"):
        return f(*[np.copy(arg)[()] for arg in args])


def leaves(tree):
    return tj.pytrees.flatten(tree)[0]


def replayed(disturbed, args, disturbances):
    """Values of the nodes, with disturbances."""
    sweep = _Sweep(disturbed.with_nodes_as_outputs())
    sweep.run(RUN_FORWARD, [*args, *disturbances])
    return sweep.results(sweep.code.values)


def outputs(disturbed, args, disturbances):
    sweep = _Sweep(disturbed.tape)
    sweep.run(RUN_FORWARD, [*args, *disturbances])
    return sweep.results(sweep.code.values)


def central(function, h=1e-6):
    """Central differences of a list of arrays."""
    pairs = zip(function(h), function(-h), strict=True)
    return [(plus - minus) / (2 * h) for plus, minus in pairs]


def is_discrete(row):
    """Whether a row computes a decision or a position."""
    return (OPS[row.op].pull is None) if row.op in OPS else STRUCTURAL[row.op].active == ()


@parametrize
def test_adjoints_equal_differences_of_the_rest_of_the_tape(f, args):
    tape = tj.trace(f, *args)
    cotangents = like(evaluated(f, args))
    rows = {row.index: row for row in tape.explain(*args, cotangents=cotangents)}
    disturbed = disturb(tape)
    for node in disturbed.nodes:
        shape = node.view.shape
        direction = RNG.normal(size=shape)

        def moved(h, node=node, direction=direction):
            disturbances = [d.copy() for d in disturbed.disturbances]
            target = disturbances[node.argument - len(tape.inputs)]
            if node.offset is None:
                target[...] = h * direction
            else:
                target[node.offset] = h * direction
            results = outputs(disturbed, args, disturbances)
            return [sum(np.vdot(c, y) for c, y in zip(leaves(cotangents), results, strict=True))]

        row = rows[node.row]
        assert np.shape(row.adjoint) == np.shape(row.value) == row.shape
        if is_discrete(row):
            assert not np.any(row.adjoint)
        elif np.all(np.isfinite(row.value)):
            (expected,) = central(moved)
            assert np.vdot(row.adjoint, direction) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@parametrize
def test_tangents_equal_differences_of_the_tape_so_far(f, args):
    tape = tj.trace(f, *args)
    tangents = like(args)
    rows = {row.index: row for row in tape.explain(*args, mode="forward", tangents=tangents)}
    disturbed = disturb(tape)

    def moved(h):
        shifted = [x + h * t for x, t in zip(args, tangents, strict=True)]
        return replayed(disturbed, shifted, disturbed.disturbances)

    for node, expected in zip(disturbed.nodes, central(moved), strict=True):
        row = rows[node.row]
        assert np.shape(row.tangent) == row.shape
        finite = np.isfinite(row.value)
        expected = np.reshape(expected, row.shape)
        np.testing.assert_allclose(
            row.tangent[finite], expected[finite], rtol=1e-6, atol=1e-7, err_msg=str(row)
        )


@parametrize
def test_values_are_those_of_numpy(f, args):
    """Operations on named operands; the names are NumPy expressions of earlier nodes."""
    tape = tj.trace(f, *args)
    table = tape.explain(*args, cotangents=like(evaluated(f, args)))
    has_writes = any("write" in row.op for row in table)
    known = {f"c{i}": array for i, array in enumerate(tape.array_constants)}
    checked = 0
    for row in sorted(table, key=lambda row: row.index):
        if row.node.isidentifier():
            known[row.node] = row.value
        if row.op not in OPS or has_writes or any("..." in name for name in row.operands):
            continue
        operands = [np.asarray(eval(name, dict(known))) for name in row.operands]
        if np.broadcast_shapes(*map(np.shape, operands)) == row.shape:  # no reshaped operand
            with np.errstate(all="ignore"):
                want = OPS[row.op].reference(*operands)
            np.testing.assert_allclose(row.value, want, rtol=1e-13, err_msg=str(row))
            checked += 1
    assert checked or has_writes or f is constant


@parametrize
def test_sums_agree_with_the_transformations(f, args):
    cotangents, tangents = like(evaluated(f, args)), like(args)
    value, pullback = tj.vjp(f, *args)
    table = tj.explain(f, *args, cotangents=cotangents)
    inputs = [row for row in table if row.op == "input"]
    assert table[-len(inputs) :] == tuple(inputs)
    for row, expected, arg in zip(inputs, pullback(cotangents), args, strict=True):
        np.testing.assert_array_equal(row.value, arg)
        np.testing.assert_allclose(row.adjoint, expected, rtol=1e-13, atol=1e-15)
    forward = tj.explain(f, *args, mode="forward", tangents=tangents)
    _, tangent = tj.jvp(f, args, tangents)
    pushed = sum(np.vdot(c, t) for c, t in zip(leaves(cotangents), leaves(tangent), strict=True))
    pulled = sum(np.vdot(row.adjoint, t) for row, t in zip(inputs, tangents, strict=True))
    assert pulled == pytest.approx(pushed, rel=1e-11, abs=1e-13)
    if not isinstance(value, dict) and f is not constant:
        assert forward[-1].value == table[0].value == value
        assert forward[-1].tangent == pytest.approx(tangent, rel=1e-14)
    assert [row.index for row in forward if row.index >= 0] == list(range(len(forward) - len(args)))
    assert [row.node for row in forward if row.index >= 0] == [
        row.node for row in reversed(table) if row.index >= 0
    ]


def test_an_argument_that_is_a_result():
    table = tj.explain(lambda x, y: (x, x * y, y), 2.0, 3.0, cotangents=(1.0, 10.0, 100.0))
    assert [(row.node, row.adjoint) for row in table] == [("v0", 10.0), ("x", 31.0), ("y", 120.0)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(everything, min_size=1, max_size=8), st.integers(0, 1000))
def test_random_programs(program, seed):
    def f(x):
        return run(program, x)

    (x,) = points(seed, 1)
    direction = RNG.normal(size=4)
    reverse = tj.explain(f, x)
    forward = tj.explain(f, x, mode="forward", tangents=(direction,))
    np.testing.assert_allclose(reverse["x"].adjoint, tj.grad(f)(x), rtol=1e-11, atol=1e-13)
    value, tangent = tj.jvp(f, (x,), (direction,))
    assert forward[-1].value == value
    assert forward[-1].tangent == pytest.approx(tangent, rel=1e-11, abs=1e-13)
    optimized = tj.trace(f, x).optimize().explain(x)
    np.testing.assert_allclose(optimized["x"].adjoint, tj.grad(f)(x), rtol=1e-11, atol=1e-13)
    for there, back in zip(forward, sorted(reverse, key=lambda row: row.index), strict=True):
        assert there.operation == back.operation
        np.testing.assert_array_equal(there.value, back.value)


def test_negative_zero_stays():
    table = tj.explain(lambda x: 1.0 / (x * 0.0), -2.0)
    assert table["v1"].value == -np.inf
    assert np.signbit(table["v0"].value)


def test_stopped_derivatives():
    table = tj.explain(lambda x: x * tj.stop_gradient(x * x), 3.0)
    assert [(row.op, row.adjoint) for row in table] == [
        ("mul", 1.0), ("stop_gradient", 3.0), ("mul", 0.0), ("input", 9.0),
    ]  # fmt: skip
    table = tj.explain(lambda x: x * tj.stop_gradient(x * x), 3.0, mode="forward")
    assert [row.tangent for row in table] == [1.0, 6.0, 0.0, 9.0]


def test_dead_branches_have_no_adjoint_however_wild_their_values():
    table = tj.explain(unused, X)
    (log,) = [row for row in table if row.op == "log"]
    assert np.isnan(log.value).all()
    np.testing.assert_array_equal(log.adjoint, np.zeros(4))


def test_same_table_from_tape_and_function():
    tape = tj.trace(elementwise, X)
    here, there = tape.explain(2 * X), tj.explain(elementwise, 2 * X)
    assert str(here) == str(there) == str(tj.explain(tape, 2 * X))
    np.testing.assert_array_equal(here["x"].value, 2 * X)


def test_optimized_tapes_keep_their_lines():
    tape = tj.trace(squared_error, np.ones(2), np.ones(2), 0.5)
    first = squared_error.__code__.co_firstlineno
    for passes in (None, ["fold", "dead", "renumber"]):
        table = tape.optimize(passes).explain(np.array([1.0, 2.0]), np.array([3.0, -1.0]), 0.5)
        assert [row.line - first for row in table[:3]] == [3, 2, 1]
        np.testing.assert_array_equal(table["w"].adjoint, [1.0, 2.0])


def test_long_scalar_tapes():
    def loop(x):
        for _ in range(2000):
            x = x + 0.001 * np.sin(x)
        return x

    table = tj.explain(loop, 1.0)
    assert len(table) == 6001
    assert table["x"].adjoint == pytest.approx(tj.grad(loop)(1.0), rel=1e-13)
    text = str(table).splitlines()
    assert len(text) == 3 + 100 + 1 + 100
    assert text[103] == "... 5801 more ..."


def test_arguments_in_containers_and_by_name():
    def f(parameters, *rest, scale):
        return parameters["w"] * rest[1] * scale + parameters["b"][0]

    args = {"w": 2.0, "b": [3.0]}, 4.0, 5.0
    table = tj.explain(f, *args, scale=10.0)
    adjoints = {row.node: row.adjoint for row in table if row.op == "input"}
    assert adjoints == {
        "parameters['b'][0]": 1.0, "parameters['w']": 50.0, "rest[0]": 0.0, "rest[1]": 20.0,
        "scale": 10.0,
    }  # fmt: skip
    tangents = {"w": 1.0, "b": [0.0]}, 0.0, 1.0
    forward = tj.explain(f, *args, scale=10.0, mode="forward", tangents=tangents)
    assert forward[-1].tangent == 50.0 + 20.0


def test_static_arguments_are_not_nodes():
    table = tj.explain(lambda x, kind: x**2 if kind == "square" else x, 3.0, "square")
    assert [row.node for row in table] == ["v0", "x"]


def squared_error(x, w, y):
    a = np.dot(x, w)
    b = a - y
    return b**2


def test_it_prints_as_a_table():
    first = squared_error.__code__.co_firstlineno
    table = tj.explain(squared_error, np.array([1.0, 2.0]), np.array([3.0, -1.0]), 0.5)
    longest = f"test_explain.py:{first + 1}  a = np.dot(x, w)"
    assert repr(table) == str(table)
    assert str(table).splitlines() == [
        "Reverse accumulation of squared_error",
        "node  operation     value    adjoint  line",
        "----  ------------  -------  -------  " + "-" * len(longest),
        f"v2    square(v1)    0.25     1        test_explain.py:{first + 3}  return b**2",
        f"v1    sub(v0, y)    0.5      1        test_explain.py:{first + 2}  b = a - y",
        f"v0    matmul(x, w)  1        1        {longest}",
        "x     input         [1, 2]   [3, -1]",
        "w     input         [3, -1]  [1, 2]",
        "y     input         0.5      -1",
    ]
    row = table["v1"]
    assert (row.op, row.operands, row.source) == ("sub", ("v0", "y"), "b = a - y")
    assert row.file == __file__
    assert row.line == first + 2
    assert row.tangent is None


def test_long_arrays_are_summarised():
    text = str(tj.explain(lambda x: np.sum(x * x), np.linspace(-1.0, 1.0, 50).reshape(5, 10)))
    assert "5 x 10 numbers, -1 to 1" in text
    assert "5 x 10 numbers, -2 to 2" in text
    assert "5 x 10 numbers, all 1" in text


def test_guards_and_writes_in_the_table():
    table = tj.explain(overwriting, X)
    assert table["v0[1:3]"].op == "write"
    assert table["v0[[3, 0]]"].op == "scatter_write"
    guards = [row for row in tj.explain(branching, X) if row.op.startswith("guard")]
    assert {row.op for row in guards} >= {"guard true", "guard false", "guard equal"}
    for row in guards:
        assert row.node == ""
        assert row.adjoint is None
    assert [(row.op, row.value) for row in reversed(guards)] == [
        ("guard true", True), ("guard true", True), ("guard false", False), ("guard true", True),
        ("guard equal", 4.0), ("guard equal", 4.0),
    ]  # fmt: skip


def test_names_of_views_are_numpy_expressions():
    array = np.arange(24.0).reshape(4, 6)

    def f(a):
        parts = [a[1], a[:, 2], a[1:3, ::2], a[-1, ::-1], a.T, a[2, 3], a[::2], a[:, -2:], a[3:, 5]]
        return [part * 1.0 for part in parts]

    table = tj.explain(f, array, cotangents=f(array))
    assert len(table) == 10
    for row in table[:-1]:
        np.testing.assert_array_equal(eval(row.operands[0], {"a": array}), row.value)


def test_errors_say_what_to_do():
    tape = tj.trace(branching, X)
    with pytest.raises(tj.TraceError, match=r"test_explain.py:\d+: .* takes another branch"):
        tape.explain(10 * X)
    with pytest.raises(tj.TraceError, match="recorded with shape"):
        tape.explain(X[:3])
    with pytest.raises(ValueError, match="mode must be 'forward' or 'reverse'"):
        tj.explain(elementwise, X, mode="backward")
    with pytest.raises(ValueError, match=r"give tangents=\(...\)"):
        tj.explain(elementwise, X, mode="forward")
    with pytest.raises(ValueError, match="give cotangents="):
        tj.explain(np.sin, X)
    with pytest.raises(ValueError, match="tangents have no meaning"):
        tj.explain(elementwise, X, tangents=(X,))
    with pytest.raises(ValueError, match="must be a tuple"):
        tj.explain(elementwise, X, mode="forward", tangents=X)
    with pytest.raises(ValueError, match="shape"):
        tj.explain(elementwise, X, mode="forward", tangents=(X[:2],))
    with pytest.raises(ValueError, match="shape"):
        tj.explain(np.sin, X, cotangents=np.ones(3))
    with pytest.raises(KeyError, match="no node 'v9'"):
        tj.explain(scalars, 1.0, 2.0)["v9"]


def test_products_of_vectors_have_the_shapes_of_numpy():
    def f(X, w):
        rows = X @ w
        column = X @ w[:, None]
        return np.dot(rows, rows) * np.sum(rows @ np.ones((3, 2))) * (w @ w) + column[2, 0]

    X, w = np.arange(6.0).reshape(3, 2), np.array([0.5, -1.0])
    table = tj.explain(f, X, w)
    shapes = [row.shape for row in reversed(table) if row.op == "matmul"]
    assert shapes == [(3,), (3, 1), (), (2,), ()]
    assert all(np.shape(row.value) == np.shape(row.adjoint) == row.shape for row in table)
    assert "v0 = matmul(X, w)                                3 " in str(tj.trace(f, X, w))


def test_the_graph_is_drawn_with_values_and_derivatives():
    args = np.array([1.0, 2.0]), np.array([3.0, -1.0]), 0.5
    reverse = tj.explain(squared_error, *args).draw()
    for text in ("(2,) = [1, 2], adjoint [3, -1]", "0.25, adjoint 1", "0.5, adjoint -1"):
        assert f">{text}<" in reverse
    tangents = np.zeros(2), np.zeros(2), 1.0
    forward = tj.explain(squared_error, *args, mode="forward", tangents=tangents).draw()
    assert ">0.25, tangent -1<" in forward


def test_staged_loops_and_custom_rules_are_single_nodes():
    def looped(x):
        total, squares = tj.scan(lambda c, t: (np.sin(c) * t + c, c * c), x[0], x)
        return total + squares.sum()

    table = tj.explain(looped, X)
    assert [row.op for row in table] == ["add", "sum", "loop", "input"]
    np.testing.assert_allclose(table["x"].adjoint, tj.grad(looped)(X), rtol=1e-14)

    @tj.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (g * 3.0 * x,))  # not 2 x: by the rule
    table = tj.explain(lambda x: np.sin(square(x)), 2.0)
    assert table["x"].adjoint == pytest.approx(np.cos(4.0) * 6.0, rel=1e-14)
    assert table["v1"].operation.endswith("square(v0, x, x)")
