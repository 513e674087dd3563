"""Scripts: the rows of a graph that was differentiated before, followed as they are recorded again.

A loop that repeats the same operations records the same rows in every iteration.  The first short
graph of its kind is written down as a :class:`Script`; a piece that begins at the same place of the
program is a :class:`Follower`: as long as each operation is the one that the script expects, of the
same operands, at the same place of the program, it appends nothing.  What follows a script to its
end has the script's plan, found without a key.  Where an operation is another, or somebody asks
for rows, the follower becomes the piece that it stands for, and nobody can tell.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import settings
from ..interpreters.layout import CALL
from ..ops.table import OPS, Elementwise
from ..recording.recorder import ALIGNMENT
from ..tape import SCALAR, Call, View
from .grad_mode import State
from .memory import memory_of
from .pieces import CALL_SIZE, LEAF, NOWHERE, Piece, Source, next_number

__all__ = ["NUMBER", "SUM", "Follower", "Script", "follow", "write"]

_dtype = np.dtype(np.float64)
_ELEMENTWISE: dict[int, Elementwise] = {op.code: op for op in OPS.values()}

_float64 = np.float64
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


class Step:
    """An operation that a script expects.

    Attributes
    ----------
    op
        The elementwise operation, ``SUM``, or ``None`` after the last one.
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


def _written(piece: Piece, element: int, plan: Any) -> Script | None:
    """The script of a piece; None where it has rows that scripts do not expect."""
    if piece.has_more or piece.reads:
        return None
    script = Script(piece, element, plan)
    writer = _Writer(script)
    if not all(writer.add(row) for row in range(len(script.codes))):
        return None
    at_end = (
        writer.scalars == piece.n_scalars
        and writer.numbers == len(script.constant_ids)
        and writer.results + len(writer.inputs) == len(piece.buffers)
    )
    return script if at_end else None


