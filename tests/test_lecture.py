"""The first lecture: a test for each of its results, by hand, and PyTorch's word on each."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "first_lecture.py"
PICTURES = {
    "error_against_step", "cost_of_three_ways", "graph", "graph_with_adjoints", "time_and_memory",
}  # fmt: skip


@pytest.fixture(scope="module")
def lecture(tmp_path_factory):
    """What the lecture's script leaves behind: its names, its pictures, what it printed."""
    import contextlib
    import io
    import sys

    folder = tmp_path_factory.mktemp("pictures")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("MPLBACKEND", "Agg")
        patch.setattr(sys, "argv", [str(SCRIPT), str(folder)])
        names = runpy.run_path(str(SCRIPT), run_name="__main__")
    return SimpleNamespace(**names, printed=printed.getvalue(), folder=folder)


def equal(got, want):
    np.testing.assert_array_equal(np.asarray(got), want)


def close(got, want, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=tolerance, atol=tolerance)


# --- by hand --------------------------------------------------------------------------------------


def test_pictures(lecture):
    assert {path.stem for path in lecture.folder.glob("*.png")} == PICTURES
    for path in lecture.folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_shapes_of_derivatives(lecture):
    assert lecture.shapes == {
        ("scalar", "scalar"): (),
        ("scalar", "vector"): (2,),
        ("scalar", "matrix"): (2, 3),
        ("vector", "scalar"): (4,),
        ("vector", "vector"): (4, 2),
        ("vector", "matrix"): (4, 2, 3),
        ("matrix", "scalar"): (4, 5),
        ("matrix", "vector"): (4, 5, 2),
        ("matrix", "matrix"): (4, 5, 2, 3),
    }


def test_rules_for_vectors(lecture):
    assert len(lecture.rules) == 6
    for name in lecture.rules:
        close(lecture.differences[name], 0.0)


def test_chain_rule(lecture):
    assert lecture.dy_dx.shape == (4, 2)
    close(lecture.dy_dx, lecture.dy_du @ lecture.du_dx)


def test_first_example(lecture):
    assert (lecture.a_by_hand, lecture.b_by_hand, lecture.z_by_hand) == (4.5, 2.5, 6.25)
    equal(lecture.dz_dw_by_hand, [5.0, 10.0, 15.0])
    equal(lecture.dz_dw, [5.0, 10.0, 15.0])
    table = {row.node: (row.op, row.value, row.adjoint) for row in lecture.one_example}
    assert list(table) == ["v2", "v1", "v0", "x", "w", "y"]
    assert table["v2"] == ("square", 6.25, 1.0)
    assert table["v1"] == ("sub", 2.5, 5.0)
    assert table["v0"] == ("matmul", 4.5, 5.0)
    assert table["y"] == ("input", 2.0, -5.0)
    equal(table["x"][2], [2.5, -5.0, 10.0])
    equal(table["w"][2], [5.0, 10.0, 15.0])


def test_second_example(lecture):
    equal(lecture.gradient_by_hand, [20.0, -14.0])
    equal(lecture.gradient, [20.0, -14.0])
    table = lecture.several_examples
    assert [row.node for row in table] == ["v2", "v1", "v0", "X", "w", "y"]
    equal(table["v0"].value, [-1.0, 4.0, -2.0])
    equal(table["v1"].value, [-1.0, 3.0, -2.0])
    assert table["v2"].value == 14.0
    equal(table["v0"].adjoint, [-2.0, 6.0, -4.0])
    equal(table["v1"].adjoint, [-2.0, 6.0, -4.0])
    equal(table["w"].adjoint, [20.0, -14.0])
    equal(table["X"].adjoint, [[-2.0, 2.0], [6.0, -6.0], [-4.0, 4.0]])
    equal(table["y"].adjoint, [2.0, -6.0, 4.0])


def test_symbolic_derivative(lecture):
    equal(lecture.derivative_of_polynomial.coef, [0.0, 2.0, 12.0])


def test_errors_of_differences(lecture):
    """The best steps are about sqrt(eps) and eps**(1/3), with errors of sqrt(eps), eps**(2/3)."""
    best = lecture.steps[lecture.forward_error.argmin()]
    assert 1e-9 < best < 1e-7
    assert 1e-10 < lecture.forward_error.min() < 1e-7
    best = lecture.steps[lecture.central_error.argmin()]
    assert 1e-7 < best < 1e-4
    assert 1e-14 < lecture.central_error.min() < 1e-10
    assert lecture.automatic_error < 1e-14


