"""A verdict on the GPU path in one command: `benchmarks.gpu_check.__main__` has its parts."""
