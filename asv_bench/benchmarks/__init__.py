"""What `asv run` measures; the workloads are those of the comparison.

An installed tapejit is measured; without one, that of this working tree.
"""

import sys
from pathlib import Path

_BENCH = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_BENCH))
sys.path.append(str(_BENCH.parent))

import workloads  # noqa: E402, F401  (before NumPy: it holds every library to one thread)
