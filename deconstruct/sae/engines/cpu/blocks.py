"""The encoder's product by blocks, and choices from each while it is in cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.common.cores import share
from deconstruct.sae.architectures.pairs import Pairs, offsets_of
from deconstruct.sae.engines.cpu.kernels import select
from deconstruct.sae.engines.cpu.pairs import ActivePairs, fill_choices

SELECT_TOKENS = 512
"""Tokens in one block of the encoder's product: its output (8 MB at d_sae = 8192) stays in L3."""
SMALLEST = 1
"""The least positive bfloat16, as an integer."""


class Encoder:
    """Blocks of ``low @ shadow.T`` in bfloat16, and choices from them while they are in cache.

    shadow: [d_sae, d_in + 2], W_enc and its bias, see `with_bias`. low: [n, d_in + 2], inputs and
    two ones.
    """

    def __init__(self, shadow: Tensor, low: Tensor, block: int = SELECT_TOKENS) -> None:
        """Both are read anew at each choice. block: tokens, at most."""
        self.shadow, self.low = shadow, low
        self._block = min(len(low), block)
        self._cuts = [*range(0, len(low), block), len(low)]
        self._free: SimpleQueue[_Room] = SimpleQueue()

    def above(
        self, edges: NDArray[np.int16], limit: int, aux: ActivePairs | None = None
    ) -> Pairs | None:
        """Pairs at or above their latent's edge (`ordered` integers, [d_sae]); aux, of the first
        tokens, is filled from the same products. None: more pairs than ``limit``."""
        counts = np.zeros(len(self.low), np.int32)
        finds: dict[int, tuple[NDArray[Any], ...]] = {}

        def choose(first: int, last: int) -> None:
            if sum(len(find[0]) for find in list(finds.values())) > limit:
                return
            with self._room() as room:
                pre = self._product(first, last, room)
                bits, count = pre.view(torch.int16).numpy(), counts[first:last]
                select.select_above(0, len(pre), bits, edges, room.places, room.values, count)
                offsets = offsets_of(count)
                size = int(offsets[-1])
                find = (
                    np.empty(size, np.int32),
                    np.empty(size, np.int32),
                    np.empty(size, np.int16),
                )
                of = (room.places, room.values, offsets)
                select.gather_rows(0, len(pre), *of, *find, first)
                finds[first] = find
                if aux is not None:
                    fill_choices(pre, first, [aux])

        share(choose, self._cuts)
        found = [finds[first] for first in sorted(finds)]
        if sum(len(find[0]) for find in found) > limit:
            return None
        latents, tokens, bits = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Pairs(offsets_of(counts), latents, tokens, floats(bits))

    def largest(self, chosen: Sequence[ActivePairs]) -> None:
        """Fill the choices with the largest of each token, or of the first tokens."""

        def choose(first: int, last: int) -> None:
            with self._room() as room:
                fill_choices(self._product(first, last, room), first, chosen)

        share(choose, self._cuts)

    def guess(self, k: int) -> float:
        """About the n * k-th largest pre-activation, from the first block alone; 0 if fewer are
        positive."""
        with self._room() as room:
            pre = self._product(0, self._block, room)
            bits = pre.view(torch.int16).numpy().ravel()
            return _kth(bits[bits >= SMALLEST], k * len(pre))

    def _product(self, first: int, last: int, room: _Room) -> Tensor:
        pre = room.pre[: last - first]
        return torch.mm(self.low[first:last], self.shadow.T, out=pre)

    @contextmanager
    def _room(self) -> Iterator[_Room]:
        try:
            room = self._free.get_nowait()
        except Empty:  # at most once per thread
            room = _Room(self._block, len(self.shadow))
        yield room
        self._free.put(room)


class _Room:
    """What one thread works in. Places and values are as wide as all latents, but memory that no
    find is written to is never touched."""

    def __init__(self, tokens: int, d_sae: int) -> None:
        self.pre = torch.empty(tokens, d_sae, dtype=torch.bfloat16)
        self.places = np.empty((tokens, d_sae), np.int32)
        self.values = np.empty((tokens, d_sae), np.int16)


def with_bias(shadow: Tensor, bias: Tensor) -> None:
    """Write float32 ``bias`` [d_sae] to the last two columns of shadow, bfloat16 [d_sae, d_in + 2].

    The second holds what bfloat16 rounds off the first. Added by the product itself, to inputs
    that end in two ones, a bias costs no pass over the product.
    """
    shadow[:, -2] = bias
    shadow[:, -1] = bias - shadow[:, -2].float()


def pairs_of(chosen: ActivePairs) -> Pairs:
    """A choice's pairs as a list."""
    fires = np.arange(chosen.latents.shape[1]) < chosen.counts[:, None]
    tokens = np.repeat(np.arange(len(fires), dtype=np.int32), chosen.counts)
    return Pairs(offsets_of(chosen.counts), chosen.latents[fires], tokens, chosen.values[fires])


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
