"""Tables of staged loops: what kernels of loops copy, and where they point a child's spaces.

A *table* is shared by all running copies of a loop: a header, then for each list its first word and
its length, then the lists.  A place of the child is a pair (space, offset); ``k`` is the child's
context, ``t`` the table, ``c`` the context of the program around the loop, ``p`` the words of the
loop's instruction.

*Carries* lie packed, one behind the other: the working state.  A *pointed* carry has spaces of its
own in the child, for the value that a step takes and for the one that it gives.  It is *held* if
the reverse sweep reads it: then each stored step takes it from its slot among the held ones, and
gives the next one to the slot behind.
"""

from numba.extending import register_jitable

from .layout import SCRATCH
from .memory import f64, i64, operand

# Words of a table.  Rooms are offsets in the loop's room, scratch in the scratch space around it.
(
    ROOM_SPACE,  # where the loop's room is in the program around it
    ROOM,
    STATE,  # room: of the schedule
    SNAPSHOTS,  # room
    HELD,  # room: held carries
    REGIONS,  # room: window of the first stored step (see lowering.windows)
    STRIDE,  # doubles from one region to the next: below zero
    HELD_STRIDE,  # doubles of all held carries
    WORK,  # scratch: working state of the reverse sweep
    SPARE,  # scratch: the other place of the working state
    SPARE_GRADIENTS,  # scratch: the other place of the carries' gradients
    SWAPS,  # whether carries, and their gradients, change places
    GRADIENTS_SWAP,
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
) = range(24)
LISTS = 24
#: Lists by number, with the words of an entry.  ``at`` is an offset among the packed carries,
#: ``to`` one among the gradients, ``held`` one among the held carries (-1: not held).
CONSTANTS = 0  # offset, bits of the value
COPIED = 1  # operand, length, offset: invariants that are copied
POINTED = 2  # operand, space, length of a slice (0: invariant): arrays that are read in place
FIXED = 3  # length, offset: what every step's region holds
CARRIES_IN = 4  # at, length, place
SLICES_IN = 5  # operand, length, place
CARRIES_OUT = 6  # place, length, at, held
SLICES_OUT = 7  # place, length, offset in the result
POINTED_IN = 8  # space, at, held
POINTED_OUT = 9  # space, at, held
HELD_CARRIES = 10  # at, length, held
INITIAL = 11  # operand, length, at
SEEDS = 12  # to, at, length, place, whether it is added
POINTED_SEEDS = 13  # space, to, at
SLICE_SEEDS = 14  # offset in the cotangent, length, place, whether it is added
CARRY_GRADIENTS = 15  # place, length, to, at, whether to clear it
POINTED_CARRY_GRADIENTS = 16  # space, to, at
SLICE_GRADIENTS = 17  # place, length, to, whether to clear it
KEPT_GRADIENTS = 18  # place, length, to: they add up over the steps
POINTED_GRADIENTS = 19  # space, to, length of a slice
FIRST_GRADIENTS = 20  # length, to, at: carries whose cotangents the sweep starts from
N_LISTS = 21
WIDTHS = (2, 3, 3, 2, 4, 4, 5, 4, 3, 3, 3, 3, 6, 3, 5, 6, 3, 5, 4, 3, 3)
#: Where an entry of each list has the place in it; -1: nowhere.
PLACES = (-1, -1, -1, -1, 2, 2, 0, 0, -1, -1, -1, -1, 3, -1, 2, 0, -1, 0, 0, -1, -1)
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
def place_of(k, t, at):
    """Address of the child's place that stands at word ``at`` of the table."""
    return k[t[at]] + 8 * t[at + 1]


# --- forward --------------------------------------------------------------------------------------


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
def hand_on(t, region, stride):
    """What every region holds, from the region of the step before."""
    at = t[LISTS + 2 * FIXED]
    for _ in range(t[LISTS + 2 * FIXED + 1]):
        to = region + 8 * t[at + 1]
        copy(to, to - 8 * stride, t[at])
        at += 2


