"""register_op: users' kernels on the tape, eagerly, of every order; bad kernels."""

import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_allclose

import tapejit as tj

X, W = np.array([0.3, 0.7, 1.1, 0.2]), np.array([2.0, -1.0, 0.5, 3.0])


# --- a weighted mean of the elements so far, with every kernel and rule ---------------------------


def mean(x, w, out):
    total = 0.0
    for i in range(x.size):
        total += x[i] * w[i] * x[i]
        out[i] = total / (i + 1)


def mean_reverse(g, x, w, out, dx, dw):
    total = 0.0
    for i in range(x.size - 1, -1, -1):
        total += g[i] / (i + 1)
        dx[i] += 2.0 * total * x[i] * w[i]
        dw[i] = total * x[i] * x[i]


def mean_tangent(tx, tw, x, w, out, t):
    total = 0.0
    for i in range(x.size):
        total += 2.0 * x[i] * w[i] * tx[i] + x[i] * x[i] * tw[i]
        t[i] = total / (i + 1)


def mean_vjp(g, out, x, w):
    total = np.cumsum((g / np.arange(1, x.size + 1))[::-1])[::-1]
    return 2.0 * total * x * w, total * x * x


def mean_jvp(tangents, out, x, w):
    tx, tw = tangents
    return np.cumsum(2.0 * x * w * tx + x * x * tw) / np.arange(1, x.size + 1)


def plain(x, w):
    return np.cumsum(x * w * x) / np.arange(1, x.size + 1)


KINDS = {
    "kernels": {"reverse": mean_reverse, "tangent": mean_tangent},
    "rules": {"vjp": mean_vjp, "jvp": mean_jvp},
}
KINDS["both"] = {**KINDS["kernels"], **KINDS["rules"]}


def loss_of(op):
    return lambda x, w: np.sum(op(np.sin(x), w) ** 2)


@pytest.fixture(params=KINDS)
def op(request):
    return tj.register_op(f"mean of {request.param}", mean, **KINDS[request.param], check=True)


def test_eager(op):
    assert_allclose(op(X, W), plain(X, W), rtol=1e-14)
    assert_allclose(op([1, 2], [3.0, 4.0]), plain(np.array([1.0, 2.0]), np.array([3.0, 4.0])))


def test_first_derivatives(op):
    value, got = tj.value_and_grad(loss_of(op), (0, 1))(X, W)
    want_value, want = tj.value_and_grad(loss_of(plain), (0, 1))(X, W)
    assert_allclose(value, want_value, rtol=1e-13)
    for g, v in zip(got, want, strict=True):
        assert_allclose(g, v, rtol=1e-12)
    for direction in ((X, W), (0.0 * X, W), (X, 0.0 * W)):
        assert_allclose(
            tj.jvp(loss_of(op), (X, W), direction), tj.jvp(loss_of(plain), (X, W), direction)
        )
    assert_allclose(tj.grad(lambda x: loss_of(op)(x, W))(X), want[0], rtol=1e-12)
    assert_allclose(tj.jacobian(lambda x: op(x, W))(X), tj.jacobian(lambda x: plain(x, W))(X))


def test_replay_at_other_points_and_shapes(op):
    gradient, want = tj.grad(loss_of(op)), tj.grad(loss_of(plain))
    for n in (4, 4, 1, 900):
        x, w = np.linspace(0.1, 2.0, n), np.linspace(1.0, -1.0, n)
        assert_allclose(gradient(x, w), want(x, w), rtol=1e-11)


def test_views_and_broadcasts(op):
    matrix = np.arange(1.0, 13.0).reshape(3, 4)
    for of in (lambda m: m[:, 1], lambda m: m[1, ::2], lambda m: np.broadcast_to(m[0, 0], (3,))):
        f = lambda m, of=of: np.sum(op(of(m), 1.0 + of(m)))  # noqa: E731
        g = lambda m, of=of: np.sum(plain(of(m), 1.0 + of(m)))  # noqa: E731
        assert_allclose(tj.grad(f)(matrix), tj.grad(g)(matrix))


