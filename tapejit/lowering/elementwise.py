"""Lowering of elementwise array operations: singly on short arrays, in tiled chains on long ones.

In a chain, intermediates that only the chain uses live in tile registers and are computed again,
tile by tile, in the reverse sweep; only costly ones (transcendentals) are stored.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from ..interpreters.generate import pull_words, pulls
from ..interpreters.layout import ADD, ASSIGN, CONSTANTS, SCRATCH, SKIP, TILE, VALUES
from ..ops.table import OPS, Elementwise
from ..tape import SCALAR, Call
from .frame import Frame, padded, tangent
from .stream import Place, Registers, Stream, moving

OPERANDS = "xyz"
_NOTHING = (0, 0)


@functools.cache
def reads(name: str, active: tuple[bool, ...]) -> frozenset[str]:
    """Which of ``x y z f`` are read to serve the active operands of an operation."""
    used = [pull.uses for pull, is_on in zip(pulls(OPS[name]), active, strict=True) if is_on]
    return frozenset().union(*used) - {"g"}


@functools.cache
def differentiable(name: str) -> tuple[bool, ...]:
    """Which operands of an operation receive cotangents."""
    return tuple(pull is not None for pull in pulls(OPS[name]))


@dataclass
class Group:
    """Elementwise calls over one iteration space, perhaps with full sums of their results."""

    frame: Frame
    calls: list[Call]
    shape: tuple[int, ...]
    n: int
    tiled: bool
    elided: set[int] = field(default_factory=set)  # buffers that live in registers only

    def __post_init__(self) -> None:
        self.width = min(padded(self.n), TILE) if self.tiled else padded(self.n)


class _Writer:
    """Emits a group's instructions; keeps track of registers."""

    def __init__(self, group: Group, stream: Stream) -> None:
        self.group = group
        self.frame = group.frame
        self.before = stream
        self.body = Stream() if group.tiled else stream
        self.registers: Registers = self.frame.arena.registers
        self.registers.reset()
        self.held: dict[int, int] = {}  # elided buffer -> register of its value
        self.hoisted: dict[Place, int] = {}  # filled once, before the chain
        self.loaded: list[int] = []
        self.direction = 0  # in which the tiles must run: 1, -1, or 0 for either

    def finish(self) -> None:
        """Close the chain."""
        if self.group.tiled:
            words = self.body.words().tolist()
            if words:
                head = (self.group.n, 3 + len(words), self.direction or 1)
                self.before.call("chain", (*head, *words))

    def count(self, *places: Place | None) -> int:
        """Elements of an instruction: whole vectors where every place has room for them."""
        n = self.group.n
        if n % 8 == 0:
            return n
        for place in places:
            if place is not None and not self.roomy(place):
                return n
        return padded(n)

    def roomy(self, place: Place) -> bool:
        """Values in the arena have room beyond their end: whole vectors can be read and written."""
        if place.space == VALUES:
            return not self.frame.arena.is_exact(place.offset)
        return place.space == CONSTANTS

    def value(self, view, keep: bool = False) -> tuple[int, int]:
        """Operand words of a value of the iteration shape."""
        register = self.held.get(view.buffer) if view.buffer != SCALAR else None
        if register is not None and self.is_whole(view):
            return (SCRATCH, register * TILE)
        return self.operand(self.frame.place(view))

    def is_whole(self, view) -> bool:
        """Whether a view is all of its buffer in order."""
        place = Place(0, 0, view.shape, view.strides)
        return (
            view.buffer != SCALAR
            and place.contiguous
            and view.offset == 0
            and self.frame.tape.buffers[view.buffer].size == view.size
        )

    def operand(self, place: Place) -> tuple[int, int]:
        """Operand words of a place, loaded into a register where it isn't contiguous."""
        n = self.group.n
        if place.contiguous and place.size == n:
            return (moving(place.space), place.offset)
        if place.uniform:
            value = self.frame.constant_value(place)
            if value is not None:
                return (CONSTANTS, self.frame.arena.constant_tile(value, self.group.width))
            return (SCRATCH, self.hoist(place) * TILE)
        register = self.load(place)
        self.loaded.append(register)
        return (SCRATCH, register * TILE)

    def load(self, place: Place) -> int:
        """A register with the tile of a strided place."""
        register = self.registers.take()
        self.body.tiled("nd_copy", register, place, self.group.shape)
        return register

    def hoist(self, place: Place) -> int:
        """A register full of a runtime scalar, filled before the chain starts."""
        key = place._replace(shape=(), strides=())
        register = self.hoisted.get(key)
        if register is None:
            register = self.hoisted[key] = self.registers.take_fixed()
            words = (self.group.width, SCRATCH, register * TILE, place.space, place.offset)
            self.before.call("fill", words)
        return register

    def release(self) -> None:
        """Give back registers that only the last instruction used."""
        for register in self.loaded:
            self.registers.give(register)
        self.loaded = []

    def forward(self, call: Call) -> None:
        """One elementwise operation."""
        operands = [self.value(view) for view in call.operands]
        places = [
            None if words[0] in (SCRATCH, CONSTANTS) else self.frame.place(view)
            for words, view in zip(operands, call.operands, strict=True)
        ]
        if call.result.buffer in self.group.elided:
            register = self.held[call.result.buffer] = self.registers.take()
            out = (SCRATCH, register * TILE)
            count = self.count(*places)
        else:
            place = self.frame.place(call.result)
            out = (moving(place.space), place.offset)
            count = self.count(place, *places)
        words = [count, *out]
        for operand in operands:
            words += operand
        self.body.call(f"{call.op}_forward", words)
        self.release()