@register_jitable
def point(t, c, p, first, k, index):
    """Point the child's spaces at the arrays, or the slices of them, that it reads in place."""
    at = t[LISTS + 2 * POINTED]
    for _ in range(t[LISTS + 2 * POINTED + 1]):
        k[t[at + 1]] = operand(c, p, first + 2 * t[at]) + 8 * index * t[at + 2]
        at += 3


@register_jitable
def point_carries(t, k, current, other, slot):
    """Point the child's spaces at the carries that a step takes, and at the next ones.

    ``current``, ``other``: the two places of the working state; ``slot``: the held carries of a
    stored step, 0 for one that is not stored.
    """
    at = t[LISTS + 2 * POINTED_IN]
    for _ in range(t[LISTS + 2 * POINTED_IN + 1]):
        is_held = slot != 0 and t[at + 2] >= 0
        k[t[at]] = slot + 8 * t[at + 2] if is_held else current + 8 * t[at + 1]
        at += 3
    following = slot + 8 * t[HELD_STRIDE]
    at = t[LISTS + 2 * POINTED_OUT]
    for _ in range(t[LISTS + 2 * POINTED_OUT + 1]):
        is_held = slot != 0 and t[at + 2] >= 0
        k[t[at]] = following + 8 * t[at + 2] if is_held else other + 8 * t[at + 1]
        at += 3


@register_jitable
def hold(t, carries, slot):
    """The working state's held carries into a slot."""
    at = t[LISTS + 2 * HELD_CARRIES]
    for _ in range(t[LISTS + 2 * HELD_CARRIES + 1]):
        copy(slot + 8 * t[at + 2], carries + 8 * t[at], t[at + 1])
        at += 3


@register_jitable
def let_go(t, carries, slot):
    """Held carries from a slot into the working state."""
    at = t[LISTS + 2 * HELD_CARRIES]
    for _ in range(t[LISTS + 2 * HELD_CARRIES + 1]):
        copy(carries + 8 * t[at], slot + 8 * t[at + 2], t[at + 1])
        at += 3


@register_jitable
def load(t, c, p, first, carries, k, index):
    """Copy a step's carries and slices to their places."""
    at = t[LISTS + 2 * CARRIES_IN]
    for _ in range(t[LISTS + 2 * CARRIES_IN + 1]):
        copy(place_of(k, t, at + 2), carries + 8 * t[at], t[at + 1])
        at += 4
    at = t[LISTS + 2 * SLICES_IN]
    for _ in range(t[LISTS + 2 * SLICES_IN + 1]):
        n = t[at + 1]
        copy(place_of(k, t, at + 2), operand(c, p, first + 2 * t[at]) + 8 * index * n, n)
        at += 4


@register_jitable
def store_carries(t, k, carries, slot):
    """Copy a step's new carries to the working state, held ones to the slot behind the step's."""
    at = t[LISTS + 2 * CARRIES_OUT]
    for _ in range(t[LISTS + 2 * CARRIES_OUT + 1]):
        to = carries + 8 * t[at + 3]
        if slot != 0 and t[at + 4] >= 0:
            to = slot + 8 * (t[HELD_STRIDE] + t[at + 4])
        copy(to, place_of(k, t, at), t[at + 2])
        at += 5


@register_jitable
def store_slices(t, k, result, index):
    """Copy a step's slices of the stacked results."""
    at = t[LISTS + 2 * SLICES_OUT]
    for _ in range(t[LISTS + 2 * SLICES_OUT + 1]):
        n = t[at + 2]
        copy(result + 8 * (t[at + 3] + index * n), place_of(k, t, at), n)
        at += 4


@register_jitable
def initial_carries(t, c, p, first, carries):
    """The carries that the loop starts from."""
    at = t[LISTS + 2 * INITIAL]
    for _ in range(t[LISTS + 2 * INITIAL + 1]):
        copy(carries + 8 * t[at + 2], operand(c, p, first + 2 * t[at]), t[at + 1])
        at += 3


# --- reverse --------------------------------------------------------------------------------------
# Gradients of carries lie among all gradients (side 0), or packed as the carries are (side 1).


