"""Checkpointing schedules, without any numerics: streams of integers against the papers."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapejit as tj
from tapejit.checkpointing.binomial import beta, least_advances, repeats
from tapejit.checkpointing.draw import strokes
from tapejit.checkpointing.limits import NO_COSTS, Costs, bytes_of, format_bytes, parse_bytes
from tapejit.checkpointing.plan import count, evaluations
from tapejit.interpreters import schedules

unhurried = settings(deadline=None, max_examples=60)


def carry_out(schedule, steps, costs=NO_COSTS):
    """Check each action of a schedule; returns what was done, in numbers.

    The working state is the number of the step it belongs to, or None when a turn has spoilt it.
    """
    layout = schedule.layout(steps, costs)
    slots: dict[int, int] = {}
    done = {"advanced": 0, "stored": 0, "held": 0, "copies": {}}
    working, stored, turned, arrived = 0, None, steps, False
    for kind, first, last, slot in schedule.actions(steps, costs):
        if kind in ("snapshot", "restore"):
            assert 0 <= slot < layout.slots
            done["copies"][slot] = done["copies"].get(slot, 0) + 1
        if kind == "snapshot":
            assert working == first < turned
            slots[slot] = first
            done["held"] = max(done["held"], len(slots))
        elif kind == "restore":
            assert slots[slot] == first, "a slot that does not hold this state"
            working = first
            if last:
                del slots[slot]
        elif kind in ("advance", "store"):
            assert working == first < last <= turned
            done["advanced" if kind == "advance" else "stored"] += last - first
            working = last
            if kind == "store":
                assert stored is None, "the block before has not been turned"
                assert last - first <= layout.every
                stored = (first, last)
        elif kind == "arrive":
            assert working == steps and not arrived
            arrived = True
        elif kind == "turn":
            assert arrived and stored == (first, last) and last == turned
            stored, turned, working = None, first, None
    assert arrived and turned == 0 and stored is None
    assert not slots, "snapshots that nobody read"
    return done


def optimum(most_steps, most_snapshots):
    """Least advances by dynamic programming (Griewank and Walther 2000, equation 1)."""
    table = np.zeros((most_steps + 1, most_snapshots + 1), np.int64)
    for c in range(1, most_snapshots + 1):
        for n in range(2, most_steps + 1):
            if c == 1:
                table[n, c] = n * (n - 1) // 2
            else:
                m = np.arange(1, n)
                table[n, c] = (m + table[n - m, c - 1] + table[m, c]).min()
    return table


def test_revolve_recomputes_the_least_that_is_possible():
    best = optimum(200, 20)
    for snapshots in range(1, 21):
        for steps in range(1, 201):
            done = carry_out(tj.Revolve(snapshots), steps)
            assert done["advanced"] == best[steps, snapshots], (steps, snapshots)
            assert done["stored"] == steps
            assert done["held"] <= snapshots
            assert least_advances(steps, snapshots) == best[steps, snapshots]


def spelled(schedule, steps):
    """Actions in the words of the papers, without the arrival."""
    letters = {"snapshot": "S{0}", "advance": "A{0}-{1}", "restore": "R{0}", "turn": "T{0}"}
    return " ".join(
        letters[a.kind].format(a.first, a.last)
        for a in schedule.actions(steps)
        if a.kind in letters
    )


def test_revolve_takes_the_published_order_for_ten_steps_and_three_snapshots():
    """Griewank and Walther 2000, figure 2: snapshots at 0, 4, 7, then 5, then 1, 2."""
    assert spelled(tj.Revolve(3), 10) == (
        "S0 A0-4 S4 A4-7 S7 A7-9 T9 R7 A7-8 T8 R7 T7 "
        "R4 A4-5 S5 A5-6 T6 R5 T5 R4 T4 "
        "R0 A0-1 S1 A1-2 S2 A2-3 T3 R2 T2 R1 T1 R0 T0"
    )


def test_revolve_with_one_snapshot_starts_anew_each_time():
    assert spelled(tj.Revolve(1), 4) == "S0 A0-3 T3 R0 A0-2 T2 R0 A0-1 T1 R0 T0"


def test_revolve_with_room_for_all_runs_each_step_twice():
    assert spelled(tj.Revolve(9), 4) == "S0 A0-1 S1 A1-2 S2 A2-3 T3 R2 T2 R1 T1 R0 T0"


@pytest.mark.parametrize("slots", range(2, 9))
@pytest.mark.parametrize("r", range(2, 5))
def test_splits_stay_within_the_optimal_region(slots, r):
    """Griewank and Walther 2000, proposition 1, with the bounds reached at full reach."""
    for length in range(beta(slots, r - 1) + 1, beta(slots, r) + 1):
        m = schedules.split(length, slots)
        assert beta(slots, r - 2) <= m <= beta(slots, r - 1)
        assert beta(slots - 1, r - 1) <= length - m <= beta(slots - 1, r)
    assert schedules.split(beta(slots, r), slots) == beta(slots, r - 1)


steps = st.integers(0, 400)
snapshots = st.integers(1, 25)
every = st.integers(1, 30)


@unhurried
@given(steps, snapshots, every)
def test_revolve_in_blocks(n, c, k):
    done = carry_out(tj.Revolve(c, every=k), n)
    assert done["advanced"] == k * least_advances(-(-n // k), c)
    assert done["held"] <= c


@unhurried
@given(steps)
def test_store_all_runs_each_step_once(n):
    assert list(tj.StoreAll().actions(n))[-1].kind == ("turn" if n else "arrive")
    assert carry_out(tj.StoreAll(), n) == {"advanced": 0, "stored": n, "held": 0, "copies": {}}


@unhurried
@given(steps, every)
def test_uniform_runs_each_step_at_most_twice(n, k):
    done = carry_out(tj.Uniform(every=k), n)
    blocks = -(-n // k)
    assert done["advanced"] == k * max(blocks - 1, 0) and done["stored"] == n
    assert done["held"] == max(blocks - 1, 0)
    assert set(done["copies"].values()) <= {2}


@unhurried
@given(steps, snapshots)
def test_online_keeps_the_bound_of_minimal_repetition(n, c):
    """Wang, Moin and Iaccarino 2009, theorem 1: at most r advances a step (they leave the initial
    state out of their count of snapshots)."""
    done = carry_out(tj.Online(c), n)
    assert done["advanced"] <= max(repeats(n, c - 1), 1) * n if c > 1 else True
    assert done["advanced"] >= least_advances(n, c)
    assert done["held"] <= c and done["stored"] == n


@unhurried
@given(steps, snapshots, every)
def test_online_in_blocks(n, c, k):
    done = carry_out(tj.Online(c, every=k), n)
    assert done["held"] <= c and done["stored"] == n
    assert n + done["advanced"] == evaluations(tj.Online(c, every=k).layout(n), n)


def test_online_with_one_snapshot_is_quadratic():
    assert carry_out(tj.Online(1), 10)["advanced"] == 10 + 45


@unhurried
@given(steps, st.integers(0, 12), st.integers(1, 12), st.integers(1, 7))
def test_two_levels_recompute_as_one(n, memory, disk, k):
    done = carry_out(tj.TwoLevel(memory, disk, every=k), n)
    assert done["advanced"] == k * least_advances(-(-n // k), memory + disk)
    assert done["held"] <= memory + disk


@pytest.mark.parametrize(("slots", "r"), [(3, 2), (3, 5), (6, 3), (10, 2), (12, 3)])
def test_what_lies_in_the_file_is_copied_least(slots, r):
    """At full reach the copies grow with the height of a slot (elsewhere nearly)."""
    for memory in range(1, slots):
        copies = carry_out(tj.TwoLevel(memory, slots - memory), beta(slots, r))["copies"]
        on_disk = [copies[slot] for slot in range(memory, slots)]
        assert max(on_disk) <= min(copies[slot] for slot in range(memory))


@unhurried
@given(st.integers(1, 300), st.integers(1, 900), st.integers(1, 900), st.integers(0, 2**17))
def test_memory_fits_and_nothing_that_fits_is_faster(n, snapshot, step, limit):
    costs = Costs(snapshot, step)
    schedule = tj.Memory(limit)
    least = min(bytes_of(1, 1, costs), bytes_of(n, 0, costs))
    if limit < least:
        with pytest.raises(tj.ScheduleError, match=f"at least {least} bytes"):
            schedule.layout(n, costs)
        return
    layout = schedule.layout(n, costs)
    plan = schedule.plan(n, snapshot, step)
    assert plan.memory_bytes <= limit
    assert plan.memory_bytes == bytes_of(layout.every, layout.memory, costs)
    assert carry_out(schedule, n, costs)["advanced"] + n == plan.evaluations
    for k in range(1, n + 1):
        blocks = -(-n // k)
        slots = min((limit - bytes_of(k, 0, costs)) // (snapshot + 24), blocks - 1)
        if slots >= (blocks > 1):
            assert n + k * least_advances(blocks, slots) >= plan.evaluations


def test_memory_for_an_unknown_number_of_steps():
    costs = Costs(64, 600, 1000)
    layout = tj.Memory("64 kB").layout(None, costs)
    assert layout.steps == schedules.UNKNOWN
    assert 0.9 * 64000 < bytes_of(layout.every, layout.memory, costs) <= 64000
    with pytest.raises(tj.ScheduleError, match="at least 1800 bytes"):
        tj.Memory("1 kB").layout(None, costs)


def test_a_million_steps_store_no_list_of_actions():
    """The state is all there is, and its size is that of the slots."""
    schedule = tj.Revolve(50)
    layout = schedule.layout(10**6)
    assert layout.begin().nbytes == 8 * (schedules.HEADER + 3 * 50)
    counts = count(layout, 10**6)
    assert counts[schedules.ADVANCE] + counts[schedules.STORE] == schedule.plan(10**6).evaluations
    assert counts[schedules.TURN] == 10**6 and counts[-1] == 50


@unhurried
@given(steps, snapshots, every, st.booleans())
def test_the_compiled_machine_does_the_same(n, c, k, is_open):
    schedule = (tj.Online if is_open else tj.Revolve)(c, every=k)
    done = carry_out(schedule, n)
    counts = count(schedule.layout(n), n)
    assert counts[schedules.ADVANCE] == done["advanced"]
    assert counts[schedules.STORE] == n
    assert sum(done["copies"].values()) == counts[schedules.SNAPSHOT] + counts[schedules.RESTORE]


def test_the_end_stays_the_end():
    state = tj.Revolve(2).layout(3).begin()
    while schedules.next_action(state) != schedules.END:
        pass
    assert [schedules.next_action(state) for _ in range(3)] == [schedules.END] * 3


def test_closed_forms():
    assert [beta(3, r) for r in range(4)] == [1, 4, 10, 20]
    assert beta(2, -1) == beta(-1, 2) == 0
    for c in range(1, 9):
        for n in range(1, 300):
            r = repeats(n, c)
            assert math.comb(c + r, c) >= n and (r == 0 or math.comb(c + r - 1, c) < n)


def test_plan_prints_bytes_and_recomputation():
    plan = tj.TwoLevel(memory=2, disk=3).plan(100, snapshot_bytes=10**6, step_bytes=5 * 10**6)
    assert plan.snapshot_bytes == 2 * 10**6 and plan.disk_bytes == 3 * 10**6
    assert plan.stored_bytes == 5 * 10**6
    assert plan.recompute_factor == pytest.approx(1 + least_advances(100, 5) / 100)
    text = str(plan)
    assert re.search(r"disk +3 snapshots, 3 MB", text)
    assert re.search(r"stored +1 steps at a time, 5 MB", text)
    assert f"{plan.recompute_factor:.4g} x forward" in text


@pytest.mark.parametrize("schedule", [tj.StoreAll(), tj.Revolve(2), tj.Online(2), tj.Memory(999)])
def test_a_negative_number_of_steps(schedule):
    for call in (lambda: schedule.plan(-1), lambda: list(schedule.actions(-1))):
        with pytest.raises(tj.ScheduleError, match="negative: -1"):
            call()


def test_zero_steps():
    for schedule in (tj.StoreAll(), tj.Uniform(3), tj.Revolve(2), tj.Online(2), tj.TwoLevel(1, 1)):
        assert [a.kind for a in schedule.actions(0)] == ["arrive"]
        assert schedule.plan(0).recompute_factor == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tj.Revolve(0), r"Revolve\(snapshots=0\): snapshots is an integer, at least 1"),
        (lambda: tj.Revolve(2.5), "snapshots is an integer"),
        (lambda: tj.Revolve(True), "snapshots is an integer"),
        (lambda: tj.Uniform(every=-1), "every is an integer, at least 1"),
        (lambda: tj.TwoLevel(0, 0), "disk is an integer, at least 1"),
        (lambda: tj.StoreAll().layout(None), "needs to know the number of steps"),
        (lambda: tj.Revolve(3).layout(None), "Online"),
        (lambda: tj.Revolve(3).layout(-2), "negative"),
        (lambda: tj.TwoLevel(1, 1, directory=5), "directory is a path, not 5"),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(tj.ScheduleError, match=message):
        make()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64 MB", 64 * 10**6),
        ("1.5GiB", 3 << 29),
        ("12", 12),
        (7, 7),
        ("2 kb", 2000),
        (" 1e3 B", 1000),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["64 XB", "MB", "", "-3 MB", -1, 2.5])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="not a size in bytes"):
        tj.Memory(text)


def test_sizes_for_people():
    assert [format_bytes(n) for n in (0, 999, 1000, 64_000_000, 1234567)] == [
        "0 B", "999 B", "1 kB", "64 MB", "1.23 MB",
    ]  # fmt: skip


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [tj.StoreAll(), tj.Uniform(4), tj.Revolve(3), tj.Online(3), tj.TwoLevel(1, 2, every=2)],
    ids=str,
)
def test_strokes_follow_one_another(schedule):
    lines = strokes(schedule, 20)
    moves = [line for line in lines if line.kind in ("advance", "store", "turn")]
    assert moves[0].start == (0, 0)
    assert all(a.end[1] == b.start[1] for a, b in itertools.pairwise(moves))
    assert moves[-1].end == (0, schedule.plan(20).evaluations + 20)
    for line in lines:
        if line.kind in ("snapshot", "disk"):
            assert line.start[0] == line.end[0] and line.start[1] < line.end[1]
    alive = max(
        sum(line.start[1] <= t < line.end[1] for line in lines if line.kind in ("snapshot", "disk"))
        for t in range(moves[-1].end[1])
    )
    layout = schedule.layout(20)
    assert alive <= layout.memory + layout.disk
    assert any(line.kind == "disk" for line in lines) == bool(layout.disk)


def test_pictures_of_schedules(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        path = tmp_path / f"schedule.{suffix}"
        assert tj.TwoLevel(2, 2).draw(30, path) is None
        assert path.stat().st_size > 1000
    text = tj.Revolve(3).draw(10)
    assert "10 steps, 3 snapshots, 2.5 x forward" in text
    assert text == tj.Revolve(3).draw(10)
    tj.Revolve(3).draw(0, tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"\.svg, \.png or \.pdf"):
        tj.Revolve(3).draw(10, tmp_path / "schedule.gif")
    with pytest.raises(ValueError, match="too many"):
        tj.Revolve(3).draw(10**6)
