"""From what was trained in scaled coordinates to an SAE for raw activations, and back, exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from deconstruct.activations.shards import Moments
from deconstruct.common.cores import share
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class Scaling:
    """z = (x - mean) / scale. mean: float64 [d]."""

    mean: Tensor
    scale: float

    @classmethod
    def of(cls, moments: Moments) -> Scaling:
        """The one that makes E|z|^2 = 1. A site that never varies is only centred."""
        squared = float(moments.variance.sum())
        return cls(torch.from_numpy(moments.mean), math.sqrt(squared) or 1.0)

    def apply(self, x: Tensor) -> Tensor:
        """z of raw activations [n, d], on their device: float32, whatever the precision of x. Each
        entry is rounded as on any other device."""
        z, mean = torch.empty(x.shape, device=x.device), self._mean_on(x.device)

        def scale(first: int, last: int) -> None:
            torch.sub(x[first:last], mean, out=z[first:last]).mul_(1 / self.scale)

        if x.device.type == "cpu":
            share(scale, len(x))
        else:
            scale(0, len(x))
        return z

    def to(self, device: str | torch.device) -> Scaling:
        """The same, with the mean on a device."""
        return replace(self, mean=self.mean.to(device))

    def _mean_on(self, device: torch.device) -> Tensor:
        if device not in self._means:
            self._means[device] = self.mean.float().to(device)
        return self._means[device]

    @cached_property
    def _means(self) -> dict[torch.device, Tensor]:
        """Copied to a device once, not in every step."""
        return {}


def fold(
    architecture: str,
    weights: Mapping[str, Tensor],
    k: int | None,
    inputs: Scaling,
    outputs: Scaling | None = None,
) -> SparseAutoencoder:
    """Fold both scalings, the encoder's ``- b_dec`` and the decoder's norms into the weights.

    weights: trained on z, see `deconstruct.sae.architectures.base`. outputs: of the site that a
    transcoder reconstructs; None: an autoencoder. With s the scale of what is reconstructed, an
    activation a becomes s * |W_dec_i| * a, so that decoder rows have unit norm and a is in the
    units of the site. All in float64, then rounded once.
    """
    w = {name: weight.double() for name, weight in weights.items()}
    onto = outputs or inputs
    scale = onto.scale
    norm = w["W_dec"].norm(dim=1).clamp(min=1e-30)
    W_dec = w["W_dec"] / norm[:, None]
    grow = scale * norm
    W_enc = w["W_enc"] * (grow / inputs.scale)
    centre = inputs.mean if outputs else inputs.mean + inputs.scale * w["b_dec"]
    shift = centre @ W_enc
    folded = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": onto.mean + scale * w["b_dec"]}
    folded |= ARCHITECTURES[architecture].fold(w, grow, shift)
    if outputs and "W_skip" in w:
        folded["W_skip"] = w["W_skip"] * (scale / inputs.scale)
        folded["b_dec"] = folded["b_dec"] - folded["W_skip"] @ inputs.mean
    return SparseAutoencoder(architecture, folded, k, transcoder=outputs is not None)


def unfold(
    sae: SparseAutoencoder, inputs: Scaling, outputs: Scaling | None = None
) -> dict[str, Tensor]:
    """Weights on z that compute what ``sae`` does on raw activations: the inverse of `fold`.

    The scalings need not be those that the SAE was trained with. Decoder rows get unit norm; those
    of a ReLU SAE too, whose own went into its encoder. With thresholds, also where they are no
    parameters. Float32, rounded once from float64.
    """
    w = {name: weight.double() for name, weight in sae.weights().items()}
    onto = outputs or inputs
    norm = w["W_dec"].norm(dim=1).clamp(min=1e-30)
    grow = onto.scale / norm
    b_dec = w["b_dec"] - onto.mean
    if "W_skip" in w:
        b_dec = b_dec + w["W_skip"] @ inputs.mean
    b_dec = b_dec / onto.scale
    centre = inputs.mean if outputs else inputs.mean + inputs.scale * b_dec
    shift = centre @ w["W_enc"]
    unfolded = {
        "W_enc": w["W_enc"] * (inputs.scale / grow),
        "W_dec": w["W_dec"] / norm[:, None],
        "b_dec": b_dec,
    }
    unfolded |= ARCHITECTURES[sae.architecture].unfold(w, grow, shift)
    if "W_skip" in w:
        unfolded["W_skip"] = w["W_skip"] * (inputs.scale / onto.scale)
    return {name: weight.float() for name, weight in unfolded.items()}
