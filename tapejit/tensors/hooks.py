"""Hooks, and gradients of results: the reverse sweep in stages, cut where somebody looks.

A compiled sweep cannot stop for a Python function.  Where the gradient of a result is asked for
(``register_hook``, ``retain_grad``, an input of ``autograd_grad``), the graph is cut there: one
sweep goes from the outputs to the cuts, then one from each cut on, last computed first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import TraceError
from ..interpreters.layout import CALL
from ..ops.table import OPS
from ..recording.recorder import where_am_i
from ..recording.splice import strided
from ..tape import ARRAY, SCALAR, View, row_major
from .derived import recorded_gradients
from .enter import Tensor, rebind
from .grad_mode import enable_grad, set_grad_enabled
from .memory import memory_of
from .pieces import Piece
from .plans import pieces_of, plan_for
from .sweeps import added, check_freed, finish, fresh, located
from .values import check_sources

__all__ = [
    "Handle",
    "Origin",
    "apply_hooks",
    "is_retained",
    "origin",
    "register",
    "retain",
    "stages",
]


class Handle:
    """Takes a hook away again."""

    def __init__(self, hooks: dict[int, Callable], key: int) -> None:
        self._hooks = hooks
        self._key = key

    def remove(self) -> None:
        """The hook is not called any more."""
        self._hooks.pop(self._key, None)


class Node:
    """A result whose gradient somebody looks at: its value, hooks, and tensors that keep it.

    ``of_view``: whether it is the copy that a view became.
    """

    def __init__(self, tensor: Any, of_view: bool = False) -> None:
        self.value = tensor.value
        self.of_view = of_view
        self.hooks: dict[int, Callable] = {}
        self.keepers: list[weakref.ref] = []


def register(tensor: Any, hook: Callable[[Any], Any]) -> Handle:
    """See :meth:`tapejit.Tensor.register_hook`."""
    if not callable(hook):
        raise TypeError(f"{where_am_i()}: a hook is a function of the gradient")
    if not tensor.requires_grad:
        raise TraceError(
            f"{where_am_i()}: register_hook on a tensor that does not require a gradient"
        )
    if tensor.is_root:
        if getattr(tensor, "hooks", None) is None:
            tensor.hooks = {}
        hooks = tensor.hooks
    else:
        hooks = _node(tensor, "register_hook").hooks
    key = max(hooks, default=-1) + 1
    hooks[key] = hook
    return Handle(hooks, key)


def retain(tensor: Any) -> None:
    """See :meth:`tapejit.Tensor.retain_grad`."""
    if not tensor.requires_grad:
        raise TraceError(
            f"{where_am_i()}: retain_grad on a tensor that does not require a gradient"
        )
    if not tensor.is_root:
        node = _node(tensor, "retain_grad")
        if not _keeps(node, tensor):
            node.keepers.append(weakref.ref(tensor))


def is_retained(tensor: Any) -> bool:
    """Whether ``backward`` keeps the gradient of a result anyway."""
    nodes = tensor.rec.hooks or {} if tensor.rec.level == -1 else {}
    return any(_keeps(node, tensor) for node in nodes.values())


def _keeps(node: Node, tensor: Any) -> bool:
    return any(keeper() is tensor for keeper in node.keepers)


def _node(tensor: Any, name: str) -> Node:
    of_view = tensor.rec.level == -1 and _is_view(tensor)
    if of_view:
        _separate(tensor, name)
    place = result_place(tensor, name)
    if tensor.rec.hooks is None:
        tensor.rec.hooks = {}
    nodes = tensor.rec.hooks
    if place not in nodes:
        nodes[place] = Node(tensor, of_view)
    return nodes[place]


# --- results and views ----------------------------------------------------------------------------


def result_place(tensor: Any, name: str) -> int:
    """The element (or -1 minus the buffer) that a result has for itself alone."""
    piece = tensor.rec
    if piece.level == -1 and not _is_view(tensor):
        if tensor.ndim == 0:
            return tensor.element
        if not _is_written(piece, tensor.cell.buffer):
            return -1 - tensor.cell.buffer
    raise TraceError(
        f"{where_am_i()}: {name} on a view of another tensor (or on one that was written in "
        "place), which has no gradient of its own; make it a tensor of its own where it is "
        "computed: x.clone()"
    )


def row_of(piece: Piece, place: int) -> int:
    """The row that computes an element (or the array of -1 minus a buffer); -1 of inputs."""
    code = np.array(piece.code, np.int32).reshape(-1, 5)
    is_call = code[:, 0] == CALL
    if place >= 0:
        rows = np.flatnonzero(~is_call & (code[:, 1] == place))
    else:
        rows = np.zeros(0, int)
    if not len(rows):
        view = (SCALAR, place) if place >= 0 else (-1 - place, 0)
        calls = [k for k, c in enumerate(piece.calls) if c.result[:2] == view]
        rows = np.flatnonzero(is_call & np.isin(code[:, 1], calls))
    return int(rows[0]) if len(rows) else -1


class Origin(NamedTuple):
    """What computed a tensor: the operation's name, and where it stands in the user's code."""

    name: str
    place: str

    def __repr__(self) -> str:
        return f"<{self.name}{', ' if self.place else ''}{self.place}>"


def origin(tensor: Any) -> Origin | None:
    """See :attr:`tapejit.Tensor.grad_fn`."""
    if tensor.is_leaf:
        return None
    piece, view = tensor.rec, tensor.view
    if piece.spent:
        return Origin("freed", "")
    row = row_of(piece, view.offset if view.buffer == SCALAR else -1 - view.buffer)
    if row < 0:
        return Origin("view", "")
    op, number = piece.code[5 * row : 5 * row + 2]
    name = piece.calls[number].op if op == CALL else OP_NAMES[op]
    return Origin(name, piece.place(row))


#: Names of elementwise operations by code.
OP_NAMES = {op.code: op.name for op in OPS.values()}


def _is_view(tensor: Any) -> bool:
    """Whether it shows elements of another tensor, instead of having been computed."""
    piece = tensor.rec
    if tensor.ndim:
        is_input = piece.buffers[tensor.cell.buffer].argument >= 0
        return is_input or tensor.value is not tensor.cell.storage
    element = tensor.element
    is_copy = piece.has_more and element in piece._copies.values()
    is_input = any(number == element and shape is None for *_, number, shape in piece.kinds)
    return element >= ARRAY or is_copy or is_input


def _whole(tensor: Any) -> View:
    """The view of all of an array's storage, in the shape that it was made with."""
    shape = tensor.cell.storage.shape
    return View(tensor.cell.buffer, 0, shape, row_major(shape))


