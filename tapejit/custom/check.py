"""``check=True``: a user's rule against finite differences, where it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import pytrees
from ..errors import RuleError
from ..recording.recorder import paused, where_am_i
from ..recording.tracer import value_of
from ..testing import difference

__all__ = ["check_jvp", "check_operation", "check_vjp"]

#: At most so many elements of an argument are checked, drawn at random.
MOST = 64
STEP, RTOL, ATOL = 1e-3, 1e-5, 1e-7


def check_vjp(custom: Any, arguments: Any) -> None:
    """Compare ``bwd`` with differences of the function itself."""
    values = [value_of(tracer) for tracer in arguments.traced]
    function = _of_leaves(custom.function, arguments)
    with paused():
        result = function(*values)
        value, residuals = custom.fwd(*_concrete(arguments.with_leaves(values)))
        _same_value(custom.name, "fwd", result, _numbers(value))
        cotangent = _drawn(result)
        leaves, structure = pytrees.flatten(value, none_is_leaf=True)
        seeds = iter(cotangent)
        filled = [next(seeds)[()] if _is_number(leaf) else None for leaf in leaves]
        parts = custom.bwd(
            *_concrete(tuple(arguments.given())), residuals, pytrees.unflatten(structure, filled)
        )
        pulled = arguments.taken(custom.name, parts)
        _compare_pulled(custom.name, "bwd", function, values, cotangent, pulled, arguments.name)


def check_jvp(custom: Any, arguments: Any) -> None:
    """Compare the rule with differences of the function itself."""
    values = [value_of(tracer) for tracer in arguments.traced]
    function = _of_leaves(custom.function, arguments)
    with paused():
        result = function(*values)

        def push(tangents: Sequence[Any]) -> list[np.ndarray]:
            zeros = arguments.trees_of(
                tangents, lambda leaf: np.zeros(np.shape(value_of(leaf)))[()]
            )
            primals = _concrete(tuple(arguments.trees_of(values)))
            value, tangent = custom.rule(
                *_concrete(tuple(arguments.given())), primals, tuple(zeros)
            )
            _same_value(custom.name, "jvp", result, _numbers(value))
            return _numbers(tangent)

        _compare_pushed(custom.name, "jvp", function, values, push, arguments.name)


def check_operation(operation: Any, derivatives: Any, values: Sequence[np.ndarray]) -> None:
    """Compare the kernels and rules of a registered operation with differences of its value."""
    name = operation.__name__
    call = operation.forward

    def function(*values: Any) -> list[np.ndarray]:
        return [np.asarray(call.evaluate([np.asarray(x, np.float64) for x in values]))]

    def call_it(i: int) -> str:
        return f"operand {i}"

    with paused():
        (result,) = function(*values)
        (g,) = _drawn([result])
        if derivatives.reverse is not None or derivatives.vjp_rule is not None:
            pulled = derivatives.vjp(g, result, values, ())
            _compare_pulled(name, "reverse", function, values, [g], pulled, call_it)
        if derivatives.reverse is not None and derivatives.vjp_rule is not None:
            pulled = derivatives.pull(g, result, values)
            _compare_pulled(name, "vjp", function, values, [g], pulled, call_it)
        if derivatives.tangent is not None or derivatives.jvp_rule is not None:
            _compare_pushed(
                name, "tangent", function, values,
                lambda tangents: _numbers(derivatives.jvp(tangents, result, values, ())), call_it,
            )  # fmt: skip


def _compare_pulled(
    name: str, part: str, function: Callable[..., list], values: Sequence[Any],
    cotangent: Sequence[np.ndarray], pulled: Sequence[Any], call_it: Callable[[int], str],
) -> None:  # fmt: skip
    """Raise where a cotangent differs from differences of ``<cotangent, function>``."""
    for i, index, direction, step in _directions(values):
        expected = _inner(cotangent, difference(function, tuple(values), direction, step))
        given = 0.0 if pulled[i] is None else float(np.asarray(value_of(pulled[i]))[index])
        _agree(name, part, given, expected, f"element {_shown(index)}of {call_it(i)}")


def _compare_pushed(
    name: str, part: str, function: Callable[..., list], values: Sequence[Any],
    push: Callable[[Sequence[Any]], list[np.ndarray]], call_it: Callable[[int], str],
) -> None:  # fmt: skip
    """Raise where a tangent differs from differences along an element of an argument."""
    for i, index, direction, step in _directions(values):
        expected = difference(function, tuple(values), direction, step)
        for k, (given, want) in enumerate(zip(push(direction), expected, strict=True)):
            for at in np.ndindex(want.shape):
                place = f"element {_shown(at)}of result {k} along element {_shown(index)}of "
                _agree(
                    name, part, float(np.asarray(given)[at]), float(want[at]), place + call_it(i)
                )


def _directions(values: Sequence[Any]) -> Iterator[tuple[int, tuple, tuple, float]]:
    """(argument, index, unit direction along that element, step)."""
    rng = np.random.default_rng(0)
    zeros = [np.zeros(np.shape(value)) for value in values]
    for i, value in enumerate(values):
        if value.dtype.kind != "f":
            continue
        flat = np.arange(zeros[i].size)
        if len(flat) > MOST:
            flat = np.sort(rng.choice(flat, MOST, replace=False))
        for k in flat.tolist():
            index = np.unravel_index(k, zeros[i].shape) if zeros[i].shape else ()
            direction = [zero.copy() for zero in zeros]
            direction[i][index] = 1.0
            step = STEP * max(1.0, abs(float(np.asarray(value)[index])))
            yield i, tuple(map(int, index)), tuple(d[()] for d in direction), step


def _agree(name: str, part: str, given: float, expected: float, place: str) -> None:
    scale = max(abs(given), abs(expected))
    if not abs(given - expected) <= ATOL + RTOL * scale:
        raise RuleError(
            f"{where_am_i()}: {part} of `{name}` is wrong at {place}: it gives {given:.9g}, "
            f"finite differences give {expected:.9g}"
        )


def _same_value(name: str, part: str, value: list[np.ndarray], other: list[np.ndarray]) -> None:
    same = len(value) == len(other) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)
        for a, b in zip(value, other, strict=True)
    )
    if not same:
        raise RuleError(
            f"{where_am_i()}: {part} of `{name}` returns {_brief(other)} as the result, the "
            f"function itself {_brief(value)}"
        )


def _of_leaves(function: Callable[..., Any], arguments: Any) -> Callable[..., list[np.ndarray]]:
    """The function of the leaves that move, with numbers as its result."""
    return lambda *values: _numbers(function(*_concrete(arguments.with_leaves(values))))


def _concrete(tree: Any) -> Any:
    leaves, structure = pytrees.flatten(tree, none_is_leaf=True)
    return pytrees.unflatten(structure, [value_of(leaf) for leaf in leaves])


def _is_number(leaf: Any) -> bool:
    return np.asarray(value_of(leaf)).dtype.kind == "f"


def _numbers(tree: Any) -> list[np.ndarray]:
    leaves, _ = pytrees.flatten(tree, none_is_leaf=True)
    return [np.asarray(value_of(leaf), np.float64) for leaf in leaves if _is_number(leaf)]


def _drawn(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.uniform(0.5, 1.5, array.shape) for array in arrays]


def _inner(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    return float(sum(np.vdot(x, y) for x, y in zip(a, b, strict=True)))


def _shown(index: tuple[int, ...]) -> str:
    return f"{list(index)} " if index else ""


def _brief(arrays: Sequence[np.ndarray]) -> str:
    text = ", ".join(str(array) for array in arrays)
    return text if len(text) < 80 else text[:77] + "..."
