"""What is known of each latent as a feature: how often, how strongly, on what it fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

FEATURES = pa.schema(
    {
        "latent": pa.uint32(),
        "n_fires": pa.uint64(),
        "density": pa.float64(),
        "n_documents": pa.uint32(),
        "mean_activation": pa.float32(),
        "max_activation": pa.float32(),
        "top_token": pa.string(),
        "top_token_share": pa.float32(),
        "dead": pa.bool_(),
        "decoder_norm": pa.float32(),
        "encoder_decoder_cosine": pa.float32(),
        "nearest_latent": pa.uint32(),
        "nearest_cosine": pa.float32(),
    }
)

DIRECTIONS = pa.schema({"latent": pa.uint32(), "decoder": pa.list_(pa.float32())})

BLOCK_COSINES = 1 << 24
"""Cosines that are in memory at a time: 64 MiB of them."""


class FeatureCounts:
    """Counts of every latent's firings, gathered from runs of latents; memory [d_sae]."""

    def __init__(self, d_sae: int) -> None:
        self.n_fires = np.zeros(d_sae, np.uint64)
        self.n_documents = np.zeros(d_sae, np.uint32)
        self.total = np.zeros(d_sae, np.float64)
        self.max = np.zeros(d_sae, np.float32)
        self.top_token = np.full(d_sae, -1, np.int64)
        self.top_token_fires = np.zeros(d_sae, np.uint64)

    def add(
        self,
        latent: NDArray[np.uint32],
        token_id: NDArray[np.uint32],
        activation: NDArray[np.float32],
    ) -> None:
        """All firings of some latents, in any order; every array is [n]."""
        if len(latent) == 0:
            return
        first, end = int(latent.min()), int(latent.max()) + 1
        own = slice(first, end)
        place = latent - np.uint32(first)
        self.n_fires[own] += np.bincount(place, minlength=end - first).astype(np.uint64)
        self.total[own] += np.bincount(place, activation, minlength=end - first)
        np.maximum.at(self.max, latent, activation)
        pairs, fires = np.unique(
            latent.astype(np.uint64) << np.uint64(32) | token_id, return_counts=True
        )
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
        """``features.parquet``: a row a latent. tokens: all recorded. strings: by token id.

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
        arrays = [pa.array(c, f.type) for c, f in zip(columns, FEATURES, strict=True)]
        return pa.Table.from_arrays(arrays, schema=FEATURES)


def directions(W_dec: Tensor) -> pa.Table:
    """``directions.parquet``: a row a latent. W_dec: [d_sae, d_in], written as it is."""
    rows = W_dec.detach().float().cpu().numpy()
    ends = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    decoder = pa.ListArray.from_arrays(pa.array(ends), pa.array(rows.reshape(-1)))
    return pa.Table.from_arrays([np.arange(len(rows), dtype=np.uint32), decoder], schema=DIRECTIONS)


@dataclass(frozen=True)
class Geometry:
    """Where the latents' directions lie; every array is [d_sae].

    decoder_norm, encoder_decoder_cosine: float32. nearest_latent: uint32, the other latent whose
    decoder row has the largest cosine with this one's; nearest_cosine: float32.
    """

    decoder_norm: NDArray[np.float32]
    encoder_decoder_cosine: NDArray[np.float32]
    nearest_latent: NDArray[np.uint32]
    nearest_cosine: NDArray[np.float32]

    @classmethod
    def of(cls, W_enc: Tensor, W_dec: Tensor) -> Geometry:
        """W_enc: [d_in, d_sae]. W_dec: [d_sae, d_out]. Cosines come block by block.

        A row of zeros has the cosine 0 with every other. A transcoder's encoder and decoder lie
        in the spaces of two sites; their cosine is 0 where those differ in width.
        """
        decoder = W_dec.detach().float()
        encoder = W_enc.detach().float().T
        norm = decoder.norm(dim=1)
        unit = torch.nn.functional.normalize(decoder, dim=1)
        aligned = torch.zeros(len(unit), device=unit.device)
        if encoder.shape == unit.shape:
            aligned = (torch.nn.functional.normalize(encoder, dim=1) * unit).sum(1)
        d_sae = len(unit)
        step = max(1, BLOCK_COSINES // d_sae)
        nearest = torch.empty(d_sae, dtype=torch.int64, device=unit.device)
        cosine = torch.empty(d_sae, device=unit.device)
        for start in range(0, d_sae, step):
            block = unit[start : start + step] @ unit.T
            rows = torch.arange(len(block), device=unit.device)
            block[rows, rows + start] = -torch.inf
            cosine[start : start + step], nearest[start : start + step] = block.max(1)
        return cls(
            norm.cpu().numpy(),
            aligned.cpu().numpy(),
            nearest.cpu().numpy().astype(np.uint32),
            cosine.clamp(-1, 1).cpu().numpy(),
        )
