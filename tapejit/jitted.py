"""Compiled functions whose values are replayed: ``jit``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .arguments import Function, are_plain, collect, typed
from .compiled import Compiled, Variant
from .paths import Path
from .recording.recorder import in_recording
from .results import results_of
from .shortcut import Shortcut, usable

__all__ = ["Jit", "engine_of", "function_of", "jit", "named"]


def named(call: Callable[..., Any], engine: Compiled) -> Callable[..., Any]:
    """A public function with the name and documentation of what it was made from."""
    functools.update_wrapper(call, engine.function.function, updated=())
    call.__tapejit__ = engine
    return call


def engine_of(f: Any) -> Any:
    """The engine behind a public function, None for any other function."""
    return getattr(f, "__tapejit__", None)


class Jit(Compiled):
    """A compiled function; made by :func:`jit`."""

    mode = "value"
    _fast: Shortcut | None = None

    def __init__(self, function: Function, check: bool = False) -> None:
        super().__init__(function, check)
        self.derived: dict[type, Compiled] = {}

    def public(self) -> Callable[..., Any]:
        """The function that users call: plain functions are called faster than objects."""
        engine = self
        python = self.function.function

        def call(*args: Any, **kwargs: Any) -> Any:
            if in_recording():
                return python(*args, **kwargs)
            fast = engine._fast
            if fast is not None and not kwargs:
                results = fast.call(args, ())
                if results is not None:
                    return results[0]
            return engine.general(args, kwargs)

        return named(call, self)

    def general(self, args: tuple, kwargs: dict) -> Any:
        """Any call: flatten, find the variant, sweep, collect."""
        variant, values = self.find(args, kwargs)
        path, workspace = variant.execute(values)
        code = workspace.program.code
        results = results_of(workspace, code.values, "values")
        workspace.program.give_back(workspace)
        results = [typed(r, leaf.dtype) for r, leaf in zip(results, path.tape.outputs, strict=True)]
        if self.check:
            self.compare(variant, path, values, results)
        self._shorten(variant, path, args, kwargs)
        return collect(path, results)

    def _shorten(self, variant: Variant, path: Path, args: tuple, kwargs: dict) -> None:
        """Have the next call take the short way, where arguments and result are plain."""
        if "shortcut" not in path.programs:
            program = variant.program(path)
            simple = (
                not kwargs
                and are_plain(args)
                and len(program.code.parameters) == len(args)
                and path.recording.leaves == [0]
                and not self.check
                and path.recording.structure.num_nodes == 1
                and path.tape.outputs[0].dtype[1] == "f"
                and usable(program)
            )
            path.programs["shortcut"] = (
                Shortcut(program, program.code.values, "values", reverse=False) if simple else None
            )
        self._fast = path.programs["shortcut"]


def jit(
    f: Callable[..., Any],
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    check: bool = False,
) -> Callable[..., Any]:
    """Compile a function: record it once, replay it from then on.

    Parameters
    ----------
    f
        A function written in NumPy.  Its result may depend only on its arguments; captured
        arrays are copied when it is recorded.
    static_argnums, static_argnames
        Arguments that are compared by value instead of being traced.  Strings, bools and ``None``
        are static by themselves.
    check
        Also run the Python function at each call, and raise
        :class:`~tapejit.errors.ReplayMismatchError` where the results differ.

    Returns
    -------
    callable
        With the arguments and results of ``f``.

    Raises
    ------
    TraceError
        Where ``f`` uses a traced value in a way that cannot be recorded; the message names the
        line and the remedy.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> f = tj.jit(lambda x: np.sum(np.sin(x) * x))
    >>> f(np.zeros(3))
    np.float64(0.0)
    """
    if isinstance(engine_of(f), Jit) and not static_argnums and not static_argnames and not check:
        return f
    return Jit(Function(f, static_argnums, static_argnames), check).public()


def function_of(
    f: Callable[..., Any], static_argnums: Any = (), static_argnames: Any = ()
) -> Function:
    """A :class:`Function`, seen through ``jit``."""
    engine = engine_of(f)
    if isinstance(engine, Jit) and not static_argnums and not static_argnames:
        return engine.function
    return Function(f, static_argnums, static_argnames)
