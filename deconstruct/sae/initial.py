"""Weights at the start of a training."""

from __future__ import annotations

import torch
from torch import Tensor

from deconstruct.sae.architectures.registry import ARCHITECTURES
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
    weights = {"W_enc": W_enc.T * (TOPK_ENCODER_NORM if spec.by_number else 1.0)}
    architecture = ARCHITECTURES[spec.architecture]
    if architecture.bias == "b_enc":
        weights["b_enc"] = torch.zeros(spec.d_sae)
    weights |= {"W_dec": W_dec, "b_dec": torch.zeros(W_dec.shape[1])}
    if spec.skip:
        weights["W_skip"] = torch.zeros(spec.d_out, spec.d_in)
    return weights | architecture.extra(spec)
