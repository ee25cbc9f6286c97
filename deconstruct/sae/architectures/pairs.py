"""Active (token, latent) pairs of a batch, as lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        return Pairs(offsets_of(counts), self.latents[keep], tokens, self.pre[keep])


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


def offsets_of(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
