"""Rematerialisation: regions of a tape whose values are not kept for the reverse sweep.

A region is a range of rows, and may contain regions: a tree.  A value's *home* is the innermost
region that contains all rows that name it.  The values of a region lie on top of those of the
region around it, and regions that lie side by side share their room, as frames of a call stack
do.  So a region's values are gone when the next one runs, and before its rows are reversed they
are computed again, by the very same forward code: a jump into it and back.

In-place writes of a region into a value whose home is outside of it are undone first, by what they
saved: a save has its home where the written value has it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..interpreters.layout import CALL, GUARD_TRUE, VALUES, WRITE
from ..ops.structural import IN_PLACE
from ..ops.table import OPS
from ..tape import ARRAY, SCALAR, Call, Region, Tape, View
from .frame import Frame, padded
from .scalars import DEAD, tables
from .stream import Stream
from .structural import contiguous, indexed

__all__ = ["Tree", "mentions", "recompute", "settle", "unit", "units"]

#: Zones of the arena: scalars whose adjoints must stay zero, other scalars, arrays whose elements
#: scalar code names, and (without adjoints at the same offsets) other arrays.
_ACTIVE, _PASSIVE, _ADDRESSED, _ARRAYS = range(4)


class Tree:
    """The regions of a tape as nodes 0 (the whole tape), 1, ...; inner ones after outer ones.

    Attributes
    ----------
    first, last
        The rows of each node.
    parent, depth
        The node around each node, and how many there are.
    kept
        For each node the rows whose values stay when it has run.
    node_of
        The innermost node of each row.
    home
        For each scalar, then for each buffer, the innermost node around all that names it; -1 for
        what nothing names.
    """

    def __init__(self, regions: Iterable[Region], tape: Tape) -> None:
        self.tape = tape
        n = len(tape.code)
        self.first, self.last = [0], [n]
        self.parent, self.depth = [0], [0]
        self.kept: list[frozenset[int]] = [frozenset()]
        self.node_of = np.zeros(n, np.int32)
        self._add(sorted(regions), 0)
        self.home = _homes(self)
        children: dict[int, int] = dict(
            zip(self.parent[1:], range(1, len(self.parent)), strict=True)
        )
        self._last_children = set(children.values())
        self.recomputed = 0  # words of forward code that reverse code runs again
        self._at = 0  # the node whose rows are being reversed

    def _add(self, regions: list[Region], parent: int) -> None:
        """Add regions inside of a node; what overlaps belongs to the earlier one."""
        at = self.first[parent]
        for region in regions:
            first, last = max(region.first, at), min(region.last, self.last[parent])
            if first >= last:
                continue
            at = last
            node = len(self.first)
            self.first.append(first)
            self.last.append(last)
            self.parent.append(parent)
            self.depth.append(self.depth[parent] + 1)
            self.kept.append(self.kept[parent] | self._rows_to_keep(region, first, last))
            self.node_of[first:last] = node
            self._add(sorted(region.inner), node)

    def _rows_to_keep(self, region: Region, first: int, last: int) -> frozenset[int]:
        if not region.save:
            return frozenset()
        rows = first + np.flatnonzero(self.tape.code[first:last, 0] == CALL)
        calls = ((row, self.tape.calls[self.tape.code[row, 1]]) for row in rows.tolist())
        return frozenset(row for row, call in calls if _is_kept(call, region.save))

    @property
    def boundaries(self) -> list[int]:
        """Rows at which a node starts or ends, or that run apart from their neighbours."""
        rows = set(self.first) | set(self.last)
        for kept in self.kept:
            rows |= kept | {row + 1 for row in kept}
        return sorted(rows)

    def common(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The innermost nodes that contain both of two nodes."""
        parent, depth = np.array(self.parent), np.array(self.depth)
        a, b = a.copy(), b.copy()
        while (a != b).any():
            lower = (depth[a] >= depth[b]) & (a != b)
            upper = ~lower & (a != b)
            a[lower] = parent[a[lower]]
            b[upper] = parent[b[upper]]
        return a

    def common_one(self, a: int, b: int) -> int:
        """The innermost node that contains both of two nodes."""
        while a != b:
            if self.depth[a] >= self.depth[b]:
                a = self.parent[a]
            else:
                b = self.parent[b]
        return a

    def path(self, node: int) -> list[int]:
        """The nodes around a node, and itself, from the outermost."""
        found = [node]
        while found[-1]:
            found.append(self.parent[found[-1]])
        return found[::-1]

    def enter(self, row: int) -> list[int]:
        """The nodes to compute again before ``row`` is reversed; rows come last to first.

        The last region inside of another one (or of the tape) is still as it was left.
        """
        known = set(self.path(self._at))
        self._at = int(self.node_of[row])
        return [
            node
            for node in self.path(self._at)
            if node not in known and node not in self._last_children
        ]

    def is_outside(self, unit: int, node: int) -> bool:
        """Whether a value that a row inside of ``node`` names is at home outside of it."""
        return self.depth[self.home[unit]] < self.depth[node]


