"""Kernels in numba: k-means among documents of which only the cosines are known."""
