"""Side effects of a body on Python's state: it runs once, while it is recorded.

What a function may change is looked at before and after: the variables that it closes over and the
globals that it names, the elements of lists, dictionaries, sets and small arrays among them, the
attributes of objects of users' classes, and the states of random generators.
"""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["Watch"]

#: Larger containers are not looked into.
_MOST = 10_000
_LIBRARIES = {"builtins", "numpy", "scipy", "numba", "optree", "tapejit"}


class Watch:
    """The Python state that a function may change, as it is now."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.before = {name: (value, _contents(value)) for name, value in _reachable(function)}

    def changed(self) -> list[str]:
        """Names of what has changed since."""
        found = []
        now = dict(_reachable(self.function))
        for name, (value, contents) in self.before.items():
            if now.get(name) is not value or not _equal(_contents(value), contents):
                found.append(name)
        return found


def _reachable(function: Any) -> Iterator[tuple[str, Any]]:
    """Names and values: closed over, global, attributes of a method's object."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, types.MethodType):
        yield "self", function.__self__
        function = function.__func__
    if not isinstance(function, types.FunctionType):
        return
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    names = set(_names(code))
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if not isinstance(value, (types.ModuleType, types.FunctionType, type)):
            yield name, value
    if "random" in names:
        yield "np.random", np.random.mtrand._rand
        yield "random", random._inst


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names and attributes in a function and in those inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _contents(value: Any) -> Any:
    """What tells a later state of an object from this one; ``None`` for one that stays as it is."""
    if isinstance(value, (list, set)):
        return list(value) if len(value) <= _MOST else len(value)
    if isinstance(value, dict):
        return [*value, *value.values()] if len(value) <= _MOST else len(value)
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.size <= _MOST and value.dtype != object else None
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    if isinstance(value, random.Random):
        return repr(value.getstate())
    library = type(value).__module__.partition(".")[0] in _LIBRARIES
    if library or callable(value) or not hasattr(value, "__dict__"):
        return None
    return [*vars(value), *vars(value).values()]


def _equal(now: Any, before: Any) -> bool:
    """Whether two states are the same, elements compared by identity."""
    if isinstance(now, list) and isinstance(before, list):
        return len(now) == len(before) and all(map(_same, now, before))
    return now == before


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, str) and a == b)
