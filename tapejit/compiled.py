"""Compiled functions: signatures, paths, programs, and the short way for a repeated call."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import pytrees
from .arguments import Function, as_argument, collect, hashable, leaves_of, normalise
from .checkpointing import Schedule
from .derive.inline import Inlined
from .errors import GuardOverflowWarning, ReplayMismatchError, TraceError
from .interpreters import layout
from .interpreters.entry import BIND, OBJECT, RUN_FORWARD, RUN_TANGENT
from .paths import Path, PathTrie
from .program import Program, Workspace, program_for
from .recording.record import Recording, record_function
from .recording.recorder import at_samples
from .stops import raise_stopped

__all__ = ["Compiled", "Variant", "guard_length"]

MAX_PATHS = 64
#: After this many recordings in a row that no later call used, paths are no longer kept.
MAX_MISSES = 4 * MAX_PATHS


class Variant:
    """One signature of a compiled function: its paths, and how results are put together.

    Parameters
    ----------
    wrt
        Positions, among the traced leaves, to differentiate with respect to.
    mode
        Mode of its programs.
    """

    def __init__(
        self,
        function: Function,
        structure: Any,
        leaves: list,
        static: list[bool],
        wrt: tuple[int, ...],
        mode: str,
        scalar_seed: bool,
    ) -> None:
        self.function = function
        self.structure = structure
        self.statics = [
            leaf if is_static else None for leaf, is_static in zip(leaves, static, strict=True)
        ]
        self.traced = [i for i, is_static in enumerate(static) if not is_static]
        self.wrt = wrt
        self.mode = mode
        self.scalar_seed = scalar_seed
        self.trie = PathTrie(MAX_PATHS)
        self.misses = 0
        self.lock = threading.RLock()
        self.check_result: Callable[[Path], None] | None = None
        #: Makes the recording that is replayed from the one of the function.
        self.transform: Callable[[Recording, tuple[int, ...]], Recording] | None = None
        self.checkpoint: Schedule | None = None

    # --- recording --------------------------------------------------------------------------------

    def run_python(self, values: Sequence[Any]) -> Any:
        """The Python function itself, at values (or tracers) of the traced leaves."""
        leaves = list(self.statics)
        for at, value in zip(self.traced, values, strict=True):
            leaves[at] = value
        args, kwargs = self.function.rebuild(self.structure, leaves)
        return self.function.function(*args, **kwargs)

    def record(self, values: Sequence[Any], runs: bool = True) -> Path:
        """Record the path that the function takes at ``values``.

        ``runs``: whether its staged loops run; they need not where it branches on nothing.
        """
        recording = None if runs else self._record_unrun(values)
        if recording is None:
            recording = record_function(
                lambda *tracers: self.run_python(tracers), values, self.function.name
            )
        if recording.captured:
            raise TraceError(
                f"`{self.function.name}` closes over traced values of an enclosing recording; pass "
                "them to it as arguments"
            )
        if self.transform is not None:
            recording = self.transform(recording, self.wrt)
        if self.misses >= MAX_MISSES:
            return Path(recording)
        with self.lock:
            path = self.trie.add(recording)
            self.misses += 1
            if self.misses == MAX_MISSES:
                self._warn_of_branches(path)
        return path

    def _record_unrun(self, values: Sequence[Any]) -> Recording | None:
        """A recording whose loops did not run; ``None`` where their results may count."""
        try:
            with at_samples():
                recording = record_function(
                    lambda *tracers: self.run_python(tracers), values, self.function.name
                )
        except Exception:  # perhaps that of a sample value
            return None
        return None if len(Path(recording).guard_rows) else recording

    def _warn_of_branches(self, path: Path) -> None:
        row = int(path.guard_rows[-1]) if len(path.guard_rows) else 0
        file, line = path.tape.line(row)
        warnings.warn(
            f"`{self.function.name}` keeps taking new branches (the last one at {file}:{line}); "
            "from now on each call records it anew. Use np.where instead of a branch that depends "
            "on data, or pass what decides it as a static argument.",
            GuardOverflowWarning,
            stacklevel=2,
        )

    def program(self, path: Path) -> Program:
        """The program of a path, laid out at its first use."""
        program = path.programs.get("program")
        if program is None:
            if self.check_result is not None:
                self.check_result(path)
            mode, several = self.mode, False
            plan = path.recording.plan
            if plan is not None and plan.several:
                mode, several = "tangent" if plan.choice.mode == "forward" else "gradient", True
            program = program_for(
                path.tape, self.wrt, mode, self.scalar_seed, self.checkpoint, several
            )
            path.programs["program"] = program
        return program

    # --- running ----------------------------------------------------------------------------------

    def execute(self, values: Sequence[Any], moving: Sequence[Any] = ()) -> tuple[Path, Workspace]:
        """Run the sweep that takes ``values`` in, on the right path; the caller owns the workspace.

        ``moving``: tangents of the differentiated leaves (mode ``"tangent"``), further inputs of a
        derived tape, or a function that gives them for a path.
        """
        path = self.trie.last
        fresh = path is None
        if path is None:
            path = self.record(values)
        path, workspace = self._sweep(path, values, moving, fresh)
        with self.lock:
            self.trie.use(path)
        return path, workspace

    def _bound(self, path: Path, values: Sequence[Any], moving: Sequence[Any]) -> Workspace:
        workspace = self.program(path).checkout()
        records = workspace.parameters
        moving = moving(path) if callable(moving) else moving
        held = []
        for record, value in zip(records, (*values, *moving), strict=True):
            value = as_argument(value)
            held.append(value)
            record[OBJECT] = id(value)
        workspace.held = held
        status = workspace.run(BIND)
        assert status == layout.DONE, "arguments were normalised"
        return workspace

    def _sweep(
        self, path: Path, values: Sequence[Any], moving: Sequence[Any], fresh: bool
    ) -> tuple[Path, Workspace]:
        """Sweep, going over to other paths (or new ones) where guards fail.

        A workspace whose sweep raises is dropped, not pooled.
        """
        workspace = self._bound(path, values, moving)
        sweep = _sweep_of(workspace)
        status = workspace.run(sweep)
        while status != layout.DONE:
            start = int(workspace.context[layout.FAILED])
            if status != layout.GUARD_FAILED:
                raise_stopped(workspace, status, self.function.name)
            row = path.guard_at(workspace.program.code.starts, start)
            if fresh:
                # Recording has just decided this branch at this very point: rounding, forced.
                status = workspace.run(sweep, start + guard_length(path, row))
                continue
            observed = path.observed(
                row,
                float(workspace.context[layout.OBSERVED : layout.OBSERVED + 1].view(np.float64)[0]),
            )
            other = self.trie.child(path, row, observed)
            if other is None:
                taken = self.record(values)
                fresh = True
                self.program(path).give_back(workspace)
                workspace = self._bound(taken, values, moving)
                sweep = _sweep_of(workspace)
                status = workspace.run(sweep)
            elif not self.program(other).continues(self.program(path)):
                taken = other
                self.program(path).give_back(workspace)
                workspace = self._bound(taken, values, moving)
                sweep = _sweep_of(workspace)
                status = workspace.run(sweep)
            else:
                taken = other
                workspace = self._change(path, taken, row, workspace, values, moving)
                self.misses = max(0, self.misses - 1)
                # What a loop or a region keeps for the reverse sweep is not handed on: run again.
                again = path.has_loops(row) or not self._resumable(path, taken)
                start = 0 if again else self.program(taken).code.starts[row]
                status = workspace.run(sweep, int(start))
            with self.lock:
                if path.nodes and taken.nodes:
                    self.trie.turned(path, row, observed, taken)
            path = taken
        return path, workspace

    def _resumable(self, path: Path, other: Path) -> bool:
        return self.program(path).code.resumable and self.program(other).code.resumable

    def _change(
        self, path: Path, other: Path, row: int, workspace: Workspace,
        values: Sequence[Any], moving: Sequence[Any],
    ) -> Workspace:  # fmt: skip
        """Go on in another path, with what the common prefix has computed (if that is kept)."""
        fresh = self._bound(other, values, moving)
        if not self._resumable(path, other):
            self.program(path).give_back(workspace)
            return fresh
        scalars, arrays = path.prefix(row)
        of, to = self.program(path).code, self.program(other).code
        lanes = layout.LANES if self.program(path).several else 1
        for old, new, k in (
            (workspace.values, fresh.values, 1),
            (workspace.tangents, fresh.tangents, lanes),
        ):
            if len(old) and len(new):
                new[k * to.scalar_base : k * (to.scalar_base + scalars)] = old[
                    k * of.scalar_base : k * (of.scalar_base + scalars)
                ]
                new[k * to.array_base : k * (to.array_base + arrays)] = old[
                    k * of.array_base : k * (of.array_base + arrays)
                ]
        self.program(path).give_back(workspace)
        return fresh


def _sweep_of(workspace: Workspace) -> int:
    return RUN_TANGENT if workspace.program.mode == "tangent" else RUN_FORWARD


def guard_length(path: Path, row: int) -> int:
    """Words of a guard's code."""
    return 3 if path.tape.code[row, 0] == layout.GUARD_EQUAL else 2


