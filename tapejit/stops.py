"""Why a sweep stopped, and where: the user's line, and the steps of staged loops around it.

A kernel that fails leaves the word of its instruction in the context, each staged loop around it
the step that it was in.  From these the tapes say which lines the words come from.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from .errors import LoopLimitError, ScheduleError
from .interpreters import layout, loop_kernels, schedules
from .interpreters.entry import RUN_FORWARD, RUN_REVERSE, RUN_TANGENT
from .interpreters.memory import f64
from .interpreters.user import raise_python
from .tape import Tape

if TYPE_CHECKING:
    from .program import Workspace

__all__ = ["Stop", "leave_short_way", "raise_status", "raise_stopped", "stop_of"]

_SWEEPS = {RUN_FORWARD: "forward", RUN_REVERSE: "reverse", RUN_TANGENT: "tangent"}
_LOOPS = ("loop_forward", "loop_reverse")
_BRANCHES = ("branch_forward", "branch_reverse")


class Stop(NamedTuple):
    """Where a sweep stopped.

    Attributes
    ----------
    tape, row
        The tape, perhaps a loop's body, and its row; -1 where that is not known.
    in_reverse
        Whether it was being reversed.
    around
        What the row is part of, innermost first, as ``"step 3 of the loop at file:line"``.
    """

    tape: Tape
    row: int
    in_reverse: bool = False
    around: tuple[str, ...] = ()


def stop_of(workspace: Workspace, where: str = "") -> Stop:
    """Where the sweep that a workspace has just run stopped.

    ``where``: the line to name for the program's own rows.
    """
    program, context = workspace.program, workspace.context
    kernels = {number: name for name, number in program.table.numbers.items()}
    sweep = _SWEEPS[int(context[layout.PHASE])]
    word = int(context[layout.FAILED])
    return _find(kernels, workspace.memory, program.tape, sweep, word, where)


def _find(
    kernels: dict[int, str], memory: Any, tape: Tape, sweep: str, word: int, where: str = ""
) -> Stop:
    """The innermost row of a word of ``sweep``'s code that stopped."""
    words = getattr(memory.code, sweep)
    kernel = kernels[int(words[word + 2])] if words[word] == layout.CALL else ""
    if kernel == "recompute" and memory.context[layout.RECOMPUTING]:
        at = int(memory.context[layout.RECOMPUTING]) - 1
        return _find(kernels, memory, tape, "forward", at, where)
    row = _row(memory.code, sweep, word)
    stop = Stop(tape, row, sweep == "reverse")
    if kernel not in _LOOPS + _BRANCHES:
        return stop
    number = _loop(memory, words, word, kernel)
    record, loop = memory.records[number], memory.code.loops[number]
    inner = int(record[loop_kernels.RESUME])
    if inner < 0:  # the loop itself, not its body
        return stop
    is_turning = record[loop_kernels.ACTION] == schedules.TURN and kernel.endswith("reverse")
    stop = _find(
        kernels, memory.children[number], loop.body, "reverse" if is_turning else "forward", inner
    )
    place = where or (_line(tape, row) if row >= 0 else "an unknown line")
    around = f"the branch at {place}"
    if kernel in _LOOPS:
        around = f"step {record[loop_kernels.STEP]} of the loop at {place}"
    return stop._replace(around=(*stop.around, around))


def _row(code: Any, sweep: str, word: int) -> int:
    """The tape row that a word of the code comes from."""
    if sweep != "reverse":
        return int(np.searchsorted(code.starts, word, side="right")) - 1
    at = bisect_right(code.turns, (word, len(code.starts))) - 1
    return code.turns[at][1] if at >= 0 else -1


def _loop(memory: Any, words: np.ndarray, word: int, kernel: str) -> int:
    """The number of the loop that an instruction runs: of branches the one chosen."""
    first = int(words[word + 3])
    if kernel in _LOOPS:
        return first
    count, space, offset = map(int, words[word + 4 : word + 7])
    index = f64(int(memory.context[space]) + 8 * offset, 1)[0]
    return first + int(min(max(index, 0.0), count - 1.0))


def _line(tape: Tape, row: int) -> str:
    return ":".join(map(str, tape.line(row)))


# --- exceptions -----------------------------------------------------------------------------------


def raise_stopped(workspace: Workspace, status: int, name: str = "", where: str = "") -> None:
    """Raise what stopped a workspace's sweep, and make the workspace as new.

    Parameters
    ----------
    status
        What the sweep returned; nothing is raised where an argument has to be looked at again
        (``ARGUMENT_CHANGED``).
    name
        What ran, named where the line is not known.
    where
        As for :func:`stop_of`.
    """
    if status == layout.ARGUMENT_CHANGED:
        workspace.clear()
        return
    stop = stop_of(workspace, where)
    workspace.clear()
    if status == layout.FILE_ERROR:  # a loop's file, whatever its body did last
        stop = stop._replace(around=())
    if stop.around:
        where = ""
    if not where and stop.row < 0:
        where = f"`{name}`"
    raise_status(status, stop.tape, stop.row, where, stop)


def leave_short_way(workspace: Workspace, status: int) -> None:
    """Make a workspace as new whose sweep stopped: the general way runs the call again.

    Not so where a call of Python raised, which ends the call.
    """
    if status == layout.PYTHON_ERROR:
        raise_stopped(workspace, status)
    elif status != layout.ARGUMENT_CHANGED:
        workspace.clear()


def raise_status(
    status: int, tape: Tape, row: int, where: str = "", stop: Stop | None = None
) -> NoReturn:
    """The exception of a sweep that stopped at a row (named as ``where``, or by its line)."""
    where = where or _line(tape, row)
    call = tape.calls[tape.code[row, 1]] if row >= 0 and tape.code[row, 0] == layout.CALL else None
    if stop is not None and stop.around:
        where = f"{where} ({', in '.join(stop.around)})"
    if status == layout.PYTHON_ERROR:
        try:
            raise_python(status)
        except BaseException as error:
            error.add_note(f"raised in a replay of {where}")
            raise
    if status == layout.LOOP_LIMIT:
        steps = "max_steps"
        if call is not None and call.op == "loop":
            steps = f"max_steps = {call.params[0].steps}"
        raise LoopLimitError(
            f"{where}: a tapejit.while_loop has not ended after {steps} steps; if that is right, "
            f"pass a larger max_steps"
        )
    if status == layout.FILE_ERROR:
        raise ScheduleError(
            f"{where}: a snapshot could not be written to its file, or read back; choose another "
            "directory (TwoLevel(..., directory=...)), or keep all snapshots in memory (Revolve)"
        )
    if status == layout.INDEX_ERROR:
        raise IndexError(f"{where}: an index computed from traced values is out of bounds")
    if status == layout.LINALG_ERROR:
        raise np.linalg.LinAlgError(
            f"{where}: a matrix is singular (or, for cholesky, not positive definite)"
        )
    if status == layout.OPERATION_ERROR:
        is_registered = call is not None and "#" in call.op
        name = f"`{call.op.partition('#')[0]}`" if is_registered else "a registered operation"
        kind = "reverse kernel" if stop is not None and stop.in_reverse else "kernel"
        raise RuntimeError(f"{where}: a {kind} of {name} raised an exception")
    raise RuntimeError(f"{where}: a sweep stopped with status {status}")
