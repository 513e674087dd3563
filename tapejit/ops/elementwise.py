"""Elementwise operations: value, partial derivatives, domain and NumPy reference of each.

One entry an operation; nothing else in the package names its derivative.  Conventions at kinks:
``abs'(0) = 0``, ``sign' = 0``, ties in ``maximum`` and ``minimum`` share the cotangent equally,
``floor``, ``ceil``, ``rint`` and ``trunc`` have derivative zero.  In operations marked ``guarded``
a zero cotangent contributes nothing, even through an infinite or NaN partial.
"""

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from . import rules as m
from .table import POSITIVE, REALS, UNIT, Interval, elementwise

NONZERO = Interval(0.3, 3.0)
WIDE = Interval(-20.0, 20.0)


def _special(name):
    """``scipy.special``'s function, imported when first called."""

    def reference(*args):
        from scipy import special

        return getattr(special, name)(*args)

    return reference


# --- arithmetic ---------------------------------------------------------------------------------

add = elementwise(
    "add", lambda x, y: x + y, partials=lambda x, y, f: (1, 1),
    reference=np.add, domain=(REALS, REALS), kind="=", linear=True,
)  # fmt: skip
sub = elementwise(
    "sub", lambda x, y: x - y, partials=lambda x, y, f: (1, -1),
    reference=np.subtract, domain=(REALS, REALS), kind="=", linear=True,
)  # fmt: skip
mul = elementwise(
    "mul", lambda x, y: x * y, partials=lambda x, y, f: (y, x),
    reference=np.multiply, domain=(REALS, REALS), kind="=", zero_preserving=True,
)  # fmt: skip
div = elementwise(
    "div", lambda x, y: x / y, partials=lambda x, y, f: (1 / y, -(f / y)),
    reference=np.divide, domain=(REALS, NONZERO), guarded=True,
)  # fmt: skip
positive = elementwise(
    "positive", lambda x: x, partials=lambda x, f: (1,),
    reference=np.positive, kind="=", linear=True, zero_preserving=True,
)  # fmt: skip
stop_gradient = elementwise(
    "stop_gradient", lambda x: x, reference=np.positive, kind="=", linear=True
)
neg = elementwise(
    "neg", lambda x: -x, partials=lambda x, f: (-1,),
    reference=np.negative, kind="=", linear=True, zero_preserving=True,
)  # fmt: skip
muladd = elementwise(  # two roundings, never contracted: exactly z + x * y
    "muladd", lambda x, y, z: z + x * y, partials=lambda x, y, z, f: (y, x, 1),
    reference=lambda x, y, z: z + x * y, domain=(REALS, REALS, REALS),
)  # fmt: skip
submul = elementwise(
    "submul", lambda x, y, z: z - x * y, partials=lambda x, y, z, f: (-y, -x, 1),
    reference=lambda x, y, z: z - x * y, domain=(REALS, REALS, REALS),
)  # fmt: skip
mulsub = elementwise(
    "mulsub", lambda x, y, z: x * y - z, partials=lambda x, y, z, f: (y, x, -1),
    reference=lambda x, y, z: x * y - z, domain=(REALS, REALS, REALS),
)  # fmt: skip
strong_mul = elementwise(  # the product with a zero *first* factor is zero, always
    "strong_mul", m.strong_mul, pull=lambda g, x, y, f: (m.strong_mul(g, y), m.strong_mul(g, x)),
    reference=lambda x, y: np.where(x == 0, 0.0, np.multiply(x, y))[()],
    domain=(REALS, REALS),
)  # fmt: skip
square = elementwise(
    "square", lambda x: x * x, partials=lambda x, f: (2 * x,),
    reference=np.square, kind="=", zero_preserving=True,
)  # fmt: skip
reciprocal = elementwise(
    "reciprocal", lambda x: 1 / x, partials=lambda x, f: (-(f * f),),
    reference=np.reciprocal, domain=(NONZERO,), guarded=True,
)  # fmt: skip
power = elementwise(
    "power", m.pow,
    partials=lambda x, y, f: (
        m.where(y == 0, 0.0, y * m.pow(x, y - 1)),
        m.where(x == 0, 0.0, f * m.log(x)),
    ),
    reference=np.float_power, domain=(POSITIVE, REALS), guarded=True, costly=True,
)  # fmt: skip
root = elementwise(
    "sqrt", m.sqrt, partials=lambda x, f: (0.5 / f,),
    reference=np.sqrt, domain=(POSITIVE,), guarded=True, zero_preserving=True,
)  # fmt: skip
cbrt = elementwise(
    "cbrt", m.cbrt, partials=lambda x, f: (f / (3 * x),),
    reference=np.cbrt, domain=(NONZERO,), guarded=True, zero_preserving=True, costly=True,
)  # fmt: skip
absolute = elementwise(
    "abs", m.fabs,
    pull=lambda g, x, f: (m.where(x > 0, g, m.where(x < 0, -g, x * 0)),),
    reference=np.abs, domain=(NONZERO,), kind="=", zero_preserving=True, smooth=False,
)  # fmt: skip