def _is_written(piece: Piece, buffer: int) -> bool:
    """Whether a buffer was written in place."""
    base = ARRAY + piece.buffers[buffer].base
    last = base + piece.buffers[buffer].size
    return (
        any(region.buffer == buffer for _, region, _ in piece._region_writes)
        or any(base <= element < last for element in piece._element_writes)
        or any(entry[1].buffer == buffer for entry in piece._dynamic_writes)
    )


def _separate(tensor: Any, name: str) -> None:
    """Make a view a result of its own: a copy, read by all that is computed of it from now on.

    It shares no memory with the other tensor any more: later changes of either in place are
    errors where they would have shown in both.
    """
    if _is_written(tensor.rec, tensor.view.buffer):
        return  # result_place() raises
    if _is_read(tensor):
        raise TraceError(
            f"{where_am_i()}: {name} on a view of which something was computed already, and which "
            "has no gradient of its own; call it where the view is made, before its first use, or "
            "use a copy: x.clone()"
        )
    with enable_grad():
        copy = tensor.copy()
    tensor.value = copy.value
    if tensor.ndim == 0:
        tensor.rec, tensor.element, tensor.version = copy.rec, copy.element, copy.version
        return
    memory = memory_of(tensor.cell)
    rebind(tensor, copy.cell)
    tensor.cell.memory, tensor.cell.synced = memory, memory.version
    tensor.value.flags.writeable = False


def _is_read(tensor: Any) -> bool:
    """Whether rows of its piece read elements that a view shows, but by reading all of them."""
    piece, view = tensor.rec, tensor.view
    if view.buffer == SCALAR:
        return True  # an element that was copied to be read
    buffer = piece.buffers[view.buffer]
    shown = np.zeros(buffer.size, bool)
    strided(shown, view)[...] = True
    copies = {place for place, node in (piece.hooks or {}).items() if node.of_view}
    code = np.array(piece.code, np.int64).reshape(-1, 5)
    rows = code[(code[:, 0] != CALL) & ~np.isin(code[:, 1], list(copies))]
    elements = rows[:, 2:] - ARRAY - buffer.base
    if shown[elements[(elements >= 0) & (elements < buffer.size)]].any():
        return True
    parts = set()
    for call in piece.calls:
        if call.result.buffer == SCALAR or -1 - call.result.buffer not in copies:
            parts.update([v for v in call.operands if v.buffer == view.buffer])
    if tensor.ndim:
        parts.discard(_whole(tensor))
    else:
        parts = {part for part in parts if part.size == 1 or not any(part.strides)}
    return any(bool(strided(shown, part).any()) for part in parts)


def apply_hooks(tensor: Any, g: Any) -> Any:
    """The gradient after a leaf's hooks."""
    return _after(tensor.hooks, g, tensor.shape)


def _after(hooks: dict[int, Callable], g: Any, shape: tuple[int, ...]) -> Any:
    """A gradient after hooks, which record only where it is part of a graph itself."""
    with set_grad_enabled(isinstance(g, Tensor)):
        for hook in list(hooks.values()):
            result = hook(g if isinstance(g, Tensor) else fresh(np.array(g)))
            if result is None:
                continue
            if not (isinstance(g, Tensor) and isinstance(result, Tensor)):
                result = np.asarray(getattr(result, "value", result), np.float64)
            if result.shape != shape:
                raise ValueError(
                    f"{where_am_i()}: a hook returned a gradient of shape {result.shape} for a "
                    f"tensor of shape {shape}"
                )
            g = (
                fresh(result)
                if isinstance(g, Tensor) and not isinstance(result, Tensor)
                else result
            )
    return g[()] if isinstance(g, np.ndarray) and g.ndim == 0 else g


