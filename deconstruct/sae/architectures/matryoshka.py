"""Matryoshka: nested dictionaries, of which each must do alone.

Bussmann et al. 2025 (arXiv 2503.17547).
"""

from __future__ import annotations

from itertools import pairwise

import torch

from deconstruct.sae.architectures.base import (
    Inputs,
    Parameters,
    Terms,
    auxk,
    mean_square,
    pre_activations,
    skipped,
)
from deconstruct.sae.architectures.batchtopk import BatchTopK, largest_of_batch, smallest
from deconstruct.sae.spec import StepSpec


class Matryoshka(BatchTopK):
    """BatchTopK whose first latents must do alone; by pairs, ``decode`` knows the prefixes."""

    name = "matryoshka"

    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """The nested losses averaged, and AuxK on the residual of the whole dictionary:

        mean over prefixes m of |a[:m] @ W_dec[:m] + b_dec - y|^2 + AuxK
        """
        pre = pre_activations(p, inputs, spec)
        active = largest_of_batch(pre, spec.k * len(pre))
        so_far = p["b_dec"] - inputs.target + skipped(p, inputs)
        losses = []
        for start, end in pairwise((0, *spec.prefixes)):
            so_far = so_far + active[:, start:end] @ p["W_dec"][start:end]
            losses.append(mean_square(so_far))
        squared = losses[-1].detach()
        total = torch.stack(losses).mean() + auxk(p, inputs, spec, pre, so_far)
        return Terms(total, squared, active.detach(), smallest(active))