def _last_uses(calls: list[Call]) -> dict[int, int]:
    """For each buffer the position of the last call that reads it."""
    last: dict[int, int] = {}
    for i, call in enumerate(calls):
        for view in call.operands:
            last[view.buffer] = i
    return last


def lower_forward(group: Group, stream: Stream) -> None:
    """Values of a group."""
    if group.n == 0:
        _empty_sums(group, stream)
        return
    writer = _Writer(group, stream)
    last = _last_uses(group.calls)
    for i, call in enumerate(group.calls):
        if call.op == "sum":
            _forward_sum(writer, call)
        else:
            writer.forward(call)
        for view in call.operands:
            if view.buffer in writer.held and last[view.buffer] == i:
                writer.registers.give(writer.held.pop(view.buffer))
    writer.finish()


def _empty_sums(group: Group, stream: Stream) -> None:
    for call in group.calls:
        if call.op == "sum":
            stream.copy(group.frame.place(call.result), zero(group.frame, ()))


def zero(frame: Frame, shape: tuple[int, ...]) -> Place:
    """A constant zero, stretched."""
    offset = frame.arena.constant_tile(0.0, 8)
    return Place(CONSTANTS, offset, shape, (0,) * len(shape))


def _forward_sum(writer: _Writer, call: Call) -> None:
    """A full sum: tile by tile into its scalar."""
    frame = writer.frame
    out = frame.place(call.result)
    writer.before.copy(out, zero(frame, ()))
    source = writer.value(call.operands[0])
    words = (writer.group.n, out.space, out.offset, *source)
    writer.body.call("total", words)
    writer.release()


# --- tangents -------------------------------------------------------------------------------------


