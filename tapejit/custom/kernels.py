"""``register_op``: a user's own kernels as an operation of the table."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

from ..errors import RuleError, UnsupportedError
from ..interpreters import layout, user
from ..ops.structural import Structural, carry
from ..recording.recorder import in_recording, sampling, where_am_i
from ..recording.tracer import entrance, is_traced, lift, record, recorder_of, value_of
from ..tape import size_of
from .rules import each_jvp, each_vjp, unpacked

__all__ = ["Operation", "register_op"]

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class KernelCall(Structural):
    """One kernel of a registered operation, as an operation of the tape.

    Attributes
    ----------
    function
        The user's kernel: operands, then results, then scratch.
    shapes_of
        ``shapes_of(*operand shapes)``: shapes of the results, which lie packed.
    scratch_of
        ``scratch_of(*operand shapes)``: doubles of scratch; ``None`` without.
    cleared
        Whether the results are zero when the kernel starts.
    """

    function: Callable[..., Any] = field(default=lambda: None)
    shapes_of: Callable[..., Sequence[Shape]] = field(default=lambda *shapes: shapes[:1])
    scratch_of: Callable[..., int] | None = None
    cleared: bool = False

    def __repr__(self) -> str:
        return self.name

    def kernel(self, shapes: Sequence[Shape]) -> tuple[str, list[Shape], int | None]:
        """(name of the kernel, shapes of the results, doubles of scratch) for operands' shapes."""
        results = list(self.shapes_of(*shapes))
        scratch = None if self.scratch_of is None else int(self.scratch_of(*shapes))
        ndims = [len(shape) for shape in (*shapes, *results)]
        cleared = [False] * len(shapes) + [self.cleared] * len(results)
        if scratch is not None:
            ndims.append(1)
            cleared.append(False)
        return user.kernel_for(self.name, self.function, ndims, cleared), results, scratch

    def address(self, shapes: Sequence[Shape]) -> int:
        """The kernel's address, compiled; a clear error where it does not compile."""
        from ..lowering.stream import kernel_table

        name, _, _ = self.kernel(shapes)
        try:
            table = kernel_table()
            return int(table.addresses[table.number(name)])
        except NumbaError as error:
            first = next(line for line in str(error).splitlines() if line.strip())
            raise RuleError(
                f"`{_plain(self.name)}`: its kernel `{_name(self.function)}` does not compile for "
                f"operands of shapes {', '.join(map(str, shapes))}: {first} (see the error above, "
                "from Numba); pure_callback calls functions that Numba cannot compile"
            ) from error

    def evaluate(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """The packed results, by the very kernel that programs call."""
        from ..interpreters import memory

        shapes = [operand.shape for operand in operands]
        address = self.address(shapes)
        _, results, scratch = self.kernel(shapes)
        out = np.zeros(sum(size_of(shape) for shape in results))
        context = np.zeros(layout.CONTEXT_WORDS, np.int64)
        words: list[int] = []
        kept = [*operands, out, np.zeros(scratch or 1)]
        for i, array in enumerate(kept):
            context[layout.SPACE_0 + i] = array.ctypes.data
        for i, shape in enumerate(shapes):
            words += [layout.SPACE_0 + i, 0, *shape]
        at = 0
        for shape in results:
            words += [layout.SPACE_0 + len(shapes), at, *shape]
            at += size_of(shape)
        if scratch is not None:
            words += [layout.SPACE_0 + len(shapes) + 1, 0, scratch]
        instruction = np.array(words, np.int32)
        status = memory.call_now(address, context.ctypes.data, instruction.ctypes.data)
        if status != layout.DONE:
            python = getattr(self.function, "py_func", self.function)
            arrays = [np.array(operand) for operand in operands]
            arrays += [np.zeros(shape) for shape in results]
            python(*arrays, *([] if scratch is None else [np.zeros(scratch)]))
            raise RuntimeError(f"the kernel of `{_plain(self.name)}` raised an exception")
        return out if len(results) > 1 else out.reshape(results[0])

    def apply(self, operands: Sequence[Any]) -> Any:
        """The packed results for tracers and arrays."""
        if not any(is_traced(operand) for operand in operands):
            return self.evaluate([_array(operand) for operand in operands])[()]
        rec = recorder_of(*operands)
        operands = [lift(rec, operand) for operand in operands]
        if sampling():
            shapes = self.shapes_of(*[np.shape(value_of(operand)) for operand in operands])
            value = np.zeros(shapes[0] if len(shapes) == 1 else sum(map(size_of, shapes)))
        else:
            value = self.evaluate([_array(value_of(operand)) for operand in operands])
        return record(rec, self.name, operands, value[()], (self,))


class Operation:
    """A registered operation; called on arrays, numbers and traced values."""

    def __init__(
        self, name: str, n_operands: int, forward: KernelCall, check: Callable[..., None] | None
    ) -> None:
        self.__name__ = name
        self.n_operands = n_operands
        self.forward = forward
        self.check = check

    def __repr__(self) -> str:
        return f"<registered operation {self.__name__}>"

    def __call__(self, *operands: Any) -> Any:
        """The result, a float64 array (a number where it is 0-d).

        Raises
        ------
        RuleError
            For a wrong number of operands, or a ``shape`` that does not accept theirs.
        """
        if len(operands) != self.n_operands:
            raise RuleError(
                f"{where_am_i()}: `{self.__name__}` takes {self.n_operands} operands, got "
                f"{len(operands)}"
            )
        enter = entrance(operands)
        if enter is not None:
            return enter(self._apply, self._apply, operands, {})
        return self._apply(*operands)

    def _apply(self, *operands: Any) -> Any:
        if self.check is not None and (in_recording() or is_traced(operands)):
            self.check([value_of(operand) for operand in operands])
        return self.forward.apply(operands)


def _array(value: Any) -> np.ndarray:
    return np.array(value, np.float64, order="C", copy=None)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def _plain(name: str) -> str:
    return name.partition("#")[0]


def _count(function: Callable[..., Any], part: str, name: str, expected: list[str]) -> None:
    """Raise unless a kernel has the parameters that its part needs."""
    python = getattr(function, "py_func", function)
    if not inspect.isfunction(python):
        raise RuleError(f"register_op({name!r}): {part} must be a Python function for Numba")
    parameters = inspect.signature(python).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) != len(parameters) or len(positional) != len(expected):
        raise RuleError(
            f"register_op({name!r}): {part} `{_name(function)}` has the parameters "
            f"({', '.join(p.name for p in parameters)}), it needs ({', '.join(expected)})"
        )


