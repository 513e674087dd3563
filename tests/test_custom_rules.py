"""custom_vjp and custom_jvp: in every transformation, of every order; bad rules."""

import functools
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit as tj
from tapejit.recording.recorder import active
from tapejit.recording.splice import splice

X = np.array([0.3, 0.7, 1.1])


# --- a custom_vjp with containers, a branch and two results ---------------------------------------


@tj.custom_vjp
def scaled(x, p):
    return np.sin(x) * p["a"], np.sum(x)


def scaled_fwd(x, p):
    y = np.sin(x)
    positive = bool(p["a"] > 0)
    if positive:
        y = y * 1.0
    return (y * p["a"], np.sum(x)), (x, y, p, positive)


def scaled_bwd(residuals, g):
    x, y, p, positive = residuals
    assert positive in (True, False)
    first, second = g
    return first * np.cos(x) * p["a"] + second, {"a": np.sum(first * y), "note": None}


scaled.defvjp(scaled_fwd, scaled_bwd)


def plain_scaled(x, p):
    return np.sin(x) * p["a"], np.sum(x)


def loss_of(function):
    def loss(x, a):
        y, s = function(x, {"a": a, "note": "text"})
        return np.sum(y**2) * s

    return loss


LOSS, PLAIN = loss_of(scaled), loss_of(plain_scaled)

# --- a custom_jvp that calls itself, as they do in JAX --------------------------------------------


@tj.custom_jvp
def product(x, y):
    return np.sin(x) * y, x[0] * y


@product.defjvp
def product_jvp(primals, tangents):
    (x, y), (tx, ty) = primals, tangents
    return product(x, y), (np.cos(x) * tx * y + np.sin(x) * ty, tx[0] * y + x[0] * ty)


def plain_product(x, y):
    return np.sin(x) * y, x[0] * y


def product_loss(function):
    def loss(x, a):
        return np.sum(function(x, a)[0] ** 2) * function(2.0 * x, a)[1]

    return loss


PRODUCT, PLAIN_PRODUCT = product_loss(product), product_loss(plain_product)
PAIRS = pytest.mark.parametrize(
    "loss, plain", [(LOSS, PLAIN), (PRODUCT, PLAIN_PRODUCT)], ids=["vjp", "jvp"]
)


@PAIRS
@pytest.mark.parametrize("a", [2.0, -1.5])
class TestEveryTransformation:
    def test_value(self, loss, plain, a):
        assert_allclose(loss(X, a), plain(X, a), rtol=1e-15)
        assert_allclose(tj.jit(loss)(X, a), plain(X, a), rtol=1e-14)

    def test_gradient(self, loss, plain, a):
        value, got = tj.value_and_grad(loss, (0, 1))(X, a)
        want_value, want = tj.value_and_grad(plain, (0, 1))(X, a)
        assert_allclose(value, want_value, rtol=1e-14)
        for g, w in zip(got, want, strict=True):
            assert_allclose(g, w, rtol=1e-13)

    def test_forward(self, loss, plain, a):
        for direction in ((X, 1.0), (0.0 * X, 1.0), (X, 0.0)):
            got, want = (tj.jvp(f, (X, a), direction) for f in (loss, plain))
            assert_allclose(got, want, rtol=1e-13)

    def test_second_order(self, loss, plain, a):
        want = tj.hessian(plain)(X, a)
        for transformed in (tj.hessian, lambda f: tj.jacrev(tj.grad(f))):
            assert_allclose(transformed(loss)(X, a), want, rtol=1e-12)
        assert_allclose(tj.hvp(loss)(X, X, a), want @ X, rtol=1e-12)

    def test_third_order(self, loss, plain, a):
        def third(f):
            return tj.grad(lambda x, a: np.sum(tj.hvp(f)(x, X, a) ** 2))

        assert_allclose(third(loss)(X, a), third(plain)(X, a), rtol=1e-11)

    def test_inside_of_a_recording(self, loss, plain, a):
        def outer(f):
            return tj.jit(lambda x, a: x - 0.1 * tj.grad(f)(x * 1.5, a))

        got, want = outer(loss), outer(plain)
        for point in (X, 2.0 * X):
            assert_allclose(got(point, a), want(point, a), rtol=1e-13)