class Compiled:
    """Base of compiled functions: finds the variant of a call.

    Subclasses say what a call returns (``finish``) and may add a short way (``__call__``).
    """

    mode = "value"
    scalar_seed = False
    transform: Callable[[Recording, tuple[int, ...]], Recording] | None = None
    checkpoint: Schedule | None = None

    def __init__(self, function: Function, check: bool = False) -> None:
        self.function = function
        self.check = check
        self.variants: dict[Any, Variant] = {}

    def __repr__(self) -> str:
        return f"<tapejit {type(self).__name__.lower()} of {self.function.name}>"

    def differentiated(self, args: tuple, kwargs: dict) -> Any:
        """Which leaves are differentiated, as a tree of flags like (args, kwargs)."""
        return None

    def find(self, args: tuple, kwargs: dict) -> tuple[Variant, list]:
        """The variant for these arguments, and the values of its traced leaves."""
        leaves, structure, static = self.function.split(args, kwargs)
        wrt_leaves = self.wrt_leaves(args, kwargs, leaves)
        values, key = [], []
        for i, (leaf, is_static) in enumerate(zip(leaves, static, strict=True)):
            if is_static:
                key.append(hashable(leaf, self.function.name))
                if i in wrt_leaves:
                    raise TraceError(
                        f"`{self.function.name}`: a static argument ({leaf!r}) cannot be "
                        "differentiated; choose other argnums"
                    )
                continue
            value = normalise(leaf, self.function.name, i in wrt_leaves)
            values.append(value)
            key.append((np.shape(value), "f" if type(value) is float else value.dtype.kind))
        key = (structure, tuple(key), self.settings_key())
        variant = self.variants.get(key)
        if variant is None:
            traced = [i for i, is_static in enumerate(static) if not is_static]
            wrt = tuple(traced.index(i) for i in wrt_leaves)
            variant = self.variants[key] = Variant(
                self.function, structure, leaves_of(leaves, static), static, wrt, self.mode,
                self.scalar_seed,
            )  # fmt: skip
            variant.check_result = self.check_path
            variant.transform = self.transform
            variant.checkpoint = self.checkpoint
        return variant, values

    def settings_key(self) -> Any:
        """What else tells variants apart."""
        from .config import settings

        return settings.plain_python, settings.tile_from

    def wrt_leaves(self, args: tuple, kwargs: dict, leaves: list) -> list[int]:
        """Positions of the differentiated leaves."""
        return []

    def inlined(self, args: tuple, kwargs: dict) -> Inlined:
        """The function of its differentiated leaves, inside of the recording under way."""
        leaves, structure, _ = self.function.split(args, kwargs)
        wrt = self.wrt_leaves(args, kwargs, leaves)

        def run(*inputs: Any) -> Any:
            full = list(leaves)
            for i, value in zip(wrt, inputs, strict=True):
                full[i] = value
            call_args, call_kwargs = self.function.rebuild(structure, full)
            return self.function.function(*call_args, **call_kwargs)

        return Inlined(run, [leaves[i] for i in wrt], self.function.name)

    def check_path(self, path: Path) -> None:
        """Raise where a recorded function cannot be transformed as asked."""

    def compare(self, variant: Variant, path: Path, values: list, results: list) -> None:
        """``check=True``: the replayed result against the Python function's."""
        with np.errstate(all="ignore"):
            # The function may write into its arguments: give it copies.
            expected = variant.run_python(
                [v.copy() if isinstance(v, np.ndarray) else v for v in values]
            )
        wanted, structure = pytrees.flatten(expected)
        given, recorded = pytrees.flatten(collect(path, results))
        if structure != recorded:
            wanted, given = [expected], [collect(path, results)]
        for got, want in zip(given, wanted, strict=True):
            if not _agree(got, want):
                raise ReplayMismatchError(
                    f"`{self.function.name}`: the replay gives {got!r}, the Python function "
                    f"{want!r}. It depends on something besides its arguments (a captured array "
                    "that changed, a global, random numbers): pass that as an argument."
                )


def _agree(got: Any, want: Any) -> bool:
    """Whether a replayed leaf is what the Python function returns."""
    try:
        a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    except (TypeError, ValueError):
        return bool(got is want or got == want)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
