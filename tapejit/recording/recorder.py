"""The recorder: flat lists to which every traced operation appends one entry."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..array_region import ArrayRegion
from ..errors import TraceError, TracerLeakError
from ..interpreters.layout import CALL
from ..tape import (
    ALIGNMENT,
    ARRAY,
    SCALAR,
    Buffer,
    Call,
    Leaf,
    Region,
    Tape,
    View,
    line_of,
    row_major,
)

__all__ = ["ALIGNMENT", "Recorder", "activate", "active", "user_frame"]

_levels = itertools.count()
_PACKAGE = Path(__file__).resolve().parents[1]
_NUMPY = str(Path(np.__file__).parent)
#: Parts of the package whose frames are user code as far as messages are concerned.
_USER_PARTS = (str(_PACKAGE / "demo"),)
_internal: dict[Any, bool] = {}


def _is_internal(filename: str) -> bool:
    known = _internal.get(filename)
    if known is None:
        inside = filename.startswith((str(_PACKAGE), _NUMPY)) or "optree" in filename
        known = inside and not filename.startswith(_USER_PARTS)
        _internal[filename] = known
    return known


def user_frame(depth: int = 1) -> Any:
    """The nearest frame of the user's code: outside of this package and of NumPy."""
    frame = sys._getframe(depth)
    while True:
        filename = frame.f_code.co_filename
        internal = _internal.get(filename)
        if internal is None:
            internal = _is_internal(filename)
        outer = frame.f_back
        if not internal or outer is None:
            return frame
        frame = outer