def test_branches_of_fwd_are_guards():
    gradient = tj.grad(LOSS)
    plain = tj.grad(PLAIN)
    for a in (1.0, -1.0, 2.0, -3.0, 0.5):
        assert_allclose(gradient(X, a), plain(X, a), rtol=1e-13)


def test_a_loop_until_convergence_with_an_implicit_rule():
    """sqrt by Newton's method; the rule differentiates the equation, not the iteration."""

    @tj.custom_vjp
    def root(a):
        x = a
        while abs(x * x - a) > 1e-12:
            x = 0.5 * (x + a / x)
        return x

    def fwd(a):
        x = root(a)
        return x, x

    root.defvjp(fwd, lambda x, g: (g / (2.0 * x),))
    gradient = tj.grad(root)
    for a in (2.0, 9.0):
        assert_allclose(tj.hvp(root)(a, 1.0), -0.25 * a**-1.5, rtol=1e-10)
        assert_allclose(tj.grad(tj.grad(root))(a), -0.25 * a**-1.5, rtol=1e-10)
        third = tj.grad(tj.grad(tj.grad(root)))
        assert_allclose(third(a), 0.375 * a**-2.5, rtol=1e-10)
    for a in (2.0, 9.0, 0.3):
        assert_allclose(gradient(a), 0.5 / np.sqrt(a), rtol=1e-10)
    assert_allclose(tj.jvp(root, (2.0,), (3.0,))[1], 1.5 / np.sqrt(2.0), rtol=1e-10)


def test_a_loop_with_a_forward_rule():
    @tj.custom_jvp
    def root(a):
        x = a
        while abs(x * x - a) > 1e-12:
            x = 0.5 * (x + a / x)
        return x

    @root.defjvp
    def rule(primals, tangents):
        x = root(*primals)
        return x, tangents[0] / (2.0 * x)

    for a in (2.0, 9.0):
        assert_allclose(tj.grad(root)(a), 0.5 * a**-0.5, rtol=1e-10)
        assert_allclose(tj.jvp(root, (a,), (2.0,))[1], a**-0.5, rtol=1e-10)
        assert_allclose(tj.hvp(root)(a, 1.0), -0.25 * a**-1.5, rtol=1e-10)
        assert_allclose(tj.grad(tj.grad(root))(a), -0.25 * a**-1.5, rtol=1e-10)


def test_straight_through_and_reversed_gradients():
    @tj.custom_vjp
    def rounded(x):
        return np.rint(x)

    rounded.defvjp(lambda x: (np.rint(x), None), lambda _, g: (g,))
    reverse = tj.custom_vjp(lambda x: x)
    reverse.defvjp(lambda x: (x, None), lambda _, g: (-g,))
    assert_allclose(tj.grad(lambda x: np.sum(rounded(x) ** 2))(X), 2.0 * np.rint(X))
    assert_allclose(tj.jvp(rounded, (X,), (X,))[1], X)
    assert_allclose(tj.grad(lambda x: np.sum(reverse(x) ** 2))(X), -2.0 * X)


def test_in_a_scalar_loop_and_through_writes():
    @tj.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, g: (3.0 * x * x * g,))

    def total(f):
        def run(x):
            out = np.zeros_like(x)
            for i in range(len(x)):
                out[i] = f(x[i]) + (out[i - 1] if i else 0.0)
            return np.sum(out * f(x))

        return run

    got, want = total(cube), total(lambda x: x**3)
    assert_allclose(tj.grad(got)(X), tj.grad(want)(X), rtol=1e-13)
    assert_allclose(tj.hessian(got)(X), tj.hessian(want)(X), rtol=1e-12)
    assert_allclose(tj.jvp(got, (X,), (X,)), tj.jvp(want, (X,), (X,)), rtol=1e-13)


