"""Checks of derivatives, for users and for this library's own tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["check_grads", "plain_python"]


@contextlib.contextmanager
def plain_python() -> Iterator[None]:
    """Run kernels and interpreters as the plain Python they are written in (slow, for tests)."""
    from .config import settings

    before = settings.plain_python
    settings.plain_python = True
    try:
        yield
    finally:
        settings.plain_python = before


def _numbers(tree: Any) -> list[np.ndarray]:
    from . import pytrees

    leaves, _ = pytrees.flatten(tree)
    return [np.asarray(leaf, np.float64) for leaf in leaves]


def _like(tree: Any, arrays: Sequence[np.ndarray]) -> Any:
    from . import pytrees

    _, structure = pytrees.flatten(tree)
    return pytrees.unflatten(structure, [array[()] for array in arrays])


def _inner(a: Any, b: Any) -> float:
    return float(sum(np.vdot(x, y) for x, y in zip(_numbers(a), _numbers(b), strict=True)))


def difference(f: Callable[..., Any], args: tuple, direction: tuple, step: float) -> Any:
    """Directional derivative of each leaf of a result, by fourth-order central differences."""

    def at(scale: float) -> list[np.ndarray]:
        moved = [x + scale * v for x, v in zip(_numbers(args), _numbers(direction), strict=True)]
        return _numbers(f(*_like(args, moved)))

    weights = ((1.0, 8.0 / 12.0), (-1.0, -8.0 / 12.0), (2.0, -1.0 / 12.0), (-2.0, 1.0 / 12.0))
    total: list[Any] | None = None
    for multiple, weight in weights:
        part = [weight * y / step for y in at(multiple * step)]
        total = part if total is None else [t + p for t, p in zip(total, part, strict=True)]
    return total


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 1,
    modes: Sequence[str] = ("fwd", "rev"),
    atol: float = 1e-6,
    rtol: float = 1e-6,
    step: float = 1e-3,
    seed: int = 0,
) -> None:
    """Check derivatives of a function against differences, in random directions.

    Forward mode is compared with fourth-order central differences, reverse mode with forward
    differences through the inner-product identity ``<w, J v> == <J^T w, v>``; and the compiled
    function is replayed at a second point, where it must agree with the Python function.

    Parameters
    ----------
    f
        A function written in NumPy.
    args
        Arguments at which to check: float arrays or numbers, in any containers.
    order
        Up to which order of derivative.
    modes
        Any of ``"fwd"``, ``"rev"``.
    atol, rtol
        Tolerances.
    step
        Step of the differences.

    Raises
    ------
    AssertionError
        Where a derivative is wrong; the message says in which mode and at which order.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tj.testing.check_grads(np.tanh, (np.array([0.1, 0.2]),), order=2)
    """
    from . import api

    args = tuple(args)
    rng = np.random.default_rng(seed)
    draw = lambda tree: _like(tree, [rng.standard_normal(x.shape) for x in _numbers(tree)])  # noqa: E731
    direction = draw(args)
    _check_replay(f, args, direction, rtol, atol)
    expected = difference(f, args, direction, step)
    value = f(*args)
    w = draw(value)
    projected = _inner(_like(value, expected), w)
    if "fwd" in modes:
        _, tangent = api.jvp(f, args, direction)
        for got, want in zip(_numbers(tangent), expected, strict=True):
            np.testing.assert_allclose(
                got, want, rtol=rtol, atol=atol, err_msg=f"forward mode, order {order} to go"
            )
    if "rev" in modes:
        _, pullback = api.vjp(f, *args)
        got_projected = _inner(pullback(w), direction)
        np.testing.assert_allclose(
            got_projected, projected, rtol=rtol, atol=atol,
            err_msg=f"reverse mode, order {order} to go",
        )  # fmt: skip
    if order > 1:
        if "fwd" in modes:
            check_grads(
                api.jit(lambda *a: api.jvp(f, a, direction)[1]), args, order - 1, modes, atol, rtol,
                step, seed + 1,
            )  # fmt: skip
        if "rev" in modes:
            check_grads(
                api.jit(lambda *a: api.vjp(f, *a)[1](w)), args, order - 1, modes, atol, rtol,
                step, seed + 1,
            )  # fmt: skip


def _check_replay(
    f: Callable[..., Any], args: tuple, direction: Any, rtol: float, atol: float
) -> None:
    """The compiled function, recorded at one point, equals the Python function at another."""
    from . import api

    compiled = api.jit(f)
    compiled(*args)
    moved = _like(
        args, [x + 1e-3 * v for x, v in zip(_numbers(args), _numbers(direction), strict=True)]
    )
    for got, want in zip(_numbers(compiled(*moved)), _numbers(f(*moved)), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg="replay")