def test_inside_of_a_recording(op):
    step = lambda f: tj.jit(lambda x: x - 0.1 * tj.grad(loss_of(f))(x, W))  # noqa: E731
    got, want = step(op), step(plain)
    for x in (X, 2.0 * X):
        assert_allclose(got(x), want(x), rtol=1e-12)


def test_second_order_with_rules():
    for kind in ("rules", "both"):
        op = tj.register_op(f"second {kind}", mean, **KINDS[kind])
        want = tj.hessian(loss_of(plain))(X, W)
        assert_allclose(tj.hessian(loss_of(op))(X, W), want, rtol=1e-11)
        assert_allclose(tj.hvp(loss_of(op))(X, X, W), want @ X, rtol=1e-11)
        assert_allclose(tj.jacrev(tj.grad(loss_of(op)))(X, W), want, rtol=1e-11)


def test_second_order_without_rules_is_an_error_that_names_the_remedy():
    op = tj.register_op("first order", mean, **KINDS["kernels"])
    with pytest.raises(
        tj.UnsupportedError, match=r"test_register_op.*second order of `first order`.*vjp="
    ):
        tj.hvp(loss_of(op))(X, X, W)
    assert_allclose(tj.grad(loss_of(op))(X, W), tj.grad(loss_of(plain))(X, W))


def test_no_derivative():
    op = tj.register_op("value alone", mean)
    assert_allclose(tj.jit(op)(X, W), plain(X, W))
    with pytest.raises(tj.UnsupportedError, match=r"test_register_op.*no derivative in reverse"):
        tj.grad(loss_of(op))(X, W)
    with pytest.raises(tj.UnsupportedError, match="no derivative in forward mode"):
        tj.jvp(loss_of(op), (X, W), (X, W))
    assert_allclose(tj.jit(op)(X, W), plain(X, W))
    assert_allclose(tj.grad(lambda x: np.sum(x) * op(X, W)[0])(X), op(X, W)[0] * np.ones(4))


def dot(x, y, out):
    out[()] = np.dot(x, y)


def dot_reverse(g, x, y, out, dx, dy):
    dx[:] = g[()] * y
    dy[:] = g[()] * x


def test_numbers_and_other_shapes_of_results():
    op = tj.register_op("dot", dot, reverse=dot_reverse, shape=lambda x, y: ())
    result = op(X, W)
    assert isinstance(result, np.float64)
    assert_allclose(result, X @ W)
    assert_allclose(tj.grad(op)(X, W), W)
    assert_allclose(tj.grad(op, 1)(X, W), X)


def outer(x, s, out):
    for i in range(x.size):
        for j in range(x.size):
            out[i, j] = x[i] * x[j] * s[()]


def outer_reverse(g, x, s, out, dx, ds):
    n = x.size
    for i in range(n):
        for j in range(n):
            dx[i] += g[i, j] * x[j] * s[()]
            dx[j] += g[i, j] * x[i] * s[()]
            ds[()] += g[i, j] * x[i] * x[j]


def test_matrices_and_numbers_as_operands():
    op = tj.register_op("outer", outer, reverse=outer_reverse, shape=lambda x, s: x * 2)
    f = lambda x, s: np.sum(np.sin(op(x, s)))  # noqa: E731
    g = lambda x, s: np.sum(np.sin(x[:, None] * x * s))  # noqa: E731
    for got, want in zip(tj.grad(f, (0, 1))(X, 0.5), tj.grad(g, (0, 1))(X, 0.5), strict=True):
        assert_allclose(got, want, rtol=1e-12)


def reversed_by_work(x, out, work):
    work[:] = x
    for i in range(x.size):
        out[i] = work[x.size - 1 - i] ** 2


