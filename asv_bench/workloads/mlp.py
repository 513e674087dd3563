"""A tanh network 64-128-128-10 with softmax cross-entropy on a batch of 32."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

from .workload import Bar, Call, Workload, into


@njit(error_model="numpy", cache=True)
def _layer(x, w, b, out):
    np.dot(x, w, out)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = math.tanh(out[i, j] + b[j])


@njit(error_model="numpy", cache=True)
def _cross_entropy(targets, b, logits):
    """The loss; ``logits`` (without bias) becomes its own cotangent."""
    rows, columns = logits.shape
    total = 0.0
    for i in range(rows):
        largest = -math.inf
        picked = 0.0
        for j in range(columns):
            logits[i, j] += b[j]
            largest = max(largest, logits[i, j])
            picked += targets[i, j] * logits[i, j]
        mass = 0.0
        for j in range(columns):
            logits[i, j] = math.exp(logits[i, j] - largest)
            mass += logits[i, j]
        total += largest + math.log(mass) - picked
        for j in range(columns):
            logits[i, j] = (logits[i, j] / mass - targets[i, j]) / rows
    return total / rows


@njit(error_model="numpy", cache=True)
def _layer_back(x, w, h, hb, wb, bb, xb):
    """From ``hb``, the cotangent of the layer's output ``h``, to those of its inputs."""
    bb[:] = 0.0
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            hb[i, j] *= 1.0 - h[i, j] * h[i, j]
            bb[j] += hb[i, j]
    np.dot(x.T, hb, wb)
    if xb.size:
        np.dot(hb, w.T, xb)


@njit(error_model="numpy", cache=True)
def _value_and_gradient(p, x, targets, h1, h2, logits, h1b, h2b, none, g):
    _layer(x, p[0], p[1][0], h1)
    _layer(h1, p[2], p[3][0], h2)
    np.dot(h2, p[4], logits)
    value = _cross_entropy(targets, p[5][0], logits)
    g[5][0, :] = 0.0
    for i in range(logits.shape[0]):
        for j in range(logits.shape[1]):
            g[5][0, j] += logits[i, j]
    np.dot(h2.T, logits, g[4])
    np.dot(logits, p[4].T, h2b)
    _layer_back(h1, p[2], h2, h2b, g[2], g[3][0], h1b)
    _layer_back(x, p[0], h1, h1b, g[0], g[1][0], none)
    return value


class Mlp(Workload):
    """Matrix products and tanh; the gradient with respect to all weights and biases."""

    name = "tanh MLP 64-128-128-10, batch 32"
    bars = (Bar("hand", 1.1),)
    slow = frozenset({"casadi-gcc"})

    def __init__(self, sizes: tuple[int, ...] = (64, 128, 128, 10), batch: int = 32) -> None:
        rng = np.random.default_rng(4)
        self.x = rng.standard_normal((batch, sizes[0]))
        self.targets = np.eye(sizes[-1])[rng.integers(0, sizes[-1], batch)]
        self.sizes = sizes
        self.point = []
        for rows, columns in pairwise(sizes):
            self.point.append(rng.standard_normal((rows, columns)) / math.sqrt(rows))
            self.point.append(0.1 * rng.standard_normal(columns))

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        x, targets = constant(self.x), constant(self.targets)

        def loss(p: Any) -> Any:
            h = xp.tanh(x @ p[0] + p[1])
            h = xp.tanh(h @ p[2] + p[3])
            z = h @ p[4] + p[5]
            z = z - xp.amax(z, axis=1, keepdims=True)
            return xp.mean(xp.log(xp.sum(xp.exp(z), axis=1)) - xp.sum(targets * z, axis=1))

        return loss

    def hand(self) -> Call:
        gradient = [np.empty_like(array) for array in self.point]
        batch = len(self.x)
        h1, h2, logits = (np.empty((batch, size)) for size in self.sizes[1:])
        # Biases as matrices of one row: a tuple of one array type stays one compiled function.
        weights = tuple(np.atleast_2d(array) for array in self.point)
        results = tuple(np.atleast_2d(array) for array in gradient)
        buffers = (h1, h2, logits, np.empty_like(h1), np.empty_like(h2), np.empty((0, 0)))
        arguments = (weights, self.x, self.targets, *buffers, results)
        return into(_value_and_gradient, arguments, gradient)

    def casadi(self, ca: Any) -> Any:
        symbols = [ca.MX.sym(f"p{i}", array.size) for i, array in enumerate(self.point)]
        batch = len(self.x)

        def affine(x: Any, layer: int) -> Any:
            rows, columns = self.point[2 * layer].shape
            weights = ca.reshape(symbols[2 * layer], columns, rows).T
            return ca.mtimes(x, weights) + ca.repmat(symbols[2 * layer + 1].T, batch, 1)

        h = ca.tanh(affine(ca.DM(self.x), 0))
        h = ca.tanh(affine(h, 1))
        z = affine(h, 2)
        losses = ca.log(ca.sum2(ca.exp(z))) - ca.sum2(ca.DM(self.targets) * z)
        return symbols, ca.sum1(losses) / batch
