"""Vector mode: which tapes take several directions in one sweep, and where these lie.

The adjoints (tangents) of an element for all directions lie side by side, *lane-innermost*: where
a sweep in one direction has element ``i``, one in vector mode has elements ``LANES * i`` to
``LANES * i + LANES - 1``.  Code words are the same; the interpreters of vector mode multiply.
Strided copies and sums get the lanes as one more dimension.
"""

from __future__ import annotations

from ..interpreters.layout import ADJOINTS, LANES, TANGENTS
from ..tape import ARRAY, Tape, row_major
from .stream import Place

__all__ = ["in_lanes", "laid_out", "supports_lanes"]

#: Operations that are strided copies and sums, in the reverse and the tangent sweep alike.
_STRIDED = {"assemble", "concatenate", "copy", "sum", "write"}


def supports_lanes(tape: Tape) -> bool:
    """Whether vector mode serves a tape: scalar code, and array instructions that move data."""
    size = tape.n_scalars + tape.n_array_elements
    return 4 * LANES * size < ARRAY and all(call.op in _STRIDED for call in tape.calls)


def in_lanes(place: Place) -> Place:
    """A place with the lanes as its last dimension; what has no lanes is stretched over them."""
    shape = (*place.shape, LANES)
    if place.space in (ADJOINTS, TANGENTS):
        strides = (*(LANES * stride for stride in place.strides), 1)
        return Place(place.space, LANES * place.offset, shape, strides)
    return place._replace(shape=shape, strides=(*place.strides, 0))


def laid_out(shape: tuple[int, ...], offset: int, space: int) -> Place:
    """A contiguous place of an array of directions: the lanes are its last dimension."""
    return Place(space, offset, (*shape, LANES), row_major((*shape, LANES)))
