"""The TopK training step on a CPU: one dense product, in bfloat16, and sparse work around it.

    c    = z - b_dec
    pre  = c @ W_enc + b_enc                 the only dense product, a block of tokens at a time
    a    = the k largest of relu(pre)        while the block is in cache
    e    = a @ W_dec + b_dec - z             k rows a token
    loss = mean |e|^2  [+ AuxK over the dead latents, if there are any]

Weights and moments are float32; W_enc is kept transposed, [d_sae, d_in], so that a latent is a
row everywhere, with a bfloat16 copy that the optimiser writes as it goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.sae import cpu_kernels as kernels
from deconstruct.sae.engine import NAMES, StepSpec

BLOCK_TOKENS = 512
"""Tokens in one block of the encoder's product: its output (8 MB at d_sae = 8192) stays in L3."""


class CpuTopK:
    """Parameters, Adam's moments and the TopK step over them.

    weights: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec. learning_rates: [steps].
    dtype: of the encoder's product; bfloat16 where the CPU is fast at it.
    """

    def __init__(
        self,
        spec: StepSpec,
        weights: Mapping[str, Tensor],
        learning_rates: Tensor,
    ) -> None:
        self.spec = spec
        self.rates = learning_rates.tolist()
        self.losses = torch.zeros(len(self.rates))
        self._state = {
            name: weights[name].detach().float().T.contiguous().clone()
            if name == "W_enc"
            else weights[name].detach().float().clone()
            for name in NAMES
        }
        for name in NAMES:
            self._state[f"{name}.m"] = torch.zeros_like(self._state[name])
            self._state[f"{name}.v"] = torch.zeros_like(self._state[name])
        self._state["step"] = torch.zeros(1, dtype=torch.int64)
        self._state["since_fired"] = torch.zeros(spec.d_sae, dtype=torch.int64)
        B, D, F, K = spec.batch, spec.d_in, spec.d_sae, spec.k
        self._columns = fold_columns(F, K)
        self._shadow = self._state["W_enc"].bfloat16()
        self._pre = torch.empty(min(B, BLOCK_TOKENS), F, dtype=torch.bfloat16)
        self._latents = np.zeros((B, K), np.int32)
        self._value_bits = np.zeros((B, K), np.int16)
        self._error, self._slope = np.zeros((B, D), np.float32), np.zeros((B, K), np.float32)
        self._squared = np.zeros(B, np.float32)
        self._starts, self._pairs = np.zeros(F + 1, np.int32), np.zeros(B * K, np.int32)
        self._grad = {name: torch.zeros_like(self._state[name]) for name in NAMES}
        self._squares = np.zeros(F, np.float64)

    def step(self, z: Tensor) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates."""
        state, spec = self._state, self.spec
        done = int(state["step"])
        centred = z - state["b_dec"]
        dead = torch.nonzero(state["since_fired"] >= spec.dead_after).squeeze(1)
        if not spec.k_aux:
            dead = dead[:0]
        values, dead_pre = self._encode(centred, dead)
        kernels.decode_and_slope(
            _np(state["W_dec"]),
            _np(state["b_dec"]),
            self._latents,
            values,
            _np(z),
            self._error,
            self._slope,
            self._squared,
        )
        kernels.group_by_latent(self._latents, values, spec.d_sae, self._starts, self._pairs)
        grad = {name: _np(gradient) for name, gradient in self._grad.items()}
        kernels.weight_gradients(
            self._starts,
            self._pairs,
            values,
            self._slope,
            self._error,
            _np(centred),
            grad["W_dec"],
            grad["W_enc"],
            grad["b_enc"],
        )
        error = torch.from_numpy(self._error)
        if len(dead):
            self._add_auxk(dead, dead_pre, error, centred)
        # Reduced over tokens first, so that the encoder's part is a product with one vector.
        own = error.sum(0) * (2 / spec.batch)
        self._grad["b_dec"] = own - self._grad["b_enc"] @ state["W_enc"]
        self._update(done)
        counts = torch.from_numpy(np.diff(self._starts))
        state["since_fired"] += spec.batch
        state["since_fired"][counts > 0] = 0
        self.losses[done] = float(self._squared.mean(dtype=np.float64))
        state["step"] += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec."""
        found = {name: self._state[name].clone() for name in NAMES}
        found["W_enc"] = found["W_enc"].T.contiguous()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint; W_enc transposed, the bfloat16 copy left out."""
        return {**self._state, "losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave. Raises ``KeyError`` where a tensor is missing."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
        self._shadow.copy_(self._state["W_enc"])

    def firing(self) -> tuple[float, float]:
        """Mean L0 of the last step's tokens, and the share of latents that are dead."""
        dead = self._state["since_fired"] >= self.spec.dead_after
        return float(self._starts[-1]) / self.spec.batch, float(dead.float().mean())

    def _encode(self, centred: Tensor, dead: Tensor) -> tuple[NDArray[np.float32], Tensor]:
        """Active latents and values of each token; pre-activations of the dead latents."""
        low = centred.bfloat16()
        bias = self._state["b_enc"].bfloat16()
        dead_pre = torch.empty(len(centred), len(dead), dtype=torch.bfloat16)
        for first in range(0, len(centred), BLOCK_TOKENS):
            block = slice(first, min(first + BLOCK_TOKENS, len(centred)))
            pre = self._pre[: block.stop - first]
            torch.addmm(bias, low[block], self._shadow.T, out=pre)
            kernels.select_topk(
                pre.view(torch.int16).numpy(),
                self.spec.k,
                self._columns,
                self._latents[block],
                self._value_bits[block],
            )
            if len(dead):
                torch.index_select(pre, 1, dead, out=dead_pre[block])
        values = torch.from_numpy(self._value_bits).view(torch.bfloat16).float()
        return _np(values), dead_pre

    def _add_auxk(self, dead: Tensor, pre: Tensor, error: Tensor, centred: Tensor) -> None:
        """AuxK: the k_aux strongest dead latents explain what the living ones left over.

        Gao et al. 2024, section A.2; the error they explain is a constant to it, and its weight
        shrinks in proportion where fewer than k_aux latents are dead. The same kernels as in the
        main step, over the dead latents numbered 0, 1, ...: dense products over all of the dead
        take twice the time of the whole step once half of a dictionary is dead.
        """
        spec = self.spec
        n_dead, k = len(dead), min(spec.k_aux, len(dead))
        weight = spec.aux_coefficient * min(1.0, n_dead / spec.k_aux)
        latents = np.zeros((len(pre), k), np.int32)
        bits = np.zeros((len(pre), k), np.int16)
        columns = fold_columns(n_dead, k)
        kernels.select_topk(pre.view(torch.int16).numpy(), k, columns, latents, bits)
        values = _np(torch.from_numpy(bits).view(torch.bfloat16).float())
        off, slope = np.empty_like(self._error), np.empty((len(pre), k), np.float32)
        zero = np.zeros(spec.d_in, np.float32)
        W_dec = _np(self._state["W_dec"][dead])
        kernels.decode_and_slope(
            W_dec, zero, latents, values, _np(-error), off, slope, np.empty(len(pre), np.float32)
        )
        off *= weight
        slope *= weight
        starts, pairs = np.zeros(n_dead + 1, np.int32), np.zeros(len(pre) * k, np.int32)
        kernels.group_by_latent(latents, values, n_dead, starts, pairs)
        grad_dec, grad_enc = np.empty_like(W_dec), np.empty_like(W_dec)
        grad_bias = np.empty(n_dead, np.float32)
        kernels.weight_gradients(
            starts, pairs, values, slope, off, _np(centred), grad_dec, grad_enc, grad_bias
        )
        for name, added in (("W_dec", grad_dec), ("W_enc", grad_enc), ("b_enc", grad_bias)):
            self._grad[name].index_add_(0, dead, torch.from_numpy(added))

    def _update(self, done: int) -> None:
        state, grad, spec = self._state, self._grad, self.spec
        kernels.row_squares(
            _np(state["W_dec"]), _np(grad["W_dec"]), _np(grad["W_enc"]), self._squares
        )
        norm = math.sqrt(
            float(self._squares.sum())
            + float(grad["b_enc"].double().square().sum())
            + float(grad["b_dec"].double().square().sum())
        )
        clip = min(1.0, spec.clip_norm / max(norm, 1e-30))
        beta1, beta2 = spec.betas
        rate = self.rates[done] / (1 - beta1 ** (done + 1))
        none = np.zeros((0, 0), np.uint16)
        for name in NAMES:
            rows = (state[name], grad[name], state[f"{name}.m"], state[f"{name}.v"])
            matrix = (_np(t).reshape(-1, spec.d_in) if t.dim() == 2 else _np(t)[None] for t in rows)
            kernels.adam_rows(
                *matrix,
                self._shadow.view(torch.uint16).numpy() if name == "W_enc" else none,
                clip,
                rate,
                beta1,
                beta2,
                1 - beta2 ** (done + 1),
                spec.epsilon,
                name == "W_dec",
            )


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
        self._pre = torch.empty(BLOCK_TOKENS, d_sae, dtype=torch.bfloat16)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x float32 [n, d_in] -> latents int32 and values float32 [n, k], ascending by latent.

        Slots that do not fire are at the end of a row: latent 0, value 0.
        """
        centred = x - self.b_dec
        latents = torch.empty(len(x), self.k, dtype=torch.int32)
        values = torch.empty(len(x), self.k)
        for first in range(0, len(x), BLOCK_TOKENS):
            block = slice(first, min(first + BLOCK_TOKENS, len(x)))
            n = block.stop - first
            pre = self._pre[:n]
            torch.addmm(self._low_bias, centred[block].bfloat16(), self._low.T, out=pre)
            candidates = np.empty((n, self._candidates), np.int32)
            unused = np.empty((n, self._candidates), np.int16)
            kernels.select_topk(
                pre.view(torch.int16).numpy(),
                self._candidates,
                self._columns,
                candidates,
                unused,
            )
            kernels.refine_topk(
                _np(centred[block]),
                _np(self.W_enc),
                _np(self.bias),
                candidates,
                self.k,
                latents[block].numpy(),
                _np(values[block]),
            )
        return latents, values


def fold_columns(d_sae: int, k: int) -> int:
    """How many maxima a row is folded into: near sqrt(d_sae * k), both levels cost the same."""
    wanted = max(256, 2 * k, math.isqrt(d_sae * k))
    return min(d_sae, -(-wanted // 64) * 64)


def _np(tensor: Tensor) -> NDArray[np.float32]:
    """The tensor's own memory as an array."""
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array
