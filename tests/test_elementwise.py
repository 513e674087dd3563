"""Every elementwise operation: value, partials, second order, replay elsewhere, edges."""

import mpmath
import numpy as np
import pytest

import tapejit as tj
from tapejit.interpreters import entry, layout
from tapejit.ops.rules import Symbol
from tapejit.ops.table import OPS, Elementwise
from tapejit.program import Program, Workspace
from tapejit.recording.tracer import apply, is_traced

mpmath.mp.dps = 40
ALL = list(OPS.values())
DIFFERENTIABLE = [op for op in ALL if op.pull is not None]
SMOOTH = [op for op in DIFFERENTIABLE if op.smooth]


class Exact:
    """An mpmath number as a rule value."""

    FUNCTIONS = {  # noqa: RUF012
        "asin": mpmath.asin, "acos": mpmath.acos, "atan": mpmath.atan, "asinh": mpmath.asinh,
        "acosh": mpmath.acosh, "atanh": mpmath.atanh, "atan2": mpmath.atan2, "pow": mpmath.power,
        "fabs": abs, "log10": mpmath.log10, "log1p": mpmath.log1p, "expm1": mpmath.expm1,
        "log2": lambda x: mpmath.log(x, 2), "exp2": lambda x: mpmath.power(2, x),
        "rint": mpmath.nint, "trunc": lambda x: mpmath.floor(x) if x > 0 else mpmath.ceil(x),
        "copysign": lambda x, y: abs(x) if y >= 0 else -abs(x),
        "fmod": lambda x, y: x - y * Exact.FUNCTIONS["trunc"](x / y),
    }  # fmt: skip

    def __init__(self, value):
        self.value = value.value if isinstance(value, Exact) else mpmath.mpf(value)

    def __rule__(self, name, args):
        args = [Exact(a).value if not isinstance(a, bool) else a for a in args]
        if name == "where":
            return Exact(args[1] if args[0] else args[2])
        if name == "condition":
            return Exact(1.0 if args[0] else 0.0)
        if name == "strong_mul":
            return Exact(args[0] * args[1] if args[0] != 0 else 0)
        function = self.FUNCTIONS.get(name) or getattr(mpmath, name)
        return Exact(function(*args))

    def __neg__(self):
        return Exact(-self.value)

    __hash__ = None


def _install():
    import operator

    for name in ("add", "sub", "mul", "truediv"):
        f = getattr(operator, name)
        setattr(Exact, f"__{name}__", lambda s, o, f=f: Exact(f(s.value, Exact(o).value)))
        setattr(Exact, f"__r{name}__", lambda s, o, f=f: Exact(f(Exact(o).value, s.value)))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        f = getattr(operator, name)
        setattr(Exact, f"__{name}__", lambda s, o, f=f: Exact(float(f(s.value, Exact(o).value))))
    Exact.__bool__ = lambda s: bool(s.value)


_install()


def exact(op: Elementwise, *args) -> mpmath.mpf:
    return Exact(op.value(*[Exact(float(a)) for a in args])).value


def sample(op: Elementwise, n: int = 7, seed: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [domain.sample(rng, n) for domain in op.domain]


def function(op: Elementwise):
    return lambda *args: apply(op, *args) if is_traced(args) else op.reference(*args)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_value_against_numpy_and_mpmath(op):
    args = sample(op)
    reference = np.asarray(op.reference(*args), float)
    compiled = tj.jit(function(op))
    compiled(*sample(op, seed=8))  # recorded elsewhere
    np.testing.assert_allclose(np.asarray(compiled(*args), float), reference, 4e-15, 1e-300)
    for k in range(len(args[0])):
        point = [float(a[k]) for a in args]
        want = float(exact(op, *point))
        np.testing.assert_allclose(float(tj.jit(function(op))(*point)), want, 1e-13, 1e-15)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_partials_against_mpmath(op):
    args = sample(op)
    g = np.linspace(0.5, 1.5, len(args[0]))
    _, pullback = tj.vjp(function(op), *args)
    got = pullback(g)
    flags = [
        p is not None for p in op.pull(Symbol("g"), *map(Symbol, "xyz"[: op.arity]), Symbol("f"))
    ]
    for i in range(op.arity):
        for k in range(len(g)):
            point = [mpmath.mpf(float(a[k])) for a in args]

            def along(t, i=i, point=point):
                return Exact(
                    op.value(*[Exact(t if j == i else p) for j, p in enumerate(point)])
                ).value

            want = float(mpmath.diff(along, point[i])) * g[k] if flags[i] else 0.0
            np.testing.assert_allclose(got[i][k], want, 2e-12, 1e-14, err_msg=f"operand {i}")


@pytest.mark.parametrize("op", SMOOTH, ids=lambda op: op.name)
def test_second_order_forward_and_reverse(op):
    scalars = [float(a[0]) for a in sample(op)]
    tj.testing.check_grads(function(op), scalars, order=2, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
@pytest.mark.parametrize("n", [3, 600])
def test_inner_product_identity_on_arrays(op, n):
    """<w, J v> == <J^T w, v>, singly and in tiles."""
    args = sample(op, n)
    rng = np.random.default_rng(1)
    v = [rng.standard_normal(n) for _ in args]
    w = rng.standard_normal(n)
    _, tangent = tj.jvp(function(op), args, v)
    _, pullback = tj.vjp(function(op), *args)
    got = sum(np.dot(a, b) for a, b in zip(pullback(w), v, strict=True))
    scale = np.sum(np.abs(w * tangent)) + 1e-12
    assert abs(np.dot(w, tangent) - got) <= 1e-12 * scale


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_nan_inf_and_zero_values(op):
    """Special values replay as NumPy evaluates them."""
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, 1e308])
    grids = np.meshgrid(*[special] * op.arity, indexing="ij")
    args = [g.reshape(-1).copy() for g in grids]
    with np.errstate(all="ignore"):
        want = np.asarray(op.reference(*args), float)
    got = np.asarray(tj.jit(function(op))(*args), float)
    np.testing.assert_allclose(got, want, 1e-13, 1e-300, equal_nan=True)


