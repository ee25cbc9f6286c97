"""The engines that are checked and timed, and all that the check knows of their insides.

`FusedTopK`'s buffers are what its kernels write: the check reads them by the names that
`deconstruct.sae.engines.cuda.buffers.Buffers` has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconstruct.sae.engines.cuda.buffers import Buffers
from deconstruct.sae.engines.cuda.options import GpuOptions, unavailable
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.engines.dense import DenseEngine
from deconstruct.sae.spec import StepSpec

__all__ = [
    "Buffers",
    "FusedTopK",
    "GpuOptions",
    "buffers_of",
    "dense",
    "launch_plainly",
    "poison",
    "refresh_copies",
    "room_of",
    "unavailable",
]


def dense(spec: StepSpec, weights: dict[str, Tensor], rates: Tensor, device: str) -> DenseEngine:
    """The dense engine, which multiplies in bfloat16."""
    return DenseEngine(spec, weights, rates, device, torch.bfloat16)


def buffers_of(engine: FusedTopK) -> Buffers:
    """What the engine's kernels read and write."""
    return engine._buffers


def room_of(engine: FusedTopK) -> int:
    """For how many dead latents the next step has room; 0: no AuxK in it."""
    return int(engine._room)


def refresh_copies(engine: FusedTopK) -> None:
    """Renew the bf16 copies after a live tensor of the state was written to."""
    engine._buffers.refresh_copies()


def launch_plainly(engine: FusedTopK, x: Tensor) -> None:
    """A step on x [batch, d_in], kernel by kernel, without a CUDA graph."""
    from deconstruct.sae.engines.cuda import forward

    with engine._current():
        forward.begin(engine._buffers, x.contiguous())
        engine._launcher.launch(room_of(engine))


def poison(engine: FusedTopK) -> None:
    """Have every buffer that a step writes hold what no right result is made of."""
    b = engine._buffers
    floats = [b.centered, b.error, b.pre, b.value, b.slope, b.loss, b.size, b.bound, b.norm_bound]
    floats += [b.squares, b.pace, b.b_dec_partial, *b.partial.values(), *b.grad.values()]
    floats += [b.runs["value"], b.runs["slope"]]
    if not math.isinf(b.spec.clip_norm):
        floats.append(b.clip)
    for tensor in floats:
        tensor.fill_(torch.nan)
    whole = [b.maxima, b.index, b.order, b.latents, b.runs["token"]]
    if b.per_batch:
        whole += [b.level, b.counts, b.room, b.token, b.token_ptr[1:]]
    else:
        whole.append(b.groups)
    for tensor in (*whole, b.row_ptr[1:]):
        tensor.fill_(-1)
