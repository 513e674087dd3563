"""``custom_vjp`` and ``custom_jvp``: functions that bring their own derivative."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import pytrees
from ..errors import RuleError
from ..recording.record import record_function
from ..recording.recorder import Recorder, innermost, where_am_i
from ..recording.splice import splice
from ..recording.tracer import Tracer, entrance, is_traced, lift, recorder_of, value_of
from ..tape import size_of
from .rules import Backward, Forward, Given, Rules, apply_rule, packed, unpacked
from .structure import SHOWN, Arguments, Result, summary, zeros_like

__all__ = ["custom_jvp", "custom_vjp"]


class _Custom:
    """A function with a rule of its own; called on plain values it is the function itself."""

    kind = ""

    def __init__(
        self, function: Callable[..., Any], nondiff_argnums: Sequence[int], check: bool
    ) -> None:
        if not callable(function):
            raise TypeError(f"{self.kind} expects a function, got {type(function).__name__}")
        functools.update_wrapper(self, function)
        self.function = function
        self.name = getattr(function, "__qualname__", repr(function))
        self.nondiff_argnums = tuple(nondiff_argnums)
        self.check = check
        self.rules = Rules(self.name, {})

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = self._positional(args, kwargs)
        leaves, structure = pytrees.flatten(args)
        enter = entrance(tuple(leaves))
        if enter is not None:
            return self._of_tensors(enter, leaves, structure)
        return self._of(args)

    def _of_tensors(self, enter: Callable[..., Any], leaves: list, structure: Any) -> Any:
        """The call on tensors: recorded where a gradient is wanted."""
        returned: Any = None

        def flat(function: Callable[..., Any]) -> Callable[..., list]:
            def run(*leaves: Any) -> list:
                nonlocal returned
                result, returned = pytrees.flatten(
                    function(pytrees.unflatten(structure, list(leaves)))
                )
                return result

            return run

        results = enter(flat(self._of), flat(lambda args: self.function(*args)), tuple(leaves), {})
        return pytrees.unflatten(returned, results)

    def _of(self, args: tuple) -> Any:
        leaves, _ = pytrees.flatten(args)
        traced = [leaf for leaf in leaves if is_traced(leaf)]
        if not traced:
            return self.function(*args)
        rec = innermost(recorder_of(*traced))  # the rule may close over values of any recording
        return self._record(Arguments(rec, args, self._nondiff(len(args))), rec)

    def _positional(self, args: tuple, kwargs: dict) -> tuple:
        """All arguments by position, with their defaults."""
        if isinstance(self.function, np.ufunc):
            unbound = kwargs
        else:
            bound = inspect.signature(self.function).bind(*args, **kwargs)
            unbound = bound.kwargs
            bound.apply_defaults()
            args = bound.args
        if unbound:
            raise RuleError(
                f"{where_am_i()}: `{self.name}` is called with keyword-only arguments "
                f"({', '.join(unbound)}); a {self.kind} function takes its arguments by position"
            )
        return args

    def _nondiff(self, n: int) -> tuple[int, ...]:
        for i in self.nondiff_argnums:
            if not -n <= i < n:
                raise RuleError(
                    f"{where_am_i()}: `{self.name}`: nondiff_argnums names argument {i}, but the "
                    f"call has {n}"
                )
        return tuple(sorted(i % n for i in self.nondiff_argnums))

    def _record(self, arguments: Arguments, rec: Recorder) -> Any:
        raise NotImplementedError

    def _recorded_plainly(
        self, arguments: Arguments, rec: Recorder
    ) -> tuple[Result, Any, list[Tracer]]:
        """(result, its moving leaves packed, what it closes over) of the function itself."""
        given = self.rules.given
        if given is not None and given.answers(arguments.traced):
            return given.result, given.packed, []
        result: Any = None

        def run(*inputs: Any) -> list:
            nonlocal result
            result = Result(self.function(*arguments.with_leaves(inputs)))
            return [result.leaves[i] for i in result.traced]

        values, closed_over = _recorded(rec, self.name, run, arguments)
        moving = result.spliced(values)
        return result, packed(moving) if moving else None, closed_over


def _recorded(
    rec: Recorder, name: str, function: Callable[..., list], arguments: Arguments
) -> tuple[list[Any], list[Tracer]]:
    """The traced values that ``function`` returns, on the outer recording; what it closes over."""
    values: list[Any] = []
    recording = record_function(function, [t.value for t in arguments.traced], name, results=values)
    captured = [lift(rec, tracer) for tracer in recording.captured]
    return splice(rec, recording.tape, [*arguments.traced, *captured], values), captured


class CustomVjp(_Custom):
    """A function with a reverse rule; made by :func:`custom_vjp`."""

    kind = "custom_vjp"
    fwd: Callable[..., Any] | None = None
    bwd: Callable[..., Any] | None = None

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Set the rule.

        Parameters
        ----------
        fwd
            ``fwd(*args) -> result, residuals``.
        bwd
            ``bwd(*nondiff, residuals, cotangent) -> cotangents``, a tuple with an entry for each
            differentiable argument; ``None`` stands for zeros.
        """
        for function in (fwd, bwd):
            if not callable(function):
                raise TypeError(f"defvjp expects functions, got {type(function).__name__}")
        self.fwd, self.bwd = fwd, bwd

    def _record(self, arguments: Arguments, rec: Recorder) -> Any:
        if self.fwd is None or self.bwd is None:
            raise RuleError(
                f"{where_am_i()}: `{self.name}` has no rule yet; call "
                f"`{self.function.__name__}.defvjp(fwd, bwd)` first"
            )
        if self.rules.under_way:
            return self._record_within(arguments, rec)
        result: Any = None
        residuals: Any = None

        def run(*inputs: Any) -> list:
            nonlocal result, residuals
            with self.rules.recording():
                pair = self._forward(arguments.with_leaves(inputs))
            result, residuals = Result(pair[0]), Result(pair[1])
            return [part.leaves[i] for part in (result, residuals) for i in part.traced]

        values, closed_over = _recorded(rec, self.name, run, arguments)
        moving = result.spliced(values[: len(result.traced)])
        residuals.spliced(values[len(result.traced) :])
        if not moving:
            return result.tree([])
        if self.check:
            self._check(arguments)
        kept = [residuals.leaves[i] for i in residuals.traced]
        whole = apply_rule(
            rec, packed(moving), arguments.traced, closed_over, kept, self.rules,
            (arguments.key(), result.structure, residuals.key()),
            lambda operands: self._rule(arguments, result, residuals, operands),
        )  # fmt: skip
        return result.tree(unpacked(whole, result.shapes))

    def _forward(self, args: tuple) -> tuple[Any, Any]:
        """(result, residuals) of ``fwd``."""
        pair = self.fwd(*args)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise RuleError(
                f"{where_am_i()}: fwd of `{self.name}` must return a pair (result, residuals), got "
                f"{summary(pair)}"
            )
        return pair

    def _record_within(self, arguments: Arguments, rec: Recorder) -> Any:
        """A call in the function's own rule: ``fwd`` waits until a derivative asks for it."""
        n = len(arguments.traced)
        result, whole, closed_over = self._recorded_plainly(arguments, rec)
        if not result.moving:
            return result.tree([])

        def residuals_of(inputs: Sequence[Any]) -> Any:
            args = inputs[1 : 1 + n]
            with self.rules.recording(Given.of(args, inputs[0], result)):
                return self._forward(arguments.with_leaves(args))[1]

        whole = apply_rule(
            rec, whole, arguments.traced, closed_over, [], self.rules,
            (arguments.key(), result.structure),
            lambda operands: self._backward(arguments, result, residuals_of, operands),
        )  # fmt: skip
        return result.tree(unpacked(whole, result.shapes))

    def _rule(
        self, arguments: Arguments, result: Result, residuals: Result, operands: list
    ) -> Backward:
        """``bwd``, recorded."""
        n_kept = len(residuals.traced)

        def residuals_of(inputs: Sequence[Any]) -> Any:
            leaves = list(residuals.leaves)
            for i, value in zip(residuals.traced, inputs[len(inputs) - n_kept :], strict=True):
                leaves[i] = value
            return pytrees.unflatten(residuals.structure, leaves)

        return self._backward(arguments, result, residuals_of, operands)

    def _backward(
        self,
        arguments: Arguments,
        result: Result,
        residuals_of: Callable[[Sequence[Any]], Any],
        operands: list,
    ) -> Backward:
        """``bwd``, recorded; ``residuals_of`` finds the residuals among the operands."""
        positions: list[int] = []

        def run(g: Any, *inputs: Any) -> list[Any]:
            cotangent = result.cotangents(unpacked(g, result.shapes))
            cotangents = self._pulled(arguments, residuals_of(inputs), cotangent)
            kept = [i for i, part in enumerate(cotangents) if part is not None]
            positions[:] = [1 + i for i in kept]
            return [cotangents[i] for i in kept]

        g = np.ones(np.shape(operands[0]))[()]
        rule = Backward(self.name, "bwd", run, [g], operands, ())
        rule.positions = tuple(positions)
        return rule

    def _pulled(self, arguments: Arguments, residuals: Any, cotangent: Any) -> list[Any]:
        """What ``bwd`` returns for each traced leaf, checked; None for zeros."""
        parts = self.bwd(*arguments.given(), residuals, cotangent)
        return arguments.taken(self.name, parts)

    def _check(self, arguments: Arguments) -> None:
        from .check import check_vjp

        check_vjp(self, arguments)


