"""Where parts compute, and what they start from: sizes, activations, weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu_check.engine import GpuOptions
from benchmarks.gpu_check.running.job import Job, Missing
from benchmarks.planted import Planted
from deconstruct.sae.initial import TOPK_ENCODER_NORM
from deconstruct.sae.spec import StepSpec


def device_of(job: Job) -> str:
    """Where a part computes: "cpu" in a smoke test, else "cuda". Raises Missing without a card."""
    if job.smoke:
        return "cpu"
    if not torch.cuda.is_available():
        raise Missing("no CUDA device; --smoke runs on a CPU")
    return "cuda"


@dataclass(frozen=True)
class Shape:
    """What the kernels are checked at.

    dead_share: of the latents, dead before the step. k_aux: latents that AuxK keeps a token. nests:
    of Matryoshka; 1: BatchTopK; 0: TopK.
    """

    sizes: Sizes
    clip_norm: float
    dead_share: float
    k_aux: int
    options: GpuOptions | None = None
    nests: int = 0


_HALF, _CUBLAS = GpuOptions(moments="bfloat16"), GpuOptions(encoder="cublas")
_SHAPES = {
    "b": Shape(Sizes(4096, 2304, 65536, 64), 1.0, 0.01, 64),
    "a": Shape(Sizes(4096, 768, 24576, 32), 1.0, 0.05, 32),
    "c": Shape(Sizes(4096, 768, 131072, 32), 1.0, 0.0, 32),
    "a bf16": Shape(Sizes(4096, 768, 24576, 32), math.inf, 0.0, 32, _HALF),
    "a cublas": Shape(Sizes(4096, 768, 24576, 32), 0.02, 0.2, 384, _CUBLAS),
    "odd": Shape(Sizes(1000, 104, 1000, 7), 0.05, 0.3, 5),
    "ragged": Shape(Sizes(257, 100, 999, 5), 0.05, 0.3, 64),
    "wide": Shape(Sizes(300, 4096, 8192, 512), 1.0, 0.1, 16),
    "gemma": Shape(Sizes(4096, 640, 8192, 32), 1.0, 0.02, 32),
    "batchtopk": Shape(Sizes(4096, 768, 24576, 32), 1.0, 0.05, 32, nests=1),
    "matryoshka": Shape(Sizes(4096, 640, 8192, 32), 1.0, 0.02, 32, nests=5),
    "k1": Shape(Sizes(2048, 768, 4096, 1), 1.0, 0.0, 1),
}
_TINY = {
    "a": Shape(Sizes(8, 20, 48, 5), 0.05, 0.3, 4),
    "b": Shape(Sizes(7, 12, 24, 3), math.inf, 0.0, 3, _HALF),
    "matryoshka": Shape(Sizes(5, 12, 24, 3), 1.0, 0.2, 3, nests=3),
}


def shapes(smoke: bool) -> dict[str, Shape]:
    """Name -> what the kernels are checked at."""
    return _TINY if smoke else _SHAPES


def timed_sizes(smoke: bool) -> dict[str, Sizes]:
    """Name -> what steps are timed at."""
    return {"a": Sizes(4, 8, 16, 2)} if smoke else {n: _SHAPES[n].sizes for n in "abc"}


def tokens(rows: int, d_in: int, seed: int, device: str) -> Tensor:
    """Activations of few planted directions with noise, E|x|^2 near 1; float32 [rows, d_in]."""
    directions = 4096 if device == "cuda" else 64
    true = Planted(directions, d_in, 30, torch.Generator(device).manual_seed(1))
    draw = torch.Generator(device).manual_seed(seed)
    x = true.rows(rows, draw)
    x += 0.1 * torch.randn(rows, d_in, generator=draw, device=device) / d_in**0.5
    found: Tensor = x / x.square().sum(1).mean().sqrt()
    return found


def start_weights(spec: StepSpec, device: str, seed: int = 0) -> dict[str, Tensor]:
    """As `initial_weights`, made on the device, with biases that are not zero."""
    draw = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device)

    decoder = torch.nn.functional.normalize(normal(spec.d_sae, spec.d_in))
    return {
        "W_enc": decoder.mT * TOPK_ENCODER_NORM,
        "b_enc": 0.02 * normal(spec.d_sae) / spec.d_in**0.5,
        "W_dec": decoder,
        "b_dec": 0.01 * normal(spec.d_in) / spec.d_in**0.5,
    }
