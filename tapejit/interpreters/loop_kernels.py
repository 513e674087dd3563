"""Kernels of staged control flow: they run child programs again and again.

A loop is a *record* (words of one running copy) with the address of the child's context, and of its
table (:mod:`tapejit.interpreters.loop_tables`).  Each stored step has a *region* for what its
reverse sweep reads: the child's space ``VALUES`` is moved there, nothing is copied.  All else lies
in the child's scratch, the same for all steps.  Long carries are not copied either: a step reads
them where the step before wrote them.

With a reverse sweep to come, a schedule (:mod:`tapejit.interpreters.schedules`) says which steps
are stored, in as many regions as a block has steps, and which run again.  Its state and snapshots
lie in the loop's room in the parent's arena, so that they outlive the step of an outer loop.  (The
room of a loop that no other sweep comes back to lies in the parent's scratch.)

A kernel can be left and entered again (``PAUSED``): the record keeps the action, the step, on which
side the working state is, and the word of the child's code at which a loop inside of it paused.
"""

import numpy as np
from numba.extending import register_jitable

from . import loop_tables as tables
from . import schedules
from .files import read_at, write_at
from .layout import (
    BUDGET,
    CONTEXT_WORDS,
    DONE,
    FAILED,
    FILE_ERROR,
    KERNELS,
    LOOP_LIMIT,
    LOOPS,
    PAUSED,
    SCRATCH,
    UNTILED,
    VALUES,
)
from .loop_tables import copy
from .memory import call_kernel, f64, i32, i64, operand

# Words of a record.  SIDE and GRADIENTS_SIDE: at which of their two places the working state, and
# the carries' gradients, are.
CHILD, TABLE, RUNNING, ACTION, STEP, RESUME, FILE, SIDE, GRADIENTS_SIDE = range(9)
RECORD = 10


@register_jitable
def record_of(c, number):
    """The words of a loop's record."""
    return i64(c[LOOPS] + 8 * RECORD * np.int64(number), RECORD)


@register_jitable
def room_of(t, c):
    """Address of a loop's room."""
    return c[t[tables.ROOM_SPACE]] + 8 * t[tables.ROOM]


@register_jitable
def working_state(t, c, home, side):
    """Address of the working state on one side."""
    return c[SCRATCH] + 8 * t[tables.SPARE] if side else home


@register_jitable
def leave(r, is_pause, step, resume, side):
    """Note where a loop stands."""
    r[RUNNING], r[STEP], r[RESUME], r[SIDE] = is_pause, step, resume, side


@register_jitable
def run_steps(ctx, r, p, first, home, result, last, storing, testing):
    """Run the steps from ``r[STEP]`` to ``last - 1``.

    ``first``: word of the first operand; ``home``: the working state on side 0; ``result``: where
    slices go, 0 for nowhere; ``storing``: each in a region of its own; ``testing``: end where the
    condition does not hold.
    """
    c = i64(ctx, CONTEXT_WORDS)
    k = i64(r[CHILD], CONTEXT_WORDS)
    t = i64(r[TABLE], UNTILED)
    interpreter = i64(c[KERNELS], 1)[0]
    budget = i64(c[BUDGET], 1)
    room = room_of(t, c)
    limit, backward, cost = t[tables.LIMIT], t[tables.BACKWARD], t[tables.COST]
    moving = t[tables.LISTS + 2 * tables.POINTED + 1] > 0
    swaps = t[tables.SWAPS]
    step, resume, side = r[STEP], r[RESUME], r[SIDE]
    current = working_state(t, c, home, side)
    other = working_state(t, c, home, side ^ swaps)
    begin = step
    stride = slot = slots = np.int64(0)
    if storing:
        begin = i64(room + 8 * t[tables.STATE], 1)[schedules.FIRST]
        stride = t[tables.STRIDE]
        slots = 8 * t[tables.HELD_STRIDE]
        slot = room + 8 * t[tables.HELD] + slots * (step - begin)
    region = room + 8 * (t[tables.REGIONS] + stride * (step - begin))
    while step < last:
        index = limit - 1 - step if backward else step
        k[VALUES] = region
        if resume < 0:
            if testing and f64(current, 1)[0] == 0.0:
                break
            if storing:
                if step > begin:
                    tables.hand_on(t, region, stride)
                else:
                    tables.hold(t, current, slot)
            if swaps:
                tables.point_carries(t, k, current, other, slot)
            tables.load(t, c, p, first, current, k, index)
            if moving:
                tables.point(t, c, p, first, k, index)
            resume = np.int64(0)
        status = call_kernel(interpreter, r[CHILD], resume)
        if status != DONE:
            leave(r, status == PAUSED, step, k[FAILED], side)
            return status
        tables.store_carries(t, k, other, slot)
        if result:
            tables.store_slices(t, k, result, index)
        step += 1
        if swaps:
            current, other = other, current
            side = side ^ 1
        region += 8 * stride
        slot += slots
        resume = np.int64(-1)
        budget[0] -= cost
        if budget[0] < 0:
            leave(r, 1, step, -1, side)
            return PAUSED
    if slots and result and step > begin:
        tables.let_go(t, current, slot)
    leave(r, 0, step, -1, side)
    return DONE


