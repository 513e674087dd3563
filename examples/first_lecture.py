# %% [markdown]
# # A first lecture on automatic differentiation
#
# From the chain rule to `backward()`, in small steps.  Read it from top to bottom, and run it:
# as a whole (`python examples/first_lecture.py pictures` writes its pictures into that folder),
# or cell by cell in an editor that knows `# %%`.  Every cell prints something that you can check
# by hand.

# %%
import sys
import time
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.polynomial import Polynomial
from scipy.optimize import minimize

import tapejit as tj

FOLDER = Path(sys.argv[1]) if len(sys.argv) == 2 else None  # no folder: no pictures are written
if FOLDER is not None:
    FOLDER.mkdir(parents=True, exist_ok=True)


def show(figure, name):
    """Write a picture into the folder, or show it."""
    if FOLDER is None:
        plt.show()
    else:
        figure.savefig(FOLDER / f"{name}.png", dpi=150)
    plt.close(figure)


# %% [markdown]
# ## 1. Derivatives of scalars, vectors and matrices
#
# The derivative of a scalar function of a scalar is a number.  Otherwise it is an array that
# holds the derivative of each element of the result with respect to each element of the
# argument.  Its shape is *the result's shape followed by the argument's shape*:
#
# |              | scalar x () | vector x (n,) | matrix x (n, k) |
# |--------------|-------------|---------------|-----------------|
# | scalar y ()      | ()      | (n,)          | (n, k)          |
# | vector y (m,)    | (m,)    | (m, n)        | (m, n, k)       |
# | matrix y (m, l)  | (m, l)  | (m, l, n)     | (m, l, n, k)    |
#
# The derivative of a scalar by a vector is its *gradient*, of a vector by a vector the *Jacobian*.
# (Books that use the "numerator layout" write the argument's axes in reverse order.)

# %%
n, k, m, l = 2, 3, 4, 5  # noqa: E741
arguments = {"scalar": np.array(0.5), "vector": np.arange(1.0, n + 1), "matrix": np.ones((n, k))}
factors = {"scalar": np.array(2.0), "vector": np.arange(m), "matrix": np.ones((m, l))}
derivatives = {}
for of, factor in factors.items():
    for by, x in arguments.items():
        derivative = tj.jacobian(lambda x, factor=factor: factor * np.sum(x**2))
        derivatives[of, by] = derivative(x)
shapes = {pair: derivative.shape for pair, derivative in derivatives.items()}
print("shape of the derivative of y (rows) by x (columns)")
print(f"{'':8}" + "".join(f"{by:>14}" for by in arguments))
for of in factors:
    print(f"{of:8}" + "".join(f"{shapes[of, by]!s:>14}" for by in arguments))

# %% [markdown]
# The rules of scalars hold for vectors; only the order of the factors now matters.  With u and v
# functions of the vector x, a a constant:
#
# | y          | dy/dx                       |
# |------------|-----------------------------|
# | a          | 0                           |
# | a u        | a du/dx                     |
# | sum(u)     | 1ᵀ du/dx                    |
# | \|\|u\|\|² | 2 uᵀ du/dx                  |
# | u + v      | du/dx + dv/dx               |
# | ⟨u, v⟩     | uᵀ dv/dx + vᵀ du/dx         |

# %%
point = np.array([0.3, -1.2])
U, V = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[0.5, -1.0], [2.0, 0.0], [1, 1]])
u, v = (lambda x: U @ x), (lambda x: np.sin(V @ x))
at_u, at_v = u(point), v(point)
u_x, v_x = tj.jacobian(u)(point), tj.jacobian(v)(point)
rules = {
    "a": (lambda x: np.ones(3), np.zeros((3, 2))),
    "a u": (lambda x: 7.0 * u(x), 7.0 * u_x),
    "sum(u)": (lambda x: np.sum(u(x)), np.ones(3) @ u_x),
    "||u||²": (lambda x: np.sum(u(x) ** 2), 2.0 * at_u @ u_x),
    "u + v": (lambda x: u(x) + v(x), u_x + v_x),
    "<u, v>": (lambda x: np.dot(u(x), v(x)), at_u @ v_x + at_v @ u_x),
}
differences = {}
for name, (function, by_rule) in rules.items():
    differences[name] = np.abs(tj.jacobian(function)(point) - by_rule).max()
    print(f"{name:8} shape {by_rule.shape!s:8} differs from the rule by {differences[name]:.0e}")

