"""The TopK training step on a CPU: one dense product, in bfloat16, and sparse work around it.

    c    = z - b_dec
    pre  = c @ W_enc + b_enc                 the only dense product, a block of tokens at a time
    a    = the k largest of relu(pre)        while the block is in cache
    e    = a @ W_dec + b_dec - z             k rows per token
    loss = mean |e|^2  [+ AuxK over the dead latents, if there are any]

Weights and moments are float32; W_enc is kept transposed, [d_sae, d_in], so that a latent is a
row everywhere. What products read is in bfloat16: copies of the weights, which the optimiser
writes as it goes, c and e.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.common.cores import share
from deconstruct.sae.architectures.topk import TopK
from deconstruct.sae.engines.cpu.adam import Gradient, RowAdam, array_of, bits_of
from deconstruct.sae.engines.cpu.blocks import Encoder, with_bias
from deconstruct.sae.engines.cpu.kernels import packed
from deconstruct.sae.engines.cpu.kernels.vectors import HALF, WIDTH
from deconstruct.sae.engines.cpu.pairs import ActivePairs, Gradients, weighted_sum
from deconstruct.sae.engines.engine import Engine, as_given, counts, rows_by_latent
from deconstruct.sae.spec import NAMES, StepSpec, aux_tokens

BLOCK_BYTES = 64 << 20
PRODUCT_TOKENS = 1024
"""Output of one block of the encoder's product, at most: larger blocks multiply faster, smaller
ones are still in cache when the largest are chosen. The same for any number of threads."""


class CpuTopK(Engine):
    """Parameters, Adam's moments and the TopK step over them; W_enc transposed in checkpoints.

    weights: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec. learning_rates: [steps].
    """

    title = "the TopK step of the CPU"

    def __init__(
        self, spec: StepSpec, weights: Mapping[str, Tensor], learning_rates: Tensor
    ) -> None:
        super().__init__(spec, rows_by_latent(weights, NAMES))
        self._optimizer = RowAdam(spec, learning_rates.tolist(), self._state)
        self._state |= counts(spec, len(learning_rates))
        B, F = spec.batch, spec.d_sae
        slices = -(-spec.d_in // WIDTH)
        self._width = slices * WIDTH
        self._low = torch.ones(B, spec.d_in + 2, dtype=torch.bfloat16)
        self._rows = np.zeros((slices, B, 2, HALF), np.uint32)
        self._W_enc = torch.empty(F, spec.d_in + 2, dtype=torch.bfloat16)
        self._W_dec = np.zeros((slices, F, HALF), np.uint32)
        self._refresh()
        block = max(1, min(B, PRODUCT_TOKENS, BLOCK_BYTES // (2 * F)))
        self._encoder = Encoder(self._W_enc, self._low, block)
        self._pairs = ActivePairs(B, F, spec.k)
        self._aux = ActivePairs(aux_tokens(B), F, spec.k_aux)
        self._residual = np.empty((aux_tokens(B), self._width), np.float32)
        self._grad = Gradients.zeros(F, self._width)

    @classmethod
    def refuses(cls, spec: StepSpec, device: str, dtype: str, ranks: int) -> str | None:
        """All but TopK autoencoders, all of them trained, in one process on a CPU; products are in
        bfloat16 always."""
        if device != "cpu":
            return f"the TopK step of the CPU does not run on {device}"
        if spec.architecture != TopK.name:
            return f"the TopK step of the CPU trains {TopK.name}, not {spec.architecture}"
        if spec.transcoder:
            return "the TopK step of the CPU trains autoencoders, no transcoders"
        if spec.frozen != "none":
            return f"the TopK step of the CPU trains all weights: sae.frozen = {spec.frozen!r}"
        return f"the TopK step of the CPU is for one process, not {ranks}" if ranks > 1 else None

    @classmethod
    def begin(
        cls, spec: StepSpec, weights: Mapping[str, Tensor], rates: Tensor, device: str, dtype: str
    ) -> Self:
        """See `Engine.begin`."""
        return cls(spec, weights, rates)

    def step(self, z: Tensor, target: Tensor | None = None) -> None:
        """Train on z, float32 [batch, d_in], in scaled coordinates. Raises ValueError for a
        target: transcoders have an engine of their own."""
        if target is not None:
            raise ValueError("the TopK step on a CPU reconstructs its input alone")
        state, spec, pairs = self._state, self.spec, self._pairs
        done = int(state["step"])
        dead = state["since_fired"] >= spec.dead_after
        n_dead = int(dead.sum()) if spec.k_aux else 0
        np.negative(dead.numpy(), out=self._aux.allowed, dtype=np.int16)
        x, bias = array_of(z), np.zeros(self._width, np.float32)
        bias[: spec.d_in] = array_of(state["b_dec"])
        share(packed.centre, spec.batch, x, bias, bits_of(self._low), self._rows)
        self._encoder.largest((pairs, self._aux) if n_dead else (pairs,))
        residual = self._residual if n_dead else self._residual[:0]
        scale, nobody = 2 / spec.batch, np.zeros(spec.d_sae, np.bool_)
        values = pairs.values.reshape(-1)
        total = pairs.decode(self._W_dec, values, bias, x, self._rows, scale, residual)
        pairs.gradients(values, pairs.slope, scale, self._rows, self._W_dec, nobody, self._grad)
        fired = pairs.fired()
        touched = fired | self._add_auxk(n_dead, fired) if n_dead else fired
        # Reduced over tokens first, so that the encoder's part is a product with one vector.
        through = weighted_sum(self._grad.b_enc, array_of(state["W_enc"]))
        grad_b_dec = torch.from_numpy(total[: spec.d_in] * np.float32(scale) - through)
        self._update(done, torch.from_numpy(touched), grad_b_dec)
        state["since_fired"] += spec.batch
        state["since_fired"][torch.from_numpy(fired)] = 0
        self.losses[done] = float(pairs.squared.mean(dtype=np.float64))
        state["step"] += 1

    def weights(self) -> dict[str, Tensor]:
        """Float32 copies: W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec."""
        return as_given(self._state, NAMES)

    def _l0(self) -> float:
        return float(self._pairs.starts[-1]) / self.spec.batch

    def _refresh(self) -> None:
        """The copies in bfloat16, which the optimiser keeps up."""
        self._W_enc[:, : self.spec.d_in] = self._state["W_enc"]
        with_bias(self._W_enc, self._state["b_enc"])
        padded = torch.nn.functional.pad(self._state["W_dec"], (0, self._width - self.spec.d_in))
        share(packed.pack, self.spec.d_sae, array_of(padded), self._W_dec)

    def _add_auxk(self, n_dead: int, fired: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """AuxK: the k_aux strongest dead latents explain what the living ones left over, on the
        first `aux_tokens`.

        Gao et al. 2024, section A.2; the residual that they explain is a constant to it, and its
        weight shrinks in proportion where fewer than k_aux latents are dead. The same sparse
        kernels as in the main step: dense products over all of the dead take twice the time of
        the whole step once half of a dictionary is dead. Returns which latents it reaches: [F].
        """
        pairs = self._aux
        scale = 2 / len(self._residual) * self.spec.aux_weight(n_dead)
        no_bias, no_residual = np.zeros(self._width, np.float32), self._residual[:0]
        values, rows = pairs.values.reshape(-1), self._rows
        pairs.decode(self._W_dec, values, no_bias, self._residual, rows, scale, no_residual)
        pairs.gradients(values, pairs.slope, scale, rows, self._W_dec, fired, self._grad)
        return pairs.fired()

    def _update(self, done: int, touched: Tensor, grad_b_dec: Tensor) -> None:
        """Clip, and let the optimiser move what this step ``touched``: bool [F]."""
        grad, spec = self._grad, self.spec
        norm = math.sqrt(max(0.0, grad.squares.sum()) + float(grad_b_dec.double().square().sum()))
        clip = min(1.0, spec.clip_norm / max(norm, 1e-30))
        if spec.optimizer == "adam":  # it moves rows that this step has not filled, too
            silent = ~touched.numpy()
            for stale in (grad.W_enc, grad.W_dec, grad.b_enc, grad.along):
                stale[silent] = 0
        gradients = {
            "W_enc": Gradient(grad.W_enc, low=bits_of(self._W_enc)),
            "b_enc": Gradient(grad.b_enc[:, None]),
            "W_dec": Gradient(grad.W_dec, grad.along, packed=self._W_dec),
            "b_dec": Gradient(array_of(grad_b_dec)[None]),
        }
        self._optimizer.step(done, touched, clip, gradients)
        with_bias(self._W_enc, self._state["b_enc"])
