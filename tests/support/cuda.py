"""Where the GPU kernels are tested: on a CUDA device, or in Triton's interpreter on the CPU."""

from __future__ import annotations

from support.alone import ON_GPU

from deconstruct.sae.engines.cuda.options import unavailable

REASON = unavailable()
DEVICE = "cuda" if ON_GPU else "cpu"
