"""Encoding with a trained TopK SAE on a card: candidates by the fused step's own kernels.

As `deconstruct.sae.engines.cpu.encoder` does on a CPU: a product in bfloat16, of which a kernel
takes twice k candidates a token (at least 32 more than k), and their pre-activations again in
float32. The k chosen are then those of a float32 product, unless bfloat16 misplaces a latent by as
many ranks; ties go to the lower latent. Of [tokens, d_sae] nothing wider than bfloat16 is written,
and it is read once; no float32 product or sort of it is made.

Arithmetic for an H100, d_in 768, d_sae 24,576, k 32 (not measured): a token's product takes 0.06 us
at 600 TFLOP/s; its 64 candidates' rows of W_enc, gathered, written and read, 0.2 us at 3 TB/s.
Measured on a CPU, two busy cores: to deal its 32 firings into buckets takes 2 to 4 us, to put them
into their two orders later on 70. So what is simple here is fast enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from deconstruct.sae.architectures.topk import TopK
from deconstruct.sae.engines.cuda.buffers import Buffers, Card, columns_a_group, multiplies_fused
from deconstruct.sae.engines.cuda.options import MAX_D_IN, MAX_K, GpuOptions
from deconstruct.sae.engines.encoding.encoder import BATCH_BYTES, Fired
from deconstruct.sae.spec import StepSpec

MOST_ROWS = 16_384
"""Tokens at once, where memory allows: a card is busy with fewer."""
STEP_ROWS = 16
"""Tokens come in multiples of so many, filled up with zeros: Triton compiles a kernel anew for
numbers that are none."""
REFINE_BYTES = BATCH_BYTES // 8
"""What gathered rows of W_enc take of a batch's memory."""
FOLD_LATENTS = 8192


def candidates_of(k: int, d_sae: int) -> int:
    """How many latents of a token are computed again in float32."""
    return min(d_sae, max(2 * k, k + 32))


def unsuited(d_in: int, d_sae: int, k: int) -> str | None:
    """Why these sizes are not encoded so, as a sentence; None where they are."""
    if candidates_of(k, d_sae) > MAX_K:
        return f"the fused selection takes k up to {MAX_K // 2}, not {k}"
    if d_in > MAX_D_IN:
        return f"the fused selection takes d_in up to {MAX_D_IN}, not {d_in}"
    return None


@dataclass(frozen=True)
class Weights:
    """enc: float32 [d_sae, d_in], and half, the same in bfloat16. bias: float32 [d_sae], of inputs
    less b_dec [d_in]; bias_half the same in bfloat16."""

    enc: Tensor
    half: Tensor
    bias: Tensor
    bias_half: Tensor
    b_dec: Tensor

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Weights:
        """weights: W_enc [d_in, d_sae], b_enc [d_sae], b_dec [d_in], for raw activations."""
        enc, b_dec = weights["W_enc"].T.contiguous(), weights["b_dec"]
        shift = [part.double() @ b_dec.double() for part in torch.split(enc, FOLD_LATENTS)]
        bias = (weights["b_enc"].double() + torch.cat(shift)).float()
        return cls(enc, enc.bfloat16(), bias, bias.bfloat16(), b_dec)