# %% [markdown]
# **The chain rule**: for y = f(u) and u = g(x) the derivatives multiply, dy/dx = dy/du · du/dx.
# For vectors it is a product of Jacobians, of shapes (m, k) and (k, n).

# %%
inner = v
outer = lambda u: np.stack([np.exp(u[0]) * u[1], u[2] ** 2, u[0], u[1] + u[2]])  # noqa: E731
dy_du, du_dx = tj.jacobian(outer)(inner(point)), tj.jacobian(inner)(point)
dy_dx = tj.jacobian(lambda x: outer(inner(x)))(point)
print(f"dy/dx {dy_dx.shape} = dy/du {dy_du.shape} · du/dx {du_dx.shape}")
print(f"largest difference: {np.abs(dy_dx - dy_du @ du_dx).max():.0e}")

# %% [markdown]
# ## 2. First example: z = (⟨x, w⟩ − y)²
#
# Take it apart into steps, each with a derivative that we know:
#
#     a = ⟨x, w⟩      da/dw = xᵀ
#     b = a − y       db/da = 1
#     z = b²          dz/db = 2b
#
# and multiply: dz/dw = dz/db · db/da · da/dw = 2b · 1 · xᵀ = 2 (⟨x, w⟩ − y) xᵀ.


# %%
def squared_error(x, w, y):
    a = np.dot(x, w)
    b = a - y
    return b**2


x, w, y = np.array([1.0, 2.0, 3.0]), np.array([0.5, -1.0, 2.0]), 2.0
a_by_hand = x @ w
b_by_hand = a_by_hand - y
z_by_hand = b_by_hand**2
dz_db, db_da, da_dw = 2 * b_by_hand, 1.0, x
dz_dw_by_hand = dz_db * db_da * da_dw
print(f"a = {a_by_hand}, b = {b_by_hand}, z = {z_by_hand}")
print(f"dz/dw by hand: {dz_dw_by_hand}")
dz_dw = tj.grad(squared_error, argnums=1)(x, w, y)
print(f"dz/dw from the tape: {dz_dw}")

# %% [markdown]
# The tape does the same.  It is the list of those steps, and `explain` shows what the computer
# multiplies: the *adjoint* of a node is dz/d(node), found from the last step to the first.

# %%
one_example = tj.explain(squared_error, x, w, y)
print(one_example)

# %% [markdown]
# ## 3. Second example: z = ‖Xw − y‖²
#
#     a = X w         da/dw = X
#     b = a − y       db/da = I
#     z = ‖b‖²        dz/db = 2 bᵀ
#
# dz/dw = 2 bᵀ · I · X = 2 (Xw − y)ᵀ X: the same shape as w.


# %%
def squared_errors(X, w, y):
    a = X @ w
    b = a - y
    return np.dot(b, b)


X = np.array([[1.0, 2.0], [3.0, -1.0], [-1.0, 1.0]])
weights, targets = np.array([1.0, -1.0]), np.array([0.0, 1.0, 0.0])
gradient_by_hand = 2 * (X @ weights - targets) @ np.eye(3) @ X
gradient = tj.grad(squared_errors, argnums=1)(X, weights, targets)
print(f"by hand: {gradient_by_hand}, from the tape: {gradient}")
several_examples = tj.explain(squared_errors, X, weights, targets)
print(several_examples)

# %% [markdown]
# ## 4. Symbolic, numeric and automatic differentiation
#
# *Symbolic* differentiation turns a formula into a formula:

