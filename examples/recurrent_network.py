"""A long recurrent network: a GRU learns to predict a chaotic series, 10,000 steps at a time.

The network reads the Mackey-Glass series (1977) value by value and predicts the value six steps
ahead.  Each gradient goes back through the whole sequence (backpropagation through time without
truncation): `tj.scan` is one compiled loop, and `checkpoint=tj.Memory("1 MB")` has it hold
snapshots of the hidden state and run stretches again, instead of keeping what all steps computed.

    python examples/recurrent_network.py
"""

import sys

import numpy as np
from tqdm import tqdm

import tapejit as tj

HIDDEN, AHEAD, LIMIT = 16, 6, "1 MB"
RATE, FORGET = 0.02, 200  # of Adam; first steps without a loss, while the network warms up


def mackey_glass(n, delay=17, substeps=10):
    """``n`` values of du/dt = 0.2 v / (1 + v^10) - 0.1 u with v = u(t - delay), at unit times."""
    h = 1.0 / substeps
    u = np.full(delay * substeps + n * substeps, 1.2)
    for i in range(delay * substeps, len(u)):
        late = u[i - delay * substeps]
        u[i] = u[i - 1] + h * (0.2 * late / (1.0 + late**10) - 0.1 * u[i - 1])
    return u[delay * substeps :: substeps] - 0.9


def initial_weights(rng):
    """Gates and candidate of a gated recurrent unit (Cho et al. 2014), and the output layer."""
    scale = 1.0 / np.sqrt(HIDDEN)
    return {
        "gates": rng.normal(size=(2 * HIDDEN, HIDDEN)) * scale,
        "gates in": rng.normal(size=2 * HIDDEN),
        "gates bias": np.zeros(2 * HIDDEN),
        "candidate": rng.normal(size=(HIDDEN, HIDDEN)) * scale,
        "candidate in": rng.normal(size=HIDDEN),
        "candidate bias": np.zeros(HIDDEN),
        "out": rng.normal(size=HIDDEN) * scale,
    }


def predict(weights, series, schedule=None):
    """A prediction at each step of a series."""

    def step(hidden, x):
        inner = weights["gates"] @ hidden + weights["gates in"] * x + weights["gates bias"]
        gates = 0.5 + 0.5 * np.tanh(0.5 * inner)  # the logistic function
        update, reset = gates[:HIDDEN], gates[HIDDEN:]
        inner = weights["candidate"] @ (reset * hidden)
        candidate = np.tanh(inner + weights["candidate in"] * x + weights["candidate bias"])
        hidden = hidden + update * (candidate - hidden)
        return hidden, weights["out"] @ hidden

    return tj.scan(step, np.zeros(HIDDEN), series, checkpoint=schedule)[1]


def loss(weights, series, schedule=None):
    """Mean squared error of the predictions, relative to the variance of the series."""
    predicted = predict(weights, series[:-AHEAD], schedule)
    residual = predicted[FORGET:] - series[AHEAD + FORGET :]
    return np.mean(residual**2) / np.var(series)


def adam(gradient, weights, series, iterations):
    """Adam (Kingma and Ba 2015), with a progress bar."""
    means = {name: np.zeros_like(w) for name, w in weights.items()}
    squares = {name: np.zeros_like(w) for name, w in weights.items()}
    with tqdm(range(1, iterations + 1), desc="Adam", unit="gradient", file=sys.stderr) as bar:
        for i in bar:
            value, slopes = gradient(weights, series)
            bar.set_postfix(loss=f"{value:.4f}")
            rate = RATE * np.sqrt(1.0 - 0.99**i) / (1.0 - 0.9**i)
            for name, slope in slopes.items():
                means[name] += 0.1 * (slope - means[name])
                squares[name] += 0.01 * (slope**2 - squares[name])
                move = rate * means[name] / (np.sqrt(squares[name]) + 1e-8)
                weights[name] = weights[name] - move
    return weights


def main(steps=10_000, iterations=150):
    rng = np.random.default_rng(0)
    series = mackey_glass(2 * steps)
    seen, unseen = series[:steps], series[steps:]
    weights = initial_weights(rng)
    schedule = tj.Memory(LIMIT)
    gradient = tj.value_and_grad(lambda weights, series: loss(weights, series, schedule))
    stored = tj.checkpoint_plan(loss, weights, seen)
    plan = tj.checkpoint_plan(gradient, weights, seen)
    print(f"{steps} steps, everything stored: {stored.workspace_bytes / 1e6:.1f} MB")
    print(
        f"with {schedule}: {plan.workspace_bytes / 1e6:.1f} MB, "
        f"{plan.loops[0].recompute_factor:.2f} x forward"
    )
    weights = adam(gradient, weights, seen, iterations)
    same = np.mean((unseen[AHEAD:] - unseen[:-AHEAD]) ** 2) / np.var(unseen)
    print(f"error on unseen values, of their variance: {loss(weights, unseen):.2%}")
    print(f"of predicting the last value again: {same:.2%}")


if __name__ == "__main__":
    main()
