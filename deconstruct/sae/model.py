"""The trained sparse autoencoder: encode, decode, and nothing of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconstruct.errors import ConfigError
from deconstruct.model import pick_dtype

if TYPE_CHECKING:
    from deconstruct.sae.cpu import TopKEncoder

ARCHITECTURES = ("topk", "relu")
BLOCK_TOKENS = 2048
"""Tokens encoded at once: bounds the dense [tokens, d_sae] matrix in memory."""


@dataclass(frozen=True)
class Sparse:
    """Latents of n tokens, only those that fire, token after token (CSR).

    offsets: int64 [n + 1]; latents: int32 [nnz], ascending within a token; activations: float32
    [nnz], positive. Token i's are at offsets[i]:offsets[i + 1].
    """

    offsets: Tensor
    latents: Tensor
    activations: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1


class SparseAutoencoder:
    """A dictionary of d_sae directions, few of which make up each activation.

        a  = s(x @ W_enc + b_enc)        s = relu, then the k largest (topk) or all (relu)
        x' = a @ W_dec + b_dec

    for x [n, d_in] as the model gives it: centring and scale are folded into the weights, and
    b_dec into b_enc. W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in], all
    float32 on one device; the rows of W_dec have one common norm. TopK: Gao et al. 2024 (arXiv
    2406.04093); ReLU: Bricken et al. 2023, Cunningham et al. 2023 (arXiv 2309.08600).
    """

    def __init__(self, architecture: str, weights: Mapping[str, Tensor], k: int | None) -> None:
        """Raises ``ConfigError`` for an architecture that we don't know or a k that can't be."""
        if architecture not in ARCHITECTURES:
            raise ConfigError(
                f"architecture {architecture!r} is unknown; we know {', '.join(ARCHITECTURES)}"
            )
        self.architecture = architecture
        self.W_enc = weights["W_enc"].float()
        self.b_enc = weights["b_enc"].float()
        self.W_dec = weights["W_dec"].float()
        self.b_dec = weights["b_dec"].float()
        self.d_in, self.d_sae = self.W_enc.shape
        if architecture == "topk" and not 1 <= (k or 0) <= self.d_sae:
            raise ConfigError(f"k = {k} must lie in 1..d_sae = {self.d_sae}")
        self.k = k if architecture == "topk" else None

    @cached_property
    def _encoder(self) -> TopKEncoder | None:
        """The faster way to encode sparsely, on CPUs that multiply fast in bfloat16."""
        on_cpu = self.W_enc.device.type == "cpu"
        if self.k is None or not on_cpu or pick_dtype("auto", "cpu") != torch.bfloat16:
            return None
        from deconstruct.sae.cpu import TopKEncoder

        return TopKEncoder(self.weights(), self.k)

    @classmethod
    def from_scaled(
        cls,
        architecture: str,
        weights: Mapping[str, Tensor],
        k: int | None,
        mean: Tensor,
        scale: float,
    ) -> SparseAutoencoder:
        """Fold z = (x - mean) / scale and the encoder's ``- b_dec`` into the weights, exactly.

        weights: trained on z with pre-activations (z - b_dec) @ W_enc + b_enc. mean: [d_in].
        Activations stay in units of z times ``scale``: a unit decoder row keeps unit norm.
        """
        W_enc, b_dec = weights["W_enc"].double(), weights["b_dec"].double()
        centre = mean.double() + scale * b_dec
        folded = {
            "W_enc": W_enc,
            "b_enc": scale * weights["b_enc"].double() - centre @ W_enc,
            "W_dec": weights["W_dec"].double(),
            "b_dec": centre,
        }
        return cls(architecture, folded, k)

    def to(self, device: str) -> SparseAutoencoder:
        """A copy on another device."""
        return SparseAutoencoder(
            self.architecture, {n: w.to(device) for n, w in self.weights().items()}, self.k
        )

    def weights(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return {n: getattr(self, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}

    def encode(self, x: Tensor) -> Tensor:
        """Latent activations: x [n, d_in] -> [n, d_sae], not negative, mostly zero."""
        pre = torch.addmm(self.b_enc, x.float(), self.W_enc).relu_()
        if self.k is None or self.k == self.d_sae:
            return pre
        kept = pre.topk(self.k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter_(1, kept.indices, kept.values)

    def encode_sparse(self, x: Tensor) -> Sparse:
        """The same as `encode`, x [n, d_in], as rows of latents that fire."""
        parts = [self._encode_block(block) for block in torch.split(x, BLOCK_TOKENS)]
        if not parts:
            return Sparse(torch.zeros(1, dtype=torch.int64), *self._encode_block(x[:0])[1:])
        counts, latents, activations = (torch.cat(part) for part in zip(*parts, strict=True))
        offsets = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        return Sparse(offsets, latents, activations)

    def decode(self, activations: Tensor | Sparse) -> Tensor:
        """Reconstructions [n, d_in] of dense [n, d_sae] or sparse activations."""
        if not isinstance(activations, Sparse):
            return torch.addmm(self.b_dec, activations.float(), self.W_dec)
        if len(activations.latents) == 0:
            return self.b_dec.repeat(len(activations), 1)
        summed: Tensor = torch.nn.functional.embedding_bag(
            activations.latents,
            self.W_dec,
            activations.offsets.to(activations.latents.dtype),
            mode="sum",
            per_sample_weights=activations.activations,
            include_last_offset=True,
        )
        return summed + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of x [n, d_in], float32."""
        return self.decode(self.encode_sparse(x))

    __call__ = forward

    def _encode_block(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, latents and activations of the latents that fire, for a few tokens."""
        if self._encoder is not None:
            latent, value = self._encoder(x.float())
            fires = value > 0
            return fires.sum(1), latent[fires], value[fires]
        pre = torch.addmm(self.b_enc, x.float(), self.W_enc)
        if self.k is None:
            pre.relu_()
            token, latent = torch.nonzero(pre, as_tuple=True)
            counts = torch.bincount(token, minlength=len(x))
            return counts, latent.int(), pre[token, latent]
        kept = pre.topk(self.k, dim=1, sorted=False)
        latent, order = kept.indices.sort(dim=1)
        value = kept.values.gather(1, order)
        fires = value > 0
        return fires.sum(1), latent[fires].int(), value[fires]
