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
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import numpy as np

from ..config import settings
from ..interpreters.layout import CALL
from ..ops.table import OPS, Elementwise
from ..recording.recorder import ALIGNMENT, user_frame
from ..recording.tracer import Tracer
from ..tape import SCALAR, Call, View
from .grad_mode import State
from .memory import memory_of
from .notes import Note, Unknown, keywords, static
from .pieces import CALL_SIZE, LEAF, NOWHERE, Piece, Source, next_number

__all__ = ["FUNCTION", "NUMBER", "SUM", "Follower", "Script", "begin", "first_piece", "write"]

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

    def called(self, theirs: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result of a function if it is the one that the script expects.

        None, and this is the piece that it stands for, if it is not.
        """
        step = self.next
        if step.op is FUNCTION and self.home.ident == get_ident():
            note = step.a
            frame = user_frame(2)
            if (
                note.theirs is theirs and step.code is frame.f_code
                and step.lasti == frame.f_lasti and len(args) == len(note.operands)
            ):  # fmt: skip
                arrays: list[np.ndarray] = []
                given = self._given(note, args, kwargs, arrays)
                if given is not None:
                    return self._computed(step, theirs(*given, **kwargs), arrays)
        self.leave()
        return None

    def _given(
        self, note: Note, args: tuple, kwargs: dict[str, Any], arrays: list[np.ndarray]
    ) -> list[Any] | None:
        """Plain operands, if they are the expected ones; copies of arrays go to ``arrays``."""
        given: list[Any] = []
        try:
            for arg, (kind, expected) in zip(args, note.operands, strict=True):
                if kind is Tracer:
                    if not isinstance(arg, Tracer):
                        return None
                    is_own = type(arg) is self.array_type and arg._piece is self
                    place = arg._place if is_own else self.place(arg)
                    if place is not expected and place != expected:
                        return None
                    given.append(arg.value)
                elif kind is np.ndarray:
                    if (
                        type(arg) is not kind
                        or arg.shape != expected
                        or arg.dtype.kind not in "fiu"
                    ):
                        return None
                    arrays.append(np.array(arg, np.float64, order="C"))
                    given.append(arrays[-1])
                elif static(arg) != expected:
                    return None
                else:
                    given.append(arg)
            if (kwargs or note.kwargs) and keywords(kwargs) != note.kwargs:
                return None
        except Unknown:
            return None
        return given

    def _computed(self, step: Step, value: Any, arrays: list[np.ndarray]) -> Any:
        """The result of a function, whose value is known."""
        place = step.result
        if type(place) is View:
            if type(value) is not np.ndarray or value.shape != place.shape:
                self.leave()
                return None
            if value.base is not None or not value.flags.c_contiguous:
                value = np.array(value, order="C")
        self.entered += [(array, None, None, 0) for array in arrays]
        self.constant_values += step.a.numbers
        return self.computed(step, value)

    def computed(self, step: Step, value: Any) -> Any:
        """The result of a step."""
        self.next = step.next
        place = step.result
        if type(place) is int:
            result = _new(self.scalar_type)
            result.rec, result.value, result.element, result.version = self, value, place, 0
            return result
        result = _new(self.array_type)
        result.value = value
        result._piece = self
        result._cell = None
        result._place = place
        return result

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
            if memory is not None:
                if memory.version != version:
                    return None
            elif leaf is not None and leaf.value is not value:
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


def begin(state: State, frame: Any) -> Piece:
    """The piece of the first operation on leaves: it follows the script that begins there."""
    begun = (id(frame.f_code), frame.f_lasti)  # not the hash of the code, which takes long
    script = state.scripts.get(begun)
    if script is not None and script.is_current():
        piece: Piece = follow(state, script)
    else:
        piece = Piece(state)
        piece.begun = begun
    state.root = weakref.ref(piece)
    return piece


def first_piece(state: State, tensors: Sequence[Any]) -> Piece | None:
    """The follower that one of these tensors is of; of leaves, the piece that takes them."""
    for tensor in tensors:
        piece = tensor.rec
        if piece.level == -1:
            return piece if type(piece) is Follower else None
    root = state.root()
    if root is None or root.spent or (type(root) is Piece and not root.is_open):
        return begin(state, user_frame(3))
    return root


_new = object.__new__
#: What follows when nothing does.
_END = Step(0, 0, 0)
_NONE: Any = ()
