"""A generated program on short vectors: what one instruction costs when arrays are small.

The mix is 70 % additions and products, 10 % tanh, 10 % sums (scalars that are then used by
broadcasting) and 10 % products with a square matrix, in random order.  Operands are chosen so that
a bound on every value stays small, every result is used, and adjoints neither vanish nor explode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .workload import Workload

ADD, MULTIPLY, TANH, SUM, MATVEC = range(5)
#: Percent of each operation, in the order of the codes.
MIX = (35, 35, 10, 10, 10)
LIMIT = 4.0
WIDTH = 24
VECTORS, MATRICES = 64, 8
#: One addition in so many goes to the running total, which feeds every stretch of the program.
TOTAL_EVERY = 16


class _Generator:
    """Picks operands; ``waiting`` holds the results that nothing has used yet, oldest first."""

    def __init__(self, seed: int, workload: ShortArrays) -> None:
        self.rng = np.random.default_rng(seed)
        self.workload = workload
        self.constant_bounds = np.abs(workload.vectors).max(axis=1)
        self.values: list[Any] = [workload.point, 0.0]
        self.scales = [1.0, 0.0]
        self.bounds = [1.0, np.inf]
        self.is_scalar = [False, False]
        self.waiting = [0] * WIDTH
        self.total = 1
        self.additions = 0

    def program(self, size: int) -> list[tuple[int, int, int]]:
        codes = np.repeat(np.arange(5), np.array(MIX) * size // 100)
        return [self.operation(int(code)) for code in self.rng.permutation(codes)]

    def operation(self, code: int) -> tuple[int, int, int]:
        first, second, bound = (self._add, self._multiply, self._tanh, self._sum, self._matvec)[
            code
        ]()
        result = len(self.bounds)
        if second == self.total and code == ADD:
            self.total = result
            self.waiting.append(first)
        else:
            self.waiting.append(result)
        self.values.append(self.workload.evaluate(np, (code, first, second), self.values))
        self.scales.append(float(np.max(np.abs(self.values[-1]))))
        self.bounds.append(bound)
        self.is_scalar.append(code == SUM)
        return code, first, second

    def _take(self, limit: float = np.inf, scalars: bool = False) -> int:
        """The oldest waiting result within ``limit``, or the oldest of its kind."""
        kind = [i for i in self.waiting if self.is_scalar[i] == scalars]
        taken = next((i for i in kind if self.bounds[i] <= limit), kind[0] if kind else -1)
        if taken >= 0:
            self.waiting.remove(taken)
        return taken

    def _other(self, limit: float, least: float = 0.0) -> tuple[int, float]:
        """A recent vector of a scale between the two, or else a constant (numbered from -1)."""
        recent = range(max(2, len(self.bounds) - 2 * WIDTH), len(self.bounds))
        fit = [
            i
            for i in recent
            if not self.is_scalar[i] and self.bounds[i] <= limit and self.scales[i] >= least
        ]
        if fit and self.rng.random() < 0.5:
            pick = int(self.rng.choice(fit))
            return pick, self.bounds[pick]
        fit = np.flatnonzero(self.constant_bounds <= limit)
        pick = int(self.rng.choice(fit)) if len(fit) else int(np.argmin(self.constant_bounds))
        return -1 - pick, float(self.constant_bounds[pick])

    def _add(self) -> tuple[int, int, float]:
        self.additions += 1
        first = self._take(LIMIT - 1.0)
        if self.additions % TOTAL_EVERY == 0:
            return first, self.total, np.inf  # never an operand of anything else
        second, bound = self._other(LIMIT - self.bounds[first])
        return first, second, self.bounds[first] + bound

    def _multiply(self) -> tuple[int, int, float]:
        first = self._take(scalars=True)
        if first < 0:
            first = self._take()
        limit = 1.0 if self.is_scalar[first] else LIMIT / max(self.bounds[first], 1e-3)
        second, bound = self._other(limit, least=min(0.4, 0.5 * limit))
        return first, second, self.bounds[first] * bound

    def _tanh(self) -> tuple[int, int, float]:
        first = self._take()
        return first, first, min(1.0, self.bounds[first])

    def _sum(self) -> tuple[int, int, float]:
        first = self._take(1.0)
        return first, first, 14.0 * self.bounds[first]

    def _matvec(self) -> tuple[int, int, float]:
        first = self._take()
        return first, int(self.rng.integers(MATRICES)), self.bounds[first]


class ShortArrays(Workload):
    """``size`` operations on vectors of ``n``, from one vector to one number."""

    def __init__(self, size: int = 100_000, n: int = 14) -> None:
        self.name = f"{size} operations on vectors of {n}"
        self.size, self.n = size, n
        rng = np.random.default_rng(6)
        self.vectors = rng.uniform(0.2, 1.2, (VECTORS, 1)) * rng.uniform(0.7, 1.0, (VECTORS, n))
        self.vectors *= rng.choice([-1.0, 1.0], (VECTORS, n))
        self.matrices = rng.uniform(-1, 1, (MATRICES, n, n))
        self.matrices /= np.abs(self.matrices).sum(axis=2, keepdims=True)
        self.point = rng.uniform(-1, 1, n)
        generator = _Generator(7, self)
        self.program = generator.program(size)
        self.ends = generator.waiting
        self.total = generator.total

    def evaluate(self, xp: Any, operation: tuple[int, int, int], values: list[Any]) -> Any:
        """The result of one operation of the program."""
        code, first, second = operation
        a = values[first]
        if code == TANH:
            return xp.tanh(a)
        if code == SUM:
            return xp.sum(a)
        if code == MATVEC:
            return self.matrices[second] @ a
        b = values[second] if second >= 0 else self.vectors[-1 - second]
        return a + b if code == ADD else a * b

    def function(self, xp: Any, constant: Any = np.asarray) -> Any:
        def run(x: Any) -> Any:
            values = [x, 0.0]
            for operation in self.program:
                values.append(self.evaluate(xp, operation, values))
            return xp.sum(values[self.total]) + sum(xp.sum(values[i]) for i in set(self.ends))

        return run
