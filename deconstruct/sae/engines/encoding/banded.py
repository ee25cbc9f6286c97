"""Encoding by an architecture's own formula, so few tokens at a time that memory is bounded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deconstruct.sae.architectures.base import Architecture
from deconstruct.sae.engines.encoding.encoder import BATCH_BYTES, Fired

ENTRY_BYTES = 64
"""Of each token and latent, at most, if every latent fires on every token: the formula's matrices
in float32 (at most three and a mask at once), then one of them beside the pairs' places in int64,
twice, and their values. Where few latents fire it is 8 to 16."""


class Banded:
    """Any architecture in float32: the dense product of a band of tokens, chosen from on the
    device."""

    title = "dense products in float32"

    def __init__(self, method: Architecture, weights: Mapping[str, Tensor], k: int | None) -> None:
        """weights: those of the trained SAE, by name. k: of those that fix it."""
        self._method, self._weights, self._k = method, weights, k
        self.rows = max(1, BATCH_BYTES // (ENTRY_BYTES * weights["W_enc"].shape[1]))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Fired:
        """As `Encoder` says."""
        dense = self._method.encode(self._weights, x, self._k)
        token, latent = torch.nonzero(dense, as_tuple=True)
        return torch.count_nonzero(dense, dim=1), latent.int(), dense[token, latent]
