"""Vector mode: eight directions in one sweep give what eight sweeps give, to the last bit."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit as tj
from tapejit.derive import choose
from tapejit.interpreters import generate, layout
from tapejit.interpreters.entry import BIND, DELIVER, OBJECT, RUN_FORWARD, RUN_REVERSE, RUN_TANGENT
from tapejit.lowering.lanes import supports_lanes
from tapejit.ops.table import OPS
from tapejit.program import program_for
from tapejit.recording.tracer import apply
from tapejit.testing import plain_python

W = layout.LANES
RNG = np.random.default_rng(3)


def sweep(tape, values, seeds, mode):
    """Results of one sweep: by output (tangents) or input (cotangents), the lanes last."""
    program = program_for(tape, tuple(range(len(tape.inputs))), mode, several=True)
    workspace = program.checkout()
    code = program.code
    arguments = [float(v) if np.ndim(v) == 0 else np.array(v, float) for v in values]
    if mode == "tangent":
        arguments += [np.ascontiguousarray(seed) for seed in seeds]
    for record, argument in zip(workspace.parameters, arguments, strict=True):
        record[OBJECT] = id(argument)
    slots = code.gradients if mode == "gradient" else code.tangents_out
    workspace.prepare(slots, "lanes")
    results = [np.empty(slot.shape) for slot in slots]
    for record, result in zip(workspace.results, results, strict=True):
        record[OBJECT] = id(result)
    what = RUN_TANGENT
    if mode == "gradient":
        what = RUN_FORWARD | RUN_REVERSE
        for slot, seed in zip(code.seeds, seeds, strict=True):
            workspace.values[slot.offset : slot.offset + seed.size] = seed.ravel()
    assert workspace.run(BIND | what | DELIVER) == layout.DONE
    if mode == "gradient" and not tape.buffers:
        # What an operation without a row for some operands alone adds to constants, nobody reads.
        constants = code.scalar_base + program.tape.scalar_constants[0]
        assert not np.delete(workspace.adjoints.reshape(-1, W), constants, axis=0).any()
    program.give_back(workspace)
    return results


def both_ways(function, values, zeros=False):
    """Vector mode against single directions, reverse and tangent."""
    tape = tj.trace(function, *values)
    assert supports_lanes(tape)
    outputs, pullback = tj.vjp(function, *values)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    seeds = [RNG.normal(size=(*np.shape(o), W)) for o in outputs]
    if zeros:
        for seed in seeds:
            seed[..., 1::2] = 0.0
    got = sweep(tape, values, seeds, "gradient")
    for lane in range(W):
        cotangent = tuple(seed[..., lane][()] for seed in seeds)
        want = pullback(cotangent if len(cotangent) > 1 else cotangent[0])
        for g, v in zip(got, want, strict=True):
            assert_array_equal(g[..., lane], v)
    seeds = [RNG.normal(size=(*np.shape(v), W)) for v in values]
    got = sweep(tape, values, seeds, "tangent")
    for lane in range(W):
        _, want = tj.jvp(function, values, tuple(seed[..., lane][()] for seed in seeds))
        want = want if isinstance(want, tuple) else (want,)
        for g, v in zip(got, want, strict=True):
            assert_array_equal(g[..., lane], v)


def test_generated_interpreters_are_current():
    assert generate.LANE_TARGET.read_text() == generate.lane_source()


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_operation(op):
    values = [float(domain.sample(RNG, 1)[0]) for domain in op.domain]
    both_ways(lambda *xs: apply(op, *xs) * 1.0, values, zeros=True)


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_every_operation_in_plain_python(op):
    """The same source uncompiled: an error in it shows where it is."""
    values = [float(domain.sample(RNG, 1)[0]) for domain in op.domain]
    with plain_python():
        both_ways(lambda *xs: apply(op, *xs) * 1.0, values, zeros=True)


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.arity > 1], ids=lambda op: op.name)
def test_constant_operands_in_plain_python(op):
    """Each operand alone, each but one: reverse rows that leave operands out."""
    xs = [float(domain.sample(RNG, 1)[0]) for domain in op.domain]
    for i in range(op.arity):
        alone = lambda x, i=i: apply(op, *xs[:i], x, *xs[i + 1 :]) * 1.0  # noqa: E731
        others = lambda *rest, i=i: apply(op, *rest[:i], xs[i], *rest[i:]) * 1.0  # noqa: E731
        with plain_python():
            both_ways(alone, xs[i : i + 1])
            both_ways(others, xs[:i] + xs[i + 1 :])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_guards_in_plain_python(mode, monkeypatch):
    """Eight directions at once find the path of each point, as one direction does."""
    monkeypatch.setattr(choose, "MOST_SCALAR_ROWS", 0)  # vector mode on short tapes too

    def f(x):
        values = [x[0] * t if x[0] > 0.0 else t / x[1] for t in x]
        if not x[1] > 0.0:
            values = [t * x[2] for t in values]
        return np.array(values) * float(2 ** int(np.floor(x[3])))

    x = np.array([0.5, 1.5, -0.7, 1.2, 0.3, 1.9, -1.1, 0.8, 0.6])
    with plain_python():
        jacobian = tj.jacobian(f, mode=mode, explain=True)
        for signs in [(1, 1), (-1, 1), (-1, -1), (1, -1)] * 2:
            for shift in (0.0, 1.0):
                at = x * np.array([*signs, *np.ones(7)]) + shift * np.eye(9)[3]
                columns = [tj.jvp(f, (at,), (e,))[1] for e in np.eye(9)]
                got, choice = jacobian(at)
                assert choice.per_sweep == W
                assert_allclose(got, np.stack(columns, -1), rtol=1e-14)


@pytest.mark.parametrize("op", [op for op in OPS.values() if op.arity > 1], ids=lambda op: op.name)
def test_an_operand_twice(op):
    x = float(op.domain[0].sample(RNG, 1)[0])
    both_ways(lambda x: apply(op, *(x,) * op.arity) + x, [x])


def test_a_zero_cotangent_contributes_nothing_through_an_infinite_partial():
    for function in (
        lambda x: np.sqrt(x),
        lambda x: 1.0 / x,
        lambda x: np.log(x),
        lambda x: x**0.3,
    ):
        both_ways(function, [0.0], zeros=True)


def recurrence(x, s):
    y = np.zeros_like(x)
    for i in range(1, len(x)):
        y[i] = np.sin(x[i - 1]) * s + y[i - 1] / x[i] + np.sqrt(x[i])
    y[0] = y[2]
    return y, np.array([y[1] * s, np.exp(s)]), x[0] ** s


def moved(x, s):
    y = x.reshape(2, 3).T.copy()
    y[1] = y[0]
    y[:, 1] = x[:3]
    total = s
    for i in range(3):
        total = total + y[i, 0] * y[i, 1] * s
    return np.concatenate([y[0], y[:, 1]]), total, np.sum(y), np.sum(y, axis=0)


def branching(x, s):
    total = 0.0
    for i in range(len(x)):
        total = total + x[i] if x[i] > 0.5 else total * s
    return total, int(s) * total


PROGRAMS = [recurrence, moved, branching]
X, S = np.array([0.5, 0.7, 1.2, 0.3, 0.9, 2.0]), 1.3


@pytest.mark.parametrize("function", PROGRAMS)
def test_programs(function):
    both_ways(function, [X, S])


@pytest.mark.parametrize("function", PROGRAMS)
def test_plain_python(function):
    with tj.testing.plain_python():
        both_ways(function, [X, S])


def test_what_vector_mode_does_not_serve():
    assert not supports_lanes(tj.trace(lambda x: np.sin(x) * x, X))
    assert not supports_lanes(tj.trace(lambda x: x[np.argsort(x)][0], X))
    tape = tj.trace(lambda x: tj.pure_callback(np.sort, (6,), x)[0], X)
    assert not supports_lanes(tape)


# --- in Jacobians and Hessians --------------------------------------------------------------------


def rosenbrock(x):
    total = 0.0
    for i in range(len(x) - 1):
        total = total + 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + (1.0 - x[i]) ** 2
    return total


def rosenbrock_of_vectors(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse"])
def test_hessian_of_a_long_scalar_tape(mode):
    x = np.linspace(-1.0, 1.5, 301)
    hessian = tj.hessian(rosenbrock, mode=mode, explain=True)
    want = tj.hessian(rosenbrock_of_vectors)
    for point in (x, x[::-1].copy()):
        got, choice = hessian(point)
        assert choice.per_sweep == W
        assert_allclose(got, want(point), rtol=1e-9, atol=1e-7)


def predator_prey(start, p):
    x, y = start[0], start[1]
    for _ in range(120):
        x, y = (
            x + 0.01 * (p[0] * x - p[1] * x * y),
            y + 0.01 * (p[2] * x * y - p[3] * y),
        )
    if x > 1.0:
        x = 2.0 * x
    result = np.zeros_like(start)
    result[0] = x
    result[1] = y * x
    return result


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_on_several_paths(mode):
    p = np.array([0.5, 0.3, 0.2, 0.4])
    jacobian = tj.jacobian(predator_prey, argnums=(0, 1), mode=mode, explain=True)
    for first in (1.0, 0.4, 2.0, 0.4, 1.0):
        start = np.array([first, 0.5])
        blocks, choice = jacobian(start, p)
        assert choice.per_sweep == W
        for i, block in enumerate(blocks):
            for k in range(block.shape[1]):
                direction = [np.zeros(2), np.zeros(4)]
                direction[i][k] = 1.0
                _, want = tj.jvp(predator_prey, (start, p), tuple(direction))
                assert_allclose(block[:, k], want, rtol=1e-12)


def test_numbers_as_arguments_and_results():
    def f(a, b):
        for _ in range(800):
            a, b = a + 0.001 * b, b - 0.001 * np.sin(a)
        return a, b

    for mode in ("forward", "reverse"):
        (da, db), choice = tj.jacobian(f, argnums=(0, 1), mode=mode, explain=True)(0.3, 0.7)
        assert choice.per_sweep == W
        want = [tj.jvp(f, (0.3, 0.7), d)[1] for d in ((1.0, 0.0), (0.0, 1.0))]
        assert_allclose([da, db], np.transpose(want), rtol=1e-12)
        assert np.shape(da[0]) == ()
