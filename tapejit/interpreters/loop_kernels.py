"""Kernels of staged control flow: they run child programs again and again.

A loop is a *record* (words of one running copy) with the address of the child's context, and of a
*table* that all copies share: which places of the child take in carries and slices, which give
them out, and where cotangents come and go.  Each step has a *region* for its values: the child's
space ``VALUES`` is moved there, nothing is copied.

With a reverse sweep to come, a schedule (:mod:`tapejit.interpreters.schedules`) says which steps
are stored, in as many regions as a block has steps, and which run again.  Its state and snapshots
lie in the loop's room in the parent's arena, so that they outlive the step of an outer loop.

A kernel can be left and entered again (``PAUSED``): the record keeps the action, the step, and the
word of the child's code at which a loop inside of it paused.
"""

import numpy as np
from numba.extending import register_jitable

from . import schedules
from .files import read_at, write_at
from .layout import (
    ADJOINTS,
    BUDGET,
    CONTEXT_WORDS,
    DONE,
    FAILED,
    FILE_ERROR,
    KERNELS,
    LOOP_LIMIT,
    LOOPS,
    PAUSED,
    UNTILED,
    VALUES,
)
from .memory import call_kernel, f64, i32, i64, operand

# Words of a record.
CHILD, TABLE, RUNNING, ACTION, STEP, RESUME, FILE = range(7)
RECORD = 8

# Words of a table: a header, then for each list its first word and its length, then the lists.
# Places are offsets in the loop's room.
(
    ROOM,  # where the loop's room is in the parent's arena
    STATE,  # of the schedule
    WORK,  # working state of the reverse sweep
    SNAPSHOTS,
    REGIONS,
    STRIDE,  # doubles of a region
    LIMIT,  # steps; of a while_loop at most
    DYNAMIC,  # whether the first carry says whether another step is taken
    BACKWARD,  # whether step 0 takes the last slices
    STORES,  # whether a reverse sweep is to come
    EVERY,  # the schedule: steps of a block, snapshots in memory and in a file
    MEMORY,
    DISK,
    COST,  # of a step
    COUNT_AT,  # where the result has the number of steps
    CARRIED,  # doubles of all carries
    GRADIENT_SIZE,
) = range(17)
LISTS = 20
#: Lists by number, with the words of an entry.
CONSTANTS = 0  # offset, bits of the value
COPIED = 1  # operand, length, offset: invariants that are copied
POINTED = 2  # operand, space, length of a slice (0: invariant): arrays that are read in place
FIXED = 3  # length, offset: what every step's region holds
CARRIES_IN = 4  # offset among the carries, length, offset
SLICES_IN = 5  # operand, length, offset
CARRIES_OUT = 6  # offset, length, offset among the carries
SLICES_OUT = 7  # offset, length, offset in the result
SEEDS = 8  # offset among the gradients, length, adjoint, whether it is added
SLICE_SEEDS = 9  # offset in the cotangent, length, adjoint, whether it is added
CARRY_GRADIENTS = 10  # adjoint, length, offset among the gradients, whether to clear it, in g
SLICE_GRADIENTS = 11  # adjoint, length, offset among the gradients, whether to clear it
KEPT_GRADIENTS = 12  # adjoint, length, offset among the gradients: they add up over the steps
POINTED_GRADIENTS = 13  # space, offset among the gradients, length of a slice
INITIAL = 14  # operand, length, offset among the carries
N_LISTS = 15
WIDTHS = (2, 3, 3, 2, 3, 3, 3, 3, 4, 4, 5, 4, 3, 3, 3)
TABLE_HEADER = LISTS + 2 * N_LISTS


@register_jitable
def copy(target, source, n):
    """``n`` doubles from one address to another."""
    t, s = f64(target, n), f64(source, n)
    if n == 1:
        t[0] = s[0]
    else:
        for j in range(n):
            t[j] = s[j]


@register_jitable
def add(target, source, n):
    """Add ``n`` doubles at one address to those at another."""
    t, s = f64(target, n), f64(source, n)
    for j in range(n):
        t[j] += s[j]


@register_jitable
def clear(target, n):
    """Zero ``n`` doubles."""
    t = f64(target, n)
    for j in range(n):
        t[j] = 0.0


@register_jitable
def record_of(c, number):
    """The words of a loop's record."""
    return i64(c[LOOPS] + 8 * RECORD * np.int64(number), RECORD)


