"""What steers training by the data, beside the gradient: the penalty's weight, thresholds."""

from __future__ import annotations

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.spec import StepSpec

CONTROL_GAIN = 0.08
"""Relative change of the penalty in a step in which L0 is e times its target."""
THRESHOLD_RATE = 0.1
"""Share of a step's own threshold in the running one: a mean over some ten steps: it
follows while the rate decays, and a batch of thousands of tokens has little noise in it."""


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
        if ARCHITECTURES[self.spec.architecture].selection is Selection.PER_BATCH:
            threshold = self.threshold.float().cpu().expand(self.spec.d_sae).contiguous()
            return weights | {"threshold": threshold}
        return weights