class _Writer:
    """Makes the steps of a script, counting what the piece had before each."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.scalars = self.numbers = self.results = 0
        self.inputs = [place for place in script.places if type(place) is View]
        #: The view that tensors have in each buffer.
        self.views = {view.buffer: view for view in self.inputs}

    def add(self, row: int) -> bool:
        """The step of a row; whether there is one."""
        script = self.script
        step = script.last
        at = bisect.bisect_left(script.rows, row)
        entered = script.places[at : bisect.bisect_right(script.rows, row)]
        self.scalars += sum(type(place) is int for place in entered)
        word, out, a, b, _ = script.code[5 * row : 5 * row + 5]
        if word == CALL:
            if not self._call(step, script.calls[out]):
                return False
        elif not self._scalar_row(step, _ELEMENTWISE.get(word), (a, b), out):
            return False
        step.code, step.lasti = script.codes[row], script.offsets[row]
        step.next = script.last = Step(row + 1, self.results, self.scalars)
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


class Follower(Piece):
    """A piece that follows a script: it knows its inputs and the next step, and has no rows.

    It takes no rows by the ways of other pieces (its ``limit`` is 0).  Whoever asks for what it
    does not have, rows above all, has it :meth:`leave` its script.
    """

    limit = 0
    n_scalars = 0
    script: Script
    next: Step
    #: Of each input so far: its value; the leaf, its counter and the count when it entered.
    entered: list[tuple[Any, Any, Any, int]]
    constant_values: list[float]

    @property
    def is_open(self) -> bool:
        """Whether it takes more rows."""
        return not self.spent and self.left().is_open

    def check_use(self) -> None:
        """Raise where a tensor of this piece is used in another thread."""
        self.left().check_use()

    def place(self, x: Any) -> Any:
        """What a script expects of an operand: see :class:`Step`; None for what it cannot."""
        at = self._known.get(id(x))
        if at is not None:
            value, leaf, memory, version = self.entered[at]
            if leaf is x and (value is x.value if memory is None else memory.version == version):
                return self.script.places[at]
        kind = type(x)
        if kind is self.array_type:
            cell, value = x.cell, x.value
            if value is not cell.storage or value.dtype is not _dtype:
                return None
            rec, memory = cell.rec, cell.memory
            if memory is None:
                memory = memory_of(cell)
            if rec is LEAF:
                return self._enter("leaf", value.shape, id(x), (value, x, memory, memory.version))
            if rec is not NOWHERE:
                return None
            at = self._known.get(id(value))
            if at is not None:
                unchanged = self.entered[at][3] == memory.version
                return self.script.places[at] if unchanged else None
            entry = (value, None, memory, memory.version)
            return self._enter("data", value.shape, id(value), entry)
        if kind is float or kind is int or kind is _float64:
            return NUMBER
        if kind is not self.scalar_type:
            return None
        if x.rec is self:
            return x.element
        return self._enter("leaf", None, id(x), (x.value, x, None, 0)) if x.rec is LEAF else None

    def _enter(self, kind: str, shape: Any, key: int, entry: tuple) -> Any:
        """An input, if the script expects it here."""
        script, at = self.script, len(self.entered)
        if at == len(script.places) or script.rows[at] != self.next.row:
            return None
        expected = script.kinds[at]
        if expected[0] != kind or expected[2] != shape:
            return None
        self.entered.append(entry)
        self._known[key] = at
        return script.places[at]

    def values(self) -> list[Any] | None:
        """The values of the inputs; None where one was changed since it entered."""
        values = []
        for value, leaf, memory, version in self.entered:
            if memory.version != version if memory is not None else leaf.value is not value:
                return None
            values.append(value)
        return values

    def use_up(self) -> None:
        """The graph was freed: nothing is held, and nothing follows."""
        self.script.followed()
        self.spent = True
        self.next = _END
        self.entered = self.constant_values = _NONE

    def left(self) -> Piece:
        """The piece that it stands for."""
        self.leave()
        return self

    def leave(self) -> None:
        """Become the piece that it stands for, with the rows so far."""
        script, step, entered = self.script, self.next, self.entered
        self.__class__ = Piece  # type: ignore[assignment]
        self.number = next_number()
        self.begun = script.begun
        del self.script, self.next, self.entered
        if self.spent:
            self.buffers: list = []
            self.release()
            return
        script.missed(self.home.scripts)
        n, row = len(entered), step.row
        self.code = script.code[: 5 * row]
        self.codes = script.codes[:row]
        self.offsets = script.offsets[:row]
        self.calls = script.calls[: sum(word == CALL for word in self.code[::5])]
        self.kinds = script.kinds[:n]
        self.sources = [Source("data", 0) for _ in entered]
        for k, source in enumerate(self.sources):
            source.kind, source.row = script.kinds[k][0], script.rows[k]
            source.value, source.leaf, source.memory, source.version = entered[k]
            if source.kind == "data":
                self._hold(source.value.nbytes)
        places = script.places[:n]
        late = places[bisect.bisect_left(script.rows, row) :]
        self.n_scalars = step.scalars + sum(type(place) is int for place in late)
        if self.constant_values:
            self.constant_ids = script.constant_ids[: len(self.constant_values)]
        self.buffers = script.buffers[: step.results + sum(type(p) is View for p in places)]
        if self.buffers:
            base, size = self.buffers[-1][:2]
            self.n_elements = base + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _of_the_piece(name: str) -> property:
    """An attribute that a follower does not have: the piece that it stands for has."""
    return property(lambda self: getattr(self.left(), name))


for _name in (
    "code", "codes", "offsets", "calls", "buffers", "sources", "kinds", "number",
    "n_elements", "bytes_held", "constant_ids",
):  # fmt: skip
    setattr(Follower, _name, _of_the_piece(_name))


def follow(state: State, script: Script) -> Follower:
    """A piece that follows a script from its first row."""
    piece = _new(Follower)
    piece.home = state
    piece.script = script
    piece.next = script.first
    piece.entered = []
    piece.constant_values = []
    piece._known = {}
    return piece


_new = Follower.__new__
#: What follows when nothing does.
_END = Step(0, 0, 0)
_NONE: Any = ()