@register_jitable
def fill_region(t, c, p, first, region):
    """Constants and copied invariants into a region."""
    at = t[LISTS + 2 * CONSTANTS]
    for _ in range(t[LISTS + 2 * CONSTANTS + 1]):
        i64(region + 8 * t[at], 1)[0] = t[at + 1]
        at += 2
    at = t[LISTS + 2 * COPIED]
    for _ in range(t[LISTS + 2 * COPIED + 1]):
        copy(region + 8 * t[at + 2], operand(c, p, first + 2 * t[at]), t[at + 1])
        at += 3


@register_jitable
def point(t, c, p, first, k, index):
    """Point the child's spaces at the arrays, or the slices of them, that it reads in place."""
    at = t[LISTS + 2 * POINTED]
    for _ in range(t[LISTS + 2 * POINTED + 1]):
        k[t[at + 1]] = operand(c, p, first + 2 * t[at]) + 8 * index * t[at + 2]
        at += 3


@register_jitable
def load(t, c, p, first, carries, region, index):
    """A step's carries and slices into its region."""
    at = t[LISTS + 2 * CARRIES_IN]
    for _ in range(t[LISTS + 2 * CARRIES_IN + 1]):
        copy(region + 8 * t[at + 2], carries + 8 * t[at], t[at + 1])
        at += 3
    at = t[LISTS + 2 * SLICES_IN]
    for _ in range(t[LISTS + 2 * SLICES_IN + 1]):
        n = t[at + 1]
        copy(region + 8 * t[at + 2], operand(c, p, first + 2 * t[at]) + 8 * index * n, n)
        at += 3


@register_jitable
def store_carries(t, region, carries):
    """A step's new carries out of its region."""
    at = t[LISTS + 2 * CARRIES_OUT]
    for _ in range(t[LISTS + 2 * CARRIES_OUT + 1]):
        copy(carries + 8 * t[at + 2], region + 8 * t[at], t[at + 1])
        at += 3


@register_jitable
def store_slices(t, region, result, index):
    """A step's slices of the stacked results out of its region."""
    at = t[LISTS + 2 * SLICES_OUT]
    for _ in range(t[LISTS + 2 * SLICES_OUT + 1]):
        n = t[at + 1]
        copy(result + 8 * (t[at + 2] + index * n), region + 8 * t[at], n)
        at += 3


@register_jitable
def initial_carries(t, c, p, first, carries):
    """The carries that the loop starts from."""
    at = t[LISTS + 2 * INITIAL]
    for _ in range(t[LISTS + 2 * INITIAL + 1]):
        copy(carries + 8 * t[at + 2], operand(c, p, first + 2 * t[at]), t[at + 1])
        at += 3


@register_jitable
def hand_on(t, region, stride):
    """What every region holds, from the region of the step before."""
    at = t[LISTS + 2 * FIXED]
    for _ in range(t[LISTS + 2 * FIXED + 1]):
        to = region + 8 * t[at + 1]
        copy(to, to - 8 * stride, t[at])
        at += 2


@register_jitable
def run_steps(ctx, r, p, first, carries, result, last, storing, testing):
    """Run the steps from ``r[STEP]`` to ``last - 1``, the working state being ``carries``.

    ``first``: word of the first operand; ``result``: where slices go, 0 for nowhere; ``storing``:
    each in a region of its own; ``testing``: end where the condition does not hold.
    """
    c = i64(ctx, CONTEXT_WORDS)
    k = i64(r[CHILD], CONTEXT_WORDS)
    t = i64(r[TABLE], UNTILED)
    interpreter = i64(c[KERNELS], 1)[0]
    budget = i64(c[BUDGET], 1)
    room = c[VALUES] + 8 * t[ROOM]
    stride, limit, backward, cost = t[STRIDE], t[LIMIT], t[BACKWARD], t[COST]
    moving = t[LISTS + 2 * POINTED + 1] > 0
    step, resume = r[STEP], r[RESUME]
    begin = step
    if storing:
        begin = i64(room + 8 * t[STATE], 1)[schedules.FIRST]
    else:
        stride = np.int64(0)
    region = room + 8 * (t[REGIONS] + stride * (step - begin))
    while step < last:
        index = limit - 1 - step if backward else step
        if resume < 0:
            if testing and f64(carries, 1)[0] == 0.0:
                break
            if stride and step > begin:
                hand_on(t, region, stride)
            load(t, c, p, first, carries, region, index)
            if moving:
                point(t, c, p, first, k, index)
            resume = np.int64(0)
        k[VALUES] = region
        status = call_kernel(interpreter, r[CHILD], resume)
        if status != DONE:
            r[RUNNING], r[STEP], r[RESUME] = status == PAUSED, step, k[FAILED]
            return status
        store_carries(t, region, carries)
        if result:
            store_slices(t, region, result, index)
        step += 1
        region += 8 * stride
        resume = np.int64(-1)
        budget[0] -= cost
        if budget[0] < 0:
            r[RUNNING], r[STEP], r[RESUME] = 1, step, -1
            return PAUSED
    r[STEP], r[RESUME] = step, -1
    return DONE


