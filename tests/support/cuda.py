"""Where the GPU kernels are tested: on a CUDA device, or in Triton's interpreter on the CPU.

Triton's interpreter keeps a bfloat16 as its bits, and multiplies these as integers in ``tl.dot``;
here it is told to multiply the numbers, so that the product that uses TMA is tried without a card.
"""

from __future__ import annotations

from typing import Any

from support.alone import ON_GPU

from deconstruct.sae.engines.cuda.options import unavailable

REASON = unavailable()
DEVICE = "cuda" if ON_GPU else "cpu"

if REASON is None and not ON_GPU:
    import numpy as np
    from triton.runtime import interpreter
    from triton.runtime.interpreter import TensorHandle, tl

    Builder = interpreter.InterpreterBuilder
    create_dot = Builder.create_dot

    def numbers(of: TensorHandle) -> TensorHandle:
        """Float32 in the place of bfloat16: exact."""
        if of.dtype.scalar != tl.bfloat16:
            return of
        widened = interpreter._convert_float(of.data, tl.bfloat16, tl.float32, None)
        return TensorHandle(widened.view(np.float32), tl.float32)

    def dot(self: object, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return create_dot(self, numbers(a), numbers(b), *rest)

    Builder.create_dot = dot
