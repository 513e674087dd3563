"""The numbers that interpreters, kernels and lowering agree on: context words and op codes.

A *context* is one array of 64-bit integers: a header, then the base address of each *space*.
An operand is a pair (space, offset in doubles).  Bit ``ADVANCE`` of the space word marks an
operand that moves along with the tile of a chain; registers and scalars do not.
"""

from __future__ import annotations

from ..ops.table import OPS

# Context header (indices into the context).
TILE_BASE = 0  # first element of the current tile
TILE_SIZE = 1  # elements of a tile; UNTILED outside of chains
KERNELS = 2  # address of the table of kernel addresses
BLAS = 3  # address of the table of BLAS and LAPACK addresses
FORWARD = 4  # address of the forward code
FORWARD_STOP = 5  # its length in words
REVERSE = 6
REVERSE_STOP = 7
TANGENT = 8
TANGENT_STOP = 9
FAILED = 10  # position of the guard or instruction at which a sweep stopped
OBSERVED = 11  # what that guard saw, the bits of a double
PARAMETERS = 12  # address of the argument table
N_PARAMETERS = 13
RESULTS = 14  # address of the result table
N_RESULTS = 15
COUNTERS = 16  # 27 words of scratch integers for odometers
RECOMPUTING = 43  # word of the forward code at which a recomputation paused, plus one
PHASE = 44  # which sweep a pause interrupted, as a bit of what `entry.run` does
BUDGET = 45  # address of the work left until the next pause
LOOPS = 46  # address of the records of this program's loops
TYPES = 47  # address of the addresses of accepted Python types
SPACE_0 = 48  # first space

# Spaces (indices into the context).
VALUES = SPACE_0
ADJOINTS = SPACE_0 + 1
TANGENTS = SPACE_0 + 2
CONSTANTS = SPACE_0 + 3
SCRATCH = SPACE_0 + 4
ARGUMENTS = SPACE_0 + 5  # three spaces for each argument read in place: value, adjoint, tangent
CONTEXT_WORDS = 256
MAX_IN_PLACE = (CONTEXT_WORDS - ARGUMENTS) // 3
ADVANCE = 256
UNTILED = 1 << 60
TILE = 512
LANES = 8  # directions that one sweep in vector mode carries: a cache line of adjoints a value

# Modes in which a kernel writes a cotangent or tangent.
SKIP, ASSIGN, ADD = 0, 1, 2

# Status words that sweeps return.
DONE = 0
GUARD_FAILED = 1
INDEX_ERROR = 2
ARGUMENT_CHANGED = 3
LINALG_ERROR = 4
PAUSED = 5  # a loop gives Python a chance to see signals; the sweep goes on where it stopped
LOOP_LIMIT = 6
FILE_ERROR = 7  # a snapshot could not be written to its file, or read back
OPERATION_ERROR = 8  # a user's kernel raised an exception
PYTHON_ERROR = 9  # a call of Python raised one, which is kept

# Op codes: elementwise operations first, then these.
_BASE = len(OPS)
WRITE = _BASE  # save, destination, source
GUARD_TRUE = _BASE + 1
GUARD_FALSE = _BASE + 2
GUARD_EQUAL = _BASE + 3
CALL = _BASE + 4  # length in words, kernel, operands ...
ZERO = _BASE + 5  # offset, count: clear adjoints
N_OPS = _BASE + 6

#: Frequent operations have a reverse op code for each set of active operands (as bits); the
#: others write the cotangents of inactive operands to places that nobody reads.
_FREQUENT = {"add", "sub", "mul", "div", "muladd", "submul", "mulsub"}
_SUBSETS = {1: (1,), 2: (1, 2, 3), 3: (7, 6, 3)}


def _subsets(name: str, arity: int) -> tuple[int, ...]:
    return _SUBSETS[arity] if name in _FREQUENT else ((1 << arity) - 1,)


def reverse_variants() -> dict[tuple[int, int], int]:
    """Reverse op code by (op code, set of active operands as bits)."""
    codes: dict[tuple[int, int], int] = {}
    for op in OPS.values():
        if op.pull is not None:
            for active in _subsets(op.name, op.arity):
                codes[op.code, active] = N_OPS + len(codes)
    return codes


REVERSE_CODES = reverse_variants()


def reverse_code(op: int, active: int) -> int:
    """The reverse op code that serves the active operands of ``op`` (perhaps some more)."""
    exact = REVERSE_CODES.get((op, active))
    if exact is not None:
        return exact
    full = max(bits for code, bits in REVERSE_CODES if code == op)
    return REVERSE_CODES[op, full]