# %%
polynomial = Polynomial([3.0, 0.0, 1.0, 4.0])
derivative_of_polynomial = polynomial.deriv()
print(f"d/dx ({polynomial})  =  {derivative_of_polynomial}")

# %% [markdown]
# *Numeric* differentiation evaluates the function twice: (f(x + h) − f(x)) / h.  A large h cuts
# off the Taylor series too early, a small one lets rounding win: half of the digits are lost at
# best (a third with central differences).  *Automatic* differentiation applies the chain rule to
# numbers, step by step: it has no h, and its error is that of a few roundings.


# %%
def wave(x):
    return np.exp(x) * np.sin(x)


def exact_derivative(x):
    return np.exp(x) * (np.sin(x) + np.cos(x))


at = 1.0
exact = exact_derivative(at)
steps = 10.0 ** np.arange(-16.0, 0.1, 0.25)
forward_error = np.abs((wave(at + steps) - wave(at)) / steps - exact) / exact
central_error = np.abs((wave(at + steps) - wave(at - steps)) / (2 * steps) - exact) / exact
here = np.linspace(0.5, 1.5, 1000)  # one point would say little about rounding
automatic = tj.grad(lambda x: np.sum(wave(x)))(here)
automatic_error = np.abs(automatic / exact_derivative(here) - 1).max()
print("relative error of the derivative")
for name, errors in (("differences", forward_error), ("central", central_error)):
    print(f"  {name:11}: {errors.min():.0e} at the best step, h = {steps[errors.argmin()]:.0e}")
print(f"  automatic  : {automatic_error:.0e} at most, in {len(here)} points")

figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
axes.loglog(steps, forward_error, ".-", label="(f(x+h) − f(x)) / h")
axes.loglog(steps, central_error, ".-", label="(f(x+h) − f(x−h)) / 2h")
axes.axhline(automatic_error, color="k", label="automatic: no h")
axes.set(xlabel="step h", ylabel="relative error", title="Error of the derivative of exp(x) sin(x)")
axes.legend()
show(figure, "error_against_step")

# %% [markdown]
# What do they cost for the gradient of a function of n numbers?  Take the product x₁x₂⋯xₙ, which
# needs n − 1 multiplications.
#
# - Written out, its gradient has n formulas of n − 2 multiplications each: n (n − 2).
# - Differences evaluate the function n + 1 times: (n + 1)(n − 1).
# - The tape has n − 1 multiplications, and going back over one of them takes two: 3 (n − 1).


# %%
def product(x):
    result = x[0]
    for factor in x[1:]:
        result = result * factor
    return result


sizes = np.array([4, 8, 16, 32, 64, 128, 256, 512])
operations = {"symbolic": [], "numeric": [], "automatic": []}
for size in sizes.tolist():
    tape = tj.trace(product, np.ones(size))
    operations["symbolic"].append(size * (size - 2))
    operations["numeric"].append((size + 1) * len(tape))
    operations["automatic"].append(3 * len(tape))
for name, counts in operations.items():
    print(f"{name:10} multiplications for n = {sizes[-1]}: {counts[-1]:>7}")

figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for (name, counts), style in zip(operations.items(), ("o-", "x--", "s-"), strict=True):
    axes.loglog(sizes, counts, style, base=2, label=name)
axes.set(xlabel="inputs n", ylabel="multiplications", title="Cost of the gradient of x₁x₂⋯xₙ")
axes.legend()
show(figure, "cost_of_three_ways")

# %% [markdown]
# Formulas can do far worse: the product rule writes both factors down twice, so that a formula
# within a formula within a formula grows exponentially.  The tape computes each step once.  Here
# is x → 4x (1 − x), applied again and again, with the derivative as a formula and as a tape.


# %%
def logistic_map(x, times):
    for _ in range(times):
        x = 4 * x * (1 - x)
    return x