def test_costs_of_three_ways(lecture):
    equal(lecture.sizes, 2 ** np.arange(2, 10))
    n = lecture.sizes
    equal(lecture.operations["symbolic"], n * (n - 2))
    equal(lecture.operations["numeric"], (n + 1) * (n - 1))
    equal(lecture.operations["automatic"], 3 * (n - 1))


def test_formulas_swell(lecture):
    x, slope = 0.2, 1.0
    characters = 1
    for repeats, (length, operations, by_formula, by_tape) in lecture.swell.items():
        slope *= 4 - 8 * x
        x = 4 * x * (1 - x)
        assert operations == 3 * repeats
        assert length > 2 * characters
        close([by_formula, by_tape], slope)
        characters = length
    assert repeats == 8


def test_explicit_construction(lecture):
    assert lecture.explicit == (6.25, 49.0, 81.0)
    assert [row.split()[2] for row in str(lecture.tape).splitlines()[4:7]] == ["=", "=", "="]


def test_implicit_construction(lecture):
    assert lecture.z_tensor.item() == 6.25
    assert "Tape of tensors: 3 instructions" in lecture.printed
    equal(lecture.w_tensor.grad.numpy(), [5.0, 10.0, 15.0])


def test_forward_and_reverse_accumulation(lecture):
    log2, sin5, cos5 = np.log(2.0), np.sin(5.0), np.cos(5.0)
    values = [log2, 10.0, sin5, log2 + 10.0, log2 + 10.0 - sin5]
    along = {"along_x1": [0.5, 5.0, 0.0, 5.5, 5.5], "along_x2": [0.0, 2.0, cos5, 2.0, 2.0 - cos5]}
    for name, tangents in along.items():
        rows = [row for row in getattr(lecture, name) if row.index >= 0]
        close([row.value for row in rows], values, 1e-15)
        close([row.tangent for row in rows], tangents, 1e-15)
    rows = [row for row in lecture.backwards if row.index >= 0]
    assert [row.node for row in rows] == ["v4", "v3", "v2", "v1", "v0"]
    close([row.value for row in rows], values[::-1], 1e-15)
    equal([row.adjoint for row in rows], [1.0, 1.0, -1.0, 1.0, 1.0])
    close(lecture.backwards["x1"].adjoint, 5.5, 1e-15)
    close(lecture.backwards["x2"].adjoint, 2.0 - cos5, 1e-15)


def test_dual_numbers(lecture):
    points = np.array([1.0, 2.0, 3.0])
    by_hand = np.diag(np.sin(points) + points * np.cos(points))
    close(lecture.dual.tangent, by_hand)
    close(lecture.jacobian_of_waves, by_hand)


def test_time_and_memory(lecture):
    """No times here; the memory is exact enough: flat or linear."""
    memory, counts = lecture.memory, lecture.counts
    assert set(lecture.times) == {"forward", "reverse"}
    assert max(memory["reverse"]) < 1.1 * min(memory["reverse"])
    assert memory["forward"][-1] > 0.25 * counts[-1] / counts[0] * memory["forward"][0]
    forward, reverse = lecture.longer["forward"], lecture.longer["reverse"]
    assert max(forward) < 1.5 * min(forward)
    assert reverse[-1] > 0.5 * lecture.depths[-1] / lecture.depths[0] * reverse[0] / 2


def test_backward_of_a_dot_product(lecture):
    equal(lecture.gradient_of_dot, [0.0, 4.0, 8.0, 12.0])
    assert "and its gradient is None so far" in lecture.printed
    assert "is it 4x? True" in lecture.printed


def test_accumulation_and_zero(lecture):
    equal(lecture.accumulated, [1.0, 5.0, 9.0, 13.0])
    equal(lecture.gradient_of_sum, [1.0, 1.0, 1.0, 1.0])


def test_backward_of_a_vector(lecture):
    assert re.search(r"gradient", lecture.refused)
    equal(lecture.gradient_of_squares, [0.0, 2.0, 4.0, 6.0])
    equal(lecture.gradient_of_summed_squares, [0.0, 2.0, 4.0, 6.0])


def test_detach(lecture):
    equal(lecture.gradient_beside_detached, [0.0, 1.0, 4.0, 9.0])
    equal(lecture.gradient_afterwards, [0.0, 2.0, 4.0, 6.0])
    assert "is it u? True" in lecture.printed
    assert "is it 2x? True" in lecture.printed


