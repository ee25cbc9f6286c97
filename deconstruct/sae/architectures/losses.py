"""The loss of each architecture, in plain dense PyTorch: the formulas, for any device and dtype.

All share the encoder's product and the decoder:

    pre = (z - b_dec) @ W_enc + b_enc           a transcoder's input is not moved by b_dec
    a   = what the architecture makes of pre
    y'  = a @ W_dec + b_dec [+ z @ W_skip.T]
    loss = mean |y' - y|^2 + what the architecture adds

Shapes: z [n, d_in], y [n, d_out] (z itself but in a transcoder), pre and a [n, d_sae]. The sparse
engine of `deconstruct.sae.engines.cpu.sparse` computes the same with work for active pairs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from deconstruct.sae.spec import StepSpec, aux_tokens

TANH_SCALE = 4.0
"""Slope of the tanh penalty; Conerly et al. 2025."""


@dataclass(frozen=True)
class Inputs:
    """What a step's loss is taken on.

    z: [n, d_in]. target: [n, d_out]. dead: bool [d_sae]. penalty: weight of the sparsity penalty,
    a number or a scalar tensor.
    """

    z: Tensor
    target: Tensor
    dead: Tensor
    penalty: Tensor | float


@dataclass(frozen=True)
class Terms:
    """What a loss gives. ``squared``: mean |y' - y|^2, the batch's FVU in scaled coordinates.

    active: [n, d_sae], detached. threshold: the smallest activation kept (BatchTopK alone).
    """

    loss: Tensor
    squared: Tensor
    active: Tensor
    threshold: Tensor | None = None


Parameters = Mapping[str, Tensor]


def loss(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """The loss of ``spec.architecture``, differentiable in the parameters."""
    return LOSSES[spec.architecture](p, inputs, spec)


def topk(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """The k largest of relu(pre) on each token. Gao et al. 2024 (arXiv 2406.04093)."""
    pre = _pre(p, inputs, spec)
    return _with_auxk(p, inputs, spec, pre, _top(pre, spec.k))


def batchtopk(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """The n * k largest of relu(pre) over the whole batch, so that tokens may differ in L0.

    Bussmann et al. 2024 (arXiv 2412.06410). The running mean of the smallest one kept is the
    threshold that takes the batch's place later: the trained SAE is a JumpReLU.
    """
    pre = _pre(p, inputs, spec)
    active = _batch_top(pre, spec)
    return _with_auxk(p, inputs, spec, pre, active, _smallest(active))


def matryoshka(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """BatchTopK whose first latents must do alone: nested dictionaries, losses averaged.

        loss = mean over prefixes m of |a[:m] @ W_dec[:m] + b_dec - y|^2

    Bussmann et al. 2025 (arXiv 2503.17547). AuxK explains the residual of the whole dictionary.
    """
    pre = _pre(p, inputs, spec)
    active = _batch_top(pre, spec)
    so_far = p["b_dec"] - inputs.target + _skip(p, inputs)
    losses = []
    for start, end in pairwise((0, *spec.prefixes)):
        so_far = so_far + active[:, start:end] @ p["W_dec"][start:end]
        losses.append(_mean_square(so_far))
    squared = losses[-1].detach()
    total = torch.stack(losses).mean() + _auxk(p, inputs, spec, pre, so_far)
    return Terms(total, squared, active.detach(), _smallest(active))


def relu(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """relu(pre), with an L1 penalty in which each latent counts with its decoder's norm.

        loss = mean |e|^2 + penalty * mean sum_i a_i |W_dec_i| + pull

    Conerly et al. 2024 (Anthropic's April update): decoder rows are free, as the penalty can't be
    evaded by growing them; norms go into the encoder at the end.
    """
    pre = _pre(p, inputs, spec)
    active = pre.relu()
    error = _error(p, inputs, active)
    squared = _mean_square(error)
    l1 = (active.to(squared) @ p["W_dec"].norm(dim=1).to(squared)).mean()
    pull = _pull(pre, 0.0, inputs, spec)
    return Terms(squared + inputs.penalty * l1 + pull, squared.detach(), active.detach())


def gated(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """A gate decides which latents fire, a magnitude how strongly; L1 is on the gate alone.

        q    = (z - b_dec) @ W_enc
        gate = q + b_gate,  mag = relu(exp(r_mag) * q + b_mag),  a = mag where gate > 0
        loss = mean |e|^2 + penalty * mean sum relu(gate)
             + mean |relu(gate) @ W_dec* + b_dec* - y|^2

    where * is a constant to the gradient. Rajamanoharan et al. 2024 (arXiv 2404.16014).
    """
    product = _product(p, inputs, spec)
    gate = product + p["b_gate"]
    magnitude = (product * p["r_mag"].exp() + p["b_mag"]).relu()
    active = magnitude * (gate > 0)
    squared = _mean_square(_error(p, inputs, active))
    opened = gate.relu()
    frozen = {name: p[name].detach() for name in ("W_dec", "b_dec", "W_skip") if name in p}
    auxiliary = _mean_square(_error(frozen, inputs, opened))
    l1 = opened.to(squared).sum(1).mean()
    pull = _pull(gate, 0.0, inputs, spec)
    total = squared + auxiliary + inputs.penalty * l1 + pull
    return Terms(total, squared.detach(), active.detach())


def jumprelu(p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
    """pre where it exceeds the latent's own threshold, else 0; the threshold is learned.

        sparsity "l0":   loss = mean |e|^2 + penalty * mean sum H(pre - threshold)
        sparsity "tanh": loss = mean |e|^2 + penalty * mean sum tanh(4 a)

    Neither has a useful gradient at the jump, so a straight-through estimator stands in: a window
    of width ``bandwidth`` about the threshold. l0: Rajamanoharan et al. 2024 (arXiv 2407.14435),
    where it reaches the threshold alone; tanh: Conerly et al. 2025 (Anthropic's January update),
    where it reaches the encoder too. Decoder rows have unit norm. The threshold is trained as it
    is, not its logarithm, which Adam would hardly move in a short run, and kept at 0 or more.
    """
    pre = _pre(p, inputs, spec)
    threshold = p["threshold"].to(pre.dtype)
    both = spec.sparsity == "tanh"
    active: Tensor = _Jump.apply(pre, threshold, spec.bandwidth, both)  # type: ignore[no-untyped-call]
    squared = _mean_square(_error(p, inputs, active))
    if spec.sparsity == "tanh":
        counted = torch.tanh(TANH_SCALE * active.to(squared))
    else:
        at = p["threshold"].to(squared)
        counted = _Step.apply(pre.to(squared), at, spec.bandwidth)  # type: ignore[no-untyped-call]
    total = squared + inputs.penalty * counted.sum(1).mean()
    total = total + _pull(pre, threshold.detach(), inputs, spec)
    return Terms(total, squared.detach(), active.detach())


LOSSES: Mapping[str, Callable[[Parameters, Inputs, StepSpec], Terms]] = {
    "topk": topk,
    "batchtopk": batchtopk,
    "matryoshka": matryoshka,
    "relu": relu,
    "gated": gated,
    "jumprelu": jumprelu,
}


def _product(p: Parameters, inputs: Inputs, spec: StepSpec) -> Tensor:
    centred = inputs.z if spec.transcoder else inputs.z - p["b_dec"]
    return centred @ p["W_enc"]


def _pre(p: Parameters, inputs: Inputs, spec: StepSpec) -> Tensor:
    return _product(p, inputs, spec) + p["b_enc"]


def _skip(p: Parameters, inputs: Inputs) -> Tensor | float:
    return inputs.z @ p["W_skip"].T if "W_skip" in p else 0.0


def _error(p: Parameters, inputs: Inputs, active: Tensor) -> Tensor:
    return active @ p["W_dec"] + p["b_dec"] + _skip(p, inputs) - inputs.target


def _mean_square(error: Tensor) -> Tensor:
    wide = error.float() if error.dtype != torch.float64 else error
    return wide.square().sum(1).mean()


def _top(pre: Tensor, k: int) -> Tensor:
    """relu(pre), but for the k largest of each row zero."""
    kept = pre.relu().topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre).scatter(1, kept.indices, kept.values)


def _batch_top(pre: Tensor, spec: StepSpec) -> Tensor:
    """relu(pre), but for the n * k largest zero."""
    return _top(pre.reshape(1, -1), spec.k * len(pre)).view_as(pre)


def _smallest(active: Tensor) -> Tensor:
    """The smallest activation that fires; 0 if none does."""
    kept = active.detach().float()
    least = kept.masked_fill(kept <= 0, torch.inf).min()
    return torch.where(least.isinf(), 0.0, least)


def _with_auxk(
    p: Parameters,
    inputs: Inputs,
    spec: StepSpec,
    pre: Tensor,
    active: Tensor,
    threshold: Tensor | None = None,
) -> Terms:
    error = _error(p, inputs, active)
    squared = _mean_square(error)
    total = squared + _auxk(p, inputs, spec, pre, error)
    return Terms(total, squared.detach(), active.detach(), threshold)


def _auxk(
    p: Parameters, inputs: Inputs, spec: StepSpec, pre: Tensor, error: Tensor
) -> Tensor | float:
    """The k_aux strongest dead latents explain what the living ones left over, on the first tokens.

    Gao et al. 2024, section A.2, who take all tokens; the weight shrinks in proportion where
    fewer are dead.
    """
    n_dead = int(inputs.dead.sum()) if spec.k_aux else 0
    if not n_dead:
        return 0.0
    some = slice(aux_tokens(len(pre)))
    aux = _top(pre[some].masked_fill(~inputs.dead, 0), min(spec.k_aux, n_dead))
    return spec.aux_weight(n_dead) * _mean_square(aux @ p["W_dec"] + error[some].detach())


def _pull(pre: Tensor, threshold: Tensor | float, inputs: Inputs, spec: StepSpec) -> Tensor:
    """Draws dead latents' pre-activations up to their threshold, over d_sae.

    A latent below its threshold on all tokens gets no other gradient, and AuxK nothing to hold on
    to. Conerly et al. 2025 (the pre-activation loss).
    """
    short = ((threshold - pre).relu() * inputs.dead).sum(1)
    wide = short.float() if short.dtype != torch.float64 else short
    return spec.aux_coefficient / spec.d_sae * wide.mean()


class _Jump(torch.autograd.Function):
    """pre where it exceeds the threshold; see `jumprelu`."""

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
