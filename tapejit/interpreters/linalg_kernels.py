"""Kernels for matrix factorizations."""
