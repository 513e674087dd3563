"""The file that holds snapshots on disk."""

from __future__ import annotations

import os
import tempfile
import weakref

from ..errors import ScheduleError
from .limits import format_bytes

__all__ = ["SnapshotFile"]


class SnapshotFile:
    """A nameless file with room for snapshots, claimed when it is made.

    Parameters
    ----------
    slots
        How many snapshots it holds.
    slot_bytes
        Size of a snapshot; slot ``k`` starts at byte ``k * slot_bytes``.
    directory
        Where it is; the system's temporary directory by default.

    Attributes
    ----------
    descriptor
        The open file; kernels read and write it with :mod:`tapejit.interpreters.files`.

    Raises
    ------
    ScheduleError
        If the file can't be made there, or the disk has no room for it.
    """

    def __init__(self, slots: int, slot_bytes: int, directory: str | None = None) -> None:
        size = slots * slot_bytes
        place = tempfile.gettempdir() if directory is None else directory
        try:
            with tempfile.TemporaryFile(prefix="tapejit-", dir=place) as file:
                if size:
                    os.posix_fallocate(file.fileno(), 0, size)
                self.descriptor = os.dup(file.fileno())
        except OSError as error:
            raise ScheduleError(
                f"{slots} snapshots of {format_bytes(slot_bytes)} on disk need "
                f"{format_bytes(size)} in {place!r}: {error.strerror}; choose another directory "
                "or fewer snapshots (TwoLevel(..., disk=..., directory=...))"
            ) from error
        self.slot_bytes = slot_bytes
        self._close = weakref.finalize(self, os.close, self.descriptor)

    def close(self) -> None:
        """Give the room back; also happens when the object goes."""
        self._close()
