"""The array region of a tape under construction: buffers, padded, one behind the other."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from .errors import TraceError
from .tape import ALIGNMENT, ARRAY, SCALAR, Buffer, View

__all__ = ["ArrayRegion"]


class ArrayRegion:
    """Base of what builds a tape: its buffer table, and the addresses of elements.

    Attributes
    ----------
    buffers
        The buffers so far; those of constants lie outside of the region.
    n_elements
        Elements of the region so far, padding included.
    """

    def __init__(self, buffers: Sequence[Buffer] = (), n_elements: int = 0) -> None:
        self.buffers: list[Buffer] = list(buffers)
        self.n_elements = n_elements
        #: Numbers and first elements of the buffers in the region, in order.
        self._based = [i for i, buffer in enumerate(self.buffers) if buffer.base >= 0]
        self._bases = [self.buffers[i].base for i in self._based]

    def whereabouts(self) -> str:
        """What messages name."""
        return "a tape"

    def buffer(self, size: int, argument: int = -1) -> int:
        """A new array buffer; returns its number."""
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        if self.n_elements + padded >= ARRAY:
            raise TraceError(
                f"{self.whereabouts()}: the arrays hold more than 2**30 elements together; record "
                "fewer of them, or put the work into a staged loop (tapejit.scan)"
            )
        self._based.append(len(self.buffers))
        self._bases.append(self.n_elements)
        self.buffers.append(Buffer(self.n_elements, size, argument))
        self.n_elements += padded
        return len(self.buffers) - 1

    def place_of(self, element: int) -> View:
        """The 0-d view of an element address."""
        if element < ARRAY:
            return View(SCALAR, element, (), ())
        offset = element - ARRAY
        at = bisect.bisect_right(self._bases, offset) - 1
        return View(self._based[at], offset - self._bases[at], (), ())

    def element(self, view: View) -> int:
        """The element address of a 0-d view."""
        if view.buffer == SCALAR:
            return view.offset
        return ARRAY + self.buffers[view.buffer].base + view.offset
