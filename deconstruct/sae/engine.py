"""What trains an SAE: one step after another on static parameters, whatever the device.

Every engine works in *scaled* coordinates, z = (x - mean) / scale with E|z|^2 = 1, so that its
loss is the fraction of variance unexplained and a learning rate means the same at every site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import torch
from torch import Tensor

from deconstruct.config import BY_NUMBER

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


SHARED = ("b_dec", "W_skip")
"""Parameters that belong to no latent: every token's gradient reaches them."""


@dataclass(frozen=True)
class StepSpec:
    """What one training step computes. Sizes in tokens and latents; see `SaeConfig`.

    d_out: width of what a transcoder reconstructs; 0: an autoencoder. prefixes: ends of the
    nested dictionaries of a Matryoshka SAE. penalty_warmup: steps of its linear rise.
    """

    architecture: str
    batch: int
    d_in: int
    d_sae: int
    k: int
    penalty: float
    clip_norm: float
    k_aux: int
    aux_coefficient: float
    dead_after: int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    d_out: int = 0
    skip: bool = False
    prefixes: tuple[int, ...] = ()
    sparsity: str = "l0"
    bandwidth: float = 0.05
    target_l0: float | None = None
    penalty_warmup: int = 0
    optimizer: str = "sparse_adam"

    @property
    def transcoder(self) -> bool:
        """Whether another site than the input is reconstructed."""
        return self.d_out > 0

    @property
    def unit_norm(self) -> bool:
        """Whether rows of W_dec are kept at unit norm; ReLU's penalty is weighted by it instead."""
        return self.architecture != "relu"

    def aux_weight(self, n_dead: int) -> float:
        """Of AuxK's loss: in proportion less where fewer latents are dead than it takes."""
        return self.aux_coefficient * min(1.0, n_dead / self.k_aux)


def pace_of(spec: StepSpec, name: str) -> float:
    """A parameter's steps as a share of the learning rate, by the optimiser sparse_adam.

    Biases move all pre-activations of a token, or of a latent, at once, and Adam's step is as large
    for a coordinate that hardly matters. At full pace b_dec wanders by a twentieth of a token's
    norm in a step, and takes latents out of the data's reach (benchmarks/README.md). b_enc is as
    slow where the number of latents is fixed; elsewhere it is what makes them sparse.
    """
    if spec.optimizer == "adam":
        return 1.0
    if name == "b_dec":
        return 0.04
    return 0.1 if name == "b_enc" and spec.architecture in BY_NUMBER else 1.0


AUX_PART = 4
"""AuxK looks at one token in so many. It costs as much a token as the step's own sparse products,
and has a mean over tokens to follow, which a quarter of a batch tells as well."""


def aux_tokens(tokens: int) -> int:
    """How many of a step's tokens AuxK looks at: the first, since batches come in random order."""
    return -(-tokens // AUX_PART)


class Engine(Protocol):
    """Parameters, optimiser and the step over them."""

    losses: Tensor
    """[steps]: loss of each step that was made; reading it may wait for the device."""

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates.

        target: float32 [batch, d_out], what a transcoder makes of it; None: z itself.
        """

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, and those
        that only some architectures have (`deconstruct.sae.model`)."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs to go on with the same bytes."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""


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