class CustomJvp(_Custom):
    """A function with a forward rule; made by :func:`custom_jvp`."""

    kind = "custom_jvp"
    rule: Callable[..., Any] | None = None

    def defjvp(self, jvp: Callable[..., Any]) -> Callable[..., Any]:
        """Set the rule (also as a decorator).

        Parameters
        ----------
        jvp
            ``jvp(*nondiff, primals, tangents) -> result, tangent``, linear in the tangents.
        """
        if not callable(jvp):
            raise TypeError(f"defjvp expects a function, got {type(jvp).__name__}")
        self.rule = jvp
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """Set the rule by arguments.

        Parameters
        ----------
        jvps
            For each argument ``jvp(tangent, result, *args) -> tangent of the result``, or ``None``
            where there is no derivative.
        """
        if self.nondiff_argnums:
            raise RuleError(f"`{self.name}`: defjvps cannot be used with nondiff_argnums")

        def jvp(primals: tuple, tangents: tuple) -> tuple:
            if len(jvps) != len(primals):
                raise RuleError(
                    f"{where_am_i()}: `{self.name}`: defjvps has {len(jvps)} rules, the call "
                    f"{len(primals)} arguments"
                )
            result = self.function(*primals)
            total = None
            for rule, tangent in zip(jvps, tangents, strict=True):
                if rule is not None:
                    part = rule(tangent, result, *primals)
                    total = part if total is None else total + part
            return result, np.zeros_like(result) if total is None else total

        self.rule = jvp

    def _record(self, arguments: Arguments, rec: Recorder) -> Any:
        if self.rule is None:
            raise RuleError(
                f"{where_am_i()}: `{self.name}` has no rule yet; call "
                f"`{self.function.__name__}.defjvp(jvp)` first"
            )
        result, whole, closed_over = self._recorded_plainly(arguments, rec)
        if not result.moving:
            return result.tree([])
        if self.check and not self.rules.under_way:
            self._check(arguments)
        whole = apply_rule(
            rec, whole, arguments.traced, closed_over, [], self.rules,
            (arguments.key(), result.structure),
            lambda operands: self._rule(arguments, result, operands),
        )  # fmt: skip
        return result.tree(unpacked(whole, result.shapes))

    def _rule(self, arguments: Arguments, result: Result, operands: list) -> Forward:
        """The user's rule, recorded."""
        n = len(arguments.traced)
        floats = [i for i, t in enumerate(arguments.traced) if t.value.dtype.kind == "f"]

        def run(*inputs: Any) -> list[Any]:
            tangents: list[Any] = [zeros_like(tracer) for tracer in arguments.traced]
            for i, tangent in zip(floats, inputs, strict=False):
                tangents[i] = tangent
            first = len(floats)
            pushed = self._pushed(arguments, inputs[first : first + 1 + n], tangents, result)
            return [_packed_constants(pushed)]

        leading = [np.ones(arguments.traced[i].shape)[()] for i in floats]
        positions = [1 + i for i in floats]
        return Forward(self.name, "jvp", run, leading, operands, positions)

    def _pushed(
        self, arguments: Arguments, inputs: Sequence[Any], tangents: list, result: Result
    ) -> list[Any]:
        """Tangents of the leaves of the result that move, checked.

        ``inputs``: the packed result, then the traced leaves of the arguments.
        """
        primals = tuple(arguments.trees_of(inputs[1:]))
        with self.rules.recording(Given.of(inputs[1:], inputs[0], result)):
            pair = self.rule(
                *arguments.given(), primals, tuple(arguments.trees_of(tangents, zeros_like))
            )
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise RuleError(
                f"{where_am_i()}: jvp of `{self.name}` must return a pair (result, tangent), got "
                f"{summary(pair)}"
            )
        leaves, structure = pytrees.flatten(pair[1], none_is_leaf=True)
        if structure != result.structure:
            raise RuleError(
                f"{where_am_i()}: jvp of `{self.name}`: the tangent has the structure "
                f"{str(structure)[:SHOWN]}, the result {str(result.structure)[:SHOWN]}"
            )
        found = [leaves[i] for i in result.moving]
        for leaf, shape in zip(found, result.shapes, strict=True):
            if np.shape(value_of(leaf)) != shape:
                raise RuleError(
                    f"{where_am_i()}: jvp of `{self.name}`: the tangent has shape "
                    f"{np.shape(value_of(leaf))}, the result has shape {shape}"
                )
        return found

    def _check(self, arguments: Arguments) -> None:
        from .check import check_jvp

        check_jvp(self, arguments)