@register_jitable
def forward_loop(ctx, r, ins):
    """Run a loop forward.  Words: result, then the operands (initial carries first)."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, UNTILED)
    t = i64(r[TABLE], UNTILED)
    result = operand(c, p, 0)
    room = room_of(t, c)
    is_running = r[RUNNING]
    if not is_running:
        tables.fill_region(t, c, p, 2, room + 8 * t[tables.REGIONS])
        tables.point(t, c, p, 2, i64(r[CHILD], CONTEXT_WORDS), 0)
        tables.initial_carries(t, c, p, 2, result)
        r[STEP], r[RESUME], r[SIDE] = 0, -1, 0
    r[RUNNING] = 0
    dynamic = t[tables.DYNAMIC] != 0
    if t[tables.STORES]:
        status = forward_by_schedule(ctx, r, p, result, room, is_running)
    else:
        status = run_steps(ctx, r, p, 2, result, result, t[tables.LIMIT], False, dynamic)
    if status == DONE:
        if r[SIDE]:
            copy(result, working_state(t, c, result, 1), t[tables.CARRIED])
        if dynamic:
            f64(result + 8 * t[tables.COUNT_AT], 1)[0] = r[STEP]
            if f64(result, 1)[0] != 0.0:
                return LOOP_LIMIT
    return status


@register_jitable
def forward_by_schedule(ctx, r, p, result, room, is_running):
    """The actions of the forward sweep."""
    c = i64(ctx, CONTEXT_WORDS)
    t = i64(r[TABLE], UNTILED)
    state = i64(room + 8 * t[tables.STATE], UNTILED)
    limit, dynamic = t[tables.LIMIT], t[tables.DYNAMIC] != 0
    if not is_running:
        schedules.begin(
            state, schedules.UNKNOWN if dynamic else limit, t[tables.EVERY], t[tables.MEMORY],
            t[tables.DISK],
        )  # fmt: skip
        r[ACTION] = schedules.END
    action = r[ACTION]
    arrived = False
    while True:
        if action == schedules.ADVANCE or action == schedules.STORE:
            last = min(state[schedules.LAST], limit)
            storing = action == schedules.STORE
            status = run_steps(ctx, r, p, 2, result, result, last, storing, dynamic)
            if status != DONE:
                r[ACTION] = action
                return status
        elif action == schedules.SNAPSHOT:
            current = working_state(t, c, result, r[SIDE])
            status = save(t, r, room, state[schedules.SLOT], current)
            if status != DONE:
                return status
        elif action == schedules.ARRIVE:
            return np.int64(DONE)
        if dynamic and not arrived:
            holds = f64(working_state(t, c, result, r[SIDE]), 1)[0]
            if holds == 0.0 or r[STEP] >= limit:
                schedules.arrive(state, r[STEP])
                arrived = True
        action = schedules.next_action(state)


@register_jitable
def save(t, r, room, slot, carries):
    """Copy the working state to a slot: in the loop's room, or in its file."""
    n, memory = t[tables.CARRIED], t[tables.MEMORY]
    if slot < memory:
        copy(room + 8 * (t[tables.SNAPSHOTS] + slot * n), carries, n)
    elif not write_at(r[FILE], carries, 8 * n, 8 * n * (slot - memory)):
        return np.int64(FILE_ERROR)
    return np.int64(DONE)


