"""Lowering of structural operations: which kernels run, forward, reverse and tangent.

``FORWARD`` holds one function an operation, over places.  Operations in ``LINEAR`` have the same
function for their tangents.  ``REVERSE`` holds the transposes of linear operations and products;
an operation without an entry there runs its vjp rule (``ops.structural``) as forward code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..interpreters.layout import TANGENTS, VALUES
from ..ops.structural import STRUCTURAL
from ..tape import row_major, size_of
from .frame import Arena, Frame, whole
from .stream import Place, Stream


class _Forward(dict[str, Callable[..., None]]):
    """Lowering functions by operation; users' operations name the one that they share."""

    def __missing__(self, name: str) -> Callable[..., None]:
        return self[STRUCTURAL[name].lowering]


FORWARD: dict[str, Callable[..., None]] = _Forward()
LINEAR = {
    "assemble", "concatenate", "copy", "cumsum", "gather", "named", "scatter_add", "scatter_write",
    "sum", "write",
}  # fmt: skip


def forward(name: str) -> Callable:
    """Register the forward lowering of an operation."""

    def register(function: Callable) -> Callable:
        FORWARD[name] = function
        return function

    return register


def contiguous(place: Place, arena: Arena, stream: Stream) -> Place:
    """The place itself, or a contiguous copy of it."""
    if place.contiguous:
        return place
    temporary = whole(place.shape, arena.reserve(place.size))
    stream.copy(temporary, place)
    return temporary


def zero(arena: Arena, shape: tuple[int, ...]) -> Place:
    """Constant zeros, by strides of zero."""
    from ..interpreters.layout import CONSTANTS

    return Place(CONSTANTS, arena.constant_tile(0.0, 8), shape, (0,) * len(shape))


def fill_value(arena: Arena, value: float, shape: tuple[int, ...]) -> Place:
    """A constant, stretched."""
    from ..interpreters.layout import CONSTANTS

    return Place(CONSTANTS, arena.constant_tile(value, 8), shape, (0,) * len(shape))