value_formula, slope_formula = "x", "1"
swell = {}
print(f"{'times':>6}{'characters':>12}{'operations':>12}{'formula':>20}{'tape':>20}")
for repeats in range(1, 9):
    left, right = f"4*({value_formula})", f"(1-({value_formula}))"
    left_slope, right_slope = f"4*({slope_formula})", f"(-({slope_formula}))"
    value_formula, slope_formula = f"{left}*{right}", f"{left_slope}*{right}+{left}*{right_slope}"
    by_formula = eval(slope_formula, {"x": 0.2})
    by_tape = tj.grad(lambda x, times=repeats: logistic_map(x, times))(0.2)
    steps_on_tape = len(tj.trace(lambda x, times=repeats: logistic_map(x, times), 0.2))
    swell[repeats] = len(slope_formula), steps_on_tape, by_formula, by_tape
    print("{:>6}{:>12}{:>12}{:>20.12g}{:>20.12g}".format(repeats, *swell[repeats]))

# %% [markdown]
# ## 5. The computational graph
#
# Steps and what they use make a graph without cycles: arguments at the top, the result at the
# bottom.  The tape is this graph, written down in an order in which it can be evaluated.

# %%
tape = tj.trace(squared_error, x, w, y)
print(tape)
if FOLDER is not None:
    tape.draw(FOLDER / "graph.png")
    one_example.draw(FOLDER / "graph_with_adjoints.png")

# %% [markdown]
# ## 6. Two ways to build it
#
# **Explicitly**: first the graph of the whole function, then numbers go through it, as often as
# you like.  (Theano and TensorFlow 1 worked so; here you trace a NumPy function.)

# %%
explicit = tape(x, w, y), tape(2 * x, w, y), tape(x, 2 * w, 0.0)
print(f"z at three points: {explicit}")

# %% [markdown]
# **Implicitly**: values are computed at once, and the graph comes into being behind them, anew
# each time.  (PyTorch works so; here it is `tj.tensor`.)

# %%
w_tensor = tj.tensor(w, requires_grad=True)
z_tensor = (np.dot(x, w_tensor) - y) ** 2
print(f"z = {z_tensor.item()}")
print(z_tensor.tape())
z_tensor.backward()
print(f"dz/dw = {w_tensor.grad}")

# %% [markdown]
# ## 7. Forward and reverse accumulation
#
# The chain rule is a product, and a product may be evaluated from either end.
#
# - **Forward**: from the arguments to the result.  Every node carries its *tangent*, the
#   derivative of the node in one chosen direction.  One sweep for each direction.
# - **Reverse**: from the result to the arguments.  Every node carries its *adjoint*, the
#   derivative of the result by the node.  Values have to be there first, so this takes a forward
#   sweep, which keeps them, and then one sweep back: for *all* arguments at once.
#
# The same graph both ways, for the example of Baydin, Pearlmutter, Radul and Siskind (2018),
# "Automatic differentiation in machine learning: a survey", JMLR 18:


# %%
def survey_example(x1, x2):
    logarithm = np.log(x1)
    area = x1 * x2
    sine = np.sin(x2)
    return logarithm + area - sine


x1, x2 = 2.0, 5.0
both_ways = tj.trace(survey_example, x1, x2)
along_x1 = both_ways.explain(x1, x2, mode="forward", tangents=(1.0, 0.0))
along_x2 = both_ways.explain(x1, x2, mode="forward", tangents=(0.0, 1.0))
backwards = both_ways.explain(x1, x2, mode="reverse")
for table in (along_x1, along_x2, backwards):
    print(table, end="\n\n")
by_x1, by_x2 = 1 / x1 + x2, x1 - np.cos(x2)
print(f"by hand: dz/dx1 = {by_x1:.6g}, dz/dx2 = {by_x2:.6g}")

# %% [markdown]
# ## 8. What the two cost
#
# Forward accumulation needs no tape: pairs of value and tangent are all there is to it.


# %%
class Dual:
    """A value and its tangents: one, or one for each direction (along the first axis)."""

    def __init__(self, value, tangent):
        self.value, self.tangent = value, tangent

    def __mul__(self, other):
        tangent = self.value * other.tangent + self.tangent * other.value
        return Dual(self.value * other.value, tangent)

    def sin(self):
        return Dual(np.sin(self.value), np.cos(self.value) * self.tangent)


