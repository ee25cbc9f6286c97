"""The trained sparse autoencoder: encode, decode, and nothing of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconstruct.common.errors import ConfigError
from deconstruct.common.hardware import pick_dtype
from deconstruct.sae.architectures.base import Selection
from deconstruct.sae.architectures.registry import ARCHITECTURES
from deconstruct.sae.architectures.topk import TopK

if TYPE_CHECKING:
    from deconstruct.sae.engines.cpu.encoder import TopKEncoder
    from deconstruct.sae.engines.encoding.encoder import Encoder

INFERENCE_TOKENS = 2048
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

        pre = x @ W_enc + b_enc
        a   = s(pre)
        y'  = a @ W_dec + b_dec [+ x @ W_skip.T]

    for x [n, d_in] as the model gives it, with y' [n, d_out] a reconstruction of x itself or, of a
    transcoder, of another site: centring and scale are folded into the weights
    (`deconstruct.sae.folding`). s, by architecture (sources: `deconstruct.sae.architectures`):

        topk                              the k largest of relu(pre)
        relu                              relu(pre)
        jumprelu, batchtopk, matryoshka   pre where pre > threshold [d_sae], not negative
        gated                             relu(exp(r_mag) * q + b_mag) where q + b_gate > 0,
                                          with q = x @ W_enc and no b_enc

    W_enc [d_in, d_sae], W_dec [d_sae, d_out], b_dec [d_out], W_skip [d_out, d_in], the rest
    [d_sae]; all float32 on one device. Of one that was trained here, rows of W_dec have one common
    norm; those of others (`deconstruct.sae.formats`) are as they were.
    """

    def __init__(
        self,
        architecture: str,
        weights: Mapping[str, Tensor],
        k: int | None,
        transcoder: bool = False,
    ) -> None:
        """Raises ``ConfigError`` for an architecture that we don't know, weights that it lacks or
        of other shapes, or a k that can't be. k: latents per token (topk), on average (batchtopk,
        matryoshka)."""
        if architecture not in ARCHITECTURES:
            raise ConfigError(
                f"architecture {architecture!r} is unknown; we know {', '.join(ARCHITECTURES)}"
            )
        self._method = ARCHITECTURES[architecture]
        names = ("W_enc", "W_dec", "b_dec", *self._method.trained)
        if missing := [name for name in names if name not in weights]:
            raise ConfigError(f"a {architecture} SAE has weights {missing}, which are not given")
        if "W_skip" in weights and transcoder:
            names = (*names, "W_skip")
        self.architecture = architecture
        self.transcoder = transcoder
        self._weights = {name: weights[name].float() for name in names}
        self.W_enc, self.W_dec = self._weights["W_enc"], self._weights["W_dec"]
        self.b_dec = self._weights["b_dec"]
        if self.W_enc.dim() != 2 or self.b_dec.dim() != 1:
            raise ConfigError("W_enc must be [d_in, d_sae] and b_dec [d_out]")
        self.d_in, self.d_sae = self.W_enc.shape
        self.d_out = len(self.b_dec) if transcoder else self.d_in
        self._check_shapes()
        selection = self._method.selection
        if selection is Selection.PER_TOKEN and not 1 <= (k or 0) <= self.d_sae:
            raise ConfigError(f"k = {k} must lie in 1..d_sae = {self.d_sae}")
        self.k = None if selection is Selection.ABOVE_EDGE else k
        self._for_many: Encoder | None = None

    def _check_shapes(self) -> None:
        sizes = {
            "W_enc": (self.d_in, self.d_sae), "W_dec": (self.d_sae, self.d_out),
            "b_dec": (self.d_out,), "W_skip": (self.d_out, self.d_in),
        }  # fmt: skip
        for name, weight in self._weights.items():
            wanted, found = sizes.get(name, (self.d_sae,)), tuple(weight.shape)
            if found != wanted:
                turned = ", as if it were transposed" if found == wanted[::-1] else ""
                raise ConfigError(
                    f"{name} is {list(found)}, where W_enc [d_in, d_sae] = {[*self.W_enc.shape]} "
                    f"asks for {list(wanted)}{turned}"
                )

    @cached_property
    def _encoder(self) -> TopKEncoder | None:
        """The faster way to encode sparsely, on CPUs that multiply fast in bfloat16."""
        on_cpu = self.W_enc.device.type == "cpu"
        fits = isinstance(self._method, TopK) and not self.transcoder
        if not fits or not on_cpu or pick_dtype("auto", "cpu") != torch.bfloat16:
            return None
        from deconstruct.sae.engines.cpu.encoder import TopKEncoder

        return TopKEncoder(self.weights(), self.k or 0)

    def to(self, device: str) -> SparseAutoencoder:
        """A copy on another device."""
        moved = {n: w.to(device) for n, w in self._weights.items()}
        return SparseAutoencoder(self.architecture, moved, self.k, self.transcoder)

    def for_many_tokens(self) -> SparseAutoencoder:
        """Itself; on a card `encode_sparse`, and all that is made of it, is from now on by the
        fastest encoder that serves there and was checked (`deconstruct.sae.engines.encoding`).

        It takes seconds to check, and more of the card's memory: for those who encode many tokens.
        """
        if self.W_enc.device.type != "cpu" and self._for_many is None:
            from deconstruct.sae.engines.encoding.choice import encoder_for
            from deconstruct.sae.engines.encoding.encoder import within_memory

            with within_memory(self.W_enc):
                self._for_many = encoder_for(self._method, self._weights, self.k, self.transcoder)
        return self

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(self._weights)

    def encode(self, x: Tensor) -> Tensor:
        """Latent activations: x [n, d_in] -> [n, d_sae], not negative, mostly zero."""
        return self._method.encode(self._weights, x.float(), self.k)

    def encode_sparse(self, x: Tensor) -> Sparse:
        """The same as `encode`, x [n, d_in], as rows of latents that fire; without gradients."""
        x = x.detach()
        at_once = INFERENCE_TOKENS if self._for_many is None else self._for_many.rows
        parts = [self._encode_block(block) for block in torch.split(x, at_once)]
        if not parts:
            return Sparse(torch.zeros(1, dtype=torch.int64), *self._encode_block(x[:0])[1:])
        counts, latents, activations = (torch.cat(part) for part in zip(*parts, strict=True))
        offsets = torch.zeros(len(x) + 1, dtype=torch.int64, device=x.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        return Sparse(offsets, latents, activations)

    def decode(self, activations: Tensor | Sparse, x: Tensor | None = None) -> Tensor:
        """Reconstructions [n, d_out] of dense [n, d_sae] or sparse activations.

        x: [n, d_in], what they are the activations of; a skip connection needs it.
        """
        base = self.b_dec
        if "W_skip" in self._weights:
            if x is None:
                raise ValueError("decode needs x, as this transcoder has a skip connection")
            base = torch.addmm(self.b_dec, x.float(), self._weights["W_skip"].T)
        if not isinstance(activations, Sparse):
            return activations.float() @ self.W_dec + base
        if len(activations.latents) == 0:
            return base.expand(len(activations), self.d_out).clone()
        summed: Tensor = torch.nn.functional.embedding_bag(
            activations.latents,
            self.W_dec,
            activations.offsets.to(activations.latents.dtype),
            mode="sum",
            per_sample_weights=activations.activations,
            include_last_offset=True,
        )
        return summed + base

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of x [n, d_in] (of a transcoder: of the other site), float32.

        Differentiable in x, by way of the dense activations where x asks for a gradient.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            return self.decode(self.encode(x), x)
        return self.decode(self.encode_sparse(x), x)

    __call__ = forward

    def _encode_block(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts, latents and activations of the latents that fire, for a few tokens."""
        if self._for_many is not None and len(x):
            from deconstruct.sae.engines.encoding.encoder import within_memory

            with within_memory(self.W_enc):
                return self._for_many(x.float())
        if self._encoder is not None:
            latent, value = self._encoder(x.float())
            fires = value > 0
            return fires.sum(1), latent[fires], value[fires]
        dense = self.encode(x)
        token, latent = torch.nonzero(dense, as_tuple=True)
        counts = torch.bincount(token, minlength=len(x))
        return counts, latent.int(), dense[token, latent]
