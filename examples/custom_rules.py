"""Functions that bring their own derivative: an implicit equation, a compiled kernel, plain Python.

Kepler's equation ``E - e sin(E) = M`` is solved by Newton's method in a Python loop; the rule
differentiates the equation instead of the iteration.  A thermostat's exponential filter is a Numba
kernel of its own.  The log-gamma function comes from Python's ``math``.

    python examples/custom_rules.py
"""

import math

import numpy as np
from scipy.special import digamma

import tapejit as tj

# --- an implicit equation -------------------------------------------------------------------------


@tj.custom_vjp
def eccentric_anomaly(mean_anomaly, eccentricity):
    """Solve Kepler's equation."""
    e = mean_anomaly
    for _ in range(50):
        change = (e - eccentricity * np.sin(e) - mean_anomaly) / (1.0 - eccentricity * np.cos(e))
        e = e - change
        if abs(change) < 1e-14:
            break
    return e


def kepler_forward(mean_anomaly, eccentricity):
    e = eccentric_anomaly(mean_anomaly, eccentricity)
    return e, (e, eccentricity)


def kepler_backward(residuals, g):
    """Implicit function theorem: dE (1 - e cos E) = dM + sin E de."""
    e, eccentricity = residuals
    pulled = g / (1.0 - eccentricity * np.cos(e))
    return pulled, pulled * np.sin(e)


eccentric_anomaly.defvjp(kepler_forward, kepler_backward)


def distance(mean_anomaly, eccentricity):
    """Distance from the sun, in units of the semi-major axis."""
    return 1.0 - eccentricity * np.cos(eccentric_anomaly(mean_anomaly, eccentricity))


# --- a compiled kernel ----------------------------------------------------------------------------


def smooth(x, rate, out):
    level = x[0]
    for i in range(x.size):
        level += rate[()] * (x[i] - level)
        out[i] = level


def smooth_reverse(g, x, rate, out, dx, drate):
    carried = 0.0
    for i in range(x.size - 1, -1, -1):
        carried += g[i]
        previous = out[i - 1] if i else x[0]
        dx[i] += rate[()] * carried
        drate[()] += carried * (x[i] - previous)
        carried *= 1.0 - rate[()]
    dx[0] += carried


exponential_filter = tj.register_op("exponential_filter", smooth, reverse=smooth_reverse)


def filtered_error(rate, x, target):
    """How far the filtered signal is from a target."""
    return np.mean((exponential_filter(x, rate) - target) ** 2)


# --- plain Python ---------------------------------------------------------------------------------


@tj.custom_vjp
def log_gamma(x):
    return tj.pure_callback(math.lgamma, (), x)


log_gamma.defvjp(lambda x: (log_gamma(x), x), lambda x, g: (g * tj.pure_callback(digamma, (), x),))


def main():
    slope = tj.grad(distance, argnums=(0, 1))
    print("Kepler: d(distance)/d(M, e) at M = 1, e = 0.3:", np.round(slope(1.0, 0.3), 6))
    rng = np.random.default_rng(0)
    target = np.sin(np.linspace(0.0, 6.0, 500))
    noisy = target + 0.3 * rng.standard_normal(500)
    fit = tj.grad(filtered_error)
    rate = 0.9
    for _ in range(200):
        rate -= 0.5 * fit(rate, noisy, target)
    print(f"filter: the best rate is {rate:.4f}")
    print("log-gamma: slope at 3:", np.round(tj.grad(log_gamma)(3.0), 6))
    return slope(1.0, 0.3), rate


if __name__ == "__main__":
    main()
