"""Arguments and results of a user's function taken apart: what moves, and everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import pytrees
from ..errors import RuleError
from ..recording.recorder import Recorder, where_am_i
from ..recording.tracer import Tracer, is_traced, lift, value_of

__all__ = ["Arguments", "Result", "summary", "zeros_like"]

SHOWN = 200  # characters of a structure in a message


class Arguments:
    """Positional arguments taken apart: leaves that are traced, and everything else.

    Attributes
    ----------
    traced
        The traced leaves of the differentiable arguments, as tracers of the recording.
    """

    def __init__(self, rec: Recorder, args: tuple, nondiff: tuple[int, ...]) -> None:
        self.args = args
        self.nondiff = nondiff
        self.positions = [i for i in range(len(args)) if i not in nondiff]
        self.trees = [pytrees.flatten(args[i], none_is_leaf=True) for i in self.positions]
        self.places = [
            (k, j)
            for k, (leaves, _) in enumerate(self.trees)
            for j, leaf in enumerate(leaves)
            if is_traced(leaf)
        ]
        self.traced: list[Tracer] = [lift(rec, self.trees[k][0][j]) for k, j in self.places]

    def given(self) -> list[Any]:
        """The arguments that a rule takes before all others."""
        return [self.args[i] for i in self.nondiff]

    def with_leaves(self, values: Sequence[Any]) -> tuple:
        """All arguments, other values in place of the traced leaves."""
        args = list(self.args)
        for i, tree in zip(self.positions, self.trees_of(values), strict=True):
            args[i] = tree
        return tuple(args)

    def trees_of(self, values: Sequence[Any], others: Callable[[Any], Any] | None = None) -> list:
        """The differentiable arguments, other values in place of the traced leaves.

        ``others`` makes what stands in place of the leaves that are not traced.
        """
        filled = [list(leaves) for leaves, _ in self.trees]
        if others is not None:
            filled = [[others(leaf) for leaf in leaves] for leaves in filled]
        for (k, j), value in zip(self.places, values, strict=True):
            filled[k][j] = value
        return [
            pytrees.unflatten(structure, leaves)
            for leaves, (_, structure) in zip(filled, self.trees, strict=True)
        ]

    def key(self) -> tuple:
        """Structure, and the leaves that are not traced."""
        parts = [
            (structure, tuple(_fixed(leaf) for leaf in leaves)) for leaves, structure in self.trees
        ]
        return (*parts, *[_fixed(self.args[i]) for i in self.nondiff])

    def name(self, place: int) -> str:
        """How a message calls the traced leaf number ``place``."""
        k, j = self.places[place]
        leaves, _ = self.trees[k]
        argument = f"argument {self.positions[k]}"
        return argument if len(leaves) == 1 else f"leaf {j} of {argument}"

    def taken(self, name: str, parts: Any) -> list[Any]:
        """The traced leaves of cotangents that a ``bwd`` returned, checked; None for zeros."""
        n = len(self.positions)
        if not isinstance(parts, (tuple, list)) or len(parts) != n:
            raise RuleError(
                f"{where_am_i()}: bwd of `{name}` must return a tuple of {n} "
                f"cotangent{'s' if n > 1 else ''}, one for each differentiable argument; got "
                f"{summary(parts)}"
            )
        flat = []
        for part, (leaves, structure), position in zip(
            parts, self.trees, self.positions, strict=True
        ):
            if part is None:
                flat.append([None] * len(leaves))
                continue
            given, given_structure = pytrees.flatten(part, none_is_leaf=True)
            if given_structure != structure:
                raise RuleError(
                    f"{where_am_i()}: bwd of `{name}`: the cotangent of argument {position} has "
                    f"the structure {str(given_structure)[:SHOWN]}, the argument "
                    f"{str(structure)[:SHOWN]}"
                )
            flat.append(given)
        found = [flat[k][j] for k, j in self.places]
        for i, (cotangent, tracer) in enumerate(zip(found, self.traced, strict=True)):
            shape = np.shape(value_of(cotangent))
            if cotangent is not None and shape != tracer.shape:
                raise RuleError(
                    f"{where_am_i()}: bwd of `{name}`: the cotangent of {self.name(i)} has shape "
                    f"{shape}, the argument has shape {tracer.shape}"
                )
        return found


class Result:
    """The result of the user's function: leaves with derivatives, and everything else."""

    def __init__(self, tree: Any) -> None:
        self.leaves, self.structure = pytrees.flatten(tree, none_is_leaf=True)
        self.traced = [i for i, leaf in enumerate(self.leaves) if is_traced(leaf)]
        self.moving: list[int] = []
        self.shapes: list[tuple[int, ...]] = []

    def spliced(self, values: Sequence[Any]) -> list[Any]:
        """Take in the traced leaves as the outer recording has them; returns those that move."""
        for i, value in zip(self.traced, values, strict=True):
            self.leaves[i] = value
        self.moving = [
            i
            for i in self.traced
            if isinstance(self.leaves[i], Tracer) and self.leaves[i].dtype.kind == "f"
        ]
        self.shapes = [self.leaves[i].shape for i in self.moving]
        return [self.leaves[i] for i in self.moving]

    def key(self) -> tuple:
        """Structure, and the leaves that are not traced."""
        return self.structure, tuple(_fixed(leaf) for leaf in self.leaves)

    def tree(self, moving: Sequence[Any]) -> Any:
        """The result with these values of the leaves that move."""
        leaves = list(self.leaves)
        for i, value in zip(self.moving, moving, strict=True):
            leaves[i] = value
        return pytrees.unflatten(self.structure, leaves)

    def cotangents(self, moving: Sequence[Any]) -> Any:
        """Cotangents in the structure of the result; zeros for leaves that do not move."""
        leaves = [zeros_like(leaf) for leaf in self.leaves]
        for i, value in zip(self.moving, moving, strict=True):
            leaves[i] = value
        return pytrees.unflatten(self.structure, leaves)


def _fixed(leaf: Any) -> Any:
    """What tells one constant leaf from another; None for traced ones."""
    if is_traced(leaf):
        return None
    if isinstance(leaf, np.ndarray):
        return leaf.shape, leaf.dtype.str, leaf.tobytes()
    try:
        hash(leaf)
    except TypeError:
        return repr(leaf)
    return type(leaf), leaf


def zeros_like(leaf: Any) -> Any:
    if leaf is None or isinstance(leaf, (str, bytes)):
        return None
    shape = np.shape(value_of(leaf))
    return np.zeros(shape)[()]


def summary(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"
