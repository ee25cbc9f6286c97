"""What of a training depends on its length alone: steps, rates, when a latent counts as dead."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconstruct.config import SaeConfig

DEAD_SHARE_OF_RUN = 0.1
DEAD_TOKENS_AT_MOST = 10_000_000


def step_count(config: SaeConfig) -> int:
    """How many steps ``config.tokens`` come to."""
    return max(1, round(config.tokens / config.batch_size))


def dead_after(config: SaeConfig) -> int:
    """Tokens without firing after which a latent counts as dead."""
    share = min(DEAD_TOKENS_AT_MOST, int(DEAD_SHARE_OF_RUN * config.tokens))
    return config.dead_after_tokens or max(config.batch_size, share)


def learning_rates(config: SaeConfig, steps: int) -> Tensor:
    """One rate a step, [steps]: linear warm-up, a plateau, then linear or cosine decay to zero."""
    peak = config.learning_rate or default_learning_rate(config, steps)
    step = torch.arange(steps, dtype=torch.float64)
    warm = ((step + 1) / max(1.0, config.warmup_share * steps)).clamp(max=1.0)
    left = ((steps - step) / max(1.0, config.decay_share * steps)).clamp(max=1.0)
    decay = left if config.decay == "linear" else (1 - torch.cos(math.pi * left)) / 2
    return peak * torch.minimum(warm, decay)


def default_learning_rate(config: SaeConfig, steps: int) -> float:
    """Adam's peak rate: Gao et al.'s 2e-4 * sqrt(2^14 / d_sae), raised for short runs.

    That rule was found for runs of some 10^5 steps. A run of a few hundred steps has no time for
    it: measured on residual streams, the best rate falls with the square root of the steps. TopK's
    is raised less: a higher one lowers the error still, but leaves more latents dead
    (benchmarks/README.md has the curve).
    """
    short = 10_000 if config.architecture == "topk" else 20_000
    gao = 2e-4 * math.sqrt(2**14 / config.d_sae)
    return gao * min(10.0, max(1.0, math.sqrt(short / steps)))
