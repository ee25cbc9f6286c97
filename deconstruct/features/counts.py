"""How often each latent fires, how strongly, and on what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deconstruct.features.geometry import Geometry
from deconstruct.features.tables import FEATURES

Firings = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]
"""Latents, ids of tokens, activations: [n] each, n at least 1."""


class FeatureCounts:
    """Counts of every latent's firings, gathered from runs of latents; memory [d_sae]."""

    def __init__(self, d_sae: int) -> None:
        self.n_fires = np.zeros(d_sae, np.uint64)
        self.n_documents = np.zeros(d_sae, np.uint32)
        self.total = np.zeros(d_sae, np.float64)
        self.max = np.zeros(d_sae, np.float32)
        self.top_token = np.full(d_sae, -1, np.int64)
        self.top_token_fires = np.zeros(d_sae, np.uint64)

    def add(self, firings: Iterable[Firings]) -> None:
        """All firings of some latents, some at a time; sums are taken in their order."""
        pairs, fires = np.empty(0, np.uint64), np.empty(0, np.int64)
        for latent, token_id, activation in firings:
            first, end = int(latent.min()), int(latent.max()) + 1
            place = latent - np.uint32(first)
            self.n_fires[first:end] += np.bincount(place, minlength=end - first).astype(np.uint64)
            np.add.at(self.total, latent, activation.astype(np.float64))
            np.maximum.at(self.max, latent, activation)
            found, times = np.unique(
                latent.astype(np.uint64) << np.uint64(32) | token_id, return_counts=True
            )
            pairs, where = np.unique(np.concatenate([pairs, found]), return_inverse=True)
            fires = np.bincount(where, np.concatenate([fires, times])).astype(np.int64)
        of = (pairs >> np.uint64(32)).astype(np.int64)
        # Most frequent token first, of equally frequent ones the smallest id.
        order = np.lexsort((pairs, -fires, of))
        top = order[np.unique(of[order], return_index=True)[1]]
        self.top_token[of[top]] = (pairs[top] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        self.top_token_fires[of[top]] = fires[top]

    def add_documents(self, latent: NDArray[np.uint32]) -> None:
        """Latents that fire in some documents: [n], each as often as it has documents."""
        self.n_documents += np.bincount(latent, minlength=len(self.n_documents)).astype(np.uint32)

    def table(self, geometry: Geometry, tokens: int, strings: Mapping[int, str]) -> pa.Table:
        """``features.parquet``: a row per latent. tokens: all recorded. strings: by token id.

        Of a latent that never fires, means and shares are null, and so is its token.
        """
        fires = self.n_fires.astype(np.float64)
        alive = fires > 0
        some = np.where(alive, fires, 1)
        columns: list[Any] = [
            np.arange(len(fires), dtype=np.uint32),
            self.n_fires,
            fires / max(tokens, 1),
            self.n_documents,
            pa.array((self.total / some).astype(np.float32), mask=~alive),
            pa.array(self.max, mask=~alive),
            [strings.get(int(i)) if i >= 0 else None for i in self.top_token],
            pa.array((self.top_token_fires / some).astype(np.float32), mask=~alive),
            ~alive,
            geometry.decoder_norm,
            geometry.encoder_decoder_cosine,
            geometry.nearest_latent,
            geometry.nearest_cosine,
        ]
        return FEATURES.of(*columns)
