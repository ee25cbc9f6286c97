"""What steers training beside the gradient: rates by step, the penalty's weight, thresholds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deconstruct.config import SaeConfig
from deconstruct.sae.engine import StepSpec

CONTROL_GAIN = 0.08
"""Relative change of the penalty in a step in which L0 is e times its target."""
THRESHOLD_RATE = 0.1
"""Share of a step's own threshold in the running one: a mean over some ten steps: it
follows while the rate decays, and a batch of thousands of tokens has little noise in it."""

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


class Control:
    """The scalars of a run that follow the data; float64 tensors, so that no step waits for them.

    factor: what the target-L0 controller has made of the penalty; off: the logarithm of L0 over its
    target in the last step. threshold: BatchTopK's, as a running mean of the smallest activation
    kept.
    """

    def __init__(self, spec: StepSpec, device: str = "cpu") -> None:
        self.spec = spec
        self.factor = torch.ones(1, dtype=torch.float64, device=device)
        self.off = torch.zeros(1, dtype=torch.float64, device=device)
        self.threshold = torch.zeros(1, dtype=torch.float64, device=device)

    def penalty(self, done: int) -> Tensor:
        """Weight of the sparsity penalty after ``done`` steps: a scalar tensor."""
        warm = min(1.0, (done + 1) / max(1, self.spec.penalty_warmup))
        return (self.spec.penalty * warm * self.factor * self.off.exp()).squeeze(0)

    def observe(self, done: int, l0: Tensor | float, threshold: Tensor | float | None) -> None:
        """Take in a step's mean L0 and, of BatchTopK, the smallest activation kept.

        A proportional and integral controller on logarithms: the penalty grows while L0 is above
        its target and falls while it is below, and is besides in proportion to how far L0 is off,
        which damps it. It waits for the penalty's warm-up.
        """
        if self.spec.target_l0 is not None and done >= self.spec.penalty_warmup:
            off = torch.as_tensor(l0, dtype=torch.float64, device=self.factor.device)
            self.off.copy_((off / self.spec.target_l0).clamp(min=1e-3).log().clamp(-1, 1))
            self.factor *= torch.exp(CONTROL_GAIN * self.off)
        if threshold is not None:
            rate = max(THRESHOLD_RATE, 1 / (done + 1))
            self.threshold += rate * (threshold - self.threshold)

    def state(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint."""
        return {
            "control.factor": self.factor,
            "control.off": self.off,
            "control.threshold": self.threshold,
        }

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the threshold that BatchTopK has found for every latent, [d_sae]."""
        if self.spec.architecture in ("batchtopk", "matryoshka"):
            threshold = self.threshold.float().cpu().expand(self.spec.d_sae).contiguous()
            return weights | {"threshold": threshold}
        return weights