def reversed_by_work_reverse(g, x, out, dx, work):
    work[:] = g
    for i in range(x.size):
        dx[i] = 2.0 * x[i] * work[x.size - 1 - i]


def test_scratch():
    op = tj.register_op(
        "reversed", reversed_by_work, reverse=reversed_by_work_reverse, scratch=lambda x: x[0]
    )
    f = lambda x: np.sum(op(x) * np.arange(4.0))  # noqa: E731
    assert_allclose(tj.grad(f)(X), 2.0 * X * np.arange(3.0, -1.0, -1.0))


def test_a_kernel_may_be_compiled_already_and_allocate():
    @njit
    def sort(x, out):
        out[:] = np.sort(x)

    @njit
    def sort_reverse(g, x, out, dx):
        dx[np.argsort(x)] = g

    op = tj.register_op("sort", sort, reverse=sort_reverse)
    assert_allclose(tj.grad(lambda x: np.sum(op(x) * np.arange(4.0)))(X), [1.0, 2.0, 3.0, 0.0])


def scaled_by(k):
    def forward(x, out):
        out[:] = k * x

    def reverse(g, x, out, dx):
        dx[:] = k * g

    return tj.register_op("scaled", forward, reverse=reverse)


def test_kernels_with_other_captured_values_are_other_kernels():
    two, three = scaled_by(2.0), scaled_by(3.0)
    assert_allclose(tj.grad(lambda x: np.sum(two(x) + three(x)))(X), 5.0)
    assert_allclose(two(X), 2.0 * X)


def test_plain_python():
    op = tj.register_op("plain", mean, **KINDS["both"])
    with tj.testing.plain_python():
        assert_allclose(tj.grad(loss_of(op))(X, W), tj.grad(loss_of(plain))(X, W), rtol=1e-11)
        assert_allclose(tj.hvp(loss_of(op))(X, X, W), tj.hvp(loss_of(plain))(X, X, W), rtol=1e-11)