def _is_kept(call: Call, save: tuple[str, ...]) -> bool:
    """Whether a region's policy keeps the result of a call."""
    if call.op == "named":
        return call.params[0] in save
    return call.op == "matmul" and "matmuls" in save


# --- where values lie -----------------------------------------------------------------------------


def settle(
    frame: Frame, tree: Tree, varied: np.ndarray, elements: np.ndarray, elided: set[int]
) -> None:
    """Give each value of a frame its place, by home.

    ``varied`` marks, by virtual address, what depends on differentiated arguments; ``elements``
    are the array elements that scalar code addresses; ``elided`` buffers need no room.  A passive
    scalar's adjoint may hold anything (the reverse code writes there what nobody reads), an
    active one's is zero before it is first added to, so they never share a place.
    """
    tape = frame.tape
    n = tape.n_scalars
    size = np.ones(len(tree.home), np.int64)
    for number, buffer in enumerate(tape.buffers):
        is_here = buffer.base >= 0 and frame.home[number][0] == VALUES and number not in elided
        size[n + number] = padded(buffer.size) if is_here else 0
    size[tree.home < 0] = 0
    zone = np.full(len(size), _ARRAYS)
    zone[:n] = np.where(varied[:n] != 0, _ACTIVE, _PASSIVE)
    zone[[n + number for number in tape.addressed]] = _ADDRESSED
    offsets = np.zeros(len(size), np.int64)
    mirrored = 0
    for which in range(4):
        chosen = np.flatnonzero(zone == which)
        inside, most = _stack(tree, np.maximum(tree.home[chosen], 0), size[chosen])
        offsets[chosen] = frame.arena.fixed(most) + inside
        if which == _ADDRESSED:
            mirrored = frame.arena.size
    scalars = np.where(tree.home[:n] < 0, -1, offsets[:n])
    frame.settle(scalars, offsets[n:], elements, mirrored)


def _stack(tree: Tree, node: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, int]:
    """Offsets of values by node, those of a node on top of its parent's; and the height."""
    n_nodes = len(tree.parent)
    own = np.zeros(n_nodes, np.int64)
    np.add.at(own, node, size)
    base = np.zeros(n_nodes, np.int64)
    for k in range(1, n_nodes):
        base[k] = base[tree.parent[k]] + own[tree.parent[k]]
    order = np.argsort(node, kind="stable")
    before = np.cumsum(size[order]) - size[order]
    start = np.full(n_nodes, -1, np.int64)
    nodes, where = np.unique(node[order], return_index=True)
    start[nodes] = before[where]
    offsets = np.zeros(len(node), np.int64)
    offsets[order] = before - start[node[order]] + base[node[order]]
    return offsets, int((base + own).max())


def _homes(tree: Tree) -> np.ndarray:
    """The home of each scalar, then of each buffer; -1 for what nothing names."""
    tape = tree.tape
    first, last = mentions(tape)
    named = last >= -1
    n_rows = len(tape.code)
    node_of = np.concatenate([tree.node_of, [0]])
    inside = (first >= 0) & (last < n_rows)
    home = np.where(named, 0, -1)
    chosen = np.flatnonzero(named & inside)
    home[chosen] = tree.common(node_of[first[chosen]], node_of[last[chosen]])
    constants = tape.scalar_constants[0]
    home[constants] = np.minimum(home[constants], 0)
    _raise_kept(tree, home)
    _raise_saves(tree, home)
    return home


def _raise_kept(tree: Tree, home: np.ndarray) -> None:
    """What a node keeps is at home around it."""
    tape = tree.tape
    for node in range(1, len(tree.parent)):
        for row in tree.kept[node]:
            if tree.first[node] <= row < tree.last[node]:
                made = unit(tape.calls[tape.code[row, 1]].result, tape)
                _raise(tree, home, made, tree.parent[node])


def _raise(tree: Tree, home: np.ndarray, unit: int, node: int) -> None:
    home[unit] = tree.common_one(int(home[unit]), int(node))


def _raise_saves(tree: Tree, home: np.ndarray) -> None:
    """What undoes an in-place write is at home where the written value is."""
    tape = tree.tape
    rows = tape.code[tape.code[:, 0] == WRITE]
    if len(rows):
        home[rows[:, 1]] = tree.common(home[rows[:, 1]], home[units(rows[:, 2], tape)])
    for call in tape.calls:
        if call.op in IN_PLACE:
            target = home[unit(call.operands[-1], tape)]
            _raise(tree, home, unit(call.result, tape), target)
            if call.op == "scatter_write":
                _raise(tree, home, unit(call.operands[1], tape), target)


