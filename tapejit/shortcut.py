"""The short way of a repeated call: flat arguments, a known path, no flattening, no signature.

The entry itself compares the arguments' headers with what the program expects; whatever it does not
accept takes the general way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .interpreters import entry, layout
from .interpreters.entry import (
    BIND,
    DELIVER,
    PREPARE,
    RUN_FORWARD,
    RUN_REVERSE,
)
from .lowering.build import Slot
from .program import Program, Workspace
from .stops import leave_short_way

__all__ = ["Shortcut"]

_new = np.empty


class Shortcut:
    """Workspaces ready for one program's repeated calls.

    Parameters
    ----------
    slots
        What is delivered, in order.
    tag
        Name of that choice (workspaces of other choices are set up anew).
    reverse
        Whether the reverse sweep runs.
    bare
        Whether a gradient is returned as it is, not in a tuple.
    """

    def __init__(
        self, program: Program, slots: Sequence[Slot], tag: str, reverse: bool, bare: bool = False
    ) -> None:
        self.program = program
        self.slots = list(slots)
        self.shapes = [None if slot.shape == () else slot.shape for slot in slots]
        self.shape = self.shapes[0]
        #: One array in, one array and one number out: :attr:`run_one` serves.
        self.single = (
            bare and len(slots) == 2 and self.shape is not None and self.shapes[1] is None
            and len(program.code.parameters) == 1
        )  # fmt: skip
        self.tag = tag
        self.pool: list[Workspace] = []
        self.n_arguments = len(program.code.parameters)
        self.what = BIND | PREPARE | RUN_FORWARD | DELIVER | (RUN_REVERSE if reverse else 0)
        self.run, self.run_one = entry.entries()

    def make(self) -> Workspace:
        """A new workspace, its records set up."""
        workspace = self.program.checkout()
        workspace.prepare(self.slots, self.tag)
        return workspace

    @property
    def is_pair(self) -> bool:
        """Two arguments in, one array out: :meth:`pair` serves."""
        return self.n_arguments == 2 and len(self.slots) == 1 and self.shape is not None

    def pair(self, first: Any, second: Any) -> Any:
        """The array that two flat arguments give; None where the general way is needed."""
        try:
            workspace = self.pool.pop()
        except IndexError:
            workspace = self.make()
        words = workspace.argument_words
        words[0] = id(first)
        words[1] = id(second)
        result = _new(self.shape)
        workspace.result_words[0] = id(result)
        status = self.run(workspace.address, 0, self.what)
        if status == layout.PAUSED:
            status = workspace.resume(self.what)
        if status != layout.DONE:
            leave_short_way(workspace, status)
            result = None
        self.pool.append(workspace)
        return result

    def call(self, args: tuple, out: Sequence[Any]) -> list[Any] | None:
        """Results for flat arguments, the first ones into the arrays ``out``.

        None where the general way is needed.
        """
        if len(args) != self.n_arguments or (out and not self._takes(out)):
            return None
        try:
            workspace = self.pool.pop()
        except IndexError:
            workspace = self.make()
        arguments = workspace.argument_words
        for k, arg in enumerate(args):
            arguments[k] = id(arg)
        arrays = [*out, *[None if s is None else _new(s) for s in self.shapes[len(out) :]]]
        objects = workspace.result_words
        for k, array in enumerate(arrays):
            if array is not None:
                objects[k] = id(array)
        status = self.run(workspace.address, 0, self.what)
        if status == layout.PAUSED:
            status = workspace.resume(self.what)
        if status != layout.DONE:
            leave_short_way(workspace, status)
            self.pool.append(workspace)
            return None
        scalars = workspace.scalars
        results = [scalars[k] if array is None else array for k, array in enumerate(arrays)]
        self.pool.append(workspace)
        return results

    def _takes(self, out: Sequence[Any]) -> bool:
        """Whether ``out`` holds an array for each gradient (the entry checks the arrays)."""
        return (
            len(out) == len(self.program.code.gradients)
            and None not in self.shapes[: len(out)]
            and len({id(array) for array in out}) == len(out)
        )


def usable(program: Program) -> bool:
    """Whether the entry may read argument headers here."""
    return entry.headers_are_known() and not program.table.plain
