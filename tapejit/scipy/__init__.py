"""SciPy's functions for traced values."""

from . import special as special
