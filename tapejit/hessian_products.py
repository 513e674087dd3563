"""Products of Hessians with vectors: functions replayed from tapes of pushed-forward gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import pytrees
from .arguments import are_plain, is_static, normalise
from .compiled import Variant
from .derive.tapes import pullback, pushforward
from .gradients import require_scalar
from .higher import Derived
from .jitted import function_of, named
from .paths import Path
from .recording.record import Recording
from .recording.recorder import in_recording
from .results import gradient_tree, results_of
from .shortcut import Shortcut, usable

__all__ = ["hvp"]


class Hvp(Derived):
    """Hessian-vector products; made by :func:`hvp`."""

    _pair: Callable[[Any, Any], Any] | None = None

    def transform(self, recording: Recording, wrt: tuple[int, ...]) -> Recording:
        """The pushforward of the pullback."""
        require_scalar(self.function.name, recording)
        gradient = pullback(recording.tape, wrt, seeds="one")
        tape = pushforward(gradient, wrt)
        return recording._replace(tape=tape, leaves=list(range(len(tape.outputs))))

    def public(self) -> Callable[..., Any]:
        """The function that users call."""
        engine = self

        def product(x: Any, v: Any, *args: Any) -> Any:
            pair = engine._pair
            if pair is not None and not args:
                result = pair(x, v)
                if result is not None:
                    return result
            fast = engine._fast
            if fast is not None:
                results = fast.call((x, v) if not args else (x, *args, v), ())
                if results is not None:
                    return results[0]
            return engine.general(x, v, args)

        call = named(product, self)
        call.__name__ = f"hvp of {self.function.name}"
        return call

    def general(self, x: Any, v: Any, args: tuple) -> Any:
        """Any call."""
        if in_recording():
            return self._inline(x, v, args)
        full = (x, *args)
        variant, values = self.find(full, {})
        moving = self._directions(variant, values, v)
        path, workspace = variant.execute(values, moving)
        slots = workspace.program.code.values
        results = results_of(workspace, slots, "values")
        workspace.program.give_back(workspace)
        self._shorten(variant, path, (*full, v))
        return gradient_tree(full, 0, results)

    def _directions(self, variant: Variant, values: list, v: Any) -> list[Any]:
        name = self.function.name
        leaves = [leaf for leaf in pytrees.flatten(v)[0] if not is_static(leaf)]
        shapes = [np.shape(values[i]) for i in variant.wrt]
        if [np.shape(leaf) for leaf in leaves] != shapes:
            raise ValueError(
                f"hvp of `{name}`: the vector has shapes {[np.shape(leaf) for leaf in leaves]}, "
                f"the first argument {shapes}"
            )
        return [normalise(leaf, name, True) for leaf in leaves]

    def _shorten(self, variant: Variant, path: Path, args: tuple) -> None:
        """Have the next call take the short way, where arguments and result are plain."""
        if "shortcut" not in path.programs:
            program = variant.program(path)
            code = program.code
            simple = (
                are_plain(args)
                and len(code.parameters) == len(args)
                and len(code.values) == 1
                and usable(program)
            )
            path.programs["shortcut"] = (
                Shortcut(program, code.values, "values", reverse=False) if simple else None
            )
        fast = self._fast = path.programs["shortcut"]
        self._pair = fast.pair if fast is not None and fast.is_pair else None

    def _inline(self, x: Any, v: Any, args: tuple) -> Any:
        """The product becomes part of the outer tape."""
        inlined = self.inlined((x, *args), {})
        tape = self.transform(inlined.recording, inlined.wrt).tape
        directions = [leaf for leaf in pytrees.flatten(v)[0] if not is_static(leaf)]
        return gradient_tree((x,), 0, inlined.splice(tape, directions))


def hvp(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """Hessian-vector products of a scalar function: its gradient's tape, pushed forward.

    Parameters
    ----------
    f
        A scalar function written in NumPy.
    argnums
        0: products with respect to the first argument.

    Returns
    -------
    callable
        ``hvp(f)(x, v)`` is the Hessian of ``f`` at ``x`` times ``v``; further arguments of ``f``
        follow: ``hvp(f)(x, v, *args)``.

    Raises
    ------
    ValueError
        For other ``argnums``, and where ``v`` has other shapes than ``x``.
    TraceError
        Where ``f`` is not scalar, or cannot be recorded.

    Notes
    -----
    Forward over reverse: Pearlmutter (1994), "Fast exact multiplication by the Hessian".

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.hvp(lambda x: np.sum(x**3))(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    array([6., 0.])
    """
    if argnums != 0:
        raise ValueError("hvp differentiates with respect to the first argument; reorder them")
    return Hvp(function_of(f), 0).public()
