"""Derivatives inside of a recording: a function recorded by itself, its derivative tape spliced in.

The function is recorded at the values that its arguments have there; what it reads from the
enclosing code becomes an argument too, which does not move.  So nested derivatives cannot confuse
their perturbations: each level has its own tape.  The derivative becomes part of the outer tape;
equal functions (a potential in each step of a simulation) share one derivative.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import TraceError
from ..recording.record import Recording, record_function
from ..recording.recorder import Recorder, active, where_am_i
from ..recording.splice import Splice, splice
from ..recording.tracer import ArrayTracer, ScalarTracer, Tracer, copied, lift, pinned, value_of
from ..tape import Tape
from .rules import overwrites
from .tapes import pullback, pushforward

__all__ = ["Inlined", "derived"]

#: Derivative tapes by what they were made from; the least recently used go.
_known: OrderedDict[tuple, Tape] = OrderedDict()
_MOST_KNOWN = 256
_LONGEST = 20_000  # longer ones are not kept
_lock = threading.Lock()


def derived(key: tuple, tape: Tape, make: Callable[[], Tape]) -> Tape:
    """``make()``, or what it gave for an equal tape before."""
    key = (tape.fingerprint, *key)
    with _lock:
        found = _known.pop(key, None)
    if found is None:
        found = make()
    if len(found) > _LONGEST:
        return found
    with _lock:
        _known[key] = found
        while len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    return found


class Inlined:
    """A function of the recording under way, recorded by itself.

    Parameters
    ----------
    function
        ``function(*inputs)``.
    inputs
        Tracers or constants; these move.
    keep
        Whether derivatives are asked for later on: then what they need is copied now, out of reach
        of in-place writes.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Sequence[Any], name: str, keep: bool = False
    ) -> None:
        rec = active()
        assert rec is not None
        self.rec: Recorder = rec
        self.name = name
        inputs = [pinned(_floating(rec, x)) for x in inputs]
        writes = rec.writes
        values = [np.array(value_of(x), np.float64)[()] for x in inputs]
        self.recording: Recording = record_function(function, values, name)
        self.tape = self.recording.tape
        self.wrt = tuple(range(len(inputs)))
        operands = [*inputs, *self.recording.captured]
        _check_unwritten(operands, [*[writes] * len(inputs), *self.recording.versions], name)
        self.operands = [_own(rec, x) if keep else _floating(rec, x) for x in operands]
        self._values: list[Any] | None = None

    def gradient(self) -> tuple[list[Any], list[Any]]:
        """(values, cotangents of the inputs) of a scalar function."""
        tape = derived(
            ("gradient", self.wrt),
            self.tape,
            lambda: pullback(self.tape, self.wrt, values=True, seeds="one"),
        )
        return self._split(self._spliced(tape, []))

    def tangents(self, tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """(values, tangents of the outputs)."""
        tape = derived(
            ("jvp", self.wrt), self.tape, lambda: pushforward(self.tape, self.wrt, values=True)
        )
        return self._split(self._spliced(tape, tangents))

    def splice(self, tape: Tape, more: Sequence[Any] = ()) -> list[Any]:
        """Outputs of a tape of the function's inputs and ``more``."""
        return self._spliced(tape, more)

    def _split(self, outputs: list[Any]) -> tuple[list[Any], list[Any]]:
        n = len(self.tape.outputs)
        return outputs[:n], outputs[n:]

    def _spliced(self, tape: Tape, more: Sequence[Any]) -> list[Any]:
        operands = [*self.operands, *(_floating(self.rec, x) for x in more)]
        return _apart(splice(self.rec, tape, operands), operands)

    # --- derivatives later on ---------------------------------------------------------------------

    def forward(self) -> list[Any]:
        """The function's values; :meth:`pull` and :meth:`push` go on from what they computed."""
        self._base = Splice(self.rec, self.tape, self.operands)
        self._base.append_rows()
        outputs = self._base.outputs(self._evaluated(self.tape, []))
        return [copied(x) if isinstance(x, ArrayTracer) else x for x in outputs]

    def pull(self, cotangents: Sequence[Any]) -> list[Any]:
        """Cotangents of the inputs."""
        tape = derived(("vjp", self.wrt), self.tape, lambda: pullback(self.tape, self.wrt))
        return self._continued(tape, cotangents)

    def push(self, tangents: Sequence[Any]) -> list[Any]:
        """Tangents of the outputs."""
        tape = derived(("push", self.wrt), self.tape, lambda: pushforward(self.tape, self.wrt))
        return self._continued(tape, tangents, overwrites(self.tape))

    def _continued(self, tape: Tape, more: Sequence[Any], repeated: bool = False) -> list[Any]:
        """Rows that a derivative tape has beyond those that are there."""
        self.rec.check_use()
        more = [_floating(self.rec, x) for x in more]
        operands = [*self.operands, *more]
        spliced = Splice(self.rec, tape, operands, None if repeated else self._base)
        spliced.append_rows()
        return _apart(spliced.outputs(self._evaluated(tape, more)), operands)

    def _evaluated(self, tape: Tape, more: Sequence[Any]) -> list[Any]:
        return Splice.values_of(self.rec, tape, [*self.operands, *more])


def _floating(rec: Recorder, x: Any) -> Any:
    """An input as an operand of the recording: a tracer, or a constant of floats."""
    x = lift(rec, x)
    return x if isinstance(x, Tracer) else np.asarray(x, np.float64)[()]


def _own(rec: Recorder, x: Any) -> Any:
    """An input that later writes do not reach."""
    x = _floating(rec, x)
    return copied(x) if isinstance(x, ArrayTracer) else x


def _apart(outputs: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    """Outputs that share no memory with each other or with operands, and may be written into."""
    seen = {x.view.buffer for x in operands if isinstance(x, ArrayTracer)}
    found = []
    for x in outputs:
        if isinstance(x, ArrayTracer):
            if x.view.buffer in seen or x.size != x.cell.storage.size:
                x = copied(x)
            seen.add(x.view.buffer)
        elif not isinstance(x, ScalarTracer):
            x = np.array(x)[()]
        found.append(x)
    return found


def _check_unwritten(operands: Sequence[Any], versions: Sequence[int], name: str) -> None:
    """Raise where an array of the enclosing code was read, and then written into."""
    for x, writes in zip(operands, versions, strict=True):
        if isinstance(x, ArrayTracer) and x.rec.written_since(x.view, writes):
            raise TraceError(
                f"{where_am_i()}: `{name}` reads an array of the enclosing function and then "
                "writes into it; copy it first, or pass it as an argument"
            )
