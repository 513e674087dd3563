"""Staged control flow: loops and branches that are recorded once and replayed without Python.

Names and signatures are JAX's.  A body is recorded as a tape of its own, and stands in the
enclosing tape as one instruction, whatever the number of steps.  Bodies may close over traced
values, and contain loops and branches themselves.

On tensors (:func:`tapejit.tensor`) a loop is one instruction of their graph, and ``backward`` goes
through its compiled reverse loop; the body is recorded anew at each call, and may close over
tensors.  A branch, whose predicate is known then, runs the chosen function on the tensors.
"""

from .branches import cond as cond
from .branches import switch as switch
from .loops import fori_loop as fori_loop
from .loops import scan as scan
from .loops import while_loop as while_loop

__all__ = ["cond", "fori_loop", "scan", "switch", "while_loop"]