def register_op(
    name: str,
    forward: Callable[..., None],
    *,
    reverse: Callable[..., None] | None = None,
    tangent: Callable[..., None] | None = None,
    shape: Callable[..., Shape] | None = None,
    scratch: Callable[..., int] | None = None,
    vjp: Callable[..., Sequence[Any]] | None = None,
    jvp: Callable[..., Any] | None = None,
    ndims: Sequence[int] | None = None,
    check: bool = False,
) -> Operation:
    """An operation from a user's own kernels, compiled by Numba.

    Kernels are plain functions over C-contiguous float64 arrays (0-d ones for numbers), in the
    part of the language that Numba compiles; programs call them without Python and without the
    global lock.  They read operands and write results.

    Parameters
    ----------
    name
        Its name in listings and messages.
    forward
        ``forward(*operands, out)``.
    reverse
        ``reverse(g, *operands, out, *cotangents)`` for the cotangent ``g`` of ``out``; the
        cotangents are zero when it starts, and may be assigned or added to.
    tangent
        ``tangent(*tangents, *operands, out, t)`` writes the tangent ``t`` of ``out``.
    shape
        ``shape(*shapes)`` of the operands gives the shape of the result; by default that of the
        first operand.
    scratch
        ``scratch(*shapes)`` of the operands gives a number of doubles; each kernel then takes a
        1-d work array of that length as its last parameter.
    vjp, jvp
        Rules in NumPy instead of, or beside, kernels: ``vjp(g, out, *operands)`` returns a
        cotangent for each operand (``None`` for zeros), ``jvp(tangents, out, *operands)`` the
        tangent.  They may use registered operations.  Derivatives of second and higher order need
        them; where there is a kernel as well, it computes the first.
    ndims
        Dimensions of the operands, where they are always the same: the kernels are then compiled
        now, and an error of Numba's is raised here.
    check
        Compare the derivatives with finite differences wherever the operation is recorded.

    Returns
    -------
    Operation
        Call it on arrays, numbers and traced values.

    Raises
    ------
    RuleError
        For a kernel with the wrong number of parameters, or that does not compile; at a call, for
        a wrong number of operands; with ``check=True`` for a wrong derivative.
    UnsupportedError
        Where a derivative is taken for which there is neither a kernel nor a rule.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> def running_mean(x, out):
    ...     total = 0.0
    ...     for i in range(x.size):
    ...         total += x[i]
    ...         out[i] = total / (i + 1)
    >>> def running_mean_reverse(g, x, out, dx):
    ...     total = 0.0
    ...     for i in range(x.size - 1, -1, -1):
    ...         total += g[i] / (i + 1)
    ...         dx[i] = total
    >>> op = tj.register_op("running_mean", running_mean, reverse=running_mean_reverse)
    >>> tj.grad(lambda x: op(x)[-1])(np.array([1.0, 2.0]))
    array([0.5, 0.5])
    """
    extra = 1 if scratch is None else 2
    python = getattr(forward, "py_func", forward)
    n = len(inspect.signature(python).parameters) - extra if inspect.isfunction(python) else 0
    if n < 1:
        raise RuleError(
            f"register_op({name!r}): forward must be a function of operands and `out`"
            + (" and a work array" if scratch is not None else "")
        )
    operands = [f"x{i}" for i in range(n)]
    work = [] if scratch is None else ["work"]
    _count(forward, "forward", name, [*operands, "out", *work])
    if reverse is not None:
        cotangents = ["d" + x for x in operands]
        _count(reverse, "reverse", name, ["g", *operands, "out", *cotangents, *work])
    if tangent is not None:
        tangents = ["t" + x for x in operands]
        _count(tangent, "tangent", name, [*tangents, *operands, "out", "t", *work])
    whole = user.digest(forward, reverse, tangent, shape, scratch, vjp, jvp)
    derivatives = _Derivatives(name, whole, n, reverse, tangent, vjp, jvp, scratch)
    shape_of = _checked_shape(name, shape)
    calls = [
        KernelCall(
            f"{name}#{whole}", None, vjp=derivatives.vjp, jvp=derivatives.jvp,
            lowering="user_kernel", function=forward, shapes_of=lambda *s: [shape_of(*s)],
            scratch_of=scratch,
        ),
        *derivatives.calls,
    ]  # fmt: skip
    calls[0] = carry(calls[0])
    if ndims is not None:
        if len(ndims) != n:
            raise RuleError(
                f"register_op({name!r}): ndims has {len(ndims)} entries for {n} operands"
            )
        shapes = [(2,) * k for k in ndims]
        calls[0].address(shapes)
        derivatives.compile(shapes, shape_of(*shapes))
    operation = Operation(name, n, calls[0], None)
    if check:
        operation.check = lambda values: _check(operation, derivatives, values)
    return operation


