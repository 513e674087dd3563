"""Fit a differential equation to data: a plain Python loop, differentiated exactly.

The model is Lotka–Volterra, the data are the pelts of hares and lynxes that the Hudson's Bay
Company collected in 1900–1920.  The solver is the classical Runge–Kutta method in an ordinary
`for` loop over scalars; tapejit records it once, and SciPy's L-BFGS-B then calls the compiled value
and gradient.  `python -m tapejit demo` is the same fit with error bars, timings and a picture.
"""

from importlib.resources import files

import numpy as np
from scipy.optimize import minimize

import tapejit as tj

STEPS = 50  # Runge–Kutta steps a year
TABLE = files("tapejit").joinpath("data/lynx_hare.csv").read_text(encoding="utf-8")
YEAR, LYNX, HARE = np.loadtxt(TABLE.splitlines()[2:], delimiter=",").T


def slope(hare, lynx, alpha, beta, gamma, delta):
    return (alpha - beta * lynx) * hare, (delta * hare - gamma) * lynx


def rk4_step(hare, lynx, h, rates):
    h1, l1 = slope(hare, lynx, *rates)
    h2, l2 = slope(hare + h / 2 * h1, lynx + h / 2 * l1, *rates)
    h3, l3 = slope(hare + h / 2 * h2, lynx + h / 2 * l2, *rates)
    h4, l4 = slope(hare + h * h3, lynx + h * l3, *rates)
    return hare + h / 6 * (h1 + 2 * h2 + 2 * h3 + h4), lynx + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)


def negative_log_likelihood(log_parameters):
    """Counts scatter log-normally about the curve; logarithms keep all parameters positive."""
    alpha, beta, gamma, delta, hare, lynx, sigma_hare, sigma_lynx = np.exp(log_parameters)
    total = 0.0
    for year in range(len(YEAR)):
        total += 0.5 * ((np.log(HARE[year]) - np.log(hare)) / sigma_hare) ** 2 + np.log(sigma_hare)
        total += 0.5 * ((np.log(LYNX[year]) - np.log(lynx)) / sigma_lynx) ** 2 + np.log(sigma_lynx)
        for _ in range(STEPS):
            hare, lynx = rk4_step(hare, lynx, 1 / STEPS, (alpha, beta, gamma, delta))
    return total


def main():
    rate = 2 * np.pi / 10  # the populations rise and fall about every ten years
    start = [rate, rate / LYNX.mean(), rate, rate / HARE.mean(), HARE[0], LYNX[0], 0.5, 0.5]
    fit = minimize(
        tj.value_and_grad(negative_log_likelihood), np.log(start), jac=True, method="L-BFGS-B"
    )
    covariance = np.linalg.inv(tj.hessian(negative_log_likelihood)(fit.x))
    estimates, errors = np.exp(fit.x), np.exp(fit.x) * np.sqrt(np.diag(covariance))
    names = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "hare 1900",
        "lynx 1900",
        "sigma hare",
        "sigma lynx",
    ]
    print(f"{len(YEAR)} years of pelts, {fit.nit} iterations, {fit.nfev} gradients")
    for name, estimate, error in zip(names, estimates, errors, strict=True):
        print(f"{name:<12}{estimate:8.4f} ± {error:.4f}")


if __name__ == "__main__":
    main()
