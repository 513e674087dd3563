"""Calling a tape: replay at new arguments of the recorded structure, shapes and branches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import stops
from .arguments import Function, as_argument, collect, normalise, typed
from .compiled import guard_length
from .errors import TraceError
from .interpreters import layout
from .interpreters.entry import BIND, OBJECT, RUN_FORWARD
from .paths import Path
from .program import Program, Workspace, program_for
from .recording.record import Recording
from .results import results_of
from .tape import Tape

__all__ = ["Replay", "evaluate", "raise_stopped"]


class Replay:
    """What a traced tape does when it is called.

    Parameters
    ----------
    structure, statics, values
        Structure of (args, kwargs); by leaf, its static arguments (``None`` where traced); the
        values of the traced ones.
    """

    def __init__(
        self, recording: Recording, function: Function, structure: Any, statics: list, values: list
    ) -> None:
        self.path = Path(recording)
        self.function = function
        self.structure = structure
        self.statics = statics
        self.kinds = [(np.shape(value), np.asarray(value).dtype.kind) for value in values]
        self.program: Program | None = None

    def with_tape(self, tape: Tape) -> Replay:
        """The replay of a transformed tape."""
        other = copy.copy(self)
        other.path = Path(self.path.recording._replace(tape=tape))
        other.program = None
        return other

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The recorded function's result at new arguments.

        Raises
        ------
        TraceError
            Where the arguments' structure, shapes or static values differ from the recorded ones,
            or a branch would be taken differently: a tape is one path; :func:`~tapejit.jit` keeps
            as many as it meets.
        """
        values = self.values(args, kwargs)
        # Programs are interned: settings of the thread choose which one, this keeps it alive.
        self.program = program_for(self.path.tape)
        return collect(self.path, _run(self.program, values, self.path))

    def values(self, args: tuple, kwargs: dict) -> list[Any]:
        """The traced leaves of new arguments, which must be like the recorded ones."""
        name = self.function.name
        leaves, structure, static = self.function.split(args, kwargs)
        if structure != self.structure:
            raise TraceError(
                f"tape of `{name}`: the arguments' structure {structure} differs from the "
                f"recorded {self.structure}; trace the function anew, or use jit, which keeps a "
                "tape for each structure"
            )
        kinds = iter(self.kinds)
        values = []
        for leaf, recorded, still in zip(leaves, self.statics, static, strict=True):
            if still or recorded is not None:
                if type(leaf) is not type(recorded) or leaf != recorded:
                    raise TraceError(
                        f"tape of `{name}`: a static argument is {leaf!r}, it was recorded with "
                        f"{recorded!r}; trace the function anew, or use jit"
                    )
            else:
                values.append(_prepared(leaf, *next(kinds), name))
        return values


def raise_stopped(path: Path, workspace: Workspace, status: int) -> None:
    """The Python exception of a replay that stopped."""
    word = int(workspace.context[layout.FAILED])
    if status == layout.GUARD_FAILED:
        row = path.guard_at(workspace.program.code.starts, word)
        file, line = path.tape.line(row)
        raise TraceError(
            f"{file}:{line}: at these arguments `{path.tape.name}` takes another branch than the "
            "tape recorded; use tapejit.jit, which records each branch, or np.where"
        )
    stops.raise_stopped(workspace, status, path.tape.name)


def evaluate(tape: Tape, values: Sequence[Any]) -> list[Any]:
    """Values of a tape's outputs, in NumPy's types, at values of its inputs.

    Guards are passed whatever they see: the tape was recorded at these very values.
    """
    arguments = [as_argument(value) for value in values]
    return _run(program_for(tape), arguments, None)


def _run(program: Program, values: Sequence[Any], path: Path | None) -> list[Any]:
    """Outputs of one forward sweep."""
    workspace = program.checkout()
    try:
        for record, value in zip(workspace.parameters, values, strict=True):
            record[OBJECT] = id(value)
        status = workspace.run(BIND | RUN_FORWARD)
        while status != layout.DONE:
            if path is not None:
                raise_stopped(path, workspace, status)
            status = _past_guard(workspace, status)
        results = results_of(workspace, program.code.values, "values")
    finally:
        workspace.clear()
        program.give_back(workspace)
    outputs = zip(results, program.tape.outputs, strict=True)
    return [typed(result, leaf.dtype) for result, leaf in outputs]


def _past_guard(workspace: Workspace, status: int) -> int:
    """Go on behind a guard that failed; raise for whatever else stopped a sweep."""
    word = int(workspace.context[layout.FAILED])
    program = workspace.program
    if status != layout.GUARD_FAILED:
        stops.raise_stopped(workspace, status, program.tape.name)
    path = Path(Recording(program.tape, None, [], []))
    row = path.guard_at(program.code.starts, word)
    return workspace.run(RUN_FORWARD, word + guard_length(path, row))


def _prepared(leaf: Any, shape: tuple[int, ...], kind: str, name: str) -> Any:
    value = normalise(leaf, name, False)
    if np.shape(value) != shape:
        raise TraceError(
            f"tape of `{name}`: an argument has shape {np.shape(value)}, it was recorded with "
            f"shape {shape}; trace the function anew, or use jit, which keeps a tape for each shape"
        )
    if kind != "f" and np.asarray(value).dtype.kind != kind:
        raise TraceError(
            f"tape of `{name}`: an argument of dtype {np.asarray(value).dtype} was recorded as "
            f"{'an integer' if kind == 'i' else 'a bool'}; trace the function with floats"
        )
    return as_argument(value)