def test_threads():
    op = tj.register_op("threads", mean, **KINDS["kernels"])
    gradient = tj.grad(loss_of(op))
    want = {k: tj.grad(loss_of(plain))(k * X, W) for k in (1, 2, 3, 4)}
    wrong = []

    def work(k):
        for _ in range(200):
            if not np.allclose(gradient(k * X, W), want[k], rtol=1e-10):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    script = tmp_path / "kernels.py"
    script.write_text(
        textwrap.dedent("""\
        import numpy as np
        import tapejit as tj
        from tapejit.interpreters.cache import cache_stats

        def forward(x, out):
            out[:] = x**3

        def reverse(g, x, out, dx):
            dx[:] = 3.0 * x * x * g

        op = tj.register_op("cube", forward, reverse=reverse, ndims=(1,))
        print(tj.grad(lambda x: np.sum(op(x)))(np.array([1.0, 2.0])), cache_stats().compiled)
        """)
    )
    runs = [
        subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert all(run.startswith("[ 3. 12.]") for run in runs)
    assert int(runs[0].split()[-1]) > 0
    assert int(runs[1].split()[-1]) == 0


# --- bad input ------------------------------------------------------------------------------------


def test_the_number_of_parameters_is_checked_at_registration():
    with pytest.raises(tj.RuleError, match=r"reverse `mean` has the parameters .*it needs \(g, x0"):
        tj.register_op("bad", mean, reverse=mean)
    with pytest.raises(tj.RuleError, match=r"tangent .*it needs \(tx0, tx1, x0, x1, out, t\)"):
        tj.register_op("bad", mean, tangent=mean)
    with pytest.raises(tj.RuleError, match="forward must be a function of operands and `out`"):
        tj.register_op("bad", lambda out: None)
    with pytest.raises(tj.RuleError, match="forward must be a function"):
        tj.register_op("bad", np.sin)
    with pytest.raises(tj.RuleError, match="ndims has 1 entries for 2 operands"):
        tj.register_op("bad", mean, ndims=(1,))


def does_not_compile(x, out):
    out[:] = {"no": x}["such"].frobnicate()


def test_a_kernel_that_does_not_compile():
    with pytest.raises(tj.RuleError, match="`does_not_compile` does not compile for operands of"):
        tj.register_op("bad", does_not_compile, ndims=(1,))
    op = tj.register_op("bad", does_not_compile)
    with pytest.raises(tj.RuleError, match="does not compile"):
        op(X)
    with pytest.raises(tj.RuleError, match="does not compile"):
        tj.jit(op)(X)


def test_wrong_calls():
    op = tj.register_op("mean", mean)
    with pytest.raises(tj.RuleError, match=r"test_register_op.*takes 2 operands, got 1"):
        op(X)
    with pytest.raises(tj.RuleError, match="takes 2 operands, got 3"):
        tj.jit(lambda x: op(x, x, x))(X)
    bad = tj.register_op("bad shape", mean, shape=lambda x, w: [4])
    with pytest.raises(tj.RuleError, match=r"shape of `bad shape` must return a tuple"):
        bad(X, W)


def test_check_names_position_and_both_numbers():
    def wrong(g, x, w, out, dx, dw):
        mean_reverse(g, x, w, out, dx, dw)

    def wrong_vjp(g, out, x, w):
        dx, dw = mean_vjp(g, out, x, w)
        return dx, 1.5 * dw

    op = tj.register_op("wrong", mean, vjp=wrong_vjp, check=True)
    pattern = r"reverse of `wrong` is wrong at element \[0\] of operand 1: it gives .*, finite"
    with pytest.raises(tj.RuleError, match=pattern):
        tj.grad(loss_of(op))(X, W)
    op = tj.register_op("wrong", mean, vjp=lambda g, out, x, w: (g,))
    with pytest.raises(tj.RuleError, match=r"test_register_op.*must return a tuple of 2 cot"):
        tj.grad(loss_of(op))(X, W)
    op = tj.register_op("wrong", mean, vjp=lambda g, out, x, w: (g, np.sum(g)))
    with pytest.raises(tj.RuleError, match=r"cotangent of operand 1 has shape \(\)"):
        tj.grad(loss_of(op))(X, W)


def positive_root(x, out):
    for i in range(x.size):
        if x[i] < 0.0:
            raise ValueError("negative")
        out[i] = np.sqrt(x[i])


def positive_root_reverse(g, x, out, dx):
    for i in range(x.size):
        if x[i] > 100.0:
            raise ValueError("large")
        dx[i] = 0.5 * g[i] / out[i]


def test_a_wrong_forward_rule_is_named():
    op = tj.register_op("wrong", mean, jvp=lambda tangents, out, x, w: np.stack([out, out]))
    with pytest.raises(
        tj.RuleError,
        match=r"test_register_op.*jvp of `wrong`: the tangent has shape \(2.*result has",
    ):
        tj.jvp(loss_of(op), (X, W), (X, W))
    with pytest.raises(tj.RuleError, match="reverse must be a Python function for Numba"):
        tj.register_op("wrong", mean, reverse=np.sin)


def test_an_exception_in_a_kernel_leaves_the_function_usable():
    op = tj.register_op("positive_root", positive_root, reverse=positive_root_reverse)
    with pytest.raises(ValueError, match="negative"):
        op(-X)
    gradient = tj.grad(lambda x: np.sum(op(x)))
    want = 0.5 / np.sqrt(X)
    for _ in range(3):
        assert_allclose(gradient(X), want)
        with pytest.raises(RuntimeError, match=r"test_register_op.*of `positive_root` raised"):
            gradient(-X)
    assert_allclose(gradient(X), want)
    with pytest.raises(RuntimeError, match=r"test_register_op.*reverse kernel of `positive_root`"):
        gradient(1000.0 * X)
    assert_allclose(gradient(X), want)