@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_empty_arrays(op):
    args = [np.zeros((0, 3)) for _ in op.domain]
    assert tj.jit(function(op))(*args).shape == (0, 3)


def subsets(op: Elementwise) -> list[list[int]]:
    """Every nonempty set of operands that move."""
    return [[i for i in range(op.arity) if bits >> i & 1] for bits in range(1, 1 << op.arity)]


def restricted(f, args, moving):
    """``f`` of the moving operands, the others fixed."""

    def g(*moved):
        full = list(args)
        for i, value in zip(moving, moved, strict=True):
            full[i] = value
        return f(*full)

    return g


def everything(op: Elementwise, args: list) -> list[np.ndarray]:
    """Values, tangents and cotangents for every set of moving operands, assigned and added."""
    found = [np.asarray(tj.jit(function(op))(*args), float)]
    if op.pull is None:
        f = function(op)
        _, tangent = tj.jvp(f, args, args)
        return [*found, tangent, tj.vjp(f, *args)[1](np.ones(np.shape(args[0]))[()])[0]]
    once = function(op)
    for moving in subsets(op):
        moved = [args[i] for i in moving]
        f = restricted(once, args, moving)
        found.append(tj.jvp(f, moved, [0.5 * m for m in moved])[1])
        value, pullback = tj.vjp(lambda *m, f=f: f(*m) + 2.0 * f(*m), *moved)
        found += pullback(np.linspace(1.0, 2.0, np.size(value)).reshape(np.shape(value))[()])
    return found


@pytest.mark.parametrize("shape", ["scalars", "arrays"])
@pytest.mark.parametrize("op", ALL, ids=lambda op: op.name)
def test_kernels_as_plain_python(op, shape):
    """The same kernels uncompiled: coverage sees them, and they agree with compiled ones."""
    args = sample(op, 9)
    if shape == "scalars":
        args = [float(a[0]) for a in args]
    want = everything(op, args)
    with tj.testing.plain_python():
        got = everything(op, args)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, 1e-12, 1e-15)


def test_moving_subsets_agree_with_all_moving():
    """Reverse op codes for fewer operands give the same cotangents."""
    for op in DIFFERENTIABLE:
        args = [float(a[0]) for a in sample(op)]
        full = tj.vjp(function(op), *args)[1](1.0)
        for moving in subsets(op):
            part = tj.vjp(restricted(function(op), args, moving), *[args[i] for i in moving])[1](
                1.0
            )
            np.testing.assert_allclose(part, [full[i] for i in moving], 1e-14)


def test_entry_for_one_argument_as_plain_python():
    """The short way's entry, uncompiled: delivers, and refuses what does not fit."""
    x, out = np.array([0.1, 0.2, 0.3]), np.empty(3)
    with tj.testing.plain_python():
        tape = tj.trace(lambda x: np.sum(np.sin(x) * x), x)
        program = Program(tape, (0,), "gradient", True)
        workspace = Workspace(program)
        workspace.prepare([*program.code.gradients, *program.code.values], "gradient")
        assert entry.run_one(workspace.address, id(x), id(out)) == layout.DONE
        np.testing.assert_allclose(out, np.sin(x) + x * np.cos(x), 1e-15)
        np.testing.assert_allclose(workspace.scalars[1], np.sum(np.sin(x) * x), 1e-15)
        for wrong in (x[:2], x[::2], x.astype(np.float32), x.reshape(1, 3), 2.0, np.zeros(4)):
            status = entry.run_one(workspace.address, id(wrong), id(out))
            assert status == layout.ARGUMENT_CHANGED
        frozen = np.empty(3)
        frozen.flags.writeable = False
        assert entry.run_one(workspace.address, id(x), id(frozen)) == layout.ARGUMENT_CHANGED


def test_zero_cotangent_contributes_nothing():
    """Where-safe: a branch not taken gives no NaN, even through an infinite partial."""
    f = tj.grad(lambda x: np.where(x > 0, np.sqrt(x), 0.0).sum())
    np.testing.assert_array_equal(f(np.array([0.0, 4.0])), [0.0, 0.25])
    assert tj.grad(lambda x: np.where(x > 0, np.log(x), x))(0.0) == 1.0


def test_a_wrong_rule_is_caught():
    """The checker itself fails on a wrong derivative."""
    wrong = Elementwise(
        "sin", OPS["sin"].value, lambda g, x, f: (g * 0.9,), np.sin, OPS["sin"].domain,
        code=OPS["cos"].code,
    )  # fmt: skip
    with pytest.raises(AssertionError):
        tj.testing.check_grads(lambda x: apply(wrong, x), (0.3,))


def test_kinks():
    assert tj.grad(np.abs)(0.0) == 0.0
    assert tj.grad(lambda x: np.maximum(x, 0.0))(0.0) == 0.5
    assert tj.grad(lambda x: np.maximum(x, x))(1.0) == 1.0
