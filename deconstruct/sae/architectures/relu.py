"""ReLU with an L1 penalty. Conerly et al. 2024 (Anthropic's April update)."""

from __future__ import annotations

import numpy as np
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
    errors,
    mean_square,
    pre_activations,
    pull,
)
from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.spec import StepSpec


class ReLU(Architecture):
    """a: relu(pre). Decoder rows are free, as each latent's penalty counts with its decoder's norm
    and can't be evaded by growing it; norms go into the encoder at the end."""

    name = "relu"
    saelens = "standard"
    selection = Selection.ABOVE_EDGE
    unit_norm = False

    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """mean |e|^2 + penalty * mean sum_i a_i |W_dec_i| + pull."""
        pre = pre_activations(p, inputs, spec)
        active = pre.relu()
        error = errors(p, inputs, active)
        squared = mean_square(error)
        l1 = (active.to(squared) @ p["W_dec"].norm(dim=1).to(squared)).mean()
        total = squared + inputs.penalty * l1 + pull(pre, 0.0, inputs, spec)
        return Terms(total, squared.detach(), active.detach())

    def code(self, pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
        """The penalty pushes each pair by its decoder's norm, and pulls the norms in as well."""
        norm = scene.W_dec.norm(dim=1).numpy()
        weight = np.float32(scene.penalty / scene.tokens)
        push = decode(pairs.pre) + weight * norm[pairs.latents]
        along = weight * scene.sums(pairs, pairs.pre) / np.maximum(norm, np.float32(1e-30))
        return Coded(pairs.pre, push, along=along.astype(np.float32))

    def encode(self, w: Parameters, x: Tensor, k: int | None) -> Tensor:
        """relu(pre); k plays no part."""
        return torch.addmm(w["b_enc"], x, w["W_enc"]).relu_()
