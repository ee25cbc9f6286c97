"""BatchTopK: k latents per token on average. Bussmann et al. 2024 (arXiv 2412.06410)."""

from __future__ import annotations

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import (
    Coded,
    Decode,
    Inputs,
    Parameters,
    Scene,
    Selection,
    Terms,
    largest,
    pre_activations,
    with_auxk,
)
from deconstruct.sae.architectures.jumprelu import Thresholded
from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.spec import StepSpec


class BatchTopK(Thresholded):
    """a: relu(pre) where it is among the n * k largest of the whole batch, else 0.

    So tokens may differ in L0. The running mean of the smallest one kept is the threshold that
    takes the batch's place later (`deconstruct.sae.engines.control`).
    """

    name = "batchtopk"
    selection = Selection.PER_BATCH

    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """mean |e|^2 + AuxK."""
        pre = pre_activations(p, inputs, spec)
        active = largest_of_batch(pre, spec.k * len(pre))
        return with_auxk(p, inputs, spec, pre, active, smallest(active))

    def code(self, pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
        """The pairs were chosen, and fire as they are."""
        return Coded(pairs.pre, decode(pairs.pre))


def largest_of_batch(pre: Tensor, count: int) -> Tensor:
    """relu(pre), but for the ``count`` largest zero."""
    return largest(pre.reshape(1, -1), count).view_as(pre)


def smallest(active: Tensor) -> Tensor:
    """The smallest activation that fires; 0 if none does."""
    kept = active.detach().float()
    least = kept.masked_fill(kept <= 0, torch.inf).min()
    return torch.where(least.isinf(), 0.0, least)
