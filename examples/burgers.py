"""Recover where a flow came from: Burgers' equation over 100,000 steps, differentiated in 4 MB.

A velocity field u(x, t) on a circle follows u_t + u u_x = nu u_xx.  From noisy observations of the
field at the end, L-BFGS-B recovers the field at the beginning; each gradient is an adjoint sweep
through all time steps.  What that sweep reads takes hundreds of megabytes if it is stored;
`tj.Memory("4 MB")` holds snapshots instead, and runs stretches of the loop again.

The second part measures that trade: time and memory of one gradient under each kind of schedule,
next to storing everything.

    python examples/burgers.py [picture.png]
"""

import sys
import time

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

import tapejit as tj

GRID, VISCOSITY, DURATION = 128, 0.02, 1.0
ON_DISK = 200  # snapshots of TwoLevel in its file
X = np.linspace(0.0, 2.0 * np.pi, GRID, endpoint=False)
DX = X[1] - X[0]


def simulate(u, steps, schedule=None):
    """The field after all steps: fluxes between neighbours, explicit in time."""
    dt = DURATION / steps

    def step(u, _):
        right = np.roll(u, -1)
        flux = 0.25 * (u * u + right * right) - VISCOSITY / DX * (right - u)
        return u - dt / DX * (flux - np.roll(flux, 1)), None

    return tj.scan(step, u, None, length=steps, checkpoint=schedule)[0]


def misfit(start, observed, steps, schedule):
    """Squared residuals of the last field, and a little of the first one's curvature."""
    curvature = np.roll(start, -1) - 2.0 * start + np.roll(start, 1)
    residual = simulate(start, steps, schedule) - observed
    return np.sum(residual**2) / GRID + 1e-3 * np.sum(curvature**2)


def gradient_under(schedule, steps):
    """Value and gradient of the misfit."""
    return tj.value_and_grad(lambda start, observed: misfit(start, observed, steps, schedule))


def recover(steps, iterations, limit="4 MB"):
    """(true first field, observations, recovered first field)."""
    rng = np.random.default_rng(0)
    truth = 1.0 + 0.5 * np.sin(X) + 0.3 * np.cos(2.0 * X) * np.sin(3.0 * X)
    observed = simulate(truth, steps) + 0.01 * rng.normal(size=GRID)
    value_and_grad = gradient_under(tj.Memory(limit), steps)
    start = np.full(GRID, observed.mean())
    print(tj.checkpoint_plan(value_and_grad, start, observed).loops[0], end="\n\n")
    with tqdm(total=iterations, desc="L-BFGS-B", unit="iteration") as bar:
        fit = minimize(
            value_and_grad,
            start,
            args=(observed,),
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: bar.update(),
            options={"maxiter": iterations},
        )
    return truth, observed, fit.x


def schedules(steps):
    """Schedules to compare, by kind."""
    root = round(steps**0.5)
    return {
        "StoreAll": [tj.StoreAll()],
        "Uniform": [tj.Uniform(root * k // 4) for k in (2, 4, 8, 16, 32)],
        "Revolve": [tj.Revolve(c) for c in (5, 10, 20, 50, 100, 200)],
        "Online": [tj.Online(c) for c in (5, 10, 20, 50, 100, 200)],
        "TwoLevel": [tj.TwoLevel(c, ON_DISK) for c in (1, 5, 20, 50, 100)],
        "Memory": [tj.Memory(2**k * 1000) for k in range(6, 13)],
    }


def measure(steps, rounds=8):
    """{kind: [(bytes, seconds)]} of one gradient, the best of several rounds."""
    rng = np.random.default_rng(1)
    start, observed = rng.normal(size=GRID), rng.normal(size=GRID)
    kinds = schedules(steps)
    gradients = {s: gradient_under(s, steps) for chosen in kinds.values() for s in chosen}
    best = dict.fromkeys(gradients, np.inf)
    with tqdm(total=rounds * len(gradients), desc="schedules", unit="gradient") as bar:
        for _ in range(rounds):
            for schedule, gradient in gradients.items():
                began = time.perf_counter()
                gradient(start, observed)
                best[schedule] = min(best[schedule], time.perf_counter() - began)
                bar.update()
    size = {s: tj.checkpoint_plan(g, start, observed).workspace_bytes for s, g in gradients.items()}
    return {kind: [(size[s], best[s]) for s in chosen] for kind, chosen in kinds.items()}


def draw(path, fields, measured, steps):
    """The recovered field, and time against memory."""
    from matplotlib.figure import Figure

    truth, observed, recovered = fields
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(X, truth, color="#2d5f8b", linewidth=3, alpha=0.5, label="first field")
    left.plot(X, recovered, color="#b3312c", linewidth=1.2, label="recovered")
    left.plot(X, observed, ".", color="#7f7f7f", markersize=3, label="observed at the end")
    left.set(xlabel="x", ylabel="u", title="Burgers' equation")
    left.legend(frameon=False, fontsize=8)
    for kind, points in measured.items():
        size, seconds = np.array(points).T
        style = {"marker": "*", "markersize": 14} if kind == "StoreAll" else {"marker": "o"}
        label = f"TwoLevel, {ON_DISK} more on disk" if kind == "TwoLevel" else kind
        right.plot(size, seconds, label=label, **{"markersize": 4, **style})
    right.set(
        xscale="log", xlabel="memory of a gradient (bytes)", ylabel="time of a gradient (s)",
        ylim=(0, None), title=f"{steps:,} steps on {GRID} points",
    )  # fmt: skip
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main(path=None, steps=100_000, iterations=40, compared=20_000):
    fields = recover(steps, iterations)
    truth, observed, recovered = fields
    spread = np.linalg.norm(truth - truth.mean())
    for name, field in (("observed", observed), ("recovered", recovered)):
        distance = np.linalg.norm(field - truth) / spread
        print(f"{name} field, distance from the first one: {distance:.1%}")
    measured = measure(compared)
    print(f"\n{'schedule':<10}{'memory':>12}{'time':>10}   ({compared:,} steps)")
    for kind, points in measured.items():
        for size, seconds in points:
            print(f"{kind:<10}{size / 1e6:>9.3f} MB{seconds:>8.3f} s")
    if path is not None:
        draw(path, fields, measured, compared)


if __name__ == "__main__":
    main(*sys.argv[1:2])
