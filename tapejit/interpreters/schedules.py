"""Checkpointing schedules as integer state machines: which action comes next.

A loop of ``n`` steps takes the state ``x_0`` to ``x_n``; its reverse sweep *turns* the steps, the
last one first, and needs ``x_i`` and the intermediates of step ``i`` to turn it.  A schedule says
when to run steps, when to copy the working state to a *slot* (a snapshot) and back, and when to
turn.  It is a machine over one small array of 64-bit integers, ``state``, with no list of
actions: a loop kernel and plain Python call the same functions,

* ``begin(state, steps, every, memory, disk)`` to start (``steps`` UNKNOWN for a ``while_loop``),
* ``next_action(state)`` for the next action: its code, with its numbers in ``state[FIRST]``,
  ``state[LAST]`` and ``state[SLOT]``,
* ``arrive(state, steps)`` when a loop of unknown length has ended after that many steps.

==========  ======================================================================================
action      what the loop does
==========  ======================================================================================
SNAPSHOT    copy the working state, ``x_FIRST``, to slot SLOT
ADVANCE     run the steps FIRST ... LAST - 1 and keep nothing but the working state, then ``x_LAST``
            (a loop of unknown length: at most these; it tests its condition before each step)
STORE       run the same steps and keep what their reverse sweep reads (a *block* of at most
            ``every`` steps; the block stored before has been turned)
ARRIVE      the working state is ``x_n``: the forward sweep ends here; what follows needs the
            cotangents of the loop's results
TURN        reverse the stored steps, from LAST - 1 down to FIRST; the working state is lost
RESTORE     copy slot SLOT to the working state, ``x_FIRST``; LAST is 1 if the slot is not read
            again before it is written again
END         nothing is left (also for every further call)
==========  ======================================================================================

Slots 0 ... ``memory`` - 1 are in memory, the ``disk`` slots after them in a file.  Snapshots are
the start of a block, and a snapshot is never taken of a state that was not left, so a loop of
unknown length should test its condition before it asks for the next action.

Sources
-------
The reversal with slots is *revolve*, Griewank and Walther 2000 (ACM TOMS 26(1), 19-45): with
``c`` slots, ``n`` steps take ``t(n, c) = r n - beta(c + 1, r - 1)`` advances beyond the ``n``
stored steps, ``beta(c, r) = (c + r)! / (c! r!)`` and ``beta(c, r - 1) < n <= beta(c, r)``: the
least that is possible.  The sweep of unknown length places snapshots as Wang, Moin and Iaccarino
2009 (SIAM J. Sci. Comput. 31(4), 2549-2567) do.  Both count in blocks here.  The lowest slots,
which are copied least often, go to the file, as in the multistage approach of Stumm and Walther
2009 (SIAM J. Sci. Comput. 31(3), 1946-1967).
"""

from __future__ import annotations

from numba.extending import register_jitable

# Actions.
END, SNAPSHOT, ADVANCE, STORE, ARRIVE, TURN, RESTORE = range(7)
ACTIONS = ("end", "snapshot", "advance", "store", "arrive", "turn", "restore")
N_ACTIONS = len(ACTIONS)

#: Number of steps of a loop that ends when its condition says so.
UNKNOWN = -1

# Words of the state.  Positions are counted in blocks of EVERY steps.
FIRST, LAST, SLOT = 0, 1, 2  # of the action
STEPS, EVERY, SLOTS = 3, 4, 5
POSITION = 6  # where the working state stands
STOP = 7  # blocks from here on are turned
TOP = 8  # slot of the latest snapshot; NONE without one
FREE, N_FREE = 9, 10  # first slot of the list of free ones, and their number
PHASE = 11
ARRIVED = 12  # whether ARRIVE has been returned
ANCHOR = 13  # unknown length: the snapshot that made those just below it dispensable
HEADER = 14  # then, for each slot, three words:
AT, BELOW, LEVEL = 0, 1, 2  # position; the slot below (or the next free one); dispensability
SLOT_WORDS = 3

