"""Which latents fire on which token, and the products over these pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.common.cores import even, share
from deconstruct.sae.engines.cpu.kernels import packed, select
from deconstruct.sae.engines.cpu.kernels.vectors import PackedRows

Floats = NDArray[np.float32]
Int = NDArray[np.int32]

SUMMED_APART = 32
"""Parts of a sum over rows: the same for any number of threads."""
CHUNK_TOKENS = 512
"""Tokens whose errors are summed up apart, so that no sum depends on the number of threads. A
thread decodes several chunks in one pass over W_dec."""


def weighted_sum(weights: Floats, rows: Floats) -> Floats:
    """``weights @ rows``, [n] and [n, width] -> [width], in one order whatever the number of
    threads: a BLAS cuts the sum itself among them."""
    cuts = np.array(even(len(rows), SUMMED_APART))
    parts = np.zeros((len(cuts) - 1, rows.shape[1]), np.float32)
    share(packed.add_weighted_rows, len(parts), weights, rows, cuts, parts)
    total: Floats = parts.sum(0)
    return total


class PairProducts:
    """What is computed for the (token, latent) pairs of one batch alone, on packed matrices.

    offsets, int64, and counts, int32: [tokens], where a token's pairs begin and how many they are.
    latents int32, values and slope float32: [places]. Sorted by latent: starts int32 [d_sae + 1],
    and per place a token, a value and a slope.
    """

    def __init__(
        self, offsets: NDArray[np.int64], counts: NDArray[np.int32], latents: Int, d_sae: int
    ) -> None:
        self.offsets, self.counts, self._latents = offsets, counts, latents
        self.slope = np.zeros(len(latents), np.float32)
        self.squared = np.zeros(len(counts), np.float32)
        self.starts = np.zeros(d_sae + 1, np.int32)
        self._tokens = np.zeros(len(latents), np.int32)
        self._by_value, self._by_slope = np.zeros((2, len(latents)), np.float32)

    def decode(
        self,
        W_dec: PackedRows,
        values: Floats,
        bias: Floats,
        x: Floats,
        rows: PackedRows,
        scale: float,
        residual: Floats,
    ) -> Floats:
        """The error of each token, packed into rows, the negatives of the first in residual
        [<= tokens, D] (see `kernels.packed`), and the slopes.

        scale: of a loss's gradient in the error, that the slopes are multiplied by. Returns the
        sum of the errors, [D].
        """
        tokens = len(self.counts)
        sums = np.zeros((-(-tokens // CHUNK_TOKENS), len(bias)), np.float32)
        chunks = even(len(sums), torch.get_num_threads())
        cuts = [min(tokens, CHUNK_TOKENS * chunk) for chunk in chunks]
        of = (self.offsets, self.counts, self._latents, values, x, scale)
        into = (rows, residual, self.slope, self.squared, sums)
        share(packed.decode_and_slope, cuts, W_dec, bias, *of, *into, CHUNK_TOKENS)
        total: Floats = sums.sum(0)
        return total

    def fired(self) -> NDArray[np.bool_]:
        """Which latents have a pair, once `gradients` has sorted them: [d_sae]."""
        some: NDArray[np.bool_] = np.diff(self.starts) > 0
        return some

    def gradients(
        self,
        values: Floats,
        push: Floats,
        scale: float,
        rows: PackedRows,
        W_dec: PackedRows,
        held: NDArray[np.bool_],
        into: Gradients,
    ) -> None:
        """Fill ``into``, or add to it for the latents held; see `packed.weight_gradients`.

        push: the loss' slope in each pair's pre-activation, [places]; values count ``scale``."""
        by_latent = (self.starts, self._tokens, self._by_value, self._by_slope)
        of = (self.offsets, self.counts, self._latents, values, push, scale)
        packed.group_by_latent(*of, *by_latent)
        # A range has about as many pairs and rows as any other: common latents cost more.
        d_sae = len(into.b_enc)
        work = self.starts + 2.0 * np.arange(d_sae + 1)
        shares = np.linspace(0, work[-1], 2 * torch.get_num_threads() + 1)
        cuts = [0, *np.searchsorted(work, shares[1:-1]).tolist(), d_sae]
        found = (into.W_dec, into.W_enc, into.b_enc, into.along, into.squares)
        share(packed.weight_gradients, cuts, *by_latent, rows, W_dec, held, *found)


class ActivePairs(PairProducts):
    """The largest pre-activations of each token, at most k.

    allowed: int16 [d_sae], -1 for the latents that are chosen from, 0 for others; all at first.
    latents int32, values float32: [tokens, k], of which the first ``counts`` of a row count.
    """

    def __init__(self, tokens: int, d_sae: int, k: int) -> None:
        self.latents = np.zeros((tokens, k), np.int32)
        self.values = np.zeros((tokens, k), np.float32)
        offsets, counts = k * np.arange(tokens, dtype=np.int64), np.zeros(tokens, np.int32)
        super().__init__(offsets, counts, self.latents.reshape(-1), d_sae)
        self.allowed = np.full(d_sae, -1, np.int16)
        self.columns = fold_columns(d_sae, k)


class Gradients:
    """Of a latent's weights, [d_sae, D] or [d_sae]; W_dec's still with its part along the row."""

    def __init__(self, W_dec: Floats, W_enc: Floats) -> None:
        """Into those two matrices, [d_sae, D], and vectors beside them."""
        self.W_dec, self.W_enc = W_dec, W_enc
        self.b_enc, self.along = np.zeros((2, len(W_dec)), np.float32)
        self.squares = np.zeros(len(W_dec))

    @classmethod
    def zeros(cls, d_sae: int, width: int) -> Gradients:
        """Of ``width`` columns, a multiple of `WIDTH`."""
        return cls(*np.zeros((2, d_sae, width), np.float32))


def fill_choices(pre: Tensor, first: int, chosen: Sequence[ActivePairs]) -> None:
    """Choose the largest of each row of pre, bfloat16 [n, d_sae], for tokens from ``first`` on.

    Choices of fewer tokens than that end where they do.
    """
    chosen = [pairs for pairs in chosen if first < len(pairs.counts)]
    if not chosen:
        return
    block = slice(first, first + len(pre))
    choices = tuple(
        (p.allowed, p.columns, p.latents[block], p.values[block], p.counts[block]) for p in chosen
    )
    select.select_topk(0, len(pre), pre.view(torch.int16).numpy(), choices)


def fold_columns(d_sae: int, k: int) -> int:
    """How many maxima a row is folded into, a multiple of 32: enough to bound the k-th well."""
    wanted = max(256, 4 * k, math.isqrt(d_sae * k))
    return -(-min(d_sae, wanted) // 32) * 32