@register_jitable
def restore(t, r, room, slot, carries):
    """Copy a slot to the working state."""
    n, memory = t[tables.CARRIED], t[tables.MEMORY]
    if slot < memory:
        copy(carries, room + 8 * (t[tables.SNAPSHOTS] + slot * n), n)
    elif not read_at(r[FILE], carries, 8 * n, 8 * n * (slot - memory)):
        return np.int64(FILE_ERROR)
    return np.int64(DONE)


@register_jitable
def turn_steps(ctx, r, p, g, gradients, room, first, steps):
    """Reverse the stored steps from ``r[STEP]`` down to ``first``."""
    c = i64(ctx, CONTEXT_WORDS)
    k = i64(r[CHILD], CONTEXT_WORDS)
    t = i64(r[TABLE], UNTILED)
    interpreter = i64(c[KERNELS], 2)[1]
    budget = i64(c[BUDGET], 1)
    stride, backward, cost = t[tables.STRIDE], t[tables.BACKWARD], t[tables.COST]
    moving = t[tables.LISTS + 2 * tables.POINTED + 1] > 0
    swaps = t[tables.GRADIENTS_SWAP]
    step, resume, side = r[STEP], r[RESUME], r[GRADIENTS_SIDE]
    current = tables.gradient_side(t, c, gradients, side)
    other = tables.gradient_side(t, c, gradients, side ^ swaps)
    slots = 8 * t[tables.HELD_STRIDE]
    region = room + 8 * (t[tables.REGIONS] + stride * (step - first))
    slot = room + 8 * t[tables.HELD] + slots * (step - first)
    while step >= first:
        index = steps - 1 - step if backward else step
        k[VALUES] = region
        if resume < 0:
            if slots:
                tables.point_carries(t, k, slot, slot, slot)
            if moving:
                tables.point(t, c, p, 6, k, index)
                tables.point_gradients(t, k, gradients, index)
            tables.point_carry_gradients(t, k, other, side ^ swaps)
            tables.seed(t, k, g, current, side, index)
            resume = np.int64(0)
        status = call_kernel(interpreter, r[CHILD], resume)
        if status != DONE:
            r[RUNNING], r[STEP], r[RESUME] = status == PAUSED, step, k[FAILED]
            r[GRADIENTS_SIDE] = side
            return status
        tables.collect(t, k, gradients, other, side ^ swaps, index)
        step -= 1
        if swaps:
            current, other = other, current
            side = side ^ 1
        region -= 8 * stride
        slot -= slots
        resume = np.int64(-1)
        budget[0] -= cost
        if budget[0] < 0:
            r[RUNNING], r[STEP], r[RESUME] = 1, step, -1
            r[GRADIENTS_SIDE] = side
            return PAUSED
    r[GRADIENTS_SIDE] = side
    return DONE