def waves(x, depth=1):
    for _ in range(depth):
        x = np.sin(x) * x
    return x


def waves_of_duals(x, depth=1):
    for _ in range(depth):
        x = x.sin() * x
    return x


points = np.array([1.0, 2.0, 3.0])
dual = waves_of_duals(Dual(points, np.eye(3)))
print(f"Jacobian by dual numbers:\n{dual.tangent}")
jacobian_of_waves = tj.jacobian(waves)(points)
print(f"and by the tape:\n{jacobian_of_waves}")

# %% [markdown]
# As the number n of inputs grows, the gradient of one number takes n forward sweeps, but one
# reverse sweep: compared with the function itself, forward is linear in n, reverse is flat.
#
# Memory: all n directions at once need n tangents at each node, reverse one adjoint at each.
# One direction at a time needs little, however long the computation: what has been used may be
# forgotten.  Going back needs the values of all operations, as many as there are.
# (Checkpointing trades that memory for time.)


# %%
def seconds(function, *args, repeat=5):
    """The best of a few runs."""
    function(*args)
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - began)
    return min(times)


def dual_bytes(tangent, depth):
    """The most memory that arrays take while dual numbers go forward."""
    tracemalloc.start()
    waves_of_duals(Dual(np.ones(tangent.shape[-1]), tangent), depth)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def reverse_bytes(size, depth):
    """The memory of a compiled forward and reverse sweep: values and adjoints of all nodes."""
    tape = tj.trace(lambda x: np.sum(waves(x, depth)), np.ones(size))
    memory = tj.program.program_for(tape, (0,), "gradient").nbytes
    return memory["values"] + memory["adjoints"]


def total(x):
    return np.sum(waves(x, depth=100))


def by_forward(push, directions):
    """The gradient by one forward sweep for each direction."""
    return np.array([push(direction) for direction in directions])


value, by_reverse = tj.jit(total), tj.grad(total)
counts = 2 ** np.arange(3, 10)
times, memory = {"forward": [], "reverse": []}, {"forward": [], "reverse": []}
print(f"{'inputs':>8}{'time / time of the function':>32}{'bytes / input':>24}")
print(f"{'':8}" + f"{'forward':>20}{'reverse':>12}" * 2)
for count in counts.tolist():
    x_long = np.linspace(0.0, 1.0, count)
    _, push = tj.linearize(value, x_long)
    assert np.allclose(by_forward(push, np.eye(count)), by_reverse(x_long), rtol=1e-12)
    once = seconds(value, x_long, repeat=100)
    times["forward"].append(seconds(by_forward, push, np.eye(count), repeat=3) / once)
    times["reverse"].append(seconds(by_reverse, x_long, repeat=100) / once)
    memory["forward"].append(dual_bytes(np.eye(count), depth=100) / count)
    memory["reverse"].append(reverse_bytes(count, depth=100) / count)
    row = [f"{measured[way][-1]:.3g}" for measured in (times, memory) for way in times]
    print(f"{count:>8}" + "{:>20}{:>12}{:>20}{:>12}".format(*row))

depths = 2 ** np.arange(0, 10)
longer = {
    "forward": [dual_bytes(np.ones(1000), depth) for depth in depths.tolist()],
    "reverse": [reverse_bytes(1000, depth) for depth in depths.tolist()],
}

figure, panels = plt.subplots(1, 3, figsize=(12.0, 4.0), layout="constrained")
for way, marker in (("forward", "o-"), ("reverse", "s-")):
    panels[0].loglog(counts, times[way], marker, base=2, label=way)
    panels[1].loglog(counts, memory[way], marker, base=2, label=way)
    panels[2].loglog(2 * depths, np.array(longer[way]) / 8000, marker, base=2, label=way)