def _packed_constants(values: list[Any]) -> Any:
    """As :func:`~tapejit.custom.rules.packed`; some values may be constants."""
    if len(values) == 1:
        return values[0]
    flat = [np.reshape(value, (size_of(np.shape(value_of(value))),)) for value in values]
    return np.concatenate(flat)


def custom_vjp(
    f: Callable[..., Any] | None = None,
    *,
    nondiff_argnums: int | Sequence[int] = (),
    check: bool = False,
) -> Any:
    """A function with a reverse rule of its own; a decorator.

    Parameters
    ----------
    f
        The function, of positional arguments; arguments and result are pytrees.
    nondiff_argnums
        Arguments without derivatives, passed to ``bwd`` before all others.
    check
        Compare the rule with finite differences wherever it is recorded.

    Returns
    -------
    CustomVjp
        Call its ``defvjp(fwd, bwd)`` to set the rule: ``fwd(*args)`` returns (result, residuals),
        ``bwd(*nondiff, residuals, cotangent)`` a tuple of cotangents, one for each differentiable
        argument, ``None`` for zeros.

    Raises
    ------
    RuleError
        Where the function is recorded: a wrong number, structure or shape of cotangents, a ``bwd``
        that branches on traced values, with ``check=True`` a wrong derivative.
    UnsupportedError
        Where a value that the function closes over is differentiated; in forward mode, where
        ``bwd`` is not linear in the cotangent.

    Notes
    -----
    On plain values ``f`` itself runs.  Where the function is recorded ``fwd`` is: a recording does
    not know whether it will be differentiated (what only ``bwd`` needs is left out of programs of
    values).  Branches of ``fwd`` are guards as everywhere; ``bwd`` may use what is decided in
    ``fwd`` if it is returned as a residual, as a Python ``bool`` or ``int``.

    Forward mode transposes ``bwd``, where JAX raises.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> @tj.custom_vjp
    ... def clip_gradient(x):
    ...     return x
    >>> clip_gradient.defvjp(lambda x: (x, None), lambda _, g: (np.clip(g, -1.0, 1.0),))
    >>> tj.grad(lambda x: 5.0 * clip_gradient(x))(2.0)
    np.float64(1.0)
    """
    return _decorated(CustomVjp, f, nondiff_argnums, check)


