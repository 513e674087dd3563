"""How each library makes a Hessian-vector product or a dense Hessian out of a workload."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from workloads import Call, SecondOrder


def _one_array(result: Any) -> tuple[float, list[np.ndarray]]:
    return 0.0, [np.asarray(result)]


def arguments(workload: SecondOrder) -> tuple[np.ndarray, ...]:
    """The point, and the direction of a product."""
    if workload.vector is None:
        return (workload.point,)
    return (workload.point, workload.vector)


def tapejit(workload: SecondOrder) -> Call:
    """Recorded once, replayed from its derivative tape."""
    tj = importlib.import_module("tapejit")
    make = tj.hessian if workload.vector is None else tj.hvp
    return Call(make(workload.function(np)), arguments(workload), _one_array)


def jax(workload: SecondOrder, module: Any) -> Call:
    """Compiled; forward over reverse, as ``jax.hessian`` does it."""
    function = workload.function(module.numpy, module.numpy.asarray)
    if workload.vector is None:
        compiled = module.jit(module.hessian(function))
    else:
        gradient = module.grad(function)
        compiled = module.jit(lambda x, v: module.jvp(gradient, (x,), (v,))[1])
    return Call(lambda *args: np.asarray(compiled(*args)), arguments(workload), _one_array)


def casadi(workload: SecondOrder) -> Call:
    """With inputs and results bound to NumPy arrays; the Hessian is densified."""
    ca = importlib.import_module("casadi")
    (x,), value = workload.casadi(ca)
    if workload.vector is None:
        inputs, output = [x], ca.densify(ca.hessian(value, x)[0])
    else:
        v = type(x).sym("v", x.size1())
        inputs, output = [x, v], ca.jtimes(ca.gradient(value, x), x, v)
        output = ca.densify(output)
    function = ca.Function("second", inputs, [output])
    buffer, trigger = function.buffer()
    result = np.empty_like(workload.result)
    for i, array in enumerate(arguments(workload)):
        buffer.set_arg(i, memoryview(array))
    buffer.set_res(0, memoryview(result.reshape(-1)))
    return Call(trigger, (), lambda _, alive=buffer: (0.0, [result]))


def torch(workload: SecondOrder) -> Call:
    """Eager; reverse over reverse."""
    module = importlib.import_module("torch")
    module.set_num_threads(1)
    function = workload.function(module, module.from_numpy)
    functional = module.autograd.functional

    def call(*arrays: np.ndarray) -> np.ndarray:
        tensors = [module.from_numpy(array) for array in arrays]
        if workload.vector is None:
            return functional.hessian(function, *tensors).numpy()
        return functional.hvp(function, *tensors)[1].numpy()

    return Call(call, arguments(workload), _one_array)


def autograd(workload: SecondOrder) -> Call:
    """Reverse over reverse, in Python."""
    module = importlib.import_module("autograd")
    function = workload.function(importlib.import_module("autograd.numpy"))
    make = module.hessian if workload.vector is None else module.hessian_vector_product
    return Call(make(function), arguments(workload), _one_array)


def builders(import_jax: Callable[[], Any]) -> dict[str, Callable[[SecondOrder], Call]]:
    """Builders by contender."""
    return {
        "tapejit": tapejit,
        "hand": lambda workload: workload.hand(),
        "casadi": casadi,
        "jax": lambda workload: jax(workload, import_jax()),
        "torch": torch,
        "autograd": autograd,
    }
