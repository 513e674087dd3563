"""The vocabulary in which rules are written, over overloaded values.

A rule (the value of an operation, its partial derivatives) is an ordinary Python function that
uses operators and the functions of this module.  What it *does* depends on the values passed in:

* :class:`Symbol` prints itself: source text of the generated kernels;
* a tracer records more tape: derivative tapes of any order;
* ``mpmath`` numbers or floats evaluate: the generated tests.

A value type takes part by defining ``__rule__(name, args)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LN2", "LN10", "Symbol", "condition", "function", "strong_mul", "where"]

LN2 = math.log(2.0)
LN10 = math.log(10.0)


#: Operations of the table that the rule vocabulary calls by C's names.
ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "atan2": "arctan2", "pow": "power", "fabs": "abs",
}  # fmt: skip


def _evaluate(name: str, args: tuple) -> Any:
    """A function of constants alone, by NumPy."""
    from .table import OPS

    if name == "condition":
        return args[0]
    with np.errstate(all="ignore"):
        return OPS[ALIASES.get(name, name)].reference(*(np.float64(arg) for arg in args))


def function(name: str) -> Callable[..., Any]:
    """The polymorphic function ``name``: asks the first argument that knows ``__rule__``."""

    def call(*args: Any) -> Any:
        for arg in args:
            handler = getattr(arg, "__rule__", None)
            if handler is not None:
                return handler(name, args)
        return _evaluate(name, args)

    call.__name__ = name
    return call


#: Functions of one or two real arguments that kernels take from ``interpreters.vectormath``.
ELEMENTARY = (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh cbrt sqrt pow atan2 hypot erf erfc floor ceil rint trunc fabs copysign fmod"
).split()

for _name in ELEMENTARY:
    globals()[_name] = function(_name)
__all__.extend(ELEMENTARY)

where = function("where")
strong_mul = function("strong_mul")  # g * p, and 0 where g is 0 whatever p is
condition = function("condition")  # a comparison's truth as 1.0 or 0.0


class Symbol:
    """A value that prints itself as a Python expression.

    Parameters
    ----------
    text
        The expression.
    uses
        Names of the rule's arguments that the expression reads: a kernel loads only those, and a
        reverse sweep keeps only values that are read.
    """

    __slots__ = ("boolean", "text", "uses")

    def __init__(
        self, text: str, uses: frozenset[str] = frozenset(), boolean: bool = False
    ) -> None:
        self.text = text
        self.uses = uses
        self.boolean = boolean

    def __rule__(self, name: str, args: tuple) -> Symbol:
        parts = [_symbol(arg) for arg in args]
        texts = [part.text for part in parts]
        if name == "where":
            test = texts[0] if parts[0].boolean else f"{texts[0]} != 0.0"
            text = f"({texts[1]} if {test} else {texts[2]})"
        elif name == "strong_mul":
            text = f"({texts[0]} * {texts[1]} if {texts[0]} != 0.0 else 0.0)"
        elif name == "condition":
            text = f"(1.0 if {texts[0]} else 0.0)"
        else:
            text = f"{name}({', '.join(texts)})"
        return Symbol(text, frozenset().union(*(part.uses for part in parts)))

    def _binary(self, sign: str, left: Any, right: Any) -> Symbol:
        left, right = _symbol(left), _symbol(right)
        text = f"({left.text} {sign} {right.text})"
        return Symbol(text, left.uses | right.uses, sign in _COMPARISONS)

    def __neg__(self) -> Symbol:
        return Symbol(f"(-{self.text})", self.uses)

    __hash__ = None  # type: ignore[assignment]


_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!="})


def _literal(value: float) -> str:
    return repr(value) if math.isfinite(value) else "math.inf"


def _symbol(value: Any) -> Symbol:
    return value if isinstance(value, Symbol) else Symbol(_literal(float(value)))


def _install_operators() -> None:
    signs = {
        "add": "+", "sub": "-", "mul": "*", "truediv": "/",
        "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    }  # fmt: skip
    for name, sign in signs.items():
        setattr(Symbol, f"__{name}__", lambda s, o, sign=sign: s._binary(sign, s, o))
        setattr(Symbol, f"__r{name}__", lambda s, o, sign=sign: s._binary(sign, o, s))


_install_operators()
