"""The Lotka–Volterra model of hares and lynxes, written in plain Python and NumPy.

    d hare / dt = (α - β lynx) hare
    d lynx / dt = (δ hare - γ) lynx

Nothing here knows about automatic differentiation: the functions run on floats as they stand,
and are recorded by calling them on tracers.

References
----------
Lotka (1925), Elements of Physical Biology; Volterra (1926), Nature 118.
Carpenter (2018), "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan", whose
likelihood this is (log-normal, one scale for each species), here without its priors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

#: A float while the model runs plainly, a traced scalar while it is recorded.
Scalar = Any


class Pelts(NamedTuple):
    """Pelts collected in each year, in thousands."""

    year: np.ndarray
    lynx: np.ndarray
    hare: np.ndarray


class Parameter(NamedTuple):
    """One quantity to be estimated, as it is printed."""

    symbol: str
    meaning: str
    unit: str
    published: float | None


#: In the order of the parameter vector.  ``published``: posterior means of Carpenter (2018).
PARAMETERS = (
    Parameter("α", "hares born", "1/year", 0.55),
    Parameter("β", "hares eaten per lynx", "1/year/1000", 0.028),
    Parameter("γ", "lynxes dying", "1/year", 0.80),
    Parameter("δ", "lynxes born per hare", "1/year/1000", 0.024),
    Parameter("hare₀", "hares in 1900", "1000 pelts", None),
    Parameter("lynx₀", "lynxes in 1900", "1000 pelts", None),
    Parameter("σ_hare", "scatter of log hares", "", None),
    Parameter("σ_lynx", "scatter of log lynxes", "", None),
)


def load_pelts() -> Pelts:
    """Return the Hudson's Bay Company series of 1900–1920 that the package ships."""
    text = files("tapejit").joinpath("data/lynx_hare.csv").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line and not line.startswith("#")]
    table = np.array([[float(field) for field in row.split(",")] for row in rows[1:]])
    return Pelts(*table.T)


def start(pelts: Pelts) -> np.ndarray:
    """Return the logarithms of rough values read off the data, shape (8,).

    The likelihood has local minima at wrong periods, so the search begins near the right one:
    small cycles take 2π/√(αγ) years, about ten here; and over a cycle the lynxes average α/β
    and the hares γ/δ.
    """
    rate = 2.0 * math.pi / 10.0
    beta, delta = rate / pelts.lynx.mean(), rate / pelts.hare.mean()
    return np.log([rate, beta, rate, delta, pelts.hare[0], pelts.lynx[0], 0.5, 0.5])


def slope(hare: Scalar, lynx: Scalar, rates: Sequence[Scalar]) -> tuple[Scalar, Scalar]:
    """Return the time derivatives of both populations."""
    alpha, beta, gamma, delta = rates
    return (alpha - beta * lynx) * hare, (delta * hare - gamma) * lynx


def rk4_step(
    hare: Scalar, lynx: Scalar, rates: Sequence[Scalar], h: float
) -> tuple[Scalar, Scalar]:
    """Advance both populations by ``h`` years with the classical Runge–Kutta method."""
    half = 0.5 * h
    h1, l1 = slope(hare, lynx, rates)
    h2, l2 = slope(hare + half * h1, lynx + half * l1, rates)
    h3, l3 = slope(hare + half * h2, lynx + half * l2, rates)
    h4, l4 = slope(hare + h * h3, lynx + h * l3, rates)
    sixth = h / 6.0
    return (
        hare + sixth * (h1 + 2.0 * (h2 + h3) + h4),
        lynx + sixth * (l1 + 2.0 * (l2 + l3) + l4),
    )


def simulate(
    parameters: Sequence[Scalar], years: int, steps: int
) -> tuple[list[Scalar], list[Scalar]]:
    """Integrate the model with ``steps`` Runge–Kutta steps a year.

    Returns
    -------
    hares, lynxes : lists of years * steps + 1 scalars
    """
    rates, hare, lynx = parameters[:4], parameters[4], parameters[5]
    # Unpacked once: a loop that slices an array at every step would pay for it at every step.
    rates = tuple(rates)
    hares, lynxes = [hare], [lynx]
    for _ in range(years * steps):
        hare, lynx = rk4_step(hare, lynx, rates, 1.0 / steps)
        hares.append(hare)
        lynxes.append(lynx)
    return hares, lynxes


def negative_log_likelihood(pelts: Pelts, steps: int) -> Callable[[Sequence[Scalar]], Scalar]:
    """Return the function of the eight parameters that the fit minimises.

    Parameters
    ----------
    pelts : Pelts
        Yearly data; consecutive years.
    steps : int
        Runge–Kutta steps a year.
    """
    years = len(pelts.year) - 1
    # Lists of Python floats, so that the plain function, which the demo times, runs at its best.
    log_hares, log_lynxes = np.log(pelts.hare).tolist(), np.log(pelts.lynx).tolist()
    constant = sum(log_hares) + sum(log_lynxes) + (years + 1) * math.log(2.0 * math.pi)

    def cost(parameters: Sequence[Scalar]) -> Scalar:
        hares, lynxes = simulate(parameters, years, steps)
        sigma_hare, sigma_lynx = parameters[6], parameters[7]
        squares_hare = squares_lynx = 0.0
        for year in range(years + 1):
            squares_hare += (log_hares[year] - np.log(hares[year * steps])) ** 2
            squares_lynx += (log_lynxes[year] - np.log(lynxes[year * steps])) ** 2
        return (
            constant
            + (years + 1) * (np.log(sigma_hare) + np.log(sigma_lynx))
            + 0.5 * squares_hare / sigma_hare**2
            + 0.5 * squares_lynx / sigma_lynx**2
        )

    return cost


def of_logarithms(function: Callable[[Any], Any]) -> Callable[[np.ndarray], Any]:
    """Return ``function`` of the exponentials: a search over logarithms stays positive."""

    def of_logs(log_parameters: np.ndarray) -> Any:
        return function(np.exp(log_parameters))

    return of_logs


def log_curves(years: int, steps: int) -> Callable[[Sequence[Scalar]], Any]:
    """Return a function from the parameters to both curves' logs, shape (2, years*steps + 1)."""

    def curves(parameters: Sequence[Scalar]) -> Any:
        hares, lynxes = simulate(parameters, years, steps)
        return np.log(np.stack([np.stack(hares), np.stack(lynxes)]))

    return curves
