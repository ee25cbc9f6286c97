"""Active (token, latent) pairs of a batch: chosen while the encoder's product is in cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.sae import varying_kernels as kernels
from deconstruct.sae.cpu_threads import share

BLOCK_TOKENS = 512
"""Tokens in one block of the encoder's product: its output (8 MB at d_sae = 8192) stays in L3."""
SMALLEST = 1
"""The least positive bfloat16, as an integer."""


@dataclass(frozen=True)
class Pairs:
    """Pairs in the order of tokens. offsets: int64 [n + 1]; latents, tokens: int32 [P]; pre:
    float32 [P], their pre-activations."""

    offsets: NDArray[np.int64]
    latents: NDArray[np.int32]
    tokens: NDArray[np.int32]
    pre: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.latents)

    def where(self, keep: NDArray[np.bool_]) -> Pairs:
        """Those at which ``keep`` [P] is true."""
        tokens = self.tokens[keep]
        counts = np.bincount(tokens, minlength=len(self.offsets) - 1)
        return Pairs(_offsets(counts), self.latents[keep], tokens, self.pre[keep])


class Encoder:
    """Blocks of ``inputs @ W_enc.T + bias`` in bfloat16, and choices from them.

    shadow: bfloat16 [d_sae, d_in]. bias: float32 [d_sae]. inputs: float32 [n, d_in].
    """

    def __init__(self, shadow: Tensor, bias: Tensor, inputs: Tensor) -> None:
        self.shadow, self.bias = shadow, bias.bfloat16()
        self.low = inputs.bfloat16()

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """First token and pre-activations, bfloat16 [some, d_sae], of each block; one buffer."""
        n, d_sae = len(self.low), len(self.shadow)
        buffer = torch.empty(min(n, BLOCK_TOKENS), d_sae, dtype=torch.bfloat16)
        for first in range(0, n, BLOCK_TOKENS):
            rows = self.low[first : first + BLOCK_TOKENS]
            pre = buffer[: len(rows)]
            torch.addmm(self.bias, rows, self.shadow.T, out=pre)
            yield first, pre

    def above(
        self, edges: NDArray[np.int16], limit: int, dead: Tensor
    ) -> tuple[Pairs, Tensor] | None:
        """Pairs at or above their latent's edge (`ordered` integers, [d_sae]), and the
        pre-activations of ``dead`` latents, bfloat16 [n, n_dead]. None: more than ``limit``."""
        n, d_sae = len(self.low), len(self.shadow)
        rows = min(n, BLOCK_TOKENS)
        # As wide as all latents, but memory that no find is written to is never touched.
        places, values = np.empty((rows, d_sae), np.int32), np.empty((rows, d_sae), np.int16)
        counts = np.zeros(n, np.int32)
        of_dead = torch.empty(n, len(dead), dtype=torch.bfloat16)
        parts, total = [], 0
        for first, pre in self.blocks():
            block = slice(first, first + len(pre))
            bits = pre.view(torch.int16).numpy()
            share(kernels.select_above, len(pre), bits, edges, places, values, counts[block])
            offsets = _offsets(counts[block])
            found = int(offsets[-1])
            total += found
            if total > limit:
                return None
            part = np.empty(found, np.int32), np.empty(found, np.int32), np.empty(found, np.int16)
            share(kernels.gather_rows, len(pre), places, values, offsets, *part, first)
            parts.append(part)
            if len(dead):
                torch.index_select(pre, 1, dead, out=of_dead[block])
        latents, tokens, bits = (np.concatenate(own) for own in zip(*parts, strict=True))
        return Pairs(_offsets(counts), latents, tokens, floats(bits)), of_dead

    def topk(self, k: int, dead: Tensor) -> tuple[Pairs, Tensor]:
        """The k largest positive of each token."""
        of_dead = torch.empty(len(self.low), len(dead), dtype=torch.bfloat16)
        parts = []
        for first, pre in self.blocks():
            parts.append(pre.topk(k, dim=1, sorted=False))
            if len(dead):
                torch.index_select(pre, 1, dead, out=of_dead[first : first + len(pre)])
        values = torch.cat([part.values for part in parts])
        return of_rows(torch.cat([part.indices for part in parts]), values), of_dead

    def guess(self, k: int) -> float:
        """About the n * k-th largest pre-activation, from the first block alone; 0 if fewer are
        positive."""
        _, pre = next(self.blocks())
        bits = pre.view(torch.int16).numpy().ravel()
        return _kth(bits[bits >= SMALLEST], k * len(pre))


def of_rows(latents: Tensor, values: Tensor) -> Pairs:
    """Pairs of the positive ``values`` [n, k] at ``latents`` [n, k]."""
    fires = values > 0
    tokens = torch.nonzero(fires)[:, 0].int().numpy()
    counts = fires.sum(1).numpy()
    return Pairs(
        _offsets(counts), latents[fires].int().numpy(), tokens, values[fires].float().numpy()
    )


def keep_largest(pairs: Pairs, count: int) -> tuple[Pairs, float]:
    """The ``count`` largest of all pairs, and the smallest that is kept (0: fewer are there).

    Of equal ones those of earlier tokens, so that nothing but the values decides.
    """
    if len(pairs) <= count:
        return pairs, float(pairs.pre.min()) if len(pairs) else 0.0
    least = np.partition(pairs.pre, len(pairs) - count)[len(pairs) - count]
    keep = pairs.pre > least
    keep[np.flatnonzero(pairs.pre == least)[: count - int(keep.sum())]] = True
    return pairs.where(keep), float(least)


def ordered(edge: NDArray[np.float32]) -> NDArray[np.int16]:
    """For each edge the integer of the least bfloat16 above it, such that integers order as the
    bfloat16s do."""
    edge = edge.astype(np.float32) + np.float32(0)  # no negative zero
    bits = (edge.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)
    exact = floats(bits)  # rounded towards zero
    bits = np.where(bits < 0, bits ^ np.int16(0x7FFF), bits)
    down = np.where(exact > edge, bits - 1, bits)  # negative edges were rounded up
    result: NDArray[np.int16] = (down + 1).astype(np.int16)
    return result


def floats(bits: NDArray[np.int16]) -> NDArray[np.float32]:
    """The values of bfloat16 bits."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _kth(bits: NDArray[np.int16], k: int) -> float:
    if len(bits) < k:
        return 0.0
    return float(floats(np.partition(bits, len(bits) - k)[len(bits) - k : len(bits) - k + 1])[0])


def _offsets(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
