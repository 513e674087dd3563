"""The contenders: how each library makes a value-and-gradient call out of a workload."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from workloads import Call, SecondOrder, Workload

from . import second_order

Read = tuple[float, list[np.ndarray] | None]


class Unsupported(Exception):
    """The contender has no version of this workload."""


def _read_pair(result: tuple[Any, Any]) -> Read:
    value, gradient = result
    arrays = gradient if isinstance(gradient, list | tuple) else [gradient]
    return float(value), [np.asarray(array) for array in arrays]


def _tapejit(workload: Workload) -> Call:
    tj = importlib.import_module("tapejit")
    gradient = tj.value_and_grad(workload.function(np))
    return Call(gradient, (workload.point,), _read_pair)


def _hand(workload: Workload) -> Call:
    call = workload.hand()
    if call is None:
        raise Unsupported("not written by hand")
    return call


def _numpy(workload: Workload) -> Call:
    return Call(workload.function(np), (workload.point,), lambda value: (float(value), None))


def _casadi(workload: Workload, **options: Any) -> Call:
    """CasADi's gradient with inputs and results bound to NumPy arrays."""
    ca = importlib.import_module("casadi")
    graph = workload.casadi(ca)
    if graph is None:
        raise Unsupported("not written for CasADi")
    symbols, value = graph
    gradients = ca.reverse([value], symbols, [[1.0]])[0]
    outputs = [value, *(ca.densify(gradient) for gradient in gradients)]
    function = ca.Function("value_and_gradient", symbols, outputs, options)
    buffer, trigger = function.buffer()
    results = [np.empty(1), *(np.empty_like(array) for array in workload.arrays())]
    for i, array in enumerate(workload.arrays()):
        buffer.set_arg(i, memoryview(array.reshape(-1)))
    for i, array in enumerate(results):
        buffer.set_res(i, memoryview(array.reshape(-1)))
    # The buffer refers to the function; the arrays live in ``results``.
    return Call(trigger, (), lambda _, alive=buffer: (float(results[0][0]), results[1:]))


def _casadi_gcc(workload: Workload) -> Call:
    options = {"jit": True, "compiler": "shell", "jit_options": {"flags": ["-O3"]}}
    return _casadi(workload, **options)


@cache
def _import_jax() -> Any:
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    # Handing the work to another thread costs small calls 40 µs.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return jax


def temporary_bytes(workload: Workload) -> int:
    """What JAX's compiled value and gradient allocates while it runs, by its own analysis."""
    jax = _import_jax()
    compiled = jax.jit(jax.value_and_grad(workload.jax_function(jax))).lower(workload.point)
    return int(compiled.compile().memory_analysis().temp_size_in_bytes)


def _jax(workload: Workload, unrolled: bool = False) -> Call:
    """Compiled value and gradient, from NumPy arrays to NumPy arrays."""
    jax = _import_jax()
    if unrolled:
        function = workload.function(jax.numpy, jax.numpy.asarray)
    else:
        function = workload.jax_function(jax)
    compiled = jax.jit(jax.value_and_grad(function))

    def one_array(x: Any) -> Any:
        value, gradient = compiled(x)
        return float(value), np.asarray(gradient)

    def many_arrays(x: Any) -> Any:
        value, gradient = compiled(x)
        return float(value), [np.asarray(array) for array in gradient]

    call = many_arrays if isinstance(workload.point, list) else one_array
    return Call(call, (workload.point,), _read_pair)


def _torch(workload: Workload) -> Call:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    function = workload.function(torch, torch.from_numpy)

    def one_array(x: Any) -> Any:
        leaf = torch.from_numpy(x).requires_grad_()
        value = function(leaf)
        value.backward()
        return value.item(), leaf.grad.numpy()

    def many_arrays(x: Any) -> Any:
        leaves = [torch.from_numpy(array).requires_grad_() for array in x]
        value = function(leaves)
        value.backward()
        return value.item(), [leaf.grad.numpy() for leaf in leaves]

    call = many_arrays if isinstance(workload.point, list) else one_array
    return Call(call, (workload.point,), _read_pair)


def _autograd(workload: Workload) -> Call:
    autograd = importlib.import_module("autograd")
    namespace = importlib.import_module("autograd.numpy")
    return Call(
        autograd.value_and_grad(workload.function(namespace)), (workload.point,), _read_pair
    )


#: Name, package that must be installed, title of the column, builder.
CONTENDERS: dict[str, tuple[str, str, Callable[[Workload], Call]]] = {
    "tapejit": ("tapejit", "tapejit", _tapejit),
    "hand": ("numba", "hand-written Numba", _hand),
    "numpy": ("numpy", "NumPy, value only", _numpy),
    "casadi": ("casadi", "CasADi", _casadi),
    "casadi-gcc": ("casadi", "CasADi gcc -O3", _casadi_gcc),
    "jax": ("jax", "JAX", _jax),
    "jax-unrolled": ("jax", "JAX, loop unrolled", lambda w: _jax(w, unrolled=True)),
    "torch": ("torch", "PyTorch eager", _torch),
    "autograd": ("autograd", "autograd", _autograd),
}
#: Second versions of a library: only with ``--slow``.
EXTRA = frozenset({"casadi-gcc", "jax-unrolled"})


def installed(contender: str) -> bool:
    """Whether the contender's package is there (that it fails to import is an error to show)."""
    return importlib.util.find_spec(CONTENDERS[contender][0]) is not None


def build(contender: str, workload: Workload) -> Call:
    """The contender's call for ``workload``; raises :class:`Unsupported` where it has none."""
    if not isinstance(workload, SecondOrder):
        return CONTENDERS[contender][2](workload)
    make = second_order.builders(_import_jax).get(contender)
    if make is None:
        raise Unsupported("no second derivatives")
    return make(workload)


def left_out(contender: str, workload: Workload, slow: bool) -> str:
    """Why the contender does not take part: hopeless here (``-``), or slow and not asked for."""
    if contender in workload.hopeless:
        return "-"
    return "" if slow or contender not in workload.slow | EXTRA else "slow"
