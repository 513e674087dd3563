"""What every workload of the benchmarks has: a point, a function, and the bars set for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Bar:
    """tapejit's time must be at most ``factor`` times that of the contender ``peer``."""

    peer: str
    factor: float = 1.0


@dataclass(frozen=True)
class Call:
    """One way to get a value and gradient: what to call, and how to read what comes back.

    ``function(*arguments)`` is what is timed.  ``read(result)`` gives the value and the gradient
    as a list of arrays (``None`` where only the value is computed).
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    read: Callable[[Any], tuple[float, list[np.ndarray] | None]]


class Workload:
    """One function to differentiate, with its data and its hand-written gradient.

    ``point`` is an array, or a list of arrays; contenders read it at every call, so that writing
    into it moves all of them to another point.
    """

    name: str
    bars: tuple[Bar, ...] = ()
    #: Contenders that take long to build or to run here: left out unless asked for.
    slow: frozenset[str] = frozenset()
    #: Contenders that have no version of this workload, or none that builds within minutes.
    hopeless: frozenset[str] = frozenset({"jax-unrolled"})
    point: np.ndarray | list[np.ndarray]

    def function(self, xp: Any, constant: Callable[[np.ndarray], Any] = np.asarray) -> Callable:
        """The function of ``point``, in the array namespace ``xp``.

        ``constant`` turns the workload's data into arrays of that namespace.
        """
        raise NotImplementedError

    def jax_function(self, jax: Any) -> Callable:
        """The function as a JAX user would write it."""
        return self.function(jax.numpy, jax.numpy.asarray)

    def hand(self) -> Call | None:
        """The gradient written by hand in Numba, into preallocated arrays."""
        return None

    def casadi(self, ca: Any) -> tuple[list[Any], Any] | None:
        """CasADi symbols (flat, row-major, one for each array of the point) and the function."""
        return None

    def arrays(self) -> list[np.ndarray]:
        """The arrays of the point."""
        return self.point if isinstance(self.point, list) else [self.point]

    def move(self, seed: int) -> None:
        """Go to another point nearby (in place)."""
        rng = np.random.default_rng(seed)
        for array in self.arrays():
            array *= 1 + 0.01 * rng.uniform(-1, 1, array.shape)


def into(function: Callable, arguments: tuple[Any, ...], gradient: list[np.ndarray]) -> Call:
    """A call that returns the value and writes ``gradient``."""
    return Call(function, arguments, lambda value: (float(value), gradient))