def unit(view: View, tape: Tape) -> int:
    """The number of what a view looks at: a scalar's own, that of a buffer behind all scalars."""
    return view.offset if view.buffer == SCALAR else tape.n_scalars + view.buffer


def units(elements: np.ndarray, tape: Tape) -> np.ndarray:
    """Scalars as they are, array elements as the number of scalars + their buffer."""
    found = elements.astype(np.int64)
    inside = found >= ARRAY
    if inside.any():
        found[inside] = tape.n_scalars + tape.buffer_of(found[inside] - ARRAY)
    return found


def mentions(tape: Tape) -> tuple[np.ndarray, np.ndarray]:
    """(first, last) row that names each scalar, then each buffer.

    -1 stands for the arguments, the number of rows for the outputs; the last row of what nothing
    names is below -1.
    """
    n_rows, n_units = len(tape.code), tape.n_scalars + len(tape.buffers)
    first = np.full(n_units, n_rows + 1, np.int64)
    last = np.full(n_units, -2, np.int64)
    arity, _, _ = tables()
    code = tape.code
    rows = np.flatnonzero((code[:, 0] != CALL) & (code[:, 0] != DEAD))
    ops = code[rows, 0]
    for column in range(1, 5):
        chosen = rows[ops < GUARD_TRUE] if column == 1 else rows[arity[ops] > column - 2]
        named = units(code[chosen, column], tape)
        latest, earliest = np.full(n_units, -2, np.int64), np.full(n_units, n_rows + 1, np.int64)
        latest[named] = chosen  # the last of equal indices is what stays
        earliest[named[::-1]] = chosen[::-1]
        np.maximum(last, latest, out=last)
        np.minimum(first, earliest, out=first)
    for row in np.flatnonzero(code[:, 0] == CALL).tolist():
        call = tape.calls[code[row, 1]]
        for view in (*call.operands, call.result):
            named = unit(view, tape)
            first[named], last[named] = min(first[named], row), max(last[named], row)
    for leaf in tape.inputs:
        named = unit(leaf.view, tape)
        first[named], last[named] = -1, max(last[named], -1)
    for leaf in tape.outputs:
        named = unit(leaf.view, tape)
        first[named], last[named] = min(first[named], n_rows), n_rows
    return first, last


# --- code -----------------------------------------------------------------------------------------


def recompute(frame: Frame, tree: Tree, node: int, starts: np.ndarray, stream: Stream) -> None:
    """Reverse code that computes a region again.

    ``starts``: the first forward word of each row, and where the last one's end.
    """
    _undo(frame, tree, node, stream)
    row = tree.first[node]
    for kept in (*sorted(tree.kept[node]), tree.last[node]):
        if row < kept <= tree.last[node]:
            start, stop = int(starts[row]), int(starts[kept])
            if start < stop:
                stream.call("recompute", (start, stop))
                tree.recomputed += stop - start
        row = max(row, kept + 1)


def _undo(frame: Frame, tree: Tree, node: int, stream: Stream) -> None:
    """Undo a region's writes into values from outside, the last one first."""
    tape = tree.tape
    rows = tape.code[tree.first[node] : tree.last[node]]
    rows = rows[(rows[:, 0] == WRITE) | (rows[:, 0] == CALL)][::-1]
    written = units(np.where(rows[:, 0] == WRITE, rows[:, 2], 0), tape)
    words: list[int] = []
    for (op, out, target, *_), changed in zip(rows.tolist(), written.tolist(), strict=True):
        if op == WRITE:
            if tree.is_outside(changed, node):
                words += (OPS["positive"].code, *frame.virtual(target, out))
            continue
        call = tape.calls[out]
        if call.op in IN_PLACE and tree.is_outside(unit(call.operands[-1], tape), node):
            _run_scalars(frame, words, stream)
            words = []
            _undo_call(frame, call, stream)
    _run_scalars(frame, words, stream)


def _run_scalars(frame: Frame, words: list[int], stream: Stream) -> None:
    if words:
        code = frame.relocated(np.array(words, np.int32))
        stream.call("scalar_code", (len(code), *code.tolist()))


def _undo_call(frame: Frame, call: Call, stream: Stream) -> None:
    target, save = frame.place(call.operands[-1]), frame.place(call.result)
    if call.op == "write":
        stream.copy(target, save)
    else:
        index = contiguous(frame.place(call.operands[1]), frame.arena, stream)
        indexed("scatter", target, index, save, stream)