def _signs_differ(x, y):
    return m.condition(x < 0) != m.condition(y < 0)


def _remainder(x, y):
    """Python's and NumPy's remainder: the sign of the divisor."""
    r = m.fmod(x, y)
    return m.where(r == 0, m.copysign(0.0 * r, y), m.where(_signs_differ(r, y), r + y, r))


def _floor_divide(x, y):
    """As NumPy: from the exact fmod, so that no rounding crosses an integer."""
    r = m.fmod(x, y)
    q = (x - r) / y
    q = m.where(r != 0, m.where(_signs_differ(r, y), q - 1.0, q), q)
    return m.where(y == 0, x / y, m.where(q == 0, m.copysign(0.0 * q, x / y), m.rint(q)))


remainder = elementwise(
    "remainder", _remainder, partials=lambda x, y, f: (1, -m.floor(x / y)),
    reference=np.remainder, domain=(REALS, NONZERO), kind="=", smooth=False, guarded=True,
)  # fmt: skip
fmod = elementwise(
    "fmod", m.fmod, partials=lambda x, y, f: (1, -m.trunc(x / y)),
    reference=np.fmod, domain=(REALS, NONZERO), kind="=", smooth=False, guarded=True,
)  # fmt: skip
floor_divide = elementwise(
    "floor_divide", _floor_divide,
    pull=None, reference=np.floor_divide, domain=(REALS, NONZERO), kind="=", smooth=False,
)  # fmt: skip

# --- exponentials and logarithms ----------------------------------------------------------------

exp = elementwise("exp", m.exp, partials=lambda x, f: (f,), reference=np.exp, costly=True)
exp2 = elementwise(
    "exp2", m.exp2, partials=lambda x, f: (f * m.LN2,), reference=np.exp2, costly=True
)
expm1 = elementwise(
    "expm1", m.expm1, partials=lambda x, f: (f + 1,),
    reference=np.expm1, zero_preserving=True, costly=True,
)  # fmt: skip
log = elementwise(
    "log", m.log, partials=lambda x, f: (1 / x,),
    reference=np.log, domain=(POSITIVE,), guarded=True, costly=True,
)  # fmt: skip
log2 = elementwise(
    "log2", m.log2, partials=lambda x, f: ((1 / m.LN2) / x,),
    reference=np.log2, domain=(POSITIVE,), guarded=True, costly=True,
)  # fmt: skip
log10 = elementwise(
    "log10", m.log10, partials=lambda x, f: ((1 / m.LN10) / x,),
    reference=np.log10, domain=(POSITIVE,), guarded=True, costly=True,
)  # fmt: skip
log1p = elementwise(
    "log1p", m.log1p, partials=lambda x, f: (1 / (1 + x),),
    reference=np.log1p, domain=(POSITIVE,), guarded=True, zero_preserving=True, costly=True,
)  # fmt: skip


def _softplus(x):
    """log(1 + exp(x)) without overflow."""
    return m.where(x > 0, x, 0.0) + m.log1p(m.exp(-m.fabs(x)))


def _sigmoid(x):
    """1 / (1 + exp(-x)), from the exponential that does not overflow."""
    e = m.exp(-m.fabs(x))
    return m.where(x >= 0, 1.0, e) / (1.0 + e)


logaddexp = elementwise(
    "logaddexp",
    lambda x, y: m.where(x == y, x + m.LN2, m.where(x > y, x, y) + m.log1p(m.exp(-m.fabs(x - y)))),
    partials=lambda x, y, f: (
        m.where(x == y, 0.5, _sigmoid(x - y)), m.where(x == y, 0.5, _sigmoid(y - x)),
    ),
    reference=np.logaddexp, domain=(REALS, REALS), guarded=True, costly=True,
)  # fmt: skip
logaddexp2 = elementwise(
    "logaddexp2",
    lambda x, y: m.where(
        x == y, x + 1.0, m.where(x > y, x, y) + m.log1p(m.exp2(-m.fabs(x - y))) / m.LN2
    ),
    partials=lambda x, y, f: (
        m.where(x == y, 0.5, _sigmoid((x - y) * m.LN2)),
        m.where(x == y, 0.5, _sigmoid((y - x) * m.LN2)),
    ),
    reference=np.logaddexp2, domain=(REALS, REALS), guarded=True, costly=True,
)  # fmt: skip
expit = elementwise(
    "expit",
    _sigmoid,
    partials=lambda x, f: (f * (1 - f),),
    reference=_special("expit"),
    costly=True,
)
softplus = elementwise(
    "softplus", _softplus, partials=lambda x, f: (_sigmoid(x),),
    reference=lambda x: np.logaddexp(0.0, x), costly=True,
)  # fmt: skip