def test_writes_inside_of_the_function_do_not_reach_its_argument():
    @tj.custom_vjp
    def first_doubled(x):
        y = x * 1.0
        y[0] = 2.0 * y[0]
        return y

    def fwd(x):
        return first_doubled.function(x), x

    def bwd(x, g):
        g = g * 1.0
        g[0] = 2.0 * g[0]
        return (g,)

    first_doubled.defvjp(fwd, bwd)
    weights = np.array([1.0, 2.0, 3.0])
    f = lambda x: np.sum(first_doubled(x) * weights * x)  # noqa: E731
    assert_allclose(tj.grad(f)(X), [4.0 * X[0], 4.0 * X[1], 6.0 * X[2]])
    assert_allclose(tj.hessian(f)(X), np.diag([4.0, 4.0, 6.0]))


def test_arguments_that_are_views_and_broadcasts():
    @tj.custom_vjp
    def halves(x):
        return 0.5 * x

    halves.defvjp(lambda x: (0.5 * x, None), lambda _, g: (0.5 * g,))
    matrix = np.arange(12.0).reshape(3, 4)
    for view in (
        lambda a: a.T,
        lambda a: a[::2, 1:],
        lambda a: a[1],
        lambda a: a[:, 0],
        lambda a: np.broadcast_to(a[0], (3, 4)),
        lambda a: a[0, 0],
    ):
        f = lambda a, view=view: np.sum(halves(view(a)) ** 2)  # noqa: E731
        want = lambda a, view=view: np.sum((0.5 * view(a)) ** 2)  # noqa: E731
        assert_allclose(tj.grad(f)(matrix), tj.grad(want)(matrix))
        assert_allclose(tj.jvp(f, (matrix,), (matrix,)), tj.jvp(want, (matrix,), (matrix,)))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0), (2, 3, 1)])
def test_shapes(shape):
    @tj.custom_vjp
    def tripled(x):
        return 3.0 * x

    tripled.defvjp(lambda x: (3.0 * x, None), lambda _, g: (3.0 * g,))
    x = np.ones(shape)[()]
    assert_allclose(tj.grad(lambda x: np.sum(tripled(x)))(x), 3.0 * x)
    assert_allclose(tj.jvp(tripled, (x,), (x,))[1], 3.0 * x)


def test_nondiff_argnums_and_keywords():
    @functools.partial(tj.custom_vjp, nondiff_argnums=(0, 2))
    def apply(f, x, n=2):
        return f(x) * n

    apply.defvjp(lambda f, x, n: (f(x) * n, x), lambda f, n, x, g: (g * n * f(x),))
    assert_allclose(tj.grad(lambda x: apply(np.exp, x))(0.5), 2.0 * np.exp(0.5))
    assert_allclose(tj.grad(lambda x: apply(np.exp, x=x, n=3))(0.5), 3.0 * np.exp(0.5))

    @tj.custom_jvp(nondiff_argnums=0)
    def jvp_of(f, x):
        return f(x)

    jvp_of.defjvp(lambda f, primals, tangents: (f(primals[0]), tangents[0] * f(primals[0])))
    assert_allclose(tj.grad(lambda x: jvp_of(np.exp, x))(0.5), np.exp(0.5))


def test_defjvps():
    @tj.custom_jvp
    def power(x, n):
        return x**n

    power.defjvps(lambda t, y, x, n: n * x ** (n - 1.0) * t, None)
    assert_allclose(tj.grad(power)(2.0, 3.0), 12.0)
    assert_allclose(tj.grad(power, 1)(2.0, 3.0), 0.0)
    assert_allclose(tj.jvp(power, (2.0, 3.0), (1.0, 1.0))[1], 12.0)
    assert_allclose(tj.grad(tj.grad(power))(2.0, 3.0), 12.0)


def test_integers_have_no_derivative():
    @tj.custom_vjp
    def pick(x, index):
        return x[index] * 2.0, index + 1

    def fwd(x, index):
        return (x[index] * 2.0, index + 1), (x, index)

    def bwd(residuals, g):
        x, index = residuals
        out = np.zeros_like(x)
        out[index] = 2.0 * g[0]
        return out, None

    pick.defvjp(fwd, bwd)

    def f(x, index):
        value, following = pick(x, index)
        return value * x[0] + following

    index = np.array([2, 0])
    got = tj.grad(lambda x: np.sum(pick(x, index)[0]))(X)
    assert_allclose(got, [2.0, 0.0, 2.0])
    assert_allclose(tj.grad(f)(X, np.int64(1)), [2.0 * X[1], 2.0 * X[0], 0.0])


