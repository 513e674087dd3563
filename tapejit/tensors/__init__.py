"""Define-by-run: tensors that record as they compute, and ``backward()``."""