def test_control_flow(lecture):
    # 0.7 2^11 = 1433.6 is the first beyond 1000; 0.002 2^19 = 1048.576, times 100.
    assert lecture.from_tensors == {0.7: (1433.6, 2048.0), -0.002: (-104857.6, 52428800.0)}
    assert lecture.slopes == {0.7: 2048.0, -0.002: 52428800.0, 400.0: 4.0}


def test_several_losses(lecture):
    equal(lecture.gradient_of_first, [2.0, 4.0, 6.0])
    equal(lecture.gradient_of_both, [5.0, 16.0, 33.0])
    equal(lecture.gradient_of_their_sum, [5.0, 16.0, 33.0])


def test_vector_jacobian(lecture):
    by_hand = [[3 / 5, 4 / 5], [-4 / 25, 3 / 25]]
    close(lecture.jacobian_by_rows, by_hand, 1e-15)
    close(lecture.jacobian, by_hand, 1e-15)


def test_gradient_descent(lecture):
    close(lecture.least_squares, [8 / 31, -5 / 62])
    close(lecture.w_fitted.detach().numpy(), [8 / 31, -5 / 62])


def test_scipy_takes_the_steps(lecture):
    assert lecture.found.success
    np.testing.assert_allclose(lecture.found.x, [8 / 31, -5 / 62], rtol=1e-6)


def test_second_derivatives(lecture):
    close(lecture.hessian_by_rows, 2 * lecture.X.T @ lecture.X)
    close(lecture.newton, [8 / 31, -5 / 62])


# --- PyTorch --------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    """PyTorch with double precision, where it is installed."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


def test_pytorch_agrees_with_shapes(lecture, torch):
    from torch.autograd.functional import jacobian

    for (of, by), shape in lecture.shapes.items():
        factor = torch.tensor(lecture.factors[of])
        x = torch.tensor(lecture.arguments[by])
        derivative = jacobian(lambda x, factor=factor: factor * (x**2).sum(), x)
        assert tuple(derivative.shape) == shape
        close(derivative, lecture.derivatives[of, by])


def test_pytorch_agrees_with_the_rules(lecture, torch):
    from torch.autograd.functional import jacobian

    U, V = torch.tensor(lecture.U), torch.tensor(lecture.V)
    u, v = (lambda x: U @ x), (lambda x: torch.sin(V @ x))
    x = torch.tensor(lecture.point)
    functions = {
        "a": lambda x: torch.ones(3) + 0.0 * u(x),
        "a u": lambda x: 7.0 * u(x),
        "sum(u)": lambda x: u(x).sum(),
        "||u||²": lambda x: (u(x) ** 2).sum(),
        "u + v": lambda x: u(x) + v(x),
        "<u, v>": lambda x: u(x) @ v(x),
    }
    assert list(functions) == list(lecture.rules)
    for name, function in functions.items():
        close(jacobian(function, x), lecture.rules[name][1])

    def outer(u):
        return torch.stack([torch.exp(u[0]) * u[1], u[2] ** 2, u[0], u[1] + u[2]])

    close(jacobian(lambda x: outer(v(x)), x), lecture.dy_dx)


def test_pytorch_agrees_with_the_two_examples(lecture, torch):
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    w = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    y = torch.tensor(2.0, requires_grad=True)
    a = x @ w
    b = a - y
    z = b**2
    for node in (a, b, z):
        node.retain_grad()
    z.backward()
    nodes = {"v0": a, "v1": b, "v2": z, "x": x, "w": w, "y": y}
    for row in lecture.one_example:
        close(row.value, nodes[row.node].detach())
        close(row.adjoint, nodes[row.node].grad)
    close(lecture.w_tensor.grad.numpy(), w.grad)

    X = torch.tensor(lecture.X, requires_grad=True)
    w, y = (torch.tensor(v, requires_grad=True) for v in (lecture.weights, lecture.targets))
    a = X @ w
    b = a - y
    z = b @ b
    for node in (a, b, z):
        node.retain_grad()
    z.backward()
    nodes = {"v0": a, "v1": b, "v2": z, "X": X, "w": w, "y": y}
    for row in lecture.several_examples:
        close(row.value, nodes[row.node].detach())
        close(row.adjoint, nodes[row.node].grad)


def test_pytorch_agrees_with_the_derivative_of_a_wave(lecture, torch):
    here = torch.tensor(lecture.here, requires_grad=True)
    (torch.exp(here) * torch.sin(here)).sum().backward()
    close(lecture.automatic, here.grad)


