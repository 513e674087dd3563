"""Plans before running: bytes and recomputation, and limits that loops keep to."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_rematerialisation import program_of, workspace_bytes

import tapejit as tj
from tapejit.lowering.sizes import inner_bytes


def loops(x, schedule=None):
    """Two loops, one after the other."""
    first = lambda c, _: (np.sin(c) * np.cos(c), None)  # noqa: E731
    second = lambda c, _: (c * np.exp(-c * c), None)  # noqa: E731
    y, _ = tj.scan(first, x, None, length=200, checkpoint=schedule)
    z, _ = tj.scan(second, y, None, length=100, checkpoint=schedule)
    return np.sum(y * z)


X = np.linspace(0.1, 1.0, 20)


def test_a_plan_is_what_the_gradient_allocates():
    for schedule in (None, tj.Uniform(9), tj.Revolve(4), tj.Memory("30 kB")):
        gradient = tj.grad(lambda x, s=schedule: loops(x, s))
        plan = tj.checkpoint_plan(gradient, X)
        gradient(X)
        assert plan.workspace_bytes == workspace_bytes(gradient)
        assert len(plan.loops) == 2
        room = sum(p.memory_bytes for p in plan.loops)
        assert 0.3 * plan.workspace_bytes < room <= plan.workspace_bytes


def test_a_plan_runs_nothing_and_is_kept_for_the_call():
    calls = []

    def f(x):
        calls.append(1)
        return loops(x)

    gradient = tj.grad(f)
    tj.checkpoint_plan(gradient, X)
    assert len(calls) == 1
    gradient(X)
    assert len(calls) == 1


def test_loops_do_not_run_for_a_plan():
    ran = []

    def endless(x):
        c = tj.while_loop(lambda c: c > 0.0, lambda c: c * 1.0, x)
        return c + tj.stop_gradient(tj.pure_callback(lambda c: ran.append(1) or c, (), c * c))

    gradient = tj.grad(endless)
    assert tj.checkpoint_plan(gradient, 1.0).loops[0].steps is None
    assert not ran

    def branches(x):
        y, _ = tj.scan(lambda c, _: (np.sin(c), None), x, length=30)
        steps = 20 if y > 0.2 else 10
        return tj.scan(lambda c, _: (c * y, None), y, length=steps)[0]

    gradient = tj.grad(branches)
    assert [p.steps for p in tj.checkpoint_plan(gradient, 1.0).loops] == [30, 20]
    assert [p.steps for p in tj.checkpoint_plan(tj.grad(branches), 0.1).loops] == [30, 10]
    assert gradient(1.0) == tj.grad(branches)(1.0)

    def inverts(x):
        y, _ = tj.scan(lambda c, _: (np.sin(c), None), x, length=30)
        return np.sum(np.linalg.inv(np.eye(2) * (y - 1.0)))  # of ones it is singular

    assert len(tj.checkpoint_plan(inverts, 1.0).loops) == 1


def test_the_plan_of_a_loop_draws_what_will_run(tmp_path):
    for schedule in (tj.Memory("20 kB"), tj.Revolve(3), None):
        (plan, _) = tj.checkpoint_plan(lambda x, s=schedule: loops(x, s), X).loops
        text = plan.draw()
        layout = plan.layout
        assert f"200 steps, {layout.memory} snapshot" in text
        assert f"{plan.recompute_factor:.3g} x forward" in text
    plan.draw(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 1000
    unknown = tj.checkpoint_plan(tj.Online(3), None)
    with pytest.raises(ValueError, match="say how many"):
        unknown.draw()
    assert "20 steps" in unknown.draw(steps=20)


def test_plans_of_functions():
    plan = tj.checkpoint_plan(lambda x: loops(x, tj.Revolve(5)), X)
    assert [p.steps for p in plan.loops] == [200, 100]
    assert [p.layout.memory for p in plan.loops] == [5, 5]
    assert plan.loops[0].evaluations == tj.Revolve(5).plan(200).evaluations
    text = str(plan)
    assert "loop 1\nschedule   Revolve(snapshots=5, every=1)" in text
    assert text.startswith("workspace ")


def test_a_plan_of_a_straight_tape():
    def f(x):
        for _ in range(300):
            x = np.sin(x) * np.cos(x)
        return np.sum(x)

    stored, again = tj.checkpoint_plan(f, X), tj.checkpoint_plan(f, X, checkpoint=tj.Uniform(8))
    assert stored.recompute_factor == 1.0 and not stored.loops
    assert 1.8 < again.recompute_factor < 2.0
    assert again.workspace_bytes < stored.workspace_bytes


def test_a_plan_of_a_loop_of_unknown_length():
    def f(x):
        return np.sum(tj.while_loop(lambda c: np.sum(c) > 0.1, lambda c: 0.9 * c, x))

    (plan,) = tj.checkpoint_plan(f, X).loops
    assert plan.steps is None and plan.evaluations is None and math.isnan(plan.recompute_factor)
    assert "depends on the number of steps" in str(plan)


@pytest.mark.parametrize("part", [1.0, 0.5, 0.3, 0.2, 0.15])
def test_loops_within_a_limit_for_the_whole_gradient(part):
    stored = tj.grad(loops)
    expected = stored(X)
    limit = int(part * workspace_bytes(stored))
    fitted = tj.grad(loops, checkpoint=tj.Memory(limit))
    assert_array_equal(fitted(X), expected)
    assert workspace_bytes(fitted) <= limit
    assert (part == 1.0) == (program_of(fitted).code.loops[0].plan.recompute_factor == 1.0)


@pytest.mark.parametrize("limit", ["16 kB", "20 kB", "64 kB", "1 MB"])
def test_a_loop_within_a_limit_of_its_own(limit):
    def f(x):
        step = lambda c, _: (np.sin(c) * np.cos(c), None)  # noqa: E731
        return np.sum(tj.scan(step, x, None, length=500, checkpoint=tj.Memory(limit))[0])

    gradient = tj.grad(f)
    gradient(X)
    (plan,) = tj.checkpoint_plan(gradient, X).loops
    assert plan.memory_bytes <= tj.checkpointing.limits.parse_bytes(limit)
    # What the loop really takes: its room in the arena, its scratch, and its body's own memory.
    code = program_of(gradient).code
    inside = inner_bytes(code.loops[0].child) + 8 * (code.stacked_scratch - code.register_size)
    room = 8 * code.arena_size
    assert plan.memory_bytes <= room + inside <= plan.memory_bytes + 8 * 200


def test_the_least_limit_is_enough():
    try:
        tj.grad(loops, checkpoint=tj.Memory("2 kB"))(X)
    except tj.ScheduleError as error:
        least = int(str(error).split("at least ")[1].split()[0])
    assert_array_equal(tj.grad(loops, checkpoint=tj.Memory(least))(X), tj.grad(loops)(X))


def test_a_limit_too_small_for_a_loop_says_the_least():
    with pytest.raises(tj.ScheduleError, match=r"at least \d+ bytes are needed"):
        tj.grad(loops, checkpoint=tj.Memory("2 kB"))(X)
    with pytest.raises(tj.ScheduleError, match=r"at least \d+ bytes are needed"):
        tj.grad(lambda x: loops(x, tj.Memory("2 kB")))(X)