def custom_jvp(
    f: Callable[..., Any] | None = None,
    *,
    nondiff_argnums: int | Sequence[int] = (),
    check: bool = False,
) -> Any:
    """A function with a forward rule of its own; a decorator.

    Parameters
    ----------
    f, nondiff_argnums, check
        As for :func:`custom_vjp`.

    Returns
    -------
    CustomJvp
        Call its ``defjvp(jvp)`` to set the rule: ``jvp(*nondiff, primals, tangents)`` returns
        (result, tangent) and is linear in the tangents; or its ``defjvps``, a rule for each
        argument.  Reverse mode transposes the rule.

    Raises
    ------
    RuleError, UnsupportedError
        As for :func:`custom_vjp`.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> @tj.custom_jvp
    ... def sinc(x):
    ...     return np.where(x == 0.0, 1.0, np.sin(x) / x)
    >>> @sinc.defjvp
    ... def _(primals, tangents):
    ...     (x,), (t,) = primals, tangents
    ...     y = sinc(x)
    ...     return y, np.where(x == 0.0, 0.0, (np.cos(x) - y) / x) * t
    >>> tj.grad(sinc)(0.0)
    np.float64(0.0)
    """
    return _decorated(CustomJvp, f, nondiff_argnums, check)


def _decorated(
    cls: type, f: Callable[..., Any] | None, nondiff_argnums: int | Sequence[int], check: bool
) -> Any:
    numbers = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)
    if f is None:
        return lambda f: cls(f, numbers, check)
    return cls(f, numbers, check)