def test_values_closed_over():
    def close(x, w):
        @tj.custom_vjp
        def f(z):
            return z * x

        f.defvjp(lambda z: (z * x, None), lambda _, g: (g * x,))
        return np.sum(f(w))

    assert_allclose(tj.grad(close, 1)(X, 2.0 * X), X)
    assert_allclose(tj.jvp(lambda w: close(X, w), (X,), (X,))[1], np.sum(X * X))
    with pytest.raises(tj.UnsupportedError, match=r"test_custom_rules.*closes over a value"):
        tj.grad(close)(X, X)
    with pytest.raises(tj.UnsupportedError, match="closes over a value"):
        tj.jvp(close, (X, X), (X, X))
    with pytest.raises(tj.UnsupportedError, match="closes over a value"):
        tj.jit(lambda x: tj.grad(lambda y: close(y, x))(x))(X)
    assert_allclose(tj.jit(close)(X, X), np.sum(X * X))


def test_residuals_cost_nothing_where_the_value_alone_is_asked_for():
    @tj.custom_vjp
    def f(x):
        return np.sin(x)

    f.defvjp(lambda x: (np.sin(x), np.exp(np.cos(x))), lambda r, g: (g * np.log(r),))
    tape = tj.trace(f, X)
    assert len(tape) == 4
    value = tj.program.program_for(tape, (0,), "value").code.forward
    both = tj.program.program_for(tape, (0,), "gradient").code.forward
    assert len(value) < len(both)
    assert_allclose(tj.grad(lambda x: np.sum(f(x)))(X), np.cos(X))


def test_equal_rules_share_a_program():
    def made():
        f = tj.custom_vjp(lambda x: 2.0 * x)
        f.defvjp(lambda x: (2.0 * x, None), lambda _, g: (2.0 * g,))
        return tj.trace(lambda x: np.sum(f(x)), X)

    a, b = made(), made()
    assert a.fingerprint == b.fingerprint


def test_plain_python():
    with tj.testing.plain_python():
        assert_allclose(tj.grad(LOSS)(X, 2.0), tj.grad(PLAIN)(X, 2.0), rtol=1e-12)
        assert_allclose(tj.hvp(PRODUCT)(X, X, 2.0), tj.hvp(PLAIN_PRODUCT)(X, X, 2.0), rtol=1e-12)


def test_large_arrays():
    @tj.custom_vjp
    def f(x):
        return np.tanh(x)

    f.defvjp(lambda x: (np.tanh(x),) * 2, lambda y, g: (g * (1.0 - y * y),))
    x = np.linspace(-2.0, 2.0, 5000)
    assert_allclose(tj.grad(lambda x: np.sum(f(x) * x))(x), np.tanh(x) + x / np.cosh(x) ** 2)


# --- bad rules ------------------------------------------------------------------------------------


def with_bwd(bwd, fwd=lambda x, y: (np.sin(x) * y, (x, y)), **options):
    f = tj.custom_vjp(lambda x, y: np.sin(x) * y, **options)
    f.defvjp(fwd, bwd)
    return lambda x: np.sum(f(x, 2.0 * x))


BAD_BWD = {
    "two cotangents": (
        lambda r, g: (g,),
        r"test_custom_rules.*must return a tuple of 2 cotangents",
    ),
    "a tuple of 3": (lambda r, g: (g, g, g), "got a tuple of 3"),
    "a value of type": (lambda r, g: g, "got a value of type ArrayTracer"),
    "shape": (lambda r, g: (g, np.sum(g)), r"argument 1 has shape \(\), the argument has shape"),
    "structure": (lambda r, g: (g, [g]), "argument 1 has the structure"),
}


@pytest.mark.parametrize("bwd, message", BAD_BWD.values(), ids=BAD_BWD)
def test_a_wrong_backward_rule_is_named_where_it_is_recorded(bwd, message):
    bad = with_bwd(bwd)
    for transformed in (tj.grad(bad), tj.jit(bad)):
        with pytest.raises(tj.RuleError, match=message):
            transformed(X)


