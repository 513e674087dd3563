"""Compiled sweeps over a Program: generated kernels, interpreters, vector mathematics, BLAS."""
