"""TopK: the k largest pre-activations of a token. Gao et al. 2024 (arXiv 2406.04093)."""

from __future__ import annotations

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import (
    Architecture,
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
from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.spec import StepSpec


class TopK(Architecture):
    """a: relu(pre) where it is among the k largest of its token, else 0."""

    name = "topk"
    saelens = "topk"
    selection = Selection.PER_TOKEN
    long_run = 10_000  # a higher rate lowers the error still, but leaves more latents dead

    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """mean |e|^2 + AuxK."""
        pre = pre_activations(p, inputs, spec)
        return with_auxk(p, inputs, spec, pre, largest(pre, spec.k))

    def code(self, pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
        """The pairs were chosen, and fire as they are."""
        return Coded(pairs.pre, decode(pairs.pre))

    def encode(self, w: Parameters, x: Tensor, k: int | None) -> Tensor:
        """The k largest, of however many are positive."""
        pre = torch.addmm(w["b_enc"], x, w["W_enc"]).relu_()
        if k == pre.shape[1]:
            return pre
        kept = pre.topk(k or 0, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter_(1, kept.indices, kept.values)
