"""The bodies of staged loops and branches, optimised as tapes of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..ops.control import Spec
from ..tape import Call, Tape

__all__ = ["optimize_bodies"]


def optimize_bodies(tape: Tape, optimize: Callable[[Tape], Tape]) -> Tape:
    """The tape with ``optimize`` applied to the bodies of its loops and branches."""
    calls = [_optimized(call, optimize) for call in tape.calls]
    if all(new is old for new, old in zip(calls, tape.calls, strict=True)):
        return tape
    return dataclasses.replace(tape, calls=tuple(calls))


def _optimized(call: Call, optimize: Callable[[Tape], Tape]) -> Call:
    if not any(isinstance(param, Spec) for param in call.params):
        return call
    params = [
        dataclasses.replace(param, bodies=tuple([optimize(body) for body in param.bodies]))
        if isinstance(param, Spec)
        else param
        for param in call.params
    ]
    return call._replace(params=tuple(params))
