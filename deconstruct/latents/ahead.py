"""Tokens encoded in order, on a card ahead of whoever puts their firings in order on the CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconstruct.activations.lane import CudaMark, Mark, pinned

if TYPE_CHECKING:
    from deconstruct.activations.reader import Block
    from deconstruct.sae.autoencoder import Sparse, SparseAutoencoder

CPU_ROWS, CARD_ROWS = 4096, 16_384
"""Tokens encoded at a time: firings of so many are in memory; of a row group of a shard on a card,
which takes as many of them at once as it has memory for (`deconstruct.sae.engines.encoding`)."""
IN_FLIGHT = 2
"""Parts that are on the card, or waiting for it, while the caller has another."""


@dataclass(frozen=True)
class Part:
    """Some rows of a block."""

    block: Block
    rows: slice

    def column(self, name: str) -> NDArray[np.unsignedinteger]:
        """One of the columns that say where rows come from: [n]."""
        whole: NDArray[np.unsignedinteger] = getattr(self.block, name)
        return whole[self.rows]

    @property
    def activation(self) -> Tensor:
        """[n, d_in]."""
        return self.block.activation[self.rows]


@dataclass(frozen=True)
class _Coming:
    """Firings on their way to the CPU. copied: when they are there."""

    sparse: Sparse
    copied: Mark

    def wait(self) -> Sparse:
        self.copied.wait()
        return self.sparse


def encoded(sae: SparseAutoencoder, blocks: Iterable[Block]) -> Iterator[tuple[Part, Sparse]]:
    """The rows of each block in order, some at a time, and what fires on them, on the CPU."""
    if sae.W_dec.device.type != "cpu":
        yield from on_card(sae, blocks)
        return
    for part in _parts(blocks, CPU_ROWS):
        yield part, _on_cpu(sae, part.activation)


def on_card(sae: SparseAutoencoder, blocks: Iterable[Block]) -> Iterator[tuple[Part, Sparse]]:
    """The same by a thread that has the card encode the next parts meanwhile. Of them only the
    pairs are copied back, into pinned memory and without waiting. What it raises is raised here.
    """
    with ThreadPoolExecutor(1, "card") as card:
        waiting: deque[tuple[Part, Future[_Coming]]] = deque()
        try:
            for part in _parts(blocks, CARD_ROWS):
                waiting.append((part, card.submit(_encode, sae, part.activation)))
                if len(waiting) > IN_FLIGHT:
                    first, coming = waiting.popleft()
                    yield first, coming.result().wait()
            while waiting:
                first, coming = waiting.popleft()
                yield first, coming.result().wait()
        finally:
            card.shutdown(cancel_futures=True)


def _parts(blocks: Iterable[Block], rows: int) -> Iterator[Part]:
    for block in blocks:
        for first in range(0, len(block), rows):
            yield Part(block, slice(first, min(first + rows, len(block))))


@torch.no_grad()
def _on_cpu(sae: SparseAutoencoder, x: Tensor) -> Sparse:
    return sae.encode_sparse(x)


@torch.no_grad()
def _encode(sae: SparseAutoencoder, x: Tensor) -> _Coming:
    """On the card's thread."""
    from deconstruct.sae.autoencoder import Sparse

    device = sae.W_dec.device
    found = sae.encode_sparse(x.to(device))
    pairs = (found.offsets, found.latents, found.activations)
    if device.type != "cuda":
        return _Coming(Sparse(*(tensor.cpu() for tensor in pairs)), Mark())
    with torch.cuda.device(device):
        host = [pinned(tensor.nbytes).view(tensor.dtype) for tensor in pairs]
        for into, tensor in zip(host, pairs, strict=True):
            into.copy_(tensor, non_blocking=True)
        return _Coming(Sparse(*host), CudaMark(torch.cuda.current_stream(device)))