@register_jitable
def forward_loop(ctx, r, ins):
    """Run a loop forward.  Words: result, then the operands (initial carries first)."""
    c = i64(ctx, CONTEXT_WORDS)
    p = i32(ins, UNTILED)
    t = i64(r[TABLE], UNTILED)
    result = operand(c, p, 0)
    room = c[VALUES] + 8 * t[ROOM]
    is_running = r[RUNNING]
    if not is_running:
        fill_region(t, c, p, 2, room + 8 * t[REGIONS])
        point(t, c, p, 2, i64(r[CHILD], CONTEXT_WORDS), 0)
        initial_carries(t, c, p, 2, result)
        r[STEP], r[RESUME] = 0, -1
    r[RUNNING] = 0
    if t[STORES]:
        status = forward_by_schedule(ctx, r, p, result, room, is_running)
    else:
        status = run_steps(ctx, r, p, 2, result, result, t[LIMIT], False, t[DYNAMIC] != 0)
    if status == DONE and t[DYNAMIC]:
        f64(result + 8 * t[COUNT_AT], 1)[0] = r[STEP]
        if f64(result, 1)[0] != 0.0:
            return LOOP_LIMIT
    return status


@register_jitable
def forward_by_schedule(ctx, r, p, result, room, is_running):
    """The actions of the forward sweep."""
    t = i64(r[TABLE], UNTILED)
    state = i64(room + 8 * t[STATE], UNTILED)
    limit, dynamic = t[LIMIT], t[DYNAMIC] != 0
    if not is_running:
        schedules.begin(
            state, schedules.UNKNOWN if dynamic else limit, t[EVERY], t[MEMORY], t[DISK]
        )
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
            status = save(t, r, room, state[schedules.SLOT], result)
            if status != DONE:
                return status
        elif action == schedules.ARRIVE:
            return np.int64(DONE)
        if dynamic and not arrived and (f64(result, 1)[0] == 0.0 or r[STEP] >= limit):
            schedules.arrive(state, r[STEP])
            arrived = True
        action = schedules.next_action(state)


@register_jitable
def save(t, r, room, slot, carries):
    """Copy the working state to a slot: in the loop's room, or in its file."""
    n, memory = t[CARRIED], t[MEMORY]
    if slot < memory:
        copy(room + 8 * (t[SNAPSHOTS] + slot * n), carries, n)
    elif not write_at(r[FILE], carries, 8 * n, 8 * n * (slot - memory)):
        return np.int64(FILE_ERROR)
    return np.int64(DONE)


@register_jitable
def restore(t, r, room, slot, carries):
    """Copy a slot to the working state."""
    n, memory = t[CARRIED], t[MEMORY]
    if slot < memory:
        copy(carries, room + 8 * (t[SNAPSHOTS] + slot * n), n)
    elif not read_at(r[FILE], carries, 8 * n, 8 * n * (slot - memory)):
        return np.int64(FILE_ERROR)
    return np.int64(DONE)


@register_jitable
def begin_gradients(t, k, g, gradients):
    """Clear the gradients; the carries' are the cotangents of the final carries."""
    clear(gradients, t[GRADIENT_SIZE])
    at = t[LISTS + 2 * CARRY_GRADIENTS]
    for _ in range(t[LISTS + 2 * CARRY_GRADIENTS + 1]):
        copy(gradients + 8 * t[at + 2], g + 8 * t[at + 4], t[at + 1])
        at += 5
    at = t[LISTS + 2 * KEPT_GRADIENTS]
    for _ in range(t[LISTS + 2 * KEPT_GRADIENTS + 1]):
        clear(k[ADJOINTS] + 8 * t[at], t[at + 1])
        at += 3


@register_jitable
def seed(t, adjoints, g, gradients, index):
    """Cotangents of a step's results into the child's adjoints."""
    at = t[LISTS + 2 * SEEDS]
    for _ in range(t[LISTS + 2 * SEEDS + 1]):
        if t[at + 3]:
            add(adjoints + 8 * t[at + 2], gradients + 8 * t[at], t[at + 1])
        else:
            copy(adjoints + 8 * t[at + 2], gradients + 8 * t[at], t[at + 1])
        at += 4
    at = t[LISTS + 2 * SLICE_SEEDS]
    for _ in range(t[LISTS + 2 * SLICE_SEEDS + 1]):
        n = t[at + 1]
        source = g + 8 * (t[at] + index * n)
        if t[at + 3]:
            add(adjoints + 8 * t[at + 2], source, n)
        else:
            copy(adjoints + 8 * t[at + 2], source, n)
        at += 4