def lower_tangent(call: Call, frame: Frame, stream: Stream, varies: list[bool], n: int,
                  shape: tuple[int, ...], tiled: bool) -> None:  # fmt: skip
    """Tangent of one elementwise operation, its value being there already."""
    group = Group(frame, [call], shape, n, tiled)
    out = tangent(frame.place(call.result))
    active = [v and d for v, d in zip(varies, differentiable(call.op), strict=True)]
    if n == 0:
        return
    if not any(active):
        stream.copy(out, zero(frame, shape)._replace(strides=(0,) * len(shape)))
        return
    writer = _Writer(group, stream)
    fields: dict[str, tuple[int, int]] = {"g": (moving(out.space), out.offset)}
    places = []
    for name, view in _named(call):
        if name in reads(call.op, tuple(active)):
            fields[name] = writer.value(view)
            places.append(frame.place(view))
    modes: dict[str, tuple[int, int, int]] = {}
    for name, view, is_active in zip(OPERANDS, call.operands, active, strict=False):
        if is_active:
            source = tangent(frame.place(view))
            modes["d" + name] = (*writer.operand(source), ADD if modes else ASSIGN)
    _emit_pull(writer.body, OPS[call.op], "tangent", n, fields, modes)
    writer.finish()


def _named(call: Call) -> list:
    return [("f", call.result), *zip(OPERANDS, call.operands, strict=False)]


def _emit_pull(
    stream: Stream, op: Elementwise, kind: str, count: int, fields: dict, modes: dict
) -> None:
    """An instruction of a reverse or tangent kernel."""
    layout = pull_words(op)
    words = [0] * (5 + 5 * op.arity)
    words[0] = count
    for name, value in fields.items():
        words[layout[name] : layout[name] + 2] = value
    for i in range(op.arity):
        name = "d" + OPERANDS[i]
        words[layout[name] : layout[name] + 3] = modes.get(name, (*_NOTHING, SKIP))
    stream.call(f"{op.name}_{kind}", words)


# --- reverse --------------------------------------------------------------------------------------


@dataclass
class _Assigned:
    """A buffer's first contribution in a chain: its offset, and where its mode word stands."""

    offset: int
    word: int = -1