# --- trigonometric, hyperbolic, inverses --------------------------------------------------------

sin = elementwise(
    "sin", m.sin, partials=lambda x, f: (m.cos(x),),
    reference=np.sin, zero_preserving=True, costly=True,
)  # fmt: skip
cos = elementwise("cos", m.cos, partials=lambda x, f: (-m.sin(x),), reference=np.cos, costly=True)
tan = elementwise(
    "tan", m.tan, partials=lambda x, f: (1 + f * f,),
    reference=np.tan, domain=(Interval(-1.4, 1.4),), zero_preserving=True, costly=True,
)  # fmt: skip
arcsin = elementwise(
    "arcsin", m.asin, partials=lambda x, f: (1 / m.sqrt((1 - x) * (1 + x)),),
    reference=np.arcsin, domain=(UNIT,), guarded=True, zero_preserving=True, costly=True,
)  # fmt: skip
arccos = elementwise(
    "arccos", m.acos, partials=lambda x, f: (-1 / m.sqrt((1 - x) * (1 + x)),),
    reference=np.arccos, domain=(UNIT,), guarded=True, costly=True,
)  # fmt: skip
arctan = elementwise(
    "arctan", m.atan, partials=lambda x, f: (1 / (1 + x * x),),
    reference=np.arctan, zero_preserving=True, costly=True,
)  # fmt: skip
sinh = elementwise(
    "sinh", m.sinh, partials=lambda x, f: (m.cosh(x),),
    reference=np.sinh, zero_preserving=True, costly=True,
)  # fmt: skip
cosh = elementwise(
    "cosh", m.cosh, partials=lambda x, f: (m.sinh(x),), reference=np.cosh, costly=True
)
tanh = elementwise(
    "tanh", m.tanh, partials=lambda x, f: (1 - f * f,),
    reference=np.tanh, zero_preserving=True, costly=True,
)  # fmt: skip
arcsinh = elementwise(
    "arcsinh", m.asinh, partials=lambda x, f: (1 / m.hypot(x, x * 0 + 1),),
    reference=np.arcsinh, zero_preserving=True, costly=True,
)  # fmt: skip
arccosh = elementwise(
    "arccosh", m.acosh, partials=lambda x, f: (1 / (m.sqrt(x - 1) * m.sqrt(x + 1)),),
    reference=np.arccosh, domain=(Interval(1.2, 5.0),), guarded=True, costly=True,
)  # fmt: skip
arctanh = elementwise(
    "arctanh", m.atanh, partials=lambda x, f: (1 / ((1 - x) * (1 + x)),),
    reference=np.arctanh, domain=(UNIT,), guarded=True, zero_preserving=True, costly=True,
)  # fmt: skip


def _arctan2_partials(y, x, f):
    r2 = x * x + y * y
    return x / r2, -y / r2


def _hypot_partials(x, y, f):
    return m.where(f == 0, 0.0, x / f), m.where(f == 0, 0.0, y / f)


arctan2 = elementwise(
    "arctan2", m.atan2, partials=_arctan2_partials,
    reference=np.arctan2, domain=(REALS, NONZERO), guarded=True, costly=True,
)  # fmt: skip
hypot = elementwise(
    "hypot", m.hypot, partials=_hypot_partials,
    reference=np.hypot, domain=(NONZERO, REALS), guarded=True, costly=True,
)  # fmt: skip
erf = elementwise(
    "erf", m.erf, partials=lambda x, f: ((2 / sqrt(pi)) * m.exp(-(x * x)),),
    reference=_special("erf"), zero_preserving=True, costly=True,
)  # fmt: skip
erfc = elementwise(
    "erfc", m.erfc, partials=lambda x, f: ((-2 / sqrt(pi)) * m.exp(-(x * x)),),
    reference=_special("erfc"), costly=True,
)  # fmt: skip

# --- selection: the cotangent is routed ---------------------------------------------------------


def _shared(g, wins, ties):
    """All of ``g`` to the operand that wins, half of it on a tie."""
    return m.where(wins, g, m.where(ties, 0.5 * g, 0.0))


def _larger(x, y):
    """NumPy's maximum: NaN if either is."""
    return m.where(x >= y, x, m.where(y > x, y, x + y))