@register_jitable
def point_gradients(t, k, gradients, index):
    """Point the child's adjoint spaces at the gradients of what it reads in place."""
    at = t[LISTS + 2 * POINTED_GRADIENTS]
    for _ in range(t[LISTS + 2 * POINTED_GRADIENTS + 1]):
        k[t[at]] = gradients + 8 * (t[at + 1] + index * t[at + 2])
        at += 3


@register_jitable
def collect(t, adjoints, gradients, index):
    """Cotangents of a step's carries and slices out of the child's adjoints."""
    at = t[LISTS + 2 * CARRY_GRADIENTS]
    for _ in range(t[LISTS + 2 * CARRY_GRADIENTS + 1]):
        n = t[at + 1]
        copy(gradients + 8 * t[at + 2], adjoints + 8 * t[at], n)
        if t[at + 3]:
            clear(adjoints + 8 * t[at], n)
        at += 5
    at = t[LISTS + 2 * SLICE_GRADIENTS]
    for _ in range(t[LISTS + 2 * SLICE_GRADIENTS + 1]):
        n = t[at + 1]
        copy(gradients + 8 * (t[at + 2] + index * n), adjoints + 8 * t[at], n)
        if t[at + 3]:
            clear(adjoints + 8 * t[at], n)
        at += 4


@register_jitable
def end_gradients(t, adjoints, gradients):
    """What added up over the steps."""
    at = t[LISTS + 2 * KEPT_GRADIENTS]
    for _ in range(t[LISTS + 2 * KEPT_GRADIENTS + 1]):
        copy(gradients + 8 * t[at + 2], adjoints + 8 * t[at], t[at + 1])
        clear(adjoints + 8 * t[at], t[at + 1])
        at += 3


@register_jitable
def turn_steps(ctx, r, p, g, gradients, room, first, steps):
    """Reverse the stored steps from ``r[STEP]`` down to ``first``."""
    c = i64(ctx, CONTEXT_WORDS)
    k = i64(r[CHILD], CONTEXT_WORDS)
    t = i64(r[TABLE], UNTILED)
    interpreter = i64(c[KERNELS], 2)[1]
    budget = i64(c[BUDGET], 1)
    stride, backward, cost = t[STRIDE], t[BACKWARD], t[COST]
    adjoints = k[ADJOINTS]
    moving = t[LISTS + 2 * POINTED + 1] > 0
    step, resume = r[STEP], r[RESUME]
    region = room + 8 * (t[REGIONS] + stride * (step - first))
    while step >= first:
        index = steps - 1 - step if backward else step
        if resume < 0:
            if moving:
                point(t, c, p, 6, k, index)
                point_gradients(t, k, gradients, index)
            seed(t, adjoints, g, gradients, index)
            resume = np.int64(0)
        k[VALUES] = region
        status = call_kernel(interpreter, r[CHILD], resume)
        if status != DONE:
            r[RUNNING], r[STEP], r[RESUME] = status == PAUSED, step, k[FAILED]
            return status
        collect(t, adjoints, gradients, index)
        step -= 1
        region -= 8 * stride
        resume = np.int64(-1)
        budget[0] -= cost
        if budget[0] < 0:
            r[RUNNING], r[STEP], r[RESUME] = 1, step, -1
            return PAUSED
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
    room = c[VALUES] + 8 * t[ROOM]
    state = i64(room + 8 * t[STATE], UNTILED)
    work = room + 8 * t[WORK]
    steps = t[LIMIT]
    if t[DYNAMIC]:
        steps = np.int64(f64(result + 8 * t[COUNT_AT], 1)[0])
    # Where everything is stored, the steps can be turned again and again.
    whole = not t[DYNAMIC] and t[EVERY] >= steps
    action = r[ACTION]
    is_running = r[RUNNING]
    if not is_running:
        begin_gradients(t, k, g, gradients)
        point(t, c, p, 6, k, 0)
        point_gradients(t, k, gradients, 0)
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
            status = save(t, r, room, state[schedules.SLOT], work)
        elif action == schedules.RESTORE:
            status = restore(t, r, room, state[schedules.SLOT], work)
        if status != DONE:
            r[ACTION] = action
            return status
        is_running = np.int64(0)
        if whole:
            break
        action = np.int64(schedules.next_action(state))
    end_gradients(t, k[ADJOINTS], gradients)
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
