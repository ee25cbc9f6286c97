"""Gated: a gate says which latents fire, a magnitude how strongly.

Rajamanoharan et al. 2024 (arXiv 2404.16014).
"""

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
    centred_product,
    errors,
    mean_square,
    pull,
)
from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.spec import StepSpec


class Gated(Architecture):
    """a: mag where gate > 0, of one product q:

    q = (z - b_dec) @ W_enc,  gate = q + b_gate,  mag = relu(exp(r_mag) * q + b_mag)
    """

    name = "gated"
    saelens = "gated"
    selection = Selection.ABOVE_EDGE
    bias = "b_gate"
    trained = ("b_gate", "b_mag", "r_mag")

    def extra(self, spec: StepSpec) -> dict[str, Tensor]:
        """All zero: gate and magnitude begin alike."""
        return {name: torch.zeros(spec.d_sae) for name in self.trained}

    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """L1 is on the gate alone, which must also reconstruct by itself:

            mean |e|^2 + penalty * mean sum relu(gate)
            + mean |relu(gate) @ W_dec* + b_dec* - y|^2 + pull

        where * is a constant to the gradient.
        """
        product = centred_product(p, inputs, spec)
        gate = product + p["b_gate"]
        magnitude = (product * p["r_mag"].exp() + p["b_mag"]).relu()
        active = magnitude * (gate > 0)
        squared = mean_square(errors(p, inputs, active))
        opened = gate.relu()
        constant = {name: p[name].detach() for name in ("W_dec", "b_dec", "W_skip") if name in p}
        auxiliary = mean_square(errors(constant, inputs, opened))
        l1 = opened.to(squared).sum(1).mean()
        total = squared + auxiliary + inputs.penalty * l1 + pull(gate, 0.0, inputs, spec)
        return Terms(total, squared.detach(), active.detach())

    def code(self, pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
        """Pairs are those whose gate is open; each has a magnitude, and the gate its own loss."""
        p = scene.parameters
        grow = np.exp(p["r_mag"])[pairs.latents]
        product = pairs.pre - p["b_gate"][pairs.latents]
        magnitude = np.maximum(grow * product + p["b_mag"][pairs.latents], 0)
        slope = decode(magnitude) * (magnitude > 0)
        gate = frozen(pairs.pre) + np.float32(scene.penalty / scene.tokens)
        gradients = {
            "b_mag": scene.sums(pairs, slope),
            "r_mag": scene.sums(pairs, slope * grow * product),
            "b_gate": scene.sums(pairs, gate),
        }
        return Coded(magnitude, slope * grow + gate, gradients)

    def encode(self, w: Parameters, x: Tensor, k: int | None) -> Tensor:
        """mag where the gate is open; k plays no part."""
        product = x @ w["W_enc"]
        magnitude = product * w["r_mag"].exp() + w["b_mag"]
        return magnitude.masked_fill_(product + w["b_gate"] <= 0, 0).relu_()

    def fold(self, w: Parameters, grow: Tensor | float, shift: Tensor) -> dict[str, Tensor]:
        """Both biases take back their part of the shift."""
        return {
            "r_mag": w["r_mag"],
            "b_gate": grow * w["b_gate"] - shift,
            "b_mag": grow * w["b_mag"] - w["r_mag"].exp() * shift,
        }

    def unfold(self, w: Parameters, grow: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """The inverse of `fold`."""
        return {
            "r_mag": w["r_mag"],
            "b_gate": (w["b_gate"] + shift) / grow,
            "b_mag": (w["b_mag"] + w["r_mag"].exp() * shift) / grow,
        }
