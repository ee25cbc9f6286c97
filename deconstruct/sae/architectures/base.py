"""What an architecture is, and the terms that several share. To read the method, begin here.

All share the encoder's product and the decoder:

    pre = (z - b_dec) @ W_enc + b_enc           a transcoder's input is not moved by b_dec
    a   = what the architecture makes of pre
    y'  = a @ W_dec + b_dec [+ z @ W_skip.T]
    loss = mean |y' - y|^2 + what the architecture adds

Shapes: z [n, d_in], y [n, d_out] (z itself but in a transcoder), pre and a [n, d_sae]. Each
architecture says this twice: `Architecture.loss` is the formula, dense, by autograd, for any device
and dtype; `Architecture.code` under it is the same by active (token, latent) pairs, with slopes
written out, which is what the sparse engine of the CPU works by. The first is the reference that
the second is tested against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.sae.architectures.pairs import Pairs
from deconstruct.sae.spec import StepSpec, aux_tokens

Parameters = Mapping[str, Tensor]
Floats = NDArray[np.float32]
Decode = Callable[[Floats], Floats]
"""Values [P] of the pairs -> slope [P] of mean |e|^2 in each of them."""


class Selection(Enum):
    """Which latents may fire."""

    PER_TOKEN = "the k largest of a token"
    PER_BATCH = "k per token on average: the n * k largest of a batch, above a threshold afterwards"
    ABOVE_EDGE = "all above their edge, whatever their number"


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

    active: [n, d_sae], detached. threshold: the smallest activation kept (per batch alone).
    """

    loss: Tensor
    squared: Tensor
    active: Tensor
    threshold: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """What `Architecture.code` may look at: the step, parameters [d_sae] by name, W_dec float32
    [d_sae, d_out], the sparsity penalty's weight, the number of tokens."""

    spec: StepSpec
    parameters: Mapping[str, Floats]
    W_dec: Tensor
    penalty: float
    tokens: int

    def sums(self, pairs: Pairs, values: Floats) -> Floats:
        """Of each latent's pairs: [d_sae]."""
        return np.bincount(pairs.latents, values, self.spec.d_sae).astype(np.float32)


@dataclass(frozen=True)
class Coded:
    """values: activations [P]. push: the loss' slope in each pair's pre-activation, [P]. gradients:
    of the parameters that this architecture alone has, [d_sae] each. along: how much of its own
    row is added to a latent's gradient of W_dec, [d_sae]."""

    values: Floats
    push: Floats
    gradients: dict[str, Floats] = field(default_factory=dict)
    along: Floats | None = None


