"""NumPy's functions on traced values, under NumPy's names."""

from __future__ import annotations

from . import linalg as linalg
from .calculus import *  # noqa: F403
from .picking import *  # noqa: F403
from .pointwise import *  # noqa: F403
from .products import *  # noqa: F403
from .reductions import *  # noqa: F403
from .shapes import *  # noqa: F403
