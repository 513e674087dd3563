"""Second derivatives: Hessian-vector products, dense Hessians, and the making of their tapes."""

from __future__ import annotations

import numpy as np
from workloads import Logistic, LotkaVolterra, RosenbrockVectors

import tapejit as tj


class SecondOrder:
    """Rosenbrock's function of 100 variables, and logistic regression."""

    params = ("rosenbrock", "logistic")
    param_names = ("function",)

    def setup(self, name: str) -> None:
        workload = RosenbrockVectors(100) if name == "rosenbrock" else Logistic()
        function = workload.function(np)
        self.point = workload.point
        self.vector = np.linspace(-1.0, 1.0, self.point.size)
        self.product, self.hessian = tj.hvp(function), tj.hessian(function)
        self.product(self.point, self.vector)
        self.hessian(self.point)

    def time_product(self, name: str) -> None:
        self.product(self.point, self.vector)

    def time_hessian(self, name: str) -> None:
        self.hessian(self.point)


class Deriving:
    """Derivative tapes of a scalar loop of 56,000 instructions."""

    def setup(self) -> None:
        workload = LotkaVolterra()
        self.tape = tj.trace(workload.function(np), workload.point)
        self.gradient = tj.gradient_tape(self.tape)

    def time_gradient_tape(self) -> None:
        tj.gradient_tape(self.tape)

    def time_pushforward_of_gradient(self) -> None:
        tj.jvp_tape(self.gradient)