panels[0].set(xlabel="inputs", ylabel="time / time of the function", title="Time of the gradient")
panels[1].set(xlabel="inputs", ylabel="bytes / input", title="Memory, all directions at once")
panels[2].set(xlabel="operations", ylabel="arrays kept", title="Memory, one direction at a time")
for panel in panels:
    panel.legend()
show(figure, "time_and_memory")

# %% [markdown]
# ## 9. `backward`, step by step
#
# The derivative of y = 2 x·x is 4x.  A tensor that `requires_grad` has its operations recorded;
# `backward` sweeps over the record, and leaves the gradient in `.grad`.

# %%
x = tj.tensor(np.arange(4.0))
x.requires_grad_()
print(f"x = {x}, and its gradient is {x.grad} so far")
y = 2 * np.dot(x, x)
print(f"y = {y}")
y.backward()
gradient_of_dot = x.grad.numpy().copy()
print(f"dy/dx = {x.grad}, is it 4x? {np.array_equal(x.grad, 4 * x.data)}")

# %% [markdown]
# Gradients **accumulate**: the next one is added.  Set it to zero if that is not what you want.

# %%
y = x.sum()
y.backward()
accumulated = x.grad.numpy().copy()
print(f"added to the last one: {x.grad}")
x.grad.zero_()
y = x.sum()
y.backward()
gradient_of_sum = x.grad.numpy().copy()
print(f"after zero_, the gradient of the sum: {x.grad}")

# %% [markdown]
# **More than one result.**  `backward` needs one number to start from.  For a vector y, say how
# much each element counts: `backward(v)` computes vᵀ dy/dx.  With ones it is the gradient of the
# sum.

# %%
x.grad.zero_()
y = x * x
try:
    y.backward()
except Exception as error:
    refused = str(error)
    print(f"{type(error).__name__}: {refused}")
y.backward(np.ones(4))
gradient_of_squares = x.grad.numpy().copy()
print(f"with ones: {x.grad}")
x.grad.zero_()
(x * x).sum().backward()
gradient_of_summed_squares = x.grad.numpy().copy()
print(f"the sum's: {x.grad}")

# %% [markdown]
# **Detaching.**  `detach` gives the value without its history.  For z = u x, with u = x² detached,
# the derivative is u, not 3x².

# %%
x.grad.zero_()
y = x * x
u = y.detach()
z = u * x
z.sum().backward()
gradient_beside_detached = x.grad.numpy().copy()
print(f"dz/dx = {x.grad}, is it u? {np.array_equal(x.grad, u)}")

# %% [markdown]
# y itself still has its history: go backward through it afterwards.

# %%
x.grad.zero_()
y.sum().backward()
gradient_afterwards = x.grad.numpy().copy()
print(f"dy/dx = {x.grad}, is it 2x? {np.array_equal(x.grad, 2 * x.data)}")

# %% [markdown]
# ## 10. Derivatives of Python: `while` and `if`
#
# The graph is what was computed, whatever control flow led there.  This function multiplies by 2
# until the norm is large, then by 1 or 100: near any a it is f(a) = k a for some k, so that its
# derivative is f(a) / a.


# %%
def doubling(a):
    b = a * 2
    while np.linalg.norm(b) < 1000:
        b = b * 2
    return b if b.sum() > 0 else 100 * b


from_tensors = {}
for start in (0.7, -0.002):
    a = tj.tensor(start, requires_grad=True)
    d = doubling(a)
    d.backward()
    from_tensors[start] = d.item(), a.grad.item()
    print(f"a = {start}: f(a) = {d.item()}, f'(a) = {a.grad.item()}, f(a) / a = {d.item() / start}")

# %% [markdown]
# A traced function keeps up, too: the branches that Python took are *guards* on its tape.  Where
# one fails, the function is recorded anew, and each path is kept.

# %%
slope = tj.grad(doubling)
slopes = {start: slope(start) for start in (0.7, -0.002, 400.0)}
for start, found in slopes.items():
    print(f"a = {start}: {found}")