def _smaller(x, y):
    return m.where(x <= y, x, m.where(y < x, y, x + y))


where = elementwise(
    "where", m.where,
    pull=lambda g, c, x, y, f: (None, m.where(c, g, 0.0), m.where(c, 0.0, g)),
    reference=lambda c, x, y: np.where(np.asarray(c) != 0, x, y)[()],
    domain=(REALS, REALS, REALS), kind="=",
)  # fmt: skip
maximum = elementwise(
    "maximum", _larger,
    pull=lambda g, x, y, f: (_shared(g, x > y, x == y), _shared(g, y > x, x == y)),
    reference=np.maximum, domain=(REALS, REALS), kind="=", smooth=False,
)  # fmt: skip
minimum = elementwise(
    "minimum", _smaller,
    pull=lambda g, x, y, f: (_shared(g, x < y, x == y), _shared(g, y < x, x == y)),
    reference=np.minimum, domain=(REALS, REALS), kind="=", smooth=False,
)  # fmt: skip
fmax = elementwise(
    "fmax", lambda x, y: m.where(x >= y, x, m.where(y == y, y, x)),
    pull=lambda g, x, y, f: (
        _shared(g, m.condition(x > y) + m.condition(y != y), x == y),
        _shared(g, m.condition(y > x) + m.condition(x != x), x == y),
    ),
    reference=np.fmax, domain=(REALS, REALS), kind="=", smooth=False,
)  # fmt: skip
fmin = elementwise(
    "fmin", lambda x, y: m.where(x <= y, x, m.where(y == y, y, x)),
    pull=lambda g, x, y, f: (
        _shared(g, m.condition(x < y) + m.condition(y != y), x == y),
        _shared(g, m.condition(y < x) + m.condition(x != x), x == y),
    ),
    reference=np.fmin, domain=(REALS, REALS), kind="=", smooth=False,
)  # fmt: skip
copysign = elementwise(
    "copysign", m.copysign,
    pull=lambda g, x, y, f: (
        m.where(x == 0, 0.0, g * m.copysign(1.0, x) * m.copysign(1.0, y)), None,
    ),
    reference=np.copysign, domain=(NONZERO, NONZERO), smooth=False,
)  # fmt: skip

# --- steps: derivative zero ---------------------------------------------------------------------


def _step(name, value, reference, arity=1, kind="b"):
    return elementwise(
        name, value, reference=reference, domain=(REALS,) * arity, kind=kind, smooth=False
    )


sign = _step("sign", lambda x: m.where(x > 0, 1.0, m.where(x < 0, -1.0, x)), np.sign, kind="=")
floor = _step("floor", m.floor, np.floor, kind="=")
ceil = _step("ceil", m.ceil, np.ceil, kind="=")
rint = _step("rint", m.rint, np.rint, kind="f")
trunc = _step("trunc", m.trunc, np.trunc, kind="=")
heaviside = _step(
    "heaviside",
    lambda x, h: m.where(x > 0, 1.0, m.where(x < 0, 0.0, m.where(x == 0, h, x))),
    np.heaviside, arity=2, kind="f",
)  # fmt: skip
less = _step("less", lambda x, y: m.condition(x < y), np.less, 2)
less_equal = _step("less_equal", lambda x, y: m.condition(x <= y), np.less_equal, 2)
greater = _step("greater", lambda x, y: m.condition(x > y), np.greater, 2)
greater_equal = _step("greater_equal", lambda x, y: m.condition(x >= y), np.greater_equal, 2)
equal = _step("equal", lambda x, y: m.condition(x == y), np.equal, 2)
not_equal = _step("not_equal", lambda x, y: m.condition(x != y), np.not_equal, 2)
logical_and = _step(
    "logical_and", lambda x, y: m.where(x != 0, m.condition(y != 0), 0.0), np.logical_and, 2
)
logical_or = _step(
    "logical_or", lambda x, y: m.where(x != 0, 1.0, m.condition(y != 0)), np.logical_or, 2
)
logical_xor = _step(
    "logical_xor",
    lambda x, y: m.where(x != 0, m.condition(y == 0), m.condition(y != 0)),
    np.logical_xor, 2,
)  # fmt: skip
logical_not = _step("logical_not", lambda x: m.condition(x == 0), np.logical_not)
isnan = _step("isnan", lambda x: m.condition(x != x), np.isnan)
isinf = _step("isinf", lambda x: m.condition(m.fabs(x) == float("inf")), np.isinf)
isfinite = _step("isfinite", lambda x: m.condition(x - x == 0), np.isfinite)
signbit = _step("signbit", lambda x: m.condition(m.copysign(1.0, x) < 0), np.signbit)