class Architecture(ABC):
    """An activation function, its loss, and what both need from the rest of the house."""

    name: ClassVar[str]
    saelens: ClassVar[str]
    """SAELens' name of the trained SAE."""
    selection: ClassVar[Selection]
    bias: ClassVar[str] = "b_enc"
    """The parameter [d_sae] that is added to the product by which pairs are chosen."""
    trained: ClassVar[tuple[str, ...]] = ("b_enc",)
    """Names of the trained SAE's weights [d_sae]."""
    unit_norm: ClassVar[bool] = True
    """Whether rows of W_dec are kept at unit norm in training."""
    long_run: ClassVar[int] = 20_000
    """Steps from which Gao et al.'s learning rate holds (`deconstruct.sae.rates`)."""

    def extra(self, spec: StepSpec) -> dict[str, Tensor]:
        """Its own parameters at the start of a training, float32 [d_sae] each; beside ``b_enc``."""
        return {}

    @abstractmethod
    def loss(self, p: Parameters, inputs: Inputs, spec: StepSpec) -> Terms:
        """The formula, differentiable in the parameters."""

    @abstractmethod
    def code(self, pairs: Pairs, scene: Scene, decode: Decode, frozen: Decode) -> Coded:
        """The same by pairs, chosen by `selection` and, above an edge, by `edges`.

        decode: also notes what the gradients of the weights are made of, and is to be called once.
        frozen: the same with W_dec, b_dec and W_skip as constants.
        """

    def thresholds(self, parameters: Mapping[str, Floats], spec: StepSpec) -> Floats:
        """The pre-activation [d_sae] above which a latent fires in training."""
        return np.zeros(spec.d_sae, np.float32)

    def edges(self, parameters: Mapping[str, Floats], spec: StepSpec) -> Floats:
        """The pre-activation [d_sae] from which a pair matters to the loss, if it fires or not."""
        return self.thresholds(parameters, spec)

    @abstractmethod
    def encode(self, w: Parameters, x: Tensor, k: int | None) -> Tensor:
        """Activations [n, d_sae] of the trained SAE: x float32 [n, d_in], raw. k: per token."""

    def fold(self, w: Parameters, grow: Tensor | float, shift: Tensor) -> dict[str, Tensor]:
        """Its own weights once pre-activations grow by ``grow`` [d_sae] and the product of the
        encoder by ``shift`` [d_sae] as well, which the biases are to take back."""
        return {"b_enc": grow * w["b_enc"] - shift}

    def unfold(self, w: Parameters, grow: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """The inverse of `fold`."""
        return {"b_enc": (w["b_enc"] + shift) / grow}


def centred_product(p: Parameters, inputs: Inputs, spec: StepSpec) -> Tensor:
    """The encoder's product [n, d_sae], without a bias."""
    centred = inputs.z if spec.transcoder else inputs.z - p["b_dec"]
    return centred @ p["W_enc"]


def pre_activations(p: Parameters, inputs: Inputs, spec: StepSpec) -> Tensor:
    """pre, [n, d_sae]."""
    return centred_product(p, inputs, spec) + p["b_enc"]


def skipped(p: Parameters, inputs: Inputs) -> Tensor | float:
    """What a transcoder's linear path adds, [n, d_out]."""
    return inputs.z @ p["W_skip"].T if "W_skip" in p else 0.0


def errors(p: Parameters, inputs: Inputs, active: Tensor) -> Tensor:
    """y' - y, [n, d_out]."""
    return active @ p["W_dec"] + p["b_dec"] + skipped(p, inputs) - inputs.target


def mean_square(error: Tensor) -> Tensor:
    """mean |e|^2 over tokens, in float32 at least."""
    wide = error.float() if error.dtype != torch.float64 else error
    return wide.square().sum(1).mean()


def largest(pre: Tensor, k: int) -> Tensor:
    """relu(pre), but for the k largest of each row zero."""
    kept = pre.relu().topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre).scatter(1, kept.indices, kept.values)


def with_auxk(
    p: Parameters,
    inputs: Inputs,
    spec: StepSpec,
    pre: Tensor,
    active: Tensor,
    threshold: Tensor | None = None,
) -> Terms:
    """The squared error and AuxK."""
    error = errors(p, inputs, active)
    squared = mean_square(error)
    total = squared + auxk(p, inputs, spec, pre, error)
    return Terms(total, squared.detach(), active.detach(), threshold)


def auxk(
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
    aux = largest(pre[some].masked_fill(~inputs.dead, 0), min(spec.k_aux, n_dead))
    return spec.aux_weight(n_dead) * mean_square(aux @ p["W_dec"] + error[some].detach())


def pull(pre: Tensor, threshold: Tensor | float, inputs: Inputs, spec: StepSpec) -> Tensor:
    """Draws dead latents' pre-activations up to their threshold, over d_sae.

    A latent below its threshold on all tokens gets no other gradient, and AuxK nothing to hold on
    to. Conerly et al. 2025 (the pre-activation loss).
    """
    short = ((threshold - pre).relu() * inputs.dead).sum(1)
    wide = short.float() if short.dtype != torch.float64 else short
    return spec.aux_coefficient / spec.d_sae * wide.mean()
