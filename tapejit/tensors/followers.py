"""Followers: pieces that record a known graph again, and need no rows for it.

A piece that begins where a :class:`~tapejit.tensors.scripts.Script` does is a :class:`Follower`: as
long as each operation is the one that the script expects, of the same operands, at the same place
of the program, it appends nothing.  What follows a script to its end has the script's plan, found
without a key.  Where an operation is another, or somebody asks for rows, the follower becomes the
piece that it stands for, and nobody can tell.
"""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import numpy as np

from ..interpreters.layout import CALL
from ..recording.recorder import ALIGNMENT, user_frame
from ..recording.tracer import Tracer
from ..tape import View
from .grad_mode import State
from .memory import memory_of
from .notes import Note, Unknown, keywords, static
from .pieces import LEAF, NOWHERE, Piece, Source, next_number
from .scripts import FUNCTION, NUMBER, Script, Step

__all__ = ["Follower", "begin", "first_piece", "follower_among"]

_dtype = np.dtype(np.float64)
_float64 = np.float64
_new = object.__new__
_NONE: Any = ()
#: What follows when nothing does.
_END = Step(0, 0, 0)


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
        super().check_use()
        self.leave()

    def place(self, x: Any) -> Any:
        """What a script expects of an operand: see :class:`Step`; None for what it cannot."""
        at = self._known.get(id(x))
        if at is not None:
            value, leaf, memory, version = self.entered[at]
            unchanged = value is x.value if memory is None else memory.version == version
            if leaf is x and unchanged and x.rec is LEAF:
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
        if self.home.ident != get_ident():  # nothing is recorded, or another thread's
            return None
        step = self.next
        if step.op is FUNCTION:
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
        """Plain operands, if they are the expected ones; ``arrays`` gets copies, which enter."""
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
                    given.append(arg)  # as it is: functions take integers for indices
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
        if type(place) is int:
            expected = type(value) is _float64
        else:  # floats of less digits, as ``astype`` gives them, are recorded as float64
            expected = type(value) is np.ndarray and value.shape == place.shape
            expected = expected and value.dtype == _dtype
        if not expected:
            self.leave()
            return None
        if type(place) is View and (value.base is not None or not value.flags.c_contiguous):
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


def follower_among(values: Sequence[Any]) -> Follower | None:
    """The follower that one of these values is of."""
    for value in values:
        kind = type(value)
        if kind is Piece.array_type:
            piece = value._piece
        elif kind is Piece.scalar_type:
            piece = value.rec
        else:
            continue
        if type(piece) is Follower:
            return piece
    return None


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