def where_am_i() -> str:
    """``file:line`` of the user's code, for messages."""
    frame = user_frame(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


_active = threading.local()
#: Recordings under way in all threads: a cheap first look for calls that are not recorded.
_n_recording = 0
_count_lock = threading.Lock()
_collects = True


def active() -> Recorder | None:
    """The innermost recording of this thread, if one is under way."""
    stack = getattr(_active, "stack", None)
    return stack[-1] if stack else None


def enclosing() -> list[Recorder]:
    """The recordings of this thread, outermost first."""
    return [rec for rec in getattr(_active, "stack", ()) if rec is not None]


def innermost(rec: Recorder) -> Recorder:
    """The innermost recording under way, if it is further in than ``rec``; else ``rec``."""
    inner = active()
    return inner if inner is not None and inner.level > rec.level >= 0 else rec


def sampling() -> bool:
    """Whether this thread records a rule at sample values, at which staged loops don't run."""
    return getattr(_active, "sampling", 0) > 0


@contextlib.contextmanager
def at_samples() -> Iterator[None]:
    """Record at sample values, of which only shapes count."""
    _active.sampling = getattr(_active, "sampling", 0) + 1
    try:
        yield
    finally:
        _active.sampling -= 1


def in_recording() -> bool:
    """Whether a recording is under way in this thread."""
    return _n_recording > 0 and active() is not None


@contextlib.contextmanager
def activate(rec: Recorder) -> Iterator[None]:
    """Make ``rec`` this thread's innermost recording."""
    stack = _active.__dict__.setdefault("stack", [])
    _count(1)
    around = enclosing()
    for outer in around:
        outer.inside += 1
    stack.append(rec)
    try:
        yield
    finally:
        stack.pop()
        for outer in around:
            outer.inside -= 1
        _count(-1)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Run plain Python on plain values while a recording is under way: nothing is recorded."""
    stack = _active.__dict__.setdefault("stack", [])
    stack.append(None)
    try:
        yield
    finally:
        stack.pop()


def _count(change: int) -> None:
    """Count recordings; the cyclic garbage collector pauses while any is under way.

    A recording makes many small objects that all live on: collections would visit them again and
    again, and find nothing.
    """
    global _n_recording, _collects
    with _count_lock:
        if _n_recording == 0:
            _collects = gc.isenabled()
            gc.disable()
        _n_recording += change
        if _n_recording == 0 and _collects:
            gc.enable()


class Home:
    """The thread of a recording; ``ident`` is 0 while it pauses."""

    __slots__ = ("ident", "thread")

    def __init__(self, thread: int) -> None:
        self.ident = self.thread = thread


class Recorder(ArrayRegion):
    """Collects one tape.

    Scalars and array elements are numbered in two regions; an array buffer is a padded stretch of
    the array region.  ``writes`` counts in-place writes: a scalar read before a write to the
    element it names is found again in the write's save slot (see :meth:`resolve`).
    """

    #: The classes of its traced values.
    scalar_type: type
    array_type: type
    #: How many recordings are under way inside of this one.
    inside = 0

    def __init__(self, name: str = "<function>", body: str = "") -> None:
        super().__init__()
        self.name = name
        #: What this is the body of, for messages: it is recorded once for all steps.
        self.body = body
        self.level = next(_levels)
        self.thread = threading.get_ident()
        self.home = Home(self.thread)
        self.limit = ARRAY  # of scalars
        self.closed = False
        self.code: list[int] = []
        self.codes: list[Any] = []
        self.offsets: list[int] = []
        self.calls: list[Call] = []
        self.regions: list[Region] = []
        self.n_scalars = 0
        self.constants: dict[Any, int] = {}
        self.constant_values: list[float] = []
        self.array_constants: list[np.ndarray] = []
        self._array_numbers: dict[tuple, list[tuple[np.ndarray, int]]] = {}
        self._kept: list[np.ndarray] = []
        self.inputs: list[Leaf] = []
        self.n_guards = 0
        self.on_guard: Callable[[], None] | None = None
        self.captured: list[Any] = []
        #: How many in-place writes each captured value's recording had seen.
        self.versions: list[int] = []
        self._captures: dict[tuple[int, int], Any] = {}
        self._kept_captures: list[Any] = []  # whose identities are keys
        self.writes = 0
        #: For each enclosing recording how many buffers it had; its arrays that were written into.
        self.known_buffers = {outer: len(outer.buffers) for outer in enclosing()}
        self.outer_cells: list[Any] = []
        self._element_writes: dict[int, list[tuple[int, int]]] = {}
        self._region_writes: list[tuple[int, View, View]] = []
        self._dynamic_writes: list[tuple[int, View, View, View]] = []

    # --- entries --------------------------------------------------------------------------------

    def emit(self, op: int, out: int, a: int = 0, b: int = 0, c: int = 0) -> None:
        """Append an instruction; its place is the user's line."""
        self.code.extend((op, out, a, b, c))
        frame = user_frame(2)
        self.codes.append(frame.f_code)
        self.offsets.append(frame.f_lasti)

    def call(self, op: str, operands: tuple, result: View, params: tuple = ()) -> None:
        """Append an array instruction."""
        self.code.extend((CALL, len(self.calls), 0, 0, 0))
        frame = user_frame(2)
        self.codes.append(frame.f_code)
        self.offsets.append(frame.f_lasti)
        self.calls.append(Call(op, tuple(operands), result, params))

    @property
    def n_rows(self) -> int:
        """Instructions so far."""
        return len(self.code) // 5

    def scalar(self) -> int:
        """A new element of the scalar region."""
        return self.scalars(1)

    def scalars(self, n: int) -> int:
        """The first of ``n`` new elements of the scalar region."""
        first = self.n_scalars
        if first + n > ARRAY:
            raise TraceError(
                f"{where_am_i()}: the recording has more than 2**30 scalars; put the loop's body "
                "into array operations or a staged loop"
            )
        self.n_scalars = first + n
        return first

    def count_guard(self) -> None:
        """Note that a guard was recorded."""
        self.n_guards += 1
        if self.on_guard is not None:
            self.on_guard()

    def constant(self, value: float) -> int:
        """The scalar that holds a constant."""
        value = float(value)
        key = value if value != 0.0 and value == value else repr(value)
        number = self.constants.get(key)
        if number is None:
            number = self.constants[key] = self.scalar()
            self.constant_values.append(value)
        return number

    def whereabouts(self) -> str:
        """What messages name."""
        return where_am_i()

    def array_constant(self, array: np.ndarray) -> View:
        """A captured array, copied; the same array captured again is found again."""
        # Views of one array are new objects each time: memory and layout tell what they show.
        address = array.__array_interface__["data"][0]
        key = (address, array.shape, array.strides, array.dtype)
        known = self._array_numbers.setdefault(key, [])
        for copy, number in known:
            if _same_bits(copy, array):
                return View(number, 0, copy.shape, row_major(copy.shape))
        copy = np.array(array, np.float64, order="C")
        copy.flags.writeable = False
        number = len(self.buffers)
        self.buffers.append(Buffer(-1, copy.size, constant=len(self.array_constants)))
        self.array_constants.append(copy)
        known.append((copy, number))
        self._kept.append(array)  # its memory stays its own until the recording ends
        return View(number, 0, copy.shape, row_major(copy.shape))

    def capture(self, tracer: Any) -> Any:
        """A traced value of an enclosing recording, as an input of this one.

        The bodies of staged loops on tensors capture tensors, too: the outermost of them, whose
        loop becomes an instruction of the tensors' graph.
        """
        key = (id(tracer), tracer.rec.writes)
        known = self._captures.get(key)
        if known is None:
            is_tensor = tracer.rec.level < 0
            if is_tensor:
                outermost = enclosing()[0]
                if not outermost.body:
                    raise TraceError(
                        f"{where_am_i()}: a tensor is used inside of the recorded function "
                        f"`{self.name}`; pass its values as an argument (x.detach().numpy()), or "
                        "call the function on tensors without jit or grad"
                    )
                if outermost is not self:
                    return self.capture(outermost.capture(tracer))
            if tracer.rec.level > self.level:
                raise TracerLeakError(
                    f"{where_am_i()}: a traced value of the inner function `{tracer.rec.name}` is "
                    f"used in `{self.name}`; return it from the inner function instead"
                )
            from .record import make_input
            from .tracer import pinned

            if not is_tensor:
                tracer.rec.check_use()
            known = make_input(self, tracer.value, len(self.inputs))
            self.captured.append(tracer if is_tensor else pinned(tracer))
            self._kept_captures.append(tracer)
            self.versions.append(tracer.rec.writes)
            self._captures[key] = known
        return known

    # --- in-place writes ------------------------------------------------------------------------

    def note_element_write(self, element: int, save: int) -> None:
        """An element was overwritten; its former value stands in ``save``."""
        self.writes += 1
        self._element_writes.setdefault(element, []).append((self.writes, save))

    def note_region_write(self, region: View, save: View) -> None:
        """A region was overwritten; its former values stand in ``save``."""
        self.writes += 1
        self._region_writes.append((self.writes, region, save))

    def note_indexed_write(self, buffer: View, positions: np.ndarray, save: View) -> None:
        """Elements at constant positions of a buffer were overwritten."""
        self.writes += 1
        base = ARRAY + self.buffers[buffer.buffer].base
        saved = ARRAY + self.buffers[save.buffer].base
        for number, position in enumerate(positions.ravel().tolist()):
            entries = self._element_writes.setdefault(base + position, [])
            entries.append((self.writes, saved + number))

    def note_dynamic_write(self, buffer: View, index: View, save: View) -> None:
        """Elements at traced positions of a buffer were overwritten.

        Scalars read before are found again when they are used: by comparing positions.
        """
        self.writes += 1
        self._dynamic_writes.append((self.writes, buffer, index, save))

    def _after_dynamic_write(self, element: int, entry: tuple) -> int:
        """The value of ``element`` before a dynamic write: saved if it was hit, else there."""
        from ..ops.table import OPS

        when, buffer, index, save = entry
        position = element - ARRAY - self.buffers[buffer.buffer].base
        current = self.resolve(element, when)
        for at in np.ndindex(index.shape):
            test, chosen = self.scalar(), self.scalar()
            self.emit(
                OPS["equal"].code, test, self.element(_item(index, at)), self.constant(position)
            )
            self.emit(OPS["where"].code, chosen, test, self.element(_item(save, at)), current)
            current = chosen
        return current

    def written_since(self, view: View, version: int) -> bool:
        """Whether anything in the buffer of a view was overwritten after ``version`` writes."""
        if view.buffer == SCALAR or self.writes == version:
            return False
        regions = [*self._region_writes, *(entry[:2] for entry in self._dynamic_writes)]
        if any(when > version and region.buffer == view.buffer for when, region, *_ in regions):
            return True
        buffer = self.buffers[view.buffer]
        first = ARRAY + buffer.base
        return any(
            first <= element < first + buffer.size and writes[-1][0] > version
            for element, writes in self._element_writes.items()
        )

    def resolve(self, element: int, version: int) -> int:
        """Where the value now stands that ``element`` had after ``version`` writes."""
        first = self._first_write(element, version)
        buffer = None
        for entry in self._dynamic_writes:
            if entry[0] <= version or (first is not None and entry[0] > first[0]):
                continue
            buffer = self.place_of(element).buffer if buffer is None else buffer
            if entry[1].buffer == buffer:
                return self._after_dynamic_write(element, entry)
        return element if first is None else first[1]

    def _first_write(self, element: int, version: int) -> tuple[int, int] | None:
        """The first write to an element after ``version``, and where its former value stands."""
        first = None
        for when, save in self._element_writes.get(element, ()):
            if when > version:
                first = (when, save)
                break
        for when, region, save in reversed(self._region_writes):
            if when <= version:
                break
            if first is None or when < first[0]:
                index = self._position(element, region)
                if index is not None:
                    first = (when, self.element(_item(save, index)))
        return first

    def _position(self, element: int, region: View) -> tuple[int, ...] | None:
        """Index of an element in a region, or None."""
        offset = element - ARRAY - self.buffers[region.buffer].base - region.offset
        dims = sorted(range(len(region.shape)), key=lambda d: -abs(region.strides[d]))
        shift = sum(min(0, (n - 1) * s) for n, s in zip(region.shape, region.strides, strict=True))
        offset -= shift
        index = [0] * len(region.shape)
        for d in dims:
            n, stride = region.shape[d], region.strides[d]
            if n > 1:
                q = min(offset // abs(stride), n - 1)
                if q < 0:
                    return None
                offset -= q * abs(stride)
                index[d] = q if stride > 0 else n - 1 - q
        return tuple(index) if offset == 0 else None

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more entries."""
        self.closed = True
        self.limit = 0

    def check_use(self) -> None:
        """Raise unless a tracer of this recording may be used here and now."""
        if self.closed and self.body:
            raise TracerLeakError(
                f"{where_am_i()}: a traced value of {self.body} (`{self.name}`) is used after it "
                "was recorded. A body is recorded once for all steps: what it does to Python "
                "objects (appending to a list, setting an attribute) happens once, then. Return "
                "the value: in the carry, or among the results of the steps"
            )
        if self.closed:
            raise TracerLeakError(
                f"{where_am_i()}: a traced value of `{self.name}` is used after its recording "
                "ended; return it from the function instead of keeping it in a variable outside"
            )
        if self.thread != threading.get_ident():
            raise TracerLeakError(
                f"{where_am_i()}: a traced value of `{self.name}` is used in another thread than "
                "the one that records; call the compiled function from each thread instead"
            )

    def tape(self, outputs: list[Leaf]) -> Tape:
        """The finished tape."""
        code = np.array(self.code, np.int32).reshape(-1, 5)
        ids = np.fromiter(self.constants.values(), np.int64, len(self.constants))
        for array in (code, ids):
            array.flags.writeable = False
        return Tape(
            code=code,
            calls=tuple(self.calls),
            buffers=tuple(self.buffers),
            n_scalars=self.n_scalars,
            n_array_elements=self.n_elements,
            scalar_constants=(ids, np.array(self.constant_values, np.float64)),
            array_constants=tuple(self.array_constants),
            inputs=tuple(self.inputs),
            outputs=tuple(outputs),
            locations=(self.codes, self.offsets),
            regions=tuple(self.regions),
            name=self.name,
        )

    def place(self, index: int) -> str:
        """``file:line`` at which instruction ``index`` was recorded."""
        code = self.codes[index]
        return f"{code.co_filename}:{line_of(code, self.offsets[index])}"


def _item(view: View, index: tuple[int, ...]) -> View:
    offset = view.offset + sum(i * s for i, s in zip(index, view.strides, strict=True))
    return View(view.buffer, offset, (), ())


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a float64 copy still equals the array that it was made of."""
    if b.dtype == np.float64 and b.size <= 4096:
        return a.tobytes() == b.tobytes()  # several times faster than array_equal when short
    return bool(np.array_equal(a, b, equal_nan=b.dtype.kind == "f"))