NONE = -1
_OPEN, _RUN, _STORED, _TURNED = range(4)  # phases
_LEVEL_OF_START = 1 << 62


def state_words(slots: int) -> int:
    """Size of the state array of a schedule with that many slots."""
    return HEADER + SLOT_WORDS * slots


@register_jitable
def begin(state, steps, every, memory, disk):
    """Set up ``state`` for the first action.

    ``steps`` may be UNKNOWN; ``every`` >= 1; more than ``every`` steps, and UNKNOWN ones, need a
    slot.
    """
    slots = memory + disk
    state[FIRST], state[LAST], state[SLOT] = 0, 0, NONE
    state[STEPS], state[EVERY], state[SLOTS] = steps, every, slots
    state[POSITION] = 0
    state[STOP] = (steps + every - 1) // every if steps >= 0 else 0
    state[TOP], state[FREE], state[N_FREE] = NONE, NONE, 0
    state[PHASE] = _RUN if steps >= 0 else _OPEN
    state[ARRIVED] = 0
    state[ANCHOR] = NONE
    # Slots are handed out from the file first: what lies lowest is copied least.
    for i in range(slots):
        _release(state, memory - 1 - i if i < memory else slots - 1 - (i - memory))


@register_jitable
def arrive(state, steps):
    """A loop of unknown length has ended after ``steps`` steps."""
    state[STEPS] = steps
    state[STOP] = (steps + state[EVERY] - 1) // state[EVERY]
    state[POSITION] = state[STOP]
    state[PHASE] = _RUN
    while state[TOP] != NONE and state[_word(state[TOP], AT)] >= state[STOP]:
        _pop(state)


@register_jitable
def next_action(state):
    """The next action; its numbers are in ``state[FIRST]``, ``state[LAST]``, ``state[SLOT]``."""
    phase = state[PHASE]
    if phase == _TURNED:
        return _restore(state)
    if phase == _OPEN:
        return _open(state)
    position, stop, top = state[POSITION], state[STOP], state[TOP]
    if phase == _STORED:
        if state[ARRIVED] == 0:
            return _arrived(state)
        state[STOP] = stop - 1
        state[PHASE] = _TURNED
        return _steps(state, TURN, stop - 1, stop)
    if position == stop:  # no steps, or a loop of unknown length at its end
        state[PHASE] = _TURNED
        return _arrived(state)
    is_saved = top != NONE and state[_word(top, AT)] == position
    if position + 1 == stop:
        if is_saved:
            _pop(state)
        state[PHASE] = _STORED
        return _steps(state, STORE, position, stop)
    if not is_saved:
        return _snapshot(state, 0)
    state[POSITION] = position + split(stop - position, state[N_FREE] + 1)
    return _steps(state, ADVANCE, position, state[POSITION])


@register_jitable
def split(length, slots):
    """How far to advance into ``length`` >= 2 steps with ``slots`` slots, one at their start.

    Of the optimal choices the one of Griewank and Walther 2000 (their section 3), which needs
    the fewest snapshots.
    """
    if length <= slots + 1:
        return 1
    if slots == 1:
        return length - 1
    r = 1
    most = slots + 1  # beta(slots, r)
    while most < length:
        r += 1
        most = most * (slots + r) // r
    low = most * r // (slots + r)  # beta(slots, r - 1)
    rest = low * slots // (slots + r - 1)  # beta(slots - 1, r - 1)
    rest_2 = rest * (slots - 1) // (slots + r - 2)  # beta(slots - 2, r - 1)
    if length <= low + rest_2:
        return rest * (r - 1) // slots  # beta(slots, r - 2)
    if length >= most - rest_2 * (slots - 2) // r:  # beta(slots - 3, r)
        return low
    return length - rest - rest_2