class Room:
    """What `forward.encode` and `forward.select` read and write of a step's `Buffers`, for a few
    tokens: their names, shapes and dtypes. spec.k: candidates a token."""

    def __init__(self, spec: StepSpec, weights: Weights, card: Card, options: GpuOptions) -> None:
        """Takes the memory. Raises ``ValueError`` for ``encoder="fused"`` where it can't be had."""
        n, d, f, k = spec.batch, spec.d_in, spec.d_sae, spec.k
        self.spec, self.options, self.sms = spec, options, card.sms
        self.group, self.fused = columns_a_group(f, k), multiplies_fused(d, f, options, card)
        self.enc, self.bias_half = weights.half, weights.bias_half
        self.state = {"b_enc": weights.bias}
        device = weights.enc.device

        def new(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.centered = new(n, d, dtype=torch.bfloat16)
        self.pre = new(n, f, dtype=torch.bfloat16)
        self.maxima = new(n, -(-f // self.group), dtype=torch.int16)
        self.groups = new(n, k + 2, dtype=torch.int32)
        self.index, self.value = new(n, k, dtype=torch.int32), new(n, k, dtype=torch.float32)

    @staticmethod
    def bytes_a_token(d_in: int, d_sae: int, candidates: int) -> int:
        """Of all of it, with the input and a float32 copy, and what is made of candidates."""
        return 2 * d_sae + -(-d_sae // 16) * 2 + 10 * d_in + 80 * candidates


class SelectedTopK:
    """The fused selection; see above. Keeps no buffer from one batch to the next, so that several
    threads may use it."""

    title = "the fused selection"

    def __init__(
        self, weights: Mapping[str, Tensor], k: int, options: GpuOptions | None = None
    ) -> None:
        """weights: W_enc, b_enc and b_dec of an autoencoder, on the device; see `Weights.of`."""
        self.k, self._options = k, options or GpuOptions()
        with torch.no_grad():
            self._weights = Weights.of(weights)
        self.d_sae, self.d_in = self._weights.enc.shape
        self.candidates = candidates_of(k, self.d_sae)
        self._card = Card.of(self._weights.enc.device)
        a_token = Room.bytes_a_token(self.d_in, self.d_sae, self.candidates)
        fit = (BATCH_BYTES - REFINE_BYTES) // a_token
        self.rows = max(STEP_ROWS, min(MOST_ROWS, fit // STEP_ROWS * STEP_ROWS))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Fired:
        """As `Encoder` says."""
        centred = x - self._weights.b_dec
        with self._current():
            candidates = self._candidates(centred)
        latents, values = self._chosen(candidates, self._exact(centred, candidates))
        fires = values > 0
        return fires.sum(1), latents[fires], values[fires]

    def _candidates(self, centred: Tensor) -> Tensor:
        """int32 [n, candidates], ascending; d_sae in slots that none is found for."""
        from deconstruct.sae.engines.cuda import forward  # imports Triton

        n = len(centred)
        spec = _spec(-(-n // STEP_ROWS) * STEP_ROWS, self.d_in, self.d_sae, self.candidates)
        room = Room(spec, self._weights, self._card, self._options)
        room.centered[:n] = centred
        room.centered[n:] = 0
        as_buffers = cast(Buffers, room)  # of which it has what the two launches ask for
        forward.encode(as_buffers)
        forward.select(as_buffers)
        return room.index[:n]

    def _exact(self, centred: Tensor, candidates: Tensor) -> Tensor:
        """The candidates' pre-activations in float32, [n, candidates]; 0 in empty slots."""
        w = self._weights
        rows = max(1, REFINE_BYTES // (4 * self.candidates * self.d_in))
        exact = torch.empty(candidates.shape, device=centred.device)
        cut = (torch.split(tensor, rows) for tensor in (centred, candidates, exact))
        for x, which, out in zip(*cut, strict=True):
            at = which.clamp(max=self.d_sae - 1)
            out[:] = torch.bmm(w.enc[at], x[:, :, None])[:, :, 0] + w.bias[at]
        return exact.masked_fill_(candidates == self.d_sae, 0)

    def _chosen(self, candidates: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        """Latents int32 and values float32 of the k largest positive, [n, k], ascending by latent;
        slots that don't fire are at the end: latent d_sae, value 0."""
        values, places = exact.sort(dim=1, descending=True, stable=True)  # of equals the first
        values = values[:, : self.k].clamp(min=0)
        latents = candidates.gather(1, places[:, : self.k])
        latents, order = latents.masked_fill_(values == 0, self.d_sae).sort(dim=1)
        return latents, values.gather(1, order)

    def _current(self) -> AbstractContextManager[object]:
        """Makes the device the one that kernels are launched on."""
        device = self._weights.enc.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _spec(batch: int, d_in: int, d_sae: int, k: int) -> StepSpec:
    """A step of which only the first half is made."""
    return StepSpec(TopK.name, batch, d_in, d_sae, k, 0.0, math.inf, 0, 0.0, 1)
