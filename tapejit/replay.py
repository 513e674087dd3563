"""Calling a tape: replay at new arguments of the recorded structure, shapes and branches."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiled import Function, collect, normalise, raise_status, typed
from .errors import TraceError
from .interpreters import layout
from .interpreters.entry import BIND, DELIVER, OBJECT, RUN_FORWARD
from .paths import Path
from .program import program_for
from .recording.record import Recording

__all__ = ["replay_recording"]


def replay_recording(
    recording: Recording,
    function: Function,
    structure: Any,
    recorded: list,
    static: list[bool],
    args: tuple,
    kwargs: dict,
) -> Any:
    """The recorded function's result at new arguments.

    Raises
    ------
    TraceError
        Where the arguments' structure or shapes differ from the recorded ones, or a branch would
        be taken differently: a tape is one path; :func:`~tapejit.jit` keeps as many as it meets.
    """
    leaves, new_structure, _ = function.split(args, kwargs)
    if new_structure != structure:
        raise TraceError(
            f"tape of `{function.name}`: the arguments' structure {new_structure} differs from the "
            f"recorded {structure}"
        )
    values = [
        _prepared(leaf, like, function.name)
        for leaf, like in zip(
            (leaf for leaf, is_static in zip(leaves, static, strict=True) if not is_static),
            recorded,
            strict=True,
        )
    ]
    path = Path(recording)
    program = program_for(path.tape)
    workspace = program.checkout()
    try:
        for record, value in zip(workspace.parameters, values, strict=True):
            record[OBJECT] = id(value)
        code = program.code
        workspace.deliver_to(code.values, np.zeros(max(len(code.values), 1)))
        workspace.tag = "replay"
        arrays = [None if slot.shape == () else np.empty(slot.shape) for slot in code.values]
        for record, array in zip(workspace.results, arrays, strict=True):
            if array is not None:
                record[OBJECT] = id(array)
        status = workspace.run(BIND | RUN_FORWARD | DELIVER)
        if status != layout.DONE:
            _raise(path, workspace, status, function.name)
        results = [
            workspace.scalars[k] if array is None else array for k, array in enumerate(arrays)
        ]
    finally:
        workspace.clear()
        program.give_back(workspace)
    outputs = path.tape.outputs
    return collect(path, [typed(r, leaf.dtype) for r, leaf in zip(results, outputs, strict=True)])


def _prepared(leaf: Any, like: Any, name: str) -> Any:
    value = normalise(leaf, name, False)
    if np.shape(value) != np.shape(like):
        raise TraceError(
            f"tape of `{name}`: an argument has shape {np.shape(value)}, it was recorded with "
            f"shape {np.shape(like)}; trace the function anew, or use jit, which keeps a tape for "
            "each shape"
        )
    return float(value) if np.ndim(value) == 0 else np.ascontiguousarray(value, np.float64)


def _raise(path: Path, workspace: Any, status: int, name: str) -> None:
    word = int(workspace.context[layout.FAILED])
    row = workspace.program.row_at(word)
    if status == layout.GUARD_FAILED:
        row = path.guard_at(workspace.program.code.starts, word)
        file, line = path.tape.line(row)
        raise TraceError(
            f"{file}:{line}: at these arguments `{name}` takes another branch than the tape "
            "recorded; use tapejit.jit, which records each branch, or np.where"
        )
    raise_status(status, path.tape, row)
