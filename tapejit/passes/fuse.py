"""Fusing: a product and the sum or difference that alone uses it become one instruction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..interpreters.layout import CALL, WRITE
from ..lowering.scalars import DEAD, compiled, runs, tables
from ..ops.table import OPS
from ..tape import SCALAR, Tape, View
from .draft import Draft

__all__ = ["fuse_products"]

_ADD, _SUB, _MUL, _SQUARE = (OPS[name].code for name in ("add", "sub", "mul", "square"))
_MULADD, _SUBMUL, _MULSUB = (OPS[name].code for name in ("muladd", "submul", "mulsub"))


def count_uses(code, uses, arity):
    """How often each scalar is an operand."""
    for i in range(code.shape[0]):
        op = code[i, 0]
        if op != DEAD and op != CALL:
            for j in range(arity[op]):
                if code[i, 2 + j] < uses.shape[0]:
                    uses[code[i, 2 + j]] += 1


def merge(code, uses, producer, first, last):
    """Merge a product that is used once with the sum or difference that uses it.

    Never across a guard (a resumed sweep starts there) or a write (an operand may be overwritten).
    """
    barrier = first
    for i in range(first, last):
        op = code[i, 0]
        if op >= WRITE:
            barrier = i + 1
            continue
        if op == _MUL or op == _SQUARE:
            producer[code[i, 1]] = i
        if op != _ADD and op != _SUB:
            continue
        for side in range(1, -1, -1):
            operand = code[i, 2 + side]
            other = code[i, 3 - side]
            if operand >= uses.shape[0] or uses[operand] != 1:
                continue
            at = producer[operand]
            if at < barrier or code[at, 0] == DEAD or code[at, 1] != operand:
                continue
            x = code[at, 2]
            y = code[at, 3] if code[at, 0] == _MUL else x
            if op == _ADD:
                code[i, 0] = _MULADD
            elif side == 1:
                code[i, 0] = _SUBMUL
            else:
                code[i, 0] = _MULSUB
            code[at, 0] = DEAD
            code[i, 2] = x
            code[i, 3] = y
            code[i, 4] = other
            break


_COUNT_USES = "void(int32[:,::1],int32[::1],int32[::1])"
_MERGE = "void(int32[:,::1],int32[::1],int32[::1],int64,int64)"


def fuse_products(tape: Tape) -> Tape:
    """The tape with ``x * y + z``, ``z - x * y`` and ``x * y - z`` as one row each.

    Two roundings as before, never contracted.
    """
    draft = Draft(tape)
    arity, _, _ = tables()
    uses = np.zeros(max(tape.n_scalars, 1), np.int32)
    compiled(count_uses, _COUNT_USES)(draft.code, uses, arity)
    for view in _referenced(tape):
        if view.buffer == SCALAR:
            uses[view.offset] += 2
    producer = np.full(len(uses), -1, np.int32)
    loop = compiled(merge, _MERGE)
    for first, last, call in runs(tape.code, tape.calls):
        if call is None and last - max(first, draft.keep) > 1:
            loop(draft.code, uses, producer, max(first, draft.keep), last)
    return draft.finish()


def _referenced(tape: Tape) -> Iterator[View]:
    """Views that calls and outputs name."""
    for call in tape.calls:
        yield from call.operands
    for leaf in tape.outputs:
        yield leaf.view
