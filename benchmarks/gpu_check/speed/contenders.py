"""Who is timed: the fused step, the dense engine, plain torch, and the peers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.gpu.peers import SaeLens, Sparsify
from benchmarks.gpu.sizes import Sizes, topk_spec
from benchmarks.gpu_check.engine import FusedTopK, GpuOptions, dense, unavailable
from benchmarks.gpu_check.inputs import start_weights
from benchmarks.gpu_check.running.job import Missing
from benchmarks.gpu_check.speed.plain import PlainTopK
from benchmarks.gpu_check.speed.stand_ins import stand_in

STEPS = 4000
"""Of the schedules, more than are made."""


class Trains(Protocol):
    def step(self, z: Tensor, /) -> None:
        """Train on a batch."""


@dataclass(frozen=True)
class Contender:
    """make: raises Missing where what it needs is not here. wide: takes float32 rows, not bf16."""

    make: Callable[[], Trains]
    wide: bool = True


FUSED = "fused"
_LEFT_OUT = {"torch, eager", "sparsify, adam", "fused, cuBLAS product"}
"""Of all sizes but the first."""


def contenders(sizes: Sizes, device: str, whole: bool) -> dict[str, Contender]:
    """By name, in the order they are timed. whole: those too that are timed at one size only."""
    spec = topk_spec(sizes)
    adam, signum = sizes.adam_rate, sizes.signum_rate
    rates = torch.full((STEPS,), adam)

    def weights() -> dict[str, Tensor]:
        return start_weights(spec, device)

    found = {
        FUSED: Contender(lambda: fused(sizes, device), wide=False),
        "fused, bf16 moments": Contender(
            lambda: fused(sizes, device, GpuOptions(moments="bfloat16")), wide=False
        ),
        "fused, cuBLAS product": Contender(
            lambda: fused(sizes, device, GpuOptions(encoder="cublas")), wide=False
        ),
        "DenseEngine, bf16": Contender(lambda: dense(spec, weights(), rates, device)),
        "torch, eager": Contender(lambda: PlainTopK(spec, adam, device, False)),
        "sparsify, signum": Contender(lambda: _sparsify(sizes, signum, "signum", device)),
        "sparsify, adam": Contender(lambda: _sparsify(sizes, adam, "adam", device)),
        "SAELens, bf16 autocast": Contender(lambda: _sae_lens(sizes, device)),
        # on a CPU it would wait for a C++ compiler, and is not what is measured
        "torch, compiled": Contender(lambda: PlainTopK(spec, adam, device, device == "cuda")),
    }
    return {n: c for n, c in found.items() if whole or n not in _LEFT_OUT}


def fused(sizes: Sizes, device: str, options: GpuOptions | None = None) -> FusedTopK:
    """The fused step with room for the whole schedule, from weights that all start from."""
    if reason := unavailable(device):
        raise Missing(reason)
    spec, rates = topk_spec(sizes), torch.full((STEPS,), sizes.adam_rate)
    return FusedTopK(spec, start_weights(spec, device), rates, device, options)


def _sparsify(sizes: Sizes, rate: float, optimizer: str, device: str) -> Sparsify:
    stand_in()
    try:
        return Sparsify(sizes, rate, optimizer, device)
    except ImportError as error:
        raise Missing(f"sparsify does not import: {error}") from error


def _sae_lens(sizes: Sizes, device: str) -> SaeLens:
    os.environ["WANDB_MODE"] = "disabled"
    stand_in()
    try:
        return SaeLens(sizes, STEPS, sizes.adam_rate, device)
    except ImportError as error:
        raise Missing(f"SAELens does not import: {error}") from error
