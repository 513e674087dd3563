"""The Gaussian mixture of ADBench: alphas, means, inverse covariance factors (no prior).

Source: Šrajer, Kukelová, Fitzgibbon, "A Benchmark of Selected Algorithmic Differentiation Tools on
Some Problems in Computer Vision and Machine Learning", 2018, section 4.1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .workload import Bar, Call, Workload, into

#: Points that are treated together, so that their intermediates stay in the cache.
TILE = 200


@njit(error_model="numpy", cache=True)
def _factors(alphas, means, icf, t, shift, bias):
    """Of every component: its triangular factor, ``factor @ mean``, and its constant term."""
    k, d = means.shape
    for c in range(k):
        at = d
        bias[c] = alphas[c]
        for j in range(d):
            row = t[c * d + j]
            bias[c] += icf[c, j]
            row[j] = math.exp(icf[c, j])
            shift[c, j] = row[j] * means[c, j]
            for m in range(j):
                row[m] = icf[c, at]
                shift[c, j] += row[m] * means[c, m]
                at += 1


@njit(error_model="numpy", cache=True)
def _log_densities(q, shift, bias, terms):
    """``terms[c, i]``: log density of point ``i`` in component ``c``; ``q`` becomes centred."""
    k, d = shift.shape
    tile = terms.shape[1]
    for c in range(k):
        term = terms[c]
        for i in range(tile):
            term[i] = bias[c]
        for j in range(d):
            row, offset = q[c * d + j], shift[c, j]
            for i in range(tile):
                row[i] -= offset
                term[i] -= 0.5 * (row[i] * row[i])


@njit(error_model="numpy", cache=True)
def _softmax(terms, mass, largest):
    """Sum over the tile of the log-sum-exp over components; ``terms`` become weights."""
    k, tile = terms.shape
    largest[:] = terms[0]
    for c in range(1, k):
        for i in range(tile):
            largest[i] = terms[c, i] if terms[c, i] > largest[i] else largest[i]
    mass[:] = 0.0
    for c in range(k):
        for i in range(tile):
            terms[c, i] = math.exp(terms[c, i] - largest[i])
            mass[i] += terms[c, i]
    total = 0.0
    for i in range(tile):
        total += largest[i] + math.log(mass[i])
        mass[i] = 1.0 / mass[i]
    for c in range(k):
        for i in range(tile):
            terms[c, i] *= mass[i]
    return total


@njit(error_model="numpy", cache=True)
def _weigh(q, terms):
    """``q`` becomes its own cotangent."""
    k, tile = terms.shape
    d = q.shape[0] // k
    for c in range(k):
        weights = terms[c]
        for j in range(d):
            row = q[c * d + j]
            for i in range(tile):
                row[i] *= -weights[i]


@njit(error_model="numpy", cache=True)
def _finish(alphas, means, icf, t, tb, qsum, masses, n, ga, gm, gi):
    """From the cotangents of the factors to those of the parameters; the part free of data."""
    k, d = means.shape
    largest = np.max(alphas)
    mass = 0.0
    for c in range(k):
        mass += math.exp(alphas[c] - largest)
    for c in range(k):
        ga[c] = masses[c] - n * math.exp(alphas[c] - largest) / mass
        at = d
        for m in range(d):
            gm[c, m] = 0.0
        for j in range(d):
            total = qsum[c * d + j]
            row, rowb = t[c * d + j], tb[c * d + j]
            gi[c, j] = (rowb[j] - total * means[c, j]) * row[j] + masses[c]
            for m in range(j):
                gi[c, at] = rowb[m] - total * means[c, m]
                at += 1
            for m in range(j + 1):
                gm[c, m] -= row[m] * total
    return -n * (largest + math.log(mass))


@njit(error_model="numpy", cache=True)
def _value_and_gradient(alphas, means, icf, x, work, ga, gm, gi):
    """``x`` in tiles, (tiles, d, TILE); BLAS multiplies it by all components at once."""
    t, tb, part, shift, bias, qsum, sums, masses, counts, q, terms, mass, largest, ones = work
    tiles, d, _ = x.shape
    n = tiles * TILE
    _factors(alphas, means, icf, t, shift, bias)
    tb[:] = 0.0
    qsum[:] = 0.0
    masses[:] = 0.0
    total = -0.5 * n * d * math.log(2.0 * math.pi)
    for tile in range(tiles):
        np.dot(t, x[tile], q)
        _log_densities(q, shift, bias, terms)
        total += _softmax(terms, mass, largest)
        _weigh(q, terms)
        np.dot(q, x[tile].T, part)
        np.dot(q, ones, sums)
        np.dot(terms, ones, counts)
        tb += part
        qsum += sums
        masses += counts
    return total + _finish(alphas, means, icf, t, tb, qsum, masses, n, ga, gm, gi)


class Mixture(Workload):
    """Batched small matrix products and a log-sum-exp over components."""

    name = "Gaussian mixture d=10 k=25 n=1000"
    bars = (Bar("jax"),)
    slow = frozenset({"casadi"})
    hopeless = frozenset({"jax-unrolled", "casadi-gcc"})

    def __init__(self, d: int = 10, k: int = 25, n: int = 1000) -> None:
        if n % TILE:
            raise ValueError(f"the hand-written gradient wants a multiple of {TILE} points: {n}")
        rng = np.random.default_rng(5)
        self.d, self.k, self.n = d, k, n
        self.x = rng.standard_normal((n, d))
        self.point = [
            rng.standard_normal(k),
            rng.standard_normal((k, d)),
            0.3 * rng.standard_normal((k, d * (d + 1) // 2)),
        ]

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        d, n = self.d, self.n
        rows, columns = np.tril_indices(d, -1)
        index = np.zeros((d, d), int)
        index[rows, columns] = d + np.arange(len(rows))
        x = constant(np.ascontiguousarray(self.x.T))
        eye, below = constant(np.eye(d)), constant(np.tri(d, k=-1))
        constant_term = -0.5 * n * d * math.log(2 * math.pi)

        def log_sum_exp(z: Any) -> Any:
            largest = xp.amax(z, axis=0)
            return largest + xp.log(xp.sum(xp.exp(z - largest), axis=0))

        def log_likelihood(p: Any) -> Any:
            alphas, means, icf = p
            factors = icf[:, index] * below + xp.exp(icf[:, :d])[:, :, None] * eye
            q = factors @ (x - means[:, :, None])
            bias = alphas + xp.sum(icf[:, :d], axis=1)
            terms = bias[:, None] - 0.5 * xp.sum(q * q, axis=1)
            return constant_term + xp.sum(log_sum_exp(terms)) - n * log_sum_exp(alphas)

        return log_likelihood

    def hand(self) -> Call:
        d, k = self.d, self.k
        gradient = [np.empty_like(array) for array in self.point]
        shapes = [(k * d, d), (k * d, d), (k * d, d), (k, d), (k,), (k * d,), (k * d,), (k,), (k,)]
        shapes += [(k * d, TILE), (k, TILE), (TILE,), (TILE,)]
        work = (*(np.zeros(shape) for shape in shapes), np.ones(TILE))
        tiles = np.ascontiguousarray(self.x.reshape(-1, TILE, d).transpose(0, 2, 1))
        return into(_value_and_gradient, (*self.point, tiles, work, *gradient), gradient)

    def casadi(self, ca: Any) -> Any:
        d, k, n = self.d, self.k, self.n
        alphas, means, icf = (ca.SX.sym(f"p{i}", a.size) for i, a in enumerate(self.point))
        size = d * (d + 1) // 2
        x = ca.DM(self.x.T)
        terms = []
        for c in range(k):
            row = icf[c * size : (c + 1) * size]
            factor = ca.diag(ca.exp(row[:d]))
            for at, (i, j) in enumerate(zip(*np.tril_indices(d, -1), strict=True)):
                factor[int(i), int(j)] = row[d + at]
            q = ca.mtimes(factor, x - ca.repmat(means[c * d : (c + 1) * d], 1, n))
            terms.append(alphas[c] + ca.sum1(row[:d]) - 0.5 * ca.sum1(q * q))
        densities = ca.log(ca.sum1(ca.exp(ca.vertcat(*terms))))
        total = ca.sum2(densities) - n * ca.log(ca.sum1(ca.exp(alphas)))
        return [alphas, means, icf], total - 0.5 * n * d * math.log(2 * math.pi)