def _checked_shape(name: str, shape: Callable[..., Shape] | None) -> Callable[..., Shape]:
    if shape is None:
        return lambda *shapes: shapes[0]

    def checked(*shapes: Shape) -> Shape:
        result = shape(*shapes)
        if not isinstance(result, tuple) or not all(
            isinstance(k, (int, np.integer)) and k >= 0 for k in result
        ):
            raise RuleError(
                f"{where_am_i()}: shape of `{name}` must return a tuple of lengths, got {result!r} "
                f"for operands of shapes {', '.join(map(str, shapes))}"
            )
        return tuple(int(k) for k in result)

    return checked


class _Derivatives:
    """The derivatives of a registered operation: kernels, rules in NumPy, or neither."""

    def __init__(
        self, name: str, whole: str, n: int, reverse: Any, tangent: Any, vjp: Any, jvp: Any,
        scratch: Any,
    ) -> None:  # fmt: skip
        self.name = name
        self.whole = whole
        self.n = n
        self.vjp_rule = vjp
        self.jvp_rule = jvp
        self.reverse: KernelCall | None = None
        self.tangent: KernelCall | None = None
        if reverse is not None:
            # Operands of the tape's call: g, operands, out.
            self.reverse = self._call(
                "reverse", reverse, lambda g, *s: list(s[:n]),
                None if scratch is None else lambda g, *s: scratch(*s[:n]),
                lambda g, *rest: _packed_rule(self.pull(g, rest[n], rest[:n]), rest[:n]),
                vjp is not None,
            )  # fmt: skip
        if tangent is not None:
            self.tangent = self._call(
                "tangent", tangent, lambda *s: [s[2 * n]],
                None if scratch is None else lambda *s: scratch(*s[n : 2 * n]),
                lambda *rest: self.push(rest[:n], rest[2 * n], rest[n : 2 * n]),
                jvp is not None,
            )  # fmt: skip

    def _call(
        self, part: str, function: Callable[..., None], shapes_of: Any, scratch_of: Any,
        rule: Callable[..., Any], has_rule: bool,
    ) -> KernelCall:  # fmt: skip
        """A kernel of first derivatives as an operation; ``rule`` computes the same in NumPy."""

        def refuse() -> None:
            if not has_rule:
                option = "vjp" if part == "reverse" else "jvp"
                raise UnsupportedError(
                    f"{where_am_i()}: a derivative of second order of `{self.name}`, whose {part} "
                    f"is a kernel; give register_op {option}= as well, a rule in NumPy"
                )

        @each_vjp
        def vjp(_: Any, g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
            refuse()
            from .. import api

            _, pullback = api.vjp(rule, *operands)
            return pullback(g)

        @each_jvp
        def jvp(
            _: Any, tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple
        ) -> Any:
            refuse()
            from .. import api

            moving = [
                np.zeros(np.shape(value_of(x)))[()] if t is None else t
                for t, x in zip(tangents, operands, strict=True)
            ]
            return api.jvp(rule, operands, moving)[1]

        return carry(
            KernelCall(
                f"{self.name}.{part}#{self.whole}", None, vjp=functools.partial(vjp, None),
                jvp=functools.partial(jvp, None),
                lowering="user_kernel", function=function, shapes_of=shapes_of,
                scratch_of=scratch_of, cleared=part == "reverse",
            )
        )  # fmt: skip

    @property
    def calls(self) -> list[KernelCall]:
        """The kernels, as operations."""
        return [call for call in (self.reverse, self.tangent) if call is not None]

    def compile(self, shapes: Sequence[Shape], result: Shape) -> None:
        """Compile the kernels for operands of these dimensions."""
        if self.reverse is not None:
            self.reverse.address([result, *shapes, result])
        if self.tangent is not None:
            self.tangent.address([*shapes, *shapes, result])

    def pull(self, g: Any, f: Any, operands: Sequence[Any]) -> Sequence[Any]:
        """Cotangents by the rule in NumPy, checked."""
        parts = self.vjp_rule(g, f, *operands)
        if not isinstance(parts, (tuple, list)) or len(parts) != self.n:
            raise RuleError(
                f"{where_am_i()}: vjp of `{self.name}` must return a tuple of {self.n} "
                "cotangents, one for each operand"
            )
        for i, (part, operand) in enumerate(zip(parts, operands, strict=True)):
            shapes = np.shape(value_of(part)), np.shape(value_of(operand))
            if part is not None and shapes[0] != shapes[1]:
                raise RuleError(
                    f"{where_am_i()}: vjp of `{self.name}`: the cotangent of operand {i} has shape "
                    f"{shapes[0]}, the operand has shape {shapes[1]}"
                )
        return parts

    def push(self, tangents: Sequence[Any], f: Any, operands: Sequence[Any]) -> Any:
        """The tangent by the rule in NumPy, checked."""
        t = self.jvp_rule(tuple(tangents), f, *operands)
        if np.shape(value_of(t)) != np.shape(value_of(f)):
            raise RuleError(
                f"{where_am_i()}: jvp of `{self.name}`: the tangent has shape "
                f"{np.shape(value_of(t))}, the result has shape {np.shape(value_of(f))}"
            )
        return t

    @each_vjp
    def vjp(self, g: Any, f: Any, operands: Sequence[Any], params: tuple) -> Sequence[Any]:
        """A cotangent for each operand."""
        if self.reverse is not None:
            flat = self.reverse.apply([g, *operands, f])
            return unpacked(flat, [np.shape(value_of(x)) for x in operands])
        if self.vjp_rule is None:
            raise UnsupportedError(
                f"{where_am_i()}: `{self.name}` has no derivative in reverse mode; give "
                "register_op reverse=, a kernel, or vjp=, a rule in NumPy"
            )
        return self.pull(g, f, operands)

    @each_jvp
    def jvp(self, tangents: Sequence[Any], f: Any, operands: Sequence[Any], params: tuple) -> Any:
        """The tangent of the result."""
        moving = [
            np.zeros(np.shape(value_of(x)))[()] if t is None else t
            for t, x in zip(tangents, operands, strict=True)
        ]
        if self.tangent is not None:
            return self.tangent.apply([*moving, *operands, f])
        if self.jvp_rule is None:
            raise UnsupportedError(
                f"{where_am_i()}: `{self.name}` has no derivative in forward mode; give "
                "register_op tangent=, a kernel, or jvp=, a rule in NumPy"
            )
        return self.push(moving, f, operands)


def _packed_rule(parts: Sequence[Any], operands: Sequence[Any]) -> Any:
    """Cotangents as the reverse kernel packs them."""
    filled = [
        np.zeros(np.shape(value_of(x))) if part is None else part
        for part, x in zip(parts, operands, strict=True)
    ]
    if len(filled) == 1:
        return filled[0]
    flat = [np.reshape(part, (size_of(np.shape(value_of(part))),)) for part in filled]
    return np.concatenate(flat)


def _check(operation: Operation, derivatives: _Derivatives, values: list[Any]) -> None:
    """Compare kernels and rules with differences, at the values of a recording."""
    from .check import check_operation

    check_operation(operation, derivatives, [_array(value) for value in values])