@register_jitable
def gradient_side(t, c, gradients, side):
    """Address of the carries' gradients on one side."""
    return c[SCRATCH] + 8 * t[SPARE_GRADIENTS] if side else gradients


@register_jitable
def begin_gradients(t, k, g, gradients, current, side):
    """Clear the gradients; the carries' are the cotangents of the final carries."""
    clear(gradients, t[GRADIENT_SIZE])
    at = t[LISTS + 2 * FIRST_GRADIENTS]
    for _ in range(t[LISTS + 2 * FIRST_GRADIENTS + 1]):
        copy(current + 8 * t[at + 1 + side], g + 8 * t[at + 2], t[at])
        at += 3
    at = t[LISTS + 2 * KEPT_GRADIENTS]
    for _ in range(t[LISTS + 2 * KEPT_GRADIENTS + 1]):
        clear(place_of(k, t, at), t[at + 2])
        at += 4


@register_jitable
def seed_one(t, k, at, source, n, is_added):
    """A cotangent into the child's adjoints."""
    if is_added:
        add(place_of(k, t, at), source, n)
    else:
        copy(place_of(k, t, at), source, n)


@register_jitable
def seed(t, k, g, current, side, index):
    """Cotangents of a step's results into the child's adjoints."""
    at = t[LISTS + 2 * SEEDS]
    for _ in range(t[LISTS + 2 * SEEDS + 1]):
        seed_one(t, k, at + 3, current + 8 * t[at + side], t[at + 2], t[at + 5])
        at += 6
    at = t[LISTS + 2 * POINTED_SEEDS]
    for _ in range(t[LISTS + 2 * POINTED_SEEDS + 1]):
        k[t[at]] = current + 8 * t[at + 1 + side]
        at += 3
    at = t[LISTS + 2 * SLICE_SEEDS]
    for _ in range(t[LISTS + 2 * SLICE_SEEDS + 1]):
        n = t[at + 1]
        seed_one(t, k, at + 2, g + 8 * (t[at] + index * n), n, t[at + 4])
        at += 5


@register_jitable
def point_gradients(t, k, gradients, index):
    """Point the child's adjoint spaces at the gradients of what it reads in place."""
    at = t[LISTS + 2 * POINTED_GRADIENTS]
    for _ in range(t[LISTS + 2 * POINTED_GRADIENTS + 1]):
        k[t[at]] = gradients + 8 * (t[at + 1] + index * t[at + 2])
        at += 3


@register_jitable
def point_carry_gradients(t, k, other, side):
    """Point the child's adjoint spaces at where the cotangents of a step's carries go."""
    at = t[LISTS + 2 * POINTED_CARRY_GRADIENTS]
    for _ in range(t[LISTS + 2 * POINTED_CARRY_GRADIENTS + 1]):
        k[t[at]] = other + 8 * t[at + 1 + side]
        at += 3


@register_jitable
def collect(t, k, gradients, other, side, index):
    """Cotangents of a step's carries and slices out of the child's adjoints."""
    at = t[LISTS + 2 * CARRY_GRADIENTS]
    for _ in range(t[LISTS + 2 * CARRY_GRADIENTS + 1]):
        n = t[at + 2]
        copy(other + 8 * t[at + 3 + side], place_of(k, t, at), n)
        if t[at + 5]:
            clear(place_of(k, t, at), n)
        at += 6
    at = t[LISTS + 2 * SLICE_GRADIENTS]
    for _ in range(t[LISTS + 2 * SLICE_GRADIENTS + 1]):
        n = t[at + 2]
        copy(gradients + 8 * (t[at + 3] + index * n), place_of(k, t, at), n)
        if t[at + 4]:
            clear(place_of(k, t, at), n)
        at += 5


@register_jitable
def end_gradients(t, k, gradients):
    """What added up over the steps."""
    at = t[LISTS + 2 * KEPT_GRADIENTS]
    for _ in range(t[LISTS + 2 * KEPT_GRADIENTS + 1]):
        copy(gradients + 8 * t[at + 3], place_of(k, t, at), t[at + 2])
        clear(place_of(k, t, at), t[at + 2])
        at += 4
