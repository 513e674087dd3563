"""Value and gradient of every workload of the comparison; products and Hessians of some."""

from __future__ import annotations

import numpy as np
from workloads import COMPARED, Logistic, RosenbrockVectors

import tapejit as tj


class ValueAndGradient:
    """From NumPy arrays to NumPy arrays."""

    params = tuple(COMPARED)
    param_names = ("workload",)

    def setup(self, name: str) -> None:
        workload = COMPARED[name]()
        self.point = workload.point
        self.gradient = tj.value_and_grad(workload.function(np))
        self.gradient(self.point)

    def time_value_and_gradient(self, name: str) -> None:
        self.gradient(self.point)


class SecondOrder:
    """A Hessian-vector product and a whole Hessian."""

    def setup(self) -> None:
        long, small = RosenbrockVectors(1000), Logistic(1000, 20)
        self.long, self.small = long.point, small.point
        self.product = tj.hvp(long.function(np))
        self.hessian = tj.hessian(small.function(np))
        self.product(self.long, self.long)
        self.hessian(self.small)

    def time_hvp_rosenbrock(self) -> None:
        self.product(self.long, self.long)

    def time_hessian_logistic(self) -> None:
        self.hessian(self.small)
