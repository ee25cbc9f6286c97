"""What trains an SAE: one step after another on static parameters, whatever the device.

Every engine works in *scaled* coordinates, z = (x - mean) / scale with E|z|^2 = 1, so that its
loss is the fraction of variance unexplained and a learning rate means the same at every site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True)
class StepSpec:
    """What one training step computes. Sizes in tokens and latents; see `SaeConfig`."""

    architecture: str
    batch: int
    d_in: int
    d_sae: int
    k: int
    l1_coefficient: float
    clip_norm: float
    k_aux: int
    aux_coefficient: float
    dead_after: int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


class Engine(Protocol):
    """Parameters, optimiser and the step over them."""

    losses: Tensor
    """[steps]: loss of each step that was made; reading it may wait for the device."""

    def step(self, z: Tensor) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates."""

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs to go on with the same bytes."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""


TOPK_ENCODER_NORM = 0.3
"""Of the encoder's rows at the start. At 1, k random directions overshoot: the first steps push
all latents back alike, and many out of the data's reach for good (benchmarks/README.md)."""


def initial_weights(spec: StepSpec, seed: int) -> dict[str, Tensor]:
    """Decoder rows of unit norm in random directions, the encoder along them, biases zero.

    b_dec = 0 in scaled coordinates is the mean of the data in raw ones. Tied initialisation after
    Gao et al. 2024 (arXiv 2406.04093), section A.1: it prevents most dead latents. TopK's encoder
    starts at `TOPK_ENCODER_NORM`.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(spec.d_sae, spec.d_in, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    return {
        "W_enc": W_dec.T * (TOPK_ENCODER_NORM if spec.architecture == "topk" else 1.0),
        "b_enc": torch.zeros(spec.d_sae),
        "W_dec": W_dec,
        "b_dec": torch.zeros(spec.d_in),
    }
