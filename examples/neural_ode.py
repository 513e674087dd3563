"""A neural ordinary differential equation: a network learns a spiral from its trajectories.

The right-hand side is a network of one hidden layer, the solver the classical Runge–Kutta method as
`tapejit.scan`: the whole solution is one instruction, whose body is recorded once.  Training is a
scan as well, with `tapejit.value_and_grad` in its body: a thousand steps of Adam are one call of a
compiled program, with no Python in between.  The problem is the one of Chen, Rubanova, Bettencourt
and Duvenaud (2018), "Neural ordinary differential equations".
"""

import time

import numpy as np

import tapejit as tj

POINTS, SUBSTEPS, H = 20, 2, 0.05  # observations, Runge–Kutta steps between them, their length
STEPS, RATE, HIDDEN = 1000, 0.02, 16
SPIRAL = np.array([[-0.1, 2.0], [-2.0, -0.1]])


def solve(slope, start):
    """Observations of the solution of ``du/dt = slope(u)``: shape (POINTS, trajectories, 2)."""

    def rk4(u, _):
        k1 = slope(u)
        k2 = slope(u + H / 2 * k1)
        k3 = slope(u + H / 2 * k2)
        k4 = slope(u + H * k3)
        return u + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    def observe(u, _):
        u, _ = tj.scan(rk4, u, length=SUBSTEPS)
        return u, u

    return tj.scan(observe, start, length=POINTS)[1]


def network(weights):
    """The slope that a network gives, of the cubes of the state as in the paper."""
    w1, b1, w2, b2 = weights
    return lambda u: np.tanh(u**3 @ w1 + b1) @ w2 + b2


def adam(loss, weights):
    """Adam (Kingma and Ba 2015), all steps in one loop; the weights, and the loss at each step."""
    gradient = tj.value_and_grad(loss)

    def step(carry, i):
        weights, means, squares = carry
        value, slopes = gradient(weights)
        means = tuple(0.9 * m + 0.1 * g for m, g in zip(means, slopes, strict=True))
        squares = tuple(0.99 * s + 0.01 * g * g for s, g in zip(squares, slopes, strict=True))
        rate = RATE * np.sqrt(1 - 0.99**i) / (1 - 0.9**i)
        moved = zip(weights, means, squares, strict=True)
        return (
            tuple(w - rate * m / (np.sqrt(s) + 1e-8) for w, m, s in moved),
            means,
            squares,
        ), value

    zeros = tuple(w * 0.0 for w in weights)
    (weights, _, _), losses = tj.scan(step, (weights, zeros, zeros), np.arange(1.0, STEPS + 1))
    return weights, losses


def main():
    rng = np.random.default_rng(0)
    start, unseen = rng.uniform(-1.5, 1.5, (20, 2)), rng.uniform(-1.5, 1.5, (5, 2))
    truth = lambda u: u**3 @ SPIRAL  # noqa: E731
    data = solve(truth, start)
    weights = (
        rng.normal(size=(2, HIDDEN)) * 0.5, np.zeros(HIDDEN),
        rng.normal(size=(HIDDEN, 2)) * 0.1, np.zeros(2),
    )  # fmt: skip

    def loss(weights):
        return np.mean((solve(network(weights), start) - data) ** 2)

    train = tj.jit(lambda weights: adam(loss, weights))
    print(f"the program of the training: {len(tj.trace(lambda w: adam(loss, w), weights))} rows")
    began = time.perf_counter()
    weights, losses = train(weights)
    seconds = time.perf_counter() - began
    print(f"{STEPS} steps of Adam: {seconds:.2f} s with recording")
    print(f"loss: {losses[0]:.3f} at first, {np.mean(losses[-10:]):.3f} in the end")
    error = np.mean(np.abs(solve(network(weights), unseen) - solve(truth, unseen)))
    print(f"error on unseen trajectories: {error:.3f}")


if __name__ == "__main__":
    main()