class _ReverseWriter(_Writer):
    """Adds adjoint registers; ``targets`` decides where cotangents outside of the group go."""

    def __init__(self, group: Group, stream: Stream, targets) -> None:
        super().__init__(group, stream)
        self.targets = targets
        self.adjoints: dict[int, int] = {}  # elided buffer -> register of its adjoint
        self.owners: dict[int, int] = {}  # of an adjoint register: several where g just passes
        self.pending: dict[int, _Assigned] = {}

    def cotangent(self, call: Call) -> tuple[int, int] | None:
        """Operand words of a result's adjoint; None where no cotangent reaches it."""
        buffer = call.result.buffer
        if buffer in self.group.elided:
            register = self.adjoints.get(buffer)
            return None if register is None else (SCRATCH, register * TILE)
        if not self.targets.touched(call.result):
            return None
        place = self.frame.adjoint(call.result)
        return (moving(place.space), place.offset)

    def done_with(self, call: Call) -> None:
        """Give back the registers of a result after its reverse step."""
        buffer = call.result.buffer
        if buffer in self.adjoints:
            self._disown(self.adjoints.pop(buffer))
        value = self.held.pop(buffer, None)
        if value is not None:
            self.registers.give(value)

    def _disown(self, register: int) -> None:
        self.owners[register] -= 1
        if self.owners[register] == 0:
            self.registers.give(register)

    def pass_on(self, buffer: int, register: int) -> None:
        """Let a first cotangent be the register that holds it already."""
        self.adjoints[buffer] = register
        self.owners[register] = self.owners.get(register, 0) + 1

    def own(self, buffer: int) -> int:
        """The adjoint register of an elided buffer, made writable."""
        register = self.adjoints[buffer]
        if self.owners[register] > 1:
            fresh = self.registers.take()
            words = (self.group.n, SCRATCH, fresh * TILE, SCRATCH, register * TILE)
            self.body.call("copy", words)
            self._disown(register)
            self.pass_on(buffer, fresh)
            register = fresh
        return register

    # A chain assigns a cotangent tile by tile, so nothing may add to an element before its tile has
    # assigned it.  Additions at another offset fix the direction in which the tiles run; where that
    # doesn't help, the assignment becomes an addition to zeros.

    def tiled_mode(self, view) -> int:
        """ASSIGN for the first contribution to a buffer outside of the group, ADD for others."""
        targets, buffer = self.targets, view.buffer
        if buffer not in targets.touched_buffers:
            targets.touched_buffers.add(buffer)
            size = self.frame.tape.buffers[buffer].size
            targets.clear(buffer, self.before, 0, view.offset)
            end = view.offset + self.group.n
            targets.clear(buffer, self.before, end, size - end)
            self.pending[buffer] = _Assigned(view.offset)
            return ASSIGN
        first = self.pending.get(buffer)
        if first is not None and first.offset != view.offset:
            needed = 1 if view.offset < first.offset else -1
            if self.direction in (0, needed):
                self.direction = needed
            else:
                self.settle(buffer)
        return ADD

    def settle(self, buffer: int) -> None:
        """Have whatever adds to a buffer find zeros or a sum, in any order of tiles."""
        first = self.pending.pop(buffer, None)
        if first is not None:
            assert self.body.tail[first.word] == ASSIGN
            self.body.tail[first.word] = ADD
            self.targets.clear(buffer, self.before, first.offset, self.group.n)

    def target(self, view) -> tuple[tuple[int, int, int], tuple | None]:
        """Words and mode for an operand's cotangent; and what must follow the instruction."""
        if view.buffer in self.group.elided:
            known = view.buffer in self.adjoints
            if not known:
                self.pass_on(view.buffer, self.registers.take())
            register = self.own(view.buffer)
            return (SCRATCH, register * TILE, ADD if known else ASSIGN), None
        place = self.frame.adjoint(view)
        if place.contiguous and view.buffer != SCALAR and place.size == self.group.n:
            if self.group.tiled:
                mode = self.tiled_mode(view)
            else:
                mode = self.targets.mode(view, self.before)
            return (moving(place.space), place.offset, mode), None
        register = self.registers.take()
        return (SCRATCH, register * TILE, ASSIGN), (register, view, place)

    def spill(self, register: int, view, place: Place) -> None:
        """Add a register to a strided or scalar adjoint."""
        self.settle(view.buffer)
        self.targets.add_mode(view, self.before)
        if place.uniform:
            words = (self.group.n, place.space, place.offset, SCRATCH, register * TILE)
            self.body.call("total", words)
        else:
            self.body.tiled("nd_add", place, register, self.group.shape)
        self.registers.give(register)


def lower_reverse(group: Group, stream: Stream, targets) -> None:
    """Cotangents of a group, last operation first, after recomputing what it elided."""
    if group.n == 0:
        return
    writer = _ReverseWriter(group, stream, targets)
    for call in _to_recompute(group, targets):
        writer.forward(call)
    for call in reversed(group.calls):
        if call.op == "sum":
            _reverse_sum(writer, call)
        else:
            _reverse_step(writer, call)
        writer.done_with(call)
    for register in [*writer.held.values()]:
        writer.registers.give(register)
    writer.finish()


def _to_recompute(group: Group, targets) -> list[Call]:
    """The calls whose elided results the reverse kernels read, directly or through another."""
    needed: set[int] = set()
    chosen = []
    for call in reversed(group.calls):
        if call.op == "sum":
            continue
        if call.result.buffer in needed:
            chosen.append(call)
            needed.update(v.buffer for v in call.operands if v.buffer in group.elided)
        active = active_operands(call, targets)
        if not any(active):
            continue
        for name, view in _named(call):
            if name in reads(call.op, tuple(active)) and view.buffer in group.elided:
                if name == "f" and view.buffer not in needed:
                    needed.add(view.buffer)
                    chosen.append(call)
                    needed.update(v.buffer for v in call.operands if v.buffer in group.elided)
                needed.add(view.buffer)
    return chosen[::-1]