def test_fwd_must_return_a_pair():
    bad = with_bwd(lambda r, g: (g, g), fwd=lambda x, y: np.sin(x) * y)
    with pytest.raises(tj.RuleError, match="must return a pair"):
        tj.grad(bad)(X)


def test_no_rule():
    for kind in (tj.custom_vjp, tj.custom_jvp):
        f = kind(np.sin)
        assert f(0.0) == 0.0
        with pytest.raises(tj.RuleError, match="has no rule yet"):
            tj.grad(f)(1.0)
    with pytest.raises(TypeError, match="expects a function"):
        tj.custom_vjp(3)


def test_bwd_must_not_branch():
    def bwd(residuals, g):
        return (g if residuals[0][0] > 0 else -g), g

    with pytest.raises(tj.RuleError, match=r"test_custom_rules.*branches on a traced value"):
        tj.grad(with_bwd(bwd))(X)


def test_forward_mode_needs_a_linear_rule():
    clip = tj.custom_vjp(lambda x: x)
    clip.defvjp(lambda x: (x, None), lambda _, g: (np.clip(g, -1.0, 1.0),))
    assert_allclose(tj.grad(lambda x: np.sum(clip(x) * 3.0))(X), np.ones(3))
    with pytest.raises(tj.UnsupportedError, match=r"not linear in its cotangent.*custom_jvp"):
        tj.jvp(clip, (X,), (X,))


def test_a_wrong_forward_rule():
    def f(rule):
        f = tj.custom_jvp(np.sin)
        f.defjvp(rule)
        return f

    with pytest.raises(tj.RuleError, match="must return a pair"):
        tj.jvp(f(lambda p, t: t[0]), (X,), (X,))
    with pytest.raises(tj.RuleError, match=r"tangent has shape \(\)"):
        tj.jvp(f(lambda p, t: (np.sin(p[0]), np.sum(t[0]))), (X,), (X,))
    with pytest.raises(tj.UnsupportedError, match="not linear in its tangents"):
        tj.grad(lambda x: np.sum(f(lambda p, t: (np.sin(p[0]), t[0] ** 2))(x)))(X)


def test_a_forward_rule_of_another_structure():
    @tj.custom_jvp
    def f(x):
        return {"a": np.sin(x), "b": x}

    f.defjvp(lambda p, t: (f.function(*p), [t[0], t[0]]))
    with pytest.raises(tj.RuleError, match=r"test_custom_rules.*`.*f`: the tangent has the struct"):
        tj.jvp(lambda x: f(x)["a"], (X,), (X,))


def test_rules_that_are_no_functions():
    with pytest.raises(TypeError, match="defvjp expects functions, got NoneType"):
        tj.custom_vjp(np.sin).defvjp(np.sin, None)
    with pytest.raises(TypeError, match="defjvp expects a function, got float"):
        tj.custom_jvp(np.sin).defjvp(2.0)
    assert repr(tj.custom_jvp(np.sin)) == "<custom_jvp sin>"


def test_defjvps_counts_arguments():
    f = tj.custom_jvp(lambda x, y: x * y)
    f.defjvps(lambda t, out, x, y: t * y)
    with pytest.raises(tj.RuleError, match=r"test_custom_rules.*has 1 rules, the call 2 argum"):
        tj.grad(f)(1.0, 2.0)
    g = tj.custom_jvp(lambda x, n: x**n, nondiff_argnums=(1,))
    with pytest.raises(tj.RuleError, match="defjvps cannot be used with nondiff_argnums"):
        g.defjvps(None, None)


def test_arguments_by_position():
    @tj.custom_jvp
    def f(x, *, scale):
        return x * scale

    f.defjvp(lambda p, t: (p[0], t[0]))
    with pytest.raises(tj.RuleError, match=r"test_custom_rules.*keyword-only arguments \(scale\)"):
        tj.grad(lambda x: f(x, scale=2.0))(1.0)
    g = tj.custom_jvp(lambda x: x, nondiff_argnums=(1,))
    g.defjvp(lambda p, t: (p[0], t[0]))
    with pytest.raises(tj.RuleError, match=r"nondiff_argnums names argument 1, but the call has 1"):
        tj.grad(g)(1.0)


