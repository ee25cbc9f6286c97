"""Kernels in Triton: choosing, ordering, gradients, Adam.

Their arguments have no Python types: Triton is a language in Python's clothes.
"""
