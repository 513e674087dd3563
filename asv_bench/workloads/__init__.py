"""The workloads of the benchmarks, each written once for every library.

Import this package before NumPy: it holds BLAS, OpenMP and XLA to one thread.
"""

import os

for _name in ("OPENBLAS", "OMP", "MKL", "NUMEXPR", "NUMBA"):
    os.environ[f"{_name}_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from .irregular import Irregular  # noqa: E402
from .logistic import Logistic  # noqa: E402
from .lotka_volterra import LotkaVolterra  # noqa: E402
from .mixture import Mixture  # noqa: E402
from .mlp import Mlp  # noqa: E402
from .rosenbrock import RosenbrockLoop, RosenbrockVectors  # noqa: E402
from .second_order import (  # noqa: E402
    SecondOrder,
    logistic_hessian,
    logistic_product,
    rosenbrock_hessian,
    rosenbrock_product,
)
from .short_arrays import ShortArrays  # noqa: E402
from .small import Small  # noqa: E402
from .workload import Bar, Call, Workload  # noqa: E402

__all__ = [
    "COMPARED",
    "Bar",
    "Call",
    "Irregular",
    "Logistic",
    "LotkaVolterra",
    "Mixture",
    "Mlp",
    "RosenbrockLoop",
    "RosenbrockVectors",
    "SecondOrder",
    "ShortArrays",
    "Small",
    "Workload",
]

#: The rows of the comparison, by the name that selects them; made when asked for.
COMPARED = {
    "small": Small,
    "rosenbrock-loop": RosenbrockLoop,
    "rosenbrock-1000": RosenbrockVectors,
    "rosenbrock-1e6": lambda: RosenbrockVectors(10**6),
    "logistic-small": Logistic,
    "logistic-large": lambda: Logistic(20_000, 100),
    "mlp": Mlp,
    "lotka-volterra": LotkaVolterra,
    "mixture": Mixture,
    "rosenbrock-hvp": rosenbrock_product,
    "rosenbrock-hessian": rosenbrock_hessian,
    "logistic-hvp": logistic_product,
    "logistic-hessian": logistic_hessian,
}