@pytest.mark.parametrize("kind", [tj.custom_vjp, tj.custom_jvp])
def test_a_result_without_numbers(kind):
    """Where a function returns nothing to differentiate, no rule is asked."""
    f = kind(lambda x: "done")
    if kind is tj.custom_vjp:
        f.defvjp(lambda x: ("done", None), lambda residuals, g: (x for x in ()))
    else:
        f.defjvp(lambda p, t: 1 / 0)
    assert tj.grad(lambda x: x * 2.0 if f(x) == "done" else x)(1.0) == 2.0


def test_check_accepts_what_is_right():
    right = with_bwd(lambda r, g: (g * np.cos(r[0]) * r[1], g * np.sin(r[0])), check=True)
    assert_allclose(tj.grad(right)(X), 2.0 * np.sin(X) + 2.0 * X * np.cos(X))
    checked = tj.custom_jvp(np.sin, check=True)
    checked.defjvp(lambda p, t: (np.sin(p[0]), np.cos(p[0]) * t[0]))
    assert_allclose(tj.grad(checked)(0.5), np.cos(0.5))


def test_check_names_rule_position_and_both_numbers():
    def bwd(residuals, g):
        x, y = residuals
        gx = g * np.cos(x) * y
        gx[1] = 2.0 * gx[1]
        return gx, g * np.sin(x)

    pattern = (
        r"bwd of .* is wrong at element \[1\] of argument 0: "
        r"it gives (\S+), finite differences give (\S+)"
    )
    with pytest.raises(tj.RuleError, match=pattern) as caught:
        tj.grad(with_bwd(bwd, check=True))(X)
    given, expected = map(float, re.search(pattern, str(caught.value)).groups())
    assert_allclose(given, 2.0 * expected, rtol=1e-6)
    wrong = tj.custom_jvp(np.sin, check=True)
    wrong.defjvp(lambda p, t: (np.sin(p[0]), np.sin(p[0]) * t[0]))
    with pytest.raises(tj.RuleError, match=r"jvp of .* is wrong at element .*of result 0"):
        tj.jvp(wrong, (X,), (X,))


def test_check_compares_the_values_too():
    bad = with_bwd(lambda r, g: (g, g), fwd=lambda x, y: (x * y, (x, y)), check=True)
    with pytest.raises(tj.RuleError, match="the function itself"):
        tj.grad(bad)(X)


def test_a_function_stays_usable_after_a_bad_rule():
    f = tj.custom_vjp(lambda x: 2.0 * x)
    f.defvjp(lambda x: (2.0 * x, None), lambda _, g: (g, g))
    gradient = tj.grad(lambda x: np.sum(f(x)))
    with pytest.raises(tj.RuleError):
        gradient(X)
    f.defvjp(lambda x: (2.0 * x, None), lambda _, g: (2.0 * g,))
    assert_allclose(gradient(X), [2.0, 2.0, 2.0])


# --- splicing -------------------------------------------------------------------------------------


def body(x, s):
    y = np.sin(x) * s
    y[0] = x[1] * 2.0
    z = 0.0
    for i in range(3):
        z = z + y[i] * x[i]
    if z > 0:
        z = z + 1.0
    return y[1:], z, x, s, np.sum(x)


def test_splice_appends_a_tape():
    """What a spliced tape gives, at every order, is what its function gives."""
    tape = tj.trace(body, X, 2.0)

    def of(run):
        def f(q):
            a, z, x, s, t = run(q[:, 1], q[0, 0])
            return np.sum(a) + z * t + np.sum(x**2) * s

        return f

    spliced = of(lambda x, s: splice(active(), tape, [x, s]))
    inline = of(body)
    q = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert_allclose(tj.jit(spliced)(q), inline(q), rtol=1e-14)
    assert_allclose(tj.grad(spliced)(q), tj.grad(inline)(q), rtol=1e-13)
    assert_allclose(tj.hessian(spliced)(q), tj.hessian(inline)(q), rtol=1e-12)


def test_splice_takes_constants():
    tape = tj.trace(body, X, 2.0)
    f = lambda s: splice(active(), tape, [X, s])[1]  # noqa: E731
    assert_allclose(tj.grad(f)(2.0), tj.grad(lambda s: body(X, s)[1])(2.0))
