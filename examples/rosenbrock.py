"""Minimise Rosenbrock's function with SciPy's methods: what exact derivatives save.

The same function goes to methods that use gradients (BFGS, L-BFGS-B) and to methods that also use
products of the Hessian with vectors (Newton-CG, trust-ncg, trust-krylov).  Where SciPy can do
without Hessian products, it also runs on finite differences of the plain function.
"""

import time

import numpy as np
from scipy.optimize import approx_fprime, minimize

import tapejit as tj

N = 50


def rosenbrock(x):
    """Rosenbrock (1960), The Computer Journal 3, in n dimensions; 0 at (1, ..., 1)."""
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


def solve(method, exact, start):
    """Return a row of the table: calls, time, and how far from the solution the method ended."""
    value = Counted(rosenbrock)
    gradient, product = Counted(tj.value_and_grad(rosenbrock)), Counted(tj.hvp(rosenbrock))
    derivatives = {"fun": value, "jac": lambda x: approx_fprime(x, value)}
    if exact:
        derivatives = {"fun": gradient, "jac": True}
        if method in ("Newton-CG", "trust-ncg", "trust-krylov"):
            derivatives["hessp"] = product
    # Recorded before the clock starts: a minimisation is rarely the only one.
    gradient.function(start), product.function(start, start)
    began = time.perf_counter()
    result = minimize(x0=start, method=method, tol=1e-8, options={"maxiter": 5000}, **derivatives)
    seconds = time.perf_counter() - began
    name = "tapejit" if exact else "differences"
    calls = value.calls, gradient.calls, product.calls
    return method, name, result.nit, *calls, seconds, np.abs(result.x - 1.0).max()


def main():
    start = np.tile([-1.2, 1.0], N // 2)
    print(f"Rosenbrock's function of {N} variables")
    print(f"{'method':<14}{'derivatives':<13}{'iterations':>10}{'values':>8}", end="")
    print(f"{'gradients':>11}{'products':>10}{'ms':>9}{'error':>9}")
    for method in ("BFGS", "L-BFGS-B", "Newton-CG", "trust-ncg", "trust-krylov"):
        for exact in (True, False):
            # The trust-region methods insist on a Hessian or its products.
            if exact or not method.startswith("trust"):
                *row, seconds, error = solve(method, exact, start)
                print(
                    "{:<14}{:<13}{:>10}{:>8}{:>11}{:>10}".format(*row)
                    + f"{1e3 * seconds:>9.1f}{error:>9.0e}"
                )
    print('"gradients" counts values with their gradient; "error": largest distance from 1.')


if __name__ == "__main__":
    main()