@register_jitable
def reverse_loop(ctx, r, ins):
    """Run a loop's steps backwards.

    Words: cotangent of the result, gradients (packed), result, then the operands.
    """
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, UNTILED)
    k = i64(r[CHILD], CONTEXT_WORDS)
    t = i64(r[TABLE], UNTILED)
    g, gradients, result = operand(c, p, 0), operand(c, p, 2), operand(c, p, 4)
    room = room_of(t, c)
    state = i64(room + 8 * t[tables.STATE], UNTILED)
    work = c[SCRATCH] + 8 * t[tables.WORK]
    steps = t[tables.LIMIT]
    if t[tables.DYNAMIC]:
        steps = np.int64(f64(result + 8 * t[tables.COUNT_AT], 1)[0])
    # Where everything is stored, the steps can be turned again and again.
    whole = not t[tables.DYNAMIC] and t[tables.EVERY] >= steps
    action = r[ACTION]
    is_running = r[RUNNING]
    if not is_running:
        # The side on which the last step turned leaves the carries' gradients is 0.
        side = steps & t[tables.GRADIENTS_SWAP]
        r[SIDE], r[GRADIENTS_SIDE] = 0, side
        current = tables.gradient_side(t, c, gradients, side)
        tables.begin_gradients(t, k, g, gradients, current, side)
        tables.point(t, c, p, 6, k, 0)
        tables.point_gradients(t, k, gradients, 0)
        if whole:
            action = np.int64(schedules.TURN)
            state[schedules.FIRST], state[schedules.LAST] = 0, steps
        else:
            action = np.int64(schedules.next_action(state))
    r[RUNNING] = 0
    while action != schedules.END:
        status = np.int64(DONE)
        first, last = state[schedules.FIRST], state[schedules.LAST]
        if action == schedules.TURN:
            if not is_running:
                r[STEP], r[RESUME] = last - 1, -1
            status = turn_steps(ctx, r, p, g, gradients, room, first, steps)
        elif action == schedules.ADVANCE or action == schedules.STORE:
            if not is_running:
                r[STEP], r[RESUME] = first, -1
            storing = action == schedules.STORE
            status = run_steps(ctx, r, p, 6, work, 0, last, storing, False)
        elif action == schedules.SNAPSHOT:
            current = working_state(t, c, work, r[SIDE])
            status = save(t, r, room, state[schedules.SLOT], current)
        elif action == schedules.RESTORE:
            r[SIDE] = 0
            status = restore(t, r, room, state[schedules.SLOT], work)
        if status != DONE:
            r[ACTION] = action
            return status
        is_running = np.int64(0)
        if whole:
            break
        action = np.int64(schedules.next_action(state))
    tables.end_gradients(t, k, gradients)
    return DONE


def loop_forward(ctx, ins):
    """Words: loop, then those of :func:`forward_loop`."""
    c = i64(ctx, CONTEXT_WORDS)
    return forward_loop(ctx, record_of(c, i32(ins, 1)[0]), ins + 4)


def loop_reverse(ctx, ins):
    """Words: loop, then those of :func:`reverse_loop`."""
    c = i64(ctx, CONTEXT_WORDS)
    return reverse_loop(ctx, record_of(c, i32(ins, 1)[0]), ins + 4)


@register_jitable
def chosen(c, p):
    """The record of the branch that an index chooses, the nearest one for indices outside."""
    index = f64(operand(c, p, 2), 1)[0]
    last = np.int64(p[1]) - 1
    branch = np.int64(0)
    if index >= last:
        branch = last
    elif index > 0.0:
        branch = np.int64(index)
    return record_of(c, np.int64(p[0]) + branch)


def branch_forward(ctx, ins):
    """Words: first loop, number of branches, index, then those of :func:`forward_loop`."""
    c = i64(ctx, CONTEXT_WORDS)
    return forward_loop(ctx, chosen(c, i32(ins, 4)), ins + 16)


def branch_reverse(ctx, ins):
    """Words: first loop, number of branches, index, then those of :func:`reverse_loop`."""
    c = i64(ctx, CONTEXT_WORDS)
    return reverse_loop(ctx, chosen(c, i32(ins, 4)), ins + 16)