def test_pytorch_agrees_with_the_logistic_map(lecture, torch):
    for repeats, (*_, by_tape) in lecture.swell.items():
        x = torch.tensor(0.2, requires_grad=True)
        lecture.logistic_map(x, repeats).backward()
        close(by_tape, x.grad)


def test_pytorch_agrees_with_forward_and_reverse(lecture, torch):
    def function(x1, x2):
        return torch.log(x1) + x1 * x2 - torch.sin(x2)

    x1, x2 = torch.tensor(2.0), torch.tensor(5.0)
    for name, tangents in (("along_x1", (1.0, 0.0)), ("along_x2", (0.0, 1.0))):
        _, tangent = torch.func.jvp(function, (x1, x2), tuple(map(torch.tensor, tangents)))
        close(getattr(lecture, name)[-1].tangent, tangent)
    by_x1, by_x2 = torch.func.grad(function, argnums=(0, 1))(x1, x2)
    close(lecture.backwards["x1"].adjoint, by_x1)
    close(lecture.backwards["x2"].adjoint, by_x2)

    points = torch.tensor([1.0, 2.0, 3.0])
    jacobian = torch.autograd.functional.jacobian(lambda x: torch.sin(x) * x, points)
    close(lecture.dual.tangent, jacobian)
    close(lecture.jacobian_of_waves, jacobian)


def test_pytorch_agrees_step_by_step(lecture, torch):
    x = torch.arange(4.0, requires_grad=True)
    assert x.grad is None
    y = 2 * torch.dot(x, x)
    y.backward()
    close(lecture.gradient_of_dot, x.grad)
    x.sum().backward()
    close(lecture.accumulated, x.grad)
    x.grad.zero_()
    x.sum().backward()
    close(lecture.gradient_of_sum, x.grad)
    x.grad.zero_()
    y = x * x
    with pytest.raises(RuntimeError):
        y.backward()
    y.backward(torch.ones(4))
    close(lecture.gradient_of_squares, x.grad)
    x.grad.zero_()
    (x * x).sum().backward()
    close(lecture.gradient_of_summed_squares, x.grad)
    x.grad.zero_()
    y = x * x
    u = y.detach()
    (u * x).sum().backward()
    close(lecture.gradient_beside_detached, x.grad)
    x.grad.zero_()
    y.sum().backward()
    close(lecture.gradient_afterwards, x.grad)


def test_pytorch_agrees_with_control_flow(lecture, torch):
    def doubling(a):
        b = a * 2
        while b.norm() < 1000:
            b = b * 2
        return b if b.sum() > 0 else 100 * b

    for start, slope in lecture.slopes.items():
        a = torch.tensor(start, requires_grad=True)
        d = doubling(a)
        d.backward()
        close(slope, a.grad)
        if start in lecture.from_tensors:
            close(lecture.from_tensors[start], (d.item(), a.grad.item()))


def test_pytorch_agrees_with_several_losses(lecture, torch):
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    shared = x * x
    first, second = shared.sum(), (shared * x).sum()
    first.backward(retain_graph=True)
    close(lecture.gradient_of_first, x.grad)
    second.backward()
    close(lecture.gradient_of_both, x.grad)
    x.grad.zero_()
    shared = x * x
    (shared.sum() + (shared * x).sum()).backward()
    close(lecture.gradient_of_their_sum, x.grad)


def test_pytorch_agrees_with_the_jacobian(lecture, torch):
    def polar(x):
        return torch.stack([torch.hypot(x[0], x[1]), torch.atan2(x[1], x[0])])

    jacobian = torch.autograd.functional.jacobian(polar, torch.tensor([3.0, 4.0]))
    close(lecture.jacobian_by_rows, jacobian)
    close(lecture.jacobian, jacobian)


def test_pytorch_agrees_with_gradient_descent(lecture, torch):
    X, targets = torch.tensor(lecture.X), torch.tensor(lecture.targets)
    w = torch.zeros(2, requires_grad=True)
    for _ in range(100):
        loss = ((X @ w - targets) ** 2).sum()
        loss.backward()
        with torch.no_grad():
            w -= 0.05 * w.grad
        w.grad.zero_()
    close(lecture.w_fitted.detach().numpy(), w.detach())
    close(lecture.loss.item(), loss.item())


def test_pytorch_agrees_with_second_derivatives(lecture, torch):
    X, targets = torch.tensor(lecture.X), torch.tensor(lecture.targets)
    hessian = torch.autograd.functional.hessian(lambda w: ((X @ w - targets) ** 2).sum(),
                                                torch.zeros(2))  # fmt: skip
    close(lecture.hessian_by_rows, hessian)