def active_operands(call: Call, targets) -> list[bool]:
    """Which operands of an elementwise call receive cotangents that matter."""
    return [
        is_differentiable and targets.varies(view)
        for is_differentiable, view in zip(differentiable(call.op), call.operands, strict=True)
    ]


def _reverse_step(writer: _ReverseWriter, call: Call) -> None:
    g = writer.cotangent(call)
    active = active_operands(call, writer.targets)
    if g is None or not any(active):
        return
    fields = {"g": g}
    places: list[Place | None] = []
    for name, view in _named(call):
        if name in reads(call.op, tuple(active)):
            fields[name] = writer.value(view)
            places.append(None if fields[name][0] == SCRATCH else writer.frame.place(view))
    # Operands are served one after the other: the adjoints may overlap.
    modes, spills = {}, []
    for i, (name, view) in enumerate(zip(OPERANDS, call.operands, strict=False)):
        if active[i] and _passes(writer, call.op, i, view) and g[0] == SCRATCH:
            writer.pass_on(view.buffer, g[1] // TILE)
        elif active[i]:
            words, spill = writer.target(view)
            modes["d" + name] = words
            if spill:
                spills.append(spill)
    if not modes:
        writer.release()
        return
    count = _reverse_count(writer, call, places, active)
    start = len(writer.body.tail) + 3
    _emit_pull(writer.body, OPS[call.op], "reverse", count, fields, modes)
    for name, view in zip(OPERANDS, call.operands, strict=False):
        first = writer.pending.get(view.buffer)
        if first is not None and first.word < 0:
            first.word = start + pull_words(OPS[call.op])["d" + name] + 2
    writer.release()
    for spill in spills:
        writer.spill(*spill)


@functools.cache
def _is_identity(name: str, operand: int) -> bool:
    """Whether an operand's cotangent is the result's, unchanged."""
    pull = pulls(OPS[name])[operand]
    return pull is not None and pull.text == "g"


def _passes(writer: _ReverseWriter, op: str, operand: int, view) -> bool:
    """Whether a cotangent can be passed on without a copy."""
    buffer = view.buffer
    return (
        _is_identity(op, operand)
        and buffer in writer.group.elided
        and buffer not in writer.adjoints
    )


def _reverse_count(writer: _ReverseWriter, call: Call, places: list, active: list) -> int:
    """Padded where every cotangent goes to a register or to a whole padded buffer."""
    n = writer.group.n
    for view, is_active in zip(call.operands, active, strict=True):
        if is_active and view.buffer not in writer.group.elided:
            place = writer.frame.place(view)
            moves = place.contiguous and view.buffer != SCALAR and place.size == n
            if moves and not (writer.is_whole(view) and writer.roomy(place)):
                return n
    return writer.count(*places)


def _reverse_sum(writer: _ReverseWriter, call: Call) -> None:
    """The cotangent of a full sum reaches every element."""
    view = call.operands[0]
    targets = writer.targets
    if not targets.touched(call.result) or not targets.varies(view):
        return
    source = writer.frame.adjoint(call.result)
    shape = writer.group.shape
    if view.buffer in writer.group.elided:
        register = writer.hoist(source)
        if view.buffer not in writer.adjoints:
            writer.owners.setdefault(register, 1)  # the chain itself: the next tile reads it again
            writer.pass_on(view.buffer, register)
        else:
            own = writer.own(view.buffer)
            words = (writer.group.n, SCRATCH, own * TILE, SCRATCH, register * TILE)
            writer.body.call("accumulate", words)
    else:
        stretched = source._replace(shape=shape, strides=(0,) * len(shape))
        target = writer.frame.adjoint(view)
        writer.settle(view.buffer)
        if targets.mode(view, writer.before) == ASSIGN:
            writer.before.copy(target, stretched)
        else:
            writer.before.add(target, stretched)
    targets.consumed(call.result)
