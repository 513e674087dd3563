"""Array instructions of constants, evaluated while deriving."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..builder import TapeBuilder
from ..tape import Call, Leaf

__all__ = ["evaluated"]


def evaluated(call: Call, operands: Sequence[np.ndarray]) -> np.ndarray:
    """The result of an array instruction on constants, from the kernel that replays it."""
    from ..replay import evaluate

    builder = TapeBuilder(name=call.op)
    views = [
        builder.array_constant(np.array(value, np.float64, order="C"))
        if np.ndim(value)
        else builder.constant_view(float(value))
        for value in operands
    ]
    result = builder.new_result(call.result.shape)
    builder.call(call.op, views, result, call.params, (None, 0))
    (value,) = evaluate(builder.finish([Leaf(result, "<f8")]), [])
    return np.array(value, np.float64, order="C")
