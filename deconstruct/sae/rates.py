"""The learning rate of each step of a training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconstruct.config import SaeConfig
from deconstruct.sae.architectures.registry import ARCHITECTURES


def learning_rates(config: SaeConfig, steps: int) -> Tensor:
    """The rate of each step, [steps]: linear warm-up, a plateau, linear or cosine decay to zero."""
    peak = config.learning_rate or default_learning_rate(config, steps)
    step = torch.arange(steps, dtype=torch.float64)
    warm = ((step + 1) / max(1.0, config.warmup_share * steps)).clamp(max=1.0)
    left = ((steps - step) / max(1.0, config.decay_share * steps)).clamp(max=1.0)
    decay = left if config.decay == "linear" else (1 - torch.cos(math.pi * left)) / 2
    return peak * torch.minimum(warm, decay)


def default_learning_rate(config: SaeConfig, steps: int) -> float:
    """Adam's peak rate: Gao et al.'s 2e-4 * sqrt(2^14 / d_sae), raised for short runs.

    That rule was found for runs of some 10^5 steps. A run of a few hundred steps has no time for
    it: measured on residual streams, the best rate falls with the square root of the steps
    (benchmarks/README.md has the curve).
    """
    long_run = ARCHITECTURES[config.architecture].long_run
    gao = 2e-4 * math.sqrt(2**14 / config.d_sae)
    return gao * min(10.0, max(1.0, math.sqrt(long_run / steps)))