# %% [markdown]
# ## 11. Several losses
#
# Losses that share a part of the graph go backward one after the other, and their gradients add
# up.  `backward` frees the graph that it went through; `retain_graph=True` keeps it for the next.

# %%
x = tj.tensor([1.0, 2.0, 3.0], requires_grad=True)
shared = x * x
first, second = shared.sum(), (shared * x).sum()
first.backward(retain_graph=True)
gradient_of_first = x.grad.numpy().copy()
second.backward()
gradient_of_both = x.grad.numpy().copy()
print(f"first: {gradient_of_first} (2x), then both: {gradient_of_both} (2x + 3x²)")
x.zero_grad()
shared = x * x
(shared.sum() + (shared * x).sum()).backward()
gradient_of_their_sum = x.grad.numpy().copy()
print(f"the sum of both at once: {gradient_of_their_sum}")

# %% [markdown]
# ## 12. Jacobians of vectors
#
# `backward(v)` gives vᵀJ.  With the unit vectors for v it gives the rows of J, one sweep each;
# `tj.jacobian` does just this (or takes the columns from forward sweeps, if there are fewer).


# %%
def polar(x):
    return np.stack([np.hypot(x[0], x[1]), np.arctan2(x[1], x[0])])


x = tj.tensor([3.0, 4.0], requires_grad=True)
y = polar(x)
rows = []
for unit in np.eye(2):
    x.zero_grad()
    y.backward(unit, retain_graph=True)
    rows.append(x.grad.numpy().copy())
jacobian_by_rows = np.stack(rows)
print(f"by rows:\n{jacobian_by_rows}")
jacobian = tj.jacobian(polar)(np.array([3.0, 4.0]))
print(f"tj.jacobian:\n{jacobian}")

# %% [markdown]
# ## 13. What it is for
#
# Follow the gradient downhill.  The steps themselves are no part of the function, so they stand
# under `no_grad`.  The second example, ‖Xw − y‖², has the least-squares solution as its minimum.

# %%
w_fitted = tj.tensor(np.zeros(2), requires_grad=True)
for _ in range(100):
    loss = ((X @ w_fitted - targets) ** 2).sum()
    loss.backward()
    with tj.no_grad():
        w_fitted -= 0.05 * w_fitted.grad
    w_fitted.grad.zero_()
least_squares, *_ = np.linalg.lstsq(X, targets)
print(f"after 100 steps: loss {loss.item():.6f}, w = {w_fitted}")
print(f"least squares solution:             w = {least_squares}")

# %% [markdown]
# Or leave the steps to an optimiser of SciPy's: it wants a function of an array that returns the
# value and the gradient (`jac=True`).


# %%
def squares_and_gradient(values):
    w = tj.tensor(values, requires_grad=True)
    loss = ((X @ w - targets) ** 2).sum()
    loss.backward()
    return loss.item(), w.grad.numpy()


found = minimize(squares_and_gradient, np.zeros(2), jac=True, method="BFGS")
print(f"SciPy, after {found.nit} steps: loss {found.fun:.6f}, w = {found.x}")

# %% [markdown]
# ## 14. Derivatives of derivatives
#
# A gradient is a computation, too.  With `create_graph=True` it is recorded like any other, and
# can be differentiated again: row by row, this gives the Hessian of ‖Xw − y‖², which is 2XᵀX.

# %%
w = tj.tensor(np.zeros(2), requires_grad=True)
((X @ w - targets) ** 2).sum().backward(create_graph=True)
by_w, w.grad = w.grad, None
hessian_by_rows = []
for element in by_w:
    element.backward(retain_graph=True)
    hessian_by_rows.append(w.grad.numpy().copy())
    w.zero_grad()
hessian_by_rows = np.stack(hessian_by_rows)
print(f"Hessian by rows:\n{hessian_by_rows}")
print(f"2XᵀX:\n{2 * X.T @ X}")
newton = -np.linalg.solve(hessian_by_rows, by_w.detach().numpy())
print(f"one step of Newton's method from 0 reaches w = {newton}")
