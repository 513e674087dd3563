"""Scripts: the rows of a graph that was differentiated before, to be met again.

A loop that repeats the same operations records the same rows in every iteration.  The first short
graph of its kind is written down as a :class:`Script`: a chain of steps, each of which says which
operation, of which operands, at which place of the program comes next, and what the piece has
before it; at the end stands the plan.  :mod:`tapejit.tensors.followers` has the pieces that follow.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import settings
from ..interpreters.layout import CALL
from ..ops.table import OPS, Elementwise
from ..recording.tracer import Tracer
from ..tape import SCALAR, Call, View
from .notes import Note
from .pieces import CALL_SIZE, Piece

__all__ = ["FUNCTION", "NUMBER", "SUM", "Script", "Step", "write"]

_ELEMENTWISE: dict[int, Elementwise] = {op.code: op for op in OPS.values()}

_add = np.add.reduce

#: An operand that is a number of the program's, not a tensor.
NUMBER: Any = "number"
#: Graphs that were begun at one place of the program may leave its script this often more than
#: they follow it.
PATIENCE = 2
MOST_CREDIT = 8
#: Scripts of a thread before they are forgotten.
MAX_SCRIPTS = 256


class SUM:
    """Stands for the sum of all elements, as operations do."""

    @staticmethod
    def reference(value: np.ndarray) -> Any:
        """The sum, as NumPy computes it."""
        return _add(value) if value.ndim == 1 else _add(value, None)


#: Stands for a function of which a note was taken, which is the step's ``a``.
FUNCTION: Any = "function"


class Step:
    """An operation that a script expects.

    Attributes
    ----------
    op
        The elementwise operation, ``SUM``, ``FUNCTION``, or ``None`` after the last one.
    a, b
        Its operands: the view of an array (which the tensors of a follower share), the element of a
        scalar, ``NUMBER``, or ``None``.
    code, lasti
        The place of the program.
    result
        The view, or the element, that it computes.
    next
        The step after it.
    row, results, scalars
        How many rows, results that are arrays, and scalars the piece has before it.
    """

    __slots__ = (
        "a", "b", "code", "lasti", "next", "op", "result", "results", "row", "scalars",
    )  # fmt: skip

    def __init__(self, row: int, results: int, scalars: int) -> None:
        self.row, self.results, self.scalars = row, results, scalars
        self.op = self.a = self.b = self.code = self.lasti = self.result = self.next = None


class Script:
    """The rows of a piece that reads from no other, and the plan of one of its scalars."""

    def __init__(self, piece: Piece, element: int, plan: Any) -> None:
        self.begun = piece.begun
        self.element = element
        self.plan = plan
        self.code = list(piece.code)
        self.codes = list(piece.codes)
        self.offsets = list(piece.offsets)
        self.calls = list(piece.calls)
        self.buffers = list(piece.buffers)
        self.kinds = list(piece.kinds)
        self.constant_ids = list(piece.constant_ids)
        #: Of each input: the row that it entered for; the view of an array, or the element.
        self.rows = [source.row for source in piece.sources]
        self.places = piece.places
        self.plain, self.tile_from = settings.plain_python, settings.tile_from
        self.credit = PATIENCE
        self.first = self.last = Step(0, 0, 0)

    def is_current(self) -> bool:
        """Whether its plan is what would be laid out now."""
        return self.plain is settings.plain_python and self.tile_from == settings.tile_from

    def missed(self, scripts: dict[Any, Any]) -> None:
        """A graph that began like this went on otherwise: after some of these it is forgotten."""
        self.credit -= 1
        if self.credit < 0:
            scripts[self.begun] = None

    def followed(self) -> None:
        """A graph was this one."""
        if self.credit < MOST_CREDIT:
            self.credit += 1


def write(piece: Piece, element: int, plan: Any) -> None:
    """Have pieces that begin where this one did follow its script from now on."""
    scripts = piece.home.scripts
    if piece.begun is None or piece.begun in scripts:
        return
    if len(scripts) >= MAX_SCRIPTS:
        scripts.clear()
    scripts[piece.begun] = _written(piece, element, plan)


#: What pieces have that were written in place, or shared.
_UNEXPECTED = frozenset(
    ("_copies", "_captures", "captured", "cells", "_element_writes", "_region_writes",
     "_dynamic_writes", "constants", "array_constants")
)  # fmt: skip


def _written(piece: Piece, element: int, plan: Any) -> Script | None:
    """The script of a piece; None where it has rows that scripts do not expect."""
    if piece.reads or (piece.has_more and not _UNEXPECTED.isdisjoint(vars(piece))):
        return None
    script = Script(piece, element, plan)
    writer = _Writer(script, piece.notes or {})
    row: int | None = 0
    while row is not None and row < len(script.codes):
        row = writer.add(row)
    if row is None:
        return None
    at_end = (
        writer.scalars == piece.n_scalars
        and writer.numbers == len(script.constant_ids)
        and writer.results + len(writer.inputs) == len(piece.buffers)
    )
    return script if at_end else None


class _Writer:
    """Makes the steps of a script, counting what the piece had before each."""

    def __init__(self, script: Script, notes: dict[int, Note]) -> None:
        self.script = script
        self.notes = notes
        self.scalars = self.numbers = self.results = 0
        self.inputs = [place for place in script.places if type(place) is View]
        #: The view that tensors have in each buffer.
        self.views = {view.buffer: view for view in self.inputs}

    def add(self, row: int) -> int | None:
        """The step that begins with a row; the row after it, None if there is no such step."""
        script = self.script
        step = script.last
        after = row + 1
        note = self.notes.get(row)
        if note is not None:
            after = note.after.rows
            if not self._noted(step, note):
                return None
        else:
            at = bisect.bisect_left(script.rows, row)
            entered = script.places[at : bisect.bisect_right(script.rows, row)]
            self.scalars += sum(type(place) is int for place in entered)
            word, out, a, b, _ = script.code[5 * row : 5 * row + 5]
            if word == CALL:
                if not self._call(step, script.calls[out]):
                    return None
            elif not self._scalar_row(step, _ELEMENTWISE.get(word), (a, b), out):
                return None
        step.code, step.lasti = script.codes[row], script.offsets[row]
        step.next = script.last = Step(after, self.results, self.scalars)
        return after

    def _noted(self, step: Step, note: Note) -> bool:
        """A function of which a note was taken."""
        before, after, result = note.before, note.after, note.result
        places = self.script.places
        arrays = sum(type(place) is View for place in places[: before.inputs])
        here = (self.scalars, self.results + arrays, self.numbers)
        if here != (before.scalars, before.buffers, before.numbers):
            return False
        operands = []
        for kind, place in note.operands:
            if kind is Tracer and type(place) is View:
                known = self.views.get(place.buffer)
                if known != place:
                    return False
                operands.append((kind, known))
            else:
                operands.append((kind, place))
        step.op, step.a, step.result = FUNCTION, note._replace(operands=tuple(operands)), result
        if type(result) is View:
            self.views[result.buffer] = result
        arrays = sum(type(place) is View for place in places[: after.inputs])
        self.scalars, self.numbers = after.scalars, after.numbers
        self.results = after.buffers - arrays
        return True

    def _call(self, step: Step, call: Call) -> bool:
        """Elementwise operations of whole arrays, and sums of them."""
        result = call.result
        shape = call.operands[0].shape if call.op == "sum" else result.shape
        operands = [self._operand(view, shape) for view in call.operands]
        if None in operands or len(operands) > 2:
            return False
        if call.op == "sum":
            if call.params != (tuple(range(len(shape))),) or result.offset != self.scalars:
                return False
            step.op, step.result = SUM, result.offset
        elif call.op in OPS and result.buffer != SCALAR:
            step.op, step.result = OPS[call.op], result
            self.views[result.buffer] = result
            self.results += 1
        else:
            return False
        self.scalars += CALL_SIZE
        step.a, step.b = [*operands, None][:2]
        return True

    def _operand(self, view: View, shape: tuple[int, ...]) -> Any:
        """What a step expects; None for parts of buffers."""
        if view.buffer == SCALAR:
            return None if any(view.strides) else self._scalar(view.offset)
        known = self.views.get(view.buffer)
        return known if known == view and view.shape == shape else None

    def _scalar(self, element: int) -> Any:
        ids = self.script.constant_ids
        at = bisect.bisect_left(ids, element)
        if at == len(ids) or ids[at] != element:
            return element
        if at != self.numbers or element != self.scalars:
            return None
        self.numbers += 1
        self.scalars += 1
        return NUMBER

    def _scalar_row(
        self, step: Step, op: Elementwise | None, operands: Sequence[int], out: int
    ) -> bool:
        """Operations on two scalars."""
        if op is None or op.arity != 2:
            return False
        expected = [self._scalar(element) for element in operands]
        if None in expected or out != self.scalars:
            return False
        self.scalars += 1
        step.op, step.result = op, out
        step.a, step.b = expected
        return True
