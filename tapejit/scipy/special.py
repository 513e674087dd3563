"""``scipy.special`` for traced values; whatever has no rule here comes from SciPy itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ops.table import OPS
from ..recording.reductions import logsumexp as _logsumexp
from ..recording.reductions import sum as _sum
from ..recording.shapes import operands
from ..recording.tracer import apply, entrance, is_traced

__all__ = [
    "entr", "erf", "erfc", "expit", "kl_div", "log1p", "log_expit", "log_ndtr", "log_softmax",
    "logit", "logsumexp", "ndtr", "rel_entr", "softmax", "softplus", "xlog1py", "xlogy",
]  # fmt: skip


def _scipy(name: str) -> Callable:
    from scipy import special

    return getattr(special, name)


def _dispatched(rule: Callable) -> Callable:
    """The rule for traced values, SciPy's function for constants."""

    def function(*args: Any, **kwargs: Any) -> Any:
        enter = entrance(args)
        if enter is not None:
            return enter(rule, _scipy(rule.__name__), args, kwargs)
        if is_traced(args) or is_traced(list(kwargs.values())):
            return rule(*args, **kwargs)
        return _scipy(rule.__name__)(*args, **kwargs)

    function.__name__ = function.__qualname__ = rule.__name__
    function.__doc__ = rule.__doc__
    return function


@_dispatched
def erf(x: Any) -> Any:
    """Error function."""
    return apply(OPS["erf"], x)


@_dispatched
def erfc(x: Any) -> Any:
    """1 - erf(x), without cancellation."""
    return apply(OPS["erfc"], x)


@_dispatched
def expit(x: Any) -> Any:
    """Logistic function 1 / (1 + exp(-x))."""
    return apply(OPS["expit"], x)


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    enter = entrance((x,))
    if enter is not None:
        return enter(lambda x: apply(OPS["softplus"], x), softplus, (x,), {})
    return apply(OPS["softplus"], x) if is_traced(x) else np.logaddexp(0.0, x)


@_dispatched
def log_expit(x: Any) -> Any:
    """log(expit(x)), without overflow."""
    return -apply(OPS["softplus"], -_array(x))


@_dispatched
def logit(x: Any) -> Any:
    """log(x / (1 - x))."""
    x = _array(x)
    return apply(OPS["log"], x / (1.0 - x))


@_dispatched
def log1p(x: Any) -> Any:
    """log(1 + x), accurate near zero."""
    return apply(OPS["log1p"], x)


@_dispatched
def ndtr(x: Any) -> Any:
    """Cumulative distribution of the standard normal."""
    return 0.5 * apply(OPS["erfc"], _array(x) * (-1.0 / math.sqrt(2.0)))


@_dispatched
def xlogy(x: Any, y: Any) -> Any:
    """x * log(y); zero where x is."""
    _, (x, y) = operands(x, y)
    return _times_log(x, y, lambda v: apply(OPS["log"], v) if is_traced(v) else np.log(v))


@_dispatched
def xlog1py(x: Any, y: Any) -> Any:
    """x * log1p(y); zero where x is."""
    _, (x, y) = operands(x, y)
    return _times_log(x, y, lambda v: apply(OPS["log1p"], v) if is_traced(v) else np.log1p(v))


def _times_log(x: Any, y: Any, log: Callable) -> Any:
    zero = (x == 0) & ~np.isnan(y)
    return np.where(zero, 0.0, x * log(np.where(zero, 1.0, y)))


@_dispatched
def entr(x: Any) -> Any:
    """-x log(x); zero at zero, -inf below."""
    x = _array(x)
    return np.where(x < 0, -np.inf, -xlogy(x, np.where(x < 0, 1.0, x)))


@_dispatched
def rel_entr(x: Any, y: Any) -> Any:
    """x log(x / y); zero where x is and y is not negative, inf outside."""
    _, (x, y) = operands(x, y)
    inside = (x > 0) & (y > 0)
    ratio = np.where(inside, x, 1.0) / np.where(inside, y, 1.0)
    other = np.where((x == 0) & (y >= 0), 0.0, np.inf)
    result = np.where(inside, x * np.log(ratio), other)
    return np.where(np.isnan(x) | np.isnan(y), np.nan, result)


@_dispatched
def kl_div(x: Any, y: Any) -> Any:
    """x log(x / y) - x + y."""
    _, (x, y) = operands(x, y)
    outside = (x < 0) | (y < 0)
    return np.where(outside, np.inf, rel_entr(x, y) - x + y)


@_dispatched
def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    """log(sum(b * exp(a))), without overflow."""
    return _logsumexp(a, axis, b, keepdims, return_sign)


@_dispatched
def softmax(x: Any, axis: Any = None) -> Any:
    """exp(x) / sum(exp(x)), without overflow."""
    powers = np.exp(_shifted(x, axis))
    return powers / _sum(powers, axis, keepdims=True)


@_dispatched
def log_softmax(x: Any, axis: Any = None) -> Any:
    """log(softmax(x)), without overflow."""
    x = _shifted(x, axis)
    return x - np.log(_sum(np.exp(x), axis, keepdims=True))


def _array(x: Any) -> Any:
    _, (x,) = operands(x)
    return x


def _shifted(x: Any, axis: Any) -> Any:
    """The largest subtracted; no derivative passes through the shift, which cancels."""
    x = _array(x)
    top = np.max(x, axis=axis, keepdims=True)
    return x - apply(OPS["stop_gradient"], np.where(np.isfinite(top), top, 0.0))


@_dispatched
def log_ndtr(x: Any) -> Any:
    """log(ndtr(x)); by the asymptotic series far below zero."""
    x = _array(x)
    low = x < -20.0
    near = np.log(ndtr(np.where(low, 0.0, x)))
    z = np.where(low, x, -20.0)
    r = 1.0 / (z * z)
    series = 1.0 - r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r)))
    far = -0.5 * z * z - np.log(-z) - 0.5 * math.log(2.0 * math.pi) + np.log(series)
    return np.where(low, far, near)


#: Rules for SciPy's ufuncs by their names.
UFUNCS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        erf, erfc, expit, log_expit, logit, ndtr, xlogy, xlog1py, entr, rel_entr, kl_div, log_ndtr,
    )
}  # fmt: skip


def __getattr__(name: str) -> Any:
    return _scipy(name)
