"""Weights at the start of a training."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from deconstruct.config import BY_NUMBER
from deconstruct.sae.spec import StepSpec

TOPK_ENCODER_NORM = 0.5
"""Of the encoder's rows at the start. At 1, k random directions overshoot: the first steps push
all latents back alike, and many out of the data's reach for good (benchmarks/README.md)."""


def initial_weights(spec: StepSpec, seed: int) -> dict[str, Tensor]:
    """Decoder rows of unit norm in random directions, the encoder along them, biases zero.

    b_dec = 0 in scaled coordinates is the mean of the data in raw ones. Tied initialisation after
    Gao et al. 2024 (arXiv 2406.04093), section A.1: it prevents most dead latents. The encoder of
    those that fix the number of latents starts at `TOPK_ENCODER_NORM`. A transcoder's encoder has
    directions of its own, and its skip connection starts at zero (Paulo et al. 2025, arXiv
    2501.18823).
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(spec.d_sae, spec.d_out or spec.d_in, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    W_enc = W_dec
    if spec.transcoder:
        W_enc = torch.randn(spec.d_sae, spec.d_in, generator=generator)
        W_enc /= W_enc.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": W_enc.T * (TOPK_ENCODER_NORM if spec.architecture in BY_NUMBER else 1.0),
        "b_enc": torch.zeros(spec.d_sae),
        "W_dec": W_dec,
        "b_dec": torch.zeros(W_dec.shape[1]),
    }
    if spec.skip:
        weights["W_skip"] = torch.zeros(spec.d_out, spec.d_in)
    if spec.architecture == "gated":
        weights["b_gate"] = weights.pop("b_enc")
        weights |= {name: torch.zeros(spec.d_sae) for name in ("b_mag", "r_mag")}
    if spec.architecture == "jumprelu":
        weights["threshold"] = torch.full((spec.d_sae,), initial_threshold(spec))
    return weights


START_OVER_WANTED = 4.0
"""L0 of JumpReLU at the start over the L0 it is to end with, for data in all directions alike."""


def initial_threshold(spec: StepSpec) -> float:
    """JumpReLU's threshold at the start: so high that L0 starts within reach of where it is to end.

    A unit row's product with a token of unit length in a random direction has a standard deviation
    of 1 / sqrt(d_in). From a threshold near zero, half of all latents fire on a token at first;
    steps are slow then, and end with a higher error (benchmarks/README.md).
    """
    wanted = START_OVER_WANTED * (spec.target_l0 or spec.k) / spec.d_sae
    return NormalDist().inv_cdf(1 - min(0.4, wanted)) / math.sqrt(spec.d_in)
