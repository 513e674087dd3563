"""Maximum likelihood with SciPy: the search, and standard errors from the Hessian."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tapejit.demo.progress import Bar

#: The search ends when no component of the gradient exceeds this.
GRADIENT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Fit:
    """Where the search ended, and what it took."""

    log_parameters: np.ndarray
    value: float
    iterations: int
    gradients: int
    seconds: float
    converged: bool
    message: str

    @property
    def parameters(self) -> np.ndarray:
        """The estimates themselves, shape (8,)."""
        return np.exp(self.log_parameters)


def minimise(
    value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    bar: Bar,
) -> Fit:
    """Minimise with L-BFGS-B, and show on ``bar`` (of length 100) how near the minimum is.

    Near is measured by the gradient, which L-BFGS-B shrinks about geometrically: the bar
    shows how much of the way from its first size to the tolerance is done, in logarithms.
    """
    # SciPy's optimisers take half a second to import, which the first gradient need not wait for.
    from scipy.optimize import minimize

    report = _gradient_reporter(bar)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_gradient(x)
        report(float(value), float(np.abs(gradient).max()))
        return value, gradient

    began = time.perf_counter()
    options = {"gtol": GRADIENT_TOLERANCE, "ftol": 1e-15, "maxiter": 1000}
    result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    seconds = time.perf_counter() - began
    if result.success:
        # SciPy also stops where the value no longer changes: that is the end of the way too.
        bar.advance(100, f"-log likelihood {result.fun:.4f}")
    bar.close()
    return Fit(
        log_parameters=result.x,
        value=float(result.fun),
        iterations=int(result.nit),
        gradients=int(result.nfev),
        seconds=seconds,
        converged=bool(result.success),
        message=str(result.message),
    )


def _gradient_reporter(bar: Bar) -> Callable[[float, float], None]:
    """Return a function that moves ``bar`` for each value and gradient size it is told."""
    first: float | None = None
    shown = 0

    def report(value: float, size: float) -> None:
        nonlocal first, shown
        if first is None:
            first = max(size, 10.0 * GRADIENT_TOLERANCE)
        done = math.log(first / max(size, GRADIENT_TOLERANCE))
        percent = int(100.0 * done / math.log(first / GRADIENT_TOLERANCE))
        bar.advance(max(percent - shown, 0), f"-log likelihood {value:.4f}")
        shown = max(percent, shown)

    return report


def covariance(hessian: np.ndarray) -> np.ndarray:
    """Return the inverse of the Hessian of a negative log-likelihood at its minimum.

    Raises
    ------
    ValueError
        If ``hessian`` is not positive definite, so that the point is not a proper minimum.
    """
    values, vectors = np.linalg.eigh(hessian)
    if not values.min() > 0.0:
        raise ValueError("the Hessian is not positive definite: this point is not a minimum")
    return (vectors / values) @ vectors.T


def standard_errors(log_parameters: np.ndarray, log_covariance: np.ndarray) -> np.ndarray:
    """Return the standard errors of the exponentials, by the delta method.

    The derivative of exp(x) is exp(x), so that an error of x is a relative error of exp(x).
    """
    return np.exp(log_parameters) * np.sqrt(np.diag(log_covariance))


def curve_errors(jacobian: np.ndarray, log_covariance: np.ndarray) -> np.ndarray:
    """Return the standard error of every point of a curve, by the delta method.

    Parameters
    ----------
    jacobian : array, shape (..., p)
        Of the points by the parameters.
    log_covariance : array, shape (p, p)

    Returns
    -------
    array, shape (...)
    """
    return np.sqrt(np.einsum("...i,ij,...j->...", jacobian, log_covariance, jacobian))