@register_jitable
def _open(state):
    """Sweep of unknown length: a snapshot of each state that is left, in a slot that is free.

    A snapshot is dispensable if a later one has a higher level.  Without any, the latest one
    moves on and rises by a level, which makes those of its old level below it dispensable: they
    lie just below it, so ``ANCHOR`` remembers where to look.
    """
    position, top = state[POSITION], state[TOP]
    if top == NONE:
        return _snapshot(state, _LEVEL_OF_START)
    only_start = state[SLOTS] == 1
    if state[_word(top, AT)] == position or only_start:
        state[POSITION] = position + 1
        return _steps(state, ADVANCE, position, position + 1)
    if state[N_FREE] > 0:
        return _snapshot(state, 0)
    anchor = state[ANCHOR]
    if anchor != NONE:
        slot = state[_word(anchor, BELOW)]
        if state[_word(slot, LEVEL)] < state[_word(anchor, LEVEL)]:
            state[_word(anchor, BELOW)] = state[_word(slot, BELOW)]
            _release(state, slot)
            return _snapshot(state, 0)
    level = state[_word(top, LEVEL)]
    _pop(state)
    state[ANCHOR] = top
    return _snapshot(state, level + 1)


@register_jitable
def _snapshot(state, level):
    """SNAPSHOT of the working state in the first free slot, which becomes the top."""
    slot, position = state[FREE], state[POSITION]
    state[FREE] = state[_word(slot, BELOW)]
    state[N_FREE] -= 1
    state[_word(slot, AT)] = position
    state[_word(slot, BELOW)] = state[TOP]
    state[_word(slot, LEVEL)] = level
    state[TOP] = slot
    state[SLOT] = slot
    state[FIRST] = position * state[EVERY]
    state[LAST] = 0
    return SNAPSHOT


@register_jitable
def _restore(state):
    """RESTORE of the latest snapshot, or END."""
    slot = state[TOP]
    if state[STOP] == 0 or slot == NONE:
        return END
    position = state[_word(slot, AT)]
    state[POSITION] = position
    state[PHASE] = _RUN
    state[SLOT] = slot
    state[FIRST] = position * state[EVERY]
    state[LAST] = 1 if position + 1 == state[STOP] else 0
    return RESTORE


@register_jitable
def _steps(state, action, first, last):
    """An action over the blocks ``first`` ... ``last`` - 1."""
    state[FIRST] = first * state[EVERY]
    end = last * state[EVERY]
    state[LAST] = end if state[STEPS] < 0 else min(end, state[STEPS])
    state[SLOT] = NONE
    return action


@register_jitable
def _arrived(state):
    state[ARRIVED] = 1
    state[FIRST] = state[LAST] = state[STEPS]
    state[SLOT] = NONE
    return ARRIVE


@register_jitable
def _pop(state):
    """Free the slot of the latest snapshot."""
    slot = state[TOP]
    state[TOP] = state[_word(slot, BELOW)]
    _release(state, slot)


@register_jitable
def _release(state, slot):
    state[_word(slot, BELOW)] = state[FREE]
    state[FREE] = slot
    state[N_FREE] += 1


@register_jitable
def _word(slot, word):
    return HEADER + SLOT_WORDS * slot + word


def count(state, steps, counts):
    """Run a schedule that has begun, without a loop: how often each action comes.

    ``counts`` (one number an action, then one for the snapshots held at most) is filled;
    ``counts[ADVANCE]`` and ``counts[STORE]`` are numbers of steps.  ``steps`` is where a loop of
    unknown length ends.
    """
    action = ADVANCE
    while action != END:
        if state[PHASE] == _OPEN and state[POSITION] * state[EVERY] >= steps:
            arrive(state, steps)
        action = next_action(state)
        if action == ADVANCE or action == STORE:
            counts[action] += min(state[LAST], steps) - state[FIRST]
        else:
            counts[action] += 1
        counts[N_ACTIONS] = max(counts[N_ACTIONS], state[SLOTS] - state[N_FREE])
