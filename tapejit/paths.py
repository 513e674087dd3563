"""Branches: the recorded paths of one function at one signature, and the way between them.

Paths form a trie.  A guard is a decision point; paths that agree up to a guard share its number,
and their tapes agree word for word up to it.  So a sweep that fails a guard goes on in another
path right there, with the values computed so far: coming back to a known path costs one forward
sweep in all, however often it turns off.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import numpy as np

from .interpreters import layout
from .interpreters.layout import GUARD_EQUAL, GUARD_FALSE, GUARD_TRUE
from .recording.record import Recording
from .tape import ARRAY

__all__ = ["Path", "PathTrie"]

_numbers = itertools.count()


class Path:
    """One recorded path: its recording and its decision points."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.tape = recording.tape
        code = self.tape.code
        self.guard_rows = np.flatnonzero(
            np.isin(code[:, 0], (GUARD_TRUE, GUARD_FALSE, GUARD_EQUAL))
        )
        self.nodes: list[int] = []
        self.programs: dict[Any, Any] = {}
        self.decision: tuple[int, Any] | None = None

    def outcome(self, row: int) -> Any:
        """The relation that held at a guard while this path was recorded."""
        op = self.tape.code[row, 0]
        if op != GUARD_EQUAL:
            return bool(op == GUARD_TRUE)
        ids, values = self.tape.scalar_constants
        (at,) = np.flatnonzero(ids == self.tape.code[row, 3])
        return float(values[at])

    def guard_at(self, starts: np.ndarray, word: int) -> int:
        """The tape row of the guard whose code starts at ``word``."""
        return int(self.guard_rows[np.searchsorted(starts[self.guard_rows], word)])

    def observed(self, row: int, value: float) -> Any:
        """What a replay saw at a guard instead."""
        return value if self.tape.code[row, 0] == GUARD_EQUAL else value != 0.0

    def has_loops(self, row: int) -> bool:
        """Whether staged loops or branches stand before a row."""
        rows = self.tape.code[:row]
        numbers = rows[rows[:, 0] == layout.CALL, 1].tolist()
        return any(self.tape.calls[number].op in ("loop", "loop_vjp") for number in numbers)

    def prefix(self, row: int) -> tuple[int, int]:
        """Sizes of the scalar and of the array region that rows before ``row`` use."""
        rows = self.tape.code[:row]
        scalar_rows = rows[rows[:, 0] <= GUARD_EQUAL, 1:4]
        below = scalar_rows[scalar_rows < ARRAY]
        scalars = int(below.max()) + 1 if below.size else 0
        arrays = 0
        buffers = self.tape.buffers
        views = [leaf.view for leaf in self.tape.inputs]
        for number in rows[rows[:, 0] == layout.CALL, 1].tolist():
            views.append(self.tape.calls[number].result)
        for view in views:
            if view.buffer >= 0:
                arrays = max(arrays, buffers[view.buffer].base + buffers[view.buffer].size)
            else:
                scalars = max(scalars, view.offset + 1)
        return scalars, arrays


class PathTrie:
    """Paths by decision; at most ``limit`` are kept, the least recently used goes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.paths: OrderedDict[int, Path] = OrderedDict()
        self.children: dict[tuple[int, Any], Path] = {}
        self.by_fingerprint: dict[bytes, Path] = {}
        self.last: Path | None = None

    def child(self, path: Path, row: int, observed: Any) -> Path | None:
        """The path most recently taken where ``path``'s guard at ``row`` sees ``observed``."""
        if not path.nodes:  # a path that is not kept
            return None
        number = int(np.searchsorted(path.guard_rows, row))
        return self.children.get((path.nodes[number], observed))

    def use(self, path: Path) -> None:
        """Note that a call took ``path``."""
        if id(path) in self.paths:
            self.last = path
            self.paths.move_to_end(id(path))

    def turned(self, path: Path, row: int, observed: Any, taken: Path) -> None:
        """Note which path a failed guard led to."""
        number = int(np.searchsorted(path.guard_rows, row))
        self.children[path.nodes[number], observed] = taken

    def add(self, recording: Recording) -> Path:
        """Enter a new path (or find the equal one that is there)."""
        path = Path(recording)
        known = self.by_fingerprint.get(path.tape.fingerprint)
        if known is not None:
            return known
        self._number(path)
        self.paths[id(path)] = path
        self.by_fingerprint[path.tape.fingerprint] = path
        while len(self.paths) > self.limit:
            _, oldest = self.paths.popitem(last=False)
            self._forget(oldest)
        return path

    def _number(self, path: Path) -> None:
        """Walk the trie along the path's decisions; new decision points get new numbers."""
        node: int | None = self._root
        for row in path.guard_rows.tolist():
            if node is None:
                node = next(_numbers)
            path.nodes.append(node)
            outcome = path.outcome(row)
            sibling = self.children.get((node, outcome))
            if sibling is not None and len(sibling.nodes) > len(path.nodes):
                node = sibling.nodes[len(path.nodes)]
            else:
                node = None
            self.children[path.nodes[-1], outcome] = path

    @property
    def _root(self) -> int | None:
        for path in self.paths.values():
            return path.nodes[0] if path.nodes else None
        return None

    def _forget(self, path: Path) -> None:
        self.by_fingerprint.pop(path.tape.fingerprint, None)
        for key in [key for key, value in self.children.items() if value is path]:
            del self.children[key]
        for other in self.paths.values():
            for node, row in zip(other.nodes, other.guard_rows.tolist(), strict=True):
                self.children.setdefault((node, other.outcome(row)), other)
        if self.last is path:
            self.last = None
