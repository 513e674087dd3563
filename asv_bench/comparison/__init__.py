"""Side by side: contenders, checked against each other and timed in interleaved rounds."""

import workloads  # noqa: F401  (first: it holds every library to one thread)
