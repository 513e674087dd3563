"""What a call returns: arrays for a program's results, sweeps that fill them, their structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import pytrees
from .arguments import as_tuple, is_static
from .interpreters.entry import DELIVER, OBJECT
from .lowering.build import Slot
from .program import Workspace
from .recording.record import Constant, Recording

__all__ = [
    "allocate",
    "bind_in_place",
    "deliver",
    "delivered",
    "gradient_tree",
    "results_of",
    "unflattened",
]


def allocate(slots: Sequence[Slot], out: Sequence[Any] = ()) -> list[Any]:
    """Result arrays for slots (None for 0-d ones), the first of them given."""
    arrays = [None if slot.shape == () else np.empty(slot.shape) for slot in slots]
    for i, array in enumerate(out):
        arrays[i] = array
    return arrays


def deliver(workspace: Workspace, arrays: Sequence[Any], what: int = 0) -> int:
    """Sweep (as ``what`` says) and copy the results out."""
    for record, array in zip(workspace.results, arrays, strict=True):
        if array is not None:
            record[OBJECT] = id(array)
    return workspace.run(what | DELIVER)


def delivered(workspace: Workspace, arrays: Sequence[Any]) -> list[Any]:
    """The delivered results, 0-d ones as ``np.float64``."""
    scalars = workspace.scalars
    return [scalars[k] if array is None else array for k, array in enumerate(arrays)]


def results_of(workspace: Workspace, slots: list[Slot], tag: str) -> list[Any]:
    """What a sweep has left in these slots; ``tag`` names their choice."""
    workspace.prepare(slots, tag)
    arrays = allocate(slots)
    deliver(workspace, arrays)
    return delivered(workspace, arrays)


def bind_in_place(workspace: Workspace, slots: Sequence[Slot], arrays: Sequence[Any]) -> None:
    """Point the spaces of results that sweeps write themselves at their arrays."""
    for slot, array in zip(slots, arrays, strict=False):
        if slot.in_place and array is not None:
            workspace.context[slot.in_place] = array.ctypes.data


def gradient_tree(args: tuple, argnums: int | Sequence[int], gradients: Sequence[Any]) -> Any:
    """Gradient leaves in the structure of the arguments ``argnums``; ``None`` for static leaves."""
    remaining = iter(gradients)
    by_argument = {}
    for n in sorted({n % len(args) for n in as_tuple(argnums)}):
        leaves, structure = pytrees.flatten(args[n])
        parts = [None if is_static(leaf) else next(remaining) for leaf in leaves]
        by_argument[n] = pytrees.unflatten(structure, parts)
    if isinstance(argnums, int):
        return by_argument[argnums % len(args)]
    return tuple(by_argument[n % len(args)] for n in argnums)


def unflattened(recording: Recording, values: Sequence[Any]) -> Any:
    """A recorded function's result from values of the tape's outputs."""
    leaves = [leaf.value if isinstance(leaf, Constant) else values[leaf]
              for leaf in recording.leaves]  # fmt: skip
    return pytrees.unflatten(recording.structure, leaves)
