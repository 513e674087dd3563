"""Version counters: changes of storage that a graph, or another tensor, may still rely on."""

from __future__ import annotations

from typing import Any

__all__ = ["Memory", "changed", "memory_of"]


class Memory:
    """Counts the in-place changes of one storage, and says where the last one was made."""

    __slots__ = ("operation", "place", "version")

    def __init__(self) -> None:
        self.version = 0
        self.operation = ""
        self.place = ""


def memory_of(cell: Any) -> Memory:
    """The counter of a cell's storage: made when somebody first relies on it."""
    if cell.memory is None:
        cell.memory = Memory()
        cell.synced = 0
    return cell.memory


def changed(cell: Any, operation: str, place: str) -> None:
    """Note an in-place change of a cell's storage."""
    memory = cell.memory
    if memory is not None:
        memory.version += 1
        memory.operation = operation
        memory.place = place
