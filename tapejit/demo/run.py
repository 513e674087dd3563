"""The demonstration itself: fit, errors, timings, picture."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tapejit as tj
from tapejit.demo import model
from tapejit.demo.fit import Fit, covariance, curve_errors, minimise, standard_errors
from tapejit.demo.progress import announce_compilation, progress_bar
from tapejit.demo.timing import median_seconds, readable, seconds_since_process_start


class Problem(NamedTuple):
    """The function to minimise, as plain Python and with its compiled gradient."""

    pelts: model.Pelts
    steps: int
    cost: Any
    objective: Any
    value_and_gradient: Any

    @property
    def years(self) -> int:
        """Years from the first count to the last."""
        return len(self.pelts.year) - 1

    def plain_value(self, log_parameters: np.ndarray) -> float:
        """Return the objective by plain Python on Python floats, its fastest numbers."""
        return float(self.cost(np.exp(log_parameters).tolist()))


def run(output: Path | None, steps: int) -> Fit:
    """Fit the model, print what was found and what it cost, and write the picture.

    Parameters
    ----------
    output : Path or None
        Where the picture goes; None draws none.
    steps : int
        Runge–Kutta steps a year.
    """
    problem = _problem(steps)
    _print_heading(problem)
    start = model.start(problem.pelts)
    _first_gradient(problem, start)
    fit = minimise(problem.value_and_gradient, start, progress_bar("fitting"))
    _print_outcome(fit)
    with announce_compilation():
        hessian = tj.hessian(problem.objective)(fit.log_parameters)
    log_covariance = covariance(hessian)
    _print_parameters(fit, standard_errors(fit.log_parameters, log_covariance))
    _print_costs(problem, fit.log_parameters)
    if output is not None:
        _write_picture(output, problem, fit, log_covariance)
    return fit


def _problem(steps: int) -> Problem:
    pelts = model.load_pelts()
    cost = model.negative_log_likelihood(pelts, steps)
    objective = model.of_logarithms(cost)
    return Problem(pelts, steps, cost, objective, tj.value_and_grad(objective))


def _print_heading(problem: Problem) -> None:
    first, last = problem.pelts.year[[0, -1]]
    print(f"Lotka–Volterra fitted to the Hudson's Bay Company's pelts, {first:.0f}–{last:.0f}")
    print(
        f"{problem.years * problem.steps:,} Runge–Kutta steps in a Python loop, "
        f"{len(model.PARAMETERS)} parameters, SciPy's L-BFGS-B\n"
    )


def _first_gradient(problem: Problem, start: np.ndarray) -> None:
    with announce_compilation():
        began = time.perf_counter()
        problem.value_and_gradient(start)
        seconds = time.perf_counter() - began
    age = seconds_since_process_start()
    print(f"From the Python function to its first gradient: {readable(seconds)}", end="")
    print(f" ({readable(age)} after the process began)" if age is not None else "", flush=True)


def _print_outcome(fit: Fit) -> None:
    verdict = "Converged" if fit.converged else f"NOT converged ({fit.message})"
    print(
        f"{verdict}: {fit.iterations} iterations, {fit.gradients} gradients, "
        f"{readable(fit.seconds)}; log likelihood {-fit.value:.3f}\n"
    )


def _print_parameters(fit: Fit, errors: np.ndarray) -> None:
    print(f"{'parameter':<42}{'estimate':>10}{'std. error':>12}{'published':>11}")
    for parameter, estimate, error in zip(model.PARAMETERS, fit.parameters, errors, strict=True):
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        name = f"{parameter.symbol:<8}{parameter.meaning}{unit}"
        known = "" if parameter.published is None else f"{parameter.published:#.2g}"
        print(f"{name:<42}{estimate:>10.4f}{error:>12.4f}{known:>11}")
    print("Maximum likelihood; errors from the Hessian. Published: Bayesian means, Stan (2018).\n")


def _print_costs(problem: Problem, x: np.ndarray) -> None:
    began = time.perf_counter()
    tape = tj.trace(problem.objective, x)
    recording = time.perf_counter() - began
    print(f"Recording alone: {readable(recording)} for a tape of {len(tape):,} instructions\n")
    rows, error = _measure(problem, x)
    unit = rows[0][1]
    print(f"{'what one evaluation costs (medians, just now)':<52}{'time':>9}{'ratio':>9}")
    for name, seconds in rows:
        print(f"{name:<52}{readable(seconds):>9}{seconds / unit:>9.3g}")
    print(f"The finite differences are off by up to {error:.0e} of the gradient's scale.\n")


def _measure(problem: Problem, x: np.ndarray) -> tuple[list[tuple[str, float]], float]:
    """Return named durations, and the error of finite differences away from the minimum."""
    from scipy.optimize import approx_fprime

    compiled = tj.jit(problem.objective)
    with announce_compilation():
        compiled(x)
    rows = [
        ("value and gradient, compiled", median_seconds(problem.value_and_gradient, x)),
        ("value, compiled", median_seconds(compiled, x)),
        ("value, plain Python", median_seconds(problem.plain_value, x)),
        ("gradient, finite differences of the compiled value", _finite(compiled, x)),
        ("gradient, finite differences of plain Python", _finite(problem.plain_value, x)),
    ]
    # At the minimum the gradient vanishes and leaves no scale to compare errors with.
    elsewhere = model.start(problem.pelts)
    exact = problem.value_and_gradient(elsewhere)[1]
    differences = approx_fprime(elsewhere, problem.plain_value)
    return rows, float(np.abs(differences - exact).max() / np.abs(exact).max())


def _finite(function: Any, x: np.ndarray) -> float:
    from scipy.optimize import approx_fprime

    return median_seconds(approx_fprime, x, function)


def _write_picture(output: Path, problem: Problem, fit: Fit, log_covariance: np.ndarray) -> None:
    if find_spec("matplotlib") is None:
        print("No picture: matplotlib is not installed (pip install 'tapejit[examples]').")
        return
    from tapejit.demo.plot import Curves, save_plot

    log_curves = model.of_logarithms(model.log_curves(problem.years, problem.steps))
    with announce_compilation():
        jacobian = tj.jacobian(log_curves)(fit.log_parameters)
    hare, lynx = np.exp(log_curves(fit.log_parameters))
    hare_error, lynx_error = curve_errors(jacobian, log_covariance)
    year = np.linspace(problem.pelts.year[0], problem.pelts.year[-1], len(hare))
    rates = ",  ".join(
        f"{parameter.symbol} = {estimate:.3f}"
        for parameter, estimate in zip(model.PARAMETERS[:4], fit.parameters[:4], strict=True)
    )
    curves = Curves(year, hare, lynx, hare_error, lynx_error)
    save_plot(output, problem.pelts, curves, f"maximum likelihood:  {rates}")
    print(f"Wrote {output}")
