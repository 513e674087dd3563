"""Views of views: the arithmetic of strided windows."""

from __future__ import annotations

from ..tape import SCALAR, View, is_contiguous, row_major

__all__ = ["compose", "covering", "overlap", "repeated_axes", "span", "stretched", "uniform"]


def uniform(view: View) -> bool:
    """Whether all elements are one and the same."""
    return all(s == 0 or n == 1 for n, s in zip(view.shape, view.strides, strict=True))


def stretched(view: View, shape: tuple[int, ...]) -> View:
    """The view broadcast to ``shape`` by strides of zero."""
    if view.shape == shape:
        return view
    lead = len(shape) - len(view.shape)
    strides = [0] * lead
    for n, m, stride in zip(view.shape, shape[lead:], view.strides, strict=True):
        strides.append(0 if n == 1 and m != 1 else stride)
    return View(view.buffer, view.offset, shape, tuple(strides))


def repeated_axes(view: View) -> tuple[int, ...]:
    """The axes along which a view shows the same elements again."""
    return tuple(
        i for i, (n, s) in enumerate(zip(view.shape, view.strides, strict=True)) if s == 0 and n > 1
    )


def compose(outer: View, inner: View, lead: int = 0) -> View | None:
    """``inner`` on the elements of ``outer`` in C order; None where that is no strided view.

    Parameters
    ----------
    outer
        Any view; what it shows is numbered in C order.
    inner
        A window in that numbering (its buffer does not matter).
    lead
        So many first axes of ``outer`` stand outside: they come first in the result, too.
    """
    shape, strides = outer.shape[lead:], outer.strides[lead:]
    before, steps = outer.shape[:lead], outer.strides[:lead]
    linear = row_major(shape)
    if inner.shape == shape and inner.offset == 0 and _same(inner.strides, linear, shape):
        return outer
    core = View(outer.buffer, outer.offset, shape, strides)
    if 0 in inner.shape or uniform(core):
        found = View(outer.buffer, outer.offset, inner.shape, (0,) * len(inner.shape))
    elif is_contiguous(core):
        found = View(outer.buffer, outer.offset + inner.offset, inner.shape, inner.strides)
    else:
        found = _decomposed(core, linear, inner)
    if found is None:
        return None
    return View(found.buffer, found.offset, before + found.shape, steps + found.strides)


def _same(a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(s == t or n == 1 for s, t, n in zip(a, b, shape, strict=True))


def _decomposed(outer: View, linear: tuple[int, ...], inner: View) -> View | None:
    """Each stride of ``inner`` as a step along one axis of ``outer``."""
    low, rest = [], inner.offset
    for c in linear:
        low.append(rest // c)
        rest %= c
    offset = outer.offset + sum(i * s for i, s in zip(low, outer.strides, strict=True))
    high = list(low)
    strides = []
    for n, s in zip(inner.shape, inner.strides, strict=True):
        if n == 1 or s == 0:
            strides.append(0)
            continue
        axis = next((d for d, c in enumerate(linear) if outer.shape[d] > 1 and abs(s) >= c), None)
        if axis is None or s % linear[axis]:
            return None
        step = s // linear[axis]
        (high if step > 0 else low)[axis] += step * (n - 1)
        strides.append(step * outer.strides[axis])
    if any(i < 0 for i in low) or any(i >= n for i, n in zip(high, outer.shape, strict=True)):
        return None
    return View(outer.buffer, offset, inner.shape, tuple(strides))


def covering(window: View, size: int) -> tuple[int, ...] | None:
    """For a window that shows each element of a buffer once: its axes, slowest first.

    None for any other window.
    """
    if window.size != size or window.offset != 0:
        return None
    axes = sorted(range(len(window.shape)), key=lambda d: -window.strides[d])
    kept = [d for d in axes if window.shape[d] != 1]
    step = 1
    for d in reversed(kept):
        if window.strides[d] != step:
            return None
        step *= window.shape[d]
    return tuple([d for d in axes if window.shape[d] == 1] + kept)


def overlap(a: View, b: View) -> bool:
    """Whether two views of one buffer may share elements (their spans do)."""
    if a.buffer != b.buffer or a.buffer == SCALAR or 0 in a.shape or 0 in b.shape:
        return False
    (a0, a1), (b0, b1) = span(a), span(b)
    if a1 < b0 or b1 < a0:
        return False
    return not _apart(a, b)


def span(view: View) -> tuple[int, int]:
    """First and last element."""
    low = high = view.offset
    for n, s in zip(view.shape, view.strides, strict=True):
        if s < 0:
            low += (n - 1) * s
        else:
            high += (n - 1) * s
    return low, high


def _apart(a: View, b: View) -> bool:
    """Whether two windows of one common largest stride lie in different columns of it."""
    strides = {abs(s) for v in (a, b) for n, s in zip(v.shape, v.strides, strict=True) if n > 1}
    if not strides:
        return a.offset != b.offset
    pitch = max(strides)
    columns = []
    for view in (a, b):
        inside = [(n, s) for n, s in zip(view.shape, view.strides, strict=True)
                  if n > 1 and abs(s) != pitch]  # fmt: skip
        if any(s < 0 for _, s in inside):
            return False
        first = view.offset % pitch
        last = first + sum((n - 1) * s for n, s in inside)
        if last >= pitch:
            return False
        columns.append((first, last))
    (a0, a1), (b0, b1) = columns
    return a1 < b0 or b1 < a0
