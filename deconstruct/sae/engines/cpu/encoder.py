"""Encoding with a trained TopK SAE on a CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from deconstruct.common.cores import share
from deconstruct.sae.engines.cpu.adam import array_of
from deconstruct.sae.engines.cpu.kernels import select
from deconstruct.sae.engines.cpu.pairs import fold_columns

ENCODE_TOKENS = 512
PRODUCT_ROWS = 128
"""Rows of a product that are one thread's alone: torch's own threads would wait for one another."""


class TopKEncoder:
    """Encodes with a trained TopK SAE: candidates in bfloat16, their values exact in float32.

    Twice k candidates (at least 32 more than k) are taken in bfloat16 and their pre-activations
    computed again in float32, so that the k chosen are those of a float32 product unless
    bfloat16 misplaces a latent by as many ranks. Inputs are centred first: what models add to
    every token would cost bfloat16 its few digits.
    """

    def __init__(self, weights: Mapping[str, Tensor], k: int) -> None:
        """weights: W_enc [d_in, d_sae], b_enc [d_sae], b_dec [d_in], for raw activations."""
        self.k = k
        self.b_dec = weights["b_dec"]
        self.W_enc = weights["W_enc"].T.contiguous()
        shift = weights["b_dec"].double() @ weights["W_enc"].double()
        self.bias = (weights["b_enc"].double() + shift).float()
        self._low, self._low_bias = self.W_enc.bfloat16(), self.bias.bfloat16()
        d_sae = len(self.bias)
        self._candidates = min(d_sae, max(2 * k, k + 32))
        self._columns = fold_columns(d_sae, self._candidates)
        self._everyone = np.full(d_sae, -1, np.int16)
        self._pre = torch.empty(ENCODE_TOKENS, d_sae, dtype=torch.bfloat16)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x float32 [n, d_in] -> latents int32 and values float32 [n, k], ascending by latent.

        Slots that do not fire are at the end of a row: latent 0, value 0.
        """
        centred = x - self.b_dec
        latents = torch.empty(len(x), self.k, dtype=torch.int32)
        values = torch.empty(len(x), self.k)
        for first in range(0, len(x), ENCODE_TOKENS):
            block = slice(first, min(first + ENCODE_TOKENS, len(x)))
            n = block.stop - first
            pre = self._pre[:n]
            share(self._multiply, [*range(0, n, PRODUCT_ROWS), n], centred[block].bfloat16(), pre)
            candidates = np.empty((n, self._candidates), np.int32)
            values_low = np.empty((n, self._candidates), np.float32)
            counts = np.empty(n, np.int32)
            choice = (self._everyone, self._columns, candidates, values_low, counts)
            share(select.select_topk, n, pre.view(torch.int16).numpy(), (choice,))
            share(
                select.refine_topk,
                n,
                array_of(centred[block]),
                array_of(self.W_enc),
                array_of(self.bias),
                candidates,
                self.k,
                latents[block].numpy(),
                array_of(values[block]),
            )
        return latents, values

    @torch.inference_mode()  # a thread's own: the buffer may have been made within the caller's
    def _multiply(self, first: int, last: int, low: Tensor, pre: Tensor) -> None:
        torch.addmm(self._low_bias, low[first:last], self._low.T, out=pre[first:last])
