"""Kernels in numba: choosing, decoding, gradients, Adam."""