class _Stages:
    """One backward through a graph with cuts."""

    def __init__(self, pieces: list[Piece], taps: Sequence[Any], create_graph: bool) -> None:
        self.create_graph = create_graph
        self.pieces = pieces
        self.index = {piece.number: i for i, piece in enumerate(pieces)}
        self.nodes: dict[tuple[int, int], Any] = {}
        for i, piece in enumerate(pieces):
            for place, node in (piece.hooks or {}).items():
                if node.hooks or node.keepers:
                    self.nodes[i, place] = node
        self.taps: dict[tuple[int, int], list[int]] = {}
        for k, tensor in enumerate(taps):
            place = result_place(tensor, "a gradient with respect to a result")
            at = self.index.get(tensor.rec.number)
            if at is not None:
                self.nodes.setdefault((at, place), Node(tensor))
                self.taps.setdefault((at, place), []).append(k)
        self.order = sorted(self.nodes, key=self._row, reverse=True)
        self.pending: dict[tuple[int, int], Any] = {}
        self.leaves: list[tuple[Any, Any]] = []
        self.at_taps: list[Any] = [None] * len(taps)
        self.plans: list[Any] = []

    def _row(self, key: tuple[int, int]) -> tuple[int, int]:
        """Where a value is computed, to be sorted by."""
        i, place = key
        return i, row_of(self.pieces[i], place)

    def sweep(self, outputs: list[tuple[int, View]], seeds: list[Any], without: Any) -> None:
        """From some places back to the cuts (but ``without``) and to the leaves."""
        keys = [key for key in self.order if key != without]
        cuts = [(i, (place, np.shape(self.nodes[i, place].value))) for i, place in keys]
        plan = plan_for(self.pieces, outputs, cuts)
        check_freed(plan, self.pieces)
        check_sources(plan, self.pieces)
        values = [self.nodes[key].value for key in keys]
        if self.create_graph:
            found = recorded_gradients(plan, self.pieces, cuts, values, seeds)
        else:
            found = plan.gradients(self.pieces, values, seeds)
        for position, g in zip(plan.wrt, found, strict=True):
            i, k = plan.extract.inputs[position]
            if i >= 0:
                self.leaves.append((self.pieces[i].sources[k].leaf, g))
            else:
                self.add(keys[k], g)
        self.plans.append(plan)

    def add(self, key: tuple[int, int], g: Any) -> None:
        """Add to the cotangent of a cut value."""
        known = self.pending.get(key)
        self.pending[key] = g if known is None else known + g

    def arrive(self, key: tuple[int, int], go_on: bool) -> None:
        """The cotangent of a cut value is complete: show it, and perhaps go on from there."""
        g = self.pending.pop(key, None)
        if g is None:
            return
        node = self.nodes[key]
        g = _after(node.hooks, g, np.shape(node.value))
        for keeper in node.keepers:
            tensor = keeper()
            if tensor is not None:
                given = np.array(g) if isinstance(g, np.ndarray) else g
                tensor._grad = added(tensor.grad, given)
        for k in self.taps.get(key, ()):
            self.at_taps[k] = g
        if go_on:
            self.sweep([(key[0], self.view(key))], [g], key)

    def view(self, key: tuple[int, int]) -> View:
        """The view of a cut value."""
        place, shape = key[1], np.shape(self.nodes[key].value)
        if place >= 0:
            return View(SCALAR, place, (), ())
        return View(-1 - place, 0, shape, row_major(shape))


def stages(
    outputs: Sequence[Any], seeds: Sequence[Any], taps: Sequence[Any], retain_graph: bool,
    to_leaves: bool = True, create_graph: bool = False,
) -> tuple[list[tuple[Any, Any]], list[Any]]:  # fmt: skip
    """Cotangents of leaves and of the results ``taps``, hooks called on the way.

    ``to_leaves``: whether to go on from the last of the taps, and free what is below it.
    """
    places = [located(tensor) for tensor in outputs]
    work = _Stages(pieces_of([piece for piece, _ in places]), taps, create_graph)
    rest: list[tuple[int, View]] = []
    given: list[Any] = []
    for (piece, view), tensor, seed in zip(places, outputs, seeds, strict=True):
        g = np.ones(tensor.shape)[()] if seed is None else seed
        i = work.index[piece.number]
        place = view.offset if view.buffer == SCALAR else -1 - view.buffer
        if (i, place) in work.nodes and work.view((i, place)) == view:
            work.add((i, place), g)
        else:
            rest.append((i, view))
            given.append(g)
    if rest:
        work.sweep(rest, given, None)
    for number, key in enumerate(work.order, 1):
        work.arrive(key, to_leaves or any(other in work.taps for other in work.order[number:]))
    for plan in work.plans:
        finish(plan, work.pieces, retain_graph)
    return work.leaves, work.at_taps
