"""The table of operations: each one's mathematics, once."""

from . import elementwise as elementwise