@forward("named")
@forward("copy")
def _copy(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    stream.copy(out, operands[0])


def summed_view(out: Place, shape: tuple[int, ...], axes: tuple[int, ...]) -> Place:
    """The result of a sum, stretched over the operand's shape."""
    strides, kept = [], iter(out.strides)
    for axis in range(len(shape)):
        strides.append(0 if axis in axes else next(kept))
    return Place(out.space, out.offset, shape, tuple(strides))


@forward("sum")
def _sum(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    (axes,) = params
    (source,) = operands
    several = stream.lanes and out.space == TANGENTS
    whole_sum = source.contiguous and len(axes) == len(source.shape)
    if source.size == 0 or several or not whole_sum:
        stream.copy(out, zero(arena, out.shape))
        stream.add(summed_view(out, source.shape, axes), source)
    else:
        words = (source.size, out.space, out.offset, source.space, source.offset)
        stream.call("total_assign", words)


@forward("concatenate")
def _concatenate(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    (axis,) = params
    at = 0
    for operand in operands:
        n = operand.shape[axis]
        offset = out.offset + at * out.strides[axis]
        stream.copy(Place(out.space, offset, operand.shape, out.strides), operand)
        at += n


@forward("assemble")
def _assemble(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    stream.copy(out, zero(arena, out.shape))
    for operand, (offset, strides) in zip(operands, params[1], strict=True):
        stream.add(Place(out.space, out.offset + offset, operand.shape, strides), operand)


@forward("write")
def _write(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    source, target = operands
    stream.copy(out, target)
    stream.copy(target, source)


def indexed(kernel: str, base: Place, index: Place, values: Place, stream: Stream) -> None:
    """A gather or scatter between a view and values, by flat indices."""
    if index.size:
        words = (index.size, base.space, base.offset, index.space, index.offset)
        stream.call(kernel, (*words, values.space, values.offset))


@forward("gather")
def _gather(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    base, index = operands
    index = contiguous(index, arena, stream)
    indexed("gather", contiguous(base, arena, stream), index, out, stream)


@forward("scatter_add")
def _scatter_add(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    source, index = (contiguous(operand, arena, stream) for operand in operands)
    stream.copy(out, zero(arena, out.shape))
    indexed("scatter_add", out, index, source, stream)


@forward("scatter_write")
def _scatter_write(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    source, index, target = operands
    index = contiguous(index, arena, stream)
    indexed("gather", target, index, out, stream)
    indexed("scatter", target, index, contiguous(source, arena, stream), stream)


@forward("normalise_index")
def _normalise_index(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    (source,) = (contiguous(operand, arena, stream) for operand in operands)
    if source.size:
        words = (source.size, out.space, out.offset, source.space, source.offset, params[0])
        stream.call("normalise_index", words)


def overwrite(frame: Frame, stream: Stream, call: Any) -> None:
    """An in-place write that saves nothing."""
    source, *index, target = (frame.place(view) for view in call.operands)
    if call.op == "write":
        stream.copy(target, source)
    else:
        index = contiguous(index[0], frame.arena, stream)
        indexed("scatter", target, index, contiguous(source, frame.arena, stream), stream)


def _by_rows(kernel: str, scratch: bool = False) -> Callable:
    """An operation along the last axis."""

    def lower(
        arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
    ) -> None:
        source = contiguous(operands[0], arena, stream)
        length = source.shape[-1]
        rows = size_of(source.shape[:-1])
        if rows == 0 or out.size == 0:
            return
        words = [rows, length, out.space, out.offset, source.space, source.offset]
        if scratch:
            words += [VALUES, arena.reserve(length)]
        stream.call(kernel, words)

    return lower


for _name in ("max", "min", "argmax", "argmin", "prod", "prod_others", "cumsum", "cumprod"):
    FORWARD[_name] = _by_rows(f"row_{_name}")
FORWARD["argsort"] = _by_rows("row_argsort", scratch=True)


def _empty_row_value(name: str, value: float) -> None:
    lower = FORWARD[name]

    def with_empty_rows(
        arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
    ) -> None:
        if operands[0].shape[-1] == 0:
            stream.copy(out, fill_value(arena, value, out.shape))
        else:
            lower(arena, stream, operands, out, params)

    FORWARD[name] = with_empty_rows


_empty_row_value("prod", 1.0)


def emit_matmul(stream: Stream, a: Place, b: Place, out: Place, accumulate: bool) -> None:
    """``out (+)= a @ b`` over stacks of matrices of one batch shape (strides of 0 broadcast)."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    batch = out.shape[:-2]
    if size_of(batch) == 0 or m * n == 0:
        return
    words = [int(accumulate), len(batch), m, k, n]
    for place in (a, b, out):
        words += (place.space, place.offset, *place.strides[-2:])
    words += batch
    for place in (a, b, out):
        words += place.strides[:-2]
    stream.call("batched_matmul", words)


@forward("matmul")
def _matmul(arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple) -> None:
    emit_matmul(stream, *operands, out, accumulate=False)


def _factorization(kernel: str) -> Callable:
    """A linear-algebra operation on stacks of square matrices.

    Words: matrices, order, columns of the right-hand side, result, matrix, right-hand side,
    scratch (a factor, ``n`` 32-bit pivots, two doubles).
    """

    def lower(
        arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
    ) -> None:
        places = [contiguous(operand, arena, stream) for operand in operands]
        n = places[0].shape[-1]
        columns = places[1].shape[-1] if len(places) > 1 else 1
        count = size_of(places[0].shape[:-2])
        if count == 0 or out.size == 0:
            return
        words = [count, n, columns, out.space, out.offset]
        for place in (*places, places[-1])[:2]:
            words += (place.space, place.offset)
        words += (VALUES, arena.reserve(n * n + (n + 1) // 2 + 2))
        stream.call(kernel, words)

    return lower


for _name in ("solve", "inv", "logabsdet", "detsign", "cholesky"):
    FORWARD[_name] = _factorization(f"matrix_{_name}")


# --- users' operations ----------------------------------------------------------------------------


@forward("user_kernel")
def _user_kernel(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    (operation,) = params
    places = [contiguous(operand, arena, stream) for operand in operands]
    shapes = [place.shape for place in places]
    kernel, results, scratch = operation.kernel(shapes)
    operation.address(shapes)  # a clear error where it does not compile
    words: list[int] = []
    for place in places:
        words += (place.space, place.offset, *place.shape)
    offset = out.offset
    for shape in results:
        words += (out.space, offset, *shape)
        offset += size_of(shape)
    if scratch is not None:
        words += (VALUES, arena.reserve(scratch), scratch)
    stream.call(kernel, words)


@forward("python_call")
def _python_call(
    arena: Arena, stream: Stream, operands: list[Place], out: Place, params: tuple
) -> None:
    (operation,) = params
    places = [contiguous(operand, arena, stream) for operand in operands]
    words = [operation.number, out.space, out.offset]
    for place in places:
        words += (place.space, place.offset)
    stream.call("python_call", words)


def transposed(place: Place) -> Place:
    """The matrices of a stack, transposed."""
    shape = (*place.shape[:-2], place.shape[-1], place.shape[-2])
    strides = (*place.strides[:-2], place.strides[-1], place.strides[-2])
    return Place(place.space, place.offset, shape, strides)


# --- reverse --------------------------------------------------------------------------------------
# ``reverse(rev, call)``: ``rev`` is the lowering.reverse.ReverseLowering.

REVERSE: dict[str, Callable[[Any, Any], None]] = {}


def reverse(name: str) -> Callable:
    """Register the reverse lowering of an operation."""

    def register(function: Callable) -> Callable:
        REVERSE[name] = function
        return function

    return register


@reverse("named")
@reverse("copy")
def _copy_reverse(rev: Any, call: Any) -> None:
    rev.contribute(call.operands[0], rev.adjoint(call.result))


@reverse("sum")
def _sum_reverse(rev: Any, call: Any) -> None:
    view = call.operands[0]
    g = summed_view(rev.adjoint(call.result), view.shape, call.params[0])
    rev.contribute(view, g)


@reverse("concatenate")
def _concatenate_reverse(rev: Any, call: Any) -> None:
    (axis,) = call.params
    g = rev.adjoint(call.result)
    at = 0
    for view in call.operands:
        offset = g.offset + at * g.strides[axis]
        rev.contribute(view, Place(g.space, offset, view.shape, g.strides))
        at += view.shape[axis]


@reverse("assemble")
def _assemble_reverse(rev: Any, call: Any) -> None:
    g = rev.adjoint(call.result)
    for view, (offset, strides) in zip(call.operands, call.params[1], strict=True):
        rev.contribute(view, Place(g.space, g.offset + offset, view.shape, strides))


@reverse("write")
def _write_reverse(rev: Any, call: Any) -> None:
    source, target = call.operands
    if rev.targets.touched(target):
        rev.contribute(source, rev.adjoint(target))
        saved = zero(rev.arena, target.shape)
        if rev.targets.touched(call.result):
            saved = rev.adjoint(call.result)
        rev.stream.copy(rev.adjoint(target), saved)
    elif rev.targets.touched(call.result):
        rev.contribute(target, rev.adjoint(call.result))
    if rev.restores(call):
        rev.stream.copy(rev.place(target), rev.place(call.result))


@reverse("scatter_write")
def _scatter_write_reverse(rev: Any, call: Any) -> None:
    source, index, target = call.operands
    at = contiguous(rev.place(index), rev.arena, rev.stream)
    place, save = rev.place(target), rev.place(call.result)
    if rev.targets.touched(target) or rev.targets.touched(call.result):
        rev.targets.add_mode(target, rev.stream)
        g = rev.adjoint(target)
        if rev.targets.varies(source):
            last = _last_writers(rev, at, place)
            taken = whole(index.shape, rev.arena.reserve(index.size))
            indexed("gather", g, at, taken, rev.stream)
            rev.stream.call("keep_last", _keep_last_words(taken, at, last))
            rev.contribute(source, taken)
        zeros = zero(rev.arena, index.shape)
        cleared = whole(index.shape, rev.arena.reserve(index.size))
        rev.stream.copy(cleared, zeros)
        indexed("scatter", g, at, cleared, rev.stream)
        if rev.targets.touched(call.result):
            # An element's former value was saved once for each time it is written.
            indexed("scatter_add", g, at, rev.adjoint(call.result), rev.stream)
    if rev.restores(call):
        indexed("scatter", place, at, save, rev.stream)


def _last_writers(rev: Any, index: Place, target: Place) -> Place:
    """Scratch as long as the target: which write to each element came last."""
    return whole(target.shape, rev.arena.reserve(target.size))


def _keep_last_words(values: Place, index: Place, last: Place) -> tuple:
    return (
        index.size, values.space, values.offset, index.space, index.offset, last.space, last.offset,
    )  # fmt: skip


@reverse("gather")
def _gather_reverse(rev: Any, call: Any) -> None:
    base, index = call.operands
    if not rev.targets.varies(base):
        return
    at = contiguous(rev.place(index), rev.arena, rev.stream)
    g = rev.adjoint(call.result)
    if rev.place(base).contiguous:
        rev.targets.add_mode(base, rev.stream)
        indexed("scatter_add", rev.adjoint(base), at, g, rev.stream)
        return
    temporary = whole(base.shape, rev.arena.reserve(base.size))
    rev.stream.copy(temporary, zero(rev.arena, base.shape))
    indexed("scatter_add", temporary, at, g, rev.stream)
    rev.contribute(base, temporary)


@reverse("matmul")
def _matmul_reverse(rev: Any, call: Any) -> None:
    a, b = call.operands
    g = rev.adjoint(call.result)
    for view, left, right in (
        (a, g, transposed(rev.place(b))),
        (b, transposed(rev.place(a)), g),
    ):
        if rev.targets.varies(view):
            repeated = any(s == 0 and n > 1 for n, s in zip(view.shape, view.strides, strict=True))
            mode = rev.targets.mode(view, rev.stream, exclusive=not repeated)
            emit_matmul(rev.stream, left, right, rev.adjoint(view), accumulate=mode == rev.ADD)


__all__ = [
    "FORWARD",
    "LINEAR",
    "REVERSE",
    "Frame",
    "contiguous",
    "emit_matmul",
    "indexed",
    "row_major",
]
