"""Common subexpressions: an operation on the same operands as before is that operation's result.

Value numbering: each row's op code and operands, by their leaders, are looked up in a hash table.
What reads a written buffer counts as the same only where no write lies between.

References: Cocke and Schwartz (1970), "Programming Languages and their Compilers"; Briggs, Cooper
and Simpson (1997), "Value numbering".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD, compiled, tables
from ..ops.structural import IN_PLACE
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Tape
from .draft import Draft

__all__ = ["share_common"]

#: Operations whose operands can be exchanged without changing a bit of the result.
#: (Not ``maximum`` and ``minimum``: of zeros of two signs they take the first.)
COMMUTATIVE = ("add", "mul", "equal", "not_equal", "logical_and", "logical_or", "logical_xor")
#: Of these the first two operands can.
_COMMUTES = (*COMMUTATIVE, "muladd", "submul", "mulsub")
#: Calls that are always made: they write, or they may raise.
_KEPT = frozenset((*IN_PLACE, "normalise_index"))


def number(code, keep, first, last, arity, commutes, volatile, epochs, state, leader, table):
    """Find equal rows in [first, last): the later one is DEAD, its result's leader the earlier.

    ``table`` (a power of two long) holds rows by hash, -1 where it is free; ``state[0]`` counts
    writes, ``epochs`` what it was at the rows that read written buffers.
    """
    mask = table.shape[0] - 1
    for i in range(first, last):
        op = code[i, 0]
        if op == DEAD or op == CALL:
            continue
        n = arity[op]
        if i >= keep:
            for j in range(n):
                if code[i, 2 + j] < ARRAY:
                    code[i, 2 + j] = leader[code[i, 2 + j]]
        if op >= WRITE:
            if op == WRITE:
                state[0] += 1
            continue
        a = int(code[i, 2])
        b = int(code[i, 3]) if n > 1 else 0
        c = int(code[i, 4]) if n > 2 else 0
        if commutes[op] and b < a:
            a, b = b, a
        when = int(state[0]) if volatile[i] else 0
        epochs[i] = when
        h = (
            a * 0x9E3779B1
            + b * 0x85EBCA77
            + c * 0xC2B2AE3D
            + int(op) * 0x27D4EB2F
            + when * 0x165667B1
        )
        h ^= h >> 31
        h *= 0x2545F491
        h ^= h >> 23
        slot = h & mask
        while table[slot] >= 0:
            r = table[slot]
            if code[r, 0] == op and epochs[r] == when:
                x = int(code[r, 2])
                y = int(code[r, 3]) if n > 1 else 0
                z = int(code[r, 4]) if n > 2 else 0
                if (x == a and y == b and z == c) or (
                    commutes[op] and y == a and x == b and z == c
                ):
                    break
            slot = (slot + 1) & mask
        if table[slot] < 0:
            table[slot] = i
        elif i >= keep and code[i, 1] < ARRAY:
            leader[code[i, 1]] = code[table[slot], 1]
            code[i, 0] = DEAD


_NUMBER = (
    "void(int32[:,::1],int64,int64,int64,int32[::1],uint8[::1],uint8[::1],int32[::1],int64[::1],"
    "int32[::1],int32[::1])"
)


def share_common(tape: Tape) -> Tape:
    """The tape with each value computed once: scalar rows and array calls.

    Values stay the same bit for bit; derivatives up to rounding, since cotangents of what is now
    one value are added before they go on.
    """
    draft = Draft(tape)
    arity, _, _ = tables()
    commutes = np.zeros(len(arity), np.uint8)
    commutes[[OPS[name].code for name in _COMMUTES]] = 1
    epochs = np.zeros(len(draft.code), np.int32)
    state = np.zeros(1, np.int64)
    table = np.full(1 << max(4, (2 * len(draft.code)).bit_length()), -1, np.int32)
    known: dict[Any, Call] = {}
    loop = compiled(number, _NUMBER)
    for first, last, call in draft.runs():
        if call is None:
            loop(
                draft.code, draft.keep, first, last, arity, commutes, draft.volatile, epochs,
                state, draft.leader, table,
            )  # fmt: skip
        elif call.op in _KEPT:
            state[0] += call.op in IN_PLACE
        else:
            earlier = known.setdefault(_key(call, draft, int(state[0])), call)
            if earlier is not call:
                draft.replace(first, earlier.result)
    return draft.finish()


def _key(call: Call, draft: Draft, writes: int) -> Any:
    """What equal calls have in common."""
    operands = call.operands
    if call.op in COMMUTATIVE:
        operands = tuple(sorted(operands))
    reads_written = any(v.buffer != SCALAR and v.buffer in draft.written for v in operands)
    result = call.result
    shape = (result.shape, result.strides, result.buffer == SCALAR)
    return call.op, operands, call.params, shape, writes if reads_written else -1
