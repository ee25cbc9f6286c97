"""JumpReLU: a threshold for each latent, which is learned.

Rajamanoharan et al. 2024 (arXiv 2407.14435); with the tanh penalty Conerly et al. 2025 (Anthropic's
January update).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconstruct.sae.architectures.base import (
    Architecture,
    Coded,
    Decode,
    Floats,
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

TANH_SCALE = 4.0
"""Slope of the tanh penalty; Conerly et al. 2025."""
START_OVER_WANTED = 4.0
"""L0 at the start over the L0 it is to end with, for data in all directions alike."""


class Thresholded(Architecture):
    """What is a JumpReLU once trained: pre where pre > threshold, not negative."""

    saelens = "jumprelu"
    trained = ("b_enc", "threshold")

    def encode(self, w: Parameters, x: Tensor, k: int | None) -> Tensor:
        """pre above its threshold; k plays no part."""
        pre = torch.addmm(w["b_enc"], x, w["W_enc"])
        return pre.masked_fill_(pre <= w["threshold"], 0).relu_()

    def fold(self, w: Parameters, grow: Tensor | float, shift: Tensor) -> dict[str, Tensor]:
        """The threshold grows with the pre-activations."""
        return super().fold(w, grow, shift) | {"threshold": grow * w["threshold"]}

    def unfold(self, w: Parameters, grow: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """The inverse of `fold`."""
        return super().unfold(w, grow, shift) | {"threshold": w["threshold"] / grow}


class JumpReLU(Thresholded):
    """a: pre where it exceeds the latent's own threshold, else 0.

    The threshold is trained as it is, not its logarithm, which Adam would hardly move in a short
    run, and kept at 0 or more. Decoder rows have unit norm.
    """

    name = "jumprelu"
    selection = Selection.ABOVE_EDGE

    def extra(self, spec: StepSpec) -> dict[str, Tensor]:
        """A threshold so high that L0 starts within reach of where it is to end.

        A unit row's product with a token of unit length in a random direction has a standard
        deviation of 1 / sqrt(d_in). From a threshold near zero, half of all latents fire on a token
        at first; steps are slow then, and end with a higher error (benchmarks/README.md).
        """
        wanted = START_OVER_WANTED * (spec.target_l0 or spec.k) / spec.d_sae
        threshold = NormalDist().inv_cdf(1 - min(0.4, wanted)) / math.sqrt(spec.d_in)
        return {"threshold": torch.full((spec.d_sae,), threshold)}

    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """By what is penalised:

            sparsity "l0":   mean |e|^2 + penalty * mean sum H(pre - threshold) + pull
            sparsity "tanh": mean |e|^2 + penalty * mean sum tanh(4 a) + pull

        Neither has a useful gradient at the jump, so a straight-through estimator stands in: a
        window of width ``bandwidth`` about the threshold. l0: it reaches the threshold alone
        (Rajamanoharan et al.); tanh: the encoder too (Conerly et al.).
        """
        pre = pre_activations(p, inputs, spec)
        threshold = p["threshold"].to(pre.dtype)
        both = spec.sparsity == "tanh"
        active: Tensor = _Jump.apply(pre, threshold, spec.bandwidth, both)  # type: ignore[no-untyped-call]
        squared = mean_square(errors(p, inputs, active))
        if spec.sparsity == "tanh":
            counted = torch.tanh(TANH_SCALE * active.to(squared))
        else:
            at = p["threshold"].to(squared)
            counted = _Step.apply(pre.to(squared), at, spec.bandwidth)  # type: ignore[no-untyped-call]
        total = squared + inputs.penalty * counted.sum(1).mean()
        total = total + pull(pre, threshold.detach(), inputs, spec)
        return Terms(total, squared.detach(), active.detach())

    def code(self, pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
        """Pairs above their threshold fire; those within half a bandwidth of it move it."""
        spec = scene.spec
        threshold = scene.parameters["threshold"][pairs.latents]
        fires = pairs.pre > threshold
        values = np.where(fires, pairs.pre, np.float32(0))
        slope = decode(values)
        weight = np.float32(scene.penalty / scene.tokens)
        near = np.abs(pairs.pre - threshold) < spec.bandwidth / 2
        window = near / np.float32(spec.bandwidth)
        if spec.sparsity == "tanh":
            steep = TANH_SCALE * (1 - np.tanh(TANH_SCALE * values) ** 2)
            slope = (slope + weight * steep).astype(np.float32)
            through = threshold * window * slope
            push = slope * fires + through
        else:
            through = window * (threshold * slope + weight)
            push = slope * fires
        gradients = {"threshold": -scene.sums(pairs, through)}
        return Coded(values, push.astype(np.float32), gradients)

    def thresholds(self, parameters: Mapping[str, Floats], spec: StepSpec) -> Floats:
        """The learned ones."""
        return parameters["threshold"]

    def edges(self, parameters: Mapping[str, Floats], spec: StepSpec) -> Floats:
        """Half a window below."""
        return parameters["threshold"] - np.float32(spec.bandwidth / 2)


class _Jump(torch.autograd.Function):
    """pre where it exceeds the threshold; see `JumpReLU.loss`."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, both: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.both = bandwidth, both
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        pre, threshold = ctx.saved_tensors
        through = grads[0] * _window(pre, threshold, ctx.bandwidth) * (threshold / ctx.bandwidth)
        into_pre = grads[0] * (pre > threshold)
        return into_pre + through if ctx.both else into_pre, -through.sum(0), None, None


class _Step(torch.autograd.Function):
    """1 where pre exceeds the threshold; its gradient reaches the threshold alone."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        through = grads[0] * _window(pre, threshold, ctx.bandwidth) / ctx.bandwidth
        return None, -through.sum(0), None


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype)
